"""Keeping the memory that a step frees for the next one.

The C library returns large arrays to the system when they are freed, and asks for new pages for the next ones: each
page costs a fault and a fill with zeros. In a training step on a CPU that takes as much as a tenth of the step.
"""

import contextlib
import ctypes
import platform
from collections.abc import Generator
from typing import Any

# mallopt's parameters in glibc's malloc.h, and their defaults.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 << 10, 65_536
_NEVER = -1


@contextlib.contextmanager
def kept_memory() -> Generator[bool]:
    """Inside the block, freed memory stays with the process; yields whether the C library supports it.

    Affects the whole process. Afterwards the library's defaults hold again, and free memory is returned.
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
