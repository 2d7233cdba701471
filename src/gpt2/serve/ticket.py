"""A request in the engine: collects its events for the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence

from gpt2.generation import Event, Request

Batch = list[tuple[int, Event]]


class Ticket:
    """The group of scheduler requests that one HTTP request makes.

    Attributes:
        n_tokens: at most, of its prompts and continuations.
        arrived: seconds of the monotonic clock.
        started: when it got its place; None before.
    """

    def __init__(self, requests: Sequence[Request], n_tokens: int, *, cancel: Callable[["Ticket"], None]) -> None:
        self.requests = requests
        self.n_tokens = n_tokens
        self.arrived = time.monotonic()
        self.started: float | None = None
        self.numbers: list[int] = []  # the scheduler's; only the engine's thread touches them
        self.samples_left = [request.sampling.n for request in requests]  # the engine's thread's
        self.over = False
        self._cancel = cancel
        self._events: Batch = []
        self._news = asyncio.Event()

    async def next(self) -> Batch:
        """Wait for events; return those that came as (index of the request, event).

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
        """Free its place within a step; no more events come. May be called at any time."""
        self._cancel(self)

    def take(self, batch: Batch) -> None:
        """Events from the engine; called on the event loop."""
        self._events += batch
        self._news.set()

    def end(self) -> None:
        """Nothing follows; called on the event loop."""
        self.over = True
        self._news.set()
