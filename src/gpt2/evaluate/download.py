"""Fetching benchmark files whose licences allow it, each checked by its hash."""

import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2.errors import DataError
from gpt2.evaluate.benchmark import Benchmark, DataFile
from gpt2.files import atomic_file, lock, make_folder, sha256_file
from gpt2.hub.transfer import Progress, RemoteFile, fetch

_UNPACKED_LIMIT_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a file.

    Attributes:
        file: that was wanted.
        path: where it is, or would be.
        state: "here" already, "fetched", or "by hand" if this package may not fetch it.
    """

    file: DataFile
    path: Path
    state: str


def files_of(benchmarks: Sequence[Benchmark], *, every_choice: bool) -> list[DataFile]:
    """The files of benchmarks, each path once: for the default choices, or for all."""
    found: dict[str, DataFile] = {}
    for benchmark in benchmarks:
        files = benchmark.files if every_choice else benchmark.files_for(benchmark.defaults())
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values())


def download(
    files: Sequence[DataFile],
    folder: Path,
    *,
    begin: Callable[[DataFile], Progress] = lambda file: lambda more: None,
    pause: Callable[[float], None] = time.sleep,
) -> list[Outcome]:
    """Fetch the files that are not in the folder. What has arrived stays after any stop, and the next call resumes.

    Args:
        files: from `files_of`.
        folder: the data folder; made if it does not exist.
        begin: called before a file is fetched; its result is called with the number of bytes that arrive.
        pause: waits before a retry.

    Raises:
        DataError: an existing file, which is left unchanged, or a received one is not the intended file.
        DownloadError: a server refuses, cannot be reached, or sends something else.
        FolderInUseError: another process is fetching into the same folder.
        OSError: the folder cannot be written.
    """
    outcomes: list[Outcome] = []
    with lock(folder):
        for file in files:
            path = folder / file.path
            state = "here" if path.is_file() else "fetched" if file.url else "by hand"
            if state == "here":
                _check(path, file, f"{path} is there, but it is another file. Move it away, and run this again")
            elif state == "fetched":
                make_folder(path.parent)
                _fetch(file, path, begin(file), pause)
            outcomes.append(Outcome(file=file, path=path, state=state))
    return outcomes


def _fetch(file: DataFile, path: Path, progress: Progress, pause: Callable[[float], None]) -> None:
    packed = file.url.endswith(".zip") and path.suffix != ".zip"
    goal = path.with_name(f"{path.name}.zip") if packed else path
    remote = RemoteFile(name=goal.name, url=file.url, bytes=None, sha256=None if packed else file.sha256 or None)
    fetch(remote, goal, part=path.with_name(f".{goal.name}.part"), progress=progress, pause=pause)
    if packed:
        try:
            _unpack(goal, path, file)
        finally:
            goal.unlink()


def _unpack(archive: Path, path: Path, file: DataFile) -> None:
    """Extract the intended file of an archive, after checking it."""
    fault = f"{file.path} cannot be taken from {file.url}"
    try:
        with zipfile.ZipFile(archive) as opened, atomic_file(path) as out:
            inside = opened.getinfo(path.name)
            if inside.file_size > _UNPACKED_LIMIT_BYTES:
                raise DataError(f"{fault}: it is larger than {_UNPACKED_LIMIT_BYTES:,} bytes. Tell us.")
            with opened.open(inside) as source:
                shutil.copyfileobj(source, out, 1 << 20)
            out.flush()
            _check(Path(out.name), file, f"{fault}: what came is another file. Try again later")
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{fault}: {error}. Try again later.") from None


def _check(path: Path, file: DataFile, fault: str) -> None:
    found = sha256_file(path)
    if file.sha256 and found != file.sha256:
        raise DataError(f"{fault}: its SHA-256 is {found}, expected {file.sha256}.")
