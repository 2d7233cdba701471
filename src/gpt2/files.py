"""Files that are complete or absent: atomic writing, hashes and manifests, locks, bounded reading.

A write goes to a temporary sibling, is flushed to disk (fsync) and renamed over its target, so a crash or a full
disk leaves the old content. This works the same on Linux, macOS and Windows.

A process killed while writing leaves `.partial-…` beside the target or, killed between two renames, the old folder
as `.previous-…`. The next write to the same target removes leftovers that are more than an hour old; a `.previous-…`
stays as long as the target is missing.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any

from gpt2.errors import DataError, FolderInUseError, FormatError, Gpt2Error

MANIFEST_NAME = "manifest.json"
CONVERT = "Convert the file (`iconv -f cp1252 -t utf-8`, if it is an old one)"  # advice for files that are not UTF-8
_PARTIAL, _PREVIOUS = "partial", "previous"
_STALE_SECONDS = 3600.0
_OTHER_DOCUMENTS = {
    b"PK\x03\x04": "a Word document, or another zip archive",
    b"\xd0\xcf\x11\xe0": "an old Word document, or another of Office's",
    b"%PDF-": "a PDF",
}
_OPEN_ALREADY = re.compile(r"/dev/(?:stdout|(stderr))|/(?:dev|proc/self)/fd/(\d+)")


@contextlib.contextmanager
def atomic_file(path: Path) -> Generator[IO[bytes]]:
    """Open `path` for writing bytes; the file gets its name only if the block succeeds. A link stays a link.

    A device or a pipe (`/dev/null`, `/dev/stdout`, a shell's `>(…)`) is written to directly, not replaced. So is a
    file that the shell has already opened: its content stays.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old content stays.
    """
    if is_stream(path):
        descriptor = _open_already(path)
        try:
            with path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb") as file:
                yield file
        except OSError as error:
            raise _of_goal(error, path, path) from None
        return
    path = _ready(path)
    partial = beside(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _of_goal(error, partial, path) from None
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Yield an empty folder to fill; it gets the name `path` only if the block succeeds.

    An existing folder at `path` is replaced as a whole, and stays if anything fails. A link to a folder stays a link.
    """
    path = _ready(path)
    partial, previous = beside(path), beside(path, _PREVIOUS)
    try:
        partial.mkdir()
        yield partial
        for inside in sorted(partial.rglob("*")):
            if inside.is_dir():
                _sync_folder(inside)
            else:
                with inside.open("rb+") as handle:  # Windows flushes only files open for writing
                    os.fsync(handle.fileno())
        _sync_folder(partial)
        if path.is_dir():
            path.rename(previous)
        partial.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _of_goal(error, partial, path) from None
    finally:
        if previous.exists() and not path.exists():
            previous.rename(path)
        shutil.rmtree(previous, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)


def _of_goal(error: OSError, partial: Path, path: Path) -> OSError:
    """The same error with the target's name, which the user knows; a full disk's error names no file."""
    is_full = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if is_full or (error.filename is not None and str(error.filename) == str(partial)):
        error.filename = str(path)
    return error


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents.

    Raises:
        NotADirectoryError: one of them is a file; the message says which.
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        files = [place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()]
        if not files:
            raise
        why = f"nothing can be written below {files[0]}, which is a file. Choose another place"
        raise NotADirectoryError(errno.ENOTDIR, why) from error


def true_place(path: Path) -> Path:
    """`path` without symbolic links.

    Raises:
        OSError: they form a loop (pathlib reports this with another error, or not at all).
    """
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return place


def check_goal(path: Path) -> None:
    """Check before a long computation that its result can be written to `path`; leave nothing behind.

    Raises:
        OSError: its folder cannot be made or written.
    """
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    made = _not_there(true_place(path).parent)
    try:
        probe = beside(_ready(path))
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _of_goal(error, probe, path) from None
    finally:
        _remove_empty(made)


def is_stream(path: Path) -> bool:
    """Whether `path` can only be written to, not replaced: a device, a pipe, a socket, a file already open.

    Pass the path unresolved: a pipe in /proc has no other path.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _open_already(path) is not None


def _open_already(path: Path) -> int | None:
    """The descriptor that a path like /dev/stdout refers to; opening it by name would truncate the file."""
    found = _OPEN_ALREADY.fullmatch(str(path))
    return None if found is None else int(found[2] or (2 if found[1] else 1))


def _not_there(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist, innermost first."""
    return list(itertools.takewhile(lambda place: not place.exists(), (folder, *folder.parents)))


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders made in vain; a folder that is not empty stays, and so do its parents."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _ready(path: Path) -> Path:
    """The resolved `path`, after making its folder and removing what killed processes left beside it."""
    path = true_place(path)
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, f"{path} is the root, and nothing can take its place. Choose another")
    make_folder(path.parent)
    kinds = f"{_PARTIAL}|{_PREVIOUS}" if path.exists() else _PARTIAL
    left = re.compile(rf"\.({kinds})-[0-9a-f]{{8}}-{re.escape(path.name)}")
    with contextlib.suppress(OSError):  # failed cleanup must not fail the write
        for entry in [entry for entry in path.parent.iterdir() if left.fullmatch(entry.name)]:
            newest = max(p.lstat().st_mtime for p in (entry, *entry.rglob("*")))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return path


def beside(path: Path, kind: str = _PARTIAL) -> Path:
    """A free name in the same folder, so on the same disk; later writes remove leftovers with such names."""
    return path.with_name(f".{kind}-{uuid.uuid4().hex[:8]}-{path.name}")


def remove_intruder(path: Path) -> None:
    """Remove what is not a file in a cache's place for a file: a link would lead our bytes elsewhere, a pipe wait.

    Raises:
        OSError: it cannot be removed, as a folder.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def path_of(given: object, what: str, error: type[Gpt2Error]) -> Path:
    """The path that a caller gave for `what`.

    Raises:
        error: it is not a path, or one that no file can have, or empty, which would mean the working folder.
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(name := os.fspath(given), str) or not name:
        raise error(f"{what} is given by its path: got {given!r:.60}. Give a text, or a pathlib.Path.")
    try:
        possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise error(f"{what} cannot be {name!r:.60}: no file can have this name. Choose another.")
    return Path(name)


def cache_folder() -> Path:
    """This package's folder in the user's cache: under XDG_CACHE_HOME if set, else in the platform's own place.

    A relative XDG_CACHE_HOME counts as unset, as its specification says.
    """
    if Path(chosen := os.environ.get("XDG_CACHE_HOME", "")).is_absolute():
        return Path(chosen) / "gpt2"
    if sys.platform == "darwin":
        return home_folder() / "Library" / "Caches" / "gpt2"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home_folder() / "AppData" / "Local") / "gpt2"
    return home_folder() / ".cache" / "gpt2"


def home_folder() -> Path:
    """The user's home; the root for a user without one (no HOME, no account), as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def is_utf8(text: str) -> bool:
    """Whether `text` can be encoded; lone surrogates cannot, which Python uses for names that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically.

    Raises:
        DataError: it holds a lone surrogate, which Python uses for names that are not UTF-8; nothing is written.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        before = re.split(r'["\n]', text[: error.start])[-1]
        word = before + re.split(r'["\n]', text[error.start :])[0]
        raise DataError(
            f"{path} cannot be written: it would hold {word!r:.100}, which is not UTF-8. Choose another name, or "
            f"rename the file or folder that is called so."
        ) from None
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Read a whole file of at most `limit_bytes`.

    Raises:
        FormatError: the file is larger, so it is not the kind of file that it claims to be.
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
        FormatError: it is too large, not UTF-8, not JSON, nested too deeply, or has a duplicate key.
    """
    return parse_json(read_bounded(path, limit_bytes), str(path))


def parse_json(data: bytes, source: str) -> Any:
    """Parse JSON that came from `source` (named in the error), refusing duplicate keys.

    Raises:
        FormatError: it is not UTF-8, not JSON, nested too deeply, or has a duplicate key.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} is not readable JSON: {error}.") from error


def parse_toml(data: bytes, source: str, error: type[Gpt2Error]) -> dict[str, Any]:
    """Parse TOML that came from `source` (named in the error); a byte order mark at the start is ignored.

    Raises:
        error: it is not UTF-8, not TOML, or nested too deeply.
    """
    import tomllib  # here, since every command imports this module and few read TOML

    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as why:
        raise error(f"{source} is not readable TOML: {why}.") from why


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that is appended to one JSON line at a time; a truncated last line is skipped."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # splitlines splits at U+2028
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


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
    """The problems of the files in `folder`'s manifest, one line each; empty if there are none.

    Raises:
        FormatError: there is no readable manifest.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FormatError(f"{folder} has no {MANIFEST_NAME}, so it was never finished. Make it again.")
    manifest = read_json(path, limit_bytes=64 << 20)
    try:
        listed = {name: (int(facts["bytes"]), facts["sha256"]) for name, facts in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not list files with their sizes and SHA-256. Make {folder} again.") from error
    found: list[str] = []
    for name, (wanted_bytes, sha256) in listed.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != wanted_bytes:
            found.append(f"{name} has {path.stat().st_size:,} bytes, not {wanted_bytes:,}")
        elif sha256_file(path) != sha256:
            found.append(f"{name} has another SHA-256 than its manifest says")
    return found


@contextlib.contextmanager
def lock(folder: Path) -> Generator[None]:
    """Lock `folder` for this process; the operating system releases it however the process ends.

    If the block fails while the folder is still empty, a folder that was made for it is removed.

    Raises:
        FolderInUseError: another process holds it.
        OSError: the folder cannot be written, or its file system does not support locks.
    """
    made, path = _not_there(folder), folder / ".lock"
    is_new = not path.exists()
    make_folder(folder)
    with path.open("a+b") as file:
        _hold(file, path)
        try:
            yield
        except BaseException:
            is_new = is_new and _is_at(file, path)  # another process may have removed and remade it
            if sys.platform == "win32":  # Windows cannot remove an open file
                file.close()
            with contextlib.suppress(OSError):
                if is_new and list(folder.iterdir()) == [path]:
                    path.unlink()
                    _remove_empty(made)
            raise


def _hold(file: IO[bytes], path: Path) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_held = _is_at(file, path)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):  # the last two are Windows'
            raise
        is_held = False
    if not is_held:
        raise FolderInUseError(
            f"{path.parent} is in use by another process. Wait for it to end, or choose another folder."
        )


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether `path` still names this open file: its last holder may have removed it, or its folder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_other_documents(name: str, start: bytes) -> None:
    """Refuse word-processor files, recognized by their first bytes, whatever their name.

    Raises:
        DataError: it is one.
    """
    for begins, kind in _OTHER_DOCUMENTS.items():
        if start.startswith(begins):
            raise DataError(
                f"{name} is not text: it is {kind}. Save the document as plain text (.txt, UTF-8)"
                f"{', or unpack the archive' if 'archive' in kind else ''}."
            )
