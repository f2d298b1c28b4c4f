"""The cost model and the tuner, measured: data, training, and what both are worth.

    python -m benchmarks.tuning collect --database runs.sqlite       measure the corpus
    python -m benchmarks.tuning pack --database runs.sqlite          their compact copy
    python -m benchmarks.tuning train                                weights from it, and the table
    python -m benchmarks.tuning judge                                what judging and training cost
    python -m benchmarks.tuning trials                               few trials against many
    python -m benchmarks.tuning curves --svg figure.svg              best so far against trials

Run it from the root of the repository. Kernels are split by key: what is reported is of kernels
that no weight has seen. `train` gives the same bytes on the same machine.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import searches

import tilewright as tw
from tilewright.cost_model import baselines, corpus, dataset, metrics
from tilewright.cost_model.choice import Choice
from tilewright.cost_model.features import NAMES, VERSION
from tilewright.cost_model.files import PRIOR
from tilewright.cost_model.model import Model, infer
from tilewright.cost_model.records import Database
from tilewright.cost_model.spaces import space
from tilewright.cost_model.training import Group, Optimizer, Settings, Trainer, scored, softened
from tilewright.target import host
from tilewright.transforms.heuristic import heuristic

DATA = Path(__file__).parent / "data" / "measurements.jsonl.xz"
SEEDS = (0, 1, 2, 3, 4)


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
    model = searches.known(args)
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
    parser.add_argument("--kernels", type=int, default=30, help="held-out kernels of `trials`")
    parser.add_argument("--every", type=int, default=1, help="judge each n-th kernel")
    parser.add_argument("--best", type=int, default=2000, help="trials of the long searches")
    parser.add_argument("--trials", type=int, default=200, help="trials of the guided curves")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    COMMANDS[args.command](args)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "collect": collect,
    "pack": pack,
    "train": train,
    "judge": judge,
    "trials": searches.trials,
    "curves": searches.curves,
}

if __name__ == "__main__":
    main()
