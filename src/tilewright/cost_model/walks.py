"""Walks: how the axes of a kernel are walked by many schedules, as arrays.

Knows the numbers that stand for loops. Refuses to know which schedules there are (`spaces`) and
what follows from them (`features`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from tilewright.expr import Axis, Expr, Reduce
from tilewright.kernel import Kernel
from tilewright.transforms.products import Operand


class Nest(Protocol):
    """A kernel as its walks see it: as it is and as its words are summed (`walked`); all its axes
    with their extents, int64 [axes]; what it sums and reads, and which reads are inside sums."""

    kernel: Kernel
    walked: Kernel
    axes: tuple[Axis, ...]
    number: dict[Axis, int]
    extents: Any
    sums: tuple[Reduce, ...]
    operands: tuple[Operand, ...]
    summed: frozenset[Expr]
    threads: int


@dataclass(frozen=True)
class Walks:
    """How the axes of one kernel are walked by n schedules.

    `axes` are the shared ones, then those of assignments and reductions. Arrays [n, axes]:
    `unroll` vectors a round, `lanes` of a vector, `rank` in the nest (0 is outermost), and whether
    rounds are `parallel`. Arrays [n, operands]: `staged` for each tile, or `copied` as a whole
    before. Arrays [n]: whether the tile is `turned`, the points of a `part` of the reduced axis
    (0: no parts) and its `slices`.
    """

    axes: tuple[Axis, ...]
    unroll: Any
    lanes: Any
    rank: Any
    parallel: Any
    staged: Any
    copied: Any
    turned: Any
    part: Any
    slices: Any

    def __len__(self) -> int:
        return len(self.turned)

    def then(self, others: Walks) -> Walks:
        """These schedules and others of the same kernel."""
        pairs = ((getattr(self, f.name), getattr(others, f.name)) for f in fields(self)[1:])
        return Walks(self.axes, *map(np.concatenate, pairs))
