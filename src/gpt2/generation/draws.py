"""Draws that depend only on their key: (seed, sample, position, token id).

A token is drawn by the Gumbel-max method: the argmax of log-probability plus independent Gumbel noise is a
sample of the distribution. The noise of a token is a pure function of its key, so a draw is the same alone,
in a batch, after a restart and when verifying a draft, and is computed only for the tokens that matter.

The construction, in unsigned 64-bit arithmetic that wraps around:

    absorb(state, word) = mix(state + GAMMA * (word + 1))        mix: SplitMix64's finaliser
    bits   = absorb(absorb(absorb(absorb(0, seed), sample), position), token)
    u      = (bits >> 12 + 1/2) / 2^52                           in (0, 1), exact in float64, never 0 or 1
    noise  = -log(-log(u))

So the bits of one position over the token ids are SplitMix64's output stream, started at the key of that
position. SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014;
finaliser constants: Stafford's variant 13. Gumbel-max: Maddison, Tarlow, Minka, "A* sampling", 2014.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def key(seed: int, sample: int, position: int) -> int:
    """The generator state for one position; the noise of every token there derives from it."""
    state = 0
    for word in (seed, sample, position):
        state = _mix((state + GAMMA * (word + 1)) & _MASK)
    return state


def bits(key: int, ids: NDArray[np.integer]) -> NDArray[np.uint64]:
    """64 random bits for each token id."""
    state = ids.astype(np.uint64)
    state *= np.uint64(GAMMA)
    state += np.uint64((key + GAMMA) & _MASK)
    _mix_most(state)
    state ^= state >> np.uint64(31)
    return state


def _mix_most(state: NDArray[np.uint64]) -> None:
    """The finaliser in place, without its last shift, which does not change the upper 31 bits."""
    state ^= state >> np.uint64(30)
    state *= np.uint64(_MIX_1)
    state ^= state >> np.uint64(27)
    state *= np.uint64(_MIX_2)


def uniforms(key: int, ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """A number in the open interval (0, 1) for each token id."""
    # 52 bits, not 53: with 53 the largest value and a half would round to 2^53, and u to 1.
    u = (bits(key, ids) >> np.uint64(12)).astype(np.float64)
    u += 0.5
    u *= 2.0**-52
    return u


def gumbel(key: int, ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """Standard Gumbel noise for each token id."""
    return -np.log(-np.log(uniforms(key, ids)))


def draw(key: int, ids: NDArray[np.integer], logits: NDArray[np.floating]) -> int:
    """The id whose logit plus noise is largest; of equal ones, the first in `ids`.

    Args:
        key: of the position.
        ids: the tokens that survived the filters, ascending.
        logits: theirs, up to a common constant; at least one is finite.
    """
    if len(ids) > _BLOCK:
        contenders = _contenders(key, ids, logits)
        ids, logits = ids[contenders], logits[contenders]
    return int(ids[(logits.astype(np.float64) + gumbel(key, ids)).argmax()])


_BLOCK = 8192  # ids at a time, so that intermediate arrays stay in the CPU cache
_RARE = 1 / 256


def _contenders(key: int, ids: NDArray[np.integer], logits: NDArray[np.floating]) -> NDArray[np.intp]:
    """Indices of the tokens that can still win, found without a logarithm for each.

    Let M be the score of any one token. Another wins only if logit - log(-log u) > M, that is
    u > exp(-x) with x = exp(logit - M); since 1 - exp(-x) <= x, only if 1 - u < x. So it has a large logit,
    x > RARE, or a rare draw, 1 - u <= RARE. The sum of x, exp(logsumexp - M), is about 1: few are large.
    """
    likely = np.flatnonzero(logits > logits.max() - 3)[:64]
    M = float(np.max(logits[likely].astype(np.float64) + gumbel(key, ids[likely])))
    large = logits > M + math.log(_RARE)
    least = np.uint64(round((1 - _RARE) * 2.0**64))  # u is 1 - RARE or more when the upper 8 bits are all ones
    first = int(ids[0])
    if int(ids[-1]) - first + 1 == len(ids):  # contiguous ids, e.g. if no filter dropped any
        steps, begin = _steps(len(ids)), np.uint64((key + GAMMA * (first + 1)) & _MASK)
    else:
        steps, begin = ids.astype(np.uint64) * np.uint64(GAMMA), np.uint64((key + GAMMA) & _MASK)
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        state = steps[block] + begin
        _mix_most(state)
        large[block] |= state >= least
    return np.flatnonzero(large)


@lru_cache(maxsize=4)
def _steps(n: int) -> NDArray[np.uint64]:
    """GAMMA times 0 to n - 1: the part of the state shared by all keys."""
    return np.arange(n, dtype=np.uint64) * np.uint64(GAMMA)


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * _MIX_1) & _MASK
    state = ((state ^ (state >> 27)) * _MIX_2) & _MASK
    return state ^ (state >> 31)
