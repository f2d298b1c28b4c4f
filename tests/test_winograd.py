"""Winograd's filtering: its ops mean what their loops do, convolutions by it are convolutions, and
the rewrite replaces those that become faster and no others."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tilewright as tw
from tilewright import Options, lax, loops
from tilewright.codegen import llvm, shared
from tilewright.errors import InternalError
from tilewright.graph import Graph, Type, evaluate, new_input
from tilewright.ops import filtering
from tilewright.ops.contract import Conv
from tilewright.ops.filtering import Filtering
from tilewright.ops.winograd import (
    FilterCotangents,
    FilterData,
    FilterGradients,
    FilterResults,
    FilterWeights,
)
from tilewright.target import NAMED
from tilewright.transforms.winograd import LARGE, SMALL, winograd

PLAIN = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
BOTH = pytest.mark.parametrize("f", (SMALL, LARGE), ids=("F2", "F4"))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolution(x: np.ndarray, w: np.ndarray, conv: Conv = PLAIN) -> np.ndarray:
    """In float64, by the op's own meaning."""
    return conv.numpy(x.astype(np.float64), w.astype(np.float64))


def filtered(conv: Conv, *args: np.ndarray) -> bool:
    """Whether the rewrite replaces a convolution of these arrays."""
    inputs = tuple(new_input("x", Type(a.dtype, a.shape)) for a in args)
    graph = Graph("f", inputs, (conv.node(*inputs),))
    return winograd(graph) is not graph


# -- the algorithm -------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [(1.0,), (2.0,), (1.0, 2.0), LARGE.pairs, (0.5, 1.0, 2.0)])
def test_a_filtering_correlates_a_line(pairs: tuple[float, ...]) -> None:
    f = Filtering(pairs)
    rng = np.random.default_rng(0)
    d, g = list(rng.standard_normal(f.points)), list(rng.standard_normal(3))
    products = [a * b for a, b in zip(f.data(d), f.weights(g), strict=True)]
    assert_allclose(f.combined(products), np.correlate(d, g, "valid"), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pairs", [(1.0,), (1.0, 2.0), LARGE.pairs, (0.5, 1.0, 2.0)])
def test_transposes(pairs: tuple[float, ...]) -> None:
    """<a, F b> = <transposed F a, b> for the sums of products and of weights."""
    f = Filtering(pairs)
    rng = np.random.default_rng(0)
    ct, products = list(rng.standard_normal(f.results)), list(rng.standard_normal(f.points))
    assert_allclose(
        np.dot(ct, f.combined(products)), np.dot(f.results_transposed(ct), products), rtol=1e-12
    )
    g = list(rng.standard_normal(3))
    assert_allclose(
        np.dot(products, f.weights(g)), np.dot(f.weights_transposed(products), g), rtol=1e-12
    )


# -- the ops -------------------------------------------------------------------------------------

IMAGES = [(1, 16, 8, 8), (2, 19, 5, 9), (1, 16, 17, 1), (1, 33, 3, 21)]


def same_as_numpy(op: object, *args: np.ndarray) -> None:
    """The op's loops, compiled, do what its NumPy meaning says."""
    inputs = tuple(new_input("x", Type(a.dtype, a.shape)) for a in args)
    node = op.node(*inputs)  # type: ignore[attr-defined]
    expected = op.numpy(*args)  # type: ignore[attr-defined]
    assert node.type.shape == expected.shape and expected.dtype == np.float32
    found = tw.compile(options=Options(verify=True))(lambda *xs: op(*xs))(*args)  # type: ignore[operator]
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@BOTH
@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("low", [(0, 0), (1, 1), (0, 2), (5, 3)])
def test_sums_of_inputs(f: Filtering, shape: tuple[int, ...], low: tuple[int, int]) -> None:
    tiles = tuple(-(-(s + 2 * a - 2) // f.results) for s, a in zip(shape[2:], low, strict=True))
    if min(tiles) < 1:
        tiles = (max(tiles[0], 1), max(tiles[1], 1))
    same_as_numpy(FilterData(f, low, tiles), normal(*shape))


@BOTH
@pytest.mark.parametrize("shape", [(16, 16), (17, 19), (32, 16), (64, 33), (40, 48)])
def test_sums_of_weights(f: Filtering, shape: tuple[int, int]) -> None:
    w = normal(*shape, 3, 3)
    same_as_numpy(FilterWeights(f, shape[0]), w)
    if shape[0] % 32 == 0:
        same_as_numpy(FilterWeights(f, shape[0] // 2), w, np.array(1))


@BOTH
@pytest.mark.parametrize("image", [(8, 8), (5, 9), (1, 1), (3, 35), (4, 16)])
@pytest.mark.parametrize("k", [16, 23, 64])
def test_results(f: Filtering, image: tuple[int, int], k: int) -> None:
    op = FilterResults(f, image)
    same_as_numpy(op, normal(f.points**2, 2 * op.tiles[0] * op.tiles[1], k))


@BOTH
@pytest.mark.parametrize("shape", IMAGES)
def test_cotangents(f: Filtering, shape: tuple[int, ...]) -> None:
    op = FilterCotangents(f)
    same_as_numpy(op, y := normal(*shape))
    last = FilterResults(f, (shape[2], shape[3]))
    p = normal(f.points**2, shape[0] * last.tiles[0] * last.tiles[1], shape[1], seed=1)
    wide = y.astype(np.float64), p.astype(np.float64)
    assert_allclose((op.numpy(wide[0]) * wide[1]).sum(), (wide[0] * last.numpy(wide[1])).sum())


@BOTH
@pytest.mark.parametrize("shape", [(16, 16), (17, 19), (32, 16), (64, 33), (40, 48)])
def test_gradients_of_weights(f: Filtering, shape: tuple[int, int]) -> None:
    k, c = shape
    op = FilterGradients(f)
    same_as_numpy(op, p := normal(f.points**2, c, k))
    w = normal(*shape, 3, 3, seed=1).astype(np.float64)
    sums = FilterWeights(f, k).numpy(w)
    blocks = p.astype(np.float64).reshape(f.points**2, c, sums.shape[1], -1).transpose(0, 2, 1, 3)
    assert_allclose((op.numpy(p.astype(np.float64)) * w).sum(), (blocks * sums).sum())


def test_loops_run_in_plain_python() -> None:
    """What the machine runs is what the Loops language says."""
    op, w = FilterWeights(SMALL, 16), normal(16, 16, 3, 3)
    lowered = tw.compile(lambda w: op(w)).lower(w)
    out = np.empty(op.numpy(w).shape, np.float32)
    loops.run(lowered.program, [w, out, np.empty(lowered.arena_bytes, np.uint8)])
    assert_allclose(out, op.numpy(w), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "of"),
    [
        (FilterWeights(SMALL, 16), Type(np.dtype(np.float64), (16, 16, 3, 3))),
        (FilterWeights(SMALL, 16), Type(np.dtype(np.float32), (16, 15, 3, 3))),
        (FilterData(SMALL, (1, 1), (2, 2)), Type(np.dtype(np.float32), (1, 3, 4, 4))),
        (FilterResults(SMALL, (4, 4)), Type(np.dtype(np.float32), (16, 3, 16))),
    ],
    ids=("float64", "few channels", "few channels of images", "products of other tiles"),
)
def test_what_does_not_fit_is_refused(op: object, of: Type) -> None:
    with pytest.raises(InternalError):
        op.type(of)  # type: ignore[attr-defined]


# -- the rewrite ---------------------------------------------------------------------------------

CASES = [
    (PLAIN, (1, 64, 28, 28), 64),
    (PLAIN, (3, 32, 14, 14), 48),
    (PLAIN, (1, 33, 31, 18), 35),
    (PLAIN, (2, 48, 13, 14), 96),
    (replace(PLAIN, padding=((0, 0), (0, 0))), (1, 64, 20, 23), 32),
    (replace(PLAIN, padding=((2, 1), (0, 3))), (2, 32, 15, 26), 32),
]


@pytest.mark.parametrize("case", CASES)
def test_convolutions_are_what_they_were(case: tuple[Conv, tuple[int, ...], int]) -> None:
    conv, shape, k = case
    x, w = normal(*shape), normal(k, shape[1], 3, 3, seed=1)
    assert filtered(conv, x, w)
    expected = convolution(x, w, conv)

    def f(x, w):
        return conv(x, w)

    found = tw.compile(options=Options(verify=True))(f)(x, w)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


GRADIENTS = [
    ((2, 64, 28, 28), 64, 1),
    ((5, 32, 14, 14), 48, 1),
    ((3, 33, 17, 18), 35, 1),
    ((2, 48, 21, 15), 32, 0),
    ((2, 32, 19, 16), 40, 2),
]


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_of_weights_are_what_they_were(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, k, pad = case
    conv = replace(PLAIN, padding=((pad, pad), (pad, pad)))
    x, w = normal(*shape), normal(k, shape[1], 3, 3, seed=1)
    ct = normal(*conv.type(Type(x.dtype, x.shape), Type(w.dtype, w.shape)).shape, seed=2)
    around = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))).astype(np.float64)
    h, n = ct.shape[2:]
    taps = [around[:, :, a : a + h, b : b + n] for a in range(3) for b in range(3)]
    expected = np.stack([np.einsum("nkhw,nchw->kc", ct, t, optimize=True) for t in taps], -1)

    def gradient(x, w, ct):
        return tw.vjp(lambda w: conv(x, w), w)[1](ct)[0]

    compiled = tw.compile(options=Options(verify=True))(gradient)
    names = [type(n.op).__name__ for n in compiled.lower(x, w, ct).simplified.nodes]
    assert "FilterGradients" in names and "Conv" not in names
    found = compiled(x, w, ct).reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_blocks_of_results_share_memory() -> None:
    """All but the sums of inputs and the results is as large as one block of 32 needs."""
    x, w = normal(1, 64, 28, 28), normal(256, 64, 3, 3, seed=1)
    lowered = tw.compile(lambda x, w: PLAIN(x, w)).lower(x, w)
    f, tiles = LARGE, 49
    inputs, results = f.points**2 * tiles * 64, 256 * 28 * 28
    block = f.points**2 * (64 * 32 + tiles * 32)
    assert lowered.arena_bytes < 4 * (inputs + results + block) + 4096


def test_the_graph_keeps_its_meaning() -> None:
    x, w = new_input("x", f32(1, 32, 28, 28)), new_input("w", f32(32, 32, 3, 3))
    graph = Graph("f", (x, w), (PLAIN.node(x, w),))
    args = normal(1, 32, 28, 28), normal(32, 32, 3, 3, seed=1)
    after = winograd(graph)
    ops = [type(n.op).__name__ for n in after.nodes]
    assert "Conv" not in ops and ops.count("Dot") == 1 and "Scan" not in ops
    (found,), (expected,) = evaluate(after, args), evaluate(graph, args)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert winograd(after) is after


def f32(*shape: int) -> Type:
    return Type(np.dtype(np.float32), shape)


def test_errors_stay_small() -> None:
    """Far below 1e-4 of the largest result, for as many channels as deep networks have."""
    x, w = normal(1, 256, 14, 14), normal(256, 256, 3, 3, seed=1)
    expected = convolution(x, w)
    for f, bound in ((SMALL, 4e-6), (LARGE, 1e-5)):
        last = FilterResults(f, (14, 14))
        sums = FilterData(f, (1, 1), last.tiles).numpy(x), FilterWeights(f, 256).numpy(w)
        products = np.einsum("ptc,pbck->ptbk", *sums, optimize=True)
        found = last.numpy(products.reshape(*products.shape[:2], -1))
        assert np.abs(found - expected).max() < bound * np.abs(expected).max()


@pytest.mark.parametrize(
    ("why", "conv", "x", "w"),
    [
        ("float64", PLAIN, (1, 64, 28, 28), (64, 64, 3, 3)),
        ("few channels", PLAIN, (1, 3, 64, 64), (64, 3, 3, 3)),
        ("few results", PLAIN, (1, 64, 64, 64), (8, 64, 3, 3)),
        ("windows of 5", PLAIN, (1, 64, 28, 28), (64, 64, 5, 5)),
        ("windows of 3 by 1", PLAIN, (1, 64, 28, 28), (64, 64, 3, 1)),
        ("strides", replace(PLAIN, strides=(2, 2)), (1, 64, 28, 28), (64, 64, 3, 3)),
        ("dilation", replace(PLAIN, rhs_dilation=(2, 2)), (1, 64, 28, 28), (64, 64, 3, 3)),
        ("gaps", replace(PLAIN, lhs_dilation=(2, 2)), (1, 64, 28, 28), (64, 64, 3, 3)),
        ("groups", replace(PLAIN, groups=2), (1, 64, 28, 28), (64, 32, 3, 3)),
        ("cropped", replace(PLAIN, padding=((-1, 1), (1, 1))), (1, 64, 28, 28), (64, 64, 3, 3)),
        ("more weights than work", PLAIN, (1, 512, 7, 7), (512, 512, 3, 3)),
        ("nothing to do", PLAIN, (0, 64, 28, 28), (64, 64, 3, 3)),
    ],
)
def test_others_stay(why: str, conv: Conv, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    dtype = np.float64 if why == "float64" else np.float32
    assert not filtered(conv, np.zeros(x, dtype), np.zeros(w, dtype))


def test_switched_off() -> None:
    x, w = normal(1, 64, 28, 28), normal(64, 64, 3, 3, seed=1)

    def f(x, w):
        return PLAIN(x, w)

    def ops(options: Options) -> set[str]:
        nodes = tw.compile(options=options)(f).lower(x, w).simplified.nodes
        return {type(n.op).__name__ for n in nodes}

    assert "Conv" in ops(Options(winograd=False)) and "Conv" not in ops(Options())


def _slopes_of_squares(x, w):
    """The gradients of the sum of squares of a 3 by 3 convolution, border 1, tap by tap."""
    slope = 2 * convolution(x, w)
    n, m = x.shape[2:]
    around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    dx, dw = np.zeros_like(around), np.zeros_like(w)
    for i, j in np.ndindex(3, 3):
        here = (..., slice(i, i + n), slice(j, j + m))
        dw[:, :, i, j] = np.einsum("bohw,bchw->oc", slope, around[here], optimize=True)
        dx[here] += np.einsum("bohw,oc->bchw", slope, w[:, :, i, j], optimize=True)
    return dx[..., 1:-1, 1:-1], dw


def test_gradients_are_filtered_too() -> None:
    """The gradient of the image is a convolution with the window turned round; that of the window
    reads the sums of the image that the convolution made."""
    x, w = normal(1, 32, 24, 24), normal(32, 32, 3, 3, seed=1)

    def loss(x, w):
        return (PLAIN(x, w) ** 2).sum()

    compiled = tw.compile(tw.grad(loss, argnums=(0, 1)))
    names = [type(n.op).__name__ for n in compiled.lower(x, w).simplified.nodes]
    assert names.count("FilterResults") == 2 and names.count("FilterGradients") == 1
    assert names.count("FilterData") == 2 and "Conv" not in names
    exact = _slopes_of_squares(x.astype(np.float64), w.astype(np.float64))
    for found, expected in zip(compiled(x, w), exact, strict=True):
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_inside_loops() -> None:
    w = normal(32, 32, 3, 3, seed=1) / 20

    def f(x, w):
        return lax.fori_loop(0, 3, lambda i, x: PLAIN(x, w), x)

    x = normal(1, 32, 28, 28)
    expected = x
    for _ in range(3):
        expected = convolution(expected, w)
    assert_allclose(tw.compile(f)(x, w), expected, rtol=1e-4, atol=1e-5)


def test_equal_convolutions_share_their_code() -> None:
    x, w = normal(1, 32, 28, 28), normal(32, 32, 3, 3, seed=1)

    def f(x, v, w):
        return PLAIN(PLAIN(x, v), w)

    program = tw.compile(f).lower(x, w, w).program
    names = [p.name for p in program.functions if p.name.startswith("filter")]
    assert sorted(names) == ["filter_data", "filter_results", "filter_weights"]


def test_thread_counts_agree_bit_for_bit() -> None:
    x, w = normal(1, 64, 28, 28), normal(64, 64, 3, 3, seed=1)

    def f(x, w):
        return PLAIN(x, w)

    one, three = (tw.compile(threads=n)(f) for n in (1, 3))
    np.testing.assert_array_equal(one(x, w), three(x, w))


def test_results_of_one_image_are_written_once() -> None:
    """The blocks of one image's results stand in their order as they are; those of several are put
    together by a kernel. An output that a graph gives twice is still two arrays."""
    w = normal(64, 64, 3, 3, seed=1)
    for n, kernels in [(1, 2), (2, 3)]:  # numbers of blocks, products, and what copies
        x = normal(n, 64, 28, 28)
        names = [f.name for f in tw.compile(lambda x, w: PLAIN(x, w)).lower(x, w).program.functions]
        own = [m for m in names[:-1] if "." not in m and not m.startswith("filter_")]
        assert len(own) == kernels, names
        assert_allclose(tw.compile(lambda x, w: PLAIN(x, w))(x, w), convolution(x, w), atol=2e-3)

    def twice(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y = np.sort(x, axis=1)
        return y.reshape(3, 1, 8), y, y.reshape(24)

    x = normal(3, 8)
    a, b, c = tw.compile(twice)(x)
    assert (a.shape, b.shape, c.shape) == ((3, 1, 8), (3, 8), (24,))
    for y in (a, b, c):
        assert_allclose(y.reshape(3, 8), np.sort(x, axis=1))
    assert not any(np.shares_memory(u, v) for u, v in ((a, b), (b, c), (a, c)))


# -- the functions that do the sums --------------------------------------------------------------


def lowered(op: object, *args: np.ndarray) -> tw.Lowered:
    return tw.compile(lambda *xs: op(*xs)).lower(*args)  # type: ignore[operator]


def every_op(f: Filtering) -> list[tuple[object, tuple[np.ndarray, ...]]]:
    last = FilterResults(f, (5, 5))
    tiles = last.tiles[0] * last.tiles[1]
    return [
        (FilterData(f, (1, 1), (2, 2)), (normal(1, 16, 5, 5),)),
        (FilterWeights(f, 16), (normal(16, 16, 3, 3),)),
        (last, (normal(f.points**2, tiles, 16),)),
        (FilterCotangents(f), (normal(1, 16, 5, 5),)),
        (FilterGradients(f), (normal(f.points**2, 16, 16),)),
    ]


def test_functions_mean_what_they_are_compiled_to() -> None:
    """Counts and distances are arguments: interpreted and compiled."""
    for op, args in every_op(SMALL):
        made = lowered(op, *args)
        expected = op.numpy(*args)  # type: ignore[attr-defined]
        out = np.zeros(expected.shape, np.float32)
        loops.run(made.program, [*args, out, np.zeros(max(made.arena_bytes, 1), np.uint8)])
        assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@BOTH
def test_programs_call_functions_they_do_not_hold(f: Filtering) -> None:
    """On x86, and those of the filterings that convolutions are rewritten to; all others are part
    of the program."""
    for op, args in every_op(f):
        (function,) = op.functions  # type: ignore[attr-defined]
        program = lowered(op, *args).program
        for name in ("avx2", "sse2"):
            text = llvm.print_program(program, NAMED[name])
            assert f"call void @{function.name}(" in text
            assert shared.declaration(function) in text
            assert f"define internal void @{function.name}(" not in text
        for target in (None, NAMED["neon"]):
            text = llvm.print_program(program, target)
            assert f"define internal void @{function.name}(" in text
    for op, args in every_op(Filtering((1.0, 2.0))):
        same_as_numpy(op, *args)


def test_equal_filterings_have_the_same_functions() -> None:
    again = Filtering(LARGE.pairs)
    for sums, function in itertools.chain(*(group.items() for group in filtering.FUNCTIONS)):
        assert function(again) is function(LARGE)
        names = [function(f).name for f in (SMALL, LARGE, Filtering((1.0, 2.0)))]
        assert len(set(names)) == 3 and names[1] == filtering.name_of(LARGE, sums)
        assert shared.functions(NAMED["avx2"])[names[1]]() is function(LARGE)
