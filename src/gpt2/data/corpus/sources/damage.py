"""What in a source could not be read, and who is told of it."""

from collections.abc import Callable
from dataclasses import dataclass


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


OnDamage = Callable[[Damage], None]
OnRead = Callable[[int], None]
"""Told how many bytes of a file were read."""
