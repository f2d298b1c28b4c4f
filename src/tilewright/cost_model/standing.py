"""Standing: what several measurements of a schedule say, and which schedule leads.

Knows quotients by the default schedule's time, in the order they were measured, and that the
fastest of many is also the luckiest: a measurement that made a schedule worth measuring again says
nothing about it but for being slower than the others. Refuses to know schedules, kernels and how
measuring is done (`rounds`, `measure`): the search and the database ask the same question here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

SURE: Final = 2.0
"""Standard errors by which a schedule must be faster than the default one to take its place."""
USUAL: Final = 0.01
"""Relative standard deviation of a measurement, until its repetitions say more."""
BELIEF: Final = 2.0
"""Measurements that `USUAL` is worth."""
FEW: Final = 3
"""Measurements from which on a schedule may lead."""


@dataclass(frozen=True)
class Standing:
    """The quotient of a schedule by the default one's time, its relative standard error (infinite
    for less than `FEW`), and how many measurements it is of."""

    ratio: float
    error: float
    count: int

    @property
    def bound(self) -> float:
        """What the quotient surely is not over."""
        return self.ratio * (1 + SURE * self.error)

    @property
    def order(self) -> tuple[float, float]:
        """What leads comes first."""
        return self.bound, self.ratio


DEFAULT: Final = Standing(1.0, 0.0, 0)
"""The default schedule's: every quotient is by it."""


def standing(ratios: Sequence[float]) -> Standing:
    """What quotients, of which the first was measured first, come to; inf if one of them failed.

    The median, where the first counts as no faster than the median of the others; and its error by
    their variance, mixed with the usual one as with so many measurements more (the mean of a
    scaled inverse chi-square posterior)."""
    count = len(ratios)
    if not all(map(math.isfinite, ratios)):
        return Standing(math.inf, 0.0, count)
    first, *others = ratios
    found = [max(first, median(others or ratios)), *others]
    middle = median(found)
    if count < FEW:
        return Standing(middle, math.inf, count)
    squares = sum((x / middle - 1) ** 2 for x in found)
    variance = (BELIEF * USUAL**2 + squares) / (BELIEF + count - 1)
    return Standing(middle, math.sqrt(variance / (count - 1)), count)
