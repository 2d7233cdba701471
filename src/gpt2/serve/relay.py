"""A backend used from other threads: every call is made by the engine's thread, between two steps.

So what scores a long text, or looks inside, takes turns with the requests that generate, chunk by chunk, and the
kernels of two backends never run at the same time.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from gpt2.backends import Backend, Result, Work
from gpt2.language_model import LanguageModel
from gpt2.serve.engine import Engine
from gpt2.serve.faults import ApiError

T = TypeVar("T")


class Relay:
    """`backend`, called by the thread of `engine`; `step` raises once nobody waits for it any more."""

    def __init__(self, backend: Backend, engine: Engine) -> None:
        self.name = backend.name
        self.device = backend.device
        self.weights = backend.weights
        self.config = backend.config
        self.intervenes = backend.intervenes
        self.reason = backend.reason
        self.abandoned = False
        self._backend = backend
        self._engine = engine

    def new(self) -> int:
        """See `Backend`."""
        return self._engine.call(self._backend.new).result()

    def length(self, slot: int) -> int:
        """See `Backend`."""
        return self._engine.call(lambda: self._backend.length(slot)).result()

    def truncate(self, slot: int, length: int) -> None:
        """See `Backend`."""
        self._engine.call(lambda: self._backend.truncate(slot, length)).result()

    def fork(self, slot: int) -> int:
        """See `Backend`."""
        return self._engine.call(lambda: self._backend.fork(slot)).result()

    def free(self, slot: int) -> None:
        """See `Backend`."""
        self._engine.call(lambda: self._backend.free(slot)).result()

    def bytes(self) -> int:
        """See `Backend`."""
        return self._engine.call(self._backend.bytes).result()

    def slot_bytes(self, tokens: int) -> int:
        """See `Backend`."""
        return self._backend.slot_bytes(tokens)

    def step(self, work: Sequence[Work]) -> list[Result]:
        """See `Backend`."""
        if self.abandoned:
            raise ApiError(400, "The client has left.")
        return self._engine.call(lambda: self._backend.step(work)).result()

    def close(self) -> None:
        """Nothing: the backend belongs to the model."""


class ExactWork:
    """What is asked of a model's exact backend (fp32 unless told otherwise), one thing at a time.

    Args:
        model: whose.
        engine: that makes the calls.
        most_waiting: beyond these, requests are refused.
    """

    def __init__(self, model: LanguageModel, engine: Engine, *, most_waiting: int) -> None:
        self._model = model
        self._engine = engine
        self._most_waiting = most_waiting
        self._n_waiting = 0
        self._turn = asyncio.Lock()

    async def run(self, function: Callable[[Backend], T]) -> T:
        """Run a function of the backend in a thread; where the caller is cancelled it ends at its next step.

        Raises:
            ApiError: too many wait already (429), or the engine has died (503).
        """
        if self._n_waiting >= self._most_waiting:
            raise ApiError(
                429,
                f"The request cannot be queued: {self._n_waiting} of its kind wait, and the limit queue_requests is "
                f"{self._most_waiting}. Send it again later.",
                code="queue_requests",
                retry_after=1,
            )
        self._n_waiting += 1
        try:
            async with self._turn:
                relay = Relay(await asyncio.to_thread(self._model.exact_backend), self._engine)
                work = asyncio.ensure_future(asyncio.to_thread(function, relay))
                try:
                    return await asyncio.shield(work)
                except asyncio.CancelledError:
                    relay.abandoned = True
                    await asyncio.wait([work])  # its slots are given back before the next one begins
                    work.exception()  # that it was abandoned is no news to anybody
                    raise
        finally:
            self._n_waiting -= 1
