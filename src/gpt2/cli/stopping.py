"""How a long verb that can go on later is stopped: by Ctrl-C, a signal or a full disk."""

import contextlib
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from types import FrameType

from gpt2.cli import output

SAVED = 75  # the exit code where a signal stopped a verb, and the same command goes on


@contextlib.contextmanager
def resumable(kept: str, *, sign: Path | None = None) -> Generator[None]:
    """While the block runs, SIGTERM stops it as Ctrl-C does; whatever stops it, it says what is kept.

    Where something is kept, a signal ends the verb with exit code `SAVED`.

    Args:
        kept: what is there to go on from, as the beginning of a sentence; empty where nothing is.
        sign: a file without which nothing is.
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
