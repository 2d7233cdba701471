"""JSON Lines files that grow during a run: `metrics.jsonl` and `samples.jsonl`."""

import errno
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2 import files

_log = logging.getLogger("gpt2")


class Journal:
    """A JSON Lines file. A resume cuts off the lines after the last checkpoint: they will be written again."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        # texts may hold other line separators, and a truncated line may end within a character
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= from_step] if from_step else []
        files.write_text(path, "".join(f"{line}\n" for line in kept))
        self._path = path
        self._has_warned = False

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one object. A failed write is skipped, with one warning a run: no run ends for a line."""
        line = json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n"
        try:
            append(self._path, line.encode())
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("%s misses lines from here on: %s. The run continues", self._path, why(error))


def append(path: Path, line: bytes) -> None:
    """Add a line to a file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        length = file.tell()
        try:
            while line:  # after a partial write the next try raises the reason
                line = line[file.write(line) :]
        except OSError:
            file.truncate(length)
            raise


def why(error: OSError) -> str:
    """Why a file was not written, in words."""
    return "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # the last line of a killed process
