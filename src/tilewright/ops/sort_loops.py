"""Loop nests that sort: networks in lanes, counting by digits, and ranks of a few.

Knows keys (signed integers ordered as the elements are), items (keys, or keys with the position
they came from) and three ways to put lines of items in order. Refuses to know axes and ops: a line
is a function from its positions to flat offsets.

    ranks     O(n^2) comparisons in lanes, for one short line
    network   Batcher's sorting networks (1968): a line in each lane, or one line over all lanes,
              whose neighbours are then merged bitonically
    digits    least significant digit first (Knuth, TAOCP 3, 5.2.5): a stable distribution by each
              digit of the keys; digits that all keys share are skipped
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Lit,
    apply,
    as_index,
    axis,
    bitcast,
    cast,
    eq,
    index,
    literal,
    ne,
    select,
    var,
)
from tilewright.loops import Accumulate, Alloc, Block, Let, Stmt, While, block, loop, store
from tilewright.ops.nests import Cell, minus, plus, vectors, when

VECTOR_BYTES: Final = 64
FAR_BYTES: Final = 8 << 20
"""A network of this size takes twice the time of as many items in near caches."""

BASE: Final = 16
"""Rows that are sorted in registers."""

Place = Callable[[Expr], Expr]


def times(a: Expr | int, b: Expr | int) -> Expr:
    """a * b as positions."""
    return index("*", as_index(a), as_index(b))


# -- keys --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """Elements of a type as signed integers of the same width, in the same order.

    NaN is the greatest, or the least if `descending`. If `merged`, elements that compare equal
    have equal keys (-0.0 and 0.0); only keys that are not merged can be turned back.
    """

    of: DType
    descending: bool = False
    merged: bool = False

    @property
    def type(self) -> DType:
        return np.dtype(f"i{self.of.itemsize}")

    @property
    def last(self) -> Lit:
        """A key that no other is greater than."""
        return literal(np.iinfo(self.type).max, self.type)

    def key(self, x: Expr) -> Expr:
        """The key of an element."""
        k = self._ascending(x)
        return apply("not", k) if self.descending else k

    def element(self, key: Expr) -> Expr:
        """The element of a key."""
        k = apply("not", key) if self.descending else key
        if dtypes.is_float(self.of):
            return bitcast(self._signed(k), self.of)
        if dtypes.is_bool(self.of):
            return cast(k, self.of)
        return k if dtypes.is_signed(self.of) else bitcast(k ^ self._sign, self.of)

    @property
    def _sign(self) -> Lit:
        return literal(np.iinfo(self.type).min, self.type)

    def _signed(self, bits: Expr) -> Expr:
        """Sign and magnitude as two's complement, and back."""
        every = literal(np.iinfo(self.type).max, self.type)
        return bits ^ (apply("shr", bits, literal(8 * self.type.itemsize - 1, self.type)) & every)

    def _ascending(self, x: Expr) -> Expr:
        if dtypes.is_bool(self.of):
            return cast(x, self.type)
        if dtypes.is_float(self.of):
            bits = bitcast(x, self.type)
            infinite = np.array(np.inf, self.of).view(self.type)
            magnitude = bits & self.last
            key = select(
                magnitude > literal(int(infinite), self.type), self.last, self._signed(bits)
            )
            return select(eq(magnitude, literal(0, self.type)), 0, key) if self.merged else key
        return x if dtypes.is_signed(self.of) else bitcast(x, self.type) ^ self._sign


# -- items -------------------------------------------------------------------------------------

Item = tuple[Expr, ...]


@dataclass(frozen=True)
class Items:
    """What is moved in a line of `n` elements: keys, or keys with the positions they came from,
    packed into one integer if that has at most 64 bits, else side by side."""

    keys: Keys
    n: int
    with_order: bool

    @property
    def low_bits(self) -> int:
        """Bits of an item below the key: those of a packed position, else 0."""
        if not self.with_order or self.keys.type.itemsize > 4 or self.n > 1 << 31:
            return 0
        return 16 if self.keys.type.itemsize <= 2 and self.n <= 1 << 16 else 32

    @property
    def position_type(self) -> DType:
        return dtypes.int32 if self.n < 1 << 31 else dtypes.int64

    @property
    def types(self) -> tuple[DType, ...]:
        if not self.with_order:
            return (self.keys.type,)
        packed = {0: None, 16: dtypes.int32, 32: dtypes.int64}[self.low_bits]
        return (self.keys.type, self.position_type) if packed is None else (packed,)

    @property
    def nbytes(self) -> int:
        return sum(t.itemsize for t in self.types)

    @property
    def lanes(self) -> int:
        return VECTOR_BYTES // self.types[0].itemsize

    def item(self, x: Expr, position: Expr) -> Item:
        """The item of the element at a position of its line."""
        key = self.keys.key(x)
        if not self.with_order:
            return (key,)
        if not self.low_bits:
            return key, cast(plus(position, 0), self.position_type)
        (t,) = self.types
        high = apply("shl", cast(key, t), literal(self.low_bits, t))
        return (apply("or", high, cast(position, t)),)

    def raw(self, x: Expr) -> Item:
        """An element's bits, held where an item will be."""
        k = self.keys
        bits = cast(x, k.type) if dtypes.is_bool(k.of) else bitcast(x, k.type)
        return tuple(cast(bits, t) for t in self.types)

    def raw_element(self, held: Item) -> Expr:
        """The element of such bits."""
        k = self.keys
        bits = cast(held[0], k.type)
        return cast(bits, k.of) if dtypes.is_bool(k.of) else bitcast(bits, k.of)

    @property
    def last(self) -> Item:
        """An item that stands behind all others."""
        return tuple(literal(np.iinfo(t).max, t) for t in self.types)

    def element(self, item: Item) -> Expr:
        """The element, of keys that are not merged."""
        if not self.low_bits:
            return self.keys.element(item[0])
        high = apply("shr", item[0], literal(self.low_bits, item[0].type))
        return self.keys.element(cast(high, self.keys.type))

    def position(self, item: Item) -> Expr:
        """Where the item came from (int64)."""
        if not self.low_bits:
            return cast(item[1], dtypes.int64)
        mask = literal((1 << self.low_bits) - 1, item[0].type)
        return cast(apply("and", item[0], mask), dtypes.int64)

    def exchanged(self, a: Item, b: Item) -> tuple[list[Stmt], Item, Item]:
        """The two in order, and the statements that name them."""
        before = apply("lt", b[0], a[0])
        if len(a) > 1:
            before = before | (eq(b[0], a[0]) & apply("lt", b[1], a[1]))
        swap = var("swap", dtypes.bool_)
        names = [[var(n, t) for t in self.types] for n in ("low", "high")]
        test: Expr = before if len(a) == 1 else swap
        stmts: list[Stmt] = [] if len(a) == 1 else [Let(swap, before)]
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            stmts.append(Let(names[0][k], select(test, y, x)))
            stmts.append(Let(names[1][k], select(test, x, y)))
        return stmts, tuple(names[0]), tuple(names[1])


class Tile:
    """Rows of items in memory, `lanes` wide: one buffer for each part of an item."""

    def __init__(self, items: Items, size: int) -> None:
        self.items, self.lanes = items, items.lanes
        self.parts = tuple(Buffer("tile", t, (size,)) for t in items.types)
        self.memory: list[Stmt] = [Alloc(b) for b in self.parts]

    def __getitem__(self, at: Expr) -> Item:
        return tuple(b[at] for b in self.parts)

    def put(self, at: Expr, item: Item) -> list[Stmt]:
        return [store(b, (at,), x) for b, x in zip(self.parts, item, strict=True)]

    def fill(self, start: int, stop: int) -> list[Stmt]:
        """Put the last item everywhere in range(start, stop)."""
        last = self.items.last
        return vectors(stop - start, self.lanes, lambda i, _: self.put(plus(start, i), last))

    def exchange(self, places: Sequence[Expr], pairs: Sequence[tuple[int, int]]) -> Stmt:
        """Rows at flat offsets `places`, read, put in order pair by pair, and written back."""
        lane = axis("l", self.lanes)
        at = [plus(p, lane) for p in places]
        body: list[Stmt] = []
        held: list[Item] = []
        for a in at:
            names = tuple(var("x", b.dtype) for b in self.parts)
            body += [Let(v, x) for v, x in zip(names, self[a], strict=True)]
            held.append(names)
        for i, j in pairs:
            stmts, held[i], held[j] = self.items.exchanged(held[i], held[j])
            body += stmts
        for a, item in zip(at, held, strict=True):
            body += self.put(a, item)
        return loop(lane, *body, kind="vector", lanes=self.lanes)


# -- networks ----------------------------------------------------------------------------------


def odd_even_pairs(n: int) -> list[tuple[int, int]]:
    """The comparators of Batcher's odd-even merge sort of n items."""
    pairs: list[tuple[int, int]] = []
    for p in (1 << e for e in range(max(0, (n - 1).bit_length()))):
        for k in (p >> e for e in range(p.bit_length())):
            low = (i + j for j in range(k % p, n - k, 2 * k) for i in range(min(k, n - j - k)))
            pairs += [(i, i + k) for i in low if i // (2 * p) == (i + k) // (2 * p)]
    return pairs


def strides(rows: int, first: int, last: int) -> list[tuple[int, int]]:
    """Comparators of rows that are first, first/2, ..., last apart, as in a bitonic merge."""
    pairs = []
    while first >= last:
        pairs += [(i, i + first) for i in range(rows) if not i & first]
        first //= 2
    return pairs


class Network:
    """Sorts the first `n` rows of a tile, each lane by itself. Rows from n to `rows`, the next
    power of two, are there if n > BASE and hold the last item."""

    def __init__(self, tile: Tile, n: int, origin: Expr | int = 0) -> None:
        self.tile, self.n, self.origin = tile, n, as_index(origin)
        self.rows = n if n <= BASE else 1 << (n - 1).bit_length()

    @property
    def cost(self) -> float:
        """Roughly the time to sort all lanes, in the unit of `Spread.cost`."""
        nbytes = self.tile.items.nbytes
        rounds = 1 + sum(2 + max(0, k - 4) // 3 for k in range(4, (self.rows - 1).bit_length()))
        each = 0.03 + 0.025 * nbytes if nbytes <= 8 else 0.7
        return each * rounds * self.n * self.tile.lanes

    def place(self, row: Expr | int) -> Expr:
        return plus(self.origin, times(row, self.tile.lanes))

    def sort(self) -> Stmt:
        if self.n <= BASE:
            return self.tile.exchange(
                [self.place(i) for i in range(self.n)], odd_even_pairs(self.n)
            )
        level = axis("level", self.rows.bit_length() - 1 - (BASE.bit_length() - 1))
        return block(self.base(), loop(level, *self.merge(level)))

    def base(self) -> Stmt:
        """Every BASE rows sorted in registers."""
        g = axis("g", -(-self.n // BASE))
        places = [self.place(plus(times(g, BASE), i)) for i in range(BASE)]
        return loop(g, self.tile.exchange(places, odd_even_pairs(BASE)))

    def merge(self, level: Expr) -> list[Stmt]:
        """Neighbouring runs of BASE << level rows become one. The first comparators pair a run
        with the other one backwards, so that all others point the same way."""
        run, quarter, pairs = (var(v, dtypes.int64) for v in ("run", "quarter", "pairs"))
        b, i = axis("b", pairs), axis("i", quarter)
        low = plus(times(times(b, run), 2), i)
        high = plus(plus(times(times(b, run), 2), run), minus(minus(quarter, 1), i))
        places = [self.place(plus(low, times(quarter, m))) for m in range(4)]
        places += [self.place(plus(high, times(quarter, m))) for m in range(4)]
        flip = [(m, 7 - m) for m in range(4)]
        first = self.tile.exchange(places, flip + strides(8, 2, 1))
        return [
            Let(run, apply("shl", as_index(BASE), plus(level, 0))),
            Let(quarter, apply("shr", run, as_index(2))),
            Let(pairs, index("//", plus(minus(run, 1), self.n), times(run, 2))),
            loop(b, loop(i, first)),
            *self.descend(apply("shr", run, as_index(3)), index("min", times(times(run, pairs), 2),
                                                               as_index(self.n))),
        ]  # fmt: skip

    def descend(self, stride: Expr, rows: Expr) -> list[Stmt]:
        """The comparators of the given stride, its half and so on to 1, of the first rows. Three
        strides at a time pass through registers; the last four may repeat some, which then do
        nothing."""
        s = Cell("stride")
        step, around = var("step", dtypes.int64), var("around", dtypes.int64)
        g, i = axis("g", around), axis("i", step)
        at = plus(times(times(g, step), 8), i)
        three = self.tile.exchange(
            [self.place(plus(at, times(step, m))) for m in range(8)], strides(8, 4, 1)
        )
        last = axis("g", index("//", plus(rows, BASE - 1), as_index(BASE)))
        four = self.tile.exchange(
            [self.place(plus(times(last, BASE), m)) for m in range(BASE)], strides(BASE, 8, 1)
        )
        wide = block(
            Let(step, apply("shr", s.value, as_index(2))),
            Let(around, index("//", plus(rows, minus(times(step, 8), 1)), times(step, 8))),
            loop(g, loop(i, three)),
            s.set(apply("shr", s.value, as_index(3))),
        )
        test = apply("le", as_index(BASE), s.value)
        return [s.memory, s.set(stride), While(test, wide), loop(last, four)]


class Spread:
    """Sorts one line that is spread over all lanes of a tile: `rows` rows, a power of two.

    Each lane is sorted, and then pairs of neighbouring runs of lanes are merged until there is
    one. A run that is to stand behind its neighbour runs downwards, by the complement of its
    items. Item q of the sorted line is in lane q // rows. The tile has two halves, with a margin
    of one row at each end: what moves between lanes moves from one half to the other.
    """

    def __init__(self, items: Items, n: int) -> None:
        lanes = items.lanes
        self.rows = max(BASE, 1 << (-(-n // lanes) - 1).bit_length())
        self.half = (self.rows + 2) * lanes
        self.n, self.lanes = n, lanes
        self.tile = Tile(items, 2 * self.half)
        self.origin = Cell("origin")

    @property
    def cost(self) -> float:
        """Roughly the time to sort, in ns on the machine of docs/notes/sorting.md."""
        nbytes, size = self.tile.items.nbytes, self.rows * self.lanes
        each = 1 + 0.5 * nbytes if nbytes <= 8 else 14
        return each * size * (1 + size * nbytes / FAR_BYTES)

    def put(self, item: Callable[[Expr], Item]) -> list[Stmt]:
        """Write item(i) for i in range(n), and the last item behind them."""
        lanes, last = self.lanes, self.tile.items.last

        def whole(i: Expr, lane: Axis, x: Item) -> list[Stmt]:
            return self.tile.put(plus(i, lanes), _downward(x, _odd(lane, 0)))

        full = self.n // lanes * lanes
        out = vectors(full, lanes, lambda i, lane: whole(i, lane, item(i)))
        if full < self.n:
            tail = axis("t", self.n - full)
            at = plus(tail, full)
            odd = _odd(tail, 0)
            fresh = vectors(lanes, lanes, lambda i, lane: whole(plus(i, full), lane, last))
            out += [*fresh, loop(tail, *self.tile.put(plus(at, lanes), _downward(item(at), odd)))]
            full += lanes
        rest = self.rows * lanes - full
        return out + vectors(rest, lanes, lambda i, lane: whole(plus(i, full), lane, last))

    def __getitem__(self, q: tuple[Expr, Expr | int]) -> Item:
        """The sorted item at (row, lane)."""
        return self.tile[plus(self.origin.value, plus(times(q[0], self.lanes), q[1]))]

    def sort(self) -> list[Stmt]:
        stages = self.lanes.bit_length() - 1
        stage = axis("stage", stages)
        d = Cell("distance")
        far = apply("shl", as_index(1), plus(stage, 0))
        here = var("here", dtypes.int64)
        return [
            self.origin.set(as_index(self.lanes)),
            Network(self.tile, self.rows, self.lanes).sort(),
            loop(
                stage,
                d.memory,
                d.set(far),
                *self.across(d.value, stage),
                d.set(apply("shr", d.value, as_index(1))),
                While(
                    apply("lt", as_index(0), d.value),
                    block(
                        *self.across(d.value, None),
                        d.set(apply("shr", d.value, as_index(1))),
                    ),
                ),
                Let(here, self.origin.value),
                *Network(self.tile, self.rows, here).descend(
                    as_index(self.rows // 2), as_index(self.rows)
                ),
            ),
        ]

    def across(self, d: Expr, stage: Expr | None) -> list[Stmt]:
        """Put the items of lanes that are `d` apart in order. With `stage`, the direction of the
        runs first turns from that of the stage before."""
        far, source, target = (var(v, dtypes.int64) for v in ("far", "source", "target"))
        r, lane = axis("r", self.rows), axis("l", self.lanes)
        row = plus(times(r, self.lanes), lane)
        upper = ne(apply("and", plus(lane, 0), far), as_index(0))
        near = self.tile[plus(source, row)]
        behind, before = (self.tile[plus(source, p)] for p in (plus(row, far), minus(row, far)))
        other = tuple(select(upper, x, y) for x, y in zip(before, behind, strict=True))
        if stage is not None:
            near = _downward(near, _turns(lane, stage))
            other = _downward(other, _turns(apply("xor", plus(lane, 0), far), stage))
        mine = tuple(var("x", x.type) for x in near)
        theirs = tuple(var("y", x.type) for x in near)
        lets = [Let(v, x) for v, x in zip((*mine, *theirs), (*near, *other), strict=True)]
        less = apply("lt", theirs[0], mine[0])
        if len(mine) > 1:
            less = less | (eq(theirs[0], mine[0]) & apply("lt", theirs[1], mine[1]))
        take = less ^ upper
        best = tuple(select(take, y, x) for x, y in zip(mine, theirs, strict=True))
        body = [*lets, *self.tile.put(plus(target, row), best)]
        return [
            Let(far, d),
            Let(source, self.origin.value),
            Let(target, minus(self.half + 2 * self.lanes, source)),
            loop(r, loop(lane, *body, kind="vector", lanes=self.lanes)),
            self.origin.set(target),
        ]


def _odd(lane: Expr, bit: int) -> Expr:
    """Whether a bit of the lane's number is set."""
    return ne(apply("and", plus(lane, 0), as_index(1 << bit)), as_index(0))


def _turns(lane: Expr, stage: Expr) -> Expr:
    """Whether the runs that lane belongs to before and after a stage have different directions."""
    changed = apply("xor", plus(lane, 0), apply("shr", plus(lane, 0), as_index(1)))
    bit = apply("and", apply("shr", changed, plus(stage, 0)), as_index(1))
    return ne(bit, as_index(0))


def _downward(item: Item, condition: Expr) -> Item:
    """The item in reversed order where the condition holds."""
    return tuple(select(condition, apply("not", x), x) for x in item)


# -- digits ------------------------------------------------------------------------------------

FEW: Final = 1 << 11
"""Up to so many items a table of 2^8 counts costs less than fewer, longer digits save."""

MANY_BYTES: Final = 4 << 20
"""From this size on, 2^11 places to move to are more than the caches of addresses hold."""


class Digits:
    """Sorts `n` items by the digits of their keys. The tile has two halves of n items."""

    def __init__(self, items: Items, n: int) -> None:
        self.items, self.n = items, n
        width = 8 * items.keys.type.itemsize
        spread = n * items.nbytes > MANY_BYTES
        most = 8 if n < FEW or spread or width <= 16 else 11
        self.passes = -(-width // most)
        self.bits = -(-width // self.passes)
        self.first = items.low_bits
        self.tile = Tile(items, 2 * n)
        self.buckets = 1 << self.bits
        count = dtypes.int32 if n < 1 << 31 else dtypes.int64
        self.counts = Buffer("counts", count, (self.buckets,))
        self.source = Cell("source")
        key = items.types[0]
        self.least, self.span = Cell("least", key), Cell("span", np.dtype(f"u{key.itemsize}"))
        self.memory = [*self.tile.memory, Alloc(self.counts)]

    @property
    def cost(self) -> float:
        """Roughly the time to sort, in the unit of `Spread.cost`."""
        step = 1.3 + 0.05 * self.items.nbytes
        return self.passes * (step * self.n + 0.4 * self.buckets)

    def put(self, item: Callable[[Expr], Item]) -> list[Stmt]:
        """Write item(i) for i in range(n)."""
        return vectors(self.n, self.items.lanes, lambda i, _: self.tile.put(i, item(i)))

    def __getitem__(self, i: Expr) -> Item:
        """The sorted item at a position."""
        return self.tile[plus(self.source.value, i)]

    def digit(self, item: Item, number: Expr) -> Expr:
        """One digit of an item's key, the least significant being number 0."""
        key = item[0]
        unsigned = np.dtype(f"u{key.type.itemsize}")
        above = bitcast(apply("sub", key, self.least.value), unsigned)
        shift = cast(plus(times(number, self.bits), self.first), unsigned)
        part = apply("and", apply("shr", above, shift), literal(self.buckets - 1, unsigned))
        return cast(part, dtypes.int64)

    def sort(self) -> list[Stmt]:
        turn = axis("turn", self.passes)
        source, at = var("from", dtypes.int64), var("bucket", dtypes.int64)
        shared = cast(self.counts[at], dtypes.int64)
        shift = cast(plus(times(turn, self.bits), self.first), self.span.buffer.dtype)
        zero = literal(0, self.span.buffer.dtype)
        move = when(
            ne(shared, as_index(self.n)),
            self.starts(),
            self.distribute(turn, source),
            self.source.set(minus(self.n, source)),
        )
        one = when(
            ne(apply("shr", self.span.value, shift), zero),
            Let(source, self.source.value),
            *self.count(turn, source),
            Let(at, self.digit(self.tile[source], turn)),
            move,
        )
        return [*self.extent(), self.source.set(as_index(0)), loop(turn, one)]

    def extent(self) -> list[Stmt]:
        """The least key, from which digits count, and how far the greatest is above it: keys of
        a small range have few digits."""
        most = Cell("most", self.least.buffer.dtype)
        key, low = self.tile.parts[0], literal((1 << self.first) - 1, self.least.buffer.dtype)
        first = key[as_index(0)]

        def look(i: Expr, _: Expr) -> list[Stmt]:
            return [
                Accumulate(self.least.buffer, (), "min", key[i]),
                Accumulate(most.buffer, (), "max", key[i]),
            ]

        span = apply("sub", most.value, self.least.value)
        return [
            self.least.memory, most.memory, self.span.memory,
            self.least.set(first),
            most.set(first),
            *vectors(self.n, self.items.lanes, look),
            self.least.set(apply("and", self.least.value, apply("not", low))),
            self.span.set(bitcast(span, self.span.buffer.dtype)),
        ]  # fmt: skip

    def count(self, turn: Expr, source: Expr) -> list[Stmt]:
        """How many items have each digit."""
        zero, one = (literal(v, self.counts.dtype) for v in (0, 1))
        i, at = axis("i", self.n), var("bucket", dtypes.int64)
        return [
            *vectors(self.buckets, 16, lambda k, _: [store(self.counts, (k,), zero)]),
            loop(
                i,
                Let(at, self.digit(self.tile[plus(source, i)], turn)),
                store(self.counts, (at,), apply("add", self.counts[at], one)),
            ),
        ]

    def starts(self) -> Stmt:
        """Counts become the places where the items with each digit begin."""
        b, total = axis("b", self.buckets), Cell("total", self.counts.dtype)
        n = var("n", self.counts.dtype)
        step = [Let(n, self.counts[b]), store(self.counts, (b,), total.value), total.add(n)]
        return Block((total.memory, total.set(0), loop(b, *step)))

    def distribute(self, turn: Expr, source: Expr) -> Stmt:
        """Move every item to the next place of its digit in the other half."""
        i = axis("i", self.n)
        at, to = var("bucket", dtypes.int64), var("to", self.counts.dtype)
        item = tuple(var("x", b.dtype) for b in self.tile.parts)
        moved = [Let(v, x) for v, x in zip(item, self.tile[plus(source, i)], strict=True)]
        target = plus(minus(self.n, source), cast(to, dtypes.int64))
        return loop(
            i,
            *moved,
            Let(at, self.digit(item, turn)),
            Let(to, self.counts[at]),
            *self.tile.put(target, item),
            store(self.counts, (at,), apply("add", to, literal(1, to.dtype))),
        )


# -- ranks -------------------------------------------------------------------------------------


class Ranks:
    """Sorts a short line by counting, for each key, the keys that stand before it."""

    def __init__(self, keys: Keys, n: int) -> None:
        self.keys, self.n = keys, n
        self.buffer = Buffer("keys", keys.type, (n,))
        self.ranks = Buffer("ranks", dtypes.int32, (n,))
        self.memory: list[Stmt] = [Alloc(self.buffer), Alloc(self.ranks)]

    def put(self, key: Callable[[Expr], Expr]) -> list[Stmt]:
        """Write key(i) for i in range(n)."""
        lanes = VECTOR_BYTES // self.keys.type.itemsize
        return vectors(self.n, lanes, lambda i, _: [store(self.buffer, (i,), key(i))])

    def __getitem__(self, i: Expr) -> Expr:
        """Where the element at position i belongs."""
        return cast(self.ranks[i], dtypes.int64)

    @property
    def cost(self) -> float:
        """Roughly the time to sort, in the unit of `Spread.cost`."""
        return self.n * (2 + 0.06 * self.n)

    def sort(self) -> list[Stmt]:
        lanes = min(16, VECTOR_BYTES // self.keys.type.itemsize)
        out: list[Stmt] = []
        for start in range(0, self.n, lanes):
            width = min(lanes, self.n - start)
            full = 1 << (width - 1).bit_length()
            acc = Buffer("acc", dtypes.int32, (full,), "registers")
            zero, one, last = (axis("l", width) for _ in range(3))
            j = axis("j", self.n)
            mine, other = self.buffer[plus(one, start)], self.buffer[j]
            ties = eq(other, mine) & apply("lt", plus(j, 0), plus(one, start))
            before = cast(apply("lt", other, mine) | ties, dtypes.int32)

            def run(lane: Axis, body: Stmt, full: int = full) -> Stmt:
                return loop(lane, body, kind="vector", lanes=full)

            out.append(Block((
                Alloc(acc),
                run(zero, store(acc, (zero,), literal(0, dtypes.int32))),
                loop(j, run(one, store(acc, (one,), apply("add", acc[one], before)))),
                run(last, store(self.ranks, (plus(last, start),), acc[last])),
            )))  # fmt: skip
        return out
