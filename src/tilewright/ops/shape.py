"""Ops that make arrays from nothing and ops that move elements, each with its dual.

Fill, Constant, Iota; Cast; Broadcast and ReduceSum; Reshape; Transpose; Slice and Pad;
Concatenate; Flip. Moving elements is index arithmetic: `lower` maps an output position to an
input position, so none of these costs a kernel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import (
    Expr,
    Extent,
    Reduce,
    apply,
    as_index,
    axis,
    cast,
    eq,
    index,
    literal,
    product,
    select,
    static,
)
from tilewright.graph import Op, Piece, Place, Type, View
from tilewright.ops.base import shifted, sizes, without
from tilewright.ops.elementwise import imag, make_complex, number, real
from tilewright.ops.held import Held
from tilewright.ops.samples import AWKWARD_AXES, Example, awkward, numbers, of_kinds, samples
from tilewright.scalars import REDUCTIONS


@dataclass(frozen=True)
class Fill(Op):
    """An array of one number, given by its bits so that -0.0, NaN and 1 == True stay apart."""

    of: Type
    bits: bytes
    fusion: ClassVar[str] = "source"

    @property
    def value(self) -> Any:
        """The number as a NumPy scalar."""
        return np.frombuffer(self.bits, self.of.dtype)[0]

    def type(self) -> Type:
        return self.of

    def numpy(self) -> Any:
        return np.full(sizes(self.of.shape), self.value, self.of.dtype)

    def inline(self) -> str:
        return show_number(self.value)

    def attributes(self) -> list[str]:
        return [repr(self.of), show_number(self.value)]

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return number(self.value, self.of.dtype)

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for d in of_kinds("biufc"):
            found += [Example((), fill(v, Type(d, (3,)))) for v in awkward(d)]
        shapes: tuple[tuple[int, ...], ...] = ((), (0,), (2, 0), (1,), (13,))
        return [*found, *(Example((), fill(2.5, Type(dtypes.float64, s))) for s in shapes)]


def show_number(value: Any) -> str:
    """Shortest text that gives the number back; integers in floats print without `.0`."""
    v = value.item() if hasattr(value, "item") else value
    if (
        isinstance(v, float)
        and math.isfinite(v)
        and v == int(v)
        and abs(v) < 1e6
        and math.copysign(1, v * v) > 0
    ):
        return "-0.0" if v == 0 and math.copysign(1, v) < 0 else str(int(v))
    if value.dtype in (dtypes.float32, dtypes.float16):
        return str(value)
    return repr(v)


def fill(value: Any, of: Type) -> Fill:
    """The op that fills `of` with `value` converted to its dtype."""
    return Fill(of, np.asarray(value).astype(of.dtype).tobytes())


@dataclass(frozen=True)
class Constant(Op):
    """An array the user's function captured. Compiling lifts it to an input of the program. What is
    computed from fixed ones only may be computed ahead of all calls."""

    held: Held
    fusion: ClassVar[str] = "source"

    def type(self) -> Type:
        return self.held.type

    def numpy(self) -> Any:
        return self.held.elements()

    def attributes(self) -> list[str]:
        return [repr(self.type()), *(["fixed"] if self.held.fixed else [])]

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        arrays = [samples(d, (3, 5)) for d in of_kinds("biufc")]
        arrays += [numbers(dtypes.float64, s) for s in ((), (0,), (1,), (13,))]
        arrays.append(numbers(dtypes.float64, (4, 6))[::2, ::-1].T)
        return [Example((), cls(Held(a))) for a in arrays]


@dataclass(frozen=True)
class Iota(Op):
    """The position along `axis`, as an element."""

    of: Type
    axis: int
    fusion: ClassVar[str] = "source"

    def type(self) -> Type:
        return self.of

    def numpy(self) -> Any:
        shape = sizes(self.of.shape)
        line = np.arange(shape[self.axis]).astype(self.of.dtype)
        return np.broadcast_to(
            line.reshape((-1,) + (1,) * (len(shape) - self.axis - 1)), shape
        ).copy()

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return cast(idx[self.axis], self.of.dtype)

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((), cls(Type(d, (3, 5)), 1)) for d in of_kinds("iuf")]
        return [*found, *(Example((), cls(Type(dtypes.int64, s), d)) for s, d in AWKWARD_AXES)]


@dataclass(frozen=True)
class UnitArrays(Op):
    """Every array of type `of` that is 1 at one place and 0 elsewhere, in row-major order of the
    places, stacked along a new leading axis: the directions in which a Jacobian differentiates.

    A product with them *is* what stands at these places, whatever stands elsewhere: simplification
    takes it, and 0 * inf is not evaluated.
    """

    of: Type
    fusion: ClassVar[str] = "source"

    def type(self) -> Type:
        return self.of.with_shape((self.of.size, *self.of.shape))

    def numpy(self) -> Any:
        n = static(self.of.size)
        return np.eye(n).astype(self.of.dtype).reshape((n, *sizes(self.of.shape)))

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        place: Expr = as_index(0)
        for i, n in zip(idx[1:], self.of.shape, strict=True):
            place = index("+", index("*", place, as_index(n)), i)
        return cast(eq(idx[0], place), self.of.dtype)

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((), cls(Type(d, (3, 5)))) for d in of_kinds("fc")]
        shapes: tuple[tuple[int, ...], ...] = ((), (0,), (2, 0), (1,), (13,))
        return [*found, *(Example((), cls(Type(dtypes.float64, s))) for s in shapes)]


@dataclass(frozen=True)
class Cast(Op):
    """Conversion to another dtype, as `astype` does it."""

    to: DType
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def type(self, x: Type) -> Type:
        return x.with_dtype(self.to)

    def numpy(self, x: Any) -> Any:
        drops = (
            dtypes.is_complex(x.dtype) and not dtypes.is_complex(self.to) and self.to.kind != "b"
        )
        with np.errstate(all="ignore"):
            return (x.real if drops else x).astype(self.to)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return self(tangents[0]) if dtypes.is_inexact(self.to) and tangents[0] is not None else None

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (Cast(x.dtype)(ct),)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return self(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        x = args[0][idx]
        if not (dtypes.is_complex(x.type) or dtypes.is_complex(self.to)) or x.type == self.to:
            return cast(x, self.to)
        part = dtypes.real_of(self.to)
        if not dtypes.is_complex(x.type):
            return apply(make_complex.row.scalar, cast(x, part), literal(0, part), dtype=self.to)
        own = dtypes.real_of(x.type)
        re, im = (apply(f.row.scalar, x, dtype=own) for f in (real, imag))
        if dtypes.is_bool(self.to):
            return apply("ne", re, literal(0, own)) | apply("ne", im, literal(0, own))
        if not dtypes.is_complex(self.to):
            return cast(re, self.to)
        return apply(make_complex.row.scalar, cast(re, part), cast(im, part), dtype=self.to)

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for source in of_kinds("biufc"):
            # Where the target has no such number, C and NumPy leave the result to the machine.
            same = numbers(source, (2, 5), 0, 0)
            for to in of_kinds("biufc"):
                exact = dtypes.is_inexact(to) or dtypes.is_bool(to) or not dtypes.is_inexact(source)
                found.append(Example((samples(source, (13,)) if exact else same,), cls(to)))
        x = numbers(dtypes.complex128, (4, 0))
        found += [Example((a,), cls(dtypes.float64), True) for a in (x, x.T[::2], x.real)]
        found.append(Example((numbers(dtypes.float64, (1,)),), cls(dtypes.complex128), True))
        z = numbers(dtypes.complex128, (4, 6))[::2, ::-1].T
        found += [Example((z,), cls(dtypes.float64), True), Example((z.real,), cls(z.dtype), True)]
        return found


@dataclass(frozen=True)
class Broadcast(Op):
    """Repeat along new axes: axis d of the operand becomes axis `axes[d]` (increasing) of `shape`.

    Extents must agree; an axis of extent 1 is dropped by a Reshape before. Dual of ReduceSum.
    """

    shape: tuple[Extent, ...]
    axes: tuple[int, ...]
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    @property
    def new_axes(self) -> tuple[int, ...]:
        return tuple(d for d in range(len(self.shape)) if d not in self.axes)

    def type(self, x: Type) -> Type:
        if tuple(self.shape[a] for a in self.axes) != x.shape:
            raise InternalError(f"cannot broadcast {x!r} to {self.shape} along {self.axes}")
        return x.with_shape(self.shape)

    def attributes(self) -> list[str]:
        trailing = self.axes == tuple(range(len(self.shape) - len(self.axes), len(self.shape)))
        return [str(self.shape)] if trailing else [str(self.shape), str(self.axes)]

    def numpy(self, x: Any) -> Any:
        full = [1] * len(self.shape)
        for d, n in zip(self.axes, x.shape, strict=True):
            full[d] = n
        return np.broadcast_to(x.reshape(full), sizes(self.shape)).copy()

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (ReduceSum(self.new_axes)(ct),)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return Broadcast((size, *self.shape), (0, *shifted(self.axes)))(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return args[0][tuple(idx[a] for a in self.axes)]

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (5,)),), cls((3, 5), (1,))) for d in of_kinds("biufc")]
        for shape, to, axes in (
            ((), (2, 3), ()), ((3,), (3, 0), (0,)), ((0,), (0, 2), (0,)),
            ((1, 7), (1, 4, 7), (0, 2)),
            ((), (), ()), ((13,), (13,), (0,)), ((2, 3), (5, 2, 1, 3, 1), (1, 3)),
        ):  # fmt: skip
            found.append(Example((numbers(dtypes.float64, shape),), cls(to, axes), True))
        x = numbers(dtypes.complex128, (4, 6))[::2, ::-1].T
        return [*found, Example((x,), cls((2, 6, 2), (1, 2)), True)]


@dataclass(frozen=True)
class Reduction(Op):
    """The elements over `axes` combined by `kind` (of `scalars.REDUCTIONS`).

    Over no elements it is the kind's identity; 16-bit floats combine in float32.
    """

    axes: tuple[int, ...]
    kind: ClassVar[str]
    kinds: ClassVar[str]
    fusion: ClassVar[str] = "reduction"

    def type(self, x: Type) -> Type:
        return x.without(self.axes)

    def numpy(self, x: Any) -> Any:
        identity = REDUCTIONS[self.kind][1]
        combine: Any = REDUCTIONS[self.kind][0]
        wide = dtypes.compute_type(x.dtype)
        start = np.asarray(identity(x.dtype)).astype(wide)
        with np.errstate(all="ignore"):
            out = combine.reduce(x.astype(wide), axis=self.axes, initial=start, dtype=wide)
        return np.asarray(out).astype(x.dtype)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return replace(self, axes=shifted(self.axes))(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        (x,) = args
        if not self.axes:
            return x[idx]
        over, full = woven(idx, x.shape, self.axes)
        wide = dtypes.compute_type(x.dtype)
        return cast(Reduce(self.kind, over, cast(x[full], wide)), x.dtype)

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (3, 5)),), cls((1,))) for d in of_kinds(cls.kinds)]
        main = next(d for d in (dtypes.float64, dtypes.bool_) if d in of_kinds(cls.kinds))
        for shape, d in AWKWARD_AXES:
            smooth = shape[d] != 0 or cls.kind in ("sum", "prod")
            found.append(Example((numbers(main, shape),), cls((d,)), smooth))
        block = numbers(main, (5, 3, 4))
        found += [Example((block,), cls(axes), True) for axes in ((), (0, 2), (0, 1, 2))]
        return [*found, Example((block[::2, :, ::-1].T,), cls((0, 1)), True)]


@dataclass(frozen=True)
class ReduceSum(Reduction):
    """Sum over `axes`. 16-bit floats accumulate in float32. Dual of Broadcast."""

    kind: ClassVar[str] = "sum"
    kinds: ClassVar[str] = "biufc"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        kept = without(range(len(x.shape)), self.axes)
        return (Broadcast(x.shape, kept)(ct),)


def woven(idx: tuple[Expr, ...], shape: Sequence[Extent], axes: Sequence[int]) -> Any:
    """New reduction axes for `axes` of `shape`, and the full index with `idx` around them."""
    over = tuple(axis("k", shape[a]) for a in axes)
    rest = iter(idx)
    full = tuple(over[axes.index(d)] if d in axes else next(rest) for d in range(len(shape)))
    return over, full


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in row-major order under another shape."""

    shape: tuple[Extent, ...]
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def type(self, x: Type) -> Type:
        if product(x.shape) != product(self.shape):
            raise InternalError(f"cannot reshape {x!r} to {self.shape}")
        return x.with_shape(self.shape)

    def numpy(self, x: Any) -> Any:
        return x.reshape(self.shape)

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (Reshape(x.shape)(ct),)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return Reshape((size, *self.shape))(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return args[0][reindex(idx, self.shape, args[0].shape)]

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (2, 6)),), cls((3, 4))) for d in of_kinds("biufc")]
        for shape, to in (
            ((0, 3), (0,)), ((0, 3), (5, 0)), ((2, 0, 3), (0, 7)), ((0,), (1, 0, 1)), ((1,), ()),
            ((), (1, 1)), ((13,), (1, 13)), ((2, 1, 3), (3, 2)), ((4, 6), (2, 2, 3, 2)),
            ((4, 6), (3, 8)), ((2, 3, 5, 7), (6, 35)), ((6, 35), (2, 3, 5, 7)), ((6, 5), (2, 15)),
        ):  # fmt: skip
            found.append(Example((numbers(dtypes.float64, shape),), cls(to), True))
        x = numbers(dtypes.float64, (4, 6))[::2, ::-1].T
        return [*found, Example((x,), cls((4, 3)), True)]


def reindex(idx: Sequence[Expr], shape: Sequence[Extent], to: Sequence[Extent]) -> tuple[Expr, ...]:
    """The position under shape `to` of the element at `idx` under `shape`.

    Runs of axes with equal sizes on both sides are matched first, so that only real regroupings
    cost divisions. Of an array without elements no position is ever asked for.
    """
    if 0 in to:
        return (as_index(0),) * len(to)
    result: list[Expr] = []
    a = b = 0
    while b < len(to):
        a0, b0 = a, b
        left: Extent = shape[a] if a < len(shape) else 1
        right: Extent = to[b]
        a, b = min(a + 1, len(shape)), b + 1
        while left != right and (a < len(shape) or b < len(to)):
            if b >= len(to) or (a < len(shape) and _smaller(left, right)):
                left, a = left * shape[a], a + 1
            else:
                right, b = right * to[b], b + 1
        result += _regroup(list(idx[a0:a]), list(shape[a0:a]), list(to[b0:b]))
    return tuple(result)


def _smaller(a: Extent, b: Extent) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a < b


def _regroup(idx: list[Expr], shape: list[Extent], to: list[Extent]) -> list[Expr]:
    if shape == to:
        return idx
    flat: Expr = as_index(0)
    for i, n in zip(idx, shape, strict=True):
        flat = flat * n + i if not _is_zero(flat) else i
    parts: list[Expr] = []
    for d, n in reversed(list(enumerate(to))):
        parts.append(as_index(0) if n == 1 else flat % n if d else flat)
        flat = flat // n if n != 1 else flat
    return parts[::-1]


def _is_zero(e: Expr) -> bool:
    return e is as_index(0)


@dataclass(frozen=True)
class Transpose(Op):
    """Permute the axes: axis d of the result is axis `order[d]` of the operand."""

    order: tuple[int, ...]
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def type(self, x: Type) -> Type:
        return x.with_shape([x.shape[d] for d in self.order])

    def numpy(self, x: Any) -> Any:
        return np.transpose(x, self.order)

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (Transpose(inverse(self.order))(ct),)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return Transpose((0, *shifted(self.order)))(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return args[0][tuple(idx[d] for d in inverse(self.order))]

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (2, 3)),), cls((1, 0))) for d in of_kinds("biufc")]
        for shape, order in (
            ((), ()), ((13,), (0,)), ((0, 2), (1, 0)), ((1, 1, 3), (2, 0, 1)),
            ((2, 3, 5), (2, 0, 1)),
        ):  # fmt: skip
            found.append(Example((numbers(dtypes.float64, shape),), cls(order), True))
        return [*found, Example((numbers(dtypes.float64, (4, 6))[::2, ::-1],), cls((1, 0)), True)]


def moved(x: Any, source: int, to: int) -> Any:
    """The value with one axis moved, as `np.moveaxis` does it."""
    order = [d for d in range(len(x.shape)) if d != source]
    order.insert(to, source)
    return x if order == sorted(order) else Transpose(tuple(order))(x)


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=lambda d: order[d]))


@dataclass(frozen=True)
class Slice(Op):
    """`x[start : stop : step]` on every axis; steps are positive. Dual of Pad."""

    starts: tuple[Extent, ...]
    stops: tuple[Extent, ...]
    steps: tuple[int, ...]
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def type(self, x: Type) -> Type:
        ranges = zip(self.starts, self.stops, self.steps, strict=True)
        return x.with_shape([0 if a == b else (b - a + (s - 1)) // s for a, b, s in ranges])

    def attributes(self) -> list[str]:
        return [str(self.starts), str(self.stops)] + (
            [str(self.steps)] if set(self.steps) > {1} else []
        )

    def numpy(self, x: Any) -> Any:
        return x[tuple(map(slice, self.starts, self.stops, self.steps))]

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        low = self.starts
        inner = tuple(s - 1 for s in self.steps)
        spans = [
            max(0, (n - 1) * s + 1) if n else 0 for n, s in zip(ct.shape, self.steps, strict=True)
        ]
        high = tuple(n - a - w for n, a, w in zip(x.shape, low, spans, strict=True))
        return (Pad(low, high, inner)(ct, ct.full_like(0, ())),)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return Slice((0, *self.starts), (size, *self.stops), (1, *self.steps))(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return args[0][
            tuple(i * s + a for i, a, s in zip(idx, self.starts, self.steps, strict=True))
        ]

    @classmethod
    def examples(cls) -> list[Example]:
        found = [
            Example((samples(d, (4, 7)),), cls((1, 0), (3, 7), (1, 3))) for d in of_kinds("biufc")
        ]
        for shape, starts, stops, steps in (
            ((), (), (), ()), ((0,), (0,), (0,), (1,)), ((1,), (0,), (1,), (5,)),
            ((13,), (2,), (13,), (4,)), ((13,), (2,), (12,), (4,)),
            ((5, 3), (2, 1), (2, 3), (2, 1)),
            ((7, 5), (6, 0), (7, 5), (3, 2)),
        ):  # fmt: skip
            op = cls(starts, stops, steps)
            found.append(Example((numbers(dtypes.float64, shape),), op, True))
        x = numbers(dtypes.float64, (4, 12))[::2, ::-1].T
        return [*found, Example((x,), cls((1, 0), (11, 1), (2, 1)), True)]


@dataclass(frozen=True)
class Pad(Op):
    """Surround with `low` and `high` copies of a scalar, and put `inner` ones between elements.

    Arguments: the array and the scalar (a 0-d array). Negative padding crops. Dual of Slice.
    """

    low: tuple[Extent, ...]
    high: tuple[Extent, ...]
    inner: tuple[int, ...]
    linear_in: ClassVar[tuple[int, ...]] = (0, 1)

    def type(self, x: Type, value: Type) -> Type:
        if value != Type(x.dtype, ()):
            raise InternalError(f"the padding value of {x!r} has type {value!r}")
        spans = [_span(n, i) for n, i in zip(x.shape, self.inner, strict=True)]
        return x.with_shape([a + n + b for n, a, b in zip(spans, self.low, self.high, strict=True)])

    def attributes(self) -> list[str]:
        return [str(self.low), str(self.high)] + ([str(self.inner)] if any(self.inner) else [])

    def numpy(self, x: Any, value: Any) -> Any:
        spans = [_span(n, i) for n, i in zip(x.shape, self.inner, strict=True)]
        spread = np.full(sizes(spans), value, x.dtype)
        spread[tuple(slice(None, None, i + 1) for i in self.inner)] = x
        low, high = sizes(self.low), sizes(self.high)
        edges = [(max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True)]
        padded = np.pad(spread, edges, constant_values=value) if edges else spread
        crop = zip(low, high, padded.shape, strict=True)
        return padded[tuple(slice(max(-a, 0), n - max(-b, 0)) for a, b, n in crop)]

    def transpose(self, ct: Any, linear: frozenset[int], x: Any, value: Any) -> Sequence[Any]:
        inside = self._inside(ct, x) if 0 in linear or 1 in linear else None
        to_value = None
        if 1 in linear:
            everything = tuple(range(len(ct.shape)))
            to_value = ReduceSum(everything)(ct) - ReduceSum(everything)(inside)
        return (inside if 0 in linear else None, to_value)

    def _inside(self, ct: Any, x: Any) -> Any:
        """The part of the result that came from the operand."""
        whole = Pad(tuple(-a for a in self.low), tuple(-b for b in self.high), (0,) * len(self.low))
        spans = whole(ct, ct.full_like(0, ()))
        return Slice((0,) * len(self.low), spans.shape, tuple(i + 1 for i in self.inner))(spans)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any, value: Any) -> Any:
        if not batched[1]:
            return Pad((0, *self.low), (0, *self.high), (0, *self.inner))(x, value)
        x = x if batched[0] else x.broadcast_leading(size)
        padded = Pad((0, *self.low), (0, *self.high), (0, *self.inner))
        out = padded(x, x.full_like(0, ()))
        ones = padded(x.full_like(True, dtype=dtypes.bool_), x.full_like(False, (), dtypes.bool_))
        from_value = Broadcast(out.shape, (0,))(value)
        return type(x).where(ones, out, from_value)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        x, value = args
        inside: Expr | None = None
        at: list[Expr] = []
        for i, a, b, n, s in zip(idx, self.low, self.high, x.shape, self.inner, strict=True):
            j, tests = i - a, []
            if not crops(a):
                tests.append(apply("le", as_index(0), j))
            if not crops(b):
                tests.append(apply("lt", j, as_index(_span(n, s))))
            if s:
                tests.append(apply("eq", j % (s + 1), as_index(0)))
                j = j // (s + 1)
            for t in tests:
                inside = t if inside is None else inside & t
            at.append(j)
        if inside is None:
            return x[tuple(at)]
        return select(inside, x.guarded(tuple(at), inside), value[()])

    @classmethod
    def examples(cls) -> list[Example]:
        def case(x: Any, low: Any, high: Any, inner: Any, smooth: bool) -> Example:
            return Example((x, np.asarray(3, x.dtype)), cls(low, high, inner), smooth)

        found = [case(samples(d, (2, 3)), (1, 0), (0, 2), (0, 1), False) for d in of_kinds("biufc")]
        for shape, low, high, inner in (
            ((), (), (), ()), ((0,), (2,), (1,), (0,)), ((0,), (0,), (3,), (2,)),
            ((1,), (1,), (1,), (3,)),
            ((5,), (-2,), (1,), (0,)), ((5,), (-4,), (-1,), (0,)), ((5,), (2,), (-3,), (2,)),
            ((3,), (-5,), (4,), (0,)), ((3, 13), (1, -1), (0, -2), (1, 0)),
        ):  # fmt: skip
            found.append(case(numbers(dtypes.float64, shape), low, high, inner, True))
        x = numbers(dtypes.float64, (4, 6))[::2, ::-1].T
        return [*found, case(x, (1, 0), (1, 1), (0, 1), True)]


def crops(padding: Extent) -> bool:
    """Whether an edge gets no padding, so that no position lies beyond it."""
    return isinstance(padding, int) and padding <= 0


def _span(n: Extent, inner: int) -> Extent:
    """Extent of an axis with `inner` elements put between its own."""
    return n if inner == 0 or n == 0 else n + (n - 1) * inner


@dataclass(frozen=True)
class Concatenate(Op):
    """Arrays one after the other along `axis`."""

    axis: int

    @property
    def linear_in(self) -> tuple[int, ...]:  # type: ignore[override]
        return range(1 << 62)  # type: ignore[return-value]  # whatever its arity

    def type(self, *args: Type) -> Type:
        first, d = args[0], self.axis
        if any(a.dtype != first.dtype or a.without((d,)) != first.without((d,)) for a in args):
            raise InternalError(f"cannot concatenate {args} along axis {d}")
        total: Extent = 0
        for a in args:
            total = a.shape[d] + total
        return first.with_shape([*first.shape[:d], total, *first.shape[d + 1 :]])

    def numpy(self, *args: Any) -> Any:
        return np.concatenate(args, self.axis)

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        result: list[Any] = []
        for i, (a, at) in enumerate(zip(args, self.offsets([x.shape for x in args]), strict=True)):
            starts = tuple(at if d == self.axis else 0 for d in range(len(a.shape)))
            stops = tuple(s + n for s, n in zip(starts, a.shape, strict=True))
            result.append(Slice(starts, stops, (1,) * len(starts))(ct) if i in linear else None)
        return result

    def offsets(self, shapes: Sequence[Sequence[Extent]]) -> list[Extent]:
        """Where each operand starts along the axis."""
        result: list[Extent] = [0]
        for shape in shapes[:-1]:
            result.append(shape[self.axis] + result[-1])
        return result

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        full = (a if b else a.broadcast_leading(size) for a, b in zip(args, batched, strict=True))
        return Concatenate(self.axis + 1)(*full)

    def pieces(self, args: Sequence[View]) -> list[Piece]:
        offsets = self.offsets([a.shape for a in args])
        return [
            (a.shape, self._shifted(at), a.__getitem__) for a, at in zip(args, offsets, strict=True)
        ]

    def _shifted(self, at: Extent) -> Place:
        d = self.axis
        return lambda idx: (*idx[:d], idx[d] + at, *idx[d + 1 :])

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        position = idx[self.axis]
        result: Expr | None = None
        for x, at in reversed(list(zip(args, self.offsets([a.shape for a in args]), strict=True))):
            here = (*idx[: self.axis], position - at, *idx[self.axis + 1 :])
            inside = apply("le", as_index(at), position) & apply(
                "lt", position, as_index(x.shape[self.axis] + at)
            )
            value = x.guarded(here, inside)
            result = (
                value
                if result is None
                else select(apply("lt", position, as_index(x.shape[self.axis] + at)), value, result)
            )
        assert result is not None, "concatenate has operands"
        return result

    @classmethod
    def examples(cls) -> list[Example]:
        found = [
            Example((samples(d, (2, 3)), samples(d, (2, 1), 1)), cls(1)) for d in of_kinds("biufc")
        ]
        f64 = dtypes.float64
        for d, shapes in (
            (0, ((3,),)), (0, ((0, 2), (3, 2), (0, 2))), (1, ((2, 1), (2, 5), (2, 7))),
            (0, ((0,), (0,))),
            (1, ((0, 2), (0, 3))), (0, ((1,),) * 5),
        ):  # fmt: skip
            args = tuple(numbers(f64, shape, k) for k, shape in enumerate(shapes))
            found.append(Example(args, cls(d), True))
        x = numbers(f64, (4, 6))
        return [*found, Example((x[::2, ::-1].T, x.T[:, ::2]), cls(0), True)]


@dataclass(frozen=True)
class Flip(Op):
    """Reverse along `axes`. Its own dual."""

    axes: tuple[int, ...]
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def type(self, x: Type) -> Type:
        return x

    def numpy(self, x: Any) -> Any:
        return np.flip(x, self.axes)

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (self(ct),)

    def batch(self, size: Extent, batched: Sequence[bool], x: Any) -> Any:
        return Flip(shifted(self.axes))(x)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        (x,) = args
        places = enumerate(zip(idx, x.shape, strict=True))
        return x[tuple(as_index(n) - 1 - i if d in self.axes else i for d, (i, n) in places)]

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (2, 5)),), cls((1,))) for d in of_kinds("biufc")]
        for shape, axes in (
            ((), ()),
            ((0, 2), (0,)),
            ((1,), (0,)),
            ((13,), (0,)),
            ((2, 3, 5), (0, 2)),
        ):
            found.append(Example((numbers(dtypes.float64, shape),), cls(axes), True))
        return [*found, Example((numbers(dtypes.float64, (4, 6))[::2, ::-1].T,), cls((0,)), True)]
