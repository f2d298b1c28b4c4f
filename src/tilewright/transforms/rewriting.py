"""Rewriting graphs: one rule at every node, the first first.

Knows how a graph is rebuilt around what a rule changes, sub-graphs of control flow included.
Refuses to know any rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.graph import Graph, Node, Op
from tilewright.source import born_at

Rule = Callable[[Op, Sequence[Node]], Node | None]


def rewritten(graph: Graph, rule: Rule) -> Graph:
    """The graph with `rule(op, args)` in place of every node that it says something about; the same
    object if it does not. Arguments were rewritten before, so what a rule makes is not seen again.
    """
    done: dict[Node, Node] = {}
    for n in graph.nodes:
        args = [done[a] for a in n.args]
        with born_at(n.source):
            op = n.op.with_graphs(lambda g: rewritten(g, rule)) if n.op.graphs else n.op
            found = rule(op, args)
            if found is None:
                same = op is n.op and tuple(args) == n.args
                found = n if same else op.node(*args)
        done[n] = found
    outputs = tuple(done[n] for n in graph.outputs)
    unchanged = all(a is b for a, b in zip(outputs, graph.outputs, strict=True))
    return graph if unchanged else Graph(graph.name, graph.inputs, outputs)


def applies(graph: Graph, *kinds: type[Op]) -> bool:
    """Whether a graph has such an op, or one with sub-graphs that may: a look at all nodes takes a
    tenth of what rewriting them takes."""
    return any(isinstance(n.op, kinds) or n.op.graphs for n in graph.nodes)
