"""Sums, extremes, means and running sums along axes, with NumPy's axis, dtype, where and initial.

Knows which type a reduction accumulates in and what it gives over no elements. Refuses to know the
order of the additions: that is the schedule's choice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import DTypeMismatch, UnsupportedFunction
from tilewright.expr import Extent, product
from tilewright.numpy.protocol import (
    Axes,
    along,
    axes_of,
    axis_of,
    implements,
    inexact,
    traced,
)
from tilewright.numpy.shaping import ravel, slice_along
from tilewright.ops import elementwise as el
from tilewright.ops.cumulative import Cumulative
from tilewright.ops.reduce import (
    ArgMax,
    ArgMin,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMin,
    ReduceProd,
)
from tilewright.ops.shape import Pad, ReduceSum, Reshape
from tilewright.promotion import broadcast_shapes
from tilewright.tracing import Array, asarray, astype, broadcast_to

ArrayLike = Any
DTypeLike = Any
_ABSENT = np._NoValue  # what NumPy's own functions pass on for "not given"


def _given(value: Any) -> bool:
    return value is not None and value is not _ABSENT


def keeping(x: Array, axes: tuple[int, ...], shape: tuple[Extent, ...], keepdims: Any) -> Array:
    """The reduction `x` of an array of `shape`, its axes kept with extent 1 if asked for."""
    if not _given(keepdims) or not keepdims or not axes:
        return x
    return Reshape(tuple(1 if d in axes else n for d, n in enumerate(shape)))(x)


def chosen(x: Array, where: Any, otherwise: Any) -> Array:
    """`x` where the mask holds, the number `otherwise` elsewhere."""
    if not _given(where) or where is True:
        return x
    mask = asarray(where)
    shape = broadcast_shapes("where=", x.shape, mask.shape)
    x = broadcast_to(x, shape)
    return el.select(broadcast_to(mask, shape), x, x.full_like(otherwise))


def wide_type(dtype: DType) -> DType:
    """What NumPy adds and multiplies small integers and bools in."""
    if dtypes.is_bool(dtype) or dtypes.is_signed(dtype):
        return np.promote_types(dtype, dtypes.int64) if dtype != dtypes.bool_ else dtypes.int64
    return dtypes.uint64 if dtypes.is_integer(dtype) else dtype


def _truth(x: Array) -> Array:
    return x if x.dtype == dtypes.bool_ else el.ne(x, x.zeros_like())


# -- sums and products -------------------------------------------------------------------------


@implements(np.sum)
def sum(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
        keepdims: Any = False, initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """The sum over `axis`. Small integers and bools add up in int64 or uint64, as in NumPy."""
    x = asarray(a)
    x = chosen(astype(x, np.dtype(dtype) if _given(dtype) else wide_type(x.dtype)), where, 0)
    axes = axes_of(axis, x.ndim)
    total = ReduceSum(axes)(x) if axes else x
    if _given(initial):
        total = total + astype(asarray(initial), total.dtype)
    return keeping(total, axes, x.shape, keepdims)


@implements(np.prod)
def prod(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
         keepdims: Any = False, initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """The product over `axis`, in the types of `sum`."""
    x = asarray(a)
    x = chosen(astype(x, np.dtype(dtype) if _given(dtype) else wide_type(x.dtype)), where, 1)
    axes = axes_of(axis, x.ndim)
    total = ReduceProd(axes)(x) if axes else x
    if _given(initial):
        total = total * astype(asarray(initial), total.dtype)
    return keeping(total, axes, x.shape, keepdims)


@implements(np.count_nonzero)
def count_nonzero(a: ArrayLike, axis: Axes = None, *, keepdims: bool = False) -> Array:
    """How many elements are not zero (int64)."""
    return sum(_truth(asarray(a)), axis=axis, keepdims=keepdims)


# -- extremes ----------------------------------------------------------------------------------


def _extreme(kind: str, a: ArrayLike, axis: Axes, keepdims: Any, initial: Any, where: Any) -> Array:
    op, combine = (ReduceMax, el.maximum) if kind == "max" else (ReduceMin, el.minimum)
    x = asarray(a)
    _refuse_complex(x, kind)
    axes = axes_of(axis, x.ndim)
    if _given(where) and not _given(initial):
        raise ValueError(
            f"reduction operation '{kind}imum' does not have an identity, so to use a where mask "
            "one has to specify 'initial'"
        )
    if _given(initial):
        start = asarray(initial)
        dtype = np.result_type(
            x.dtype, initial if type(initial) in (int, float, bool) else start.dtype
        )
        x, start = astype(x, dtype), astype(start, dtype)
        x = _where(x, where, start)
    elif any(x.shape[d] == 0 for d in axes):
        raise ValueError(f"zero-size array to reduction operation {kind}imum which has no identity")
    out = op(axes)(x) if axes else x
    if _given(initial):
        out = combine(out, broadcast_to(start, out.shape))
    return keeping(out, axes, x.shape, keepdims)


def _where(x: Array, where: Any, otherwise: Array) -> Array:
    if not _given(where) or where is True:
        return x
    mask = asarray(where)
    shape = broadcast_shapes("where=", x.shape, mask.shape)
    return el.select(*(broadcast_to(v, shape) for v in (mask, x, otherwise)))


@implements(np.max, np.amax)
def max(a: ArrayLike, axis: Axes = None, out: None = None, keepdims: Any = False,
        initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """The largest element; NaN if there is one."""
    return _extreme("max", a, axis, keepdims, initial, where)


@implements(np.min, np.amin)
def min(a: ArrayLike, axis: Axes = None, out: None = None, keepdims: Any = False,
        initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """The smallest element; NaN if there is one."""
    return _extreme("min", a, axis, keepdims, initial, where)


@implements(np.ptp)
def ptp(a: ArrayLike, axis: Axes = None, out: None = None, keepdims: Any = False) -> Array:
    """Largest minus smallest element."""
    return max(a, axis, keepdims=keepdims) - min(a, axis, keepdims=keepdims)


def _refuse_complex(x: Array, name: str) -> None:
    if dtypes.is_complex(x.dtype):
        raise DTypeMismatch(
            f"np.{name} of complex numbers", "Reduce np.abs(x), or x.real and x.imag apart."
        )


def _position(op: Any, a: ArrayLike, axis: int | None, keepdims: Any) -> Array:
    x = asarray(a)
    _refuse_complex(x, op.__name__.lower())
    flat = x if axis is not None else ravel(x)
    d = axis_of(axis if axis is not None else 0, flat.ndim)
    if flat.shape[d] == 0:
        raise ValueError(f"attempt to get {op.__name__.lower()} of an empty sequence")
    out = op(d)(flat)
    axes = axes_of(axis, x.ndim) if axis is None or x.ndim else ()
    return keeping(out, axes, x.shape, keepdims)


@implements(np.argmax)
def argmax(a: ArrayLike, axis: int | None = None, out: None = None, *,
           keepdims: Any = False) -> Array:  # fmt: skip
    """Position (int64) of the first largest element, of the first NaN if there is one."""
    return _position(ArgMax, a, axis, keepdims)


@implements(np.argmin)
def argmin(a: ArrayLike, axis: int | None = None, out: None = None, *,
           keepdims: Any = False) -> Array:  # fmt: skip
    """Position (int64) of the first smallest element, of the first NaN if there is one."""
    return _position(ArgMin, a, axis, keepdims)


# -- logic -------------------------------------------------------------------------------------


@implements(np.any)
def any_(a: ArrayLike, axis: Axes = None, out: None = None, keepdims: Any = False, *,
         where: Any = None) -> Array:  # fmt: skip
    """Whether any element is not zero."""
    x = chosen(_truth(asarray(a)), where, False)
    axes = axes_of(axis, x.ndim)
    return keeping(ReduceAny(axes)(x) if axes else x, axes, x.shape, keepdims)


@implements(np.all)
def all_(a: ArrayLike, axis: Axes = None, out: None = None, keepdims: Any = False, *,
         where: Any = None) -> Array:  # fmt: skip
    """Whether all elements are not zero."""
    x = chosen(_truth(asarray(a)), where, True)
    axes = axes_of(axis, x.ndim)
    return keeping(ReduceAll(axes)(x) if axes else x, axes, x.shape, keepdims)


# -- moments -----------------------------------------------------------------------------------


def count_of(x: Array, axes: tuple[int, ...], where: Any, dtype: DType) -> Any:
    """How many elements a mean over `axes` has: a number, or an array if there is a mask."""
    if not _given(where) or where is True:
        return product([x.shape[d] for d in axes])
    mask = broadcast_to(asarray(where), broadcast_shapes("where=", x.shape, asarray(where).shape))
    return sum(astype(mask, dtype), axis=axes)


def _quotient(total: Array, count: Any) -> Array:
    """total / count, NaN (and no Python error) for a count of zero."""
    return total / (
        astype(asarray(count), dtypes.real_of(total.dtype)) if traced(count) else float(count)
    )


@implements(np.mean)
def mean(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
         keepdims: Any = False, *, where: Any = None) -> Array:  # fmt: skip
    """The mean over `axis`; of integers and bools it is float64, float16 adds up in float32."""
    x = asarray(a)
    of = np.dtype(dtype) if _given(dtype) else inexact(x).dtype
    work = dtypes.compute_type(of) if not _given(dtype) else of
    x = astype(x, work)
    axes = axes_of(axis, x.ndim)
    total = sum(x, axis=axes, where=where) if axes else x
    out_ = _quotient(total, count_of(x, axes, where, dtypes.real_of(work)))
    return keeping(astype(out_, of), axes, x.shape, keepdims)


@implements(np.var)
def var(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
        ddof: float = 0, keepdims: Any = False, *, where: Any = None, mean: Any = None,
        correction: Any = None) -> Array:  # fmt: skip
    """The variance over `axis`, in two passes: the mean, then the mean squared deviation. The sum
    of squares is divided by the number of elements less `ddof`."""
    x = asarray(a)
    of = np.dtype(dtype) if _given(dtype) else inexact(x).dtype
    work = dtypes.compute_type(of)
    x = astype(x, work)
    axes = axes_of(axis, x.ndim)
    ddof = correction if _given(correction) else ddof
    centre = mean if _given(mean) else _mean(x, axes, where)
    d = x - centre
    squares = el.real(d * el.conjugate(d)) if dtypes.is_complex(work) else d * d
    total = sum(squares, axis=axes, where=where) if axes else squares
    count = count_of(x, axes, where, dtypes.real_of(work))
    left = np.maximum(count - ddof, 0) if traced(count) else _larger(count - ddof, 0)
    return keeping(astype(_quotient(total, left), dtypes.real_of(of)), axes, x.shape, keepdims)


def _mean(x: Array, axes: tuple[int, ...], where: Any) -> Array:
    total = sum(x, axis=axes, where=where, keepdims=True)
    count = count_of(x, axes, where, dtypes.real_of(x.dtype))
    count = keeping(count, axes, x.shape, True) if traced(count) else count
    return _quotient(total, count)


def _larger(a: Any, b: Any) -> Any:
    """Python's own maximum, whose name NumPy's takes here."""
    return a if a > b else b


@implements(np.std)
def std(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
        ddof: float = 0, keepdims: Any = False, *, where: Any = None, mean: Any = None,
        correction: Any = None) -> Array:  # fmt: skip
    """The square root of `var`."""
    return np.sqrt(
        var(a, axis, dtype, None, ddof, keepdims, where=where, mean=mean, correction=correction)
    )


# -- running sums ------------------------------------------------------------------------------


def _running(kind: str, a: ArrayLike, axis: int | None, dtype: DTypeLike) -> Array:
    x = asarray(a)
    x = ravel(x) if axis is None else x
    x = astype(x, np.dtype(dtype) if _given(dtype) else wide_type(x.dtype))
    return Cumulative(kind, axis_of(axis or 0, x.ndim), False)(x)


@implements(np.cumsum)
def cumsum(
    a: ArrayLike, axis: int | None = None, dtype: DTypeLike = None, out: None = None
) -> Array:
    """Sums of the elements up to each; flattened if `axis` is None."""
    return _running("sum", a, axis, dtype)


@implements(np.cumprod)
def cumprod(
    a: ArrayLike, axis: int | None = None, dtype: DTypeLike = None, out: None = None
) -> Array:
    """Products of the elements up to each; flattened if `axis` is None."""
    return _running("prod", a, axis, dtype)


def _inclusive(kind: str, x: ArrayLike, axis: int | None, dtype: DTypeLike, initial: bool) -> Array:
    x = asarray(x)
    if axis is None and x.ndim != 1:
        raise ValueError(
            "For arrays which have more than one dimension ``axis`` argument is required."
        )
    axis = axis_of(axis or 0, x.ndim)
    out = _running(kind, x, axis, dtype)
    if not initial:
        return out
    low = tuple(int(d == axis) for d in range(x.ndim))
    first = out.full_like(0 if kind == "sum" else 1, ())
    return Pad(low, (0,) * x.ndim, (0,) * x.ndim)(out, first)


@implements(np.cumulative_sum)
def cumulative_sum(x: ArrayLike, /, *, axis: int | None = None, dtype: DTypeLike = None,
                   out: None = None, include_initial: bool = False) -> Array:  # fmt: skip
    """As `cumsum` along one axis, with a zero in front if `include_initial`."""
    return _inclusive("sum", x, axis, dtype, include_initial)


@implements(np.cumulative_prod)
def cumulative_prod(x: ArrayLike, /, *, axis: int | None = None, dtype: DTypeLike = None,
                    out: None = None, include_initial: bool = False) -> Array:  # fmt: skip
    """As `cumprod` along one axis, with a one in front if `include_initial`."""
    return _inclusive("prod", x, axis, dtype, include_initial)


# -- differences and integrals -----------------------------------------------------------------


@implements(np.diff)
def diff(
    a: ArrayLike, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None
) -> Array:
    """The n-th difference of neighbours along `axis`; of bools, whether they differ."""
    x = asarray(a)
    if x.ndim == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n}")
    d = axis_of(axis, x.ndim)
    if _given(prepend) or _given(append):
        shape = [1 if e == d else m for e, m in enumerate(x.shape)]
        ends = [
            broadcast_to(asarray(v), shape) if np.ndim(v) == 0 else asarray(v)
            for v in (prepend, append) if _given(v)
        ]  # fmt: skip
        parts = [*ends[:1], x, *ends[1:]] if _given(prepend) else [x, *ends]
        x = np.concatenate(parts, axis=d)
    subtract = np.not_equal if x.dtype == dtypes.bool_ else np.subtract
    for _ in range(n):
        m = x.shape[d]
        if m == 0:
            return x
        x = subtract(slice_along(x, d, 1, m), slice_along(x, d, 0, m - 1))
    return x


@implements(np.ediff1d)
def ediff1d(ary: ArrayLike, to_end: Any = None, to_begin: Any = None) -> Array:
    """Differences of neighbours of the flattened array, between the given ends."""
    middle = diff(ravel(ary))
    parts = [v if v is middle else astype(ravel(asarray(v)), middle.dtype)
             for v in (to_begin, middle, to_end) if v is not None]  # fmt: skip
    return np.concatenate(parts) if len(parts) > 1 else middle


@implements(np.trapezoid)
def trapezoid(y: ArrayLike, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Array:
    """The integral of `y` over `axis` by the trapezoidal rule, at points `x` or spaced `dx`."""
    y = asarray(y)
    d, n = axis_of(axis, y.ndim), y.shape[axis]
    step = dx
    if x is not None:
        x = asarray(x)
        if x.ndim == 1:
            shape = [1] * y.ndim
            shape[d] = x.shape[0] - 1
            step = Reshape(tuple(shape))(diff(x))
        else:
            step = diff(x, axis=d)
    pairs = slice_along(y, d, 1, n) + slice_along(y, d, 0, n - 1)
    return sum(step * pairs / 2.0, axis=d)


@implements(np.gradient)
def gradient(f: ArrayLike, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Second-order central differences inside, one-sided ones at the ends, for each axis.

    Spacings: one number for all axes, or for each axis a number or a vector of coordinates.
    """
    x = asarray(f)
    axes = (
        range(x.ndim)
        if axis is None
        else [axis_of(d, x.ndim) for d in np.atleast_1d(axis).tolist()]
    )
    if edge_order != 1:
        raise UnsupportedFunction("gradient with edge_order=2", "edge_order=1")
    spacings = list(varargs) or [1.0]
    spacings = spacings * len(axes) if len(spacings) == 1 else spacings
    if len(spacings) != len(axes):
        raise TypeError("invalid number of arguments")
    x = inexact(x)
    out = tuple(_central(x, d, h) for d, h in zip(axes, spacings, strict=True))
    return out[0] if len(out) == 1 else out


def _central(x: Array, d: int, spacing: Any) -> Array:
    n = x.shape[d]
    if n < 2:
        raise ValueError("Shape of array too small to calculate a numerical gradient")
    rise = diff(x, axis=d)
    if np.ndim(spacing) == 0:
        inner = (slice_along(x, d, 2, n) - slice_along(x, d, 0, n - 2)) / (2.0 * spacing)
        first, last = (slice_along(rise, d, i, i + 1) / spacing for i in (0, n - 2))
        return np.concatenate([first, inner, last], axis=d)
    shape = [1] * x.ndim
    shape[d] = n - 1
    steps = Reshape(tuple(shape))(diff(asarray(spacing)))
    slope = rise / steps
    before, after = slice_along(steps, d, 0, n - 2), slice_along(steps, d, 1, n - 1)
    left, right = slice_along(slope, d, 0, n - 2), slice_along(slope, d, 1, n - 1)
    inner = (after * left + before * right) / (before + after)
    first, last = slice_along(slope, d, 0, 1), slice_along(slope, d, n - 2, n - 1)
    return np.concatenate([first, inner, last], axis=d)


@implements(np.average)
def average(a: ArrayLike, axis: Axes = None, weights: Any = None, returned: bool = False, *,
            keepdims: Any = False) -> Any:  # fmt: skip
    """The mean over `axis`, weighted; with the sum of the weights if `returned`."""
    x = asarray(a)
    axes = axes_of(axis, x.ndim)
    if weights is None:
        out = mean(x, axis, keepdims=keepdims)
        count = product([x.shape[d] for d in axes])
        return (
            (out, broadcast_to(astype(asarray(count), out.dtype), out.shape)) if returned else out
        )
    w = asarray(weights)
    dtype = np.result_type(x.dtype, w.dtype)
    dtype = dtype if dtypes.is_inexact(dtype) else np.result_type(dtype, dtypes.float64)
    x, w = astype(x, dtype), astype(w, dtype)
    if w.shape != x.shape:
        if axis is None:
            raise TypeError("Axis must be specified when shapes of a and weights differ.")
        if w.shape != tuple(x.shape[d] for d in axes):
            raise ValueError(
                "Shape of weights must be consistent with shape of a along specified axis."
            )
        w = along(w, axes, x.shape)
    scale = sum(w, axes, keepdims=keepdims)
    out = sum(x * w, axes, keepdims=keepdims) / scale
    return (out, scale) if returned else out


# -- reductions that pass over NaN -------------------------------------------------------------


def _numbers(a: ArrayLike, instead: Any) -> tuple[Array, Array | None]:
    """The array with NaN replaced, and the mask of what was a number (None if all can only be)."""
    x = asarray(a)
    if not dtypes.is_inexact(x.dtype):
        return x, None
    missing = el.isnan(x)
    return el.select(missing, x.full_like(instead), x), el.logical_not(missing)


def _and(mask: Array | None, where: Any) -> Any:
    if mask is None or not _given(where):
        return where if mask is None else mask
    return np.logical_and(mask, where)


@implements(np.nansum)
def nansum(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
           keepdims: Any = False, initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """`sum` with NaN counting as zero."""
    return sum(_numbers(a, 0)[0], axis, dtype, None, keepdims, initial, where)


@implements(np.nanprod)
def nanprod(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
            keepdims: Any = False, initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """`prod` with NaN counting as one."""
    return prod(_numbers(a, 1)[0], axis, dtype, None, keepdims, initial, where)


@implements(np.nancumsum)
def nancumsum(
    a: ArrayLike, axis: int | None = None, dtype: DTypeLike = None, out: None = None
) -> Array:
    """`cumsum` with NaN counting as zero."""
    return cumsum(_numbers(a, 0)[0], axis, dtype)


@implements(np.nancumprod)
def nancumprod(
    a: ArrayLike, axis: int | None = None, dtype: DTypeLike = None, out: None = None
) -> Array:
    """`cumprod` with NaN counting as one."""
    return cumprod(_numbers(a, 1)[0], axis, dtype)


@implements(np.nanmean)
def nanmean(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
            keepdims: Any = False, *, where: Any = None) -> Array:  # fmt: skip
    """The mean of the elements that are numbers; NaN where there is none."""
    x, mask = _numbers(a, 0)
    return mean(x, axis, dtype, None, keepdims, where=_and(mask, where))


@implements(np.nanvar)
def nanvar(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
           ddof: float = 0, keepdims: Any = False, *, where: Any = None, mean: Any = None,
           correction: Any = None) -> Array:  # fmt: skip
    """The variance of the elements that are numbers; NaN where there are no more than `ddof`."""
    x, mask = _numbers(a, 0)
    return var(x, axis, dtype, None, ddof, keepdims,
               where=_and(mask, where), mean=mean, correction=correction)  # fmt: skip


@implements(np.nanstd)
def nanstd(a: ArrayLike, axis: Axes = None, dtype: DTypeLike = None, out: None = None,
           ddof: float = 0, keepdims: Any = False, *, where: Any = None, mean: Any = None,
           correction: Any = None) -> Array:  # fmt: skip
    """The square root of `nanvar`."""
    return np.sqrt(nanvar(a, axis, dtype, None, ddof, keepdims,
                          where=where, mean=mean, correction=correction))  # fmt: skip


def _nan_extreme(reduce: Any, worst: float, a: ArrayLike, axis: Axes, **rest: Any) -> Array:
    x, mask = _numbers(a, worst)
    out = reduce(x, axis, **rest)
    if mask is None:
        return out
    found = any_(mask, axis, keepdims=rest.get("keepdims", False))
    empty = out.full_like(math.nan)
    return out if _given(rest.get("initial")) else el.select(found, out, empty)


@implements(np.nanmax)
def nanmax(a: ArrayLike, axis: Axes = None, out: None = None, keepdims: Any = False,
           initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """The largest of the elements that are numbers; NaN where there is none."""
    return _nan_extreme(max, -math.inf, a, axis, keepdims=keepdims, initial=initial, where=where)


@implements(np.nanmin)
def nanmin(a: ArrayLike, axis: Axes = None, out: None = None, keepdims: Any = False,
           initial: Any = None, where: Any = None) -> Array:  # fmt: skip
    """The smallest of the elements that are numbers; NaN where there is none."""
    return _nan_extreme(min, math.inf, a, axis, keepdims=keepdims, initial=initial, where=where)


@implements(np.nanargmax)
def nanargmax(a: ArrayLike, axis: int | None = None, out: None = None, *,
              keepdims: Any = False) -> Array:  # fmt: skip
    """Position of the largest number. Of NaN alone it is 0: a program cannot raise."""
    return argmax(_numbers(a, -math.inf)[0], axis, keepdims=keepdims)


@implements(np.nanargmin)
def nanargmin(a: ArrayLike, axis: int | None = None, out: None = None, *,
              keepdims: Any = False) -> Array:  # fmt: skip
    """Position of the smallest number. Of NaN alone it is 0: a program cannot raise."""
    return argmin(_numbers(a, math.inf)[0], axis, keepdims=keepdims)
