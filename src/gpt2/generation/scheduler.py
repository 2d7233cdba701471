"""Runs many requests over one backend, one step at a time.

A step gathers one piece of work from every open sequence: a token to decode, or a chunk of a prompt (or of a window
that slid). The backend computes them together, each row gives a token, and the tokens come back as events. Nothing
here owns a thread, waits, or reads a clock: the caller decides when to call `step`, and passes the time.

The output of a request depends only on the request. Its own seed keys its draws, the prompt alone fixes where it is
chunked, and its own length decides when its window slides.

    submit -> Admission -> PrefixCache.begin -> [ Turns.take -> Speculation -> backend.step -> progress ] -> events
              who begins   what is computed       whose turn    drafts                         what became of it
"""

import logging
import math
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace

from gpt2.backends.seam import Backend, Result
from gpt2.errors import DeadlineError, GenerationError
from gpt2.generation import progress
from gpt2.generation.admission import Admission
from gpt2.generation.drafting import Drafter, Speculation
from gpt2.generation.job import Job, Sample
from gpt2.generation.noise import POSITION, Noise
from gpt2.generation.prefix_cache import PrefixCache
from gpt2.generation.prompts import end_ids, prompt_ids, token_limit
from gpt2.generation.requests import Event, Request
from gpt2.generation.sampler import Sampler
from gpt2.generation.settings import MAX_SEED
from gpt2.generation.statistics import Counts, Statistics
from gpt2.generation.turns import Piece, Turns
from gpt2.tokenizer import Tokenizer

log = logging.getLogger("gpt2")
_GPU_BYTES = 4 << 30  # of keys and values


class Scheduler:
    """Continues texts through `backend`; not thread-safe.

    Args:
        backend: computes the steps; its slots are freed whatever happens.
        tokenizer: text to ids and back.
        max_slots: sequences computed at once. A request with more samples than this runs alone. The defaults here and
            in the next two are 16, 128 and 512; on an NVIDIA GPU up to 32 (by the size of a slot), 512 and 4,096.
        chunk_tokens: a prompt is read this many tokens at a time, so that other texts advance meanwhile.
        prefill_tokens: a step reads prompts until it has read this many tokens; at least one chunk.
        kv_bytes: limit on keys and values, prefix cache included; a request begins when its maximum need fits. None:
            no limit.
        prefix_bytes: what the prefix cache may keep of ended texts. 0 disables keeping and sharing.
        noise: keys the draws of all requests.
        drafter: drafts tokens that one step then verifies; the texts do not change. It is closed with the scheduler.
        row_cost: of one more row in a step, as a share of a step; sets how many tokens to draft.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        max_slots: int | None = None,
        chunk_tokens: int | None = None,
        prefill_tokens: int | None = None,
        kv_bytes: int | None = None,
        prefix_bytes: int = 0,
        noise: Noise = POSITION,
        drafter: Drafter | None = None,
        row_cost: float = 0.1,
    ) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self._noise = noise
        self._prefixes = PrefixCache(backend, limit_bytes=prefix_bytes)
        slots, chunk, prefill = 16, 128, 512
        if backend.device.startswith("cuda"):  # a GPU needs larger steps
            fitting = _GPU_BYTES // max(1, backend.slot_bytes(backend.config.n_positions))
            slots, chunk, prefill = min(32, max(16, fitting)), 512, 4096
        max_slots = slots if max_slots is None else max_slots
        self._admission = Admission(self._prefixes, max_slots=max_slots, kv_bytes=kv_bytes)
        self._turns = Turns(
            chunk_tokens=chunk if chunk_tokens is None else chunk_tokens,
            prefill_tokens=prefill if prefill_tokens is None else prefill_tokens,
        )
        self._speculation = None if drafter is None else Speculation(drafter, row_cost=row_cost)
        self._running: dict[int, Job] = {}
        self._counts = Counts()
        self._next_expiry = math.inf  # the earliest deadline; no request need be checked before it

    @property
    def busy(self) -> bool:
        """Whether another `step` would do anything."""
        return bool(len(self._admission) or self._running)

    def submit(self, request: Request) -> int:
        """Queue a request and return the number that its events carry.

        Raises:
            ContextError, GenerationError: see `prompts.prompt_ids`; or it needs more memory than the limit.
        """
        config, sampling = self._backend.config, request.sampling
        prompt = prompt_ids(request, self._tokenizer, config)
        ends = end_ids(sampling, self._tokenizer)
        limit = token_limit(sampling, len(prompt), config)
        sampler = Sampler(
            sampling,
            seed=secrets.randbelow(MAX_SEED + 1) if sampling.seed is None else sampling.seed,
            n_prompt=len(prompt),
            n_ids=min(self._tokenizer.vocab_size, config.vocab_size),
            vocab_size=config.vocab_size,
            end_ids=sorted(ends),
            noise=self._noise,
            constrained=request.constraint is not None,
        )
        job = Job(
            id=self._counts.submitted,
            request=request,
            sampler=sampler,
            prompt=prompt,
            end_ids=ends,
            limit=limit,
            need_bytes=self._need_bytes(len(prompt) + limit, sampling.candidates),
        )
        self._counts.submitted += 1
        self._admission.add(job)
        self._next_expiry = min(self._next_expiry, *_times(request))
        return job.id

    def let_wait(self, request: int) -> None:
        """Drop the `start_by` deadline of a waiting request."""
        for job in self._admission.waiting:
            if job.id == request:
                job.request = replace(job.request, start_by=None)

    def cancel(self, request: int) -> bool:
        """End a request at once, without further events; return whether it existed."""
        job = self._running.pop(request, None) or self._admission.remove(request)
        if job is None:
            return False
        self._free(job)
        self._counts.cancelled += 1
        return True

    def close(self) -> None:
        """Cancel everything and empty the prefix cache. The backend stays open: it belongs to the caller."""
        for request in [*self._running, *(job.id for job in self._admission.waiting)]:
            self.cancel(request)
        self._prefixes.shrink(0)
        if self._speculation is not None:
            self._speculation.close()

    @property
    def running(self) -> Collection[int]:
        """The numbers of the requests that have begun."""
        return self._running.keys()

    def statistics(self) -> Statistics:
        """A snapshot of the scheduler."""
        running = self._running.values()
        return Statistics(
            running=len(running),
            waiting=len(self._admission),
            sequences=sum(len(job.sequences()) for job in running),
            kv_bytes=self._backend.bytes(),
            reserved_bytes=sum(job.need_bytes for job in running),
            prefix_entries=len(self._prefixes),
            prefix_bytes=self._prefixes.size_bytes,
            counts=replace(self._counts),
        )

    def step(self, now: float | None = None) -> list[Event]:
        """Compute one step and return its events, those of a sample in text order.

        An error in one request ends that request with an event that carries the error. Ctrl-C and the like pass
        through.

        Args:
            now: the time, on the clock of `Request.start_by` and `finish_by`; without it, deadlines are ignored.
        """
        events = self._expire(now) if now is not None else []
        events += self._admit()
        pieces = self._turns.take(self._running.values())
        if self._speculation is not None:
            pieces = self._speculation.add_drafts(pieces)
        for piece, result in self._compute(pieces):
            if piece.job.id not in self._running:
                continue  # it failed in another piece of this step
            try:
                if isinstance(result, Exception):
                    raise result
                self._absorb(piece, result, events)
            except Exception as error:
                events += self._fail(piece.job, error)
        return events

    def _need_bytes(self, n_tokens: int, n_sequences: int) -> int:
        limit_bytes = self._admission.kv_bytes
        if limit_bytes is None:
            return 0
        need_bytes = n_sequences * self._backend.slot_bytes(min(n_tokens, self._backend.config.n_positions))
        if self._speculation is not None:
            need_bytes += n_sequences * self._speculation.slot_bytes(n_tokens)
        if need_bytes > limit_bytes:
            raise GenerationError(
                f"The request cannot be computed here: its {n_sequences} sequence(s) of up to {n_tokens:,} tokens may "
                f"take {need_bytes:,} bytes of keys and values, and {limit_bytes:,} are allowed. Ask for fewer tokens "
                f"or samples, or allow more."
            )
        return need_bytes

    # Before the backend: who takes part

    def _expire(self, now: float) -> list[Event]:
        events: list[Event] = []
        if now <= self._next_expiry:
            return events
        self._next_expiry = math.inf
        for job in [*self._admission.waiting, *self._running.values()]:
            start_by, finish_by = job.request.start_by, job.request.finish_by
            if job.id not in self._running and start_by is not None and now > start_by:
                error = f"The request was not begun in time: {now - start_by:.1f} after its time it still waits."
            elif finish_by is not None and now > finish_by:
                error = (
                    f"The request was not finished in time: {now - finish_by:.1f} after its time it is not complete."
                )
            else:
                times = _times(job.request)
                self._next_expiry = min(self._next_expiry, times[1] if job.id in self._running else min(times))
                continue
            events += self._fail(job, DeadlineError(f"{error} Try again later, or allow more time."))
        return events

    def _admit(self) -> list[Event]:
        events: list[Event] = []
        while (job := self._admission.next(self._running.values())) is not None:
            self._running[job.id] = job
            try:
                if job.is_unread:
                    events += progress.end_unread(job)
                    self._finish(job)
                else:
                    self._begin(job)
            except Exception as error:
                events += self._fail(job, error)
        return events

    def _begin(self, job: Job) -> None:
        job.reading = self._prefixes.begin(job, self._running.values())
        self._turns.begin(job)
        if self._prefixes.is_on and not job.scores_prompt:
            self._counts.prefix_hits += job.n_cached > 0
            self._counts.prefix_tokens += job.n_cached

    def _compute(self, pieces: Sequence[Piece]) -> list[tuple[Piece, Result | Exception]]:
        """The result or error of each piece. If a step of many fails, each runs alone, without its draft."""
        if not pieces:
            return []
        self._counts.steps += 1
        try:
            return list(zip(pieces, self._backend.step([piece.work for piece in pieces]), strict=True))
        except Exception as error:
            log.warning("a step of %d sequences failed (%s); computing each alone", len(pieces), error)
        results: list[tuple[Piece, Result | Exception]] = []
        for piece in (piece.with_draft(()) for piece in pieces):
            try:
                piece.sequence.restore()
                results.append((piece, self._backend.step([piece.work])[0]))
            except Exception as error:
                results.append((piece, error))
        return results

    # After the backend: what became of it

    def _absorb(self, piece: Piece, result: Result, events: list[Event]) -> None:
        """Append a piece's events one by one, so that an error at one token does not lose those before it."""
        job, sequence, want = piece.job, piece.sequence, piece.work.want
        sequence.advance(len(piece.work.tokens) - len(piece.draft))
        if piece.sample is not None:
            if want.rows:
                self._verify(piece, piece.sample, result, events)
            return
        self._counts.prompt_tokens += len(piece.work.tokens)
        if want.targets is not None:
            progress.score_prompt(job, want.targets, result)
            if job.limit <= 0 and sequence.pending == 1:
                events += progress.end_unread(job)
                self._finish(job)
        elif want.rows:
            progress.begin_samples(job, self._tokenizer)
            events += job.prompt_event()
            for sample in job.samples:
                self._give_out(job, sample, progress.extend(job, sample, result, 0), events)

    def _verify(self, piece: Piece, sample: Sample, result: Result, events: list[Event]) -> None:
        """Draw token after token as long as each matches the draft."""
        for row, guess in enumerate([*piece.draft, None]):
            event = progress.extend(piece.job, sample, result, row)
            goes_on = sample.is_open and event.token == guess
            if not goes_on:
                self._settle(piece, sample, row)
            self._give_out(piece.job, sample, event, events)
            if not goes_on:
                return

    def _settle(self, piece: Piece, sample: Sample, n_right: int) -> None:
        """Keep the first `n_right` tokens of a draft; the slot drops the others."""
        if self._speculation is None:
            return
        piece.sequence.settle(n_right)
        self._speculation.learn(sample, len(piece.draft), n_right)
        piece.job.n_drafted += len(piece.draft)
        piece.job.n_accepted += n_right
        self._counts.drafted_tokens += len(piece.draft)
        self._counts.accepted_tokens += n_right

    def _give_out(self, job: Job, sample: Sample, event: Event, events: list[Event]) -> None:
        self._counts.generated_tokens += 1
        if not sample.is_open:
            if self._speculation is not None:
                self._speculation.forget(sample)
            if self._prefixes.is_on and sample.index == 0:
                self._prefixes.keep(job, sample.sequence)
            else:
                sample.sequence.free()
        events += progress.give_out(job, sample, event)
        if not any(other.is_open for other in job.samples):
            self._finish(job)

    def _finish(self, job: Job) -> None:
        del self._running[job.id]
        self._free(job)
        self._counts.finished += 1

    def _fail(self, job: Job, error: Exception) -> list[Event]:
        if self._running.pop(job.id, None) is None and self._admission.remove(job.id) is None:
            return []  # it has failed already
        self._free(job)
        self._counts.failed += 1
        return [Event(request=job.id, finish_reason="error", error=error, usage=job.usage())]

    def _free(self, job: Job) -> None:
        job.free()
        if self._speculation is not None:
            for sample in job.samples:
                self._speculation.forget(sample)


def _times(request: Request) -> tuple[float, float]:
    """Its start and finish deadlines."""
    start_by, finish_by = request.start_by, request.finish_by
    return math.inf if start_by is None else start_by, math.inf if finish_by is None else finish_by
