"""Golden texts: what small functions look like at every stage.

`pytest tests/test_goldens.py --update` writes them as the code prints them now; the difference is
then reviewed like any other. Loops and LLVM text are for one fixed machine.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import kernel as kernels
from tilewright import loops
from tilewright.codegen import llvm
from tilewright.target import Target
from tilewright.transforms.heuristic import heuristic

FEATURES = "+avx512f,+avx512vl,+f16c,+fma"
ZNVER4 = Target("x86_64-unknown-linux-gnu", "znver4", FEATURES, vector_bytes=64)


def scaled(x: Any, y: Any) -> Any:
    return x * 2 + y


def dense(x: Any, w: Any, b: Any) -> Any:
    return np.maximum(x @ w + b, 0)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def backwards(x: Any) -> Any:
    return np.where(x[::-1] > 0, x, 0)


def statistics(x: Any) -> Any:
    return x.mean(), x.max(0)


def shifted(x: Any) -> Any:
    y = x.copy()
    y[1:] = x[:-1] + 1
    return y


def f32(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


PROGRAMS: dict[Callable[..., Any], tuple[Any, ...]] = {
    scaled: (f32(37), f32(37)),
    dense: (f32(4, 8), f32(8, 16), f32(16)),
    softmax: (f32(3, 20),),
    backwards: (f32(16),),
    statistics: (f32(5, 16),),
    shifted: (f32(4, 3),),
}
LLVM = (scaled, dense, backwards, statistics)
"""Functions whose LLVM text is short enough to read."""


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_golden(f: Callable[..., Any], golden: Callable[[str, str], None]) -> None:
    low = tw.compile(f, scheduler=functools.partial(heuristic, target=ZNVER4)).lower(*PROGRAMS[f])
    sections = [str(low.graph)]
    sections += [f"{kernels.show(k)}\n  schedule {low.schedules[k.name]}" for k in low.kernels]
    sections.append(loops.show_program(low.program))
    golden(f.__name__, "\n\n".join(sections) + "\n")
    written = f is dense  # with instructions that only LLVM for this kind of machine can read
    if f in LLVM and (not written or platform.machine() == "x86_64"):
        golden(f"{f.__name__}.llvm", llvm.print_program(low.program, ZNVER4))
