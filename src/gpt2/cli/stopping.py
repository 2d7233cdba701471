"""A signal that asks a long verb to stop, heard as Ctrl-C is."""

import contextlib
import signal
from collections.abc import Generator
from types import FrameType

SAVED = 75  # the exit code where a signal stopped a verb, and the same command goes on


@contextlib.contextmanager
def stopped_like_ctrl_c() -> Generator[list[int]]:
    """While the block runs, SIGTERM stops it as Ctrl-C does; the list then names the signal."""
    seen: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
