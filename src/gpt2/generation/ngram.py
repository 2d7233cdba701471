"""Guessing that a text goes on as it did before: the longest of its last few tokens that it has had already.

Saxena 2023, "Prompt lookup decoding". It costs nothing, and is right where texts repeat themselves: summaries,
answers from a passage, code, tables, and the loops of greedy decoding.
"""

from collections.abc import Sequence

from gpt2.generation.drafting import Ask

_SIZES = (4, 3, 2)  # of the last tokens that are looked for, the longest first


class NgramDrafter:
    """An index of each text's own n-grams, which grows with it."""

    cost = 0.0

    def __init__(self) -> None:
        self._indices: dict[object, _Index] = {}

    def draft(self, asks: Sequence[Ask]) -> list[list[int]]:
        """See `Drafter`."""
        return [self._indices.setdefault(ask.text, _Index()).draft(ask.ids, ask.most) for ask in asks]

    def forget(self, text: object) -> None:
        """See `Drafter`."""
        self._indices.pop(text, None)

    def slot_bytes(self, tokens: int) -> int:
        """See `Drafter`."""
        return 0

    def close(self) -> None:
        """See `Drafter`."""
        self._indices.clear()


class _Index:
    """Where each n-gram of one text was followed by something, the last time."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._n_indexed = 0  # ids whose n-grams that they follow are in

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        for i in range(self._n_indexed, len(ids)):
            for size in _SIZES:
                if i >= size:
                    self._after[tuple(ids[i - size : i])] = i
        self._n_indexed = len(ids)
        for size in _SIZES:
            start = self._after.get(tuple(ids[len(ids) - size :]))
            if start is not None:
                period = len(ids) - start  # beyond the end of the text it goes on with the draft itself
                return [ids[start + i % period] for i in range(most)]
        return []
