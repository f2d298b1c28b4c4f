"""Running reductions and recurrences on extents where lines are cut, grouped or put in lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright as tw
from running import run
from tilewright import dtypes
from tilewright.codegen import parallel
from tilewright.ops.cumulative import FAR, Cumulative, Recurrence
from tilewright.ops.samples import samples
from tilewright.runtime import threads

SHAPES = [
    ((1100,), 0),
    ((3, 700), 1),
    ((17, 300), 1),
    ((2, 9, 5), 1),
    ((4, 37), 0),
    ((3, 2, 260), 1),
]
TYPES = [dtypes.float32, dtypes.float64, dtypes.int32, dtypes.uint8, dtypes.bfloat16, dtypes.bool_]


def small(dtype: Any, shape: tuple[int, ...]) -> Any:
    """Numbers near 1 whose running products stay finite; bools and integers of any size."""
    rng = np.random.default_rng(0)
    if dtypes.is_float(dtype):
        return (1 + 0.01 * rng.standard_normal(shape)).astype(dtype)
    return samples(dtype, shape)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape, along", SHAPES)
@pytest.mark.parametrize("kind", ["sum", "prod", "max", "min"])
def test_running_reductions(kind: str, shape: tuple[int, ...], along: int, reverse: bool) -> None:
    for dtype in TYPES:
        op = Cumulative(kind, along, reverse)
        x = small(dtype, shape)
        got = np.asarray(tw.compile(lambda x, op=op: op(x))(x))
        want = op.numpy(x)
        assert got.dtype == want.dtype
        if dtypes.is_float(dtype):
            wide = np.float64
            tolerance = {dtypes.bfloat16: 1e-2, dtypes.float32: 1e-4}.get(dtype, 1e-11)
            np.testing.assert_allclose(got.astype(wide), want.astype(wide), rtol=tolerance)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(70001,), (65536,), (2, 100003), (3, 66000)])
@pytest.mark.parametrize("kind", ["sum", "max", "min"])
def test_long_lines(
    kind: str, shape: tuple[int, ...], reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads share a line, and find the bits of one thread."""
    monkeypatch.setattr(parallel, "WORTH_NS", 0)
    monkeypatch.setattr(parallel, "CHUNK_NS", 0)
    for dtype in (dtypes.float32, dtypes.float64, dtypes.int32, dtypes.int64):
        op = Cumulative(kind, len(shape) - 1, reverse)
        x = samples(dtype, shape) if dtypes.is_integer(dtype) else small(dtype, shape)
        alone = np.asarray(tw.compile(lambda x, op=op: op(x), threads=1)(x))
        want = op.numpy(x.astype(np.float64) if dtype == dtypes.float32 else x)
        np.testing.assert_allclose(alone, want, rtol=1e-5 if dtype == dtypes.float32 else 1e-11)
        many = tw.compile(lambda x, op=op: op(x), threads=62)
        for count in (1, 2, 3) if threads.available() else ():
            with tw.threads(count):
                assert np.asarray(many(x)).tobytes() == alone.tobytes()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n", [15, 33, 64, 101])
@pytest.mark.parametrize("kind", ["sum", "max"])
def test_lines_from_memory(kind: str, n: int, reverse: bool) -> None:
    """Short ones are cut into tiles too, the only one of which may not be full."""
    for dtype in (dtypes.float32, dtypes.float64, dtypes.int32, dtypes.int64):
        op = Cumulative(kind, 1, reverse)
        shape = (FAR // (n * dtype.itemsize) + 3, n)
        x = samples(dtype, shape) if dtypes.is_integer(dtype) else small(dtype, shape)
        got = np.asarray(tw.compile(lambda x, op=op: op(x))(x))
        tolerance = {dtypes.float32: 2e-5, dtypes.float64: 1e-12}.get(dtype, 0)
        np.testing.assert_allclose(got, op.numpy(x), rtol=tolerance)


@pytest.mark.parametrize("place", [5, 4095, 4096, 60000, 70000])
def test_nan_in_a_long_line(place: int) -> None:
    x = np.linspace(-1, 1, 70001)
    x[place] = np.nan
    for kind in ("max", "sum"):
        got = np.asarray(tw.compile(lambda x, kind=kind: Cumulative(kind, 0)(x))(x))
        assert np.isnan(got[place:]).all() and not np.isnan(got[:place]).any()


@pytest.mark.parametrize("kind", ["max", "min", "sum"])
def test_nan_stays_once_it_came(kind: str) -> None:
    x = np.linspace(-1, 1, 1500)
    x[777] = np.nan
    got = np.asarray(tw.compile(lambda x: Cumulative(kind, 0)(x))(x))
    assert np.isnan(got[777:]).all() and not np.isnan(got[:777]).any()


@pytest.mark.parametrize("shape, along", [((9, 1024), 1), ((5, 70), 1), ((40, 6), 0)])
def test_recurrences_where_lines_run_together(shape: tuple[int, ...], along: int) -> None:
    a, b = np.full(shape, 0.9), samples(dtypes.float64, shape)
    b = np.nan_to_num(b, posinf=1, neginf=-1)
    for reverse in (False, True):
        run(lambda a, b, r=reverse: Recurrence(along, r)(a, b), a, b)
