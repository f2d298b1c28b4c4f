"""Expressions interpreted with NumPy.

Knows the value of an expression over a whole iteration space, one array per sub-expression, and of
one scalar operation. Refuses to be fast: it is what the compiled code is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import (
    INDEX_OPS,
    Apply,
    Axis,
    Buffer,
    Expr,
    Index,
    Lit,
    Load,
    Reduce,
    show,
    static,
    walk,
)
from tilewright.scalars import REDUCTIONS, Scalar


def evaluate(
    roots: Sequence[Expr],
    space: Sequence[Axis],
    buffers: Mapping[Buffer, Any],
    variables: Mapping[Expr, Any] | None = None,
) -> list[Any]:
    """The values of `roots` over the whole iteration `space`, by NumPy, one array each.

    Every axis, the reductions' own included, gets a dimension of its own, so memory grows with the
    product of all extents: meant for small shapes.
    """
    nodes = walk(*roots)
    axes = list(space)
    axes += [a for e in nodes if isinstance(e, Reduce) for a in e.axes if a not in axes]
    position = {a: d for d, a in enumerate(axes)}
    value: dict[Expr, Any] = dict(variables or {})
    for e in nodes:
        if e in value:
            continue
        match e:
            case Lit(v, dtype):
                value[e] = np.asarray(v).astype(dtype)
            case Axis():
                shape = [1] * len(axes)
                shape[position[e]] = static(e.extent)
                value[e] = np.arange(static(e.extent), dtype=np.int64).reshape(shape)
            case Index(op, (a, b)):
                value[e] = INDEX_OPS[op](value[a], value[b])
            case Load(buffer, idx, guard):
                value[e] = _gather(
                    buffers[buffer],
                    [value[i] for i in idx],
                    None if guard is None else value[guard],
                )
            case Reduce(kind, over, body):
                value[e] = _reduce(
                    kind,
                    value[body],
                    [position[a] for a in over],
                    [static(a.extent) for a in over],
                    len(axes),
                    body.type,
                )
            case Apply(op, args, dtype):
                with np.errstate(all="ignore"):
                    value[e] = apply_scalar(op, [value[a] for a in args], dtype)
            case _:
                raise InternalError(f"no value for {show(e)}")
    out = []
    for r in roots:
        full = np.broadcast_to(
            value[r], [static(a.extent) for a in space] + [1] * (len(axes) - len(space))
        )
        out.append(full.reshape([static(a.extent) for a in space]).copy())
    return out


def _gather(array: Any, idx: list[Any], guard: Any) -> Any:
    if not idx:
        found = array[()]
    elif array.size == 0:
        return np.zeros((1,), array.dtype)
    else:
        if len(idx) == 1:  # a flat offset, or the position in an array of one axis
            array = array.reshape(-1)
        inside = [np.clip(i, 0, n - 1) for i, n in zip(idx, array.shape, strict=True)]
        if guard is None and any(np.any(i != j) for i, j in zip(idx, inside, strict=True)):
            raise InternalError(f"a load is out of bounds of shape {array.shape}")
        found = array[tuple(np.broadcast_arrays(*inside))]
    return found if guard is None else np.where(guard, found, np.zeros((), array.dtype))


def _reduce(
    kind: str, body: Any, dims: list[int], extents: list[int], rank: int, dtype: DType
) -> Any:
    combine, identity = REDUCTIONS[kind]
    assert isinstance(combine, np.ufunc)
    body = np.asarray(body)
    body = body.reshape((1,) * (rank - body.ndim) + body.shape)
    full = list(body.shape)
    for d, n in zip(dims, extents, strict=True):
        full[d] = n
    body = np.broadcast_to(body, full)
    start = np.asarray(identity(dtype)).astype(dtype)
    wide = dtypes.compute_type(dtype) if kind in ("sum", "prod") else dtype
    for d in dims:
        body = combine.reduce(body.astype(wide), axis=d, keepdims=True, initial=start.astype(wide))
    return body.astype(dtype)


def apply_scalar(op: Scalar, args: list[Any], dtype: DType) -> Any:
    """The meaning of one scalar operation on NumPy values."""
    if op.name == "cast":
        x = np.asarray(args[0])
        return x.astype(dtype)
    if op.name == "bitcast":
        return np.ascontiguousarray(args[0]).view(dtype).reshape(np.shape(args[0]))
    return np.asarray(op.numpy(*args)).astype(dtype)
