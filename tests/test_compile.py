"""`compile` itself: signatures, caches, inputs of every kind, what can be printed, threads."""

from __future__ import annotations

import functools
import gc
import threading
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import tracing
from tilewright.errors import Recompilation
from tilewright.options import Options
from tilewright.runtime import memory
from tilewright.transforms import pipeline
from tilewright.transforms.schedule import Schedule


def test_one_entry_per_signature() -> None:
    """Shapes and dtypes decide; values do not."""
    f = tw.compile(lambda x: x * 2)
    for x in (np.zeros(3), np.ones(3), np.zeros(4), np.zeros(3, np.float32)):
        np.testing.assert_array_equal(f(x), x * 2)
    assert len(f.signatures) == 3


def test_a_fresh_lambda_is_traced_but_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are shared by what they compute, not by the function object."""
    x = np.arange(5.0)
    tw.compile(lambda x: np.exp(x) - 17.25)(x)
    monkeypatch.setattr(pipeline, "lower", None)  # calling it would fail
    np.testing.assert_allclose(tw.compile(lambda x: np.exp(x) - 17.25)(x), np.exp(x) - 17.25)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_collector_is_left_as_it_was(enabled: bool, frozen: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        if frozen:
            gc.freeze()
        count = gc.get_freeze_count()
        assert bool(count) is frozen
        tw.compile(lambda x: x * 3 - x)(np.arange(5.0 + enabled + 2 * frozen))
        assert gc.isenabled() is enabled
        assert (gc.get_freeze_count() > 0) is frozen
    finally:
        gc.unfreeze()
        (gc.enable if before else gc.disable)()


def test_captured_arrays_are_inputs_of_the_program() -> None:
    """A write to a captured array is seen by the next call; equal code shares one program."""
    table = np.arange(4.0)
    f = tw.compile(lambda x: x + table)
    assert f(np.zeros(4)).tolist() == [0, 1, 2, 3]
    table[0] = 9
    assert f(np.zeros(4)).tolist() == [9, 1, 2, 3]


def test_the_reason_of_a_recompilation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TILEWRIGHT_SHOW", "cache")
    f = tw.compile(lambda x, y: x + y)
    f(np.zeros(3), np.zeros(3))
    assert capsys.readouterr().err == ""
    f(np.zeros(3), np.zeros(1, np.float32))
    text = capsys.readouterr().err
    assert "`<lambda>` is compiled again: `y` was f64[3] and is f32[1]" in text


def test_static_arguments_are_part_of_the_signature() -> None:
    def power(x, n, flip=False):
        for _ in range(n):
            x = x * x
        return x[::-1] if flip else x

    f = tw.compile(static=("n", "flip"))(power)
    x = np.array([1.0, 2.0])
    assert f(x, 2).tolist() == [1, 16]
    assert f(x, 1, flip=True).tolist() == [4, 1]
    assert len(f.signatures) == 2


@pytest.mark.parametrize(
    "x",
    [
        np.arange(24.0).reshape(4, 6)[:, ::2],
        np.arange(24.0).reshape(4, 6).T,
        np.arange(24.0)[::-1],
        np.frombuffer(bytes(range(1)) + np.arange(5.0).tobytes(), np.float64, offset=1),
        np.arange(5.0).astype(">f8"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.broadcast_to(np.arange(3.0), (2, 3)),
    ],
    ids=["columns", "transposed", "reversed", "misaligned", "big-endian", "fortran", "broadcast"],
)
def test_inputs_of_any_layout(x: np.ndarray) -> None:
    before = x.copy()
    np.testing.assert_array_equal(tw.compile(lambda x: x * 2 + 1)(x), x * 2 + 1)
    np.testing.assert_array_equal(x, before)


def test_results_are_new_arrays() -> None:
    """Also when the function returns its argument, or one array twice."""
    x = np.arange(3.0)
    a, b, c = tw.compile(lambda x: (x, x, x + 1))(x)
    a[0] = b[1] = 100
    assert x.tolist() == [0, 1, 2]
    assert (a.tolist(), b.tolist(), c.tolist()) == ([100, 1, 2], [0, 100, 2], [1, 2, 3])


def test_large_results_survive_the_next_call() -> None:
    """Their memory is recycled only when nobody holds it, views included."""
    f = tw.compile(lambda x: x + 1)
    x = np.zeros(memory.LARGE)
    first = f(x)
    row = f(x + 1)[5:7]
    for _ in range(8):
        f(x + 5)
    assert first.min() == first.max() == 1
    assert row.tolist() == [2, 2]


def test_calls_from_many_threads() -> None:
    """A compiled function is re-entrant, its first call included."""
    f = tw.compile(lambda x: (np.exp(x - x.max(-1, keepdims=True)) @ np.ones((50, 3))).sum(0))
    inputs = [np.random.default_rng(i).standard_normal((40, 50)) for i in range(8)]
    expected = [f._f(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(50) if not np.allclose(f(inputs[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_methods_and_inner_calls() -> None:
    """A compiled method binds its object; a compiled function traces through another."""
    double = tw.compile(lambda x: 2 * x)

    class Model:
        def __init__(self) -> None:
            self.w = np.ones(3)

        @tw.compile(static=(0,))
        def __call__(self, x):
            return double(x) + self.w

    np.testing.assert_array_equal(Model()(np.zeros(3)), np.ones(3))
    lowered = tw.compile(lambda x: double(x) + 1).lower(np.zeros(3))
    assert len(lowered.kernels) == 1


def test_every_stage_prints() -> None:
    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    stages = tw.compile(softmax).lower(np.zeros((4, 8), np.float32))
    assert "reduce_max(x" in str(stages.graph)
    assert "max[k:8](x[i,k])" in str(stages.kernels[0])
    assert "Parallel(i)" in str(next(iter(stages.schedules.values())))
    assert "parallel i in 4" in stages.loops
    assert "define void @tw_" in stages.llvm
    assert "for (int64_t" in stages.c
    assert "ret" in stages.asm
    assert "it is a result" in stages.explain()
    assert stages.arena_bytes == 0


def test_a_scheduler_of_ones_own() -> None:
    """The scheduler is a parameter: as written gives plain loops and the same values."""
    f = tw.compile(scheduler=lambda kernel: Schedule())(lambda x, w: np.tanh(x @ w).sum(0))
    x, w = np.arange(12.0).reshape(3, 4) / 9, np.arange(20.0).reshape(4, 5) / 7
    np.testing.assert_allclose(f(x, w), np.tanh(x @ w).sum(0), rtol=1e-13)
    assert "vector" not in f.lower(x, w).loops


def test_verify_checks_every_pass() -> None:
    f = tw.compile(options=Options(verify=True))(lambda x: (x + 0) * 1)
    assert f(np.arange(3)).tolist() == [0, 1, 2]


def test_a_note_on_recompilation() -> None:
    note = Recompilation("f", "x", "f32[3]", "f32[4]")
    assert isinstance(note, Warning)
    first, *_, last = str(note).splitlines()
    assert first == "`f` is compiled again: `x` was f32[3] and is f32[4]"
    assert last == "Pass arrays of few distinct shapes and dtypes: pad them to a few sizes."


def test_arguments_are_called_as_the_function_calls_them() -> None:
    """With keywords beside the further ones, inside methods, and where nobody tells."""

    class Model:
        def call(self, a: Any, *more: Any) -> Any:
            return a

    def plain(a: Any, b: Any = 2, *more: Any, c: Any = 1, **d: Any) -> Any:
        return a

    names = tracing.parameter_names
    assert names(plain, 4) == ["a", "b", "more[0]", "more[1]"]
    assert names(functools.wraps(plain)(lambda *x: plain(*x)), 3) == ["a", "b", "more[0]"]
    assert names(functools.partial(plain, 1), 2) == ["b", "more[0]"]
    assert names(Model().call, 2) == ["a", "more[0]"]
    assert names(lambda *x: x, 2) == ["x[0]", "x[1]"]
    assert names(np.add, 2)[0] in ("x1", "args[0]") and names(plain, 0) == []
