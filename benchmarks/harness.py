"""Side-by-side timing on one core: contenders take turns in one process, results are checked first.

Knows how to pin the process, give each contender its own best form, alternate them, and print the
medians. Refuses to know what is being timed: cases come from the scripts beside it.

Call `one_core()` before NumPy, JAX or the compiler are imported: thread pools size themselves when
they load.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

Call = Callable[[], Any]


def one_core() -> None:
    """Pin this process to the last core it may use, and every library in it to one thread."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TILEWRIGHT_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"


@dataclass(frozen=True)
class Case:
    """One function, written once for any array namespace `xp`, and its NumPy arguments."""

    name: str
    function: Callable[..., Any]  # (xp, *arguments) -> array or tuple of arrays
    arguments: Callable[[Any], tuple[Any, ...]]  # (numpy random generator) -> arrays
    rtol: float = 2e-5


@dataclass
class Row:
    """What was measured: milliseconds a call and of a function's first call, both medians."""

    name: str
    call: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    ratio: float = 0.0  # median over the rounds of jax / ours: above 1 we are faster


def first_call(build: Callable[[], Call]) -> tuple[Call, Any, float]:
    """Trace, compile and run once: the callable, its result, milliseconds."""
    start = time.perf_counter()
    call = build()
    result = call()
    return call, result, 1e3 * (time.perf_counter() - start)


def alternate(calls: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each contender, round by round, until `seconds` have passed (at least 15
    rounds). Within a round each runs for about two milliseconds; the order turns every round."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(2e-3 / max(time.perf_counter() - start, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, begun = list(calls), time.perf_counter()
    while len(times[names[0]]) < 15 or time.perf_counter() - begun < seconds:
        for name in names:
            call, n = calls[name], repeats[name]
            start = time.perf_counter()
            for _ in range(n):
                call()
            times[name].append(1e3 * (time.perf_counter() - start) / n)
        names.append(names.pop(0))
    return times


def compare(case: Case, seconds: float) -> Row:
    """NumPy, JAX and Tilewright on one case. JAX gets device arrays and is waited for."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import tilewright as tw
    from tilewright.target import host
    from tilewright.transforms.heuristic import heuristic

    args = case.arguments(np.random.default_rng(0))
    with jax.enable_x64(True) if any(a.dtype.itemsize == 8 for a in args) else nullcontext():
        on_device = [jax.device_put(a) for a in args]

        def jax_call() -> Call:
            f = jax.jit(lambda *xs: case.function(jnp, *xs))
            return lambda: jax.block_until_ready(f(*on_device))

        def our_call() -> Call:
            # A scheduler of its own keeps the program from being found in the cache.
            own = partial(heuristic, target=host())
            f = tw.compile(scheduler=own)(lambda *xs: case.function(np, *xs))
            return lambda: f(*args)

        expected = case.function(np, *args)
        row, calls = Row(case.name), {"numpy": lambda: case.function(np, *args)}
        firsts: dict[str, list[float]] = {"jax": [], "tilewright": []}
        for name, build in 3 * [("jax", jax_call), ("tilewright", our_call)]:
            # A first call finds nothing: neither our programs nor what JAX keeps of inner traces.
            jax.clear_caches()
            calls[name], result, milliseconds = first_call(build)
            firsts[name].append(milliseconds)
            check(f"{case.name} by {name}", result, expected, case.rtol)
        times = alternate(calls, seconds)
    row.call = {name: statistics.median(t) for name, t in times.items()}
    row.first = {name: statistics.median(t) for name, t in firsts.items()}
    pairs = zip(times["jax"], times["tilewright"], strict=True)
    row.ratio = statistics.median(theirs / ours for theirs, ours in pairs)
    return row


def check(what: str, result: Any, expected: Any, rtol: float) -> None:
    """A contender that computes something else is not timed."""
    import numpy as np

    results = result if isinstance(result, tuple) else (result,)
    wanted = expected if isinstance(expected, tuple) else (expected,)
    for got, want in zip(results, wanted, strict=True):
        np.testing.assert_allclose(
            np.asarray(got), want, rtol=rtol, atol=rtol * float(np.abs(want).max()), err_msg=what
        )


def warm_up() -> None:
    """Start both back ends, so that no case's first call pays for it."""
    import jax
    import numpy as np

    import tilewright as tw

    x = np.ones(3, np.float32)
    jax.jit(lambda x: x * 3 - 1)(x).block_until_ready()
    tw.compile(lambda x: x * 3 - 1)(x)


def main(description: str, cases: Sequence[Case]) -> int:
    """Run the cases whose names contain `--only`, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=1.0, help="time given to each case")
    parser.add_argument("--json", type=Path, help="where to write the measurements")
    options = parser.parse_args()
    warm_up()
    print(header())
    rows = []
    for case in cases:
        if options.only in case.name:
            rows.append(compare(case, options.seconds))
            print(line(rows[-1]), flush=True)
    print(summary(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine(), "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(document, indent=1))
    return 0


def machine() -> dict[str, str]:
    """What the figures depend on."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(text.split(":")[1].strip() for text in lines if text.startswith("model name"))
    versions = {name: version(name) for name in ("numpy", "jax", "llvmlite")}
    return {"cpu": model, "python": platform.python_version(), **versions}


def header() -> str:
    columns = "numpy ms      jax ms     ours ms   jax/ours   first: jax   ours ms"
    return f"{'case':<28} {columns}"


def line(row: Row) -> str:
    mark = " " if row.ratio >= 1 else "<"
    late = " " if row.first["tilewright"] <= row.first["jax"] else ">"
    return (
        f"{row.name:<28} {row.call['numpy']:8.3f} {row.call['jax']:11.3f} "
        f"{row.call['tilewright']:11.3f} {row.ratio:9.2f}{mark} "
        f"{row.first['jax']:11.1f} {row.first['tilewright']:9.1f}{late}"
    )


def summary(rows: Iterable[Row]) -> str:
    rows = list(rows)
    if not rows:
        return "no case has that name"
    fast = sum(r.ratio >= 1 for r in rows)
    quick = sum(r.first["tilewright"] <= r.first["jax"] for r in rows)
    mean = statistics.geometric_mean(r.ratio for r in rows)
    return (
        f"\n{fast} of {len(rows)} cases at least as fast as jax.jit (geometric mean {mean:.2f}x); "
        f"{quick} of {len(rows)} first calls at most as long"
    )
