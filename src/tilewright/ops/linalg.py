"""Matrix factorisations and triangular solves, on batches of matrices (the last two axes).

Knows what each gives, and its derivative: Giles, "Collected matrix derivative results for forward
and reverse mode algorithmic differentiation" (2008), and Murray, "Differentiation of the Cholesky
decomposition" (2016). Refuses to know how they are found: by LAPACK (`linalg_calls.py`), or by
loops of our own where there is none (`linalg_loops.py`). float32 and float64.

Signs and orders that mathematics leaves open are LAPACK's, and so NumPy's; our own loops may choose
others. Where NumPy raises because a matrix has no factorisation, these give NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import Buffer, Extent, static
from tilewright.graph import Op, Type
from tilewright.loops import Alloc, Stmt, block
from tilewright.ops import elementwise as el
from tilewright.ops import linalg_calls, linalg_lanes, linalg_loops
from tilewright.ops.base import sizes
from tilewright.ops.contract import Dot
from tilewright.ops.indexing import positions, take_along
from tilewright.ops.samples import Example, numbers
from tilewright.ops.shape import Broadcast, Concatenate, Pad, ReduceSum, Slice, moved
from tilewright.target import Lapack

REAL = (dtypes.float32, dtypes.float64)

SMALL: Final = 12
"""Extent up to which loops of our own are faster than a call (docs/notes/lapack.md). They are used
where a result depends on no choice."""


# -- matrices as values ------------------------------------------------------------------------


def matmul(a: Any, b: Any) -> Any:
    """Product of matrices in the last two axes, leading axes paired."""
    lead = tuple(range(len(a.shape) - 2))
    n = len(lead)
    return Dot((n + 1,), (n,), lead, lead)(a, b)


def transposed(a: Any) -> Any:
    """The last two axes swapped."""
    return moved(a, len(a.shape) - 1, len(a.shape) - 2)


def row_and_column(a: Any) -> tuple[Any, Any]:
    """int64 arrays of a's shape: the row, and the column, of every element."""
    last = len(a.shape) - 1
    return positions(a, a.shape, last - 1), positions(a, a.shape, last)


def lower_part(a: Any, diagonal: float) -> Any:
    """Elements below the diagonal kept, those on it scaled by `diagonal`, others zero."""
    row, column = row_and_column(a)
    below = type(a).where(el.gt(row, column), a, a.zeros_like())
    return type(a).where(el.eq(row, column), a * diagonal, below) if diagonal else below


def upper_part(a: Any, diagonal: float) -> Any:
    """Elements above the diagonal kept, those on it scaled by `diagonal`, others zero."""
    return transposed(lower_part(transposed(a), diagonal))


def symmetric(a: Any, upper: bool) -> Any:
    """The symmetric matrix whose lower (or upper) triangle is a's."""
    a = transposed(a) if upper else a
    return lower_part(a, 1) + transposed(lower_part(a, 0))


def identity(like: Any, n: Extent) -> Any:
    """Identity matrices with `like`'s leading axes."""
    zeros = like.full_like(0, (*like.shape[:-2], n, n))
    row, column = row_and_column(zeros)
    return type(like).where(el.eq(row, column), zeros.full_like(1), zeros)


def diagonal(a: Any) -> Any:
    """The main diagonals of square matrices."""
    row, column = row_and_column(a)
    return ReduceSum((len(a.shape) - 1,))(type(a).where(el.eq(row, column), a, a.zeros_like()))


def columns_scaled(a: Any, s: Any) -> Any:
    """a times the diagonal matrix of s."""
    n = len(a.shape)
    return a * Broadcast(a.shape, (*range(n - 2), n - 1))(s)


def corner(a: Any, rows: Extent, columns: Extent) -> Any:
    """The upper left part of every matrix."""
    n = len(a.shape)
    return Slice((0,) * n, (*a.shape[:-2], rows, columns), (1,) * n)(a)


def padded(a: Any, rows: Extent, columns: Extent) -> Any:
    """a with zeros below and to the right, up to the given extents."""
    lead = (0,) * (len(a.shape) - 2)
    high = (*lead, rows - a.shape[-2], columns - a.shape[-1])
    return Pad((0,) * len(high), high, (0,) * len(high))(a, a.full_like(0, ()))


# -- what the ops share ------------------------------------------------------------------------


@dataclass(frozen=True)
class Factorisation(Op):
    """An op on one array of matrices: [..., rows, columns]."""

    fusion: ClassVar[str] = "opaque"
    unique: ClassVar[bool] = False
    """Whether a matrix has only one, up to rounding."""

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self(*args)

    def calls(self, lapack: Lapack, outs: Sequence[Buffer], *args: Buffer) -> Stmt | None:
        small = self.unique and max(map(static, args[0].shape[-2:])) <= SMALL
        return None if small or 0 in args[0].shape else self._calls(lapack, outs, args[0])

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        """`calls`, for matrices that have elements."""
        raise NotImplementedError

    def _matrix(self, x: Type, square: bool = False) -> tuple[tuple[Extent, ...], Extent, Extent]:
        if x.ndim < 2 or x.dtype not in REAL or (square and x.shape[-1] != x.shape[-2]):
            raise InternalError(f"{self.name} of {x!r}")
        return x.shape[:-2], x.shape[-2], x.shape[-1]

    def _each(self, x: Any, one: Callable[[Any], Any]) -> tuple[Any, ...]:
        """Apply `one` to every matrix; results are NaN where it raises or gets NaN."""
        types = self.type(Type(x.dtype, x.shape))
        types = types if isinstance(types, tuple) else (types,)
        outs = tuple(np.zeros(sizes(t.shape), t.dtype) for t in types)
        for at in np.ndindex(*x.shape[:-2]):
            try:
                results = one(x[at])
            except np.linalg.LinAlgError:
                results = [np.full(o[at].shape, np.nan).astype(o.dtype) for o in outs]
            for out, result in zip(outs, results, strict=True):
                out[at] = result
        return outs


def examples_of(
    op: Op, build: Callable[[Any], Any], shapes: Sequence[tuple[int, ...]]
) -> list[Example]:
    """`op` on matrices of the given shapes, made by `build` from ordinary numbers."""
    found = []
    for shape in shapes:
        x = build(numbers(dtypes.float64, shape))
        found += [Example((x,), op, True), Example((x.astype(np.float32),), op)]
    x = build(numbers(dtypes.float64, (2, *shapes[0])))
    return [*found, Example((np.asfortranarray(x[::-1]),), op, True)]


def positive(x: Any) -> Any:
    """A well conditioned positive definite matrix made from any square one."""
    return x @ np.swapaxes(x, -1, -2) / max(x.shape[-1], 1) + 2 * np.eye(x.shape[-1])


SQUARES = ((3, 3), (0, 0), (1, 1), (5, 5), (2, 3, 2, 2), (0, 2, 2))
RECTANGLES = (*SQUARES, (5, 3), (3, 5), (4, 1), (1, 4), (3, 0), (0, 3))


# -- solving -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TriangularSolve(Op):
    """x with a x = b (aᵀ x = b if `transpose_a`); a is [..., n, n] and b [..., n, k].

    Only a's lower (`upper`: upper) triangle is read, and its diagonal not if it is `unit`.
    """

    upper: bool = False
    transpose_a: bool = False
    unit: bool = False
    linear_in: ClassVar[tuple[int, ...]] = (1,)
    fusion: ClassVar[str] = "opaque"

    def type(self, a: Type, b: Type) -> Type:
        n = b.shape[-2]
        if a != b.with_shape((*b.shape[:-2], n, n)) or b.dtype not in REAL:
            raise InternalError(f"{self.name} of {a!r} and {b!r}")
        return b

    def numpy(self, a: Any, b: Any) -> Any:
        a = np.triu(a) if self.upper else np.tril(a)
        a = np.swapaxes(a, -1, -2) if self.transpose_a else a
        x, n = b.copy(), b.shape[-2]
        with np.errstate(all="ignore"):
            for i in range(n) if self.upper == self.transpose_a else reversed(range(n)):
                x[..., i, :] -= (a[..., i, None, :] @ np.where(_known(self, i, n), x, 0))[..., 0, :]
                if not self.unit:
                    x[..., i, :] /= a[..., i, i, None]
        return x

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        a, _ = args
        da, db = tangents
        if da is not None:
            part = upper_part if self.upper else lower_part
            da = part(da, 0 if self.unit else 1)
            change = matmul(transposed(da) if self.transpose_a else da, out)
            db = -change if db is None else db - change
        return self(a, db)

    def transpose(self, ct: Any, linear: frozenset[int], a: Any, b: Any) -> Sequence[Any]:
        return None, replace(self, transpose_a=not self.transpose_a)(a, ct)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self(
            *(x if b else x.broadcast_leading(size) for x, b in zip(args, batched, strict=True))
        )

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (a, b), (out,) = args, outs
        fits = linalg_lanes.fits(a, b)
        solve = linalg_lanes.triangular_solve if fits else linalg_loops.triangular_solve
        return solve(out, a, b, self.upper, self.transpose_a, self.unit)

    def calls(self, lapack: Lapack, outs: Sequence[Buffer], *args: Buffer) -> Stmt | None:
        (a, b), (out,) = args, outs
        if 0 in out.shape or static(out.shape[-2]) <= SMALL or linalg_lanes.fits(a, b):
            return None
        return linalg_calls.triangular_solve(
            lapack, out, a, b, self.upper, self.transpose_a, self.unit
        )

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for upper in (False, True):
            for flipped in (True, False):
                for unit in (True, False):
                    a, b = (
                        positive(numbers(dtypes.float64, (3, 3))),
                        numbers(dtypes.float64, (3, 2)),
                    )
                    op = cls(upper, flipped, unit)
                    f32 = Example((a.astype(np.float32), b.astype(np.float32)), op)
                    found += [Example((a, b), op, True), f32]
        op = cls()
        for lead, n, k in (((), 0, 2), ((), 1, 1), ((2,), 5, 0), ((2, 3), 2, 1), ((0,), 2, 2)):
            a = positive(numbers(dtypes.float64, (*lead, n, n)))
            found.append(Example((a, numbers(dtypes.float64, (*lead, n, k))), op, True))
        a = positive(numbers(dtypes.float64, (7, 7)))
        return [*found, Example((a[::-1, ::-1], numbers(dtypes.float64, (3, 7)).T), op, True)]


def _known(op: TriangularSolve, i: int, n: int) -> Any:
    """Rows already solved when row i is."""
    rows = np.arange(n)[:, None]
    return rows < i if op.upper == op.transpose_a else rows > i


@dataclass(frozen=True)
class Cholesky(Factorisation):
    """Lower triangular L with L Lᵀ = x, of which the lower triangle is read; with `upper`, upper
    triangular U with Uᵀ U = x, of which the upper one is.

    A matrix that is not positive definite gives NaN everywhere.
    """

    upper: bool = False
    unique: ClassVar[bool] = True

    def type(self, x: Type) -> Type:
        self._matrix(x, square=True)
        return x

    def numpy(self, x: Any) -> Any:
        return self._each(x, lambda a: (np.linalg.cholesky(a, upper=self.upper),))[0]

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """dL = L Φ(L⁻¹ dx L⁻ᵀ), Φ keeping the lower triangle and half the diagonal (Murray)."""
        dx = symmetric(tangents[0], self.upper)
        lower = transposed(out) if self.upper else out
        solve = TriangularSolve()
        inner = solve(lower, transposed(solve(lower, dx)))
        change = matmul(lower, lower_part(inner, 0.5))
        return transposed(change) if self.upper else change

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        return linalg_loops.cholesky(outs[0], args[0], self.upper)

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        return linalg_calls.cholesky(lapack, outs[0], a, self.upper)

    @classmethod
    def examples(cls) -> list[Example]:
        found = examples_of(cls(), positive, SQUARES) + examples_of(cls(True), positive, ((4, 4),))
        bad = np.stack([np.diag([1.0, -1.0, 2.0]), np.eye(3), np.full((3, 3), np.nan)])
        return [*found, Example((bad,), cls()), Example((np.zeros((2, 2)),), cls(True))]


@dataclass(frozen=True)
class LU(Factorisation):
    """LU with partial pivoting: (lu, pivots, permutation), x[permutation] = L U.

    lu: U on and above the diagonal, L (unit diagonal) below. pivots: int64 [..., min(m, n)], the
    row that row j was swapped with. permutation: int64 [..., m].
    """

    unique: ClassVar[bool] = True

    def type(self, x: Type) -> tuple[Type, ...]:
        lead, m, n = self._matrix(x)
        counts = x.with_dtype(dtypes.int64)
        return x, counts.with_shape((*lead, _smaller(m, n))), counts.with_shape((*lead, m))

    def numpy(self, x: Any) -> tuple[Any, ...]:
        return self._each(x, _lu)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """With L and U completed to squares and F = L⁻¹ dx U⁻¹: dL = L low(F), dU = up(F) U."""
        lu, _, permutation = out
        m, n = lu.shape[-2:]
        k = _smaller(m, n)
        rows = Broadcast(lu.shape, tuple(range(len(lu.shape) - 1)))(permutation)
        dx = take_along(tangents[0], rows, len(lu.shape) - 2)
        lower = padded(lower_part(corner(lu, m, k), 0), m, m) + identity(lu, m)
        tail = identity(lu, n)
        row, _ = row_and_column(tail)
        tail = type(lu).where(el.ge(row, row.full_like(k)), tail, tail.zeros_like())
        upper = padded(upper_part(corner(lu, k, n), 1), n, n) + tail
        inner = TriangularSolve(unit=True)(lower, dx)
        inner = transposed(TriangularSolve(upper=True, transpose_a=True)(upper, transposed(inner)))
        dlu = matmul(lower, lower_part(inner, 0)) + matmul(upper_part(inner, 1), upper)
        return dlu, None, None

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        lu, pivots, permutation = outs
        factorise = linalg_lanes.lu if linalg_lanes.fits(args[0]) else linalg_loops.lu
        return factorise(lu, pivots, permutation, args[0])

    def calls(self, lapack: Lapack, outs: Sequence[Buffer], *args: Buffer) -> Stmt | None:
        return None if linalg_lanes.fits(args[0]) else super().calls(lapack, outs, *args)

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        lu, pivots, permutation = outs
        return linalg_calls.lu(lapack, lu, pivots, permutation, a)

    @classmethod
    def examples(cls) -> list[Example]:
        found = examples_of(cls(), lambda x: x, RECTANGLES)
        return [*found, Example((np.ones((3, 3)),), cls())]


def _smaller(m: Extent, n: Extent) -> Extent:
    """The rank a matrix of these extents can have; static extents only."""
    if not (isinstance(m, int) and isinstance(n, int)):
        raise InternalError(f"factorisations need static extents, got {m} and {n}")
    return min(m, n)


def _lu(x: Any) -> tuple[Any, Any, Any]:
    """Right-looking elimination (Golub and Van Loan, algorithm 3.4.1) on one matrix."""
    a, (m, n) = x.copy(), x.shape
    pivots, permutation = np.arange(min(m, n)), np.arange(m)
    for j in range(min(m, n)):
        p = pivots[j] = j + int(np.argmax(np.abs(a[j:, j])))
        a[[j, p]], permutation[[j, p]] = a[[p, j]], permutation[[p, j]]
        if a[j, j] != 0:
            a[j + 1 :, j] /= a[j, j]
        a[j + 1 :, j + 1 :] -= np.outer(a[j + 1 :, j], a[j, j + 1 :])
    return a, pivots, permutation


@dataclass(frozen=True)
class QR(Factorisation):
    """Reduced QR: q [..., m, k] with orthonormal columns, r [..., k, n] upper triangular,
    k = min(m, n). Signs are LAPACK's (Householder)."""

    def type(self, x: Type) -> tuple[Type, ...]:
        lead, m, n = self._matrix(x)
        k = _smaller(m, n)
        return x.with_shape((*lead, m, k)), x.with_shape((*lead, k, n))

    def numpy(self, x: Any) -> tuple[Any, ...]:
        return self._each(x, np.linalg.qr)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """With W = Qᵀ dx R⁻¹: dR = (W - Ω) R, dQ = dx R⁻¹ - Q (W - Ω), Ω = low(W) - low(W)ᵀ.

        The columns beyond a square part follow from R = Qᵀ x.
        """
        (x,), (dx,), (q, r) = args, tangents, out
        m, n = x.shape[-2:]
        k = q.shape[-1]
        square = corner(r, k, k)
        dx_square = corner(dx, m, k)
        solved = TriangularSolve(upper=True, transpose_a=True)(square, transposed(dx_square))
        scaled = transposed(solved)
        inner = matmul(transposed(q), scaled)
        low = lower_part(inner, 0)
        rest = inner - (low - transposed(low))
        dq = scaled - matmul(q, rest)
        dr = matmul(rest, square)
        if k == n:
            return dq, dr
        far = matmul(transposed(dq), x) + matmul(transposed(q), dx)
        zeros = (0,) * (len(x.shape) - 1)
        tail = Slice((*zeros, k), far.shape, (1,) * len(x.shape))(far)
        return dq, Concatenate(len(x.shape) - 1)(dr, tail)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        q, r = outs
        return linalg_loops.qr(q, r, args[0])

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        q, r = outs
        return linalg_calls.qr(lapack, q, r, a)

    @classmethod
    def examples(cls) -> list[Example]:
        return examples_of(cls(), lambda x: x, RECTANGLES)


@dataclass(frozen=True)
class Eigh(Factorisation):
    """Eigenvalues (ascending) and eigenvectors (columns) of symmetric matrices: (w, v).

    Only the lower (`upper`: upper) triangle is read. Derivatives exist where eigenvalues are
    distinct.
    """

    upper: bool = False

    def type(self, x: Type) -> tuple[Type, ...]:
        lead, n, _ = self._matrix(x, square=True)
        return x.with_shape((*lead, n)), x

    def numpy(self, x: Any) -> tuple[Any, ...]:
        triangle = np.triu if self.upper else np.tril
        one = lambda a: np.linalg.eigh(_finite(triangle(a)), "U" if self.upper else "L")
        return self._each(x, one)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """dw = diag(vᵀ dx v), dv = v (F * vᵀ dx v), F_ij = 1 / (w_j - w_i) off the diagonal."""
        w, v = out
        inner = turned(symmetric(tangents[0], self.upper), v)
        return diagonal(inner), matmul(v, inner * inverse_gaps(w))

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        w, v = outs
        return linalg_loops.eigh(w, v, args[0], self.upper)

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        w, v = outs
        return linalg_calls.eigh(lapack, w, v, a, self.upper)

    @classmethod
    def examples(cls) -> list[Example]:
        found = examples_of(cls(), positive, SQUARES) + examples_of(cls(True), positive, ((4, 4),))
        diagonal = np.diag([3.0, -1.0, 2.0])
        bad = np.stack([np.eye(3), np.full((3, 3), np.nan), np.zeros((3, 3))])
        half = np.array([[1.0, np.nan], [0.5, 2.0]])
        return [*found, *(Example((a,), cls()) for a in (diagonal, bad, half))]


@dataclass(frozen=True)
class Eigvalsh(Factorisation):
    """The eigenvalues (ascending) of symmetric matrices, of which only the lower (`upper`: upper)
    triangle is read. Its derivative needs the eigenvectors too."""

    upper: bool = False

    def type(self, x: Type) -> Type:
        lead, n, _ = self._matrix(x, square=True)
        return x.with_shape((*lead, n))

    def numpy(self, x: Any) -> Any:
        triangle = np.triu if self.upper else np.tril
        one = lambda a: (np.linalg.eigvalsh(_finite(triangle(a)), "U" if self.upper else "L"),)
        return self._each(x, one)[0]

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        w, v = Eigh(self.upper)(*args)
        return w, diagonal(turned(symmetric(tangents[0], self.upper), v))

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        v = Buffer("v", args[0].dtype, args[0].shape)
        return block(Alloc(v), linalg_loops.eigh(outs[0], v, args[0], self.upper))

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        return linalg_calls.eigh(lapack, outs[0], None, a, self.upper)

    @classmethod
    def examples(cls) -> list[Example]:
        found = examples_of(cls(), positive, SQUARES) + examples_of(cls(True), positive, ((4, 4),))
        bad = np.stack([np.eye(3), np.full((3, 3), np.nan), np.zeros((3, 3))])
        return [*found, Example((bad,), cls())]


def turned(x: Any, v: Any) -> Any:
    """vᵀ x v."""
    return matmul(transposed(v), matmul(x, v))


def inverse_gaps(w: Any) -> Any:
    """F_ij = 1 / (w_j - w_i), and 0 on the diagonal."""
    lead = tuple(range(len(w.shape) - 1))
    n, shape = len(lead), (*w.shape, w.shape[-1])
    gaps = Broadcast(shape, (*lead, n + 1))(w) - Broadcast(shape, (*lead, n))(w)
    row, column = row_and_column(gaps)
    on_diagonal = el.eq(row, column)
    safe = type(w).where(on_diagonal, gaps.full_like(1), gaps)
    return type(w).where(on_diagonal, gaps.zeros_like(), 1 / safe)


@dataclass(frozen=True)
class SVD(Factorisation):
    """Reduced singular value decomposition (u, s, vt): x = u diag(s) vt, s descending.

    u: [..., m, k], s: [..., k], vt: [..., k, n], k = min(m, n). Derivatives exist where singular
    values are distinct and not zero.
    """

    def type(self, x: Type) -> tuple[Type, ...]:
        lead, m, n = self._matrix(x)
        k = _smaller(m, n)
        return x.with_shape((*lead, m, k)), x.with_shape((*lead, k)), x.with_shape((*lead, k, n))

    def numpy(self, x: Any) -> tuple[Any, ...]:
        return self._each(x, lambda a: np.linalg.svd(_finite(a), full_matrices=False))

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """Giles 2008, section 3.4, with the parts outside the column spaces of rectangular x."""
        (dx,), (u, s, vt) = tangents, out
        v = transposed(vt)
        inner = matmul(transposed(u), matmul(dx, v))
        gaps = inverse_gaps(s * s)
        right = columns_scaled(inner, s)
        left = transposed(columns_scaled(transposed(inner), s))
        du = matmul(u, gaps * (right + transposed(right)))
        dv = matmul(v, gaps * (left + transposed(left)))
        m, n = u.shape[-2], v.shape[-2]
        k = s.shape[-1]
        if k != m:
            du = du + _outside(u, columns_scaled(matmul(dx, v), 1 / s))
        if k != n:
            dv = dv + _outside(v, columns_scaled(matmul(transposed(dx), u), 1 / s))
        return du, diagonal(inner), transposed(dv)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        u, s, vt = outs
        return linalg_loops.svd(u, s, vt, args[0])

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        u, s, vt = outs
        return linalg_calls.svd(lapack, u, s, vt, a)

    @classmethod
    def examples(cls) -> list[Example]:
        found = examples_of(cls(), lambda x: x, RECTANGLES)
        deficient = np.outer([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, -1.0])
        bad = np.stack([np.eye(3), np.full((3, 3), np.nan), np.zeros((3, 3))])
        return [*found, *(Example((a,), cls()) for a in (deficient, deficient.T, bad))]


@dataclass(frozen=True)
class Svdvals(Factorisation):
    """The singular values (descending). Their derivative needs the singular vectors too."""

    def type(self, x: Type) -> Type:
        lead, m, n = self._matrix(x)
        return x.with_shape((*lead, _smaller(m, n)))

    def numpy(self, x: Any) -> Any:
        return self._each(x, lambda a: (np.linalg.svdvals(_finite(a)),))[0]

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        u, s, vt = SVD()(*args)
        return s, diagonal(matmul(transposed(u), matmul(tangents[0], transposed(vt))))

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (u, _, vt), a = SVD().type(Type(args[0].dtype, args[0].shape)), args[0]
        left, right = Buffer("u", a.dtype, u.shape), Buffer("vt", a.dtype, vt.shape)
        return block(Alloc(left), Alloc(right), linalg_loops.svd(left, outs[0], right, a))

    def _calls(self, lapack: Lapack, outs: Sequence[Buffer], a: Buffer) -> Stmt:
        return linalg_calls.svd(lapack, None, outs[0], None, a)

    @classmethod
    def examples(cls) -> list[Example]:
        found = examples_of(cls(), lambda x: x, RECTANGLES)
        bad = np.stack([np.eye(3), np.full((3, 3), np.nan), np.zeros((3, 3))])
        return [*found, Example((bad,), cls())]


def _outside(basis: Any, a: Any) -> Any:
    """The part of a's columns that is orthogonal to the basis's columns."""
    return a - matmul(basis, matmul(transposed(basis), a))


def _finite(a: Any) -> Any:
    """The matrix, which must be finite for LAPACK's iterations to end."""
    if not np.isfinite(a).all():
        raise np.linalg.LinAlgError("not finite")
    return a
