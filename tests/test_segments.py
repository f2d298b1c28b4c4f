"""Segments: an axis is covered exactly once, and stretches are joined where no guard can fail.

A stretch too many or too few costs time and changes no result, so the borders are tested here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright import dtypes
from tilewright.expr import Axis, Buffer, Expr, Load, apply, as_index, axis, literal, load
from tilewright.transforms.schedule import Plan
from tilewright.transforms.segments import Segment, joined, segments

I = axis("i", 64)
PEELED = Plan(lanes=8, peeled=True)
"""Of 64 points: rounds of 8, the first, six in between, and the last."""


def read(*conditions: Expr) -> Load:
    """A load where all conditions hold."""
    guard = conditions[0]
    for c in conditions[1:]:
        guard = guard & c
    return load(Buffer("x", dtypes.float32, (64,)), (I,), guard)


def below(e: Expr, n: int) -> Expr:
    return apply("lt", e, as_index(n))


def from_(n: int, e: Expr) -> Expr:
    return apply("le", as_index(n), e)


def points(cuts: Sequence[Segment]) -> list[int]:
    """Every position that the rounds of some segments compute, in their order."""
    found: list[int] = []
    for s in cuts:
        for round_ in range(s.count):
            start = s.start + round_ * s.unroll * s.lanes
            for u in range(s.unroll):
                found += range(start + u * s.lanes, start + u * s.lanes + s.width)
    return found


@given(
    extent=st.integers(1, 300), unroll=st.integers(1, 5), lanes=st.sampled_from([1, 2, 4, 8, 16]),
    peeled=st.booleans(), low=st.integers(-2, 40), high=st.integers(-2, 300),
)  # fmt: skip
def test_every_point_is_computed_once(
    extent: int, unroll: int, lanes: int, peeled: bool, low: int, high: int
) -> None:
    a = axis("a", extent)
    cuts = segments(extent, Plan(unroll=unroll, lanes=lanes, peeled=peeled))
    assert points(cuts) == list(range(extent))
    guarded = load(Buffer("x", dtypes.float32, (extent,)), (a,), from_(low, a) & below(a, high))
    assert points(joined(cuts, a, [guarded])) == list(range(extent))


def counts(*conditions: Expr) -> list[int]:
    """The rounds of each stretch that is left of the three."""
    cuts = segments(64, PEELED)
    assert [(s.start, s.count) for s in cuts] == [(0, 1), (8, 6), (56, 1)]
    return [s.count for s in joined(cuts, I, [read(*conditions)])]


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        (below(I, 64), [8]),  # holds at the last point
        (below(I, 63), [7, 1]),  # fails there
        (below(I, 57), [7, 1]),
        (below(I, 56), [7, 1]),  # fails at the first point of the last round
        (below(I, 55), [1, 6, 1]),  # and at the one before
        (below(I, 8), [1, 6, 1]),
        (from_(0, I), [8]),
        (from_(1, I), [1, 7]),  # fails at the first point
        (from_(8, I), [1, 7]),  # holds at the first point of the second round
        (from_(9, I), [1, 6, 1]),
        (from_(-63, I * -1), [8]),
        (from_(-62, I * -1), [7, 1]),
    ],
)
def test_stretches_are_joined_up_to_where_a_guard_fails(condition: Expr, left: list[int]) -> None:
    assert counts(condition) == left
    assert counts(condition, from_(0, I)) == left


def test_the_other_axes_of_a_guard_may_be_anywhere() -> None:
    tap = axis("k", 3)
    assert counts(from_(1, I + tap), below(I + tap, 65)) == [1, 6, 1]
    assert counts(from_(0, I + tap), below(I + tap, 66)) == [8]
    assert counts(from_(0, I + tap), below(I + tap, 65)) == [7, 1]


def test_conditions_that_are_no_comparison_of_positions_keep_stretches_apart() -> None:
    element = load(Buffer("m", dtypes.float32, (64,)), (I,))
    assert counts(apply("lt", element, literal(0.0, dtypes.float32))) == [1, 6, 1]


def test_guards_of_other_axes_join_everything() -> None:
    other: Axis = axis("j", 9)
    assert counts(below(other, 4)) == [8]
    assert [s.count for s in joined(segments(64, PEELED), I, [])] == [8]


def test_partly_filled_vectors_stay_apart() -> None:
    cuts = joined(segments(61, PEELED), I, [])
    assert [(s.start, s.count, s.width) for s in cuts] == [(0, 7, 8), (56, 1, 5)]
    assert np.array_equal(points(cuts), range(61))


@pytest.mark.parametrize(
    ("width", "lanes", "narrowed"),
    [(1, 16, 4), (3, 16, 4), (4, 16, 4), (5, 16, 8), (9, 16, 16), (1, 4, 4), (1, 2, 2), (3, 8, 4)],
)
def test_partly_filled_vectors_give_way_to_the_narrowest_that_hold_them(
    width: int, lanes: int, narrowed: int
) -> None:
    assert Segment(0, 1, 1, width, lanes).narrowed == Segment(0, 1, 1, width, narrowed)
