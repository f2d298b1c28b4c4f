"""Explaining: why a kernel has the schedule it has, and what the next ones would have cost; which
algorithms compute what several could.

Knows where a choice came from, what was measured, predicted and is at least needed, and which terms
of a prediction tell two schedules apart. Refuses to choose (`choice`): it asks what chose, and what
it would have chosen next.

A prediction is a function of features. Its difference between two schedules is shared out among
them by its gradient, the mean along the straight line from one to the other, times the difference
of each feature: the shares add up to the whole (integrated gradients; Sundararajan, Taly and Yan,
ICML 2017). The roofline's difference is shared out among its terms in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any, Final

import numpy as np

from tilewright.cost_model import choice, encoding
from tilewright.cost_model.choice import LOOKED_AT, MARGIN, Choice, better
from tilewright.cost_model.deferred import Deferred
from tilewright.cost_model.features import EXPOSED, NAMES, TERMS, USUAL
from tilewright.cost_model.model import Model, correction, standardised
from tilewright.cost_model.records import ranked
from tilewright.cost_model.spaces import Space, space
from tilewright.cost_model.standing import standing
from tilewright.errors import BadDatabase
from tilewright.graph import Graph
from tilewright.kernel import Kernel
from tilewright.options import Options, show
from tilewright.roofline import Rates, Work, work_of
from tilewright.target import Target
from tilewright.transforms import pipeline
from tilewright.transforms.alternatives import Computation, by_count
from tilewright.transforms.assemble import Scheduler
from tilewright.transforms.autodiff import grad
from tilewright.transforms.schedule import Schedule, Tensorize

NEXT: Final = 3
"""Candidates that are shown after the chosen schedule."""
MOST_REASONS: Final = 3
LEAST: Final = 0.0005
"""Share of a time below which a feature is no reason: it would print as nothing."""
STEPS: Final = 64
"""Places on the line between two schedules at which the gradient is taken."""
FINE: Final = 1024
"""The same for the roofline, whose gradient jumps where another term becomes the largest."""


@dataclass(frozen=True)
class Reason:
    """A feature, or a term of the roofline in seconds, of the chosen schedule and of another, and
    by what it multiplies the predicted time."""

    name: str
    chosen: float
    other: float
    factor: float

    def __str__(self) -> str:
        told = _time if self.name in TERMS else "{:.3g}".format
        values = f"{told(self.chosen)} -> {told(self.other)}"
        return f"{self.name} {values} ({_change(self.factor)})"


@dataclass(frozen=True)
class Candidate:
    """A schedule that was not chosen: seconds predicted, seconds measured if it was, the reasons
    for which it is predicted otherwise than the chosen one, and whether it is the heuristic's."""

    schedule: Schedule
    predicted: float
    measured: float | None
    reasons: tuple[Reason, ...]
    default: bool


@dataclass(frozen=True)
class Explanation:
    """What is known of the choice for one kernel; prints as a paragraph. Times in seconds;
    `origin` says what chose, `judge` what predicts, `rates` whose rates the bound is at."""

    kernel: Kernel
    schedule: Schedule
    origin: str
    judge: str
    predicted: float
    measured: float | None
    trials: int
    gain: float | None  # how many times as fast as the heuristic's schedule, as measured
    work: Work
    bound: tuple[float, str]
    rates: str
    next: tuple[Candidate, ...]

    def __str__(self) -> str:
        operations = sum(self.work.operations.values())
        least, roof = self.bound
        share = f"{least / (self.measured or self.predicted):.0%} of the roof"
        share += " predicted" if self.measured is None else " reached"
        none = ", no model is loaded" if self.judge == ROOFLINE else ""
        lines = [
            f"{self.kernel.name}: {operations:,.0f} operations, {self.work.moved:,.0f} bytes",
            f"  schedule   {self.schedule!r}",
            f"  chosen by  {self.origin}",
            f"  predicted  {_time(self.predicted)} by {self.judge}{none}",
            f"  measured   {self._measured()}",
            f"  bound      {_time(least)}, {ROOFS[roof]}, at {self.rates}: {share}",
        ]
        if not self.next:
            return "\n".join([*lines, "  next       nothing: there is one schedule"])
        for n, c in enumerate(self.next):
            told = f"{_time(c.predicted)} predicted ({_change(c.predicted / self.predicted)})"
            told += "" if c.measured is None else f", {_time(c.measured)} measured"
            told += ", the heuristic's" if c.default else ""
            why = "; ".join(map(str, c.reasons)) or f"no difference to {self.judge}"
            lines += [f"  {'' if n else 'next':9}  {told}: {c.schedule!r}", f"{'':15}{why}"]
        return "\n".join(lines)

    def _measured(self) -> str:
        if self.measured is None:
            return "never on this machine" if not self.trials else f"not it: {self.trials} others"
        return f"{_time(self.measured)}, {self.gain:.2f}x the heuristic's speed"


ROOFLINE: Final = "the roofline"
ROOFS: Final = {
    "flop": "arithmetic",
    "l2": "bytes from the level 2 cache",
    "l3": "bytes from the level 3 cache",
    "dram": "bytes from memory",
}
"""What the names of roofs mean (`roofline.Work.bound`)."""


def explained(
    scheduled: Iterable[tuple[Kernel, Schedule]],
    scheduler: Scheduler | None,
    target: Target,
    threads: int,
    rates: Rates | None = None,
) -> list[Explanation]:
    """Why the kernels of a program, compiled for a target and so many threads by a scheduler (None:
    the heuristic), have their schedules.

    `rates` are the machine's, measured (`roofline.measured`); without them bounds are at those of
    a usual one.
    """
    if isinstance(scheduler, Deferred):
        scheduler = scheduler.choice
    asked = scheduler if isinstance(scheduler, Choice) else choice.chooser(target, threads)
    asked = asked or Choice(target, threads)
    at = f"the measured rates of {_threads(threads)}"
    if rates is None:
        rates, at = usual(threads), f"the usual rates of {_threads(threads)}"
    return [_Account(k, s, scheduler, asked).told(rates, at) for k, s in scheduled]


def usual(threads: int) -> Rates:
    """The rates that features assume, of so many threads (their sum; memory is shared)."""
    m, flops = USUAL, USUAL.flops * threads
    return Rates(
        threads, flops, flops / 2, 4 * flops, 2 * flops, m.l2_rate * threads, m.l3_rate * threads,
        m.dram_rate, (m.l2_bytes, m.l3_bytes),
    )  # fmt: skip


# -- algorithms ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Algorithm:
    """By what something is computed that several algorithms compute, and what said so: prints as a
    paragraph. `measured` has the times as long as the first of them takes, of those whose times the
    user's database knows."""

    computation: Computation
    name: str
    origin: str
    measured: Mapping[str, float]

    def __str__(self) -> str:
        c = self.computation
        others = [self._told(n) for n in c.algorithms if n != self.name]
        return "\n".join([
            f"{c.op.name} {', '.join(map(repr, c.types))}",
            f"  algorithm  {self._told(self.name)}",
            f"  chosen by  {self.origin}",
            f"  others     {'; '.join(others)}",
        ])  # fmt: skip

    def _told(self, name: str) -> str:
        ratio = self.measured.get(name)
        if ratio is None:
            return name
        first = self.computation.algorithms[0]
        return f"{name} (measured: {1 / ratio:.2f}x the speed of {first})"


def algorithms(
    graph: Graph, options: Options, scheduler: Scheduler | None, target: Target, threads: int
) -> list[Algorithm]:
    """Which algorithms are taken for what of a graph, as it was traced, has several, compiled for a
    target and so many threads by a scheduler (None: by count)."""
    if isinstance(scheduler, Deferred):
        scheduler = scheduler.choice
    asked = scheduler if isinstance(scheduler, Choice) else Choice(target, threads)
    choose = getattr(scheduler, "algorithm", None) or by_count
    found = []
    for c in pipeline.computations(graph, options, target):
        name = choose(c)
        origin = "a count of cycles: they were not all measured"
        if name is not None:
            given = not isinstance(scheduler, Choice)
            origin = "the scheduler that was given" if given else "measurements: the fastest of all"
        found.append(Algorithm(c, name or c.counted, origin, asked.algorithms(c)))
    return found


# -- one kernel ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """What the database has of a kernel, on this machine with as many threads: by each schedule's
    text the times as long as the default schedule took, and that one's seconds."""

    ratios: dict[str, list[float]] = field(default_factory=dict)
    references: list[float] = field(default_factory=list)

    def seconds(self, kernel: Kernel, schedule: Schedule, default: Schedule) -> float | None:
        """As if the default took what it took at the median, since machines drift."""
        ratio = self.ratio(kernel, schedule)
        if ratio is None and schedule == default and self.references:
            ratio = 1.0
        return None if ratio is None else ratio * median(self.references)

    def ratio(self, kernel: Kernel, schedule: Schedule) -> float | None:
        found = self.ratios.get(encoding.portable(kernel, schedule).to_json())
        return standing(found).ratio if found else None


class _Account:
    """What is looked up, once each, to explain one kernel's schedule."""

    def __init__(
        self, kernel: Kernel, schedule: Schedule, scheduler: Scheduler | None, asked: Choice
    ) -> None:
        self.kernel, self.schedule, self.scheduler, self.choice = kernel, schedule, scheduler, asked
        self.space = space(kernel, asked.target, asked.threads)
        self.options = asked.options(self.space, LOOKED_AT, NEXT + 1)
        self.measured, self.best = _Measured(), list[Schedule]()
        try:
            self._look_up()
        except BadDatabase as e:
            show("tune", e)

    def _look_up(self) -> None:
        kept = self.choice.database
        if kept is None:
            return
        machine, threads = encoding.machine_key(self.choice.target), self.choice.threads
        for r in kept.records(encoding.key(self.kernel), machine, threads):
            if math.isfinite(r.ratio) and r.reference is not None:
                self.measured.ratios.setdefault(r.schedule, []).append(r.ratio)
                self.measured.references.append(r.reference)
        measured = kept.quotients(self.kernel, machine, threads)
        known = ranked(self.kernel, measured, self.space.default)
        self.best = [s for s, _ in islice(known, NEXT + 1)]

    def told(self, rates: Rates, at: str) -> Explanation:
        others = self._others()
        places = [_place(self.space, s) for s in (self.schedule, *others)]
        first, *predicted = (float(np.exp(p.log_seconds(self.choice))) for p in places)
        seconds = self._seconds(self.schedule)
        default = self._seconds(self.space.default)
        work = work_of(self.kernel)
        candidates = [
            Candidate(s, p, self._seconds(s), reasons, s == self.space.default)
            for s, p, reasons in zip(
                others, predicted, _reasons(self.choice.model, places), strict=True
            )
        ]
        return Explanation(
            self.kernel,
            self.schedule,
            self._origin(),
            ROOFLINE if self.choice.model is None else "the model",
            first,
            seconds,
            len(self.measured.ratios),
            None if seconds is None or default is None else default / seconds,
            work,
            work.bound(rates),
            at,
            tuple(candidates),
        )

    def _seconds(self, schedule: Schedule) -> float | None:
        return self.measured.seconds(self.kernel, schedule, self.space.default)

    def _others(self) -> list[Schedule]:
        """What was fastest when it was measured, then what is expected to be."""
        options = sorted(self.options, key=lambda o: o.seconds)
        every = dict.fromkeys([*self.best, *(o.schedule for o in options)])
        return [s for s in every if s != self.schedule][:NEXT]

    def _origin(self) -> str:
        """What chose the schedule. A chooser that would choose otherwise now has learned since."""
        c = self.choice
        if self.scheduler is None:
            return "the heuristic: nothing was measured, and no model is loaded"
        if not isinstance(self.scheduler, Choice):
            return f"the scheduler that was given, {_name(self.scheduler)}"
        measured = c.measured(self.kernel)
        expected = None if c.model is None else better(self.options)
        if self.schedule != (measured or expected or self.space.default):
            return "what was known when it was compiled: today it would be another"
        if measured is not None:
            return f"measurements: the fastest of {len(self.measured.ratios)} that were measured"
        if expected is not None:
            return "the model: nothing was measured"
        known = "no model is loaded"
        if c.model is not None:
            known = f"the model expects less than {math.exp(MARGIN) - 1:.0%} from others"
        return f"the heuristic: nothing was measured, and {known}"


def _name(scheduler: Scheduler) -> str:
    return getattr(scheduler, "__qualname__", type(scheduler).__qualname__)


# -- predictions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a schedule is in the eyes of who judges it: its space and walk, features float32 [F],
    seconds of the roofline and of its terms, float64 [len(TERMS)]."""

    space: Space
    walks: Any
    features: Any
    seconds: float
    terms: Any

    def log_seconds(self, asked: Choice) -> float:
        return float(asked.judge(self.space, self.walks)[0])


def _place(s: Space, schedule: Schedule) -> _Place:
    """A schedule that sums by other words than the space's has other axes: it is one by itself."""
    if tuple(x for x in schedule.steps if isinstance(x, Tensorize)) != s.words:
        s = Space(s.kernel, s.target, s.threads, schedule)
    walks = s.walks_of([schedule])
    x = s.extractor
    return _Place(s, walks, x(walks)[0], float(x.seconds(walks)[0]), x.terms(walks)[0])


def _reasons(model: Model | None, places: Sequence[_Place]) -> list[tuple[Reason, ...]]:
    """For every place after the first, what makes its prediction another, the largest first."""
    first, *others = places
    found: list[list[Reason]] = []
    for p in others:
        terms = _term_shares(first, p)
        found.append(_listed(TERMS, first.terms, p.terms, terms))
    if model is not None and others:
        shares = _feature_shares(model, first.features, [p.features for p in others])
        for reasons, p, share in zip(found, others, shares, strict=True):
            reasons += _listed(NAMES, first.features, p.features, share)
    ranked = [sorted(r, key=lambda x: -abs(math.log(x.factor))) for r in found]
    return [tuple(x for x in r[:MOST_REASONS] if abs(math.log(x.factor)) >= LEAST) for r in ranked]


def _listed(names: Sequence[str], a: Any, b: Any, shares: Any) -> list[Reason]:
    rows = zip(names, a.tolist(), b.tolist(), np.exp(shares).tolist(), strict=True)
    return [Reason(*row) for row in rows]


def _term_shares(a: _Place, b: _Place) -> Any:
    """What each term of the roofline adds to the logarithm of the time from a to b: the gradient is
    1 for the largest and `EXPOSED` for the others, over the seconds there."""
    line = a.terms + (np.arange(FINE)[:, None] + 0.5) / FINE * (b.terms - a.terms)
    largest = line == line.max(1, keepdims=True)
    slope = np.where(largest, 1.0, EXPOSED) / _roof(line)[:, None]
    return slope.mean(0) * (b.terms - a.terms)


def _roof(terms: Any) -> Any:
    most = terms.max(1)
    return most + EXPOSED * (terms.sum(1) - most)


def _feature_shares(model: Model, a: Any, others: Sequence[Any]) -> Any:
    """What each feature adds to the logarithm of the predicted time: float32 [n, F]."""
    start = standardised(a[None], model.mean, model.scale)
    ends = standardised(np.stack(others), model.mean, model.scale)
    count = len(others)
    ends = np.concatenate([ends, np.repeat(start, NEXT - count, 0)])  # one program for all counts
    at = ((np.arange(STEPS, dtype=np.float32) + 0.5) / STEPS)[:, None, None]
    line = (start + at * (ends - start)).reshape(STEPS * NEXT, -1)
    slope = grad(_total)(line, model.params)
    shares = slope.reshape(STEPS, NEXT, -1).mean(0) * (ends - start)
    return shares[:count]


def _total(x: Any, params: Any) -> Any:
    return correction(params, x).sum()


# -- words -----------------------------------------------------------------------------------------


def _time(seconds: float) -> str:
    """Three digits at least, in ns, us or ms."""
    for unit, size in (("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return _digits(seconds / size) + " " + unit
    return _digits(seconds / 1e-9) + " ns"


def _digits(x: float) -> str:
    return f"{x:,.{max(0, 2 - math.floor(math.log10(x)))}f}" if x > 0 else "0"


def _change(factor: float) -> str:
    return f"{factor - 1:+.1%}" if abs(factor - 1) >= LEAST else "the same"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
