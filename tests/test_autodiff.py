"""Derivatives: laws against finite differences, and the conventions of their arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from slopes import check_slopes, compare, runner, slope  # noqa: F401
from tilewright.compile import compile
from tilewright.errors import MissingRule, NoForwardMode, NotDifferentiable, TreeMismatch
from tilewright.graph import Graph, Type, evaluate, new_input
from tilewright.ops.contract import Dot
from tilewright.ops.control import Barrier
from tilewright.ops.custom import inline
from tilewright.ops.shape import UnitArrays
from tilewright.tracing import Array
from tilewright.transforms.autodiff import (
    checkpoint,
    eval_shape,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linear_transpose,
    linearize,
    make_graph,
    stop_gradient,
    value_and_grad,
    vjp,
)
from tilewright.transforms.batching import vmap
from tilewright.transforms.custom_rules import custom_gradient, custom_jvp, custom_vjp
from tilewright.transforms.simplify import simplify

X = np.array([0.3, -1.2, 2.0, 0.7])


# -- five functions from the field ----


def rosenbrock(x: Any) -> Any:
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def logistic_loss(w: Any) -> Any:
    a = np.array([[0.5, -1.0, 2.0, 1.0], [1.5, 0.3, -0.7, -2.0], [-0.2, 0.8, 0.1, 0.4]])
    y = np.array([1.0, 0.0, 1.0])
    z = a @ w
    return np.mean(np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - y * z) + 0.1 * np.sum(w * w)


def mlp_loss(w: Any) -> Any:
    """A 2-3-1 network whose 13 weights are one vector (repeated from w)."""
    p = np.concatenate([w, w * 0.5, w - 0.2, w[:1]])
    w1, b1, w2, b2 = p[:6].reshape(2, 3), p[6:9], p[9:12], p[12]
    x = np.array([[0.1, 0.9], [-0.4, 0.2], [0.8, -0.5]])
    out = np.tanh(x @ w1 + b1) @ w2 + b2
    return np.sum((out - np.array([0.3, -0.1, 0.2])) ** 2)


def gaussian_process(theta: Any) -> Any:
    """Log-likelihood of four points under a squared-exponential kernel, by Cholesky."""
    x = np.array([0.0, 0.4, 1.1, 1.9])
    y = np.array([0.2, -0.1, 0.6, 0.4])
    scale, length, noise = np.exp(theta[0]), np.exp(theta[1]), np.exp(theta[2])
    d = (x[:, None] - x[None, :]) / length
    k = scale * np.exp(-0.5 * d * d) + noise * np.eye(4)
    lower = np.linalg.cholesky(k)
    return 0.5 * y @ np.linalg.solve(k, y) + np.sum(np.log(np.diagonal(lower))) + theta[3] ** 2


def n_body(q: Any) -> Any:
    """Potential energy of two unit masses in the plane, softened."""
    r = q.reshape(2, 2)
    d = r[:, None, :] - r[None, :, :]
    inverse = 1 / np.sqrt(np.sum(d * d, axis=-1) + 0.1)
    return -0.5 * (np.sum(inverse) - np.trace(inverse))


FIELD = [rosenbrock, logistic_loss, mlp_loss, gaussian_process, n_body]


@pytest.mark.parametrize("f", FIELD)
def test_field_functions_to_second_order(f: Any) -> None:
    check_slopes(f, X, order=2)


@pytest.mark.parametrize("f", FIELD)
def test_hessian_in_every_order_of_modes(f: Any) -> None:
    h = hessian(f)(X)
    assert h.shape == (4, 4)
    np.testing.assert_allclose(h, h.T, rtol=1e-9, atol=1e-9)
    for other in (jacrev(jacfwd(f)), jacfwd(jacfwd(f)), jacrev(jacrev(f)), jacfwd(grad(f))):
        np.testing.assert_allclose(other(X), h, rtol=1e-8, atol=1e-8)
    step = 1e-5
    columns = [(grad(f)(X + step * e) - grad(f)(X - step * e)) / (2 * step) for e in np.eye(4)]
    np.testing.assert_allclose(h, np.stack(columns), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("f", FIELD)
def test_vmap_of_grad_and_grad_of_vmap(f: Any) -> None:
    xs = np.stack([X, X * 0.5 + 0.1, X[::-1] * 0.8])
    each = np.stack([grad(f)(x) for x in xs])
    np.testing.assert_allclose(each, np.stack([slope(f, x) for x in xs]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vmap(grad(f))(xs), each, rtol=1e-10)
    np.testing.assert_allclose(grad(lambda xs: np.sum(vmap(f)(xs)))(xs), each, rtol=1e-10)


# -- compositions ----


def test_compositions_to_third_order() -> None:
    check_slopes(lambda x, y: np.sin(x * y) / (1 + y**2), X, X[::-1] + 3, order=3, tol=1e-4)
    check_slopes(lambda a: np.cumsum(np.exp(a) * np.flip(a)), X * 0.3, order=2)
    check_slopes(lambda a, b: a @ b.T @ a, np.ones((2, 3)) * 0.4, np.ones((2, 3)) - 0.2)


def test_gradient_of_a_cube_three_times() -> None:
    assert grad(grad(grad(lambda x: x**3)))(2.0) == pytest.approx(6.0)


def test_perturbations_are_not_confused() -> None:
    """d/dx (x * d/dy (x + y)) is 1: the inner derivative does not see x move."""
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(1.0) == 1.0
    assert grad(lambda x: x * jvp(lambda y: x + y, (x,), (1.0,))[1])(3.0) == 1.0
    # the inner function's point is the outer variable itself
    assert grad(lambda x: x * grad(lambda y: x * y)(x))(3.0) == pytest.approx(6.0)


def test_closures_over_outer_values() -> None:
    def outer(x: Any) -> Any:
        def inner(y: Any) -> Any:
            return np.sum(np.sin(x) * y**2)

        return np.sum(grad(inner)(x) * x)

    np.testing.assert_allclose(grad(outer)(X), 2 * (np.cos(X) * X**2 + 2 * np.sin(X) * X))


def test_long_graphs_need_no_recursion_and_stay_linear() -> None:
    def chain(x: Any) -> Any:
        for _ in range(5000):
            x = np.sin(x) * 1.0001
        return x

    graph = make_graph(grad(chain))(np.float64(0.5))
    assert 15_000 < len(graph.nodes) < 60_000


# -- trees, argnums, aux ----


class Weights(NamedTuple):
    w: Any
    b: Any


def test_gradients_have_the_tree_of_the_argument() -> None:
    def loss(p: dict[str, Any], x: Any) -> Any:
        return np.sum(np.tanh(x @ p["layer"].w + p["layer"].b) * p["scale"][0])

    rng = np.random.default_rng(0)
    p = {"layer": Weights(rng.standard_normal((3, 2)), np.zeros(2)), "scale": [np.array(2.0)]}
    x = rng.standard_normal((5, 3))
    g = grad(loss)(p, x)
    assert type(g["layer"]) is Weights and g["layer"].w.shape == (3, 2)
    check_slopes(lambda p: loss(p, x), p)


def test_argnums_and_keyword_arguments() -> None:
    f = lambda x, y, *, scale: np.sum(x * y * scale)
    gx, gy = grad(f, argnums=(0, 1))(X, X + 1, scale=3.0)
    np.testing.assert_allclose(gx, 3 * (X + 1))
    np.testing.assert_allclose(gy, 3 * X)
    np.testing.assert_allclose(grad(f, argnums=-1)(X, X + 1, scale=3.0), 3 * X)


def test_aux_values_come_along() -> None:
    def f(x: Any) -> Any:
        y = x * x
        return np.sum(y), {"squares": y, "count": 4}

    (value, aux), g = value_and_grad(f, has_aux=True)(X)
    assert value == pytest.approx(np.sum(X * X))
    np.testing.assert_allclose(aux["squares"], X * X)
    np.testing.assert_allclose(g, 2 * X)
    g, aux = grad(f, has_aux=True)(X)
    assert aux["count"] == 4
    _, pull, aux = vjp(f, X, has_aux=True)
    np.testing.assert_allclose(pull(1.0)[0], 2 * X)
    j, _ = jacfwd(f, has_aux=True)(X)
    np.testing.assert_allclose(j, 2 * X)


def test_dtypes_follow_the_argument() -> None:
    g = grad(lambda x, y: np.sum(x.astype(np.float64) * y), argnums=(0, 1))(
        np.ones(3, np.float32), np.ones(3)
    )
    assert g[0].dtype == np.float32 and g[1].dtype == np.float64


def test_jacobian_of_trees() -> None:
    f = lambda p: {"s": p["a"] * np.sum(p["b"]), "c": p["b"] * 2}
    p = {"a": X, "b": np.ones((2, 3))}
    for jac in (jacfwd, jacrev):
        j = jac(f)(p)
        assert j["s"]["b"].shape == (4, 2, 3) and j["c"]["a"].shape == (2, 3, 4)
        np.testing.assert_allclose(j["s"]["a"], 6 * np.eye(4))
        np.testing.assert_allclose(j["c"]["a"], 0)
        np.testing.assert_allclose(j["c"]["b"].reshape(6, 6), 2 * np.eye(6))


def test_linearize_evaluates_once_and_is_reused() -> None:
    out, push = linearize(lambda x: np.sin(x) * x, X)
    np.testing.assert_allclose(out, np.sin(X) * X)
    for v in (np.ones(4), X):
        np.testing.assert_allclose(push(v), (np.cos(X) * X + np.sin(X)) * v)


def test_linear_transpose() -> None:
    a = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(
        linear_transpose(lambda x: a @ x, np.zeros(3))(np.ones(2))[0], a.sum(0)
    )
    with pytest.raises(MissingRule, match="sin has no transpose rule"):
        linear_transpose(np.sin, np.zeros(3))(np.ones(3))


# -- complex numbers ----

Z = np.array([1 + 2j, -0.5 + 0.3j])


def test_gradient_of_a_real_function_of_complex_numbers() -> None:
    """df/dx - i df/dy, as in JAX."""
    np.testing.assert_allclose(grad(lambda z: np.sum(np.abs(z) ** 2))(Z), 2 * Z.conj())
    np.testing.assert_allclose(grad(lambda z: np.sum((z * z).real))(Z), 2 * Z)
    np.testing.assert_allclose(grad(lambda z: np.sum((z * z).imag))(Z), -2j * Z)


def test_holomorphic_functions() -> None:
    f = lambda z: z**3 + np.exp(z)
    np.testing.assert_allclose(grad(f, holomorphic=True)(Z[0]), 3 * Z[0] ** 2 + np.exp(Z[0]))
    for jac in (jacfwd, jacrev):
        np.testing.assert_allclose(jac(f, holomorphic=True)(Z), np.diag(3 * Z**2 + np.exp(Z)))
    with pytest.raises(NotDifferentiable, match="needs a real floating-point result, got c128"):
        grad(f)(Z[0])
    with pytest.raises(NotDifferentiable, match="holomorphic=True needs complex inputs"):
        grad(f, holomorphic=True)(1.0)


# -- what cannot be differentiated ----


def test_integer_arguments_are_named() -> None:
    f = lambda params, x: np.sum(params["w"] * x)
    with pytest.raises(NotDifferentiable, match=r"`params\['w'\]` has dtype int64"):
        grad(f)({"w": np.arange(3)}, np.ones(3))
    g = grad(f, argnums=1)({"w": np.arange(3)}, np.ones(3))
    np.testing.assert_allclose(g, [0, 1, 2])


def test_integers_have_zero_derivatives() -> None:
    f = lambda i, x: (i + 1, x * i)
    _, dot = jvp(f, (np.int64(3), 2.0), (np.int64(0), 1.0))
    assert dot[0] == 0 and dot[0].dtype == np.int64 and dot[1] == 3.0
    _, pull = vjp(f, np.int64(3), 2.0)
    ct = pull((np.int64(0), 1.0))
    assert ct[0].dtype == np.int64 and ct[1] == 3.0


def test_gradient_needs_one_scalar() -> None:
    with pytest.raises(NotDifferentiable, match=r"one scalar result; sin gives f64\[4\]"):
        grad(np.sin)(X)
    with pytest.raises(NotDifferentiable, match="called with 1 positional"):
        grad(lambda x: x, argnums=1)(1.0)


def test_tangents_must_fit() -> None:
    with pytest.raises(NotDifferentiable, match=r"tangent of `x` should have type f64\[4\]"):
        jvp(lambda x: x, (X,), (np.ones(3),))
    with pytest.raises(TreeMismatch):
        jvp(lambda x: x, ([X],), (X,))


def test_ops_without_a_derivative_say_so() -> None:
    from tilewright.ops.elementwise import digamma

    with pytest.raises(MissingRule, match="digamma has no derivative rule"):
        grad(lambda x: digamma(x * 1.0))(2.0)


# -- stop_gradient, checkpoint ----


def test_stop_gradient() -> None:
    np.testing.assert_allclose(grad(lambda x: np.sum(stop_gradient(x) * x))(X), X)
    assert stop_gradient({"a": X})["a"] is X


def count(graph: Graph, name: str) -> int:
    return sum(n.op.name == name for n in inline(graph, Array.wrap).nodes)


def test_checkpoint_computes_again() -> None:
    def layer(x: Any) -> Any:
        return np.sin(np.exp(x))

    plain = make_graph(grad(lambda x: np.sum(layer(layer(x)))))(X)
    kept = make_graph(grad(lambda x: np.sum(checkpoint(layer)(checkpoint(layer)(x)))))(X)
    # the value of the loss is not asked for: the last layer runs once, for its derivative
    assert (count(plain, "exp"), count(kept, "exp")) == (2, 3)
    assert count(kept, "barrier") == 2 and Barrier() != Barrier()
    f = lambda x: np.sum(checkpoint(layer)(x) * x)
    np.testing.assert_allclose(grad(f)(X * 0.3), grad(lambda x: np.sum(layer(x) * x))(X * 0.3))
    check_slopes(lambda x: checkpoint(layer)(x) * x, X * 0.3, order=3, tol=1e-4)


def test_checkpoint_of_closures_and_trees() -> None:
    def f(w: Any, x: Any) -> Any:
        inner = checkpoint(lambda p, mode: {"y": np.tanh(p["x"] * w) if mode == "tanh" else p["x"]})
        return inner({"x": x}, "tanh")["y"]

    check_slopes(f, X, X + 1)
    np.testing.assert_allclose(vmap(checkpoint(np.sin))(X), np.sin(X))


# -- rules of the user's own ----


def make_log1pexp() -> Any:
    @custom_jvp
    def log1pexp(x: Any) -> Any:
        return np.log(1.0 + np.exp(x))

    @log1pexp.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        return log1pexp(x), (1 - 1 / (1 + np.exp(x))) * t

    return log1pexp


def test_custom_jvp_in_every_transform() -> None:
    f = make_log1pexp()
    assert grad(f)(100.0) == 1.0  # without the rule it is nan
    assert jvp(f, (100.0,), (2.0,))[1] == 2.0
    np.testing.assert_allclose(vmap(grad(f))(X), 1 / (1 + np.exp(-X)))
    np.testing.assert_allclose(grad(lambda x: np.sum(vmap(f)(x)))(X), 1 / (1 + np.exp(-X)))
    check_slopes(f, X, order=3, tol=1e-4)


def test_custom_jvp_per_argument_and_constants() -> None:
    g = custom_jvp(lambda x, y: x * y)
    g.defjvps(lambda t, out, x, y: 10 * t * y, None)
    assert grad(g, argnums=(0, 1))(2.0, 3.0) == (30.0, 0.0)

    h = custom_jvp(lambda function, x: function(x), nondiff_argnums=(0,))
    h.defjvp(lambda function, primals, tangents: (function(primals[0]), 7 * tangents[0]))
    assert grad(lambda x: h(np.sin, x))(1.0) == 7.0


def test_custom_vjp_in_every_transform() -> None:
    @custom_vjp
    def f(x: Any, scale: Any) -> Any:
        return {"y": np.sin(x) * scale}

    f.defvjp(
        lambda x, scale: (f(x, scale), (np.cos(x), scale)),
        lambda res, ct: (3 * res[0] * res[1] * ct["y"], None),
    )
    g = grad(lambda x: f(x, 2.0)["y"])
    assert g(0.5) == pytest.approx(6 * np.cos(0.5))
    np.testing.assert_allclose(vmap(g)(X), 6 * np.cos(X))
    np.testing.assert_allclose(
        grad(lambda x: np.sum(vmap(f, (0, None))(x, 2.0)["y"]))(X), 6 * np.cos(X)
    )
    shared = grad(lambda w: np.sum(vmap(lambda x: f(w * x, 2.0)["y"])(X)))(0.5)
    assert shared == pytest.approx(np.sum(6 * np.cos(0.5 * X) * X))
    assert grad(g)(0.5) == pytest.approx(-6 * np.sin(0.5))
    np.testing.assert_allclose(jacfwd(jacrev(lambda x: f(x, 2.0)["y"]))(0.5), -6 * np.sin(0.5))
    with pytest.raises(NoForwardMode, match="`f` has a custom_vjp rule"):
        jvp(lambda x: f(x, 2.0)["y"], (0.5,), (1.0,))


def test_rules_are_checked() -> None:
    f = custom_jvp(lambda x: x * 2)
    with pytest.raises(NotDifferentiable, match="has no rule"):
        grad(lambda x: np.sum(f(x)))(X)
    f.defjvp(lambda p, t: (p[0], np.sum(t[0])))
    with pytest.raises(NotDifferentiable, match=r"should have type f64\[4\] and has f64"):
        grad(lambda x: np.sum(f(x)))(X)

    def closing(w: Any) -> Any:
        h = custom_jvp(lambda x: x * w)
        h.defjvp(lambda p, t: (p[0] * w, t[0] * w))
        return h(3.0)

    assert jvp(lambda x: x * closing(2.0), (1.0,), (1.0,))[1] == 6.0
    with pytest.raises(NotDifferentiable, match="closes over an array being differentiated"):
        grad(closing)(2.0)


def test_custom_gradient() -> None:
    @custom_gradient
    def f(x: Any) -> Any:
        y = x * x
        return y, lambda ct: 100 * ct * x

    assert grad(f)(2.0) == 200.0
    np.testing.assert_allclose(vmap(grad(f))(X), 100 * X)
    assert grad(grad(f))(2.0) == 100.0


# -- windows ----


def test_eval_shape_and_make_graph() -> None:
    out = eval_shape(lambda x, y: {"p": x @ y}, Type(np.dtype("f4"), (3, 5)), np.ones((5, 2), "f4"))
    assert out["p"] is Type(np.dtype("f4"), (3, 2))
    graph = make_graph(lambda x: x * 2)(X)
    assert isinstance(graph, Graph) and graph.outputs[0].type.shape == (4,)


def test_python_numbers_stay_python_numbers_inside() -> None:
    """A float that is differentiated is float64, and what it meets keeps its dtype."""
    x = np.ones(3, np.float32)
    value, g = value_and_grad(lambda s: np.sum(s * x))(2.0)
    assert (value.dtype, g.dtype) == (np.float32, np.float64)
    assert jvp(lambda s: s * x, (2.0,), (1.0,))[1].dtype == np.float32
    assert jvp(np.sin, (np.float32(2),), (1.0,))[1].dtype == np.float32


def test_compile_inside_and_outside() -> None:
    f = lambda x: np.sum(np.sin(x) * x)
    expected = np.cos(X) * X + np.sin(X)
    for g in (compile(grad(f)), grad(compile(f)), compile(grad(compile(f)))):
        np.testing.assert_allclose(g(X), expected)
    np.testing.assert_allclose(vmap(compile(grad(lambda x: np.sin(x) * x)))(X), expected)
    np.testing.assert_allclose(compile(hessian(compile(f)))(X), hessian(f)(X))


# -- directions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 1, 2)])
@pytest.mark.parametrize("left", (False, True))
def test_products_with_unit_arrays_are_moves(shape: tuple[int, ...], left: bool) -> None:
    units = UnitArrays(Type(np.dtype("f8"), shape)).node()
    n = len(shape)
    every = tuple(range(1, n + 1))
    for theirs in (every, every[::-1], (0,)):
        own = shape if theirs == every else shape[::-1] if theirs != (0,) else units.type.shape[:1]
        x = new_input("x", Type(np.dtype("f8"), (*own[:1], 7, *own[1:])))
        mine = (0, *range(2, len(own) + 1))
        product = Dot(theirs, mine).node(units, x) if left else Dot(mine, theirs).node(x, units)
        graph = Graph("f", (x,), (product,))
        simple = simplify(graph)
        assert not any(isinstance(m.op, Dot) for m in simple.nodes)
        array = np.arange(float(np.prod(x.type.shape))).reshape(x.type.shape)
        np.testing.assert_array_equal(evaluate(simple, [array])[0], evaluate(graph, [array])[0])


def test_products_with_parts_of_unit_arrays_stay() -> None:
    units = UnitArrays(Type(np.dtype("f8"), (2, 3))).node()
    x = new_input("x", Type(np.dtype("f8"), (3, 4)))
    graph = Graph("f", (x,), (Dot((2,), (0,)).node(units, x),))
    assert simplify(graph) is graph


def test_infinities_stay_where_they_are() -> None:
    """A matrix is the Jacobian of its product, element by element."""
    a = np.array([[1.0, np.inf], [np.nan, -2.0]])
    np.testing.assert_array_equal(compile(jacfwd(lambda x: a @ x))(np.ones(2)), a)
