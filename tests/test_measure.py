"""Measuring candidates: right ones get times, others cost one trial; nothing is left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from test_encoding import kernels_of
from tilewright import dtypes
from tilewright.compile import machine
from tilewright.cost_model import encoding, measure, worker
from tilewright.cost_model.measure import Limits, Outcome, Runner, Task, measured, outcomes
from tilewright.cost_model.records import Database
from tilewright.expr import Buffer, Reduce, axis
from tilewright.kernel import Assign, Kernel
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Schedule, Split, Unroll, Vectorize

ROWS, SQUARE = np.ones((48, 64), np.float32), np.ones((64, 64), np.float32)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


def product() -> Kernel:
    (k,) = kernels_of(lambda x, w: np.maximum(x @ w, 0), ROWS, SQUARE)
    return k


def tile(rows: int) -> Schedule:
    return Schedule((Split("i", rows), Unroll("i.i"), Split("j", 16), Vectorize("j.i")))


def reading(offset: int) -> Kernel:
    """A copy that reads so far away from where it should."""
    i = axis("i", 64)
    x, out = (Buffer(n, dtypes.float32, (64,), s) for n, s in (("x", "input"), ("y", "output")))
    return Kernel("far", (i,), (Assign(out, (i,), (), x[i + offset]),))


def endless() -> Kernel:
    """More sums than anybody has time for."""
    i, k = axis("i", 1 << 36), axis("k", 1 << 36)
    x, out = (Buffer(n, dtypes.float32, (7,), s) for n, s in (("x", "input"), ("y", "output")))
    return Kernel("long", (i,), (Assign(out, (i % 7,), (), Reduce("sum", (k,), x[(i + k) % 7])),))


def vast() -> Kernel:
    """A copy of 4 GiB."""
    i = axis("i", 1 << 30)
    x, out = (
        Buffer(n, dtypes.float32, (1 << 30,), s) for n, s in (("x", "input"), ("y", "output"))
    )
    return Kernel("vast", (i,), (Assign(out, (i,), (), x[i]),))


def one(runner: Runner, task: Task) -> Outcome:
    (found,) = runner.outcomes([task])
    return found


def check_measured(found: Outcome) -> None:
    assert found.error == ""
    assert found.seconds is not None
    assert found.ratio is not None
    assert found.spread is not None
    assert found.seconds > 0
    assert found.ratio > 0
    assert found.spread >= 0
    assert found.machine == encoding.machine_key()


# -- right candidates ------------------------------------------------------------------------------


def test_candidates_are_measured_in_order(runner: Runner) -> None:
    """One row at a time reuses nothing: it takes a multiple of what tiles take."""
    k = product()
    found = list(runner.outcomes(Task.of(k, tile(rows)) for rows in (8, 1, 12, 1)))
    for x in found:
        check_measured(x)
    ratios = [x.ratio for x in found]
    assert max(ratios[0], ratios[2]) < min(ratios[1], ratios[3])


def test_the_default_schedule_takes_as_long_as_itself(runner: Runner) -> None:
    k = product()
    found = one(runner, Task.of(k, heuristic(k, machine())))
    check_measured(found)
    assert 0.5 < (found.ratio or 0) < 2


def measurable() -> dict[str, Kernel]:
    w = tw.constant(np.ones((64, 512), np.float32))
    many = np.ones((3, 100), np.float32)
    index = np.zeros(7, np.int64)
    small = [np.ones((32, 64), np.int8), np.ones((64, 48), np.int8)]

    def words(x: Any, y: Any) -> Any:
        return np.matmul(x, y, dtype=np.int32)

    found = {
        "packed": kernels_of(lambda x: x @ w, np.ones((256, 64), np.float32)),
        "words": kernels_of(words, *small),
        "row": kernels_of(tw.nn.softmax, many),
        "gather": kernels_of(lambda x, i: np.take(x, i) + 1, many, index),
        "half": kernels_of(lambda x: np.tanh(x) * x, many.astype(np.float16)),
        "bool": kernels_of(lambda x: x > 1, many),
        "complex": kernels_of(lambda x: x * x, many.astype(np.complex64)),
        "sum": kernels_of(lambda x: x.sum(), ROWS),
    }
    return {name: ks[0] for name, ks in found.items()}


@pytest.mark.parametrize("name", sorted(measurable()))
def test_every_kind_of_kernel_is_measured(runner: Runner, name: str) -> None:
    k = measurable()[name]
    check_measured(one(runner, Task.of(k, heuristic(k, machine()))))
    check_measured(one(runner, Task.of(k, Schedule())))


def test_two_threads_are_measured(runner: Runner) -> None:
    k = product()
    default = heuristic(k, machine())
    tasks = [Task.of(k, s, n) for s in (default, tile(8)) for n in (2, 1, 2)]
    for found in runner.outcomes(tasks):
        check_measured(found)


def test_outcomes_become_records(runner: Runner, tmp_path: Path) -> None:
    k, database = product(), Database(tmp_path / "m.sqlite")
    tasks = [Task.of(k, tile(8)), Task.of(k, Schedule((Split("nowhere", 2),)))]
    found = list(measure.records(tasks, runner.outcomes(tasks), 7))
    assert database.insert(found, [k]) == 2
    assert [r.features for r in database.records()] == [7, 7]
    assert [bool(r.error) for r in found] == [False, True]
    ((best, ratio),) = database.best(k, encoding.machine_key(), 1)
    assert best == tile(8)
    assert ratio == pytest.approx(found[0].ratio)


def test_variables_narrow_the_machine() -> None:
    if machine().vector_bytes < 64:
        pytest.skip("this machine is as narrow as that")
    with Runner({"TILEWRIGHT_TARGET": "avx2"}) as narrow:
        found = one(narrow, Task.of(product(), tile(4)))
    assert found.error == ""
    assert found.machine not in ("", encoding.machine_key())


# -- wrong candidates ------------------------------------------------------------------------------

WRONG: dict[str, tuple[Task, str]] = {
    "crashes": (Task.of(reading(1 << 40), Schedule()), "died of SIGSEGV"),
    "hangs": (
        Task.of(endless(), Schedule(), limits=Limits(run_seconds=1.0)),
        "more than 1 seconds to time",
    ),
    "is endless to build": (
        Task.of(vast(), Schedule((Split("i", 1 << 22), Unroll("i.i"))),
                limits=Limits(build_seconds=1.0)),
        "more than 1 seconds to build",
    ),
    "takes too much memory": (
        Task.of(vast(), Schedule(), limits=Limits(memory_bytes=2 << 30)), "4.0 GiB"
    ),
    "is not legal": (Task.of(product(), Schedule((Split("i", 99),))), "the factor does not fit"),
    "is no schedule": (replace(Task.of(product(), Schedule()), schedule="[1]"), "stored schedule"),
    "is no kernel": (replace(Task.of(product(), Schedule()), kernel="{}"), "stored kernel"),
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
def test_a_candidate_that_fails_costs_one_trial(runner: Runner, how: str) -> None:
    task, error = WRONG[how]
    good = Task.of(product(), tile(8))
    before, failed, after = runner.outcomes([good, task, good])
    check_measured(before)
    check_measured(after)
    assert error in failed.error
    assert (failed.seconds, failed.ratio, failed.machine) == (None, None, encoding.machine_key())


def test_a_wrong_result_is_an_error() -> None:
    (other,) = kernels_of(lambda x, w: np.maximum(x @ w, 4000), ROWS, SQUARE)
    right = worker.built(encoding.encode(product()), None, 1)
    wrong = worker.built(encoding.encode(other), None, 1)
    timer = worker.Timer()
    assert "ratio" in timer.timed(right, right, 1)
    assert "something else than the default schedule" in timer.timed(wrong, right, 1)["error"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, dtypes.bfloat16, np.int32])
def test_results_may_differ_by_rounding_and_no_more(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a = (rng.random(1000) * 100).astype(dtype)
    b = a.copy()
    assert worker._difference([a], [b], True) == ""
    b[17] = b[17] * dtypes.float32.type(1.5) + 40
    assert worker._difference([a], [b], True) != ""
    if dtypes.is_inexact(a.dtype):
        near = a.astype(np.float64) * (1 + worker.TOLERANCE[a.dtype] / 8)
        assert worker._difference([near.astype(dtype)], [a], True) == ""
        b = a.copy()
        b[3] = np.nan
        assert "off by nan" in worker._difference([b], [a], True)
        assert worker._difference([b], [b.copy()], True) == ""


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("print('nonsense', flush=True); input()", "garbage"),
        ("print('[1]', flush=True); input()", "garbage"),
        ("import sys; sys.exit(3)", "exited with 3"),
        ("import os; os.close(1); input(); input()", ""),
    ],
)
def test_children_that_talk_nonsense_are_dealt_with(
    monkeypatch: pytest.MonkeyPatch, code: str, error: str
) -> None:
    monkeypatch.setattr(measure, "BOOT", code)
    with Runner() as broken:
        found = list(broken.outcomes([Task.of(product(), tile(8))] * 2))
        assert all(error in f.error and f.error for f in found)
        monkeypatch.undo()
        check_measured(one(broken, Task.of(product(), tile(8))))


# -- what a time is --------------------------------------------------------------------------------


class Stretches:
    """Stands for a program in memory: a stretch takes as long as the next of some numbers, the last
    one for ever, in units of 100 microseconds."""

    def __init__(self, *times: float) -> None:
        self.times, self.count = [*times], 0

    def __call__(self) -> float:
        self.count += 1
        return 1e-4 * (self.times.pop(0) if len(self.times) > 1 else self.times[0])


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stretches, Stretches], float]:
    """The quotient of a candidate by its reference, by one timer."""
    monkeypatch.setattr(worker, "_sampler", lambda run, clock: (run, 1e-4))
    timer = worker.Timer()

    def ratio(own: Stretches, reference: Stretches) -> float:
        found = timer._compared(own, reference, time.thread_time)  # type: ignore[arg-type]
        return float(found["ratio"])

    return ratio


def test_a_few_stretches_say_enough_where_they_agree(compared: Any) -> None:
    own = Stretches(2)
    assert compared(own, Stretches(4)) == pytest.approx(0.5)
    assert own.count == worker.PAIRS


def test_what_disturbs_some_stretches_does_not_count(compared: Any) -> None:
    assert compared(Stretches(3, 3, 2.6, 3, 2.7, 2, 3, 2, 2), Stretches(4)) == pytest.approx(0.5)
    assert compared(Stretches(2), Stretches(5, 4, 5, 5, 4, 5, 5, 4)) == pytest.approx(0.5)


def test_a_disturbed_reference_makes_nothing_look_fast(compared: Any) -> None:
    assert compared(Stretches(2), Stretches(4)) == pytest.approx(0.5)
    disturbed = compared(Stretches(2), Stretches(5))
    assert 0.5 > disturbed > 0.5 / (1 + 2 * worker.CALM)


# -- nothing is left -------------------------------------------------------------------------------


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")
def test_no_process_and_no_file_is_left() -> None:
    before = _open_files()
    with Runner() as made:
        list(made.outcomes([Task.of(product(), tile(8)), WRONG["crashes"][0]]))
        list(made.outcomes([Task.of(product(), tile(8))]))
        children = [c.process for c in made._children.values()]
        assert len(children) >= 2
        assert _open_files() > before
    assert [c.poll() for c in children] == [-signal.SIGKILL] * len(children)
    assert not any(os.path.exists(f"/proc/{c.pid}") for c in children), "no zombies"
    assert _open_files() == before


def test_an_interrupted_search_goes_on(runner: Runner) -> None:
    tasks = [Task.of(product(), tile(rows)) for rows in (1, 2, 4, 8)]
    some = runner.outcomes(tasks)
    check_measured(next(some))
    some.close()  # type: ignore[attr-defined]
    for found in runner.outcomes(tasks[:2]):
        check_measured(found)


PARENT = """
import sys, time
from tilewright.cost_model.measure import Runner, Task
runner = Runner()
list(runner.outcomes([Task(*sys.argv[1:3])]))
print(*(c.process.pid for c in runner._children.values()), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="there is no /proc")
def test_children_do_not_outlive_a_parent_that_is_killed() -> None:
    task = Task.of(product(), tile(8))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PARENT, task.kernel, task.schedule]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = parent.stdout.readline().split()
        parent.kill()
    assert len(children) >= 2
    for _ in range(200):
        if not any(map(_runs, children)):
            return
        time.sleep(0.05)
    raise AssertionError("a child still runs")


def _runs(pid: str) -> bool:
    """Whether a process runs; who has no parent may wait long for the init process to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- executors -------------------------------------------------------------------------------------


def test_tasks_and_outcomes_are_plain_data() -> None:
    task = Task.of(product(), tile(8))
    assert pickle.loads(pickle.dumps(task)) == task
    assert pickle.loads(pickle.dumps(Outcome(1.0, 2.0))) == Outcome(1.0, 2.0)


def test_measuring_on_a_process_pool() -> None:
    good, bad = Task.of(product(), tile(8)), WRONG["crashes"][0]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = list(outcomes([good, bad, good], pool))
    check_measured(found[0])
    check_measured(found[2])
    assert "SIGSEGV" in found[1].error


def _die(_: object) -> None:
    os._exit(1)


def test_a_worker_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measured", _die)
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        found = list(outcomes([Task.of(product(), tile(8))] * 2, pool))
    assert [f.error.startswith("the worker failed: BrokenProcessPool") for f in found] == [True] * 2


def test_measuring_on_dask() -> None:
    distributed = pytest.importorskip("distributed")
    good, bad = Task.of(product(), tile(8)), WRONG["crashes"][0]
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        found = list(outcomes([good, bad, good], client.get_executor()))
    check_measured(found[0])
    check_measured(found[2])
    assert "SIGSEGV" in found[1].error


def test_measured_keeps_its_children() -> None:
    task = Task.of(product(), tile(8))
    check_measured(measured(task))
    child = measure._runner()._children["time"]
    check_measured(measured(task))
    assert measure._runner()._children["time"] is child
    measure._runner().close()
    assert measure._runner()._children == {}
    check_measured(measured(task))
    measure._runner().close()
