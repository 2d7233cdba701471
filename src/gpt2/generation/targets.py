"""The probability of given tokens after given tokens: what benchmarks ask, several at a time.

Unlike `scoring.score`, which scores the whole of one text, only the targets are scored, and nothing slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpt2.backends.seam import Backend, Want, Work
from gpt2.errors import ContextError
from gpt2.generation.sampler import best_of_rows

_CHUNK_TOKENS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Tokens to be scored after others.

    Attributes:
        context: at least one token.
        targets: at least one; all but the last may take part of the context, with which they fit `n_positions`.
        best: how many of the most likely tokens to report where the first target stands.
    """

    context: tuple[int, ...]
    targets: tuple[int, ...]
    best: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetScore:
    """Attributes:
    logprobs: of each target, natural.
    ranks: how many tokens were more likely than each.
    best: ids of the most likely tokens for the first target, likeliest first.
    """

    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]
    best: tuple[int, ...] = ()


def score_targets(backend: Backend, requests: Sequence[Target]) -> list[TargetScore]:
    """Score each of several targets, all in the same steps; each as it would be scored alone.

    Raises:
        ContextError: one is longer than the context.
    """
    found = [_Found() for _ in requests]
    slots: list[int] = []
    try:
        for request in requests:
            assert request.context and request.targets
            n_tokens = len(request.context) + len(request.targets) - 1
            if n_tokens > backend.config.n_positions:
                raise ContextError(
                    f"The targets cannot be scored: with what stands before them they take {n_tokens:,} tokens, and "
                    f"the model's context is {backend.config.n_positions:,}. Shorten what stands before them."
                )
            slots.append(backend.new())
        inputs = [request.context + request.targets[:-1] for request in requests]
        for first in range(0, max(map(len, inputs), default=0), _CHUNK_TOKENS):
            works: list[Work] = []
            takers: list[_Found] = []
            for request, slot, ids, taker in zip(requests, slots, inputs, found, strict=True):
                tokens = ids[first : first + _CHUNK_TOKENS]
                if not tokens:
                    continue
                last = first + len(tokens)  # row i predicts token i + 1; the targets begin after the context
                rows = min(len(tokens), max(0, last - len(request.context) + 1))
                begin = last - rows - len(request.context) + 1
                best = request.best if rows and begin == 0 else 0
                want = Want(rows=rows, targets=request.targets[begin : begin + rows] if rows else None, best=best)
                works.append(Work(slot=slot, tokens=tokens, want=want))
                takers.append(taker)
            for work, taker, result in zip(works, takers, backend.step(works), strict=True):
                if work.want.rows:
                    assert result.target_logprobs_R is not None
                    assert result.target_ranks_R is not None
                    taker.logprobs += result.target_logprobs_R.tolist()
                    taker.ranks += result.target_ranks_R.tolist()
                    if work.want.best:
                        taker.best = tuple(token for token, _ in best_of_rows(result)[0])
    finally:
        for slot in slots:
            backend.free(slot)
    return [TargetScore(logprobs=tuple(f.logprobs), ranks=tuple(f.ranks), best=f.best) for f in found]


class _Found:
    def __init__(self) -> None:
        self.logprobs: list[float] = []
        self.ranks: list[int] = []
        self.best: tuple[int, ...] = ()
