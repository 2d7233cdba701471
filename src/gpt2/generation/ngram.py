"""Drafts from the text itself: what followed the last occurrence of its longest recent n-gram.

Saxena 2023, "Prompt lookup decoding". It costs nothing, and works for texts that repeat themselves: summaries,
answers from a passage, code, tables, and the loops of greedy decoding.
"""

from collections.abc import Sequence

from gpt2.generation.drafting import Ask

_SIZES = (4, 3, 2)  # n-gram sizes to look up, longest first


class NgramDrafter:
    """Indexes each text's own n-grams as it grows."""

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
    """The last place where each n-gram of one text was followed by another token."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._n_indexed = 0  # ids whose preceding n-grams are indexed

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        for i in range(self._n_indexed, len(ids)):
            for size in _SIZES:
                if i >= size:
                    self._after[tuple(ids[i - size : i])] = i
        self._n_indexed = len(ids)
        for size in _SIZES:
            start = self._after.get(tuple(ids[len(ids) - size :]))
            if start is not None:
                period = len(ids) - start  # past the end of the text, the draft repeats itself
                return [ids[start + i % period] for i in range(most)]
        return []
