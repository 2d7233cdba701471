"""Memory that a step frees, kept for the next one.

The C library gives large arrays back to the system when they are freed, and asks for new pages for the next ones:
each page is a fault, and is filled with zeros before it is used. For the arrays of a training step on a CPU that
costs as much as a tenth of the step.
"""

import contextlib
import ctypes
import platform
from collections.abc import Generator
from typing import Any

# mallopt's names in glibc's malloc.h, and what they are unless something sets them.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 << 10, 65_536
_NEVER = -1


@contextlib.contextmanager
def kept_memory() -> Generator[bool]:
    """Inside the block, freed memory stays with the process; yields whether the C library knows how.

    Affects the whole process. Afterwards the library's defaults hold again, and what is free goes back.
    """
    library = _glibc()
    if library is None:
        yield False
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield True
    finally:
        library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        library.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        library.malloc_trim(0)


def _glibc() -> Any:
    """The C library, if it is glibc and its allocator is the one in use."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        library: Any = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):
        return None
