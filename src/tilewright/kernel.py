"""Kernel: one iteration space and the scalar expression of each element it writes.

    Kernel(axes, body)      body = Assign(buffer, index, axes, value) ...

Knows what is computed together: for every point of the shared `axes`, the assignments run in
order, each over its own further axes. Refuses to know in which order points are visited, and how
wide: that is the schedule's.

Two shapes occur. A *map*: no assignment has axes of its own, all outputs share one space. A *row*
kernel: softmax is one, its maximum, exponentials, sum and quotients being assignments that share
the row axis and pass values on in `stack` buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilewright import expr, forks, interpret
from tilewright.errors import InternalError
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Load,
    Namer,
    Reduce,
    loads_in,
    show_extent,
    show_type,
    static,
    walk,
)
from tilewright.graph import Source
from tilewright.term import Term


class Assign(Term):
    """buffer[index] = value for every point of the kernel's axes and of `axes`."""

    buffer: Buffer
    index: tuple[Expr, ...]
    axes: tuple[Axis, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Kernel:
    """A name, the shared axes, the assignments, and the user's lines they came from."""

    name: str
    axes: tuple[Axis, ...]
    body: tuple[Assign, ...]
    sources: tuple[Source, ...] = ()

    @forks.cached_property
    def is_map(self) -> bool:
        return not any(a.axes for a in self.body)

    @forks.cached_property
    def writes(self) -> tuple[Buffer, ...]:
        return tuple(dict.fromkeys(a.buffer for a in self.body))

    @forks.cached_property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers read and not written by the kernel itself, in order of appearance."""
        own = set(self.writes)
        loads = (e.buffer for e in loads_in(*self.expressions))
        return tuple(b for b in dict.fromkeys(loads) if b not in own)

    @property
    def locals(self) -> tuple[Buffer, ...]:
        return tuple(b for b in self.writes if b.scope in ("stack", "registers"))

    @property
    def params(self) -> tuple[Buffer, ...]:
        """What the kernel needs from outside: what it reads, then what it leaves behind."""
        return (*self.reads, *(b for b in self.writes if b not in self.locals))

    @forks.cached_property
    def expressions(self) -> tuple[Expr, ...]:
        return tuple(e for a in self.body for e in (*a.index, a.value))

    def named(self, name: str) -> Kernel:
        """The kernel under another name."""
        renamed = replace(self, name=name)
        known = ("writes", "reads", "expressions")
        renamed.__dict__.update({k: v for k, v in self.__dict__.items() if k in known})
        return renamed

    def __repr__(self) -> str:
        return show(self)


def show(kernel: Kernel, names: Namer | None = None) -> str:
    """The kernel as text; sub-expressions that are used more than once get a line of their own."""
    names = names or Namer()
    reads = ", ".join(names(b) for b in kernel.reads)
    outs = ", ".join(
        f"{names(b)}: {show_type(b.dtype, b.shape)}"
        for b in kernel.writes
        if b not in kernel.locals
    )
    axes = " ".join(f"{names(a)}:{show_extent(a.extent)}" for a in kernel.axes)
    lines = [f"kernel {kernel.name}({reads}) -> {outs}" + (f"    axes {axes}" if axes else "")]
    for a in kernel.body:
        over = "".join(f"for {names(x)}:{show_extent(x.extent)} " for x in a.axes)
        known = _shared(a.value)
        text: dict[Expr, str] = {}
        for k, e in enumerate(known):
            body = expr.show(e, names, text)
            text[e] = f"t{k}"
            lines.append(f"  {over}t{k} = {body}")
        inner = ",".join(expr.show(i, names).replace(" ", "") for i in a.index)
        place = names(a.buffer) + (f"[{inner}]" if a.index else "")
        lines.append(f"  {over}{place} = {text.get(a.value) or expr.show(a.value, names, text)}")
    return "\n".join(lines)


def _shared(root: Expr) -> list[Expr]:
    """Sub-expressions worth a name: used twice, and neither leaves nor bound by a reduction."""
    nodes = walk(root)
    uses: dict[Expr, int] = {}
    for e in nodes:
        for c in e.children:
            uses[c] = uses.get(c, 0) + 1
    bound = expr.serials(a for e in nodes if isinstance(e, Reduce) for a in e.axes)
    big = (expr.Apply, Reduce)
    return [
        e
        for e in nodes
        if uses.get(e, 0) > 1 and isinstance(e, big) and not e.free & bound and len(walk(e)) > 4
    ]


def verify(kernel: Kernel) -> None:
    """Raise InternalError if an expression is ill-formed or uses an axis that is not there."""
    written: set[Buffer] = set()
    for a in kernel.body:
        expr.verify(*a.index, a.value)
        scope = expr.serials((*kernel.axes, *a.axes))
        for e in (*a.index, a.value):
            if e.free - scope:
                raise InternalError(
                    f"{expr.show(e)} uses axes outside {kernel.name}\n{show(kernel)}"
                )
        if a.value.type != a.buffer.dtype:
            raise InternalError(f"{a.buffer!r} is assigned a {a.value.type}\n{show(kernel)}")
        later = {b.buffer for b in kernel.body} - written
        if any(isinstance(e, Load) and e.buffer in later for e in walk(a.value)):
            raise InternalError(f"{a.buffer!r} reads what is written later\n{show(kernel)}")
        written.add(a.buffer)


def evaluate(kernel: Kernel, memory: Mapping[Buffer, Any]) -> None:
    """Interpret with NumPy: fill the arrays of the kernel's outputs in `memory`.

    Local buffers get a full array over the shared axes, so that rows do not overwrite each other.
    """
    full: dict[Buffer, Any] = dict(memory)
    shared = tuple(static(a.extent) for a in kernel.axes)
    locals_ = set(kernel.locals)
    for b in locals_:
        full[b] = np.zeros((*shared, *(static(n) for n in b.shape)), b.dtype)
    widened = {b: Buffer(b.name, b.dtype, (*shared, *b.shape)) for b in locals_}
    arrays = {widened.get(b, b): a for b, a in full.items()}
    for a in kernel.body:
        space = (*kernel.axes, *a.axes)
        roots = [_widen(e, widened, kernel.axes) for e in (*a.index, a.value)]
        *index, value = interpret.evaluate(roots, space, arrays)
        if a.buffer in locals_:
            rows = interpret.evaluate(list(kernel.axes), space, arrays)
            full[a.buffer][(*rows, *_unflat(a.buffer, index))] = value
        else:
            full[a.buffer][tuple(_unflat(a.buffer, index))] = value


def _unflat(buffer: Buffer, index: list[Any]) -> list[Any]:
    """One position per axis, also where the index is a flat offset; of arrays or expressions."""
    if len(index) == len(buffer.shape):
        return index
    (rest,) = index
    parts: list[Any] = []
    for n in reversed(buffer.shape[1:]):
        parts.append(rest % static(n))
        rest = rest // static(n)
    return [rest, *reversed(parts)]


def _widen(root: Expr, widened: Mapping[Buffer, Buffer], rows: tuple[Axis, ...]) -> Expr:
    env: dict[Expr, Expr] = {}
    for e in walk(root):
        if isinstance(e, Load) and e.buffer in widened:
            index = _unflat(e.buffer, expr.substitute(e.index, env))
            env[e] = Load(widened[e.buffer], (*rows, *index), e.guard)
    return expr.substitute([root], env)[0]
