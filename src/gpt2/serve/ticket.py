"""A request on its way through the engine: where its events come to, on the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence

from gpt2.generation import Event, Request

Batch = list[tuple[int, Event]]


class Ticket:
    """A group of requests on its way: what one HTTP request asked for.

    Attributes:
        n_tokens: prompts and continuations that it may come to.
        arrived: seconds, of the monotonic clock.
        started: when it got its place, None before.
    """

    def __init__(self, requests: Sequence[Request], n_tokens: int, *, cancel: Callable[["Ticket"], None]) -> None:
        self.requests = requests
        self.n_tokens = n_tokens
        self.arrived = time.monotonic()
        self.started: float | None = None
        self.numbers: list[int] = []  # of the scheduler; only the engine's thread touches them
        self.samples_left = [request.sampling.n for request in requests]  # of the engine's thread
        self.over = False
        self._cancel = cancel
        self._events: Batch = []
        self._news = asyncio.Event()

    async def next(self) -> Batch:
        """Pairs of (index of the request, event) that came meanwhile, waiting for the first.

        Empty when it is `over`, or when `wake` was called.
        """
        if not self._events and not self.over:
            await self._news.wait()
        events, self._events = self._events, []
        self._news.clear()
        return events

    def wake(self) -> None:
        """Let `next` return without events; called on the event loop."""
        self._news.set()

    def cancel(self) -> None:
        """Give its place back within a step; no more events come. May be called at any time."""
        self._cancel(self)

    def take(self, batch: Batch) -> None:
        """Events from the engine; called on the event loop."""
        self._events += batch
        self._news.set()

    def end(self) -> None:
        """Nothing follows; called on the event loop."""
        self.over = True
        self._news.set()
