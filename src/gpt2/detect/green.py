"""Reads a green-list mark: counts green tokens like transformers' `WatermarkDetector`.

Of n-grams that do not depend on the key, a share gamma is green. Transformers reports a z-score and a p-value from
the normal distribution; here the p-value is the binomial tail over distinct n-grams, since a repeated n-gram is no
further evidence. It is exact as far as 32-bit seeds are independent; n-grams that share a list are drawn from it
without replacement, which makes it slightly too large.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.generation import GreenList


@dataclass(frozen=True, kw_only=True, slots=True)
class GreenMark:
    """The evidence for a green list in a text's tokens.

    Attributes:
        n_tokens: of the text.
        n_scored: n-grams counted.
        n_green: green ones among them.
        z_score: standard deviations above chance; 0 if none was counted.
        log_p_value: natural logarithm of the chance that a text without the mark has as many.
    """

    n_tokens: int
    n_scored: int
    n_green: int
    z_score: float
    log_p_value: float

    @property
    def p_value(self) -> float:
        """The chance that a text without the mark has as many; 0 if too small for a float."""
        return math.exp(self.log_p_value)


def read_green(ids: Sequence[int], green: GreenList, *, vocab_size: int, repeated: bool = False) -> GreenMark:
    """Count a text's green tokens.

    Args:
        ids: the text, without an end-of-text token before it.
        green: the settings of the suspected mark.
        vocab_size: of the model that would have written the text; the lists depend on it.
        repeated: count every occurrence of an n-gram, the default of `WatermarkDetector`. The p-value then treats
            repetitions as independent, which they are not.
    """
    ngrams = [tuple(ids[i : i + green.ngram]) for i in range(len(ids) - green.ngram + 1)]
    judged = {ngram: green.is_green(ngram, vocab_size) for ngram in set(ngrams)}
    counted = ngrams if repeated else list(judged)
    n, n_green = len(counted), sum(judged[ngram] for ngram in counted)
    deviation = math.sqrt(n * green.gamma * (1 - green.gamma))
    return GreenMark(
        n_tokens=len(ids),
        n_scored=n,
        n_green=n_green,
        z_score=(n_green - green.gamma * n) / deviation if n else 0.0,
        log_p_value=_log_tail(n_green, n, green.n_green(vocab_size) / vocab_size),
    )


def _log_tail(least: int, n: int, p: float) -> float:
    """log P(X >= least) of X ~ Binomial(n, p)."""
    if least <= 0 or p >= 1:
        return 0.0
    if p <= 0:
        return -math.inf
    k = np.arange(least, n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    terms = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * math.log(p) + (n - k) * math.log1p(-p)
    most = float(terms.max())
    return min(0.0, most + math.log(float(np.exp(terms - most).sum())))
