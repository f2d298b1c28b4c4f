"""Indexing: from NumPy's `x[key]` to ops, for reading, writing and following views.

Knows NumPy's rules: slices of any step, newaxis, Ellipsis, integer arrays with the placement of
their axes, boolean masks. Refuses to know handles: nodes in, nodes out.

A key is worked out once into a `Plan`: a path of view ops (Slice, Flip, Reshape), then index arrays
for some axes of what the path gives, or a traced mask over them. Reading applies the plan; writing
applies it, replaces what it gives, and undoes the path. A view is a path too, so writing through a
view is the same undoing.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from tilewright import dtypes
from tilewright.errors import BROADCASTING, BadIndex, DynamicShape, ShapeMismatch
from tilewright.expr import Extent
from tilewright.graph import Node, Op, Type, Value
from tilewright.ops import elementwise as el
from tilewright.ops.indexing import Gather, Scatter
from tilewright.ops.shape import (
    Broadcast,
    Constant,
    Fill,
    Flip,
    Held,
    Pad,
    Reshape,
    Slice,
    Transpose,
    fill,
    inverse,
)
from tilewright.promotion import broadcast_shapes, broadcast_to, cast

Path: TypeAlias = tuple[Op, ...]
"""View ops, each applied to the result of the one before."""

_VIEW_OPS: Final = (Slice, Flip, Reshape, Transpose, Broadcast)

COMBINE: Final = {"add": el.add, "mul": el.multiply, "min": el.minimum, "max": el.maximum}
"""How `.at[]` combines old and new, by the name of the kind of scatter."""


@dataclass(frozen=True)
class Plan:
    """What a key means for an array of a given shape.

    `axes` are axes of the path's result indexed by `indices` (int64 nodes of one shape); their
    axes stand at `front` in the result. Or `mask`, a bool node, covers the axes from `front` on.
    `view` tells whether NumPy would give a view.
    """

    path: Path
    axes: tuple[int, ...] = ()
    indices: tuple[Node, ...] = ()
    front: int = 0
    mask: Node | None = None
    view: bool = False


# -- working out a key -------------------------------------------------------------------------


def plan(shape: tuple[Extent, ...], key: Any) -> Plan:
    """The plan of `x[key]` for x of `shape`. Raises BadIndex, DynamicShape."""
    key = key if isinstance(key, tuple) else (key,)
    items = _expanded(shape, key)
    masks = [i for i in items if _is_traced(i) and i.node.type.dtype == dtypes.bool_]
    arrays = any(_is_array(i) for i in items)
    if not arrays and not masks:
        path, result = _basic(shape, items)
        written_out = any(i is Ellipsis for i in key)
        return Plan(path, view=bool(result) or written_out)
    if masks:
        return _masked(shape, items, masks)
    return _advanced(shape, items, _apart(key))


def _apart(key: tuple[Any, ...]) -> bool:
    """Whether an ellipsis stands between indices. It parts them even where it covers no axis."""
    dots = [d for d, i in enumerate(key) if i is Ellipsis]
    points = [d for d, i in enumerate(key) if not (i is None or i is Ellipsis or type(i) is slice)]
    return bool(dots) and bool(points) and points[0] < dots[0] < points[-1]


def _is_traced(item: Any) -> bool:
    return isinstance(item, Value)


def _is_array(item: Any) -> bool:
    return isinstance(item, np.ndarray | Value)


def _expanded(shape: tuple[Extent, ...], key: tuple[Any, ...]) -> list[Any]:
    """One item per axis (several for a mask) and None for new axes; Ellipsis written out."""
    items = [_item(i, shape) for i in key]
    used = sum(_consumed(i) for i in items)
    if used > len(shape):
        raise BadIndex(f"too many indices: {used}", shape)
    full = [slice(None)] * (len(shape) - used)
    dots = [d for d, i in enumerate(items) if i is Ellipsis]
    if len(dots) > 1:
        raise BadIndex("an index can only have a single ellipsis ('...')", shape)
    at = dots[0] if dots else len(items)
    items[at : at + 1] = full
    result: list[Any] = []
    d = 0
    for item in items:
        if isinstance(item, np.ndarray) and item.dtype == np.bool_:
            if item.shape != shape[d : d + item.ndim]:
                raise BadIndex(f"a boolean mask of shape {item.shape}", shape)
            result.extend(np.nonzero(item))
        else:
            result.append(item)
        d += _consumed(item)
    return result


def _item(item: Any, shape: tuple[Extent, ...]) -> Any:
    """An item as an int, slice, None, Ellipsis, array or traced value."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, Value):
        node = item.node
        kind = node.type.dtype.kind
        if kind not in "biu" or (kind == "b" and not node.type.shape):
            raise BadIndex(f"an index of type {node.type!r}", shape)
        return int(node.op.value) if isinstance(node.op, Fill) and kind != "b" else item
    if not isinstance(item, bool | np.bool_):
        try:
            return operator.index(item)
        except TypeError:
            pass
    if isinstance(item, list | tuple | np.ndarray) or hasattr(item, "__array__"):
        array = np.asarray(item)
        if array.dtype.kind in "iu" or (array.dtype.kind == "b" and array.ndim):
            return array
        if array.size == 0 and isinstance(item, list | tuple):
            return array.astype(np.int64)
    raise BadIndex(f"an index of type {type(item).__name__}", shape)


def _consumed(item: Any) -> int:
    """How many axes of the array an item indexes."""
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, Value):
        return len(item.node.type.shape) if item.node.type.dtype == dtypes.bool_ else 1
    return item.ndim if isinstance(item, np.ndarray) and item.dtype == np.bool_ else 1


def _basic(shape: tuple[Extent, ...], items: Sequence[Any]) -> tuple[Path, tuple[Extent, ...]]:
    """The path of ints, slices and None, and the shape it gives."""
    starts: list[Extent] = []
    stops: list[Extent] = []
    steps: list[int] = []
    flips: list[int] = []
    result: list[Extent] = []
    for item in items:
        if item is None:
            result.append(1)
            continue
        n = shape[len(starts)]
        if isinstance(item, slice):
            start, stop, step, flipped, count = _range(item, n, shape)
            if flipped:
                flips.append(len(starts))
            result.append(count)
        else:
            start = _in_bounds(item, n, shape)
            stop, step = start + 1, 1
        starts.append(start)
        stops.append(stop)
        steps.append(step)
    path: list[Op] = []
    window = Slice(tuple(starts), tuple(stops), tuple(steps))
    if any(starts) or stops != list(shape) or set(steps) - {1}:
        path.append(window)
    if flips:
        path.append(Flip(tuple(flips)))
    if tuple(result) != window.type(Type(dtypes.bool_, shape)).shape:
        path.append(Reshape(tuple(result)))
    return tuple(path), tuple(result)


def _range(
    item: slice, n: Extent, shape: tuple[Extent, ...]
) -> tuple[Extent, Extent, int, bool, Extent]:
    """A slice as (start, stop, positive step, flipped, count), in one canonical form."""
    if item == slice(None):
        return 0, n, 1, False, n
    if any(isinstance(bound, Value) for bound in (item.start, item.stop, item.step)):
        raise DynamicShape(
            f"a slice with traced bounds, of an array of shape {shape},",
            "For a window of fixed size at a traced start use tw.lax.dynamic_slice, or index with"
            " an array:\nx[i + np.arange(size)].",
        )
    if not isinstance(n, int):
        raise DynamicShape(f"a part of an axis of symbolic extent, in shape {shape},")
    try:
        start, stop, step = item.indices(n)
    except (TypeError, ValueError) as error:
        raise BadIndex(f"{item}: {error}", shape) from None
    count = len(range(start, stop, step))
    if count == 0:
        return 0, 0, 1, False, 0
    last = start + (count - 1) * step
    low, high = min(start, last), max(start, last)
    return low, high + 1, abs(step) if count > 1 else 1, step < 0 and count > 1, count


def _in_bounds(i: int, n: Extent, shape: tuple[Extent, ...]) -> int:
    if isinstance(n, int):
        if not -n <= i < n:
            raise BadIndex(f"index {i} is out of bounds for an axis of extent {n}", shape)
        return i + n if i < 0 else i
    if i < 0:
        raise DynamicShape(f"a negative index into an axis of symbolic extent, in shape {shape},")
    return i


def _advanced(shape: tuple[Extent, ...], items: list[Any], apart: bool) -> Plan:
    """Integer arrays among basic items. Integers beside arrays count as arrays. Their axes come
    first unless the indices stand side by side."""
    basic = [slice(None) if _is_array(i) or isinstance(i, int) else i for i in items]
    path, _ = _basic(shape, basic)
    d = 0
    axes: list[int] = []
    indices: list[Any] = []
    for axis, item in enumerate(items):
        if _is_array(item) or isinstance(item, int):
            axes.append(axis)
            indices.append(_normalised(item, shape[d], shape))
        d += item is not None
    adjacent = not apart and axes == list(range(axes[0], axes[0] + len(axes)))
    return Plan(path, tuple(axes), _one_shape(indices), axes[0] if adjacent else 0)


def _normalised(item: Any, n: Extent, shape: tuple[Extent, ...]) -> Any:
    """Positions without negative ones: an int64 array if known now, a node if traced."""
    if not isinstance(item, Value):
        at = np.asarray(item).astype(np.int64)
        if at.size and isinstance(n, int) and not (-n <= at.min() and at.max() < n):
            outside = at[(at < -n) | (at >= n)].flat[0]
            raise BadIndex(f"index {outside} is out of bounds for an axis of extent {n}", shape)
        if at.size == 0 or at.min() >= 0:
            return at
        if isinstance(n, int):
            return np.where(at < 0, at + n, at)
        raise DynamicShape(f"a negative index into an axis of symbolic extent, in shape {shape},")
    if n == 0 and 0 not in item.node.type.shape:
        raise BadIndex("a traced index into an axis without elements", shape)
    node = item.node
    at_node = cast(node, dtypes.int64)
    if not dtypes.is_signed(node.type.dtype) or not isinstance(n, int):
        return at_node
    negative = el.lt.node(at_node, fill(0, at_node.type).node())
    wrapped = el.add.node(at_node, fill(n, at_node.type).node())
    return el.select.node(negative, wrapped, at_node)


def _one_shape(indices: Sequence[Any]) -> tuple[Node, ...]:
    """Index arrays and nodes broadcast together."""
    nodes = [i if isinstance(i, Node) else _constant(i) for i in indices]
    shape = broadcast_shapes("index arrays", *(n.type.shape for n in nodes))
    return tuple(broadcast_to(n, shape) for n in nodes)


def _constant(array: Any) -> Node:
    if array.ndim == 0:
        return fill(array, Type(dtypes.int64, ())).node()
    return Constant(Held(array)).node()


def _masked(shape: tuple[Extent, ...], items: list[Any], masks: list[Any]) -> Plan:
    """One traced mask among basic items."""
    mask = masks[0].node
    if len(masks) > 1 or any(_is_array(i) and i is not masks[0] for i in items):
        raise DynamicShape("indexing with a traced mask beside other arrays")
    at = next(k for k, i in enumerate(items) if i is masks[0])
    before = sum(i is not None for i in items[:at])
    if mask.type.shape != shape[before : before + mask.type.ndim]:
        raise BadIndex(f"a boolean mask of shape {mask.type.shape}", shape)
    full = [slice(None)] * mask.type.ndim
    path, _ = _basic(shape, [*items[:at], *full, *items[at + 1 :]])
    front = sum(not isinstance(i, int) for i in items[:at])
    return Plan(path, mask=mask, front=front)


# -- paths -------------------------------------------------------------------------------------


def follow(path: Path, x: Node) -> Node:
    """The view of `x` along `path`."""
    for op in path:
        x = op.node(x)
    return x


def undo(path: Path, base: Node, new: Node) -> Node:
    """`base` with what `path` gives of it replaced by `new`."""
    bases = [base]
    for op in path[:-1]:
        bases.append(op.node(bases[-1]))
    for op, x in zip(reversed(path), reversed(bases[: len(path)]), strict=True):
        if isinstance(new.op, Fill) and not isinstance(op, Slice):
            new = broadcast_to(Fill(Type(new.type.dtype, ()), new.op.bits).node(), x.type.shape)
            continue
        match op:
            case Reshape():
                new = Reshape(x.type.shape).node(new)
            case Transpose():
                new = Transpose(inverse(op.order)).node(new)
            case Flip():
                new = op.node(new)
            case Slice():
                new = _placed(x, op, new)
            case _:
                raise AssertionError(f"{op.name} is not written through")
    return new


def writable(path: Path) -> bool:
    """Whether different places of the view are different places of the base."""
    return not any(isinstance(op, Broadcast) for op in path)


def _placed(x: Node, window: Slice, new: Node) -> Node:
    """`x` with a window replaced: the window's elements where it is, the old ones elsewhere."""
    spans = [(n - 1) * s + 1 if n else 0 for n, s in zip(new.type.shape, window.steps, strict=True)]
    high = [n - a - w for n, a, w in zip(x.type.shape, window.starts, spans, strict=True)]
    pad = Pad(window.starts, tuple(high), tuple(s - 1 for s in window.steps))
    scalar = Type(dtypes.bool_, ())
    ones = fill(True, new.type.with_dtype(dtypes.bool_)).node()
    inside = pad.node(ones, fill(False, scalar).node())
    spread = pad.node(new, fill(0, Type(x.type.dtype, ())).node())
    return el.select.node(inside, spread, x)


def path_between(base: Node, x: Node) -> Path | None:
    """The view ops that lead from `base` to `x`; None if other ops do."""
    ops: list[Op] = []
    while x is not base:
        if not isinstance(x.op, _VIEW_OPS) or x.serial < base.serial:
            return None
        ops.append(x.op)
        (x,) = x.args
    return tuple(reversed(ops))


def shares_memory(path: Path, shape: tuple[Extent, ...]) -> bool:
    """Whether NumPy, given a contiguous array of `shape`, has a view at the end of the path: it
    copies where a Reshape does not fit the strides. Asked of NumPy itself, on untouched memory."""
    moved = False
    for op in path:
        if isinstance(op, Reshape) and moved:
            break
        moved = moved or not isinstance(op, Reshape)
    else:
        return True
    if not all(isinstance(n, int) for n in shape):
        return False
    x: Any = np.empty(shape, np.bool_)
    for op in path:
        match op:
            case Reshape():
                try:
                    x = np.reshape(x, op.shape, copy=False)
                except ValueError:
                    return False
            case Slice():
                x = x[tuple(map(slice, op.starts, op.stops, op.steps))]
            case Broadcast():
                full = [n if d in op.axes else 1 for d, n in enumerate(op.shape)]
                x = np.broadcast_to(np.reshape(x, full, copy=False), op.shape)  # type: ignore[arg-type]
            case Flip():
                x = np.flip(x, op.axes)
            case Transpose():
                x = np.transpose(x, op.order)
    return True


# -- reading and writing -----------------------------------------------------------------------


def read(x: Node, at: Plan) -> Node:
    """`x[key]` of a plan without a mask."""
    staged = follow(at.path, x)
    if not at.axes:
        return staged
    found = Gather(at.axes).node(staged, *at.indices)
    order = _to_front(at, len(staged.type.shape))
    return found if order is None else Transpose(inverse(order)).node(found)


def _to_front(at: Plan, ndim: int) -> tuple[int, ...] | None:
    """The order of axes that brings the index axes to the front; None if they are there."""
    k = len(at.indices[0].type.shape)
    if k == 0 or at.front == 0:
        return None
    rest = ndim - len(at.axes)
    block = range(at.front, at.front + k)
    return (*block, *range(at.front), *range(at.front + k, rest + k))


def write(x: Node, at: Plan, value: Node, kind: str = "set", whole: bool = False) -> Node:
    """`x` with `x[key] = value`, or `kind` (add mul min max) of the old and the value.

    With `whole`, `value` has the shape the path gives, of which a mask selects.
    """
    staged = follow(at.path, x)
    value = cast(value, x.type.dtype)
    if at.mask is not None:
        inside = aligned_mask(at, staged.type.shape)
        value = value if whole else _around_mask(value, at, staged.type.shape)
        new = broadcast_to(value, staged.type.shape)
        new = new if kind == "set" else COMBINE[kind].node(staged, new)
        new = el.select.node(inside, new, staged)
    elif at.axes:
        shape = list(without_axes(staged.type.shape, at.axes))
        shape[at.front : at.front] = at.indices[0].type.shape
        new = _fitted(value, tuple(shape))
        order = _to_front(at, len(staged.type.shape))
        new = new if order is None else Transpose(order).node(new)
        new = Scatter(kind, at.axes).node(staged, *at.indices, new)
    else:
        new = _fitted(value, staged.type.shape)
        new = new if kind == "set" else COMBINE[kind].node(staged, new)
    return undo(at.path, x, new)


def without_axes(shape: tuple[Extent, ...], axes: Sequence[int]) -> tuple[Extent, ...]:
    return tuple(n for d, n in enumerate(shape) if d not in axes)


def _fitted(value: Node, shape: tuple[Extent, ...]) -> Node:
    """A value broadcast to where it is assigned to; surplus leading axes of extent 1 go."""
    old = value.type.shape
    extra = len(old) - len(shape)
    if extra > 0 and all(n == 1 for n in old[:extra]):
        value = Reshape(old[extra:]).node(value)
    try:
        return broadcast_to(value, shape)
    except ShapeMismatch:
        raise ShapeMismatch(
            "the assigned value does not fit the place it is assigned to", old, shape,
            way_out=BROADCASTING,
        ) from None  # fmt: skip


def aligned_mask(at: Plan, shape: tuple[Extent, ...]) -> Node:
    """The mask of a plan spread over the shape its path gives."""
    assert at.mask is not None, "a plan with a mask"
    k = at.mask.type.ndim
    axes = tuple(range(at.front, at.front + k))
    return at.mask if k == len(shape) else Broadcast(shape, axes).node(at.mask)


def _around_mask(value: Node, at: Plan, shape: tuple[Extent, ...]) -> Node:
    """A value assigned to a masked place, which NumPy sees as one axis of unknown length."""
    assert at.mask is not None, "a plan with a mask"
    k = at.mask.type.ndim
    after = len(shape) - at.front - k
    old = value.type.shape
    if len(old) <= after:
        return value
    d = len(old) - after - 1
    if old[d] != 1:
        raise DynamicShape(
            f"assigning {old[d]} values to a traced mask: the place",
            "Assign a scalar, or select from an array of the full shape:"
            " x = np.where(mask, values, x).",
        )
    return Reshape((*old[:d], *(1,) * k, *old[d + 1 :])).node(value)
