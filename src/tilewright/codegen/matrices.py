"""Small matrices as LLVM prints them for Intel's Advanced Matrix Extensions: eight registers of up
to 16 rows of 64 bytes, for which rows and bytes are configured before they are used.

Knows which `matrix` loops are one instruction, which register a matrix is in, and around what the
registers are configured: as much as needs one configuration only, since that takes as long as ten
products. Refuses to know where such loops come from (`transforms/matrices`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from tilewright.codegen.llvm_memory import ValuePrinter
from tilewright.expr import Apply, Axis, Buffer, Expr, Lit, Load, depends, static
from tilewright.loops import Accumulate, Block, Call, For, Function, Stmt, Store, statements
from tilewright.target import Target
from tilewright.transforms.index_rules import Affine, affine, flat
from tilewright.transforms.tensorize import INTRINSICS, first, is_word, neighbours

SIDE: Final = 16
"""Rows of a register, and its 32-bit columns."""
ROW_BYTES: Final = 64
SUMS, BY_ROWS, BY_COLUMNS = 0, 4, 6
"""The first registers of two by two matrices of sums, of what is read by rows and by columns."""
PRODUCTS: Final = {
    ("dot_signed", True): "tdpbssd",
    ("dot_unsigned", True): "tdpbuud",
    ("dot_bytes", True): "tdpbusd",
    ("dot_bytes", False): "tdpbsud",
    ("dot_halves", True): "tdpbf16ps",
}
"""LLVM's instruction by the operation and whether its first operand is read by rows; where both
operands are alike, that is no question."""


class Memory(NamedTuple):
    """A matrix in memory: its first element, and the bytes from a row to the next."""

    buffer: Buffer
    form: Affine
    stride: int


@dataclass(frozen=True)
class Matrix:
    """What `matrix` loops do to sums: their register's place, two by two, and rows. They are set
    to zero, or copied from memory or to it, or the product of two matrices is added."""

    place: tuple[int, int]
    rows: int
    instruction: str = ""
    operands: tuple[Memory, ...] = ()
    of: Memory | None = None
    to: Memory | None = None

    @property
    def register(self) -> int:
        return SUMS + 2 * self.place[0] + self.place[1]


def parsed(s: For) -> Matrix | None:
    """What a `matrix` loop does, if it is one instruction."""
    match s:
        case For(u, Block((For(t, Block((For(v, Block((Accumulate() as a,))),)), "matrix"),))):
            return _product(a, u, t, v)
        case For(u, Block((For(v, Block((Store() as x,)), "vector"),))):
            e = x.value
            if x.buffer.scope == "matrices":
                place, of = _sums(x.index, u, v), None if isinstance(e, Lit) else _operand(e, u, v)
                zero = isinstance(e, Lit) and not e.value
                return Matrix(place, static(u.extent), of=of) if place and (zero or of) else None
            if not isinstance(e, Load) or e.buffer.scope != "matrices":
                return None
            place, to = _sums(e.index, u, v), _memory(x.buffer, x.index, u, v)
            return Matrix(place, static(u.extent), to=to) if place and to else None
    return None


def _sums(index: Sequence[Expr], u: Axis, v: Axis) -> tuple[int, int] | None:
    match index:
        case (Lit(a), Lit(b), row, column) if row is u and column is v and a < 2 and b < 2:
            return int(a), int(b)
    return None


def _product(s: Accumulate, u: Axis, t: Axis, v: Axis) -> Matrix | None:
    e, place = s.value, _sums(s.index, u, v) if s.buffer.scope == "matrices" else None
    if place is None or not isinstance(e, Apply) or len(e.args) != 2 or t.extent != SIDE:
        return None
    by_rows = [x for x in e.args if depends(x, (u,))]
    if len(by_rows) != 1 or depends(by_rows[0], (v,)) or s.kind != "sum":
        return None
    (a,), (b,) = by_rows, [x for x in e.args if x is not by_rows[0]]
    alike = e.op.name != "dot_bytes"
    instruction = PRODUCTS.get((e.op.name, alike or e.args[0] is a), "")
    x, y = _operand(a, u, t), _operand(b, t, v)
    if not instruction or x is None or y is None:
        return None
    return Matrix(place, static(u.extent), instruction, (x, y))


def _operand(e: Expr, rows: Axis, columns: Axis) -> Memory | None:
    word = is_word(e) and neighbours(e)
    load = first(e) if word or isinstance(e, Load) else None
    if load is None or load.guard is not None or e.type.itemsize != ROW_BYTES // SIDE:
        return None
    return _memory(load.buffer, load.index, rows, columns)


def _memory(buffer: Buffer, index: Sequence[Expr], rows: Axis, columns: Axis) -> Memory | None:
    """A matrix whose rows have neighbours of 4 bytes along an axis."""
    form, size = affine(flat(buffer, tuple(index))), buffer.dtype.itemsize
    rest = form.without(rows).without(columns)
    moved = any(depends(t, (rows, columns)) for t, _ in rest.terms)
    if form.coefficient(columns) * size != ROW_BYTES // SIDE or moved:
        return None
    return Memory(buffer, rest, form.coefficient(rows) * size)


def _outermost(s: Stmt) -> Iterator[For]:
    """The outermost `matrix` loops inside a statement."""
    if isinstance(s, For) and s.kind == "matrix":
        yield s
        return
    for t in s.inner:
        yield from _outermost(t)


def unit(f: Function, target: Target | None) -> Unit | None:
    """What prints a function's matrices; None if there are none, or no registers for them."""
    if target is None or not any(i.side and i.runs_on(target) for i in INTRINSICS.values()):
        return None
    found = {s: parsed(s) for s in _outermost(f.body)}
    if not found or None in found.values():
        return None
    return Unit({s: x for s, x in found.items() if x is not None})


class Unit:
    """The registers of one function, and what is in them."""

    def __init__(self, work: dict[For, Matrix]) -> None:
        self.work = work
        self.configured = False
        self.held: dict[int, tuple[str, Memory]] = {}  # what a register was loaded with, and where

    def begins(self, s: Stmt) -> bool:
        """Whether the registers are to be configured for a statement."""
        return not self.configured and self.rows(s) is not None

    def rows(self, s: Stmt) -> tuple[int, int] | None:
        """The rows of the registers above and below, if they are the same in all of a statement and
        nothing is called meanwhile; None also if it has no matrices."""
        found: tuple[set[int], set[int]] = (set(), set())
        for x in _outermost(s):
            found[self.work[x].place[0]].add(self.work[x].rows)
        if not any(found) or any(len(rows) > 1 for rows in found):
            return None
        if any(isinstance(t, Call) for t in statements(s)):
            return None
        above, below = (max(rows, default=SIDE) for rows in found)
        return above, below

    @contextmanager
    def configuration(self, p: ValuePrinter, s: Stmt, first: list[str]) -> Iterator[None]:
        """The registers are configured around what is printed; `first` stands before all lines."""
        rows = self.rows(s)
        assert rows is not None, "the statement was asked"
        heights = [rows[k // 2] for k in range(4)] + [*rows, SIDE, SIDE]
        columns = [x for _ in heights for x in (ROW_BYTES, 0)]
        layout = [1, *[0] * 15, *columns, *[0] * 16, *heights, *[0] * 8]
        text, kind = p.fresh("stack"), f"<{len(layout)} x i8>"
        first.append(f"  {text} = alloca {kind}, align {ROW_BYTES}")
        numbers = ", ".join([f"i8 {x}" for x in layout])
        first.append(f"  store {kind} <{numbers}>, ptr {text}, align {ROW_BYTES}")
        self.call(p, "ldtilecfg", f"ptr {text}")
        self.configured = True
        yield
        self.configured = False
        self.call(p, "tilerelease")

    def print(self, p: ValuePrinter, s: For) -> None:
        """One instruction, and what loads its operands."""
        x = self.work[s]
        if x.to is not None:
            self.call(p, "tilestored64", f"i8 {x.register}", *self.place(p, x.to))
            p.forget(frozenset((x.to.buffer,)))
        elif x.operands:
            a, b = BY_ROWS + x.place[0], BY_COLUMNS + x.place[1]
            for register, memory in zip((a, b), x.operands, strict=True):
                self.load(p, register, memory)
            self.call(p, x.instruction, f"i8 {x.register}", f"i8 {a}", f"i8 {b}")
        else:
            self.held.clear()
            if x.of is None:
                self.call(p, "tilezero", f"i8 {x.register}")
            else:
                self.call(p, "tileloadd64", f"i8 {x.register}", *self.place(p, x.of))

    def load(self, p: ValuePrinter, register: int, memory: Memory) -> None:
        """A matrix from memory, unless it is there: nothing is written while sums are computed but
        what was copied for the products behind."""
        if self.held.get(register) != (p.label, memory):
            self.held[register] = p.label, memory
            self.call(p, "tileloadd64", f"i8 {register}", *self.place(p, memory))

    def place(self, p: ValuePrinter, memory: Memory) -> tuple[str, str]:
        where = p.address(memory.buffer, p.settled(memory.form))
        return f"ptr {where}", f"i64 {memory.stride}"

    def call(self, p: ValuePrinter, name: str, *args: str) -> None:
        types = ", ".join([a.split()[0] for a in args])
        p.declarations.add(f"declare void @llvm.x86.{name}({types})".replace("i8", "i8 immarg"))
        p.emit(f"call void @llvm.x86.{name}({', '.join(args)})")
