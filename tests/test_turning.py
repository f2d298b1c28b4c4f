"""Square tiles turned by functions that programs share: when they are called, and what they do."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtypes
from tilewright.codegen import llvm, turning
from tilewright.expr import Buffer, as_index, axis, literal
from tilewright.loops import Alloc, Flip, Function, Program, Stmt, Store, block, loop
from tilewright.runtime import cache, executable, jit, shared
from tilewright.target import NAMED, host

N = {size: max(host().vector_bytes // size, 2) for size in (4, 8)}
"""Rows of the tiles that fill this machine's registers."""
DTYPES = [dtypes.float32, dtypes.int32, dtypes.uint32, dtypes.float64, dtypes.int64]


def copying(dtype, rows, columns, start, n=None, scale=None):
    """A program that copies the tile of a matrix [rows, columns] at `start` to one of the turned
    shape, at the mirrored place."""
    n = n or N[dtype.itemsize]
    a = Buffer("a", dtype, (rows, columns), "input")
    b = Buffer("b", dtype, (columns, rows), "output")
    tile = Buffer("tile", dtype, (n, n), "registers")
    (u, v), (y, z) = (axis("u", n), axis("v", n)), (axis("y", n), axis("z", n))
    value = a[u + start[0], v + start[1]]
    read = Store(tile, (u, v), value if scale is None else value * scale)
    write = Store(b, (y + start[1], z + start[0]), tile[y, z])

    def vectors(s: Stmt, outer, inner) -> Stmt:
        return loop(outer, loop(inner, s, kind="vector", lanes=n), kind="unroll")

    body = block(Alloc(tile), vectors(read, u, v), Flip(tile), vectors(write, y, z))
    return Program((Function("copying", (a, b), body),))


def copying_part(dtype, rows, columns, n):
    """A program that copies a matrix [rows, columns] to one of the turned shape by way of a tile of
    `n` rows, whose other rows are zeros."""
    a = Buffer("a", dtype, (rows, columns), "input")
    b = Buffer("b", dtype, (columns, rows), "output")
    tile = Buffer("tile", dtype, (n, n), "registers")
    (u, v), (y, z) = (axis("u", rows), axis("v", columns)), (axis("y", columns), axis("z", rows))

    def row(s: Stmt, inner) -> Stmt:
        return loop(inner, s, kind="vector", lanes=n)

    read = loop(u, row(Store(tile, (u, v), a[u, v]), v), kind="unroll")
    zeros = [row(Store(tile, (as_index(k), v), literal(0, dtype)), v) for k in range(rows, n)]
    write = loop(y, row(Store(b, (y, z), tile[y, z]), z), kind="unroll")
    return Program(
        (Function("copying", (a, b), block(Alloc(tile), read, *zeros, Flip(tile), write)),)
    )


def run(program, x, shape):
    name = f"turning_{id(program)}"
    code = jit.object_code(llvm.named(llvm.print_program(program, host()), name), host())
    out = np.zeros(shape, x.dtype)
    loaded = executable.load([code], name, host())
    loaded.call(jit.pointers([x.ctypes.data, out.ctypes.data]))
    return out, code


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [(0, 0), (3, 5)])
def test_a_tile_is_copied_turned(dtype, start):
    n = N[dtype.itemsize]
    rows, columns = n + 7, n + 9
    x = np.arange(rows * columns).astype(dtype).reshape(rows, columns)
    program = copying(dtype, rows, columns, start)
    out, code = run(program, x, (columns, rows))
    expected = np.zeros_like(out)
    here, there = (slice(s, s + n) for s in start)
    expected[there, here] = x[here, there].T
    np.testing.assert_array_equal(out, expected)
    shape = turning.tile(host(), dtype, n)
    if shape is not None:
        assert llvm.print_program(program, host()).count(f"call void @{shape.copy}(") == 1
        assert set(shared.symbols(code, host())) == {shape.copy}


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.int64])
@pytest.mark.parametrize("times", [1, 2])
def test_parts_of_tiles_are_copied_turned(dtype, times):
    """Tiles of twice as many rows as a register has lanes consist of four."""
    n = N[dtype.itemsize] * times
    shape = turning.part_of(host(), dtype, n)
    for rows, columns in [(n, n), (n, n - 2), (n - 2, n), (2, n // 2 + 1), (n - 1, 2)]:
        x = np.arange(rows * columns).astype(dtype).reshape(rows, columns)
        program = copying_part(dtype, rows, columns, n)
        out, code = run(program, x, (columns + 2, rows))
        np.testing.assert_array_equal(out[:columns], x.T)
        assert not out[columns:].any()
        if shape is not None:
            part = any(k % shape.n for k in (rows, columns))
            assert (shape.part in shared.symbols(code, host())) == part
            assert (turning.IN_REGISTERS in llvm.print_program(program, host())) is False


def test_a_part_touches_no_other_memory():
    """The matrix ends where the process's memory does, before or behind it."""
    page = mmap.PAGESIZE
    for rows, columns in [(3, 2), (N[4], N[4] - 2)]:
        x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
        program = copying_part(dtypes.float32, rows, columns, N[4])
        name = f"turning_part_{id(program)}"
        code = jit.object_code(llvm.named(llvm.print_program(program, host()), name), host())
        call = executable.load([code], name, host()).call
        for first in (page, 2 * page - x.nbytes):
            memory = mmap.mmap(-1, 3 * page)
            base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            protect = ctypes.CDLL(None, use_errno=True).mprotect
            assert not protect(ctypes.c_void_p(base), page, 0)
            assert not protect(ctypes.c_void_p(base + 2 * page), page, 0)
            ctypes.memmove(base + first, x.ctypes.data, x.nbytes)
            out = np.zeros((columns, rows), np.float32)
            call(jit.pointers([base + first, out.ctypes.data]))
            np.testing.assert_array_equal(out, x.T)
            assert not protect(ctypes.c_void_p(base), 3 * page, mmap.PROT_READ | mmap.PROT_WRITE)


def test_what_is_computed_on_the_way_is_no_copy():
    dtype, n = dtypes.float32, N[4]
    x = np.arange(n * n, dtype=np.float32).reshape(n, n)
    program = copying(dtype, n, n, (0, 0), scale=2)
    assert f"{turning.PREFIX}.copy" not in llvm.print_program(program, host())
    np.testing.assert_array_equal(run(program, x, (n, n))[0], 2 * x.T)


def test_smaller_tiles_are_turned_in_line():
    for name in ("sse2", "neon"):
        assert not turning.functions(NAMED[name])
    program = copying(dtypes.float32, 4, 4, (0, 0), n=4)
    assert turning.PREFIX not in llvm.print_program(program, NAMED["sse2"])
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(run(program, x, (4, 4))[0], x.T)


def test_functions_are_valid_and_loaded_once():
    for name, printed in turning.functions(host()).items():
        assert f"@{name}(" in printed() and printed() == shared.text(name, host())
        assert shared.address(name, host()) == shared.address(name, host())


def test_what_is_on_disk_is_not_printed_again(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    printed = []

    def text() -> str:
        printed.append("module")
        return "define void @module() {\n  ret void\n}\n"

    first, second = (cache.named_object("a module", host(), text) for _ in range(2))
    assert first == second and printed == ["module"]
    assert cache.named_object("another", host(), text) == first and len(printed) == 2


def test_transposed_copies_of_any_shape():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (16, 16), (17, 31), (33, 64), (100, 7), (5, 48, 80)):
        x = rng.standard_normal(shape).astype(np.float32)
        f = tw.compile(lambda x: np.swapaxes(x, -1, -2) + 0)
        np.testing.assert_array_equal(f(x), np.swapaxes(x, -1, -2))
