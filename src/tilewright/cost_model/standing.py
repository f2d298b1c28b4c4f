"""Standing: what several measurements of a schedule say, and which schedule leads.

Knows quotients by the default schedule's time, in the order they were measured, and that the
fastest of many is also the luckiest: a measurement that made a schedule worth measuring again says
nothing about it but for being slower than the others. Refuses to know schedules, kernels and how
measuring is done (`rounds`, `measure`): the search and the database ask the same question here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeVar

T = TypeVar("T", bound=Hashable)

SURE: Final = 2.5
"""Standard errors by which a schedule must be faster than the default one to take its place. It is
asked often: where all are 2 % slower and measurements scatter by 3 %, something leads after 64 or
256 trials in one search of thirty; with 2 errors, and without what others' repetitions say, in one
of four and in every other one."""
USUAL: Final = 0.01
"""Relative standard deviation of a measurement, until repetitions say more: of this kernel's."""
DOUBT: Final = 8
"""Repetitions that `USUAL` is worth."""
BELIEF: Final = 4
"""Repetitions of a schedule that the scatter of all of the kernel's is worth."""
BIAS: Final = 0.01
"""Error of the quotients of a kernel in common, until the default schedule was measured like any
other: what they are quotients by has its memory where it has it, and keeps it."""
WILD: Final = 0.1
"""A deviation that counts in that as no larger."""
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
"""The default schedule's, by its own time."""


def scatter(measured: Iterable[Sequence[float]]) -> float:
    """The relative standard deviation of a measurement of a kernel, by all of its schedules'."""
    squares, count = DOUBT * USUAL**2, DOUBT
    for ratios in measured:
        if len(ratios) > 1 and all(map(math.isfinite, ratios)):
            _, deviations = _spread(ratios)
            squares += sum(min(abs(x), WILD) ** 2 for x in deviations)
            count += len(ratios) - 1
    return math.sqrt(squares / count)


def standing(ratios: Sequence[float], usual: float = USUAL) -> Standing:
    """What quotients, of which the first was measured first, come to; inf if one of them failed.

    The median, where the first counts as no faster than the median of the others; and its error by
    their variance, mixed with the usual one (`scatter`) as with so many repetitions more: the mean
    of a scaled inverse chi-square posterior."""
    count = len(ratios)
    if not all(map(math.isfinite, ratios)):
        return Standing(math.inf, 0.0, count)
    middle, deviations = _spread(ratios)
    if count < FEW:
        return Standing(middle, math.inf, count)
    variance = (BELIEF * usual**2 + sum(x * x for x in deviations)) / (BELIEF + count - 1)
    return Standing(middle, math.sqrt(variance / (count - 1)), count)


def compared(measured: Mapping[T, Sequence[float]], default: T) -> dict[T, Standing]:
    """The standings of a kernel's schedules by the time of the default one, which is among the
    results: by what that took as one of the candidates, where it was measured so."""
    usual = scatter(measured.values())
    base = standing(measured.get(default, ()) or (1.0,), usual)
    if not math.isfinite(base.error * base.ratio):
        base = Standing(1.0, BIAS, 0)
    found = {default: DEFAULT}
    for name, ratios in measured.items():
        if name != default:
            x = standing(ratios, usual)
            found[name] = Standing(x.ratio / base.ratio, math.hypot(x.error, base.error), x.count)
    return found


def _spread(ratios: Sequence[float]) -> tuple[float, list[float]]:
    """The median, and the relative deviations from it."""
    first, *others = ratios
    found = [max(first, median(others or ratios)), *others]
    middle = median(found)
    return middle, [x / middle - 1 for x in found]
