"""Arrays from numbers, positions and other arrays: array, zeros, arange, linspace, eye, tril, ...

Knows NumPy's rules for the dtype and shape of what is created. Refuses to know how it is stored:
everything here is Fill, Iota and elementwise arithmetic, so it fuses into its readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright import dtypes, tracing
from tilewright.errors import DynamicShape
from tilewright.expr import Extent
from tilewright.numpy.protocol import (
    along,
    axis_of,
    creates,
    filled,
    implements,
    inexact_type,
    iota,
    position,
    promoted,
    shape_of,
    traced,
)
from tilewright.ops import elementwise as el
from tilewright.ops.shape import Concatenate, Pad, Reshape, Slice
from tilewright.tracing import Array, astype, broadcast_to

ArrayLike = Any
DTypeLike = Any

# -- from values -------------------------------------------------------------------------------


@creates(np.array)
def array(object: ArrayLike, dtype: DTypeLike = None, copy: Any = True, order: str = "K",
          subok: bool = False, ndmin: int = 0, like: Any = None) -> Array:  # fmt: skip
    """An array of `object`: a number, an array-like, or nested lists with traced leaves."""
    x = _nested(object)
    x = x if dtype is None else astype(x, np.dtype(dtype))
    lead = max(0, ndmin - x.ndim)
    return Reshape((1,) * lead + x.shape)(x) if lead else x


def _nested(value: Any) -> Array:
    """Stack nested sequences that hold traced arrays; leave everything else to NumPy."""
    if not isinstance(value, (list, tuple)) or not traced(value):
        return tracing.asarray(value)
    rows = promoted(*(v if type(v) in (bool, int, float, complex) else _nested(v) for v in value))
    return Concatenate(0)(*(Reshape((1, *r.shape))(r) for r in rows))


@creates(np.asarray, np.asanyarray, np.ascontiguousarray)
def asarray(a: ArrayLike, dtype: DTypeLike = None, order: Any = None, *,
            device: Any = None, copy: Any = None, like: Any = None) -> Array:  # fmt: skip
    """As `array`, without a copy where there is nothing to convert."""
    x = _nested(a)
    return x if dtype is None else astype(x, np.dtype(dtype))


@implements(np.copy)
def copy(a: ArrayLike, order: str = "K", subok: bool = False) -> Array:
    """The same elements as a value of their own (traced arrays never share memory)."""
    return tracing.asarray(a)


@implements(np.astype)
def astype_(x: ArrayLike, dtype: DTypeLike, /, *, copy: bool = True, device: Any = None) -> Array:
    """`x` converted to `dtype`."""
    return astype(tracing.asarray(x), np.dtype(dtype))


# -- constant ----------------------------------------------------------------------------------


@creates(np.zeros)
def zeros(shape: Any, dtype: DTypeLike = float, order: str = "C", **like: Any) -> Array:
    """Zeros; float64 unless said otherwise."""
    return filled(0, shape_of(shape), dtype or float)


@creates(np.ones)
def ones(shape: Any, dtype: DTypeLike = None, order: str = "C", **like: Any) -> Array:
    """Ones; float64 unless said otherwise."""
    return filled(1, shape_of(shape), dtype or float)


@creates(np.empty)
def empty(shape: Any, dtype: DTypeLike = float, order: str = "C", **like: Any) -> Array:
    """Traced programs have no uninitialised memory: the same as `zeros`."""
    return filled(0, shape_of(shape), dtype or float)


@creates(np.full)
def full(shape: Any, fill_value: ArrayLike, dtype: DTypeLike = None, order: str = "C",
         **like: Any) -> Array:  # fmt: skip
    """`fill_value`, which may be an array that broadcasts, everywhere."""
    value = _nested(fill_value)
    value = value if dtype is None else astype(value, np.dtype(dtype))
    return broadcast_to(value, shape_of(shape))


def _like(a: ArrayLike, value: Any, dtype: DTypeLike, shape: Any) -> Array:
    x = tracing.asarray(a)
    of = x.dtype if dtype is None else np.dtype(dtype)
    return filled(value, x.shape if shape is None else shape_of(shape), of)


@creates(np.zeros_like)
def zeros_like(a: ArrayLike, dtype: DTypeLike = None, order: str = "K", subok: bool = True,
               shape: Any = None, *, device: Any = None) -> Array:  # fmt: skip
    """Zeros in the shape and dtype of `a` unless said otherwise."""
    return _like(a, 0, dtype, shape)


@creates(np.ones_like)
def ones_like(a: ArrayLike, dtype: DTypeLike = None, order: str = "K", subok: bool = True,
              shape: Any = None, *, device: Any = None) -> Array:  # fmt: skip
    """Ones in the shape and dtype of `a` unless said otherwise."""
    return _like(a, 1, dtype, shape)


@creates(np.empty_like)
def empty_like(prototype: ArrayLike, dtype: DTypeLike = None, order: str = "K",
               subok: bool = True, shape: Any = None, *, device: Any = None) -> Array:  # fmt: skip
    """The same as `zeros_like`."""
    return _like(prototype, 0, dtype, shape)


@creates(np.full_like)
def full_like(a: ArrayLike, fill_value: ArrayLike, dtype: DTypeLike = None, order: str = "K",
              subok: bool = True, shape: Any = None, *, device: Any = None) -> Array:  # fmt: skip
    """`fill_value` in the shape and dtype of `a` unless said otherwise."""
    x = tracing.asarray(a)
    of = x.dtype if dtype is None else np.dtype(dtype)
    to = x.shape if shape is None else shape_of(shape)
    return broadcast_to(astype(_nested(fill_value), of), to)


# -- ranges ------------------------------------------------------------------------------------


@creates(np.arange)
def arange(start: Any, stop: Any = None, step: Any = None, dtype: DTypeLike = None,
           **like: Any) -> Array:  # fmt: skip
    """start, start + step, ... below stop. The bounds fix the shape, so they must be static."""
    if traced(start, stop, step):
        raise DynamicShape(
            "np.arange with traced bounds",
            "Make its length static, as in start + step * np.arange(n).",
        )
    line = np.arange(*[v for v in (start, stop, step) if v is not None], dtype=dtype)
    if not dtypes.is_inexact(line.dtype) and not dtypes.is_integer(line.dtype):
        return tracing.asarray(line)
    of = line.dtype
    if line.size == 0:
        return filled(0, (0,), of)
    # NumPy computes first + i * (second - first), in the result's dtype.
    first = line[0]
    delta = line[1] - first if line.size > 1 else of.type(0)
    steps = iota(line.size, of)
    steps = steps if delta == 1 else steps * filled(delta, (line.size,), of)
    return steps if first == 0 else steps + filled(first, (line.size,), of)


@creates(np.linspace)
def linspace(start: ArrayLike, stop: ArrayLike, num: int = 50, endpoint: bool = True,
             retstep: bool = False, dtype: DTypeLike = None, axis: int = 0, *,
             device: Any = None) -> Any:  # fmt: skip
    """`num` evenly spaced numbers from `start` to `stop`, which may be traced arrays."""
    real = inexact_type(start, stop)
    of = real if dtype is None else np.dtype(dtype)
    a, b = (astype(x, real) for x in promoted(start, stop))
    shape = np.broadcast_shapes(a.shape, b.shape)
    a, b = broadcast_to(a, shape), broadcast_to(b, shape)
    parts = num - 1 if endpoint else num
    step = (b - a) / parts if parts > 0 else (b - a) * math.nan
    full = (num, *shape)
    inner = tuple(range(1, len(full)))
    delta = along(step if parts > 0 else b - a, inner, full)
    line = position(full, 0, real) * delta + along(a, inner, full)
    if endpoint and num > 1:
        last = el.eq(position(full, 0), filled(num - 1, full, dtypes.int64))
        line = el.select(last, along(b, inner, full), line)
    if dtypes.is_integer(of):
        line = el.floor(line)
    line = astype(line, of)
    if axis not in (0, -len(full)):
        d = axis_of(axis, len(full))
        line = np.moveaxis(line, 0, d)
    return (line, step) if retstep else line


@implements(np.logspace)
def logspace(start: ArrayLike, stop: ArrayLike, num: int = 50, endpoint: bool = True,
             base: ArrayLike = 10.0, dtype: DTypeLike = None, axis: int = 0) -> Array:  # fmt: skip
    """`base` to the powers of a linspace."""
    powers = linspace(start, stop, num, endpoint, axis=axis)
    out = np.power(base, powers)
    return out if dtype is None else astype(out, np.dtype(dtype))


@implements(np.geomspace)
def geomspace(start: ArrayLike, stop: ArrayLike, num: int = 50, endpoint: bool = True,
              dtype: DTypeLike = None, axis: int = 0) -> Array:  # fmt: skip
    """`num` numbers from `start` to `stop` in geometric progression; both have one sign."""
    a, b = promoted(start, stop)
    sign = np.sign(a)
    line = linspace(np.log(np.abs(a)), np.log(np.abs(b)), num, endpoint, axis=axis)
    out = np.exp(line) * np.expand_dims(
        np.broadcast_to(sign, np.broadcast_shapes(a.shape, b.shape)), axis
    )
    return out if dtype is None else astype(out, np.dtype(dtype))


# -- matrices ----------------------------------------------------------------------------------


def _band(n: Extent, m: Extent, k: int, compare: Any) -> Array:
    """Where column index `compare`s to row index + k, in an n by m matrix."""
    shape = (n, m)
    rows = position(shape, 0)
    return compare(position(shape, 1), rows + k if k else rows)


@creates(np.eye)
def eye(N: Extent, M: Extent | None = None, k: int = 0, dtype: DTypeLike = float,
        order: str = "C", **like: Any) -> Array:  # fmt: skip
    """Ones on the k-th diagonal of an N by M matrix."""
    return astype(_band(N, N if M is None else M, k, el.eq), np.dtype(dtype))


@creates(np.identity)
def identity(n: Extent, dtype: DTypeLike = None, **like: Any) -> Array:
    """The n by n identity matrix."""
    return astype(_band(n, n, 0, el.eq), np.dtype(dtype or float))


@creates(np.tri)
def tri(N: Extent, M: Extent | None = None, k: int = 0, dtype: DTypeLike = float,
        **like: Any) -> Array:  # fmt: skip
    """Ones on and below the k-th diagonal."""
    return astype(_band(N, N if M is None else M, k, el.le), np.dtype(dtype))


def _masked(m: ArrayLike, k: int, compare: Any) -> Array:
    x = tracing.asarray(m)
    x = x if x.ndim > 1 else broadcast_to(x, (x.shape[0], x.shape[0]))
    mask = broadcast_to(_band(x.shape[-2], x.shape[-1], k, compare), x.shape)
    return el.select(mask, x, x.zeros_like())


@implements(np.tril)
def tril(m: ArrayLike, k: int = 0) -> Array:
    """The lower triangle of the last two axes, zero above the k-th diagonal."""
    return _masked(m, k, el.le)


@implements(np.triu)
def triu(m: ArrayLike, k: int = 0) -> Array:
    """The upper triangle of the last two axes, zero below the k-th diagonal."""
    return _masked(m, k, el.ge)


@implements(np.diag)
def diag(v: ArrayLike, k: int = 0) -> Array:
    """The matrix with the vector `v` on its k-th diagonal, or the k-th diagonal of a matrix."""
    x = tracing.asarray(v)
    if x.ndim == 1:
        return diagflat(x, k)
    if x.ndim != 2:
        raise ValueError("Input must be 1- or 2-d.")
    return diagonal(x, k)


@implements(np.diagflat)
def diagflat(v: ArrayLike, k: int = 0) -> Array:
    """The square matrix with the elements of `v` on its k-th diagonal."""
    x = Reshape((tracing.asarray(v).type.size,))(tracing.asarray(v))
    before, after = max(k, 0), max(-k, 0)
    n = x.shape[0] + abs(k)
    columns = broadcast_to(Pad((before,), (after,), (0,))(x, x.full_like(0, ())), (n, n))
    return el.select(_band(n, n, k, el.eq), columns, columns.zeros_like())


@implements(np.diagonal)
def diagonal(a: ArrayLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """The offset-th diagonal of two axes, as the last axis of the result.

    Rows of m + 1 elements start one column further right each, so the diagonal is the first
    column of the flattened matrix regrouped: moving elements only, no gather.
    """
    x = tracing.asarray(a)
    axis1, axis2 = axis_of(axis1, x.ndim), axis_of(axis2, x.ndim)
    if axis1 == axis2:
        raise ValueError("axis1 and axis2 cannot be the same")
    x = np.moveaxis(x, (axis1, axis2), (-2, -1))
    n, m = x.shape[-2:]
    row, column = max(0, -offset), max(0, offset)
    length = max(0, min(n - row, m - column))
    lead = x.ndim - 2
    if length == 0:
        return filled(0, (*x.shape[:lead], 0), x.dtype)
    starts = (0,) * lead + (row, column)
    stops = (*x.shape[:lead], row + length, column + length)
    x = Slice(starts, stops, (1,) * x.ndim)(x)
    flat = Reshape((*x.shape[:lead], length * length))(x)
    one = (1,) * lead
    return Slice((0,) * (lead + 1), flat.shape, (*one, length + 1))(flat)


@implements(np.trace)
def trace(a: ArrayLike, offset: int = 0, axis1: int = 0, axis2: int = 1,
          dtype: DTypeLike = None, out: None = None) -> Array:  # fmt: skip
    """The sum of a diagonal."""
    return np.sum(diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype)


@implements(np.vander)
def vander(x: ArrayLike, N: int | None = None, increasing: bool = False) -> Array:
    """Powers 0 .. N-1 of the vector `x` as columns, decreasing unless said otherwise."""
    x = tracing.asarray(x)
    n = x.shape[0] if N is None else N
    column = Reshape((x.shape[0], 1))(x)
    powers = [x.full_like(1, column.shape)]
    for _ in range(1, n):
        powers.append(powers[-1] * column)
    of = np.promote_types(x.dtype, np.int64)
    ordered = powers[:n] if increasing else powers[:n][::-1]
    if not ordered:
        return filled(0, (x.shape[0], 0), of)
    return Concatenate(1)(*(astype(p, of) for p in ordered))


# -- grids -------------------------------------------------------------------------------------


@implements(np.meshgrid)
def meshgrid(*xi: ArrayLike, copy: bool = True, sparse: bool = False,
             indexing: str = "xy") -> tuple[Array, ...]:  # fmt: skip
    """Coordinate arrays of a grid. `indexing="xy"` swaps the first two axes, as NumPy does."""
    if indexing not in ("xy", "ij"):
        raise ValueError("Valid values for `indexing` are 'xy' and 'ij'.")
    lines = [Reshape((tracing.asarray(x).type.size,))(tracing.asarray(x)) for x in xi]
    axes = list(range(len(lines)))
    if indexing == "xy" and len(axes) > 1:
        axes[:2] = [1, 0]
    shape = [lines[axes.index(d)].shape[0] for d in range(len(lines))]
    if sparse:
        ones = [1] * len(lines)
        return tuple(
            Reshape((*ones[:d], *x.shape, *ones[d + 1 :]))(x)
            for x, d in zip(lines, axes, strict=True)
        )
    return tuple(along(x, (d,), shape) for x, d in zip(lines, axes, strict=True))


@creates(np.indices)
def indices(dimensions: Sequence[Extent], dtype: DTypeLike = int, sparse: bool = False) -> Any:
    """For each axis of a grid the position along it, stacked (or a tuple if `sparse`)."""
    shape = tuple(dimensions)
    if sparse:
        ones = (1,) * len(shape)
        return tuple(
            position((*ones[:d], n, *ones[d + 1 :]), d, dtype) for d, n in enumerate(shape)
        )
    grids = [position((1, *shape), d + 1, dtype) for d in range(len(shape))]
    return Concatenate(0)(*grids) if grids else filled(0, (0,), dtype)


@creates(np.fromfunction)
def fromfunction(function: Any, shape: Sequence[Extent], *, dtype: DTypeLike = float,
                 like: Any = None, **kwargs: Any) -> Any:  # fmt: skip
    """`function` of the positions along each axis."""
    return function(*(position(tuple(shape), d, dtype) for d in range(len(shape))), **kwargs)


@implements(np.fill_diagonal)
def fill_diagonal(a: Any, val: ArrayLike, wrap: bool = False) -> None:
    """Write `val` on the main diagonal of `a`."""
    x = tracing.asarray(a)
    on = filled(True, x.shape, dtypes.bool_)
    for d in range(1, x.ndim):
        on = el.logical_and(on, el.eq(position(x.shape, d), position(x.shape, 0)))
    a[...] = el.select(on, broadcast_to(astype(tracing.asarray(val), x.dtype), x.shape), x)


__all__ = [
    "arange", "array", "asarray", "astype_", "copy", "diag", "diagflat", "diagonal", "empty",
    "empty_like", "eye", "fill_diagonal", "fromfunction", "full", "full_like", "geomspace",
    "identity", "indices", "linspace", "logspace", "meshgrid", "ones", "ones_like", "trace",
    "tri", "tril", "triu", "vander", "zeros", "zeros_like",
]  # fmt: skip
