"""Control flow on traced values, with JAX's signatures: cond, switch, while_loop, fori_loop, scan,
map, associative_scan.

Knows how a user's branches and bodies become closed sub-graphs, and checks that what they return
fits. Refuses to know how the loops run, differentiate and batch (`ops/control.py`).

Operands and carries are trees. Python numbers in a carry adopt the dtype the body gives back, as
they do everywhere in NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright import dtypes, trees
from tilewright.errors import (
    BranchMismatch,
    CarryMismatch,
    DTypeMismatch,
    ShapeMismatch,
    TreeMismatch,
)
from tilewright.expr import Extent
from tilewright.graph import Graph, Type, new_input
from tilewright.ops import control as ops
from tilewright.ops import elementwise as el
from tilewright.ops.calculus import replay
from tilewright.ops.shape import Concatenate, Flip, Reshape, Slice
from tilewright.staging import Staged, close, concretely, is_array, name_of, number_type
from tilewright.tracing import Array, asarray

Function = Callable[..., Any]


# -- branches ---------------------------------------------------------------------------------


def cond(pred: Any, true_fun: Function, false_fun: Function, *operands: Any, **named: Any) -> Any:
    """`true_fun(*operands)` if the scalar `pred` holds, else `false_fun(*operands)`.

    Only the chosen branch runs (both, where `vmap` maps `pred`). The results must have the same
    tree, shapes and dtypes, else BranchMismatch. `operand=x` stands for one operand.
    """
    if named.keys() - {"operand"} or (named and operands):
        raise TypeError(f"cond takes operands, or operand=; got {sorted(named)} too")
    operands = (named["operand"],) if named else operands

    def traced(pred: Any, operands: tuple[Any, ...]) -> Any:
        return _switch(_truth(pred, "cond").astype(dtypes.int32), (false_fun, true_fun), operands)

    return concretely(traced, pred, operands)


def switch(index: Any, branches: Sequence[Function], *operands: Any) -> Any:
    """`branches[index](*operands)`; an index out of range is clamped into it.

    Results as for `cond`.
    """
    if not branches:
        raise ValueError("switch needs at least one branch")

    def traced(index: Any, operands: tuple[Any, ...]) -> Any:
        at = asarray(index)
        if at.shape or not dtypes.is_integer(at.dtype):
            raise ShapeMismatch(
                f"the index of switch must be an integer scalar, got {at.type!r}",
                way_out="Use cond for a bool, or reduce the index to a scalar.",
            )
        last = at.full_like(len(branches) - 1)
        clamped = el.minimum(el.maximum(at, at.zeros_like()), last)
        return _switch(clamped.astype(dtypes.int32), tuple(branches), operands)

    return concretely(traced, index, operands)


def _truth(pred: Any, what: str) -> Array:
    """A bool scalar; numbers are true where they are not zero."""
    p = asarray(pred)
    if p.shape:
        raise ShapeMismatch(
            f"the condition of {what} must be a scalar, got {p.type!r}",
            way_out="Reduce it with .any() or .all(), or choose elementwise with np.where.",
        )
    return p if p.dtype == dtypes.bool_ else el.ne(p, p.zeros_like())


def _switch(index: Array, branches: Sequence[Function], operands: tuple[Any, ...]) -> Any:
    leaves, tree = trees.flatten(operands)
    places = [i for i, x in enumerate(leaves) if is_array(x)]
    values = [asarray(leaves[i]) for i in places]
    made: list[tuple[Staged, list[Array]]] = []
    for f in branches:
        body = _Body(f, leaves, places, tree)
        made.append(close(body, [v.type for v in values], [number_type(v) for v in values]))
    graphs = _same_results(branches, [s for s, _ in made])
    captured = list(dict.fromkeys(v.node for _, vs in made for v in vs))
    closed = []
    for g, (_, vs) in zip(graphs, made, strict=True):
        own = dict(zip((v.node for v in vs), g.inputs, strict=False))
        first = [own[n] if n in own else new_input("unused", n.type) for n in captured]
        closed.append(Graph(g.name, (*first, *g.inputs[len(vs) :]), g.outputs))
    if not graphs[0].outputs:
        return made[0][0].rebuild([])
    outs = ops.Switch(tuple(closed))(index, *(Array.wrap(n) for n in captured), *values)
    return made[0][0].rebuild(outs)


@dataclass
class _Body:
    """A user's function on flat arrays: the leaves at `places`, all others being constants."""

    function: Function
    leaves: Sequence[Any]
    places: Sequence[int]
    tree: Any

    @property
    def __name__(self) -> str:
        return name_of(self.function)

    def __call__(self, *inner: Array) -> Any:
        full = list(self.leaves)
        for i, x in zip(self.places, inner, strict=True):
            full[i] = x
        return self.function(*trees.unflatten(self.tree, full))


def _same_results(branches: Sequence[Function], made: Sequence[Staged]) -> list[Graph]:
    """The branches' graphs, Python numbers among their results adopting the others' dtypes."""
    first = made[0]
    for f, s in zip(branches, made, strict=True):
        if s.tree != first.tree:
            raise TreeMismatch(
                str(first.tree), str(s.tree),
                f"the results of the branches {name_of(branches[0])} and {name_of(f)}",
            )  # fmt: skip
    rows = [list(s.graph.outputs) for s in made]
    names = trees.paths(first.rebuild(range(len(rows[0]))))
    for k, label in enumerate(names):
        strong = [r[k].type for r, s in zip(rows, made, strict=True) if not s.weak[k]]
        to = strong[0] if strong else rows[0][k].type
        for f, r, s in zip(branches, rows, made, strict=True):
            if s.weak[k] and r[k].type.shape == to.shape:
                r[k] = Array.wrap(r[k]).astype(to.dtype).node
            if r[k].type != to:
                raise BranchMismatch(label, name_of(branches[0]), to, name_of(f), r[k].type)
    return [Graph(s.graph.name, s.graph.inputs, tuple(r)) for s, r in zip(made, rows, strict=True)]


# -- loops ------------------------------------------------------------------------------------


def while_loop(cond_fun: Function, body_fun: Function, init_val: Any) -> Any:
    """`val = body_fun(val)` as long as `cond_fun(val)`, a scalar, holds.

    The body must return the tree, shapes and dtypes of `init_val`, else CarryMismatch. Forward
    mode and vmap go through; reverse mode raises NoReverseMode, since the number of steps is not
    known before the loop runs.
    """

    def traced(init: Any) -> Any:
        carry = _Carry.of("while_loop", init)
        body, body_consts = carry.close(_named(lambda val: (body_fun(val), []), body_fun))
        test, cond_consts = close(
            _named(lambda *v: _truth(cond_fun(carry.rebuild(v)), "while_loop"), cond_fun),
            carry.types,
        )
        if not carry.types:
            raise ValueError("while_loop needs something to carry")
        loop = ops.While(test.graph, body.graph, len(cond_consts), len(body_consts))
        return carry.rebuild(loop(*cond_consts, *body_consts, *carry.values))

    return concretely(traced, init_val)


def fori_loop(
    lower: Any, upper: Any, body_fun: Function, init_val: Any, *, unroll: int | bool = 1
) -> Any:
    """`for i in range(lower, upper): val = body_fun(i, val)`.

    With Python numbers as bounds the loop is a `scan`, and reverse mode goes through; with a traced
    bound it is a `while_loop`. Bounds are integers, else DTypeMismatch. The body must return the
    tree, shapes and dtypes of `init_val`.
    """
    if isinstance(lower, (int, np.integer)) and isinstance(upper, (int, np.integer)):

        def step(carry: Any, _: None) -> tuple[Any, None]:
            i, val = carry
            return (i + 1, body_fun(_counter(i), val)), None

        start = (np.asarray(int(lower)), init_val)
        count = max(0, int(upper) - int(lower))
        return scan(_named(step, body_fun), start, None, count, unroll=unroll)[0][1]

    def traced(lower: Any, upper: Any, init: Any) -> Any:
        dtype = np.result_type(
            *(b if isinstance(b, int) else asarray(b).dtype for b in (lower, upper))
        )
        if not np.issubdtype(dtype, np.integer):
            raise DTypeMismatch(
                f"the bounds of fori_loop must be integers, got {lower!r} and {upper!r}",
                "Convert them: int(n), or n.astype(int) if n is traced.",
            )
        last = asarray(upper).astype(dtype)
        start = (asarray(lower).astype(dtype), init)
        return while_loop(
            lambda c: el.lt(c[0], last),
            _named(lambda c: (c[0] + 1, body_fun(_counter(c[0]), c[1])), body_fun),
            start,
        )[1]

    return concretely(traced, lower, upper, init_val)


def _counter(i: Array) -> Array:
    """What a loop counts: like the Python int of a `for`, it adopts the dtypes it meets."""
    return Array(i.node, python=int)


def scan(
    f: Function,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """`carry, y = f(carry, x)` for every x along the leading axis of the leaves of `xs`.

    Returns the last carry and the ys stacked in the order of the xs, from the end if `reverse`.
    `length` is needed if there are no xs. `unroll` steps are put into one turn of the loop (all of
    them if True). The carry must keep its tree, shapes and dtypes, else CarryMismatch. Every
    derivative goes through.
    """

    def traced(init: Any, xs: Any) -> Any:
        x_leaves, x_tree = trees.flatten(xs)
        x_values = [asarray(x) for x in x_leaves]
        count = _length(x_values, length)
        carry = _Carry.of("scan", init)
        slices = [v.type.with_shape(v.shape[1:]) for v in x_values]
        ys_tree: list[Any] = []

        def body(val: Any, *x: Array) -> tuple[Any, list[Any]]:
            out = f(val, trees.unflatten(x_tree, x))
            if not isinstance(out, (tuple, list)) or len(out) != 2:
                raise TreeMismatch(
                    "(carry, y)", type(out).__name__,
                    "what a scan body should return and what it did",
                    "Return a pair: the next carry, and the y to stack or None.",
                )  # fmt: skip
            leaves, tree = trees.flatten(out[1])
            ys_tree[:] = [tree]
            return out[0], leaves

        whole, consts = carry.close(_named(body, f), slices)
        step = _Step(whole.graph, len(consts), len(carry.types))
        turns = _turns(unroll, count)
        outs = step.run(consts, carry.values, x_values, count, reverse, turns)
        at = len(carry.types)
        return carry.rebuild(outs[:at]), trees.unflatten(ys_tree[0], outs[at:])

    return concretely(_named(traced, f), init, xs)


def _length(xs: Sequence[Array], given: int | None) -> Extent:
    if any(not x.shape for x in xs):
        raise ShapeMismatch(
            "scan needs a leading axis on every leaf of xs",
            *(x.shape for x in xs),
            way_out="Close over what is the same in every step instead of passing it in xs.",
        )
    found = list(dict.fromkeys([*(x.shape[0] for x in xs), *([] if given is None else [given])]))
    if len(found) != 1:
        raise ShapeMismatch(
            f"scan needs one length, found {found or 'none'}",
            *(x.shape for x in xs),
            way_out="Leaves of xs must have equal leading extents; without xs, pass length=.",
        )
    return found[0]


def _turns(unroll: int | bool, count: Extent) -> int:
    """Steps in one turn of the loop."""
    if unroll is True and isinstance(count, int):
        return max(count, 1)
    if int(unroll) < 1:
        raise ValueError(f"unroll must be positive, got {unroll}")
    return int(unroll)


@dataclass(frozen=True)
class _Step:
    """A closed scan body, its inputs (consts, carry, x)."""

    graph: Graph
    consts: int
    carry: int

    def run(
        self,
        consts: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Array],
        count: Extent,
        reverse: bool,
        turns: int,
    ) -> list[Array]:
        """The last carry and the stacked ys."""
        if turns == 1 or not isinstance(count, int):
            return self.loop(consts, carry, xs, count, reverse)
        rest = count % turns
        early, late = (0, rest) if reverse else (count - rest, count)
        middle = (rest, count) if reverse else (0, count - rest)
        state, main = list(carry), []
        if count >= turns:
            chunks = [
                Reshape(((count - rest) // turns, turns, *x.shape[1:]))(_rows(x, *middle))
                for x in xs
            ]
            outs = self.unrolled(turns, reverse).loop(
                consts, state, chunks, (count - rest) // turns, reverse
            )
            state = outs[: self.carry]
            main = [Reshape((count - rest, *y.shape[2:]))(y) for y in outs[self.carry :]]
        if not rest:
            return [*state, *main]
        outs = self.loop(consts, state, [_rows(x, early, late) for x in xs], rest, reverse)
        tail = outs[self.carry :]
        parts = (
            [(t, m) if reverse else (m, t) for m, t in zip(main, tail, strict=True)] if main else []
        )
        return [*outs[: self.carry], *([Concatenate(0)(*p) for p in parts] if main else tail)]

    def loop(
        self,
        consts: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Array],
        count: Extent,
        reverse: bool,
    ) -> list[Array]:
        if not self.graph.outputs:
            return []
        op = ops.Scan(self.graph, self.consts, self.carry, count, reverse)
        operands = [*consts, *carry, *xs]
        return list(op(*operands) if operands else Array.wrap(op.node()))

    def unrolled(self, turns: int, reverse: bool) -> _Step:
        """`turns` steps as one, on xs with an extra leading axis."""
        inputs = self.graph.inputs
        first = list(inputs[: self.consts])
        state = [Array.wrap(n) for n in inputs[self.consts : self.consts + self.carry]]
        blocks = [
            new_input("x", n.type.with_shape((turns, *n.type.shape)))
            for n in inputs[self.consts + self.carry :]
        ]
        rows: dict[int, list[Array]] = {}
        for i in reversed(range(turns)) if reverse else range(turns):
            here = [Reshape(b.type.shape[1:])(_rows(Array.wrap(b), i, i + 1)) for b in blocks]
            args = [*(Array.wrap(n) for n in first), *state, *here]
            outs = replay(self.graph, Array.wrap, args)
            state, rows[i] = outs[: self.carry], outs[self.carry :]
        ys = [
            Concatenate(0)(*(Reshape((1, *y.shape))(y) for y in column))
            for column in zip(*(rows[i] for i in range(turns)), strict=True)
        ]
        start = inputs[self.consts : self.consts + self.carry]
        outputs = tuple(v.node for v in (*state, *ys))
        graph = Graph(self.graph.name, (*first, *start, *blocks), outputs)
        return _Step(graph, self.consts, self.carry)


def _rows(x: Array, start: int, stop: int) -> Array:
    """`x[start:stop]`"""
    n = x.ndim
    return Slice((start, *(0,) * (n - 1)), (stop, *x.shape[1:]), (1,) * n)(x)


def map(f: Function, xs: Any) -> Any:
    """`f` of every slice of `xs` along the leading axis, one after the other, stacked. `vmap` does
    them all at once and needs the memory for it."""
    return scan(_named(lambda _, x: (None, f(x)), f), None, xs)[1]


def _named(f: Function, like: Function) -> Function:
    f.__name__ = name_of(like)
    return f


# -- carries ----------------------------------------------------------------------------------


@dataclass
class _Carry:
    """The values that go round a loop: arrays, and Python numbers that have not met a dtype yet."""

    loop: str
    leaves: list[Any]
    tree: Any
    labels: list[str]
    types: list[Type]

    @classmethod
    def of(cls, loop: str, init: Any) -> _Carry:
        leaves, tree = trees.flatten(init)
        labels = ["carry" + path for path in trees.paths(init)]
        return cls(loop, leaves, tree, labels, [asarray(x).type for x in leaves])

    @property
    def values(self) -> list[Array]:
        return [asarray(x).astype(t.dtype) for x, t in zip(self.leaves, self.types, strict=True)]

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        return trees.unflatten(self.tree, list(leaves)[: len(self.leaves)])

    def close(
        self, step: Callable[..., tuple[Any, list[Any]]], slices: Sequence[Type] = ()
    ) -> tuple[Staged, list[Array]]:
        """Trace `step(carry, *slices)`, which gives (carry, other leaves), with the types of the
        carry as they settle: Python numbers adopt the dtype that the step gives them."""
        waiting = [number_type(x) for x in self.leaves]
        while True:
            flat = _named(functools.partial(self._flat, step), step)
            staged, captured = close(
                flat, [*self.types, *slices], [*waiting, *[None] * len(slices)]
            )
            found = staged.types[: len(self.types)]
            adopts = [
                w is not None and (not weak or t != u) and t.shape == u.shape
                for w, weak, t, u in zip(waiting, staged.weak, self.types, found, strict=False)
            ]
            if not any(adopts):
                break
            waiting = [None if a else w for w, a in zip(waiting, adopts, strict=True)]
            self.types = [u if a else t for a, t, u in zip(adopts, self.types, found, strict=True)]
        for label, before, after in zip(self.labels, self.types, found, strict=True):
            if before != after:
                raise CarryMismatch(self.loop, label, before, after)
        return staged, captured

    def _flat(self, step: Callable[..., tuple[Any, list[Any]]], *args: Array) -> list[Any]:
        k = len(self.leaves)
        new, rest = step(trees.unflatten(self.tree, args[:k]), *args[k:])
        leaves, tree = trees.flatten(new)
        if tree != self.tree:
            what = f"the carry that {self.loop} was given and what its body returned"
            raise TreeMismatch(str(self.tree), str(tree), what)
        return [*leaves, *rest]


# -- associative scan --------------------------------------------------------------------------


def associative_scan(fn: Function, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """Prefixes of `elems` along `axis` under an associative `fn(left, right)` of trees, which must
    work elementwise along it: O(log n) dependent steps, O(n) work.

    The algorithm combines neighbours, recurs on the pairs and fills in the even positions
    (Blelloch, Prefix sums and their applications, 1990).
    """

    def traced(elems: Any) -> Any:
        leaves, tree = trees.flatten(elems)
        arrays = [asarray(x) for x in leaves]
        axes = [axis % a.ndim for a in arrays]
        if len({a.shape[d] for a, d in zip(arrays, axes, strict=True)}) != 1:
            raise ShapeMismatch(
                f"associative_scan along axis {axis} needs equal extents",
                *(a.shape for a in arrays),
                way_out="All leaves must have the same extent along the axis.",
            )

        def combine(left: list[Array], right: list[Array]) -> list[Array]:
            out = fn(trees.unflatten(tree, left), trees.unflatten(tree, right))
            return [asarray(x) for x in trees.flatten(out)[0]]

        flip = [Flip((d,)) for d in axes]
        if reverse:
            arrays = [f(a) for f, a in zip(flip, arrays, strict=True)]
        found = _prefixes(combine, arrays, axes)
        if reverse:
            found = [f(a) for f, a in zip(flip, found, strict=True)]
        return trees.unflatten(tree, found)

    return concretely(_named(traced, fn), elems)


def _prefixes(
    combine: Callable[[list[Array], list[Array]], list[Array]],
    arrays: list[Array],
    axes: Sequence[int],
) -> list[Array]:
    n = arrays[0].shape[axes[0]]
    if not isinstance(n, int):
        raise ShapeMismatch("associative_scan needs a static extent", way_out="Use tw.scan.")

    def every(xs: list[Array], start: int, stop: int, step: int = 1) -> list[Array]:
        return [_along(x, d, start, stop, step) for x, d in zip(xs, axes, strict=True)]

    if n < 2:
        return arrays
    pairs = combine(every(arrays, 0, n - 1, 2), every(arrays, 1, n, 2))
    odd = _prefixes(combine, pairs, axes)
    half = n // 2
    later = combine(every(odd, 0, half - (n % 2 == 0)), every(arrays, 2, n, 2)) if n > 2 else []
    first = every(arrays, 0, 1)
    even = (
        [Concatenate(d)(a, b) for d, a, b in zip(axes, first, later, strict=True)]
        if later
        else first
    )
    return [_woven(e, o, d, n) for e, o, d in zip(even, odd, axes, strict=True)]


def _along(x: Array, axis: int, start: int, stop: int, step: int) -> Array:
    """`x[start:stop:step]` on one axis."""
    starts = tuple(start if d == axis else 0 for d in range(x.ndim))
    stops = tuple(stop if d == axis else n for d, n in enumerate(x.shape))
    steps = tuple(step if d == axis else 1 for d in range(x.ndim))
    return Slice(starts, stops, steps)(x)


def _woven(even: Array, odd: Array, axis: int, n: int) -> Array:
    """The `n` elements of `even` and `odd` in turn along `axis`."""
    pairs = n // 2
    head = _along(even, axis, 0, pairs, 1)
    shape = [*even.shape[:axis], pairs, 1, *even.shape[axis + 1 :]]
    both = Concatenate(axis + 1)(*(Reshape(tuple(shape))(x) for x in (head, odd)))
    flat = Reshape((*even.shape[:axis], 2 * pairs, *even.shape[axis + 1 :]))(both)
    return flat if n % 2 == 0 else Concatenate(axis)(flat, _along(even, axis, pairs, pairs + 1, 1))
