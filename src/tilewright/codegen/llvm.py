"""Loops to LLVM IR text, with explicit vectors.

Knows control flow, memory access and which expressions are already in a register. Refuses to
optimise: what is hoisted, unrolled or vectorised was decided in Loops; LLVM only selects
instructions and allocates registers.

One pass over the statements. A `vector` loop sets the current vector axis; expressions that depend
on it become vectors, all others stay scalars and are splat where they meet. Registers are SSA
values: a store only says which value a register now holds, and loops and branches join what their
ways left behind with phis, so the text needs no promotion of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from tilewright import dtypes
from tilewright.codegen import (
    fetching,
    intrinsics,
    matrices,
    multiply_add,
    nests,
    shared,
    turning,
)
from tilewright.codegen.llvm_memory import NONTEMPORAL, ZERO, Slot, ValuePrinter
from tilewright.codegen.llvm_values import (
    AS_PRINTED,
    NO_UNWINDING,
    Operand,
    constant,
    identity,
    memory_type,
    native_operations,
)
from tilewright.codegen.parallel import (
    DECLARATION,
    ENVIRONMENT,
    ROUND_ENDS,
    Region,
    cost_of,
    divided,
    divided_itself,
    merged,
    outer_places,
    outline,
    round_begins,
    unpacked,
)
from tilewright.codegen.weaving import LONG, independent, woven
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Lit,
    Load,
    Var,
    is_static,
    literal,
    static,
)
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    Call,
    Flip,
    For,
    Function,
    If,
    Let,
    Program,
    Ref,
    Stmt,
    Store,
    Sync,
    While,
    statements,
)
from tilewright.scalars import FUSED
from tilewright.target import STREAM_BYTES, Target
from tilewright.transforms.index_rules import Affine, affine

STACK_ALIGN = 64

ENTRY = "tilewright_entry"
"""The placeholder for the name under which the program is found; see `named`."""

BRIEF_NS = 20e6
"""Up to this long, a program that runs once takes less than its improvement would."""
SHORT_LANES = (" x i16>", " x half>", " x bfloat>")
"""Vectors that LLVM 22 cannot blend in functions marked `optnone`: it turns the mask of five or
more of eight lanes around, and ends the process since the result has more than eight bits."""

FUSED_CALL, VECTOR_PHI = "@llvm.fma.", " phi <"


@dataclass(frozen=True)
class Definitions:
    """The functions of a program as text, the external one called `ENTRY`; what they declare, and
    how many zeros they read."""

    functions: tuple[str, ...]
    declarations: frozenset[str]
    zero_bytes: int


def print_program(
    program: Program,
    target: Target | None = None,
    threads: int | None = None,
    once: bool = False,
) -> str:
    """The whole program as one LLVM module, see `definitions`."""
    return module({ENTRY: definitions(program, target, threads, once)})


def definitions(
    program: Program,
    target: Target | None = None,
    threads: int | None = None,
    once: bool = False,
) -> Definitions:
    """A program's functions. The one external function takes an array of pointers, one for each
    parameter of the program's entry, and two zeros (`ENVIRONMENT`). Without a target it runs on
    any machine, and on one thread; with one its parallel loops use at most so many `threads` (None:
    no limit). `once` says that the program will hardly run more often."""
    functions: list[str] = []
    declarations: set[str] = set()
    zero_bytes = 0
    native = _native(target)
    regions: Mapping[str, Region] = {}
    brief = once and _nanoseconds(program) <= BRIEF_NS
    if target is not None and target.pool and threads != 1:
        program, regions = outline(program, threads or 0)
    if not regions:
        program = merged(program)
    for f in program.functions:
        if f.name in shared.functions(target):
            declarations.add(shared.declaration(f))
            continue
        attributes = AS_PRINTED if brief or _only_steers(f) else ""
        printer = FunctionPrinter(f, native, regions, attributes, target)
        functions += [printer.text(external=f is program.entry)]
        declarations |= printer.declarations
        zero_bytes = max(zero_bytes, printer.zero_bytes)
    if brief and any(lanes in f for f in functions for lanes in SHORT_LANES):
        functions = [f.replace(AS_PRINTED, "") for f in functions]
    return Definitions(tuple(functions), frozenset(declarations), zero_bytes)


def module(programs: Mapping[str, Definitions]) -> str:
    """Programs as one module, each with its external function called as the mapping says. Internal
    functions of the same name do the same, and stand there once."""
    functions: dict[str, str] = {}
    for name, p in programs.items():
        for f in (named(f, name) for f in p.functions):
            functions.setdefault(f[: f.index("(")], f)
    head = sorted(frozenset().union(*(p.declarations for p in programs.values())))
    # What nobody reads would be a section of the object, and of the memory it is linked into.
    zero_bytes = max(p.zero_bytes for p in programs.values())
    if zero_bytes:
        head.insert(0, f"{ZERO} = internal constant [{zero_bytes} x i8] zeroinitializer, align 64")
    parts = ["\n".join(head)] if head else []
    parts += functions.values()
    if any(NONTEMPORAL in f for f in functions.values()):
        parts.append("!0 = !{i32 1}")
    return "\n\n".join(parts) + "\n"


def print_functions(functions: Sequence[Function], target: Target) -> str:
    """Functions that programs share, as a module of their own."""
    declarations, parts = set[str](), list[str]()
    for f in functions:
        printer = FunctionPrinter(f, _native(target), {}, AS_PRINTED, target)
        parts.append(printer.text(external=False).replace("define internal ", "define ", 1))
        declarations |= printer.declarations
    return "\n\n".join(["\n".join(sorted(declarations)), *parts]) + "\n"


@cache
def _native(target: Target | None) -> frozenset[str]:
    """The optional operations that a target has."""
    if target is None:
        return frozenset()
    return native_operations(target) | intrinsics.native(target) | multiply_add.native(target)


def _nanoseconds(program: Program) -> float:
    """Roughly how long a program runs."""
    return cost_of(program.entry.body, {f.name: f for f in program.functions}).ns


def _only_steers(f: Function) -> bool:
    """Whether a function has others do the work: each round of its loops calls one."""
    body = [*statements(f.body)]
    if any(isinstance(s, Store | Accumulate) and s.buffer.scope != "stack" for s in body):
        return False
    loops = [s for s in body if isinstance(s, For | While)]
    return all(any(isinstance(t, Call) for t in statements(s.body)) for s in loops)


def named(text: str, name: str) -> str:
    """The text with the external function of a program called `name`."""
    return text.replace(f"@{ENTRY}", f"@{name}")


class FunctionPrinter(ValuePrinter):
    """The text of one function. `native` are the optional operations the machine has, `regions`
    the parallel loops that are functions, by name; `attributes` are the function's, `target`
    the machine if it is known."""

    def __init__(
        self,
        function: Function,
        native: frozenset[str],
        regions: Mapping[str, Region],
        attributes: str = "",
        target: Target | None = None,
    ) -> None:
        super().__init__(native, function.body.writes, _passed(function.body))
        self.function, self.regions, self.attributes = function, regions, attributes
        self.target, self.unit = target, matrices.unit(function, target)
        if target is not None:
            self.fetched = _streams(function, target.l2_bytes)
        whole = regions[function.name].of if function.name in regions else function
        self.multiplies = multiply_add.WRITTEN in native and multiply_add.only_multiplies(whole)
        self.arguments: dict[Buffer, int] = {}  # the places of pointers in the entry's array
        self.first: list[str] = []  # what stands before all other lines
        self.stretches: dict[Axis, tuple[str, str]] = {}  # what a region runs of its inner axes

    def text(self, external: bool) -> str:
        """The definition. The external one gets its pointers in an array."""
        if external:
            self.arguments = {b: k for k, b in enumerate(self.function.params)}
            head = f"define void @{ENTRY}({ENVIRONMENT})"
        else:
            self.pointer = {b: f"%p{k}" for k, b in enumerate(self.function.params)}
            head = f"define internal void @{self.function.name}({self.parameters()})"
        region = self.regions.get(self.function.name)
        if external and region is not None:
            self.label = "part"
            self.declarations.add(DECLARATION)
        self.body(region)
        attributes = self.attributes or (AS_PRINTED if self.as_good_as_printed() else "")
        head += f"{NO_UNWINDING}{attributes} {{\nentry:"
        if self.streamed:
            self.emit("fence seq_cst")
        if external and region is not None:
            self.first += divided_itself(region, ENTRY, "part")
        return "\n".join([head, *self.first, *self.lines, "  ret void", "}"])

    def parameters(self) -> str:
        """What a function gets that only the program calls, or the pool."""
        region, pointers = self.regions.get(self.function.name), [*self.pointer.values()]
        if region is None:
            numbers = self.given(self.function.numbers)
            return ", ".join([*(f"ptr noalias noundef {p}" for p in pointers), *numbers])
        self.first += unpacked([*(f"ptr {p}" for p in pointers), *self.given(region.scalars)])
        return ENVIRONMENT

    def body(self, region: Region | None) -> None:
        """All statements; of a region those of a stretch, or of a stretch of each round of the
        loops around it."""
        if region is None or not region.outer:
            self.stretches = dict.fromkeys(region.inner if region else (), ("%begin", "%end"))
            self.statement(self.function.body)
            return
        self.stretches = dict.fromkeys(region.inner, ("%first", "%last"))
        for a, name in outer_places(region).items():
            self.remember(a, Operand(name, dtypes.int64))
            self.around.append(a)
        before = self.label
        self.emit("br label %next")
        self.start("next")
        at = len(self.lines)
        self.statement(self.function.body)
        self.lines[at:at] = round_begins(region, before, self.label)
        self.lines += ROUND_ENDS
        self.start("out")

    def as_good_as_printed(self) -> bool:
        """Whether LLVM makes code that runs as long with and without its improvements: of products
        (`multiply_add`), and where tiles are turned, summed up and stored, as Winograd's are. If
        there are other multiply-adds, or loops hand vectors on, it needs to improve the code to
        tell which registers to reuse. What is a region of such a function is little beside it."""
        turns = any(isinstance(s, Flip) for s in statements(self.function.body))
        if not turns and not self.multiplies:
            return False
        text = "\n".join(self.lines)
        spoilt = (FUSED_CALL, *(() if self.multiplies else (VECTOR_PHI,)), *SHORT_LANES)
        return not any(sign in text for sign in spoilt)

    def base(self, buffer: Buffer) -> str:
        if buffer not in self.pointer:
            self.pointer[buffer] = f"%p{self.arguments[buffer]}"
            self.first += self.argument(buffer, self.pointer[buffer])
        return self.pointer[buffer]

    def argument(self, buffer: Buffer, name: str) -> tuple[str, str]:
        """Lines that load a pointer out of the external function's array."""
        place = f"{name}.place"
        return (
            f"  {place} = getelementptr ptr, ptr %env, i64 {self.arguments[buffer]}",
            f"  {name} = load ptr, ptr {place}",
        )

    # -- statements ---------------------------------------------------------------------------

    def statement(self, s: Stmt) -> None:
        if self.unit is not None and self.unit.begins(s):
            with self.unit.configuration(self, s, self.first):
                self.statement(s)
            return
        match s:
            case For():
                self.loop(s)
            case Block(inner):
                if not self.copied(inner):
                    self.block(inner)
            case Store(buffer, index, value):
                self.store(buffer, index, value)
            case Accumulate(buffer, index, kind, value):
                self.accumulate(buffer, index, kind, value)
            case While(condition, body):
                self.while_loop(condition, body)
            case If(condition, then, otherwise):
                self.branch(self.value_of(condition), then, otherwise)
            case Let(var, value):
                self.bind(var, self.value_of(value))
            case Alloc(buffer):
                self.alloc(buffer)
            case Flip(buffer):
                self.flip(buffer)
            case Call():
                self.call(s)
            case Sync():
                pass  # a single worker runs everything
            case _:
                raise InternalError(f"LLVM cannot print {s!r}")

    def block(self, inner: Sequence[Stmt]) -> None:
        """Statements one after the other, or several as one instruction. Memory is there from the
        start: its declaration parts no statements."""
        memory = [s for s in inner if isinstance(s, Alloc) and not self.register(s.buffer)]
        for s in memory:
            self.alloc(s.buffer)
        inner, at = [s for s in inner if s not in memory] if memory else inner, 0
        while at < len(inner):
            taken = nests.taken(self, inner, at)
            if not taken:
                self.statement(inner[at])
            at += taken or 1

    def loop(self, s: For) -> None:
        extent = s.axis.extent
        if s.kind == "vector":
            self.vector_loop(s)
        elif s.kind == "matrix" and self.unit is not None:
            self.unit.print(self, s)
        elif is_static(extent) and (s.kind == "unroll" or static(extent) <= 1):
            self.copies(s, static(extent))
        else:
            self.counted_loop(s)

    def copies(self, s: For, count: int) -> None:
        """An unrolled loop: its body so often, one copy after the other, or woven."""
        ends, label = [len(self.lines)], self.label
        for _ in self.numbers(s.axis, count):
            self.statement(s.body)
            ends.append(len(self.lines))
        long = count > 1 and ends[1] - ends[0] >= LONG
        if long and self.label == label and independent(s.body):
            parts = [self.lines[a:b] for a, b in pairwise(ends)]
            self.lines[ends[0] :] = woven(parts)

    def vector_loop(self, s: For) -> None:
        assert self.vector is None, "vector loops do not nest"
        if s.lanes == 1:
            for _ in self.numbers(s.axis, 1):
                self.statement(s.body)
            return
        with self.in_lanes(s):
            self.statement(s.body)

    def counted_loop(self, s: For) -> None:
        extent = s.axis.extent
        first = "0"
        if s.axis in self.stretches:
            first, count = self.stretches[s.axis]  # never empty
        else:
            count = str(static(extent)) if is_static(extent) else self.value_of(extent).text  # type: ignore[arg-type]
        nests.spread_ahead(self, s)
        i, following = self.fresh("i"), self.fresh("i")
        head, done = self.fresh("for")[1:], self.fresh("done")[1:]
        skipped = dict(self.registers)
        if is_static(extent):
            self.emit(f"br label %{head}")
        else:
            some = self.value(f"icmp sgt i64 {count}, {first}", dtypes.bool_, 1)
            self.emit(f"br i1 {some.text}, label %{head}, label %{done}")
        before = self.label
        self.start(head)
        with self.joined(s.body.writes, before):
            phi = len(self.lines)
            self.lines.append("")
            self.forget(s.body.writes)
            with self.scope():
                self.remember(s.axis, Operand(i, dtypes.int64))
                self.around.append(s.axis)
                self.statement(s.body)
                self.around.pop()
            self.lines[phi] = (
                f"  {i} = phi i64 [ {first}, %{before} ], [ {following}, %{self.label} ]"
            )
        last = self.label
        self.emit(f"{following} = add nuw nsw i64 {i}, 1")
        more = self.value(f"icmp slt i64 {following}, {count}", dtypes.bool_, 1)
        self.emit(f"br i1 {more.text}, label %{head}, label %{done}")
        self.start(done)
        if not is_static(extent):
            self.join(skipped, before, self.registers, last)

    @contextmanager
    def joined(self, changed: frozenset[Buffer], before: str) -> Iterator[None]:
        """A loop's body, entered from the block `before`: each register that it may change holds
        at its start what it held before, or at the end of the last round."""
        entering = {slot: x for slot, x in self.registers.items() if slot[0] in changed}
        first = len(self.lines)
        for slot, x in entering.items():
            self.registers[slot] = x._replace(text=self.fresh("reg"))
            self.lines.append("")
        heads = {slot: self.registers[slot] for slot in entering}
        yield
        for k, (slot, x) in enumerate(entering.items()):
            ways = f"[ {x.text}, %{before} ], [ {self.registers[slot].text}, %{self.label} ]"
            self.lines[first + k] = f"  {heads[slot].text} = phi {x.type} {ways}"

    def join(
        self, a: Mapping[Slot, Operand], a_label: str, b: Mapping[Slot, Operand], b_label: str
    ) -> None:
        """What the registers hold where two ways meet. What only one way set is lost."""
        both = {slot: x for slot, x in a.items() if slot in b}
        for slot, x in both.items():
            y = b[slot]
            if x.text != y.text:
                ways = f"[ {x.text}, %{a_label} ], [ {y.text}, %{b_label} ]"
                both[slot] = self.value(f"phi {x.type} {ways}", x.dtype, x.lanes)
        self.registers = both

    def while_loop(self, condition: Expr, body: Block) -> None:
        head, inside, done = (self.fresh(n)[1:] for n in ("while", "body", "done"))
        self.emit(f"br label %{head}")
        before = self.label
        self.start(head)
        with self.joined(body.writes, before):
            self.forget(body.writes)
            with self.scope():
                test = self.value_of(condition)
                self.emit(f"br i1 {test.text}, label %{inside}, label %{done}")
                left = dict(self.registers)
                self.start(inside)
                self.statement(body)
        self.emit(f"br label %{head}")
        self.start(done)
        self.registers = left

    def branch(self, test: Operand, then: Block, otherwise: Block) -> None:
        if self.vector is not None:
            raise InternalError("an If inside a vector loop must be a select or a guard")
        yes, no, done = (self.fresh(n)[1:] for n in ("then", "else", "done"))
        self.emit(f"br i1 {test.text}, label %{yes}, label %{no}")
        before, ends = dict(self.registers), []
        for label, body in ((yes, then), (no, otherwise)):
            self.registers = dict(before)
            self.start(label)
            with self.scope():
                self.statement(body)
            ends.append((self.registers, self.label))
            self.emit(f"br label %{done}")
        self.start(done)
        (a, a_label), (b, b_label) = ends
        self.join(a, a_label, b, b_label)
        self.forget(then.writes | otherwise.writes)

    def alloc(self, buffer: Buffer) -> None:
        if self.unit is not None and buffer.scope == "matrices":
            return
        if self.register(buffer):
            if not buffer.shape or buffer.scope == "stack":  # others appear when first written
                self.registers[buffer, ()] = constant(literal(0, buffer.dtype))
            return
        name = self.fresh("stack")
        size = max(static(buffer.size), 1)
        align = STACK_ALIGN if size > 1 else buffer.dtype.itemsize
        count = f"[{size} x {memory_type(buffer.dtype)}]" if size > 1 else memory_type(buffer.dtype)
        self.first.append(f"  {name} = alloca {count}, align {align}")
        self.pointer[buffer] = name

    def call(self, s: Call) -> None:
        """Of the entry's pointers each call loads its own. There may be hundreds: to hold them
        in registers and on the stack was a third of what an entry cost LLVM."""
        texts, types = [], []
        kept, refs = self.pointer, dict.fromkeys(a.buffer for a in s.args if isinstance(a, Ref))
        if self.arguments:
            own = {b: self.fresh("arg") for b in refs if b in self.arguments}
            self.pointer = {**kept, **own}
            for b, name in own.items():
                self.lines += self.argument(b, name)
        for a in s.args:
            if isinstance(a, Ref):
                texts.append(f"ptr {self.address(a.buffer, self.settled(affine(a.offset)))}")
                types.append("ptr")
            else:
                value = self.value_of(a)
                texts.append(str(value))
                types.append(value.type)
        self.pointer = kept
        if s.library is not None:
            self.declarations.add(f"declare void @{s.function}({', '.join(types)})")
        if s.function in self.regions:
            self.divide(self.regions[s.function], texts)
        else:
            self.emit(f"call void @{s.function}({', '.join(texts)})")
        self.forget(s.writes)

    def given(self, values: Sequence[Axis | Var]) -> list[str]:
        """Parameters that are scalars."""
        own = [Operand(f"%s{k}", v.type) for k, v in enumerate(values)]
        for v, x in zip(values, own, strict=True):
            self.remember(v, x)
        return [*map(str, own)]

    def divide(self, region: Region, texts: Sequence[str]) -> None:
        """Have the pool run a region: its arguments travel in an environment of 8 bytes each."""
        env, n = self.fresh("env"), region.extent
        self.first.append(f"  {env} = alloca [{len(texts)} x i64], align 8")
        extent = str(n) if isinstance(n, int) else self.value_of(n).text
        self.lines += divided(region, env, texts, extent)
        self.declarations.add(DECLARATION)

    # -- registers ----------------------------------------------------------------------------

    def flip(self, buffer: Buffer) -> None:
        """Transpose a square tile, here or by a call."""
        n = static(buffer.shape[0])
        rows = [self.registers[buffer, (i,)] for i in range(n)]
        tile = turning.tile(self.target, buffer.dtype, n)
        rows = turning.transposed(self, rows) if tile is None else self.turned(tile, rows)
        self.registers.update({(buffer, (i,)): row for i, row in enumerate(rows)})
        self.forget(frozenset((buffer,)))

    def turned(self, tile: turning.Tile, rows: Sequence[Operand]) -> list[Operand]:
        """The tile transposed by a call."""
        own, dtype, whole = rows[0].type, rows[0].dtype, self.fresh()
        if own != tile.row:
            rows = [self.value(f"bitcast {x} to {tile.row}", tile.dtype, tile.n) for x in rows]
        given = ", ".join([f"{tile.row} {x.text}" for x in rows])
        self.emit(f"{whole} = call {turning.IN_REGISTERS} {tile.rows} @{tile.turn}({given})")
        self.declarations.add(tile.declaration)
        part = f"extractvalue {tile.rows} {whole}, "
        turned = [self.value(f"{part}{i}", tile.dtype, tile.n) for i in range(tile.n)]
        if own != tile.row:
            turned = [self.value(f"bitcast {x} to {own}", dtype, tile.n) for x in turned]
        return turned

    def copied(self, inner: Sequence[Stmt]) -> bool:
        """Print a tile that is read from memory, turned and written to memory as calls; False if
        that is not all the statements do, but for rows that are filled and not written."""
        match inner:
            case (Alloc(tile), For() as read, *rest, Flip(turned), For() as written):
                counts = self.counts(read), self.counts(written)[::-1]
                ends = [self.rows(s, tile) for s in (read, written)]
            case _:
                return False
        n, size = static(tile.shape[0]), tile.dtype.itemsize
        shape = turning.part_of(self.target, tile.dtype, n)
        others = all(_fills(s, tile, counts[0][0]) for s in rest)
        alike = tile is turned and others and counts[0] == counts[1]
        if shape is None or not alike or None in ends or self.vector is not None:
            return False
        (of, *_), (to, *_) = ends  # type: ignore[misc]
        if n > shape.n and of is to:
            return False
        memory = [
            turning.Rows(self.address(b, self.settled(form)), step * size)
            for b, form, step in ends  # type: ignore[misc]
        ]
        turning.copy(self, shape, *counts[0], *memory)
        self.forget(written.writes)
        return True

    def counts(self, s: For) -> tuple[int, int]:
        """How often a loop and the one inside are run."""
        match s:
            case For(u, Block((For(v),))) if is_static(u.extent) and is_static(v.extent):
                return static(u.extent), static(v.extent)
        return 0, 0

    def rows(self, s: For, tile: Buffer) -> tuple[Buffer, Affine, int] | None:
        """The memory that a tile's first rows, or the first elements of these, are copied to or
        from: the first element, and how far apart rows are. None if it is not that."""
        match s:
            case For(u, Block((For(v, Block((Store() as store,)), "vector", lanes),)), "unroll"):
                whole = lanes == static(tile.shape[0])
            case _:
                return None
        to, index, value = store.buffer, store.index, store.value
        if not isinstance(value, Load) or value.guard is not None:
            return None
        of, at = value.buffer, value.index
        there, place = (of, at) if to is tile else (to, index)
        here, own = (to, index) if to is tile else (of, at)
        same = there.dtype == tile.dtype and there.scope != "registers"
        if not whole or here is not tile or own != (u, v) or not same:
            return None
        form = self.form(there, place)
        if form.coefficient(v) != 1 or (there.scope == "output" and there.nbytes >= STREAM_BYTES):
            return None
        rest = form.without(v).without(u)
        if any(not {u.serial, v.serial}.isdisjoint(t.free) for t, _ in rest.terms):
            return None
        return there, rest, form.coefficient(u)

    # -- memory -------------------------------------------------------------------------------

    def store(self, buffer: Buffer, index: tuple[Expr, ...], value: Expr) -> None:
        x = self.value_of(value)
        if self.register(buffer):
            slot, lanes = self.slot(buffer, index)
            self.registers[slot] = self.splat(x, lanes)
            filled = self.filled.setdefault(slot, self.extent)
            self.filled[slot] = filled if filled == self.extent else 0
        else:
            self.write(buffer, index, x)
        self.forget(frozenset((buffer,)))

    def accumulate(self, buffer: Buffer, index: tuple[Expr, ...], kind: str, value: Expr) -> None:
        e = self.expanded(value)
        if self.register(buffer) and kind == "sum" and self.fused_product(buffer, index, e):
            return
        x = self.known_value(e)
        if self.register(buffer):
            slot, lanes = self.slot(buffer, index)
            acc = self.registers[slot]
            if lanes > 1:
                new = self.within(slot, self.combine(kind, acc, self.splat(x, lanes)), acc)
            else:
                if x.lanes == 1 and self.vector is not None:
                    x = self.splat(x, self.lanes)
                if x.lanes > 1:
                    x = self.across(
                        kind, self.masked(x, self.splat(self._identity(kind, x.dtype), x.lanes))
                    )
                neutral = acc.text == self._identity(kind, acc.dtype).text
                new = x if neutral else self.combine(kind, acc, x)
            self.registers[slot] = new
        else:
            old = self.read(buffer, index, None)
            lanes = max(old.lanes, x.lanes)
            self.write(
                buffer, index, self.combine(kind, self.splat(old, lanes), self.splat(x, lanes))
            )
        self.forget(frozenset((buffer,)))

    def fused_product(self, buffer: Buffer, index: tuple[Expr, ...], e: Expr) -> bool:
        """acc += a * b, or a sum of such products, in one instruction where registers have lanes:
        a sum's order and rounding are its own affair. False if it is not such a product, or the
        machine has no such instruction."""
        slot, lanes = self.slot(buffer, index)
        name = e.op.name if isinstance(e, Apply) else ""
        fused = name == "mul" and dtypes.is_float(e.type) and FUSED in self.native
        scalar = lanes == 1 and self.vector is not None
        if scalar or not (fused or name in intrinsics.SPELLINGS):
            return False
        acc = self.registers[slot]
        factors = [self.splat(self.known_value(a), lanes) for a in e.children]
        if name == "mul":
            new = self.multiply_add(*factors, acc)
        else:
            new = intrinsics.dot(self, name, acc, factors)
        self.registers[slot] = self.within(slot, new, acc)
        self.forget(frozenset((buffer,)))
        return True

    def within(self, slot: Slot, new: Operand, old: Operand) -> Operand:
        """`new` in the lanes that are meant, `old` in those of others; as it is where the others
        hold nothing, since no more lanes than these were ever stored."""
        return new if self.filled.get(slot) == self.extent else self.masked(new, old)

    def _identity(self, kind: str, dtype: DType) -> Operand:
        return constant(identity(kind, dtype))

    # -- expressions --------------------------------------------------------------------------


def _streams(f: Function, cache: int) -> fetching.Streams:
    """What a function fetches ahead."""
    if not any(fetching.is_large(b, cache) for b in f.params):
        return fetching.Streams({}, True)
    return fetching.streams(f.body, cache)


def _fills(s: Stmt, tile: Buffer, first: int) -> bool:
    """Whether a statement fills a row of a tile beyond the first so many."""
    match s:
        case For(_, Block((Store(filled, (Lit(row), _), Lit()),))) if filled is tile:
            return int(row) >= first
    return False


def _passed(body: Stmt) -> frozenset[Buffer]:
    """The buffers that calls get pointers to."""
    calls = (s for s in statements(body) if isinstance(s, Call))
    return frozenset(a.buffer for s in calls for a in s.args if isinstance(a, Ref))
