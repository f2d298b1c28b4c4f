"""Columns that fill no vector, with the lanes along the sum."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from fuzz import kernel_differs
from tilewright import dtypes
from tilewright.errors import ScheduleError
from tilewright.expr import Buffer, Reduce, axis, load
from tilewright.kernel import Assign, Kernel
from tilewright.loops import show_function
from tilewright.target import Target
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import loopify
from tilewright.transforms.schedule import (
    Across,
    Parallel,
    Schedule,
    Split,
    SplitReduction,
    Step,
    Turn,
    Unroll,
    Vectorize,
    planned,
)

ZEN5 = Target("x86_64-unknown-linux-gnu", "znver5", "", 64, 48 << 10, 1 << 20)
TILE: tuple[Step, ...] = (
    Split("i", 4), Unroll("i.i"), Split("j", 16), Split("j.i", 8), Unroll("j.i.o"),
    Vectorize("j.i.i"),
)  # fmt: skip


def matmul(rows: int, terms: int, columns: int, turned: bool = False, kind: str = "sum") -> Kernel:
    """out[i,j] = sum[k](x[i,k] * y[k,j]) + z[j], or of y[j,k]"""
    i, j, k = axis("i", rows), axis("j", columns), axis("k", terms)
    x = Buffer("x", dtypes.float32, (rows, terms))
    y = Buffer("y", dtypes.float32, (columns, terms) if turned else (terms, columns))
    z = Buffer("z", dtypes.float32, (columns,))
    out = Buffer("out", dtypes.float32, (rows, columns), "output")
    value = Reduce(kind, (k,), x[i, k] * (y[j, k] if turned else y[k, j])) + z[j]
    return Kernel("matmul", (i, j), (Assign(out, (i, j), (), value),))


@pytest.mark.parametrize("shape", [(1, 1, 17), (5, 6, 19), (9, 33, 31), (8, 16, 20), (3, 40, 9)])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("parallel", [(), (Parallel("i"),)])
def test_loops_do_what_the_kernel_says(
    shape: tuple[int, int, int], turned: bool, parallel: tuple[Step, ...]
) -> None:
    kernel = matmul(*shape, turned)
    own = Split("i", min(4, shape[0])), Split("j", 8)
    steps = (*parallel, own[0], Unroll("i.i"), own[1], Vectorize("j.i"), Across("j", 8))
    function = loopify(kernel, Schedule(steps))
    assert kernel_differs(kernel, function) is None
    copies = len(function.params) - len(kernel.params)
    assert copies == (not turned and shape[1] > 1), "what is strided along the sum is copied"


@pytest.mark.parametrize("kind", ["max", "min", "prod"])
def test_other_reductions(kind: str) -> None:
    kernel = matmul(5, 21, 19, kind=kind)
    assert kernel_differs(kernel, loopify(kernel, Schedule((*TILE, Across("j", 16))))) is None


def test_the_tile_sees_whole_vectors_only() -> None:
    """The tile's loops see 16 columns, and what follows reads a copy of the last three."""
    text = show_function(loopify(matmul(8, 32, 19), Schedule((*TILE, Across("j", 16)))))
    assert "y_copy" in text
    whole = planned(matmul(8, 32, 19), Schedule((*TILE, Across("j", 16))))
    assert [a.extent for a in whole.kernel.axes] == [8, 16]
    assert whole.rest is not None and [a.extent for a in whole.rest.kernel.axes] == [8, 3]


@pytest.mark.parametrize(
    ("kernel", "steps", "message"),
    [
        (matmul(8, 6, 32), (Across("j", 16),), "nothing is left over"),
        (matmul(8, 6, 12), (Across("j", 16),), "it has no whole vector"),
        (matmul(8, 6, 19), (Across("j", 1),), "it has no whole vector"),
        (matmul(8, 6, 19), (Across("k", 4),), "it is no axis of results of the kernel's one"),
        (matmul(9, 6, 19), (Across("j", 16), Across("i", 8)), "one axis is cut"),
        (matmul(8, 6, 19), (Across("l", 16),), "the kernel has i, j, k"),
        (
            matmul(8, 6, 19),
            (*TILE, SplitReduction("k", 2, 2), Across("j", 16)),
            "nothing is staged, turned or left over with it",
        ),
    ],
)
def test_what_is_not_legal(kernel: Kernel, steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(message)):
        planned(kernel, Schedule(steps))


def test_no_results_of_sums() -> None:
    i = axis("i", 19)
    x, out = Buffer("x", dtypes.float32, (19,)), Buffer("out", dtypes.float32, (19,), "output")
    kernel = Kernel("map", (i,), (Assign(out, (i,), (), load(x, (i,)) * 2.0),))
    with pytest.raises(ScheduleError, match="the kernel's one reduction"):
        planned(kernel, Schedule((Across("i", 16),)))


def test_step_prints_and_is_stored() -> None:
    schedule = Schedule((*TILE, Across("j", 16)))
    assert str(schedule).endswith("Across(j, 16)")
    assert Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ((333, 517, 129), True),  # a column for which a ninth vector would be walked
        ((200, 400, 50), True),
        ((333, 517, 128), False),
        ((333, 517, 143), False),  # all but full
        ((8, 6, 17), False),  # too little work for a walk of its own
    ],
)
def test_where_it_pays(shape: tuple[int, int, int], taken: bool) -> None:
    schedule = heuristic(matmul(*shape), ZEN5)
    assert any(isinstance(s, Across) for s in schedule.steps) is taken


def test_rows_that_are_not_side_by_side_stay() -> None:
    """x.T @ y reads x along its rows: lanes along the sum would be gathers."""
    i, j, k = axis("i", 333), axis("j", 129), axis("k", 517)
    x, y = Buffer("x", dtypes.float32, (517, 333)), Buffer("y", dtypes.float32, (517, 129))
    out = Buffer("out", dtypes.float32, (333, 129), "output")
    value = Reduce("sum", (k,), x[k, i] * y[k, j])
    schedule = heuristic(Kernel("xty", (i, j), (Assign(out, (i, j), (), value),)), ZEN5)
    taken = {s.axis for s in schedule.steps if isinstance(s, Across)}
    assert "j" not in taken


FORMS: dict[str, tuple[Any, Any]] = {
    "plain": (lambda x, w, b: x @ w, False),
    "epilogue": (lambda x, w, b: np.maximum(x @ w + b, 0) * 2, False),
    "turned": (lambda x, w, b: x @ w.T + b, True),
    "batched": (lambda x, w, b: np.stack([x, x + 1]) @ w + b, False),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fixed", [False, True])
def test_compiled(form: str, dtype: Any, fixed: bool) -> None:
    """Against NumPy in float64; weights that are constants are copied ahead."""
    f, turned = FORMS[form]
    rng = np.random.default_rng(2)
    x, w, b = rng.normal(size=(67, 211)), rng.normal(size=(211, 65)), rng.normal(size=65)
    w = np.ascontiguousarray(w.T) if turned else w
    expected = f(x, w, b)
    args = [a.astype(dtype) for a in (x, w, b)]
    if fixed:
        kept = tw.constant(args[1])
        compiled, args = tw.compile(lambda x, b: f(x, kept, b)), [args[0], args[2]]
    else:
        compiled = tw.compile(f)
    result = compiled(*args)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, atol=1e-3 if dtype == np.float32 else 1e-11)


def test_same_bits_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 517)).astype(np.float32)
    w = rng.normal(size=(517, 129)).astype(np.float32)
    results = [tw.compile(lambda x, w: x @ w, threads=n)(x, w) for n in (1, 2, 3)]
    assert all(np.array_equal(r, results[0]) for r in results)


def test_turned_tiles_may_leave_something_over() -> None:
    steps = (Split("j", 4), Unroll("j.i"), Split("i", 8), Vectorize("i.i"), Turn("j"))
    kernel = matmul(19, 33, 12)
    schedule = Schedule((*steps, Across("i", 16)))
    assert kernel_differs(kernel, loopify(kernel, schedule)) is None
