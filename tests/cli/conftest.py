"""Running the command line inside the test's process, with its streams in hand."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gpt2.cli import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def gpt2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`gpt2("score", "text", stdin=b"…")`: the exit code and what was written."""

    def run(*arguments: str, stdin: bytes = b"", encoding: str = "utf-8", command: str = "gpt2") -> Ran:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding=encoding))
        monkeypatch.setattr("sys.argv", [command, *arguments])
        capsys.readouterr()
        code = main.run(list(arguments))
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
