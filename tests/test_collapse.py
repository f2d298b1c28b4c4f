"""Collapse: which axes become one, and that values stay."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright as tw


def kernel(f, *args: np.ndarray) -> str:
    """The one kernel of a function, after it agreed with NumPy."""
    compiled = tw.compile(f)
    np.testing.assert_allclose(compiled(*args), f(*args), rtol=1e-13)
    (only,) = compiled.lower(*args).kernels
    return str(only)


X = np.random.default_rng(0).standard_normal((5, 7, 3))


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: x * 2, "axes i:105\n"),
        (lambda x: x + np.ones(3), "axes i:35 k:3\n"),
        (lambda x: x + np.ones((7, 3)), "axes i:5 j:21\n"),
        (lambda x: x + np.ones((5, 1, 1)), "axes i:5 j:21\n"),
        (lambda x: x.sum(), "sum[k:105]"),
        (lambda x: x.sum((1, 2)), "sum[k:21]"),
        (lambda x: x.sum(0), "axes i:21\n"),
        (lambda x: np.swapaxes(x, 0, 1) * 2, "axes i:7 j:5 k:3\n"),
        (lambda x: x[:, ::-1] * 2, "axes i:5 j:7 k:3\n"),
        (lambda x: x.reshape(35, 3) * 2, "axes i:105\n"),
        (lambda x: x.reshape(3, 35).sum(0), "axes i:35\n"),
        (lambda x: np.where(np.arange(3) > 1, x, 0), "axes i:35 k:3\n"),
    ],
)
def test_axes(f, expected: str) -> None:
    assert expected in kernel(f, X) + "\n"


def test_rows_collapse_too() -> None:
    """Softmax over the last axis has one loop over all rows."""

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    assert "axes i:35\n" in kernel(softmax, X)


def test_positions_that_are_values_stay() -> None:
    """An axis that the element itself depends on is not merged away."""
    text = kernel(lambda x: x + np.arange(3) * np.arange(7)[:, None], X)
    assert "j:7" in text or "j:21" in text
