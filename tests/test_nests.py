"""Nests of products that are written out: which loops are, and that they compute the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtypes
from tilewright.codegen import llvm, multiply_add
from tilewright.codegen.multiply_add import SPREAD, WRITTEN
from tilewright.expr import Axis, Buffer, Expr, Load, apply, as_index, axis, index, literal, var
from tilewright.loops import Accumulate, Alloc, Function, Let, Program, Stmt, block, loop, store
from tilewright.runtime import jit
from tilewright.runtime.jit import pointers
from tilewright.runtime.memory import address
from tilewright.target import NAMED, VARIABLE, host

written = pytest.mark.skipif(
    WRITTEN not in multiply_add.native(host()), reason="this machine has no such instruction"
)
spread = pytest.mark.skipif(
    SPREAD not in multiply_add.native(host()), reason="this machine's have no spread operands"
)


def product(a, b):
    return a @ b


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def asm_of(f, *args):
    return tw.compile(f, threads=1).lower(*args).asm


def llvm_of(f, *args):
    return tw.compile(f, threads=1).lower(*args).llvm


@written
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_overwrites_its_sums(dtype):
    a, b = normal(96, 200, dtype=dtype), normal(200, 96, dtype=dtype, seed=1)
    assert "optnone" in llvm_of(product, a, b)
    text = asm_of(product, a, b)
    assert "vfmadd231p" in text
    assert not re.search(r"vfmadd(213|132)p", text)
    loop = text[text.index("vfmadd231p") : text.rindex("vfmadd231p")]
    assert "vmovap" not in loop, "a sum or a factor is copied"
    np.testing.assert_allclose(
        tw.compile(product)(a, b),
        a.astype(np.float64) @ b.astype(np.float64),
        rtol=1e-4 if dtype == np.float32 else 1e-12,
        atol=1e-4 if dtype == np.float32 else 1e-12,
    )


@written
def test_other_functions_are_left_to_llvm():
    x = normal(64, 300)
    softmax = llvm_of(lambda x: np.exp(x) / np.sum(np.exp(x), axis=1, keepdims=True), x)
    assert "asm " not in softmax
    assert "optnone" not in softmax
    # Seven products for each result that is stored: addresses count.
    assert "optnone" not in llvm_of(product, normal(512, 3), normal(3, 512))


@spread
def test_what_one_product_needs_is_read_by_the_instruction():
    # A row of positions by one vector of channels: each element is spread for one sum only.
    def convolution(x, w):
        return tw.lax.conv(x, w, (1, 1), "SAME")

    x, w = normal(1, 40, 21, 16), normal(16, 40, 5, 5, seed=1)
    assert re.search(r"vfmadd231ps\s+-?\d*\(%\w+\)\{1to16\}", asm_of(convolution, x, w))
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (2, 3))
    expected = np.einsum("ncyxhw,ochw->noyx", windows, w)
    np.testing.assert_allclose(tw.compile(convolution)(x, w), expected, rtol=1e-4, atol=1e-4)


@written
@pytest.mark.parametrize("narrow", [None, "avx2"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes(narrow, dtype, monkeypatch):
    if narrow:
        monkeypatch.setenv(VARIABLE, narrow)
    tolerance = 2e-5 if dtype == np.float32 else 1e-13
    for m, k, n in [(1, 5, 7), (2, 1, 16), (6, 17, 31), (13, 2, 33), (31, 67, 1), (47, 300, 53)]:
        a, b = normal(m, k, dtype=dtype), normal(k, n, dtype=dtype, seed=1)
        expected = a.astype(np.float64) @ b.astype(np.float64)
        got = tw.compile(product)(a, b)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * k)
        turned = tw.compile(product)(np.asfortranarray(a), np.asfortranarray(b))
        np.testing.assert_array_equal(turned, got)


@written
def test_nan_and_infinities_come_through():
    a, b = normal(20, 30), normal(30, 40, seed=1)
    a[3, 4], a[5, 6], b[7, 8] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float64) @ b.astype(np.float64)
    got = tw.compile(product)(a, b)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


# -- loops by hand ---------------------------------------------------------------------------------

ROWS, LANES = 3, 8


class Tile:
    """`ROWS` by `LANES` sums of float32 of products of two arrays, with loops by hand."""

    def __init__(self, a: Any, b: Any) -> None:
        self.given = a, b
        self.a = Buffer("a", dtypes.float32, a.shape, "input")
        self.b = Buffer("b", dtypes.float32, b.shape, "input")
        self.out = Buffer("out", dtypes.float32, (ROWS, LANES), "output")
        self.acc = Buffer("acc", dtypes.float32, (ROWS, LANES), "registers")

    def every(self, make: Callable[[Axis, Axis], Stmt], extent: int = LANES) -> Stmt:
        """A statement for each element of the tile, or for the first lanes of its rows."""
        r, v = axis("r", ROWS), axis("v", extent)
        return loop(r, loop(v, make(r, v), kind="vector", lanes=LANES), kind="unroll")

    def add(self, *at: Expr, extent: int = LANES) -> Stmt:
        """`acc[r, v] += a[r, *at] * b[*at, v]`."""

        def one(r: Axis, v: Axis) -> Stmt:
            x, y = Load(self.a, (r, *at), None), Load(self.b, (*at, v), None)
            return Accumulate(self.acc, (r, v), "sum", apply("mul", x, y))

        return self.every(one, extent)

    def fill(self, value: Expr, extent: int = LANES) -> Stmt:
        return self.every(lambda r, v: store(self.acc, (r, v), value), extent)

    def written(self, extent: int = LANES) -> Stmt:
        return self.every(
            lambda r, v: store(self.out, (r, v), Load(self.acc, (r, v), None)), extent
        )

    def run(self, *body: Stmt) -> tuple[Any, int]:
        """The results (7 where nothing was written), and how many nests the program has."""
        inner = block(Alloc(self.acc), *body)
        program = Program((Function("tile", (self.a, self.b, self.out), inner),))
        text = llvm.named(llvm.print_program(program, host(), 1), f"tile_{id(inner)}")
        out = np.full((ROWS, LANES), 7, np.float32)
        loaded = jit.load(jit.object_code(text, host()), f"tile_{id(inner)}", host())
        loaded.call(pointers([address(x) for x in (*self.given, out)]))
        return out, text.count(" asm ")


ZERO = literal(0, dtypes.float32)


@written
def test_a_sum_may_start_anywhere():
    a, b = normal(ROWS, 11), normal(11, LANES, seed=1)
    tile, k = Tile(a, b), axis("k", 11)
    for start in (0.0, -0.0, 2.5):
        begin = tile.fill(literal(start, dtypes.float32))
        got, nests = tile.run(begin, loop(k, tile.add(k)), tile.written())
        assert nests == 1
        np.testing.assert_allclose(got, start + a.astype(float) @ b, rtol=1e-5, atol=1e-6)


@written
def test_loops_in_loops_and_after_one_another():
    a, b = normal(ROWS, 4, 5, 6), normal(4, 5, 6, LANES, seed=1)
    tile = Tile(a, b)
    i, j, k = axis("i", 3), axis("j", 5), axis("k", 6)
    h, m = axis("h", 5), axis("m", 6)
    last = as_index(3)  # the fourth of the outermost numbers has loops of its own
    nest = loop(i, loop(j, loop(k, tile.add(i, j, k))))
    rest = loop(h, loop(m, tile.add(last, h, m)))
    got, nests = tile.run(tile.fill(ZERO), nest, rest, tile.written())
    assert nests == 1
    np.testing.assert_allclose(got, np.einsum("rijk,ijkv->rv", a.astype(float), b), atol=1e-4)


@written
def test_a_loop_with_products_around_another():
    a, b = normal(ROWS, 4, 5), normal(4, 5, LANES, seed=1)
    tile, i, k = Tile(a, b), axis("i", 4), axis("k", 4)
    inner = loop(k, tile.add(i, k))
    got, nests = tile.run(tile.fill(ZERO), loop(i, inner, tile.add(i, as_index(4))), tile.written())
    assert nests == 1
    np.testing.assert_allclose(got, np.einsum("rik,ikv->rv", a.astype(float), b), atol=1e-5)


@spread
def test_lanes_beyond_the_extent_are_not_touched():
    a, b = normal(ROWS, 9), normal(9, LANES, seed=1)
    b[:, 5:] = np.nan
    tile, k = Tile(a, b), axis("k", 9)
    got, nests = tile.run(tile.fill(ZERO, 5), loop(k, tile.add(k, extent=5)), tile.written(5))
    assert nests == 1
    np.testing.assert_allclose(got[:, :5], a.astype(float) @ b[:, :5], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[:, 5:], 7)


@written
@pytest.mark.parametrize("rounds", [0, 1, 6])
def test_rounds_that_the_program_counts(rounds):
    a, b = normal(ROWS, 6), normal(6, LANES, seed=1)
    a[0, 0] = rounds
    tile = Tile(a, b)
    count = var("n", dtypes.int64)
    k = axis("k", count)
    known = Let(count, apply("cast", Load(tile.a, (as_index(0),) * 2, None), dtype=dtypes.int64))
    got, nests = tile.run(known, tile.fill(ZERO), loop(k, tile.add(k)), tile.written())
    assert nests == 1
    expected = a[:, :rounds].astype(float) @ b[:rounds]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@written
def test_sums_that_are_read_again_stay_in_registers():
    a, b = normal(ROWS, 9), normal(9, LANES, seed=1)
    tile, k, m = Tile(a, b), axis("k", 9), axis("m", 9)
    one = loop(k, tile.add(k)), tile.written()
    got, nests = tile.run(tile.fill(ZERO), *one, loop(m, tile.add(m)), tile.written())
    assert nests == 2
    np.testing.assert_allclose(got, 2 * (a.astype(float) @ b), rtol=1e-5, atol=1e-5)


@written
def test_what_is_no_nest_is_printed_as_ever():
    a, b = normal(ROWS, 9), normal(9, LANES, seed=1)
    tile, k = Tile(a, b), axis("k", 9)

    def squares(r: Axis, v: Axis) -> Stmt:
        x = Load(tile.a, (r, index("%", index("*", k, k), as_index(9))), None)
        return Accumulate(tile.acc, (r, v), "sum", apply("mul", x, Load(tile.b, (k, v), None)))

    got, nests = tile.run(tile.fill(ZERO), loop(k, tile.every(squares)), tile.written())
    assert nests == 0, "a place that a pointer does not step to"
    places = np.arange(9) ** 2 % 9
    np.testing.assert_allclose(got, a[:, places].astype(float) @ b, rtol=1e-5, atol=1e-5)


@written
def test_more_sums_than_registers():
    rows = 40
    a, b = normal(rows, 9), normal(9, LANES, seed=1)
    acc = Buffer("acc", dtypes.float32, (rows, LANES), "registers")
    sources = [Buffer(n, dtypes.float32, x.shape, "input") for n, x in (("a", a), ("b", b))]
    out = Buffer("out", dtypes.float32, (rows, LANES), "output")
    k = axis("k", 9)

    def every(make: Callable[[Axis, Axis], Stmt]) -> Stmt:
        r, v = axis("r", rows), axis("v", LANES)
        return loop(r, loop(v, make(r, v), kind="vector", lanes=LANES), kind="unroll")

    def add(r: Axis, v: Axis) -> Stmt:
        x, y = Load(sources[0], (r, k), None), Load(sources[1], (k, v), None)
        return Accumulate(acc, (r, v), "sum", apply("mul", x, y))

    inner = block(
        Alloc(acc),
        every(lambda r, v: store(acc, (r, v), ZERO)),
        loop(k, every(add)),
        every(lambda r, v: store(out, (r, v), Load(acc, (r, v), None))),
    )
    program = Program((Function("wide", (*sources, out), inner),))
    text = llvm.named(llvm.print_program(program, host(), 1), "wide_tile")
    assert " asm " not in text
    got = np.empty((rows, LANES), np.float32)
    loaded = jit.load(jit.object_code(text, host()), "wide_tile", host())
    loaded.call(pointers([address(x) for x in (a, b, got)]))
    np.testing.assert_allclose(got, a.astype(float) @ b, rtol=1e-5, atol=1e-5)


# -- machines --------------------------------------------------------------------------------------


def test_machines_of_another_kind_have_none():
    for name, target in NAMED.items():
        found = multiply_add.native(target)
        assert SPREAD not in found or "avx512" in target.features, name
        if target.architecture != host().architecture:
            assert not found, name


def test_baseline_x86_has_none():
    assert not multiply_add.native(NAMED["sse2"])
