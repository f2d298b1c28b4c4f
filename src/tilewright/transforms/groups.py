"""Groups: an axis that sums are read along in groups becomes two, so that each is plain.

Knows when a sum reads the same elements for a stretch of an axis: the channels of a grouped
convolution, the heads of queries that share keys. One axis counts groups then and the other stands
inside a group; what the group shares is read again by the inner one, as by the rows of a product.
Windows alone, the channels of which are read on their own, stay as they are. Refuses to choose how
the two are walked (`products`).

    out[j] = sum[c:4](x[j//8*4 + c] * w[j,c])   over j:32
->  out[g*8+j] = sum[c:4](x[g*4 + c] * w[g*8+j,c])   over g:4, j:8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tilewright.expr import (
    Axis,
    Expr,
    Index,
    Lit,
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
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.transforms.index_rules import simplify


def separated(kernel: Kernel) -> Kernel:
    """The map with every axis cut in two that its sums are read along in groups; the same object if
    there is none."""
    while kernel.is_map and (found := _grouped(kernel)) is not None:
        kernel = _cut(kernel, *found)
    return kernel


def _grouped(kernel: Kernel) -> tuple[Axis, int] | None:
    """An axis that what is summed up is read along in groups, and the size of one."""
    for r in reductions_in(*(a.value for a in kernel.body)):
        places = [i for x in loads_in(r.body) for i in x.index]
        for e in walk(*places):
            match e:
                case Index("//", (Axis() as a, Lit(size))) if a in kernel.axes:
                    whole = is_static(a.extent) and static(a.extent) % int(size) == 0
                    others = [b for b in kernel.axes if b is not a]
                    if (
                        whole
                        and 1 < int(size) < static(a.extent)
                        and not _slides(r, places, others)
                    ):
                        return a, int(size)
    return None


def _slides(r: Reduce, places: Sequence[Expr], axes: Sequence[Axis]) -> bool:
    """Whether a sum is over the points of a window only, which moves along some of the axes."""
    moved = [i for i in places if depends(i, axes)]
    return all(any(depends(i, (k,)) for i in moved) for k in r.axes)


def _cut(kernel: Kernel, a: Axis, size: int) -> Kernel:
    """The kernel with `a` as groups of `size`."""
    group, inner = axis(a.name, static(a.extent) // size), axis(a.name, size)
    env: dict[Expr, Expr] = {a: index("+", index("*", group, as_index(size)), inner)}
    body = []
    for x in kernel.body:
        *at, value = simplify(substitute([*x.index, x.value], env))
        body.append(Assign(x.buffer, tuple(at), x.axes, value))
    axes = [y for x in kernel.axes for y in ((group, inner) if x is a else (x,))]
    return replace(kernel, axes=tuple(axes), body=tuple(body))
