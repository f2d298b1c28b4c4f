"""Rooflines: what kernels need, counted by hand, and what machines do, as far as it is certain."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import tilewright as tw
from tilewright import roofline
from tilewright.roofline import Rates, Work, work_of
from tilewright.runtime import jit
from tilewright.target import host

RATES = Rates(
    1, f32=100.0, f64=50.0, i8=400.0, bf16=0.0, l2=10.0, l3=5.0, dram=1.0, sizes=(64, 1024)
)


def work(f, *args) -> Work:
    """The work of a function that is one kernel."""
    (kernel,) = tw.compile(f).lower(*args).kernels
    return work_of(kernel)


def ones(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def test_products_count_a_multiply_and_an_add_for_each_term():
    assert work(lambda a, b: a @ b, ones(3, 5), ones(5, 7)) == Work(
        {"f32": 2 * 3 * 5 * 7}, 4 * (3 * 5 + 5 * 7 + 3 * 7)
    )


def test_doubles_count_against_the_peak_of_doubles():
    x = ones(6, dtype=np.float64)
    assert work(lambda a, b: a * b, x, x) == Work({"f64": 6}, 8 * 18)


@pytest.mark.parametrize(
    ("dtype", "unit", "wide"), [(np.int8, "i8", np.int32), (ml_dtypes.bfloat16, "bf16", np.float32)]
)
def test_products_of_narrow_numbers_count_against_the_narrow_peak(dtype, unit, wide):
    def f(a, b):
        return a.astype(wide) @ b.astype(wide)

    found = work(f, ones(4, 8, dtype=dtype), ones(8, 4, dtype=dtype))
    assert found.operations == {unit: 2 * 4 * 8 * 4}


def test_what_depends_on_fewer_axes_is_computed_less_often():
    def f(x, y):
        return x * np.sqrt(y)[:, None]

    root = 2 * tw.compile(np.sqrt).lower(ones(3)).kernels[0].body[0].value.op.cost
    assert work(f, ones(3, 10), ones(3)).operations == {"f32": 3 * 10 + 3 * root}


def test_only_what_is_touched_is_moved():
    assert work(lambda x: x[2:5] + 1, ones(1000)).moved == 4 * (3 + 3)
    # Each element once, however often the window passes over it.
    assert work(lambda x: x[2:] + x[1:-1] + x[:-2], ones(1000)).moved == 4 * (1000 + 998)
    assert work(lambda x, r: x + r, ones(50, 4), ones(4)).moved == 4 * (200 + 4 + 200)


def test_scratch_memory_is_not_moved():
    found = work(lambda x: x / np.exp(x).sum(axis=1, keepdims=True), ones(8, 64))
    assert found.moved == 4 * 2 * 8 * 64


def test_no_elements_no_work():
    found = tw.compile(lambda x: x + 1).lower(ones(0, 3)).roofline(threads=1)
    assert (found.kernels, found.seconds) == ((), 0)


def test_a_bound_is_the_larger_of_computing_and_moving():
    assert Work({"f32": 1000}, 10).bound(RATES) == (10.0, "flop")
    assert Work({"f32": 10}, 50).bound(RATES) == (5.0, "l2")
    assert Work({"f32": 10}, 500).bound(RATES) == (100.0, "l3")
    assert Work({"f32": 10}, 5000).bound(RATES) == (5000.0, "dram")
    assert Work({"f32": 100, "f64": 100, "i8": 400}, 0).bound(RATES) == (4.0, "flop")


def test_without_an_instruction_float32_does_the_work():
    assert Work({"bf16": 300}, 0).bound(RATES) == (3.0, "flop")


def test_own_caches_add_up():
    two = replace(RATES, threads=2)
    assert two.bandwidth(100) == ("l2", 10.0)
    assert RATES.bandwidth(100) == ("l3", 5.0)


def test_this_machine_computes_and_reads():
    rates = roofline.measured(1)
    assert roofline.measured(1) is rates
    assert min(rates.f32, rates.f64, rates.l2, rates.l3, rates.dram) > 0
    narrow = {unit: roofline._multiply(host(), unit) for unit in ("i8", "bf16")}
    assert {unit: getattr(rates, unit) > 0 for unit in narrow} == {
        unit: m is not None for unit, m in narrow.items()
    }


def test_this_machine_computes_now():
    """As `measured` counts: no more than a little above the best there was."""
    for threads in (1, 2):
        assert 0 < roofline.multiplying(threads) < 2 * threads * roofline.measured(1).f32


def test_narrow_vectors_are_measured_with_what_the_machine_has():
    plain = replace(host(), features="+sse2", cpu="x86-64", vector_bytes=16)
    assert roofline._multiply(plain, "i8") is None
    assert roofline._multiply(plain, "bf16") is None
    assert roofline._multiply(plain, "f32").name == "llvm.fmuladd.v4f32"
    assert roofline._multiply(plain, "f64").operations == 4


@pytest.mark.skipif(not host().triple.startswith("x86"), reason="reads x86 assembly")
@pytest.mark.parametrize("unit", ["f32", "f64", "i8", "bf16"])
def test_peaks_are_measured_in_registers(unit):
    """A loop that touches memory, or does less than was counted, is not at the peak."""
    m = roofline._multiply(host(), unit)
    if m is None:
        pytest.skip(f"no instruction for {unit}")
    text, sums = roofline._multiplying(host(), m)
    lines = [x.split("#")[0].split() for x in jit.assembly(text, host()).splitlines()]
    lines = [x for x in lines if x]
    end = next(i for i, x in enumerate(lines) if x[0].startswith("j"))
    start = lines.index([f"{lines[end][1]}:"])
    loop = lines[start + 1 : end]
    assert len(loop) == sums + 2  # and the counter
    assert not any("(" in word for x in loop for word in x)


def test_a_program_prints_its_bounds():
    def layer(x, w):
        return np.maximum(x @ w, 0)

    lowered = tw.compile(layer).lower(ones(64, 32), ones(32, 16))
    found = lowered.roofline(threads=1)
    assert found.seconds == sum(w.bound(found.rates)[0] for _, w in found.kernels)
    head, row, total = str(found).splitlines()
    assert head.split() == ["kernel", "operations", "bytes", "per", "byte", "least", "us", "roof"]
    assert row.split()[:3] == [lowered.kernels[0].name, "6.656e+04", "1.434e+04"]
    assert total.startswith("least time on 1 thread: ")
