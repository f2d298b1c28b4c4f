"""Loops of elementwise steps keep what they carry in registers: a rewrite of graphs.

Knows which scans these are: their bodies are elementwise, they stack nothing, and what they carry
are arrays of one shape, and scalars that nobody reads afterwards. (A scan of whole arrays moves all
it carries through the caches in every step.) Refuses to know how the elements are walked
(`ops.pointwise_loop`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tilewright.expr import Extent, is_static, static
from tilewright.graph import Graph, Node, Pick, Type, born_at, new_input, substitute
from tilewright.ops.calculus import reached
from tilewright.ops.control import Barrier, Scan, StopGradient
from tilewright.ops.elementwise import Elementwise
from tilewright.ops.pointwise_loop import PointwiseLoop
from tilewright.ops.shape import Broadcast, Cast, Fill, Reshape

LONGEST: Final = 96
"""Nodes of a body: a longer one would be the code of several kernels."""
SHORT_ROW: Final = 64
"""Elements of the last axis below which the arrays are seen as one row."""


def pointwise_loops(graph: Graph) -> Graph:
    """The graph with a `PointwiseLoop` for every scan that is one, sub-graphs included; the same
    object if there is none."""
    if not any(n.op.graphs for n in graph.nodes):
        return graph
    picked: dict[Node, set[int]] = {}
    for n in graph.nodes:
        if isinstance(n.op, Pick):
            picked.setdefault(n.args[0], set()).add(n.op.item)
    done: dict[Node, Node] = {}
    found: dict[Node, dict[int, Node]] = {}
    for n in graph.nodes:
        if isinstance(n.op, Pick) and n.args[0] in found:
            done[n] = found[n.args[0]][n.op.item]
            continue
        args = [done[a] for a in n.args]
        with born_at(n.source):
            results = _results(n.op, args, picked[n]) if isinstance(n.op, Scan) else None
            if results is not None:
                found[n] = results
                continue
            op = n.op.with_graphs(pointwise_loops) if n.op.graphs else n.op
            same = op is n.op and all(a is b for a, b in zip(args, n.args, strict=True))
            done[n] = n if same else op.node(*args)
    outputs = tuple(done[n] for n in graph.outputs)
    unchanged = all(a is b for a, b in zip(outputs, graph.outputs, strict=True))
    return graph if unchanged else Graph(graph.name, graph.inputs, outputs)


def _results(op: Scan, args: Sequence[Node], picked: set[int]) -> dict[int, Node] | None:
    """The results that are read of a scan of elementwise steps, by their numbers."""
    if len(op.body.nodes) > LONGEST or not is_static(op.length):
        return None
    if len(args) != op.consts + op.carry or len(op.body.outputs) != op.carry:
        return None
    shapes = {n.type.shape for n in op.body.outputs} - {()}
    if len(shapes) != 1:
        return None
    (shape,) = shapes
    if not all(is_static(n) and n for n in shape):
        return None
    if any(not op.body.outputs[k].type.shape for k in picked):
        return None
    moving = set(op.body.inputs[op.consts :])
    moving.update(reached(op.body.outputs, moving))
    steps = [n for n in op.body.nodes if n in moving and n.args]
    if not all(_is_elementwise(n) and n.type.shape in ((), shape) for n in steps):
        return None
    extents = tuple(map(static, shape))
    flat = len(extents) > 1 and extents[-1] < SHORT_ROW
    seen = (math.prod(extents),) if flat else extents
    return _Loop(op, args, moving, shape, seen).results(sorted(picked))


def _is_elementwise(n: Node) -> bool:
    if isinstance(n.op, Broadcast):
        return not n.args[0].type.shape
    return isinstance(n.op, (Elementwise, Cast, StopGradient, Barrier, Fill))


@dataclass
class _Loop:
    """A scan becoming a loop over arrays of `shape`, which it sees as of `seen`. `moving` is what
    changes in its body; what does not is computed once, at the start if it is elementwise."""

    op: Scan
    args: Sequence[Node]
    moving: set[Node]
    shape: tuple[Extent, ...]
    seen: tuple[int, ...]
    given: dict[Node, Node] = field(default_factory=dict)  # outside -> input of the start
    start: dict[Node, Node] = field(default_factory=dict)  # outside or body -> start
    held: list[Node] = field(default_factory=list)  # of the body; the steps read them
    body: dict[Node, Node] = field(default_factory=dict)  # body -> new body
    outside: dict[Node, Node] = field(default_factory=dict)  # body -> outside

    def results(self, picked: Sequence[int]) -> dict[int, Node]:
        """The arrays carried at last that are read, by their numbers among all that is carried."""
        c, own = self.op.consts, self.op.body
        self.outside = dict(zip(own.inputs[:c], self.args[:c], strict=True))
        needed = self.needed(picked)
        carried = [own.inputs[c + k] for k in needed]
        self.body = {n: new_input("x", self.type(n)) for n in carried}
        inner = [self.body[n] for n in carried]
        outputs = self.rebuilt([own.outputs[k] for k in needed], self.body, self.entering)
        consts = [self.body[n] for n in self.held]
        body = Graph(own.name, (*consts, *inner), tuple(outputs))
        first = self.rebuilt(self.held, self.start, self.before)
        first += self.rebuilt([self.args[c + k] for k in needed], self.start, self.argument)
        start = Graph(own.name, tuple(self.given.values()), tuple(first))
        places = tuple(needed.index(k) for k in picked)
        loop = PointwiseLoop(start, body, places, static(self.op.length))
        found = loop.node(*(self.whole(n) for n in self.given))
        picks = [Pick(item).node(found) for item in range(len(picked))]
        if self.seen != self.shape:
            picks = [Reshape(self.shape).node(n) for n in picks]
        return dict(zip(picked, picks, strict=True))

    def needed(self, picked: Sequence[int]) -> list[int]:
        """What is carried and has a part in the results that are read."""
        inputs, outputs = self.op.body.inputs[self.op.consts :], self.op.body.outputs
        found = set(picked)
        while True:
            read = Graph("read", (), tuple(outputs[k] for k in found)).nodes
            more = found | {k for k, n in enumerate(inputs) if n in set(read)}
            if more == found:
                return sorted(found)
            found = more

    def is_step(self, n: Node) -> bool:
        return n.type.shape in ((), self.shape) and _is_elementwise(n)

    def type(self, n: Node) -> Type:
        """The type of a node as the loop sees it."""
        of: Type = n.type
        return of.with_shape(self.seen) if of.shape else of

    def rebuilt(
        self, roots: Sequence[Node], done: dict[Node, Node], entry: Callable[[Node], Node | None]
    ) -> list[Node]:
        """Nodes in another graph; `entry` says what does not stay as it is there."""
        stack = list(roots)
        while stack:
            n = stack[-1]
            found = done.get(n) or entry(n)
            if found is None and all(a in done for a in n.args):
                found = self.applied(n, [done[a] for a in n.args])
            if found is None:
                stack += [a for a in n.args if a not in done]
            else:
                done[stack.pop()] = found
        return [done[r] for r in roots]

    def applied(self, n: Node, args: Sequence[Node]) -> Node:
        """The node on other arguments, in the shape of the loop."""
        if isinstance(n.op, Fill):
            return Fill(self.type(n), n.op.bits).node()
        return (Broadcast(self.seen, ()) if isinstance(n.op, Broadcast) else n.op).node(*args)

    def entering(self, n: Node) -> Node | None:
        """What does not change is read by the steps; numbers stand in the code."""
        if n in self.moving or isinstance(n.op, Fill) or _repeats(n):
            return None
        self.held.append(n)
        return new_input("c", self.type(n))

    def before(self, n: Node) -> Node | None:
        """What does not change and is not elementwise is computed outside."""
        if isinstance(n.op, Fill) or (n.args and self.is_step(n)):
            return None
        (found,) = substitute([n], self.outside)
        return self.rebuilt([found], self.start, self.argument)[0]

    def argument(self, n: Node) -> Node | None:
        """A value from outside. One that is a number, repeated, is no array."""
        if isinstance(n.op, Fill) or _repeats(n):
            return None
        return self.given.setdefault(n, new_input("x", self.type(n)))

    def whole(self, n: Node) -> Node:
        """An argument in the shape of the loop."""
        return n if n.type.shape in ((), self.seen) else Reshape(self.seen).node(n)


def _repeats(n: Node) -> bool:
    """Whether an array is one number, repeated."""
    return isinstance(n.op, Broadcast) and not n.args[0].type.shape
