"""Reading a green-list mark: how many tokens are green, as transformers' `WatermarkDetector` counts them.

Of n-grams that owe nothing to the key a share gamma is green. Theirs is the z-score, and a p-value from the normal
distribution; ours is the binomial tail, over distinct n-grams, since a repeated one is no second witness. It is exact
as far as 32-bit seeds are independent; n-grams that share a list are drawn from it without replacement, which makes it
slightly too large.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.generation import GreenList


@dataclass(frozen=True, kw_only=True, slots=True)
class GreenMark:
    """What the tokens of a text say of a green list.

    Attributes:
        n_tokens: of the text.
        n_scored: n-grams that were counted.
        n_green: of these, green ones.
        z_score: by how many standard deviations that is more than by chance; 0 where none was counted.
        log_p_value: natural logarithm of how often a text without the mark has so many.
    """

    n_tokens: int
    n_scored: int
    n_green: int
    z_score: float
    log_p_value: float

    @property
    def p_value(self) -> float:
        """How often a text without the mark has so many; 0 where that is less than a float can hold."""
        return math.exp(self.log_p_value)


def read_green(ids: Sequence[int], green: GreenList, *, vocab_size: int, repeated: bool = False) -> GreenMark:
    """How many of a text's tokens are green.

    Args:
        ids: the text, without the end-of-text token that some put before it.
        green: the settings that it would have been marked with.
        vocab_size: of the model that would have marked it, which the lists depend on.
        repeated: count every n-gram as often as it comes, as `WatermarkDetector` does by default. The p-value then
            takes repetitions for independent, which they are not.
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
