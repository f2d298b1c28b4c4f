"""Reductions along axes: product, maximum, minimum, all, any, and the positions of extremes.

Knows what each means over NaN and over no elements, and its derivative. Refuses to know order: a
`Reduce` of the expression language is free to combine its points as it likes. The sum is in
`shape.py`, next to Broadcast, its dual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import (
    Buffer,
    Expr,
    Extent,
    Reduce,
    apply,
    as_index,
    axis,
    cast,
    index,
    is_static,
    product,
    select,
    static,
)
from tilewright.graph import Op, Type, View
from tilewright.loops import Accumulate, Stmt, block, store
from tilewright.ops import elementwise as el
from tilewright.ops.base import without
from tilewright.ops.cumulative import Cumulative, shifted_along
from tilewright.ops.elementwise import number
from tilewright.ops.nests import nested
from tilewright.ops.samples import AWKWARD_AXES, Example, of_kinds, samples
from tilewright.ops.shape import Broadcast, ReduceSum, Reduction, Reshape, Transpose, woven


@dataclass(frozen=True)
class ReduceProd(Reduction):
    """Product over `axes`. 16-bit floats multiply in float32; over no elements it is 1."""

    kind: ClassVar[str] = "prod"
    kinds: ClassVar[str] = "biufc"

    def is_opaque(self, *types: Type) -> bool:
        """The two parts of a complex product depend on each other: no `Reduce` of reals is one."""
        return dtypes.is_complex(types[0].dtype)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (out,), (x,) = outs, args
        at = tuple(axis("i", n) for n in out.shape)
        over, full = woven(at, x.shape, self.axes)
        step = nested(over, Accumulate(out, at, self.kind, x[full]))
        return nested(at, block(store(out, at, number(1, out.dtype)), step))

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """Each tangent times the product of all other elements, which is the product of those
        before and of those after: right to any order where elements are zero."""
        (x,), (t,) = args, tangents
        kept = without(range(len(x.shape)), self.axes)
        order = (*kept, *self.axes)
        shape = (*(x.shape[d] for d in kept), product(x.shape[d] for d in self.axes))
        line, dot = (Reshape(shape)(Transpose(order)(a)) for a in (x, t))
        last = len(kept)
        before = shifted_along(Cumulative("prod", last, False)(line), last, 1, False)
        after = shifted_along(Cumulative("prod", last, True)(line), last, 1, True)
        return ReduceSum((last,))(dot * before * after)


@dataclass(frozen=True)
class Extreme(Reduction):
    """What the largest and the smallest element share. NaN wins over every number.

    Over no elements: the infinity, or the end of the integer range, that loses to everything.
    """

    kinds: ClassVar[str] = "biuf"

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """The mean of the tangents where the extreme is attained."""
        (x,), (t,) = args, tangents
        spread = Broadcast(x.shape, without(range(len(x.shape)), self.axes))
        attained = type(x).where(el.eq(x, spread(out)), x.full_like(1), x.zeros_like())
        return ReduceSum(self.axes)(t * attained) / ReduceSum(self.axes)(attained)


@dataclass(frozen=True)
class ReduceMax(Extreme):
    """Largest element over `axes`; NaN if there is one."""

    kind: ClassVar[str] = "max"


@dataclass(frozen=True)
class ReduceMin(Extreme):
    """Smallest element over `axes`; NaN if there is one."""

    kind: ClassVar[str] = "min"


@dataclass(frozen=True)
class Truth(Reduction):
    """Reductions of bools; they carry no derivative."""

    kinds: ClassVar[str] = "b"

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None


@dataclass(frozen=True)
class ReduceAll(Truth):
    """Whether all elements over `axes` are true."""

    kind: ClassVar[str] = "all"


@dataclass(frozen=True)
class ReduceAny(Truth):
    """Whether any element over `axes` is true."""

    kind: ClassVar[str] = "any"


def _wins(element: Expr, extreme: Expr) -> Expr:
    """Whether an element is the extreme of its line: equal, or NaN."""
    found = apply("eq", element, extreme)
    return found | apply("ne", element, element) if dtypes.is_float(element.type) else found


def _first(test: Callable[[Expr], Expr], n: Extent) -> Expr:
    """The first of n positions that passes, one of which does. Short positions fill registers that
    elements fill."""
    k = axis("k", n)
    of = dtypes.int32 if is_static(n) and static(n) < 1 << 31 else dtypes.int64
    none = cast(as_index(n), of)
    return cast(Reduce("min", (k,), select(test(k), cast(k, of), none)), dtypes.int64)


@dataclass(frozen=True)
class ArgReduction(Op):
    """Position (int64) along `axis` of the first extreme element, or of the first NaN."""

    axis: int
    kind: ClassVar[str]
    fusion: ClassVar[str] = "reduction"

    def type(self, x: Type) -> Type:
        if x.shape[self.axis] == 0:
            raise InternalError(f"{self.name} of {x!r} over no elements")
        return x.without((self.axis,)).with_dtype(dtypes.int64)

    def numpy(self, x: Any) -> Any:
        find = np.argmax if self.kind == "max" else np.argmin
        return np.asarray(find(x, axis=self.axis), np.int64)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return replace(self, axis=self.axis + 1)(*args)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        """The smallest position whose element equals the extreme (or nothing, not even itself)."""
        (x,) = args

        def at(k: Expr) -> Expr:
            full = (*idx[: self.axis], k, *idx[self.axis :])
            return cast(x[full], dtypes.compute_type(x.dtype))

        n = x.shape[self.axis]
        k = axis("k", n)
        extreme = Reduce(self.kind, (k,), at(k))
        return _first(lambda k: _wins(at(k), extreme), n)

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (3, 5)),), cls(1)) for d in of_kinds("biuf")]
        ties = np.array([[1, 3, 3, 0, 0], [np.nan, 1, np.nan, -np.inf, np.inf]])
        found += [Example((a,), cls(d)) for a in (ties, ties[:, ::-1]) for d in (0, 1)]
        f32 = dtypes.float32
        found += [Example((samples(f32, s),), cls(d)) for s, d in AWKWARD_AXES if s[d] != 0]
        return found


@dataclass(frozen=True)
class ArgMax(ArgReduction):
    """Position of the first largest element along `axis`; the first NaN counts as largest."""

    kind: ClassVar[str] = "max"


@dataclass(frozen=True)
class ArgMin(ArgReduction):
    """Position of the first smallest element along `axis`; the first NaN counts as smallest."""

    kind: ClassVar[str] = "min"


# -- long lines ----------------------------------------------------------------------------------

MANY: Final = 64
"""Blocks of a line from which on up to three more do not count."""


@dataclass(frozen=True)
class BlockExtremes(Op):
    """Extremes (`kind`: max or min) of blocks of `size` elements along the last axis, NaN if there
    is one: of every `apart`-th element each, so that neighbours are compared with neighbours only.
    The last block ends where the axis does: what is over it shares with the one before. Many blocks
    are a multiple of four (that one again), so that four at a time leave none. The result has two
    axes in place of the last, blocks and `apart`."""

    kind: str
    size: int
    apart: int
    fusion: ClassVar[str] = "reduction"

    def type(self, x: Type) -> Type:
        if static(x.shape[-1]) < self.size or self.size % self.apart:
            raise InternalError(f"{x!r} has no {self.size} elements in a line, by {self.apart}")
        return x.with_shape((*x.shape[:-1], _blocks(static(x.shape[-1]), self.size), self.apart))

    def numpy(self, x: Any) -> Any:
        n = x.shape[-1]
        starts = [min(k * self.size, n - self.size) for k in range(_blocks(n, self.size))]
        blocks = np.stack([x[..., s : s + self.size] for s in starts], -2)
        blocks = blocks.reshape((*blocks.shape[:-1], self.size // self.apart, self.apart))
        with np.errstate(invalid="ignore"):
            return (np.max if self.kind == "max" else np.min)(blocks, -2)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        (x,), i = args, axis("i", self.size // self.apart)
        start = _block_start(idx[-2], self.size, x.shape[-1])
        at = index("+", index("+", start, index("*", i, as_index(self.apart))), idx[-1])
        value = cast(x[(*idx[:-2], at)], dtypes.compute_type(x.dtype))
        return cast(Reduce(self.kind, (i,), value), x.dtype)


@dataclass(frozen=True)
class ArgOfBlocks(Op):
    """Position (int64) along the last axis of the first extreme element, or of the first NaN:
    (x, its `BlockExtremes`). Only one block of each line is read."""

    kind: str
    size: int
    apart: int
    fusion: ClassVar[str] = "reduction"

    def type(self, x: Type, extremes: Type) -> Type:
        if BlockExtremes(self.kind, self.size, self.apart).type(x) != extremes:
            raise InternalError(f"{extremes!r} are not the blocks of {x!r}")
        return x.without((x.ndim - 1,)).with_dtype(dtypes.int64)

    def numpy(self, x: Any, extremes: Any) -> Any:
        find = np.argmax if self.kind == "max" else np.argmin
        return np.asarray(find(x, axis=-1), np.int64)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        """The first block that has an extreme like that of all; in it, the first element."""
        x, extremes = args
        wide, count = dtypes.compute_type(x.dtype), static(extremes.shape[-2]) * self.apart

        def of_block(p: Expr) -> Expr:
            return cast(extremes[(*idx, p // self.apart, p % self.apart)], wide)

        p = axis("p", count)
        extreme = Reduce(self.kind, (p,), of_block(p))
        found = _first(lambda p: _wins(of_block(p), extreme), count)
        start = _block_start(found // self.apart, self.size, x.shape[-1])

        def at(k: Expr) -> Expr:
            return cast(x[(*idx, index("+", start, k))], wide)

        return index("+", start, _first(lambda k: _wins(at(k), extreme), self.size))


def _blocks(n: int, size: int) -> int:
    """How many blocks a line of n elements has."""
    blocks = -(-n // size)
    return blocks if blocks < MANY else -(-blocks // 4) * 4


def _block_start(b: Expr, size: int, n: Extent) -> Expr:
    """The first element of block b of an axis of n."""
    start, over = index("*", b, as_index(size)), size * _blocks(static(n), size) > static(n)
    return index("min", start, as_index(static(n) - size)) if over else start
