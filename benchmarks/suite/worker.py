"""The process that measures: it reads names of workloads, one a line, and writes what happens.

Knows the order of events: check and first call of each contender, then the timed rounds; without
seconds for these, first calls only. Every line it writes says which contender runs next or what was
found, so that whoever reads knows whom to blame for silence. Refuses to know time-outs and tables.

One thread: the process has one core, time is processor time, which neighbours on the machine do
not inflate. More: time is wall time, and between contenders all sleep until no library's workers
spin any more. Nobody begins before the machine is steady (`steady`), and what was timed while it
ceased to be is timed again.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.suite.steady import Machine

SETTLE_SECONDS = 0.3
"""Idle OpenMP workers spin for up to 0.2 s after their last region."""
WARM_SECONDS = 5e-3
"""Calls before the clock starts: after a sleep neither data are in the caches nor threads awake."""
SLOW = 12.0
"""A contender this much slower than the fastest gets three samples."""

BRIEF = 0.05
"""Seconds of a call that is made three times to see how long it takes."""
LONG = 1.0
"""Seconds of a share that is not measured again."""
AGAIN = 3
"""How often a share of somebody's time is measured again, at most."""

START_UP = "start-up"
"""The stage of imports and back ends; compilers of C++ may take their time."""

Call = Callable[[], Any]


class Events:
    """Lines of JSON on the file that was standard output; libraries print to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def __call__(self, **fields: Any) -> None:
        self._out.write(json.dumps(fields) + "\n")


def main(threads: int, seconds: float) -> None:
    """Serve until standard input ends. `seconds` is the time given to each contender."""
    tell = Events()
    from benchmarks.suite import contenders

    contenders.pin(threads)
    warnings.simplefilter("ignore")
    from benchmarks.suite.steady import Machine

    from tilewright import roofline

    tell(event="rates", **vars(roofline.measured(threads)))
    machine = Machine(threads)
    started: set[str] = set()
    for line in sys.stdin:
        order = json.loads(line)
        _start_up(set(order["contenders"]) - started, threads, tell)
        started |= set(order["contenders"])
        try:
            _measure(order["workload"], order["contenders"], machine, seconds, tell)
        except Exception as e:
            traceback.print_exc()
            tell(event="failed", contender="", reason=_short(e))
        tell(event="done", workload=order["workload"])


THREADED: Final = 3 << 20
"""Elements that everybody adds on all threads; a shape the suite does not have."""


def _start_up(names: set[str], threads: int, tell: Events) -> None:
    """Imports, back ends and pools of threads: first calls are not charged for them."""
    import numpy as np
    from benchmarks.suite import contenders
    from benchmarks.suite.workloads import BY_NAME

    workload = BY_NAME["dispatch_add1"]
    args = (np.ones(THREADED, np.float32),)
    for name in sorted(names):
        tell(event="start", contender=name, stage=START_UP)
        try:
            contenders.contender(name, workload, args, threads).build()()
        except Exception:
            traceback.print_exc()  # it will fail again, and be reported, on a workload


def _short(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"[:300]


def _measure(name: str, names: list[str], machine: Machine, seconds: float, tell: Events) -> None:
    import numpy as np
    from benchmarks.suite import contenders
    from benchmarks.suite.workloads import BY_NAME

    workload = BY_NAME[name]
    args = workload.arguments(np.random.default_rng(0))
    tell(event="start", contender="", stage="reference")
    check = contenders.reference(workload, args) if seconds else None
    calls: dict[str, Call] = {}
    for one in names:
        tell(event="start", contender=one, stage="first call")
        try:
            made = contenders.contender(one, workload, args, machine.threads)
            _settle()
            machine.wait()
            begun, used = time.perf_counter(), time.process_time()
            call = made.build()
            result = call()
            first = [time.perf_counter() - begun, time.process_time() - used]
            fault = check(made.arrays(result)) if check else ""
        except Exception as e:
            traceback.print_exc()
            tell(event="failed", contender=one, reason=_short(e))
            continue
        if fault:
            tell(event="failed", contender=one, reason=f"wrong: {fault}")
            continue
        calls[one] = call
        tell(event="first", contender=one, wall=first[0], cpu=first[1])
    if not seconds:
        return
    samples, waited = _rounds(calls, machine, seconds, tell)
    for one, times in samples.items():
        tell(event="times", contender=one, median=statistics.median(times), best=min(times),
             samples=len(times), waited=waited[one])  # fmt: skip


def _settle(turn: float = 0.01, most: int = 100) -> None:
    """Wait until this process sleeps. Threads of libraries that were called before wait for more
    work awake, OpenBLAS's some 30 ms, and would be charged to whoever is called next."""
    for _ in range(most):
        used = time.process_time()
        time.sleep(turn)
        if time.process_time() - used < turn / 10:
            return


def _rounds(
    calls: dict[str, Call], machine: Machine, seconds: float, tell: Events
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds a call of every contender, in turns whose order rotates, and the share of the time
    in which a runnable thread waited for a core."""
    threads = machine.threads
    clock = time.process_time if threads == 1 else time.perf_counter
    estimates: dict[str, float] = {}
    for one, call in calls.items():
        tell(event="start", contender=one, stage="warm-up")
        call()
        estimates[one] = _least(call)
    fastest = min(estimates.values(), default=0.0)
    samples: dict[str, list[float]] = {one: [] for one in calls}
    waits = dict.fromkeys(calls, (0.0, 0.0))
    rounds = 5 if threads == 1 else 3  # settling makes rounds on several threads long
    share = seconds / rounds
    order = list(calls)
    for turn in range(rounds):
        for one in order:
            slow = estimates[one] > SLOW * fastest and estimates[one] > 1e-3
            if slow and turn % 2:
                continue
            tell(event="start", contender=one, stage="timing")
            call = calls[one]
            repeats = max(1, int(2e-3 / max(estimates[one], 1e-8)))
            most = 1 if slow else max(2, min(40, int(share / max(repeats * estimates[one], 1e-9))))
            if threads > 1:
                time.sleep(SETTLE_SECONDS)
            for attempt in range(AGAIN + 1):
                machine.wait()
                if threads > 1 or attempt:
                    _warm(call, min(0.02, max(WARM_SECONDS, 2 * estimates[one])))
                before = _waiting()
                begun = time.perf_counter()
                found = []
                for _ in range(most):
                    start = clock()
                    for _ in repeat(None, repeats):
                        call()
                    found.append((clock() - start) / repeats)
                taken, lost = time.perf_counter() - begun, _waiting() - before
                if machine.is_steady() or taken > LONG:
                    break
            samples[one] += found
            waits[one] = (waits[one][0] + taken, waits[one][1] + lost)
        order.append(order.pop(0))
    return samples, {one: lost / total if total else 0.0 for one, (total, lost) in waits.items()}


def _least(call: Call) -> float:
    """Seconds of a call; the least of three if it is short, when one may be anything."""
    least = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
        if least > BRIEF:
            break
    return least


def _warm(call: Call, seconds: float) -> None:
    end = time.perf_counter() + seconds
    call()
    while time.perf_counter() < end:
        call()


def _waiting() -> float:
    """Seconds this process's threads have waited for a core, where Linux counts them."""
    total = 0
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/schedstat") as f:
                total += int(f.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return total / 1e9


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
