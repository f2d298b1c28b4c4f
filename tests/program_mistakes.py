"""Mistakes around whole programs: derivatives, control flow, compiling and running; see
`test_errors`, which checks their messages."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilewright as tw
from error_cases import X, case
from tilewright import errors, graph
from tilewright.cost_model import encoding
from tilewright.cost_model.records import Database
from tilewright.errors import TilewrightError
from tilewright.graph import Graph, Type, new_input
from tilewright.ops import elementwise
from tilewright.transforms.schedule import Schedule, Split

# -- derivatives and control flow --------------------------------------------------------------


@case(errors.MissingRule, TypeError)
def a_function_without_a_derivative() -> None:
    """
    digamma has no derivative rule
    AT
    Give the function a rule of its own with tw.custom_vjp or tw.custom_jvp, or cut the
    derivative with tw.stop_gradient.
    """

    def f(x: Any) -> Any:
        return elementwise.digamma(x)  # HERE

    tw.grad(f)(np.float64(1.5))


@case(errors.NotDifferentiable, TypeError)
def the_gradient_at_an_integer() -> None:
    """
    grad needs real or complex inputs, but `n` has dtype int64
    AT
    Convert it (n.astype(float)), or choose other arguments with argnums=.
    """

    def f(n: Any) -> Any:
        return n * 2.0

    tw.grad(f)(np.int64(3))  # HERE


@case(errors.NoReverseMode, TypeError)
def the_gradient_of_a_while_loop() -> None:
    """
    while_loop has no reverse-mode derivative: the number of steps is not known before it runs
    AT
    Use tw.scan, or tw.fori_loop with Python numbers as bounds; or forward mode: tw.jvp, tw.jacfwd.
    """

    def f(x: Any) -> Any:
        return tw.while_loop(lambda y: y < 10, lambda y: y * x, x)  # HERE

    tw.grad(f)(np.float64(2.0))


@case(errors.NoForwardMode, TypeError)
def forward_through_a_reverse_rule() -> None:
    """
    `f` has a custom_vjp rule, which says nothing about forward mode
    AT
    Define the rule with tw.custom_jvp, which serves both modes, or use tw.vjp, tw.grad or
    tw.jacrev.
    """

    @tw.custom_vjp
    def f(x: Any) -> Any:
        return x * 2

    f.defvjp(lambda x: (f(x), None), lambda residual, ct: (ct * 2,))
    tw.jvp(f, (np.float64(1.0),), (np.float64(1.0),))  # HERE


@case(errors.CarryMismatch, TypeError)
def a_carry_that_changes_its_type() -> None:
    """
    the body of scan was given `carry` as f32 and returned it as f64
    AT
    The carry keeps its shapes and dtypes from step to step: convert the result
    (.astype(float32)), or start with a value of the type the body returns.
    """

    def body(carry: Any, x: Any) -> Any:
        return carry + x, None

    tw.scan(body, np.float32(0), np.arange(3.0))  # HERE


@case(errors.BranchMismatch, TypeError)
def branches_that_differ() -> None:
    """
    the branches give results of different types: result is f32 from sum and f32[3] from same
    AT
    All branches must return the same shapes and dtypes: convert (.astype) or broadcast where
    they differ.
    """

    def same(x: Any) -> Any:
        return x

    def f(x: Any) -> Any:
        return tw.cond(x[0] > 0, same, np.sum, x)  # HERE

    tw.compile(f)(X)


# -- compiling and running ---------------------------------------------------------------------


@case(errors.ScheduleError, ValueError)
def splitting_an_axis_that_is_not_there() -> None:
    """
    Split(row, 8) cannot be applied to axis row: the kernel has i
    AT
    f.lower(...).kernels prints the axes and their extents.
    """

    def f(x: Any) -> Any:
        return x + 1

    tw.compile(f, scheduler=lambda kernel: Schedule((Split("row", 8),)))(X)  # HERE


@case(errors.BadEncoding, ValueError)
def a_kernel_cut_short() -> None:
    """
    this is not a stored kernel: its fields are not axes, body, buffers, name, terms, version
    AT
    Export it again from the database it was measured into, with the same version.
    """
    encoding.decode('{"version": 1}')  # HERE


@case(errors.BadDatabase, ValueError)
def a_database_that_is_no_file() -> None:
    """
    the database of measurements '/dev/null/x' cannot be used: unable to open database file
    AT
    Set TILEWRIGHT_DATABASE to another file, or to off to keep no measurements.
    """
    Database("/dev/null/x").insert([])  # HERE


@case(errors.OutOfMemory, MemoryError)
def a_table_larger_than_any_memory() -> None:
    """
    the program needs 2097152.0 GiB in one block, which the machine does not have
    AT
    Work in blocks (tw.map, tw.scan), recompute with tw.checkpoint, or use a narrower dtype.
    """

    def f(x: Any) -> Any:
        return x[:, None] + x

    tw.compile(f)(np.broadcast_to(np.float64(1), (1 << 24,)))  # HERE


@case(errors.InternalError, TilewrightError)
def a_graph_that_reads_what_is_not_its_own() -> None:
    """
    graph g reads x, which is not its input
    AT
    """
    foreign = new_input("x", Type(X.dtype, X.shape))
    graph.verify(Graph("g", (), (foreign,)))  # HERE
