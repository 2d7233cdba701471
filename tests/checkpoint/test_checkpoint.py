"""Which model it is that was read: the hash of its files, in every format."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.checkpoint.conftest import random_arrays, small_tokenizer

from gpt2 import checkpoint
from gpt2.checkpoint import Weights
from gpt2.checkpoint.checkpoint import Checkpoint
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError

CONFIG = ModelConfig(n_layer=1, n_head=2, n_embd=32, n_positions=16, vocab_size=260)
FORMATS = ("hf", "openai", "gguf", "llmc")


def weights(seed: int) -> Weights:
    return Weights.from_arrays(CONFIG, random_arrays(CONFIG, seed))


def write(place: Path, format: str, seed: int = 0) -> Path:
    """A model in a format, over what is there; in GGUF a file, else a folder."""
    place = place / "model.gguf" if format == "gguf" else place
    checkpoint.write(place, weights(seed), small_tokenizer(), format=format, form="fp32", card="", overwrite=True)
    return place


def sha256(path: Path) -> str:
    return checkpoint.read(path).files_sha256()


@pytest.mark.parametrize("format", FORMATS)
def test_the_model_of_other_weights_is_another(tmp_path: Path, format: str) -> None:
    one = sha256(write(tmp_path / "model", format))
    assert sha256(write(tmp_path / "model", format)) == one
    assert sha256(write(tmp_path / "model", format, seed=1)) != one


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", ["base", "lora_A"])
def test_the_adapter_of_another_base_is_another_model(tmp_path: Path, format: str, part: str) -> None:
    base, adapter = write(tmp_path / "base", format), tmp_path / "adapter"
    adapter.mkdir()
    pair = {"h.0.attn.c_attn.lora_A": np.ones((1, 32)), "h.0.attn.c_attn.lora_B": np.ones((96, 1))}
    checkpoint.write_adapter(adapter, pair, base=str(base), alpha=1, dropout=0, targets=("attn.c_attn",))
    one = sha256(adapter)
    if part == "base":
        write(tmp_path / "base", format, seed=1)
    else:
        pair["h.0.attn.c_attn.lora_A"] *= 2
        checkpoint.write_adapter(adapter, pair, base=str(base), alpha=1, dropout=0, targets=("attn.c_attn",))
    assert sha256(adapter) != one


@pytest.mark.parametrize(
    ("format", "file", "beside"),
    [
        ("hf", "model.safetensors", "config.json"),
        ("openai", "model.ckpt.index", "hparams.json"),
        ("hf", "model.safetensors", "vocab.json"),
        ("llmc", "model.bin", "vocab.json"),
    ],
)
def test_what_lies_beside_a_file_makes_it_another_model(tmp_path: Path, format: str, file: str, beside: str) -> None:
    folder = write(tmp_path / "model", format)
    one = sha256(folder / file)
    found = json.loads((folder / beside).read_text(encoding="utf-8"))
    if beside == "vocab.json":
        found["A"], found["B"] = found["B"], found["A"]
    else:
        found["n_head"] = 4
    (folder / beside).write_text(json.dumps(found), encoding="utf-8")
    assert sha256(folder / file) != one


def test_a_file_of_other_weights_beside_the_same(tmp_path: Path) -> None:
    one = sha256(write(tmp_path / "model", "openai") / "model.ckpt.index")
    assert sha256(write(tmp_path / "model", "openai", seed=1) / "model.ckpt.index") != one


def test_what_changes_no_answer_makes_no_other_model(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "hf")
    one = sha256(folder)
    for name in ("README.md", "loss.svg", "LICENSE", ".gitattributes", "calibration.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    assert sha256(folder) == one


def test_one_that_was_not_read_is_known_by_its_values(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "hf")
    one, same, other = (Checkpoint(weights=weights(seed), path=folder, format="made") for seed in (0, 0, 1))
    assert one.files_sha256() == same.files_sha256() != other.files_sha256()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize(
    "name", ["model.gguf", "latest_checkpointed_iteration.txt", "model.bin", "adapter_config.json"]
)
def test_no_pipe_in_a_folder_is_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read(tmp_path, allow_pickle=True)
