"""The cost model and the tuner, measured: data, training, and what both are worth.

    python -m benchmarks.tuning collect --database runs.sqlite       measure the corpus
    python -m benchmarks.tuning pack --database runs.sqlite          their compact copy
    python -m benchmarks.tuning train                                weights from it, and the table
    python -m benchmarks.tuning judge                                what judging and training cost
    python -m benchmarks.tuning trials --best 500                    few trials against many
    python -m benchmarks.tuning curves --svg figure.svg              best so far against trials

Run it from the root of the repository. Kernels are split by key: what is reported is of kernels
that no weight has seen. `train` gives the same bytes on the same machine.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tilewright as tw
from tilewright.cost_model import baselines, corpus, dataset, measure, metrics
from tilewright.cost_model.choice import Choice
from tilewright.cost_model.features import NAMES, VERSION
from tilewright.cost_model.files import PRIOR
from tilewright.cost_model.measure import Task
from tilewright.cost_model.model import Model, infer, load
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
from tilewright.cost_model.training import Group, Optimizer, Settings, Trainer, scored, softened
from tilewright.errors import ScheduleError
from tilewright.kernel import Kernel
from tilewright.target import host
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Schedule

DATA = Path(__file__).parent / "data" / "measurements.jsonl.xz"
SEEDS = (0, 1, 2, 3, 4)
FIGURE = ("resnet18 conv", "product")


def say(line: str) -> None:
    print(line, flush=True)


# -- data ------------------------------------------------------------------------------------------


def collect(args: argparse.Namespace) -> None:
    """Measure `--each` candidates of every kernel of the corpus."""
    started = time.monotonic()
    stored = tw.bench(
        each=args.each, seconds=args.seconds, database=Database(args.database), seed=args.seed
    )
    took = time.monotonic() - started
    say(f"{stored} measurements in {took:.0f} s, {stored / took:.1f} a second")


def pack(args: argparse.Namespace) -> None:
    """Write the compact copy."""
    count = dataset.write(Database(args.database), args.data)
    say(f"{count} measurements, {args.data.stat().st_size / 1e6:.2f} MB in {args.data}")


def loaded(path: Path) -> dict[str, list[Group]]:
    """The groups of a packed data set, by part."""
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "data.sqlite")
        found = dataset.read(path, database)
        say(f"{found.records} measurements, {found.bad_count} bad lines")
        parts = dict(dataset.split(dataset.groups(database, host(), progress=say)))
        database.close()
    for part, groups in parts.items():
        say(f"{part}: {len(groups)} kernels, {sum(map(len, groups))} candidates")
    return parts


# -- training --------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> None:
    """Train several networks on the packed data and one on what they say together, each as good as
    it is on the validation kernels; report on the test kernels."""
    parts = loaded(args.data)
    trainer, pupil = (
        trainer_of(parts, Settings(epochs=n, patience=n, width=width))
        for n, width in ((args.epochs, 96), (2 * args.epochs, 192))
    )
    models = []
    for seed in SEEDS:
        started = time.monotonic()
        model = trainer.trained(
            parts["train"], parts["validation"], (NAMES, (), VERSION), seed,
            say if args.verbose else lambda line: None,
        )  # fmt: skip
        worth = metrics.geometric_top_k(*_of(parts["validation"], [model]), 1)
        say(f"seed {seed}: validation top-1 {worth:.4f}, {time.monotonic() - started:.0f} s")
        models.append((worth, model))
    teachers = [m for _, m in models]
    soft = softened(parts["train"], {b"": teachers}, run=trainer.run)
    model = pupil.trained(soft, parts["validation"], (NAMES, (), VERSION), len(SEEDS))
    test = parts["test"]
    seconds, scores = _of(test, [model])
    ours = metrics.geometric_top_k(seconds, scores, 1)
    theirs = metrics.geometric_top_k(seconds, baselines.heuristic(test), 1)
    model = replace(model, held_out=(ours, theirs))
    args.model.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.model)
    say(f"{args.model}: {args.model.stat().st_size} bytes, trusted: {model.trusted}\n")
    table(parts, teachers, model)


def trainer_of(parts: dict[str, list[Group]], settings: Settings) -> Trainer:
    """A trainer whose rate falls to zero as the last epoch ends."""
    steps = settings.epochs * -(-len(parts["train"]) // settings.kernels)
    return Trainer(adamw(steps), settings, by_heuristic)


def by_heuristic(f: Callable[..., Any]) -> Any:
    """`f` compiled without the model that is being made, or what was measured: the same bits."""
    return tw.compile(f, scheduler=functools.partial(heuristic, target=host()), threads=1)


def adamw(steps: int) -> Optimizer:
    """Optax's AdamW, whose update is part of the compiled training step."""
    import optax

    from tilewright.frontends.jax import from_jax

    rate = optax.cosine_decay_schedule(3e-3, steps)
    chosen = optax.adamw(rate, weight_decay=0.5)
    return Optimizer(
        lambda params: tw.tree.map(np.asarray, chosen.init(params)), from_jax(chosen.update)
    )


def _of(groups: Sequence[Group], models: Sequence[Model]) -> tuple[Any, Any]:
    each = [scored(m, groups) for m in models]
    return [g.seconds for g in groups], [np.mean(s, axis=0) for s in zip(*each, strict=True)]


def table(parts: dict[str, list[Group]], models: Sequence[Model], model: Model) -> None:
    """Every judge on the kernels nobody has seen."""
    train_groups, test = [*parts["train"], *parts["validation"]], parts["test"]
    say(f"{len(test)} held-out kernels\n{baselines.HEADING}")
    say(baselines.row("heuristic", test, baselines.heuristic(test)))
    say(baselines.row("roofline", test, baselines.roofline(test)))
    try:
        for name, kind in (("random forest", "forest"), ("boosted trees", "boosted")):
            say(baselines.row(name, test, baselines.trees(train_groups, test, kind)))
    except ImportError:
        say("(scikit-learn is not installed: no trees)")
    say(baselines.row("one network", test, _of(test, models[:1])[1]))
    say(baselines.row(f"{len(models)} networks", test, _of(test, models)[1]))
    say(baselines.row("taught by them", test, _of(test, [model])[1]))


# -- speed -----------------------------------------------------------------------------------------


def judge(args: argparse.Namespace) -> None:
    """Microseconds a candidate, compiled and in NumPy; milliseconds a kernel when compiling."""
    model = known(args)
    compiled = tw.compile(infer)
    for sample in [s for s in corpus.corpus() if s.part == "test"][:: max(args.every, 1)]:
        s = space(sample.kernel, host(), 1)
        points = s.random(np.random.default_rng(0), 1024)
        if len(points) < 1024:
            continue
        features, estimate = s.features(points), s.roofline(points)
        times = [
            _best(lambda: s.features(points)),  # noqa: B023
            _best(lambda: model.judge(features, estimate, compiled)),  # noqa: B023
            _best(lambda: model.judge(features, estimate)),  # noqa: B023
            _best(lambda: Choice(host(), 1, None, model, compiled)(sample.kernel)),  # noqa: B023
        ]
        each = [1e6 * t / 1024 for t in times[:3]]
        say(
            f"{sample.name:32} us a candidate: features {each[0]:.2f}, network {each[1]:.3f}, "
            f"in NumPy {each[2]:.3f}; choosing {1e3 * times[3]:.2f} ms"
        )


def _best(run: Callable[[], Any], rounds: int = 7) -> float:
    found = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def known(args: argparse.Namespace) -> Model:
    """The model in a file. Ends the program if there is none."""
    found = load(args.model, NAMES, VERSION)
    if found is None:
        sys.exit(f"no trusted model in {args.model}: run `train`, or see TILEWRIGHT_SHOW=tune")
    return found


# -- searches --------------------------------------------------------------------------------------


def search(kernel: Kernel, how: str, model: Model, s: Space, seed: int, trainer: Trainer) -> Search:
    """A search by name."""
    if how == "random":
        return RandomSearch(s, seed)
    if how == "evolutionary":
        return EvolutionarySearch(s, seed)
    if how == "model":
        return GuidedSearch(s, Learner(s, model, trainer), seed)
    untaught = Model.blank(NAMES, VERSION)
    return GuidedSearch(s, Learner(s, untaught, trainer), seed, founders=16)


def trace(kernel: Kernel, found: Search, s: Space, trials: int, batch: int = 16) -> list[float]:
    """The best ratio to the default schedule's time after every trial."""
    curve: list[float] = []
    best = 1.0
    while len(curve) < trials:
        points = found.propose(min(batch, trials - len(curve)))
        if not len(points):
            break
        schedules, seconds = [], np.full(len(points), np.inf)
        for p in points:
            try:
                schedules.append(s.schedule(p))
            except ScheduleError:
                schedules.append(None)
        tasks = [Task.of(kernel, c) for c in schedules if c is not None]
        outcomes = iter(measure.outcomes(tasks))
        for n, c in enumerate(schedules):
            outcome = None if c is None else next(outcomes)
            if outcome is not None and outcome.ratio is not None and not outcome.error:
                seconds[n] = outcome.ratio
                best = min(best, outcome.ratio)
            if c is not None:
                curve.append(best)
        found.observe(points, seconds)
    return curve


def trials(args: argparse.Namespace) -> None:
    """What 0, 16 and 64 trials reach of the best of many, on held-out kernels."""
    model, trainer = known(args), online_trainer(tw.compile)
    samples = [s for s in corpus.corpus() if s.part == "test" and space(s.kernel, host()).holes]
    rows = []
    for sample in samples[:: max(args.every, 1)][: args.kernels]:
        s = space(sample.kernel, host(), 1)
        long = trace(sample.kernel, search(sample.kernel, "model", model, s, 1, trainer), s,
                     args.best // 2)  # fmt: skip
        other = trace(sample.kernel, RandomSearch(s, 2), s, args.best - len(long))
        guided = trace(sample.kernel, search(sample.kernel, "model", model, s, 0, trainer), s, 64)
        chosen = Choice(host(), 1, None, model)(sample.kernel)
        zero = ratio_of(sample.kernel, chosen, s)
        best = min([1.0, *long, *other, *guided, zero])
        at = [1.0, zero, *(guided[min(n, len(guided)) - 1] if guided else 1.0 for n in (16, 64))]
        rows.append([best / x for x in at])
        say(f"{sample.name:34} best {1 / best:5.2f}x the heuristic; of the best: "
            + " ".join(f"{x:.3f}" for x in rows[-1]))  # fmt: skip
    means = np.exp(np.log(np.array(rows)).mean(0))
    say(f"geometric mean of {len(rows)}: heuristic {means[0]:.3f}, model without trials "
        f"{means[1]:.3f}, 16 trials {means[2]:.3f}, 64 trials {means[3]:.3f}")  # fmt: skip


def ratio_of(kernel: Kernel, schedule: Schedule, s: Space) -> float:
    """The measured quotient of a schedule's and the default's time."""
    if schedule == s.default:
        return 1.0
    (outcome,) = measure.outcomes([Task.of(kernel, schedule)])
    return outcome.ratio if outcome.ratio is not None else float("inf")


def curves(args: argparse.Namespace) -> None:
    """Figure 12 of the TVM paper: best so far against trials, by search."""
    model, trainer = known(args), online_trainer(tw.compile)
    wanted = [s for s in corpus.corpus() if any(f in s.name for f in args.only.split(","))]
    found: dict[str, dict[str, list[float]]] = {}
    for sample in wanted[: args.kernels]:
        s = space(sample.kernel, host(), 1)
        found[sample.name] = {}
        for how in ("model", "untaught", "evolutionary", "random"):
            count = args.best if how == "random" else args.trials
            curve = trace(sample.kernel, search(sample.kernel, how, model, s, 0, trainer), s, count)
            found[sample.name][how] = curve
        least = found[sample.name]["random"][-1]
        reached = {
            how: next((n + 1 for n, x in enumerate(c) if x <= least), None)
            for how, c in found[sample.name].items()
        }
        say(f"{sample.name:34} random's best of {args.best}: {1 / least:.3f}x the heuristic; "
            f"reached after trials: {reached}")  # fmt: skip
    if args.svg is not None:
        args.svg.write_text(tw.viz.curves(found))
        say(f"wrote {args.svg}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--database", type=Path, default=Path("tuning.sqlite"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path, default=PRIOR)
    parser.add_argument("--each", type=int, default=64, help="candidates of a kernel")
    parser.add_argument("--seconds", type=float, help="ends collecting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--kernels", type=int, default=30)
    parser.add_argument("--every", type=int, default=1, help="take each n-th kernel")
    parser.add_argument("--best", type=int, default=1000, help="trials of the long search")
    parser.add_argument("--trials", type=int, default=128, help="trials of the short ones")
    parser.add_argument("--only", default="resnet18,product", help="names of the figure's kernels")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    COMMANDS[args.command](args)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "collect": collect,
    "pack": pack,
    "train": train,
    "judge": judge,
    "trials": trials,
    "curves": curves,
}

if __name__ == "__main__":
    main()
