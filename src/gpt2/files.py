"""Files that are whole or absent: atomic writing, hashes and manifests, locks, bounded reading.

A write goes to a temporary sibling, is flushed to the disk (fsync) and renamed over its goal, so that a
crash or a full disk leaves what was there before. Works alike on Linux, macOS and Windows.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any

from gpt2.errors import FolderInUseError, FormatError

MANIFEST_NAME = "manifest.json"
_TEMPORARY_PREFIX = ".partial-"


@contextlib.contextmanager
def atomic_file(path: Path) -> Generator[IO[bytes]]:
    """Open `path` for writing bytes; it takes its name only if the block ends well.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Yield an empty folder to fill; it takes the name `path` only if the block ends well.

    A folder already at `path` is replaced as a whole, and stays if anything fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    partial.mkdir()
    try:
        yield partial
        for file in sorted(p for p in partial.rglob("*") if p.is_file()):
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        _sync_folder(partial)
        old = None
        if path.exists():
            old = path.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-old-{path.name}")
            path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            if old is not None:
                old.rename(path)
            raise
        _sync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Read a whole file of at most `limit_bytes`.

    Raises:
        FormatError: the file is larger, which for a file of this kind means it is not what it claims to be.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise FormatError(f"{path} is larger than the {limit_bytes:,} bytes a file of this kind may have.")
    return data


def read_json(path: Path, limit_bytes: int = 1 << 20) -> Any:
    """Read a JSON file of at most `limit_bytes`, refusing duplicate keys.

    Raises:
        FormatError: too large, not UTF-8, not JSON, nested too deeply, or a key given twice.
    """
    return parse_json(read_bounded(path, limit_bytes), str(path))


def parse_json(data: bytes, source: str) -> Any:
    """Parse JSON that came from `source` (named in the error), refusing duplicate keys.

    Raises:
        FormatError: not UTF-8, not JSON, nested too deeply, or a key given twice.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} is not readable JSON: {error}.") from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:80]!r} is given twice")
        result[key] = value
    return result


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Record size and SHA-256 of every file below `folder` in its `manifest.json`, with `facts` beside them."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }
    write_json(folder / MANIFEST_NAME, {**(facts or {}), "files": files})


def broken_files(folder: Path) -> list[str]:
    """What is wrong with the files that `folder`'s manifest lists: one line each, none when all is well.

    Raises:
        FormatError: there is no readable manifest.
    """
    if not (folder / MANIFEST_NAME).is_file():
        raise FormatError(f"{folder} has no {MANIFEST_NAME}, so it was never finished.")
    manifest = read_json(folder / MANIFEST_NAME, limit_bytes=64 << 20)
    found: list[str] = []
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != facts["bytes"]:
            found.append(f"{name} has {path.stat().st_size:,} bytes, not {facts['bytes']:,}")
        elif sha256_file(path) != facts["sha256"]:
            found.append(f"{name} has another SHA-256 than its manifest says")
    return found


@contextlib.contextmanager
def lock(folder: Path) -> Generator[None]:
    """Hold `folder` for this process; the operating system lets go when the process ends, however it ends.

    Raises:
        FolderInUseError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+b") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUseError(
                f"{folder} is in use by another process. Wait for it to end, or choose another folder."
            ) from error
        yield


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
