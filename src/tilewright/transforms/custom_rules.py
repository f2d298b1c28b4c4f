"""Derivative rules of the user's own: custom_jvp, custom_vjp, custom_gradient.

Knows how a rule on trees becomes one on flat arrays and checks what it returns. Refuses to know
when it is called: the ops of `ops/custom.py` do that, whatever transform they meet.

Called with ordinary arrays outside any trace, a decorated function is just the function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tilewright import tracing, trees
from tilewright.errors import NotDifferentiable, TreeMismatch
from tilewright.graph import Type
from tilewright.ops.calculus import replay
from tilewright.ops.custom import CustomJVP, CustomVJP
from tilewright.staging import Staged, close, is_array, name_of, number_type
from tilewright.tracing import Array, asarray
from tilewright.transforms.autodiff import conform

Function = Callable[..., Any]


class _Call:
    """One call of a function with a rule: its arguments as flat arrays and what is constant."""

    def __init__(self, f: Function, nondiff: Sequence[int], args: Any, kwargs: Any) -> None:
        args = _positional(f, args, kwargs)
        self.function = f
        self.args = args
        self.constant = {n % len(args) for n in nondiff} if args else set()
        self.moving = [n for n in range(len(args)) if n not in self.constant]
        self.leaves, self.tree = trees.flatten(tuple(args[n] for n in self.moving))
        self.places = [i for i, x in enumerate(self.leaves) if is_array(x)]
        self.values = [asarray(self.leaves[i]) for i in self.places]

    @property
    def constants(self) -> list[Any]:
        return [self.args[n] for n in sorted(self.constant)]

    def arguments(self, flat: Sequence[Array]) -> list[Any]:
        """All positional arguments, with `flat` as the arrays among them."""
        inner = self.trees(flat)
        full = list(self.args)
        for n, v in zip(self.moving, inner, strict=True):
            full[n] = v
        return full

    def trees(self, flat: Sequence[Array]) -> tuple[Any, ...]:
        """The differentiable arguments, with `flat` as the arrays among them."""
        full = list(self.leaves)
        for i, x in zip(self.places, flat, strict=True):
            full[i] = x
        return trees.unflatten(self.tree, full)  # type: ignore[no-any-return]

    def close(self) -> tuple[Staged, list[Array]]:
        def body(*flat: Array) -> Any:
            return self.function(*self.arguments(flat))

        body.__name__ = name_of(self.function)
        python = [number_type(v) for v in self.values]
        return close(body, [v.type for v in self.values], python)


def _positional(f: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """All arguments by position, defaults filled in."""
    if not kwargs:
        return tuple(args)
    bound = inspect.signature(f).bind(*args, **kwargs)
    bound.apply_defaults()
    if bound.kwargs:
        raise TypeError(
            f"{name_of(f)} has a derivative rule: pass {sorted(bound.kwargs)} by position"
        )
    return bound.args


def _conformed(leaves: Sequence[Any], types: Sequence[Type], what: str) -> list[Array]:
    return [conform(x, t, what) for x, t in zip(leaves, types, strict=True)]


def _same_tree(expected: Any, found: Any, what: str) -> list[Any]:
    """The leaves of `found`, a tree that must have the structure `expected`."""
    leaves, tree = trees.flatten(found)
    if tree != expected:
        raise TreeMismatch(str(expected), str(tree), what)
    return leaves


def _pair(out: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TreeMismatch("a pair", f"a {type(out).__name__}", what)
    return out[0], out[1]


class custom_jvp:  # noqa: N801  a decorator, named as JAX names it
    """A function whose directional derivative is given by a rule, in both modes.

        @tw.custom_jvp
        def f(x, y): ...
        @f.defjvp
        def _(primals, tangents): ...; return out, out_tangent

    The rule must be linear in the tangents. `nondiff_argnums` are constants, which the rule gets
    first, by position. Arrays that `f` closes over have no derivative.
    """

    def __init__(self, f: Function, nondiff_argnums: Sequence[int] = ()) -> None:
        functools.update_wrapper(self, f)
        self.function = f
        self.nondiff = tuple(nondiff_argnums)
        self.rule: Function | None = None

    def defjvp(self, rule: Function) -> Function:
        """Make `rule(*nondiff, primals, tangents) -> (out, out_tangent)` the derivative."""
        self.rule = rule
        return rule

    def defjvps(self, *rules: Function | None) -> None:
        """One rule for each argument, `rule(tangent, out, *args)`; None where it is zero."""

        def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
            out = self(*primals)
            terms = [
                r(t, out, *primals) for r, t in zip(rules, tangents, strict=True) if r is not None
            ]
            zero = trees.map(lambda x: asarray(x).zeros_like(), out)
            add = functools.partial(trees.map, lambda a, b: a + b)
            return out, functools.reduce(add, terms) if terms else zero

        self.rule = rule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not tracing.active():
            return self.function(*args, **kwargs)
        if self.rule is None:
            raise NotDifferentiable(
                f"`{name_of(self.function)}` has no rule", "Define one with defjvp."
            )
        rule = self.rule
        call = _Call(self.function, self.nondiff, args, kwargs)
        staged, captured = call.close()
        count = len(call.values)

        def flat(*values: Array) -> list[Array]:
            # (captured, args, tangents of captured, tangents of args); all tangents are arrays
            primals = call.trees(values[len(captured) :][:count])
            tangents = call.trees(values[-count:] if count else ())
            name = f"the rule of {name_of(self.function)}"
            _, dots = _pair(rule(*call.constants, primals, tangents), name)
            leaves = _same_tree(staged.tree, dots, f"the result and the tangent from {name}")
            return _conformed(leaves, staged.types, f"the tangent from {name}")

        operands = [*captured, *call.values]
        if not operands or not staged.types:
            return staged.rebuild([Array.wrap(n) for n in staged.graph.outputs])
        op = CustomJVP(staged.graph, flat, len(captured))
        return staged.rebuild(op(*operands))


class custom_vjp:  # noqa: N801  a decorator, named as JAX names it
    """A function whose reverse-mode derivative is given by a pair of rules.

        @tw.custom_vjp
        def f(x, y): ...
        f.defvjp(fwd, bwd)    # fwd(x, y) -> (out, residuals);  bwd(residuals, ct) -> (ct_x, ct_y)

    A cotangent may be None for zero. `nondiff_argnums` are constants: `fwd` gets them in their
    places, `bwd` gets them first. Forward mode raises NoForwardMode. Arrays that `f` closes over
    have no derivative.
    """

    def __init__(self, f: Function, nondiff_argnums: Sequence[int] = ()) -> None:
        functools.update_wrapper(self, f)
        self.function = f
        self.nondiff = tuple(nondiff_argnums)
        self.rules: tuple[Function, Function] | None = None

    def defvjp(self, fwd: Function, bwd: Function) -> None:
        self.rules = fwd, bwd

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not tracing.active():
            return self.function(*args, **kwargs)
        name = name_of(self.function)
        if self.rules is None:
            raise NotDifferentiable(f"`{name}` has no rules", "Define them with defvjp.")
        call = _Call(self.function, self.nondiff, args, kwargs)
        staged, captured = call.close()
        operands = [*captured, *call.values]
        if not operands or not staged.types:
            return staged.rebuild([Array.wrap(n) for n in staged.graph.outputs])
        rules = _VJPRules(call, staged, len(captured), *self.rules)
        op = CustomVJP(staged.graph, rules.forward, rules.backward, len(captured))
        return staged.rebuild(op(*operands))


class _VJPRules:
    """The user's pair of rules, on flat arrays."""

    def __init__(
        self, call: _Call, staged: Staged, captured: int, fwd: Function, bwd: Function
    ) -> None:
        self.call, self.staged, self.captured = call, staged, captured
        self.fwd, self.bwd = fwd, bwd
        self.residual_leaves: list[Any] = []
        self.residual_places: list[int] = []
        self.residual_tree: Any = None

    def forward(self, *values: Array) -> tuple[list[Array], list[Array]]:
        name = f"the forward rule of {name_of(self.call.function)}"
        args = self.call.arguments(values[self.captured :])
        out, residuals = _pair(self.fwd(*args), name)
        leaves = _same_tree(self.staged.tree, out, f"the function's result and that of {name}")
        outs = _conformed(leaves, self.staged.types, f"the result of {name}")
        kept, self.residual_tree = trees.flatten(residuals)
        self.residual_places = [i for i, x in enumerate(kept) if is_array(x)]
        self.residual_leaves = [None if is_array(x) else x for x in kept]
        return outs, [asarray(kept[i]) for i in self.residual_places]

    def backward(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        call, full = self.call, list(self.residual_leaves)
        for i, r in zip(self.residual_places, residuals, strict=True):
            full[i] = r
        ct = self.staged.rebuild(cotangents)
        found = self.bwd(*call.constants, trees.unflatten(self.residual_tree, full), ct)
        name = f"the backward rule of {name_of(call.function)}"
        if not isinstance(found, (tuple, list)) or len(found) != len(call.moving):
            expected = f"a tuple of {len(call.moving)} cotangents"
            raise TreeMismatch(expected, str(trees.structure(found)), f"the result of {name}")
        cts: list[Any] = []
        for n, c in zip(call.moving, found, strict=True):
            leaves, tree = trees.flatten(call.args[n])
            what = f"an argument and its cotangent from {name}"
            cts += [None] * len(leaves) if c is None else _same_tree(tree, c, what)
        types = [v.type for v in call.values]
        chosen = [cts[i] for i in call.places]
        what = f"the cotangent from {name}"
        moved = [
            None if c is None or t.dtype.kind in "biu" else conform(c, t, what)
            for c, t in zip(chosen, types, strict=True)
        ]
        return [*[None] * self.captured, *moved]


def custom_gradient(f: Function) -> custom_vjp:
    """A function that returns (out, grad_function), as one with a reverse rule: `grad_function(ct)`
    gives the cotangent of the argument, a tuple of them if there are several."""
    kept: list[Any] = []

    def primal(*args: Any) -> Any:
        return f(*args)[0]

    def fwd(*args: Any) -> tuple[Any, list[Array]]:
        out, pull = _pair(f(*args), f"the result of {name_of(f)}")
        leaves, tree = trees.flatten(out)

        def flat(*cts: Array) -> Any:
            found = pull(trees.unflatten(tree, cts))
            return found if isinstance(found, (tuple, list)) else (found,)

        staged, captured = close(flat, [asarray(x).type for x in leaves])
        kept[:] = [staged]
        return out, captured

    def bwd(residuals: list[Array], ct: Any) -> tuple[Any, ...]:
        (staged,) = kept
        cts = [asarray(c) for c in trees.leaves(ct)]
        return tuple(staged.rebuild(replay(staged.graph, Array.wrap, [*residuals, *cts])))

    result = custom_vjp(functools.wraps(f)(primal))
    result.defvjp(fwd, bwd)
    return result
