"""Spaces: the schedules a kernel can have, as a schedule with holes.

A point of a space is a row of integers, for each hole the number of the choice that fills it. Knows
which holes a kernel has, which points are legal, the schedule of a point, and, for many points at
once, how the axes are walked (`Walks`), which is what features are computed from. Refuses to know
what is fast (`features`, `model`) and in which order points are tried (`search`).

Three shapes of kernels have three shapes of spaces. *Tiles*: a map with sums has an axis with the
lanes, rows of results beside it, an order, copies of operands. *Maps* have lanes, rounds, and
squares that are turned. *Rows* are walked as the heuristic says, in other vectors and rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tilewright import forks
from tilewright.cost_model.features import Extractor, Machine
from tilewright.cost_model.walks import Walks
from tilewright.expr import Axis, Expr, Reduce, is_static, static, walk
from tilewright.kernel import Kernel
from tilewright.target import Target
from tilewright.transforms.heuristic import ENOUGH, heuristic, share
from tilewright.transforms.products import operands_of
from tilewright.transforms.schedule import (
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
    grouped,
    names,
    planned,
    spell,
)
from tilewright.transforms.tensorize import INTRINSICS, first, reads

Points = Any
"""int64 [n, holes]: for each hole the number of its choice."""

HEIGHTS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16)
WIDTHS: Final = (1, 2, 3, 4, 6, 8, 12)
ROUNDS: Final = (1, 2, 4, 8)
PARTS: Final = ((0, 0), (8, 1), (8, 4), (8, 8), (16, 8), (4, 2))
"""Points of a part of a reduced axis, and slices: (0, 0) is a reduction in one."""
SPARE: Final = 2
"""Registers that sums leave to what is read."""
WRITTEN_OUT: Final = 32
"""Points of the largest window that is written out."""
DRAWN, ROUNDS_OF_DRAWING = 8, 20
"""Points drawn at once for each that is wanted, since some are not legal, and how often at most."""
LARGEST: Final = 8192
"""Points up to which a space is listed rather than drawn from."""


@dataclass(frozen=True)
class Hole:
    """A name and the choices that may fill it."""

    name: str
    choices: tuple[Any, ...]


class Space:
    """All schedules of a kernel, on a machine with so many threads, that its holes can make.
    Without holes there is one, the heuristic's."""

    def __init__(self, kernel: Kernel, target: Target, threads: int, default: Schedule) -> None:
        self.kernel, self.target, self.threads, self.default = kernel, target, threads, default
        self.words = tuple(s for s in default.steps if isinstance(s, Tensorize))
        self.walked, _ = grouped(kernel, Schedule(self.words))
        self.by_name = names(self.walked)
        self.spelled = {a: n for n, a in self.by_name.items()}
        self.axes = tuple(self.by_name.values())
        self.number = {a: k for k, a in enumerate(self.axes)}
        self.extents = np.array([static(a.extent) for a in self.axes], np.int64)
        values = [a.value for a in self.walked.body]
        self.sums = tuple(e for e in walk(*values) if isinstance(e, Reduce))
        self.operands = tuple(operands_of(reads(values)))
        self.summed = frozenset(reads([r.body for r in self.sums]))
        self.usual = planned(kernel, default)
        found = names(self.usual.kernel)  # steps may have replaced axes: by name they are the same
        self.plans = {self.by_name[n]: self.usual.plans[a] for n, a in found.items()
                      if a in self.usual.plans}  # fmt: skip
        self.lanes = max((p.lanes for p in self.plans.values()), default=1)
        self.holes = self._holes()

    # -- what kinds of kernels say ---------------------------------------------------------------

    def _holes(self) -> tuple[Hole, ...]:
        return ()

    def steps(self, v: Mapping[str, Any]) -> tuple[Step, ...]:
        """The steps for the value of each hole."""
        return tuple(s for s in self.default.steps if s not in self.words)

    def fits(self, v: Mapping[str, Any], n: int) -> Any:
        """bool [n]: whether the values of the holes, arrays [n], go together."""
        return np.ones(n, bool)

    def fill(self, walks: Walks, v: Mapping[str, Any]) -> None:
        """Write how points with these values walk the axes."""
        for k, a in enumerate(self.axes):
            plan = self.plans.get(a, Plan())
            walks.unroll[:, k], walks.lanes[:, k] = plan.unroll, plan.lanes

    # -- points ------------------------------------------------------------------------------------

    @forks.cached_property
    def parts(self) -> tuple[tuple[tuple[int, ...], Points], ...]:
        """Groups of holes, as their numbers, with what may fill each group, int64 [m, group's
        holes]. Legal points take one row of every group; not all that do are legal."""
        return tuple(((n,), np.arange(len(h.choices))[:, None]) for n, h in enumerate(self.holes))

    @forks.cached_property
    def shape(self) -> Any:
        """Rows of each group."""
        return np.array([len(rows) for _, rows in self.parts], np.int64)

    def combined(self, rows: Any) -> Points:
        """The points that take some rows [n, groups] of the groups."""
        found = np.empty((len(rows), len(self.holes)), np.int64)
        for (holes, filled), r in zip(self.parts, np.asarray(rows).T, strict=True):
            found[:, holes] = filled[r]
        return found

    @forks.cached_property
    def _choices(self) -> tuple[tuple[str, Any], ...]:
        """The values of each hole, None where they are no numbers."""
        return tuple((h.name, np.asarray(h.choices) if _numeric(h) else None) for h in self.holes)

    def values(self, points: Points) -> dict[str, Any]:
        """For each hole the values that fill it, an array [n] of numbers, or of the numbers of
        choices that are none."""
        columns = np.asarray(points, np.int64).T
        return {
            name: c if choices is None else choices[c]
            for (name, choices), c in zip(self._choices, columns, strict=True)
        }

    def value(self, point: Sequence[int]) -> dict[str, Any]:
        """What fills each hole."""
        return {h.name: h.choices[int(i)] for h, i in zip(self.holes, point, strict=True)}

    def schedule(self, point: Sequence[int]) -> Schedule:
        """The schedule of a point.

        **Raises:** `ScheduleError` if it is not legal: the shapes decide what arrays of numbers
        (`legal`) only estimate.
        """
        found = Schedule((*self.words, *self.steps(self.value(point))))
        planned(self.kernel, found)
        return found

    def legal(self, points: Points) -> Any:
        """bool [n]: whether the values go together and fit the registers."""
        return np.asarray(self.fits(self.values(points), len(points)), bool)

    @forks.cached_property
    def every(self) -> Points | None:
        """All legal points, if the space is small enough to be listed."""
        size = math.prod(self.shape.tolist())
        if size > LARGEST:
            return None
        grid = self.combined(np.indices(tuple(self.shape)).reshape(len(self.parts), size).T)
        return grid[self.legal(grid)]

    def random(self, rng: np.random.Generator, n: int) -> Points:
        """Up to n different legal points."""
        if self.every is not None:
            rows = rng.permutation(len(self.every))[:n]
            return self.every[rows]
        found = np.empty(0, np.int64)
        for _ in range(ROUNDS_OF_DRAWING):
            drawn = rng.integers(0, math.prod(self.shape.tolist()), DRAWN * n)
            drawn = drawn[self.legal(self.numbered(drawn))]
            found = np.unique(np.concatenate([found, drawn]))
            if len(found) >= n:
                break
        return self.numbered(found[rng.permutation(len(found))[:n]])

    def numbered(self, numbers: Any) -> Points:
        """The points that have some numbers int64 [n] among all combinations of rows."""
        return self.combined(np.stack(np.unravel_index(numbers, tuple(self.shape)), axis=1))

    def walks(self, points: Points) -> Walks:
        """How the points walk the axes."""
        found = self.empty_walks(len(points))
        self.fill(found, self.values(points))
        self.share(found)
        return found

    @forks.cached_property
    def extractor(self) -> Extractor:
        """The features of this kernel's schedules on the target."""
        return Extractor(self, Machine.of(self.target))

    def features(self, points: Points) -> Any:
        """float32 [n, len(features.NAMES)]."""
        return self.extractor(self.walks(points))

    def roofline(self, points: Points) -> Any:
        """float64 [n]: an estimate of the seconds, from operations and memory traffic alone."""
        return self.extractor.seconds(self.walks(points))

    def relaxed(self, places: Any) -> tuple[Any, Any]:
        """float32 [n, len(features.NAMES)] and seconds float64 [n] at places [n, holes] between
        choices: numbers are interpolated, of other choices the nearest is taken."""
        columns = np.asarray(places, np.float64).T
        between = {
            name: np.rint(x).astype(np.int64)
            if choices is None
            else np.interp(x, np.arange(len(choices)), choices)
            for (name, choices), x in zip(self._choices, columns, strict=True)
        }
        found = self.empty_walks(len(places), np.float64)
        self.fill(found, between)
        self.share(found)
        return self.extractor.described(found)

    def walks_of(self, schedules: Sequence[Schedule]) -> Walks:
        """How any legal schedules walk the axes, points of this space or not."""
        found = self.empty_walks(len(schedules))
        for n, s in enumerate(schedules):
            w = self.usual if s is self.default else planned(self.kernel, s)
            by_name = names(w.kernel)
            number = {a: self.number[self.by_name[k]] for k, a in by_name.items()}
            for r, a in enumerate(w.kernel.axes):
                found.rank[n, number[a]] = r
            for a, plan in w.plans.items():
                if a in number:
                    k = number[a]
                    found.unroll[n, k], found.lanes[n, k] = plan.unroll, plan.lanes
                    found.parallel[n, k] = plan.parallel
            for at, expressions in w.staged.items():
                for e in expressions:
                    chosen = found.copied if at is None else found.staged
                    chosen[n, self._operand(e)] = True
            found.turned[n] = w.turned is not None
            if w.parts is not None:
                found.part[n], found.slices[n] = w.parts.factor, w.parts.slices
        return found

    def _operand(self, e: Expr) -> int:
        """The number of an operand, by what is read or, where words were made anew, the buffer."""
        buffer = first(e).buffer
        same = [b for b, o in enumerate(self.operands) if o.read is e]
        return (same or [b for b, o in enumerate(self.operands) if o.load.buffer is buffer])[0]

    @forks.cached_property
    def _axes(self) -> dict[str, Any]:
        """For each hole of names, for each of its choices, the number of the axis; -1 for none."""
        number = {n: self.number[a] for n, a in self.by_name.items()} | {"": -1}
        return {
            h.name: np.array([number[c] for c in h.choices])
            for h in self.holes
            if all(c in number for c in h.choices)
        }

    # -- parts of schedules ------------------------------------------------------------------------

    def peeled(self, vector: Axis) -> bool:
        """Whether the ends of an axis are walked on their own: where the default schedule does."""
        return self.plans.get(vector, Plan()).peeled

    def spelled_out(
        self, order: Sequence[Axis], plans: dict[Axis, Plan], special: Sequence[Step] = ()
    ) -> tuple[Step, ...]:
        """The steps for an order of the shared axes, plans, and what comes after them."""
        plans = {a: p for a, p in plans.items() if p.chunk > 1}
        share(order, plans)
        first_step: list[Step] = []
        if tuple(order) != tuple(self.walked.axes) and len(order) > 1:
            first_step = [Order(tuple(self.spelled[a] for a in order))]
        steps = spell([(n, a, plans[a]) for n, a in self.by_name.items() if a in plans]).steps
        return (*first_step, *steps, *special)

    def empty_walks(self, n: int, dtype: Any = np.int64) -> Walks:
        """The axes as they are written, one point at a time; vectors and lanes of a dtype."""
        a, b = len(self.axes), len(self.operands)
        one = np.ones((n, a), dtype)
        rank = np.broadcast_to(np.arange(a), (n, a)).copy()
        no = np.zeros((n, b), bool)
        zero = np.zeros(n, np.int64)
        return Walks(
            self.axes, one, one.copy(), rank, np.zeros((n, a), bool), no, no.copy(),
            np.zeros(n, bool), zero, zero.copy(),
        )  # fmt: skip

    def share(self, walks: Walks) -> None:
        """Mark the axes whose rounds are parallel, as `share` does."""
        n, count = len(walks), len(self.walked.axes)
        rounds = np.ones(n)
        chunk = walks.unroll * walks.lanes
        for r in range(count):
            here = np.argmax(walks.rank[:, :count] == r, axis=1)
            times = -(-self.extents[here] // chunk[np.arange(n), here])
            walks.parallel[np.arange(n), here] = (rounds < ENOUGH) & (times > 1)
            rounds *= times


def _numeric(h: Hole) -> bool:
    return all(isinstance(c, (int, bool)) for c in h.choices)


class Tiles(Space):
    """A map with sums: one axis has the lanes, the rows of another stand beside them."""

    def _holes(self) -> tuple[Hole, ...]:
        shared = [a for a in self.walked.axes if static(a.extent) > 1]
        self.last = self.sums[0].axes[-1]
        wide = [a for a in shared if any(o.moves(a) for o in self.operands)]
        self.across = not self.words and static(self.last.extent) >= self.lanes > 1
        one_sum = len(self.sums) == 1 and self.sums[0].kind == "sum" and not self.words
        points = math.prod(static(k.extent) for k in self.sums[0].axes)
        own = [(p.lanes > 1, p.unroll) for a, p in self.plans.items() if a in shared]
        split = one_sum and len(self.sums[0].axes) == 1 and points >= 64
        return (
            Hole("vector", tuple(self.spelled[a] for a in wide)),
            Hole("rows", ("", *(self.spelled[a] for a in shared))),
            Hole("lanes", (self.lanes, self.lanes // 2) if self.lanes >= 4 else (self.lanes,)),
            Hole("width", tuple(sorted({*WIDTHS, *(n for wide, n in own if wide)}))),
            Hole("height", tuple(sorted({*HEIGHTS, *(n for wide, n in own if not wide)}))),
            Hole("order", ("rows, vector", "vector, rows", "vector first")),
            Hole("across", (0, 1) if self.across else (0,)),
            Hole("stage", (0, 1)),
            Hole("copy", (0, 1)),
            Hole("turn", (0, 1)),
            Hole("parts", PARTS if split else PARTS[:1]),
            Hole("window", (0, 1) if 1 < points <= WRITTEN_OUT and not self.words else (0,)),
        )

    @forks.cached_property
    def moves(self) -> Any:
        """bool [operands, axes]: whether what is read inside sums moves along an axis."""
        found = [[o.moves(a) and o.read in self.summed for a in self.axes] for o in self.operands]
        return np.array(found, bool).reshape(len(self.operands), len(self.axes))

    @forks.cached_property
    def plain(self) -> Any:
        """bool [operands]: whether an operand of the sums is read at places known before."""
        return np.array([o.read in self.summed and o.is_plain for o in self.operands], bool)

    def staged(self, vector: Any, rows: Any) -> Any:
        """bool [n, operands]: what `stage` copies for each chunk of the vector's axis."""
        along = self.moves[:, vector].T
        return self.plain & along & ~(self.moves[:, rows].T & (rows >= 0)[:, None])

    def copied(self, vector: Any) -> Any:
        """bool [n, operands]: what `copy` copies as a whole."""
        return self.plain & ~self.moves[:, vector].T

    def fits(self, v: Mapping[str, Any], n: int) -> Any:
        return self._is_tile(v) & self._is_way(v) & self._go_together(v)

    def _is_tile(self, v: Mapping[str, Any]) -> Any:
        """Whether there is such a tile: it fits the axes and the registers."""
        vector, rows = self._axes["vector"][v["vector"]], self._axes["rows"][v["rows"]]
        width, height, across = v["width"], v["height"], v["across"] > 0
        lanes = np.minimum(v["lanes"], self.most[vector])
        ok = (vector != rows) & (across | (lanes == v["lanes"]) | (v["lanes"] == self.lanes))
        ok &= (width == 1) | (width * np.where(across, 1, lanes) <= self.extents[vector])
        ok &= (height <= np.where(rows >= 0, self.extents[rows], 1)) & ((height > 1) | (rows < 0))
        return ok & (width * height * len(self.sums) <= self.target.registers - SPARE)

    def _is_way(self, v: Mapping[str, Any]) -> Any:
        """Whether tiles can be computed so: reductions in parts by themselves only."""
        special = (v["stage"] > 0) | (v["copy"] > 0) | (v["turn"] > 0) | (v["window"] > 0)
        return ~((v["parts"] > 0) & (special | (v["order"] > 0))) & (
            (v["order"] < 2) | (v["stage"] > 0)
        )

    def _go_together(self, v: Mapping[str, Any]) -> Any:
        """Whether a tile can be computed in a way."""
        vector, rows = self._axes["vector"][v["vector"]], self._axes["rows"][v["rows"]]
        height, lanes = v["height"], np.minimum(v["lanes"], self.most[vector])
        stage, copy, turn = v["stage"] > 0, v["copy"] > 0, v["turn"] > 0
        across = v["across"] > 0
        ok = ~across | ~(stage | copy | turn | (v["parts"] > 0) | (v["window"] > 0))
        ok &= ~stage | self._some_staged[vector, rows]
        ok &= ~copy | self.copied(vector).any(1)
        ok &= ~turn | ((rows >= 0) & (height <= lanes) & (lanes > 1) & (lanes <= 16))
        return ok & ((v["order"] < 2) | self.first[vector, rows])

    @forks.cached_property
    def parts(self) -> tuple[tuple[tuple[int, ...], Points], ...]:
        """Tiles, and ways to compute them: of all combinations of both many are legal, of all
        combinations of choices one in a hundred."""
        tile = ("vector", "rows", "lanes", "width", "height", "across")
        way = tuple(h.name for h in self.holes if h.name not in tile)
        return self._listed(tile, self._is_tile), self._listed(way, self._is_way)

    def _listed(
        self, group: tuple[str, ...], test: Callable[[Mapping[str, Any]], Any]
    ) -> tuple[tuple[int, ...], Points]:
        """The numbers of the holes of a group, and what fills them that passes a test."""
        numbers = tuple(n for n, h in enumerate(self.holes) if h.name in group)
        shape = [len(self.holes[n].choices) for n in numbers]
        grid = np.indices(shape).reshape(len(shape), math.prod(shape)).T
        every = np.zeros((len(grid), len(self.holes)), np.int64)
        every[:, numbers] = grid
        return numbers, grid[test(self.values(every))]

    @forks.cached_property
    def _some_staged(self) -> Any:
        """bool [axes, axes + 1]: whether there is something to stage for chunks of one axis, the
        other being the rows (the last: none)."""
        every = np.arange(len(self.axes))
        return np.stack(
            [self.staged(every, np.full(len(every), r)).any(1) for r in (*every, -1)], 1
        )

    @forks.cached_property
    def most(self) -> Any:
        """The lanes that an axis can fill, a power of two."""
        return np.array([1 << max(int(n) - 1, 0).bit_length() for n in self.extents])

    @forks.cached_property
    def first(self) -> Any:
        """bool [axes, axes + 1]: whether what is staged for chunks of one axis, the other being the
        rows (the last: none), moves along no further one, so that these chunks may be outermost."""
        count, every = len(self.axes), np.arange(len(self.axes))
        shared = np.isin(every, [self.number[a] for a in self.walked.axes])
        found = np.zeros((count, count + 1), bool)
        for r in (*every, -1):
            moved = self.staged(every, np.full(count, r)) @ self.moves  # [axes, axes]
            found[:, r] = ~np.any(moved & shared & (every != every[:, None]) & (every != r), 1)
        return found

    def _ordered(self, vector: Axis, rows: Axis | None, order: str) -> list[Axis]:
        outer = [a for a in self.walked.axes if a is not vector and a is not rows]
        own = [] if rows is None else [rows]
        if order == "rows, vector":
            return [*outer, *own, vector]
        return [*outer, vector, *own] if order == "vector, rows" else [vector, *outer, *own]

    def steps(self, v: Mapping[str, Any]) -> tuple[Step, ...]:
        vector = self.by_name[v["vector"]]
        rows = self.by_name[v["rows"]] if v["rows"] else None
        plans: dict[Axis, Plan] = {}
        if v["across"]:
            plans[self.last] = Plan(lanes=v["lanes"])
            plans[vector] = Plan(unroll=v["width"])
        else:
            lanes = min(v["lanes"], int(self.most[self.number[vector]]))
            plans[vector] = Plan(unroll=v["width"], lanes=lanes, peeled=self.peeled(vector))
        if rows is not None:
            plans[rows] = Plan(unroll=v["height"])
        if v["window"]:
            plans |= {k: Plan(unroll=static(k.extent)) for r in self.sums for k in r.axes}
        buffers = buffer_names(self.kernel)
        at, line = (
            np.array([self.number[vector]]),
            np.array([-1 if rows is None else self.number[rows]]),
        )
        special: list[Step] = []
        for flags, axis in (
            (v["stage"] and self.staged(at, line)[0], self.spelled[vector]),
            (v["copy"] and self.copied(at)[0], ""),
        ):
            if np.any(flags):
                chosen = [o for o, f in zip(self.operands, flags, strict=True) if f]
                special += [Stage(buffers[o.load.buffer], axis) for o in chosen]
        if v["turn"] and rows is not None:
            special.append(Turn(self.spelled[rows]))
        if v["parts"][0]:
            special.append(SplitReduction(self.spelled[self.last], *v["parts"]))
        if not v["across"] and not v["parts"][0]:
            kept = [s for s in self.default.steps if isinstance(s, Across)]
            special += [s for s in kept if s.axis == self.spelled[vector]]
        return self.spelled_out(self._ordered(vector, rows, v["order"]), plans, special)

    def fill(self, walks: Walks, v: Mapping[str, Any]) -> None:
        n = np.arange(len(walks))
        vector, rows = self._axes["vector"][v["vector"]], self._axes["rows"][v["rows"]]
        across = v["across"] > 0
        some = rows >= 0
        walks.unroll[n, vector] = v["width"]
        lanes = np.minimum(v["lanes"], self.most[vector])
        walks.lanes[n[~across], vector[~across]] = lanes[~across]
        walks.lanes[n[across], self.number[self.last]] = v["lanes"][across]
        walks.unroll[n[some], rows[some]] = v["height"][some]
        for k in {k for r in self.sums for k in r.axes}:
            written = v["window"] > 0
            walks.unroll[written, self.number[k]] = static(k.extent)
        count = len(self.walked.axes)
        key = np.broadcast_to(np.arange(count, dtype=np.float64), (len(walks), count)).copy()
        inner = np.where(v["order"] == 0, count + 2.0, np.where(v["order"] == 1, count, -1.0))
        key[n, vector] = inner
        key[n[some], rows[some]] = count + 1
        walks.rank[:, :count] = np.argsort(np.argsort(key, axis=1), axis=1)
        walks.staged[...] = self.staged(vector, rows) & (v["stage"] > 0)[:, None]
        walks.copied[...] = self.copied(vector) & (v["copy"] > 0)[:, None]
        walks.turned[...] = v["turn"] > 0
        parts = np.array(next(h.choices for h in self.holes if h.name == "parts"))[v["parts"]]
        walks.part[...], walks.slices[...] = parts[:, 0], parts[:, 1]


class Maps(Space):
    """A map without sums: an axis with the lanes, rounds of it, and squares that are turned."""

    def _holes(self) -> tuple[Hole, ...]:
        shared = [a for a in self.walked.axes if static(a.extent) > 1]
        turned = [s for s in self.default.steps if isinstance(s, Turn)]
        lanes = {self.lanes, max(1, self.lanes // 2)}
        return (
            Hole("vector", tuple(self.spelled[a] for a in shared)),
            Hole("rows", ("", *(self.spelled[a] for a in shared)) if turned else ("",)),
            Hole("lanes", tuple(sorted(lanes, reverse=True))),
            Hole("rounds", ROUNDS),
            Hole("inner", ("", *(self.spelled[a] for a in shared[:-1]))),
        )

    def fits(self, v: Mapping[str, Any], n: int) -> Any:
        vector, rows = self._axes["vector"][v["vector"]], self._axes["rows"][v["rows"]]
        inner = self._axes["inner"][v["inner"]]
        ok = (v["rounds"] - 1) * v["lanes"] < self.extents[vector]
        turned = rows >= 0
        ok &= ~turned | ((rows != vector) & (v["rounds"] == 1) & (inner < 0) & (v["lanes"] > 1))
        return ok & (inner != vector)

    def steps(self, v: Mapping[str, Any]) -> tuple[Step, ...]:
        vector = self.by_name[v["vector"]]
        rows = self.by_name[v["rows"]] if v["rows"] else None
        inner = self.by_name[v["inner"]] if v["inner"] else None
        peeled = self.peeled(vector)
        plans = {vector: Plan(unroll=v["rounds"], lanes=v["lanes"], peeled=peeled)}
        special: list[Step] = []
        late = [a for a in (inner, rows) if a is not None]
        order = [*(a for a in self.walked.axes if a is not vector and a not in late), *late, vector]
        if rows is not None:
            plans[rows] = Plan(unroll=min(v["lanes"], static(rows.extent)))
            special.append(Turn(self.spelled[rows]))
        return self.spelled_out(order, plans, special)

    def fill(self, walks: Walks, v: Mapping[str, Any]) -> None:
        n = np.arange(len(walks))
        vector, rows = self._axes["vector"][v["vector"]], self._axes["rows"][v["rows"]]
        inner = self._axes["inner"][v["inner"]]
        turned = rows >= 0
        walks.unroll[n, vector], walks.lanes[n, vector] = v["rounds"], v["lanes"]
        high = np.minimum(v["lanes"], self.extents[rows])
        walks.unroll[n[turned], rows[turned]] = high[turned]
        count = len(self.walked.axes)
        key = np.broadcast_to(np.arange(count, dtype=np.float64), (len(walks), count)).copy()
        key[n[inner >= 0], inner[inner >= 0]] = count
        key[n[turned], rows[turned]] = count + 1
        key[n, vector] = count + 2
        walks.rank[:, :count] = np.argsort(np.argsort(key, axis=1), axis=1)
        walks.turned[...] = turned


class Rows(Space):
    """Rows of several assignments: the heuristic's walk in vectors and rounds of another number."""

    def _holes(self) -> tuple[Hole, ...]:
        self.chunked = [a for a in self.axes if self.plans.get(a, Plan()).lanes > 1]
        self.chunked = [a for a in self.chunked if static(a.extent) >= 2 * self.lanes]
        lanes = {self.lanes, max(1, self.lanes // 2)}
        rounds = [Hole(f"rounds {self.spelled[a]}", ROUNDS) for a in self.chunked[:6]]
        return (Hole("lanes", tuple(sorted(lanes, reverse=True))), *rounds) if rounds else ()

    def fits(self, v: Mapping[str, Any], n: int) -> Any:
        ok = np.ones(n, bool)
        for a in self.chunked[:6]:
            ok &= v[f"rounds {self.spelled[a]}"] * v["lanes"] <= static(a.extent)
        return ok

    def steps(self, v: Mapping[str, Any]) -> tuple[Step, ...]:
        plans = dict(self.plans)
        for a in self.chunked[:6]:
            lanes = min(v["lanes"], self.plans[a].lanes)
            plans[a] = replace(self.plans[a], unroll=v[f"rounds {self.spelled[a]}"], lanes=lanes)
        steps = spell([(n, a, plans[a]) for n, a in self.by_name.items() if a in plans]).steps
        return (*(s for s in self.default.steps if isinstance(s, Order)), *steps)

    def fill(self, walks: Walks, v: Mapping[str, Any]) -> None:
        super().fill(walks, v)
        for a in self.chunked[:6]:
            k = self.number[a]
            walks.unroll[:, k] = v[f"rounds {self.spelled[a]}"]
            walks.lanes[:, k] = np.minimum(v["lanes"], self.plans[a].lanes)


class Fixed(Space):
    """One schedule, whose loops may stand in any order."""

    def fill(self, walks: Walks, v: Mapping[str, Any]) -> None:
        super().fill(walks, v)
        one = self.walks_of([self.default])
        walks.rank[:], walks.staged[:], walks.copied[:] = one.rank, one.staged, one.copied


def space(kernel: Kernel, target: Target, threads: int = 1) -> Space:
    """The space of a kernel on a target."""
    default = heuristic(kernel, target)
    axes = names(kernel).values()
    kind: type[Space] = Space
    words = [INTRINSICS[s.intrinsic] for s in default.steps if isinstance(s, Tensorize)]
    if any(i.side for i in words):
        return Fixed(kernel, target, threads, default)  # other tiles would not be matrices
    if all(is_static(a.extent) and static(a.extent) > 0 for a in axes) and axes:
        sums = [e for a in kernel.body for e in walk(a.value) if isinstance(e, Reduce)]
        depends = all(r.free for r in sums)
        if not kernel.is_map:
            kind = Rows
        elif not sums:
            kind = Maps
        elif depends and len({r.axes for r in sums}) == 1:
            kind = Tiles
    return kind(kernel, target, threads, default)
