"""Rounds: the schedules of one kernel, proposed, measured and kept.

Knows that a schedule is proposed once, that what a database has is not measured again, and that
what may lead is measured again, batches apart, until it surely does or does not (`standing`): each
of these measurements is a trial as well. Refuses to know how candidates are chosen (`search`), how
they are measured (`measure`), and how kernels share a budget (`tilewright.tuning`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from tilewright.cost_model import encoding, features, measure
from tilewright.cost_model.measure import Limits, Task
from tilewright.cost_model.records import Database, Record
from tilewright.cost_model.search import Search
from tilewright.cost_model.spaces import Space
from tilewright.cost_model.standing import compared, standing
from tilewright.errors import ScheduleError
from tilewright.kernel import Kernel
from tilewright.transforms.schedule import Schedule

BATCH: Final = 16
FIRST: Final = 4
GROWTH: Final = 4
"""Candidates of one kernel that are proposed and measured before the model is asked again: of all
that were measured so far one part in `GROWTH`, at least `FIRST` and at most `BATCH`. The first few
teach it most, and later asking costs more than it gains."""
DOUBTED: Final = 0.5
"""Share of a batch that may go to what may lead and is measured again: twice in a batch, at its
beginning and its end, since what disturbs a measurement lasts longer than one."""
WORTH: Final = 0.002
"""What it must be faster by than what leads, to be measured again."""
ENOUGH: Final = 10
"""Measurements of a schedule after which it leads or does not."""
CERTAIN: Final = 40
"""Measurements of what leads after which it is not measured beside others any more."""
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
    """(trials, seconds of what leads) whenever that became another schedule."""
    known: dict[Schedule, float] = field(default_factory=dict)
    """Seconds of what was tried: different points may be the same schedule."""
    ratios: dict[Schedule, list[float]] = field(default_factory=dict)
    """Quotients by the default schedule's time, as they were measured; inf where that failed."""
    points: dict[Schedule, Any] = field(default_factory=dict)
    """Those that made what was tried."""
    certain: bool = True
    """Whether to measure again what may lead; else many schedules are measured once."""
    earlier: dict[str, list[Record]] | None = None
    """Records by schedule that no trial has taken yet, once a round has looked for them."""

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
        size = min(max(FIRST, min(BATCH, self.trials // GROWTH)), most)
        # What is new in the last batch can lead no more, so as many as confirm it are left.
        again = self._doubted(size if most - size < FIRST else int(DOUBTED * size))
        left = most - FIRST if most > FIRST else most
        schedules = self._proposed(max(min(size, left) - len(again), 0))
        if not schedules and not again:
            self.done = True
            return
        half = len(again) // 2
        before, first = self.best, self.trials
        self._measure(bench, [*again[:half], *schedules, *again[half:][::-1]], tell)
        self._lead()
        tried = [
            s for s in dict.fromkeys([*again, *schedules]) if s in self.points and s in self.known
        ]
        if tried:
            seconds = np.array([self.known[s] for s in tried])
            self.search.observe(np.array([self.points[s] for s in tried]), seconds)
        gained = 1 - self.best / before if math.isfinite(before) else self.expected
        kept = FADING ** ((self.trials - first) / BATCH)
        self.expected = kept * self.expected + (1 - kept) * max(gained, 0.0)

    def _measure(self, bench: Bench, schedules: Sequence[Schedule], tell: Tell) -> None:
        """Measure schedules in their order, or take what was measured earlier."""
        if self.earlier is None:
            self.earlier = bench.earlier(self.kernel, self.space)
        tasks = [Task.of(self.kernel, s, bench.threads, LIMITS) for s in schedules]
        records: list[Record | None] = []
        for task in tasks:
            left = self.earlier.get(task.schedule)
            records.append(left.pop(0) if left else None)
        new = [t for t, r in zip(tasks, records, strict=True) if r is None]
        with closing(bench.measured(self.kernel, new)) as measured:
            for schedule, known in zip(schedules, records, strict=True):
                self._note(bench, schedule, next(measured) if known is None else known)
                if tell(known is None):
                    break

    def _proposed(self, count: int) -> list[Schedule]:
        """The schedules of points that are legal and new. Others are observed: as failed, or as
        what the same schedule took."""
        found: dict[Schedule, Any] = {}
        for _ in range(4):
            if len(found) >= count:
                break
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
                elif schedule == self.space.default:  # that one is measured beside all others
                    self.points[schedule] = p
                else:
                    found.setdefault(schedule, p)
            if old:
                seconds = np.array([x for _, x in old])
                self.search.observe(np.array([p for p, _ in old]), seconds)
            if not len(points):
                break
        self.points |= found
        return list(found)

    def _begin(self, bench: Bench, first: Record) -> None:
        """Note what the default schedule takes, by the first record; and keep it as one of its own:
        what later compilers call the default may be another."""
        assert first.reference is not None and self.earlier is not None, "it was measured"
        self.default = self.best = first.reference
        self.curve.append((0, self.best))
        self.known[self.space.default] = self.default
        self.ratios[self.space.default] = [1.0]
        point = self.points.get(self.space.default)
        if point is not None:
            self.search.observe(point[None], np.array([self.default]))
        text = Task.of(self.kernel, self.space.default).schedule
        known = self.earlier.setdefault(text, [])
        if known:
            known.pop(0)  # that record, of a search before
        elif bench.kept is not None:
            own = replace(first, schedule=text, seconds=first.reference)
            bench.kept.insert([own], [self.kernel])

    def _note(self, bench: Bench, schedule: Schedule, record: Record) -> None:
        """A trial. Seconds are as if the default took what it took at first: machines drift."""
        failed = not (record.seconds and record.reference)
        if not failed and not math.isfinite(self.default):
            self._begin(bench, record)
        ratios = self.ratios.setdefault(schedule, [])
        ratios.append(math.inf if failed else record.ratio)
        self.known[schedule] = math.inf if failed else standing(ratios).ratio * self.default
        self.trials += 1
        self.errors += failed

    def _lead(self) -> None:
        """The schedule of the lowest bound leads."""
        if not math.isfinite(self.default):
            return
        every = compared(self.ratios, self.space.default)
        first = min(every, key=lambda s: every[s].order)
        self.best = every[first].ratio * self.default
        led = None if first == self.space.default else first
        if led != self.schedule:
            self.schedule = led
            self.curve.append((self.trials, self.best))

    def _doubted(self, most: int) -> list[Schedule]:
        """What may be faster than what leads, of that what looks best, and what leads itself, the
        default schedule as well: all of them are compared with it. Each twice if there are so many
        measurements."""
        if not self.certain:
            return []
        every = compared(self.ratios, self.space.default)
        leader = self.schedule or self.space.default
        limit = every[leader].ratio * (1 - WORTH)
        doubted = [s for s, x in every.items() if x.ratio < limit and x.count < ENOUGH]
        found = sorted(doubted, key=lambda s: every[s].ratio)
        if found and len(self.ratios.get(leader, ())) < CERTAIN:
            found.insert(1, leader)
        found = found[: max(most // 2, 2)]
        return [*found, *found][:most]
