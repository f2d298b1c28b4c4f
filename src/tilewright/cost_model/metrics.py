"""How good a ranking of measured candidates is: the metrics that other tuners publish.

Knows times, scores and which candidates belong to one kernel (a task, in the papers' words).
Refuses to know where a score is from: a model's prediction, a roofline, a rank.

A score orders the candidates of one kernel, the lowest first, as a time does; only `rmse` and `r2`
read it as the logarithm of one. A score of inf proposes nothing: the heuristic, say, gives one
candidate a score and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Rows = Sequence[np.ndarray[Any, Any]]
"""One array for each kernel, an element for each of its candidates."""


def pairwise_accuracy(seconds: Rows, scores: Rows) -> float:
    """The share of pairs of the same kernel that the scores put in the order of their times.

    Pairs of equal times have no order and do not count; a pair of equal scores counts half, so
    that a constant score has 0.5, as a random one does. NaN if no pair counts.
    """
    right, counted = 0.0, 0
    for t, s in zip(seconds, scores, strict=True):
        i, j = np.triu_indices(len(t), 1)
        times, ranks = np.sign(t[i] - t[j]), _order(s[i], s[j])
        ordered = times != 0
        counted += int(ordered.sum())
        right += float(np.where(ranks == 0, 0.5, ranks == times)[ordered].sum())
    return right / counted if counted else float("nan")


def top_k(seconds: Rows, scores: Rows, k: int, weights: Sequence[float] | None = None) -> float:
    """The time of the best candidates over that of the best among the `k` with the lowest scores,
    both summed over the kernels with `weights` (1 unless given), as TenSet and TLP define it
    (Zheng et al., NeurIPS 2021; Zhai et al., ASPLOS 2023). 1 is an oracle.

    **Raises:** `ValueError` where no candidate of a kernel has a finite score.
    """
    shares = np.ones(len(seconds)) if weights is None else np.asarray(weights, float)
    best = np.array([t.min() for t in seconds])
    chosen = np.array([t[_first(s, k)].min() for t, s in zip(seconds, scores, strict=True)])
    return float((shares * best).sum() / (shares * chosen).sum())


def geometric_top_k(seconds: Rows, scores: Rows, k: int) -> float:
    """The geometric mean over the kernels of each one's own `top_k`: none counts for more because
    it is slow."""
    each = [top_k([t], [s], k) for t, s in zip(seconds, scores, strict=True)]
    return float(np.exp(np.mean(np.log(each))))


def recall(seconds: Rows, scores: Rows, k: int) -> float:
    """How many of the `k` best candidates are among the `k` with the lowest scores, divided by k,
    mean over the kernels (Ansor's recall@k). Where a kernel has fewer, k is their number."""
    shares = []
    for t, s in zip(seconds, scores, strict=True):
        true, guess = set(_first(t, k).tolist()), set(_first(s, k).tolist())
        shares.append(len(true & guess) / len(true))
    return float(np.mean(shares))


def rmse(seconds: Rows, scores: Rows) -> float:
    """Root mean squared error of the relative speed y = best / time in (0, 1] (`labels`)."""
    y, guess = labels(seconds, scores)
    return float(np.sqrt(np.mean((y - guess) ** 2)))


def r2(seconds: Rows, scores: Rows) -> float:
    """The share of the variance of the relative speed that is explained (`labels`)."""
    y, guess = labels(seconds, scores)
    return float(1 - np.sum((y - guess) ** 2) / np.sum((y - y.mean()) ** 2))


def labels(seconds: Rows, scores: Rows) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The relative speeds best / time of all candidates, measured and as scores in log seconds
    predict them; both relative to the best of the same kernel."""
    y = np.concatenate([t.min() / t for t in seconds])
    return y, np.concatenate([np.exp(s.min() - s) for s in scores])


def _order(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sign of a - b; 0 where both are the same infinity."""
    return (a > b).astype(int) - (a < b)


def _first(scores: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """The positions of the `k` lowest finite scores, the earlier of equals first."""
    order = np.argsort(scores, kind="stable")[:k]
    order = order[np.isfinite(scores[order])]
    if not len(order):
        raise ValueError("no candidate has a finite score")
    return order
