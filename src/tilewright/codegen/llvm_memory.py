"""Values as LLVM IR text: what is in a register already, and how the rest gets there.

Knows addresses, loads and stores of one element or of many lanes. Refuses to know which values are
known and until when (`known`), and statements and control flow (`llvm`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

from tilewright import dtypes
from tilewright.codegen import intrinsics, picks
from tilewright.codegen.fetching import DENSE_BYTES, LINE_BYTES, Streams, once
from tilewright.codegen.guards import (
    OPEN,
    Condition,
    Guard,
    Least,
    conditions,
    least,
    settled_guard,
)
from tilewright.codegen.known import Knowledge
from tilewright.codegen.libm import expand
from tilewright.codegen.llvm_values import (
    Operand,
    constant,
    llvm_type,
    memory_type,
    stored,
    vector_type,
)
from tilewright.codegen.picks import Pick
from tilewright.codegen.places import UNKNOWN, Place, place
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Dim,
    Expr,
    Index,
    Lit,
    Load,
    Var,
    literal,
    show,
    static,
)
from tilewright.target import STREAM_ALIGN, STREAM_BYTES
from tilewright.transforms.index_rules import Affine, Ranges, affine, flat, span
from tilewright.transforms.tensorize import (
    FLIPPED,
    contiguous,
    first,
    is_word,
    neighbours,
    opened,
)

ZERO = "@zero.element"
"""Where loads whose guard is false for all lanes read from."""
ELEMENT_BYTES = 16
"""The most bytes of a single element."""
NONTEMPORAL = "!nontemporal !0"
"""What marks a store that bypasses the caches."""
NEAR_BYTES = 256
"""How far apart loads may be that share the choice between an array and zeros."""

Slot: TypeAlias = tuple[Buffer, tuple[int, ...]]
"""A register: its buffer and its numbers there."""


class ValuePrinter(Knowledge):
    """Prints values. `native` are the optional operations the machine has, `changing` the buffers
    that are written meanwhile, `in_memory` those that pointers are taken of."""

    def __init__(
        self, native: frozenset[str], changing: frozenset[Buffer], in_memory: frozenset[Buffer]
    ) -> None:
        super().__init__(changing)
        self.native, self.in_memory = native, in_memory
        self.zero_bytes = 0
        self.pointer: dict[Buffer, str] = {}
        self.registers: dict[Slot, Operand] = {}
        self.filled: dict[Slot, int] = {}
        """How many lanes of a register have been stored: the same number each time, or 0."""
        self.expansions: dict[Expr, Expr] = {}
        self.forms: dict[tuple[Buffer, tuple[Expr, ...]], Affine] = {}
        self.sums: dict[tuple[tuple[Expr, int], ...], Expr] = {}
        self.guards: dict[Hashable, Guard] = {}
        self.leasts: dict[Hashable, Least | None] = {}
        self.conditions: dict[Expr, list[Condition]] = {}
        self.chosen: dict[str, int] = {}  # pointers that may be to zeros, and their offsets
        self.ranges = Ranges()
        self.around: list[Axis] = []
        """The axes of the loops around what is printed, outermost first, as far as known."""
        self.bound_at: dict[int, int] = {}
        """In how many of these each variable got its value, by its serial."""
        self.fetched = Streams({}, True)
        self.streamed = False

    # -- registers ---------------------------------------------------------------------------------

    def register(self, buffer: Buffer) -> bool:
        """Whether a buffer lives in registers: those said to, and single values on the stack that
        no pointer is taken of."""
        if buffer.scope == "registers":
            return True
        return buffer.scope == "stack" and buffer not in self.in_memory and static(buffer.size) == 1

    def slot(self, buffer: Buffer, index: Sequence[Expr]) -> tuple[Slot, int]:
        """One register of a buffer, and its lanes."""
        if buffer.scope != "registers":
            return (buffer, ()), 1
        lanes = 1
        if index and index[-1] is self.vector:
            lanes, index = self.lanes, index[:-1]
        return (buffer, tuple([self._number(buffer, i) for i in index])), lanes

    def _number(self, buffer: Buffer, i: Expr) -> int:
        if isinstance(i, Axis) and i.serial in self.unrolled:
            return self.unrolled[i.serial]
        x = self.known_value(i).text
        return int(x) if x.lstrip("-").isdigit() else self._not_a_register(buffer, i)

    def _not_a_register(self, buffer: Buffer, i: Expr) -> int:
        raise InternalError(f"registers {buffer!r} are indexed by {show(i)}, which is not a number")

    # -- memory ------------------------------------------------------------------------------------

    def base(self, buffer: Buffer) -> str:
        """The pointer to a buffer."""
        return self.pointer[buffer]

    def address(self, buffer: Buffer, form: Affine) -> str:
        """A pointer to the element at a scalar flat offset; constants become displacements."""
        base, element = self.base(buffer), memory_type(buffer.dtype)
        if form.terms:
            rest = self.moving(form)
            found = self.known.get((buffer, self.key(rest)))
            if found is None:
                at = self.known_value(rest)
                found = self.value(
                    f"getelementptr {element}, ptr {base}, i64 {at.text}", dtypes.int64, 1
                )
                self.remember(rest, found, base=buffer)
            base = self.opaque(found.text) if form.constant and self.unrolled else found.text
        if form.constant:
            base = self.value(
                f"getelementptr {element}, ptr {base}, i64 {form.constant}", dtypes.int64, 1
            ).text
        return base

    def opaque(self, pointer: str) -> str:
        """The same pointer, of which LLVM does not see what it was made from. No instruction comes
        of it. A tile reads tens of places at fixed distances: looking for a cheap way to count
        through a loop, LLVM then considers the one pointer and not each of these."""
        key = (pointer, "opaque")
        found = self.known.get(key)
        if found is None:
            name = "llvm.launder.invariant.group.p0"
            call = self.intrinsic(name, "ptr", f"ptr {pointer}", "ptr")
            found = self.known[key] = self.value(call, dtypes.int64, 1)
            self.scopes[-1].append(key)
        return found.text

    def moving(self, form: Affine) -> Expr:
        """The form without its constant, as an expression: made once for all copies of a body."""
        found = self.sums.get(form.terms)
        if found is None:
            found = self.sums[form.terms] = form.moving()
        return found

    def settled(self, form: Affine) -> Affine:
        """The form with the terms that are numbers, unrolled axes that is, in its constant."""
        moving, constant = [], form.constant
        unrolled = self.unrolled
        for t, c in form.terms:
            if isinstance(t, Axis) and t.serial in unrolled:
                constant += c * unrolled[t.serial]
                continue
            if t.free.isdisjoint(unrolled):
                moving.append((t, c))
                continue
            x = self.known_value(t)
            if x.lanes == 1 and x.text.lstrip("-").isdigit():
                constant += c * int(x.text)
            else:
                moving.append((t, c))
        return form if len(moving) == len(form.terms) else Affine(tuple(moving), constant)

    def form(self, buffer: Buffer, index: tuple[Expr, ...]) -> Affine:
        """The flat offset of a position."""
        form = self.forms.get((buffer, index))
        if form is None:
            form = self.forms[buffer, index] = affine(flat(buffer, index))
        return form

    def position(self, buffer: Buffer, index: tuple[Expr, ...]) -> tuple[Affine, int | None]:
        """The flat offset at lane 0 and the step between lanes (None: not affine in the lane)."""
        found = self.places.get((buffer, index), UNKNOWN)
        if found is UNKNOWN:
            found = self.places[buffer, index] = self._place(buffer, index)
        if found is not None:
            return found.at(self.unrolled), found.step
        form = self.form(buffer, index)
        if self.vector is None:
            return self.settled(form), 0
        rest = form.without(self.vector)
        for t, _ in rest.terms:
            if not t.free.isdisjoint(self.wide):
                return form, None
        return self.settled(rest), form.coefficient(self.vector)

    def _place(self, buffer: Buffer, index: tuple[Expr, ...]) -> Place | None:
        form, step = self.form(buffer, index), 0
        if self.vector is not None:
            form, step = form.without(self.vector), form.coefficient(self.vector)
            if any(not t.free.isdisjoint(self.wide) for t, _ in form.terms):
                return None
        return place(form, step, self.unrolled)

    def _varies(self, e: Expr) -> bool:
        """Whether the lanes may have different values of `e`."""
        return not e.free.isdisjoint(self.wide)

    def asks(self, e: Expr) -> list[Condition]:
        """The conditions that a guard consists of."""
        found = self.conditions.get(e)
        if found is None:
            found = self.conditions[e] = conditions(e)
        return found

    def guard(self, e: Expr | None) -> Guard:
        """What is left to ask of a guard here."""
        if e is None:
            return OPEN
        key = (self.key(e), self.vector, self.extent, self.lanes)
        found = self.guards.get(key)
        if found is None:
            asked = [x for x in self.asks(e) if not self._certain(x)]
            found = self.guards[key] = settled_guard(
                asked,
                self.vector,
                self.extent,
                self.lanes,
                self.settled,
                self._varies,
                self.ranges,
            )
        return found

    def _certain(self, asked: Condition) -> bool:
        """Whether a condition holds for the present numbers: of most copies of a window all do."""
        c, form = asked
        if form is None:
            return False
        key = (c, self.vector, *self.unrolled)
        if key not in self.leasts:
            self.leasts[key] = least(form, self.vector, self.unrolled, self.ranges)
        found = self.leasts[key]
        return found is not None and found.holds(self.unrolled, self.extent)

    def asked(self, g: Guard) -> tuple[Hashable, ...]:
        """What tells loads under this guard from others of the same elements."""
        if g.always:
            return ()
        return (g.lanes, *[None if e is None else self.key(e) for e in (g.shared, g.varying)])

    def read(self, buffer: Buffer, index: tuple[Expr, ...], guard: Expr | None) -> Operand:
        """Load one element, or one for each lane. What nobody writes meanwhile is loaded once."""
        offset, step = self.position(buffer, index)
        g = OPEN if guard is None else self.guard(guard)
        if g is not OPEN and g.never:
            lanes = 1 if step == 0 else self.lanes
            return constant(literal(0, buffer.dtype), lanes)
        if step is None:
            return self.loaded(buffer, index, offset, step, g)
        lanes_of = (step, self.lanes, self.extent) if step or g.lanes or g.varying else ()
        moving = self.moving(offset)
        key: Hashable = (buffer, self.key(moving), offset.constant, *lanes_of)
        if g is not OPEN and (asked := self.asked(g)):
            key = (key, asked)
        found = self.known.get(key)
        if found is None:
            found = self.loaded(buffer, index, offset, step, g)
            self.keep(key, found, moving, *g.asked, read=buffer)
        return found

    def loaded(
        self, buffer: Buffer, index: tuple[Expr, ...], offset: Affine, step: int | None, g: Guard
    ) -> Operand:
        """The load of one element (step 0) or of lanes so many elements apart (None: anywhere)."""
        element, dtype = memory_type(buffer.dtype), buffer.dtype
        align = dtype.itemsize if buffer.scope != "registers" else 1
        if step == 0 and g.lanes is None and g.varying is None:
            where = self.place(buffer, offset, g.shared)
            text = self.value(f"load {element}, ptr {where}, align {align}", dtype, 1).text
            return self.from_memory(Operand(text, dtype))
        if step in (1, -1):
            return self.from_memory(self.contiguous(buffer, offset, step, g))
        if step and self.spreads(buffer, index, step, g):
            return self.from_memory(self.spread(buffer, index, offset, step, g))
        if step is None and g.always and (found := self.repeated(buffer, offset)) is not None:
            return self.from_memory(found)
        where = self.addresses(buffer, offset, step)
        return self.from_memory(self.gathered(where, align, self.mask(g, g.shared), dtype))

    def place(self, buffer: Buffer, form: Affine, condition: Expr | None, wide: int = 1) -> str:
        """A pointer to `wide` elements from a scalar flat offset on, or to as many zeros where the
        condition does not hold. Loads near one another share the choice."""
        if condition is None:
            return self.address(buffer, form)
        element, itemsize = memory_type(buffer.dtype), buffer.dtype.itemsize
        moving = self.moving(form)
        self.zero_bytes = max(self.zero_bytes, 2 * NEAR_BYTES + wide * itemsize)
        key = (buffer, self.key(moving), self.key(condition))
        found = self.known.get(key)
        apart = 0 if found is None else form.constant - self.chosen[found.text]
        if found is None or abs(apart) * itemsize > NEAR_BYTES:
            test, where, apart = self.known_value(condition), self.address(buffer, form), 0
            zeros = f"getelementptr (i8, ptr {ZERO}, i64 {NEAR_BYTES})"
            found = self.value(f"select {test}, ptr {where}, ptr {zeros}", dtypes.int64, 1)
            self.chosen[found.text] = form.constant
            self.keep(key, found, moving, condition)
        if not apart:
            return found.text
        text = f"getelementptr {element}, ptr {found.text}, i64 {apart}"
        return self.value(text, dtypes.int64, 1).text

    def mask(self, g: Guard, shared: Expr | None = None) -> str:
        """The lanes to touch: inside the extent, and where a guard lets them."""
        allowed = g.lanes or (True,) * self.lanes
        bits = [x and lane < self.extent for lane, x in enumerate(allowed)]
        text = "splat (i1 true)" if all(bits) else _bits(bits)
        for condition in (g.varying, shared):
            if condition is not None:
                wide = self.splat(self.known_value(condition), self.lanes)
                plain = text.startswith("splat")
                text = wide.text if plain else self._and(wide, text)
        return text

    def _and(self, a: Operand, mask: str) -> str:
        return self.value(f"and {a}, {mask}", dtypes.bool_, a.lanes).text

    def gathered(self, where: str, align: int, mask: str, dtype: DType) -> Operand:
        """The load of one element for each pointer."""
        lanes = self.lanes
        wide = vector_type(memory_type(dtype), lanes)
        name = f"llvm.masked.gather.{self._mangled(dtype)}.v{lanes}p0"
        masked = f"<{lanes} x i1> {mask}"
        args = f"<{lanes} x ptr> align {align} {where}, {masked}, {wide} zeroinitializer"
        call = self.intrinsic(name, wide, args, f"<{lanes} x ptr>, <{lanes} x i1>, {wide}")
        return self.value(call, dtype, lanes)

    def contiguous(self, buffer: Buffer, offset: Affine, step: int, g: Guard) -> Operand:
        """Load neighbours, in order (step 1) or backwards (-1)."""
        lanes, dtype = self.lanes, buffer.dtype
        element, align = memory_type(dtype), dtype.itemsize if buffer.scope != "registers" else 1
        wide = vector_type(element, lanes)
        single = self.extent == 1 and g.varying is None
        first = offset if step == 1 or single else offset.shifted(1 - lanes)
        where = self.place(buffer, first, g.shared, lanes)
        if single:
            x = self.value(f"load {element}, ptr {where}, align {align}", dtype, 1).text
            return self.value(
                f"insertelement {wide} zeroinitializer, {element} {x}, i64 0", dtype, lanes
            )
        if g.lanes is None and g.varying is None and self.extent == lanes:
            x = self.value(f"load {wide}, ptr {where}, align {align}", dtype, lanes).text
            if self.fetched.all and buffer in self.fetched.ahead and step == 1:
                self.fetch_ahead(buffer, offset, where)
        else:
            mask = self.mask(g)
            if step == -1:
                mask = self.reversed(f"<{lanes} x i1>", mask)
            x = self._masked_load(wide, where, align, mask, dtype).text
        return Operand(x if step == 1 else self.reversed(wide, x), dtype, lanes)

    def repeated(self, buffer: Buffer, offset: Affine) -> Operand | None:
        """Load neighbours, each for several lanes; None if the lanes are elsewhere."""
        match [t for t in offset.terms if self._varies(t[0])]:
            case [(Index("//", (a, Lit(times))) as term, 1)] if a is self.vector:
                pass
            case _:
                return None
        lanes, dtype, count = self.lanes, stored(buffer.dtype), -(-self.extent // int(times))
        where = self.address(buffer, self.settled(offset.without(term)))
        of = llvm_type(dtype, count)
        x = self.value(f"load {of}, ptr {where}, align {dtype.itemsize}", dtype, count)
        if count > 1:
            order = [min(lane, self.extent - 1) // int(times) for lane in range(lanes)]
            x = self.shuffled(x, Operand("poison", dtype, count), order)
        return Operand(self.splat(x, lanes).text, buffer.dtype, lanes)

    # -- every second, third or fourth element ----------------------------------------------------

    def spread(
        self, buffer: Buffer, index: tuple[Expr, ...], offset: Affine, step: int, g: Guard
    ) -> Operand:
        """Load every second, third or fourth element: vectors of neighbours, and shuffles that pick
        one phase of them. The taps of a window share these vectors; of a tap one lane beside them
        only the first or the last element is read apart."""
        lanes, dtype = self.lanes, stored(buffer.dtype)
        pick = self.pick(buffer, index, step, g)
        result = none = Operand("poison", dtype, lanes)
        base = offset.shifted(pick.ahead)
        for start, may, order in pick.steps:
            x = self._neighbours(buffer, base.shifted(start), may, dtype, g.shared)
            result = x if result is none else self.shuffled(result, x, order)
        if pick.last is not None:
            result = self.shuffled(result, none, pick.last)
        mask = None if g.lanes is None and g.varying is None else self.mask(g)
        if pick.beside is not None:
            lane = pick.beside
            where = self.place(buffer, offset.shifted(step * lane), g.shared)
            if g.varying is not None:
                text = f"extractelement <{lanes} x i1> {mask}, i64 {lane}"
                held = self.value(text, dtypes.bool_, 1)
                text = f"select {held}, ptr {where}, ptr {ZERO}"
                self.zero_bytes = max(self.zero_bytes, ELEMENT_BYTES)
                where = self.value(text, dtypes.int64, 1).text
            text = f"load {llvm_type(dtype, 1)}, ptr {where}, align {dtype.itemsize}"
            one = self.splat(self.value(text, dtype, 1), lanes)
            result = self._select(_bits([i == lane for i in range(lanes)]), one, result)
        if mask is not None:
            result = self._select(mask, result, constant(literal(0, dtype), lanes))
        return Operand(result.text, buffer.dtype, lanes)

    def pick(self, buffer: Buffer, index: tuple[Expr, ...], step: int, g: Guard) -> Pick:
        """How every so many elements are loaded."""
        extent = self.extent
        tap, anchor = self._vectors(buffer, index, step)
        shift, inside = 0, range(step * extent)
        if anchor is None:  # nothing beside what is wanted may be touched
            able = [lane for lane in range(extent) if g.lanes is None or g.lanes[lane]]
            inside, anchor = range(step * able[0], step * able[-1] + 1), tap
        else:
            shift = (tap - anchor) // step
        found, last = picks.steps(tap - anchor, step, extent, self.lanes, inside.start, inside.stop)
        lane = 0 if shift < 0 else extent - 1
        beside = shift and (g.lanes is None or g.lanes[lane])
        return Pick(anchor - tap, found, last, lane if beside else None)

    def spreads(self, buffer: Buffer, index: tuple[Expr, ...], step: int | None, g: Guard) -> bool:
        """Whether to load vectors and pick from them. Where the lanes' guards are known only when
        the program runs, these must not say whether there is such a row at all."""
        if step not in (2, 3, 4) or self.extent == 1:
            return False
        apart = all(i.free.isdisjoint(e.free) for i in index[:-1] for e in [g.varying] if e)
        return g.varying is None or (apart and self._vectors(buffer, index, step)[1] is not None)

    def _vectors(
        self, buffer: Buffer, index: tuple[Expr, ...], step: int
    ) -> tuple[int, int | None]:
        """The constants of a tap's position and of the vectors' that it is picked from: those it
        shares with its window, or others at most a lane beside it (None: all reach too far)."""
        line, n = self._line(buffer, index, step)
        row = self.settled(line.without(self.vector) if self.vector is not None else line)
        tap, best = row.constant, self._anchor(line, row.constant, step)
        group = tap // step * step
        for anchor in (best, group, group + step, group - step):
            low, high = span(row.shifted(anchor - tap), self.ranges)
            if low >= 0 and high + step * self.extent <= n:
                return tap, anchor
        return tap, None

    def _line(self, buffer: Buffer, index: tuple[Expr, ...], step: int) -> tuple[Affine, int]:
        """The position of what is read in a stretch of memory that is known to hold it, and that
        stretch's length: the array's last axis, or all of the array."""
        last = affine(index[-1])
        within = len(index) == len(buffer.shape) and self.vector is not None
        if within and last.coefficient(self.vector) == step:  # type: ignore[arg-type]
            return last, static(buffer.shape[-1])
        return self.form(buffer, index), static(buffer.size)

    def _anchor(self, line: Affine, tap: int, step: int) -> int:
        """Where the vectors start that a tap is picked from, which unrolled axes count."""
        axes = [
            (c, static(t.extent), self.unrolled[t.serial])
            for t, c in line.terms
            if isinstance(t, Axis) and t.serial in self.unrolled and abs(c) <= step
        ]
        start = tap - sum(c * now for c, _, now in axes)
        return picks.anchor(tuple([(c, extent) for c, extent, _ in axes]), start, tap, step)

    def _neighbours(
        self,
        buffer: Buffer,
        base: Affine,
        inside: tuple[bool, ...],
        dtype: DType,
        shared: Expr | None,
    ) -> Operand:
        """A vector of neighbours, of which only some lanes may be touched."""
        lanes, wide, moving = self.lanes, llvm_type(dtype, self.lanes), self.moving(base)
        when = None if shared is None else self.key(shared)
        key = (buffer, self.key(moving), base.constant, when, inside)
        found = self.known.get(key)
        if found is None:
            where = self.place(buffer, base, shared, lanes)
            if all(inside):
                text = f"load {wide}, ptr {where}, align {dtype.itemsize}"
                found = self.value(text, dtype, lanes)
            else:
                found = self._masked_load(wide, where, dtype.itemsize, _bits(inside), dtype)
            self.keep(key, found, moving, *([] if shared is None else [shared]), read=buffer)
        return found

    def _select(self, mask: str, a: Operand, b: Operand) -> Operand:
        """`a` in the lanes of a mask, `b` in the others."""
        return self.value(f"select <{a.lanes} x i1> {mask}, {a}, {b}", a.dtype, a.lanes)

    def _masked_load(self, wide: str, where: str, align: int, mask: str, dtype: DType) -> Operand:
        lanes = self.lanes
        args = f"ptr align {align} {where}, <{lanes} x i1> {mask}, {wide} zeroinitializer"
        call = self.intrinsic(
            f"llvm.masked.load.{self._mangled(dtype)}.p0",
            wide,
            args,
            f"ptr, <{lanes} x i1>, {wide}",
        )
        return self.value(call, dtype, lanes)

    def addresses(self, buffer: Buffer, offset: Affine, step: int | None) -> str:
        """One pointer for each lane."""
        element = memory_type(buffer.dtype)
        if step is None:
            at = self.splat(self.known_value(self.expanded(offset.expr())), self.lanes)
            base = self.base(buffer)
        else:
            lanes = ", ".join(f"i64 {i * step}" for i in range(self.lanes))
            at = Operand(f"<{lanes}>", dtypes.int64, self.lanes)
            base = self.address(buffer, offset)
        return self.value(f"getelementptr {element}, ptr {base}, {at}", dtypes.int64, 1).text

    def write(self, buffer: Buffer, index: tuple[Expr, ...], x: Operand) -> None:
        offset, step = self.position(buffer, index)
        element, dtype = memory_type(buffer.dtype), buffer.dtype
        align = dtype.itemsize
        if dtypes.is_bool(dtype):
            byte = vector_type("i8", x.lanes)
            x = Operand(
                self.value(f"zext {x} to {byte}", dtype, x.lanes).text, dtypes.uint8, x.lanes
            )
        if step == 0:
            self.emit(f"store {x}, ptr {self.address(buffer, offset)}, align {align}")
            return
        x = self.splat(x, self.lanes)
        if step == 1 and self.extent == self.lanes:
            hint = f"align {align}"
            if self.streams(buffer, offset):
                hint = f"align {STREAM_ALIGN}, {NONTEMPORAL}"
                self.streamed = True
            self.emit(f"store {x}, ptr {self.address(buffer, offset)}, {hint}")
            return
        if step == 1 and self.extent == 1:
            # Not as a masked store: LLVM makes that one too wide after a truncation.
            one = self.value(f"extractelement {x}, i64 0", x.dtype, 1)
            where = self.address(buffer, offset)
            self.emit(f"store {element} {one.text}, ptr {where}, align {align}")
            return
        wide, mask = vector_type(element, self.lanes), self.lane_mask()
        if step == 1:
            name, where, kind = "store", f"ptr align {align} {self.address(buffer, offset)}", "ptr"
            mangled = f"{self._mangled(dtype)}.p0"
        else:
            name, kind = "scatter", f"<{self.lanes} x ptr>"
            where = f"{kind} align {align} {self.addresses(buffer, offset, step)}"
            mangled = f"{self._mangled(dtype)}.v{self.lanes}p0"
        args = f"{x}, {where}, <{self.lanes} x i1> {mask}"
        self.emit(
            self.intrinsic(
                f"llvm.masked.{name}.{mangled}",
                "void",
                args,
                f"{wide}, {kind}, <{self.lanes} x i1>",
            )
        )

    def is_stream(self, buffer: Buffer, form: Affine) -> bool:
        """Whether what is read at an offset is part of a stream (`fetching`)."""
        return buffer in self.fetched.ahead and once(form, self.around, self.bound_at)

    def fetch_ahead(self, buffer: Buffer, form: Affine, where: str) -> None:
        """Where a line of a stream is read, fetch the one that is so many bytes ahead."""
        size = buffer.dtype.itemsize
        round_bytes = form.coefficient(self.around[-1]) * size if self.around else 0
        whole = self.lanes * size == LINE_BYTES and 0 < round_bytes <= DENSE_BYTES
        if whole and self.is_stream(buffer, form) and (ahead := self.ahead(buffer, form)):
            text = f"getelementptr i8, ptr {where}, i64 {ahead}"
            line = self.value(text, dtypes.int64, 1).text
            args, kinds = f"ptr {line}, i32 0, i32 3, i32 1", "ptr, i32, i32, i32"
            self.emit(self.intrinsic("llvm.prefetch.p0", "void", args, kinds))

    def ahead(self, buffer: Buffer, form: Affine) -> int:
        """How many bytes ahead a stream is fetched here: where a loop's whole row has room in the
        first level and others walk along it, too, one row by the busiest of them, and none by the
        others."""
        ahead, busiest = self.fetched.ahead[buffer], self.fetched.busiest.get(buffer)
        if busiest is None or len(self.around) < 2:
            return ahead
        row = abs(form.coefficient(self.around[-2])) * buffer.dtype.itemsize
        if not 0 < row <= ahead:
            return ahead
        return row if self.around[-1] is busiest else 0

    def bind(self, variable: Var, x: Operand) -> None:
        self.bound_at[variable.serial] = len(self.around)
        super().bind(variable, x)

    def streams(self, buffer: Buffer, form: Affine) -> bool:
        """Whether to store around the caches: a whole line of a result too large to stay in them,
        which this program never reads again."""
        line = self.lanes * buffer.dtype.itemsize == STREAM_ALIGN
        if not line or buffer.scope != "output" or buffer.nbytes < STREAM_BYTES:
            return False
        return all(c % self.lanes == 0 for c in (form.constant, *(c for _, c in form.terms)))

    # -- expressions -------------------------------------------------------------------------------

    def value_of(self, root: Expr) -> Operand:
        """Emit what is needed to have the value of an expression of the statements."""
        return self.known_value(self.expanded(root))

    def expanded(self, e: Expr) -> Expr:
        """The expression in machine operations only."""
        found = self.expansions.get(e)
        if found is None:
            (found,) = expand([e], self.native)
            self.expansions[e] = found
        return found

    def known_value(self, root: Expr) -> Operand:
        """Emit what is needed to have the value of an expression in machine operations."""
        if type(root) is Load and self.register(root.buffer):
            return self.registers[self.slot(root.buffer, root.index)[0]]
        key = self.key if self.unrolled else _same
        known, first = self.known, key(root)
        found = known.get(first)
        if found is not None:
            return found
        stack = [root]
        while stack:
            e = stack[-1]
            name = key(e)
            if name not in known:
                missing = self._missing(e, key)
                if missing:
                    stack += missing[::-1]
                    continue
                self.keep(name, self.expression(e), e)
            stack.pop()
        return known[first]

    def _missing(self, e: Expr, key: Callable[[Expr], Hashable]) -> list[Expr]:
        """What must be computed before `e` and is not known yet, but for loads in front of all
        else: these are emitted."""
        missing: list[Expr] = []
        for c in self._first(e):
            if type(c) is Load and not missing:
                self.known_value(c)
            elif key(c) not in self.known:
                missing.append(c)
        return missing

    def _first(self, e: Expr) -> tuple[Expr, ...]:
        """What must be computed before `e`; a rare branch waits until it is needed."""
        if isinstance(e, Load):
            return ()  # positions come with the address, and guards with the choice of it
        if not isinstance(e, Apply):
            return e.children
        name = e.op.name
        if name == "rare":
            return (e.args[0], e.args[2])
        if name == "select" and self.asks_places(e.args[0]):
            g = self.guard(e.args[0])
            return (*g.asked, *([] if g.never else e.args[1:2]), *([] if g.always else e.args[2:]))
        return () if is_word(e) and (neighbours(e) or self.inside(e)) else e.args

    def expression(self, e: Expr) -> Operand:
        match e:
            case Lit():
                return constant(e)
            case Load(buffer, index, guard):
                if self.register(buffer):
                    return self.registers[self.slot(buffer, index)[0]]
                return self.read(buffer, index, guard)
            case Index(op, args):
                return self.index(op, [self.known_value(a) for a in args], args[1])
            case Apply(op, args, dtype):
                if op.name == "rare":
                    return self.rare(*args)
                if is_word(e):
                    return self.word(e)
                if op.name == "select" and self.asks_places(args[0]):
                    return self.chosen_by_place(self.guard(args[0]), args[1], args[2])
                operands = self.aligned([self.known_value(a) for a in args])
                if op.name in intrinsics.SPELLINGS:
                    zero = constant(literal(0, dtype), operands[0].lanes)
                    return intrinsics.dot(self, op.name, zero, operands)
                return self.apply(op.name, operands, dtype)
            case Dim(name):
                raise InternalError(f"the named dimension {name} has no value in a static program")
        raise InternalError(f"LLVM cannot print {show(e)} here")

    def word(self, e: Expr) -> Operand:
        """A word of narrow numbers: read as one where they are neighbours in memory."""
        if neighbours(e):
            x = self.read_word(first(e), len(e.children))
        elif (inside := self.inside(e)) is not None:
            x = self.read_partly(first(e), inside)
        else:
            parts = self.aligned([self.known_value(a) for a in e.children])
            x = intrinsics.assembled(self, parts)
        return intrinsics.flipped(self, x) if isinstance(e, Apply) and e.op is FLIPPED else x

    def asks_places(self, condition: Expr) -> bool:
        """Whether a condition asks for positions, of which some are certain."""
        return any(form is not None for _, form in self.asks(condition))

    def chosen_by_place(self, g: Guard, then: Expr, otherwise: Expr) -> Operand:
        """One of two values, by where it is for."""
        if g.never or g.always:
            return self.known_value(otherwise if g.never else then)
        a, b = self.aligned([self.known_value(then), self.known_value(otherwise)])
        if g.lanes is None and g.varying is None and g.shared is not None:
            return self.value(f"select {self.known_value(g.shared)}, {a}, {b}", a.dtype, a.lanes)
        a, b = self.splat(a, self.lanes), self.splat(b, self.lanes)
        mask = f"<{self.lanes} x i1> {self.mask(g, g.shared)}"
        return self.value(f"select {mask}, {a}, {b}", a.dtype, a.lanes)

    def inside(self, e: Expr) -> tuple[bool, ...] | None:
        """Which numbers of the words in all lanes guards let be read, where these are neighbours
        but for their guards and that is known; None otherwise."""
        plain = opened(e) if self.vector is not None else e
        if plain is e or not neighbours(plain) or not contiguous(plain, self.vector):
            return None
        guards = [self.guard(x.guard) for x in e.children if isinstance(x, Load)]
        if any(g.shared is not None or g.varying is not None for g in guards):
            return None
        may = [
            (False,) * self.lanes if g.never else g.lanes or (True,) * self.lanes for g in guards
        ]
        return tuple(lane < self.extent and m[lane] for lane in range(self.lanes) for m in may)

    def read_partly(self, e: Load, inside: tuple[bool, ...]) -> Operand:
        """Words of the numbers from a load's on, zeros where they are not `inside`."""
        size, n = e.buffer.dtype.itemsize, len(inside)
        where = self.address(e.buffer, self.position(e.buffer, e.index)[0])
        kind, mask = f"<{n} x i{8 * size}>", f"<{n} x i1> {_bits(inside)}"
        args = f"ptr align {size} {where}, {mask}, {kind} zeroinitializer"
        name, types = f"llvm.masked.load.v{n}i{8 * size}.p0", f"ptr, <{n} x i1>, {kind}"
        narrow = self.value(self.intrinsic(name, kind, args, types), dtypes.uint32, self.lanes)
        wide = llvm_type(dtypes.uint32, self.lanes)
        return self.value(f"bitcast {kind} {narrow.text} to {wide}", dtypes.uint32, self.lanes)

    def read_word(self, e: Load, group: int) -> Operand:
        """The `group` elements from a load's on, in one lane or in each of many."""
        buffer, align = e.buffer, e.buffer.dtype.itemsize
        offset, step = self.position(buffer, e.index)
        dtype, lanes = dtypes.uint32, self.lanes
        wide = llvm_type(dtype, lanes)
        if step == 0:
            text = f"load i32, ptr {self.address(buffer, offset)}, align {align}"
            return self.value(text, dtype, 1)
        if step == group and self.extent == lanes:
            text = f"load {wide}, ptr {self.address(buffer, offset)}, align {align}"
            return self.value(text, dtype, lanes)
        if step == group:
            where = self.address(buffer, offset)
            return self._masked_load(wide, where, align, self.lane_mask(), dtype)
        where = self.addresses(buffer, offset, step)
        return self.gathered(where, align, self.lane_mask(), dtype)

    def rare(self, condition: Expr, then: Expr, otherwise: Expr) -> Operand:
        """Evaluate `then` only if some lane's condition holds."""
        test, common = self.aligned([self.known_value(condition), self.known_value(otherwise)])
        some = test.text
        if test.lanes > 1:
            if self.extent < self.lanes:
                test = self.value(f"and {test}, {self.lane_mask()}", dtypes.bool_, test.lanes)
            name = f"llvm.vector.reduce.or.v{test.lanes}i1"
            some = self.value(
                self.intrinsic(name, "i1", str(test), test.type), dtypes.bool_, 1
            ).text
        slow, done = self.fresh("rare")[1:], self.fresh("done")[1:]
        before = self.label
        self.emit(f"br i1 {some}, label %{slow}, label %{done}")
        self.start(slow)
        with self.scope():
            value = self.splat(self.known_value(then), common.lanes)
            mixed = self.value(f"select {test}, {value}, {common}", common.dtype, common.lanes)
        last = self.label
        self.emit(f"br label %{done}")
        self.start(done)
        return self.value(
            f"phi {common.type} [ {common.text}, %{before} ], [ {mixed.text}, %{last} ]",
            common.dtype,
            common.lanes,
        )


def _same(e: Expr) -> Hashable:
    return e


def _bits(bits: Sequence[bool]) -> str:
    """A constant mask."""
    return f"<{', '.join(f'i1 {str(x).lower()}' for x in bits)}>"
