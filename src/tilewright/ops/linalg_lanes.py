"""LU factors and triangular systems of many small matrices at once, one matrix in each lane.

Knows elimination with partial pivoting that moves no rows, substitution, and how matrices get into
lanes and back: by square tiles that are turned in registers. Refuses to know derivatives
(`linalg.py`) and what is best for a single matrix (`linalg_loops.py`, `linalg_calls.py`).

Batches in such a layout: Dongarra et al., "Optimized batched linear algebra for modern
architectures", Euro-Par 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    apply,
    as_index,
    axis,
    cast,
    eq,
    index,
    select,
    static,
    var,
)
from tilewright.loops import Alloc, Flip, Let, Stmt, Store, loop, store
from tilewright.ops.elementwise import number
from tilewright.ops.nests import Position, absolute, each, is_nan, minus, over, plus, vectors

VECTOR_BYTES: Final = 64
"""Lanes are this wide; where registers are narrower, several make one."""

FEWEST: Final = 8
"""Elements of a matrix, or of its right sides, from which on lanes are worth it."""

MOST_BYTES: Final = 256 << 10
"""Of a matrix in all lanes: it stays in the second level cache."""


def fits(*batches: Buffer) -> bool:
    """Whether the matrices of these batches, which have one length, fill the lanes."""
    sizes = [math.prod(static(n) for n in b.shape[-2:]) for b in batches]
    inside = min(sizes) >= FEWEST and max(sizes) * VECTOR_BYTES <= MOST_BYTES
    return inside and _count(batches[0]) >= _lanes(batches[0].dtype)


def _count(batch: Buffer) -> int:
    return math.prod(static(n) for n in batch.shape[:-2])


def _lanes(dtype: DType) -> int:
    return VECTOR_BYTES // dtype.itemsize


def _lanewise(dtype: DType, body: Callable[[Axis], Sequence[Stmt]]) -> Stmt:
    """`body(lane)` in all lanes at once."""
    lane = axis("l", _lanes(dtype))
    return loop(lane, *body(lane), kind="vector", lanes=_lanes(dtype))


class Lanes:
    """`size` numbers in each lane; a single one is kept in a register."""

    def __init__(self, name: str, dtype: DType, size: int = 1) -> None:
        self.dtype, self.lanes = dtype, _lanes(dtype)
        scope = "registers" if size == 1 else "temp"
        self.buffer = Buffer(name, dtype, (size, self.lanes), scope)
        self.memory: Stmt = Alloc(self.buffer)

    def at(self, lane: Expr, place: Position = 0) -> Expr:
        """The number at a place, which may be another one in each lane."""
        return self.buffer[as_index(place), lane]

    def set(self, lane: Expr, value: Expr, place: Position = 0) -> Store:
        return store(self.buffer, (as_index(place), lane), value)


class Matrices(Lanes):
    """A matrix of a batch in each lane."""

    def __init__(self, batch: Buffer) -> None:
        self.rows, self.columns = (static(n) for n in batch.shape[-2:])
        self.size = self.rows * self.columns
        super().__init__(batch.name, batch.dtype, max(self.size, 2))
        self.behind = Buffer("behind", batch.dtype, (self.lanes, self.size))
        """The same matrices one behind the other."""

    def place(self, i: Position, j: Position) -> Expr:
        return plus(index("*", as_index(i), as_index(self.columns)), j)

    def read(self, batch: Buffer, first: Expr) -> Stmt:
        """Matrices `first`, `first` + 1, ... of the batch; the last one again in lanes over."""
        last = as_index(_count(batch) - 1)

        def element(u: Expr, e: Expr) -> Expr:
            matrix = index("min", plus(first, u), last)
            return batch[plus(index("*", matrix, as_index(self.size)), e)]

        if self.size < self.lanes:

            def copy(u: Expr, e: Expr) -> list[Stmt]:
                return [store(self.buffer, (e, u), element(u, e))]

            return over(0, self.lanes, lambda u: [over(0, self.size, lambda e: copy(u, e))])
        return self._turned(element, lambda e, u, x: store(self.buffer, (e, u), x), inwards=True)

    def write(
        self, batch: Buffer, first: Expr, row: Callable[[Expr, Expr], Expr] | None = None
    ) -> list[Stmt]:
        """Matrices `first`, `first` + 1, ... of the batch, as far as there are any. Row i of lane
        u's matrix becomes row `row(u, i)`, if that is given."""

        def copy(u: Expr, i: Expr) -> list[Stmt]:
            to = i if row is None else row(u, i)
            start = plus(index("*", plus(first, u), as_index(self.size)), self.place(to, 0))
            return vectors(self.columns, self.lanes, lambda j, _: [
                store(batch, (plus(start, j),), self.behind[u, plus(self.place(i, 0), j)])
            ])  # fmt: skip

        if self.size < self.lanes:

            def move(u: Expr, e: Expr) -> list[Stmt]:
                return [store(self.behind, (u, e), self.buffer[e, u])]

            turned = over(0, self.lanes, lambda u: [over(0, self.size, lambda e: move(u, e))])
        else:
            turned = self._turned(
                lambda e, u: self.buffer[e, u], lambda u, e, x: store(self.behind, (u, e), x), False
            )
        there = index("min", as_index(self.lanes), minus(_count(batch), first))
        return [turned, over(0, there, lambda u: [over(0, self.rows, lambda i: copy(u, i))])]

    def _turned(
        self,
        read: Callable[[Expr, Expr], Expr],
        write: Callable[[Expr, Expr, Expr], Stmt],
        inwards: bool,
    ) -> Stmt:
        """Copy elements by square tiles: read(a, b) is written by write(b, a, value), b being
        neighbours in memory where it is read, a where it is written. `inwards` a counts lanes and b
        elements; else the other way round."""
        q, a, b = (
            axis("q", -(-self.size // self.lanes)),
            axis("a", self.lanes),
            axis("b", self.lanes),
        )
        c, d = axis("c", self.lanes), axis("d", self.lanes)
        tile = Buffer("tile", self.dtype, (self.lanes, self.lanes), "registers")
        start = index("min", index("*", q, as_index(self.lanes)), as_index(self.size - self.lanes))
        value = read(a, plus(start, b)) if inwards else read(plus(start, a), b)
        kept = tile[c, d]
        back = write(plus(start, c), d, kept) if inwards else write(c, plus(start, d), kept)

        def in_lanes(lane: Axis, body: Stmt) -> Stmt:
            return loop(lane, body, kind="vector", lanes=self.lanes)

        return loop(
            q,
            Alloc(tile),
            loop(a, in_lanes(b, store(tile, (a, b), value)), kind="unroll"),
            Flip(tile),
            loop(c, in_lanes(d, back), kind="unroll"),
        )


class _Elimination:
    """LU with partial pivoting of a matrix in each lane.

    Rows stay where they are. `position` says where each would have been moved to; those whose
    position is below the step's have been pivots. The pivot is the largest element in size, the
    first by position; NaN counts as infinite.
    """

    def __init__(self, matrices: Matrices) -> None:
        self.matrices, self.dtype = matrices, matrices.dtype
        self.steps = min(matrices.rows, matrices.columns)
        self.counts = dtypes.int32 if self.dtype.itemsize == 4 else dtypes.int64
        self.position = Lanes("position", self.counts, max(matrices.rows, 2))
        self.pivots = Lanes("pivots", self.counts, max(self.steps, 2))
        self.row = Lanes("row", self.dtype, max(matrices.columns, 2))
        self.best, self.factor = Lanes("best", self.dtype), Lanes("factor", self.dtype)
        self.found, self.chosen = Lanes("found", self.counts), Lanes("chosen", self.counts)
        used = (self.position, self.pivots, self.row, self.best, self.factor, self.found)
        self.memory = [x.memory for x in (*used, self.chosen)]

    def all(self) -> list[Stmt]:
        def numbered(i: Expr) -> list[Stmt]:
            return [_lanewise(self.dtype, lambda l: [self.position.set(l, self.count(i), i)])]

        return [over(0, self.matrices.rows, numbered), over(0, self.steps, self.step)]

    def count(self, i: Position) -> Expr:
        return cast(plus(i, 0), self.counts)

    def step(self, j: Expr) -> list[Stmt]:
        m = self.matrices

        def begin(l: Axis) -> list[Stmt]:
            none = self.count(m.rows)
            return [self.best.set(l, number(-1, self.dtype)), self.found.set(l, none)]

        def end(l: Axis) -> list[Stmt]:
            return [self.pivots.set(l, self.found.at(l), j), self.chosen.set(l, self.count(0))]

        def gather(l: Axis, c: Expr) -> list[Stmt]:
            row = cast(self.chosen.at(l), dtypes.int64)
            return [self.row.set(l, m.at(l, m.place(row, c)), c)]

        return [
            _lanewise(self.dtype, begin),
            over(0, m.rows, lambda i: [_lanewise(self.dtype, lambda l: self.measure(l, i, j))]),
            over(0, m.rows, lambda i: [_lanewise(self.dtype, lambda l: self.find(l, i, j))]),
            _lanewise(self.dtype, end),
            over(0, m.rows, lambda i: [_lanewise(self.dtype, lambda l: self.exchange(l, i, j))]),
            over(j, m.columns, lambda c: [_lanewise(self.dtype, lambda l: gather(l, c))]),
            over(0, m.rows, lambda i: self.eliminate(i, j)),
        ]

    def size(self, l: Axis, i: Expr, j: Expr) -> Expr:
        """How much row i is worth as the pivot of step j: -1 if it has been one."""
        x, place = self.matrices.at(l, self.matrices.place(i, j)), self.position.at(l, i)
        size = select(is_nan(x), number(math.inf, self.dtype), absolute(x))
        return select(apply("le", self.count(j), place), size, number(-1, self.dtype))

    def measure(self, l: Axis, i: Expr, j: Expr) -> list[Stmt]:
        """The largest size so far. A round waits for one comparison of the round before."""
        size = var("size", self.dtype)
        larger = select(apply("lt", self.best.at(l), size), size, self.best.at(l))
        return [Let(size, self.size(l, i, j)), self.best.set(l, larger)]

    def find(self, l: Axis, i: Expr, j: Expr) -> list[Stmt]:
        """The first position with that size."""
        place, found = var("place", self.counts), self.found.at(l)
        wins = apply("eq", self.size(l, i, j), self.best.at(l)) & apply("lt", place, found)
        return [
            Let(place, self.position.at(l, i)), self.found.set(l, select(wins, place, found))
        ]  # fmt: skip

    def exchange(self, l: Axis, i: Expr, j: Expr) -> list[Stmt]:
        """Row i takes its position after step j; if it is the pivot, it is the chosen one."""
        place, hit = var("place", self.counts), var("hit", dtypes.bool_)
        found, now = self.found.at(l), self.count(j)
        moved = select(apply("eq", place, now), found, place)
        return [
            Let(place, self.position.at(l, i)),
            Let(hit, apply("eq", place, found)),
            self.chosen.set(l, select(hit, self.count(i), self.chosen.at(l))),
            self.position.set(l, select(hit, now, moved), i),
        ]

    def eliminate(self, i: Expr, j: Expr) -> list[Stmt]:
        """Row i loses its multiple of the pivot's row, if it has not been a pivot."""
        m = self.matrices

        def left(l: Axis) -> Expr:
            return apply("lt", self.count(j), self.position.at(l, i))

        def divide(l: Axis) -> list[Stmt]:
            pivot, x = self.row.at(l, j), m.at(l, m.place(i, j))
            divisor = select(eq(pivot, 0), number(1, self.dtype), pivot)
            return [
                self.factor.set(l, x / divisor),
                m.set(l, select(left(l), self.factor.at(l), x), m.place(i, j)),
            ]

        def update(l: Axis, c: Expr) -> list[Stmt]:
            x = m.at(l, m.place(i, c))
            less = x - self.factor.at(l) * self.row.at(l, c)
            return [m.set(l, select(left(l), less, x), m.place(i, c))]

        return [
            _lanewise(self.dtype, divide),
            over(plus(j, 1), m.columns, lambda c: [_lanewise(self.dtype, lambda l: update(l, c))]),
        ]


def lu(out: Buffer, pivots: Buffer, permutation: Buffer, a: Buffer) -> Stmt:
    """Right-looking elimination (Golub and Van Loan, algorithm 3.4.1) of a batch that `fits`."""
    m = Matrices(a)
    work = _Elimination(m)
    group = axis("g", -(-_count(a) // m.lanes))
    first = index("*", group, as_index(m.lanes))

    def position(u: Expr, i: Expr) -> Expr:
        return cast(work.position.at(u, i), dtypes.int64)

    def flat(u: Expr, extent: int, i: Expr) -> tuple[Expr, ...]:
        return (plus(index("*", plus(first, u), as_index(extent)), i),)

    def numbers(u: Expr) -> list[Stmt]:
        def found(j: Expr) -> Expr:
            return cast(work.pivots.at(u, j), dtypes.int64)

        return [
            over(0, m.rows, lambda i: [
                store(permutation, flat(u, m.rows, position(u, i)), plus(i, 0))]),
            over(0, work.steps, lambda j: [store(pivots, flat(u, work.steps, j), found(j))]),
        ]  # fmt: skip

    there = index("min", as_index(m.lanes), minus(_count(a), first))
    body = [m.read(a, first), *work.all(), *m.write(out, first, position), over(0, there, numbers)]
    return each(group, [m.memory, Alloc(m.behind), *work.memory], *body)


def triangular_solve(
    out: Buffer, a: Buffer, b: Buffer, upper: bool, flipped: bool, unit: bool
) -> Stmt:
    """Substitution (Golub and Van Loan, algorithms 3.1.1 and 3.1.2) in batches that `fits`."""
    A, X = Matrices(a), Matrices(b)
    total = Lanes("total", b.dtype)
    n, forward = X.rows, upper == flipped
    group = axis("g", -(-_count(b) // X.lanes))
    first = index("*", group, as_index(X.lanes))

    def element(i: Expr, c: Expr) -> list[Stmt]:
        low, high = (as_index(0), i) if forward else (plus(i, 1), as_index(n))

        def subtract(l: Axis, k: Expr) -> list[Stmt]:
            factor = A.at(l, A.place(k, i) if flipped else A.place(i, k))
            return [total.set(l, total.at(l) - factor * X.at(l, X.place(k, c)))]

        def finish(l: Axis) -> list[Stmt]:
            value = total.at(l) if unit else total.at(l) / A.at(l, A.place(i, i))
            return [X.set(l, value, X.place(i, c))]

        return [
            _lanewise(b.dtype, lambda l: [total.set(l, X.at(l, X.place(i, c)))]),
            over(low, high, lambda k: [_lanewise(b.dtype, lambda l: subtract(l, k))]),
            _lanewise(b.dtype, finish),
        ]

    solve = over(0, n, lambda i: [over(0, X.columns, lambda c: element(i, c))], down=not forward)
    memory = [A.memory, X.memory, Alloc(X.behind), total.memory]
    return each(group, memory, A.read(a, first), X.read(b, first), solve, *X.write(out, first))
