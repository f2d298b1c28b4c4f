"""JAX functions as NumPy functions: the same numbers as JAX's own, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.frontends.jax import RULES, UnsupportedPrimitive, from_jax

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy
jaxprs_in_params = pytest.importorskip("jax.extend.core").jaxprs_in_params


def single(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(result: Any, expected: Any, rtol: float = 2e-5) -> None:
    """Equal structure, shapes, dtypes and, up to rounding, values."""
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert (np.shape(got), np.asarray(got).dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6)


X, Y = single(0, 3, 4), single(1, 3, 4)
W, V = single(2, 4, 5), single(3, 4)
K = np.arange(-6, 6, dtype=np.int32).reshape(3, 4)
KEEP = K % 2 == 0

FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "arithmetic": (lambda x, y: (x + y, x - y, x * y, x / y, -x, jnp.abs(x), x % y), (X, Y)),
    "integers": (lambda k: (k // 3, k % 3, jax.lax.div(k, 3), jax.lax.rem(k, 3), k**3), (K,)),
    "bits": (lambda k: (k & 6, k | 1, k ^ 5, ~k, k << 2, k >> 1), (K,)),
    "logical shift": (lambda k: jax.lax.shift_right_logical(k, 3), (K,)),
    "powers": (lambda x: (x**2, x**-3, jnp.abs(x) ** 2.5, jax.lax.rsqrt(x * x + 1)), (X,)),
    "exponentials": (lambda x: (jnp.exp(x), jnp.expm1(x), jnp.log1p(x * x), jnp.exp2(x)), (X,)),
    "trigonometry": (lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x), jnp.arctan2(x, 2.0)), (X,)),
    "hyperbolic": (lambda x: (jnp.sinh(x), jnp.cosh(x), jnp.tanh(x), jnp.arcsinh(x)), (X,)),
    "rounding": (lambda x: (jnp.floor(x), jnp.ceil(x), jnp.round(x), jnp.sign(x)), (3 * X,)),
    "comparison": (lambda x, y: (x < y, x <= y, x == y, x != y, x > y, x >= y), (X, Y)),
    "selection": (lambda c, x, y: (jnp.where(c, x, y), jnp.clip(x, -0.5, 0.5)), (KEEP, X, Y)),
    "numbered cases": (lambda k, x: jax.lax.select_n(k % 3, x, 2 * x, 3 * x), (K, X)),
    "activations": (lambda x: (jax.nn.relu(x), jax.nn.silu(x), jax.nn.softplus(x)), (X,)),
    "softmax": (lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x, axis=0)), (X,)),
    "error function": (lambda x: (jax.lax.erf(x), jax.nn.gelu(x, approximate=False)), (X,)),
    "reductions": (lambda x: (x.sum(), x.prod(0), x.max(1), x.min(), x.mean(), x.std(0)), (X,)),
    "integer reductions": (lambda k: (k.sum(), k.max(0), k.argmax(1), k.argmin()), (K,)),
    "quantifiers": (lambda c: (c.all(), c.any(axis=0), c.sum()), (KEEP,)),
    "cumulative": (lambda x: (jnp.cumsum(x, 1), jax.lax.cumprod(x, 0, reverse=True)), (X,)),
    "shapes": (lambda x: (x.T, x.reshape(2, 6), x[None], x[::-1], x[1:, ::2], x[:, 1]), (X,)),
    "assembly": (lambda x, y: (jnp.concatenate([x, y], 1), jnp.stack([x, y])), (X, Y)),
    "tiles": (lambda x: (jnp.tile(x, (2, 1)), *jnp.unstack(x)), (X,)),
    "windows": (lambda x: jax.lax.dynamic_slice(x, (1, 0), (2, 3)), (X,)),
    "sorting": (lambda x: jnp.sort(x, axis=0), (X,)),
    "padding": (lambda x: jax.lax.pad(x, np.float32(7), [(1, 2, 0), (0, -1, 1)]), (X,)),
    "creation": (lambda x: (x + jnp.arange(4), jnp.zeros(3), jnp.eye(4) * x[0]), (X,)),
    "split": (lambda x: tuple(jnp.split(x, 2, axis=1)), (X,)),
    "matmul": (lambda x, w, v: (x @ w, x @ v, v @ w, v @ v), (X, W, V)),
    "contraction": (lambda x, w: jnp.einsum("ab,bc->ca", x, w), (X, W)),
    "batched": (lambda x: jnp.einsum("bij,bkj->bik", x, x), (single(4, 2, 3, 4),)),
    "casts": (lambda x, k: (x.astype(jnp.int32), k * 0.5, k.astype(jnp.bfloat16)), (X, K)),
    "custom rules": (lambda x: jax.nn.relu6(x) + jax.nn.logsumexp(x), (X,)),
    "gradient": (jax.grad(lambda w, x: (jnp.tanh(x @ w) ** 2).sum()), (W, X)),
    "branches": (lambda x: jax.lax.cond(x.sum() > 0, lambda a: a * 2, lambda a: -a, x), (X,)),
    "counted loop": (lambda x: jax.lax.fori_loop(0, 5, lambda i, a: a * 0.9 + i, x), (X,)),
    "loop": (lambda x: jax.lax.while_loop(lambda a: (a * a).sum() > 1, lambda a: a / 2, x), (X,)),
    "scan": (lambda x: jax.lax.scan(lambda c, r: (c + r, c * r), x[0], x), (X,)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_eager_is_jax(name: str) -> None:
    f, args = FUNCTIONS[name]
    assert_same(from_jax(f)(*args), f(*map(jnp.asarray, args)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_is_jax(name: str) -> None:
    f, args = FUNCTIONS[name]
    assert_same(tw.compile(from_jax(f))(*args), f(*map(jnp.asarray, args)))


def test_wide_types_are_kept() -> None:
    x = np.linspace(0, 1, 5)
    result = from_jax(lambda x: jnp.sin(x) + 1)(x)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, np.sin(x) + 1, rtol=1e-14)


def test_python_numbers_adopt_the_type_of_arrays() -> None:
    assert from_jax(lambda x, rate: x * rate)(X, 0.1).dtype == np.float32


OPTIMIZERS: dict[str, Any] = {
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(1e-2),
    "adamw, cosine, clipped": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 10)),
    ),
    "rmsprop": optax.rmsprop(1e-2),
    "adagrad": optax.adagrad(1e-2),
    "lion": optax.lion(1e-3),
    "lamb": optax.lamb(1e-3),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_inside_a_compiled_step(name: str) -> None:
    """Four steps of an optimizer over a parameter tree, the update compiled with the gradient."""
    optimizer = OPTIMIZERS[name]
    params = {"w": single(5, 4, 3), "b": single(6, 3)}
    state = optimizer.init(params)

    def step(params: Any, state: Any, update: Callable[..., Any], apply: Callable[..., Any]) -> Any:
        gradient = {k: 2 * p for k, p in params.items()}
        updates, state = update(gradient, state, params)
        return apply(params, updates), state

    @tw.compile
    def compiled(params: Any, state: Any) -> Any:
        return step(params, state, from_jax(optimizer.update), from_jax(optax.apply_updates))

    ours, ours_state = params, jax.tree.map(np.asarray, state)
    theirs = jax.tree.map(jnp.asarray, params)
    for _ in range(4):
        ours, ours_state = compiled(ours, ours_state)
        theirs, state = step(theirs, state, optimizer.update, optax.apply_updates)
    assert_same(ours, theirs, rtol=1e-4)
    assert_same(ours_state, state, rtol=1e-4)


def test_unsupported_primitive_is_named() -> None:
    with pytest.raises(UnsupportedPrimitive) as caught:
        from_jax(lambda x: jnp.linalg.svd(x)[1])(X)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("the JAX function applies the primitive `svd`, which has no transla")
    assert __file__ in lines[1]
    assert lines[-1] == "Keep this part of the function outside `from_jax`, written in NumPy."


def test_every_rule_names_a_primitive_known_to_the_tests() -> None:
    """The functions above exercise most of the table; a name misspelt in it would never be met."""
    met: set[str] = set()

    def note(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            met.add(equation.primitive.name)
            for inner in jaxprs_in_params(equation.params):
                note(inner)

    for f, args in FUNCTIONS.values():
        note(jax.make_jaxpr(f)(*args).jaxpr)
    assert len(set(RULES) & met) >= 60
