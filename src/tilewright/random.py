"""Random numbers by counting: jax.random's functions on explicit keys.

Knows Threefry-2x32 (20 rounds; Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011) as plain uint32 array code, and how bits become distributions. Keys, splits and
bits are those of jax.random with 64-bit types enabled; so are the distributions, up to rounding.
Refuses to know state: the same key gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import DTypeMismatch, ShapeMismatch
from tilewright.expr import product, static
from tilewright.numpy.linalg import cholesky
from tilewright.numpy.pointwise import where
from tilewright.numpy.protocol import axis_of, filled, iota, shape_of, staged, traced
from tilewright.numpy.reductions import cumsum
from tilewright.numpy.searching import argsort, searchsorted, take
from tilewright.numpy.shaping import expand_dims, moveaxis, reshape
from tilewright.ops import elementwise as el
from tilewright.ops.bits import Bitcast
from tilewright.ops.control import StopGradient
from tilewright.ops.reduce import ArgMax
from tilewright.ops.sort import Sort
from tilewright.tracing import Array, asarray, astype, broadcast_to

__all__ = [
    "PRNGKey", "bernoulli", "bits", "categorical", "cauchy", "choice", "exponential", "fold_in",
    "gumbel", "key", "laplace", "logistic", "lognormal", "multivariate_normal", "normal", "pareto",
    "permutation", "rademacher", "randint", "rayleigh", "shuffle", "split", "truncated_normal",
    "uniform", "weibull_min",
]  # fmt: skip

ArrayLike = Any
Shape = Sequence[int]
_U32 = dtypes.uint32


# -- the generator -----------------------------------------------------------------------------

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(k0: Array, k1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds of two key and two counter words, all uint32 of one shape."""
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for r in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << r) | (x1 >> (32 - r)))
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + (group + 1)
    return x0, x1


def _words(key: ArrayLike) -> tuple[Array, Array]:
    """The two words of a key: an array of two uint32."""
    k = asarray(key)
    if k.dtype != _U32 or k.shape != (2,):
        raise DTypeMismatch(
            f"a random key is a uint32 array of shape (2,), got {k.type!r}",
            "Make one with random.key(seed); use vmap for several keys.",
        )
    return k[0], k[1]


def _blocks(key: ArrayLike, n: int) -> tuple[Array, Array]:
    """n pairs of random words: the generator at the counters 0 .. n - 1."""
    low = iota(n, _U32)
    if n < 1 << 32:
        high = filled(0, (n,), _U32)
    else:
        wide = iota(n, dtypes.uint64)
        high = astype(wide >> 32, _U32)
    k0, k1 = (broadcast_to(k, (n,)) for k in _words(key))
    return threefry(k0, k1, high, low)


def _seeded(seed: Any) -> Array:
    """A 64-bit integer as the two words of a key, high word first."""
    if not traced(seed) and isinstance(seed, int):
        halves = (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF
        return asarray(np.array(halves, np.uint32))
    x = asarray(seed)
    if not dtypes.is_integer(x.dtype) or x.ndim:
        raise DTypeMismatch(f"a seed is an integer scalar, got {x.type!r}", "Pass an int.")
    wide = astype(x, dtypes.uint64)
    return np.stack([astype(wide >> 32, _U32), astype(wide & 0xFFFFFFFF, _U32)])


@staged
def key(seed: ArrayLike, *, impl: Any = None) -> Array:
    """The key (uint32, shape (2,)) of a seed, an integer that may be traced."""
    return _seeded(seed)


PRNGKey = key


@staged
def split(key: ArrayLike, num: int | Shape = 2) -> Array:
    """`num` (or a shape of) new keys as rows; use each key once."""
    shape = shape_of(num)
    pair = _blocks(key, math.prod(shape))
    return reshape(np.stack(pair, axis=1), (*shape, 2))


@staged
def fold_in(key: ArrayLike, data: ArrayLike) -> Array:
    """A new key of a key and an integer (32 bits of it are used)."""
    number = asarray(data & 0xFFFFFFFF if isinstance(data, int) else data)
    word = astype(number, _U32)
    k0, k1 = _words(key)
    return np.stack(threefry(k0, k1, word.zeros_like(), word))


def _random_bits(key: ArrayLike, width: int, shape: Shape) -> Array:
    """Unsigned integers of `width` bits."""
    first, second = _blocks(key, math.prod(shape))
    if width == 64:
        high, low = (astype(x, dtypes.uint64) for x in (first, second))
        out = (high << 32) | low
    else:
        out = astype(first ^ second, np.dtype(f"uint{width}"))
    return reshape(out, tuple(shape))


@staged
def bits(key: ArrayLike, shape: Shape = (), dtype: Any = np.uint64) -> Array:
    """Random bits as unsigned integers."""
    of = np.dtype(dtype)
    if of.kind != "u":
        raise DTypeMismatch(f"random.bits gives unsigned integers, not {of}", "Use random.randint.")
    return _random_bits(key, 8 * of.itemsize, shape)


# -- uniform -----------------------------------------------------------------------------------


def _float_type(dtype: Any) -> DType:
    of = np.dtype(dtype)
    if not dtypes.is_float(of):
        raise DTypeMismatch(
            f"the distribution has real floating numbers, not {of}", "Pass a float dtype."
        )
    return of


@staged
def uniform(key: ArrayLike, shape: Shape = (), dtype: Any = np.float64, minval: ArrayLike = 0.0,
            maxval: ArrayLike = 1.0) -> Array:  # fmt: skip
    """Uniform in [minval, maxval): random mantissas under the exponent of 1, less 1."""
    of = _float_type(dtype)
    mantissa, width = ml_dtypes.finfo(of).nmant, 8 * of.itemsize
    drawn = 8 if mantissa < 8 else width
    word = np.dtype(f"uint{width}")
    fraction = astype(_random_bits(key, drawn, shape), word) >> (drawn - mantissa)
    one = int(np.ones((), of).view(word))
    unit = Bitcast(of)(fraction | one) - 1
    low, high = (astype(asarray(v), of) for v in (minval, maxval))
    if not traced(minval, maxval) and np.all(minval == 0) and np.all(maxval == 1):
        return unit
    return np.maximum(low, unit * (high - low) + low)


@staged
def randint(key: ArrayLike, shape: Shape, minval: ArrayLike, maxval: ArrayLike,
            dtype: Any = np.int64) -> Array:  # fmt: skip
    """Integers in [minval, maxval). Twice the bits of the type are drawn, so the bias of the
    remainder is at most span / 2**bits."""
    of = np.dtype(dtype)
    if not dtypes.is_integer(of):
        raise DTypeMismatch(f"random.randint gives integers, not {of}", "Use random.uniform.")
    width = 8 * of.itemsize
    word = np.dtype(f"uint{width}")
    low, span = _span(minval, maxval, of, word)
    high_bits, low_bits = (_random_bits(k, width, shape) for k in split(key))
    if isinstance(span, int):
        if span == 1 << width:
            return low + astype(low_bits, of)
        scale: Any = (1 << width) % span
        span, scale = low_bits.full_like(span), low_bits.full_like(scale)
    else:
        half = np.remainder(span.full_like(1 << (width // 2)), span)
        scale = np.remainder(half * half, span)
    offset = np.remainder(high_bits, span) * scale + np.remainder(low_bits, span)
    return low + astype(np.remainder(offset, span), of)


def _span(minval: Any, maxval: Any, of: DType, word: DType) -> tuple[Array, Any]:
    """The lower bound and the number of values; of an empty range only the lower bound."""
    info = np.iinfo(of)
    if isinstance(minval, int) and isinstance(maxval, int):
        low, top = (min(max(v, info.min), info.max + 1) for v in (minval, maxval))
        low = min(low, info.max)
        return asarray(np.array(low, of)), max(top - low, 1)
    low_, top_ = (astype(asarray(v), dtypes.int64) for v in (minval, maxval))
    over = top_ > info.max if of != dtypes.int64 else filled(False, top_.shape, dtypes.bool_)
    low_, top_ = (astype(np.clip(v, info.min, info.max), of) for v in (low_, top_))
    span = astype(top_ - low_, word)
    span = where(top_ <= low_, span.full_like(1), span)
    return low_, where(np.logical_and(over, top_ > low_), span + 1, span)


@staged
def bernoulli(key: ArrayLike, p: ArrayLike = 0.5, shape: Shape | None = None,
              mode: str = "low") -> Array:  # fmt: skip
    """True with probability `p`."""
    chance = asarray(p)
    of = _float_type(chance.dtype)
    to = tuple(static(n) for n in chance.shape) if shape is None else tuple(shape)
    if mode == "high":
        fine, coarse = uniform(key, (2, *to), of)
        return coarse * 2.0 ** -ml_dtypes.finfo(of).nmant < chance - fine
    return uniform(key, to, of) < chance


@staged
def rademacher(key: ArrayLike, shape: Shape = (), dtype: Any = np.int64) -> Array:
    """1 or -1, each half of the time."""
    return 2 * astype(bernoulli(key, 0.5, shape), np.dtype(dtype)) - 1


# -- distributions by inversion ----------------------------------------------------------------


@staged
def normal(key: ArrayLike, shape: Shape = (), dtype: Any = np.float64) -> Array:
    """Normal with mean 0 and variance 1; of complex type with that variance in all."""
    of = np.dtype(dtype)
    if dtypes.is_complex(of):
        real = dtypes.real_of(of)
        parts = [normal(k, shape, real) for k in split(key)]
        return el.make_complex(*parts) / math.sqrt(2)
    of = _float_type(of)
    low = np.nextafter(np.array(-1, of), np.array(0, of))
    return el.erfinv(uniform(key, shape, of, low, 1)) * math.sqrt(2)


@staged
def truncated_normal(key: ArrayLike, lower: ArrayLike, upper: ArrayLike, shape: Shape | None = None,
                     dtype: Any = np.float64) -> Array:  # fmt: skip
    """Normal, under the condition lower < x < upper."""
    of = _float_type(dtype)
    low, high = (astype(asarray(v), of) for v in (lower, upper))
    to = np.broadcast_shapes(low.shape, high.shape) if shape is None else tuple(shape)
    root = math.sqrt(2)
    u = uniform(key, to, of, el.erf(low / root), el.erf(high / root))
    ends = [StopGradient()(v) for v in (low, high)]
    inside = [
        np.nextafter(v, v.full_like(e)) for v, e in zip(ends, (math.inf, -math.inf), strict=True)
    ]
    return np.minimum(np.maximum(el.erfinv(u) * root, inside[0]), inside[1])


@staged
def exponential(key: ArrayLike, shape: Shape = (), dtype: Any = np.float64) -> Array:
    """Exponential with rate 1."""
    return -np.log1p(-uniform(key, shape, dtype))


@staged
def gumbel(key: ArrayLike, shape: Shape = (), dtype: Any = np.float64, mode: str = "low") -> Array:
    """Standard Gumbel; mode "high" draws twice the bits, for larger values."""
    of = _float_type(dtype)
    info = ml_dtypes.finfo(of)
    if mode == "high":
        first, second = uniform(key, (2, *shape), of)
        tail = first + 2.0**-info.nmant * second + float(info.tiny)
        return -np.log(-np.log1p(-where(first >= 0.5, first, tail)))
    return -np.log(-np.log(uniform(key, shape, of, float(info.tiny), 1.0)))


@staged
def laplace(key: ArrayLike, shape: Shape = (), dtype: Any = np.float64) -> Array:
    """Standard Laplace."""
    of = _float_type(dtype)
    u = uniform(key, shape, of, -1.0 + float(np.finfo(of).epsneg), 1.0)
    return np.sign(u) * np.log1p(-np.abs(u))


@staged
def logistic(key: ArrayLike, shape: Shape = (), dtype: Any = np.float64) -> Array:
    """Standard logistic."""
    u = uniform(key, shape, dtype, float(ml_dtypes.finfo(_float_type(dtype)).tiny), 1.0)
    return np.log(u) - np.log1p(-u)


@staged
def cauchy(key: ArrayLike, shape: Shape = (), dtype: Any = np.float64) -> Array:
    """Standard Cauchy."""
    u = uniform(key, shape, dtype, float(ml_dtypes.finfo(_float_type(dtype)).eps), 1.0)
    return np.tan((u - 0.5) * math.pi)


@staged
def lognormal(
    key: ArrayLike, sigma: ArrayLike = 1.0, shape: Shape = (), dtype: Any = np.float64
) -> Array:
    """exp of a normal variable with standard deviation `sigma`."""
    return np.exp(normal(key, shape, dtype) * astype(asarray(sigma), np.dtype(dtype)))


@staged
def rayleigh(
    key: ArrayLike, scale: ArrayLike, shape: Shape | None = None, dtype: Any = np.float64
) -> Array:
    """The length of a vector of two normal variables with standard deviation `scale`."""
    width = astype(asarray(scale), _float_type(dtype))
    to = width.shape if shape is None else tuple(shape)
    return np.sqrt(-2 * np.log(uniform(key, to, dtype))) * width


@staged
def pareto(
    key: ArrayLike, b: ArrayLike, shape: Shape | None = None, dtype: Any = np.float64
) -> Array:
    """Pareto with exponent `b` from 1 on."""
    power = astype(asarray(b), _float_type(dtype))
    to = power.shape if shape is None else tuple(shape)
    return np.exp(exponential(key, to, dtype) / power)


@staged
def weibull_min(key: ArrayLike, scale: ArrayLike, concentration: ArrayLike, shape: Shape = (),
                dtype: Any = np.float64) -> Array:  # fmt: skip
    """Weibull with the given scale and exponent."""
    u = uniform(key, shape, dtype)
    of = u.dtype
    power = np.power(-np.log1p(-u), 1 / astype(asarray(concentration), of))
    return power * astype(asarray(scale), of)


@staged
def multivariate_normal(key: ArrayLike, mean: ArrayLike, cov: ArrayLike, shape: Shape | None = None,
                        dtype: Any = np.float64) -> Array:  # fmt: skip
    """Normal vectors with a mean [..., n] and a covariance [..., n, n]; `shape` is that of the
    result less its last axis."""
    of = _float_type(dtype)
    centre, matrix = astype(asarray(mean), of), astype(asarray(cov), of)
    lead = np.broadcast_shapes(centre.shape[:-1], matrix.shape[:-2])
    to = lead if shape is None else tuple(shape)
    n = centre.shape[-1]
    if matrix.shape[-2:] != (n, n):
        raise ShapeMismatch("multivariate_normal", centre.shape, matrix.shape)
    x = normal(key, (*to, n), of)
    return centre + np.einsum("...ij,...j->...i", cholesky(matrix), x)


# -- choices -----------------------------------------------------------------------------------


def _shuffled(key: ArrayLike, x: Array, axis: int) -> Array:
    """Sorted by random 32-bit keys, as often as makes ties in all of them unlikely."""
    size = max(1, static(product(x.shape)))
    for _ in range(math.ceil(3 * math.log(size) / math.log(2**32 - 1))):
        key, part = split(key)
        x = Sort(axis)(_random_bits(part, 32, x.shape), x)[1]
    return x


@staged
def permutation(key: ArrayLike, x: Any, axis: int = 0, independent: bool = False) -> Array:
    """range(x) for an integer x, or the slices of an array along `axis`, in random order; each line
    in its own if `independent`."""
    if isinstance(x, int):
        return _shuffled(key, iota(x), 0)
    a = asarray(x)
    d = axis_of(axis, a.ndim)
    if independent or a.ndim == 1:
        return _shuffled(key, a, d)
    return take(a, _shuffled(key, iota(a.shape[d]), 0), d)


@staged
def shuffle(key: ArrayLike, x: ArrayLike, axis: int = 0) -> Array:
    """As `permutation` with `independent`, of an array."""
    a = asarray(x)
    return _shuffled(key, a, axis_of(axis, a.ndim))


@staged
def choice(key: ArrayLike, a: Any, shape: Shape = (), replace: bool = True, p: Any = None,
           axis: int = 0, mode: str = "low") -> Array:  # fmt: skip
    """Elements of range(a), or slices of an array along `axis`, with probabilities `p`."""
    values = None if isinstance(a, int) else asarray(a)
    d = 0 if values is None else axis_of(axis, values.ndim)
    n = a if values is None else static(values.shape[d])
    count = math.prod(shape)
    if not replace and count > n:
        raise ShapeMismatch(f"cannot take {count} of {n} without replacement")
    if p is not None and asarray(p).shape != (n,):
        raise ShapeMismatch(f"choice needs {n} probabilities", asarray(p).shape)
    if p is None:
        at = randint(key, shape, 0, n) if replace else _shuffled(key, iota(n), 0)[:count]
    elif replace:
        total = cumsum(asarray(p))
        draw = total[-1] * (1 - uniform(key, shape, total.dtype))
        at = searchsorted(total, draw)
    else:
        chance = asarray(p)
        noise = gumbel(key, (n,), chance.dtype, mode) + np.log(chance)
        at = argsort(noise, descending=True)[:count]
    if values is None:
        return reshape(at, tuple(shape))
    out = take(values, reshape(at, (count,)), d)
    return reshape(out, (*values.shape[:d], *shape, *values.shape[d + 1 :]))


@staged
def categorical(key: ArrayLike, logits: ArrayLike, axis: int = -1, shape: Shape | None = None,
                replace: bool = True, mode: str = "low") -> Array:  # fmt: skip
    """Positions along `axis` with probabilities softmax(logits), by the Gumbel-max trick. `shape`
    may have further leading axes; with `replace` false these are drawn without repetition."""
    x = asarray(logits)
    d = axis_of(axis, x.ndim)
    batch = (*x.shape[:d], *x.shape[d + 1 :])
    to = batch if shape is None else tuple(shape)
    lead = to[: len(to) - len(batch)]
    if to[len(lead) :] != batch:
        raise ShapeMismatch("categorical: `shape` must end in that of the batch", to, batch)
    if replace:
        full = (*lead, *x.shape)
        noise = gumbel(key, full, x.dtype, mode) + expand_dims(x, tuple(range(len(lead))))
        return ArgMax(len(lead) + d)(noise)
    noise = moveaxis(x + gumbel(key, x.shape, x.dtype, mode), d, -1)
    count = math.prod(lead)
    if count > x.shape[d]:
        raise ShapeMismatch(f"cannot take {count} of {x.shape[d]} without replacement")
    at = argsort(noise, -1, descending=True)[..., :count]
    return reshape(moveaxis(at, -1, 0), to)
