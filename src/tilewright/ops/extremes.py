"""Positions of extremes in lines of memory: loops that carry a place in every lane.

Knows how one pass over a line keeps its extreme, the block that has it and the first block with a
NaN, each for every lane. Refuses to compute what the lines hold: elements come from memory. Lines
that are computed in the same loops are `reduce.BlockExtremes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
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
from tilewright.loops import Accumulate, Alloc, Block, Stmt, block, loop, store
from tilewright.ops.elementwise import number
from tilewright.ops.nests import each, is_nan, plus
from tilewright.ops.samples import Example, of_kinds, samples
from tilewright.scalars import REDUCTIONS

VECTORS: Final = 4
"""Vectors of a block: the larger half of what a block costs is paid once for all of them, and a
whole block is looked at again in the end."""

TOGETHER: Final = 4
MANY: Final = 64
"""Lines that end together, where there are so many: an end is a chain of some hundred cycles."""


def lanes_of(dtype: DType) -> int:
    """Lanes of a vector: those of 64 bytes, and at most 16, for each has a place of 4 bytes."""
    return min(16, 64 // dtypes.compute_type(dtype).itemsize)


def block_of(dtype: DType) -> int:
    """Elements of a block, which a line must have."""
    return VECTORS * lanes_of(dtype)


@dataclass(frozen=True)
class ArgOfLines(Op):
    """Position (int64) along the last axis of the first extreme (`kind`: max or min), or of the
    first NaN. Lines have at least `block_of` elements."""

    kind: str
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> Type:
        if x.ndim == 0 or static(x.shape[-1]) < block_of(x.dtype) or dtypes.is_complex(x.dtype):
            raise InternalError(f"{self.name} of {x!r}: no block of {block_of(x.dtype)} elements")
        return x.without((x.ndim - 1,)).with_dtype(dtypes.int64)

    def numpy(self, x: Any) -> Any:
        find = np.argmax if self.kind == "max" else np.argmin
        return np.asarray(find(x, axis=-1), np.int64)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self(*args)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        return _Lines(self.kind, args[0], outs[0]).loops()

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for kind in ("max", "min"):
            found += [Example((samples(d, (3, 67)),), cls(kind)) for d in of_kinds("biuf")]
            x = samples(dtypes.float32, (67, 150))
            found += [Example((a,), cls(kind)) for a in (x, x[::-1, ::-2], x[:0], x[5])]
        return found


class _Lines:
    """The loops: each line is passed once, in blocks of VECTORS vectors. Its last block ends where
    the line does; what it shares with the one before was seen there first."""

    def __init__(self, kind: str, x: Buffer, out: Buffer) -> None:
        self.kind, self.x, self.out = kind, x, out
        self.wide = dtypes.compute_type(x.dtype)
        self.lanes, self.size = lanes_of(x.dtype), block_of(x.dtype)
        self.n, self.lines = static(x.shape[-1]), math.prod(static(k) for k in x.shape[:-1])
        self.blocks = -(-self.n // self.size)
        self.place = dtypes.int32 if self.lanes == 16 else dtypes.int64
        self.nowhere = number(max(self.blocks, self.size), self.place)
        group = TOGETHER if self.lines >= MANY else 1
        self.group = axis("g", -(-self.lines // group))
        self.first = index("*", self.group, as_index(group))
        self.count = group
        self.here = self.count if self.lines % group == 0 else index(
            "min", as_index(group), plus(self.lines, index("*", self.first, as_index(-1)))
        )  # fmt: skip
        shape = (group, self.lanes)
        self.best = Buffer("best", self.wide, shape)
        self.where = Buffer("where", self.place, shape)
        self.odd = Buffer("odd", self.place, shape)

    def loops(self) -> Stmt:
        if self.lines == 0:
            return block()
        memory = [Alloc(b) for b in (self.best, self.where, self.odd)[: 2 + self.floats]]
        passed, ended = axis("l", self.here), axis("l", self.here)
        return each(
            self.group, memory, loop(passed, *self.passed(passed)), loop(ended, *self.end(ended))
        )

    @property
    def floats(self) -> bool:
        return dtypes.is_float(self.wide)

    def vector(self, body: Any) -> Stmt:
        lane = axis("v", self.lanes)
        return loop(lane, *body(lane), kind="vector", lanes=self.lanes)

    def element(self, line: Expr, start: Expr, u: int, lane: Expr) -> Expr:
        at = plus(index("*", plus(self.first, line), as_index(self.n)), start)
        return cast(self.x[plus(plus(at, u * self.lanes), lane)], self.wide)

    def start(self, j: Expr) -> Expr:
        """Where block j starts."""
        start = index("*", j, as_index(self.size))
        return index("min", start, as_index(self.n - self.size)) if self.n % self.size else start

    def beats(self, a: Expr, b: Expr) -> Expr:
        return apply("lt", b, a) if self.kind == "max" else apply("lt", a, b)

    def passed(self, line: Axis) -> list[Stmt]:
        """The extreme of every lane of a line, its first block, and the first with a NaN."""
        best, where, odd = (
            Buffer(b.name, b.dtype, (self.lanes,), "registers")
            for b in (self.best, self.where, self.odd)
        )
        j = axis("j", self.blocks)
        held = [(best, self.best), (where, self.where), (odd, self.odd)][: 2 + self.floats]
        neutral = REDUCTIONS[self.kind][1](self.wide)

        def begin(lane: Axis) -> list[Stmt]:
            zero = number(0, self.place)
            values = [number(neutral, self.wide), zero, self.nowhere]
            return [store(b, (lane,), v) for (b, _), v in zip(held, values, strict=False)]

        def step(lane: Axis) -> list[Stmt]:
            xs = [self.element(line, self.start(j), u, lane) for u in range(VECTORS)]
            while len(xs) > 1:  # of two, one of which is a NaN, either will do
                xs = [
                    select(self.beats(a, b), a, b) for a, b in zip(xs[::2], xs[1::2], strict=True)
                ]
            better = self.beats(xs[0], best[lane])
            now = cast(j, self.place)
            out: list[Stmt] = [store(where, (lane,), select(better, now, where[lane]))]
            if self.floats:
                out.append(Accumulate(odd, (lane,), "min", self.odd_at(line, j, lane)))
            return [*out, store(best, (lane,), select(better, xs[0], best[lane]))]

        return [
            *(Alloc(b) for b, _ in held),
            self.vector(begin),
            loop(j, self.vector(step)),
            self.vector(lambda lane: [store(b, (line, lane), r[lane]) for r, b in held]),
        ]

    def odd_at(self, line: Expr, j: Axis, lane: Expr) -> Expr:
        """Block j, if there is a NaN among its elements in a lane; else nowhere."""
        xs = [is_nan(self.element(line, self.start(j), u, lane)) for u in range(VECTORS)]
        nan = xs[0] | xs[1]
        for two in zip(xs[2::2], xs[3::2], strict=True):  # two at a time are one comparison
            nan = nan | (two[0] | two[1])
        return select(nan, cast(j, self.place), self.nowhere)

    def end(self, line: Axis) -> list[Stmt]:
        """The extreme over all lanes; the first block that has it; the first place in that."""
        total = Buffer("total", self.wide, (), "registers")
        found, odd, place = (
            Buffer(name, self.place, (), "registers") for name in ("found", "odd", "place")
        )
        each_lane = Buffer("places", self.place, (self.lanes,), "registers")
        extreme: Expr = total[()]
        start: Expr = found[()]
        out: list[Stmt] = [Alloc(b) for b in (total, found, odd, place, each_lane)]
        out += [store(total, (), number(REDUCTIONS[self.kind][1](self.wide), self.wide))]
        out += [store(b, (), self.nowhere) for b in (found, odd, place)]

        def over(to: Buffer, kind: str, value: Any) -> Stmt:
            return self.vector(lambda lane: [Accumulate(to, (), kind, value(lane))])

        out.append(over(total, self.kind, lambda lane: self.best[line, lane]))
        if self.floats:
            out.append(over(odd, "min", lambda lane: self.odd[line, lane]))
            strange = apply("lt", odd[()], self.nowhere)
            extreme = select(strange, number(math.nan, self.wide), extreme)
            start = select(strange, odd[()], start)
        out.append(over(found, "min", lambda lane: select(
            apply("eq", self.best[line, lane], total[()]), self.where[line, lane], self.nowhere
        )))  # fmt: skip
        begin = self.start(cast(start, dtypes.int64))

        def look(u: int, lane: Axis) -> Stmt:
            x = self.element(line, begin, u, lane)
            wins = apply("eq", x, extreme)
            wins = wins | is_nan(x) if self.floats else wins
            at = cast(plus(lane, u * self.lanes), self.place)
            return Accumulate(each_lane, (lane,), "min", select(wins, at, self.nowhere))

        out += [
            self.vector(lambda lane: [store(each_lane, (lane,), self.nowhere)]),
            *(self.vector(lambda lane, u=u: [look(u, lane)]) for u in range(VECTORS)),
            over(place, "min", lambda lane: each_lane[lane]),
            store(self.out, (plus(self.first, line),), plus(begin, cast(place[()], dtypes.int64))),
        ]
        return [Block(tuple(out))]
