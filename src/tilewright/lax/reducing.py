"""Reductions, windows, running sums and sorts of lax.

Knows a user's `computation` by what it does: it is traced on two numbers, and the op it comes to
must be one of the known monoids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright import dtypes, tracing
from tilewright.errors import UnsupportedFunction
from tilewright.expr import static
from tilewright.graph import Type
from tilewright.lax.contracting import Padding, padtype_to_pads
from tilewright.numpy.protocol import axis_of, staged
from tilewright.numpy.shaping import slice_along
from tilewright.ops import elementwise as el
from tilewright.ops.cumulative import Cumulative
from tilewright.ops.order import TopK
from tilewright.ops.reduce import (
    ArgMax,
    ArgMin,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMin,
    ReduceProd,
)
from tilewright.ops.shape import Pad, ReduceSum
from tilewright.ops.sort import Sort
from tilewright.tracing import Array, asarray, astype, broadcast_to

ArrayLike = Any


@dataclass(frozen=True)
class Monoid:
    """An associative op, its reduction, and the number it leaves unchanged."""

    combine: Any
    reduction: Any
    neutral: Callable[[Any], Any]


def _lowest(dtype: Any) -> Any:
    return (
        -math.inf
        if dtypes.is_float(dtype)
        else False
        if dtypes.is_bool(dtype)
        else np.iinfo(dtype).min
    )


def _highest(dtype: Any) -> Any:
    return (
        math.inf
        if dtypes.is_float(dtype)
        else True
        if dtypes.is_bool(dtype)
        else np.iinfo(dtype).max
    )


_MONOIDS = (
    Monoid(el.add, ReduceSum, lambda dtype: 0),
    Monoid(el.multiply, ReduceProd, lambda dtype: 1),
    Monoid(el.maximum, ReduceMax, _lowest),
    Monoid(el.minimum, ReduceMin, _highest),
    Monoid(el.logical_and, ReduceAll, lambda dtype: True),
    Monoid(el.logical_or, ReduceAny, lambda dtype: False),
    Monoid(el.bitwise_and, ReduceAll, lambda dtype: True),
    Monoid(el.bitwise_or, ReduceAny, lambda dtype: False),
)


def monoid(computation: Callable[[Any, Any], Any], dtype: Any, what: str) -> Monoid:
    """The monoid a user's function of two numbers is."""
    graph = tracing.trace(computation, [Type(dtype, ())] * 2, "computation")
    (out,) = graph.outputs
    if set(out.args) == set(graph.inputs):
        for m in _MONOIDS:
            if out.op == m.combine and (
                m.reduction not in (ReduceAll, ReduceAny) or dtypes.is_bool(dtype)
            ):
                return m
    raise UnsupportedFunction(
        f"{what} with a computation other than add, mul, max, min, and, or", "lax.associative_scan"
    )


@staged
def reduce(operands: ArrayLike, init_values: ArrayLike, computation: Callable[[Any, Any], Any],
           dimensions: Sequence[int]) -> Array:  # fmt: skip
    """`operands` combined with `init_values` over some axes by a known monoid."""
    x = asarray(operands)
    m = monoid(computation, x.dtype, "lax.reduce")
    axes = tuple(sorted(axis_of(d, x.ndim) for d in dimensions))
    out = m.reduction(axes)(x) if axes else x
    return _with_initial(out, init_values, m)


def _with_initial(x: Array, initial: ArrayLike, m: Monoid) -> Array:
    """Combined with the initial value, unless that is known to be neutral."""
    if not isinstance(initial, Array) and np.all(np.asarray(initial) == m.neutral(x.dtype)):
        return x
    return m.combine(x, broadcast_to(astype(asarray(initial), x.dtype), x.shape))


def _reducer(name: str, op: Any, doc: str) -> Callable[[ArrayLike, Sequence[int]], Array]:
    def build(operand: ArrayLike, axes: Sequence[int]) -> Array:
        x = asarray(operand)
        over = tuple(sorted(axis_of(d, x.ndim) for d in axes))
        return op(over)(x) if over else x

    build.__name__, build.__doc__ = name, doc
    return staged(build)


reduce_sum = _reducer("reduce_sum", ReduceSum, "The sum over `axes`, in the operand's type.")
reduce_prod = _reducer("reduce_prod", ReduceProd, "The product over `axes`, in the operand's type.")
reduce_max = _reducer("reduce_max", ReduceMax, "The largest element over `axes`.")
reduce_min = _reducer("reduce_min", ReduceMin, "The smallest element over `axes`.")
reduce_and = _reducer("reduce_and", ReduceAll, "Whether all elements (bools) over `axes` are true.")
reduce_or = _reducer("reduce_or", ReduceAny, "Whether any element (bools) over `axes` is true.")


# -- windows -----------------------------------------------------------------------------------

_DIRECT = 8
"""Windows up to this extent are combined element by element, longer ones by doubling."""


@staged
def reduce_window(operand: ArrayLike, init_value: ArrayLike, computation: Callable[[Any, Any], Any],
                  window_dimensions: Sequence[int], window_strides: Sequence[int] | None = None,
                  padding: Padding = "VALID", base_dilation: Sequence[int] | None = None,
                  window_dilation: Sequence[int] | None = None) -> Array:  # fmt: skip
    """At every position of a window the elements in it, combined by a known monoid: pooling.

    One axis after the other, since windows are boxes: k + k slices instead of k * k. Long windows
    double (a window of 2w is two of w), which makes their cost logarithmic.
    """
    x = asarray(operand)
    m = monoid(computation, x.dtype, "lax.reduce_window")
    ones = (1,) * x.ndim
    strides, grow, apart = (
        tuple(v or ones) for v in (window_strides, base_dilation, window_dilation)
    )
    if isinstance(padding, str):
        sizes = [(static(n) - 1) * g + 1 if n else 0 for n, g in zip(x.shape, grow, strict=True)]
        spans = [(k - 1) * d + 1 for k, d in zip(window_dimensions, apart, strict=True)]
        padding = padtype_to_pads(sizes, spans, strides, padding)
    low, high = (tuple(int(p[i]) for p in padding) for i in (0, 1))
    if any(low) or any(high) or grow != ones:
        x = Pad(low, high, tuple(g - 1 for g in grow))(x, x.full_like(m.neutral(x.dtype), ()))
    for d, (k, s, a) in enumerate(zip(window_dimensions, strides, apart, strict=True)):
        x = _windowed(x, d, k, s, a, m)
    return _with_initial(x, init_value, m)


def _windowed(x: Array, d: int, k: int, stride: int, apart: int, m: Monoid) -> Array:
    """Windows of `k` elements `apart` along axis d, one every `stride`."""
    count = static(x.shape[d]) - (k - 1) * apart  # windows at stride 1
    if count <= 0:
        return slice_along(x, d, 0, 0)
    if k <= _DIRECT:
        result = None
        for i in range(k):
            part = slice_along(x, d, i * apart, i * apart + count, stride)
            result = part if result is None else m.combine(result, part)
        assert result is not None, "a window has an element"
        return result
    result, covered, power, width = None, 0, x, 1
    while k:
        if k & 1:  # `power` holds windows of `width`; those that start where the result ends
            part = slice_along(power, d, covered * apart, covered * apart + count)
            result = part if result is None else m.combine(result, part)
            covered += width
        k >>= 1
        if k:
            n = static(power.shape[d]) - width * apart
            halves = (slice_along(power, d, i, i + n) for i in (0, width * apart))
            power, width = m.combine(*halves), 2 * width
    assert result is not None, "a window has an element"
    return slice_along(result, d, 0, count, stride)


# -- running sums, positions and sorts ---------------------------------------------------------


def _scanner(kind: str, doc: str) -> Callable[..., Array]:
    def build(operand: ArrayLike, axis: int = 0, reverse: bool = False) -> Array:
        x = asarray(operand)
        return Cumulative(kind, axis_of(axis, x.ndim), reverse)(x)

    build.__name__, build.__doc__ = f"cum{kind}", doc
    return staged(build)


cumsum = _scanner("sum", "Sums of the elements up to each along `axis`, or from each if `reverse`.")
cumprod = _scanner("prod", "Products of the elements up to each, or from each if `reverse`.")
cummax = _scanner("max", "The largest element up to each, or from each if `reverse`.")
cummin = _scanner("min", "The smallest element up to each, or from each if `reverse`.")
cumlogsumexp = _scanner("logsumexp", "log(sum(exp)) of the elements up to each, or from each.")


@staged
def argmax(operand: ArrayLike, axis: int, index_dtype: Any = np.int64) -> Array:
    """Position of the first largest element along `axis`."""
    x = asarray(operand)
    return astype(ArgMax(axis_of(axis, x.ndim))(x), np.dtype(index_dtype))


@staged
def argmin(operand: ArrayLike, axis: int, index_dtype: Any = np.int64) -> Array:
    """Position of the first smallest element along `axis`."""
    x = asarray(operand)
    return astype(ArgMin(axis_of(axis, x.ndim))(x), np.dtype(index_dtype))


@staged
def sort(operand: Any, dimension: int = -1, is_stable: bool = True, num_keys: int = 1) -> Any:
    """Sorted along `dimension`, always stably. Of a tuple the first `num_keys` arrays are keys,
    most important first, and all are moved alike."""
    if not isinstance(operand, (tuple, list)):
        x = asarray(operand)
        return Sort(axis_of(dimension, x.ndim))(x)[0]
    arrays = [asarray(x) for x in operand]
    sorter = Sort(axis_of(dimension, arrays[0].ndim))
    for i in reversed(range(num_keys)):
        key, *rest = sorter(arrays[i], *arrays[:i], *arrays[i + 1 :])
        arrays = [*rest[:i], key, *rest[i:]]
    return tuple(arrays)


@staged
def sort_key_val(keys: ArrayLike, values: ArrayLike, dimension: int = -1,
                 is_stable: bool = True) -> tuple[Array, Array]:  # fmt: skip
    """`values` moved as sorting `keys` moves these."""
    return sort((keys, values), dimension)


@staged
def top_k(operand: ArrayLike, k: int, *, axis: int = -1) -> tuple[Array, Array]:
    """The k largest elements along `axis`, largest first, and their positions (int64). Among
    equals the earlier comes first; NaN counts as largest."""
    x = asarray(operand)
    d = axis_of(axis, x.ndim)
    values, at = TopK(k, d)(x)
    return values, at
