"""JAX functions as NumPy functions: trace once to a jaxpr, then run that on any arrays.

Knows what each common jaxpr primitive means in NumPy. Refuses to know what the arrays are: on
NumPy arrays the result is NumPy's own; inside `compile` the same calls are traced, so that an Optax
update becomes part of the compiled step. JAX is imported when a function is called, not before, and
none of the arithmetic runs in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, Final

import numpy as np

from tilewright import lax
from tilewright.errors import TilewrightError


class UnsupportedPrimitive(TilewrightError, NotImplementedError):
    """A JAX function uses a primitive that has no NumPy meaning here.

    Fails: `from_jax(lambda x: jax.numpy.linalg.svd(x))(np.eye(3))`.
    Way out: keep that part of the function in NumPy, outside `from_jax`.
    """

    def __init__(self, equation: Any) -> None:
        line = str(equation).splitlines()[0].strip()
        super().__init__(
            f"the JAX function applies the primitive `{equation.primitive.name}`,"
            f" which has no translation: {line}",
            "Keep this part of the function outside `from_jax`, written in NumPy.",
        )


def from_jax(f: Callable[..., Any]) -> Callable[..., Any]:
    """The NumPy function that computes what the JAX function `f` computes.

    Arguments and results are JAX pytrees of arrays; shapes and dtypes are those `f` gives. 64-bit
    types count as such as soon as an argument is 64 bits wide (JAX's own default narrows them).
    Raises UnsupportedPrimitive for the primitives that have no translation.

        update = from_jax(optax.adam(1e-3).update)
        updates, state = update(gradients, state)          # also inside tw.compile
    """

    @wraps(f)
    def as_numpy(*args: Any) -> Any:
        import jax

        leaves, structure = jax.tree.flatten(args)
        wide = any(np.result_type(x).itemsize >= 8 for x in leaves if hasattr(x, "dtype"))
        like = jax.tree.unflatten(structure, [_abstract(x) for x in leaves])
        with jax.enable_x64(True) if wide else nullcontext():
            closed, shape = jax.make_jaxpr(f, return_shape=True)(*like)
        results = run(closed.jaxpr, closed.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return as_numpy


def _abstract(x: Any) -> Any:
    """What JAX traces with; Python numbers stay themselves, for they adopt the arrays' types."""
    import jax

    if isinstance(x, (bool, int, float, complex)):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The results of a jaxpr on arrays, equation by equation."""
    env: dict[Any, Any] = {}

    def read(v: Any) -> Any:
        return np.asarray(v.val, v.aval.dtype)[()] if hasattr(v, "val") else env[v]

    for var, value in zip(jaxpr.constvars, consts, strict=True):
        env[var] = np.asarray(value)
    for var, value in zip(jaxpr.invars, args, strict=True):
        number = isinstance(value, (bool, int, float, complex))
        env[var] = np.asarray(value, var.aval.dtype) if number else value
    for equation in jaxpr.eqns:
        rule = RULES.get(equation.primitive.name)
        if rule is None:
            raise UnsupportedPrimitive(equation)
        results = rule(equation, *map(read, equation.invars))
        if not equation.primitive.multiple_results:
            results = [results]
        env.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


# -- rules: (equation, *operands) -> result ------------------------------------------------------

Rule = Callable[..., Any]


def _plain(function: Callable[..., Any]) -> Rule:
    return lambda eqn, *args: function(*args)


def _shape(eqn: Any) -> tuple[int, ...]:
    """The shape JAX says the (first) result has."""
    return tuple(eqn.outvars[0].aval.shape)


def _dtype(eqn: Any) -> Any:
    return np.dtype(eqn.outvars[0].aval.dtype)


def _divide(eqn: Any, a: Any, b: Any) -> Any:
    """JAX divides integers towards zero."""
    if _dtype(eqn).kind in "iu":
        return np.floor_divide(a - np.fmod(a, b), b)
    return np.divide(a, b)


def _power(eqn: Any, a: Any, b: Any) -> Any:
    return np.power(a, b.astype(_dtype(eqn)))


def _round(eqn: Any, x: Any) -> Any:
    if eqn.params["rounding_method"].name != "TO_NEAREST_EVEN":
        raise UnsupportedPrimitive(eqn)
    return np.rint(x)


def _select(eqn: Any, which: Any, *cases: Any) -> Any:
    """Case number `which`, elementwise; a boolean chooses between the first two."""
    if which.dtype == np.bool_:
        return np.where(which, cases[1], cases[0])
    result = cases[0]
    for k, case in enumerate(cases[1:], 1):
        result = np.where(which >= k, case, result)
    return result


def _clamp(eqn: Any, low: Any, x: Any, high: Any) -> Any:
    return np.minimum(np.maximum(x, low), high)


def _broadcast(eqn: Any, x: Any) -> Any:
    axes, shape = eqn.params["broadcast_dimensions"], _shape(eqn)
    spread = [1] * len(shape)
    for axis, extent in zip(axes, np.shape(x), strict=True):
        spread[axis] = extent
    return np.broadcast_to(np.reshape(x, tuple(spread)), shape)


def _slice(eqn: Any, x: Any) -> Any:
    p = eqn.params
    steps = p["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], steps))]


def _pad(eqn: Any, x: Any, value: Any) -> Any:
    return lax.pad(x, value, eqn.params["padding_config"])


def _iota(eqn: Any) -> Any:
    p = eqn.params
    shape, axis = p["shape"], p["dimension"]
    line = np.arange(shape[axis], dtype=p["dtype"])
    return np.broadcast_to(line.reshape([-1 if d == axis else 1 for d in range(len(shape))]), shape)


def _dot(eqn: Any, a: Any, b: Any) -> Any:
    """Contraction with batch axes as an einsum; the result has batch, left and right axes."""
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    x = [next(letters) for _ in range(a.ndim)]
    y = [next(letters) for _ in range(b.ndim)]
    for i, j in [*zip(left, right, strict=True), *zip(left_batch, right_batch, strict=True)]:
        y[j] = x[i]
    batch = [x[i] for i in left_batch]
    rows = [c for i, c in enumerate(x) if i not in left and i not in left_batch]
    columns = [c for j, c in enumerate(y) if j not in right and j not in right_batch]
    dtype = _dtype(eqn)
    spec = f"{''.join(x)},{''.join(y)}->{''.join(batch + rows + columns)}"
    return np.einsum(spec, a.astype(dtype), b.astype(dtype))


def _reduce(function: Callable[..., Any]) -> Rule:
    return lambda eqn, x: function(x, axis=tuple(eqn.params["axes"]))


def _reduce_typed(function: Callable[..., Any]) -> Rule:
    """NumPy would widen the sums and products of small integers; JAX keeps their type."""
    return lambda eqn, x: function(x, axis=tuple(eqn.params["axes"]), dtype=_dtype(eqn))


def _argument(function: Callable[..., Any]) -> Rule:
    return lambda eqn, x: function(x, axis=eqn.params["axes"][0]).astype(_dtype(eqn))


def _cumulative(function: Callable[..., Any]) -> Rule:
    def rule(eqn: Any, x: Any) -> Any:
        axis, reverse = eqn.params["axis"], eqn.params["reverse"]
        x = np.flip(x, axis) if reverse else x
        y = function(x, axis=axis, dtype=_dtype(eqn))
        return np.flip(y, axis) if reverse else y

    return rule


def _split(eqn: Any, x: Any) -> list[Any]:
    bounds = np.cumsum(eqn.params["sizes"])[:-1].tolist()
    return list(np.split(x, bounds, axis=eqn.params["axis"]))


def _unstack(eqn: Any, x: Any) -> list[Any]:
    axis = eqn.params["axis"]
    return [np.take(x, i, axis=axis) for i in range(np.shape(x)[axis])]


def _sort(eqn: Any, *xs: Any) -> list[Any]:
    if len(xs) > 1:
        raise UnsupportedPrimitive(eqn)
    return [np.sort(xs[0], axis=eqn.params["dimension"], stable=True)]


def _call(name: str) -> Rule:
    """A function call inside a jaxpr: run its body here."""

    def rule(eqn: Any, *args: Any) -> list[Any]:
        body = eqn.params[name]
        return run(getattr(body, "jaxpr", body), getattr(body, "consts", ()), args)

    return rule


def _branches(eqn: Any, index: Any, *operands: Any) -> list[Any]:
    def branch(closed: Any) -> Callable[..., tuple[Any, ...]]:
        return lambda *args: tuple(run(closed.jaxpr, closed.consts, args))

    index = index.astype(np.int32)
    return list(lax.switch(index, [branch(b) for b in eqn.params["branches"]], *operands))


def _while(eqn: Any, *args: Any) -> list[Any]:
    p = eqn.params
    test, body = p["cond_jaxpr"], p["body_jaxpr"]
    m, n = p["cond_nconsts"], p["body_nconsts"]
    outer, inner, carry = args[:m], args[m : m + n], args[m + n :]
    return list(
        lax.while_loop(
            lambda c: run(test.jaxpr, test.consts, (*outer, *c))[0],
            lambda c: tuple(run(body.jaxpr, body.consts, (*inner, *c))),
            tuple(carry),
        )
    )


def _scan(eqn: Any, *args: Any) -> list[Any]:
    p = eqn.params
    n, k = p["num_consts"], p["num_carry"]
    consts, carry, xs = args[:n], tuple(args[n : n + k]), tuple(args[n + k :])

    def step(c: tuple[Any, ...], x: Any) -> tuple[Any, Any]:
        out = run(p["jaxpr"].jaxpr, p["jaxpr"].consts, (*consts, *c, *(x or ())))
        return tuple(out[:k]), tuple(out[k:])

    last, ys = lax.scan(step, carry, xs or None, length=p["length"], reverse=p["reverse"])
    return [*last, *ys]


def _shift_right_logical(eqn: Any, a: Any, b: Any) -> Any:
    unsigned = np.dtype(f"uint{a.dtype.itemsize * 8}")
    return np.right_shift(a.astype(unsigned), b.astype(unsigned)).astype(a.dtype)


_SAME_MEANING: Final[dict[str, Callable[..., Any]]] = {
    "abs": np.absolute, "acos": np.arccos, "acosh": np.arccosh, "add": np.add, "add_any": np.add,
    "and": np.bitwise_and, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan,
    "atan2": np.arctan2, "atanh": np.arctanh, "cbrt": np.cbrt, "ceil": np.ceil,
    "conj": np.conjugate, "cos": np.cos, "cosh": np.cosh, "eq": np.equal, "exp": np.exp,
    "exp2": np.exp2, "expm1": np.expm1, "floor": np.floor, "ge": np.greater_equal,
    "gt": np.greater, "imag": np.imag, "is_finite": np.isfinite, "le": np.less_equal,
    "log": np.log, "log1p": np.log1p, "lt": np.less, "max": np.maximum, "min": np.minimum,
    "mul": np.multiply, "ne": np.not_equal, "neg": np.negative, "nextafter": np.nextafter,
    "not": np.invert, "or": np.bitwise_or, "real": np.real, "rem": np.fmod,
    "shift_left": np.left_shift, "shift_right_arithmetic": np.right_shift, "sign": np.sign,
    "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "square": np.square, "sub": np.subtract,
    "tan": np.tan, "tanh": np.tanh, "xor": np.bitwise_xor,
    "copy": lambda x: x, "copy_p": lambda x: x, "optimization_barrier": lambda *xs: list(xs),
    "erf": lax.erf, "erfc": lax.erfc, "lgamma": lax.lgamma, "digamma": lax.digamma,
    "stop_gradient": lax.stop_gradient,
}  # fmt: skip

RULES: Final[dict[str, Rule]] = {
    **{name: _plain(function) for name, function in _SAME_MEANING.items()},
    "div": _divide,
    "pow": _power,
    "integer_pow": lambda eqn, x: x if eqn.params["y"] == 1 else x ** eqn.params["y"],
    "rsqrt": lambda eqn, x: 1 / np.sqrt(x),
    "logistic": lambda eqn, x: 1 / (1 + np.exp(-x)),
    "round": _round,
    "shift_right_logical": _shift_right_logical,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": lambda eqn, x: x.astype(_dtype(eqn)),
    "broadcast_in_dim": _broadcast,
    "reshape": lambda eqn, x: np.reshape(x, _shape(eqn)),
    "squeeze": lambda eqn, x: np.reshape(x, _shape(eqn)),
    "expand_dims": lambda eqn, x: np.reshape(x, _shape(eqn)),
    "transpose": lambda eqn, x: np.transpose(x, eqn.params["permutation"]),
    "rev": lambda eqn, x: np.flip(x, tuple(eqn.params["dimensions"])),
    "slice": _slice,
    "pad": _pad,
    "concatenate": lambda eqn, *xs: np.concatenate(xs, axis=eqn.params["dimension"]),
    "stack": lambda eqn, *xs: np.stack(xs, axis=eqn.params["axis"]),
    "unstack": _unstack,
    "split": _split,
    "tile": lambda eqn, x: np.tile(x, eqn.params["reps"]),
    "dynamic_slice": lambda eqn, x, *at: lax.dynamic_slice(x, at, eqn.params["slice_sizes"]),
    "dynamic_update_slice": lambda eqn, x, new, *at: lax.dynamic_update_slice(x, new, at),
    "sort": _sort,
    "iota": _iota,
    "dot_general": _dot,
    "reduce_sum": _reduce_typed(np.sum),
    "reduce_prod": _reduce_typed(np.prod),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_and": _reduce(np.all),
    "reduce_or": _reduce(np.any),
    "argmax": _argument(np.argmax),
    "argmin": _argument(np.argmin),
    "cumsum": _cumulative(np.cumsum),
    "cumprod": _cumulative(np.cumprod),
    "jit": _call("jaxpr"),
    "pjit": _call("jaxpr"),
    "closed_call": _call("call_jaxpr"),
    "custom_jvp_call": _call("call_jaxpr"),
    "custom_vjp_call": _call("call_jaxpr"),
    "checkpoint": _call("jaxpr"),
    "cond": _branches,
    "while": _while,
    "scan": _scan,
}
"""JAX's primitive names -> their meaning in NumPy. Control flow goes through `tilewright.lax`."""
