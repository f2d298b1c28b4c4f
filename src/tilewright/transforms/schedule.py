"""Schedules: how a kernel's axes are walked, as a tuple of small frozen steps.

    Split(axis, factor)   Parallel(axis)   Unroll(axis)   Vectorize(axis)   Order(axes)
    Stage(buffer, axis)   Turn(axis)   SplitReduction(axis, factor, slices)   Peel(axis)
    Tensorize(axis, intrinsic, along)   Across(axis, lanes)

Knows the steps, when they are legal, how they print and how they are stored (`to_json`). Refuses
to choose (`heuristic`, later the cost model) and to build loops (`loopify`, which reads the `Plan`
the steps add up to). Steps address axes by the names the kernel prints with.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from tilewright import dtypes
from tilewright.errors import ScheduleError
from tilewright.expr import (
    CONSTANT,
    Axis,
    Buffer,
    Expr,
    Namer,
    Reduce,
    depends,
    is_static,
    loads_in,
    product,
    reductions_in,
    show_extent,
    static,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.transforms.left_over import cut, rows_at_once, strided_columns, summed_across
from tilewright.transforms.packing import strided, whole
from tilewright.transforms.tensorize import (
    INTRINSICS,
    first,
    groupable,
    is_word,
    matches,
    reads,
    tensorized,
)


@dataclass(frozen=True)
class Plan:
    """What the steps say about one axis: `unroll` chunks of `lanes` lanes per round, the first and
    the last chunk on their own if it is peeled."""

    unroll: int = 1
    lanes: int = 1
    parallel: bool = False
    peeled: bool = False

    @property
    def chunk(self) -> int:
        return self.unroll * self.lanes


@dataclass(frozen=True)
class Split:
    """Cut `axis` into `axis`.o and `axis`.i, the inner one of extent `factor`.

    An inner part that is only unrolled is as long in every round as can be: 10 in parts of 4 are
    4, 3 and 3.

    rewrite:   for i in n: s(i)
          ->   for i.o in n // f: for i.i in f: s(i.o*f + i.i), then the rest
    """

    axis: str
    factor: int

    def __str__(self) -> str:
        return f"Split({self.axis}, {self.factor})"


@dataclass(frozen=True)
class Parallel:
    """Iterations of `axis` may run on different workers. Where there are few, those of parallel
    axes inside it are shared out with them, as of one axis.

    rewrite:   for i in n: s(i)   ->   parallel i in n: s(i)
    """

    axis: str

    def __str__(self) -> str:
        return f"Parallel({self.axis})"


@dataclass(frozen=True)
class Unroll:
    """Write out all iterations of `axis`, an inner part of constant extent; their results live
    in registers.

    rewrite:   for i.i in 4: s(i.i)   ->   s(0); s(1); s(2); s(3)
    """

    axis: str

    def __str__(self) -> str:
        return f"Unroll({self.axis})"


@dataclass(frozen=True)
class Vectorize:
    """Run the iterations of `axis`, an innermost part, in the lanes of a vector.

    rewrite:   for j.i in 16: y[j.i] = f(x[j.i])   ->   y[0:16] = f(x[0:16])
    """

    axis: str

    def __str__(self) -> str:
        return f"Vectorize({self.axis})"


@dataclass(frozen=True)
class Order:
    """Walk the axes of one nest, the shared ones or an assignment's own, in this order,
    outermost first.

    rewrite:   for i: for j: s   ->   for j: for i: s
    """

    axes: tuple[str, ...]

    def __str__(self) -> str:
        return f"Order({', '.join(self.axes)})"


@dataclass(frozen=True)
class Stage:
    """Copy what one round of `axis`.o, or of an axis outside the tile, reads of `buffer` into a
    block of its own, in the order in which the loops inside read it. Without an axis: the whole of
    it once, before all loops, in rows that do not fall on one another in the cache.

    rewrite:   for j.o: for i: for k: s(b[k, j.o*f + j.i])
          ->   for j.o: p[:, :] = b[:, j.o*f:][:f]; for i: for k: s(p[k, j.i])
    """

    buffer: str
    axis: str = ""

    def __str__(self) -> str:
        return f"Stage({self.buffer}, {self.axis})" if self.axis else f"Stage({self.buffer})"


@dataclass(frozen=True)
class Turn:
    """Write the results of a tile with the lanes along `axis`, an unrolled axis of the tile:
    squares of registers change their axes in between. Without sums it is what the tile reads
    along `axis` that is turned.

    rewrite:   for i.i in 16: for j.i in 16: y[j.i, i.i] = r[i.i, j.i]
          ->   flip r; for j.i in 16: for i.i in 16: y[j.i, i.i] = r[j.i, i.i]
    """

    axis: str

    def __str__(self) -> str:
        return f"Turn({self.axis})"


@dataclass(frozen=True)
class SplitReduction:
    """Reduce over `axis` in parts of `factor` points, each for all results before the next, so
    that memory is read in a few long stretches; and in so many independent `slices`.

    rewrite:   for j: y[j] = sum[k](b[k, j])
          ->   for s: p[s] = 0; for k.o: for j: p[s, j] += sum[k.i](b[(s*n + k.o)*f + k.i, j])
               for j: y[j] = sum[s](p[s, j])
    """

    axis: str
    factor: int
    slices: int

    def __str__(self) -> str:
        return f"SplitReduction({self.axis}, {self.factor}, {self.slices})"


@dataclass(frozen=True)
class Peel:
    """Walk the first and the last chunk of `axis` on their own: what is asked at the border only,
    by the guards of padding, need not be asked in between.

    rewrite:   for i in n: y[i] = x[i-1] if 0 < i
          ->   y[0] = 0; for i in 1..n-1: y[i] = x[i-1]; y[n-1] = x[n-2]
    """

    axis: str

    def __str__(self) -> str:
        return f"Peel({self.axis})"


@dataclass(frozen=True)
class Tensorize:
    """Sum over `axis` by an intrinsic that multiplies and adds whole words of neighbours along it
    (`tensorize.INTRINSICS`). The axis then counts words, and the steps after it see those; what
    does not fill a word is added on its own. Where both operands are bytes of one sign, the one
    that moves along the axis `along` has its signs flipped. An intrinsic that multiplies matrices
    does so in tiles with as many lanes as these have columns; words are filled up with zeros then.

    rewrite:   sum[k:n](i32(a[k]) * i32(b[k]))
          ->   sum[k:n // 4](dot(word(a[4*k..4*k+3]), word(b[4*k..4*k+3]))), then the rest
    """

    axis: str
    intrinsic: str
    along: str = ""

    def __str__(self) -> str:
        flipped = f", {self.along}" if self.along else ""
        return f"Tensorize({self.axis}, {self.intrinsic}{flipped})"


@dataclass(frozen=True)
class Across:
    """Compute the last points of `axis`, which fill no vector of `lanes`, on their own and with the
    lanes along the reduced axis. The steps after it see the axis without them.

    rewrite:   for j in 129: y[j] = sum[k](a[k]*b[k, j])
          ->   for j in 128: y[j] = sum[k](a[k]*b[k, j])
               p[:] = b[:, 128]; y[128] = sum[k](a[k]*p[k]) in lanes along k
    """

    axis: str
    lanes: int

    def __str__(self) -> str:
        return f"Across({self.axis}, {self.lanes})"


Step = (
    Split | Parallel | Unroll | Vectorize | Order | Stage | Turn | SplitReduction | Peel
    | Tensorize | Across
)  # fmt: skip
STEPS: Final[dict[str, Any]] = {
    s.__name__: s
    for s in (
        Split, Parallel, Unroll, Vectorize, Order, Stage, Turn, SplitReduction, Peel, Tensorize,
        Across,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """A reduction done in parts of `factor` points of its axis and in so many `slices`."""

    reduction: Reduce
    factor: int
    slices: int


@dataclass(frozen=True)
class Walk:
    """What the steps of a schedule add up to: the kernel with its axes in order, the plan of each
    axis, the loads (or words of loads) that are staged at each axis (None: before all loops), the
    axis of the tile along which results are written, if it is not the one with the lanes, what is
    computed before all loops, how what is left over of an axis is walked after them, and the most
    rows and columns of the matrices that are multiplied by one instruction (0: none are)."""

    kernel: Kernel
    plans: Mapping[Axis, Plan]
    staged: Mapping[Axis | None, tuple[Expr, ...]]
    turned: Axis | None = None
    parts: Parts | None = None
    before: tuple[Assign, ...] = ()
    rest: Walk | None = None
    side: int = 0

    @property
    def params(self) -> tuple[Buffer, ...]:
        """What the kernel, what is computed before it and what is left over need from outside."""
        loads = (e for a in self.before for e in loads_in(a.value))
        rest = () if self.rest is None else self.rest.params
        return tuple(dict.fromkeys((*self.kernel.params, *(e.buffer for e in loads), *rest)))


@dataclass(frozen=True)
class Schedule:
    """Steps in the order they apply."""

    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(str, self.steps)) or "(as written)"

    def __repr__(self) -> str:
        """Python that makes it, with the names of this module."""
        return f"Schedule({_literal(self.steps)})" if self.steps else "Schedule()"

    def to_json(self) -> str:
        return json.dumps([[type(s).__name__, asdict(s)] for s in self.steps])

    @staticmethod
    def from_json(text: str) -> Schedule:
        """The schedule `to_json` wrote. Unknown steps or fields raise ScheduleError."""
        try:
            return Schedule(tuple(_step(name, fields) for name, fields in json.loads(text)))
        except (ValueError, TypeError, KeyError) as e:
            raise ScheduleError(text[:80], "", "", f"this is not a stored schedule ({e})") from None


def _literal(x: Any) -> str:
    """Python for a step, or for what is in one; fields left out are empty ones at the end."""
    if isinstance(x, tuple):
        return f"({', '.join(map(_literal, x))}{',' * (len(x) == 1)})"
    if isinstance(x, Step):
        given = [_literal(v) for v in asdict(x).values() if v != ""]
        return f"{type(x).__name__}({', '.join(given)})"
    return json.dumps(x)


def _step(name: str, fields: dict[str, Any]) -> Step:
    cleaned = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return STEPS[name](**cleaned)  # type: ignore[no-any-return]


def names(kernel: Kernel) -> dict[str, Axis]:
    """Every axis of the kernel by the name it prints with."""
    namer = Namer()
    axes = [*kernel.axes]
    for a in kernel.body:
        axes += a.axes
        axes += [x for e in reductions_in(a.value) for x in e.axes]
    return {namer(a): a for a in dict.fromkeys(axes)}


def planned(kernel: Kernel, schedule: Schedule) -> Walk:
    """How a kernel is walked under a schedule.

    Raises ScheduleError, naming the axis and its extent, for a step that is not legal.
    """
    spelled = buffer_names(kernel)
    kernel, before = grouped(kernel, schedule)
    kernel, rest = _apart(kernel, schedule)
    by_name = names(kernel)
    parts: dict[str, tuple[str, int]] = {}  # inner part -> (axis, extent)
    result: dict[Axis, Plan] = {}
    cause: dict[Axis, Step] = {}
    stages: list[Stage] = []
    turn: Turn | None = None
    split: SplitReduction | None = None
    for step in schedule.steps:
        match step:
            case Split(name, factor):
                root, extent = parts.get(name, (name, None))
                axis = _find(by_name, root, step)
                whole = extent if extent is not None else axis.extent
                if factor < 1 or (is_static(whole) and factor > max(static(whole), 1)):
                    raise ScheduleError(
                        str(step), name, show_extent(whole), "the factor does not fit"
                    )
                if extent is not None:
                    if extent % factor:
                        raise ScheduleError(
                            str(step), name, extent, "the factor must divide an inner part"
                        )
                if is_static(whole) and static(whole) % factor == 0:
                    parts[f"{name}.o"] = (root, static(whole) // factor)
                parts[f"{name}.i"] = (root, factor)
            case Unroll(name) | Vectorize(name):
                root, extent = parts.get(name, (name, None))
                axis = _find(by_name, root, step)
                if extent is None:
                    if not is_static(axis.extent):
                        raise ScheduleError(
                            str(step), name, show_extent(axis.extent), "it is not a constant"
                        )
                    extent = max(static(axis.extent), 1)
                plan, cause[axis] = result.get(axis, Plan()), step
                unroll = extent if isinstance(step, Unroll) else plan.unroll
                lanes = _power(extent) if isinstance(step, Vectorize) else plan.lanes
                result[axis] = Plan(unroll, lanes, plan.parallel, plan.peeled)
            case Parallel(name):
                axis = _find(by_name, name, step)
                if axis not in kernel.axes:
                    raise ScheduleError(
                        str(step),
                        name,
                        show_extent(axis.extent),
                        "only shared axes are independent",
                    )
                result[axis] = replace(result.get(axis, Plan()), parallel=True)
            case Peel(name):
                axis = _find(by_name, name, step)
                if result.get(axis, Plan()).lanes == 1 or axis not in kernel.axes:
                    reason = "it has no lanes to be chunks of"
                    raise ScheduleError(str(step), name, show_extent(axis.extent), reason)
                result[axis] = replace(result[axis], peeled=True)
            case Order(order):
                kernel = _ordered(kernel, step, tuple(_find(by_name, n, step) for n in order))
            case Stage():
                stages.append(step)
            case Turn(name):
                turn = step
                _find(by_name, name, step)
            case SplitReduction():
                split = step
            case Tensorize() | Across():
                pass  # done before all others: they see its words, and an axis of whole vectors
    _check_places(kernel, result, cause)
    staged: dict[Axis | None, tuple[Expr, ...]] = {}
    for step in stages:
        at = _find(by_name, step.axis, step) if step.axis else None
        staged[at] = (*staged.get(at, ()), _staged(kernel, step, at, result, spelled))
    turned = None if turn is None else by_name[turn.axis]
    if turn is not None:
        _check_turn(kernel, turn, by_name[turn.axis], result)
    for sums in before:
        _plan_sums(sums, result)
    words = [s for s in schedule.steps if isinstance(s, Tensorize)]
    side = max((INTRINSICS[s.intrinsic].side for s in words), default=0)
    if split is None:
        return Walk(kernel, result, staged, turned, before=before, rest=rest, side=side)
    if staged or turned or rest:
        reason = "nothing is staged, turned or left over with it"
        raise ScheduleError(str(split), split.axis, "", reason)
    parted = _parts(kernel, split, by_name, result)
    return Walk(kernel, result, staged, turned, parted, before)


def grouped(kernel: Kernel, schedule: Schedule) -> tuple[Kernel, tuple[Assign, ...]]:
    """The kernel with the sums over words that a schedule's `Tensorize` steps ask for, and what is
    computed before it."""
    before: list[Assign] = []
    for step in schedule.steps:
        if isinstance(step, Tensorize):
            kernel, sums = _tensorized(kernel, step)
            before += [] if sums is None else [sums]
    return kernel, tuple(before)


def _tensorized(kernel: Kernel, step: Tensorize) -> tuple[Kernel, Assign | None]:
    by_name = names(kernel)
    k = _find(by_name, step.axis, step)
    along = _find(by_name, step.along, step) if step.along else None
    intrinsic = INTRINSICS.get(step.intrinsic)
    found = [] if intrinsic is None else [
        m for m in matches(kernel, intrinsic) if k in m.reduction.axes
    ]  # fmt: skip
    reason = ""
    if intrinsic is None:
        reason = f"the intrinsics are {', '.join(INTRINSICS)}"
    elif len(found) != 1 or not kernel.is_map:
        reason = "it is not summed over in products of numbers that the intrinsic takes"
    elif not groupable(found[0], k, intrinsic):
        reason = f"there are no {intrinsic.group} neighbours of both operands along it"
    elif intrinsic.flips(found[0]) is (along is None):
        reason = "signs are flipped where both operands are bytes of one sign"
    elif along and [depends(e, (along,)) for e in found[0].operands].count(True) != 1:
        reason = f"not just one operand moves along {step.along}"
    elif along and along not in kernel.axes:
        reason = f"{step.along} is summed over"
    if reason:
        raise ScheduleError(str(step), step.axis, show_extent(k.extent), reason)
    assert intrinsic is not None, "it was looked for"
    return tensorized(kernel, found[0], k, intrinsic, along)


def _apart(kernel: Kernel, schedule: Schedule) -> tuple[Kernel, Walk | None]:
    """The kernel without what an `Across` step leaves over, and how that is walked."""
    steps = [s for s in schedule.steps if isinstance(s, Across)]
    if not steps:
        return kernel, None
    step, a = steps[0], _find(names(kernel), steps[0].axis, steps[0])
    r = summed_across(kernel.body, a) if kernel.is_map and a in kernel.axes else None
    reason = ""
    if len(steps) > 1:
        reason = "one axis is cut"
    elif r is None or any(map(is_word, walk(r.body))):
        reason = "it is no axis of results of the kernel's one reduction, over numbers"
    elif not is_static(a.extent) or not 1 < step.lanes < static(a.extent):
        reason = "it has no whole vector"
    elif static(a.extent) % step.lanes == 0:
        reason = "nothing is left over"
    if reason:
        raise ScheduleError(str(step), step.axis, show_extent(a.extent), reason)
    assert r is not None, "it was looked for"
    kernel, other, last = cut(kernel, a, step.lanes)
    plans = {x: Plan(unroll=n) for x, n in rows_at_once(other, last).items()}
    if any(isinstance(s, Parallel) for s in schedule.steps):
        plans |= {x: replace(plans.get(x, Plan()), parallel=True) for x in other.axes[:-1]}
    k = r.axes[-1]
    plans[k] = Plan(lanes=min(step.lanes, _power(static(k.extent))))
    staged: dict[Axis | None, tuple[Expr, ...]] = {None: strided_columns(other, last, k)}
    return kernel, Walk(other, plans, staged)


def _plan_sums(sums: Assign, plans: dict[Axis, Plan]) -> None:
    """What corrects tensorized sums is computed in as many lanes as they are, its rows in parallel
    if any axis is."""
    lanes = max((p.lanes for p in plans.values()), default=1)
    for r in walk(sums.value):
        if isinstance(r, Reduce):
            plans[r.axes[-1]] = Plan(lanes=min(lanes, _power(static(r.axes[-1].extent))))
    if sums.index and any(p.parallel for p in plans.values()):
        first_row = next(a for a in walk(*sums.index) if isinstance(a, Axis))
        plans[first_row] = Plan(parallel=True)


def _parts(
    kernel: Kernel, step: SplitReduction, by_name: dict[str, Axis], plans: Mapping[Axis, Plan]
) -> Parts:
    """The reduction that a step splits."""
    axis = _find(by_name, step.axis, step)
    tile = tile_of(kernel.axes, plans)
    reductions = reductions_in(*(a.value for a in kernel.body))
    reason = ""
    if len(reductions) != 1 or reductions[0].axes != (axis,) or axis in plans:
        reason = "it is not the one axis of the kernel's one reduction"
    elif reductions[0].kind != "sum" or dtypes.is_bool(reductions[0].type):
        reason = "only sums are split"
    elif not kernel.is_map or not tile or plans.get(tile[-1], Plan()).lanes == 1:
        reason = "the innermost axis has no lanes"
    elif not all(is_static(a.extent) for a in (axis, *tile)):
        reason = "the number of results is not known"
    elif step.factor < 1 or step.slices < 1:
        reason = "there is at least one slice and a point in each part"
    if reason:
        raise ScheduleError(str(step), step.axis, show_extent(axis.extent), reason)
    return Parts(reductions[0], step.factor, step.slices)


def _check_turn(kernel: Kernel, step: Turn, axis: Axis, plans: Mapping[Axis, Plan]) -> None:
    """A tile is turned where each register holds a vector of results and there are at most as many
    rows as lanes; or, without sums, where what is read is contiguous along the rows."""
    tile = tile_of(kernel.axes, plans)
    lanes = max((plans[a].lanes for a in tile if a in plans), default=1)
    plan = plans.get(axis, Plan())
    reductions = reductions_in(*(a.value for a in kernel.body))
    nested = any(r.body.reduces for r in reductions)
    reason = ""
    if not kernel.is_map or axis not in tile or plan.lanes > 1 or lanes == 1:
        reason = "it is not an unrolled axis of a tile with lanes"
    elif plan.unroll > lanes:
        reason = f"the tile has {plan.unroll} rows and {lanes} lanes"
    elif nested or not all(depends(r, tile) for r in reductions):
        reason = "only sums of the tile are turned"
    elif not reductions and (plan.unroll == 1 or not strided(kernel.body, axis)):
        reason = "nothing is read that is contiguous along it"
    elif not reductions and any(plans.get(a, Plan()).unroll > 1 for a in tile if a is not axis):
        reason = "one vector of the other axis is turned"
    if reason:
        raise ScheduleError(str(step), step.axis, show_extent(axis.extent), reason)


STAGED_BYTES: Final = 1 << 20
"""The largest block staged at an axis: it lives on the stack."""


def _staged(
    kernel: Kernel,
    step: Stage,
    at: Axis | None,
    plans: Mapping[Axis, Plan],
    spelled: Mapping[Buffer, str],
) -> Expr:
    """The load, or the word of loads, that a step stages."""

    def refuse(reason: str) -> ScheduleError:
        return ScheduleError(str(step), step.axis or step.buffer, "", reason)

    reductions = reductions_in(*(a.value for a in kernel.body))
    loads = reads([r.body for r in reductions])
    found = [e for e in loads if spelled.get(first(e).buffer) == step.buffer]
    wide = [a for a in kernel.axes if plans.get(a, Plan()).lanes > 1]
    if len(found) > 1:  # x @ x.T: by vectors, or one by one
        found = [e for e in found if depends(e, wide if at is None else [at]) is (at is not None)]
    if len(found) != 1 or not kernel.is_map:
        raise refuse(f"the sums of a tile read {step.buffer} at {len(found)} such positions")
    (load,) = found
    if any(e.reads or e.reduces for e in first(load).children):
        raise refuse("its position is not known before")
    tile = tile_of(kernel.axes, plans)
    summed = [a for r in reductions for a in r.axes]
    inner = [a for a in summed if a.serial in load.free]
    if at is None or (at in kernel.axes and at not in tile and at.serial in load.free):
        after = 0 if at is None else kernel.axes.index(at) + 1
        used = [a for a in (*kernel.axes[after:], *inner) if a.serial in load.free]
        copy = whole(load, used) if all(is_static(a.extent) for a in used) else None
        if copy is None:
            raise refuse("the size of the block is not known")
        constant = first(load).buffer.scope == CONSTANT
        if at is not None and copy.buffer.nbytes > STAGED_BYTES and not constant:
            raise refuse(f"the block of {copy.buffer.nbytes} bytes is too large for the stack")
        return load
    if at not in tile or at.serial not in load.free or at in summed:
        raise refuse("no chunks of it are walked outside the tile's other loops")
    if depends(load, tile[tile.index(at) + 1 :]):
        raise refuse("the loops inside move along it")
    if any(not is_static(a.extent) for a in inner):
        raise refuse("the size of the block is not known")
    size = (
        plans.get(at, Plan()).chunk * static(product(a.extent for a in inner)) * load.type.itemsize
    )
    if size > STAGED_BYTES and first(load).buffer.scope != CONSTANT:
        raise refuse(f"the block of {size} bytes is too large for the stack")
    return load


def written_out(axes: Sequence[Axis], plans: Mapping[Axis, Plan]) -> list[Axis]:
    """The innermost axes of a reduction all of whose points are written out, for one sum."""

    def full(a: Axis) -> bool:
        plan = plans.get(a, Plan())
        return is_static(a.extent) and plan.lanes == 1 and plan.unroll == static(a.extent) > 1

    return [*itertools.takewhile(full, axes[::-1])]


def buffer_names(kernel: Kernel) -> dict[Buffer, str]:
    """Every buffer the kernel reads by the name it prints with."""
    namer = Namer()
    return {b: namer(b) for b in kernel.reads}


def tile_of(axes: Sequence[Axis], plans: Mapping[Axis, Plan]) -> list[Axis]:
    """The axes of a nest's tile: the first that is walked in chunks and all inside it."""
    outside = itertools.takewhile(lambda a: plans.get(a, Plan()).chunk == 1, axes)
    return [*axes[len([*outside]) :]]


def _ordered(kernel: Kernel, step: Order, axes: tuple[Axis, ...]) -> Kernel:
    """The kernel with the nest over these axes walked in their order."""

    def same(nest: tuple[Axis, ...]) -> bool:
        return len(nest) == len(axes) and set(nest) == set(axes)

    if kernel.axes and same(kernel.axes):
        return replace(kernel, axes=axes)
    body = [replace_axes(a, axes) if same(a.axes) else a for a in kernel.body]
    if all(a is b for a, b in zip(body, kernel.body, strict=True)):
        reason = "every axis of one nest must appear once"
        raise ScheduleError(str(step), ", ".join(step.axes), "", reason)
    return replace(kernel, body=tuple(body))


def replace_axes(a: Assign, axes: tuple[Axis, ...]) -> Assign:
    return Assign(a.buffer, a.index, axes, a.value)


def _check_places(kernel: Kernel, plans: dict[Axis, Plan], cause: dict[Axis, Step]) -> None:
    """Loops are unrolled and vectorised inside a nest, and only one of them has lanes."""

    def refuse(a: Axis, reason: str) -> None:
        step = cause[a]
        assert isinstance(step, Unroll | Vectorize), "other steps chunk nothing"
        raise ScheduleError(str(step), step.axis, show_extent(a.extent), reason)

    inner: set[Axis] = set()
    nests = [(kernel.axes, kernel.body)] if kernel.is_map else [(a.axes, (a,)) for a in kernel.body]
    for axes, body in nests:
        tile = tile_of(axes, plans)[::-1]
        inner.update(tile)
        wide = [a for a in tile if plans.get(a, Plan()).lanes > 1]
        if len(wide) > 1:
            refuse(wide[1], "an axis inside it has the lanes")
        for r in reductions_in(*(a.value for a in body)):
            last = r.axes[-1]
            inner.add(last)
            inner.update(written_out(r.axes, plans))
            if wide and plans.get(last, Plan()).lanes > 1 and depends(r, tile):
                refuse(last, "the axis its results are for has the lanes")
    for a, plan in plans.items():
        if plan.chunk > 1 and a not in inner:
            refuse(a, "there is a whole loop inside it")


def _find(by_name: dict[str, Axis], name: str, step: Step) -> Axis:
    if name not in by_name:
        raise ScheduleError(str(step), name, "unknown", f"the kernel has {', '.join(by_name)}")
    return by_name[name]


def _power(n: int) -> int:
    """The least power of two that holds n lanes."""
    return 1 << max(n - 1, 0).bit_length()


def spell(axes: Sequence[tuple[str, Axis, Plan]]) -> Schedule:
    """The steps that give each named axis its plan."""
    steps: list[Step] = []
    for name, axis, plan in axes:
        extent = static(axis.extent) if is_static(axis.extent) else None
        if plan.parallel:
            steps.append(Parallel(name))
        inner = name
        if plan.chunk > 1 and extent != plan.chunk:
            steps.append(Split(name, min(plan.chunk, extent or plan.chunk)))
            inner = f"{name}.i"
        if plan.unroll > 1 and plan.lanes > 1:
            steps += [Split(inner, plan.lanes), Unroll(f"{inner}.o"), Vectorize(f"{inner}.i")]
        elif plan.unroll > 1:
            steps.append(Unroll(inner))
        elif plan.lanes > 1:
            steps.append(Vectorize(inner))
        if plan.peeled:
            steps.append(Peel(name))
    return Schedule(tuple(steps))
