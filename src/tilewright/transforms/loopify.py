"""Loopify: a kernel and its plan become explicit loops.

Knows where things are computed: a reduction, or any sub-expression, is evaluated at the outermost
loop where all axes it depends on are bound; axes with a plan are cut into segments (full chunks,
left-over vectors, a partly filled vector), so that no iteration needs a test. Refuses to decide
the plan.

The heart is the *tile*: the innermost unrolled and vector axes. A reduction inside it accumulates
the whole tile in registers over its own loops; a vectorised reduction axis adds lanes and partial
accumulators that are combined after the loop, so no chain of dependent additions limits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tilewright.errors import InternalError
from tilewright.expr import (
    NOTHING,
    Apply,
    Axis,
    Buffer,
    Expr,
    Index,
    Load,
    Reduce,
    Var,
    apply,
    as_index,
    axis,
    index,
    literal,
    loads_in,
    reductions_in,
    serials,
    static,
    substitute,
    var,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.loops import (
    Accumulate,
    Alloc,
    Flip,
    Function,
    Let,
    Stmt,
    Store,
    block,
    either,
    loop,
)
from tilewright.scalars import REDUCTIONS
from tilewright.transforms import matrices
from tilewright.transforms.index_rules import simplify
from tilewright.transforms.matrices import PIECE
from tilewright.transforms.packing import filled, part, strided, whole
from tilewright.transforms.schedule import (
    Parts,
    Plan,
    Schedule,
    Walk,
    planned,
    tile_of,
    written_out,
)
from tilewright.transforms.segments import Segment, joined, segments
from tilewright.transforms.tensorize import is_word

HEAVY = 12
"""Operations on the results of a tile from which on they are written as a loop: every copy of an
exponential would be as long as the sums themselves."""
TURNED_HEAVY = 4
"""The same of a turned tile, which has as many rows of results as lanes."""
LONG_SUM = 1024
"""Terms of a sum from which on two operations on its result are enough for a loop: to store and
load it again is little beside so many products."""


@dataclass(frozen=True)
class Cell:
    """One axis of a tile: its unrolled and vector parts. `by` shifts the unrolled position, and
    `fixed` stands for it in registers shaped for another segment of the same axis. Once the tile
    is turned, `row` has the lanes instead of the unrolled part, and `lane` counts the vectors."""

    unrolled: Axis | None
    vector: Axis | None
    lanes: int
    by: int = 0
    fixed: bool = False
    row: Axis | None = None
    lane: Axis | None = None

    @property
    def count(self) -> int:
        return 1 if self.unrolled is None else static(self.unrolled.extent)

    @property
    def offset(self) -> Expr:
        """The position in the chunk."""
        at: Expr = as_index(0) if self.unrolled is None else self.unrolled * self.lanes
        return at if self.vector is None else index("+", at, self.vector)

    @property
    def turned(self) -> Expr | None:
        """The position in the chunk once the tile is turned."""
        if self.row is not None or self.lane is None:
            return self.row
        at: Expr = as_index(0) if self.unrolled is None else self.unrolled * self.lanes
        return index("+", at, self.lane)

    def like(self, other: Cell) -> Cell:
        """This cell's registers as a smaller segment `other` addresses them."""
        vector = self.vector if other is FIRST else other.vector
        return Cell(other.unrolled, vector, self.lanes, 0, self.unrolled is not None)


FIRST = Cell(None, None, 1)
"""Stands for the first of the unrolled registers."""


def _registers(cells: Sequence[Cell], last: Cell | None = None) -> tuple[Expr, ...]:
    """The register index of a tile element: unrolled positions first, the vector axis last."""
    every = cells if last is None else (*cells, last)
    unrolled: list[Expr] = []
    for c in every:
        if c.unrolled is not None:
            unrolled.append(c.unrolled + c.by)
        elif c.fixed:
            unrolled.append(as_index(0))
    return (*unrolled, *(c.vector for c in every if c.vector is not None))


def _shape(cells: Sequence[Cell]) -> tuple[int, ...]:
    unrolled = [c.count for c in cells if c.unrolled is not None]
    return (*unrolled, *(c.lanes for c in cells if c.vector is not None))


def loopify(kernel: Kernel, schedule: Schedule) -> Function:
    """The loops of a kernel under a schedule."""
    return walked(planned(kernel, schedule), kernel.params)


def walked(walk: Walk, params: Sequence[Buffer]) -> Function:
    """The loops of a kernel walked as planned. `params` are the buffers from outside, in the
    function's order; its scratch memory follows."""
    body, scratch = _loops(walk)
    if walk.rest is not None:
        rest, more = _loops(walk.rest)
        body, scratch = [*body, *rest], [*scratch, *more]
    locals_ = [Alloc(b) for b in walk.kernel.locals]
    return Function(
        walk.kernel.name, (*params, *scratch), block(*locals_, *body), walk.kernel.sources
    )


def _loops(walk: Walk) -> tuple[list[Stmt], list[Buffer]]:
    """The loops of one walk, and the memory they work in."""
    kernel = walk.kernel
    builder = _Builder(walk)
    if not kernel.is_map:
        return builder.rows(kernel.axes, list(kernel.body)), builder.scratch
    first, assigns = builder.whole(kernel)
    tiled = len(kernel.axes) - len(tile_of(kernel.axes, walk.plans))
    outer, tile = kernel.axes[:tiled], kernel.axes[tiled:]
    if walk.parts is not None:
        body = builder.in_parts(outer, tile, assigns, walk.parts)
    else:
        body = builder.nest(outer, tile, assigns, {})
    scratch = [*builder.scratch, *(a.buffer for a in walk.before)]
    return [*_before(walk), *first, *body], scratch


def _before(walk: Walk) -> list[Stmt]:
    """What is computed before all loops, into blocks; it has no tile."""
    builder = _Builder(replace(walk, staged={}, turned=None))
    return [
        s
        for a in walk.before
        for s in builder.nest([x for x in a.index if isinstance(x, Axis)], (), [a], {})
    ]


class _Builder:
    """`scratch` are the blocks that need memory from outside."""

    def __init__(self, walk: Walk) -> None:
        self.plan, self.staged, self.turned = walk.plans, walk.staged, walk.turned
        self.side = walk.side
        self.scratch: list[Buffer] = []

    # -- staging ------------------------------------------------------------------------------

    def whole(self, kernel: Kernel) -> tuple[list[Stmt], list[Assign]]:
        """Copies that are made before all loops, and the assignments that read them."""
        out: list[Stmt] = []
        env: dict[Expr, Expr] = {}
        lanes = max((p.lanes for p in self.plan.values()), default=1)
        for e in self.staged.get(None, ()):
            copy = whole(e, [*kernel.axes, *_summed(kernel.body, e)])
            assert copy is not None, "the schedule was checked"
            out += filled(copy, lanes, parallel=True)
            self.scratch.append(copy.buffer)
            env[e] = copy.load
        return out, _replaced(kernel.body, env)

    def within(
        self, a: Axis, inner: Sequence[Axis], body: list[Assign]
    ) -> tuple[list[Stmt], list[Assign]]:
        """Copies of what one round of `a`, outside the tile, reads."""
        out: list[Stmt] = []
        env: dict[Expr, Expr] = {}
        lanes = max((p.lanes for p in self.plan.values()), default=1)
        for e in self.staged.get(a, ()):
            copy = whole(e, [*inner, *_summed(body, e)])
            assert copy is not None, "the schedule was checked"
            copy.buffer.scope = "stack"
            out += [Alloc(copy.buffer), *filled(copy, lanes)]
            env[e] = copy.load
        return out, _replaced(body, env)

    def stage(
        self, a: Axis, s: Segment, start: Expr, cell: Cell, body: list[Assign]
    ) -> tuple[list[Stmt], list[Assign]]:
        """Copies of what the chunk of `a` from `start` on reads, and the assignments that read
        them."""
        out: list[Stmt] = []
        env: dict[Expr, Expr] = {}
        for e in self.staged.get(a, ()):
            width, chunk = (s.unroll - 1) * s.lanes + s.width, s.unroll * s.lanes
            copy = part(e, _summed(body, e), a, start, width, chunk)
            out += [Alloc(copy.buffer), *filled(copy, s.lanes)]
            env[e] = Load(copy.buffer, (*copy.load.index[:-1], cell.offset), None)
        return out, _replaced(body, env)

    # -- reductions in parts ------------------------------------------------------------------

    def in_parts(
        self, outer: Sequence[Axis], tile: Sequence[Axis], body: list[Assign], parts: Parts
    ) -> list[Stmt]:
        """Each slice of the reduced axis adds its parts to sums of its own; the slices' sums, in
        their order, make the results. So the order does not depend on who computes a slice."""
        if outer:
            return [self.serial(outer[0], self.in_parts(outer[1:], tile, body, parts))]
        r, (k,) = parts.reduction, parts.reduction.axes
        units, rest = divmod(static(k.extent), parts.factor)
        cuts = segments(units, Plan(unroll=-(-units // parts.slices))) if units else []
        count = sum(c.count for c in cuts) + (1 if rest else 0)
        place = tuple(tile)
        shape = (count, *(static(a.extent) for a in tile))
        sums = Buffer("sums", r.type, shape)
        self.scratch.append(sums)

        def nest(index: tuple[Expr, ...], value: Expr) -> list[Stmt]:
            return self.tiles(tile, (), [Assign(sums, index, (), value)], {}, {})

        def added(slice_: Expr, at: Expr, ki: Axis) -> list[Stmt]:
            (inner,) = substitute([r.body], {k: at})
            index = (slice_, *place)
            part_sum = Reduce("sum", (ki,), inner)
            return nest(index, apply("add", Load(sums, index, None), part_sum))

        out: list[Stmt] = []
        done = 0
        for c in cuts:
            s, ko, ki = (
                axis("s", c.count),
                axis(f"{k.name}.o", c.unroll),
                axis(k.name, parts.factor),
            )
            slice_ = s + done if c.count > 1 else as_index(done)
            unit = index("+", s * c.unroll if c.count > 1 else as_index(0), ko + c.start)
            adds = added(slice_, unit * parts.factor + ki, ki)
            steps = [*nest((slice_, *place), literal(0, r.type)), loop(ko, *adds)]
            out += [loop(s, *steps, kind="parallel")] if c.count > 1 else steps
            done += c.count
        if rest:
            ki = axis(k.name, rest)
            at = as_index(done)
            out += nest((at, *place), literal(0, r.type))
            out += added(at, ki + units * parts.factor, ki)
        s = axis("s", count)
        total = Reduce("sum", (s,), Load(sums, (s, *place), None))
        return [*out, *self.tiles(tile, (), _replaced(body, {r: total}), {}, {})]

    # -- loops over whole axes ----------------------------------------------------------------

    def rows(self, axes: Sequence[Axis], body: list[Assign]) -> list[Stmt]:
        """The assignments of a row kernel one after the other inside the shared loops."""
        if axes:
            return [self.serial(axes[0], self.rows(axes[1:], body))]
        out: list[Stmt] = []
        known: dict[Expr, Expr] = {}
        for a, following in zip(body, [*body[1:], None], strict=True):
            sum_of = None if following is None else _reduction_of(a, following)
            if sum_of is not None:
                self.fill_and_reduce(a, sum_of, known, out)
                continue
            tiled = len(a.axes) - len(tile_of(a.axes, self.plan))
            out += self.nest(a.axes[:tiled], a.axes[tiled:], [a], known)
        return out

    def fill_and_reduce(
        self, a: Assign, r: Reduce, known: dict[Expr, Expr], out: list[Stmt]
    ) -> None:
        """Compute a row and, while its elements are in registers, the reduction of it that the
        next assignment starts with: softmax's exponentials and their sum are one pass."""
        (a,) = self.hoist([a], set(a.axes), known, out)
        moved: dict[Expr, Expr] = dict(zip(a.axes, r.axes, strict=True))
        *index, value = substitute([*a.index, a.value], moved)
        row = Assign(a.buffer, tuple(index), r.axes, value)
        loads: dict[Expr, Expr] = {e: value for e in loads_in(r.body) if e.buffer is a.buffer}
        (total,) = substitute([r.body], loads)
        (result,) = self.reduce([Reduce(r.kind, r.axes, total)], (), out, [row])
        known[r] = v = var("r", r.type)
        out.append(Let(v, result))

    def serial(self, a: Axis, body: list[Stmt]) -> Stmt:
        parallel = self.plan.get(a, Plan()).parallel
        return loop(a, *body, kind="parallel" if parallel else "serial")

    def nest(
        self,
        outer: Sequence[Axis],
        tile: Sequence[Axis],
        body: list[Assign],
        known: dict[Expr, Expr],
    ) -> list[Stmt]:
        """Loops over `outer`, then the tile; what needs no further axis is computed on the way.

        `known` maps sub-expressions to variables bound in the enclosing block; it grows.
        """
        out: list[Stmt] = []
        body = self.hoist(body, {*outer, *tile}, known, out)
        if outer:
            copies, body = self.within(outer[0], [*outer[1:], *tile], body)
            inner = self.nest(outer[1:], tile, body, {})
            out.append(self.serial(outer[0], [block(*copies, *inner)] if copies else inner))
        else:
            out += self.tiles(tile, (), body, {}, {})
        return out

    def hoist(
        self, body: list[Assign], inner: set[Axis], known: dict[Expr, Expr], out: list[Stmt]
    ) -> list[Assign]:
        """Bind what does not depend on the `inner` axes to variables, reductions first."""
        values = substitute([a.value for a in body], known)
        if not inner:
            return [Assign(a.buffer, a.index, a.axes, v) for a, v in zip(body, values, strict=True)]
        while True:
            bound = _bound(values)
            free = [e for e in bound if e.free.isdisjoint(bound[e] | serials(inner))]
            ready = _ready(free)
            if not ready:
                break
            values = self.bind(ready, values, known, out)
        env = _invariants(values, inner)
        for e, v in env.items():
            out.append(Let(v, e))
        known.update(env)
        values = substitute(values, env)
        return [Assign(a.buffer, a.index, a.axes, v) for a, v in zip(body, values, strict=True)]

    def bind(
        self, group: list[Reduce], values: list[Expr], known: dict[Expr, Expr], out: list[Stmt]
    ) -> list[Expr]:
        """Reduce each of the group to a scalar variable."""
        env: dict[Expr, Expr] = {}
        for r, result in zip(group, self.reduce(group, (), out), strict=True):
            v = var("r", r.type)
            out.append(Let(v, result))
            env[r] = v
        known.update(env)
        return substitute(values, env)

    # -- tiles --------------------------------------------------------------------------------

    def tiles(
        self,
        axes: Sequence[Axis],
        cells: tuple[Cell, ...],
        body: list[Assign],
        at: dict[Expr, Expr],
        after: dict[Expr, Expr],
    ) -> list[Stmt]:
        """Every combination of segments of the tile's axes. `at` says where the tile computes,
        `after` where its results are once it is turned."""
        if not axes:
            return (
                self.tile(cells, body, at)
                if self.turned is None
                else self.turn(cells, body, at, after)
            )
        a, plan = axes[0], self.plan.get(axes[0], Plan())
        values = [x.value for x in body]
        summed = any(e.reduces for e in values)
        cuts = segments(static(a.extent), plan)
        if plan.peeled:
            cuts = joined(cuts, a, loads_in(*values))
        if summed and self.turned is None and not any(map(is_word, walk(*values))):
            cuts = [s.narrowed for s in cuts]
        whole = axis(f"{a.name}.o", sum(s.count for s in cuts))
        together = plan.parallel and summed and len(cuts) > 1
        out: list[Stmt] = []
        ways: list[tuple[int, Stmt]] = []
        done = 0
        for s in cuts:
            own = axis(f"{a.name}.o", s.count)
            o = whole - done if together else own
            cell, where = _cut(a, s, o, a is self.turned)
            base = o * (s.unroll * s.lanes) if s.count > 1 else as_index(0)
            start = index("+", base, as_index(s.start))
            copies, assigns = self.stage(a, s, start, cell, body)
            turned = start + cell.turned if cell.turned is not None else where
            inner = self.tiles(
                axes[1:], (*cells, cell), assigns, {**at, a: where}, {**after, a: turned}
            )
            inner = [block(*copies, *inner)] if copies else inner
            done += s.count
            ways.append((done, block(*inner)))
            kind = "parallel" if plan.parallel else "serial"
            out += [loop(own, *inner, kind=kind)] if s.count > 1 else inner
        return [loop(whole, either(whole, ways), kind="parallel")] if together else out

    def tile(self, cells: tuple[Cell, ...], body: list[Assign], at: dict[Expr, Expr]) -> list[Stmt]:
        """One tile: its reductions into registers, then its results."""
        out: list[Stmt] = []
        roots = [e for a in body for e in (*a.index, a.value)]
        roots = _tidy(substitute(roots, at))
        if self.side and (pieces := self.pieces(cells, body, roots)):
            return pieces
        rolled = _rolled(roots, HEAVY) and any(c.count > 1 for c in cells)
        while True:
            bound = _bound(roots)
            ready = _ready([e for e in bound if e.free.isdisjoint(bound[e])])
            if not ready:
                break
            results = self.reduce(ready, cells, out)
            if rolled:
                results = [self.parked(x, cells, out) for x in results]
            roots = substitute(roots, dict(zip(ready, results, strict=True)))
        if any(e.reduces for e in roots):
            raise InternalError("a reduction depends on another reduction's axis")
        return [block(*out, *_over(cells, _stores(body, roots), rolled))]

    def pieces(
        self, cells: Sequence[Cell], body: list[Assign], roots: Sequence[Expr]
    ) -> list[Stmt]:
        """A tile whose one sum is computed a small matrix at a time, piece after piece; nothing if
        it is no such tile."""
        sums = reductions_in(*roots)
        rows = [c for c in cells if c.unrolled is not None and c.vector is None]
        wide = [c for c in cells if c.vector is not None]
        if len(sums) != 1 or len(rows) != 1 or len(wide) != 1 or wide[0].lanes != self.side:
            return []
        ((high, across), side) = (rows[0].unrolled, wide[0].unrolled), self.side
        assert high is not None and wide[0].vector is not None, "they were looked for"
        last = sums[0].axes[-1]
        if last in self.plan or not matrices.found(sums[0], high, wide[0].vector, across, side):
            return []
        out: list[Stmt] = []
        for start, rounds, length in matrices.stretches(static(high.extent), PIECE * side):
            o, u = axis(f"{high.name}.o", rounds), axis(high.name, length)
            base = o * length + start if rounds > 1 else as_index(start)
            moved = simplify(substitute(roots, {high: index("+", base, u)}))
            (r,) = reductions_in(*moved)
            p = matrices.found(r, u, wide[0].vector, across, side)
            assert p is not None, "it was one"

            def results(
                x: Expr, env: dict[Expr, Expr], r: Reduce = r, roots: Any = moved
            ) -> list[Stmt]:
                return _stores(body, _tidy(substitute(substitute(roots, {r: x}), env)))

            steps = matrices.multiplied(p, u, wide[0].vector, across, side, results)
            out.append(loop(o, *steps) if rounds > 1 else block(*steps))
        return out

    def parked(self, x: Expr, cells: Sequence[Cell], out: list[Stmt]) -> Expr:
        """The tile `x` in memory instead of registers, for loops that are not written out."""
        inward = sorted(cells, key=lambda c: c.vector is not None)  # lanes are neighbours
        shape = tuple(c.count * c.lanes for c in inward)
        place = tuple(c.offset for c in inward)
        b = Buffer("tile", x.type, shape, "stack")
        out += [Alloc(b), *_over(cells, [Store(b, place, x)])]
        return Load(b, place, None)

    def turn(
        self,
        cells: tuple[Cell, ...],
        body: list[Assign],
        at: dict[Expr, Expr],
        after: dict[Expr, Expr],
    ) -> list[Stmt]:
        """One tile whose sums are turned before the results are made of them: what held rows along
        the lanes holds columns, and the stores are contiguous."""
        rows = next(c for c in cells if c.row is not None)
        wide = next(c for c in cells if c.vector is not None)
        assert rows.row is not None and wide.vector is not None and wide.lane is not None
        lanes, out = wide.lanes, list[Stmt]()
        sums = reductions_in(*(a.value for a in body))
        if not sums:
            return self.turn_loads(rows, wide, cells, body, at, after)
        rolled = _rolled([a.value for a in body], TURNED_HEAVY)
        pairs: list[tuple[Buffer, Expr]] = []
        results: list[Buffer] = []
        env: dict[Expr, Expr] = {}
        while sums:
            group = _ready(sums)
            now = [r for r in _tidy(substitute(group, at)) if isinstance(r, Reduce)]
            for r, result in zip(group, self.reduce(now, cells, out), strict=True):
                square = Buffer("square", r.type, (lanes, lanes), "registers")
                pairs.append((square, result))
                lines = Buffer("lines", r.type, (lanes, lanes), "stack") if rolled else square
                results.append(lines)
                env[r] = lines[wide.lane, rows.row]
            sums = [r for r in sums if r not in env]
        body = _replaced(body, env)
        squares = [q for q, _ in pairs]
        if wide.unrolled is not None:  # one copy of the shuffles for all vectors
            pairs = [(q, self.parked(x, cells, out)) for q, x in pairs]
        place = rows.unrolled if rows.unrolled is not None else as_index(0)
        fill: list[Stmt] = [Store(q, (place, wide.vector), x) for q, x in pairs]
        fill = [loop(wide.vector, *fill, kind="vector", lanes=lanes)]
        fill = [loop(rows.unrolled, *fill, kind="unroll")] if rows.unrolled is not None else fill
        blank: list[Stmt] = []
        if rows.count < lanes or static(wide.vector.extent) < lanes:
            u, v = axis("u", lanes), axis("v", lanes)
            zeros = [Store(q, (u, v), literal(0, q.dtype)) for q in squares]
            blank = [loop(u, loop(v, *zeros, kind="vector", lanes=lanes), kind="unroll")]
        roots = _tidy(substitute([e for a in body for e in (*a.index, a.value)], after))
        stores = loop(rows.row, *_stores(body, roots), kind="vector", lanes=lanes)
        parked: list[Stmt] = []
        if rolled:
            u, v = axis("u", lanes), axis("v", lanes)
            kept = [Store(b, (u, v), q[u, v]) for b, q in zip(results, squares, strict=True)]
            parked += [Alloc(b) for b in results]
            parked.append(loop(u, loop(v, *kept, kind="vector", lanes=lanes), kind="unroll"))
        steps = [
            *(Alloc(q) for q in squares), *blank, *fill, *(Flip(q) for q in squares), *parked,
            loop(wide.lane, stores, kind="serial" if rolled else "unroll"),
        ]  # fmt: skip
        if wide.unrolled is not None:
            steps = [loop(wide.unrolled, block(*steps))]
        others = [c for c in cells if c is not rows and c is not wide]
        return [block(*out, *_over(others, steps))]

    def turn_loads(
        self,
        rows: Cell,
        wide: Cell,
        cells: tuple[Cell, ...],
        body: list[Assign],
        at: dict[Expr, Expr],
        after: dict[Expr, Expr],
    ) -> list[Stmt]:
        """One tile without sums: what is contiguous along its rows is read by columns and turned
        before the results are made of it."""
        assert rows.row is not None and wide.vector is not None and wide.lane is not None
        assert self.turned is not None
        place = rows.unrolled if rows.unrolled is not None else as_index(0)
        lanes, out, env = wide.lanes, list[Stmt](), dict[Expr, Expr]()
        for e in strided(body, self.turned):
            square = Buffer("square", e.type, (lanes, lanes), "registers")
            out.append(Alloc(square))
            if rows.count < lanes or static(wide.vector.extent) < lanes:
                u, v = axis("u", lanes), axis("v", lanes)
                zero = Store(square, (u, v), literal(0, e.type))
                out.append(loop(u, loop(v, zero, kind="vector", lanes=lanes), kind="unroll"))
            (value,) = _tidy(substitute([e], after))
            store = Store(square, (wide.lane, rows.row), value)
            read = loop(rows.row, store, kind="vector", lanes=lanes)
            out += [loop(wide.lane, read, kind="unroll"), Flip(square)]
            env[e] = square[place, wide.vector]
        body = _replaced(body, env)
        roots = _tidy(substitute([e for a in body for e in (*a.index, a.value)], at))
        return [block(*out, *_over(cells, _stores(body, roots)))]

    def reduce(
        self,
        group: list[Reduce],
        cells: tuple[Cell, ...],
        out: list[Stmt],
        rows: Sequence[Assign] = (),
    ) -> list[Expr]:
        """Accumulate reductions over equal extents together, for all cells of a tile; and store
        `rows`, assignments over the reductions' axes, on the way.

        Appends the statements; the results are loads of registers indexed by the cells.
        """
        axes = group[0].axes
        bodies = [substitute([r.body], dict(zip(r.axes, axes, strict=True)))[0] for r in group]
        *outer, last = axes
        written = written_out(axes, self.plan) if cells else []
        plan = Plan() if last in written else self.plan.get(last, Plan())
        parts = segments(static(last.extent), plan)
        biggest = max(parts, key=lambda s: (s.unroll, s.width), default=Segment(0, 0, 1, 1, 1))
        whole, _ = _cut(last, biggest, as_index(0))
        accs = [Buffer("acc", r.type, _shape((*cells, whole)), "registers") for r in group]
        zero = [literal(REDUCTIONS[r.kind][1](r.type), r.type) for r in group]
        out += [Alloc(b) for b in accs]
        place = _registers(cells, whole)
        out += _over((*cells, whole), [Store(b, place, z) for b, z in zip(accs, zero, strict=True)])
        inner: list[Stmt] = []
        for s in parts:
            o = axis(f"{last.name}.o", s.count)
            cell, where = _cut(last, s, o)
            stored = [e for a in rows for e in (*a.index, a.value)]
            roots = iter(_tidy(substitute([*stored, *bodies], {last: where})))
            place = _registers(cells, whole.like(cell))
            steps: list[Stmt] = [
                Store(a.buffer, tuple(next(roots) for _ in a.index), next(roots)) for a in rows
            ]
            steps += [
                Accumulate(b, place, r.kind, v) for b, r, v in zip(accs, group, roots, strict=True)
            ]
            nest = _over((*cells, cell), steps)
            kind = "unroll" if last in written else "serial"
            inner += [loop(o, *nest, kind=kind)] if s.count > 1 else nest
        for a in reversed(outer):
            inner = [loop(a, *inner, kind="unroll" if a in written else "serial")]
        out += inner
        return [
            self.collapse(b, r.kind, cells, whole, z, out)
            for b, r, z in zip(accs, group, zero, strict=True)
        ]

    def collapse(
        self,
        acc: Buffer,
        kind: str,
        cells: tuple[Cell, ...],
        last: Cell,
        zero: Expr,
        out: list[Stmt],
    ) -> Expr:
        """Combine the partial accumulators of a reduction: vectors first, then across lanes."""
        if last.count > 1:
            more = Cell(axis("u", last.count - 1), last.vector, last.lanes)
            shifted = Cell(more.unrolled, last.vector, last.lanes, by=1)
            value = Load(acc, _registers(cells, shifted), None)
            out += _over(
                (*cells, more), [Accumulate(acc, _registers(cells, last.like(FIRST)), kind, value)]
            )
        single = last.like(FIRST)
        if last.vector is None:
            return Load(acc, _registers(cells, single), None)
        total = Buffer("total", acc.dtype, _shape(cells), "registers")
        out.append(Alloc(total))
        out += _over(cells, [Store(total, _registers(cells), zero)])
        lane = Cell(None, last.vector, last.lanes)
        out += _over(
            (*cells, lane),
            [
                Accumulate(
                    total, _registers(cells), kind, Load(acc, _registers(cells, single), None)
                )
            ],
        )
        return Load(total, _registers(cells), None)


def _summed(body: Sequence[Assign], e: Expr) -> list[Axis]:
    """The axes of reductions that an expression depends on."""
    axes = [a for r in reductions_in(*(a.value for a in body)) for a in r.axes]
    return [a for a in dict.fromkeys(axes) if a.serial in e.free]


def _replaced(body: Sequence[Assign], env: Mapping[Expr, Expr]) -> list[Assign]:
    if not env:
        return list(body)
    values = substitute([a.value for a in body], env)
    return [Assign(a.buffer, a.index, a.axes, v) for a, v in zip(body, values, strict=True)]


def _rolled(roots: Sequence[Expr], heavy: int) -> bool:
    """Whether what is done with the results of reductions is written as a loop: there is much of
    it, or little beside the reductions themselves."""
    sums = reductions_in(*roots)
    if not sums:
        return False
    rest = substitute(roots, {r: var("sum", r.type) for r in sums})
    cost = sum(e.op.cost for e in walk(*rest) if isinstance(e, Apply))
    terms = min(prod(static(a.extent) for a in r.axes) for r in sums)
    return cost > heavy or (cost > 1 and terms >= LONG_SUM)


def _stores(body: Sequence[Assign], roots: Sequence[Expr]) -> list[Stmt]:
    """The assignments with these indices and values."""
    rest = iter(roots)
    return [Store(a.buffer, tuple([next(rest) for _ in a.index]), next(rest)) for a in body]


def _cut(a: Axis, s: Segment, o: Expr, turned: bool = False) -> tuple[Cell, Expr]:
    """The cell of round `o` of a segment, and the position they add up to. `turned` says that the
    unrolled part gets the lanes once the tile is turned."""
    unrolled = axis(f"{a.name}.u", s.unroll) if s.unroll > 1 else None
    vector = axis(f"{a.name}.v", s.width) if s.lanes > 1 else None
    row = axis(f"{a.name}.r", s.unroll) if turned else None
    lane = axis(f"{a.name}.l", s.width) if s.lanes > 1 else None
    where: Expr = o * (s.unroll * s.lanes) if s.count > 1 else as_index(0)
    if unrolled is not None:
        where = where + unrolled * s.lanes
    if vector is not None:
        where = where + vector
    cell = Cell(unrolled, vector, s.lanes, row=row, lane=lane)
    return cell, index("+", where, as_index(s.start))


def _over(cells: Sequence[Cell], body: list[Stmt], rolled: bool = False) -> list[Stmt]:
    """Run `body` for every element of the tile: unrolled axes outside, the vector axis inside, and
    next to it its own unrolled part: what is the same for all vectors of a row is used at once."""
    cells = sorted(cells, key=lambda c: c.vector is not None)
    for c in cells:
        if c.vector is not None:
            body = [loop(c.vector, *body, kind="vector", lanes=c.lanes)]
    for c in reversed(cells):
        if c.unrolled is not None:
            again = rolled and c.vector is None
            body = [loop(c.unrolled, *body, kind="serial" if again else "unroll")]
    return body


def _tidy(roots: list[Expr]) -> list[Expr]:
    """Simplified where the cut of an axis can have made a division or a test certain."""
    tests = ("lt", "le", "and", "select")
    for e in walk(*roots):
        if isinstance(e, Index) and e.op not in ("+", "*"):
            return simplify(roots)
        if isinstance(e, Apply) and e.op.name in tests:
            return simplify(roots)
    return roots


def _reduction_of(a: Assign, following: Assign) -> Reduce | None:
    """A reduction of the next assignment that reads the row `a` fills element by element, and can
    be computed with it: over the same extent, and depending on nothing computed later."""
    if len(a.axes) != 1:
        return None
    (own,) = a.axes
    if any(own.serial in e.free for e in reductions_in(a.value)):
        return None
    bound = _bound([following.value])
    for r in bound:
        if len(r.axes) != 1 or r.axes[0].extent != own.extent:
            continue
        loads = [e for e in loads_in(r.body) if e.buffer is a.buffer]
        place = tuple(substitute(a.index, {own: r.axes[0]}))
        outside = r.free & (serials(following.axes) | bound[r])
        plain = not r.body.reduces
        if (
            loads
            and plain
            and not outside
            and all(e.index == place and e.guard is None for e in loads)
        ):
            return r
    return None


def _bound(roots: Sequence[Expr]) -> dict[Reduce, frozenset[int]]:
    """For each reduction, those inside first, the serials of the axes of those around it."""
    order = reductions_in(*roots)
    bound = dict.fromkeys(order, NOTHING)
    for r in reversed(order):
        inside = bound[r] | serials(r.axes)
        for inner in reductions_in(r.body):
            bound[inner] |= inside
    return bound


def _ready(candidates: list[Reduce]) -> list[Reduce]:
    """The first reduction that contains no other candidate, and its independent siblings over
    equal extents with equal plans: they share one loop."""
    if not candidates:
        return []
    inside = {r: reductions_in(r.body) for r in candidates}
    free = [r for r in candidates if not any(e in inside for e in inside[r])]
    first = free[0]
    extents = [a.extent for a in first.axes]
    return [r for r in free if [a.extent for a in r.axes] == extents]


def _invariants(values: Sequence[Expr], inner: set[Axis]) -> dict[Expr, Var]:
    """Maximal element expressions that do not change in the inner loops."""
    # Nor may they depend on the axis of a reduction that is not evaluated yet.
    pending = [a for r in reductions_in(*values) for a in r.axes]
    changing = serials([*inner, *pending])
    found: dict[Expr, Var] = {}
    seen: set[Expr] = set()
    stack = list(values)
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        if isinstance(e, (Apply, Load)) and e.free.isdisjoint(changing) and not e.reduces:
            found[e] = var("t", e.type)
        elif isinstance(e, Load):
            continue  # positions are cheap, and guarded loads must stay where their guard is
        else:
            stack += e.children
    return found
