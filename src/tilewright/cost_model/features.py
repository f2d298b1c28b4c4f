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

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tilewright.cost_model.walks import Nest, Walks
from tilewright.expr import Apply, Expr, Load, Reduce, walk
from tilewright.roofline import work_of
from tilewright.transforms.index_rules import affine, flat

VERSION: Final = 1
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


USUAL: Final = Machine(64, 32, 32 << 10, 1 << 20, 32 << 20, 1.16e11, 1.1e11, 9.0e10, 3.0e10)
"""A core of a server of 2024; a search that knows its own machine better says so."""


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
        return self._bounds(walks)[1]["times"]

    # -- parts ---------------------------------------------------------------------------------

    def _bounds(self, walks: Walks) -> tuple[Any, dict[str, Any]]:
        m, s = self.machine, self.space
        n, count = walks.unroll.shape
        a = self.accesses
        unroll, lanes = walks.unroll.astype(np.float64), walks.lanes.astype(np.float64)
        chunk = np.minimum(unroll * lanes, np.maximum(self.extents, 1))
        rounds = np.ceil(self.extents / np.maximum(unroll * lanes, 1))
        # Levels: inner[n, level, axis] points of each axis.
        level = np.arange(count + 1)
        inside = walks.rank[:, None, :] >= level[None, :, None]
        if len(self.groups) > 1:  # nests side by side: each runs in full for every row
            inside = inside | (~self.shared & (level < count)[:, None])[None]
        inner = np.where(inside, self.extents, chunk[:, None, :])
        outer = np.where(inside, 1.0, rounds[:, None, :])
        nested = self.shared if len(self.groups) > 1 else self.shared | True
        repeats = np.exp((np.log(outer) * nested).sum(2))  # [n, level]
        logs = np.log2(inner)
        elements = np.exp2(logs @ a.moves.T.astype(np.float64))  # [n, level, access]
        elements = np.minimum(elements, a.total / a.itemsize)
        packed = np.zeros((n, len(a.itemsize)), bool)
        own = a.operand >= 0
        if own.any():
            chosen = walks.staged | walks.copied
            packed[:, own] = chosen[:, a.operand[own]]
        contiguous = (np.abs(a.step) == 1) & a.known[:, None]
        run = np.exp2(logs @ contiguous.T.astype(np.float64))
        run = np.where(packed[:, None, :], elements, run) * a.itemsize
        lines = elements * a.itemsize * np.maximum(1.0, LINE / np.maximum(run, a.itemsize))
        lines = np.where(elements * a.itemsize <= a.itemsize, a.itemsize, lines)
        working = lines.sum(2)  # [n, level] bytes
        traffic = working * repeats

        def misses(size: float) -> Any:
            """Bytes that come from beyond a cache: of the levels that fit it, the outermost."""
            fits = working <= size
            least = np.where(fits, traffic, np.inf).min(1)
            once = working[:, 0] * (working[:, 0] > size)
            return np.where(np.isfinite(least), np.maximum(least, once), traffic[:, -1])

        l1, l2, l3 = misses(m.l1_bytes), misses(m.l2_bytes), misses(m.l3_bytes)
        # One round of the tile.
        vector = m.vector_bytes / self.itemsize
        wide = lanes > 1
        of_wide = (a.moves[None] & wide[:, None, :]).any(2)  # [n, access]
        step = np.abs((a.step[None] * wide[:, None, :]).sum(2))
        gathers = of_wide & (step != 1) & ~packed
        in_sums = a.summed[None] & np.ones((n, 1), bool)
        cycles, vectors, gathered, singles, body = (np.zeros(n) for _ in range(5))
        width = np.ones(n)
        for group in self.groups:
            axes = self.shared | group
            log_unroll = np.log(unroll) * axes
            mine = ~(a.moves & ~axes).any(1)
            instances = np.exp((log_unroll[:, None, :] * a.moves[None]).sum(2)) * mine
            some = (instances * (of_wide & ~gathers & in_sums)).sum(1)
            hard = (instances * (gathers & in_sums)).sum(1)
            single = (instances * (~of_wide & in_sums)).sum(1)
            here = np.exp(log_unroll.sum(1))
            reads = some + GATHERED * hard + 0.5 * single
            if not s.sums:
                reads = (instances * np.where(gathers, GATHERED, 1.0)).sum(1)
            in_flight = here * max(len(s.sums) / len(self.groups), 1)
            summing = bool((group & self.reduced).any())
            slow = np.maximum(1.0, LATENCY / in_flight) if summing else 1.0
            weight = max(self.weight / len(self.groups), 1.0)
            points = np.exp((np.log(np.maximum(rounds, 1)) * axes).sum(1))
            cycles = cycles + points * np.maximum(here * weight * slow, reads)
            vectors, gathered, singles = vectors + some, gathered + hard, singles + single
            body = np.maximum(body, here)
            width = np.maximum(width, np.exp((np.log(lanes) * axes).sum(1)))
        across = np.zeros(n, bool)
        if self.reduced.any():
            across = (walks.lanes[:, self.reduced] > 1).any(1)
        used, weight = width / vector, max(self.weight, 1.0)
        in_flight = body * max(len(s.sums) / len(self.groups), 1)
        if s.walked.is_map:  # what is computed of the sums
            tiles = np.exp((np.log(np.maximum(rounds, 1)) * self.shared).sum(1))
            cycles += tiles * np.exp((np.log(unroll) * self.shared).sum(1)) * self.after
        rate = m.flops / 2 / vector
        copies = np.zeros(n)
        for b, o in enumerate(s.operands):
            size = float(o.size(list(s.axes)))
            first = (a.operand == b).argmax()
            straight = bool((np.abs(a.step[first]) == 1).any())
            each = ELEMENT_COPIED if straight else ELEMENT_TURNED
            taken = (walks.staged | walks.copied)[:, b] & (not o.is_constant)
            copies = copies + np.where(taken, size * each, 0.0)
        stores = self._scattered(walks)
        results = float(np.prod(self.extents[self.shared])) if self.shared.any() else 1.0
        writes = np.where(walks.turned, 0.4 * results, np.where(stores > 0, 1.5 * results, 0.0))
        arithmetic = (cycles + copies + writes) / rate
        threads = float(max(s.threads, 1))
        split = np.where(walks.parallel, rounds, 1.0).prod(1)
        busiest = np.ceil(split / threads) * threads / np.maximum(split, 1.0)
        share = np.where(split > 1, busiest / threads, 1.0)
        times = np.stack(
            [arithmetic * share, l1 / m.l2_rate * share, l2 / m.l3_rate * share, l3 / m.dram_rate],
            1,
        )
        return times.max(1) + EXPOSED * (times.sum(1) - times.max(1)), {
            "times": times, "l1": l1, "l2": l2, "l3": l3, "working": working, "rounds": rounds,
            "chunk": chunk, "lines": lines, "elements": elements, "vectors": vectors,
            "gathered": gathered, "singles": singles, "body": body, "width": width, "used": used,
            "in_flight": in_flight, "across": across, "split": split, "busiest": busiest,
            "copies": copies, "stores": stores, "results": results, "packed": packed,
            "weight": weight, "of_wide": of_wide & in_sums, "single": ~of_wide & in_sums,
            "step": np.where(gathers, step, 1.0),
        }  # fmt: skip

    def _scattered(self, walks: Walks) -> Any:
        """Share of what is written that does not lie along the lanes."""
        a = self.accesses
        wide = walks.lanes > 1
        stored = a.stored
        if not stored.any():
            return np.zeros(len(walks))
        step = np.abs((a.step[None, stored] * wide[:, None, :]).sum(2))
        moved = (a.moves[None, stored] & wide[:, None, :]).any(2)
        return (moved & (step != 1) & ~walks.turned[:, None]).mean(1)

    def _table(self, walks: Walks, b: dict[str, Any]) -> dict[str, Any]:
        m, s, a = self.machine, self.space, self.accesses
        n, count = walks.unroll.shape
        one = np.ones(n)
        unroll, lanes = walks.unroll.astype(np.float64), walks.lanes.astype(np.float64)
        chunk, rounds = unroll * lanes, b["rounds"]
        wide = lanes > 1
        of_lanes = np.where(wide, unroll, 1.0).prod(1)
        rows = np.where(~wide & self.shared, unroll, 1.0).prod(1)
        reduced = np.where(self.reduced, chunk, 1.0).prod(1)
        waste = 1 - self.extents / np.maximum(rounds * chunk, 1)
        bodies = (1.0 + (self.extents % np.maximum(chunk, 1) > 0)) * one[:, None]
        per = b["body"] * b["weight"]
        tile_level = np.clip(self.shared.sum(), 0, count)
        tile = b["working"][:, tile_level]
        panel = b["working"][:, max(tile_level - 1, 0)]
        wanted = (b["elements"][:, 0] * a.itemsize).sum(1)
        high = np.where(~wide & self.shared, unroll, 1.0)
        byte_step = np.abs(a.step) * a.itemsize[:, None]
        colliding = (byte_step % ALIAS == 0) & (byte_step > 0)
        colliding = colliding[None] & ~b["packed"][:, :, None]
        collide = np.where(colliding, high[:, None, :], 1.0).max((1, 2), initial=1.0)
        largest = b["times"].max(1, keepdims=True)
        bound = np.log2(np.maximum(b["times"] / largest, 1e-4))
        per_operation = b["copies"] / self.operations
        order = np.argsort(walks.rank, axis=1)
        inner_rounds = np.take_along_axis(rounds, order, 1)
        innermost = inner_rounds[:, -1] if count else one
        bytes_at = b["elements"] * a.itemsize
        tile_bytes, all_bytes = bytes_at[:, tile_level], bytes_at[:, 0]
        unpacked = ~b["packed"]
        byte_step = np.abs(a.step) * a.itemsize[:, None]
        of_sums = (byte_step * self.reduced).max(1, initial=0.0)
        in_rows = ~wide & self.shared & (unroll > 1)
        of_rows = (byte_step[None] * in_rows[:, None, :]).max(2, initial=0.0)
        wide_step = np.where(b["of_wide"] & unpacked, of_sums, 0.0).max(1)
        single_step = np.where(b["single"] & unpacked, np.maximum(of_sums, of_rows), 0.0).max(1)
        lanes_rank = np.where(wide & self.shared, walks.rank, -1).max(1, initial=-1)
        rows_rank = np.where(in_rows, walks.rank, -1).max(1, initial=-1)
        outer_count = int(self.shared.sum())
        moved = one < 0
        if count:
            last = order[:, max(outer_count - 1, 0)]
            moved = (b["of_wide"] & a.moves[:, last].T).any(1)
        beside = float((~a.summed & ~a.stored).sum())

        def log_ratio(x: Any, size: float) -> Any:
            return np.log2(np.maximum(x, 1.0) / size)

        return {
            "log2 wide panel over l1": log_ratio((tile_bytes * b["of_wide"]).sum(1), m.l1_bytes),
            "log2 single panel over l1": log_ratio((tile_bytes * b["single"]).sum(1), m.l1_bytes),
            "log2 wide bytes over l2": log_ratio((all_bytes * b["of_wide"]).sum(1), m.l2_bytes),
            "log2 single bytes over l2": log_ratio((all_bytes * b["single"]).sum(1), m.l2_bytes),
            "log2 wide step over page": np.log2(1 + wide_step / ALIAS),
            "wide rows collide": (wide_step > 0) & (wide_step % ALIAS == 0),
            "log2 single step over page": np.log2(1 + single_step / ALIAS),
            "lanes outside": (lanes_rank >= 0) & (rows_rank > lanes_rank),
            "wide read again": ~moved,
            "log2 lane step": np.log2(np.clip(b["step"].max(1, initial=1.0), 1, 64)),
            "log2 loads of a result": one * np.log2(1 + beside),
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
            "log2 vectors a round": np.log2(of_lanes),
            "log2 rows a round": np.log2(rows),
            "log2 reduced round": np.log2(reduced),
            "lanes across": b["across"],
            "vector waste": np.where(wide, waste, 0.0).sum(1),
            "rows waste": np.where(wide, 0.0, waste).sum(1),
            "copies of code": np.log2(bodies).sum(1),
            "log2 code": np.log2(per),
            "loads per operation": b["vectors"] / per,
            "singles per operation": b["singles"] / per,
            "gathers per operation": b["gathered"] / per,
            "stores scattered": b["stores"],
            "turned": walks.turned,
            "staged": walks.staged.sum(1),
            "copied": walks.copied.sum(1),
            "log2 copied bytes per operation": np.log2(1 + 64 * per_operation),
            "parts": walks.part > 0,
            "log2 slices": np.log2(np.maximum(walks.slices, 1)),
            "colliding rows": np.log2(collide),
            "log2 tile bytes over l1": np.log2(tile / m.l1_bytes),
            "log2 tile bytes over l2": np.log2(tile / m.l2_bytes),
            "log2 panel bytes over l2": np.log2(panel / m.l2_bytes),
            "log2 bytes over l3": np.log2(b["working"][:, 0] / m.l3_bytes),
            "l1 misses per operation": np.log2(1e-3 + b["l1"] / self.operations),
            "l2 misses per operation": np.log2(1e-3 + b["l2"] / self.operations),
            "l3 misses per operation": np.log2(1e-3 + b["l3"] / self.operations),
            "line use": wanted
            / np.maximum(b["lines"][:, -1].sum(1) * 0 + b["lines"][:, 0].sum(1), 1),
            "log2 parallel rounds": np.log2(b["split"]),
            "imbalance": b["busiest"] - 1,
            "log2 threads": one * np.log2(max(s.threads, 1)),
            "log2 innermost rounds": np.log2(np.maximum(innermost, 1)),
            "arithmetic bound": bound[:, 0],
            "l1 bound": bound[:, 1],
            "l2 bound": bound[:, 2],
            "l3 bound": bound[:, 3],
        }


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
