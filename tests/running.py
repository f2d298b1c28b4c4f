"""The one place that says how tests run a function of arrays: interpreted, and compiled.

Knows how results are compared: the same tree, shapes and dtypes, values up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tilewright as tw
from tilewright import dtypes, trees
from tilewright.graph import Type, evaluate, verify
from tilewright.staging import stage

ROUNDING = {
    dtypes.float16: 2e-3,
    dtypes.bfloat16: 2e-2,
    dtypes.float32: 2e-5,
    dtypes.complex64: 2e-5,
}
"""Relative error allowed by dtype; others 1e-11."""


def interpreted(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)` by tracing and NumPy: every argument an array."""
    arrays = [np.asarray(a) for a in args]
    staged = stage(f, [Type(a.dtype, a.shape) for a in arrays])
    verify(staged.graph)
    return staged.rebuild(evaluate(staged.graph, arrays))


def run(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)` compiled, once it was found to be what the interpreter says."""
    result = interpreted(f, *args)
    same(tw.compile(f)(*args), result)
    return result


def same(got: Any, expected: Any, tolerance: float | None = None) -> None:
    """Assert the same tree of arrays: the same shapes and dtypes, nearly the same values."""
    left, right = trees.leaves(got), trees.leaves(expected)
    assert len(left) == len(right), (got, expected)
    for a, b in zip(left, right, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{a!r} is not {b!r}"
        exact = not dtypes.is_inexact(a.dtype)
        near = 0 if exact else tolerance or ROUNDING.get(a.dtype, 1e-11)
        if a.dtype in (dtypes.bfloat16, dtypes.float16):
            a, b = a.astype(np.float32), b.astype(np.float32)
        finite = b[np.isfinite(b)] if not exact else b
        scale = 1 if exact or not finite.size else max(1.0, float(np.max(np.abs(finite))))
        np.testing.assert_allclose(a, b, rtol=near, atol=near * scale)


def check(f: Callable[..., Any], *args: Any, tolerance: float | None = None) -> None:
    """Assert that `f` traced is `f` itself, which is NumPy's."""
    with np.errstate(all="ignore"):
        same(run(f, *args), f(*args), tolerance)
