"""Logit filters as pure functions of one row, and the order in which they apply.

The order, equal to Hugging Face's `generate` for the filters that both have:

    1. logit bias               5. minimum length (banned ids)      9. top-p
    2. repetition penalty       6. temperature                     10. min-p
    3. presence and frequency   7. (top-k and what follows see     11. typical-p
    4. no-repeat n-gram         8.  only what is left) top-k

A constraint (`only`) comes between 5 and 6. It and the first five change logits and keep the row whole:
logits_V -> logits_V. Those after the temperature keep fewer tokens: (ids_N, logits_N) -> (ids_M, logits_M),
ids ascending, M >= 1, each renormalising its input. They partition, and sort only the few that are kept. Of equal
logits, the lower id counts as the more likely.

Axes: V vocabulary, N and M remaining candidates.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]
Row = tuple[Ids, Logits]


def bias(logits_V: Logits, ids: Ids, values: Logits) -> Logits:
    """Add `values` to the logits of `ids`."""
    logits_V = logits_V.copy()
    logits_V[ids] += values
    return logits_V


def repetition(logits_V: Logits, penalty: float, seen: Ids) -> Logits:
    """Divide the positive logits of tokens seen in prompt or continuation by the penalty; multiply negative ones.

    Keskar et al. 2019, "CTRL", section 4.1, in Hugging Face's form.
    """
    logits_V = logits_V.copy()
    logits = logits_V[seen]
    factor = np.float32(penalty)
    logits_V[seen] = np.where(logits < 0, logits * factor, logits / factor)  # a token seen twice is scaled once
    return logits_V


def presence_and_frequency(logits_V: Logits, presence: float, frequency: float, generated: Ids) -> Logits:
    """Subtract `presence + frequency * count` from tokens generated before; the prompt does not count.

    OpenAI's definition.
    """
    ids, counts = np.unique(generated, return_counts=True)
    logits_V = logits_V.copy()
    logits_V[ids] -= (presence + frequency * counts).astype(np.float32)
    return logits_V


def no_repeat_ngram(logits_V: Logits, size: int, seen: Ids) -> Logits:
    """Ban each token that would repeat an n-gram of `size` tokens already in prompt or continuation."""
    if len(seen) < size:
        return logits_V
    windows = np.lib.stride_tricks.sliding_window_view(seen, size)
    prefix = seen[len(seen) - size + 1 :]
    return ban(logits_V, windows[(windows[:, :-1] == prefix).all(axis=1), -1])


def ban(logits_V: Logits, ids: Ids | Sequence[int]) -> Logits:
    """Make `ids` impossible."""
    logits_V = logits_V.copy()
    logits_V[ids] = -np.inf
    return logits_V


def only(logits_V: Logits, allowed: NDArray[np.bool_]) -> Logits:
    """Ban every id that is not allowed, including ids beyond the end of `allowed`."""
    kept_V = np.full_like(logits_V, -np.inf)
    n = min(len(allowed), len(logits_V))
    np.copyto(kept_V[:n], logits_V[:n], where=allowed[:n])
    return kept_V


def temperature(logits: Logits, temperature: float) -> Logits:
    """Divide by the temperature, above 0, after shifting the largest logit to 0 so that none overflows upwards."""
    with np.errstate(over="ignore"):  # to -inf, probability 0
        return (logits - logits.max()) / np.float32(divisor(temperature))


def divisor(temperature: float) -> float:
    """The temperature in float32, at least its smallest normal number."""
    with np.errstate(over="ignore"):  # to inf: all tokens become equally likely
        return float(max(np.float32(temperature), np.finfo(np.float32).tiny))


def top_k(row: Row, k: int) -> Row:
    """Keep the `k` most likely. (Hugging Face also keeps all that tie with the last.)"""
    _, logits = row
    return row if len(logits) <= k else _keep(row, np.sort(_largest(logits, k)))


def top_p(row: Row, p: float) -> Row:
    """Keep the fewest most likely tokens whose total probability is at least `p`.

    Holtzman et al. 2019, "The curious case of neural text degeneration", section 3.1.
    """
    _, logits = row
    weights = np.exp(logits - logits.max())
    total = float(weights.sum(dtype=np.float64))
    # Tokens below this weight total less than 1 - p, so the others reach p without them. In float32, 1 - p may round
    # to 1; the threshold is then the mean weight, which equal tokens all reach.
    likely = np.flatnonzero(weights >= np.float32((1 - p) * total / len(weights)))
    return _keep(row, likely[_first_to_reach(logits[likely], weights[likely], p * total)])


def min_p(row: Row, p: float) -> Row:
    """Keep tokens whose probability is at least `p` times that of the most likely.

    Nguyen et al. 2024, "Min-p sampling".
    """
    _, logits = row
    return row if p == 0 else _keep(row, np.flatnonzero(logits >= logits.max() + np.float32(math.log(p))))


def typical_p(row: Row, p: float) -> Row:
    """Keep the fewest tokens whose total probability is at least `p`, nearest first.

    Near means: information content close to the entropy of the row. Meister et al. 2022, "Locally typical
    sampling". (Hugging Face also keeps all that tie with the last.)
    """
    _, logits = row
    information = np.minimum(np.float32(log_normaliser(logits)) - logits, _NEVER)
    probabilities = np.exp(-information)
    entropy = (probabilities * information).sum(dtype=np.float64)
    return _keep(row, _first_to_reach(-np.abs(information - np.float32(entropy)), probabilities, p))


_NEVER = np.float32(1e30)  # the information of a banned token, finite so that 0 times it is 0


def log_normaliser(logits: Logits) -> float:
    """The logarithm of the sum of exponentials; a logit minus this is a log-probability."""
    largest = logits.max()
    return float(largest) + math.log(float(np.exp(logits - largest).sum(dtype=np.float64)))


def _keep(row: Row, indices: NDArray[np.intp]) -> Row:
    return row[0][indices], row[1][indices]


def _largest(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Indices of the k largest, unordered; ties go to the lower index."""
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > threshold)
    equal = np.flatnonzero(scores == threshold)
    return np.concatenate([above, equal[: k - len(above)]])


_BINS = 4096
_BINS_PER_UNIT = 128  # scores are logarithms: bins reach 32 below the largest, and the last bin takes the rest


def _first_to_reach(scores: Logits, weights: Logits, enough: float) -> NDArray[np.intp]:
    """Indices, ascending, of the fewest largest scores whose weights reach `enough`: at least one.

    The plain definition sorts every score. This one sums weights into bins by score and sorts only the bin in which
    `enough` is reached.
    """
    below = (scores.max() - scores) * np.float32(_BINS_PER_UNIT)
    bins = np.minimum(below, _BINS - 1).astype(np.int32)
    reached = np.cumsum(np.bincount(bins, weights, _BINS))
    last = int(np.searchsorted(reached, enough))
    keep = bins < last
    part = np.flatnonzero(bins == last)
    part = part[np.argsort(-scores[part], kind="stable")]
    before = np.cumsum(weights[part], dtype=np.float64) - weights[part] + (reached[last - 1] if last else 0.0)
    keep[part[: max(1, np.count_nonzero(before < enough))]] = True
    return np.flatnonzero(keep)
