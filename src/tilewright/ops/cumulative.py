"""Ops that carry a value along an axis: cumulative sum, product, extremes, and the recurrence.

Knows the running reductions and the first-order linear recurrence, which is the derivative of all
of them. Refuses to know parallel scans: an element is computed from its predecessor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.expr import Buffer, Expr, Extent, apply, as_index, axis, cast
from tilewright.graph import Op, Type
from tilewright.loops import Alloc, Stmt, block, loop, store
from tilewright.ops import elementwise as el
from tilewright.ops.base import same_type
from tilewright.ops.elementwise import number
from tilewright.ops.nests import extreme, nested
from tilewright.ops.samples import AWKWARD_AXES, Example, numbers, of_kinds, samples
from tilewright.ops.shape import Pad
from tilewright.scalars import REDUCTIONS

KINDS: Final[dict[str, str]] = {
    "sum": "biufc", "prod": "biufc", "max": "biuf", "min": "biuf", "logsumexp": "f",
}  # fmt: skip
"""Kinds of `Cumulative`, and the NumPy kinds of element they are defined on."""


Step = Callable[[Expr, tuple[Expr, ...]], Expr]


def shifted_along(x: Any, axis: int, fill: float, reverse: bool) -> Any:
    """Every element one place later along `axis` (earlier if `reverse`); `fill` comes in."""
    lead = tuple(int(d == axis) for d in range(len(x.shape)))
    crop = tuple(-n for n in lead)
    low, high = (crop, lead) if reverse else (lead, crop)
    return Pad(low, high, (0,) * len(lead))(x, x.full_like(fill, ()))


@dataclass(frozen=True)
class Cumulative(Op):
    """Element i is the elements 0..i along `axis` combined by `kind`; i..n-1 if `reverse`.

    16-bit floats carry a float32. `max`, `min` propagate NaN.
    """

    kind: str
    axis: int
    reverse: bool = False
    fusion: ClassVar[str] = "opaque"

    @property
    def linear_in(self) -> tuple[int, ...]:  # type: ignore[override]
        return (0,) if self.kind == "sum" else ()

    def type(self, x: Type) -> Type:
        return x

    def numpy(self, x: Any) -> Any:
        wide = dtypes.compute_type(x.dtype)
        combine: Any = np.logaddexp if self.kind == "logsumexp" else REDUCTIONS[self.kind][0]
        line = np.flip(x, self.axis) if self.reverse else x
        with np.errstate(all="ignore"):
            out = combine.accumulate(line.astype(wide), axis=self.axis, dtype=wide)
        return (np.flip(out, self.axis) if self.reverse else out).astype(x.dtype)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """t_i = a_i t_{i-1} + b_i dx_i, with the two partial derivatives of one combining step."""
        (x,), (t,) = args, tangents
        if self.kind == "sum":
            return self(t)
        start = {"prod": 1, "max": -np.inf, "min": np.inf, "logsumexp": -np.inf}[self.kind]
        before = shifted_along(out, self.axis, start, self.reverse)
        if self.kind == "prod":
            carry, enter = x, before
        elif self.kind == "logsumexp":
            carry, enter = (el.exp(el.difference(part, out)) for part in (before, x))
        else:
            wins = el.gt if self.kind == "max" else el.lt
            half = type(x).where(el.eq(x, before), x.full_like(0.5), x.zeros_like())
            carry = type(x).where(wins(before, x), x.full_like(1), half)
            enter = type(x).where(wins(x, before), x.full_like(1), half)
        return Recurrence(self.axis, self.reverse)(carry, enter * t)

    def transpose(self, ct: Any, linear: frozenset[int], x: Any) -> Sequence[Any]:
        return (replace(self, reverse=not self.reverse)(ct),)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return replace(self, axis=self.axis + 1)(*args)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        x, out = args[0], outs[0]
        combine = {"sum": "add", "prod": "mul"}.get(self.kind)
        if dtypes.is_bool(x.dtype):
            combine = {"sum": "or", "prod": "and", "max": "or", "min": "and"}[self.kind]

        def step(acc: Expr, at: tuple[Expr, ...]) -> Expr:
            element = cast(x[at], acc.type)
            if combine is not None:
                return apply(combine, acc, element)
            if self.kind == "logsumexp":
                return apply(el.logaddexp.row.scalar, acc, element)
            return extreme(self.kind, acc, element)

        start = -np.inf if self.kind == "logsumexp" else REDUCTIONS[self.kind][1](x.dtype)
        return along(out, self.axis, self.reverse, start, step)

    @classmethod
    def examples(cls) -> list[Example]:
        found = []
        for kind, kinds in KINDS.items():
            found += [Example((samples(d, (3, 5)),), cls(kind, 1)) for d in of_kinds(kinds)]
            for shape, d in AWKWARD_AXES:
                x = numbers(dtypes.float64, shape)
                found += [Example((x,), cls(kind, d, d == 0), True)]
            x = numbers(dtypes.float64, (6, 5))[::2, ::-1].T
            found += [Example((x,), cls(kind, 0, r), True) for r in (False, True)]
        zeros = np.array([2.0, 0.0, 3.0, 0.0, 5.0])
        return [*found, Example((zeros,), cls("prod", 0), True)]


@dataclass(frozen=True)
class Recurrence(Op):
    """y_i = a_i y_{i-1} + b_i along `axis` from y_{-1} = 0; from the other end if `reverse`.

    Floats and complex numbers of one type. Linear in b; its dual runs the other way.
    """

    axis: int
    reverse: bool = False
    linear_in: ClassVar[tuple[int, ...]] = (1,)
    fusion: ClassVar[str] = "opaque"

    def type(self, a: Type, b: Type) -> Type:
        return same_type(self.name, a, b)

    def numpy(self, a: Any, b: Any) -> Any:
        dtype, wide = b.dtype, dtypes.compute_type(b.dtype)
        a, b = (np.moveaxis(x, self.axis, 0).astype(wide) for x in (a, b))
        out, carry = np.empty_like(b), np.zeros(b.shape[1:], wide)
        with np.errstate(all="ignore"):
            for i in reversed(range(len(b))) if self.reverse else range(len(b)):
                out[i] = carry = a[i] * carry + b[i]
        return np.moveaxis(out, 0, self.axis).astype(dtype)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        a, _ = args
        da, db = tangents
        if da is not None:
            moved_in = da * shifted_along(out, self.axis, 0, self.reverse)
            db = moved_in if db is None else db + moved_in
        return self(a, db)

    def transpose(self, ct: Any, linear: frozenset[int], a: Any, b: Any) -> Sequence[Any]:
        """ct runs back: c_i = ct_i + a_{i+1} c_{i+1}."""
        following = shifted_along(a, self.axis, 0, not self.reverse)
        return None, replace(self, reverse=not self.reverse)(following, ct)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        full = (x if b else x.broadcast_leading(size) for x, b in zip(args, batched, strict=True))
        return replace(self, axis=self.axis + 1)(*full)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        a, b = args

        def step(acc: Expr, at: tuple[Expr, ...]) -> Expr:
            return cast(a[at], acc.type) * acc + cast(b[at], acc.type)

        return along(outs[0], self.axis, self.reverse, 0, step)

    @classmethod
    def examples(cls) -> list[Example]:
        found = [
            Example((samples(d, (3, 5)), samples(d, (3, 5), 1)), cls(1)) for d in of_kinds("fc")
        ]
        for shape, d in AWKWARD_AXES:
            a, b = numbers(dtypes.float64, shape), numbers(dtypes.float64, shape, 1)
            found += [Example((a, b), cls(d, r), True) for r in (False, True)]
        a, b = numbers(dtypes.float64, (4, 5)), numbers(dtypes.float64, (5, 4), 1)
        return [*found, Example((a[::-1], b.T), cls(0), True)]


def along(out: Buffer, d: int, reverse: bool, start: Any, step: Step) -> Stmt:
    """Loops that fill `out` with acc = step(acc, position), running along axis `d` innermost."""
    wide = dtypes.compute_type(out.dtype)
    acc = Buffer("acc", wide, (), "registers")
    others = {k: axis("i", n) for k, n in enumerate(out.shape) if k != d}
    run = axis("j", out.shape[d])
    here: Expr = as_index(out.shape[d]) - 1 - run if reverse else run
    at = tuple(here if k == d else others[k] for k in range(len(out.shape)))
    body = block(
        Alloc(acc),
        store(acc, (), number(start, wide)),
        loop(run, store(acc, (), step(acc[()], at)), store(out, at, cast(acc[()], out.dtype))),
    )
    return nested(tuple(others.values()), body)
