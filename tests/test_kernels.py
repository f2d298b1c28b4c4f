"""The kernel language: how it prints, what it refuses, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tilewright import dtypes, kernel
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Load,
    Reduce,
    apply,
    axis,
    literal,
    loads_in,
    reductions_in,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.transforms import assemble

I, J, K = axis("i", 4), axis("j", 3), axis("k", 5)


def buffer(name: str, *shape: int, scope: str = "temp") -> Buffer:
    return Buffer(name, dtypes.float32, shape, scope)


def product() -> tuple[Kernel, Buffer, Buffer, Buffer]:
    """A map: out[i,j] = sum over k of x[i,k] * y[k,j]."""
    x, y, out = buffer("x", 4, 5), buffer("y", 5, 3), buffer("out", 4, 3)
    value = Reduce("sum", (K,), x[I, K] * y[K, J])
    return Kernel("product", (I, J), (Assign(out, (I, J), (), value),)), x, y, out


def centred() -> tuple[Kernel, Buffer, Buffer]:
    """A row kernel: squares in a row buffer, then each divided by the row's sum."""
    x, out, square = buffer("x", 4, 5), buffer("out", 4, 5), buffer("square", 5, scope="stack")
    last = axis("l", 5)
    total = Reduce("sum", (last,), square[last])
    body = (
        Assign(square, (K,), (K,), x[I, K] * x[I, K]),
        Assign(out, (I, K), (K,), square[K] / total),
    )
    return Kernel("centred", (I,), body), x, out


# -- printer -----------------------------------------------------------------------------------


def test_a_map_prints() -> None:
    assert kernel.show(product()[0]) == (
        "kernel product(x, y) -> out: f32[4,3]    axes i:4 j:3\n"
        "  out[i,j] = sum[k:5](x[i,k] * y[k,j])"
    )


def test_a_row_kernel_prints_its_own_axes() -> None:
    assert kernel.show(centred()[0]) == (
        "kernel centred(x) -> out: f32[4,5]    axes i:4\n"
        "  for k:5 square[k] = x[i,k] * x[i,k]\n"
        "  for k:5 out[i,k] = square[k] / sum[l:5](square[l])"
    )


def test_shared_expressions_get_a_line_of_their_own() -> None:
    x, out = buffer("x", 4), buffer("out", 4)
    twice = x[I] * literal(2, dtypes.float32) + x[I]
    both = twice * twice
    k = Kernel("f", (I,), (Assign(out, (I,), (), both),))
    assert kernel.show(k).splitlines()[1:] == ["  t0 = x[i] * 2 + x[i]", "  out[i] = t0 * t0"]


def test_axes_of_one_name_are_told_apart() -> None:
    x, out = buffer("x", 4, 4), buffer("out", 4, 4)
    other = axis("i", 4)
    k = Kernel("f", (I, other), (Assign(out, (I, other), (), x[other, I]),))
    assert "out[i,i_1] = x[i_1,i]" in kernel.show(k)


# -- what it knows of itself -------------------------------------------------------------------


def test_loads_and_reductions_are_found_in_the_order_of_a_walk() -> None:
    i, j, k = axis("i", 4), axis("j", 5), axis("k", 6)
    x, at = Buffer("x", dtypes.float32, (4, 6)), Buffer("at", dtypes.int64, (6,))
    inner = Reduce("max", (k,), x[i, k])
    gathered = x[at[j], j]  # a position that is read
    outer = Reduce("sum", (j,), gathered * inner + x[i, 0])
    roots = (inner + gathered, outer * inner, literal(2, dtypes.float32), i + 1)
    found = walk(*roots)
    assert reductions_in(*roots) == [e for e in found if isinstance(e, Reduce)] == [inner, outer]
    assert loads_in(*roots) == [e for e in found if isinstance(e, Load)]
    assert len(loads_in(*roots)) == 4
    assert [e.reduces for e in roots] == [True, True, False, False]


def test_reads_writes_and_locals() -> None:
    k, x, out = centred()
    assert k.reads == (x,)
    assert [b.name for b in k.writes] == ["square", "out"]
    assert [b.name for b in k.locals] == ["square"]
    assert k.params == (x, out)
    assert not k.is_map
    assert product()[0].is_map


# -- verifier ----------------------------------------------------------------------------------


def _axis_from_nowhere() -> Kernel:
    x, out = buffer("x", 4, 3), buffer("out", 4)
    return Kernel("f", (I,), (Assign(out, (I,), (), x[I, J]),))


def _another_type() -> Kernel:
    x, out = buffer("x", 4), Buffer("out", dtypes.int32, (4,))
    return Kernel("f", (I,), (Assign(out, (I,), (), x[I]),))


def _read_before_it_is_written() -> Kernel:
    row, out = buffer("row", 5, scope="stack"), buffer("out", 4, 5)
    body = (Assign(out, (I, K), (K,), row[K]), Assign(row, (K,), (K,), out[I, K]))
    return Kernel("f", (I,), body)


def _too_few_indices() -> Kernel:
    x, out = buffer("x", 4, 3, 2), buffer("out", 4)
    return Kernel("f", (I,), (Assign(out, (I,), (), x[I, I]),))


def _unlike_operands() -> Kernel:
    x, out = buffer("x", 4), buffer("out", 4)
    wrong = apply("add", x[I], literal(1, dtypes.float64), dtype=dtypes.float32)
    assert isinstance(wrong, Apply)
    return Kernel("f", (I,), (Assign(out, (I,), (), wrong),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_axis_from_nowhere, "x[i,j] uses axes outside f"),
        (_another_type, "out: i32[4] is assigned a float32"),
        (_read_before_it_is_written, "out: f32[4,5] reads what is written later"),
        (_too_few_indices, "one index for each axis"),
        (_unlike_operands, "operands of type float32 expected"),
    ],
)
def test_verifier_refuses(make: Callable[[], Kernel], message: str) -> None:
    with pytest.raises(InternalError) as raised:
        kernel.verify(make())
    assert message in str(raised.value)


def test_verifier_accepts() -> None:
    kernel.verify(product()[0])
    kernel.verify(centred()[0])


# -- interpreter -------------------------------------------------------------------------------


def filled(b: Buffer) -> Any:
    return np.random.default_rng(1).normal(size=b.shape).astype(b.dtype)


def test_a_map_is_interpreted() -> None:
    k, x, y, out = product()
    memory = {x: filled(x), y: filled(y), out: np.zeros(out.shape, np.float32)}
    kernel.evaluate(k, memory)
    np.testing.assert_allclose(memory[out], memory[x] @ memory[y], rtol=1e-6, atol=1e-6)


def test_rows_do_not_share_their_buffers() -> None:
    k, x, out = centred()
    memory = {x: filled(x), out: np.zeros(out.shape, np.float32)}
    kernel.evaluate(k, memory)
    square = memory[x] ** 2
    np.testing.assert_allclose(memory[out], square / square.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "empty"), [("sum", 0), ("prod", 1), ("max", -np.inf), ("min", np.inf)]
)
def test_reductions_over_nothing(kind: str, empty: float) -> None:
    none: Axis = axis("n", 0)
    x, out = buffer("x", 4, 0), buffer("out", 4)
    k = Kernel("f", (I,), (Assign(out, (I,), (), Reduce(kind, (none,), x[I, none])),))
    memory = {x: filled(x), out: np.full(4, 7, np.float32)}
    kernel.evaluate(k, memory)
    assert (memory[out] == empty).all()


def test_arena_reuses_what_was_dropped() -> None:
    """Slots never overlap while they live, and a drained arena is one free stretch again."""
    rng = np.random.default_rng(0)
    arena = assemble.Arena()
    live: dict[int, int] = {}
    for _ in range(2000):
        if live and rng.random() < 0.5:
            at = list(live)[int(rng.integers(len(live)))]
            arena.drop(at)
            del live[at]
        else:
            size = int(rng.integers(1, 1000))
            at = arena.take(size)
            assert at % assemble.ALIGN == 0
            assert all(at + size <= a or a + n <= at for a, n in live.items())
            live[at] = size
    for at in live:
        arena.drop(at)
    assert arena.free == [(0, arena.size)]
