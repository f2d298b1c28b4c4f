"""Matrices: tiles of sums that are multiplied a small matrix at a time.

Knows how a tile is cut into pieces of two by two sums, matrices of at most `side` rows and columns,
and how the words that fill up the last ones are read. Refuses to know who multiplies: the loops of
a product are marked (`matrix`), and a printer may run all three as one instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tilewright import dtypes
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Load,
    Reduce,
    as_index,
    axis,
    depends,
    literal,
    static,
    substitute,
    walk,
)
from tilewright.loops import Accumulate, Alloc, Stmt, Store, block, loop
from tilewright.transforms.index_rules import simplify
from tilewright.transforms.tensorize import contiguous, is_word, neighbours

PIECE = 2
"""Matrices of sums in a piece, down and across: each that is read is multiplied twice."""


@dataclass(frozen=True)
class Product:
    """A sum that matrices are multiplied for: what it reads by rows and by columns."""

    reduction: Reduce
    by_rows: Expr
    by_columns: Expr

    @property
    def last(self) -> Axis:
        return self.reduction.axes[-1]


def found(r: Reduce, rows: Axis, vector: Axis, columns: Axis | None, side: int) -> Product | None:
    """The product that a sum of a tile is, whose rows are `rows`, and whose columns `vector` in
    each of `columns`; None if it is none, or cannot be read by matrices."""
    if r.kind != "sum" or not isinstance(r.body, Apply) or len(r.body.args) != 2:
        return None
    wide = [e for e in r.body.args if depends(e, (vector,))]
    single = [e for e in r.body.args if depends(e, (rows,))]
    if len(wide) != 1 or len(single) != 1 or wide[0] is single[0]:
        return None
    (a,), (b,), last = single, wide, r.axes[-1]
    if columns is not None and depends(a, (columns,)):
        return None
    whole = static(last.extent) % side == 0 and r.type.itemsize == dtypes.uint32.itemsize
    plain = all(e.type == dtypes.uint32 for e in (a, b)) and isinstance(b, Load)
    read = contiguous(b, vector) and contiguous(opened(a), last) if plain else False
    if not whole or not read or (is_word(a) and not neighbours(opened(a))):
        return None
    if isinstance(b, Load) and b.guard is not None:
        return None
    return Product(r, a, b)


def opened(e: Expr) -> Expr:
    """What is read without its guards."""
    loads = [x for x in walk(e) if isinstance(x, Load) and x.guard is not None]
    (plain,) = substitute([e], {x: Load(x.buffer, x.index, None) for x in loads})
    return plain


def stretches(count: int, most: int) -> list[tuple[int, int, int]]:
    """(start, rounds, length): so many points in stretches of `most`, then what is left."""
    rounds, rest = divmod(count, most)
    cuts = [(0, rounds, most)] if rounds else []
    return [*cuts, (rounds * most, 1, rest)] if rest else cuts


def multiplied(
    p: Product, rows: Axis, vector: Axis, columns: Axis | None, side: int
) -> tuple[list[Stmt], Expr]:
    """Statements that compute a piece's sums into memory, and the load of one of them."""
    r, high = p.reduction, static(rows.extent)
    across = 1 if columns is None else static(columns.extent)
    acc = Buffer("acc", r.type, (-(-high // side), across, side, side), "matrices")
    sums = Buffer("tile", r.type, (high, across * side), "stack")

    def each() -> Iterator[tuple[int, int, Axis, Axis, tuple[Expr, ...]]]:
        for a in range(-(-high // side)):
            for b in range(across):
                u = axis(f"{rows.name}.r", min(side, high - a * side))
                v = axis(vector.name, vector.extent)
                yield a, b, u, v, (as_index(a), as_index(b), u, v)

    def over(u: Axis, v: Axis, s: Stmt, t: Axis | None = None) -> Stmt:
        inner = loop(v, s, kind="vector", lanes=side)
        return loop(u, inner if t is None else loop(t, inner, kind="matrix"), kind="matrix")

    def added(value: Expr, start: Expr) -> list[Stmt]:
        """The products of one square of words."""
        out: list[Stmt] = []
        for a, b, u, v, place in each():
            t = axis(p.last.name, side)
            env: dict[Expr, Expr] = {p.last: start + t, rows: u + a * side, vector: v}
            if columns is not None:
                env[columns] = as_index(b)
            (x,) = simplify(substitute([value], env))
            out.append(over(u, v, Accumulate(acc, place, "sum", x), t))
        return out

    squares, inner = static(p.last.extent) // side, list[Stmt]()
    plain = opened(p.by_rows)
    whole = squares if plain is p.by_rows else squares - 1
    if whole:
        (value,) = substitute([r.body], {p.by_rows: plain})
        o = axis(f"{p.last.name}.o", whole)
        first = added(value, o * side if whole > 1 else as_index(0))
        inner.append(loop(o, *first) if whole > 1 else block(*first))
    if whole < squares:  # words that are filled up, copied side by side
        copy = Buffer("last", dtypes.uint32, (high, side), "stack")
        u, t = axis(rows.name, high), axis(p.last.name, side)
        (word,) = simplify(substitute([p.by_rows], {rows: u, p.last: t + whole * side}))
        fill = loop(u, loop(t, Store(copy, (u, t), word), kind="vector", lanes=side))
        (value,) = substitute([r.body], {p.by_rows: copy[rows, p.last - whole * side]})
        inner.append(block(Alloc(copy), fill, *added(value, as_index(whole * side))))
    for k in reversed(r.axes[:-1]):
        inner = [loop(k, *inner)]
    zero = literal(0, r.type)
    out: list[Stmt] = [Alloc(acc), *(over(u, v, Store(acc, at, zero)) for _, _, u, v, at in each())]
    out += [*inner, Alloc(sums)]
    for a, b, u, v, at in each():
        out.append(over(u, v, Store(sums, (u + a * side, v + b * side), Load(acc, at, None))))
    column: Expr = vector if columns is None else columns * side + vector
    return out, sums[rows, column]

