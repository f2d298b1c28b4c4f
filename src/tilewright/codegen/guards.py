"""Guards: what is left to ask of a load's guard once the numbers of unrolled axes are known.

Knows comparisons of positions, the ranges their axes leave them, and which of them are certain, for
all lanes or for each of them apart. Refuses to emit anything (`llvm_memory`) and to know guards
that compare elements: those are asked as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tilewright.codegen.places import Place, place
from tilewright.expr import Axis, Expr, apply, as_index, index
from tilewright.transforms.index_rules import Affine, Ranges, bound, conjuncts, span


@dataclass(frozen=True)
class Guard:
    """Where a load may touch memory: in the `lanes` that are true (None: in all), if what is
    `shared` by all lanes holds, and what is asked of each lane, which is `varying`, does."""

    lanes: tuple[bool, ...] | None = None
    shared: Expr | None = None
    varying: Expr | None = None

    @property
    def never(self) -> bool:
        """Whether nothing is read at all."""
        return self.lanes is not None and not any(self.lanes)

    @property
    def always(self) -> bool:
        """Whether everything is read."""
        return self.lanes is None and not self.asked

    @property
    def asked(self) -> list[Expr]:
        """What is known only when the program runs."""
        return [e for e in (self.shared, self.varying) if e is not None]


OPEN = Guard()
"""A load without a guard."""


Condition: TypeAlias = tuple[Expr, Affine | None]
"""A condition, and the position that is not negative where it holds, if it compares positions."""


def conditions(e: Expr) -> list[Condition]:
    """What a guard asks."""
    return [(c, bound(c)) for c in conjuncts(e)]


class Least:
    """The least that a condition's position can be at lane 0 of such a loop nest, whatever numbers
    the unrolled axes have."""

    __slots__ = ("axes", "rest", "step")

    def __init__(self, at: Place, ranges: Ranges) -> None:
        self.rest = span(Affine(at.terms, at.constant), ranges)[0]
        self.axes, self.step = at.axes, at.step

    def holds(self, unrolled: Mapping[int, int], extent: int) -> bool:
        """Whether it is certain, for the present numbers, that no lane's position is negative."""
        low = self.rest + sum([c * unrolled[serial] for serial, c in self.axes])
        return min(low, low + self.step * (extent - 1)) >= 0


def least(
    form: Affine, vector: Axis | None, unrolled: Mapping[int, int], ranges: Ranges
) -> Least | None:
    """The least of a form; None if a term of it that is no axis depends on unrolled ones."""
    step = 0 if vector is None else form.coefficient(vector)
    at = place(form if vector is None else form.without(vector), step, unrolled)
    return None if at is None else Least(at, ranges)


def settled_guard(
    asked: Sequence[Condition],
    vector: Axis | None,
    extent: int,
    lanes: int,
    settled: Callable[[Affine], Affine],
    varies: Callable[[Expr], bool],
    ranges: Ranges,
) -> Guard:
    """What is left of it for the present numbers of unrolled axes, which `settled` puts into
    constants, in the first `extent` of so many lanes of the `vector` axis; `varies` says what else
    differs there."""
    can = [lane < extent for lane in range(lanes)]
    shared: list[Expr] = []
    varying: list[Expr] = []
    for c, form in asked:
        if form is None:
            (varying if varies(c) else shared).append(c)
            continue
        step = 0 if vector is None else form.coefficient(vector)
        known = form if vector is None else form.without(vector)
        rest = settled(known)
        low, high = span(rest, ranges)
        if min(low, low + step * (extent - 1)) >= 0:
            continue
        holds = [low + step * lane >= 0 for lane in range(extent)]
        may = [high + step * lane >= 0 for lane in range(extent)]
        if holds == may or not any(may):
            can = [x and lane < extent and may[lane] for lane, x in enumerate(can)]
            continue
        left = c
        if rest is not known:  # for other copies of the body it may be the same
            position = rest.expr()
            if vector is not None:
                position = index("+", index("*", vector, as_index(step)), position)
            left = apply("le", as_index(0), position)
        (varying if step or varies(rest.expr()) else shared).append(left)
    whole = all(can[:extent])
    return Guard(None if whole else tuple(can), _both(shared), _both(varying))


def _both(conditions: list[Expr]) -> Expr | None:
    """All of the conditions as one."""
    result: Expr | None = None
    for c in conditions:
        result = c if result is None else apply("and", result, c)
    return result
