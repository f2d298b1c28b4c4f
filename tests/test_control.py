"""Control flow: equal to the Python it stands for, in every transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slopes import check_slopes, compare, runner  # noqa: F401
from tilewright.control import (
    associative_scan,
    cond,
    fori_loop,
    map,
    scan,
    switch,
    while_loop,
)
from tilewright.errors import (
    BranchMismatch,
    CarryMismatch,
    DTypeMismatch,
    NoReverseMode,
    ShapeMismatch,
    TreeMismatch,
)
from tilewright.ops.control import Scan
from tilewright.transforms.autodiff import (
    checkpoint,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linear_transpose,
    make_graph,
    vjp,
)
from tilewright.transforms.batching import vmap
from tilewright.transforms.custom_rules import custom_vjp

RNG = np.random.default_rng(5)
X = RNG.standard_normal(4)


# -- cond, switch ----


def test_cond_takes_one_branch() -> None:
    f = lambda p, x: cond(p, np.sin, lambda x: x * 2, x)
    np.testing.assert_allclose(f(True, X), np.sin(X))
    np.testing.assert_allclose(f(False, X), X * 2)
    np.testing.assert_allclose(cond(X[0] > 9, np.sin, np.cos, operand=X), np.cos(X))
    assert cond(3, lambda: {"a": 1.0}, lambda: {"a": 2.0})["a"] == 1.0


def test_cond_closes_over_different_arrays_in_each_branch() -> None:
    f = lambda x, y: cond(np.sum(x) > 0, lambda: x * 2, lambda: y + np.sum(x))
    check_slopes(f, X, X + 1)
    check_slopes(f, -np.abs(X), X + 1)


def test_branches_must_agree() -> None:
    with pytest.raises(BranchMismatch, match=r"result\['a'\] is f64\[4\] from .* and f64 from"):
        cond(True, lambda x: {"a": x.sum()}, lambda x: {"a": x}, X)
    with pytest.raises(TreeMismatch, match="the results of the branches"):
        cond(True, lambda x: (x, x), lambda x: x, X)
    with pytest.raises(ShapeMismatch, match="condition of cond must be a scalar"):
        cond(X > 0, np.sin, np.cos, X)
    # a Python number adopts the other branch's dtype
    assert cond(False, lambda x: x, lambda x: 0.0, np.float32(2)).dtype == np.float32


def test_switch_clamps_its_index() -> None:
    branches = [np.sin, np.cos, lambda x: x * x]
    for i, f in ((-3, np.sin), (0, np.sin), (1, np.cos), (2, np.square), (9, np.square)):
        np.testing.assert_allclose(switch(i, branches, X), f(X))
    check_slopes(lambda x: switch(np.argmax(x) % 3, branches, x), X)


def test_vmap_of_cond() -> None:
    xs = RNG.standard_normal((6, 3))
    f = lambda x, y: cond(x[0] > 0, lambda v: (v * 2, y), lambda v: (np.exp(v), v[:1] * 0 + y), x)
    ys = RNG.standard_normal((6, 1))
    for axes, args in (((0, 0), (xs, ys)), ((0, None), (xs, ys[0]))):
        rows = [f(x, ys[i] if axes[1] == 0 else ys[0]) for i, x in enumerate(xs)]
        compare(vmap(f, axes)(*args), tuple(np.stack(c) for c in zip(*rows)))
    g = lambda p, x: cond(p, np.sin, np.cos, x)
    np.testing.assert_allclose(vmap(g, (None, 0))(True, xs), np.sin(xs))
    np.testing.assert_allclose(vmap(grad(lambda x: np.sum(f(x, x[:1])[0])))(xs).shape, (6, 3))


# -- scan ----


def lstm(params: Any, xs: Any, loop: Any) -> Any:
    """The last hidden state and all of them, by `loop(step, init, xs)`."""
    w, u, b = params

    def step(carry: Any, x: Any) -> Any:
        h, c = carry
        gates = w @ x + u @ h + b
        i, f, o, g = (gates[k * 3 : (k + 1) * 3] for k in range(4))
        sigmoid = lambda z: 1 / (1 + np.exp(-z))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return (h, c), h

    (h, _), hs = loop(step, (np.zeros(3), np.zeros(3)), xs)
    return h, hs


def unrolled(step: Any, init: Any, xs: Any) -> Any:
    ys = []
    for x in xs:
        init, y = step(init, x)
        ys.append(y)
    return init, np.stack(ys)


PARAMS = (RNG.standard_normal((12, 2)), RNG.standard_normal((12, 3)) * 0.5, np.zeros(12))
XS = RNG.standard_normal((7, 2))


def test_lstm_and_its_gradient_equal_the_unrolled_loop() -> None:
    def loss(loop: Any) -> Any:
        def f(params: Any, xs: Any) -> Any:
            h, hs = lstm(params, xs, loop)
            return np.sum(h * h) + np.sum(np.sin(hs))

        return f

    compare(lstm(PARAMS, XS, scan), lstm(PARAMS, XS, unrolled))
    both = [grad(loss(loop), argnums=(0, 1))(PARAMS, XS) for loop in (scan, unrolled)]
    compare(both[0], both[1], 1e-10)
    check_slopes(lambda p, x: lstm(p, x, scan)[0], PARAMS, XS, order=2)


def test_reverse_mode_is_two_loops_that_keep_only_what_is_needed() -> None:
    f = lambda w, xs: scan(lambda c, x: (np.sin(c * w) + x, None), xs[0], xs)[0]
    graph = make_graph(grad(f))(2.0, X)
    loops = [n for n in graph.nodes if isinstance(n.op, Scan)]
    assert [n.op.reverse for n in loops] == [False, True]
    assert len(loops[0].type) == 1 + 2  # the carry, and per step the carry and cos(c * w)


def test_scan_reverse_length_and_unroll() -> None:
    step = lambda c, x: (c * 0.9 + x, c * x)
    expected = unrolled(step, 0.5, X)
    backwards = unrolled(step, 0.5, X[::-1])
    for unroll in (1, 2, 3, 4, 9, True):
        compare(scan(step, 0.5, X, unroll=unroll), expected)
        compare(scan(step, 0.5, X, reverse=True, unroll=unroll), (backwards[0], backwards[1][::-1]))
        check_slopes(lambda x, u=unroll: scan(step, 0.5, x, reverse=True, unroll=u), X)
    assert scan(lambda c, _: (c * 2, c), 1.0, length=5)[0] == 32.0
    carry, ys = scan(lambda c, x: (c + 1, {"y": x}), np.int32(0), np.zeros((0, 2)))
    assert carry == 0 and ys["y"].shape == (0, 2)


def test_carries_keep_their_types() -> None:
    with pytest.raises(CarryMismatch, match=r"`carry\['s'\]` as f32 and returned it as f64"):
        scan(lambda c, x: ({"s": c["s"] + x}, None), {"s": np.float32(0)}, X)
    with pytest.raises(CarryMismatch, match=r"`carry\[1\]` as f64 and returned it as f64\[4\]"):
        while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, X), (0, 0.0))
    with pytest.raises(TreeMismatch, match="the carry that scan was given"):
        scan(lambda c, x: ((c, c), None), 0.0, X)
    with pytest.raises(TreeMismatch, match="a scan body should return"):
        scan(lambda c, x: c, 0.0, X)
    with pytest.raises(ShapeMismatch, match="one length"):
        scan(lambda c, x: (c, None), 0.0, (X, X[1:]))


def test_python_numbers_in_a_carry_adopt_the_body_s_dtype() -> None:
    total, _ = scan(lambda c, x: (c + x, None), 0.0, X.astype(np.float32))
    assert total.dtype == np.float32
    (a, b), _ = scan(lambda c, x: ((c[0] + x, c[0] + c[1]), None), (0, 0), X.astype(np.float32))
    assert a.dtype == b.dtype == np.float32
    assert fori_loop(0, 4, lambda i, s: s * i, np.float32(1)).dtype == np.float32


def test_rk4() -> None:
    """A pendulum by Runge-Kutta: the flow, its derivative and its volume preservation."""

    def flow(state: Any, length: Any) -> Any:
        field = lambda s: np.stack([s[1], -np.sin(s[0]) / length])

        def step(s: Any, _: None) -> Any:
            h = 0.05
            k1 = field(s)
            k2 = field(s + h / 2 * k1)
            k3 = field(s + h / 2 * k2)
            k4 = field(s + h * k3)
            return s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), s[0]

        return scan(step, state, None, length=20)

    start = np.array([0.8, 0.1])
    check_slopes(flow, start, np.array(1.3), order=2)
    jac = jacfwd(lambda s: flow(s, 1.3)[0])(start)
    np.testing.assert_allclose(jac, jacrev(lambda s: flow(s, 1.3)[0])(start), rtol=1e-10)
    np.testing.assert_allclose(np.linalg.det(jac), 1.0, rtol=1e-6)
    batch = np.stack([start, start * 0.5, -start])
    each = [flow(s, 1.3)[1] for s in batch]
    np.testing.assert_allclose(vmap(flow, (0, None))(batch, 1.3)[1], np.stack(each))


def test_scan_under_vmap_and_grad_in_both_orders() -> None:
    f = lambda w, xs: scan(lambda c, x: (np.tanh(c * w + x), c * x), 0.1, xs)
    ws, rows = RNG.standard_normal(3), RNG.standard_normal((3, 5))
    for axes, args in (
        ((0, 0), (ws, rows)),
        ((0, None), (ws, rows[0])),
        ((None, 0), (ws[0], rows)),
    ):
        each = [
            f(ws[i] if axes[0] == 0 else ws[0], rows[i] if axes[1] == 0 else rows[0])
            for i in range(3)
        ]
        compare(vmap(f, axes)(*args), tuple(np.stack(c) for c in zip(*each)))
    loss = lambda w, xs: np.sum(f(w, xs)[1] ** 2)
    each_grad = np.stack([grad(loss)(w, r) for w, r in zip(ws, rows)])
    np.testing.assert_allclose(vmap(grad(loss))(ws, rows), each_grad)
    total = lambda ws: np.sum(vmap(loss)(ws, rows))
    np.testing.assert_allclose(grad(total)(ws), each_grad)
    check_slopes(vmap(f), ws, rows, order=2)
    h = hessian(lambda xs: loss(0.7, xs))(X)
    np.testing.assert_allclose(h, h.T)


def test_nested_scans_and_captured_values() -> None:
    def f(a: Any, x: Any) -> Any:
        def outer(c: Any, row: Any) -> Any:
            inner = lambda d, v: (d * np.sin(v * a) + c, d)
            last, ds = scan(inner, c, row)
            return np.tanh(last), np.sum(ds)

        return scan(outer, a * 0.1, x)

    check_slopes(f, np.array(0.8), RNG.standard_normal((3, 4)), order=3, tol=1e-4)


def test_scan_over_cond_checkpoint_and_custom_rules() -> None:
    @custom_vjp
    def halved(x: Any) -> Any:
        return np.sin(x)

    halved.defvjp(lambda x: (np.sin(x), x), lambda x, ct: (0.5 * ct * np.cos(x),))

    def f(w: Any, xs: Any) -> Any:
        def step(c: Any, x: Any) -> Any:
            c = cond(x > 0, lambda c: np.sin(c * w), lambda c: c * x, c)
            c = checkpoint(lambda c: np.tanh(np.exp(c * 0.1) * w))(c)
            return c, c * x

        return scan(step, 0.3, xs)

    check_slopes(f, np.array(0.9), X, order=2)
    loop = lambda fn: lambda x: scan(lambda c, v: (fn(c) + v, None), x, X)[0]
    expected = 0.5**4 * grad(loop(np.sin))(0.2)
    assert grad(loop(halved))(0.2) == pytest.approx(expected)
    np.testing.assert_allclose(vmap(grad(loop(halved)))(np.full(2, 0.2)), [expected] * 2)


def test_linear_transpose_of_a_scan_with_a_counter() -> None:
    f = lambda x: fori_loop(0, 3, lambda i, v: v * (i + 1), x)
    np.testing.assert_allclose(linear_transpose(f, X)(np.ones(4))[0], 6 * np.ones(4))


# -- loops ----


def newton(a: Any) -> Any:
    """The square root of a, by Newton's iteration to convergence."""
    step = lambda x: 0.5 * (x + a / x)
    return while_loop(
        lambda s: np.abs(s[0] - s[1]) > 1e-12, lambda s: (step(s[0]), s[0]), (a, 0 * a)
    )[0]


def test_newton_by_forward_mode() -> None:
    assert newton(2.0) == pytest.approx(np.sqrt(2))
    assert jvp(newton, (2.0,), (1.0,))[1] == pytest.approx(0.5 / np.sqrt(2))
    assert jacfwd(jacfwd(newton))(2.0) == pytest.approx(-0.25 * 2**-1.5)
    values = np.array([0.5, 2.0, 9.0, 400.0])
    np.testing.assert_allclose(vmap(newton)(values), np.sqrt(values))
    np.testing.assert_allclose(vmap(jacfwd(newton))(values), 0.5 / np.sqrt(values))
    np.testing.assert_allclose(jacfwd(vmap(newton))(values), np.diag(0.5 / np.sqrt(values)))


def test_while_has_no_reverse_mode() -> None:
    with pytest.raises(NoReverseMode, match=r"Use tw\.scan, or tw\.fori_loop with Python numbers"):
        grad(newton)(2.0)
    with pytest.raises(NoReverseMode):
        grad(lambda x: fori_loop(0, np.int64(3) + np.argmax(x), lambda i, v: v * x, x).sum())(X)
    # what does not depend on the variable is no obstacle
    assert grad(lambda x: x * while_loop(lambda c: c < 9, lambda c: c * 2, 1.0))(3.0) == 16.0


def test_vmap_of_while_stops_each_lane_by_itself() -> None:
    """Collatz: the number of steps differs from lane to lane."""

    def steps(n: Any) -> Any:
        body = lambda s: (np.where(s[0] % 2 == 0, s[0] // 2, 3 * s[0] + 1), s[1] + 1)
        return while_loop(lambda s: s[0] != 1, body, (n, 0))[1]

    np.testing.assert_array_equal(vmap(steps)(np.arange(1, 10)), [0, 1, 7, 2, 5, 8, 16, 3, 19])
    # the condition closes over a mapped value
    doubled = lambda limit: while_loop(lambda c: c < limit, lambda c: c * 2, 1.0)
    np.testing.assert_array_equal(vmap(doubled)(np.array([1.0, 5.0, 64.0])), [1, 8, 64])
    # the body does, the condition does not
    powers = lambda b: while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * b), (0, 1.0))[1]
    np.testing.assert_array_equal(vmap(powers)(np.array([1.0, 2.0, 3.0])), [1, 8, 27])


def test_fori_loop_with_static_and_traced_bounds() -> None:
    body = lambda i, s: s + i * i
    assert fori_loop(2, 6, body, 0) == sum(i * i for i in range(2, 6))
    assert fori_loop(6, 2, body, 0) == 0
    with pytest.raises(
        DTypeMismatch, match=r"bounds of fori_loop must be integers, got 0 and 3\.5"
    ):
        fori_loop(0, 3.5, body, 0)
    bounded = lambda n: fori_loop(1, n, body, 0)
    assert vmap(bounded)(np.arange(5)).tolist() == [
        sum(i * i for i in range(1, n)) for n in range(5)
    ]
    power = lambda x: fori_loop(0, 5, lambda i, v: v * x + i, 1.0)
    check_slopes(power, np.array(1.1), order=3, tol=1e-4)


def test_map_and_associative_scan() -> None:
    np.testing.assert_allclose(map(lambda x: np.sum(x * x), XS), np.sum(XS * XS, axis=1))
    for n in (0, 1, 2, 5, 8):
        v = RNG.standard_normal((2, n))
        np.testing.assert_allclose(associative_scan(np.add, v, axis=1), np.cumsum(v, axis=1))
        tail = np.cumsum(v[:, ::-1], axis=1)[:, ::-1]
        np.testing.assert_allclose(associative_scan(np.add, v, reverse=True, axis=-1), tail)

    def compose(f: Any, g: Any) -> Any:
        return f[0] * g[0], g[0] * f[1] + g[1]

    def recurrence(a: Any, b: Any) -> Any:
        return associative_scan(compose, (a, b))[1]

    a, b = RNG.standard_normal((2, 7))
    expected = scan(lambda h, ab: (ab[0] * h + ab[1],) * 2, 0.0, (a, b))[1]
    np.testing.assert_allclose(recurrence(a, b), expected)
    check_slopes(recurrence, a, b)


def test_forward_and_reverse_mode_share_one_definition() -> None:
    """Loops of integers and bools beside the differentiated carry."""

    def f(x: Any) -> Any:
        step = lambda c, v: ((c[0] + 1, c[1] * v + c[0], v > c[1]), c[2])
        return scan(step, (0, 1.0, False), x)[0][1]

    check_slopes(f, X, order=2)
    _, pull = vjp(f, X)
    assert pull(1.0)[0].shape == (4,)
