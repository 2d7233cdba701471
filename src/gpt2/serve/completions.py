"""`POST /v1/completions`: one answer, or a stream of its parts."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpt2.generation import Event
from gpt2.serve.choices import Choice, Piece, as_json, joined
from gpt2.serve.engine import Batch, Ticket
from gpt2.serve.faults import ApiError, json_bytes, json_response, to_api_error
from gpt2.serve.models import ServedModel
from gpt2.serve.plan import Plan, make_plan
from gpt2.serve.schema import CompletionRequest
from gpt2.serve.service import Service, read

log = logging.getLogger("gpt2.serve")

_PING_SECONDS = 15.0
_LONG_CHARACTERS = 10_000  # longer prompts are tokenized beside the event loop


async def complete(service: Service, request: Request) -> Response:
    """Continue texts."""
    asked = await read(request, CompletionRequest, service.limits)
    served = service.models.get(asked.model)
    service.check_ready()
    call = request.scope["call"]
    plan = await _planned(asked, served, service, holder=call.holder or "")
    call.fields |= {"model": served.name, "prompt_tokens": sum(map(len, plan.prompts)), "stream": bool(asked.stream)}
    if asked.request_id is not None:
        call.id = asked.request_id
    if service.log_text:
        call.fields["prompt"] = [served.model.tokenizer.decode(ids) for ids in plan.prompts]
    try:
        ticket = served.engine.submit(plan.requests, plan.n_tokens)
    except ApiError as error:
        _count_failure(error, service, served)
        raise
    answer = _Answer(plan, served, ticket, service, call.id)
    leaving = asyncio.create_task(_cancel_when_left(request.receive, ticket))
    try:
        if asked.stream:
            first = await ticket.next()
            _raise_failure(first)
            return _EventStream(answer, first, leaving, call.fields)
        shown = await answer.whole()
        call.fields |= answer.facts()
        leaving.cancel()
        return json_response(shown, headers=_headers(asked))
    except BaseException as error:
        leaving.cancel()
        ticket.cancel()
        _count_failure(error, service, served)
        raise


def _count_failure(error: BaseException, service: Service, served: ServedModel) -> None:
    metrics = service.metrics.of(served.name)
    if isinstance(error, ClientDisconnect):
        metrics.cancelled.inc()
    elif isinstance(error, ApiError) and error.status == 429:
        service.metrics.rejected.labels(served.name, error.code or "").inc()
    elif not isinstance(error, ApiError) or error.status >= 500:
        metrics.failed.inc()


async def _planned(asked: CompletionRequest, served: ServedModel, service: Service, *, holder: str) -> Plan:
    def planned() -> Plan:
        deadline = time.monotonic() + service.limits.queue_seconds
        return make_plan(asked, served, service.limits, namespace=holder, deadline=deadline)

    size = sum(len(prompt) for prompt in asked.prompt)
    if size > _LONG_CHARACTERS or asked.response_format is not None or asked.structured_outputs is not None:
        return await asyncio.to_thread(planned)
    return planned()


class _Answer:
    """What has come of a request, and how far it is."""

    def __init__(self, plan: Plan, served: ServedModel, ticket: Ticket, service: Service, id: str) -> None:
        self.plan = plan
        self.ticket = ticket
        self._served = served
        self.metrics = service.metrics.of(served.name)
        self._log_text = service.log_text
        self.has_failed = False
        self._choices = [Choice(plan, served, index) for index in range(len(plan.requests) * plan.n)]
        self._is_begun = False
        self._begun: set[int] = set()  # choices of which a chunk was sent
        self._times: dict[int, float] = {}  # of the last token of each choice
        self._generated: list[int] = [0] * len(plan.requests)
        self._cached = 0
        self._texts: list[list[str]] = [[] for _ in self._choices]
        self._head: dict[str, Any] = {
            "id": f"cmpl-{id.removeprefix('req-')}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    async def whole(self) -> dict[str, Any]:
        """Everything, when it is complete.

        Raises:
            ApiError: it failed.
            ClientDisconnect: the client has left.
        """
        pieces: list[list[Piece]] = [[] for _ in self._choices]
        while not self.is_complete:
            batch = await self.ticket.next()
            _raise_failure(batch)
            if not batch:
                raise ClientDisconnect
            for choice, piece in self.absorb(batch):
                pieces[choice.index].append(piece)
        self._note_end()
        shown = [
            as_json(choice, joined(parts), self.plan, self._served, is_first=True)
            for choice, parts in zip(self._choices, pieces, strict=True)
        ]
        return self._head | {"choices": shown, "usage": self.usage()}

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return not any(choice.is_open for choice in self._choices)

    def absorb(self, batch: Batch) -> list[tuple[Choice, Piece]]:
        """The parts that a batch of events makes, each with its choice."""
        now = time.monotonic()
        if not self._is_begun and self.ticket.started is not None:
            self._is_begun = True
            self.metrics.queue_time.observe(self.ticket.started - self.ticket.arrived)
        parts: list[tuple[Choice, Piece]] = []
        n = self.plan.n
        for number, event in batch:
            if event.usage is not None:
                self._generated[number] = event.usage.generated_tokens
                self._cached += event.usage.cached_tokens
            if event.prompt is not None:
                for choice in self._choices[number * n : number * n + n]:
                    choice.prompt_entries = event.prompt
                continue
            choice = self._choices[number * n + event.sample]
            if event.token is not None:
                self._note_token(choice.index, now)
            piece = choice.add(event)
            if event.finish_reason is not None:
                self.metrics.success(event.finish_reason).inc()
            if self._log_text:
                self._texts[choice.index].append(piece.text)
            parts.append((choice, piece))
        return parts

    def chunk(self, choice: Choice, piece: Piece) -> bytes | None:
        """A part as a line of the stream; None where it has nothing to say."""
        says = piece.text or piece.finish_reason or (piece.logprobs and piece.logprobs["tokens"])
        if not says and not (self.plan.asked.return_token_ids and piece.token_ids):
            return None
        is_first = choice.index not in self._begun
        self._begun.add(choice.index)
        shown = as_json(choice, piece, self.plan, self._served, is_first=is_first)
        options = self.plan.asked.stream_options
        whole = self._head | {"choices": [shown]}
        if options is not None and options.continuous_usage_stats:
            whole["usage"] = self.usage()
        elif options is not None and options.include_usage:
            whole["usage"] = None
        return _line(whole)

    def end(self) -> bytes:
        """The last lines of a stream."""
        self._note_end()
        options = self.plan.asked.stream_options
        usage = b""
        if options is not None and options.include_usage:
            usage = _line(self._head | {"choices": [], "usage": self.usage()})
        return usage + b"data: [DONE]\n\n"

    def usage(self) -> dict[str, Any]:
        """Tokens read and generated so far."""
        read = sum(map(len, self.plan.prompts))
        generated = self.n_generated
        return {
            "prompt_tokens": read,
            "completion_tokens": generated,
            "total_tokens": read + generated,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }

    @property
    def n_generated(self) -> int:
        """Tokens generated, those of samples that best_of drops included."""
        n = self.plan.n
        shown = [sum(c.n_generated for c in self._choices[i * n : i * n + n]) for i in range(len(self._generated))]
        return sum(map(max, self._generated, shown))

    def facts(self) -> dict[str, Any]:
        """For the log."""
        facts: dict[str, Any] = {"completion_tokens": self.n_generated}
        if self._log_text:
            facts["completion"] = ["".join(texts) for texts in self._texts]
        return facts

    def _note_token(self, index: int, now: float) -> None:
        before = self._times.get(index)
        self._times[index] = now
        if before is not None:
            self.metrics.inter_token.observe(now - before)
        elif len(self._times) == 1:
            self.metrics.first_token.observe(now - self.ticket.arrived)

    def _note_end(self) -> None:
        read, metrics, asked = sum(map(len, self.plan.prompts)), self.metrics, self.plan.asked
        metrics.latency.observe(time.monotonic() - self.ticket.arrived)
        metrics.prompt_tokens.inc(read)
        metrics.generation_tokens.inc(self.n_generated)
        metrics.request_prompt_tokens.observe(read)
        metrics.request_generation_tokens.observe(self.n_generated)
        metrics.request_n.observe(self.plan.n)
        metrics.request_max_tokens.observe(16 if asked.max_tokens is None else asked.max_tokens)


class _EventStream(Response):
    """Server-sent events: parts of choices as they come, comments while nothing comes."""

    def __init__(self, answer: _Answer, first: Batch, leaving: asyncio.Task[None], fields: dict[str, Any]) -> None:
        super().__init__(headers=_headers(answer.plan.asked) | {"cache-control": "no-cache"})
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        self.headers["x-accel-buffering"] = "no"  # nginx would hold a stream back until it has some kilobytes of it
        del self.headers["content-length"]
        self._answer = answer
        self._first = first
        self._leaving = leaving
        self._fields = fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for lines in self._lines():
                await send({"type": "http.response.body", "body": lines, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client has left
        finally:
            self._leaving.cancel()
            answer.ticket.cancel()
            self._fields |= answer.facts()
            if not answer.is_complete and not answer.has_failed:
                self._fields["left"] = True
                answer.metrics.cancelled.inc()

    async def _lines(self) -> AsyncIterator[bytes]:
        answer, batch = self._answer, self._first
        while True:
            failure = _failure(batch)
            if failure is not None:
                answer.has_failed = True
                answer.metrics.failed.inc()
                yield _line(failure.body()) + b"data: [DONE]\n\n"
                return
            lines = [answer.chunk(*part) for part in answer.absorb(batch)]
            said = b"".join(line for line in lines if line is not None)
            if answer.is_complete:
                yield said + answer.end()
                return
            if said:
                yield said
            if answer.ticket.over and not batch:
                return  # cancelled
            batch = await answer.ticket.next(_PING_SECONDS)
            if not batch and not answer.ticket.over:
                yield b": still here\n\n"


async def _cancel_when_left(receive: Receive, ticket: Ticket) -> None:
    """Cancel a request as soon as its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.cancel()


def _failure(batch: Iterable[tuple[int, Event]]) -> ApiError | None:
    for _, event in batch:
        if event.error is not None:
            error = to_api_error(event.error)
            if error.status == 500:
                log.error("a request failed: %s", type(event.error).__name__, exc_info=event.error)
            return error
    return None


def _raise_failure(batch: Iterable[tuple[int, Event]]) -> None:
    failure = _failure(batch)
    if failure is not None:
        raise failure


def _headers(asked: CompletionRequest) -> dict[str, str]:
    names = [name if name.isascii() and name.isidentifier() else "?" for name in asked.ignored]
    return {"x-ignored-fields": ", ".join(names)[:500]} if names else {}


def _line(value: object) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
