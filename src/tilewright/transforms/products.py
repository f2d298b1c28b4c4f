"""Products: tiles for reductions whose operands serve many results, and what is packed for them.

Knows register tiles (rows of one operand's elements by vectors of the other's), in which order the
chunks are walked, and when an operand is copied first: because it is contiguous along the wrong
axis, or because its rows fall on one another in the cache. Refuses to know kernels that reuse
nothing (`heuristic`). The figures behind the choices are in docs/notes/products.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tilewright import forks
from tilewright.expr import (
    CONSTANT,
    ROW,
    Axis,
    Buffer,
    Expr,
    Load,
    Reduce,
    is_static,
    reductions_in,
    static,
    walk,
)
from tilewright.kernel import Assign
from tilewright.target import Target
from tilewright.transforms.index_rules import Affine, affine, flat
from tilewright.transforms.packing import ALIAS_BYTES, WIDEST_FLIP, strided, whole
from tilewright.transforms.schedule import STAGED_BYTES, Plan
from tilewright.transforms.tensorize import first, is_word, neighbours, reads

DEEP, ROWS = 64, 96
"""Rows a multiple of ALIAS_BYTES apart from which on a copy pays that so many others share: they
drive each other out of the first level cache."""

MANY_PAGES = 4 << 20
"""Bytes over which the columns of a tile may be spread before each row is a page to look up."""

COPIED, TURNED, SCATTERED = 0.1, 0.35, 1.5
"""Cycles to copy an element, to turn it in registers, to store or load it on its own."""
STRAY = 3.0
"""Cycles to store a result that is no neighbour of the others of its vector."""
LINE, LINE_BYTES = 25.0, 64
"""Cycles to read a line of a large matrix that is copied in columns, and its bytes."""
CROWDED, SECOND_LEVEL, THIRD_LEVEL = 0.05, {1: 4.0, 2: 7.0}, 20.0
"""What a load costs that hides behind multiplications, and how many times that from beyond the
first and the second level cache; the former by the multiplications of a cycle, behind two of which
less is hidden."""
ARRIVES, BUS, FLOWS = 1.0, 32, 2.2
"""Cycles between two vectors that come from beyond the first level cache, whatever is multiplied
with them, and the bytes for each of which it is one more: 16 multiplications for four vectors of 64
bytes wait where two start in a cycle. Cycles between two lines of what is read from its beginning
to its end, as packed columns are."""
VISIT, MANY_ROWS = 50.0, 128
"""Cycles to come to a stretch of a row for the first time, in a matrix that lies beyond the second
level cache and has so many rows that none is fetched ahead: wide tiles come less often."""
LATE, FOLLOWED = 100.0, 30.0
"""Cycles to come to a stretch of a row that is read once the sums are done, by nothing that hides
its way; and for a line of those that follow one another, as where a tile is turned."""
FLIGHT, LONG = 8, 64
"""Multiplications that are under way at once: a tile of fewer sums waits for its own, if these are
so long that the next tile's are out of sight."""
FAR, WORD = 1.5, 1.0
"""Multiplications' worth of an element that is read for every chunk from beyond the second level
cache; others of those that are read one by one cost half a load's time, where one multiplication
starts in a cycle, and a whole one's where two do. Words of narrow numbers cost a whole one."""
MISSED, STREAM = 1.0, 16
"""Cycles for each line that is read one by one from beyond the first level cache; and points of an
innermost loop from which on their lines, evenly apart, are fetched ahead of their use."""
AGAIN, IN_TURNS = 1.3, 17.0
"""What it costs to read a line from beyond the second level cache for the next rows, and to write
one of many rows in turns."""
NEAR_AGAIN = 0.25
"""The same of a line from beyond the first level, if writing one in turns costs 1: results that the
second level holds."""
PAGE, PAGED = 4096, 4.5
"""Bytes apart from which on lines are not, and cycles for each."""
COLLIDING, WAYS = 2.0, 7
"""What rows cost of which more than so many share a set of the first level cache."""
QUEUE, WAITED, APART = 32, 17.0, 25.0
"""Lines of results that a processor keeps until their places have come from beyond the second
level cache, while it multiplies on; cycles that each further one of a tile is waited for; and
cycles for each row of a tile where a vector of sums becomes several lines."""
BODY, CODE, TURNING = 0.01, 30_000.0, 4
"""What one more copy of the tile's code is worth avoiding, as a share of the cycles and at most;
and how many copies it is to turn a tile and to pack for it, one if that is done ahead: all tiles of
a program share the shuffles."""
EVEN, SHARED = 16, 100_000.0
"""Chunks from which on threads end together, near enough, and cycles that are worth several
threads: what is packed in a call is packed in every chunk, so loops inside of it are not dealt out,
and with fewer chunks half of one is waited for."""
ACROSS = {1: (1.1, 10.0), 2: (1.25, 12.0)}
"""Multiplications' worth of a vector with the lanes along the sum, and of adding the lanes at its
end, by the multiplications of a cycle."""
APART_FROM = 2_000.0
"""Cycles to begin a walk of its own for a few columns."""

WINDOW, WINDOW_ROWS = 32, 4
"""Points of the largest window that is written out, and rows of results that share elements; half
as many rows of a window up to twice as large that slides, for the sake of its code."""
FEW, LONG_BYTES = 8, 256 << 10
"""Rows up to which a matrix of at least so many bytes is read in parts."""
PART, SLICES = 8, 8
"""Rows of the matrix in a part, and independent sums of parts."""
STREAMED = 8
"""Vectors that a row of a large matrix is cut into which is packed ahead and read once: as many
sums hide each other's latency."""


@dataclass(frozen=True)
class Tile:
    """The walk of a nest: its axes in order, the plans of those in the tile, the loads to stage,
    each at an axis of the tile or (None) as a whole, the axis along which results are written if
    the tile is turned, an estimate of the cycles, the axis that is reduced in parts, with their
    length and the number of independent sums of parts, and the axis of whose vectors of so many
    lanes something is left over that is summed across lanes."""

    axes: tuple[Axis, ...]
    plans: tuple[tuple[Axis, Plan], ...]
    staged: tuple[tuple[Expr, Axis | None], ...]
    turned: Axis | None
    cycles: float
    parts: tuple[Axis, int, int] | None = None
    across: tuple[Axis, int] | None = None


@dataclass(frozen=True)
class Operand:
    """What is read inside the reduction, a load or a word of loads, or a result; and where it is as
    a function of the axes, in elements."""

    read: Expr
    form: Affine
    _sizes: dict[tuple[Axis, ...], int] = field(default_factory=dict, compare=False, repr=False)

    @forks.cached_property
    def load(self) -> Load:
        """The load, or the first of the word."""
        return first(self.read)

    @forks.cached_property
    def is_word(self) -> bool:
        return is_word(self.read)

    @property
    def itemsize(self) -> int:
        """Bytes of what is read at once."""
        return int(self.read.type.itemsize)

    def step(self, a: Axis) -> int:
        """Elements from one point of the axis to the next."""
        return self.form.coefficient(a)

    @property
    def is_constant(self) -> bool:
        """Whether copies of it are made once, ahead of all calls."""
        return self.load.buffer.scope == CONSTANT

    def far(self, a: Axis) -> bool:
        """Whether points of the axis share the sets of the first level cache."""
        step = self.step(a) * self.load.type.itemsize
        return step != 0 and step % ALIAS_BYTES == 0

    def collide(self, a: Axis, rows: int) -> bool:
        """Whether too many of so many points of the axis share a set."""
        apart = ALIAS_BYTES // math.gcd(self.step(a) * self.load.type.itemsize, ALIAS_BYTES)
        return self.step(a) != 0 and rows / apart > WAYS

    def sets(self, a: Axis, length: int) -> float:
        """The share of the first level cache's sets that stretches of so many elements, one for
        each point of the axis, fall into."""
        apart = math.gcd(self.step(a) * self.load.type.itemsize, ALIAS_BYTES)
        return min(1.0, max(length * self.load.type.itemsize, LINE_BYTES) / max(apart, 1))

    def lines(self, points: Mapping[Axis, int]) -> float:
        """Cache lines that are touched over so many points of each axis: runs of neighbours, or
        rows of them, of which some axes step over the same (y + ky, an image's windows)."""
        size = self.load.type.itemsize
        span, runs = size, list[tuple[int, int]]()
        moved = [(abs(self.step(a)) * size, n) for a, n in points.items() if self.moves(a)]
        for step, n in sorted(moved):
            near, count = runs[-1] if runs else (0, 0)
            if step <= max(span, LINE_BYTES):
                span += step * (n - 1)
            elif near and step % near == 0 and step <= near * count:
                runs[-1] = near, count + step // near * (n - 1)
            else:
                runs.append((step, n))
        return math.prod(n for _, n in runs) * (1 + (span - size) / LINE_BYTES)

    @forks.cached_property
    def is_plain(self) -> bool:
        """Whether it is read at positions known before."""
        return not any(isinstance(x, (Load, Reduce)) for x in walk(*self.load.children))

    def moves(self, a: Axis) -> bool:
        return a.serial in self.load.free

    def size(self, axes: Sequence[Axis]) -> int:
        """Elements of what is read over these axes."""
        key = tuple(axes)  # asked again for every tile
        found = self._sizes.get(key)
        if found is None:
            found = math.prod([static(a.extent) for a in key if self.moves(a)])
            self._sizes[key] = found
        return found


@dataclass(frozen=True)
class Product:
    """A nest of reductions: its shared axes, the assignments, the reductions that are tiled, the
    lanes of a vector and the machine. In a map, operands may be staged and tiles turned."""

    axes: tuple[Axis, ...]
    body: tuple[Assign, ...]
    tiled: tuple[Reduce, ...]
    lanes: int
    target: Target
    is_map: bool
    _rows: dict[Axis, int] = field(default_factory=dict, compare=False, repr=False)
    _copied: dict[Expr, bool] = field(default_factory=dict, compare=False, repr=False)

    def best(self) -> Tile | None:
        """The tile that takes the fewest cycles by a simple count: multiplications or loads,
        whichever are more, and what copies and stores cost. None if nothing is reused."""
        if not self.known:
            return None
        pairs = itertools.permutations(self.axes, 2)
        found = [t for vector, rows in pairs for t in self.tiles(vector, rows)]
        return min(found, key=lambda t: t.cycles, default=None)

    def in_parts(self, vector: Axis) -> Tile | None:
        """The walk of a product that reads a large matrix for a few rows only: memory decides, so
        the matrix is read in few and long stretches."""
        operands = self.operands
        wide = [o for o in operands if o.moves(vector)]
        if len(self.summed) != 1 or len(self.tiled) != 1 or len(wide) != 1 or not self.is_map:
            return None
        (o,), (k,) = wide, self.summed
        rows = [a for a in self.axes if a is not vector and not o.moves(a)]
        if not self.known:
            return None
        n, few = static(vector.extent), math.prod(static(a.extent) for a in rows)
        nbytes = o.size([vector, k]) * o.load.type.itemsize
        plain = self.tiled[0].kind == "sum" and len(operands) > 1 and o.load.guard is None
        if (
            not plain
            or o.step(vector) != 1
            or few > FEW
            or nbytes < LONG_BYTES
            or n < 4 * self.lanes
        ):
            return None
        plans = {a: Plan(unroll=static(a.extent)) for a in rows if static(a.extent) > 1}
        outer = [a for a in self.axes if a is not vector and a not in rows]
        cycles = nbytes / 8.0
        if o.is_constant and self.alone(o, vector) and o.is_plain:
            width = max(1, min(STREAMED, (self.target.registers - 4) // few))
            plans[vector] = Plan(unroll=width, lanes=self.lanes)
            order = (*outer, vector, *rows)
            return Tile(order, (*plans.items(),), ((o.read, vector),), None, cycles)
        plans[vector] = Plan(unroll=2, lanes=self.lanes)
        slices = max(1, min(SLICES, static(k.extent) // (8 * PART)))
        order = (*outer, *rows, vector)
        return Tile(order, (*plans.items(),), (), None, cycles, (k, PART, slices))

    def window(self, vector: Axis) -> Tile | None:
        """The walk of small windows that share elements (a depthwise convolution, a stencil): a few
        rows of results at once, the window written out, so that what several read is read once."""
        points = math.prod(static(k.extent) for k in self.summed) if self.known else 0
        near = all(0 <= o.step(vector) <= 4 for o in self.operands)
        large = points > WINDOW
        most = 2 * WINDOW if any(self.slides(a) for a in self.axes) else WINDOW
        if not self.is_map or not 1 < points <= most or len(self.tiled) != 1 or not near:
            return None
        shared = [a for a in self.axes if a is not vector and self.slides(a)]
        rows = shared[-1:]
        lanes = min(self.lanes, _power(static(vector.extent)))
        plans = {k: Plan(unroll=static(k.extent)) for k in self.summed if k.extent != 1}
        guards = [o.load.guard for o in self.operands if o.load.guard is not None]
        plans[vector] = Plan(lanes=lanes, peeled=any(vector.serial in g.free for g in guards))
        high = WINDOW_ROWS // 2 if large else WINDOW_ROWS
        plans |= {a: Plan(unroll=min(high, static(a.extent))) for a in rows if a.extent != 1}
        outer = [a for a in self.axes if a is not vector and a not in rows]
        order = (*outer, *rows, vector)
        return Tile(order, (*plans.items(),), (), None, points * self.results / lanes)

    def slides(self, a: Axis) -> bool:
        """Whether a window moves along the axis: some position adds it to a reduced axis."""
        indices = [i for o in self.operands for i in o.load.index if a.serial in i.free]
        return any(k.serial in i.free for i in indices for k in self.summed)

    @forks.cached_property
    def known(self) -> bool:
        return all(is_static(a.extent) and a.extent for a in (*self.axes, *self.summed))

    def across(self) -> float:
        """Cycles with the lanes along the last reduced axis: no copies, but lanes to add."""
        return self.sums_across(self.results)

    @forks.cached_property
    def is_one_sum(self) -> bool:
        """Whether all results are made of one sum each, of numbers."""
        sums = reductions_in(*(a.value for a in self.body))
        return self.is_map and len(sums) == 1 and not any(o.is_word for o in self.operands)

    @forks.cached_property
    def summed(self) -> list[Axis]:
        return list(dict.fromkeys(k for r in self.tiled for k in r.axes))

    @forks.cached_property
    def results(self) -> int:
        return math.prod(static(a.extent) for a in self.axes)

    @forks.cached_property
    def operands(self) -> list[Operand]:
        return operands_of(reads([r.body for r in self.tiled]))

    @forks.cached_property
    def reading(self) -> dict[Buffer, list[Operand]]:
        """The operands by what they read."""
        found: dict[Buffer, list[Operand]] = {}
        for o in self.operands:
            found.setdefault(o.load.buffer, []).append(o)
        return found

    def copies(self, o: Operand) -> bool:
        """Whether it can be copied as a whole."""
        found = self._copied.get(o.read)
        if found is None:
            found = whole(o.read, [*self.axes, *self.summed]) is not None
            self._copied[o.read] = found
        return found

    @forks.cached_property
    def outs(self) -> list[Operand]:
        """Where the results go."""
        return operands_of([Load(a.buffer, a.index, None) for a in self.body])

    def tiles(self, vector: Axis, rows: Axis) -> Iterator[Tile]:
        """The tiles with lanes along one axis and rows along another, of every width."""
        operands = self.operands
        wide = [o for o in operands if o.moves(vector)]
        if not wide or any(o.moves(rows) for o in wide) or len(operands) <= len(self.tiled):
            return
        turned = self.is_map and any(o.step(vector) != 1 for o in self.outs)
        turned = turned and self.lanes <= WIDEST_FLIP and all(o.step(rows) == 1 for o in self.outs)
        spare = 8 if any(o.is_word for o in operands) else 4
        room = (self.target.registers - spare) // len(self.tiled)
        lanes = min(self.lanes, _power(static(vector.extent)))
        if turned and lanes < self.lanes:
            return
        for width in (1, 2, 3, 4):
            if width > 1 and (width * lanes > static(vector.extent) or width > room):
                return
            # sums, a vector of each column and an element of one row at a time: none is spilled
            free = (self.target.registers - width - 1) // len(self.tiled)
            most = min(room // width, free // width, static(rows.extent), lanes if turned else room)
            if not most:
                return
            for high in _heights(static(rows.extent), most):
                plans = {vector: Plan(unroll=width, lanes=lanes)}
                if high > 1:
                    plans[rows] = Plan(unroll=high)
                yield self.tile(vector, rows, plans, wide, rows if turned else None)

    def tile(
        self,
        vector: Axis,
        rows: Axis,
        plans: dict[Axis, Plan],
        wide: list[Operand],
        turned: Axis | None,
    ) -> Tile:
        """A tile with what is copied for it, the order of its loops and its cycles."""
        high, width, lanes = (
            plans.get(rows, Plan()).unroll,
            plans[vector].unroll,
            plans[vector].lanes,
        )
        panels = -(-static(rows.extent) // high)
        stretches = -(-static(vector.extent) // (width * lanes))
        depth = math.prod(static(k.extent) for k in self.summed)
        staged: list[tuple[Expr, Axis | None]] = []
        copied, load = 0.0, 1.0
        for o in wide if self.is_map else ():
            once = len(self.reading[o.load.buffer]) == 1
            guarded = o.load.guard is not None and o.step(vector) == 1 and once
            if not self.alone(o, vector):
                load = load if o.step(vector) == 1 else lanes * SCATTERED
            elif guarded and len(wide) == 1 and self.copies(o):
                staged.append((o.read, None))
                copied += COPIED * o.size(self.axes) * 2
            elif self.packs(o, vector, plans[vector].chunk, self.results // static(vector.extent)):
                staged.append((o.read, vector))
                if not o.is_constant:
                    rate = COPIED if o.step(vector) == 1 else TURNED
                    if o.load.guard is not None and o.step(vector) != 1:
                        rate = SCATTERED  # each vector asks which of its elements are there
                    copied += rate * o.size([*self.axes, *self.summed])
                    copied += self.lines_of(o, vector, plans[vector].chunk) if o.is_word else 0.0
            elif o.step(vector) != 1:
                load = lanes * SCATTERED
        singles = [o for o in self.operands if not o.moves(vector)]
        for o in singles if self.is_map else ():
            if self.alone(o, vector) and self.spreads(o, rows, high, stretches):
                staged.append((o.read, None))
                if not o.is_constant:
                    rate = TURNED if o.is_word else COPIED
                    size = o.size([*self.axes, *self.summed] if o.is_word else self.axes)
                    copied += rate * 2 * size
        packed = [o for o in wide if (o.read, vector) in staged]
        inside = sum(o.size([vector, *self.summed]) * o.itemsize for o in wide)
        lines = inside // max(static(vector.extent), 1) * width * lanes
        order = self.order(vector, rows, packed, inside, lines, panels, stretches)
        spread = [e for e, at in staged if at is None]
        singly = [o for o in singles if o.read not in spread]
        far = COLLIDING if any(o.collide(rows, high) for o in singly) else 1.0
        sums = len(self.tiled)
        near = 1.0 if 2 * lines <= self.target.l1_bytes else SECOND_LEVEL[self.target.multiplies]
        if lines > self.target.l2_bytes:
            near = THIRD_LEVEL
        missed = self.missed(singles, {rows: high}, lines)
        chunks, rest = divmod(static(vector.extent), width * lanes)
        single, by_columns = 0.0, order.index(vector) < order.index(rows)
        for o in singles:
            again = o.size([rows, *self.summed]) * o.itemsize  # read for every chunk
            near_by = WORD if o.is_word else 0.5 * self.target.multiplies
            afar = again > self.target.l2_bytes and stretches > 1 and by_columns
            single += FAR if afar else near_by
        waits = FLIGHT if depth >= LONG else 0
        arriving = self.arriving(wide, packed, width * lanes, lines)

        def steps(vectors: float) -> float:
            """Cycles of a step in all tiles of so many vectors, one above the other."""
            reads = vectors * load * near * len(wide) + single * high
            loads = vectors * load * len(wide) + single * high
            fed = max(high * vectors * sums, loads, arriving * vectors, waits)
            return panels * far * (fed + CROWDED * reads + missed) if vectors else 0.0

        vectors, partly = divmod(rest, lanes)
        left = vectors + (1.0 if partly else 0.0)
        narrow = turned is None and not any(o.is_word for o in wide)
        if narrow and self.target.multiplies == 1 and 0 < partly <= lanes // 2:
            left -= 0.5  # narrower vectors, two of which start at once
        step = chunks * steps(width) + steps(left)
        rounds = self.results / (static(rows.extent) * static(vector.extent))
        rate = 1 / lanes if turned is None else TURNED * lanes / high
        if turned is None and any(o.step(vector) != 1 for o in self.outs):
            rate = STRAY
        saved = rounds * depth * (steps(left) - steps(vectors))
        apart = self.left_over(vector, partly, lanes, wide, singles) if turned is None else None
        cycles = rounds * depth * step + copied + rate * self.results
        across = None if apart is None or apart >= saved else (vector, lanes)
        if apart is not None and across is not None:
            cycles -= saved - apart
        cycles += VISIT * (stretches * self.rows_of(vector) + panels * self.rows_of(rows))
        if turned is None:
            cycles += LATE * stretches * self.read_after // static(vector.extent)
        else:
            cycles += FOLLOWED * self.read_after * self.outs[0].itemsize / LINE_BYTES
        written = (high, width * lanes) if turned is None else (width * lanes, high)
        cycles += rounds * panels * stretches * self.stored(*written)
        turning = 0 if turned is None else 1 if _ahead(packed) else TURNING
        dealt = stretches * math.prod(static(a.extent) for a in order[: order.index(vector)])
        if packed and not _ahead(packed) and dealt < EVEN and cycles > SHARED:
            cycles += cycles / (2 * dealt)
        bodies = sum(2 if static(a.extent) % p.chunk else 1 for a, p in plans.items())
        cycles += min(BODY * cycles, CODE) * (bodies - 2 + turning)
        return Tile(order, (*plans.items(),), tuple(staged), turned, cycles, across=across)

    def arriving(
        self, wide: Sequence[Operand], packed: Sequence[Operand], chunk: int, nbytes: int
    ) -> float:
        """Multiplications that could start while a vector of each operand comes from beyond the
        first level cache, if the `nbytes` of a chunk of columns do not stay there."""
        last, size = self.summed[-1], self.target.vector_bytes
        sets = min((o.sets(last, chunk) for o in wide), default=1.0)
        if 2 * nbytes <= self.target.l1_bytes * sets:
            return 0.0
        flows = [o in packed or o.step(last) == chunk for o in wide]
        cycles = [FLOWS * size / LINE_BYTES if f else ARRIVES + size / BUS for f in flows]
        return self.target.multiplies * sum(cycles)

    def left_over(
        self,
        vector: Axis,
        columns: int,
        lanes: int,
        wide: Sequence[Operand],
        singles: Sequence[Operand],
    ) -> float | None:
        """Cycles to compute the last few columns with the lanes along the sum. None if that cannot
        be, or what is read one by one does not lie side by side along it."""
        last = self.summed[-1]
        whole = lanes > 1 and columns and static(vector.extent) > lanes
        if not whole or not self.is_one_sum or len(wide) != 1:
            return None
        if any(o.load.guard is not None or not o.is_plain for o in (*wide, *singles)):
            return None
        if any(o.step(last) != 1 for o in singles):
            return None
        (o,) = wide
        depth = math.prod(static(k.extent) for k in self.summed)
        if 2 * columns * depth * o.itemsize > self.target.l1_bytes:
            return None  # columns are read again for every few rows
        results = self.results // static(vector.extent) * columns
        copied = o.size([*self.axes, *self.summed]) // static(vector.extent) * columns
        copied = 0 if o.step(last) == 1 or o.is_constant else copied
        return APART_FROM + SCATTERED * copied + self.sums_across(results)

    def sums_across(self, results: int) -> float:
        """Cycles of so many sums with the lanes along the last reduced axis."""
        *outer, last = (static(k.extent) for k in self.summed)
        vectors = math.prod(outer) * -(-last // min(self.lanes, _power(last)))
        each, end = ACROSS[self.target.multiplies]
        return len(self.tiled) * results * (each * vectors + end)

    def rows_of(self, a: Axis) -> int:
        """Rows along an axis, of matrices that lie beyond the second level cache."""
        if a in self._rows:
            return self._rows[a]
        total = 0
        for o in self.operands:
            rows, nbytes = o.size(self.summed), o.size([*self.axes, *self.summed]) * o.itemsize
            is_far = o.load.buffer.scope == ROW or 2 * nbytes > self.target.l2_bytes
            large = is_far and rows >= MANY_ROWS
            if large and o.step(a) == 1 and o.load.guard is None and not o.is_constant:
                total += o.size([*self.axes, *self.summed]) // static(a.extent)
        self._rows[a] = total
        return total

    @forks.cached_property
    def read_after(self) -> int:
        """Elements that are read once the sums are done, of what lies beyond the second cache."""
        return sum(n for n in self.sizes_after if n * self.outs[0].itemsize > self.target.l2_bytes)

    @forks.cached_property
    def sizes_after(self) -> list[int]:
        """The elements of each array that is read once the sums are done."""
        during = {e for r in self.tiled for e in walk(r.body)}
        loads = [e for x in self.body for e in walk(x.value) if isinstance(e, Load)]
        return [o.size(self.axes) for o in operands_of([e for e in loads if e not in during])]

    @forks.cached_property
    def far_results(self) -> list[int]:
        """Bytes of an element of each array of results that lies beyond the second level cache."""
        sizes = [(o.size(self.axes), o.itemsize) for o in self.outs]
        return [size for n, size in sizes if n * size > self.target.l2_bytes]

    def stored(self, rows: int, length: int) -> float:
        """Cycles that writing a tile's so many rows of results takes beside its sums, where their
        places come from beyond the second level cache."""
        lines = sum(rows * -(-length * size // LINE_BYTES) for size in self.far_results)
        several = any(self.lanes * size > LINE_BYTES for size in self.far_results)
        return WAITED * max(0, lines - QUEUE) + (APART * rows if several else 0.0)

    def order(
        self,
        vector: Axis,
        rows: Axis,
        packed: Sequence[Operand],
        inside: int,
        chunk: int,
        panels: int,
        stretches: int,
    ) -> tuple[Axis, ...]:
        """The loops around a tile, outermost first: what is packed in a call is read by all rows
        before the next columns are, and so is a large operand, if that costs more to read for
        every panel of rows than results cost that are written in turns. Panels packed ahead that
        stay in the second level cache are read for every row of an image, which need not."""
        outer = [a for a in self.axes if a is not rows and a is not vector]
        before = [a for a in outer if any(o.moves(a) for o in packed)] if packed else outer
        after = [a for a in outer if a not in before]
        again = AGAIN * panels * inside
        turns = IN_TURNS * static(rows.extent) * static(vector.extent) * self.outs[0].itemsize
        small = 2 * inside <= self.target.l2_bytes
        if _ahead(packed) and small:
            return (*before, *after, *((vector, rows) if after else (rows, vector)))
        if packed or (2 * inside > self.target.l2_bytes and stretches >= 4 and again > turns):
            return (*before, vector, *after, rows)
        if self.target.multiplies > 1 and self.walks_down(inside, chunk, panels):
            return (*outer, vector, rows)
        return (*outer, rows, vector)

    def walks_down(self, inside: int, chunk: int, panels: int) -> bool:
        """Whether a chunk of columns, which stays in the first level cache, is better multiplied by
        all rows than read again from the second level for each panel of them: results that stay
        in the second level are as well written in turns, if nothing is read beside them."""
        results = self.results * self.outs[0].itemsize
        stays = 2 * chunk <= self.target.l1_bytes < inside and 2 * results <= self.target.l2_bytes
        alone = all(n < self.results for n in self.sizes_after)
        return stays and alone and NEAR_AGAIN * panels * inside > results

    def missed(self, singles: Sequence[Operand], tile: Mapping[Axis, int], nbytes: int) -> float:
        """Cycles in each step for lines of what a tile reads one by one, if these do not stay in
        the first level cache beside `nbytes` of other operands."""
        points = {**tile, **{k: static(k.extent) for k in self.summed}}
        last = self.summed[-1]
        touched = sum(o.lines(points) for o in singles)
        stays = touched * LINE_BYTES + nbytes <= self.target.l1_bytes
        if points[last] >= STREAM:
            paged = [o for o in singles if abs(o.step(last)) * o.itemsize >= PAGE]
            lost = [o for o in paged if not stays or (o.far(last) and points[last] > DEEP)]
            return PAGED * self.target.multiplies * len(lost)
        return 0.0 if stays else MISSED * touched / math.prod(points[k] for k in self.summed)

    def lines_of(self, o: Operand, vector: Axis, chunk: int) -> float:
        """Cycles for the cache lines that making words of a large operand touches: narrow numbers
        share a line with many, and every chunk reads it again."""
        size = o.size([*self.axes, *self.summed]) * o.itemsize
        if o.step(vector) != 1 or 2 * size < self.target.l2_bytes:
            return 0.0
        rows = o.size([*self.axes, *self.summed]) // static(vector.extent) * len(o.read.children)
        nbytes = chunk * o.load.type.itemsize
        return LINE * rows * -(-static(vector.extent) // chunk) * -(-nbytes // LINE_BYTES)

    def alone(self, o: Operand, vector: Axis) -> bool:
        """Whether a step that names the operand's buffer means it and nothing else."""
        same = self.reading[o.load.buffer]
        return len(same) == 1 or [p.moves(vector) for p in same].count(o.moves(vector)) == 1

    def packs(self, o: Operand, vector: Axis, chunk: int, others: int) -> bool:
        """Whether to copy the columns of a tile: they are not contiguous, or too many of their
        rows fall on one another; and there are enough rows that read them."""
        moving = [k for k in self.summed if o.moves(k)]
        nbytes = o.size(moving) * chunk * o.itemsize
        if not o.is_plain or not moving or others < 2:
            return False
        if o.is_constant:
            return True
        if nbytes > STAGED_BYTES:
            return False
        if o.is_word:
            return True
        if o.step(vector) != 1:
            return o.itemsize in (4, 8)
        span = o.size(moving) * o.step(moving[-1]) * o.itemsize
        deep = o.size(moving) > DEEP and others >= ROWS
        return span > MANY_PAGES or (deep and o.far(moving[-1]))

    def spreads(self, o: Operand, rows: Axis, high: int, stretches: int) -> bool:
        """Whether to copy an operand whose elements are read one by one."""
        moving = [k for k in self.summed if o.moves(k)]
        if not o.is_plain or not moving:
            return False
        if o.load.guard is not None or (o.is_word and not neighbours(o.read)):
            return self.copies(o)
        if stretches < 4 or high >= static(rows.extent) or not o.moves(rows):
            return False
        if o.step(moving[-1]) != 1 and not o.is_word:
            size = o.size([rows, *moving]) * o.itemsize
            worth = o.step(rows) != 1 and size > self.target.l2_bytes
        else:
            worth = o.far(rows) and o.collide(rows, high)
        return worth and self.copies(o)


def turned_tile(
    axes: Sequence[Axis], body: Sequence[Assign], vector: Axis, lanes: int
) -> Tile | None:
    """A square tile for a map that reads some arrays along another axis than it writes: these are
    turned in registers. None if there is no such axis."""
    loads = [e for a in body for e in walk(a.value) if isinstance(e, Load)]
    operands = [o for o in operands_of(loads) if o.is_plain]
    across = [o for o in operands if o.moves(vector) and abs(o.step(vector)) > 1]
    found = [a for a in axes if a is not vector and across and all(o.step(a) == 1 for o in across)]
    square = 4 <= lanes <= WIDEST_FLIP and all(o.load.type.itemsize in (4, 8) for o in across)
    if not found or not square or not all(is_static(a.extent) for a in axes):
        return None
    rows = found[-1]
    if static(rows.extent) < lanes // 2 or static(vector.extent) <= lanes // 2:
        return None
    if len(strided(body, rows)) != len({o.load for o in across}):
        return None  # something else is contiguous along the rows and must not be turned
    high = min(lanes, static(rows.extent))
    plans = ((vector, Plan(lanes=lanes)), (rows, Plan(unroll=high)))
    order = (*(a for a in axes if a is not rows and a is not vector), rows, vector)
    return Tile(order, plans, (), rows, TURNED * math.prod(static(a.extent) for a in axes))


def _ahead(packed: Sequence[Operand]) -> bool:
    """Whether something is packed, all of it ahead of calls."""
    return bool(packed) and all(o.is_constant for o in packed)


def operands_of(found: Sequence[Expr]) -> list[Operand]:
    loads = [(e, first(e)) for e in dict.fromkeys(found)]
    return [Operand(e, affine(flat(x.buffer, x.index))) for e, x in loads]


def _heights(extent: int, most: int) -> set[int]:
    """The most rows that a tile can have, and the most that divide them all."""
    even = max(h for h in range(1, most + 1) if extent % h == 0)
    return {-(-extent // -(-extent // most)), even}


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
