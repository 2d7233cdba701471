"""A client that measures: streamed completions over connections that are kept, and loads made of many."""

import asyncio
import contextlib
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

TEXT = "The house at the end of the street had been empty for years before anybody thought of asking why. " * 2
STREAMS, TOKENS = 16, 32


@dataclass
class Reply:
    """What came of one request: its bytes, which are read only when somebody asks, after the load has ended.

    Attributes:
        parts: as they came, each with its moment, in seconds of the monotonic clock.
    """

    began: float = 0.0
    ended: float = 0.0
    parts: list[tuple[float, bytes]] = field(default_factory=list)

    @cached_property
    def status(self) -> int:
        """Of HTTP; 0 where there was no answer."""
        words = b"".join(data for _, data in self.parts[:2])[:40].split(maxsplit=2)
        return int(words[1]) if len(words) > 2 and words[1].isdigit() else 0

    @property
    def text(self) -> str:
        return self._read[0]

    @property
    def arrivals(self) -> list[float]:
        """When each piece of text came."""
        return self._read[1]

    @property
    def complete(self) -> bool:
        """Whether it came to its end."""
        return self._read[2]

    @property
    def n_tokens(self) -> int:
        """Generated, by the server's own count where it gives one, else pieces of text."""
        return self._read[3] or len(self.arrivals)

    @property
    def first_seconds(self) -> float:
        return self.arrivals[0] - self.began

    @cached_property
    def _read(self) -> tuple[str, list[float], bool, int]:
        text, arrivals, complete, n_tokens, rest = "", list[float](), False, 0, b""
        for moment, data in self.parts:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                try:
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        return text, arrivals, False, n_tokens
                    if chunk.get("usage"):
                        n_tokens = chunk["usage"]["completion_tokens"]
                    choices = chunk["choices"]
                except (ValueError, KeyError):  # this reply is lost, not the figures of all
                    return text, arrivals, False, n_tokens
                for choice in choices:
                    complete |= choice.get("finish_reason") is not None
                    if choice.get("text"):
                        arrivals.append(moment)
                        text += choice["text"]
        return text, arrivals, complete, n_tokens


class _Connection(asyncio.Protocol):
    """Notes what comes of one request after the other."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[None] | None = None
        self._parts: list[tuple[float, bytes]] = []
        self._left: int | None = None  # bytes of the body to come; None: not known, until the last chunk
        self._tail = b""

    async def ask(self, request: bytes, reply: Reply) -> bool:
        """Whether the answer came to its end and another request may follow."""
        assert self.transport is not None
        self._parts, self._left, self._tail = reply.parts, None, b""
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self._ended
        return not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parts.append((time.monotonic(), data))
        if self._left is None and not self._tail:
            head, _, rest = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            self._left = None if length is None else int(length[1]) - len(rest)
        elif self._left is not None:
            self._left -= len(data)
        self._tail = (self._tail + data)[-7:]
        if self._left == 0 or (self._left is None and self._tail == b"\r\n0\r\n\r\n"):
            if _CLOSES.search(self._parts[0][1]):
                assert self.transport is not None
                self.transport.close()
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Client:
    """Asks one server over connections that it keeps, as clients of the interface do: `openai` keeps them as well."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def ask(self, asked: dict[str, Any], replies: list[Reply] | None = None) -> Reply:
        """One streamed completion; added to `replies` when it begins."""
        reply = Reply(began=time.monotonic())
        if replies is not None:
            replies.append(reply)
        data = json.dumps(asked).encode()
        request = b"%s%d\r\n\r\n%s" % (_HEAD, len(data), data)
        connection, again = None, False
        try:
            while connection is None or (again and not reply.parts):
                connection, again = await self._connection()
                if await connection.ask(request, reply):
                    self._idle.append(connection)
                    connection = None
                    break
        except OSError:
            pass
        finally:
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
            reply.ended = time.monotonic()
        return reply

    async def _connection(self) -> tuple[_Connection, bool]:
        """One, and whether it was used before: the server may be about to close it."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection, True
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, "127.0.0.1", self._port))[1], False

    def close(self) -> None:
        """Close what is kept."""
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.close()
        self._idle.clear()


_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "


def body(model: str, number: int, *, tokens: int = TOKENS, plain: bool = False) -> dict[str, Any]:
    """A request of which no two numbers have a beginning in common; what it draws is fixed by its number.

    `plain` has only the fields that `transformers serve` takes; it keeps the 50 likeliest tokens where others keep 40.
    """
    asked = {"model": model, "prompt": f"{number} {TEXT}", "max_tokens": tokens, "seed": number, "temperature": 1.0}
    asked["stream"] = True
    if not plain:
        asked |= {"top_k": 40, "ignore_eos": True, "stream_options": {"include_usage": True}}
    return asked


async def ask(port: int, asked: dict[str, Any]) -> Reply:
    """One streamed completion over a connection of its own."""
    with contextlib.closing(Client(port)) as client:
        return await client.ask(asked)


async def closed(
    port: int, make: Callable[[int], dict[str, Any]], seconds: float, *, cut: bool = False
) -> dict[str, Any]:
    """`STREAMS` streams, each asking again as soon as it has its answer, until the time is up.

    `cut` ends what is under way then and counts what has come of it, for a server that takes longer for one answer.
    """
    end, replies, numbers = time.monotonic() + seconds, list[Reply](), iter(range(1 << 30))
    client = Client(port)

    async def stream() -> None:
        while time.monotonic() < end:
            await client.ask(make(next(numbers)), replies)

    began, work = time.monotonic(), time.process_time()
    with contextlib.suppress(TimeoutError), contextlib.closing(client):
        async with asyncio.timeout(seconds if cut else None):
            await asyncio.gather(*(stream() for _ in range(STREAMS)))
    taken, work = time.monotonic() - began, time.process_time() - work
    return {
        "streams": STREAMS,
        "seconds": taken,
        "tokens_per_second": sum(reply.n_tokens for reply in replies) / taken,
        "requests_per_second": sum(reply.complete for reply in replies) / taken,
        "first_token_ms": quantiles([reply.first_seconds for reply in replies if reply.arrivals]),
        "incomplete": sum(not reply.complete for reply in replies),
        "cores_of_the_client": work / taken,
    }


async def open_loop(
    port: int, make: Callable[[int], dict[str, Any]], rate: float, seconds: float
) -> tuple[dict[str, Any], list[Reply]]:
    """Requests at random moments (Poisson), `rate` a second, whatever becomes of them.

    Goodput is counted while requests come: tokens that arrived then, of requests that were answered in full.
    """
    draw, tasks, client = random.Random(1), list[asyncio.Task[Reply]](), Client(port)
    began, at, work = time.monotonic(), 0.0, time.process_time()
    while (at := at + draw.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        tasks.append(asyncio.create_task(client.ask(make(len(tasks)))))
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    end, work = time.monotonic(), time.process_time() - work
    replies = await asyncio.gather(*tasks)
    client.close()
    accepted = [reply for reply in replies if reply.status == 200]
    refused = [reply.ended - reply.began for reply in replies if reply.status == 429]
    lost = [reply for reply in replies if reply.status != 429 and not (reply.status == 200 and reply.complete)]
    tokens = 0.0
    for reply in accepted:
        if reply.complete and reply.arrivals:
            share = sum(moment <= end for moment in reply.arrivals) / len(reply.arrivals)
            tokens += share * reply.n_tokens
    found = {
        "rate": rate,
        "seconds": time.monotonic() - began,
        "requests": len(replies),
        "answered": sum(reply.complete for reply in accepted),
        "refused": len(refused),
        "lost": len(lost),
        "of_the_lost": [_fate(reply, began) for reply in lost],
        "goodput_tokens_per_second": tokens / (end - began),
        "first_token_ms": quantiles([reply.first_seconds for reply in accepted if reply.arrivals]),
        "refusal_ms": quantiles(refused),
        "cores_of_the_client": work / (end - began),
        "refused_within_20_ms": sum(each <= 0.02 for each in refused) / len(refused) if refused else None,
    }
    return found, replies


def _fate(reply: Reply, began: float) -> dict[str, Any]:
    """What became of a request that was lost: when it was made and ended, in seconds of the load, and what came."""
    return {
        "made": round(reply.began - began, 3),
        "ended": round(reply.ended - began, 3),
        "status": reply.status,
        "tokens": len(reply.arrivals),
        "last": b"".join(data for _, data in reply.parts)[-300:].decode("utf-8", "replace"),
    }


async def get(port: int, path: str) -> str:
    """The body of a page, with its head before it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return data.decode()


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst, in milliseconds."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at_99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"p50": 1e3 * statistics.median(ordered), "p99": 1e3 * at_99, "worst": 1e3 * ordered[-1]}
