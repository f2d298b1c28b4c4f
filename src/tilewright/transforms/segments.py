"""Segments: the stretches that a plan cuts an axis into.

Knows full chunks, left-over vectors and a partly filled vector, so that no iteration needs a test.
Refuses to know what is computed there (`loopify`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tilewright.expr import Axis, Expr, Load
from tilewright.transforms.index_rules import Ranges, bound, conjuncts, span
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

    def alike(self, other: Segment) -> bool:
        """Whether the rounds of both are of the same whole vectors."""
        same = (self.unroll, self.width, self.lanes) == (other.unroll, other.width, other.lanes)
        return same and self.width == self.lanes

    @property
    def narrowed(self) -> Segment:
        """The segment in vectors no wider than what a partly filled one holds."""
        lanes = max(NARROWEST, 1 << (self.width - 1).bit_length())
        return replace(self, lanes=lanes) if lanes < self.lanes else self


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


def joined(cuts: Sequence[Segment], a: Axis, values: Iterable[Expr]) -> list[Segment]:
    """The segments of an axis, those in one that follow one another and ask at no border where on
    the axis they are: what the guards of some values have to say there is certain."""
    guards = dict.fromkeys(e.guard for e in values if isinstance(e, Load) and e.guard is not None)
    asked = [c for g in guards for c in conjuncts(g) if a.serial in c.free]
    result: list[Segment] = []
    for s in cuts:
        last = result[-1] if result else None
        if last and last.alike(s) and not _any_fails(asked, a, (last, s)):
            result[-1] = replace(last, count=last.count + s.count)
        else:
            result.append(s)
    return result


def _any_fails(conditions: Sequence[Expr], a: Axis, cuts: Sequence[Segment]) -> bool:
    """Whether some condition may be false somewhere in the segments."""
    ranges, first, last = Ranges(), cuts[0], cuts[-1]
    ends = (first.start, last.start + last.count * last.unroll * last.lanes - 1)
    for form in map(bound, conditions):
        if form is None:
            return True
        rest, step = form.without(a), form.coefficient(a)
        moved = any(a.serial in t.free for t, _ in rest.terms)
        if moved or min(span(rest, ranges)[0] + step * end for end in ends) < 0:
            return True
    return False
