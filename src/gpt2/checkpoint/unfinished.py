"""Resumable writing of models: after an interruption the same call continues where the last one stopped.

A model's file is its arrays one after the other, the same bytes every time. So resuming needs two facts: what was being
written from what, and how much has certainly reached the disk. A journal beside the files, in the folder
`.unfinished-GOAL`, holds both: its first line is what was being written, every other line a finished array. If the
first line differs, writing begins again. The goal gets its name only when everything is written.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpt2.errors import CheckpointError, Gpt2Error
from gpt2.files import atomic_file, atomic_folder, beside, lock, read_journal, true_place, write_text

SYNC_BYTES = 64 << 20  # bytes between two fsyncs; the journal notes arrays only after one

Checksum = Callable[[NDArray[np.uint8], int], int]  # of octets, continuing the checksum of those before

_JOURNAL, _CONTENT = "journal.jsonl", "content"


class Journal:
    """What an unfinished goal has on the disk.

    Attributes:
        folder: to fill; arrays in it that the journal lists as finished need not be written again.
        resumed_bytes: of the arrays that were finished when this start began.
    """

    def __init__(self, place: Path, what: Mapping[str, Any]) -> None:
        self.folder = place / _CONTENT
        self._path = place / _JOURNAL
        rows = read_journal(self._path)
        self._finished: dict[tuple[str, str], tuple[int, int, int]] = {}
        if rows and rows[0] == what and all(map(_is_sound, rows[1:])):
            for row in rows[1:]:
                self._finished[row["file"], row["name"]] = row["begin"], row["bytes"], row["checksum"]
        else:
            rows = [dict(what)]
            self._path.unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        self.resumed_bytes = sum(size for _, size, _ in self._finished.values())
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))  # drops a truncated line
        self.folder.mkdir(exist_ok=True)
        known = {file for file, _ in self._finished}
        for entry in self.folder.iterdir():
            if entry.name not in known:  # other files are written anew, or left by a killed process
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def end_of(self, file: str) -> int:
        """How many bytes of a file are finished."""
        return max((begin + size for (of, _), (begin, size, _) in self._finished.items() if of == file), default=0)

    def forget(self, file: str) -> None:
        """Treat a file as not begun, since it does not match the journal."""
        self._finished = {key: facts for key, facts in self._finished.items() if key[0] != file}

    def finished(self, file: str, name: str) -> tuple[int, int, int] | None:
        """The offset, size and checksum of a finished array."""
        return self._finished.get((file, name))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note arrays that are on the disk."""
        with self._path.open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(row) + "\n" for row in rows)
            journal.flush()
            os.fsync(journal.fileno())


def _is_sound(row: object) -> bool:
    """Whether a line of a journal is one of ours."""
    match row:
        case {"file": str(), "name": str(), "begin": int(begin), "bytes": int(size), "checksum": int(crc)}:
            return min(begin, size, crc) >= 0
        case _:
            return False


class ArrayFile:
    """A file written array by array, skipping those that an interrupted start has finished.

    Attributes:
        file: the file itself, to write what is not an array: a header, an index.
    """

    def __init__(self, file: IO[bytes], journal: Journal | None = None, name: str = "") -> None:
        self.file = file
        self._journal = journal
        self._name = name
        self._waiting: list[dict[str, Any]] = []

    def append(
        self, name: str, size: int, pieces: Callable[[], Iterable[NDArray[Any]]], checksum: Checksum | None = None
    ) -> int:
        """Write an array of `size` bytes, given in row-major pieces, and return its checksum (0 without a function)."""
        found = self.step_over(name, size)
        if found is not None:
            return found
        begin, crc, written = self._position(), 0, 0
        for piece in pieces():
            octets = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
            self.file.write(octets.data)
            written += octets.nbytes
            if checksum is not None:
                crc = checksum(octets, crc)
        assert written == size, f"{name}: {written} bytes were given, not {size}"
        self.note(name, begin, crc)
        return crc

    def step_over(self, name: str, size: int) -> int | None:
        """Skip an array if a finished one begins here, and return its checksum; None if it must be written."""
        found = self._journal.finished(self._name, name) if self._journal else None
        if found is None or found[:2] != (self._position(), size):
            return None
        self.file.seek(size, os.SEEK_CUR)
        return found[2]

    def note(self, name: str, begin: int, checksum: int) -> None:
        """Note that an array is written, from `begin` up to here."""
        if self._journal is None:
            return
        size = self._position() - begin
        row = {"file": self._name, "name": name, "begin": begin, "bytes": size, "checksum": checksum}
        self._waiting.append(row)
        if sum(row["bytes"] for row in self._waiting) >= SYNC_BYTES:
            self.file.flush()
            os.fsync(self.file.fileno())
            self._journal.add(self._waiting)
            self._waiting.clear()

    def _position(self) -> int:
        return self.file.tell() if self._journal else 0


@contextlib.contextmanager
def array_file(path: Path, journal: Journal | None) -> Generator[ArrayFile]:
    """Open a file for arrays: resumable with a journal, atomic without.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    if journal is None:
        with atomic_file(path) as file:
            yield ArrayFile(file)
        return
    end = journal.end_of(path.name)
    if end and (not path.is_file() or path.stat().st_size < end):
        journal.forget(path.name)
        end = 0
    with path.open("r+b" if end else "wb") as file:
        file.truncate(end)
        yield ArrayFile(file, journal, path.name)


@contextlib.contextmanager
def unfinished(goal: Path, what: Mapping[str, Any], *, is_file: bool) -> Generator[Journal]:
    """A journal whose folder the block fills; the content gets the name `goal` if the block succeeds.

    After an interruption by a signal or a full disk the folder stays if an array in it is finished, and the next call
    with the same `what` resumes it. An error of ours, which another start would repeat, removes it.

    Args:
        goal: the folder, or the file that the block makes under the goal's own name.
        what: everything that the bytes depend on, unchanged by a round trip through JSON.
        is_file: whether the goal is a file.

    Raises:
        CheckpointError: a link stands where the journal or the content goes.
        FolderInUseError: another process is writing the same goal.
        OSError: it cannot be written.
    """
    goal = true_place(goal)
    place = journal_of(goal).parent
    for kept in (place, place / _CONTENT, place / _JOURNAL):
        if kept.is_symlink():  # not of our making; following it would empty another folder
            raise CheckpointError(
                f"{goal} cannot be written: {kept} stands where unfinished work is kept, and is a link. Remove it, or "
                f"choose another name."
            )
    with lock(place):
        try:
            journal = Journal(place, what)
            yield journal
            if is_file:
                with (journal.folder / goal.name).open("rb+") as file:
                    os.fsync(file.fileno())
                (journal.folder / goal.name).replace(goal)
            else:
                with atomic_folder(goal) as partial:
                    for file in journal.folder.iterdir():
                        file.rename(partial / file.name)
        except BaseException as error:
            if isinstance(error, Gpt2Error) or not _is_of_use(place):
                _remove(place, goal)
            raise
        _remove(place, goal)
    if sys.platform == "win32":
        with contextlib.suppress(OSError):  # another process holds it already
            (place / ".lock").unlink()
            place.rmdir()


def journal_of(goal: Path) -> Path:
    """The journal's path; it exists if unfinished work of a goal is kept."""
    goal = true_place(goal)
    return goal.parent / f".unfinished-{goal.name}" / _JOURNAL


def _is_of_use(place: Path) -> bool:
    """Whether another start has anything to resume."""
    rows = filter(_is_sound, read_journal(place / _JOURNAL)[1:])
    return any((place / _CONTENT / row["file"]).is_file() for row in rows)


def _remove(place: Path, goal: Path) -> None:
    """Rename a held folder, then remove it, so that nothing of the next holder of its name is removed."""
    gone = beside(goal)
    try:
        place.rename(gone)
    except OSError:  # on Windows, where the open lock file prevents it
        gone = place
    shutil.rmtree(gone, ignore_errors=True)
