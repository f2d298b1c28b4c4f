"""Random programs, compiled and interpreted, agree with NumPy; and what once did not.

`TILEWRIGHT_FUZZ=20000 pytest tests/test_fuzz.py` runs that many random programs instead of 2,000.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fuzz
from random_programs import Line, Program, write
from running import check

PROGRAMS = int(os.environ.get("TILEWRIGHT_FUZZ", "2000"))
AT_ONCE = 200


@pytest.mark.parametrize("first", range(0, PROGRAMS, AT_ONCE))
def test_random_programs(first: int) -> None:
    """Shapes, dtypes and values of NumPy, interpreted and compiled."""
    failures = fuzz.supervise(range(first, min(first + AT_ONCE, PROGRAMS)))
    assert not failures, "\n".join(
        f"{wrong}    (python tests/fuzz.py --seeds {seed} --show)"
        for seed, wrong in failures.items()
    )


@pytest.mark.parametrize("seed", range(40))
def test_every_language_agrees(seed: int) -> None:
    """The loops of the whole program, and of each kernel against the kernel, interpreted."""
    program = write(seed)
    if sum(np.size(v) for v in program.inputs.values()) > 400:
        pytest.skip("the loops interpreter is for small programs")
    with np.errstate(all="ignore"):
        assert fuzz.check(program, ("loops",)) is None
        assert fuzz.kernels_agree(program) is None


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_constant_inputs(first: int) -> None:
    """Every second array a constant. (Seed 18: the preparation packed a constant for itself.)"""
    for seed in range(first, first + 25):
        with np.errstate(all="ignore"):
            assert fuzz.check(write(seed), ("constant",)) is None, seed


# -- found by fuzzing, kept as they were after shrinking ---------------------------------------

F32 = np.arange(12, dtype=np.float32).reshape(4, 3)


def _one_point_reduction(x: Any, y: Any) -> Any:
    """Seed 910: the minimum over one point read a value of its own kernel before it was there."""
    smaller = np.fmin(x, y)
    return smaller.min(axis=(1,), keepdims=True), np.sort(smaller, axis=1)


def _complex_sum_of_nothing(x: Any, y: Any) -> Any:
    """Seed 66233: a product over no points read a row that was never made."""
    return np.dot((x * (1 + 0j)).var(axis=(2,)), y)


def _long_epilogue_of_columns(x: Any, y: Any) -> Any:
    """Seed 64064: sums across lanes were looked for in registers after they had been parked."""
    return np.tanh(np.exp(x) @ y.T) + np.arctan(x @ y.T)


def _one_element_rows(x: Any, i: Any) -> Any:
    """Seed 693: values with one element per row were kept in a row buffer of a map kernel."""
    chosen = x[i % 3]
    return (chosen * chosen).sum(-1) - chosen.sum(-1) ** 2


def _pieces_without_elements(x: Any) -> Any:
    """Seed 378: an element of an empty array was read before the loop over no points."""
    return np.stack((x, x), axis=0).copy(), x.sum(0)


def _clipped_unsigned(x: Any) -> Any:
    """Seed 372: NumPy's clip takes Python bounds an unsigned type does not hold."""
    return np.clip(x, -1, 1), np.clip(x, 2, 300)


def _reversed_under_a_guard(x: Any) -> Any:
    """Seed 8266: a reversed masked load became a load of all lanes, before the array."""
    y = x.copy()
    y[3:] = x[:2]
    return np.flip(y)


def _one_lane_after_a_truncation(x: Any) -> Any:
    """Seed 8344: a masked store of one 16-bit lane wrote 32 bits."""
    return x.astype("bfloat16"), x.astype("int16")


def _positions_that_are_sums(x: Any) -> Any:
    """Seed 283, mapped: axes of a reduction inside a position were merged again and again."""
    y = np.stack((x, x, x, x), axis=2)
    least = np.minimum(y.sum((1, 2, 3)), 40)
    return y[np.arange(2)[:, None], np.arange(3), (least % 4)[:, None]]


FOUND: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = (
    (_one_point_reduction, (np.arange(4.0).reshape(4, 1), np.ones((4, 1)))),
    (_complex_sum_of_nothing, (np.zeros((7, 0, 16)), np.zeros((0, 16), np.complex64))),
    (_long_epilogue_of_columns, (np.ones((3, 9), np.float32), np.ones((5, 9), np.float32))),
    (_one_element_rows, (np.float32([1, 2, 3]), np.arange(11, dtype=np.int8).reshape(11, 1))),
    (_pieces_without_elements, (np.zeros((0, 5, 2)),)),
    (_clipped_unsigned, (np.arange(9, dtype=np.uint8),)),
    (_reversed_under_a_guard, (np.arange(80, dtype=np.float16).reshape(5, 16),)),
    (_positions_that_are_sums, (np.arange(66).reshape(2, 3, 11),)),
    (_one_lane_after_a_truncation, (np.linspace(-9, 9, 881),)),
)


@pytest.mark.parametrize(("f", "args"), FOUND, ids=[f.__name__.strip("_") for f, _ in FOUND])
def test_found_by_fuzzing(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(f, *args)


@pytest.mark.parametrize(("f", "args"), FOUND, ids=[f.__name__.strip("_") for f, _ in FOUND])
def test_programs_stay_inside_their_arrays(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """With pages that cannot be touched before and behind every array."""
    assert fuzz.stays_inside(f, args)


# -- the fuzzer itself -------------------------------------------------------------------------


def test_programs_follow_from_the_seed() -> None:
    assert write(3).source == write(3).source
    assert write(3).source != write(4).source


def test_rounding_is_allowed_and_no_more() -> None:
    x = np.linspace(0.1, 2, 7)
    program = Program("f", {"x": x}, (Line("v0", "np.exp(x)", ("x",), "rounded"),), ("v0",))
    reference = fuzz.Reference(program)
    exact = np.exp(x)
    assert reference.differences("v0", np.nextafter(exact, 9)) is None
    assert "7 of 7 elements differ" in str(reference.differences("v0", exact * (1 + 1e-13)))
    assert "instead of float64" in str(reference.differences("v0", exact.astype(np.float32)))


def test_exact_lines_agree_to_the_bit() -> None:
    x = np.linspace(0.1, 2, 7)
    program = Program("f", {"x": x}, (Line("v0", "x + 1", ("x",)),), ("v0",))
    reference = fuzz.Reference(program)
    assert reference.differences("v0", x + 1) is None
    assert reference.differences("v0", np.nextafter(x + 1, 9)) is not None


def test_failures_shrink_to_the_lines_that_matter() -> None:
    lines = (
        Line("v0", "x + 1", ("x",)),
        Line("v1", "np.negative(v0)", ("v0",)),
        Line("v2", "x * 2", ("x",)),
        Line("v3", "v1 + v2", ("v1", "v2")),
    )
    program = Program("f", {"x": F32}, lines, ("v3", "v0"))
    small = fuzz.shrink(program, lambda p: "np.negative" in p.source)
    assert [str(line) for line in small.lines] == ["v1 = np.negative(v0)"]
    assert list(small.inputs) == ["v0"]
