"""The table of formats in docs/checkpoint.md, cell by cell: what it says is written, is written, and lossless is so."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2 import checkpoint
from gpt2.checkpoint import gguf_file, pickled
from gpt2.checkpoint.reading import FORMATS
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig

from .conftest import random_arrays, small_tokenizer

TESTS = Path(__file__).parents[1]
CONFIG = ModelConfig(n_layer=1, n_head=2, n_embd=32, n_positions=16, vocab_size=260)
FORMS = ("fp32", "fp16", "bf16", "int8", "int4", "q8_0", "q4_0")
# The rows that are read and not written by `gpt2 convert`, by a word of their first cell.
READ_ONLY = {"minGPT": "mingpt", "pytorch_model": "hf", "Megatron": "megatron", "LoRA": "lora"}
WRITE_ONLY = {"onnx"}


def rows() -> list[list[str]]:
    text = (TESTS.parent / "docs" / "checkpoint.md").read_text(encoding="utf-8")
    table = text.split("| format | `--to` |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def forms(cell: str) -> list[str]:
    return [form for form in re.findall(r"\w+", cell) if form in FORMS]


def written() -> dict[str, list[str]]:
    return {row[1].strip("`"): row for row in rows() if row[1] != "no"}


def test_every_format_has_its_row_and_every_row_its_format() -> None:
    assert set(written()) == set(checkpoint.FORMS_OF)
    others = [row[0] for row in rows() if row[1] == "no"]
    assert len(others) == len(READ_ONLY)
    assert all(any(word in cell for cell in others) for word in READ_ONLY)
    named = {"huggingface": "hf"}
    assert {named.get(name, name) for name in FORMATS} | {"nanogpt"} == (set(written()) - WRITE_ONLY) | {"lora"}
    assert {Path(name).stem for name in pickled.FILES} == {"ckpt", "model", "pytorch_model", "model_optim_rng"}


def test_the_precisions_are_those_that_there_are() -> None:
    for format, row in written().items():
        assert tuple(forms(row[3])) == checkpoint.FORMS_OF[format]
        assert set(forms(row[4])) <= set(forms(row[3]))
        if format in WRITE_ONLY:
            assert row[2] == "no"
            assert not row[4]
        else:
            assert set(forms(row[3])) <= set(forms(row[2]))
    kinds = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
    told = {kinds.get(word, word) for word in re.findall(r"\w+", written()["gguf"][2])}
    assert told == set(gguf_file.TYPES)


def same(a: Weights, b: Weights) -> bool:
    pairs = [(a.stored(name), b.stored(name)) for name in a.names]
    return all(one.dtype == other.dtype and np.array_equal(one.data, other.data) for one, other in pairs)


@pytest.mark.parametrize("format", sorted(set(checkpoint.FORMS_OF) - WRITE_ONLY))
def test_what_is_lossless_comes_back_to_the_bit_and_the_rest_does_not(tmp_path: Path, format: str) -> None:
    row = written()[format]
    for form in forms(row[3]):
        plain = form if form in ("fp32", "fp16", "bf16") else "fp32"
        checkpoint.write_folder(tmp_path / form, random_arrays(CONFIG), CONFIG, small_tokenizer(), form=plain)
        before = checkpoint.read(tmp_path / form).weights
        goal = tmp_path / f"{form}-goal"
        checkpoint.write(goal, before, small_tokenizer(), format=format, form=form)
        found = checkpoint.read(goal, allow_pickle=True)
        assert found.format == format
        assert found.tokenizer().hash == small_tokenizer().hash
        back = found.weights
        if format == "gguf":  # vectors and positions are fp32 there
            checkpoint.write_folder(tmp_path / f"{form}-back", back, CONFIG, None, form=plain)
            back = checkpoint.read(tmp_path / f"{form}-back").weights
        assert same(before, back) == (form in forms(row[4]))


def test_every_referee_is_a_test_that_asks_it() -> None:
    asked: Any = {
        "transformers": "transformers",
        "`gguf`": "gguf",
        "llama.cpp": "xllamacpp",
        "onnxruntime": "onnxruntime",
        "PEFT": "peft",
        "torch": "torch",
    }
    for row in rows():
        files = re.findall(r"`(\w+/test_\w+\.py)`", row[5])
        assert files, row
        source = "".join((TESTS / file).read_text(encoding="utf-8") for file in files)
        for word, module in asked.items():
            if word in row[5].replace("transformers' `pytorch_model.bin`", ""):
                assert re.search(rf"import {module}|importorskip\(.{module}", source), (row[0], word)
