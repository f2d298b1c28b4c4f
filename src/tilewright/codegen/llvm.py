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
from functools import cache
from itertools import pairwise

from tilewright import dtypes
from tilewright.codegen import intrinsics, multiply_add
from tilewright.codegen.llvm_memory import ZERO, Slot, ValuePrinter
from tilewright.codegen.llvm_values import (
    AS_PRINTED,
    NO_UNWINDING,
    Operand,
    constant,
    identity,
    memory_type,
    native_operations,
    suffix,
)
from tilewright.codegen.parallel import DECLARATION, Region, cost_of, divided, outline, task
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
from tilewright.target import Target
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

IN_REGISTERS = "x86_regcallcc"
"""The calling convention that passes and returns sixteen vectors in registers."""
PURE = "nounwind willreturn memory(none)"
"""Attributes of functions of nothing but their arguments."""


def print_program(
    program: Program,
    target: Target | None = None,
    threads: int | None = None,
    once: bool = False,
) -> str:
    """The whole program as one LLVM module. Its one external function takes an array of pointers,
    one for each parameter of the program's entry. Without a target it runs on any machine, and on
    one thread; with one its parallel loops use at most so many `threads` (None: no limit). `once`
    says that the program will hardly run more often."""
    parts: list[str] = []
    declarations: set[str] = set()
    zero_bytes = 16
    native: frozenset[str] = frozenset()
    if target is not None:
        native = native_operations(target) | intrinsics.native(target) | multiply_add.native(target)
    regions: Mapping[str, Region] = {}
    brief = once and _nanoseconds(program) <= BRIEF_NS
    if target is not None and target.pool and threads != 1:
        program, regions = outline(program, threads or 0)
    if not regions:
        program = _merged(program)
    shared = _shared_flips(program, target)
    flips: dict[str, Buffer] = {}
    for f in program.functions:
        attributes = AS_PRINTED if brief or _only_steers(f) else ""
        printer = FunctionPrinter(f, native, regions, attributes, shared)
        parts += [printer.text(external=f is program.entry), *printer.tasks.values()]
        declarations |= printer.declarations
        zero_bytes = max(zero_bytes, printer.zero_bytes)
        flips |= printer.flips
    for name, square in flips.items():
        text, declared = _flip(name, square.dtype, static(square.shape[0]))
        parts.insert(0, text)
        declarations |= declared
    head = [f"{ZERO} = internal constant [{zero_bytes} x i8] zeroinitializer, align 64"]
    parts.append("!0 = !{i32 1}")
    text = "\n\n".join(["\n".join(head + sorted(declarations)), *parts]) + "\n"
    if brief and any(lanes in text for lanes in SHORT_LANES):
        return text.replace(AS_PRINTED, "")
    return text


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


def _shared_flips(program: Program, target: Target | None) -> int:
    """Bytes of the rows of tiles whose transposition is a function of the program's, 0 if none is:
    there is one tile, or the machine passes no such vectors in registers."""
    if target is None or target.architecture != "x86_64" or target.vector_bytes < 32:
        return 0
    flips = sum(isinstance(s, Flip) for f in program.functions for s in statements(f.body))
    return target.vector_bytes if flips > 1 else 0


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


class FunctionPrinter(ValuePrinter):
    """The text of one function. `native` are the optional operations the machine has, `regions`
    the parallel loops that are functions, by name; `attributes` are the function's. Square tiles
    with rows of `shared_flips` bytes are turned by functions of the program's: `flips`, by name."""

    def __init__(
        self,
        function: Function,
        native: frozenset[str],
        regions: Mapping[str, Region],
        attributes: str = "",
        shared_flips: int = 0,
    ) -> None:
        super().__init__(native, function.body.writes, _passed(function.body))
        self.function, self.regions, self.attributes = function, regions, attributes
        self.shared_flips, self.flips = shared_flips, dict[str, Buffer]()
        self.multiplies = multiply_add.WRITTEN in native and multiply_add.only_multiplies(function)
        self.arguments: dict[Buffer, int] = {}  # the places of pointers in the entry's array
        self.first: list[str] = []  # what stands before all other lines
        self.tasks: dict[str, str] = {}
        self.stretches: dict[Axis, tuple[str, str]] = {}  # what a region runs of its inner axes

    def text(self, external: bool) -> str:
        """The definition. The external one gets its pointers in an array."""
        if external:
            self.arguments = {b: k for k, b in enumerate(self.function.params)}
            head = f"define void @{ENTRY}(ptr %args)"
        else:
            self.pointer = {b: f"%p{k}" for k, b in enumerate(self.function.params)}
            params = [f"ptr noalias noundef {p}" for p in self.pointer.values()]
            if self.function.name in self.regions:
                params += self.scalars(self.regions[self.function.name])
            head = f"define internal void @{self.function.name}({', '.join(params)})"
        self.statement(self.function.body)
        attributes = self.attributes or (AS_PRINTED if self.as_good_as_printed() else "")
        head += f"{NO_UNWINDING}{attributes} {{\nentry:"
        if self.streamed:
            self.emit("fence seq_cst")
        return "\n".join([head, *self.first, *self.lines, "  ret void", "}"])

    def as_good_as_printed(self) -> bool:
        """Whether LLVM makes code that runs as long with and without its improvements: of products
        (`multiply_add`), and where tiles are turned, summed up and stored, as Winograd's are. If
        there are other multiply-adds, or loops hand vectors on, it needs to improve the code to
        tell which registers to reuse."""
        turns = any(isinstance(s, Flip) for s in statements(self.function.body))
        if not turns and not self.multiplies:
            return False
        text = "\n".join(self.lines)
        spoilt = SHORT_LANES if self.multiplies else (FUSED_CALL, VECTOR_PHI, *SHORT_LANES)
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
            f"  {place} = getelementptr ptr, ptr %args, i64 {self.arguments[buffer]}",
            f"  {name} = load ptr, ptr {place}",
        )

    # -- statements ---------------------------------------------------------------------------

    def statement(self, s: Stmt) -> None:
        match s:
            case For():
                self.loop(s)
            case Block(inner):
                for t in inner:
                    self.statement(t)
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

    def loop(self, s: For) -> None:
        extent = s.axis.extent
        if s.kind == "vector":
            self.vector_loop(s)
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
        self.vector, self.lanes, self.extent = s.axis, s.lanes, static(s.axis.extent)
        places = self.places
        self.here()
        self.wide.add(s.axis.serial)
        self.remember(s.axis, _numbers(s.lanes))
        self.statement(s.body)
        self.wide.discard(s.axis.serial)
        self.vector, self.lanes, self.extent, self.places = None, 1, 1, places

    def counted_loop(self, s: For) -> None:
        extent = s.axis.extent
        first = "0"
        if s.axis in self.stretches:
            first, count = self.stretches[s.axis]  # never empty
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
            self.divide(self.regions[s.function], texts, types)
        else:
            self.emit(f"call void @{s.function}({', '.join(texts)})")
        self.forget(s.writes)

    def scalars(self, region: Region) -> list[str]:
        """The parameters of a region besides its buffers."""
        given = (*region.scalars, *region.outer)
        own = [Operand(f"%s{k}", v.type) for k, v in enumerate(given)]
        for v, x in zip(given, own, strict=True):
            self.remember(v, x)
        self.stretches = dict.fromkeys(region.inner, ("%begin", "%end"))
        return [*map(str, own), "i64 %begin", "i64 %end"]

    def divide(self, region: Region, texts: Sequence[str], types: Sequence[str]) -> None:
        """Have the pool run a region: its arguments travel in an environment of 8 bytes each."""
        env, n = self.fresh("env"), region.extent
        self.first.append(f"  {env} = alloca [{len(texts)} x i64], align 8")
        extent = str(n) if isinstance(n, int) else self.value_of(n).text
        self.lines += divided(region, env, texts, extent)
        self.declarations.add(DECLARATION)
        self.tasks[region.function.name] = task(region, types)

    # -- registers ----------------------------------------------------------------------------

    def flip(self, buffer: Buffer) -> None:
        """Transpose a square tile, here or by a call."""
        n = static(buffer.shape[0])
        rows = [self.registers[buffer, (i,)] for i in range(n)]
        if buffer.dtype.itemsize >= 4 and n * buffer.dtype.itemsize == self.shared_flips:
            name = f"flip.{suffix(buffer.dtype, n)}"
            self.flips[name] = buffer
            types, whole = _tuple_of(rows), self.fresh()
            self.emit(f"{whole} = call {IN_REGISTERS} {types} @{name}({', '.join(map(str, rows))})")
            part = f"extractvalue {types} {whole}, "
            rows = [self.value(f"{part}{i}", x.dtype, n) for i, x in enumerate(rows)]
        else:
            rows = self.transposed(rows)
        self.registers.update({(buffer, (i,)): row for i, row in enumerate(rows)})
        self.forget(frozenset((buffer,)))

    def flip_text(self, dtype: DType, n: int) -> str:
        """The function that turns such tiles. Its 64 shuffles take the code generator longer than
        the rest of a loop: 2 ms for each tile that has shuffles of its own."""
        given = [Operand(f"%r{i}", dtype, n) for i in range(n)]
        types, whole = _tuple_of(given), "poison"
        for i, x in enumerate(self.transposed(given)):
            last, whole = whole, self.fresh()
            self.emit(f"{whole} = insertvalue {types} {last}, {x}, {i}")
        signature = f"@{self.function.name}({', '.join(map(str, given))})"
        head = f"define internal {IN_REGISTERS} {types} {signature} {PURE}{AS_PRINTED} {{\nentry:"
        return "\n".join([head, *self.lines, f"  ret {types} {whole}", "}"])

    def transposed(self, given: Sequence[Operand]) -> list[Operand]:
        """First the squares inside all 16 bytes, by interleaving single lanes of neighbouring rows,
        then pairs of rows two apart, and so on; then whole 16 bytes. Each step is one shuffle of
        two registers, of the kind that machines have an instruction for."""
        n = len(given)
        inside = max(min(16 // given[0].dtype.itemsize, n), 1)
        rows, apart = [*given], 1
        while apart < n:
            low, high = _halves(n, inside, apart)
            for i in range(n):
                if not i & apart:
                    a, b = rows[i], rows[i + apart]
                    rows[i], rows[i + apart] = self.shuffled(a, b, low), self.shuffled(a, b, high)
            apart *= 2
            if apart < n and n > 4:
                rows = [self.fenced(x) for x in rows]
        return [rows[i - i % inside + _reversed(i % inside, inside)] for i in range(n)]

    def fenced(self, x: Operand) -> Operand:
        """The same register, through which LLVM does not look. No instruction comes of it. The
        steps of a transposition are as good as printed; looking for a way to merge each with all
        before it took LLVM three times as long as the rest, even where it improves nothing."""
        if x.dtype in (dtypes.float32, dtypes.float64):
            name = f"llvm.arithmetic.fence.{suffix(x.dtype, x.lanes)}"
            return self.value(self.intrinsic(name, x.type, str(x), x.type), x.dtype, x.lanes)
        words = x.lanes * x.dtype.itemsize // 4
        if words < 2:
            return x
        as_floats = self.value(f"bitcast {x} to <{words} x float>", dtypes.float32, words)
        return self.value(f"bitcast {self.fenced(as_floats)} to {x.type}", x.dtype, x.lanes)

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
        if name == "mul" and self.multiplies and multiply_add.fits(acc):
            new = self.multiplied(e, acc)
        else:
            factors = [self.splat(self.known_value(a), lanes) for a in e.children]
            if name == "mul":
                new = self.multiply_add(*factors, acc)
            else:
                new = intrinsics.dot(self, name, acc, factors)
        self.registers[slot] = self.within(slot, new, acc)
        self.forget(frozenset((buffer,)))
        return True

    def multiplied(self, e: Expr, acc: Operand) -> Operand:
        """The sum and a product `e`. What no other product needs is read by the instruction."""
        for a, b in (e.children, e.children[::-1]):
            if isinstance(a, Load) and (found := self.alone(a, acc)) is not None:
                offset, step = found
                factor = self.splat(self.known_value(b), acc.lanes)
                base = self.address(a.buffer, offset.shifted(-offset.constant))
                far = offset.constant * a.type.itemsize
                return multiply_add.multiplied_by_memory(self, base, far, step, factor, acc)
        factors = [self.splat(self.known_value(a), acc.lanes) for a in e.children]
        return multiply_add.multiplied(self, *factors, acc)

    def alone(self, e: Load, acc: Operand) -> tuple[Affine, int] | None:
        """Where a factor is that only this product needs, one element or a whole vector; None if
        it is none, or has to be loaded first."""
        if e.guard is not None or e.type != acc.dtype or self.register(e.buffer):
            return None
        shared = any(n > 1 and serial not in e.free for serial, n in self.copies_of.items())
        if shared or self.key(e) in self.known:
            return None
        offset, step = self.position(e.buffer, e.index)
        spread = step == 0 and multiply_add.SPREAD in self.native
        near = abs(offset.constant) * e.type.itemsize < multiply_add.FARTHEST
        if step is None or not near or not (spread or (step == 1 and self.extent == acc.lanes)):
            return None
        return offset, step

    def within(self, slot: Slot, new: Operand, old: Operand) -> Operand:
        """`new` in the lanes that are meant, `old` in those of others; as it is where the others
        hold nothing, since no more lanes than these were ever stored."""
        return new if self.filled.get(slot) == self.extent else self.masked(new, old)

    def _identity(self, kind: str, dtype: DType) -> Operand:
        return constant(identity(kind, dtype))

    # -- expressions --------------------------------------------------------------------------


@cache
def _flip(name: str, dtype: DType, n: int) -> tuple[str, frozenset[str]]:
    """A function that turns tiles of `n` by `n`, and what it declares."""
    printer = FunctionPrinter(Function(name, (), Block(()), ()), frozenset(), {})
    return printer.flip_text(dtype, n), frozenset(printer.declarations)


def _tuple_of(rows: Sequence[Operand]) -> str:
    """LLVM's type of all the rows."""
    return f"{{ {', '.join(x.type for x in rows)} }}"


@cache
def _halves(n: int, inside: int, apart: int) -> tuple[list[int], list[int]]:
    """What a step of a transposition picks of two rows of `n` lanes, `apart` rows apart: of every
    16 bytes (`inside` lanes) the lower halves' pieces of so many lanes in turn, and the upper
    halves'; from `inside` rows on, the even ones of all 16 bytes, and the odd ones."""
    if apart >= inside:
        even = [at + i for at in range(0, 2 * n, 2 * inside) for i in range(inside)]
        return even, [at + inside for at in even]
    halves: tuple[list[int], list[int]] = ([], [])
    for start in range(0, n, inside):
        for half, picked in enumerate(halves):
            first = start + half * inside // 2
            for at in range(first, first + inside // 2, apart):
                picked += [*range(at, at + apart), *range(n + at, n + at + apart)]
    return halves


def _reversed(i: int, n: int) -> int:
    """The number below `n`, a power of two, whose bits are those of `i` in reverse."""
    bits = n.bit_length() - 1
    return sum((i >> k & 1) << (bits - 1 - k) for k in range(bits))


@cache
def _numbers(lanes: int) -> Operand:
    """The number of each lane."""
    text = ", ".join([f"i64 {i}" for i in range(lanes)])
    return Operand(f"<{text}>", dtypes.int64, lanes)


def _passed(body: Stmt) -> frozenset[Buffer]:
    """The buffers that calls get pointers to."""
    calls = (s for s in statements(body) if isinstance(s, Call))
    return frozenset(a.buffer for s in calls for a in s.args if isinstance(a, Ref))
