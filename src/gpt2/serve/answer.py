"""A completion in progress: takes events in, writes chunks and the whole answer in OpenAI's form, feeds the metrics."""

import logging
import time
from collections.abc import Iterable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from gpt2.generation import Event
from gpt2.serve.choices import Choice, Piece, as_json, joined
from gpt2.serve.faults import ApiError, json_bytes, to_api_error
from gpt2.serve.large import json_answer, large_answer
from gpt2.serve.models import ServedModel
from gpt2.serve.plan import Plan
from gpt2.serve.service import Service
from gpt2.serve.ticket import Batch, Ticket

log = logging.getLogger("gpt2.serve")

_MANY_ENTRIES = 500  # tokens of prompts and continuations; a larger answer is assembled off the event loop


class Answer:
    """The state of one request and what it has produced so far."""

    def __init__(self, plan: Plan, served: ServedModel, ticket: Ticket, service: Service, id: str) -> None:
        self.id = id
        self.plan = plan
        self.ticket = ticket
        self._served = served
        self.metrics = service.metrics.of(served.name)
        self._log_text = service.log_text
        self.has_failed = False
        self._choices = [Choice(plan, served, index) for index in range(len(plan.requests) * plan.n)]
        self._is_begun = False
        self._begun: set[int] = set()  # choices that have sent a chunk
        self._times: dict[int, float] = {}  # when each choice's last token came
        self._generated: list[int] = [0] * len(plan.requests)
        self._cached = 0
        self._texts: list[list[str]] = [[] for _ in self._choices]
        self._head: dict[str, Any] = {
            "id": f"cmpl-{id.removeprefix('req-')}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.system_fingerprint,
        }
        self._opening = b"data: " + json_bytes(self._head)[:-1] + b',"choices":['  # starts each chunk of a stream

    async def whole(self) -> Response:
        """Wait until it is complete; return the whole answer.

        Raises:
            ApiError: the completion failed.
            ClientDisconnect: the client has left.
        """
        pieces: list[list[Piece]] = [[] for _ in self._choices]
        while not self.is_complete:
            batch = await self.ticket.next()
            raise_failure(batch, self.id)
            if not batch:
                raise ClientDisconnect
            for choice, piece in self.absorb(batch):
                pieces[choice.index].append(piece)
        self._note_end()

        def made() -> dict[str, Any]:
            shown = [
                as_json(choice, joined(parts), self.plan, self._served, is_first=True)
                for choice, parts in zip(self._choices, pieces, strict=True)
            ]
            return self._head | {"choices": shown, "usage": self.usage()}

        n_entries = sum(map(len, pieces)) + sum(len(choice.prompt_entries) for choice in self._choices)
        return await (large_answer(made) if n_entries > _MANY_ENTRIES else json_answer(made()))

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return not any(choice.is_open for choice in self._choices)

    def absorb(self, batch: Batch) -> list[tuple[Choice, Piece]]:
        """Take in a batch of events; return the pieces they make, each with its choice."""
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
        """A piece as a chunk of the stream; None if it has nothing to send."""
        says = piece.text or piece.finish_reason or (piece.logprobs and piece.logprobs["tokens"])
        if not says and not (self.plan.asked.return_token_ids and piece.token_ids):
            return None
        is_first = choice.index not in self._begun
        self._begun.add(choice.index)
        shown = as_json(choice, piece, self.plan, self._served, is_first=is_first)
        options = self.plan.asked.stream_options
        usage = b""
        if options is not None and options.continuous_usage_stats:
            usage = b',"usage":' + json_bytes(self.usage())
        elif options is not None and options.include_usage:
            usage = b',"usage":null'
        return b"%s%s]%s}\n\n" % (self._opening, json_bytes(shown), usage)

    def end(self) -> bytes:
        """The last lines of a stream."""
        self._note_end()
        options = self.plan.asked.stream_options
        usage = b""
        if options is not None and options.include_usage:
            usage = event_line(self._head | {"choices": [], "usage": self.usage()})
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
        """Tokens generated, including those of samples that best_of drops."""
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
        read, metrics = sum(map(len, self.plan.prompts)), self.metrics
        metrics.latency.observe(time.monotonic() - self.ticket.arrived)
        metrics.prompt_tokens.inc(read)
        metrics.request_prompt_tokens.observe(read)
        metrics.request_generation_tokens.observe(self.n_generated)
        metrics.request_n.observe(self.plan.n)
        metrics.request_max_tokens.observe(self.plan.requests[0].sampling.max_tokens)


def failure_of(batch: Iterable[tuple[int, Event]], id: str) -> ApiError | None:
    """What the client of this request is told of the first event that is a failure; None where none is."""
    for _, event in batch:
        if event.error is not None:
            error = to_api_error(event.error)
            if error.status == 500:
                log.error("request %s failed: %s", id, type(event.error).__name__, exc_info=event.error)
            return error
    return None


def raise_failure(batch: Iterable[tuple[int, Event]], id: str) -> None:
    """Raise it, where there is one."""
    failure = failure_of(batch, id)
    if failure is not None:
        raise failure


def event_line(value: object) -> bytes:
    """A value as a server-sent event."""
    return b"data: " + json_bytes(value) + b"\n\n"
