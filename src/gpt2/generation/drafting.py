"""Speculative decoding: a cheap draft of the next tokens, verified by one wide step of the model.

A draft token is accepted if and only if the model draws the same token with that position's noise. So a text is the
same with and without drafts, greedy or sampled; only the number of steps differs. Draft length depends on past
acceptance, never on a clock, so a request takes the same steps every time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt2.generation.job import Job, Sample
from gpt2.generation.sampler import Sampler
from gpt2.generation.turns import Piece

MOST_DRAFTED = 16  # tokens at once for one text
_ROWS = 32  # of draft tokens in one step
_MANY = 8  # texts at once: drafts made eight stories a quarter slower (benchmarks/speculation.py, native engine)

log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A text to draft a continuation for.

    Attributes:
        text: identifies it from step to step; its ids only grow.
        ids: prompt and continuation so far.
        sampler: of its request.
        sample: index within the request.
        most: the most tokens to draft, at least one.
    """

    text: object
    ids: Sequence[int]
    sampler: Sampler
    sample: int
    most: int


class Drafter(Protocol):
    """Makes drafts. They change how many steps a text takes, and nothing else."""

    cost: float  # of drafting one token, as a share of a step of the model

    def draft(self, asks: Sequence[Ask]) -> list[list[int]]:
        """One draft per text, of at most `most` vocabulary ids; empty if it has none."""
        ...

    def forget(self, text: object) -> None:
        """Drop a text that has ended, even one that was never drafted."""
        ...

    def slot_bytes(self, tokens: int) -> int:
        """The most memory that a text of this many tokens takes here."""
        ...

    def close(self) -> None:
        """Forget everything."""
        ...


class Pace:
    """The draft length for one text, chosen from its recent acceptance rate.

    If each token is accepted with probability p, a draft of k yields 1 + p + ... + p^k tokens on average, in a step
    that costs 1 + k * cost (Leviathan, Kalman, Matias 2023, "Fast inference from transformers via speculative
    decoding", section 3). The k with the most tokens per cost wins; 0 if none pays, until old failures are forgotten.
    """

    def __init__(self) -> None:
        self._p = _FIRST

    def tokens(self, cost: float) -> int:
        """How many to draft now.

        Args:
            cost: of one more draft token, including its row in the wide step, as a share of a plain step.
        """
        best, most, brings, share = 0, 1.0, 1.0, 1.0
        for k in range(1, MOST_DRAFTED + 1):
            share *= self._p
            brings += share
            if brings / (1 + k * cost) > most:
                best, most = k, brings / (1 + k * cost)
        return best

    def learn(self, drafted: int, accepted: int) -> None:
        """Update the rate: `accepted` of `drafted` tokens were right. Tokens after the first wrong one do not count."""
        if drafted:
            self._p += _LEARN * (accepted / min(drafted, accepted + 1) - self._p)
        else:
            self._p += _FORGET * (_FIRST - self._p)


_FIRST = 0.7  # initial rate: high enough that drafts are tried among many texts too
_LEARN = 0.3  # per draft: fast, since a text can turn suddenly from easy to hard
_FORGET = 0.007  # per step without a draft: retries after some seven steps if all have failed


class Speculation:
    """Drafts for the texts of one scheduler.

    Args:
        drafter: makes the drafts.
        row_cost: of one more row in a step of the model, as a share of a step.
    """

    def __init__(self, drafter: Drafter, *, row_cost: float) -> None:
        self._drafter: Drafter | None = drafter
        self._row_cost = row_cost
        self._paces: dict[Sample, Pace] = {}

    def slot_bytes(self, tokens: int) -> int:
        """See `Drafter`."""
        return 0 if self._drafter is None else self._drafter.slot_bytes(tokens)

    def add_drafts(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces of a step, with drafts added to decoding ones if they pay."""
        decoding = [piece for piece in pieces if piece.sample is not None and piece.is_decode]
        if self._drafter is None or not 0 < len(decoding) < _MANY:
            return list(pieces)
        # Assume that all texts draft alike: the cost of one more row for each, as a share of the n-row step.
        n, row_cost = len(decoding), self._row_cost
        cost = self._drafter.cost + n * row_cost / (1 + (n - 1) * row_cost)
        asks: dict[int, Ask] = {}
        for index, piece in enumerate(pieces):
            if piece.sample is None or not piece.is_decode:
                continue
            most = min(self._most(piece.job, piece.sample, cost), _ROWS // n)
            if most > 0:
                asks[index] = Ask(
                    text=piece.sample,
                    ids=piece.sequence.ids,
                    sampler=piece.job.sampler,
                    sample=piece.sample.index,
                    most=most,
                )
        drafts = dict(zip(asks, self._draft(list(asks.values())), strict=True))
        return [piece.with_draft(drafts.get(index, [])) for index, piece in enumerate(pieces)]

    def learn(self, sample: Sample, drafted: int, accepted: int) -> None:
        """Record how much of a text's draft was accepted."""
        self._pace(sample).learn(drafted, accepted)

    def forget(self, sample: Sample) -> None:
        """A text has ended."""
        self._paces.pop(sample, None)
        if self._drafter is not None:
            self._drafter.forget(sample)

    def close(self) -> None:
        """Forget all texts."""
        self._paces.clear()
        if self._drafter is not None:
            self._drafter.close()

    def _pace(self, sample: Sample) -> Pace:
        return self._paces.setdefault(sample, Pace())

    def _most(self, job: Job, sample: Sample, cost: float) -> int:
        """The draft length: within what pays, the text's limit, the window, and rows that want the same results."""
        most = min(self._pace(sample).tokens(cost), job.limit - sample.n_tokens - 1, sample.sequence.room)
        alike = job.sampler.rows_alike(len(sample.sequence.ids))
        return most if alike is None else min(most, alike - 1)

    def _draft(self, asks: list[Ask]) -> list[list[int]]:
        if not asks or self._drafter is None:
            return [[] for _ in asks]
        try:
            return self._drafter.draft(asks)
        except Exception as error:  # nobody's text may end because a guess could not be made
            log.warning("drafting failed (%s); continuing without drafts", error)
            drafter, self._drafter = self._drafter, None
            drafter.close()
            return [[] for _ in asks]
