"""Standing: a schedule leads when several measurements say so, and no luck makes it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tilewright.cost_model.standing import BIAS, DEFAULT, FEW, USUAL, compared, scatter, standing


def test_few_measurements_let_nothing_lead() -> None:
    for n in range(1, FEW):
        assert standing([0.1] * n).bound == math.inf
    assert standing([0.1] * FEW).bound < DEFAULT.bound == 1


def test_what_nominated_a_schedule_is_no_evidence_for_it() -> None:
    assert standing([0.2, 0.9, 0.91, 0.92]) == standing([0.5, 0.9, 0.91, 0.92])
    assert standing([0.2, 0.9]).ratio == 0.9
    assert standing([1.5, 0.9, 0.91, 0.92]).bound > standing([0.5, 0.9, 0.91, 0.92]).bound


def test_a_failure_is_the_end_of_it() -> None:
    found = standing([0.5, 0.5, math.inf, 0.5])
    assert found.ratio == found.bound == math.inf and found.count == 4


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.05])
def test_the_luckiest_of_many_equal_schedules_does_not_lead(noise: float) -> None:
    """The fastest first measurements of a thousand that are as fast as the default one, repeated:
    where measurements scatter as usual, or by more and others' repetitions tell."""
    rng = np.random.default_rng(3)
    usual = scatter(1 + noise * rng.standard_normal((30, 3)))
    led = 0
    for _ in range(200):
        first = 1 + noise * rng.standard_normal(1000).min()
        ratios = [first, *(1 + noise * rng.standard_normal(5))]
        led += standing(ratios, usual).bound < 1
    assert led <= 0.05 * 200


def test_scatter_is_that_of_repetitions() -> None:
    rng = np.random.default_rng(6)
    assert scatter([[0.5], [0.9], [1.2]]) == USUAL
    many = 1 + 0.03 * rng.standard_normal((100, 8))
    assert scatter(many.tolist()) == pytest.approx(0.03, rel=0.15)
    assert scatter([*many.tolist(), [1.0, math.inf], [1, 1, 9]]) == pytest.approx(0.03, rel=0.2)


@pytest.mark.parametrize(("gain", "count"), [(0.05, 3), (0.02, 5), (0.01, 10)])
def test_a_gain_is_seen_by_measurements_enough(gain: float, count: int) -> None:
    """Where measurements scatter by 0.3 %."""
    rng = np.random.default_rng(4)
    rows = 1 - gain + 0.003 * rng.standard_normal((200, count))
    assert sum(standing(row.tolist()).bound < 1 for row in rows) >= 190


def test_quotients_are_by_what_the_default_took_as_a_candidate() -> None:
    """Once that was measured often enough; until then they may be wrong in common."""
    fast, slow = [0.9, 0.9, 0.9, 0.9], [0.95, 0.951, 0.95, 0.949]
    found = compared({"a": fast, "b": slow}, "usual")
    assert found["usual"] == DEFAULT and found["a"].ratio == 0.9
    assert found["a"].bound < 1 and found["a"].error > BIAS
    found = compared({"usual": [1.0, 0.95, 0.95, 0.95], "a": fast, "b": slow}, "usual")
    assert found["usual"] == DEFAULT and found["b"].ratio == pytest.approx(1)
    assert found["a"].bound < 1 < found["b"].bound
    found = compared({"usual": [1.0, math.inf], "a": fast}, "usual")
    assert found["a"].ratio == 0.9


def test_the_error_falls_with_the_root_of_the_count() -> None:
    rng = np.random.default_rng(5)
    rows = 1 + 0.01 * rng.standard_normal((100, 101))
    few, many = (np.mean([standing(r[:n].tolist()).error for r in rows]) for n in (26, 101))
    assert few / many == pytest.approx(2, rel=0.1)
