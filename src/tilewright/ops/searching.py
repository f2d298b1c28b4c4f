"""Counting, looking up in sorted vectors, and the positions of what holds.

Knows histograms of integers, bisection and compaction. Refuses to know NumPy's conventions
(negative numbers, sides of bins, sizes that depend on values): `numpy/searching.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    index,
    literal,
    select,
    static,
    var,
)
from tilewright.graph import Op, Type
from tilewright.loops import Alloc, Block, Let, Stmt, block, loop, store
from tilewright.ops.indexing import positions
from tilewright.ops.nests import Cell, is_nan, minus, plus, vectors, when
from tilewright.ops.samples import Example, numbers, of_kinds, samples
from tilewright.ops.shape import Reshape

LANES: Final = 8
"""int64 elements of a vector."""

TABLES: Final = 4
"""Private tables of counts: an element that occurs again soon does not wait for its last count."""

CHAINS: Final = 16
"""Bisections that run together: the loads of one are waited for while others go on."""

LINEAR: Final = 32
"""Up to this length all elements of a sorted vector are compared, in lanes."""


# -- counting ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count(Op):
    """How often each of 0, 1, ..., length - 1 occurs in an array of integers: int64[length].

    Numbers outside are not counted.
    """

    length: int
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> Type:
        if not dtypes.is_integer(x.dtype):
            raise InternalError(f"cannot count {x!r}")
        return Type(dtypes.int64, (self.length,))

    def numpy(self, x: Any) -> Any:
        flat = np.ravel(x)
        inside = flat[(flat >= 0) & (flat < self.length)]
        return np.bincount(inside.astype(np.int64), minlength=self.length)[: self.length]

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        """One table for all members, each counting in a part of its own."""
        (x,) = args
        n = static(size)
        wide = x.astype(dtypes.int64)
        inside = (wide >= 0) & (wide < self.length)
        member = positions(wide, x.shape, 0) * self.length
        at = type(x).where(inside, wide + member, wide.full_like(-1))
        return Reshape((n, self.length))(Count(n * self.length)(at))

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (x,), (out,) = args, outs
        n, length = static(x.size), self.length
        tables = TABLES if n >= TABLES * length else 1
        stride = length + 1  # the last counts what lies outside
        narrow = dtypes.int32 if n < 1 << 31 else dtypes.int64
        counts = Buffer("counts", narrow, (tables * stride,))
        full, rest = divmod(n, tables)
        i, left = axis("i", full), axis("i", rest)
        one, clear = (literal(k, narrow) for k in (1, 0))

        def count(at: Expr, table: int) -> list[Stmt]:
            slot = var("slot", dtypes.int64)
            here = plus(slot, table * stride)
            value = apply("add", counts[here], one)
            return [Let(slot, inside(x[at], length)), store(counts, (here,), value)]

        def total(k: Expr) -> Expr:
            found: Expr = counts[k]
            for part in range(1, tables):
                found = apply("add", found, counts[plus(k, part * stride)])
            return cast(found, dtypes.int64)

        if n == 0 or length == 0:
            zero = literal(0, dtypes.int64)
            return block(*vectors(length, LANES, lambda k, _: [store(out, (k,), zero)]))
        first = index("*", i, as_index(tables))
        return block(
            Alloc(counts),
            *vectors(tables * stride, LANES, lambda k, _: [store(counts, (k,), clear)]),
            loop(i, *(s for t in range(tables) for s in count(plus(first, t), t))),
            loop(left, *count(plus(left, full * tables), 0)),
            *vectors(length, LANES, lambda k, _: [store(out, (k,), total(k))]),
        )

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (3, 41)),), cls(9)) for d in of_kinds("iu")]
        few = np.array([[3, 0, 3], [-1, 9, 1]])
        found += [Example((few,), cls(n)) for n in (0, 1, 4)]
        found += [Example((few.T[::-1, ::-1],), cls(4)), Example((few[:0],), cls(3))]
        return [*found, Example((np.array([2]),), cls(3))]


def inside(x: Expr, n: int) -> Expr:
    """An integer as a position in range(n), or n if it is none: one unsigned comparison."""
    wide = x if x.type == dtypes.uint64 else bitcast(cast(x, dtypes.int64), dtypes.uint64)
    limit = literal(n, dtypes.uint64)
    return cast(select(apply("lt", wide, limit), wide, limit), dtypes.int64)


# -- sorted vectors ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchSorted(Op):
    """For every element of the second argument how many of the first, a sorted vector of the same
    type, stand before it (int64); with `right` also those equal to it. NaN stands last. Leading
    axes of the first but its last are axes of the second, and run together.

    Bisection without branches (Khuong and Morin, "Array layouts for comparison-based searching",
    ACM JEA 22, 2017).
    """

    right: bool
    fusion: ClassVar[str] = "opaque"

    def type(self, a: Type, v: Type) -> Type:
        together = a.ndim > 0 and a.shape[:-1] == v.shape[: a.ndim - 1]
        if not together or a.dtype != v.dtype or dtypes.is_complex(a.dtype):
            raise InternalError(f"cannot look up {v!r} in {a!r}")
        return v.with_dtype(dtypes.int64)

    def numpy(self, a: Any, v: Any) -> Any:
        wide = dtypes.compute_type(a.dtype)
        side: Any = "right" if self.right else "left"
        out = np.empty(v.shape, np.int64)
        for at in np.ndindex(a.shape[:-1]):
            out[at] = np.searchsorted(a[at].astype(wide), v[at].astype(wide), side)
        return out

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        if not batched[0] and len(args[0].shape) == 1:
            return self(*args)
        full = (x if b else x.broadcast_leading(size) for x, b in zip(args, batched, strict=True))
        return self(*full)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (a, v), (out,) = args, outs
        n, lines = static(a.shape[-1]), math.prod(static(k) for k in a.shape[:-1])
        if static(v.size) == 0:
            return block()
        count = static(v.size) // lines
        line = axis("b", lines)
        found = Lookup(
            a, v, out, self.right, n, index("*", line, as_index(n)),
            index("*", line, as_index(count)),
        )  # fmt: skip
        return loop(line, Block(tuple(found.all(count))))

    @classmethod
    def examples(cls) -> list[Example]:
        rows = np.sort(numbers(dtypes.float64, (3, 40)))
        found = [Example((rows, numbers(dtypes.float64, (3, 11))), cls(False))]
        found.append(Example((rows[::-2, ::3], numbers(dtypes.float64, (5, 2)).T), cls(True)))
        for right in (False, True):
            for d in of_kinds("biuf"):
                x = samples(d, (41,))
                wide = np.sort(x.astype(dtypes.compute_type(d))).astype(d)
                some = samples(d, (5, 3), 1)
                found += [Example((wide, some), cls(right)), Example((wide[::5], some), cls(right))]
            nan = np.sort(np.array([1.0, np.nan, -np.inf, np.inf, 2.0, np.nan]))
            found.append(Example((nan, nan), cls(right)))
            found.append(Example((np.repeat(nan, 7), nan[::-1]), cls(right)))
            line = np.sort(numbers(dtypes.float64, (100,)))
            found += [Example((line[:n], line[::7]), cls(right)) for n in (0, 1, 63, 64, 65)]
            found.append(Example((line, line[:0]), cls(right)))
        return found


class Lookup:
    """The loops of one lookup: elements of `a` from flat offset `start` on, and queries of `v` and
    results of `out` from `first` on."""

    def __init__(
        self, a: Buffer, v: Buffer, out: Buffer, right: bool, n: int, start: Expr, first: Expr
    ) -> None:
        self.a, self.v, self.out, self.right, self.n = a, v, out, right, n
        self.start, self.first = start, first
        self.end = Cell("numbers")

    def all(self, count: int) -> list[Stmt]:
        """The results of `count` queries. NaN is looked up among numbers, once for all."""
        known: list[Stmt] = [self.end.memory, self.end.set(as_index(self.n))]
        if dtypes.is_float(self.a.dtype) and not self.right and self.n:
            known += self.bisect([self.end], lambda x, _: apply("eq", x, x))
        if self.n <= LINEAR:
            return [*known, *vectors(count, LANES, lambda i, _: [self.found(i, self.compared(i))])]
        groups, rest = divmod(count, CHAINS)
        g, left = axis("g", groups), axis("i", rest)
        many = loop(g, *self.together(index("*", g, as_index(CHAINS)), CHAINS))
        return [*known, many, loop(left, *self.together(plus(left, groups * CHAINS), 1))]

    def found(self, i: Expr, where: Expr) -> Stmt:
        at = plus(self.first, i)
        if dtypes.is_float(self.v.dtype):
            where = select(is_nan(self.v[at]), self.end.value, where)
        return store(self.out, (at,), where)

    def together(self, first: Expr, chains: int) -> list[Stmt]:
        """Neighbouring queries."""
        places = [plus(first, c) for c in range(chains)]
        queries = [var("v", self.v.dtype) for _ in places]
        cells = [Cell("low") for _ in places]
        lets = [Let(q, self.v[plus(self.first, p)]) for q, p in zip(queries, places, strict=True)]
        steps = self.bisect(cells, lambda x, c: self.before(x, queries[c]))
        stores = [self.found(p, c.value) for p, c in zip(places, cells, strict=True)]
        return [*lets, *(c.memory for c in cells), *steps, *stores]

    def before(self, x: Expr, query: Expr) -> Expr:
        """Whether x stands before a query that is not NaN."""
        wide = dtypes.compute_type(x.type)
        return apply("le" if self.right else "lt", cast(x, wide), cast(query, wide))

    def compared(self, i: Expr) -> Expr:
        """The number of elements that stand before query i."""
        query = self.v[plus(self.first, i)]
        found: Expr = literal(0, dtypes.int64)
        for k in range(self.n):
            before = self.before(self.a[plus(self.start, k)], query)
            found = apply("add", found, cast(before, dtypes.int64))
        return found

    def bisect(self, cells: Sequence[Cell], holds: Callable[[Expr, int], Expr]) -> list[Stmt]:
        """Each cell becomes the number of leading elements for which holds(element, cell's number)
        is true."""
        width, half = Cell("width"), var("half", dtypes.int64)

        def advance(c: int, cell: Cell, by: Expr) -> Stmt:
            probe = self.a[plus(self.start, minus(plus(cell.value, by), 1))]
            # A product, where a choice would become a branch that is mispredicted half the time.
            return cell.add(apply("mul", cast(holds(probe, c), dtypes.int64), by))

        rounds = axis("round", (self.n - 1).bit_length())
        return [
            *(cell.set(as_index(0)) for cell in cells),
            width.memory,
            width.set(as_index(self.n)),
            loop(
                rounds,
                Let(half, apply("shr", width.value, as_index(1))),
                *(advance(c, cell, half) for c, cell in enumerate(cells)),
                width.set(minus(width.value, half)),
            ),
            *(advance(c, cell, as_index(1)) for c, cell in enumerate(cells)),
        ]


# -- what holds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nonzero(Op):
    """The first `size` positions along the last axis at which bools hold (int64, 0 where there are
    no more), and at how many they hold (int64)."""

    size: int
    fusion: ClassVar[str] = "opaque"

    def type(self, mask: Type) -> tuple[Type, ...]:
        if mask.ndim == 0 or not dtypes.is_bool(mask.dtype):
            raise InternalError(f"{self.name} of {mask!r}")
        lead = mask.shape[:-1]
        return Type(dtypes.int64, (*lead, self.size)), Type(dtypes.int64, lead)

    def numpy(self, mask: Any) -> Any:
        out = np.zeros((*mask.shape[:-1], self.size), np.int64)
        for at in np.ndindex(mask.shape[:-1]):
            found = np.flatnonzero(mask[at])[: self.size]
            out[at][: len(found)] = found
        return out, np.asarray(np.count_nonzero(mask, -1), np.int64)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None, None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self(*args)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (mask,), (found, count) = args, outs
        n, lines = static(mask.shape[-1]), math.prod(static(k) for k in mask.shape[:-1])
        line, i, seen = axis("b", lines), axis("i", n), Cell("seen")
        first = index("*", line, as_index(self.size))
        here = (plus(first, seen.value),)
        fits = apply("lt", seen.value, as_index(self.size))
        end = var("end", dtypes.int64)
        rest = axis("r", minus(self.size, end))
        held = cast(mask[plus(index("*", line, as_index(n)), i)], dtypes.int64)
        # Written whether it holds or not: what does not hold is overwritten by what holds next.
        return loop(line, Block((
            seen.memory,
            seen.set(as_index(0)),
            loop(i, when(fits, store(found, here, plus(i, 0))), seen.add(held)),
            Let(end, index("min", seen.value, as_index(self.size))),
            loop(rest, store(found, (plus(plus(first, end), rest),), literal(0, dtypes.int64))),
            store(count, (line,) if len(count.shape) else (), seen.value),
        )))  # fmt: skip

    @classmethod
    def examples(cls) -> list[Example]:
        mask = samples(dtypes.bool_, (41,))
        found = [Example((mask,), cls(n)) for n in (0, 1, 5, 41, 60)]
        found += [Example((mask[::-3],), cls(13)), Example((mask[:0],), cls(2))]
        found.append(Example((samples(dtypes.bool_, (7, 6)).T,), cls(3)))
        return [*found, Example((np.array([True]),), cls(1)), Example((~mask,), cls(41))]
