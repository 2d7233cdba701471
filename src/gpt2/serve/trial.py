"""Trying a grammar in a process of its own, before the server takes it.

llguidance does not bound everything: rules nested thousands deep overflow its stack, which ends the process, and
refusing 60 kB of `a?` takes it most of a minute. So a separate process compiles each grammar and takes its first step;
a grammar that ends that process or takes too long is refused. The process starts with the first grammar, reads one line
of JSON for each, and ends with the server.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

# llguidance's bounds; its defaults allow half a gigabyte of states. Fuel is about 14 to 50 units a microsecond. The
# cost of a mask grows as the square of its items: in an ambiguous grammar 10,000 take some 20 ms and 50,000 half a
# second or more, for every text of a step. Schemas and regular expressions have less than 500.
BOUNDS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=50_000,
    step_max_items=10_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=True,
)
_STACK_BYTES = 2 << 20  # less than the server's threads have, so what compiles here compiles there
_PATIENCE = 5  # wall time over the CPU time allowed, for a busy machine


class Trial:
    """The other process. It serves one thread at a time.

    Args:
        tokens: the bytes of each id.
        eot: the id that ends a text.
        special: ids that no text encodes to.
    """

    def __init__(self, tokens: Sequence[bytes], *, eot: int, special: Sequence[int]) -> None:
        words = [token.decode("latin-1") for token in tokens]
        self._vocabulary = {"tokens": words, "eot": eot, "special": list(special)}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False
        self._asking = threading.Lock()

    def fault(self, grammar: str, most_seconds: float) -> str | None:
        """Why a grammar cannot be used; None if it can.

        Raises:
            RuntimeError: the other process does not start.
        """
        with self._asking:
            process = self._started()
            watch = threading.Timer(min(_PATIENCE * most_seconds, threading.TIMEOUT_MAX), process.kill)
            watch.daemon = True
            watch.start()
            try:
                found = _asked(process, {"grammar": grammar})
            finally:
                watch.cancel()
            if found is None:
                self._end()
        if found is not None and (found["fault"] is not None or found["seconds"] <= most_seconds):
            return found["fault"]
        took = "did not end well" if found is None else f"took {found['seconds']:.2f} s"
        return (
            f"it is too deep or too costly: compiling it {took}, and the limit grammar_seconds is {most_seconds:g}. "
            f"Simplify it: rules that name each other hundreds deep, and many optional parts or large counts in {{}}, "
            f"are the usual causes"
        )

    def close(self) -> None:
        """End the process at once; no grammar can be tried after that."""
        self._is_closed = True
        if (process := self._process) is not None:
            process.kill()  # before taking the lock: this frees the thread that holds it
        with self._asking:
            self._end()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._is_closed:
            raise RuntimeError("the server has ended")
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gpt2.serve.trial"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            if _asked(self._process, self._vocabulary) is None:
                self._end()
                raise RuntimeError("the process that tries grammars did not start")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError):  # flushing what it did not read
                process.communicate()


def _asked(process: "subprocess.Popen[bytes]", question: object) -> Any:
    """The process's answer; None if it has ended."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        return None
    return json.loads(line) if line.endswith(b"\n") else None


# What runs in the other process


class _Words:
    """The interface that llguidance expects of a tokenizer. One token a byte is enough to try a grammar."""

    bos_token_id = None

    def __init__(self, vocabulary: dict[str, Any]) -> None:
        self.eos_token_id = vocabulary["eot"]
        self.tokens = [word.encode("latin-1") for word in vocabulary["tokens"]]
        self.special_token_ids = vocabulary["special"]
        self._ids = {token: number for number, token in enumerate(self.tokens) if len(token) == 1}

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return [self._ids[byte] for number in data if (byte := bytes([number])) in self._ids]


def _fault(tokenizer: LLTokenizer, grammar: str) -> str | None:
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer, limits=BOUNDS)
    if failed:
        return messages[0]
    LLMatcher(tokenizer, grammar, log_level=0, limits=BOUNDS).compute_bitmask()  # the server meets its errors again
    return None


def _answer(questions: IO[bytes], answers: IO[bytes]) -> None:
    tokenizer = LLTokenizer(TokenizerWrapper(_Words(json.loads(questions.readline()))))
    answers.write(b"{}\n")
    answers.flush()
    for line in questions:
        began = time.process_time()
        fault = _fault(tokenizer, json.loads(line)["grammar"])
        answers.write(json.dumps({"fault": fault, "seconds": time.process_time() - began}).encode() + b"\n")
        answers.flush()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the server
    threading.stack_size(_STACK_BYTES)
    threading.Thread(target=_answer, args=(os.fdopen(0, "rb"), os.fdopen(1, "wb"))).start()


if __name__ == "__main__":
    _main()
