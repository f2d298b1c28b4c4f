"""The matrix factorisations as calls of LAPACK, for one matrix of a batch at a time.

Knows the routines NumPy calls, their arguments and workspaces, and that they keep matrices column
by column. Refuses to know whether a LAPACK is there (`transforms/assemble`) and where
(`runtime/lapack`). With NumPy's own routines, called as NumPy calls them, signs and orders that
mathematics leaves open are NumPy's. Where a routine reports failure the results are NaN.

Arguments and workspaces: Anderson et al., "LAPACK Users' Guide", 3rd edition, 1999.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import Buffer, Expr, apply, as_index, cast, index, select, static, var
from tilewright.loops import Alloc, Call, Let, Ref, Stmt, block, store
from tilewright.ops.elementwise import number
from tilewright.ops.nests import Cell, Cells, Matrix, choose, each_matrix, minus, over, plus
from tilewright.target import Lapack

BLOCK: Final = 64
"""Columns that blocked routines treat together, at most (ILAENV); workspaces allow for it."""

SERIAL: Final = 96 * 96
"""Elements of a matrix up to which libraries are expected not to divide their work."""

REFLECTORS: Final = 65 * 64
"""Elements that xORMQR and xORMLQ use besides (TSIZE)."""


Argument = str | int | Buffer | Matrix | Ref


class Caller:
    """Calls of a LAPACK on elements of one type.

    Fortran takes every argument by address, so letters and numbers stand in memory of their own,
    which `constants` declares and fills, once for a batch; `memory` is what a matrix of it needs.
    The lengths of the letters follow at the end, by value.
    """

    def __init__(self, lapack: Lapack, dtype: DType) -> None:
        self.lapack, self.dtype = lapack, dtype
        self.integer = dtypes.int64 if lapack.integer_bytes == 8 else dtypes.int32
        self.constants: list[Stmt] = []
        self._constants: dict[tuple[DType, float], Buffer] = {}
        self.info = Buffer("info", self.integer, (), "stack")
        self.memory: list[Stmt] = [Alloc(self.info)]

    def constant(self, value: float, dtype: DType) -> Buffer:
        """Memory that holds a number; equal ones share it."""
        key = dtype, value
        if key not in self._constants:
            held = self._constants[key] = Buffer("argument", dtype, (), "stack")
            self.constants += [Alloc(held), store(held, (), number(value, dtype))]
        return self._constants[key]

    def work(self, name: str, *shape: int, dtype: DType | None = None) -> Buffer:
        """Memory for the routines to work in."""
        found = Buffer(name, dtype or self.dtype, shape)
        self.memory.append(Alloc(found))
        return found

    def columns(self, name: str, rows: int, columns: int) -> Matrix:
        """Memory for a matrix as the routines keep it, each column in one piece."""
        return Matrix(self.work(name, columns, rows), flipped=True)

    def call(self, name: str, *args: Argument) -> Stmt:
        """Call the routine of this name and element type. A string is a letter, an int an
        integer."""
        lengths = [as_index(1) for a in args if isinstance(a, str)]
        kind = "s" if self.dtype == dtypes.float32 else "d"
        return Call(self.lapack.symbol(kind + name), (*map(self._ref, args), *lengths), "lapack")

    def space(
        self, size: int, routine: str, *args: Argument, after: Sequence[Argument] = ()
    ) -> list[Buffer]:
        """A workspace for a routine that is called with `args`, workspace, length, `after`, info:
        workspace, length and info.

        As in NumPy, the length is what the routine itself calls best, which decides how it is
        blocked, and so how it rounds; but at most `size`, which must be enough for it to work.
        """
        length, asked, status = (
            Buffer(name, self.integer, (), "stack") for name in ("length", "asked", "status")
        )
        answer = Buffer("answer", self.dtype, (), "stack")

        def unread(a: Argument) -> Argument:
            """An array that is not read: only its first element may be written."""
            held = a.buffer if isinstance(a, (Matrix, Ref)) else a
            if not isinstance(held, Buffer) or not held.shape:
                return a
            return asked if held.dtype == self.integer else answer

        query = (*map(unread, args), answer, length, *map(unread, after), status)
        best = cast(answer[()], dtypes.int64)
        best = select(best < as_index(size), best, as_index(size))
        call = self.call(routine, *query)
        self.constants += [
            *map(Alloc, (length, asked, status, answer)),
            store(length, (), number(-1, self.integer)),
            call,
            store(length, (), cast(best, self.integer)),
        ]
        return [self.work("space", size), length, self.info]

    def _ref(self, a: Argument) -> Ref:
        match a:
            case Ref():
                return a
            case Matrix():
                return Ref(a.buffer, as_index(0))
            case str():
                a = self.constant(ord(a), dtypes.uint8)
            case int():
                a = self.constant(a, self.integer)
        return Ref(a, as_index(0))

    @property
    def failed(self) -> Expr:
        """Whether the last routine that sets `info` reports that it did not succeed."""
        return apply("ne", self.info[()], number(0, self.integer))

    @property
    def nan(self) -> Expr:
        return number(math.nan, self.dtype)

    def each(self, buffer: Buffer, body: Callable[[tuple[Expr, ...]], Sequence[Stmt]]) -> Stmt:
        """`body` for every matrix of a batch, after all memory that it asks for. Matrices are
        dealt to threads if they are so small that the library uses none of its own."""
        m, n = (static(extent) for extent in buffer.shape[-2:])
        nest = each_matrix(buffer, body, self.memory, parallel=m * n <= SERIAL)
        return block(*self.constants, nest)


def _start(buffer: Buffer, lead: Sequence[Expr]) -> Ref:
    """Where the matrix at the given leading positions begins; its rows follow each other."""
    flat: Expr = as_index(0)
    for i, n in zip(lead, buffer.shape[:-2], strict=True):
        flat = plus(index("*", flat, as_index(n)), i)
    rows, columns = buffer.shape[-2:]
    return Ref(buffer, index("*", flat, as_index(static(rows) * static(columns))))


def triangular_solve(
    lapack: Lapack, out: Buffer, a: Buffer, b: Buffer, upper: bool, flipped: bool, unit: bool
) -> Stmt:
    """xTRSM, or xTRSV for a single column, in place and without moving a.

    Row by row, a and b are what the routines see as their transposes: a x = b is read as
    xᵀ aᵀ = bᵀ, with the other triangle of aᵀ.
    """
    caller = Caller(lapack, out.dtype)
    n, k = (static(extent) for extent in out.shape[-2:])
    triangle, diagonal = "L" if upper else "U", "U" if unit else "N"

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        X, B = Matrix(out, lead), Matrix(b, lead)
        A, x = _start(a, lead), _start(out, lead)
        if k == 1:
            turned = "N" if flipped else "T"
            solve = caller.call("trsv", triangle, turned, diagonal, n, A, n, x, 1)
        else:
            one, turned = caller.constant(1, out.dtype), "T" if flipped else "N"
            solve = caller.call("trsm", "R", triangle, turned, diagonal, k, n, one, A, n, x, k)
        return [X.fill(lambda i, j: B[i, j]), solve]

    return caller.each(out, body)


def cholesky(lapack: Lapack, out: Buffer, a: Buffer, upper: bool) -> Stmt:
    """xPOTRF."""
    caller, n = Caller(lapack, out.dtype), static(out.shape[-1])
    W = caller.columns("work", n, n)

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, L = Matrix(a, lead), Matrix(out, lead)

        def element(i: Expr, j: Expr) -> Expr:
            low, high = (i, j) if upper else (j, i)
            return select(apply("le", low, high), W[i, j], number(0, out.dtype))

        return [
            W.fill(lambda i, j: A[i, j]),
            caller.call("potrf", "U" if upper else "L", n, W, n, caller.info),
            choose(caller.failed, [L.fill(lambda i, j: caller.nan)], [L.fill(element)]),
        ]

    return caller.each(a, body)


def lu(lapack: Lapack, out: Buffer, pivots: Buffer, permutation: Buffer, a: Buffer) -> Stmt:
    """xGETRF, whose exchanges are then made on the row numbers."""
    caller = Caller(lapack, out.dtype)
    m, n = (static(extent) for extent in out.shape[-2:])
    W = caller.columns("work", m, n)
    exchanges = Cells(caller.work("exchanges", min(m, n), dtype=caller.integer))

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, M = Matrix(a, lead), Matrix(out, lead)
        rows, found = Cells(permutation, lead), Cells(pivots, lead)

        def exchange(j: Expr) -> list[Stmt]:
            with_, row = var("with", dtypes.int64), var("row", dtypes.int64)
            return [
                Let(with_, minus(cast(exchanges[j], dtypes.int64), 1)),
                found.set(j, with_),
                Let(row, rows[j]),
                rows.set(j, rows[with_]),
                rows.set(with_, row),
            ]

        return [
            W.fill(lambda i, j: A[i, j]),
            caller.call("getrf", m, n, W, m, exchanges.buffer, caller.info),
            M.fill(lambda i, j: W[i, j]),
            over(0, m, lambda i: [rows.set(i, plus(i, 0))]),
            over(0, min(m, n), exchange),
        ]

    return caller.each(a, body)


def qr(lapack: Lapack, q: Buffer, r: Buffer, a: Buffer) -> Stmt:
    """xGEQRF, then xORGQR on the reflectors it leaves below R."""
    caller = Caller(lapack, a.dtype)
    m, n = (static(extent) for extent in a.shape[-2:])
    k = min(m, n)
    W, tau = caller.columns("work", m, n), caller.work("tau", k)
    reflect, multiply = (m, n, W, m, tau), (m, k, k, W, m, tau)
    first = caller.space(BLOCK * n, "geqrf", *reflect)
    second = caller.space(BLOCK * k, "orgqr", *multiply)

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, Q, R = Matrix(a, lead), Matrix(q, lead), Matrix(r, lead)
        zero = number(0, a.dtype)
        return [
            W.fill(lambda i, j: A[i, j]),
            caller.call("geqrf", *reflect, *first),
            R.fill(lambda i, j: select(apply("le", i, j), W[i, j], zero)),
            caller.call("orgqr", *multiply, *second),
            Q.fill(lambda i, j: W[i, j]),
        ]

    return caller.each(a, body)


def eigh(lapack: Lapack, w: Buffer, v: Buffer | None, a: Buffer, upper: bool) -> Stmt:
    """xSYEVD; without `v` eigenvalues only."""
    caller, n = Caller(lapack, a.dtype), static(a.shape[-1])
    W, found = caller.columns("work", n, n), Cells(caller.work("values", n))
    size = 2 * n + 1 + BLOCK * n + (0 if v is None else 4 * n + 2 * n * n)
    integers = 1 if v is None else 3 + 5 * n
    matrix = ("N" if v is None else "V", "U" if upper else "L", n, W, n, found.buffer)
    numbers = caller.work("numbers", integers, dtype=caller.integer)
    space, length, info = caller.space(size, "syevd", *matrix, after=(numbers, integers))
    solve = caller.call("syevd", *matrix, space, length, numbers, integers, info)

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, values = Matrix(a, lead), Cells(w, lead)

        def results(value: Callable[[Expr], Expr], vector: Callable[[Expr, Expr], Expr]) -> Stmt:
            fill = [over(0, n, lambda i: [values.set(i, value(i))])]
            return block(*fill, *([] if v is None else [Matrix(v, lead).fill(vector)]))

        def read(i: Expr, j: Expr) -> Expr:
            low, high = (i, j) if upper else (j, i)
            return select(apply("le", low, high), A[i, j], A[j, i])

        return [
            *_if_finite(caller, n, n, read, [W.fill(lambda i, j: A[i, j]), solve]),
            choose(
                caller.failed,
                [results(lambda i: caller.nan, lambda i, j: caller.nan)],
                [results(lambda i: found[i], lambda i, j: W[i, j])],
            ),
        ]

    return caller.each(a, body)


def svd(lapack: Lapack, u: Buffer | None, s: Buffer, vt: Buffer | None, a: Buffer) -> Stmt:
    """xGESDD, reduced; without `u` and `vt` singular values only."""
    caller = Caller(lapack, a.dtype)
    m, n = (static(extent) for extent in a.shape[-2:])
    k = min(m, n)
    W, found = caller.columns("work", m, n), Cells(caller.work("values", k))
    full = u is not None
    U = caller.columns("left", *((m, k) if full else (1, 1)))
    V = caller.columns("right", *((k, n) if full else (1, 1)))
    size = (4 * k * k if full else 0) + 10 * k + BLOCK * (m + n) + REFLECTORS
    numbers = caller.work("numbers", 8 * k, dtype=caller.integer)
    matrix = ("S" if full else "N", m, n, W, m, found.buffer, U, m, V, k)
    space, length, info = caller.space(size, "gesdd", *matrix, after=(numbers,))
    solve = caller.call("gesdd", *matrix, space, length, numbers, info)

    def body(lead: tuple[Expr, ...]) -> list[Stmt]:
        A, values = Matrix(a, lead), Cells(s, lead)
        pairs = [(Matrix(b, lead), M) for b, M in ((u, U), (vt, V)) if b is not None]

        failed = [over(0, k, lambda i: [values.set(i, caller.nan)])]
        failed += [to.fill(lambda i, j: caller.nan) for to, _ in pairs]
        succeeded = [over(0, k, lambda i: [values.set(i, found[i])])]
        succeeded += [to.fill(lambda *at, of=of: of[at]) for to, of in pairs]
        copy = W.fill(lambda i, j: A[i, j])
        return [
            *_if_finite(caller, m, n, lambda i, j: A[i, j], [copy, solve]),
            choose(caller.failed, failed, succeeded),
        ]

    return caller.each(a, body)


def _if_finite(
    caller: Caller, rows: int, columns: int, read: Callable[[Expr, Expr], Expr], then: list[Stmt]
) -> list[Stmt]:
    """The statements, if all elements that are read are finite; iterations on others may never
    end. If one is not, it counts as failure."""
    poison, zero = Cell("poison", caller.dtype), number(0, caller.dtype)
    each = over(0, rows, lambda i: [over(0, columns, lambda j: [poison.add(read(i, j) * zero)])])
    failure = store(caller.info, (), number(1, caller.integer))
    finite = apply("eq", poison.value, zero)
    return [poison.memory, poison.set(0), each, choose(finite, then, [failure])]
