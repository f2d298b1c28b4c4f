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
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from tilewright import dtypes
from tilewright.codegen import fetching, multiply_add
from tilewright.codegen.guards import OPEN, Guard
from tilewright.codegen.llvm_memory import NEAR_BYTES, ZERO, Slot, ValuePrinter
from tilewright.codegen.llvm_values import Operand, suffix
from tilewright.codegen.nest_instructions import (
    NUMBERS,
    Factor,
    Fetch,
    Given,
    Items,
    Loop,
    Picked,
    Place,
    Product,
    Result,
    Text,
    Work,
    is_zero,
)
from tilewright.codegen.picks import Step
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
REACH: Final = 1 << 30
"""Bytes that displacements and steps of pointers stay below, and rounds of a loop."""
SHORT: Final = 16
"""Products that are written out without a loop from so many on."""
GIVEN: Final = 12
"""The most factors that stay in registers from nest to nest."""
NOWHERE: Final = literal(False, dtypes.bool_)
"""The condition of what is zeros and never read."""
CLOBBERED: Final = "~{memory},~{dirflag},~{fpsr},~{flags}"


class Pointer(NamedTuple):
    """A place near which elements are, and how many bytes each of the nest's axes moves it. Where
    a condition does not hold there are zeros instead."""

    buffer: Buffer
    form: Affine
    steps: tuple[tuple[int, int], ...]
    condition: Expr | None = None


def taken(p: ValuePrinter, inner: Sequence[Stmt], at: int) -> int:
    """Print statements of a block from `at` on as one instruction: loops of products one after the
    other, and what stores their sums. Products without a loop are one only with their stores. Of
    how many statements it is; 0, and nothing is printed, if of none."""
    end = at
    while end < len(inner) and _is_loop(inner[end]) and _only_products(inner[end]):
        end += 1
    written_out = end == at and at < len(inner) and _is_window(inner[at])
    end += written_out
    if end == at or multiply_add.WRITTEN not in p.native or p.vector is not None:
        return 0
    last = _stored_to(inner, end)
    stored = last > end and _are_done(inner, at, last)
    if written_out and not stored:
        return 0
    gives = written_out and _gives(inner, at)
    for stop in (last,) if written_out else (last, end) if stored else (end,):
        nest = Nest(p, gives)
        for s in inner[at:stop]:
            nest.collect(s)
        if nest.fits and nest.sums and nest.print():
            return stop - at
    return 0


def spread_ahead(p: ValuePrinter, s: For) -> None:
    """Read what a loop's windows multiply by before it, where no round changes it. (LLVM cannot:
    for all it knows, the nests' stores do.)"""
    written = {multiply_add.WRITTEN, multiply_add.SPREAD} <= p.native and p.vector is None
    if not written or not is_static(s.axis.extent):
        return
    blocks = [s.body]
    for block in blocks:
        for at, t in enumerate(block.statements):
            if isinstance(t, Block):
                blocks.append(t)
            elif _is_window(t) and _gives(block.statements, at):
                _spread(p, t, s, 1)


def _spread(p: ValuePrinter, s: Stmt, loop: For, lanes: int) -> None:
    """Spread the factors of a statement's products that are there before a loop."""
    match s:
        case Block(inner):
            for t in inner:
                _spread(p, t, loop, lanes)
        case For(kind="vector"):
            _spread(p, s.body, loop, s.lanes)
        case For(axis, kind="unroll"):
            factors = [
                e for t in statements(s) if isinstance(t, Accumulate) for e in t.value.children
            ]
            moves = any(axis.serial in e.free and _stays(e, loop) for e in factors)
            for _ in p.numbers(axis, static(axis.extent) if moves else 1):
                _spread(p, s.body, loop, lanes)
        case Accumulate(value=value):
            there = {*p.unrolled, *(a.serial for a in p.around)}
            for e in p.expanded(value).children:
                if _stays(e, loop) and e.free <= there:
                    p.splat(p.value_of(e), lanes)


def _stays(e: Expr, loop: For) -> bool:
    """Whether a factor is an element that no round of a loop changes, nor which one it is."""
    plain = isinstance(e, Load) and e.guard is None and loop.axis.serial not in e.free
    return plain and e.reads.isdisjoint(loop.body.writes)


def _gives(inner: Sequence[Stmt], at: int) -> bool:
    """Whether what a window's products share is little enough to stay in registers."""
    stores = inner[at + 1 : _stored_to(inner, at + 1)]
    return multiply_add.counted(inner[at]) <= GIVEN * _copies(stores)


def _stored_to(inner: Sequence[Stmt], at: int) -> int:
    """Where the statements end that store sums, from `at` on."""
    while at < len(inner) and _only_stores(inner[at]):
        at += 1
    return at


def _copies(inner: Sequence[Stmt]) -> int:
    """Of how many copies statements are, that are written out."""
    found = 0
    for s in inner:
        inside = (
            s.statements
            if isinstance(s, Block)
            else s.body.statements
            if isinstance(s, For)
            else ()
        )
        rounds = static(s.axis.extent) if isinstance(s, For) and s.kind == "unroll" else 1
        found += rounds * _copies(inside) if inside else 1
    return found


def _is_loop(s: Stmt) -> bool:
    return isinstance(s, For) and s.kind == "serial"


def _is_window(s: Stmt) -> bool:
    """Whether a statement is enough products that are written out, as those of a window."""
    return isinstance(s, For) and s.kind == "unroll" and multiply_add.counted(s) >= SHORT


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

    def __init__(self, p: ValuePrinter, gives: bool) -> None:
        self.p = p
        self.gives = gives
        """Whether elements that are spread are read before the nest, if they are not guarded."""
        self.given: dict[str, tuple[int, Operand]] = {}
        self.items: Items = []
        self.fits = True
        self.instruction = ""
        self.swaps = True
        self.totals: dict[Slot, int] = {}
        self.sums: list[Operand] = []
        self.pointers: dict[Pointer, int] = {}
        self.axes: dict[int, Axis] = {}
        self.depth = 0
        self.looped: set[int] = set()
        """The serials of its loops' axes."""
        self.count: Extent | None = None
        """The rounds of a loop that only the program knows."""
        self.written: set[Buffer] = set()
        self.near: dict[Expr, bool] = {}
        self.places: dict[Hashable, Factor | None] = {}
        """Where factors are: those of a row and of a column are in many products each."""
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
            self.looped.add(s.axis.serial)
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

    def factor(self, e: Expr, acc: Operand) -> Factor | None:
        """Where a factor is; None if it is nowhere near a pointer, or not as wide as the sum."""
        key = (self.p.key(e), self.p.extent, acc.lanes)
        if key not in self.places:
            self.places[key] = self._factor(e, acc)
        return self.places[key]

    def _factor(self, e: Expr, acc: Operand) -> Factor | None:
        if not self.is_near(e):
            return None
        load, group = first(e), len(e.children) if is_word(e) else 1
        size = load.buffer.dtype.itemsize
        offset, step = self.p.position(load.buffer, load.index)
        if self.gives and load is e and not step and load.guard is None:
            x = self.p.splat(self.p.value_of(e), acc.lanes)
            return Given(self.given.setdefault(x.text, (len(self.given), x))[0])
        if group * size != acc.dtype.itemsize:
            return None
        g = OPEN if load.guard is None else self.p.guard(load.guard)
        if g.never:
            return self.chosen(load.buffer, Affine((), 0), size, acc.lanes, NOWHERE)
        if load is e and self.p.spreads(load.buffer, load.index, step, g):
            return self.picked(load, offset, step or 0, g, acc)
        part = step == group and (self.p.extent < acc.lanes or g.lanes is not None)
        if step not in (0, group) or part > self.masks:
            return None
        if g.varying is not None or (g.lanes is not None and not step):
            return None
        bits = _bits(g.lanes or ())
        lanes = self.p.extent if step else 0
        if g.shared is None:
            found = self.place(load.buffer, offset, size, lanes)
        else:
            found = self.chosen(load.buffer, offset, size, lanes, g.shared)
        return found and found._replace(bits=bits)

    def picked(self, e: Load, offset: Affine, step: int, g: Guard, acc: Operand) -> Picked | None:
        """The vectors that a factor is picked from, at most two; None if there are more, or what
        is read is known only when the program runs."""
        size, lanes = e.buffer.dtype.itemsize, acc.lanes
        wide = self.masks and lanes * size > min(multiply_add.WIDTHS)
        if not wide or size != acc.dtype.itemsize or g.varying is not None:
            return None
        pick = self.p.pick(e.buffer, e.index, step, g)
        match pick.steps, pick.last:
            case (_,), tuple() as order:
                pass
            case (_, Step(order=order)), None:
                pass
            case _:
                return None

        def at(shift: int, bits: int = 0) -> Place | None:
            if g.shared is None:
                found = self.place(e.buffer, offset.shifted(shift), size, lanes)
            else:
                found = self.chosen(e.buffer, offset.shifted(shift), size, lanes, g.shared)
            return found and found._replace(bits=bits)

        vectors = [at(pick.ahead + x.start, 0 if all(x.may) else _bits(x.may)) for x in pick.steps]
        beside = None if pick.beside is None else at(step * pick.beside, 1 << pick.beside)
        if None in vectors or (beside is None) < (pick.beside is None):
            return None
        bits = _bits(g.lanes) if g.lanes is not None else 0
        return Picked(tuple(vectors), order, bits, beside)  # type: ignore[arg-type]

    def chosen(
        self, buffer: Buffer, offset: Affine, size: int, lanes: int, condition: Expr
    ) -> Place | None:
        """A place under a condition, as a distance from a pointer that is chosen before the nest;
        None if something in the nest moves one of them."""
        moved = [condition, *(t for t, _ in offset.terms)]
        if not all(e.free.isdisjoint(self.axes) for e in moved):
            return None
        for x, k in self.pointers.items():
            apart = (offset.constant - x.form.constant) * size
            alike = (x.buffer, x.form.terms, x.condition) == (buffer, offset.terms, condition)
            if alike and abs(apart) <= NEAR_BYTES:
                return Place(k, apart, lanes)
        # From a round number on, so that the neighbouring nests' pointers are the same ones.
        beside = (offset.constant * size + NEAR_BYTES // 2) % NEAR_BYTES - NEAR_BYTES // 2
        form = Affine(offset.terms, offset.constant - beside // size)
        k = self.pointers.setdefault(Pointer(buffer, form, (), condition), len(self.pointers))
        return Place(k, beside, lanes)

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
        elif not isinstance(e, Load):
            return False
        load = first(e)
        if load is not e and load.guard is not None:
            return False
        if self.p.register(load.buffer):
            return False
        terms = self.p.form(load.buffer, load.index).terms
        return all(isinstance(t, Axis) or t.free.isdisjoint(self.axes) for t, _ in terms)

    def fetch(self) -> None:
        """Fetch what is multiplied next (`fetching`), if there is a register for where it is."""
        loops: list[Loop] = []
        items = self.items
        while inside := [x for x in items if isinstance(x, Loop)]:
            loops.append(inside[0])
            items = inside[0].items
            if len(inside) > 1 or inside[0].rounds is None:
                return
        rounds = [(x.axis.serial, x.rounds or 0) for x in loops]
        places = [f for x in items if isinstance(x, Product) for f in (x.first, x.second)]
        readers = Counter([f.pointer for f in places if isinstance(f, Place) and f.lanes])
        for k, (buffer, form, steps, condition) in [*enumerate(self.pointers)] if loops else ():
            size = buffer.dtype.itemsize
            large = is_static(buffer.size) and static(buffer.size) * size >= fetching.MATRIX_BYTES
            if not large or not readers[k] or condition is not None:
                continue
            ahead = fetching.ahead(form, steps, size, rounds, self.p.around, readers[k])
            if ahead is not None and len(self.pointers) + len(loops) + 2 <= NUMBERS:
                pointer = Pointer(buffer, ahead.form, ahead.steps)
                place = Place(self.pointers.setdefault(pointer, len(self.pointers)), 0, 0)
                items.append(Fetch(place, ahead.lines))

    def streams(self) -> dict[int, int]:
        """The pointers that streams are read by, and how many bytes ahead these are fetched."""
        found: dict[int, int] = {}
        for k, (buffer, form, steps, condition) in enumerate(self.pointers):
            moves = {serial for serial, by in steps if by}
            if self.p.is_stream(buffer, form) and moves >= self.looped and condition is None:
                found[k] = self.p.fetched.ahead[buffer]
        return found

    # -- its text ---------------------------------------------------------------------------------

    def print(self) -> bool:
        """Print the instruction; False if there are not registers enough."""
        self.fetch()
        p = self.p
        steps = [dict(x.steps) for x in self.pointers]
        counted, stored = isinstance(self.count, Expr), bool(self.written)
        given = len(self.given)
        text = Text(
            Work(
                self.items, self.sums, steps, self.streams(), self.instruction, self.swaps, given,
                counted, stored, self.masks,
            )
        )  # fmt: skip
        if not text.fits:
            return False
        bases = [self.base(x) for x in self.pointers]
        wide, n = self.sums[0].type, len(self.sums)
        numbers = ["ptr"] * len(bases) + ["i64"] * text.counters
        operands = [(k, str(x)) for k, x in enumerate(self.sums) if not is_zero(x)]
        operands += [(text.pointer + k, f"ptr {b}") for k, b in enumerate(bases)]
        if isinstance(self.count, Expr):
            operands.append((text.counter, str(p.value_of(self.count))))
        kinds = [str(k) for k, _ in operands]
        registers = [text.vector(k) for k in range(n + text.temporaries)]
        kind, whole = "void", ""
        if text.fixed:
            kinds = ["r"] * len(bases)
        else:
            name = f"%nest.{n}.{suffix(self.sums[0].dtype, self.sums[0].lanes)}"
            kind = f"{name}.{len(bases)}.{text.counters}"
            p.declarations.add(f"{kind} = type {{ {', '.join([wide] * n + numbers)} }}")
            # Sums are written before the last factor is read: none may be where they are ("&").
            kinds[:0] = [*(f"=&{{{x}}}" for x in registers[:n]), *["=r"] * len(numbers)]
            del registers[:n]
            whole = p.fresh("nest")
        kinds += ["v" if self.masks else "x"] * len(self.given)
        operands += [(0, str(x)) for _, x in self.given.values()]
        size = self.sums[0].dtype.itemsize
        for x in text.constants:
            kinds.append("^Yk" if isinstance(x, int) else "v")
            operands.append((0, f"i16 {x}" if isinstance(x, int) else _numbers(x, size)))
        kinds += [f"~{{{x}}}" for x in registers]
        body, args = "\n    ".join(text.lines), ", ".join([x for _, x in operands])
        call = f'call {kind} asm sideeffect "\n    {body}"'
        call = call if text.fixed else f"{whole} = {call.replace(' sideeffect', '', 1)}"
        p.emit(f'{call}, "{",".join([*kinds, CLOBBERED])}"({args})')
        for slot, k in self.totals.items():
            x = self.sums[k]
            if self.written:  # and nobody reads the registers
                del p.registers[slot]
            else:
                part = f"extractvalue {kind} {whole}, {k}"
                p.registers[slot] = p.value(part, x.dtype, x.lanes)
        p.forget(frozenset([*self.written, *(slot[0] for slot in self.totals)]))
        return True

    def base(self, x: Pointer) -> str:
        """Where a pointer is at first."""
        p, where = self.p, self.p.address(x.buffer, x.form)
        if x.condition is None:
            return where
        wide = max(multiply_add.WIDTHS)
        p.zero_bytes = max(p.zero_bytes, 2 * NEAR_BYTES + wide)
        zeros = f"getelementptr (i8, ptr {ZERO}, i64 {NEAR_BYTES})"
        choice = f"select {p.known_value(x.condition)}, ptr {where}, ptr {zeros}"
        return p.value(choice, dtypes.int64, 1).text


def _bits(lanes: Sequence[bool]) -> int:
    return sum(1 << lane for lane, may in enumerate(lanes) if may)


def _numbers(order: Sequence[int], size: int) -> str:
    """A constant vector of integers of so many bytes."""
    kind = f"i{8 * size}"
    return f"<{len(order)} x {kind}> <{', '.join([f'{kind} {n}' for n in order])}>"
