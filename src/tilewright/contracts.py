"""jaxtyping annotations as contracts: checked once for each signature, while tracing.

Knows which annotations concern arrays and how to look into containers, unions and PyTrees of them.
Refuses to know how axis names are matched: that is jaxtyping's own check, made on stand-ins that
have an array's shape and dtype and no elements.
"""

from __future__ import annotations

import io
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from inspect import signature
from typing import Any

import numpy as np

from tilewright import dtypes, trees
from tilewright.errors import ContractViolation
from tilewright.expr import show_type


class StandIn:
    """What jaxtyping sees of an array. It passes for an instance of the annotated array class."""

    def __init__(self, array: Any, cls: type) -> None:
        self.shape, self.dtype, self._cls = tuple(array.shape), array.dtype, cls

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._cls


def checked(f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`f(*args, **kwargs)` with arguments and result held against f's annotations.

    The arguments are trees of anything with shape and dtype. One set of axis names spans the call.
    Raises ContractViolation with the names bound so far.
    """
    hints = array_hints(f)
    if not hints:
        return f(*args, **kwargs)
    import jaxtyping  # loaded already, by whoever wrote the annotations

    with jaxtyping.jaxtyped("context"):
        bound = signature(f).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in hints:
                _check(value, hints[name], name)
        result = _undecorated(f)(*args, **kwargs)
        if "return" in hints:
            _check(result, hints["return"], f"the result of {f.__name__}")
        return result


def array_hints(f: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of `f` that concern arrays. Without jaxtyping in the process there are none;
    annotations that name what is not defined concern nobody at run time."""
    if "jaxtyping" not in sys.modules or not getattr(f, "__annotations__", None):
        return {}
    try:
        hints = typing.get_type_hints(f)
    except NameError:
        return {}
    return {name: hint for name, hint in hints.items() if any(_array_hints(hint))}


def _array_hints(hint: Any) -> Iterator[Any]:
    """The array annotations inside an annotation."""
    if _is_array_hint(hint):
        yield hint
    inner = (hint.leaftype,) if hasattr(hint, "leaftype") else typing.get_args(hint)
    for part in inner:
        yield from _array_hints(part)


def _is_array_hint(hint: Any) -> bool:
    return isinstance(hint, type) and hasattr(hint, "dim_str") and hasattr(hint, "dtypes")


def _undecorated(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` without jaxtyping's own decorator, which would ask for the very class of the arrays."""
    while getattr(f, "__globals__", {}).get("__name__", "").startswith("jaxtyping."):
        f = f.__wrapped__  # type: ignore[attr-defined]
    return f


# -- one value ---------------------------------------------------------------------------------


def _check(value: Any, hint: Any, label: str) -> None:
    """Hold a value against an annotation; what is not about arrays is left to others."""
    if _is_array_hint(hint):
        reason = _misfit(value, hint)
        if reason:
            raise ContractViolation(label, _shown(value), _spelled(hint), reason)
        return
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "leaftype"):
        for path, leaf in zip(trees.paths(value), trees.leaves(value), strict=True):
            _check(leaf, hint.leaftype, label + path)
    elif origin in (typing.Union, types.UnionType):
        _check_union(value, inner, label)
    elif origin is tuple and isinstance(value, tuple):
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        for i, (part, part_hint) in enumerate(zip(value, inner, strict=False)):
            _check(part, part_hint, f"{label}[{i}]")
    elif origin is list and isinstance(value, list):
        for i, part in enumerate(value):
            _check(part, inner[0], f"{label}[{i}]")
    elif origin is dict and isinstance(value, dict):
        for key, part in value.items():
            _check(part, inner[1], f"{label}[{key!r}]")


def _check_union(value: Any, options: Sequence[Any], label: str) -> None:
    """Some option must fit; one that is not about arrays fits what is no array."""
    arrays = [o for o in options if _is_array_hint(o)]
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return
    if getattr(value, "python", None) in options:  # it stands for a Python number
        return
    reasons = [_misfit(value, option) for option in arrays]
    if arrays and all(reasons):
        spelled = " | ".join(map(_spelled, arrays))
        raise ContractViolation(label, _shown(value), spelled, "; ".join(reasons))


def _misfit(value: Any, hint: Any) -> str:
    """Why a value does not fit an array annotation; empty if it does."""
    if isinstance(value, bool | int | float | complex):
        value = np.asarray(value)
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return "it is no array"
    cls = hint.array_type if isinstance(hint.array_type, type) else object
    if isinstance(StandIn(value, cls), hint):
        return ""
    scalar = np.zeros((), value.dtype)
    any_shape = hint.dtype[cls, "..."] if hasattr(hint, "dtype") else None
    if any_shape is not None and not isinstance(StandIn(scalar, cls), any_shape):
        return f"its element type is {value.dtype}"
    names = _bindings()
    return f"its shape contradicts {names}" if names else "it has another shape"


def _bindings() -> str:
    """The axis names bound so far, as `n=3, d=4`."""
    import jaxtyping

    text = io.StringIO()
    with redirect_stdout(text):
        jaxtyping.print_bindings()  # type: ignore[no-untyped-call]
    lines = (line.strip() for line in text.getvalue().splitlines())
    return ", ".join(line for line in lines if "=" in line and ":" not in line)


def _spelled(hint: Any) -> str:
    """An annotation as it is written: `Float[ndarray, "n d"]`."""
    kind = hint.__name__.partition("[")[0]
    cls = getattr(hint.array_type, "__name__", str(hint.array_type))
    return f'{kind}[{cls}, "{hint.dim_str}"]'


def _shown(value: Any) -> str:
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return f"a {type(value).__name__}"
    dtype = np.dtype(value.dtype)
    return show_type(dtype, tuple(value.shape)) if dtype in dtypes.SHORT else str(dtype)
