"""A Bloom filter over 64-bit hashes: a set that never forgets a member and errs at a rate chosen beforehand."""

import math

import numpy as np
from numpy.typing import NDArray

from gpt2.data.ngrams import Hashes, scramble

_BITS_SET = np.array([byte.bit_count() for byte in range(256)], np.uint8)


class BloomFilter:
    """Membership of about `capacity` hashes; a stranger is taken for a member with probability below `rate`.

    The number of bits is a power of two, at least 1.44 log2(1/rate) a member; of k probes the i-th looks at bit
    h1 + i h2, two hashes of the member (Kirsch and Mitzenmacher, 2006).
    """

    def __init__(self, capacity: int, *, rate: float = 1e-8) -> None:
        capacity = max(1, capacity)
        least_bits = max(64.0, capacity * math.log2(1 / rate) / math.log(2))
        self.n_bits = 1 << math.ceil(math.log2(least_bits))
        # The bits rounded up leave room for fewer probes: the first number of them that keeps the rate.
        self.probes = next(k for k in range(1, 64) if (1 - math.exp(-k * capacity / self.n_bits)) ** k <= rate)
        self._bytes = np.zeros(self.n_bits // 8, np.uint8)

    def _places(self, hashes: Hashes, step: Hashes, probe: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        bit = (hashes + np.uint64(probe) * step) & np.uint64(self.n_bits - 1)
        return (bit >> np.uint64(3)).astype(np.int64), np.uint8(1) << (bit & np.uint64(7)).astype(np.uint8)

    def add(self, hashes: Hashes) -> None:
        """Make members of these."""
        step = scramble(hashes) | np.uint64(1)
        for probe in range(self.probes):
            np.bitwise_or.at(self._bytes, *self._places(hashes, step, probe))

    def find(self, hashes: Hashes) -> NDArray[np.int64]:
        """Where in `hashes` members are: ascending indices, with a stranger among them at the filter's rate."""
        left = np.arange(hashes.size)
        step = scramble(hashes) | np.uint64(1)
        for probe in range(self.probes):
            if not left.size:
                break
            place, mask = self._places(hashes[left], step[left], probe)
            left = left[(self._bytes[place] & mask) != 0]  # half of the strangers go at each probe
        return left

    @property
    def false_positive_rate(self) -> float:
        """As it now is, from the share of bits that are set."""
        n_set = int(_BITS_SET[self._bytes].sum(dtype=np.int64))
        return (n_set / self.n_bits) ** self.probes
