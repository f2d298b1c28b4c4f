"""Real programs while threads come and go: the bits of one thread, from run to run, at any number
of threads, in a thousand forks and changes of the number, while another thread calls.

Shapes are large enough that the work is divided by the estimates as they are, and uneven.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import tilewright as tw
from test_threads import awaited, ends_at, python, tasks
from tilewright import trees
from tilewright.codegen.pool import PARALLEL
from tilewright.runtime import threads

pytestmark = pytest.mark.skipif(not threads.available(), reason="the pool needs Linux")

FORKS = 1000


class Work(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]


def doubles(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def floats(*shape: int) -> Any:
    return doubles(*shape).astype(np.float32)


def integers(high: int, *shape: int, dtype: Any = np.int64) -> Any:
    return np.random.default_rng(high).integers(0, high, shape).astype(dtype)


def attend(q: Any, k: Any, v: Any, causal: bool) -> Any:
    return tw.nn.dot_product_attention(q, k, v, is_causal=causal)


def convolve(x: Any, w: Any, stride: int = 1, groups: int = 1) -> Any:
    return tw.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", feature_group_count=groups,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )  # fmt: skip


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def diffused(x: Any) -> Any:
    def step(u: Any, _: Any) -> Any:
        inner = u[1:-1, 1:-1]
        around = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2]
        return np.pad(inner + 0.1 * (around - 4 * inner), 1), None

    return tw.scan(step, x, None, length=5)[0]


HEADS = (floats(1, 70, 4, 32), floats(1, 90, 4, 32), floats(1, 90, 4, 32))
WORKS: dict[str, Work] = {
    "product": Work(np.matmul, (floats(131, 300), floats(300, 157))),
    "product of few rows": Work(np.matmul, (floats(5, 3001), floats(3001, 97))),
    "matrix and vector": Work(np.matmul, (floats(1001, 777), floats(777))),
    "products of a batch": Work(np.matmul, (floats(13, 40, 50), floats(13, 50, 31))),
    "product of float64": Work(np.matmul, (doubles(90, 200), doubles(200, 71))),
    "product of bfloat16": Work(
        np.matmul, tuple(a.astype(ml_dtypes.bfloat16) for a in (floats(290, 328), floats(328, 311)))
    ),
    "product of int8": Work(
        lambda a, b: tw.lax.dot(a, b, preferred_element_type=np.int32),
        (integers(100, 290, 628, dtype=np.int8), integers(99, 628, 311, dtype=np.int8)),
    ),
    "windows of 3 by 3": Work(convolve, (floats(2, 16, 29, 31), floats(24, 16, 3, 3))),
    "strided windows": Work(
        functools.partial(convolve, stride=2), (floats(1, 16, 57, 49), floats(24, 16, 5, 5))
    ),
    "depthwise windows": Work(
        functools.partial(convolve, groups=48), (floats(1, 48, 41, 39), floats(48, 1, 3, 3))
    ),
    "gradient of windows": Work(
        tw.grad(lambda w, x: (convolve(x, w) ** 2).sum()),
        (floats(24, 16, 3, 3), floats(2, 16, 29, 31)),
    ),
    "attention": Work(functools.partial(attend, causal=False), HEADS),
    "gradient of attention": Work(
        tw.grad(lambda q, k, v: (attend(q, k, v, True) ** 2).sum(), argnums=(0, 1, 2)), HEADS
    ),
    "attention of one query": Work(
        functools.partial(attend, causal=False),
        (floats(1, 1, 4, 64), floats(1, 1500, 4, 64), floats(1, 1500, 4, 64)),
    ),
    "softmax": Work(softmax, (floats(201, 403),)),
    "sum of everything": Work(lambda x: x.sum(), (floats(777, 1009),)),
    "mean and variance": Work(lambda x: (x.mean(0), x.var(0)), (floats(777, 501),)),
    "argmax": Work(lambda x: x.argmax(1), (floats(501, 777),)),
    "pointwise": Work(lambda x: np.tanh(x) * np.sin(x), (floats(100_003),)),
    "sort": Work(functools.partial(np.sort, axis=1), (floats(203, 300),)),
    "argsort": Work(functools.partial(np.argsort, axis=0), (floats(203, 99),)),
    "sums up to each": Work(functools.partial(np.cumsum, axis=1), (floats(203, 501),)),
    "scatter": Work(
        lambda x, i, u: x.at[i].add(u), (floats(50, 33), integers(50, 4001), floats(4001, 33))
    ),
    "gather": Work(lambda x, i: x[i] * 2, (floats(501, 33), integers(501, 4001))),
    "steps over a plane": Work(diffused, (floats(301, 203),)),
    "small systems": Work(
        np.linalg.solve, (doubles(400, 6, 6) + 9 * np.eye(6), doubles(400, 6, 1))
    ),
}  # fmt: skip
SERIAL = ("scatter",)
"""Not divided, but beside the others all the same."""


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(a).tobytes() for a in trees.leaves(tree)]


class Load:
    """Another thread that calls a program on three threads while the block lasts."""

    def __init__(self) -> None:
        work = WORKS["product"]
        self.f, self.args = tw.compile(work.function), work.args
        self.expected = bits(self.f(*self.args))
        self.stop, self.wrong = threading.Event(), 0
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        with tw.threads(3):
            while not self.stop.is_set():
                self.wrong += bits(self.f(*self.args)) != self.expected

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.mark.parametrize("name", WORKS)
def test_the_bits_of_one_thread(name: str) -> None:
    f, args = WORKS[name]
    expected = bits(tw.compile(f, threads=1)(*args))
    many = tw.compile(f, threads=3)
    assert (f"call void @{PARALLEL}" in many.lower(*args).llvm) is (name not in SERIAL)
    with Load() as load:
        for count in (1, 2, 3) * 3:
            with tw.threads(count):
                assert bits(many(*args)) == expected, f"{count} threads"
    assert not load.wrong


def resident() -> int:
    """Bytes of memory this process has."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forks() -> str:
    """Fork and change the number of threads so many times, one program after the other, under
    load; what went wrong."""
    programs = {n: (tw.compile(w.function), w.args) for n, w in WORKS.items()}
    with tw.threads(3):
        expected = {n: bits(f(*args)) for n, (f, args) in programs.items()}
        wrong: list[str] = []
        names = list(programs)
        tasks_before, before = tasks(), 0
        with Load() as load:
            for k in range(FORKS):
                name = names[k % len(names)]
                f, args = programs[name]
                pid = os.fork()
                if pid == 0:
                    with tw.threads(1 + k % 4):
                        os._exit(0 if bits(f(*args)) == expected[name] else 1)
                with tw.threads(1 + (k + k // 4) % 4):
                    if bits(f(*args)) != expected[name]:
                        wrong.append(f"{name} in the parent")
                if awaited(pid):
                    wrong.append(f"{name} in child {k}")
                if k == FORKS // 5:
                    before = resident()
        grown = resident() - before
    if load.wrong:
        wrong.append("the load")
    if grown > 64 << 20:
        wrong.append(f"{grown >> 20} MB more than after a fifth of the forks")
    if not ends_at(tasks_before + 1):  # three more threads than the caller, for four in all
        wrong.append(f"{tasks()} threads instead of {tasks_before + 1}")
    return "; ".join(wrong) or "all well"


def test_a_thousand_forks_and_changes_under_load() -> None:
    ended = python("import test_stress\nprint(test_stress.forks())")
    assert ended.stdout == "all well\n", ended.stderr
