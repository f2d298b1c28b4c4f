"""jaxtyping annotations: what they are held against, and what they say when it does not fit."""

from __future__ import annotations

from typing import Any

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Bool, Float, Int, PyTree

import tilewright as tw
from tilewright.errors import ContractViolation

Vector = Float[np.ndarray, "n"]
Matrix = Float[np.ndarray, "n d"]
Longer = Float[np.ndarray, "n+1"]
Mask = Bool[np.ndarray, "n"]
Counts = Int[np.ndarray, "..."]
Square = Float[np.ndarray, "*batch n n"]


def zeros(*shape: int) -> Any:
    return np.zeros(shape)


def two(x: Matrix, v: Vector, mask: Mask | None = None) -> Vector:
    return x.sum(axis=1) + v


def trees(params: PyTree[Vector], pair: tuple[Vector, int], rows: list[Matrix]) -> Any:
    return pair[0]


def longer(x: Vector) -> Longer:
    return x


def batched(x: Square) -> Square:
    return x @ x


def loose(x: Vector | float, n: Counts | None, name: str = "") -> Any:
    return x


@pytest.mark.parametrize(
    ("f", "args"),
    [
        (two, (zeros(2, 3), zeros(2))),
        (two, (zeros(2, 3), zeros(2), np.ones(2, bool))),
        (two, (zeros(2, 3), zeros(2), None)),
        (trees, ({"a": zeros(2), "b": [zeros(2)]}, (zeros(2), 1), [zeros(2, 3), zeros(2, 3)])),
        (batched, (zeros(4, 5, 3, 3),)),
        (batched, (zeros(3, 3),)),
        (loose, (2.0, None)),
        (loose, (zeros(3), np.arange(6).reshape(2, 3))),
    ],
)
def test_what_fits(f: Any, args: Any) -> None:
    tw.compile(f)(*args)


@pytest.mark.parametrize(
    ("f", "args", "what"),
    [
        (two, (zeros(2, 3), zeros(3)),
         '`v` is f64[3], which does not fit Float[ndarray, "n"]: its shape contradicts n=2, d=3'),
        (two, (zeros(3), zeros(3)),
         '`x` is f64[3], which does not fit Float[ndarray, "n d"]: it has another shape'),
        (two, (zeros(2, 3), np.arange(2)),
         '`v` is i64[2], which does not fit Float[ndarray, "n"]: its element type is int64'),
        (two, (zeros(2, 3), zeros(2), np.ones(3, bool)),
         '`mask` is bool[3], which does not fit Bool[ndarray, "n"]: its shape contradicts n=2,'
         " d=3"),
        (trees, ({"a": zeros(2), "b": [zeros(3)]}, (zeros(2), 1), []),
         "`params['b'][0]` is f64[3], which does not fit Float[ndarray, \"n\"]: its shape"
         " contradicts n=2"),
        (trees, ({}, (zeros(2), 1), [zeros(2, 3), zeros(2, 4)]),
         '`rows[1]` is f64[2,4], which does not fit Float[ndarray, "n d"]: its shape contradicts'
         " n=2, d=3"),
        (longer, (zeros(3),),
         '`the result of longer` is f64[3], which does not fit Float[ndarray, "n+1"]: its shape'
         " contradicts n=3"),
        (loose, (zeros(3, 3), None),
         '`x` is f64[3,3], which does not fit Float[ndarray, "n"]: it has another shape'),
    ],
)  # fmt: skip
def test_what_does_not_fit(f: Any, args: Any, what: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        tw.compile(f)(*args)
    assert caught.value.what == what


def test_checked_once_for_each_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright import contracts

    calls = []
    monkeypatch.setattr(contracts, "_check", lambda value, hint, label: calls.append(label))
    f = tw.compile(longer)
    f(zeros(3))
    f(zeros(3))
    assert calls == ["x", "the result of longer"]
    f(zeros(4))
    assert len(calls) == 4


def test_jaxtypings_own_decorator_does_not_stand_in_the_way() -> None:
    decorated = jaxtyping.jaxtyped(typechecker=None)(two)
    tw.compile(decorated)(zeros(2, 3), zeros(2))
    with pytest.raises(ContractViolation):
        tw.compile(decorated)(zeros(2, 3), zeros(3))
