"""Programs on several threads: the bits of one thread, and no thread where it would not pay."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fuzz
import tilewright as tw
from programs import PROGRAMS
from random_programs import write
from test_threads import awaited, python
from tilewright import dtypes, loops, trees
from tilewright.codegen import llvm, multiply_add, parallel
from tilewright.codegen.pool import PARALLEL
from tilewright.compile import machine
from tilewright.errors import BadThreadCount, ScheduleError
from tilewright.expr import Buffer, Expr, as_index, axis, cast, index, var
from tilewright.kernel import Kernel
from tilewright.loops import (
    Accumulate,
    Alloc,
    Call,
    Function,
    Let,
    Program,
    Ref,
    Store,
    block,
    loop,
)
from tilewright.runtime import jit, threads
from tilewright.transforms.loopify import loopify
from tilewright.transforms.schedule import Schedule

pytestmark = pytest.mark.skipif(not threads.available(), reason="the pool needs Linux")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parallel loop is divided, into as many chunks as can be."""
    monkeypatch.setattr(parallel, "WORTH_NS", 0)
    monkeypatch.setattr(parallel, "CHUNK_NS", 0)
    monkeypatch.setattr(parallel, "REPEATED", 0)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(a).tobytes() for a in trees.leaves(tree)]


def agree(f: Callable[..., Any], args: Sequence[Any], **options: Any) -> str:
    """Assert that `f` has the same bits on one to three threads; the text on several."""
    expected = bits(tw.compile(threads=1, **options)(f)(*args))
    many = tw.compile(threads=MANY, **options)(f)
    for count in (1, 2, 3, 3):
        with tw.threads(count):
            assert bits(many(*args)) == expected, f"{count} threads"
    return many.lower(*args).llvm


MANY = 64
"""A limit of its own, so that programs made here are not found by other tests."""


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_users(name: str) -> None:
    program = PROGRAMS[name]
    agree(program.function, program.arguments(np.random.default_rng(3)))


@pytest.mark.usefixtures("eager")
def test_random_programs_under_random_schedules() -> None:
    """Parallel loops inside others, around others, over axes with remainders."""
    divided = 0
    for seed in range(5, 45):
        program = write(seed)
        text = agree(program.function, list(program.inputs.values()), scheduler=Replayed(seed))
        divided += f"call void @{PARALLEL}" in text
    assert divided >= 5


class Replayed:
    """Any legal schedule, the same one for the same kernel."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Replayed) and other.seed == self.seed

    def __hash__(self) -> int:
        return self.seed

    def __call__(self, kernel: Kernel) -> Schedule:
        rng = np.random.default_rng(self.seed)
        for _ in range(20):
            schedule = fuzz.random_schedule(kernel, rng)
            try:
                loopify(kernel, schedule)
            except ScheduleError:
                continue
            return schedule
        return Schedule()


def softmax(x: Any) -> Any:
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def test_work_that_is_worth_it(rng: np.random.Generator) -> None:
    """By the estimates as they are: rows with a buffer each, a map along one axis, a product."""
    x = rng.standard_normal((701, 333)).astype(np.float32)
    for f, args in (
        (softmax, (x,)),
        (lambda a: np.tanh(a) + 1, (x.ravel(),)),
        (lambda a: a @ a.T, (x,)),
        (lambda a: np.sum(np.cos(a), axis=0), (x,)),
        (lambda a: np.where(a > 0, a, -a)[::-1, ::2], (x,)),
    ):
        assert f"call void @{PARALLEL}" in agree(f, args)


def test_lines_and_matrices_of_a_batch(rng: np.random.Generator) -> None:
    """Each has working memory of its own; the last group of lines is not full."""
    lines = rng.standard_normal((203, 300)).astype(np.float32)
    matrices = rng.standard_normal((500, 6, 6)) + 4 * np.eye(6)
    right = rng.standard_normal((500, 6, 2))
    wide = lines.astype(np.float64)
    for f, args in (
        (lambda x: np.sort(x, axis=-1), (lines,)),
        (lambda x: np.argsort(x, axis=0), (lines,)),
        (lambda x: np.cumsum(x, axis=1), (wide,)),
        (lambda x: np.cumsum(x.reshape(29, 7, 300), axis=1), (wide,)),
        (np.linalg.solve, (matrices, right)),
        (np.linalg.qr, (rng.standard_normal((50, 20, 20)),)),
        (np.linalg.eigvalsh, (matrices[:80] @ np.swapaxes(matrices[:80], 1, 2),)),
    ):
        text = agree(f, args)
        assert f"call void @{PARALLEL}" in text
        for got, want in zip(
            trees.leaves(tw.compile(f)(*args)), trees.leaves(f(*args)), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_callers_on_several_threads(rng: np.random.Generator) -> None:
    x = rng.standard_normal((300, 400)).astype(np.float32)
    f = tw.compile(softmax)
    expected, wrong = f(x).tobytes(), []

    def caller(count: int) -> None:
        with tw.threads(count):
            wrong.extend(count for _ in range(100) if f(x).tobytes() != expected)

    callers = [threading.Thread(target=caller, args=(k,)) for k in (1, 2, 3, 4)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong


def test_programs_after_a_fork(rng: np.random.Generator) -> None:
    x = rng.standard_normal((300, 400)).astype(np.float32)
    f = tw.compile(softmax)
    with tw.threads(3):
        expected = f(x).tobytes()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                same = f(x).tobytes() == expected
                other = np.array_equal(tw.compile(lambda a: a * 2)(x), x * 2)
                os._exit(0 if same and other else 1)
            assert f(x).tobytes() == expected
            assert awaited(pid) == 0


def test_forks_while_others_compile_and_call() -> None:
    """No lock that another thread held is shut in the child."""
    body = """
import threading, numpy as np
x, stop = np.ones((300, 400), np.float32), threading.Event()
def calls():
    f = tw.compile(lambda a: np.exp(a) + a)
    while not stop.is_set():
        f(x)
def compiles():
    k = 0
    while not stop.is_set():
        k += 1
        tw.compile(lambda a: np.exp(a) * float(k))(x)
others = [threading.Thread(target=f) for f in (calls, compiles)]
for o in others:
    o.start()
codes = []
for k in range(30):
    pid = os.fork()
    if pid == 0:
        same = np.allclose(tw.compile(lambda a: np.tanh(a) * float(k))(x), np.tanh(x) * k)
        os._exit(0 if same else 1)
    codes.append(t.awaited(pid))
stop.set()
for o in others:
    o.join()
print(set(codes))
"""
    ended = python(body)
    assert ended.stdout == "{0}\n", ended.stderr


def test_linking_where_nearby_addresses_are_taken() -> None:
    """Programs made after two gigabytes of stacks: the parts of one stay within reach."""
    body = """
import numpy as np
from programs import PROGRAMS
assert (t.counts(5000, 1, 256) == 1).all()
for p in PROGRAMS.values():
    tw.compile(p.function)(*p.arguments(np.random.default_rng(3)))
print(threads.pool().started())
"""
    ended = python(body)
    assert ended.stdout == "255\n", ended.stderr


# -- what is not divided -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64,), (16_384,), (64, 128)])
def test_small_work_has_no_fork(shape: tuple[int, ...]) -> None:
    assert PARALLEL not in tw.compile(lambda x: x + 1).lower(np.ones(shape, np.float32)).llvm


def test_one_thread_is_a_program_of_its_own() -> None:
    x = np.ones((1000, 1000), np.float32)
    assert PARALLEL in tw.compile(softmax).lower(x).llvm
    assert PARALLEL not in tw.compile(threads=1)(softmax).lower(x).llvm


def test_a_machine_without_the_pool() -> None:
    program = tw.compile(softmax).lower(np.ones((1000, 1000), np.float32)).program
    assert PARALLEL in llvm.print_program(program, machine())
    assert PARALLEL not in llvm.print_program(program)


def test_a_function_has_a_limit_of_its_own() -> None:
    body = """
import numpy as np
x = np.ones((1000, 1000), np.float32)
tw.compile(threads=2)(lambda x: np.exp(x))(x)
print(threads.pool().started())
tw.compile(lambda x: np.exp(x))(x)
print(threads.pool().started())
"""
    assert python(body, TILEWRIGHT_NUM_THREADS="4").stdout.split() == ["1", "3"]


@pytest.mark.parametrize("count", [0, -2, 1.5, True])
def test_limits_that_are_none(count: Any) -> None:
    with pytest.raises(BadThreadCount):
        tw.compile(threads=count)(softmax)


# -- what a loop takes along -------------------------------------------------------------------


X = Buffer("x", dtypes.float64, (4, 1000), "input")
OUT = Buffer("out", dtypes.float64, (4, 1000), "output")


def nest(total: Buffer, inside: bool) -> Program:
    """out[i, j] = x[i, j] * i + x[i, 0], with j parallel inside i, through a buffer that is
    declared outside both loops and, unless only used `inside`, read after the inner one."""
    i, j = axis("i", 4), axis("j", 1000)
    first, scale = var("first", dtypes.float64), var("scale", dtypes.int64)
    put = Store(total, (), X[i, j] * cast(scale, dtypes.float64))
    add = Accumulate(total, (), "sum", first)
    inner = loop(j, put, add, Store(OUT, (i, j), total[()]), kind="parallel")
    after = [] if inside else [Store(OUT, (i, index("+", i, 0 * i)), total[()])]
    body = loop(i, Let(first, X[i, 0]), Let(scale, index("+", i, i)), inner, *after)
    return Program((Function("f", (X, OUT), block(Alloc(total), body)),))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("scope", ["registers", "stack"])
def test_buffers_of_one_iteration_move_inside(scope: str) -> None:
    program = nest(Buffer("total", dtypes.float64, (), scope), inside=True)
    made, regions = parallel.outline(program)
    (region,) = regions.values()
    assert region.function.params == (X, OUT)
    assert [v.name for v in region.scalars] == ["i", "first", "scale"]
    assert not any(isinstance(s, Alloc) for s in loops.statements(made.entry.body))
    assert any(isinstance(s, Alloc) for s in loops.statements(region.function.body))


@pytest.mark.usefixtures("eager")
def test_registers_that_live_on_keep_the_loop_serial() -> None:
    program = nest(Buffer("total", dtypes.float64, (), "registers"), inside=False)
    assert parallel.outline(program) == (program, {})


def prepared(source: Buffer) -> Program:
    """out[i, j] = row[j] + i for j parallel inside i, of which row is a copy of the source's."""
    i, j, k = axis("i", 4), axis("j", 1000), axis("k", 1000)
    row = Buffer("row", dtypes.float64, (1000,), "stack")
    copied = loop(k, Store(row, (k,), source[i, k]))
    put = Store(OUT, (i, j), row[j] + cast(i, dtypes.float64))
    body = loop(i, Alloc(row), copied, loop(j, put, kind="parallel"), kind="parallel")
    return Program((Function("f", (X, OUT), block(body)),))


@pytest.mark.usefixtures("eager")
def test_few_iterations_are_divided_with_those_inside(rng: np.random.Generator) -> None:
    """Chunks that begin in the middle prepare again."""
    program = prepared(X)
    (region,) = parallel.outline(program)[1].values()
    assert [a.name for a in (*region.outer, *region.inner)] == ["i", "j"]
    assert (region.extent, region.unit) == (4000, 1000)
    text = llvm.named(llvm.print_program(program, machine()), "prepared")
    code = jit.object_code(text, machine())
    call = jit.load(code, "prepared", machine(), threads.symbols(code)).call
    x = rng.standard_normal((4, 1000))
    for count in (1, 2, 3, 5, 7):
        out = np.zeros_like(x)
        with tw.threads(count):
            call(jit.pointers([x.ctypes.data, out.ctypes.data]))
        assert np.array_equal(out, x + np.arange(4)[:, None]), f"{count} threads"


@pytest.mark.usefixtures("eager")
def test_what_would_be_read_after_it_is_written_is_not_prepared_again() -> None:
    (region,) = parallel.outline(prepared(OUT))[1].values()
    assert (region.outer, region.inner[0].name, region.extent) == ((), "i", 4)


@pytest.mark.usefixtures("eager")
def test_functions_that_only_have_a_region_run_are_none() -> None:
    """The entry has it run, at the places that it passed on; what does more stays a function."""
    (f,) = prepared(X).functions
    far = Buffer("far", dtypes.float64, (5, 1000), "temp")
    whole = Buffer("whole", dtypes.float64, (4, 1000), "output")
    ahead = Call("f", (Ref(far, as_index(1000)), Ref(whole, as_index(0))), None)
    entry = Function("entry", (far, whole), block(ahead))
    made, regions = parallel.outline(Program((f, entry)))
    ((name, region),) = regions.items()
    assert [g.name for g in made.functions] == [name, "entry"] and region.of is f
    assert made.entry.body.statements == (Call(name, ahead.args, None),)
    number = var("n", dtypes.int64)
    more = Function("f", f.params, f.body, (), (number,))
    calls = Function("entry", (far, whole), block(Call("f", (*ahead.args, as_index(7)), None)))
    made, _ = parallel.outline(Program((more, calls)))
    assert [g.name for g in made.functions] == [name, "f", "entry"]


@pytest.mark.usefixtures("eager")
def test_a_program_that_is_one_region_has_it_as_its_entry() -> None:
    """It has the pool run itself. Not if it gets a place in an array, or one array twice."""
    (f,) = prepared(X).functions
    x, out = Buffer("x", X.dtype, X.shape, "input"), Buffer("out", OUT.dtype, OUT.shape, "output")

    def names(*given: Expr | Ref) -> tuple[list[str], list[str]]:
        entry = Function("entry", (out, x), block(Call("f", given, None)))
        made, regions = parallel.outline(Program((f, entry)))
        return [g.name for g in made.functions], [*regions]

    start = as_index(0)
    assert names(Ref(x, start), Ref(out, start)) == (["entry"], ["entry"])
    assert names(Ref(x, as_index(1)), Ref(out, start)) == (["f.0", "entry"], ["f.0"])
    assert names(Ref(x, start), Ref(x, start)) == (["f.0", "entry"], ["f.0"])
    text = llvm.print_program(Program((*prepared(X).functions,)), machine())
    assert text.count("define ") == 1
    assert f"call void @{PARALLEL}(ptr @{llvm.ENTRY}, ptr %env, i64 4000," in text


def test_what_is_beside_products_is_printed_as_they_are(rng: np.random.Generator) -> None:
    """The copy with a border before a convolution is a region of its own, and as little is made of
    it as on one thread, where it is in one function with the products."""
    image, weights = (
        rng.standard_normal(s).astype(np.float32) for s in ((1, 64, 56, 56), (64, 64, 3, 3))
    )
    f = tw.compile(
        lambda a, b: tw.lax.conv(a, b, (1, 1), "SAME"),
        options=tw.Options(threads=MANY, winograd=False),
    )
    heads = re.findall(r"^define .*", f.lower(image, weights).llvm, re.MULTILINE)
    regions = heads[:-1]  # the entry has both run
    written = multiply_add.WRITTEN in multiply_add.native(machine())
    assert len(regions) == 2
    assert [llvm.AS_PRINTED.strip() in h for h in regions] == [written] * 2


def test_uneven_shapes_are_one_region_with_several_axes(rng: np.random.Generator) -> None:
    """Panels, and rows of two heights with the last columns by themselves."""
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((205, 300), (300, 130)))
    images, windows = (
        rng.standard_normal(s).astype(np.float32) for s in ((3, 20, 13, 13), (40, 20, 3, 3))
    )
    options = tw.Options(winograd=False)
    for f, args in (
        (lambda a, b: a @ b, (x, w)),
        (lambda a, b: tw.lax.conv(a, b, (1, 1), "SAME"), (images, windows)),
    ):
        text = agree(f, args, options=options)
        found = re.findall(
            rf"call void @{PARALLEL}\(.*, i64 (\d+), (?:i64 \d+, ){{3}}i64 \d+\)", text
        )
        assert int(found[-1]) >= 16, text


def test_grains_follow_the_cost() -> None:
    """Chunks of light iterations have more of them."""

    def grain(f: Callable[..., Any], *args: Any) -> int:
        text = tw.compile(f).lower(*args).llvm
        (found,) = re.findall(rf"call void @{PARALLEL}\(.*, i64 (\d+), i64 \d+, i64 0\)", text)
        return int(found)

    x = np.ones(1 << 22, np.float32)
    light, heavy = grain(lambda x: x + 1, x), grain(lambda x: np.tanh(np.exp(x)), x)
    assert 1 <= heavy < light
    assert grain(lambda x: np.sum(np.exp(x), axis=1), np.ones((64, 20_000), np.float32)) == 1
