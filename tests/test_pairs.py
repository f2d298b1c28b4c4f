"""Reductions over pairs of points: nothing of the size of all pairs is kept, and the values are
NumPy's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.codegen.libm import expand
from tilewright.codegen.llvm_values import native_operations
from tilewright.expr import Apply, Buffer, Reduce, apply, walk
from tilewright.scalars import MULTIPLY_ADD
from tilewright.target import Target, named
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import planned


def forces(x: Any, mass: Any) -> Any:
    """Softened gravity on each point; x is [..., n, d]."""
    d = x[..., None, :, :] - x[..., :, None, :]
    pull = mass * ((d * d).sum(axis=-1) + 1e-2) ** -1.5
    return (d * pull[..., None]).sum(axis=-2)


def density(q: Any, x: Any) -> Any:
    d = q[:, None, :] - x[None, :, :]
    return np.exp(-0.5 * (d * d).sum(-1)).sum(1)


def nearest(q: Any, x: Any) -> Any:
    return np.abs(q[:, None, :] - x[None, :, :]).max(-1).min(1)


def energy(x: Any, charge: Any) -> Any:
    d = x[:, None, :] - x[None, :, :]
    return ((charge[:, None] * charge) / np.sqrt((d * d).sum(-1) + 0.1)).sum()


def points(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def energy_slope(x: Any, charge: Any) -> Any:
    return tw.grad(energy)(x, charge)


CASES: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (forces, (points(70, 3), np.abs(points(70)))),
    (forces, (points(33, 2, dtype=np.float64), np.abs(points(33, dtype=np.float64)))),
    (forces, (points(5, 3), np.abs(points(5)))),
    (forces, (points(3, 40, 3), np.abs(points(40)))),
    (forces, (points(40, 1), np.abs(points(40)))),
    (forces, (points(40, 5), np.abs(points(40)))),
    (density, (points(50, 2), points(21, 2))),
    (density, (points(21, 4), points(50, 4))),
    (nearest, (points(37, 3), points(64, 3))),
    (energy, (points(45, 3), points(45))),
]


@pytest.mark.parametrize(("f", "args"), CASES)
def test_pairs_are_what_numpy_makes_of_them(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    exact = f(*(a.astype(np.float64) for a in args))
    bound = 1e-4 if args[0].dtype == np.float32 else 1e-12
    np.testing.assert_allclose(tw.compile(f)(*args), exact, bound, bound * np.abs(exact).max())


@pytest.mark.parametrize("d", [2, 3, 4, 5])
def test_the_terms_of_a_row_are_written_out_and_its_lanes_go_along_it(d: int) -> None:
    def closest(x: Any, centres: Any) -> Any:
        d = x[:, None, :] - centres
        return np.argmin((d * d).sum(-1), axis=1)

    args = points(200, d), points(40, d)
    np.testing.assert_array_equal(tw.compile(closest)(*args), closest(*args))
    lowered = tw.compile(closest).lower(*args)
    (kernel,) = lowered.kernels
    assert any(a.axes for a in kernel.body), "a row kernel"
    assert (" sum[" not in str(kernel)) is (d <= 4), kernel


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    args = points(300, 3), np.abs(points(300))
    one, more = (tw.compile(forces, threads=n)(*args) for n in (1, threads))
    np.testing.assert_array_equal(one, more)


@pytest.mark.parametrize(("f", "args"), [CASES[0], CASES[1], CASES[6], CASES[7], CASES[8]])
def test_no_array_of_all_pairs_is_kept(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    (kernel,) = tw.compile(f).lower(*args).kernels
    pairs = args[0].shape[0] * args[1].shape[0]
    assert not kernel.locals and all(math.prod(b.shape) < pairs for b in kernel.params)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [45, 64])
def test_gradients_compute_pairs_again_and_both_ways_round_at_once(dtype: Any, n: int) -> None:
    x, charge = points(n, 3, dtype=dtype), points(n, dtype=dtype)
    lowered = tw.compile(energy_slope).lower(x, charge)
    (kernel,) = lowered.kernels
    assert all(math.prod(b.shape) < n * n for b in kernel.params)
    sums = [e for e in walk(*(a.value for a in kernel.body)) if isinstance(e, Reduce)]
    roots = [e for e in walk(*sums) if isinstance(e, Apply) and e.op.name == "sqrt"]
    assert len(sums) == 2 and len(roots) == 1, kernel

    d = (x[:, None] - x).astype(np.float64)
    pull = -(charge[:, None] * charge) * ((d * d).sum(-1) + 0.1) ** -1.5
    exact = 2 * (pull[..., None] * d).sum(1)
    bound = 1e-4 if dtype == np.float32 else 1e-12
    found = tw.compile(energy_slope)(x, charge)
    np.testing.assert_allclose(found, exact, bound, bound * np.abs(exact).max())


def test_terms_that_another_reduction_reads_are_written_out() -> None:
    (kernel,) = tw.compile(density).lower(points(50, 3), points(21, 3)).kernels
    text = str(kernel)
    assert text.count(" sum[") == 1, text
    (kernel,) = tw.compile(lambda q, x: (q[:, None] - x).sum(-1)).lower(*CASES[7][1]).kernels
    assert str(kernel).count(" sum[") == 1, kernel  # nothing reads this sum again


def test_lanes_go_along_the_results_and_components_are_written_out() -> None:
    lowered = tw.compile(forces).lower(points(1000, 3), np.abs(points(1000)))
    schedule = str(*lowered.schedules.values())
    assert "Vectorize(i." in schedule and "Unroll(j)" in schedule, schedule
    assert 'Vectorize("k' not in schedule


@pytest.mark.parametrize(("n", "width"), [(384, 3), (400, 1), (544, 2), (640, 4), (1000, 2)])
def test_the_vectors_of_a_tile_divide_those_of_a_row(n: int, width: int) -> None:
    """What would be left over were one more copy of the tile's code, for one round."""
    target = Target("x86_64-unknown-linux-gnu", "znver4", "", vector_bytes=64)
    (kernel,) = tw.compile(density).lower(points(n, 2), points(50, 2)).kernels
    plans = planned(kernel, heuristic(kernel, target)).plans
    (plan,) = [plans[a] for a in kernel.axes if a in plans]
    assert (plan.lanes, plan.unroll) == (16, width)


def test_terms_of_a_sum_are_added_to_it_in_one_step() -> None:
    """Where the machine has the instruction; what is no sum keeps NumPy's two roundings."""
    x = points(64, 3)
    (kernel,) = tw.compile(lambda x: ((x[:, None] - x) ** 2).sum(-1).max(0)).lower(x).kernels
    assert str(kernel).count("multiply_add") == 2
    (kernel,) = tw.compile(lambda x: x[:, 0] * x[:, 1] + x[:, 2]).lower(x).kernels
    assert "multiply_add" not in str(kernel)
    step = apply(MULTIPLY_ADD, *(Buffer(n, np.dtype(np.float32), ())[()] for n in "abc"))
    for machine, has_one in (("avx2", True), ("sse2", False)):
        (value,) = expand([step], native_operations(named(machine)))
        assert ("fma" in str(value)) is has_one, value
