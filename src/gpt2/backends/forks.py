"""Locks that are never held in a forked child: a fork waits until all are free.

A child has only the thread that forked. If another thread were in the middle of an engine step, the child would
inherit a half-changed engine and locks held by a thread that does not exist there.
"""

import functools
import os
import threading
import weakref

_forking = threading.Lock()  # one fork at a time, and no new lock meanwhile
_locks = weakref.WeakSet[threading.RLock]()
_held: list[threading.RLock] = []


def whole_lock() -> threading.RLock:
    """A new lock; a fork of this process waits until it is free."""
    lock = threading.RLock()
    with _forking:
        _watch_forks()
        _locks.add(lock)
    return lock


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):  # Windows has no forks
        os.register_at_fork(before=_take_all, after_in_parent=_give_back, after_in_child=_give_back)


def _take_all() -> None:
    _forking.acquire()
    for lock in list(_locks):
        lock.acquire()
        _held.append(lock)


def _give_back() -> None:
    while _held:
        _held.pop().release()
    _forking.release()
