"""Argmax of long lines by blocks, of what lies in memory and of what is computed: the ops obey the
laws, positions are NumPy's, and short lines and other axes are left alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import laws
import tilewright as tw
from tilewright import Options, dtypes
from tilewright.errors import InternalError
from tilewright.graph import Graph, Type, new_input
from tilewright.ops import elementwise
from tilewright.ops.contract import Dot
from tilewright.ops.extremes import MANY, ArgOfLines, block_of
from tilewright.ops.reduce import ArgMax, ArgMin, ArgOfBlocks, BlockExtremes
from tilewright.ops.samples import Example, of_kinds, samples
from tilewright.transforms.extremes import BLOCK, LONG, block_size, extremes


@pytest.mark.parametrize("kind", ("max", "min"))
@pytest.mark.parametrize("shape", [(3, 13), (12,), (2, 1, 5), (0, 7), (1, 4)])
def test_laws(shape: tuple[int, ...], kind: str) -> None:
    for dtype in of_kinds("biuf"):
        x = samples(dtype, shape)
        first = BlockExtremes(kind, 4, 2)
        for example in (
            Example((x,), first),
            Example((x, first.numpy(x)), ArgOfBlocks(kind, 4, 2)),
        ):
            laws.check_type(example)
            laws.check_lowered(example)


def test_what_does_not_fit_is_refused() -> None:
    x = Type(dtypes.float32, (2, 9))
    with pytest.raises(InternalError):
        BlockExtremes("max", 10, 2).type(x)
    with pytest.raises(InternalError):
        ArgOfBlocks("max", 4, 2).type(x, Type(dtypes.float32, (2, 2, 2)))
    with pytest.raises(InternalError):
        BlockExtremes("max", 4, 3).type(x)


def test_laws_of_lines_in_memory() -> None:
    examples = ArgOfLines.examples()
    for example in examples:
        laws.check_type(example)
    laws.check_compiled(examples, tw.compile(options=Options(verify=True)))
    for x in (Type(dtypes.float32, (2, 63)), Type(dtypes.float64, ()), Type(dtypes.int8, (2, 9))):
        with pytest.raises(InternalError):
            ArgOfLines("max").type(x)


def both(x):
    return np.argmax(x, -1), np.argmin(x, -1)


def both_computed(x):
    """Of what is kept nowhere."""
    return both(-x.astype(np.result_type(x, np.int8)))


ways = pytest.mark.parametrize("f", (both, both_computed))
verified = functools.cache(tw.compile(options=Options(verify=True)))


@ways
@pytest.mark.parametrize("n", (LONG, LONG + 1, 700, 5 * BLOCK - 1, 3001, 65 * BLOCK + 9))
def test_positions_are_those_of_numpy(n: int, f) -> None:
    rng = np.random.default_rng(n)
    cases = [rng.standard_normal((5, n)).astype(d) for d in ("f4", "f8", "f2")]
    cases += [rng.integers(-3, 3, (2, 3, n)).astype(d) for d in ("i1", "i8")]
    cases += [rng.integers(0, 2, n).astype(bool), np.zeros((2, n), "f4")]
    for x in cases:
        for found, expected in zip(verified(f)(x), f(x), strict=True):
            assert found.dtype == expected.dtype
            assert_array_equal(found, expected)


@ways
@pytest.mark.parametrize("n", (LONG, 700, 65 * BLOCK, 66 * BLOCK - 5))
def test_the_first_of_equals_and_the_first_nan(n: int, f) -> None:
    """Wherever they are: in what the last two blocks share, too."""
    size = block_size(n) if f is both_computed else block_of(dtypes.float32)
    places = (0, size - 1, size, n - size, n // size * size - 1, n - 2)
    x = np.random.default_rng(0).standard_normal((2 * len(places), n)).astype("f4")
    for row, p in enumerate(places):
        x[2 * row, [p, n - 1]] = 9, 9
        x[2 * row + 1, [p, n - 1]] = np.nan, np.nan
        x[2 * row + 1, p // 2 : p] = np.inf
    x = -x if f is both_computed else x
    for found, expected in zip(verified(f)(x), f(x), strict=True):
        assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ("f4", "f8"))
@pytest.mark.parametrize("lines", (1, 3, MANY - 1, MANY, MANY + 1, MANY + 3))
def test_any_number_of_lines(lines: int, dtype: str) -> None:
    """Those that end together, and what is over; infinities only, and NaN among them."""
    rng = np.random.default_rng(lines)
    x = rng.standard_normal((lines, 333)).astype(dtype)
    x[::3, rng.integers(333, size=5)] = np.nan
    x[1::3], x[2::3, 100:] = -np.inf, np.inf
    for threads in (1, 2):
        for found, expected in zip(tw.compile(threads=threads)(both)(x), both(x), strict=True):
            assert_array_equal(found, expected)


def test_of_something_computed_and_under_threads() -> None:
    x = np.random.default_rng(0).standard_normal((40, 900))

    def f(x):
        y = np.exp(x - x.max(1, keepdims=True))
        return np.argmax(y / y.sum(1, keepdims=True), 1), np.argmin((x * x).reshape(20, -1), 1)

    for threads in (1, 2):
        for found, expected in zip(tw.compile(threads=threads)(f)(x), f(x), strict=True):
            assert_array_equal(found, expected)


def after(graph: Graph) -> set[type]:
    """The ops of a graph after the rewrite, which is done once."""
    found = extremes(graph)
    assert extremes(found) is found
    return {type(n.op) for n in found.nodes}


@pytest.mark.parametrize(
    ("shape", "axis", "long"),
    [
        ((4, LONG), 1, True),
        ((LONG,), 0, True),
        ((4, 4 * block_of(dtypes.float32) - 1), 1, False),
        ((LONG, 4), 0, False),
    ],
)
def test_which_lines_in_memory(shape: tuple[int, ...], axis: int, long: bool) -> None:
    for op in (ArgMax(axis), ArgMin(axis)):
        x = new_input("x", Type(dtypes.float32, shape))
        graph = Graph("f", (x,), (op.node(x),))
        assert (extremes(graph) is not graph) is long
        assert (ArgOfLines in after(graph)) is long


@pytest.mark.parametrize(("n", "long"), [(LONG, True), (LONG - 1, False)])
def test_which_lines_that_are_computed(n: int, long: bool) -> None:
    x = new_input("x", Type(dtypes.float32, (4, n)))
    graph = Graph("f", (x,), (ArgMax(1).node(elementwise.exp.node(x)),))
    assert ({BlockExtremes, ArgOfBlocks} <= after(graph)) is long
    assert ArgOfLines not in after(graph)


def test_products_and_their_epilogues_are_in_memory() -> None:
    a, b = (new_input(n, Type(dtypes.float32, (LONG, LONG))) for n in "ab")
    dot = Dot((1,), (0,)).node(a, b)
    for x in (dot, elementwise.add.node(dot, a)):
        graph = Graph("f", (a, b), (ArgMax(1).node(x),))
        assert ArgOfLines in after(graph)
