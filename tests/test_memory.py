"""Where results and arenas lie in memory."""

from __future__ import annotations

import numpy as np

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
