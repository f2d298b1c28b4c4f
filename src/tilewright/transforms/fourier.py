"""Convolutions with large windows by Fourier transforms of tiles: a rewrite of graphs.

Knows which convolutions these may be, how many cycles each size of tiles takes, and the products
that compute them. A transform is a product with a table of cosines: tiles are so small that
products at the machine's speed beat the fewer operations of a fast transform. Refuses to know how
products are scheduled. The figures behind the choices are in docs/notes/fourier.md.

A tile of N by N places gives (N - K + 1)**2 results of windows of K by K: of its transform, times
the conjugate of the window's, the transform back (overlap-save; Mathieu, Henaff and LeCun, "Fast
Training of Convolutional Networks through FFTs", 2014).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tilewright import dtypes, forks
from tilewright.array import Array
from tilewright.expr import is_static, static
from tilewright.graph import Graph, Node, Op, Type
from tilewright.ops import elementwise as el
from tilewright.ops.contract import Conv, Dot
from tilewright.ops.fourier import Tiles, Untiled
from tilewright.ops.shape import Broadcast, Cast, Iota, Reshape, Transpose
from tilewright.transforms.ahead import GROWTH, is_steady
from tilewright.transforms.alternatives import Choose, by_count
from tilewright.transforms.rewriting import applies, rewritten
from tilewright.transforms.winograd import DIRECT, LANES, PRODUCT, Convolution

SIDES: Final = (30, 46, 62, 94, 126)
"""Sides of tiles: their 16, 24, ... frequencies along the halved axis are whole vectors."""
MEASURED: Final = 3
"""Sides that are worth measuring, those of the fewest cycles."""
LEAST: Final = 100
"""Places of the smallest window that is looked at, and of the smallest result."""
MOVED: Final = 2.5
"""Cycles for each number that is moved between the products, beyond these."""
STORED: Final = 1.1
"""Cycles for each number of the windows' transforms, which are written and read once."""
ALONE: Final = 2.5
"""Cycles of a direct convolution to one channel over the usual: every element is read for each
multiplication."""
SMALLER: Final = 1.07
"""The products' cycles over those of direct convolutions, for as many multiplications."""
GAIN: Final = 1.5
"""What must be gained by the count: it is rough."""
MOST_BYTES: Final = 128 << 20
"""Of the windows' transforms, and of the tiles'."""


# -- the rewrite ---------------------------------------------------------------------------------


def fourier(graph: Graph, choose: Choose = by_count) -> Graph:
    """The graph with the convolutions replaced that become faster; the same object if none do.

    Only float32, two axes of places, strides and dilations of 1, one group, static shapes.
    """

    def faster(op: Op, args: Sequence[Node]) -> Node | None:
        conv = _large(op, args)
        name = DIRECT if conv is None else choose(conv) or conv.counted
        if conv is None or name == DIRECT:
            return None
        side = next(n for n in conv.cycles if _named(n) == name)
        found: Array = _transformed(_Form.of(conv, side), *map(Array.wrap, args))
        return found.node

    return rewritten(graph, faster) if applies(graph, Conv) else graph


def _transformed(f: _Form, x: Array, w: Array) -> Any:
    """The convolution. In the comments rows are y, their frequencies u; columns x and h; parts,
    real and imaginary, p, q and r. Channels are last, so that all products have long rows."""
    side, half, (kh, kw), (down, across) = f.side, f.half, f.window, f.step
    tiles = Tiles(side, f.step, f.low, f.count)(Transpose((0, 2, 3, 1))(x))
    data = Reshape((side, side, f.tiles * f.c))(tiles)
    # exp(-2 pi i a b / side) as cosines: an imaginary result is a quarter of a turn ahead, an
    # imaginary number behind.
    columns = _waves(side, (side, 2, half), (0, 2), {1: 1})  # x p h
    data = Dot((0,), (1,))(columns, data)  # p h y (t c)
    data = Dot((0, 1), (2, 0))(_waves(side, (side, 2, 2, side), (0, 3), {2: 1, 1: -1}), data)
    data = Reshape((2, side, half, f.tiles, f.c))(data)  # q u h t c
    weights = Reshape((kh, kw, f.c * f.k))(Transpose((2, 3, 1, 0))(w))
    columns = _waves(side, (kw, 2, half), (0, 2), {1: 1})
    weights = Dot((0,), (1,))(columns, weights)  # p h y (c k)
    # For each part q of the data and r of the results the conjugate's, with its sign.
    rows = _waves(side, (kh, 2, 2, 2, side), (0, 4), {2: 1, 3: -1, 1: -1})  # y p q r u
    weights = Reshape((2, 2, side, half, f.c, f.k))(Dot((0, 1), (2, 0))(rows, weights))
    parts = (2, side, half, 2, f.tiles, f.c)  # r is one axis of both: results have it before t
    data = Broadcast(parts, (0, 1, 2, 4, 5))(data)
    products = Dot((0, 5), (0, 4), (1, 2, 3), (2, 3, 1))(data, weights)  # u h r t k
    rows = _waves(side, (side, 2, down, 2), (0, 2), {3: 1, 1: -1}, -1)  # u r y q
    sums = Dot((0, 1), (0, 2))(rows, products)  # y q h (t k)
    columns = _waves(side, (2, half, across), (1, 2), {0: -1}, -1, scale=side**-2, halved=1)
    images = Dot((1, 2), (0, 1))(Reshape((down, 2, half, f.tiles * f.k))(sums), columns)
    return Untiled(f.size)(Reshape((down, f.n, *f.count, f.k, across))(images))


def _waves(
    side: int, shape: tuple[int, ...], axes: tuple[int, int], quarters: Mapping[int, int],
    sign: int = 1, scale: float = 1.0, halved: int | None = None,
) -> Any:  # fmt: skip
    """Float32 [*shape]: scale * cos(2 pi (sign * a * b / side + turns / 4)), where a and b are the
    positions along two axes; each step along another adds its `quarters` to the turns. Frequencies
    along the `halved` axis count twice, but for the first and the last, for their conjugates'."""

    def at(d: int) -> Any:
        return Array.wrap(Iota(Type(dtypes.float64, shape), d).node())

    def times(x: Any, factor: float) -> Any:
        return x * x.full_like(factor)

    angle = times(at(axes[0]) * at(axes[1]), 2 * math.pi / side * sign)
    for d, quarter in quarters.items():
        angle = angle + times(at(d), math.pi / 2 * quarter)
    found = times(el.cos(angle), scale)
    if halved is not None:
        h = at(halved)
        inner = el.minimum(el.minimum(h, h.full_like(shape[halved] - 1) - h), h.full_like(1.0))
        found = found * (inner + h.full_like(1.0))
    return Cast(dtypes.float32)(found)


# -- which and how many cycles -------------------------------------------------------------------


@dataclass(frozen=True)
class LargeWindow(Convolution):
    """A convolution that direct sums or transforms of tiles may compute."""

    @forks.cached_property
    def cycles(self) -> Mapping[int, float]:
        """By a count, for the sides of tiles that take the fewest; those first."""
        windows = max(map(static, self.w.shape[2:]))
        fit = [_Form.of(self, n) for n in SIDES if n >= windows]
        counts = {f.side: f.cycles(self.constant) for f in fit if f.nbytes <= MOST_BYTES}
        return dict(sorted(counts.items(), key=lambda item: item[1])[:MEASURED])

    @property
    def algorithms(self) -> tuple[str, ...]:
        return (DIRECT, *map(_named, self.cycles))

    @property
    def counted(self) -> str:
        """The algorithm that pays by a count of cycles."""
        products = math.prod(map(static, (*self.op.type(self.x, self.w).shape, *self.w.shape[1:])))
        direct = products / LANES * PRODUCT * (ALONE if self.w.shape[0] == 1 else 1)
        side, cycles = next(iter(self.cycles.items()))
        return _named(side) if cycles * GAIN < direct else DIRECT


def _named(side: int) -> str:
    """The name of the algorithm by tiles of a side."""
    return f"fourier {side}"


@dataclass(frozen=True)
class _Form:
    """A convolution by tiles of one side: images [n, c, ...] with windows [k, c, *window] to
    results of `size`."""

    side: int
    n: int
    c: int
    k: int
    window: tuple[int, int]
    size: tuple[int, int]
    low: tuple[int, int]

    @classmethod
    def of(cls, conv: Convolution, side: int) -> _Form:
        (n, c), (k, _, *window) = map(static, conv.x.shape[:2]), map(static, conv.w.shape)
        h, w = map(static, conv.op.type(conv.x, conv.w).shape[2:])
        (top, _), (left, _) = conv.op.padding
        return cls(side, n, c, k, (window[0], window[1]), (h, w), (static(top), static(left)))

    @property
    def half(self) -> int:
        """Frequencies along the halved axis: the others are the conjugates of these."""
        return self.side // 2 + 1

    @property
    def step(self) -> tuple[int, int]:
        """Results of a tile."""
        return self.side - self.window[0] + 1, self.side - self.window[1] + 1

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        (h, w), (down, across) = self.size, self.step
        return -(-h // down), -(-w // across)

    @property
    def tiles(self) -> int:
        return self.n * math.prod(self.count)

    @property
    def nbytes(self) -> int:
        """Of the largest of the transforms."""
        numbers = (4 * self.c * self.k, 2 * self.tiles * self.c, 2 * self.tiles * self.k)
        return 4 * self.side * self.half * max(numbers)

    def cycles(self, constant: bool) -> float:
        """A count of the cycles, without the windows' transforms if they are made once."""
        side, half, (down, across), (kh, kw) = self.side, self.half, self.step, self.window
        points, pairs = side * half, self.c * self.k
        data = self.tiles * self.c * (2 * side * points + 4 * side * points)
        results = self.tiles * self.k * (4 * points * down + 2 * half * down * across)
        once = constant and 4 * points <= GROWTH * kh * kw
        weights = 0 if once else pairs * (2 * kw * kh * half + 8 * kh * points)
        sums = data + results + weights + 4 * points * pairs * self.tiles
        moved = self.c * (side**2 + 2 * points)
        moved += self.k * (2 * points + 2 * down * half + down * across)
        stored = 4 * points * pairs * STORED
        return sums / LANES * PRODUCT * SMALLER + self.tiles * moved * MOVED + stored


def _large(op: Op, args: Sequence[Node]) -> LargeWindow | None:
    """A convolution that transforms may compute: None for all others."""
    if not isinstance(op, Conv) or len(op.strides) != 2:
        return None
    x, w = (a.type for a in args)
    out = op.type(x, w)
    borders = [s for pair in op.padding for s in pair]
    if out.dtype != dtypes.float32 or not all(map(is_static, (*x.shape, *w.shape, *borders))):
        return None
    plain = {*op.strides, *op.lhs_dilation, *op.rhs_dilation, op.groups} == {1}
    if not plain or 0 in (*x.shape, *w.shape, *out.shape):
        return None
    if min(math.prod(map(static, t.shape[2:])) for t in (w, out)) < LEAST:
        return None
    conv = LargeWindow(op, x, w, is_steady(args[1]))
    return conv if conv.cycles else None
