"""Indexing against NumPy: keys drawn at random, read, written and combined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from agreement import agrees, interpreted
from tilewright import dtypes, errors
from tilewright.graph import Type
from tilewright.ops.indexing import Gather, Scatter
from tilewright.tracing import trace

SHAPES = [(), (5,), (3, 4), (2, 3, 4), (2, 0, 3), (1, 3, 1, 2)]


def basic_items(n: int) -> st.SearchStrategy[Any]:
    """A slice or, where there is an element, an integer."""
    bound = st.none() | st.integers(-n - 2, n + 2)
    step = st.none() | st.sampled_from([1, 2, 3, -1, -2, -3])
    slices = st.builds(slice, bound, bound, step)
    return slices | st.integers(-n, n - 1) if n else slices


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...], advanced: bool) -> Any:
    """A key for an array of `shape`: basic items, new axes, an Ellipsis; arrays if `advanced`."""
    used = draw(st.integers(0, len(shape)))
    dots = draw(st.integers(0, used)) if draw(st.booleans()) else None
    common = draw(st.sampled_from([(), (1,), (3,), (2, 3)]))
    key: list[Any] = []
    for d in range(used):
        if dots == d:
            key.append(Ellipsis)
        n = shape[d if dots is None or d < dots else len(shape) - used + d]
        if advanced and n and draw(st.booleans()):
            full = draw(st.sampled_from([common, common[1:], ()]))
            count = int(np.prod(full))
            flat = draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count))
            key.append(np.array(flat, np.int64).reshape(full))
        else:
            key.append(draw(basic_items(n)))
    for _ in range(draw(st.integers(0, 2))):
        key.insert(draw(st.integers(0, len(key))), None)
    return tuple(key)


def example(shape: tuple[int, ...]) -> Any:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def writes(key: Any) -> Any:
    def f(x: Any, v: Any) -> Any:
        a, b = x.copy(), x.copy()
        a[key] = v
        b[key] += 2
        return a, b

    return f


@given(st.sampled_from(SHAPES).flatmap(lambda s: st.tuples(st.just(s), keys(s, False))))
def test_basic_keys(case: tuple[tuple[int, ...], Any]) -> None:
    shape, key = case
    agrees(lambda x: x[key], example(shape))
    agrees(writes(key), example(shape), -example(shape)[key] * 3)
    agrees(writes(key), example(shape), 7)


@given(st.sampled_from(SHAPES[1:]).flatmap(lambda s: st.tuples(st.just(s), keys(s, True))))
def test_keys_with_arrays(case: tuple[tuple[int, ...], Any]) -> None:
    shape, key = case
    x = example(shape)
    agrees(lambda x: x[key], x)
    agrees(writes(key), x, x[key] * 0 + 7)

    def traced(x: Any, *arrays: Any) -> Any:
        rest = iter(arrays)
        return x[tuple(next(rest) if isinstance(k, np.ndarray) else k for k in key)]

    agrees(traced, x, *(k for k in key if isinstance(k, np.ndarray)))


@given(st.data(), st.sampled_from([(5,), (3, 4), (2, 3, 4)]))
def test_masks_known_before(data: st.DataObject, shape: tuple[int, ...]) -> None:
    rank = data.draw(st.integers(1, len(shape)))
    size = int(np.prod(shape[:rank]))
    flat = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    mask = np.array(flat).reshape(shape[:rank])
    agrees(lambda x: x[mask], example(shape))
    agrees(writes(mask), example(shape), -example(shape)[mask])
    agrees(writes(mask), example(shape), 7.0)


def test_traced_scalars_index_without_negative_surprises() -> None:
    def f(x: Any, i: Any) -> Any:
        y = x.copy()
        y[i] += 1
        y[:, i] = y[i, 0]
        return x[i], x[i, 1], x[:, i], x[i, None], x[i + 1, ...], y

    x = example((3, 4))
    agrees(f, x, np.int32(1))
    agrees(f, x, np.int64(-2))
    agrees(f, x, np.uint8(1))


def test_an_ellipsis_parts_indices_even_over_no_axis() -> None:
    """Found by the keys above: the axes of parted indices come first."""
    x = np.arange(6.0).reshape(2, 3)
    key = (None, np.array(0), Ellipsis, [0, 0, 2, 1])
    assert x[key].shape == (4, 1)
    agrees(lambda x: x[key], x)
    agrees(lambda x: x[None, np.array(0), [0, 0, 2, 1]], x)


def test_lists_are_arrays() -> None:
    agrees(lambda x: (x[[0, 2]], x[:, [True, False, True, False]], x[[]], x[[[0, 1], [2, 0]]]),
           example((3, 4)))  # fmt: skip


def test_static_keys_move_elements_only() -> None:
    graph = trace(lambda x: x[1:, None, ::-2, 0], [Type(dtypes.float64, (3, 4, 5))])
    assert {n.op.name for n in graph.nodes} <= {"input", "slice", "flip", "reshape"}

    def write(x: Any) -> Any:
        x = x.copy()
        x[1, ::2] = 0
        return x

    graph = trace(write, [Type(dtypes.float64, (3, 4))])
    assert not any(isinstance(n.op, Gather | Scatter) for n in graph.nodes)


def test_everything_selected_is_the_array_itself() -> None:
    graph = trace(lambda x: x[...][:, 0:4][0:3, ::1], [Type(dtypes.float64, (3, 4))])
    assert graph.outputs == graph.inputs


@pytest.mark.parametrize(
    "key",
    [5, -4, (0, 0), [0, 3], 1.5, "a", (..., ...), slice(None, None, 0), np.array([True, False]),
     np.array([0.5]), True],
    ids=repr,
)  # fmt: skip
def test_bad_keys(key: Any) -> None:
    with pytest.raises(errors.BadIndex):
        trace(lambda x: x[key], [Type(dtypes.float64, (3,))])


def test_bad_values() -> None:
    def assign(key: Any, value: Any) -> Any:
        def f(x: Any) -> Any:
            x = x.copy()
            x[key] = value
            return x

        return trace(f, [Type(dtypes.float64, (3,))])

    with pytest.raises(errors.ShapeMismatch):
        assign(slice(0, 2), np.ones(3))
    with pytest.raises(errors.DTypeMismatch):
        assign(0, 1j)
    with pytest.raises(errors.ShapeMismatch):
        assign(0, np.ones((2, 2)))


def test_traced_slices_are_refused() -> None:
    index = Type(dtypes.int64, ())
    with pytest.raises(errors.DynamicShape):
        trace(lambda x, i: x[:i], [Type(dtypes.float64, (3,)), index])
    with pytest.raises(errors.BadIndex):
        trace(lambda x, i: x[i], [Type(dtypes.float64, (0,)), index])
    assert interpreted(lambda x, i: x[i + np.arange(2)], example((5,)), np.int64(3)).tolist() == [
        3,
        4,
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_scatters_read_positions_themselves(dtype: Any) -> None:
    """Counted from the end where negative, without an array of their own."""
    x = np.zeros((50, 3), dtype)
    at = np.array([[3, -50, 49], [-1, 50, -51]])
    updates = np.arange(18).reshape(2, 3, 3).astype(dtype)

    def update(x: Any, at: Any, u: Any) -> Any:
        return x.at[at].add(u)

    lowered = tw.compile(update).lower(x, at, updates)
    assert lowered.kernels == (), lowered.kernels
    expected = x.copy()
    for i, u in zip(at.ravel(), updates.reshape(6, 3), strict=True):
        if -50 <= i < 50:
            expected[i] += u
    np.testing.assert_array_equal(tw.compile(update)(x, at, updates), expected)

    def two(x: Any, i: Any, j: Any) -> Any:
        return x.at[i, j].max(9)

    lowered = tw.compile(two).lower(x, at[0], at[1] % 3)
    assert "select" not in str(lowered.kernels), lowered.kernels


def test_gradients_of_lookups_read_positions_themselves() -> None:
    table, at = np.ones((50, 3)), np.array([3, 3, -1])
    gradient = tw.grad(lambda t, i: (t[i] * np.arange(9.0).reshape(3, 3)).sum())
    text = str(tw.compile(gradient).lower(table, at).kernels)
    assert "min" not in text and "select" not in text, text
    expected = np.zeros((50, 3))
    np.add.at(expected, at, np.arange(9.0).reshape(3, 3))
    np.testing.assert_array_equal(tw.compile(gradient)(table, at), expected)
