"""Schedules: they print, replay and are stored; what is not legal is refused; what is legal never
changes a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from fuzz import kernel_differs, random_schedule
from tilewright import dtypes
from tilewright import kernel as kernels
from tilewright.codegen import llvm, turning
from tilewright.errors import ScheduleError
from tilewright.expr import Buffer, Reduce, apply, as_index, axis, load, var, walk
from tilewright.kernel import Assign, Kernel
from tilewright.loops import (
    Alloc,
    Flip,
    Function,
    Let,
    Program,
    Stmt,
    Store,
    block,
    loop,
    show_function,
)
from tilewright.loops import run as run_loops
from tilewright.runtime import executable, jit
from tilewright.target import NAMED, Target, host
from tilewright.transforms import schedule as scheduling
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import loopify
from tilewright.transforms.schedule import (
    Order,
    Parallel,
    Peel,
    Schedule,
    Split,
    SplitReduction,
    Stage,
    Step,
    Turn,
    Unroll,
    Vectorize,
    names,
)

ZNVER4 = Target("x86_64-unknown-linux-gnu", "znver4", "", 64)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "dense": (lambda x, w, b: np.maximum(x @ w + b, 0), ((5, 7), (7, 19), (19,))),
    "transposed": (lambda x, y: x.T * 2 + y, ((6, 11), (11, 6))),
    "softmax": (softmax, ((3, 21),)),
    "sum": (lambda x: x.sum(), ((37,),)),
    "columns": (lambda x: x.sum(0), ((9, 13),)),
    "outer": (lambda x, y: np.subtract.outer(x, y), ((17,), (3,))),
    "tensor": (lambda x: (x * x).sum((0, 2)), ((4, 5, 6),)),
}


def kernel_of(name: str) -> Kernel:
    f, shapes = FUNCTIONS[name]
    (kernel,) = tw.compile(f).lower(*(np.zeros(s, np.float32) for s in shapes)).kernels
    return kernel


def plane() -> Kernel:
    """out[i,j] = sum[k:6](x[i,k] * y[k,j]), i:8 j:20"""
    i, j, k = axis("i", 8), axis("j", 20), axis("k", 6)
    x, y = Buffer("x", dtypes.float32, (8, 6)), Buffer("y", dtypes.float32, (6, 20))
    out = Buffer("out", dtypes.float32, (8, 20), "output")
    value = Reduce("sum", (k,), x[i, k] * y[k, j])
    return Kernel("plane", (i, j), (Assign(out, (i, j), (), value),))


STEPS = (
    Order(("j", "i")), Parallel("j"), Split("i", 4), Split("j", 16), Split("j.i", 8),
    Unroll("j.i.o"), Vectorize("j.i.i"), Unroll("i.i"),
)  # fmt: skip


def test_steps_print() -> None:
    assert str(Schedule(STEPS)) == (
        "Order(j, i) Parallel(j) Split(i, 4) Split(j, 16) Split(j.i, 8)"
        " Unroll(j.i.o) Vectorize(j.i.i) Unroll(i.i)"
    )
    assert str(Schedule()) == "(as written)"


def test_schedules_can_be_pasted() -> None:
    short = Schedule((Order(("i",)), Split("i", 8), Stage("b"), Stage("b", "j")))
    text = 'Schedule((Order(("i",)), Split("i", 8), Stage("b"), Stage("b", "j")))'
    assert (repr(short), repr(Schedule())) == (text, "Schedule()")
    steps = {name: getattr(scheduling, name) for name in scheduling.STEPS}
    every = [short, Schedule(STEPS), Schedule((Peel("i"),)), Schedule()]
    every += [heuristic(kernel_of(name), ZNVER4) for name in FUNCTIONS]
    for schedule in every:
        assert eval(repr(schedule), {**steps, "Schedule": Schedule}) == schedule


def test_schedules_are_stored() -> None:
    schedule = Schedule(STEPS)
    assert Schedule.from_json(schedule.to_json()) == schedule
    for name in FUNCTIONS:
        chosen = heuristic(kernel_of(name), ZNVER4)
        assert Schedule.from_json(chosen.to_json()) == chosen


@pytest.mark.parametrize("text", ["", "[", '[["Fold", {"axis": "i"}]]', '[["Split", {"a": 1}]]'])
def test_what_is_not_a_stored_schedule(text: str) -> None:
    with pytest.raises(ScheduleError, match="this is not a stored schedule"):
        Schedule.from_json(text)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            (Split("z", 8),),
            "Split(z, 8) cannot be applied to axis z: the kernel has i, j, k",
        ),
        (
            (Split("j", 21),),
            "Split(j, 21) cannot be applied to axis j of extent 20: the factor does not fit",
        ),
        (
            (Split("j", 0),),
            "Split(j, 0) cannot be applied to axis j of extent 20: the factor does not fit",
        ),
        (
            (Split("j", 16), Split("j.i", 3)),
            "Split(j.i, 3) cannot be applied to axis j.i of extent 16: the factor must divide an"
            " inner part",
        ),
        (
            (Parallel("k"),),
            "Parallel(k) cannot be applied to axis k of extent 6: only shared axes are independent",
        ),
        (
            (Order(("i",)),),
            "Order(i) cannot be applied to axis i: every axis of one nest must appear once",
        ),
        (
            (Vectorize("i"), Vectorize("j")),
            "Vectorize(i) cannot be applied to axis i of extent 8: an axis inside it has the lanes",
        ),
        (
            (Vectorize("j"), Vectorize("k")),
            "Vectorize(k) cannot be applied to axis k of extent 6: the axis its results are for"
            " has the lanes",
        ),
        (
            (Turn("i"),),
            "Turn(i) cannot be applied to axis i of extent 8:"
            " it is not an unrolled axis of a tile with lanes",
        ),
        (
            (Unroll("i"), Split("j", 4), Vectorize("j.i"), Turn("i")),
            "Turn(i) cannot be applied to axis i of extent 8: the tile has 8 rows and 4 lanes",
        ),
    ],
)
def test_what_is_not_legal(steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(ScheduleError) as raised:
        loopify(plane(), Schedule(steps))
    assert str(raised.value).startswith(message)
    assert "f.lower(...).kernels prints the axes and their extents." in str(raised.value)


def test_only_the_last_axis_of_a_reduction_is_cut() -> None:
    kernel = kernel_of("tensor")
    (reduction,) = (e for e in walk(*kernel.expressions) if isinstance(e, Reduce))
    outer, _ = reduction.axes
    spelled = {a: n for n, a in names(kernel).items()}
    with pytest.raises(ScheduleError, match="there is a whole loop inside it"):
        loopify(kernel, Schedule((Unroll(spelled[outer]),)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_legal_schedules_do_not_change_values(name: str) -> None:
    """Random schedules, interpreted: each is refused or computes what the kernel says."""
    kernel, rng = kernel_of(name), np.random.default_rng(7)
    legal = 0
    for _ in range(60):
        schedule = random_schedule(kernel, rng)
        try:
            function = loopify(kernel, schedule)
        except ScheduleError:
            continue
        wrong = kernel_differs(kernel, function)
        assert wrong is None, f"{schedule}\n{kernels.show(kernel)}\n{wrong}"
        legal += 1
        if legal == 8:
            return
    assert legal >= 4, "hardly any random schedule is legal: the test says nothing"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_schedules_do_not_change_values(name: str) -> None:
    """The same through LLVM: every schedule that is legal compiles and computes the same."""
    f, shapes = FUNCTIONS[name]
    rng = np.random.default_rng(11)
    args = [rng.normal(size=s).astype(np.float32) for s in shapes]
    expected = f(*args)
    legal = 0
    for _ in range(60):
        schedule = random_schedule(kernel_of(name), rng)

        def chosen(kernel: Kernel, schedule: Schedule = schedule) -> Schedule:
            return schedule

        try:
            result = tw.compile(f, scheduler=chosen)(*args)
        except ScheduleError:
            continue
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5, err_msg=str(schedule))
        legal += 1
        if legal == 5:
            return
    assert legal >= 4, "hardly any random schedule is legal: the test says nothing"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("width", [16, 32, 64])
def test_the_heuristic_is_legal_at_every_width(name: str, width: int) -> None:
    kernel = kernel_of(name)
    target = Target("x86_64-unknown-linux-gnu", "x86-64", "", width)
    function = loopify(kernel, heuristic(kernel, target))
    assert kernel_differs(kernel, function) is None


STAGED = (
    Order(("j", "i")), Split("i", 3), Unroll("i.i"), Split("j", 16), Split("j.i", 8),
    Unroll("j.i.o"), Vectorize("j.i.i"),
)  # fmt: skip


@pytest.mark.parametrize("stages", [("y", "j"), ("x", "")], ids=str)
@pytest.mark.parametrize("swapped", [False, True], ids=["as read", "turned"])
def test_stage_copies_what_a_tile_reads(stages: tuple[str, str], swapped: bool) -> None:
    """Full chunks, chunks in part, operands contiguous along either axis; loops interpreted."""
    i, j, k = axis("i", 8), axis("j", 37), axis("k", 11)
    x, y = Buffer("x", dtypes.float32, (8, 11)), Buffer("y", dtypes.float32, (11, 37))
    if swapped:
        x, y = Buffer("x", dtypes.float32, (11, 8)), Buffer("y", dtypes.float32, (37, 11))
    out = Buffer("out", dtypes.float32, (8, 37), "output")
    product = x[k, i] * y[j, k] if swapped else x[i, k] * y[k, j]
    kernel = Kernel("plane", (i, j), (Assign(out, (i, j), (), Reduce("sum", (k,), product)),))
    plain, staged = (loopify(kernel, Schedule(s)) for s in (STAGED, (*STAGED, Stage(*stages))))
    assert kernel_differs(kernel, staged) is None
    assert "flip" not in show_function(plain)
    assert ("flip" in show_function(staged)) is swapped
    where = staged.params[len(kernel.params) :]
    assert [b.name for b in where] == (["x_copy"] if stages[1] == "" else [])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("z", "j"), "the sums of a tile read z at 0 such positions"),
        (Stage("x", "j"), "no chunks of it are walked outside the tile's other loops"),
        (Stage("y", "k"), "no chunks of it are walked outside the tile's other loops"),
        (Stage("y", "i"), "no chunks of it are walked outside the tile's other loops"),
    ],
)
def test_what_cannot_be_staged(stage: Stage, message: str) -> None:
    steps = [s for s in STAGED if not (isinstance(s, (Split, Unroll)) and s.axis.startswith("i"))]
    with pytest.raises(ScheduleError, match=re.escape(message)):
        loopify(plane(), Schedule((*steps[1:], stage)))


@pytest.mark.parametrize("n", [8, 24, 29, 40])
def test_peeled_chunks_ask_at_the_border_only(n: int) -> None:
    """y[i] = x[i-1] + x[i+1], zeros beyond the ends: the middle has no guard."""
    i = axis("i", n)
    x, out = Buffer("x", dtypes.float32, (n,)), Buffer("out", dtypes.float32, (n,), "output")
    left = load(x, (i - 1,), apply("le", as_index(1), i))
    right = load(x, (i + 1,), apply("lt", i + 1, as_index(n)))
    kernel = Kernel("sides", (i,), (Assign(out, (i,), (), left + right),))
    steps = () if n == 8 else (Split("i", 8),)
    inner = "i" if n == 8 else "i.i"
    function = loopify(kernel, Schedule((*steps, Vectorize(inner), Peel("i"))))
    assert kernel_differs(kernel, function) is None
    assert show_function(function).count(" if ") == 2


@pytest.mark.parametrize("depth", [1, 7, 16, 37])
@pytest.mark.parametrize("slices", [1, 3])
def test_reductions_in_parts(depth: int, slices: int) -> None:
    """Fewer points than a part, parts that leave some over, slices that are not equal."""
    i, j, k = axis("i", 2), axis("j", 37), axis("k", depth)
    x, y = Buffer("x", dtypes.float32, (2, depth)), Buffer("y", dtypes.float32, (depth, 37))
    out = Buffer("out", dtypes.float32, (2, 37), "output")
    value = Reduce("sum", (k,), x[i, k] * y[k, j]) * 2.0
    kernel = Kernel("rows", (i, j), (Assign(out, (i, j), (), value),))
    steps = (Unroll("i"), Split("j", 8), Vectorize("j.i"), SplitReduction("k", 4, slices))
    function = loopify(kernel, Schedule(steps))
    assert kernel_differs(kernel, function) is None
    assert len(function.params) == len(kernel.params) + 1


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (SplitReduction("i", 4, 2), "it is not the one axis of the kernel's one reduction"),
        (SplitReduction("k", 0, 2), "there is at least one slice and a point in each part"),
        (Stage("y", "j"), "nothing is staged, turned or left over with it"),
    ],
)
def test_what_is_not_split(step: Step, message: str) -> None:
    steps = (Split("j", 16), Vectorize("j.i"), SplitReduction("k", 2, 2), step)
    with pytest.raises(ScheduleError, match=re.escape(message)):
        loopify(plane(), Schedule(steps))


@pytest.mark.parametrize(
    "shape", [(70, 300, 90), (33, 257, 65), (1, 513, 1100), (3, 700, 200), (64, 1024, 128)]
)
def test_products_of_large_operands(shape: tuple[int, int, int]) -> None:
    """Sizes that are packed, in all transpositions, against float64."""
    m, k, n = shape
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    for x, y, f in (
        (a, b, lambda x, y: x @ y),
        (a.T, b, lambda x, y: x.T @ y),
        (a, b.T, lambda x, y: x @ y.T),
        (a.T, b.T, lambda x, y: x.T @ y.T),
    ):
        for dtype, close in ((np.float32, 1e-4), (np.float64, 1e-12)):
            result = tw.compile(f)(np.array(x, dtype), np.array(y, dtype))
            assert result.dtype == dtype
            np.testing.assert_allclose(result, a @ b, rtol=close, atol=close * np.sqrt(k))


@pytest.mark.parametrize("shape", [(8, 8), (19, 37), (5, 70)])
def test_turned_reads(shape: tuple[int, int]) -> None:
    """x.T by squares of registers: whole ones, and rows and columns in part."""
    m, n = shape
    i, j = axis("i", m), axis("j", n)
    x, y = Buffer("x", dtypes.float32, (n, m)), Buffer("y", dtypes.float32, (m, n))
    out = Buffer("out", dtypes.float32, (m, n), "output")
    kernel = Kernel("turned", (i, j), (Assign(out, (i, j), (), x[j, i] * 2.0 + y[i, j]),))
    steps = (Split("i", min(8, m)), Unroll("i.i"), Split("j", 8), Vectorize("j.i"), Turn("i"))
    if m <= 8:
        steps = (Unroll("i"), *steps[2:])
    function = loopify(kernel, Schedule(steps))
    assert "flip" in show_function(function)
    assert kernel_differs(kernel, function) is None


def test_a_turned_tile_may_have_further_rows() -> None:
    i, j, h, k = axis("i", 13), axis("j", 19), axis("h", 7), axis("k", 6)
    x, y = Buffer("x", dtypes.float32, (7, 6, 13)), Buffer("y", dtypes.float32, (6, 19))
    out = Buffer("out", dtypes.float32, (13, 19, 7), "output")
    value = Reduce("sum", (k,), x[h, k, i] * y[k, j])
    kernel = Kernel("turned", (i, j, h), (Assign(out, (i, j, h), (), value),))
    steps = (
        Split("i", 4), Unroll("i.i"), Split("j", 4), Vectorize("j.i"), Split("h", 3), Unroll("h.i"),
        Turn("i"),
    )  # fmt: skip
    function = loopify(kernel, Schedule(steps))
    assert "flip" in show_function(function)
    assert kernel_differs(kernel, function) is None


@pytest.mark.parametrize("shape", [(8, 20), (5, 16), (19, 13)])
def test_long_epilogues_of_turned_tiles_are_one_copy(shape: tuple[int, int]) -> None:
    m, n = shape
    i, j, k = axis("i", m), axis("j", n), axis("k", 6)
    x, y = Buffer("x", dtypes.float32, (m, 6)), Buffer("y", dtypes.float32, (6, n))
    a, z = Buffer("a", dtypes.float32, (n,)), Buffer("z", dtypes.float32, (n, m))
    out = Buffer("out", dtypes.float32, (n, m), "output")
    sums = Reduce("sum", (k,), x[i, k] * y[k, j])
    long = (sums * a[j] - a[j]) * a[j] + z[j, i] * a[j]
    for value, kind in ((sums + z[j, i], "unroll"), (long, "for")):
        kernel = Kernel("long", (i, j), (Assign(out, (j, i), (), value),))
        rows = (Unroll("i"),) if m <= 8 else (Split("i", 8), Unroll("i.i"))
        steps = (*rows, Split("j", 8), Vectorize("j.i"), Turn("i"))
        function = loopify(kernel, Schedule(steps))
        assert kernel_differs(kernel, function) is None
        after = show_function(function).split("flip")[1]
        assert f"{kind} j.l in 8" in after


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_flip_turns_a_tile(n: int) -> None:
    """A square transposed in registers, compiled."""
    x = np.arange(n * n, dtype=np.float32).reshape(n, n)
    a, b = (
        Buffer("a", dtypes.float32, (n, n), "input"),
        Buffer("b", dtypes.float32, (n, n), "output"),
    )
    u, v = axis("u", n), axis("v", n)
    r = Buffer("r", dtypes.float32, (n, n), "registers")

    def tile(s: Stmt) -> Stmt:
        return loop(u, loop(v, s, kind="vector", lanes=n), kind="unroll")

    body = block(
        Alloc(r), tile(Store(r, (u, v), a[u, v])), Flip(r), tile(Store(b, (u, v), r[u, v]))
    )
    program = Program((Function("flip", (a, b), body),))
    assert np.array_equal(in_both_ways(program, x, (n, n)), x.T)


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.int32, dtypes.float64, dtypes.int16])
@pytest.mark.parametrize("n", [4, 8, 16])
def test_tiles_that_share_one_transposition(dtype: dtypes.DType, n: int) -> None:
    """Turned, added to what it was, turned again. Rows that fill a register go to a function."""
    a, b = (Buffer(x, dtype, (n, n), k) for x, k in (("a", "input"), ("b", "output")))
    r, q = (Buffer(x, dtype, (n, n), "registers") for x in "rq")
    u, v = axis("u", n), axis("v", n)

    def tile(s: Stmt) -> Stmt:
        return loop(u, loop(v, s, kind="vector", lanes=n), kind="unroll")

    body = block(
        Alloc(r), tile(Store(r, (u, v), a[u, v])), Flip(r), Alloc(q),
        tile(Store(q, (u, v), apply("add", a[u, v], r[u, v]) * 3)), Flip(q),
        tile(Store(b, (u, v), apply("sub", q[u, v], r[u, v]))),
    )  # fmt: skip
    program = Program((Function("twice", (a, b), body),))
    x = np.arange(n * n).astype(dtype).reshape(n, n)
    assert np.array_equal(in_both_ways(program, x, (n, n)), (x + x.T) * 3 - x.T)
    text = llvm.print_program(program, ZNVER4)
    shared = dtype.itemsize >= 4 and n * dtype.itemsize == ZNVER4.vector_bytes
    assert text.count(f"= call {turning.IN_REGISTERS}") == 2 * shared
    assert turning.IN_REGISTERS not in llvm.print_program(program, NAMED["neon"])


def in_both_ways(program: Program, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The one result of a program, interpreted and compiled."""
    interpreted, compiled = np.zeros(shape, x.dtype), np.zeros(shape, x.dtype)
    run_loops(program, [x, interpreted])
    name = f"both_{id(program)}"
    text = llvm.named(llvm.print_program(program, host()), name)
    function = executable.load([jit.object_code(text, host())], name, host())
    function.call(jit.pointers([x.ctypes.data, compiled.ctypes.data]))
    assert np.array_equal(interpreted, compiled)
    return compiled


def test_a_variable_in_each_copy_of_an_unrolled_body() -> None:
    """Bound anew, and so is all that was computed from it, addresses included."""
    x = np.array([2, 0, 1], np.int64)
    a, b = (Buffer(n, dtypes.int64, (3,), scope) for n, scope in (("a", "input"), ("b", "output")))
    u, t = axis("u", 3), var("t", dtypes.int64)
    value = apply("add", a[u], apply("mul", t, load(a, (t,))))
    body = block(loop(u, Let(t, a[u]), Store(b, (u,), value), kind="unroll"))
    program = Program((Function("copies", (a, b), body),))
    assert np.array_equal(in_both_ways(program, x, (3,)), x + x * x[x])


@pytest.mark.parametrize("outs", [2, 7, 8])
def test_sums_of_a_window_share_vectors_with_other_planes(outs: int) -> None:
    """The gradient of a convolution's weights has lanes along rows of images, a sum for each of the
    window's places, and reads each vector of the image for several outs."""
    rng = np.random.default_rng(0)
    x, ct = (rng.standard_normal((2, c, 9, 32)).astype("f4") for c in (3, outs))

    def gradient(x: Any, ct: Any) -> Any:
        w = np.zeros((outs, 3, 3, 3), np.float32)
        conv = tw.lax.conv_general_dilated
        return tw.vjp(lambda w: conv(x, w, (1, 1), [(1, 1), (1, 1)]), w)[1](ct)[0]

    lowered = tw.compile(gradient).lower(x, ct)
    (steps,) = (str(lowered.schedules[k.name]) for k in lowered.kernels)
    assert "Unroll(k) Unroll(l)" in steps
    wide = host().registers == 32
    assert ("Unroll(i)" in steps or "Unroll(i.i)" in steps) == (wide and outs % 2 == 0), steps
    around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.empty((outs, 3, 3, 3))
    for a, b in np.ndindex(3, 3):
        expected[:, :, a, b] = np.einsum("nohw,nchw->oc", ct, around[:, :, a : a + 9, b : b + 32])
    np.testing.assert_allclose(tw.compile(gradient)(x, ct), expected, rtol=1e-4, atol=1e-4)
