"""Winograd's filtering: the sums around the products of a 3 by 3 convolution, in tiles of images.

Knows the ops that rewrites put around a batch of matrix products (`transforms.winograd`): the sums
of weights, of inputs and of products, and the transposes of the first and the last, of which
gradients of weights are made. Each works on one vector of channels for each place, turning images
and windows in registers on their way in or out, and leaves the sums of what it has turned to the
functions of `filtering`. Refuses derivatives and batching, both are taken before rewrites make
these ops, and to say where the algorithm pays.
"""

from __future__ import annotations

import functools
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
    static,
)
from tilewright.graph import Op, Type
from tilewright.loops import Alloc, Call, Flip, Function, If, Ref, Stmt, Store, block, loop
from tilewright.ops.filtering import (
    SIDE,
    WINDOW,
    Filtering,
    Sums,
    cotangents_function,
    data_function,
    gradients_function,
    results_function,
    weights_function,
)
from tilewright.ops.indexing import position

BLOCK: Final = 32
"""Sums of weights that stand together: products are fastest in stretches of so many columns."""

Place = tuple[Expr, ...]
Read = Callable[[Expr, Expr], Expr]


# -- the ops -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilterWeights(Op):
    """`count` of the windows [k, c, 3, 3] -> sums [points * points, count / block, c, block]:
    products read a block of columns as one stretch of memory. The windows are those from
    `number * count` on, `number` being an int64 scalar, or the first if there is none. At least 16
    windows and channels; float32."""

    filtering: Filtering
    count: int
    fusion: ClassVar[str] = "opaque"

    def type(self, w: Type, *number: Type) -> Type:
        k, c, *window = map(static, w.shape)
        fits = k % self.count == 0 and min(self.count, c) >= SIDE
        if w.dtype != dtypes.float32 or window != [WINDOW, WINDOW] or not fits:
            raise InternalError(f"{w!r} are no windows for {self}")
        size = _block(self.count)
        return w.with_shape((self.filtering.points**2, self.count // size, c, size))

    def numpy(self, w: Any, *number: Any) -> Any:
        f, c, size = self.filtering, w.shape[1], _block(self.count)
        start = int(number[0]) * self.count if number else 0
        g = w[start : start + self.count].transpose(2, 3, 1, 0)
        sums = np.stack([s for row in f.weights(g) for s in f.weights(row)])
        return sums.reshape(-1, c, self.count // size, size).transpose(0, 2, 1, 3).copy()

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        """Sixteen windows of sixteen channels are turned together: 9 vectors for each channel."""
        (w, *which), (out,) = args, outs
        f, c = self.filtering, static(w.shape[1])
        at, (first_c, first_k) = _blocks((), (c, self.count))
        strip = Buffer("strip", w.dtype, (WINDOW**2 * SIDE, SIDE), "stack")
        size = as_index(_block(self.count))
        number, within = index("//", first_k, size), index("%", first_k, size)
        window = first_k
        if which:
            window += position(which[0][()], static(w.shape[0]) // self.count) * self.count

        def read(u: Expr, place: Expr) -> Expr:
            return Load(w, (((window + u) * c + first_c) * WINDOW**2 + place,), None)

        turned = _turned(SIDE, WINDOW**2 * SIDE, read, strip, lambda place, u: (place, u))
        to = _ref(out, number, first_c, within)
        distances = math.prod(map(static, out.shape[1:])), _block(self.count)
        sums = _call(weights_function(f), to, _ref(strip), *distances)
        return loop(at, Alloc(strip), turned, sums, kind="parallel")

    @property
    def functions(self) -> tuple[Function, ...]:
        return (weights_function(self.filtering),)


@dataclass(frozen=True)
class FilterData(Op):
    """Images [n, c, h, w] -> sums [points * points, n * rows * columns, c] of tiles that overlap by
    two, the first one `low` places before the image, zeros around. At least 16 channels; float32.
    """

    filtering: Filtering
    low: tuple[int, int]
    tiles: tuple[int, int]
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> Type:
        if x.dtype != dtypes.float32 or x.ndim != 4 or static(x.shape[1]) < SIDE:
            raise InternalError(f"{x!r} are no images for {self.filtering}")
        count = static(x.shape[0]) * self.tiles[0] * self.tiles[1]
        return x.with_shape((self.filtering.points**2, count, x.shape[1]))

    @property
    def _tiling(self) -> _Tiling:
        return _Tiling(self.filtering, self.low, self.tiles, self.filtering.points)

    def numpy(self, x: Any) -> Any:
        return self._tiling.numpy(x, self.filtering.data)

    @property
    def functions(self) -> tuple[Function, ...]:
        return (data_function(self.filtering),)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        return self._tiling.loops(outs[0], args[0], self.functions[0])


@dataclass(frozen=True)
class FilterCotangents(Op):
    """Cotangents of the images that `FilterResults` makes [n, k, h, w] -> those of the products
    [points * points, n * rows * columns, k]: its transpose. At least 16 channels; float32."""

    filtering: Filtering
    fusion: ClassVar[str] = "opaque"

    def type(self, y: Type) -> Type:
        return FilterData(self.filtering, (0, 0), self._tiles(y.shape)).type(y)

    def _tiles(self, shape: Sequence[Any]) -> tuple[int, int]:
        return FilterResults(self.filtering, (static(shape[2]), static(shape[3]))).tiles

    def _tiling(self, shape: Sequence[Any]) -> _Tiling:
        f = self.filtering
        return _Tiling(f, (0, 0), self._tiles(shape), f.results)

    def numpy(self, y: Any) -> Any:
        return self._tiling(y.shape).numpy(y, self.filtering.results_transposed)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (y,) = args
        return self._tiling(y.shape).loops(outs[0], y, self.functions[0])

    @property
    def functions(self) -> tuple[Function, ...]:
        return (cotangents_function(self.filtering),)


@dataclass(frozen=True)
class FilterResults(Op):
    """Products [points * points, n * rows * columns, k] -> images [n, k, h, w] of tiles side by
    side; what lies beyond h and w is dropped. At least 16 channels; float32."""

    filtering: Filtering
    image: tuple[int, int]
    fusion: ClassVar[str] = "opaque"

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        h, w = (-(-s // self.filtering.results) for s in self.image)
        return h, w

    def type(self, p: Type) -> Type:
        points, count, k = map(static, p.shape)
        images, rest = divmod(count, self.tiles[0] * self.tiles[1])
        if p.dtype != dtypes.float32 or points != self.filtering.points**2 or rest or k < SIDE:
            raise InternalError(f"{p!r} are no products of {self.filtering}")
        return p.with_shape((images, k, *self.image))

    def numpy(self, p: Any) -> Any:
        f, m = self.filtering, self.filtering.results
        grid = p.reshape((f.points, f.points, -1, *self.tiles, p.shape[-1]))
        parts = [f.combined(column) for column in f.combined(grid)]
        whole = np.stack([np.stack(row, 3) for row in parts], 2)  # [n, rows, m, columns, m, k]
        whole = whole.reshape((-1, m * self.tiles[0], m * self.tiles[1], p.shape[-1]))
        cropped = whole[:, : self.image[0], : self.image[1]]
        return np.ascontiguousarray(np.transpose(cropped, (0, 3, 1, 2)))

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        """One row of tiles and 16 channels at a time: summed, then turned."""
        (p,), (out,) = args, outs
        f, m = self.filtering, self.filtering.results
        (rows, columns), (height, width) = self.tiles, self.image
        at, (image, row, first) = _blocks((static(out.shape[0]), rows), (static(out.shape[1]),))
        strip = Buffer("strip", p.dtype, (m, m * columns, SIDE), "stack")
        number = (image * rows + row) * columns
        products = _ref(p, number, first)
        distances = math.prod(map(static, p.shape[1:])), static(p.shape[2])
        sums = _call(results_function(f), _ref(strip), products, columns, *distances)
        a = axis("a", m)
        y = row * m + a

        q, high = axis("q", -(-width // SIDE)), min(width, SIDE)
        start = _first(q if width > SIDE else as_index(0), width)
        turned = _turned(
            high,
            SIDE,
            lambda u, k: strip[a, start + u, k],
            out,
            lambda k, place: (image, first + k, y, start + place),
        )
        copies = loop(q, turned)
        if height % m:
            copies = If(apply("lt", y, as_index(height)), block(copies), block())
        return loop(at, Alloc(strip), sums, loop(a, copies), kind="parallel")

    @property
    def functions(self) -> tuple[Function, ...]:
        return (results_function(self.filtering),)


@dataclass(frozen=True)
class FilterGradients(Op):
    """Cotangents of sums of weights [points * points, c, k] -> those of the weights [k, c, 3, 3]:
    the transpose of `FilterWeights`. At least 16 windows and channels; float32."""

    filtering: Filtering
    fusion: ClassVar[str] = "opaque"

    def type(self, p: Type) -> Type:
        points, c, k = map(static, p.shape)
        if p.dtype != dtypes.float32 or points != self.filtering.points**2 or min(c, k) < SIDE:
            raise InternalError(f"{p!r} are no sums of {self.filtering}")
        return p.with_shape((k, c, WINDOW, WINDOW))

    def numpy(self, p: Any) -> Any:
        f = self.filtering
        grid = p.reshape((f.points, f.points, *p.shape[1:]))
        rows = [f.weights_transposed(row) for row in f.weights_transposed(grid)]
        windows = np.stack([np.stack(r) for r in rows])  # [3, 3, c, k]
        return np.ascontiguousarray(np.transpose(windows, (3, 2, 0, 1)))

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        """Sixteen windows of sixteen channels at a time: summed, then turned."""
        (p,), (out,) = args, outs
        f, c, k = self.filtering, *map(static, p.shape[1:])
        at, (first_c, first_k) = _blocks((), (c, k))
        strip = Buffer("strip", p.dtype, (WINDOW**2 * SIDE, SIDE), "stack")
        start = _ref(p, first_c, first_k)
        sums = _call(gradients_function(f), _ref(strip), start, c * k, k)
        q = axis("q", WINDOW**2)

        def write(u: Expr, place: Expr) -> Place:
            return (((first_k + u) * c + first_c) * WINDOW**2 + q * SIDE + place,)

        turned = _turned(SIDE, SIDE, lambda u, x: strip[q * SIDE + u, x], out, write)
        return loop(at, Alloc(strip), sums, loop(q, turned), kind="parallel")

    @property
    def functions(self) -> tuple[Function, ...]:
        return (gradients_function(self.filtering),)


def _block(k: int) -> int:
    """Columns of a block: two vectors of the widest registers, or all where they do not divide."""
    return k if k % BLOCK else BLOCK


# -- tiles of images -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tiling:
    """Tiles of images [n, c, h, w]: rows and columns of them, each `reach` places wide and one
    every m places, the first one `low` places before the image, zeros around."""

    filtering: Filtering
    low: tuple[int, int]
    tiles: tuple[int, int]
    reach: int

    def extent(self, d: int) -> int:
        """The places along an axis that some tile has."""
        return self.filtering.results * (self.tiles[d] - 1) + self.reach

    def numpy(self, x: Any, sums: Sums) -> Any:
        """The sums over the places of each tile [points * points, n * rows * columns, c]."""
        borders = [(0, 0), (0, 0)]
        for d, low in enumerate(self.low):
            borders.append((low, max(0, self.extent(d) - low - x.shape[d + 2])))
        padded = np.pad(x, borders)

        def every(a: Any, d: int) -> list[Any]:
            first = np.arange(self.tiles[d]) * self.filtering.results
            return [np.take(a, first + i, d + 2) for i in range(self.reach)]

        found = [s for row in sums(every(padded, 0)) for s in sums(every(row, 1))]
        return np.stack([np.moveaxis(s, 1, -1).reshape(-1, x.shape[1]) for s in found])

    def loops(self, out: Buffer, x: Buffer, sums: Function) -> Stmt:
        """One row of tiles and 16 channels at a time: turned, then summed."""
        f, m = self.filtering, self.filtering.results
        n, c, *_ = map(static, x.shape)
        rows, columns = self.tiles
        width = self.extent(1)
        at, (image, row, first) = _blocks((n, rows), (c,))
        strip = Buffer("strip", x.dtype, (f.points, width, SIDE), "stack")
        line = axis("i", self.reach)
        y = row * m + line - self.low[0]
        left, size = self.low[1], static(x.shape[3])

        def read(u: Expr, p: Expr) -> Expr:
            return Load(x, (image, first + u, y, p), None)

        copied = _turned(SIDE, size, read, strip, lambda p, u: (line, p + left, u))
        copied = self._where(y, static(x.shape[2]), copied, _blank(strip, line, left, size))
        right = left + size
        around = [_blank(strip, line, 0, left), _blank(strip, line, right, width - right)]
        number = (image * rows + row) * columns
        to = _ref(out, number, first)
        sizes = width, columns, math.prod(map(static, out.shape[1:])), c
        summed = _call(sums, to, _ref(strip), *sizes)
        return loop(at, Alloc(strip), loop(line, copied, *around), summed, kind="parallel")

    def _where(self, y: Expr, size: int, then: Stmt, otherwise: Stmt) -> Stmt:
        """One of two statements, by whether there is such a row in the image."""
        tests = [apply("le", as_index(0), y)] if self.low[0] else []
        if self.extent(0) > size + self.low[0]:
            tests.append(apply("lt", y, as_index(size)))
        if not tests:
            return then
        return If(functools.reduce(lambda a, b: a & b, tests), block(then), block(otherwise))


def _blank(strip: Buffer, line: Expr, start: int, count: int) -> Stmt:
    """Zeros in some columns of a row."""
    p, v = axis("p", count), axis("v", SIDE)
    zero = Store(strip, (line, p + start, v), literal(0, strip.dtype))
    return loop(p, loop(v, zero, kind="vector", lanes=SIDE)) if count else block()


# -- loops ---------------------------------------------------------------------------------------


def _ref(buffer: Buffer, *place: Expr) -> Ref:
    """A pointer to a place, the position on the first axis being 0."""
    offset = as_index(0)
    for i, n in zip(place, buffer.shape[1:], strict=bool(place)):
        offset = offset * as_index(n) + i
    return Ref(buffer, offset)


def _call(f: Function, *args: Ref | int) -> Call:
    """A call of a function with pointers and numbers."""
    return Call(f.name, tuple(a if isinstance(a, Ref) else as_index(a) for a in args), None)


def _blocks(whole: Sequence[int], channels: Sequence[int]) -> tuple[Axis, list[Expr]]:
    """One axis over all of `whole` and over blocks of channels: the axis, the places in `whole` and
    the first channel of each block."""
    extents = [*whole, *(-(-c // SIDE) for c in channels)]
    at = axis("r", math.prod(extents))
    rest: Expr = at if at.extent != 1 else as_index(0)
    places: list[Expr] = []
    for k, n in reversed([*enumerate(extents)]):
        last = all(m == 1 for m in extents[:k])  # what is left is within the extent already
        places.insert(0, rest if last and n != 1 else index("%", rest, as_index(n)))
        rest = as_index(0) if last else index("//", rest, as_index(n))
    firsts = [_first(p, c) for p, c in zip(places[len(whole) :], channels, strict=True)]
    return at, [*places[: len(whole)], *firsts]


def _first(block: Expr, extent: int) -> Expr:
    """The first element of a block of SIDE. One that would be short starts earlier, and what it
    shares with the one before is written twice, alike: there is one copy of the code."""
    start = index("*", block, as_index(SIDE))
    return start if extent % SIDE == 0 else index("min", start, as_index(max(extent - SIDE, 0)))


def _turned(
    rows: int, columns: int, read: Read, out: Buffer, write: Callable[[Expr, Expr], Place]
) -> Stmt:
    """Copy a matrix of at most SIDE rows by square tiles: `read(u, column)` is its element in row
    `u`, neighbours being neighbours in memory; `write(column, row)` is where it goes."""
    wide = min(columns, SIDE)
    q, u, v, row, r = (
        axis("q", -(-columns // SIDE)), axis("u", wide), axis("v", wide), axis("v", rows),
        axis("u", rows),
    )  # fmt: skip
    column = _first(q if columns > SIDE else as_index(0), columns)
    tile = Buffer("tile", out.dtype, (SIDE, SIDE), "registers")

    def filled(at: Expr, value: Expr) -> Stmt:
        return loop(v, Store(tile, (at, v), value), kind="vector", lanes=SIDE)

    body = [Alloc(tile), loop(r, filled(r, read(r, column + v)), kind="unroll")]
    # the rows that are not read must hold something
    body += [filled(as_index(k), literal(0, out.dtype)) for k in range(rows, SIDE)]
    store = Store(out, write(column + u, row), tile[u, row])
    turned = loop(u, loop(row, store, kind="vector", lanes=SIDE), kind="unroll")
    return loop(q, block(*body, Flip(tile), turned))
