"""Fusion: the kernels a good engineer would write by hand, and an account of every decision."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import kernel as kernels
from tilewright.compile import Lowered
from tilewright.graph import Input


def f32(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def lowered(f: Callable[..., Any], *args: Any) -> Lowered:
    return tw.compile(f).lower(*args)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layernorm(x: Any, g: Any, b: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b


def rmsnorm(x: Any, g: Any) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g


def logsumexp(x: Any) -> Any:
    top = x.max(-1, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(-1, keepdims=True)))[..., 0]


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3)))


def attention(q: Any, k: Any, v: Any) -> Any:
    return softmax(q @ k.T / np.sqrt(np.float32(q.shape[-1]))) @ v


def batchnorm(x: Any, g: Any, b: Any) -> Any:
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * g + b


def distances(x: Any, centres: Any) -> Any:
    return np.argmin(((x[:, None, :] - centres) ** 2).sum(-1), 1)


X, ROW = f32(8, 33), f32(33)

COUNTS: dict[str, tuple[int, Callable[..., Any], tuple[Any, ...]]] = {
    "softmax": (1, softmax, (X,)),
    "layernorm": (1, layernorm, (X, ROW, ROW)),
    "rmsnorm": (1, rmsnorm, (X, ROW)),
    "logsumexp": (1, logsumexp, (X,)),
    "gelu": (1, gelu, (X,)),
    "dense": (1, lambda x, w, b: np.maximum(x @ w + b, 0), (f32(5, 7), f32(7, 9), f32(9))),
    "attention is an op": (0, attention, (f32(6, 8), f32(10, 8), f32(10, 4))),
    "mean and var": (1, lambda x: (x.mean(-1), x.var(-1)), (X,)),
    "siblings": (1, lambda x, y: (x + y, x - y, np.sin(x)), (f32(8, 3), f32(8, 3))),
    "movements": (1, lambda x: x.T[::-1, 2:].reshape(-1) * 2, (X,)),
    "stencil": (1, lambda x: x[:-2] + x[2:] - 2 * x[1:-1], (f32(40),)),
    "concatenate": (1, lambda x, y: np.concatenate((x + 1, y * 2, x), 1), (X, X)),
    "distances": (1, distances, (f32(20, 3), f32(4, 3))),
    "statistics of columns, then the rows": (2, batchnorm, (X, ROW, ROW)),
    "sums of rows, sums of columns": (2, lambda x: (x.sum(0), x.sum(1)), (X,)),
    "unlike spaces": (2, lambda x, y: (x * 2, y * 2), (f32(8), f32(9))),
    "sort is on its own": (2, lambda x: np.sort(x + 1) * 2, (f32(9),)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_kernels(name: str) -> None:
    count, f, args = COUNTS[name]
    low = lowered(f, *args)
    assert len(low.kernels) == count, low.explain()
    for k in low.kernels:
        kernels.verify(k)


@pytest.mark.parametrize("name", COUNTS)
def test_fused_programs_compute_the_same(name: str) -> None:
    _, f, args = COUNTS[name]
    got, expected = tw.compile(f)(*args), f(*args)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def adam(params: Any, grads: Any, first: Any, second: Any, t: Any) -> Any:
    scale1, scale2 = 1 - np.float32(0.9) ** t, 1 - np.float32(0.999) ** t
    new = {}
    for k, p in params.items():
        m = 0.9 * first[k] + 0.1 * grads[k]
        v = 0.999 * second[k] + 0.001 * grads[k] ** 2
        new[k] = (p - 1e-3 * (m / scale1) / (np.sqrt(v / scale2) + 1e-8), m, v)
    return new


def test_adam_is_one_kernel_for_each_leaf() -> None:
    tree = {"w": f32(8, 16), "b": f32(16), "scale": f32(5)}
    low = lowered(adam, tree, tree, tree, tree, np.float32(3))
    leaves = [k for k in low.kernels if len(k.writes) == 3]
    assert len(leaves) == len(tree), low.explain()
    steps = [k for k in low.kernels if k not in leaves]  # the two powers, once for all leaves
    assert all(k.axes == () for k in steps) and len(steps) <= 2, low.explain()


def test_adam_over_leaves_of_one_shape_shares_the_kernel() -> None:
    tree = {f"w{i}": f32(6, 4) for i in range(4)}
    low = lowered(adam, tree, tree, tree, tree, np.float32(3))
    assert sum(len(k.writes) == 3 for k in low.kernels) == 1, low.explain()


def test_dear_values_are_not_computed_twice() -> None:
    """exp has two readers over different spaces: it is stored, once."""
    low = lowered(lambda x: (np.exp(x)[1:] * 2, np.exp(x).sum()), f32(32))
    assert low.explain().count("exp f32[32]") >= 1
    exps = sum(text.count("exp(") for text in map(kernels.show, low.kernels))
    assert exps == 1, "\n".join(map(kernels.show, low.kernels))


def test_cheap_values_are_computed_again_rather_than_stored() -> None:
    low = lowered(lambda x: ((x + 1)[1:] * 2, (x + 1).sum()), f32(32))
    assert low.arena_bytes == 0, low.explain()


def reversed_quotient(x: Any) -> Any:
    e = np.exp(x)
    return e[:, ::-1] / e.sum(-1, keepdims=True)


def widened_quotient(x: Any) -> Any:
    e = np.exp(x)
    return e.astype(np.float64) / e.sum(-1, keepdims=True)


def two_rows(x: Any) -> Any:
    """The first row may only be overwritten once the second one is made of it."""
    e = np.exp(x)
    d = np.tanh(e - e.mean(-1, keepdims=True))
    return d - d.max(-1, keepdims=True)


@pytest.mark.parametrize(
    ("f", "rows"),
    [(softmax, 0), (two_rows, 1), (reversed_quotient, 1), (widened_quotient, 1)],
)
@pytest.mark.parametrize("shape", [(13, 25_001), (300, 1003)])
def test_large_results_hold_the_rows_they_are_made_of(
    f: Callable[[Any], Any], rows: int, shape: tuple[int, int]
) -> None:
    """Where an element is made of the row's element in its own place, and of sums."""
    x = f32(*shape)
    (kernel,) = lowered(f, x).kernels
    assert len(kernel.locals) == rows, kernel
    out = kernel.params[-1]
    memory = {kernel.params[0]: x, out: np.zeros(out.shape, out.dtype)}
    kernels.evaluate(kernel, memory)
    exact = f(x.astype(np.float64))
    for found in (memory[out], tw.compile(f, threads=2)(x)):
        np.testing.assert_allclose(found, exact, 1e-5, 1e-6 if f is two_rows else 1e-9)
    (small,) = lowered(f, x[:3]).kernels
    assert len(small.locals) == max(rows, 1 + (f is two_rows)), "near caches hold both"


def test_a_result_that_its_kernel_reads_again_holds_nothing_else_before() -> None:
    def f(x: Any) -> Any:
        h = np.tanh(x)
        a = h - h.max(-1, keepdims=True)
        return a, a.max(-1)

    x = f32(13, 25_001)
    assert len(lowered(f, x).kernels) == 1
    a, top = tw.compile(f)(x)
    np.testing.assert_allclose(a, f(x)[0], 1e-5, 1e-6)
    np.testing.assert_array_equal(top, 0)


def test_operations_of_a_kernel_are_bounded() -> None:
    def chain(x: Any) -> Any:
        for k in range(400):
            x = np.sin(x) * (1 + k / 1000)
        return x

    low = lowered(chain, f32(8))
    assert 2 <= len(low.kernels) <= 8, len(low.kernels)


# -- explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_explain_lists_every_value(name: str) -> None:
    """Each value is kept with a reason and its bytes, passed on, or inlined with what it saves."""
    _, f, args = COUNTS[name]
    low = lowered(f, *args)
    lines = low.explain().splitlines()[1:]
    values = [n for n in low.simplified.nodes if n.args and not isinstance(n.op, Input)]
    for n in values:
        mentioned = [text for text in lines if text.strip().startswith(f"{n.op.name} ")]
        assert mentioned, f"{n!r} is not explained\n{low.explain()}"
    kept = lines[lines.index("kept in memory:") + 1 :]
    kept = kept[: next((k for k, s in enumerate(kept) if not s.startswith("  ")), len(kept))]
    assert kept
    for text in kept:
        assert re.search(r": .+ \(\w+, [\d,]+ bytes\)$|: .+ \([\d,]+ bytes\)$", text), text


def test_explain_names_the_users_line() -> None:
    text = lowered(softmax, X).explain()
    assert re.search(r"exp f32\[8,33\] at test_fusion.py:\d+", text), text


# -- length ------------------------------------------------------------------------------------


def chain(n: int) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for k in range(n):
            x = np.sin(x) if k % 3 == 0 else x * 1.001 if k % 3 == 1 else np.maximum(x, -x)
        return x

    return f


def tree(n: int) -> Callable[[Any], Any]:
    """n/2 values, added in pairs."""

    def f(x: Any) -> Any:
        values = [x * float(k) for k in range(n // 2)]
        while len(values) > 1:
            odd = values[len(values) // 2 * 2 :]
            values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + odd
        return values[0]

    return f


def normalisations(n: int) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for _ in range(n // 6):
            x = x - x.max(-1, keepdims=True)
            x = x / (np.abs(x).sum(-1, keepdims=True) + 1)
        return x

    return f


LONG = {"chain": chain, "tree": tree, "normalisations": normalisations}


@pytest.mark.parametrize("name", LONG)
def test_ten_thousand_operations(name: str) -> None:
    """Trace, print, compile and run, within the default recursion limit."""
    x, f = f32(4, 4).astype(np.float64), LONG[name](10_000)
    compiled = tw.compile(f)
    low = compiled.lower(x)
    assert len(low.graph.nodes) > 6_000
    assert len(str(low.graph).splitlines()) > 6_000
    np.testing.assert_allclose(compiled(x), f(x), rtol=1e-6)


def calls(work: Callable[[], Any]) -> int:
    """How many Python functions `work` calls: a measure of work no other process disturbs."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", LONG)
def test_work_is_linear_in_the_length(name: str) -> None:
    """Four times the operations, at most five times the function calls, tracing to LLVM text."""
    x = f32(4, 4).astype(np.float64)

    def work(n: int) -> int:
        return calls(lambda: tw.compile(LONG[name](n)).lower(x).llvm)

    work(30)  # the first program fills caches that do not grow
    short, long = work(600), work(2400)
    assert long < 5 * short, f"{short} calls for 600 operations, {long} for 2,400"


def test_what_a_kept_node_reads_once_is_not_kept() -> None:
    """The gradient that the weights' gradient reads many times is kept; activations beside the
    convolution's results, which they are made of, are not: nobody reads these more than once."""
    x, b = f32(4, 3, 16, 16), f32(20)

    def gradient(w: Any) -> Any:
        def loss(w: Any) -> Any:
            conv = tw.lax.conv_general_dilated(x, w, (1, 1), "SAME")
            y = np.maximum(conv + b[:, None, None], 0)
            return (y.reshape(4, 20, 8, 2, 8, 2).max(axis=(3, 5)) ** 2).sum()

        return tw.grad(loss)(w)

    made = lowered(gradient, f32(20, 3, 3, 3)).kernels
    whole = [a.buffer.name for k in made for a in k.body if a.buffer.size == 4 * 20 * 256]
    assert whole == ["conv", "multiply"], made


def test_rows_that_nobody_reads() -> None:
    """Over no terms a sum reads nothing, and neither does anybody where a row is cut off."""
    x, w = np.zeros((5, 0, 2), np.uint8), np.zeros((2, 0), np.uint8)
    assert tw.compile(lambda x, w: np.triu(x, 1) @ w)(x, w).shape == (5, 0, 0)
    y, k = np.linspace(-1, 1, 1110), np.arange(1110)

    def f(y, k):
        return np.any(np.concatenate((y, y, k))[-194:1881], axis=0)

    assert tw.compile(f)(y, k) == f(y, k)
