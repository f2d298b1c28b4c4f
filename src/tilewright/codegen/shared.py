"""Functions that are the same in every program: each is compiled once, and programs call it.

Knows which functions these are for a target: those that turn tiles, which are printed (`turning`),
and the sums of the filterings that convolutions are rewritten to, which are functions of the Loops
language (`ops.filtering`). Refuses to print these, and to know who loads them (`runtime.shared`).

The contract of a shared function: its name begins with `PREFIX` and says all that its code depends
on besides the target; it gets pointers and int64 numbers (turning in registers: vectors), keeps
nothing, calls none but its like, and writes only what its pointers lead to. So a program's object
needs no more than the name, in this process or in one that reads it from disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Final

from tilewright.codegen import turning
from tilewright.loops import Function
from tilewright.ops import filtering
from tilewright.target import Target
from tilewright.transforms.winograd import LARGE, SMALL

PREFIX: Final = "tilewright_"
"""What all names begin with; no other function of a program does."""

_TOGETHER: Final = tuple(
    {filtering.name_of(f, sums): partial(of, f) for sums, of in group.items()}
    for f in (SMALL, LARGE)
    for group in filtering.FUNCTIONS
)


@cache
def functions(target: Target | None) -> Mapping[str, Callable[[], Function | str]]:
    """What makes a target's shared functions, by their names: one to be printed, or the text of its
    module. None for targets that code is not loaded for, and for programs that run anywhere: these
    hold whatever they call."""
    if target is None or target.architecture != "x86_64":
        return {}
    found: dict[str, Callable[[], Function | str]] = {**turning.functions(target)}
    for group in _TOGETHER:
        found |= group
    return found


def together(name: str) -> tuple[str, ...]:
    """The shared functions that are one module with this one, itself included: whoever needs one
    needs all, and each module costs a millisecond besides what is in it."""
    return next((tuple(group) for group in _TOGETHER if name in group), (name,))


def declaration(f: Function) -> str:
    """What programs that call it declare."""
    given = ["ptr noalias noundef"] * len(f.params) + ["i64"] * len(f.numbers)
    return f"declare void @{f.name}({', '.join(given)})"
