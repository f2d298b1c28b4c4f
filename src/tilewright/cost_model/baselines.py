"""What a learned judge is compared with: the roofline, the heuristic, and ensembles of trees.

Knows how each scores the candidates of groups, the lowest first, as `metrics` reads it. Refuses to
be part of the compiler: the trees are scikit-learn's, imported when asked for, and only benchmarks
ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tilewright.cost_model import metrics
from tilewright.cost_model.training import Group

Array = np.ndarray[Any, Any]


def roofline(groups: Sequence[Group]) -> list[Array]:
    """The analytical estimate alone, in log seconds."""
    return [np.log(g.roofline) for g in groups]


def heuristic(groups: Sequence[Group]) -> list[Array]:
    """The heuristic proposes one schedule of each kernel and has no opinion on the others. Ask it
    about groups that have its schedule (`Group.default`): nothing is known of what it proposes for
    others.

    **Raises:** `ValueError` for a group without it.
    """
    for g in groups:
        if not 0 <= g.default < len(g):
            raise ValueError(f"the heuristic's schedule is not among the candidates of {g.key}")
    return [np.where(np.arange(len(g)) == g.default, 0.0, np.inf) for g in groups]


def trees(
    groups: Sequence[Group], kind: Literal["forest", "boosted"], told: bool = False, seed: int = 0
) -> Callable[[Sequence[Group]], list[Array]]:
    """A random forest or gradient-boosted trees that learned what a network learns from the same
    inputs: the logarithm of time over estimate, less the kernel's mean. What it returns gives log
    seconds of any groups' candidates, up to a constant for each group."""
    import threadpoolctl  # comes with scikit-learn
    from sklearn import ensemble

    if kind == "forest":
        regressor = ensemble.RandomForestRegressor(200, random_state=seed, min_samples_leaf=2)
    else:
        regressor = ensemble.HistGradientBoostingRegressor(
            max_iter=250, learning_rate=0.1, random_state=seed
        )
    ratios = [np.log(g.seconds / g.roofline) for g in groups]
    target = np.concatenate([r - r.mean() for r in ratios])
    # On a machine that does something else too, threads that wait for each other take minutes.
    with threadpoolctl.threadpool_limits(1):
        regressor.fit(np.concatenate([g.inputs(told) for g in groups]), target)

    def scores(held_out: Sequence[Group]) -> list[Array]:
        ends = np.cumsum([len(g) for g in held_out])[:-1]
        with threadpoolctl.threadpool_limits(1):
            found = regressor.predict(np.concatenate([g.inputs(told) for g in held_out]))
        parts = np.split(found, ends)
        return [np.log(g.roofline) + x for g, x in zip(held_out, parts, strict=True)]

    return scores


def row(name: str, groups: Sequence[Group], scores: Sequence[Array]) -> str:
    """A line of the table of judges: pairwise accuracy, top-1 and top-5 scores with the groups'
    weights, and the geometric means over kernels of the two."""
    seconds, weights = [g.seconds for g in groups], [g.weight for g in groups]
    numbers = [
        metrics.pairwise_accuracy(seconds, scores),
        *(metrics.top_k(seconds, scores, k, weights) for k in (1, 5)),
        *(metrics.geometric_top_k(seconds, scores, k) for k in (1, 5)),
    ]
    return f"{name:<24}" + "".join(f"{x:9.4f}" for x in numbers)


HEADING = f"{'':<24}" + "".join(
    f"{x:>9}" for x in ("pairwise", "top-1", "top-5", "top-1 gm", "top-5 gm")
)
"""Over the rows of `row`."""
