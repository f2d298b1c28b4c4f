"""The arrays that constants are.

Knows who keeps a captured array alive: the function's graph, which holds it, or somebody else, from
whom a program's graph has it lent. Refuses to know the op (`ops.shape.Constant`).
"""

from __future__ import annotations

import weakref
from typing import Any

from tilewright.errors import ConstantGone
from tilewright.graph import Type


class Held:
    """An array held by identity, so that ops which carry it can be compared and hashed. `fixed`
    says that it never changes."""

    __slots__ = ("array", "fixed")

    def __init__(self, array: Any, fixed: bool = False) -> None:
        self.array, self.fixed = array, fixed

    @property
    def type(self) -> Type:
        return Type(self.array.dtype, self.array.shape)

    def elements(self) -> Any:
        return self.array


class Lent(Held):
    """What a program, which outlives the functions it is made for, has of a held array: the type,
    and the elements as long as somebody has the array."""

    __slots__ = ("_found", "_type")

    def __init__(self, held: Held) -> None:
        super().__init__(None, held.fixed)
        self._type, self._found = held.type, weakref.ref(held.elements())

    @property
    def type(self) -> Type:
        return self._type

    def elements(self) -> Any:
        """The array. **Raises:** `ConstantGone`."""
        found = self._found()
        if found is None:
            raise ConstantGone(repr(self._type))
        return found
