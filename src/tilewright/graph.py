"""Graph: pure functions over whole arrays, as a DAG of `Node(op, args)`.

Knows types (`Type`), what an op must be able to say about itself (`Op`), nodes, graphs with inputs
and outputs, and where in the user's code a node was born; prints, verifies and interprets itself.
Refuses to know any particular op, derivative or loop. Nothing here looks inside a shape: an extent
is an int or an index expression.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes, forks
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import Buffer, Expr, Extent, product, show_extent, show_type
from tilewright.source import Source as Source
from tilewright.source import born_at as born_at
from tilewright.source import user_source as user_source
from tilewright.target import Lapack
from tilewright.term import Term, topological


class Type(Term):
    """Element type and shape of an array."""

    dtype: DType
    shape: tuple[Extent, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Extent:
        return product(self.shape)

    def with_shape(self, shape: Sequence[Extent]) -> Type:
        return Type(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> Type:
        return self if dtype is self.dtype else Type(dtype, self.shape)

    def without(self, axes: Sequence[int]) -> Type:
        """The type with the given (non-negative) axes dropped."""
        return self.with_shape([n for d, n in enumerate(self.shape) if d not in axes])

    def __repr__(self) -> str:
        return show_type(self.dtype, self.shape)


# -- ops ---------------------------------------------------------------------------------------


class Value:
    """What ops are applied to: a handle on a node. `tracing.Array` is the one users see.

    Derivative and batching rules receive values, so they are written as plain array code.
    """

    __slots__ = ()

    @property
    def node(self) -> Node:
        raise NotImplementedError

    @classmethod
    def wrap(cls, node: Node) -> Any:
        """A handle on `node`; a tuple of handles when it has several results."""
        raise NotImplementedError


class View:
    """An argument seen by `Op.lower`: index it to get the scalar there.

    Whether that is a load or the producer's own expression, the op cannot tell.
    """

    def __init__(self, type: Type, at: Callable[[tuple[Expr, ...], Expr | None], Expr]) -> None:
        self.type = type
        self._at = at

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def __getitem__(self, idx: tuple[Expr, ...]) -> Expr:
        return self._at(tuple(idx), None)

    def guarded(self, idx: tuple[Expr, ...], guard: Expr) -> Expr:
        """The element at `idx` where `guard` holds; anything, with no memory touched, elsewhere."""
        return self._at(tuple(idx), guard)


Place = Callable[[tuple[Expr, ...]], tuple[Expr, ...]]
Element = Callable[[tuple[Expr, ...]], Expr]
Piece = tuple[tuple[Extent, ...], Place, Element]


class Op:
    """Everything there is to know about one array operation. Subclasses are frozen dataclasses
    whose fields are the op's attributes.

    Rules get `Value`s and are plain array code; a rule that is missing raises
    NotImplementedError, which the transforms turn into an error naming the op.
    """

    linear_in: ClassVar[tuple[int, ...]] = ()
    """Arguments the op is linear in, jointly (if `multilinear` is false) or one at a time."""
    multilinear: ClassVar[bool] = False
    fusion: ClassVar[str] = "injective"
    """Fusion class: `injective`, `reduction`, `contraction` (the paper's complex-out-fusable),
    `opaque`, or `source` (no array arguments)."""
    examples: ClassVar[Callable[[], list[Any]] | None] = None
    """() -> [(args, op)]: inputs the law tests run the op on."""

    @property
    def name(self) -> str:
        return _lower(type(self).__name__)

    def is_opaque(self, *types: Any) -> bool:
        """Whether on arguments of these types the op writes its own `loops`."""
        return self.fusion == "opaque"

    def type(self, *args: Any) -> Type | tuple[Type, ...]:
        """The result type; raises the user's error when the arguments do not fit."""
        raise NotImplementedError

    def numpy(self, *args: Any) -> Any:
        """The meaning: NumPy arrays to a NumPy array (a tuple if there are several results)."""
        raise NotImplementedError

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """The tangent of the result. `tangents[i]` is None where argument i has none."""
        if not self.linear_in:
            raise NotImplementedError
        if not self.multilinear:
            full = [a.zeros_like() if t is None else t for t, a in zip(tangents, args, strict=True)]
            mixed = [
                t if i in self.linear_in else a
                for i, (t, a) in enumerate(zip(full, args, strict=True))
            ]
            return self(*mixed)
        total = None
        for i in self.linear_in:
            if tangents[i] is not None:
                term = self(*args[:i], tangents[i], *args[i + 1 :])
                total = term if total is None else total + term
        return total

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        """The result and its tangent. An op whose derivative computes its result again gives both
        from one node, unless `apart`: then no node of the result may read a tangent."""
        out = self(*args)
        return out, self.jvp(tangents, out, *args)

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        """Cotangents of the `linear` arguments (None for others). Of those only types are known."""
        raise NotImplementedError

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        """Apply to arguments of which some have an extra leading axis of extent `size`."""
        raise NotImplementedError

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        """The scalar at one position of the result."""
        raise NotImplementedError

    def pieces(self, args: Sequence[View]) -> list[Piece] | None:
        """The result as parts that are written separately, or None: `lower` gives it whole.

        A piece is (its shape, its position -> position in the result, its position -> element).
        """
        return None

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Any:
        """For opaque ops: the statement (of the Loops language) that fills `outs`.

        Working memory whose size depends on the shapes is `Alloc`ed, with scope `temp`, in the
        outermost block: it gets planned memory. Small buffers may be anywhere.
        """
        raise NotImplementedError

    @property
    def functions(self) -> tuple[Any, ...]:
        """For opaque ops: the functions (of the Loops language) that `loops` calls. A program has
        each of them once, by its name."""
        return ()

    def calls(self, lapack: Lapack, outs: Sequence[Buffer], *args: Buffer) -> Any:
        """For opaque ops: what `loops` does by calls of a LAPACK, or None."""
        return None

    @property
    def graphs(self) -> dict[str, Graph]:
        """Sub-graphs of a control-flow op; those of a tuple are numbered."""
        return self._graphs if _graph_names(type(self)) else _NO_GRAPHS  # type: ignore[arg-type]

    @forks.cached_property
    def _graphs(self) -> dict[str, Graph]:
        result: dict[str, Graph] = {}
        for name in _graph_names(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            if isinstance(value, Graph):
                result[name] = value
            else:
                result |= {f"{name}[{i}]": g for i, g in enumerate(value)}
        return result

    def with_graphs(self, change: Callable[[Graph], Graph]) -> Op:
        """The op with `change` applied to its sub-graphs; the same object if nothing changed."""
        before = self.graphs
        after = {k: change(g) for k, g in before.items()}
        if all(after[k] is before[k] for k in before):
            return self
        changes: dict[str, Any] = {}
        for key, g in after.items():
            name, numbered, _ = key.partition("[")
            changes[name] = (*changes.get(name, ()), g) if numbered else g
        return replace(self, **changes)  # type: ignore[type-var]

    def attributes(self) -> list[str]:
        """The attributes as they are printed; must tell apart ops that differ."""
        graphs = _graph_names(type(self))  # type: ignore[arg-type]
        names = _field_names(type(self))  # type: ignore[arg-type]
        return [show_attribute(getattr(self, name)) for name in names if name not in graphs]

    def inline(self) -> str | None:
        """How a node without arguments prints in its users' lines; None: on a line of its own."""
        return None

    def node(self, *args: Node) -> Node:
        """The node applying this op to nodes."""
        type = self.type(*[a.type for a in args])
        return Node(self, args, type, user_source(), next(_serial))

    def __call__(self, *args: Any) -> Any:
        """Apply to values; the result is a value of the same class, a tuple of them if several."""
        return type(args[0]).wrap(self.node(*(a.node for a in args)))


@functools.cache
def _field_names(op: type) -> tuple[str, ...]:
    """The names of an op's attributes."""
    return tuple([f.name for f in fields(op)])


_NO_GRAPHS: Final[dict[str, Any]] = {}


@functools.cache
def _graph_names(op: type) -> tuple[str, ...]:
    """The names of an op's attributes that are graphs or tuples of them, by their annotations."""
    return tuple([f.name for f in fields(op) if "Graph" in str(f.type)])


@functools.cache
def _lower(name: str) -> str:
    """`ReduceSum` in lower case: `reduce_sum`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def show_attribute(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(show_attribute(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, np.dtype):
        return dtypes.short(value)
    return show_extent(value) if isinstance(value, Expr) else str(value)


@dataclass(frozen=True)
class Input(Op):
    """An argument of a graph. Each input is its own."""

    label: str
    of: Type
    serial: int
    fusion: ClassVar[str] = "source"

    def type(self) -> Type:
        return self.of

    def inline(self) -> str:
        return self.label


@dataclass(frozen=True)
class Pick(Op):
    """One result of a node that has several."""

    item: int

    def type(self, x: tuple[Type, ...]) -> Type:
        return x[self.item]

    def numpy(self, x: Any) -> Any:
        return x[self.item]


# -- nodes and graphs --------------------------------------------------------------------------


class Node(Term):
    """An op applied to nodes. `type` is a tuple of types when there are several results.

    `serial` grows with time: a node is younger than everything it reads, so a walk that looks for
    the readers of an input need not go below nodes older than it.
    """

    op: Op
    args: tuple[Node, ...]
    type: Any
    source: Source | None
    serial: int

    @classmethod
    def key(cls, *fields: Any) -> Hashable:
        return (cls, fields[0], fields[1])  # the type follows; line and age do not matter

    def __repr__(self) -> str:
        return f"<{self.op.name}: {self.type!r}>"


_serial = itertools.count()


def new_input(label: str, type: Type) -> Node:
    """A fresh graph input."""
    serial = next(_serial)
    return Node(Input(label, type, serial), (), type, user_source(), serial)


class Graph(Term):
    """A pure function: input nodes and output nodes."""

    name: str
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]

    derived = ("_order",)

    def derive(self) -> None:
        _set_order(self, None)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, arguments first; the inputs are included only if used."""
        order: tuple[Node, ...] | None = self._order  # type: ignore[attr-defined]
        if order is None:
            order = tuple(topological(self.outputs, lambda n: n.args))
            _set_order(self, order)
        return order

    def __repr__(self) -> str:
        return show(self)


_set_order = Graph.__dict__["_order"].__set__


def substitute(roots: Sequence[Node], env: Mapping[Node, Node]) -> list[Node]:
    """Replace the keys of `env`; nodes that do not change stay the same objects."""
    done: dict[Node, Node] = dict(env)
    start = min((n.serial for n in env), default=0)
    for n in topological(roots, lambda n: () if n in env or n.serial < start else n.args):
        if n.serial < start:
            done[n] = n
        elif n not in done:
            args = tuple(done[a] for a in n.args)
            if all(a is b for a, b in zip(args, n.args, strict=True)):
                done[n] = n
            else:
                with born_at(n.source):
                    done[n] = n.op.node(*args)
    return [done[r] for r in roots]


def users(graph: Graph) -> dict[Node, list[Node]]:
    """For each node the nodes that read it (once per reading argument), outputs not counted."""
    result: dict[Node, list[Node]] = {n: [] for n in graph.nodes}
    for n in graph.nodes:
        for a in n.args:
            result[a].append(n)
    return result


# -- printer -----------------------------------------------------------------------------------


def show(graph: Graph, sources: bool = True) -> str:
    """The graph as text. Without `sources` it is canonical: equal programs print the same."""
    return "\n".join(_show_lines(graph, "graph " + graph.name if sources else "graph", sources, ""))


def _show_lines(graph: Graph, head: str, sources: bool, indent: str) -> list[str]:
    names: dict[Node, str] = {}
    labels: set[str] = set()
    for k, n in enumerate(graph.inputs):
        label = n.op.label if sources and isinstance(n.op, Input) else f"a{k}"
        while label in labels:
            label += "_"
        labels.add(label)
        names[n] = label
    params = ", ".join(f"{names[n]}: {n.type!r}" for n in graph.inputs)
    lines = [f"{indent}{head}({params})"]
    nodes = [n for n in graph.nodes if n not in names]
    last = graph.outputs[0] if len(graph.outputs) == 1 else None

    types: dict[Any, str] = {}  # a program has many nodes and few types

    def typed_as(type: Any) -> str:
        return types.get(type) or types.setdefault(type, _show_result(type))

    def line(text: str, n: Node) -> str:
        typed = f"{indent}  {text:<36} {typed_as(n.type)}"
        return f"{typed:<62} {n.source}".rstrip() if sources and n.source else typed

    for n in nodes:
        inline = n.op.inline() if not n.args else None
        if inline is not None:
            # The canonical text names the type too: a number alone does not say how many.
            names[n] = inline if sources else f"{inline}:{typed_as(n.type)}"
            continue
        call = f"{n.op.name}({', '.join([*(names[a] for a in n.args), *n.op.attributes()])})"
        if n is last and not n.op.graphs:
            lines.append(line(f"return {call}", n))
            return lines
        names[n] = f"%{len(lines) - 1}"
        lines.append(line(f"{names[n]} = {call}", n))
        for label, sub in n.op.graphs.items():
            lines += _show_lines(sub, label, sources, indent + "    ")
    lines.append(f"{indent}  return {', '.join(names[n] for n in graph.outputs)}")
    return lines


def _show_result(type: Any) -> str:
    return f"({', '.join(map(repr, type))})" if isinstance(type, tuple) else repr(type)


# -- verifier ----------------------------------------------------------------------------------


def verify(graph: Graph) -> None:
    """Raise InternalError if a node's type is not what its op says, or an input is unbound."""
    bound = set(graph.inputs)
    for n in graph.nodes:
        if isinstance(n.op, Input) and n not in bound:
            raise InternalError(f"graph {graph.name} reads {n.op.label}, which is not its input")
        expected = n.op.type(*(a.type for a in n.args))
        if expected != n.type:
            raise InternalError(f"{n!r} should have type {expected!r}\n{show(graph)}")
        for sub in n.op.graphs.values():
            verify(sub)


# -- interpreter -------------------------------------------------------------------------------


def evaluate(graph: Graph, args: Sequence[Any]) -> list[Any]:
    """Run the graph on NumPy arrays, op by op, by each op's NumPy meaning."""
    env: dict[Node, Any] = dict(zip(graph.inputs, args, strict=True))
    for n in graph.nodes:
        if n not in env:
            env[n] = n.op.numpy(*(env[a] for a in n.args))
    return [env[n] for n in graph.outputs]
