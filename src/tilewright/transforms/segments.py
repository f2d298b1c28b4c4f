"""Segments: the stretches that a plan cuts an axis into.

Knows full chunks, left-over vectors and a partly filled vector, so that no iteration needs a test.
Refuses to know what is computed there (`loopify`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from tilewright.transforms.schedule import Plan

NARROWEST = 4
"""Lanes of the narrowest vectors that a partly filled one gives way to."""


@dataclass(frozen=True)
class Segment:
    """A stretch of an axis: `count` rounds from `start`, each `unroll` vectors of which `width`
    of the `lanes` lanes are used."""

    start: int
    count: int
    unroll: int
    width: int
    lanes: int

    @property
    def narrowed(self) -> Segment:
        """The segment in vectors no wider than what a partly filled one holds."""
        lanes = 1 << (self.width - 1).bit_length()
        return replace(self, lanes=lanes) if NARROWEST <= lanes < self.lanes else self


def segments(extent: int, plan: Plan) -> list[Segment]:
    """Cut an axis by its plan; together the segments cover it exactly once."""
    result: list[Segment] = []
    chunk = plan.chunk
    if plan.lanes == 1 and chunk > 1 and extent > chunk:
        rounds = -(-extent // chunk)
        each, longer = divmod(extent, rounds)
        if longer:
            result.append(Segment(0, longer, each + 1, 1, 1))
        result.append(Segment(longer * (each + 1), rounds - longer, each, 1, 1))
        return result
    full, rest = divmod(extent, chunk)
    ends = (1, full - 2, 1) if plan.peeled and full > 1 else (full,)
    for start, count in zip(accumulate((0, *ends)), ends, strict=False):
        if count:
            result.append(Segment(start * chunk, count, plan.unroll, plan.lanes, plan.lanes))
    vectors, tail = divmod(rest, plan.lanes)
    if vectors:
        result.append(Segment(full * chunk, 1, vectors, plan.lanes, plan.lanes))
    if tail:
        result.append(Segment(extent - tail, 1, 1, tail, plan.lanes))
    return result
