"""The promise, on programs from the field: compile(f)(*args) gives what f(*args) gives."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from programs import PROGRAMS


def leaves(tree: Any) -> list[Any]:
    """Arrays and scalars of nested tuples, lists and dictionaries, in order."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, (tuple, list)):
        return [leaf for item in tree for leaf in leaves(item)]
    return [tree]


def arguments(name: str) -> tuple[Any, ...]:
    return PROGRAMS[name].arguments(np.random.default_rng(sum(map(ord, name))))


def test_there_are_enough() -> None:
    assert len(PROGRAMS) >= 30


@pytest.mark.parametrize("name", PROGRAMS)
def test_runs_under_numpy(name: str) -> None:
    """The program itself is sound: it runs, gives finite numbers, and leaves its inputs alone."""
    args = arguments(name)
    before = copy.deepcopy(args)
    results = leaves(PROGRAMS[name].function(*args))
    assert results
    assert all(np.isfinite(r).all() for r in results)
    for now, then in zip(leaves(args), leaves(before), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_is_numpy(name: str) -> None:
    program = PROGRAMS[name]
    expected = program.function(*arguments(name))
    result = tw.compile(program.function)(*arguments(name))
    assert type(result) is type(expected) or not isinstance(expected, (tuple, list, dict))
    for got, want in zip(leaves(result), leaves(expected), strict=True):
        assert (np.shape(got), np.asarray(got).dtype) == (np.shape(want), np.asarray(want).dtype)
        scale = np.abs(np.asarray(want, dtype=np.float64)).max() if np.size(want) else 0.0
        np.testing.assert_allclose(
            got, want, rtol=program.tolerance, atol=program.tolerance * max(scale, 1.0)
        )
