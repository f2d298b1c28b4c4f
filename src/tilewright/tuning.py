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
from tilewright.compile import Compiled, Lowered, compile, machine
from tilewright.cost_model import algorithms, corpus, encoding, features, records
from tilewright.cost_model.choice import Choice, prior
from tilewright.cost_model.inverse import points_of
from tilewright.cost_model.model import Model
from tilewright.cost_model.records import Database, Timing
from tilewright.cost_model.rounds import BATCH, Bench, Tell, Tuned
from tilewright.cost_model.search import SEARCHES, EvolutionarySearch, Learner, online_trainer
from tilewright.cost_model.spaces import space
from tilewright.cost_model.transfer import fitted
from tilewright.errors import BadBudget, BadSearch, NotAFunction
from tilewright.kernel import Kernel
from tilewright.transforms import pipeline

MANY: Final = 1 << 30
"""Trials."""


@dataclass(frozen=True)
class Tuning:
    """What tuning came to: print it. `interrupted`: by the user, with what was there."""

    kernels: tuple[Tuned, ...]
    seconds: float
    interrupted: bool
    algorithms: tuple[Timing, ...] = ()
    """Of convolutions and attentions, those that were measured now."""

    @property
    def trials(self) -> int:
        return sum(t.trials for t in self.kernels) + len(self.algorithms)

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
        for t in self.algorithms:
            ratio = t.reference / t.seconds
            lines.append(f"{t.algorithm}: {1e6 * t.seconds:.1f} us, {ratio:.2f}x: {t.convolution}")
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
    search: str = "guided",
    seed: int = 0,
    **kwargs: Any,
) -> Tuning:
    """Search faster schedules for the kernels of `f(*args, **kwargs)` by measuring candidates, and
    the fastest algorithm for each convolution and attention that has several.

    Candidates run in processes of their own; the model says which are worth it and learns from each
    batch. What is found is kept in the user's database and used by every later `compile` of equal
    kernels on an equal machine with as many threads; `f` itself, if it is compiled, compiles again
    when it is next called. Ctrl-C stops and keeps what is there; the same call goes on from it.
    Algorithms are measured first, each as a program of its own in this process and as one trial,
    unless an executor measures elsewhere.

    **Arguments:** `seconds` or `trials`: the budget, of all kernels together (default: 20 seconds);
    a trial is a measurement, and what may lead is measured several times before it does; with 0
    nothing is measured, and what is known is used.
    `threads`: as for `compile`. `executor`: measures elsewhere, with those machines' own targets
    (`cost_model.measure`). `database`: another than the user's. `model`: another than the shipped
    one. `progress`: a stream for it, stderr if True, nothing if False. `search`: how candidates are
    chosen, one of `SEARCHES` (`cost_model.search`). `seed`: decides which candidates are tried.

    **Returns** a `Tuning`: a table of kernels, times before and after, and schedules.

    **Raises:** `NotAFunction`, `BadBudget`, `BadSearch`, and what compiling `f` raises.
    """
    if not callable(f):
        raise NotAFunction(f, "tune")
    if search not in SEARCHES:
        raise BadSearch(search, tuple(SEARCHES))
    budget = _Budget(seconds, trials)
    kept = records.database() if database is None else database
    if kept is not None and executor is None:
        kept.insert([], [], [encoding.Machine.here()])
        budget.start = time.monotonic()  # a machine's rates are measured once, at nobody's expense
    compiled = f if isinstance(f, Compiled) else compile(f, threads=threads)
    lowered = compiled.lower(*args, **kwargs)
    count = threads or lowered.threads
    timings: list[Timing] = []
    interrupted = False
    if kept is not None and executor is None:
        interrupted = _time_algorithms(lowered, kept, count, budget, timings)
        if timings:
            compiled.clear_cache()
            lowered = compiled.lower(*args, **kwargs)
    calls = _calls(lowered.program)
    target, trainer = machine(), online_trainer(compile)
    known = prior() if model is None else model
    founders = 0 if known is not None else BATCH
    basis = known or Model.blank(features.NAMES, features.VERSION)
    if kept is not None and executor is None:
        basis = fitted(basis, kept, target, count, compile)
    basis = basis.on(features.told(target))
    tuned: list[Tuned] = []
    for k in lowered.kernels:
        s = space(k, target, count)
        if s.holes:
            start = points_of(s, s.default)
            found = SEARCHES[search](s, Learner(s, basis, trainer), seed, start, founders, compile)
            tuned.append(Tuned(k, calls.get(k.name, 1), s, found))
    bench = Bench(kept, executor, count)
    status = _Status(lowered.name, sys.stderr if progress is True else progress or None)
    try:
        while not (interrupted or budget.spent) and (left := [t for t in tuned if not t.done]):
            t = max(left, key=lambda t: t.promise)
            t.round(bench, budget.left, _teller(status, t, tuned, budget))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        status.end()
    if isinstance(f, Compiled):
        f.clear_cache()
    return Tuning(tuple(tuned), budget.elapsed, interrupted, tuple(timings))


def _time_algorithms(
    lowered: Lowered, kept: Database, threads: int, budget: _Budget, found: list[Timing]
) -> bool:
    """Measure the algorithms of what has several, if they were not measured on this machine;
    whether the user interrupted. Where the user gave a scheduler, that decides."""
    program, target = lowered.entry.program, machine()
    if program.scheduler is not None and not hasattr(program.scheduler, "algorithm"):
        return False
    choice = Choice(target, threads, kept)
    try:
        for c in pipeline.computations(lowered.graph, program.options, target):
            known = kept.algorithms(c.text, encoding.machine_key(target), threads)
            enough = budget.trials is None or budget.left >= len(c.algorithms)
            if known.keys() >= set(c.algorithms) or budget.spent or not enough:
                continue
            timings = algorithms.timed(c, choice, compile)
            kept.time(timings)
            found += timings
            budget.count += len(timings)
    except KeyboardInterrupt:
        return True
    return False


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

    **Returns** how many schedules were measured.
    """
    kept = records.database() if database is None else database
    if kernels is None:
        kernels = [(sample.name, sample.kernel) for sample in corpus.corpus()]
    pairs = list(kernels)
    if kept is not None and executor is None:
        kept.insert([], [], [encoding.Machine.here()])
    status = _Status("bench", sys.stderr if progress is True else progress or None)
    budget, where = _Budget(seconds, each * len(pairs)), Bench(kept, executor, threads)
    try:
        for name, k in pairs:
            if budget.spent:
                break
            s = space(k, machine(), threads)
            if not s.holes:
                continue
            t = Tuned(k, 1, s, EvolutionarySearch(s, seed), certain=False)
            tell = _teller(status, t, [t], budget)
            while t.trials < each and not t.done and not budget.spent:
                t.round(where, min(budget.left, each - t.trials), tell)
            best = t.default / min(t.known.values(), default=t.default)
            status.note(f"{name}: {t.trials} trials, {t.errors} failed, best {best:.2f}x")
    finally:
        status.end()
    return budget.count


# -- budget and progress ---------------------------------------------------------------------------


@dataclass
class _Budget:
    """Seconds or trials, or both."""

    seconds: float | None
    trials: int | None
    count: int = 0
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for name, value, kinds in (
            ("seconds", self.seconds, (int, float)),
            ("trials", self.trials, (int, np.integer)),
        ):
            if value is not None and not (isinstance(value, kinds) and value >= 0):
                raise BadBudget(name, value)
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
        """Trials; more than there can be where only time counts."""
        return MANY if self.trials is None else max(self.trials - self.count, 0)

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


def _teller(status: _Status, t: Tuned, every: Sequence[Tuned], budget: _Budget) -> Tell:
    """Counts the trials of a kernel, shows them, and says when time is up."""

    def tell(is_new: bool) -> bool:
        budget.count += is_new
        status.show(t, every, budget)
        return budget.late

    return tell


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
