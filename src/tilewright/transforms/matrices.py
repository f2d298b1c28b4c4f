"""Matrices: tiles of sums that are multiplied a small matrix at a time.

Knows how a tile is cut into pieces of two by two sums, matrices of at most `side` rows and columns,
and how the words that fill up the last ones are read. Refuses to know who multiplies: the loops of
a product are marked (`matrix`), and a printer may run all three as one instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
    index,
    literal,
    static,
    substitute,
)
from tilewright.loops import Accumulate, Alloc, Stmt, Store, block, loop
from tilewright.transforms.index_rules import simplify
from tilewright.transforms.tensorize import contiguous, is_word, neighbours, opened

PIECE = 2
"""Matrices of sums in a piece, down and across: each that is read is multiplied twice."""
WHOLE, BLOCK = 16, 8
"""Squares of words up to which two rows of them stay in the first level cache while columns are
multiplied by them; squares of a block, where there are more."""


@dataclass(frozen=True)
class Product:
    """A sum that matrices are multiplied for, and what it reads by rows."""

    reduction: Reduce
    by_rows: Expr

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
    return Product(r, a)


def stretches(count: int, most: int) -> list[tuple[int, int, int]]:
    """(start, rounds, length): so many points in stretches of `most`, then what is left."""
    rounds, rest = divmod(count, most)
    cuts = [(0, rounds, most)] if rounds else []
    return [*cuts, (rounds * most, 1, rest)] if rest else cuts


Results: TypeAlias = Callable[[Expr, dict[Expr, Expr]], list[Stmt]]
"""The statements that store what is made of a sum, given its load and what stands for the axes of
the tile where it is."""


def multiplied(
    p: Product, rows: Axis, vector: Axis, columns: Axis | None, side: int, results: Results
) -> list[Stmt]:
    """Statements that compute a tile's sums, block after block of the words that are summed over
    for all columns, so that what is read by rows stays in the first level cache; and its results,
    piece after piece, while the sums are there."""
    *outer, last = p.reduction.axes
    across = 1 if columns is None else static(columns.extent)
    guarded = opened(p.by_rows) is not p.by_rows
    blocks = _blocks(static(last.extent) // side)
    once = len(blocks) == 1 and blocks[0][1] == 1 and not outer
    pieces = 1 if once else -(-across // PIECE)
    kind, high = p.reduction.type, static(rows.extent)
    sums = Buffer("sums", kind, (pieces, high, min(across, PIECE) * side), "stack")
    tile = _Tile(p, rows, vector, columns, side, sums, across)
    out: list[Stmt] = [Alloc(sums)]
    if outer:
        out += tile.pieces(lambda piece: piece.filled(literal(0, kind)))
    inner: list[Stmt] = []
    for k, (start, count, length) in enumerate(blocks):
        o = axis(f"{last.name}.o", count)
        at = index("+", o * length, as_index(start)) if count > 1 else as_index(start)
        final = k == len(blocks) - 1
        done = results if final and not outer else None
        steps = tile.block(at, length, guarded and final, bool(k or outer), done)
        inner.append(loop(o, *steps) if count > 1 else block(*steps))
    for a in reversed(outer):
        inner = [loop(a, *inner)]
    out += inner
    return [*out, *tile.pieces(lambda piece: piece.results(results))] if outer else out


def _blocks(squares: int) -> list[tuple[int, int, int]]:
    """The squares of a sum in blocks, (start, rounds, length); the first and the last stand on
    their own, since sums begin and end there."""
    cuts: list[tuple[int, int, int]] = []
    for start, rounds, length in stretches(squares, squares if squares <= WHOLE else BLOCK):
        ends = [1] * min(rounds, 2) if rounds < 3 else [1, rounds - 2, 1]
        for count in ends:
            cuts.append((start, count, length))
            start += count * length
    return cuts


@dataclass(frozen=True)
class _Tile:
    """A tile of so many columns of matrices, its sums in memory, piece after piece."""

    product: Product
    rows: Axis
    vector: Axis
    columns: Axis | None
    side: int
    sums: Buffer
    across: int

    def pieces(self, steps: Callable[[_Piece], list[Stmt]]) -> list[Stmt]:
        """Statements for all pieces, one after the other."""
        out: list[Stmt] = []
        for start, rounds, width in stretches(self.across, PIECE):
            j = axis("piece", rounds)
            left = index("+", j * width, as_index(start)) if rounds > 1 else as_index(start)
            number = j if rounds > 1 else as_index(start // PIECE)
            inner = steps(_Piece(self, left, width, number))
            out.append(loop(j, *inner) if rounds > 1 else block(*inner))
        return out

    def block(
        self, at: Expr, length: int, guarded: bool, begun: bool, results: Results | None
    ) -> list[Stmt]:
        """The products of `length` squares of words from the square `at` on, for all columns.
        Where a guard keeps words out, the last square is copied first: those are zeros. `begun`
        says whether there are sums of squares before; if these are the last, `results` are what is
        done with them."""
        p, side, out = self.product, self.side, list[Stmt]()
        plain, copy = (
            length - guarded,
            Buffer("last", dtypes.uint32, (static(self.rows.extent), side), "stack"),
        )
        if guarded:
            u, t = axis(self.rows.name, copy.shape[0]), axis("t", side)
            (word,) = simplify(
                substitute([p.by_rows], {self.rows: u, p.last: (at + plain) * side + t})
            )
            fill = loop(t, Store(copy, (u, t), word), kind="vector", lanes=side)
            out += [Alloc(copy), loop(u, fill)]

        def steps(piece: _Piece) -> list[Stmt]:
            q = axis(f"{p.last.name}.o", plain)
            added = piece.added(at + q if plain > 1 else at, None) if plain else []
            products = loop(q, *added) if plain > 1 else block(*added)
            last = piece.added(at + plain, copy) if guarded else []
            done = [] if results is None else piece.results(results)
            return [Alloc(piece.acc), *piece.begun(begun), products, *last, *piece.kept(), *done]

        return [*out, *self.pieces(steps)]


class _Piece:
    """Sums in registers: two by two matrices of a tile, or fewer, from the column `left` on."""

    def __init__(self, tile: _Tile, left: Expr, width: int, number: Expr) -> None:
        self.tile, self.left, self.width = tile, left, width
        self.number = number if tile.sums.shape[0] != 1 else as_index(0)
        self.down = -(-static(tile.rows.extent) // tile.side)
        kind, side = tile.product.reduction.type, tile.side
        self.acc = Buffer("acc", kind, (self.down, width, side, side), "matrices")

    def each(self) -> Iterator[tuple[tuple[Expr, ...], tuple[Expr, ...], dict[Expr, Expr]]]:
        """For each matrix: an element of it, where it is kept, and what stands for the axes of the
        tile there."""
        tile, side = self.tile, self.tile.side
        for a in range(self.down):
            for b in range(self.width):
                u = axis(f"{tile.rows.name}.r", min(side, static(tile.rows.extent) - a * side))
                v = axis(tile.vector.name, tile.vector.extent)
                kept = (self.number, u + a * side, index("+", as_index(b * side), v))
                yield (as_index(a), as_index(b), u, v), kept, self.env(u + a * side, b, v)

    def env(self, row: Expr, column: Expr | int, v: Axis) -> dict[Expr, Expr]:
        """What stands for the axes of the tile in a column of matrices."""
        tile = self.tile
        found: dict[Expr, Expr] = {tile.rows: row, tile.vector: v}
        if tile.columns is not None:
            found[tile.columns] = self.left + column
        return found

    def over(self, place: Sequence[Expr], s: Stmt, t: Axis | None = None) -> Stmt:
        """A statement for every element of a matrix."""
        *_, u, v = place
        assert isinstance(u, Axis) and isinstance(v, Axis)
        inner = loop(v, s, kind="vector", lanes=self.tile.side)
        return loop(u, inner if t is None else loop(t, inner, kind="matrix"), kind="matrix")

    def begun(self, before: bool) -> list[Stmt]:
        """The sums so far, or zeros, into registers."""
        zero, sums = literal(0, self.acc.dtype), self.tile.sums
        return [
            self.over(at, Store(self.acc, at, sums[kept] if before else zero))
            for at, kept, _ in self.each()
        ]

    def kept(self) -> list[Stmt]:
        """The registers into memory."""
        sums, acc = self.tile.sums, self.acc
        return [self.over(at, Store(sums, kept, acc[at])) for at, kept, _ in self.each()]

    def added(self, at: Expr, copy: Buffer | None) -> list[Stmt]:
        """The products of the square of words `at`, read by rows from a copy if there is one."""
        p, side, out = self.tile.product, self.tile.side, list[Stmt]()
        for place, _, env in self.each():
            t = axis(p.last.name, side)
            by_rows = opened(p.by_rows) if copy is None else copy[self.tile.rows, t]
            (value,) = substitute([p.reduction.body], {p.by_rows: by_rows})
            (value,) = simplify(substitute([value], {**env, p.last: at * side + t}))
            out.append(self.over(place, Accumulate(self.acc, place, "sum", value), t))
        return out

    def filled(self, value: Expr) -> list[Stmt]:
        """The sums in memory set to a value."""
        return self.walked(lambda at, _: [Store(self.tile.sums, at, value)])

    def results(self, results: Results) -> list[Stmt]:
        """What is made of the sums in memory."""
        return self.walked(lambda at, env: results(self.tile.sums[at], env))

    def walked(
        self, steps: Callable[[tuple[Expr, ...], dict[Expr, Expr]], list[Stmt]]
    ) -> list[Stmt]:
        """Statements for every sum in memory, row by row."""
        tile = self.tile
        u, w = axis(tile.rows.name, tile.rows.extent), axis("column", self.width)
        v = axis(tile.vector.name, tile.vector.extent)
        column: Expr = w if self.width > 1 else as_index(0)
        at = (self.number, u, index("+", column * tile.side, v))
        inner = loop(v, *steps(at, self.env(u, column, v)), kind="vector", lanes=tile.side)
        return [loop(u, loop(w, inner, kind="unroll"))]
