"""The bytes of a file in pieces: plain, or compressed member by member, a broken one told and passed over.

Memory stays bounded whatever a member claims to hold.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from gpt2.data.corpus.sources.damage import Damage, OnRead
from gpt2.errors import MissingExtraError

_GZIP, _LZ4, _ZSTD = b"\x1f\x8b\x08", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"
_BITE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_SMALL_BITE_BYTES = 1024  # of zstd, which may swell by a factor of 32,768


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes, and where in the file they, or the compressed member that holds them, begin."""

    data: bytes
    origin: int
    plain: bool = False


def read_pieces(file: BinaryIO, name: str, on_read: OnRead) -> Iterator[Piece | Damage]:
    """What a file holds, piece by piece; `name` is for messages.

    Raises:
        MissingExtraError: the library for this compression is not installed.
    """
    head = file.read(4)
    file.seek(0)
    if head.startswith(_GZIP):
        return _members(file, name, on_read, _GZIP, _Gzip, _BITE_BYTES)
    if head == _LZ4:
        try:
            import lz4.frame  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError.of(f"{name} cannot be read", package="lz4", extra="corpus") from error
        return _members(file, name, on_read, _LZ4, lambda: _Lz4(lz4.frame.LZ4FrameDecompressor()), _BITE_BYTES)
    if head == _ZSTD:
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError.of(f"{name} cannot be read", package="zstandard", extra="corpus") from error
        return _members(
            file, name, on_read, _ZSTD, lambda: _Zstd(zstandard.ZstdDecompressor().decompressobj()), _SMALL_BITE_BYTES
        )
    return _plain(file, on_read)


def _plain(file: BinaryIO, on_read: OnRead) -> Iterator[Piece]:
    origin = 0
    while data := file.read(_PIECE_BYTES):
        on_read(len(data))
        yield Piece(data, origin, plain=True)
        origin += len(data)


class _Gzip:
    """One member; `feed` gives some of what it holds, and is called with nothing for more."""

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


class _Lz4:
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
    """The members of a compressed file; after a broken one, from where the next could begin."""
    compressed, end = b"", 0  # what was read and not yet used; where in the file it ends

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
        if not compressed.startswith(magic):
            padding = len(compressed) - len(compressed.lstrip(b"\0"))
            if padding:
                compressed = compressed[padding:]
                continue
            yield Damage(file=name, offset=start, why="no compressed member begins here")
            compressed = _seek(compressed, magic, bite)
            continue
        member, fed = new(), compressed
        seen = compressed  # of this member, for going on within it should it break; only the first bite is kept
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
            yield Damage(file=name, offset=start, why=f"this compressed member is broken ({error})")
            compressed = _seek(seen[1:] if end - start == len(seen) else fed, magic, bite)


def _seek(compressed: bytes, magic: bytes, bite: Callable[[], bytes]) -> bytes:
    """From the next place where a member could begin; nothing at the end of the file."""
    while (at := compressed.find(magic)) < 0:
        data = bite()
        if not data:
            return b""
        compressed = compressed[-(len(magic) - 1) :] + data
    return compressed[at:]
