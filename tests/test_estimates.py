"""Powers made of the machine's estimate of a root: accuracy and special values of whole ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pytest

import tilewright as tw
from tilewright import expr as E
from tilewright import interpret
from tilewright.codegen.libm import expand
from tilewright.codegen.libm_estimates import never_negative, never_small
from tilewright.dtypes import float32, float64
from tilewright.expr import walk
from tilewright.scalars import ESTIMATES

EXPONENTS: Final = {-0.5: 1.1, -1.5: 2.0}
"""Exponents and how many units in the last place their powers may be off."""


def sweep() -> np.ndarray:
    """Positive numbers of all exponents, subnormal ones too, and every value that is special."""
    numbers = np.arange(0, 0x7F800000, 4001, dtype=np.uint32).view(np.float32)
    near = np.float32(2.0) ** np.array([-128, -127, -126, -86, -85, 84, 99, 100, 126, 127])
    near = np.concatenate([near, np.nextafter(near, 0), np.nextafter(near, np.inf)])
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -1e-40, 1e-45, 1.0, 4.0, 3e38, -3e38]
    return np.concatenate([numbers, near, special]).astype(np.float32)


def errors(got: np.ndarray, x: np.ndarray, exponent: float) -> np.ndarray:
    """In units of the last place; 0 where NumPy's power is no number and this is the same."""
    with np.errstate(all="ignore"):
        numpy = np.power(x, np.float32(exponent))
        exact = np.power(x.astype(np.float64), exponent)
        units = np.abs(got - exact) / np.spacing(np.abs(numpy))
    same = (got == numpy) & (np.signbit(got) == np.signbit(numpy))
    same |= np.isnan(got) & np.isnan(numpy)
    return np.where(same, 0, np.where(np.isfinite(numpy) & np.isfinite(got), units, np.inf))


def expanded(base: E.Expr, exponent: float) -> E.Expr:
    power = E.Scalar("power", np.power)
    raised = E.Apply(power, (base, E.literal(exponent, base.type)), base.type)
    return expand([raised], ESTIMATES)[0]


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("base", [lambda v: v, abs, lambda v: abs(v) + np.float32(2.0**-126)])
def test_compiled_powers_over_the_whole_range(
    exponent: float, base: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = sweep()
    got = tw.compile(lambda v: base(v) ** exponent)(x)
    off = errors(got, base(x), exponent)
    assert np.max(off) <= EXPONENTS[exponent], x[np.argmax(off)]


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_series_holds_for_an_estimate_that_is_a_little_too_small(exponent: float) -> None:
    """The interpreter's, on machines with and without one."""
    x = sweep()
    i = E.axis("i", len(x))
    buffer = E.Buffer("x", float32, (len(x),))
    root = expanded(buffer[i], exponent)
    assert any(isinstance(e, E.Apply) and e.op.name == "root_estimate" for e in walk(root))
    with np.errstate(all="ignore"):
        (got,) = interpret.evaluate([root], [i], {buffer: x})
    assert np.max(errors(got, x, exponent)) <= EXPONENTS[exponent]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 17, 37])
def test_rows_of_any_length_come_to_the_same_bits(n: int) -> None:
    x = np.linspace(0.01, 9, 512).astype(np.float32)
    for exponent in EXPONENTS:
        f = tw.compile(lambda v, p=exponent: v**p)
        assert np.array_equal(f(x[:n].copy()), f(x)[:n])


def test_only_float32_and_these_exponents_are_estimated() -> None:
    i = E.axis("i", 8)
    single, double = (E.Buffer("x", d, (8,))[i] for d in (float32, float64))
    for root in (expanded(single, -2.5), expanded(double, -1.5), expanded(double, -0.5)):
        assert not any(isinstance(e, E.Apply) and e.op.name == "root_estimate" for e in walk(root))


def test_what_is_never_negative() -> None:
    i = E.axis("i", 8)
    x, y = (E.Buffer(n, float32, (8,))[i] for n in "xy")
    square, distance = x * x, E.fma(y, y, x * x)
    for e in (square, distance, distance + 0.01, E.apply("abs", x), E.literal(2.0, float32)):
        assert never_negative(e)
    negative_zero = E.literal(-0.0, float32)
    for e in (x, x * y, square + x, square + negative_zero, E.fma(x, y, square), square - 1.0):
        assert not never_negative(e)
    for e in (square + 0.01, E.literal(2.0**-126, float32) + square):
        assert never_small(e)
    for e in (square, distance + 2.0**-127, x + 1.0, square + y):
        assert not never_small(e)
