"""Memory for results and for arenas, and where an array's elements are.

Knows that fresh pages cost more than most kernels: large results come from blocks whose last user
is gone, and blocks share huge pages where the system has them. Refuses to know shapes beyond their
size. A block is an ordinary NumPy array of bytes; results are views of it, so its reference count
tells when it is free, and nothing needs a finaliser.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from tilewright import forks
from tilewright.errors import OutOfMemory

LARGE: Final = 64 << 10
"""From this many bytes on a result is recycled; below, NumPy's own allocator takes less memory: a
block is whole pages."""
KEPT_BYTES: Final = 1 << 30
"""Blocks kept for reuse, in total, free ones and ones in use."""
LOOKS: Final = 16
"""How many blocks a call looks at: who keeps thousands of results should not wait for a look at
all of them. The next call goes on behind them, so what was given back is found in the end."""
ALIGN: Final = 4096
"""Blocks start on a page. NumPy's large arrays start 16 bytes into one: a result that started a
line or two further on would have its stores taken for what the next loads read, as processors
compare the places inside pages first (`docs/notes/stores.md`)."""

HUGE_PAGE: Final = 2 << 20
"""Bytes of a page that costs as much as 120 small ones, which are 480 KB."""
SHARED: Final = 512 << 10, 16 << 20
"""Blocks from so many bytes on lie side by side in huge pages, up to so many: NumPy asks for huge
pages for what is as large as two, but begins and ends in small ones."""
STRETCH: Final = 32 << 20
"""Bytes that are taken at once for such blocks. They are addresses: what is not written to costs
no memory."""

LINE: Final = 64
"""Small arrays start on a cache line."""

_lock = threading.Lock()
_blocks: dict[int, list[Any]] = {}
_hands: dict[int, int] = {}
"""Where among the blocks of a size the next look for a free one begins."""
_total = 0
_stretch: list[Any] = []
"""What is left of the stretch that blocks are taken from, if there is one."""


@forks.in_child
def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


def _slow_address(a: Any) -> int:
    return int(a.__array_interface__["data"][0])


def _fast_address() -> Callable[[Any], int]:
    """Reading the pointer field of NumPy's array struct takes a third of the time of asking for
    it. Where the struct looks otherwise than in CPython builds known to us, we ask."""
    pointer = ctypes.c_void_p.from_address
    head = object.__basicsize__

    def address(a: Any) -> int:
        return pointer(id(a) + head).value or 0

    probes = [np.zeros(3), np.arange(10)[4:], np.zeros((2, 3))[1:]]
    known = sys.implementation.name == "cpython" and ctypes.sizeof(ctypes.c_void_p) == 8
    works = known and all(address(a) == _slow_address(a) for a in probes)
    return address if works else _slow_address


address: Final = _fast_address()
"""The address of an array's first element."""


def _rounded(nbytes: int) -> int:
    """Size classes an eighth apart: at most 12.5 % of a block is unused."""
    step = max(4096, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


def recycled(nbytes: int) -> Any:
    """A block with room for `nbytes` bytes from a page on that nobody uses and that is kept as long
    as the process; None if no more can be kept. (Native code has the addresses of such blocks: one
    reference more is counted than there is.)"""
    global _total
    size = _rounded(nbytes + ALIGN)
    with _lock:
        kept, hand = _blocks.setdefault(size, []), _hands.get(size, 0)
        for k in range(hand, hand + min(len(kept), LOOKS)):
            candidate = kept[k % len(kept)]
            # The list, the one for ever, the variable and getrefcount's argument.
            if sys.getrefcount(candidate) == 4:
                _hands[size] = k % len(kept)
                return candidate
        _hands[size] = (hand + LOOKS) % len(kept) if kept else 0
        if _total + size > KEPT_BYTES:
            return None
        found = _new(nbytes, SHARED[0] <= size <= SHARED[1])
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(found))
        kept.append(found)
        _total += size
        return found


def _new(nbytes: int, shared: bool) -> Any:
    size = _rounded(nbytes + ALIGN)
    try:
        return _cut(size) if shared else np.empty(size, np.uint8)
    except MemoryError:
        raise OutOfMemory(nbytes) from None


def _block(nbytes: int) -> tuple[Any, int]:
    """A block with room for `nbytes` bytes that nobody uses, and where its first page begins."""
    found = recycled(nbytes)
    if found is None:
        found = _new(nbytes, shared=False)
    return found, -address(found) % ALIGN


def _cut(size: int) -> Any:
    """A block that is kept, after the last one. It is an array of its own, no view of the stretch:
    NumPy has views of views refer to what is below both, and who refers to a block uses it."""
    rest = _stretch.pop() if _stretch else np.empty(0, np.uint8)
    if len(rest) < size:
        fresh = np.empty(STRETCH + HUGE_PAGE, np.uint8)
        rest = fresh[-address(fresh) % HUGE_PAGE :]
    _stretch.append(rest[size:])
    return np.frombuffer(memoryview(rest[:size]), np.uint8)


def block(nbytes: int) -> Any:
    """`nbytes` bytes from the start of a page on, as a uint8 array; contents are arbitrary."""
    found, start = _block(nbytes)
    return found[start : start + nbytes]


def together(results: Sequence[tuple[tuple[int, ...], np.dtype[Any], int]]) -> list[Any]:
    """Uninitialised arrays for results, shapes and dtypes with bytes, that live as long as each
    other: in one block, large ones from the start of a page on."""
    starts, end = list[int](), 0
    for _, _, nbytes in results:
        step = ALIGN if nbytes >= LARGE else LINE
        starts.append(-(-end // step) * step)
        end = starts[-1] + nbytes
    room = block(end)
    return [np.ndarray(s, d, room, at) for (s, d, _), at in zip(results, starts, strict=True)]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Any:
    """An uninitialised array for a result of so many bytes."""
    if nbytes < LARGE:
        return np.empty(shape, dtype)
    found, start = _block(nbytes)
    return np.ndarray(shape, dtype, found, start)
