"""What the tests of tracing assert: a traced function, interpreted, gives what NumPy gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright import trees
from tilewright.graph import evaluate, verify
from tilewright.tracing import bind, trace_call


def interpreted(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)` by way of its graph."""
    call, leaves = bind(f, args, {})
    traced = trace_call(f, call)
    verify(traced.graph)
    return traced.rebuild(evaluate(traced.graph, [np.asarray(x) for x in leaves]))


def agrees(f: Callable[..., Any], *args: Any, rtol: float = 1e-6) -> None:
    """The same tree, dtypes, shapes and values, up to rounding."""
    got, structure = trees.flatten(interpreted(f, *args))
    want, expected = trees.flatten(f(*copy.deepcopy(args)))
    assert structure == expected
    for g, w in zip(got, want, strict=True):
        if isinstance(w, str):
            assert g == w
            continue
        assert (np.shape(g), np.asarray(g).dtype) == (np.shape(w), np.asarray(w).dtype)
        np.testing.assert_allclose(np.asarray(g), np.asarray(w), rtol=rtol)
