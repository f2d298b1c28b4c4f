"""Lowering: from kept nodes of a graph to the scalar expression of their elements.

Knows how to inline producers: `Op.lower` asks for an argument's element at some index and gets a
load if the argument is kept in memory, the producer's own expression otherwise. A reduction inside
another one is of few terms, and becomes a plain expression of them. Refuses to decide what is kept
(`fusion`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Extent,
    Reduce,
    apply,
    as_index,
    axis,
    depends,
    is_static,
    load,
    product,
    reductions_in,
    static,
    substitute,
    walk,
)
from tilewright.graph import Node, View
from tilewright.ops import elementwise as el
from tilewright.scalars import MULTIPLY_ADD

AXIS_NAMES = "ijklmnpq"
FEW: Final = 4
"""Terms up to which a reduction is written out where another one reads it: points have two
coordinates or three, and what all pairs of them make is not worth an array."""
COMBINED: Final = {
    "sum": el.add, "prod": el.multiply, "max": el.maximum, "min": el.minimum,
    "all": el.logical_and, "any": el.logical_or,
}  # fmt: skip
"""The elementwise function that combines two terms of a reduction."""
_DIFFERENCE: Final = el.subtract.row.scalar
_COMMUTING: Final = (el.add.row.scalar, el.multiply.row.scalar)
_SQUARES: Final = (el.square.row.scalar, el.multiply.row.scalar)


class Lowering:
    """Elements of nodes, given the buffers of those kept in memory. Memoised per (node, index)."""

    def __init__(self, buffers: Mapping[Node, Buffer]) -> None:
        self.buffers = buffers
        self._done: dict[tuple[Node, tuple[Expr, ...], Expr | None], Expr] = {}

    def element(self, node: Node, idx: tuple[Expr, ...], guard: Expr | None = None) -> Expr:
        """The scalar of `node` at `idx`."""
        if node in self.buffers:
            return load(self.buffers[node], idx, guard)
        return self.compute(node, idx, guard)

    def compute(self, node: Node, idx: tuple[Expr, ...], guard: Expr | None = None) -> Expr:
        """The scalar as the node's own expression, whether or not it is kept."""
        key = (node, idx, guard)
        found = self._done.get(key)
        if found is None:
            found = node.op.lower(idx, *(self.view(a, guard) for a in node.args))
            if found.type != node.type.dtype:
                raise InternalError(f"{node!r} lowers to an element of type {found.type}")
            self._done[key] = found
        return found

    def view(self, node: Node, guard: Expr | None) -> View:
        """The node as an argument of `Op.lower`."""

        def at(idx: tuple[Expr, ...], inner: Expr | None) -> Expr:
            both = inner if guard is None else guard if inner is None else guard & inner
            return self.element(node, idx, both)

        return View(node.type, at)


def axes_for(shape: Sequence[object]) -> tuple[Axis, ...]:
    """Fresh axes i, j, ... for a shape."""
    return tuple(axis(AXIS_NAMES[min(d, len(AXIS_NAMES) - 1)], n) for d, n in enumerate(shape))  # type: ignore[arg-type]


def position(axes: Sequence[Axis]) -> tuple[Expr, ...]:
    """The index made of the axes; an axis with one point is just 0."""
    return tuple(as_index(0) if a.extent == 1 else a for a in axes)


def is_few(extents: Sequence[Extent]) -> bool:
    """Whether a reduction over so many points may be written out."""
    return all(map(is_static, extents)) and 0 < static(product(extents)) <= FEW


def written_out(root: Expr, within: Sequence[Axis] = ()) -> Expr:
    """The expression with every reduction of few terms that depends on the axes of one around it,
    or on those it stands `within`, as a plain expression of its terms, in their order."""
    while root.reduces:
        env: dict[Expr, Expr] = {}
        around = [(root, within)]
        around += [(e.body, e.axes) for e in reductions_in(root)]
        for body, axes in around:
            inner = reductions_in(body)
            env |= {r: _terms(r) for r in inner if _is_short(r) and depends(r, axes)}
        if not env:
            break
        (root,) = substitute([root], env)
    return root


def _is_short(r: Reduce) -> bool:
    """Whether it can be written out at once: it has few terms, and no reduction inside."""
    return not r.body.reduces and is_few([a.extent for a in r.axes])


def _terms(r: Reduce) -> Expr:
    points = itertools.product(*(range(static(a.extent)) for a in r.axes))
    terms: list[Expr] = []
    for p in points:
        env: dict[Expr, Expr] = dict(zip(r.axes, map(as_index, p), strict=True))
        terms += substitute([r.body], env)
    return functools.reduce(functools.partial(_combined, r.kind), terms)


def _combined(kind: str, total: Expr, term: Expr) -> Expr:
    """One more term of a reduction; a product that is added to floats in one step."""
    is_product = isinstance(term, Apply) and term.op in _SQUARES
    if kind == "sum" and is_product and term.type in (dtypes.float32, dtypes.float64):
        return apply(MULTIPLY_ADD, term.children[0], term.children[-1], total)
    return apply(COMBINED[kind].row.scalar, total, term)


def joined(root: Expr) -> Expr:
    """The expression with reductions over equal extents over the same axes, and terms alike that
    differ in the order of what they add or multiply, or in the sign of what they square: of a pair
    of points and the same pair the other way round a good part is the same."""
    sums = reductions_in(root)
    if len(sums) < 2 or any(r.body.reduces for r in sums):
        return root
    first, env = sums[0].axes, dict[Expr, Expr]()
    for r in sums[1:]:
        if [a.extent for a in r.axes] == [a.extent for a in first]:
            (body,) = substitute([r.body], dict(zip(r.axes, first, strict=True)))
            env[r] = Reduce(r.kind, first, body)
    (root,) = substitute([root], env)
    return _ordered(root)


def _ordered(root: Expr) -> Expr:
    """The expression with one term for all that have the same value whatever the order of their
    operands."""
    done: dict[Expr, Expr] = {}
    known: dict[tuple[str, frozenset[Expr]], Expr] = {}
    for e in walk(root):
        children = tuple([done[c] for c in e.children])
        new = e if children == e.children else e.with_children(children)
        if isinstance(new, Apply) and dtypes.is_float(new.type):
            x, op = children[0], new.op
            factors = children[:2] if op is MULTIPLY_ADD else children if op in _SQUARES else ()
            square = factors and x is factors[-1]
            if square and isinstance(x, Apply) and x.op is _DIFFERENCE:
                x = known.setdefault((x.op.name, frozenset(x.children)), x)
                new = new.with_children((x,) * len(factors) + children[len(factors) :])
            if op in _COMMUTING:
                new = known.setdefault((op.name, frozenset(new.children)), new)
        done[e] = new
    return done[root]
