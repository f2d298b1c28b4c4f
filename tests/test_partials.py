"""Long reductions to few results: cut into slices, with the bits of one thread on several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.codegen import parallel
from tilewright.codegen.pool import PARALLEL
from tilewright.runtime import threads
from tilewright.transforms.partials import FEWEST, MOST, SLICE

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "the largest magnitude": lambda x: np.max(np.abs(x)),
    "the least": np.min,
    "the sum": np.sum,
    "the mean": np.mean,
    "the variance": np.var,
    "any": lambda x: np.any(x > 3),
    "all": lambda x: np.all(x > -4),
    "an energy": lambda x: np.sum(np.exp(-x * x)),
    "a product": lambda x: np.prod(1 + x / 1000),
    "a quotient of two sums": lambda x: np.sum(x * np.abs(x)) / np.sum(np.abs(x)),
    "the norm of a gradient": tw.grad(lambda x: np.sqrt(np.sum(x * x))),
}
SHAPES = ((65536,), (100003,), (331, 333), (3, 224, 224), (40000, 3), (5, 20011), (130, 7, 99))


def kernels(f: Callable[..., Any], *args: Any) -> list[str]:
    return [k.name for k in tw.compile(f).lower(*args).kernels]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    f, x = FUNCTIONS[name], rng.standard_normal(shape)
    assert any(k.endswith("_parts") for k in kernels(f, x))
    reference = x / np.linalg.norm(x) if "gradient" in name else f(x)
    np.testing.assert_allclose(tw.compile(f)(x), reference, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not threads.available(), reason="the pool needs Linux")
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(100003,), (331, 333), (5, 20011)])
def test_bits(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one thread, with every loop in as many chunks as can be."""
    monkeypatch.setattr(parallel, "WORTH_NS", 0)
    monkeypatch.setattr(parallel, "CHUNK_NS", 0)
    f, x = FUNCTIONS[name], rng.standard_normal(shape).astype(np.float32)
    alone = np.asarray(tw.compile(threads=1)(f)(x)).tobytes()
    many = tw.compile(threads=63)(f)
    assert f"call void @{PARALLEL}" in many.lower(x).llvm
    for count in (1, 2, 3, 3):
        with tw.threads(count):
            assert np.asarray(many(x)).tobytes() == alone, f"{count} threads"


@pytest.mark.parametrize("place", [0, 65535, 99990, 100002])
def test_what_stands_alone_is_found(place: int) -> None:
    """In the first slice, at a border, in the rest."""
    x = np.zeros(100003, np.float32)
    x[place] = np.nan
    assert np.isnan(tw.compile(np.max)(x))
    assert tw.compile(np.any)(x != 0)
    x[place] = 7
    assert tw.compile(np.max)(x) == 7
    assert tw.compile(lambda x: np.min(-x))(x) == -7
    assert not tw.compile(lambda x: np.all(x == 0))(x)


def test_integers_are_exact(rng: np.random.Generator) -> None:
    x = rng.integers(-(2**62), 2**62, 100003)
    for f in (np.sum, np.prod, np.max, np.min):
        assert tw.compile(f)(x) == f(x)


def test_few_results(rng: np.random.Generator) -> None:
    """A few rows, or columns, are as few as one."""
    x = rng.standard_normal((3, 100003))
    for f in (lambda x: x.sum(1), lambda x: x.T.max(0), lambda x: x.min(1, keepdims=True)):
        assert any(k.endswith("_parts") for k in kernels(f, x))
        np.testing.assert_allclose(tw.compile(f)(x), f(x), rtol=1e-10)


def test_what_is_not_cut(rng: np.random.Generator) -> None:
    """Short ones; many results; products of matrices, whose rows share what they read."""
    short = rng.standard_normal(FEWEST * SLICE - 1)
    many = rng.standard_normal((64, 4096))
    tall = rng.standard_normal((MOST * SLICE, 3))
    for f, x in ((np.sum, short), (lambda x: x.sum(1), many), (lambda x: x.T @ x, tall)):
        assert not any(k.endswith("_parts") for k in kernels(f, x))
