"""Sorting every line of an array: which way is fastest, and how lines get to it and back.

Knows where lines lie in memory and what each way of `sort_loops.py` costs. Refuses to know ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from tilewright import dtypes
from tilewright.expr import Buffer, Expr, apply, as_index, axis, index, static, var
from tilewright.loops import Let, Stmt, block, loop
from tilewright.ops.nests import choose, each, plus, vectors
from tilewright.ops.sort_loops import (
    BASE,
    Digits,
    Item,
    Items,
    Network,
    Place,
    Ranks,
    Spread,
    Tile,
    times,
)

TRANSPOSED: Final = 64
"""Elements of a line that are moved into their lane at a time."""

Write = Callable[[Place, Expr, Item], Sequence[Stmt]]


class LineSort:
    """Sorts every line of an array of `shape` along axis `d`.

    `write(place, j, item)` are the statements that give position j of the line its item, where
    place(i) is the flat offset of position i of that line.
    """

    def __init__(self, x: Buffer, d: int, items: Items, write: Write) -> None:
        shape = [static(n) for n in x.shape]
        self.x, self.items, self.write = x, items, write
        self.n = shape[d]
        self.outer, self.inner = math.prod(shape[:d]), math.prod(shape[d + 1 :])

    def place(self, line: Expr) -> tuple[Let, Place]:
        """The flat offsets of a line, lines being numbered row-major, and what they rest on."""
        o, c = index("//", line, as_index(self.inner)), index("%", line, as_index(self.inner))
        start = var("start", dtypes.int64)
        named = Let(start, plus(plus(times(o, self.n * self.inner), c), 0))
        return named, lambda j: plus(start, times(j, self.inner))

    def loops(self) -> Stmt:
        """The nest of the way that seems fastest."""
        if self.outer * self.inner * self.n == 0:
            return block()
        return min(self.ways(), key=lambda way: way[0])[1]()

    @property
    def cost(self) -> float:
        """Roughly the time of that, in the unit of `Spread.cost`."""
        return min(self.ways(), key=lambda way: way[0])[0]

    def ways(self) -> list[tuple[float, Callable[[], Stmt]]]:
        """Ways to sort all lines, each with its time."""
        lines = self.outer * self.inner
        ranks = Ranks(self.items.keys, self.n)
        spread, digits = Spread(self.items, self.n), Digits(self.items, self.n)
        line = axis("line", lines)
        named, p = self.place(line)

        def every(one: tuple[list[Stmt], list[Stmt]]) -> Stmt:
            memory, body = one
            return each(line, memory, named, *body)

        apart = 2.0 * self.n * (self.inner > 1)
        return [
            (lines * (ranks.cost + apart), lambda: every(self.ranked(p, ranks))),
            (lines * (spread.cost + apart), lambda: every(self.spread(p, spread))),
            (lines * (digits.cost + apart), lambda: every(self.digits(p, digits))),
            (self.tall_cost(lines), lambda: self.tall(lines)),
        ]

    def digits(self, p: Place, digits: Digits) -> tuple[list[Stmt], list[Stmt]]:
        body = [
            digits.source.memory,
            *digits.put(lambda j: self.items.item(self.x[p(j)], j)),
            *digits.sort(),
            *vectors(self.n, self.items.lanes, lambda j, _: self.write(p, j, digits[j])),
        ]
        return digits.memory, body

    @property
    def side_by_side(self) -> bool:
        """Whether the lines of the lanes of a tile are neighbours in memory."""
        return self.inner >= self.items.lanes

    def tall_cost(self, lines: int) -> float:
        """The time of `tall`, in the unit of `Spread.cost`."""
        width = self.items.lanes
        groups = self.outer * -(-self.inner // width) if self.side_by_side else -(-lines // width)
        moves = 0.3 if self.side_by_side else 1.0
        network = Network(Tile(self.items, 0), self.n)
        return groups * (network.cost + moves * self.n * width)

    def ranked(self, p: Place, r: Ranks) -> tuple[list[Stmt], list[Stmt]]:
        i = axis("i", self.n)
        to = var("to", dtypes.int64)
        body = [*r.put(lambda j: self.items.keys.key(self.x[p(j)])), *r.sort()]
        item = self.items.item(self.x[p(i)], i)
        return r.memory, [*body, loop(i, Let(to, r[i]), *self.write(p, to, item))]

    def spread(self, p: Place, s: Spread) -> tuple[list[Stmt], list[Stmt]]:
        out: list[Stmt] = []
        full, tail = divmod(self.n, s.rows)
        q, r = axis("q", full), axis("r", s.rows)
        if full:
            at = plus(times(q, s.rows), r)
            out.append(loop(q, loop(r, *self.write(p, at, s[r, q]))))
        if tail:
            r = axis("r", tail)
            out.append(loop(r, *self.write(p, plus(r, full * s.rows), s[r, full])))
        put = s.put(lambda j: self.items.item(self.x[p(j)], j))
        return s.tile.memory, [s.origin.memory, *put, *s.sort(), *out]

    def tall(self, lines: int) -> Stmt:
        """A line in each lane."""
        width = self.items.lanes
        rows = self.n if self.n <= BASE else 1 << (self.n - 1).bit_length()
        tile = Tile(self.items, rows * width)
        network = Network(tile, self.n)
        beyond = tile.fill(self.n * width, rows * width)
        outer, along = (self.outer, self.inner) if self.side_by_side else (1, lines)
        groups, tail = divmod(along, width)
        rounds = groups + (tail > 0)
        r = axis("r", outer * rounds)
        o, g = index("//", r, as_index(rounds)), index("%", r, as_index(rounds))
        if outer == 1:
            o, g = as_index(0), r
        walk = self.columns if self.side_by_side else self.transposed
        first = times(o, self.inner)
        few = walk(tile, network, plus(first, groups * width), tail) if tail else []
        if groups:
            many = walk(tile, network, plus(first, times(g, width)), width)
            whole = apply("lt", g, as_index(groups))
            few = [choose(whole, many, few)] if tail else many
        return each(r, tile.memory, *few, first=[*beyond])

    def columns(self, tile: Tile, network: Network, line: Expr, width: int) -> list[Stmt]:
        """Lines side by side: rows are read and written as vectors."""
        full = 1 << (width - 1).bit_length()

        named, first = self.place(line)

        def rows(body: Callable[[Expr, Place, Expr], Sequence[Stmt]]) -> Stmt:
            j, lane = axis("j", self.n), axis("l", width)

            def p(i: Expr) -> Expr:
                return plus(first(i), lane)

            at = plus(times(j, tile.lanes), lane)
            return loop(j, loop(lane, *body(j, p, at), kind="vector", lanes=full))

        return [
            named,
            rows(lambda j, p, at: tile.put(at, self.items.item(self.x[p(j)], j))),
            network.sort(),
            rows(lambda j, p, at: self.write(p, j, tile[at])),
        ]

    def transposed(self, tile: Tile, network: Network, line: Expr, width: int) -> list[Stmt]:
        """Lines anywhere: elements are moved into lanes one by one, and then made items."""

        def each(body: Callable[[Expr, Place, Expr], Sequence[Stmt]]) -> list[Stmt]:
            full, tail = divmod(self.n, TRANSPOSED)
            out: list[Stmt] = []
            for start, count, size in ((0, full, TRANSPOSED), (full * TRANSPOSED, 1, tail)):
                b, c, k = axis("b", count), axis("c", width), axis("k", size)
                j = plus(plus(times(b, TRANSPOSED), k), start)
                named, p = self.place(plus(line, c))
                at = plus(times(j, tile.lanes), c)
                if count * size:
                    out.append(loop(b, loop(c, named, loop(k, *body(j, p, at)))))
            return out

        j, lane = axis("j", self.n), axis("l", tile.lanes)
        at = plus(times(j, tile.lanes), lane)
        keyed = tile.put(at, self.items.item(self.items.raw_element(tile[at]), j))
        return [
            *each(lambda j, p, at: tile.put(at, self.items.raw(self.x[p(j)]))),
            loop(j, loop(lane, *keyed, kind="vector", lanes=tile.lanes)),
            network.sort(),
            *each(lambda j, p, at: self.write(p, j, tile[at])),
        ]
