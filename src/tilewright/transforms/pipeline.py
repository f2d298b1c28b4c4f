"""The pipeline from a traced graph to a scheduled program, as a list one can read aloud."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tilewright import graph as graphs
from tilewright import kernel as kernels
from tilewright import loops
from tilewright.array import Array
from tilewright.expr import static
from tilewright.graph import Graph, Node, Type
from tilewright.ops import custom
from tilewright.options import Options, show
from tilewright.target import Target
from tilewright.transforms.alternatives import Choose, Computation, cut
from tilewright.transforms.assemble import Assembly, Scheduler, assemble
from tilewright.transforms.attention import attention
from tilewright.transforms.extremes import extremes
from tilewright.transforms.fourier import fourier
from tilewright.transforms.fusion import Edge
from tilewright.transforms.overlap import overlap
from tilewright.transforms.pointwise_loops import pointwise_loops
from tilewright.transforms.simplify import simplify
from tilewright.transforms.unread import drop_unread
from tilewright.transforms.winograd import winograd


@dataclass(frozen=True)
class Pass:
    """A rewrite of graphs: its name, the function, what it is for, whether options want it, and
    whether it asks somebody to `choose` (`alternatives.Choose`) or what the machine (`fits`) is."""

    name: str
    run: Callable[..., Graph]
    why: str
    wanted: Callable[[Options], bool] = lambda options: True
    asks: bool = False
    fits: bool = False


GRAPH: Final[tuple[Pass, ...]] = (
    Pass(
        "inline",
        lambda g: custom.inline(g, Array.wrap),
        "put the bodies of calls with rules of their own in place",
    ),
    Pass("simplify", simplify, "fold constants, merge movements, drop what changes nothing"),
    Pass("unread", drop_unread, "carry through scans only what somebody reads"),
    Pass(
        "pointwise loops",
        pointwise_loops,
        "run all steps of an elementwise loop on a few elements at a time, in registers",
    ),
    Pass("attention", attention, "softmax(q kT + mask) v as one op, which skips hidden keys"),
    Pass("extremes", extremes, "argmax of long lines: of blocks first, then in one block"),
    Pass("overlap", overlap, "convolve zeros no more: products of all elements, added up"),
    Pass(
        "winograd",
        winograd,
        "convolve windows of 3 by 3 in fewer multiplications where that is faster",
        lambda options: options.winograd,
        asks=True,
    ),
    Pass(
        "fourier",
        fourier,
        "convolve large windows by transforms of tiles where that is faster",
        lambda options: options.winograd,
        asks=True,
    ),
    Pass(
        "blocks",
        cut,
        "attend to as many keys at a time as suits the machine, or was measured to be best",
        asks=True,
        fits=True,
    ),
)


def run(passes: Sequence[Pass], graph: Graph, options: Options) -> Graph:
    """Apply the passes in order; print a pass's result if it changed something."""
    show("graph", graph)
    for p in passes:
        if not p.wanted(options):
            continue
        after = p.run(graph)
        if after is not graph:
            show("graph", f"after {p.name}:", after)
        graph = after
        if options.verify:
            graphs.verify(graph)
    return graph


def _passes(choose: Choose | None, target: Target | None) -> tuple[Pass, ...]:
    """The passes for a machine, where somebody may choose algorithms."""
    told: dict[Pass, dict[str, Any]] = {p: {} for p in GRAPH}
    for p, given in told.items():
        if p.asks and choose is not None:
            given["choose"] = choose
        if p.fits:
            given["target"] = target
    return tuple(
        replace(p, run=functools.partial(p.run, **given)) if given else p
        for p, given in told.items()
    )


def computations(
    graph: Graph, options: Options, target: Target | None = None
) -> tuple[Computation, ...]:
    """What of a graph several algorithms compute, each once."""
    found: dict[Computation, None] = {}

    def choose(c: Computation) -> str | None:
        return found.setdefault(c)

    run(_passes(choose, target), graph, options)
    return tuple(found)


def lower(
    graph: Graph, scheduler: Scheduler, options: Options, target: Target | None = None
) -> tuple[Graph, Assembly]:
    """The rewritten graph and the program made from it, for a machine if it is known: it may call
    the LAPACK of that. A scheduler that has a method `algorithm` chooses algorithms, too
    (`alternatives.Choose`)."""
    graph = run(_passes(getattr(scheduler, "algorithm", None), target), graph, options)
    assembly = assemble(graph, scheduler, target.lapack if target is not None else None)
    if options.verify:
        first = assembly.preparation
        for s in (*assembly.kernels, *(first.kernels if first else ())):
            kernels.verify(s.kernel)
        before = first.program if first else None
        for f in (*assembly.program.functions, *(before.functions if before else ())):
            loops.verify(f)
    for s in assembly.kernels:
        show("kernels", s.kernel, "\n  schedule", s.schedule)
    return graph, assembly


def explain(graph: Graph, assembly: Assembly) -> str:
    """Every edge of the graph: kept in memory, passed on inside a kernel, or inlined; with the
    reason and the bytes."""
    kept = {e.node for e in assembly.edges}
    inlined = [n for n in graph.nodes if n.args and n not in kept and n not in graph.inputs]
    first = assembly.preparation
    count = len(assembly.kernels)
    lines = [
        f"{graph.name}: {count} kernel{'' if count == 1 else 's'},"
        f" {assembly.arena_bytes:,} bytes of arena",
        *(f"  {s.kernel.name}    schedule {s.schedule}" for s in assembly.kernels),
    ]
    sections = {
        "computed ahead of all calls, from constants:": [
            f"  {t!r}: {_size(t):,} bytes" for t in (first.results if first else ())
        ],
        "kept in memory:": [_edge(e) for e in assembly.edges if e.nbytes],
        "passed on inside a kernel, in registers or a row buffer:": [
            _edge(e) for e in assembly.edges if not e.nbytes
        ],
        "inlined into their readers:": [
            f"  {_where(n)}: saves {2 * _nbytes(n):,} bytes of traffic" for n in inlined
        ],
    }
    lines += [line for title, of in sections.items() if of for line in (title, *of)]
    return "\n".join(lines)


def _edge(e: Edge) -> str:
    readers = ", ".join(dict.fromkeys(n.op.name for n in e.readers)) or "the caller"
    size = f", {e.nbytes:,} bytes" if e.nbytes else ""
    return f"  {_where(e.node)} -> {readers}: {e.reason} ({e.kernel}{size})"


def _where(n: Node) -> str:
    return f"{n.op.name} {n.type!r}" + (f" at {n.source}" if n.source else "")


def _nbytes(n: Node) -> int:
    return sum(map(_size, n.type if isinstance(n.type, tuple) else (n.type,)))


def _size(t: Type) -> int:
    return static(t.size) * t.dtype.itemsize
