"""The bytes of an archive that may be damaged: sound stretches, with the damage between them reported by offset.

An ordinary decompressor gives up at the first broken byte. A web archive is many compressed members one after another,
so members after the damage can still be read: here a broken member ends a stretch, and the next member begins another.
Memory stays bounded whatever a member claims to hold.
"""

from collections import deque
from pathlib import Path

from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.data.corpus.sources.members import WINDOW_BYTES, read_pieces


class Stretches:
    """A file as stretches of bytes.

    Reading stops at the end of a stretch as at the end of a file; `next_stretch` moves to the next.

    Args:
        path: the file: plain, or gzip, lz4, zstd, bzip2 or xz by its first bytes.
        on_damage: receives what ended a stretch early.
        on_read: receives the number of bytes read of the file.
        window_bytes: the largest window of zstd that is held.
    """

    def __init__(
        self,
        path: str | Path,
        on_damage: OnDamage = lambda damage: None,
        on_read: OnRead = lambda n_bytes: None,
        *,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.name = str(path)
        self._tell = on_damage
        self._file = Path(path).open("rb")  # noqa: SIM115  # closed by close()
        self._pieces = read_pieces(self._file, self.name, on_read, window_bytes=window_bytes)
        self._held = b""
        self._at = 0  # position in the held bytes
        self._before = 0  # decompressed bytes before the held ones
        self._ended = True
        self._read = False  # whether the file was read to its end
        self._plain = False  # offsets in the held bytes are offsets in the file
        self._origins: deque[tuple[int, int]] = deque()  # (decompressed offset, offset in the file) of each piece

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

    def damage(self, offset: int, why: str) -> None:
        """Report damage."""
        self._tell(Damage(file=self.name, offset=offset, why=why))

    def next_stretch(self) -> bool:
        """Move to the next stretch; return whether there is one."""
        while not self._ended:
            self._at = len(self._held)
            self._more()
        while not self._read:  # several broken members may follow one another
            self._ended = False
            if self._more():
                return True
        return False

    def _more(self) -> bool:
        """Hold one more piece of this stretch; False at its end."""
        if self._ended:
            return False
        piece = next(self._pieces, None)
        if piece is None or isinstance(piece, Damage):
            self._ended = True
            if piece is None:
                self._read = True
            else:
                self._tell(piece)
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
        """Up to and including the next newline, at most `limit` bytes; nothing at the end of the stretch."""
        parts: list[bytes] = []
        while True:
            end = self._held.find(b"\n", self._at, self._at + limit) + 1
            part = self._held[self._at : end or self._at + limit]
            self._at += len(part)
            limit -= len(part)
            parts.append(part)
            if end or not limit or not self._more():
                return b"".join(parts)

    def unread(self, data: bytes) -> None:
        """Put back bytes that were just read."""
        if data == self._held[self._at - len(data) : self._at]:
            self._at -= len(data)
        else:
            self._held = data + self._held[self._at :]
            self._before += self._at - len(data)
            self._at = 0

    def skip(self, blank: bytes) -> None:
        """Skip bytes that are in `blank`."""
        while True:
            while self._at < len(self._held):
                if self._held[self._at] not in blank:
                    return
                self._at += 1
            if not self._more():
                return


def read_whole(path: Path, limit_bytes: int, on_damage: OnDamage, on_read: OnRead) -> bytes | None:
    """All that can be read of a file; if that is more than `limit_bytes`, report it and return None."""
    with Stretches(path, on_damage, on_read) as source:
        parts: list[bytes] = []
        left = limit_bytes
        while source.next_stretch():
            while data := source.read(1 << 20):
                left -= len(data)
                if left < 0:
                    source.damage(source.offset, f"the file is larger than {limit_bytes >> 20} MiB")
                    return None
                parts.append(data)
    return b"".join(parts)
