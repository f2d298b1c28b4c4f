"""The thread pool: every iteration runs once, whatever else goes on; how many threads there are.

The pool is tested with regions written in LLVM IR, which count their iterations; programs on it are
tested in `test_parallel.py`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.codegen.pool import (
    MOST_THREADS,
    PARALLEL,
    PIECE_CHUNKS,
    PIECES_PER_THREAD,
    supported,
)
from tilewright.errors import BadThreadCount
from tilewright.runtime import jit, threads
from tilewright.target import Target, host

pytestmark = pytest.mark.skipif(not threads.available(), reason="the pool needs Linux")

REGIONS = f"""
declare void @{PARALLEL}(ptr, ptr, i64, i64, i64, i64, i64)

define internal void @count(ptr %counts, i64 %begin, i64 %end) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %at = getelementptr i32, ptr %counts, i64 %i
  %old = load i32, ptr %at
  %new = add i32 %old, 1
  store i32 %new, ptr %at
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}}

define internal void @rows(ptr %counts, i64 %begin, i64 %end) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %start = mul i64 %i, 100
  %row = getelementptr i32, ptr %counts, i64 %start
  call void @{PARALLEL}(ptr @count, ptr %row, i64 100, i64 1, i64 1, i64 1, i64 0)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}}

define internal void @note(ptr %notes, i64 %begin, i64 %end) {{
entry:
  %k = atomicrmw add ptr %notes, i64 2 seq_cst
  %first = getelementptr i64, ptr %notes, i64 1
  %at = getelementptr i64, ptr %first, i64 %k
  store i64 %begin, ptr %at
  %behind = getelementptr i64, ptr %at, i64 1
  store i64 %end, ptr %behind
  ret void
}}

define void @chunks(ptr %args, i64, i64) {{
entry:
  %notes = load ptr, ptr %args
  %a1 = getelementptr i64, ptr %args, i64 1
  %extent = load i64, ptr %a1
  %a2 = getelementptr i64, ptr %args, i64 2
  %grain = load i64, ptr %a2
  %a3 = getelementptr i64, ptr %args, i64 3
  %limit = load i64, ptr %a3
  call void @{PARALLEL}(ptr @note, ptr %notes, i64 %extent, i64 1, i64 %grain, i64 1, i64 %limit)
  ret void
}}

define void @regions(ptr %args, i64, i64) {{
entry:
  %counts = load ptr, ptr %args
  %a1 = getelementptr i64, ptr %args, i64 1
  %extent = load i64, ptr %a1
  %a2 = getelementptr i64, ptr %args, i64 2
  %grain = load i64, ptr %a2
  %a3 = getelementptr i64, ptr %args, i64 3
  %limit = load i64, ptr %a3
  %a4 = getelementptr i64, ptr %args, i64 4
  %rounds = load i64, ptr %a4
  %a5 = getelementptr i64, ptr %args, i64 5
  %nested = load i64, ptr %a5
  %nest = icmp ne i64 %nested, 0
  %body = select i1 %nest, ptr @rows, ptr @count
  %a6 = getelementptr i64, ptr %args, i64 6
  %unit = load i64, ptr %a6
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @{PARALLEL}(ptr %body, ptr %counts, i64 %extent, i64 %unit, i64 %grain,
                        i64 1, i64 %limit)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %rounds
  br i1 %more, label %loop, label %out
out:
  ret void
}}
"""


@functools.cache
def regions(name: str = "regions") -> Callable[[Any], None]:
    code = jit.object_code(REGIONS, host())
    return jit.load(code, name, host(), threads.symbols(code)).call


def counts(
    extent: int, grain: int = 1, limit: int = 0, rounds: int = 1, nested: bool = False,
    unit: int = 1,
) -> Any:  # fmt: skip
    """How often each iteration ran in `rounds` regions, with guards on both sides."""
    size = extent * 100 if nested else extent
    found = np.zeros(size + 2, np.int32)
    args = (found.ctypes.data + 4, extent, grain, limit, rounds, nested, unit)
    regions()((ctypes.c_int64 * 7)(*args))
    assert found[0] == found[-1] == 0
    return found[1:-1]


def chunks(extent: int, grain: int, limit: int) -> list[tuple[int, int]]:
    """The stretches that a region's iterations ran in, in order of place."""
    notes = np.zeros(1 + 2 * 4096, np.int64)
    regions("chunks")((ctypes.c_int64 * 4)(notes.ctypes.data, extent, grain, limit))
    return sorted(map(tuple, notes[1 : 1 + notes[0]].reshape(-1, 2).tolist()))


def tasks() -> int:
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


# -- regions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 8, MOST_THREADS + 5])
def test_every_iteration_runs_once(limit: int) -> None:
    for extent in (1, 2, 3, 7, 64, 1000, 12345):
        for grain in (1, 3, 1000):
            assert (counts(extent, grain, limit, rounds=5) == 5).all(), (extent, grain)


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
def test_units_that_share_work_are_complete(limit: int) -> None:
    """In whole units or, where these cannot be shared out evenly, in parts of them."""
    for unit in (2, 5, 100):
        for units in (1, 2, 3, 5, 8, 33):
            for grain in (1, 7, unit):
                found = counts(units * unit, grain, limit, rounds=5, unit=unit)
                assert (found == 5).all(), (unit, units, grain)


@pytest.mark.parametrize("limit", [2, 3, 7])
def test_chunks_become_smaller(limit: int) -> None:
    """The first is two thirds of a thread's share; the last ones, for which threads wait for one
    another, are single pieces. Work for a few microseconds is cut into few."""
    least, most = PIECES_PER_THREAD
    for extent, pieces in (
        (1000 * limit * most, limit * most),
        (10 * limit * least, limit * least),
    ):
        piece = extent // pieces
        grain = extent // pieces // PIECE_CHUNKS if pieces > limit * least else piece
        found = chunks(extent, grain, limit)
        assert [b for b, _ in found] == [0, *(e for _, e in found[:-1])] and found[-1][1] == extent
        sizes = [e - b for b, e in found]
        assert sizes[0] == max(sizes) == pieces * 2 // (3 * limit) * piece
        assert min(sizes) == piece
        assert len(sizes) < pieces


def test_many_short_regions() -> None:
    """The generation in the claim word wraps around."""
    assert (counts(5, 1, 3, rounds=200_000) == 200_000).all()


def test_nested_regions_run_inside() -> None:
    assert (counts(50, 1, 3, rounds=100, nested=True) == 100).all()


def test_threads_of_the_caller_share_the_pool() -> None:
    """One gets it, the others run by themselves; each region is complete when its call returns."""
    wrong: list[str] = []

    def caller(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(300):
            extent, limit = choose.randrange(1, 3000), choose.randrange(1, 5)
            with tw.threads(choose.randrange(1, 5)):
                found = counts(extent, 1, limit, rounds=3, nested=choose.random() < 0.1)
            if not (found == 3).all():
                wrong.append(f"{extent} iterations, limit {limit}")

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(4)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong
    assert threads.pool().started() < MOST_THREADS


def test_changing_the_number_starts_no_more_than_the_largest() -> None:
    counts(100, 1, 4)
    before, workers = tasks(), threads.pool().started()
    for k in range(1000):
        with tw.threads(1 + k % 4):
            assert (counts(100, 1) == 1).all()
    assert threads.pool().started() == workers
    assert tasks() <= before


def test_sleeping_workers_are_woken_on_other_cores() -> None:
    """Of those that their caller may use; a caller with one core has its regions run, too."""
    body = """
import threading, time
own, here = threading.get_native_id(), os.sched_getaffinity(0)
def woken():
    time.sleep(0.02)  # all are asleep
    assert (t.counts(1000, 1, 3) == 1).all()
    return [os.sched_getaffinity(int(k)) for k in os.listdir("/proc/self/task") if int(k) != own]
def apart():
    found = woken()
    return len(found) == 2 and all(m < here and len(m) == len(here) - 1 for m in found)
print(any(apart() for _ in range(100)))  # a caller that has to wait gives its core back
os.sched_setaffinity(0, [min(here)])
print(all(woken()))
"""
    ended = python(body, OPENBLAS_NUM_THREADS="1")
    assert ended.stdout.splitlines() == ["True", "True"], ended.stderr


def test_workers_leave_signals_to_the_program() -> None:
    counts(100, 1, 3)
    own = threading.get_native_id()
    blocked = 0
    for task in os.listdir("/proc/self/task"):
        status = Path(f"/proc/self/task/{task}/status").read_text()
        mask = int(status.split("SigBlk:")[1].split()[0], 16)
        interrupt = mask >> (signal.SIGINT - 1) & 1
        assert not (interrupt and int(task) == own)
        assert not mask >> (signal.SIGSEGV - 1) & 1
        blocked += interrupt
    assert blocked >= threads.pool().started()


# -- forks and the end -------------------------------------------------------------------------


def children(count: int) -> list[int]:
    """Exit codes of so many forks, each of which runs regions on threads of its own."""
    codes = []
    for k in range(count):
        pid = os.fork()
        if pid == 0:  # no pytest, no clean-up: only the answer
            fresh = threads.pool().started() == 0
            right = (counts(64, 1, 2 + k % 2, rounds=3) == 3).all()
            os._exit(0 if fresh and right and threads.pool().started() == 1 + k % 2 else 1)
        codes.append(awaited(pid))
    return codes


def awaited(pid: int) -> int:
    """The exit code of a child; one that hangs is killed, so that the test fails."""
    patience = time.monotonic() + 60
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > patience:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.0002)


def ends_at(most: int) -> bool:
    """Whether there are soon at most so many threads: one that was joined is still being taken
    down by the system for a moment."""
    for _ in range(1000):
        if tasks() <= most:
            return True
        time.sleep(0.01)
    return False


def test_a_thousand_forks_under_load() -> None:
    """Another thread runs regions all the while; the parent's pool goes on too."""
    body = """
import threading
t.counts(100, 1, 3)
before, stop, wrong = t.tasks(), threading.Event(), []
def load():
    while not stop.is_set():
        if not (t.counts(1000, 1, 3, rounds=20) == 20).all():
            wrong.append("a region in the parent")
busy = threading.Thread(target=load)
busy.start()
print([c for c in t.children(1000) if c])
stop.set()
busy.join()
print(wrong, t.ends_at(before))  # fewer: a fork ends the threads of NumPy's BLAS
"""
    ended = python(body)
    assert ended.stdout.splitlines() == ["[]", "[] True"], ended.stderr


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import test_threads as t, tilewright as tw, os
from tilewright.runtime import threads
{body}
"""


def python(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process that imported this module."""
    text = SCRIPT.format(folder=str(Path(__file__).parent), body=body)
    inherited = {k: v for k, v in os.environ.items() if k != threads.VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", text], check=False, capture_output=True, text=True, timeout=300,
        env={**inherited, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_a_process_ends_while_workers_spin_or_sleep(wait: float) -> None:
    body = f"import time\nassert (t.counts(100, 1, 3, 9) == 9).all()\ntime.sleep({wait})\nprint(1)"
    ended = python(body)
    assert (ended.returncode, ended.stdout) == (0, "1\n"), ended.stderr


def test_one_thread_starts_no_worker() -> None:
    body = """
with tw.threads(1):
    t.counts(1000, 1)
    t.counts(1000, 1, 8)
print(threads.pool().started())
with tw.threads(3):
    t.counts(1000, 1)
    with tw.threads(2):
        t.counts(1000, 1, 8)
    print(threads.pool().started())
    t.counts(1000, 1, 2)
    print(threads.pool().started())
    t.counts(1000, 1)
print(threads.pool().started())
"""
    assert python(body).stdout.split() == ["0", "2", "2", "2"]


# -- the number of threads ---------------------------------------------------------------------


def test_the_variable_sets_the_default() -> None:
    body = "t.counts(1000, 1); print(threads.default_count(), threads.pool().started())"
    assert python(body, TILEWRIGHT_NUM_THREADS="3").stdout.split() == ["3", "2"]
    ended = python(body, TILEWRIGHT_NUM_THREADS="many")
    assert "TILEWRIGHT_NUM_THREADS is 'many', which is no number of threads" in ended.stderr


def test_affinity_limits_the_default() -> None:
    body = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(threads.default_count())"
    assert python(body).stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ({"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "max 100000\n"}, 3.0),
        ({"cpu.max": "400000 100000\n", "a/b/cpu.max": "800000 100000\n"}, 4.0),
        ({"a/b/cpu.max": "max 100000\n"}, None),
        ({}, None),
    ],
)
def test_quota_of_the_second_version(
    files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    place(tmp_path / "cgroup", files)
    place(tmp_path, {"membership": "0::/a/b\n"})
    assert threads.quota(tmp_path / "cgroup", tmp_path / "membership") == expected


@pytest.mark.parametrize(("limit", "expected"), [("250000", 2.5), ("-1", None)])
def test_quota_of_the_first_version(limit: str, expected: float | None, tmp_path: Path) -> None:
    files = {"cpu.cfs_quota_us": f"{limit}\n", "cpu.cfs_period_us": "100000\n"}
    place(tmp_path / "cgroup" / "cpu,cpuacct" / "job", files)
    place(tmp_path, {"membership": "5:memory:/x\n3:cpu,cpuacct:/job\n"})
    assert threads.quota(tmp_path / "cgroup", tmp_path / "membership") == expected


def place(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "2", None])
def test_numbers_that_are_none(count: Any) -> None:
    with pytest.raises(BadThreadCount), tw.threads(count):
        pass


def test_a_number_lasts_as_long_as_its_block() -> None:
    own = threads.pool().set_own
    with pytest.raises(KeyError), tw.threads(3):
        with tw.threads(2):
            assert own(2) == 2
        assert own(3) == 3
        raise KeyError
    assert own(0) == 0


@pytest.mark.parametrize(
    ("triple", "can"),
    [
        ("x86_64-unknown-linux-gnu", True),
        ("aarch64-unknown-linux-gnu", True),
        ("arm64-apple-darwin23", False),
        ("x86_64-pc-windows-msvc", False),
    ],
)
def test_where_the_pool_can_be(triple: str, can: bool) -> None:
    assert supported(Target(triple, "", "", 16)) is can
