"""Packed weights on disk: the same bytes as packing, noticed when stale, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2 import checkpoint
from gpt2.backends import NEXT_LOGITS, Work, native, packed
from gpt2.backends.native import NativeBackend
from gpt2.checkpoint import Weights, shapes
from gpt2.config import ModelConfig
from gpt2.errors import BackendError
from gpt2.native.library import Library
from gpt2.tokenizer import Tokenizer

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=32, n_positions=16)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    try:
        Library.load()
    except BackendError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packed, "_LEAST_BYTES", 0)
    write(tmp_path / "model", seed=0)
    return tmp_path / "model"


def write(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = {name: 0.1 * random.standard_normal(shape, np.float32) for name, shape in shapes(CONFIG).items()}
    checkpoint.write_folder(
        folder, Weights.from_arrays(CONFIG, arrays), CONFIG, Tokenizer.published(), overwrite=folder.exists()
    )


def logits(folder: Path, form: str) -> np.ndarray:
    backend = NativeBackend(checkpoint.read(folder).weights, form=form, threads=1)
    [result] = backend.step([Work(slot=backend.new(), tokens=[1, 2, 3], want=NEXT_LOGITS)])
    backend.close()
    assert result.logits_RV is not None
    return result.logits_RV


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The forms that were packed, one entry each time."""
    done: list[str] = []
    load = native._load
    monkeypatch.setattr(native, "_load", lambda engine, weights, form: (done.append(form), load(engine, weights, form)))
    return done


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
def test_the_second_start_packs_nothing_and_computes_the_same(folder: Path, form: str, packings: list[str]) -> None:
    first, second = logits(folder, form), logits(folder, form)
    assert packings == [form]
    np.testing.assert_array_equal(first, second)


def test_fp32_is_not_kept(folder: Path, packings: list[str]) -> None:
    logits(folder, "fp32"), logits(folder, "fp32")
    assert packings == ["fp32", "fp32"]


def test_a_changed_model_is_packed_anew_in_the_same_place(folder: Path, packings: list[str]) -> None:
    before = logits(folder, "int8")
    write(folder, seed=1)
    after = logits(folder, "int8")
    assert packings == ["int8", "int8"]
    assert not np.array_equal(before, after)
    assert len(list(packed.cache_folder().rglob("*-int8"))) == 1


def test_the_same_size_at_another_time_is_another_model(folder: Path, packings: list[str]) -> None:
    logits(folder, "int8")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    logits(folder, "int8")
    assert packings == ["int8", "int8"]


def test_what_a_model_that_is_gone_left_behind_is_removed(folder: Path, packings: list[str]) -> None:
    cache = packed.cache_folder() / "packed"
    logits(folder, "int8")
    others = ("not packed weights", "{}", '{"source": 5}', '{"source": "/gone"}', "[1]", "[" * 4096)
    for number, text in enumerate(others):
        (cache / f"notes-{number}-mine").write_text(text, encoding="utf-8")
    of_before = '{"made_of": "what", "form": "int8"}'
    (cache / "of-before").write_text(of_before, encoding="utf-8")
    [left] = cache.glob("*-int8")
    folder.rename(folder.with_name("moved"))
    size = left.stat().st_size
    assert packed.drop_orphans() == size + len(of_before)
    assert packed.drop_orphans() == 0
    logits(folder.with_name("moved"), "int8"), logits(folder.with_name("moved"), "int4")
    write(folder, seed=1)
    logits(folder, "int8")
    folder.rename(folder.with_name("moved again"))
    logits(folder.with_name("moved again"), "int8")  # packing another removes it too
    assert sorted(path.name[-4:] for path in cache.iterdir()) == ["int4", "int8", "int8", *["mine"] * len(others)]


def test_a_model_on_a_drive_that_is_not_mounted_is_not_gone(
    folder: Path, packings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = folder.parent / "drive"
    mounted = {folder.anchor, str(drive)}
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in mounted)
    drive.mkdir()
    folder.rename(drive / "model")
    logits(drive / "model", "int8")
    (drive / "model").rename(folder)
    mounted.remove(str(drive))
    assert packed.drop_orphans() == 0  # an empty folder is left where it was
    drive.rmdir()
    assert packed.drop_orphans() == 0  # or none
    drive.mkdir()
    mounted.add(str(drive))
    assert packed.drop_orphans() > 0


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: data[:4096],
        lambda data: flipped(data, 4096),  # the first byte behind the header
        lambda data: flipped(data, len(data) // 2, 128),
        lambda data: flipped(data, len(data) // 3, 16),
        lambda data: flipped(data, -9),  # the last before the checksum
        lambda data: flipped(data, -1),
        lambda data: data[:8192] + data[8256:8320] + data[8192:8256] + data[8320:],  # two lines change places
        lambda data: data[:4096] + data[5120:9216] + data[4096:5120] + data[9216:],
        lambda data: data[:8192] + bytes(4096) + data[12288:],  # a page that was never written
    ],
)
def test_a_damaged_file_is_packed_anew(folder: Path, packings: list[str], damage) -> None:
    expected = logits(folder, "int4")
    [file] = packed.cache_folder().rglob("*-int4")
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(logits(folder, "int4"), expected)
    np.testing.assert_array_equal(logits(folder, "int4"), expected)
    assert packings == ["int4", "int4"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_a_pipe_in_the_cache_gets_no_weights(
    folder: Path, packings: list[str], tmp_path: Path, kind: str
) -> None:
    expected = logits(folder, "int8")
    [file] = packed.cache_folder().rglob("*-int8")
    file.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    file.symlink_to(victim) if kind == "link" else os.mkfifo(file)
    os.mkfifo(file.with_name("another-int8"))
    np.testing.assert_array_equal(logits(folder, "int8"), expected)
    assert packings == ["int8", "int8"]
    assert victim.read_bytes() == b"precious"
    assert file.is_file()
    assert not file.is_symlink()


def test_a_cache_that_cannot_be_written_is_only_said(
    folder: Path, packings: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed, "atomic_file", full)
    with caplog.at_level("INFO", logger="gpt2"):
        np.testing.assert_array_equal(logits(folder, "int8"), logits(folder, "int8"))
    assert packings == ["int8", "int8"]
    assert "No space left" in caplog.text


_BOTH_AT_ONCE = """
import sys
import numpy as np
from gpt2 import checkpoint
from gpt2.backends import NEXT_LOGITS, Work, native, packed

packed._LEAST_BYTES = 0
restore = packed.restore
def wait(*asked):  # both have looked for the file before either writes it
    found = restore(*asked)
    print("looked", found, flush=True)
    sys.stdin.readline()
    return found
packed.restore = wait
backend = native.NativeBackend(checkpoint.read(sys.argv[1]).weights, form="int8", threads=1)
[result] = backend.step([Work(slot=backend.new(), tokens=[1, 2, 3], want=NEXT_LOGITS)])
print(result.logits_RV.tobytes().hex())
"""


def test_two_processes_may_pack_the_same_model_at_once(folder: Path, packings: list[str]) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _BOTH_AT_ONCE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in both if process.stdout] == ["looked False\n"] * 2
    for process in both:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    (one, _), (other, _) = ended
    assert one == other
    assert len(list((packed.cache_folder() / "packed").iterdir())) == 1  # and nothing half-written
    assert logits(folder, "int8").tobytes().hex() == one.strip()
    assert packings == []


def test_weights_in_memory_are_not_kept(folder: Path) -> None:
    weights = checkpoint.read(folder).weights
    weights.files = ()
    NativeBackend(weights, form="int8", threads=1).close()
    assert not packed.cache_folder().exists()


class _Stored:
    def __init__(self, config: ModelConfig) -> None:
        self.config = config


def test_auto_goes_by_size_and_memory() -> None:
    small, large = _Stored(CONFIG), _Stored(ModelConfig(n_layer=12, n_head=12, n_embd=768))
    assert native.choose_form(small, 0)[0] == "fp32"
    assert native.choose_form(large, 0)[0] == "int8"
    assert native.choose_form(large, 10**10)[0] == "int8"
    form, why = native.choose_form(large, 10**8)
    assert form == "int4"
    assert "memory" in why


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_auto_is_not_the_form_of_the_base_that_an_adapter_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    base, adapter = tmp_path / form, tmp_path / "adapter"
    checkpoint.write_folder(base, checkpoint.read(folder).weights, CONFIG, None, form=form)
    adapter.mkdir()
    arrays = {"h.1.mlp.c_fc.lora_A": np.ones((1, 32)), "h.1.mlp.c_fc.lora_B": np.ones((128, 1))}
    checkpoint.write_adapter(adapter, arrays, base=str(base), alpha=1, dropout=0, targets=("mlp.c_fc",))
    stored, merged = checkpoint.read(base).weights, checkpoint.read(adapter).weights
    assert native.choose_form(stored, 0) == (form, "as stored")
    assert native.choose_form(merged, 0) == ("fp32", "for weights this small")
    monkeypatch.setattr(native, "_CACHED_BYTES", 0)
    assert native.choose_form(stored, 0) == (form, "as stored")
    assert native.choose_form(merged, 0) == ("int8", "for speed")
    backend = NativeBackend(merged, threads=1)
    assert backend.weights == "int8"
    assert backend.reason.endswith("int8 for speed")
    backend.close()
