"""What op definitions share: small array functions for their derivative and batching rules.

Knows how rules spell zeros, literals and axis moves. Refuses to know single ops' meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.errors import InternalError
from tilewright.expr import Extent, static
from tilewright.graph import Type


def same_type(op: str, *args: Type) -> Type:
    """The one type all of `args` have. Users never see this: promotion happened before."""
    first = args[0]
    for a in args:
        if a is not first:
            raise InternalError(f"{op} needs equal types, got {', '.join(map(repr, args))}")
    return first


def without(items: Sequence[Any], drop: Sequence[int]) -> tuple[Any, ...]:
    """`items` with the positions `drop` left out."""
    return tuple(x for i, x in enumerate(items) if i not in drop)


def shifted(axes: Sequence[int], by: int = 1) -> tuple[int, ...]:
    """Axis numbers after `by` new leading axes."""
    return tuple(a + by for a in axes)


def sizes(shape: Sequence[Extent]) -> tuple[int, ...]:
    """The extents as numbers: what NumPy needs. They must not depend on named dims."""
    return tuple(static(n) for n in shape)
