"""Left over: the few points of an axis beyond whole vectors, as a kernel of their own.

Knows how a kernel is cut in two at the last whole vector, and how what is left over is walked:
the lanes go along the sum, which is long, where there are too few results to fill them. Refuses to
decide where that pays (`products`) and to check steps (`schedule`).

    out[i, j] = sum[k](a[i, k] * b[k, j])          over i:333 j:129
->  out[i, j] = sum[k](a[i, k] * b[k, j])          over i:333 j:128
    out[i, 128] = sum[k](a[i, k] * b[k, 128])      over i:333, lanes along k
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from tilewright.expr import (
    Axis,
    Expr,
    Reduce,
    as_index,
    axis,
    depends,
    index,
    is_static,
    loads_in,
    reductions_in,
    static,
    substitute,
)
from tilewright.kernel import Assign, Kernel
from tilewright.transforms.index_rules import simplify
from tilewright.transforms.packing import whole
from tilewright.transforms.tensorize import contiguous

SUMS: Final = 8
"""Sums that are under way at once: as many multiplications hide each other's latency."""
MOST: Final = 12
"""Sums that are taken where all rows are then in tiles of one height, half as much code."""


def summed_across(body: Sequence[Assign], a: Axis) -> Reduce | None:
    """The one reduction of a map, if its results along `a` can be computed with the lanes along its
    last axis."""
    sums = reductions_in(*(x.value for x in body))
    if len(sums) != 1 or not depends(sums[0], (a,)):
        return None
    return sums[0] if all(is_static(k.extent) for k in sums[0].axes) else None


def cut(kernel: Kernel, a: Axis, lanes: int) -> tuple[Kernel, Kernel, Axis]:
    """The kernel up to the last whole vector of `a`, the kernel of what is left over, and the axis
    that counts it, the last one of the latter."""
    n = static(a.extent)
    start = n - n % lanes
    vectors, rest = axis(a.name, start), axis(a.name, n - start)
    others = tuple(x for x in kernel.axes if x is not a)
    first = _moved(kernel, {a: vectors}, tuple(vectors if x is a else x for x in kernel.axes))
    return first, _moved(kernel, {a: index("+", rest, as_index(start))}, (*others, rest)), rest


def rows_at_once(kernel: Kernel, rest: Axis) -> dict[Axis, int]:
    """How many points of which axes of what is left over are computed at once: all columns by as
    many rows as keep enough sums under way."""
    found = {rest: static(rest.extent)}
    if len(kernel.axes) > 1 and is_static(kernel.axes[-2].extent):
        rows = kernel.axes[-2]
        extent, columns = static(rows.extent), found[rest]
        even = [n for n in range(1, MOST // columns + 1) if extent % n == 0]
        best = max(even, default=1)
        enough = 2 * best * columns >= SUMS
        found[rows] = best if enough else max(1, min(SUMS // columns, extent))
    return found


def strided_columns(kernel: Kernel, rest: Axis, k: Axis) -> tuple[Expr, ...]:
    """What is read for the columns that are left over, where it does not lie side by side along the
    sum: it is copied first."""
    values = [x.value for x in kernel.body]
    sums = [x for r in reductions_in(*values) for x in r.axes]
    found = []
    for e in loads_in(*values):
        used = [x for x in (*kernel.axes, *sums) if x.serial in e.free]
        plain = e.guard is None and not any(c.reads or c.reduces for c in e.children)
        if depends(e, (rest,)) and depends(e, (k,)) and plain and not contiguous(e, k):
            if all(is_static(x.extent) for x in used) and whole(e, used) is not None:
                found.append(e)
    return tuple(found)


def _moved(kernel: Kernel, env: Mapping[Expr, Expr], axes: tuple[Axis, ...]) -> Kernel:
    """The kernel over other axes."""
    roots = [e for a in kernel.body for e in (*a.index, a.value)]
    found = iter(simplify(substitute(roots, env)))
    body = [
        Assign(a.buffer, tuple([next(found) for _ in a.index]), (), next(found))
        for a in kernel.body
    ]
    return replace(kernel, axes=axes, body=tuple(body))
