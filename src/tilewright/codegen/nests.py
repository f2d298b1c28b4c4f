"""Nests of loops that only add products to registers, written out as machine code.

Knows x86's multiply-adds, which of its registers hold sums and factors, and how pointers move from
round to round. Refuses to know where the sums come from, and what becomes of them unless they are
stored as they are: to LLVM a nest is a single instruction.

Selected by LLVM such a nest is a hundred lines and more: each sum a phi in every loop, each factor
an address, a load and a spreading. There is nothing to find out about them: a schedule has chosen
a tile that fits the registers, and all places are at constant distances from a few pointers. So
the assembler gets the instructions themselves, in the order of the statements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias

from tilewright import dtypes
from tilewright.codegen import fetching, multiply_add
from tilewright.codegen.llvm_memory import Slot, ValuePrinter
from tilewright.codegen.llvm_values import Operand, constant, suffix
from tilewright.expr import Apply, Axis, Buffer, Expr, Extent, Load, is_static, literal, static
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    For,
    Stmt,
    Store,
    expressions,
    statements,
)
from tilewright.transforms.index_rules import Affine
from tilewright.transforms.tensorize import FLIPPED, first, is_word, neighbours

INSTRUCTIONS: Final = {
    ("mul", dtypes.float32): "vfmadd231ps",
    ("mul", dtypes.float64): "vfmadd231pd",
    ("dot_bytes", dtypes.int32): "vpdpbusd",
    ("dot_halves", dtypes.float32): "vdpbf16ps",
}
"""By operation and type of the sum. Operands: the second factor, a register or memory; the first
factor; the sum."""
ORDERED: Final = "dot_bytes"
"""The operation whose factors are of two kinds."""
SPREADS: Final = {4: "vbroadcastss", 8: "vbroadcastsd"}
"""What reads one element of so many bytes into all lanes."""
MOVES: Final = {4: "vmovups", 8: "vmovupd"}
MANY, FEW = 32, 16
"""Vector registers of machines with and without AVX-512."""
NUMBERS: Final = 10
"""Registers for pointers and counters: the others are LLVM's, for what surrounds the nest."""
REACH: Final = 1 << 30
"""Bytes that displacements and steps of pointers stay below, and rounds of a loop."""
FIRST_LABEL: Final = 2
"""Labels are numbers, and "0b" and "1b" could be taken for numbers in base two."""
END_LABEL: Final = 9
ALIGN: Final = 5
CLOBBERED: Final = "~{memory},~{dirflag},~{fpsr},~{flags}"


class Pointer(NamedTuple):
    """A place near which elements are, and how many bytes each of the nest's axes moves it."""

    buffer: Buffer
    form: Affine
    steps: tuple[tuple[int, int], ...]


class Place(NamedTuple):
    """So many bytes from a pointer: one element for all lanes (`lanes` 0), or the first `lanes`."""

    pointer: int
    displacement: int
    lanes: int


class Product(NamedTuple):
    """What is added to a sum."""

    total: int
    first: Place
    second: Place


class Result(NamedTuple):
    """Where a sum goes."""

    total: int
    place: Place


class Fetch(NamedTuple):
    """So many lines that are wanted in the second level cache."""

    place: Place
    lines: int


@dataclass
class Loop:
    """So many rounds over an axis (None: as many as the program says)."""

    axis: Axis
    rounds: int | None
    items: Items = field(default_factory=list)


Items: TypeAlias = "list[Product | Result | Fetch | Loop]"


def taken(p: ValuePrinter, inner: Sequence[Stmt], at: int) -> int:
    """Print statements of a block from `at` on as one instruction: loops of products one after the
    other, and what stores their sums. Of how many it is; 0, and nothing is printed, if of none."""
    end = at
    while end < len(inner) and _is_loop(inner[end]) and _only_products(inner[end]):
        end += 1
    if end == at or multiply_add.WRITTEN not in p.native or p.vector is not None:
        return 0
    last = end
    while last < len(inner) and _only_stores(inner[last]):
        last += 1
    for stop in (last, end) if last > end and _are_done(inner, at, last) else (end,):
        nest = Nest(p)
        for s in inner[at:stop]:
            nest.collect(s)
        if nest.fits and nest.sums and nest.print():
            return stop - at
    return 0


def _is_loop(s: Stmt) -> bool:
    return isinstance(s, For) and s.kind == "serial"


def _only_products(s: Stmt) -> bool:
    """Whether there is nothing inside but sums of products in registers."""
    if isinstance(s, Block):
        return all(map(_only_products, s.statements))
    if isinstance(s, For):
        known = s.kind == "serial" or is_static(s.axis.extent)
        return known and s.kind != "parallel" and _only_products(s.body)
    return isinstance(s, Accumulate) and multiply_add.is_product(s)


def _are_done(inner: Sequence[Stmt], at: int, end: int) -> bool:
    """Whether a block's registers that its statements from `at` to `end` write are not read by
    those behind."""
    sums = frozenset([b for s in inner[at:end] for b in s.writes if b.scope == "registers"])
    own = {s.buffer for s in inner[:at] if isinstance(s, Alloc)}
    later = [e for s in inner[end:] for t in statements(s) for e in expressions(t)]
    return sums <= own and all(e.reads.isdisjoint(sums) for e in later)


def _only_stores(s: Stmt) -> bool:
    """Whether there is nothing inside but copies of registers to memory, written out."""
    if isinstance(s, Block):
        return all(map(_only_stores, s.statements))
    if isinstance(s, For):
        return s.kind in ("unroll", "vector") and _only_stores(s.body)
    if not isinstance(s, Store) or s.buffer.scope == "registers":
        return False
    e = s.value
    return isinstance(e, Load) and e.guard is None and e.buffer.scope == "registers"


class Nest:
    """The products of a nest in their order, and the registers and pointers they need."""

    def __init__(self, p: ValuePrinter) -> None:
        self.p = p
        self.items: Items = []
        self.fits = True
        self.instruction = ""
        self.swaps = True
        self.totals: dict[Slot, int] = {}
        self.sums: list[Operand] = []
        self.pointers: dict[Pointer, int] = {}
        self.axes: dict[int, Axis] = {}
        self.depth = 0
        self.count: Extent | None = None
        """The rounds of a loop that only the program knows."""
        self.written: set[Buffer] = set()
        self.near: dict[Expr, bool] = {}
        self.masks = multiply_add.SPREAD in p.native

    # -- what it does -----------------------------------------------------------------------------

    def collect(self, s: Stmt) -> None:
        """Go through the statements as often as they are written out."""
        if not self.fits:
            return
        match s:
            case Block(inner):
                for t in inner:
                    self.collect(t)
            case Accumulate():
                self.fits = self.product(s)
            case Store():
                self.fits = self.result(s)
            case For(axis):
                self.axes[axis.serial] = axis
                self.loop(s)

    def loop(self, s: For) -> None:
        rounds = static(s.axis.extent) if is_static(s.axis.extent) else None
        if s.kind == "vector" and s.lanes > 1:
            with self.p.in_lanes(s):
                self.collect(s.body)
        elif s.kind == "serial" and rounds != 1 and rounds != 0:
            # Where pointers are after any number of rounds is not known: such a loop is the last.
            self.fits = self.count is None and (rounds is None or rounds < REACH)
            outer, self.items = self.items, []
            self.depth += 1
            self.collect(s.body)
            self.depth -= 1
            outer.append(Loop(s.axis, rounds, self.items))
            self.items = outer
            if rounds is None:
                self.fits = self.fits and not self.depth
                self.count = s.axis.extent
        else:
            assert rounds is not None
            for _ in self.p.numbers(s.axis, rounds):
                self.collect(s.body)

    def product(self, s: Accumulate) -> bool:
        """Note a product; whether it is one of the nest's kind."""
        p, e, dtype = self.p, self.p.expanded(s.value), s.buffer.dtype
        slot, lanes = p.slot(s.buffer, s.index)
        acc, name = p.registers.get(slot), e.op.name if isinstance(e, Apply) else ""
        instruction = INSTRUCTIONS.get((name, dtype), "")
        widths = multiply_add.WIDTHS if self.masks else multiply_add.WIDTHS[:2]
        wide = lanes * dtype.itemsize in widths and p.filled.get(slot) == p.extent
        if acc is None or acc.lanes != lanes or not instruction or not wide:
            return False
        factors = [self.factor(f, acc) for f in e.children]
        self.sums = self.sums or [acc]
        self.instruction = self.instruction or instruction
        alike = (acc.type, instruction) == (self.sums[0].type, self.instruction)
        if not alike or None in factors:
            return False
        self.swaps = name != ORDERED
        if slot not in self.totals:
            self.totals[slot] = len(self.totals)
            self.sums[self.totals[slot] :] = [acc]
        self.items.append(Product(self.totals[slot], *factors))  # type: ignore[arg-type]
        return True

    def result(self, s: Store) -> bool:
        """Note that a sum goes to memory; whether it can."""
        p, size, e = self.p, s.buffer.dtype.itemsize, s.value
        assert isinstance(e, Load)
        k = self.totals.get(p.slot(e.buffer, e.index)[0])
        if k is None or self.sums[k].dtype != s.buffer.dtype or self.sums[k].lanes != p.lanes:
            return False
        offset, step = p.position(s.buffer, s.index)
        whole = p.extent == p.lanes or self.masks
        if step != 1 or not whole or p.streams(s.buffer, offset):
            return False
        place = self.place(s.buffer, offset, size, p.extent)
        if place is not None:
            self.items.append(Result(k, place))
            self.written.add(s.buffer)
        return place is not None

    def factor(self, e: Expr, acc: Operand) -> Place | None:
        """Where a factor is; None if it is nowhere near a pointer, or not as wide as the sum."""
        if not self.is_near(e):
            return None
        load, group = first(e), len(e.children) if is_word(e) else 1
        size = load.buffer.dtype.itemsize
        offset, step = self.p.position(load.buffer, load.index)
        part = step == group and self.p.extent < acc.lanes
        if group * size != acc.dtype.itemsize or step not in (0, group) or part > self.masks:
            return None
        return self.place(load.buffer, offset, size, self.p.extent if step else 0)

    def place(self, buffer: Buffer, offset: Affine, size: int, lanes: int) -> Place | None:
        """A place as a distance from a pointer; None if that is too far."""
        steps: list[tuple[int, int]] = []
        rest: list[tuple[Expr, int]] = []
        for t, c in offset.terms:
            if isinstance(t, Axis) and t.serial in self.axes:
                steps.append((t.serial, c * size))
            else:
                rest.append((t, c))
        if any(abs(n) >= REACH for n in (offset.constant * size, *(c for _, c in steps))):
            return None
        pointer = Pointer(buffer, Affine(tuple(rest), 0), tuple(steps))
        k = self.pointers.setdefault(pointer, len(self.pointers))
        return Place(k, offset.constant * size, lanes)

    def is_near(self, e: Expr) -> bool:
        """Whether a factor is an element of memory, or a word of some, at a distance from some
        pointer that only numbers and the nest's own axes change."""
        found = self.near.get(e)
        if found is None:
            found = self.near[e] = self._is_near(e)
        return found

    def _is_near(self, e: Expr) -> bool:
        if isinstance(e, Apply) and is_word(e):
            if not neighbours(e) or e.op is FLIPPED:
                return False
        elif not isinstance(e, Load) or e.guard is not None:
            return False
        load = first(e)
        if self.p.register(load.buffer):
            return False
        terms = self.p.form(load.buffer, load.index).terms
        return all(isinstance(t, Axis) or t.free.isdisjoint(self.axes) for t, _ in terms)

    def fetch(self) -> None:
        """Fetch what is multiplied next (`fetching`), if there is a register for where it is."""
        loops: list[Loop] = []
        items = self.items
        while found := [x for x in items if isinstance(x, Loop)]:
            loops.append(found[0])
            items = found[0].items
            if len(found) > 1 or found[0].rounds is None:
                return
        rounds = [(x.axis.serial, x.rounds or 0) for x in loops]
        places = [f for x in items if isinstance(x, Product) for f in (x.first, x.second)]
        readers = Counter([f.pointer for f in places if f.lanes])
        for k, (buffer, form, steps) in [*enumerate(self.pointers)] if loops else ():
            size = buffer.dtype.itemsize
            large = is_static(buffer.size) and static(buffer.size) * size >= fetching.MATRIX_BYTES
            if not large or not readers[k]:
                continue
            found = fetching.ahead(form, steps, size, rounds, self.p.around, readers[k])
            if found is not None and len(self.pointers) + len(loops) + 2 <= NUMBERS:
                pointer = Pointer(buffer, found.form, found.steps)
                place = Place(self.pointers.setdefault(pointer, len(self.pointers)), 0, 0)
                items.append(Fetch(place, found.lines))

    # -- its text ---------------------------------------------------------------------------------

    def print(self) -> bool:
        """Print the instruction; False if there are not registers enough."""
        self.fetch()
        p, text = self.p, Text(self)
        if not text.fits:
            return False
        bases = [p.address(x.buffer, x.form) for x in self.pointers]
        wide, n = self.sums[0].type, len(self.sums)
        numbers = ["ptr"] * len(bases) + ["i64"] * text.counters
        name = f"%nest.{n}.{suffix(self.sums[0].dtype, self.sums[0].lanes)}"
        name += f".{len(bases)}.{text.counters}"
        p.declarations.add(f"{name} = type {{ {', '.join([wide] * n + numbers)} }}")
        given = [(k, str(x)) for k, x in enumerate(self.sums) if not _is_zero(x)]
        given += [(n + k, f"ptr {b}") for k, b in enumerate(bases)]
        if isinstance(self.count, Expr):
            given.append((text.counter, str(p.value_of(self.count))))
        kinds = [f"={{{text.vector(k)}}}" for k in range(n)] + ["=r"] * len(numbers)
        kinds += [str(k) for k, _ in given]
        kinds += [f"~{{{text.vector(n + k)}}}" for k in range(text.temporaries)]
        kinds += [f"~{{k{k}}}" for k in text.masks.values()]
        body, args = "\n    ".join(text.lines), ", ".join([x for _, x in given])
        constraints = ",".join([*kinds, CLOBBERED])
        whole = p.fresh("nest")
        p.emit(f'{whole} = call {name} asm "\n    {body}", "{constraints}"({args})')
        for slot, k in self.totals.items():
            x = self.sums[k]
            if self.written:  # and nobody reads the registers
                del p.registers[slot]
            else:
                part = f"extractvalue {name} {whole}, {k}"
                p.registers[slot] = p.value(part, x.dtype, x.lanes)
        p.forget(frozenset([*self.written, *(slot[0] for slot in self.totals)]))
        return True


class Text:
    """The instructions of a nest. Sums are in the first vector registers, factors in those behind;
    pointers and counters are where LLVM wants: operands, numbered behind the sums."""

    def __init__(self, nest: Nest) -> None:
        self.nest = nest
        self.dtype, self.lanes = nest.sums[0].dtype, nest.sums[0].lanes
        self.letter = "xyz"[multiply_add.WIDTHS.index(self.lanes * self.dtype.itemsize)]
        self.wide = multiply_add.SPREAD in nest.p.native
        self.counters = max(map(_depth, nest.items)) + 1  # the last one makes masks
        self.steps = [dict(x.steps) for x in nest.pointers]
        self.late = [0] * len(self.steps)
        """How many bytes each pointer has still to be moved."""
        self.pointer = len(nest.sums)
        self.counter = self.pointer + len(self.steps)
        self.temporaries = 0
        self.masks: dict[int, int] = {}
        """The numbers of mask registers for so many lanes."""
        self.lines: list[str] = []
        self.items(nest.items, 0)
        self.lines[:0] = self.beginning()
        registers = len(nest.sums) + self.temporaries
        enough = registers <= (MANY if self.wide else FEW) and len(self.masks) < 7
        self.fits = enough and len(self.steps) + self.counters <= NUMBERS

    def beginning(self) -> list[str]:
        """Sums from zero, and masks. (What clears 16 bytes clears those above, too.)"""
        clear, k = "vpxord" if self.wide else "vxorps", self.counter + self.counters - 1
        zeros = [i for i, x in enumerate(self.nest.sums) if _is_zero(x)]
        lines = []
        for i in zeros:
            x = f"%xmm{i}"
            lines.append(f"{'vxorps' if i < FEW else clear} {x}, {x}, {x}")
        for lanes, number in self.masks.items():
            lines += [f"movl $${(1 << lanes) - 1}, ${{{k}:k}}", f"kmovw ${{{k}:k}}, %k{number}"]
        return lines

    def vector(self, k: int) -> str:
        return f"{self.letter}mm{k}"

    def items(self, items: Items, depth: int) -> None:
        for kind, found in groupby(items, type):
            if kind is Product:
                self.run([*found])  # type: ignore[arg-type]
                continue
            for x in found:
                if isinstance(x, Loop):
                    self.loop(x, depth)
                elif isinstance(x, Result):
                    self.store(x)
                elif isinstance(x, Fetch):
                    self.fetch(x)

    def loop(self, x: Loop, depth: int) -> None:
        counter, label = self.counter + depth, FIRST_LABEL + depth
        self.move()
        if x.rounds is None:
            self.lines += [f"testq ${counter}, ${counter}", f"jle {END_LABEL}f"]
        else:
            self.lines.append(f"movl $${x.rounds}, ${{{counter}:k}}")
        self.lines += [f".p2align {ALIGN}", f"{label}:"]
        self.items(x.items, depth + 1)
        self.step(x.axis, 1)
        self.move()
        self.lines += [f"decq ${counter}", f"jne {label}b"]
        if x.rounds is None:
            self.lines.append(f"{END_LABEL}:")
        else:
            self.step(x.axis, -x.rounds)

    def step(self, axis: Axis, rounds: int) -> None:
        for k, steps in enumerate(self.steps):
            self.late[k] += rounds * steps.get(axis.serial, 0)

    def move(self) -> None:
        """Bring all pointers to where they should be."""
        for k, by in enumerate(self.late):
            if by:
                self.lines.append(f"addq $${by}, ${self.pointer + k}")
                self.late[k] = 0

    def run(self, products: Sequence[Product]) -> None:
        """Products one after the other. A factor stays in a register from its first use to its
        last; one that has a single use is read by the instruction, if it can be."""
        self.move()
        uses = Counter([f for x in products for f in (x.first, x.second)])
        left = Counter(uses)
        held: dict[Place, int] = {}
        free: list[int] = []
        for x in products:
            a, b = x.first, x.second
            if self.nest.swaps and uses[a] == 1 and self.is_operand(a):
                a, b = b, a
            there = uses[b] == 1 and self.is_operand(b)
            for f in (a,) if there else (a, b):
                if f not in held:
                    held[f] = free.pop() if free else self.fresh()
                    self.load(f, held[f])
            spread = "" if b.lanes else f"{{1to{self.lanes}}}"
            second = self.place(b) + spread if there else f"%{self.vector(held[b])}"
            others = f"%{self.vector(held[a])}, %{self.vector(x.total)}"
            self.lines.append(f"{self.nest.instruction} {second}, {others}")
            for f in (x.first, x.second):
                left[f] -= 1
                if not left[f] and f in held:
                    free.append(held.pop(f))

    def fresh(self) -> int:
        """A register more for factors."""
        self.temporaries += 1
        return len(self.nest.sums) + self.temporaries - 1

    def is_operand(self, f: Place) -> bool:
        """Whether the instruction can read a factor from memory itself."""
        return f.lanes == self.lanes or (not f.lanes and self.wide)

    def place(self, f: Place) -> str:
        return f"{f.displacement or ''}(${self.pointer + f.pointer})"

    def load(self, f: Place, register: int) -> None:
        size, mask = self.dtype.itemsize, self.mask(f)
        move = MOVES[size]
        if not f.lanes:
            move = "vmovddup" if size == 8 and self.lanes == 2 else SPREADS[size]
        zeros = " {z}" if mask else ""
        self.lines.append(f"{move} {self.place(f)}, %{self.vector(register)}{mask}{zeros}")

    def store(self, x: Result) -> None:
        move, place = MOVES[self.dtype.itemsize], self.place(x.place)
        self.lines.append(f"{move} %{self.vector(x.total)}, {place}{self.mask(x.place)}")

    def fetch(self, x: Fetch) -> None:
        """Lines from a place on. (Those beyond the matrix may be nowhere: that is no error.)"""
        for k in range(x.lines):
            place = x.place._replace(displacement=fetching.LINE_BYTES * k)
            self.lines.append(f"prefetcht1 {self.place(place)}")

    def mask(self, f: Place) -> str:
        """The mask of the lanes there are, if some are none."""
        if f.lanes in (0, self.lanes):
            return ""
        return f" {{%k{self.masks.setdefault(f.lanes, len(self.masks) + 1)}}}"


def _is_zero(x: Operand) -> bool:
    return x.text == constant(literal(0, x.dtype), x.lanes).text


def _depth(x: Product | Result | Fetch | Loop) -> int:
    """Loops inside one another."""
    return 1 + max(map(_depth, x.items), default=0) if isinstance(x, Loop) else 0
