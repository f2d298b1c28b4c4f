"""A loop of elementwise steps, run for a few vectors of elements at a time.

Knows that element i after a step depends on the elements i before it only, so that all steps of
some elements can be made before the next elements are looked at: what is carried from step to step
stays in registers (loop interchange, then scalar replacement; Allen and Kennedy, "Optimizing
Compilers for Modern Architectures", 2001). Refuses derivatives and batching, both are taken before
the rewrite that makes this op, and to say which loops qualify (`transforms.pointwise_loops`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tilewright.errors import InternalError
from tilewright.expr import Axis, Buffer, Expr, as_index, axis, index, load, static, var
from tilewright.graph import Graph, Node, Op, Type, View, evaluate
from tilewright.loops import Alloc, Block, Let, Stmt, Store, block, loop
from tilewright.ops.base import sizes
from tilewright.ops.elementwise import Elementwise
from tilewright.ops.nests import plus

REGISTER: Final = 64
"""Bytes of a vector; where registers are narrower, several make one."""
HELD: Final = 24
"""Registers for what is carried and what the steps read; the others are for intermediate values."""
COPIES: Final = 4
"""Vectors that are stepped together, so that the latency of one step is hidden by the others."""
LONG: Final = 24
"""Work of a step, in multiply-adds, from which on two vectors hide its latency."""
LONGEST: Final = 96
"""Work from which on a second vector would be further away than the processor looks."""


@dataclass(frozen=True)
class PointwiseLoop(Op):
    """`*consts, *carry = start(*args)`, then `length` times `carry = body(*consts, *carry)`.

    Both graphs are elementwise; their arrays all have one shape, and there may be scalars. Results:
    those of `picked` among the carried arrays, as they are at last.
    """

    start: Graph
    body: Graph
    picked: tuple[int, ...]
    length: int
    fusion: ClassVar[str] = "opaque"

    @property
    def consts(self) -> int:
        """How many values the steps read that do not change."""
        return len(self.body.inputs) - len(self.body.outputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all arrays."""
        return sizes(self.body.outputs[self.picked[0]].type.shape)

    def type(self, *args: Type) -> tuple[Type, ...]:
        found = [n.type for n in self.body.outputs]
        entering = [n.type for n in self.body.inputs]
        if entering != [n.type for n in self.start.outputs] or entering[self.consts :] != found:
            raise InternalError(f"the steps of {self.body.name} do not carry what they are given")
        if list(args) != [n.type for n in self.start.inputs]:
            raise InternalError(f"{self.body.name} starts from {list(args)}")
        shapes = {n.type.shape for g in (self.start, self.body) for n in g.nodes}
        if not shapes <= {(), self.shape} or not all(found[k].shape for k in self.picked):
            raise InternalError(f"{self.body.name} has arrays of several shapes")
        return tuple(found[k] for k in self.picked)

    def numpy(self, *args: Any) -> Any:
        held = evaluate(self.start, args)
        consts, carry = held[: self.consts], held[self.consts :]
        for _ in range(self.length):
            carry = evaluate(self.body, [*consts, *carry])
        return tuple(carry[k] for k in self.picked)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        """Rows, and in a row chunks of vectors, each stepped from its start to its end."""
        return _Nest(self, outs, args).statement()


class _Nest:
    """The loops of one op over memory."""

    def __init__(self, op: PointwiseLoop, outs: Sequence[Buffer], args: Sequence[Buffer]) -> None:
        self.op, self.args, self.outs = op, args, outs
        *rows, self.extent = op.shape
        self.rows = [axis("r", n) for n in rows]
        arrays = [n for n in op.body.nodes if n.type.shape]
        self.lanes = REGISTER // max(n.type.dtype.itemsize for n in arrays)
        work = sum(_cost(n) for n in op.body.nodes)
        held = sum(bool(n.type.shape) for n in op.body.inputs)
        most = COPIES if work < LONG else 2 if work < LONGEST else 1
        self.copies = max(1, min(most, HELD // held))

    def statement(self) -> Stmt:
        """All elements; the longer of the first axis and a row's chunks is run in parallel."""
        vectors = -(-self.extent // self.lanes)
        chunks = -(-vectors // self.copies)
        even = -(-vectors // chunks)  # chunks of nearly the same size
        width = even * self.lanes
        full = self.extent // width
        first = static(self.rows[0].extent) if self.rows else 0
        inside = "parallel" if full > first else "serial"
        parts: list[Stmt] = []
        if full:
            c = axis("c", full)
            parts.append(loop(c, self.chunk(index("*", c, as_index(width)), width), kind=inside))
        if self.extent % width:
            parts.append(self.chunk(as_index(full * width), self.extent % width))
        nest: Stmt = block(*parts)
        for k, r in reversed(list(enumerate(self.rows))):
            outer = k == 0 and inside == "serial"
            nest = loop(r, nest, kind="parallel" if outer else "serial")
        return nest

    def chunk(self, start: Expr, width: int) -> Stmt:
        """All steps of `width` elements from `start` on."""
        scalars = {n: _held(n, ()) for n in self.op.body.inputs if not n.type.shape}
        vectors = [
            _Vector(self, scalars, plus(start, at), min(self.lanes, width - at))
            for at in range(0, width, self.lanes)
        ]
        t = axis("t", self.op.length)
        return Block((
            *(Alloc(b) for b in scalars.values()),
            *(Alloc(b) for x in vectors for b in x.held.values()),
            *self.first_scalars(scalars),
            *(x.begin() for x in vectors),
            loop(t, self.step(scalars, vectors)),
            *(x.end() for x in vectors),
        ))  # fmt: skip

    def first_scalars(self, scalars: Mapping[Node, Buffer]) -> list[Stmt]:
        start = self.op.start
        inputs = [load(b, ()) if not b.shape else None for b in self.args]
        wanted = [k for k, n in enumerate(self.op.body.inputs) if n in scalars]
        values = _elements(start, inputs, [start.outputs[k] for k in wanted])
        return [
            Store(scalars[self.op.body.inputs[k]], (), x)
            for k, x in zip(wanted, values, strict=True)
        ]

    def step(self, scalars: Mapping[Node, Buffer], vectors: Sequence[_Vector]) -> Stmt:
        """One round of the body. The scalars change when all vectors have read them."""
        body, carried = self.op.body, self.op.body.inputs[self.op.consts :]
        inputs = [load(scalars[n], ()) if n in scalars else None for n in body.inputs]
        pairs = [
            (scalars[n], o) for n, o in zip(carried, body.outputs, strict=True) if n in scalars
        ]
        values = _elements(body, inputs, [o for _, o in pairs])
        names = [var("after", x.type) for x in values]
        lets = [Let(n, x) for n, x in zip(names, values, strict=True)]
        stores = [Store(b, (), n) for n, (b, _) in zip(names, pairs, strict=True)]
        return Block((*lets, *(x.step() for x in vectors), *stores))


class _Vector:
    """A vector of elements: the registers of what the steps read and carry."""

    def __init__(self, nest: _Nest, scalars: Mapping[Node, Buffer], at: Expr, width: int) -> None:
        self.nest, self.op, self.scalars = nest, nest.op, scalars
        self.at, self.width = at, width
        self.lanes = 1 << (width - 1).bit_length()
        inputs = self.op.body.inputs
        self.held = {n: _held(n, (self.lanes,)) for n in inputs if n.type.shape}

    def every(self, v: Axis, *body: Stmt) -> Stmt:
        return loop(v, *body, kind="vector", lanes=self.lanes)

    def place(self, v: Axis) -> tuple[Expr, ...]:
        """Where in memory a lane's element is."""
        return (*self.nest.rows, plus(self.at, v))

    def begin(self) -> Stmt:
        """What the steps read, and what is carried at first."""
        v = axis("v", self.width)
        inputs = [load(b, self.place(v) if b.shape else ()) for b in self.nest.args]
        pairs = list(zip(self.op.body.inputs, self.op.start.outputs, strict=True))
        pairs = [(n, o) for n, o in pairs if n in self.held]
        values = _elements(self.op.start, inputs, [o for _, o in pairs])
        stores = [Store(self.held[n], (v,), x) for (n, _), x in zip(pairs, values, strict=True)]
        return self.every(v, *stores)

    def step(self) -> Stmt:
        """One round of the body: all new values, then all changes."""
        v = axis("v", self.width)
        body = self.op.body
        inputs = [
            load(self.held[n], (v,)) if n in self.held else load(self.scalars[n], ())
            for n in body.inputs
        ]
        pairs = list(zip(body.inputs[self.op.consts :], body.outputs, strict=True))
        pairs = [(n, o) for n, o in pairs if n in self.held]
        values = _elements(body, inputs, [o for _, o in pairs])
        names = [var("after", x.type) for x in values]
        lets = [Let(n, x) for n, x in zip(names, values, strict=True)]
        stores = [Store(self.held[n], (v,), x) for (n, _), x in zip(pairs, names, strict=True)]
        return self.every(v, Block((*lets, *stores)))

    def end(self) -> Stmt:
        """Store the results."""
        v = axis("v", self.width)
        carried = self.op.body.inputs[self.op.consts :]
        found = [self.held[carried[k]] for k in self.op.picked]
        stores = [
            Store(out, self.place(v), load(b, (v,)))
            for out, b in zip(self.nest.outs, found, strict=True)
        ]
        return self.every(v, *stores)


def _cost(n: Node) -> int:
    """Work of one element, in multiply-adds."""
    if isinstance(n.op, Elementwise):
        return n.op.row.cost
    return 1 if n.args else 0


def _held(n: Node, shape: tuple[int, ...]) -> Buffer:
    return Buffer("held", n.type.dtype, shape, "registers")


def _elements(graph: Graph, inputs: Sequence[Expr | None], outputs: Sequence[Node]) -> list[Expr]:
    """One element of each output, from one of each input that they need. The nodes are elementwise,
    so that no position matters."""
    known = {n: x for n, x in zip(graph.inputs, inputs, strict=True) if x is not None}

    def view(n: Node) -> View:
        return View(n.type, lambda idx, guard: known[n])

    for n in Graph(graph.name, graph.inputs, tuple(outputs)).nodes:
        if n not in known:
            idx = tuple(as_index(0) for _ in n.type.shape)
            known[n] = n.op.lower(idx, *map(view, n.args))
    return [known[n] for n in outputs]
