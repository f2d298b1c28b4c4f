"""Small matrices of narrow numbers: the tiles they make, the loops interpreted and printed without
registers for matrices, and with them where the machine has some."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from fuzz import random_schedule
from test_tensorize import BF16, SIGNS, VNNI, compiled, interpreted, numbers, product
from tilewright import dtypes
from tilewright.codegen import llvm
from tilewright.codegen.c_source import print_program
from tilewright.cost_model.spaces import space
from tilewright.errors import ScheduleError
from tilewright.expr import Buffer, Reduce, axis, cast
from tilewright.kernel import Assign, Kernel
from tilewright.loops import For, Function, Program, show_function, statements, verify
from tilewright.target import Target, _processor, host
from tilewright.transforms import matrices
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import loopify
from tilewright.transforms.schedule import Order, Schedule, Stage, Tensorize

AMX = replace(VNNI, features=VNNI.features + ",+amx-tile,+amx-int8,+amx-bf16")
has_matrices = "+amx-tile" in host().features.split(",")
here = pytest.mark.skipif(not has_matrices, reason="no registers for matrices")
SHAPES = [(32, 64, 32), (33, 70, 50), (5, 150, 70), (47, 129, 19), (16, 128, 16)]


def by_matrices(kernel: Kernel) -> Function:
    schedule = heuristic(kernel, AMX)
    function = loopify(kernel, schedule)
    verify(function)
    loops = [s for s in statements(function.body) if isinstance(s, For) and s.kind == "matrix"]
    assert loops, f"{schedule}\n{show_function(function)}"
    return function


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    kind = np.int64 if np.dtype(a.dtype).kind in "iu" else np.float64
    return a.astype(kind) @ b.astype(kind)


def text(function: Function, target: Target = AMX) -> str:
    return llvm.print_program(Program((function,)), target)


# -- loops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("types", [*SIGNS, (BF16, BF16)], ids=str)
def test_products_in_part(types: tuple[Any, Any], shape: tuple[int, int, int]) -> None:
    """Rows, columns and words that fill no matrix, interpreted and as ordinary loops."""
    m, k, n = shape
    a, b = numbers(types[0], (m, k)), numbers(types[1], (k, n), 1)
    kernel = product(*types, m, k, n)
    function = by_matrices(kernel)
    np.testing.assert_allclose(
        interpreted(kernel, function, a, b), exact(a, b), rtol=1e-5, atol=1e-5
    )
    without = replace(host(), features=host().features.replace("+amx", "-amx"))
    assert "@llvm.x86.tile" not in text(function, without)


def test_loops_without_registers_for_matrices() -> None:
    """A printer may run them as the ordinary loops they are."""
    a, b = numbers(np.int8, (33, 70)), numbers(np.int8, (70, 50), 1)
    function = by_matrices(product(np.int8, np.int8, 33, 70, 50))
    got = compiled(function, [a, b], np.zeros((33, 50), np.int32))
    assert np.array_equal(got, exact(a, b))
    assert "for (" in print_program(Program((function,)))


@pytest.mark.parametrize("turned", list(itertools.product((False, True), repeat=2)), ids=str)
def test_operands_along_either_axis(turned: tuple[bool, bool]) -> None:
    a, b = numbers(np.int8, (33, 70)), numbers(np.int8, (70, 50), 1)
    kernel = product(np.int8, np.int8, 33, 70, 50, turned)
    x, y = (np.ascontiguousarray(e.T if t else e) for e, t in zip((a, b), turned, strict=True))
    assert np.array_equal(interpreted(kernel, by_matrices(kernel), x, y), exact(a, b))


def test_long_sums_are_in_blocks() -> None:
    """Sums wait in memory between the blocks."""
    terms = 64 * (matrices.WHOLE + 3) + 5
    a, b = numbers(np.int8, (17, terms)), numbers(np.int8, (terms, 33), 1)
    kernel = product(np.int8, np.int8, 17, terms, 33)
    function = by_matrices(kernel)
    assert "tileloadd64(i8 0, " in text(function)
    assert np.array_equal(interpreted(kernel, function, a, b), exact(a, b))


def batched(kind: Any, shape: Sequence[int], summed_twice: bool) -> Kernel:
    """out[i,j] = sum[p,k](a[p,i,k] * b[p,k,j]), or one such product for each p."""
    p, i, k, j = (axis(n, extent) for n, extent in zip("pikj", shape, strict=True))
    a = Buffer("a", np.dtype(kind), (p.extent, i.extent, k.extent))
    b = Buffer("b", np.dtype(kind), (p.extent, k.extent, j.extent))
    value = cast(a[p, i, k], dtypes.int32) * cast(b[p, k, j], dtypes.int32)
    axes = (i, j) if summed_twice else (p, i, j)
    total = Reduce("sum", (p, k) if summed_twice else (k,), value)
    out = Buffer("out", dtypes.int32, tuple(x.extent for x in axes), "output")
    return Kernel("batched", axes, (Assign(out, axes, (), total),))


@pytest.mark.parametrize("summed_twice", [False, True])
@pytest.mark.parametrize("terms", [64, 70])
def test_several_products(terms: int, summed_twice: bool) -> None:
    kernel = batched(np.int8, (3, 20, terms, 36), summed_twice)
    a, b = numbers(np.int8, (3, 20, terms)), numbers(np.int8, (3, terms, 36), 1)
    want = exact(a, b)
    want = want.sum(0) if summed_twice else want
    assert np.array_equal(interpreted(kernel, by_matrices(kernel), a, b), want)


def test_random_schedules_with_matrices() -> None:
    """Any steps beside it: refused, or the same values."""
    kernel, rng = product(np.int8, np.int8, 6, 70, 17), np.random.default_rng(5)
    a, b = numbers(np.int8, (6, 70)), numbers(np.int8, (70, 17), 1)
    legal = 0
    for _ in range(60):
        steps = random_schedule(kernel, rng).steps
        try:
            function = loopify(kernel, Schedule((Tensorize("k", "tdpbssd"), *steps)))
        except ScheduleError:
            continue
        assert np.array_equal(interpreted(kernel, function, a, b), exact(a, b)), steps
        legal += 1
        if legal == 6:
            return
    assert legal >= 3, "hardly any random schedule is legal: the test says nothing"


# -- what is chosen ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "name"),
    [
        ((np.int8, np.int8), "tdpbssd"),
        ((np.uint8, np.uint8), "tdpbuud"),
        ((np.uint8, np.int8), "tdpbusd"),
        ((np.int8, np.uint8), "tdpbusd"),
        ((BF16, BF16), "tdpbf16ps"),
    ],
)
def test_the_heuristic_takes_matrices(types: tuple[Any, Any], name: str) -> None:
    kernel = product(*types, 64, 128, 64)
    schedule = heuristic(kernel, AMX)
    assert schedule.steps[0] == Tensorize("k", name)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert space(kernel, AMX).holes == ()


def test_what_is_too_small_or_turned_is_left_to_words() -> None:
    for m, k, n in ((2, 64, 512), (64, 64, 8), (8, 16, 32)):
        steps = heuristic(product(np.int8, np.int8, m, k, n), AMX).steps
        assert not any(isinstance(s, Tensorize) and s.intrinsic.startswith("t") for s in steps)


def test_processors_are_known_by_what_they_can_do() -> None:
    assert _processor("rocketlake", {"amx-tile": True}) == "sapphirerapids"
    assert _processor("rocketlake", {"amx-tile": False}) == "rocketlake"
    assert _processor("znver5", {"prefetchi": False}) == "znver5"


# -- as instructions ---------------------------------------------------------------------------


def test_registers_are_configured_once_where_all_are_alike() -> None:
    whole = text(by_matrices(product(np.int8, np.int8, 64, 128, 64)))
    assert whole.count("call void @llvm.x86.ldtilecfg(") == 1
    assert whole.count("call void @llvm.x86.tilerelease(") == 1
    # four products of a square of words need two loads by rows and two by columns
    assert whole.count("@llvm.x86.tdpbssd(i8") == 5  # and the declaration
    assert whole.count("call void @llvm.x86.tileloadd64(") == 4
    apart = text(by_matrices(product(np.int8, np.int8, 41, 128, 64)))
    configured = apart.count("call void @llvm.x86.ldtilecfg(")
    assert configured == apart.count("call void @llvm.x86.tilerelease(") > 0


def test_which_operand_has_signs() -> None:
    assert "@llvm.x86.tdpbusd(" in text(by_matrices(product(np.uint8, np.int8, 32, 64, 32)))
    assert "@llvm.x86.tdpbsud(" in text(by_matrices(product(np.int8, np.uint8, 32, 64, 32)))


def test_two_heights_below_one_another() -> None:
    function = by_matrices(product(np.int8, np.int8, 33, 64, 32))
    assert matrices.stretches(33, 32) == [(0, 1, 32), (32, 1, 1)]
    assert "i8 17," not in text(function)


def wide(a: Any, b: Any) -> Any:
    kind = np.float32 if a.dtype == BF16 else np.int32
    return np.matmul(a.astype(kind), b.astype(kind))


def random_types(rng: np.random.Generator) -> tuple[Any, Any]:
    types = [*SIGNS, (BF16, BF16)]
    return types[rng.integers(len(types))]


@here
@pytest.mark.parametrize("seed", range(12))
def test_fuzz_of_compiled_products(seed: int) -> None:
    """Shapes, types, transposes, batches, misaligned rows and what follows the sums; the same bits
    on every number of threads."""
    rng = np.random.default_rng(seed)
    m, n = (int(x) for x in rng.integers(4, 200, 2))
    k, batch = int(rng.integers(30, 1500)), int(rng.integers(1, 4))
    n = max(n, 16)
    types = random_types(rng)
    a = numbers(types[0], (batch, m, k), seed)
    b = numbers(types[1], (batch, k, n), seed + 1)
    turned = rng.random(2) < 0.3
    bias = rng.standard_normal(n).astype(np.float32)
    skip = int(rng.integers(0, 3))
    memory = np.zeros(a.size + skip, a.dtype)
    given = memory[skip:].reshape((batch, k, m) if turned[0] else a.shape)
    given[...] = a.swapaxes(1, 2) if turned[0] else a
    other = np.ascontiguousarray(b.swapaxes(1, 2)) if turned[1] else b

    def f(x: Any, y: Any) -> Any:
        x = np.swapaxes(x, 1, 2) if turned[0] else x
        y = np.swapaxes(y, 1, 2) if turned[1] else y
        return np.tanh(wide(x, y) * np.float32(0.001) + bias)

    want = np.tanh(exact(a, b) * 0.001 + bias)
    results = [tw.compile(f, threads=t)(given, other) for t in (1, 2, 3)]
    np.testing.assert_allclose(results[0], want, rtol=1e-4, atol=1e-4)
    assert all(r.tobytes() == results[0].tobytes() for r in results)


@here
def test_infinities_and_nans_stay_in_their_rows() -> None:
    """Words that are filled up are zeros times zeros, whatever stands beside them in memory."""
    a, b = numbers(BF16, (40, 70)), numbers(BF16, (70, 40), 1)
    a[3, 5], a[4, 69], b[69, 7] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        got, want = tw.compile(wide)(a, b), exact(a, b)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@here
def test_constants_are_packed_ahead() -> None:
    x, w = numbers(np.int8, (50, 300)), numbers(np.int8, (300, 100), 1)
    held = tw.constant(w)
    f = tw.compile(lambda x: wide(x, tw.numpy.asarray(held)))
    assert np.array_equal(f(x), exact(x, w))
    assert "tdpbssd" in f.lower(x).asm


@here
def test_a_schedule_of_ones_own() -> None:
    kernel = product(np.int8, np.int8, 64, 128, 96)
    steps = [s for s in heuristic(kernel, AMX).steps if not isinstance(s, (Order, Stage))]
    a, b = numbers(np.int8, (64, 128)), numbers(np.int8, (128, 96), 1)
    for chosen in (tuple(steps), (*steps, Order(("j", "i")), Stage("b", "j"))):
        f = tw.compile(wide, scheduler=lambda k, s=chosen: Schedule(s))
        assert np.array_equal(f(a, b), exact(a, b))
