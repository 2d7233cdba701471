"""Writing model folders: what is in them, what happens when they cannot be written, and the int8 form."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2 import checkpoint
from gpt2.checkpoint.forms import decode, int8_round, int8_scale
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, MismatchError
from gpt2.tokenizer import Tokenizer

from .conftest import random_arrays


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_files_are_those_of_a_model_folder(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=8, n_positions=32)
    arrays = random_arrays(config)
    checkpoint.write_folder(tmp_path / "m", arrays, config, Tokenizer.published(), form="bf16", card="# Mine\n")
    assert {file.name for file in (tmp_path / "m").iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
    assert json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8")) == {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 32,
        "n_ctx": 32,
        "n_embd": 8,
        "n_layer": 1,
        "n_head": 2,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": "bfloat16",
    }
    generation = json.loads((tmp_path / "m" / "generation_config.json").read_text(encoding="utf-8"))
    assert generation == {"bos_token_id": 50256, "eos_token_id": 50256}
    tokenizer = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["model_max_length"] == 32
    stored = checkpoint.read_safetensors(tmp_path / "m" / "model.safetensors")
    assert stored["transformer.h.0.mlp.c_fc.weight"].shape == (8, 32)  # [in, out]
    assert {array.dtype for array in stored.values()} == {"BF16"}
    assert "lm_head.weight" not in stored
    assert checkpoint.read_metadata(tmp_path / "m" / "model.safetensors") == {"format": "pt"}


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(n_layer=1, n_head=1, n_embd=1, n_positions=1, vocab_size=1),
        ModelConfig(n_layer=3, n_head=5, n_embd=15, n_positions=7, vocab_size=11, n_inner=9, layer_norm_epsilon=1e-6),
        ModelConfig(n_layer=1, n_head=2, n_embd=4, n_positions=3, vocab_size=3, n_inner=4),
    ],
)
@pytest.mark.parametrize("form", checkpoint.FORMS)
def test_every_shape_and_form_comes_back(tmp_path: Path, config: ModelConfig, form: str) -> None:
    arrays = random_arrays(config)
    if form == "int4" and config.n_embd % 2:
        with pytest.raises(MismatchError, match="two share a byte"):
            checkpoint.write_folder(tmp_path / "m", arrays, config, None, form=form)
        return
    checkpoint.write_folder(tmp_path / "m", arrays, config, None, form=form)
    weights = checkpoint.read(tmp_path / "m").weights
    assert weights.config == config
    assert weights.form == form
    step = {"fp32": 0, "fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 1 / 127, "int4": 1 / 4}[form]
    for name, array in arrays.items():
        np.testing.assert_allclose(weights.float32(name), array, rtol=0, atol=step * np.abs(array).max())


class OneByOne(Mapping[str, Any]):
    """Arrays that are made when asked for, as a trainer gathers them."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays, self.asked = arrays, list[str]()

    def __getitem__(self, name: str) -> Any:
        self.asked.append(name)
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def test_arrays_are_asked_for_once_each_in_order(tmp_path: Path, tiny: Any) -> None:
    config, arrays = tiny
    lazy = OneByOne(arrays)
    checkpoint.write_folder(tmp_path / "m", lazy, config, None)
    assert lazy.asked == list(checkpoint.shapes(config))


def test_large_arrays_are_rounded_piece_by_piece_to_the_same_bytes(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, arrays = tiny
    for form in checkpoint.FORMS:
        checkpoint.write_folder(tmp_path / "whole" / form, arrays, config, None, form=form)
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", 100)
    for form in checkpoint.FORMS:
        checkpoint.write_folder(tmp_path / "pieces" / form, arrays, config, None, form=form)
        assert contents(tmp_path / "whole" / form) == contents(tmp_path / "pieces" / form)


@pytest.mark.parametrize("form", checkpoint.FORMS)
def test_writing_what_was_read_changes_nothing(tmp_path: Path, tiny: Any, form: str) -> None:
    config, arrays = tiny
    checkpoint.write_folder(tmp_path / "a", arrays, config, None, form=form)
    checkpoint.write_folder(tmp_path / "b", checkpoint.read(tmp_path / "a").weights, config, None, form=form)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_arrays_that_are_not_the_models_are_refused(tmp_path: Path, tiny: Any) -> None:
    config, arrays = tiny
    less = {name: array for name, array in arrays.items() if name != "ln_f.b"}
    for wrong, message in [
        (less, r"not complete: ln_f\.b missing of 28"),
        (arrays | {"h.7.ln_1.g": arrays["ln_f.g"]}, r"no place for: h\.7\.ln_1\.g"),
        (arrays | {"wpe": arrays["wpe"].T}, r"wpe must have shape \[16, 8\]"),
    ]:
        with pytest.raises(MismatchError, match=message):
            checkpoint.write_folder(tmp_path / "m", wrong, config, None)
    with pytest.raises(CheckpointError, match="'int3': choose one of fp32"):
        checkpoint.write_folder(tmp_path / "m", arrays, config, None, form="int3")
    assert not list(tmp_path.iterdir())


# --- where it is written


def test_a_folder_that_is_there_is_replaced_only_when_asked(folder: Path, tiny: Any) -> None:
    config, arrays = tiny
    before = contents(folder)
    with pytest.raises(CheckpointError, match="is there already"):
        checkpoint.write_folder(folder, arrays, config, None, form="fp16")
    assert contents(folder) == before
    checkpoint.write_folder(folder, arrays, config, None, form="int8", overwrite=True)
    assert set(contents(folder)) == {"README.md", "config.json", "generation_config.json", "model.int8.safetensors"}


@pytest.mark.parametrize("foreign", ["novel.txt", "data/"])
def test_a_folder_with_anything_else_in_it_is_never_replaced(folder: Path, tiny: Any, foreign: str) -> None:
    if foreign.endswith("/"):
        (folder / foreign).mkdir()
    else:
        (folder / foreign).write_text("Once upon a time", encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"holds '{foreign.rstrip('/')}', which is no part of a model"):
        checkpoint.write_folder(folder, tiny[1], tiny[0], None, overwrite=True)
    assert (folder / foreign).exists()


@pytest.mark.parametrize("at", ["config.json", "generation_config.json", "model.safetensors", "README.md"])
def test_a_full_disk_loses_nothing(folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    config, arrays = tiny
    before = contents(folder)
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if "w" in mode and path.name.endswith(at):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: No space left on device\. What was there before"):
        checkpoint.write_folder(folder, arrays, config, None, form="bf16", card="x", overwrite=True)
    monkeypatch.undo()
    assert contents(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_cannot_be_renamed_into_place_loses_nothing(
    folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    real = Path.rename

    def fails(path: Path, target: Path) -> Any:
        if Path(target) == folder and path.name.startswith(".partial-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.write_folder(folder, tiny[1], tiny[0], None, form="bf16", overwrite=True)
    monkeypatch.undo()
    assert contents(folder) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="only other users are kept out of read-only folders")
def test_a_read_only_folder_is_said(tmp_path: Path, tiny: Any) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot be written: Permission denied"):
            checkpoint.write_folder(tmp_path / "m", tiny[1], tiny[0], None)
    finally:
        tmp_path.chmod(0o700)


def test_a_read_only_disk_is_said(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, *rest: Any, **more: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(CheckpointError, match="cannot be written: Read-only file system"):
        checkpoint.write_folder(tmp_path / "m", tiny[1], tiny[0], None)


def test_a_file_in_the_way_is_said(tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for goal in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            checkpoint.write_folder(goal, tiny[1], tiny[0], None, overwrite=True)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


# --- int8


@pytest.fixture
def int8(tmp_path: Path, tiny: Any) -> Path:
    checkpoint.write_folder(tmp_path / "int8", tiny[1], tiny[0], None, form="int8")
    return tmp_path / "int8"


def test_int8_is_its_plain_definition(int8: Path, tiny: Any) -> None:
    weights = checkpoint.read(int8).weights
    for name, array in tiny[1].items():
        stored = weights.stored(name)
        if array.ndim == 1:
            assert (stored.dtype, stored.scale) == ("F32", None)
            continue
        scale = int8_scale([array], name)
        integers = int8_round(array, scale)
        np.testing.assert_array_equal(stored.data, integers)
        np.testing.assert_array_equal(stored.scale, scale)
        np.testing.assert_array_equal(weights.float32(name), decode(integers, "I8", scale))


def test_int8_says_what_it_is_and_is_not_found_by_others(int8: Path) -> None:
    assert checkpoint.read_metadata(int8 / "model.int8.safetensors")["gpt2kit_form"] == "int8"
    assert not (int8 / "model.safetensors").exists()


def test_int8_without_its_mark_or_its_scales_is_refused(int8: Path) -> None:
    file = int8 / "model.int8.safetensors"
    arrays = {
        name: checkpoint.StoredArray(data=a.data.copy(), dtype=a.dtype)
        for name, a in checkpoint.read_safetensors(file).items()
    }
    checkpoint.write_safetensors(file, arrays)
    with pytest.raises(FormatError, match="does not say how they are scaled"):
        checkpoint.read(int8)
    scalar = checkpoint.StoredArray(data=np.array(1, np.float32), dtype="F32")
    for wrong in (scalar, arrays["transformer.wpe.weight"]):
        changed = arrays | {"transformer.wte.weight.scale": wrong}
        checkpoint.write_safetensors(file, changed, metadata={"gpt2kit_form": "int8"})
        with pytest.raises(FormatError, match="holds integers and has no float32 scales"):
            checkpoint.read(int8)
    del arrays["transformer.wpe.weight.scale"]
    checkpoint.write_safetensors(file, arrays, metadata={"gpt2kit_form": "int8"})
    with pytest.raises(FormatError, match=r"'transformer\.wpe\.weight' holds integers and has no float32 scales"):
        checkpoint.read(int8)
    shutil.copy(file, int8 / "model.safetensors")
    file.unlink()
    with pytest.raises(FormatError):
        checkpoint.read(int8)
