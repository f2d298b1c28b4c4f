"""The cost model and the tuner, measured: data, training, and what both are worth.

    python -m benchmarks.tuning collect --database runs.sqlite       measure the corpus
    python -m benchmarks.tuning collect --target avx2 --every 3      as a machine with less
    python -m benchmarks.tuning pack --database runs.sqlite          their compact copy
    python -m benchmarks.tuning train                                weights from it, and the table
    python -m benchmarks.tuning transfer                             few records of another machine
    python -m benchmarks.tuning judge                                what judging and training cost
    python -m benchmarks.tuning trials                               few trials against many
    python -m benchmarks.tuning curves --svg figure.svg              best so far against trials

Run it from the root of the repository. Kernels are split by key: what is reported is of kernels
that no weight has seen. `train` gives the same bytes on the same machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import learning, searches

import tilewright as tw
from tilewright.cost_model import corpus, dataset
from tilewright.cost_model.choice import Choice
from tilewright.cost_model.files import PRIOR
from tilewright.cost_model.model import infer
from tilewright.cost_model.records import Database
from tilewright.cost_model.spaces import space
from tilewright.target import NAMED, VARIABLE, host

DATA = Path(__file__).parent / "data" / "measurements.jsonl.xz"


def say(line: str) -> None:
    print(line, flush=True)


# -- data ------------------------------------------------------------------------------------------


def collect(args: argparse.Namespace) -> None:
    """Measure `--each` candidates of every test kernel of the corpus, and of each n-th other."""
    if args.target:  # before anybody asks which machine this is; processes that measure inherit it
        os.environ[VARIABLE] = args.target
    samples = corpus.corpus()
    held_out = [s for s in samples if s.part == "test"]
    others = [s for s in samples if s.part != "test"][:: args.every]
    started = time.monotonic()
    stored = tw.bench(
        [(s.name, s.kernel) for s in [*held_out, *others]],
        each=args.each, seconds=args.seconds, database=Database(args.database), seed=args.seed,
    )  # fmt: skip
    took = time.monotonic() - started
    say(f"{stored} measurements in {took:.0f} s, {stored / took:.1f} a second")


def pack(args: argparse.Namespace) -> None:
    """Write the compact copy."""
    count = dataset.write(Database(args.database), args.data)
    say(f"{count} measurements, {args.data.stat().st_size / 1e6:.2f} MB in {args.data}")


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
            _best(lambda: Choice(host(), 1, None, model, compiled).searched(sample.kernel)),  # noqa: B023
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
    parser.add_argument("--kernels", type=int, default=30, help="held-out kernels of `trials`")
    parser.add_argument("--every", type=int, default=1, help="collect, judge each n-th kernel")
    parser.add_argument("--target", choices=sorted(NAMED), help="collect as a machine with less")
    parser.add_argument("--best", type=int, default=2000, help="trials of the long searches")
    parser.add_argument("--trials", type=int, default=200, help="trials of the guided curves")
    parser.add_argument("--results", type=Path, default=Path("trials.jsonl"), help="what is done")
    parser.add_argument("--only", default="", help="a part of the names of the kernels of `curves`")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    COMMANDS[args.command](args)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "collect": collect,
    "pack": pack,
    "train": learning.train,
    "transfer": learning.transferred,
    "judge": judge,
    "trials": searches.trials,
    "curves": searches.curves,
}

if __name__ == "__main__":
    main()
