"""Sorting, scans, scatters, gathers and lookups against NumPy, JAX and PyTorch, on one core.

    python benchmarks/sorting.py [--only NAME] [--seconds S] [--json FILE]

Every contender gets its own arrays and its own best form; results are checked before anything is
timed. The ratio is the best peer's time over ours, and a mark `<` stands where it is below 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import Call, alternate, check, machine, one_core

Function = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """What NumPy computes, what the others compute (None: they have no such function), and the
    arrays. `ours` is NumPy's unless a traced program has to be told a size."""

    name: str
    arguments: tuple[Any, ...]
    numpy: Function
    jax: Function | None = None
    torch: Function | None = None
    ours: Function | None = None
    rtol: float = 0.0


@dataclass
class Row:
    """Milliseconds a call, medians."""

    name: str
    call: dict[str, float] = field(default_factory=dict)
    ratio: float = 0.0


def cases() -> Iterator[Case]:
    yield from sorts()
    yield from selections()
    yield from scans()
    yield from lookups()
    yield from scatters()


# -- the cases -----------------------------------------------------------------------------------


def sorts() -> Iterator[Case]:
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)

    def case(label: str, x: Any, axis: int) -> Iterator[Case]:
        yield Case(
            f"sort {label}", (x,), lambda x: np.sort(x, axis=axis),
            lambda x: jnp.sort(x, axis=axis), lambda t, x: t.sort(x, dim=axis).values,
        )  # fmt: skip
        yield Case(
            f"argsort {label}", (x,), lambda x: np.argsort(x, axis=axis, kind="stable"),
            lambda x: jnp.argsort(x, axis=axis),
            lambda t, x: t.argsort(x, dim=axis, stable=True),
        )  # fmt: skip

    for dtype in ("float32", "float64", "int32", "int64"):
        for n in (100, 1000, 10_000, 100_000, 1_000_000):
            yield from case(f"{n} {dtype}", (rng.standard_normal(n) * 1e6).astype(dtype), 0)
    yield from case("10M float32", rng.standard_normal(10_000_000).astype("float32"), 0)
    for shape, axis in (((1000, 1000), 0), ((1000, 1000), 1), ((10_000, 16), 1), ((64, 100, 7), 1)):
        for dtype in ("float32", "float64", "int16"):
            x = (rng.standard_normal(shape) * 1e3).astype(dtype)
            yield from case(f"{'x'.join(map(str, shape))} axis {axis} {dtype}", x, axis)


def selections() -> Iterator[Case]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import tilewright as tw

    rng = np.random.default_rng(1)
    for n in (10_000, 1_000_000):
        for dtype in ("float32", "float64"):
            x = rng.standard_normal(n).astype(dtype)
            middle = (n + 1) % 2
            yield Case(
                f"median {n} {dtype}", (x,), np.median, jnp.median,
                (lambda t, x: t.quantile(x, 0.5)) if middle and n < 1 << 24 else None, rtol=1e-6,
            )  # fmt: skip
    rows = rng.standard_normal((1000, 1000)).astype("float32")
    yield Case("median rows 1000x1000", (rows,), lambda x: np.median(x, axis=1),
               lambda x: jnp.median(x, axis=1), rtol=1e-6)  # fmt: skip
    x = rng.standard_normal(1_000_000).astype("float32")
    yield Case("percentile 5 50 95 1M", (x,), lambda x: np.percentile(x, [5, 50, 95]),
               lambda x: jnp.percentile(x, jnp.array([5, 50, 95])), rtol=1e-5)  # fmt: skip
    for shape, k in (
        ((1_000_000,), 10),
        ((1_000_000,), 1000),
        ((1000, 1000), 10),
        ((64, 50_257), 40),
    ):
        y = rng.standard_normal(shape).astype("float32")
        yield Case(
            f"top {k} of {'x'.join(map(str, shape))}", (y,),
            lambda x, k=k: np.flip(np.sort(x, -1), -1)[..., :k],
            lambda x, k=k: jax.lax.top_k(x, k)[0], lambda t, x, k=k: t.topk(x, k).values,
            lambda x, k=k: tw.lax.top_k(x, k)[0],
        )  # fmt: skip


def scans() -> Iterator[Case]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(2)
    for shape, axis in (((1024, 4096), 1), ((1024, 4096), 0), ((1000, 100), 1), ((1_000_000,), 0)):
        for dtype in ("float32", "float64", "int64"):
            x = (
                rng.standard_normal(shape).astype(dtype)
                if dtype[0] == "f"
                else rng.integers(-9, 9, shape)
            )
            label = f"{'x'.join(map(str, shape))} axis {axis} {dtype}"
            yield Case(f"cumsum {label}", (x,), lambda x, a=axis: np.cumsum(x, axis=a),
                       lambda x, a=axis: jnp.cumsum(x, axis=a),
                       lambda t, x, a=axis: t.cumsum(x, a), rtol=2e-3)  # fmt: skip
    x = (1 + 1e-4 * rng.standard_normal((1024, 4096))).astype("float32")
    yield Case(
        "cumprod 1024x4096", (x,), lambda x: np.cumprod(x, axis=1),
        lambda x: jnp.cumprod(x, axis=1), lambda t, x: t.cumprod(x, 1), rtol=1e-3,
    )  # fmt: skip
    yield Case("cummax 1024x4096", (x,), lambda x: np.maximum.accumulate(x, axis=1),
               lambda x: jax.lax.cummax(x, 1), lambda t, x: t.cummax(x, 1).values)  # fmt: skip


def lookups() -> Iterator[Case]:
    import jax.numpy as jnp
    import numpy as np

    import tilewright.numpy as tnp

    rng = np.random.default_rng(3)
    x = rng.standard_normal(1_000_000).astype("float32")
    line, queries = np.sort(x), rng.standard_normal(100_000).astype("float32")
    for label, a, v in (
        ("100k in 1M", line, queries), ("100k in 1000", line[::1000].copy(), queries),
        ("1M in 10", line[::100_000].copy(), x),
    ):  # fmt: skip
        yield Case(f"searchsorted {label}", (a, v), np.searchsorted, jnp.searchsorted,
                   lambda t, a, v: t.searchsorted(a, v))  # fmt: skip
    yield Case("histogram 1M, 100 bins", (x,), lambda x: np.histogram(x, bins=100)[0],
               lambda x: jnp.histogram(x, bins=100)[0], rtol=1e-3)  # fmt: skip
    for n in (10, 1000):
        at = rng.integers(0, n, 1_000_000)
        yield Case(
            f"bincount 1M of {n}", (at,), lambda i, n=n: np.bincount(i, minlength=n),
            lambda i, n=n: jnp.bincount(i, length=n), lambda t, i, n=n: t.bincount(i, minlength=n),
            lambda i, n=n: tnp.bincount(i, length=n),
        )  # fmt: skip
    order = rng.permutation(1_000_000)
    yield Case("take 1M permuted", (x, order), np.take, jnp.take, lambda t, x, p: t.take(x, p))
    table, rows = (
        rng.standard_normal((50_000, 128)).astype("float32"),
        rng.integers(0, 50_000, 10_000),
    )
    yield Case(
        "take 10000 rows of 128", (table, rows), lambda x, p: np.take(x, p, axis=0),
        lambda x, p: jnp.take(x, p, axis=0), lambda t, x, p: t.index_select(x, 0, p),
    )  # fmt: skip
    at = rng.integers(0, 128, (5000, 64))
    yield Case("take_along_axis 5000x64 of 128", (table[:5000].copy(), at),
               lambda x, p: np.take_along_axis(x, p, 1), lambda x, p: jnp.take_along_axis(x, p, 1),
               lambda t, x, p: t.gather(x, 1, p))  # fmt: skip


def scatters() -> Iterator[Case]:
    import numpy as np

    rng = np.random.default_rng(4)
    x = rng.standard_normal(1_000_000).astype("float32")

    def combined(kind: Any) -> Function:
        def f(z: Any, i: Any, u: Any) -> Any:
            out = z.copy()
            kind.at(out, i, u)
            return out

        return f

    def add(z: Any, i: Any, u: Any) -> Any:
        return z.at[i].add(u)

    def write(z: Any, i: Any, u: Any) -> Any:
        out = z.copy()
        out[i] = u
        return out

    for n in (10, 1000):
        z, at = np.zeros(n, "float32"), rng.integers(0, n, 1_000_000)
        yield Case(f"scatter add 1M to {n}", (z, at, x), combined(np.add), add,
                   lambda t, z, i, u: z.index_add(0, i, u), add, rtol=1e-2)  # fmt: skip
    yield Case("scatter max 1M to 1000", (z, at, x), combined(np.maximum),
               lambda z, i, u: z.at[i].max(u),
               lambda t, z, i, u: z.scatter_reduce(0, i, u, "amax"),
               lambda z, i, u: z.at[i].max(u))  # fmt: skip
    order = rng.permutation(1_000_000)
    yield Case("scatter set 1M permuted", (x, order, x), write, lambda z, i, u: z.at[i].set(u),
               lambda t, z, i, u: z.index_copy(0, i, u))  # fmt: skip
    table, rows = (
        rng.standard_normal((50_000, 128)).astype("float32"),
        rng.integers(0, 50_000, 10_000),
    )
    yield Case(
        "scatter add 10000 rows of 128", (table, rows, table[:10_000].copy()), combined(np.add),
        add, lambda t, z, i, u: z.index_add(0, i, u), add, rtol=1e-4,
    )  # fmt: skip


# -- running them --------------------------------------------------------------------------------


def contenders(case: Case) -> dict[str, Call]:
    """Each contender as a call without arguments."""
    import jax

    import tilewright as tw

    args = case.arguments
    calls: dict[str, Call] = {"numpy": lambda: case.numpy(*args)}
    if case.jax is not None:
        on_device, traced = [jax.device_put(a) for a in args], jax.jit(case.jax)
        calls["jax"] = lambda: jax.block_until_ready(traced(*on_device))
    if case.torch is not None and find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        program, tensors = case.torch, [torch.from_numpy(a.copy()) for a in args]
        calls["torch"] = lambda: program(torch, *tensors)
    compiled = tw.compile(case.ours or case.numpy)
    calls["ours"] = lambda: compiled(*args)
    return calls


def measure(case: Case, seconds: float) -> Row:
    calls = contenders(case)
    expected = case.numpy(*case.arguments)
    for name, call in calls.items():
        check(f"{case.name} by {name}", call(), expected, case.rtol)
    times = alternate(calls, seconds)
    row = Row(case.name, {name: statistics.median(t) for name, t in times.items()})
    rounds = zip(*(times[name] for name in calls if name != "ours"), strict=True)
    pairs = zip(rounds, times["ours"], strict=True)
    row.ratio = statistics.median(min(peers) / ours for peers, ours in pairs)
    return row


def main() -> int:
    """Run the cases whose names contain `--only`, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.5, help="time given to each case")
    parser.add_argument("--json", type=Path, help="where to write the measurements")
    options = parser.parse_args()
    import jax

    jax.config.update("jax_enable_x64", True)
    columns = ("numpy", "jax", "torch", "ours")
    print(f"{'case':<36}" + "".join(f"{c + ' ms':>11}" for c in columns) + "   best/ours")
    rows = []
    for case in cases():
        if options.only in case.name:
            row = measure(case, options.seconds)
            rows.append(row)
            cells = "".join(
                f"{row.call[c]:11.4f}" if c in row.call else f"{'-':>11}" for c in columns
            )
            print(f"{row.name:<36}{cells} {row.ratio:9.2f}{'<' * (row.ratio < 1)}", flush=True)
    if rows:
        mean = statistics.geometric_mean(r.ratio for r in rows)
        below = sum(r.ratio < 1 for r in rows)
        print(f"\n{len(rows)} cases, geometric mean {mean:.2f}, {below} below 1")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine(), "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    one_core()
    sys.exit(main())
