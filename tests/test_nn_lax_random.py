"""nn, lax, random and scipy: against formulas in plain NumPy, SciPy, and pinned values of JAX.

Each function is run traced (interpreted and compiled) and called on ordinary arrays, which must
give the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from numpy.lib.stride_tricks import sliding_window_view

import tilewright as tw
from running import interpreted, run, same
from tilewright import errors, lax, nn, random
from tilewright import scipy as ours

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(4, 6)) * 3, RNG.normal(size=(6, 5))
KEY = np.array([0, 42], np.uint32)


def agrees(f: Callable[..., Any], expected: Any, *args: Any, tolerance: float = 1e-11) -> None:
    """`f(*args)` is `expected`: interpreted, compiled, and called outside any trace."""
    same(run(f, *args), expected, tolerance)
    same(f(*args), expected, tolerance)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# -- nn ----------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "log_sigmoid": lambda x: np.log(sigmoid(x)),
    "silu": lambda x: x * sigmoid(x),
    "swish": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "leaky_relu": lambda x: np.where(x >= 0, x, 0.01 * x),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "soft_sign": lambda x: x / (1 + abs(x)),
    "squareplus": lambda x: (x + np.sqrt(x * x + 4)) / 2,
    "sparse_plus": lambda x: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4)),
    "sparse_sigmoid": lambda x: np.clip((x + 1) / 2, 0, 1),
    "glu": lambda x: x[:, :3] * sigmoid(x[:, 3:]),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
    "logsumexp": lambda x: np.log(np.exp(x).sum()),
    "logmeanexp": lambda x: np.log(np.exp(x).mean()),
    "standardize": lambda x: (x - x.mean(-1)[:, None]) / np.sqrt(x.var(-1)[:, None] + 1e-5),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    agrees(getattr(nn, name), ACTIVATIONS[name](X), X)


@pytest.mark.parametrize("dtype", [np.int32, np.float16, np.float32])
@pytest.mark.parametrize("name", ["relu", "sigmoid", "softmax", "gelu", "logsumexp"])
def test_activations_keep_the_type(name: str, dtype: Any) -> None:
    """Floats keep theirs, integers become float64 (relu keeps all)."""
    x = X.astype(dtype)
    expected = np.float64 if dtype is np.int32 and name != "relu" else dtype
    assert run(getattr(nn, name), x).dtype == expected


def test_extreme_arguments_give_no_nan() -> None:
    far = np.array([-1e4, -800.0, 0, 800, 1e4])
    assert np.all(np.isfinite(run(nn.softmax, far)))
    same(run(nn.logsumexp, far), np.array(1e4))
    same(run(nn.logsumexp, np.full(3, -np.inf)), np.array(-np.inf))
    same(run(nn.softplus, far), np.array([0, 0, math.log(2), 800, 1e4]))
    for f in (nn.elu, nn.celu, nn.selu, nn.softplus, nn.log_sigmoid, nn.silu, nn.logsumexp):
        slope = tw.grad(lambda x, f=f: np.sum(f(x)))(far)
        assert np.all(np.isfinite(slope)), f.__name__


def test_gradients_at_the_corner() -> None:
    zero = np.zeros(1)
    same(tw.grad(lambda x: np.sum(nn.relu(x)))(zero), zero)
    same(tw.grad(lambda x: np.linalg.norm(x))(np.zeros(3)), np.zeros(3))


def test_masked_softmax() -> None:
    mask = X > -2
    expected = np.where(mask, np.exp(X), 0) / np.where(mask, np.exp(X), 0).sum(-1, keepdims=True)
    agrees(lambda x, m: nn.softmax(x, where=m), expected, X, mask)
    with np.errstate(divide="ignore"):
        agrees(lambda x, m: nn.log_softmax(x, where=m), np.log(expected), X, mask)


def test_logsumexp_of_weights() -> None:
    total = (X * np.exp(X)).sum(1)
    agrees(
        lambda x: nn.logsumexp(x, 1, b=x, return_sign=True),
        (np.log(abs(total)), np.sign(total)), X,
    )  # fmt: skip


def test_gelu_exact_and_log1mexp() -> None:
    agrees(lambda x: nn.gelu(x, approximate=False), X * scipy.special.ndtr(X), X)
    agrees(nn.log1mexp, np.log(-np.expm1(-abs(X))), abs(X))


def test_one_hot() -> None:
    agrees(lambda x: nn.one_hot(x, 4), np.eye(5)[:, :4][[0, 2, 4, 4]], np.array([0, 2, 5, -1]))
    agrees(
        lambda x: nn.one_hot(x, 3, dtype=np.float32, axis=0),
        np.eye(3, dtype=np.float32)[:, [0, 2]], np.array([0, 2]),
    )  # fmt: skip


def attention(q: Any, k: Any, v: Any, seen: Any) -> Any:
    """The definition, with heads repeated and a loop over the batch and the heads."""
    k, v = (np.repeat(a, q.shape[2] // a.shape[2], axis=2) for a in (k, v))
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            logits = np.where(seen[b, h], q[b, :, h] @ k[b, :, h].T / math.sqrt(q.shape[3]), -1e30)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, :, h]
    return out


def test_dot_product_attention() -> None:
    q, k, v = (
        RNG.normal(size=(2, 5, 4, 3)),
        RNG.normal(size=(2, 6, 2, 3)),
        RNG.normal(size=(2, 6, 2, 3)),
    )
    everywhere = np.ones((2, 4, 5, 6), bool)
    agrees(nn.dot_product_attention, attention(q, k, v, everywhere), q, k, v)
    causal = everywhere & np.tri(5, 6, dtype=bool)
    agrees(
        lambda q, k, v: nn.dot_product_attention(q, k, v, is_causal=True),
        attention(q, k, v, causal), q, k, v,
    )  # fmt: skip
    mask = RNG.random((2, 4, 5, 6)) < 0.7
    agrees(
        lambda q, k, v, m: nn.dot_product_attention(q, k, v, mask=m),
        attention(q, k, v, mask), q, k, v, mask,
    )  # fmt: skip
    lengths = np.array([4, 6])
    short = everywhere & (np.arange(6) < lengths[:, None, None, None])
    agrees(
        lambda q, k, v, n: nn.dot_product_attention(q, k, v, key_value_seq_lengths=n),
        attention(q, k, v, short), q, k, v, lengths,
    )  # fmt: skip
    agrees(nn.dot_product_attention, attention(q, k, v, everywhere)[0], q[0], k[0], v[0])


def test_initializers() -> None:
    w = nn.initializers.he_normal()(KEY, (300, 200))
    assert w.shape == (300, 200)
    assert w.dtype == np.float64
    assert abs(w.std() - math.sqrt(2 / 300)) < 1e-3
    limit = math.sqrt(6 / 500)
    u = nn.initializers.glorot_uniform()(KEY, (300, 200), np.float32)
    assert u.dtype == np.float32
    assert limit * 0.99 < abs(u).max() <= limit
    q = nn.initializers.orthogonal()(KEY, (3, 2, 4))
    same(q.reshape(6, 4).T @ q.reshape(6, 4), np.eye(4))
    wide = nn.initializers.orthogonal(2.0)(KEY, (3, 5))
    same(wide @ wide.T, 4 * np.eye(3))
    same(nn.initializers.constant(3)(KEY, (2,)), np.array([3.0, 3.0]))


# -- lax ---------------------------------------------------------------------------------------

IMAGE, WINDOW = RNG.normal(size=(2, 8, 7, 3)), RNG.normal(size=(3, 2, 3, 4))


def correlation(x: Any, w: Any, strides: tuple[int, int], pads: Any) -> Any:
    """NHWC with HWIO by the definition."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    views = sliding_window_view(x, w.shape[:2], (1, 2))[:, :: strides[0], :: strides[1]]
    return np.einsum("nhwcij,ijco->nhwo", views, w)


@pytest.mark.parametrize(
    ("padding", "pads"),
    [("VALID", ((0, 0), (0, 0))), ("SAME", ((0, 1), (0, 1))), (((1, 2), (0, 3)), ((1, 2), (0, 3)))],
)
def test_conv_general_dilated(padding: Any, pads: Any) -> None:
    strides = (2, 3)
    expected = correlation(IMAGE, WINDOW, strides, pads)
    layout = ("NHWC", "HWIO", "NHWC")
    agrees(
        lambda x, w: lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=layout),
        expected, IMAGE, WINDOW,
    )  # fmt: skip
    first = (
        expected.transpose(0, 3, 1, 2),
        IMAGE.transpose(0, 3, 1, 2),
        WINDOW.transpose(3, 2, 0, 1),
    )
    agrees(lambda x, w: lax.conv_general_dilated(x, w, strides, padding), *first)


def test_conv_in_groups_and_dilated() -> None:
    x, w = IMAGE[..., [0, 1, 2, 0]], WINDOW[:, :, :2]
    layout = ("NHWC", "HWIO", "NHWC")
    halves = [
        correlation(x[..., i : i + 2], w[..., i : i + 2], (1, 1), ((0, 0), (0, 0))) for i in (0, 2)
    ]
    agrees(
        lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=layout, feature_group_count=2
        ),
        np.concatenate(halves, -1), x, w,
    )  # fmt: skip
    apart = np.zeros((5, 3, 3, 4))
    apart[::2, ::2] = WINDOW
    agrees(
        lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), "VALID", rhs_dilation=(2, 2), dimension_numbers=layout
        ),
        correlation(IMAGE, apart, (1, 1), ((0, 0), (0, 0))), IMAGE, WINDOW,
    )  # fmt: skip


def test_conv_transpose_is_the_transpose() -> None:
    """With transpose_kernel it is the gradient of the convolution with respect to its image."""
    w, out = RNG.normal(size=(3, 3, 2, 4)), RNG.normal(size=(1, 4, 4, 4))
    layout = ("NHWC", "HWIO", "NHWC")

    def forward(x: Any) -> Any:
        y = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=layout)
        return np.sum(y * out)

    expected = tw.grad(forward)(np.zeros((1, 8, 8, 2)))
    agrees(
        lambda y, w: lax.conv_transpose(y, w, (2, 2), "SAME", transpose_kernel=True),
        expected, out, w,
    )  # fmt: skip


def test_dot_general() -> None:
    a, b = RNG.normal(size=(2, 3, 4, 5)), RNG.normal(size=(4, 2, 5, 6))
    agrees(
        lambda a, b: lax.dot_general(a, b, (((3,), (2,)), ((0, 2), (1, 0)))),
        np.einsum("bijk,jbkl->bjil", a, b), a, b,
    )  # fmt: skip
    agrees(lambda a, b: lax.dot(a, b), X @ Y, X, Y)
    agrees(lax.batch_matmul, a @ a.swapaxes(-1, -2), a, a.swapaxes(-1, -2).copy())


REDUCERS = {"add": np.sum, "max": np.max, "min": np.min, "mul": np.prod}
NEUTRAL = {"add": 0.0, "max": -np.inf, "min": np.inf, "mul": 1.0}


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("width", [1, 3, 8, 9, 13, 16])
def test_reduce_window(name: str, width: int) -> None:
    x = np.concatenate([X, X[::-1]], axis=1).T.copy()  # 12 by 4
    padded = np.pad(x, ((width // 2, width), (0, 0)), constant_values=NEUTRAL[name])
    views = sliding_window_view(padded, (width, 2), (0, 1))[::2]
    agrees(
        lambda x: lax.reduce_window(
            x, NEUTRAL[name], getattr(lax, name), (width, 2), (2, 1), ((width // 2, width), (0, 0))
        ),
        REDUCERS[name](views, axis=(2, 3)), x,
    )  # fmt: skip


def test_reduce_window_dilated_and_same() -> None:
    x = X[0]
    agrees(
        lambda x: lax.reduce_window(
            x, -np.inf, lambda a, b: np.maximum(b, a), (2,), (1,), "VALID", None, (3,)
        ),
        np.maximum(x[:3], x[3:]), x,
    )  # fmt: skip
    agrees(
        lambda x: lax.reduce_window(x, 0.0, lax.add, (3,), (2,), "SAME"),
        np.array([x[0:3].sum(), x[2:5].sum(), x[4:6].sum()]), x,
    )  # fmt: skip
    with pytest.raises(errors.UnsupportedFunction, match="associative_scan"):
        lax.reduce_window(x, 0.0, lambda a, b: a - b, (3,))


def test_reduce() -> None:
    agrees(lambda x: lax.reduce(x, 3.0, lax.add, (0,)), X.sum(0) + 3, X)
    agrees(lambda x: lax.reduce(x, -np.inf, lambda a, b: np.maximum(a, b), (0, 1)), X.max(), X)
    agrees(lambda x: lax.reduce(x, False, np.logical_or, (1,)), (X > 5).any(1), X > 5)
    agrees(lambda x: lax.reduce_max(x, (1,)), X.max(1), X)


ARRANGED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "broadcast_in_dim": (
        lambda x: lax.broadcast_in_dim(x, (4, 2, 6), (0, 2)),
        lambda x: np.broadcast_to(x[:, None], (4, 2, 6)),
    ),
    "broadcast": (lambda x: lax.broadcast(x, (3,)), lambda x: np.broadcast_to(x, (3, 4, 6))),
    "iota": (lambda x: lax.iota(np.int8, 3), lambda x: np.arange(3, dtype=np.int8)),
    "broadcasted_iota": (
        lambda x: lax.broadcasted_iota(np.int64, (2, 3), 1), lambda x: np.indices((2, 3))[1],
    ),
    "convert": (lambda x: lax.convert_element_type(x, np.int8), lambda x: x.astype(np.int8)),
    "pad": (
        lambda x: lax.pad(x, 9.0, [(1, -1, 0), (0, 2, 1)]),
        lambda x: np.r_[np.full((1, 13), 9.0), np.insert(x[:3], [1, 2, 3, 4, 5, 6, 6], 9.0, 1)],
    ),
    "slice": (lambda x: lax.slice(x, (1, 0), (4, 5), (2, 2)), lambda x: x[1:4:2, 0:5:2]),
    "slice_in_dim": (lambda x: lax.slice_in_dim(x, 1, None, 2, 1), lambda x: x[:, 1::2]),
    "index_in_dim": (lambda x: lax.index_in_dim(x, -1, 0, False), lambda x: x[-1]),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (9, -2), (2, 2)), lambda x: x[2:4, 4:6]),
    "dynamic_slice_in_dim": (lambda x: lax.dynamic_slice_in_dim(x, 1, 2, 1), lambda x: x[:, 1:3]),
    "dynamic_index_in_dim": (
        lambda x: lax.dynamic_index_in_dim(x, np.int64(2), keepdims=False), lambda x: x[2],
    ),
    "concatenate": (lambda x: lax.concatenate([x, x], 1), lambda x: np.concatenate([x, x], 1)),
    "rev": (lambda x: lax.rev(x, (1,)), lambda x: x[:, ::-1]),
    "reshape": (lambda x: lax.reshape(x, (24,), (1, 0)), lambda x: x.T.reshape(24)),
    "collapse": (lambda x: lax.collapse(x[None], 0, 2), lambda x: x),
    "select": (lambda x: lax.select(x > 0, x, -x), np.abs),
    "select_n": (
        lambda x: lax.select_n(np.array([[0], [1], [2], [1]]), x, -x, 2 * x),
        lambda x: x * np.array([[1], [-1], [2], [-1]]),
    ),
    "clamp": (lambda x: lax.clamp(-1.0, x, 1.0), lambda x: np.clip(x, -1, 1)),
    "rsqrt": (lambda x: lax.rsqrt(abs(x)), lambda x: 1 / np.sqrt(abs(x))),
    "stop_gradient": (lax.stop_gradient, lambda x: x),
    "cumsum": (lambda x: lax.cumsum(x, 1), lambda x: np.cumsum(x, 1)),
    "cummax": (lambda x: lax.cummax(x, 0, True), lambda x: np.maximum.accumulate(x[::-1])[::-1]),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 0), np.logaddexp.accumulate),
    "sort": (lambda x: lax.sort(x), lambda x: np.sort(x)),
    "sort keys": (
        lambda x: lax.sort((np.sign(x[0]), x[0], x[1]), num_keys=2)[2],
        lambda x: x[1][np.argsort(x[0])],
    ),
    "argmax": (lambda x: lax.argmax(x, 1, np.int32), lambda x: np.argmax(x, 1).astype(np.int32)),
    "integer_pow": (lambda x: lax.integer_pow(x, -3), lambda x: 1 / x**3),
    "round": (lambda x: lax.round(np.rint(x) - 0.5), lambda x: np.rint(x) - (np.rint(x) <= 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRANGED)
def test_lax(name: str) -> None:
    f, expected = ARRANGED[name]
    agrees(f, expected(X), X)


def test_dynamic_updates() -> None:
    expected = X.copy()
    expected[2:4, 1:3] = 7
    ones = np.full((2, 2), 7.0)
    agrees(lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 1)), expected, X, ones, np.array(5))
    row = X.copy()
    row[1] = 0
    agrees(lambda x, u: lax.dynamic_update_index_in_dim(x, u, 1, 0), row, X, np.zeros(6))


def test_top_k() -> None:
    x = np.array([[1.0, 3, 3, -1], [np.nan, 2, np.inf, 0]])
    values, at = run(lambda x: lax.top_k(x, 2), x)
    same(values, np.array([[3.0, 3], [np.nan, np.inf]]))
    same(at, np.array([[1, 2], [0, 2]]))
    agrees(lambda x: lax.top_k(x, 1, axis=0)[0], X.max(0, keepdims=True), X)


def test_bits() -> None:
    single = X.astype(np.float32)
    for to in (np.int32, np.uint8, np.uint16):
        parts = single.view(to).reshape((4, 6, -1) if to is not np.int32 else (4, 6))
        agrees(lambda x, to=to: lax.bitcast_convert_type(x, to), parts, single)
    pairs = np.ascontiguousarray(single.reshape(4, 3, 2))
    agrees(lambda x: lax.bitcast_convert_type(x, np.float64), pairs.view(np.float64)[..., 0], pairs)
    small = np.array([-128, -7, 0, 5, 127], np.int8)
    agrees(lax.population_count, np.array([1, 6, 0, 2, 7], np.int8), small)
    agrees(lax.clz, np.array([0, 0, 8, 5, 1], np.int8), small)
    agrees(
        lambda x: lax.shift_right_logical(x, 2), (small.view(np.uint8) >> 2).view(np.int8), small
    )
    agrees(lambda x: lax.div(x, 3), np.trunc(small / 3).astype(np.int8), small)


def test_lax_has_control_flow() -> None:
    same(run(lambda x: lax.fori_loop(0, 3, lambda i, v: v * 2, x), X), X * 8)
    same(run(lambda x: lax.associative_scan(np.add, x), X), np.cumsum(X, 0))


# -- random ------------------------------------------------------------------------------------


def test_threefry_is_the_published_one() -> None:
    """Known answers of Random123 (kat_vectors, threefry2x32, 20 rounds)."""
    words = [
        (0, 0, 0, 0, 0x6B200159, 0x99BA4EFE),
        (0xFFFFFFFF,) * 4 + (0x1CB996FC, 0xBB002BE7),
        (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3, 0xC4923A9C, 0x483DF7A0),
    ]
    for k0, k1, x0, x1, y0, y1 in words:
        args = [np.array(v, np.uint32) for v in (k0, k1, x0, x1)]
        same(run(random.threefry, *args), (np.array(y0, np.uint32), np.array(y1, np.uint32)))


PINNED = (
    [2547012911, 1371500959],
    [2098992034, 2919706841, 2646866425],
    [0.4267275666499091, 0.015010069515314584, 0.5741444178995352],
    [-0.18471174528191162, -2.169824560397754, 0.18693555179382582],
    [6, 7, 0, 4, -2],
)
"""fold_in(key, 7), bits, uniform, normal and randint(-3, 9) of key 42."""


@pytest.mark.parametrize("seed", [0, 7, (1 << 32) - 1, (1 << 40) + 7, (5 << 32) | (1 << 31), -3])
def test_a_traced_seed_has_both_words(seed: int) -> None:
    """High word first, as for a seed that is a Python number."""
    words = np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
    np.testing.assert_array_equal(random.key(seed), words)
    np.testing.assert_array_equal(tw.compile(random.key)(np.int64(seed)), words)


def test_keys_are_those_of_jax() -> None:
    """Pinned from jax.random 0.10, 64-bit types enabled."""
    same(random.key(42), KEY)
    same(random.PRNGKey(2**40 + 5), np.array([256, 5], np.uint32))
    same(random.key(-3), np.array([2**32 - 1, 2**32 - 3], np.uint32))
    same(run(random.key, np.array(42)), KEY)
    zero = random.key(0)
    split = np.array([[1797259609, 2579123966], [928981903, 3453687069]], np.uint32)
    agrees(random.split, split, zero)
    folded, bits, uniform, normal, integers = PINNED
    agrees(lambda k: random.fold_in(k, 7), np.array(folded, np.uint32), KEY)
    agrees(lambda k: random.bits(k, (3,), np.uint32), np.array(bits, np.uint32), KEY)
    agrees(lambda k: random.uniform(k, (3,)), np.array(uniform), KEY)
    agrees(lambda k: random.normal(k, (3,)), np.array(normal), KEY)
    agrees(lambda k: random.randint(k, (5,), -3, 9), np.array(integers), KEY)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, tw.numpy.bfloat16])
def test_uniform_is_in_range(dtype: Any) -> None:
    u = random.uniform(KEY, (1000,), dtype, -2.0, 3.0)
    assert u.dtype == dtype
    wide = u.astype(np.float64)
    assert wide.min() >= -2
    assert wide.max() < 3 or dtype is not np.float64
    assert abs(wide.mean() - 0.5) < 0.15


def ks(sample: Any, cdf: Callable[[Any], Any]) -> float:
    """The Kolmogorov-Smirnov statistic times the root of the sample's size; 1.95 is one in 1000."""
    x = np.sort(np.asarray(sample, np.float64))
    return float(np.max(np.abs(cdf(x) - (np.arange(len(x)) + 0.5) / len(x))) * math.sqrt(len(x)))


DISTRIBUTIONS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]] = {
    "uniform": (lambda k, n: random.uniform(k, n), lambda x: x),
    "normal": (lambda k, n: random.normal(k, n), scipy.special.ndtr),
    "truncated_normal": (
        lambda k, n: random.truncated_normal(k, -1.0, 2.0, n),
        lambda x: (scipy.special.ndtr(x) - 0.15865525393145707) / 0.8185946141203637,
    ),
    "exponential": (lambda k, n: random.exponential(k, n), lambda x: 1 - np.exp(-x)),
    "gumbel": (lambda k, n: random.gumbel(k, n), lambda x: np.exp(-np.exp(-x))),
    "laplace": (
        lambda k, n: random.laplace(k, n),
        lambda x: np.where(x < 0, np.exp(x) / 2, 1 - np.exp(-x) / 2),
    ),
    "logistic": (lambda k, n: random.logistic(k, n), sigmoid),
    "cauchy": (lambda k, n: random.cauchy(k, n), lambda x: np.arctan(x) / math.pi + 0.5),
    "lognormal": (
        lambda k, n: random.lognormal(k, 2.0, n), lambda x: scipy.special.ndtr(np.log(x) / 2)
    ),
    "rayleigh": (lambda k, n: random.rayleigh(k, 2.0, n), lambda x: 1 - np.exp(-x * x / 8)),
    "pareto": (lambda k, n: random.pareto(k, 3.0, n), lambda x: 1 - x**-3.0),
    "weibull_min": (
        lambda k, n: random.weibull_min(k, 2.0, 3.0, n), lambda x: 1 - np.exp(-((x / 2) ** 3))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions(name: str) -> None:
    draw, cdf = DISTRIBUTIONS[name]
    sample = run(lambda k: draw(k, (4000,)), KEY)
    assert ks(sample, cdf) < 1.95


def test_choices() -> None:
    order = run(lambda k: random.permutation(k, 13), KEY)
    same(np.sort(order), np.arange(13))
    assert not np.array_equal(order, np.arange(13))
    rows = run(lambda k, x: random.permutation(k, x), KEY, X)
    same(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    mixed = run(lambda k, x: random.shuffle(k, x, 1), KEY, X)
    same(np.sort(mixed, 1), np.sort(X, 1))
    p = np.array([0.1, 0.2, 0.3, 0.4])
    drawn = run(lambda k, p: random.choice(k, 4, (4000,), p=p), KEY, p)
    assert np.max(abs(np.bincount(drawn, minlength=4) / 4000 - p)) < 0.03
    some = run(lambda k, p: random.choice(k, np.array([5, 6, 7, 8]), (3,), False, p), KEY, p)
    assert len(set(some.tolist())) == 3
    named = run(lambda k, p: random.categorical(k, np.log(p), shape=(4000,)), KEY, p)
    assert np.max(abs(np.bincount(named, minlength=4) / 4000 - p)) < 0.03
    coins = run(lambda k: random.bernoulli(k, 0.3, (4000,)), KEY)
    assert abs(coins.mean() - 0.3) < 0.03
    same(np.unique(run(lambda k: random.rademacher(k, (50,)), KEY)), np.array([-1, 1]))
    whole = run(lambda k: random.randint(k, (5000,), 0, 256, np.uint8), KEY)
    assert (whole.min(), whole.max()) == (0, 255)
    bounds = np.array([0, 10]), np.array([3, 11])
    drawn = run(lambda k, a, b: random.randint(k, (100, 2), a, b), KEY, *bounds)
    assert set(drawn[:, 0].tolist()) == {0, 1, 2}
    assert set(drawn[:, 1].tolist()) == {10}


def test_multivariate_normal() -> None:
    cov = np.array([[2.0, 0.6], [0.6, 1.0]])
    x = run(lambda k, m, c: random.multivariate_normal(k, m, c, (4000,)), KEY, np.ones(2), cov)
    assert np.max(abs(np.cov(x.T) - cov)) < 0.15
    assert np.max(abs(x.mean(0) - 1)) < 0.1


def test_a_wrong_key_is_named() -> None:
    with pytest.raises(errors.DTypeMismatch, match=r"uint32 array of shape \(2,\)"):
        random.normal(np.zeros(2), (3,))


# -- scipy -------------------------------------------------------------------------------------

POSITIVE = abs(X) + 0.1
SPECIAL = [
    "erf", "erfc", "gammaln", "digamma", "psi", "gamma", "factorial", "expit", "ndtr", "log_ndtr",
    "entr",
]  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_special(name: str) -> None:
    agrees(
        getattr(ours.special, name),
        getattr(scipy.special, name)(POSITIVE),
        POSITIVE,
        tolerance=1e-10,
    )


@pytest.mark.parametrize("name", ["xlogy", "xlog1py", "rel_entr", "kl_div", "betaln", "beta"])
def test_special_of_two(name: str) -> None:
    x, y = POSITIVE.copy(), POSITIVE[::-1].copy()
    if name not in ("betaln", "beta"):
        x[0] = 0
    agrees(getattr(ours.special, name), getattr(scipy.special, name)(x, y), x, y, tolerance=1e-10)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize(
    "name", ["erf", "erfc", "gammaln", "psi", "gamma", "expit", "ndtr", "beta"]
)
def test_ufuncs_of_scipy_itself(name: str, dtype: Any) -> None:
    """Run in the source as it is, in the types that SciPy's inner loops compute in."""
    f = getattr(scipy.special, name)
    x = np.array([1, 2, 3, 5]).astype(dtype)
    for g in (lambda v: f(v, v), lambda v: f(1.5, v)) if name == "beta" else (f,):
        got, want = tw.compile(g)(x), g(x)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, 1e-5 if want.dtype == np.float32 else 1e-10)


def test_ufuncs_that_are_not_known() -> None:
    with pytest.raises(errors.UnsupportedFunction, match="the ufunc jv is not supported"):
        tw.compile(lambda v: scipy.special.jv(1.0, v))(POSITIVE)


def test_special_inverses() -> None:
    p = np.array([1e-3, 0.2, 0.5, 0.9])
    agrees(ours.special.ndtri, scipy.special.ndtri(p), p)
    agrees(ours.special.erfinv, scipy.special.erfinv(p), p)
    agrees(ours.special.logit, scipy.special.logit(p), p)
    far = np.array([-50.0, -20.1, -19.9])
    agrees(ours.special.log_ndtr, scipy.special.log_ndtr(far), far, tolerance=1e-9)


def test_scipy_linalg() -> None:
    a = X[:, :4] @ X[:, :4].T + np.eye(4)
    b = Y[:4]
    for lower in (False, True):
        for trans in (0, 1):
            expected = scipy.linalg.solve_triangular(a, b, trans, lower)
            agrees(
                lambda a, b, t=trans, lo=lower: ours.linalg.solve_triangular(a, b, t, lo),
                expected,
                a,
                b,
            )
    agrees(
        lambda a, b: ours.linalg.cho_solve(ours.linalg.cho_factor(a), b),
        np.linalg.solve(a, b),
        a,
        b,
        tolerance=1e-9,
    )
    agrees(ours.linalg.block_diag, scipy.linalg.block_diag(X, Y), X, Y)
    for scale in (0.01, 1.0, 20.0):
        m = X[:, :4] * scale / 4
        agrees(ours.linalg.expm, scipy.linalg.expm(m), m, tolerance=1e-8)


@pytest.mark.parametrize("name", sorted(set(nn.__all__) - {"initializers", "one_hot"}))
def test_narrow_numbers_stay_narrow(name: str) -> None:
    """And are as near as bfloat16 can be to what float32 gives."""
    f = getattr(nn, name)
    if name in ("dot_product_attention", "log1mexp"):
        return
    x = np.linspace(-3, 3, 24).reshape(4, 6).astype(ml_dtypes.bfloat16)
    wide = interpreted(f, x.astype(np.float32))
    got = tw.compile(f)(x)
    assert got.dtype == x.dtype and wide.dtype == np.float32
    np.testing.assert_allclose(got.astype(np.float32), wide, rtol=2e-2, atol=2e-2)
