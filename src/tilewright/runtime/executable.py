"""A loaded program and how it is called with arrays.

Knows the order of a program's pointers (inputs, captured constants, results, arena) and where each
comes from. Refuses to know signatures and pytrees (`compile`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tilewright.runtime import jit, lapack, shared, threads
from tilewright.runtime.jit import Loaded, pointers
from tilewright.runtime.memory import address, block, empty
from tilewright.target import Target


class Executable:
    """Call it with one contiguous array per input; it returns one new array per result."""

    def __init__(
        self,
        loaded: Loaded,
        results: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
        arena_bytes: int,
    ) -> None:
        self.loaded, self.results, self.arena_bytes = loaded, results, arena_bytes
        self._results = [(s, d, prod(s) * d.itemsize) for s, d in results]
        self._call = loaded.call

    def __call__(self, inputs: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        outs = [empty(*r) for r in self._results]
        arena = block(self.arena_bytes) if self.arena_bytes else None
        addresses = [address(a) for a in (*inputs, *captured, *outs)]
        addresses.append(0 if arena is None else address(arena))
        self._call(pointers(addresses))
        return outs


def load(code: Sequence[bytes], name: str, target: Target) -> Loaded:
    """The function `name` of a program's objects."""
    return load_all(code, (name,), target)[0]


def load_all(code: Sequence[bytes], names: Sequence[str], target: Target) -> tuple[Loaded, ...]:
    """Functions of a program's objects. They may call NumPy's LAPACK, the pool and the functions
    that programs share."""
    whole = b"".join(code)
    found = {**lapack.symbols(whole), **threads.symbols(whole), **shared.symbols(whole, target)}
    return jit.load_all(code, names, target, found)


def prepared(a: Any, dtype: np.dtype[Any]) -> Any:
    """The array as programs read them: native byte order, aligned, contiguous in C order."""
    if type(a) is np.ndarray and a.dtype is dtype:
        flags = a.flags
        if flags.c_contiguous and flags.aligned:
            return a
    return np.require(a, dtype, ["C", "A"])
