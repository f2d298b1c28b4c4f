"""What nests fetch of the panel that is multiplied next: all of it, each tile its share. And what
is fetched of streams."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtypes
from tilewright.codegen import multiply_add
from tilewright.codegen.fetching import FAR_BYTES, LINE_BYTES, STREAMS, ahead, once
from tilewright.codegen.multiply_add import WRITTEN
from tilewright.expr import Axis, axis, var
from tilewright.target import host
from tilewright.transforms.index_rules import Affine

written = pytest.mark.skipif(
    WRITTEN not in multiply_add.native(host()), reason="this machine's are not written out"
)
SIZE = 4


def fetched(
    k: int, width: int, tiles: tuple[int, ...], products: int = 28, gap: int = 0
) -> set[int] | None:
    """The lines of a matrix that all tiles of its first panel fetch: `k` steps of so many bytes."""
    panel, *rows = axis("panel", 5), *(axis("rows", n) for n in tiles)
    s = axis("k", k)
    form = Affine(((panel, (k * width + gap) // SIZE),), 0)
    steps, rounds = [(s.serial, width)], [(s.serial, k)]
    found = ahead(form, steps, SIZE, rounds, [panel, *rows], products)
    if found is None:
        return None
    ((_, step),) = found.steps
    lines: set[int] = set()
    for at in np.ndindex(tiles):
        where: dict[Axis, int] = {panel: 0, **dict(zip(rows, at, strict=True))}
        start = found.form.constant + sum(c * where[t] for t, c in found.form.terms)  # type: ignore[index]
        for i in range(k):
            first = (start * SIZE + i * step) // LINE_BYTES
            lines.update(range(first, first + found.lines))
    return lines


@pytest.mark.parametrize("width", [64, 128, 192, 256])
@pytest.mark.parametrize("tiles", [(), (2,), (3,), (7,), (16,), (32,), (4, 5)])
@pytest.mark.parametrize("k", [256, 501])
def test_all_of_the_next_panel_is_fetched_and_hardly_more(k, width, tiles):
    lines = fetched(k, width, tiles, 14 * width // LINE_BYTES)
    assert lines is not None
    panel = k * width
    assert lines >= set(range(-(-panel // LINE_BYTES), 2 * panel // LINE_BYTES))
    assert min(lines) >= panel // LINE_BYTES
    rounding = 1 + SIZE * int(np.prod(tiles)) / width  # steps are whole elements
    assert len(lines) <= rounding * panel / LINE_BYTES + 4


def test_what_is_read_at_once_is_not_fetched():
    assert fetched(512, 128, (), products=8) is None, "four cycles a line: memory decides"
    assert fetched(512, 128, (4,), products=8) is not None
    assert fetched(512, 128, (33,)) is None, "the first walk hardly matters"
    assert fetched(64, 64, (4,)) is None, "a page: a processor follows that"
    assert fetched(4096, 128, (4,)) is None, "two panels find no room"
    assert fetched(512, 128, (4,), gap=64) is None, "panels do not follow one another"


def test_rows_apart_are_no_panel():
    panel, s = axis("panel", 5), axis("k", 512)
    form = Affine(((panel, 32),), 0)  # columns of a matrix with rows of 640 bytes
    assert ahead(form, [(s.serial, 640)], SIZE, [(s.serial, 512)], [panel], 28) is None


def test_windows_are_walked_in_several_loops():
    panel, row, c, y = axis("panel", 5), axis("row", 4), axis("c", 64), axis("y", 3)
    form = Affine(((panel, 64 * 3 * 32),), 0)
    rounds = [(c.serial, 64), (y.serial, 3)]
    found = ahead(form, [(c.serial, 384), (y.serial, 128)], SIZE, rounds, [panel, row], 28)
    assert found is not None
    assert dict(found.steps) == {c.serial: 96, y.serial: 32}
    assert ahead(form, [(c.serial, 512), (y.serial, 128)], SIZE, rounds, [panel], 28) is None


@written
def test_products_with_constants_fetch():
    rng = np.random.default_rng(0)

    def fetches(rows: int, terms: int, columns: int) -> int:
        x, w = (rng.standard_normal(s).astype("f") for s in ((rows, terms), (terms, columns)))
        held = tw.constant(w)
        f = tw.compile(lambda x: x @ tw.numpy.asarray(held), threads=1)
        expected = x.astype(np.float64) @ w
        np.testing.assert_allclose(f(x), expected, rtol=1e-4, atol=1e-4 * terms**0.5)
        return f.lower(x).asm.count("prefetcht1")

    beyond = host().l2_bytes // (512 * 4)  # columns that the second level cache just holds
    assert fetches(49, 512, beyond) > 0
    assert fetches(49, 512, beyond - 12) > 0
    assert fetches(49, 64, 64) == 0


# -- streams ---------------------------------------------------------------------------------------

LARGE = 4 << 20
"""Elements of float32 that no second level cache holds."""


def llvm_of(f: Any, *args: Any) -> str:
    return str(tw.compile(f, threads=1).lower(*args).llvm)


def is_fetched(f: Any, *shapes: tuple[int, ...]) -> bool:
    return "prefetch" in llvm_of(f, *(np.zeros(s, np.float32) for s in shapes))


def test_streams_are_fetched_ahead() -> None:
    assert is_fetched(lambda x: np.sum(x * 2, axis=-1), (64, LARGE // 64))
    assert not is_fetched(lambda x: np.sum(x * 2, axis=-1), (64, 64)), "it is in a cache"
    assert not is_fetched(lambda x: np.sum(x * 2, axis=0), (2048, LARGE // 2048)), "across rows"


def test_several_streams_are_fetched_where_memory_is_waited_for() -> None:
    def sums(*x: Any) -> Any:
        return np.sum(np.sin(functools.reduce(np.add, x)))

    assert not is_fetched(sums, (LARGE // 2,), (LARGE // 2,))
    assert is_fetched(sums, (2 * LARGE,), (2 * LARGE,))
    assert not is_fetched(sums, *[(2 * LARGE,)] * (STREAMS + 1))


@written
def test_a_matrix_that_is_read_once_is_fetched_ahead() -> None:
    x, y = np.zeros((1, 4096), np.float32), np.zeros((64, 4096), np.float32)
    matrix = np.zeros((4096, 2048), np.float32)
    assert f"prefetcht0 {FAR_BYTES}(" in llvm_of(lambda x: x @ matrix, x)
    assert "prefetcht0" not in llvm_of(lambda y: y @ matrix, y), "each panel is read four times"


@written
def test_keys_and_values_that_are_read_once_are_fetched_ahead() -> None:
    q, k = np.zeros((1, 16, 1, 64), np.float32), np.zeros((1, 16, 1024, 64), np.float32)

    def attention(q: Any, k: Any, v: Any) -> Any:
        s = (q @ np.swapaxes(k, -1, -2)) / 8
        e = np.exp(s - np.max(s, axis=-1, keepdims=True))
        return (e / np.sum(e, axis=-1, keepdims=True)) @ v

    text = llvm_of(attention, q, k, k.copy())
    assert text.count("prefetcht0") >= 4 + 16, "the lines of a value, and of sixteen keys"
    assert "llvm.prefetch" not in text


def test_what_is_read_once() -> None:
    """Every loop moves it: itself, or a variable that gets its value inside."""
    i, j, v = axis("i", 5), axis("j", 7), var("v", dtypes.int64)
    assert once(Affine(((i, 70), (j, 10)), 0), [i, j], {})
    assert not once(Affine(((i, 70),), 0), [i, j], {})
    assert not once(Affine(((j, 70),), 0), [i, j], {})
    assert once(Affine(((j, 70),), 0), [axis("one", 1), j], {})
    assert once(Affine(((v, 70),), 0), [i, j], {v.serial: 2})
    assert not once(Affine(((v, 70),), 0), [i, j], {v.serial: 1}), "j comes after it"
    assert not once(Affine((), 0), [], {})
