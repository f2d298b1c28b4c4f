"""Features: what a cost model sees of a schedule, as numbers for many schedules at once.

Knows the loop nest that a schedule makes (`walks.Walks`), how much memory each level touches, how
often, and what its innermost round does. All are array expressions over [schedules, levels, axes].
 Refuses to know what they mean for the time, except for `roofline`, the larger of what the
arithmetic and what each memory takes, which is what a model corrects.

The nest of A axes has A + 1 levels: at level l the loops of rank l and further in run in full and
those outside stand still; level 0 is the whole kernel, level A one round of the tile.

References: reuse by loop level is TVM's (Chen et al., OSDI 2018, section 5.2); working sets of
levels against caches are the usual model of tiled loops (Lam, Rothberg, Wolf, ASPLOS 1991).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tilewright.cost_model.walks import Nest, Walks
from tilewright.expr import Apply, Expr, Load, Reduce, walk
from tilewright.roofline import work_of
from tilewright.runtime.threads import cores
from tilewright.target import Target
from tilewright.transforms.index_rules import affine, flat

VERSION: Final = 2
"""Grows whenever a feature changes its meaning: weights of other versions are not used."""

LINE: Final = 64
"""Bytes of a cache line."""
ALIAS: Final = 4096
"""Bytes after which rows share sets of the first level cache."""
LATENCY: Final = 8
"""Multiply-adds under way in a core: so many sums hide each other's latency."""
GATHERED: Final = 8.0
"""Loads that reading one vector costs which does not lie in one piece."""
EXPOSED: Final = 0.15
"""Share of the lesser times of the roofline that the largest does not hide."""
ELEMENT_COPIED, ELEMENT_TURNED = 0.1, 0.35
"""Cycles to copy an element, in its order and in another."""

NAMES: Final = (
    "log2 operations",  # of the kernel
    "log2 bytes",  # that cross its border, each element once
    "log2 operations per byte",
    "log2 results",
    "log2 reduced points",
    "operations of an element",  # log2(1 + count), inside sums if there are any
    "operations of a result",  # the same, of sums
    "sums",
    "log2 element bytes",
    "log2 accumulators",  # of a round of the tile
    "registers used",  # share of the machine's
    "latency bound",  # multiply-adds in flight that are missing, as a share
    "log2 lanes",
    "lanes used",  # share of the machine's vector
    "log2 vectors a round",
    "log2 rows a round",
    "log2 reduced round",
    "lanes across",  # whether the reduced axis has the lanes
    "vector waste",  # share of lanes that compute nothing, over the axis
    "rows waste",
    "copies of code",  # log2 of the bodies that segments need
    "log2 code",  # vectors of a round times operations
    "loads per operation",  # vector loads, each round
    "singles per operation",  # elements read one by one and broadcast
    "gathers per operation",
    "stores scattered",  # share of results not written along the lanes
    "turned",
    "staged", "copied",  # operands
    "log2 copied bytes per operation",
    "parts", "log2 slices",
    "colliding rows",  # of a tile, on the sets of the first level cache
    "log2 tile bytes over l1",  # what one tile touches, all its reduced axes
    "log2 tile bytes over l2",
    "log2 panel bytes over l2",  # what the innermost loop outside a tile touches
    "log2 bytes over l3",
    "log2 wide panel over l1",  # bytes along the lanes that the sums of one tile read
    "log2 single panel over l1",  # bytes of those that are read one by one
    "log2 wide bytes over l2",  # all of what is read along the lanes
    "log2 single bytes over l2",
    "log2 wide step over page",  # bytes between the rows of a panel, unless it is packed
    "wide rows collide",  # whether that is a multiple of ALIAS
    "log2 single step over page",  # bytes between the tile's rows, or the points summed over
    "lanes outside",  # whether the loop over vectors has that over rows inside
    "wide read again",  # whether the innermost loop outside the tile moves along nothing wide
    "log2 lane step",  # elements between lanes, where vectors are not one piece
    "log2 loads of a result",  # reads beside sums
    "l1 misses per operation", "l2 misses per operation", "l3 misses per operation",  # bytes
    "line use",  # share of the bytes of cache lines that are wanted
    "log2 parallel rounds", "imbalance",  # rounds of the busiest thread over its share, less one
    "log2 threads",
    "log2 innermost rounds",  # of the loop next to the tile's round
    "arithmetic bound", "l1 bound", "l2 bound", "l3 bound",  # log2 of each time over the largest
)  # fmt: skip

TERMS: Final = ("arithmetic time", "l2 time", "l3 time", "memory time")
"""What the roofline is the largest of: the arithmetic, and what each memory takes for what the
caches before it miss."""


@dataclass(frozen=True)
class Machine:
    """What features know of a machine: vector bytes, registers, bytes of each cache, threads that
    share the last one, and rates: float32 operations a second of one core (a multiply-add is two)
    and bytes a second from the second and third level cache and from memory."""

    vector_bytes: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    flops: float
    l2_rate: float
    l3_rate: float
    dram_rate: float

    @staticmethod
    def of(target: Target) -> Machine:
        """The machine that a target describes, at the usual rates: narrower vectors do less
        arithmetic in a cycle. Nothing is measured, so that features are the same every time."""
        return replace(
            USUAL, vector_bytes=target.vector_bytes, registers=target.registers,
            l1_bytes=target.l1_bytes, l2_bytes=target.l2_bytes,
            flops=USUAL.flops * target.vector_bytes / USUAL.vector_bytes,
        )  # fmt: skip


USUAL: Final = Machine(64, 32, 32 << 10, 1 << 20, 32 << 20, 1.16e11, 1.1e11, 9.0e10, 3.0e10)
"""A core of a server of 2024; a search that knows its own machine better says so."""

MACHINE: Final = ("log2 vector bytes", "log2 registers", "log2 l1 bytes", "log2 l2 bytes",
                  "log2 cores")  # fmt: skip
"""What a network is told of the machine, beside the features. Clocks and rates are not among it:
they vary from one measurement to the next, and no order within a kernel depends on a clock."""


def told(target: Target, count: int | None = None) -> dict[str, float]:
    """The numbers of `MACHINE` for a target and the cores of its machine: those that this process
    may use, if not given."""
    of_target = target.vector_bytes, target.registers, target.l1_bytes, target.l2_bytes
    found = *of_target, cores() if count is None else count
    return dict(zip(MACHINE, np.log2(found).tolist(), strict=True))


@dataclass(frozen=True)
class _Accesses:
    """Every read and write of a kernel: arrays [accesses] and [accesses, axes]."""

    moves: Any  # whether it moves along an axis
    step: Any  # elements from one point of the axis to the next; 0 where it does not move
    known: Any  # whether its position is linear in the axes
    itemsize: Any
    total: Any  # bytes of the buffer
    stored: Any
    operand: Any  # the number of the operand it is, -1 for others
    summed: Any  # whether it is read inside sums


class Extractor:
    """The features of one kernel's schedules. What belongs to the kernel is computed once."""

    def __init__(self, space: Nest, machine: Machine = USUAL) -> None:
        self.space, self.machine = space, machine
        work = work_of(space.kernel)
        self.operations = max(sum(work.operations.values()), 1.0)
        self.moved = max(float(work.moved), 1.0)
        self.accesses = _accesses(space)
        self.extents = space.extents.astype(np.float64)
        nodes = walk(*(a.value for a in space.walked.body))
        inside = set(walk(*(r.body for r in space.sums))) if space.sums else set[Expr]()
        costs = [(float(e.op.cost), e in inside) for e in nodes if isinstance(e, Apply)]
        self.weight = sum(cost for cost, summed in costs if summed or not space.sums)
        self.after = sum(cost for cost, summed in costs if not summed and space.sums)
        self.itemsize = max(
            [e.type.itemsize for e in nodes if isinstance(e, (Apply, Load))], default=4
        )
        self.shared = np.array([a in space.walked.axes for a in space.axes], bool)
        reduced = {k for r in nodes if isinstance(r, Reduce) for k in r.axes}
        self.reduced = np.array([a in reduced for a in space.axes], bool)
        self.groups = _groups(space)
        self.copying = self._copying()
        self.beside = float((~self.accesses.summed & ~self.accesses.stored).sum())

    def __call__(self, walks: Walks) -> Any:
        """float32 [n, len(NAMES)]."""
        return self.described(walks)[0]

    def described(self, walks: Walks) -> tuple[Any, Any]:
        """Features and seconds, for what the features take."""
        seconds, bounds = self._bounds(walks)
        found = self._table(walks, bounds)
        columns = [np.asarray(found[name], np.float32) for name in NAMES]
        return np.stack(columns, axis=1), seconds

    def seconds(self, walks: Walks) -> Any:
        """The roofline of each schedule: float64 [n], seconds."""
        return self._bounds(walks)[0]

    def terms(self, walks: Walks) -> Any:
        """What `seconds` is made of: float64 [n, len(TERMS)], seconds."""
        return self._bounds(walks)[1]["times"].T

    # -- parts ---------------------------------------------------------------------------------

    # Arrays below have the schedules along their last dimension, so that what is done for each of
    # them is done in vectors: [axes, n], [accesses, n], [levels, axes, n].

    def _bounds(self, walks: Walks) -> tuple[Any, dict[str, Any]]:
        m, s, a = self.machine, self.space, self.accesses
        unroll, lanes = _columns(walks.unroll), _columns(walks.lanes)
        extents, chunk = self.extents[:, None], unroll * lanes
        rounds = np.ceil(extents / np.maximum(chunk, 1))
        packed = np.zeros((len(a.itemsize), len(walks)), bool)
        own = a.operand >= 0
        if own.any():
            packed[own] = (walks.staged | walks.copied).T[a.operand[own]]
        nest = self._touched(walks, np.minimum(chunk, np.maximum(extents, 1)), rounds, packed)
        l1, l2, l3 = (nest.misses(size) for size in (m.l1_bytes, m.l2_bytes, m.l3_bytes))
        tile = self._round(unroll, lanes, rounds, packed)
        cycles = tile["cycles"]
        if s.walked.is_map:  # what is computed of the sums
            tiles = np.maximum(rounds, 1)[self.shared].prod(0)
            cycles = cycles + tiles * unroll[self.shared].prod(0) * self.after
        copies = (walks.staged | walks.copied) @ self.copying
        stores = self._scattered(walks, lanes)
        results = float(np.prod(self.extents[self.shared])) if self.shared.any() else 1.0
        writes = np.where(walks.turned, 0.4 * results, np.where(stores > 0, 1.5 * results, 0.0))
        arithmetic = (cycles + copies + writes) / (m.flops / 2 / (m.vector_bytes / self.itemsize))
        threads = float(max(s.threads, 1))
        split = np.where(walks.parallel.T, rounds, 1.0).prod(0)
        busiest = np.ceil(split / threads) * threads / np.maximum(split, 1.0)
        share = np.where(split > 1, busiest / threads, 1.0)
        times = np.stack(
            [arithmetic * share, l1 / m.l2_rate * share, l2 / m.l3_rate * share, l3 / m.dram_rate]
        )
        largest = times.max(0)
        return largest + EXPOSED * (times.sum(0) - largest), {
            **tile, "unroll": unroll, "lanes": lanes, "rounds": rounds, "chunk": chunk,
            "packed": packed, "times": times, "largest": largest, "l1": l1, "l2": l2, "l3": l3,
            "nest": nest, "split": split, "busiest": busiest, "copies": copies, "stores": stores,
            "results": results,
        }  # fmt: skip

    def _touched(self, walks: Walks, chunk: Any, rounds: Any, packed: Any) -> _Touched:
        """What each level of the loop nest touches, in elements and in bytes of cache lines."""
        a, count = self.accesses, len(self.extents)
        level = np.arange(count + 1)
        inside = np.ascontiguousarray(walks.rank.T)[None] >= level[:, None, None]
        nested = np.ones(count, bool)
        if len(self.groups) > 1:  # nests side by side: each runs in full for every row
            inside |= (~self.shared & (level < count)[:, None])[:, :, None]
            nested = self.shared
        inner = np.where(inside, self.extents[:, None], chunk)  # points of each axis
        repeats = np.where(inside, 1.0, rounds)[:, nested].prod(1)
        elements = _products(inner, a.moves)
        elements = np.minimum(elements, (a.total / a.itemsize)[:, None])
        run = _products(inner, (np.abs(a.step) == 1) & a.known[:, None])
        size = a.itemsize[:, None]
        run = np.where(packed, elements, run) * size
        lines = elements * size
        lines = np.where(lines <= size, size, lines * np.maximum(1.0, LINE / np.maximum(run, size)))
        return _Touched(elements, lines.sum(1), repeats)

    def _round(self, unroll: Any, lanes: Any, rounds: Any, packed: Any) -> dict[str, Any]:
        """What a round of the tile does, and the cycles of all of them."""
        s, a, m = self.space, self.accesses, self.machine
        n, wide = unroll.shape[1], lanes > 1
        of_wide = _any(a.moves, wide)
        step = np.abs(a.step @ wide.astype(np.float64))
        gathers = of_wide & (step != 1) & ~packed
        in_sums = a.summed[:, None]
        cycles, vectors, gathered, singles, body = (np.zeros(n) for _ in range(5))
        width = np.ones(n)
        for group in self.groups:
            axes = self.shared | group
            mine = ~(a.moves & ~axes).any(1)
            instances = _products(unroll[None], a.moves & axes)[0] * mine[:, None]
            some = (instances * (of_wide & ~gathers & in_sums)).sum(0)
            hard = (instances * (gathers & in_sums)).sum(0)
            single = (instances * (~of_wide & in_sums)).sum(0)
            here = unroll[axes].prod(0)
            reads = some + GATHERED * hard + 0.5 * single
            if not s.sums:
                reads = (instances * np.where(gathers, GATHERED, 1.0)).sum(0)
            in_flight = here * max(len(s.sums) / len(self.groups), 1)
            summing = bool((group & self.reduced).any())
            slow = np.maximum(1.0, LATENCY / in_flight) if summing else 1.0
            weight = max(self.weight / len(self.groups), 1.0)
            points = np.maximum(rounds, 1)[axes].prod(0)
            cycles = cycles + points * np.maximum(here * weight * slow, reads)
            vectors, gathered, singles = vectors + some, gathered + hard, singles + single
            body = np.maximum(body, here)
            width = np.maximum(width, lanes[axes].prod(0))
        return {
            "cycles": cycles, "vectors": vectors, "gathered": gathered, "singles": singles,
            "body": body, "width": width, "used": width / (m.vector_bytes / self.itemsize),
            "in_flight": body * max(len(s.sums) / len(self.groups), 1),
            "of_wide": of_wide & in_sums, "single": ~of_wide & in_sums,
            "step": np.where(gathers, step, 1.0),
        }  # fmt: skip

    def _copying(self) -> Any:
        """Cycles that copying takes, float64 [operands]."""
        a, s = self.accesses, self.space
        found = np.zeros(len(s.operands))
        for b, o in enumerate(s.operands):
            if not o.is_constant:
                first = (a.operand == b).argmax()
                straight = bool((np.abs(a.step[first]) == 1).any())
                each = ELEMENT_COPIED if straight else ELEMENT_TURNED
                found[b] = float(o.size(list(s.axes))) * each
        return found

    def _scattered(self, walks: Walks, lanes: Any) -> Any:
        """Share of what is written that does not lie along the lanes."""
        a, wide = self.accesses, lanes > 1
        stored = a.stored
        if not stored.any():
            return np.zeros(len(walks))
        step = np.abs(a.step[stored] @ wide.astype(np.float64))
        return (_any(a.moves[stored], wide) & (step != 1) & ~walks.turned).mean(0)

    def _table(self, walks: Walks, b: dict[str, Any]) -> dict[str, Any]:
        """All features, [n] each."""
        m, s, nest = self.machine, self.space, b["nest"]
        n, count = len(walks), len(self.extents)
        one = np.ones(n)
        tile_level = int(np.clip(self.shared.sum(), 0, count))
        tile, panel = nest.bytes[tile_level], nest.bytes[max(tile_level - 1, 0)]
        bound = np.log2(np.maximum(b["times"] / b["largest"], 1e-4))
        per = b["body"] * max(self.weight, 1.0)
        across = np.zeros(n, bool)
        if self.reduced.any():
            across = (b["lanes"][self.reduced] > 1).any(0)
        wanted = (nest.elements[0] * self.accesses.itemsize[:, None]).sum(0)
        return {
            **self._tile_table(b),
            **self._panel_table(walks, b, tile_level),
            "log2 lane step": np.log2(np.clip(b["step"].max(0, initial=1.0), 1, 64)),
            "log2 loads of a result": one * np.log2(1 + self.beside),
            "log2 operations": one * np.log2(self.operations),
            "log2 bytes": one * np.log2(self.moved),
            "log2 operations per byte": one * np.log2(self.operations / self.moved),
            "log2 results": one * np.log2(max(b["results"], 1.0)),
            "log2 reduced points": one * np.log2(self.extents[self.reduced]).sum(),
            "operations of an element": one * np.log2(1 + self.weight),
            "operations of a result": one * np.log2(1 + self.after),
            "sums": one * len(s.sums),
            "log2 element bytes": one * np.log2(self.itemsize),
            "log2 accumulators": np.log2(b["in_flight"]),
            "registers used": b["in_flight"] / m.registers,
            "latency bound": np.maximum(0.0, 1 - b["in_flight"] / LATENCY),
            "log2 lanes": np.log2(b["width"]),
            "lanes used": b["used"],
            "lanes across": across,
            "log2 code": np.log2(per),
            "loads per operation": b["vectors"] / per,
            "singles per operation": b["singles"] / per,
            "gathers per operation": b["gathered"] / per,
            "stores scattered": b["stores"],
            "turned": walks.turned,
            "staged": walks.staged.sum(1),
            "copied": walks.copied.sum(1),
            "log2 copied bytes per operation": np.log2(1 + 64 * b["copies"] / self.operations),
            "parts": walks.part > 0,
            "log2 slices": np.log2(np.maximum(walks.slices, 1)),
            "log2 tile bytes over l1": np.log2(tile / m.l1_bytes),
            "log2 tile bytes over l2": np.log2(tile / m.l2_bytes),
            "log2 panel bytes over l2": np.log2(panel / m.l2_bytes),
            "log2 bytes over l3": np.log2(nest.bytes[0] / m.l3_bytes),
            "l1 misses per operation": np.log2(1e-3 + b["l1"] / self.operations),
            "l2 misses per operation": np.log2(1e-3 + b["l2"] / self.operations),
            "l3 misses per operation": np.log2(1e-3 + b["l3"] / self.operations),
            "line use": wanted / np.maximum(nest.bytes[0], 1),
            "log2 parallel rounds": np.log2(b["split"]),
            "imbalance": b["busiest"] - 1,
            "log2 threads": one * np.log2(max(s.threads, 1)),
            "arithmetic bound": bound[0],
            "l1 bound": bound[1],
            "l2 bound": bound[2],
            "l3 bound": bound[3],
        }

    def _tile_table(self, b: dict[str, Any]) -> dict[str, Any]:
        """Features of the tile's shape."""
        wide, chunk, extents = b["lanes"] > 1, b["chunk"], self.extents[:, None]
        unroll, shared, reduced = b["unroll"], self.shared[:, None], self.reduced[:, None]
        waste = 1 - extents / np.maximum(b["rounds"] * chunk, 1)
        bodies = 1.0 + (extents % np.maximum(chunk, 1) > 0)
        return {
            "log2 vectors a round": np.log2(np.where(wide, unroll, 1.0).prod(0)),
            "log2 rows a round": np.log2(np.where(~wide & shared, unroll, 1.0).prod(0)),
            "log2 reduced round": np.log2(np.where(reduced, chunk, 1.0).prod(0)),
            "vector waste": np.where(wide, waste, 0.0).sum(0),
            "rows waste": np.where(wide, 0.0, waste).sum(0),
            "copies of code": np.log2(bodies.prod(0)),
        }

    def _panel_table(self, walks: Walks, b: dict[str, Any], tile_level: int) -> dict[str, Any]:
        """Features of the panels that the sums of one tile read, and of the order of its loops."""
        m, a, count = self.machine, self.accesses, len(self.extents)
        n, shared = len(walks), self.shared[:, None]
        wide, unroll, unpacked = b["lanes"] > 1, b["unroll"], ~b["packed"]
        size = a.itemsize[:, None]
        tile_bytes = b["nest"].elements[tile_level] * size
        all_bytes = b["nest"].elements[0] * size
        byte_step = np.abs(a.step) * size
        of_sums = (byte_step * self.reduced).max(1, initial=0.0)[:, None]
        in_rows = ~wide & shared & (unroll > 1)
        of_rows = (byte_step[:, :, None] * in_rows).max(1, initial=0.0)
        wide_step = np.where(b["of_wide"] & unpacked, of_sums, 0.0).max(0)
        single_step = np.where(b["single"] & unpacked, np.maximum(of_sums, of_rows), 0.0).max(0)
        high = np.where(~wide & shared, unroll, 1.0)
        colliding = (byte_step % ALIAS == 0) & (byte_step > 0)
        collide = np.where(colliding[:, :, None] & unpacked[:, None], high, 1.0)
        rank = np.ascontiguousarray(walks.rank.T)
        lanes_rank = np.where(wide & shared, rank, -1).max(0, initial=-1)
        rows_rank = np.where(in_rows, rank, -1).max(0, initial=-1)
        innermost, moved = np.ones(n), np.zeros(n, bool)
        if count:
            order, every = np.argsort(walks.rank, axis=1), np.arange(n)
            innermost = b["rounds"][order[:, -1], every]
            last = order[:, max(int(self.shared.sum()) - 1, 0)]
            moved = (b["of_wide"] & a.moves[:, last]).any(0)

        def log_ratio(x: Any, size: float) -> Any:
            return np.log2(np.maximum(x, 1.0) / size)

        return {
            "log2 wide panel over l1": log_ratio((tile_bytes * b["of_wide"]).sum(0), m.l1_bytes),
            "log2 single panel over l1": log_ratio((tile_bytes * b["single"]).sum(0), m.l1_bytes),
            "log2 wide bytes over l2": log_ratio((all_bytes * b["of_wide"]).sum(0), m.l2_bytes),
            "log2 single bytes over l2": log_ratio((all_bytes * b["single"]).sum(0), m.l2_bytes),
            "log2 wide step over page": np.log2(1 + wide_step / ALIAS),
            "wide rows collide": (wide_step > 0) & (wide_step % ALIAS == 0),
            "log2 single step over page": np.log2(1 + single_step / ALIAS),
            "colliding rows": np.log2(collide.max((0, 1), initial=1.0)),
            "lanes outside": (lanes_rank >= 0) & (rows_rank > lanes_rank),
            "wide read again": ~moved,
            "log2 innermost rounds": np.log2(np.maximum(innermost, 1)),
        }


@dataclass(frozen=True)
class _Touched:
    """What the levels of a loop nest touch: `elements` [levels, accesses, n] of each access, the
    `bytes` [levels, n] of all cache lines, and how often the level runs, `repeats` [levels, n]."""

    elements: Any
    bytes: Any
    repeats: Any

    def misses(self, size: float) -> Any:
        """Bytes [n] that come from beyond a cache: of the levels that fit it, the outermost."""
        fits, traffic = self.bytes <= size, self.bytes * self.repeats
        least = np.where(fits, traffic, np.inf).min(0)
        once = self.bytes[0] * (self.bytes[0] > size)
        return np.where(np.isfinite(least), np.maximum(least, once), traffic[-1])


def _columns(rows: Any) -> Any:
    """Integers [n, axes] as float64 [axes, n], rows in one piece."""
    return np.ascontiguousarray(rows.T, np.float64)


def _products(factors: Any, chosen: Any) -> Any:
    """Products of the factors [levels, axes, n] over chosen axes, bool [accesses, axes]: [levels,
    accesses, n]."""
    return np.stack([factors[:, axes].prod(1) for axes in chosen], 1)


def _any(chosen: Any, flags: Any) -> Any:
    """Whether a flag [axes, n] of any chosen axis, bool [accesses, axes], is set: [accesses, n]."""
    return (chosen.astype(np.float32) @ flags.astype(np.float32)) > 0


def _groups(space: Nest) -> list[Any]:
    """For each nest that runs inside the shared axes, bool [axes]: its own. A map is one nest."""
    if space.walked.is_map:
        return [np.array([a not in space.walked.axes for a in space.axes], bool)]
    found: dict[frozenset[int], None] = {}
    for assign in space.walked.body:
        own = {space.number[a] for a in assign.axes}
        sums = [e for e in walk(assign.value) if isinstance(e, Reduce)]
        found[frozenset(own)] = None
        for r in sums:
            found[frozenset(space.number[k] for k in r.axes)] = None
    groups = [g for g in found if g] or [frozenset()]
    return [np.array([k in g for k in range(len(space.axes))], bool) for g in groups]


def _accesses(space: Nest) -> _Accesses:
    rows: list[tuple[Any, ...]] = []

    def add(load: Load, itemsize: int, stored: bool, operand: int, summed: bool) -> None:
        form = affine(flat(load.buffer, load.index))
        moves = [a.serial in load.free for a in space.axes]
        step = [form.coefficient(a) if m else 0 for a, m in zip(space.axes, moves, strict=True)]
        hidden = set(load.free) - {
            t.serial for e, _ in form.terms for t in walk(e) if hasattr(t, "serial")
        }
        known = not hidden and not any(isinstance(e, Load) for e in walk(*load.index))
        total = max(int(load.buffer.nbytes), itemsize)
        rows.append((moves, step, known, itemsize, total, stored, operand, summed))

    for k, o in enumerate(space.operands):
        add(o.load, o.itemsize, False, k, o.read in space.summed or not space.sums)
    for a in space.walked.body:
        if a.buffer.scope not in ("stack", "registers"):
            add(Load(a.buffer, a.index, None), a.buffer.dtype.itemsize, True, -1, False)
    columns = list(zip(*rows, strict=True))
    shape = (len(rows), len(space.axes))
    return _Accesses(
        np.array(columns[0], bool).reshape(shape), np.array(columns[1], np.float64).reshape(shape),
        *(np.array(c) for c in columns[2:]),
    )  # fmt: skip
