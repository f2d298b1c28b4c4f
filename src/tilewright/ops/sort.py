"""Sorting along an axis, with companions that are moved the same way, and the order itself.

Knows what is sorted: the order (NaN after every number), stability, derivatives. Refuses to know
how (`sort_loops.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tilewright import dtypes
from tilewright.errors import DTypeMismatch, InternalError
from tilewright.expr import Buffer, Expr, Extent, static, var
from tilewright.graph import Op, Type
from tilewright.loops import Let, Stmt, store
from tilewright.ops.indexing import take_along
from tilewright.ops.samples import AWKWARD_AXES, Example, numbers, of_kinds, samples
from tilewright.ops.sort_lines import LineSort
from tilewright.ops.sort_loops import Item, Items, Keys, Place


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
        check_key(args[0])
        if any(a.shape != args[0].shape for a in args):
            raise InternalError(f"cannot sort {args} along axis {self.axis}")
        return args

    def numpy(self, *args: Any) -> tuple[Any, ...]:
        moved = order(args[0], self.axis, self.descending)
        return tuple(np.take_along_axis(a, moved, self.axis) for a in args)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        """The tangents, moved as the sort moves the elements."""
        moved = Argsort(self.axis, self.descending)(args[0])
        return tuple(None if t is None else take_along(t, moved, self.axis) for t in tangents)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        full = (a if b else a.broadcast_leading(size) for a, b in zip(args, batched, strict=True))
        return replace(self, axis=self.axis + 1)(*full)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        x, *companions = args
        keys = Keys(x.dtype, self.descending, merged=bool(companions))
        items = Items(keys, static(x.shape[self.axis]), bool(companions))

        def write(place: Place, j: Expr, item: Item) -> list[Stmt]:
            if not companions:
                return [store(outs[0], (place(j),), items.element(item))]
            came_from = var("from", dtypes.int64)
            moved = [store(o, (place(j),), a[place(came_from)])
                     for o, a in zip(outs, args, strict=True)]  # fmt: skip
            return [Let(came_from, items.position(item)), *moved]

        return LineSort(x, self.axis, items, write).loops()

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


@dataclass(frozen=True)
class Argsort(Op):
    """Positions (int64) along `axis` in the order `Sort` gives the elements; stable."""

    axis: int
    descending: bool = False
    fusion: ClassVar[str] = "opaque"

    def type(self, x: Type) -> Type:
        check_key(x)
        return x.with_dtype(dtypes.int64)

    def numpy(self, x: Any) -> Any:
        return order(x, self.axis, self.descending)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return replace(self, axis=self.axis + 1)(*args)

    def loops(self, outs: Sequence[Buffer], *args: Buffer) -> Stmt:
        (x,), (out,) = args, outs
        keys = Keys(x.dtype, self.descending, merged=True)
        items = Items(keys, static(x.shape[self.axis]), True)

        def write(place: Place, j: Expr, item: Item) -> list[Stmt]:
            return [store(out, (place(j),), items.position(item))]

        return LineSort(x, self.axis, items, write).loops()

    @classmethod
    def examples(cls) -> list[Example]:
        found = [Example((samples(d, (3, 41)),), cls(1, r))
                 for d in of_kinds("biuf") for r in (False, True)]  # fmt: skip
        f64 = dtypes.float64
        found += [Example((numbers(f64, shape),), cls(along)) for shape, along in AWKWARD_AXES]
        found.append(Example((numbers(f64, (10, 6)).T[::2, ::-1],), cls(1)))
        zeros = np.array([0.0, -0.0, np.nan, -np.nan, 0.0, -0.0])
        ties = np.array([2, 1, 2, 0, 1, 0], np.int32)
        return found + [Example((v,), cls(0, r)) for v in (zeros, ties) for r in (False, True)]


def check_key(x: Type) -> None:
    """Raise DTypeMismatch for elements that have no order."""
    if dtypes.is_complex(x.dtype):
        raise DTypeMismatch(
            f"{x!r} cannot be a key to sort by: complex numbers have no order",
            "Use np.sort or np.argsort, which compare real parts, then imaginary ones.",
        )


def order(x: Any, axis: int, descending: bool) -> Any:
    """NumPy's stable argsort, or the stable one of the reverse order."""
    key = x.astype(dtypes.compute_type(x.dtype))  # bfloat16 has no NaN order
    if not descending:
        return np.argsort(key, axis=axis, kind="stable")
    # The reverse of an ascending stable sort of the reversed line is stable.
    found = np.argsort(np.flip(key, axis), axis=axis, kind="stable")
    return key.shape[axis] - 1 - np.flip(found, axis)
