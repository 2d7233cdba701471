"""One line on standard error that says how far a long verb is."""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from typing import Self

from gpt2.cli import output

_LIVE_SECONDS = 0.2
_LOGGED_SECONDS = 30.0
_log = logging.getLogger("gpt2")


class StatusLine:
    """A line rewritten in place on a terminal, appended now and then elsewhere, and hidden by --quiet."""

    def __init__(self) -> None:
        self._live = output.is_terminal(sys.stderr)
        self._wanted = _log.isEnabledFor(logging.INFO)
        self._next = time.monotonic() + (0.0 if self._live else _LOGGED_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Erase the line; on a terminal the next one comes at once."""
        if self._live and self._wanted:
            self._next = 0.0
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, status: Callable[[], str]) -> None:
        """Show the result of `status`, unless a line was shown a moment ago."""
        now = time.monotonic()
        if not self._wanted or now < self._next:
            return
        self._next = now + (_LIVE_SECONDS if self._live else _LOGGED_SECONDS)
        if self._live:
            line = output.fitted(output.visible(status()), shutil.get_terminal_size().columns - 1)
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        else:
            _log.info("%s", status())


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
