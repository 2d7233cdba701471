"""Answers of a model that were already computed, so that an interrupted evaluation goes on where it was.

One file for each model, weight form and backend: a line of JSON for each request, added as soon as it is
answered and found again by a hash of the request's tokens. Nothing else decides, so a changed choice or limit
reuses what is the same and computes what is not. A line that an interruption cut short is ignored.
"""

import hashlib
import json
from pathlib import Path
from typing import IO

from gpt2.generation.targets import Target, TargetScore


class Answers:
    """The answers in one file. Without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._found: dict[str, TargetScore] = {}
        self._file: IO[str] | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = False
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            torn = not text.endswith("\n")
            for line in text.splitlines():
                self._take(line)
        self._file = path.open("a", encoding="utf-8", newline="\n")
        if torn:
            self._file.write("\n")

    def get(self, request: Target) -> TargetScore | None:
        """The answer to a request, where there is one."""
        return self._found.get(_key(request))

    def put(self, request: Target, answer: TargetScore) -> None:
        """Keep an answer; it is on its way to the disk when this returns."""
        key = _key(request)
        self._found[key] = answer
        if self._file is not None:
            line = {"key": key, "logprobs": answer.logprobs, "ranks": answer.ranks, "best": answer.best}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _take(self, line: str) -> None:
        try:
            found = json.loads(line)
            answer = TargetScore(
                logprobs=tuple(found["logprobs"]), ranks=tuple(found["ranks"]), best=tuple(found["best"])
            )
            self._found[found["key"]] = answer
        except (ValueError, KeyError, TypeError):
            return


def _key(request: Target) -> str:
    tokens = json.dumps([request.context, request.targets, request.best])
    return hashlib.sha256(tokens.encode("ascii")).hexdigest()[:32]
