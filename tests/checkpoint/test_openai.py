"""OpenAI's folders: read from what TensorFlow wrote, written byte for byte as TensorFlow writes, and distrusted."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gpt2 import checkpoint
from gpt2.checkpoint import protobuf, tensor_bundle
from gpt2.checkpoint.crc32c import crc32c, masked
from gpt2.checkpoint.tensor_bundle import BundleArray, read_bundle, write_bundle
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, MismatchError
from gpt2.tokenizer import Tokenizer

from .conftest import MUTATIONS, TINY, random_arrays, read_mutated, small_tokenizer

INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A copy of a checkpoint that TensorFlow wrote."""
    if "GPT2_DATA" not in os.environ:
        pytest.skip("GPT2_DATA is not set: the checkpoint written by TensorFlow is not here")
    source = Path(os.environ["GPT2_DATA"]) / "tf_toy_checkpoint"
    (tmp_path / "theirs").mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, tmp_path / "theirs" / file.name)
    return tmp_path / "theirs"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=260)
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(tmp_path / "ours", weights, small_tokenizer(), format="openai", form="fp32")
    return tmp_path / "ours"


def test_what_tensorflow_wrote_is_read(theirs: Path) -> None:
    found = checkpoint.read(theirs)
    assert (found.format, found.notes) == ("openai", ())
    assert found.config == ModelConfig(n_layer=3, n_head=5, n_embd=15, n_positions=20, vocab_size=356)
    raw = (theirs / DATA).read_bytes()
    # The place of this square matrix was read off the index by hand.
    c_proj = np.frombuffer(raw, "<f4", 15 * 15, 2940).reshape(15, 15)
    assert not np.array_equal(c_proj, c_proj.T)
    np.testing.assert_array_equal(found.weights.float32("h.0.attn.c_proj.w"), c_proj)


def test_what_tensorflow_wrote_is_written_the_same_to_the_byte(theirs: Path, tmp_path: Path) -> None:
    arrays = read_bundle(theirs / "model.ckpt")
    write_bundle(tmp_path / "again" / "model.ckpt", {k: BundleArray(v.shape, [v.data]) for k, v in arrays.items()})
    for name in (INDEX, DATA):
        assert (tmp_path / "again" / name).read_bytes() == (theirs / name).read_bytes()
    found = checkpoint.read(theirs)
    checkpoint.write(tmp_path / "whole", found.weights, None, format="openai", form="fp32")
    for name in (INDEX, DATA, "checkpoint"):
        assert (tmp_path / "whole" / name).read_bytes() == (theirs / name).read_bytes()
    assert json.loads((tmp_path / "whole" / "hparams.json").read_bytes()) == json.loads(
        (theirs / "hparams.json").read_bytes()
    )


def test_made_a_hugging_face_folder_it_gives_their_arithmetic(theirs: Path, tmp_path: Path) -> None:
    """OpenAI's attention output is x @ w (src/model.py, conv1d); transformers does the same with what we convert."""
    transformers = pytest.importorskip("transformers")
    import torch

    found = checkpoint.read(theirs)
    checkpoint.write(tmp_path / "hf", found.weights, None, format="hf", form="fp32")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    raw = read_bundle(theirs / "model.ckpt")
    x = np.random.default_rng(0).normal(size=(4, 15)).astype(np.float32)
    for name, layer in (("c_proj", model.transformer.h[2].attn.c_proj), ("c_attn", model.transformer.h[2].attn.c_attn)):
        w, b = raw[f"model/h2/attn/{name}/w"].data[0], raw[f"model/h2/attn/{name}/b"].data
        with torch.inference_mode():
            np.testing.assert_allclose(layer(torch.tensor(x)).numpy(), x @ w + b, rtol=1e-4, atol=1e-5)


def test_there_and_back_is_exact_with_the_vocabulary(ours: Path) -> None:
    found = checkpoint.read(ours)
    expected = random_arrays(found.config)
    for name, array in expected.items():
        np.testing.assert_array_equal(found.weights.float32(name), array)
    assert found.tokenizer().hash == small_tokenizer().hash
    assert sorted(file.name for file in ours.iterdir()) == sorted(
        [INDEX, DATA, "checkpoint", "encoder.json", "hparams.json", "vocab.bpe"]
    )
    assert checkpoint.read(ours / INDEX).config == found.config


def test_the_published_vocabulary_gets_the_published_bytes(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=2, n_positions=4)
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(tmp_path / "m", weights, Tokenizer.published(), format="openai", form="fp32")
    Tokenizer.published().save(tmp_path)
    assert (tmp_path / "m" / "encoder.json").read_bytes() == (tmp_path / "vocab.json").read_bytes()
    assert (tmp_path / "m" / "vocab.bpe").read_bytes() == (tmp_path / "merges.txt").read_bytes()


def test_half_precision_is_widened_without_a_change(tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in random_arrays(TINY).items()}
    checkpoint.write(tmp_path / "m", Weights.from_arrays(TINY, halves), None, format="openai", form="fp32")
    weights = checkpoint.read(tmp_path / "m").weights
    for name, array in halves.items():
        np.testing.assert_array_equal(weights.float32(name), array.astype(np.float32))


def test_what_their_code_has_no_setting_for_is_refused(tmp_path: Path) -> None:
    for change in ({"n_inner": 20}, {"layer_norm_epsilon": 1e-6}):
        config = ModelConfig(n_layer=1, n_head=1, n_embd=2, n_positions=4, vocab_size=9, **change)
        weights = Weights.from_arrays(config, random_arrays(config))
        with pytest.raises(MismatchError, match="cannot be written for OpenAI's code"):
            checkpoint.write(tmp_path / "m", weights, None, format="openai", form="fp32")
    with pytest.raises(CheckpointError, match="cannot be written as 'openai' in 'bf16'"):
        checkpoint.write(
            tmp_path / "m", Weights.from_arrays(TINY, random_arrays(TINY)), None, format="openai", form="bf16"
        )
    assert not (tmp_path / "m").exists()


def rewrite(folder: Path, more: Any = lambda arrays: {}) -> None:
    arrays = {name: BundleArray(a.shape, [a.data.copy()]) for name, a in read_bundle(folder / "model.ckpt").items()}
    write_bundle(folder / "model.ckpt", arrays | more(arrays))


def test_an_optimizers_state_is_left_out_and_said(ours: Path) -> None:
    adam = BundleArray((2,), [np.zeros(2, np.float32)])
    rewrite(ours, lambda arrays: {"model/wte/Adam": adam, "model/wte/Adam_1": adam, "beta1_power": adam})
    found = checkpoint.read(ours)
    assert found.notes == ("3 arrays left out that are an optimizer's state or a counter",)


def test_an_array_gpt2_has_not_is_refused(ours: Path) -> None:
    rewrite(ours, lambda arrays: {"model/head/w": BundleArray((2,), [np.zeros(2, np.float32)])})
    with pytest.raises(MismatchError, match=r"has no place for: head\.w"):
        checkpoint.read(ours)


def test_another_checkpoint_than_model_ckpt_is_found_by_its_state(ours: Path) -> None:
    for name in (INDEX, DATA):
        (ours / name).rename(ours / name.replace("model.ckpt", "model-100"))
    (ours / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model-100"\n', encoding="utf-8")
    assert checkpoint.read(ours).config.n_embd == 8
    config = checkpoint.read(ours).config
    newer = Weights.from_arrays(config, {name: array + 1 for name, array in random_arrays(config).items()})
    checkpoint.write(ours.parent / "newer", newer, None, format="openai", form="fp32")
    for name in (INDEX, DATA):
        shutil.copyfile(ours.parent / "newer" / name, ours / name.replace("model.ckpt", "model-200"))
    older = checkpoint.read(ours).weights.float32("wte")
    named = checkpoint.read(ours / INDEX.replace("model.ckpt", "model-200")).weights.float32("wte")
    np.testing.assert_array_equal(named, newer.float32("wte"))
    assert not np.array_equal(named, older)
    (ours / "checkpoint").write_text('model_checkpoint_path: "../../model-7"\n', encoding="utf-8")
    with pytest.raises(FormatError, match="names no checkpoint of this folder"):
        checkpoint.read(ours)


def test_without_a_state_model_ckpt_is_read(ours: Path) -> None:
    (ours / "checkpoint").unlink()
    assert checkpoint.read(ours).config.n_embd == 8


@pytest.mark.parametrize("name", [INDEX, DATA, "hparams.json"])
def test_a_link_out_of_the_folder_is_refused(ours: Path, tmp_path: Path, name: str) -> None:
    (ours / name).rename(tmp_path / name)
    (ours / name).symlink_to(tmp_path / name)
    with pytest.raises(FormatError, match="a link that leads out of its folder"):
        checkpoint.read(ours)


def test_damage_anywhere_in_the_data_is_found(ours: Path) -> None:
    content = (ours / DATA).read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        spoilt = bytearray(content)
        spoilt[position] ^= 1
        (ours / DATA).write_bytes(spoilt)
        with pytest.raises(FormatError, match="another checksum"):
            checkpoint.read(ours)
    (ours / DATA).write_bytes(content[:-1])
    with pytest.raises(FormatError, match="is truncated"):
        checkpoint.read(ours)
    (ours / DATA).unlink()
    with pytest.raises(FormatError, match="not complete"):
        checkpoint.read(ours)


def test_damage_anywhere_in_the_index_is_found(ours: Path) -> None:
    content = (ours / INDEX).read_bytes()
    expected = checkpoint.read(ours).weights.names
    for position in [*range(0, len(content), 11), *range(len(content) - 60, len(content))]:
        spoilt = bytearray(content)
        spoilt[position] ^= 4
        (ours / INDEX).write_bytes(spoilt)
        try:  # a few bytes mean nothing: the place of the empty statistics, the padding of the footer
            assert checkpoint.read(ours).weights.names == expected
            assert len(content) - 48 - 13 - 20 <= position < len(content) - 8
        except FormatError:
            pass


def spoilt_index(ours: Path, key: str, value: bytes) -> None:
    """An index whose checksums are right and whose entry for one array is ours."""
    path = ours / INDEX
    data = path.read_bytes()
    size = tensor_bundle._Cursor(data[-48:], path)
    size.varint(), size.varint()
    begin, length = size.varint(), size.varint()
    ((_, handle),) = tensor_bundle._block(data, begin, length, path)
    place = tensor_bundle._Cursor(handle, path)
    entries = dict(tensor_bundle._block(data, place.varint(), place.varint(), path))
    entries[key.encode()] = value
    path.write_bytes(tensor_bundle._table(entries))


HOSTILE = {
    "a shape of 10^9 values": (lambda e: e((10**9,), 1 << 20, 4 * 10**9, 0), "is truncated"),
    "a shape that is not its size": (lambda e: e((10**9,), 0, 64, 0), "needs 4,000,000,000 bytes by its shape"),
    "bytes of another array": (lambda e: e((4,), 4, 16, 0), "overlaps another"),
    "an offset beyond all files": (lambda e: e((1,), 1 << 60, 4, 0), "where a size was to come"),
    "nothing in it": (lambda e: e((0,), 0, 0, 0), "has 0"),
    "too many axes": (lambda e: e((1,) * 9, 0, 4, 0), "9 axes"),
    "another shard": (lambda e: e((1,), 0, 4, 0) + b"\x18\x01", "another data file"),
    "slices": (lambda e: e((1,), 0, 4, 0) + b"\x3a\x00", "in slices"),
    "a message cut off": (lambda e: e((1,), 0, 4, 0)[:-1], "were to come"),
    "a number without end": (lambda e: b"\x08" + b"\xff" * 12, "has no end"),
    "no wire type": (lambda e: b"\x0f", "no wire type"),
    "a number for a message": (lambda e: b"\x08\x01\x10\x05", "where a message was to come"),
}


def test_a_name_that_would_fill_the_memory_when_many_repeat_it_is_refused(ours: Path) -> None:
    spoilt_index(ours, "model/" + "w" * 1000, tensor_bundle._entry_bytes((1,), 0, 4, 0))
    with pytest.raises(FormatError, match="a name has 1,006 bytes"):
        checkpoint.read(ours)


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_entries_are_refused(ours: Path, fault: str) -> None:
    make, message = HOSTILE[fault]
    spoilt_index(ours, "model/wte", make(tensor_bundle._entry_bytes))
    with pytest.raises(FormatError, match=message):
        checkpoint.read(ours)


def test_a_block_named_again_and_again_is_refused(ours: Path) -> None:
    block = tensor_bundle._block_bytes({})
    again = {bytes([i]): protobuf.varint(0) + protobuf.varint(len(block) - 5) for i in range(1, 9)}
    index = tensor_bundle._block_bytes(again)
    place = b"".join(protobuf.varint(n) for n in (0, len(block) - 5, len(block), len(index) - 5))
    footer = place.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (ours / INDEX).write_bytes(block + index + footer)
    with pytest.raises(FormatError, match="out of order"):
        checkpoint.read(ours)


def test_compression_is_named(ours: Path) -> None:
    data = bytearray((ours / INDEX).read_bytes())
    cursor = tensor_bundle._Cursor(bytes(data[-48:]), ours)
    end = cursor.varint()  # the first block ends where the statistics begin, but for its trailer
    data[end - 5] = 1
    data[end - 4 : end] = struct.pack("<I", masked(crc32c(bytes(data[: end - 4]))))
    (ours / INDEX).write_bytes(data)
    with pytest.raises(FormatError, match="is compressed"):
        checkpoint.read(ours)


def test_hparams_are_distrusted(ours: Path) -> None:
    hparams = json.loads((ours / "hparams.json").read_bytes())
    for change, message in (
        ({"n_layer": 1 << 24}, "too few for its 16,777,216 layers"),
        ({"n_head": 3}, "multiple of n_head"),
        ({"n_head": "2"}, "must be a whole number"),
        ({"n_embd": 10}, "must have shape"),
    ):
        (ours / "hparams.json").write_text(json.dumps(hparams | change), encoding="utf-8")
        with pytest.raises(CheckpointError, match=message):
            checkpoint.read(ours)
    del hparams["n_ctx"]
    (ours / "hparams.json").write_text(json.dumps(hparams), encoding="utf-8")
    with pytest.raises(FormatError, match="does not say n_ctx"):
        checkpoint.read(ours)
    (ours / "hparams.json").unlink()
    with pytest.raises(FormatError, match=r"no hparams\.json"):
        checkpoint.read(ours)


@given(**MUTATIONS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spoilt_indexes_are_errors_of_ours(ours: Path, changes: Any, length: float) -> None:
    if not (ours / "sound").exists():
        shutil.copyfile(ours / INDEX, ours / "sound")
    read_mutated(ours / INDEX, (ours / "sound").read_bytes(), changes, length)


@given(**MUTATIONS)
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_spoilt_entries_with_right_checksums_are_errors_of_ours(ours: Path, changes: Any, length: float) -> None:
    if not (ours / "sound").exists():
        shutil.copyfile(ours / INDEX, ours / "sound")
    shutil.copyfile(ours / "sound", ours / INDEX)
    entry = bytearray(tensor_bundle._entry_bytes((260, 8), 0, 260 * 8 * 4, 0)[: max(1, int(40 * length))])
    for where, value in changes:
        entry[int(where * (len(entry) - 1))] = value
    spoilt_index(ours, "model/wte", bytes(entry))
    with pytest.raises(CheckpointError):  # at the least its checksum is another
        checkpoint.read(ours)
