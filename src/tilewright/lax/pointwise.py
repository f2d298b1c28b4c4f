"""Elementwise functions of lax that NumPy lacks or defines otherwise: div, rem, bitcasts, clz, ...

Knows lax's own rules (integer division towards zero, rounding away from zero). Operands are
promoted and broadcast as NumPy does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright import dtypes, trees
from tilewright.errors import ShapeMismatch
from tilewright.numpy import pointwise
from tilewright.numpy.protocol import along, filled, position, staged, together
from tilewright.ops import elementwise as el
from tilewright.ops.bits import Bitcast
from tilewright.ops.control import Barrier, StopGradient
from tilewright.ops.shape import ReduceSum
from tilewright.tracing import Array, asarray, astype

ArrayLike = Any
DTypeLike = Any


@staged
def convert_element_type(operand: ArrayLike, new_dtype: DTypeLike) -> Array:
    """`operand` converted to `new_dtype`."""
    return astype(asarray(operand), np.dtype(new_dtype))


@staged
def bitcast_convert_type(operand: ArrayLike, new_dtype: DTypeLike) -> Array:
    """The bits of `operand` as another type. A narrower type adds a last axis, a wider one takes it
    away; the first of them holds the lowest bits."""
    x, to = asarray(operand), np.dtype(new_dtype)
    wide, narrow = x.dtype.itemsize, to.itemsize
    if wide == narrow:
        return Bitcast(to)(x)
    if wide > narrow:
        parts = wide // narrow
        shape = (*x.shape, parts)
        spread = along(_bits(x), range(x.ndim), shape)
        shift = position(shape, x.ndim, spread.dtype) * filled(8 * narrow, shape, spread.dtype)
        part = astype(el.right_shift(spread, shift), np.dtype(f"uint{8 * narrow}"))
        return Bitcast(to)(part) if part.dtype != to else part
    parts = narrow // wide
    if x.ndim == 0 or x.shape[-1] != parts:
        raise ShapeMismatch(f"bitcast to {to}: the last axis must have extent {parts}", x.shape)
    whole = astype(_bits(x), np.dtype(f"uint{8 * narrow}"))
    shift = position(whole.shape, x.ndim - 1, whole.dtype) * whole.full_like(8 * wide)
    joined = ReduceSum((x.ndim - 1,))(el.left_shift(whole, shift))
    return Bitcast(to)(joined) if joined.dtype != to else joined


def _bits(x: Array) -> Array:
    unsigned = np.dtype(f"uint{8 * x.dtype.itemsize}")
    return x if x.dtype == unsigned else Bitcast(unsigned)(x)


@staged
def stop_gradient(x: Any) -> Any:
    """`x`, a tree, as constants to every derivative."""
    return trees.map(lambda a: StopGradient()(asarray(a)), x)


@staged
def optimization_barrier(operand: Any) -> Any:
    """`operand`, a tree, which no rewrite looks through."""
    return trees.map(lambda a: Barrier()(asarray(a)), operand)


@staged
def rsqrt(x: ArrayLike, *, accuracy: Any = None) -> Array:
    """1 / sqrt(x)."""
    return el.rsqrt(asarray(x))


@staged
def logistic(x: ArrayLike, accuracy: Any = None) -> Array:
    """1 / (1 + exp(-x))."""
    return el.logistic(asarray(x))


@staged
def erf(x: ArrayLike) -> Array:
    """The error function."""
    return el.erf(asarray(x))


@staged
def erfc(x: ArrayLike) -> Array:
    """1 - erf(x), without cancellation."""
    return el.erfc(asarray(x))


@staged
def erf_inv(x: ArrayLike) -> Array:
    """The inverse of the error function."""
    return el.erfinv(asarray(x))


@staged
def lgamma(x: ArrayLike) -> Array:
    """log |Gamma(x)|."""
    return el.lgamma(asarray(x))


@staged
def digamma(x: ArrayLike) -> Array:
    """The derivative of lgamma."""
    return el.digamma(asarray(x))


@staged
def div(x: ArrayLike, y: ArrayLike) -> Array:
    """x / y; of integers the quotient rounded towards zero."""
    a, b = together(x, y)
    if dtypes.is_inexact(a.dtype):
        return el.divide(a, b)
    down = el.floor_divide(a, b)
    uneven = np.logical_and(el.remainder(a, b) != 0, (a < 0) != (b < 0))
    return pointwise.where(uneven, down + 1, down)


@staged
def integer_pow(x: ArrayLike, y: int) -> Array:
    """x to a static integer power, by repeated squaring."""
    base, n = asarray(x), -y if y < 0 else y
    result, power = base.full_like(1), base
    while n:
        result = result * power if n & 1 else result
        n >>= 1
        power = power * power if n else power
    return result if y >= 0 else 1 / result


@staged
def round(x: ArrayLike, rounding_method: int = 0) -> Array:
    """To the nearest integer; ties away from zero (0) or to even (1)."""
    a = asarray(x)
    if rounding_method == 1:
        return el.rint(a)
    whole = el.trunc(a)
    up = np.abs(a - whole) >= 0.5
    return pointwise.where(up, whole + np.copysign(1, a), whole)


@staged
def shift_right_logical(x: ArrayLike, y: ArrayLike) -> Array:
    """Bits moved right, zeros coming in from the left whatever the sign."""
    a, b = together(x, y)
    unsigned = np.dtype(f"uint{8 * a.dtype.itemsize}")
    out = el.right_shift(astype(a, unsigned), astype(b, unsigned))
    return astype(out, a.dtype)


@staged
def population_count(x: ArrayLike) -> Array:
    """How many bits are set, in the type of `x`."""
    a = asarray(x)
    return astype(el.bitwise_count(_bits(a)), a.dtype)


@staged
def clz(x: ArrayLike) -> Array:
    """How many leading bits are zero, in the type of `x`."""
    a = asarray(x)
    width = 8 * a.dtype.itemsize
    smeared, step = _bits(a), 1
    while step < width:
        smeared = el.bitwise_or(smeared, el.right_shift(smeared, smeared.full_like(step)))
        step *= 2
    return astype(width - astype(el.bitwise_count(smeared), a.dtype), a.dtype)


@staged
def clamp(min: ArrayLike, x: ArrayLike, max: ArrayLike) -> Array:
    """`x` held between two bounds."""
    return np.minimum(np.maximum(x, asarray(min)), max)


@staged
def select(pred: ArrayLike, on_true: ArrayLike, on_false: ArrayLike) -> Array:
    """`on_true` where the predicate holds, else `on_false`."""
    return pointwise.where(asarray(pred), on_true, on_false)


@staged
def select_n(which: ArrayLike, *cases: ArrayLike) -> Array:
    """At each place the case `which` (a bool or an integer) names there."""
    at, result = asarray(which), asarray(cases[-1])
    if dtypes.is_bool(at.dtype):
        return pointwise.where(at, cases[1], cases[0])
    for i in reversed(range(len(cases) - 1)):
        result = pointwise.where(at <= i, cases[i], result)
    return result
