"""Collapse: adjacent axes that memory does not tell apart become one.

Knows when a pair of axes only ever moves together: every access steps along the outer one by the
whole extent of the inner one. Then one longer axis does, with fewer loops and one tail instead of
many: an elementwise kernel over (100000, 3) runs in full vectors. Refuses to reorder axes.

    out[i,j] = x[i,j] + y[i,j]   over i:100, j:3   ->   out[i] = x[i] + y[i]   over i:300 (flat)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Index,
    Load,
    Reduce,
    Var,
    as_index,
    axis,
    depends,
    index,
    is_static,
    loads_in,
    reductions_in,
    serials,
    static,
    substitute,
    var,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.transforms.index_rules import Affine, affine, flat, simplify

Access = tuple[Buffer, tuple[Expr, ...]]


def collapse(kernel: Kernel) -> Kernel:
    """The kernel with every pair of axes merged that can be; the same object if none can."""
    kernel = _flattened(kernel)
    before = None
    while before is not kernel:
        before = kernel
        pairs = _pairs(kernel)
        forms = [affine(flat(b, at)) for b, at in _accesses(kernel)] if pairs else []
        for outer, inner in pairs:
            if _together(forms, outer, inner) and not _seen_elsewhere(kernel, outer, inner):
                kernel = _merged(kernel, outer, inner)
                break
    return kernel


def _flattened(kernel: Kernel) -> Kernel:
    """Loads at positions that were divided only to be multiplied again read a flat offset."""
    env: dict[Expr, Expr] = {}
    for e in loads_in(*kernel.expressions):
        if any(_divides(i) for i in e.index if i.children):
            (offset,) = simplify([flat(e.buffer, e.index)])
            if not _divides(offset):
                env[e] = Load(e.buffer, (offset,), e.guard)
    if not env:
        return kernel
    body = [Assign(a.buffer, a.index, a.axes, substitute([a.value], env)[0]) for a in kernel.body]
    return replace(kernel, body=tuple(body))


def _divides(e: Expr) -> bool:
    return any(isinstance(x, Index) and x.op in ("//", "%") for x in walk(e))


def _pairs(kernel: Kernel) -> list[tuple[Axis, Axis]]:
    """Neighbours in one loop nest, innermost first."""
    nests: list[Sequence[Axis]] = [kernel.axes, *(a.axes for a in kernel.body)]
    nests += [r.axes for r in reductions_in(*(a.value for a in kernel.body))]
    pairs = [p for nest in nests for p in reversed(list(itertools.pairwise(nest)))]
    fixed = [(a, b) for a, b in pairs if is_static(a.extent) and is_static(b.extent)]
    return list(dict.fromkeys(fixed))


def _accesses(kernel: Kernel) -> list[Access]:
    read = [(e.buffer, e.index) for e in loads_in(*kernel.expressions)]
    return read + [(a.buffer, a.index) for a in kernel.body]


def _together(forms: Sequence[Affine], outer: Axis, inner: Axis) -> bool:
    """Whether all accesses step along `outer` as along `inner` after its last point."""
    n = static(inner.extent)
    return all(
        form.coefficient(outer) == form.coefficient(inner) * n
        and not form.moves_with((outer, inner))
        for form in forms
    )


def _seen_elsewhere(kernel: Kernel, outer: Axis, inner: Axis) -> bool:
    """Whether an element depends on the axes other than through where it is read."""
    hidden: dict[Expr, Expr] = {}
    for e in walk(*(a.value for a in kernel.body)):
        if isinstance(e, Load):
            guard = () if e.guard is None else substitute([e.guard], hidden)
            if any(depends(g, (outer, inner)) for g in guard):
                return True
            if not any(i.reads for i in e.index):
                hidden[e] = var("load", e.type)
    values = substitute([a.value for a in kernel.body], hidden)
    pair = serials((outer, inner))
    return any(e.free & pair for e in walk(*values) if not isinstance(e, (Axis, Var)))


def _merged(kernel: Kernel, outer: Axis, inner: Axis) -> Kernel:
    """The kernel with `outer` and `inner` replaced by one axis."""
    one = axis(outer.name, static(outer.extent) * static(inner.extent))

    def moved(buffer: Buffer, at: tuple[Expr, ...]) -> tuple[Expr, ...]:
        form = affine(flat(buffer, at))
        step = form.coefficient(inner)
        if step == 0:
            return at
        rest = Affine(form.without(outer).without(inner).terms, form.constant).expr()
        return (index("+", index("*", one, as_index(step)), rest),)

    def rewritten(root: Expr) -> Expr:
        done: dict[Expr, Expr] = {}
        for e in walk(root):
            match e:
                case Load(buffer, at, guard):  # a position may itself be loaded, or reduced to
                    position = moved(buffer, tuple(done[i] for i in at))
                    done[e] = Load(buffer, position, None if guard is None else done[guard])
                case Reduce(kind, axes, body):
                    done[e] = Reduce(kind, _joined(axes, outer, inner, one), done[body])
                case _:
                    done[e] = e.with_children(tuple(done[c] for c in e.children))
        return done[root]

    body = [
        Assign(
            a.buffer,
            moved(a.buffer, a.index),
            _joined(a.axes, outer, inner, one),
            rewritten(a.value),
        )
        for a in kernel.body
    ]
    return replace(kernel, axes=_joined(kernel.axes, outer, inner, one), body=tuple(body))


def _joined(axes: tuple[Axis, ...], outer: Axis, inner: Axis, one: Axis) -> tuple[Axis, ...]:
    """`axes` with the pair replaced by `one`."""
    if outer not in axes:
        return axes
    return tuple(one if a is outer else a for a in axes if a is not inner)
