"""numpy.linalg on traced arrays: norms, solves, decompositions and what follows from them.

Knows which factorisation answers which question, and NumPy's shapes for stacks of matrices.
Refuses to know how a factorisation runs (`ops/linalg.py`). A program cannot raise: for a matrix
that makes NumPy raise LinAlgError the results are NaN. Real matrices only, in float32 and float64;
as in NumPy, float32 ones are factored in float64 and the results rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tilewright import dtypes
from tilewright.errors import DTypeMismatch, ShapeMismatch, UnsupportedFunction
from tilewright.expr import static
from tilewright.numpy import creation
from tilewright.numpy.creation import eye
from tilewright.numpy.pointwise import where
from tilewright.numpy.products import matmul, tensordot, vecdot
from tilewright.numpy.products import vector_cross as cross
from tilewright.numpy.products import vector_outer as outer
from tilewright.numpy.protocol import axes_of, implements, inexact, promoted
from tilewright.numpy.reductions import any_, max, min, prod, sum
from tilewright.numpy.shaping import matrix_transpose, moveaxis, reshape
from tilewright.ops import elementwise as el
from tilewright.ops.indexing import take_along
from tilewright.ops.linalg import (
    LU,
    QR,
    SVD,
    Cholesky,
    Eigh,
    Eigvalsh,
    Svdvals,
    TriangularSolve,
)
from tilewright.promotion import broadcast_shapes
from tilewright.tracing import Array, asarray, astype, broadcast_to

ArrayLike = Any

__all__ = [
    "cholesky", "cond", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "lstsq", "matmul",
    "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "multi_dot", "norm", "outer",
    "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot",
    "vector_norm",
]  # fmt: skip


class EighResult(NamedTuple):
    """Eigenvalues in rising order and, as columns, the eigenvectors."""

    eigenvalues: Array
    eigenvectors: Array


class QRResult(NamedTuple):
    """An orthogonal and an upper triangular factor."""

    Q: Array
    R: Array


class SlogdetResult(NamedTuple):
    """The sign of a determinant and the logarithm of its absolute value."""

    sign: Array
    logabsdet: Array


class SVDResult(NamedTuple):
    """x = U diag(S) Vh, S falling."""

    U: Array
    S: Array
    Vh: Array


def matrix(name: str, a: ArrayLike, square: bool = True) -> Array:
    """The argument of a function on stacks of matrices, in float32 or float64."""
    x = inexact(a)
    if x.dtype not in (dtypes.float32, dtypes.float64):
        way_out = "Convert it: x.astype(np.float32)."
        if dtypes.is_complex(x.dtype):
            way_out = (
                "Matrices are real here: A + iB acts as [[A, -B], [B, A]] on [Re x, Im x], or call"
                " NumPy's\nfunction outside the compiled one, on its result."
            )
        raise DTypeMismatch(f"linalg.{name} does not exist for {dtypes.short(x.dtype)}", way_out)
    if x.ndim < 2:
        raise ShapeMismatch(f"linalg.{name} needs matrices, with at least two axes", x.shape)
    if square and x.shape[-1] != x.shape[-2]:
        raise ShapeMismatch(f"linalg.{name}: the last two axes must be square", x.shape)
    return x


def wide(x: Array) -> Array:
    """The array in the precision NumPy factors in."""
    return astype(x, dtypes.float64)


@implements(np.linalg.diagonal)
def diagonal(x: ArrayLike, /, *, offset: int = 0) -> Array:
    """The offset-th diagonals of the last two axes."""
    return creation.diagonal(asarray(x), offset, -2, -1)


@implements(np.linalg.trace)
def trace(x: ArrayLike, /, *, offset: int = 0, dtype: Any = None) -> Array:
    """The sums of `diagonal`."""
    return creation.trace(asarray(x), offset, -2, -1, dtype)


# -- solving -----------------------------------------------------------------------------------


@implements(np.linalg.solve)
def solve(a: ArrayLike, b: ArrayLike) -> Array:
    """x with a x = b, by LU with partial pivoting. `b` is one vector if it has one axis, else
    matrices of columns; leading axes broadcast. NaN if a pivot is zero: `a` is singular."""
    x, y = promoted(inexact(a), inexact(b))
    x = matrix("solve", x)
    y = matrix("solve", y[:, None] if y.ndim == 1 else y, square=False)
    if y.shape[-2] != x.shape[-1]:
        raise ShapeMismatch("linalg.solve: the extents of a and b differ", x.shape, y.shape)
    out = astype(_solved(wide(x), wide(y)), x.dtype)
    return out[..., 0] if asarray(b).ndim == 1 else out


def _solved(x: Array, y: Array) -> Array:
    """x⁻¹ y for stacks of matrices."""
    lu, _, permutation = LU()(x)
    singular = any_(diagonal(lu) == 0, -1)
    lead = broadcast_shapes("batch axes", x.shape[:-2], y.shape[:-2])
    lu = broadcast_to(lu, (*lead, *lu.shape[-2:]))
    y = broadcast_to(y, (*lead, *y.shape[-2:]))
    rows = broadcast_to(permutation[..., None], y.shape)
    y = TriangularSolve(unit=True)(lu, take_along(y, rows, y.ndim - 2))
    y = TriangularSolve(upper=True)(lu, y)
    return where(singular[..., None, None], y.full_like(math.nan), y)


@implements(np.linalg.inv)
def inv(a: ArrayLike) -> Array:
    """The inverse; NaN if a pivot is zero."""
    x = matrix("inv", a)
    return solve(x, broadcast_to(asarray(eye(x.shape[-1], dtype=x.dtype)), x.shape))


def _sign_and_diagonal(x: Array) -> tuple[Array, Array]:
    """The parity of the row exchanges of LU (1 or -1) and the diagonal of U."""
    lu, pivots, _ = LU()(wide(x))
    exchanged = sum(astype(pivots != np.arange(static(x.shape[-1])), dtypes.int64), -1)
    sign = astype(1 - 2 * (exchanged % 2), lu.dtype)
    return sign, diagonal(lu)


@implements(np.linalg.det)
def det(a: ArrayLike) -> Array:
    """The determinant."""
    x = matrix("det", a)
    sign, d = _sign_and_diagonal(x)
    return astype(sign * prod(d, -1), x.dtype)


@implements(np.linalg.slogdet)
def slogdet(a: ArrayLike) -> SlogdetResult:
    """Sign and logarithm of the determinant's absolute value: 0 and -inf if a pivot is zero."""
    x = matrix("slogdet", a)
    sign, d = _sign_and_diagonal(x)
    signs = where(d < 0, d.full_like(-1), where(d == 0, d.zeros_like(), d.full_like(1)))
    logarithm = sum(np.log(np.abs(d)), -1)
    return SlogdetResult(astype(sign * prod(signs, -1), x.dtype), astype(logarithm, x.dtype))


@implements(np.linalg.cholesky)
def cholesky(a: ArrayLike, /, *, upper: bool = False) -> Array:
    """Lower triangular L with L L^T = a (or upper U with U^T U = a). NaN if `a` is not positive
    definite."""
    x = matrix("cholesky", a)
    return astype(Cholesky(bool(upper))(wide(x)), x.dtype)


# -- decompositions ----------------------------------------------------------------------------


def _is_upper(uplo: str) -> bool:
    if uplo.upper() not in ("L", "U"):
        raise ValueError("UPLO argument must be 'L' or 'U'")
    return uplo.upper() == "U"


@implements(np.linalg.eigh)
def eigh(a: ArrayLike, UPLO: str = "L") -> EighResult:
    """Eigenvalues and eigenvectors of symmetric matrices, of which one triangle is read. NaN if an
    element of it is not finite."""
    x = matrix("eigh", a)
    w, v = Eigh(_is_upper(UPLO))(wide(x))
    return EighResult(astype(w, x.dtype), astype(v, x.dtype))


@implements(np.linalg.eigvalsh)
def eigvalsh(a: ArrayLike, UPLO: str = "L") -> Array:
    """Eigenvalues of symmetric matrices, in rising order. NaN if an element of the triangle that is
    read is not finite."""
    x = matrix("eigvalsh", a)
    return astype(Eigvalsh(_is_upper(UPLO))(wide(x)), x.dtype)


@implements(np.linalg.qr)
def qr(a: ArrayLike, mode: str = "reduced") -> Any:
    """The QR decomposition; `mode` is reduced or r."""
    if mode not in ("reduced", "r"):
        raise UnsupportedFunction(f"linalg.qr with mode={mode!r}", "mode='reduced' or mode='r'")
    x = matrix("qr", a, square=False)
    q, r = (astype(y, x.dtype) for y in QR()(wide(x)))
    return r if mode == "r" else QRResult(q, r)


@implements(np.linalg.svd)
def svd(a: ArrayLike, full_matrices: bool = True, compute_uv: bool = True,
        hermitian: bool = False) -> Any:  # fmt: skip
    """The singular value decomposition. The full one exists for square matrices only, where it is
    the reduced one. NaN if an element is not finite. If `hermitian`, the matrices are symmetric,
    only their lower triangles are read, and it follows from `eigh`."""
    x = matrix("svd", a, square=hermitian)
    if hermitian:
        return _symmetric_svd(x, compute_uv)
    if compute_uv and full_matrices and x.shape[-1] != x.shape[-2]:
        raise UnsupportedFunction("linalg.svd with full_matrices=True", "full_matrices=False")
    if not compute_uv:
        return svdvals(x)
    return SVDResult(*(astype(y, x.dtype) for y in SVD()(wide(x))))


def _symmetric_svd(x: Array, compute_uv: bool) -> Any:
    """By eigenvalues, in falling order of their magnitudes; v takes their signs."""
    if not compute_uv:
        return np.flip(np.sort(np.abs(eigvalsh(x)), -1), -1)
    w, u = eigh(x)
    order = np.flip(np.argsort(np.abs(w), -1), -1)
    w = take_along(w, order, w.ndim - 1)
    u = take_along(u, broadcast_to(order[..., None, :], u.shape), u.ndim - 1)
    signs = np.copysign(w.full_like(1), w)
    return SVDResult(u, np.abs(w), matrix_transpose(u * signs[..., None, :]))


@implements(np.linalg.svdvals)
def svdvals(x: ArrayLike, /) -> Array:
    """The singular values, falling. NaN if an element is not finite."""
    a = matrix("svdvals", x, square=False)
    return astype(Svdvals()(wide(a)), a.dtype)


@implements(np.linalg.pinv)
def pinv(a: ArrayLike, rcond: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Array:
    """The pseudo-inverse; singular values below `rcond` times the largest count as zero."""
    x = matrix("pinv", a, square=False)
    if 0 in x.shape[-2:]:
        return matrix_transpose(x)
    u, s, vh = svd(x, full_matrices=False, hermitian=hermitian)
    if rtol is None and rcond is None:
        cut: Any = 1e-15
    else:
        cut = rcond if rcond is not None else rtol
    keep = s > cut * max(s, -1, keepdims=True)
    inverse = where(keep, 1 / where(keep, s, s.full_like(1)), s.zeros_like())
    return matmul(matrix_transpose(vh), inverse[..., None] * matrix_transpose(u))


@implements(np.linalg.lstsq)
def lstsq(a: ArrayLike, b: ArrayLike, rcond: Any = None) -> tuple[Array, Array, Array, Array]:
    """The x of least norm that minimises |a x - b|; residuals, rank and singular values.

    The residuals, sums of squares per column, are empty if `a` has no more rows than columns. The
    shape of a result cannot depend on values: they are given for lower ranks too."""
    x, y = promoted(inexact(a), inexact(b))
    x = matrix("lstsq", x, square=False)
    dtype, x = x.dtype, wide(x)
    columns = wide(y[:, None] if y.ndim == 1 else y)
    u, s, vh = SVD()(x)
    m, n = (static(k) for k in x.shape[-2:])
    cut = (np.finfo(x.dtype).eps * _larger(m, n) if rcond is None else rcond) * max(s)
    keep = s > cut
    inverse = where(keep, 1 / where(keep, s, s.full_like(1)), s.zeros_like())
    found = matmul(matrix_transpose(vh), inverse[:, None] * matmul(matrix_transpose(u), columns))
    residuals = sum(np.square(columns - matmul(x, found)), 0)
    residuals = residuals if m > n else residuals[:0]
    found = found[:, 0] if y.ndim == 1 else found
    rank = sum(astype(keep, dtypes.int32), dtype=dtypes.int32)
    return astype(found, dtype), astype(residuals, dtype), rank, astype(s, dtype)


def _larger(a: int, b: int) -> int:
    """Python's own maximum, whose name the reduction takes here."""
    return a if a > b else b


@implements(np.linalg.matrix_rank)
def matrix_rank(
    A: ArrayLike, tol: Any = None, hermitian: bool = False, *, rtol: Any = None
) -> Array:
    """How many singular values are above `tol` (default: rounding error of the largest)."""
    x = asarray(A)
    if x.ndim < 2:
        return astype(any_(x != 0), dtypes.int64)
    s = svd(x, compute_uv=False, hermitian=hermitian)
    largest = max(s, -1, keepdims=True, initial=0)
    if tol is None:
        eps = np.finfo(s.dtype).eps * _larger(*(static(n) for n in x.shape[-2:]))
        tol = largest * (eps if rtol is None else rtol)
    elif isinstance(tol, Array) and tol.ndim:
        tol = tol[..., None]
    return sum(astype(s > tol, dtypes.int64), -1)


@implements(np.linalg.matrix_power)
def matrix_power(a: ArrayLike, n: int) -> Array:
    """The n-th power by repeated squaring; negative ones of the inverse."""
    x = asarray(a)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeMismatch("linalg.matrix_power: the last two axes must be square", x.shape)
    if n < 0:
        return matrix_power(inv(x), -n)
    if n == 0:
        return broadcast_to(asarray(eye(x.shape[-1], dtype=x.dtype)), x.shape)
    result, square = None, x
    while n:
        if n & 1:
            result = square if result is None else matmul(result, square)
        n >>= 1
        square = matmul(square, square) if n else square
    assert result is not None, "n is positive"
    return result


@implements(np.linalg.multi_dot)
def multi_dot(arrays: Sequence[ArrayLike], *, out: None = None) -> Array:
    """The product of several matrices, in the order of least work (Cormen et al., 15.2)."""
    values = [asarray(a) for a in arrays]
    first, last = values[0].ndim == 1, values[-1].ndim == 1
    if first:
        values[0] = values[0][None, :]
    if last:
        values[-1] = values[-1][:, None]
    n = len(values)
    extents = [static(v.shape[0]) for v in values] + [static(values[-1].shape[1])]
    cost = {(i, i): 0 for i in range(n)}
    cut: dict[tuple[int, int], int] = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            tries = {
                k: cost[i, k] + cost[k + 1, j] + extents[i] * extents[k + 1] * extents[j + 1]
                for k in range(i, j)
            }
            cut[i, j] = _cheapest(tries)
            cost[i, j] = tries[cut[i, j]]

    def product(i: int, j: int) -> Array:
        return values[i] if i == j else matmul(product(i, cut[i, j]), product(cut[i, j] + 1, j))

    out_ = product(0, n - 1)
    shape = out_.shape[1 if first else 0 : -1 if last else None]
    return reshape(out_, shape)


def _cheapest(costs: dict[int, int]) -> int:
    """The key of the smallest value."""
    return sorted(costs, key=lambda k: costs[k])[0]


# -- norms -------------------------------------------------------------------------------------


def _magnitude(x: Array) -> Array:
    return el.absolute(x)


def _root(squares: Array) -> Array:
    """The square root, with derivative 0 (not NaN) at 0."""
    zero = squares == 0
    return where(zero, squares.zeros_like(), np.sqrt(where(zero, squares.full_like(1), squares)))


def _vector(x: Array, ord: Any, axes: Any, keepdims: Any) -> Array:
    if ord is None or ord == 2:
        if dtypes.is_complex(x.dtype):
            squares = np.square(el.real(x)) + np.square(el.imag(x))
        else:
            squares = np.square(x)
        return _root(sum(squares, axes, keepdims=keepdims))
    a = _magnitude(x)
    if ord == math.inf:
        return max(a, axes, keepdims=keepdims)
    if ord == -math.inf:
        return min(a, axes, keepdims=keepdims)
    if ord == 0:
        return sum(astype(x != 0, a.dtype), axes, keepdims=keepdims)
    if ord == 1:
        return sum(a, axes, keepdims=keepdims)
    return np.power(sum(np.power(a, ord), axes, keepdims=keepdims), 1.0 / ord)


def _matrix_norm(x: Array, ord: Any, axes: tuple[int, int], keepdims: Any) -> Array:
    row, column = axes
    if ord in (None, "fro", "f"):
        return _vector(x, None, axes, keepdims)
    if ord in (1, -1, math.inf, -math.inf):
        inner, outer = (row, column) if abs(ord) == 1 else (column, row)
        sums = sum(_magnitude(x), inner, keepdims=True)
        out = (max if ord > 0 else min)(sums, outer, keepdims=True)
    elif ord in (2, -2, "nuc"):
        s = svdvals(moveaxis(x, (row, column), (-2, -1)))
        reduce = {2: max, -2: min, "nuc": sum}[ord]
        out = reduce(s, -1)
        if not keepdims:
            return out
        return np.expand_dims(out, tuple(sorted(axes)))
    else:
        raise ValueError(f"Invalid norm order {ord!r} for matrices.")
    return out if keepdims else np.squeeze(out, axis=axes)


@implements(np.linalg.norm)
def norm(x: ArrayLike, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Array:
    """Vector or matrix norm. The gradient of the 2-norm at 0 is 0, where NumPy has no opinion."""
    x = inexact(x)
    if axis is None:
        if ord is None or (ord in ("f", "fro") and x.ndim == 2) or (ord == 2 and x.ndim == 1):
            return _vector(x, None, None, keepdims)
        axis = tuple(range(x.ndim))
    axes = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    axes = tuple(d % x.ndim for d in axes if axes_of(d, x.ndim))
    if len(axes) == 1:
        if isinstance(ord, str):
            raise ValueError(f"Invalid norm order {ord!r} for vectors")
        return _vector(x, ord, axes, keepdims)
    if len(axes) != 2:
        raise ValueError("Improper number of dimensions to norm.")
    return _matrix_norm(x, ord, axes, keepdims)


@implements(np.linalg.vector_norm)
def vector_norm(
    x: ArrayLike, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2
) -> Array:
    """The norm over all of `axis` together, as of one vector."""
    x = inexact(x)
    return _vector(x, ord, axes_of(axis, x.ndim), keepdims)


@implements(np.linalg.matrix_norm)
def matrix_norm(x: ArrayLike, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    """The norm of the last two axes."""
    x = inexact(x)
    return _matrix_norm(x, ord, (x.ndim - 2, x.ndim - 1), keepdims)


@implements(np.linalg.cond)
def cond(x: ArrayLike, p: Any = None) -> Array:
    """The condition number: the norm `p` of the matrix times that of its inverse."""
    x = matrix("cond", x, square=p not in (None, 2, -2))
    if p in (None, 2, -2):
        s = svdvals(x)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return norm(x, p, (-2, -1)) * norm(inv(x), p, (-2, -1))
