"""HTTP/1.1 with the deadlines and bounds that uvicorn leaves to others.

A request that does not arrive in time, headers and all, loses its connection: otherwise a client sending one byte a
second could hold it for ever. So does a client that stops reading its answer. The number of connections is bounded.
Refusals made here, before there is a request, also have OpenAI's error form.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt2.serve.door import Call, note, request_id
from gpt2.serve.faults import ApiError, json_bytes
from gpt2.serve.limits import Limits
from gpt2.serve.metrics import Metrics

_READ_BYTES = 16 << 10

Refuse = Callable[[bytes, Sequence[tuple[bytes, bytes]]], tuple[bytes, bool] | None]


def protocol_class(limits: Limits, metrics: Metrics, refuse: Refuse) -> type[asyncio.Protocol]:
    """The protocol of a server with these limits.

    Args:
        limits: the server's bounds.
        metrics: count what is refused here.
        refuse: takes the first bytes of a request and the headers that every answer has. If the rest need not be read,
            returns the whole answer and whether to close the connection; see `refusing.EarlyRefusal`.
    """

    class Bounded(BoundedProtocol):
        bounds = limits

        def count(self, call: Call, status: int) -> None:
            metrics.http.labels(call.route, str(status)).inc()

        def refuse(self, data: bytes) -> tuple[bytes, bool] | None:
            return refuse(data, self.server_state.default_headers)

    return Bounded


class BoundedProtocol(H11Protocol):
    """One connection."""

    bounds = Limits()

    def refuse(self, data: bytes) -> tuple[bytes, bool] | None:
        """The answer to a request that need not be read, and whether to close the connection after it."""
        return None

    def count(self, call: Call, status: int) -> None:
        """Count an answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._arriving: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._has_asked = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the client's first request."""
        # asyncio reads this much at a time, by default 256 kB: as 40,000 chunks of a byte they would stop every stream.
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(cast("asyncio.Transport", Gathered(transport, self.loop)))
        if len(self.connections) > self.bounds.connections:
            message = f"The server has {self.bounds.connections} connections, its limit. Try again later."
            self._refuse(ApiError(503, message, code="connections", retry_after=1))
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._arriving = _cancelled(self._arriving)
        self._unread = _cancelled(self._unread)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self.transport.is_closing():
            return
        if not self._is_busy() and (refused := self.refuse(data)) is not None:
            self._unset_keepalive_if_required()
            self._has_asked = True
            self.transport.write(refused[0])
            if refused[1]:
                self.transport.close()
            else:
                self._watch()
            return
        before, now = self.cycle, self.loop.time()
        super().data_received(data)
        if self.cycle is not before:
            self._has_asked = True
            cast("dict[str, Any]", self.cycle.scope)["arrived"] = now
        self._watch()

    def eof_received(self) -> None:
        """The client sends no more. The transport will close itself, so flush first."""
        cast("Gathered", self.transport).flush()
        super().eof_received()

    def on_response_complete(self) -> None:
        """A request was answered; part of the next may already be here."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._watch()

    def pause_writing(self) -> None:
        """The client has left 64 kB unread."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.bounds.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        self._unread = _cancelled(self._unread)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP or has too large a head."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        size = len(self.conn.trailing_data[0])
        if size > self.bounds.header_bytes:
            message = (
                f"The head of the request is too large: the limit header_bytes is {self.bounds.header_bytes:,}, and "
                f"{size:,} bytes have come."
            )
            self._refuse(ApiError(431, message, code="header_bytes"))
        else:
            self._refuse(ApiError(400, "What was sent is not a request of HTTP/1.1."))

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: a request to upgrade the protocol may be ignored (RFC 9110, 7.8)."""

    def _is_busy(self) -> bool:
        """Whether a request is running or partly received, or the client has not read its answer."""
        states = self.conn.their_state, self.conn.our_state
        return states != (h11.IDLE, h11.IDLE) or self.flow.write_paused or bool(self.conn.trailing_data[0])

    def _watch(self) -> None:
        """Start or stop the deadline for what the client has begun to send."""
        theirs = self.conn.their_state
        in_head = theirs is h11.IDLE and (self.conn.trailing_data[0] or not self._has_asked)
        in_refused_body = theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE
        if in_head or in_refused_body:
            self._expect()
            return
        self._arriving = _cancelled(self._arriving)
        if theirs is h11.IDLE and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _expect(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(self.bounds.receive_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._arriving = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE or not self.conn.trailing_data[0]:  # there is nothing to answer
            self.transport.close()
            return
        message = f"The request did not arrive in time: the limit receive_seconds is {self.bounds.receive_seconds:g}."
        self._refuse(ApiError(408, message, code="receive_seconds"))

    def _refuse(self, error: ApiError) -> None:
        call = Call(id=request_id({}), fields={"error": error.code or error.body()["error"]["type"]})
        body = json_bytes(error.body())
        head = [f"HTTP/1.1 {error.status} ", "content-type: application/json", f"content-length: {len(body)}"]
        head += [f"x-request-id: {call.id}"]
        head += [f"{name}: {value}" for name, value in error.headers.items()]
        self.transport.write("\r\n".join([*head, "connection: close", "", ""]).encode("latin-1") + body)
        self.transport.close()
        self.count(call, error.status)
        note(call, method="?", path="?", status=error.status, seconds=0.0)


class Gathered:
    """A transport that sends all writes of one event-loop turn together: a head with its body, the last chunk with the
    end. This saves a system call each time and wakes the client once.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it when this turn ends."""
        if data:
            if not self._waiting:
                self._loop.call_soon(self.flush)
            self._waiting.append(data)

    def close(self) -> None:
        """Close once everything is sent."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once and drop what was not sent."""
        self._waiting.clear()
        self._transport.abort()

    def flush(self) -> None:
        """Send what was written so far."""
        if self._waiting:
            data, self._waiting = self._waiting, []
            self._transport.write(b"".join(data))


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
