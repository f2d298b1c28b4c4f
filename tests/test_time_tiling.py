"""Scanned stencils that visit their rows once for many steps: the same bits as step by step, and as
NumPy; and scans that carry only what is read.

A step in NumPy is the reference; without time tiling the same program runs step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import Options, lax, loops
from tilewright.ops.control import Scan
from tilewright.transforms import time_tiling
from tilewright.transforms.unread import drop_unread

compiling = import_module("tilewright.compile")

RNG = np.random.default_rng(5)
WEIGHTS = (0.1 * RNG.standard_normal((12, 12))).astype(np.float32)


def heat(u: Any) -> Any:
    around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
    return np.pad(u[1:-1, 1:-1] + np.float32(0.2) * (around - 4 * u[1:-1, 1:-1]), 1)


def upwind(u: Any) -> Any:
    """Looks back two rows and not ahead; the rim is kept."""
    inner = u[2:] - np.float32(0.3) * (u[2:] - u[:-2])
    return np.concatenate([u[:2], inner])


def along(u: Any) -> Any:
    """No row looks at another."""
    return np.float32(0.5) * (u + u[:, ::-1])


def cube(u: Any) -> Any:
    rest = u[:-2, 1:-1, 1:-1] + u[2:, 1:-1, 1:-1] + u[1:-1, :-2, 1:-1] + u[1:-1, 1:-1, 2:]
    return np.pad(np.float32(0.25) * rest, 1)


def wave(u: Any, before: Any) -> Any:
    """Two arrays are carried, one of them the other one step ago."""
    inner = u[:-2] + u[2:] - 2 * u[1:-1]
    return np.pad(2 * u[1:-1] - before[1:-1] + np.float32(0.1) * inner, ((1, 1), (0, 0))), u


def twice(u: Any) -> Any:
    """Two stages: what is kept in between is read by neighbours."""
    slope = np.exp(-np.pad(np.abs(u[1:] - u[:-1]), ((0, 1), (0, 0))))
    flow = np.pad(slope[1:] - slope[:-1], ((1, 0), (0, 0)))
    return u + np.float32(0.1) * flow * slope


def run(step: Callable[..., Any], count: int, *carry: Any) -> Any:
    def body(_: Any, state: Any) -> Any:
        after = step(*state)
        return after if isinstance(after, tuple) else (after,)

    return lax.fori_loop(0, count, body, carry)


CASES = [
    (heat, [(300, 40)], 20, True),
    (heat, [(301, 37)], 7, True),
    (heat, [(3, 5)], 9, False),
    (upwind, [(200, 30)], 11, False),
    (along, [(130, 9)], 6, True),
    (cube, [(150, 6, 7)], 5, True),
    (wave, [(260, 21), (260, 21)], 13, True),
    (twice, [(400, 11)], 8, True),
]
SMALL = [(heat, [(66, 5)], 3, True), (wave, [(65, 3), (65, 3)], 4, True)]
VERIFY = Options(verify=True)


def arguments(shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    return [RNG.standard_normal(s).astype(np.float32) for s in shapes]


def forget(monkeypatch: pytest.MonkeyPatch, large: int, window: int = 384 << 10) -> None:
    """What is compiled from here on is tiled from so many bytes on, in such windows."""
    monkeypatch.setattr(compiling, "_programs", compiling.Programs())
    monkeypatch.setattr(time_tiling, "LARGE", large)
    monkeypatch.setattr(time_tiling, "WINDOW_BYTES", window)


def is_tiled(f: Any, *args: Any) -> bool:
    return "steps at a time" in f.lower(*args).explain()


@pytest.mark.parametrize("window", (8 << 10, 384 << 10))
@pytest.mark.parametrize("step, shapes, count, fits", CASES)
def test_the_same_bits_as_step_by_step(
    step: Any, shapes: Any, count: int, fits: bool, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = arguments(shapes)

    def f(*carry: Any) -> Any:
        return run(step, count, *carry)

    plain = tw.compile(f, options=VERIFY)
    forget(monkeypatch, 1 << 40)
    expected = plain(*args)
    assert not is_tiled(plain, *args)
    forget(monkeypatch, 1, window)
    for threads in (1, 2, 3):
        tiled = tw.compile(f, options=VERIFY, threads=threads)
        for got, want in zip(tiled(*args), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert is_tiled(tiled, *args) == fits
    for _ in range(count):
        after = step(*args)
        args = list(after) if isinstance(after, tuple) else [after]
    for got, want in zip(expected, args, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step, shapes, count, fits", SMALL)
def test_interpreted_loops(
    step: Any, shapes: Any, count: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, 1)
    args = arguments(shapes)
    f = tw.compile(lambda *carry: run(step, count, *carry), options=VERIFY)
    lowered = f.lower(*args)
    arena = np.zeros(lowered.entry.program.assembly.arena_bytes + 64, np.uint8)
    outs = [np.zeros_like(a) for a in args]
    loops.run(lowered.program, [*args, *outs, arena])
    for got, want in zip(outs, f(*args), strict=True):
        np.testing.assert_array_equal(got, want)


def test_coefficients_that_steps_read(monkeypatch: pytest.MonkeyPatch) -> None:
    (u,), (c,) = arguments([(120, 17)]), arguments([(120, 17)])

    def f(u: Any, c: Any) -> Any:
        return run(lambda u: np.pad(u[1:-1] * c[2:] + u[2:] * c[0], ((1, 1), (0, 0))), 6, u)[0]

    forget(monkeypatch, 1 << 40)
    expected = tw.compile(f)(u, c)
    forget(monkeypatch, 1)
    tiled = tw.compile(f)
    np.testing.assert_array_equal(tiled(u, c), expected)
    assert is_tiled(tiled, u, c)
    want = u.astype(np.float64)
    for _ in range(6):
        want = np.pad(want[1:-1] * c[2:] + want[2:] * c[0], ((1, 1), (0, 0)))
    np.testing.assert_allclose(expected, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda u: np.roll(u, 1, axis=0), id="wraps"),
        pytest.param(lambda u: u + u[0], id="reads one row everywhere"),
        pytest.param(lambda u: u - u.mean(), id="sums everything"),
        pytest.param(lambda u: u @ WEIGHTS, id="multiplies matrices"),
        pytest.param(lambda u: np.cumsum(u, axis=0), id="opaque"),
        pytest.param(lambda u: u[::-1], id="backwards"),
    ],
)
def test_what_is_no_stencil_goes_step_by_step(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, 1)
    (u,) = arguments([(200, 12)])
    f = tw.compile(lambda u: run(step, 4, u)[0])
    expected = u
    for _ in range(4):
        expected = step(expected)
    assert not is_tiled(f, u)
    np.testing.assert_allclose(f(u), expected, rtol=1e-4, atol=1e-4)


def test_gradients_go_through(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, 1)
    (u,) = arguments([(90, 11)])

    def loss(u: Any) -> Any:
        return (run(heat, 5, u)[0] ** 2).sum()

    tangent = np.ones_like(u)
    by_reverse = (tw.compile(tw.grad(loss))(u) * tangent).sum()
    by_forward = tw.compile(lambda u, t: tw.jvp(loss, (u,), (t,))[1])(u, tangent)
    np.testing.assert_allclose(by_reverse, by_forward, rtol=1e-3)


# -- what nobody reads ---------------------------------------------------------------------------


def scans(f: Any, *args: Any) -> list[Scan]:
    narrow = drop_unread(f.lower(*args).graph)
    return [n.op for n in narrow.nodes if isinstance(n.op, Scan)]


def test_counters_that_nobody_reads_are_not_carried() -> None:
    f = tw.compile(lambda x: lax.fori_loop(0, 3, lambda i, x: 2 * x, x))
    (op,) = scans(f, np.ones(3))
    assert (op.carry, len(op.body.outputs)) == (1, 1)
    np.testing.assert_array_equal(f(np.ones(3)), np.full(3, 8.0))


def test_counters_that_are_read_are_carried() -> None:
    f = tw.compile(lambda x: lax.fori_loop(0, 3, lambda i, x: x + i, x))
    (op,) = scans(f, np.ones(3))
    assert op.carry == 2
    np.testing.assert_array_equal(f(np.ones(3)), np.full(3, 4.0))


def test_stacks_and_inputs_that_nobody_reads_are_dropped() -> None:
    def step(carry: Any, x: Any) -> Any:
        a, b, c = carry
        return (a + c, 3 * b + x[0], c), (a * x[1], b)

    def f(x: Any, y: Any) -> Any:
        (a, _, _), (first, _) = lax.scan(step, (x[0, 0], x[0, 1], y), x)
        return a, first

    g = tw.compile(f)
    x, y = np.arange(8.0).reshape(4, 2), np.float64(2)
    (op,) = scans(g, x, y)
    assert (op.consts, op.carry, len(op.body.outputs)) == (0, 2, 3)
    got = g(x, y)
    assert got[0] == 8
    np.testing.assert_array_equal(got[1], np.array([0.0, 2, 4, 6]) * x[:, 1])
