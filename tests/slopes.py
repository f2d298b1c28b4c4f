"""Derivatives against finite differences, to any order; and who runs the graphs of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tilewright import graph, staging, trees
from tilewright.compile import run_graph
from tilewright.transforms.autodiff import jvp, vjp

Function = Callable[..., Any]


def interpreted(g: graph.Graph, arrays: Any) -> list[Any]:
    """By NumPy, op by op, what the verifier has no objection to."""
    graph.verify(g)
    return graph.evaluate(g, arrays)


RUNNERS = {"interpreted": interpreted, "compiled": run_graph}


@pytest.fixture(autouse=True, params=sorted(RUNNERS))
def runner(request: Any) -> Iterator[None]:
    """A module that imports this runs its tests by each of the runners."""
    staging.run_with(RUNNERS[request.param])
    yield
    staging.run_with(run_graph)


def check_slopes(
    f: Function, *args: Any, order: int = 2, step: float = 1e-5, tol: float = 1e-5
) -> None:
    """`f`'s forward mode equals a central difference along a random direction, and reverse mode is
    its transpose; then the same of the reverse mode, up to `order`. Arguments are float64 trees."""
    rng = np.random.default_rng(7)
    like = lambda tree: trees.map(lambda x: rng.standard_normal(np.shape(x)), tree)
    direction = like(args)
    moved = [trees.map(lambda x, v, s=s: x + s * step * v, args, direction) for s in (1, -1)]
    ahead, behind = (f(*m) for m in moved)
    expected = trees.map(lambda a, b: (a - b) / (2 * step), ahead, behind)

    out, tangent = jvp(f, args, direction)
    compare(out, f(*args), 1e-12)
    compare(tangent, expected, tol)

    cotangent = like(out)
    _, pull = vjp(f, *args)
    pulled = pull(cotangent)
    np.testing.assert_allclose(
        inner(pulled, direction), inner(cotangent, tangent), rtol=1e-9, atol=1e-9
    )
    if order > 1:

        def backward(*inner_args: Any) -> Any:
            return vjp(f, *inner_args)[1](cotangent)

        check_slopes(backward, *args, order=order - 1, step=step, tol=tol * 10)


def slope(f: Function, x: Any, step: float = 1e-5) -> Any:
    """The derivative of `f` along each axis of the vector `x`, last, by central differences of
    what NumPy computes: no runner of ours takes part."""
    columns = [(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(len(x))]
    return np.stack(columns, axis=-1)


def inner(a: Any, b: Any) -> float:
    """The inner product of two trees."""
    return float(sum(np.sum(x * y) for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True)))


def compare(found: Any, expected: Any, tol: float = 1e-6) -> None:
    """Equal trees of nearly equal arrays."""
    assert trees.structure(found) == trees.structure(expected)
    for x, y in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        assert np.shape(x) == np.shape(y)
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol)
