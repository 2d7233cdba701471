"""What a scheduler has done and holds: the numbers that a server's metrics are made of."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Counts:
    """Totals since the scheduler was made; they only grow.

    Attributes:
        submitted: requests taken.
        finished: those that were answered in full.
        cancelled: those that `cancel` or `close` ended.
        failed: those that ended with an error, a missed deadline included.
        steps: of the backend, one for each call of `step` that had work.
        prompt_tokens: read, those that were found computed not counted.
        generated_tokens: drawn.
        drafted_tokens: proposed by drafts.
        accepted_tokens: those of them that were right.
        prefix_hits: prompts whose beginning was in the prefix cache.
        prefix_tokens: tokens that were not computed again.
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
    """A moment of a scheduler.

    Attributes:
        running: requests that have begun.
        waiting: requests that have not.
        sequences: that the next step may extend: prompts being read and open samples.
        kv_bytes: that all slots of the backend hold, whoever made them.
        reserved_bytes: what the running requests may come to need, at most.
        prefix_entries: texts in the prefix cache.
        prefix_bytes: of them, counted as if no two shared memory.
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
