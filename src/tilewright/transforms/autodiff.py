"""Derivatives of functions: forward mode, reverse mode, and what is made of the two.

    jvp linearize | vjp grad value_and_grad linear_transpose | jacfwd jacrev jacobian hessian
    checkpoint stop_gradient | eval_shape make_graph

Knows arguments, trees and the checks on them. Refuses to know how a graph is differentiated: that
is `ops/calculus.py`, by the ops' own rules. Reverse mode is forward mode followed by a transpose.

A function is traced on inputs of its own, whatever it is nested in, so which part of a graph
depends on which variable is a question of reachability, and nested derivatives cannot be confused.
Complex numbers follow JAX: the gradient of a real function of x + iy is df/dx - i df/dy.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright import dtypes, trees
from tilewright.errors import NoForwardMode, NotDifferentiable, TreeMismatch
from tilewright.graph import Graph, Node, Type, new_input, substitute
from tilewright.ops.calculus import (
    batch,
    build,
    pullback,
    pushforward,
    replay,
    select_by,
    spread,
)
from tilewright.ops.control import StopGradient, frontier
from tilewright.ops.custom import Checkpoint, pending_in
from tilewright.ops.shape import Reshape, Transpose, UnitArrays, fill
from tilewright.staging import (
    Staged,
    close,
    concretely,
    is_array,
    name_of,
    number_type,
    run,
    stage,
)
from tilewright.tracing import Array, asarray
from tilewright.transforms.attention import attention

Function = Callable[..., Any]
ArgNums = int | Sequence[int]
wrap = Array.wrap


# -- arguments --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The arguments a derivative is taken with respect to, as leaves; the others are closed over.

    `tree` is that of the chosen argument, of a tuple of them if several are asked for.
    """

    function: Callable[..., Any]
    leaves: list[Array]
    tree: Any
    labels: list[str]
    python: list[type | None]

    @classmethod
    def of(cls, f: Function, argnums: ArgNums, args: Sequence[Any], kwargs: Any) -> Chosen:
        several = not isinstance(argnums, int)
        numbers = [
            _argument(f, n, args) for n in ((argnums,) if isinstance(argnums, int) else argnums)
        ]
        chosen = tuple(args[n] for n in numbers)
        leaves, tree = trees.flatten(chosen if several else chosen[0])

        def of_leaves(*inner: Array) -> Any:
            values = trees.unflatten(tree, inner)
            full = list(args)
            for n, v in zip(numbers, values if several else (values,), strict=True):
                full[n] = v
            return f(*full, **kwargs)

        of_leaves.__name__ = name_of(f)
        labels = [label for n in numbers for label in _labels(f, n, args[n])]
        arrays = [asarray(x) for x in leaves]
        return cls(of_leaves, arrays, tree, labels, [number_type(x) for x in leaves])

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        return trees.unflatten(self.tree, leaves)


def _numbers(argnums: ArgNums, args: Sequence[Any]) -> list[int]:
    """The chosen arguments as non-negative numbers."""
    several = (argnums,) if isinstance(argnums, int) else argnums
    return [n % len(args) for n in several if -len(args) <= n < len(args)]


def _argument(f: Function, number: int, args: Sequence[Any]) -> int:
    if not -len(args) <= number < len(args):
        raise NotDifferentiable(
            f"argnums={number}, but {name_of(f)} was called with {len(args)} positional arguments",
            "Pass the arguments to differentiate by position.",
        )
    return number % len(args)


def _labels(f: Function, number: int, argument: Any) -> list[str]:
    """A name for each leaf of a positional argument."""
    try:
        names = list(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        names = []
    name = names[number] if number < len(names) else f"argument {number}"
    return [name + path for path in trees.paths(argument)]


def _check_input(what: str, label: str, x: Array, holomorphic: bool) -> None:
    if holomorphic and not dtypes.is_complex(x.dtype):
        raise NotDifferentiable(
            f"{what} with holomorphic=True needs complex inputs, but `{label}` has dtype {x.dtype}",
            f"Pass `{label}` as a complex array, or leave holomorphic out.",
        )
    if not dtypes.is_inexact(x.dtype):
        raise NotDifferentiable(
            f"{what} needs real or complex inputs, but `{label}` has dtype {x.dtype}",
            f"Convert it ({label}.astype(float)), or choose other arguments with argnums=.",
        )


def _check_output(what: str, t: Type, holomorphic: bool, real: bool = True) -> None:
    if holomorphic and not dtypes.is_complex(t.dtype):
        raise NotDifferentiable(
            f"{what} with holomorphic=True needs a complex result, got {t!r}",
            "Leave holomorphic out for a function with real results.",
        )
    if not holomorphic and real and not dtypes.is_float(t.dtype):
        raise NotDifferentiable(
            f"{what} needs a real floating-point result, got {t!r}",
            "Pass holomorphic=True for a holomorphic function, or return a real part."
            if dtypes.is_complex(t.dtype)
            else "Return floating-point numbers.",
        )


def _split_aux(f: Function, has_aux: bool) -> Function:
    """`f` with its result always a pair (out, aux)."""
    if not has_aux:
        return lambda *args: (f(*args), None)

    def checked(*args: Any) -> Any:
        out = f(*args)
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TreeMismatch(
                "(result, aux)", f"a {type(out).__name__}", "with has_aux the function's result"
            )
        return tuple(out)

    return checked


@dataclass(frozen=True)
class WithAux:
    """A staged function whose outputs are those of the result and then those of the aux value."""

    graph: Graph
    rest: Graph
    out_tree: Any
    aux_tree: Any

    @classmethod
    def stage(cls, chosen: Chosen, has_aux: bool) -> WithAux:
        whole = stage(
            _named(_split_aux(chosen.function, has_aux), chosen.function),
            [x.type for x in chosen.leaves],
            chosen.labels,
            chosen.python,
        )
        out, aux = whole.rebuild(whole.graph.outputs)
        outs, out_tree = trees.flatten(out)
        auxs, aux_tree = trees.flatten(aux)
        name, inputs = whole.graph.name, whole.graph.inputs
        graph = Graph(name, inputs, (*outs, *auxs))
        return cls(graph, Graph(name, inputs, tuple(outs)), out_tree, aux_tree)

    @property
    def count(self) -> int:
        return len(self.rest.outputs)

    def out(self, leaves: Sequence[Any]) -> Any:
        return trees.unflatten(self.out_tree, leaves[: self.count])

    def aux(self, leaves: Sequence[Any]) -> Any:
        return trees.unflatten(self.aux_tree, leaves[self.count :])


def _named(f: Function, like: Function) -> Function:
    f.__name__ = name_of(like)
    return f


def _zero(t: Type) -> Array:
    return asarray(np.zeros((), t.dtype)).full_like(0, t.shape)


# -- forward mode -----------------------------------------------------------------------------


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> Any:
    """(f(*primals), its directional derivative along `tangents`), and aux if `has_aux`.

    Tangents have the trees, shapes and dtypes of the primals; those of integers and bools are
    ignored, and the tangent of an integer result is zeros of its own type. A missing derivative
    rule raises MissingRule.
    """

    def traced(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        chosen = Chosen.of(f, range(len(primals)), primals, {})
        directions = _directions(chosen, tangents)
        staged = WithAux.stage(chosen, has_aux)
        outs, dots = pushforward(staged.graph, wrap, chosen.leaves, directions)
        dots = dots[: staged.count]
        function = pending_in([d.node for d in dots if d is not None])
        if function is not None:
            raise NoForwardMode(function)
        full = [_zero(o.type) if d is None else d for o, d in zip(outs, dots, strict=False)]
        result = staged.out(outs), staged.out(full)
        return (*result, staged.aux(outs)) if has_aux else result

    return run(_named(traced, f), (tuple(primals), tuple(tangents)), {}, floats=(0,))


def _directions(chosen: Chosen, tangents: Sequence[Any]) -> list[Any]:
    """The tangents as leaves, None for those of integers."""
    leaves, tree = trees.flatten(tuple(tangents))
    if tree != chosen.tree:
        raise TreeMismatch(str(chosen.tree), str(tree), "primals and tangents")
    result: list[Any] = []
    for x, t, label in zip(chosen.leaves, leaves, chosen.labels, strict=True):
        if not dtypes.is_inexact(x.dtype):
            result.append(None)
            continue
        result.append(conform(t, x.type, f"the tangent of `{label}`"))
    return result


def conform(value: Any, to: Type, what: str) -> Array:
    """`value` as an array of type `to`; Python numbers adopt it, anything else must have it."""
    if isinstance(value, (bool, int, float, complex)) and not to.shape:
        return asarray(np.asarray(value, to.dtype))
    found = asarray(value)
    if found.type != to:
        raise NotDifferentiable(
            f"{what} should have type {to!r} and has {found.type!r}",
            "Tangents and cotangents have the shape and dtype of the value they belong to.",
        )
    return found


@dataclass(frozen=True)
class LinearMap:
    """The derivative of a function at a point: a graph linear in its last inputs, on residuals.

    `graph` maps (residuals, moving inputs) to the moving results; `inputs` and `outputs` are the
    types of all of them, of which `moving_in` and `moving_out` are the others' zeros left out.
    """

    graph: Graph
    inputs: list[Type]
    outputs: list[Type]
    moving_in: list[bool]
    moving_out: list[bool]

    def push(self, residuals: Sequence[Array], tangents: Sequence[Array]) -> list[Array]:
        args = [*residuals, *select_by(self.moving_in, tangents)]
        found = spread(self.moving_out, replay(self.graph, wrap, args))
        return [_zero(t) if d is None else d for d, t in zip(found, self.outputs, strict=True)]

    def pull(self, residuals: Sequence[Array], cotangents: Sequence[Any]) -> list[Array]:
        count = len(residuals)
        fresh = [new_input("d", n.type) for n in self.graph.inputs[count:]]
        known = [r.node for r in residuals]
        env = dict(zip(self.graph.inputs, (*known, *fresh), strict=True))
        outs = substitute(self.graph.outputs, env)
        cts = pullback(outs, select_by(self.moving_out, cotangents), fresh, wrap)
        found = spread(self.moving_in, cts)
        return [_zero(t) if c is None else c for c, t in zip(found, self.inputs, strict=True)]


def _linearized(f: Function, primals: Sequence[Any], has_aux: bool) -> tuple[Any, ...]:
    """(out, aux, residuals, map, chosen, staged): the function at a point and its derivative."""
    box: list[Any] = []

    def traced(*primals: Any) -> Any:
        chosen = Chosen.of(f, range(len(primals)), primals, {})
        staged = WithAux.stage(chosen, has_aux)
        moving_in = [dtypes.is_inexact(x.dtype) for x in chosen.leaves]
        fresh = [new_input("d", x.type) for x in select_by(moving_in, chosen.leaves)]
        tangents = spread(moving_in, [wrap(n) for n in fresh])
        graph = attention(staged.graph)
        outs, dots = pushforward(graph, wrap, chosen.leaves, tangents, apart=True)
        dots = dots[: staged.count]
        moving_out = [d is not None for d in dots]
        ends = [d.node for d in dots if d is not None]
        needed = frontier(ends, fresh)
        names = {n: new_input(f"r{i}", n.type) for i, n in enumerate(needed)}
        graph = Graph(staged.graph.name, (*names.values(), *fresh), tuple(substitute(ends, names)))
        linear = LinearMap(
            graph, [x.type for x in chosen.leaves], [o.type for o in outs[: staged.count]],
            moving_in, moving_out,
        )  # fmt: skip
        box[:] = [linear, chosen.tree, chosen.labels, staged]
        return staged.out(outs), staged.aux(outs), [wrap(n) for n in needed]

    out, aux, residuals = run(_named(traced, f), primals, {}, range(len(primals)))
    return out, aux, residuals, *box


def linearize(f: Function, *primals: Any, has_aux: bool = False) -> Any:
    """(f(*primals), a function of tangents giving the directional derivative there), and aux if
    `has_aux`. The function `f` is evaluated once; the derivative holds what it needs of it."""
    out, aux, residuals, linear, tree, labels, staged = _linearized(f, primals, has_aux)

    def traced(residuals: Sequence[Array], tangents: Sequence[Any]) -> Any:
        leaves, found = trees.flatten(tuple(tangents))
        if found != tree:
            raise TreeMismatch(str(tree), str(found), "primals and tangents")
        full = [
            conform(x, t, f"the tangent of `{label}`") if moves else None
            for x, t, label, moves in zip(
                leaves, linear.inputs, labels, linear.moving_in, strict=True
            )
        ]
        function = pending_in(linear.graph.outputs)
        if function is not None:
            raise NoForwardMode(function)
        return trees.unflatten(staged.out_tree, linear.push(residuals, full))

    def derivative(*tangents: Any) -> Any:
        return concretely(_named(traced, f), residuals, tangents)

    return (out, derivative, aux) if has_aux else (out, derivative)


# -- reverse mode -----------------------------------------------------------------------------


def vjp(f: Function, *primals: Any, has_aux: bool = False) -> Any:
    """(f(*primals), a function from a cotangent of the result to a tuple of cotangents of the
    primals), and aux if `has_aux`. Cotangents of integers are zeros of their own type."""
    out, aux, residuals, linear, tree, _, staged = _linearized(f, primals, has_aux)

    def traced(residuals: Sequence[Array], cotangent: Any) -> Any:
        leaves, found = trees.flatten(cotangent)
        if found != staged.out_tree:
            raise TreeMismatch(str(staged.out_tree), str(found), "result and cotangent")
        full = [
            conform(x, t, f"the cotangent of result {i}") if moves else None
            for i, (x, t, moves) in enumerate(
                zip(leaves, linear.outputs, linear.moving_out, strict=True)
            )
        ]
        return trees.unflatten(tree, linear.pull(residuals, full))

    def pull(cotangent: Any) -> Any:
        return concretely(_named(traced, f), residuals, cotangent)

    return (out, pull, aux) if has_aux else (out, pull)


def value_and_grad(
    f: Function, argnums: ArgNums = 0, has_aux: bool = False, holomorphic: bool = False
) -> Function:
    """The function (value, gradient) of `f`, whose result must be a floating-point scalar.

    The gradient has the tree, shapes and dtypes of argument `argnums`; a tuple of such if
    `argnums` is a sequence. With `has_aux`, f gives (result, aux) and the value is that pair.
    Integer arguments, and results that are not real scalars, raise NotDifferentiable.
    """

    def traced(*args: Any, **kwargs: Any) -> Any:
        chosen = Chosen.of(f, argnums, args, kwargs)
        for label, x in zip(chosen.labels, chosen.leaves, strict=True):
            _check_input("grad", label, x, holomorphic)
        staged = WithAux.stage(chosen, has_aux)
        if staged.count != 1 or staged.rest.outputs[0].type.shape:
            types = ", ".join(repr(n.type) for n in staged.rest.outputs)
            raise NotDifferentiable(
                f"grad needs a function with one scalar result; {name_of(f)} gives {types}",
                "Reduce the result (.sum(), .mean()), or use tw.jacrev. A second result that needs"
                " no derivative\nis marked by has_aux=True.",
            )
        _check_output("grad", staged.rest.outputs[0].type, holomorphic)
        fresh = [new_input("d", x.type) for x in chosen.leaves]
        outs, dots = pushforward(
            attention(staged.graph), wrap, chosen.leaves, [wrap(n) for n in fresh], apart=True
        )
        cts = [None] * len(fresh)
        if dots[0] is not None:
            cts = pullback([dots[0].node], [outs[0].full_like(1)], fresh, wrap)
        gradient = [
            x.zeros_like() if c is None else c for c, x in zip(cts, chosen.leaves, strict=True)
        ]
        value = staged.out(outs)
        return (value, staged.aux(outs)) if has_aux else value, chosen.rebuild(gradient)

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        return run(_named(traced, f), args, kwargs, _numbers(argnums, args))

    return call


def grad(
    f: Function, argnums: ArgNums = 0, has_aux: bool = False, holomorphic: bool = False
) -> Function:
    """The gradient of a scalar function `f`; (gradient, aux) if `has_aux`. See value_and_grad."""
    both = value_and_grad(f, argnums, has_aux, holomorphic)

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return call


def linear_transpose(f: Function, *primals: Any) -> Function:
    """The transpose of a linear function: cotangent of the result to a tuple of cotangents.

    Of the primals only shapes and dtypes are used. A function that is not linear raises
    MissingRule with the op where it is not.
    """
    leaves, tree = trees.flatten(primals)
    types = [x if isinstance(x, Type) else asarray(x).type for x in leaves]

    def traced(cotangent: Any) -> Any:
        staged = stage(_named(lambda *xs: f(*trees.unflatten(tree, xs)), f), types)
        given, found = trees.flatten(cotangent)
        if found != staged.tree:
            raise TreeMismatch(str(staged.tree), str(found), "result and cotangent")
        full = [conform(c, t, "the cotangent") for c, t in zip(given, staged.types, strict=True)]
        cts = pullback(staged.graph.outputs, full, staged.graph.inputs, wrap)
        return trees.unflatten(
            tree, [_zero(t) if c is None else c for c, t in zip(cts, types, strict=True)]
        )

    return lambda cotangent: concretely(_named(traced, f), cotangent)


# -- Jacobians --------------------------------------------------------------------------------


def _basis(t: Type) -> Array:
    """The unit arrays of type `t`, stacked along a new leading axis; numbers where there is one."""
    units = UnitArrays(t)
    op = fill(1, units.type()) if t.size == 1 else units
    return wrap(op.node())  # type: ignore[no-any-return]


def _jacobian(
    f: Function, argnums: ArgNums, has_aux: bool, holomorphic: bool, rows: Callable[..., Any]
) -> Function:
    def traced(*args: Any, **kwargs: Any) -> Any:
        chosen = Chosen.of(f, argnums, args, kwargs)
        staged = WithAux.stage(chosen, has_aux)
        outs, blocks = rows(chosen, staged)
        types = [o.type for o in outs[: staged.count]]
        table = [
            chosen.rebuild(
                [
                    _zero(Type(o.dtype, o.shape + x.shape)) if b is None else b
                    for b, x in zip(row, chosen.leaves, strict=True)
                ]
            )
            for o, row in zip(types, blocks, strict=True)
        ]
        result = trees.unflatten(staged.out_tree, table)
        return (result, staged.aux(outs)) if has_aux else result

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        return run(_named(traced, f), args, kwargs, _numbers(argnums, args))

    return call


def jacfwd(
    f: Function, argnums: ArgNums = 0, has_aux: bool = False, holomorphic: bool = False
) -> Function:
    """The Jacobian of `f` by forward mode, one pass for each input element: for few inputs.

    Each leaf of the result becomes the tree of argument `argnums` with leaves of shape
    result.shape + argument.shape.
    """

    def rows(chosen: Chosen, staged: WithAux) -> Any:
        for label, x in zip(chosen.labels, chosen.leaves, strict=True):
            _check_input("jacfwd", label, x, holomorphic)
            if not holomorphic:
                _check_output(f"jacfwd without holomorphic=True, of `{label}`,", x.type, False)
        outs = replay(staged.graph, wrap, chosen.leaves)
        for o in outs[: staged.count]:
            _check_output("jacfwd", o.type, holomorphic, real=False)
        columns = [_columns(chosen, staged, i) for i in range(len(chosen.leaves))]
        return outs, [list(row) for row in zip(*columns, strict=True)] if columns else [
            []
        ] * staged.count

    return _jacobian(f, argnums, has_aux, holomorphic, rows)


def _columns(chosen: Chosen, staged: WithAux, i: int) -> list[Any]:
    """The derivative of every result by leaf `i`."""
    x = chosen.leaves[i]
    moving: list[bool] = []

    def push(direction: Array) -> list[Array]:
        tangents: list[Any] = [None] * len(chosen.leaves)
        tangents[i] = direction
        _, dots = pushforward(staged.rest, wrap, chosen.leaves, tangents)
        moving[:] = [d is not None for d in dots]
        return [d for d in dots if d is not None]

    graph = build(staged.rest.name, [x.type], wrap, push)
    function = pending_in(graph.outputs)
    if function is not None:
        raise NoForwardMode(function)
    found, has = batch(graph, wrap, x.type.size, [_basis(x.type)], [True])
    full = [d if h else d.broadcast_leading(x.type.size) for d, h in zip(found, has, strict=True)]
    return spread(moving, [_last(d, x.shape) for d in full])


def _last(d: Array, shape: Sequence[Any]) -> Array:
    """The leading axis of `d` moved to the end, as axes of extents `shape`."""
    moved = Transpose((*range(1, d.ndim), 0))(d)
    return Reshape((*d.shape[1:], *shape))(moved)  # type: ignore[no-any-return]


def jacrev(
    f: Function, argnums: ArgNums = 0, has_aux: bool = False, holomorphic: bool = False
) -> Function:
    """The Jacobian of `f` by reverse mode, one pass for each result element: for few results.

    Shapes and trees as in `jacfwd`.
    """

    def rows(chosen: Chosen, staged: WithAux) -> Any:
        for label, x in zip(chosen.labels, chosen.leaves, strict=True):
            _check_input("jacrev", label, x, holomorphic)
        for n in staged.rest.outputs:
            _check_output("jacrev", n.type, holomorphic)
        fresh = [new_input("d", x.type) for x in chosen.leaves]
        outs, dots = pushforward(
            attention(staged.graph), wrap, chosen.leaves, [wrap(n) for n in fresh], apart=True
        )
        return outs, [_row(staged.rest.name, d, fresh) for d in dots[: staged.count]]

    return _jacobian(f, argnums, has_aux, holomorphic, rows)


def _row(name: str, dot: Any, fresh: list[Node]) -> list[Any]:
    """The derivative of one result, whose tangent is `dot`, by every input."""
    if dot is None:
        return [None] * len(fresh)
    given: list[bool] = []

    def pull(ct: Array) -> list[Array]:
        cts = pullback([dot.node], [ct], fresh, wrap)
        given[:] = [c is not None for c in cts]
        return [c for c in cts if c is not None]

    graph = build(name, [dot.type], wrap, pull)
    size = dot.type.size
    found, has = batch(graph, wrap, size, [_basis(dot.type)], [True])
    full = [c if h else c.broadcast_leading(size) for c, h in zip(found, has, strict=True)]
    return spread(given, [Reshape((*dot.shape, *c.shape[1:]))(c) for c in full])


jacobian = jacrev


def hessian(
    f: Function, argnums: ArgNums = 0, has_aux: bool = False, holomorphic: bool = False
) -> Function:
    """The second derivatives of `f`: forward mode over reverse mode, jacfwd(jacrev(f))."""
    return jacfwd(jacrev(f, argnums, has_aux, holomorphic), argnums, has_aux, holomorphic)


# -- what is kept, and what is constant ---------------------------------------------------------


def checkpoint(f: Function, *, static_argnums: Sequence[int] = ()) -> Function:
    """`f` whose reverse mode keeps the arguments only and evaluates `f` again (JAX's `remat`).

    Arguments may be trees; leaves that are not arrays, and the arguments `static_argnums`, are
    constants.
    """

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        return concretely(_named(traced, f), *args, **kwargs)

    def traced(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = trees.flatten((args, kwargs))
        fixed: set[int] = set()
        at = 0
        for i, a in enumerate(args):
            n = len(trees.flatten(a)[0])
            if i in static_argnums:
                fixed.update(range(at, at + n))
            at += n
        places = [i for i, x in enumerate(leaves) if is_array(x) and i not in fixed]

        def body(*inner: Array) -> Any:
            full = list(leaves)
            for i, x in zip(places, inner, strict=True):
                full[i] = x
            inner_args, inner_kwargs = trees.unflatten(tree, full)
            return f(*inner_args, **inner_kwargs)

        values = [asarray(leaves[i]) for i in places]
        python = [number_type(v) for v in values]
        staged, captured = close(_named(body, f), [v.type for v in values], python)
        operands = [*captured, *values]
        if not operands or not staged.types:
            return staged.rebuild([wrap(n) for n in staged.graph.outputs])
        return staged.rebuild(Checkpoint(staged.graph)(*operands))

    return call


def stop_gradient(x: Any) -> Any:
    """The tree `x` itself, as a constant to every derivative."""
    leaves, tree = trees.flatten(x)
    return trees.unflatten(
        tree, [StopGradient()(leaf) if isinstance(leaf, Array) else leaf for leaf in leaves]
    )


# -- windows on a function ----------------------------------------------------------------------


def make_graph(f: Function) -> Callable[..., Graph]:
    """A function giving the graph of `f` for arguments like the ones it gets: arrays or Types."""

    def call(*args: Any, **kwargs: Any) -> Graph:
        return _staged_like(f, args, kwargs).graph

    return call


def eval_shape(f: Function, *args: Any, **kwargs: Any) -> Any:
    """The tree of result Types (dtype and shape) of `f`; nothing is computed. Arguments are arrays
    or Types."""
    staged = _staged_like(f, args, kwargs)
    return staged.rebuild(staged.types)


def _staged_like(f: Function, args: Sequence[Any], kwargs: Any) -> Staged:
    leaves, tree = trees.flatten((tuple(args), dict(kwargs)))
    places = [i for i, x in enumerate(leaves) if isinstance(x, Type) or is_array(x)]
    types = [x if isinstance(x := leaves[i], Type) else asarray(x).type for i in places]

    def body(*inner: Array) -> Any:
        full = list(leaves)
        for i, x in zip(places, inner, strict=True):
            full[i] = x
        inner_args, inner_kwargs = trees.unflatten(tree, full)
        return f(*inner_args, **inner_kwargs)

    return stage(_named(body, f), types)
