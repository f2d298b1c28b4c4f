"""Exponentials by a table: its operations on machines with and without them, and accuracy."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright as tw
from tilewright import expr as E
from tilewright import interpret
from tilewright.codegen import llvm_values
from tilewright.codegen.libm import expand
from tilewright.codegen.libm_tables import exp_of_multiple
from tilewright.dtypes import float32, uint32
from tilewright.scalars import MACHINE, TABLED
from tilewright.target import Target


def evaluated(root: E.Expr, i: E.Axis, values: dict[E.Buffer, np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return interpret.evaluate([root], [i], values)[0]


def test_the_table_is_chosen_from_alike_without_it() -> None:
    codes = np.random.default_rng(3).integers(0, 2**32, 999, dtype=np.uint32)
    i = E.axis("i", len(codes))
    code = E.Buffer("code", uint32, (len(codes),))
    (root,) = expand([E.apply("sixteenth_power", code[i], dtype=float32)])
    got = evaluated(root, i, {code: codes})
    assert np.array_equal(got, MACHINE["sixteenth_power"].numpy(codes))
    assert np.array_equal(got, (2.0 ** ((codes & 15) / 16)).astype(np.float32))


def test_scaling_by_the_whole_part_of_sixteenths_is_alike_without_it() -> None:
    rng = np.random.default_rng(4)
    n = (rng.integers(-150 * 16, 128 * 16, 5000) / 16).astype(np.float32)
    x = rng.uniform(1, 2, len(n)).astype(np.float32)
    i = E.axis("i", len(n))
    buffers = [E.Buffer(name, float32, (len(n),)) for name in "xn"]
    (root,) = expand([E.apply("scale_floor", *(b[i] for b in buffers))])
    got = evaluated(root, i, dict(zip(buffers, (x, n), strict=True)))
    assert np.array_equal(got, MACHINE["scale_floor"].numpy(x, n))
    assert np.array_equal(got, np.ldexp(x, np.floor(n).astype(np.int32)))


@pytest.mark.parametrize("factor", [1.0, -2.0, 0.3, -1.5957691216, 100.0])
def test_exponentials_of_multiples_are_within_a_unit_and_a_half(factor: float) -> None:
    x = np.linspace(-87 / abs(factor), 87 / abs(factor), 200_001).astype(np.float32)
    i = E.axis("i", len(x))
    buffer = E.Buffer("x", float32, (len(x),))
    got = evaluated(exp_of_multiple(buffer[i], factor), i, {buffer: x})
    exact = np.exp(x.astype(np.float64) * factor)
    assert np.max(np.abs(got - exact) / np.spacing(exact.astype(np.float32))) < 1.5


def test_exponentials_of_a_whole_range_are_within_a_unit() -> None:
    x = np.arange(0, 0x42B17217, 997, dtype=np.uint32).view(np.float32)
    x = np.concatenate([x, -x])
    got, exact = tw.compile(np.exp)(x), np.exp(x.astype(np.float64))
    assert np.max(np.abs(got - exact) / np.spacing(exact.astype(np.float32))) < 1


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 15, 17, 100])
def test_rows_of_any_length_come_to_the_same_bits(n: int) -> None:
    x, f = np.linspace(-20, 20, 512).astype(np.float32), tw.compile(np.exp)
    assert np.array_equal(f(x[:n].copy()), f(x)[:n])


@pytest.mark.parametrize("lanes", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("machine, features, instruction", [
    ("x86_64", "+avx512f,+avx512vl,+avx2", "llvm.x86.avx512.permvar.sf.512"),
    ("x86_64", "+avx2", "llvm.x86.avx2.permps"),
    ("aarch64", "", "llvm.aarch64.neon.tbl4.v16i8"),
])  # fmt: skip
def test_a_look_up_permutes_registers(
    lanes: int, machine: str, features: str, instruction: str
) -> None:
    emitter = llvm_values.Emitter()
    emitter.native = llvm_values.native_operations(Target(machine, "", features, 32))
    place = llvm_values.Operand("%p", uint32, lanes)
    found = emitter.apply("sixteenth_power", [place], float32)
    assert (found.dtype, found.lanes) == (float32, lanes)
    assert any(instruction in line for line in emitter.lines)
    assert (emitter.native >= TABLED) == ("+avx512f" in features)
