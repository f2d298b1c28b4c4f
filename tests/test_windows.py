"""Windows that slide over padded arrays: they equal NumPy's sums tap by tap, read nothing outside
the array, and take no detours to what they read."""

from __future__ import annotations

import ctypes
import functools
import mmap
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import lax
from tilewright.codegen import multiply_add
from tilewright.target import host


@dataclass(frozen=True)
class Case:
    """A convolution of each channel on its own."""

    shape: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int] = (1, 1)
    channels: int = 2
    dtype: str = "float32"

    def compiled(self, threads: int = 1) -> Any:
        def depthwise(x: Any, w: Any) -> Any:
            return lax.conv_general_dilated(
                x, w, self.stride, self.pad, rhs_dilation=self.dilation,
                feature_group_count=self.channels,
            )  # fmt: skip

        return tw.compile(depthwise, threads=threads)

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(3)
        shapes = (1, self.channels, *self.shape), (self.channels, 1, *self.window)
        x, w = (rng.integers(-9, 10, s).astype(self.dtype) for s in shapes)
        return x, w

    def expected(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The sums of small whole numbers, which are exact."""
        padded = np.pad(x, ((0, 0), (0, 0), *self.pad))
        apart = [d * (k - 1) for d, k in zip(self.dilation, self.window, strict=True)]
        after = [n - a for n, a in zip(padded.shape[2:], apart, strict=True)]
        total = 0
        for i in range(self.window[0]):
            for j in range(self.window[1]):
                top, left = i * self.dilation[0], j * self.dilation[1]
                part = padded[:, :, top : top + after[0], left : left + after[1]]
                total = (
                    total
                    + part[..., :: self.stride[0], :: self.stride[1]]
                    * w[:, 0, i, j][None, :, None, None]
                )
        return np.asarray(total)


def same(size: int, window: int, stride: int, **more: Any) -> Case:
    """A square window with a border of half of it."""
    border = (window - 1) // 2
    return Case(
        (size, size), (window, window), (stride, stride), ((border, border),) * 2, **more
    )  # fmt: skip


CASES = [
    *(same(size, k, s) for size in (7, 14, 31, 56) for k in (3, 5) for s in (1, 2)),
    *(same(50, k, s) for k in (2, 3, 4, 5) for s in (3, 4, 5)),
    Case((33, 70), (3, 5), (1, 2), ((2, 0), (0, 3))),
    Case((20, 97), (2, 3), (2, 3), ((0, 1), (4, 4))),
    Case((17, 64), (1, 9), (1, 1), ((0, 0), (4, 4))),
    Case((40, 65), (3, 3), (2, 2), ((2, 2), (2, 2)), dilation=(2, 2)),
    Case((19, 130), (3, 3), (1, 2), ((1, 1), (3, 3)), dilation=(1, 3)),
    Case((9, 33), (3, 3), (1, 1), ((0, 1), (2, 0))),
    *(replace(same(37, 3, s), dtype=d) for s in (1, 2, 3) for d in ("float64", "int16", "int8")),
]


def spelled(c: Case) -> str:
    return "-".join("x".join(map(str, v)) for v in (c.shape, c.window, c.stride)) + f"-{c.dtype}"


@pytest.mark.parametrize("case", CASES, ids=spelled)
def test_windows_are_sums_of_taps(case: Case) -> None:
    x, w = case.operands()
    got = case.compiled()(x, w)
    assert got.dtype == case.expected(x, w).dtype
    np.testing.assert_array_equal(got, case.expected(x, w))


POOLS = [(w, s, b, n) for w in (2, 3, 5) for s in (1, 2, 3, 4) for b in (0, 1) for n in (9, 67)]


def pools_are_right(placed: Any) -> None:
    """The largest of each window, -inf outside the image."""
    rng = np.random.default_rng(5)
    for window, stride, border, n in POOLS:
        x = placed(-1 - rng.random((1, 2, n, n), dtype=np.float32))
        pads = ((0, 0), (0, 0), (border, border), (border, border))
        padded = np.pad(x, pads, constant_values=-np.inf)
        views = np.lib.stride_tricks.sliding_window_view(padded, (window, window), (2, 3))
        sizes, steps = (1, 1, window, window), (1, 1, stride, stride)
        pooled = functools.partial(
            lax.reduce_window, init_value=-np.inf, computation=lax.max,
            window_dimensions=sizes, window_strides=steps, padding=pads,
        )  # fmt: skip
        got = tw.compile(lambda x, pooled=pooled: pooled(x), threads=1)(x)
        np.testing.assert_array_equal(got, views[:, :, ::stride, ::stride].max((-2, -1)))


def test_pools_are_maxima_of_windows() -> None:
    pools_are_right(lambda x: x)


def test_threads_change_nothing() -> None:
    case = same(61, 5, 2, channels=24)
    x, w = case.operands()
    x = x + np.float32(0.1)
    np.testing.assert_array_equal(case.compiled(1)(x, w), case.compiled(2)(x, w))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padded_windows_are_neither_gathered_nor_copied(stride: int) -> None:
    case = same(56, 3, stride)
    lowered = case.compiled().lower(*case.operands())
    assert "masked.gather" not in str(lowered.llvm)
    assert "alloca" not in str(lowered.llvm)


def test_taps_of_a_row_share_its_vectors() -> None:
    """Four rows of results read nine rows: two vectors each, and one element for the third tap,
    where each tap on its own would read two vectors. What is picked from a row that two rows of
    results read is picked once."""
    case = same(64, 3, 2, channels=1)
    text = str(case.compiled().lower(*case.operands()).llvm)
    if multiply_add.SPREAD in multiply_add.native(host()):
        nest = text[text.index(" asm ") : text.index("vmovups %")]
        vectors, picked = re.findall(r"vmovups [^%]", nest), re.findall("vpermt2ps", nest)
        assert len(picked) == 9 * 3
    else:
        first = text[: text.index("store <")]
        vectors = re.findall(r"= (load <|call <[^>]*> @llvm.masked.load)", first)
    assert len(vectors) == 9 * 2


# -- nothing outside the array is touched ---------------------------------------------------------


def between_walls(x: np.ndarray, at_end: bool) -> np.ndarray:
    """The array in memory of its own, next to a page that nobody may touch."""
    page = mmap.PAGESIZE
    inner = -(-x.nbytes // page) * page
    memory = mmap.mmap(-1, inner + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for wall in (start, start + page + inner):
        assert libc.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(page), 0) == 0
    offset = page + (inner - x.nbytes if at_end else 0)
    copy = np.frombuffer(memory, x.dtype, x.size, offset).reshape(x.shape)
    copy[...] = x
    return copy


def run_between_walls() -> None:
    for case in CASES:
        x, w = case.operands()
        f = case.compiled()
        for at_end in (False, True):
            got = f(between_walls(x, at_end), between_walls(w, at_end))
            np.testing.assert_array_equal(got, case.expected(x, w))
    for at_end in (False, True):
        pools_are_right(lambda x, at_end=at_end: between_walls(x, at_end))


@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected by mprotect")
def test_nothing_outside_the_array_is_touched() -> None:
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__],
        check=False, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=600,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr


if __name__ == "__main__":
    run_between_walls()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "bool"])
@pytest.mark.parametrize("times", [2, 4, 16])
@pytest.mark.parametrize("n", [1, 7, 16, 29])
def test_repeated_elements_are_not_gathered(n: int, times: int, dtype: str) -> None:
    """Each element for several lanes, as gradients of pooling and enlarged images read them."""
    x = np.random.default_rng(0).integers(0, 2, (3, n)).astype(dtype)
    y = np.random.default_rng(1).standard_normal((3, n * times)).astype(np.float32)

    def enlarged(x, y):
        wide = np.broadcast_to(x[:, :, None], (3, n, times)).reshape(3, n * times)
        return np.where(y > 0, wide, wide + 1)

    f = tw.compile(options=tw.Options(verify=True))(enlarged)
    np.testing.assert_array_equal(f(x, y), enlarged(x, y))
    assert "masked.gather" not in str(f.lower(x, y).llvm)


def test_few_registers_leave_planes_alone() -> None:
    """Sixteen sums in sixteen registers: none are left for a few planes of them."""
    x, w, b = (
        np.random.default_rng(0).random(s, np.float32) for s in ((1, 43, 8, 8), (12, 43, 5, 5), 12)
    )

    def f(x, w, b):
        y = lax.conv_general_dilated(x, w, (2, 2), ((2, 2), (2, 2)))
        return np.maximum(y + b[:, None, None], 0)

    (schedule,) = tw.compile(f).lower(x, w, b).on("avx2").schedules.values()
    assert "Unroll" in str(schedule)


@pytest.mark.skipif(
    multiply_add.SPREAD not in multiply_add.native(host()), reason="no masks on this machine"
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("side", [7, 14, 21, 40])
@pytest.mark.parametrize("reach", [1, 2])
def test_windows_are_written_out(reach, side, dtype):
    """What is above, beside and below the array is zeros, in nests, too."""
    window = (2 * reach + 1,) * 2
    case = Case((side, side), window, (1, 1), ((reach, reach),) * 2, channels=3, dtype=dtype)
    x, w = case.operands()
    f = case.compiled()
    np.testing.assert_array_equal(f(x, w), case.expected(x, w))
    text = f.lower(x, w).llvm
    assert "asm sideeffect" in text
    assert dtype == "float64" or "llvm.fma" not in text
    x[:, :, 0, 0], x[:, :, -1, -1] = np.inf, np.nan
    np.testing.assert_array_equal(f(x, w), case.expected(x, w))


@pytest.mark.skipif(
    multiply_add.SPREAD not in multiply_add.native(host()), reason="no masks on this machine"
)
def test_neighbouring_windows_share_what_they_read():
    """The two halves of a row of 28 lie near one choice between it and zeros, above and below, and
    a channel's window is read before the loop over its rows."""
    case = Case((28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), channels=64)
    lowered = case.compiled().lower(*case.operands())
    text = lowered.llvm
    assert text.count("asm sideeffect") == 2
    assert lowered.asm.count("cmov") == 2
    loops = re.split(r"^\w+:$", text, flags=re.MULTILINE)
    assert [part.count("load float") for part in loops if "load float" in part] == [9]
    assert not any("load float" in part for part in loops if "asm sideeffect" in part)
