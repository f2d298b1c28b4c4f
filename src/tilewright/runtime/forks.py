"""What a process forgets when it is the child of a fork.

Knows that of its parent's threads only the one that forked goes on, so locks that others held would
stay shut. Refuses to know what the locks guard: that must be sound between any two steps of Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable


def in_child(renew: Callable[[], None]) -> Callable[[], None]:
    """Decorator: have a function called in the child of every fork, where there are forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return renew
