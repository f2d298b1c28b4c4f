"""Ahead: what depends on arrays that never change only, taken out of a graph.

Knows which values those are, which of them are worth being kept, and that what a schedule stages
of them is packed once instead. Refuses to know who computes it when (`assemble`, `compile`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from tilewright import graph as graphs
from tilewright.expr import CONSTANT, Axis, Expr, reductions_in, static, substitute
from tilewright.graph import Graph, Input, Node, Pick, new_input, users
from tilewright.kernel import Assign
from tilewright.ops.shape import Broadcast, Cast, Constant, Reshape, Transpose
from tilewright.transforms.packing import Block, panels, whole
from tilewright.transforms.schedule import Plan, Walk
from tilewright.transforms.tensorize import first

GROWTH: Final = 8
"""Bytes kept for each byte of constants that they are computed from, at most: the sums of weights
of Winograd's algorithm are four times the weights."""
SMALL: Final = 64 << 10
"""Bytes that are kept whatever they are computed from."""


@dataclass(frozen=True)
class Split:
    """A graph in two: `before` computes what is kept from the constants, once, and has no inputs;
    `after` reads it as its last inputs, one for each of `before`'s outputs."""

    before: Graph
    after: Graph

    @property
    def kept(self) -> tuple[Node, ...]:
        """What `after` reads in place of `before`'s outputs."""
        count = len(self.before.outputs)
        return self.after.inputs[len(self.after.inputs) - count :]


def split(graph: Graph) -> Split:
    """The graph with what can be computed ahead of all calls apart. Sub-graphs stay whole."""
    steady = _steady(graph)
    wanted: dict[Node, None] = {}
    stack = list(dict.fromkeys(_frontier(graph, steady)))
    while stack:
        n = stack.pop(0)
        if isinstance(n.op, Constant) or n not in steady or n in wanted:
            continue
        if _is_view(n) or not _worth(n, steady[n]):
            stack += n.args
        else:
            wanted[n] = None
    kept = {n: new_input(n.op.name, n.type) for n in wanted}
    before = Graph(graph.name, (), tuple(kept))
    outputs = tuple(graphs.substitute(graph.outputs, kept)) if kept else graph.outputs
    return Split(before, Graph(graph.name, (*graph.inputs, *kept.values()), outputs))


def _steady(graph: Graph) -> dict[Node, frozenset[Node]]:
    """The nodes that depend on fixed constants and nothing else that may change, with these."""
    found: dict[Node, frozenset[Node]] = {}
    for n in graph.nodes:
        if isinstance(n.op, Constant):
            if n.op.held.fixed:
                found[n] = frozenset((n,))
        elif not isinstance(n.op, Input) and all(a in found for a in n.args):
            found[n] = frozenset().union(*(found[a] for a in n.args))
    return found


def is_steady(n: Node) -> bool:
    """Whether a value is computed from fixed constants and nothing else that may change."""
    return n in _steady(Graph("", (), (n,)))


def _frontier(graph: Graph, steady: dict[Node, frozenset[Node]]) -> Iterable[Node]:
    """Where what changes reads what does not."""
    readers = users(graph)
    outputs = set(graph.outputs)
    for n in graph.nodes:
        read = n in outputs or any(r not in steady for r in readers[n])
        if n in steady and steady[n] and read and not isinstance(n.type, tuple):
            yield n


def _is_view(n: Node) -> bool:
    """Whether kernels read it through its argument for nothing, or for less than reading it:
    narrow numbers are widened in registers."""
    if isinstance(n.op, Cast):
        return bool(n.type.dtype.itemsize >= n.args[0].type.dtype.itemsize)
    return isinstance(n.op, (Broadcast, Reshape, Transpose))


def _worth(n: Node, origin: frozenset[Node]) -> bool:
    """Whether a value is small enough to be kept. Who stores narrow weights wants them read: what
    widens them element by element is computed where they are."""
    whole = _nbytes(n.args[0] if isinstance(n.op, Pick) else n)
    growth = 1 if n.op.fusion == "injective" and not isinstance(n.op, Pick) else GROWTH
    return whole <= SMALL or whole <= growth * sum(map(_nbytes, origin))


def _nbytes(n: Node) -> int:
    types = n.type if isinstance(n.type, tuple) else (n.type,)
    return sum(static(t.size) * t.dtype.itemsize for t in types)


def packed(walk_: Walk) -> tuple[Walk, tuple[Block, ...]]:
    """The walk with what it stages of constants read from blocks that are filled ahead."""
    if walk_.rest is not None:
        first_, blocks_of_first = packed(replace(walk_, rest=None))
        rest, blocks_of_rest = packed(walk_.rest)
        return replace(first_, rest=rest), (*blocks_of_first, *blocks_of_rest)
    blocks: list[Block] = []
    env: dict[Expr, Expr] = {}
    staged: dict[Axis | None, tuple[Expr, ...]] = {}
    for at, expressions in walk_.staged.items():
        left = []
        for e in expressions:
            block = _block(walk_, e, at) if first(e).buffer.scope == CONSTANT else None
            if block is None:
                left.append(e)
                continue
            blocks.append(block)
            env[e] = block.load
        if left:
            staged[at] = tuple(left)
    if not blocks:
        return walk_, ()
    kernel = walk_.kernel
    values = substitute([a.value for a in kernel.body], env)
    body = [Assign(a.buffer, a.index, a.axes, v) for a, v in zip(kernel.body, values, strict=True)]
    return replace(walk_, kernel=replace(kernel, body=tuple(body)), staged=staged), tuple(blocks)


def _block(walk_: Walk, e: Expr, at: Axis | None) -> Block | None:
    """All that a staged load reads: in panels, if it is staged for chunks of a vector's axis."""
    axes = walk_.kernel.axes
    values = [a.value for a in walk_.kernel.body]
    sums = [k for r in reductions_in(*values) for k in r.axes]
    used = [a for a in dict.fromkeys((*axes, *sums)) if a.serial in e.free]
    plan = walk_.plans.get(at, Plan()) if at is not None else Plan()
    if at is None or plan.lanes == 1:
        found = whole(e, used)
        if found is not None:
            found.buffer.scope = CONSTANT
        return found
    outer = [a for a in axes if a in used and a is not at]
    return panels(e, outer, [a for a in used if a not in axes], at, plan.chunk)
