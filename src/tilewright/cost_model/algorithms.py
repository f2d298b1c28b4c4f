"""Algorithms: what each way to compute a convolution takes, as whole programs.

Knows the program that computes one convolution by one algorithm, with the schedules that anybody
would choose for its kernels, and how such programs are timed in turns. Refuses to know what the
algorithms are (`transforms.winograd`), how programs are made (what compiles is a parameter) and
which one is taken (`choice`).

They run in this process, unlike schedules (`measure`): they are what compiling the convolution
with other options would run.
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
from tilewright.transforms.schedule import Schedule
from tilewright.transforms.winograd import ALGORITHMS, DIRECT, Convolution

TURNS: Final = 15
"""Times that each program is called, in turns with the others; medians count."""
SWEPT_BYTES: Final = 64 << 20
"""Written before every call, so that nothing is in a cache: in a program, other layers see to that,
and algorithms differ in what they read."""


@dataclass(frozen=True)
class Fixed:
    """A scheduler by which every convolution is computed by one algorithm, and all else as another
    chooses."""

    choice: Choice
    name: str

    @property
    def cache_key(self) -> str:
        """As `Choice.cache_key`."""
        return f"{self.name} {self.choice.cache_key}"

    def __call__(self, kernel: Kernel) -> Schedule:
        return self.choice(kernel)

    def algorithm(self, convolution: Convolution) -> str:
        """`Choice.algorithm`."""
        return self.name


Compile = Callable[..., Any]
"""`tilewright.compile`."""


def timed(convolution: Convolution, choice: Choice, compiled: Compile) -> list[Timing]:
    """Measure every algorithm of a convolution on this machine, on normally distributed images."""
    programs = {name: _program(convolution, Fixed(choice, name), compiled) for name in ALGORITHMS}
    clock = time.process_time if choice.threads == 1 else time.perf_counter
    swept = np.empty(SWEPT_BYTES, np.int8)
    turns = [{n: _seconds(programs[n], swept, clock) for n in programs} for _ in range(TURNS)]
    direct = median(t[DIRECT] for t in turns)
    here = convolution.text, machine_key(choice.target), choice.threads
    now, compiler = time.time(), compiler_version()
    return [
        Timing(*here, n, direct * median(t[n] / t[DIRECT] for t in turns), direct, now, compiler)
        for n in programs
    ]


def _program(convolution: Convolution, scheduler: Fixed, compiled: Compile) -> Callable[[], Any]:
    """A call of a program that computes nothing but the convolution, which has run once."""
    rng = np.random.default_rng(0)
    x, w = (_normal(rng, t) for t in (convolution.x, convolution.w))
    threads = scheduler.choice.threads
    held = constant(w)

    def of_constant(x: Any) -> Any:
        return convolution.op(x, asarray(held))

    given = (x,) if convolution.constant else (x, w)
    f = of_constant if convolution.constant else convolution.op
    run = functools.partial(compiled(f, scheduler=scheduler, threads=threads), *given)
    run()
    return run


def _normal(rng: np.random.Generator, t: Type) -> Any:
    return rng.standard_normal(tuple(map(static, t.shape))).astype(t.dtype)


def _seconds(run: Callable[[], Any], swept: Any, clock: Callable[[], float]) -> float:
    """Seconds of a call that finds nothing in the caches."""
    swept.fill(1)
    start = clock()
    run()
    return clock() - start
