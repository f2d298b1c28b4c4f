"""Functions of neural networks, with JAX's names and signatures: activations, softmax, attention.

Knows how each is written so that neither the value nor its gradient overflows. Refuses to know
layers and parameters. Integers become float64, as everywhere in NumPy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from tilewright import dtypes, initializers
from tilewright.errors import ShapeMismatch
from tilewright.numpy import einsum, pointwise, reductions
from tilewright.numpy.protocol import Axes, axes_of, axis_of, inexact, position, staged, together
from tilewright.numpy.shaping import expand_dims, slice_along
from tilewright.ops import elementwise as el
from tilewright.ops.control import StopGradient
from tilewright.tracing import Array, asarray, astype, broadcast_to

__all__ = [
    "celu", "dot_product_attention", "elu", "gelu", "glu", "hard_sigmoid", "hard_silu",
    "hard_swish", "hard_tanh", "identity", "initializers", "leaky_relu", "log1mexp",
    "log_sigmoid", "log_softmax", "logmeanexp", "logsumexp", "mish", "one_hot", "relu", "relu6",
    "selu", "sigmoid", "silu", "soft_sign", "softmax", "softplus", "sparse_plus",
    "sparse_sigmoid", "squareplus", "standardize", "swish", "tanh",
]  # fmt: skip

ArrayLike = Any
F = TypeVar("F", bound=Callable[..., Any])
_where = pointwise.where


def _as_given(build: F) -> F:
    """For functions whose Python numbers would widen bfloat16: they compute in float32 and round
    once."""

    @functools.wraps(build)
    def call(x: ArrayLike, *args: Any, **kwargs: Any) -> Any:
        x = asarray(x)
        if x.dtype != dtypes.bfloat16:
            return build(x, *args, **kwargs)
        return astype(build(astype(x, dtypes.float32), *args, **kwargs), x.dtype)

    return call  # type: ignore[return-value]


# -- activations -------------------------------------------------------------------------------


@staged
def identity(x: ArrayLike) -> Array:
    """x."""
    return asarray(x)


@staged
def relu(x: ArrayLike) -> Array:
    """max(x, 0), with derivative 0 at 0. Keeps the dtype, NaN stays NaN."""
    x = asarray(x)
    return _where(x <= 0, x.zeros_like(), x)


@staged
def relu6(x: ArrayLike) -> Array:
    """min(max(x, 0), 6), with derivative 0 at 0 and at 6."""
    x = asarray(x)
    return _where(x <= 0, x.zeros_like(), _where(x >= 6, x.full_like(6), x))


@staged
def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x))."""
    return el.logistic(inexact(x))


@staged
def tanh(x: ArrayLike) -> Array:
    """The hyperbolic tangent."""
    return el.tanh(inexact(x))


@staged
def softplus(x: ArrayLike) -> Array:
    """log(1 + exp(x))."""
    x = inexact(x)
    return el.logaddexp(x, x.zeros_like())


@staged
def log_sigmoid(x: ArrayLike) -> Array:
    """log(sigmoid(x))."""
    return -softplus(-inexact(x))


@staged
def silu(x: ArrayLike) -> Array:
    """x * sigmoid(x) (Elfwing et al. 2017)."""
    x = inexact(x)
    return x * el.logistic(x)


swish = silu


@staged
def mish(x: ArrayLike) -> Array:
    """x * tanh(softplus(x)) (Misra 2019)."""
    x = inexact(x)
    return x * np.tanh(softplus(x))


@staged
@_as_given
def gelu(x: ArrayLike, approximate: bool = True) -> Array:
    """x times the normal distribution function at x (Hendrycks and Gimpel 2016); by default its
    approximation with tanh."""
    x = inexact(x)
    if not approximate:
        return x * el.erfc(x * -math.sqrt(0.5)) * 0.5
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return x * (0.5 * (1.0 + np.tanh(inner)))


def _below(x: Array, negative: Any) -> Array:
    """x where positive, elsewhere `negative` of x; it sees zero instead of positive elements, so
    that what overflows there stays out of the gradient."""
    above = x > 0
    return _where(above, x, negative(_where(above, x.zeros_like(), x)))


@staged
@_as_given
def elu(x: ArrayLike, alpha: ArrayLike = 1.0) -> Array:
    """x, or alpha * (exp(x) - 1) where negative (Clevert et al. 2015)."""
    return _below(inexact(x), lambda v: alpha * np.expm1(v))


@staged
@_as_given
def celu(x: ArrayLike, alpha: ArrayLike = 1.0) -> Array:
    """x, or alpha * (exp(x / alpha) - 1) where negative (Barron 2017)."""
    return _below(inexact(x), lambda v: alpha * np.expm1(v / alpha))


@staged
@_as_given
def selu(x: ArrayLike) -> Array:
    """The self-normalising scaled elu (Klambauer et al. 2017)."""
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


@staged
@_as_given
def leaky_relu(x: ArrayLike, negative_slope: ArrayLike = 0.01) -> Array:
    """x, or negative_slope * x where negative."""
    x = inexact(x)
    return _where(x >= 0, x, negative_slope * x)


@staged
def hard_tanh(x: ArrayLike) -> Array:
    """x held between -1 and 1."""
    x = asarray(x)
    return _where(x > 1, x.full_like(1), _where(x < -1, x.full_like(-1), x))


@staged
@_as_given
def hard_sigmoid(x: ArrayLike) -> Array:
    """relu6(x + 3) / 6."""
    return relu6(inexact(x) + 3.0) / 6.0


@staged
@_as_given
def hard_silu(x: ArrayLike) -> Array:
    """x * hard_sigmoid(x) (Howard et al. 2019)."""
    x = inexact(x)
    return x * hard_sigmoid(x)


hard_swish = hard_silu


@staged
def soft_sign(x: ArrayLike) -> Array:
    """x / (|x| + 1)."""
    x = inexact(x)
    return x / (abs(x) + 1)


@staged
@_as_given
def squareplus(x: ArrayLike, b: ArrayLike = 4) -> Array:
    """(x + sqrt(x^2 + b)) / 2."""
    x = inexact(x)
    return (x + np.sqrt(x * x + b)) * 0.5


@staged
def sparse_plus(x: ArrayLike) -> Array:
    """0 up to -1, x from 1 on, a parabola between."""
    x = inexact(x)
    return _where(x <= -1, x.zeros_like(), _where(x >= 1, x, (x + 1) * (x + 1) / 4))


@staged
@_as_given
def sparse_sigmoid(x: ArrayLike) -> Array:
    """The derivative of `sparse_plus`."""
    return np.clip((inexact(x) + 1) * 0.5, 0, 1)


@staged
def glu(x: ArrayLike, axis: int = -1) -> Array:
    """The first half of `axis` times the sigmoid of the second."""
    x = inexact(x)
    d = axis_of(axis, x.ndim)
    n = x.shape[d]
    if n % 2:
        raise ShapeMismatch(f"glu needs an even extent along axis {axis}", x.shape)
    return slice_along(x, d, 0, n // 2) * el.logistic(slice_along(x, d, n // 2, n))


# -- normalisation -----------------------------------------------------------------------------


def _largest(x: Array, axes: Axes, where: Any) -> Array:
    """The largest element over `axes`, kept as axes, as a constant to derivatives; 0 where it is
    not finite, so that subtracting it never makes NaN of infinities."""
    top = reductions.max(x, axes, keepdims=True, initial=-math.inf, where=where)
    top = StopGradient()(top)
    return _where(np.isfinite(top), top, top.zeros_like())


@staged
@_as_given
def logsumexp(a: ArrayLike, axis: Axes = None, b: Any = None, keepdims: bool = False,
              return_sign: bool = False, where: Any = None) -> Any:  # fmt: skip
    """log(sum(b * exp(a))) over `axis`, shifted by the largest element. With `return_sign` the
    logarithm of the absolute value, and the sign of the sum."""
    x = inexact(a)
    if b is not None:
        x, weight = together(x, b)
        x = _where(weight == 0, -math.inf, x)
    axes = axes_of(axis, x.ndim)
    top = _largest(x, axes, where)
    terms = np.exp(x - top)
    terms = terms if b is None else terms * weight
    total = reductions.sum(terms, axes, keepdims=True, where=where)
    sign = np.sign(total)
    out = np.log(np.abs(total) if return_sign else total) + top
    if not keepdims:
        out, sign = np.squeeze(out, axes), np.squeeze(sign, axes)
    return (out, sign) if return_sign else out


@staged
@_as_given
def logmeanexp(x: ArrayLike, axis: Axes = None, where: Any = None, keepdims: bool = False) -> Array:
    """log(mean(exp(x))) over `axis`."""
    x = inexact(x)
    total = logsumexp(x, axis=axis, keepdims=keepdims, where=where)
    axes = axes_of(axis, x.ndim)
    count = reductions.count_of(x, axes, where, x.dtype)
    return total - np.log(np.asarray(count, x.dtype) if isinstance(count, int) else count)


@staged
@_as_given
def softmax(x: ArrayLike, axis: Axes = -1, where: Any = None, initial: Any = None) -> Array:
    """exp(x) / sum(exp(x)) over `axis`; 0 outside the mask `where`."""
    x = inexact(x)
    axes = axes_of(axis, x.ndim)
    top = reductions.max(x, axes, keepdims=True, initial=-math.inf, where=where)
    terms = np.exp(x - StopGradient()(top))
    terms = reductions.chosen(terms, where, 0)
    return terms / reductions.sum(terms, axes, keepdims=True)


@staged
@_as_given
def log_softmax(x: ArrayLike, axis: Axes = -1, where: Any = None, initial: Any = None) -> Array:
    """log(softmax(x)); -inf outside the mask `where`."""
    x = inexact(x)
    axes = axes_of(axis, x.ndim)
    top = reductions.max(x, axes, keepdims=True, initial=-math.inf, where=where)
    shifted = x - StopGradient()(top)
    total = reductions.sum(np.exp(shifted), axes, keepdims=True, where=where)
    return reductions.chosen(shifted - np.log(total), where, -math.inf)


@staged
def log1mexp(x: ArrayLike) -> Array:
    """log(1 - exp(-x)) for x >= 0 (Maechler 2012)."""
    x = inexact(x)
    small = x < math.log(2)
    near = np.log(-np.expm1(-_where(small, x, x.full_like(1))))
    far = np.log1p(-np.exp(-_where(small, x.full_like(1), x)))
    return _where(small, near, far)


@staged
@_as_given
def standardize(x: ArrayLike, axis: Axes = -1, mean: Any = None, variance: Any = None,
                epsilon: ArrayLike = 1e-5, where: Any = None) -> Array:  # fmt: skip
    """(x - mean) / sqrt(variance + epsilon) over `axis`; the variance in two passes."""
    x = inexact(x)
    if mean is None:
        mean = reductions.mean(x, axis, keepdims=True, where=where)
    if variance is None:
        variance = reductions.mean(np.square(x - mean), axis, keepdims=True, where=where)
    return (x - mean) * el.rsqrt(asarray(variance) + epsilon)


@staged
def one_hot(x: ArrayLike, num_classes: int, *, dtype: Any = np.float64, axis: int = -1) -> Array:
    """1 at the class each element names, 0 elsewhere, along a new axis; all 0 outside range."""
    x = asarray(x)
    d = axis_of(axis, x.ndim + 1)
    shape = (*x.shape[:d], num_classes, *x.shape[d:])
    classes = position(shape, d, x.dtype if dtypes.is_integer(x.dtype) else dtypes.int64)
    same = broadcast_to(expand_dims(x, d), shape) == classes
    return astype(same, np.dtype(dtype))


# -- attention ---------------------------------------------------------------------------------


@staged
def dot_product_attention(query: ArrayLike, key: ArrayLike, value: ArrayLike, bias: Any = None,
                          mask: Any = None, *, scale: float | None = None,
                          is_causal: bool = False, query_seq_lengths: Any = None,
                          key_value_seq_lengths: Any = None,
                          local_window_size: Any = None) -> Array:  # fmt: skip
    """softmax(query key^T * scale + bias) value, masked (Vaswani et al. 2017).

    query: [batch, T, heads, width]; key, value: [batch, S, groups, width] with heads a multiple of
    groups; bias and mask broadcast to [batch, heads, T, S]. Without the batch axis everywhere the
    result has none. Where a whole row is masked its weights are uniform; rows
    beyond `query_seq_lengths` are zero.
    """
    q, k, v = (inexact(a) for a in (query, key, value))
    if q.ndim == 3:
        grown = [None if a is None else asarray(a)[None] for a in (q, k, v)]
        return dot_product_attention(*grown, bias, mask, scale=scale, is_causal=is_causal,
            query_seq_lengths=query_seq_lengths, key_value_seq_lengths=key_value_seq_lengths,
            local_window_size=local_window_size)[0]  # fmt: skip
    heads, groups = q.shape[2], k.shape[2]
    if q.ndim != 4 or k.shape != v.shape or heads % groups:
        raise ShapeMismatch("dot_product_attention", q.shape, k.shape, v.shape)
    batch, t, s, width = q.shape[0], q.shape[1], k.shape[1], q.shape[3]
    scale = 1 / math.sqrt(width) if scale is None else scale
    q = np.reshape(q, (batch, t, groups, heads // groups, width))
    logits = einsum("btghd,bsgd->bghts", q, k) * scale
    logits = np.reshape(logits, (batch, heads, t, s))
    if bias is not None:
        logits = logits + bias
    seen = _visible(
        t, s, mask, is_causal, query_seq_lengths, key_value_seq_lengths, local_window_size
    )
    if seen is not None:
        logits = _where(
            seen, logits, logits.full_like(0.7 * float(ml_dtypes.finfo(logits.dtype).min))
        )
    weights = np.reshape(softmax(logits), (batch, groups, heads // groups, t, s))
    out = einsum("bghts,bsgd->btghd", weights, v)
    out = np.reshape(out, (batch, t, heads, width))
    if query_seq_lengths is None:
        return out
    real = position(out.shape, 1) < asarray(query_seq_lengths)[:, None, None, None]
    return _where(real, out, out.zeros_like())


def _visible(t: Any, s: Any, mask: Any, causal: bool, q_lengths: Any, kv_lengths: Any,
             window: Any) -> Array | None:  # fmt: skip
    """Where a query may look: [batch or 1, heads or 1, T, S], or None for everywhere."""
    row, column = (position((1, 1, t, s), d) for d in (2, 3))
    found = [] if mask is None else [asarray(mask)]
    if causal:
        found.append(column <= row)
    if q_lengths is not None:
        found.append(row < asarray(q_lengths)[:, None, None, None])
    if kv_lengths is not None:
        found.append(column < asarray(kv_lengths)[:, None, None, None])
    if window is not None:
        left, right = (window, window) if isinstance(window, int) else window
        found += [row <= column + left, column <= row + right]
    result = None
    for m in found:
        result = m if result is None else np.logical_and(result, m)
    return result
