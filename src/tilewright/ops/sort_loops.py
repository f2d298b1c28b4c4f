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

import math
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
    static,
    var,
)
from tilewright.loops import Alloc, Block, Let, Stmt, While, block, loop, store
from tilewright.ops.nests import Cell, minus, plus, vectors, when

VECTOR_BYTES: Final = 64
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
    def types(self) -> tuple[DType, ...]:
        if not self.with_order:
            return (self.keys.type,)
        packed = {0: None, 16: dtypes.int32, 32: dtypes.int64}[self.low_bits]
        return (self.keys.type, dtypes.int64) if packed is None else (packed,)

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
            return key, plus(position, 0)
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
            return item[1]
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
        nbytes = self.tile.items.nbytes
        return (1 + 0.5 * nbytes if nbytes <= 8 else 14) * self.rows * self.lanes

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
        self.counts = Buffer("counts", count, (self.passes * self.buckets,))
        self.source = Cell("source")
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

    def digit(self, item: Item, number: Expr | int) -> Expr:
        """One digit of an item's key, the least significant being number 0."""
        key = item[0]
        unsigned = np.dtype(f"u{key.type.itemsize}")
        lowest = np.iinfo(self.items.keys.type).min * -1 << self.first
        biased = bitcast(apply("add", key, literal(lowest, key.type)), unsigned)
        shift = cast(plus(times(number, self.bits), self.first), unsigned)
        part = apply("and", apply("shr", biased, shift), literal(self.buckets - 1, unsigned))
        return cast(part, dtypes.int64)

    def sort(self) -> list[Stmt]:
        turn = axis("turn", self.passes)
        source, at = var("from", dtypes.int64), var("bucket", dtypes.int64)
        shared = cast(self.counts[plus(times(turn, self.buckets), at)], dtypes.int64)
        one = when(
            ne(shared, as_index(self.n)),
            self.starts(turn),
            self.distribute(turn, source),
            self.source.set(minus(self.n, source)),
        )
        return [
            *self.count(),
            self.source.set(as_index(0)),
            loop(
                turn,
                Let(source, self.source.value),
                Let(at, self.digit(self.tile[source], turn)),
                one,
            ),
        ]

    def count(self) -> list[Stmt]:
        """How many items have each digit, for all digits in one pass."""
        zero, one = (literal(v, self.counts.dtype) for v in (0, 1))
        i = axis("i", self.n)
        body: list[Stmt] = []
        for p in range(self.passes):
            at = var("bucket", dtypes.int64)
            slot = plus(at, p * self.buckets)
            body.append(Let(at, self.digit(self.tile[i], p)))
            body.append(store(self.counts, (slot,), apply("add", self.counts[slot], one)))
        clear = vectors(
            self.passes * self.buckets, 16, lambda k, _: [store(self.counts, (k,), zero)]
        )
        return [*clear, loop(i, *body)]

    def starts(self, turn: Expr) -> Stmt:
        """Counts become the places where the items with each digit begin."""
        b, total = axis("b", self.buckets), Cell("total", self.counts.dtype)
        here = plus(times(turn, self.buckets), b)
        n = var("n", self.counts.dtype)
        step = [Let(n, self.counts[here]), store(self.counts, (here,), total.value), total.add(n)]
        return Block((total.memory, total.set(0), loop(b, *step)))

    def distribute(self, turn: Expr, source: Expr) -> Stmt:
        """Move every item to the next place of its digit in the other half."""
        i = axis("i", self.n)
        at, to = var("bucket", dtypes.int64), var("to", self.counts.dtype)
        item = tuple(var("x", b.dtype) for b in self.tile.parts)
        moved = [Let(v, x) for v, x in zip(item, self.tile[plus(source, i)], strict=True)]
        slot = plus(times(turn, self.buckets), at)
        target = plus(minus(self.n, source), cast(to, dtypes.int64))
        return loop(
            i,
            *moved,
            Let(at, self.digit(item, turn)),
            Let(to, self.counts[slot]),
            *self.tile.put(target, item),
            store(self.counts, (slot,), apply("add", to, literal(1, to.dtype))),
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


# -- lines of an array -------------------------------------------------------------------------

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

        def each(one: tuple[list[Stmt], list[Stmt]]) -> Stmt:
            memory, body = one
            return block(*memory, loop(line, named, *body))

        apart = 2.0 * self.n * (self.inner > 1)
        return [
            (lines * (ranks.cost + apart), lambda: each(self.ranked(p, ranks))),
            (lines * (spread.cost + apart), lambda: each(self.spread(p, spread))),
            (lines * (digits.cost + apart), lambda: each(self.digits(p, digits))),
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
        along = self.inner if self.side_by_side else lines
        groups, tail = divmod(along, width)
        o, g = axis("o", self.outer if self.side_by_side else 1), axis("g", groups)
        walk = self.columns if self.side_by_side else self.transposed
        first = times(o, self.inner)
        many = walk(tile, network, plus(first, times(g, width)), width)
        few = walk(tile, network, plus(first, groups * width), tail)
        body = [*([loop(g, *many)] if groups else []), *(few if tail else [])]
        return block(*tile.memory, *beyond, loop(o, *body))

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
