"""vmap: the law (a batch equals the stack of its examples), axes, nesting, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slopes import runner, slope  # noqa: F401
from tilewright.errors import MissingRule, ShapeMismatch, TreeMismatch
from tilewright.graph import Op, Type
from tilewright.transforms.autodiff import grad, hessian, jacfwd
from tilewright.transforms.batching import vmap

RNG = np.random.default_rng(3)
A, B = RNG.standard_normal((5, 3)), RNG.standard_normal((5, 3))
PROGRAMS = [
    lambda x, y: np.sin(x) * y,
    lambda x, y: x @ y,
    lambda x, y: np.outer(x, y).sum(axis=0),
    lambda x, y: np.where(x > 0, x, y).max(),
    lambda x, y: np.concatenate([x, y[:2]])[::-1],
    lambda x, y: np.cumsum(x) / (1 + np.sum(y * y)),
    lambda x, y: np.sort(x) + np.argsort(y),
    lambda x, y: np.stack([x, y]).T.reshape(2, 3) @ x,
    lambda x, y: x[np.argmax(y)] + x[1:],
]


@pytest.mark.parametrize("f", PROGRAMS)
def test_a_batch_is_the_stack_of_its_examples(f: Any) -> None:
    np.testing.assert_allclose(vmap(f)(A, B), np.stack([f(a, b) for a, b in zip(A, B)]))
    np.testing.assert_allclose(vmap(f, (0, None))(A, B[0]), np.stack([f(a, B[0]) for a in A]))
    np.testing.assert_allclose(vmap(f, (None, 0))(A[0], B), np.stack([f(A[0], b) for b in B]))


def test_axes() -> None:
    f = lambda x, y: x * 2 + y
    np.testing.assert_allclose(vmap(f, (1, 0), 1)(A.T, B), (A * 2 + B).T)
    np.testing.assert_allclose(vmap(f, (-1, 0), -1)(A.T, B), (A * 2 + B).T)
    np.testing.assert_allclose(vmap(lambda x: (x, x.sum()), out_axes=(1, 0))(A)[0], A.T)


def test_trees_prefixes_and_keywords() -> None:
    f = lambda p, x, *, k: {"out": p["a"] * x + p["b"][0] * k, "same": p["a"]}
    p = {"a": np.arange(3.0), "b": [B]}
    out = vmap(f, ({"a": None, "b": 0}, 0), {"out": 0, "same": None})(p, A, k=np.arange(5.0))
    np.testing.assert_allclose(out["out"], p["a"] * A + B * np.arange(5.0)[:, None])
    np.testing.assert_allclose(out["same"], p["a"])


def test_constants_and_results_that_are_the_same_for_all() -> None:
    np.testing.assert_allclose(vmap(lambda x: np.ones(2))(A), np.ones((5, 2)))
    np.testing.assert_allclose(vmap(lambda: np.ones(2), axis_size=4)(), np.ones((4, 2)))
    np.testing.assert_allclose(vmap(lambda x, n: x**n, (0, None))(A, 2), A**2)


def test_nested() -> None:
    outer = vmap(vmap(lambda x, y: x * y, (None, 0)), (0, None))(np.arange(3.0), np.arange(4.0))
    np.testing.assert_allclose(outer, np.outer(np.arange(3.0), np.arange(4.0)))
    cube = vmap(vmap(vmap(np.sum, 1), 0), 0)(RNG.standard_normal((2, 3, 4, 5)))
    assert cube.shape == (2, 3, 5)


def test_with_derivatives() -> None:
    f = lambda x: np.sum(np.sin(x) * x) * x[0]
    hessians = vmap(hessian(f))(A)
    np.testing.assert_allclose(hessians, np.stack([hessian(f)(a) for a in A]))
    twice = [slope(lambda x: slope(f, x, 1e-4), a, 1e-4) for a in A]
    np.testing.assert_allclose(hessians, np.stack(twice), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jacfwd(vmap(f))(A)[0, 0], grad(f)(A[0]), rtol=1e-12)
    per_example = vmap(grad(lambda w, x: np.tanh(w @ x)), (None, 0))(B[0], A)
    expected = (1 - np.tanh(A @ B[0]) ** 2)[:, None] * A
    np.testing.assert_allclose(per_example, expected, rtol=1e-12, atol=1e-14)


def test_a_batch_of_none() -> None:
    assert vmap(lambda x: x * 2)(np.zeros((0, 3))).shape == (0, 3)


def test_errors_name_what_does_not_fit() -> None:
    with pytest.raises(ShapeMismatch, match="different extents: 5, 4"):
        vmap(lambda x, y: x)(A, np.ones(4))
    with pytest.raises(ShapeMismatch, match="cannot map axis 2 of argument leaf 0"):
        vmap(lambda x: x, 2)(A)
    with pytest.raises(ShapeMismatch, match="no mapped argument"):
        vmap(lambda x: x, None)(A)
    with pytest.raises(ShapeMismatch, match="out_axes is None"):
        vmap(lambda x: x, out_axes=None)(A)
    with pytest.raises(TreeMismatch, match="in_axes and the arguments"):
        vmap(lambda x: x, (0, 0))(A)
    with pytest.raises(TreeMismatch, match="in_axes"):
        vmap(lambda p: p["a"], ({"b": 0},))({"a": A})


class Unbatched(Op):
    """An identity that has a type and nothing else."""

    def type(self, x: Type) -> Type:
        return x

    @property
    def graphs(self) -> dict[str, Any]:
        return {}


def test_ops_without_a_rule_say_so() -> None:
    with pytest.raises(MissingRule, match="unbatched has no batching rule"):
        vmap(Unbatched())(A)
