"""Tuning: schedules measured for the kernels of a program, and kept for every later compilation.

    print(tw.tune(f, *args, seconds=10))

Knows how a budget is shared among kernels, what the user sees meanwhile, and that whatever was
measured is in the database at once: an interrupt loses nothing, and going on with the same seed
takes what is there instead of measuring it again. Refuses to know how candidates are chosen
(`cost_model.search`) and measured (`cost_model.measure`).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

import numpy as np

from tilewright import loops
from tilewright.compile import Compiled, compile, machine
from tilewright.cost_model import corpus, encoding, features, measure, records
from tilewright.cost_model.choice import prior
from tilewright.cost_model.measure import Limits, Task
from tilewright.cost_model.model import Model
from tilewright.cost_model.records import Database, Record
from tilewright.cost_model.search import (
    EvolutionarySearch,
    GuidedSearch,
    Learner,
    Search,
    online_trainer,
)
from tilewright.cost_model.spaces import Points, Space, space
from tilewright.errors import ScheduleError
from tilewright.kernel import Kernel
from tilewright.transforms.schedule import Schedule

BATCH: Final = 16
"""Candidates of one kernel that are proposed and measured before the model is asked again."""
HOPE: Final = 0.3
"""Share of its time that a kernel is expected to lose in its first batch; what later batches did
gain, fading, is what is expected of the next."""
FADING: Final = 0.5


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

    @property
    def ratio(self) -> float:
        """How many times as fast as the heuristic's schedule the best is."""
        return self.default / self.best if math.isfinite(self.best) else 1.0

    @property
    def promise(self) -> float:
        """Seconds of a run of the program that the next batch is expected to gain."""
        known = self.best if math.isfinite(self.best) else 1.0
        return self.calls * known * self.expected


@dataclass(frozen=True)
class Tuning:
    """What tuning came to: print it. `interrupted`: by the user, with what was there."""

    kernels: tuple[Tuned, ...]
    seconds: float
    interrupted: bool

    @property
    def trials(self) -> int:
        return sum(t.trials for t in self.kernels)

    @property
    def before(self) -> float:
        """Seconds of all kernels of a run, by the heuristic's schedules."""
        return sum(t.calls * t.default for t in self.kernels if math.isfinite(t.default))

    @property
    def after(self) -> float:
        """Seconds of all kernels of a run, by the best schedules."""
        return sum(t.calls * min(t.best, t.default) for t in self.kernels if t.trials)

    def __str__(self) -> str:
        lines = [f"{'kernel':28} calls trials failed   before us    after us   gain  schedule"]
        for t in sorted(self.kernels, key=lambda t: -t.calls * t.default):
            if not math.isfinite(t.default):
                lines.append(f"{t.kernel.name[:28]:28} {t.calls:5} {t.trials:6} {t.errors:6}")
                continue
            chosen = "the heuristic's" if t.schedule is None else str(t.schedule)
            lines.append(
                f"{t.kernel.name[:28]:28} {t.calls:5} {t.trials:6} {t.errors:6} "
                f"{1e6 * t.default:11.2f} {1e6 * t.best:11.2f} {t.ratio:5.2f}x  {chosen}"
            )
        stopped = ", interrupted" if self.interrupted else ""
        lines.append(
            f"{self.trials} trials in {self.seconds:.1f} s{stopped}; the kernels of a run: "
            f"{1e6 * self.before:.1f} -> {1e6 * self.after:.1f} us"
        )
        return "\n".join(lines)


def tune(
    f: Callable[..., Any],
    *args: Any,
    seconds: float | None = None,
    trials: int | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    database: Database | None = None,
    model: Model | None = None,
    progress: TextIO | bool = True,
    seed: int = 0,
    **kwargs: Any,
) -> Tuning:
    """Search faster schedules for the kernels of `f(*args, **kwargs)` by measuring candidates.

    Candidates run in processes of their own; the model says which are worth it and learns from each
    batch. What is found is kept in the user's database and used by every later `compile` of equal
    kernels on an equal machine with as many threads; `f` itself, if it is compiled, compiles again
    when it is next called. Ctrl-C stops and keeps what is there; the same call goes on from it.

    **Arguments:** `seconds` or `trials`: the budget, of all kernels together (default: 20 seconds).
    `threads`: as for `compile`. `executor`: measures elsewhere, with those machines' own targets
    (`cost_model.measure`). `database`: another than the user's. `model`: another than the shipped
    one. `progress`: a stream for it, stderr if True, nothing if False. `seed`: decides which
    candidates are tried.

    **Returns** a `Tuning`: a table of kernels, times before and after, and schedules.

    **Raises:** what compiling `f` raises.
    """
    compiled = f if isinstance(f, Compiled) else compile(f, threads=threads)
    lowered = compiled.lower(*args, **kwargs)
    count = threads or lowered.threads
    calls = _calls(lowered.program)
    kept = records.database() if database is None else database
    target, trainer = machine(), online_trainer(compile)
    known = prior() if model is None else model
    founders = 0 if known is not None else BATCH
    basis = known or Model.blank(features.NAMES, features.VERSION)
    tuned: list[Tuned] = []
    for k in lowered.kernels:
        s = space(k, target, count)
        if s.holes:
            search = GuidedSearch(s, Learner(s, basis, trainer), seed, founders=founders)
            tuned.append(Tuned(k, calls.get(k.name, 1), s, search))
    if kept is not None and executor is None:
        kept.insert([], [], [encoding.Machine.here()])
    budget = _Budget(seconds, trials)
    status = _Status(lowered.name, sys.stderr if progress is True else progress or None)
    interrupted = False
    try:
        while not budget.spent and (left := [t for t in tuned if not t.done]):
            _round(max(left, key=lambda t: t.promise), budget, kept, executor, count, status, tuned)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        status.end()
    if isinstance(f, Compiled):
        f.clear_cache()
    return Tuning(tuple(tuned), budget.elapsed, interrupted)


def bench(
    kernels: Iterable[tuple[str, Kernel]] | None = None,
    *,
    each: int = 64,
    seconds: float | None = None,
    threads: int = 1,
    executor: Executor | None = None,
    database: Database | None = None,
    progress: TextIO | bool = True,
    seed: int = 0,
) -> int:
    """Collect measurements for a model to learn from: `each` schedules of every kernel, random ones
    at first, then children of the fastest.

    **Arguments:** `kernels`: names and kernels, those of `cost_model.corpus` by default. `seconds`
    ends it early. The others as for `tune`.

    **Returns** how many measurements were stored.
    """
    kept = records.database() if database is None else database
    if kernels is None:
        kernels = [(sample.name, sample.kernel) for sample in corpus.corpus()]
    pairs = list(kernels)
    if kept is not None and executor is None:
        kept.insert([], [], [encoding.Machine.here()])
    status = _Status("bench", sys.stderr if progress is True else progress or None)
    budget, stored, target = _Budget(seconds, each * len(pairs)), 0, machine()
    try:
        for name, k in pairs:
            if budget.spent:
                break
            s = space(k, target, threads)
            if not s.holes:
                continue
            t = Tuned(k, 1, s, EvolutionarySearch(s, seed))
            while t.trials < each and not t.done and not budget.spent:
                stored += _round(t, budget, kept, executor, threads, status, [t], each - t.trials)
            status.note(f"{name}: {t.trials} trials, {t.errors} failed, best {t.ratio:.2f}x")
    finally:
        status.end()
    return stored


# -- one round -----------------------------------------------------------------------------------


def _round(
    t: Tuned,
    budget: _Budget,
    kept: Database | None,
    executor: Executor | None,
    threads: int,
    status: _Status,
    every: Sequence[Tuned],
    most: int = BATCH,
) -> int:
    """Propose, measure and observe one batch of a kernel; how many measurements were stored."""
    points, schedules = _proposed(t, min(BATCH, most, budget.left))
    if not schedules:
        t.done = True
        return 0
    before = t.best
    tasks = [Task.of(t.kernel, s, threads, LIMITS) for s in schedules]
    earlier = _earlier(kept, t.kernel, threads, executor)
    new = [task for task in tasks if task.schedule not in earlier]
    measured = iter(measure.outcomes(new, executor))
    seconds = np.full(len(tasks), np.inf)
    stored = 0
    tried = 0
    for n, task in enumerate(tasks):
        record = earlier.get(task.schedule)
        if record is None:
            record = next(measured).record(task, features.VERSION)
            if kept is not None:
                stored += kept.insert([record], [t.kernel])
            budget.count += 1
        tried += 1
        seconds[n] = t.known[schedules[n]] = _noted(t, record, schedules[n])
        status.show(t, every, budget)
        if budget.late:
            break
    t.search.observe(points[:tried], seconds[:tried])
    gained = 1 - t.best / before if math.isfinite(before) else t.expected
    t.expected = FADING * t.expected + (1 - FADING) * max(gained, 0.0)
    return stored


LIMITS: Final = Limits()


def _proposed(t: Tuned, count: int) -> tuple[Points, list[Schedule]]:
    """Points that are legal and new, with their schedules. Others are observed: as failed, or as
    what the same schedule took."""
    found: dict[Schedule, Any] = {}
    for _ in range(4):
        points = t.search.propose(count - len(found))
        old: list[tuple[Any, float]] = []
        for p in points:
            try:
                schedule = t.space.schedule(p)
            except ScheduleError:
                old.append((p, math.inf))
                continue
            if schedule in t.known:
                old.append((p, t.known[schedule]))
            else:
                found.setdefault(schedule, p)
        if old:
            t.search.observe(np.array([p for p, _ in old]), np.array([x for _, x in old]))
        if len(found) >= count or not len(points):
            break
    return np.array(list(found.values()), np.int64), list(found)


def _earlier(
    kept: Database | None, kernel: Kernel, threads: int, executor: Executor | None
) -> dict[str, Record]:
    """What was measured before on this machine by this compiler, by the schedule's text."""
    if kept is None or executor is not None:
        return {}
    found = kept.records(encoding.key(kernel), encoding.machine_key(machine()), threads)
    compiler = measure.compiler_version()
    return {r.schedule: r for r in found if r.compiler == compiler}


def _noted(t: Tuned, r: Record, schedule: Schedule) -> float:
    """Write a measurement into the kernel's account; seconds as if the default took what it took at
    first, since machines drift."""
    t.trials += 1
    if r.error or r.seconds is None or r.reference is None:
        t.errors += 1
        return math.inf
    if not math.isfinite(t.default):
        t.default = t.best = r.reference
        t.curve.append((0, t.best))
    seconds = r.ratio * t.default
    if seconds < t.best:
        t.best, t.schedule = seconds, schedule
        t.curve.append((t.trials, seconds))
    return seconds


@dataclass
class _Budget:
    """Seconds or trials, or both."""

    seconds: float | None
    trials: int | None
    count: int = 0
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.seconds is None and self.trials is None:
            self.seconds = 20.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    @property
    def late(self) -> bool:
        return self.seconds is not None and self.elapsed >= self.seconds

    @property
    def left(self) -> int:
        """Trials, or a batch's where only time counts."""
        return BATCH if self.trials is None else max(self.trials - self.count, 0)

    @property
    def spent(self) -> bool:
        return self.late or self.left == 0


class _Status:
    """One line that is written over on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, name: str, stream: TextIO | None) -> None:
        self.name, self.stream, self.next, self.width = name, stream, 0.0, 0
        self.live = stream is not None and stream.isatty()

    def show(self, t: Tuned, every: Sequence[Tuned], budget: _Budget) -> None:
        now = time.monotonic()
        if self.stream is None or now < self.next:
            return
        self.next = now + (0.2 if self.live else 10.0)
        rate = budget.count / max(budget.elapsed, 1e-9)
        known = [k for k in every if math.isfinite(k.default)]
        before = sum(k.calls * k.default for k in known)
        after = sum(k.calls * k.best for k in known)
        of = f"/{budget.trials}" if budget.trials else ""
        text = (
            f"{self.name}: {budget.count}{of} trials, {rate:.0f}/s, {budget.elapsed:.0f} s | "
            f"{t.kernel.name} {1e6 * t.best:.1f} us, {t.ratio:.2f}x | "
            f"all {1e6 * before:.1f} -> {1e6 * after:.1f} us"
        )
        self._write(text)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self.stream is not None:
            self._write(text)
            if self.live:
                self.end()

    def _write(self, text: str) -> None:
        assert self.stream is not None, "somebody looks"
        if self.live:
            self.stream.write("\r" + text.ljust(self.width))
            self.width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        if self.stream is not None and self.live and self.width:
            self.stream.write("\n")
            self.width = 0


def _calls(program: loops.Program) -> dict[str, int]:
    """How often a run calls each function; loops whose rounds are known are counted in."""
    found: dict[str, int] = {}

    def visit(s: loops.Stmt, times: int) -> None:
        if isinstance(s, loops.Call):
            found[s.function] = found.get(s.function, 0) + times
        if isinstance(s, loops.For) and isinstance(s.axis.extent, int):
            times *= max(s.axis.extent, 1)
        for inner in s.inner:
            visit(inner, times)

    visit(program.entry.body, 1)
    return found
