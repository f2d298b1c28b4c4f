"""Graph simplification: small directional rules, applied once in topological order.

Each rule makes the graph smaller or moves a constant to where it folds; none changes a value, not
even the sign of a zero. Refuses to fold large constants (a Fill is a number, whatever its shape).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tilewright import dtypes
from tilewright.expr import Extent, is_static, static
from tilewright.graph import Graph, Node, Op, Type
from tilewright.ops import elementwise as el
from tilewright.ops.contract import Dot
from tilewright.ops.elementwise import Elementwise
from tilewright.ops.indexing import Scatter
from tilewright.ops.shape import (
    Broadcast,
    Cast,
    Fill,
    Flip,
    Reshape,
    Slice,
    Transpose,
    UnitArrays,
    fill,
)
from tilewright.transforms.rewriting import Rule, rewritten


def simplify(graph: Graph) -> Graph:
    """The graph with every rule applied; the same object if none did. Idempotent."""
    return rewritten(graph, _first)


def _first(op: Op, args: Sequence[Node]) -> Node | None:
    for rule in _rules_for(type(op)):  # type: ignore[arg-type]
        found = rule(op, args)
        if found is not None:
            return found
    return None


@functools.cache
def _rules_for(kind: type[Op]) -> tuple[Rule, ...]:
    """The rules that may say something about ops of a class, in their order."""
    return tuple([rule for rule, kinds in RULES.items() if issubclass(kind, kinds)])


def _value(n: Node) -> object:
    return n.op.value if isinstance(n.op, Fill) else None


def constant_arguments(op: Op, args: Sequence[Node]) -> Node | None:
    """f(fill(a), fill(b)) -> fill(f(a, b))"""
    if not args or not all(isinstance(a.op, Fill) for a in args):
        return None
    scalars = [np.asarray(_value(a)) for a in args]
    of = op.type(*(a.type for a in args))
    return fill(op.numpy(*scalars), of).node() if isinstance(of, Type) else None


def moved_fill(op: Op, args: Sequence[Node]) -> Node | None:
    """move(fill(a)) -> fill(a) in the new shape"""
    if isinstance(args[0].op, Fill):
        of = op.type(args[0].type)
        return Fill(of, args[0].op.bits).node() if isinstance(of, Type) else None
    return None


def neutral(op: Op, args: Sequence[Node]) -> Node | None:
    """x * 1, 1 * x, x / 1, x - 0, x + -0.0 -> x; an integer x + 0 as well"""
    if len(args) != 2:
        return None
    a, b = _value(args[0]), _value(args[1])
    if a is None and b is None:
        return None
    if op in (el.multiply, el.divide) and b is not None and b == 1:
        return args[0]
    if op == el.multiply and a is not None and a == 1:
        return args[1]
    if op == el.subtract and b is not None and b == 0 and not np.signbit(b):
        return args[0]
    if op == el.add:
        for value, other in ((b, args[0]), (a, args[1])):
            if value is not None and _adds_nothing(np.asarray(value)):
                return other
    return None


def _adds_nothing(value: np.ndarray) -> bool:
    if value.dtype.kind in "iu":
        return bool(value == 0)
    return value.dtype.kind == "f" and bool(value == 0 and np.signbit(value))


def chosen(op: Op, args: Sequence[Node]) -> Node | None:
    """select(fill(c), a, b) -> a or b; select(c, a, a) -> a"""
    if op != el.select:
        return None
    c = _value(args[0])
    if c is not None:
        return args[1] if c else args[2]
    return args[1] if args[1] is args[2] else None


def is_widening(n: Node) -> bool:
    """Whether a node only says the same numbers in a wider type of their kind."""
    if not isinstance(n.op, Cast):
        return False
    narrow, wide = n.args[0].type.dtype, n.type.dtype
    alike = [f(narrow) and f(wide) for f in (dtypes.is_integer, dtypes.is_float)]
    return any(alike) and np.can_cast(narrow, wide, "safe")


def merged_moves(op: Op, args: Sequence[Node]) -> Node | None:
    """reshape of reshape, transpose of transpose, double negation, cast to the same type, cast of
    what a cast only widened"""
    (x, *rest) = args or (None,)
    if x is None or rest:
        return None
    if isinstance(op, Reshape):
        if op.shape == x.type.shape:
            return x
        if isinstance(x.op, Reshape):
            return op.node(x.args[0]) if op.shape != x.args[0].type.shape else x.args[0]
    if isinstance(op, Transpose):
        if op.order == tuple(range(len(op.order))):
            return x
        if isinstance(x.op, Transpose):
            order = tuple(x.op.order[d] for d in op.order)
            inner = x.args[0]
            return inner if order == tuple(range(len(order))) else Transpose(order).node(inner)
    if isinstance(op, Broadcast) and isinstance(x.op, Broadcast):
        axes = tuple(op.axes[d] for d in x.op.axes)
        return Broadcast(op.shape, axes).node(x.args[0])
    if isinstance(op, Cast) and op.to == x.type.dtype:
        return x
    if isinstance(op, Cast) and isinstance(x.op, Cast) and is_widening(x):
        return Cast(op.to).node(x.args[0])
    if op == el.negative and x.op == el.negative:
        return x.args[0]
    return None


def reshaped_operands(op: Op, args: Sequence[Node]) -> Node | None:
    """f(reshape(x), reshape(y), fill) -> reshape(f(x, y, fill)), so that equal values of unlike
    shapes (a mean with and without its axis) become one"""
    inner = [a.args[0] for a in args if isinstance(a.op, Reshape)]
    moves = all(isinstance(a.op, (Reshape, Fill)) for a in args)
    if not inner or not moves or any(x.type.shape != inner[0].type.shape for x in inner):
        return None
    shape = inner[0].type.shape
    sources = [
        Fill(a.type.with_shape(shape), a.op.bits).node() if isinstance(a.op, Fill) else a.args[0]
        for a in args
    ]
    return Reshape(args[0].type.shape).node(op.node(*sources))


def whole_slice(op: Op, args: Sequence[Node]) -> Node | None:
    """x[0:n] -> x"""
    if isinstance(op, Slice) and all(map(is_static, args[0].type.shape)) and set(op.steps) <= {1}:
        whole = op.stops == args[0].type.shape and not any(op.starts)
        return args[0] if whole else None
    return None


def picked(op: Op, args: Sequence[Node]) -> Node | None:
    """dot(x, units), dot(units, x) -> x with its axes in the product's order, where all axes of the
    unit arrays are summed over, or the axis that counts them"""
    if not isinstance(op, Dot) or op.lhs_batch:
        return None
    left, right = args
    for x, units, mine, theirs in (
        (left, right, op.lhs_contract, op.rhs_contract),
        (right, left, op.rhs_contract, op.lhs_contract),
    ):
        if not isinstance(units.op, UnitArrays):
            continue
        shape = units.op.of.shape
        if theirs == (0,) or (len(shape) == 1 and theirs == (1,)):
            order = mine
        elif sorted(theirs) == list(range(1, len(shape) + 1)):
            order = tuple(a for _, a in sorted(zip(theirs, mine, strict=True)))
        else:
            continue
        free = tuple(d for d in range(x.type.ndim) if d not in mine)
        moved = Transpose((*free, *order) if units is right else (*order, *free))
        out = op.type(left.type, right.type)
        return Reshape(out.shape).node(moved.node(x))
    return None


def read_by_scatter(op: Op, args: Sequence[Node]) -> Node | None:
    """scatter(x, select(i < 0, i + n, i), u) -> scatter[wrap](x, i, u), and of
    max(min(i, n - 1), 0) -> scatter[clip](x, i, u): positions are no array of their own"""
    if not isinstance(op, Scatter) or op.wrap:
        return None
    x, *indices, updates = args
    extents = [x.type.shape[d] for d in op.axes]
    found = None if op.clip else _each(_unclamped, indices, extents)
    new = op if found is None else replace(op, clip=True)
    indices = found or indices
    found = _each(_unwrapped, indices, extents)
    new = new if found is None else replace(new, wrap=True)
    return None if new is op else new.node(x, *(found or indices), updates)


def _each(
    plain: Callable[[Node, Extent], Node | None], indices: Sequence[Node], extents: Sequence[Extent]
) -> list[Node] | None:
    """What all positions were made of, if all were made so."""
    found = [plain(i, n) for i, n in zip(indices, extents, strict=True)]
    known = [i for i in found if i is not None]
    return known if len(known) == len(found) else None


def _unwrapped(n: Node, extent: Extent) -> Node | None:
    """i, of select(i < 0, i + extent, i)"""
    if n.op != el.select:
        return None
    test, moved, i = n.args
    below = test.op == el.lt and test.args[0] is i and _value(test.args[1]) == 0
    adds = moved.op == el.add and moved.args[0] is i and _value(moved.args[1]) == extent
    return i if below and adds else None


def _unclamped(n: Node, extent: Extent) -> Node | None:
    """i, of max(min(i, extent - 1), 0)"""
    if n.op != el.maximum or _value(n.args[1]) != 0 or n.args[0].op != el.minimum:
        return None
    i, last = n.args[0].args
    return i if is_static(extent) and _value(last) == static(extent) - 1 else None


RULES: Final[dict[Rule, tuple[type[Op], ...]]] = {
    constant_arguments: (Elementwise, Cast),
    moved_fill: (Broadcast, Reshape, Transpose, Slice, Flip),
    neutral: (Elementwise,),
    chosen: (Elementwise,),
    merged_moves: (Reshape, Transpose, Broadcast, Cast, Elementwise),
    reshaped_operands: (Elementwise, Cast),
    whole_slice: (Slice,),
    picked: (Dot,),
    read_by_scatter: (Scatter,),
}
"""In the order they are tried, each with the ops it is about. Each docstring states the rewrite."""
