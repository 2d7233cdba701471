"""Interrupted writing goes on where it stopped: the same bytes, nothing done twice, and never half a goal."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2 import checkpoint
from gpt2.checkpoint import unfinished as room
from gpt2.checkpoint.checkpoint import Checkpoint
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FolderInUseError, MismatchError
from gpt2.files import lock

from .conftest import random_arrays, small_tokenizer

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=32, n_positions=16, vocab_size=260)
WAYS = [
    *(("hf", form) for form in checkpoint.FORMS),
    ("openai", "fp32"),
    ("nanogpt", "fp32"),
    ("nanogpt", "bf16"),
    ("llmc", "fp32"),
    ("llmc", "bf16"),
    *(("gguf", form) for form in ("fp32", "fp16", "q8_0", "q4_0")),
    *(("onnx", form) for form in ("fp32", "fp16", "int4")),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    checkpoint.write_folder(tmp_path / "source", random_arrays(CONFIG), CONFIG, small_tokenizer())
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def every_array_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SYNC_BYTES", 1)


def write(found: Checkpoint, goal: Path, format: str = "hf", form: str = "fp32", **more: Any) -> list[int]:
    """Write as `gpt2 convert` does, and say what of it had been written before."""
    resumed: list[int] = []
    checkpoint.write(
        goal,
        found.weights,
        small_tokenizer(),
        format=format,
        form=form,
        sources=found.sources,
        resumed=resumed.append,
        **more,
    )
    return resumed


def content(goal: Path) -> dict[str, bytes]:
    files = sorted(goal.rglob("*")) if goal.is_dir() else [goal]
    return {file.relative_to(goal).as_posix(): file.read_bytes() for file in files if file.is_file()}


class Watched(checkpoint.StoredArray):
    """An array that says when its values are asked for, whichever way it is turned."""

    def __init__(self, data: Any, dtype: str, asked: Callable[[], None]) -> None:
        for name, value in {"data": data, "dtype": dtype, "scale": None, "asked": asked}.items():
            object.__setattr__(self, name, value)

    __slots__ = ("asked",)

    def blocks(self) -> Any:
        self.asked()
        return checkpoint.StoredArray(data=self.data, dtype=self.dtype).blocks()

    def float32(self) -> Any:
        self.asked()
        return self.data

    def transposed(self) -> Any:
        return Watched(self.data.T, self.dtype, self.asked)


def watch(monkeypatch: pytest.MonkeyPatch, asked: Callable[[str], None]) -> Callable[[], None]:
    """Call `asked` with the name of every array that is written; what is returned ends that."""
    real = Weights.stored

    def stored(weights: Weights, name: str) -> Any:
        array = real(weights, name)
        return Watched(array.data, array.dtype, lambda: asked(name))

    monkeypatch.setattr(Weights, "stored", stored)
    return lambda: monkeypatch.setattr(Weights, "stored", real)


def stopping(monkeypatch: pytest.MonkeyPatch, at: str, error: BaseException) -> Callable[[], None]:
    def asked(name: str) -> None:
        if name == at:
            raise error

    return watch(monkeypatch, asked)


@pytest.mark.parametrize(("format", "form"), WAYS)
def test_what_was_interrupted_goes_on_to_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, form: str
) -> None:
    found = checkpoint.read(source)
    write(found, tmp_path / "a" / "m.gguf", format, form)
    goal = tmp_path / "b" / "m.gguf"
    on_again = stopping(monkeypatch, "h.1.attn.c_proj.w", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(found, goal, format, form)
    on_again()
    assert not goal.exists()
    assert [entry.name for entry in goal.parent.iterdir()] == [".unfinished-m.gguf"]

    read: list[str] = []
    watch(monkeypatch, read.append)
    [resumed_bytes] = write(checkpoint.read(source), goal, format, form)
    assert content(goal) == content(tmp_path / "a" / "m.gguf")
    assert resumed_bytes > 0
    assert "h.1.attn.c_proj.w" in read
    # In the compact forms all scales come first, so that the first matrix is read once more, for its integers.
    assert ("h.0.attn.c_proj.w" in read) == (format == "hf" and form in ("int8", "int4"))
    assert "h.0.ln_1.g" not in read
    assert [entry.name for entry in goal.parent.iterdir()] == ["m.gguf"]


KILLED = """
import os, signal, sys
from gpt2.checkpoint import unfinished
from gpt2.cli.main import run
unfinished.SYNC_BYTES = 1
real = unfinished.ArrayFile.append
def append(self, name, size, pieces, checksum=None):
    if "h.1.mlp" in name or "blk.1.ffn_up" in name:  # half of an array is in the file, and no more
        self.file.write(bytes(size // 2))
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, name, size, pieces, checksum)
unfinished.ArrayFile.append = append
run(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_killed_conversion_goes_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    from gpt2.cli.main import run

    arguments = ["convert", str(source), str(tmp_path / "goal"), "--to", format]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "goal").exists()
    assert run(arguments) == 0
    assert "resuming: " in capsys.readouterr().err
    assert run([*arguments[:2], str(tmp_path / "at once"), *arguments[3:]]) == 0
    assert content(tmp_path / "goal") == content(tmp_path / "at once")
    assert not list(tmp_path.glob(".unfinished*"))


def interrupt(
    found: Checkpoint, goal: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, **more: Any
) -> Path:
    on_again = stopping(monkeypatch, "h.1.attn.c_proj.w", error)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - the caller looks at what is left
        write(found, goal, **more)
    on_again()
    return goal.with_name(f".unfinished-{goal.name}")


def test_an_array_is_noted_once_and_the_disk_asked_when_there_is_enough_to_note(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[list[str]] = []
    add = room.Journal.add
    monkeypatch.setattr(room, "SYNC_BYTES", 10_000)
    monkeypatch.setattr(
        room.Journal, "add", lambda self, rows: [noted.append([r["name"] for r in rows]), add(self, rows)]
    )
    write(checkpoint.read(source), tmp_path / "goal")
    names = [name for names in noted for name in names]
    assert len(names) == len(set(names)) > len(noted) > 3


def test_another_source_form_or_version_begins_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = tmp_path / "goal"
    interrupt(checkpoint.read(source), goal, monkeypatch, KeyboardInterrupt())
    os.utime(source / "model.safetensors", ns=(1, 1))
    assert write(checkpoint.read(source), goal) == []
    checkpoint.write_folder(tmp_path / "plain", checkpoint.read(source).weights, CONFIG, small_tokenizer())
    assert content(goal) == content(tmp_path / "plain")
    interrupt(checkpoint.read(source), goal, monkeypatch, KeyboardInterrupt(), form="bf16", overwrite=True)
    assert content(goal) == content(tmp_path / "plain")  # what was there stays until the new one is whole
    assert write(checkpoint.read(source), goal, form="fp16", overwrite=True) == []
    assert checkpoint.read(goal).weights.form == "fp16"


@pytest.mark.parametrize(
    "damage", ["a file cut off", "no file", "a line cut off", "a line of another kind", "no journal"]
)
def test_what_is_left_is_not_believed_beyond_its_journal(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    goal = tmp_path / "goal"
    place = interrupt(checkpoint.read(source), goal, monkeypatch, KeyboardInterrupt())
    file, journal = place / "content" / "model.safetensors", place / "journal.jsonl"
    (place / "content" / ".partial-01234567-config.json").write_bytes(b"{")  # of a process that was killed
    if damage == "a file cut off":
        file.write_bytes(file.read_bytes()[:-3000])
    elif damage == "no file":
        file.unlink()
    elif damage == "a line cut off":
        journal.write_bytes(journal.read_bytes()[:-5])
        interrupt(checkpoint.read(source), goal, monkeypatch, KeyboardInterrupt())  # and goes on after it
    elif damage == "a line of another kind":
        journal.write_text(journal.read_text(encoding="utf-8") + '{"file": 1}\n[]\n', encoding="utf-8")
    else:
        journal.unlink()
    write(checkpoint.read(source), goal)
    checkpoint.write_folder(tmp_path / "plain", checkpoint.read(source).weights, CONFIG, small_tokenizer())
    assert content(goal) == content(tmp_path / "plain")


def test_a_full_disk_keeps_what_is_written_and_says_so(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_again = stopping(monkeypatch, "h.1.attn.c_proj.w", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError, match=r"No space left.*kept in \.unfinished-goal.*same command goes on"):
        write(checkpoint.read(source), tmp_path / "goal")
    on_again()
    assert len(write(checkpoint.read(source), tmp_path / "goal")) == 1
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written: .* is as it was\.$"):  # and nothing is kept
        write(checkpoint.read(source), tmp_path / "file" / "goal")


def test_an_error_that_would_come_again_leaves_nothing(tmp_path: Path) -> None:
    arrays = random_arrays(CONFIG)
    arrays["ln_f.g"][0] = 1e6
    checkpoint.write_folder(tmp_path / "source", arrays, CONFIG, small_tokenizer())
    with pytest.raises(MismatchError, match=r"ln_f\.g cannot be stored as fp16"):
        write(checkpoint.read(tmp_path / "source"), tmp_path / "goal", form="fp16")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["", "content", "journal.jsonl"])
def test_a_link_in_the_place_of_unfinished_work_is_not_followed(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "victim" / "content").mkdir(parents=True)
    (tmp_path / "victim" / "content" / "precious").touch()
    link = tmp_path / ".unfinished-goal" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "victim" / name)
    with pytest.raises(CheckpointError, match="is a link"):
        write(checkpoint.read(source), tmp_path / "goal")
    assert sorted(file.name for file in (tmp_path / "victim").rglob("*")) == ["content", "precious"]
    assert not (tmp_path / "goal").exists()


def test_a_link_among_unfinished_work_is_removed_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").touch()
    (tmp_path / ".unfinished-goal" / "content").mkdir(parents=True)
    (tmp_path / ".unfinished-goal" / "content" / "link").symlink_to(tmp_path / "victim")
    write(checkpoint.read(source), tmp_path / "goal")
    assert not (tmp_path / "goal" / "link").exists()
    assert (tmp_path / "victim" / "precious").exists()


def test_two_at_once(source: Path, tmp_path: Path) -> None:
    with lock(tmp_path / ".unfinished-goal"), pytest.raises(FolderInUseError):
        write(checkpoint.read(source), tmp_path / "goal")
    assert not (tmp_path / "goal").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there nobody begins before the other has let go")
def test_who_begins_as_another_ends_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever one that is done removes something, another tries to begin the same goal."""
    goal, remove, begun = tmp_path / "goal", shutil.rmtree, contextlib.ExitStack()
    refused: list[FolderInUseError] = []

    def removing(folder: Path, **settings: Any) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove)
        try:
            begun.enter_context(room.unfinished(goal, {"a": 1}, is_file=False))
        except FolderInUseError as error:
            refused.append(error)
            monkeypatch.setattr(shutil, "rmtree", removing)
        remove(folder, **settings)

    with room.unfinished(goal, {"a": 1}, is_file=False) as journal:
        (journal.folder / "file").touch()
        monkeypatch.setattr(shutil, "rmtree", removing)
    assert refused and shutil.rmtree is remove  # while it was held; and then it began
    with begun:
        assert room.journal_of(goal).is_file()
        with pytest.raises(FolderInUseError), room.unfinished(goal, {"a": 1}, is_file=False):
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["goal"]


def test_an_adapter_has_its_base_among_its_sources(source: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    pair = {"h.0.attn.c_attn.lora_A": np.ones((1, 32)), "h.0.attn.c_attn.lora_B": np.ones((96, 1))}
    checkpoint.write_adapter(adapter, pair, base=str(source), alpha=1, dropout=0, targets=("attn.c_attn",))
    sources = checkpoint.read(adapter).sources
    assert {adapter / "adapter_model.safetensors", source / "model.safetensors"} <= set(sources)
