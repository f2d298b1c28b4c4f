"""Exponentials of float32 by a table of sixteen powers of two, which a register or a few hold.

Knows the method of tables (Tang, "Table-driven implementation of the exponential function", 1989)
where a look-up is a permutation of registers: e^x = 2^floor(n) 2^(n mod 1) e^r, n a multiple of
1/16 and |r| <= ln(2)/32, so that a cubic does what takes degree six without the table; and how a
machine without such a permutation comes to the same bits. Refuses to know how the table is kept.
"""

from __future__ import annotations

from fractions import Fraction

from tilewright.codegen import libm_elementary as elementary
from tilewright.codegen.libm_elementary import FORMATS, LN2, clamped, in_two, power_of_two
from tilewright.dtypes import float32, uint32
from tilewright.expr import Expr, apply, bitcast, fma, literal, ne, select
from tilewright.scalars import SIXTEENTHS

# (e^r - 1 - r) / r^2 on |r| <= ln(2)/32; error relative to e^r: 2^-29.2.
_EXP = (0.50001622, 0.16666722)


def exp(x: Expr) -> Expr:
    """e^x; below 1 ULP of float32."""
    return exp_of_multiple(x, 1.0) if x.type == float32 else elementary.exp(x)


def exp_of_multiple(x: Expr, factor: float) -> Expr:
    """e^(factor x), about 1 ULP; the factor, 2^-20 to 2^20 in size, goes into the constants.

    Adding 3/2 2^19 rounds to sixteenths, whose number stands in the sum's low bits: the last four
    choose from the table, and `scale_floor` reads no more than the whole part of n.
    """
    if x.type != float32:
        return elementary.exp_of_multiple(x, factor)
    f = FORMATS[float32]
    x = clamped(x, *sorted((f.underflow / factor, f.overflow / factor)))
    magic = f.magic / 16
    shifted = fma(x, f.log2e[0] * factor, magic)
    n = shifted - magic
    high, low = in_two(LN2 / Fraction(factor), float32)
    r = fma(n, -low, fma(n, -high, x))
    second, third = _EXP
    slope = fma(fma(r, third * factor**3, second * factor**2), r, factor)
    power = apply("sixteenth_power", bitcast(shifted, uint32), dtype=float32)
    return apply("scale_floor", fma(power * r, slope, power), n)


def portable_scale_floor(x: Expr, n: Expr) -> Expr:
    """x * 2^floor(n), rounded once, for n in sixteenths: in two steps, of which only the last one
    can round."""
    whole = bitcast(n + FORMATS[float32].magic / 16, uint32) >> 4
    half = whole >> 1
    return x * power_of_two(half, float32) * power_of_two(whole - half, float32)


def portable_sixteenth_power(code: Expr) -> Expr:
    """2^(j/16), j the low four bits: chosen bit by bit."""
    values: list[Expr] = [literal(v, float32) for v in SIXTEENTHS]
    for bit in (1, 2, 4, 8):
        odd = ne(code & bit, 0)
        values = [select(odd, b, a) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]
