"""Reading a benchmark's files, each checked against the hash its numbers were measured with."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gpt2.errors import DataError
from gpt2.evaluate.benchmark import DataFile
from gpt2.files import read_bounded

_LIMIT_BYTES = 1 << 30


def read_files(folder: Path, files: Sequence[DataFile]) -> list[str]:
    """The text of each file.

    Raises:
        DataError: one is missing, or is not the file that is meant; the message says which, and both hashes.
        OSError: one cannot be read.
    """
    return [_read(folder / file.path, file) for file in files]


def _read(path: Path, file: DataFile) -> str:
    if not path.is_file():
        raise DataError(f"{path} is missing. It is {file.origin}; its SHA-256 is {file.sha256}.")
    data = read_bounded(path, _LIMIT_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} is not the file that is meant: its SHA-256 is {found} ({len(data):,} bytes), expected "
            f"{file.sha256}. It may be incomplete, or another edition. Expected is {file.origin}."
        )
    return data.decode("utf-8")
