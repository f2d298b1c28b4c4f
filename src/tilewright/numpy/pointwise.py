"""Elementwise functions that are not ufuncs: where, clip, round, nan_to_num, real, sinc, ...

Knows their NumPy types. Refuses to know the ufuncs: `np.exp` of a traced array reaches the table of
elementwise ops by itself, so this namespace offers NumPy's own. The ufuncs that are compositions
of others (divmod, modf, float_power, ldexp, gcd, ...) are here.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from tilewright import dtypes, forks
from tilewright.errors import DynamicShape
from tilewright.numpy.protocol import implements, inexact, together
from tilewright.ops import elementwise as el
from tilewright.promotion import broadcast_shapes
from tilewright.tracing import Array, asarray, astype, broadcast_to

ArrayLike = Any


@implements(np.where)
def where(condition: ArrayLike, x: Any = None, y: Any = None, /) -> Array:
    """`x` where the condition holds, else `y`; all three broadcast."""
    if x is None or y is None:
        raise DynamicShape(
            "np.where with a condition only",
            "Use np.where(condition, x, y), or tilewright.numpy.nonzero(condition, size=n).",
        )
    mask, (a, b) = asarray(condition), together(x, y)
    mask = mask if mask.dtype == dtypes.bool_ else el.ne(mask, mask.zeros_like())
    shape = broadcast_shapes("where", mask.shape, a.shape)
    return el.select(*(broadcast_to(v, shape) for v in (mask, a, b)))


@implements(np.clip)
def clip(a: ArrayLike, a_min: Any = None, a_max: Any = None, out: None = None, *,
         min: Any = None, max: Any = None, **ufunc: Any) -> Array:  # fmt: skip
    """The elements held between two bounds, either of which may be None."""
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    x = asarray(a)
    if dtypes.is_integer(x.dtype):  # a Python integer out of the type's range is no bound
        info = np.iinfo(x.dtype)
        low = None if type(low) is int and low <= info.min else low
        high = None if type(high) is int and high >= info.max else high
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


@implements(np.round, np.around)
def round(a: ArrayLike, decimals: int = 0, out: None = None) -> Array:
    """To the nearest multiple of 10**-decimals, ties to even (in the scaled value, as NumPy's)."""
    x = asarray(a)
    if dtypes.is_complex(x.dtype):
        return el.make_complex(round(el.real(x), decimals), round(el.imag(x), decimals))
    if dtypes.is_bool(x.dtype):
        x = astype(x, dtypes.float16)
    if not dtypes.is_inexact(x.dtype):
        if decimals >= 0:
            return x
        scale = x.full_like(10**-decimals)
        return astype(np.rint(x / scale), x.dtype) * scale
    if decimals == 0:
        return el.rint(x)
    scale = x.full_like(10.0 ** abs(decimals))
    return el.rint(x * scale) / scale if decimals > 0 else el.rint(x / scale) * scale


@implements(np.fix)
def fix(x: ArrayLike, out: None = None) -> Array:
    """Rounded towards zero."""
    x = asarray(x)
    return el.trunc(x) if dtypes.is_inexact(x.dtype) else x


@implements(np.nan_to_num)
def nan_to_num(x: ArrayLike, copy: bool = True, nan: Any = 0.0, posinf: Any = None,
               neginf: Any = None) -> Array:  # fmt: skip
    """NaN and the infinities replaced: by 0 and the ends of the type's range unless given; those of
    bfloat16, too, which NumPy does not take for floats."""
    x = asarray(x)
    if dtypes.is_complex(x.dtype):
        parts = (nan_to_num(p, copy, nan, posinf, neginf) for p in (el.real(x), el.imag(x)))
        return el.make_complex(*parts)
    if not dtypes.is_float(x.dtype):
        return x
    ends = ml_dtypes.finfo(x.dtype)
    high = ends.max if posinf is None else posinf
    low = ends.min if neginf is None else neginf
    x = where(np.isnan(x), astype(asarray(nan), x.dtype), x)
    x = where(x == math.inf, astype(asarray(high), x.dtype), x)
    return where(x == -math.inf, astype(asarray(low), x.dtype), x)


# -- complex numbers and signs -----------------------------------------------------------------


@implements(np.real)
def real(val: ArrayLike) -> Array:
    """The real part."""
    x = asarray(val)
    return el.real(x) if dtypes.is_complex(x.dtype) else x


@implements(np.imag)
def imag(val: ArrayLike) -> Array:
    """The imaginary part, zero for real arrays."""
    x = asarray(val)
    return el.imag(x) if dtypes.is_complex(x.dtype) else x.zeros_like()


@implements(np.angle)
def angle(z: ArrayLike, deg: bool = False) -> Array:
    """The argument of a complex number, in radians or degrees."""
    x = inexact(z)
    out = el.arctan2(imag(x), real(x))
    return out * (180 / math.pi) if deg else out


@implements(np.iscomplex)
def iscomplex(x: ArrayLike) -> Array:
    """Whether the imaginary part is not zero."""
    return imag(x) != 0


@implements(np.isreal)
def isreal(x: ArrayLike) -> Array:
    """Whether the imaginary part is zero."""
    return imag(x) == 0


@implements(np.isposinf)
def isposinf(x: ArrayLike, out: None = None) -> Array:
    """Whether an element is +inf."""
    return asarray(x) == math.inf


@implements(np.isneginf)
def isneginf(x: ArrayLike, out: None = None) -> Array:
    """Whether an element is -inf."""
    return asarray(x) == -math.inf


@implements(np.real_if_close)
def real_if_close(a: ArrayLike, tol: float = 100) -> Array:
    """Traced values are not looked at: a complex array stays complex."""
    return asarray(a)


# -- functions made of others ------------------------------------------------------------------


@implements(np.sinc)
def sinc(x: ArrayLike) -> Array:
    """sin(pi x) / (pi x), 1 at 0, with its derivatives there."""
    x = inexact(x)
    y = x * math.pi
    at_zero = x == 0
    safe = where(at_zero, y.full_like(1), y)
    # Near zero the series 1 - y^2/6 carries the derivatives; the select keeps NaN out of them.
    return where(at_zero, 1 - y * y / 6, np.sin(safe) / safe)


@implements(np.i0)
def i0(x: ArrayLike) -> Array:
    """Modified Bessel function of order 0 (Abramowitz and Stegun 9.8.1 needs more digits; this is
    the power series to |x| = 15 and the asymptotic one beyond, both to float64 rounding)."""
    y = abs(inexact(x))
    near = np.minimum(y, 18.0)
    quarter, term, total = near * near / 4, y.full_like(1), y.full_like(1)
    for k in range(1, 50):
        term = term * quarter / (k * k)
        total = total + term
    far = np.maximum(y, 18.0)
    term, tail = y.full_like(1), y.full_like(1)
    for k in range(1, 26):
        term = term * ((2 * k - 1) ** 2 / (8.0 * k)) / far
        tail = tail + term
    return where(y <= 18.0, total, tail * np.exp(far) / np.sqrt(2 * math.pi * far))


@implements(np.unwrap)
def unwrap(
    p: ArrayLike, discont: Any = None, axis: int = -1, *, period: float = 2 * math.pi
) -> Array:
    """Phases with jumps of more than half a `period` between neighbours taken out."""
    p = inexact(p)
    with forks.importing:
        from tilewright.numpy.reductions import cumsum, diff
        from tilewright.ops.shape import Pad

    axis = axis % p.ndim
    step = diff(p, axis=axis)
    half = period / 2
    wrapped = np.remainder(step + half, period) - half
    wrapped = where(np.logical_and(wrapped == -half, step > 0), half, wrapped)
    correction = where(abs(step) < (half if discont is None else discont), 0.0, wrapped - step)
    low = tuple(int(d == axis) for d in range(p.ndim))
    none = (0,) * p.ndim
    return p + cumsum(Pad(low, none, none)(correction, correction.full_like(0, ())), axis=axis)


# -- ufuncs without an op of their own ---------------------------------------------------------


@implements(np.divmod)
def divmod_(x1: ArrayLike, x2: ArrayLike, /) -> tuple[Array, Array]:
    """Quotient rounded down, and remainder."""
    return np.floor_divide(x1, x2), np.remainder(x1, x2)


@implements(np.modf)
def modf(x: ArrayLike, /) -> tuple[Array, Array]:
    """Fractional and integral part, both with the sign of `x`."""
    x = inexact(x)
    whole = el.trunc(x)
    part = where(np.isinf(x), 0.0, x - whole)
    return np.copysign(part, x), whole


@implements(np.float_power)
def float_power(x1: ArrayLike, x2: ArrayLike, /) -> Array:
    """The power, in float64 or complex128."""
    a, b = together(x1, x2)
    dtype = dtypes.complex128 if dtypes.is_complex(a.dtype) else dtypes.float64
    return el.power(astype(a, dtype), astype(b, dtype))


@implements(np.fabs)
def fabs(x: ArrayLike, /) -> Array:
    """The absolute value as a floating number."""
    return el.absolute(inexact(x))


@implements(np.ldexp)
def ldexp(x1: ArrayLike, x2: ArrayLike, /) -> Array:
    """x1 * 2**x2. The power is applied in two halves, so that it overflows only if the result
    does."""
    x = inexact(x1)
    half = np.floor_divide(x2, 2)
    first, second = (np.exp2(astype(asarray(v), x.dtype)) for v in (half, x2 - half))
    return x * first * second


def _euclid(x1: ArrayLike, x2: ArrayLike) -> tuple[Array, Array, Array]:
    """gcd by Euclid's rule, unrolled to its longest run for the type (Lame: 1.44 log2 max)."""
    a, b = together(x1, x2)
    u, v = np.absolute(a), np.absolute(b)
    for _ in range(math.ceil(1.4405 * 8 * a.dtype.itemsize) + 1):
        live = v != 0
        u, v = where(live, v, u), where(live, np.remainder(u, where(live, v, v.full_like(1))), v)
    return u, a, b


@implements(np.gcd)
def gcd(x1: ArrayLike, x2: ArrayLike, /) -> Array:
    """Greatest common divisor, not negative."""
    return _euclid(x1, x2)[0]


@implements(np.lcm)
def lcm(x1: ArrayLike, x2: ArrayLike, /) -> Array:
    """Least common multiple, not negative; 0 if either is 0."""
    g, a, b = _euclid(x1, x2)
    return np.absolute(where(g == 0, g, a // where(g == 0, g.full_like(1), g) * b))
