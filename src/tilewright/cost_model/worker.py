"""The process that builds candidates, and the process that runs them.

    python -c BOOT build|time        a JSON object a line in, a JSON object a line out

Knows how a kernel under a schedule becomes machine code of its own (`built`), what memory it is run
on, and how long it takes next to the default schedule (`timed`). Refuses to know who asks: what
crashes, hangs or talks nonsense here is dealt with by the other end of the pipe (`measure`).

Times are of runs that follow on one another, on data that is where the run before left it. Inputs
are random numbers in [1/2, 3/2) or small integers, zeros where they are positions of something;
what is packed ahead of constants is packed before the clock starts.
"""

from __future__ import annotations

import base64
import functools
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tilewright import dtypes
from tilewright.codegen import llvm
from tilewright.cost_model import encoding
from tilewright.cost_model.records import schedule_of
from tilewright.errors import TilewrightError
from tilewright.expr import Buffer, Expr, Load, as_index, static, walk
from tilewright.kernel import Assign, Kernel
from tilewright.loops import Call, Function, Program, Ref, block
from tilewright.runtime import jit
from tilewright.runtime.executable import load
from tilewright.runtime.memory import LARGE, address, empty
from tilewright.runtime.memory import block as memory_block
from tilewright.runtime.threads import available
from tilewright.target import Target, host
from tilewright.transforms.ahead import packed
from tilewright.transforms.collapse import collapse
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import walked
from tilewright.transforms.packing import Block
from tilewright.transforms.schedule import Schedule, planned

SAMPLE_SECONDS: Final = 3e-4
"""Length of a timed stretch of runs, or one run if that is longer."""
PAIRS: Final = 5
"""Stretches of the candidate, and as many of the reference in turns with them, at a time."""
LONG_SECONDS: Final = 0.04
"""What the pairs of one candidate may take together, beyond the fewest."""
FEWEST: Final = 3
HOPELESS: Final = 4.0
"""Times as long as the reference from which on the fewest pairs say enough."""
SETTLED: Final = 0.01
"""By how much the third fastest stretch may exceed the fastest: else a few more are timed."""
CALM: Final = 0.02
"""By how much the reference may exceed the least it ever took: more, and somebody else is at work
in this core, whose other half may be another machine's to use. Some code takes a third longer then,
other code none. Where that lasts, candidates are compared with so much over the least: what is
measured beside a disturbed reference would look fast, and lead."""
FORGOTTEN: Final = 5e-4
"""What is added to that least with every candidate: clocks drift."""
TOLERANCE: Final = {
    dtypes.float64: 1e-9, dtypes.float32: 2e-4, dtypes.float16: 2e-2, dtypes.bfloat16: 1e-1,
}  # fmt: skip
"""Difference allowed between two orders of summing, relative to the largest result."""
ROUNDED: Final = 1e-3
"""Share of integers computed from floats that may differ, since a sum before may be rounded."""

Message = dict[str, Any]


# -- building --------------------------------------------------------------------------------------


@functools.lru_cache(64)
def _kernel(text: str) -> Kernel:
    return encoding.decode(text)


def target_of(threads: int) -> Target:
    """This machine, for programs of so many threads."""
    return replace(host(), pool=threads > 1 and available())


def built(kernel: str, schedule: str | None, threads: int) -> Message:
    """The machine code of a kernel under a schedule, both in the names of the kernel's text; under
    the default one if there is none. As plain data: see `_Run` for its fields.

    **Raises:** `TilewrightError` if the kernel or the schedule is not legal."""
    target, k = target_of(threads), _kernel(kernel)
    chosen = heuristic(k, target) if schedule is None else schedule_of(schedule, k)
    walk_, blocks = packed(planned(k, chosen))
    params: Sequence[Buffer] = k.params
    if blocks:
        read = set(walk_.params)
        params = [*(b for b in k.params if b in read), *(b.buffer for b in blocks)]
    function = walked(walk_, params)
    place = {b: ["param", n] for n, b in enumerate(k.params)}
    place |= {b.buffer: ["block", n] for n, b in enumerate(blocks)}
    positions = _positions(k)
    return {
        "main": _compiled([function], target, threads),
        "args": [place.get(b) or ["scratch", b.nbytes] for b in function.params],
        "buffers": [
            [*_type(b), b.scope, b in k.writes, b in positions] for b in k.params
        ],
        "blocks": [_type(b.buffer) for b in blocks],
        "before": _packing(blocks, place, target) if blocks else None,
    }  # fmt: skip


def _type(b: Buffer) -> list[Any]:
    return [dtypes.short(b.dtype), [*map(static, b.shape)]]


def _packing(blocks: Sequence[Block], place: Mapping[Buffer, Any], target: Target) -> Message:
    """The program that fills the blocks, in short code: it runs once."""
    functions = []
    for b in blocks:
        copy = Kernel(b.buffer.name, b.axes, (Assign(b.buffer, b.axes, (), b.value),))
        copy = collapse(copy)
        functions.append(walked(planned(copy, Schedule()), copy.params))
    params = list(dict.fromkeys(p for f in functions for p in f.params))
    return {"code": _compiled(functions, target, 1), "args": [place[b] for b in params]}


def _compiled(functions: Sequence[Function], target: Target, threads: int) -> Message:
    """The objects of a program that calls functions one after the other."""
    named = [replace(f, name=f"f{n}") for n, f in enumerate(functions)]
    params = tuple(dict.fromkeys(p for f in named for p in f.params))
    zero = as_index(0)
    calls = [Call(f.name, tuple(Ref(p, zero) for p in f.params), None) for f in named]
    program = Program((*named, Function("entry", params, block(*calls))))
    text = llvm.print_program(program, target, threads)
    name = jit.symbol(text)
    return {"name": name, "objects": list(_objects(llvm.named(text, name), target))}


@functools.lru_cache(256)
def _objects(text: str, target: Target) -> tuple[str, ...]:
    """One object: generating code on several threads would disturb who is being timed."""
    code = jit.objects(text, target, 1, verify=False)
    return tuple(base64.b64encode(part).decode() for part in code)


def _positions(kernel: Kernel) -> set[Buffer]:
    """The buffers whose elements decide where others are read or written."""
    values: dict[Buffer, list[Expr]] = {}
    for a in kernel.body:
        values.setdefault(a.buffer, []).append(a.value)
    places = [i for a in kernel.body for i in a.index]
    places += [i for e in walk(*kernel.expressions) if isinstance(e, Load) for i in e.index]
    found: set[Buffer] = set()
    while places:
        fresh = {e.buffer for e in walk(*places) if isinstance(e, Load)} - found
        found |= fresh
        places = [v for b in fresh for v in values.get(b, ())]
    return found


# -- running ---------------------------------------------------------------------------------------


class _Data:
    """The arrays a kernel runs on: those it reads, filled; those it writes, and what it reads into
    registers stays the same for all schedules of the kernel."""

    def __init__(self, buffers: Sequence[Any]) -> None:
        self.arrays: list[Any] = []
        self.written: list[int] = []
        self.exact = True
        for n, (dtype, shape, scope, written, position) in enumerate(buffers):
            d = encoding.DTYPES[dtype]
            nbytes = int(np.prod(shape, dtype=np.int64)) * d.itemsize
            if written:
                self.written.append(n)
                self.arrays.append(empty(tuple(shape), d, nbytes))
                continue
            self.exact &= not dtypes.is_inexact(d)
            # Programs get results of others where the arena or a page starts, arguments where
            # NumPy puts them: a large array 16 bytes into a page.
            room = memory_block(nbytes + 64)
            start = 16 if nbytes >= LARGE and scope != "temp" else 0
            array = np.ndarray(tuple(shape), d, room, start)
            _fill(array, n, position)
            self.arrays.append(array)

    def results(self, run: Callable[[], None]) -> list[Any]:
        """Copies of what a run leaves in the results, over the same contents before."""
        for n in self.written:
            self.arrays[n].reshape(-1).view(np.uint8)[:] = 0x11
        run()
        return [self.arrays[n].copy() for n in self.written]


def _fill(a: Any, seed: int, position: bool) -> None:
    """Numbers that no operation makes NaN, infinite or denormal of; they repeat after a prime
    count, so that neighbours of rows and planes differ."""
    rng = np.random.default_rng(seed)
    d = a.dtype
    if position:
        numbers: Any = np.zeros(1)
    elif dtypes.is_integer(d):
        numbers = rng.integers(0 if d.kind == "u" else -4, 5, 65521)
    elif dtypes.is_bool(d):
        numbers = rng.random(65521) < 0.5
    else:
        numbers = rng.uniform(0.5, 1.5, 65521)
    a.reshape(-1)[:] = np.resize(numbers.astype(d), a.size)


class _Run:
    """A built candidate in memory, with the arrays it works on."""

    def __init__(self, made: Message, data: _Data, target: Target) -> None:
        self.blocks = [
            empty(tuple(shape), d, int(np.prod(shape, dtype=np.int64)) * d.itemsize)
            for d, shape in ((encoding.DTYPES[name], shape) for name, shape in made["blocks"])
        ]
        self.scratch: list[Any] = []
        self.data = data
        before = made["before"]
        if before is not None:
            packing = _loaded(before["code"], target)
            packing.call(jit.pointers(self.addresses(before["args"])))
        self.main = _loaded(made["main"], target)
        self.pointers = jit.pointers(self.addresses(made["args"]))

    def addresses(self, args: Sequence[Any]) -> list[int]:
        found = []
        for role, n in args:
            if role == "scratch":
                self.scratch.append(memory_block(max(n, 1)))
                found.append(address(self.scratch[-1]))
            else:
                found.append(address((self.data.arrays if role == "param" else self.blocks)[n]))
        return found

    def once(self) -> None:
        self.main.call(self.pointers)


def _loaded(code: Message, target: Target) -> jit.Loaded:
    objects = [base64.b64decode(part, validate=True) for part in code["objects"]]
    return load(objects, code["name"], target)


REPEAT: Final = """
define void @NAME(ptr %args, i64, i64) {
entry:
  %f = load ptr, ptr %args
  %p = getelementptr ptr, ptr %args, i64 1
  %given = load ptr, ptr %p
  %q = getelementptr ptr, ptr %args, i64 2
  %at = load ptr, ptr %q
  %n = load i64, ptr %at
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void %f(ptr %given, i64 0, i64 0)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""
"""Calls a program over and over: Python's own calls take longer than small kernels."""


@functools.cache
def _repeat() -> Any:
    name = jit.symbol(REPEAT)
    target = host()
    return jit.load(jit.object_code(REPEAT.replace("NAME", name), target), name, target)


def _clock(threads: int) -> Callable[[], float]:
    """Processor time where one thread does all: what others do meanwhile is not counted."""
    fine = time.get_clock_info("thread_time").resolution < 1e-6
    return time.thread_time if threads == 1 and fine else time.perf_counter


def _sampler(run: _Run, clock: Callable[[], float]) -> tuple[Callable[[], float], float]:
    """A function that times a stretch of runs, in seconds a run, and a first result of it."""
    import ctypes

    count = np.ones(1, np.int64)
    given = jit.pointers([run.main.address, ctypes.addressof(run.pointers), address(count)])
    repeat = _repeat().call

    def sample() -> float:
        start = clock()
        repeat(given)
        return (clock() - start) / int(count[0])

    sample()
    first = sample()
    while first * count[0] < SAMPLE_SECONDS / 4:
        count[0] *= 4
        first = sample()
    count[0] = max(1, round(SAMPLE_SECONDS / first))
    return sample, first


class Timer:
    """Times candidates; keeps the data and the reference of the kernel it timed last."""

    def __init__(self) -> None:
        self.kept: tuple[str, _Data, _Run, list[Any]] | None = None
        self.least = np.inf

    def timed(self, candidate: Message, reference: Message, threads: int) -> Message:
        """{"seconds", "ratio", "spread"}: of a run, its quotient by a run of the reference (both
        the fastest of stretches that alternate), and the interquartile range of the quotients of
        neighbouring stretches over their median."""
        target = target_of(threads)
        name = reference["main"]["name"] + json.dumps(reference["buffers"])
        if self.kept is None or self.kept[0] != name:
            self.kept, self.least = None, np.inf  # frees the memory before more is asked for
            data = _Data(reference["buffers"])
            run = _Run(reference, data, target)
            self.kept = name, data, run, data.results(run.once)
        _, data, default, expected = self.kept
        run = _Run(candidate, data, target)
        wrong = _difference(data.results(run.once), expected, data.exact)
        if wrong:
            return {"error": f"it computes something else than the default schedule: {wrong}"}
        return self._compared(run, default, _clock(threads))

    def _compared(self, run: _Run, default: _Run, clock: Callable[[], float]) -> Message:
        (sample, first), (other, second) = _sampler(run, clock), _sampler(default, clock)
        pair = max(first, SAMPLE_SECONDS) + max(second, SAMPLE_SECONDS)
        most = int(max(FEWEST, LONG_SECONDS / pair))
        hopeless = first > HOPELESS * second
        own: list[float] = []
        base: list[float] = []
        while True:
            for _ in range(FEWEST if hopeless else min(PAIRS, most)):
                for times, measure in ((own, sample), (base, other))[:: -1 if len(own) % 2 else 1]:
                    times.append(measure())
            self.least = min(self.least, *base)
            calm = min(base) <= (1 + CALM) * self.least and _settled(own) and _settled(base)
            if calm or hopeless or len(own) >= most:
                break
        reference = min(*base, (1 + CALM) * self.least)
        self.least *= 1 + FORGOTTEN
        low, middle, high = np.quantile(np.divide(own, base), (0.25, 0.5, 0.75)).tolist()
        seconds = min(own)
        return {"seconds": seconds, "ratio": seconds / reference, "spread": (high - low) / middle}


def _settled(times: list[float]) -> bool:
    """Whether the fastest was no accident."""
    fastest, _, third = sorted(times)[:3]
    return third <= (1 + SETTLED) * fastest


def _difference(got: Sequence[Any], expected: Sequence[Any], exact: bool) -> str:
    """What is wrong with results; "" if they are the expected ones up to rounding."""
    for n, (a, b) in enumerate(zip(got, expected, strict=True)):
        if a.tobytes() == b.tobytes():
            continue
        if not dtypes.is_inexact(a.dtype):
            share = float(np.mean(a != b))
            if share > (0 if exact else ROUNDED):
                return f"{share:.1%} of result {n} differ"
            continue
        near = TOLERANCE.get(dtypes.real_of(a.dtype), 1e-9)
        wide = a.dtype if a.dtype.itemsize >= 4 else np.dtype(np.float32)
        x, y = a.astype(wide), b.astype(wide)
        with np.errstate(all="ignore"):
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            finite = np.abs(y[np.isfinite(y)])
            scale = float(finite.max()) if finite.size else 1.0
            worst = np.abs(np.where(same, 0, x - y)).max()
        if not worst <= near * scale:
            return f"result {n} is off by {worst:.3g} where values reach {scale:.3g}"
    return ""


# -- the process -----------------------------------------------------------------------------------


def limit(memory_bytes: int, seconds: float) -> None:
    """Take no more memory than that, and no more time even if nobody is left to wait for it."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(seconds) + 5)


def main() -> None:
    """Answer until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever else prints, prints elsewhere
    # What is built lives as long as it is of use, and no cycles die: each look would take longer.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    if sys.argv[-1] == "build" and hasattr(os, "nice"):
        os.nice(3)
    timer = Timer()
    answer: Callable[..., Message] = timer.timed if sys.argv[-1] == "time" else built
    print(json.dumps({"machine": encoding.machine_key()}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        limit(asked.pop("memory_bytes"), asked.pop("limit_seconds"))
        try:
            said = answer(**asked)
        except TilewrightError as e:
            said = {"error": e.what[:500]}
        except MemoryError:
            said = {"error": "it needs more memory than it may have"}
        except Exception as e:  # one trial, whatever it is: the next has nothing to do with it
            said = {"error": f"{type(e).__name__}: {str(e)[:200]}"}
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        print(json.dumps(said), file=answers, flush=True)
