"""A completion as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpt2.serve.answer import Answer, event_line, failure_of
from gpt2.serve.ticket import Batch

_PING_SECONDS = 15.0


class EventStream(Response):
    """Sends pieces of choices as they come, and comments while none come.

    Args:
        answer: its ticket is cancelled when the stream ends, however it ends.
        first: events that have come already.
        leaving: the task that watches for the client leaving; cancelled when the stream ends.
        fields: of the log's line.
    """

    def __init__(
        self,
        answer: Answer,
        first: Batch,
        *,
        leaving: asyncio.Task[None],
        fields: dict[str, Any],
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache"})
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        self.headers["x-accel-buffering"] = "no"  # else nginx holds back a stream until it has some kilobytes
        del self.headers["content-length"]
        self._answer = answer
        self._first = first
        self._leaving = leaving
        self._fields = fields
        self._is_silent = False  # nothing was sent since the last wake-up
        self._waking: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        answer = self._answer
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._wake_later()
            async for lines in self._lines():
                self._is_silent = False
                await send({"type": "http.response.body", "body": lines, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client has left
        finally:
            self._leaving.cancel()
            if self._waking is not None:
                self._waking.cancel()
            answer.ticket.cancel()
            self._fields |= answer.facts()
            if not answer.is_complete and not answer.has_failed:
                self._fields["left"] = True
                answer.metrics.cancelled.inc()

    async def _lines(self) -> AsyncIterator[bytes]:
        answer, batch = self._answer, self._first
        while True:
            failure = failure_of(batch, answer.id)
            if failure is not None:
                answer.has_failed = True
                answer.metrics.failed.inc()
                self._fields["error"] = failure.name
                yield event_line(failure.body()) + b"data: [DONE]\n\n"
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
            batch = await answer.ticket.next()
            if not batch and not answer.ticket.over:
                if self._is_silent:
                    yield b": still here\n\n"
                self._is_silent = True

    def _wake_later(self) -> None:
        """Check regularly whether anything was sent. One timer a stream: one a token would cost more."""

        def wake() -> None:
            self._answer.ticket.wake()
            self._wake_later()

        self._waking = asyncio.get_running_loop().call_later(_PING_SECONDS, wake)
