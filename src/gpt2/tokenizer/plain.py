"""Encoding in plain Python, for a first short text: it finishes before the compiled core would be built.

Only for ASCII, whose letters and digits the pattern can list, and for short texts, since merging examines every pair
again after each merge.
"""

import re
from collections.abc import Mapping

MOST_CHARACTERS = 256

# GPT-2's pattern (cuts.py) for ASCII; the flag makes \s match the same white space.
_PIECES = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
_NEVER = 1 << 32  # above every rank: no such merge


def can_encode(text: str) -> bool:
    """Whether `encode` can take this text."""
    return len(text) <= MOST_CHARACTERS and text.isascii()


def encode(text: str, ranks: Mapping[bytes, int]) -> list[int]:
    """The ids of a text that `can_encode` allows, treating special tokens as text; `ranks`: `Vocabulary.ranks`."""
    return [ranks[part] for piece in _PIECES.findall(text) for part in _merge(piece.encode(), ranks)]


def _merge(piece: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Merge the neighbouring pair of lowest rank, the first of equals, until no pair has a rank."""
    if piece in ranks:
        return [piece]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        rank, i = min((ranks.get(parts[i] + parts[i + 1], _NEVER), i) for i in range(len(parts) - 1))
        if rank == _NEVER:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
