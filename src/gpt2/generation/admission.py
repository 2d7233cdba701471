"""Who may begin: requests that wait, and the slots and memory that let them in.

The highest priority first, of equals the first to come. One that does not fit yet may be overtaken by others of its
priority that do, a bounded number of times; then all wait for it. One that would compute what another is about to
have computed waits for that one, and nobody waits for it.
"""

from bisect import insort
from collections.abc import Collection

from gpt2.generation.job import Job
from gpt2.generation.prefix_cache import PrefixCache

_MOST_OVERTAKEN = 16


class Admission:
    """The queue.

    Args:
        prefixes: gives up what it keeps when that lets a request in.
        max_slots: sequences computed at once. A request with more samples than this runs alone.
        kv_bytes: what the running requests may come to need, and the prefix cache with them. None: no limit.
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
        """Those that wait, in the order in which they may begin."""
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
        """The next to begin, taken out of the queue; None when nobody can."""
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
        """What is left for the prefix cache when the job has begun; below 0 it does not fit."""
        if self.kv_bytes is None:
            return 0
        return self.kv_bytes - job.need_bytes - sum(other.need_bytes for other in running)
