import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2 import files
from gpt2.errors import FolderInUseError, FormatError

links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own on Windows")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def long_ago(path: Path) -> None:
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (0, 0))


def fill(folder: Path, text: str) -> None:
    with files.atomic_folder(folder) as partial:
        (partial / "inside").mkdir()
        (partial / "inside" / "a").write_text(text, encoding="utf-8")


def test_a_file_is_replaced_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "模型.json"
    for value in ({"a": 1}, {"b": "ü"}):
        files.write_json(path, value)
        assert files.read_json(path) == value
    assert names(path.parent) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be flushed there")
def test_what_takes_a_name_is_on_the_disk_before_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def flushed(handle: int) -> None:
        done.append(f"flush {'folder' if stat.S_ISDIR(os.fstat(handle).st_mode) else 'file'}")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", lambda path, goal: [done.append("name"), replace(path, goal)][1])
    monkeypatch.setattr(Path, "rename", lambda path, goal: [done.append("name"), rename(path, goal)][1])
    files.write_text(tmp_path / "f", "whole")
    assert done == ["flush file", "name", "flush folder"]
    done.clear()
    fill(tmp_path / "d", "whole")
    assert done == ["flush folder", "flush file", "flush folder", "name", "flush folder"]


@pytest.mark.parametrize("ending", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt(), ValueError()])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, ending: BaseException) -> None:
    files.write_text(tmp_path / "f", "old")
    with pytest.raises(type(ending)), files.atomic_file(tmp_path / "f") as file:  # noqa: PT012
        file.write(b"ne")
        raise ending
    fill(tmp_path / "d", "old")
    with pytest.raises(type(ending)), files.atomic_folder(tmp_path / "d") as partial:  # noqa: PT012
        (partial / "b").write_text("ne", encoding="utf-8")
        raise ending
    assert (tmp_path / "f").read_text(encoding="utf-8") == "old"
    assert (tmp_path / "d" / "inside" / "a").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["d", "f"]


@pytest.mark.parametrize(("number", "name"), [(errno.ENOSPC, "f"), (errno.EFBIG, "f"), (errno.EIO, None)])
def test_a_full_disk_is_named_by_what_was_written_to_it(tmp_path: Path, number: int, name: str | None) -> None:
    with pytest.raises(OSError, match="said") as caught, files.atomic_file(tmp_path / "f"):
        raise OSError(number, "said")
    assert caught.value.filename == (name and str(tmp_path / name))


@pytest.mark.parametrize("ending", [OSError(errno.EACCES, "in use"), KeyboardInterrupt()])
def test_a_folder_is_put_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: BaseException
) -> None:
    fill(tmp_path / "d", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".partial-"):
            raise ending
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(type(ending)):
        fill(tmp_path / "d", "new")
    assert (tmp_path / "d" / "inside" / "a").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["d"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "d", "old")
    (tmp_path / "d" / "more").touch()
    monkeypatch.chdir(tmp_path)
    fill(Path("d"), "new")
    assert names(tmp_path) == ["d"]
    assert names(tmp_path / "d") == ["inside"]


@links
def test_a_link_stays_one(tmp_path: Path) -> None:
    fill(tmp_path / "d", "old")
    files.write_text(tmp_path / "f", "old")
    (tmp_path / "to-d").symlink_to("d")
    (tmp_path / "to-f").symlink_to("f")
    fill(tmp_path / "to-d", "new")
    files.write_text(tmp_path / "to-f", "new")
    assert names(tmp_path) == ["d", "f", "to-d", "to-f"]
    assert (tmp_path / "to-d").is_symlink() and (tmp_path / "to-f").is_symlink()
    assert (tmp_path / "d" / "inside" / "a").read_text(encoding="utf-8") == "new"
    assert (tmp_path / "f").read_text(encoding="utf-8") == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no place among the files there")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    named = tmp_path / "named"
    os.mkfifo(named)
    reader, writer = os.pipe()
    for path, end in ((named, os.open(named, os.O_RDONLY | os.O_NONBLOCK)), (Path(f"/dev/fd/{writer}"), reader)):
        files.check_goal(path)
        files.write_text(path, "one")
        assert os.read(end, 10) == b"one"
        os.close(end)
    os.close(writer)
    assert named.is_fifo()
    assert names(tmp_path) == ["named"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="open files have no names here")
def test_a_file_that_is_open_already_keeps_what_it_holds(tmp_path: Path) -> None:
    """As `--out /dev/stdout >> log` gives it."""
    with (tmp_path / "log").open("wb") as log:
        log.write(b"before, ")
        log.flush()
        path = Path(f"/dev/fd/{log.fileno()}")
        files.check_goal(path)
        files.write_text(path, "here, ")
        log.write(b"after")
    assert (tmp_path / "log").read_bytes() == b"before, here, after"
    assert names(tmp_path) == ["log"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_device_is_named() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_text(Path("/dev/full"), "text")
    assert caught.value.filename == "/dev/full"


def test_whether_a_goal_can_be_written_is_known_before(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "old")
    files.check_goal(tmp_path / "file")
    files.check_goal(tmp_path / "new" / "goal")
    files.check_goal(tmp_path / "new" / "newer" / "goal")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"
    with pytest.raises(OSError, match="file"):
        files.check_goal(tmp_path / "file" / "goal")


@pytest.mark.parametrize("write", [fill, files.write_text])
def test_a_place_that_cannot_be_written_is_named_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], object]
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "open" if write is files.write_text else "mkdir", refuse)
    monkeypatch.setattr(files, "_ready", lambda path: path)
    with pytest.raises(OSError, match="Read-only") as refused:
        write(tmp_path / "goal", "new")
    assert refused.value.filename == str(tmp_path / "goal")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("write", [fill, files.write_text])
def test_links_in_a_circle_are_an_error_of_the_system(tmp_path: Path, write: Callable[[Path, str], object]) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as refused:
        write(tmp_path / "a", "new")
    assert refused.value.errno == errno.ELOOP
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("write", [fill, files.write_text])
def test_leftovers_of_this_goal_go_when_they_are_old(tmp_path: Path, write: type) -> None:
    other, young = ".partial-00000000-other", ".partial-00000001-goal"
    old = (".partial-00000002-goal", ".previous-00000003-goal")
    for name in (other, young, *old):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
        long_ago(tmp_path / name)
    os.utime(tmp_path / young / "f")
    (tmp_path / ".partial-00000004-goal").touch()  # of an atomic file
    long_ago(tmp_path / ".partial-00000004-goal")
    write(tmp_path / "goal", "a")
    assert names(tmp_path) == sorted(["goal", other, young, ".previous-00000003-goal"])
    write(tmp_path / "goal", "b")
    assert names(tmp_path) == sorted(["goal", other, young])  # what may be the only copy went when it was none


@pytest.mark.parametrize("content", ["", "{", '{"a": 1, "a": 2}', "[" * 100_000, '"\\ud800', "\ufeff{}", "1" * 5000])
def test_what_is_not_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "f").write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match="not readable JSON"):
        files.read_json(tmp_path / "f")


def test_a_journal_is_read_line_by_line_whatever_its_texts_hold(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\x85c"}, {"text": "d"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "f").write_text(lines + '{"text": "cut o', encoding="utf-8", newline="\n")
    assert files.read_journal(tmp_path / "f") == rows


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert files.read_bounded(tmp_path / "f", 5) == b"12345"
    with pytest.raises(FormatError, match="larger than the 4 bytes"):
        files.read_bounded(tmp_path / "f", 4)


def test_a_manifest_tells_what_changed(tmp_path: Path) -> None:
    fill(tmp_path / "d", "abc")
    for name in ("cut", "gone", "same"):
        (tmp_path / "d" / name).write_bytes(b"12345")
    files.write_manifest(tmp_path / "d", {"made": "by a test"})
    assert files.broken_files(tmp_path / "d") == []
    (tmp_path / "d" / "inside" / "a").write_text("abd", encoding="utf-8")
    (tmp_path / "d" / "cut").write_bytes(b"1234")
    (tmp_path / "d" / "gone").unlink()
    assert files.broken_files(tmp_path / "d") == [
        "cut has 4 bytes, not 5",
        "gone is missing",
        "inside/a has another SHA-256 than its manifest says",
    ]


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"files": 3}', '{"files": {"f": 1}}', '{"files": {"f": {"bytes": "x", "sha256": ""}}}']
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(FormatError, match="does not list files"):
        files.broken_files(tmp_path)


def test_no_manifest_is_an_unfinished_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="never finished"):
        files.broken_files(tmp_path)


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, gpt2.files as f\n"
        "with f.lock(pathlib.Path(sys.argv[1])): print(flush=True), sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(FolderInUseError, match="in use by another process"), files.lock(tmp_path):
            pass
        process.kill()
    with files.lock(tmp_path), pytest.raises(FolderInUseError), files.lock(tmp_path):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_lock_for_what_fails_leaves_the_folder_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(folder: Path, *made: Path) -> None:
        with files.lock(folder):
            for file in made:
                file.touch()
            raise error

    inner = tmp_path / "a" / "b"
    for folder in (inner, tmp_path):  # not there, and there
        with pytest.raises(error):
            fail(folder)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(error):
        fail(inner, inner.parent / "work")
    assert names(tmp_path) == ["a"] and names(inner.parent) == ["work"]
    with pytest.raises(error):
        fail(inner, inner / "work")
    assert names(inner) == [".lock", "work"]
    (inner / "work").unlink()
    with pytest.raises(error):
        fail(inner)
    assert names(inner) == [".lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_a_lock_that_its_holder_removes_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, original = contextlib.ExitStack(), Path.open
    holder.enter_context(files.lock(tmp_path / "d"))

    def opened(self: Path, *args: Any) -> Any:
        file = original(self, *args)
        holder.__exit__(ValueError, ValueError(), None)
        return file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(FolderInUseError), files.lock(tmp_path / "d"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there no folder is taken away while the lock in it is open")
def test_who_fails_leaves_the_lock_of_who_came_after(tmp_path: Path) -> None:
    failing, after = contextlib.ExitStack(), contextlib.ExitStack()
    failing.enter_context(files.lock(tmp_path / "d"))
    (tmp_path / "d").rename(tmp_path / "gone")
    with after:
        after.enter_context(files.lock(tmp_path / "d"))
        failing.__exit__(ValueError, ValueError(), None)
        with pytest.raises(FolderInUseError), files.lock(tmp_path / "d"):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="flock is not there")
def test_a_file_system_without_locks_is_not_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"), contextlib.ExitStack() as stack:
        stack.enter_context(files.lock(tmp_path))
