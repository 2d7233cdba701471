"""Turns the last hidden rows into the wanted results, in NumPy.

Logits are computed for a few rows at a time, so scoring a long text never holds [T, V] of them. Exponentials are
float32, their sums float64: log-probabilities and entropies are within 1e-5 of a float64 computation.

Axes: R wanted rows, N rows at a time, V vocabulary, D embedding, K best tokens.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gpt2.backends.seam import Floats, Ints, Result, Want
from gpt2.errors import BackendError

_LOGITS_AT_ONCE = 1 << 22  # 16 MB of float32


def read_out(want: Want, hidden_RD: Floats, head: Callable[[Floats], Floats], vocab_size: int) -> Result:
    """Everything that `want` asks for except its trace.

    Args:
        want: its `rows` is R; a `best` larger than the vocabulary returns the whole vocabulary.
        hidden_RD: the residual stream after the last layer norm.
        head: from [N, D] to logits [N, V].
        vocab_size: V.

    Raises:
        BackendError: a logit is not a finite number, so the weights are damaged.
    """
    R, K = want.rows, min(want.best, vocab_size)
    result = Result()
    if want.logits:
        result.logits_RV = np.empty((R, vocab_size), np.float32)
    if K:
        result.best_ids_RK, result.best_logprobs_RK = np.empty((R, K), np.int32), np.empty((R, K), np.float32)
    if want.targets is not None:
        result.target_logprobs_R, result.entropies_R = np.empty(R, np.float32), np.empty(R, np.float32)
        result.target_ranks_R = np.empty(R, np.int32)
    if not (want.logits or K or want.targets is not None):
        return result

    rows_at_once = max(1, _LOGITS_AT_ONCE // vocab_size)
    for start in range(0, R, rows_at_once):
        logits_NV = head(hidden_RD[start : start + rows_at_once])
        if not np.isfinite(logits_NV).all():
            raise BackendError(
                "the logits are not finite numbers: the weights are damaged. Fetch or convert them anew."
            )
        _fill(result, want, slice(start, start + len(logits_NV)), logits_NV)
    return result


def _fill(result: Result, want: Want, rows: slice, logits_NV: Floats) -> None:
    """Write what is wanted of `logits_NV` into the rows `rows` of the result."""
    if result.logits_RV is not None:
        result.logits_RV[rows] = logits_NV
    if result.best_ids_RK is None and want.targets is None:
        return
    shifted_NV = logits_NV - logits_NV.max(axis=1, keepdims=True)
    e_NV = np.exp(shifted_NV)
    sum_N = e_NV.sum(axis=1, dtype=np.float64)
    log_sum_N = np.log(sum_N)
    if result.best_ids_RK is not None and result.best_logprobs_RK is not None:
        ids_NK = best(logits_NV, result.best_ids_RK.shape[1])
        result.best_ids_RK[rows] = ids_NK
        result.best_logprobs_RK[rows] = np.take_along_axis(shifted_NV, ids_NK, axis=1) - log_sum_N[:, None]
    if want.targets is not None:
        assert result.target_logprobs_R is not None
        assert result.target_ranks_R is not None
        assert result.entropies_R is not None
        targets_N = np.asarray(want.targets[rows], np.int64)
        result.target_logprobs_R[rows] = shifted_NV[np.arange(len(targets_N)), targets_N] - log_sum_N
        result.target_ranks_R[rows] = ranks(logits_NV, targets_N)
        result.entropies_R[rows] = log_sum_N - (e_NV * shifted_NV).sum(axis=1, dtype=np.float64) / sum_N


def best(logits_NV: Floats, K: int) -> Ints:
    """The ids of each row's K largest logits, largest first; equal logits: lower id first."""
    ids_NK = np.empty((len(logits_NV), K), np.int32)
    for row, logits_V in enumerate(logits_NV):
        least = np.partition(logits_V, -K)[-K]
        above = np.flatnonzero(logits_V > least)
        level = np.flatnonzero(logits_V == least)[: K - len(above)]
        ids = np.concatenate([above, level])  # equal logits are already in id order; a stable sort keeps it
        ids_NK[row] = ids[np.argsort(-logits_V[ids], kind="stable")]
    return ids_NK


def ranks(logits_NV: Floats, targets_N: NDArray[np.int64]) -> Ints:
    """How many tokens rank before each row's target: a larger logit, or an equal one and a lower id."""
    level_N1 = np.take_along_axis(logits_NV, targets_N[:, None], axis=1)
    lower_NV = np.arange(logits_NV.shape[1]) < targets_N[:, None]
    return np.count_nonzero((logits_NV > level_N1) | ((logits_NV == level_N1) & lower_NV), axis=1).astype(np.int32)
