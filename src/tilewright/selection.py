"""What indexing gives besides arrays: the elements under a traced mask, and `x.at[key]`.

A masked selection has as many elements as the mask has Trues, which is not known while tracing.
Knows what can be said without that number: elementwise functions, reductions, assignment under the
same mask. Refuses everything else by an error that names the way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tilewright import dtypes, subscript
from tilewright.dtypes import DType
from tilewright.errors import DTypeMismatch, DynamicShape, UnsupportedFunction
from tilewright.graph import Node
from tilewright.operators import Operators
from tilewright.ops.shape import fill

REDUCTIONS: Final = {
    "sum": "sum", "prod": "prod", "mean": "mean", "max": "max", "amax": "max", "min": "min",
    "amin": "min", "any": "any", "all": "all", "std": "std", "var": "var",
    "count_nonzero": "count_nonzero",
}  # fmt: skip
"""NumPy functions a selection can be reduced by, and the name of the method."""


class Selection(Operators):
    """`x[mask]` with a traced mask: all elements of x, and which of them count."""

    __slots__ = ("_at", "_inside", "_values")
    __array_priority__ = 1001

    def __init__(self, values: Any, inside: Any, at: subscript.Plan) -> None:
        """`values` and the bool `inside` are arrays of the shape the plan's path gives."""
        self._values, self._inside, self._at = values, inside, at

    @classmethod
    def of(cls, x: Any, at: subscript.Plan) -> Selection:
        """`x[key]` of a plan with a mask."""
        make = type(x)
        staged = subscript.follow(at.path, x.node)
        return cls(make(staged), make(subscript.aligned_mask(at, staged.type.shape)), at)

    @property
    def dtype(self) -> DType:
        return self._values.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return self._values.ndim - self._mask_axes + 1  # type: ignore[no-any-return]

    @property
    def size(self) -> Any:
        """The number of elements, as a traced integer."""
        return self._inside.sum()

    @property
    def _mask_axes(self) -> int:
        assert self._at.mask is not None, "a selection has a mask"
        return len(self._at.mask.type.shape)

    def __repr__(self) -> str:
        return f"Selection({dtypes.short(self.dtype)} elements of {self._values!r} under a mask)"

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise DynamicShape(f"{self!r}")

    shape = property(_refuse)
    __len__ = __iter__ = __getitem__ = __array__ = _refuse
    reshape = ravel = sort = argsort = cumsum = tolist = _refuse

    def assigned_to(self, at: subscript.Plan) -> Node:
        """The full array to assign under the same mask."""
        if at.mask is not self._at.mask or at.front != self._at.front:
            raise DynamicShape(
                f"assigning {self!r} under another mask: the place",
                "Use the same mask on both sides, or np.where(mask, a, b).",
            )
        return self._values.node  # type: ignore[no-any-return]

    # -- elementwise --

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            raise UnsupportedFunction(f"np.{ufunc.__name__} of {self!r} with {method} or options")
        mine = [x for x in inputs if isinstance(x, Selection)]
        if any(
            s._at.mask is not mine[0]._at.mask or s._at.front != mine[0]._at.front for s in mine
        ):
            raise DynamicShape(f"np.{ufunc.__name__} of selections under different masks")
        if any(np.ndim(x) for x in inputs if not isinstance(x, Selection)):
            raise DynamicShape(
                f"np.{ufunc.__name__} of {self!r} and an array",
                "Select from the array with the same mask, or compute on the full arrays and"
                " select then.",
            )
        full = (x._values if isinstance(x, Selection) else x for x in inputs)
        return Selection(ufunc(*full), self._inside, self._at)

    def operate(self, ufunc: Any, *operands: Any) -> Any:
        return ufunc(*operands)

    def update(self, ufunc: Any, result: Any) -> Any:
        if not np.can_cast(result.dtype, self.dtype, "same_kind"):
            raise DTypeMismatch(
                f"in-place {ufunc.__name__}: cannot cast the {result.dtype} result to the"
                f" array's {self.dtype}"
            )
        return result.astype(self.dtype)

    def astype(self, dtype: Any) -> Selection:
        return Selection(self._values.astype(dtype), self._inside, self._at)

    def copy(self) -> Selection:
        return Selection(self._values.copy(), self._inside, self._at)

    # -- reductions --

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = REDUCTIONS.get(function.__name__)
        if name is None or not isinstance(args[0], Selection):
            raise DynamicShape(f"np.{function.__name__} of {self!r}")
        return getattr(args[0], name)(*args[1:], **kwargs)

    def _axes(self, axis: int | None) -> tuple[int, ...]:
        """The axes of the full array to reduce; the one of unknown length must be among them."""
        front, k = self._at.front, self._mask_axes
        if axis is None:
            return tuple(range(self._values.ndim))
        if axis % self.ndim != front:
            raise DynamicShape(f"a reduction of {self!r} along axis {axis}")
        return tuple(range(front, front + k))

    def sum(self, axis: int | None = None, **options: Any) -> Any:
        return np.sum(self._values, self._axes(axis), where=self._inside, **options)

    def prod(self, axis: int | None = None, **options: Any) -> Any:
        return np.prod(self._values, self._axes(axis), where=self._inside, **options)

    def mean(self, axis: int | None = None, **options: Any) -> Any:
        return np.mean(self._values, self._axes(axis), where=self._inside, **options)

    def std(self, axis: int | None = None, **options: Any) -> Any:
        return np.std(self._values, self._axes(axis), where=self._inside, **options)

    def var(self, axis: int | None = None, **options: Any) -> Any:
        return np.var(self._values, self._axes(axis), where=self._inside, **options)

    def any(self, axis: int | None = None, **options: Any) -> Any:
        return np.any(self._values, self._axes(axis), where=self._inside, **options)

    def all(self, axis: int | None = None, **options: Any) -> Any:
        return np.all(self._values, self._axes(axis), where=self._inside, **options)

    def max(self, axis: int | None = None, **options: Any) -> Any:
        """The largest element; the smallest value of the type where nothing is selected."""
        options.setdefault("initial", extreme_value(self.dtype, lowest=True))
        return np.max(self._values, self._axes(axis), where=self._inside, **options)

    def min(self, axis: int | None = None, **options: Any) -> Any:
        """The smallest element; the largest value of the type where nothing is selected."""
        options.setdefault("initial", extreme_value(self.dtype, lowest=False))
        return np.min(self._values, self._axes(axis), where=self._inside, **options)

    def count_nonzero(self, axis: int | None = None) -> Any:
        return np.sum(self._values != 0, self._axes(axis), where=self._inside)


def extreme_value(dtype: DType, lowest: bool) -> Any:
    """The value of a type that every other is above, or below."""
    if dtypes.is_float(dtype):
        return -np.inf if lowest else np.inf
    if dtypes.is_bool(dtype):
        return not lowest
    info = np.iinfo(dtype)
    return info.min if lowest else info.max


# -- x.at[key] ---------------------------------------------------------------------------------

_HINTS: Final = {
    "indices_are_sorted": (True, False),
    "unique_indices": (True, False),
    "mode": (None, "drop", "clip", "promise_in_bounds"),
}
"""Keywords of JAX's `.at[]` that change nothing here, and the values for which that is so."""


def _check_hints(method: str, hints: dict[str, Any]) -> None:
    for name, value in hints.items():
        if value not in _HINTS.get(name, ()):
            raise UnsupportedFunction(f"x.at[...].{method} with {name}={value!r}", "the defaults")


class At:
    """`x.at`: index it, then say what to do there."""

    __slots__ = ("_array",)

    def __init__(self, array: Any) -> None:
        self._array = array

    def __getitem__(self, key: Any) -> Place:
        return Place(self._array, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise UnsupportedFunction("x.at[i] = v", "x = x.at[i].set(v), or x[i] = v")


class Place:
    """`x.at[key]`. Every method gives a new array (`get`: the elements); x stays as it is.

    Values are converted to x's dtype. Traced positions outside x are dropped by writes and clamped
    by reads. Where a position occurs several times, all updates count (for `set`: the last one).
    """

    __slots__ = ("_array", "_key")

    def __init__(self, array: Any, key: Any) -> None:
        self._array, self._key = array, key

    def _write(self, kind: str, value: Any, method: str, hints: dict[str, Any]) -> Any:
        _check_hints(method, hints)
        out = self._array.copy()
        out.scatter(self._key, value, kind)
        return out

    def get(self, **hints: Any) -> Any:
        _check_hints("get", hints)
        return self._array.copy()[self._key]

    def set(self, value: Any, **hints: Any) -> Any:
        return self._write("set", value, "set", hints)

    def add(self, value: Any, **hints: Any) -> Any:
        return self._write("add", value, "add", hints)

    def subtract(self, value: Any, **hints: Any) -> Any:
        return self._write("add", np.negative(value), "subtract", hints)

    def multiply(self, value: Any, **hints: Any) -> Any:
        return self._write("mul", value, "multiply", hints)

    mul = multiply

    def divide(self, value: Any, **hints: Any) -> Any:
        """Divided by the product of the values given for each element."""
        ones = type(self._array)(fill(1, self._array.type).node())
        divisor = Place(ones, self._key)._write("mul", value, "divide", hints)
        return (self._array / divisor).astype(self._array.dtype)

    def min(self, value: Any, **hints: Any) -> Any:
        return self._write("min", value, "min", hints)

    def max(self, value: Any, **hints: Any) -> Any:
        return self._write("max", value, "max", hints)

    def power(self, value: Any, **hints: Any) -> Any:
        return self._write("set", self.get() ** value, "power", hints)

    def apply(self, function: Callable[[Any], Any], **hints: Any) -> Any:
        return self._write("set", function(self.get()), "apply", hints)
