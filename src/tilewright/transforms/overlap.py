"""Convolutions that multiply mostly zeros, as products and an overlap-add: a rewrite of graphs.

Knows which convolutions these are: those of images with zeros between their elements (transposed
convolutions, and the gradients of strided ones) or with more border than image. Each element is
multiplied with all weights, a matrix product without any zeros, and the products are added up where
they belong. Refuses to know how they are added (`ops.overlap`) and how products are scheduled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tilewright import dtypes
from tilewright.array import Array
from tilewright.expr import is_static, static
from tilewright.graph import Graph, Node, Op, Type
from tilewright.ops.contract import Conv, Dot
from tilewright.ops.overlap import OverlapAdd, Spread
from tilewright.ops.shape import Flip, Reshape, Transpose
from tilewright.transforms.rewriting import applies, rewritten

WASTE: Final = 2
"""Multiplications of a convolution for each one needed, from which on it is rewritten."""


def overlap(graph: Graph) -> Graph:
    """The graph with the convolutions replaced that multiply mostly zeros; the same object if there
    are none. Only float32 and float64, static shapes, and nothing empty."""
    return rewritten(graph, _added_up) if applies(graph, Conv) else graph


def _added_up(op: Op, args: Sequence[Node]) -> Node | None:
    """The products of all elements with all weights, added up, if a convolution needs far fewer of
    them than it multiplies, zeros included."""
    if not isinstance(op, Conv):
        return None
    x, w = (a.type for a in args)
    out = op.type(x, w)
    if out.dtype not in (dtypes.float32, dtypes.float64) or out.ndim < 3:
        return None
    if not all(is_static(s) and s for t in (x, w, out) for s in t.shape):
        return None
    image, result = (math.prod(map(static, t.shape[2:])) for t in (x, out))
    if not all(is_static(low) for low, _ in op.padding) or result < WASTE * image:
        return None
    return _spread(op, out, *args)


def _spread(conv: Conv, out: Type, image: Node, window: Node) -> Node:
    """The convolution as the products of all elements with all weights, added up."""
    flipped, window = _unflipped(window)
    spreads = tuple(
        Spread(stride, static(low), dilation, apart, static(size), d + 2 in flipped)
        for d, (stride, (low, _), dilation, apart, size) in enumerate(
            zip(
                conv.strides,
                conv.padding,
                conv.lhs_dilation,
                conv.rhs_dilation,
                out.shape[2:],
                strict=True,
            )
        )
    )
    x, w, g = Array.wrap(image), Array.wrap(window), conv.groups
    if g == 1:
        products = Dot((1,), (1,))(w, x)  # [out, *window, n, *image]
    else:
        x = Reshape((x.shape[0], g, x.shape[1] // g, *x.shape[2:]))(x)
        grouped = Reshape((g, w.shape[0] // g, *w.shape[1:]))(w)
        products = Dot((2,), (2,), (0,), (1,))(grouped, x)
        products = Reshape((w.shape[0], *products.shape[2:]))(products)
    return OverlapAdd(spreads).node(products.node)


def _unflipped(window: Node) -> tuple[frozenset[int], Node]:
    """The window without the reversal of its spatial axes, and these axes: what is contiguous in
    memory is multiplied as it stands."""
    order: tuple[int, ...] = tuple(range(window.type.ndim))
    inner = window
    if isinstance(window.op, Transpose):
        order, inner = window.op.order, window.args[0]
    if not isinstance(inner.op, Flip):
        return frozenset(), window
    flipped = frozenset(d for d, source in enumerate(order) if source in inner.op.axes)
    if min(flipped, default=2) < 2:
        return frozenset(), window
    bare = inner.args[0]
    return flipped, Transpose(order).node(bare) if inner is not window else bare
