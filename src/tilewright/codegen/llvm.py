"""Loops to LLVM IR text, with explicit vectors.

Knows control flow, memory access and which expressions are already in a register. Refuses to
optimise: what is hoisted, unrolled or vectorised was decided in Loops; LLVM only selects
instructions and allocates registers.

One pass over the statements. A `vector` loop sets the current vector axis; expressions that depend
on it become vectors, all others stay scalars and are splat where they meet. Registers are SSA
values: a store only says which value a register now holds, and loops and branches join what their
ways left behind with phis, so the text needs no promotion of memory.

The copies of an unrolled loop are printed from the same expressions: what is known of one that
depends on unrolled axes is known for their present numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from tilewright import dtypes
from tilewright.codegen.libm import expand
from tilewright.codegen.llvm_values import (
    Emitter,
    Operand,
    constant,
    identity,
    llvm_type,
    memory_type,
    native_operations,
    vector_type,
)
from tilewright.codegen.parallel import DECLARATION, Region, divided, outline, task
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
    is_static,
    literal,
    show,
    static,
    walk,
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
from tilewright.target import Target
from tilewright.transforms.index_rules import Affine, affine, flat

ZERO = "@zero.element"
"""Where loads whose guard is false for all lanes read from."""

STACK_ALIGN = 64
NOTHING: frozenset[Buffer] = frozenset()

STREAM_BYTES = 16 << 20
STREAM_ALIGN = 64
"""From this size on, results bypass the caches (docs/notes/stores.md); they start on a line."""


Slot: TypeAlias = tuple[Buffer, tuple[int, ...]]
"""A register: its buffer and its numbers there."""

ENTRY = "tilewright_entry"
"""The placeholder for the name under which the program is found; see `named`."""


def print_program(
    program: Program, target: Target | None = None, threads: int | None = None
) -> str:
    """The whole program as one LLVM module. Its one external function takes an array of pointers,
    one for each parameter of the program's entry. Without a target it runs on any machine, and on
    one thread; with one its parallel loops use at most so many `threads` (None: no limit)."""
    parts: list[str] = []
    declarations: set[str] = set()
    zero_bytes = 16
    native = native_operations(target) if target is not None else frozenset()
    regions: Mapping[str, Region] = {}
    if target is not None and target.pool and threads != 1:
        program, regions = outline(program, threads or 0)
    if not regions:
        program = _merged(program)
    for f in program.functions:
        printer = FunctionPrinter(f, native, regions)
        parts += [printer.text(external=f is program.entry), *printer.tasks.values()]
        declarations |= printer.declarations
        zero_bytes = max(zero_bytes, printer.zero_bytes)
    head = [f"{ZERO} = internal constant [{zero_bytes} x i8] zeroinitializer, align 64"]
    parts.append("!0 = !{i32 1}")
    return "\n\n".join(["\n".join(head + sorted(declarations)), *parts]) + "\n"


def _merged(program: Program) -> Program:
    """A program that is a single call becomes the function it calls: a function more costs code
    generation as much as a small loop does."""
    if len(program.functions) != 2:
        return program
    kernel, entry = program.functions
    match entry.body:
        case Block((Call(_, args, None),)) if all(
            isinstance(a, Ref) and isinstance(a.offset, Lit) and not a.offset.value for a in args
        ):
            passed = {a.buffer: b for a, b in zip(args, kernel.params, strict=True)}  # type: ignore[union-attr]
            if len(passed) == len(args):
                params = tuple(passed.get(b, b) for b in entry.params)
                return Program((Function(entry.name, params, kernel.body, kernel.sources),))
    return program


def named(text: str, name: str) -> str:
    """The module with its external function called `name`."""
    return text.replace(f"@{ENTRY}(", f"@{name}(")


class FunctionPrinter(Emitter):
    """The text of one function. `native` are the optional operations the machine has, `regions`
    the parallel loops that are functions, by name."""

    def __init__(
        self, function: Function, native: frozenset[str], regions: Mapping[str, Region]
    ) -> None:
        super().__init__()
        self.function, self.native, self.regions = function, native, regions
        self.allocas: list[str] = []
        self.tasks: dict[str, str] = {}
        self.stretch: tuple[Axis, str, str] | None = None  # what a region runs of its axis
        self.label = "entry"
        self.zero_bytes = 0
        self.pointer: dict[Buffer, str] = {}
        self.registers: dict[Slot, Operand] = {}
        self.known: dict[Hashable, Operand] = {}
        self.scopes: list[list[Hashable]] = [[]]
        self.changing = function.body.writes
        self.readers: dict[Buffer, list[Hashable]] = {b: [] for b in self.changing}
        self.unrolled: dict[int, int] = {}  # the serials of unrolled axes and their numbers
        self.expansions: dict[Expr, Expr] = {}
        self.forms: dict[tuple[Buffer, tuple[Expr, ...]], Affine] = {}
        self.in_memory = _passed(function.body)
        self.vector: Axis | None = None
        self.streamed = False

    def text(self, external: bool) -> str:
        """The definition. The external one gets its pointers in an array."""
        self.pointer = {b: f"%p{k}" for k, b in enumerate(self.function.params)}
        pointers = list(self.pointer.values())
        if external:
            head = f"define void @{ENTRY}(ptr %args) {{\nentry:"
            for k, p in enumerate(pointers):
                self.emit(f"%a{k} = getelementptr ptr, ptr %args, i64 {k}")
                self.emit(f"{p} = load ptr, ptr %a{k}")
        else:
            params = [f"ptr noalias noundef {p}" for p in pointers]
            if self.function.name in self.regions:
                params += self.scalars(self.regions[self.function.name])
            head = f"define internal void @{self.function.name}({', '.join(params)}) {{\nentry:"
        self.statement(self.function.body)
        if self.streamed:
            self.emit("fence seq_cst")
        return "\n".join([head, *self.allocas, *self.lines, "  ret void", "}"])

    # -- statements ---------------------------------------------------------------------------

    def statement(self, s: Stmt) -> None:
        match s:
            case Block(inner):
                for t in inner:
                    self.statement(t)
            case For():
                self.loop(s)
            case While(condition, body):
                self.while_loop(condition, body)
            case If(condition, then, otherwise):
                self.branch(self.value_of(condition), then, otherwise)
            case Let(var, value):
                self.remember(var, self.value_of(value))
            case Store(buffer, index, value):
                self.store(buffer, index, value)
            case Accumulate(buffer, index, kind, value):
                self.accumulate(buffer, index, kind, value)
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
        if e.free.isdisjoint(self.unrolled):
            return e
        return (e, *[(s, n) for s, n in self.unrolled.items() if s in e.free])

    def remember(self, e: Expr, x: Operand, base: Buffer | None = None) -> None:
        """`x` is the value of `e`, or the address of that offset from `base`, to the end of the
        scope, or until a buffer it reads changes."""
        key = self.key(e) if base is None else (base, self.key(e))
        self.known[key] = x
        self.scopes[-1].append(key)
        for b in e.reads & self.changing:
            self.readers[b].append(key)

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

    def loop(self, s: For) -> None:
        axis, extent = s.axis, s.axis.extent
        if s.kind == "vector":
            self.vector_loop(s)
        elif is_static(extent) and (s.kind == "unroll" or static(extent) <= 1):
            for i in range(static(extent)):
                with self.at(axis, i):
                    self.statement(s.body)
        else:
            self.counted_loop(s)

    @contextmanager
    def at(self, axis: Axis, i: int) -> Iterator[None]:
        """One copy of an unrolled body."""
        self.unrolled[axis.serial] = i
        self.known[self.key(axis)] = Operand(str(i), dtypes.int64)
        yield
        del self.unrolled[axis.serial]

    def vector_loop(self, s: For) -> None:
        assert self.vector is None, "vector loops do not nest"
        if s.lanes == 1:
            with self.at(s.axis, 0):
                self.statement(s.body)
            return
        self.vector, self.lanes, self.extent = s.axis, s.lanes, static(s.axis.extent)
        lanes = ", ".join(f"i64 {i}" for i in range(s.lanes))
        self.remember(s.axis, Operand(f"<{lanes}>", dtypes.int64, s.lanes))
        self.statement(s.body)
        self.vector, self.lanes, self.extent = None, 1, 1

    def counted_loop(self, s: For) -> None:
        extent = s.axis.extent
        first = "0"
        if self.stretch is not None and self.stretch[0] is s.axis:
            _, first, count = self.stretch  # never empty
        else:
            count = str(static(extent)) if is_static(extent) else self.value_of(extent).text  # type: ignore[arg-type]
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
                self.statement(s.body)
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
        if self.register(buffer):
            if not buffer.shape or buffer.scope == "stack":  # others appear when first written
                self.registers[buffer, ()] = constant(literal(0, buffer.dtype))
            return
        name = self.fresh("stack")
        size = max(static(buffer.size), 1)
        align = STACK_ALIGN if size > 1 else buffer.dtype.itemsize
        count = f"[{size} x {memory_type(buffer.dtype)}]" if size > 1 else memory_type(buffer.dtype)
        self.allocas.append(f"  {name} = alloca {count}, align {align}")
        self.pointer[buffer] = name

    def call(self, s: Call) -> None:
        texts, types = [], []
        for a in s.args:
            if isinstance(a, Ref):
                texts.append(f"ptr {self.address(a.buffer, self.settled(affine(a.offset)))}")
                types.append("ptr")
            else:
                value = self.value_of(a)
                texts.append(str(value))
                types.append(value.type)
        if s.library is not None:
            self.declarations.add(f"declare void @{s.function}({', '.join(types)})")
        if s.function in self.regions:
            self.divide(self.regions[s.function], texts, types)
        else:
            self.emit(f"call void @{s.function}({', '.join(texts)})")
        self.forget(s.writes)

    def scalars(self, region: Region) -> list[str]:
        """The parameters of a region besides its buffers."""
        own = [Operand(f"%s{k}", v.type) for k, v in enumerate(region.scalars)]
        for v, x in zip(region.scalars, own, strict=True):
            self.remember(v, x)
        self.stretch = (region.axis, "%begin", "%end")
        return [*map(str, own), "i64 %begin", "i64 %end"]

    def divide(self, region: Region, texts: Sequence[str], types: Sequence[str]) -> None:
        """Have the pool run a region: its arguments travel in an environment of 8 bytes each."""
        env, n = self.fresh("env"), region.axis.extent
        self.allocas.append(f"  {env} = alloca [{len(texts)} x i64], align 8")
        extent = str(n) if isinstance(n, int) else self.value_of(n).text
        self.lines += divided(region, env, texts, extent)
        self.declarations.add(DECLARATION)
        self.tasks[region.function.name] = task(region, types)

    # -- registers ----------------------------------------------------------------------------

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
        x = self.known_value(i).text
        return int(x) if x.lstrip("-").isdigit() else self._not_a_register(buffer, i)

    def flip(self, buffer: Buffer) -> None:
        """Transpose a square tile: first single lanes of neighbouring rows change places, then
        pairs of rows two apart, and so on, each step one shuffle of two registers."""
        n = static(buffer.shape[0])
        rows = [self.registers[buffer, (i,)] for i in range(n)]
        apart = 1
        while apart < n:
            low = [lane if not lane & apart else n + lane - apart for lane in range(n)]
            high = [lane + apart if not lane & apart else n + lane for lane in range(n)]
            for i in range(n):
                if not i & apart:
                    a, b = rows[i], rows[i + apart]
                    rows[i], rows[i + apart] = self.shuffled(a, b, low), self.shuffled(a, b, high)
            apart *= 2
        self.registers.update({(buffer, (i,)): row for i, row in enumerate(rows)})
        self.forget(frozenset((buffer,)))

    def _not_a_register(self, buffer: Buffer, i: Expr) -> int:
        raise InternalError(f"registers {buffer!r} are indexed by {show(i)}, which is not a number")

    # -- memory -------------------------------------------------------------------------------

    def store(self, buffer: Buffer, index: tuple[Expr, ...], value: Expr) -> None:
        x = self.value_of(value)
        if self.register(buffer):
            slot, lanes = self.slot(buffer, index)
            self.registers[slot] = self.splat(x, lanes)
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
                new = self.masked(self.combine(kind, acc, self.splat(x, lanes)), acc)
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
        """acc += a * b in one instruction where registers have lanes: a sum's order and rounding
        are its own affair. False if it is not such a product."""
        slot, lanes = self.slot(buffer, index)
        product = isinstance(e, Apply) and e.op.name == "mul" and dtypes.is_float(e.dtype)
        if not product or (lanes == 1 and self.vector is not None):
            return False
        acc = self.registers[slot]
        factors = [self.splat(self.known_value(a), lanes) for a in e.children]
        self.registers[slot] = self.masked(self.apply("fma", [*factors, acc], buffer.dtype), acc)
        self.forget(frozenset((buffer,)))
        return True

    def _identity(self, kind: str, dtype: DType) -> Operand:
        return constant(identity(kind, dtype))

    def address(self, buffer: Buffer, form: Affine) -> str:
        """A pointer to the element at a scalar flat offset; constants become displacements."""
        base, element = self.pointer[buffer], memory_type(buffer.dtype)
        if form.terms:
            rest = form.moving()
            found = self.known.get((buffer, self.key(rest)))
            if found is None:
                at = self.known_value(rest)
                found = self.value(
                    f"getelementptr {element}, ptr {base}, i64 {at.text}", dtypes.int64, 1
                )
                self.remember(rest, found, base=buffer)
            base = found.text
        if form.constant:
            base = self.value(
                f"getelementptr {element}, ptr {base}, i64 {form.constant}", dtypes.int64, 1
            ).text
        return base

    def settled(self, form: Affine) -> Affine:
        """The form with the terms that are numbers, unrolled axes that is, in its constant."""
        moving, constant = [], form.constant
        for t, c in form.terms:
            if t.free.isdisjoint(self.unrolled):
                moving.append((t, c))
                continue
            x = self.known_value(t)
            if x.lanes == 1 and x.text.lstrip("-").isdigit():
                constant += c * int(x.text)
            else:
                moving.append((t, c))
        return form if len(moving) == len(form.terms) else Affine(tuple(moving), constant)

    def position(self, buffer: Buffer, index: tuple[Expr, ...]) -> tuple[Affine, int | None]:
        """The flat offset at lane 0 and the step between lanes (None: not affine in the lane)."""
        form = self.forms.get((buffer, index))
        if form is None:
            form = self.forms[buffer, index] = affine(flat(buffer, index))
        if self.vector is None:
            return self.settled(form), 0
        rest = form.without(self.vector)
        if any(self._varies(t) for t, _ in rest.terms):
            return form, None
        return self.settled(rest), form.coefficient(self.vector)

    def _varies(self, e: Expr) -> bool:
        """Whether the lanes may have different values of `e`."""
        if isinstance(e, (Axis, Var)):
            found = self.known.get(self.key(e))
            return found is not None and found.lanes > 1
        return any(self._varies(x) for x in walk(e) if isinstance(x, (Axis, Var)))

    def read(self, buffer: Buffer, index: tuple[Expr, ...], guard: Operand | None) -> Operand:
        """Load one element, or one for each lane. What nobody writes is loaded once."""
        offset, step = self.position(buffer, index)
        if guard is not None or step is None or buffer in self.changing:
            return self.loaded(buffer, offset, step, guard)
        lanes = (step, self.lanes, self.extent) if step else ()
        key = (buffer, self.key(offset.moving()), offset.constant, *lanes)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self.loaded(buffer, offset, step, None)
            self.scopes[-1].append(key)
        return found

    def loaded(
        self, buffer: Buffer, offset: Affine, step: int | None, guard: Operand | None
    ) -> Operand:
        """The load of one element (step 0) or of lanes so many elements apart (None: anywhere)."""
        element, dtype = memory_type(buffer.dtype), buffer.dtype
        align = dtype.itemsize if buffer.scope != "registers" else 1
        if step == 0 and (guard is None or guard.lanes == 1):
            where = self.address(buffer, offset)
            if guard is not None:
                where = self.value(f"select {guard}, ptr {where}, ptr {ZERO}", dtypes.int64, 1).text
            return self.from_memory(
                Operand(
                    self.value(f"load {element}, ptr {where}, align {align}", dtype, 1).text, dtype
                )
            )
        if step in (1, -1):
            return self.from_memory(self.contiguous(buffer, offset, step, guard))
        if step in (2, 3, 4) and guard is None and self.extent > 1:
            return self.from_memory(self.spread(buffer, offset, step))
        lanes = self.lanes
        wide = vector_type(element, lanes)
        where = self.addresses(buffer, offset, step)
        name = f"llvm.masked.gather.{self._mangled(dtype)}.v{lanes}p0"
        mask = f"<{lanes} x i1> {self.guarded_mask(guard)}"
        args = f"<{lanes} x ptr> align {align} {where}, {mask}, {wide} zeroinitializer"
        call = self.intrinsic(name, wide, args, f"<{lanes} x ptr>, <{lanes} x i1>, {wide}")
        return self.from_memory(self.value(call, dtype, lanes))

    def spread(self, buffer: Buffer, offset: Affine, step: int) -> Operand:
        """Load every second, third or fourth element: vectors of neighbours, of which nothing
        beyond the last wanted element is touched, and shuffles that pick from them."""
        lanes, dtype = self.lanes, dtypes.uint8 if dtypes.is_bool(buffer.dtype) else buffer.dtype
        wide = llvm_type(dtype, lanes)
        wanted = [step * lane for lane in range(self.extent)]
        result, have = Operand("poison", dtype, lanes), [0] * lanes
        for start in range(0, wanted[-1] + 1, lanes):
            inside = min(lanes, wanted[-1] + 1 - start)
            where = self.address(buffer, offset.shifted(start))
            if inside == lanes:
                text = f"load {wide}, ptr {where}, align {dtype.itemsize}"
                x = self.value(text, dtype, lanes)
            else:
                mask = ", ".join(f"i1 {'true' if i < inside else 'false'}" for i in range(lanes))
                x = self._masked_load(wide, where, dtype.itemsize, f"<{mask}>", dtype)
            order = [lanes + at - start if start <= at < start + lanes else have[lane]
                     for lane, at in enumerate(wanted)]  # fmt: skip
            result = self.shuffled(result, x, order + [0] * (lanes - self.extent))
            have = [*range(lanes)]
        return Operand(result.text, buffer.dtype, lanes)

    def contiguous(
        self, buffer: Buffer, offset: Affine, step: int, guard: Operand | None
    ) -> Operand:
        """Load neighbours, in order (step 1) or backwards (-1)."""
        lanes, dtype = self.lanes, buffer.dtype
        element, align = memory_type(dtype), dtype.itemsize if buffer.scope != "registers" else 1
        wide, uniform = vector_type(element, lanes), guard is None or guard.lanes == 1
        single = uniform and self.extent == 1
        where = self.address(buffer, offset if step == 1 or single else offset.shifted(1 - lanes))
        if guard is not None and uniform:  # one choice of address instead of a mask
            self.zero_bytes = max(self.zero_bytes, lanes * dtype.itemsize)
            where = self.value(f"select {guard}, ptr {where}, ptr {ZERO}", dtypes.int64, 1).text
            guard = None
        if single:
            x = self.value(f"load {element}, ptr {where}, align {align}", dtype, 1).text
            return self.value(
                f"insertelement {wide} zeroinitializer, {element} {x}, i64 0", dtype, lanes
            )
        if guard is None and self.extent == lanes:
            x = self.value(f"load {wide}, ptr {where}, align {align}", dtype, lanes).text
        else:
            mask = self.guarded_mask(guard)
            if step == -1:
                mask = self.reversed(f"<{lanes} x i1>", mask)
            x = self._masked_load(wide, where, align, mask, dtype).text
        return Operand(x if step == 1 else self.reversed(wide, x), dtype, lanes)

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
            base = self.pointer[buffer]
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
                hint = f"align {STREAM_ALIGN}, !nontemporal !0"
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

    def streams(self, buffer: Buffer, form: Affine) -> bool:
        """Whether to store around the caches: a whole line of a result too large to stay in them,
        which this program never reads again."""
        line = self.lanes * buffer.dtype.itemsize == STREAM_ALIGN
        if not line or buffer.scope != "output" or buffer.nbytes < STREAM_BYTES:
            return False
        return all(c % self.lanes == 0 for c in (form.constant, *(c for _, c in form.terms)))

    # -- expressions --------------------------------------------------------------------------

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
        key = self.key if self.unrolled else _same
        known, first = self.known, key(root)
        found = known.get(first)
        if found is not None:
            return found
        stack = [root]
        while stack:
            e = stack[-1]
            if key(e) not in known:
                missing = [c for c in self._first(e) if key(c) not in known]
                if missing:
                    stack += missing[::-1]
                    continue
                self.remember(e, self.expression(e))
            stack.pop()
        return known[first]

    def _first(self, e: Expr) -> tuple[Expr, ...]:
        """What must be computed before `e`; a rare branch waits until it is needed."""
        if isinstance(e, Load):
            return () if e.guard is None else (e.guard,)  # positions come with the address
        if isinstance(e, Apply) and e.op.name == "rare":
            return (e.args[0], e.args[2])
        return e.children

    def expression(self, e: Expr) -> Operand:
        match e:
            case Lit():
                return constant(e)
            case Load(buffer, index, guard):
                if self.register(buffer):
                    return self.registers[self.slot(buffer, index)[0]]
                return self.read(buffer, index, None if guard is None else self.known_value(guard))
            case Index(op, args):
                return self.index(op, [self.known_value(a) for a in args], args[1])
            case Apply(op, args, dtype):
                if op.name == "rare":
                    return self.rare(*args)
                operands = self.aligned([self.known_value(a) for a in args])
                return self.apply(op.name, operands, dtype)
            case Dim(name):
                raise InternalError(f"the named dimension {name} has no value in a static program")
        raise InternalError(f"LLVM cannot print {show(e)} here")

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


def _passed(body: Stmt) -> frozenset[Buffer]:
    """The buffers that calls get pointers to."""
    calls = (s for s in statements(body) if isinstance(s, Call))
    return frozenset(a.buffer for s in calls for a in s.args if isinstance(a, Ref))
