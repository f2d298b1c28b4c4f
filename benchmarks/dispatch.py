"""What a call costs beside the work: small arrays in and out, nanoseconds, one core.

    python benchmarks/dispatch.py [--rounds N]

Contenders take turns, and their results are compared first. `python` is Tilewright's own path for
calls that native code does not serve. JAX, where installed, gets and returns its own arrays. The
timing loop's own time, some 8 ns a round, is not taken off. Times are the process's own (CPU time):
what else runs on the machine shows less.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness import one_core

one_core()

import numpy as np  # noqa: E402  (thread pools size themselves when they load)

import tilewright as tw  # noqa: E402
from tilewright.runtime import dispatch  # noqa: E402

CONTENDERS = ("numpy", "jax", "python", "native")
BARS = {"x + 1": 150, "dict of 12": 500, "tuple of 12": 500}
"""Nanoseconds a call may take, where we promise something."""


@dataclass
class Layer:
    w: Any
    b: Any


def cases() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Functions and their arguments, by name."""
    x = np.arange(8, dtype=np.float32)
    dozen = {f"p{i}": x + np.float32(i) for i in range(12)}
    layers = [Layer(x + np.float32(i), x) for i in range(6)]
    return {
        "x + 1": (lambda x: x + 1, (x,)),
        "x * 0.5, a number": (lambda x, s: x * s, (x, 0.5)),
        "x.sum(), a number": (lambda x: x.sum(), (x,)),
        "two arrays, two results": (lambda x, y: (x + y, x - y), (x, x)),
        "tuple of 12": (lambda t: tuple(v + 1 for v in t), (tuple(dozen.values()),)),
        "list of 12": (lambda t: [v + 1 for v in t], (list(dozen.values()),)),
        "dict of 12": (lambda d: {k: v + 1 for k, v in d.items()}, (dozen,)),
        "6 dataclasses of 2": (lambda ls: [Layer(p.w + 1, p.b) for p in ls], (layers,)),
    }


def calls(f: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Statements to time, with their variables."""
    compiled = tw.compile(f)
    for _ in range(dispatch.FIRST + 1):
        compiled(*args)
    variables = {f"a{i}": a for i, a in enumerate(args)}
    names = ", ".join(variables)
    found = {
        "numpy": (f"f({names})", {"f": f, **variables}),
        "python": (f"f(c, {names})", {"f": tw.Compiled.__call__, "c": compiled, **variables}),
        "native": (f"f({names})", {"f": compiled, **variables}),
    }
    try:
        import jax
    except ImportError:
        return found
    if not any(isinstance(p, Layer) for a in args if isinstance(a, list) for p in a):
        on_device = jax.device_put(variables)
        jitted = jax.jit(f)
        jax.block_until_ready(jitted(*on_device.values()))
        found["jax"] = (f"f({names})", {"f": jitted, **on_device})
    return found


def nanoseconds(contenders: dict[str, tuple[str, dict[str, Any]]], rounds: int) -> dict[str, float]:
    """The median of each contender over the rounds; each round takes each some two milliseconds."""
    timers = {
        name: timeit.Timer(s, timer=time.process_time, globals=v)
        for name, (s, v) in contenders.items()
    }
    repeats = {name: max(1, int(2e-3 / (t.timeit(50) / 50))) for name, t in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(1e9 * timer.timeit(repeats[name]) / repeats[name])
    return {name: statistics.median(t) for name, t in times.items()}


def check(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Native and Python calls agree with NumPy."""
    wanted = tw.tree.leaves(f(*args))
    compiled = tw.compile(f)
    for _ in range(dispatch.FIRST + 4):
        for a, b in zip(tw.tree.leaves(compiled(*args)), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def main() -> int:
    """Print the table; the status says whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="turns of each contender")
    rounds = parser.parse_args().rounds
    if dispatch.reason() is not None:
        print(f"no native calls here: {dispatch.reason()}")
        return 1
    print(f"{'ns a call':<26}{''.join(f'{c:>9}' for c in CONTENDERS)}{'bar':>6}")
    kept = True
    for name, (f, args) in cases().items():
        check(f, args)
        found = nanoseconds(calls(f, args), rounds)
        bar = BARS.get(name)
        kept &= bar is None or found["native"] <= bar
        shown = (found.get(c, math.nan) for c in CONTENDERS)
        columns = "".join(f"{ns:9.0f}" for ns in shown)
        print(f"{name:<26}{columns}{bar or '':>6}", flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
