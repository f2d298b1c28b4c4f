"""Attention as users write it is one op, forward and gradient, and it is what NumPy computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilewright as tw
from running import interpreted
from tilewright import nn
from tilewright.ops.attention import Attention, AttentionGradient, Bias, Causal, Mask
from tilewright.ops.attention_blocks import Blocks, Extents
from tilewright.tracing import asarray

TOLERANCE = {"float64": 1e-12, "float32": 5e-6, "float16": 4e-3, "bfloat16": 4e-2}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def arrays(*shapes: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> list[Any]:
    r = rng(seed)
    return [r.standard_normal(s).astype(dtype) for s in shapes]


def qkv(b: int, h: int, t: int, s: int, d: int, e: int, **how: Any) -> list[Any]:
    return arrays((b, h, t, d), (b, h, s, d), (b, h, s, e), **how)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def is_fused(f: Any, *args: Any, op: str = "attention") -> bool:
    """Whether the compiled program calls the op."""
    return bool(re.search(rf"^  {op} [(a-z]", tw.compile(f).lower(*args).explain(), re.MULTILINE))


# -- spellings ---------------------------------------------------------------------------------


def plain(q: Any, k: Any, v: Any) -> Any:
    return softmax(q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5)) @ v


def captured_mask(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.swapaxes(-1, -2) / 3.0
    t, s = scores.shape[-2:]
    seen = np.arange(s) <= np.arange(t)[:, None] + (s - t)
    return softmax(np.where(seen, scores, -1e30)) @ v


def traced_causal(q: Any, k: Any, v: Any) -> Any:
    scores = np.einsum("bhtd,bhsd->bhts", q * 0.4, k)
    row, column = tw.numpy.arange(q.shape[-2]), tw.numpy.arange(k.shape[-2])
    scores = np.where(column > row[:, None], -np.inf, scores)
    return np.einsum("bhts,bhse->bhte", softmax(scores), v)


def tril(q: Any, k: Any, v: Any) -> Any:
    t, s = q.shape[-2], k.shape[-2]
    seen = tw.numpy.tril(tw.numpy.ones((t, s), bool), 2)
    return softmax(np.where(seen, q @ k.swapaxes(-1, -2), -np.inf)) @ v


def biased(q: Any, k: Any, v: Any) -> Any:
    slope = np.linspace(-1, 1, k.shape[-2]).astype(q.dtype)
    return softmax(q @ k.swapaxes(-1, -2) * 0.5 + slope) @ v


def repeated(q: Any, k: Any, v: Any) -> Any:
    """Two queries for each key and value."""
    twice = np.concatenate((q, q * 0.5), -2).reshape(q.shape[0], -1, *q.shape[2:])
    k, v = np.repeat(k, 2, 1), np.repeat(v, 2, 1)
    return softmax(twice @ k.swapaxes(-1, -2)) @ v


def split_heads(q: Any, k: Any, v: Any) -> Any:
    b, h, t, d = q.shape
    x = q.transpose(0, 2, 1, 3).reshape(b, t, h * d)

    def heads(x: Any) -> Any:
        return x.reshape(b, t, h, d).transpose(0, 2, 1, 3)

    out = softmax(heads(x) @ heads(x).swapaxes(-1, -2) * 0.3) @ heads(x)
    return out.transpose(0, 2, 1, 3).reshape(b, t, h * d)


def transposed_values(q: Any, k: Any, v: Any) -> Any:
    """Values whose width is not the last axis in memory."""
    v = np.concatenate((v, v), -1).swapaxes(-1, -2)
    return np.einsum("bhts,bhes->bhte", softmax(q @ k.swapaxes(-1, -2) * 0.2), v)


def by_nn(q: Any, k: Any, v: Any) -> Any:
    q, k, v = (np.swapaxes(x, 1, 2) for x in (q, k, v))
    return nn.dot_product_attention(q, k, v, is_causal=True)


SPELLINGS: list[Callable[..., Any]] = [
    plain, captured_mask, traced_causal, tril, biased, repeated, split_heads,
    transposed_values, by_nn,
]  # fmt: skip
SHAPES = [(2, 4, 33, 33, 16, 16), (1, 2, 5, 5, 7, 7), (1, 2, 100, 100, 24, 24)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("f", SPELLINGS, ids=lambda f: f.__name__)
def test_spelling(f: Any, shape: tuple[int, ...]) -> None:
    args = qkv(*shape)
    assert is_fused(f, *args)
    wide = [x.astype(np.float64) for x in args]
    want = interpreted(f, *wide) if f is by_nn else np.asarray(f(*wide))  # by_nn runs compiled
    np.testing.assert_allclose(tw.compile(f)(*args), want, 1e-5, 5e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("f", SPELLINGS, ids=lambda f: f.__name__)
def test_gradient_of_spelling(f: Any, shape: tuple[int, ...]) -> None:
    args = qkv(*shape, dtype=np.float64)
    weight = rng(5).standard_normal(np.asarray(f(*args)).shape)

    def loss(*args: Any) -> Any:
        return (f(*args) * weight).sum()

    gradient = tw.grad(loss, argnums=(0, 1, 2))
    assert is_fused(gradient, *args, op="attention_gradient")
    found = tw.compile(gradient)(*args)
    for i, (x, g) in enumerate(zip(args, found, strict=True)):
        direction = rng(i).standard_normal(x.shape)

        def along(h: float, i: int = i, direction: Any = direction) -> float:
            moved = [a + h * direction if j == i else a for j, a in enumerate(args)]
            return float(np.asarray(loss(*moved)))

        slope = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose((g * direction).sum(), slope, 1e-6, 1e-6)


def test_weights_that_are_read_elsewhere_stay() -> None:
    def f(q: Any, k: Any, v: Any) -> Any:
        weights = softmax(q @ k.swapaxes(-1, -2))
        return weights @ v, weights

    args = qkv(1, 2, 9, 9, 4, 4)
    assert not is_fused(f, *args)
    wide = [x.astype(np.float64) for x in args]
    for got, want in zip(tw.compile(f)(*args), f(*wide), strict=True):
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)


def other_axis(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.swapaxes(-1, -2)
    e = np.exp(scores - scores.max(-2, keepdims=True))
    return e / e.sum(-2, keepdims=True) @ v


def two_axes(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.swapaxes(-1, -2)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-2, keepdims=True) @ v


def no_maximum(q: Any, k: Any, v: Any) -> Any:
    e = np.exp(q @ k.swapaxes(-1, -2))
    return e / e.sum(-1, keepdims=True) @ v


def not_linear(q: Any, k: Any, v: Any) -> Any:
    return softmax(np.tanh(q @ k.swapaxes(-1, -2))) @ v


def scaled_after_the_bias(q: Any, k: Any, v: Any) -> Any:
    return softmax((q @ k.swapaxes(-1, -2) + np.arange(k.shape[-2], dtype=q.dtype)) * 0.5) @ v


@pytest.mark.parametrize(
    "f", [other_axis, two_axes, no_maximum, not_linear, scaled_after_the_bias],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_what_is_not_attention_stays(f: Any) -> None:
    args = qkv(1, 2, 9, 9, 4, 4)
    assert not is_fused(f, *args)
    wide = [x.astype(np.float64) for x in args]
    np.testing.assert_allclose(tw.compile(f)(*args), f(*wide), 1e-5, 1e-6)


# -- sizes, types, masks -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [
    (1, 1, 1, 1, 1, 1), (1, 2, 1, 17, 3, 5), (2, 1, 3, 1, 2, 2), (1, 1, 2, 3, 1, 4),
    (0, 2, 3, 5, 2, 2), (1, 2, 0, 5, 2, 2), (2, 3, 13, 31, 7, 17), (1, 1, 8, 16, 16, 16),
    (1, 1, 9, 15, 40, 128), (1, 2, 67, 101, 65, 33), (1, 3, 1, 1031, 64, 96),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sizes(shape: tuple[int, ...], dtype: str) -> None:
    args = qkv(*shape, dtype=dtype)
    want = plain(*(x.astype(np.float64) for x in args))
    limit = TOLERANCE[dtype]
    np.testing.assert_allclose(tw.compile(plain)(*args), want, limit, limit)


@pytest.mark.parametrize("shape", [(1, 2, 40, 50, 16, 24), (1, 2, 3, 50, 16, 24)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_floats(dtype: str, shape: tuple[int, ...]) -> None:
    of = np.dtype(dtype) if dtype == "float16" else np.dtype(ml_dtypes.bfloat16)
    args = [x.astype(of) for x in qkv(*shape)]

    def f(q: Any, k: Any, v: Any) -> Any:
        return softmax((q * q.dtype.type(0.25)) @ np.swapaxes(k, -1, -2)) @ v

    assert is_fused(f, *args)
    got = tw.compile(f)(*args)
    assert got.dtype == f(*args).dtype
    want = np.asarray(f(*(x.astype(np.float64) for x in args)))
    np.testing.assert_allclose(got.astype(np.float64), want, TOLERANCE[dtype], TOLERANCE[dtype])
    loss = tw.grad(lambda *a: f(*a).astype(np.float32).sum(), argnums=(0, 1, 2))
    wide = tw.grad(lambda *a: f(*a).sum(), argnums=(0, 1, 2))(*(x.astype(float) for x in args))
    for g, w in zip(tw.compile(loss)(*args), wide, strict=True):
        np.testing.assert_allclose(g.astype(float), w, 4 * TOLERANCE[dtype], 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("t", [3, 40])
def test_many_keys(t: int) -> None:
    """More keys than a block holds: the softmax is rescaled on the way, and computed twice for
    the gradient."""
    args = qkv(1, 2, t, 9001, 4, 8, dtype=np.float64)
    np.testing.assert_allclose(tw.compile(plain)(*args), plain(*args), 1e-12, 1e-12)
    weight = rng(3).standard_normal((1, 2, t, 8))
    gradient = tw.compile(tw.grad(lambda *a: (plain(*a) * weight).sum(), argnums=(0, 1, 2)))
    op = Attention(
        (("b", 2), ("t", t), ("s", 9001), ("d", 4), ("e", 8)),
        ("b", "t", "d"), ("b", "s", "d"), ("b", "s", "e"), ("b", "t", "e"), 0.5,
    )  # fmt: skip
    want = AttentionGradient(op).numpy(*(x[0] for x in args), weight[0])
    for g, w in zip(gradient(*args), want, strict=True):
        np.testing.assert_allclose(g[0], w, 1e-10, 1e-12)


@pytest.mark.parametrize("t", [5, 45])
@pytest.mark.parametrize("fill", [-np.inf, -1e30, -2000.0, -5.0])
def test_rows_that_see_nothing(fill: float, t: int) -> None:
    """NaN where NumPy gives it; the mean of all values, also of those in blocks that other rows
    skip, for a finite number."""
    q, k, v = qkv(1, 2, t, 130, 8, 8, dtype=np.float64)
    seen = np.tril(np.ones((t, 130), bool), 3)
    seen[1] = False
    seen[:, 2] = False

    def f(q: Any, k: Any, v: Any, seen: Any) -> Any:
        return softmax(np.where(seen, q @ k.swapaxes(-1, -2), fill)) @ v

    assert is_fused(f, q, k, v, seen)
    with np.errstate(all="ignore"):
        want = f(q, k, v, seen)
    assert np.isnan(want).any() == (fill == -np.inf)
    np.testing.assert_allclose(tw.compile(f)(q, k, v, seen), want, 1e-12, 1e-12)


@pytest.mark.parametrize("t", [5, 45])
def test_hidden_scores_that_weigh_after_all(t: int) -> None:
    """Scores far below the number that masks: the hidden keys have all the weight."""
    q, k, v = qkv(1, 1, t, 130, 8, 8, dtype=np.float64)

    def f(q: Any, k: Any, v: Any) -> Any:
        seen = np.arange(130) <= np.arange(t)[:, None]
        return softmax(np.where(seen, q @ k.swapaxes(-1, -2) * 1e-3 - 0 + low, -2000.0)) @ v

    low = np.full((130,), -5000.0)
    assert is_fused(f, q, k, v)
    np.testing.assert_allclose(tw.compile(f)(q, k, v), f(q, k, v), 1e-12, 1e-12)


@pytest.mark.parametrize("offset", [-7, 0, 3, 200])
@pytest.mark.parametrize("fill", [-np.inf, -1e30])
@pytest.mark.parametrize("t", [6, 70])
def test_causality_counts_from_an_offset(t: int, fill: float, offset: int) -> None:
    def f(q: Any, k: Any, v: Any) -> Any:
        row, column = (tw.numpy.arange(n) for n in (t, 90))
        seen = row[:, None] + offset >= column
        return softmax(np.where(seen, q @ k.swapaxes(-1, -2), fill)) @ v

    args = qkv(1, 2, t, 90, 8, 8, dtype=np.float64)
    assert is_fused(f, *args)
    with np.errstate(all="ignore"):
        want = np.asarray(f(*args))
    np.testing.assert_allclose(tw.compile(f)(*args), want, 1e-12, 1e-12)


# -- compositions ------------------------------------------------------------------------------


def test_grouped_queries_decode_and_gradient() -> None:
    q, k, v = arrays((2, 1, 8, 16), (2, 300, 2, 16), (2, 300, 2, 16), dtype=np.float64)

    def f(q: Any, k: Any, v: Any, length: Any) -> Any:
        seen = tw.numpy.arange(300) < length
        return nn.dot_product_attention(q, k, v, mask=seen[None, None, None])

    length = np.array(123)
    assert is_fused(f, q, k, v, length)
    wide = [np.repeat(x, 4, 2) for x in (k, v)]
    scores = np.einsum("bthd,bshd->bhts", q, wide[0][:, :123]) / 4
    want = np.einsum("bhts,bshd->bthd", softmax(scores), wide[1][:, :123])
    np.testing.assert_allclose(tw.compile(f)(q, k, v, length), want, 1e-12, 1e-12)

    def loss(q: Any, k: Any, v: Any) -> Any:
        return (f(q, k, v, length) ** 2).sum()

    found = tw.compile(tw.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    assert [g.shape for g in found] == [x.shape for x in (q, k, v)]
    direction = rng(1).standard_normal(k.shape)
    slope = [float(loss(q, k + h * direction, v)) for h in (1e-5, -1e-5)]
    np.testing.assert_allclose((found[1] * direction).sum(), (slope[0] - slope[1]) / 2e-5, 1e-6)


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 0, 0), (1, 0, None)])
def test_batched_gradients(axes: tuple[int | None, ...]) -> None:
    shapes = [(5, 12, 4), (5, 9, 4), (5, 9, 3)]
    args = [
        x if a == 0 else np.moveaxis(x, 0, 1).copy() if a == 1 else x[0]
        for x, a in zip(arrays(*shapes, dtype=np.float64), axes, strict=True)
    ]

    def one(q: Any, k: Any, v: Any) -> Any:
        return (captured_mask(q, k, v) ** 2).sum()

    gradient = tw.grad(one, argnums=(0, 1, 2))
    mapped = tw.compile(tw.vmap(gradient, in_axes=axes))
    assert is_fused(tw.vmap(gradient, in_axes=axes), *args, op="attention_gradient")
    found = mapped(*args)
    for i in range(5):
        own = [x if a is None else np.take(x, i, a) for x, a in zip(args, axes, strict=True)]
        for g, w in zip(found, interpreted(gradient, *own), strict=True):
            np.testing.assert_allclose(g[i], w, 1e-10, 1e-12)
    total = tw.grad(lambda *a: tw.vmap(one, in_axes=axes)(*a).sum(), argnums=(0, 1, 2))
    for g, w, a in zip(tw.compile(total)(*args), found, axes, strict=True):
        whole = w.sum(0) if a is None else np.moveaxis(w, 0, a)
        np.testing.assert_allclose(g, whole, 1e-10, 1e-12)


def test_second_derivatives_and_forward_mode() -> None:
    q, k, v = arrays((7, 3), (5, 3), (5, 2), dtype=np.float64)

    def loss(q: Any) -> Any:
        return (plain(q, k, v) ** 3).sum()

    direction = rng(1).standard_normal(q.shape)

    def gradient(q: Any) -> Any:
        return tw.grad(loss)(q)

    _, product = tw.compile(lambda q, d: tw.jvp(gradient, (q,), (d,)))(q, direction)
    difference = (gradient(q + 1e-5 * direction) - gradient(q - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(product, difference, 1e-6, 1e-7)
    again = tw.compile(tw.grad(lambda q: (gradient(q) * direction).sum()))(q)
    np.testing.assert_allclose(again, difference, 1e-6, 1e-7)
    _, push = tw.linearize(loss, q)
    slope = (float(loss(q + 1e-5 * direction)) - float(loss(q - 1e-5 * direction))) / 2e-5
    np.testing.assert_allclose(push(direction), slope, 1e-6)


def test_attention_in_a_scan_over_layers() -> None:
    x, weights = arrays((20, 8), (3, 8, 8), dtype=np.float64)

    def layer(x: Any, w: Any) -> tuple[Any, Any]:
        h = x @ w
        return x + captured_mask(h, h, x), None

    def loss(x: Any, weights: Any) -> Any:
        return (tw.scan(layer, x, weights)[0] ** 2).sum()

    def unrolled(x: Any, weights: Any) -> Any:
        for w in weights:
            x, _ = layer(x, w)
        return (x**2).sum()

    got = tw.compile(tw.grad(loss, argnums=(0, 1)))(x, weights)
    alike = tw.compile(tw.grad(unrolled, argnums=(0, 1)))(x, weights)
    want = interpreted(tw.grad(unrolled, argnums=(0, 1)), x, weights)
    for g, a, w in zip(got, alike, want, strict=True):
        np.testing.assert_allclose(g, a, 1e-10, 1e-12)
        np.testing.assert_allclose(g, w, 1e-10, 1e-12 * np.abs(w).max())
    checkpointed = tw.grad(lambda x: (tw.checkpoint(plain)(x, x, x) ** 2).sum())
    direct = tw.grad(lambda x: (plain(x, x, x) ** 2).sum())
    want = interpreted(direct, x)
    np.testing.assert_allclose(tw.compile(checkpointed)(x), want, 1e-10, 1e-12)


def test_bits_do_not_depend_on_threads() -> None:
    args = qkv(1, 3, 130, 130, 32, 32)

    def both(q: Any, k: Any, v: Any) -> Any:
        loss = tw.value_and_grad(lambda *a: (captured_mask(*a) ** 2).sum(), argnums=(0, 1, 2))
        return captured_mask(q, k, v), loss(q, k, v)

    one = tw.tree.leaves(tw.compile(both, threads=1)(*args))
    for threads in (2, 3):
        several = tw.tree.leaves(tw.compile(both, threads=threads)(*args))
        for a, b in zip(one, several, strict=True):
            np.testing.assert_array_equal(a, b)


# -- fuzz --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_random_layouts(seed: int) -> None:
    """Letters in any order, merged and missing, with any steps: compiled is NumPy's."""
    r = rng(seed)
    sizes = {a: int(n) for a, n in zip("abtsde", r.integers(1, 6, 6), strict=True)}
    sizes |= {
        "t": int(r.integers(1, 50)),
        "s": int(r.integers(1, 140)),
        "e": int(r.integers(1, 40)),
    }

    def layout(letters: str, last: str) -> tuple[str, ...]:
        own = [a for a in letters if a not in "ab" or r.random() < 0.7]
        order = [own[i] for i in r.permutation(len(own))] + [last]
        if len(order) > 2 and r.random() < 0.5:
            return (*order[:-2], order[-2] + order[-1])
        return tuple(order)

    query, key, value = layout("abt", "d"), layout("abs", "d"), layout("abs", "e")
    steps: list[Mask | Bias | Causal] = []
    for kind in r.permutation(3)[: r.integers(0, 4)]:
        fill = float(r.choice([-np.inf, -1e30, -1500.0]))
        where = ("a", "t", "s") if r.random() < 0.5 else ("s",)
        steps.append([Mask(where, fill), Bias(where), Causal(int(r.integers(0, 60)), fill)][kind])
    used = "".join((*query, *key, *value, *(x for s in steps if not isinstance(s, Causal)
                                            for x in s.layout)))  # fmt: skip
    out = (*(a for a in "btae" if a in used),)
    op = Attention(
        tuple((a, n) for a, n in sizes.items() if a in used),
        query, key, value, out, 0.6, tuple(steps),
    )  # fmt: skip
    shapes = [tuple(int(np.prod([sizes[a] for a in x])) for x in y) for y in op.layouts]
    args = [r.standard_normal(s) for s in shapes]
    kinds = [s for s in steps if not isinstance(s, Causal)]
    args[3:] = [x > -1 if isinstance(s, Mask) else x for s, x in zip(kinds, args[3:], strict=True)]
    got = tw.compile(lambda *a: op(*map(asarray, a)))(*args)
    np.testing.assert_allclose(got, op.numpy(*args), 1e-12, 1e-12)


# -- cuts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "t, s, dtype",
    [
        (1, 70, np.float32),
        (5, 300, np.float64),
        (12, 200, np.float32),
        (40, 40, ml_dtypes.bfloat16),
        (100, 333, np.float32),
        (9, 1100, np.float64),
    ],
)
def test_every_cut_attends_alike(t: int, s: int, dtype: Any) -> None:
    """Causal, masked and biased at once; cuts that no measurement would ask for among them."""
    args = arrays((2, t, 9), (2, s, 9), (2, s, 20), (s,), dtype=dtype)
    seen = rng(3).random((t, s)) < 0.8
    seen[:, : s // 3] = True
    seen[:, s // 2 : s // 2 + 70] = False
    steps = (Bias(("s",)), Mask(("t", "s"), -np.inf), Causal(s - t, -1e30))
    op = Attention((("h", 2), ("t", t), ("s", s), ("d", 9), ("e", 20)), ("h", "t", "d"),
                   ("h", "s", "d"), ("h", "s", "e"), ("h", "t", "e"), 0.3, steps)  # fmt: skip
    given = (*args[:3], args[3], seen)
    ct = arrays((2, t, 20), dtype=dtype, seed=5)[0]
    few = [Blocks(0, 0, 64), Blocks(0, 0, 1024)] if t <= 16 else []
    odd = [Blocks(3, 5, 64), Blocks(4, 1, 128), Blocks(1, 28, 192)]
    for of, values in ((op, given), (AttentionGradient(op), (*given, ct))):
        gradient = of is not op
        usual = op.cut(values[0], gradient).alternatives
        exact = of.numpy(*(x if x.dtype == bool else x.astype(np.float64) for x in values))
        for blocks in [*usual, *odd, *([] if gradient else few)]:
            found = tw.compile(replace(of, blocks=blocks))(*values)
            for a, b in zip(found, exact, strict=True) if gradient else [(found, exact)]:
                scale = max(np.abs(b).max(), 1.0)
                error = np.abs(np.asarray(a, np.float64) - b).max()
                assert error <= 3 * TOLERANCE[np.dtype(dtype).name] * scale, blocks


def test_cuts_that_are_worth_measuring() -> None:
    for t, s, stored, summed, gradient in (
        (1, 1, 4, 4, False), (1, 1, 4, 4, True), (1000, 64, 8, 8, True), (16, 17, 2, 4, False),
        (12, 5000, 4, 4, False), (300, 10**6, 4, 4, True),
    ):  # fmt: skip
        e = Extents(t, s, stored, summed, gradient)
        found = e.alternatives
        assert found[0] == e.usual and len(set(found)) == len(found) == len(set(map(str, found)))
        assert all(b.keys % 64 == 0 and (b.vectors or not gradient) for b in found)
    assert len(Extents(1, 1000, 4, 4, False).alternatives) <= 2, "a query alone shares no key"
    assert Extents(77, 77, 4, 4, False).usual.vectors == 1
    assert Extents(1024, 1024, 2, 4, False).usual.vectors == 2, "keys are widened half as often"
    assert Extents(16, 16384, 4, 4, True).usual.keys == 16384, "scores are computed once"
    assert Extents(16, 16385, 4, 4, True).usual.keys == 512
