"""Reading and writing at computed positions: Gather and Scatter, DynamicSlice and its update.

Knows one index array (int64) per indexed axis, all of one shape, which covers NumPy's integer-array
indexing, `take`, `take_along_axis` and `.at[]`. Refuses to know negative indices: they were
normalised before. Positions outside an axis are clamped when reading and dropped when writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Extent,
    apply,
    as_index,
    axis,
    bitcast,
    index,
    is_index,
    literal,
    select,
    static,
    var,
)
from tilewright.graph import Op, Type, View
from tilewright.loops import Alloc, If, Let, Stmt, block, loop, store
from tilewright.ops import elementwise as el
from tilewright.ops.base import shifted, sizes
from tilewright.ops.elementwise import number
from tilewright.ops.nests import extreme, nested, plus, vectors
from tilewright.ops.samples import Example, numbers, of_kinds, samples
from tilewright.ops.shape import Broadcast, Iota, Reshape, moved
from tilewright.scalars import REDUCTIONS

Axes = tuple[int, ...]


def positions(like: Any, shape: Sequence[Extent], axis: int) -> Any:
    """The int64 position along `axis` of every place of an array of shape `shape`."""
    return type(like).wrap(Iota(Type(dtypes.int64, tuple(shape)), axis).node())


def take_along(x: Any, at: Any, axis: int) -> Any:
    """`np.take_along_axis`: x at positions `at` (int64, in range) of `axis`, other axes paired."""
    every = [at if d == axis else positions(x, at.shape, d) for d in range(len(x.shape))]
    return Gather(tuple(range(len(x.shape))))(x, *every)


def clamped(at: Any, n: Extent) -> Any:
    """Positions moved into range(n). `n` is the extent of an axis."""
    return el.maximum(el.minimum(at, at.full_like(n - 1)), at.zeros_like())


def wrapped(at: Any, n: Extent) -> Any:
    """Positions with negative ones counted from the end. `n` is the extent of an axis."""
    return el.select(el.lt(at, at.zeros_like()), at + at.full_like(n), at)


def in_range(x: Any, axes: Axes, indices: Sequence[Any]) -> Any:
    """Where all indices lie inside their axes of x (a bool array of the indices' shape)."""
    inside = None
    for d, at in zip(axes, indices, strict=True):
        here = el.bitwise_and(el.ge(at, at.zeros_like()), el.lt(at, at.full_like(x.shape[d])))
        inside = here if inside is None else el.bitwise_and(inside, here)
    return inside


def position(at: Expr, n: Extent) -> Expr:
    """A scalar read from an index array, as index arithmetic clamped to range(n)."""
    if isinstance(at, Apply) and at.op.name == "cast" and is_index(at.args[0]):
        (at,) = at.args  # a Position array: the axis itself
        if isinstance(at, Axis) and at.extent == n:
            return at
    return index("max", index("min", at, as_index(n) - 1), as_index(0))


# -- gather and scatter ------------------------------------------------------------------------


@dataclass(frozen=True)
class Gather(Op):
    """`x[i, j, ...]`: one int64 index array per axis of `axes` (increasing), all of one shape.

    Result axes: those of the index arrays, then x's other axes. Indices are clamped.
    """

    axes: Axes
    linear_in: ClassVar[Axes] = (0,)

    def type(self, x: Type, *indices: Type) -> Type:
        _check_indices(self, x, self.axes, indices)
        if any(x.shape[d] == 0 for d in self.axes) and 0 not in indices[0].shape:
            raise InternalError(
                f"{self.name} reads elements of {x!r} along {self.axes}: it has none"
            )
        return x.with_shape((*indices[0].shape, *x.without(self.axes).shape))

    def numpy(self, x: Any, *indices: Any) -> Any:
        inside = [
            np.clip(i, 0, max(x.shape[d] - 1, 0)) for d, i in zip(self.axes, indices, strict=True)
        ]
        front = np.moveaxis(x, self.axes, range(len(self.axes)))
        return front[tuple(inside)].copy()

    def transpose(self, ct: Any, linear: frozenset[int], x: Any, *indices: Any) -> Sequence[Any]:
        inside = [clamped(i, x.shape[d]) for d, i in zip(self.axes, indices, strict=True)]
        zeros = ct.full_like(0, x.shape)
        return (Scatter("add", self.axes)(zeros, *inside, ct), *(None for _ in indices))

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        x, *indices = args
        axes = shifted(self.axes) if batched[0] else self.axes
        if not any(batched[1:]):
            return moved(Gather(axes)(x, *indices), len(indices[0].shape), 0)
        indices = _all_batched(size, batched[1:], indices)
        if not batched[0]:
            return Gather(axes)(x, *indices)
        member = positions(x, indices[0].shape, 0)
        return Gather((0, *axes))(x, member, *indices)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        x, *indices = args
        split = len(indices[0].shape)
        at = {
            d: position(i[idx[:split]], x.shape[d]) for d, i in zip(self.axes, indices, strict=True)
        }
        rest = iter(idx[split:])
        return x[tuple(at[d] if d in at else next(rest) for d in range(len(x.shape)))]

    @classmethod
    def examples(cls) -> list[Example]:
        rows = np.array([[3, 0], [2, 2], [-4, 99]])
        found = [Example((samples(d, (4, 3)), rows), cls((0,))) for d in of_kinds("biufc")]
        f64 = dtypes.float64
        block, columns = numbers(f64, (4, 3, 5)), np.array([[4, 1], [0, 0], [9, -1]])
        nothing = np.zeros((0,), np.int64)
        found += [
            Example((block, rows, columns), cls((0, 2)), True),
            Example((block[::-1, :, ::2], rows.T[::-1], rows.T), cls((0, 1)), True),
            Example((block, np.array(2), np.array(1), np.array(-3)), cls((0, 1, 2)), True),
            Example((block, nothing), cls((1,)), True),
            Example((numbers(f64, (0, 3)), nothing, nothing), cls((0, 1)), True),
            Example((numbers(f64, (1, 0)), np.array([0, 0])), cls((0,)), True),
            Example((numbers(f64, (13,)), np.arange(13)[::-1]), cls((0,)), True),
        ]
        return found


LINE_BYTES: Final = 64
"""Bytes of elements that are written together."""

COPIES: Final = 4
"""Of a small array that many updates go to."""

SCATTERS: Final = ("set", "add", "mul", "min", "max")


@dataclass(frozen=True)
class Scatter(Op):
    """x with `kind` (set add mul min max) applied at index arrays, as `x.at[i, j].add(u)`.

    Arguments: x, one int64 index array per axis of `axes` (all of one shape), and the updates of
    shape (*index shape, *x's other axes). Positions are counted from the end where they are
    negative if they `wrap`, then moved to the nearest inside if they `clip`; updates whose position
    lies outside are dropped. The updates of one element are combined in an order that the shapes
    alone decide; with `set` the last one, in row-major order, stays.
    """

    kind: str
    axes: Axes
    wrap: bool = False
    clip: bool = False
    fusion: ClassVar[str] = "opaque"

    @property
    def linear_in(self) -> Axes:  # type: ignore[override]
        return {"set": (0, len(self.axes) + 1), "add": (0, len(self.axes) + 1)}.get(self.kind, ())

    def type(self, x: Type, *args: Type) -> Type:
        *indices, updates = args
        _check_indices(self, x, self.axes, indices)
        if updates != x.with_shape((*indices[0].shape, *x.without(self.axes).shape)):
            raise InternalError(f"{self.name}: updates {updates!r} do not fit {x!r} at {indices}")
        return x

    def numpy(self, x: Any, *args: Any) -> Any:
        *indices, updates = args
        indices = [self._read(i, x.shape[d]) for d, i in zip(self.axes, indices, strict=True)]
        out = np.moveaxis(x.copy(), self.axes, range(len(self.axes)))
        inside = np.ones(indices[0].shape, bool)
        for i, d in zip(indices, self.axes, strict=True):
            inside &= (i >= 0) & (i < x.shape[d])
        at = tuple(i[inside] for i in indices)
        combine = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
        with np.errstate(all="ignore"):
            if self.kind == "set":
                out[at] = updates[inside]
            else:
                combine[self.kind].at(out, at, updates[inside])
        return np.moveaxis(out, range(len(self.axes)), self.axes).copy()

    def _read(self, at: Any, n: int) -> Any:
        """Positions, an array of NumPy's, as they are read."""
        at = np.where(at < 0, at + n, at) if self.wrap else at
        return np.clip(at, 0, n - 1) if self.clip else at

    def _plain(self, args: Sequence[Any]) -> tuple[Scatter, list[Any]]:
        """The same with positions that are taken as they are."""
        x, *indices, updates = args
        extents = [x.shape[d] for d in self.axes]
        if self.wrap:
            indices = [wrapped(i, n) for i, n in zip(indices, extents, strict=True)]
        if self.clip:
            indices = [clamped(i, n) for i, n in zip(indices, extents, strict=True)]
        return replace(self, wrap=False, clip=False), [x, *indices, updates]

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        if self.wrap or self.clip:
            op, plain = self._plain(args)
            return op.jvp(tangents, out, *plain)
        x, *indices, updates = args
        tx, tu = (
            a.zeros_like() if t is None else t
            for a, t in ((x, tangents[0]), (updates, tangents[-1]))
        )
        if self.kind in ("set", "add"):
            return self(tx, *indices, tu)
        if self._nothing(x):
            return x.zeros_like()
        add = Scatter("add", self.axes)
        inside = [clamped(i, x.shape[d]) for d, i in zip(self.axes, indices, strict=True)]
        read = Gather(self.axes)
        if self.kind == "mul":
            others = read(x, *inside) * self._other_factors(x, indices, inside, updates)
            return add(self(tx, *indices, updates), *indices, tu * others)
        one, zero = updates.full_like(1), updates.zeros_like()
        kept = type(x).where(el.eq(x, out), x.full_like(1), x.zeros_like())
        taken = type(x).where(el.eq(updates, read(out, *inside)), one, zero)
        share = add(kept, *indices, taken)
        return add(kept * tx, *indices, taken * tu) / share

    def _nothing(self, x: Any) -> bool:
        """Whether every update is dropped because there is nowhere to write."""
        return any(x.shape[d] == 0 for d in self.axes)

    def _other_factors(self, x: Any, indices: Any, inside: Any, updates: Any) -> Any:
        """For every update the product of the other updates of its element."""
        is_zero = el.eq(updates, updates.zeros_like())
        safe = type(x).where(is_zero, updates.full_like(1), updates)
        marks = type(x).where(is_zero, updates.full_like(1), updates.zeros_like())
        read = Gather(self.axes)
        factors = read(self(x.full_like(1), *indices, safe), *inside) / safe
        zeros = read(Scatter("add", self.axes)(x.zeros_like(), *indices, marks), *inside) - marks
        return type(x).where(el.eq(zeros, zeros.zeros_like()), factors, factors.zeros_like())

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        if self.wrap or self.clip:
            op, plain = self._plain(args)
            return op.transpose(ct, linear, *plain)
        x, *indices, updates = args
        to_x = to_updates = None
        if 0 in linear:
            to_x = ct
            if self.kind == "set":
                to_x = self(ct, *indices, ct.full_like(0, updates.shape))
        if len(args) - 1 in linear and self._nothing(x):
            to_updates = ct.full_like(0, updates.shape)
        elif len(args) - 1 in linear:
            inside = [clamped(i, x.shape[d]) for d, i in zip(self.axes, indices, strict=True)]
            counts = in_range(x, self.axes, indices)
            if self.kind == "set":
                counts = el.bitwise_and(counts, self._stays(x, indices, inside))
            spread = Broadcast(updates.shape, tuple(range(len(counts.shape))))(counts)
            found = Gather(self.axes)(ct, *inside)
            to_updates = type(ct).where(spread, found, found.zeros_like())
        return (to_x, *(None for _ in indices), to_updates)

    def _stays(self, x: Any, indices: Any, inside: Any) -> Any:
        """Which updates of `set` are not overwritten by a later one."""
        shape, extents = indices[0].shape, tuple(x.shape[d] for d in self.axes)
        size = indices[0].type.size
        ticket = Reshape(shape)(positions(x, (size,), 0))
        board = x.full_like(0, extents, dtypes.int64)
        everywhere = tuple(range(len(extents)))
        board = Scatter("set", everywhere)(board, *indices, ticket)
        return el.eq(Gather(everywhere)(board, *inside), ticket)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        x, *indices, updates = args
        x = x if batched[0] else x.broadcast_leading(size)
        updates = updates if batched[-1] else updates.broadcast_leading(size)
        axes = shifted(self.axes)
        if not any(batched[1:-1]):
            updates = moved(updates, 0, len(indices[0].shape))
            return replace(self, axes=axes)(x, *indices, updates)
        indices = _all_batched(size, batched[1:-1], indices)
        member = positions(x, indices[0].shape, 0)
        return replace(self, axes=(0, *axes))(x, member, *indices, updates)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (x, *indices, updates), (out,) = args, outs
        size = static(x.size)
        if self._crowded(x, updates):
            return self._by_copies(out, x, indices, updates)
        copy = vectors(size, LINE_BYTES // x.dtype.itemsize, lambda i, _: [store(out, (i,), x[i])])
        at = tuple(axis("s", n) for n in indices[0].shape)
        where = dict(zip(self.axes, indices, strict=True))
        bound: list[Stmt] = []
        place: list[Expr] = []
        inside: Expr | None = None
        rest: list[Axis] = []
        for d, n in enumerate(x.shape):
            if d not in where:
                rest.append(axis("r", n))
                place.append(rest[-1])
                continue
            p = var("p", dtypes.int64)
            bound.append(Let(p, self._element(where[d][at], static(n))))
            here = apply("lt", bitcast(p, dtypes.uint64), literal(static(n), dtypes.uint64))
            inside = here if inside is None else inside & here
            place.append(p)
        assert inside is not None, "a scatter has indexed axes"

        def write(last: Sequence[Expr]) -> Stmt:
            to = (*place[: len(place) - len(last)], *last)
            value = updates[(*at, *rest[: len(rest) - len(last)], *last)]
            return store(out, to, self._combined(out[to], value))

        if len(x.shape) - 1 in where:
            update = nested(rest, write(()))
        else:  # whole rows, in lanes
            lanes = LINE_BYTES // x.dtype.itemsize
            row = vectors(static(x.shape[-1]), lanes, lambda i, _: [write((i,))])
            update = nested(rest[:-1], block(*row))
        return block(*copy, nested(at, block(*bound, If(inside, block(update), block()))))

    def _element(self, at: Expr, n: int) -> Expr:
        """A position as it is read."""
        zero, last = (literal(v, dtypes.int64) for v in (0, n - 1))
        if self.wrap:
            at = select(apply("lt", at, zero), at + literal(n, dtypes.int64), at)
        if self.clip:
            at = select(apply("lt", at, zero), zero, at)
            at = select(apply("lt", last, at), last, at)
        return at

    def _crowded(self, x: Buffer, updates: Buffer) -> bool:
        """Whether single elements meet so often that copies of x, joined at the end, pay."""
        kind = self.kind != "set" and len(self.axes) == len(x.shape)
        few = 0 < static(x.size) * 4 * COPIES <= static(updates.size)
        return kind and few and not dtypes.is_complex(x.dtype)

    def _by_copies(
        self, out: Buffer, x: Buffer, indices: Sequence[Buffer], updates: Buffer
    ) -> Stmt:
        """Updates go to the copies in turn, so none waits for the one before it. What lies outside
        goes to an element of its own."""
        size, count = static(x.size), static(updates.size)
        stride = size + 1
        reduction = {"add": "sum", "mul": "prod"}.get(self.kind, self.kind)
        neutral = number(REDUCTIONS[reduction][1](x.dtype), x.dtype)
        copies = Buffer("copies", x.dtype, (COPIES * stride,))
        lanes = LINE_BYTES // x.dtype.itemsize
        turn, left = axis("s", count // COPIES), axis("s", count % COPIES)

        def update(at: Expr, copy: int) -> list[Stmt]:
            flat, inside, bound = as_index(0), None, list[Stmt]()
            for i, n in zip(indices, x.shape, strict=True):
                p = var("p", dtypes.int64)
                bound.append(Let(p, self._element(i[at], static(n))))
                here = apply("lt", bitcast(p, dtypes.uint64), literal(static(n), dtypes.uint64))
                inside = here if inside is None else inside & here
                flat = plus(index("*", flat, as_index(n)), p)
            assert inside is not None, "a scatter has indexed axes"
            to = var("to", dtypes.int64)
            where = plus(to, copy * stride)
            value = self._combined(copies[where], updates[at])
            return [*bound, Let(to, select(inside, flat, size)), store(copies, (where,), value)]

        def joined(i: Expr) -> Expr:
            found: Expr = x[i]
            for copy in range(COPIES):
                found = self._combined(found, copies[plus(i, copy * stride)])
            return found

        first = index("*", turn, as_index(COPIES))
        return block(
            Alloc(copies),
            *vectors(COPIES * stride, lanes, lambda i, _: [store(copies, (i,), neutral)]),
            loop(turn, *(s for c in range(COPIES) for s in update(plus(first, c), c))),
            loop(left, *update(plus(left, count - count % COPIES), 0)),
            *vectors(size, lanes, lambda i, _: [store(out, (i,), joined(i))]),
        )

    def _combined(self, old: Expr, new: Expr) -> Expr:
        if self.kind == "set":
            return new
        if dtypes.is_bool(old.type):
            return apply("or" if self.kind in ("add", "max") else "and", old, new)
        if self.kind in ("min", "max"):
            return extreme(self.kind, old, new)
        return apply(self.kind, old, new)

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        rows, f64 = np.array([[3, 0], [2, 2], [-1, 99]]), dtypes.float64
        once, columns = np.array([3, 0, 1, -1]), np.array([0, 2, 4, 1])
        nothing = np.zeros((0,), np.int64)
        for kind in SCATTERS:
            for d in of_kinds("biuf" if kind in ("min", "max") else "biufc"):
                updates = samples(d, (3, 2, 3), 1)
                found.append(Example((samples(d, (4, 3)), rows, updates), cls(kind, (0,))))

            def smooth(
                axes: Axes, shape: Axes, indices: Sequence[Any], updates: Any, kind: str = kind
            ) -> None:
                found.append(
                    Example((numbers(f64, shape), *indices, updates), cls(kind, axes), True)
                )

            smooth((0, 2), (4, 3, 5), (once, columns), numbers(f64, (4, 3), 1))
            smooth((0,), (4, 3), (rows,), numbers(f64, (3, 2, 3), 1))
            smooth((0,), (13,), (np.arange(13)[::-1],), numbers(f64, (26,), 1)[::2])
            smooth((0,), (1,), (np.array(0),), numbers(f64, (), 1))
            crowd = np.arange(70).reshape(2, 35) % 5 - 1
            smooth((0,), (3,), (crowd,), numbers(f64, (2, 35), 1))
            smooth((1,), (2, 3), (nothing,), numbers(f64, (0, 2)))
            smooth((0,), (0, 3), (np.array([0, 1]),), numbers(f64, (2, 3)))
            for reads in ((True, False), (False, True), (True, True)):
                args = numbers(f64, (4, 3)), np.array([3, -4, -5, 4, 1, -2]), numbers(f64, (6, 3))
                found.append(Example(args, cls(kind, (0,), *reads), True))
                args = numbers(f64, (3,)), crowd - 3, numbers(f64, (2, 35), 1)
                found.append(Example(args, cls(kind, (0,), *reads), True))
        return found


def _check_indices(op: Op, x: Type, axes: Axes, indices: Sequence[Type]) -> None:
    fits = len(indices) == len(axes) > 0 and all(i == indices[0] for i in indices)
    if not fits or indices[0].dtype != dtypes.int64 or list(axes) != sorted(set(axes)):
        raise InternalError(f"{op.name} of {x!r} along {axes} with indices {indices}")


def _all_batched(size: Extent, batched: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    pairs = zip(values, batched, strict=True)
    return [v if b else v.broadcast_leading(size) for v, b in pairs]


# -- slices at computed starts -----------------------------------------------------------------


def start_at(start: Expr, size: Extent, n: Extent) -> Expr:
    """A scalar start as index arithmetic, clamped so that `size` elements fit into `n`."""
    return index("max", index("min", start, as_index(n) - size), as_index(0))


def _window(x: Any, starts: Sequence[Any], size: Extent, sizes: Sequence[Extent]) -> list[Any]:
    """Index arrays of shape (size, *sizes): the places of one window per member of a batch.

    `starts` are int64 arrays of shape (size,), one per axis; they are clamped as `lax` does it.
    """
    shape = (size, *sizes)
    places = []
    for d, (start, n, w) in enumerate(zip(starts, x.shape[-len(starts) :], sizes, strict=True)):
        fits = el.maximum(el.minimum(start, start.full_like(n - w)), start.zeros_like())
        places.append(Broadcast(shape, (0,))(fits) + positions(x, shape, d + 1))
    return places


@dataclass(frozen=True)
class DynamicSlice(Op):
    """The window of extents `sizes` that starts at int64 scalars, one per axis of x.

    A start is clamped so that the window fits, as in `lax.dynamic_slice`.
    """

    sizes: tuple[Extent, ...]
    linear_in: ClassVar[Axes] = (0,)

    def type(self, x: Type, *starts: Type) -> Type:
        _check_window(self, x, self.sizes, starts)
        return x.with_shape(self.sizes)

    def numpy(self, x: Any, *starts: Any) -> Any:
        return x[_slices(x.shape, sizes(self.sizes), starts)].copy()

    def transpose(self, ct: Any, linear: frozenset[int], x: Any, *starts: Any) -> Sequence[Any]:
        zeros = ct.full_like(0, x.shape)
        return (DynamicUpdateSlice()(zeros, ct, *starts), *(None for _ in starts))

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        x, *starts = args
        if not any(batched[1:]):
            zero = x.full_like(0, (), dtypes.int64)
            return DynamicSlice((size, *self.sizes))(x, zero, *starts)
        places = _window(x, _all_batched(size, batched[1:], starts), size, self.sizes)
        if batched[0]:
            places = [positions(x, (size, *self.sizes), 0), *places]
        return Gather(tuple(range(len(x.shape))))(x, *places)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        x, *starts = args
        at = zip(idx, starts, self.sizes, x.shape, strict=True)
        return x[tuple(index("+", i, start_at(s[()], w, n)) for i, s, w, n in at)]

    @classmethod
    def examples(cls) -> list[Example]:
        one, far, low = np.array(1), np.array(99), np.array(-5)
        found = [Example((samples(d, (4, 5)), one, one), cls((2, 3))) for d in of_kinds("biufc")]
        x = numbers(dtypes.float64, (7, 5))
        found += [Example((x, a, b), cls((3, 2)), True) for a, b in ((far, low), (one, far))]
        found.append(Example((x.T[::-1], one, one), cls((1, 7)), True))
        found.append(Example((x, one, one), cls((0, 2)), True))
        found.append(Example((x[:, :0], one, one), cls((3, 0)), True))
        return [*found, Example((numbers(dtypes.float64, ()),), cls(()), True)]


@dataclass(frozen=True)
class DynamicUpdateSlice(Op):
    """x with the window that starts at int64 scalars replaced: (x, update, *starts).

    A start is clamped so that the window fits, as in `lax.dynamic_update_slice`.
    """

    linear_in: ClassVar[Axes] = (0, 1)

    def type(self, x: Type, update: Type, *starts: Type) -> Type:
        _check_window(self, x, update.shape, starts)
        if update.dtype != x.dtype:
            raise InternalError(f"{self.name}: {update!r} into {x!r}")
        return x

    def numpy(self, x: Any, update: Any, *starts: Any) -> Any:
        out = np.array(x)
        out[_slices(x.shape, update.shape, starts)] = update
        return out

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        _, update, *starts = args
        to_x = self(ct, ct.full_like(0, update.shape), *starts) if 0 in linear else None
        to_update = DynamicSlice(update.shape)(ct, *starts) if 1 in linear else None
        return (to_x, to_update, *(None for _ in starts))

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        x, update, *starts = args
        x, update = _all_batched(size, batched[:2], (x, update))
        if not any(batched[2:]):
            return self(x, update, x.full_like(0, (), dtypes.int64), *starts)
        places = _window(x, _all_batched(size, batched[2:], starts), size, update.shape[1:])
        member = positions(x, update.shape, 0)
        return Scatter("set", tuple(range(len(x.shape))))(x, member, *places, update)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        x, update, *starts = args
        inside: Expr | None = None
        local: list[Expr] = []
        for i, s, w, n in zip(idx, starts, update.shape, x.shape, strict=True):
            at = index("+", i, index("*", start_at(s[()], w, n), as_index(-1)))
            local.append(at)
            here = apply("le", as_index(0), at) & apply("lt", at, as_index(w))
            inside = here if inside is None else inside & here
        if inside is None:
            return update[()]
        return select(inside, update.guarded(tuple(local), inside), x[idx])

    @classmethod
    def examples(cls) -> list[Example]:
        one, far, low = np.array(1), np.array(99), np.array(-5)
        found = [
            Example((samples(d, (4, 5)), samples(d, (2, 3), 1), one, one), cls())
            for d in of_kinds("biufc")
        ]
        f64 = dtypes.float64
        x = numbers(f64, (7, 5))
        for update in (numbers(f64, (3, 2)), numbers(f64, (7, 1)), numbers(f64, (0, 2))):
            found += [Example((x, update, a, b), cls(), True) for a, b in ((far, low), (one, far))]
        found.append(Example((x.T[::-1], numbers(f64, (8, 3))[::2], one, one), cls(), True))
        return [*found, Example((numbers(f64, ()), numbers(f64, (), 1)), cls(), True)]


def _check_window(op: Op, x: Type, sizes: Sequence[Extent], starts: Sequence[Type]) -> None:
    static = [
        (w, n)
        for w, n in zip(sizes, x.shape, strict=True)
        if isinstance(w, int) and isinstance(n, int)
    ]
    scalars = all(s == Type(dtypes.int64, ()) for s in starts)
    if len(starts) != x.ndim or not scalars or any(w > n for w, n in static):
        raise InternalError(f"{op.name}: a window {tuple(sizes)} of {x!r} starting at {starts}")


def _slices(shape: Sequence[int], sizes: Sequence[int], starts: Sequence[Any]) -> tuple[slice, ...]:
    fits = [max(0, min(int(s), n - w)) for s, w, n in zip(starts, sizes, shape, strict=True)]
    return tuple(slice(a, a + w) for a, w in zip(fits, sizes, strict=True))
