"""Whole algorithms with loops inside: they equal NumPy's loops, and iterations neither allocate
nor return to Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw

RNG = np.random.default_rng(7)


def newton(a: Any) -> Any:
    """Square roots, each element until it has converged."""
    return tw.while_loop(
        lambda x: np.any(np.abs(x * x - a) > 1e-10 * a), lambda x: (x + a / x) / 2, a
    )


def newton_numpy(a: Any) -> Any:
    x = a
    while np.any(np.abs(x * x - a) > 1e-10 * a):
        x = (x + a / x) / 2
    return x


def mandelbrot(c: Any) -> Any:
    """Rounds until |z| > 2, at most 60."""

    def body(i: Any, carry: Any) -> Any:
        z, count = carry
        inside = z.real**2 + z.imag**2 <= 4
        return np.where(inside, z * z + c, z), count + inside

    z, count = np.zeros_like(c), np.zeros(c.shape, np.int64)
    return tw.fori_loop(0, 60, body, (z, count))[1]


def mandelbrot_numpy(c: Any) -> Any:
    z, count = np.zeros_like(c), np.zeros(c.shape, np.int64)
    for _ in range(60):
        inside = z.real**2 + z.imag**2 <= 4
        z, count = np.where(inside, z * z + c, z), count + inside
    return count


def jacobi(a: Any, b: Any) -> Any:
    """Solve a x = b by Jacobi's iteration, until the step is small."""
    d = np.diagonal(a)

    def unfinished(state: Any) -> Any:
        x, old, n = state
        return (np.abs(x - old).max() > 1e-12) & (n < 500)

    def step(state: Any) -> Any:
        x, _, n = state
        return (b - a @ x + d * x) / d, x, n + 1

    x, _, n = tw.while_loop(unfinished, step, (b / d, np.zeros_like(b), 0))
    return x, n


def jacobi_numpy(a: Any, b: Any) -> Any:
    d = np.diagonal(a)
    x, old, n = b / d, np.zeros_like(b), 0
    while np.abs(x - old).max() > 1e-12 and n < 500:
        x, old, n = (b - a @ x + d * x) / d, x, n + 1
    return x, n


def heat(u: Any) -> Any:
    """Fifty explicit steps of the heat equation with fixed borders."""

    def step(_: Any, u: Any) -> Any:
        inner = u[1:-1, 1:-1] + 0.2 * (
            u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] - 4 * u[1:-1, 1:-1]
        )
        u = u.copy()
        u[1:-1, 1:-1] = inner
        return u

    if isinstance(u, np.ndarray):
        for i in range(50):
            u = step(i, u)
        return u
    return tw.fori_loop(0, 50, step, u)


C = np.linspace(-2, 1, 40)[None, :] + 1j * np.linspace(-1.2, 1.2, 30)[:, None]
A = RNG.standard_normal((20, 20)) + 30 * np.eye(20)
CASES: list[Any] = [
    pytest.param(newton, newton_numpy, (RNG.uniform(1, 9, 13),), id="newton"),
    pytest.param(mandelbrot, mandelbrot_numpy, (C,), id="mandelbrot"),
    pytest.param(jacobi, jacobi_numpy, (A, RNG.standard_normal(20)), id="jacobi"),
    pytest.param(heat, heat, (RNG.standard_normal((17, 23)),), id="heat"),
]


@pytest.mark.parametrize(("ours", "reference", "args"), CASES)
def test_equals_the_loop_in_numpy(ours: Any, reference: Any, args: Any) -> None:
    got, want = tw.compile(ours)(*args), reference(*args)
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    for a, b in pairs:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize(("ours", "reference", "args"), CASES)
def test_iterations_stay_in_native_code(ours: Any, reference: Any, args: Any) -> None:
    """The loop is a loop of the one program, whose memory is planned before it starts."""
    compiled = tw.compile(ours)
    lowered = compiled.lower(*args)
    entry = lowered.loops[lowered.loops.index("loops entry") :]
    # An elementwise loop is a function of its own, which runs all steps of a few elements.
    assert "  while " in entry or "  for " in entry or "call pointwise_loop" in entry
    assert "malloc" not in lowered.llvm
    for function in lowered.llvm.split("\n}")[:-1]:
        blocks = function.split(":\n")
        assert not any(" alloca " in block for block in blocks[2:])  # only where it enters


def test_python_calls_do_not_grow_with_the_iterations() -> None:
    """A thousand rounds make as many Python calls as one."""

    def calls(f: Callable[..., Any], *args: Any) -> int:
        count = 0

        def hook(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(hook)
        try:
            f(*args)
        finally:
            sys.setprofile(before)
        return count

    f = tw.compile(lambda n, x: tw.fori_loop(0, n, lambda _, x: np.cos(x), x))
    x = np.ones(3)
    for _ in range(10):  # on the way, native code takes over from the Python that starts programs
        f(np.int64(1), x)
    assert calls(f, np.int64(1000), x) == calls(f, np.int64(1), x)
