"""Parallel loops that are worth it become functions of their own, for the pool to run in chunks.

Knows what a loop's body uses from outside, which buffers are private to an iteration, and roughly
what an iteration costs. Refuses to know the pool and how text is printed: a region is an ordinary
`Function` over a stretch of one axis, and where the loop was there is a `Call`.

Only iterations that Loops calls independent are divided, and an iteration is the same code in any
chunk, so results have the same bits for any number of threads. What the costs say changes the
speed alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tilewright.codegen.pool import PARALLEL
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Load,
    Var,
    as_index,
    is_static,
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
    outside the loop and by the stretch [begin, end) of `axis` to run. A chunk has at least `grain`
    iterations, and at most `limit` threads take part (0: as many as the caller's)."""

    function: Function
    scalars: tuple[Axis | Var, ...]
    axis: Axis
    grain: int
    limit: int


def outline(program: Program, limit: int = 0) -> tuple[Program, dict[str, Region]]:
    """The program with calls where worthwhile parallel loops were, and the regions called, by
    name. Linear in the program; the very program if it has no such loop."""
    functions: list[Function] = []
    regions: dict[str, Region] = {}
    callees = {f.name: f for f in program.functions}
    for f in program.functions:
        if any(isinstance(s, For) and s.kind == "parallel" for s in statements(f.body)):
            work = _Outliner(f, limit, callees, regions)
            body = work.rewritten(f.body, {})
            if body is not f.body:
                functions += (r.function for r in work.found)
                f = Function(f.name, f.params, body, f.sources)  # type: ignore[arg-type]
        functions.append(f)
    if not regions:
        return program, regions
    return Program(tuple(functions)), regions


class _Outliner:
    """The regions of one function."""

    def __init__(
        self,
        f: Function,
        limit: int,
        callees: Mapping[str, Function],
        regions: dict[str, Region],
    ) -> None:
        self.name, self.limit, self.callees, self.regions = f.name, limit, callees, regions
        self.found: list[Region] = []
        self.uses = _uses(f.body)
        self.moved: set[Buffer] = set()

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
        uses = _uses(s)
        declared = {t.buffer for t in statements(s) if isinstance(t, Alloc)}
        local = ("stack", "registers")
        private = [
            b for b in uses
            if b not in declared and b.scope in local and uses[b] == self.uses[b]
        ]  # fmt: skip
        shared = tuple(b for b in uses if b not in declared and b not in private)
        if any(b.scope == "registers" for b in shared):
            return None  # a register has no address
        grain = self.grain(s, shared)
        if grain is None:
            return None
        self.moved.update(private)
        body = block(*map(Alloc, private), *s.body.statements)
        outside = frozenset().union(*(e.free for t in statements(s) for e in expressions(t)))
        scalars = tuple(v for serial, v in bound.items() if serial in outside)
        name = f"{self.name}.{len(self.found)}"
        loop = For(s.axis, body, s.kind, s.lanes)
        region = Region(Function(name, shared, Block((loop,))), scalars, s.axis, grain, self.limit)
        self.found.append(region)
        self.regions[name] = region
        return Call(name, (*(Ref(b, as_index(0)) for b in shared), *scalars), None)

    def grain(self, s: For, shared: Sequence[Buffer]) -> int | None:
        """Iterations of a chunk, or None if the whole loop is not worth dividing."""
        cost = Cost()
        _count(s.body, 1, 1, cost, self.callees)
        trips = static(s.axis.extent) if is_static(s.axis.extent) else ROUNDS
        traffic = sum(min(b.nbytes, trips * cost.touched[b]) for b in shared)
        whole = max(trips * cost.ns, traffic * BYTE_NS)
        if trips < 2 or (whole < WORTH_NS and is_static(s.axis.extent)):
            return None
        return max(1, round(CHUNK_NS * trips / whole)) if whole else None


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


def _count(s: Stmt, trips: int, lanes: int, cost: Cost, callees: Mapping[str, Function]) -> None:
    """Add what a statement costs that runs so many times, in so many lanes at once."""
    inner: Sequence[Stmt] = s.inner
    match s:
        case For(axis, _, kind, width):
            if kind == "vector":
                lanes = width
            else:
                trips *= static(axis.extent) if is_static(axis.extent) else ROUNDS
        case While():
            trips *= ROUNDS
        case Call(_, _, str()):
            cost.ns += trips * LIBRARY_NS
        case Call(function):
            inner = (callees[function].body,)
    for t in inner:
        _count(t, trips, lanes, cost, callees)
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


DECLARATION: Final = f"declare void @{PARALLEL}(ptr, ptr, i64, i64, i64)"


def divided(region: Region, env: str, values: Sequence[str], extent: str) -> list[str]:
    """LLVM IR that fills the environment `env`, 8 bytes for each argument, and has the pool run
    the region's task over `extent` iterations."""
    lines = []
    for k, x in enumerate(values):
        lines += [
            f"  {env}.{k} = getelementptr i64, ptr {env}, i64 {k}",
            f"  store {x}, ptr {env}.{k}",
        ]
    what = f"ptr @{region.function.name}.task, ptr {env}"
    how = f"i64 {extent}, i64 {region.grain}, i64 {region.limit}"
    return [*lines, f"  call void @{PARALLEL}({what}, {how})"]


def task(region: Region, types: Sequence[str]) -> str:
    """LLVM IR of what the pool runs: the region with arguments, of these types, that it finds in
    its environment."""
    lines = []
    given = []
    for k, t in enumerate(types):
        lines += [
            f"  %e{k} = getelementptr i64, ptr %env, i64 {k}",
            f"  %a{k} = load {t}, ptr %e{k}",
        ]
        given.append(f"{t} %a{k}")
    given += ["i64 %begin", "i64 %end"]
    name = region.function.name
    return "\n".join([
        f"define internal void @{name}.task(ptr %env, i64 %begin, i64 %end) {{",
        *lines,
        f"  call void @{name}({', '.join(given)})",
        "  ret void",
        "}",
    ])  # fmt: skip
