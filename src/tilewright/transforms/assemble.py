"""Assemble: a graph becomes one program, kernels, control flow and memory plan included.

Knows where every kept value lives: an input, an output, or a slot of one arena whose slots are
reused as soon as their value is dead. Loops carry values in two slots used in turn, scanned inputs
and stacked results are addressed in place, so iterations copy nothing. Refuses to know how a
kernel is scheduled: the scheduler is a parameter.

What depends on constants only is a program of its own, the preparation; its results are inputs of
the main one.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tilewright import dtypes, forks, loops
from tilewright import kernel as kernels
from tilewright.dtypes import DType
from tilewright.expr import (
    CONSTANT,
    ROW,
    Buffer,
    Expr,
    Lit,
    Namer,
    as_index,
    axis,
    eq,
    index,
    is_static,
    load,
    loads_in,
    static,
)
from tilewright.graph import Graph, Input, Node, Op, Pick, Type, users
from tilewright.kernel import Assign, Kernel
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    Call,
    Function,
    If,
    Program,
    Ref,
    Stmt,
    Store,
    block,
    loop,
    statements,
)
from tilewright.loops import (
    While as WhileLoop,
)
from tilewright.ops.control import Scan, Switch, While
from tilewright.ops.held import Held, Lent
from tilewright.ops.shape import Constant, Reshape, Transpose
from tilewright.target import Lapack
from tilewright.transforms import ahead, copies, fusion
from tilewright.transforms.ahead import packed, split
from tilewright.transforms.collapse import collapse
from tilewright.transforms.complex_parts import split_complex, split_function
from tilewright.transforms.groups import separated
from tilewright.transforms.loopify import walked
from tilewright.transforms.lowering import axes_for, position
from tilewright.transforms.packing import Block as Copy
from tilewright.transforms.partials import in_slices
from tilewright.transforms.rewriting import rewritten
from tilewright.transforms.schedule import (
    Parallel,
    Schedule,
    Split,
    Vectorize,
    names,
    planned,
)
from tilewright.transforms.streams import streamed
from tilewright.transforms.tensorize import contiguous
from tilewright.transforms.time_tiling import Sweep, Wavefront, wavefront

Scheduler = Callable[[Kernel], Schedule]

ALIGN: Final = 64
"""Arena slots start on a cache line, and so on a vector."""


@dataclass(frozen=True)
class Scheduled:
    """A kernel with the schedule and loops chosen for it, and how often the program calls it."""

    kernel: Kernel
    schedule: Schedule
    function: Function


@dataclass(frozen=True)
class Preparation:
    """What is made of the captured arrays ahead of all calls: the program, if there is one (entry:
    these arrays, results, arena), and copies among these arrays and results, in this order."""

    program: Program | None
    copies: tuple[copies.Copy, ...]
    kernels: tuple[Scheduled, ...]
    results: tuple[Type, ...]
    arena_bytes: int


@dataclass(frozen=True)
class Assembly:
    """A program and what it was made from."""

    program: Program
    kernels: tuple[Scheduled, ...]
    constants: tuple[Type, ...]
    arena_bytes: int
    edges: tuple[fusion.Edge, ...]
    preparation: Preparation | None


@dataclass(frozen=True)
class Made:
    """The function of a kernel, and the blocks it reads in place of constants."""

    kernel: Kernel
    function: Function
    blocks: dict[Buffer, Copy]

    @forks.cached_property
    def text(self) -> str:
        return _canonical(self.kernel)


@dataclass(frozen=True)
class Packing:
    """A constant that is packed ahead: where it is, the block it fills, and the block's place."""

    source: Place
    block: Copy
    place: Place

    @forks.cached_property
    def kernel(self) -> Kernel:
        """The copy as a kernel like any other."""
        b = self.block
        return Kernel(b.buffer.name, b.axes, (Assign(b.buffer, b.axes, (), b.value),))

    @forks.cached_property
    def text(self) -> str:
        return _canonical(self.kernel)


@dataclass(frozen=True)
class Place:
    """Where a value is: a pointer `offset` elements into an entry buffer."""

    buffer: Buffer
    offset: Expr
    in_arena: bool = False
    is_row: bool = False

    @property
    def start(self) -> int:
        """A known offset."""
        assert isinstance(self.offset, Lit), "the offset depends on a loop"
        return int(self.offset.value)

    def shifted(self, elements: Expr, itemsize: int) -> Place:
        """The place `elements` further on; the arena counts in bytes."""
        unit = itemsize if self.in_arena else 1
        offset = index("+", self.offset, index("*", elements, as_index(unit)))
        return Place(self.buffer, offset, self.in_arena, self.is_row)

    @property
    def ref(self) -> Ref:
        return Ref(self.buffer, self.offset)

    @property
    def is_constant(self) -> bool:
        """Whether the value is the same at every call."""
        return self.buffer.scope == CONSTANT and isinstance(self.offset, Lit)

    @property
    def scope(self) -> str:
        """The scope of what a kernel reads here."""
        return CONSTANT if self.is_constant else ROW if self.is_row else "input"


class Arena:
    """First-fit memory: free stretches in order, and the high-water mark."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []  # (offset, bytes), never adjacent
        self.sizes: dict[int, int] = {}
        self.size = 0

    def take(self, nbytes: int) -> int:
        """The offset of a free stretch."""
        nbytes = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
        for k, (at, room) in enumerate(self.free):
            if room >= nbytes:
                self.free[k : k + 1] = [(at + nbytes, room - nbytes)] if room > nbytes else []
                break
        else:
            at, self.size = self.size, self.size + nbytes
        self.sizes[at] = nbytes
        return at

    def drop(self, offset: int) -> None:
        """Give a stretch back; free neighbours join."""
        start, end = offset, offset + self.sizes.pop(offset)
        k = bisect.bisect(self.free, (start, 0))
        if k < len(self.free) and self.free[k][0] == end:
            end += self.free.pop(k)[1]
        if k and sum(self.free[k - 1]) == start:
            k -= 1
            start = self.free.pop(k)[0]
        self.free.insert(k, (start, end - start))


def constants(graph: Graph) -> list[Held]:
    """The arrays the graph captured, sub-graphs included, in the order it mentions them."""
    found: dict[Held, None] = {}
    stack = [graph]
    while stack:
        g = stack.pop(0)
        for n in g.nodes:
            if isinstance(n.op, Constant):
                found.setdefault(n.op.held)
            stack += n.op.graphs.values()
    return list(found)


def lent(graph: Graph) -> Graph:
    """The graph with its captured arrays lent, not held."""
    known = {h: Lent(h) for h in constants(graph)}

    def rule(op: Op, args: Sequence[Node]) -> Node | None:
        return Constant(known[op.held]).node() if isinstance(op, Constant) else None

    return rewritten(graph, rule) if known else graph


def assemble(graph: Graph, scheduler: Scheduler, lapack: Lapack | None = None) -> Assembly:
    """The program of a closed, simplified graph. Entry: inputs, constants, what was prepared,
    outputs, arena."""
    parts = split(graph)
    held = constants(graph)
    captured = [_captured(h, f"c{k}") for k, h in enumerate(held)]
    known = dict(zip(held, map(_whole, captured), strict=True))
    builder = _Builder(scheduler, lapack, constants=known)
    kept = [_buffer(n, CONSTANT, f"p{k}") for k, n in enumerate(parts.kept)]
    inputs = [_buffer(n, "input", f"x{k}") for k, n in enumerate(graph.inputs)]
    outs = [_buffer(n, "output", f"out{k}") for k, n in enumerate(graph.outputs)]
    places = [_whole(b) for b in (*inputs, *kept)]
    body = block(*builder.block(parts.after, places, [_whole(b) for b in outs], whole=True))
    packings = builder.packings
    calls = [s for s in statements(body) if isinstance(s, Call)]
    used = {a.buffer for s in calls for a in s.args if isinstance(a, Ref)}
    results = [b for b in (*kept, *(p.place.buffer for p in packings)) if b in used]
    preparation = None
    if results:
        preparation = _prepare(parts, kept, captured, results, packings, builder)
    params = (*inputs, *captured, *results, *outs, builder.arena_buffer)
    entry = Function("entry", params, block(*(Alloc(b) for b in builder.scalars), *body.statements))
    program = Program((*builder.functions, entry))
    return Assembly(
        program,
        tuple(builder.kernels),
        tuple(Type(b.dtype, b.shape) for b in captured),
        builder.arena.size,
        tuple(builder.edges),
        preparation,
    )


def _prepare(
    parts: ahead.Split,
    kept: Sequence[Buffer],
    captured: Sequence[Buffer],
    results: Sequence[Buffer],
    packings: Sequence[Packing],
    main: _Builder,
) -> Preparation:
    """The program that fills `results`. What is only packed again stays in its arena. To itself
    nothing is constant: it runs once."""
    inputs = {b: Buffer(b.name, b.dtype, b.shape, "input") for b in captured}
    known = {h: _whole(inputs[place.buffer]) for h, place in main.constants.items()}
    taken = main.used_names  # both programs are in one module
    builder = _Builder(main.scheduler, main.lapack, constants=known, used_names=taken)
    at = {b: _whole(b) for b in results} | {b: _whole(inputs[b]) for b in captured}
    at |= {b: builder.slot(builder.arena.take(b.nbytes)) for b in kept if b not in at}
    body = builder.block(parts.before, [], [at[b] for b in kept])
    builder.scheduler, moved = _copying, list[copies.Copy]()
    number = {b: k for k, b in enumerate((*captured, *results))}
    for p in packings:
        of, to = number.get(p.source.buffer), number[p.place.buffer]
        copy = None if of is None or p.source.start else copies.copied(p.block, of, to)
        if copy is not None:
            moved.append(copy)
            continue
        (source,) = p.kernel.reads
        body += builder.kernel(p.kernel, {source: at[p.source.buffer], p.block.buffer: p.place})
    params = (*inputs.values(), *results, builder.arena_buffer)
    entry = Function("before", params, block(*(Alloc(b) for b in builder.scalars), *body))
    types = tuple(Type(b.dtype, b.shape) for b in results)
    program = Program((*builder.functions, entry)) if body else None
    return Preparation(program, tuple(moved), tuple(builder.kernels), types, builder.arena.size)


def _copying(k: Kernel) -> Schedule:
    """The schedule of a copy that is made once: short code rather than fast code. What is
    contiguous on both sides is copied in lanes, which print no longer and take a third."""
    own = {a: name for name, a in names(k).items()}
    last, (assign,) = k.axes[-1], k.body
    lanes = math.gcd(static(last.extent), ALIGN // assign.buffer.dtype.itemsize)
    if lanes == 1 or not contiguous(assign.value, last):
        return Schedule((Parallel(own[k.axes[0]]),))
    outermost = own[k.axes[0]] + (".o" if k.axes[0] is last else "")
    steps = Split(own[last], lanes), Parallel(outermost), Vectorize(f"{own[last]}.i")
    return Schedule(steps)


def _whole(b: Buffer) -> Place:
    return Place(b, as_index(0))


def _captured(h: Held, name: str) -> Buffer:
    return Buffer(name, h.type.dtype, h.type.shape, CONSTANT if h.fixed else "input")


def _buffer(n: Node, scope: str, name: str) -> Buffer:
    return Buffer(name, n.type.dtype, n.type.shape, scope)


@dataclass
class _Builder:
    scheduler: Scheduler
    lapack: Lapack | None
    functions: list[Function] = field(default_factory=list)
    kernels: list[Scheduled] = field(default_factory=list)
    edges: list[fusion.Edge] = field(default_factory=list)
    scalars: list[Buffer] = field(default_factory=list)
    constants: dict[Held, Place] = field(default_factory=dict)
    arena: Arena = field(default_factory=Arena)
    arena_buffer: Buffer = field(default_factory=lambda: Buffer("arena", dtypes.uint8, (0,)))
    packings: list[Packing] = field(default_factory=list)
    packed_of: dict[tuple[Buffer, Expr], list[Packing]] = field(default_factory=dict)
    by_types: dict[tuple[Any, ...], list[Made]] = field(default_factory=dict)
    by_op: dict[tuple[Op, tuple[Type, ...]], tuple[Function, list[Buffer]]] = field(
        default_factory=dict
    )
    used_names: dict[str, int] = field(default_factory=lambda: {"entry": 1, "before": 1})

    # -- one graph ----------------------------------------------------------------------------

    def block(
        self, graph: Graph, inputs: Sequence[Place], outs: Sequence[Place], whole: bool = False
    ) -> list[Stmt]:
        """Statements that compute the graph from `inputs` into `outs`. `whole` says that these
        are the program's results: aligned, and written once."""
        graph = _own_outputs(graph)
        readers = users(graph)
        final = set(graph.outputs) if whole else set()
        kept = {n: r for n, r in fusion.keep(graph).items() if not isinstance(n.op, Constant)}
        buffers: dict[Node, Buffer] = {}
        place: dict[Buffer, Place] = {}
        for n, where in zip(graph.inputs, inputs, strict=True):
            name = n.op.label if isinstance(n.op, Input) else "x"
            buffers[n] = _buffer(n, where.scope, name)
            place[buffers[n]] = where
        for n in graph.nodes:
            if isinstance(n.op, Constant):
                where = self.constants[n.op.held]
                buffers[n] = _buffer(n, where.scope, "c")
                place[buffers[n]] = where
            elif n in kept and not isinstance(n.type, tuple):
                scope = "output" if n in final and not readers[n] else "temp"
                buffers[n] = _buffer(n, scope, n.op.name)
        for n, where in zip(graph.outputs, outs, strict=True):
            place[buffers[n]] = where
        results = _results(graph, kept, buffers)
        steps = fusion.group(graph, kept, buffers, results)
        return self.run(graph, steps, kept, buffers, place, results)

    def run(
        self,
        graph: Graph,
        steps: list[fusion.Step],
        kept: dict[Node, str],
        buffers: dict[Node, Buffer],
        place: dict[Buffer, Place],
        results: dict[Node, list[Buffer]],
    ) -> list[Stmt]:
        """The steps in order; slots are taken when first written and dropped after the last use."""
        touched = [_touched(s, buffers, results) for s in steps]
        last: dict[Buffer, int] = {b: k for k, (r, w) in enumerate(touched) for b in (*r, *w)}
        wanted = {buffers[n] for n in graph.outputs}
        read_by: dict[Buffer, set[int]] = {}
        for k, (reads, _) in enumerate(touched):
            for b in reads:
                read_by.setdefault(b, set()).add(k)
        dying: dict[int, list[Buffer]] = {}
        for b, k in last.items():
            dying.setdefault(k, []).append(b)
        taken: dict[Buffer, int] = {}
        readers = users(graph)
        out: list[Stmt] = []
        for k, step in enumerate(steps):
            if isinstance(step, fusion.Group):
                written = {a.buffer for a in step.body}
                needed = frozenset(b for b in written if b in wanted or read_by.get(b, set()) - {k})
                self.claim(
                    [b for b in dict.fromkeys(a.buffer for a in step.body) if b in needed],
                    place,
                    taken,
                )
                name = _name(graph, step.nodes)
                out += self.kernel(fusion.finish(step, name, needed), place)
                for n in step.nodes:
                    nbytes = buffers[n].nbytes if buffers[n] in needed else 0
                    self.edges.append(fusion.Edge(n, kept[n], tuple(readers[n]), name, nbytes))
            else:
                self.claim(touched[k][1], place, taken)
                nbytes = sum(b.nbytes for b in touched[k][1])
                edge = fusion.Edge(step, kept[step], tuple(readers[step]), step.op.name, nbytes)
                self.edges.append(edge)
                out += self.opaque(
                    step, [place[buffers[a]] for a in step.args], [place[b] for b in touched[k][1]]
                )
            for b in dying.get(k, ()):
                if b in taken:
                    self.arena.drop(taken.pop(b))
        for offset in taken.values():
            self.arena.drop(offset)
        return out

    def claim(
        self, wanted: Sequence[Buffer], place: dict[Buffer, Place], taken: dict[Buffer, int]
    ) -> None:
        for b in wanted:
            if b not in place:
                taken[b] = self.arena.take(b.nbytes)
                place[b] = self.slot(taken[b])

    def slot(self, offset: int) -> Place:
        return Place(self.arena_buffer, as_index(offset), in_arena=True)

    # -- kernels ------------------------------------------------------------------------------

    def kernel(self, k: Kernel, place: dict[Buffer, Place]) -> list[Stmt]:
        """Call the function of a kernel; equal kernels share one."""
        if not k.body or any(static(a.extent) == 0 for a in k.axes):
            return []
        k, origin = split_complex(k)
        k = streamed(collapse(separated(k)))
        cut = in_slices(k)
        if cut is not None:
            return self.cut(*cut, {b: place[origin.get(b, b)] for b in k.params})
        made = self.made(k)
        own = dict(zip(made.kernel.params, k.params, strict=True))
        scratch = [b for b in made.function.params if b not in own and b not in made.blocks]
        slots = {b: self.slot(self.arena.take(b.nbytes)) for b in scratch}
        refs = []
        for b in made.function.params:
            if b in made.blocks:
                (source,) = _sources(made.blocks[b])
                source = own[source]
                where = self.packed(made.blocks[b], place[origin.get(source, source)])
            elif b in own:
                where = place[origin.get(own[b], own[b])]
            else:
                where = slots[b]
            refs.append(where.ref)
        for where in slots.values():
            self.arena.drop(where.start)
        return [Call(made.function.name, tuple(refs), None)]

    def cut(self, parts: Kernel, rest: Kernel, place: dict[Buffer, Place]) -> list[Stmt]:
        """Call what computes partial results, and what combines them."""
        offsets = [self.arena.take(b.nbytes) for b in parts.writes]
        place = place | dict(zip(parts.writes, map(self.slot, offsets), strict=True))
        calls = [*self.kernel(parts, place), *self.kernel(rest, place)]
        for offset in offsets:
            self.arena.drop(offset)
        return calls

    def made(self, k: Kernel) -> Made:
        """The function of a kernel or of one that reads the same; texts are only compared, and so
        only written, of kernels with parameters of the same types."""
        like = self.by_types.setdefault(tuple([(b.dtype, b.shape, b.scope) for b in k.params]), [])
        text = _canonical(k) if like else None
        found = next((m for m in like if m.text == text), None)
        if found is None:
            found = self.make(k.named(self.unique(k.name)))
            like.append(found)
        return found

    def make(self, k: Kernel) -> Made:
        """Schedule a kernel and write its loops."""
        schedule = self.scheduler(k)
        walk, blocks = packed(planned(k, schedule))
        params: Sequence[Buffer] = k.params
        if blocks:
            read = set(walk.params)
            params = [*(b for b in k.params if b in read), *(b.buffer for b in blocks)]
        function = walked(walk, params)
        self.functions.append(function)
        self.kernels.append(Scheduled(k, schedule, function))
        return Made(k, function, {b.buffer: b for b in blocks})

    def packed(self, block: Copy, source: Place) -> Place:
        """The place of a packed constant; equal blocks of one constant share it."""
        b = block.buffer
        place = _whole(Buffer(f"p_{b.name}", b.dtype, b.shape, CONSTANT))
        new = Packing(source, block, place)
        like = self.packed_of.setdefault((source.buffer, source.offset), [])
        found = next((p for p in like if p.text == new.text), None)
        if found is None:
            found = new
            like.append(new)
            self.packings.append(new)
        return found.place

    def unique(self, name: str) -> str:
        n = self.used_names.get(name, 0)
        self.used_names[name] = n + 1
        return name if n == 0 else f"{name}_{n}"

    # -- opaque ops and control flow ------------------------------------------------------------

    def opaque(self, n: Node, args: list[Place], outs: list[Place]) -> list[Stmt]:
        match n.op:
            case Scan():
                return self.scan(n.op, n, args, outs)
            case While():
                return self.while_loop(n.op, n, args, outs)
            case Switch():
                return self.switch(n.op, n, args, outs)
        function, scratch = self.own(n)
        offsets = [self.arena.take(b.nbytes) for b in scratch]
        places = [*outs, *args, *map(self.slot, offsets)]
        for offset in offsets:
            self.arena.drop(offset)
        return [Call(function.name, tuple(p.ref for p in places), None)]

    def own(self, n: Node) -> tuple[Function, list[Buffer]]:
        """The function of an opaque op and the memory it works in; equal ops on arguments of equal
        types share one."""
        key = n.op, tuple(a.type for a in n.args)
        found = self.by_op.get(key)
        if found is None:
            types = n.type if isinstance(n.type, tuple) else (n.type,)
            outs = [Buffer(f"out{k}", t.dtype, t.shape) for k, t in enumerate(types)]
            args = [Buffer(f"x{k}", a.type.dtype, a.type.shape) for k, a in enumerate(n.args)]
            body, scratch = _scratch(self.nest(n.op, outs, args))
            function = Function(self.unique(n.op.name), (*outs, *args, *scratch), body)
            self.functions += [f for f in n.op.functions if f not in self.functions]
            self.functions.append(split_function(function))
            found = self.by_op[key] = function, scratch
        return found

    def nest(self, op: Op, outs: Sequence[Buffer], args: Sequence[Buffer]) -> Stmt:
        """What an opaque op does: calls of the LAPACK, or its own loops if a routine is missing."""
        if self.lapack is not None:
            found: Stmt | None = op.calls(self.lapack, outs, *args)
            if found is not None and self.lapack.has(loops.library_calls(found)):
                return found
        own: Stmt = op.loops(outs, *args)
        return own

    def copy(self, of: Type, source: Place, target: Place) -> list[Stmt]:
        """target[...] = source[...], as a kernel like any other."""
        a, b = Buffer("x", of.dtype, of.shape), Buffer("out", of.dtype, of.shape)
        axes = axes_for(of.shape)
        assign = Assign(b, position(axes), (), load(a, position(axes)))
        used = tuple(x for x in axes if x.extent != 1)
        return self.kernel(Kernel("copy", used, (assign,)), {a: source, b: target})

    def scalar(self, name: str, dtype: DType) -> Buffer:
        b = Buffer(name, dtype, (), "stack")
        self.scalars.append(b)
        return b

    def carried(
        self, types: Sequence[Type], start: Sequence[Place]
    ) -> tuple[list[Stmt], list[int], Callable[[int, Expr], Place]]:
        """Two slots for each carried value, the first filled with its start; `at(k, turn)` is
        where value k is after `turn` rounds."""
        sizes = [-(-static(t.size) * t.dtype.itemsize // ALIGN) * ALIGN for t in types]
        offsets = [self.arena.take(2 * max(s, ALIGN)) for s in sizes]

        def at(k: int, turn: Expr) -> Place:
            slot = index("*", index("%", turn, as_index(2)), as_index(sizes[k]))
            return Place(self.arena_buffer, index("+", slot, as_index(offsets[k])), in_arena=True)

        copies = [
            s for k, t in enumerate(types) for s in self.copy(t, start[k], at(k, as_index(0)))
        ]
        return copies, offsets, at

    def scan(self, op: Scan, n: Node, args: list[Place], outs: list[Place]) -> list[Stmt]:
        c, m = op.consts, op.carry
        graph = _own_outputs(op.body)
        tiled = wavefront(op, graph, _name)
        if tiled is not None:
            return self.swept(graph, tiled, args, outs)
        length = static(op.length)
        carry_types = [a.type for a in n.args[c : c + m]]
        out, offsets, at = self.carried(carry_types, args[c : c + m])
        t = axis("t", length)
        row: Expr = as_index(length - 1) - t if op.reverse else t
        xs = [_row(p, a.type, row) for p, a in zip(args[c + m :], n.args[c + m :], strict=True)]
        ys = [_row(p, y, row) for p, y in zip(outs[m:], n.type[m:], strict=True)]
        inputs = [*args[:c], *(at(k, t) for k in range(m)), *xs]
        body = self.block(op.body, inputs, [*(at(k, t + 1) for k in range(m)), *ys])
        if length:
            out.append(loop(t, *body))
        for k, of in enumerate(carry_types):
            out += self.copy(of, at(k, as_index(length)), outs[k])
        for offset in offsets:
            self.arena.drop(offset)
        return out

    def swept(self, graph: Graph, w: Wavefront, args: list[Place], outs: list[Place]) -> list[Stmt]:
        """A scan that visits its rows once for many steps; between the visits what is carried lies
        in two slots used in turn."""
        given = dict(zip(graph.inputs, args, strict=True))
        fixed = {
            b: self.constants[n.op.held] if isinstance(n.op, Constant) else given[n]
            for b, n in w.fixed.items()
        }
        sizes = [-(-b.nbytes // ALIGN) * ALIGN for b in w.carried]
        offsets = [self.arena.take(size * min(w.visits - 1, 2)) for size in sizes]
        scratch = [self.arena.take(w.window_bytes(b)) for b in w.windows]
        windows = dict(zip(w.windows, map(self.slot, scratch), strict=True))

        def at(turn: Expr) -> list[Place]:
            slot = index("%", turn, as_index(2))
            places = [
                index("+", slot * n, as_index(at)) for n, at in zip(sizes, offsets, strict=True)
            ]
            return [Place(self.arena_buffer, p, in_arena=True) for p in places]

        def visit(steps: int, source: Sequence[Place], target: Sequence[Place]) -> Stmt:
            old, new = zip(w.carried, source), zip(w.carried.values(), target)
            run = Sweep(w, steps, dict(old), dict(new), fixed, windows, self.kernel, _whole)
            return run.statement()

        for s in w.stages:
            self.edges += [fusion.Edge(n, w.reason, (), s.inner.kernel.name, 0) for n in s.nodes]
        start = args[len(args) - len(sizes) :]
        if w.visits == 1:
            out = [visit(w.length, start, outs)]
        else:
            turn = axis("v", w.visits - 2)
            out = [visit(w.first, start, at(as_index(0)))]
            if w.visits > 2:
                out.append(loop(turn, visit(w.steps, at(turn), at(turn + 1))))
            out.append(visit(w.steps, at(as_index(w.visits - 2)), outs))
        for offset in (*offsets, *scratch):
            self.arena.drop(offset)
        return out

    def while_loop(self, op: While, n: Node, args: list[Place], outs: list[Place]) -> list[Stmt]:
        p, q = op.cond_consts, op.cond_consts + op.body_consts
        types = [a.type for a in n.args[q:]]
        out, offsets, at = self.carried(types, args[q:])
        rounds, go = self.scalar("rounds", dtypes.int64), self.scalar("go", dtypes.bool_)
        turn = load(rounds, ())
        now = [at(k, turn) for k in range(len(types))]
        following = [at(k, index("+", turn, as_index(1))) for k in range(len(types))]
        test = self.block(op.cond, [*args[:p], *now], [Place(go, as_index(0))])
        body = self.block(op.body, [*args[p:q], *now], following)
        step = Accumulate(rounds, (), "sum", as_index(1))
        out += [Store(rounds, (), as_index(0)), *test]
        out.append(WhileLoop(load(go, ()), block(*body, step, *test)))
        for k, of in enumerate(types):
            out += self.copy(of, now[k], outs[k])
        for offset in offsets:
            self.arena.drop(offset)
        return out

    def switch(self, op: Switch, n: Node, args: list[Place], outs: list[Place]) -> list[Stmt]:
        which = self.scalar("which", n.args[0].type.dtype)
        out = self.copy(n.args[0].type, args[0], Place(which, as_index(0)))
        blocks = [Block(tuple(self.block(b, args[1:], outs))) for b in op.branches]
        chosen = blocks[-1]
        for k in range(len(blocks) - 2, -1, -1):
            test = eq(load(which, ()), Lit(k, which.dtype))
            # An index below the range takes the first branch, one above it the last.
            test = load(which, ()) <= Lit(0, which.dtype) if k == 0 else test
            chosen = Block((If(test, blocks[k], chosen),))
        return [*out, chosen]


def _row(p: Place, whole: Type, row: Expr) -> Place:
    """The place of one slice along the first axis."""
    inner = static(whole.without((0,)).size)
    is_far = static(whole.size) * whole.dtype.itemsize >= fusion.FAR_BYTES
    return replace(p.shifted(row * inner, whole.dtype.itemsize), is_row=is_far)


class Canonical(Namer):
    """Names by order of appearance only, so that equal kernels print the same."""

    def __call__(self, thing: object) -> str:
        name = self._names.get(id(thing))
        if name is None:
            name = self._names[id(thing)] = f"v{len(self._keep)}"
            self._keep.append(thing)
        return name


def _canonical(k: Kernel) -> str:
    """A kernel's text without its name: equal kernels have equal ones."""
    return kernels.show(k.named(""), Canonical())


def _sources(block: Copy) -> list[Buffer]:
    """What a block is a copy of."""
    return list(dict.fromkeys(e.buffer for e in loads_in(block.value)))


def _scratch(body: Stmt) -> tuple[Block, list[Buffer]]:
    """A hand-written nest without the `temp` buffers its outermost block declares, and these: they
    may be too large for the stack, so they become parameters and live in the arena."""
    inner = body.statements if isinstance(body, Block) else (body,)
    large = [s for s in inner if isinstance(s, Alloc) and s.buffer.scope == "temp"]
    return Block(tuple(s for s in inner if s not in large)), [s.buffer for s in large]


def _own_outputs(graph: Graph) -> Graph:
    """Outputs that are inputs, constants or other outputs become copies: each result is its own.
    What an opaque op writes is an output itself, whatever shape it is given."""
    seen: set[Node] = set()
    outputs: list[Node] = []
    for n in map(_written, graph.outputs):
        while n in seen or isinstance(n.op, (Input, Constant)):
            copy = Reshape(n.type.shape).node(n)
            n = copy
        seen.add(n)
        outputs.append(n)
    return Graph(graph.name, graph.inputs, tuple(outputs))


def _written(n: Node) -> Node:
    """What has the same elements in the same order, if an opaque op writes it; else the node."""
    of = n
    while isinstance(of.op, Reshape | Transpose):
        if isinstance(of.op, Transpose):
            shape = of.args[0].type.shape
            long = [d for d in of.op.order if not is_static(shape[d]) or static(shape[d]) != 1]
            if long != sorted(long):
                break
        of = of.args[0]
    return of if isinstance(of.op, Pick) or fusion.is_opaque(of) else n


def _results(
    graph: Graph, kept: dict[Node, str], buffers: dict[Node, Buffer]
) -> dict[Node, list[Buffer]]:
    """For each opaque node the buffers of all its results, those that nobody reads included."""
    picks = {(n.args[0], n.op.item): n for n in graph.nodes if isinstance(n.op, Pick)}
    found: dict[Node, list[Buffer]] = {}
    for n in kept:
        if isinstance(n.type, tuple):
            found[n] = [
                buffers[picks[n, k]] if (n, k) in picks else Buffer("unread", t.dtype, t.shape)
                for k, t in enumerate(n.type)
            ]
        elif fusion.is_opaque(n):
            found[n] = [buffers[n]]
    return found


def _touched(
    step: fusion.Step, buffers: dict[Node, Buffer], results: dict[Node, list[Buffer]]
) -> tuple[list[Buffer], list[Buffer]]:
    """Buffers a step reads and writes."""
    if isinstance(step, fusion.Group):
        k = Kernel("", step.rows, tuple(step.body))
        return list(k.reads), list(k.writes)
    return [buffers[a] for a in step.args], results[step]


def _name(graph: Graph, nodes: Sequence[Node]) -> str:
    source = next((n.source for n in reversed(nodes) if n.source is not None), None)
    base = graph.name if graph.name.isidentifier() else "f"
    return f"{base}_{source.line}" if source else base
