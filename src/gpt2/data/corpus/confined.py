"""Parsing in a process of its own, within bounds for each document.

A page of a few kilobytes can hold a parser for hours, make it fill the memory, or end it, and a parser in C++ cannot be
interrupted. So each process that reads documents has another one that parses for it; a document that exceeds a bound
ends only that other process. It starts with the first document and ends when its standard input does.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from gpt2.data.workers import deaf_children

# For one document, or chapter of a book: several times what the largest honest ones take (an article of 4 MB 9 s and
# 0.3 GB), so that what hostile ones alone meet depends on the machine. The time is the processor's, which neither a
# busy machine nor Ctrl-Z uses up.
SECONDS = 60.0
MEMORY_BYTES = 2 << 30
TOO_COSTLY = "it takes a parser too long, or too much memory"
_TRIES = 2  # a process may also die of what came before, or be killed by a system without memory


class ParsingError(Exception):
    """A parser raised an exception, or the other process does not start: no damage of a document's."""


class _Process:
    """The other process; what it parses is named by module and function, and all else is text."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._text = ""  # that it holds: a page is skimmed, and then extracted

    def ask(self, question: list[Any], text: str) -> tuple[str, str] | None:
        """The kind and the text of its answer; None if it has ended."""
        process = self._running or self._start()
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):
            is_held = text is self._text
            _send(process.stdin, [*question, is_held], "" if is_held else text)
            self._text = text
            return _receive(process.stdout)
        return None

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", "-c", f"from {__name__} import answer_all; answer_all()"]
        with deaf_children():
            process = self._running = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        assert process.stdout is not None
        if _receive(process.stdout) is None:
            raise ParsingError("the process that parses documents did not start")
        return process

    def end(self) -> int:
        """End the process; returns its exit code."""
        process, self._running, self._text = self._running, None, ""
        if process is None:
            return 0
        process.kill()  # which changes nothing if it has ended
        with suppress(OSError):  # flushing what it did not read
            process.communicate()
        return process.returncode


_here: list[_Process] = []


def begin() -> None:
    """Have another process parse for this one, until `end`."""
    end()
    _here.append(_Process())


def end() -> None:
    """End the other process, if there is one; what is parsed from now on is parsed here, without bounds."""
    while _here:
        _here.pop().end()


def _send(pipe: IO[bytes], head: Any, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")  # three times as fast as in JSON
    pipe.write(json.dumps([head, len(data)]).encode() + b"\n")
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[Any, str] | None:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    head, size = json.loads(line)
    data = pipe.read(size)
    return (head, data.decode("utf-8", "surrogatepass")) if len(data) == size else None


def confined(parse: Callable[..., str], text: str, *arguments: Any) -> str | None:
    """What a parser makes of a document; None if it exceeded a bound.

    Args:
        parse: a function of a module.
        text: of the document.
        arguments: more of the function's, in JSON's types.

    Raises:
        ParsingError: the function failed, or the other process does not start.
    """
    if not _here:
        return parse(text, *arguments)
    process = _here[0]
    question = [parse.__module__, parse.__name__, SECONDS, MEMORY_BYTES, arguments]
    for _ in range(_TRIES):
        try:
            answer = process.ask(question, text)
        except BaseException:  # such as Ctrl-C: the answer to this question must not be taken for the next one's
            process.end()
            raise
        if answer is not None:
            kind, found = answer
            if kind == "fault":
                raise ParsingError(found)
            return found
        if process.end() == -getattr(signal, "SIGPROF", 0):  # out of time, and would be again
            break
    return None


# What runs in the other process


def answer_all() -> None:
    """Answer questions from standard input, one a line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the process that asks
    questions, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library says is no answer
    _send(answers, "ready", "")
    held = ""
    while question := _receive(questions):
        (module, name, seconds, memory_bytes, arguments, is_held), text = question
        held = held if is_held else text
        _bound(seconds, memory_bytes)
        try:
            kind, found = "text", getattr(import_module(module), name)(held, *arguments)
        except (MemoryError, RecursionError):
            os._exit(1)
        except Exception:
            kind, found = "fault", traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        _send(answers, kind, found)


def _bound(seconds: float, memory_bytes: int) -> None:
    """Have the system end this process when it has worked for so long, and give it so much more memory (Linux)."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    else:
        faulthandler.dump_traceback_later(seconds, exit=True)  # by the clock, the best there is on Windows
    if sys.platform == "linux":
        import resource

        with suppress(OSError, ValueError):  # there is a stricter one
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limit = pages * resource.getpagesize() + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
