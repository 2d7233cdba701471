"""How far a build is, and how long its present round will still take."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2.data.corpus.reading import ReadTask
from gpt2.data.workers import Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildProgress:
    """How far a build is.

    Attributes:
        round: "read", "deal" or "gather".
        tasks_done: of this round, including earlier runs; `tasks` is how many it has.
        documents: seen by this run in this round.
        seconds: since it began.
        seconds_left: of this round, estimated; None while unknown.
    """

    round: str
    tasks_done: int
    tasks: int
    documents: int
    seconds: float
    seconds_left: float | None


Progress = Callable[[BuildProgress], None]


class RoundMeter:
    """Reports how far one round is.

    Args:
        name: of the round.
        tasks: that this run has to do.
        total: tasks of the round, including earlier runs'.
        tally: the workers' counts.
        tell: receives the progress, if anything.
    """

    def __init__(self, name: str, tasks: Sequence[Any], total: int, tally: Tally, tell: Progress | None) -> None:
        self._name, self._tasks, self._total, self._tally, self._tell = name, tasks, total, tally, tell
        self._documents_before, _ = tally.read()
        self._began = time.monotonic()
        self._done = 0

    @property
    def seconds(self) -> float:
        """Seconds since the round began."""
        return time.monotonic() - self._began

    def finish_task(self) -> None:
        """Count one more task as done, and report."""
        self._done += 1
        self.tell()

    def tell(self) -> None:
        """Report how far the round is."""
        if self._tell is None:
            return
        documents, read_bytes = self._tally.read()
        self._tell(
            BuildProgress(
                round=self._name,
                tasks_done=self._total - len(self._tasks) + self._done,
                tasks=self._total,
                documents=documents - self._documents_before,
                seconds=self.seconds,
                seconds_left=self._seconds_left(read_bytes),
            )
        )

    def _seconds_left(self, read_bytes: int) -> float | None:
        """Estimated by bytes while inputs are read, as their sizes may differ much; otherwise by tasks."""
        inputs = [task.input for task in self._tasks if isinstance(task, ReadTask)]
        if inputs:
            total_bytes = sum(one.bytes for one in inputs)
            return self.seconds / read_bytes * max(0, total_bytes - read_bytes) if read_bytes else None
        return self.seconds / self._done * (len(self._tasks) - self._done) if self._done else None
