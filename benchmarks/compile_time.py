"""Compile time of the cases of `pointwise.py` against `jax.jit`, on one core, nothing executed.

    python benchmarks/compile_time.py [--only NAME] [--rounds N]

From the function to loaded machine code: trace, lower, compile, link. Contenders take turns and
find none of their own caches (`jax.clear_caches`, a scheduler of its own for every round of ours);
XLA keeps some kernels of earlier rounds all the same, so the first round of each is shown as well.
A mark `>` stands behind a case where our median is longer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import harness
from pointwise import CASES


def milliseconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - start)


def measure(case: harness.Case, rounds: int) -> tuple[list[float], list[float]]:
    """Compile times of JAX and of Tilewright, round by round."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import tilewright as tw
    from tilewright.target import host
    from tilewright.transforms.heuristic import heuristic

    args = case.arguments(np.random.default_rng(0))
    with jax.enable_x64(True) if any(a.dtype.itemsize == 8 for a in args) else nullcontext():
        on_device = [jax.device_put(a) for a in args]

        def theirs() -> None:
            jax.jit(lambda *xs: case.function(jnp, *xs)).lower(*on_device).compile()

        def ours() -> None:
            own = partial(heuristic, target=host())
            f = tw.compile(scheduler=own)(lambda *xs: case.function(np, *xs))
            f.lower(*args).entry.program.executable  # noqa: B018  (making it is what is timed)

        pairs = []
        for _ in range(rounds):
            jax.clear_caches()
            pairs.append((milliseconds(theirs), milliseconds(ours)))
    return [p[0] for p in pairs], [p[1] for p in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description="compile time against jax.jit on one core")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5, help="times each case is compiled")
    options = parser.parse_args()
    harness.one_core()
    harness.warm_up()
    longer, cases = 0, [c for c in CASES if options.only in c.name]
    print(f"{'case':30} {'jax ms':>8} {'ours ms':>8}   first round: {'jax':>8} {'ours':>8}")
    for case in cases:
        theirs, ours = measure(case, options.rounds)
        a, b = statistics.median(theirs), statistics.median(ours)
        longer += b > a
        mark = ">" if b > a else " "
        first = f"{theirs[0]:8.1f} {ours[0]:8.1f}"
        print(f"{case.name:30} {a:8.1f} {b:8.1f}{mark} {'':14}{first}")
    print(f"\n{len(cases) - longer} of {len(cases)} cases compile in at most jax.jit's time")


if __name__ == "__main__":
    main()
