"""A large matrix times a vector: its rows are computed in stretches, together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.expr import static
from tilewright.target import host
from tilewright.transforms.heuristic import heuristic


def extents(f: Callable[..., Any], *args: Any) -> list[list[int]]:
    """The axes of each kernel."""
    return [[static(a.extent) for a in k.axes] for k in tw.compile(f).lower(*args).kernels]


def matvec(a: Any, x: Any) -> Any:
    return a @ x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape, stretches", [((1000, 1001), 2), ((999, 1203), 3), ((700, 4100), 4), ((350, 6000), 2)]
)
def test_values(
    shape: tuple[int, int], stretches: int, dtype: Any, rng: np.random.Generator
) -> None:
    a, x = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape[1]).astype(dtype)
    near = dtype is np.float64 and shape[1] == 1001  # 8 kB of vector
    count = 4 if near else stretches
    assert extents(matvec, a, x) == [[shape[0] // count, count]]
    error = 2e-4 if dtype is np.float32 else 1e-11
    np.testing.assert_allclose(tw.compile(matvec)(a, x), a.astype("f8") @ x, rtol=0, atol=error * 9)


def test_the_stretches_are_the_tile(rng: np.random.Generator) -> None:
    """More rows of each would be more streams."""
    a, x = rng.standard_normal((1000, 1000)), rng.standard_normal(1000)
    (kernel,) = tw.compile(matvec).lower(a, x).kernels
    text = repr(heuristic(kernel, host()))
    assert 'Unroll("h")' in text and 'Split("i"' not in text


def test_what_is_made_of_each_row(rng: np.random.Generator) -> None:
    """A step of Jacobi's iteration, and several results of one product."""
    a, x, b = (rng.standard_normal(s) for s in ((600, 600), 600, 600))

    def step(a: Any, x: Any, b: Any) -> Any:
        y = x + (b - a @ x) / np.diagonal(a)
        return y, np.exp(-y * y)

    assert [150, 4] not in extents(step, a, x, b)  # 4.8 kB of vector: two
    assert [300, 2] in extents(step, a, x, b)
    for got, want in zip(tw.compile(step)(a, x, b), step(a, x, b), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9)


def test_what_stays_as_it_is(rng: np.random.Generator) -> None:
    """A matrix that stays near, a prime number of rows, columns, and products of two matrices."""
    small, prime, x = (rng.standard_normal(s) for s in ((100, 1000), (997, 1000), 1000))
    assert extents(matvec, small, x) == [[100]]
    assert extents(matvec, prime, x) == [[997]]
    square = rng.standard_normal((1000, 1000))
    assert extents(lambda a, x: x @ a, square, x) == [[1000]]
    assert extents(lambda a: a.sum(1), square) == [[1000]]
    assert all(len(axes) == 2 for axes in extents(lambda a: a @ a.T, square))
