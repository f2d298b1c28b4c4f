"""The heuristic scheduler: a legal, decent schedule for every kernel, in microseconds.

Knows memory strides and register counts. Its one question at each loop nest: along which axis do
the loads and stores move by one element? That axis takes the lanes. Refuses to measure (the cost
model's searches do).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Load,
    Reduce,
    depends,
    is_static,
    loads_in,
    reductions_in,
    serials,
    static,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.target import Target
from tilewright.transforms.index_rules import Affine, affine, flat
from tilewright.transforms.pairs import walk_of_pairs
from tilewright.transforms.products import Product, Tile, turned_tile
from tilewright.transforms.schedule import (
    STAGED_BYTES,
    Across,
    Order,
    Plan,
    Schedule,
    SplitReduction,
    Stage,
    Step,
    Tensorize,
    Turn,
    buffer_names,
    names,
    spell,
)
from tilewright.transforms.tensorize import (
    INTRINSICS,
    WORD_BYTES,
    contiguous,
    first,
    groupable,
    is_word,
    matches,
    neighbours,
    opened,
    reads,
    tensorized,
)

GATHER: Final = 8
"""What a load that is not contiguous costs, in contiguous loads."""
SHORT: Final = 10
"""Vectors from which on unrolling a loop is worth the code."""
PEELED: Final = 8
"""Chunks from which on the border is walked apart from what it surrounds."""
FEWEST: Final = 4
"""Rows of results from which on it is worth making words of what they read."""
MATRICES: Final = 1 << 15
"""Multiplications from which on it is worth multiplying them in matrices."""
CHUNKS: Final = 4
"""Chunks of columns that matrices are multiplied in, at least, if there are as many columns."""
ENOUGH: Final = 64
"""Iterations that are shared out evenly, near enough; with fewer, loops inside are parallel too."""
LIGHT: Final = 12
"""Operations of a body that is unrolled for the sake of its loop overhead."""
IN_HAND: Final = 5
"""Registers beside a square of sums: what is multiplied, and masks of what a guard keeps out."""
HEAVY: Final = 20
"""Operations of a body from which on two rounds are woven into one: a processor does not look far
enough ahead to have several under way (docs/notes/pointwise.md)."""
MANY: Final = 4096
"""Vectors from which on the code for a second round is paid back in a few calls."""
BRANCHING: Final = frozenset(
    ("sin", "cos", "tan", "power", "fmod", "remainder", "floor_divide", "digamma")
)
"""Functions with rare cases in branches of their own, which keep rounds apart."""


def heuristic(kernel: Kernel, target: Target) -> Schedule:
    """A schedule for the kernel on the target."""
    found = _by_matrices(kernel, target) or _by_words(kernel, target)
    return found or _chosen(kernel, target)[0]


def _by_matrices(kernel: Kernel, target: Target) -> Schedule | None:
    """A schedule that multiplies small matrices of narrow numbers by an intrinsic of the machine,
    where the kernel is one sum of their products."""
    sums = _sums(kernel)
    usable = [i for i in INTRINSICS.values() if i.side and i.runs_on(target)]
    if not usable or len(sums) != 1 or not kernel.is_map:
        return None
    k = sums[0].axes[-1]
    found = [(m, i) for i in usable for m in matches(kernel, i) if groupable(m, k, i)]
    shared = all(is_static(a.extent) for a in kernel.axes)
    j = _written_along(kernel.axes, kernel.body)
    if not found or not shared or j is None:
        return None
    m, intrinsic = found[0]
    wide = [e for e in m.operands if depends(e, (j,))]
    rows = [a for a in kernel.axes if len(wide) == 1 and not depends(wide[0], (a,))]
    i = max(rows, key=lambda a: static(a.extent), default=j)
    side, words = intrinsic.side, tensorized(kernel, m, k, intrinsic, None)[0]
    depth = math.prod(static(a.extent) for a in sums[0].axes)
    work = depth * math.prod(static(a.extent) for a in kernel.axes)
    if i is j or min(static(i.extent), static(j.extent)) < FEWEST or work < MATRICES:
        return None
    (r,) = _sums(words)
    column = side * WORD_BYTES * math.prod(static(a.extent) for a in r.axes)
    vectors = static(j.extent) // side
    across = max(2, min(vectors // CHUNKS, target.l2_bytes // 4 // column) // 2 * 2)
    across = min(across, vectors)
    if not vectors or across * column > STAGED_BYTES:
        return None
    plans = {i: Plan(unroll=min(2 * side, static(i.extent))), j: Plan(unroll=across, lanes=side)}
    outer = [a for a in kernel.axes if a is not i and a is not j]
    around = [a for a in outer if depends(wide[0], (a,))]
    order = (*around, j, *(a for a in outer if a not in around), i)
    share(order, plans)
    by_name, buffers = names(words), buffer_names(words)
    spelled = {a: n for n, a in by_name.items()}
    b, a = sorted(reads([r.body]), key=lambda e: not depends(e, (j,)))
    steps: list[Step] = [Tensorize(spelled[r.axes[-1]], intrinsic.name)]
    _order(order, kernel.axes, spelled, steps)
    steps += spell([(n, x, plans[x]) for n, x in by_name.items() if x in plans]).steps
    steps.append(Stage(buffers[first(b).buffer], spelled[j]))
    if not contiguous(opened(a), r.axes[-1]):
        steps.append(Stage(buffers[first(a).buffer]))
    return Schedule(tuple(steps))


def _by_words(kernel: Kernel, target: Target) -> Schedule | None:
    """A schedule that sums narrow numbers by an intrinsic of the machine, where all sums of the
    kernel can be, and what it reads one by one lies side by side or is worth a copy."""
    sums = _sums(kernel)
    if not sums or not kernel.is_map:
        return None
    by_name = names(kernel)
    found = [
        (name, k, m, i)
        for i in INTRINSICS.values()
        if i.runs_on(target) and not i.side
        for m in matches(kernel, i)
        for name, k in by_name.items()
        if k is m.reduction.axes[-1] and groupable(m, k, i)
    ]
    if not found or len(found) != len(sums):
        return None
    words = kernel
    for _, k, m, i in found:
        words, _ = tensorized(words, m, k, i, None)
    schedule, tile = _chosen(words, target)
    if tile is None or tile.parts is not None:
        return None
    vector = next((a for a, p in tile.plans if p.lanes > 1), None)
    staged = [e for e, _ in tile.staged]
    singly = [e for e in reads([e.body for e in _sums(words)]) if e not in staged]
    if vector is None or any(depends(e, (vector,)) or not neighbours(e) for e in singly):
        return None
    if any([depends(e, (vector,)) for e in m.operands].count(True) != 1 for _, _, m, _ in found):
        return None
    if math.prod(static(a.extent) for a in kernel.axes) < FEWEST * static(vector.extent):
        return None
    spelled = {a: n for n, a in by_name.items()}
    steps = [
        Tensorize(name, i.name, spelled[vector] if i.flips(m) else "") for name, _, m, i in found
    ]
    return Schedule((*steps, *schedule.steps))


def _sums(kernel: Kernel) -> list[Reduce]:
    return reductions_in(*(a.value for a in kernel.body))


def _chosen(kernel: Kernel, target: Target) -> tuple[Schedule, Tile | None]:
    """A schedule for the kernel as it is, and the tile it walks it by, if it is one."""
    rows = {a.buffer: a.value for a in reversed(kernel.body) if a.axes}
    planner = _Planner(target, rows, kernel.is_map)
    plans = planner.plans
    orders: list[Order] = []
    by_name = names(kernel)
    spelled = {a: n for n, a in by_name.items()}
    if kernel.is_map:
        axes = planner.nest(list(kernel.axes), list(kernel.body))
        _order(axes, kernel.axes, spelled, orders)
        share(axes, plans)
    else:
        for own in dict.fromkeys(a.axes for a in kernel.body):
            walked = planner.nest(list(own), [a for a in kernel.body if a.axes == own])
            _order(walked, own, spelled, orders)
        _yield_lanes(kernel.body, plans)
        share(kernel.axes, plans)
    steps = spell([(n, a, plans[a]) for n, a in by_name.items() if a in plans])
    special = _special(planner.tile, kernel, spelled) if kernel.is_map and planner.tile else ()
    return Schedule((*dict.fromkeys(orders), *steps.steps, *special)), planner.tile


def share(axes: Sequence[Axis], plans: dict[Axis, Plan]) -> None:
    """Make the outermost axes parallel, one inside the other, until there are enough rounds."""
    rounds = 1
    for a in axes:
        plan = plans.get(a, Plan())
        count = -(-static(a.extent) // plan.chunk) if is_static(a.extent) else ENOUGH
        if count > 1:
            plans[a] = replace(plan, parallel=True)
        rounds *= count
        if rounds >= ENOUGH:
            return


def _special(tile: Tile, kernel: Kernel, spelled: dict[Axis, str]) -> Iterator[Step]:
    """The steps of a product's tile beyond its plans."""
    buffers = buffer_names(kernel)
    for load, at in tile.staged:
        yield Stage(buffers[first(load).buffer], "" if at is None else spelled[at])
    if tile.turned is not None:
        yield Turn(spelled[tile.turned])
    if tile.parts is not None:
        axis, factor, slices = tile.parts
        yield SplitReduction(spelled[axis], factor, slices)
    if tile.across is not None:
        axis, lanes = tile.across
        yield Across(spelled[axis], lanes)


def _order(
    walked: Sequence[Axis], axes: Sequence[Axis], spelled: dict[Axis, str], orders: list[Any]
) -> None:
    """The step that says in which order the axes are walked, if it is news."""
    if tuple(walked) != tuple(axes):
        orders.append(Order(tuple(spelled[a] for a in walked)))


def _written_along(axes: Sequence[Axis], body: Sequence[Assign]) -> Axis | None:
    """The axis along which neighbours are written."""
    steps = [affine(flat(a.buffer, a.index)) for a in body]
    return next((a for a in axes if all(s.coefficient(a) == 1 for s in steps)), None)


def _innermost(vector: Axis, axes: list[Axis]) -> list[Axis]:
    return [*(a for a in axes if a is not vector), vector]


@dataclass
class _Planner:
    """Plans for the axes of one kernel. `rows` are the values that its rows are filled with first;
    in a map what reductions read may be staged."""

    target: Target
    rows: Mapping[Buffer, Expr]
    is_map: bool
    plans: dict[Axis, Plan] = field(default_factory=dict)
    tile: Tile | None = None

    def nest(self, axes: list[Axis], body: list[Assign]) -> list[Axis]:
        """Plan the loops over `axes` and the reductions inside; the order of the axes."""
        values = [a.value for a in body]
        reductions = reductions_in(*values)
        hoisted = [r for r in reductions if not depends(r, axes)]
        tiled = [r for r in reductions if depends(r, axes)]
        for r in hoisted:
            self.reduction(r)
        accesses = [affine(flat(a.buffer, a.index)) for a in body] + _offsets(values)
        lanes = _lanes([a.buffer.dtype.itemsize for a in body], values, self.target)
        if not axes:
            return axes
        vector = min(reversed(axes), key=lambda a: _cost(a, accesses))
        if not tiled:
            written = _written_along(axes, body) or vector
            if self.is_map and (tile := turned_tile(axes, body, written, lanes)) is not None:
                self.plans.update(tile.plans)
                self.tile = tile
                return list(tile.axes)
            vectors = math.prod(static(a.extent) for a in axes) // max(lanes, 1)
            rounds = _rounds(values, vectors) if self.is_map else 1
            plan = _elementwise_plan(vector, lanes, _weight(values), rounds)
            peeled = self.is_map and static(vector.extent) >= PEELED * plan.chunk
            self.plans[vector] = replace(plan, peeled=peeled and _guarded(values, vector))
            return _innermost(vector, axes)
        last = tiled[0].axes[-1]
        reads = _offsets([r.body for r in tiled])
        across = _cost(last, reads) < _cost(vector, reads) or static(vector.extent) == 1
        if any(is_word(e) for r in tiled for e in walk(r.body)):
            lanes = self.target.lanes(WORD_BYTES)
        product = Product(tuple(axes), tuple(body), tuple(tiled), lanes, self.target, self.is_map)
        tile = product.in_parts(vector) or product.best()
        window = product.window(vector) if tile is None else None
        if window is not None or (tile and not (across and product.across() < tile.cycles)):
            tile = tile or window
            assert tile is not None
            self.plans.update(tile.plans)
            self.tile = tile
            return list(tile.axes)
        pairs = walk_of_pairs(axes, tiled, lanes, self.target)
        if pairs is not None:
            order, plans = pairs
            self.plans.update(plans)
            return order
        if across:
            for r in tiled:
                self.reduction(r)
            self.square(axes, tiled)
            return axes
        self.stretch(vector, tiled, lanes)
        return _innermost(vector, axes)

    def stretch(self, vector: Axis, tiled: list[Reduce], lanes: int) -> None:
        """Sums without reuse, of columns say: the wider a stretch of them, the fewer pages a round
        touches."""
        lanes = min(lanes, _power(static(vector.extent)))
        vectors = max(1, static(vector.extent) // lanes)
        room = max(2, (self.target.registers - 8) // max(1, len(tiled)))
        self.plans[vector] = Plan(unroll=_divisor(vectors, min(6, room)), lanes=lanes)

    def square(self, axes: list[Axis], tiled: list[Reduce]) -> None:
        """Where the reduced axis has the lanes (a @ b.T): a few rows by a few columns of sums, so
        that every vector loaded serves several of them; and a few planes, if that uses some vectors
        again (the weights' gradient of a convolution: images do not move along its outs)."""
        loads = [e for r in tiled for e in loads_in(r.body)]
        if len(loads) <= len(tiled):
            return
        side = 4 if len(tiled) == 1 else 2
        sums, sides = len(tiled), axes[-1:] if _in_stretches(axes, loads) else axes[:-3:-1]
        for a in sides:
            count = _divisor(static(a.extent), side)
            if count < 2:
                break
            self.plans[a] = Plan(unroll=count)
            sums *= count
        still = [(sum(not depends(e, (a,)) for e in loads), a) for a in axes[:-2]]
        most = (self.target.registers - IN_HAND) // sums
        reused, plane = max(still, key=lambda found: found[0], default=(0, axes[0]))
        if reused and most > 1 and (count := _divisor(static(plane.extent), most)) > 1:
            self.plans[plane] = Plan(unroll=count)
        if axes[-1] in self.plans:
            for r in tiled:
                plan = self.plans[r.axes[-1]]
                self.plans[r.axes[-1]] = Plan(lanes=plan.lanes)

    def reduction(self, r: Reduce) -> None:
        """Lanes along the innermost axis of a reduction to scalars, several accumulators deep."""
        last = r.axes[-1]
        if last in self.plans:
            return
        lanes = _lanes([r.type.itemsize], [r.body], self.target, serials(r.axes))
        lanes = min(lanes, _power(static(last.extent)))
        # Accumulators hide the latency of additions, which a longer body hides itself; a row is
        # computed in the loop that reduces it.
        row = [self.rows[e.buffer] for e in loads_in(r.body) if e.buffer in self.rows]
        weight = _weight([r.body, *row])
        deep = 4 if weight <= LIGHT else 1
        vectors = static(last.extent) // max(lanes, 1)
        if vectors < SHORT:
            deep = 1
        self.plans[last] = Plan(unroll=_divisor(max(vectors, 1), deep), lanes=max(lanes, 1))


def _in_stretches(axes: Sequence[Axis], loads: Sequence[Load]) -> bool:
    """Whether the last axis counts stretches of the one before, for all that moves along both: more
    points of each stretch would be more streams (`streams`)."""
    if len(axes) < 2:
        return False
    inner, last = axes[-2:]
    forms = [affine(flat(e.buffer, e.index)) for e in loads if depends(e, (inner, last))]
    steps = [(f.coefficient(inner) * static(inner.extent), f.coefficient(last)) for f in forms]
    return all(a == b != 0 for a, b in steps)


def _yield_lanes(body: Sequence[Assign], plans: dict[Axis, Plan]) -> None:
    """Vector loops do not nest, and nests that share axes were planned apart: of the loops around
    an element the innermost keeps its lanes, and reductions inside it run without."""
    for assign in body:
        for a in [a for a in assign.axes if _has_lanes(a, plans)][:-1]:
            del plans[a]
    for assign in body:
        inner = {a for a in assign.axes if _has_lanes(a, plans)}
        for r in reductions_in(assign.value):
            if inner and depends(r, inner):
                for k in r.axes:
                    plans.pop(k, None)


def _has_lanes(a: Axis, plans: dict[Axis, Plan]) -> bool:
    return a in plans and plans[a].lanes > 1


def _divisor(n: int, most: int) -> int:
    """The factor up to `most`, and not far below it, that leaves the least remainder: what remains
    is one more copy of the tile's code."""
    most = min(most, n)
    return min(range(most, max(most // 2, 1) - 1, -1), key=lambda factor: n % factor)


def _rounds(values: Sequence[Expr], vectors: int) -> int:
    """Rounds of a long body that are woven into one (`codegen.weaving`)."""
    weight = _weight(values)
    if vectors < MANY or weight < HEAVY:
        return 1
    if any(isinstance(e, Apply) and e.op.name in BRANCHING for e in walk(*values)):
        return 1
    return 2


def _elementwise_plan(a: Axis, lanes: int, weight: int, rounds: int) -> Plan:
    """`rounds` are those that a long body is worth."""
    extent = static(a.extent)
    lanes = min(lanes, _power(extent))
    unroll = rounds
    if extent < SHORT * lanes:
        unroll = 1
    elif weight <= LIGHT:
        unroll = 4
    return Plan(unroll=_divisor(max(extent // lanes, 1), unroll), lanes=lanes)


def _guarded(values: Sequence[Expr], a: Axis) -> bool:
    """Whether something is read under a guard that asks where on the axis it is."""
    guards = [e.guard for e in loads_in(*values) if e.guard is not None]
    return any(a.serial in g.free for g in guards)


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _offsets(roots: Sequence[Expr]) -> list[Affine]:
    return [affine(flat(e.buffer, e.index)) for e in loads_in(*roots)]


def _cost(a: Axis, offsets: Sequence[Affine]) -> float:
    """Memory cost of giving the lanes to an axis: contiguous and constant accesses are cheap."""
    total = 0.0
    for form in offsets:
        if form.moves_with((a,)):
            total += GATHER
            continue
        step = form.coefficient(a)
        total += {0: 0.25, 1: 1.0, -1: 1.5}.get(step, GATHER)
    if is_static(a.extent) and static(a.extent) < 4:
        total += GATHER * len(offsets) / static(a.extent) if static(a.extent) else GATHER
    return total


def _lanes(
    sizes: Sequence[int],
    values: Sequence[Expr],
    target: Target,
    within: frozenset[int] | None = None,
) -> int:
    """Lanes for the widest element computed (positions, which are int64, not counted, nor what
    does not change along the axes `within`)."""
    widest = [
        e.type.itemsize
        for e in walk(*values)
        if isinstance(e, (Apply, Load)) and (within is None or not e.free.isdisjoint(within))
    ]
    return target.lanes(max([*sizes, *widest], default=4))


def _weight(values: Sequence[Expr]) -> int:
    """Operations of a body; functions count as the polynomials they become."""
    return sum(e.op.cost for e in walk(*values) if isinstance(e, Apply))
