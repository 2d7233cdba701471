"""Running many requests over one backend, a step at a time.

A step gathers one piece of work from every sequence that can go on: a token to decode, or a chunk of a prompt
(or of a window that slid). The backend computes them together, each row gives a token, and the tokens come
back as events. Nothing here owns a thread or waits: who calls `step` decides when.

What a request yields depends on the request alone. Its draws are keyed by its own seed, its prompt is cut
into chunks at places fixed by the prompt, and its window slides by its own length.
"""

import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gpt2.backends.seam import NOTHING, Backend, Result, Want, Work
from gpt2.generation.prompts import end_ids, prompt_ids, token_limit
from gpt2.generation.requests import Event, Request, TokenLogprob
from gpt2.generation.sampler import Sampler, best_of_rows
from gpt2.generation.sequence import SlotSequence
from gpt2.generation.settings import MAX_SEED, Sampling
from gpt2.generation.text import TextStream
from gpt2.tokenizer import Tokenizer

log = logging.getLogger("gpt2")


class Scheduler:
    """Continues texts through `backend`; not thread-safe.

    Args:
        backend: computes the steps; its slots are given back whatever happens.
        tokenizer: text to ids and back.
        max_slots: sequences computed at once. A request with more samples than this runs alone.
        chunk_tokens: a prompt is read this many tokens at a time, so that others go on meanwhile.
        prefill_tokens: a step reads prompts until it has read this many tokens; at least one chunk.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        max_slots: int = 16,
        chunk_tokens: int = 128,
        prefill_tokens: int = 512,
    ) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self._max_slots = max_slots
        self._chunk_tokens = chunk_tokens
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._n_submitted = 0

    @property
    def busy(self) -> bool:
        """Whether another `step` would do anything."""
        return bool(self._waiting or self._running)

    def submit(self, request: Request) -> int:
        """Queue a request and return the number that its events carry.

        Raises:
            ContextError, GenerationError: see `prompts.prompt_ids`.
        """
        config, sampling = self._backend.config, request.sampling
        prompt = prompt_ids(request, self._tokenizer, config)
        ends = end_ids(sampling, self._tokenizer)
        sampler = Sampler(
            sampling,
            seed=secrets.randbelow(MAX_SEED + 1) if sampling.seed is None else sampling.seed,
            n_prompt=len(prompt),
            n_ids=min(self._tokenizer.vocab_size, config.vocab_size),
            vocab_size=config.vocab_size,
            end_ids=sorted(ends),
        )
        job = _Job(
            id=self._n_submitted,
            sampling=sampling,
            sampler=sampler,
            prompt=prompt,
            end_ids=ends,
            limit=token_limit(sampling, len(prompt), config),
        )
        self._n_submitted += 1
        self._waiting.append(job)
        return job.id

    def cancel(self, request: int) -> bool:
        """End a request at once, without further events; whether there was one of that number."""
        job = self._running.pop(request, None)
        if job is not None:
            job.free()
            return True
        job = next((job for job in self._waiting if job.id == request), None)
        if job is not None:
            self._waiting.remove(job)
        return job is not None

    def close(self) -> None:
        """Cancel everything. The backend stays open: it belongs to the caller."""
        for request in [*self._running, *(job.id for job in self._waiting)]:
            self.cancel(request)

    def step(self) -> list[Event]:
        """Compute one step and return what it brought, in the order of submission.

        An error in one request ends that request with an event that carries it. Ctrl-C and the like pass through.
        """
        events = self._admit()
        pieces = self._gather()
        for piece, result in zip(pieces, self._compute(pieces), strict=True):
            if isinstance(result, Exception):
                events += self._fail(piece.job, result)
            elif piece.job.id in self._running:  # else it failed in another piece of this step
                try:
                    events += self._absorb(piece, result)
                except Exception as error:
                    events += self._fail(piece.job, error)
        return events

    # Before the backend: who takes part, and with what

    def _admit(self) -> list[Event]:
        events: list[Event] = []
        while self._waiting:
            in_use = sum(job.sampling.candidates for job in self._running.values())
            if self._running and in_use + self._waiting[0].sampling.candidates > self._max_slots:
                break
            job = self._waiting.popleft()
            self._running[job.id] = job
            try:
                if job.limit > 0 or (job.scores_prompt and len(job.prompt) > 1):
                    job.reading = SlotSequence(self._backend, job.prompt)
                else:
                    events += self._end_unread(job)
            except Exception as error:
                events += self._fail(job, error)
        return events

    def _gather(self) -> list["_Piece"]:
        pieces: list[_Piece] = []
        n_prefilled = 0
        for job in self._running.values():
            for sample, sequence in job.sequences():
                pending = sequence.pending
                if pending > 1 and n_prefilled >= self._prefill_tokens:
                    continue
                piece = self._piece(job, sample, sequence, pending)
                n_prefilled += len(piece.work.tokens) if pending > 1 else 0
                pieces.append(piece)
        return pieces

    def _piece(self, job: "_Job", sample: "_Sample | None", sequence: SlotSequence, pending: int) -> "_Piece":
        n = min(pending, self._chunk_tokens)
        if sample is None and job.scores_prompt and pending > 1:
            # Every token but the last has a target: no row of logits leaves the backend for these.
            n = min(n, pending - 1)
            _, *targets = sequence.next_ids(n + 1)
            want = Want(rows=n, targets=targets, best=job.sampling.prompt_logprobs or 0)
        else:
            want = job.sampler.want(len(sequence.ids)) if n == pending else NOTHING
        work = Work(slot=sequence.slot, tokens=sequence.next_ids(n), want=want)
        return _Piece(job=job, sample=sample, sequence=sequence, work=work)

    def _compute(self, pieces: Sequence["_Piece"]) -> list[Result | Exception]:
        if not pieces:
            return []
        try:
            return list(self._backend.step([piece.work for piece in pieces]))
        except Exception as error:
            log.warning("a step of %d sequences failed (%s); computing each alone", len(pieces), error)
        results: list[Result | Exception] = []
        for piece in pieces:
            try:
                piece.sequence.restore()
                results += self._backend.step([piece.work])
            except Exception as error:
                results.append(error)
        return results

    # After the backend: rows to tokens, tokens to events

    def _absorb(self, piece: "_Piece", result: Result) -> list[Event]:
        job, sequence, want = piece.job, piece.sequence, piece.work.want
        sequence.advance(len(piece.work.tokens))
        if want.targets is not None:
            job.scored += _scored(want.targets, result)
            return self._end_unread(job) if job.limit <= 0 and sequence.pending == 1 else []
        if want.rows == 0:
            return []
        if piece.sample is not None:
            return self._extend(job, piece.sample, result)
        events = [Event(request=job.id, prompt=job.prompt_logprobs())] if job.scores_prompt else []
        self._begin_samples(job)
        for sample in list(job.samples):
            events += self._extend(job, sample, result)
        return events

    def _begin_samples(self, job: "_Job") -> None:
        """The prompt is read: its slot goes to the first sample, a fork of it to each other one."""
        assert job.reading is not None
        streams = [TextStream(self._tokenizer, job.sampling.stop) for _ in range(job.sampling.candidates)]
        first, job.reading = job.reading, None
        job.samples.append(_Sample(index=0, sequence=first, stream=streams[0]))
        for index, stream in enumerate(streams[1:], start=1):
            job.samples.append(_Sample(index=index, sequence=first.fork(), stream=stream))

    def _extend(self, job: "_Job", sample: "_Sample", result: Result) -> list[Event]:
        """Draw the next token of a sample, and see whether it ends there."""
        choice = job.sampler.choose(result, 0, sample.sequence.ids, sample.index)
        sample.sequence.ids.append(choice.token)
        sample.n_tokens += 1
        sample.logprob_sum += choice.logprob or 0.0
        text, stop, reason = "", None, None
        if choice.token in job.end_ids:
            text, stop = sample.stream.finish()
            stop, reason = (choice.token if stop is None else stop), "stop"
        else:
            if sample.n_tokens < job.sampling.min_tokens:
                text = sample.stream.push_unstoppable(choice.token)
            else:
                text, stop = sample.stream.push(choice.token)
            if stop is None and sample.n_tokens >= job.limit:
                tail, stop = sample.stream.finish()
                text, reason = text + tail, "length"
            reason = "stop" if stop is not None else reason
        event = Event(
            request=job.id,
            sample=sample.index,
            text=text,
            token=choice.token,
            logprob=choice.logprob,
            top=choice.top,
            finish_reason=reason,
            stop_reason=stop,
        )
        return self._emit(job, sample, event)

    def _emit(self, job: "_Job", sample: "_Sample", event: Event) -> list[Event]:
        """Pass an event on, or with `best_of` hold it until it is known which samples are the best."""
        if event.finish_reason is not None:
            sample.is_open = False
            sample.sequence.free()
        done = not any(other.is_open for other in job.samples)
        if done:
            del self._running[job.id]
        if job.sampling.candidates == job.sampling.n:
            return [event]
        sample.events.append(event)
        if not done:
            return []
        ranked = sorted(job.samples, key=lambda sample: -sample.logprob_sum / sample.n_tokens)
        return [
            replace(event, sample=rank)
            for rank, sample in enumerate(ranked[: job.sampling.n])
            for event in sample.events
        ]

    def _end_unread(self, job: "_Job") -> list[Event]:
        """End a request that generates nothing."""
        del self._running[job.id]
        job.free()
        events = [Event(request=job.id, prompt=job.prompt_logprobs())] if job.scores_prompt else []
        events += [Event(request=job.id, sample=i, finish_reason="length") for i in range(job.sampling.n)]
        return events

    def _fail(self, job: "_Job", error: Exception) -> list[Event]:
        if self._running.pop(job.id, None) is None:
            return []  # another piece of it failed in this same step
        job.free()
        return [Event(request=job.id, finish_reason="error", error=error)]


@dataclass(kw_only=True, slots=True)
class _Sample:
    """One continuation that is being generated."""

    index: int
    sequence: SlotSequence
    stream: TextStream
    is_open: bool = True
    n_tokens: int = 0
    logprob_sum: float = 0.0
    events: list[Event] = field(default_factory=list[Event])  # held back while best_of is undecided


@dataclass(kw_only=True, slots=True)
class _Job:
    """A request on its way: first its prompt is read in one slot, then its samples go on from there."""

    id: int
    sampling: Sampling
    sampler: Sampler
    prompt: list[int]
    end_ids: frozenset[int]
    limit: int  # tokens to generate for each sample
    reading: SlotSequence | None = None
    samples: list[_Sample] = field(default_factory=list[_Sample])
    scored: list[TokenLogprob] = field(default_factory=list[TokenLogprob])

    @property
    def scores_prompt(self) -> bool:
        return self.sampling.prompt_logprobs is not None

    def prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        return (TokenLogprob(self.prompt[0], None), *self.scored)

    def sequences(self) -> list[tuple[_Sample | None, SlotSequence]]:
        if self.reading is not None:
            return [(None, self.reading)]
        return [(sample, sample.sequence) for sample in self.samples if sample.is_open]

    def free(self) -> None:
        for _, sequence in self.sequences():
            sequence.free()


@dataclass(kw_only=True, slots=True)
class _Piece:
    """A piece of work and whose it is; no sample: it reads the prompt."""

    job: _Job
    sample: _Sample | None
    sequence: SlotSequence
    work: Work


def _scored(targets: Sequence[int], result: Result) -> list[TokenLogprob]:
    assert result.target_logprobs_R is not None
    top = best_of_rows(result) or [()] * len(targets)
    return [TokenLogprob(*entry) for entry in zip(targets, result.target_logprobs_R.tolist(), top, strict=True)]
