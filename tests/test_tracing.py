"""Tracing: operators, protocols, promotion, views and writes, scopes and calls."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import tilewright.numpy as tnp
from agreement import agrees, interpreted
from tilewright import dtypes, errors
from tilewright.graph import Type, evaluate
from tilewright.promotion import PYTHON
from tilewright.selection import Selection
from tilewright.source import user_source
from tilewright.tracing import Array, bind, closed, now, trace, trace_call

F32 = Type(dtypes.float32, (3,))
ALL = [np.dtype(d) for d in "?bhilBHILefdFD"]
BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift,
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
]  # fmt: skip
UFUNCS = [
    np.sqrt, np.exp, np.floor, np.rint, np.square, np.absolute, np.sign, np.isnan, np.isfinite,
    np.isinf, np.negative, np.positive, np.invert, np.logical_not, np.conjugate, np.reciprocal,
    np.cbrt, np.signbit, np.spacing, np.radians, np.fabs,
]  # fmt: skip


def values(dtype: np.dtype[Any]) -> Any:
    return np.array([1, 2, 3]).astype(dtype)


def same(f: Callable[..., Any], *args: Any) -> None:
    """Tracing agrees with NumPy, or both refuse with the same kind of error."""
    try:
        with np.errstate(all="ignore"):
            f(*args)
    except (TypeError, ValueError, OverflowError) as expected:
        kind = ValueError if type(expected) is ValueError else (type(expected), TypeError)
        with pytest.raises((kind, TypeError) if kind is ValueError else kind):  # type: ignore[arg-type]
            interpreted(f, *args)
        return
    agrees(f, *args, rtol=2e-3)


# -- promotion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("op", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("a", ALL, ids=lambda d: d.char)
def test_operators_promote_as_numpy(op: Callable[..., Any], a: np.dtype[Any]) -> None:
    for b in ALL:
        same(op, values(a), values(b))


@pytest.mark.parametrize("op", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("number", [True, 2, -3, 300, 2.5, 1 + 2j], ids=str)
def test_python_numbers_adopt_the_arrays_type(op: Callable[..., Any], number: Any) -> None:
    for d in ALL:
        same(lambda x: op(x, number), values(d))
        same(lambda x: op(number, x), values(d))


@pytest.mark.parametrize("number", [True, 2, 2.5, 1 + 2j], ids=str)
def test_python_arguments_stay_weak(number: Any) -> None:
    for d in ALL:
        same(operator.mul, values(d), number)
        same(lambda x, s: (s + s) * x, values(d), number)
    same(lambda s: (s * 2, s / 2, s == 2, np.sin(s)), number)


@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda f: f.__name__)
def test_ufuncs_promote_as_numpy(ufunc: Any) -> None:
    if ufunc is np.spacing:
        with pytest.raises(errors.UnsupportedFunction):
            interpreted(ufunc, values(np.dtype("d")))
        return
    for d in ALL:
        same(ufunc, values(d))


def test_bfloat16_promotes_as_numpy() -> None:
    x = np.array([1, 2, 3], ml_dtypes.bfloat16)
    for other in (x, values(np.dtype("f")), values(np.dtype("b")), 2, 2.5, np.float64(2)):
        agrees(lambda x, y: (x + y, x * y, x < y), x, other)


def test_int64_and_uint64_compare_exactly() -> None:
    big, small = np.array([1, 2, 2**64 - 1, 0], np.uint64), np.array([-1, 2, 2**63 - 1, -5])
    for op in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        agrees(op, big, small)
        agrees(op, small, big)


def test_ufunc_options() -> None:
    def f(x: Any) -> Any:
        out = np.zeros_like(x)
        np.add(x, 1, out=out, where=x > 1)
        wide = np.add(x, x, dtype=np.float64)
        total = np.zeros_like(x)
        np.cumsum(x, out=total)
        return out, wide, total

    agrees(f, values(np.dtype("f")))


def test_ufunc_methods() -> None:
    def f(x: Any, i: Any) -> Any:
        total = np.zeros_like(x[0])
        np.add.at(total, i, x[1])
        np.subtract.at(total, i, 1)
        return (
            np.add.reduce(x), np.multiply.reduce(x, axis=1), np.maximum.reduce(x, axis=None),
            np.add.accumulate(x), np.maximum.accumulate(x, axis=1), np.multiply.outer(x[0], x),
            np.logical_and.reduce(x > 0, axis=1), total, *divmod(x, 3), *np.divmod(x, 2),
        )  # fmt: skip

    agrees(f, np.arange(8.0).reshape(2, 4), np.array([0, 1, 1, 3]))


def test_reflected_operators_beat_numpy_arrays() -> None:
    ones = np.ones((2, 3), np.float32)
    agrees(lambda x: (ones + x, ones @ x, ones < x, np.float64(2) * x), values(np.dtype("f")))


# -- methods and protocols ---------------------------------------------------------------------


def test_methods() -> None:
    def f(x: Any) -> Any:
        return (
            x.sum(), x.sum(0), x.mean(axis=1), x.max(), x.min(1), x.prod(), x.std(), x.var(ddof=1),
            x.any(), x.all(axis=0), x.argmax(), x.argmin(1), x.cumsum(), x.cumprod(0),
            x.reshape(4, 3), x.reshape((2, -1)), x.astype(np.float32), x.T, x.mT,
            x.transpose(1, 0), x.transpose(), x.swapaxes(0, 1), x[None].squeeze(), x.ravel(),
            x.flatten(), x.dot(x.T), x.clip(2, 5), x.round(1), x.take([1, 0], axis=1), x.repeat(2),
            x.argsort(), x.trace(), x.diagonal(), x.conj(), x.real, x.imag, x.copy(),
            x.size, x.ndim, x.nbytes, x.itemsize, len(x), [row.sum() for row in x],
        )  # fmt: skip

    agrees(f, np.arange(12.0).reshape(3, 4))


def test_sort_method_is_in_place() -> None:
    def f(x: Any) -> Any:
        x = x.copy()
        x.sort()
        y = np.sort(x)[::-1]
        x.fill(x[0])
        return x, y

    agrees(f, np.array([3.0, 1.0, 2.0]))


def test_identity_hash_and_elementwise_equality() -> None:
    def f(x: Any) -> Any:
        assert hash(x) == hash(x)
        assert {x: 1}[x] == 1
        return x == x

    trace(f, [F32])


def test_repr_names_type_and_line() -> None:
    seen: list[str] = []

    def f(x: Any) -> Any:
        y = x * 2
        seen.append(repr(y))
        return y

    trace(f, [F32])
    assert seen == [f"Array(f32[3], traced at test_tracing.py:{f.__code__.co_firstlineno + 1})"]


def test_captured_arrays_are_read_when_they_are_read() -> None:
    def f(x: Any) -> Any:
        row, out = np.zeros(3), 0
        for i in range(3):
            row[:] = 0
            row[i] = i + 1
            out = out + x @ row
        return out

    agrees(f, np.arange(3.0))


def test_captured_arrays_are_one_node() -> None:
    weights = np.ones(3)
    graph = trace(lambda x: (x * weights) + (x - weights), [Type(dtypes.float64, (3,))])
    assert sum(n.op.name == "constant" for n in graph.nodes) == 1


# -- views and writes --------------------------------------------------------------------------


def test_views_see_writes_to_their_base() -> None:
    def f(x: Any) -> Any:
        x = x.copy()
        row, turned, flat, part = x[1], x.T, x.reshape(-1), x[:, ::-2]
        squeezed, moved = np.squeeze(x[None]), np.moveaxis(x, 0, 1)
        scalar, copied, picked = x[0, 0], x.copy(), x[[0, 1]]
        first, second = np.split(x, 2, axis=1)
        x[:] = 7
        x[1, 1] = -1
        return row, turned, flat, part, squeezed, moved, scalar, copied, picked, first, second

    agrees(f, np.arange(12.0).reshape(3, 4))


def test_writes_through_views_reach_their_base() -> None:
    def f(x: Any) -> Any:
        x = x.copy()
        row = x[1]
        row[:] = 5
        row[1:][0] = 6
        x.T[0] += 1
        x.reshape(2, 6)[1, 2:4] = -3
        x.ravel()[0] = 9
        np.expand_dims(x, 0)[0, 2, ::-1] *= 2
        x[..., 1:][::2, ::-1] = [[1], [2]]
        alias = x
        alias -= 1
        return x, row, alias

    agrees(f, np.arange(12.0).reshape(3, 4))


def test_copies_are_no_views() -> None:
    def f(x: Any) -> Any:
        x = x.copy()
        turned, flat, cast = x.T.reshape(-1), x.flatten(), x.astype(x.dtype)
        same_values = copy.deepcopy(np.copy(x))
        x[0] = 100
        turned[0] = -1
        flat[0] = -2
        cast[0] = -3
        same_values[0] = -4
        return x, turned, flat, cast, same_values

    agrees(f, np.arange(12.0).reshape(3, 4))


def test_scalars_are_immutable() -> None:
    def f(x: Any) -> Any:
        total = x.sum()
        before = total
        total += 1
        total *= 2.5
        return before, total

    agrees(f, np.arange(3))


def test_in_place_operators() -> None:
    def f(x: Any, y: Any) -> Any:
        x, y = x.copy(), y.copy()
        x += 1
        x -= y
        x *= 2
        x /= y
        x //= 0.5
        x %= 4
        x **= 2
        x[0] += y[1]
        x[1:] *= y[:-1]
        y <<= 1
        y |= 8
        y &= 14
        y ^= 3
        y >>= 1
        return x, y

    agrees(f, np.arange(1.0, 4.0), np.array([1, 2, 3]))


def test_writes_convert_as_numpy() -> None:
    def f(x: Any) -> Any:
        i, b = x.astype(np.int32), x > 1
        i[0] = 7.9
        i[1:] = x[1:] * 1.5
        b[0] = 3
        x = x.copy()
        x[...] = [[9], [8]]
        x[1] = np.ones((1, 3))
        return i, b, x

    agrees(f, np.arange(6.0).reshape(2, 3))


# -- masks -------------------------------------------------------------------------------------


def test_masked_selections() -> None:
    def f(x: Any) -> Any:
        big = x > 4
        chosen = x[big]
        rows = x[x[:, 0] > 1]
        return (
            chosen.sum(), np.mean(chosen), chosen.max(), np.min(chosen * 2 - 1), chosen.any(),
            chosen.all(), chosen.prod(), chosen.std(), chosen.var(), chosen.size,
            (chosen**2 + chosen).sum(), np.exp(-chosen).sum(), np.count_nonzero(chosen),
            rows.sum(axis=0), rows.sum(), x[1, x[1] > 5].sum(), x[:, x[0] > 1].sum(axis=1),
        )  # fmt: skip

    agrees(f, np.arange(12.0).reshape(3, 4))


def test_masked_writes() -> None:
    def f(x: Any, y: Any) -> Any:
        x = x.copy()
        x[x > 6] = 0
        x[x < 2] += 10
        x[x == 3] *= -1
        mask = y > 4
        x[mask] = y[mask]
        x[1, x[1] > 4] = -7
        x[:, y[0] > 1] = np.arange(3.0)[:, None]
        x[y[:, 0] > 6] = y[0]
        return x

    x = np.arange(12.0).reshape(3, 4)
    agrees(f, x, x[::-1, ::-1].copy())


def test_selections_refuse_what_needs_their_length() -> None:
    def refused(use: Callable[[Selection], Any]) -> None:
        with pytest.raises(errors.DynamicShape):
            trace(lambda x: use(x[x > 0]), [F32])

    refused(len)
    refused(lambda s: s.shape)
    refused(lambda s: s[0])
    refused(list)
    refused(lambda s: s + np.ones(3))
    refused(np.cumsum)
    refused(lambda s: s)
    refused(np.asarray)
    with pytest.raises(errors.DTypeMismatch):
        trace(lambda x: operator.iadd(x.astype(int)[x > 0], 0.5), [F32])


# -- x.at --------------------------------------------------------------------------------------


def test_at() -> None:
    i = np.array([0, 2, 0])
    x = np.arange(12.0).reshape(3, 4)

    def f(x: Any) -> Any:
        return (
            x.at[0].set(1), x.at[i].add(2), x.at[1:, 0].multiply(3), x.at[x > 3].set(0),
            x.at[i, i].get(), x.at[i].divide(2), x.at[:, 1].min(4), x.at[i].max(5),
            x.at[0].power(2), x.at[1].apply(np.negative), x.at[i].subtract(1), x,
        )  # fmt: skip

    def expected(x: Any) -> list[Any]:
        result = [x.copy() for _ in range(12)]
        result[0][0] = 1
        np.add.at(result[1], i, 2)
        result[2][1:, 0] *= 3
        result[3][x > 3] = 0
        result[4] = x[i, i]
        np.divide.at(result[5], i, 2)
        np.minimum.at(result[6], (slice(None), 1), 4)
        np.maximum.at(result[7], i, 5)
        result[8][0] **= 2
        result[9][1] *= -1
        np.subtract.at(result[10], i, 1)
        return result

    for got, want in zip(interpreted(f, x), expected(x), strict=True):
        np.testing.assert_allclose(got, want)
    with pytest.raises(errors.UnsupportedFunction):
        trace(lambda x: x.at[0].set(1, mode="fill"), [F32])


# -- scopes ------------------------------------------------------------------------------------


def test_closed_graphs_take_what_they_capture() -> None:
    def f(x: Any) -> Any:
        y = x * 2

        def body(c: Any) -> Any:
            return c + y + np.ones(3, np.float32) + x.sum()

        graph, captured = closed(body, [F32])
        assert [n.type for n in graph.inputs] == [F32] * 3
        assert {a.node for a in captured} == {x.node, y.node}
        return x

    trace(f, [F32])


def test_branches_compute_inside_what_is_theirs() -> None:
    def f(x: Any) -> Any:
        since = now()
        for _ in range(2):
            graph, captured = closed(lambda: np.exp(x) + 1, [], since=since)
            assert [a.node for a in captured] == [x.node]
            assert [n.op.name for n in graph.nodes[1:]] == ["exp", "fill", "add"]
        return x

    trace(f, [F32])


def test_a_writer_of_outer_arrays_is_told() -> None:
    def f(x: Any) -> Any:
        total = x.copy()

        def body(y: Any) -> Any:
            total[0] = y[0]
            return y

        return closed(body, [F32])

    with pytest.raises(errors.CapturedWrite):
        trace(f, [F32])


def test_user_source_is_this_line() -> None:
    source = user_source()
    assert source is not None
    assert source.file == __file__
    assert source.text == "source = user_source()"


# -- calls -------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Layer:
    weight: Any
    bias: Any


def test_trees_in_and_out() -> None:
    def f(params: Any, batch: Any, scale: Any = 1.0) -> Any:
        x = params["w"].weight @ batch.left + params["w"].bias
        return {"out": Pair(x * scale, None), "aux": [x.sum(), "name", 3], "in": batch}

    w, b = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    agrees(f, {"w": Layer(w, b)}, Pair(np.arange(3, dtype=np.float32), 2.0))
    agrees(f, {"w": Layer(w, b)}, Pair(np.arange(3, dtype=np.float32), np.float64(2)), 2.0)


def test_calls_are_cache_keys() -> None:
    def f(x: Any, mode: str, p: Any = None) -> Any:
        return x if mode == "a" else -x

    x = np.ones(3, np.float32)
    first, leaves = bind(f, (x, "a"), {"p": {"k": 1.0}}, static=("mode",))
    assert [np.shape(leaf) for leaf in leaves] == [(3,), ()]
    assert first.labels == ("x", "p['k']")
    assert first.arguments[1].python is float
    assert float in PYTHON
    again, _ = bind(f, (2 * x, "a"), {"p": {"k": 7.0}}, static=(1,))
    assert first == again
    assert hash(first) == hash(again)
    for other in (
        bind(f, (x, "b"), {"p": {"k": 1.0}}, static=("mode",)),
        bind(f, (x, "a"), {"p": {"k": 1}}, static=("mode",)),
        bind(f, (x, "a"), {"p": {"l": 1.0}}, static=("mode",)),
        bind(f, (x[:2], "a"), {"p": {"k": 1.0}}, static=("mode",)),
    ):
        assert other[0] != first
    graph = trace_call(f, first).graph
    assert [n.op.label for n in graph.inputs] == ["x", "p['k']"]


def test_results_that_are_no_arrays_stay_as_they_are() -> None:
    table = np.arange(3)
    traced = trace_call(lambda x: (x, 1.5, table, None), bind(abs, (np.ones(2),), {})[0])
    results = evaluate(traced.graph, [np.ones(2)])
    x, number, array, nothing = traced.rebuild(results)
    assert (number, nothing) == (1.5, None)
    np.testing.assert_array_equal(array, table)
    np.testing.assert_array_equal(x, np.ones(2))


@pytest.mark.parametrize("empty", [None, (), [], {}])
def test_results_may_be_nothing(empty: Any) -> None:
    traced = trace_call(lambda x: empty, bind(abs, (np.ones(2),), {})[0])
    assert traced.rebuild([]) == empty


async def later(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    "f", [lambda x: (y + 1 for y in x), lambda x: map(np.sin, x), lambda x: (x.at[0], 1), later]
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_results_must_be_finished(f: Any) -> None:
    """A generator would run after the trace, and once for any number of calls."""
    with pytest.raises(errors.UnfinishedResult, match="which has yet to give its values"):
        trace_call(f, bind(abs, (np.ones(2),), {})[0])


def test_arrays_of_traced_values() -> None:
    def f(x: Any) -> Any:
        total = tnp.zeros(3)
        total[0] = x[1]
        total[1:] += x[:2] * 2
        return total, tnp.array([x[0], x[1] + 1]), x + [x[0], 1.0, 2.0]

    got = interpreted(f, np.array([1.0, 2.0, 3.0]))
    for result, want in zip(got, ([2.0, 2.0, 4.0], [1.0, 3.0], [2.0, 3.0, 5.0]), strict=True):
        np.testing.assert_array_equal(result, want)


def test_array_is_wrapped_per_result() -> None:
    graph = trace(np.modf, [F32])
    assert len(graph.outputs) == 2
    assert isinstance(Array.wrap(graph.outputs[0]), Array)
