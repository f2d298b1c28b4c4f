"""Some elements of the sorted order, found without sorting: the k first, and given ranks.

Knows selection by digits (the bucket of each digit that holds the rank; what lies elsewhere is
dropped) and a stream's best elements. Refuses to know quantiles, and how whole lines are sorted.
"""

from __future__ import annotations

import itertools
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
    select,
    static,
    var,
)
from tilewright.graph import Op, Type
from tilewright.loops import Accumulate, Alloc, Block, Let, Stmt, While, block, loop, store
from tilewright.ops.indexing import take_along
from tilewright.ops.nests import Cell, minus, plus, vectors, when
from tilewright.ops.samples import AWKWARD_AXES, Example, numbers, of_kinds, samples
from tilewright.ops.sort import Argsort, check_key, order
from tilewright.ops.sort_lines import LineSort
from tilewright.ops.sort_loops import VECTOR_BYTES, Item, Items, Keys, Place, times

FEW: Final = 1 << 13
"""From so many keys on, a table of 2^11 counts is small beside them."""

BLOCK: Final = 32
"""Elements of a stream that are compared with the k-th best so far before any is looked at."""


class Select:
    """Finds the key of a rank (from 0) among the first `count` keys of a buffer, which it uses up.

    Digit by digit from the most significant: the keys with the rank's digit are moved to the
    front, until all that remain are equal.
    """

    def __init__(self, keys: Buffer) -> None:
        self.keys, self.width = keys, 8 * keys.dtype.itemsize
        self.bits = min(self.width, 11 if static(keys.size) >= FEW else 8)
        self.counts = Buffer("counts", dtypes.int64, (1 << self.bits,), "stack")
        self.count, self.rank = Cell("count"), Cell("rank")
        self.shift = Cell("shift")
        self.memory = [Alloc(self.counts), self.count.memory, self.rank.memory, self.shift.memory]

    def run(self, count: Expr, rank: Expr) -> list[Stmt]:
        """Afterwards the key is the first of the buffer."""
        left = apply("lt", as_index(1), self.count.value)
        more = left & apply("le", as_index(0), self.shift.value)
        # The last digit overlaps the one before where the width is no multiple of its bits.
        lower = index("max", minus(self.shift.value, self.bits), as_index(0))
        ends = apply("le", self.shift.value, as_index(0))
        following = self.shift.set(select(ends, -1, lower))
        return [
            self.count.set(count),
            self.rank.set(rank),
            self.shift.set(as_index(self.width - self.bits)),
            While(more, block(*self.narrow(), following)),
        ]

    def digit(self, key: Expr) -> Expr:
        unsigned = np.dtype(f"u{key.type.itemsize}")
        lowest = literal(np.iinfo(key.type).min, key.type)
        bits = bitcast(apply("xor", key, lowest), unsigned)
        part = apply("shr", bits, cast(self.shift.value, unsigned))
        return cast(apply("and", part, literal((1 << self.bits) - 1, unsigned)), dtypes.int64)

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
            *vectors(1 << self.bits, 8, lambda k, _: [store(self.counts, (k,), zero)]),
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
        if 8 * self.k > lines.n or lines.n < 8 * BLOCK:
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


# -- given ranks -------------------------------------------------------------------------------


@dataclass(frozen=True)
class OrderStatistics(Op):
    """The elements of the given ranks (from 0, increasing) in the order of `Sort` along the last
    axis, which they replace."""

    ranks: tuple[int, ...]
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> Type:
        check_key(x)
        n = x.shape[-1]
        rising = all(a < b for a, b in itertools.pairwise((-1, *self.ranks)))
        if not rising or (isinstance(n, int) and self.ranks and self.ranks[-1] >= n):
            raise InternalError(f"ranks {self.ranks} of {x!r}")
        return x.with_shape((*x.shape[:-1], len(self.ranks)))

    def numpy(self, x: Any) -> Any:
        at = np.take(order(x, -1, False), np.array(self.ranks, np.int64), -1)
        return np.take_along_axis(x, at, -1)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """The tangents of the elements that have the ranks."""
        last = len(out.shape) - 1
        at = Argsort(last)(args[0])[..., np.array(self.ranks, np.int64)]
        return take_along(tangents[0], at, last)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self(*args)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (x,), (out,) = args, outs
        d = len(x.shape) - 1
        lines, k = Lines(x, d), len(self.ranks)
        if 0 in (lines.count, k):
            return block()
        keys, line = Keys(x.dtype), axis("line", lines.count)
        result = times(line, k)
        sorted_ = Buffer("sorted", x.dtype, x.shape)
        items = Items(keys, lines.n, False)
        whole = LineSort(
            x, d, items, lambda p, j, item: [store(sorted_, (p(j),), items.element(item))]
        )
        runs = 1 + sum(b - a > 1 for a, b in itertools.pairwise(self.ranks))
        if whole.cost <= lines.count * (lines.n * (0.5 + 2.0 * runs) + 3000 * runs):
            memory, body = _apart(whole.loops())
            first = times(line, lines.n)
            picks = [store(out, (plus(result, i),), sorted_[plus(first, r)])
                     for i, r in enumerate(self.ranks)]  # fmt: skip
            return block(*memory, Alloc(sorted_), body, loop(line, *picks))
        ranked = Ranked(keys, lines.n)
        first = times(line, lines.n)
        return block(
            *ranked.memory,
            loop(
                line,
                *ranked.read(lambda j: x[plus(first, j)]),
                *ranked.find(
                    self.ranks, lambda i, key: store(out, (plus(result, i),), keys.element(key))
                ),
            ),
        )

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (3, 41)),), cls((0, 7, 8, 40))) for d in of_kinds("biuf")]
        f64 = dtypes.float64
        found += [Example((numbers(f64, (2, n)),), cls(r), True)
                  for n, r in ((5, (0,)), (13, (6,)), (13, ()), (4, (1, 2)))]  # fmt: skip
        found.append(Example((numbers(f64, (0, 3)),), cls((1,)), True))
        found.append(Example((numbers(f64, (1,)),), cls((0,)), True))
        return [*found, Example((numbers(f64, (10, 6)).T[::2, ::-1],), cls((4, 9)), True)]


class Ranked:
    """Finds the keys of ranks in one line after the other."""

    def __init__(self, coding: Keys, n: int) -> None:
        self.coding, self.n = coding, n
        self.keys = Buffer("keys", coding.type, (n,))
        self.work = Buffer("work", coding.type, (n,))
        self.lanes = VECTOR_BYTES // coding.type.itemsize
        self.memory: list[Stmt] = [Alloc(self.keys), Alloc(self.work)]

    def read(self, element: Callable[[Expr], Expr]) -> list[Stmt]:
        """Take a line."""
        key = self.coding.key
        return vectors(self.n, self.lanes, lambda j, _: [store(self.keys, (j,), key(element(j)))])

    def find(self, ranks: Sequence[int], put: Callable[[int, Expr], Stmt]) -> list[Stmt]:
        """`put(i, key of rank i)` for all ranks. That of a rank's successor needs no selection."""
        select = Select(self.work)
        found = Cell("key", self.coding.type)
        out: list[Stmt] = [*select.memory, found.memory]
        for i, rank in enumerate(ranks):
            if i and rank == ranks[i - 1] + 1:
                out += self.following(found, rank)
            else:
                out += vectors(
                    self.n, self.lanes, lambda j, _: [store(self.work, (j,), self.keys[j])]
                )
                out += select.run(as_index(self.n), as_index(rank))
                out.append(found.set(self.work[0]))
            out.append(put(i, found.value))
        return out

    def following(self, found: Cell, rank: int) -> list[Stmt]:
        """From the key of the rank before: the same, if enough keys equal it, or the next one."""
        least, known = Cell("next", self.coding.type), var("known", self.coding.type)
        upto = Cell("upto")

        def look(j: Expr, _: Expr) -> list[Stmt]:
            key = self.keys[j]
            late = apply("lt", known, key)
            here = select(late, key, self.coding.last)
            return [
                Accumulate(least.buffer, (), "min", here),
                Accumulate(upto.buffer, (), "sum", cast(~late, dtypes.int64)),
            ]

        enough = apply("lt", as_index(rank), upto.value)
        return [
            Let(known, found.value),
            least.memory,
            least.set(self.coding.last),
            upto.memory,
            upto.set(as_index(0)),
            *vectors(self.n, self.lanes, look),
            found.set(select(enough, known, least.value)),
        ]


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
        lanes = min(BLOCK, VECTOR_BYTES // self.coding.type.itemsize)
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
