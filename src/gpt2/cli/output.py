"""Output to terminals and pipes: text made safe for the former, unchanged for the latter; messages by level.

A model can write escape sequences, and a terminal would obey them (change its title, its colours, its keyboard).
So on a terminal control characters are shown instead of sent. To a pipe or a file text goes unchanged.
Text goes to standard output; messages, tables of speed and errors go to standard error.
"""

import contextlib
import errno
import io
import logging
import os
import re
import sys
import time
import unicodedata
from bisect import bisect_right
from collections.abc import Generator, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, TextIO

import click

_BIDI = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {
    # C0 and DEL as their pictures, ␛ for escape; newline and tab are harmless and stay
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    # C1 (8-bit escapes) and what reorders the line have no picture: their code
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    **{code: f"\\u{code:04x}" for code in _BIDI},
}
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f" + "".join(map(chr, _BIDI)) + "]")


def prepare_streams() -> None:
    """Make the standard streams UTF-8 on any locale; lone surrogates are written as their codes.

    A terminal is read in its own encoding. Invalid bytes are read as surrogates, which no text may hold, so that the
    reader can report their place. Of streams that were closed before Python began, standard input is empty, standard
    error swallows everything, and standard output refuses everything, since a lost result is a failure.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in order, so that each takes its own descriptor, not some file
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  # stays open, as they do
            setattr(sys, name, _Closed(stream) if name == "stdout" else stream)
    own = sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper)
    if own and isinstance(sys.stdout.buffer, io.RawIOBase):
        # PYTHONUNBUFFERED, as container images set it: Python then tries each write once, and drops the rest
        unbuffered = io.FileIO(sys.stdout.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(unbuffered), encoding="utf-8", line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=None if is_terminal(sys.stdin) else "utf-8", errors="surrogateescape")


class _Closed(io.TextIOBase):
    """A standard output that was closed before Python began: writing to it fails."""

    def __init__(self, place: IO[str]) -> None:
        self._place = place  # keeps the descriptor taken

    def write(self, text: str, /) -> int:
        """Fail, unless there is nothing to write."""
        if text:
            raise OSError(errno.EBADF, "the result cannot be written: standard output is closed")
        return 0


def settle_streams() -> None:
    """Flush the standard streams; if a reader has gone, keep the interpreter from complaining at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def has_lost_reader() -> bool:
    """Whether standard output has lost its reader, as after `gpt2 … | head`."""
    if sys.platform == "win32":  # no way to poll a pipe
        return True
    import select

    watch = select.poll()
    try:
        watch.register(sys.stdout.fileno(), 0)  # errors and hang-ups are always reported
    except (OSError, ValueError):  # not a file
        return False
    return bool(watch.poll(0))


def visible(text: str) -> str:
    """`text` with control and text-direction characters made visible; newline and tab stay."""
    return text.translate(_SHOWN)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def colour_wanted(stream: TextIO) -> bool:
    """Whether to use colour and progress bars: only on a capable terminal, without NO_COLOR (no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write(text: str, *, end: str = "") -> None:
    """Write a model's text to standard output at once: safe on a terminal, unchanged elsewhere."""
    sys.stdout.write((visible(text) if is_terminal(sys.stdout) else text) + end)
    sys.stdout.flush()


def echo_prompt(prompt: str) -> None:
    """On a terminal, show the prompt before its continuation; it is not part of the output."""
    if is_terminal(sys.stderr):
        shown = visible(prompt)
        sys.stderr.write(click.style(shown, bold=True) if colour_wanted(sys.stderr) else shown)
        sys.stderr.flush()


def write_json(value: object, *, indent: int | None = None) -> None:
    """Write `value` as JSON with a newline; characters that a terminal might obey are escaped as in JSON."""
    import json

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    text = _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Rows as lines of aligned columns, the first row a heading; columns in `right` are right-aligned."""
    cells = [[visible(cell).replace("\n", "\u240a").replace("\t", "\u2409") for cell in row] for row in rows]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        blanks = [" " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True)]
        parts = zip(row, blanks, strict=True)
        lines.append("  ".join(blank + cell if i in right else cell + blank for i, (cell, blank) in enumerate(parts)))
    return "\n".join(line.rstrip() for line in lines)


def fitted(text: str, columns: int) -> str:
    """As much of the beginning of a text as a terminal shows in so many columns."""
    ends = list(accumulate(map(_columns, text)))
    return text[: bisect_right(ends, columns)]


def _columns(text: str) -> int:
    """How wide a terminal shows it: two columns for a wide character, none for a mark on the one before."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in ("W", "F") for each in text)
    return len(text) + wide - sum(unicodedata.category(each) in ("Mn", "Me") for each in text)


def counted(n: int, what: str) -> str:
    """A count in words: "1 token", "1,024 tokens"."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def complain(message: str, usage: str = "") -> None:
    """Write an error to standard error, after the usage line if usage was wrong."""
    with contextlib.suppress(OSError):
        if usage:
            sys.stderr.write(visible(usage) + "\n")
        head, colon, rest = visible(message).partition(": ")
        if colon and head == "error" and colour_wanted(sys.stderr):
            head = click.style(head, fg="red", bold=True)
        sys.stderr.write(f"{head}{colon}{rest}\n")
        sys.stderr.flush()


class Messages(logging.Handler):
    """Shows what the rooms log, on standard error: all but debugging by default, warnings with --quiet.

    Attributes:
        debug: --debug was given: show everything, and tracebacks.
        form: "plain"; "stamped" with the time before each line; or "json", an object a line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.debug = False
        self.form = "plain"

    def choose(self, *, quiet: bool = False, debug: bool = False) -> None:
        """Apply --quiet or --debug."""
        self.debug = self.debug or debug
        level = logging.DEBUG if self.debug else logging.WARNING if quiet else None
        if level is not None:
            logging.getLogger("gpt2").setLevel(level)

    def speak_for_all(self) -> None:
        """Show other libraries' warnings too, in the same form, so that a server has one log."""
        logging.getLogger().addHandler(self)

    @contextlib.contextmanager
    def shown(self) -> Generator[None]:
        """Show messages while the block runs."""
        log = logging.getLogger("gpt2")
        before = log.level, log.propagate
        log.addHandler(self)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(self)
            logging.getLogger().removeHandler(self)
            log.setLevel(before[0])
            log.propagate = before[1]

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message; a warning says that it is one."""
        level = record.levelname.lower()
        line = record.getMessage() if record.levelno == logging.INFO else f"{level}: {record.getMessage()}"
        if self.form == "plain":
            complain(line)
            return
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        if self.form == "json":
            import json

            fields = getattr(record, "fields", None) or {"message": record.getMessage()}
            line = json.dumps({"time": moment, "level": level, **fields} | ({"trace": trace} if trace else {}))
        else:
            line = f"{moment} {line}" + (f"\n{trace}" if trace else "")
        complain(line)
