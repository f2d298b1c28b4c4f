"""Order statistics, correlation and histograms: median, quantile, cov, histogram, ...

Knows NumPy's definitions of quantiles (the continuous methods) and bins. Refuses to
know how a sort runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright import dtypes
from tilewright.errors import DynamicShape, ShapeMismatch, UnsupportedFunction
from tilewright.expr import Extent, product, static
from tilewright.numpy.pointwise import where
from tilewright.numpy.products import matmul
from tilewright.numpy.protocol import (
    Axes,
    axes_of,
    filled,
    implements,
    inexact,
    traced,
)
from tilewright.numpy.reductions import count_nonzero, keeping, max, mean, min, sum
from tilewright.numpy.searching import searchsorted, sort
from tilewright.numpy.shaping import ravel
from tilewright.ops import elementwise as el
from tilewright.ops.indexing import Gather, Scatter, take_along
from tilewright.ops.order import OrderStatistics
from tilewright.ops.searching import Count
from tilewright.ops.shape import Reshape
from tilewright.tracing import Array, asarray, astype

ArrayLike = Any

# -- order statistics --------------------------------------------------------------------------

_VIRTUAL: dict[str, Callable[[Any, Any], Any]] = {
    "linear": lambda n, q: (n - 1) * q,
    "weibull": lambda n, q: (n + 1) * q - 1,
    "hazen": lambda n, q: n * q - 0.5,
    "median_unbiased": lambda n, q: n * q + (1 / 3 + q * (1 - 2 / 3)) - 1,
    "normal_unbiased": lambda n, q: n * q + (3 / 8 + q * (1 - 6 / 8)) - 1,
    "interpolated_inverted_cdf": lambda n, q: n * q - 1,
    "lower": lambda n, q: np.floor((n - 1) * q),
    "higher": lambda n, q: np.ceil((n - 1) * q),
    "nearest": lambda n, q: np.rint((n - 1) * q),
    "midpoint": lambda n, q: 0.5 * (np.floor((n - 1) * q) + np.ceil((n - 1) * q)),
}
"""The real-valued position in n sorted elements at which a method reads quantile q."""


def _row(a: ArrayLike, axis: Axes) -> tuple[Array, tuple[int, ...], tuple[Extent, ...]]:
    """The array with the reduced axes flattened into a last one; those axes; the old shape."""
    x = asarray(a)
    axes = axes_of(axis, x.ndim)
    kept = tuple(d for d in range(x.ndim) if d not in axes)
    y = np.transpose(x, (*kept, *axes))
    shape = (*(x.shape[d] for d in kept), product([x.shape[d] for d in axes]))
    return Reshape(shape)(y), axes, x.shape


def _quantile(
    a: ArrayLike, q: Any, axis: Axes, method: str, keepdims: Any, skip_nan: bool
) -> Array:
    if method not in _VIRTUAL:
        raise UnsupportedFunction(f"quantile with method={method!r}", " or ".join(_VIRTUAL))
    if dtypes.is_complex(asarray(a).dtype):
        raise TypeError("a must be an array of real numbers")
    row, axes, shape = _row(a, axis)
    dtype = inexact(row).dtype
    fixed = None if traced(q) or skip_nan else np.ravel(np.asarray(q, np.float64))
    q = asarray(q)
    dtype = dtype if q.ndim == 0 and not traced(q) else np.result_type(dtype, q.dtype)
    n = static(row.shape[-1])
    flat = Reshape((q.type.size,))(q) if q.ndim != 1 else q
    if fixed is not None and n:
        found = _fixed(row, fixed, dtype, method)
    else:
        x = sort(row)
        found = [_at(x, n, flat[i], dtype, method, skip_nan) for i in range(static(flat.shape[0]))]
    kept = [keeping(f, axes, shape, keepdims) for f in found]
    if q.ndim == 0:
        return kept[0]
    out = np.stack(kept) if kept else filled(0, (0, *row.shape[:-1]), dtype)
    return Reshape((*q.shape, *out.shape[1:]))(out) if q.ndim != 1 else out


def _fixed(x: Array, qs: Any, dtype: Any, method: str) -> list[Array]:
    """The quantiles `qs`, which are numbers, of the last axis: few of its elements are needed."""
    n = static(x.shape[-1])
    at = np.clip(_VIRTUAL[method](n, qs), 0, n - 1)
    below = np.floor(at).astype(np.int64)
    ends = np.stack([below, np.minimum(below + 1, n - 1)])
    ranks, place = np.unique(ends, return_inverse=True)
    elements = OrderStatistics(tuple(int(r) for r in ranks))(x)
    missing = el.isnan(x).any(-1) if dtypes.is_float(x.dtype) else None
    found = []
    for i, (low, high) in enumerate(place.reshape(ends.shape).T):
        pair = (astype(elements[..., int(k)], dtype) for k in (low, high))
        value = _between(*pair, np.asarray(at[i] - below[i], dtype))
        found.append(value if missing is None else where(missing, math.nan, value))
    return [astype(value, dtype) for value in found]


def _at(x: Array, n: int, q: Any, dtype: Any, method: str, skip_nan: bool) -> Array:
    """Quantile q of the sorted last axis."""
    missing = el.isnan(x) if dtypes.is_float(x.dtype) else None
    count: Any = n
    if skip_nan and missing is not None:
        count = astype(n - count_nonzero(missing, -1), dtypes.float64)
    at = np.clip(
        _VIRTUAL[method](count, astype(asarray(q), dtypes.float64)), 0, np.maximum(count - 1, 0)
    )
    below = np.floor(at)
    weight = astype(at - below, dtype)
    index = astype(below, dtypes.int64)
    low, high = (_pick(x, i, dtype) for i in (index, np.minimum(index + 1, n - 1)))
    value = _between(low, high, weight)
    if missing is None:
        return astype(value, dtype)
    bad = missing[..., 0] if skip_nan else missing[..., -1]
    return astype(where(bad, math.nan, value), dtype)


def _between(low: Array, high: Array, weight: Any) -> Array:
    """NumPy's _lerp: from whichever end is nearer, so that weight 1 gives the end exactly."""
    rise = high - low
    value = where(weight >= 0.5, high - rise * (1 - weight), low + rise * weight)
    return where(weight == 0, low, value)  # not inf - inf at an element


def _pick(x: Array, index: Array, dtype: Any) -> Array:
    """At each line of the last axis its element at `index`, one for all or one for each."""
    if index.ndim == 0:
        return astype(Gather((x.ndim - 1,))(x, index), dtype)
    at = Reshape((*index.shape, 1))(index)
    return astype(take_along(x, at, x.ndim - 1)[..., 0], dtype)


@implements(np.quantile)
def quantile(a: ArrayLike, q: ArrayLike, axis: Axes = None, out: None = None,
             overwrite_input: bool = False, method: str = "linear", keepdims: Any = False, *,
             weights: None = None) -> Array:  # fmt: skip
    """The q-quantiles (q in [0, 1]) over `axis`; an array of them lies along a new first axis."""
    return _quantile(a, q, axis, method, keepdims, False)


@implements(np.percentile)
def percentile(a: ArrayLike, q: ArrayLike, axis: Axes = None, out: None = None,
               overwrite_input: bool = False, method: str = "linear", keepdims: Any = False, *,
               weights: None = None) -> Array:  # fmt: skip
    """As `quantile`, with q in percent."""
    return _quantile(a, _hundredth(q), axis, method, keepdims, False)


def _hundredth(q: ArrayLike) -> Any:
    return np.true_divide(q, 100)


@implements(np.nanquantile)
def nanquantile(a: ArrayLike, q: ArrayLike, axis: Axes = None, out: None = None,
                overwrite_input: bool = False, method: str = "linear", keepdims: Any = False, *,
                weights: None = None) -> Array:  # fmt: skip
    """`quantile` of the elements that are numbers."""
    return _quantile(a, q, axis, method, keepdims, True)


@implements(np.nanpercentile)
def nanpercentile(a: ArrayLike, q: ArrayLike, axis: Axes = None, out: None = None,
                  overwrite_input: bool = False, method: str = "linear", keepdims: Any = False, *,
                  weights: None = None) -> Array:  # fmt: skip
    """`percentile` of the elements that are numbers."""
    return _quantile(a, _hundredth(q), axis, method, keepdims, True)


def _median(a: ArrayLike, axis: Axes, keepdims: Any) -> Array:
    row, axes, shape = _row(a, axis)
    n = static(row.shape[-1])
    dtype = inexact(row).dtype
    if n == 0:
        return keeping(filled(math.nan, row.shape[:-1], dtype), axes, shape, keepdims)
    low, high = (n - 1) // 2, n // 2 + 1
    if dtypes.is_complex(row.dtype):
        pair = sort(row)[..., low:high]
    else:
        pair = OrderStatistics(tuple(range(low, high)))(row)
    middle = mean(pair, -1)
    if dtypes.is_float(row.dtype):
        middle = where(el.isnan(row).any(-1), math.nan, middle)
    return keeping(astype(middle, dtype), axes, shape, keepdims)


@implements(np.median)
def median(a: ArrayLike, axis: Axes = None, out: None = None, overwrite_input: bool = False,
           keepdims: Any = False) -> Array:  # fmt: skip
    """The middle element over `axis`, the mean of the two middle ones of an even number."""
    return _median(a, axis, keepdims)


@implements(np.nanmedian)
def nanmedian(a: ArrayLike, axis: Axes = None, out: None = None, overwrite_input: bool = False,
              keepdims: Any = False) -> Array:  # fmt: skip
    """`median` of the elements that are numbers."""
    return _quantile(a, 0.5, axis, "linear", keepdims, True)


# -- correlation -------------------------------------------------------------------------------


@implements(np.cov)
def cov(m: ArrayLike, y: Any = None, rowvar: bool = True, bias: bool = False,
        ddof: int | None = None, fweights: Any = None, aweights: Any = None, *,
        dtype: Any = None) -> Array:  # fmt: skip
    """The covariance matrix of variables in rows (columns unless `rowvar`)."""
    parts = [asarray(v) for v in (m, y) if v is not None]
    of = (
        np.dtype(dtype)
        if dtype is not None
        else np.result_type(*(p.dtype for p in parts), np.float64)
    )
    rows = [astype(p, of) for p in parts]
    rows = [Reshape((1, r.type.size))(r) if r.ndim < 2 else r for r in rows]
    rows = [
        r if rowvar or (r.shape[0] == 1 and parts[i].ndim < 2) else r.T for i, r in enumerate(rows)
    ]
    x = np.concatenate(rows) if len(rows) > 1 else rows[0]
    ddof = (0 if bias else 1) if ddof is None else ddof
    weights: Any = None
    if fweights is not None:
        weights = astype(asarray(fweights), dtypes.float64)
    if aweights is not None:
        aw = astype(asarray(aweights), dtypes.float64)
        weights = aw if weights is None else weights * aw
    if weights is None:
        total: Any = float(x.shape[1])
        centred = x - mean(x, 1, keepdims=True)
        scaled, factor = centred, total - ddof
    else:
        total = sum(weights)
        centred = x - sum(x * weights, 1, keepdims=True) / total
        scaled = centred * weights
        lost = ddof if aweights is None else ddof * sum(weights * aweights) / total
        factor = total - lost
    right = np.conjugate(scaled) if dtypes.is_complex(of) else scaled
    matrix = matmul(centred, right.T) / (factor if traced(factor) else np.maximum(factor, 0.0))
    return np.squeeze(matrix)


@implements(np.corrcoef)
def corrcoef(x: ArrayLike, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Array:
    """Correlation coefficients of variables in rows (columns unless `rowvar`)."""
    c = cov(x, y, rowvar, dtype=dtype)
    if c.ndim == 0:
        return c / c
    spread = np.sqrt(np.real(np.diagonal(c)))
    c = c / spread[:, None] / spread[None, :]
    if dtypes.is_complex(c.dtype):
        return el.make_complex(np.clip(el.real(c), -1, 1), np.clip(el.imag(c), -1, 1))
    return np.clip(c, -1, 1)


# -- histograms --------------------------------------------------------------------------------


@implements(np.histogram_bin_edges)
def histogram_bin_edges(
    a: ArrayLike, bins: Any = 10, range: Any = None, weights: Any = None
) -> Array:
    """The edges of `bins` equal bins over `range`, by default that of the data."""
    if isinstance(bins, str):
        raise DynamicShape(
            f"np.histogram with bins={bins!r}", "Give the number of bins or their edges."
        )
    if np.ndim(bins) == 1:
        return asarray(bins)
    x = ravel(asarray(a))
    if range is not None:
        low, high = (float(v) for v in range)
        low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    elif x.shape[0] == 0:
        low, high = 0.0, 1.0
    else:
        low, high = (astype(v, inexact(v).dtype) for v in (min(x), max(x)))
        flat = low == high
        low, high = where(flat, low - 0.5, low), where(flat, high + 0.5, high)
    # NumPy: the type of the data and the bounds, float64 if that is an integer.
    return asarray(np.linspace(low, high, bins + 1, dtype=inexact(x).dtype))


@implements(np.histogram)
def histogram(a: ArrayLike, bins: Any = 10, range: Any = None, density: Any = None,
              weights: Any = None) -> tuple[Array, Array]:  # fmt: skip
    """How many elements (or what weight) fall in each bin, and the edges. The last bin holds its
    upper edge."""
    x = ravel(asarray(a))
    edges = histogram_bin_edges(a, bins, range)
    n = static(edges.shape[0]) - 1
    if np.ndim(bins) == 0:
        bin_ = _equal_bin(x, edges, n)
    else:
        bin_ = where(x == edges[-1], n - 1, searchsorted(edges, x, "right") - 1)
    if weights is None:
        counts: Any = Count(n)(bin_)
    else:
        values = ravel(asarray(weights))
        counts = Scatter("add", (0,))(filled(0, (n,), values.dtype), bin_, values)
    if density:
        widths = edges[1:] - edges[:-1]
        counts = counts / widths / sum(counts)
    return counts, edges


def _equal_bin(x: Array, edges: Array, n: int) -> Array:
    """The bin of each element among `n` equal ones, -1 outside: computed as NumPy does it, from
    the bins' width, and put right by the edges on both sides."""
    first, last = edges[0], edges[-1]
    inside = np.logical_and(x >= first, x <= last)
    # The first guess must not be off by more than one bin.
    single = x.dtype == dtypes.float32 and n <= 1 << 12
    wide = dtypes.float32 if single else dtypes.float64
    low = astype(first, wide)
    place = (astype(where(inside, x, first), wide) - low) * (n / (astype(last, wide) - low))
    guess = np.clip(astype(place, dtypes.int64), 0, n - 1)
    guess = guess - (x < edges[guess])
    guess = guess + np.logical_and(x >= edges[guess + 1], guess != n - 1)
    return where(inside, guess, -1)


@implements(np.histogram2d)
def histogram2d(x: ArrayLike, y: ArrayLike, bins: Any = 10, range: Any = None,
                density: Any = None,
                weights: Any = None) -> tuple[Array, Array, Array]:  # fmt: skip
    """Counts of points in a grid of bins, and the edges along both axes."""
    points = [ravel(asarray(v)) for v in (x, y)]
    if points[0].shape != points[1].shape:
        raise ShapeMismatch("histogram2d needs as many x as y", points[0].shape, points[1].shape)
    both = bins if isinstance(bins, (tuple, list)) and len(bins) == 2 else (bins, bins)
    ranges = (None, None) if range is None else range
    edges = [histogram_bin_edges(p, b, r) for p, b, r in zip(points, both, ranges, strict=True)]
    shape = tuple(static(e.shape[0]) - 1 for e in edges)
    at = []
    for p, e, n in zip(points, edges, shape, strict=True):
        at.append(where(p == e[-1], n - 1, searchsorted(e, p, "right") - 1))
    values = (
        filled(1, points[0].shape, dtypes.float64) if weights is None else ravel(asarray(weights))
    )
    counts = Scatter("add", (0, 1))(filled(0, shape, values.dtype), *at, values)
    if density:
        first, second = (e[1:] - e[:-1] for e in edges)
        counts = counts / (first[:, None] * second[None, :]) / sum(counts)
    return counts, edges[0], edges[1]
