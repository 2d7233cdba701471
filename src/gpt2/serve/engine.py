"""The thread that steps a model's scheduler, and its link to the event loop.

Requests go in through a queue, and events come out in one call to the event loop per step, so neither side waits for
the other. An error in a request ends that request. An error of the scheduler itself ends the engine: `on_death` then
ends the process, for its supervisor to restart.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from gpt2.errors import ConfigError
from gpt2.generation import Event, Request, Scheduler, Statistics
from gpt2.serve.faults import ApiError
from gpt2.serve.limits import Limits
from gpt2.serve.ticket import Batch, Ticket

log = logging.getLogger("gpt2.serve")

T = TypeVar("T")

_LAST_STEP_SECONDS = 5  # how long `stop` waits for a step that is running


class Engine:
    """One scheduler with a thread of its own.

    Attributes:
        on_death: called on the event loop when the scheduler has failed for good.

    Args:
        scheduler: from `start` on, only the engine's thread touches it.
        name: of the model, for messages.
        limits: of the queue.
    """

    def __init__(self, scheduler: Scheduler, *, name: str, limits: Limits) -> None:
        self.name = name
        self.on_death: Callable[[BaseException], None] = lambda error: None
        self.death: BaseException | None = None
        self._at_work_since: float | None = None  # start of the present step or command; None when idle
        self._scheduler = scheduler
        self._limits = limits
        self._commands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._unanswered: set[Future[Any]] = set()  # of calls; the thread answers each, at the latest when it ends
        self._has_ended = False
        self._putting = threading.Lock()  # guards these three: no command may be put after the thread's last look
        self._tickets: dict[int, tuple[Ticket, int]] = {}  # by the scheduler's number
        self._unbegun: set[Ticket] = set()  # both threads change it, one atomic call each
        self._open: set[Ticket] = set()  # the event loop's
        self._stopping = False
        self._is_left = False  # nobody waits for its thread
        self._thread = threading.Thread(target=self._run, name=f"gpt2 engine {name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    # What the event loop calls

    def start(self) -> None:
        """Begin to step; events come to the running event loop.

        Raises:
            ConfigError: the system has no thread for it.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ConfigError(
                f"{self.name} cannot be served: the system gives this process no more threads ({error}). Allow it "
                f"more (ulimit -u, or the container's limit of processes)."
            ) from error

    @property
    def waiting(self) -> list[Ticket]:
        """Tickets without a place yet."""
        return list(self._unbegun)

    @property
    def n_waiting(self) -> int:
        """How many tickets have no place yet."""
        return len(self._unbegun)

    @property
    def idle(self) -> bool:
        """Whether every request has been answered."""
        return not self._open

    @property
    def seconds_at_work(self) -> float:
        """How long the present step has taken so far; 0 while there is nothing to do."""
        since = self._at_work_since
        return 0.0 if since is None else time.monotonic() - since

    def check_room(self, n_tokens: int = 0) -> None:
        """Refuse a request of up to so many tokens if the queue has no room for it.

        Raises:
            ApiError: the queue is full (429), or the engine has died (503).
        """
        if self.death is not None:
            raise self._dead()
        n_requests = self.n_waiting
        if n_requests >= self._limits.queue_requests:
            raise ApiError(
                429,
                f"The request cannot be queued: {n_requests} requests wait for {self.name}, and the limit "
                f"queue_requests is {self._limits.queue_requests}. Send it again later.",
                code="queue_requests",
                retry_after=1,
            )
        tokens_waiting = sum(ticket.n_tokens for ticket in self.waiting)
        if tokens_waiting + n_tokens > self._limits.queue_tokens:
            raise ApiError(
                429,
                f"The request cannot be queued: it may come to {n_tokens:,} tokens, those that wait for {self.name} "
                f"to {tokens_waiting:,}, and the limit queue_tokens is {self._limits.queue_tokens:,}. "
                "Send it again later.",
                code="queue_tokens",
                retry_after=1,
            )

    def submit(self, requests: Sequence[Request], n_tokens: int) -> Ticket:
        """Queue a group of requests.

        Raises:
            ApiError: the queue is full (429), or the engine has died (503).
        """
        self.check_room(n_tokens)
        ticket = Ticket(requests, n_tokens, cancel=self.cancel)
        self._unbegun.add(ticket)
        try:
            self._put(lambda: self._submit(ticket))
        except ApiError:
            self._unbegun.discard(ticket)
            raise
        self._open.add(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Free a ticket's place within a step."""
        if ticket in self._open:
            with contextlib.suppress(ApiError):  # the thread has ended, and freed the place
                self._put(lambda: self._cancel(ticket))  # first, so that once `idle` is true its thread knows
            self._open.discard(ticket)
            self._unbegun.discard(ticket)
            ticket.end()

    def statistics(self) -> "Future[Statistics]":
        """The scheduler's statistics, read on the engine's thread."""
        return self.call(self._scheduler.statistics)

    def break_off(self, reason: str) -> None:
        """End every open ticket with a 503 that says why."""
        fault = ApiError(503, reason, retry_after=2)
        for ticket in list(self._open):
            ticket.take([(0, Event(request=-1, finish_reason="error", error=fault))])
            self.cancel(ticket)

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run a function on the engine's thread, between two steps. If the thread ends first, the future fails.

        Raises:
            ApiError: the engine has died, or was stopped (503).
        """
        future: Future[T] = Future()

        def answer() -> None:
            if not future.done():
                with contextlib.suppress(InvalidStateError):  # it was cancelled or refused meanwhile
                    try:
                        future.set_result(function())
                    except BaseException as error:
                        future.set_exception(error)
                        if not isinstance(error, Exception):
                            raise
            self._unanswered.discard(future)

        self._put(answer, answers=future)
        return future

    async def stop(self) -> None:
        """End the thread after its present step; running requests get no more events.

        A thread that hangs in its step is left behind: see `is_running`.
        """
        self._end()
        try:
            async with asyncio.timeout(_LAST_STEP_SECONDS):
                while self.is_running and not self._is_left:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            log.warning("the engine of %s does not come back from its step, and is left in it", self.name)
            self.leave()

    def leave(self) -> None:
        """Stop without waiting; calls that the thread has not answered fail as if it had ended."""
        self._end()
        self._is_left = True
        self._refuse_calls()

    def _end(self) -> None:
        self._stopping = True
        with contextlib.suppress(ApiError):  # it has ended already
            self._put(lambda: None)

    @property
    def is_running(self) -> bool:
        """Whether its thread is alive. After `stop` it hangs in a step, and the backend must stay open."""
        return self._thread.is_alive()

    def _put(self, command: Callable[[], object], *, answers: "Future[Any] | None" = None) -> None:
        """Have the engine's thread run a command.

        Raises:
            ApiError: the thread has ended.
        """
        with self._putting:
            if self._has_ended:
                raise self._ended()
            if answers is not None:
                self._unanswered.add(answers)
            self._commands.put(command)

    def _ended(self) -> ApiError:
        if self.death is not None:
            return self._dead()
        return ApiError(503, f"The engine of {self.name} has been stopped. Send the request again.", retry_after=2)

    def _dead(self) -> ApiError:
        return ApiError(503, f"The engine of {self.name} has failed and is being restarted.", retry_after=2)

    # What runs on the engine's thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey()
                if self._scheduler.busy and not self._stopping:
                    events = self._scheduler.step(self._begin_work())
                    self._note_begun(events)
                    self._pass_on(events)
            self._scheduler.close()
        except BaseException as error:  # nothing may end this thread unseen
            log.critical("the engine of %s has died: %s: %s", self.name, type(error).__name__, error, exc_info=True)
            self.death = error
            self._on_loop(self._bury, error)
        finally:
            self._refuse_calls()

    def _refuse_calls(self) -> None:
        """Fail the calls that wait, and take no more."""
        with self._putting:
            self._has_ended = True
        for future in list(self._unanswered):
            with contextlib.suppress(InvalidStateError):  # it was cancelled, or is answered at this moment
                future.set_exception(self._ended())

    def _obey(self) -> None:
        """Run every queued command; if the scheduler is idle, wait for one first."""
        if not self._scheduler.busy:
            self._at_work_since = None
            command = self._commands.get()
            self._begin_work()
            command()
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            self._begin_work()
            command()

    def _begin_work(self) -> float:
        self._at_work_since = now = time.monotonic()
        return now

    def _submit(self, ticket: Ticket) -> None:
        for index, request in enumerate(ticket.requests):
            try:
                number = self._scheduler.submit(request)
            except Exception as error:
                self._cancel(ticket)
                failed = Event(request=-1, finish_reason="error", error=error)
                self._on_loop(self._hand_out, [(ticket, [(index, failed)], True)])
                return
            ticket.numbers.append(number)
            self._tickets[number] = ticket, index

    def _cancel(self, ticket: Ticket) -> None:
        self._unbegun.discard(ticket)
        for number in ticket.numbers:
            if self._tickets.pop(number, None) is not None:
                self._scheduler.cancel(number)

    def _note_begun(self, events: Sequence[Event]) -> None:
        """Mark tickets of which a prompt got a place in this step: their other prompts have no deadline from now on."""
        now = time.monotonic()
        ended = (event.request for event in events if event.finish_reason not in (None, "error"))  # within the step
        for number in (*self._scheduler.running, *ended):
            found = self._tickets.get(number)
            if found is not None and found[0] in self._unbegun:
                ticket = found[0]
                ticket.started = now
                self._unbegun.discard(ticket)
                for other in ticket.numbers:
                    self._scheduler.let_wait(other)

    def _pass_on(self, events: Sequence[Event]) -> None:
        """Pass events to their tickets, in one call to the event loop."""
        batches: dict[Ticket, Batch] = {}
        for event in events:
            found = self._tickets.get(event.request)
            if found is None:  # cancelled
                continue
            ticket, index = found
            self._unbegun.discard(ticket)
            batches.setdefault(ticket, []).append((index, event))
            if event.finish_reason is not None:
                left = 0 if event.error is not None else ticket.samples_left[index] - 1
                ticket.samples_left[index] = left
                if left == 0:
                    del self._tickets[event.request]
        if batches:
            self._on_loop(
                self._hand_out, [(ticket, batch, not any(ticket.samples_left)) for ticket, batch in batches.items()]
            )

    def _on_loop(self, function: Callable[..., object], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is listening
            log.debug("events after the end of the event loop")

    # What the thread has the event loop call

    def _hand_out(self, batches: Sequence[tuple[Ticket, Batch, bool]]) -> None:
        now = time.monotonic()
        for ticket, batch, is_last in batches:
            if ticket not in self._open:
                continue
            if ticket.started is None:
                ticket.started = now
            ticket.take(batch)
            if is_last:
                self._open.discard(ticket)
                ticket.end()

    def _bury(self, error: BaseException) -> None:
        fault = ApiError(500, f"The engine of {self.name} has failed and is being restarted.")
        for ticket in list(self._open):
            ticket.take([(0, Event(request=-1, finish_reason="error", error=fault))])
            self._open.discard(ticket)
            ticket.end()
        self._unbegun.clear()
        self.on_death(error)
