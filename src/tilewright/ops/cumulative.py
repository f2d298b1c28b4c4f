"""Ops that carry a value along an axis: cumulative sum, product, extremes, and the recurrence.

Knows the running reductions and the first-order linear recurrence, which is the derivative of all
of them, and how lines are walked so that no step waits for the one before it. Refuses to know
scans by other operations than these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Extent,
    apply,
    as_index,
    axis,
    cast,
    index,
    select,
    static,
)
from tilewright.graph import Op, Type
from tilewright.loops import Accumulate, Alloc, Block, Flip, Stmt, block, loop, store
from tilewright.ops import elementwise as el
from tilewright.ops.base import same_type
from tilewright.ops.elementwise import number
from tilewright.ops.nests import each, extreme, minus, plus, vectors
from tilewright.ops.samples import AWKWARD_AXES, Example, numbers, of_kinds, samples
from tilewright.ops.shape import Pad
from tilewright.scalars import REDUCTIONS

KINDS: Final[dict[str, str]] = {
    "sum": "biufc", "prod": "biufc", "max": "biuf", "min": "biuf", "logsumexp": "f",
}  # fmt: skip
"""Kinds of `Cumulative`, and the NumPy kinds of element they are defined on."""


VECTOR_BYTES: Final = 64
"""Lanes are this wide; where registers are narrower, several make one."""

TILE_BYTES: Final = 32
"""A row of a tile. Those of 64 bytes gain a tenth where registers are as wide, take half again as
long to compile, and twice as long to run where registers are half as wide."""

TILED: Final = 128
"""Steps from which on a line is cut into tiles: what is left of it costs as much as one."""

FAR: Final = 4 << 20
"""Bytes of all lines beyond which they come from memory. No prefetcher follows chains of several
lines there, so that half a tile is faster."""

CHAINS: Final = 8
"""Chains of dependent steps that run together: as many as hide the latency of a step."""


PAGE: Final = 4096
"""Addresses that are equal up to multiples of this many bytes compete for the same cache lines."""

UNROLL: Final = 4
STRIP: Final = 8
"""Vectors of running reductions, and of neighbouring lines, that stay in registers."""

LONG: Final = 1 << 16
LARGE: Final = 8 << 20
"""Elements of a line from which on it is cut into slices for several threads, and its bytes up to
which it is: beyond, reading it twice takes longer than threads save."""

SLICES: Final = 64
"""Slices of such a line, at most."""

FEW: Final = 16
"""Lines from which on threads have enough to share without cutting one."""

Element = Callable[[Expr], Expr]
Step = Callable[[Expr, Expr], Expr]


def shifted_along(x: Any, axis: int, fill: float, reverse: bool) -> Any:
    """Every element one place later along `axis` (earlier if `reverse`); `fill` comes in."""
    lead = tuple(int(d == axis) for d in range(len(x.shape)))
    crop = tuple(-n for n in lead)
    low, high = (crop, lead) if reverse else (lead, crop)
    return Pad(low, high, (0,) * len(lead))(x, x.full_like(fill, ()))


@dataclass(frozen=True)
class Cumulative(Op):
    """Element i is the elements 0..i along `axis` combined by `kind`; i..n-1 if `reverse`.

    16-bit floats carry a float32. `max`, `min` propagate NaN.
    """

    kind: str
    axis: int
    reverse: bool = False
    fusion: ClassVar[str] = "opaque"

    @property
    def linear_in(self) -> tuple[int, ...]:  # type: ignore[override]
        return (0,) if self.kind == "sum" else ()

    def type(self, x: Type) -> Type:
        return x

    def numpy(self, x: Any) -> Any:
        wide = dtypes.compute_type(x.dtype)
        combine: Any = np.logaddexp if self.kind == "logsumexp" else REDUCTIONS[self.kind][0]
        line = np.flip(x, self.axis) if self.reverse else x
        with np.errstate(all="ignore"):
            out = combine.accumulate(line.astype(wide), axis=self.axis, dtype=wide)
        return (np.flip(out, self.axis) if self.reverse else out).astype(x.dtype)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """t_i = a_i t_{i-1} + b_i dx_i, with the two partial derivatives of one combining step."""
        (x,), (t,) = args, tangents
        if self.kind == "sum":
            return self(t)
        start = {"prod": 1, "max": -np.inf, "min": np.inf, "logsumexp": -np.inf}[self.kind]
        before = shifted_along(out, self.axis, start, self.reverse)
        if self.kind == "prod":
            carry, enter = x, before
        elif self.kind == "logsumexp":
            carry, enter = (el.exp(el.difference(part, out)) for part in (before, x))
        else:
            wins = el.gt if self.kind == "max" else el.lt
            half = type(x).where(el.eq(x, before), x.full_like(0.5), x.zeros_like())
            carry = type(x).where(wins(before, x), x.full_like(1), half)
            enter = type(x).where(wins(x, before), x.full_like(1), half)
        return Recurrence(self.axis, self.reverse)(carry, enter * t)

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (replace(self, reverse=not self.reverse)(ct),)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return replace(self, axis=self.axis + 1)(*args)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        x, out = args[0], outs[0]
        combine = {"sum": "add", "prod": "mul"}.get(self.kind)
        if dtypes.is_bool(x.dtype):
            combine = {"sum": "or", "prod": "and", "max": "or", "min": "and"}[self.kind]

        def element(at: Expr) -> Expr:
            return x[at]

        def step(acc: Expr, at: Expr) -> Expr:
            one = cast(element(at), acc.type)
            if combine is not None:
                return apply(combine, acc, one)
            if self.kind == "logsumexp":
                return apply(el.logaddexp.row.scalar, acc, one)
            return extreme(self.kind, acc, one)

        if self.kind == "logsumexp":
            return Lines(out, self.axis, self.reverse, -np.inf, step).loops()
        start = REDUCTIONS[self.kind][1](x.dtype)
        reduction = None if dtypes.is_complex(x.dtype) else (self.kind, element)
        return Lines(out, self.axis, self.reverse, start, step, reduction).loops()

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for kind, kinds in KINDS.items():
            found += [Example((samples(d, (3, 5)),), cls(kind, 1)) for d in of_kinds(kinds)]
            for shape, d in AWKWARD_AXES:
                x = numbers(dtypes.float64, shape)
                found += [Example((x,), cls(kind, d, d == 0), True)]
            x = numbers(dtypes.float64, (6, 5))[::2, ::-1].T
            found += [Example((x,), cls(kind, 0, r), True) for r in (False, True)]
        zeros = np.array([2.0, 0.0, 3.0, 0.0, 5.0])
        return [*found, Example((zeros,), cls("prod", 0), True)]


@dataclass(frozen=True)
class Recurrence(Op):
    """y_i = a_i y_{i-1} + b_i along `axis` from y_{-1} = 0; from the other end if `reverse`.

    Floats and complex numbers of one type. Linear in b; its dual runs the other way.
    """

    axis: int
    reverse: bool = False
    linear_in: ClassVar[tuple[int, ...]] = (1,)
    fusion: ClassVar[str] = "opaque"

    def type(self, a: Type, b: Type) -> Type:
        return same_type(self.name, a, b)

    def numpy(self, a: Any, b: Any) -> Any:
        dtype, wide = b.dtype, dtypes.compute_type(b.dtype)
        a, b = (np.moveaxis(x, self.axis, 0).astype(wide) for x in (a, b))
        out, carry = np.empty_like(b), np.zeros(b.shape[1:], wide)
        with np.errstate(all="ignore"):
            for i in reversed(range(len(b))) if self.reverse else range(len(b)):
                out[i] = carry = a[i] * carry + b[i]
        return np.moveaxis(out, 0, self.axis).astype(dtype)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        a, _ = args
        da, db = tangents
        if da is not None:
            moved_in = da * shifted_along(out, self.axis, 0, self.reverse)
            db = moved_in if db is None else db + moved_in
        return self(a, db)

    def transpose(self, ct: Any, linear: frozenset[int], a: Any, b: Any) -> Sequence[Any]:
        """ct runs back: c_i = ct_i + a_{i+1} c_{i+1}."""
        following = shifted_along(a, self.axis, 0, not self.reverse)
        return None, replace(self, reverse=not self.reverse)(following, ct)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        full = (x if b else x.broadcast_leading(size) for x, b in zip(args, batched, strict=True))
        return replace(self, axis=self.axis + 1)(*full)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        a, b = args

        def step(acc: Expr, at: Expr) -> Expr:
            return cast(a[at], acc.type) * acc + cast(b[at], acc.type)

        return Lines(outs[0], self.axis, self.reverse, 0, step).loops()

    @classmethod
    def examples(cls) -> list[Example]:
        found = [
            Example((samples(d, (3, 5)), samples(d, (3, 5), 1)), cls(1)) for d in of_kinds("fc")
        ]
        for shape, d in AWKWARD_AXES:
            a, b = numbers(dtypes.float64, shape), numbers(dtypes.float64, shape, 1)
            found += [Example((a, b), cls(d, r), True) for r in (False, True)]
        a, b = numbers(dtypes.float64, (4, 5)), numbers(dtypes.float64, (5, 4), 1)
        return [*found, Example((a[::-1], b.T), cls(0), True)]


class Lines:
    """Loops that fill `out` with acc = step(acc, flat position) along axis `d`, from `start`.

    Lines that lie side by side in memory run in lanes. Others are scalar chains, of which those of
    CHAINS lines run together, so that none waits for its own predecessor. Where the steps are those
    of a `reduction` (its kind, and the elements it combines), a long line is cut into tiles: pieces
    as long as there are lanes, one in each lane. These run together, and the pieces' totals say
    where each starts. Where lines are few and long, slices of a line are reduced first, and then
    threads can share them; the order of operations does not depend on how many there are.
    """

    def __init__(
        self,
        out: Buffer,
        d: int,
        reverse: bool,
        start: Any,
        step: Step,
        reduction: tuple[str, Element] | None = None,
    ) -> None:
        self.out, self.reverse, self.step, self.reduction = out, reverse, step, reduction
        self.wide = dtypes.compute_type(out.dtype)
        self.start = number(start, self.wide)
        shape = [static(n) for n in out.shape]
        self.n = shape[d]
        self.outer, self.inner = math.prod(shape[:d]), math.prod(shape[d + 1 :])

    def loops(self) -> Stmt:
        n, line = self.n, axis("o", self.outer)
        if 0 in (self.outer, self.inner, n):
            return block()
        if self.inner > 1:
            return self.columns(line, index("*", line, as_index(n * self.inner)))
        if self._shared:
            return loop(line, self.slices(index("*", line, as_index(n))))
        if self.is_tiled:
            carry = Buffer("carry", self.wide, (), "registers")
            begin = [Alloc(carry), store(carry, (), self.start)]
            return each(line, begin, *self.tiles(index("*", line, as_index(n)), carry, 0))
        together = self.together
        groups, rest = divmod(self.outer, together)
        group = axis("o", groups)
        many = each(group, (), self.chains(index("*", group, as_index(together * n)), together))
        few = self.chains(as_index(groups * together * n), rest)
        return block(*([many] if groups else []), *([few] if rest else []))

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return VECTOR_BYTES // self.wide.itemsize

    @property
    def side(self) -> int:
        """Pieces of a tile, and steps of a piece."""
        return TILE_BYTES // self.wide.itemsize

    @property
    def size(self) -> int:
        """Steps of a tile."""
        return self.side**2

    @property
    def is_tiled(self) -> bool:
        """Whether lines are cut into tiles."""
        least = self.size // 2 if self._far else TILED
        return self.n >= least and self._fits and not (self._quick and self.wide.itemsize > 4)

    @property
    def _fits(self) -> bool:
        """Whether there are tiles: those of narrow elements would fill more registers than any
        machine has."""
        return self.reduction is not None and self.wide.itemsize in (4, 8)

    @property
    def round(self) -> int:
        """Steps that are reduced at once."""
        return UNROLL * self.lanes

    @property
    def together(self) -> int:
        """How many lines run together. Those that start a page apart share few cache lines."""
        if self._far and self._quick:
            return 1
        return 2 if self.n * self.out.dtype.itemsize % PAGE == 0 else CHAINS

    @property
    def _far(self) -> bool:
        """Whether the lines come from memory."""
        return self.outer * self.n * self.out.dtype.itemsize > FAR

    @property
    def _quick(self) -> bool:
        """Whether a step takes no longer than its load and store: one chain is enough for lines
        from memory, and a tile of few pieces is no faster."""
        return (
            self.reduction is not None
            and self.reduction[0] == "sum"
            and dtypes.is_integer(self.wide)
            and not self._shared
        )

    @property
    def _shared(self) -> bool:
        """Whether threads share each line."""
        near = self.n >= LONG and self.n * self.out.dtype.itemsize <= LARGE
        return self.outer < FEW and near and self._fits

    def at(self, j: Expr) -> Expr:
        """The j-th place of a line in the order of the steps."""
        return minus(self.n - 1, j) if self.reverse else j

    def advance(self, acc: Buffer, where: tuple[Expr, ...], at: Expr) -> list[Stmt]:
        """One step of the chain whose value is in acc[where]."""
        return [
            store(acc, where, self.step(acc[where], at)),
            store(self.out, (at,), cast(acc[where], self.out.dtype)),
        ]

    def chains(self, first: Expr, count: int) -> Stmt:
        """`count` lines, one behind the other in memory from `first`."""
        acc = Buffer("acc", self.wide, (count,), "registers")
        begin, run, line = axis("c", count), axis("j", self.n), axis("c", count)
        at = plus(plus(first, index("*", line, as_index(self.n))), self.at(run))
        return Block((
            Alloc(acc),
            loop(begin, store(acc, (begin,), self.start), kind="unroll"),
            loop(run, loop(line, *self.advance(acc, (line,), at), kind="unroll")),
        ))  # fmt: skip

    def slices(self, first: Expr) -> Stmt:
        """One line for all threads, in slices of whole rounds: all slices are reduced, which says
        where each starts, then their tiles are taken."""
        rounds = self.n // self.round
        most = -(-rounds // SLICES)
        n = -(-rounds // most)
        one, two, three = (axis("s", n) for _ in range(3))
        carry, part = (Buffer(name, self.wide, (), "registers") for name in ("carry", "part"))
        heads = Buffer("heads", self.wide, (n,), "stack")
        assert self.reduction is not None, "only reductions are known without their steps"
        kind = self.reduction[0]
        neutral = number(REDUCTIONS[kind][1](self.wide), self.wide)

        def begin(s: Expr) -> Expr:
            return index("*", s, as_index(most))

        def count(s: Expr) -> Expr:
            return index("min", as_index(most), minus(rounds, begin(s)))

        def place(k: Expr) -> Expr:
            return plus(first, self.at(plus(index("*", begin(one), as_index(self.round)), k)))

        def tiles(rounds: Expr) -> Expr:
            return index("*", rounds, as_index(self.round // self.size))

        reduced = self.reduced(part, place, count(one))
        run = self.run(first, part, tiles(begin(three)), tiles(count(three)))
        return Block((
            Alloc(carry), Alloc(heads), store(carry, (), self.start),
            loop(one, Alloc(part), store(part, (), neutral), *reduced,
                 store(heads, (one,), part[()]), kind="parallel"),
            loop(two, Alloc(part), store(part, (), heads[two]), store(heads, (two,), carry[()]),
                 Accumulate(carry, (), kind, part[()])),
            loop(three, Alloc(part), store(part, (), heads[three]), run, kind="parallel"),
            *self.tiles(first, carry, rounds * self.round),
        ))  # fmt: skip

    def run(self, first: Expr, carry: Buffer, begin: Expr, count: Extent) -> Stmt:
        """So many tiles of a line, the first of which starts from `carry`."""
        t = axis("t", count)
        before = index("*", plus(begin, t), as_index(self.size))
        at = minus(self.n - self.size, before) if self.reverse else before
        return loop(t, self.tile(plus(first, at), carry, self.size))

    def tiles(self, first: Expr, carry: Buffer, done: int) -> list[Stmt]:
        """What so many steps, of whole tiles, leave of a line."""
        tiles, left = divmod(self.n - done, self.size)
        at = 0 if self.reverse else self.n - left
        run = self.run(first, carry, as_index(done // self.size), tiles)
        return [run, *([self.tile(plus(first, at), carry, left)] if left else [])]

    def tile(self, at: Expr, carry: Buffer, count: int) -> Stmt:
        """The first `count` elements of a tile in memory. Its rows are pieces; turned, they are
        lanes, and each step of all pieces is one of vectors. The totals of the pieces before, and
        `carry`, enter each piece; these sums are short, so few steps depend on the tile before."""
        assert self.reduction is not None, "only reductions are known without their steps"
        kind, element = self.reduction
        n = self.side
        order = range(n)[::-1] if self.reverse else range(n)
        ends = as_index(order[-1])
        square = Buffer("square", self.wide, (n, n), "registers")
        heads = Buffer("heads", self.wide, (n,), "registers")
        totals = Buffer("totals", self.wide, (n,), "stack")
        neutral = number(REDUCTIONS[kind][1](self.wide), self.wide)

        def in_lanes(body: Callable[[Axis], Stmt], part: int = n) -> Stmt:
            lane = axis("l", part)
            return loop(lane, body(lane), kind="vector", lanes=n)

        def rows(body: Callable[[Expr, Axis], Stmt], count: int = self.size) -> list[Stmt]:
            full, part = divmod(count, n)
            u = axis("u", full)
            last = in_lanes(lambda v: body(as_index(full), v), part) if part else block()
            return [loop(u, in_lanes(lambda v: body(u, v)), kind="unroll"), last]

        def read(u: Expr, v: Axis) -> Stmt:
            return store(square, (u, v), cast(element(place(u, v)), self.wide))

        def write(u: Expr, v: Axis) -> Stmt:
            return store(self.out, (place(u, v),), cast(square[u, v], self.out.dtype))

        def place(u: Expr, v: Axis) -> Expr:
            return plus(plus(at, index("*", u, as_index(n))), v)

        def step(k: int, value: Callable[[Axis], Expr]) -> Stmt:
            return in_lanes(lambda v: Accumulate(square, (as_index(k), v), kind, value(v)))

        def kept(v: Axis) -> Expr:
            return select(v < as_index(part), square[full, v], neutral)

        def before(k: int) -> Callable[[Axis], Expr]:
            return lambda v: square[k, v]

        def enter(c: int) -> Stmt:
            def value(v: Axis) -> Expr:
                later = v < as_index(c) if self.reverse else as_index(c) < v
                return select(later, totals[c], neutral)

            return in_lanes(lambda v: Accumulate(heads, (v,), kind, value(v)))

        fill = rows(lambda u, v: store(square, (u, v), neutral)) if count < self.size else []
        full, part = divmod(count, n)
        cut = in_lanes(lambda v: store(square, (as_index(full), v), kept(v))) if part else block()
        run = [step(k, before(last)) for last, k in pairwise(order)]
        put = in_lanes(lambda v: store(totals, (v,), square[ends, v]))
        return Block((
            Alloc(square), Alloc(heads), Alloc(totals), *fill, *rows(read, count), cut,
            Flip(square), *run, put,
            in_lanes(lambda v: store(heads, (v,), neutral)), *map(enter, order[:-1]),
            in_lanes(lambda v: Accumulate(heads, (v,), kind, carry[()])),
            *(step(k, lambda v: heads[v]) for k in order),
            put, store(carry, (), totals[ends]),
            Flip(square), *rows(write, count),
        ))  # fmt: skip

    def reduced(self, carry: Buffer, place: Callable[[Expr], Expr], rounds: Extent) -> list[Stmt]:
        """carry combined with the steps at `place`, of so many rounds of all lanes."""
        assert self.reduction is not None, "only reductions are known without their steps"
        kind, element = self.reduction
        lanes = self.lanes
        neutral = number(REDUCTIONS[kind][1](self.wide), self.wide)
        total = Buffer("total", self.wide, (UNROLL, lanes), "registers")
        u, v, w = (axis("u", UNROLL) for _ in range(3))
        lane = [axis("l", lanes) for _ in range(3)]
        k = axis("k", rounds)
        at = plus(index("*", plus(index("*", k, as_index(UNROLL)), v), as_index(lanes)), lane[1])
        value = cast(element(place(at)), self.wide)

        def in_lanes(one: Axis, two: Axis, body: Stmt) -> Stmt:
            return loop(one, loop(two, body, kind="vector", lanes=lanes), kind="unroll")

        return [
            Alloc(total),
            in_lanes(u, lane[0], store(total, (u, lane[0]), neutral)),
            loop(k, in_lanes(v, lane[1], Accumulate(total, (v, lane[1]), kind, value))),
            in_lanes(w, lane[2], Accumulate(carry, (), kind, total[w, lane[2]])),
        ]

    def columns(self, line: Axis, first: Expr) -> Stmt:
        """`inner` lines side by side, each step a row: all of a row in registers if it fits there,
        else in memory that stays in the nearest cache."""
        lanes = self.lanes
        run = axis("j", self.n)
        row = plus(first, index("*", self.at(run), as_index(self.inner)))
        if self.inner > STRIP * lanes:
            acc = Buffer("acc", self.wide, (self.inner,))
            begin = vectors(self.inner, lanes, lambda i, _: [store(acc, (i,), self.start)])
            steps = vectors(self.inner, lanes, lambda i, _: self.advance(acc, (i,), plus(row, i)))
            return each(line, [Alloc(acc)], *begin, loop(run, *steps))
        memory: list[Stmt] = []
        begin, steps = [], []
        for at in range(0, self.inner, lanes):
            width = min(lanes, self.inner - at)
            full = 1 << (width - 1).bit_length()
            part = Buffer("acc", self.wide, (full,), "registers")
            one, lane = axis("l", width), axis("l", width)
            step = self.advance(part, (lane,), plus(plus(row, at), lane))
            memory.append(Alloc(part))
            begin.append(loop(one, store(part, (one,), self.start), kind="vector", lanes=full))
            steps.append(loop(lane, *step, kind="vector", lanes=full))
        return each(line, memory, *begin, loop(run, *steps))
