"""Winograd: convolutions with windows of 3 by 3 in fewer multiplications, as a rewrite of graphs.

Knows which convolutions F(2x2, 3x3) and F(4x4, 3x3) compute, gradients of weights among them, and,
by a count of cycles, which of them become faster; whoever measured them may choose otherwise.
Refuses to know the algorithms (`ops.winograd`) and how the products between their sums are
scheduled. The figures behind the choices are in docs/notes/winograd.md.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tilewright import dtypes
from tilewright.array import Array
from tilewright.expr import is_static, static
from tilewright.graph import Graph, Node, Op, Type, new_input
from tilewright.ops.contract import Conv, Dot
from tilewright.ops.control import Scan
from tilewright.ops.filtering import SIDE, WINDOW, Filtering
from tilewright.ops.shape import Iota, Reshape, Transpose
from tilewright.ops.winograd import (
    BLOCK,
    FilterCotangents,
    FilterData,
    FilterGradients,
    FilterResults,
    FilterWeights,
)
from tilewright.transforms.ahead import is_steady
from tilewright.transforms.alternatives import Choose, by_count, described
from tilewright.transforms.rewriting import applies, rewritten

SMALL: Final = Filtering((1.0,))
"""F(2, 3): rounds less than the convolution itself, whose sums are longer."""
LARGE: Final = Filtering((math.sqrt(0.5), math.sqrt(2.0)))
"""F(4, 3): of the pairs of points tried, those that round least; 1 and 2 are the usual ones and
round four times as much."""


DIRECT: Final = "direct"
ALGORITHMS: Final[Mapping[str, Filtering | None]] = {
    DIRECT: None,
    "winograd 2x2": SMALL,
    "winograd 4x4": LARGE,
}
"""What computes a convolution, by the names that measurements are kept under."""


@dataclass(frozen=True)
class Convolution:
    """A convolution that any of `ALGORITHMS` may compute: the op, the types of images and weights,
    and whether the weights are constant, so that what is made of them is made once."""

    op: Conv
    x: Type
    w: Type
    constant: bool

    @property
    def types(self) -> tuple[Type, Type]:
        return self.x, self.w

    @property
    def constants(self) -> frozenset[int]:
        return frozenset((1,) if self.constant else ())

    @property
    def algorithms(self) -> tuple[str, ...]:
        return tuple(ALGORITHMS)

    @property
    def counted(self) -> str:
        """The algorithm that pays by a count of cycles."""
        found = _counted(self)
        return next(name for name, f in ALGORITHMS.items() if f == found)

    @property
    def is_gradient(self) -> bool:
        """Whether it has results of 3 by 3, as gradients of weights have, not windows."""
        return tuple(map(static, self.w.shape[2:])) != (WINDOW, WINDOW)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images, channels of results and of images, and the places of a result [n, k, c, h, w]: of
        the convolution that it is the gradient of, if it is one."""
        places = self.w.shape[2:] if self.is_gradient else self.op.type(self.x, self.w).shape[2:]
        n, c = self.x.shape[:2] if not self.is_gradient else self.x.shape[1::-1]
        return tuple(map(static, (n, self.w.shape[0], c, *places)))

    @property
    def text(self) -> str:
        """JSON that is the same for equal convolutions only."""
        known = {
            "x": described(self.x),
            "w": described(self.w),
            "strides": self.op.strides,
            "padding": [[static(b) for b in pair] for pair in self.op.padding],
            "lhs_dilation": self.op.lhs_dilation,
            "rhs_dilation": self.op.rhs_dilation,
            "groups": self.op.groups,
            "constant": self.constant,
        }
        return json.dumps(known, separators=(",", ":"))


# -- the rewrite ---------------------------------------------------------------------------------


def winograd(graph: Graph, choose: Choose = by_count) -> Graph:
    """The graph with the convolutions replaced that become faster; the same object if none do.

    Only float32, windows or results of 3 by 3, strides and dilations of 1, one group, static
    shapes.
    """
    faster = functools.partial(_faster, choose)
    return rewritten(graph, faster) if applies(graph, Conv) else graph


def _faster(choose: Choose, op: Op, args: Sequence[Node]) -> Node | None:
    """The filtered form of a convolution, if that pays."""
    conv = _convolution(op, args)
    if conv is None:
        return None
    f = ALGORITHMS[choose(conv) or conv.counted]
    if f is None:
        return None
    form = _of_weights if conv.is_gradient else _filtered
    found: Array = form(f, conv.op, *map(Array.wrap, args))
    return found.node


def _filtered(f: Filtering, conv: Conv, x: Array, w: Array) -> Any:
    """The convolution by F(m x m, 3 x 3), for a block of results at a time, so that the sums of
    weights and the products of one are in the cache where those of the one before were."""
    size = [
        static(s + low + high) - WINDOW + 1
        for s, (low, high) in zip(x.shape[2:], conv.padding, strict=True)
    ]
    last = FilterResults(f, (size[0], size[1]))
    low = static(conv.padding[0][0]), static(conv.padding[1][0])
    data = FilterData(f, low, last.tiles)(x)
    k = static(w.shape[0])
    if k % BLOCK or k == BLOCK:
        return _results(last, k, data, FilterWeights(f, k)(w))
    numbers = Array.wrap(Iota(Type(dtypes.int64, (k // BLOCK,)), 0).node())
    sums = FilterWeights(f, BLOCK)
    if is_steady(w.node):  # all sums of weights before all products: they are computed once
        weights = _each(sums, (w,), numbers)
        parts = _each(lambda data, w: _results(last, BLOCK, data, w), (data,), weights)
    else:
        parts = _each(
            lambda data, w, number: _results(last, BLOCK, data, sums(w, number)), (data, w), numbers
        )
    return Reshape((x.shape[0], k, *size))(Transpose((1, 0, 2, 3, 4))(parts))


def _of_weights(f: Filtering, conv: Conv, x: Array, ct: Array) -> Any:
    """The gradient of weights: images with channels first [c, n, h, w], correlated with cotangents
    [k, n, ...], by the transpose of F(m x m, 3 x 3). Its sums of images are those of the
    convolution itself, if that is filtered, too."""
    low = static(conv.padding[0][0]), static(conv.padding[1][0])
    sums = FilterCotangents(f)(_swapped(ct))
    tiles = FilterResults(f, (static(ct.shape[2]), static(ct.shape[3]))).tiles
    products = Dot((1,), (1,), (0,), (0,))(FilterData(f, low, tiles)(_swapped(x)), sums)
    return _swapped(FilterGradients(f)(products))


def _swapped(x: Array) -> Any:
    """With the first two axes in each other's place."""
    swap = Transpose((1, 0, 2, 3))
    return Array.wrap(x.node.args[0]) if x.node.op == swap else swap(x)


def _each(f: Callable[..., Any], held: Sequence[Any], rows: Any) -> Any:
    """f(*held, row) for every row, stacked."""
    types = (*(a.node.type for a in held), rows.node.type.without((0,)))
    inputs = tuple(new_input(f"x{i}", t) for i, t in enumerate(types))
    body = Graph("filtered", inputs, (f(*map(Array.wrap, inputs)).node,))
    return Scan(body, len(held), 0, rows.shape[0])(*held, rows)[0]


def _results(last: FilterResults, count: int, data: Any, weights: Any) -> Any:
    """The results of `count` windows, from the sums of inputs and those of weights."""
    products = Dot((2,), (2,), (0,), (0,))(data, weights)  # [points, tiles, blocks, block]
    return last(Reshape((*products.shape[:2], count))(products))


# -- where it pays -------------------------------------------------------------------------------

LANES: Final = 16
"""Multiplications of a cycle; only the ratio to the other figures matters."""
PRODUCT: Final = 1.08
"""Cycles of direct convolutions and of the products, over those of their multiplications."""
GRADIENT: Final = 1.3
"""The same of direct gradients of weights: 1.05 with many channels, up to 1.9 with few images."""
DATA, RESULT, WEIGHT, KEPT = 0.9, 0.7, 1.9, 0.44
"""Cycles for each sum of inputs, each product, and each sum of weights, when neither images nor
weights are in a cache: weights are summed once and read back once; if they are constant they are
only read from memory, as those of a direct convolution are, a tenth of it behind the products."""
WIDEST: Final = 1024
"""Columns of the widest image; a row of its tiles, 16 channels of it, is held on the stack."""
GAINS: Final = {SMALL: 1.05, LARGE: 1.15}
"""What must be gained: the counts are rough, and F(4, 3) rounds twice as much."""


def _convolution(op: Op, args: Sequence[Node]) -> Convolution | None:
    """A convolution that can be filtered: None for all others."""
    if not isinstance(op, Conv):
        return None
    x, w = (a.type for a in args)
    out = op.type(x, w)
    if out.dtype != dtypes.float32 or out.ndim != 4:
        return None
    borders = [s for pair in op.padding for s in pair]
    if not all(is_static(s) for t in (x, w, out) for s in t.shape) or 0 in out.shape:
        return None
    plain = {*op.strides, *op.lhs_dilation, *op.rhs_dilation, op.groups} == {1}
    if not plain or not all(is_static(b) and static(b) >= 0 for b in borders):
        return None
    conv = Convolution(op, x, w, is_steady(args[1]))
    n, k, c, *image = conv.sizes
    windows = (out if conv.is_gradient else w).shape[2:]
    if windows != (WINDOW, WINDOW) or min(n, *image) == 0 or image[1] > WIDEST:
        return None
    return conv if min(k, c) >= SIDE else None


def _counted(conv: Convolution) -> Filtering | None:
    """The filtering that pays by a count of cycles, None if none does."""
    n, k, c, *image = conv.sizes
    direct = WINDOW**2 * c * k * n * math.prod(image) / LANES
    if conv.is_gradient:
        direct *= GRADIENT
    else:
        direct = direct * PRODUCT + WINDOW**2 * c * k * KEPT
    cycles = {f: _cycles(f, conv) for f in GAINS}
    best = min(cycles, key=lambda f: cycles[f])
    return best if cycles[best] * GAINS[best] < direct else None


def _cycles(f: Filtering, conv: Convolution) -> float:
    """A count of the cycles of a filtered convolution."""
    n, k, c, *image = conv.sizes
    tiles = n * math.prod(-(-s // f.results) for s in image)
    points = f.points**2
    products = points * tiles * c * k / LANES * PRODUCT
    result, weight = RESULT, KEPT if conv.constant else WEIGHT
    if conv.is_gradient:
        result, weight = DATA, WEIGHT
    return products + points * (tiles * (DATA * c + result * k) + c * k * weight)
