"""Measuring candidates in processes of their own, here or on any executor's machines.

    for outcome in outcomes(tasks): ...                       # this machine, a pipeline
    for outcome in outcomes(tasks, client.get_executor()): ...  # Dask: other machines

Knows how to keep child processes (`worker`) at work, some that build and one that runs, and that a
candidate which crashes, hangs, takes too much memory or answers nonsense costs one trial.
Refuses to know which candidates are worth a trial, and what the numbers mean.

Processor time is measured where one thread runs, so a busy neighbour matters little; of programs
with more threads none is built while one is timed. One runner a machine should measure at a
time. A child that dies is replaced; none survives its parent by more than a task's limit.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from tilewright import forks
from tilewright.cost_model import encoding
from tilewright.cost_model.records import Record, compiler_version
from tilewright.errors import InternalError
from tilewright.kernel import Kernel
from tilewright.runtime.threads import cores
from tilewright.transforms.schedule import Schedule

BUILDERS: Final = min(4, max(2, cores() - 1))
"""Processes that build: building takes several times as long as timing does. They are nice to the
one that times, should it be their turn on its core."""
AHEAD: Final = 2
"""Candidates for each builder that are built before they can be run, at most."""
IN_FLIGHT: Final = 64
"""Tasks given to an executor before the first is asked for."""
START_SECONDS: Final = 60.0
MOST_ANSWER: Final = 64 << 20
"""Characters of an answer."""
RENEWED: Final = 2000
"""Candidates after which a child is replaced: machine code is never unloaded."""

BOOT: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from tilewright.cost_model.worker import main
main()
"""


@dataclass(frozen=True)
class Limits:
    """What one candidate may take: seconds to build it, seconds to run it (data, check and timing
    together), and bytes of address space of the process that does."""

    build_seconds: float = 20.0
    run_seconds: float = 10.0
    memory_bytes: int = 8 << 30


@dataclass(frozen=True)
class Task:
    """A candidate to be measured, as plain data: a kernel and a schedule as JSON, in the names of
    the kernel's canonical form, and on how many threads."""

    kernel: str
    schedule: str
    threads: int = 1
    limits: Limits = field(default_factory=Limits)

    @staticmethod
    def of(
        kernel: Kernel, schedule: Schedule, threads: int = 1, limits: Limits | None = None
    ) -> Task:
        """The task to measure a schedule of a kernel, both in whatever names they have."""
        text = encoding.portable(kernel, schedule).to_json()
        return Task(_text(kernel), text, threads, limits or Limits())


@functools.lru_cache(256)
def _text(kernel: Kernel) -> str:
    return encoding.encode(encoding.canonical(kernel))


@functools.lru_cache(256)
def _key(kernel: str) -> str:
    return encoding.key(encoding.decode(kernel))


@dataclass(frozen=True)
class Outcome:
    """What a task came to: seconds of a run (the median), the quotient by runs of the default
    schedule in turns with it (the median; a machine's drift cancels), and the spread of the
    quotients (interquartile range over median); or the error. `machine` is the key of the machine
    it ran on, "" where none answered."""

    seconds: float | None = None
    ratio: float | None = None
    spread: float | None = None
    error: str = ""
    machine: str = ""

    def record(self, task: Task, features: int) -> Record:
        """As it is kept; `features` is the version of the features."""
        known = self.seconds is not None and self.ratio is not None
        return Record(
            _key(task.kernel),
            self.machine,
            task.threads,
            task.schedule,
            self.seconds,
            self.seconds / self.ratio if known else None,  # type: ignore[operator]
            self.spread,
            self.error,
            time.time(),
            compiler_version(),
            features,
        )


# -- children --------------------------------------------------------------------------------------


class _Failed(Exception):
    """A child that did not answer; the text says what became of it."""


class _Child:
    """A process that answers one question at a time, in a process group of its own."""

    def __init__(self, role: str, variables: dict[str, str]) -> None:
        self.role, self.asked = role, 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(sys.path), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **variables},
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, name=f"tilewright-{role}", daemon=True)
        self.reader.start()
        self.machine: str | None = None

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None, "it is a pipe"
        with suppress(OSError, ValueError):  # closed by `end`
            while line := stream.readline(MOST_ANSWER):
                self.answers.put(line)
        self.answers.put("")

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer. **Raises:** `_Failed` where there is none: the child is of no more use."""
        if self.machine is None:
            self.machine = str(self._answer(START_SECONDS).get("machine", ""))
        stream = self.process.stdin
        assert stream is not None, "it is a pipe"
        self.asked += 1
        try:
            stream.write(json.dumps({**question, "limit_seconds": seconds}) + "\n")
            stream.flush()
        except OSError:
            raise _Failed(self._fate()) from None
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            line = self.answers.get(timeout=seconds)
        except queue.Empty:
            raise _Failed(f"it took more than {seconds:g} seconds to {self.role} it") from None
        if not line:
            raise _Failed(self._fate())
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise _Failed(f"what should {self.role} it answered with garbage")
        return answer

    def _fate(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.returncode
        died = f"exited with {code}"
        if code is None:
            died = "closed its pipe"
        elif code < 0:
            with suppress(ValueError):
                died = f"died of {signal.Signals(-code).name}"
        return f"the process that should {self.role} it {died}"

    def end(self) -> None:
        """Kill it and all it started, and leave nothing of it."""
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)  # the leader is not reaped yet
            else:
                self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None, "it is a pipe"
            if stream is self.process.stdout:
                self.reader.join()
            with suppress(OSError):
                stream.close()


_Made = tuple[dict[str, Any], dict[str, Any]] | str
"""A candidate and its reference as the builders answer them, or why there are none."""


class Runner:
    """Measures on this machine. A context manager; closing it ends the children.

    `variables` are set in the children's environment: TILEWRIGHT_TARGET makes them measure as a
    machine with fewer instructions.
    """

    def __init__(self, variables: dict[str, str] | None = None) -> None:
        self.variables = dict(variables or {})
        self._children: dict[str, _Child] = {}  # "time", "build 0", "build 1", ...
        self._idle = [f"build {n}" for n in range(BUILDERS)]
        self._references: dict[tuple[str, int], dict[str, Any]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children. Measuring again starts new ones."""
        atexit.unregister(self.close)
        for name in list(self._children):
            self._end(name)

    def outcomes(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Measure the tasks, in their order: while one runs the next are built. One caller at a
        time; others wait."""
        with self._lock, ThreadPoolExecutor(BUILDERS, "tilewright-build") as builders:
            waiting: deque[tuple[Task, Future[_Made]]] = deque()
            remaining = iter(tasks)
            try:
                while True:
                    if not waiting or waiting[0][0].threads == 1:
                        for task in islice(remaining, AHEAD * BUILDERS - len(waiting)):
                            waiting.append((task, builders.submit(self._built, task)))
                    if not waiting:
                        return
                    task, made = waiting.popleft()
                    if task.threads > 1:
                        wait([others for _, others in waiting])
                    yield self._timed(task, made.result())
            finally:
                for _, made in waiting:
                    made.cancel()
                if waiting:  # nobody waits for what is being built
                    for name in [n for n in self._children if n != "time"]:
                        self._end(name)

    # -- the two stages ------------------------------------------------------------------------

    def _built(self, task: Task) -> _Made:
        """The candidate and the reference, or why there are none."""
        name = self._idle.pop()
        try:
            key = task.kernel, task.threads
            reference = self._references.get(key)
            if reference is None:
                reference = self._build(name, task, None)
                if "error" in reference:
                    return f"the default schedule: {reference['error']}"
                if len(self._references) >= IN_FLIGHT:
                    self._references.clear()
                self._references[key] = reference
            made = self._build(name, task, task.schedule)
            return made.get("error") or (made, reference)
        except _Failed as e:
            self._end(name)
            return str(e)
        finally:
            self._idle.append(name)

    def _build(self, name: str, task: Task, schedule: str | None) -> dict[str, Any]:
        question = {
            "kernel": task.kernel,
            "schedule": schedule,
            "threads": task.threads,
            "memory_bytes": task.limits.memory_bytes,
        }
        return self._child(name).ask(question, task.limits.build_seconds)

    def _timed(self, task: Task, made: _Made) -> Outcome:
        if isinstance(made, str):
            return Outcome(error=made, machine=self._machine())
        question = {
            "candidate": made[0],
            "reference": made[1],
            "threads": task.threads,
            "memory_bytes": task.limits.memory_bytes,
        }
        child = self._child("time")
        try:
            said = child.ask(question, task.limits.run_seconds)
            return Outcome(**said, machine=child.machine or "")
        except (_Failed, TypeError) as e:
            machine = child.machine or ""
            self._end("time")
            text = str(e) if isinstance(e, _Failed) else "what should time it answered with garbage"
            return Outcome(error=text, machine=machine)

    def _machine(self) -> str:
        """The key of the machine that the children see."""
        known = [c.machine for c in [*self._children.values()] if c.machine]
        return known[0] if known else encoding.machine_key()

    def _child(self, name: str) -> _Child:
        child = self._children.get(name)
        if child is not None and child.asked >= RENEWED:
            self._end(name)
        if name not in self._children:
            self._children[name] = _Child(name.split()[0], self.variables)
        return self._children[name]

    def _end(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            child.end()


# -- anywhere --------------------------------------------------------------------------------------

_own: dict[int, Runner] = {}
_own_lock = forks.Lock()


def _runner() -> Runner:
    """This process's runner: a child of a fork must not use its parent's."""
    with _own_lock:
        if os.getpid() not in _own:
            _own.clear()
            _own[os.getpid()] = Runner()
        return _own[os.getpid()]


def measured(task: Task) -> Outcome:
    """Measure one task on the machine this is called on, with the machine's own target. For the
    workers of an executor: they keep their child processes from task to task."""
    (outcome,) = _runner().outcomes([task])
    return outcome


def described() -> str:
    """The machine this is called on, as JSON (`encoding.Machine`), measured: for executors, whose
    workers may stand elsewhere."""
    return encoding.Machine.here().to_json()


def outcomes(
    tasks: Iterable[Task], executor: Executor | None = None
) -> Generator[Outcome, None, None]:
    """Measure the tasks, in their order: here, or by the workers of an executor. Dask's is
    `dask.distributed.Client(address).get_executor()`; its workers should run one task at a time
    (`dask worker --nthreads 1 --nworkers 1`), one worker a machine. What goes wrong with a worker
    is the outcome's error. Who takes fewer than all closes it: others wait for this machine."""
    if executor is None:
        yield from _runner().outcomes(tasks)
        return
    waiting: deque[Future[Outcome]] = deque()
    remaining = iter(tasks)
    try:
        while True:
            while len(waiting) < IN_FLIGHT and (task := next(remaining, None)) is not None:
                waiting.append(executor.submit(measured, task))
            if not waiting:
                return
            yield _result(waiting.popleft())
    finally:
        for future in waiting:
            future.cancel()


def _result(future: Future[Outcome]) -> Outcome:
    try:
        outcome = future.result()
    except Exception as e:  # whatever an executor raises for a worker that is gone
        return Outcome(error=f"the worker failed: {type(e).__name__}: {str(e)[:200]}")
    if not isinstance(outcome, Outcome):
        raise InternalError(f"a worker answered {outcome!r:.100}")
    return outcome


def records(tasks: Sequence[Task], found: Iterable[Outcome], features: int) -> Iterator[Record]:
    """The tasks' outcomes as they are kept; `features` is the version of the features."""
    for task, outcome in zip(tasks, found, strict=False):
        yield outcome.record(task, features)
