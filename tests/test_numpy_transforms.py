"""The transforms on every function of the NumPy namespace: vmap is a loop, grad is a slope.

Runs the table of `test_numpy.py` through the interpreter; there the functions are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import test_numpy as table
import tilewright as tw
from running import interpreted, same
from tilewright import dtypes, trees

TABLES = (
    table.CREATION, table.SHAPE, table.ELEMENTWISE, table.REDUCED, table.PRODUCTS, table.SEARCHING,
    table.LINALG,
)  # fmt: skip
CASES = {name: case for cases in TABLES for name, case in cases.items()}
ROUGH = {
    "i0": "so steep that its sine has no slope to measure",
    "asarray": "rounds to float32",
}


def outputs(f: Callable[..., Any], *args: Any) -> list[Any]:
    """The results of `f` in a list, whatever tuple they came in."""
    return trees.leaves(f(*args))


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_stack(name: str) -> None:
    f, args = CASES[name]
    arrays = [np.asarray(a) for a in args]
    pairs = [np.stack([a, a[::-1] if a.ndim and a.dtype.kind == "f" else a]) for a in arrays]
    if name.startswith(("interp", "searchsorted", "cholesky")):
        pairs = [np.stack([a, a]) for a in arrays]  # still sorted, still positive definite
    got = interpreted(tw.vmap(lambda *a: outputs(f, *a)), *pairs)
    rows = [outputs(f, *(p[i] for p in pairs)) for i in (0, 1)]
    tolerance = 1e-4 if arrays[0].dtype == np.float32 else 1e-8
    same(got, [np.stack(both) for both in zip(*rows, strict=True)], tolerance)


def smooth(name: str) -> bool:
    """Whether the first argument of a case is made of ordinary real numbers."""
    x = np.asarray(CASES[name][1][0])
    return (
        x.dtype == np.float64 and x.size > 0 and bool(np.all(np.isfinite(x))) and name not in ROUGH
    )


@pytest.mark.parametrize("name", [name for name in CASES if smooth(name)])
def test_grad_is_the_slope(name: str) -> None:
    """Along one direction, of a sum of sines of all results, by central differences."""
    f, (x, *rest) = CASES[name]

    def total(x: Any) -> Any:
        parts = [
            np.sum(np.sin(y)) for y in outputs(f, x, *rest) if dtypes.is_float(np.result_type(y))
        ]
        return sum(parts, 0.0 * np.sum(x))

    way, step = np.random.default_rng(1).normal(size=np.shape(x)), 1e-6
    slope = (total(x + step * way) - total(x - step * way)) / (2 * step)
    same(np.sum(interpreted(tw.grad(total), x) * way), np.float64(slope), 1e-4)
