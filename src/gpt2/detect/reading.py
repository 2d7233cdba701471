"""A model's numbers for each token of a text, from which this package computes all its statistics.

Axes: T scored tokens, R rows of one step, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from gpt2.backends.seam import Backend
from gpt2.errors import GenerationError
from gpt2.generation.scoring import beginning, default_stride, slide
from gpt2.tokenizer import Tokenizer

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """A text's scores under a scorer, compared with what a sampler would have drawn.

    The sampler is the model from whose distribution the text may have been drawn; by default it is the scorer.

    Attributes:
        ids_T: the scored tokens.
        logprobs_T: the scorer's natural logarithm of the probability of each token.
        ranks_T: how many tokens the scorer found more likely; 0 is its first guess.
        entropies_T: of the scorer's distribution, in nats.
        means_T: mean of the scorer's log-probability over the sampler's distribution.
        variances_T: its variance there.
    """

    ids_T: NDArray[np.int64]
    logprobs_T: Doubles
    ranks_T: NDArray[np.int64]
    entropies_T: Doubles
    means_T: Doubles
    variances_T: Doubles

    def __len__(self) -> int:
        return len(self.ids_T)

    def first(self, n_tokens: int) -> "Reading":
        """The reading of the first tokens alone; no token's numbers depend on later ones."""
        return Reading(
            ids_T=self.ids_T[:n_tokens],
            logprobs_T=self.logprobs_T[:n_tokens],
            ranks_T=self.ranks_T[:n_tokens],
            entropies_T=self.entropies_T[:n_tokens],
            means_T=self.means_T[:n_tokens],
            variances_T=self.variances_T[:n_tokens],
        )


def read(
    scorer: Backend,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    *,
    sampler: Backend | None = None,
    score_first: bool = True,
) -> Reading:
    """Read a text of any length; beyond the context, the window slides by half the context.

    At most 128 tokens' full distributions are held at a time.

    Args:
        scorer: gives the log-probabilities, ranks and entropies.
        tokenizer: the scorer's, for its end-of-text token.
        ids: the text.
        sampler: another model of the same vocabulary and context, in whose distribution the averages are taken.
        score_first: put the end-of-text token before the text, so that its first token is scored as a beginning.

    Raises:
        GenerationError: nothing to score, an id outside the vocabulary, a sampler with another vocabulary or context,
            or no end-of-text token before the first token.
    """
    config = scorer.config
    if sampler is not None and (sampler.config.vocab_size, sampler.config.n_positions) != (
        config.vocab_size,
        config.n_positions,
    ):
        raise GenerationError(
            f"The two models cannot read a text together: their vocabularies are {config.vocab_size:,} and "
            f"{sampler.config.vocab_size:,} ids, their contexts {config.n_positions:,} and "
            f"{sampler.config.n_positions:,} tokens. Take two that agree."
        )
    context = beginning(tokenizer, score_first=score_first)
    if len(context) + len(ids) < 2:
        raise GenerationError(f"The text cannot be read: it has {len(ids)} tokens. Give at least {2 - len(context)}.")
    given, stride = [*context, *ids], default_stride(config.n_positions)
    logprobs: list[float] = []
    ranks: list[int] = []
    entropies: list[float] = []
    moments: list[tuple[Doubles, Doubles]] = []
    samplers: Iterator[NDArray[np.float32] | None] = (
        repeat(None)
        if sampler is None
        else (result.logits_RV for result in slide(sampler, given, stride=stride, logits=True))
    )
    for result, other_RV in zip(slide(scorer, given, stride=stride, logits=True), samplers, strict=False):
        assert result.logits_RV is not None
        assert result.target_logprobs_R is not None
        assert result.target_ranks_R is not None
        assert result.entropies_R is not None
        logprobs += result.target_logprobs_R.tolist()
        ranks += result.target_ranks_R.tolist()
        entropies += result.entropies_R.tolist()
        moments.append(_moments(result.logits_RV, other_RV))
    return Reading(
        ids_T=np.array(given[1:], np.int64),
        logprobs_T=np.array(logprobs),
        ranks_T=np.array(ranks, np.int64),
        entropies_T=np.array(entropies),
        means_T=np.concatenate([mean_R for mean_R, _ in moments]),
        variances_T=np.concatenate([variance_R for _, variance_R in moments]),
    )


def _moments(scorer_RV: NDArray[np.float32], sampler_RV: NDArray[np.float32] | None) -> tuple[Doubles, Doubles]:
    """Mean and variance of the scorer's log-probability over the sampler's distribution, row by row.

    A row and its scratch fit the CPU cache; whole float64 arrays would not. The variance follows its definition, since
    the mean of squares minus the square of the mean would cancel.
    """
    n_rows, n_vocab = scorer_RV.shape
    mean_R, variance_R = np.empty(n_rows), np.empty(n_rows)
    logp_V, weight_V = np.empty(n_vocab), np.empty(n_vocab)
    for row in range(n_rows):
        np.subtract(scorer_RV[row], scorer_RV[row].max(), out=logp_V, dtype=np.float64)
        np.exp(logp_V, out=weight_V)
        total = weight_V.sum()
        logp_V -= np.log(total)
        if sampler_RV is not None:
            np.subtract(sampler_RV[row], sampler_RV[row].max(), out=weight_V, dtype=np.float64)
            np.exp(weight_V, out=weight_V)
            total = weight_V.sum()
        # einsum, since BLAS would wake its threads for every row
        mean_R[row] = np.einsum("v,v->", weight_V, logp_V) / total
        logp_V -= mean_R[row]
        np.square(logp_V, out=logp_V)
        variance_R[row] = np.einsum("v,v->", weight_V, logp_V) / total
    return mean_R, variance_R
