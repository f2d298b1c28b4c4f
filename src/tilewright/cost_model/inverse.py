"""Inverse: the point of a space that makes a given schedule.

Knows points by how they walk the axes, and fills a group of holes at a time so that they are
walked most as the schedule does. Refuses to know what holes mean and what a schedule takes. A
search begins with the heuristic's schedule, whose neighbours are worth a look where little is to
be gained.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from typing import Any, Final

import numpy as np

from tilewright.cost_model.spaces import Points, Space
from tilewright.cost_model.walks import Walks
from tilewright.errors import ScheduleError
from tilewright.transforms.schedule import Schedule

BEGINNINGS: Final = 32
"""Random points that are begun from: by groups, some lead to what is only nearly the schedule."""


def points_of(space: Space, schedule: Schedule) -> Points:
    """int64 [1, holes], or [0, holes] where no point was found that makes the schedule."""
    wanted = space.walks_of([schedule])
    begun = space.random(np.random.default_rng(0), BEGINNINGS)
    away = _distances(space.walks(begun), wanted)
    for row in np.argsort(away, kind="stable"):
        point = _filled(space, begun[row : row + 1], wanted)
        with suppress(ScheduleError):
            if space.schedule(point[0]) == schedule:
                return point
    return begun[:0]


def _filled(space: Space, point: Points, wanted: Walks) -> Points:
    """The point that comes of another if groups of holes are filled by turns, until none gets it
    nearer to some walks."""
    nearest = np.inf
    while True:
        before = nearest
        for holes, filled in space.parts:
            found = np.repeat(point, len(filled), axis=0)
            found[:, holes] = filled
            found = np.concatenate([point, found[space.legal(found)]])
            away = _distances(space.walks(found), wanted)
            row = int(np.argmin(away))
            point, nearest = found[row : row + 1], away[row]
        if nearest >= before or nearest == 0:
            return point


def _distances(walks: Walks, wanted: Walks) -> Any:
    """In how many numbers each of some ways [n] to walk the axes differs from another."""
    found = np.zeros(len(walks), np.int64)
    for f in fields(Walks)[1:]:
        if f.name != "parallel":  # follows from the others
            other = getattr(walks, f.name) != getattr(wanted, f.name)
            found += other.reshape(len(walks), -1).sum(axis=1)
    return found
