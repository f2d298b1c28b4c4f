"""Questions about arrays: isclose, array_equal, isin, result_type, iscomplexobj, ...

Knows which answers are traced (those about elements) and which are Python's at once (those about
types and shapes).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.numpy.protocol import filled, implements, promoted, together
from tilewright.numpy.reductions import all_, any_
from tilewright.numpy.shaping import ravel
from tilewright.ops import elementwise as el
from tilewright.ops.shape import Reshape
from tilewright.tracing import Array, asarray, astype, broadcast_to

ArrayLike = Any


@implements(np.isclose)
def isclose(a: ArrayLike, b: ArrayLike, rtol: Any = 1e-05, atol: Any = 1e-08,
            equal_nan: bool = False) -> Array:  # fmt: skip
    """|a - b| <= atol + rtol * |b| elementwise, or both infinite alike."""
    x, y = together(a, b)
    if not dtypes.is_inexact(x.dtype):
        x, y = astype(x, dtypes.float64), astype(y, dtypes.float64)
    near = np.logical_and(abs(x - y) <= atol + rtol * abs(y), np.isfinite(y))
    out = np.logical_or(near, x == y)
    return np.logical_or(out, np.logical_and(x != x, y != y)) if equal_nan else out


@implements(np.allclose)
def allclose(a: ArrayLike, b: ArrayLike, rtol: Any = 1e-05, atol: Any = 1e-08,
             equal_nan: bool = False) -> Array:  # fmt: skip
    """Whether `isclose` holds everywhere (a traced bool)."""
    return all_(isclose(a, b, rtol, atol, equal_nan))


@implements(np.array_equal)
def array_equal(a1: ArrayLike, a2: ArrayLike, equal_nan: bool = False) -> Array:
    """Whether shapes and elements are the same."""
    x, y = asarray(a1), asarray(a2)
    if x.shape != y.shape:
        return filled(False, (), dtypes.bool_)
    same = x == y
    return all_(np.logical_or(same, np.logical_and(x != x, y != y)) if equal_nan else same)


@implements(np.array_equiv)
def array_equiv(a1: ArrayLike, a2: ArrayLike) -> Array:
    """Whether elements are the same after broadcasting."""
    x, y = asarray(a1), asarray(a2)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return filled(False, (), dtypes.bool_)
    return all_(x == y)


@implements(np.isin)
def isin(element: ArrayLike, test_elements: ArrayLike, assume_unique: bool = False,
         invert: bool = False, *, kind: Any = None) -> Array:  # fmt: skip
    """Whether each element occurs among the test elements: all pairs are compared."""
    x, tests = promoted(element, test_elements)
    tests = ravel(tests)
    pairs = Reshape((*x.shape, 1))(x) == tests
    found = any_(broadcast_to(pairs, (*x.shape, *tests.shape)), axis=-1)
    return el.logical_not(found) if invert else found


# -- about types -------------------------------------------------------------------------------


@implements(np.iscomplexobj)
def iscomplexobj(x: ArrayLike) -> bool:
    """Whether the type is complex."""
    return dtypes.is_complex(asarray(x).dtype)


@implements(np.isrealobj)
def isrealobj(x: ArrayLike) -> bool:
    """Whether the type is not complex."""
    return not dtypes.is_complex(asarray(x).dtype)


@implements(np.result_type)
def result_type(*arrays_and_dtypes: Any) -> DType:
    """The type NumPy's promotion (NEP 50) gives operands of these types."""
    return np.result_type(*(x.dtype if isinstance(x, Array) else x for x in arrays_and_dtypes))


@implements(np.can_cast)
def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """Whether a cast is allowed under NumPy's rule `casting`."""
    return np.can_cast(from_.dtype if isinstance(from_, Array) else from_, to, casting)


@implements(np.min_scalar_type)
def min_scalar_type(a: ArrayLike) -> DType:
    """Of a traced array, whose value is not known: its own type."""
    return asarray(a).dtype


@implements(np.common_type)
def common_type(*arrays: ArrayLike) -> Any:
    """The inexact scalar type all arrays fit in."""
    return np.common_type(*(np.empty(0, asarray(a).dtype) for a in arrays))
