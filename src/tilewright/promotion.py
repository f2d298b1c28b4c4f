"""NumPy's promotion and broadcasting, on nodes: from a ufunc and mixed operands to one op.

Knows which loop NumPy would choose (it asks NumPy), how Python numbers adopt an array's type
(NEP 50), and the few functions whose operands need more than a cast. Refuses to know handles,
views and traces: everything here is nodes in, nodes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import BROADCASTING, DTypeMismatch, IntegerRange, ShapeMismatch
from tilewright.expr import Extent
from tilewright.graph import Node, Type
from tilewright.ops import elementwise as el
from tilewright.ops.shape import Broadcast, Cast, Fill, Reshape, fill

PYTHON: Final = (bool, int, float, complex)
"""Types whose values adopt the type of the arrays they meet; their subclasses do not."""

Number: TypeAlias = "bool | int | float | complex"


@dataclass(frozen=True)
class Weak:
    """A traced value that stands for a Python number, and promotes like one."""

    node: Node
    python: type


Operand: TypeAlias = "Node | Weak | Number"


def promotes_as(x: Operand) -> DType | type:
    """What an operand counts as in promotion: a dtype, or int, float or complex."""
    if isinstance(x, Node):
        return x.type.dtype  # type: ignore[no-any-return]
    python = x.python if isinstance(x, Weak) else type(x)
    return dtypes.bool_ if python is bool else python


def as_python(x: Operand) -> Operand:
    """A bool, real or traced, as the int it is in Python's arithmetic; all else as it is."""
    if isinstance(x, Weak) and x.python is bool:
        return Weak(cast(x.node, dtypes.int64), int)
    return int(x) if isinstance(x, bool) else x


COMPARISONS: Final = frozenset(
    (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
)
PYTHON_LOGIC: Final = COMPARISONS | {np.bitwise_and, np.bitwise_or, np.bitwise_xor}
"""Operators by which Python bools stay bools."""


def result_type(*operands: Operand) -> DType:
    """NumPy's result type of the operands."""
    kinds = [promotes_as(x) for x in operands]
    return np.result_type(*(k if isinstance(k, np.dtype) else k(0) for k in kinds))


def shape_of(x: Operand) -> tuple[Extent, ...]:
    return x.type.shape if isinstance(x, Node) else ()


# -- shapes ------------------------------------------------------------------------------------


def broadcast_shapes(name: str, *shapes: tuple[Extent, ...]) -> tuple[Extent, ...]:
    """The shape all of `shapes` broadcast to; extents must be equal or 1."""
    first = shapes[0]
    if shapes.count(first) == len(shapes):
        return first
    result: list[Extent] = [1] * max(map(len, shapes))
    for shape in shapes:
        for d, n in enumerate(shape, len(result) - len(shape)):
            if result[d] == 1:
                result[d] = n
            elif n != 1 and n != result[d]:
                raise ShapeMismatch(
                    f"{name}: operands cannot be broadcast together", *shapes, way_out=BROADCASTING
                )
    return tuple(result)


def broadcast_to(x: Node, shape: Sequence[Extent]) -> Node:
    """NumPy's broadcasting of one node: drop axes of extent 1, repeat along new ones."""
    shape, old = tuple(shape), x.type.shape
    if old == shape:
        return x
    lead = len(shape) - len(old)
    if lead < 0 or any(n != 1 and n != shape[d + lead] for d, n in enumerate(old)):
        raise ShapeMismatch(
            "cannot broadcast the first shape to the second", old, shape, way_out=BROADCASTING
        )
    if isinstance(x.op, Fill):
        return Fill(Type(x.type.dtype, shape), x.op.bits).node()
    kept = [d for d, n in enumerate(old) if n == shape[d + lead]]
    if len(kept) < len(old):
        x = Reshape(tuple(old[d] for d in kept)).node(x)
    axes = tuple(d + lead for d in kept)
    return x if len(axes) == len(shape) else Broadcast(shape, axes).node(x)


def cast(x: Node, dtype: DType) -> Node:
    """`x.astype(dtype)`; no node where nothing changes. To bool it is `x != 0`."""
    if x.type.dtype == dtype:
        return x
    if isinstance(x.op, Fill):
        return fill(x.op.value, Type(dtype, x.type.shape)).node()
    if dtypes.is_bool(dtype):
        return el.ne.node(x, fill(0, x.type).node())
    return Cast(dtype).node(x)


def number(value: Number, dtype: DType, shape: tuple[Extent, ...] = ()) -> Node:
    """A Python number everywhere in `shape`; an integer must fit `dtype`."""
    if type(value) is int and dtypes.is_integer(dtype):
        info = np.iinfo(dtype)
        if not info.min <= value <= info.max:
            raise IntegerRange(value, dtype)
    return fill(value, Type(dtype, shape)).node()


def placed(x: Operand, dtype: DType, shape: tuple[Extent, ...]) -> Node:
    """An operand at the dtype and shape of the operation."""
    if isinstance(x, Node):
        return broadcast_to(cast(x, dtype), shape)
    if isinstance(x, Weak):
        return broadcast_to(cast(x.node, dtype), shape)
    return number(x, dtype, shape)


# -- ufuncs ------------------------------------------------------------------------------------


ROWS: Final[dict[Any, el.Elementwise]] = {
    **el.TABLE,
    np.radians: el.deg2rad,
    np.degrees: el.rad2deg,
    np.fabs: el.absolute,
}
"""The op of every ufunc that is one op; some ufuncs are others by another name."""


@lru_cache(maxsize=4096)
def loop(
    ufunc: np.ufunc, kinds: tuple[DType | type, ...], dtype: DType | None
) -> tuple[DType, ...]:
    """The dtypes of NumPy's inner loop for operands of the given kinds: inputs, then outputs.

    `dtype` forces the outputs, as the argument of that name does. Raises TypeError.
    """
    if not any(isinstance(k, np.dtype) for k in kinds):
        kinds = tuple(np.dtype(k) for k in kinds)
    free = (None,) * ufunc.nout
    forced = {} if dtype is None else {"signature": (None,) * ufunc.nin + (dtype,) * ufunc.nout}
    return ufunc.resolve_dtypes((*kinds, *free), **forced)  # type: ignore[arg-type]


def apply(ufunc: np.ufunc, *operands: Operand, dtype: DType | None = None) -> Node:
    """The node of a ufunc of `ROWS`, promoted and broadcast.

    Raises DTypeMismatch where NumPy has no loop, ShapeMismatch where shapes do not broadcast.
    """
    shape = broadcast_shapes(ufunc.__name__, *map(shape_of, operands))
    kinds = tuple(map(promotes_as, operands))
    if ufunc in COMPARISONS and int in kinds:
        decided = _out_of_range(ufunc, operands, shape)
        if decided is not None:
            return decided
    try:
        *inputs, output = loop(ufunc, kinds, dtype)
    except TypeError as error:
        raise DTypeMismatch(_no_loop(ufunc, kinds, error)) from None
    special = _SPECIAL.get(ufunc)
    op = ROWS[ufunc]
    if special is not None:
        node = special(op, operands, inputs, shape)
        if node is not None:
            return cast(node, output)
    nodes = [placed(x, d, shape) for x, d in zip(operands, inputs, strict=True)]
    return cast(op.node(*nodes), output)


def _no_loop(ufunc: np.ufunc, kinds: Sequence[DType | type], error: TypeError) -> str:
    shown = ", ".join(k.name if isinstance(k, np.dtype) else k.__name__ for k in kinds)
    text = f"np.{ufunc.__name__} does not exist for ({shown})"
    return f"{text}: {error}" if "not supported, use" in str(error) else text


Special: TypeAlias = Callable[
    [el.Elementwise, Sequence[Operand], Sequence[DType], tuple[Extent, ...]], "Node | None"
]


def _as_bools(
    op: el.Elementwise, operands: Sequence[Operand], inputs: Sequence[DType], shape: Any
) -> Node:
    """logical_*: each operand counts by its own truth, whatever its type."""
    own = [promotes_as(x) for x in operands]
    typed = [k if isinstance(k, np.dtype) else np.dtype(k) for k in own]
    nodes = [placed(x, d, shape) for x, d in zip(operands, typed, strict=True)]
    return op.node(*(cast(n, dtypes.bool_) for n in nodes))


def _always(value: bool) -> Special:
    """isnan and its kin on types that have neither NaN nor infinity."""

    def rule(
        op: el.Elementwise, operands: Sequence[Operand], inputs: Sequence[DType], shape: Any
    ) -> Node | None:
        if dtypes.is_inexact(inputs[0]):
            return None
        return number(value, dtypes.bool_, shape)

    return rule


def _unless_complex(
    op: el.Elementwise, operands: Sequence[Operand], inputs: Sequence[DType], shape: Any
) -> Node | None:
    """conjugate of a real number is the number."""
    return None if dtypes.is_complex(inputs[0]) else placed(operands[0], inputs[0], shape)


def _power(
    op: el.Elementwise, operands: Sequence[Operand], inputs: Sequence[DType], shape: Any
) -> Node | None:
    """Integers to a negative power are refused, as NumPy does; the square is a multiplication."""
    base, exponent = operands
    if not isinstance(exponent, int | float):
        return None
    if dtypes.is_integer(inputs[0]) and exponent < 0:
        raise DTypeMismatch(
            "integers to negative integer powers are not allowed",
            "Convert the base first: x.astype(float) ** -1.",
        )
    if exponent == 2:
        return el.square.node(placed(base, inputs[0], shape))
    return None


def _mixed_signs(
    op: el.Elementwise, operands: Sequence[Operand], inputs: Sequence[DType], shape: Any
) -> Node | None:
    """Comparing int64 with uint64 exactly: by sign first, then as unsigned numbers."""
    if inputs[0] == inputs[1]:
        return None
    a, b = (placed(x, d, shape) for x, d in zip(operands, inputs, strict=True))
    signed = a if dtypes.is_signed(inputs[0]) else b
    negative = el.lt.node(signed, fill(0, signed.type).node())
    unsigned = op.node(cast(a, dtypes.uint64), cast(b, dtypes.uint64))
    if_negative = bool(op.row.scalar.numpy(*((-1, 0) if signed is a else (0, -1))))
    if if_negative:
        return el.logical_or.node(negative, unsigned)
    return el.logical_and.node(el.logical_not.node(negative), unsigned)


_SPECIAL: Final[dict[np.ufunc, Special]] = {
    np.logical_and: _as_bools,
    np.logical_or: _as_bools,
    np.logical_xor: _as_bools,
    np.logical_not: _as_bools,
    np.isnan: _always(False),
    np.isinf: _always(False),
    np.isfinite: _always(True),
    np.conjugate: _unless_complex,
    np.power: _power,
    **dict.fromkeys(COMPARISONS, _mixed_signs),
}


def _out_of_range(
    ufunc: np.ufunc, operands: Sequence[Operand], shape: tuple[Extent, ...]
) -> Node | None:
    """Comparing integers with a Python integer outside their range is decided by its sign."""
    for k, x in enumerate(operands):
        other = promotes_as(operands[1 - k])
        if type(x) is not int or not isinstance(other, np.dtype) or not dtypes.is_integer(other):
            continue
        info = np.iinfo(other)
        if not info.min <= x <= info.max:
            pair = (x, 0) if k == 0 else (0, x)
            return number(bool(ufunc(*map(np.sign, pair))), dtypes.bool_, shape)
    return None
