"""Moving and placing elements: broadcast_in_dim, pad, slice, dynamic_slice, concatenate, ...

Knows lax's explicit axis arguments. Refuses to know NumPy's implicit ones.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.errors import ShapeMismatch, UnsupportedFunction
from tilewright.expr import Extent, product, static
from tilewright.numpy import creation, shaping
from tilewright.numpy.protocol import along, axis_of, position, promoted, staged
from tilewright.numpy.searching import take, wrapped
from tilewright.ops.indexing import DynamicSlice, DynamicUpdateSlice
from tilewright.ops.shape import Concatenate, Pad, Reshape, Slice, Transpose
from tilewright.tracing import Array, asarray, astype

ArrayLike = Any
DTypeLike = Any


@staged
def iota(dtype: DTypeLike, size: Extent) -> Array:
    """0, 1, ..., size - 1."""
    return position((size,), 0, dtype)


@staged
def broadcasted_iota(dtype: DTypeLike, shape: Sequence[Extent], dimension: int) -> Array:
    """The position along `dimension` at every place of an array of `shape`."""
    return position(shape, dimension, dtype)


@staged
def full(shape: Sequence[Extent], fill_value: ArrayLike, dtype: DTypeLike = None) -> Array:
    """`fill_value` everywhere."""
    return asarray(creation.full(tuple(shape), fill_value, dtype))


@staged
def broadcast_in_dim(operand: ArrayLike, shape: Sequence[Extent],
                     broadcast_dimensions: Sequence[int]) -> Array:  # fmt: skip
    """Axis d of `operand` becomes axis `broadcast_dimensions[d]` of `shape`; extents 1 repeat."""
    x = asarray(operand)
    kept = [d for d, n in enumerate(x.shape) if n == shape[broadcast_dimensions[d]]]
    if any(x.shape[d] != 1 for d in range(x.ndim) if d not in kept):
        raise ShapeMismatch(f"broadcast_in_dim along {tuple(broadcast_dimensions)}", x.shape, shape)
    x = x if len(kept) == x.ndim else Reshape(tuple(x.shape[d] for d in kept))(x)
    return along(x, [broadcast_dimensions[d] for d in kept], shape)


@staged
def broadcast(operand: ArrayLike, sizes: Sequence[Extent]) -> Array:
    """Repeated along new leading axes."""
    x = asarray(operand)
    shape = (*sizes, *x.shape)
    return along(x, range(len(sizes), len(shape)), shape)


@staged
def reshape(operand: ArrayLike, new_sizes: Sequence[Extent], dimensions: Any = None) -> Array:
    """The same elements in another shape, the axes first put in the order `dimensions`."""
    x = asarray(operand)
    x = x if dimensions is None else Transpose(tuple(dimensions))(x)
    return shaping.reshape(x, tuple(new_sizes))


@staged
def transpose(operand: ArrayLike, permutation: Sequence[int]) -> Array:
    """Axis d of the result is axis `permutation[d]` of the operand."""
    return shaping.transpose(asarray(operand), tuple(permutation))


@staged
def expand_dims(array: ArrayLike, dimensions: Sequence[int]) -> Array:
    """New axes of extent 1."""
    return shaping.expand_dims(asarray(array), tuple(dimensions))


@staged
def squeeze(array: ArrayLike, dimensions: Sequence[int]) -> Array:
    """Axes of extent 1 dropped."""
    return shaping.squeeze(asarray(array), tuple(dimensions))


@staged
def collapse(operand: ArrayLike, start_dimension: int, stop_dimension: int | None = None) -> Array:
    """The axes from `start_dimension` up to `stop_dimension` made one."""
    x = asarray(operand)
    stop = x.ndim if stop_dimension is None else stop_dimension % (x.ndim + 1)
    inner = product(x.shape[start_dimension:stop])
    return shaping.reshape(x, (*x.shape[:start_dimension], inner, *x.shape[stop:]))


@staged
def rev(operand: ArrayLike, dimensions: Sequence[int]) -> Array:
    """Reversed along the given axes."""
    return shaping.flip(asarray(operand), tuple(dimensions))


@staged
def concatenate(operands: Sequence[ArrayLike], dimension: int) -> Array:
    """Arrays one after the other along `dimension`."""
    return Concatenate(dimension)(*promoted(*operands))


@staged
def pad(operand: ArrayLike, padding_value: ArrayLike,
        padding_config: Sequence[tuple[int, int, int]]) -> Array:  # fmt: skip
    """(low, high, interior) copies of a value per axis; negative ones crop."""
    x = asarray(operand)
    low, high, inner = zip(*padding_config, strict=True) if padding_config else ((), (), ())
    return Pad(low, high, inner)(x, astype(asarray(padding_value), x.dtype))


@staged
def slice(operand: ArrayLike, start_indices: Sequence[int], limit_indices: Sequence[int],
          strides: Sequence[int] | None = None) -> Array:  # fmt: skip
    """`operand[start:limit:stride]` on every axis."""
    x = asarray(operand)
    steps = (1,) * x.ndim if strides is None else tuple(strides)
    return Slice(tuple(start_indices), tuple(limit_indices), steps)(x)


@staged
def slice_in_dim(operand: ArrayLike, start_index: int | None, limit_index: int | None,
                 stride: int = 1, axis: int = 0) -> Array:  # fmt: skip
    """`operand[start:limit:stride]` on one axis, negative numbers counting from the end."""
    x = asarray(operand)
    d = axis_of(axis, x.ndim)
    return x[(*(builtins.slice(None),) * d, builtins.slice(start_index, limit_index, stride))]


@staged
def index_in_dim(operand: ArrayLike, index: int, axis: int = 0, keepdims: bool = True) -> Array:
    """The slice at a static index."""
    x = asarray(operand)
    d = axis_of(axis, x.ndim)
    at = index % static(x.shape[d])
    out = shaping.slice_along(x, d, at, at + 1)
    return out if keepdims else shaping.squeeze(out, d)


# -- windows at traced positions ---------------------------------------------------------------


def _starts(starts: Any, shape: Sequence[Extent]) -> list[Array]:
    """One int64 scalar per axis, negative ones counted from the end."""
    scalars = (
        starts if isinstance(starts, (tuple, list)) else [starts[i] for i in range(len(shape))]
    )
    return [wrapped(asarray(s), n) for s, n in zip(scalars, shape, strict=True)]


@staged
def dynamic_slice(operand: ArrayLike, start_indices: Any, slice_sizes: Sequence[Extent]) -> Array:
    """The window of static extents at traced starts, which are clamped so that it fits."""
    x = asarray(operand)
    return DynamicSlice(tuple(slice_sizes))(x, *_starts(start_indices, x.shape))


@staged
def dynamic_update_slice(operand: ArrayLike, update: ArrayLike, start_indices: Any) -> Array:
    """`operand` with the window at traced starts replaced by `update`."""
    x = asarray(operand)
    new = astype(asarray(update), x.dtype)
    return DynamicUpdateSlice()(x, new, *_starts(start_indices, x.shape))


def _in_axis(x: Array, start: ArrayLike, axis: int) -> list[Any]:
    return [start if d == axis else 0 for d in range(x.ndim)]


@staged
def dynamic_slice_in_dim(operand: ArrayLike, start_index: ArrayLike, slice_size: Extent,
                         axis: int = 0) -> Array:  # fmt: skip
    """`dynamic_slice` along one axis."""
    x = asarray(operand)
    d = axis_of(axis, x.ndim)
    sizes = (*x.shape[:d], slice_size, *x.shape[d + 1 :])
    return dynamic_slice(x, _in_axis(x, start_index, d), sizes)


@staged
def dynamic_index_in_dim(operand: ArrayLike, index: ArrayLike, axis: int = 0,
                         keepdims: bool = True) -> Array:  # fmt: skip
    """The slice at a traced index along one axis."""
    out = dynamic_slice_in_dim(operand, index, 1, axis)
    return out if keepdims else shaping.squeeze(out, axis)


@staged
def dynamic_update_slice_in_dim(operand: ArrayLike, update: ArrayLike, start_index: ArrayLike,
                                axis: int) -> Array:  # fmt: skip
    """`dynamic_update_slice` along one axis."""
    x = asarray(operand)
    return dynamic_update_slice(x, update, _in_axis(x, start_index, axis_of(axis, x.ndim)))


@staged
def dynamic_update_index_in_dim(operand: ArrayLike, update: ArrayLike, index: ArrayLike,
                                axis: int) -> Array:  # fmt: skip
    """`operand` with the slice at a traced index replaced; `update` may lack the axis."""
    x, new = asarray(operand), asarray(update)
    d = axis_of(axis, x.ndim)
    new = new if new.ndim == x.ndim else shaping.expand_dims(new, d)
    return dynamic_update_slice_in_dim(x, new, index, d)


@staged
def index_take(src: ArrayLike, idxs: Sequence[ArrayLike], axes: Sequence[int]) -> Array:
    """The slices at positions of some axes: the result's first axis runs over the positions."""
    x = asarray(src)
    if len(axes) != 1:
        raise UnsupportedFunction("lax.index_take along several axes", "x[i, j]")
    return np.moveaxis(take(x, idxs[0], axes[0]), axes[0], 0)
