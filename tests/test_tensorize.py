"""Sums of narrow numbers by words: what the instructions mean, the step, what the heuristic makes
of it, and exact results for every combination of signs, interpreted and compiled."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilewright as tw
from fuzz import random_schedule
from tilewright import dtypes, lax
from tilewright.codegen import libm, llvm
from tilewright.codegen.c_source import print_program
from tilewright.errors import ScheduleError
from tilewright.expr import Buffer, Expr, Reduce, apply, axis, cast, walk
from tilewright.interpret import evaluate
from tilewright.kernel import Assign, Kernel
from tilewright.loops import Function, Program
from tilewright.loops import run as run_loops
from tilewright.runtime import executable, jit
from tilewright.target import NAMED, Target, host
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import loopify
from tilewright.transforms.schedule import (
    Order,
    Schedule,
    Split,
    SplitReduction,
    Stage,
    Step,
    Tensorize,
    Turn,
    Unroll,
    Vectorize,
)
from tilewright.transforms.tensorize import (
    DOT_BYTES,
    DOT_HALVES,
    FLIPPED,
    INTRINSICS,
    WORD,
    Instruction,
)

BF16 = np.dtype(ml_dtypes.bfloat16)
VNNI = Target(
    "x86_64-unknown-linux-gnu", "znver4", "+avx512f,+avx512vl,+avx512vnni,+avx512bf16", 64
)
SIGNS = list(itertools.product((np.uint8, np.int8), repeat=2))
on_this_machine = [i.name for i in INTRINSICS.values() if i.runs_on(host())]


def numbers(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """The whole range of an integer type, its ends included; normal ones of a float type."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind not in "iu":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    found = rng.integers(info.min, info.max + 1, shape)
    found[rng.random(shape) < 0.1] = info.min
    return np.where(rng.random(shape) < 0.1, info.max, found).astype(dtype)


def product(
    a: Any, b: Any, m: int, k: int, n: int, turned: tuple[bool, bool] = (False, False)
) -> Kernel:
    """out[i,j] = sum[k](a[i,k] * b[k,j]); a `turned` operand is read along its other axis."""
    i, j, q = axis("i", m), axis("j", n), axis("k", k)
    x = Buffer("a", np.dtype(a), (k, m) if turned[0] else (m, k))
    y = Buffer("b", np.dtype(b), (n, k) if turned[1] else (k, n))
    wide = dtypes.float32 if np.dtype(a) == BF16 else dtypes.int32
    out = Buffer("out", wide, (m, n), "output")
    e = cast(x[q, i] if turned[0] else x[i, q], wide)
    f = cast(y[j, q] if turned[1] else y[q, j], wide)
    return Kernel("product", (i, j), (Assign(out, (i, j), (), Reduce("sum", (q,), e * f)),))


def steps_of(
    kernel: Kernel, along: bool, high: int = 3, lanes: int = 8, stages: Sequence[str] = ()
) -> Schedule:
    intrinsic = "vdpbf16ps" if kernel.reads[0].dtype == BF16 else "vpdpbusd"
    steps: list[Step] = [
        Order(("j", "i")), Split("i", high), Unroll("i.i"), Split("j", 2 * lanes),
        Split("j.i", lanes), Unroll("j.i.o"), Vectorize("j.i.i"),
        Tensorize("k", intrinsic, "j" if along else ""),
    ]  # fmt: skip
    steps += [Stage(b, "j" if b == "b" else "") for b in stages]
    return Schedule(tuple(steps))


def interpreted(kernel: Kernel, function: Function, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros(kernel.writes[0].shape, kernel.writes[0].dtype)
    scratch = [np.ones(s.shape, s.dtype) for s in function.params[len(kernel.params) :]]
    given = {"a": a, "b": b}
    arrays = [given.get(p.name, out) for p in kernel.params]
    run_loops(Program((function,)), [*arrays, *scratch])
    return out


# -- the instructions --------------------------------------------------------------------------


def operands(op: Instruction) -> list[np.ndarray]:
    if op in (WORD, FLIPPED):
        return [numbers(np.int8, (40,), seed) for seed in range(4)]
    if op is DOT_BYTES:
        return [numbers(np.uint8, (40, 4), seed).view(np.uint32)[:, 0] for seed in range(2)]
    return [numbers(BF16, (40, 2), seed).view(np.uint32)[:, 0] for seed in range(2)]


def applied(op: Instruction, arrays: Sequence[np.ndarray]) -> tuple[Expr, tuple[Any, ...], Any]:
    i = axis("i", len(arrays[0]))
    buffers = [Buffer(f"x{k}", a.dtype, a.shape, "input") for k, a in enumerate(arrays)]
    result = {DOT_BYTES: dtypes.int32, DOT_HALVES: dtypes.float32}.get(op, dtypes.uint32)
    return apply(op, *(b[i] for b in buffers), dtype=result), (i, *buffers), result


@pytest.mark.parametrize("op", [WORD, FLIPPED, DOT_BYTES, DOT_HALVES], ids=lambda op: op.name)
def test_what_an_instruction_means(op: Instruction) -> None:
    """The NumPy function and the machine operations agree."""
    arrays = operands(op)
    e, (i, *buffers), _ = applied(op, arrays)
    (said,) = libm.expand([e])
    assert not any(getattr(x, "op", None) is op for x in walk(said))
    (value,) = evaluate([said], (i,), dict(zip(buffers, arrays, strict=True)))
    meaning = op.numpy(*arrays)
    assert np.allclose(value, meaning, rtol=1e-6, atol=1e-6) if op is DOT_HALVES else (
        np.array_equal(value, meaning)
    )  # fmt: skip


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("op", [DOT_BYTES, DOT_HALVES], ids=lambda op: op.name)
def test_an_instruction_compiled(op: Instruction, lanes: int) -> None:
    """In as many lanes as the machine has, in fewer and in more."""
    name = "vpdpbusd" if op is DOT_BYTES else "vdpbf16ps"
    if name not in on_this_machine:
        pytest.skip(name)
    arrays = operands(op)
    e, (i, *_), result = applied(op, arrays)
    out = Buffer("out", result, (40,), "output")
    kernel = Kernel("dots", (i,), (Assign(out, (i,), (), e),))
    steps = (Split("i", lanes), Vectorize("i.i")) if lanes > 1 else ()
    got = compiled(loopify(kernel, Schedule(steps)), arrays, np.zeros(40, result))
    assert np.allclose(got, op.numpy(*arrays), rtol=1e-5, atol=1e-5)


def compiled(function: Function, arrays: Sequence[np.ndarray], out: np.ndarray) -> np.ndarray:
    name = f"words_{id(function)}"
    text = llvm.named(llvm.print_program(Program((function,)), host()), name)
    loaded = executable.load([jit.object_code(text, host())], name, host())
    scratch = [np.zeros(p.shape, p.dtype) for p in function.params[len(arrays) + 1 :]]
    loaded.call(jit.pointers([x.ctypes.data for x in (*arrays, out, *scratch)]))
    return out


def test_words_of_neighbours_are_read_at_once() -> None:
    kernel = product(np.uint8, np.int8, 4, 64, 32)
    schedule = heuristic(kernel, VNNI)
    text = llvm.print_program(Program((loopify(kernel, schedule),)), VNNI)
    assert "@llvm.x86.avx512.vpdpbusd.512(" in text
    assert "load i32, ptr" in text and "align 1" in text
    half = llvm.print_program(
        Program((loopify(k := product(BF16, BF16, 4, 64, 32), heuristic(k, VNNI)),)), VNNI
    )
    assert "@llvm.x86.avx512bf16.dpbf16ps.512(" in half


# -- the step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [(), ("b",), ("a", "b")], ids=str)
@pytest.mark.parametrize("signs", SIGNS, ids=lambda s: "-".join(np.dtype(t).name for t in s))
def test_bytes_of_every_sign_are_exact(signs: tuple[Any, Any], stages: tuple[str, ...]) -> None:
    """Rows, columns and neighbours in part; the largest products of all."""
    a, b = numbers(signs[0], (7, 23)), numbers(signs[1], (23, 37), 1)
    a[0], b[:, 0] = np.iinfo(signs[0]).max, np.iinfo(signs[1]).max
    a[1], b[:, 1] = np.iinfo(signs[0]).min, np.iinfo(signs[1]).min
    kernel = product(*signs, 7, 23, 37)
    function = loopify(kernel, steps_of(kernel, signs[0] == signs[1], stages=stages))
    got = interpreted(kernel, function, a, b)
    assert np.array_equal(got, a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize("k", [4, 5, 6, 7, 8, 31])
def test_what_does_not_fill_a_word(k: int) -> None:
    a, b = numbers(np.int8, (3, k)), numbers(np.int8, (k, 19), 1)
    kernel = product(np.int8, np.int8, 3, k, 19)
    got = interpreted(kernel, loopify(kernel, steps_of(kernel, along=True, lanes=4)), a, b)
    assert np.array_equal(got, a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize("turned", list(itertools.product((False, True), repeat=2)), ids=str)
@pytest.mark.parametrize("dtype", [np.int8, BF16], ids=["int8", "bf16"])
def test_operands_along_either_axis(dtype: Any, turned: tuple[bool, bool]) -> None:
    a, b = numbers(dtype, (7, 23)), numbers(dtype, (23, 37), 1)
    kernel = product(dtype, dtype, 7, 23, 37, turned)
    x, y = (np.ascontiguousarray(e.T if t else e) for e, t in zip((a, b), turned, strict=True))
    for stages in ((), ("a", "b")):
        schedule = steps_of(kernel, along=dtype is np.int8, stages=stages)
        got = interpreted(kernel, loopify(kernel, schedule), x, y)
        want = a.astype(np.float64) @ b.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_one_array_may_be_both_operands() -> None:
    """x @ x.T: the operand that moves along j is flipped, and staged."""
    i, j, k = axis("i", 9), axis("j", 9), axis("k", 14)
    x, out = Buffer("a", dtypes.int8, (9, 14)), Buffer("out", dtypes.int32, (9, 9), "output")
    value = Reduce("sum", (k,), cast(x[i, k], dtypes.int32) * cast(x[j, k], dtypes.int32))
    kernel = Kernel("gram", (i, j), (Assign(out, (i, j), (), value),))
    steps = (
        Tensorize("k", "vpdpbusd", "j"), Split("i", 2), Unroll("i.i"), Split("j", 4),
        Vectorize("j.i"), Order(("j", "i")), Stage("a", "j"),
    )  # fmt: skip
    a = numbers(np.int8, (9, 14))
    got = interpreted(kernel, loopify(kernel, Schedule(steps)), a, a)
    assert np.array_equal(got, a.astype(np.int32) @ a.T.astype(np.int32))


def test_the_step_prints_and_is_stored() -> None:
    schedule = Schedule((Tensorize("k", "vpdpbusd", "j"), Tensorize("k", "vdpbf16ps")))
    assert str(schedule) == "Tensorize(k, vpdpbusd, j) Tensorize(k, vdpbf16ps)"
    assert Schedule.from_json(schedule.to_json()) == schedule


SIGNED = product(np.int8, np.int8, 8, 16, 32)
MIXED = product(np.uint8, np.int8, 8, 16, 32)


@pytest.mark.parametrize(
    ("kernel", "step", "message"),
    [
        (SIGNED, Tensorize("k", "vpdpb"), "the intrinsics are vpdpbusd, vdpbf16ps"),
        (SIGNED, Tensorize("i", "vpdpbusd"), "it is not summed over in products"),
        (SIGNED, Tensorize("k", "vdpbf16ps"), "it is not summed over in products"),
        (SIGNED, Tensorize("k", "vpdpbusd"), "signs are flipped where both operands are bytes"),
        (MIXED, Tensorize("k", "vpdpbusd", "j"), "signs are flipped where both operands are"),
        (SIGNED, Tensorize("k", "vpdpbusd", "k"), "not just one operand moves along k"),
        (SIGNED, Tensorize("k", "vpdpbusd", "z"), "the kernel has i, j, k"),
        (
            product(np.int8, np.int8, 8, 3, 32),
            Tensorize("k", "vpdpbusd", "j"),
            "there are no 4 neighbours of both operands along it",
        ),
    ],
)
def test_what_is_not_tensorized(kernel: Kernel, step: Step, message: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(message)):
        loopify(kernel, Schedule((step,)))


@pytest.mark.parametrize("kernel", [SIGNED, MIXED], ids=["flipped", "as they are"])
def test_words_in_parts(kernel: Kernel) -> None:
    along = "j" if kernel is SIGNED else ""
    steps = (
        Split("j", 16), Vectorize("j.i"), Tensorize("k", "vpdpbusd", along),
        SplitReduction("k", 3, 2),
    )  # fmt: skip
    a, b = numbers(kernel.reads[0].dtype, (8, 16)), numbers(np.int8, (16, 32), 1)
    got = interpreted(kernel, loopify(kernel, Schedule(steps)), a, b)
    assert np.array_equal(got, a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize("dtype", [np.int8, BF16], ids=["int8", "bf16"])
def test_random_schedules_with_words(dtype: Any) -> None:
    """Any steps after the words: refused, or the same values."""
    kernel, rng = product(dtype, dtype, 6, 22, 17), np.random.default_rng(5)
    a, b = numbers(dtype, (6, 22)), numbers(dtype, (22, 17), 1)
    want = a.astype(np.float64) @ b.astype(np.float64)
    words = Tensorize("k", *(("vdpbf16ps",) if dtype is BF16 else ("vpdpbusd", "j")))
    legal = 0
    for _ in range(80):
        schedule = Schedule((words, *random_schedule(kernel, rng).steps))
        try:
            function = loopify(kernel, schedule)
        except ScheduleError:
            continue
        got = interpreted(kernel, function, a, b)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=str(schedule))
        legal += 1
        if legal == 8:
            return
    assert legal >= 4, "hardly any random schedule is legal: the test says nothing"


# -- what the heuristic chooses, and compiled results ------------------------------------------


def words_in(kernel: Kernel, target: Target) -> list[Tensorize]:
    return [s for s in heuristic(kernel, target).steps if isinstance(s, Tensorize)]


def test_the_heuristic_takes_what_the_machine_has() -> None:
    half = product(BF16, BF16, 64, 64, 64)
    assert words_in(product(np.int8, np.int8, 64, 64, 64), VNNI) == [
        Tensorize("k", "vpdpbusd", "j")
    ]
    assert words_in(product(np.uint8, np.int8, 64, 64, 64), VNNI) == [Tensorize("k", "vpdpbusd")]
    assert words_in(half, VNNI) == [Tensorize("k", "vdpbf16ps")]
    assert words_in(half, replace(VNNI, features="+avx512f,+avx512vl,+avx512vnni")) == []
    for target in NAMED.values():
        assert words_in(product(np.int8, np.int8, 64, 64, 64), target) == []


def test_few_rows_are_not_worth_words() -> None:
    assert words_in(product(np.int8, np.int8, 2, 64, 64), VNNI) == []


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("dtype", [np.int8, BF16], ids=["int8", "bf16"])
def test_the_heuristic_at_every_width(dtype: Any, width: int) -> None:
    kernel = product(dtype, dtype, 13, 35, 50)
    a, b = numbers(dtype, (13, 35)), numbers(dtype, (35, 50), 1)
    schedule = heuristic(kernel, replace(VNNI, vector_bytes=width))
    assert any(isinstance(s, Tensorize) for s in schedule.steps), str(schedule)
    got = interpreted(kernel, loopify(kernel, schedule), a, b)
    want = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def wide(a: Any, b: Any) -> Any:
    return np.matmul(a.astype(np.int32), b.astype(np.int32))


def preferred(a: Any, b: Any) -> Any:
    return lax.dot(a, b, preferred_element_type=np.int32)


SHAPES = [(64, 64, 64), (13, 35, 50), (200, 70, 90), (5, 129, 300), (33, 1027, 65), (1, 64, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("signs", SIGNS, ids=lambda s: "-".join(np.dtype(t).name for t in s))
def test_products_of_bytes(shape: tuple[int, int, int], signs: tuple[Any, Any]) -> None:
    m, k, n = shape
    a, b = numbers(signs[0], (m, k)), numbers(signs[1], (k, n), 1)
    want = a.astype(np.int32) @ b.astype(np.int32)
    functions: list[Callable[..., Any]] = [wide]
    functions += [preferred] if signs[0] == signs[1] else []
    for f in functions:
        result = tw.compile(f)(a, b)
        assert result.dtype == np.int32 and np.array_equal(result, want)
    turned = tw.compile(lambda x, y: wide(x.T, y.T))
    got = turned(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T))
    assert np.array_equal(got, want)


def test_sums_of_bytes_wrap() -> None:
    """More than an int32 holds: as NumPy, modulo 2**32."""
    a, b = np.full((4, 70_000), 255, np.uint8), np.full((70_000, 32), 255, np.uint8)
    assert np.array_equal(tw.compile(wide)(a, b), wide(a, b))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_brain_floats(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = numbers(BF16, (m, k)), numbers(BF16, (k, n), 1)
    want = a.astype(np.float64) @ b.astype(np.float64)
    close = 1e-5 * np.sqrt(k)
    np.testing.assert_allclose(tw.compile(lambda x, y: x @ y)(a, b), want, rtol=1e-5, atol=close)
    got = tw.compile(lambda x, y: x.T @ y.T)(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=close)


def test_batches_and_what_follows() -> None:
    """Several products at once, with a scale, an offset and a cast on the way out."""
    a, b = numbers(np.int8, (3, 20, 40)), numbers(np.int8, (3, 40, 33), 1)
    scale = np.linspace(0.5, 2, 33, dtype=np.float32)

    def f(x: Any, y: Any, s: Any) -> Any:
        return np.maximum(np.matmul(x.astype(np.int32), y.astype(np.int32)) * s + 1, 0)

    np.testing.assert_allclose(tw.compile(f)(a, b, scale), f(a, b, scale), rtol=1e-6)


def test_unaligned_bytes() -> None:
    """Words may start at any byte."""
    a = numbers(np.uint8, (20 * 64 + 3,))[3:].reshape(20, 64)
    b = numbers(np.int8, (64 * 48 + 1,), 1)[1:].reshape(64, 48)
    assert np.array_equal(tw.compile(wide)(a, b), wide(a, b))


def test_quantised_values_are_kept_narrow() -> None:
    """It is the int8 that stays in memory, not the int32 it is widened to."""

    def f(x: Any, w: Any) -> Any:
        return preferred(np.round(x * 3 + 1).astype(np.int8), w)

    x = np.linspace(-9, 9, 256 * 256, dtype=np.float32).reshape(256, 256)
    w = numbers(np.int8, (256, 256))
    made = tw.compile(f).lower(x, w)
    assert [k.writes[0].dtype for k in made.kernels] == [dtypes.int8, dtypes.int32]
    want = wide(np.round(x * 3 + 1).astype(np.int8), w)
    assert np.array_equal(tw.compile(f)(x, w), want)


def test_c_says_the_words_in_its_own_operations() -> None:
    text = print_program(Program((loopify(SIGNED, steps_of(SIGNED, along=True)),)))
    assert "dot_bytes" not in text and "<<" in text


def test_words_of_a_turned_tile() -> None:
    """Results written along the rows, and the sums that correct them beside the tile."""
    kernel = product(np.int8, np.int8, 8, 23, 16)
    steps = (
        Tensorize("k", "vpdpbusd", "i"), Order(("j", "i")), Split("j", 4), Unroll("j.i"),
        Vectorize("i"), Turn("j"), Stage("a", "i"),
    )  # fmt: skip
    a, b = numbers(np.int8, (8, 23)), numbers(np.int8, (23, 16), 1)
    got = interpreted(kernel, loopify(kernel, Schedule(steps)), a, b)
    assert np.array_equal(got, a.astype(np.int32) @ b.astype(np.int32))
