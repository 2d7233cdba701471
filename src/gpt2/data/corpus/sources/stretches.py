"""The bytes of an archive that may be damaged: sound stretches, with what is wrong between them told by offset.

An ordinary decompressor gives up at the first broken byte. A web archive is many compressed members one behind
another, so whatever begins after the damage can still be read: here a broken member ends a stretch, and the next
member begins another. Memory stays bounded whatever a member claims to hold.
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gpt2.errors import MissingExtraError

_GZIP, _LZ4, _ZSTD = b"\x1f\x8b\x08", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"
_BITE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_SMALL_BITE_BYTES = 1024  # of zstd, which may swell by a factor of 32,768


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Something in a file that could not be read.

    Attributes:
        file: its name.
        offset: in the file as it lies on the disk, in bytes: of the record, or of the compressed member it is in.
        why: what was seen there.
    """

    file: str
    offset: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}, offset {self.offset:,}: {self.why}"


class Stretches:
    """A file as stretches of bytes.

    Reading stops at the end of a stretch as at the end of a file; `next_stretch` goes on to the next.

    Args:
        path: the file: plain, or gzip, lz4 or zstd by its first bytes.
        on_damage: told what ended a stretch early.
        on_read: told the bytes of the file, as they are read.
    """

    def __init__(
        self,
        path: str | Path,
        on_damage: Callable[[Damage], None] = lambda damage: None,
        on_read: Callable[[int], None] = lambda n_bytes: None,
    ) -> None:
        self.name = str(path)
        self._tell = on_damage
        self._file = Path(path).open("rb")  # noqa: SIM115  # closed by close()
        self._pieces = _pieces(self._file, self.name, on_read)
        self._waiting: bytes | None = None  # the first piece of the next stretch
        self._held = b""
        self._at = 0  # in what is held
        self._before = 0  # bytes of the whole that came before what is held
        self._ended = True
        self._origins: deque[tuple[int, int]] = deque()  # where in the whole bytes from where in the file begin

    def __enter__(self) -> "Stretches":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def offset(self) -> int:
        """Where in the file the next byte comes from."""
        position = self._before + self._at
        while len(self._origins) > 1 and self._origins[1][0] <= position:
            self._origins.popleft()
        if not self._origins:
            return 0
        start, origin = self._origins[0]
        return origin + (position - start if self._plain else 0)

    _plain = False

    def damage(self, offset: int, why: str) -> None:
        """Tell what is wrong."""
        self._tell(Damage(file=self.name, offset=offset, why=why))

    def next_stretch(self) -> bool:
        """Go on to the next stretch; whether there is one."""
        while not self._ended:
            self._at = len(self._held)
            self._more()
        self._ended = False
        return self._more()

    def _more(self) -> bool:
        """Hold one more piece of this stretch; False at its end."""
        if self._ended:
            return False
        piece = next(self._pieces, None)
        if piece is None or isinstance(piece, Damage):
            self._ended = True
            if piece is not None:
                self._tell(piece)
                return False
            return False
        self._plain = piece.plain
        if not self._origins or self._origins[-1][1] != piece.origin or piece.plain:
            self._origins.append((self._before + len(self._held), piece.origin))
        self._before += self._at
        self._held = self._held[self._at :] + piece.data
        self._at = 0
        return True

    def read(self, n_bytes: int) -> bytes:
        """That many bytes, or fewer at the end of the stretch."""
        parts: list[bytes] = []
        while n_bytes > 0:
            part = self._held[self._at : self._at + n_bytes]
            self._at += len(part)
            n_bytes -= len(part)
            if part:
                parts.append(part)
            elif not self._more():
                break
        return b"".join(parts)

    def readline(self, limit: int) -> bytes:
        """Up to and with the next newline, at most `limit` bytes; nothing at the end of the stretch."""
        searched = 0
        while True:
            end = self._held.find(b"\n", self._at + searched, self._at + limit)
            if end >= 0:
                line = self._held[self._at : end + 1]
                break
            searched = len(self._held) - self._at
            if searched >= limit or not self._more():
                line = self._held[self._at : self._at + limit]
                break
        self._at += len(line)
        return line

    def unread(self, data: bytes) -> None:
        """Put back bytes that were just read."""
        if data == self._held[self._at - len(data) : self._at]:
            self._at -= len(data)
        else:
            self._held = data + self._held[self._at :]
            self._before += self._at - len(data)
            self._at = 0

    def skip(self, blank: bytes) -> None:
        """Pass over bytes of `blank`."""
        while True:
            while self._at < len(self._held):
                if self._held[self._at] not in blank:
                    return
                self._at += 1
            if not self._more():
                return


@dataclass(frozen=True, slots=True)
class _Piece:
    data: bytes
    origin: int
    plain: bool = False


def _pieces(file: BinaryIO, name: str, on_read: Callable[[int], None]) -> Iterator[_Piece | Damage]:
    head = file.read(4)
    file.seek(0)
    if head.startswith(_GZIP):
        return _members(file, name, on_read, _GZIP, _Gzip, _BITE_BYTES)
    if head == _LZ4:
        try:
            import lz4.frame  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError(f"Reading {name} needs the extra `corpus` (the package lz4).") from error
        return _members(file, name, on_read, _LZ4, lambda: _Lz4(lz4.frame.LZ4FrameDecompressor()), _BITE_BYTES)
    if head == _ZSTD:
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError(f"Reading {name} needs the extra `corpus` (the package zstandard).") from error
        return _members(
            file, name, on_read, _ZSTD, lambda: _Zstd(zstandard.ZstdDecompressor().decompressobj()), _SMALL_BITE_BYTES
        )
    return _plain(file, on_read)


def _plain(file: BinaryIO, on_read: Callable[[int], None]) -> Iterator[_Piece]:
    origin = 0
    while data := file.read(_PIECE_BYTES):
        on_read(len(data))
        yield _Piece(data, origin, plain=True)
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
    on_read: Callable[[int], None],
    magic: bytes,
    new: Callable[[], Any],
    bite_bytes: int,
) -> Iterator[_Piece | Damage]:
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
        member, fed, first = new(), compressed, True
        seen = compressed  # of this member, for going on within it should it break; only the first bite is kept
        try:
            while not member.eof:
                if not first and member.hungry:
                    fed = bite()
                    if not fed:
                        yield Damage(file=name, offset=start, why="the file is cut off inside this compressed member")
                        return
                data = member.feed(fed if first or member.hungry or fed else b"")
                fed, first = b"", False
                if data:
                    yield _Piece(data, start)
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
