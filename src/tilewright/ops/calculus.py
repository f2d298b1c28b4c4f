"""The three walks over a graph: forward mode, reverse mode and batching.

Each is one dictionary filled in topological order by the ops' own rules. Control-flow ops walk
their sub-graphs with them, and `transforms/` builds the public functions on them. Knows which part
of a graph a walk touches: what its inputs reach. Refuses to know single ops and user functions.

A missing tangent or cotangent is zero and is written None; zeros are never made up here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tilewright.errors import InternalError, MissingRule
from tilewright.expr import Extent
from tilewright.graph import Graph, Node, Pick, Type, new_input
from tilewright.source import born_at
from tilewright.term import topological

Wrap: TypeAlias = Callable[[Node], Any]
"""Makes the value(s) of a node: `Value.wrap` of the class in use."""


def reached(outputs: Iterable[Node], inputs: Iterable[Node]) -> list[Node]:
    """The nodes that depend on `inputs`, these excluded, arguments first."""
    seen = set(inputs)
    start = min((n.serial for n in seen), default=0)
    order = topological(outputs, lambda n: () if n in seen or n.serial < start else n.args)
    result = []
    for n in order:
        if n not in seen and any(a in seen for a in n.args):
            seen.add(n)
            result.append(n)
    return result


def replay(graph: Graph, wrap: Wrap, args: Sequence[Any]) -> list[Any]:
    """The outputs of `graph` with its inputs replaced by the values `args`."""
    env = {n: a.node for n, a in zip(graph.inputs, args, strict=True)}
    for n in reached(graph.outputs, graph.inputs):
        with born_at(n.source):
            env[n] = n.op.node(*(env.get(a, a) for a in n.args))
    return [wrap(env.get(n, n)) for n in graph.outputs]


# -- forward mode ------------------------------------------------------------------------------


def pushforward(
    graph: Graph, wrap: Wrap, args: Sequence[Any], tangents: Sequence[Any], apart: bool = False
) -> tuple[list[Any], list[Any]]:
    """The outputs of `graph` at the values `args`, and their tangents (None where zero).

    With `apart` no output reads a tangent, so that the tangents' nodes can be transposed.
    """
    values = dict(zip(graph.inputs, args, strict=True))
    moving = {n: t for n, t in zip(graph.inputs, tangents, strict=True) if t is not None}
    for n in reached(graph.outputs, graph.inputs):
        operands = [values[a] if a in values else wrap(a) for a in n.args]
        if isinstance(n.op, Pick):
            values[n] = operands[0][n.op.item]
            tangent = moving.get(n.args[0])
            tangent = None if tangent is None else tangent[n.op.item]
        else:
            with born_at(n.source):
                if any(a in moving for a in n.args):
                    values[n], tangent = _forward(n, operands, moving, apart)
                else:
                    values[n], tangent = n.op(*operands), None
        if tangent is not None:
            moving[n] = tangent
    return [values[n] if n in values else wrap(n) for n in graph.outputs], [
        moving.get(n) for n in graph.outputs
    ]


def _forward(
    n: Node, operands: Sequence[Any], moving: Mapping[Node, Any], apart: bool
) -> tuple[Any, Any]:
    try:
        out, tangent = n.op.forward([moving.get(a) for a in n.args], *operands, apart=apart)
    except NotImplementedError:
        raise MissingRule(n.op.name, "derivative") from None
    single = (tangent,) if not isinstance(tangent, tuple) else tangent
    for o, t in zip(out if isinstance(out, tuple) else (out,), single, strict=tangent is not None):
        if t is not None and t.node.type is not o.node.type:
            raise InternalError(f"{n.op.name} gives {o.node!r} the tangent {t.node!r}")
    return out, tangent if any(t is not None for t in single) else None


# -- reverse mode ------------------------------------------------------------------------------


def pullback(
    outputs: Sequence[Node], cotangents: Sequence[Any], inputs: Sequence[Node], wrap: Wrap
) -> list[Any]:
    """The transpose of the linear map from `inputs` to `outputs`: a cotangent for each input.

    Every node between the two must be linear in what depends on the inputs. Nothing it returns
    reads the inputs.
    """
    between = reached(outputs, inputs)
    linear = {*inputs, *between}
    waiting: dict[Node, Any] = {}
    for n, ct in zip(outputs, cotangents, strict=True):
        if n in linear:
            _accumulate(waiting, n, ct)
    for n in reversed(between):
        ct = waiting.pop(n, None)
        if ct is None:
            continue
        with born_at(n.source):
            if isinstance(n.op, Pick):
                (several,) = n.args
                row = waiting.setdefault(several, [None] * len(several.type))
                row[n.op.item] = ct if row[n.op.item] is None else row[n.op.item] + ct
                continue
            where = frozenset(i for i, a in enumerate(n.args) if a in linear)
            for a, part in zip(n.args, _transpose(n, ct, where, wrap), strict=True):
                if a in linear:
                    _accumulate(waiting, a, part)
    return [waiting.get(n) for n in inputs]


def _accumulate(waiting: dict[Node, Any], node: Node, ct: Any) -> None:
    if ct is not None:
        before = waiting.get(node)
        waiting[node] = ct if before is None else before + ct


def _transpose(n: Node, ct: Any, where: frozenset[int], wrap: Wrap) -> Sequence[Any]:
    op, linear_in = n.op, n.op.linear_in
    if not all(i in linear_in for i in where) or (op.multilinear and len(where) > 1):
        raise MissingRule(op.name, "transpose")
    try:
        parts = op.transpose(ct, where, *(wrap(a) for a in n.args))
    except NotImplementedError:
        raise MissingRule(op.name, "transpose") from None
    for i in where:
        if parts[i] is not None and parts[i].node.type is not n.args[i].type:
            raise InternalError(f"{op.name} gives {n.args[i]!r} the cotangent {parts[i].node!r}")
    return parts


# -- batching ----------------------------------------------------------------------------------


def batch(
    graph: Graph, wrap: Wrap, size: Extent, args: Sequence[Any], batched: Sequence[bool]
) -> tuple[list[Any], list[bool]]:
    """The outputs of `graph` where `batched` arguments have an extra leading axis of extent `size`,
    and which outputs have it."""
    values = dict(zip(graph.inputs, args, strict=True))
    extra = {n for n, b in zip(graph.inputs, batched, strict=True) if b}
    for n in reached(graph.outputs, graph.inputs):
        operands = [values[a] if a in values else wrap(a) for a in n.args]
        where = [a in extra for a in n.args]
        if any(where):
            extra.add(n)
        if isinstance(n.op, Pick):
            values[n] = operands[0][n.op.item]
            continue
        with born_at(n.source):
            if not any(where):
                values[n] = n.op(*operands)
                continue
            try:
                values[n] = n.op.batch(size, where, *operands)
            except NotImplementedError:
                raise MissingRule(n.op.name, "batching") from None
    return [values[n] if n in values else wrap(n) for n in graph.outputs], [
        n in extra for n in graph.outputs
    ]


# -- sub-graphs --------------------------------------------------------------------------------


def build(
    name: str, types: Sequence[Type], wrap: Wrap, function: Callable[..., Sequence[Any]]
) -> Graph:
    """The graph of `function` (values to a sequence of values) on fresh inputs of `types`."""
    inputs = tuple(new_input(f"x{i}", t) for i, t in enumerate(types))
    outputs = function(*(wrap(n) for n in inputs))
    return Graph(name, inputs, tuple(o.node for o in outputs))


def select_by(mask: Sequence[bool], items: Sequence[Any]) -> list[Any]:
    """The items whose place in `mask` is true."""
    return [x for m, x in zip(mask, items, strict=True) if m]


def spread(mask: Sequence[bool], items: Iterable[Any]) -> list[Any]:
    """Inverse of `select_by`: items in the places where `mask` is true, None elsewhere."""
    rest = iter(items)
    return [next(rest) if m else None for m in mask]
