"""Rounds of long loops woven: lines keep their order where it matters, and the results are those of
single rounds, bit by bit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tilewright as tw
from tilewright import expr as E
from tilewright.codegen.libm import EXPANSIONS, expand
from tilewright.codegen.weaving import independent, woven
from tilewright.dtypes import float32
from tilewright.expr import Buffer, axis
from tilewright.loops import Alloc, Let, Store, block, loop
from tilewright.ops import elementwise
from tilewright.transforms.heuristic import BRANCHING, MANY


def test_lines_take_turns() -> None:
    a, b = ["  %a1 = f %p", "  %a2 = f %a1"], ["  %b1 = f %p", "  %b2 = f %b1"]
    assert woven([a, b]) == [a[0], b[0], a[1], b[1]]


def test_what_copies_share_comes_before_its_uses() -> None:
    first = ["  %a1 = f %p", "  %shared = f %p", "  %a2 = f %a1, %shared", "  store %a2"]
    second = ["  %b1 = f %shared, %a2", "  store %b1"]
    lines = woven([first, second])
    assert sorted(lines) == sorted([*first, *second])
    assert [x for x in lines if x in first] == first
    assert [x for x in lines if x in second] == second
    assert lines.index(second[0]) > lines.index(first[2])


def test_an_empty_copy_is_left_out() -> None:
    assert woven([["  %a = f %p"], []]) == ["  %a = f %p"]


def test_copies_are_independent_if_nothing_read_is_written() -> None:
    x, y = Buffer("x", float32, (64,)), Buffer("y", float32, (64,))
    r = Buffer("r", float32, (16,), "registers")
    v = axis("v", 16)

    def body(*inner: Any) -> Any:
        return loop(v, *inner, kind="vector", lanes=16)

    name = E.var("t", float32)
    assert independent(body(Store(y, (v,), x[v] + 1.0)))
    assert not independent(body(Store(x, (v,), x[v] + 1.0)))
    assert not independent(body(Store(y, (v,), x[v]), Store(x, (v,), y[v])))
    assert not independent(block(Alloc(r), body(Store(r, (v,), x[v]))))
    assert not independent(body(Let(name, x[v]), Store(y, (v,), name)))
    assert not independent(loop(v, Store(y, (v,), x[v])))


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def longer(x: Any) -> Any:
    e = np.exp(-x * x) / (1 + np.log1p(x * x))
    return np.where(e > 0.5, np.tanh(e) * x, np.exp(e) - x) + e, e


def mixed(x: Any) -> Any:
    """A root and a quotient in what is no longer than a function of its own."""
    y = (x * 1.7 + 0.3) * 0.5
    y = np.where(y > 0, y * y, -0.1 * y)
    return np.sqrt(np.abs(y) + 1) - np.minimum(y, x) / (1 + y * y)


@pytest.mark.parametrize("function", [gelu, longer, mixed])
def test_many_elements_come_to_the_bits_of_few(function: Any) -> None:
    """What is woven, and the remainder that is not, against loops too short for it."""
    n = 16 * MANY * 3 + 16 * 7 + 5
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    f = tw.compile(function)
    whole = np.atleast_2d(f(x))
    few = [np.atleast_2d(f(part)) for part in np.array_split(x, 8)]
    assert_array_equal(whole, np.concatenate(few, axis=1))
    assert_allclose(whole, np.atleast_2d(function(x.astype(np.float64))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [gelu, mixed])
def test_two_rounds_are_woven_where_there_are_many(function: Any) -> None:
    f = tw.compile(function, threads=1)
    x = np.ones(16 * MANY, np.float32)
    text = f.lower(x).llvm
    quotients = [m.start() for m in re.finditer("fdiv <", text)]
    first, second = (text.count("\n", 0, at) for at in quotients)
    assert second - first == 1
    assert f.lower(x[:4096]).llvm.count("fdiv <") == 1


def test_functions_that_branch_are_known() -> None:
    """Those whose expansion holds a `rare`, and that are not what others are made of."""
    branching = set()
    for op in elementwise.ALL:
        name, arity = op.row.scalar.name, op.row.arity
        operands = [Buffer(f"x{k}", float32, (8,))[axis("i", 8)] for k in range(arity)]
        if "f" in op.row.kinds and name in EXPANSIONS and name not in ("ldexp", "select"):
            (root,) = expand([E.Apply(op.row.scalar, tuple(operands), float32)])
            if any(isinstance(e, E.Apply) and e.op.name == "rare" for e in E.walk(root)):
                branching.add(name)
    assert branching == BRANCHING
