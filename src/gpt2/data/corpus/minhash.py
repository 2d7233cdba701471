"""MinHash: a text's set of word n-grams as a few numbers, each equal in two texts with probability of their similarity.

The share of equal hashes estimates the Jaccard similarity of the two sets (Broder 1997). Hashes are grouped in bands of
a few rows: two texts are candidates when all rows of at least one band are equal, which happens with probability
1 - (1 - J^rows)^bands. FineWeb's parameters, 14 bands of 8 rows over 5-grams, are the default: 56 % of pairs at
J = 0.70, 92 % at 0.80, 99 % at 0.85.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2.data.ngrams import Hashes, WordHashes, hash_ngrams, scramble, words_of
from gpt2.errors import SettingError

_BLOCK = 2048  # shingles at a time, so that a block of all hashes fits the CPU cache


@dataclass(frozen=True, kw_only=True, slots=True)
class MinHash:
    """How to find near duplicates.

    Attributes:
        bands: of which one must be equal.
        rows: hashes in a band.
        shingle_words: words in an n-gram.
        seed: of the hash functions.

    Raises:
        SettingError: a value is invalid.
    """

    bands: int = 14
    rows: int = 8
    shingle_words: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.bands <= 1024 and 1 <= self.rows <= 64 and 1 <= self.shingle_words <= 64):
            raise SettingError(
                f"MinHash needs 1 to 1,024 bands of 1 to 64 rows over n-grams of 1 to 64 words: "
                f"got {self.bands} x {self.rows} over {self.shingle_words}."
            )

    def chance(self, jaccard: float) -> float:
        """The probability that two texts of this similarity are found."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands


class Signer:
    """Computes signatures; holds the hash functions and the words it has seen."""

    def __init__(self, settings: MinHash) -> None:
        self.settings = settings
        draw = np.random.default_rng(settings.seed)
        count = settings.bands * settings.rows
        # 32-bit functions a x + b of a well-mixed x; a is odd, so each is a permutation
        self._a = draw.integers(0, 1 << 32, count, np.uint32)[:, None] | np.uint32(1)
        self._b = draw.integers(0, 1 << 32, count, np.uint32)[:, None]
        self._words = WordHashes()

    def sign(self, text: str) -> NDArray[np.uint32] | None:
        """The minimum of each hash function over the text's n-grams, uint32 [bands * rows].

        A text shorter than an n-gram counts as one shorter n-gram; a text without words has no signature.
        """
        words = words_of(text)
        return self.sign_all([words])[0] if words else None

    def sign_all(self, texts: Sequence[Sequence[str]]) -> NDArray[np.uint32]:
        """The same for several texts given as words, none empty: uint32 [texts, bands * rows]."""
        n = self.settings.shingle_words
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.cumsum(lengths)
        words = self._words.of([word for text in texts for word in text])
        whole = hash_ngrams(words, n)
        in_one_text = np.arange(whole.size) + n <= np.repeat(ends, lengths)[: whole.size]
        counts = np.maximum(lengths - n + 1, 1)  # a repeated n-gram does not change the minimum
        shingles = np.empty(int(counts.sum()), np.uint64)
        short = lengths < n
        shingles[np.repeat(~short, counts)] = whole[in_one_text]
        begins = np.cumsum(counts) - counts
        for text in np.flatnonzero(short).tolist():
            end, size = int(ends[text]), int(lengths[text])
            shingles[begins[text]] = hash_ngrams(words[end - size : end], size)[0]
        return self._least((shingles >> np.uint64(32)).astype(np.uint32), begins)

    def _least(self, shingles: NDArray[np.uint32], begins: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The minimum of each function over each text's shingles; `begins` holds where each text's begin."""
        least = np.full((begins.size, self._a.size), 0xFFFFFFFF, np.uint32)
        for at in range(0, shingles.size, _BLOCK):
            hashed = shingles[None, at : at + _BLOCK] * self._a
            hashed += self._b
            # a product's low bits depend on few bits of x: fold the high ones down before comparing
            hashed ^= hashed >> np.uint32(15)
            hashed *= np.uint32(0x2C1B3C6D)
            first = int(np.searchsorted(begins, at, "right")) - 1  # the text that the block begins in
            last = int(np.searchsorted(begins, at + hashed.shape[1]))
            cuts = np.maximum(begins[first:last] - at, 0)
            part = least[first:last]
            np.minimum(part, np.minimum.reduceat(hashed, cuts, axis=1).T, out=part)
        return least

    def bands(self, signatures: NDArray[np.uint32]) -> Hashes:
        """A number for each band, uint64 [..., bands], of signatures [..., bands * rows]; equal if all its rows are."""
        shape = (*signatures.shape[:-1], self.settings.bands, self.settings.rows)
        rows = signatures.reshape(shape).astype(np.uint64)
        total = np.arange(1, self.settings.bands + 1, dtype=np.uint64)
        for row in range(self.settings.rows):
            total = scramble(total ^ rows[..., row]) * np.uint64(0x9E3779B97F4A7C15)
        return total
