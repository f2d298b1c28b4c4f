"""Attention as loops: a block of queries against the keys it may see, forward and gradient.

Knows tiles of scores in registers, the running softmax over blocks of keys (Milakov and Gimelshein
2018), and which keys a block of queries may skip. Refuses to know types and derivatives
(`attention.py`).

The scores of a block are kept transposed: one row for each key, one lane for each query. So the
keys are read where they are, element after element, the softmax runs down the rows without ever
combining lanes, and only the block of queries itself is turned. The products are tiles of
accumulators in registers; everything a block writes again and again stays in the second-level
cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Lit,
    Load,
    apply,
    as_index,
    axis,
    cast,
    eq,
    index,
    literal,
    ne,
    select,
    var,
)
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    Flip,
    Let,
    Stmt,
    While,
    block,
    loop,
    store,
)
from tilewright.ops import elementwise as el
from tilewright.ops.attention_blocks import SCAN, VECTOR_BYTES, Blocks
from tilewright.ops.nests import Cell, minus, plus, when

Layout = tuple[str, ...]
Place = Mapping[str, Expr]

DEEP: Final = -1000.0
"""A masked score this low is expected to have no weight; that it had none is checked."""


def product(sizes: Sequence[int]) -> int:
    return math.prod(sizes)


def least(a: Expr, b: Expr) -> Expr:
    return index("min", a, b)


def most(a: Expr, b: Expr) -> Expr:
    return index("max", a, b)


def times(a: Expr, n: int) -> Expr:
    return index("*", a, as_index(n))


def ceiling(a: Expr, n: int) -> Expr:
    """How many pieces of n make a."""
    return index("//", plus(a, n - 1), as_index(n))


def exp(x: Expr) -> Expr:
    return apply(el.exp.row.scalar, x)


def larger(a: Expr, b: Expr) -> Expr:
    """The larger number; of a NaN in `b` nothing is left (the exponentials keep it)."""
    return select(a < b, b, a)


START: Final = as_index(0)


@dataclass(frozen=True)
class Operand:
    """An array whose axes are made of letters, and where it starts (`base`, in elements)."""

    buffer: Buffer
    layout: Layout
    sizes: Mapping[str, int]
    base: Expr = START

    def stride(self, letter: str) -> int:
        """Elements between neighbours along a letter; 0 if the array does not depend on it."""
        step = 1
        for a in reversed("".join(self.layout)):
            if a == letter:
                return step
            step *= self.sizes[a]
        return 0

    def offset(self, place: Place) -> Expr:
        found = self.base
        for letter, at in place.items():
            step = self.stride(letter)
            found = plus(found, times(at, step)) if step else found
        return found

    def at(self, place: Place, guard: Expr | None = None) -> Load:
        return Load(self.buffer, (self.offset(place),), guard)

    def started(self, place: Place) -> tuple[Stmt, Operand]:
        """The array from `place` on, which is computed once."""
        base = var("base", dtypes.int64)
        return Let(base, plus(self.offset(place), 0)), Operand(
            self.buffer, self.layout, self.sizes, base
        )


# -- vectors and tiles -------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Neighbouring columns in registers: `full` vectors from vector `start` on, then `tail`
    columns of one more. The same again `times`."""

    start: int
    full: int
    tail: int
    times: int = 1

    @property
    def count(self) -> int:
        return self.full + (self.tail > 0)

    @property
    def rows(self) -> int:
        """Rows of the tile that goes with them: 16 to 24 accumulators."""
        return {1: 16, 2: 8, 3: 8}.get(self.count, 4)

    @classmethod
    def of(cls, width: int, lanes: int, most: int = 6) -> list[Columns]:
        """All columns of a matrix, in groups of at most so many vectors."""
        whole, tail = divmod(width, lanes)
        count = whole + (tail > 0)
        if not count:
            return []
        groups = -(-count // most)
        sizes = [count // groups + (g < count % groups) for g in range(groups)]
        found: list[Columns] = []
        start = 0
        for n in sizes:
            last = tail if start + n == count else 0
            before = found[-1] if found else None
            if before is not None and not last and (before.full, before.tail) == (n, 0):
                found[-1] = cls(before.start, n, 0, before.times + 1)
            else:
                found.append(cls(start, n - (last > 0), last))
            start += n
        return found

    def each(self, lanes: int, body: Callable[[Expr, Axis], Stmt]) -> list[Stmt]:
        """`body(vector, lane)` for every column."""
        out = []
        if self.full:
            j, x = axis("j", self.full), axis("x", lanes)
            out.append(loop(j, loop(x, body(j, x), kind="vector", lanes=lanes), kind="unroll"))
        if self.tail:
            x = axis("x", self.tail)
            out.append(loop(x, body(as_index(self.full), x), kind="vector", lanes=lanes))
        return out

    def repeated(self, lanes: int, body: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
        """`body(first column)` for each repetition."""
        if self.times == 1:
            return block(*body(as_index(self.start * lanes)))
        g = axis("g", self.times)
        return loop(g, *body(plus(times(g, self.full * lanes), self.start * lanes)))


Element = Callable[[Expr, Expr], Expr]


def tile(
    rows: int, columns: Columns, lanes: int, inner: Axis, left: Element, right: Callable[..., Expr],
    write: Callable[[Expr, Expr, Axis, Expr], Stmt],
) -> Block:  # fmt: skip
    """write(r, j, x, the sum over k of left(r, k) right(k, j, x)) for a tile in registers."""
    k = inner
    dtype = left(as_index(0), k).type
    acc = Buffer("acc", dtype, (rows, columns.count, lanes), "registers")

    def every(body: Callable[[Expr, Expr, Axis], Stmt]) -> Stmt:
        r = axis("r", rows)
        return loop(r, *columns.each(lanes, lambda j, x: body(r, j, x)), kind="unroll")

    def step(r: Expr, j: Expr, x: Axis) -> Stmt:
        return Accumulate(acc, (r, j, x), "sum", apply("mul", left(r, k), right(k, j, x)))

    return Block((
        Alloc(acc),
        every(lambda r, j, x: store(acc, (r, j, x), literal(0, dtype))),
        loop(k, every(step)),
        every(lambda r, j, x: write(r, j, x, acc[r, j, x])),
    ))  # fmt: skip


# -- a block of queries ------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What happens to scores: a mask (`fill` where false), a bias, or causality: a key is seen up
    to `offset` places beyond the query's own position."""

    kind: str
    operand: Operand | None
    fill: float = 0.0
    offset: int = 0


@dataclass(frozen=True)
class Queries:
    """`width` queries from `start` on of one head, in lanes, and what they meet. `clear` has, for
    steps whose array is scanned, the first key that they may hide from one of the queries."""

    query: Operand
    key: Operand
    value: Operand
    steps: tuple[Step, ...]
    start: Expr
    scale: float
    dtype: DType
    blocks: Blocks
    clear: tuple[Cell | None, ...] = ()

    @property
    def sizes(self) -> Mapping[str, int]:
        return self.query.sizes

    @property
    def lanes(self) -> int:
        return VECTOR_BYTES // self.dtype.itemsize

    @property
    def count(self) -> int:
        """Vectors of queries."""
        return self.blocks.vectors

    @property
    def width(self) -> int:
        return self.count * self.lanes or self.sizes["t"]

    @property
    def all(self) -> Columns:
        return Columns(0, self.count, 0)

    @property
    def rows(self) -> int:
        return max(min(self.blocks.rows, self.sizes["s"]), 1)

    @property
    def present(self) -> Expr:
        """How many queries of the block there are."""
        return least(as_index(self.width), minus(self.sizes["t"], self.start))

    def number(self, value: float) -> Lit:
        return literal(value, self.dtype)

    def lane(self, j: Expr, x: Expr) -> Expr:
        return plus(times(j, self.lanes), x)

    def register(self, name: str) -> Buffer:
        return Buffer(name, self.dtype, (self.count, self.lanes), "registers")

    def each(self, body: Callable[[Expr, Axis], Stmt]) -> list[Stmt]:
        return self.all.each(self.lanes, body)

    def line(self, name: str) -> Buffer:
        """One number for each query."""
        return Buffer(name, self.dtype, (self.width,), "stack")

    def scores(self, name: str, keys: int) -> Buffer:
        """Room for the scores of a block of keys, behind a tile that the first one may overlap;
        tiles and turned masks may write beyond."""
        beyond = self.blocks.rows + self.lanes
        return Buffer(name, self.dtype, (self.rows + keys + beyond, self.width), "stack")

    # -- turning ------------------------------------------------------------------------------

    def turned(self, source: Operand, letter: str, scale: float) -> tuple[Buffer, list[Stmt]]:
        """source[t, letter] of the block's queries as a buffer [letter, lane], scaled; zero for
        queries that are not there."""
        n = self.sizes[letter]
        target = Buffer("turned", self.dtype, (n, self.width), "stack")
        factor = self.number(scale)
        if source.stride(letter) != 1:
            k = axis("k", n)

            def move(j: Expr, x: Axis) -> Stmt:
                t = plus(self.start, self.lane(j, x))
                value = source.at({"t": t, letter: k}, t < self.sizes["t"])
                return store(target, (k, self.lane(j, x)), cast(value, self.dtype) * factor)

            return target, [Alloc(target), loop(k, *self.each(move))]
        body: list[Stmt] = [Alloc(target)]
        whole, tail = divmod(n, self.lanes)
        pieces = [(0, whole, self.lanes)] * (whole > 0) + [(whole, 1, tail)] * (tail > 0)
        for first, count, part in pieces:
            c, j = axis("c", count), axis("j", self.count)
            k0 = times(plus(c, first), self.lanes)

            def read(u: Expr, v: Expr, k0: Expr = k0, j: Expr = j) -> Expr:
                t = plus(plus(self.start, times(j, self.lanes)), u)
                place = {"t": t, letter: plus(k0, v)}
                return cast(source.at(place, t < self.sizes["t"]), self.dtype) * factor

            def write(u: Expr, v: Expr, x: Expr, k0: Expr = k0, j: Expr = j) -> Stmt:
                return store(target, (plus(k0, u), self.lane(j, v)), x)

            body.append(loop(c, loop(j, self.flipped(part, read, write))))
        return target, body

    def flipped(
        self, part: int, read: Callable[[Expr, Expr], Expr],
        write: Callable[[Expr, Expr, Expr], Stmt],
    ) -> Block:  # fmt: skip
        """write(v, u, read(u, v)) for all lanes u and v < part, through a square of registers."""
        square = Buffer("square", self.dtype, (self.lanes, self.lanes), "registers")
        u, v = axis("u", self.lanes), axis("v", part)
        fill = loop(v, store(square, (u, v), read(u, v)), kind="vector", lanes=self.lanes)
        p, q = axis("p", part), axis("q", self.lanes)
        drain = loop(q, write(p, q, square[p, q]), kind="vector", lanes=self.lanes)
        zero = []
        if part < self.lanes:
            a, b = axis("a", self.lanes), axis("b", self.lanes)
            nothing = store(square, (a, b), self.number(0))
            inner = loop(b, nothing, kind="vector", lanes=self.lanes)
            zero.append(loop(a, inner, kind="unroll"))
        return Block((
            Alloc(square), *zero, loop(u, fill, kind="unroll"), Flip(square),
            loop(p, drain, kind="unroll"),
        ))  # fmt: skip

    # -- scores -------------------------------------------------------------------------------

    def against(
        self, turned: Buffer, keys: Operand, letter: str, first: Expr, n: Expr, out: Buffer
    ) -> Stmt:
        """out[s] = the sum over `letter` of keys[first + s] * turned, for n keys: by tiles, the
        last of which begins early instead of being smaller."""
        i = axis("i", ceiling(n, self.rows))
        g, at = var("g", dtypes.int64), var("at", dtypes.int64)
        start = least(plus(first, times(i, self.rows)), as_index(self.sizes["s"] - self.rows))

        def left(r: Expr, k: Expr) -> Expr:
            return cast(keys.at({"s": plus(g, r), letter: k}), self.dtype)

        def right(k: Expr, j: Expr, x: Expr) -> Expr:
            return turned[k, self.lane(j, x)]

        def write(r: Expr, j: Expr, x: Axis, value: Expr) -> Stmt:
            return store(out, (plus(at, r), self.lane(j, x)), value)

        body = tile(self.rows, self.all, self.lanes, axis("k", self.sizes[letter]),
                    left, right, write)  # fmt: skip
        return loop(i, Block((Let(g, plus(start, 0)),
                              Let(at, minus(plus(g, self.rows), first)), body)))  # fmt: skip

    def stepped(self, scores: Buffer, first: Expr, n: Expr, zeroed: bool = False) -> list[Stmt]:
        """Apply the steps to the scores of n keys; if `zeroed` to their cotangents: zero where a
        mask hides the score."""
        out: list[Stmt] = []
        for step, clear in zip(self.steps, self.clear, strict=True):
            fill = self.number(0.0 if zeroed else step.fill)
            if step.kind == "causal":
                out.append(self.causal(scores, first, n, step.offset, fill))
            elif not (zeroed and step.kind == "bias"):
                assert step.operand is not None
                out.append(self.combined(scores, first, n, step, step.operand, fill, clear))
        return out

    def causal(self, scores: Buffer, first: Expr, n: Expr, offset: int, fill: Lit) -> Stmt:
        """`fill` where the key stands behind what the query may see."""
        low = least(most(minus(plus(self.start, offset + 1), first), as_index(0)), n)
        s = axis("s", minus(n, low))
        row, key = var("row", dtypes.int64), var("key", dtypes.int64)

        def hide(j: Expr, x: Axis) -> Stmt:
            at = (plus(row, self.rows), self.lane(j, x))
            last = plus(plus(self.start, self.lane(j, x)), offset)
            return store(scores, at, select(apply("le", key, last), scores[at], fill))

        body = (Let(row, plus(low, s)), Let(key, plus(first, row)), *self.each(hide))
        return loop(s, Block(body))

    def combined(
        self, scores: Buffer, first: Expr, n: Expr, step: Step, x: Operand, fill: Lit,
        clear: Cell | None,
    ) -> Stmt:  # fmt: skip
        """The scores with a mask or a bias."""

        def joined(at: tuple[Expr, Expr], value: Expr) -> Stmt:
            old = scores[at]
            if step.kind == "bias":
                return store(scores, at, old + cast(value, self.dtype))
            seen = value if dtypes.is_bool(value.type) else apply("ne", value, self.number(0))
            return store(scores, at, select(seen, old, fill))

        if x.stride("t") and x.stride("s") == 1:
            skipped, begin = var("skipped", dtypes.int64), as_index(0)
            if clear is not None:
                before = index(
                    "//", most(minus(clear.value, first), as_index(0)), as_index(self.lanes)
                )
                begin = least(before, ceiling(n, self.lanes))
            rest, j = axis("c", minus(ceiling(n, self.lanes), skipped)), axis("j", self.count)
            c = plus(rest, skipped)

            def read(u: Expr, v: Expr) -> Expr:
                t = plus(plus(self.start, times(j, self.lanes)), u)
                s = plus(plus(first, times(c, self.lanes)), v)
                there = t < self.sizes["t"]
                if self.sizes["s"] % SCAN:  # blocks of keys begin at multiples of it
                    there = there & (s < self.sizes["s"])
                return cast(x.at({"t": t, "s": s}, there), self.dtype)

            def write(u: Expr, v: Expr, value: Expr) -> Stmt:
                row = plus(plus(times(c, self.lanes), u), self.rows)
                return joined((row, self.lane(j, v)), value)

            tiles = loop(rest, loop(j, self.flipped(self.lanes, read, write)))
            return Block((Let(skipped, begin), tiles))
        s = axis("s", n)

        def direct(j: Expr, lane: Axis) -> Stmt:
            t = plus(self.start, self.lane(j, lane))
            guard = (t < self.sizes["t"]) if x.stride("t") else None
            value = x.at({"t": t, "s": plus(first, s)}, guard)
            return joined((plus(s, self.rows), self.lane(j, lane)), value)

        return loop(s, *self.each(direct))

    def peak(self, scores: Buffer, n: Expr, top: Buffer) -> list[Stmt]:
        """top = the larger of it and the largest score of each query: four rows at a time, which
        do not wait for one another."""
        four, low = 4, self.number(-math.inf)
        parts = Buffer("parts", self.dtype, (four, self.count, self.lanes), "registers")
        u, i, pad = axis("u", four), axis("i", ceiling(n, four)), axis("pad", four - 1)

        def row(u: Expr) -> Expr:
            return plus(plus(times(i, four), u), self.rows)

        beyond = plus(plus(n, pad), self.rows)
        rest = axis("rest", four)
        return [
            Alloc(parts),
            loop(pad, *self.each(lambda j, x: store(scores, (beyond, self.lane(j, x)), low))),
            loop(u, *self.each(lambda j, x: store(parts, (u, j, x), low)), kind="unroll"),
            loop(i, loop(u, *self.each(lambda j, x: store(
                parts, (u, j, x), larger(parts[u, j, x], scores[row(u), self.lane(j, x)])
            )), kind="unroll")),
            loop(rest, *self.each(lambda j, x: store(
                top, (self.lane(j, x),), larger(top[self.lane(j, x)], parts[rest, j, x])
            )), kind="unroll"),
        ]  # fmt: skip

    # -- which keys ---------------------------------------------------------------------------

    @property
    def skipping(self) -> list[Step]:
        """The steps that may leave whole blocks of keys without weight: minus infinity, if nothing
        puts a number in its place; a lower number than any score, if nothing follows."""
        found = []
        for i, step in enumerate(self.steps):
            after = self.steps[i + 1 :]
            kept = all(s.kind == "bias" or s.fill == -math.inf for s in after)
            deep = step.fill == -math.inf if after else step.fill < DEEP
            if step.kind != "bias" and kept and deep:
                found.append(step)
        return found

    def seen(self, low: Cell, high: Cell) -> list[Stmt]:
        """[low, high): keys outside of it are hidden from the whole block."""
        out: list[Stmt] = [low.memory, high.memory, low.set(as_index(0)),
                           high.set(as_index(self.sizes["s"]))]  # fmt: skip
        skipping = self.skipping
        for step, clear in zip(self.steps, self.clear, strict=True):
            if clear is not None and step.operand is not None:
                out += self.scanned(step.operand, low, high, clear)
            elif step.operand is None and step in skipping:
                behind = plus(plus(self.start, self.present), step.offset)
                out.append(high.set(least(high.value, most(behind, as_index(0)))))
        return out

    def scanning(self) -> Queries:
        """With a cell for each step whose array is scanned."""
        skipping = self.skipping
        cells = [
            Cell("clear") if s in skipping and s.operand and s.operand.stride("s") == 1 else None
            for s in self.steps
        ]
        return replace(self, clear=tuple(cells))

    def scanned(self, mask: Operand, low: Cell, high: Cell, clear: Cell) -> list[Stmt]:
        """Narrow the range to where a mask is true for some query of the block, and find from
        where on it is not true for all."""
        first, last = Cell("first"), Cell("last")
        some, all_ = (Buffer(name, dtypes.uint8, (SCAN,), "registers") for name in ("some", "all"))
        any_one, every = Cell("any", dtypes.uint8), Cell("every", dtypes.uint8)
        rows = self.present if mask.stride("t") else as_index(1)

        def lanes(body: Callable[[Axis], Stmt], width: int = SCAN) -> Stmt:
            x = axis("x", width)
            return loop(x, body(x), kind="vector", lanes=SCAN)

        def chunk(start: Expr, width: int) -> list[Stmt]:
            t = axis("t", rows)

            def value(x: Axis) -> Expr:
                place = {"t": plus(self.start, t), "s": plus(start, x)}
                return cast(mask.at(place), dtypes.uint8)

            return [
                lanes(lambda x: store(some, (x,), literal(0, dtypes.uint8))),
                lanes(lambda x: store(all_, (x,), literal(1, dtypes.uint8))),
                loop(
                    t,
                    lanes(lambda x: Accumulate(some, (x,), "max", value(x)), width),
                    lanes(lambda x: Accumulate(all_, (x,), "min", value(x)), width),
                ),
                any_one.set(0),
                every.set(1),
                lanes(lambda x: Accumulate(any_one.buffer, (), "max", some[x])),
                lanes(lambda x: Accumulate(every.buffer, (), "min", all_[x])),
                when(ne(any_one.value, 0), first.set(least(first.value, start)),
                     last.set(most(last.value, plus(start, width)))),
                when(eq(every.value, 0), clear.set(least(clear.value, start))),
            ]  # fmt: skip

        n = self.sizes["s"]
        c = axis("c", n // SCAN)
        return [
            first.memory, last.memory, any_one.memory, every.memory, Alloc(some), Alloc(all_),
            clear.memory, first.set(as_index(n)), last.set(as_index(0)), clear.set(as_index(n)),
            loop(c, *chunk(times(c, SCAN), SCAN)),
            *(chunk(as_index(n - n % SCAN), n % SCAN) if n % SCAN else ()),
            low.set(most(low.value, least(first.value, last.value))),
            high.set(most(least(high.value, last.value), low.value)),
        ]  # fmt: skip

    def until_exact(self, low: Cell, high: Cell, top: Buffer, body: Sequence[Stmt]) -> list[Stmt]:
        """`body`, which finds the largest scores `top` among the keys [low, high); again with all
        keys if a hidden score, a finite number, could weigh something after all."""
        finite = [s.fill for s in self.skipping if s.fill != -math.inf]
        if not finite:
            return list(body)
        go = Cell("go", dtypes.bool_)
        narrowed = minus(high.value, low.value) < self.sizes["s"]
        # exp of less than this is zero: below the smallest subnormal number.
        margin = 104.0 if self.dtype == dtypes.float32 else 746.0
        t = axis("t", self.present)
        heavy = apply("le", top[t], self.number(max(finite) + margin))
        check = loop(t, go.set(go.value | heavy))
        widen = (low.set(as_index(0)), high.set(as_index(self.sizes["s"])))
        false, true = (literal(b, dtypes.bool_) for b in (False, True))
        again = when(narrowed, check, when(go.value, *widen))
        return [go.memory, go.set(true), While(go.value, block(*body, go.set(false), again))]


def over_keys(
    low: Cell, high: Cell, size: int, body: Callable[[Expr, Expr], Sequence[Stmt]]
) -> Stmt:
    """`body(first key, how many)` for blocks of at most `size` keys."""
    b = axis("b", ceiling(minus(high.value, low.value), size))
    first, n = var("first", dtypes.int64), var("n", dtypes.int64)
    return loop(b, Block((
        Let(first, plus(low.value, times(b, size))),
        Let(n, least(as_index(size), minus(high.value, first))),
        *body(first, n),
    )))  # fmt: skip


def parallel(
    sizes: Sequence[tuple[str, int]], body: Callable[[dict[str, Expr]], Sequence[Stmt]]
) -> Stmt:
    """`body` for every position of some letters, as one loop that threads share."""
    p = axis("p", product([n for _, n in sizes]))
    place: dict[str, Expr] = {}
    lets: list[Stmt] = []
    rest: Expr = p
    for letter, n in reversed(sizes):
        v = var(letter, dtypes.int64)
        lets.append(Let(v, plus(index("%", rest, as_index(n)), 0)))
        place[letter] = v
        rest = index("//", rest, as_index(n))
    return loop(p, Block((*lets, *body(place))), kind="parallel")


def started(
    place: Place, operands: Sequence[Operand | None]
) -> tuple[list[Stmt], list[Operand | None]]:
    """The operands from `place` on."""
    pairs = [None if o is None else o.started(place) for o in operands]
    return [p[0] for p in pairs if p is not None], [None if p is None else p[1] for p in pairs]
