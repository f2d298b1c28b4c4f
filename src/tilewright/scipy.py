"""scipy.special and scipy.linalg, as far as research code calls them: `scipy.special.erf`.

Knows how each is composed of the elementwise table. Refuses to know functions that need series of
their own (Bessel, gammainc, zeta).
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tilewright import nn
from tilewright.errors import ShapeMismatch
from tilewright.numpy import linalg as numpy_linalg
from tilewright.numpy import pointwise, reductions
from tilewright.numpy.products import matmul
from tilewright.numpy.protocol import inexact, staged, together
from tilewright.ops import elementwise as el
from tilewright.ops.linalg import TriangularSolve
from tilewright.promotion import loop, promotes_as
from tilewright.tracing import Array, asarray, astype, broadcast_to, operand

ArrayLike = Any
_where = pointwise.where

# -- special functions -------------------------------------------------------------------------


@staged
def erf(x: ArrayLike) -> Array:
    """The error function."""
    return el.erf(inexact(x))


@staged
def erfc(x: ArrayLike) -> Array:
    """1 - erf(x), without cancellation."""
    return el.erfc(inexact(x))


@staged
def erfinv(x: ArrayLike) -> Array:
    """The inverse of erf."""
    return el.erfinv(inexact(x))


@staged
def gammaln(x: ArrayLike) -> Array:
    """log |Gamma(x)|."""
    return el.lgamma(inexact(x))


@staged
def digamma(x: ArrayLike) -> Array:
    """The derivative of gammaln."""
    return el.digamma(inexact(x))


@staged
def gamma(x: ArrayLike) -> Array:
    """Gamma(x); NaN at the negative integers."""
    x = inexact(x)
    whole = np.floor(x)
    pole = np.logical_and(x == whole, x < 0)
    negative = np.logical_and(x < 0, np.remainder(whole, 2) != 0)
    out = np.exp(el.lgamma(x))
    return _where(pole, math.nan, _where(negative, -out, out))


@staged
def factorial(n: ArrayLike, exact: bool = False) -> Array:
    """Gamma(n + 1), 0 for negative n."""
    x = inexact(n)
    return _where(x < 0, 0.0, np.exp(el.lgamma(x + 1)))


@staged
def betaln(a: ArrayLike, b: ArrayLike) -> Array:
    """log |B(a, b)|."""
    x, y = together(inexact(a), inexact(b))
    return el.lgamma(x) + el.lgamma(y) - el.lgamma(x + y)


@staged
def beta(a: ArrayLike, b: ArrayLike) -> Array:
    """The beta function, of positive arguments."""
    return np.exp(betaln(a, b))


@staged
def expit(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x))."""
    return el.logistic(inexact(x))


@staged
def logit(x: ArrayLike) -> Array:
    """log(x / (1 - x))."""
    x = inexact(x)
    return np.log(x) - np.log1p(-x)


def _times_log(x: ArrayLike, y: ArrayLike, log: Any) -> Array:
    a, b = together(inexact(x), inexact(y))
    zero = a == 0
    product = a * log(_where(zero, b.full_like(1), b))
    return _where(np.logical_and(zero, np.logical_not(np.isnan(b))), a.zeros_like(), product)


@staged
def xlogy(x: ArrayLike, y: ArrayLike) -> Array:
    """x log(y), 0 where x is 0, with derivatives that are finite there."""
    return _times_log(x, y, np.log)


@staged
def xlog1py(x: ArrayLike, y: ArrayLike) -> Array:
    """x log(1 + y), 0 where x is 0, with derivatives that are finite there."""
    return _times_log(x, y, np.log1p)


@staged
def entr(x: ArrayLike) -> Array:
    """-x log(x), 0 at 0, -inf below."""
    x = inexact(x)
    return _where(x < 0, -math.inf, -_times_log(x, x, np.log))


@staged
def rel_entr(x: ArrayLike, y: ArrayLike) -> Array:
    """x log(x / y); 0 for x = 0 <= y, inf for other arguments that are not positive."""
    a, b = together(inexact(x), inexact(y))
    both = np.logical_and(a > 0, b > 0)
    one = a.full_like(1)
    value = _where(both, a, one) * np.log(_where(both, a, one) / _where(both, b, one))
    rest = _where(np.logical_and(a == 0, b >= 0), 0.0, math.inf)
    return _where(np.isnan(a + b), math.nan, _where(both, value, rest))


@staged
def kl_div(x: ArrayLike, y: ArrayLike) -> Array:
    """x log(x / y) - x + y."""
    a, b = together(inexact(x), inexact(y))
    return rel_entr(a, b) - a + b


@staged
def ndtr(x: ArrayLike) -> Array:
    """The normal distribution function."""
    return 0.5 * el.erfc(inexact(x) * -math.sqrt(0.5))


@staged
def ndtri(p: ArrayLike) -> Array:
    """The inverse of ndtr."""
    return el.erfinv(2 * inexact(p) - 1) * math.sqrt(2)


@staged
def log_ndtr(x: ArrayLike) -> Array:
    """log(ndtr(x)); below -20 by the asymptotic series (Abramowitz and Stegun 26.2.12)."""
    x = inexact(x)
    far = x < -20
    near = np.log(ndtr(_where(far, x.full_like(-1), x)))
    y = _where(far, x, x.full_like(-30))
    z = 1 / (y * y)
    series = 1 - z * (1 - 3 * z * (1 - 5 * z * (1 - 7 * z)))
    tail = -0.5 * y * y - np.log(-y) - 0.5 * math.log(2 * math.pi) + np.log(series)
    return _where(far, tail, near)


special = SimpleNamespace(
    beta=beta, betaln=betaln, digamma=digamma, entr=entr, erf=erf, erfc=erfc, erfinv=erfinv,
    expit=expit, factorial=factorial, gamma=gamma, gammaln=gammaln, kl_div=kl_div,
    log_ndtr=log_ndtr, log_softmax=nn.log_softmax, logit=logit, logsumexp=nn.logsumexp, ndtr=ndtr,
    ndtri=ndtri, psi=digamma, rel_entr=rel_entr, softmax=nn.softmax, xlog1py=xlog1py, xlogy=xlogy,
)  # fmt: skip
"""scipy.special's names."""


def of_ufunc(function: Any) -> Callable[..., Array] | None:
    """What a ufunc of SciPy's own module is on traced arrays; None if it is not known here."""
    theirs, name = sys.modules.get("scipy.special"), getattr(function, "__name__", "")
    if getattr(theirs, name, None) is not function or not isinstance(function, np.ufunc):
        return None
    ours = getattr(special, name, None)
    return None if ours is None else functools.partial(_in_loop_types, function, ours)


def _in_loop_types(ufunc: np.ufunc, ours: Any, *args: ArrayLike) -> Array:
    """Computed in the types of SciPy's inner loop: float32 for float16."""
    *types, output = loop(ufunc, tuple(promotes_as(operand(x)) for x in args), None)
    return astype(ours(*[astype(asarray(x), t) for x, t in zip(args, types, strict=True)]), output)


# -- linear algebra ----------------------------------------------------------------------------


@staged
def solve_triangular(a: ArrayLike, b: ArrayLike, trans: Any = 0, lower: bool = False,
                     unit_diagonal: bool = False, overwrite_b: bool = False,
                     check_finite: bool = True) -> Array:  # fmt: skip
    """x with a x = b (a^T x = b for trans 1, "T"), of `a` only one triangle being read."""
    x, y = _one_type(a, b)
    x = numpy_linalg.matrix("solve_triangular", x)
    columns = y[..., None] if y.ndim == x.ndim - 1 else y
    if columns.shape[-2] != x.shape[-1]:
        raise ShapeMismatch("solve_triangular", x.shape, y.shape)
    lead = np.broadcast_shapes(x.shape[:-2], columns.shape[:-2])
    x = broadcast_to(x, (*lead, *x.shape[-2:]))
    columns = broadcast_to(columns, (*lead, *columns.shape[-2:]))
    out = TriangularSolve(not lower, trans in (1, 2, "T", "C"), unit_diagonal)(x, columns)
    return out[..., 0] if columns.ndim > y.ndim else out


def _one_type(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Two arrays in their common floating type."""
    x, y = inexact(a), inexact(b)
    of = np.result_type(x.dtype, y.dtype)
    return astype(x, of), astype(y, of)


def cho_factor(a: ArrayLike, lower: bool = False, overwrite_a: bool = False,
               check_finite: bool = True) -> tuple[Array, bool]:  # fmt: skip
    """The Cholesky factor for `cho_solve`, and which triangle it is."""
    return _cholesky(a, not lower), lower


@staged
def _cholesky(a: ArrayLike, upper: bool) -> Array:
    return numpy_linalg.cholesky(inexact(a), upper=upper)


def cho_solve(c_and_lower: tuple[ArrayLike, bool], b: ArrayLike, overwrite_b: bool = False,
              check_finite: bool = True) -> Array:  # fmt: skip
    """x with a x = b, given the Cholesky factor of a."""
    factor, lower = c_and_lower
    first = solve_triangular(factor, b, trans=0 if lower else 1, lower=lower)
    return solve_triangular(factor, first, trans=1 if lower else 0, lower=lower)


@staged
def block_diag(*arrays: ArrayLike) -> Array:
    """The arrays as blocks on the diagonal of a matrix of zeros."""
    blocks = [asarray(a) for a in arrays]
    blocks = [b.reshape((1,) * (2 - b.ndim) + b.shape) for b in blocks]
    width = sum(b.shape[1] for b in blocks)
    rows, before = [], 0
    for b in blocks:
        rows.append(np.pad(b, ((0, 0), (before, width - before - b.shape[1]))))
        before += b.shape[1]
    return np.concatenate(rows)


@staged
def expm(A: ArrayLike, *, upper_triangular: bool = False, max_squarings: int = 16) -> Array:
    """The exponential of a matrix: scaling by 2**max_squarings at most, a Pade approximant of
    order 13 and repeated squaring (Higham 2005)."""
    x = numpy_linalg.matrix("expm", A)
    norm = reductions.max(reductions.sum(np.abs(x), -2), -1)
    needed = np.maximum(np.ceil(np.log2(_where(norm > 0, norm, 1.0) / 5.371920351148152)), 0)
    squarings = np.minimum(needed, max_squarings)
    x = x / np.exp2(squarings)[..., None, None]
    one = broadcast_to(asarray(np.eye(x.shape[-1], dtype=x.dtype)), x.shape)
    b = (64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
         129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0,
         40840800.0, 960960.0, 16380.0, 182.0, 1.0)  # fmt: skip
    x2 = matmul(x, x)
    x4 = matmul(x2, x2)
    x6 = matmul(x4, x2)
    odd = matmul(x6, b[13] * x6 + b[11] * x4 + b[9] * x2)
    odd = matmul(x, odd + b[7] * x6 + b[5] * x4 + b[3] * x2 + b[1] * one)
    even = matmul(x6, b[12] * x6 + b[10] * x4 + b[8] * x2)
    even = even + b[6] * x6 + b[4] * x4 + b[2] * x2 + b[0] * one
    out = numpy_linalg.solve(even - odd, even + odd)
    for i in range(max_squarings):
        out = _where((i < squarings)[..., None, None], matmul(out, out), out)
    return out


linalg = SimpleNamespace(
    block_diag=block_diag, cho_factor=cho_factor, cho_solve=cho_solve, det=numpy_linalg.det,
    expm=expm, inv=numpy_linalg.inv, solve=numpy_linalg.solve, solve_triangular=solve_triangular,
)  # fmt: skip
"""scipy.linalg's names."""
