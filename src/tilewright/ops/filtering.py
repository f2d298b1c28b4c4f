"""Minimal filtering: three weights over tiles of inputs, in fewer multiplications.

Knows the algorithms F(m, 3) (Winograd 1980; Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016) for any even m, and functions of the Loops language that apply one along
both axes of tiles. Of these only distances and counts differ between convolutions, and they are
arguments, so the functions of one algorithm are the same in every program. Refuses to know images,
windows and their borders (`ops.winograd`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tilewright import dtypes
from tilewright.expr import Buffer, Expr, Load, Var, as_index, axis, literal, var
from tilewright.loops import Alloc, Block, Function, Let, Stmt, Store, block, loop

WINDOW: Final = 3
"""Rows and columns of the windows; the sums below are of three weights."""
SIDE: Final = 16
"""Channels that are worked on together; where registers are narrower, several make one row."""

Sums = Callable[[Sequence[Any]], list[Any]]


# -- the algorithm -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filtering:
    """F(m, 3): m results from m + 2 products of sums of inputs with sums of weights.

    Its points are 0, infinity, and a pair +a, -a for each of `pairs`, of which there are m / 2.
    A polynomial at +a and -a is its even part plus and minus its odd part, so pairs share sums.
    Terms are arrays or scalar expressions.
    """

    pairs: tuple[float, ...]

    @property
    def results(self) -> int:
        """m, the results of one tile along an axis."""
        return 2 * len(self.pairs)

    @property
    def points(self) -> int:
        """m + 2, the inputs of a tile along an axis, and the products."""
        return self.results + WINDOW - 1

    def data(self, d: Sequence[Any]) -> list[Any]:
        """The sums of m + 2 inputs, one for each point."""
        everywhere = _squares(self.pairs)
        found = [_sum(everywhere, d[0::2])]
        for a in self.pairs:
            others = _squares([b for b in self.pairs if b != a])
            even, odd = _sum(others, d[2::2]), _sum([a * c for c in others], d[1::2])
            found += [even + odd, even - odd]
        return [*found, _sum(everywhere, d[1::2])]

    def weights(self, g: Sequence[Any]) -> list[Any]:
        """The sums of three weights, one for each point."""
        found = [_times(g[0], 1 / _squares(self.pairs)[0])]
        for a in self.pairs:
            scale = self._scale(a)
            even, odd = _sum([1 / scale, a * a / scale], [g[0], g[2]]), _times(g[1], a / scale)
            found += [even + odd, even - odd]
        return [*found, g[2]]

    def combined(self, p: Sequence[Any]) -> list[Any]:
        """The m results, from the products at each point."""
        plus = [p[1 + 2 * k] + p[2 + 2 * k] for k in range(len(self.pairs))]
        minus = [p[1 + 2 * k] - p[2 + 2 * k] for k in range(len(self.pairs))]
        found = []
        for power in range(self.results):
            terms = minus if power % 2 else plus
            found.append(_sum([a**power for a in self.pairs], terms))
        found[0], found[-1] = p[0] + found[0], found[-1] + p[-1]
        return found

    def results_transposed(self, y: Sequence[Any]) -> list[Any]:
        """The transpose of `combined`: from m cotangents of results those of the products, which
        are the polynomial with these coefficients at each point."""
        found = [y[0]]
        for a in self.pairs:
            powers = [a**k for k in range(self.results)]
            even, odd = _sum(powers[0::2], y[0::2]), _sum(powers[1::2], y[1::2])
            found += [even + odd, even - odd]
        return [*found, y[-1]]

    def weights_transposed(self, p: Sequence[Any]) -> list[Any]:
        """The transpose of `weights`: three cotangents of weights from those of their sums."""
        plus = [p[1 + 2 * k] + p[2 + 2 * k] for k in range(len(self.pairs))]
        minus = [p[1 + 2 * k] - p[2 + 2 * k] for k in range(len(self.pairs))]
        scales = [self._scale(a) for a in self.pairs]
        first = _times(p[0], 1 / _squares(self.pairs)[0])
        return [
            first + _sum([1 / s for s in scales], plus),
            _sum([a / s for a, s in zip(self.pairs, scales, strict=True)], minus),
            p[-1] + _sum([a * a / s for a, s in zip(self.pairs, scales, strict=True)], plus),
        ]

    def _scale(self, a: float) -> float:
        return 2 * a * a * math.prod(a * a - b * b for b in self.pairs if b != a)


def _squares(roots: Sequence[float]) -> list[float]:
    """The coefficients of the product of z - b * b over the roots b, lowest first."""
    found = [1.0]
    for b in roots:
        shifted, scaled = [0.0, *found], [*(-b * b * c for c in found), 0.0]
        found = [s + c for s, c in zip(shifted, scaled, strict=True)]
    return found


def _sum(coefficients: Sequence[float], terms: Sequence[Any]) -> Any:
    """The sum of the first terms times the coefficients."""
    first = terms[: len(coefficients)]
    scaled = [_times(t, c) for c, t in zip(coefficients, first, strict=True)]
    return functools.reduce(lambda a, b: a + b, scaled)


def _times(term: Any, c: float) -> Any:
    """Roots are rounded: what should be 1 is."""
    if abs(c - 1) < 1e-12:
        return term
    return term * (literal(c, term.type) if isinstance(term, Expr) else term.dtype.type(c))


# -- functions of the Loops language -------------------------------------------------------------
#
# All distances are in elements, and every place is a row of SIDE neighbours.


def data_function(f: Filtering) -> Function:
    """Sums of the inputs of a row of tiles that overlap; see `_tiled`."""
    return _tiled(f, "data", f.points)


def cotangents_function(f: Filtering) -> Function:
    """Sums of the cotangents of a row of tiles side by side; see `_tiled`."""
    return _tiled(f, "results_transposed", f.results)


@functools.cache
def _tiled(f: Filtering, sums: str, reach: int) -> Function:
    """Pointers out and lines; numbers width, tiles, point, tile. The first `reach` of m + 2 `lines`
    of so many places hold the inputs and are overwritten. The sums of tile t at the points i, j
    (one tile every m places) go to out + (i (m + 2) + j) point + t tile.

    First the sums along columns, in place: tiles that overlap share them.
    """
    apply: Sums = getattr(f, sums)
    out, lines = _memory("out"), _memory("lines")
    width, tiles, point, tile = (_number(n) for n in ("width", "tiles", "point", "tile"))
    place, t, i = axis("x", width), axis("t", tiles), axis("i", f.points)
    down, across = _Body(), _Body()
    column = down.places(place * SIDE, width * SIDE, f.points)
    down.store(lines, column, apply(down.load(lines, column[:reach])))
    start = i * (width * SIDE) + t * (f.results * SIDE)
    to = across.places(i * (point * f.points) + t * tile, point, f.points)
    row = [start + k * SIDE for k in range(reach)]
    across.store(out, to, apply(across.load(lines, row)))
    body = block(loop(place, down.lanes()), loop(i, loop(t, across.lanes())))
    return _function(f, sums, (out, lines), (width, tiles, point, tile), body)


@functools.cache
def results_function(f: Filtering) -> Function:
    """Pointers out and p; numbers tiles, point, tile. The products of tile t at the points i, j are
    at p + (i (m + 2) + j) point + t tile; its results go to place t m of m lines of m `tiles`
    places."""
    m, n = f.results, f.points
    out, p, half = _memory("out"), _memory("p"), _half(m * n)
    tiles, point, tile = (_number(n) for n in ("tiles", "point", "tile"))
    t, a, j = axis("t", tiles), axis("a", m), axis("j", n)
    down, across = _Body(), _Body()
    column = down.places(j * point + t * tile, point * n, n)
    to = [(as_index(k * n) + j) * SIDE for k in range(m)]
    down.store(half, to, f.combined(down.load(p, column)))
    line = (a * tiles + t) * (m * SIDE)
    results = f.combined(across.load(half, [(a * n + k) * SIDE for k in range(n)]))
    across.store(out, [line + k * SIDE for k in range(m)], results)
    body = block(Alloc(half), loop(t, loop(j, down.lanes()), loop(a, across.lanes())))
    return _function(f, "combined", (out, p), (tiles, point, tile), body)


@functools.cache
def weights_function(f: Filtering) -> Function:
    """Pointers out and strip; numbers point and channel. Of SIDE channels c the nine weights are
    the places 9 c to 9 c + 8 of the strip; their sums at the points i, j go to
    out + (i (m + 2) + j) point + c channel."""
    n = f.points
    out, strip, half = _memory("out"), _memory("strip"), _half(n * WINDOW)
    point, channel = _number("point"), _number("channel")
    c, i, b = axis("c", SIDE), axis("i", n), axis("b", WINDOW)
    down, across = _Body(), _Body()
    column = [(c * WINDOW**2 + b + k * WINDOW) * SIDE for k in range(WINDOW)]
    to = [(as_index(k * WINDOW) + b) * SIDE for k in range(n)]
    down.store(half, to, f.weights(down.load(strip, column)))
    row = [(i * WINDOW + k) * SIDE for k in range(WINDOW)]
    points = across.places(i * (point * n) + c * channel, point, n)
    across.store(out, points, f.weights(across.load(half, row)))
    body = block(Alloc(half), loop(c, loop(b, down.lanes()), loop(i, across.lanes())))
    return _function(f, "weights", (out, strip), (point, channel), body)


@functools.cache
def gradients_function(f: Filtering) -> Function:
    """The transpose of `weights_function`. Pointers strip and p; numbers point and channel."""
    n = f.points
    strip, p, half = _memory("strip"), _memory("p"), _half(n * WINDOW)
    point, channel = _number("point"), _number("channel")
    c, a, j = axis("c", SIDE), axis("a", WINDOW), axis("j", n)
    down, across = _Body(), _Body()
    column = down.places(j * point + c * channel, point * n, n)
    to = [(as_index(k * n) + j) * SIDE for k in range(WINDOW)]
    down.store(half, to, f.weights_transposed(down.load(p, column)))
    row = across.load(half, [(a * n + k) * SIDE for k in range(n)])
    places = [(c * WINDOW**2 + a * WINDOW + k) * SIDE for k in range(WINDOW)]
    across.store(strip, places, f.weights_transposed(row))
    body = block(Alloc(half), loop(c, loop(j, down.lanes()), loop(a, across.lanes())))
    return _function(f, "weights_transposed", (strip, p), (point, channel), body)


FUNCTIONS: Final = (
    {"data": data_function, "combined": results_function, "weights": weights_function},
    {"results_transposed": cotangents_function, "weights_transposed": gradients_function},
)
"""What a convolution needs of a filtering, and what the gradient of its weights needs besides: by
the sums that are applied."""


def name_of(f: Filtering, sums: str) -> str:
    """The function's name says all that it depends on."""
    return ".".join(["tilewright_filter", sums, *map(repr, f.pairs)])


def _function(
    f: Filtering, sums: str, pointers: tuple[Buffer, ...], numbers: tuple[Var, ...], body: Block
) -> Function:
    return Function(name_of(f, sums), pointers, body, numbers=numbers)


def _memory(name: str) -> Buffer:
    """A parameter: as many elements as the caller says."""
    return Buffer(name, dtypes.float32, (_number("n"),))


def _half(places: int) -> Buffer:
    """What is summed along columns only."""
    return Buffer("half", dtypes.float32, (places * SIDE,), "stack")


def _number(name: str) -> Var:
    return var(name, dtypes.int64)


class _Body:
    """A round of sums, SIDE lanes of them: statements, with values named as they come."""

    def __init__(self) -> None:
        self.v = axis("v", SIDE)
        self.statements: list[Stmt] = []

    def named(self, name: str, x: Expr) -> Var:
        found = var(name, x.type)
        self.statements.append(Let(found, x))
        return found

    def places(self, start: Expr, apart: Expr, count: int) -> list[Expr]:
        """Where so many rows begin. Each is named: one addition after the other."""
        step = self.named("d", apart)
        found = [self.named("p", start)]
        for _ in range(count - 1):
            found.append(self.named("p", found[-1] + step))
        return [*found]

    def load(self, buffer: Buffer, places: Sequence[Expr]) -> list[Var]:
        return [self.named("s", Load(buffer, (p + self.v,), None)) for p in places]

    def store(self, buffer: Buffer, places: Sequence[Expr], values: Sequence[Expr]) -> None:
        for p, x in zip(places, values, strict=True):
            self.statements.append(Store(buffer, (p + self.v,), x))

    def lanes(self) -> Stmt:
        return loop(self.v, *self.statements, kind="vector", lanes=SIDE)
