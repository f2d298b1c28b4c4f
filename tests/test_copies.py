"""Constants that are put into another order are moved as the kernel of the block would fill it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from tilewright import dtypes
from tilewright import kernel as kernels
from tilewright.expr import Apply, Axis, Buffer, Expr, Load, apply, as_index, axis, loads_in, static
from tilewright.kernel import Assign, Kernel
from tilewright.runtime.preparation import move
from tilewright.transforms.copies import Copy, Part, copied
from tilewright.transforms.packing import Block, panels, whole
from tilewright.transforms.tensorize import FLIPPED, WORD

TYPES = [np.bool_, np.int8, np.float16, dtypes.bfloat16, np.float32, np.int64, np.complex128]


def elements(shape: Sequence[int], dtype: Any) -> Any:
    """Values that are all alike in no two places, as far as the type goes."""
    return np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype)


def both(block: Block, source: Any) -> tuple[Any, Any]:
    """What the block's kernel puts into it, and what its copy does."""
    b, (buffer,) = block.buffer, {e.buffer for e in loads_in(block.value)}
    kernel = Kernel("fill", block.axes, (Assign(b, block.axes, (), block.value),))
    shape = tuple(static(n) for n in b.shape)
    found = [np.full(shape, 77).astype(b.dtype) for _ in range(2)]
    kernels.evaluate(kernel, {buffer: source, b: found[0]})
    copy = copied(block, 0, 1)
    assert copy is not None
    assert Copy.read(iter(copy.numbers())) == copy
    move(copy, source, found[1])
    return found[0], found[1]


@given(
    st.sampled_from(TYPES),
    st.permutations(range(3)),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from([1, 2, 4, 5]),
)
def test_panels(dtype: Any, order: list[int], extents: tuple[int, int, int], chunk: int) -> None:
    """Whole ones, and the last one, which is filled up with zeros."""
    axes = [axis(f"a{k}", n) for k, n in enumerate(extents)]
    outer, summed, a = axes
    shape = tuple(extents[k] for k in order)
    read = Load(Buffer("c", np.dtype(dtype), shape), tuple(axes[k] for k in order), None)
    filled, moved = both(panels(read, [outer], [summed], a, chunk), elements(shape, dtype))
    np.testing.assert_array_equal(filled, moved)


@pytest.mark.parametrize("dtype", TYPES)
def test_matrices_with_lengthened_rows(dtype: Any) -> None:
    """What lies between the rows is nobody's, and stays as it was."""
    i, k = axis("i", 12), axis("k", 4096)
    read = Load(Buffer("c", np.dtype(dtype), (4096, 12)), (k, i), None)
    block = whole(read, [i, k])
    assert block is not None and static(block.buffer.shape[-1]) > 4096
    filled, moved = both(block, elements((4096, 12), dtype))
    np.testing.assert_array_equal(filled, moved)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, dtypes.bfloat16])
@pytest.mark.parametrize("depth", [32, 33, 38])
def test_words_in_products(dtype: Any, depth: int, rng: np.random.Generator) -> None:
    """Products that read two or four numbers at once, also where the last word is no whole one."""
    low = 0 if dtype is np.uint8 else -50
    x, w = (rng.integers(low, 50, s).astype(dtype) for s in ((24, depth), (depth, 70)))
    wide = np.int32 if np.dtype(dtype).itemsize == 1 else np.float32
    c = tw.constant(w)
    f = tw.compile(lambda x: np.matmul(x, c, dtype=wide), threads=1)
    np.testing.assert_array_equal(f(x), x.astype(wide) @ w.astype(wide))


@pytest.mark.parametrize("width", [12, 11])
@pytest.mark.parametrize(
    "dtype, op", [(np.int8, WORD), (np.int8, FLIPPED), (np.uint8, FLIPPED), (np.uint16, WORD)]
)
def test_words(dtype: Any, op: Any, width: int) -> None:
    """Numbers side by side, the sign bits of bytes flipped, and words beyond an end."""
    size = np.dtype(dtype).itemsize
    k, o, v = axis("k", 3), axis("o", 3), axis("v", 4)
    source, at, count = Buffer("c", np.dtype(dtype), (12, width)), o * 4 + v, 4 // size
    guard = apply("lt", at, as_index(width)) if width % 4 else None
    loads = [Load(source, (k * count + i, at), guard) for i in range(count)]
    buffer = Buffer("b", dtypes.uint32, (3, 3, 4))
    word = Apply(op, tuple(loads), dtypes.uint32)
    block = Block(buffer, (o, k, v), word, Load(buffer, (o, k, v), None))
    values = elements((12, width), dtype) + np.array(100, dtype)
    filled, moved = both(block, values)
    np.testing.assert_array_equal(filled, moved)


def guarded(guard: Expr | None, index: Expr, axes: tuple[Axis, ...]) -> Block:
    buffer, value = Buffer("b", dtypes.float32, (4, 8)), Buffer("c", dtypes.float32, (64,))
    return Block(buffer, axes, Load(value, (index,), guard), Load(buffer, axes, None))


def test_what_is_more_than_moving_has_no_copy() -> None:
    o, v, other = axis("o", 4), axis("v", 8), axis("w", 3)
    at = o * 8 + v
    assert copied(guarded(None, at, (o, v)), 0, 1) is not None
    assert copied(guarded(apply("lt", at, as_index(30)), at, (o, v)), 0, 1) is not None
    for guard in (
        apply("lt", as_index(3), at),
        apply("lt", o * 9 + v, as_index(30)),
        apply("lt", o * 8 + v * 2, as_index(30)),
        apply("lt", at + 1, as_index(30)),
        apply("lt", o + v, as_index(3)),
        apply("eq", at, as_index(3)),
        apply("lt", o * 8 + other, as_index(30)),
    ):
        assert copied(guarded(guard, at, (o, v)), 0, 1) is None
    for index in (v - o, o // 2 + v, o * 8 + v + other, o * v):
        assert copied(guarded(None, index, (o, v)), 0, 1) is None
    plain = guarded(None, at, (o, v))
    scaled = Block(plain.buffer, plain.axes, plain.value * 2, plain.load)
    assert copied(scaled, 0, 1) is None


def test_nothing_is_moved_beyond_an_array() -> None:
    a, b = np.zeros(10, np.float32), np.zeros(10, np.float32)
    for part in (Part((11,), 0, (1,), 0, (0,)), Part((5,), 6, (1,), 0, (1,)),
                 Part((4, 3), 0, (3, 0), 0, (0, 5)), Part((2,), 0, (1,), 9, (1,))):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            move(Copy(0, 1, 4, False, False, (part,)), a, b)
