"""Arrays in other arrangements: reshape, transpose, concatenate, split, tile, roll, pad, ...

Knows NumPy's rules for axes and shapes. Refuses to know elements: everything here moves them by
index arithmetic. A static index along an axis is taken as a few slices rather than a gather.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright import tracing
from tilewright.errors import DynamicShape, ShapeMismatch, UnsupportedFunction
from tilewright.expr import Extent, product, static
from tilewright.numpy.protocol import (
    Axes,
    along,
    at_axis,
    axes_of,
    axis_of,
    filled,
    implements,
    promoted,
    shape_of,
    traced,
)
from tilewright.ops.shape import Concatenate, Flip, Pad, Reshape, Slice, Transpose
from tilewright.promotion import broadcast_shapes
from tilewright.tracing import Array, asarray, astype

ArrayLike = Any
DTypeLike = Any


# -- one array, the same elements --------------------------------------------------------------


@implements(np.reshape)
def reshape(a: ArrayLike, /, shape: Any, order: str = "C", *, copy: bool | None = None) -> Array:
    """The same elements in `shape`; one extent may be -1. `order` "F" runs the first axis first."""
    x = asarray(a)
    to = _completed(shape_of(shape), x)
    if order == "F":
        return _reversed(_to_shape(_reversed(x), to[::-1]))
    return _to_shape(x, to)


def _reversed(x: Array) -> Array:
    return Transpose(tuple(range(x.ndim))[::-1])(x)


def _to_shape(x: Array, shape: Sequence[Extent]) -> Array:
    return x if x.shape == tuple(shape) else Reshape(tuple(shape))(x)


def _completed(shape: Sequence[Extent], x: Array) -> tuple[Extent, ...]:
    """`shape` with its -1 worked out, checked against the number of elements."""
    size, unknown = (
        x.type.size,
        [d for d, n in enumerate(shape) if isinstance(n, int | np.integer) and n < 0],
    )
    mistake = ShapeMismatch(
        f"cannot reshape {size} elements", x.shape, tuple(shape),
        way_out="The number of elements must stay the same; one extent may be -1.",
    )  # fmt: skip
    if len(unknown) > 1:
        raise ValueError("can only specify one unknown dimension")
    rest = product([n for d, n in enumerate(shape) if d not in unknown])
    if unknown:
        if rest == 0 or (isinstance(rest, int) and isinstance(size, int) and size % rest):
            raise mistake
        missing = size // rest
        return tuple(missing if d in unknown else _extent(n) for d, n in enumerate(shape))
    if rest != size:
        raise mistake
    return tuple(_extent(n) for n in shape)


def _extent(n: Any) -> Extent:
    return int(n) if isinstance(n, np.integer) else n


@implements(np.ravel)
def ravel(a: ArrayLike, order: str = "C") -> Array:
    """The elements in a row."""
    return reshape(asarray(a), -1 if asarray(a).type.size != 0 else 0, order)


@implements(np.transpose, np.permute_dims)
def transpose(a: ArrayLike, axes: Sequence[int] | None = None) -> Array:
    """Permuted axes: reversed, or axis d of the result is axis `axes[d]`."""
    x = asarray(a)
    if axes is None:
        return _reversed(x)
    order = tuple(axis_of(d, x.ndim) for d in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ValueError("axes don't match array")
    return Transpose(order)(x)


@implements(np.matrix_transpose, np.linalg.matrix_transpose)
def matrix_transpose(x: ArrayLike, /) -> Array:
    """The last two axes swapped."""
    return swapaxes(x, -1, -2)


@implements(np.swapaxes)
def swapaxes(a: ArrayLike, axis1: int, axis2: int) -> Array:
    """Two axes exchanged."""
    x = asarray(a)
    order = list(range(x.ndim))
    i, j = axis_of(axis1, x.ndim), axis_of(axis2, x.ndim)
    order[i], order[j] = order[j], order[i]
    return Transpose(tuple(order))(x)


@implements(np.moveaxis)
def moveaxis(a: ArrayLike, source: Axes, destination: Axes) -> Array:
    """Axes moved to new places, the others keeping their order."""
    x = asarray(a)
    src = [axis_of(d, x.ndim) for d in shape_of(source)]
    dst = [axis_of(d, x.ndim) for d in shape_of(destination)]
    if len(src) != len(dst):
        raise ValueError(
            "`source` and `destination` arguments must have the same number of elements"
        )
    order = [d for d in range(x.ndim) if d not in src]
    for to, of in sorted(zip(dst, src, strict=True)):
        order.insert(to, of)
    return Transpose(tuple(order))(x)


@implements(np.rollaxis)
def rollaxis(a: ArrayLike, axis: int, start: int = 0) -> Array:
    """`axis` moved to stand before `start`."""
    n = asarray(a).ndim
    axis = axis_of(axis, n)
    start = start + n if start < 0 else start
    return moveaxis(a, axis, start - 1 if axis < start else start)


@implements(np.expand_dims)
def expand_dims(a: ArrayLike, axis: int | Sequence[int]) -> Array:
    """New axes of extent 1 at the given places of the result."""
    x = asarray(a)
    ndim = x.ndim + len(shape_of(axis))
    new = axes_of(axis, ndim)
    rest = iter(x.shape)
    return Reshape(tuple(1 if d in new else next(rest) for d in range(ndim)))(x)


@implements(np.squeeze)
def squeeze(a: ArrayLike, axis: Axes = None) -> Array:
    """Axes of extent 1 dropped: all of them, or those named."""
    x = asarray(a)
    drop = (
        axes_of(axis, x.ndim) if axis is not None else [d for d, n in enumerate(x.shape) if n == 1]
    )
    if any(x.shape[d] != 1 for d in drop):
        raise ShapeMismatch(f"cannot squeeze out axis {axis}, whose extent is not 1", x.shape)
    return _to_shape(x, [n for d, n in enumerate(x.shape) if d not in drop])


def _at_least(n: int, arrays: tuple[ArrayLike, ...], shape: Any) -> Any:
    out = tuple(x if x.ndim >= n else _to_shape(x, shape(x)) for x in map(asarray, arrays))
    return out[0] if len(out) == 1 else out


@implements(np.atleast_1d)
def atleast_1d(*arys: ArrayLike) -> Any:
    """Scalars become vectors."""
    return _at_least(1, arys, lambda x: (1,))


@implements(np.atleast_2d)
def atleast_2d(*arys: ArrayLike) -> Any:
    """Vectors become rows."""
    return _at_least(2, arys, lambda x: (1,) * (2 - x.ndim) + x.shape)


@implements(np.atleast_3d)
def atleast_3d(*arys: ArrayLike) -> Any:
    """A vector lies along the middle axis, a matrix along the first two."""
    return _at_least(3, arys, lambda x: ((1,) * (2 - x.ndim) + x.shape + (1,))[:3])


@implements(np.flip)
def flip(m: ArrayLike, axis: Axes = None) -> Array:
    """Reversed along the given axes, all by default."""
    x = asarray(m)
    axes = axes_of(axis, x.ndim)
    return Flip(axes)(x) if axes else x


@implements(np.flipud)
def flipud(m: ArrayLike) -> Array:
    """Reversed along the first axis."""
    return flip(m, 0)


@implements(np.fliplr)
def fliplr(m: ArrayLike) -> Array:
    """Reversed along the second axis."""
    return flip(m, 1)


@implements(np.rot90)
def rot90(m: ArrayLike, k: int = 1, axes: Sequence[int] = (0, 1)) -> Array:
    """Rotated k quarter turns from the first of `axes` towards the second."""
    x, (first, second) = asarray(m), axes
    turns = k % 4
    if turns == 0:
        return x
    if turns == 2:
        return flip(x, (first, second))
    if turns == 1:
        return swapaxes(flip(x, second), first, second)
    return flip(swapaxes(x, first, second), second)


# -- repetition --------------------------------------------------------------------------------


@implements(np.broadcast_to)
def broadcast_to(array: ArrayLike, shape: Any, subok: bool = False) -> Array:
    """Repeated along new and unit axes."""
    x, to = asarray(array), shape_of(shape)
    return tracing.broadcast_to(x, to)


@implements(np.broadcast_arrays)
def broadcast_arrays(*args: ArrayLike, subok: bool = False) -> tuple[Array, ...]:
    """All arguments in their common shape."""
    arrays = [asarray(a) for a in args]
    shape = broadcast_shapes("broadcast_arrays", *(a.shape for a in arrays))
    return tuple(tracing.broadcast_to(a, shape) for a in arrays)


@implements(np.tile)
def tile(A: ArrayLike, reps: Any) -> Array:
    """Whole copies side by side, `reps[d]` along axis d."""
    x, times = asarray(A), shape_of(reps)
    ndim = max(x.ndim, len(times))
    times = (1,) * (ndim - len(times)) + times
    shape = (1,) * (ndim - x.ndim) + x.shape
    # Each axis n becomes (times, n); unit ones are left out so that nothing is moved for them.
    paired = [m for t, n in zip(times, shape, strict=True) for m in (t, n)]
    full = along(_to_shape(x, shape), tuple(range(1, 2 * ndim, 2)), paired)
    return _to_shape(full, [t * n for t, n in zip(times, shape, strict=True)])


@implements(np.repeat)
def repeat(a: ArrayLike, repeats: Any, axis: int | None = None, *,
           total_repeat_length: int | None = None) -> Array:  # fmt: skip
    """Each element `repeats` times along `axis`. The counts fix the shape: they are static."""
    if traced(repeats):
        raise DynamicShape("np.repeat with traced counts", "Repeat a static number of times.")
    x = asarray(a) if axis is not None else ravel(asarray(a))
    d = axis_of(axis or 0, x.ndim)
    counts = np.asarray(repeats)
    if counts.size == 1:
        k = counts.item()
        shape = (*x.shape[: d + 1], k, *x.shape[d + 1 :])
        full = along(x, [e for e in range(len(shape)) if e != d + 1], shape)
        return _to_shape(full, [*x.shape[:d], x.shape[d] * k, *x.shape[d + 1 :]])
    return take_static(x, np.repeat(np.arange(static(x.shape[d])), counts), d)


@implements(np.resize)
def resize(a: ArrayLike, new_shape: Any) -> Array:
    """`new_shape` filled with the elements in a row, over and over."""
    x, shape = ravel(asarray(a)), shape_of(new_shape)
    size, have = static(product(shape)), static(x.shape[0])
    if size == 0 or have == 0:
        return filled(0, shape, x.dtype)
    return _to_shape(tile(x, -(-size // have))[:size], shape)


# -- several arrays ----------------------------------------------------------------------------


def joined(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays of one dtype one after the other; a single one is itself."""
    return arrays[0] if len(arrays) == 1 else Concatenate(axis)(*arrays)


@implements(np.concatenate, np.concat)
def concatenate(arrays: Sequence[ArrayLike], /, axis: int | None = 0, out: None = None, *,
                dtype: DTypeLike = None, casting: str = "same_kind") -> Array:  # fmt: skip
    """Arrays one after the other along `axis`; None flattens them first."""
    parts = promoted(*arrays)
    parts = parts if dtype is None else [astype(p, np.dtype(dtype)) for p in parts]
    if axis is None:
        return joined([ravel(p) for p in parts], 0)
    d = axis_of(axis, parts[0].ndim)
    rest = [(*p.shape[:d], *p.shape[d + 1 :]) for p in parts]
    if any(p.ndim != parts[0].ndim for p in parts) or any(r != rest[0] for r in rest):
        raise ShapeMismatch(
            f"cannot concatenate along axis {axis}", *(p.shape for p in parts),
            way_out="All other axes must agree: add axes with x[None] or reshape.",
        )  # fmt: skip
    return joined(parts, d)


@implements(np.stack)
def stack(arrays: Sequence[ArrayLike], axis: int = 0, out: None = None, *,
          dtype: DTypeLike = None, casting: str = "same_kind") -> Array:  # fmt: skip
    """Arrays of one shape along a new axis."""
    parts = [asarray(a) for a in arrays]
    if any(p.shape != parts[0].shape for p in parts):
        raise ShapeMismatch("stack needs arrays of one shape", *(p.shape for p in parts))
    d = axis_of(axis, parts[0].ndim + 1)
    return concatenate([expand_dims(p, d) for p in parts], axis=d, dtype=dtype)


@implements(np.vstack)
def vstack(
    tup: Sequence[ArrayLike], *, dtype: DTypeLike = None, casting: str = "same_kind"
) -> Array:
    """One below the other; vectors are rows."""
    return concatenate([atleast_2d(a) for a in tup], axis=0, dtype=dtype)


@implements(np.hstack)
def hstack(
    tup: Sequence[ArrayLike], *, dtype: DTypeLike = None, casting: str = "same_kind"
) -> Array:
    """Side by side: along the second axis, vectors along their only one."""
    parts = [atleast_1d(a) for a in tup]
    return concatenate(parts, axis=0 if parts[0].ndim == 1 else 1, dtype=dtype)


@implements(np.dstack)
def dstack(tup: Sequence[ArrayLike]) -> Array:
    """Along the third axis."""
    return concatenate([atleast_3d(a) for a in tup], axis=2)


@implements(np.column_stack)
def column_stack(tup: Sequence[ArrayLike]) -> Array:
    """Vectors as the columns of a matrix."""
    columns = [x if x.ndim > 1 else _to_shape(x, (x.type.size, 1)) for x in map(asarray, tup)]
    return concatenate(columns, axis=1)


@implements(np.append)
def append(arr: ArrayLike, values: ArrayLike, axis: int | None = None) -> Array:
    """`values` behind `arr`; both flattened if `axis` is None."""
    return concatenate((arr, values), axis=axis)


@implements(np.block)
def block(arrays: Any) -> Array:
    """Nested lists of blocks: the innermost lie along the last axis."""
    depth, probe = 0, arrays
    while isinstance(probe, list):
        depth, probe = depth + 1, probe[0]

    def leaves(value: Any) -> list[Any]:
        return [x for v in value for x in leaves(v)] if isinstance(value, list) else [value]

    ndim = max([depth, *(asarray(x).ndim for x in leaves(arrays))])

    def build(value: Any, level: int) -> Array:
        if isinstance(value, list):
            return concatenate([build(v, level + 1) for v in value], axis=level - depth)
        x = asarray(value)
        return _to_shape(x, (1,) * (ndim - x.ndim) + x.shape)

    return build(arrays, 0)


# -- splitting ---------------------------------------------------------------------------------


@implements(np.array_split)
def array_split(ary: ArrayLike, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """Consecutive pieces: nearly equal ones, or cut at the given positions."""
    x = asarray(ary)
    d = axis_of(axis, x.ndim)
    n = static(x.shape[d])
    if isinstance(indices_or_sections, Array):
        indices_or_sections = operator.index(indices_or_sections)  # how many cannot be traced
    pieces = np.array_split(np.arange(n), indices_or_sections)
    result, start = [], 0
    for p in pieces:
        start = int(p[0]) if len(p) else start
        result.append(slice_along(x, d, start, start + len(p)))
    return result


@implements(np.split)
def split(ary: ArrayLike, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """As `array_split`, but the number of sections must divide the extent."""
    x = asarray(ary)
    n = x.shape[axis_of(axis, x.ndim)]
    if isinstance(indices_or_sections, int | np.integer) and n % indices_or_sections:
        raise ShapeMismatch(
            f"cannot split an axis of {n} into {indices_or_sections} equal parts",
            x.shape, way_out="array_split makes nearly equal parts.",
        )  # fmt: skip
    return array_split(x, indices_or_sections, axis)


@implements(np.hsplit)
def hsplit(ary: ArrayLike, indices_or_sections: Any) -> list[Array]:
    """Split along the second axis, a vector along its only one."""
    return split(ary, indices_or_sections, 1 if asarray(ary).ndim > 1 else 0)


@implements(np.vsplit)
def vsplit(ary: ArrayLike, indices_or_sections: Any) -> list[Array]:
    """Split along the first axis."""
    return split(ary, indices_or_sections, 0)


@implements(np.dsplit)
def dsplit(ary: ArrayLike, indices_or_sections: Any) -> list[Array]:
    """Split along the third axis."""
    return split(ary, indices_or_sections, 2)


@implements(np.unstack)
def unstack(x: ArrayLike, /, *, axis: int = 0) -> tuple[Array, ...]:
    """The slices along `axis`, that axis dropped."""
    x = moveaxis(x, axis, 0)
    return tuple(x[i] for i in range(static(x.shape[0])))


# -- static positions along an axis ------------------------------------------------------------


def slice_along(x: Array, axis: int, start: Extent, stop: Extent, step: int = 1) -> Array:
    """`x[start:stop:step]` along one axis, with 0 <= start <= stop."""
    if start == 0 and stop == x.shape[axis] and step == 1:
        return x
    starts, stops, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return Slice(tuple(starts), tuple(stops), tuple(steps))(x)


def _runs(index: Any) -> list[tuple[int, int, int]]:
    """A static index as (first, step, count) runs of constant step."""
    runs: list[tuple[int, int, int]] = []
    for i in map(int, index):
        if runs:
            first, step, count = runs[-1]
            if count == 1:
                runs[-1] = (first, i - first, 2)
                continue
            if i == first + step * count:
                runs[-1] = (first, step, count + 1)
                continue
        runs.append((i, 1, 1))
    return runs


def take_static(x: Array, index: Any, axis: int, pieces: int = 16) -> Array:
    """`np.take(x, index, axis)` for a static vector of positions in range.

    A few runs of constant step become slices side by side, which fuse; more become a gather.
    """
    index = np.asarray(index)
    runs = _runs(index)
    if len(runs) > pieces:
        return x[at_axis(x.ndim, axis, index)]
    if not runs:
        return slice_along(x, axis, 0, 0)
    return joined([_run(x, axis, *run) for run in runs], axis)


def _run(x: Array, axis: int, first: int, step: int, count: int) -> Array:
    last = first + step * (count - 1)
    if step == 0:
        shape = [count if d == axis else n for d, n in enumerate(x.shape)]
        return tracing.broadcast_to(slice_along(x, axis, first, first + 1), shape)
    if step < 0:
        return Flip((axis,))(slice_along(x, axis, last, first + 1, -step))
    return slice_along(x, axis, first, last + 1, step)


@implements(np.roll)
def roll(a: ArrayLike, shift: Any, axis: Axes = None) -> Array:
    """Shifted along the axes, what falls off the end coming back in front.

    A traced shift reads the array twice in a row and slices there.
    """
    x = asarray(a)
    if axis is None:
        return _to_shape(roll(ravel(x), shift, 0), x.shape)
    axes = shape_of(axis)
    shifts = [shift] * len(axes) if np.ndim(shift) == 0 else list(shift)
    axes = axes * len(shifts) if len(axes) == 1 else axes
    for s, d in zip(shifts, axes, strict=True):
        x = _rolled(x, s, axis_of(d, x.ndim))
    return x


def _rolled(x: Array, shift: Any, axis: int) -> Array:
    n = x.shape[axis]
    if n == 0:
        return x
    if traced(shift):
        where = (np.arange(static(n)) - shift) % n
        return x[at_axis(x.ndim, axis, where)]
    k = int(shift) % static(n)
    return (
        joined([slice_along(x, axis, n - k, n), slice_along(x, axis, 0, n - k)], axis) if k else x
    )


@implements(np.delete)
def delete(arr: ArrayLike, obj: Any, axis: int | None = None) -> Array:
    """Without the (static) positions `obj` along `axis`."""
    x = asarray(arr) if axis is not None else ravel(asarray(arr))
    d = axis_of(axis or 0, x.ndim)
    return take_static(x, np.delete(np.arange(static(x.shape[d])), obj), d)


@implements(np.insert)
def insert(arr: ArrayLike, obj: Any, values: ArrayLike, axis: int | None = None) -> Array:
    """With `values` put in before the (static) positions `obj` along `axis`."""
    x = asarray(arr) if axis is not None else ravel(asarray(arr))
    d = axis_of(axis or 0, x.ndim)
    n = static(x.shape[d])
    # NumPy's own insert, run on position numbers, says where each new slot goes.
    at = np.arange(n)[obj] if isinstance(obj, slice) else np.atleast_1d(obj)
    new = astype(asarray(values), x.dtype)
    slots = at.size
    if at.size == 1:
        slots = static(new.shape[d - x.ndim]) if new.ndim >= x.ndim - d else 1
        slots = (
            static(new.shape[0])
            if np.ndim(obj) == 0 and new.ndim == x.ndim > 0 and d == 0
            else slots
        )
    numbers = np.arange(n, n + slots)
    order = np.insert(np.arange(n), obj, numbers if slots > 1 or np.ndim(obj) else numbers[0])
    shape = [slots if e == d else m for e, m in enumerate(x.shape)]
    both = joined([x, tracing.broadcast_to(new, shape)], d)
    return take_static(both, order, d)


# -- padding -----------------------------------------------------------------------------------

_STATISTICS = {"maximum": np.max, "minimum": np.min, "mean": np.mean, "median": np.median}


@implements(np.pad)
def pad(array: ArrayLike, pad_width: Any, mode: Any = "constant", **options: Any) -> Array:
    """Surrounded as `mode` says: constant, edge, reflect, symmetric, wrap, empty, linear_ramp,
    maximum, minimum, mean, median. Options as in NumPy: constant_values, end_values,
    reflect_type="even", stat_length."""
    x = asarray(array)
    widths = _pairs(pad_width, x.ndim)
    if mode in ("constant", "empty"):
        return _pad_constant(x, widths, options.get("constant_values", 0))
    for d, (low, high) in enumerate(widths):
        if not (low or high):
            continue
        if (
            mode in ("edge", "reflect", "symmetric", "wrap")
            and options.get("reflect_type", "even") == "even"
        ):
            index = np.pad(np.arange(static(x.shape[d])), (low, high), mode)
            x = take_static(x, index, d)
        elif mode in _STATISTICS:
            x = _pad_statistic(x, d, low, high, mode, _pairs(options.get("stat_length"), x.ndim)[d])
        elif mode == "linear_ramp":
            x = _pad_ramp(x, d, low, high, _pairs(options.get("end_values", 0), x.ndim)[d])
        else:
            raise UnsupportedFunction(f"pad with mode={mode!r}, {options}", "reflect_type='even'")
    return x


def _pairs(value: Any, ndim: int) -> list[tuple[Any, Any]]:
    """(before, after) per axis, from a number, a pair, or a pair per axis."""
    if isinstance(value, dict):
        table = [value.get(d, value.get(d - ndim, 0)) for d in range(ndim)]
        return [(v, v) if np.ndim(v) == 0 else tuple(v) for v in table]
    if traced(value):
        return [(value, value)] * ndim if isinstance(value, Array) else [tuple(v) for v in value]
    pairs = np.broadcast_to(np.asarray(value), (ndim, 2)).tolist()
    return [(low, high) for low, high in pairs]


def _pad_constant(x: Array, widths: list[tuple[int, int]], values: Any) -> Array:
    if any(w < 0 for pair in widths for w in pair):
        raise ValueError("index can't contain negative values")
    pairs = _pairs(values, x.ndim)
    first = pairs[0][0] if pairs else 0
    if all(v is first or (not traced(v) and v == first) for pair in pairs for v in pair):
        low, high = zip(*widths, strict=True) if widths else ((), ())
        return Pad(low, high, (0,) * x.ndim)(x, astype(asarray(first), x.dtype))
    for d, (ends, fills) in enumerate(zip(widths, pairs, strict=True)):
        parts = []
        for width, value in zip(ends, fills, strict=True):
            shape = [width if e == d else n for e, n in enumerate(x.shape)]
            parts.append(tracing.broadcast_to(astype(asarray(value), x.dtype), shape))
        x = joined([parts[0], x, parts[1]], d)
    return x


def _pad_statistic(
    x: Array, d: int, low: int, high: int, mode: str, lengths: tuple[Any, Any]
) -> Array:
    n = static(x.shape[d])
    k, m = (min(v, n) if v else n for v in lengths)
    ends = []
    for width, piece in ((low, slice_along(x, d, 0, k)), (high, slice_along(x, d, n - m, n))):
        value = _STATISTICS[mode](piece, axis=d, keepdims=True)
        if value.dtype != x.dtype:
            value = astype(np.rint(value) if x.dtype.kind in "iu" else value, x.dtype)
        ends.append(
            tracing.broadcast_to(value, [width if e == d else s for e, s in enumerate(x.shape)])
        )
    return joined([ends[0], x, ends[1]], d)


def _pad_ramp(x: Array, d: int, low: int, high: int, values: tuple[Any, Any]) -> Array:
    n = static(x.shape[d])
    first, last = slice_along(x, d, 0, 1), slice_along(x, d, n - 1, n)
    parts = [x]
    for width, edge, value in ((low, first, values[0]), (high, last, values[1])):
        if width:
            ramp = np.linspace(
                value, squeeze(edge, d), width, endpoint=False, axis=d, dtype=x.dtype
            )
            parts = [ramp, *parts] if edge is first else [*parts, flip(ramp, d)]
    return joined(parts, d)


@implements(np.ndim)
def ndim(a: ArrayLike) -> int:
    """The number of axes."""
    return asarray(a).ndim


@implements(np.shape)
def shape(a: ArrayLike) -> tuple[Extent, ...]:
    """The extents."""
    return asarray(a).shape


@implements(np.size)
def size(a: ArrayLike, axis: Axes = None) -> Extent:
    """The number of elements, or the extent along `axis`."""
    x = asarray(a)
    return product([x.shape[d] for d in axes_of(axis, x.ndim)])
