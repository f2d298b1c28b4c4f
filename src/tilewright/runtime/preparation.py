"""What is done once for each set of constants, before a program is called.

Knows the order: a program's own preparation is run first, if it has one, then constants and what
was computed of them are put into the order they will be read in. Refuses to know when that is
(`compile`) and what order it is (`transforms.copies`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np

from tilewright.runtime.jit import Loaded, pointers
from tilewright.runtime.memory import address, block, together
from tilewright.transforms.copies import Copy, Part

SIGN: Final = np.uint8(128)


class Preparation:
    """Call it with the captured arrays, contiguous; it returns one new array per result, all of
    them in one block. `loaded` is the program's entry: captured arrays, results, arena."""

    def __init__(
        self,
        loaded: Loaded | None,
        results: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
        arena_bytes: int,
        copies: Sequence[Copy],
    ) -> None:
        self.loaded, self.arena_bytes, self.copies = loaded, arena_bytes, copies
        self._results = [(s, d, prod(s) * d.itemsize) for s, d in results]

    def __call__(self, captured: Sequence[Any]) -> list[Any]:
        made = together(self._results)
        arrays = [*captured, *made]
        if self.loaded is not None:
            arena = block(self.arena_bytes) if self.arena_bytes else None
            addresses = [*map(address, arrays), 0 if arena is None else address(arena)]
            self.loaded.call(pointers(addresses))
        for c in self.copies:
            move(c, arrays[c.source], arrays[c.target])
        return made


def move(copy: Copy, source: Any, target: Any) -> None:
    """Move a copy's elements between two contiguous arrays.

    **Raises:** `ValueError` if one of them is too small.
    """
    kind = np.dtype(f"V{copy.itemsize}" if copy.itemsize > 8 else f"u{copy.itemsize}")
    of, to = (a.reshape(-1).view(np.uint8) for a in (source, target))
    if copy.cleared:
        to.fill(0)
    for p in copy.parts:
        _view(kind, p, to, p.to, p.to_steps)[...] = _view(kind, p, of, p.of, p.of_steps)
    if copy.flipped:
        np.bitwise_xor(to, SIGN, out=to)


def _view(kind: np.dtype[Any], p: Part, bytes_: Any, start: int, steps: Sequence[int]) -> Any:
    strides = tuple(kind.itemsize * s for s in steps)
    return np.ndarray(p.shape, kind, bytes_, kind.itemsize * start, strides)
