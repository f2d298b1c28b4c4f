"""Array, the handle users' functions see while they are traced, and `trace`.

Knows NumPy's operators, protocols, promotion and broadcasting, and turns them into ops. Refuses to
know what happens to the graph afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import Extent
from tilewright.graph import Graph, Node, Type, Value, new_input
from tilewright.ops import elementwise as el
from tilewright.ops.shape import Broadcast, Cast, Constant, Held, Reshape, fill


class Array(Value):
    """A traced array: shape and dtype are known, the elements are not."""

    __slots__ = ("_node", "__weakref__")
    __array_priority__ = 1000

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def node(self) -> Node:
        return self._node

    @classmethod
    def wrap(cls, node: Node) -> Any:
        from tilewright.graph import Pick

        if isinstance(node.type, tuple):
            return tuple(cls(Pick(i).node(node)) for i in range(len(node.type)))
        return cls(node)

    @property
    def type(self) -> Type:
        return self.node.type  # type: ignore[no-any-return]

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    # -- what derivative and batching rules use --

    def full_like(self, value: Any, shape: Sequence[Extent] | None = None, dtype: DType | None = None) -> Array:
        """`value` everywhere, in this array's shape and dtype unless said otherwise."""
        of = Type(dtype or self.dtype, self.shape if shape is None else tuple(shape))
        return Array(fill(value, of).node())

    def zeros_like(self) -> Array:
        return self.full_like(0)

    def broadcast_leading(self, size: Extent) -> Array:
        """Repeat along a new first axis."""
        return Broadcast((size, *self.shape), tuple(range(1, self.ndim + 1)))(self)  # type: ignore[no-any-return]

    @staticmethod
    def where(condition: Array, then: Array, otherwise: Array) -> Array:
        return el.select(condition, then, otherwise)  # type: ignore[no-any-return]

    def __add__(self, other: Any) -> Array:
        return binary(el.add, self, other)

    def __radd__(self, other: Any) -> Array:
        return binary(el.add, other, self)

    def __sub__(self, other: Any) -> Array:
        return binary(el.subtract, self, other)

    def __rsub__(self, other: Any) -> Array:
        return binary(el.subtract, other, self)

    def __mul__(self, other: Any) -> Array:
        return binary(el.multiply, self, other)

    def __rmul__(self, other: Any) -> Array:
        return binary(el.multiply, other, self)

    def __truediv__(self, other: Any) -> Array:
        return binary(el.divide, self, other)

    def __rtruediv__(self, other: Any) -> Array:
        return binary(el.divide, other, self)

    def __neg__(self) -> Array:
        return el.negative(self)  # type: ignore[no-any-return]

    def __or__(self, other: Any) -> Array:
        return binary(el.bitwise_or, self, other)


def asarray(x: Any) -> Array:
    """A traced array of anything array-like; captured arrays are held by identity."""
    if isinstance(x, Array):
        return x
    a = np.asarray(x)
    if a.ndim == 0:
        return Array(fill(a, Type(a.dtype, ())).node())
    return Array(Constant(Held(a)).node())


def binary(op: el.Elementwise, a: Any, b: Any) -> Array:
    """Promote, broadcast, apply."""
    python = (bool, int, float, complex)
    dtype = np.result_type(*(x if isinstance(x, python) else asarray(x).dtype for x in (a, b)))
    arrays = [asarray(x) for x in (a, b)]
    shape = np.broadcast_shapes(*(x.shape for x in arrays))
    return op(*(broadcast_to(astype(x, dtype), shape) for x in arrays))  # type: ignore[no-any-return]


def astype(x: Array, dtype: DType) -> Array:
    return x if x.dtype == dtype else Cast(dtype)(x)


def broadcast_to(x: Array, shape: Sequence[Extent]) -> Array:
    """NumPy's broadcasting of one array: drop axes of extent 1, repeat along new ones."""
    lead = len(shape) - x.ndim
    kept = [d for d, n in enumerate(x.shape) if n == shape[d + lead]]
    if len(kept) < x.ndim:
        x = Reshape(tuple(x.shape[d] for d in kept))(x)
    axes = tuple(d + lead for d in kept)
    return x if len(axes) == len(shape) else Broadcast(tuple(shape), axes)(x)  # type: ignore[no-any-return]


def trace(f: Callable[..., Any], types: Sequence[Type], name: str | None = None, labels: Sequence[str] | None = None) -> Graph:
    """Run `f` on fresh inputs of the given types and collect the graph of what it returns."""
    labels = labels or [f"x{i}" for i in range(len(types))]
    inputs = [new_input(label, t) for label, t in zip(labels, types, strict=True)]
    out = f(*(Array(n) for n in inputs))
    outs = out if isinstance(out, tuple) else (out,)
    return Graph(name or getattr(f, "__name__", "f"), tuple(inputs), tuple(asarray(o).node for o in outs))
