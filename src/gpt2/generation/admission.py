"""Admission: which waiting request begins next, given free slots and memory.

The highest priority begins first; within a priority, the first to arrive. A request that does not fit yet may be
overtaken by others of its priority a bounded number of times; then all wait for it. A request whose prefix a running
request is about to compute waits for that one, and holds nobody up.
"""

from bisect import insort
from collections.abc import Collection

from gpt2.generation.job import Job
from gpt2.generation.prefix_cache import PrefixCache

_MOST_OVERTAKEN = 16


class Admission:
    """The queue.

    Args:
        prefixes: evicts kept slots if that lets a request begin.
        max_slots: sequences computed at once. A request with more samples than this runs alone.
        kv_bytes: limit on what the running requests may come to need, prefix cache included. None: no limit.
    """

    def __init__(self, prefixes: PrefixCache, *, max_slots: int, kv_bytes: int | None) -> None:
        self._prefixes = prefixes
        self._max_slots = max_slots
        self.kv_bytes = kv_bytes
        self._waiting: list[Job] = []  # in the order in which they may begin

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> list[Job]:
        """The waiting jobs, in the order in which they may begin."""
        return list(self._waiting)

    def add(self, job: Job) -> None:
        """Queue a job."""
        insort(self._waiting, job, key=lambda job: (-job.request.priority, job.id))

    def remove(self, request: int) -> Job | None:
        """Take a job out of the queue, if it is there."""
        job = next((job for job in self._waiting if job.id == request), None)
        if job is not None:
            self._waiting.remove(job)
        return job

    def next(self, running: Collection[Job]) -> Job | None:
        """Take the next job to begin out of the queue; None if none can begin."""
        if not self._waiting:
            return None
        in_use = sum(job.sampling.candidates for job in running)
        if running and in_use >= self._max_slots:
            return None
        held_up: list[Job] = []
        for job in self._waiting:
            if held_up and (job.request.priority != held_up[0].request.priority):
                return None
            free_bytes = self._free_bytes(job, running)
            if free_bytes < 0 or (running and in_use + job.sampling.candidates > self._max_slots):
                held_up.append(job)
                if job.n_overtaken >= _MOST_OVERTAKEN:
                    return None
            elif not self._prefixes.should_wait(job, running):
                for other in held_up:
                    other.n_overtaken += 1
                if self.kv_bytes is not None:
                    self._prefixes.shrink(free_bytes)
                self._waiting.remove(job)
                return job
        return None

    def _free_bytes(self, job: Job, running: Collection[Job]) -> int:
        """The bytes left for the prefix cache once the job has begun; negative: the job does not fit."""
        if self.kv_bytes is None:
            return 0
        return self.kv_bytes - job.need_bytes - sum(other.need_bytes for other in running)
