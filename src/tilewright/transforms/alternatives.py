"""Alternatives: computations that several algorithms do, and who chooses among them.

Knows what is told of such a computation, and that of an attention: the cuts of it. Refuses to know
which algorithm is the fastest (where nobody measured, each rewrite counts) and the algorithms of
convolutions (`winograd`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tilewright import dtypes
from tilewright.expr import is_static, static
from tilewright.graph import Graph, Node, Op, Type
from tilewright.ops.attention import Attention, AttentionGradient
from tilewright.ops.attention_blocks import VECTOR_BYTES, Blocks, Extents
from tilewright.target import Target
from tilewright.transforms.rewriting import applies, rewritten


class Computation(Protocol):
    """An op and its arguments' types that several algorithms compute."""

    @property
    def op(self) -> Op: ...

    @property
    def types(self) -> tuple[Type, ...]:
        """Of the arguments."""
        ...

    @property
    def constants(self) -> frozenset[int]:
        """The arguments that are constant: what is made of them is made once."""
        ...

    @property
    def text(self) -> str:
        """JSON that is the same for equal computations only."""
        ...

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Their names, by which measurements are kept; the others are compared with the first."""
        ...

    @property
    def counted(self) -> str:
        """The algorithm where nothing was measured."""
        ...


Choose = Callable[[Computation], str | None]
"""The name of the algorithm for a computation; None where nobody knows better than the count."""


def by_count(computation: Computation) -> str | None:
    """What is chosen without measurements."""
    return None


def described(t: Type) -> list[Any]:
    """A type as JSON."""
    return [dtypes.short(t.dtype), *map(static, t.shape)]


# -- attention -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cuts:
    """An attention, or its gradient, that may be cut into blocks of several sizes."""

    op: Attention | AttentionGradient
    types: tuple[Type, ...]
    constants: frozenset[int] = frozenset()
    twice: bool = False
    """Whether the machine starts two multiplications of a vector in a cycle."""

    @property
    def extents(self) -> Extents:
        gradient = isinstance(self.op, AttentionGradient)
        whole = self.op.attention if isinstance(self.op, AttentionGradient) else self.op
        return replace(whole.cut(self.types[0], gradient), twice=self.twice)

    @property
    def blocks(self) -> Mapping[str, Blocks]:
        """The cuts by their names, the machine's usual one first."""
        return {str(b): b for b in self.extents.alternatives}

    @property
    def algorithms(self) -> tuple[str, ...]:
        return tuple(self.blocks)

    @property
    def counted(self) -> str:
        return self.algorithms[0]

    @property
    def text(self) -> str:
        known = {"op": repr(self.op), "types": [described(t) for t in self.types]}
        return json.dumps(known, separators=(",", ":"))


def cut(graph: Graph, choose: Choose = by_count, target: Target | None = None) -> Graph:
    """The graph with attentions and their gradients cut as `choose` says, or as is usual on the
    machine; the same object if all are cut as they are without. Only static shapes."""
    twice = target is not None and target.multiplies > 1 and target.vector_bytes == VECTOR_BYTES

    def chosen(op: Op, args: Sequence[Node]) -> Node | None:
        if not isinstance(op, (Attention, AttentionGradient)) or op.blocks is not None:
            return None
        cuts = Cuts(op, tuple(a.type for a in args), twice=twice)
        if not all(is_static(n) for t in cuts.types for n in t.shape) or len(cuts.blocks) < 2:
            return None
        blocks = cuts.blocks[choose(cuts) or cuts.counted]
        usual = replace(cuts.extents, twice=False).usual
        return None if blocks == usual else replace(op, blocks=blocks).node(*args)

    return rewritten(graph, chosen) if applies(graph, Attention, AttentionGradient) else graph
