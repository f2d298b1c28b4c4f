"""Copies: constants that are only put into another order, as numbers rather than programs.

Knows when a block is filled by moving elements: each stands a fixed number of elements after the
last along every axis, or is zero beyond an end. Such a copy is a few numbers, and whoever has the
arrays in hand moves the elements (`runtime.preparation`); a kernel for it is lowered, printed and
compiled for longer than most copies take. Refuses to know where arrays are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tilewright.expr import Apply, Axis, Expr, Lit, Load, static
from tilewright.transforms.index_rules import Affine, affine, flat
from tilewright.transforms.packing import Block
from tilewright.transforms.tensorize import FLIPPED, is_word


@dataclass(frozen=True)
class Part:
    """Elements that are moved: how many along each axis, and for the array they go `to` and the one
    they come `of` the first element's place and the distance along each axis, in elements."""

    shape: tuple[int, ...]
    to: int
    to_steps: tuple[int, ...]
    of: int
    of_steps: tuple[int, ...]


@dataclass(frozen=True)
class Copy:
    """Parts of the array numbered `source`, moved to parts of the one numbered `target`; elements
    have `itemsize` bytes. What is `cleared` is zero where no part is; of what is `flipped` the sign
    bit of each byte is turned over in the end."""

    source: int
    target: int
    itemsize: int
    cleared: bool
    flipped: bool
    parts: tuple[Part, ...]

    def numbers(self) -> list[int]:
        """The copy as integers that are not negative, see `read`."""
        flags = int(self.cleared), int(self.flipped)
        found = [self.source, self.target, self.itemsize, *flags, len(self.parts)]
        for p in self.parts:
            found += [len(p.shape), p.to, p.of, *p.shape, *p.to_steps, *p.of_steps]
        return found

    @staticmethod
    def read(numbers: Iterator[int]) -> Copy:
        """The copy of which these are the next numbers.

        **Raises:** `StopIteration` if there are too few.
        """
        source, target, itemsize, cleared, flipped, count = _several(numbers, 6)
        parts: list[Part] = []
        while len(parts) < count:
            rank, to, of = next(numbers), next(numbers), next(numbers)
            lists = [_several(numbers, rank) for _ in range(3)]
            parts.append(Part(lists[0], to, lists[1], of, lists[2]))
        return Copy(source, target, itemsize, bool(cleared), bool(flipped), tuple(parts))


def _several(numbers: Iterator[int], count: int) -> tuple[int, ...]:
    found: list[int] = []
    while len(found) < count:
        found.append(next(numbers))
    return tuple(found)


def copied(block: Block, source: int, target: int) -> Copy | None:
    """The copy that fills a block; None if more than moving elements is to be done."""
    loads = block.value.children if is_word(block.value) else (block.value,)
    flipped = isinstance(block.value, Apply) and block.value.op is FLIPPED
    ends = {_guard(e) for e in loads}
    if len(ends) != 1 or not all(isinstance(e, Load) and _is_plain(e, block.axes) for e in loads):
        return None
    (guard,) = ends
    boxes = _boxes(block.axes, guard)
    if boxes is None:
        return None
    place = affine(flat(block.buffer, block.axes))
    parts = []
    for k, e in enumerate(loads):
        own = affine(flat(e.buffer, e.index))  # type: ignore[attr-defined]
        to = Affine(tuple((a, c * len(loads)) for a, c in place.terms), k)
        parts += [_part(block.axes, box, to, own) for box in boxes]
    size = loads[0].type.itemsize
    there = tuple(p for p in parts if p is not None)
    return Copy(source, target, size, guard is not None, flipped, there)


def _guard(e: Expr) -> Expr | None:
    return e.guard if isinstance(e, Load) else None


def _is_plain(e: Load, axes: Sequence[Axis]) -> bool:
    """Whether a load's place is a sum of multiples of the axes, none of them negative."""
    form = affine(flat(e.buffer, e.index))
    return form.constant >= 0 and all(t in axes and c >= 0 for t, c in form.terms)


def _boxes(axes: Sequence[Axis], guard: Expr | None) -> list[dict[Axis, range]] | None:
    """Where elements are moved: everywhere, or short of the end of an axis that was cut in two:
    there are whole chunks, and a part of the last. None if the guard is another."""
    whole = {a: range(static(a.extent)) for a in axes}
    if guard is None:
        return [whole]
    if not (isinstance(guard, Apply) and guard.op.name == "lt"):
        return None
    at, end = affine(guard.args[0]), guard.args[1]
    if not isinstance(end, Lit) or at.constant or len(at.terms) != 2:
        return None
    (o, chunk), (v, step) = sorted(at.terms, key=lambda t: -t[1])
    if not isinstance(o, Axis) or not isinstance(v, Axis) or o not in whole or v not in whole:
        return None
    if step != 1 or len(whole[v]) != chunk:
        return None
    full, rest = divmod(int(end.value), chunk)
    if full >= len(whole[o]):
        return [whole]
    return [{**whole, o: range(full)}, {**whole, o: range(full, full + 1), v: range(rest)}]


def _part(axes: Sequence[Axis], box: dict[Axis, range], to: Affine, of: Affine) -> Part | None:
    """The elements of a box; None if there are none."""
    shape = tuple(len(box[a]) for a in axes)
    if 0 in shape:
        return None
    starts, steps = [], []
    for form in (to, of):
        own = tuple(form.coefficient(a) for a in axes)
        starts.append(form.constant + sum(s * box[a].start for s, a in zip(own, axes)))
        steps.append(own)
    return Part(shape, starts[0], steps[0], starts[1], steps[1])
