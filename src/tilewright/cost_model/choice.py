"""Choice: the schedule a kernel is compiled with.

Knows the order of trust: what was measured on this machine, what the model expects, the heuristic.
Refuses to measure (`measure`) and to learn (`training`).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tilewright.cost_model import encoding
from tilewright.cost_model.encoding import machine_key
from tilewright.cost_model.features import NAMES, VERSION, told
from tilewright.cost_model.files import PRIOR, follows_model
from tilewright.cost_model.model import Infer, Model, infer, load
from tilewright.cost_model.records import Database, database, ranked
from tilewright.cost_model.spaces import Points, Space, space
from tilewright.cost_model.standing import DEFAULT
from tilewright.cost_model.walks import Walks
from tilewright.errors import BadDatabase, ScheduleError
from tilewright.kernel import Kernel
from tilewright.options import show
from tilewright.target import Target
from tilewright.transforms.alternatives import Computation
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Schedule

LOOKED_AT: Final = 384
"""Points of a space among which the model chooses while a program is compiled."""
MARGIN: Final = math.log(1.8)
"""By how much the model must expect to gain: nearer to the heuristic it is not believed. Of the
kernels it has not seen a tenth is changed then, and gains; at 1.1 half are, and one in ten loses
(docs/cost_model.md)."""
TRIED: Final = 64
"""Points tried in the order of expectation: shapes forbid a few that numbers allow."""

MOST_KEPT: Final = 4096
"""Kernels for which a process remembers what the model chose."""

_expected: Final[dict[tuple[Any, ...], Schedule]] = {}
"""In the names of the canonical form, by its key, for whom and by what it was chosen."""


@functools.cache
def prior() -> Model | None:
    """The shipped model, if there is one of these features and it beats the heuristic."""
    return load(PRIOR, NAMES, VERSION) if PRIOR.exists() else None


def chooser(target: Target, threads: int) -> Choice | None:
    """What chooses schedules for programs that nobody gave a scheduler: None where neither
    measurements nor a model are there, and the heuristic decides."""
    kept = database()
    kept = kept if kept is not None and kept.path.exists() else None
    known = prior() if follows_model() else None
    return None if kept is None and known is None else Choice(target, threads, kept, known)


@dataclass(frozen=True)
class Option:
    """A schedule and the seconds that are expected of it."""

    schedule: Schedule
    seconds: float


@dataclass(frozen=True)
class Choice:
    """Chooses schedules for kernels on a target with so many threads: a scheduler for `compile`.

    `database` and `model` may be missing; `run` is the model's inference, plain or compiled.
    """

    target: Target
    threads: int
    database: Database | None = None
    model: Model | None = None
    run: Infer = infer

    @property
    def cache_key(self) -> str:
        """Names what choices follow from: machine code made by others is not used."""
        stamp = "" if self.database is None else self.database.stamp
        model = "" if self.model is None else hashlib.sha256(self.model.content).hexdigest()[:16]
        return f"measured {stamp} model {model} threads {self.threads}"

    def on(self, target: Target) -> Choice:
        """The same for another machine."""
        return replace(self, target=target)

    def __call__(self, kernel: Kernel) -> Schedule:
        found = self.measured(kernel)
        if found is not None:
            return found
        return heuristic(kernel, self.target) if self.model is None else self.expected(kernel)

    def measured(self, kernel: Kernel) -> Schedule | None:
        """The fastest schedule of those that were measured on this machine: the heuristic's, where
        none is surely faster; None where none was measured."""
        if self.database is None:
            return None
        try:
            known = self.database.quotients(kernel, machine_key(self.target), self.threads)
        except BadDatabase as e:
            show("tune", e)
            return None
        if not known:
            return None
        usual = heuristic(kernel, self.target)
        schedule, standing = next(ranked(kernel, known, usual), (usual, DEFAULT))
        return schedule if standing.bound < 1 else usual

    def algorithm(self, computation: Computation) -> str | None:
        """The algorithm that was measured to be the fastest on this machine for a computation; None
        where they were not all measured."""
        known, names = self.algorithms(computation), computation.algorithms
        return min(known, key=lambda n: known[n]) if len(known) == len(names) else None

    def algorithms(self, computation: Computation) -> dict[str, float]:
        """The algorithms of a computation that were measured on this machine, with the times as
        long as the first one takes."""
        if self.database is None:
            return {}
        here = machine_key(self.target), self.threads
        try:
            found = self.database.algorithms(computation.text, *here)
        except BadDatabase as e:
            show("tune", e)
            return {}
        return {name: found[name] for name in computation.algorithms if name in found}

    def expected(self, kernel: Kernel) -> Schedule:
        """The schedule that the model expects to be faster than the heuristic's, or that one if
        there is none. The same every time: points are drawn alike."""
        key = encoding.key(kernel), self.target, self.threads, self.model, self.run
        found = _expected.get(key)
        if found is not None:
            return encoding.native(kernel, found)
        schedule = self.searched(kernel)
        if len(_expected) >= MOST_KEPT:
            _expected.clear()
        _expected[key] = encoding.portable(kernel, schedule)
        return schedule

    def searched(self, kernel: Kernel) -> Schedule:
        """`expected`, asked anew."""
        s = space(kernel, self.target, self.threads)
        return better(self.options(s, LOOKED_AT, 1)) or s.default

    def judge(self, s: Space, walks: Walks) -> Any:
        """Log seconds, float64 [n]: the model's, or the roofline's where there is no model."""
        features, seconds = s.extractor.described(walks)
        if self.model is None:
            return np.log(seconds)
        return self.model.on(told(self.target)).judge(features, seconds, self.run)

    def options(self, s: Space, looked_at: int, most: int) -> list[Option]:
        """The default schedule, then up to so many others, no two alike, in the order of
        expectation, of as many points as are looked at."""
        points = s.random(np.random.default_rng(0), looked_at)
        walks = s.walks_of([s.default])
        seconds = self.judge(s, walks.then(s.walks(points)) if s.holes else walks)
        found = [Option(s.default, math.exp(seconds[0]))]
        if not s.holes:
            return found
        order = np.argsort(seconds[1:], kind="stable")[:TRIED]
        for n, schedule in _legal(s, points[order]):
            if all(schedule != o.schedule for o in found):
                found.append(Option(schedule, math.exp(seconds[1 + order[n]])))
            if len(found) > most:
                break
        return found


def better(options: Sequence[Option]) -> Schedule | None:
    """The best of what follows the default schedule, if it is expected to be worth it."""
    default, *rest = options
    best = next(iter(rest), None)
    if best is None or math.log(best.seconds) > math.log(default.seconds) - MARGIN:
        return None
    return best.schedule


def _legal(s: Space, points: Points) -> Iterator[tuple[int, Schedule]]:
    """The schedules of the legal points, with their numbers."""
    for n, p in enumerate(points):
        try:
            yield n, s.schedule(p)
        except ScheduleError:
            continue
