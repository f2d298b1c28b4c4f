"""Elementwise chains, softmax, layer normalisation and reductions against `jax.jit`, on one core.

    python benchmarks/pointwise.py [--only NAME] [--seconds S] [--json FILE]

A mark `<` stands behind a case where jax is faster, `>` where our first call takes longer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from harness import Case, main, one_core

MILLION = (1_000_000,)
SQUARE = (1000, 1000)


def normal(*shapes: tuple[int, ...], dtype: str = "float32") -> Callable[[Any], tuple[Any, ...]]:
    return lambda rng: tuple(rng.standard_normal(s).astype(dtype) for s in shapes)


def positive(*shapes: tuple[int, ...], dtype: str = "float32") -> Callable[[Any], tuple[Any, ...]]:
    return lambda rng: tuple(rng.uniform(0.1, 10, s).astype(dtype) for s in shapes)


# -- elementwise ---------------------------------------------------------------------------------


def chain12(xp: Any, x: Any, row: Any, column: Any) -> Any:
    """A dozen mixed operations with broadcasting and a choice."""
    y = (x * row + column) * 0.5
    y = xp.where(y > 0, y * y, -0.1 * y)
    return xp.sqrt(xp.abs(y) + 1.0) - xp.minimum(y, x) / (1.0 + y * y)


def gelu_tanh(xp: Any, x: Any) -> Any:
    return 0.5 * x * (1 + xp.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def black_scholes(xp: Any, spot: Any, strike: Any, years: Any) -> Any:
    def cdf(x: Any) -> Any:
        k = 1.0 / (1.0 + 0.2316419 * xp.abs(x))
        p = k * (0.319381530 + k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978))))
        tail = xp.exp(-0.5 * x * x) * 0.3989422804 * (p + 1.330274429 * k * k * k * k * k)
        return xp.where(x >= 0, 1.0 - tail, tail)

    root = 0.25 * xp.sqrt(years)
    d1 = (xp.log(spot / strike) + (0.03 + 0.5 * 0.25**2) * years) / root
    discounted = strike * xp.exp(-0.03 * years)
    return spot * cdf(d1) - discounted * cdf(d1 - root)


def waves(xp: Any, x: Any) -> Any:
    return 2 * x + xp.sin(x) ** 2 + xp.exp(-x * x)


def stencil(xp: Any, u: Any) -> Any:
    around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
    return u[1:-1, 1:-1] + 0.2 * (around - 4 * u[1:-1, 1:-1])


ELEMENTWISE = [
    Case("chain12 1000x1000", chain12, normal(SQUARE, (1000,), (1000, 1))),
    Case("chain12 333x517", chain12, normal((333, 517), (517,), (333, 1))),
    Case("gelu_tanh 4M", gelu_tanh, normal((4_000_000,))),
    Case("gelu_tanh 100k", gelu_tanh, normal((100_000,))),
    Case("black_scholes f64 1M", black_scholes, positive(*[MILLION] * 3, dtype="float64"), 1e-11),
    Case("black_scholes f32 1M", black_scholes, positive(*[MILLION] * 3), 1e-4),
    Case("exp 1M", lambda xp, x: xp.exp(x), normal(MILLION)),
    Case("log 1M", lambda xp, x: xp.log(x), positive(MILLION)),
    Case("log1p 1M", lambda xp, x: xp.log1p(x), positive(MILLION)),
    Case("sin 1M", lambda xp, x: xp.sin(x), normal(MILLION)),
    Case("cos 1M", lambda xp, x: xp.cos(x), normal(MILLION)),
    Case("tanh 1M", lambda xp, x: xp.tanh(x), normal(MILLION)),
    Case("sqrt 1M", lambda xp, x: xp.sqrt(x), positive(MILLION)),
    Case("arctan2 1M", lambda xp, x, y: xp.arctan2(x, y), normal(MILLION, MILLION)),
    Case("x**2.5 1M", lambda xp, x: x**2.5, positive(MILLION)),
    Case("sigmoid 1M", lambda xp, x: 1 / (1 + xp.exp(-x)), normal(MILLION)),
    Case("2x+sin^2+exp(-x^2) 1M", waves, normal(MILLION)),
    Case("exp f64 1M", lambda xp, x: xp.exp(x), normal(MILLION, dtype="float64"), 1e-13),
    Case("tanh f64 1M", lambda xp, x: xp.tanh(x), normal(MILLION, dtype="float64"), 1e-13),
    Case("transpose + add 1000x1000", lambda xp, x, y: x.T + y, normal(SQUARE, SQUARE)),
    Case("5-point stencil 1024x1024", stencil, normal((1024, 1024))),
]


# -- normalisations ------------------------------------------------------------------------------


def softmax(xp: Any, x: Any) -> Any:
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layernorm(xp: Any, x: Any, scale: Any, shift: Any) -> Any:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / xp.sqrt(variance + 1e-5) * scale + shift


def residual_layernorm(xp: Any, x: Any, y: Any, scale: Any, shift: Any) -> Any:
    return layernorm(xp, x + y, scale, shift)


def logsumexp(xp: Any, x: Any) -> Any:
    peak = x.max(axis=-1, keepdims=True)
    return xp.log(xp.exp(x - peak).sum(axis=-1)) + peak[..., 0]


def mean_var(xp: Any, x: Any) -> Any:
    return x.mean(axis=0), x.var(axis=0)


NORMALISATIONS = [
    Case("softmax 2048x2048", softmax, normal((2048, 2048))),
    Case("softmax 4096x1024", softmax, normal((4096, 1024))),
    Case("softmax 64x12x128x128", softmax, normal((64, 12, 128, 128))),
    Case("softmax 5000x101", softmax, normal((5000, 101))),
    Case("layernorm 4096x1024", layernorm, normal((4096, 1024), (1024,), (1024,))),
    Case("layernorm 1000x333", layernorm, normal((1000, 333), (333,), (333,))),
    Case(
        "residual layernorm 4096x768",
        residual_layernorm,
        normal((4096, 768), (4096, 768), (768,), (768,)),
    ),
    Case("logsumexp 4096x1024", logsumexp, normal((4096, 1024))),
    Case("mean and var axis 0 4096x1024", mean_var, normal((4096, 1024)), 1e-4),
]

# -- reductions ----------------------------------------------------------------------------------


def reductions() -> list[Case]:
    """sum, max, argmax and var: everything, either axis, the middle axis, and odd extents."""
    functions: dict[str, Callable[..., Any]] = {
        "sum": lambda xp, x, axis: xp.sum(x, axis=axis),
        "max": lambda xp, x, axis: xp.max(x, axis=axis),
        "argmax": lambda xp, x, axis: xp.argmax(x, axis=axis),
        "var": lambda xp, x, axis: xp.var(x, axis=axis),
    }
    places: list[tuple[str, tuple[int, ...], int | None]] = [
        ("all 1M", MILLION, None),
        ("axis 0 1000x1000", SQUARE, 0),
        ("axis 1 1000x1000", SQUARE, 1),
        ("axis 1 64x128x128", (64, 128, 128), 1),
        ("axis 1 1009x997", (1009, 997), 1),
        ("axis 0 1009x997", (1009, 997), 0),
    ]

    def at(function: Callable[..., Any], axis: int | None) -> Callable[..., Any]:
        return lambda xp, x: function(xp, x, axis)

    return [
        Case(f"{name} {place}", at(function, axis), normal(shape), 1e-4)
        for name, function in functions.items()
        for place, shape, axis in places
    ]


CASES = [*ELEMENTWISE, *NORMALISATIONS, *reductions()]

if __name__ == "__main__":
    one_core()
    sys.exit(main(__doc__.splitlines()[0], CASES))
