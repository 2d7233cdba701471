"""Reading a source's bytes: plain or decompressed, in bounded memory, and never silently short.

The libraries' own file objects suffice for sound files. Here a truncated archive is an error rather than an end, and
the bytes read of the file are reported, for an estimate of the time left.
"""

import io
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gpt2.errors import DataError, MissingExtraError

STDIN = "-"
SUFFIXES = (".gz", ".zst")
# Input is fed in small bites, since zstd can expand one by a factor of 32,768: at most 32 MiB are held.
_BITE_BYTES = 1024


class _Inflater(Protocol):
    """The common interface of zlib and zstandard."""

    def decompress(self, data: bytes, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def open_source(name: str, on_read: Callable[[int], None] | None = None) -> io.BufferedReader:
    """Open a file by its name, or standard input (`-`), as decompressed bytes.

    `on_read` receives the number of bytes read of the file itself.

    Raises:
        DataError: while reading: the archive is broken or truncated.
        MissingExtraError: the library for this compression is not installed.
        OSError: the file cannot be read.
    """
    return io.BufferedReader(_Source(name, _inflater(name), on_read), 1 << 20)


def _inflater(name: str) -> Callable[[], _Inflater] | None:
    if name.lower().endswith(".gz"):
        return lambda: zlib.decompressobj(wbits=31)
    if name.lower().endswith(".zst"):
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError.of(f"{name} cannot be read", package="zstandard", extra="data") from error
        return lambda: zstandard.ZstdDecompressor().decompressobj()
    return None


class _Source(io.RawIOBase):
    def __init__(self, name: str, new: Callable[[], _Inflater] | None, on_read: Callable[[int], None] | None) -> None:
        self._name = name
        self._file = sys.stdin.buffer if name == STDIN else Path(name).open("rb")  # noqa: SIM115  # closed by close()
        self._new = new
        self._inflater: _Inflater | None = None
        self._on_read = on_read
        self._ready = memoryview(b"")
        self._left = b""
        self._ended = False  # an archive has ended; another may follow

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if self._name != STDIN:
            self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            bite = self._left or self._file.read(_BITE_BYTES if self._new else len(buffer))
            if not bite:
                if self._inflater is not None:
                    raise DataError(f"{self._name} is cut off: the archive ends in its middle. Fetch it again.")
                return 0
            if self._on_read and not self._left:
                self._on_read(len(bite))
            self._ready = memoryview(self._inflate(bite))
        n_bytes = min(len(buffer), len(self._ready))
        buffer[:n_bytes] = self._ready[:n_bytes]
        self._ready = self._ready[n_bytes:]
        return n_bytes

    def _inflate(self, bite: bytes) -> bytes:
        if self._new is None:
            return bite
        if self._ended and self._inflater is None and self._name.lower().endswith(".gz"):
            bite = bite.lstrip(b"\0")  # zeros after an archive are padding, as on tapes
            if not bite:
                self._left = b""
                return b""
        self._inflater = self._inflater or self._new()
        try:
            data = self._inflater.decompress(bite)
        except Exception as error:  # zlib.error, or zstandard.ZstdError, which may not be importable
            if "too much memory" in str(error):
                raise DataError(
                    f"{self._name} cannot be read: it was packed with a larger window than 128 MiB. Unpack it first "
                    f"(`zstd -d --long=31`)."
                ) from error
            raise DataError(
                f"{self._name} is broken after {self._file.tell():,} bytes: {error}. Fetch it again."
            ) from error
        self._left = b""
        if self._inflater.eof:  # one archive may follow another
            self._left, self._inflater, self._ended = self._inflater.unused_data, None, True
        return data
