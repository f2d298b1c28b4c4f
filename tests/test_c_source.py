"""Programs printed as C99 compile without a warning and give NumPy's values."""

from __future__ import annotations

import copy
import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from programs import PROGRAMS
from tilewright import dtypes, expr, interpret, loops
from tilewright.codegen.c_source import print_program
from tilewright.expr import Buffer, Lit, as_index, axis, fma, load, rare, var
from tilewright.loops import (
    Accumulate,
    Alloc,
    Function,
    If,
    Let,
    Program,
    Store,
    While,
    block,
    loop,
)
from tilewright.ops import elementwise as el
from tilewright.ops.contract import Conv
from tilewright.ops.samples import awkward

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc, clang) on PATH")

FLAGS = ("-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tilewright-c-"))


def compiled(text: str) -> Any:
    """The entry function of a C file."""
    base = _folder() / hashlib.sha256(text.encode()).hexdigest()[:16]
    source, library = base.with_suffix(".c"), base.with_suffix(".so")
    source.write_text(text)
    given = [str(source), *lapack(text), "-lm"]
    command = [str(COMPILER), *FLAGS, "-o", str(library), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library)).entry


def lapack(text: str) -> list[str]:
    """What a file that calls LAPACK is compiled and linked with: the one in NumPy's wheels."""
    calls = re.findall(r"extern void (\w+)\(", text)
    if not calls:
        return []
    libraries = sorted((Path(np.__file__).parents[1] / "numpy.libs").glob("*openblas*"))
    if not libraries:
        pytest.skip("this NumPy brings no LAPACK along")
    return [*(f"-D{c}=scipy_{c}" for c in calls), str(libraries[0])]


def run_c(program: Program, arrays: Sequence[Any]) -> None:
    """Run the program, printed as C, on the arrays of its entry's parameters."""
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
    entry = compiled(print_program(program))
    entry.restype = None
    entry(*pointers)


def by_c(f: Callable[..., Any], *args: Any) -> tuple[list[Any], str]:
    """The results of `f` compiled by way of C, and the text."""
    lowered = tw.compile(f).lower(*args)
    entry = lowered.entry
    inputs = [
        np.require(np.asarray(a), d, ["C", "A"])
        for a, d in zip(tw.tree.leaves(args), entry.dtypes, strict=True)
    ]
    captured = [np.ascontiguousarray(c) for c in entry.captured]
    outs = [np.zeros(n.type.shape, n.type.dtype) for n in entry.program.graph.outputs]
    arena = np.zeros(max(lowered.arena_bytes, 1), np.uint8)
    run_c(lowered.program, [*inputs, *captured, *outs, arena])
    return tw.tree.leaves(entry.traced.rebuild(outs)), lowered.c


def check(f: Callable[..., Any], *args: Any, rtol: float = 1e-6, want: Any = None) -> str:
    """Run `f` by way of C, compare with `f` itself (or with `want`), and give the text."""
    results, text = by_c(f, *args)
    wanted = tw.tree.leaves(f(*args) if want is None else want)
    for got, w in zip(results, wanted, strict=True):
        w = np.asarray(w)
        assert (np.shape(got), np.asarray(got).dtype) == (w.shape, w.dtype)
        if dtypes.is_inexact(w.dtype):
            wide = np.complex128 if w.dtype.kind == "c" else np.float64
            np.testing.assert_allclose(got.astype(wide), w.astype(wide), rtol=rtol, atol=rtol)
        else:
            np.testing.assert_array_equal(got, w)
    return text


def reals(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# -- programs ----------------------------------------------------------------------------------


def test_an_elementwise_chain_reads_like_c() -> None:
    def chain(x: Any, y: Any) -> Any:
        return np.maximum(x * 2 + y, 0) - y / 3

    text = check(chain, reals(5, 13), reals(5, 13, seed=1))
    assert "return np.maximum(x * 2 + y, 0) - y / 3" in text
    assert "const float *restrict x" in text
    assert text.count("for (int64_t") >= 1
    assert "void entry(" in text.split("\n\n")[-1]


def test_softmax() -> None:
    def softmax(x: Any) -> Any:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    check(softmax, reals(3, 29))


def test_layernorm() -> None:
    def layernorm(x: Any, gain: Any) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * gain

    check(layernorm, reals(4, 37), reals(37, seed=1), rtol=1e-5)


def test_products_of_matrices() -> None:
    check(lambda x, w, b: np.maximum(x @ w + b, 0), reals(9, 17), reals(17, 21), reals(21))
    check(lambda x, y: x @ y, reals(2, 5, 7, dtype=np.float64), reals(2, 7, 3, dtype=np.float64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int8, np.uint16], ids=str)
def test_reductions(dtype: Any) -> None:
    x = (reals(6, 19) * 20).astype(dtype)

    def every(x: Any) -> Any:
        return (
            x.sum(0),
            x.sum(),
            x.max(1),
            x.min(0),
            x.argmax(1),
            x.prod(1),
            (x > 2).any(1),
            (x < 9).all(),
        )

    check(every, x, rtol=1e-4)


def test_extremes_keep_nan() -> None:
    x = reals(5, 33, dtype=np.float64)
    x[1, 3] = x[2, 32] = x[3, 0] = np.nan
    x[4, 4] = np.inf
    check(lambda x: (x.max(1), x.min(1), x.max(0)), x)


def test_gather_pad_and_concatenate() -> None:
    index = np.array([3, 0, -1, 2])

    def moves(x: Any) -> Any:
        padded = np.pad(x[index], ((1, 2), (0, 3)), constant_values=7)
        return np.concatenate([padded, padded[::-1] * 2]), np.roll(x, 2, axis=1)[:, ::-2]

    check(moves, reals(5, 6))
    check(lambda x: np.pad(x, 1), reals(3, 4, dtype=dtypes.bfloat16))


def test_sort_and_cumulative() -> None:
    x = reals(4, 11, dtype=np.float64)
    check(lambda x: (np.sort(x, axis=1), np.cumsum(x, axis=0), np.cumprod(x, axis=1)), x)


def test_loops_carry_values_through_the_arena() -> None:
    def recurrent(w: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = np.tanh(h @ w + x)
            return h, h * 2

        return tw.scan(step, np.zeros(8, np.float32), xs)

    def unrolled(w: Any, xs: Any) -> Any:
        h, every = np.zeros(8, np.float32), []
        for x in xs:
            h = np.tanh(h @ w + x)
            every.append(h * 2)
        return h, np.stack(every)

    w, xs = reals(8, 8) / 4, reals(12, 8, seed=2)
    check(recurrent, w, xs, rtol=1e-5, want=unrolled(w, xs))


def test_while_loops_and_branches() -> None:
    def newton(a: Any) -> Any:
        start = tw.cond(a.sum() > 0, lambda a: a, lambda a: -a, a)
        return tw.while_loop(
            lambda s: np.max(np.abs(s * s - a)) > 1e-12, lambda s: (s + a / s) / 2, start
        )

    a = np.abs(reals(7, dtype=np.float64)) + 0.5
    check(newton, a, rtol=1e-10, want=np.sqrt(a))


def test_gradients() -> None:
    w, x = reals(6, 3), reals(5, 6, seed=1)
    h = np.tanh(x @ w)
    gradient = tw.grad(lambda w, x: np.sum(np.tanh(x @ w) ** 2))
    check(gradient, w, x, rtol=1e-5, want=x.T @ (2 * h * (1 - h * h)))


@pytest.mark.parametrize("name", ["black_scholes", "kalman_step", "lstm_cell", "batchnorm"])
def test_programs_from_the_field(name: str) -> None:
    program = PROGRAMS[name]
    args = program.arguments(np.random.default_rng(7))
    want = program.function(*copy.deepcopy(args))
    check(program.function, *args, rtol=10 * program.tolerance, want=want)


def test_complex_numbers_are_pairs_of_floats() -> None:
    z = reals(5, 7, dtype=np.float64) + 1j * reals(5, 7, seed=1, dtype=np.float64)
    check(lambda z: (z * z.conj(), np.exp(z), np.abs(z), z.sum(1), z.prod(0)), z)


def test_names_of_the_language_are_not_taken() -> None:
    def sin(double: Any, restrict: Any) -> Any:
        return np.floor(double) + np.exp(restrict)

    check(sin, reals(5), reals(5))


# -- scalars -----------------------------------------------------------------------------------

FLOATS = (dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64)
INTEGERS = tuple(np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64))


def elementwise_program(values: Sequence[expr.Expr], ins: Sequence[Buffer], n: int) -> Any:
    """One loop that stores every value; returns the program and the axis to use in `values`."""
    outs = [Buffer(f"out{k}", v.type, (n,), "output") for k, v in enumerate(values)]
    i = next(e for e in expr.walk(*values) if isinstance(e, expr.Axis))
    arena = Buffer("arena", dtypes.uint8, (0,))
    body = block(loop(i, *(Store(o, (i,), v) for o, v in zip(outs, values, strict=True))))
    return Program((Function("entry", (*ins, *outs, arena), body),)), outs


def against_the_interpreter(values: Sequence[expr.Expr], arrays: dict[Buffer, Any]) -> None:
    """C and `interpret.evaluate` agree to the bit."""
    n = len(next(iter(arrays.values())))
    program, outs = elementwise_program(values, list(arrays), n)
    results = [np.zeros(n, o.dtype) for o in outs]
    run_c(program, [*arrays.values(), *results, np.zeros(1, np.uint8)])
    i = next(e for e in expr.walk(*values) if isinstance(e, expr.Axis))
    with np.errstate(all="ignore"):
        wanted = interpret.evaluate(list(values), [i], arrays)
    for v, r, w in zip(values, results, wanted, strict=True):
        np.testing.assert_array_equal(plain(r), plain(w), err_msg=expr.show(v))


def plain(x: Any) -> Any:
    """NumPy compares NaNs of its own types only."""
    return x.astype(np.float32) if x.dtype == dtypes.bfloat16 else x


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_wrap_and_divide_by_zero_gives_zero(dtype: Any) -> None:
    ends = np.array([*awkward(dtype), 3, 7], dtype)
    a, b = (v.ravel().copy() for v in np.meshgrid(ends, ends))
    x, y = Buffer("x", dtype, (len(a),), "input"), Buffer("y", dtype, (len(a),), "input")
    i = axis("i", len(a))
    u, v = x[i], y[i]
    values = [expr.apply(op, u, v) for op in ("add", "sub", "mul", "idiv", "irem", "and", "or")]
    values += [expr.apply(op, u, v) for op in ("xor", "eq", "ne", "lt", "le")]
    values += [expr.apply("neg", u), expr.apply("not", u), -(u * v) + ~v]
    values += [u << 3, u >> 3, expr.apply("shl", u * v, expr.literal(1, dtype))]
    values += [expr.select(u < v, u, v), expr.cast(u, dtypes.float64), expr.cast(u, dtypes.bool_)]
    values += [expr.cast(u * v, d) for d in INTEGERS]
    against_the_interpreter(values, {x: a, y: b})


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_are_ieee(dtype: Any) -> None:
    ends = np.array([*awkward(dtype), 0.1, 2.5, -2.5, 1e-4, 300], dtype)
    a, b = (v.ravel().copy() for v in np.meshgrid(ends, ends))
    x, y = Buffer("x", dtype, (len(a),), "input"), Buffer("y", dtype, (len(a),), "input")
    i = axis("i", len(a))
    u, v = x[i], y[i]
    values = [expr.apply(op, u, v) for op in ("add", "sub", "mul", "div", "eq", "ne", "lt", "le")]
    values += [expr.apply(op, u) for op in ("neg", "abs", "sqrt", "floor", "ceil", "trunc", "rint")]
    values += [expr.cast(u, d) for d in FLOATS] + [expr.cast(u, dtypes.bool_)]
    values += [expr.select(u < v, u, expr.literal(0.1, dtype)), u * 0.1 + 1e-7]
    against_the_interpreter(values, {x: a, y: b})


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=str)
def test_fused_multiply_add_rounds_once(dtype: Any) -> None:
    x = Buffer("x", dtype, (50,), "input")
    i = axis("i", 50)
    program, _ = elementwise_program([fma(x[i], x[i], -1.0)], [x], 50)
    data, result = (1 + reals(50) / 1e3).astype(dtype), np.zeros(50, dtype)
    run_c(program, [data, result, np.zeros(1, np.uint8)])
    exact = [Fraction(float(v)) ** 2 - 1 for v in data]
    np.testing.assert_array_equal(result, np.array([float(v) for v in exact]).astype(dtype))


def test_conversions_to_integers_truncate() -> None:
    x = Buffer("x", dtypes.float64, (6,), "input")
    i = axis("i", 6)
    values = [expr.cast(x[i], d) for d in INTEGERS if dtypes.is_signed(d)]
    against_the_interpreter(values, {x: np.array([0.9, -0.9, 100.5, -100.5, 0.0, 127.0])})


def test_bits_and_population() -> None:
    x = Buffer("x", dtypes.float32, (9,), "input")
    y = Buffer("y", dtypes.int32, (9,), "input")
    i = axis("i", 9)
    bits = expr.bitcast(x[i], dtypes.int32)
    values = [bits, expr.bitcast(bits & 0x7FFFFFFF, dtypes.float32)]
    values += [expr.bitcast(y[i], dtypes.uint32), expr.apply("popcount", y[i])]
    data = {x: reals(9), y: np.arange(9, dtype=np.int32) * 77}
    against_the_interpreter(values, data)


def test_literals_keep_their_bits() -> None:
    numbers = [0.1, -0.1, 1 / 3, 1e30, 1e-40, -0.0, np.inf, -np.inf, np.nan, 12345.5, 2.0**-149]
    i = axis("i", 1)
    one = Buffer("one", dtypes.float64, (1,), "input")
    for dtype in FLOATS:
        literals = [expr.literal(v, dtype) for v in numbers]
        values = [expr.select(one[i] < 2.0, v, expr.literal(0, dtype)) for v in literals]
        against_the_interpreter(values, {one: np.ones(1)})
    for dtype in INTEGERS:
        info = np.iinfo(dtype)
        ends = [expr.literal(v, dtype) for v in (info.min, info.max, 0, 5)]
        values = [expr.select(one[i] < 2.0, v, expr.literal(0, dtype)) for v in ends]
        against_the_interpreter(values, {one: np.ones(1)})


def test_positions_floor_like_python() -> None:
    n = 23
    i = axis("i", n)
    x = Buffer("x", dtypes.int64, (n,), "input")
    at = i + (-11)
    loaded = x[i]
    values = [expr.cast(e, dtypes.int64) for e in (at // 4, at % 4, i // 3, i % 3, 5 - i, at * -2)]
    values += [expr.cast(expr.index("min", loaded, at), dtypes.int64), loaded % as_index(7)]
    values += [expr.cast(expr.index("max", at, i // 2), dtypes.int64)]
    values = [expr.apply("add", x[i], v) for v in values]
    against_the_interpreter(values, {x: np.arange(n) - 9})


def test_guards_touch_no_memory() -> None:
    """Reading before the array would give the number in front of it."""
    data = np.arange(10.0)
    x = Buffer("x", dtypes.float64, (4,), "input")
    i = axis("i", 8)
    inside = expr.apply("le", as_index(2), i) & expr.apply("lt", i, as_index(6))
    out, arena = Buffer("out", dtypes.float64, (8,), "output"), Buffer("a", dtypes.uint8, (0,))
    body = block(loop(i, Store(out, (i,), load(x, (i + (-2),), inside))))
    result = np.zeros(8)
    program = Program((Function("entry", (x, out, arena), body),))
    run_c(program, [data[3:7], result, np.zeros(1, np.uint8)])
    np.testing.assert_array_equal(result, [0, 0, 3, 4, 5, 6, 0, 0])


def test_rare_branches_are_entered_when_needed() -> None:
    x = Buffer("x", dtypes.float64, (40,), "input")
    i = axis("i", 40)
    dear = expr.libm("exp", x[i]) * expr.libm("exp", x[i]) + x[i]
    value = rare(x[i] > 0, dear, x[i]) + rare(x[i] > 1, rare(x[i] > 2, 1.0, x[i]), dear)
    against_the_interpreter([value], {x: reals(40, dtype=np.float64) * 2})
    program, _ = elementwise_program([value], [x], 40)
    assert "if (0.0 < " in print_program(program)


# -- statements --------------------------------------------------------------------------------


def test_statements_against_the_interpreter() -> None:
    """Registers, stack memory, Let, If, While, every kind of Accumulate, unused declarations."""
    n = 12
    x = Buffer("x", dtypes.float32, (n,), "input")
    out = Buffer("out", dtypes.float32, (n,), "output")
    extremes = Buffer("extremes", dtypes.float32, (2, 2), "output")
    flags = Buffer("flags", dtypes.bool_, (2,), "output")
    total = Buffer("total", dtypes.int32, (), "registers")
    tile = Buffer("tile", dtypes.float32, (2, 3), "registers")
    row, count = (
        Buffer("row", dtypes.float32, (n,), "stack"),
        Buffer("count", dtypes.int64, (), "stack"),
    )
    i, j, k = axis("i.o", n), axis("u", 2), axis("v", 3)
    v, unused = var("double", dtypes.float32), var("unused", dtypes.float32)
    zero, one = as_index(0), as_index(1)
    big, at = x[i] > 0.5, load(count, ())
    statements: list[loops.Stmt] = [
        *(Alloc(b) for b in (total, tile, row, count, Buffer("idle", x.dtype, (4,), "stack"))),
        Store(total, (), Lit(7, dtypes.int32)),
        Store(extremes, (zero, zero), Lit(-np.inf, x.dtype)),
        Store(extremes, (zero, one), Lit(np.inf, x.dtype)),
        Store(extremes, (one, zero), Lit(0.0, x.dtype)),
        Store(extremes, (one, one), Lit(1.0, x.dtype)),
        Store(flags, (zero,), Lit(True, dtypes.bool_)),
        Store(flags, (one,), Lit(False, dtypes.bool_)),
        loop(
            i,
            Let(v, x[i] + x[i]), Let(unused, x[i] * 3.0),
            If(big, block(Store(row, (i,), v)), block(Store(row, (i,), x[i]))),
            Accumulate(total, (), "prod", expr.cast(x[i] * 10.0, dtypes.int32)),
            Accumulate(extremes, (zero, zero), "max", v),
            Accumulate(extremes, (zero, one), "min", v),
            Accumulate(extremes, (as_index(2),), "sum", v),
            Accumulate(extremes, (as_index(3),), "prod", v),
            Accumulate(flags, (zero,), "all", big), Accumulate(flags, (one,), "any", big),
        ),
        loop(j, loop(k, Store(tile, (j, k), x[j * 3 + k]), kind="vector", lanes=4), kind="unroll"),
        Store(count, (), zero),
        While(
            expr.apply("lt", at, as_index(n)),
            block(
                Store(out, (at,), row[at] + expr.cast(load(total, ()), x.dtype)),
                Accumulate(count, (), "sum", one),
            ),
        ),
        Store(out, (zero,), load(tile, (one, as_index(2)))),
    ]  # fmt: skip
    arena = Buffer("arena", dtypes.uint8, (0,))
    function = Function("entry", (x, out, extremes, flags, arena), block(*statements))
    loops.verify(function)
    data = reals(n)
    by_c = [np.zeros(n, np.float32), np.zeros((2, 2), np.float32), np.zeros(2, np.bool_)]
    wanted = [a.copy() for a in by_c]
    run_c(Program((function,)), [data, *by_c, np.zeros(1, np.uint8)])
    loops.run(Program((function,)), [data, *wanted, np.zeros(1, np.uint8)])
    for got, want in zip(by_c, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def test_every_elementwise_function_compiles_without_a_warning() -> None:
    """One function of every row of the table, in float32; values are the vector code's to test."""
    x, y = Buffer("x", dtypes.float32, (5,), "input"), Buffer("y", dtypes.float32, (5,), "input")
    i = axis("i", 5)
    values = []
    for op in el.ALL:
        if "f" not in op.row.kinds or op in (el.select, el.make_complex):
            continue
        args = (x[i], y[i])[: op.row.arity]
        values.append(expr.apply(op.row.scalar, *args, dtype=op.row.result(dtypes.float32)))
    program, outs = elementwise_program(values, [x, y], 5)
    a, b = np.array([0.3, 0.7, 0.1, 0.9, 0.5], np.float32), np.full(5, 1.25, np.float32)
    results = [np.zeros(5, o.dtype) for o in outs]
    run_c(program, [a, b, *results, np.zeros(1, np.uint8)])
    wanted = interpret.evaluate(values, [i], {x: a, y: b})
    for v, r, w in zip(values, results, wanted, strict=True):
        np.testing.assert_allclose(r, w, rtol=1e-5, atol=1e-6, err_msg=expr.show(v))


def test_functions_with_numbers() -> None:
    """Winograd's sums are functions with counts and distances as arguments."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 32, 24, 24), (32, 32, 3, 3)))
    conv = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
    text = check(lambda x, w: conv(x, w), x, w, rtol=2e-4, want=conv.numpy(x, w))
    assert "static void tilewright_filter_data_" in text and "int64_t tiles" in text
