"""Positions in memory for the copies of an unrolled body.

Knows how a flat offset depends on axes that are numbers at present, so that of each further copy
only the constant is worked out. Refuses to know how addresses are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tilewright.expr import Axis, Expr
from tilewright.transforms.index_rules import Affine


class Place:
    """A flat offset: `terms` that move, a constant, and for each of the unrolled `axes` (by serial)
    so much times its number. `step` is how far apart neighbouring lanes are."""

    __slots__ = ("axes", "constant", "forms", "step", "terms")

    def __init__(
        self,
        terms: tuple[tuple[Expr, int], ...],
        constant: int,
        axes: tuple[tuple[int, int], ...],
        step: int,
    ) -> None:
        self.terms, self.constant, self.axes, self.step = terms, constant, axes, step
        self.forms: dict[int, Affine] = {}

    def at(self, unrolled: Mapping[int, int]) -> Affine:
        """The offset for the present numbers."""
        constant = self.constant
        for serial, c in self.axes:
            constant += c * unrolled[serial]
        found = self.forms.get(constant)
        if found is None:
            found = self.forms[constant] = Affine(self.terms, constant)
        return found


UNKNOWN: Final = Place((), 0, (), 0)
"""Stands for a place nobody has asked for yet."""


def place(form: Affine, step: int, unrolled: Mapping[int, int]) -> Place | None:
    """Where a form is, whatever numbers these axes have; None if a term of it depends on them that
    is no axis itself."""
    terms, axes = [], []
    for t, c in form.terms:
        if isinstance(t, Axis) and t.serial in unrolled:
            axes.append((t.serial, c))
        elif t.free.isdisjoint(unrolled):
            terms.append((t, c))
        else:
            return None
    return Place(tuple(terms), form.constant, tuple(axes), step)
