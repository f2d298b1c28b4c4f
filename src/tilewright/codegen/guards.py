"""Guards: what is left to ask of a load's guard once the numbers of unrolled axes are known.

Knows comparisons of positions, the ranges their axes leave them, and which of them are certain, for
all lanes or for each of them apart. Refuses to emit anything (`llvm_memory`) and to know guards
that compare elements: those are asked as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tilewright.expr import Apply, Axis, Dim, Expr, Index, Lit, apply, as_index, index
from tilewright.transforms.index_rules import Affine, Range, Ranges, affine


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
    def asked(self) -> list[Expr]:
        """What is known only when the program runs."""
        return [e for e in (self.shared, self.varying) if e is not None]


OPEN = Guard()
"""A load without a guard."""


def conjuncts(e: Expr) -> Iterator[Expr]:
    """The conditions that hold together where `e` does, from the first to the last."""
    if isinstance(e, Apply) and e.op.name == "and":
        for c in e.args:
            yield from conjuncts(c)
    else:
        yield e


def bound(e: Expr) -> Affine | None:
    """The position that is not negative where a comparison of positions holds; None for others."""
    if not isinstance(e, Apply) or e.op.name not in ("le", "lt"):
        return None
    if not all(isinstance(a, Lit | Axis | Dim | Index) for a in e.args):
        return None
    low, high = e.args
    less = 0 if e.op.name == "le" else -1
    return affine(index("+", high, index("+", index("*", low, as_index(-1)), as_index(less))))


def span(form: Affine, ranges: Ranges) -> Range:
    """The least and the largest number of a position."""
    low = high = float(form.constant)
    for term, c in form.terms:
        ends = [c * end for end in ranges(term)]
        low, high = low + min(ends), high + max(ends)
    return low, high


def settled_guard(
    e: Expr,
    vector: Axis | None,
    extent: int,
    lanes: int,
    settled: Callable[[Affine], Affine],
    varies: Callable[[Expr], bool],
    ranges: Ranges,
) -> Guard:
    """A guard for the present numbers of unrolled axes, which `settled` puts into constants, in the
    first `extent` of so many lanes of the `vector` axis; `varies` says what else differs there."""
    can = [lane < extent for lane in range(lanes)]
    shared: list[Expr] = []
    varying: list[Expr] = []
    for c in conjuncts(e):
        form = bound(c)
        if form is None:
            (varying if varies(c) else shared).append(c)
            continue
        step = 0 if vector is None else form.coefficient(vector)
        rest = settled(form if vector is None else form.without(vector))
        low, high = span(rest, ranges)
        holds = [low + step * lane >= 0 for lane in range(extent)]
        may = [high + step * lane >= 0 for lane in range(extent)]
        if all(holds):
            continue
        if holds == may or not any(may):
            can = [x and lane < extent and may[lane] for lane, x in enumerate(can)]
            continue
        position = rest.expr()
        if step:
            assert vector is not None
            position = index("+", index("*", vector, as_index(step)), position)
        asked = apply("le", as_index(0), position)
        (varying if step or varies(position) else shared).append(asked)
    whole = all(can[:extent])
    return Guard(None if whole else tuple(can), _both(shared), _both(varying))


def _both(conditions: list[Expr]) -> Expr | None:
    """All of the conditions as one."""
    result: Expr | None = None
    for c in conditions:
        result = c if result is None else apply("and", result, c)
    return result
