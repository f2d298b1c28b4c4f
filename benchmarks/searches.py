"""Searches, measured: what few trials reach of many, and best so far against trials.

Commands of `benchmarks.tuning`. Everything measured goes to a database at once, and what is there
is taken from it: an interrupted run goes on where it stopped. A *trial* is a schedule that was
measured and that the same search had not had before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

import tilewright as tw
from tilewright.cost_model import corpus, encoding, measure
from tilewright.cost_model.choice import Choice
from tilewright.cost_model.corpus import Sample
from tilewright.cost_model.features import NAMES, VERSION
from tilewright.cost_model.measure import Task
from tilewright.cost_model.model import Model, load
from tilewright.cost_model.records import Database
from tilewright.cost_model.search import (
    EvolutionarySearch,
    GuidedSearch,
    Learner,
    RandomSearch,
    Search,
    online_trainer,
)
from tilewright.cost_model.spaces import Space, space
from tilewright.cost_model.training import Trainer
from tilewright.errors import ScheduleError
from tilewright.kernel import Kernel
from tilewright.target import host
from tilewright.transforms.schedule import Schedule

FEW = (16, 64)
"""Trials whose worth is reported."""
FINAL = 8
"""So many of the fastest of a long search are measured again, with what few trials found."""
AGAIN = 9
"""Measurements of each of those; the median counts: the fastest of many is also the luckiest."""
FIGURE = (
    "resnet18 (1, 64, 56, 56) 128x3x3 /2.0",
    "resnet50 (1, 512, 28, 28) 256x1x1.0",
    "dilated (2, 28, 24, 24) 41x3x3 *4.0",
    "product 400x537x600.0",
    "bert projections 128x768x2304.0",
)
"""The figure's kernels: three convolutions and two products of the held-out part."""


def say(line: str) -> None:
    print(line, flush=True)


def known(args: argparse.Namespace) -> Model:
    """The model in a file. Ends the program if there is none."""
    found = load(args.model, NAMES, VERSION)
    if found is None:
        sys.exit(f"no trusted model in {args.model}: run `train`, or see TILEWRIGHT_SHOW=tune")
    return found


@dataclass
class Trace:
    """What a search has found: ratios to the default schedule's time, by schedule, in the order of
    the trials."""

    tried: dict[Schedule, float] = field(default_factory=dict)

    @property
    def curve(self) -> list[float]:
        """The best ratio after every trial; the default schedule is there from the beginning."""
        return np.minimum.accumulate([1.0, *self.tried.values()])[1:].tolist()

    def fastest(self, k: int, trials: int | None = None) -> list[Schedule]:
        """The k fastest of the first trials."""
        first = list(self.tried)[:trials]
        return sorted(first, key=lambda s: self.tried[s])[:k]


class Bench:
    """Measures schedules of a kernel, or takes what a database has of them."""

    def __init__(self, kernel: Kernel, kept: Database) -> None:
        self.kernel, self.kept = kernel, kept
        of = encoding.key(kernel), encoding.machine_key(host()), 1
        self.earlier = {r.schedule: r.ratio for r in kept.records(*of)}

    def ratios(self, schedules: Sequence[Schedule]) -> list[float]:
        """Quotients of the schedules' times and the default's; infinite for those that fail."""
        tasks = [Task.of(self.kernel, s) for s in schedules]
        new = [t for t in tasks if t.schedule not in self.earlier]
        found = [o.record(t, VERSION) for t, o in zip(new, measure.outcomes(new), strict=True)]
        self.kept.insert(found, [self.kernel] * len(found))
        self.earlier |= {r.schedule: r.ratio for r in found}
        return [self.earlier[t.schedule] for t in tasks]

    def trace(self, found: Search, s: Space, trials: int, batch: int = 16) -> Trace:
        """What a search finds in so many trials."""
        trace = Trace()
        while len(trace.tried) < trials:
            points = found.propose(min(batch, trials - len(trace.tried)))
            if not len(points):
                break
            legal = [(p, c) for p in points if (c := _schedule(s, p)) is not None]
            new = list(dict.fromkeys(c for _, c in legal if c not in trace.tried))
            trace.tried |= dict(zip(new, self.ratios(new), strict=True))
            seconds = {p.tobytes(): trace.tried[c] for p, c in legal}
            found.observe(points, np.array([seconds.get(p.tobytes(), np.inf) for p in points]))
        return trace

    def again(self, schedules: Sequence[Schedule]) -> dict[Schedule, float]:
        """Medians of several measurements of each, in turns."""
        distinct = list(dict.fromkeys(schedules))
        tasks = [Task.of(self.kernel, s) for _ in range(AGAIN) for s in distinct]
        ratios = [o.ratio or np.inf for o in measure.outcomes(tasks)]
        return {s: median(ratios[n :: len(distinct)]) for n, s in enumerate(distinct)}


def _schedule(s: Space, point: np.ndarray) -> Schedule | None:
    try:
        return s.schedule(point)
    except ScheduleError:
        return None


def search(how: str, model: Model, s: Space, seed: int, trainer: Trainer) -> Search:
    """A search by name."""
    if how == "random":
        return RandomSearch(s, seed)
    if how == "evolutionary":
        return EvolutionarySearch(s, seed)
    if how == "model":
        return GuidedSearch(s, Learner(s, model, trainer), seed)
    untaught = Model.blank(NAMES, VERSION)
    return GuidedSearch(s, Learner(s, untaught, trainer), seed, founders=16)


def held_out(args: argparse.Namespace) -> list[Sample]:
    """Kernels of the test part that have something to choose, evenly spread over all."""
    found = [s for s in corpus.corpus() if s.part == "test" and space(s.kernel, host()).holes]
    numbers = np.linspace(0, len(found) - 1, min(args.kernels, len(found))).round()
    return [found[int(n)] for n in numbers]


def opened(args: argparse.Namespace) -> Database:
    kept = Database(args.database)
    kept.insert([], [], [encoding.Machine.here()])
    return kept


def trials(args: argparse.Namespace) -> None:
    """What 0, 16 and 64 trials reach of the best of many, on held-out kernels. Many: half of them
    guided by the model, half random. What each came to is measured again at the end, side by side
    with the fastest of the many."""
    model, trainer, kept = known(args), online_trainer(tw.compile), opened(args)
    rows = []
    for sample in held_out(args):
        s, bench = space(sample.kernel, host(), 1), Bench(sample.kernel, kept)
        many = [
            bench.trace(search(how, model, s, 100, trainer), s, args.best // 2)
            for how in ("random", "model")
        ]
        found = {"heuristic": s.default, "0": Choice(host(), 1, None, model)(sample.kernel)}
        guided = bench.trace(search("model", model, s, args.seed, trainer), s, max(FEW))
        found |= {str(n): (guided.fastest(1, n) or [s.default])[0] for n in FEW}
        best = [c for t in many for c in t.fastest(FINAL)]
        times = bench.again([*found.values(), *best]) | {s.default: 1.0}
        least = min(times.values())
        rows.append([least / times[c] for c in found.values()])
        count = len({c for t in many for c in t.tried})
        say(f"{sample.name:40} {count:5} trials: {1 / least:5.2f}x the heuristic; of that: "
            + " ".join(f"{n} {x:.3f}" for n, x in zip(found, rows[-1], strict=True)))  # fmt: skip
    means = np.exp(np.log(np.array(rows)).mean(0))
    say(f"geometric mean of {len(rows)}: "
        + " ".join(f"{n} {x:.3f}" for n, x in zip(found, means, strict=True)))  # fmt: skip


def curves(args: argparse.Namespace) -> None:
    """Figure 12 of the TVM paper: best so far against trials, by search."""
    model, trainer, kept = known(args), online_trainer(tw.compile), opened(args)
    samples = {s.name: s.kernel for s in corpus.corpus()}
    found: dict[str, dict[str, list[float]]] = {}
    for name in FIGURE:
        s, bench = space(samples[name], host(), 1), Bench(samples[name], kept)
        found[name] = {}
        for how in ("model", "untaught", "evolutionary", "random"):
            count = args.trials if how in ("model", "untaught") else args.best // 2
            # The random search of `trials`, so that it is in the database already.
            seed = 100 if how == "random" else args.seed
            found[name][how] = bench.trace(search(how, model, s, seed, trainer), s, count).curve
        least = found[name]["random"][-1]
        reached = {
            how: next((n + 1 for n, x in enumerate(c) if x <= least), None)
            for how, c in found[name].items()
        }
        say(f"{name:40} random's best of {len(found[name]['random'])}: {1 / least:.3f}x the "
            f"heuristic; reached after trials: {reached}")  # fmt: skip
    if args.svg is not None:
        args.svg.write_text(tw.viz.curves(found))
        say(f"wrote {args.svg}")
