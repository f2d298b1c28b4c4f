"""Memory for results and for arenas.

Knows that fresh pages cost more than most kernels: large results come from blocks whose last user
is gone. Refuses to know shapes beyond their size. A block is an ordinary NumPy array of bytes;
results are views of it, so its reference count tells when it is free, and nothing needs a
finaliser.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

import numpy as np

from tilewright.errors import OutOfMemory

LARGE: Final = 64 << 10
"""From this many bytes on a result is recycled; below, NumPy's own allocator is faster."""
KEPT_BYTES: Final = 1 << 30
"""Free blocks kept for reuse, in total."""
ALIGN: Final = 64

_lock = threading.Lock()
_blocks: dict[int, list[Any]] = {}
_total = 0


def _rounded(nbytes: int) -> int:
    """Size classes an eighth apart: at most 12.5 % of a block is unused."""
    step = max(4096, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


def block(nbytes: int) -> Any:
    """`nbytes` bytes aligned to a cache line, as a uint8 array; contents are arbitrary."""
    global _total
    size = _rounded(nbytes + ALIGN)
    with _lock:
        found = None
        for candidate in _blocks.setdefault(size, []):
            # The list, the loop variable and getrefcount's argument: nobody else holds it.
            if sys.getrefcount(candidate) == 3:
                found = candidate
                break
        if found is None:
            try:
                found = np.empty(size, np.uint8)
            except MemoryError:
                raise OutOfMemory(nbytes) from None
            if _total + size <= KEPT_BYTES:
                _blocks[size].append(found)
                _total += size
    start = -found.ctypes.data % ALIGN
    return found[start : start + nbytes]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An uninitialised array for a result."""
    nbytes = dtype.itemsize
    for n in shape:
        nbytes *= n
    if nbytes < LARGE:
        return np.empty(shape, dtype)
    return block(nbytes).view(dtype).reshape(shape)
