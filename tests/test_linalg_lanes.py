"""Factors and triangular systems of batches, one matrix in each lane: pivots as the loops for one
matrix choose them, groups that are not full, matrices smaller than a tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.ops.linalg import LU, TriangularSolve

SHAPES = [(8, 8, 8), (19, 9, 9), (2, 9, 11, 11), (21, 12, 8), (17, 8, 13), (9, 24, 24)]


def numbers(shape: tuple[int, ...], dtype: Any) -> Any:
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


def factors(x: Any) -> None:
    """Pivots and permutation are the reference's, factors but for roundings."""
    got = tw.compile(lambda x: LU()(x))(x)
    want = LU().numpy(x)
    assert [g.dtype for g in got] == [w.dtype for w in want]
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[2], want[2])
    tight = 1e-4 if x.dtype == np.float32 else 1e-11
    np.testing.assert_allclose(got[0], want[0], rtol=tight, atol=tight)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_factors(shape: tuple[int, ...], dtype: Any) -> None:
    if np.dtype(dtype).itemsize == 4:
        shape = (shape[0] + 8, *shape[1:])
    factors(numbers(shape, dtype))


def test_the_first_of_equal_pivots_is_taken() -> None:
    """Also where a row that comes first has been exchanged behind another."""
    rng = np.random.default_rng(0)
    factors(rng.integers(-1, 2, (40, 9, 9)).astype(np.float64))
    factors(np.ones((9, 8, 8)))
    factors(np.zeros((9, 8, 8)))


def test_what_is_not_a_number_spoils_its_own_matrix() -> None:
    x = numbers((11, 9, 9), np.float64)
    x[3, 0, 0], x[5, 4, 0], x[7, 2, 2], x[8, 1, 1] = np.nan, np.nan, np.inf, -np.inf
    factors(x)
    right = numbers((11, 9, 1), np.float64)
    got = tw.compile(np.linalg.solve)(x, right)
    good = [0, 1, 2, 4, 6, 9, 10]
    np.testing.assert_allclose(got[good], np.linalg.solve(x, right)[good], rtol=1e-9)
    assert np.isnan(got[[3, 5]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 3, 20])
def test_triangular_systems(columns: int, dtype: Any) -> None:
    a = (numbers((35, 10, 10), dtype) / 10 + 2 * np.eye(10, dtype=dtype)).astype(dtype)
    b = numbers((35, 10, columns), dtype)
    for upper in (False, True):
        for flipped in (False, True):
            for unit in (False, True):
                op = TriangularSolve(upper, flipped, unit)
                got = tw.compile(lambda a, b, op=op: op(a, b))(a, b)
                tight = 1e-4 if dtype == np.float32 else 1e-12
                np.testing.assert_allclose(got, op.numpy(a, b), rtol=tight, atol=tight)


def test_batches_of_systems_need_no_library() -> None:
    a, b = numbers((40, 20, 20), np.float64), numbers((40, 20, 2), np.float64)
    text = tw.compile(np.linalg.solve).lower(a, b).llvm
    assert "getrf" not in text and "trs" not in text
    assert "getrf" in tw.compile(np.linalg.solve).lower(a[:7], b[:7]).llvm
    np.testing.assert_allclose(
        tw.compile(np.linalg.solve)(a, b), np.linalg.solve(a, b), rtol=1e-7, atol=1e-9
    )
