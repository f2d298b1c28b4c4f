"""Products: tiles for reductions whose operands serve many results, and what is packed for them.

Knows register tiles (rows of one operand's elements by vectors of the other's), in which order the
chunks are walked, and when an operand is copied first: because it is contiguous along the wrong
axis, or because its rows fall on one another in the cache. Refuses to know kernels that reuse
nothing (`heuristic`). The figures behind the choices are in docs/notes/products.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.expr import Axis, Load, Reduce, is_static, static, walk
from tilewright.target import Target
from tilewright.transforms.index_rules import Affine, affine, flat
from tilewright.transforms.schedule import STAGED_BYTES, Plan

ALIAS_BYTES = 4096
"""Rows this far apart, or a multiple of it, share the sets of the first level cache."""
DEEP = 256
"""Such rows that fit the ways of the second level cache."""
ROWS_TO_TURN = 32
"""Rows from which on an operand is turned for them."""


@dataclass(frozen=True)
class Tile:
    """The walk of a nest: its axes in order, the plans of those in the tile, and the loads to
    stage, each at an axis of the tile or (None) as a whole."""

    axes: tuple[Axis, ...]
    plans: tuple[tuple[Axis, Plan], ...]
    staged: tuple[tuple[Load, Axis | None], ...] = ()


@dataclass(frozen=True)
class _Operand:
    """A load inside the reduction and where it is as a function of the axes."""

    load: Load
    form: Affine

    def step(self, a: Axis) -> int:
        """Bytes from one point of the axis to the next."""
        return self.form.coefficient(a) * self.load.type.itemsize

    def moves(self, a: Axis) -> bool:
        return a.serial in self.load.free

    def nbytes(self, axes: Sequence[Axis]) -> int:
        """Bytes of what is read over these axes."""
        extents = [static(a.extent) for a in axes if self.moves(a)]
        total = self.load.type.itemsize
        for n in extents:
            total *= n
        return total


def product_tile(
    axes: Sequence[Axis], vector: Axis, tiled: Sequence[Reduce], lanes: int, target: Target
) -> Tile | None:
    """A tile for reductions over `axes` with the lanes along `vector`: as many sums as there are
    registers. None if no axis reuses the vectors that are loaded."""
    operands = _operands(tiled)
    wide_operands = [o for o in operands if o.moves(vector)]
    rest = [a for a in axes if a is not vector]
    still = [a for a in rest if not any(o.moves(a) for o in wide_operands)]
    if not wide_operands or not still or len(operands) <= len(tiled):
        return None
    rows = still[-1]
    lanes = min(lanes, _power(static(vector.extent)))
    room = target.registers - 4
    wide = _width(max(static(vector.extent) // lanes, 1), room, len(tiled))
    high = max(1, min(static(rows.extent), room // (wide * len(tiled))))
    plans = {vector: Plan(unroll=wide, lanes=lanes)}
    if high > 1:
        plans[rows] = Plan(unroll=high)
    outer = [a for a in rest if a is not rows]
    summed = list(dict.fromkeys(k for r in tiled for k in r.axes))
    if not all(is_static(a.extent) for a in (*axes, *summed)):
        return Tile((*outer, rows, vector), (*plans.items(),))
    panels, stretches = (-(-static(a.extent) // plans.get(a, Plan()).chunk) for a in (rows, vector))
    inside = sum(o.nbytes([vector, *summed]) for o in wide_operands)
    chunk = wide * lanes
    packed = [o for o in wide_operands if panels > 1 and _packs(o, vector, summed, chunk, target)]
    # What is walked inside is read once for each round outside: that should stay in the cache.
    turned = bool(packed) or (inside > target.l2_bytes and stretches >= 4)
    order = (*outer, vector, rows) if turned else (*outer, rows, vector)
    staged: list[tuple[Load, Axis | None]] = [(o.load, vector) for o in packed if high > 1]
    if stretches >= 4 and panels > 1:
        singles = [o for o in operands if not o.moves(vector)]
        staged += [(o.load, None) for o in singles if _pads(o, rows, summed, target)]
    return Tile(order, (*plans.items(),), tuple(staged))


def _operands(tiled: Sequence[Reduce]) -> list[_Operand]:
    loads = dict.fromkeys(e for r in tiled for e in walk(r.body) if isinstance(e, Load))
    return [_Operand(e, affine(flat(e.buffer, e.index))) for e in loads]


def _width(vectors: int, room: int, sums: int) -> int:
    """Vectors of a tile: two, or three where that leaves fewer over."""
    if vectors < 2 or room // sums < 8:
        return 1 if vectors < 2 else 2
    return 3 if vectors % 3 == 0 and vectors % 2 else 2


def _plain(o: _Operand) -> bool:
    """Whether a copy can be made: it is read at known positions of the axes, without a guard."""
    return not any(isinstance(x, (Load, Reduce)) for x in walk(*o.load.children))


def _falls_together(step: int) -> bool:
    return step != 0 and step % ALIAS_BYTES == 0


def _packs(o: _Operand, vector: Axis, summed: Sequence[Axis], chunk: int, target: Target) -> bool:
    """Whether to copy the columns of a tile: they are not contiguous, or too many of their rows
    fall on one another."""
    moving = [k for k in summed if o.moves(k)]
    depth = o.nbytes(moving) // o.load.type.itemsize
    if not _plain(o) or not moving or depth * chunk * o.load.type.itemsize > STAGED_BYTES:
        return False
    if o.step(vector) != o.load.type.itemsize:
        return True
    return depth > DEEP and _falls_together(o.step(moving[-1]))


def _pads(o: _Operand, rows: Axis, summed: Sequence[Axis], target: Target) -> bool:
    """Whether to copy an operand whose elements are read one by one."""
    moving = [k for k in summed if o.moves(k)]
    if not _plain(o) or not moving or not o.moves(rows):
        return False
    if o.step(moving[-1]) != o.load.type.itemsize:
        return o.nbytes([rows, *moving]) > target.l2_bytes
    return _falls_together(o.step(rows))


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def turns(tile: Tile, tiled: Sequence[Reduce]) -> bool:
    """Whether lanes along a strided axis are worth the turning of what is read: for enough rows,
    and where square tiles of registers can be turned."""
    (vector, _), *high = tile.plans
    strided = [
        o for o in _operands(tiled) if o.moves(vector) and o.step(vector) != o.load.type.itemsize
    ]
    packed = [load for load, at in tile.staged if at is vector]
    return (
        bool(high)
        and all(o.load in packed for o in strided)
        and static(high[0][0].extent) >= ROWS_TO_TURN
        and all(o.load.type.itemsize in (4, 8) for o in strided)
    )
