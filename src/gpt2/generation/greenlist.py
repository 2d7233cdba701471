"""The green-list watermark: at each position a key selects part of the vocabulary, whose logits get delta added.

The scheme of Kirchenbauer et al. 2023, "A Watermark for Large Language Models" (algorithm 2, `lefthash`) and 2023b, "On
the Reliability of Watermarks" (`selfhash`), bit for bit as in transformers' `WatermarkingConfig`: each reads the
other's marks. The random numbers are those of PyTorch on the CPU: a Mersenne twister seeded with 32 bits, and a
shuffle that takes one number modulo the rest for each place. NumPy has the same twister, so PyTorch is not needed.

Unlike `ContextNoise` it changes the model's distribution, its key has at most 32 bits of strength, and reading it
gives a z-score. It exists to read text that others marked and to mark text that others read.

Axes: V vocabulary, G green ids, N remaining candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpt2.errors import ConfigError
from gpt2.generation import draws, filters

_TABLE_SIZE = 1_000_003
_SELFHASH_CANDIDATES = 40  # how many of the most likely tokens may be green, as in transformers

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class GreenList:
    """The settings of a green-list mark, and the `Noise` that applies it.

    Attributes:
        gamma: share of the vocabulary that is green.
        delta: added to the logits of green tokens, after all filters.
        hash_key: key of the hash. 15485863 is the common default.
        scheme: "lefthash" hashes the last token, "selfhash" the last `width` including the one being chosen.
        width: tokens of an n-gram, `context_width` in transformers.

    Raises:
        ConfigError: a setting is out of range.
    """

    gamma: float = 0.25
    delta: float = 2.0
    hash_key: int = 15485863
    scheme: Literal["lefthash", "selfhash"] = "lefthash"
    width: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.gamma < 1 or not 1 <= self.width <= 99 or not abs(self.delta) < 1e4:
            raise ConfigError(
                "The green list cannot be used: its gamma must lie between 0 and 1, its delta be finite, and its "
                f"width 1 to 99: got {self.gamma}, {self.delta}, {self.width}."
            )
        if self.scheme not in ("lefthash", "selfhash") or not -(2**63) <= self.hash_key < 2**63:
            raise ConfigError(
                'The green list cannot be used: its scheme must be "lefthash" or "selfhash", and its key fit 64 bits.'
            )

    def __repr__(self) -> str:
        return f"GreenList(gamma={self.gamma}, delta={self.delta}, scheme={self.scheme!r}, width={self.width})"

    @property
    def tilts(self) -> bool:
        """Always true: this mark changes logits, unlike other noise."""
        return True

    def key(self, *, seed: int, sample: int, seen: Sequence[int], n_prompt: int) -> int:
        """See `Noise`; the same key as without a mark."""
        return draws.key(seed, sample, len(seen))

    def tilt(self, row: filters.Row, seen: Sequence[int], vocab_size: int) -> filters.Row:
        """The row with delta added to its green tokens; unchanged after fewer than `width` tokens."""
        ids_N, logits_N = row
        if len(seen) < self.width:
            return row
        tilted_N = logits_N.copy()
        if self.scheme == "lefthash":
            green_V = _green_mask(self._left_seed(int(seen[-1])), vocab_size, self.n_green(vocab_size))
            green_N = green_V[ids_N]
        else:
            likeliest = np.argsort(-logits_N, kind="stable")[:_SELFHASH_CANDIDATES]
            before = list(seen[len(seen) - self.width + 1 :]) if self.width > 1 else []
            green_N = np.zeros(len(ids_N), np.bool_)
            green_N[likeliest] = [self.is_green([*before, int(ids_N[i])], vocab_size) for i in likeliest]
        tilted_N[green_N] += np.float32(self.delta)
        return ids_N, tilted_N

    @property
    def ngram(self) -> int:
        """Tokens that a reader examines together; the last is the one judged."""
        return self.width + (self.scheme == "lefthash")

    def is_green(self, ngram: Sequence[int], vocab_size: int) -> bool:
        """Whether the last of `ngram` tokens is green after those before it."""
        if self.scheme == "lefthash":
            return _is_among_first(_jumps(self._left_seed(ngram[-2]), vocab_size, self.n_green(vocab_size)), ngram[-1])
        return _is_among_first(_jumps(self._self_seed(ngram), vocab_size, self.n_green(vocab_size)), ngram[-1])

    def n_green(self, vocab_size: int) -> int:
        """How many ids are green at each position."""
        return int(vocab_size * self.gamma)

    def _left_seed(self, last: int) -> int:
        return self.hash_key * last % (2**64 - 1)

    def _self_seed(self, ngram: Sequence[int]) -> int:
        table = _table(self.hash_key)
        window = table[np.array(ngram[-self.width :], np.int64) % _TABLE_SIZE] + 1
        with np.errstate(over="ignore"):  # 64-bit wrap-around, as in transformers
            return int((np.int64(self.hash_key) * window * window[-1]).min()) % (2**64 - 1)


def _jumps(seed: int, n: int, first: int) -> Ids:
    """The first steps of the shuffle: step i swaps places i and jumps[i]; later steps leave the first places alone."""
    numbers = np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 2**32, size=first, dtype=np.uint32)
    steps = np.arange(first)
    return numbers % (n - steps) + steps


def _is_among_first(jumps: Ids, item: int) -> bool:
    """Whether the shuffle moves `item` to one of the first places, found by tracing only that item."""
    place, begin = item, 0
    while True:
        if (jumps[begin : place + 1] == place).any():  # swapped to a place that later steps leave alone
            return True
        if place >= len(jumps):
            return False
        begin, place = place + 1, int(jumps[place])


@lru_cache(maxsize=512)
def _green_mask(seed: int, vocab_size: int, n_green: int) -> NDArray[np.bool_]:
    order = list(range(vocab_size))
    for i, j in enumerate(_jumps(seed, vocab_size, n_green).tolist()):
        order[i], order[j] = order[j], order[i]
    green_V = np.zeros(vocab_size, np.bool_)
    green_V[order[:n_green]] = True
    return green_V


@lru_cache(maxsize=2)
def _table(key: int) -> Ids:
    order = list(range(_TABLE_SIZE))
    for i, j in enumerate(_jumps(key % 2**64, _TABLE_SIZE, _TABLE_SIZE - 1).tolist()):
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)
