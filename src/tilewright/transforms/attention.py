"""Attention, found in a graph as users write it, becomes one op.

    softmax(q @ kT * s + mask) @ v   ->   attention(q, k, v, mask)

Knows what the pattern looks like: a product with a softmax (`exp(x - max) / sum`), whose scores are
a product, scaled, masked and biased in any order; axes moved, split and repeated on the way.
Refuses to guess: if a step is not exactly recognised, or something else reads what would no longer
be computed, nothing changes. Differentiation runs it first (`autodiff`), so that the derivative is
the op's own.

Axes are followed as letters: each axis of a node is made of letters, and what moves data only
rearranges them (`Letters`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tilewright import dtypes
from tilewright.expr import is_static, static
from tilewright.graph import Graph, Node, Op, users
from tilewright.ops import elementwise as el
from tilewright.ops.attention import Attention, Bias, Causal, Mask
from tilewright.ops.base import without
from tilewright.ops.calculus import reached
from tilewright.ops.contract import Dot
from tilewright.ops.control import StopGradient
from tilewright.ops.reduce import ReduceMax
from tilewright.ops.shape import (
    Broadcast,
    Cast,
    Fill,
    Iota,
    ReduceSum,
    Reshape,
    Transpose,
)
from tilewright.source import born_at

Letter = int
Axes = tuple[tuple[Letter, ...], ...]
"""The letters that make each axis of a node; an axis of extent 1 has none."""


def attention(graph: Graph) -> Graph:
    """The graph with every attention as one op; the same graph if there is none."""
    nodes = reached(graph.outputs, graph.inputs)
    if sum(isinstance(n.op, Dot) for n in nodes) < 2 and not any(n.op.graphs for n in nodes):
        return graph
    finder = _Finder(graph)
    found = {m.root: m for n in nodes if isinstance(n.op, Dot) and (m := finder.match(n))}
    done: dict[Node, Node] = {}
    for n in nodes:
        args = [done.get(a, a) for a in n.args]
        with born_at(n.source):
            if n in found:
                done[n] = found[n].node(done)
                continue
            op = n.op.with_graphs(attention) if n.op.graphs else n.op
            same = op is n.op and all(a is b for a, b in zip(args, n.args, strict=True))
            done[n] = n if same else op.node(*args)
    outputs = tuple(done.get(n, n) for n in graph.outputs)
    unchanged = all(a is b for a, b in zip(outputs, graph.outputs, strict=True))
    return graph if unchanged else Graph(graph.name, graph.inputs, outputs)


# -- letters -----------------------------------------------------------------------------------


class Lost(Exception):
    """Letters do not follow where the data goes."""


class Letters:
    """The letters in use, their sizes, and those that turned out to be made of several."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.parts: dict[Letter, tuple[Letter, ...]] = {}

    def new(self, size: Any) -> tuple[Letter, ...]:
        """A letter for an axis; none if its extent is 1."""
        if not is_static(size) or static(size) == 0:
            raise Lost
        if static(size) == 1:
            return ()
        self.sizes.append(static(size))
        return (len(self.sizes) - 1,)

    def flat(self, letters: Sequence[Letter]) -> tuple[Letter, ...]:
        """The letters with those that were split replaced."""
        out: list[Letter] = []
        stack = list(letters)[::-1]
        while stack:
            a = stack.pop()
            if a in self.parts:
                stack += self.parts[a][::-1]
            else:
                out.append(a)
        return tuple(out)

    def grouped(self, letters: Sequence[Letter], shape: Sequence[Any]) -> Axes:
        """The letters, in order, as axes of the given extents; a letter that belongs to two axes
        is split."""
        rest = list(self.flat(letters))[::-1]
        axes: list[tuple[Letter, ...]] = []
        for extent in shape:
            left, own = static(extent), []
            while left > 1:
                if not rest:
                    raise Lost
                a = rest.pop()
                size = self.sizes[a]
                if left % size == 0:
                    own.append(a)
                    left //= size
                elif size % left == 0:
                    self.parts[a] = (*self.new(left), *self.new(size // left))
                    rest += self.parts[a][::-1]
                else:
                    raise Lost
            axes.append(tuple(own))
        if rest:
            raise Lost
        return tuple(axes)

    def below(self, n: Node, axes: Axes) -> tuple[Node, Axes] | None:
        """The operand of a node that only moves data, and the letters of its axes."""
        op = n.op
        if isinstance(op, Transpose):
            inner: list[tuple[Letter, ...]] = [()] * len(axes)
            for here, there in enumerate(op.order):
                inner[there] = axes[here]
            return n.args[0], tuple(inner)
        if isinstance(op, Broadcast):
            return n.args[0], tuple(axes[d] for d in op.axes)
        if isinstance(op, Reshape):
            flat = [a for axis in axes for a in axis]
            return n.args[0], self.grouped(flat, n.args[0].type.shape)
        return None

    def above(self, n: Node, axes: Axes) -> Axes | None:
        """The letters of a node that only moves data, from those of its operand."""
        if isinstance(n.op, Transpose):
            return tuple(axes[d] for d in n.op.order)
        if isinstance(n.op, Reshape):
            return self.grouped([a for axis in axes for a in axis], n.type.shape)
        return None


def number(n: Node) -> float | None:
    """The one number a node holds, if it is a constant."""
    while isinstance(n.op, (Reshape, Transpose, Broadcast, Cast)):
        n = n.args[0]
    return float(n.op.value) if isinstance(n.op, Fill) else None


# -- the pattern -------------------------------------------------------------------------------


@dataclass
class _Match:
    """An attention: the node it stands for, the op, and the nodes it reads."""

    root: Node
    op: Attention
    args: list[Node]

    def node(self, done: dict[Node, Node]) -> Node:
        return self.op.node(*(done.get(a, a) for a in self.args))


@dataclass
class _Step:
    """A step and its array (None: causal); `row` is the letter that causality counts."""

    node: Node | None
    axes: Axes
    kind: str
    fill: float
    offset: int = 0
    row: Letter | None = None


def scaled(n: Node) -> tuple[Node, float] | None:
    """What a node multiplies by a number, and the number."""
    if n.op == el.multiply:
        for x, factor in (n.args, n.args[::-1]):
            value = number(factor)
            if value is not None and math.isfinite(value):
                return x, value
    if n.op == el.divide:
        value = number(n.args[1])
        if value and math.isfinite(value):
            return n.args[0], 1 / value
    return None


def leads(n: Node) -> bool:
    """Whether scores come from a product through this node, as far as one can see."""
    while not isinstance(n.op, Dot):
        if isinstance(n.op, (Reshape, Transpose, Cast)):
            n = n.args[0]
        elif (factor := scaled(n)) is not None:
            n = factor[0]
        elif n.op == el.select:
            n = n.args[1] if number(n.args[2]) is not None else n.args[2]
        elif n.op == el.add:
            return leads(n.args[0]) or leads(n.args[1])
        else:
            return False
    return True


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.readers = users(graph)
        self.outputs = set(graph.outputs)

    def match(self, n: Node) -> _Match | None:
        """The attention whose last product is `n`."""
        for side in (0, 1):
            try:
                return _Attempt(self, n, side).match()
            except Lost:
                continue
        return None


class _Attempt:
    """The attempt to see an attention in a product whose operand `side` are the weights."""

    def __init__(self, finder: _Finder, product: Node, side: int) -> None:
        self.finder, self.product, self.side = finder, product, side
        self.letters = Letters()
        self.scale = 1.0
        self.steps: list[tuple[str, Node, Axes, float]] = []
        self.walked: set[Letter] = set()
        self.inside: set[Node] = {product}

    def match(self) -> _Match:
        n, letters = self.product, self.letters
        if not dtypes.is_float(n.type.dtype):
            raise Lost
        sides, out = self.axes_of(n, None)
        weights, value = n.args[self.side], n.args[1 - self.side]
        summed = tuple(sides[self.side][d] for d in self.contracted(n, self.side))
        logits, axes = self.softmax(weights, sides[self.side], summed)
        product, axes = self.scores(logits, axes)
        pair, _ = self.axes_of(product, axes)
        keys = set(letters.flat([a for x in summed for a in x]))
        query, key = (0, 1) if keys & self.set_of(pair[1]) else (1, 0)
        if keys & self.set_of(pair[query]) or not keys <= self.set_of(pair[key]):
            raise Lost
        self.alone()
        inner = tuple(pair[query][d] for d in self.contracted(product, query))
        operands = [(product.args[i], pair[i]) for i in (query, key)]
        return self.assembled([*operands, (value, sides[1 - self.side])], out, keys, inner)

    # -- walking down -------------------------------------------------------------------------

    def set_of(self, axes: Axes) -> set[Letter]:
        return {a for x in axes for a in self.letters.flat(x)}

    def contracted(self, n: Node, side: int) -> tuple[int, ...]:
        assert isinstance(n.op, Dot)
        return n.op.rhs_contract if side else n.op.lhs_contract

    def axes_of(self, n: Node, out: Axes | None) -> tuple[tuple[Axes, Axes], Axes]:
        """The letters of the operands of a product, and of its result, which may be known."""
        op = n.op
        assert isinstance(op, Dot)
        new = self.letters.new
        if out is None:
            out = tuple(new(size) for size in n.type.shape)
        inner = [new(n.args[0].type.shape[d]) for d in op.lhs_contract]
        batch, rest = out[: len(op.lhs_batch)], list(out[len(op.lhs_batch) :])
        sides = []
        for x, contract, at, free in zip(
            n.args, (op.lhs_contract, op.rhs_contract), (op.lhs_batch, op.rhs_batch),
            op.free(n.args[0].type, n.args[1].type), strict=True,
        ):  # fmt: skip
            axes: list[tuple[Letter, ...]] = [()] * x.type.ndim
            for d, a in [*zip(contract, inner, strict=True), *zip(at, batch, strict=True)]:
                axes[d] = a
            for d in free:
                axes[d] = rest.pop(0)
            sides.append(tuple(axes))
        return (sides[0], sides[1]), out

    def moved(self, n: Node, axes: Axes) -> tuple[Node, Axes]:
        """Through everything that only moves data, and casts between the floats that compute in
        the same type."""
        while True:
            self.inside.add(n)
            same = isinstance(n.op, Cast) and self.computes_alike(n)
            below = (n.args[0], axes) if same else self.letters.below(n, axes)
            if below is None or isinstance(n.op, Broadcast):
                return n, axes
            n, axes = below

    def computes_alike(self, n: Node) -> bool:
        """Whether a cast, of scores or weights, only says how they are rounded on the way."""
        a, b = n.type.dtype, n.args[0].type.dtype
        both = dtypes.is_float(a) and dtypes.is_float(b)
        return both and dtypes.compute_type(a) == dtypes.compute_type(b)

    def softmax(self, n: Node, axes: Axes, summed: Axes) -> tuple[Node, Axes]:
        """From the weights to the scores they are the softmax of, over the `summed` letters."""
        n, axes = self.moved(n, axes)
        terms, total = self.operands(n, el.divide)
        self.reduced(total, axes, ReduceSum, terms, summed)
        (shifted,) = self.operands(terms, el.exp)
        logits, top = self.operands(shifted, el.subtract)
        self.reduced(top, axes, ReduceMax, logits, summed)
        return logits, axes

    def operands(self, n: Node, op: Op) -> tuple[Node, ...]:
        """The operands of a node that must apply `op`."""
        if n.op != op:
            raise Lost
        self.inside.add(n)
        return n.args

    def reduced(self, n: Node, axes: Axes, kind: type[Op], of: Node, summed: Axes) -> None:
        """Check that `n` is `of`, which has the letters `axes`, reduced over exactly the summed
        ones and spread again."""
        whole = axes
        while not isinstance(n.op, kind):
            self.inside.add(n)
            low = [k for k, a in enumerate(n.args) if number(a) == -math.inf]
            if isinstance(n.op, StopGradient):
                n = n.args[0]
            elif n.op == el.maximum and low:  # with what no number is smaller than
                n = n.args[1 - low[0]]
            else:
                below = self.letters.below(n, axes)
                if below is None:
                    raise Lost
                n, axes = below
        self.inside.add(n)
        over = n.op.axes  # type: ignore[attr-defined]
        kept = tuple(a for d, a in enumerate(whole) if d not in over)
        gone = self.set_of(tuple(whole[d] for d in over))
        if n.args[0] is not of or gone != self.set_of(summed) or not self.same(kept, axes):
            raise Lost

    def same(self, a: Axes, b: Axes) -> bool:
        return [self.letters.flat(x) for x in a] == [self.letters.flat(x) for x in b]

    def scores(self, n: Node, axes: Axes) -> tuple[Node, Axes]:
        """From the scores down to the product they come from. What is met goes into `scale` and
        `steps`, the last one first."""
        while True:
            n, axes = self.moved(n, axes)
            if isinstance(n.op, Dot):
                return n, axes
            if (factor := scaled(n)) is not None:
                self.scale *= factor[1]
                n = factor[0]
            elif n.op == el.select:
                seen, a, b = n.args
                where, fill, rest = (True, number(b), a) if number(b) is not None else (
                    False, number(a), b)  # fmt: skip
                if fill is None or math.isnan(fill) or fill == math.inf or self.scale <= 0:
                    raise Lost
                kind = "mask" if where else "hidden"
                self.steps.append((kind, seen, axes, fill * self.scale))
                n = rest
            elif n.op == el.add and self.scale == 1:
                a, b = n.args if leads(n.args[0]) else n.args[::-1]
                self.steps.append(("bias", b, axes, 0.0))
                n = a
            else:
                raise Lost

    def alone(self) -> None:
        """Check that nothing else reads what will not be computed."""
        for n in self.inside - {self.product}:
            if n in self.finder.outputs or not self.inside.issuperset(self.finder.readers[n]):
                raise Lost

    # -- putting together ---------------------------------------------------------------------

    def settled(self, n: Node, axes: Axes, last: set[Letter], scale: bool) -> tuple[Node, Axes]:
        """The deepest node that an operand may be read from: its neighbours in memory are
        neighbours along one of the letters `last` (any, if there are none). Constant factors on
        the way go into the scale, if they may."""
        best, factors, start, flat = None, 1.0, (n, axes), self.letters.flat
        while True:
            order = flat([a for x in axes for a in x])
            if not last or (order and order[-1] in last):
                best, self.scale, factors = (n, axes), self.scale * factors, 1.0
            factor = scaled(n) if scale else None
            if factor is not None:
                n, factors = factor[0], factors * factor[1]
                continue
            below = self.unsplit(n, axes)
            if below is None:
                break
            n, axes = below
        return self.copied(*start, last) if best is None else best

    def copied(self, n: Node, axes: Axes, last: set[Letter]) -> tuple[Node, Axes]:
        """An operand with one of some letters moved to the end."""
        at = next((i for i, x in enumerate(axes) if set(self.letters.flat(x)) & last), None)
        if at is None or len(self.letters.flat(axes[at])) != 1:
            raise Lost
        order = (*without(range(len(axes)), (at,)), at)
        return Transpose(order).node(n), tuple(axes[d] for d in order)

    def unsplit(self, n: Node, axes: Axes) -> tuple[Node, Axes] | None:
        """As `Letters.below`, but None if a letter that the loops walk would be split."""
        sizes, parts = len(self.letters.sizes), dict(self.letters.parts)
        try:
            below = self.letters.below(n, axes)
        except Lost:
            below = None
        if below is None or any(a in self.letters.parts for a in self.walked):
            del self.letters.sizes[sizes:]
            self.letters.parts = parts
            return None
        return below

    def assembled(
        self, operands: Sequence[tuple[Node, Axes]], out: Axes, keys: set[Letter], inner: Axes
    ) -> _Match:
        (q, q_axes), (k, k_axes), (v, v_axes) = operands
        s, d = self.single(keys), self.single(self.set_of(inner))
        heard = self.set_of(q_axes) | self.set_of(k_axes)
        e = self.single(self.set_of(out) - heard)
        rows = self.set_of(q_axes) - self.set_of(k_axes) - self.set_of(v_axes)
        self.walked = {s, d, e, *rows}
        root, out = self.result(out, e)
        args = [
            self.settled(q, q_axes, {d, *rows}, True),
            self.settled(k, k_axes, {d, s}, True),
            self.settled(v, v_axes, {e}, False),
        ]
        steps = [self.step(*step, s) for step in self.steps[::-1]]
        if len({root.type.dtype, *(n.type.dtype for n, _ in args)}) != 1:
            raise Lost
        counted = [x.row for x in steps if x.node is None]
        t = next(iter(counted), max(rows, key=lambda a: self.letters.sizes[a], default=None))
        if any(row != t for row in counted):
            raise Lost
        names = {s: "s", d: "d", e: "e"} | ({} if t is None else {t: "t"})
        return self.named(root, out, args, steps, names)

    def single(self, letters: set[Letter]) -> Letter:
        if len(letters) != 1:
            raise Lost
        return next(iter(letters))

    def result(self, out: Axes, e: Letter) -> tuple[Node, Axes]:
        """The node to stand for: the product, or what only moves it, if nothing else reads it."""
        n, best = self.product, None
        while True:
            flat = self.letters.flat([a for x in out for a in x])
            if flat[-1] == e:
                best = n, out
            readers = self.finder.readers[n]
            if n in self.finder.outputs or len(readers) != 1:
                break
            sizes, parts = len(self.letters.sizes), dict(self.letters.parts)
            try:
                above = self.letters.above(readers[0], out)
            except Lost:
                above = None
            if above is None or any(a in self.letters.parts for a in self.walked):
                del self.letters.sizes[sizes:]
                self.letters.parts = parts
                break
            n, out = readers[0], above
        if best is None:
            raise Lost
        return best

    def step(self, kind: str, n: Node, axes: Axes, fill: float, s: Letter) -> _Step:
        """A step, its array read from as deep as possible."""
        n, axes = self.settled(n, axes, set(), False)
        if kind == "bias":
            return _Step(n, axes, "bias", fill)
        while n.op == el.logical_not:
            kind = "mask" if kind == "hidden" else "hidden"
            n, axes = self.settled(n.args[0], axes, set(), False)
        found = self.causal(n, axes, s, kind == "hidden")
        if found is not None:
            return _Step(None, (), "causal", fill, *found)
        if kind == "hidden":
            n = el.logical_not.node(n)
        return _Step(n, axes, "mask", fill)

    def causal(
        self, n: Node, axes: Axes, s: Letter, hidden: bool
    ) -> tuple[int, Letter | None] | None:
        """(offset, letter of the queries) if `n` says that key <= query + offset."""
        order = {el.le: (0, 1, 0), el.lt: (0, 1, 1), el.ge: (1, 0, 0), el.gt: (1, 0, 1)}
        if n.op not in order:
            return None
        low, high, strict = order[n.op]
        if hidden:  # not (a <= b) is b < a
            low, high, strict = high, low, 1 - strict
        try:
            a, b = (self.linear(n.args[i], axes) for i in (low, high))
        except Lost:
            return None
        difference = {x: a.get(x, 0) - b.get(x, 0) for x in a.keys() | b.keys()}
        constant = difference.pop(None, 0.0)
        moving = {x: c for x, c in difference.items() if c}
        if moving.pop(s, 0) != 1 or constant != round(constant):
            return None
        if moving and (len(moving) > 1 or next(iter(moving.values())) != -1):
            return None
        return -int(constant) - strict, next(iter(moving), None)

    def linear(self, n: Node, axes: Axes) -> dict[Letter | None, float]:
        """Integers that are a sum of multiples of positions: a factor for each letter, and the
        constant under None."""
        value = number(n)
        if value is not None:
            return {None: value}
        op = n.op
        if isinstance(op, Iota):
            flat = self.letters.flat(axes[op.axis])
            if len(flat) > 1:
                raise Lost
            return dict.fromkeys(flat, 1.0)
        if isinstance(op, Cast):
            return self.linear(n.args[0], axes)
        if op in (el.add, el.subtract):
            a, b = (self.linear(x, axes) for x in n.args)
            sign = 1 if op == el.add else -1
            return {x: a.get(x, 0) + sign * b.get(x, 0) for x in a.keys() | b.keys()}
        below = self.unsplit(n, axes)
        if below is None:
            raise Lost
        return self.linear(*below)

    def named(
        self, root: Node, out: Axes, args: list[tuple[Node, Axes]], steps: list[_Step],
        names: dict[Letter, str],
    ) -> _Match:  # fmt: skip
        """The op, with a name for each letter."""
        flat = self.letters.flat
        arrays = [*args, *((x.node, x.axes) for x in steps if x.node is not None)]
        every = [a for _, axes in [(root, out), *arrays] for x in axes for a in flat(x)]
        spare = (chr(c) for c in range(ord("a"), 0x10000) if chr(c) not in "tsde")
        for a in dict.fromkeys(every):
            if a not in names:
                names[a] = next(spare)

        def layout(axes: Axes) -> tuple[str, ...]:
            return tuple("".join(names[a] for a in flat(x)) for x in axes)

        told: list[Mask | Bias | Causal] = []
        for x in steps:
            if x.kind == "causal":
                told.append(Causal(x.offset, x.fill))
            else:
                told.append(Bias(layout(x.axes)) if x.kind == "bias" else
                            Mask(layout(x.axes), x.fill))  # fmt: skip
        sizes = tuple((names[a], self.letters.sizes[a]) for a in sorted(names, key=every.index))
        query, key, value = (layout(axes) for _, axes in args)
        op = Attention(sizes, query, key, value, layout(out), self.scale, tuple(told))
        nodes = [n for n, _ in arrays]
        op.type(*(n.type for n in nodes))
        return _Match(root, op, nodes)
