"""The loops language: how it prints, what it refuses, and what it means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtypes, loops
from tilewright.errors import InternalError
from tilewright.expr import Axis, Buffer, Expr, Lit, as_index, axis, load, var
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    Call,
    For,
    Function,
    If,
    Let,
    Program,
    Ref,
    Stmt,
    Sync,
    While,
    block,
    loop,
    store,
)

X, OUT = Buffer("x", dtypes.int64, (4, 3)), Buffer("out", dtypes.int64, (4, 3))
I, J = axis("i", 4), axis("j", 3)


def function(*body: Stmt, params: tuple[Buffer, ...] = (X, OUT)) -> Function:
    return Function("f", params, block(*body))


def number(n: int) -> Lit:
    return Lit(n, dtypes.int64)


def run(*body: Stmt) -> np.ndarray:
    """The contents of `out` after the statements ran on x = 0, 1, ... 11."""
    x, out = np.arange(12).reshape(4, 3), np.zeros((4, 3), np.int64)
    f = function(*body)
    loops.verify(f)
    loops.run(Program((f,)), [x, out])
    return out


# -- printer -----------------------------------------------------------------------------------


def test_every_statement_prints() -> None:
    acc, t = Buffer("acc", dtypes.int64, (4,), "registers"), var("t", dtypes.int64)
    row, v = Buffer("row", dtypes.int64, (3,), "stack"), axis("v", 3)
    body = (
        Alloc(row),
        loop(
            I,
            Alloc(acc),
            loop(v, store(acc, (v,), number(0)), kind="vector", lanes=4),
            loop(J, Accumulate(row, (J,), "sum", X[I, J]), kind="unroll"),
            Let(t, X[I, 0] * number(2)),
            If(t < number(4), block(store(OUT, (I, as_index(0)), t)), block()),
            If(t < 9, block(Sync("block")), block(store(OUT, (I, as_index(1)), t))),
            kind="parallel",
        ),
        While(load(row, (as_index(0),)) < number(2), block(store(row, (as_index(0),), number(3)))),
        Call("g", (Ref(X, as_index(0)), Ref(OUT, as_index(3)), number(7)), None),
    )
    assert loops.show_function(function(*body)) == (
        "loops f(x: i64[4,3], out: i64[4,3])\n"
        "  alloc row: i64[3] in stack\n"
        "  parallel i in 4\n"
        "    alloc acc: i64[4] in registers\n"
        "    vector(4) v in 3\n"
        "      acc[v] = 0\n"
        "    unroll j in 3\n"
        "      row[j] += x[i,j]\n"
        "    t = x[i,0] * 2\n"
        "    if t < 4\n"
        "      out[i,0] = t\n"
        "    if t < 9\n"
        "      sync block\n"
        "    else\n"
        "      out[i,1] = t\n"
        "  while row[0] < 2\n"
        "    row[0] = 3\n"
        "  call g(x, out + 3, 7)"
    )


def test_a_program_prints_its_functions_in_order() -> None:
    f, g = function(store(OUT, (I, J), X[I, J])), Function("g", (X,), block())
    assert loops.show_program(Program((f, g))).split("\n\n")[1] == "loops g(x: i64[4,3])"


def test_blocks_without_declarations_are_spliced() -> None:
    one, two = store(OUT, (I, J), number(1)), store(OUT, (I, J), number(2))
    assert block(block(one), two) is Block((one, two))
    t = var("t", dtypes.int64)
    scoped = Block((Let(t, number(1)),))
    assert block(scoped, two) is Block((scoped, two))


def test_what_a_statement_writes() -> None:
    row = Buffer("row", dtypes.int64, (3,), "stack")
    inner = loop(I, Accumulate(row, (I,), "max", number(1)), Call("g", (Ref(OUT, I),), None))
    assert inner.writes == {row, OUT}


# -- verifier ----------------------------------------------------------------------------------


def _unbound_axis() -> Stmt:
    return store(OUT, (I, as_index(0)), number(1))


def _unbound_variable() -> Stmt:
    return loop(I, store(OUT, (I, as_index(0)), var("t", dtypes.int64)))


def _variable_after_its_block() -> Stmt:
    t = var("t", dtypes.int64)
    return block(Block((Let(t, number(1)),)), store(OUT, (as_index(0), as_index(0)), t))


def _unknown_buffer() -> Stmt:
    other = Buffer("other", dtypes.int64, (4, 3))
    return loop(I, store(OUT, (I, as_index(0)), other[I, 0]))


def _another_type() -> Stmt:
    return loop(I, store(OUT, (I, as_index(0)), Lit(1.0, dtypes.float32)))


def _too_few_lanes() -> Stmt:
    return For(I, block(store(OUT, (I, as_index(0)), number(1))), "vector", 2)


def _lanes_of_a_serial_loop() -> Stmt:
    return For(I, block(store(OUT, (I, as_index(0)), number(1))), "serial", 4)


def _unknown_kind() -> Stmt:
    return For(I, block(store(OUT, (I, as_index(0)), number(1))), "sideways", 1)


def _another_type_bound() -> Stmt:
    return Let(var("t", dtypes.int32), number(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_unbound_axis, "is not in scope"),
        (_unbound_variable, "is not in scope"),
        (_variable_after_its_block, "is not in scope"),
        (_unknown_buffer, "other: i64[4,3] is not in scope"),
        (_another_type, "bad store to out: i64[4,3]: 1: float32"),
        (_too_few_lanes, "bad loop vector"),
        (_lanes_of_a_serial_loop, "bad loop serial"),
        (_unknown_kind, "bad loop sideways"),
        (_another_type_bound, "bound to a int64: 1"),
    ],
)
def test_verifier_refuses(make: Callable[[], Stmt], message: str) -> None:
    with pytest.raises(InternalError) as raised:
        loops.verify(function(make()))
    assert message in str(raised.value)


# -- interpreter -------------------------------------------------------------------------------


def over(*axes: Axis, body: tuple[Stmt, ...], kind: str = "serial") -> Stmt:
    for a in reversed(axes):
        body = (loop(a, *body, kind=kind),)
    return body[0]


def test_stores_by_position_and_by_flat_offset() -> None:
    by_position = run(over(I, J, body=(store(OUT, (I, J), X[I, J] + number(1)),)))
    by_offset = run(over(I, J, body=(store(OUT, (I * 3 + J,), X[I, J] + number(1)),)))
    assert (by_position == np.arange(1, 13).reshape(4, 3)).all()
    assert (by_offset == by_position).all()


@pytest.mark.parametrize(("kind", "expected"), [("sum", 66), ("max", 11), ("min", 0), ("prod", 0)])
def test_accumulate(kind: str, expected: int) -> None:
    step = over(I, J, body=(Accumulate(OUT, (as_index(0), as_index(0)), kind, X[I, J]),))
    assert run(step)[0, 0] == expected


def test_while_counts() -> None:
    here: tuple[Expr, ...] = (as_index(1), as_index(2))
    go_on = load(OUT, here) < number(5)
    assert run(While(go_on, block(Accumulate(OUT, here, "sum", number(2)))))[1, 2] == 6


def test_if_takes_one_branch() -> None:
    small, large = (block(store(OUT, (I, J), number(n))) for n in (1, 2))
    got = run(over(I, J, body=(If(X[I, J] < number(6), small, large),)))
    assert (got == np.where(np.arange(12).reshape(4, 3) < 6, 1, 2)).all()


def test_a_guarded_load_touches_nothing() -> None:
    t = var("t", dtypes.int64)
    outside = load(X, (I + 3, J), I < as_index(1))
    got = run(over(I, J, body=(Let(t, outside), store(OUT, (I, J), t))))
    assert (got[0] == [9, 10, 11]).all() and (got[1:] == 0).all()


def test_an_unguarded_load_outside_is_an_error() -> None:
    with pytest.raises(InternalError, match="reads offset"):
        run(over(I, J, body=(store(OUT, (I, J), X[I + 3, J]),)))


def test_calls_see_memory_from_their_offset_on_and_as_their_own_type() -> None:
    """As the planned memory of a program does: bytes, of which a callee sees numbers."""
    whole, part = Buffer("arena", dtypes.uint8, (64,)), Buffer("p", dtypes.float32, (2,))
    callee = Function("g", (part,), block(store(part, (as_index(1),), Lit(2.5, dtypes.float32))))
    entry = Function("f", (whole,), block(Call("g", (Ref(whole, as_index(16)),), None)))
    memory = np.zeros(64, np.uint8)
    loops.run(Program((callee, entry)), [memory])
    assert memory.view(np.float32)[5] == 2.5
    assert np.count_nonzero(memory.view(np.float32)) == 1
