"""Whole-program fuzzing: the same source runs in NumPy, in the interpreters and compiled.

Knows how far rounding alone may move a program's results (`Reference`), how to compare (`check`),
and how to find the smallest failing part of a program (`shrink`). The programs are those of
`random_programs`.

How close results must be is not guessed: the program is run again with every inexact operation
disturbed by a few units in the last place; what does not move must agree to the bit, what moves may
differ by a multiple of that, and what jumps (the floor of a sum, say) is not compared.

    python tests/fuzz.py --seeds 0:2000            check many, in processes that may crash
    python tests/fuzz.py --seeds 17 --show         one program, and its smallest failing part
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

import tilewright as tw
from random_programs import BF16, EXACT, LOOSE_ZERO, ROUNDED, SUMMED, Program, native, write
from tilewright import dtypes, graph, kernel, loops, tracing
from tilewright.errors import ScheduleError
from tilewright.expr import static
from tilewright.runtime.executable import prepared
from tilewright.runtime.jit import pointers
from tilewright.target import host
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import loopify
from tilewright.transforms.schedule import (
    Across,
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
    buffer_names,
    names,
)

# -- what NumPy says, and how sure it is -------------------------------------------------------


class Reference:
    """A program's results by NumPy, and by NumPy with inexact operations disturbed."""

    def __init__(self, program: Program, runs: int = 4) -> None:
        self.program = program
        self.values = self._run(None)
        rngs = [np.random.default_rng(k) for k in range(runs)]
        noisy = any(line.kind != EXACT for line in program.lines)
        # All zeros change their sign in the first run, half of them in the others.
        self.disturbed = [self._run(r, 0.5 if k else 1) for k, r in enumerate(rngs) if noisy]

    def _run(self, rng: np.random.Generator | None, flips: float = 0) -> dict[str, Any]:
        values: dict[str, Any] = {n: native(v) for n, v in self.program.inputs.items()}
        with np.errstate(all="ignore"):
            for line in self.program.lines:
                space = {"np": np} | values
                if rng is not None and line.kind == SUMMED:
                    space |= {
                        n: _wider(disturb(values[n], rng, np.size(values[n]))) for n in line.args
                    }
                exec(str(line), space)
                value = space[line.target]
                if rng is not None and line.kind in (ROUNDED, SUMMED):
                    value = value.astype(self.values[line.target].dtype)
                    many = max((np.size(values[n]) for n in line.args), default=1)
                    value = disturb(value, rng, many if line.kind == SUMMED else 1)
                    value = _flip_zeros(value, rng, flips)
                elif rng is not None and line.kind == LOOSE_ZERO:
                    value = _flip_zeros(value, rng, flips)
                values[line.target] = value
        return values

    def differences(self, name: str, got: Any) -> str | None:
        """What is wrong with `got` as the value of `name`, or None."""
        want = np.asarray(self.values[name])
        got = np.asarray(got)
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            return f"{got.dtype} {got.shape} instead of {want.dtype} {want.shape}"
        allowed, unsure = self._allowed(name, want)
        with np.errstate(all="ignore"):
            near = np.abs(wide(got) - wide(want)) <= allowed
        wrong = ~(near | (got == want) | ((got != got) & (want != want)) | unsure)
        if not wrong.any():
            return None
        at = tuple(int(i[0]) for i in np.nonzero(wrong)) if want.ndim else ()
        return (
            f"{int(wrong.sum())} of {want.size} elements differ, first at {at}:"
            f" {got[at]!r} instead of {want[at]!r} (± {np.broadcast_to(allowed, want.shape)[at]})"
        )

    def _allowed(self, name: str, want: Any) -> tuple[Any, Any]:
        """How far each element may be off, and where nothing can be said."""
        exact = wide(want)
        moved = np.zeros(want.shape)
        unsure = np.zeros(want.shape, bool)
        for values in self.disturbed:
            other = np.asarray(values[name])
            if other.shape != want.shape:
                return np.full(want.shape, np.inf), np.ones(want.shape, bool)
            with np.errstate(all="ignore"):
                off = np.abs(wide(other) - exact)
            lost = ~np.isfinite(off) & ~((other == want) | ((other != other) & (want != want)))
            unsure |= lost
            moved = np.maximum(moved, np.where(np.isfinite(off), off, 0))
        if not dtypes.is_inexact(want.dtype):
            return np.zeros(want.shape), unsure | (moved > 0)
        size = np.abs(np.where(np.isfinite(exact), exact, 0))
        share = moved[moved > 0] / np.maximum(size[moved > 0], 1e-300)
        typical = float(np.median(share)) if share.size else 0.0
        return 10 * np.maximum(moved, min(typical, 0.1) * size), unsure


def wide(a: Any) -> Any:
    """Numbers whose differences do not wrap or round."""
    a = np.asarray(a)
    if dtypes.is_complex(a.dtype):
        return a.astype(np.complex128)
    return a.astype(np.longdouble)


def _wider(a: Any) -> Any:
    """NumPy adds some float16 in float16, which overflows where a sum in float32 does not."""
    return a.astype(np.float32) if getattr(a, "dtype", None) == np.float16 else a


def disturb(a: Any, rng: np.random.Generator, terms: int) -> Any:
    """Floats moved by a few units in the last place; more where many terms are added."""
    if not isinstance(a, np.ndarray | np.generic) or not dtypes.is_inexact(a.dtype):
        return a
    eps = 2.0**-8 if a.dtype == BF16 else float(np.finfo(a.dtype).eps)
    share = eps * np.sqrt(terms + 0.5) * rng.uniform(-3, 3, np.shape(a))
    double = np.complex128 if dtypes.is_complex(a.dtype) else np.float64
    moved = np.asarray(np.asarray(a).astype(double) * (1 + share)).astype(a.dtype)
    return moved[()] if isinstance(a, np.generic) else moved


def _flip_zeros(a: Any, rng: np.random.Generator, share: float) -> Any:
    """A share of the zeros with the other sign."""
    if not dtypes.is_float(a.dtype):
        return a
    flips = (np.asarray(a) == 0) & (rng.random(np.shape(a)) < share)
    return np.where(flips, -np.asarray(a), a).astype(a.dtype)[()]


USUAL: Final = ("interpreted", "compiled")
"""The ways to run a program that are compared with NumPy unless others are asked for."""


# -- running -----------------------------------------------------------------------------------


def check(program: Program, stages: Sequence[str] = USUAL) -> str | None:
    """What goes wrong first, or None; `stages` are of STAGES."""
    reference = Reference(program)
    for stage in stages:
        try:
            results = STAGES[stage](program)
        except Exception as error:  # whatever the compiler raises is a finding
            return f"{stage}: {type(error).__name__}: {error}"
        for name, got in zip(program.outputs, results, strict=True):
            wrong = reference.differences(name, got)
            if wrong is not None:
                return f"{stage}: {name}: {wrong}"
    return None


def _interpreted(program: Program) -> Sequence[Any]:
    call, leaves = tracing.bind(program.function, list(program.inputs.values()), {})
    traced = tracing.trace_call(program.function, call)
    graph.verify(traced.graph)
    arrays = [prepared(np.asarray(x), n.type.dtype) for x, n in zip(leaves, traced.graph.inputs)]
    with np.errstate(all="ignore"):
        return traced.rebuild(graph.evaluate(traced.graph, arrays))


def _compiled(program: Program) -> Sequence[Any]:
    inputs = list(program.inputs.values())
    before = [np.array(v) for v in inputs]
    results = tw.compile(program.function)(*inputs)
    for k, (v, was) in enumerate(zip(inputs, before, strict=True)):
        if not np.array_equal(np.asarray(v).view(), was, equal_nan=dtypes.is_inexact(was.dtype)):
            raise AssertionError(f"input {k} was changed")
    arrays = [r for r in results if isinstance(r, np.ndarray)]
    for k, r in enumerate(arrays):
        if any(np.shares_memory(r, other) for other in (*arrays[:k], *inputs)):
            raise AssertionError(f"result {k} shares memory")
    return results


def _constant(program: Program) -> Sequence[Any]:
    """Every second array is a constant: what depends on these only is computed ahead."""
    inputs = list(program.inputs.values())
    held = {k: tw.constant(x) for k, x in enumerate(inputs) if k % 2 and np.ndim(x)}
    free = [x for k, x in enumerate(inputs) if k not in held]

    def closed(*rest: Any) -> Any:
        given = iter(rest)
        # traced, since the program may write to it as it does to other inputs
        return program.function(
            *(tw.numpy.array(held[k]) if k in held else next(given) for k in range(len(inputs)))
        )

    return tw.compile(closed)(*free)


def _narrow(program: Program) -> Sequence[Any]:
    """Compiled for a machine with short vectors: other remainders, other tiles."""
    machine = replace(host(), vector_bytes=16)
    scheduler = functools.partial(heuristic, target=machine)
    return tw.compile(program.function, scheduler=scheduler)(*program.inputs.values())


def _scheduled(program: Program) -> Sequence[Any]:
    """Compiled with any legal schedules."""
    rng = np.random.default_rng(len(program.source))

    def scheduler(k: kernel.Kernel) -> Schedule:
        for _ in range(20):
            schedule = random_schedule(k, rng)
            try:
                loopify(k, schedule)
            except ScheduleError:
                continue
            return schedule
        return Schedule()

    return tw.compile(program.function, scheduler=scheduler)(*program.inputs.values())


def random_schedule(kernel: Kernel, rng: np.random.Generator) -> Schedule:
    """Any steps at all: factors that fit, parts unrolled or given lanes, some order."""
    steps: list[Step] = []
    if kernel.is_map and len(kernel.axes) > 1 and rng.random() < 0.5:
        spelled = {a: n for n, a in names(kernel).items()}
        order = rng.permutation(len(kernel.axes))
        steps.append(Order(tuple(spelled[kernel.axes[k]] for k in order)))
    for name, a in names(kernel).items():
        extent = static(a.extent)
        if a in kernel.axes and rng.random() < 0.3:
            steps.append(Parallel(name))
        if rng.random() < 0.4:
            continue
        inner = name
        if rng.random() < 0.8:
            factor = int(rng.integers(1, min(extent, 24) + 1))
            steps.append(Split(name, factor))
            inner = f"{name}.i"
            halves = [k for k in range(1, factor + 1) if factor % k == 0]
            if rng.random() < 0.5:
                steps.append(Split(inner, int(rng.choice(halves))))
                steps.append(Unroll(f"{inner}.o"))
                inner += ".i"
        wide = rng.random() < 0.6
        steps.append(Vectorize(inner) if wide else Unroll(inner))
        if wide and a in kernel.axes and rng.random() < 0.3:
            steps.append(Peel(name))
    places = ["", *(n for n, a in names(kernel).items() if a in kernel.axes)]
    buffers = [b for b in buffer_names(kernel).values() if rng.random() < 0.25]
    steps += [Stage(b, str(rng.choice(places))) for b in buffers]
    if kernel.is_map and kernel.axes and rng.random() < 0.2:
        steps.append(Turn(str(rng.choice(places[1:]))))
    summed = [n for n, a in names(kernel).items() if a not in kernel.axes]
    if kernel.is_map and summed and rng.random() < 0.2:
        factor, slices = (int(n) for n in rng.integers(1, 6, 2))
        steps.append(SplitReduction(str(rng.choice(summed)), factor, slices))
    if kernel.is_map and summed and kernel.axes and rng.random() < 0.3:
        steps.append(Across(str(rng.choice(places[1:])), int(rng.choice([2, 4, 8, 16]))))
    return Schedule(tuple(steps))


def _looped(program: Program) -> Sequence[Any]:
    """The whole program's loops, interpreted."""
    lowered = tw.compile(program.function).lower(*program.inputs.values())
    g = lowered.entry.program.graph
    inputs = [
        prepared(np.asarray(v), n.type.dtype) for v, n in zip(program.inputs.values(), g.inputs)
    ]
    inputs += [prepared(a, a.dtype) for a in lowered.entry.captured]
    outs = [np.zeros(n.type.shape, n.type.dtype) for n in g.outputs]
    arena = np.zeros(lowered.arena_bytes, np.uint8)
    loops.run(lowered.program, [*inputs, *outs, arena])
    return lowered.entry.traced.rebuild(outs)


STAGES: Final[dict[str, Callable[[Program], Sequence[Any]]]] = {
    "interpreted": _interpreted,
    "loops": _looped,
    "compiled": _compiled,
    "constant": _constant,
    "narrow": _narrow,
    "scheduled": _scheduled,
}


def kernels_agree(program: Program) -> str | None:
    """Whether each kernel's loops, interpreted, do what the kernel says."""
    lowered = tw.compile(program.function).lower(*program.inputs.values())
    for scheduled in lowered.entry.program.assembly.kernels:
        k = scheduled.kernel
        wrong = kernel_differs(k, scheduled.function)
        if wrong is not None:
            return f"{wrong}\n{k}\n{loops.show_function(scheduled.function)}"
    return None


def kernel_differs(k: kernel.Kernel, function: loops.Function, seed: int = 0) -> str | None:
    """Compare a kernel with loops made from it on random memory, both interpreted."""
    rng = np.random.default_rng(seed)
    memory = {b: _random(b, rng) for b in k.params}
    again = {b: a.copy() for b, a in memory.items()}
    kernel.evaluate(k, memory)
    scratch = {b: _random(b, rng) for b in function.params[len(k.params) :]}
    loops.run(loops.Program((function,)), [{**again, **scratch}[b] for b in function.params])
    for b in k.params:
        x, y = memory[b], again[b]
        if not dtypes.is_inexact(b.dtype):
            same = np.array_equal(x, y)
        else:
            eps = 2.0**-8 if b.dtype == BF16 else float(np.finfo(b.dtype).eps)
            x, y = x.astype(np.complex128), y.astype(np.complex128)
            same = np.allclose(x, y, rtol=1e3 * eps, atol=1e3 * eps, equal_nan=True)
        if not same:
            return f"{b.name} differs: {x} and {y}"
    return None


def _random(b: Any, rng: np.random.Generator) -> Any:
    x = rng.uniform(0.5, 2, b.shape) * (3 if dtypes.is_integer(b.dtype) else 1)
    return np.asarray(x).astype(b.dtype)


def stays_inside(f: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Run the program in a child on arrays between pages that cannot be touched; False if it
    reads or writes one of them."""
    lowered = tw.compile(f).lower(*args)
    program = lowered.entry.program
    arrays = [prepared(np.asarray(v), n.type.dtype) for v, n in zip(args, program.graph.inputs)]
    arrays += [prepared(a, a.dtype) for a in lowered.entry.captured]
    arrays += [np.zeros(n.type.shape, n.type.dtype) for n in program.graph.outputs]
    arrays.append(np.zeros(-(-lowered.arena_bytes // 64) * 64, np.uint8))
    call = program.executable.loaded.call
    child = os.fork()
    if child == 0:
        for at_start in (True, False):
            call(pointers([fenced(a, at_start) for a in arrays]))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status == 0


def fenced(a: Any, at_start: bool) -> int:
    """The address of a copy that starts behind, or ends before, a page without access."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    page, size = mmap.PAGESIZE, ctypes.c_size_t
    pages = max(-(-a.nbytes // page), 1)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = libc.mmap(None, size((pages + 2) * page), 0, flags, -1, size(0))
    libc.mprotect(ctypes.c_void_p(base + page), size(pages * page), 3)
    at = base + page if at_start else base + (pages + 1) * page - a.nbytes
    ctypes.memmove(at, a.ctypes.data, a.nbytes)
    return int(at)


# -- making failures small ---------------------------------------------------------------------


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A smaller program that still fails: fewer results, fewer lines, lines that become inputs."""
    for name in (*(line.target for line in program.lines), *program.outputs):
        one = _pruned(replace(program, outputs=(name,)))
        if fails(one):
            program = one
            break
    k = len(program.lines) - 1
    while k >= 0:
        for smaller in _without(program, k):
            if fails(smaller):
                program = smaller
                break
        k = min(k, len(program.lines)) - 1
    return program


def _without(program: Program, k: int) -> Iterator[Program]:
    """The program with line k's value given as an input."""
    line = program.lines[k]
    value = np.asarray(Reference(replace(program, outputs=()), runs=0).values[line.target])
    lines = program.lines[:k] + program.lines[k + 1 :]
    inputs = {**program.inputs, line.target: value}
    yield _pruned(replace(program, inputs=inputs, lines=lines))


def _pruned(program: Program) -> Program:
    """Without lines and inputs no result needs."""
    needed, lines = set(program.outputs), []
    for line in reversed(program.lines):
        if line.target in needed:
            needed.update(line.args)
            lines.append(line)
    inputs = {n: v for n, v in program.inputs.items() if n in needed}
    return replace(program, inputs=inputs, lines=tuple(reversed(lines)))


def _crashes_or_fails(program: Program, stages: Sequence[str]) -> bool:
    """Run the check in a child, so that a crash is only a failure."""
    child = os.fork()
    if child == 0:
        os._exit(1 if check(program, stages) is not None else 0)
    _, status = os.waitpid(child, 0)
    return status != 0


# -- the command -------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0:200", help="17, or 0:2000")
    parser.add_argument("--show", action="store_true", help="print and shrink the failures")
    parser.add_argument("--stages", default=",".join(USUAL), help=", ".join(STAGES))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    first, _, last = options.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    if options.worker:
        for seed in seeds:
            print(f"start {seed}", flush=True)
            wrong = check(write(seed), options.stages.split(","))
            if wrong is not None:
                print(f"fail {seed} {wrong.splitlines()[0]}", flush=True)
        return 0
    failures = supervise(seeds, options.stages.split(","))
    for seed, wrong in failures.items():
        print(f"seed {seed}: {wrong}")
        if options.show:
            stages = options.stages.split(",")
            print(shrink(write(seed), functools.partial(_crashes_or_fails, stages=stages)))
    print(f"{len(failures)} of {len(seeds)} programs fail")
    return 1 if failures else 0


def supervise(seeds: range, stages: Sequence[str] = USUAL) -> dict[int, str]:
    """Check seeds in a process; when it dies, note the seed and go on behind it."""
    failures: dict[int, str] = {}
    at = seeds.start
    while at < seeds.stop:
        command = [sys.executable, __file__, "--worker", "--seeds", f"{at}:{seeds.stop}"]
        command += ["--stages", ",".join(stages)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in run.stdout.splitlines():
            word, seed, *rest = line.split(" ", 2)
            at = int(seed) + 1
            if word == "fail":
                failures[int(seed)] = rest[0]
        if run.returncode == 0:
            break
        failures[at - 1] = f"the process died ({run.returncode}) {run.stderr[-300:]}"
    return failures


if __name__ == "__main__":
    sys.exit(main())
