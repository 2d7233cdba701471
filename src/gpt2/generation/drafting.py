"""Speculation: a cheap guess of the next tokens, and one wide step of the model that says how much of it is right.

A draft is right as far as it is what the model draws itself, with the noise of each place. So a text is the same with
drafts and without, greedy or sampled, whatever is guessed; only the number of steps differs. How many tokens are
guessed depends on how many were right before, never on a clock: the steps of a request are the same every time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt2.generation.job import Job, Sample
from gpt2.generation.sampler import Sampler
from gpt2.generation.turns import Piece

MOST_DRAFTED = 16  # tokens at once for one text
_ROWS = 32  # of drafts in one step
_MANY = 8  # texts at once: drafts made eight stories a quarter slower (benchmarks/speculation.py, native engine)

log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A text to guess the continuation of.

    Attributes:
        text: names it from one step to the next; its ids only grow.
        ids: prompt and continuation so far.
        sampler: of its request.
        sample: of the request.
        most: tokens to guess, at least one.
    """

    text: object
    ids: Sequence[int]
    sampler: Sampler
    sample: int
    most: int


class Drafter(Protocol):
    """Whoever guesses. What it guesses changes how many steps a text takes, and nothing else."""

    cost: float  # of guessing one token, as a share of a step of the model

    def draft(self, asks: Sequence[Ask]) -> list[list[int]]:
        """A guess for each, of at most `most` ids of the vocabulary; an empty one where it has none."""
        ...

    def forget(self, text: object) -> None:
        """A text has ended; it may be one that was never asked about."""
        ...

    def slot_bytes(self, tokens: int) -> int:
        """The most memory that a text of this many tokens takes here."""
        ...

    def close(self) -> None:
        """Forget everything."""
        ...


class Pace:
    """How many tokens to guess for one text: as many as pay, by the share of guesses that were right lately.

    If each token is right with probability p, a draft of k brings 1 + p + ... + p^k tokens on average, in a step that
    costs 1 + k * cost (Leviathan, Kalman, Matias 2023, "Fast inference from transformers via speculative decoding",
    section 3). The k with the most tokens for the cost is taken; 0 where none pays, until old failures are forgotten.
    """

    def __init__(self) -> None:
        self._p = _FIRST

    def tokens(self, cost: float) -> int:
        """How many to guess now.

        Args:
            cost: of one more guessed token, its row in the wide step included, as a share of a plain step.
        """
        best, most, brings, share = 0, 1.0, 1.0, 1.0
        for k in range(1, MOST_DRAFTED + 1):
            share *= self._p
            brings += share
            if brings / (1 + k * cost) > most:
                best, most = k, brings / (1 + k * cost)
        return best

    def learn(self, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the first `accepted` were right. What comes after the first wrong one says nothing."""
        if drafted:
            self._p += _LEARN * (accepted / min(drafted, accepted + 1) - self._p)
        else:
            self._p += _FORGET * (_FIRST - self._p)


_FIRST = 0.7  # before anything is known: high enough to be tried among many texts too
_LEARN = 0.3  # at each draft: few, for texts turn from what is easily guessed to what is not
_FORGET = 0.007  # at each step without: a guess in some seven steps where all have been wrong


class Speculation:
    """Drafts for the texts of one scheduler.

    Args:
        drafter: guesses.
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
        """The pieces of a step, those that decode with a draft where one pays."""
        decoding = [piece for piece in pieces if piece.sample is not None and piece.is_decode]
        if self._drafter is None or not 0 < len(decoding) < _MANY:
            return list(pieces)
        # All texts guess alike, and a step of many rows has less to spare: one more row each is this share of it.
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
        """How much of a text's draft was right."""
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
        """How many tokens to guess: within what pays, the text's limit, the window, and rows that ask for the same."""
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
