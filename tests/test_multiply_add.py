"""Multiply-adds that are written out: which functions have them, and that they compute the same."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tilewright as tw
from tilewright.codegen import multiply_add
from tilewright.codegen.llvm_values import Emitter, Operand
from tilewright.codegen.multiply_add import SPREAD, WRITTEN
from tilewright.dtypes import float32
from tilewright.target import NAMED, host

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
    short = llvm_of(product, normal(512, 7), normal(7, 512))
    assert "asm " not in short


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


def test_displacements_before_and_behind_the_pointer():
    emitter = Emitter()
    acc, b = Operand("%acc", float32, 16), Operand("%b", float32, 16)
    for displacement, place in ((0, "($3)"), (-64, "-64($3)"), (1 << 20, "1048576($3)")):
        multiply_add.multiplied_by_memory(emitter, "%p", displacement, 1, b, acc)
        assert f'"vfmadd231ps {place}, $2, $0"' in emitter.lines[-1]
    multiply_add.multiplied_by_memory(emitter, "%p", 4, 0, b, acc)
    assert '"vfmadd231ps 4($3){1to16}, $2, $0"' in emitter.lines[-1]


@pytest.mark.parametrize(
    "lanes, fits", [(1, False), (2, False), (4, True), (8, True), (16, True), (32, False)]
)
def test_sums_that_are_registers(lanes, fits):
    assert multiply_add.fits(Operand("%acc", float32, lanes)) == fits


def test_machines_of_another_kind_have_none():
    for name, target in NAMED.items():
        found = multiply_add.native(target)
        assert SPREAD not in found or "avx512" in target.features, name
        if target.architecture != host().architecture:
            assert not found, name


def test_baseline_x86_has_none():
    assert not multiply_add.native(NAMED["sse2"])
