"""Convolutions by transforms of tiles: the parts, the whole, gradients, and where it is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tilewright as tw
from tilewright import Options
from tilewright.compile import machine
from tilewright.cost_model.algorithms import Fixed
from tilewright.cost_model.choice import Choice
from tilewright.errors import InternalError
from tilewright.graph import Graph, Type, new_input
from tilewright.ops.contract import Conv
from tilewright.ops.fourier import Tiles, Untiled
from tilewright.transforms import pipeline
from tilewright.transforms.fourier import SIDES, LargeWindow, fourier
from tilewright.transforms.winograd import DIRECT


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def conv(*padding: tuple[int, int], strides: tuple[int, int] = (1, 1), groups: int = 1) -> Conv:
    return Conv(strides, padding, (1, 1), (1, 1), groups)


def graph_of(op: Conv, *args: Any) -> Graph:
    inputs = tuple(new_input("x", Type(a.dtype, a.shape)) for a in args)
    return Graph("f", inputs, (op.node(*inputs),))


def asked(op: Conv, *args: Any) -> list[LargeWindow]:
    """What the rewrite asks about a convolution of these arrays."""
    found: list[LargeWindow] = []
    fourier(graph_of(op, *args), lambda c: found.append(c))  # type: ignore[arg-type, func-returns-value]
    return found


def by(name: str, f: Any) -> Any:
    return tw.compile(f, scheduler=Fixed(Choice(machine(), 1), name), threads=1)


def tiled(f: Any, *args: Any) -> int:
    """How many convolutions of a compiled function are transformed."""
    return sum(isinstance(n.op, Untiled) for n in f.lower(*args).simplified.nodes)


def close(found: Any, op: Conv, *args: Any) -> None:
    """Nearer to the exact results than direct sums are."""
    exact = op.numpy(*(a.astype(np.float64) for a in args))
    assert found.dtype == np.float32 and found.shape == exact.shape
    assert np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max()


# -- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op, shape",
    [
        (Tiles(5, (3, 2), (0, 0), (1, 1)), (1, 5, 5, 1)),
        (Tiles(5, (3, 2), (0, 0), (2, 3)), (2, 8, 9, 3)),
        (Tiles(6, (2, 5), (3, 1), (4, 2)), (2, 7, 8, 17)),
        (Tiles(4, (4, 4), (-2, -1), (2, 1)), (1, 9, 5, 2)),
        (Tiles(9, (1, 7), (4, 20), (5, 4)), (1, 3, 2, 4)),
    ],
)
def test_tiles(op: Tiles, shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    found = tw.compile(options=Options(verify=True))(lambda x: op(x))(x)
    expected = np.zeros(op.type(Type(x.dtype, x.shape)).shape, np.float32)
    for at in np.ndindex(*expected.shape):
        i, j, n, row, column, c = at
        y, z = row * op.step[0] + i - op.low[0], column * op.step[1] + j - op.low[1]
        if 0 <= y < shape[1] and 0 <= z < shape[2]:
            expected[at] = x[n, y, z, c]
    np.testing.assert_array_equal(op.numpy(x), expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "size, shape",
    [
        ((7, 9), (4, 2, 2, 3, 5, 3)),
        ((8, 6), (4, 1, 2, 1, 1, 6)),
        ((1, 33), (5, 3, 1, 2, 2, 17)),
        ((9, 64), (3, 1, 3, 2, 4, 40)),
    ],
)
def test_untiled(size: tuple[int, int], shape: tuple[int, ...]) -> None:
    op, x = Untiled(size), normal(*shape)
    found = tw.compile(options=Options(verify=True))(lambda x: op(x))(x)
    down, n, _, _, k, across = shape
    expected = np.zeros((n, k, *size), np.float32)
    for at in np.ndindex(*expected.shape):
        a, b, y, z = at
        expected[at] = x[y % down, a, y // down, z // across, b, z % across]
    np.testing.assert_array_equal(op.numpy(x), expected)
    np.testing.assert_array_equal(found, expected)


def test_parts_refuse_what_does_not_fit() -> None:
    with pytest.raises(InternalError):
        Tiles(5, (3, 2), (0, 0), (1, 1)).type(Type(np.dtype(np.float32), (0, 5, 5, 1)))
    with pytest.raises(InternalError):
        Untiled((9, 9)).type(Type(np.dtype(np.float32), (4, 2, 2, 3, 5, 3)))


# -- the whole -----------------------------------------------------------------------------------

SHAPES = [
    ((1, 1, 40, 40), (1, 1, 11, 11), ((5, 5), (5, 5))),
    ((2, 3, 37, 61), (5, 3, 15, 15), ((7, 7), (7, 7))),
    ((1, 17, 33, 50), (16, 17, 3, 40), ((1, 1), (0, 0))),
    ((3, 2, 64, 20), (4, 2, 30, 5), ((29, 0), (0, 4))),
    ((1, 4, 50, 50), (1, 4, 13, 9), ((-3, 2), (1, -5))),
    ((1, 2, 29, 29), (3, 2, 12, 12), ((11, 11), (11, 11))),
]


@pytest.mark.parametrize("shape, window, padding", SHAPES)
def test_every_side_convolves(shape: Any, window: Any, padding: Any) -> None:
    op, x, w = conv(*padding), normal(*shape), normal(*window, seed=1)
    (c,) = asked(op, x, w)
    assert c.algorithms[0] == DIRECT and len(c.algorithms) > 1
    for name in c.algorithms[1:]:
        f = by(name, lambda x, w: op(x, w))
        assert tiled(f, x, w) == 1, name
        close(f(x, w), op, x, w)


@pytest.mark.parametrize("seed", range(8))
def test_any_large_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, c, k = map(int, rng.integers(1, 5, 3))
    window = [int(s) for s in rng.integers(10, 25, 2)]
    image = [int(rng.integers(s, 3 * s)) for s in window]
    padding = [tuple(map(int, rng.integers(0, s, 2))) for s in window]
    op, x, w = conv(*padding), normal(n, c, *image, seed=seed), normal(k, c, *window, seed=seed + 1)
    for question in asked(op, x, w):
        for name in question.algorithms[1:]:
            close(by(name, lambda x, w: op(x, w))(x, w), op, x, w)


def test_gradients_are_transformed_too() -> None:
    op, x, w = conv((5, 5), (5, 5)), normal(2, 3, 30, 32), normal(4, 3, 11, 11, seed=1)
    ct = normal(2, 4, 30, 32, seed=2)
    gradient = tw.grad(lambda x, w, ct: (op(x, w) * ct).sum(), argnums=(0, 1))
    f = by("fourier 46", gradient)
    assert tiled(f, x, w, ct) == 2, "of the image and of the window"
    wide = [a.astype(np.float64) for a in (x, w, ct)]
    for found, exact in zip(f(x, w, ct), tw.compile(gradient)(*wide), strict=True):
        assert_allclose(found, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_constant_windows_are_transformed_once() -> None:
    w = normal(2, 3, 30, 30)
    x, held, op = normal(1, 3, 60, 60), tw.constant(w), conv((0, 0), (0, 0))
    f = by("fourier 46", lambda x: op(x, tw.array.asarray(held)))
    close(f(x), op, x, w)
    first = f.lower(x).entry.program.assembly.preparation
    assert first is not None
    assert 4 * 46 * 24 * 6 in [np.prod(t.shape) for t in first.results]


# -- where ---------------------------------------------------------------------------------------


def test_large_windows_on_large_images_are_transformed() -> None:
    large = normal(1, 16, 128, 128), normal(16, 16, 15, 15, seed=1)
    f = tw.compile(lambda x, w: conv((7, 7), (7, 7))(x, w), threads=1)
    assert tiled(f, *large) == 1
    close(f(*large), conv((7, 7), (7, 7)), *large)
    off = tw.compile(lambda x, w: conv((7, 7), (7, 7))(x, w), options=Options(winograd=False))
    assert tiled(off, *large) == 0
    small = normal(1, 16, 32, 32), normal(16, 16, 11, 11, seed=1)
    assert asked(conv((5, 5), (5, 5)), *small)[0].counted == DIRECT
    assert fourier(graph := graph_of(conv((5, 5), (5, 5)), *small)) is graph


@pytest.mark.parametrize(
    "op, shape, window, dtype",
    [
        (conv((0, 0), (0, 0)), (1, 2, 40, 40), (3, 2, 9, 9), np.float32),
        (conv((0, 0), (0, 0)), (1, 2, 40, 40), (3, 2, 15, 15), np.float64),
        (conv((0, 0), (0, 0), strides=(1, 2)), (1, 2, 40, 40), (3, 2, 15, 15), np.float32),
        (conv((0, 0), (0, 0), groups=2), (1, 2, 40, 40), (2, 1, 15, 15), np.float32),
        (conv((0, 0), (0, 0)), (1, 2, 16, 16), (3, 2, 15, 15), np.float32),
        (conv((9, 9), (9, 9)), (1, 2, 200, 200), (3, 2, 150, 150), np.float32),
        (conv((7, 7), (7, 7)), (1, 512, 40, 40), (512, 512, 15, 15), np.float32),
        (conv((0, 0)), (1, 2, 400), (3, 2, 150), np.float32),
    ],
)
def test_others_are_not(op: Conv, shape: Any, window: Any, dtype: Any) -> None:
    if len(op.padding) == 1:
        op = Conv((1,), op.padding, (1,), (1,))
    assert asked(op, normal(*shape, dtype=dtype), normal(*window, dtype=dtype)) == []


def test_the_sides_of_the_fewest_cycles_are_measured() -> None:
    (c,) = asked(conv((7, 7), (7, 7)), normal(1, 4, 64, 64), normal(4, 4, 15, 15))
    counts = list(c.cycles.values())
    assert counts == sorted(counts) and len(counts) == 3 and set(c.cycles) < set(SIDES)
    x, w = normal(1, 4, 64, 64), normal(4, 4, 15, 15)
    low = tw.compile(lambda x, w: conv((7, 7), (7, 7))(x, w), threads=1).lower(x, w)
    (question,) = pipeline.computations(low.graph, Options())
    assert question == c
