"""One token in detail: its alternatives, the prediction layer by layer, and the model's attention.

All of it comes from one backend step and one row: that of the previous token, which predicts this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.backends.head import Head
from gpt2.backends.seam import Backend, Floats, Trace, Want
from gpt2.errors import ContextError, GenerationError
from gpt2.generation import Sampling
from gpt2.generation.filters import Logits, Row, log_normaliser
from gpt2.generation.sampler import Sampler, best_of_rows
from gpt2.inspect.reading import chosen, run
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A token that the model might have put there.

    Attributes:
        token: its id.
        logprob: under the model, natural.
        filtered_logprob: under the sampling distribution; None if the filters remove it.
    """

    token: int
    logprob: float
    filtered_logprob: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """What one depth of the residual stream predicts through the logit lens.

    Attributes:
        depth: 0 is the embedding, i the output of block i.
        best: the most likely tokens and their log-probabilities.
        rank: of the actual token, 0 being the most likely; None at the end of the text.
        logprob: of the actual token.
    """

    depth: int
    best: tuple[tuple[int, float], ...]
    rank: int | None
    logprob: float | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenView:
    """The model's view of one position in a text.

    Attributes:
        position: of the token, counted from 0; the number of tokens is the position after the last.
        alternatives: the most likely tokens.
        kept: how many tokens the filters keep.
        entropy: of the model's distribution, in nats.
        depths: the logit lens, from the embedding to the model's own prediction.
        attention_HS: of each head of the requested layer, over the S tokens before; None without a layer.
    """

    position: int
    alternatives: tuple[Alternative, ...]
    kept: int
    entropy: float
    depths: tuple[Depth, ...]
    attention_HS: Floats | None


def view_token(
    backend: Backend,
    head: Head,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    position: int,
    *,
    sampling: Sampling | None = None,
    layer: int | None = None,
    best: int = 10,
) -> TokenView:
    """Examine one position in a text.

    Args:
        backend: any; every backend traces.
        head: of the same weights.
        tokenizer: of the model.
        ids: the text.
        position: 1 to the number of tokens: nothing precedes and predicts the first token.
        sampling: settings whose filters give each alternative's filtered probability; no filters by default. The
            tokens before `position` count as the prompt.
        layer: the layer whose attention is wanted.
        best: how many alternatives.

    Raises:
        ContextError: more tokens before the position than the context.
        GenerationError: no such position, layer or id.
    """
    config = backend.config
    if not 1 <= position <= len(ids):
        raise GenerationError(
            f"There is nothing to say of position {position}: predictions are made of positions 1 to {len(ids)}."
        )
    if position > config.n_positions:
        raise ContextError(
            f"Position {position:,} cannot be looked at: {position:,} tokens come before it, and the context is "
            f"{config.n_positions:,}. Give a part of the text."
        )
    before, actual = ids[:position], ids[position] if position < len(ids) else None
    every_depth = tuple(range(config.n_layer + 1))
    heads = (
        ()
        if layer is None
        else tuple((of, n) for of in chosen("layer", layer, config.n_layer) for n in range(config.n_head))
    )
    want = Want(
        rows=1, logits=True, best=best, targets=[actual or 0], trace=Trace(residual=every_depth, attention=heads)
    )
    result = run(backend, before, want)
    assert result.logits_RV is not None
    assert result.entropies_R is not None

    ids_N, logprobs_N = _sampled_from(result.logits_RV[0], sampling or Sampling(), tokenizer, before, config.vocab_size)
    filtered = dict(zip(ids_N.tolist(), logprobs_N.tolist(), strict=True))
    [pairs] = best_of_rows(result) or [()]
    alternatives = tuple(
        Alternative(token=token, logprob=logprob, filtered_logprob=filtered.get(token)) for token, logprob in pairs
    )
    return TokenView(
        position=position,
        alternatives=alternatives,
        kept=len(filtered),
        entropy=float(result.entropies_R[0]),
        depths=_read_depths(head, [result.residual[depth][0] for depth in every_depth], actual, best=min(best, 3)),
        attention_HS=np.concatenate([result.attention[pair] for pair in heads]) if heads else None,
    )


def _read_depths(head: Head, residual_D: Sequence[Floats], actual: int | None, *, best: int) -> tuple[Depth, ...]:
    """The lens at one position: each depth's prediction, all in one product with the embedding."""
    rows = len(residual_D)
    read = head.read(np.stack(residual_D), Want(rows=rows, best=best, targets=[actual or 0] * rows))
    assert read.target_ranks_R is not None
    assert read.target_logprobs_R is not None
    likeliest = best_of_rows(read) or [()] * rows
    known = actual is not None
    return tuple(
        Depth(depth=depth, best=pairs, rank=rank if known else None, logprob=logprob if known else None)
        for depth, (pairs, rank, logprob) in enumerate(
            zip(likeliest, read.target_ranks_R.tolist(), read.target_logprobs_R.tolist(), strict=True)
        )
    )


def _sampled_from(
    logits_V: Logits, sampling: Sampling, tokenizer: Tokenizer, before: Sequence[int], vocab_size: int
) -> Row:
    """The tokens that survive the filters, and their log-probabilities."""
    n_ids = min(tokenizer.vocab_size, vocab_size)
    sampler = Sampler(sampling, seed=0, n_prompt=len(before), n_ids=n_ids, vocab_size=vocab_size, end_ids=())
    logits_N = sampler.change(logits_V[:n_ids], before)
    row: Row = np.arange(n_ids, dtype=np.int64), logits_N
    if logits_N.max() == -np.inf:
        return row[0][:0], logits_N[:0]
    if sampling.is_greedy:
        return np.array([logits_N.argmax()], np.int64), np.zeros(1, np.float32)
    ids_M, kept_M = sampler.keep(row)
    logprobs_M = kept_M - np.float32(log_normaliser(kept_M))
    possible_M = logprobs_M > -np.inf
    return ids_M[possible_M], logprobs_M[possible_M]
