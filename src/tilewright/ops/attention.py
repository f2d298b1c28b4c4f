"""Attention as one op: softmax(query key * scale, masked) value, and its gradient.

Knows what it means for arrays whose axes are named by letters, how it is differentiated and
batched, and the plain ops it stands for. Refuses to know how it is computed (`attention_loops.py`)
and how it is found in a program (`transforms/attention.py`).

Letters: `s` counts keys, `d` is summed over in the scores, `e` is the width of the values, `t`
counts queries (it may be missing: one query). All others make heads; an array that lacks one is
the same for all its positions (grouped queries: the keys lack the letter of the queries in a
group). An axis is named by the letters that make it, the last one fastest; "" is an axis of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import Buffer, Extent, product, static
from tilewright.graph import Graph, Op, Type, new_input
from tilewright.loops import Stmt
from tilewright.ops import attention_loops as loops
from tilewright.ops import elementwise as el
from tilewright.ops.attention_blocks import Blocks, Extents
from tilewright.ops.attention_tiles import Operand, Step
from tilewright.ops.base import sizes as numbers_of
from tilewright.ops.calculus import Wrap, build, pullback, pushforward, select_by, spread
from tilewright.ops.contract import Dot
from tilewright.ops.control import ANY, StopGradient, filled
from tilewright.ops.custom import Call
from tilewright.ops.reduce import ReduceMax
from tilewright.ops.samples import Example, numbers, of_kinds
from tilewright.ops.shape import Broadcast, Cast, Iota, ReduceSum, Reshape, Transpose, moved

Layout: TypeAlias = tuple[str, ...]
INNER = "tsde"


@dataclass(frozen=True)
class Mask:
    """Where a bool array is false, scores become `fill`."""

    layout: Layout
    fill: float


@dataclass(frozen=True)
class Bias:
    """An array is added to the scores."""

    layout: Layout


@dataclass(frozen=True)
class Causal:
    """Scores of keys more than `offset` places behind the query's own become `fill`."""

    offset: int
    fill: float


Steps: TypeAlias = "tuple[Mask | Bias | Causal, ...]"


@dataclass(frozen=True)
class Attention(Op):
    """softmax over s of (sum over d of query key, times `scale`, then `steps` in order), times
    value. Arguments: query, key, value, and the arrays of the steps that have one.

    Sums are kept in float32 for 16-bit floats. Keys that no query of a block may see are skipped,
    so what stands in their values, NaN included, does not reach the result. `blocks` says how it
    is cut; None: as usual.
    """

    sizes: tuple[tuple[str, Extent], ...]
    query: Layout
    key: Layout
    value: Layout
    out: Layout
    scale: float
    steps: Steps = ()
    blocks: Blocks | None = None
    fusion: ClassVar[str] = "opaque"

    # -- letters ------------------------------------------------------------------------------

    @property
    def extents(self) -> dict[str, Extent]:
        return {"t": 1, **dict(self.sizes)}

    @property
    def layouts(self) -> list[Layout]:
        """One for each argument."""
        rest = [s.layout for s in self.steps if not isinstance(s, Causal)]
        return [self.query, self.key, self.value, *rest]

    @property
    def heads(self) -> str:
        return "".join(a for a, _ in self.sizes if a not in INNER)

    @property
    def rows(self) -> str:
        """The letters of the scores but s."""
        return self.heads + ("t" if "t" in dict(self.sizes) else "")

    def shape_of(self, layout: Layout) -> tuple[Extent, ...]:
        sizes = self.extents
        return tuple(product(sizes[a] for a in axis) for axis in layout)

    # -- type and meaning ---------------------------------------------------------------------

    def type(self, *args: Type) -> Type:
        q = args[0]
        shapes = [self.shape_of(layout) for layout in self.layouts]
        fits = len(args) == len(shapes) and all(
            a.shape == s for a, s in zip(args, shapes, strict=True)
        )
        if not fits or len({a.dtype for a in args[:3]}) != 1 or not dtypes.is_float(q.dtype):
            raise InternalError(f"attention over {self.layouts} of {self.sizes} got {args}")
        return q.with_shape(self.shape_of(self.out))

    def numpy(self, *args: Any) -> Any:
        with np.errstate(all="ignore"):
            _, weights, _ = self._weights(*args)
            v = self._apart(args[2], self.value, weights.dtype)
            letters = self.rows + "e"
            out = np.einsum(f"{self.rows}s,{_flat(self.value)}->{letters}", weights, v)
            return self._joined(out, letters, self.out, args[0].dtype)

    def _weights(self, *args: Any) -> tuple[Any, Any, list[Any]]:
        """(scores, their softmax, where each mask lets through) over rows and s."""
        wide = dtypes.compute_type(args[0].dtype)
        q, k = (self._apart(a, x, wide) for a, x in zip(args, self.layouts[:2], strict=False))
        letters = self.rows + "s"
        used = set(_flat(self.query) + _flat(self.key))
        scores = np.einsum(
            f"{_flat(self.query)},{_flat(self.key)}->{''.join(a for a in letters if a in used)}",
            q, k,
        )  # fmt: skip
        shape = [static(self.extents[a]) for a in letters]
        scores = np.broadcast_to(
            scores.reshape([n if a in used else 1 for a, n in zip(letters, shape, strict=True)]),
            shape,
        ) * wide.type(self.scale)
        rest, masks = list(args[3:]), []
        for step in self.steps:
            if isinstance(step, Causal):
                t = np.arange(shape[-2] if "t" in self.rows else 1)[:, None]
                seen = np.arange(shape[-1]) <= t + step.offset
            else:
                x = rest.pop(0)
                parts = _flat(step.layout)
                x = x.reshape([static(self.extents[a]) for a in parts])
                x = x.transpose([parts.index(a) for a in letters if a in parts])
                x = x.reshape([n if a in parts else 1 for a, n in zip(letters, shape, strict=True)])
                if isinstance(step, Bias):
                    scores = scores + x.astype(wide)
                    continue
                seen = x
            masks.append(seen)
            scores = np.where(seen, scores, wide.type(step.fill))
        top = scores.max(-1, keepdims=True, initial=-np.inf)
        weights = np.exp(scores - top)
        return scores, weights / weights.sum(-1, keepdims=True), masks

    def _apart(self, x: Any, layout: Layout, dtype: Any) -> Any:
        return x.reshape([static(self.extents[a]) for a in _flat(layout)]).astype(dtype)

    def _joined(self, x: Any, letters: str, layout: Layout, dtype: Any) -> Any:
        moved = x.transpose([letters.index(a) for a in _flat(layout)])
        return np.ascontiguousarray(moved).reshape(numbers_of(self.shape_of(layout))).astype(dtype)

    # -- derivatives --------------------------------------------------------------------------

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        wrap = type(args[0]).wrap
        moving = tuple(t is not None for t in tangents)
        if not apart or any(moving[3:]):
            return self._forward_by_ops(tangents, args, apart)
        op = Tangent(self._tangent(args, moving, wrap), self, moving)
        return self(*args), op(*args, *select_by(moving, tangents))[0]

    def _forward_by_ops(
        self, tangents: Sequence[Any], args: Sequence[Any], apart: bool
    ) -> tuple[Any, Any]:
        wrap = type(args[0]).wrap
        graph = build(self.name, [a.node.type for a in args], wrap, lambda *xs: [self.plain(*xs)])
        outs, dots = pushforward(graph, wrap, args, tangents, apart)
        return outs[0], dots[0]

    def _tangent(self, args: Sequence[Any], moving: Sequence[bool], wrap: Wrap) -> Graph:
        """The graph of the tangent, on the arguments and the moving ones' tangents."""
        types = [a.node.type for a in args]
        own = build(self.name, types, wrap, lambda *xs: [self.plain(*xs)])

        def dot(*values: Any) -> list[Any]:
            tangents = spread(moving, values[len(types) :])
            _, dots = pushforward(own, wrap, values[: len(types)], tangents)
            return [filled(dots[0], own_like(values))]

        def own_like(values: Sequence[Any]) -> Any:
            return self(*values[: len(types)])

        return build(self.name, [*types, *select_by(moving, types)], wrap, dot)

    def plain(self, *args: Any) -> Any:
        """The same by other ops."""
        dtype = args[0].node.type.dtype
        wide = dtypes.compute_type(dtype)
        q, k, v = (self.spelled(x, a, wide) for x, a in zip(args[:3], self.layouts, strict=False))
        scores = self.dot(q, _flat(self.query), k, _flat(self.key), "d", self.rows + "s")
        scores = scores * scores.full_like(self.scale)
        rest = list(args[3:])
        for step in self.steps:
            if isinstance(step, Bias):
                bias = self.spelled(rest.pop(0), step.layout, wide)
                scores = scores + self.spread(bias, _flat(step.layout), self.rows + "s")
                continue
            seen = self.seen(step, rest, scores)
            scores = el.select(seen, scores, scores.full_like(step.fill))
        last = len(self.rows)
        whole = Broadcast(scores.shape, tuple(range(last)))
        weights = el.exp(scores - whole(StopGradient()(ReduceMax((last,))(scores))))
        weights = weights / whole(ReduceSum((last,))(weights))
        out = self.dot(weights, self.rows + "s", v, _flat(self.value), "s", _flat(self.out))
        out = Reshape(self.shape_of(self.out))(out)
        return out if wide == dtype else Cast(dtype)(out)

    def spelled(self, x: Any, layout: Layout, dtype: Any) -> Any:
        """An argument with an axis for each letter."""
        x = Reshape(tuple(self.extents[a] for a in _flat(layout)))(x)
        same = x.node.type.dtype == dtype or dtypes.is_bool(x.node.type.dtype)
        return x if same else Cast(dtype)(x)

    def seen(self, step: Mask | Causal, rest: list[Any], like: Any) -> Any:
        """The mask of a step over rows and s."""
        letters = self.rows + "s"
        if isinstance(step, Mask):
            mask = self.spelled(rest.pop(0), step.layout, dtypes.bool_)
            return self.spread(mask, _flat(step.layout), letters)
        of = Type(dtypes.int64, like.shape)
        wrap = type(like).wrap
        s, t = (wrap(Iota(of, letters.index(a)).node()) if a in letters
                else wrap(Iota(of, 0).node()).zeros_like() for a in "st")  # fmt: skip
        return el.le(s, t + t.full_like(step.offset))

    def spread(self, x: Any, letters: str, to: str) -> Any:
        """x[letters] over all of `to`."""
        kept = [a for a in to if a in letters]
        x = Transpose(tuple(letters.index(a) for a in kept))(x)
        shape = tuple(self.extents[a] for a in to)
        return Broadcast(shape, tuple(i for i, a in enumerate(to) if a in letters))(x)

    def dot(self, a: Any, left: str, b: Any, right: str, over: str, to: str) -> Any:
        """a[left] b[right] summed over a letter, as [to]."""
        both = [x for x in left if x in right and x != over]
        op = Dot(
            (left.index(over),), (right.index(over),),
            tuple(map(left.index, both)), tuple(map(right.index, both)),
        )  # fmt: skip
        found = "".join(both) + "".join(x for x in left if x not in [*both, over])
        found += "".join(x for x in right if x not in [*both, over])
        return self.spread(op(a, b), found, to)

    # -- batching and loops -------------------------------------------------------------------

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self.batched(size, batched)(*args)

    def batched(self, size: Extent, batched: Sequence[bool]) -> Attention:
        """The op with one letter more, in front of the arguments that have it and the result."""
        used = {a for a, _ in self.sizes} | set(INNER)
        new = next(chr(c) for c in range(ord("A"), 0x10000) if chr(c) not in used)
        fronts = [(new, *x) if b else x for x, b in zip(self.layouts, batched, strict=True)]
        rest = iter(fronts[3:])
        steps = tuple(
            s if isinstance(s, Causal) else replace(s, layout=next(rest)) for s in self.steps
        )
        return replace(
            self, sizes=((new, size), *self.sizes), query=fronts[0], key=fronts[1],
            value=fronts[2], out=(new, *self.out), steps=steps,
        )  # fmt: skip

    def cut(self, x: Type | Buffer, gradient: bool = False) -> Extents:
        """What cuts depend on, for queries like `x`."""
        t, s = (static(self.extents[a]) for a in "ts")
        summed = dtypes.compute_type(x.dtype).itemsize
        return Extents(t, s, x.dtype.itemsize, summed, gradient)

    def problem(self, args: Sequence[Buffer], blocks: Blocks) -> loops.Problem:
        """What the loops are told."""
        sizes = {a: static(n) for a, n in self.extents.items()}
        operands = [Operand(b, x, sizes) for b, x in zip(args, self.layouts, strict=True)]
        rest = iter(operands[3:])
        steps = []
        for s in self.steps:
            if isinstance(s, Causal):
                steps.append(Step("causal", None, s.fill, s.offset))
            elif isinstance(s, Bias):
                steps.append(Step("bias", next(rest)))
            else:
                steps.append(Step("mask", next(rest), s.fill))
        q, k, v = operands[:3]
        dtype = dtypes.compute_type(args[0].dtype)
        return loops.Problem(q, k, v, tuple(steps), self.scale, tuple(self.heads), dtype, blocks)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        p = self.problem(args, self.blocks or self.cut(args[0]).usual)
        return loops.attention(p, Operand(outs[0], self.out, p.query.sizes))

    @classmethod
    def examples(cls) -> list[Example]:
        found = [_example(d, "bhtsde", (1, 2, 9, 17, 3, 2)) for d in of_kinds("f")]
        f64 = dtypes.float64
        for letters, shape, smooth in (
            ("btsde", (0, 9, 3, 2, 2), False), ("btsde", (1, 0, 3, 2, 2), False),
            ("tsde", (1, 1, 1, 1), True), ("sde", (7, 3, 2), True), ("tsde", (11, 7, 2, 3), True),
        ):  # fmt: skip
            found.append(_example(f64, letters, shape, smooth=smooth))
        steps = (Causal(1, -math.inf), Mask(("t", "s"), -1e4), Bias(("s",)))
        for t, s in ((9, 13), (3, 5)):
            found.append(_example(f64, "brtsde", (2, 2, t, s, 2, 3), steps, smooth=True))
        spoilt = _example(f64, "tsde", (10, 5, 3, 2))
        spoilt.args[1][2, 1] = np.nan
        apart = _example(f64, "tsde", (10, 6, 4, 2))
        q, k, v = apart.args
        return [*found, spoilt, Example((q[::-1, ::-1], k[:, ::-1], v[::-1]), apart.op)]


def _example(
    dtype: Any, letters: str, shape: Sequence[int], steps: Steps = (), smooth: bool = False
) -> Example:
    """Queries of all heads; keys and values of all but those of the letter r."""
    sizes = dict(zip(letters, shape, strict=True))
    heads = tuple(a for a in letters if a not in INNER)
    kept = tuple(a for a in heads if a != "r")
    t = ("t",) if "t" in sizes else ()
    layouts = ((*heads, *t, "d"), (*kept, "s", "d"), (*kept, "s", "e"))
    op = Attention(tuple(sizes.items()), *layouts, (*t, *heads, "e"), 0.7, steps)
    shapes = [op.shape_of(layout) for layout in op.layouts]
    args = [numbers(dtype, numbers_of(s), i) for i, s in enumerate(shapes[:3])]
    for step, s in zip([s for s in steps if not isinstance(s, Causal)], shapes[3:], strict=True):
        of = dtypes.bool_ if isinstance(step, Mask) else dtype
        args.append(numbers(of, numbers_of(s), 7))
    return Example(tuple(args), op, smooth)


def _flat(layout: Layout) -> str:
    return "".join(layout)


# -- the derivative ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Tangent(Call):
    """The tangent of an attention, linear in those of its `moving` arguments, which follow the
    arguments. Reverse mode is one op."""

    attention: Attention
    moving: tuple[bool, ...]
    linear_in: ClassVar[tuple[int, ...]] = ANY

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        outs, dots = pushforward(self.body, type(args[0]).wrap, args, tangents, apart)
        return tuple(outs), tuple(dots)

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        count = len(self.attention.layouts)
        if any(i < count for i in linear):
            raise NotImplementedError
        op = AttentionGradient(self.attention)
        found = op(*args[:count], *ct)
        whole = [
            ReduceSum(tuple(range(len(m))))(f) if m else f
            for f, m in zip(found, op.missing, strict=True)
        ]
        return [*[None] * count, *select_by(self.moving[:3], whole)]

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        wrap = type(args[0]).wrap
        count = len(self.attention.layouts)
        own, dots = list(batched[:count]), spread(self.moving, batched[count:])
        both = [a or bool(b) for a, b in zip(own, dots, strict=True)]
        mask = [*both, *select_by(self.moving, both)]
        full = [a.broadcast_leading(size) if m and not b else a
                for a, b, m in zip(args, batched, mask, strict=True)]  # fmt: skip
        op = self.attention.batched(size, both)
        body = op._tangent(full[:count], self.moving, wrap)
        return Tangent(body, op, self.moving)(*full)


@dataclass(frozen=True)
class AttentionGradient(Op):
    """The cotangents of query, key and value. Arguments: those of the attention, and the cotangent
    of its result. Each result has, before the axes of its argument, the letters that this lacks
    (but those that only queries have, for keys and values): to be summed over. `blocks`, not those
    of the attention, say how it is cut; None: as usual."""

    attention: Attention
    blocks: Blocks | None = None
    fusion: ClassVar[str] = "opaque"

    @property
    def shared(self) -> str:
        """The letters of heads that keys or values have."""
        a = self.attention
        return "".join(x for x in a.heads if x in _flat(a.key) + _flat(a.value))

    @property
    def missing(self) -> list[str]:
        a = self.attention
        return [
            "".join(x for x in of if x not in _flat(layout))
            for of, layout in ((a.heads, a.query), (self.shared, a.key), (self.shared, a.value))
        ]

    @property
    def outs(self) -> list[Layout]:
        """The layouts of the results."""
        layouts = self.attention.layouts[:3]
        return [(*m, *x) for m, x in zip(self.missing, layouts, strict=True)]

    def type(self, *args: Type) -> tuple[Type, ...]:
        a = self.attention
        if a.type(*args[:-1]) != args[-1]:
            raise InternalError(f"{args[-1]!r} is no cotangent of {a}")
        return tuple(args[0].with_shape(a.shape_of(x)) for x in self.outs)

    def numpy(self, *args: Any) -> Any:
        a = self.attention
        with np.errstate(all="ignore"):
            _, p, masks = a._weights(*args[:-1])
            q, k, v, ct = (
                a._apart(x, layout, p.dtype)
                for x, layout in zip((*args[:3], args[-1]), (*a.layouts[:3], a.out), strict=True)
            )
            names = [_flat(x) for x in (a.query, a.key, a.value, a.out)]
            letters, kv = a.rows + "s", self.shared
            dp = np.einsum(f"{names[3]},{names[2]}->{letters}", ct, v)
            ds = p * (dp - (p * dp).sum(-1, keepdims=True))
            for seen in masks:
                ds = np.where(seen, ds, 0)
            ds = ds * p.dtype.type(a.scale)
            dq = np.einsum(f"{letters},{names[1]}->{a.rows}d", ds, k)
            dk = np.einsum(f"{letters},{names[0]}->{kv}sd", ds, q)
            dv = np.einsum(f"{letters},{names[3]}->{kv}se", p, ct)
            found = ((dq, a.rows + "d"), (dk, kv + "sd"), (dv, kv + "se"))
            return tuple(
                a._joined(x, named, layout, args[0].dtype)
                for (x, named), layout in zip(found, self.outs, strict=True)
            )

    def forward(self, tangents: Sequence[Any], *args: Any, apart: bool = False) -> tuple[Any, Any]:
        wrap = type(args[0]).wrap
        graph = build(self.name, [a.node.type for a in args], wrap, self.plain)
        outs, dots = pushforward(graph, wrap, args, tangents, apart)
        return tuple(outs), tuple(dots)

    def plain(self, *args: Any) -> list[Any]:
        """The same by other ops: the transpose of the attention's tangent, for arguments that have
        all letters of their cotangents."""
        a, wrap = self.attention, type(args[0]).wrap
        query, key, value = self.outs
        whole = replace(a, query=query, key=key, value=value)
        grown = [
            Broadcast(a.shape_of((*m, *x)), tuple(range(len(m), len(m) + len(x))))(arg)
            if m
            else arg
            for arg, m, x in zip(args, self.missing, a.layouts, strict=False)
        ]
        full = [*grown, *args[3:-1]]
        fresh = [new_input("d", x.node.type) for x in grown]
        graph = build(a.name, [x.node.type for x in full], wrap, lambda *xs: [whole.plain(*xs)])
        tangents = [*map(wrap, fresh), *[None] * len(args[3:-1])]
        _, dots = pushforward(graph, wrap, full, tangents, apart=True)
        cts = pullback([dots[0].node], args[-1:], fresh, wrap)
        return [filled(c, x) for c, x in zip(cts, grown, strict=True)]

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        # With keys for each member, each has a cotangent of its own.
        mask = [b or i in (1, len(args) - 1) for i, b in enumerate(batched)]
        full = [a.broadcast_leading(size) if m and not b else a
                for a, b, m in zip(args, batched, mask, strict=True)]  # fmt: skip
        op = AttentionGradient(self.attention.batched(size, mask[:-1]), self.blocks)
        new = op.attention.sizes[0][0]
        return tuple(
            moved(x, layout.index(new), 0) for x, layout in zip(op(*full), op.outs, strict=True)
        )

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        a = self.attention
        p = a.problem(args[:-1], self.blocks or a.cut(args[0], gradient=True).usual)
        sizes = p.query.sizes
        ct = Operand(args[-1], a.out, sizes)
        to = [Operand(b, x, sizes) for b, x in zip(outs, self.outs, strict=True)]
        rows = [x for x in a.heads if x not in self.shared]
        return loops.gradient(p, ct, to, self.shared, rows)

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for e in Attention.examples():
            assert isinstance(e.op, Attention)
            ct = np.asarray(e.op.numpy(*e.args))
            given = numbers(ct.dtype, ct.shape, 9)
            found.append(Example((*e.args, given), cls(e.op), e.smooth))
        return found
