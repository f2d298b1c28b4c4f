"""Algorithms: what each way to compute a convolution or an attention takes, as whole programs.

Knows the program that computes one of them by one algorithm, with the schedules that anybody would
choose for its kernels, and how such programs are timed in turns. Refuses to know what the
algorithms are (`transforms.alternatives`), how programs are made (what compiles is a parameter) and
which one is taken (`choice`).

They run in this process, unlike schedules (`measure`): they are what compiling the computation with
other options would run.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np

from tilewright.array import asarray
from tilewright.constants import constant
from tilewright.cost_model.choice import Choice
from tilewright.cost_model.encoding import machine_key
from tilewright.cost_model.records import Timing, compiler_version
from tilewright.expr import static
from tilewright.graph import Type
from tilewright.kernel import Kernel
from tilewright.transforms.alternatives import Computation
from tilewright.transforms.schedule import Schedule

TURNS: Final = 15
"""Times that each program is called, in turns with the others; medians count."""
SWEPT_BYTES: Final = 64 << 20
"""Written before every call, so that nothing is in a cache: in a program, other layers see to that,
and algorithms differ in what they read."""


@dataclass(frozen=True)
class Fixed:
    """A scheduler by which everything that can be is computed by one algorithm, and all else as
    another chooses."""

    choice: Choice
    name: str

    @property
    def cache_key(self) -> str:
        """As `Choice.cache_key`."""
        return f"{self.name} {self.choice.cache_key}"

    def __call__(self, kernel: Kernel) -> Schedule:
        return self.choice(kernel)

    def algorithm(self, computation: Computation) -> str | None:
        """`Choice.algorithm`."""
        known = self.name in computation.algorithms
        return self.name if known else self.choice.algorithm(computation)


Compile = Callable[..., Any]
"""`tilewright.compile`."""


def timed(computation: Computation, choice: Choice, compiled: Compile) -> list[Timing]:
    """Measure every algorithm of a computation on this machine, on normally distributed numbers;
    where masks could hide something, nothing is hidden."""
    names = computation.algorithms
    programs = {name: _program(computation, Fixed(choice, name), compiled) for name in names}
    clock = time.process_time if choice.threads == 1 else time.perf_counter
    swept = np.empty(SWEPT_BYTES, np.int8)
    turns = [{n: _seconds(programs[n], swept, clock) for n in programs} for _ in range(TURNS)]
    first = median(t[names[0]] for t in turns)
    here = computation.text, machine_key(choice.target), choice.threads
    now, compiler = time.time(), compiler_version()
    return [
        Timing(*here, n, first * median(t[n] / t[names[0]] for t in turns), first, now, compiler)
        for n in programs
    ]


def _program(computation: Computation, scheduler: Fixed, compiled: Compile) -> Callable[[], Any]:
    """A call of a program that computes nothing else, which has run once."""
    rng = np.random.default_rng(0)
    arrays = [_numbers(rng, t) for t in computation.types]
    held = {i: constant(arrays[i]) for i in computation.constants}
    given = [x for i, x in enumerate(arrays) if i not in held]

    def computed(*given: Any) -> Any:
        rest = iter(given)
        every = range(len(arrays))
        return computation.op(*(asarray(held[i]) if i in held else next(rest) for i in every))

    threads = scheduler.choice.threads
    run = functools.partial(compiled(computed, scheduler=scheduler, threads=threads), *given)
    run()
    return run


def _numbers(rng: np.random.Generator, t: Type) -> Any:
    shape = tuple(map(static, t.shape))
    return np.ones(shape, bool) if t.dtype == bool else rng.standard_normal(shape).astype(t.dtype)


def _seconds(run: Callable[[], Any], swept: Any, clock: Callable[[], float]) -> float:
    """Seconds of a call that finds nothing in the caches."""
    swept.fill(1)
    start = clock()
    run()
    return clock() - start
