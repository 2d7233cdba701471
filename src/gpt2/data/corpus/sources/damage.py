"""Reports of what could not be read in a source."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Something in a file that could not be read.

    Attributes:
        file: its name.
        offset: in bytes of the file on the disk: of the record, or of the compressed member that holds it.
        why: what was found there.
    """

    file: str
    offset: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}, offset {self.offset:,}: {self.why}"


OnDamage = Callable[[Damage], None]
OnRead = Callable[[int], None]
"""Told how many bytes of a file were read."""
