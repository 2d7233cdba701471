"""Runs any number of requests through one scheduler: reads them lazily and answers them in order.

As soon as one text ends, the next request begins, so a long text leaves no slot idle. An answer waits for those
before it, so read-ahead is bounded.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from gpt2.generation.completion import Completion, Gathering
from gpt2.generation.prompts import said_of
from gpt2.generation.requests import Request
from gpt2.generation.scheduler import Scheduler

_AHEAD = 64  # requests in progress or waiting: enough to refill any batch while one text is long


@dataclass(kw_only=True, slots=True, eq=False)
class _Turn:
    request: Request | None = None
    gathering: Gathering | None = None
    is_done: bool = False
    error: Exception | None = None


def complete_each(scheduler: Scheduler, requests: Iterable[Request], *, ahead: int = _AHEAD) -> Generator[Completion]:
    """The completion of each request, in order. The scheduler is closed at the end, or when the caller stops early.

    Args:
        scheduler: idle.
        requests: each with a seed; taken from the iterable when there is room.
        ahead: how many may be in progress and not yet answered.

    Raises:
        GenerationError, ContextError: a request failed; those before it have been answered.
        Exception: raised by `requests`, after the answers to all earlier requests.
    """
    source, turns, under_way = enumerate(requests, 1), deque[_Turn](), dict[int, _Turn]()
    ended = False
    try:
        while True:
            while not ended and len(turns) < ahead:
                turn = _take(source, scheduler, under_way)
                if turn is not None:
                    turns.append(turn)
                ended = turn is None or turn.error is not None  # nothing after a failure is answered
            while turns and turns[0].is_done:
                turn = turns.popleft()
                if turn.error is not None:
                    raise turn.error
                assert turn.request is not None and turn.gathering is not None
                yield turn.gathering.completion(turn.request.prompt, turn.request.sampling)
            if not turns and ended:
                return
            _step(scheduler, under_way)
    finally:
        scheduler.close()


def _take(source: Iterator[tuple[int, Request]], scheduler: Scheduler, under_way: dict[int, _Turn]) -> _Turn | None:
    try:
        place, request = next(source, (0, None))
    except Exception as error:
        return _Turn(is_done=True, error=error)
    if request is None:
        return None
    try:
        with said_of(f"prompt {place:,}"):
            number = scheduler.submit(request)
    except Exception as error:
        return _Turn(is_done=True, error=error)
    turn = under_way[number] = _Turn(request=request, gathering=Gathering(request.sampling.n))
    return turn


def _step(scheduler: Scheduler, under_way: dict[int, _Turn]) -> None:
    for event in scheduler.step():
        turn = under_way[event.request]
        if event.error is not None:
            turn.error, turn.is_done = event.error, True
        else:
            assert turn.gathering is not None
            turn.gathering.add(event)
            turn.is_done = event.usage is not None  # only a request's last event has it
        if turn.is_done:
            del under_way[event.request]
