"""Word n-grams as 64-bit numbers, for overlap, decontamination and near duplicates.

Text is normalised as in the paper's section 4: lower-cased alphanumeric words, a single space between them. A word's
number is 8 bytes of its BLAKE2b hash; that of an n-gram mixes its words' numbers with their places. Two different
n-grams share a number with probability 2^-64.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_WORD = re.compile(r"[^\W_]+")
_PLACE = 0x9E3779B97F4A7C15  # odd, so that multiplying by it is invertible
_REMEMBERED_WORDS = 1 << 20


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and digits of any script, lower-cased."""
    return _WORD.findall(text.lower())


class WordHashes(dict[str, int]):
    """A cache of each word's number; cleared when it holds a million words."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        number = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        self[word] = number
        return number

    def of(self, words: Sequence[str]) -> Hashes:
        """The numbers of these words, in order."""
        return np.fromiter(map(self.__getitem__, words), np.uint64, len(words))


def hash_ngrams(words: Hashes, n: int) -> Hashes:
    """The numbers of all n-grams in a row of words, in order: `max(0, len(words) - n + 1)` of them."""
    count = max(0, words.size - n + 1)
    total = np.zeros(count, np.uint64)
    weight = 1
    for place in range(n if count else 0):
        total += words[place : place + count] * np.uint64(weight)
        weight = weight * _PLACE % (1 << 64)
    return scramble(total)


def scramble(numbers: Hashes) -> Hashes:
    """A permutation of the 64-bit numbers that spreads every bit over all (SplitMix64's last step)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
