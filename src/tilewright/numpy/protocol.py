"""How a function of the NumPy namespace chooses between NumPy itself and the graph.

Knows when a call is traced, how axes are normalised and operands brought to one type. Refuses to
know any particular function.

A call without a traced argument, outside a trace, is NumPy's own function: eager is NumPy itself.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from tilewright import dtypes, tracing
from tilewright.dtypes import DType
from tilewright.errors import BadAxis, DynamicShape
from tilewright.expr import Extent
from tilewright.graph import Type
from tilewright.ops.shape import Broadcast, Iota, fill
from tilewright.promotion import broadcast_shapes, result_type
from tilewright.staging import concretely
from tilewright.tracing import Array, asarray, astype, into, operand, settled

F = TypeVar("F", bound=Callable[..., Any])
Axes = int | Sequence[int] | None


def traced(*values: Any) -> bool:
    """Whether a traced array occurs among `values`, or in their lists, tuples and dicts."""
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, Array):
            return True
        if isinstance(value, (list, tuple)):
            stack.extend(value)
        elif isinstance(value, dict):
            stack.extend(value.values())
    return False


def implements(*functions: Any) -> Callable[[F], F]:
    """The decorated function is what `functions` (the first is its eager self) mean on traced
    arrays. It keeps the NumPy signature; `out` is seen to here."""

    def decorate(build: F) -> F:
        @functools.wraps(build)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not traced(args, kwargs):
                return functions[0](*args, **kwargs)
            out = kwargs.pop("out", None)
            result = settled(functions[0].__name__, build(*args, **kwargs), args)
            return result if out is None else into(out, result, functions[0].__name__)

        call.stands_for = functions
        return call

    return decorate


def creates(*functions: Any) -> Callable[[F], F]:
    """As `implements`, for functions that make arrays from nothing: inside a trace they make
    traced ones, so that the program computes them and they may be assigned to."""

    def decorate(build: F) -> F:
        @functools.wraps(build)
        def call(*args: Any, **kwargs: Any) -> Any:
            if traced(args, kwargs) or tracing.active():
                return settled(functions[0].__name__, build(*args, **kwargs), args)
            return functions[0](*args, **kwargs)

        call.stands_for = functions
        return call

    return decorate


def staged(build: F) -> F:
    """For functions NumPy lacks. On concrete arrays, outside a trace, they are traced and
    interpreted at once, so the function takes and gives NumPy arrays."""

    @functools.wraps(build)
    def call(*args: Any, **kwargs: Any) -> Any:
        return concretely(build, *args, **kwargs)

    return call


# -- axes --------------------------------------------------------------------------------------


def axis_of(axis: Any, ndim: int) -> int:
    """A non-negative axis number. Raises BadAxis, which is NumPy's AxisError too."""
    number = operator.index(axis)
    if not -ndim <= number < ndim:
        raise BadAxis(number, ndim)
    return number % ndim


def axes_of(axis: Axes, ndim: int) -> tuple[int, ...]:
    """Sorted non-negative axis numbers; None means all axes."""
    if axis is None:
        return tuple(range(ndim))
    found = sorted(axis_of(d, ndim) for d in shape_of(axis))
    if len(set(found)) < len(found):
        raise ValueError(f"axis {axis} names an axis twice")
    return tuple(found)


def at_axis(ndim: int, axis: int, item: Any) -> tuple[Any, ...]:
    """The index with `item` at `axis` and everything elsewhere."""
    return (*(slice(None),) * axis, item, *(slice(None),) * (ndim - axis - 1))


# -- operands ----------------------------------------------------------------------------------


def promoted(*values: Any) -> list[Array]:
    """The values as arrays of one dtype, Python numbers adopting that of the others."""
    dtype = type_of(*values)
    return [astype(asarray(v), dtype) for v in values]


def type_of(*values: Any) -> DType:
    """NumPy's result type of array-likes and Python numbers."""
    return result_type(*map(operand, values))


def together(*values: Any) -> list[Array]:
    """The values as arrays of one dtype and, by broadcasting, one shape."""
    arrays = promoted(*values)
    shape = broadcast_shapes("arguments", *(a.shape for a in arrays))
    return [tracing.broadcast_to(a, shape) for a in arrays]


def inexact(x: Any) -> Array:
    """`x` as an array of floating or complex type; integers and bools become float64."""
    x = asarray(x)
    return x if dtypes.is_inexact(x.dtype) else astype(x, dtypes.float64)


def inexact_type(*values: Any) -> DType:
    """The result type of `values`, float64 if that is an integer or bool."""
    dtype = type_of(*values)
    return dtype if dtypes.is_inexact(dtype) else dtypes.float64


# -- arrays from nothing -----------------------------------------------------------------------


def shape_of(shape: Any) -> tuple[Extent, ...]:
    """A shape given as an extent or a sequence of them. Raises TracedNumber for traced ones."""
    extents = shape if isinstance(shape, Iterable) and not isinstance(shape, Array) else (shape,)
    return tuple(n.__index__() if isinstance(n, Array) else n for n in extents)


def filled(value: Any, shape: Sequence[Extent], dtype: Any) -> Array:
    """`value`, a number, everywhere."""
    return Array(fill(value, Type(np.dtype(dtype), tuple(shape))).node())


def iota(n: Extent, dtype: Any = dtypes.int64) -> Array:
    """0, 1, ..., n - 1."""
    return Array(Iota(Type(np.dtype(dtype), (n,)), 0).node())


def position(shape: Sequence[Extent], axis: int, dtype: Any = dtypes.int64) -> Array:
    """At every element its position along `axis`."""
    return Array(Iota(Type(np.dtype(dtype), tuple(shape)), axis).node())


def along(x: Array, axes: Sequence[int], shape: Sequence[Extent]) -> Array:
    """`x` spread to `shape`, its axis d becoming axis `axes[d]`."""
    if tuple(axes) == tuple(range(len(shape))):
        return x
    return Broadcast(tuple(shape), tuple(axes))(x)


def sized(function: Any, **defaults: Any) -> Callable[[F], F]:
    """For functions whose NumPy result has as many elements as the data decide. With one of the
    keywords of `defaults` given (JAX's `size=` or `length=`) the shape is static and the function
    is `staged`; without, it is NumPy's own, and on traced arrays an error."""

    def decorate(build: F) -> F:
        fixed = staged(build)

        @functools.wraps(build)
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(kwargs.get(k) is not None for k in defaults):
                return fixed(*args, **kwargs)
            if traced(args, kwargs):
                (keyword, example), *_ = defaults.items()
                raise DynamicShape(
                    f"np.{build.__name__} of a traced array",
                    f"Use tilewright.numpy.{build.__name__}(..., {keyword}={example}), whose result"
                    " always has that many elements.",
                )
            return function(*args, **kwargs)

        call.stands_for = (function,)
        return call

    return decorate
