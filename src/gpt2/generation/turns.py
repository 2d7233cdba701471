"""Chooses the pieces of work of one step from the running jobs.

Every decoding text takes part in every step. Texts that read a long prompt (or a window that slid) share a token
budget per step by fair queueing: each counts the tokens it has read, the one furthest behind reads next, and a new
one starts at the virtual time, which advances by each reader's equal share. So a short prompt behind L long ones
waits for about L chunks, not L prompts, and a stream of short ones cannot starve a long one. Virtual time: Demers,
Keshav, Shenker, "Analysis and simulation of a fair queueing algorithm", SIGCOMM 1989.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gpt2.backends.seam import NOTHING, Want, Work
from gpt2.generation.job import Job, Sample
from gpt2.generation.sequence import SlotSequence


@dataclass(kw_only=True, slots=True)
class Piece:
    """A piece of work and its owner; without a sample it reads the prompt. The work's last tokens are the `draft`."""

    job: Job
    sample: Sample | None
    sequence: SlotSequence
    work: Work
    draft: Sequence[int] = ()

    @property
    def is_decode(self) -> bool:
        """Whether it appends one token and wants the next."""
        return len(self.work.tokens) == 1 and self.work.want.rows == 1

    def with_draft(self, draft: Sequence[int]) -> "Piece":
        """The same piece with this draft and a row per draft token; an empty draft removes it."""
        if self.sample is None or not (draft or self.draft):
            return self
        tokens = [*self.work.tokens[: len(self.work.tokens) - len(self.draft)], *draft]
        want = self.job.sampler.want(self.sequence.ids, self.sample.index, draft)
        return replace(self, work=replace(self.work, tokens=tokens, want=want), draft=draft)


class Turns:
    """The pieces of each step.

    Args:
        chunk_tokens: a prompt is read this many tokens at a time, cut at multiples of it.
        prefill_tokens: a step reads prompts until it has read this many tokens; at least one chunk.
    """

    def __init__(self, *, chunk_tokens: int, prefill_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._prefill_tokens = prefill_tokens
        self._clock = 0.0

    def begin(self, job: Job) -> None:
        """Start a job that is about to read its prompt level with those already reading."""
        job.n_served = self._clock

    def take(self, jobs: Iterable[Job]) -> list[Piece]:
        """The pieces of the next step: decoding ones in the order of `jobs`, then readers by priority and turn."""
        pieces: list[Piece] = []
        readers: list[tuple[Job, Sample | None, SlotSequence]] = []
        for job in jobs:
            for sample, sequence in job.sequences():
                if sequence.pending > 1:
                    readers.append((job, sample, sequence))
                else:
                    pieces.append(self._piece(job, sample, sequence))
        readers.sort(key=lambda reader: (-reader[0].request.priority, reader[0].n_served))
        n_read = 0
        for job, sample, sequence in readers:
            if n_read >= self._prefill_tokens:
                break
            piece = self._piece(job, sample, sequence)
            n_read += len(piece.work.tokens)
            job.n_served += len(piece.work.tokens)
            self._clock += len(piece.work.tokens) / len(readers)
            pieces.append(piece)
        return pieces

    def _piece(self, job: Job, sample: Sample | None, sequence: SlotSequence) -> Piece:
        pending = sequence.pending
        n = min(pending, self._chunk_tokens - sequence.computed % self._chunk_tokens)
        if sample is None and job.scores_prompt and pending > 1:
            # Every token but the last has a target, so no row of logits leaves the backend for these.
            n = min(n, pending - 1)
            _, *targets = sequence.next_ids(n + 1)
            want = Want(rows=n, targets=targets, best=job.sampling.prompt_logprobs or 0)
        else:
            draws = 0 if job.sampling.candidates == 1 else None  # all samples, once the prompt is read
            index = draws if sample is None else sample.index
            want = job.sampler.want(sequence.ids, index) if n == pending else NOTHING
        work = Work(slot=sequence.slot, tokens=sequence.next_ids(n), want=want)
        return Piece(job=job, sample=sample, sequence=sequence, work=work)
