"""A backend for other threads: the engine's thread makes every call, between two steps.

So scoring and inspection take turns with generation, chunk by chunk, and the kernels of two backends never run at the
same time.
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
    """`backend`, called on the thread of `engine`; `step` raises once `asked` has a fault."""

    def __init__(self, backend: Backend, engine: Engine, asked: "Asked") -> None:
        self.name = backend.name
        self.device = backend.device
        self.weights = backend.weights
        self.config = backend.config
        self.intervenes = backend.intervenes
        self.reason = backend.reason
        self._backend = backend
        self._engine = engine
        self._asked = asked

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
        self._asked.check()
        return self._engine.call(lambda: self._backend.step(work)).result()

    def close(self) -> None:
        """Nothing: the backend belongs to the model."""


class Asked:
    """One request to an exact backend.

    Attributes:
        fault: why it must end before its next step; None if it may go on.
    """

    def __init__(self) -> None:
        self.fault: ApiError | None = None

    def check(self) -> None:
        """Raise the fault, if there is one."""
        if self.fault is not None:
            raise self.fault


class ExactWork:
    """Runs requests to a model's exact backend (fp32 unless told otherwise), one at a time.

    Args:
        model: whose backend it is.
        engine: makes the calls.
        most_waiting: refuse requests beyond this many.
    """

    def __init__(self, model: LanguageModel, engine: Engine, *, most_waiting: int) -> None:
        self._model = model
        self._engine = engine
        self._most_waiting = most_waiting
        self._open: set[Asked] = set()  # of the event loop
        self._turn = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """Whether every request has been answered."""
        return not self._open

    def break_off(self, reason: str) -> None:
        """End every open request at its next step, with a 503 that says why."""
        fault = ApiError(503, reason, retry_after=2)
        for asked in self._open:
            asked.fault = fault

    async def run(self, function: Callable[[Backend], T]) -> T:
        """Run a function of the backend in a thread. If the caller is cancelled, the function ends at its next step.

        Raises:
            ApiError: too many requests wait (429), it was broken off, or the engine has ended (503).
        """
        if len(self._open) >= self._most_waiting:
            raise ApiError(
                429,
                f"The request cannot be queued: {len(self._open)} of its kind wait, and the limit queue_requests is "
                f"{self._most_waiting}. Send it again later.",
                code="queue_requests",
                retry_after=1,
            )
        asked = Asked()

        def computed() -> T:
            backend = self._model.exact_backend()  # opened by the first request, for good
            asked.check()
            return function(Relay(backend, self._engine, asked))

        self._open.add(asked)
        try:
            async with self._turn:
                asked.check()
                work = asyncio.ensure_future(asyncio.to_thread(computed))
                try:
                    return await asyncio.shield(work)
                except asyncio.CancelledError:
                    asked.fault = ApiError(400, "The client has left.")
                    await asyncio.wait([work])  # it must free its slots before the next one begins
                    work.exception()  # retrieved, so that asyncio does not log it
                    raise
        finally:
            self._open.discard(asked)
