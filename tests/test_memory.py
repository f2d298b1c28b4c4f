"""Where results and arenas lie in memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tilewright as tw
from tilewright.runtime import memory


def test_large_results_start_on_a_page_whoever_makes_them() -> None:
    """The first calls go through Python, later ones do not."""
    f = tw.compile(lambda x: x + 1)
    x = np.zeros(memory.LARGE // 4 + 5, np.float32)
    for _ in range(20):
        assert f(x).ctypes.data % memory.ALIGN == 0


def test_blocks_have_the_room_they_say() -> None:
    for n in (1, 4095, 4096, 4097, 70_000, 1 << 20):
        block = memory.block(n)
        assert block.nbytes == n and memory.address(block) % memory.ALIGN == 0
        block[:] = 255
        assert block.base is not None and block.base.nbytes >= n


def test_blocks_share_stretches_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to one is not in another, and a block is used again when nobody has it."""
    for name, empty in (("_blocks", {}), ("_total", 0), ("_stretch", [])):
        monkeypatch.setattr(memory, name, empty)
    sizes = [*memory.SHARED, memory.STRETCH, 3 << 20, 5_000_000, (1 << 20) - 1]
    blocks = [memory.block(n - memory.ALIGN) for n in sizes]
    for k, block in enumerate(blocks):
        block[:] = k
    for k, block in enumerate(blocks):
        assert block.min() == block.max() == k
    places = {memory.address(b) for b in blocks}
    part = blocks[3][100:200]
    del blocks, block
    again = [memory.block(n - memory.ALIGN) for n in sizes]
    others = {memory.address(b) for b in again}
    assert len(others - places) == 1, "all but the one of which somebody holds a part"
    assert part.min() == part.max() == 3


def test_arrays_that_live_together_do_not_overlap() -> None:
    shapes = [(3,), (), (0,), (70_000,), (5, 7), (memory.LARGE,), (0, 4), (1,)]
    types = [np.float32, np.int8, np.float64, np.float64, np.int16, np.int8, np.int8, np.float64]
    made = [
        (s, np.dtype(t), math.prod(s) * np.dtype(t).itemsize)
        for s, t in zip(shapes, types, strict=True)
    ]
    arrays = memory.together(made)
    for k, a in enumerate(arrays):
        a[...] = k
    for k, (a, (shape, dtype, nbytes)) in enumerate(zip(arrays, made, strict=True)):
        assert (a.shape, a.dtype, a.base is arrays[0].base) == (shape, dtype, True)
        assert (a == k).all()
        assert memory.address(a) % (memory.ALIGN if nbytes >= memory.LARGE else memory.LINE) == 0
    assert [a.shape for a in memory.together([((0,), np.dtype(np.int8), 0)])] == [(0,)]
    assert memory.together([]) == []
