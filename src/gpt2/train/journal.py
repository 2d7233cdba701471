"""Files of one JSON object a line, which grow as a run goes on: `metrics.jsonl` and `samples.jsonl`."""

import errno
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2 import files

_log = logging.getLogger("gpt2")


class Journal:
    """A file of one JSON object a line. After a resume, what was not saved is cut off: it will be written again."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        # a text may hold other line ends, and a line that was cut off may end within a character
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= from_step] if from_step else []
        files.write_text(path, "".join(f"{line}\n" for line in kept))
        self._path = path
        self._has_warned = False

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one object. What cannot be written is left out, and that is told once: no run ends for a line."""
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
            while line:  # a system that took a part of it says at the next try why it takes no more
                line = line[file.write(line) :]
        except OSError:
            file.truncate(length)
            raise


def why(error: OSError) -> str:
    """What kept a file from being written, in words."""
    return "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # the last line of a process that was killed
