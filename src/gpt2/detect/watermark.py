"""Reads a watermark from token ids and its key alone: no model, no prompt, and an exact p-value.

`generation.ContextNoise` keys the noise of each draw by a secret and the preceding tokens. In a text that does not
depend on the secret, each token's keyed number u is uniform on (0, 1); a draw with that noise prefers tokens with u
near 1. So with n distinct contexts, the score S = sum of -log(1 - u) is Gamma(n, 1) without a mark, and

    P(score >= S) = exp(-S) * sum over k < n of S^k / k!

A context counts once, at its first occurrence: repeated noise is no further evidence, and the writer does not use it
twice. Statistic: Aaronson's (lecture of 2022); counting once: Fernandez et al. 2023, "Three bricks to consolidate
watermarks for large language models".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.generation import ContextNoise, draws


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """The evidence for a key in a text's tokens.

    Attributes:
        n_tokens: of the text.
        n_scored: tokens after distinct contexts. Without a mark, the score is about this large.
        score: sum over them of -log(1 - u).
        log_p_value: natural logarithm of the chance that a text without the mark scores as high; 0 if none is scored.
    """

    n_tokens: int
    n_scored: int
    score: float
    log_p_value: float

    @property
    def p_value(self) -> float:
        """The chance that a text without the mark scores as high; 0 if too small for a float."""
        return math.exp(self.log_p_value)


def read_mark(ids: Sequence[int], noise: ContextNoise) -> Mark:
    """Measure how closely the tokens of a text follow the noise of a key.

    Args:
        ids: the text in the vocabulary of the model that may have written it.
        noise: with the secret and width of the suspected mark.
    """
    first: dict[tuple[int, ...], int] = {}
    for i in range(noise.width, len(ids)):
        first.setdefault(tuple(ids[i - noise.width : i]), ids[i])
    u = [draws.uniforms(noise.context_key(context), np.array([token]))[0] for context, token in first.items()]
    score = float(-np.log1p(-np.array(u)).sum())
    return Mark(n_tokens=len(ids), n_scored=len(u), score=score, log_p_value=_log_tail(len(u), score) if u else 0.0)


def _log_tail(n: int, score: float) -> float:
    """log P(X >= score) of X ~ Gamma(n, 1): the chance that a Poisson variable with mean `score` is below n."""
    k = np.arange(n)
    terms = k * math.log(score) - np.cumsum(np.log(np.maximum(k, 1)))
    most = float(terms.max())
    return min(0.0, most + math.log(float(np.exp(terms - most).sum())) - score)
