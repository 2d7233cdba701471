"""The prefix cache: slots kept after their requests end, and slots of running requests.

A prompt that shares a prefix with another text of its namespace forks that text's slot, truncated to the prefix. The
cache keeps the requests' own slots, so keeping costs no computation and no copy; it evicts the least recently used.
On the native engine the results are the same to the byte as without the cache. On the others they agree within
rounding, since a prompt is then chunked at other places.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpt2.backends.seam import Backend
from gpt2.generation.job import Job
from gpt2.generation.sequence import SlotSequence

LEAST_TOKENS = 16  # a shorter common prefix is not worth a fork
_WORTH_WAITING = 64  # tokens in common with a prompt being read


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    namespace: str
    ids: Sequence[int]
    slot: int
    size_bytes: int


class PrefixCache:
    """Slots by the text they hold.

    Args:
        backend: owns the slots.
        limit_bytes: of all kept slots, counted as if they shared no memory. 0 disables keeping and sharing.
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
        """A sequence for the job's prompt, with the longest available prefix computed."""
        if not self.is_on or job.scores_prompt:  # scored tokens must be computed
            return SlotSequence(self._backend, job.prompt)
        kept, n = self._longest_kept(job)
        here = None if kept is None else kept.slot
        for ids, sequence in _sequences(job, running):
            if (shared := _shared(job.prompt, ids)) > n:
                kept, here, n = None, sequence.slot, shared
        if here is None or n < LEAST_TOKENS:
            return SlotSequence(self._backend, job.prompt)
        if kept is not None:  # now the most recently used
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
        """Whether a running request will soon have read a prefix that this one needs too."""
        if not self.is_on or job.scores_prompt:
            return False
        others = [other for other in running if other.request.namespace == job.request.namespace]
        coming = max((_shared(job.prompt, other.prompt) for other in others if other.reading is not None), default=0)
        if coming < _WORTH_WAITING:
            return False
        here = [_shared(job.prompt, ids) for ids, _ in _sequences(job, others)]
        return coming > max([self._longest_kept(job)[1], *here])

    def keep(self, job: Job, sequence: SlotSequence) -> None:
        """Keep the slot of a text that has ended if it is useful, else free it."""
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
            if shared == len(kept.ids):  # a prefix of the new one
                self._drop(kept)
        self.shrink(self._limit_bytes - size_bytes)
        self._kept.append(_Kept(namespace, ids, sequence.hand_over(), size_bytes))
        self.size_bytes += size_bytes

    def shrink(self, limit_bytes: int) -> None:
        """Evict the least recently used until the rest fit in this many bytes."""
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
    """The computed tokens of each running request of the job's namespace."""
    for other in running:
        if other is not job and other.request.namespace == job.request.namespace:
            for _, sequence in other.sequences()[:1]:
                yield sequence.whole, sequence


def _shared(prompt: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common prefix of prompt and `ids`, without the prompt's last token, whose logits are needed."""
    return min(_common(prompt, ids), len(prompt) - 1)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix; 0 if it is too short to be worth a fork."""
    if list(a[:LEAST_TOKENS]) != list(b[:LEAST_TOKENS]):
        return 0
    least, most = 0, min(len(a), len(b))
    while least < most:  # the first `least` agree, and at most `most` do
        middle = (least + most + 1) // 2
        if list(a[least:middle]) == list(b[least:middle]):
            least = middle
        else:
            most = middle - 1
    return least
