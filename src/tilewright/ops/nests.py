"""Building blocks of hand-written loop nests, for ops that are not pointwise.

Knows loops between computed bounds, variables that change, and matrices inside batches. Refuses to
know what the nests compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import Axis, Buffer, Expr, Lit, apply, as_index, axis, index, select
from tilewright.loops import Alloc, Block, If, Stmt, block, loop, store
from tilewright.ops.elementwise import number

Position = Expr | int


def nested(axes: Sequence[Axis], body: Stmt) -> Stmt:
    """`body` inside serial loops over `axes`, the first outermost."""
    for a in reversed(axes):
        body = loop(a, body)
    return body


def plus(a: Position, b: Position) -> Expr:
    """a + b as positions."""
    return index("+", as_index(a), as_index(b))


def minus(a: Position, b: Position) -> Expr:
    """a - b as positions."""
    return index("+", as_index(a), index("*", as_index(b), as_index(-1)))


def over(
    low: Position, high: Position, body: Callable[[Expr], Sequence[Stmt]], down: bool = False
) -> Stmt:
    """`body(i)` for i in range(low, high), from the end if `down`; low <= high."""
    extent = minus(high, low)
    k = axis("k", int(extent.value) if isinstance(extent, Lit) else extent)
    return loop(k, *body(minus(minus(high, 1), k) if down else plus(low, k)))


def vectors(n: int, lanes: int, body: Callable[[Expr, Axis], Sequence[Stmt]]) -> list[Stmt]:
    """`body(i, lane)` for i in range(n), `lanes` (a power of two) at a time: i is base + lane."""
    full, tail = divmod(n, lanes)
    out: list[Stmt] = []
    if full:
        chunk, lane = axis("v", full), axis("l", lanes)
        at = plus(index("*", chunk, as_index(lanes)), lane)
        out.append(loop(chunk, loop(lane, *body(at, lane), kind="vector", lanes=lanes)))
    if tail:
        lane = axis("l", tail)
        width = 1 << (tail - 1).bit_length()
        rest = loop(lane, *body(plus(n - tail, lane), lane), kind="vector", lanes=width)
        out.append(rest)
    return out


def when(condition: Expr, *then: Stmt) -> Stmt:
    """The statements, if the condition holds."""
    return If(condition, block(*then), block())


def choose(condition: Expr, then: Sequence[Stmt], otherwise: Sequence[Stmt]) -> Stmt:
    """One of two lists of statements."""
    return If(condition, block(*then), block(*otherwise))


class Cell:
    """A variable that changes: one element in a register. `memory` declares it."""

    def __init__(self, name: str, dtype: DType = dtypes.int64) -> None:
        self.buffer = Buffer(name, dtype, (), "registers")
        self.memory: Stmt = Alloc(self.buffer)

    @property
    def value(self) -> Expr:
        return self.buffer[()]

    def set(self, value: Expr | float) -> Stmt:
        value = value if isinstance(value, Expr) else number(value, self.buffer.dtype)
        return store(self.buffer, (), value)

    def add(self, value: Expr) -> Stmt:
        return self.set(apply("add", self.value, value))


class Cells:
    """One row of a batch: the last axis of a buffer at given leading positions."""

    def __init__(self, buffer: Buffer, lead: Sequence[Expr] = ()) -> None:
        self.buffer, self.lead = buffer, tuple(lead)

    def __getitem__(self, i: Position) -> Expr:
        return self.buffer[(*self.lead, as_index(i))]

    def set(self, i: Position, value: Expr) -> Stmt:
        return store(self.buffer, (*self.lead, as_index(i)), value)


class Matrix:
    """One matrix of a batch: the last two axes of a buffer at given leading positions."""

    def __init__(self, buffer: Buffer, lead: Sequence[Expr] = (), flipped: bool = False) -> None:
        self.buffer, self.lead, self.flipped = buffer, tuple(lead), flipped
        rows, columns = buffer.shape[-2:]
        self.rows, self.columns = (columns, rows) if flipped else (rows, columns)

    @property
    def flip(self) -> Matrix:
        """The transposed matrix, in the same memory."""
        return Matrix(self.buffer, self.lead, not self.flipped)

    def _at(self, place: tuple[Position, Position]) -> tuple[Expr, ...]:
        i, j = (as_index(p) for p in place)
        return (*self.lead, j, i) if self.flipped else (*self.lead, i, j)

    def __getitem__(self, place: tuple[Position, Position]) -> Expr:
        return self.buffer[self._at(place)]

    def set(self, i: Position, j: Position, value: Expr | float) -> Stmt:
        value = value if isinstance(value, Expr) else number(value, self.buffer.dtype)
        return store(self.buffer, self._at((i, j)), value)

    def fill(self, value: Callable[[Expr, Expr], Expr]) -> Stmt:
        """Set every element."""
        return over(
            0, self.rows, lambda i: [over(0, self.columns, lambda j: [self.set(i, j, value(i, j))])]
        )


STACK_BYTES: Final = 1 << 20
"""Memory of one round of a parallel loop, which each thread has on its stack."""


def each(a: Axis, memory: Sequence[Stmt], *body: Stmt, first: Sequence[Stmt] = ()) -> Stmt:
    """`body` for every position on the axis, in memory whose contents do not outlast a round but
    for what the statements `first` write. In parallel, if the memory is small enough for every
    round to have its own."""
    buffers = [s.buffer for s in memory if isinstance(s, Alloc)]
    if a.extent == 1 or sum(b.nbytes for b in buffers) > STACK_BYTES:
        return block(*memory, *first, loop(a, *body))
    for b in buffers:
        b.scope = "stack" if b.scope == "temp" else b.scope
    return loop(a, Block((*memory, *first, *body)), kind="parallel")


def each_matrix(
    buffer: Buffer,
    body: Callable[[tuple[Axis, ...]], Sequence[Stmt]],
    memory: Sequence[Stmt] = (),
    parallel: bool = True,
) -> Stmt:
    """`body` for every position of the leading axes of `buffer`, in a scope of its own and in
    memory whose contents do not outlast it; in `parallel`, if that is small enough."""
    lead = tuple(axis("b", n) for n in buffer.shape[:-2])
    inside = nested(lead[1:], Block(tuple(body(lead))))
    if not lead:
        return block(*memory, inside)
    return each(lead[0], memory, inside) if parallel else block(*memory, loop(lead[0], inside))


def sum_over(
    low: Position,
    high: Position,
    total: Cell,
    term: Callable[[Expr], Expr],
    start: Expr | float = 0,
) -> list[Stmt]:
    """total = start + the sum of term(i) for i in range(low, high)."""
    return [total.set(start), over(low, high, lambda i: [total.add(term(i))])]


def absolute(x: Expr) -> Expr:
    return apply("abs", x)


def square_root(x: Expr) -> Expr:
    return apply("sqrt", x)


def is_nan(x: Expr) -> Expr:
    return apply("ne", x, x)


def extreme(kind: str, a: Expr, b: Expr) -> Expr:
    """The larger (`max`) or smaller of two elements; NaN if either is."""
    wins = apply("lt", b, a) if kind == "max" else apply("lt", a, b)
    if dtypes.is_float(a.type):
        wins = wins | is_nan(a)
    return select(wins, a, b)


def literal_like(x: Expr, value: Any) -> Expr:
    """A number of x's type."""
    return number(value, x.type)
