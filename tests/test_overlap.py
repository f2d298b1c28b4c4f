"""Overlap-add: its loops mean what it says, convolutions by it are convolutions, and the rewrite
replaces those that multiply mostly zeros and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tilewright as tw
from tilewright import Options, lax, loops
from tilewright.errors import InternalError
from tilewright.expr import Buffer
from tilewright.graph import Graph, Type, evaluate, new_input
from tilewright.ops.contract import Conv, Dot
from tilewright.ops.overlap import OverlapAdd, Spread
from tilewright.ops.shape import Flip, Transpose
from tilewright.transforms.overlap import overlap

GAPS = Conv((1, 1), ((2, 2), (2, 2)), (2, 2), (1, 1))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def graph_of(conv: Conv, *args: np.ndarray) -> Graph:
    inputs = tuple(new_input("x", Type(a.dtype, a.shape)) for a in args)
    return Graph("f", inputs, (conv.node(*inputs),))


def replaced(conv: Conv, *args: np.ndarray) -> bool:
    """Whether the rewrite replaces a convolution of these arrays."""
    graph = graph_of(conv, *args)
    return overlap(graph) is not graph


# -- the op --------------------------------------------------------------------------------------

LINES = [
    (Spread(1, 1, 2, 1, 9), 3, 5),
    (Spread(1, 2, 2, 1, 7), 4, 4),
    (Spread(1, -1, 3, 1, 11), 2, 6),
    (Spread(1, 3, 3, 2, 12), 5, 3),
    (Spread(1, 0, 4, 2, 13), 3, 4),
    (Spread(2, 1, 3, 1, 8), 4, 6),
    (Spread(2, 3, 4, 1, 9), 5, 5),
    (Spread(3, 0, 2, 5, 6), 3, 20),
    (Spread(1, 19, 1, 1, 22), 20, 3),
    (Spread(1, 5, 2, 1, 400), 17, 190),
    (Spread(1, 0, 1, 1, 4), 4, 1),
]


@pytest.mark.parametrize("reverse", (False, True))
@pytest.mark.parametrize("line", LINES)
def test_loops_add_what_belongs(line: tuple[Spread, int, int], reverse: bool) -> None:
    """The loops, interpreted, of lines, whose columns have vectors, and of the rows of planes."""
    s, window, image = line
    s = replace(s, reverse=reverse)
    other = Spread(1, 1, 2, 1, 5)
    cases = [(OverlapAdd((s,)), (2, window, 3, image))]
    if image < 100:
        cases.append((OverlapAdd((s, other)), (2, window, 3, 1, image, 3)))
    for op, shape in cases:
        x = normal(*shape)
        expected = op.numpy(x)
        source, out = Buffer("x", x.dtype, shape, "input"), Buffer("y", x.dtype, expected.shape)
        function = loops.Function("f", (source, out), loops.block(op.loops([out], source)))
        loops.verify(function)
        found = np.full_like(expected, np.nan)
        loops.run(loops.Program((function,)), [x, found])
        assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_what_it_means() -> None:
    """Elements two apart, each times all weights, added where they overlap."""
    x, w = np.array([1.0, 10.0, 100.0]), np.array([1.0, 2.0, 3.0])
    products = np.outer(w[::-1], x)[None, :, None, :]
    (found,) = OverlapAdd((Spread(1, 2, 2, 1, 7),)).numpy(products)[0]
    assert found.tolist() == [1, 2, 13, 20, 130, 200, 300]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 3, 1, 4, 4), "f8"), ((2, 3, 1, 4), "i8"), ((2, 3, 1, 0), "f8")],
    ids=("axes", "integers", "empty"),
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(InternalError):
        OverlapAdd((Spread(1, 2, 2, 1, 7),)).type(Type(np.dtype(dtype), shape))


# -- the rewrite ---------------------------------------------------------------------------------

CASES = [
    (GAPS, (2, 5, 7, 6), (3, 5, 4, 4)),
    (replace(GAPS, groups=3), (1, 6, 4, 5), (9, 2, 3, 3)),
    (replace(GAPS, groups=4), (2, 4, 9, 8), (4, 1, 3, 3)),
    (replace(GAPS, lhs_dilation=(3, 1), padding=((1, 4), (0, 2))), (1, 3, 5, 33), (4, 3, 3, 2)),
    (replace(GAPS, lhs_dilation=(3, 4), strides=(2, 1)), (1, 3, 6, 5), (4, 3, 4, 3)),
    (replace(GAPS, rhs_dilation=(2, 3), padding=((5, 2), (7, -1))), (1, 3, 6, 5), (4, 3, 3, 4)),
    (replace(GAPS, padding=((-2, 1), (3, -3))), (1, 3, 9, 12), (4, 3, 4, 5)),
    (replace(GAPS, lhs_dilation=(1, 1), padding=((3, 3), (3, 3))), (2, 8, 1, 1), (5, 8, 4, 4)),
    (Conv((1,), ((9, 9),), (8,), (1,)), (1, 2, 150), (3, 2, 17)),
    (Conv((1,) * 3, ((1, 1),) * 3, (2,) * 3, (1,) * 3), (1, 2, 3, 4, 5), (3, 2, 3, 3, 3)),
]


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("case", CASES)
def test_convolutions_are_what_they_were(case: tuple, dtype: type) -> None:
    conv, image, window = case
    x, w = normal(*image).astype(dtype), normal(*window, seed=1).astype(dtype)
    assert replaced(conv, x, w)
    expected = conv.numpy(x.astype(np.float64), w.astype(np.float64))
    (meant,) = evaluate(overlap(graph_of(conv, x, w)), (x, w))
    tolerance = np.finfo(dtype).eps * 64
    assert_allclose(meant, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())

    def f(x, w):
        return conv(x, w)

    found = tw.compile(options=Options(verify=True))(f)(x, w)
    assert found.shape == expected.shape and found.dtype == dtype
    assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_a_reversed_window_is_read_as_it_stands() -> None:
    x, w = new_input("x", f64(1, 3, 5, 6)), new_input("w", f64(3, 4, 3, 4))
    turned = Transpose((1, 0, 2, 3)).node(Flip((2, 3)).node(w))
    graph = Graph("f", (x, w), (GAPS.node(x, turned),))
    after = overlap(graph)
    ops = [type(n.op) for n in after.nodes]
    assert Flip not in ops and Conv not in ops and ops.count(Dot) == 1
    args = normal(1, 3, 5, 6), normal(3, 4, 3, 4, seed=1)
    (found,), (expected,) = evaluate(after, args), evaluate(graph, args)
    assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert overlap(after) is after


def test_reversed_channels_stay_reversed() -> None:
    x, w = new_input("x", f64(1, 3, 5, 6)), new_input("w", f64(4, 3, 3, 4))
    graph = Graph("f", (x, w), (GAPS.node(x, Flip((1, 3)).node(w)),))
    after = overlap(graph)
    assert after is not graph
    args = normal(1, 3, 5, 6), normal(4, 3, 3, 4, seed=1)
    (found,), (expected,) = evaluate(after, args), evaluate(graph, args)
    assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def f64(*shape: int) -> Type:
    return Type(np.dtype(np.float64), shape)


@pytest.mark.parametrize(
    ("why", "conv", "x", "w"),
    [
        ("integers", GAPS, (1, 3, 5, 5), (4, 3, 3, 3)),
        ("no zeros", replace(GAPS, lhs_dilation=(1, 1)), (1, 3, 9, 9), (4, 3, 5, 5)),
        ("cropped", replace(GAPS, padding=((-3, -3), (-3, -3))), (1, 3, 6, 6), (4, 3, 3, 3)),
        ("strides", replace(GAPS, strides=(2, 2)), (1, 3, 9, 9), (4, 3, 4, 4)),
        ("nothing to do", GAPS, (0, 3, 5, 5), (4, 3, 3, 3)),
    ],
)
def test_others_stay(why: str, conv: Conv, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    dtype = np.int64 if why == "integers" else np.float64
    assert not replaced(conv, np.zeros(x, dtype), np.zeros(w, dtype))


def test_gradients_of_strided_convolutions() -> None:
    """Of the image, as of a convolution that nothing was rewritten in: by finite differences."""
    x, w = normal(1, 3, 9, 8), normal(4, 3, 3, 3, seed=1)
    conv = Conv((2, 2), ((1, 1), (1, 1)), (1, 1), (1, 1))

    def loss(x, w):
        return (conv(x, w) ** 2).sum()

    gradient = tw.compile(tw.grad(loss))
    ops = [type(n.op) for n in gradient.lower(x, w).simplified.nodes]
    assert OverlapAdd in ops
    direction, step = normal(*x.shape, seed=2), 1e-5
    ends = [(conv.numpy(x + s * direction, w) ** 2).sum() for s in (step, -step)]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert_allclose((gradient(x, w) * direction).sum(), slope, rtol=1e-7)


def test_in_loops() -> None:
    """Inside the body of a scan too, and under threads."""
    xs, w = normal(3, 1, 4, 5, 6), normal(4, 4, 3, 3, seed=1)

    def f(xs, w):
        return lax.scan(lambda c, x: (c, GAPS(x, w)), w, xs)[1]

    expected = np.stack([GAPS.numpy(x, w) for x in xs])
    found = [tw.compile(threads=t)(f)(xs, w) for t in (1, 2)]
    assert_allclose(found[0], expected, rtol=1e-12, atol=1e-12)
    assert found[0].tobytes() == found[1].tobytes()
