"""Distillation: one small network learns what several teachers say together.

Knows which schedules a student is shown, most of them never measured: teachers can score any point
of any space. Refuses to know what the teachers are; their log seconds are arrays.

References: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015;
unlabelled data, as Bucila, Caruana and Niculescu-Mizil, "Model compression", KDD 2006.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tilewright.cost_model.features import told
from tilewright.cost_model.model import Array
from tilewright.cost_model.spaces import space
from tilewright.cost_model.training import Group
from tilewright.kernel import Kernel
from tilewright.target import Target

MEASURED: Final = 0.3
"""Share of what was measured in what a student learns of a measured schedule."""
LEADING: Final = 0.5
"""Share of the shown points of a kernel that the teachers expect to be its fastest: an order is
wanted there most, and few of the points that are drawn at random are there."""


def softened(
    groups: Sequence[Group], taught: Sequence[Array], measured: float = MEASURED
) -> list[Group]:
    """Measured groups with the teachers' log seconds, float64[n] for each, mixed into the times'
    logarithm."""
    return [
        replace(g, seconds=np.exp((1 - measured) * t + measured * np.log(g.seconds)))
        for g, t in zip(groups, taught, strict=True)
    ]


def unlabelled(
    kernels: Iterable[tuple[str, Kernel]], target: Target, cores: int, count: int
) -> list[Group]:
    """Up to `count` random points of the space of every kernel (with its key) that has a choice,
    for one thread of a machine. Their seconds are the estimate's until teachers say more
    (`shown`). The same points every time."""
    machine = np.array([*told(target, cores).values()], np.float32)
    found = []
    for key, kernel in kernels:
        s = space(kernel, target, 1)
        points = s.random(np.random.default_rng(0), count) if s.holes else np.empty((0, 0))
        if len(points) > 1:
            rows, estimate = s.extractor.described(s.walks(points))
            found.append(Group(key, rows, estimate, estimate, machine))
    return found


def shown(groups: Sequence[Group], taught: Sequence[Array], most: int) -> list[Group]:
    """Up to `most` points of each group with the teachers' times: those that lead, and a random
    choice of the others."""
    rng, found = np.random.default_rng(0), []
    for g, t in zip(groups, taught, strict=True):
        order = np.argsort(t, kind="stable")
        leading = int(LEADING * most)
        others = rng.permutation(order[leading:])[: most - leading]
        rows = np.concatenate([order[:leading], others])
        found.append(replace(g.some(rows), seconds=np.exp(t[rows])))
    return found
