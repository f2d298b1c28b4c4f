"""Pairs: reductions over what all pairs of points make, forces and distances and kernels of them.

Knows when a result's lanes belong along the results although there is nothing to multiply: each
round of the reduction reads one point for all lanes, what belongs to the results stays in
registers, and no lanes are added at the end. What is the same for several results of a point (a
distance for the components of a force) is computed once, since these are written out. Refuses to
know products, whose operands are worth copies (`products`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

from tilewright.expr import (
    Apply,
    Axis,
    Expr,
    Load,
    Reduce,
    as_index,
    depends,
    is_static,
    loads_in,
    static,
    substitute,
    walk,
)
from tilewright.target import Target
from tilewright.transforms.index_rules import affine, flat
from tilewright.transforms.schedule import Plan

WORTH: Final = 3
"""Operations for each pair from which on it is more than a product of what is loaded."""
COMPONENTS: Final = 8
"""Results of a point that are written out."""
BROADCAST, SHUFFLED, GATHERED = 0.5, 3.0, 10.0
"""What it costs to read one element for all lanes, lanes that lie a few elements apart, and lanes
anywhere, in loads of vectors."""
NEAR: Final = 4
"""Elements apart up to which lanes are shuffled."""
SPARE: Final = 12
"""Registers for what is computed for a pair."""
ROUNDS: Final = 8
"""Tiles of which it is better to have so many than to have wider ones: threads share them."""
WIDEST: Final = 4
"""Vectors in a tile."""

Plans = dict[Axis, Plan]


def walk_of_pairs(
    axes: Sequence[Axis], tiled: Sequence[Reduce], lanes: int, target: Target
) -> tuple[list[Axis], Plans] | None:
    """The order of a nest's axes and the plans of those in its tile; None if what its reductions
    read is no pairs, or better read along the axis that they reduce."""
    summed = list(dict.fromkeys(k for r in tiled for k in r.axes))
    if not all(is_static(a.extent) and a.extent for a in (*axes, *summed)):
        return None
    terms = walk(*(r.body for r in tiled))
    if sum(e.op.cost for e in terms if isinstance(e, Apply)) < WORTH:
        return None
    inside = [e for e in terms if isinstance(e, Load) and depends(e, summed)]
    wide = [a for a in axes if static(a.extent) >= lanes and _is_paired(a, inside)]
    if not wide:
        return None
    vector = min(reversed(wide), key=lambda a: _cost(a, inside, BROADCAST))
    if _cost(vector, inside, BROADCAST) >= _cost(summed[-1], inside, 0.0):
        return None
    written = _components(vector, axes, summed, terms, inside)
    if not written and any(vector.serial in e.free for e in inside):
        return None  # rows of an array are added up: the wider they are read, the better
    rows = _registers(vector, written, tiled, summed)
    vectors = static(vector.extent) // lanes
    most = max(1, min(WIDEST, (target.registers - SPARE) // rows, vectors // ROUNDS))
    width = max(w for w in range(1, most + 1) if vectors % w == 0)
    plans = {vector: Plan(unroll=width, lanes=lanes)}
    plans |= {a: Plan(unroll=static(a.extent)) for a in written}
    outer = [a for a in axes if a is not vector and a not in written]
    return [*outer, vector, *written], plans


def _is_paired(a: Axis, inside: Sequence[Load]) -> bool:
    """Whether some of what is read in each round is the same for all points of the axis."""
    return any(a.serial not in e.free for e in inside)


def _cost(a: Axis, inside: Sequence[Load], same: float) -> float:
    """What the loads of a round cost with the lanes along an axis; `same` is what one costs that
    does not move along it."""
    total = 0.0
    for e in inside:
        form = affine(flat(e.buffer, e.index))
        step = abs(form.coefficient(a))
        if a.serial in form.without(a).expr().free:
            total += GATHERED
        elif step <= 1:
            total += 1.0 if step else same
        else:
            total += SHUFFLED if step <= NEAR else GATHERED
    return total


def _components(
    vector: Axis,
    axes: Sequence[Axis],
    summed: Sequence[Axis],
    terms: Sequence[Expr],
    inside: Sequence[Load],
) -> list[Axis]:
    """The short axes along which a good part of what is computed or read for a pair is the same."""
    pairs = [e for e in terms if isinstance(e, Apply) and depends(e, summed)]
    found: list[Axis] = []
    for a in axes:
        work: float = sum(e.op.cost for e in pairs if a.serial not in e.free)
        work += _cost(vector, [e for e in inside if a.serial not in e.free], 0.0)
        room = COMPONENTS // math.prod(static(b.extent) for b in found)
        if a is not vector and 1 < static(a.extent) <= room and work >= WORTH:
            found.append(a)
    return found


def _registers(
    vector: Axis, written: Sequence[Axis], tiled: Sequence[Reduce], summed: Sequence[Axis]
) -> int:
    """Registers of one vector of points: its sums, and what is read once for all rounds."""
    points = [*itertools.product(*(range(static(a.extent)) for a in written))]
    own: set[Load] = set()
    for p in points:
        env: dict[Expr, Expr] = dict(zip(written, map(as_index, p), strict=True))
        loads = loads_in(*substitute([r.body for r in tiled], env))
        own |= {e for e in loads if vector.serial in e.free and not depends(e, summed)}
    return len(tiled) * len(points) + len(own)
