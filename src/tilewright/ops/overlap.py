"""Overlap-add: a convolution as a matrix product whose results are spread over the image.

Knows how the products of every element of an image with every weight of a window add up to the
elements of the result ("col2im", the dual of Chellapilla, Puri and Simard's unrolling, "High
Performance Convolutional Neural Networks for Document Processing", 2006). Refuses derivatives and
batching, both are taken before rewrites make this op, and to say where it pays
(`transforms.overlap`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Load,
    apply,
    as_index,
    axis,
    index,
    literal,
    select,
)
from tilewright.graph import Op, Type
from tilewright.loops import Accumulate, Alloc, Stmt, Store, block, loop
from tilewright.ops.base import sizes
from tilewright.ops.nests import minus, nested, plus, vectors, when

Added = Callable[[tuple[Expr, ...], tuple[Expr, ...]], Stmt]

REGISTER: Final = 64
"""Bytes of a vector; where registers are narrower, several make one."""
LINE: Final = 4096
"""Bytes of a stretch of a row that is added up together; it stays in the first level cache."""
WRITTEN_OUT: Final = 16
"""Weights along a row whose additions are written out."""


@dataclass(frozen=True)
class Spread:
    """Along one axis, the product of element i with weight k belongs to place p of the result where
    p * stride + k * apart = low + i * dilation. If `reverse`, the weights are counted from the end.

    The weights of a place are every `period`th from `first` on.
    """

    stride: int
    low: int
    dilation: int
    apart: int
    size: int
    """Places of the result."""
    reverse: bool = False

    @property
    def phases(self) -> int:
        """Places so far apart have the same weights."""
        return self.dilation // math.gcd(self.stride, self.dilation)

    @property
    def common(self) -> int:
        """Only where this divides low - p * stride has place p any weights."""
        return math.gcd(self.apart, self.dilation)

    @property
    def period(self) -> int:
        return self.dilation // self.common

    def has_weights(self, p: Expr) -> Expr | None:
        """Whether there are weights at place p; None if there are everywhere."""
        if self.common == 1:
            return None
        rest = index("%", minus(self.low, p * self.stride), as_index(self.common))
        return apply("eq", rest, as_index(0))

    def first(self, p: Expr) -> Expr:
        """The first weight at place p."""
        if self.period == 1:
            return as_index(0)
        inverse = pow(self.apart // self.common, -1, self.period)
        steps = index("//", minus(self.low, p * self.stride), as_index(self.common))
        return index("%", steps * inverse, as_index(self.period))

    def element(self, p: Expr, k: Expr) -> Expr:
        """The element that weight k, one of its weights, multiplies at place p."""
        at = minus(plus(p * self.stride, k * self.apart), self.low)
        return index("//", at, as_index(self.dilation))


@dataclass(frozen=True)
class OverlapAdd(Op):
    """Products [out, *window, n, *image] -> image [n, out, *result], each element the sum of the
    products that belong to it. float32 and float64; no axis is empty."""

    spreads: tuple[Spread, ...]
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> Type:
        d = len(self.spreads)
        if x.ndim != 2 * d + 2 or not dtypes.is_float(x.dtype) or 0 in x.shape or not d:
            raise InternalError(f"{x!r} are no products of windows with {d} axes")
        return x.with_shape((x.shape[d + 1], x.shape[0], *(s.size for s in self.spreads)))

    def numpy(self, x: Any) -> Any:
        d = len(self.spreads)
        window, image = x.shape[1 : d + 1], x.shape[d + 2 :]
        out = np.zeros((x.shape[d + 1], x.shape[0], *(s.size for s in self.spreads)), x.dtype)
        for k in itertools.product(*map(range, window)):
            targets, sources = [], []
            for s, place, n, m in zip(self.spreads, k, window, image, strict=True):
                weight = n - 1 - place if s.reverse else place
                i = np.arange(m)
                p, rest = np.divmod(s.low + i * s.dilation - weight * s.apart, s.stride)
                inside = (rest == 0) & (p >= 0) & (p < s.size)
                targets.append(p[inside])
                sources.append(i[inside])
            part = x[(slice(None), *k)][(slice(None), slice(None), *np.ix_(*sources))]
            out[(slice(None), slice(None), *np.ix_(*targets))] += np.swapaxes(part, 0, 1)
        return out

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        """Stretches of rows: the places of one phase are neighbours in a vector, which adds up what
        belongs to them; then the phases of the stretch are put side by side."""
        (x,), (out,) = args, outs
        return _Nest(self.spreads, x, out).statement()


class _Nest:
    """The loops of one op: the places of a row in stretches of `steps` for each of its phases."""

    def __init__(self, spreads: Sequence[Spread], x: Buffer, out: Buffer) -> None:
        *self.outer, self.last = spreads
        self.x, self.out = x, out
        self.window = sizes(x.shape[1 : len(spreads) + 1])
        self.image = sizes(x.shape[len(spreads) + 2 :])
        self.short = self.window[-1] <= WRITTEN_OUT
        self.lanes = REGISTER // x.dtype.itemsize
        self.phases = self.last.phases
        every = -(-self.last.size // self.phases)
        room = LINE // x.dtype.itemsize // self.phases // self.lanes
        self.steps = min(every, max(room, 1) * self.lanes)
        self.line = Buffer("line", x.dtype, (self.phases, self.steps), "stack")
        images, channels, *rows, _ = sizes(out.shape)
        self.row = axis("r", images * channels)
        self.lead = tuple(index(op, self.row, as_index(channels)) for op in ("//", "%"))
        self.places = [axis("i", size) for size in rows]
        self.phase = axis("f", self.phases)
        self.stretch = axis("s", -(-every // self.steps))
        # A stretch that would be short starts earlier; what two have in common comes out alike.
        last = as_index(every - self.steps)
        self.start = index("min", index("*", self.stretch, as_index(self.steps)), last)

    def statement(self) -> Stmt:
        """All stretches of all rows, images and their channels outermost."""
        phase = loop(self.phase, *self.sums(), kind="unroll" if self.short else "serial")
        stretch = loop(self.stretch, block(Alloc(self.line), phase, self.woven()))
        return loop(self.row, nested(self.places, stretch), kind="parallel")

    def sums(self) -> list[Stmt]:
        """The places of one phase in a stretch, by vectors."""
        full, rest = divmod(self.steps, self.lanes)
        u = axis("u", full)
        out = [loop(u, self.vector(u * self.lanes, self.lanes))] if full else []
        return [*out, self.vector(as_index(full * self.lanes), rest)] if rest else out

    def vector(self, at: Expr, width: int) -> Stmt:
        """The sums of `width` places from `at` in the stretch on."""
        lanes = 1 << (width - 1).bit_length()
        total = Buffer("total", self.x.dtype, (lanes,), "registers")

        def every(body: Callable[[Axis], Stmt]) -> Stmt:
            v = axis("v", width)
            return loop(v, body(v), kind="vector", lanes=lanes)

        zero = literal(0, self.x.dtype)
        step = index("+", self.start, at)
        moves = self.phases * self.last.stride // self.last.dilation

        def added(weights: tuple[Expr, ...], elements: tuple[Expr, ...]) -> Stmt:
            def one(v: Axis) -> Stmt:
                i = (step + v) * moves + elements[-1]
                inside = apply("le", as_index(0), i) & apply("lt", i, as_index(self.image[-1]))
                n, o = self.lead
                product = Load(self.x, (o, *weights, n, *elements[:-1], i), inside)
                return Accumulate(total, (v,), "sum", select(inside, product, zero))

            if self.short:
                return every(one)
            first = index("*", step, as_index(moves)) + elements[-1]
            met = apply("le", as_index(-(width - 1) * moves), first)
            met = met & apply("lt", first, as_index(self.image[-1]))
            return when(met, every(one))

        return block(
            Alloc(total),
            every(lambda v: Store(total, (v,), zero)),
            self.belonging((), (), added),
            every(lambda v: Store(self.line, (self.phase, at + v), total[v,])),
        )

    def belonging(
        self, weights: tuple[Expr, ...], elements: tuple[Expr, ...], added: Added
    ) -> Stmt:
        """`added(weights, elements)` for all products that belong to a place, with the weights as
        they are stored; the last element is that of the phase's first place."""
        d = len(weights)
        if d == len(self.window):
            return added(weights, elements)
        columns = d == len(self.outer)
        s, n = (self.last, self.window[-1]) if columns else (self.outer[d], self.window[d])
        p: Expr = self.phase if columns else self.places[d]
        j = axis("j", -(-n // s.period))
        k = s.first(p) + j * s.period
        i = s.element(p, k)
        tests = [] if columns else [apply("le", as_index(0), i)]
        tests += [] if columns else [apply("lt", i, as_index(self.image[d]))]
        tests += [apply("lt", k, as_index(n))] if n % s.period else []
        stored = minus(n - 1, k) if s.reverse else k
        body = self.belonging((*weights, stored), (*elements, i), added)
        body = when(functools.reduce(lambda a, b: a & b, tests), body) if tests else body
        kind = "unroll" if columns and self.short else "serial"
        body = loop(j, body, kind=kind)
        has = s.has_weights(p)
        return body if has is None else when(has, body)

    def woven(self) -> Stmt:
        """The phases of the stretch side by side."""
        q = axis("q", self.steps)
        n, o = self.lead
        if self.phases == 1:

            def moved(at: Expr, lane: Axis) -> list[Stmt]:
                place = (n, o, *self.places, self.start + at)
                return [Store(self.out, place, self.line[as_index(0), at])]

            return block(*vectors(self.steps, self.lanes, moved))
        f = axis("f", self.phases)
        p = (self.start + q) * self.phases + f
        store: Stmt = Store(self.out, (n, o, *self.places, p), self.line[f, q])
        if self.last.size % self.phases:
            store = when(apply("lt", p, as_index(self.last.size)), store)
        kind = "unroll" if self.phases <= WRITTEN_OUT else "serial"
        return loop(q, loop(f, store, kind=kind))
