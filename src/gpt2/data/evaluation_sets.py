"""Evaluation sets of any form as texts: every string in a file is an example or part of one.

Overlap and decontamination need an evaluation set's words, not its structure. So a JSON value yields all its strings, a
Parquet row all its text columns, and any other file its whole text, if it is UTF-8.
"""

import gzip
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt2.data.compressed import SUFFIXES, open_source
from gpt2.data.documents import files_in
from gpt2.errors import DataError, MissingExtraError

_ASIDE = ("readme", "licence", "license", "manifest")  # beside the data, but not part of it
_log = logging.getLogger("gpt2")


def find_test_sets(names: Sequence[str | Path]) -> list[Path]:
    """The files at these names; a folder stands for all its files, recursively and sorted, except hidden and read-me's.

    Raises:
        DataError: a name does not exist, or a folder has no file.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if not str(name):  # as a path it would be the working directory
            raise DataError("The test set '' cannot be read: it has no name. Name a file or a folder.")
        if not path.exists():
            raise DataError(f"The test set {path} cannot be read: there is no such file or folder.")
        if path.is_file():
            found.append(path)
            continue
        inside = [file for file in files_in(path) if not file.name.lower().startswith(_ASIDE)]
        if not inside:
            raise DataError(f"The test set {path} cannot be read: the folder holds no file.")
        found += inside
    return found


def read_test_set(path: Path) -> Iterator[str]:
    """The examples of one file: lines of JSON Lines, items of a JSON list, rows of Parquet, or the whole text.

    A file that is not text is skipped with a warning.

    Raises:
        DataError: the archive or Parquet file is broken.
        MissingExtraError: a library for this form is not installed.
        OSError: the file cannot be read.
    """
    packed = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    kind = Path(path.name.removesuffix(packed)).suffix
    if kind == ".parquet":
        yield from _parquet(path)
        return
    with open_source(str(path)) as file:
        data = file.read()
    if not packed and data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is broken: {error}. Fetch it again.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        _log.warning("%s is not text: skipped", path)
        return
    if kind in (".jsonl", ".ndjson", ".json"):
        try:
            values = [json.loads(text)] if kind == ".json" else [json.loads(line) for line in _lines(text)]
        except (ValueError, RecursionError):  # not JSON despite its name: use its words all the same
            values = [text]
        if len(values) == 1 and isinstance(values[0], list):
            values = values[0]
        for value in values:
            yield "\n".join(_strings(value))
    elif text:
        yield text


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)


def _parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError.of(f"{path} cannot be read", package="pyarrow", extra="data") from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield "\n".join(_strings(row))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} is broken: {error}. Fetch it again.") from error
