"""Deferred: a choice that is loaded when a kernel first asks for a schedule.

Knows what names a choice, which machine code is found on disk by: what was measured and which
weights there are. Refuses to choose (`choice`): a program that is found on disk needs nobody who
can, nor the time that loading one takes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tilewright import forks
from tilewright.cost_model.files import PRIOR, STAMP, database_path, follows_model
from tilewright.kernel import Kernel
from tilewright.target import Target
from tilewright.transforms.alternatives import Computation
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Schedule

if TYPE_CHECKING:
    from tilewright.cost_model.choice import Choice


@dataclass(frozen=True)
class Deferred:
    """What `choice.chooser` would choose, for a target and so many threads: a scheduler."""

    target: Target
    threads: int

    @forks.cached_property
    def cache_key(self) -> str:
        """Names what choices follow from: machine code made by others is not used."""
        model = _digest() if follows_model() else ""
        return f"measured {_stamp()} model {model} threads {self.threads}"

    @forks.cached_property
    def choice(self) -> Choice | None:
        """Who chooses; None where the heuristic does."""
        with forks.importing:
            from tilewright.cost_model.choice import chooser

        return chooser(self.target, self.threads)

    def on(self, target: Target) -> Deferred:
        """The same for another machine."""
        return replace(self, target=target)

    def __call__(self, kernel: Kernel) -> Schedule:
        choose: Callable[[Kernel], Schedule] | None = self.choice
        return heuristic(kernel, self.target) if choose is None else choose(kernel)

    def algorithm(self, computation: Computation) -> str | None:
        """`Choice.algorithm`."""
        return None if self.choice is None else self.choice.algorithm(computation)


@functools.cache
def _digest() -> str:
    """Of the shipped weights."""
    return hashlib.sha256(PRIOR.read_bytes()).hexdigest()[:16]


def _stamp() -> int:
    """`records.Database.stamp` of the user's database, 0 where there is none, by one query."""
    path = database_path()
    if path is None or not path.exists():
        return 0
    with forks.importing:
        import sqlite3

    with suppress(sqlite3.Error):
        c = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return int(c.execute(STAMP).fetchone()[0])
        finally:
            c.close()
    return 0
