"""Loops of elementwise steps: the op's loops mean what it says, and the rewrite takes the scans
that are such loops and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tilewright as tw
from tilewright import Options, lax, loops
from tilewright.errors import InternalError
from tilewright.expr import Buffer
from tilewright.graph import Graph, Node, Type, evaluate
from tilewright.ops.pointwise_loop import PointwiseLoop
from tilewright.tracing import trace
from tilewright.transforms.pointwise_loops import pointwise_loops
from tilewright.transforms.simplify import simplify


def graph_of(f: Callable[..., Any], *args: Any) -> Graph:
    return simplify(trace(f, [Type(np.asarray(a).dtype, np.shape(a)) for a in args]))


def loops_in(graph: Graph) -> list[Node]:
    return [n for n in pointwise_loops(graph).nodes if isinstance(n.op, PointwiseLoop)]


def normal(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


# -- programs, each with the loop NumPy would run ------------------------------------------------


def escape(c: Any) -> Any:
    """Two things carried that depend on one another, a count, and a choice."""

    def step(_: Any, state: Any) -> Any:
        a, b, count = state
        inside = a * a + b * b <= 4.0
        following = np.where(inside, a * a - b * b + c, a)
        return following, np.where(inside, 2 * a * b + c, b), count + inside

    zero = np.zeros_like(c)
    return lax.fori_loop(0, 9, step, (zero, zero, zero))[2]


def swap(x: Any, y: Any) -> Any:
    return lax.fori_loop(0, 3, lambda _, s: (s[1], s[0]), (x, y))


def counted(x: Any) -> Any:
    """The number of the step takes part."""
    return lax.fori_loop(0, 5, lambda i, s: s * 0.5 + i.astype(np.float32), x)


def damped(x: Any, rate: Any, row: Any) -> Any:
    """Invariants: a scalar argument, a row repeated over all, and functions of them."""

    def step(_: Any, s: Any) -> Any:
        return s * np.exp(-rate) + np.tanh(row) * (rate + 1)

    return lax.fori_loop(0, 4, step, x)


def from_number(x: Any) -> Any:
    """What is carried starts as a number for all elements."""
    start = np.zeros_like(x) + np.float32(2)
    return lax.fori_loop(0, 4, lambda _, s: s * x, start)


def unread(x: Any) -> Any:
    """One thing is carried for nothing."""
    return lax.fori_loop(0, 4, lambda _, s: (s[0] * 0.5, s[1] + s[0]), (x, x))[0]


def kept(x: Any, y: Any) -> Any:
    """After the first step the one is an invariant."""
    return lax.fori_loop(0, 2, lambda _, s: (y, s[0] + s[1]), (x, y))


def mixed(x: Any, n: Any) -> Any:
    """Floats, integers and truth values together."""

    def step(_: Any, state: Any) -> Any:
        s, count, alive = state
        alive = alive & (s < 100)
        return np.where(alive, s * s + 1, s), count + alive, alive

    return lax.fori_loop(0, 6, step, (x, n, x == x))


def rotated(z: Any) -> Any:
    return lax.fori_loop(0, 5, lambda _, s: s * z + 0.25j, z)


CASES = [
    (escape, (normal(40, 70),)),
    (escape, (normal(300),)),
    (escape, (normal(4, 5, 200),)),
    (escape, (normal(33, 7),)),
    (escape, (normal(1),)),
    (swap, (normal(90), normal(90) + 1)),
    (counted, (normal(3, 100),)),
    (damped, (normal(5, 80), np.float32(0.3), normal(80))),
    (damped, (normal(9, 6), np.float32(0.3), normal(6))),
    (from_number, (normal(130),)),
    (unread, (normal(130),)),
    (kept, (normal(70), normal(70) + 1)),
    (mixed, (normal(77), np.arange(77))),
    (rotated, (normal(90, dtype=np.complex64) * (0.5 + 0.5j),)),
    (rotated, (normal(6, 7, dtype=np.complex128) * (0.5 + 0.5j),)),
]  # fmt: skip


def eager(f: Callable[..., Any], *args: Any) -> Any:
    """What the traced function means, op by op."""
    found = tuple(evaluate(graph_of(f, *args), args))
    return found if len(found) > 1 else found[0]


def same(found: Any, expected: Any) -> None:
    pairs = (
        zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    )
    for a, b in pairs:
        assert a.dtype == b.dtype and a.shape == b.shape
        assert_allclose(a, b, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("f, args", CASES)
def test_loops_make_all_steps(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    assert len(loops_in(graph_of(f, *args))) == 1
    same(tw.compile(f)(*args), eager(f, *args))


@pytest.mark.parametrize("f, args", [c for c in CASES if c[0] is not rotated])
def test_the_op_and_its_loops_mean_the_same(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """The rewritten graph, and the nest by the interpreter of loops."""
    graph = pointwise_loops(graph_of(f, *args))
    expected = eager(f, *args)
    found = tuple(evaluate(graph, args))
    same(found if isinstance(expected, tuple) else found[0], expected)
    (n,) = loops_in(graph_of(f, *args))
    inputs = [np.ones(a.type.shape, a.type.dtype) for a in n.args]
    ins = [Buffer("x", a.dtype, a.shape, "input") for a in inputs]
    outs = [np.zeros(t.shape, t.dtype) for t in n.type]
    buffers = [Buffer("out", o.dtype, o.shape) for o in outs]
    if outs[0].size > 400:
        return
    function = loops.Function("f", (*ins, *buffers), loops.block(n.op.loops(buffers, *ins)))
    loops.verify(function)
    loops.run(loops.Program((function,)), [*inputs, *outs])
    for a, b in zip(outs, n.op.numpy(*inputs), strict=True):
        assert_allclose(a, b, rtol=2e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    for x in (normal(600, 500), normal(300_000)):
        expected = tw.compile(escape, options=Options(threads=1))(x)
        assert_array_equal(tw.compile(escape, options=Options(threads=threads))(x), expected)


# -- what is no such loop ------------------------------------------------------------------------


def stacked(x: Any) -> Any:
    return lax.scan(lambda s, _: (s * 0.5, s), x, None, length=3)[1]


def shifted(x: Any) -> Any:
    return lax.fori_loop(0, 3, lambda _, s: np.concatenate([s[1:], s[:1]]), x)


def normalised(x: Any) -> Any:
    return lax.fori_loop(0, 3, lambda _, s: s / s.sum(), x)


def counting(x: Any) -> Any:
    return lax.fori_loop(0, 3, lambda i, s: (s[0] * 0.5, s[1] + i), (x, np.float32(0)))


def two_shapes(x: Any) -> Any:
    return lax.fori_loop(0, 3, lambda i, s: (s[0] * 0.5, s[1] + 1), (x, x[:5]))


@pytest.mark.parametrize("f", [stacked, shifted, normalised, counting, two_shapes])
def test_other_scans_stay(f: Callable[..., Any]) -> None:
    x = abs(normal(40))
    graph = graph_of(f, x)
    assert pointwise_loops(graph) is graph
    same(tw.compile(f)(x), eager(f, x))


def test_an_empty_array_stays_empty() -> None:
    assert tw.compile(counted)(normal(0)).shape == (0,)


def test_loops_inside_of_loops_are_found() -> None:
    def f(x: Any) -> Any:
        return lax.fori_loop(0, 2, lambda _, s: counted(s) / s.sum(), x)

    x = abs(normal(50))
    (outer,) = [n for n in pointwise_loops(graph_of(f, x)).nodes if n.op.graphs]
    assert any(isinstance(n.op, PointwiseLoop) for n in outer.op.graphs["body"].nodes)
    same(tw.compile(f)(x), eager(f, x))


def test_derivatives_come_before() -> None:
    x = normal(60) * 0.1
    slope = tw.compile(tw.grad(lambda x: counted(x).sum()))(x)
    assert_allclose(slope, np.full_like(x, 0.5**5), rtol=1e-6)


def test_a_body_must_carry_what_it_is_given() -> None:
    (n,) = loops_in(graph_of(escape, normal(40)))
    start = Graph("start", n.op.start.inputs, n.op.start.outputs[:-1])
    with pytest.raises(InternalError, match="do not carry what they are given"):
        PointwiseLoop(start, n.op.body, n.op.picked, 3).node(*n.args)
