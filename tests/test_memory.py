"""Where results and arenas lie in memory."""

from __future__ import annotations

import math
import sys
from typing import Any

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


def _native(f: Any, *args: Any) -> Any:
    """The result of a call that runs no Python, as far as calls do here."""
    for _ in range(10):
        f(*args)
    return f(*args)


def test_native_calls_share_no_block_that_somebody_uses() -> None:
    f = tw.compile(lambda x: x + 1)
    arrays = [np.full(memory.LARGE // 4 + 5, k, np.float32) for k in range(6)]
    _native(f, arrays[0])
    results = [f(x) for x in arrays]
    part = results[0][3:7]
    lost = results[1].ctypes.data
    del results[0], results[0]
    assert f(arrays[5]).ctypes.data == lost, "of the last blocks one is idle"
    for _ in range(20):
        f(arrays[5])
    assert (part == 1).all()
    for k, r in enumerate(results, 2):
        assert (r == k + 1).all() and r.base is not None
        assert r.flags.c_contiguous and r.flags.aligned and r.flags.writeable
        assert not r.flags.owndata and r.dtype == np.float32


def test_native_calls_leave_blocks_as_idle_as_they_were() -> None:
    """Large results and large planned memory, by turns and all at once."""
    f = tw.compile(lambda x, y: ((x @ y) @ x, x + y))
    x, y = np.random.default_rng(0).normal(size=(2, 300, 300)).astype(np.float32)
    whole, total = _native(f, x, y)
    np.testing.assert_allclose(whole, (x @ y) @ x, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(total, x + y)
    del whole, total
    idle = {id(b): sys.getrefcount(b) for found in memory._blocks.values() for b in found}
    kept = [f(x, y) for _ in range(5)]
    assert len({memory.address(r) for pair in kept for r in pair}) == 10
    for pair in kept:
        np.testing.assert_array_equal(pair[1], x + y)
    del kept, pair
    for found in memory._blocks.values():
        for b in found:
            assert sys.getrefcount(b) == idle.get(id(b), sys.getrefcount(b)) == 4


def test_native_calls_where_no_more_blocks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    f = tw.compile(lambda x, y: (x @ y) @ x)
    monkeypatch.setattr(memory, "KEPT_BYTES", 0)
    monkeypatch.setattr(memory, "_blocks", {})
    x, y = np.random.default_rng(0).normal(size=(2, 301, 301)).astype(np.float32)
    results = [_native(f, x, y) for _ in range(3)]
    assert not any(memory._blocks.values())
    assert len({memory.address(r) for r in results}) == 3
    for r in results:
        assert memory.address(r) % memory.ALIGN == 0
        np.testing.assert_array_equal(r, results[0])


def test_blocks_that_many_held_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a call looks at few of them."""
    for name, empty in (("_blocks", {}), ("_hands", {}), ("_total", 0)):
        monkeypatch.setattr(memory, name, empty)
    count = 10 * memory.LOOKS
    held = [memory.block(memory.LARGE) for _ in range(count)]
    ((_, blocks),) = memory._blocks.items()
    assert len(blocks) == count
    del held[::2]
    held += [memory.block(memory.LARGE) for _ in range(count // 2)]
    assert len(blocks) == count
    del held[:-1]
    alternating = [memory.block(memory.LARGE) for _ in range(count - 1)]
    assert len(blocks) == count == len({memory.address(b) for b in [*held, *alternating]})
