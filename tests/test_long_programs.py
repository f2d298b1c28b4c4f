"""Programs of ten thousand ops: no recursion, and work that grows as their length."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import graph as graphs
from tilewright import tracing
from tilewright.codegen import llvm
from tilewright.options import Options
from tilewright.target import host
from tilewright.transforms import pipeline
from tilewright.transforms.heuristic import heuristic


def chain(n: int) -> Callable[[Any], Any]:
    """Each op reads the one before."""

    def f(x: Any) -> Any:
        for i in range(n // 2):
            x = np.sin(x) * (0.3 + i % 7 / 10)
        return x

    return f


def lattice(n: int) -> Callable[[Any], Any]:
    """Each op reads two before it, so paths are many more than ops."""

    def f(x: Any) -> Any:
        a, b = x, x + 1
        for _ in range(n // 4):
            a, b = np.tanh(a + b), np.cos(b - a)
        return a * b

    return f


def gradient(n: int) -> Callable[[Any], Any]:
    """Reverse mode of the chain: what it saved is read in the opposite order."""
    return tw.grad(lambda x: chain(n // 3)(x).sum())


def work(action: Callable[[], Any]) -> int:
    """Python calls an action makes: what it costs, whatever else the machine is doing."""
    count = 0

    def hook(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def compiled_text(f: Callable[[Any], Any]) -> None:
    """Every stage up to the LLVM text."""
    call, _ = tracing.bind(f, (np.zeros(5),), {})
    graph = tracing.trace_call(f, call).graph
    graphs.show(graph)
    graphs.show(graph, sources=False)
    _, assembly = pipeline.lower(graph, lambda k: heuristic(k, host()), Options())
    llvm.print_program(assembly.program, host())


@pytest.mark.parametrize("program", [chain, lattice, gradient])
def test_work_is_linear(program: Callable[[int], Callable[[Any], Any]]) -> None:
    """Six times the ops is about six times the work."""
    compiled_text(program(120))  # what is remembered for good is remembered now
    short, long = (work(lambda n=n: compiled_text(program(n))) for n in (500, 3000))
    assert long < 7.5 * short


@pytest.mark.parametrize("program", [chain, lattice])
def test_ten_thousand_ops_run(program: Callable[[int], Callable[[Any], Any]]) -> None:
    f, x = program(10_000), np.linspace(-1, 1, 7)
    compiled = tw.compile(f)
    np.testing.assert_allclose(compiled(x), f(x), rtol=1e-6, atol=1e-9)
    assert len(str(compiled.lower(x).graph).splitlines()) > 10_000
