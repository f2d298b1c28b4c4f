"""Forks while other threads hold what a child would wait for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from test_threads import awaited
from tilewright import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")


def code_of_child(body: Callable[[], bool]) -> int:
    """0 if `body` is true in a child."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if body() else 1)
    return awaited(pid)


def beside(body: Callable[[threading.Event], None]) -> threading.Thread:
    """A thread that runs `body`, once that has set the event."""
    inside = threading.Event()
    thread = threading.Thread(target=body, args=(inside,))
    thread.start()
    inside.wait()
    return thread


def test_forks_wait_until_modules_are_loaded() -> None:
    loaded: list[bool] = []

    def loads(inside: threading.Event) -> None:
        with forks.importing:
            inside.set()
            time.sleep(0.2)
            loaded.append(True)

    other = beside(loads)
    assert code_of_child(lambda: loaded == [True]) == 0
    other.join()


def test_locks_of_others_are_free_in_the_child() -> None:
    lock, over = forks.Lock(), threading.Event()

    def holds(inside: threading.Event) -> None:
        with lock:
            inside.set()
            over.wait()

    def free() -> bool:
        with lock:
            return True

    other = beside(holds)
    assert code_of_child(free) == 0
    over.set()
    other.join()
    assert free()


def test_an_own_lock_is_kept_by_the_child() -> None:
    lock = forks.Lock()
    with lock:
        pid = os.fork()
    if pid == 0:
        with lock:
            os._exit(0)
    assert awaited(pid) == 0


def test_properties_that_others_compute_are_computed_by_the_child() -> None:
    over = threading.Event()

    class Slow:
        @forks.cached_property
        def value(self) -> list[int]:
            """Seven."""
            computing.set()
            if threading.current_thread() is not threading.main_thread():
                over.wait()
            return [7]

    slow, computing, found = Slow(), threading.Event(), []
    other = threading.Thread(target=lambda: found.append(slow.value))
    other.start()
    computing.wait()
    assert code_of_child(lambda: slow.value == [7] and Slow().value == [7]) == 0
    first = slow.value
    over.set()
    other.join()
    assert found[0] is first is slow.value  # all threads get what was there first
    assert Slow.value.__doc__ == "Seven."
