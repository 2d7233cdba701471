"""Memory is counted, not estimated: what reading and rewriting a mapped model keeps resident."""

import sys
import tracemalloc
from pathlib import Path

import pytest

from gpt2 import checkpoint
from gpt2.checkpoint import folder
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig

from .conftest import random_arrays

CONFIG = ModelConfig(n_layer=1, n_head=2, n_embd=32, n_positions=64)  # wte takes 6.4 MB of the 6.5
LARGEST_BYTES = 4 * 50257 * 32


@pytest.fixture
def model(tmp_path: Path) -> Path:
    checkpoint.write_folder(tmp_path / "model", random_arrays(CONFIG), CONFIG, None)
    return tmp_path / "model"


def resident_file_bytes(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and fields[0] == "Rss:":
            found += 1024 * int(fields[1])
    return found


def test_opening_allocates_next_to_nothing(model: Path) -> None:
    checkpoint.read(model)  # imports and caches
    tracemalloc.start()
    try:
        found = checkpoint.read(model)
        assert tracemalloc.get_traced_memory()[1] < 4e6
        assert found.weights.nbytes > 6.4e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", checkpoint.FORMS)
def test_rewriting_allocates_pieces_only(
    model: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every array that is made costs the tracing, and int4 makes a hundred a piece
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", 1 << (16 if form == "int4" else 14))
    found = checkpoint.read(model)
    tracemalloc.start()
    try:
        checkpoint.write_folder(tmp_path / "out", found.weights, found.config, None, form=form)
        # int4 keeps one rounded matrix until its scales are written, and that is an eighth of it in float32
        assert tracemalloc.get_traced_memory()[1] < LARGEST_BYTES / (4 if form == "int4" else 8)
    finally:
        tracemalloc.stop()


def test_every_piece_is_given_back_once_it_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", 1 << 14)
    found = checkpoint.read(model)
    given_back: list[int] = []
    monkeypatch.setattr(checkpoint.StoredArray, "release", lambda array: given_back.append(array.nbytes))
    checkpoint.write_folder(tmp_path / "out", found.weights, found.config, None, form="bf16")
    assert sum(given_back) == found.weights.nbytes
    assert max(given_back) <= 4 << 14


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are counted by /proc")
def test_memory_that_is_given_back_is_free(model: Path) -> None:
    wte = checkpoint.read(model).weights.stored("wte")
    wte.float32().sum()
    assert resident_file_bytes(model / "model.safetensors") > 0.9 * LARGEST_BYTES
    wte.release()
    assert resident_file_bytes(model / "model.safetensors") < 0.1 * LARGEST_BYTES


@pytest.mark.parametrize(
    ("format", "form"), [("openai", "fp32"), ("llmc", "bf16"), ("gguf", "fp16"), ("gguf", "q8_0"), ("gguf", "q4_0")]
)
def test_other_formats_allocate_pieces_only(
    model: Path, tmp_path: Path, format: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", 1 << 15)
    found = checkpoint.read(model)
    checkpoint.write(tmp_path / "first", found.weights, None, format=format, form=form)  # imports and tables
    tracemalloc.start()
    try:
        checkpoint.write(tmp_path / "out", found.weights, None, format=format, form=form)
        assert tracemalloc.get_traced_memory()[1] < LARGEST_BYTES / 8
    finally:
        tracemalloc.stop()


def test_int4_rounds_no_matrix_before_its_codes_are_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scales of all matrices come first in the file: what was rounded for them would have to be kept."""
    calls: list[str] = []
    for name in ("int4_scale", "to_int4"):
        real = getattr(folder, name)
        monkeypatch.setattr(folder, name, lambda *a, real=real, name=name, **k: (calls.append(name), real(*a, **k))[1])
    found = checkpoint.read(model)
    checkpoint.write_folder(tmp_path / "out", found.weights, found.config, None, form="int4")
    assert calls == 5 * ["int4_scale"] + 5 * ["to_int4"]


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are counted in /proc")
@pytest.mark.parametrize(
    ("before", "after"), [("fp32", form) for form in checkpoint.FORMS] + [("int8", "fp32"), ("int4", "fp32")]
)
def test_pages_of_every_form_are_given_back(tmp_path: Path, before: str, after: str) -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=768, n_positions=8, vocab_size=300)  # mostly matrices
    checkpoint.write_folder(tmp_path / "there", random_arrays(config), config, None, form=before)
    found = checkpoint.read(tmp_path / "there")
    [file] = (tmp_path / "there").glob("*.safetensors")
    checkpoint.write_folder(tmp_path / "back", found.weights, found.config, None, form=after)
    assert file.stat().st_size > 3.5e6
    assert resident_file_bytes(file) < file.stat().st_size / 4


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are counted in /proc")
@pytest.mark.parametrize("format", ["openai", "llmc", "gguf"])
def test_pages_of_other_formats_are_given_back(tmp_path: Path, format: str) -> None:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=256, n_positions=8, vocab_size=300)  # mostly matrices
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(tmp_path / "there", weights, None, format=format, form="fp32")
    found = checkpoint.read(tmp_path / "there")
    file = max([tmp_path / "there", *(tmp_path / "there").glob("*")], key=lambda path: path.stat().st_size)
    checkpoint.write_folder(tmp_path / "back", found.weights, found.config, None)
    assert file.stat().st_size > 6e6
    assert resident_file_bytes(file) < 1e6
