"""What a process forgets when it is the child of a fork.

Knows that of its parent's threads only the one that forked goes on, so locks that others held would
stay shut. Refuses to know what the locks guard: that must be sound between any two steps of Python.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


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
