"""Products of arrays: matmul, dot, tensordot, outer, cross, kron, convolve, polyval.

Knows NumPy's rules for vectors, matrices and stacks of them. Refuses to know how a contraction is
computed: each is one Dot or one Conv.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from tilewright import dtypes
from tilewright.errors import ShapeMismatch
from tilewright.expr import Extent
from tilewright.numpy.protocol import axis_of, implements, promoted
from tilewright.numpy.shaping import moveaxis, ravel, slice_along
from tilewright.ops import elementwise as el
from tilewright.ops.contract import Conv, Dot
from tilewright.ops.shape import Flip, Reshape
from tilewright.promotion import broadcast_shapes, loop
from tilewright.tracing import Array, asarray, astype, broadcast_to

ArrayLike = Any


def _conjugate(x: Array) -> Array:
    return el.conjugate(x) if dtypes.is_complex(x.dtype) else x


INNER: Final = (
    "The last axis of the first must have the extent of the last but one (or only) axis of the"
    " second:\ntranspose one of them (x.T), or reshape."
)
"""The way out where a matrix product does not fit."""


# -- matrices ----------------------------------------------------------------------------------


@implements(np.matmul, np.linalg.matmul)
def matmul(x1: ArrayLike, x2: ArrayLike, /, out: None = None, *, dtype: Any = None,
           **ufunc: Any) -> Array:  # fmt: skip
    """The matrix product of the last two axes; leading axes broadcast, vectors lose their axis."""
    a, b = promoted(x1, x2)
    if dtype is not None:
        a, b = astype(a, np.dtype(dtype)), astype(b, np.dtype(dtype))
    # NumPy's own loop: it has none for bfloat16 and multiplies in float32.
    left, right, _ = loop(np.matmul, (a.dtype, b.dtype), None)
    a, b = astype(a, left), astype(b, right)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeMismatch("matmul needs arrays with at least one axis", a.shape, b.shape)
    rows, columns = a.ndim > 1, b.ndim > 1
    if a.shape[-1] != b.shape[-2 if columns else 0]:
        raise ShapeMismatch("matmul's inner extents differ", a.shape, b.shape, way_out=INNER)
    if b.ndim <= 2:  # one matrix for the whole stack: no batch axes at all
        return Dot((a.ndim - 1,), (0,))(a, b)
    if a.ndim <= 2:
        out_ = Dot((a.ndim - 1,), (b.ndim - 2,))(a, b)
        return moveaxis(out_, 0, -2) if rows else out_
    return stacked(a, b, (a.ndim - 1,), (b.ndim - 2,), 2)


def stacked(a: Array, b: Array, over_a: Sequence[int], over_b: Sequence[int], core: int) -> Array:
    """Dot of the last `core` axes of both, the axes before them broadcast and run together."""
    lead = broadcast_shapes("batch axes", a.shape[: a.ndim - core], b.shape[: b.ndim - core])
    shift_a, shift_b = len(lead) + core - a.ndim, len(lead) + core - b.ndim
    a = broadcast_to(a, (*lead, *a.shape[a.ndim - core :]))
    b = broadcast_to(b, (*lead, *b.shape[b.ndim - core :]))
    batch = tuple(range(len(lead)))
    over = tuple(d + shift_a for d in over_a), tuple(d + shift_b for d in over_b)
    return Dot(*over, batch, batch)(a, b)


@implements(np.dot)
def dot(a: ArrayLike, b: ArrayLike, out: None = None) -> Array:
    """Sum of products over the last axis of `a` and the last but one (or only one) of `b`."""
    x, y = promoted(a, b)
    if x.ndim == 0 or y.ndim == 0:
        return np.multiply(x, y)
    over = max(y.ndim - 2, 0)
    if x.shape[-1] != y.shape[over]:
        raise ShapeMismatch("dot's summed extents differ", x.shape, y.shape, way_out=INNER)
    return Dot((x.ndim - 1,), (over,))(x, y)


@implements(np.inner)
def inner(a: ArrayLike, b: ArrayLike, /) -> Array:
    """Sum of products over the last axes of both."""
    x, y = promoted(a, b)
    if x.ndim == 0 or y.ndim == 0:
        return np.multiply(x, y)
    if x.shape[-1] != y.shape[-1]:
        raise ShapeMismatch("inner's summed extents differ", x.shape, y.shape)
    return Dot((x.ndim - 1,), (y.ndim - 1,))(x, y)


@implements(np.vdot)
def vdot(a: ArrayLike, b: ArrayLike, /) -> Array:
    """Sum of products of all elements, those of `a` conjugated."""
    x, y = (ravel(v) for v in promoted(a, b))
    return dot(_conjugate(x), y)


@implements(np.vecdot, np.linalg.vecdot)
def vecdot(x1: ArrayLike, x2: ArrayLike, /, *, axis: int = -1) -> Array:
    """Sum of products along `axis`, those of `x1` conjugated; other axes broadcast."""
    a, b = (moveaxis(v, axis, -1) for v in promoted(x1, x2))
    if a.shape[-1] != b.shape[-1]:
        raise ShapeMismatch("vecdot's summed extents differ", a.shape, b.shape)
    return stacked(_conjugate(a), b, (a.ndim - 1,), (b.ndim - 1,), 1)


@implements(np.matvec)
def matvec(x1: ArrayLike, x2: ArrayLike, /) -> Array:
    """Matrices times vectors, leading axes broadcast."""
    return matmul(x1, asarray(x2)[..., None])[..., 0]


@implements(np.vecmat)
def vecmat(x1: ArrayLike, x2: ArrayLike, /) -> Array:
    """Conjugated vectors times matrices, leading axes broadcast."""
    return matmul(_conjugate(asarray(x1))[..., None, :], x2)[..., 0, :]


@implements(np.tensordot, np.linalg.tensordot)
def tensordot(a: ArrayLike, b: ArrayLike, axes: Any = 2) -> Array:
    """Sum of products over the last `axes` of `a` and first of `b`, or over paired axes."""
    x, y = promoted(a, b)
    if np.ndim(axes) == 0 and not isinstance(axes, (tuple, list)):
        over_x, over_y = range(x.ndim - axes, x.ndim), range(axes)
    else:
        over_x, over_y = (np.atleast_1d(v).tolist() for v in axes)
    left = tuple(axis_of(d, x.ndim) for d in over_x)
    right = tuple(axis_of(d, y.ndim) for d in over_y)
    if [x.shape[d] for d in left] != [y.shape[d] for d in right]:
        raise ShapeMismatch("tensordot's summed extents differ", x.shape, y.shape)
    return Dot(left, right)(x, y)


@implements(np.outer)
def outer(a: ArrayLike, b: ArrayLike, out: None = None) -> Array:
    """All products of an element of `a` and one of `b`, both flattened."""
    x, y = (ravel(v) for v in promoted(a, b))
    return Reshape((*x.shape, 1))(x) * y


@implements(np.linalg.outer)
def vector_outer(x1: ArrayLike, x2: ArrayLike, /) -> Array:
    """All products of an element of one vector and one of another."""
    if asarray(x1).ndim != 1 or asarray(x2).ndim != 1:
        raise ShapeMismatch("outer needs two vectors", asarray(x1).shape, asarray(x2).shape)
    return outer(x1, x2)


@implements(np.kron)
def kron(a: ArrayLike, b: ArrayLike) -> Array:
    """The Kronecker product: `b` scaled by each element of `a`, as blocks."""
    x, y = promoted(a, b)
    ndim = max(x.ndim, y.ndim)
    xs, ys = ((1,) * (ndim - v.ndim) + v.shape for v in (x, y))
    x = Reshape(tuple(e for n in xs for e in (n, 1)))(x)
    y = Reshape(tuple(e for n in ys for e in (1, n)))(y)
    product = np.multiply(x, y)
    return Reshape(tuple(n * m for n, m in zip(xs, ys, strict=True)))(product)


@implements(np.cross)
def cross(a: ArrayLike, b: ArrayLike, axisa: int = -1, axisb: int = -1, axisc: int = -1,
          axis: int | None = None) -> Array:  # fmt: skip
    """The cross product of vectors with three components."""
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = promoted(a, b)
    x, y = moveaxis(x, axisa, -1), moveaxis(y, axisb, -1)
    if x.shape[-1] != 3 or y.shape[-1] != 3:
        raise ShapeMismatch("cross needs vectors with 3 components", x.shape, y.shape)
    # Component i is a[i+1] b[i+2] - a[i+2] b[i+1], the components counted in a circle.
    x_next, x_last = (np.roll(x, -k, -1) for k in (1, 2))
    y_next, y_last = (np.roll(y, -k, -1) for k in (1, 2))
    return moveaxis(x_next * y_last - x_last * y_next, -1, axisc)


@implements(np.linalg.cross)
def vector_cross(x1: ArrayLike, x2: ArrayLike, /, *, axis: int = -1) -> Array:
    """The cross product along `axis`, which has three components."""
    return cross(x1, x2, axis=axis)


# -- sequences ---------------------------------------------------------------------------------


def _correlated(a: Array, v: Array, mode: str) -> Array:
    """Sums of products of `a` and the shorter `v` at the shifts of `mode`, as one Conv."""
    n = v.shape[0]
    left: Extent = {"valid": 0, "same": n // 2, "full": n - 1}[mode]
    right: Extent = {"valid": 0, "same": n - n // 2 - 1, "full": n - 1}[mode]
    op = Conv((1,), ((left, right),), (1,), (1,), 1)
    return _line(op(_image(a), _image(v)))


def _image(x: Array) -> Array:
    return Reshape((1, 1, *x.shape))(x)


def _line(x: Array) -> Array:
    return Reshape((x.shape[2],))(x)


def _sequences(a: ArrayLike, v: ArrayLike) -> list[Array]:
    x, y = promoted(a, v)
    if x.ndim != 1 or y.ndim != 1 or x.shape[0] == 0 or y.shape[0] == 0:
        raise ShapeMismatch("convolution needs two vectors that are not empty", x.shape, y.shape)
    return [x, y]


@implements(np.convolve)
def convolve(a: ArrayLike, v: ArrayLike, mode: str = "full") -> Array:
    """The discrete convolution of two vectors; `mode` is full, same or valid."""
    x, y = _sequences(a, v)
    if y.shape[0] > x.shape[0]:
        x, y = y, x
    return _correlated(x, Flip((0,))(y), mode)


@implements(np.correlate)
def correlate(a: ArrayLike, v: ArrayLike, mode: str = "valid") -> Array:
    """Sums of products of `a` and the conjugated, shifted `v`; `mode` is full, same or valid."""
    x, y = _sequences(a, v)
    y = _conjugate(y)
    if y.shape[0] > x.shape[0]:
        return Flip((0,))(_correlated(y, x, mode))
    return _correlated(x, y, mode)


# -- polynomials -------------------------------------------------------------------------------


@implements(np.polyval)
def polyval(p: ArrayLike, x: ArrayLike) -> Array:
    """The polynomial with coefficients `p`, highest power first, at `x` (Horner's rule)."""
    coefficients, at = asarray(p), asarray(x)
    value = at.zeros_like()
    for i in range(coefficients.shape[0]):
        value = value * at + coefficients[i]
    return value


@implements(np.polyder)
def polyder(p: ArrayLike, m: int = 1) -> Array:
    """The coefficients of the m-th derivative."""
    c = asarray(p)
    for _ in range(m):
        n = c.shape[0] - 1
        c = slice_along(c, 0, 0, n) * np.arange(n, 0, -1)
    return c


@implements(np.polyadd)
def polyadd(a1: ArrayLike, a2: ArrayLike) -> Array:
    """The coefficients of the sum."""
    x, y = promoted(a1, a2)
    n = max(x.shape[0], y.shape[0])
    return np.pad(x, (n - x.shape[0], 0)) + np.pad(y, (n - y.shape[0], 0))


@implements(np.polymul)
def polymul(a1: ArrayLike, a2: ArrayLike) -> Array:
    """The coefficients of the product."""
    return convolve(a1, a2)
