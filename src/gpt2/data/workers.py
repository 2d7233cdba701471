"""Running tasks in several processes; the tasks of a process that dies are done again.

Processes are spawned, so nothing is inherited by accident and every system behaves alike.
"""

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from gpt2.errors import DataError
from gpt2.tokenizer.stream import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

_LOOK_SECONDS = 0.3
_TRIES = 3
_TOLD_DOCUMENTS = 64


class Tally:
    """Counts that workers add to and this process reads: documents done and bytes read.

    Adding takes a lock, so a worker adds its counts only now and then, and the rest at the end by `flush`.
    """

    def __init__(self) -> None:
        self._counts = multiprocessing.get_context("spawn").Array("q", 2)
        self._documents = self._bytes = 0  # of this process, not added yet

    def count_documents(self, n: int = 1) -> None:
        """Count documents that are done."""
        self._documents += n
        if self._documents >= _TOLD_DOCUMENTS:
            self.flush()

    def count_bytes(self, n_bytes: int) -> None:
        """Count bytes that were read."""
        self._bytes += n_bytes

    def flush(self) -> None:
        """Add what is not added yet."""
        with self._counts.get_lock():
            self._counts[0] += self._documents
            self._counts[1] += self._bytes
        self._documents = self._bytes = 0

    def read(self) -> tuple[int, int]:
        """Documents and bytes so far, including those of tasks that were begun again."""
        with self._counts.get_lock():
            return self._counts[0], self._counts[1]


def run_tasks(
    do: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    start: Callable[..., None],
    arguments: tuple[Any, ...] = (),
    look: Callable[[], None] = lambda: None,
) -> Generator[tuple[Task, Result]]:
    """Do every task and yield it with its result, in the order in which they are finished.

    Args:
        do: a function of a module, which may be called twice for a task whose worker died.
        tasks: what to do.
        workers: processes; 1: work in this process.
        start: called once in each process with `arguments`, before its first task.
        arguments: of `start`.
        look: called a few times a second while waiting.

    Raises:
        DataError: workers kept dying.
    """
    if workers <= 1 or len(tasks) <= 1:
        start(*arguments)
        for task in tasks:
            yield task, do(task)
            look()
        return
    left = dict(enumerate(tasks))
    for _ in range(_TRIES):
        with contextlib.suppress(BrokenProcessPool):
            for number, result in _run_in_pool(do, dict(left), workers, start, arguments, look):
                yield left.pop(number), result
            return
    raise DataError(
        f"The work cannot be finished: worker processes died {_TRIES} times, perhaps for lack of memory. "
        f"What was finished is kept; run again to go on, with fewer workers if it happens again."
    )


def _run_in_pool(
    do: Callable[[Any], Any],
    tasks: dict[int, Any],
    workers: int,
    start: Callable[..., None],
    arguments: tuple[Any, ...],
    look: Callable[[], None],
) -> Generator[tuple[int, Any]]:
    waiting: dict[Future[Any], int] = {}
    coming = iter(tasks.items())
    with spawned(min(workers, len(tasks)), start, *arguments) as pool:
        while True:
            with deaf_children():
                while len(waiting) < 2 * workers and (each := next(coming, None)):
                    waiting[pool.submit(do, each[1])] = each[0]
            if not waiting:
                return
            done, _ = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
            look()
            for future in done:
                yield waiting.pop(future), future.result()


@contextlib.contextmanager
def spawned(workers: int, start: Callable[..., None], *arguments: Any) -> Generator[ProcessPoolExecutor]:
    """A pool of processes, spawned as tasks are submitted; submit them within `deaf_children`.

    Args:
        workers: how many.
        start: called once in each with `arguments`, before its first task.
        arguments: of `start`.
    """
    if sys.platform != "win32":
        resource_tracker.ensure_running()  # before `deaf_children`: starting it unblocks signals
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(start, *arguments))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(start: Callable[..., None], *arguments: Any) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    start(*arguments)


@contextlib.contextmanager
def deaf_children() -> Generator[None]:
    """Processes started in the block ignore Ctrl-C: a terminal sends it to all, and the parent handles it.

    A signal to this process waits until the block ends. (On Windows a worker ignores Ctrl-C only once it runs.)
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
