"""Parallel loops that are worth it become functions of their own, for the pool to run in chunks.

Knows what a loop's body uses from outside, which buffers are private to an iteration, and roughly
what an iteration costs. Refuses to know the pool and how text is printed: a region is an ordinary
`Function` over a stretch of one axis, and where the loop was there is a `Call`.

Where a loop has few iterations, each with a parallel loop inside, both are divided as one:

    parallel i in 3: prepare; parallel j in 20: s(i, j)     ->     60 iterations

A chunk that begins in the middle of i prepares again, which it may since that writes memory of the
iteration's own only.

Only iterations that Loops calls independent are divided, and an iteration is the same code in any
chunk, so results have the same bits for any number of threads. What the costs say changes the
speed alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tilewright import forks
from tilewright.codegen.pool import PARALLEL
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Extent,
    Load,
    Var,
    as_index,
    is_static,
    product,
    static,
    walk,
)
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    Call,
    For,
    Function,
    If,
    Let,
    Program,
    Ref,
    Stmt,
    Store,
    While,
    block,
    expressions,
    statements,
)

ENOUGH: Final = 64
"""Iterations from which on threads have equally many, near enough."""
NEGLIGIBLE: Final = 1 / 256
"""A preparation that takes no more of the loop's time may be repeated for every chunk."""
REPEATED: Final = 32
"""A chunk that may repeat one takes so many times as long at least."""

WORTH_NS: Final = 8_000
"""A loop that takes less is not divided. A fork and join takes some 200 ns, a cold one 10 us."""
CHUNK_NS: Final = 2_000
"""What a chunk takes at least, estimated."""

OPERATION_NS: Final = 0.3
"""One vector or scalar operation, load or store: about a cycle."""
BYTE_NS: Final = 0.02
"""One byte that comes from, or goes to, the second level cache or beyond."""
LIBRARY_NS: Final = 1_000
ROUNDS: Final = 16
"""Rounds of a loop whose number is not known."""


@dataclass(frozen=True)
class Region:
    """A parallel loop as a function: its buffers are the parameters, followed by `scalars` bound
    outside the loop, by the places on the `outer` axes of loops divided with it, and by the stretch
    [begin, end) to run of the `inner` axis, of which each way through the body may have its own.

    `unit` iterations share a preparation; 1 if it is cheap or there is none. A chunk has at least
    `grain` iterations, which are worth `weight` smallest chunks, and at most `limit` threads take
    part (0: as many as the caller's)."""

    function: Function
    scalars: tuple[Axis | Var, ...]
    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]
    unit: int
    grain: int
    weight: int
    limit: int
    of: Function
    """The function that the loop was in."""

    @property
    def extent(self) -> Extent:
        """The iterations of all loops together."""
        return product([a.extent for a in (*self.outer, self.inner[0])])


def outline(program: Program, limit: int = 0) -> tuple[Program, dict[str, Region]]:
    """The program with calls where worthwhile parallel loops were, and the regions called, by
    name. A function that is nothing but such a call is none any more: who called it has the region
    run, and a program that is but one region has it as its entry. Linear in the program; the very
    program if it has no such loop."""
    functions: list[Function] = []
    regions: dict[str, Region] = {}
    callees = {f.name: f for f in program.functions}
    direct: dict[str, tuple[Function, Call]] = {}
    for f in program.functions:
        inside = [*statements(f.body)]
        if any(_is_parallel(s) or (isinstance(s, Call) and s.function in direct) for s in inside):
            work = _Outliner(f, limit, callees, regions, direct)
            body = work.rewritten(f.body, {v.serial: v for v in f.numbers})
            if body is not f.body:
                functions += (r.function for r in work.found)
                f = replace(f, body=body)
        functions.append(f)
        match f.body:
            case Block((Call(name) as call,)) if name in regions and _passes_on(f, call):
                direct[f.name] = f, call
    if not regions:
        return program, regions
    calls = [s for f in functions for s in statements(f.body) if isinstance(s, Call)]
    called = {s.function for s in calls}
    kept = [f for f in functions[:-1] if f.name not in direct or f.name in called]
    made = merged(Program((*kept, functions[-1])))
    for name in regions.keys() - {f.name for f in made.functions}:
        regions[made.entry.name] = replace(regions.pop(name), function=made.entry)
    return made, regions


def merged(program: Program) -> Program:
    """A program that is a single call becomes the function it calls: a function more costs code
    generation as much as a small loop does."""
    *others, entry = program.functions
    match entry.body:
        case Block((Call(name, args, None) as call,)) if _passes_on(entry, call):
            called = next((f for f in others if f.name == name), None)
        case _:
            return program
    calls = [s for f in others for s in statements(f.body) if isinstance(s, Call)]
    if called is None or called.numbers or any(s.function == name for s in calls):
        return program
    passed = {a.buffer: b for a, b in zip(args, called.params, strict=True)}  # type: ignore[union-attr]
    if len(passed) < len(args):
        return program
    params = tuple(passed.get(b, b) for b in entry.params)
    whole = Function(entry.name, params, called.body, called.sources)
    return Program((*(f for f in others if f is not called), whole))


def _passes_on(f: Function, call: Call) -> bool:
    """Whether a function passes what it gets to another, and nothing else."""
    start = as_index(0)
    return not f.numbers and all(isinstance(a, Ref) and a.offset is start for a in call.args)


def _is_parallel(s: Stmt) -> bool:
    return isinstance(s, For) and s.kind == "parallel"


class _Outliner:
    """The regions of one function."""

    def __init__(
        self,
        f: Function,
        limit: int,
        callees: Mapping[str, Function],
        regions: dict[str, Region],
        direct: Mapping[str, tuple[Function, Call]],
    ) -> None:
        self.function, self.limit, self.callees, self.regions = f, limit, callees, regions
        self.direct = direct
        self.found: list[Region] = []
        self.moved: set[Buffer] = set()

    @forks.cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """What the function gets and declares."""
        own = [s.buffer for s in statements(self.function.body) if isinstance(s, Alloc)]
        return (*self.function.params, *own)

    def only_in(self, s: Stmt, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Those that nothing in the function but a statement uses."""
        if not buffers:
            return []
        inside, everywhere = _uses(s), _uses(self.function.body)
        return [b for b in buffers if inside[b] == everywhere[b]]

    def rewritten(self, s: Stmt, bound: dict[int, Axis | Var]) -> Stmt:
        """The statement with regions called; `bound` are the scalars in scope, by serial."""
        match s:
            case For(axis, body, kind, lanes):
                if kind == "parallel":
                    call = self.region(s, bound)
                    if call is not None:
                        return call
                inner = self.rewritten(body, {**bound, axis.serial: axis})
                return s if inner is body else For(axis, inner, kind, lanes)  # type: ignore[arg-type]
            case While(condition, body):
                inner = self.rewritten(body, bound)
                return s if inner is body else While(condition, inner)  # type: ignore[arg-type]
            case If(condition, then, otherwise):
                ways = (self.rewritten(then, bound), self.rewritten(otherwise, bound))
                return s if ways == (then, otherwise) else If(condition, *ways)  # type: ignore[arg-type]
            case Block(inside):
                return self.block(s, inside, dict(bound))
            case Call(name, args, None) if name in self.direct:
                f, call = self.direct[name]
                passed = dict(zip(f.params, args, strict=True))
                return Call(call.function, tuple(passed[a.buffer] for a in call.args), None)  # type: ignore[union-attr]
        return s

    def block(self, whole: Block, inside: Sequence[Stmt], bound: dict[int, Axis | Var]) -> Stmt:
        after: list[Stmt] = []
        for t in inside:
            after.append(self.rewritten(t, bound))
            if isinstance(t, Let):
                bound[t.var.serial] = t.var
        if all(a is b for a, b in zip(after, inside, strict=True)):
            return whole
        return Block(tuple(t for t in after if not self.is_moved(t)))

    def is_moved(self, s: Stmt) -> bool:
        """Whether it declares a buffer that a region declares for itself now."""
        return isinstance(s, Alloc) and s.buffer in self.moved

    def region(self, s: For, bound: Mapping[int, Axis | Var]) -> Call | None:
        """The call of a region made from a parallel loop, if the loop is worth it."""
        inside = [*statements(s)]
        values = [e for t in inside for e in expressions(t)]
        used = s.writes.union(*(e.reads for e in values))
        declared = {t.buffer for t in inside if isinstance(t, Alloc)}
        # In the function's order: that of sets is another in every process.
        outer = [b for b in self.buffers if b in used and b not in declared]
        private = self.only_in(s, [b for b in outer if b.scope in ("stack", "registers")])
        shared = tuple(b for b in outer if b not in private)
        if any(b.scope == "registers" for b in shared):
            return None  # a register has no address
        nest = _nest(s)
        work = self.work(s, nest, shared)
        if work is None:
            return None
        self.moved.update(private)
        body = block(*map(Alloc, private), nest.body)
        outside = frozenset().union(*(e.free for e in values))
        scalars = tuple(v for serial, v in bound.items() if serial in outside)
        name = f"{self.function.name}.{len(self.found)}"
        function = Function(name, shared, body)  # type: ignore[arg-type]
        inner = tuple(loop.axis for loop in nest.inner)
        region = Region(function, scalars, nest.outer, inner, *work, self.limit, self.function)
        self.found.append(region)
        self.regions[name] = region
        return Call(name, (*(Ref(b, as_index(0)) for b in shared), *scalars), None)

    def work(self, s: For, nest: _Nest, shared: Sequence[Buffer]) -> tuple[int, int, int] | None:
        """A region's unit, grain and weight; None if the whole loop is not worth dividing."""
        cost = cost_of(s.body, self.callees)
        trips = static(s.axis.extent) if is_static(s.axis.extent) else ROUNDS
        traffic = sum(min(b.nbytes, trips * cost.touched[b]) for b in shared)
        whole = max(trips * cost.ns, traffic * BYTE_NS)
        if is_static(s.axis.extent) and (whole < WORTH_NS or nest.count < 2):
            return None
        count = nest.count if nest.outer else trips
        unit, least = 1, float(CHUNK_NS)
        if nest.outer:
            prepared = cost_of(nest.body, self.callees, nest.inner).ns
            if prepared > NEGLIGIBLE * whole:
                unit = static(nest.inner[0].axis.extent)
            else:
                least = max(least, REPEATED * prepared)
        grain = max(1, round(least * count / whole)) if whole else 1
        weight = max(1, round(grain * whole / count / CHUNK_NS)) if CHUNK_NS else 1
        return unit, grain, weight


@dataclass(frozen=True)
class _Nest:
    """Loops that are divided as one: the axes of those outside, the innermost ones, one on each way
    through the body, and the body of a round of all those outside."""

    outer: tuple[Axis, ...]
    inner: tuple[For, ...]
    body: Stmt

    @property
    def count(self) -> int:
        """The iterations of all loops together; 0 if that is not known."""
        extents = [a.extent for a in (*self.outer, self.inner[0].axis)]
        return math.prod(map(static, extents)) if all(map(is_static, extents)) else 0


def _nest(s: For) -> _Nest:
    """A parallel loop, with those inside it as far as it has too few iterations without them."""
    nest, alone = _Nest((), (s,), Block((s,))), True
    while alone and 0 < nest.count < ENOUGH:
        (last,) = nest.inner
        inside = _alternatives(last.body, frozenset(), frozenset())
        extents = {loop.axis.extent for loop in inside}
        if len(extents) != 1 or not all(is_static(n) and static(n) > 1 for n in extents):
            break
        nest = _Nest((*nest.outer, last.axis), inside, last.body)
        alone = last.body.statements == inside  # else each round of these would prepare again
    return nest


def _alternatives(s: Stmt, own: frozenset[Buffer], read: frozenset[Buffer]) -> tuple[For, ...]:
    """The parallel loops, one at the end of each way through `s`, for which all else may be done
    again: it writes what is its `own`, and it does not `read` what the loops write."""
    match s:
        case For(_, _, "parallel"):
            return () if read & s.writes - own else (s,)
        case If(condition, then, otherwise):
            read |= condition.reads
            ways = [_alternatives(t, own, read) for t in (then, otherwise)]
            return (*ways[0], *ways[1]) if all(ways) else ()
        case Block((*before, last)):
            own |= {t.buffer for t in before if isinstance(t, Alloc)}
            read |= {b for t in before for u in statements(t) for b in _reads(u)}
            return _alternatives(last, own, read) if all(t.writes <= own for t in before) else ()
    return ()


def _reads(s: Stmt) -> frozenset[Buffer]:
    """The buffers that a statement itself reads, or may have a function read."""
    passed = frozenset(s.targets()) if isinstance(s, Call) else frozenset[Buffer]()
    return passed.union(*(e.reads for e in expressions(s)))


def _uses(root: Stmt) -> Counter[Buffer]:
    """How many statements inside read or write each buffer."""
    found: Counter[Buffer] = Counter()
    for s in statements(root):
        found.update(frozenset(s.targets()).union(*(e.reads for e in expressions(s))))
    return found


# -- costs ---------------------------------------------------------------------------------------


@dataclass
class Cost:
    """Nanoseconds of operations, and the bytes that loads and stores move for each buffer."""

    ns: float = 0.0
    touched: Counter[Buffer] = field(default_factory=Counter)


def cost_of(s: Stmt, callees: Mapping[str, Function], without: Sequence[Stmt] = ()) -> Cost:
    """What running a statement once costs, `without` some of those inside."""
    cost = Cost()
    _count(s, 1, 1, cost, callees, without)
    return cost


def _count(
    s: Stmt,
    trips: int,
    lanes: int,
    cost: Cost,
    callees: Mapping[str, Function],
    without: Sequence[Stmt],
) -> None:
    """Add what a statement costs that runs so many times, in so many lanes at once."""
    if s in without:
        return
    inner: Sequence[Stmt] = s.inner
    match s:
        case For(axis, _, kind, width):
            if kind == "vector":
                lanes = width
            elif kind != "matrix":
                trips *= static(axis.extent) if is_static(axis.extent) else ROUNDS
        case While():
            trips *= ROUNDS
        case If():
            inner = ()
            ways = (Cost(), Cost())
            for t, way in zip((s.then, s.otherwise), ways, strict=True):
                _count(t, trips, lanes, way, callees, without)
            longer = max(ways, key=lambda way: way.ns)
            cost.ns += longer.ns
            cost.touched += longer.touched
        case Call(_, _, str()):
            cost.ns += trips * LIBRARY_NS
        case Call(function):
            inner = (callees[function].body,)
    for t in inner:
        _count(t, trips, lanes, cost, callees, without)
    operations = 0
    for e in walk(*expressions(s)):
        if isinstance(e, Apply):
            operations += e.op.cost
        elif isinstance(e, Load) and e.buffer.scope != "registers":
            operations += 1
            cost.touched[e.buffer] += trips * lanes * e.buffer.dtype.itemsize
    if isinstance(s, (Store, Accumulate)) and s.buffer.scope != "registers":
        operations += 1
        cost.touched[s.buffer] += trips * lanes * s.buffer.dtype.itemsize
    cost.ns += trips * operations * OPERATION_NS


# -- text ----------------------------------------------------------------------------------------


ENVIRONMENT: Final = "ptr %env, i64 %begin, i64 %end"
"""The parameters of what the pool runs: its arguments, 8 bytes each, and a stretch of rounds. The
entry of a program has them too, and 0 and 0 to have it do everything: where it is a region, it has
the pool run itself."""
DECLARATION: Final = f"declare void @{PARALLEL}(ptr, ptr, i64, i64, i64, i64, i64)"
ROUND_ENDS: Final = (
    "  %stop = add i64 %base, %last",
    "  %more = icmp ult i64 %stop, %end",
    "  br i1 %more, label %next, label %out",
)
"""LLVM IR at the end of a round of the loops around a region (`round_begins`)."""


def divided(region: Region, env: str, values: Sequence[str], extent: str) -> list[str]:
    """LLVM IR that fills the environment `env`, 8 bytes for each argument, and has the pool run
    the region over `extent` iterations."""
    lines = list[str]()
    for k, x in enumerate(values):
        lines += [
            f"  {env}.{k} = getelementptr i64, ptr {env}, i64 {k}",
            f"  store {x}, ptr {env}.{k}",
        ]
    return [*lines, _run(region, region.function.name, env, extent)]


def _run(region: Region, name: str, env: str, extent: str) -> str:
    how = ", ".join(f"i64 {n}" for n in (region.unit, region.grain, region.weight, region.limit))
    return f"  call void @{PARALLEL}(ptr @{name}, ptr {env}, i64 {extent}, {how})"


def divided_itself(region: Region, name: str, part: str) -> list[str]:
    """LLVM IR at the beginning of a region that is the entry, called `name`: asked for everything
    it has the pool run it, and for a stretch it goes on in the block `part`."""
    return [
        "  %all = icmp eq i64 %begin, %end",
        f"  br i1 %all, label %divide, label %{part}",
        "divide:",
        _run(region, name, "%env", str(region.extent)),
        "  ret void",
        f"{part}:",
    ]


def unpacked(parameters: Sequence[str]) -> list[str]:
    """LLVM IR that reads parameters, each a type and a name, from the environment."""
    lines = []
    for k, x in enumerate(parameters):
        kind, name = x.split(" ")
        lines += [
            f"  {name}.place = getelementptr i64, ptr %env, i64 {k}",
            f"  {name} = load {kind}, ptr {name}.place",
        ]
    return lines


def outer_places(region: Region) -> dict[Axis, str]:
    """What the numbers on the axes of loops around a region are called."""
    return {a: f"%o{k}" for k, a in enumerate(region.outer)}


def round_begins(region: Region, before: str, last: str) -> list[str]:
    """LLVM IR at the beginning of a round of the loops around a region, which follow the block
    `before` and end in the block `last`: the round's numbers on the outer axes, and its stretch
    [%first, %last)."""
    size, lines, rest = static(region.inner[0].extent), list[str](), "%round"
    for a, name in reversed(outer_places(region).items()):
        lines += [
            f"  {name} = urem i64 {rest}, {a.extent}",
            f"  {name}.rest = udiv i64 {rest}, {a.extent}",
        ]
        rest = f"{name}.rest"
    return [
        f"  %at = phi i64 [ %begin, %{before} ], [ %stop, %{last} ]",
        f"  %round = udiv i64 %at, {size}",
        f"  %base = mul i64 %round, {size}",
        "  %first = sub i64 %at, %base",
        "  %left = sub i64 %end, %base",
        f"  %partly = icmp ult i64 %left, {size}",
        f"  %last = select i1 %partly, i64 %left, i64 {size}",
        *lines,
    ]
