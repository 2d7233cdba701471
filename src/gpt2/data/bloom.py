"""A Bloom filter over 64-bit hashes: it finds every member, with a false positive rate chosen beforehand."""

import math

import numpy as np
from numpy.typing import NDArray

from gpt2.data.ngrams import Hashes, scramble

_BITS_SET = np.array([byte.bit_count() for byte in range(256)], np.uint8)


class BloomFilter:
    """A set of about `capacity` hashes; a non-member is taken for a member with probability below `rate`.

    The number of bits is a power of two, at least 1.44 log2(1/rate) a member; of k probes the i-th looks at bit
    h1 + i h2, two hashes of the member (Kirsch and Mitzenmacher, 2006).
    """

    def __init__(self, capacity: int, *, rate: float = 1e-8) -> None:
        capacity = max(1, capacity)
        least_bits = max(64.0, capacity * math.log2(1 / rate) / math.log(2))
        self.n_bits = 1 << math.ceil(math.log2(least_bits))
        # With the bits rounded up, fewer probes are enough: take the smallest number that keeps the rate.
        self.probes = next(k for k in range(1, 64) if (1 - math.exp(-k * capacity / self.n_bits)) ** k <= rate)
        self._bytes = np.zeros(self.n_bits // 8, np.uint8)

    def _places(self, hashes: Hashes, step: Hashes, probe: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        bit = (hashes + np.uint64(probe) * step) & np.uint64(self.n_bits - 1)
        return (bit >> np.uint64(3)).astype(np.int64), np.uint8(1) << (bit & np.uint64(7)).astype(np.uint8)

    def add(self, hashes: Hashes) -> None:
        """Add hashes to the set."""
        step = scramble(hashes) | np.uint64(1)
        for probe in range(self.probes):
            np.bitwise_or.at(self._bytes, *self._places(hashes, step, probe))

    def find(self, hashes: Hashes) -> NDArray[np.int64]:
        """The indices of members in `hashes`, ascending, with false positives at the filter's rate."""
        left = np.arange(hashes.size)
        step = scramble(hashes) | np.uint64(1)
        for probe in range(self.probes):
            if not left.size:
                break
            place, mask = self._places(hashes[left], step[left], probe)
            left = left[(self._bytes[place] & mask) != 0]  # each probe drops half of the non-members
        return left

    @property
    def false_positive_rate(self) -> float:
        """The present rate, from the fraction of bits that are set."""
        n_set = int(_BITS_SET[self._bytes].sum(dtype=np.int64))
        return (n_set / self.n_bits) ** self.probes
