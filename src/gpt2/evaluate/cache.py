"""A cache of a model's answers, so that an interrupted evaluation can resume.

There is one file for each model, weight form and backend, with a line of JSON for each request, added as soon as it is
answered and found by a hash of the request. Nothing else is part of the key, so after a change of a choice or limit,
equal requests are reused. A truncated line is ignored.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import IO

from gpt2.errors import DataError
from gpt2.evaluate.benchmark import Answer, Continued, Request
from gpt2.files import make_folder
from gpt2.generation.targets import Target, TargetScore


class Answers:
    """The answers in one file. Without a path nothing is kept.

    Raises:
        DataError: the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._found: dict[str, Answer] = {}
        self._file: IO[str] | None = None
        self._path = path
        if path is None:
            return
        torn = False
        try:
            make_folder(path.parent)
            if path.exists():
                text = path.read_text(encoding="utf-8", errors="replace")
                torn = not text.endswith("\n")
                for line in text.splitlines():
                    self._take(line)
            self._file = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise DataError(
                f"The answers cannot be kept in {path.parent}: {error.strerror}. Choose another cache folder "
                f"(XDG_CACHE_HOME), or keep none (--no-cache)."
            ) from error
        if torn:
            self._file.write("\n")

    def get(self, request: Request) -> Answer | None:
        """The answer to a request, if there is one."""
        return self._found.get(_key(request))

    def put(self, request: Request, answer: Answer) -> None:
        """Keep an answer; it has been handed to the system when this returns.

        Raises:
            OSError: it cannot be written; the error names the file.
        """
        key = _key(request)
        self._found[key] = answer
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"key": key, **asdict(answer)}) + "\n")
            self._file.flush()
        except OSError as error:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # closing tries to write again
                file.close()
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _take(self, line: str) -> None:
        try:
            found = json.loads(line)
            answer = (
                Continued(text=found["text"], logprob=found["logprob"])
                if "text" in found
                else TargetScore(
                    logprobs=tuple(found["logprobs"]),
                    ranks=tuple(found["ranks"]),
                    best=tuple(found["best"]),
                    best_logprob=found["best_logprob"],
                )
            )
            self._found[found["key"]] = answer
        except (ValueError, KeyError, TypeError):
            return


def _key(request: Request) -> str:
    if isinstance(request, Target):
        asked = json.dumps([request.context, request.targets, request.best])
    else:
        asked = json.dumps([request.prompt, repr(request.sampling)])
    return hashlib.sha256(asked.encode("ascii")).hexdigest()[:32]
