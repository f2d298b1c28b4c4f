"""Searches, measured: what few trials reach of many, and best so far against trials.

Commands of `benchmarks.tuning`, by the rounds that `tw.tune` consists of. Everything measured goes
to a database at once, and what is there is taken from it; kernels that are done are kept in a file.
So an interrupted run goes on where it stopped, and may be made in pieces. A trial is a schedule
that the same search had not had before. What searches found is measured again in the end, side by
side: the fastest of many is also the luckiest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import tilewright as tw
from tilewright.cost_model import corpus, encoding, measure
from tilewright.cost_model.choice import Choice
from tilewright.cost_model.corpus import Sample
from tilewright.cost_model.features import NAMES, VERSION, told
from tilewright.cost_model.inverse import points_of
from tilewright.cost_model.measure import Task
from tilewright.cost_model.model import Model, load
from tilewright.cost_model.records import Database
from tilewright.cost_model.rounds import Bench, Tuned
from tilewright.cost_model.search import (
    EvolutionarySearch,
    GuidedSearch,
    Learner,
    RandomSearch,
    Search,
    online_trainer,
)
from tilewright.cost_model.spaces import space
from tilewright.cost_model.training import Trainer
from tilewright.kernel import Kernel
from tilewright.target import host
from tilewright.transforms.schedule import Schedule

FEW = (16, 64)
"""Trials whose worth is reported."""
FINAL = 8
"""So many of the fastest of a long search are measured again, with what few trials found."""
AGAIN = 9
"""Measurements of each of those; the median counts."""
ROUNDS, MOST_AGAIN = 25, 100
"""Measurements at a time, and at most, of whatever led a search of `curves`."""
ACCURATE = 0.003
"""Standard error of the logarithm of a quotient from which on they are enough."""
FIGURE = (
    "resnet18 (1, 64, 56, 56) 128x3x3 /2.0",
    "resnet50 (1, 512, 28, 28) 256x1x1.0",
    "dilated (2, 28, 24, 24) 41x3x3 *4.0",
    "product 400x537x600.0",
    "bert projections 128x768x2304.0",
)
"""The figure's kernels: three convolutions and two products of the held-out part."""


Row = dict[str, float]
"""Of one kernel: how many were tried, how many times as fast as the heuristic's schedule the best
is, and what share of its speed each of the others has."""


Way = list[tuple[int, Schedule]]
"""What led a search, after how many trials."""
Judged = dict[str, Any]
"""Of one kernel: `rounds` of measurements, the quotient of random's best by the heuristic's time
(`goal`), whether that `led` its search, and in `ways`, by search, trials, the quotient of what led
by the heuristic's time, the logarithm of that by random's best, and its standard error."""


def say(line: str) -> None:
    print(line, flush=True)


def known(args: argparse.Namespace) -> Model:
    """The model in a file. Ends the program if there is none."""
    found = load(args.model, NAMES, VERSION)
    if found is None:
        sys.exit(f"no trusted model in {args.model}: run `train`, or see TILEWRIGHT_SHOW=tune")
    return found.on(told(host()))


def run(t: Tuned, where: Bench, trials: int) -> Tuned:
    """Go on until so many trials, or until nothing is left to try."""
    while t.trials < trials and not t.done:
        t.round(where, trials - t.trials, lambda is_new: False)
    return t


def again(kernel: Kernel, schedules: Sequence[Schedule]) -> dict[Schedule, float]:
    """Ratios to the default schedule's time: medians of several measurements of each, in turns."""
    distinct = list(dict.fromkeys(schedules))
    tasks = [Task.of(kernel, s) for _ in range(AGAIN) for s in distinct]
    ratios = [o.ratio or np.inf for o in measure.outcomes(tasks)]
    return {s: median(ratios[n :: len(distinct)]) for n, s in enumerate(distinct)}


def begun(kernel: Kernel, how: str, model: Model, seed: int, trainer: Trainer) -> Tuned:
    """A kernel to be tuned by a search of that name."""
    s = space(kernel, host(), 1)
    start = points_of(s, s.default)
    untaught = Model.blank(NAMES, VERSION)
    search: Search = {
        "random": lambda: RandomSearch(s, seed, start),
        "evolutionary": lambda: EvolutionarySearch(s, seed, start),
        "model": lambda: GuidedSearch(s, Learner(s, model, trainer), seed, start),
        "untaught": lambda: GuidedSearch(
            s, Learner(s, untaught, trainer), seed, start, founders=16
        ),
    }[how]()
    return Tuned(kernel, 1, s, search)


def held_out(args: argparse.Namespace) -> list[Sample]:
    """Kernels of the test part that have something to choose, evenly spread over all."""
    found = [s for s in corpus.corpus() if s.part == "test" and space(s.kernel, host()).holes]
    numbers = np.linspace(0, len(found) - 1, min(args.kernels, len(found))).round()
    return [found[int(n)] for n in numbers]


def opened(args: argparse.Namespace) -> Bench:
    kept = Database(args.database)
    kept.insert([], [], [encoding.Machine.here()])
    return Bench(kept)


def compared(k: Kernel, model: Model, trainer: Trainer, where: Bench, best: int, seed: int) -> Row:
    """What few trials reach of many with one kernel."""
    many = [
        run(begun(k, how, model, 100, trainer), where, best // 2) for how in ("random", "untaught")
    ]
    few = begun(k, "model", model, seed, trainer)
    found = {"heuristic": few.space.default, "0": Choice(host(), 1, None, model)(k)}
    for n in FEW:
        found[str(n)] = run(few, where, n).schedule or few.space.default
    fastest = [c for t in many for c in sorted(t.known, key=lambda c: t.known[c])[:FINAL]]
    times = again(k, [*found.values(), *fastest]) | {few.space.default: 1.0}
    least = min(times.values())
    count = len({c for t in many for c in t.known})
    return {"trials": count, "gain": 1 / least, **{n: least / times[c] for n, c in found.items()}}


def trials(args: argparse.Namespace) -> None:
    """What 0, 16 and 64 trials reach of the best of many, on held-out kernels. Many: half of them
    random, half guided by a network that is taught by nothing else. What each came to is measured
    again at the end, side by side with the fastest of the many. A line of `--results` for each
    kernel that is done; those are not done again."""
    model, trainer, where = known(args), online_trainer(tw.compile), opened(args)
    done = _read(args.results)
    rows: list[Row] = []
    try:
        for sample in held_out(args):
            name = f"{sample.name}, seed {args.seed}, best of {args.best}"
            if name not in done:
                row = compared(sample.kernel, model, trainer, where, args.best, args.seed)
                done[name] = row
                with args.results.open("a") as file:
                    file.write(json.dumps({name: row}) + "\n")
            rows.append(done[name])
            say(f"{sample.name:40} " + _told(done[name]))
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here")
    if rows:
        logs = np.log([[*r.values()][1:] for r in rows])
        means = dict(zip([*rows[0]][1:], np.exp(logs.mean(0)).tolist(), strict=True))
        means["trials"] = sum(r["trials"] for r in rows)
        say(f"geometric mean of {len(rows)}: " + _told(means))


def _told(row: Row) -> str:
    shares = " ".join(f"{n} {x:.3f}" for n, x in row.items() if n not in ("trials", "gain"))
    return f"{row['trials']:5} trials: {row['gain']:5.2f}x the heuristic; of that: {shares}"


def _read(path: Path) -> dict[str, Any]:
    """The rows of a file of results, by name."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        found |= json.loads(line)
    return found


def leaders(t: Tuned, where: Bench, count: int) -> Way:
    """What led a search after how many trials, whenever it became another, and at the end."""
    found = [(0, t.space.default)]
    while t.trials < count and not t.done:
        t.round(where, count - t.trials, lambda is_new: False)
        led = t.schedule or t.space.default
        if led != found[-1][1]:
            found.append((t.trials, led))
    return [*found, (t.trials, found[-1][1])]


def judged(kernel: Kernel, ways: dict[str, Way], others: Sequence[Schedule]) -> Judged:
    """What led the searches and the fastest others of the random one, measured again in turns until
    the errors of their quotients by its best are small enough: the fastest now of what led in the
    end and those others, of which none was known to be faster."""
    goals = list(dict.fromkeys([ways["random"][-1][1], *others]))
    distinct = list(dict.fromkeys([*goals, *(s for way in ways.values() for _, s in way)]))
    ratios = np.empty((0, len(distinct)))
    while len(ratios) < MOST_AGAIN:
        tasks = [Task.of(kernel, s) for _ in range(ROUNDS) for s in distinct]
        more = np.array([o.ratio or np.nan for o in measure.outcomes(tasks)])
        ratios = np.concatenate([ratios, more.reshape(ROUNDS, -1)])
        # Chosen by every other round and judged by the rest: the fastest is also the luckiest.
        goal = int(np.argmin(np.nanmedian(ratios[::2, : len(goals)], axis=0)))
        quotients = np.log(ratios / ratios[:, goal : goal + 1])[0 if goal == 0 else 1 :: 2]
        low, high = np.nanquantile(quotients, (0.16, 0.84), axis=0)
        # Of medians: a standard deviation that outliers do not reach, over the square root.
        errors = 1.2533 * (high - low) / 2 / np.sqrt(len(quotients))
        if errors.max() <= ACCURATE:
            break
    middle, slower = np.nanmedian(ratios, axis=0), np.nanmedian(quotients, axis=0)
    middle /= middle[distinct.index(ways["random"][0][1])]  # the heuristic's, as a candidate
    place = {s: n for n, s in enumerate(distinct)}
    rows = {
        how: [(n, *(float(x[place[s]]) for x in (middle, slower, errors))) for n, s in way]
        for how, way in ways.items()
    }
    return {"rounds": len(ratios), "goal": float(middle[goal]), "led": goal == 0, "ways": rows}


def curves(args: argparse.Namespace) -> None:
    """Figure 12 of the TVM paper: best so far against trials, by search. Whatever led a search is
    measured again at the end, in turns with what led the others. A line of `--results` for each
    kernel that is done; those are not done again, and the picture is of all of them."""
    model, trainer, where = known(args), online_trainer(tw.compile), opened(args)
    done: dict[str, Judged] = _read(args.results)
    samples = {s.name: s.kernel for s in corpus.corpus()}
    few, many = args.trials, args.best // 2
    counts = {"model": few, "untaught": few, "evolutionary": many // 2, "random": many}
    for name in FIGURE:
        label = f"{name}, curves of {counts}, seed {args.seed}"
        if label not in done and args.only in name:
            kernel, ways = samples[name], {}
            for how, count in counts.items():
                # The random search is the same for every seed of the others.
                t = begun(kernel, how, model, 100 if how == "random" else args.seed, trainer)
                ways[how] = leaders(t, where, count)
            fastest = sorted(t.known, key=lambda c: t.known[c])[:FINAL]  # of the random search
            done[label] = judged(kernel, ways, fastest)
            with args.results.open("a") as file:
                file.write(json.dumps({label: done[label]}) + "\n")
        if label in done:
            say(_summary(name, many, done[label]))
    if args.svg is not None:
        shown = {n.split(", curves")[0]: r["ways"] for n, r in done.items() if ", curves" in n}
        args.svg.write_text(
            tw.viz.curves({
                n: {how: [(n, x) for n, x, *_ in way] for how, way in ways.items()}
                for n, ways in shown.items()
            })
        )  # fmt: skip
        say(f"wrote {args.svg}")


def _summary(name: str, many: int, found: Judged) -> str:
    """Trials until what leads is as fast as what led the random search in the end; as the fastest
    that it measured, which may not have led; and until it is not surely slower than that."""
    ways = found["ways"]
    _, last, least, _ = ways["random"][-1]
    goal = found["goal"]
    worst = max(error for way in ways.values() for *_, error in way)
    lines = [
        f"{name}: what led random's {many} trials is {1 / last:.4f}x the heuristic"
        f"{'' if found['led'] else f', its fastest {1 / goal:.4f}x'}; "
        f"{found['rounds']} rounds, standard error at most {worst:.2%}"
    ]
    for how, way in ways.items():
        led = next((n for n, _, slower, _ in way if slower <= least), None)
        equal = next((n for n, _, slower, _ in way if slower <= 0), None)
        reached = next((n for n, _, slower, error in way if slower <= 2 * error), None)
        _, _, slower, error = way[-1]
        lines.append(
            f"  {how:13} what led it after {led}; its fastest after {equal}, "
            f"within twice the error after {reached}; in the end {slower:+.2%} +-{error:.2%}; "
            + ", ".join(f"{n}: {x:+.2%} +-{e:.2%}" for n, _, x, e in way[:-1])
        )
    return "\n".join(lines)
