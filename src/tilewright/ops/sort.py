"""Sorting along an axis, with companions that are moved the same way.

Knows the order (NaN after every number) and a stable merge sort. Refuses to know what the sorted
values are for: argsort is sorting positions along, the k largest are a slice of a descending sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.errors import DTypeMismatch, InternalError
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Extent,
    apply,
    as_index,
    axis,
    index,
    load,
    select,
    static,
    var,
)
from tilewright.graph import Op, Type
from tilewright.loops import Alloc, If, Let, Stmt, While, block, loop, store
from tilewright.ops import elementwise as el
from tilewright.ops.indexing import positions, take_along
from tilewright.ops.nests import Cell, is_nan, nested
from tilewright.ops.samples import AWKWARD_AXES, Example, numbers, of_kinds, samples
from tilewright.ops.shape import Slice

RUN: Final = 16
"""Rows are first sorted in runs of this length by insertion, then merged pairwise."""


@dataclass(frozen=True)
class Sort(Op):
    """Sort along `axis` by the first argument; further ones of its shape move along.

    Stable. Ascending with NaN last (NumPy's order), or the reverse of it if `descending`. The
    result is a tuple with one array per argument.
    """

    axis: int
    descending: bool = False
    fusion: ClassVar[str] = "opaque"

    def type(self, *args: Type) -> tuple[Type, ...]:
        if dtypes.is_complex(args[0].dtype):
            raise DTypeMismatch(
                f"{args[0]!r} cannot be a key to sort by: complex numbers have no order",
                "Use np.sort or np.argsort, which compare real parts, then imaginary ones.",
            )
        if any(a.shape != args[0].shape for a in args):
            raise InternalError(f"cannot sort {args} along axis {self.axis}")
        return args

    def numpy(self, *args: Any) -> tuple[Any, ...]:
        key = args[0].astype(dtypes.compute_type(args[0].dtype))  # bfloat16 has no NaN order
        if self.descending:
            # The reverse of an ascending stable sort of the reversed line is stable.
            order = np.argsort(np.flip(key, self.axis), axis=self.axis, kind="stable")
            order = key.shape[self.axis] - 1 - np.flip(order, self.axis)
        else:
            order = np.argsort(key, axis=self.axis, kind="stable")
        return tuple(np.take_along_axis(a, order, self.axis) for a in args)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """The tangents, moved as the sort moves the elements."""
        order = self(args[0], positions(args[0], args[0].shape, self.axis))[1]
        return tuple(None if t is None else take_along(t, order, self.axis) for t in tangents)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        full = (a if b else a.broadcast_leading(size) for a, b in zip(args, batched, strict=True))
        return replace(self, axis=self.axis + 1)(*full)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        others = {d: axis("i", n) for d, n in enumerate(args[0].shape) if d != self.axis}

        def at(position: Expr) -> tuple[Expr, ...]:
            return tuple(others.get(d, position) for d in range(len(args[0].shape)))

        n = static(args[0].shape[self.axis])
        row = Row(n, args[0], len(args) > 1, self.descending)
        start = axis("j", n)
        fill = loop(start, *row.put(start, args[0][at(start)], start))
        end = axis("j", n)
        source = row.moved_from(end)
        copies = [store(outs[0], at(end), row.key(end))]
        copies += [
            store(out, at(end), x[at(source)]) for out, x in zip(outs[1:], args[1:], strict=True)
        ]
        sort_rows = nested(tuple(others.values()), block(fill, row.sort(), loop(end, *copies)))
        return block(*row.memory, sort_rows)

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for d in of_kinds("biuf"):
            x = samples(d, (3, 41))
            at = np.broadcast_to(np.arange(41), x.shape)
            found += [Example((x,), cls(1)), Example((x, at), cls(1, True))]
        f64 = dtypes.float64
        for shape, along in AWKWARD_AXES:
            x, y = numbers(f64, shape), numbers(f64, shape, 1)
            found += [Example((x,), cls(along), True), Example((x, y), cls(along, True), True)]
        x, y = numbers(f64, (10, 6)), numbers(f64, (10, 3), 1)
        found.append(Example((x.T[::2, ::-1], y.T), cls(1), True))
        ties = np.array([2, 1, 2, 0, 1, 0], np.int32)
        at = np.arange(6)
        return [*found, Example((ties, at), cls(0)), Example((ties, at), cls(0, True))]


def top_k(x: Any, k: int) -> tuple[Any, Any]:
    """The k largest elements along the last axis, largest first, and their int64 positions.

    Among equals the earlier comes first; NaN counts as largest, as in `lax.top_k`.
    """
    last = len(x.shape) - 1
    sorted_, order = Sort(last, True)(x, positions(x, x.shape, last))
    starts, steps = (0,) * (last + 1), (1,) * (last + 1)
    first = Slice(starts, (*x.shape[:last], k), steps)
    return first(sorted_), first(order)


class Row:
    """The memory of one row while it is sorted, and the loops that sort it.

    Keys (and, if companions will follow, the position each came from) lie in buffers of twice the
    row's length, whose halves are source and destination of a merge in turn.
    """

    def __init__(self, n: int, like: Buffer, with_order: bool, descending: bool) -> None:
        self.n, self.descending = n, descending
        self.keys = Buffer("keys", like.dtype, (2 * n,))
        self.order = Buffer("order", dtypes.int64, (2 * n,)) if with_order else None
        memory = [b for b in (self.keys, self.order) if b is not None]
        self.memory: list[Stmt] = [Alloc(b) for b in memory]
        self.merges = max(0, (-(-n // RUN) - 1).bit_length())

    def put(self, at: Expr, key: Expr, came_from: Expr) -> list[Stmt]:
        """Write one element."""
        written: list[Stmt] = [store(self.keys, (at,), key)]
        if self.order is not None:
            written.append(store(self.order, (at,), index("+", came_from, as_index(0))))
        return written

    def key(self, position: Expr) -> Expr:
        """The sorted key at `position`."""
        return self.keys[self._result(position)]

    def moved_from(self, position: Expr) -> Expr:
        """Where the element that is now at `position` was."""
        return position if self.order is None else self.order[self._result(position)]

    def _result(self, position: Expr) -> Expr:
        return index("+", position, as_index(self.n if self.merges % 2 else 0))

    def before(self, a: Expr, b: Expr) -> Expr:
        """Whether key a must stand before key b."""
        if self.descending:
            a, b = b, a
        less = apply(el.lt.row.scalar, a, b, dtype=dtypes.bool_)
        if dtypes.is_float(a.type):
            less = less | (is_nan(b) & ~is_nan(a))
        return less

    def sort(self) -> Stmt:
        """Insertion sort of runs, then merges of neighbouring runs until there is one."""
        if self.merges == 0:
            return self._insertion()
        level = axis("level", self.merges)
        return block(self._insertion(), loop(level, self._merge(level)))

    def _insertion(self) -> Stmt:
        i = axis("i", self.n)
        low, key, origin = (
            var("low", dtypes.int64),
            var("key", self.keys.dtype),
            var("from", dtypes.int64),
        )
        j = Cell("j")
        prior = index("+", j.value, as_index(-1))
        inside = apply("lt", low, j.value)
        earlier = load(self.keys, (prior,), inside)
        came_from = Let(origin, self.order[i]) if self.order is not None else None
        shift = self.put(j.value, self.keys[prior], self.order[prior] if self.order else prior)
        return loop(
            i,
            Let(low, index("*", index("//", i, as_index(RUN)), as_index(RUN))),
            Let(key, self.keys[i]),
            *([came_from] if came_from is not None else []),
            j.memory,
            j.set(i),
            While(inside & self.before(key, earlier), block(*shift, j.set(prior))),
            *self.put(j.value, key, origin),
        )

    def _merge(self, level: Axis) -> Stmt:
        """One pass over the row that merges runs of length RUN << level pairwise."""
        n = as_index(self.n)
        width, source = var("width", dtypes.int64), var("source", dtypes.int64)
        left, right, left_end, right_end = (
            Cell("left"),
            Cell("right"),
            Cell("left_end"),
            Cell("end"),
        )
        cells = (left, right, left_end, right_end)
        k = axis("k", self.n)
        middle = index("min", index("+", k, width), n)
        pair = index("*", width, as_index(2))
        fresh = apply("eq", index("%", k, pair), as_index(0))
        begin = If(
            fresh,
            block(
                left.set(k), left_end.set(middle), right.set(middle),
                right_end.set(index("min", index("+", k, pair), n)),
            ),
            block(),
        )  # fmt: skip
        has_left = apply("lt", left.value, left_end.value)
        has_right = apply("lt", right.value, right_end.value)
        left_at, right_at = (index("+", source, c.value) for c in (left, right))
        a, b = load(self.keys, (left_at,), has_left), load(self.keys, (right_at,), has_right)
        take, at, key = var("take_right", dtypes.bool_), var("at", dtypes.int64), var("key", a.type)
        choose = has_right & (~has_left | self.before(b, a))
        to = index("+", k, index("+", n, index("*", source, as_index(-1))))
        origin = self.order[at] if self.order is not None else at
        return block(
            Let(width, apply("shl", as_index(RUN), level)),
            Let(source, index("*", index("%", level, as_index(2)), n)),
            *(c.memory for c in cells),
            loop(
                k,
                begin,
                Let(take, choose),
                Let(at, select(take, right_at, left_at)),
                Let(key, select(take, b, a)),
                *self.put(to, key, origin),
                right.set(select(take, index("+", right.value, as_index(1)), right.value)),
                left.set(select(take, left.value, index("+", left.value, as_index(1)))),
            ),
        )
