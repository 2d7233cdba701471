"""Reading Hugging Face folders in all their variants, and refusing what is not GPT-2 or not sound."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2 import checkpoint
from gpt2.checkpoint import StoredArray, read_metadata, read_safetensors
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, Gpt2Error, MismatchError
from gpt2.tokenizer import Tokenizer

from .conftest import random_arrays


def assert_holds(folder: Path, arrays: Any) -> None:
    weights = checkpoint.read(folder).weights
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights.float32(name), array)


def test_a_sound_folder(folder: Path, tiny: Any) -> None:
    found = checkpoint.read(folder)
    assert found.config == tiny[0]
    assert (found.path, found.format, found.notes) == (folder, "hf", ())
    assert_holds(folder, tiny[1])
    assert_holds(folder / "model.safetensors", tiny[1])


def test_names_without_prefix(folder: Path, tiny: Any, rewrite: Any) -> None:
    rewrite(folder, lambda arrays: {name.removeprefix("transformer."): a for name, a in arrays.items()})
    assert_holds(folder, tiny[1])


@pytest.mark.parametrize("wrapper", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_names_with_a_wrapper_s_prefix(folder: Path, tiny: Any, rewrite: Any, wrapper: str) -> None:
    rewrite(folder, lambda arrays: {wrapper + name: a for name, a in arrays.items()})
    assert checkpoint.read(folder).notes[0].startswith(f"names freed of {wrapper.split('.')[0]}., which ")
    assert_holds(folder, tiny[1])


def test_one_array_under_two_names_is_refused(folder: Path, rewrite: Any) -> None:
    rewrite(folder, lambda arrays: arrays | {"module.ln_f.bias": arrays["transformer.ln_f.bias"]})
    with pytest.raises(FormatError, match=r"'(module|transformer)\.ln_f\.bias' is there under another name too"):
        checkpoint.read(folder)


def test_float64_is_rounded_and_said(folder: Path, tiny: Any, rewrite: Any) -> None:
    rewrite(
        folder,
        lambda arrays: {n: StoredArray(data=a.data.astype(np.float64), dtype="F64") for n, a in arrays.items()},
    )
    found = checkpoint.read(folder)
    assert (found.weights.form, found.notes) == ("fp32", ("float64 rounded to float32",))
    assert_holds(folder, tiny[1])


def test_float64_beyond_float32_is_not_turned_into_infinity(folder: Path, rewrite: Any) -> None:
    huge = StoredArray(data=np.array([1e300, np.inf, np.nan, 0, 0, 0, 0, 0]), dtype="F64")
    rewrite(folder, lambda arrays: arrays | {"transformer.ln_f.bias": huge})
    with pytest.raises(MismatchError, match=r"they hold 1e\+300 in float64, and float32 ends at 3\.403e\+38"):
        checkpoint.read(folder).weights.float32("ln_f.b")
    fine = StoredArray(data=np.array([np.inf, -np.inf, np.nan, 0, 0, 0, 0, 1]), dtype="F64")
    rewrite(folder, lambda arrays: arrays | {"transformer.ln_f.bias": fine})
    np.testing.assert_array_equal(checkpoint.read(folder).weights.float32("ln_f.b"), fine.data.astype(np.float32))


def test_a_tied_head_may_be_the_only_name_of_the_embedding(folder: Path, tiny: Any, rewrite: Any) -> None:
    """So safetensors.torch.save_model stores a model whose arrays share memory."""
    rewrite(folder, lambda arrays: arrays | {"lm_head.weight": arrays.pop("transformer.wte.weight")})
    assert "lm_head.weight taken for wte" in checkpoint.read(folder).notes[0]
    assert_holds(folder, tiny[1])


def test_a_redundant_head_is_left_out(folder: Path, tiny: Any, rewrite: Any) -> None:
    rewrite(folder, lambda arrays: arrays | {"lm_head.weight": arrays["transformer.wte.weight"]})
    assert "lm_head.weight left out" in checkpoint.read(folder).notes[0]
    assert_holds(folder, tiny[1])


def test_a_head_of_its_own_is_refused(folder: Path, rewrite: Any) -> None:
    def untie(arrays: dict[str, StoredArray]) -> dict[str, StoredArray]:
        head = arrays["transformer.wte.weight"].data.copy()
        head[-1, -1] += 1e-6
        return arrays | {"lm_head.weight": StoredArray(data=head, dtype="F32")}

    rewrite(folder, untie)
    with pytest.raises(MismatchError, match=r"lm_head\.weight that differs from wte"):
        checkpoint.read(folder)


def test_an_int8_head_or_one_of_no_axes_is_refused(tmp_path: Path, tiny: Any) -> None:
    config, arrays = tiny
    for form, head in (("int8", "as wte, with other scales"), ("fp32", "a number")):
        checkpoint.write_folder(tmp_path / form, arrays, config, None, form=form)
        [file] = (tmp_path / form).glob("*.safetensors")
        stored = {name: StoredArray(data=a.data.copy(), dtype=a.dtype) for name, a in read_safetensors(file).items()}
        if head == "a number":
            number = StoredArray(data=np.array(1, np.float32), dtype="F32")
            stored |= {"transformer.wte.weight": number, "lm_head.weight": number}
        else:
            scale = StoredArray(data=2 * stored["transformer.wte.weight.scale"].data, dtype="F32")
            stored |= {"lm_head.weight": stored["transformer.wte.weight"], "lm_head.weight.scale": scale}
        checkpoint.write_safetensors(file, stored, metadata=read_metadata(file))
        with pytest.raises(MismatchError):
            checkpoint.read(tmp_path / form)


def test_masks_of_old_releases_are_left_out(folder: Path, tiny: Any, rewrite: Any) -> None:
    mask = StoredArray(data=np.tril(np.ones((1, 1, 16, 16), np.float32)), dtype="F32")
    low = StoredArray(data=np.array(-1e4, np.float32), dtype="F32")
    masks = {f"transformer.h.{i}.attn.{kind}": a for i in (0, 1) for kind, a in [("bias", mask), ("masked_bias", low)]}
    rewrite(folder, lambda arrays: arrays | masks)
    assert "attention masks left out (4 of" in checkpoint.read(folder).notes[0]
    assert_holds(folder, tiny[1])


def test_other_arrays_are_not_left_out(folder: Path, rewrite: Any) -> None:
    extra = StoredArray(data=np.ones(8, np.float32), dtype="F32")
    rewrite(folder, lambda arrays: arrays | {"transformer.h.0.crossattention.bias": extra})
    with pytest.raises(MismatchError, match=r"no place for: h\.0\.crossattention\.bias"):
        checkpoint.read(folder)


@pytest.mark.parametrize("form", ["fp16", "bf16"])
def test_halves_are_read_as_they_are(tmp_path: Path, tiny: Any, form: str) -> None:
    config, arrays = tiny
    checkpoint.write_folder(tmp_path / form, arrays, config, None, form=form)
    weights = checkpoint.read(tmp_path / form).weights
    assert weights.form == form
    step = 2.0**-11 if form == "fp16" else 2.0**-8
    for name, array in arrays.items():
        np.testing.assert_allclose(weights.float32(name), array, rtol=step, atol=1e-7)


# --- the vocabulary


def padded(folder: Path, rewrite: Any, rows: int, **config: Any) -> None:
    def pad(arrays: dict[str, StoredArray]) -> dict[str, StoredArray]:
        wte = arrays["transformer.wte.weight"].data
        zeros = np.zeros((rows - wte.shape[0], wte.shape[1]), np.float32)
        return arrays | {"transformer.wte.weight": StoredArray(data=np.concatenate([wte, zeros]), dtype="F32")}

    rewrite(folder, pad, **config)


def test_rows_beyond_the_vocabulary_are_cut(folder: Path, tiny: Any, rewrite: Any) -> None:
    padded(folder, rewrite, 128)
    assert checkpoint.read(folder).notes == ("vocabulary cut from 128 rows to the 100 that are tokens",)
    assert_holds(folder, tiny[1])


def test_a_vocabulary_that_the_configuration_rounds_up_is_cut(tmp_path: Path, caplog: Any) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8, vocab_size=50304)
    checkpoint.write_folder(tmp_path / "m", random_arrays(config), config, None)
    with caplog.at_level("DEBUG", "gpt2"):
        assert checkpoint.read(tmp_path / "m").config.vocab_size == 50257
    assert "vocabulary cut from 50,304 rows to the 50,257" in caplog.text
    Tokenizer.published().save(tmp_path / "m")
    assert checkpoint.read(tmp_path / "m").config.vocab_size == 50257


@pytest.mark.parametrize(
    ("vocab_size", "said"),
    [
        (50258, "has no vocabulary"),
        (50432, "has no vocabulary"),
        (256, "has no vocabulary"),
        (255, "seems to be a model of characters"),
    ],
)
def test_other_sizes_are_the_models_own(tmp_path: Path, vocab_size: int, said: str) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8, vocab_size=vocab_size)
    checkpoint.write_folder(tmp_path / "m", random_arrays(config), config, None)
    found = checkpoint.read(tmp_path / "m")
    assert (found.config, found.notes) == (config, ())
    with pytest.raises(MismatchError, match=said):
        found.tokenizer()


def test_a_padded_head_equals_a_padded_embedding(folder: Path, tiny: Any, rewrite: Any) -> None:
    padded(folder, rewrite, 128)
    rewrite(folder, lambda arrays: arrays | {"lm_head.weight": arrays["transformer.wte.weight"]})
    assert_holds(folder, tiny[1])


def test_the_published_vocabulary_needs_no_files(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8)
    checkpoint.write_folder(tmp_path / "m", random_arrays(config), config, None)
    assert checkpoint.read(tmp_path / "m").tokenizer().encode("Hello world") == [15496, 995]


def test_a_vocabulary_larger_than_the_model_is_refused(folder: Path) -> None:
    Tokenizer.published().save(folder)
    with pytest.raises(MismatchError, match="50,257 ids, the model 100"):
        checkpoint.read(folder).tokenizer()


# --- configurations


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"activation_function": ["gelu_new"]}, "activation_function is"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo'"),
        ({"model_type": None}, "model_type is None"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_gpt2_has_not_is_refused_by_name(folder: Path, rewrite: Any, setting: Any, message: str) -> None:
    rewrite(folder, **setting)
    with pytest.raises(MismatchError, match=f"asks for what GPT-2 has not: {message}"):
        checkpoint.read(folder)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_layer": "2"}, "n_layer must be a whole number: got '2'"),
        ({"n_head": 3}, "n_embd must be a multiple of n_head"),
        ({"n_head": 0}, "n_head must lie between"),
        ({"n_inner": 2.5}, "n_inner must be a whole number"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon must be a number"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon must be a number between"),
        ({"num_attention_heads": 4}, "n_head is 2 and num_attention_heads is 4"),
    ],
)
def test_a_configuration_of_wrong_types_is_refused(folder: Path, rewrite: Any, setting: Any, message: str) -> None:
    rewrite(folder, **setting)
    with pytest.raises(FormatError, match=message):
        checkpoint.read(folder)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_layer": 1}, r"no place for: h\.1\.ln_1\.weight"),
        ({"n_layer": 3}, "too few for the 3 layers"),
        ({"n_layer": 1 << 24}, "too few for the 16,777,216 layers"),
        ({"n_embd": 16}, r"wte must have shape \[100, 16\]"),
        ({"n_positions": 32}, r"wpe must have shape \[32, 8\]"),
        ({"vocab_size": 101}, r"wte must have shape \[101, 8\]"),
        ({"n_inner": 16}, r"h\.0\.mlp\.c_fc\.w must have shape \[8, 16\]"),
    ],
)
def test_a_configuration_of_another_model_is_refused(folder: Path, rewrite: Any, setting: Any, message: str) -> None:
    rewrite(folder, **setting)
    with pytest.raises(MismatchError, match=message):
        checkpoint.read(folder)


def test_other_names_and_defaults_are_those_of_transformers(folder: Path, tiny: Any) -> None:
    config = tiny[0]
    raw = {"model_type": "gpt2", "vocab_size": 100, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(raw | {"max_position_embeddings": 16}), encoding="utf-8")
    assert checkpoint.read(folder).config == config


# --- shards


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The folder with its model in two shards and an index."""
    arrays = checkpoint.read_safetensors(folder / "model.safetensors")
    names = list(arrays)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for shard, held in shards.items():
        checkpoint.write_safetensors(folder / shard, {name: arrays[name] for name in held})
    write_index(folder, {name: shard for shard, held in shards.items() for name in held})
    (folder / "model.safetensors").unlink()
    return folder


def write_index(folder: Path, weight_map: Any) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def read_index(folder: Path) -> Any:
    return json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]


def test_shards_are_read_together(sharded: Path, tiny: Any) -> None:
    assert_holds(sharded, tiny[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../model-00001-of-00002.safetensors", "only names of files in the folder itself"),
        ("/etc/passwd.safetensors", "only names of files in the folder itself"),
        ("..\\x.safetensors", "only names of files in the folder itself"),
        ("C:x.safetensors", "only names of files in the folder itself"),
        ("x\0.safetensors", "only names of files in the folder itself"),
        ("absent.safetensors", "there is no file 'absent.safetensors'"),
        ("config.json", "not a safetensors file"),
        ("", "not a safetensors file"),
    ],
)
def test_shard_names_stay_in_the_folder(sharded: Path, name: str, message: str) -> None:
    index = read_index(sharded)
    shutil.copy(sharded / "model-00001-of-00002.safetensors", sharded.parent)
    write_index(sharded, index | {"transformer.wte.weight": name})
    with pytest.raises(FormatError, match=message):
        checkpoint.read(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, "x"])
def test_an_index_without_a_map_is_refused(sharded: Path, weight_map: Any) -> None:
    write_index(sharded, weight_map)
    with pytest.raises(FormatError, match="no weight_map"):
        checkpoint.read(sharded)


def test_index_and_shards_must_agree(sharded: Path) -> None:
    index = read_index(sharded)
    write_index(sharded, {name: shard for name, shard in index.items() if name != "transformer.wte.weight"})
    with pytest.raises(FormatError, match=r"holds 'transformer\.wte\.weight', and .* does not say so"):
        checkpoint.read(sharded)
    write_index(sharded, index | {"more": index["transformer.wte.weight"]})
    with pytest.raises(FormatError, match="names 'more', which is not in its shard"):
        checkpoint.read(sharded)


# --- links


def test_a_snapshot_in_the_cache_of_hugging_face_is_read(folder: Path, tiny: Any) -> None:
    repository = folder.parent / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(repository / "blobs" / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    assert_holds(snapshot, tiny[1])
    assert_holds(snapshot / "model.safetensors", tiny[1])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_links_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(FormatError, match="is a link that leads out of its folder"):
        checkpoint.read(folder)


def test_a_linked_folder_and_links_within_it_are_read(folder: Path, tiny: Any) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors").symlink_to("other.safetensors")
    (folder.parent / "alias").symlink_to(folder)
    assert_holds(folder.parent / "alias", tiny[1])


# --- what is no model


class Hostile:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "ckpt.pt", "model.pth"])
def test_pickles_are_refused_unopened_with_the_way_on(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Hostile(folder / "mark")))
    for path in (folder, folder / name):
        with pytest.raises(FormatError, match=rf"{name} is a pickle.*Take the same model as safetensors"):
            checkpoint.read(path)
    assert not (folder / "mark").exists()


def test_of_a_training_run_the_newest_model_is_named(tmp_path: Path) -> None:
    for step in (10, 20):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (tmp_path / "latest").write_text("step-00000020")
    with pytest.raises(FormatError, match=r"it is a training run\. Its newest model is .*step-00000020\.$"):
        checkpoint.read(tmp_path)


def test_what_is_not_there_or_no_model_is_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="there is nothing there"):
        checkpoint.read(tmp_path / "absent")
    with pytest.raises(FormatError, match="no model in a format known here"):
        checkpoint.read(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(FormatError, match=r"there is no config\.json"):
        checkpoint.read(folder)


def test_a_damaged_file_is_never_passed_over_for_another(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"damaged")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(folder / "mark")))
    with pytest.raises(FormatError, match="not a whole safetensors file"):
        checkpoint.read(folder)
    assert not (folder / "mark").exists()


@pytest.mark.parametrize(
    "raw", [b"[]", b"{", b"\xff", b'{"n_layer": 1, "n_layer": 2}', b"[" * 100_000, b" " * (2 << 20)]
)
def test_a_broken_configuration_is_refused(folder: Path, raw: bytes) -> None:
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(FormatError):
        checkpoint.read(folder)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_spoilt_folder_is_refused_or_read_soundly(folder: Path, data: st.DataObject) -> None:
    """Bytes changed, cut or added in the configuration and the header; whatever is read has the shapes it claims."""
    sound = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    name = data.draw(st.sampled_from(sorted(sound)))
    spoilt = bytearray(sound[name])
    head = min(len(spoilt), 3000)
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, head - 1), st.integers(0, 255)), max_size=3)):
        spoilt[position] = value
    cut = data.draw(st.just(len(spoilt)) | st.integers(0, len(spoilt)))
    (folder / name).write_bytes(bytes(spoilt[:cut]))
    try:
        weights = checkpoint.read(folder).weights
        for array, shape in checkpoint.shapes(weights.config).items():
            assert weights.float32(array).shape == shape
    except Gpt2Error:
        pass
    finally:
        (folder / name).write_bytes(sound[name])
