"""What is known of values while a function is printed, and until when.

Knows names for values: an expression, the present numbers of the unrolled axes it depends on, the
scope it was computed in, what it read and which variables were bound. Refuses to know how a value
comes about (`llvm_memory`).

The copies of an unrolled loop are printed from the same expressions: what is known of one that
depends on unrolled axes is known for their present numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeAlias

from tilewright import dtypes
from tilewright.codegen.llvm_values import Emitter, Operand
from tilewright.codegen.places import Place
from tilewright.expr import Axis, Buffer, Expr, Var, static
from tilewright.loops import For

Address: TypeAlias = tuple[Buffer, tuple[Expr, ...]]
"""An element: its buffer and its position there."""


class Knowledge(Emitter):
    """What has been computed already. `changing` are the buffers that are written meanwhile."""

    def __init__(self, changing: frozenset[Buffer]) -> None:
        super().__init__()
        self.changing = changing
        self.label = "entry"
        self.known: dict[Hashable, Operand] = {}
        self.scopes: list[list[Hashable]] = [[]]
        self.readers: dict[Buffer, list[Hashable]] = {b: [] for b in changing}
        self.bound: dict[int, list[Hashable]] = {}  # what is known with a variable, by its serial
        self.unrolled: dict[int, int] = {}  # the serials of unrolled axes and their numbers
        self.wide: set[int] = set()  # the serials of variables with a value for each lane
        self.marks: dict[Expr, tuple[int, ...]] = {}  # those that expressions depend on
        self.all_marks: dict[tuple[int, ...], dict[Expr, tuple[int, ...]]] = {(): self.marks}
        self.places: dict[Address, Place | None] = {}  # where positions are inside these loops
        self.all_places: dict[Hashable, dict[Address, Place | None]] = {((), None): self.places}
        self.vector: Axis | None = None

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What may not run, or not last: values computed inside are forgotten after. Straight-line
        code, unrolled and vector loops included, needs no scope."""
        self.scopes.append([])
        yield
        for e in self.scopes.pop():
            self.known.pop(e, None)

    def key(self, e: Expr) -> Hashable:
        """What the value of an expression is known by: itself, and the numbers of the unrolled
        axes it depends on."""
        marks = self.marks.get(e)
        if marks is None:
            marks = self.marks[e] = tuple([s for s in self.unrolled if s in e.free])
        if not marks:
            return e
        unrolled = self.unrolled
        return (e, marks, *[unrolled[s] for s in marks])

    def numbers(self, axis: Axis, count: int) -> Iterator[int]:
        """The copies of an unrolled body, each while the axis has its number."""
        if not count:
            return
        outer, places, known, unrolled = self.marks, self.places, self.known, self.unrolled
        unrolled[axis.serial] = 0
        self.marks = self.all_marks.setdefault(tuple(unrolled), {})
        self.here()
        for i in range(count):
            unrolled[axis.serial] = i
            known[self.key(axis)] = Operand(str(i), dtypes.int64)
            yield i
        del unrolled[axis.serial]
        self.marks, self.places = outer, places

    @contextmanager
    def in_lanes(self, s: For) -> Iterator[None]:
        """Inside a vector loop of more than one lane."""
        self.vector, self.lanes, self.extent = s.axis, s.lanes, static(s.axis.extent)
        places = self.places
        self.here()
        self.wide.add(s.axis.serial)
        self.remember(s.axis, _numbers(s.lanes))
        yield
        self.wide.discard(s.axis.serial)
        self.vector, self.lanes, self.extent, self.places = None, 1, 1, places

    def here(self) -> None:
        """Look places up among those of the present unrolled axes and vector axis."""
        context = (tuple(self.unrolled), self.vector)
        found = self.all_places.get(context)
        self.places = self.all_places.setdefault(context, {}) if found is None else found

    def remember(self, e: Expr, x: Operand, base: Buffer | None = None) -> None:
        """`x` is the value of `e`, or the address of that offset from `base`, to the end of the
        scope, or until a buffer it reads changes."""
        self.keep(self.key(e) if base is None else (base, self.key(e)), x, e)

    def keep(self, key: Hashable, x: Operand, *of: Expr, read: Buffer | None = None) -> None:
        """Know `x` by a key, as long as the variables of `of` are bound as they are and what these
        and `x` itself `read` does not change."""
        self.known[key] = x
        self.scopes[-1].append(key)
        if read in self.changing:
            self.readers[read].append(key)  # type: ignore[index]
        for e in of:
            if not e.reads.isdisjoint(self.changing):
                for b in e.reads & self.changing:
                    self.readers[b].append(key)
            if self.bound:
                for serial in e.free & self.bound.keys():
                    self.bound[serial].append(key)

    def bind(self, variable: Var, x: Operand) -> None:
        """Give a variable its value. In the next copy of an unrolled body it gets another one, and
        what was known with the old one is forgotten."""
        for key in self.bound.pop(variable.serial, ()):
            self.known.pop(key, None)
        self.bound[variable.serial] = []
        (self.wide.add if x.lanes > 1 else self.wide.discard)(variable.serial)
        self.remember(variable, x)

    def splat(self, x: Operand, lanes: int) -> Operand:
        if x.lanes == lanes or not x.text.startswith("%"):
            return super().splat(x, lanes)
        key = (x.text, lanes)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = super().splat(x, lanes)
            self.scopes[-1].append(key)
        return found

    def forget(self, buffers: frozenset[Buffer]) -> None:
        """Values read from `buffers` no longer hold."""
        for b in buffers:
            for e in self.readers[b]:
                self.known.pop(e, None)
            self.readers[b].clear()

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label


@cache
def _numbers(lanes: int) -> Operand:
    """The number of each lane."""
    text = ", ".join([f"i64 {i}" for i in range(lanes)])
    return Operand(f"<{text}>", dtypes.int64, lanes)
