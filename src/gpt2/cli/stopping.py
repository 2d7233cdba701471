"""Stopping a long, resumable verb: by Ctrl-C, a signal or a full disk."""

import contextlib
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from types import FrameType

from gpt2.cli import output

SAVED = 75  # the exit code if a signal stopped a verb that the same command resumes


@contextlib.contextmanager
def resumable(kept: str, *, sign: Path | None = None) -> Generator[None]:
    """While the block runs, SIGTERM stops it like Ctrl-C; after any stop, a message says what is kept.

    If something is kept, a signal ends the verb with exit code `SAVED`.

    Args:
        kept: what a resume starts from, as the beginning of a sentence; empty if nothing is kept.
        sign: a file without which nothing is kept.
    """
    signals: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, OSError):
        if kept and (sign is None or sign.is_file()):
            output.complain(f"{kept}; the same command resumes from there.")
            if signals:
                sys.exit(SAVED)
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
