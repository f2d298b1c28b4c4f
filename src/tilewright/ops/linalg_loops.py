"""The algorithms of the matrix factorisations, as loop nests over one matrix of a batch at a time.

Knows substitution, Cholesky, elimination with partial pivoting, Householder QR and Jacobi's
methods for eigenvalues and singular values. Refuses to know derivatives (`linalg.py`). Algorithm
numbers are those of Golub and Van Loan, "Matrix Computations", 4th edition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from tilewright import dtypes
from tilewright.expr import Buffer, Expr, apply, as_index, eq, select, static, var
from tilewright.loops import Alloc, Let, Stmt, While, block, store
from tilewright.ops.elementwise import number
from tilewright.ops.nests import (
    Cell,
    Cells,
    Matrix,
    absolute,
    choose,
    each_matrix,
    is_nan,
    literal_like,
    over,
    plus,
    square_root,
    sum_over,
    when,
)

SWEEPS: Final = 40
"""Jacobi's methods converge quadratically, in 6 to 12 sweeps; this bounds hopeless cases."""


def triangular_solve(
    out: Buffer, a: Buffer, b: Buffer, upper: bool, flipped: bool, unit: bool
) -> Stmt:
    """Substitution, forward or backward (3.1.1, 3.1.2), for every column of b."""
    forward = upper == flipped
    n = out.shape[-2]

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, B, X = Matrix(a, lead, flipped), Matrix(b, lead), Matrix(out, lead)
        total = Cell("total", out.dtype)

        def element(i: Expr, c: Expr) -> list[Stmt]:
            low, high = (as_index(0), i) if forward else (plus(i, 1), as_index(n))
            steps = sum_over(low, high, total, lambda k: -(A[i, k] * X[k, c]), B[i, c])
            return [*steps, X.set(i, c, total.value if unit else total.value / A[i, i])]

        def row(i: Expr) -> list[Stmt]:
            return [over(0, X.columns, lambda c: element(i, c))]

        return [total.memory, over(0, n, row, down=not forward)]

    return each_matrix(out, body)


def cholesky(out: Buffer, a: Buffer, upper: bool) -> Stmt:
    """Row by row (Cholesky-Banachiewicz), of the transposed matrix if `upper`. A pivot that is zero
    or negative makes the whole matrix NaN."""
    n = out.shape[-1]

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, L = Matrix(a, lead, flipped=upper), Matrix(out, lead, flipped=upper)
        total, poison = Cell("total", out.dtype), Cell("poison", out.dtype)
        nan, zero = (literal_like(total.value, v) for v in (math.nan, 0))

        def left_of_diagonal(i: Expr, j: Expr) -> list[Stmt]:
            steps = sum_over(0, j, total, lambda k: -(L[i, k] * L[j, k]), A[i, j])
            return [*steps, L.set(i, j, total.value / L[j, j])]

        def row(i: Expr) -> list[Stmt]:
            pivot = sum_over(0, i, total, lambda k: -(L[i, k] * L[i, k]), A[i, i])
            return [
                over(0, i, lambda j: left_of_diagonal(i, j)),
                *pivot,
                when(apply("le", total.value, zero), poison.set(math.nan)),
                L.set(i, i, square_root(total.value)),
                over(plus(i, 1), n, lambda j: [L.set(i, j, 0)]),
            ]

        return [
            total.memory, poison.memory,
            poison.set(0),
            over(0, n, row),
            when(is_nan(poison.value), L.fill(lambda i, j: nan)),
        ]  # fmt: skip

    return each_matrix(out, body)


def lu(out: Buffer, pivots: Buffer, permutation: Buffer, a: Buffer) -> Stmt:
    """Right-looking elimination with partial pivoting (3.4.1)."""
    m, n = out.shape[-2:]

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, M = Matrix(a, lead), Matrix(out, lead)
        best, at = Cell("best", out.dtype), Cell("pivot")

        def swap_rows(j: Expr, c: Expr) -> list[Stmt]:
            kept = var("kept", out.dtype)
            return [Let(kept, M[j, c]), M.set(j, c, M[at.value, c]), M.set(at.value, c, kept)]

        def eliminate(j: Expr, i: Expr) -> list[Stmt]:
            factor = var("factor", out.dtype)
            pivot = M[j, j]
            quotient = M[i, j] / select(eq(pivot, 0), literal_like(pivot, 1), pivot)
            update = over(plus(j, 1), n, lambda c: [M.set(i, c, M[i, c] - factor * M[j, c])])
            return [Let(factor, quotient), M.set(i, j, factor), update]

        def step(j: Expr) -> list[Stmt]:
            def consider(i: Expr) -> list[Stmt]:
                larger = best.value < absolute(M[i, j])
                return [when(larger, best.set(absolute(M[i, j])), at.set(i))]

            row = var("row", dtypes.int64)
            return [
                best.set(absolute(M[j, j])),
                at.set(j),
                over(plus(j, 1), m, consider),
                over(0, n, lambda c: swap_rows(j, c)),
                Let(row, permutation[(*lead, j)]),
                store(permutation, (*lead, j), permutation[(*lead, at.value)]),
                store(permutation, (*lead, at.value), row),
                store(pivots, (*lead, j), at.value),
                over(plus(j, 1), m, lambda i: eliminate(j, i)),
            ]

        number_rows = over(0, m, lambda i: [store(permutation, (*lead, i), plus(i, 0))])
        copy = M.fill(lambda i, j: A[i, j])
        return [best.memory, at.memory, number_rows, copy, over(0, pivots.shape[-1], step)]

    return each_matrix(out, body)


def qr(q: Buffer, r: Buffer, a: Buffer) -> Stmt:
    """Householder's reflections (5.2.1), then their product applied to the identity.

    Signs as in LAPACK's xLARFG: the diagonal of R is opposite to the pivot, and a column that is
    already zero below it is left alone.
    """
    m, n = a.shape[-2:]
    k = r.shape[-2]
    work, taus = Buffer("work", a.dtype, (m, n)), Buffer("tau", a.dtype, (k,))
    total, beta, tau = (Cell(name, a.dtype) for name in ("total", "beta", "factor"))
    W = Matrix(work)

    def reflector(j: Expr) -> list[Stmt]:
        """Replace column j below the diagonal by the vector v of I - tau v vᵀ (v_j = 1)."""
        one = literal_like(beta.value, 1)
        pivot = W[j, j]
        norm = square_root(pivot * pivot + total.value)
        signed = select(pivot < 0, norm, -norm)
        shrink = var("shrink", a.dtype)
        reflect = [
            beta.set(signed),
            tau.set((beta.value - pivot) / beta.value),
            Let(shrink, one / (pivot - beta.value)),
            over(plus(j, 1), m, lambda i: [W.set(i, j, W[i, j] * shrink)]),
            W.set(j, j, beta.value),
        ]
        return [
            *sum_over(plus(j, 1), m, total, lambda i: W[i, j] * W[i, j]),
            choose(eq(total.value, 0), [tau.set(0)], reflect),
            store(taus, (j,), tau.value),
        ]

    def reflect_column(target: Matrix, j: Expr, c: Expr) -> list[Stmt]:
        scaled = var("scaled", a.dtype)
        return [
            *sum_over(plus(j, 1), m, total, lambda i: W[i, j] * target[i, c], target[j, c]),
            Let(scaled, total.value * taus[j]),
            target.set(j, c, target[j, c] - scaled),
            over(plus(j, 1), m, lambda i: [target.set(i, c, target[i, c] - W[i, j] * scaled)]),
        ]

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, Q, R = Matrix(a, lead), Matrix(q, lead), Matrix(r, lead)
        zero, one = literal_like(total.value, 0), literal_like(total.value, 1)

        def triangularise(j: Expr) -> list[Stmt]:
            return [*reflector(j), over(plus(j, 1), n, lambda c: reflect_column(W, j, c))]

        return [
            total.memory, beta.memory, tau.memory,
            W.fill(lambda i, j: A[i, j]),
            over(0, k, triangularise),
            R.fill(lambda i, j: select(apply("le", i, j), W[i, j], zero)),
            Q.fill(lambda i, j: select(apply("eq", i, j), one, zero)),
            over(0, k, lambda j: [over(0, k, lambda c: reflect_column(Q, j, c))], down=True),
        ]  # fmt: skip

    return each_matrix(a, body, (Alloc(work), Alloc(taus)))


# -- Jacobi ------------------------------------------------------------------------------------


class Rotation:
    """Jacobi's rotation: cosine and sine of the angle that makes two numbers' coupling zero."""

    def __init__(self, like: Buffer) -> None:
        self.cosine, self.sine = Cell("cosine", like.dtype), Cell("sine", like.dtype)
        self.memory = [self.cosine.memory, self.sine.memory]

    def annihilate(self, first: Expr, second: Expr, coupling: Expr) -> list[Stmt]:
        """The rotation for [[first, coupling], [coupling, second]], coupling != 0 (8.5.1)."""
        theta, tangent = var("theta", coupling.type), var("tangent", coupling.type)
        one = literal_like(theta, 1)
        size = one / (absolute(theta) + square_root(one + theta * theta))
        return [
            Let(theta, (second - first) / (coupling + coupling)),
            Let(tangent, select(theta < 0, -size, size)),
            self.cosine.set(one / square_root(one + tangent * tangent)),
            self.sine.set(tangent * self.cosine.value),
        ]

    def columns(self, target: Matrix, p: Expr, q: Expr) -> Stmt:
        """Rotate columns p and q."""
        c, s = self.cosine.value, self.sine.value

        def row(i: Expr) -> list[Stmt]:
            x, y = var("x", c.type), var("y", c.type)
            both = [target.set(i, p, c * x - s * y), target.set(i, q, s * x + c * y)]
            return [Let(x, target[i, p]), Let(y, target[i, q]), *both]

        return over(0, target.rows, row)


Pair = Callable[[Expr, Expr], Sequence[Stmt]]


def _sweeps(n: int, pair: Pair, changed: Cell, sweep: Cell) -> list[Stmt]:
    """Visit all pairs p < q again and again until a whole sweep changed nothing."""
    go_on = apply("lt", as_index(0), changed.value) & apply("lt", sweep.value, as_index(SWEEPS))
    every = over(0, n, lambda p: [over(plus(p, 1), n, lambda q: pair(p, q))])
    turn = block(changed.set(0), sweep.set(plus(sweep.value, 1)), every)
    return [changed.set(1), sweep.set(0), While(go_on, turn)]


def _sort_columns(values: Cells, first: str, companions: Sequence[Matrix]) -> Stmt:
    """Selection sort of `values`, smallest or largest `first`; columns are swapped along."""

    def swap(i: Expr, j: Expr) -> list[Stmt]:
        kept = var("kept", values.buffer.dtype)
        steps: list[Stmt] = [Let(kept, values[i]), values.set(i, values[j]), values.set(j, kept)]
        return [*steps, *(_swap_columns(m, i, j) for m in companions)]

    def consider(i: Expr, j: Expr) -> list[Stmt]:
        a, b = (values[j], values[i]) if first == "smallest" else (values[i], values[j])
        return [when(a < b, *swap(i, j))]

    n = values.buffer.shape[-1]
    return over(0, n, lambda i: [over(plus(i, 1), n, lambda j: consider(i, j))])


def _swap_columns(m: Matrix, i: Expr, j: Expr) -> Stmt:
    def row(r: Expr) -> list[Stmt]:
        kept = var("kept", m.buffer.dtype)
        return [Let(kept, m[r, i]), m.set(r, i, m[r, j]), m.set(r, j, kept)]

    return over(0, m.rows, row)


def eigh(w: Buffer, v: Buffer, a: Buffer, upper: bool) -> Stmt:
    """Cyclic Jacobi (8.5.3) on the symmetric matrix of which a's lower or upper triangle is read.
    Elements below an eighth of the precision of the matrix's norm count as zero."""
    n = static(a.shape[-1])
    work = Buffer("work", a.dtype, (n, n))
    W, rotation = Matrix(work), Rotation(a)
    total, poison = Cell("total", a.dtype), Cell("poison", a.dtype)
    changed, sweep = Cell("changed"), Cell("sweep")
    small = literal_like(total.value, float(np.finfo(a.dtype).eps) / 8)

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, V, values = Matrix(a, lead, flipped=upper), Matrix(v, lead), Cells(w, lead)

        def pair(p: Expr, q: Expr) -> list[Stmt]:
            turn = [
                *rotation.annihilate(W[p, p], W[q, q], W[p, q]),
                rotation.columns(W, p, q),
                rotation.columns(W.flip, p, q),
                rotation.columns(V, p, q),
                W.set(p, q, 0),
                W.set(q, p, 0),
                changed.set(1),
            ]
            return [when(small * total.value < absolute(W[p, q]), *turn)]

        def row_norm(i: Expr) -> list[Stmt]:
            return [over(0, n, lambda j: [total.add(W[i, j] * W[i, j])])]

        return [
            total.memory, poison.memory, changed.memory, sweep.memory,
            *rotation.memory,
            W.fill(lambda i, j: select(apply("le", j, i), A[i, j], A[j, i])),
            _identity(V),
            *_not_finite(W, poison),
            total.set(0),
            over(0, n, row_norm),
            total.set(square_root(total.value)),
            *_sweeps(n, pair, changed, sweep),
            over(0, n, lambda i: [values.set(i, W[i, i] + poison.value)]),
            V.fill(lambda i, j: V[i, j] + poison.value),
            _sort_columns(values, "smallest", [V]),
        ]  # fmt: skip

    return each_matrix(a, body, (Alloc(work),))


def svd(u: Buffer, s: Buffer, vt: Buffer, a: Buffer) -> Stmt:
    """One-sided Jacobi (8.6.3, Hestenes): rotate columns of the tall matrix until they are
    orthogonal; their lengths are the singular values. A wide matrix is transposed."""
    tall = static(a.shape[-2]) >= static(a.shape[-1])
    rotation, total, poison = Rotation(a), Cell("total", a.dtype), Cell("poison", a.dtype)
    first, second = Cell("first", a.dtype), Cell("second", a.dtype)
    changed, sweep, found = Cell("changed"), Cell("sweep"), Cell("found")
    cells = (total, poison, first, second, changed, sweep, found)

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, values = Matrix(a, lead, flipped=not tall), Cells(s, lead)
        pair_of = Matrix(u, lead), Matrix(vt, lead).flip
        L, R = pair_of if tall else pair_of[::-1]
        m, k = static(L.rows), static(L.columns)
        tolerance = float(np.finfo(a.dtype).eps) * math.sqrt(max(m, 1))

        def pair(p: Expr, q: Expr) -> list[Stmt]:
            coupling = var("coupling", a.dtype)
            turn = [
                *rotation.annihilate(first.value, second.value, coupling),
                rotation.columns(L, p, q),
                rotation.columns(R, p, q),
                changed.set(1),
            ]
            bound = square_root(first.value) * square_root(second.value)
            return [
                *sum_over(0, m, first, lambda i: L[i, p] * L[i, p]),
                *sum_over(0, m, second, lambda i: L[i, q] * L[i, q]),
                *sum_over(0, m, total, lambda i: L[i, p] * L[i, q]),
                Let(coupling, total.value),
                when(literal_like(coupling, tolerance) * bound < absolute(coupling), *turn),
            ]

        def length(j: Expr) -> list[Stmt]:
            steps = sum_over(0, m, total, lambda i: L[i, j] * L[i, j])
            return [*steps, values.set(j, square_root(total.value))]

        def normalise(j: Expr) -> list[Stmt]:
            divide = over(0, m, lambda i: [L.set(i, j, L[i, j] / values[j])])
            return [choose(eq(values[j], 0), _complete(L, j, total, found), [divide])]

        return [
            *(c.memory for c in cells),
            *rotation.memory,
            L.fill(lambda i, j: A[i, j]),
            _identity(R),
            *_not_finite(L, poison),
            *_sweeps(k, pair, changed, sweep),
            over(0, k, length),
            _sort_columns(values, "largest", [L, R]),
            over(0, k, normalise),
            over(0, k, lambda j: [values.set(j, values[j] + poison.value)]),
            L.fill(lambda i, j: L[i, j] + poison.value),
            R.fill(lambda i, j: R[i, j] + poison.value),
        ]

    return each_matrix(a, body)


def _complete(L: Matrix, j: Expr, total: Cell, found: Cell) -> list[Stmt]:
    """Make column j a unit vector orthogonal to those before it.

    Of the unit vectors e_i one has a part outside the span of fewer than m columns whose square is
    at least 1/m; it is orthogonalised twice (Gram-Schmidt, 5.2.8).
    """
    m = static(L.rows)
    one, zero = literal_like(total.value, 1), literal_like(total.value, 0)

    def project(c: Expr) -> list[Stmt]:
        subtract = over(0, m, lambda r: [L.set(r, j, L[r, j] - total.value * L[r, c])])
        return [*sum_over(0, m, total, lambda r: L[r, c] * L[r, j]), subtract]

    def attempt(i: Expr) -> list[Stmt]:
        scale = var("scale", total.buffer.dtype)
        accept = [
            Let(scale, one / square_root(total.value)),
            over(0, m, lambda r: [L.set(r, j, L[r, j] * scale)]),
            found.set(1),
        ]
        steps = [
            over(0, m, lambda r: [L.set(r, j, select(apply("eq", r, i), one, zero))]),
            over(0, j, project),
            over(0, j, project),
            *sum_over(0, m, total, lambda r: L[r, j] * L[r, j]),
            when(literal_like(one, 0.5 / max(m, 1)) < total.value, *accept),
        ]
        return [when(apply("eq", found.value, as_index(0)), *steps)]

    return [found.set(0), over(0, m, attempt)]


def _identity(m: Matrix) -> Stmt:
    one, zero = (number(v, m.buffer.dtype) for v in (1, 0))
    return m.fill(lambda i, j: select(apply("eq", i, j), one, zero))


def _not_finite(m: Matrix, poison: Cell) -> list[Stmt]:
    """poison = 0 if every element is finite, NaN otherwise."""
    zero = literal_like(poison.value, 0)
    row = lambda i: [over(0, m.columns, lambda j: [poison.add(m[i, j] * zero)])]
    return [poison.set(0), over(0, m.rows, row)]
