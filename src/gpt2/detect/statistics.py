"""The published statistics that distinguish generated from human text, as pure functions of a reading.

Each keeps its source's definition and orientation. `EVIDENCE` holds them oriented so that a larger value indicates
generated text, as the sources use them. Ranks count from 1 here, as in all these papers.
"""

from collections.abc import Callable

import numpy as np

from gpt2.detect.reading import Reading

BUCKETS = (10, 100, 1000)


def mean_logprob(reading: Reading) -> float:
    """Per token, in nats: Solaiman et al. 2019, "Release strategies and the social impacts of language models"."""
    return float(reading.logprobs_T.mean())


def mean_rank(reading: Reading) -> float:
    """Per token, the most likely being 1: Gehrmann et al. 2019, "GLTR"."""
    return float((reading.ranks_T + 1).mean())


def mean_log_rank(reading: Reading) -> float:
    """Natural logarithm of the rank: Mitchell et al. 2023, "DetectGPT", section 5."""
    return float(np.log(reading.ranks_T + 1).mean())


def mean_entropy(reading: Reading) -> float:
    """Of each token's distribution, in nats: Gehrmann et al. 2019."""
    return float(reading.entropies_T.mean())


def lrr(reading: Reading) -> float:
    """Log-likelihood log-rank ratio: Su et al. 2023, "DetectLLM", equation 1. Infinite if every rank is 1."""
    log_ranks = float(np.log(reading.ranks_T + 1).sum())
    return float(-reading.logprobs_T.sum() / log_ranks) if log_ranks > 0 else float("inf")


def histogram(reading: Reading) -> tuple[int, int, int, int]:
    """Tokens among the 10 most likely, else 100, else 1,000, and the rest: GLTR's colours, Gehrmann et al. 2019."""
    counts = np.bincount(np.digitize(reading.ranks_T, BUCKETS), minlength=len(BUCKETS) + 1)
    return int(counts[0]), int(counts[1]), int(counts[2]), int(counts[3])


def curvature(reading: Reading) -> float:
    """Conditional probability curvature in closed form: Bao et al. 2024, "Fast-DetectGPT", equation 3.

    The number of standard deviations by which the text's log-probability exceeds that of alternatives drawn from the
    sampler at each position: about 0 for a sample at temperature 1, above it for truncated sampling (top-k, top-p),
    below it for human text.
    """
    deviation = float(np.sqrt(reading.variances_T.sum()))
    return float((reading.logprobs_T - reading.means_T).sum()) / deviation if deviation > 0 else 0.0


def binoculars(reading: Reading) -> float:
    """Log-perplexity over cross-perplexity: Hans et al. 2024, "Spotting LLMs with Binoculars", equation 4.

    The scorer is the paper's performer and the sampler its observer; the ratio is informative only if they differ.
    Smaller values indicate generated text. A scorer with entropy 0 gives 0.
    """
    cross = float(-reading.means_T.sum())
    return float(-reading.logprobs_T.sum()) / cross if cross > 0 else 0.0


EVIDENCE: dict[str, Callable[[Reading], float]] = {
    "mean_logprob": mean_logprob,
    "rank": lambda reading: -mean_rank(reading),
    "log_rank": lambda reading: -mean_log_rank(reading),
    "entropy": mean_entropy,
    "lrr": lrr,
    "curvature": curvature,
    "binoculars": lambda reading: -binoculars(reading),
}
"""Statistic -> its value, larger for generated text. Entropy's sign is Fast-DetectGPT's; it depends on the text."""
