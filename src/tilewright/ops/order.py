"""Some elements of the sorted order, found without sorting: the k first, and given ranks.

Knows selection by digits (the bucket of each digit that holds the rank; what lies elsewhere is
dropped) and a stream's best elements. Refuses to know quantiles, and how whole lines are sorted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import (
    Buffer,
    Expr,
    Extent,
    apply,
    as_index,
    axis,
    bitcast,
    cast,
    eq,
    index,
    literal,
    static,
    var,
)
from tilewright.graph import Op, Type
from tilewright.loops import Accumulate, Alloc, Block, Let, Stmt, While, block, loop, store
from tilewright.ops.indexing import take_along
from tilewright.ops.nests import Cell, minus, plus, vectors, when
from tilewright.ops.samples import AWKWARD_AXES, Example, numbers, of_kinds, samples
from tilewright.ops.sort import check_key, order
from tilewright.ops.sort_loops import VECTOR_BYTES, Item, Items, Keys, LineSort, Place, times

BITS: Final = 8
BLOCK: Final = 128
"""Elements of a stream that are compared with the k-th best so far before any is looked at."""


class Select:
    """Finds the key of a rank (from 0) among the first `count` keys of a buffer, which it uses up.

    Digit by digit from the most significant: the keys with the rank's digit are moved to the
    front, until all that remain are equal.
    """

    def __init__(self, keys: Buffer) -> None:
        self.keys = keys
        self.counts = Buffer("counts", dtypes.int64, (1 << BITS,), "stack")
        self.count, self.rank = Cell("count"), Cell("rank")
        self.shift = Cell("shift")
        self.memory = [Alloc(self.counts), self.count.memory, self.rank.memory, self.shift.memory]

    def run(self, count: Expr, rank: Expr) -> list[Stmt]:
        """Afterwards the key is the first of the buffer."""
        left = apply("lt", as_index(1), self.count.value)
        more = left & apply("le", as_index(0), self.shift.value)
        width = 8 * self.keys.dtype.itemsize
        return [
            self.count.set(count),
            self.rank.set(rank),
            self.shift.set(as_index(width - BITS)),
            While(more, block(*self.narrow(), self.shift.set(minus(self.shift.value, BITS)))),
        ]

    def digit(self, key: Expr) -> Expr:
        unsigned = np.dtype(f"u{key.type.itemsize}")
        lowest = literal(np.iinfo(key.type).min, key.type)
        bits = bitcast(apply("xor", key, lowest), unsigned)
        part = apply("shr", bits, cast(self.shift.value, unsigned))
        return cast(apply("and", part, literal((1 << BITS) - 1, unsigned)), dtypes.int64)

    def narrow(self) -> list[Stmt]:
        """Keep the keys whose next digit is that of the rank."""
        zero, one = literal(0, dtypes.int64), literal(1, dtypes.int64)
        size = var("size", dtypes.int64)
        i, j = axis("i", size), axis("i", size)
        at, key = var("bucket", dtypes.int64), var("key", self.keys.dtype)
        bucket, kept = Cell("bucket"), Cell("kept")
        here = self.counts[bucket.value]
        keep = eq(self.digit(key), bucket.value)
        return [
            Let(size, self.count.value),
            *vectors(1 << BITS, 8, lambda k, _: [store(self.counts, (k,), zero)]),
            loop(
                i,
                Let(at, self.digit(self.keys[i])),
                store(self.counts, (at,), apply("add", self.counts[at], one)),
            ),
            bucket.memory,
            bucket.set(zero),
            While(
                apply("le", here, self.rank.value),
                block(self.rank.set(minus(self.rank.value, here)), bucket.add(one)),
            ),
            kept.memory,
            kept.set(zero),
            loop(
                j,
                Let(key, self.keys[j]),
                store(self.keys, (kept.value,), key),
                kept.add(cast(keep, dtypes.int64)),
            ),
            self.count.set(kept.value),
        ]


class Lines:
    """The lines of an array along an axis: how many, how long, and where their elements are."""

    def __init__(self, x: Buffer, d: int) -> None:
        shape = [static(n) for n in x.shape]
        self.n, self.inner = shape[d], math.prod(shape[d + 1 :])
        self.count = math.prod(shape[:d]) * self.inner

    def place(self, line: Expr, n: int) -> tuple[Let, Place]:
        """Flat offsets in an array whose lines have `n` elements, and what they rest on."""
        o, c = index("//", line, as_index(self.inner)), index("%", line, as_index(self.inner))
        start = var("start", dtypes.int64)
        named = Let(start, plus(plus(times(o, n * self.inner), c), 0))
        return named, lambda j: plus(start, times(j, self.inner))


# -- the first k -------------------------------------------------------------------------------


@dataclass(frozen=True)
class TopK(Op):
    """The k largest elements along `axis`, largest first, and their positions (int64).

    Among equals the earlier comes first; NaN counts as largest.
    """

    k: int
    axis: int
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> tuple[Type, ...]:
        check_key(x)
        n = x.shape[self.axis]
        if not 0 <= self.k or (isinstance(n, int) and self.k > n):
            raise InternalError(f"{self.k} elements of {x!r} along axis {self.axis}")
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return x.with_shape(shape), Type(dtypes.int64, shape)

    def numpy(self, x: Any) -> tuple[Any, ...]:
        first = np.take(order(x, self.axis, True), np.arange(self.k), self.axis)
        return np.take_along_axis(x, first, self.axis), first

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return take_along(tangents[0], out[1], self.axis), None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return replace(self, axis=self.axis + 1)(*args)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (x,) = args
        lines = Lines(x, self.axis)
        if 0 in (lines.count, self.k):
            return block()
        if 8 * self.k > lines.n or lines.n < 4 * BLOCK:
            return self.sorted(outs, x, lines)
        stream = Stream(x.dtype, self.k)
        line = axis("line", lines.count)
        named, source = lines.place(line, lines.n)
        to, target = lines.place(line, self.k)
        keys = Keys(x.dtype, True, merged=True)

        def write(_: Place, j: Expr, item: Item) -> list[Stmt]:
            at, origin = var("at", dtypes.int64), var("from", dtypes.int64)
            return [
                Let(at, items.position(item)),
                Let(origin, stream.origin[at]),
                store(outs[0], (target(j),), x[source(origin)]),
                store(outs[1], (target(j),), origin),
            ]

        items = Items(Keys(keys.type), self.k, True)
        best = Buffer("best", keys.type, (self.k,))
        copy = vectors(self.k, 8, lambda i, _: [store(best, (i,), stream.keys[i])])
        last = LineSort(best, 0, items, write).loops()
        memory, body = _apart(last)
        return block(
            *stream.memory,
            Alloc(best),
            *memory,
            loop(line, named, to, *stream.run(lambda j: x[source(j)], lines.n), *copy, body),
        )

    def sorted(self, outs: Sequence[Buffer], x: Buffer, lines: Lines) -> Stmt:
        """All of a line in order, of which the first k are kept."""
        items = Items(Keys(x.dtype, True, merged=True), lines.n, True)
        ranks = Buffer("ranks", dtypes.int64, x.shape)
        line, j = axis("line", lines.count), axis("j", self.k)
        named, source = lines.place(line, lines.n)
        to, target = lines.place(line, self.k)
        origin = var("from", dtypes.int64)
        whole = LineSort(
            x, self.axis, items, lambda p, j, item: [store(ranks, (p(j),), items.position(item))]
        )
        memory, body = _apart(whole.loops())
        pick = loop(
            j,
            Let(origin, ranks[source(j)]),
            store(outs[0], (target(j),), x[source(origin)]),
            store(outs[1], (target(j),), origin),
        )
        return block(*memory, Alloc(ranks), body, loop(line, named, to, pick))

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (3, 41)),), cls(5, 1)) for d in of_kinds("biuf")]
        f64 = dtypes.float64
        for shape, along in AWKWARD_AXES:
            k = (shape[along] + 1) // 2
            found.append(Example((numbers(f64, shape),), cls(k, along), True))
        found.append(Example((numbers(f64, (10, 6)).T[::2, ::-1],), cls(4, 1), True))
        return [*found, Example((numbers(f64, (2, 700)),), cls(3, 1), True)]


def _apart(nest: Stmt) -> tuple[list[Stmt], Stmt]:
    """The memory a nest declares in its outermost block, and the rest of it."""
    inner = nest.statements if isinstance(nest, Block) else (nest,)
    memory = [s for s in inner if isinstance(s, Alloc)]
    return list(memory), Block(tuple(s for s in inner if not isinstance(s, Alloc)))


class Stream:
    """The k elements of a line with the least keys (of a descending order), in their order.

    Elements that are better than the k-th best so far are collected; whenever there is no room
    for another block, the best k of them are selected and the bound is tightened.
    """

    def __init__(self, of: dtypes.DType, k: int) -> None:
        self.k, self.coding = k, Keys(of, True, merged=True)
        self.room = BLOCK + max(2 * k, 2 * BLOCK)
        self.keys = Buffer("found", self.coding.type, (self.room,))
        self.origin = Buffer("origin", dtypes.int64, (self.room,))
        self.work = Buffer("work", self.coding.type, (self.room,))
        self.memory: list[Stmt] = [Alloc(b) for b in (self.keys, self.origin, self.work)]
        self.count = Cell("found")
        self.bound = Cell("bound", self.coding.type)

    def run(self, element: Callable[[Expr], Expr], n: int) -> list[Stmt]:
        blocks = -(-n // BLOCK)
        b, hit = axis("b", blocks), Cell("hit", dtypes.bool_)
        first, size = times(b, BLOCK), var("size", dtypes.int64)
        lanes = VECTOR_BYTES // self.coding.type.itemsize
        u, lane = axis("u", BLOCK // lanes), axis("l", lanes)
        at = plus(first, plus(times(u, lanes), lane))
        better = apply("lt", self.coding.key(element(at)), self.bound.value)
        seen = Accumulate(hit.buffer, (), "any", better)
        scan = loop(u, loop(lane, seen, kind="vector", lanes=lanes))
        full = apply("lt", as_index(self.room - BLOCK), self.count.value)
        last = eq(plus(b, 0), as_index(blocks - 1))
        select = Select(self.work)
        return [
            self.count.memory, self.bound.memory, hit.memory, *select.memory,
            self.count.set(as_index(0)),
            self.bound.set(self.coding.last),
            loop(
                b,
                Let(size, index("min", as_index(BLOCK), minus(n, first))),
                hit.set(literal(True, dtypes.bool_)),
                when(eq(size, as_index(BLOCK)) & apply("le", as_index(self.k), self.count.value),
                     hit.set(literal(False, dtypes.bool_)), scan),
                when(hit.value, *self.collect(element, first, size)),
                when(full | (last & apply("lt", as_index(self.k), self.count.value)),
                     *self.reduce(select)),
            ),
        ]  # fmt: skip

    def collect(self, element: Callable[[Expr], Expr], first: Expr, size: Expr) -> list[Stmt]:
        """Keep the elements of a block that are better than the bound, or all if there is none."""
        i, key = axis("i", size), var("key", self.coding.type)
        at = plus(first, i)
        open_ = apply("lt", self.count.value, as_index(self.k))
        keep = apply("lt", key, self.bound.value) | (open_ & eq(key, self.bound.value))
        here = (self.count.value,)
        return [
            loop(
                i,
                Let(key, self.coding.key(element(at))),
                store(self.keys, here, key),
                store(self.origin, here, plus(at, 0)),
                self.count.add(cast(keep, dtypes.int64)),
            )
        ]

    def reduce(self, select: Select) -> list[Stmt]:
        """Select the k best; of those equal to the k-th the first ones stay."""
        size = var("size", dtypes.int64)
        i, j, m = (axis("i", size) for _ in range(3))
        ties = Cell("ties")
        key = var("key", self.coding.type)
        before = apply("lt", key, self.bound.value)
        tie = eq(key, self.bound.value) & apply("lt", as_index(0), ties.value)
        better = apply("lt", self.keys[m], self.bound.value)
        here = (self.count.value,)
        return [
            Let(size, self.count.value),
            loop(i, store(self.work, (i,), self.keys[i])),
            *select.run(size, as_index(self.k - 1)),
            self.bound.set(self.work[0]),
            ties.memory,
            ties.set(as_index(self.k)),
            loop(m, ties.set(minus(ties.value, cast(better, dtypes.int64)))),
            self.count.set(as_index(0)),
            loop(
                j,
                Let(key, self.keys[j]),
                store(self.keys, here, key),
                store(self.origin, here, self.origin[j]),
                self.count.add(cast(before | tie, dtypes.int64)),
                ties.set(minus(ties.value, cast(tie, dtypes.int64))),
            ),
        ]
