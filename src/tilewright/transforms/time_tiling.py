"""Time tiling: several steps of a scanned stencil on a few rows, while these are in the cache.

Knows which scans these are: what they carry is far larger than a cache, and a step computes each
row of it from nearby rows. Then rows are visited once for many steps: a wavefront, in which step t
computes a row as soon as step t - 1 has the rows next to it, and windows of a few rows are all that
lies between two steps (Lamport 1974; Wonnacott 2000). Stretches of rows are computed apart, each
with the rows around it that it needs again, so they can be divided among threads; an element is the
same expression everywhere, hence the same bits. Refuses to know where values live: the assembler
gives each row its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, Self, TypeVar

from tilewright import dtypes
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Lit,
    Load,
    as_index,
    axis,
    index,
    is_static,
    load,
    product,
    static,
    substitute,
    walk,
)
from tilewright.graph import Graph, Input, Node
from tilewright.kernel import Assign, Kernel
from tilewright.loops import Alloc, If, Stmt, Store, block, loop
from tilewright.ops.control import Scan
from tilewright.ops.shape import Constant
from tilewright.transforms import fusion
from tilewright.transforms.index_rules import affine, simplify

LARGE: Final = 1 << 20
"""Bytes carried from which on it pays: what is smaller stays in the second-level cache anyway."""
WINDOW_BYTES: Final = 384 << 10
"""Bytes of all windows of a wavefront: they stay in a second-level cache with what they are made
of."""
REACH: Final = 8
"""Rows, before and after, that a row may be computed from."""
AGAIN: Final = 16
"""Rows of a stretch for each row beside it that is computed twice."""
PARTS: Final = 4
MOST_PARTS: Final = 16
"""Stretches there should be, for as many threads, and at most; if there are more, they are a
multiple of it, all as long."""
LINE: Final = 64
SKEW: Final = 2 * LINE
"""Bytes between the rows of a window: rows 4 KiB apart would share sets of the first-level cache.
"""


class Place(Protocol):
    """Where a value is, as the assembler writes it."""

    def shifted(self, elements: Expr, itemsize: int) -> Self:
        """The place `elements` further on."""


P = TypeVar("P", bound=Place)


@dataclass(frozen=True)
class Row:
    """A kernel over one row. It reads the rows `reads[b]` = (buffer, rows further on) and whole
    buffers, writes `writes`; `position` holds the row's number if it asks for it."""

    kernel: Kernel
    reads: dict[Buffer, tuple[Buffer, int]]
    writes: dict[Buffer, Buffer]
    position: Buffer | None


@dataclass(frozen=True)
class Stage:
    """One kernel of a step: for rows at least `reach` away from the border, where no guard asks for
    the row, and for the others (the same if there is nothing to ask). Within a step it runs
    `delay` rows behind the first stage, and `after` rows are added by the stages that follow."""

    inner: Row
    border: Row
    reach: int
    delay: int
    after: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Wavefront:
    """A scan of `length` steps as a wavefront over `rows` rows, `steps` at a time. `carried` are
    the buffers a step reads with the ones that hold the same values after it, `fixed` what all
    steps read, `nodes` what the buffers are of; `windows` gives the rows kept of each buffer that a
    step writes."""

    stages: tuple[Stage, ...]
    rows: int
    length: int
    steps: int
    carried: dict[Buffer, Buffer]
    fixed: dict[Buffer, Node]
    windows: dict[Buffer, int]
    stretch: int

    @property
    def distance(self) -> int:
        """Rows between a step and the next."""
        return sum(s.reach for s in self.stages)

    @property
    def visits(self) -> int:
        """How often all rows are visited."""
        return -(-self.length // self.steps)

    @property
    def first(self) -> int:
        """Steps of the first visit; the others make `steps`."""
        return self.length - (self.visits - 1) * self.steps

    @property
    def reason(self) -> str:
        """Why a step's values take no memory of their own."""
        return f"{self.steps} steps at a time, in windows of {max(self.windows.values())} rows"

    def window_bytes(self, b: Buffer) -> int:
        """Bytes of all windows of a buffer."""
        return self.stretches * self.steps * self.windows[b] * _stride(b)

    @property
    def stretches(self) -> int:
        return -(-self.rows // self.stretch)


# -- which scans ---------------------------------------------------------------------------------


def wavefront(
    op: Scan, graph: Graph, name: Callable[[Graph, Sequence[Node]], str]
) -> Wavefront | None:
    """A scan, whose body is `graph`, as a wavefront, if it is one. `name` names kernels."""
    carried = graph.inputs[op.consts :]
    if not carried or len(carried) != op.carry or len(graph.outputs) != op.carry:
        return None
    if any(not n.type.shape or not all(map(is_static, n.type.shape)) for n in carried):
        return None
    rows = static(carried[0].type.shape[0])
    size = sum(static(n.type.size) * n.type.dtype.itemsize for n in carried)
    if size < LARGE or static(op.length) < 2 or any(n.op.graphs for n in graph.nodes):
        return None
    buffers, kernels = _kernels(graph, name)
    if not kernels or any(not _by_rows(k, rows) for k, _ in kernels):
        return None
    into = {buffers[n]: buffers[o] for n, o in zip(carried, graph.outputs, strict=True)}
    written = {b for k, _ in kernels for b in k.writes}
    moving = written | set(into)
    reaches = [_reach(k, moving) for k, _ in kernels]
    if any(r is None for r in reaches):
        return None
    reach = [r for r in reaches if r is not None]
    stages = tuple(
        Stage(*_rows(k, moving, rows, r), r, sum(reach[1 : at + 1]), sum(reach[at + 1 :]), nodes)
        for at, ((k, nodes), r) in enumerate(zip(kernels, reach, strict=True))
    )
    fixed = {b: n for n, b in buffers.items() if b not in moving and not n.args}
    windows = _windows(stages, into)
    steps, stretch = _sizes(stages, windows, rows, static(op.length))
    if steps < 2:
        return None
    return Wavefront(stages, rows, static(op.length), steps, into, fixed, windows, stretch)


def _kernels(
    graph: Graph, name: Callable[[Graph, Sequence[Node]], str]
) -> tuple[dict[Node, Buffer], list[tuple[Kernel, tuple[Node, ...]]]]:
    """The kernels of one step and the nodes they compute; none if there is anything else in it."""
    kept = {n: r for n, r in fusion.keep(graph).items() if not isinstance(n.op, Constant)}
    if any(fusion.is_opaque(n) for n in kept):
        return {}, []
    held = [n for n in graph.nodes if isinstance(n.op, (Input, Constant)) or n in kept]
    buffers = {
        n: Buffer(n.op.name, n.type.dtype, n.type.shape, "temp" if n in kept else "input")
        for n in held
    }
    groups = [g for g in fusion.group(graph, kept, buffers, {}) if isinstance(g, fusion.Group)]
    wanted = {buffers[n] for n in graph.outputs}
    kernels = []
    for g in groups:
        elsewhere = {b for other in groups if other is not g for b in other.read}
        needed = frozenset(b for b in g.made if b in wanted or b in elsewhere)
        kernels.append((fusion.finish(g, name(graph, g.nodes), needed), tuple(g.nodes)))
    return buffers, kernels


def _by_rows(k: Kernel, rows: int) -> bool:
    """Whether each point of the kernel's first axis makes one row of everything it writes. Sums are
    better off with many rows: what they read is worth being used again, and copied for that."""
    if not k.is_map or not k.axes or k.axes[0].extent != rows:
        return False
    if any(e.reduces for e in k.expressions):
        return False
    return all(a.index and a.index[0] is k.axes[0] and a.buffer.shape[0] == rows for a in k.body)


def _reach(k: Kernel, moving: set[Buffer]) -> int | None:
    """How many rows away the kernel reads what changes; None if that is not a few."""
    found = [0]
    for e in walk(*k.expressions):
        if isinstance(e, Load) and e.buffer in moving:
            by = _further(e, k.axes[0])
            if by is None or abs(by) > REACH:
                return None
            found.append(abs(by))
    return max(found)


def _further(e: Load, row: Axis) -> int | None:
    """How many rows further on a load is than `row`; None if it is not that simple."""
    if len(e.index) != len(e.buffer.shape) or e.buffer.shape[0] != row.extent:
        return None
    at = affine(e.index[0])
    alone = at.terms == ((row, 1),) and not any(row.serial in x.free for x in e.index[1:])
    return at.constant if alone else None


def _windows(stages: Sequence[Stage], carried: Mapping[Buffer, Buffer]) -> dict[Buffer, int]:
    """For each buffer a step writes, how many of its rows are still read, the last included."""
    distance = sum(s.reach for s in stages)
    made = {b: s.delay for s in stages for b in s.border.writes.values()}
    found = dict.fromkeys(made, 1)
    for s in stages:
        for b, _ in s.border.reads.values():
            source = carried.get(b, b)
            behind = s.delay - made[source] + (distance if b in carried else 0)
            found[source] = max(found[source], behind + s.reach + 1)
    return found


def _sizes(
    stages: Sequence[Stage], windows: Mapping[Buffer, int], rows: int, length: int
) -> tuple[int, int]:
    """Steps at a time, about as many in each pass, and the rows of a stretch."""
    distance = sum(s.reach for s in stages)
    room = WINDOW_BYTES // sum(count * _stride(b) for b, count in windows.items())
    parts = 1 + rows // (PARTS * AGAIN * distance) if distance else length
    most = min(length, room, parts)
    if most < 2:
        return most, rows
    steps = -(-length // -(-length // most))
    shortest = max(AGAIN * distance * (steps - 1), -(-rows // MOST_PARTS))
    count = rows // shortest
    even = count - count % (PARTS if count >= PARTS else 2)
    return steps, -(-rows // max(even, 1))


def _stride(b: Buffer) -> int:
    """Bytes from a row of a window to the next."""
    row = static(product(b.shape[1:])) * b.dtype.itemsize
    return -(-row // LINE) * LINE + SKEW


# -- one row -------------------------------------------------------------------------------------


def _rows(k: Kernel, moving: set[Buffer], rows: int, reach: int) -> tuple[Row, Row]:
    """The kernel for a row away from the border, and for any row."""
    anywhere = _row(k, moving, rows, 0)
    if anywhere.position is None or rows <= 2 * reach or not reach:
        return anywhere, anywhere
    return _row(k, moving, rows - 2 * reach, reach), anywhere


def _row(k: Kernel, moving: set[Buffer], count: int, start: int) -> Row:
    """The kernel for any of `count` rows from `start` on, simplified by what that says of guards;
    what changes is read and written row by row, all else where it is."""
    a = axis("i", count)
    reads: dict[Buffer, tuple[Buffer, int]] = {}
    known: dict[tuple[Buffer, int], Buffer] = {}
    env: dict[Expr, Expr] = {k.axes[0]: index("+", a, as_index(start))}
    roots = [e for x in k.body for e in (*x.index[1:], x.value)]
    for e in walk(*roots):
        if isinstance(e, Load) and e.buffer in moving:
            by = _further(e, k.axes[0])
            assert by is not None, "the reach was asked for"
            key = e.buffer, by
            if key not in known:
                b = Buffer(e.buffer.name, e.buffer.dtype, e.buffer.shape[1:], "input")
                known[key] = b
                reads[b] = key
            guard = None if e.guard is None else substitute([e.guard], env)[0]
            env[e] = Load(known[key], tuple(substitute(e.index[1:], env)), guard)
    roots = simplify(substitute(roots, env))
    position = None
    if any(a.serial in e.free for e in roots):
        position = Buffer("row", dtypes.int64, (), "input")
        roots = substitute(roots, {a: index("+", load(position, ()), as_index(-start))})
    outs = {b: Buffer(b.name, b.dtype, b.shape[1:]) for b in k.writes}
    rest = iter(roots)
    body = [
        Assign(outs[x.buffer], tuple([next(rest) for _ in x.index[1:]]), (), next(rest))
        for x in k.body
    ]
    kernel = replace(k, axes=k.axes[1:], body=tuple(body))
    return Row(kernel, reads, {o: b for b, o in outs.items()}, position)


# -- statements ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep(Generic[P]):
    """One visit of all rows, for `steps` steps. The first one reads what is carried in `source`,
    the last one writes it to `target`; in between there are `windows`. `run` gives the statements
    of a kernel whose buffers have these places, `declared` the place of a buffer on the stack."""

    of: Wavefront
    steps: int
    source: Mapping[Buffer, P]
    target: Mapping[Buffer, P]
    fixed: Mapping[Buffer, P]
    windows: Mapping[Buffer, P]
    run: Callable[[Kernel, dict[Buffer, P]], list[Stmt]]
    declared: Callable[[Buffer], P]

    def statement(self) -> Stmt:
        """The stretches, independent of one another; in each, tick by tick, one row of every step
        that has the rows it needs."""
        w = self.of
        start = static(self.beside(as_index(1), w.stages[0]))
        ticks = w.stretch + start + static(self.behind(as_index(self.steps), w.stages[-1]))
        c, tick = axis("c", w.stretches), axis("s", ticks)
        ahead = index("+", c * w.stretch + tick, as_index(-start))
        number = Buffer("row", dtypes.int64, (), "stack")
        body: list[Stmt] = [Alloc(number)]
        between = axis("t", max(self.steps - 2, 0))
        levels = (as_index(1), between + 2, as_index(self.steps))
        for level in levels[: 1 if self.steps == 1 else 3]:
            rows = [self.row(s, c, level, ahead, number) for s in w.stages]
            if not isinstance(level, Lit):
                rows = [loop(between, *rows)] if self.steps > 2 else []
            body += rows
        return loop(c, loop(tick, block(*body)), kind="parallel")

    def beside(self, level: Expr, s: Stage) -> Expr:
        """Rows on each side of a stretch that the stage computes too."""
        return index("+", (self.steps - level) * self.of.distance, as_index(s.after))

    def behind(self, level: Expr, s: Stage) -> Expr:
        """Rows the stage is behind the first one."""
        return index("+", (level - 1) * self.of.distance, as_index(s.delay))

    def row(self, s: Stage, c: Axis, level: Expr, ahead: Expr, number: Buffer) -> Stmt:
        """One row of a stage, if the stretch needs it: by the kernel without guards where none
        can fail."""
        w = self.of
        low, beside = c * w.stretch, self.beside(level, s)
        first = index("max", low - beside, as_index(0))
        last = index("min", index("+", low + w.stretch, beside), as_index(w.rows))
        at = load(number, ())
        calls = self.kernel(s.border, c, level, at, number)
        if s.inner is not s.border:
            inside = (as_index(s.reach) <= at) & (at < as_index(w.rows - s.reach))
            calls = [If(inside, block(*self.kernel(s.inner, c, level, at, number)), block(*calls))]
        due = If((first <= at) & (at < last), block(*calls), block())
        return block(Store(number, (), ahead - self.behind(level, s)), due)

    def kernel(self, row: Row, c: Axis, level: Expr, at: Expr, number: Buffer) -> list[Stmt]:
        places: dict[Buffer, P] = dict(self.fixed)
        for b, (whole, by) in row.reads.items():
            places[b] = self.place(whole, c, level, index("+", at, as_index(by)))
        for b, whole in row.writes.items():
            places[b] = self.place(whole, c, level, at)
        if row.position is not None:
            places[row.position] = self.declared(number)
        return self.run(row.kernel, places)

    def place(self, b: Buffer, c: Axis, level: Expr, at: Expr) -> P:
        """Where a row is at a level: what is carried into it was made a level before."""
        w = self.of
        into = b in w.carried
        if into and level is as_index(1):
            return self.whole(self.source[b], b, at)
        if b in self.target and level is as_index(self.steps):
            return self.whole(self.target[b], b, at)
        made = level - 2 if into else level - 1
        b = w.carried.get(b, b)
        count = w.windows[b]
        slot = index("%", index("+", at, as_index(count * REACH)), as_index(count))
        row = index("+", index("*", c * self.steps + made, as_index(count)), slot)
        return self.windows[b].shifted(row * (_stride(b) // b.dtype.itemsize), b.dtype.itemsize)

    def whole(self, p: P, b: Buffer, at: Expr) -> P:
        """A row of a whole array. No kernel reads past its ends, but pointers stay inside."""
        near = index("min", index("max", at, as_index(0)), as_index(self.of.rows - 1))
        return p.shifted(near * static(product(b.shape[1:])), b.dtype.itemsize)
