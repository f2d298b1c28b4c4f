"""Powers of float32 by the machine's estimate of 1/sqrt(x), where it has one.

Knows how one step of a series makes up for what the estimate lacks, and what zeros, infinities and
subnormal numbers do on the way. Refuses to know other types, and functions whose result is defined
to the last bit: a root and a quotient that were asked for stay what they are.

A root and a quotient keep a divider for 16 cycles to make x^-1.5; the estimate and its step are six
multiplications, five for x^-0.5, on pipes that overlap with others. With y near 1/sqrt(x) and
e = 1 - x y^2, x^p is y^-2p (1 - e)^p, and e is small and, by fma, known almost exactly (Markstein,
"IA-64 and Elementary Functions", 2000). Estimates differ between makers of processors, so that the
last bits of these powers do as well.
"""

from __future__ import annotations

import math

from tilewright.dtypes import float32
from tilewright.expr import Apply, Expr, Lit, apply, eq, fma, literal, select

LEAST = 2.0**-126
"""The least normal float32."""


def power(x: Expr, y: Expr) -> Expr | None:
    """x**-0.5 (below 1.1 ULP) and x**-1.5 (below 2) with NumPy's special values; else, None."""
    if x.type != float32 or not isinstance(y, Lit):
        return None
    if y.value == -0.5:
        raised = _inverse_root
    elif y.value == -1.5:
        raised = _inverse_root_cubed
    else:
        return None
    if never_negative(x):
        return raised(x)
    # The power of -0 is that of 0, and that of -inf is that of inf.
    return select(eq(x, -math.inf), 0.0, raised(x + 0.0))


def rsqrt(x: Expr) -> Expr | None:
    """1 / sqrt(x), below 1.1 ULP; None for another type."""
    return _inverse_root(x) if x.type == float32 else None


def _inverse_root(x: Expr) -> Expr:
    """1 / sqrt(x) = y (1 + e/2 + ...), below 1.1 ULP; special values are the quotient's.

    |e| < 2^-12.9, so that the next term, 3/8 e^2, is below 2^-27. Neither x y nor its product with
    y leaves the range, as that of x and y^2 would for subnormal numbers.
    """
    y = apply("root_estimate", x)
    e = _guarded(fma(-(x * y), y, 1.0))
    return fma(y * 0.5, e, y)


def _inverse_root_cubed(x: Expr) -> Expr:
    """x^-1.5 = s y (1 + 3/2 e + ...), s = y^2 rounded and e = 1 - x s, for x >= 0; below 2 ULP.

    The next term, 15/8 e^2, is below 2^-24.9. s^1.5 is meant, from which s y is off by half of what
    s is off y^2. No product leaves the range unless the result does, but for s itself where
    x < 2^-128: e and the sum are then -inf, and the result is infinite.
    """
    y = apply("root_estimate", x)
    s = y * y
    e = _guarded(fma(-x, s, 1.0))
    result = s * fma(y * 1.5, e, y)
    return result if never_small(x) else apply("abs", result)


def _guarded(e: Expr) -> Expr:
    """`e`, which is NaN where x or y is infinite or zero and y is the result as it stands."""
    most = literal(0.5, e.type)
    return select(e < most, e, most)


def never_small(x: Expr) -> bool:
    """Whether a positive number is added to what is never negative, so that no zero and no
    subnormal number comes of it."""
    is_sum = isinstance(x, Apply) and x.op.name == "add" and never_negative(x)
    return is_sum and any(isinstance(a, Lit) and float(a.value) >= LEAST for a in x.children)


def never_negative(x: Expr) -> bool:
    """Whether a sum of squares, magnitudes and positive numbers shows that no -0 and nothing below
    comes of it."""
    if isinstance(x, Lit):
        return math.copysign(1.0, float(x.value)) > 0
    if not isinstance(x, Apply):
        return False
    args = x.args
    match x.op.name:
        case "mul":
            return args[0] is args[1]
        case "fma":
            return args[0] is args[1] and never_negative(args[2])
        case "add":
            return never_negative(args[0]) and never_negative(args[1])
        case "abs":
            return True
    return False
