"""Partial results: long reductions to few results are cut into slices that threads can share.

Knows when a reduction has so many terms, and its kernel so few results, that it would run on one
thread, and how it is cut: into slices of one length, a map of their own, then what the slices and
the rest give together. The cut depends on extents and on the work of a term only, never on how
many threads there are, so results have the same bits for any number of them. Refuses to know how
either kernel is walked (`heuristic`), and to touch reductions that depend on others.

    out = max[k:1000000](abs(x[k]))
->  p[s] = max[k:8000](abs(x[s*8000 + k]))   over s:125
    out = max[s:125](p[s])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Load,
    Reduce,
    apply,
    as_index,
    axis,
    index,
    is_static,
    load,
    product,
    reductions_in,
    serials,
    static,
    substitute,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.transforms.index_rules import simplify
from tilewright.transforms.lowering import COMBINED

SLICE: Final = 4096
"""Terms of a slice, at least: what it costs to begin one and to add its lanes hides beside them."""
FEWEST: Final = 16
MOST: Final = 64
"""Slices from which on cutting is worth it, and those that are enough for all threads; where it
leaves less of a rest, or whole axes, up to twice and four times as many."""
UNIT: Final = 64
"""Elements of which slices are multiples, for whole vectors in several sums."""
HEAVY: Final = 4
"""Operations on a term from which on it counts as several."""
FEW: Final = 16
"""Results from which on threads have enough to share."""


@dataclass(frozen=True)
class Cut:
    """The axes of a reduction one element of which is a slice, the first of all; the axis after
    them, which is cut into so many stretches of so many points, with a rest that is in no slice."""

    whole: tuple[Axis, ...]
    axis: Axis
    slices: int
    length: int

    @property
    def rest(self) -> int:
        return static(self.axis.extent) - self.slices * self.length


def in_slices(kernel: Kernel) -> tuple[Kernel, Kernel] | None:
    """The kernel of the slices of a map's longest reductions, and the one that combines them; None
    where threads have enough to share as it is, or too little."""
    if not kernel.is_map or not all(is_static(a.extent) for a in kernel.axes):
        return None
    if static(product(a.extent for a in kernel.axes)) >= FEW:
        return None
    sums = reductions_in(*(a.value for a in kernel.body))
    found = [r for r in sums if _is_plain(r, kernel)]
    longest = max(found, key=lambda r: static(product(a.extent for a in r.axes)), default=None)
    cut = None if longest is None else _cut(longest)
    if longest is None or cut is None:
        return None
    extents = [a.extent for a in longest.axes]
    alike = [r for r in found if [a.extent for a in r.axes] == extents]
    return _two(kernel, alike, longest.axes.index(cut.axis), cut)


def _is_plain(r: Reduce, kernel: Kernel) -> bool:
    """Whether a reduction stands by itself, and reuses nothing among the kernel's results."""
    inside = walk(r.body)
    own = serials(kernel.axes)
    loads = [e for e in inside if isinstance(e, Load) and not e.free.isdisjoint(serials(r.axes))]
    alone = not any(isinstance(e, Reduce) for e in inside) and r.free <= own
    return alone and all(is_static(a.extent) for a in r.axes) and all(own <= e.free for e in loads)


def _cut(r: Reduce) -> Cut | None:
    """How to cut a reduction, if it is long enough."""
    terms = static(product(a.extent for a in r.axes))
    weight = sum(e.op.cost for e in walk(r.body) if isinstance(e, Apply))
    wanted = min(MOST, terms * max(1, weight // HEAVY) // SLICE)
    if wanted < FEWEST:
        return None
    before = 1
    for k, a in enumerate(r.axes):
        n = static(a.extent)
        if before * n >= wanted:
            if before * n <= 4 * wanted and k + 1 < len(r.axes):
                return Cut(r.axes[:k], a, n, 1)
            return _stretches(r.axes[:k], a, -(-wanted // before), k + 1 == len(r.axes))
        before *= n
    return None


def _stretches(whole: tuple[Axis, ...], a: Axis, wanted: int, last: bool) -> Cut:
    """The axis in about so many stretches, which leave the least rest."""
    n = static(a.extent)
    unit = UNIT if last and n >= 2 * UNIT * wanted else 1
    cuts = [Cut(whole, a, s, n // (s * unit) * unit) for s in range(wanted, 2 * wanted) if s <= n]
    return min(cuts, key=lambda c: c.rest)


def _two(kernel: Kernel, sums: Sequence[Reduce], at: int, cut: Cut) -> tuple[Kernel, Kernel]:
    """Both kernels, given the reductions to cut, all alike, and the place of the axis that is."""
    slices = (*(axis(a.name, a.extent) for a in cut.whole), axis("s", cut.slices))
    body, results = list[Assign](), dict[Expr, Expr]()
    for n, r in enumerate(sums):
        shape = (*(a.extent for a in slices), *(a.extent for a in kernel.axes))
        part = Buffer(f"part{n}" if n else "part", r.type, shape)
        value = _slice(r, slices, at, cut.length)
        body.append(Assign(part, (*slices, *kernel.axes), (), value))
        results[r] = _combined(r, part, at, cut, kernel.axes)
    values = substitute([a.value for a in kernel.body], results)
    after = [Assign(a.buffer, a.index, a.axes, v) for a, v in zip(kernel.body, values, strict=True)]
    axes = (*slices, *kernel.axes)
    first = replace(kernel, name=f"{kernel.name}_parts", axes=axes, body=tuple(body))
    return first, replace(kernel, body=tuple(after))


def _slice(r: Reduce, slices: Sequence[Axis], at: int, length: int) -> Reduce:
    """A reduction over one slice."""
    inner = [axis(a.name, a.extent) for a in r.axes[at + 1 :]]
    place: list[Expr] = [*slices, *inner]
    if length > 1:
        k = axis(r.axes[at].name, length)
        place[at] = index("+", index("*", slices[at], as_index(length)), k)
        inner.insert(0, k)
    (value,) = simplify(substitute([r.body], dict(zip(r.axes, place, strict=True))))
    return Reduce(r.kind, tuple(inner), value)


def _combined(r: Reduce, part: Buffer, at: int, cut: Cut, axes: Sequence[Axis]) -> Expr:
    """What the slices of a reduction and its rest give together."""
    over = tuple(axis("s", n) for n in part.shape[: at + 1])
    total: Expr = Reduce(r.kind, over, load(part, (*over, *axes)))
    if cut.rest:
        rest = axis(cut.axis.name, cut.rest)
        others = tuple(axis(a.name, a.extent) for k, a in enumerate(r.axes) if k != at)
        own = (*others[:at], rest, *others[at:])
        env: dict[Expr, Expr] = dict(zip(r.axes, own, strict=True))
        env[r.axes[at]] = index("+", rest, as_index(cut.slices * cut.length))
        (value,) = simplify(substitute([r.body], env))
        total = apply(COMBINED[r.kind].row.scalar, total, Reduce(r.kind, own, value))
    return total
