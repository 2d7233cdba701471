"""Counters and state of a scheduler, the source of a server's metrics."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Counts:
    """Totals since the scheduler was made; they only grow.

    Attributes:
        submitted: requests accepted.
        finished: requests answered in full.
        cancelled: requests ended by `cancel` or `close`.
        failed: requests that ended with an error, including a missed deadline.
        steps: of the backend, one for each call of `step` that had work.
        prompt_tokens: read, without cached ones.
        generated_tokens: drawn.
        drafted_tokens: proposed by drafts.
        accepted_tokens: drafted tokens that were right.
        prefix_hits: prompts with a prefix in the prefix cache.
        prefix_tokens: tokens that did not have to be computed again.
    """

    submitted: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prefix_hits: int = 0
    prefix_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """A snapshot of a scheduler.

    Attributes:
        running: requests that have begun.
        waiting: requests that have not.
        sequences: prompts being read and open samples, which the next step may extend.
        kv_bytes: held by all slots of the backend, whoever made them.
        reserved_bytes: the most that the running requests may come to need.
        prefix_entries: texts in the prefix cache.
        prefix_bytes: of those texts, counted as if they shared no memory.
        counts: totals; a copy.
    """

    running: int
    waiting: int
    sequences: int
    kv_bytes: int
    reserved_bytes: int
    prefix_entries: int
    prefix_bytes: int
    counts: Counts
