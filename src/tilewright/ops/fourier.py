"""Tiles of images: what convolutions by Fourier transforms begin and end with.

Knows which place of which image an element of a tile is. Refuses derivatives and batching, both are
taken before rewrites make these ops, and to know what happens to the tiles in between
(`transforms.fourier`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from tilewright.errors import InternalError
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    apply,
    as_index,
    axis,
    index,
    literal,
    select,
    static,
)
from tilewright.graph import Op, Type, View
from tilewright.loops import Stmt, Store, loop
from tilewright.ops.nests import vectors

VECTOR_BYTES: Final = 64
"""Of a vector; where registers are narrower, several make one."""


@dataclass(frozen=True)
class Tiles(Op):
    """Images [n, h, w, c] -> tiles [side, side, n, rows, columns, c] that lie `step` places apart,
    the first one `low` places before the image; zeros around. No axis is empty."""

    side: int
    step: tuple[int, int]
    low: tuple[int, int]
    count: tuple[int, int]

    def type(self, x: Type) -> Type:
        if x.ndim != 4 or 0 in x.shape:
            raise InternalError(f"{x!r} are no images for {self}")
        n, _, _, c = x.shape
        return x.with_shape((self.side, self.side, n, *self.count, c))

    def numpy(self, x: Any) -> Any:
        for d, (step, low, count) in enumerate(zip(self.step, self.low, self.count, strict=True)):
            at = np.arange(self.side)[:, None] + step * np.arange(count) - low
            inside = (at >= 0) & (at < x.shape[2 * d + 1])
            x = np.take(x, np.where(inside, at, 0), 2 * d + 1)
            shape = [1] * x.ndim
            shape[2 * d + 1 : 2 * d + 3] = inside.shape
            x = np.where(inside.reshape(shape), x, 0)
        return np.ascontiguousarray(x.transpose(1, 3, 0, 2, 4, 5))  # of [n, i, rows, j, columns, c]

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        (x,) = args
        i, j, n, row, column, c = idx
        places, tests = [], list[Expr]()
        for d, (at, tile) in enumerate(((i, row), (j, column))):
            size, low = static(x.shape[d + 1]), self.low[d]
            place = tile * self.step[d] + at - low
            if low:
                tests.append(apply("le", as_index(0), place))
            if self.step[d] * (self.count[d] - 1) + self.side - low > size:
                tests.append(apply("lt", place, as_index(size)))
            places.append(place)
        where = (n, *places, c)
        if not tests:
            return x[where]
        inside = functools.reduce(lambda a, b: a & b, tests)
        return select(inside, x.guarded(where, inside), literal(0, x.dtype))


@dataclass(frozen=True)
class Untiled(Op):
    """Tiles side by side [down, n, rows, columns, k, across] -> images [n, k, *size]; what lies
    beyond is dropped.

    With loops of its own: as movements of axes it would be part of the product that makes the
    tiles, whose results would then stand in no order that the product could be written in.
    """

    size: tuple[int, int]
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> Type:
        if x.ndim != 6 or 0 in x.shape:
            raise InternalError(f"{x!r} are no tiles for {self}")
        down, n, rows, columns, k, across = map(static, x.shape)
        fits = [
            (count - 1) * step < size <= count * step
            for count, step, size in zip((rows, columns), (down, across), self.size, strict=True)
        ]
        if not all(fits):
            raise InternalError(f"{x!r} are no tiles of {self.size}")
        return x.with_shape((n, k, *self.size))

    def numpy(self, x: Any) -> Any:
        down, n, rows, columns, k, across = x.shape
        whole = x.transpose(1, 4, 2, 0, 3, 5).reshape(n, k, rows * down, columns * across)
        return np.ascontiguousarray(whole[:, :, : self.size[0], : self.size[1]])

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        """Row by row of the images, a stretch for each tile."""
        (x,), (out,) = args, outs
        down, _, _, columns, k, across = map(static, x.shape)
        n, _, h, w = map(static, out.shape)
        row = axis("r", n * k * h)
        image, y = index("//", row, as_index(k * h)), index("%", row, as_index(h))
        channel = index("%", index("//", row, as_index(h)), as_index(k))
        tile, within = index("//", y, as_index(down)), index("%", y, as_index(down))
        lanes = VECTOR_BYTES // x.dtype.itemsize

        def stretch(column: Expr, width: int) -> list[Stmt]:
            def copied(at: Expr, _: Axis) -> list[Stmt]:
                value = x[within, image, tile, column, channel, at]
                return [Store(out, (image, channel, y, column * across + at), value)]

            return vectors(width, lanes, copied)

        last = as_index(columns - 1)
        c = axis("c", columns - 1)
        before = [loop(c, *stretch(c, across))] if columns > 1 else []
        return loop(row, *before, *stretch(last, w - (columns - 1) * across), kind="parallel")
