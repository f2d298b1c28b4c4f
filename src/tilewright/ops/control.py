"""Control flow over sub-graphs: Switch, While and Scan; and the two identities that steer
derivatives, StopGradient and Barrier.

Knows how each runs, differentiates, transposes and batches, by walking its sub-graphs. Refuses to
know user functions: sub-graphs are closed, every array they read is an argument.

Reverse mode of a loop runs the linear part of its derivative backwards. `Scan.forward(apart=True)`
splits the derivative of the body by what reads a tangent: what does not becomes the forward loop,
which also stacks the values the linear part will need; what does becomes a loop that is linear in
the tangents, and whose transpose is again a Scan.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from tilewright import dtypes
from tilewright.errors import InternalError, NoReverseMode
from tilewright.expr import Expr, Extent, static
from tilewright.graph import (
    Graph,
    Input,
    Node,
    Op,
    Type,
    View,
    evaluate,
    new_input,
    substitute,
)
from tilewright.ops import elementwise as el
from tilewright.ops.calculus import (
    Wrap,
    batch,
    build,
    pullback,
    pushforward,
    reached,
    select_by,
    spread,
)
from tilewright.ops.shape import Broadcast, Cast, Constant, ReduceSum, Transpose

ANY: tuple[int, ...] = range(1 << 16)  # type: ignore[assignment]
"""`linear_in` of ops whose sub-graphs decide which arguments they are linear in."""


@dataclass(frozen=True)
class StopGradient(Op):
    """The operand itself, as a constant to every derivative."""

    def type(self, x: Type) -> Type:
        return x

    def numpy(self, x: Any) -> Any:
        return x

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return self(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return args[0][idx]


_tags = itertools.count()


@dataclass(frozen=True)
class Barrier(Op):
    """The operand itself, as a node of its own: what is computed from it is not shared with what
    was computed from the operand. Each `Barrier()` is a new one."""

    tag: int = field(default_factory=lambda: next(_tags))
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def type(self, x: Type) -> Type:
        return x

    def numpy(self, x: Any) -> Any:
        return x

    def attributes(self) -> list[str]:
        return []  # two barriers differ by being two lines; a tag would differ from run to run

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (ct,)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return self(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return args[0][idx]


# -- shared by the three ----------------------------------------------------------------------


def fresh_like(inputs: Sequence[Node], mask: Sequence[bool], mark: str) -> list[Node]:
    """A new input for each masked one: its tangent or cotangent."""
    return [new_input(f"{mark}_{_label(n)}", n.type) for n in select_by(mask, inputs)]


def _label(n: Node) -> str:
    return n.op.label if isinstance(n.op, Input) else "x"


def filled(value: Any, like: Any) -> Any:
    """`value`, or zeros like `like` where it is None."""
    return like.zeros_like() if value is None else value


def lead(value: Any, has: bool, size: Extent) -> Any:
    """`value` with the batch axis, repeated along it unless it has it."""
    return value if has else value.broadcast_leading(size)


def wider(types: Sequence[Type], mask: Sequence[bool], size: Extent) -> list[Type]:
    """The types with a leading axis where `mask` says."""
    return [t.with_shape((size, *t.shape)) if b else t for t, b in zip(types, mask, strict=True)]


def tangents_of(
    graph: Graph, mask: Sequence[bool], wrap: Wrap, apart: bool
) -> tuple[list[Node], list[Any], list[Any]]:
    """Differentiate a sub-graph in place: new tangent inputs for the masked inputs, the outputs
    and their tangents. The graph's own inputs stay the primal ones."""
    new = fresh_like(graph.inputs, mask, "d")
    tangents = spread(mask, [wrap(n) for n in new])
    outs, out_tangents = pushforward(
        graph, wrap, [wrap(n) for n in graph.inputs], tangents, apart=apart
    )
    return new, outs, out_tangents


def batched_graph(
    graph: Graph, mask: Sequence[bool], out_mask: Sequence[bool], size: Extent, wrap: Wrap
) -> Graph:
    """The sub-graph on arguments of which the masked ones have a batch axis; outputs have it where
    `out_mask` says, which must include those that cannot do without."""

    def function(*args: Any) -> list[Any]:
        outs, has = batch(graph, wrap, size, args, mask)
        return [lead(o, h, size) if m else o for o, h, m in zip(outs, has, out_mask, strict=True)]

    return build(graph.name, wider([n.type for n in graph.inputs], mask, size), wrap, function)


def outputs_batched(graph: Graph, mask: Sequence[bool]) -> list[bool]:
    """Which outputs depend on the masked inputs."""
    moved = set(select_by(mask, graph.inputs))
    moved.update(reached(graph.outputs, moved))
    return [o in moved for o in graph.outputs]


def _nodes(values: Sequence[Any]) -> tuple[Node, ...]:
    return tuple(v.node for v in values)


def _same_types(what: str, expected: Sequence[Type], found: Sequence[Type]) -> None:
    if list(expected) != list(found):
        raise InternalError(f"{what}: expected {list(expected)}, found {list(found)}")


# -- switch -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switch(Op):
    """The outputs of `branches[index](*operands)`; index is an int32 scalar in range.

    Its derivative runs the branch again instead of keeping what it computed: residuals of the
    branches not taken would have to be made up.
    """

    branches: tuple[Graph, ...]
    linear_in: ClassVar[tuple[int, ...]] = ANY
    fusion: ClassVar[str] = "opaque"

    def type(self, *args: Type) -> tuple[Type, ...]:
        index, *operands = args
        _same_types("switch index", [Type(dtypes.int32, ())], [index])
        outputs = [o.type for o in self.branches[0].outputs]
        for b in self.branches:
            _same_types(f"operands of branch {b.name}", [n.type for n in b.inputs], operands)
            _same_types(f"results of branch {b.name}", outputs, [o.type for o in b.outputs])
        return tuple(outputs)

    def numpy(self, *args: Any) -> Any:
        index, *operands = args
        return tuple(evaluate(self.branches[int(index)], operands))

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        wrap, index = type(args[0]).wrap, args[0]
        mask = [t is not None for t in tangents[1:]]
        parts = [tangents_of(b, mask, wrap, apart) for b in self.branches]
        moving = [
            any(ts) for ts in zip(*([t is not None for t in p[2]] for p in parts), strict=True)
        ]
        branches = []
        for b, (new, outs, out_tangents) in zip(self.branches, parts, strict=True):
            full = [filled(t, o) for t, o in zip(out_tangents, outs, strict=True)]
            results = ([] if apart else outs) + select_by(moving, full)
            branches.append(Graph(b.name, (*b.inputs, *new), _nodes(results)))
        moved = [t for t in tangents[1:] if t is not None]
        if not any(moving):
            return self(*args), None
        joint = Switch(tuple(branches))(index, *args[1:], *moved)
        if apart:
            return self(*args), tuple(spread(moving, joint))
        return joint[: len(moving)], tuple(spread(moving, joint[len(moving) :]))

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        wrap, index = type(args[0]).wrap, args[0]
        mask = [i in linear for i in range(1, len(args))]
        known = [not m for m in mask]
        given = [c is not None for c in ct]
        parts = []
        for b in self.branches:
            new = fresh_like(b.outputs, given, "ct")
            inputs = select_by(mask, b.inputs)
            cts = pullback(b.outputs, spread(given, [wrap(n) for n in new]), inputs, wrap)
            parts.append((new, inputs, cts))
        needed = [any(c) for c in zip(*([c is not None for c in p[2]] for p in parts), strict=True)]
        branches = []
        for b, (new, inputs, cts) in zip(self.branches, parts, strict=True):
            full = [filled(c, wrap(n)) for c, n in zip(cts, inputs, strict=True)]
            outs = _nodes(select_by(needed, full))
            branches.append(Graph(b.name, (*select_by(known, b.inputs), *new), outs))
        if not any(needed):
            return [None] * len(args)
        found = Switch(tuple(branches))(index, *select_by(known, args[1:]), *select_by(given, ct))
        return [None, *spread(mask, spread(needed, found))]

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        wrap, index, mask = type(args[0]).wrap, args[0], batched[1:]
        if not batched[0]:
            everywhere = [True] * len(self.branches[0].outputs)
            graphs = [batched_graph(b, mask, everywhere, size, wrap) for b in self.branches]
            return Switch(tuple(graphs))(index, *args[1:])
        rows = []
        for b in self.branches:
            outs, has = batch(b, wrap, size, args[1:], mask)
            rows.append([lead(o, h, size) for o, h in zip(outs, has, strict=True)])
        result = rows[0]
        for k, row in enumerate(rows[1:], start=1):
            here = el.eq(index, index.full_like(k))
            result = [choose(here, new, old) for new, old in zip(row, result, strict=True)]
        return tuple(result)


def choose(condition: Any, then: Any, otherwise: Any) -> Any:
    """`then` where `condition` holds; the condition has the leading axes of the two."""
    if condition.shape != then.shape:
        condition = Broadcast(then.shape, tuple(range(len(condition.shape))))(condition)
    return el.select(condition, then, otherwise)


# -- while ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class While(Op):
    """`carry = body(*body_consts, *carry)` as long as `cond(*cond_consts, *carry)` holds.

    Arguments: cond_consts, body_consts, carry. The number of steps is not known before it runs,
    so there is nowhere to keep what a reverse pass would need.
    """

    cond: Graph
    body: Graph
    cond_consts: int
    body_consts: int
    linear_in: ClassVar[tuple[int, ...]] = ANY
    fusion: ClassVar[str] = "opaque"

    def parts(self, items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """(cond consts, body consts, carry)"""
        a, b = self.cond_consts, self.cond_consts + self.body_consts
        return items[:a], items[a:b], items[b:]

    def type(self, *args: Type) -> tuple[Type, ...]:
        cond_consts, body_consts, carry = self.parts(args)
        _same_types("while cond", [n.type for n in self.cond.inputs], [*cond_consts, *carry])
        _same_types("while body", [n.type for n in self.body.inputs], [*body_consts, *carry])
        _same_types(
            "while cond result", [Type(dtypes.bool_, ())], [n.type for n in self.cond.outputs]
        )
        _same_types("while body results", carry, [n.type for n in self.body.outputs])
        return tuple(carry)

    def numpy(self, *args: Any) -> Any:
        cond_consts, body_consts, carry = self.parts(args)
        while evaluate(self.cond, [*cond_consts, *carry])[0]:
            carry = evaluate(self.body, [*body_consts, *carry])
        return tuple(carry)

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        wrap = type(args[0]).wrap
        cond_consts, body_consts, carry = self.parts(args)
        _, const_tangents, carry_tangents = self.parts(tangents)
        consts = [t is not None for t in const_tangents]
        moving = [t is not None for t in carry_tangents]
        while True:
            new, outs, out_tangents = tangents_of(self.body, [*consts, *moving], wrap, False)
            grown = [m or t is not None for m, t in zip(moving, out_tangents, strict=True)]
            if grown == moving:
                break
            moving = grown
        if not any(moving):
            return self(*args), None
        k = sum(consts)
        full = [filled(t, o) for t, o in zip(out_tangents, outs, strict=True)]
        inner = self.body.inputs
        body = Graph(
            self.body.name,
            (*inner[: len(consts)], *new[:k], *inner[len(consts) :], *new[k:]),
            _nodes([*outs, *select_by(moving, full)]),
        )
        ignored = fresh_like(self.body.outputs, moving, "d")
        cond = Graph(self.cond.name, (*self.cond.inputs, *ignored), self.cond.outputs)
        start = [filled(t, c) for t, c in zip(carry_tangents, carry, strict=True)]
        joint = While(cond, body, self.cond_consts, self.body_consts + k)(
            *cond_consts, *body_consts, *select_by(consts, const_tangents),
            *carry, *select_by(moving, start),
        )  # fmt: skip
        out = self(*args) if apart else joint[: len(carry)]
        return out, tuple(spread(moving, joint[len(carry) :]))

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        raise NoReverseMode

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        wrap = type(args[0]).wrap
        cond_consts, body_consts, carry = self.parts(args)
        cond_mask, body_mask, mask = (list(m) for m in self.parts(batched))
        while True:
            masked = outputs_batched(self.cond, [*cond_mask, *mask])[0]
            grown = [True] * len(mask) if masked else mask
            moved = outputs_batched(self.body, [*body_mask, *grown])
            grown = [a or b for a, b in zip(grown, moved, strict=True)]
            if grown == mask:
                break
            mask = grown
        test = batched_graph(self.cond, [*cond_mask, *mask], [masked], size, wrap)
        body = batched_graph(self.body, [*body_mask, *mask], mask, size, wrap)
        start = [lead(c, h, size) for c, h in zip(carry, self.parts(batched)[2], strict=True)]
        start = [s if m else c for s, c, m in zip(start, carry, mask, strict=True)]
        consts = body_consts
        if masked:
            consts = (*cond_consts, *body_consts)
            test, body = self._masked(test, body, wrap)
        loop = While(test, body, self.cond_consts, len(consts))
        outs = loop(*cond_consts, *consts, *start)
        return tuple(lead(o, m, size) for o, m in zip(outs, mask, strict=True))

    def _masked(self, test: Graph, body: Graph, wrap: Wrap) -> tuple[Graph, Graph]:
        """Go on while any lane does; a lane that has finished keeps its values."""
        a, b = self.cond_consts, self.body_consts
        (running,) = test.outputs
        count = ReduceSum((0,))(Cast(dtypes.int32)(wrap(running)))
        any_runs = el.gt(count, count.zeros_like())
        carry = body.inputs[b:]
        own = [new_input(_label(n), n.type) for n in test.inputs[:a]]
        (here,) = substitute([running], dict(zip(test.inputs, (*own, *carry), strict=True)))
        outs = [
            choose(wrap(here), wrap(new), wrap(old))
            for new, old in zip(body.outputs, carry, strict=True)
        ]
        masked = Graph(body.name, (*own, *body.inputs), _nodes(outs))
        return Graph(test.name, test.inputs, _nodes([any_runs])), masked


# -- scan -------------------------------------------------------------------------------------

Roles: TypeAlias = tuple[list[Any], list[Any], list[Any]]
"""Arguments, inputs or masks of a Scan by what they are: (consts, carry, xs)."""


@dataclass(frozen=True)
class Scan(Op):
    """`carry, y = body(*consts, *carry, *x)` for each x along the leading axis of `xs`.

    Results: the last carry, and the ys stacked along a new leading axis of extent `length`, in the
    order of the xs also when `reverse` visits them from the end.
    """

    body: Graph
    consts: int
    carry: int
    length: Extent
    reverse: bool = False
    linear_in: ClassVar[tuple[int, ...]] = ANY
    fusion: ClassVar[str] = "opaque"

    def roles(self, items: Sequence[Any]) -> Roles:
        a, b = self.consts, self.consts + self.carry
        return list(items[:a]), list(items[a:b]), list(items[b:])

    def type(self, *args: Type) -> tuple[Type, ...]:
        consts, carry, xs = self.roles(args)
        for x in xs:
            if not x.shape or x.shape[0] != self.length:
                raise InternalError(f"scan of length {self.length} over {x!r}")
        slices = [x.with_shape(x.shape[1:]) for x in xs]
        _same_types("scan body", [n.type for n in self.body.inputs], [*consts, *carry, *slices])
        outs = [n.type for n in self.body.outputs]
        _same_types("scan body results", carry, outs[: self.carry])
        return (*carry, *wider(outs[self.carry :], [True] * (len(outs) - self.carry), self.length))

    def numpy(self, *args: Any) -> Any:
        consts, carry, xs = self.roles(args)
        n, types = static(self.length), [o.type for o in self.body.outputs[self.carry :]]
        ys = [np.empty((n, *map(static, t.shape)), t.dtype) for t in types]
        for i in reversed(range(n)) if self.reverse else range(n):
            outs = evaluate(self.body, [*consts, *carry, *(x[i] for x in xs)])
            carry = outs[: self.carry]
            for y, row in zip(ys, outs[self.carry :], strict=True):
                y[i] = row
        return (*carry, *ys)

    # -- forward mode --

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        wrap = type(args[0]).wrap
        consts, carry, xs = self.roles([t is not None for t in tangents])
        while True:
            mask = [*consts, *carry, *xs]
            new, outs, dots = tangents_of(self.body, mask, wrap, apart)
            grown = [m or t is not None for m, t in zip(carry, dots, strict=False)]
            if grown == carry:
                break
            carry = grown
        moving = [*carry, *(t is not None for t in dots[self.carry :])]
        if not any(moving):
            return self(*args), None
        full = [
            filled(t, o).node if m else None for t, o, m in zip(dots, outs, moving, strict=True)
        ]
        start = [filled(t, a) if m else None for t, a, m in zip(tangents, args, mask, strict=True)]
        halves = _Halves(
            known=self.roles(self.body.inputs),
            moving=self.roles_of(mask, spread(mask, new)),
            known_outs=(list(_nodes(outs[: self.carry])), list(_nodes(outs[self.carry :]))),
            moving_outs=_present(full, self.carry),
        )
        moved = self.roles_of(mask, start)
        if apart:
            results, linear = halves.split(self, self.roles(args), wrap)
            dots = linear(*moved)
        else:
            results, dots = halves.together(self, self.roles(args), moved)
        return tuple(results), tuple(spread(moving, dots))

    # -- reverse mode --

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        wrap = type(args[0]).wrap
        mask, moving = self.spreading([i in linear for i in range(len(args))])
        known = [not m for m in mask]
        outs = list(zip(self.body.outputs, moving, strict=True))
        halves = _Halves(
            known=self.roles_of(known, self.body.inputs),
            moving=self.roles_of(mask, self.body.inputs),
            known_outs=_present([None if m else o for o, m in outs], self.carry),
            moving_outs=_present([o if m else None for o, m in outs], self.carry),
        )
        _, part = halves.split(self, self.roles_of(known, args), wrap)
        cts = [c for c, m in zip(ct, moving, strict=True) if m]
        found = part.transposed(cts, self.roles_of(mask, args))
        return [f if i in linear else None for i, f in enumerate(spread(mask, found))]

    def spreading(self, mask: Sequence[bool]) -> tuple[list[bool], list[bool]]:
        """The inputs that depend on the masked ones by going round the loop, these included; and
        the outputs that do."""
        consts, carry, xs = self.roles(mask)
        while True:
            mask = [*consts, *carry, *xs]
            moved = outputs_batched(self.body, mask)
            grown = [a or b for a, b in zip(carry, moved, strict=False)]
            if grown == carry:
                return mask, [*carry, *moved[self.carry :]]
            carry = grown

    def roles_of(self, mask: Sequence[bool], items: Sequence[Any]) -> Roles:
        """The masked items by role."""
        chosen = zip(self.roles(mask), self.roles(items), strict=True)
        a, b, c = (select_by(m, role) for m, role in chosen)
        return a, b, c

    # -- batching --

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        wrap = type(args[0]).wrap
        mask, moved = self.spreading(batched)
        body = batched_graph(self.body, mask, moved, size, wrap)
        _, carry, xs = self.roles(mask)
        const_args, carry_args, x_args = self.roles(args)
        had = self.roles(batched)[1]
        start = [
            lead(c, h, size) if m else c for c, h, m in zip(carry_args, had, carry, strict=True)
        ]
        slices = [swapped(x) if m else x for x, m in zip(x_args, xs, strict=True)]
        loop = Scan(body, self.consts, self.carry, self.length, self.reverse)
        outs = loop(*const_args, *start, *slices)
        result = [lead(o, m, size) for o, m in zip(outs[: self.carry], carry, strict=True)]
        for y, m in zip(outs[self.carry :], moved[self.carry :], strict=True):
            result.append(swapped(y) if m else y.broadcast_leading(size))
        return tuple(result)


def swapped(x: Any) -> Any:
    """Exchange the two leading axes: of a batch of sequences and a sequence of batches."""
    return Transpose((1, 0, *range(2, len(x.shape))))(x)


def _present(outs: Sequence[Node | None], carry: int) -> tuple[list[Node], list[Node]]:
    """The nodes that are there, those of the carry and those of the ys."""
    return [o for o in outs[:carry] if o is not None], [o for o in outs[carry:] if o is not None]


@dataclass(frozen=True)
class _Halves:
    """A loop body in two parts: `known`, and `moving`, which is linear in its own inputs and may
    read the known part. Inputs by role; outputs (carry, ys)."""

    known: Roles
    moving: Roles
    known_outs: tuple[list[Node], list[Node]]
    moving_outs: tuple[list[Node], list[Node]]

    def together(self, op: Scan, args: Roles, moved: Roles) -> tuple[list[Any], list[Any]]:
        """Both parts in one loop: the known results and the moving ones."""
        inputs = [
            n for pair in zip(self.known, self.moving, strict=True) for part in pair for n in part
        ]
        operands = [a for pair in zip(args, moved, strict=True) for part in pair for a in part]
        (k_carry, k_ys), (m_carry, m_ys) = self.known_outs, self.moving_outs
        body = Graph(op.body.name, tuple(inputs), (*k_carry, *m_carry, *k_ys, *m_ys))
        consts, carry = len(args[0]) + len(moved[0]), len(args[1]) + len(moved[1])
        outs = list(Scan(body, consts, carry, op.length, op.reverse)(*operands))
        a, b, c = len(k_carry), carry, carry + len(k_ys)
        return outs[:a] + outs[b:c], outs[a:b] + outs[c:]

    def split(self, op: Scan, args: Roles, wrap: Wrap) -> tuple[list[Any], _Linear]:
        """The known part as a loop of its own that also stacks what the moving part reads of it;
        its results, and the moving part as a linear loop."""
        inputs = [n for role in self.moving for n in role]
        outs = [o for row in self.moving_outs for o in row]
        needed = frontier(outs, inputs)
        whole = dict(zip(self.known[2], args[2], strict=True))
        varying = {*self.known[1], *self.known[2]}
        varying.update(reached(needed, varying))
        fixed = [n for n in needed if n not in varying]
        sliced = [n for n in needed if n in whole]
        stacked = [n for n in needed if n in varying and n not in whole]

        (k_carry, k_ys), results = self.known_outs, []
        if k_carry or k_ys or stacked:
            known = tuple(n for role in self.known for n in role)
            body = Graph(op.body.name, known, (*k_carry, *k_ys, *stacked))
            loop = Scan(body, len(self.known[0]), len(self.known[1]), op.length, op.reverse)
            operands = [a for role in args for a in role]
            results = list(loop(*operands)) if operands else list(wrap(loop.node()))
        at = len(k_carry) + len(k_ys)
        outer = dict(zip(self.known[0], _nodes(args[0]), strict=True))

        names = {n: new_input(f"r{i}", n.type) for i, n in enumerate(needed)}
        inner = substitute(outs, names)
        part = _Linear(
            op=op,
            residuals=([names[n] for n in fixed], [names[n] for n in (*sliced, *stacked)]),
            values=(
                [wrap(n) for n in substitute(fixed, outer)],
                [*(whole[n] for n in sliced), *results[at:]],
            ),
            inputs=self.moving,
            outs=(inner[: len(self.moving_outs[0])], inner[len(self.moving_outs[0]) :]),
            wrap=wrap,
        )
        return results[:at], part


def frontier(outs: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
    """The nodes that do not depend on `inputs` and are read by those that do (or are outputs).

    Numbers and broadcasts are not kept but made again: keeping what they repeat is cheaper.
    """
    between = {*inputs, *reached(outs, inputs)}
    stack = [a for n in between for a in n.args if a not in between]
    stack += [o for o in outs if o not in between]
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if isinstance(n.op, Broadcast) or (not n.args and not isinstance(n.op, (Input, Constant))):
            stack.extend(n.args)
        else:
            found[n] = None
    return sorted(found, key=lambda n: n.serial)


@dataclass(frozen=True)
class _Linear:
    """The part of a loop that is linear in `inputs`, given `values` of the `residuals`: those that
    stay the same (consts) and those that change with the step (xs)."""

    op: Scan
    residuals: tuple[list[Node], list[Node]]
    values: tuple[list[Any], list[Any]]
    inputs: Roles
    outs: tuple[list[Node], list[Node]]
    wrap: Wrap

    def __call__(self, consts: list[Any], carry: list[Any], xs: list[Any]) -> list[Any]:
        """Run it on values of its inputs."""
        (fixed, varying), (c, k, x) = self.residuals, self.inputs
        body = Graph(
            self.op.body.name, (*fixed, *c, *k, *varying, *x), (*self.outs[0], *self.outs[1])
        )
        loop = Scan(body, len(fixed) + len(c), len(k), self.op.length, self.op.reverse)
        return list(loop(*self.values[0], *consts, *carry, *self.values[1], *xs))

    def transposed(self, cts: Sequence[Any], like: Roles) -> list[Any]:
        """Cotangents of the inputs (values of whose types are `like`) from those of the results:
        the same steps in the opposite order. Cotangents of consts add up in the carry."""
        wrap, (fixed, varying), (c, k, x) = self.wrap, self.residuals, self.inputs
        ct_carry, ct_ys = cts[: len(k)], cts[len(k) :]
        given = [ct is not None for ct in ct_ys]
        new_k = fresh_like(k, [True] * len(k), "ct")
        new_y = fresh_like(self.outs[1], given, "ct")
        row = [wrap(n) for n in new_k] + spread(given, [wrap(n) for n in new_y])
        back = pullback([*self.outs[0], *self.outs[1]], row, [*c, *k, *x], wrap)
        to_c, to_k, to_x = back[: len(c)], back[len(c) : len(c) + len(k)], back[len(c) + len(k) :]
        adds, flows = [b is not None for b in to_c], [b is not None for b in to_x]
        sums = fresh_like(c, adds, "sum")
        outs = [
            *(wrap(s) + b for s, b in zip(sums, select_by(adds, to_c), strict=True)),
            *(filled(b, wrap(n)) for b, n in zip(to_k, k, strict=True)),
            *select_by(flows, to_x),
        ]
        body = Graph(self.op.body.name, (*fixed, *sums, *new_k, *varying, *new_y), _nodes(outs))
        count = len(sums) + len(k)
        operands = [
            *self.values[0],
            *(v.zeros_like() for v in select_by(adds, like[0])),
            *(filled(ct, v) for ct, v in zip(ct_carry, like[1], strict=True)),
            *self.values[1],
            *select_by(given, ct_ys),
        ]
        if not outs:
            return [None] * len(back)
        found = Scan(body, len(fixed), count, self.op.length, not self.op.reverse)(*operands)
        return [
            *spread(adds, found[: len(sums)]),
            *found[len(sums) : count],
            *spread(flows, found[count:]),
        ]
