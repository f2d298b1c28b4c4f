"""Results of loops that nobody reads, dropped with what only they need: a rewrite of graphs.

Knows that a value which a loop of fixed length hands from step to step is needed only if its last
one is read, or a step computes something needed from it: a counter that is not used, the tangent
of an argument without one. Refuses to know `while` loops: their condition decides whether they end.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.graph import Graph, Node, Op, Pick, users
from tilewright.ops.calculus import reached
from tilewright.ops.control import Scan
from tilewright.source import born_at
from tilewright.transforms.rewriting import applies


def drop_unread(graph: Graph) -> Graph:
    """The graph whose scans carry, stack and read no more than what is needed; the same object if
    none of them did. Sub-graphs come first."""
    if not applies(graph, Scan):
        return graph
    readers = users(graph)
    done: dict[Node, Node] = {}
    places: dict[Node, dict[int, int]] = {}
    for n in graph.nodes:
        args = [done[a] for a in n.args]
        op: Op = n.op.with_graphs(drop_unread) if n.op.graphs else n.op
        if isinstance(op, Scan):
            read = {u.op.item for u in readers[n] if isinstance(u.op, Pick)}
            op, args, places[n] = _narrowed(op, args, read)
        elif isinstance(op, Pick) and n.args[0] in places:
            op = Pick(places[n.args[0]][op.item])
        same = op == n.op and all(a is b for a, b in zip(args, n.args, strict=True))
        with born_at(n.source):
            done[n] = n if same else op.node(*args)
    outputs = tuple(done[n] for n in graph.outputs)
    unchanged = all(a is b for a, b in zip(outputs, graph.outputs, strict=True))
    return graph if unchanged else Graph(graph.name, graph.inputs, outputs)


def _narrowed(
    op: Scan, args: Sequence[Node], read: set[int]
) -> tuple[Scan, list[Node], dict[int, int]]:
    """The scan without the results that are neither `read` nor needed for one that is, its
    arguments, and where the results that are left stand now."""
    inputs, outputs, c = op.body.inputs, op.body.outputs, op.consts
    wanted = {k for k in range(len(outputs)) if k in read}
    while True:
        roots = [outputs[k] for k in sorted(wanted)]
        needed = {*roots, *reached(roots, inputs)}
        needed.update(a for n in list(needed) for a in n.args)
        grown = wanted | {k for k in range(op.carry) if inputs[c + k] in needed}
        if grown == wanted:
            break
        wanted = grown
    order = sorted(wanted)
    consts = [k for k in range(c) if inputs[k] in needed]
    carry = [c + k for k in order if k < op.carry]
    xs = [k for k in range(c + op.carry, len(inputs)) if inputs[k] in needed]
    left = [*consts, *carry, *xs]
    if not order or (len(left) == len(inputs) and len(order) == len(outputs)):
        return op, list(args), {k: k for k in range(len(outputs))}
    body = Graph(op.body.name, tuple(inputs[k] for k in left), tuple(outputs[k] for k in order))
    narrow = Scan(body, len(consts), len(carry), op.length, op.reverse)
    return narrow, [args[k] for k in left], {k: at for at, k in enumerate(order)}
