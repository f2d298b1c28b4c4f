"""A loaded program and how it is called with arrays.

Knows the order of a program's pointers (inputs, captured constants, results, arena) and where each
comes from. Refuses to know signatures and pytrees (`compile`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.runtime import memory
from tilewright.runtime.jit import Loaded, pointers


@dataclass(frozen=True)
class Executable:
    """Call it with one contiguous array per input; it returns one new array per result."""

    loaded: Loaded
    results: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    arena_bytes: int

    def __call__(self, inputs: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        outs = [memory.empty(shape, dtype) for shape, dtype in self.results]
        arena = memory.block(self.arena_bytes) if self.arena_bytes else None
        every = [*inputs, *captured, *outs]
        addresses = [a.__array_interface__["data"][0] for a in every]
        addresses.append(0 if arena is None else arena.__array_interface__["data"][0])
        self.loaded.call(pointers(addresses))
        return outs


def prepared(a: Any, dtype: np.dtype[Any]) -> Any:
    """The array as programs read them: native byte order, aligned, contiguous in C order."""
    flags = a.flags
    if a.dtype is dtype and flags.c_contiguous and flags.aligned:
        return a
    return np.require(a, dtype, ["C", "A"])
