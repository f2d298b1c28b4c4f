"""Lowering: from kept nodes of a graph to the scalar expression of their elements.

Knows how to inline producers: `Op.lower` asks for an argument's element at some index and gets a
load if the argument is kept in memory, the producer's own expression otherwise. Refuses to decide
what is kept (`fusion`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.errors import InternalError
from tilewright.expr import Axis, Buffer, Expr, as_index, axis, load
from tilewright.graph import Node, View

AXIS_NAMES = "ijklmnpq"


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
