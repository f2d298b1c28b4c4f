"""Calls that keep their sub-graph together until every derivative is taken: functions with rules
of their own (CustomJVP, CustomVJP) and Checkpoint, whose reverse mode computes its body again.

Knows when a rule is called. Refuses to know where rules come from: they are functions of flat
sequences of values. `inline` puts the sub-graphs in place of the calls; lowering wants it done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from tilewright.errors import InternalError, NoForwardMode, NotDifferentiable
from tilewright.expr import Extent
from tilewright.graph import Graph, Node, Op, Pick, Type, evaluate, new_input
from tilewright.ops.calculus import (
    Wrap,
    batch,
    build,
    pullback,
    replay,
    select_by,
    spread,
)
from tilewright.ops.control import (
    ANY,
    Barrier,
    batched_graph,
    filled,
    fresh_like,
    lead,
    tangents_of,
)
from tilewright.ops.shape import ReduceSum
from tilewright.source import born_at
from tilewright.term import topological

Values: TypeAlias = Sequence[Any]


@dataclass(frozen=True)
class Call(Op):
    """The outputs of `body` on the arguments, as one node."""

    body: Graph
    fusion: ClassVar[str] = "opaque"

    def type(self, *args: Type) -> tuple[Type, ...]:
        if [n.type for n in self.body.inputs] != list(args):
            raise InternalError(f"{self.name} on {args}, its body takes {self.body.inputs}")
        return tuple(n.type for n in self.body.outputs)

    def numpy(self, *args: Any) -> Any:
        return tuple(evaluate(self.body, args))

    def attributes(self) -> list[str]:
        return []

    def inlined(self, *args: Any) -> tuple[Any, ...]:
        """The results without the call."""
        return tuple(replay(self.body, type(args[0]).wrap, args))

    def batched(self, size: Extent, mask: Sequence[bool], wrap: Wrap) -> Graph:
        """The body on arguments of which some have a batch axis; all its outputs have it."""
        return batched_graph(self.body, mask, [True] * len(self.body.outputs), size, wrap)


@dataclass(frozen=True)
class Checkpoint(Call):
    """A call whose reverse mode keeps its arguments only and computes the rest again."""

    linear_in: ClassVar[tuple[int, ...]] = ANY

    def forward(self, tangents: Values, *args: Any, apart: bool = False) -> tuple[Any, Any]:
        wrap = type(args[0]).wrap
        mask = [t is not None for t in tangents]
        new, outs, dots = tangents_of(self.body, mask, wrap, apart)
        moving = [d is not None for d in dots]
        results = select_by(moving, dots) if apart else [*outs, *select_by(moving, dots)]
        if not any(moving):
            return self(*args), None
        nodes = tuple(r.node for r in results)
        body = Graph(self.body.name, (*self.body.inputs, *new), nodes)
        found = Checkpoint(body)(*args, *select_by(mask, tangents))
        if apart:
            return self(*args), tuple(spread(moving, found))
        return found[: len(outs)], tuple(spread(moving, found[len(outs) :]))

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Values:
        wrap = type(args[0]).wrap
        mask = [i in linear for i in range(len(args))]
        fresh = fresh_like(self.body.inputs, mask, "d")
        rest = iter(fresh)
        again = [wrap(next(rest)) if m else Barrier()(a) for a, m in zip(args, mask, strict=True)]
        outs = [o.node for o in replay(self.body, wrap, again)]
        return spread(mask, pullback(outs, ct, fresh, wrap))

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return Checkpoint(self.batched(size, batched, type(args[0]).wrap))(*args)


# -- functions with rules of their own --------------------------------------------------------


@dataclass(frozen=True)
class CustomJVP(Call):
    """A call whose tangents `rule` gives: `rule(*args, *tangents)` are those of the results, linear
    in the tangents. The first `captured` arguments are arrays the function closed over."""

    rule: Callable[..., Values]
    captured: int = 0

    def forward(self, tangents: Values, *args: Any, apart: bool = False) -> tuple[Any, Any]:
        _check_captured(self, tangents)
        full = [filled(t, a) for t, a in zip(tangents, args, strict=True)]
        return self(*args), tuple(self.rule(*args, *full))

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        wrap = type(args[0]).wrap
        types = [n.type for n in self.body.inputs]

        def rule(*values: Any) -> list[Any]:
            graph = build(self.body.name, [*types, *types], wrap, self.rule)
            outs, has = batch(graph, wrap, size, values, [*batched, *batched])
            return [lead(o, h, size) for o, h in zip(outs, has, strict=True)]

        return CustomJVP(self.batched(size, batched, wrap), rule, self.captured)(*args)


def _check_captured(op: CustomJVP | CustomVJP, tangents: Values) -> None:
    if any(t is not None for t in tangents[: op.captured]):
        raise NotDifferentiable(
            f"`{op.body.name}` has a derivative rule and closes over an array being differentiated",
            "Pass the array as an argument, so that the rule can give its derivative.",
        )


@dataclass(frozen=True)
class CustomVJP(Call):
    """A call with a reverse rule: `fwd(*args)` gives (results, residuals), and
    `bwd(residuals, cotangents)` the cotangents of the arguments, None where there is none."""

    fwd: Callable[..., tuple[Values, Values]]
    bwd: Callable[[Values, Values], Values]
    captured: int = 0

    def forward(self, tangents: Values, *args: Any, apart: bool = False) -> tuple[Any, Any]:
        _check_captured(self, tangents)
        outs, residuals = self.fwd(*args)
        moving = tuple(t is not None for t in tangents)
        types = tuple(o.node.type for o in outs)
        pending = Pending(self.body.name, self.bwd, len(residuals), moving, types)
        return tuple(outs), pending(*residuals, *select_by(moving, tangents))

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        wrap = type(args[0]).wrap
        types = [n.type for n in self.body.inputs]
        outputs = [n.type for n in self.body.outputs]
        kept: list[Type] = []

        def fwd(*values: Any) -> tuple[Values, Values]:
            def flat(*inner: Any) -> Values:
                outs, residuals = self.fwd(*inner)
                return [*outs, *residuals]

            graph = build(self.body.name, types, wrap, flat)
            kept[:] = [n.type for n in graph.outputs[len(outputs) :]]
            outs, has = batch(graph, wrap, size, values, batched)
            full = [lead(o, h, size) for o, h in zip(outs, has, strict=True)]
            return full[: len(outputs)], full[len(outputs) :]

        def bwd(residuals: Values, cotangents: Values) -> Values:
            present: list[bool] = []

            def flat(*inner: Any) -> Values:
                found = self.bwd(inner[: len(kept)], inner[len(kept) :])
                present[:] = [f is not None for f in found]
                return select_by(present, found)

            graph = build(self.body.name, [*kept, *outputs], wrap, flat)
            values = [*residuals, *cotangents]
            outs, has = batch(graph, wrap, size, values, [True] * len(values))
            full = [lead(o, h, size) for o, h in zip(outs, has, strict=True)]
            return [
                None if f is None else f if b else ReduceSum((0,))(f)
                for f, b in zip(spread(present, full), batched, strict=True)
            ]

        return CustomVJP(self.batched(size, batched, wrap), fwd, bwd, self.captured)(*args)


@dataclass(frozen=True)
class Pending(Op):
    """The tangent of a CustomVJP call: linear in the tangents, known only by its transpose.

    Arguments: the residuals, then the tangents of the arguments that `moving` marks.
    """

    function: str
    bwd: Callable[[Values, Values], Values]
    residuals: int
    moving: tuple[bool, ...]
    outs: tuple[Type, ...]
    linear_in: ClassVar[tuple[int, ...]] = ANY
    fusion: ClassVar[str] = "opaque"

    def type(self, *args: Type) -> tuple[Type, ...]:
        return self.outs

    def attributes(self) -> list[str]:
        return [self.function]

    def forward(self, tangents: Values, *args: Any, apart: bool = False) -> tuple[Any, Any]:
        if any(t is not None for t in tangents[: self.residuals]):
            raise NoForwardMode(self.function)
        full = [filled(t, a) for t, a in zip(tangents, args, strict=True)]
        return self(*args), self(*args[: self.residuals], *full[self.residuals :])

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Values:
        if any(i < self.residuals for i in linear):
            raise NoForwardMode(self.function)
        wrap = type(args[0]).wrap
        zeros = [wrap(new_input("ct", t)) for t in self.outs]
        full = [filled(c, z) for c, z in zip(ct, zeros, strict=True)]
        found = self.bwd(args[: self.residuals], full)
        return [*[None] * self.residuals, *select_by(self.moving, found)]


def pending_in(outputs: Sequence[Node]) -> str | None:
    """The function whose reverse rule is still to be called below `outputs`, if there is one."""
    for n in topological(outputs, lambda n: n.args):
        if isinstance(n.op, Pending):
            return n.op.function
        for sub in n.op.graphs.values():
            found = pending_in(sub.outputs)
            if found is not None:
                return found
    return None


# -- inlining ---------------------------------------------------------------------------------


def inline(graph: Graph, wrap: Wrap) -> Graph:
    """The graph with every call, at any depth, replaced by its body; the same object if there is
    none."""
    if not any(isinstance(n.op, (Pending, Call)) or n.op.graphs for n in graph.nodes):
        return graph
    env: dict[Node, Any] = {}
    for n in graph.nodes:
        if n in graph.inputs:
            env[n] = n
            continue
        args = tuple(env[a] for a in n.args)
        with born_at(n.source):
            if isinstance(n.op, Pending):
                raise NoForwardMode(n.op.function)
            if isinstance(n.op, Pick) and isinstance(args[0], list):
                env[n] = args[0][n.op.item]
            elif isinstance(n.op, Call):
                body = inline(n.op.body, wrap)
                env[n] = [v.node for v in replay(body, wrap, [wrap(a) for a in args])]
            else:
                op = n.op.with_graphs(lambda g: inline(g, wrap)) if n.op.graphs else n.op
                env[n] = n if op is n.op and args == n.args else op.node(*args)
    return Graph(graph.name, graph.inputs, tuple(env.get(n, n) for n in graph.outputs))
