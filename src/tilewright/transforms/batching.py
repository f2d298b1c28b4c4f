"""vmap: a function on single examples becomes a function on a batch of them.

Knows which axes of arguments and results are mapped. Refuses to know how an op is batched: that is
each op's `batch`, applied by `ops/calculus.py` with the mapped axis always leading.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tilewright import trees
from tilewright.errors import ShapeMismatch, TreeMismatch
from tilewright.expr import Extent
from tilewright.ops.calculus import batch
from tilewright.ops.shape import Transpose
from tilewright.staging import concretely, is_array, name_of, stage
from tilewright.tracing import Array, asarray

Axes = Any
"""An axis number, None, or a tree of them that is a prefix of the tree it speaks about."""


def vmap(
    f: Callable[..., Any], in_axes: Axes = 0, out_axes: Axes = 0, axis_size: int | None = None
) -> Callable[..., Any]:
    """`f` applied to every slice of its arguments along `in_axes`, the results stacked along
    `out_axes`.

    `in_axes` is one axis for all positional arguments or a tuple with an entry for each; an entry
    may be a tree prefix of its argument. None: the argument is the same for all. Keyword arguments
    are mapped along axis 0. Negative axes count from the end. `axis_size` is needed only if no
    argument is mapped. Axes of different extents raise ShapeMismatch; an op without a batching
    rule raises MissingRule.
    """

    def traced(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = trees.flatten((args, kwargs))
        axes = _spread_axes(_per_argument(in_axes, args), args, "in_axes")
        axes += [0] * (len(leaves) - len(axes))
        mapped = {
            i: _normal(a, _ndim(x), f"argument leaf {i} of {name_of(f)}")
            for i, (a, x) in enumerate(zip(axes, leaves, strict=True))
            if a is not None
        }
        values = [_to_front(asarray(leaves[i]), a) for i, a in mapped.items()]
        size = _common_size(f, [v.shape[0] for v in values], axis_size)

        def single(*inner: Array) -> Any:
            full = list(leaves)
            for i, x in zip(mapped, inner, strict=True):
                full[i] = x
            inner_args, inner_kwargs = trees.unflatten(tree, full)
            return f(*inner_args, **inner_kwargs)

        single.__name__ = name_of(f)
        staged = stage(single, [v.type.with_shape(v.shape[1:]) for v in values])
        outs, has = batch(staged.graph, Array.wrap, size, values, [True] * len(values))
        result = staged.rebuild(range(len(outs)))
        out_list = _spread_axes(out_axes, result, "out_axes")
        return staged.rebuild(
            [_place(f, o, h, a, size) for o, h, a in zip(outs, has, out_list, strict=True)]
        )

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        return concretely(traced, *args, **kwargs)

    traced.__name__ = name_of(f)
    return call


def _per_argument(in_axes: Axes, args: Sequence[Any]) -> Axes:
    if in_axes is None or isinstance(in_axes, int):
        return (in_axes,) * len(args)
    if len(in_axes) != len(args):
        raise TreeMismatch(
            f"in_axes={in_axes}", f"{len(args)} positional arguments", "in_axes and the arguments"
        )
    return tuple(in_axes)


def _spread_axes(prefix: Axes, tree: Any, what: str) -> list[int | None]:
    """An axis for each leaf of `tree`, from a prefix of it."""
    if prefix is None or isinstance(prefix, int):
        return [prefix] * len(trees.flatten(tree)[0])
    same = type(prefix) is type(tree) or (
        isinstance(prefix, (list, tuple)) and isinstance(tree, (list, tuple))
    )
    if not same or len(prefix) != len(tree):
        raise TreeMismatch(str(prefix), str(trees.flatten(tree)[1]), f"{what} and what it maps")
    if isinstance(prefix, dict):
        if sorted(prefix) != sorted(tree):
            raise TreeMismatch(str(prefix), str(sorted(tree)), f"{what} and what it maps")
        pairs = [(prefix[k], tree[k]) for k in sorted(tree)]
    else:
        pairs = list(zip(prefix, tree, strict=True))
    return [a for p, t in pairs for a in _spread_axes(p, t, what)]


def _ndim(leaf: Any) -> int:
    return len(leaf.shape) if is_array(leaf) else asarray(leaf).ndim


def _normal(axis: int, ndim: int, what: str) -> int:
    if not -ndim <= axis < ndim:
        raise ShapeMismatch(
            f"vmap cannot map axis {axis} of {what}, which has {ndim} axes",
            way_out="Give the axis that counts the examples in in_axes, or None for an argument"
            " that is the same\nfor all of them.",
        )
    return axis % ndim


def _common_size(f: Callable[..., Any], sizes: Sequence[Extent], given: int | None) -> Extent:
    found = list(dict.fromkeys([*sizes, *([] if given is None else [given])]))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ShapeMismatch(
            f"vmap of {name_of(f)} has no mapped argument, so the batch size is not known",
            way_out="Map an argument (in_axes), or pass axis_size=.",
        )
    raise ShapeMismatch(
        f"vmap of {name_of(f)} maps axes of different extents: {', '.join(map(str, sizes))}"
        + (f", with axis_size={given}" if given is not None else ""),
        way_out="All mapped axes must have the same extent; use None in in_axes for arguments that"
        " are the same\nfor all examples.",
    )


def _to_front(x: Array, axis: int) -> Array:
    if axis == 0:
        return x
    order = (axis, *(d for d in range(x.ndim) if d != axis))
    return Transpose(order)(x)  # type: ignore[no-any-return]


def _place(f: Callable[..., Any], x: Array, has: bool, axis: int | None, size: Extent) -> Array:
    """A result with the batch axis where `out_axes` wants it."""
    if axis is None:
        if has:
            raise ShapeMismatch(
                f"out_axes is None for a result of {name_of(f)} that differs between examples",
                way_out="Give the axis along which the results are to be stacked.",
            )
        return x
    full = x if has else x.broadcast_leading(size)
    at = _normal(axis, full.ndim, f"a result of {name_of(f)}")
    if at == 0:
        return full
    order = (*range(1, at + 1), 0, *range(at + 1, full.ndim))
    return Transpose(order)(full)  # type: ignore[no-any-return]
