"""Groups: which axes are cut in two, and that values stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import lax


def _convolution(groups: int) -> Callable[[Any, Any], Any]:
    def convolve(x: Any, w: Any) -> Any:
        pad = ((1, 1), (1, 1))
        return lax.conv_general_dilated(x, w, (1, 1), pad, feature_group_count=groups)

    return convolve


def _expected(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """The convolution with windows of 3 by 3 as one sum for each group."""
    image = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (2, 3))
    parts = zip(np.split(patches, groups, 1), np.split(w, groups), strict=True)
    return np.concatenate([np.einsum("ncyxab,ocab->noyx", p, k) for p, k in parts], 1)


@pytest.mark.parametrize(
    ("groups", "c", "out", "axes"),
    [
        (2, 6, 8, "axes i:2 j:2 j_1:4 k:5 l:7\n"),
        (3, 6, 3, "axes i:2 j:3 k:5 l:7\n"),  # a result for each group: channels are groups
        (1, 6, 8, "axes i:2 j:8 k:5 l:7\n"),
        (6, 6, 12, "axes i:2 j:12 k:5 l:7\n"),  # windows only
        (4, 64, 128, "axes i:2 j:4 j_1:32 k:5 l:7\n"),
    ],
)
def test_grouped_convolutions(groups: int, c: int, out: int, axes: str) -> None:
    """Channels of results are groups, and channels of a group, where groups sum channels."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, c, 5, 7))
    w = rng.standard_normal((out, c // groups, 3, 3))
    compiled = tw.compile(_convolution(groups))
    np.testing.assert_allclose(compiled(x, w), _expected(x, w, groups), rtol=1e-10, atol=1e-10)
    (kernel,) = compiled.lower(x, w).kernels
    assert axes in str(kernel)


def test_heads_that_share_keys() -> None:
    """Six heads of queries read two of keys: those that share one are rows of one product."""
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((6, 9, 5)), rng.standard_normal((2, 11, 5))

    def scores(q: Any, k: Any) -> Any:
        return np.einsum("hqd,hkd->hqk", q, np.repeat(k, 3, 0))

    compiled = tw.compile(scores)
    np.testing.assert_allclose(compiled(q, k), scores(q, k), rtol=1e-12)
    (kernel,) = compiled.lower(q, k).kernels
    assert "axes i:2 i_1:27 k_1:11\n" in str(kernel)
