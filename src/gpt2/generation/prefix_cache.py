"""Beginnings that were computed before: slots kept when their requests end, and those of requests that still run.

A prompt that begins as another text of its namespace does takes a fork of that text's slot, cut to what they have in
common. Kept slots are the ones their requests had, so keeping costs no computation and no copy; the least recently
used go first. On the native engine what follows is the same to the byte as if all had been computed; on the others
within rounding, since a prompt is then cut at other places.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpt2.backends.seam import Backend
from gpt2.generation.job import Job
from gpt2.generation.sequence import SlotSequence

LEAST_TOKENS = 16  # less in common is not worth a fork
_WORTH_WAITING = 64  # tokens in common with a prompt that is being read


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    namespace: str
    ids: Sequence[int]
    slot: int
    size_bytes: int


class PrefixCache:
    """Slots by the text they hold.

    Args:
        backend: whose slots they are.
        limit_bytes: of all of them together, counted as if no two shared memory. 0 keeps none, and shares none.
    """

    def __init__(self, backend: Backend, *, limit_bytes: int) -> None:
        self._backend = backend
        self._limit_bytes = limit_bytes
        self._kept: list[_Kept] = []  # the least recently used first
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_on(self) -> bool:
        """Whether anything is shared."""
        return self._limit_bytes > 0

    def begin(self, job: Job, running: Iterable[Job]) -> SlotSequence:
        """A sequence for the job's prompt, with as much of it computed as can be had."""
        if not self.is_on or job.scores_prompt:  # what is scored must be computed
            return SlotSequence(self._backend, job.prompt)
        kept, n = self._longest_kept(job)
        here = None if kept is None else kept.slot
        for ids, sequence in _sequences(job, running):
            if (shared := _shared(job.prompt, ids)) > n:
                kept, here, n = None, sequence.slot, shared
        if here is None or n < LEAST_TOKENS:
            return SlotSequence(self._backend, job.prompt)
        if kept is not None:  # used just now
            self._kept.remove(kept)
            self._kept.append(kept)
        slot = self._backend.fork(here)
        try:
            self._backend.truncate(slot, n)
        except BaseException:
            self._backend.free(slot)
            raise
        job.n_cached = n
        return SlotSequence(self._backend, job.prompt, slot, computed=n)

    def should_wait(self, job: Job, running: Iterable[Job]) -> bool:
        """Whether a request that runs will soon have read what this one would have to read as well."""
        if not self.is_on or job.scores_prompt:
            return False
        others = [other for other in running if other.request.namespace == job.request.namespace]
        coming = max((_shared(job.prompt, other.prompt) for other in others if other.reading is not None), default=0)
        if coming < _WORTH_WAITING:
            return False
        here = [_shared(job.prompt, ids) for ids, _ in _sequences(job, others)]
        return coming > max([self._longest_kept(job)[1], *here])

    def keep(self, job: Job, sequence: SlotSequence) -> None:
        """A text has ended: keep its slot if it is of use, else give it back."""
        ids, namespace = tuple(sequence.whole), job.request.namespace
        size_bytes = self._backend.slot_bytes(len(ids))
        if len(ids) < LEAST_TOKENS or size_bytes > self._limit_bytes:
            sequence.free()
            return
        for kept in [kept for kept in self._kept if kept.namespace == namespace]:
            shared = _common(kept.ids, ids)
            if shared == len(ids):  # nothing new
                sequence.free()
                return
            if shared == len(kept.ids):  # the new one begins with it
                self._drop(kept)
        self.shrink(self._limit_bytes - size_bytes)
        self._kept.append(_Kept(namespace, ids, sequence.hand_over(), size_bytes))
        self.size_bytes += size_bytes

    def shrink(self, limit_bytes: int) -> None:
        """Give up the least recently used until the rest take at most this."""
        while self._kept and self.size_bytes > limit_bytes:
            self._drop(self._kept[0])

    def _drop(self, kept: _Kept) -> None:
        self._kept.remove(kept)
        self.size_bytes -= kept.size_bytes
        self._backend.free(kept.slot)

    def _longest_kept(self, job: Job) -> tuple[_Kept | None, int]:
        best, n = None, 0
        for kept in self._kept:
            if kept.namespace == job.request.namespace and (shared := _shared(job.prompt, kept.ids)) > n:
                best, n = kept, shared
        return best, n


def _sequences(job: Job, running: Iterable[Job]) -> Iterable[tuple[Sequence[int], SlotSequence]]:
    """What is computed at present of each running request of the job's namespace."""
    for other in running:
        if other is not job and other.request.namespace == job.request.namespace:
            for _, sequence in other.sequences()[:1]:
                yield sequence.whole, sequence


def _shared(prompt: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens of the prompt are the first of `ids`; the last is computed in any case, for its logits."""
    return min(_common(prompt, ids), len(prompt) - 1)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first ids are the same; 0 where those that make it worth a fork are not."""
    if list(a[:LEAST_TOKENS]) != list(b[:LEAST_TOKENS]):
        return 0
    least, most = 0, min(len(a), len(b))
    while least < most:  # the first `least` are the same, more than `most` are not
        middle = (least + most + 1) // 2
        if list(a[least:middle]) == list(b[least:middle]):
            least = middle
        else:
            most = middle - 1
    return least
