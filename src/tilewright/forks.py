"""What forks must not catch half-done, and what the child of one forgets.

Knows that of its parent's threads only the one that forked goes on, so locks that others held would
stay shut: ours, and those that Python holds for us while it loads a module or, before its version
3.12, computes a cached property. Refuses to know what our locks guard: that must be sound between
any two steps of Python.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, overload
from weakref import WeakSet

_T = TypeVar("_T")


def in_child(renew: Callable[[], None]) -> Callable[[], None]:
    """Decorator: have a function called in the child of every fork, where there are forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return renew


def wait_for(lock: threading._RLock) -> None:
    """Have every fork wait until nobody else holds the lock: for what has locks of its own inside,
    which a child could not replace. Whoever holds it may not wait for the thread that forks."""
    if hasattr(os, "register_at_fork"):
        free = lock.release
        os.register_at_fork(before=lock.acquire, after_in_parent=free, after_in_child=free)


importing: Final = threading.RLock()
"""Held while a function of ours loads a module. Python has a lock for each module that is being
loaded, and the child of a fork in that moment would wait for it for ever."""
wait_for(importing)


class Lock:
    """A re-entrant lock which in the child of a fork is free, or its own thread's."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Have the lock free unless the calling thread holds it."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


_locks: Final[WeakSet[Lock]] = WeakSet()


@in_child
def _renew_locks() -> None:
    for lock in list(_locks):
        lock.renew()


class cached_property(Generic[_T]):  # noqa: N801  (it stands for the standard library's)
    """`functools.cached_property` without a lock, as it is from Python 3.12 on. Before, every
    property has one for all instances, and a child could never compute what another thread of its
    parent was computing. Threads that compute at once compute twice; all get the first value."""

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[_T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> _T: ...
    def __get__(self, instance: object | None, owner: type) -> cached_property[_T] | _T:
        if instance is None:
            return self
        value: _T = instance.__dict__.setdefault(self._name, self._compute(instance))
        return value
