"""Streams: the rows of a matrix times a vector that are computed together lie far apart.

Knows why: rows that are neighbours end where the next ones of the same tile begin, so whoever
fetches ahead starts anew for every few rows, while two stretches of the matrix, each read from its
first row to its last, are two streams. So the axis of the rows is cut in two, and the one that
counts stretches is the innermost, for the tile (docs/notes/science.md has the figures). Refuses to
choose the tile (`heuristic`), and to touch matrices that stay near or are packed ahead.

    out[i] = sum[k:1000](a[i,k] * x[k])   over i:1000
->  out[h*500+i] = sum[k:1000](a[h*500+i,k] * x[k])   over i:500, h:2
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tilewright.expr import (
    CONSTANT,
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
from tilewright.transforms.index_rules import affine, flat, simplify

FEW: Final = (2, 4, 3)
MORE: Final = (4, 3, 2)
"""Stretches that the rows may be cut into, the best first: two streams are fetched as fast as one,
and each part of the vector serves two rows. Longer vectors do not stay in the nearest cache beside
what streams by, so that each part had better serve more of them."""
VECTOR_BYTES: Final = 6 << 10
"""What is longer."""
FAR_BYTES: Final = 1 << 20
"""Matrices beyond this size come from afar."""
LONG_BYTES: Final = 1 << 10
"""Rows shorter than this are no streams; sums of so few terms are bound by their ends."""


def streamed(kernel: Kernel) -> Kernel:
    """The kernel with its rows in stretches if it is a large matrix times a vector; the same object
    if it is not."""
    if not kernel.is_map or len(kernel.axes) != 1 or not is_static(kernel.axes[0].extent):
        return kernel
    (rows,) = kernel.axes
    sums = [e for a in kernel.body for e in reductions_in(a.value)]
    if len(set(sums)) != 1 or not _is_large(sums[0], rows):
        return kernel
    n, r = static(rows.extent), sums[0]
    long = static(r.axes[-1].extent) * r.type.itemsize > VECTOR_BYTES
    count = next((c for c in (MORE if long else FEW) if n % c == 0), 1)
    return _cut(kernel, rows, count) if count > 1 else kernel


def _is_large(r: Reduce, rows: Axis) -> bool:
    """Whether what moves with the rows is one large matrix, row by row, and something else is read
    again for each of them."""
    (*others, k) = r.axes
    loads = set(loads_in(r.body))
    moving = [e for e in loads if depends(e, (rows,))]
    shared = [e for e in loads if not depends(e, (rows,)) and depends(e, (k,))]
    if others or not is_static(k.extent) or len(moving) != 1 or not shared:
        return False
    (matrix,) = moving
    width, size = static(k.extent), matrix.type.itemsize
    place = affine(flat(matrix.buffer, matrix.index))
    along = place.coefficient(k) == 1 and place.coefficient(rows) >= width
    plain = matrix.guard is None and matrix.buffer.scope != CONSTANT
    large = width * size >= LONG_BYTES and static(rows.extent) * width * size >= FAR_BYTES
    return along and plain and large


def _cut(kernel: Kernel, rows: Axis, count: int) -> Kernel:
    """The kernel with the rows in so many stretches, whose places are computed together."""
    size = static(rows.extent) // count
    place, stretch = axis(rows.name, size), axis("h", count)
    env: dict[Expr, Expr] = {rows: index("+", index("*", stretch, as_index(size)), place)}
    body = []
    for x in kernel.body:
        *at, value = simplify(substitute([*x.index, x.value], env))
        body.append(Assign(x.buffer, tuple(at), x.axes, value))
    return replace(kernel, axes=(place, stretch), body=tuple(body))
