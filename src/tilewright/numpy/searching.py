"""Looking things up: take, sort, searchsorted, nonzero, choose, select, interp, digitize, ...

Knows NumPy's index conventions (negative indices, modes, sides) and turns them into gathers,
scatters and sorts. Functions whose result's shape depends on the values take a static `size`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright import dtypes
from tilewright.errors import DynamicShape, ShapeMismatch
from tilewright.expr import static
from tilewright.numpy.comparing import isin
from tilewright.numpy.pointwise import where
from tilewright.numpy.protocol import (
    at_axis,
    axis_of,
    filled,
    implements,
    iota,
    promoted,
    shape_of,
    sized,
    together,
    traced,
)
from tilewright.numpy.shaping import ravel, reshape, slice_along
from tilewright.ops import elementwise as el
from tilewright.ops.indexing import Scatter, positions, take_along
from tilewright.ops.searching import Count, Nonzero, SearchSorted
from tilewright.ops.shape import Flip
from tilewright.ops.sort import Argsort, Sort
from tilewright.promotion import broadcast_shapes
from tilewright.tracing import Array, asarray, astype, broadcast_to

ArrayLike = Any


# -- take --------------------------------------------------------------------------------------


def _in_mode(at: Any, n: int, mode: str) -> Any:
    """Indices of NumPy's `mode` as plain ones. A program cannot raise, so "raise" counts from the
    end where negative and is otherwise held inside by the gather."""
    if mode == "wrap":
        return np.mod(at, n)
    if mode == "clip":
        return np.clip(at, 0, n - 1)
    return at


@implements(np.take)
def take(a: ArrayLike, indices: ArrayLike, axis: int | None = None, out: None = None,
         mode: str = "raise") -> Array:  # fmt: skip
    """The elements at `indices` along `axis` (of the flattened array if None)."""
    x = asarray(a)
    x = ravel(x) if axis is None else x
    d = axis_of(axis or 0, x.ndim)
    at = indices if isinstance(indices, Array) else np.asarray(indices, np.int64)
    return x[at_axis(x.ndim, d, _in_mode(at, static(x.shape[d]), mode))]


def _paired(arr: Array, indices: ArrayLike, axis: int | None) -> tuple[Array, Array, int]:
    """Array and non-negative positions that differ in extent along one axis only."""
    x, at = arr, asarray(indices)
    if axis is None:
        x = ravel(x)
    d = axis_of(axis or 0, x.ndim)
    if at.ndim != x.ndim:
        raise ShapeMismatch(
            "`indices` and `arr` must have the same number of axes", at.shape, x.shape
        )
    around = ((*v.shape[:d], 1, *v.shape[d + 1 :]) for v in (x, at))
    rest = broadcast_shapes("take_along_axis", *around)
    x = broadcast_to(x, (*rest[:d], x.shape[d], *rest[d + 1 :]))
    at = broadcast_to(at, (*rest[:d], at.shape[d], *rest[d + 1 :]))
    return x, wrapped(at, x.shape[d]), d


def wrapped(at: Array, n: Any) -> Array:
    """int64 positions, negative ones counted from the end of an axis of extent `n`."""
    if at.dtype.kind == "u":
        return astype(at, dtypes.int64)
    at = astype(at, dtypes.int64)
    return where(at < 0, at + n, at)


@implements(np.take_along_axis)
def take_along_axis(arr: ArrayLike, indices: ArrayLike, axis: int | None = -1) -> Array:
    """Along `axis` the elements at `indices`, the other axes running together."""
    return take_along(*_paired(asarray(arr), indices, axis))


@implements(np.put_along_axis)
def put_along_axis(arr: Any, indices: ArrayLike, values: ArrayLike, axis: int | None) -> None:
    """Write `values` where `take_along_axis` would read."""
    x, at, d = _paired(asarray(arr), indices, axis)
    every = [at if e == d else positions(x, at.shape, e) for e in range(x.ndim)]
    new = broadcast_to(astype(asarray(values), x.dtype), at.shape)
    arr[...] = reshape(Scatter("set", tuple(range(x.ndim)))(x, *every, new), np.shape(arr))


@implements(np.put)
def put(a: Any, ind: ArrayLike, v: ArrayLike, mode: str = "raise") -> None:
    """Write `v` at positions of the flattened array."""
    x = ravel(a)
    at = _in_mode(wrapped(ravel(asarray(ind)), x.shape[0]), static(x.shape[0]), mode)
    new = broadcast_to(astype(ravel(asarray(v)), x.dtype), at.shape)
    a[...] = reshape(Scatter("set", (0,))(x, at, new), np.shape(a))


@implements(np.putmask)
def putmask(a: Any, mask: ArrayLike, values: ArrayLike) -> None:
    """Write `values`, of the same shape or one number, where the mask holds."""
    a[...] = where(mask, astype(asarray(values), asarray(a).dtype), asarray(a))


@implements(np.copyto)
def copyto(dst: Any, src: ArrayLike, casting: str = "same_kind", where: Any = True) -> None:
    """Write `src` where the mask holds."""
    x = asarray(dst)
    new = broadcast_to(astype(asarray(src), x.dtype), x.shape)
    dst[...] = new if where is True else el.select(broadcast_to(asarray(where), x.shape), new, x)


# -- order -------------------------------------------------------------------------------------


def _line(a: ArrayLike, axis: int | None) -> tuple[Array, int]:
    x = asarray(a)
    return (ravel(x), 0) if axis is None else (x, axis_of(axis, x.ndim))


@implements(np.sort)
def sort(a: ArrayLike, axis: int | None = -1, kind: Any = None, order: None = None, *,
         stable: bool | None = None, descending: bool = False) -> Array:  # fmt: skip
    """Sorted along `axis`, NaN last; complex numbers by real, then by imaginary part."""
    x, d = _line(a, axis)
    if dtypes.is_complex(x.dtype):
        return take_along(x, _sorting(_parts(x), d, descending), d)
    return Sort(d, descending)(x)[0]


@implements(np.argsort)
def argsort(a: ArrayLike, axis: int | None = -1, kind: Any = None, order: None = None, *,
            stable: bool | None = None, descending: bool = False) -> Array:  # fmt: skip
    """Positions (int64) that sort along `axis`. Always stable."""
    x, d = _line(a, axis)
    if dtypes.is_complex(x.dtype):
        return _sorting(_parts(x), d, descending)
    return Argsort(d, descending)(x)


@implements(np.lexsort)
def lexsort(keys: Any, axis: int = -1) -> Array:
    """Positions that sort by several keys, the last one first in importance."""
    columns = [k for x in map(asarray, keys) for k in _parts(x)]
    return _sorting(columns, axis_of(axis, columns[0].ndim))


def _sorting(keys: Sequence[Array], d: int, descending: bool = False) -> Array:
    """Positions that sort by real keys, the last one first in importance."""
    order = Argsort(d, descending)(keys[0])
    for key in keys[1:]:  # stable sorts, least important key first
        order = Sort(d, descending)(take_along(key, order, d), order)[1]
    return order


def _parts(x: Array) -> Sequence[Array]:
    """The keys that order x as NumPy does: complex numbers without NaN come first, then those
    with a NaN imaginary part, then those with a NaN real part."""
    if not dtypes.is_complex(x.dtype):
        return (x,)
    real, imag = x.real, x.imag
    return imag, real, np.isnan(imag) + 2 * np.isnan(real)


@implements(np.partition)
def partition(
    a: ArrayLike, kth: Any, axis: int | None = -1, kind: Any = None, order: None = None
) -> Array:
    """Sorted, which has every element where a partition would put the k-th."""
    return sort(a, axis)


@implements(np.argpartition)
def argpartition(
    a: ArrayLike, kth: Any, axis: int | None = -1, kind: Any = None, order: None = None
) -> Array:
    """Positions of `partition`."""
    return argsort(a, axis)


@implements(np.searchsorted)
def searchsorted(a: ArrayLike, v: ArrayLike, side: str = "left", sorter: Any = None) -> Array:
    """Positions (int64) at which `v` would be put into the sorted vector `a`."""
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', got {side!r}")
    x, at = promoted(a, v)
    x = take(x, sorter) if sorter is not None else x
    return SearchSorted(side == "right")(x, at)


@implements(np.digitize)
def digitize(x: ArrayLike, bins: ArrayLike, right: bool = False) -> Array:
    """The bin of each element; the edges `bins` rise or fall."""
    values, edges = promoted(x, bins)
    side = "left" if right else "right"
    if not traced(bins):
        line = np.asarray(bins)
        if line.size and line[0] > line[-1]:
            falling = "right" if right else "left"
            return len(line) - searchsorted(line[::-1], values, falling)
        return searchsorted(edges, values, side)
    rising = searchsorted(edges, values, side)
    falling_ = edges.shape[0] - searchsorted(
        Flip((0,))(edges), values, "right" if right else "left"
    )
    return where(edges[0] > edges[-1], falling_, rising)


# -- positions of what holds -------------------------------------------------------------------


def _held(mask: Array, size: int) -> tuple[Array, Array]:
    """The first `size` positions where a vector of bools holds, and which of them exist."""
    found, count = Nonzero(size)(mask)
    return found, iota(size) < count


@sized(np.nonzero, size="n")
def nonzero(a: ArrayLike, *, size: Any = None, fill_value: Any = 0) -> tuple[Array, ...]:
    """Positions of the elements that are not zero, one int64 vector per axis. With `size` there
    are so many of them, `fill_value` standing for those that do not exist."""
    x = asarray(a)
    mask = ravel(x if x.dtype == dtypes.bool_ else x != 0)
    at, exists = _held(mask, size)
    fills = fill_value if isinstance(fill_value, tuple) else (fill_value,) * x.ndim
    parts = unravel_index(at, x.shape)
    return tuple(where(exists, p, f) for p, f in zip(parts, fills, strict=True))


@sized(np.flatnonzero, size="n")
def flatnonzero(a: ArrayLike, *, size: Any = None, fill_value: Any = 0) -> Array:
    """As `nonzero` of the flattened array."""
    return nonzero(ravel(a), size=size, fill_value=fill_value)[0]


@sized(np.argwhere, size="n")
def argwhere(a: ArrayLike, *, size: Any = None, fill_value: Any = 0) -> Array:
    """As `nonzero`, the positions as rows."""
    return np.stack(nonzero(a, size=size, fill_value=fill_value), axis=1)


@sized(np.unique, size="n")
def unique(ar: ArrayLike, *, size: Any = None, fill_value: Any = None) -> Array:
    """The distinct elements in order. With `size` so many of them, the smallest one (or
    `fill_value`) filling up."""
    x = sort(ravel(asarray(ar)))
    n = x.shape[0]
    new = np.concatenate([filled(True, (1,), dtypes.bool_),
                          slice_along(x, 0, 1, n) != slice_along(x, 0, 0, n - 1)])  # fmt: skip
    at, exists = _held(asarray(new), size)
    return where(
        exists, x[at], x[0] if fill_value is None else astype(asarray(fill_value), x.dtype)
    )


@sized(np.bincount, length="n")
def bincount(x: ArrayLike, weights: Any = None, minlength: int = 0, *, length: Any = None) -> Array:
    """How often each of 0, 1, ... occurs, or the sum of its weights. With `length` the result has
    so many bins and larger numbers are not counted."""
    at = asarray(x)
    if weights is None:
        return Count(static(length))(astype(at, dtypes.int64) if dtypes.is_bool(at.dtype) else at)
    values = astype(asarray(weights), dtypes.float64)
    zeros = filled(0, (length,), values.dtype)
    return Scatter("add", (0,))(zeros, astype(at, dtypes.int64), values)


@implements(np.compress)
def compress(
    condition: ArrayLike, a: ArrayLike, axis: int | None = None, out: None = None
) -> Array:
    """The slices where the (static) condition holds."""
    if traced(condition):
        raise DynamicShape("np.compress with a traced condition")
    x, d = _line(a, axis)
    return take(x, np.flatnonzero(condition), d)


@implements(np.extract)
def extract(condition: ArrayLike, arr: ArrayLike) -> Array:
    """The elements where the (static) condition holds."""
    return compress(np.ravel(condition), ravel(arr))


@implements(np.unravel_index)
def unravel_index(indices: ArrayLike, shape: Any, order: str = "C") -> tuple[Array, ...]:
    """Positions of the flattened array as one position per axis."""
    at, parts = asarray(indices), []
    extents = shape_of(shape)
    for n in reversed(extents) if order == "C" else extents:
        parts.append(np.remainder(at, n))
        at = np.floor_divide(at, n)
    return tuple(parts[::-1] if order == "C" else parts)


@implements(np.ravel_multi_index)
def ravel_multi_index(multi_index: Any, dims: Any, mode: Any = "raise", order: str = "C") -> Array:
    """One position per axis as a position of the flattened array."""
    extents = shape_of(dims)
    modes = (mode,) * len(extents) if isinstance(mode, str) else mode
    pairs = list(zip(multi_index, extents, modes, strict=True))
    flat: Any = 0
    for at, n, m in pairs if order == "C" else pairs[::-1]:
        flat = flat * n + _in_mode(at, n, m)
    return flat


# -- selection ---------------------------------------------------------------------------------


@implements(np.choose)
def choose(a: ArrayLike, choices: Any, out: None = None, mode: str = "raise") -> Array:
    """At each place the element of the choice that `a` names there."""
    rows = together(*choices)
    at = _in_mode(asarray(a), len(rows), mode)
    result = rows[-1]
    for i in reversed(range(len(rows) - 1)):
        result = where(at <= i, rows[i], result)
    return broadcast_to(result, np.broadcast_shapes(at.shape, result.shape))


@implements(np.select)
def select(
    condlist: Sequence[ArrayLike], choicelist: Sequence[ArrayLike], default: ArrayLike = 0
) -> Array:
    """At each place the choice of the first condition that holds there, else the default."""
    if len(condlist) != len(choicelist):
        raise ValueError("list of cases must be same length as list of conditions")
    *rows, result = together(*choicelist, default)
    for condition, row in reversed(list(zip(condlist, rows, strict=True))):
        result = where(condition, row, result)
    return result


@implements(np.piecewise)
def piecewise(x: ArrayLike, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Array:
    """At each place the function of the last condition that holds there; one function more than
    conditions is the default. Every function is computed everywhere."""
    x = asarray(x)
    conditions = [
        asarray(c) for c in (condlist if isinstance(condlist, (list, tuple)) else [condlist])
    ]
    pieces = [f(x, *args, **kw) if callable(f) else f for f in funclist]
    default = pieces.pop() if len(pieces) == len(conditions) + 1 else 0
    if len(pieces) != len(conditions):
        raise ValueError(
            f"with {len(conditions)} condition(s), either that many or one more functions"
        )
    result = broadcast_to(astype(asarray(default), x.dtype), x.shape)
    for condition, piece in zip(conditions, pieces, strict=True):
        result = where(condition, astype(asarray(piece), x.dtype), result)
    return result


@implements(np.interp)
def interp(x: ArrayLike, xp: ArrayLike, fp: ArrayLike, left: Any = None, right: Any = None,
           period: Any = None) -> Array:  # fmt: skip
    """Linear interpolation at `x` between the points (xp, fp), xp rising."""
    x, xs = astype(asarray(x), dtypes.float64), astype(asarray(xp), dtypes.float64)
    fs = asarray(fp)
    fs = fs if dtypes.is_complex(fs.dtype) else astype(fs, dtypes.float64)
    if period is not None:
        p = abs(period)
        x, xs = np.mod(x, p), np.mod(xs, p)
        order = argsort(xs)
        xs, fs = xs[order], fs[order]
        xs = np.concatenate([xs[-1:] - p, xs, xs[:1] + p])
        fs = np.concatenate([fs[-1:], fs, fs[:1]])
        left = right = None
    n = static(xs.shape[0])
    if n == 1:
        inside = broadcast_to(fs, x.shape)
    else:
        i = np.clip(searchsorted(xs, x, "right") - 1, 0, n - 2)
        x0, x1, f0, f1 = xs[i], xs[i + 1], fs[i], fs[i + 1]
        width = x1 - x0
        slope = (f1 - f0) / where(width == 0, 1.0, width)
        inside = where(x >= x1, f1, slope * (x - x0) + f0)
    first = fs[0] if left is None else left
    last = fs[-1] if right is None else right
    out = where(x < xs[0], first, where(x > xs[-1], last, inside))
    return where(np.isnan(x), math.nan, out)


# -- sets --------------------------------------------------------------------------------------


@sized(np.union1d, size="n")
def union1d(ar1: ArrayLike, ar2: ArrayLike, *, size: Any = None, fill_value: Any = None) -> Array:
    """The distinct elements of both, in order."""
    both = np.concatenate([ravel(asarray(ar1)), ravel(asarray(ar2))])
    return unique(both, size=size, fill_value=fill_value)


@sized(np.setdiff1d, size="n")
def setdiff1d(ar1: ArrayLike, ar2: ArrayLike, assume_unique: bool = False, *, size: Any = None,
              fill_value: Any = 0) -> Array:  # fmt: skip
    """The distinct elements of the first that are not in the second, in order."""
    x = sort(ravel(asarray(ar1)))
    n = x.shape[0]
    new = np.concatenate([filled(True, (1,), dtypes.bool_),
                          slice_along(x, 0, 1, n) != slice_along(x, 0, 0, n - 1)])  # fmt: skip
    at, exists = _held(np.logical_and(new, isin(x, ar2, invert=True)), size)
    return where(exists, x[at], astype(asarray(fill_value), x.dtype))
