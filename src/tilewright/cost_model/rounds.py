"""Rounds: the schedules of one kernel, proposed, measured and kept.

Knows that a schedule is tried once, that what a database has is not measured again, and that a
schedule leads only when it was measured a few times: the fastest of many is also the luckiest.
Refuses to know how candidates are chosen (`search`), how they are measured (`measure`), and how
kernels share a budget (`tilewright.tuning`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final

import numpy as np

from tilewright.cost_model import encoding, features, measure
from tilewright.cost_model.measure import Limits, Task
from tilewright.cost_model.records import Database, Record
from tilewright.cost_model.search import Search
from tilewright.cost_model.spaces import Points, Space
from tilewright.errors import ScheduleError
from tilewright.kernel import Kernel
from tilewright.transforms.schedule import Schedule

BATCH: Final = 16
FIRST: Final = 4
GROWTH: Final = 4
"""Candidates of one kernel that are proposed and measured before the model is asked again: of all
that were measured so far one part in `GROWTH`, at least `FIRST` and at most `BATCH`. The first few
teach it most, and later asking costs more than it gains."""
CONFIRMED: Final = 4
"""Measurements of a schedule that is to be the best so far; their median counts: what disturbs one
of them lengthens or shortens it a lot."""
HOPE: Final = 0.3
"""Share of its time that a kernel is expected to lose in its first batch; what later batches did
gain, fading, is what is expected of the next."""
FADING: Final = 0.5
"""What is left of an expectation after `BATCH` trials."""
LIMITS: Final = Limits()

Tell = Callable[[bool], bool]
"""Told of every trial, with whether it was measured now; answers whether to stop."""


@dataclass(frozen=True)
class Bench:
    """Where candidates are measured, on how many threads, and the database they are kept in."""

    kept: Database | None = None
    executor: Executor | None = None
    threads: int = 1

    def earlier(self, kernel: Kernel, s: Space) -> dict[str, list[Record]]:
        """What was measured before on this machine by this compiler, by the schedule's text."""
        found: dict[str, list[Record]] = {}
        if self.kept is not None and self.executor is None:
            here = encoding.machine_key(s.target)
            compiler = measure.compiler_version()
            for r in self.kept.records(encoding.key(kernel), here, self.threads):
                if r.compiler == compiler:
                    found.setdefault(r.schedule, []).append(r)
        return found

    def measured(self, kernel: Kernel, tasks: Sequence[Task]) -> Generator[Record, None, None]:
        """Measure, and keep at once what each task came to."""
        with closing(measure.outcomes(tasks, self.executor)) as found:
            for record in measure.records(tasks, found, features.VERSION):
                if self.kept is not None:
                    self.kept.insert([record], [kernel])
                yield record


@dataclass
class Tuned:
    """One kernel while it is tuned. `calls`: how often a run of the program calls it."""

    kernel: Kernel
    calls: int
    space: Space
    search: Search
    default: float = math.inf  # seconds
    best: float = math.inf
    schedule: Schedule | None = None
    expected: float = HOPE
    trials: int = 0
    errors: int = 0
    done: bool = False
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(trials, best seconds) whenever it became faster."""
    known: dict[Schedule, float] = field(default_factory=dict)
    """Seconds of what was tried: different points may be the same schedule."""
    earlier: dict[str, list[Record]] | None = None
    """Records by schedule, once a round has looked for them."""

    @property
    def ratio(self) -> float:
        """How many times as fast as the heuristic's schedule the best is."""
        return self.default / self.best if math.isfinite(self.best) else 1.0

    @property
    def promise(self) -> float:
        """Seconds of a run of the program that the next batch is expected to gain."""
        known = self.best if math.isfinite(self.best) else 1.0
        return self.calls * known * self.expected

    def round(self, bench: Bench, most: int, tell: Tell) -> None:
        """Propose, measure and observe a batch of at most so many."""
        size = max(FIRST, min(BATCH, self.trials // GROWTH))
        points, schedules = self._proposed(min(size, most))
        if not schedules:
            self.done = True
            return
        if self.earlier is None:
            self.earlier = bench.earlier(self.kernel, self.space)
        before = self.best
        tasks = [Task.of(self.kernel, s, bench.threads, LIMITS) for s in schedules]
        new = [t for t in tasks if t.schedule not in self.earlier]
        tried = 0
        with closing(bench.measured(self.kernel, new)) as measured:
            for schedule, task in zip(schedules, tasks, strict=True):
                is_new = task.schedule not in self.earlier
                if is_new:
                    self.earlier[task.schedule] = [next(measured)]
                self.known[schedule] = self._seconds(bench, task)
                self.trials += 1
                self.errors += not math.isfinite(self.known[schedule])
                tried += 1
                if tell(is_new):
                    break
        self._lead(bench, dict(zip(schedules[:tried], tasks, strict=False)))
        seconds = np.array([self.known[s] for s in schedules[:tried]])
        self.search.observe(points[:tried], seconds)
        gained = 1 - self.best / before if math.isfinite(before) else self.expected
        kept = FADING ** (tried / BATCH)
        self.expected = kept * self.expected + (1 - kept) * max(gained, 0.0)

    def _proposed(self, count: int) -> tuple[Points, list[Schedule]]:
        """Points that are legal and new, with their schedules. Others are observed: as failed, or
        as what the same schedule took."""
        found: dict[Schedule, Any] = {}
        for _ in range(4):
            points = self.search.propose(count - len(found))
            old: list[tuple[Any, float]] = []
            for p in points:
                try:
                    schedule = self.space.schedule(p)
                except ScheduleError:
                    old.append((p, math.inf))
                    continue
                if schedule in self.known:
                    old.append((p, self.known[schedule]))
                elif schedule != self.space.default:  # that one is measured beside all others
                    found.setdefault(schedule, p)
            if old:
                seconds = np.array([x for _, x in old])
                self.search.observe(np.array([p for p, _ in old]), seconds)
            if len(found) >= count or not len(points):
                break
        return np.array(list(found.values()), np.int64), list(found)

    def _begin(self, bench: Bench, first: Record) -> None:
        """Note what the default schedule takes, by the first record; and keep it as one of its own:
        what later compilers call the default may be another."""
        assert first.reference is not None and self.earlier is not None, "it was measured"
        self.default = self.best = first.reference
        self.curve.append((0, self.best))
        self.known[self.space.default] = self.default
        text = Task.of(self.kernel, self.space.default).schedule
        if text not in self.earlier:
            own = replace(first, schedule=text, seconds=first.reference)
            self.earlier[text] = [own]
            if bench.kept is not None:
                bench.kept.insert([own], [self.kernel])

    def _seconds(self, bench: Bench, task: Task) -> float:
        """What a task takes by all measurements, in seconds as if the default took what it took at
        first, since machines drift; infinite if one of them failed."""
        assert self.earlier is not None, "it was measured"
        found = self.earlier[task.schedule]
        if not all(r.seconds and r.reference for r in found):
            return math.inf
        if not math.isfinite(self.default):
            self._begin(bench, found[0])
        return median(r.ratio for r in found) * self.default

    def _lead(self, bench: Bench, tasks: dict[Schedule, Task]) -> None:
        """The fastest of a batch is the best so far if it still is when measured again."""
        assert self.earlier is not None, "it was measured"
        while (first := min(tasks, key=lambda s: self.known[s])) and self.known[first] < self.best:
            records = self.earlier[tasks[first].schedule]
            missing = CONFIRMED - len(records)
            if missing <= 0:
                self.best, self.schedule = self.known[first], first
                self.curve.append((self.trials, self.best))
                return
            records.extend(bench.measured(self.kernel, [tasks[first]] * missing))
            self.known[first] = self._seconds(bench, tasks[first])
