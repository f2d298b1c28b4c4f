"""Every op of the catalogue obeys every law (see laws.py). A failure names the op and the law."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import laws
import tilewright as tw
from tilewright import dtypes
from tilewright.ops import catalogue, indexing, order, sort
from tilewright.ops.samples import Example

NAMES = list(catalogue.ALL)
SOURCES = ("Fill", "Constant", "Iota", "UnitArrays")
"""No arguments: nothing to differentiate or to batch."""
LINEAR = [n for n in NAMES if any(e.op.linear_in for e in catalogue.ALL[n]())]
SMOOTH = [n for n in NAMES if any(e.smooth and e.args for e in catalogue.ALL[n]())]
ONCE = ("lgamma",)
"""Its derivative, digamma, has none: the polygamma functions are not ops."""


@cache
def examples(name: str) -> list[Example]:
    return catalogue.ALL[name]()


@pytest.mark.parametrize("name", NAMES)
def test_type(name: str) -> None:
    for example in examples(name):
        laws.check_type(example)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "Constant"])
def test_lowered(name: str) -> None:
    for example in examples(name):
        laws.check_lowered(example)


@pytest.mark.parametrize("name", NAMES)
def test_compiled(name: str) -> None:
    laws.check_compiled(examples(name), tw.compile)


@pytest.mark.parametrize("name", SMOOTH)
def test_derivative(name: str) -> None:
    for example in examples(name):
        if example.smooth:
            laws.check_derivative(example, twice=name not in ONCE)


@pytest.mark.parametrize("name", LINEAR)
def test_duality(name: str) -> None:
    checked = 0
    for example in examples(name):
        if example.smooth and example.op.linear_in:
            laws.check_duality(example)
            checked += 1
    assert checked, f"{name} says it is linear and has no example to show it on"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in SOURCES])
def test_batching(name: str) -> None:
    seen = set()
    for example in examples(name):
        dtype = np.asarray(example.args[0]).dtype
        if example.smooth or dtype not in seen:
            seen.add(dtype)
            laws.check_batching(example)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_awkward(name: str) -> None:
    """The laws mean little if they only ever see well-behaved arrays."""
    if name in SOURCES:
        return
    arrays = [np.asarray(a) for e in examples(name) for a in e.args]
    assert any(a.size == 0 for a in arrays), "no zero-size example"
    assert any(a.size == 1 for a in arrays), "no example of one element"
    assert any(not a.flags.c_contiguous for a in arrays), "no non-contiguous example"
    floats = [a for a in arrays if dtypes.is_float(a.dtype)]
    nans = any(np.isnan(a.astype(float)).any() for a in floats)
    assert nans or not floats or name in ("TriangularSolve", "LU", "QR"), "no NaN"


def test_long_rows_are_not_sorted_on_the_stack() -> None:
    x = np.random.default_rng(0).random(600_000)
    values, moved = tw.compile(lambda x: sort.Sort(0)(x, indexing.positions(x, x.shape, 0)))(x)
    np.testing.assert_array_equal(values, np.sort(x))
    np.testing.assert_array_equal(moved, np.argsort(x, kind="stable"))


def test_top_k_puts_nan_first_and_keeps_the_order_of_equals() -> None:
    x = np.array([[1.0, 3.0, np.nan, 3.0, -np.inf], [0.0, -0.0, 2.0, 1.0, 2.0]])
    values, at = tw.compile(lambda x: order.TopK(3, 1)(x))(x)
    np.testing.assert_array_equal(values, [[np.nan, 3, 3], [2, 2, 1]])
    np.testing.assert_array_equal(at, [[2, 1, 3], [2, 4, 3]])
