"""Sorting and its kin at the sizes where they change their way, and every way at small sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
import tilewright.numpy as tnp
from tilewright import dtypes, loops
from tilewright.expr import Buffer, Expr
from tilewright.loops import Function, Program, Stmt, block, store
from tilewright.ops.order import OrderStatistics, TopK
from tilewright.ops.samples import of_kinds, samples
from tilewright.ops.searching import Count, Nonzero, SearchSorted
from tilewright.ops.sort import Argsort, Sort
from tilewright.ops.sort_lines import LineSort
from tilewright.ops.sort_loops import Digits, Item, Items, Keys, Place, odd_even_pairs

TYPES = of_kinds("biuf")


def awkward(dtype: Any, shape: tuple[int, ...]) -> Any:
    """Ends of ranges, ties, signed zeros, infinities and NaN, in random order."""
    rng = np.random.default_rng(len(shape) + shape[-1])
    size = int(np.prod(shape))
    some = samples(dtype, (max(size // 2, 40),))
    if dtypes.is_float(dtype):
        rest = (rng.standard_normal(size) * 100).astype(dtype)
    elif dtypes.is_bool(dtype):
        rest = rng.random(size) < 0.5
    else:
        info = np.iinfo(dtype)
        rest = rng.integers(info.min, info.max, size, dtype, endpoint=True)
    every = np.concatenate([np.ravel(some), rest])
    return rng.permutation(every)[:size].reshape(shape)


def wide(x: Any) -> Any:
    return x.astype(dtypes.compute_type(x.dtype))


def expect_sorted(x: Any, axis: int, descending: bool) -> None:
    """Values, and stable positions, of `Sort` and `Argsort` on `x`."""
    values = np.asarray(tw.compile(lambda x: Sort(axis, descending)(x)[0])(x))
    at = np.asarray(tw.compile(lambda x: Argsort(axis, descending)(x))(x))
    np.testing.assert_array_equal(at, Argsort(axis, descending).numpy(x))
    np.testing.assert_array_equal(wide(values), np.take_along_axis(wide(x), at, axis))


@pytest.mark.parametrize("n", [2, 17, 100, 300, 1500, 5000, 20_000])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_one_line(dtype: Any, n: int) -> None:
    expect_sorted(awkward(dtype, (n,)), 0, descending=n % 3 == 0)


SHAPES = [
    ((16, 40), 0),
    ((40, 67), 1),
    ((70, 5), 1),
    ((33, 19, 3), 1),
    ((300, 21), 0),
    ((2, 6, 64), 1),
]


@pytest.mark.parametrize("shape, axis", SHAPES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_many_lines(dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    expect_sorted(awkward(dtype, shape), axis, descending=axis == 0)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_lines_in_order_backwards_or_all_the_same(dtype: str) -> None:
    line = np.arange(9000).astype(dtype)
    for x in (line, line[::-1], line * 0 + 3, line // 1000):
        expect_sorted(x, 0, descending=False)


def test_negative_zero_keeps_its_place_and_its_sign() -> None:
    x = np.array([0.0, -0.0] * 200)
    order = np.asarray(tw.compile(lambda x: Argsort(0)(x))(x))
    np.testing.assert_array_equal(order, np.arange(400))
    moved = np.asarray(tw.compile(lambda x: Sort(0)(x, x)[1])(x))
    np.testing.assert_array_equal(np.signbit(moved), np.signbit(x))


def test_companions_follow_their_keys() -> None:
    rng = np.random.default_rng(0)
    for n in (50, 700, 12_000):
        keys, other = rng.integers(0, 9, n), rng.standard_normal(n)
        got = tw.compile(lambda k, o: Sort(0)(k, o))(keys, other)
        order = np.argsort(keys, kind="stable")
        np.testing.assert_array_equal(got[0], keys[order])
        np.testing.assert_array_equal(got[1], other[order])


# -- every way, by the interpreter of loops ------------------------------------------------------


@pytest.mark.parametrize("way", range(4), ids=["ranks", "spread", "digits", "tall"])
@pytest.mark.parametrize("with_order", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_every_way_sorts(dtype: str, with_order: bool, way: int) -> None:
    x = awkward(np.dtype(dtype), (1, 21, 2))
    xs = Buffer("x", x.dtype, x.shape)
    items = Items(Keys(x.dtype, merged=with_order), 21, with_order)
    out = Buffer("out", dtypes.int64 if with_order else x.dtype, x.shape)

    def write(place: Place, j: Expr, item: Item) -> list[Stmt]:
        value = items.position(item) if with_order else items.element(item)
        return [store(out, (place(j),), value)]

    nest: Callable[[], Stmt] = LineSort(xs, 1, items, write).ways()[way][1]
    function = Function("sort", (out, xs), block(nest()))
    loops.verify(function)
    result = np.zeros(x.shape, out.dtype)
    loops.run(Program((function,)), [result, x])
    want = Argsort(1).numpy(x) if with_order else np.sort(x, 1)
    np.testing.assert_array_equal(result, want)


def test_networks_sort_all_zeros_and_ones() -> None:
    """By the 0-1 principle (Knuth, TAOCP 3, 5.3.4) they then sort everything."""
    for n in range(2, 13):
        bits = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
        for i, j in odd_even_pairs(n):
            bits[:, [i, j]] = np.sort(bits[:, [i, j]])
        assert (np.diff(bits) >= 0).all()


def test_digits_are_as_long_as_pays() -> None:
    def passes(dtype: str, n: int) -> int:
        return Digits(Items(Keys(np.dtype(dtype)), n, False), n).passes

    assert [passes("int8", 10**5), passes("int16", 10**5)] == [1, 2]
    assert [passes("int32", 500), passes("int32", 10**5), passes("int32", 10**8)] == [4, 3, 4]


# -- the first k, ranks ------------------------------------------------------------------------


@pytest.mark.parametrize("shape, axis, k", [
    ((3000,), 0, 7), ((3000,), 0, 300), ((3000,), 0, 2500), ((5, 1000), 1, 3), ((900, 4), 0, 33),
    ((2, 60), 1, 60), ((257,), 0, 1),
])  # fmt: skip
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_first_k(dtype: Any, shape: tuple[int, ...], axis: int, k: int) -> None:
    x = awkward(dtype, shape)
    values, at = tw.compile(lambda x: TopK(k, axis)(x))(x)
    want, places = TopK(k, axis).numpy(x)
    np.testing.assert_array_equal(at, places)
    np.testing.assert_array_equal(wide(np.asarray(values)), wide(want))


def test_first_k_of_lines_in_order() -> None:
    line = np.arange(5000.0)
    for x in (line, line[::-1], line // 500, line * 0):
        values, at = tw.compile(lambda x: TopK(9, 0)(x))(x)
        want, places = TopK(9, 0).numpy(x)
        np.testing.assert_array_equal(values, want)
        np.testing.assert_array_equal(at, places)


@pytest.mark.parametrize(
    "ranks", [(0,), (2499, 2500), (17, 18, 19, 4999), tuple(range(0, 5000, 7))]
)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_ranks(dtype: Any, ranks: tuple[int, ...]) -> None:
    x = awkward(dtype, (2, 5000))
    got = np.asarray(tw.compile(lambda x: OrderStatistics(ranks)(x))(x))
    np.testing.assert_array_equal(wide(got), wide(OrderStatistics(ranks).numpy(x)))


@pytest.mark.parametrize("n", [1, 2, 9, 10, 3001, 20_000])
def test_median_and_quantiles(n: int) -> None:
    x = np.random.default_rng(n).standard_normal((2, n))
    for f in (
        lambda x: np.median(x, axis=1),
        lambda x: np.quantile(x, [0.0, 0.3, 0.5, 1.0], axis=1),
        lambda x: np.percentile(x, 90, method="nearest"),
    ):
        np.testing.assert_allclose(tw.compile(f)(x), f(x), rtol=1e-12)
    x[0, n // 2] = np.nan
    np.testing.assert_array_equal(
        np.isnan(tw.compile(lambda x: np.median(x, axis=1))(x)), [True, False]
    )


# -- counting, looking up, what holds ------------------------------------------------------------


@pytest.mark.parametrize("dtype", of_kinds("iu"), ids=str)
def test_counts(dtype: Any) -> None:
    x = awkward(dtype, (7001,))
    for count in (Count(1), Count(30), Count(3000)):
        np.testing.assert_array_equal(tw.compile(count)(x), count.numpy(x))


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 1000])
@pytest.mark.parametrize("right", [False, True])
def test_lookup(right: bool, n: int) -> None:
    for dtype in TYPES:
        a = awkward(dtype, (max(n, 1),))[:n]
        a = a[Argsort(0).numpy(a)] if n else a
        v = awkward(dtype, (333,))
        got = np.asarray(tw.compile(lambda a, v: SearchSorted(right)(a, v))(a, v))
        np.testing.assert_array_equal(got, SearchSorted(right).numpy(a, v))


def test_what_holds() -> None:
    mask = np.random.default_rng(0).random(5000) < 0.3
    for size in (0, 10, 1500, 5000, 6000):
        found, count = tw.compile(lambda m, size=size: Nonzero(size)(m))(mask)
        want = Nonzero(size).numpy(mask)
        np.testing.assert_array_equal(found, want[0])
        assert int(count) == int(want[1])


@pytest.mark.parametrize("dtype, bins", [
    (d, n) for d in ("float16", "float32", "float64", "int32", "uint8") for n in (1, 7, 300, 5000)
    if (d, n) != ("float16", 5000)  # bins that NumPy refuses: the type cannot tell them apart
])  # fmt: skip
def test_histograms_of_equal_bins(dtype: str, bins: int) -> None:
    rng = np.random.default_rng(bins)
    x = (rng.standard_normal(5000) * 40).astype(dtype)
    for f in (
        lambda x: np.histogram(x, bins=bins)[0],
        lambda x: np.histogram(x, bins=bins, range=(-30, 50))[0],
    ):
        np.testing.assert_array_equal(tw.compile(f)(x), f(x))


def test_bincount_drops_what_has_no_bin() -> None:
    x = np.array([3, 0, 3, 9, 1], np.uint8)
    got = tw.compile(lambda x: tnp.bincount(x, length=4))(x)
    np.testing.assert_array_equal(got, [1, 1, 0, 2])
