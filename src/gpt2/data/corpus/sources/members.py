"""The bytes of a file in pieces: plain, or decompressed member by member; broken members are reported and skipped.

Memory stays bounded whatever a member claims to hold.
"""

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from gpt2.data.corpus.sources.damage import Damage, OnRead
from gpt2.errors import MissingExtraError

_GZIP, _LZ4, _ZSTD = b"\x1f\x8b\x08", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"
_BZIP2, _XZ = b"BZh", b"\xfd7zXZ\0"
_BZIP2_FILE = re.compile(rb"BZh[1-9](?:1AY&|\x17rE8)")  # longer, since a text may begin with BZh
_ASIDE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame of zstd or lz4 that holds no data, but perhaps a dictionary
_DICTIONARY = b"\x37\xa4\x30\xec"
_DICTIONARY_BYTES = 16 << 20
_XZ_BYTES = 256 << 20  # of memory; xz's own presets need at most 65 MiB
_BITE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_SMALL_BITE_BYTES = 1024  # for zstd, which can expand by a factor of 32,768
WINDOW_BYTES = 128 << 20  # of zstd, as in its own tool
_TOO_WIDE = "this compressed member needs a larger window than 128 MiB: unpack the file first (zstd -d --long=31)"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes, and the offset in the file of them or of the compressed member that holds them."""

    data: bytes
    origin: int
    plain: bool = False


def read_pieces(
    file: BinaryIO, name: str, on_read: OnRead, *, window_bytes: int = WINDOW_BYTES
) -> Iterator[Piece | Damage]:
    """The content of a file, piece by piece; its first bytes tell the compression.

    Args:
        file: at its beginning.
        name: for messages.
        on_read: receives the number of bytes read of the file.
        window_bytes: the largest window of zstd, which is held in memory.

    Raises:
        MissingExtraError: the library for this compression is not installed.
    """
    head, dictionary = _after_asides(file)
    file.seek(0)
    if head.startswith(_GZIP):
        return _members(file, name, on_read, _GZIP, _Gzip, _BITE_BYTES)
    if _BZIP2_FILE.match(head):
        return _members(file, name, on_read, _BZIP2, lambda: _Bounded(bz2.BZ2Decompressor()), _BITE_BYTES)
    if head.startswith(_XZ):
        return _members(
            file, name, on_read, _XZ, lambda: _Bounded(lzma.LZMADecompressor(memlimit=_XZ_BYTES)), _BITE_BYTES
        )
    if head.startswith(_LZ4):
        try:
            import lz4.frame  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError.of(f"{name} cannot be read", package="lz4", extra="corpus") from error
        return _members(file, name, on_read, _LZ4, lambda: _Bounded(lz4.frame.LZ4FrameDecompressor()), _BITE_BYTES)
    if head.startswith(_ZSTD):
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError.of(f"{name} cannot be read", package="zstandard", extra="corpus") from error
        unpack = zstandard.ZstdDecompressor(max_window_size=window_bytes)
        try:
            if dictionary.startswith(_ZSTD):
                dictionary = zstandard.ZstdDecompressor().stream_reader(dictionary).read(_DICTIONARY_BYTES)
            if dictionary:
                shared = zstandard.ZstdCompressionDict(dictionary)
                unpack = zstandard.ZstdDecompressor(dict_data=shared, max_window_size=window_bytes)
        except zstandard.ZstdError:  # members that need it will be reported as broken
            pass
        return _members(file, name, on_read, _ZSTD, lambda: _Zstd(unpack.decompressobj()), _SMALL_BITE_BYTES)
    return _plain(file, on_read)


def _after_asides(file: BinaryIO) -> tuple[bytes, bytes]:
    """The first bytes of the first member with data, and the dictionary before it, as a WARC in zstd may have one."""
    dictionary = b""
    while _ASIDE.match(head := file.read(8)):
        size = int.from_bytes(head[4:], "little")
        if head[0] == 0x5D and not dictionary and size <= _DICTIONARY_BYTES:
            dictionary = file.read(size)
            if not dictionary.startswith((_DICTIONARY, _ZSTD)):  # some other skippable frame
                dictionary = b""
        else:
            file.seek(size, 1)
    return head, dictionary


def _plain(file: BinaryIO, on_read: OnRead) -> Iterator[Piece]:
    origin = 0
    while data := file.read(_PIECE_BYTES):
        on_read(len(data))
        yield Piece(data, origin, plain=True)
        origin += len(data)


class _Gzip:
    """One member; `feed` returns part of its content; call it with nothing for more."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail + data, _PIECE_BYTES)

    @property
    def hungry(self) -> bool:
        return not self._inflater.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused(self) -> bytes:
        return self._inflater.unused_data


class _Bounded:
    """The same for the libraries of lz4, bzip2 and xz."""

    def __init__(self, inflater: Any) -> None:
        self._inflater = inflater

    def feed(self, data: bytes) -> bytes:
        return self._inflater.decompress(data, _PIECE_BYTES)

    @property
    def hungry(self) -> bool:
        return bool(self._inflater.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def unused(self) -> bytes:
        return self._inflater.unused_data or b""


class _Aside:
    """A skippable frame: a magic of four bytes, a length of four, and that many more."""

    hungry = True
    unused = b""

    def __init__(self) -> None:
        self._head = b""
        self._left: int | None = None

    def feed(self, data: bytes) -> bytes:
        if self._left is None:
            self._head += data
            if len(self._head) < 8:
                return b""
            self._left, data = int.from_bytes(self._head[4:8], "little"), self._head[8:]
        self.unused = data[self._left :]
        self._left -= len(data) - len(self.unused)
        return b""

    @property
    def eof(self) -> bool:
        return self._left == 0


class _Zstd:
    hungry = True

    def __init__(self, inflater: Any) -> None:
        self._inflater = inflater

    def feed(self, data: bytes) -> bytes:
        return self._inflater.decompress(data)

    @property
    def eof(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def unused(self) -> bytes:
        return self._inflater.unused_data


def _members(
    file: BinaryIO,
    name: str,
    on_read: OnRead,
    magic: bytes,
    new: Callable[[], Any],
    bite_bytes: int,
) -> Iterator[Piece | Damage]:
    """The members of a compressed file; after a broken one, reading resumes where the next could begin."""
    compressed, end = b"", 0  # bytes read and not yet used; where in the file they end

    def bite() -> bytes:
        nonlocal end
        data = file.read(bite_bytes)
        end += len(data)
        on_read(len(data))
        return data

    while True:
        start = end - len(compressed)
        while len(compressed) < len(magic) and (data := bite()):
            compressed += data
        if not compressed.strip(b"\0"):  # padding, or the end
            compressed = b""
            if data := bite():
                compressed = data
                continue
            return
        is_aside = _ASIDE.match(compressed)
        if not is_aside and not compressed.startswith(magic):
            padding = len(compressed) - len(compressed.lstrip(b"\0"))
            if padding:
                compressed = compressed[padding:]
                continue
            yield Damage(file=name, offset=start, why="no compressed member begins here")
            compressed = _seek(compressed, magic, bite)
            continue
        member, fed = _Aside() if is_aside else new(), compressed
        seen = compressed  # this member's first bite, to search within it if it is broken
        try:
            while not member.eof:
                if not fed and member.hungry:
                    fed = bite()
                    if not fed:
                        yield Damage(file=name, offset=start, why="the file is cut off inside this compressed member")
                        return
                data = member.feed(fed)
                fed = b""
                if data:
                    yield Piece(data, start)
            compressed = member.unused
        except Exception as error:  # zlib.error, or another library's own
            is_wide = "too much memory" in str(error)  # zstd's
            yield Damage(
                file=name, offset=start, why=_TOO_WIDE if is_wide else f"this compressed member is broken ({error})"
            )
            compressed = _seek(seen[1:] if end - start == len(seen) else fed, magic, bite)


def _seek(compressed: bytes, magic: bytes, bite: Callable[[], bytes]) -> bytes:
    """The bytes from the next place where a member could begin; nothing at the end of the file."""
    while (at := compressed.find(magic)) < 0:
        data = bite()
        if not data:
            return b""
        compressed = compressed[-(len(magic) - 1) :] + data
    return compressed[at:]
