"""Packing: what a tile reads again and again, copied into the order it is read in.

Knows how to fill a block of memory with an expression's values by whole vectors, turning square
tiles in registers where source and block are contiguous along different axes. Refuses to decide
what is worth a copy (`heuristic`) and where the block stands (`loopify`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Load,
    apply,
    as_index,
    axis,
    depends,
    index,
    literal,
    loads_in,
    serials,
    static,
    substitute,
)
from tilewright.kernel import Assign
from tilewright.loops import Alloc, Flip, For, Stmt, Store, block, loop
from tilewright.transforms.index_rules import INF, Affine, Ranges, affine, flat, simplify
from tilewright.transforms.tensorize import contiguous, first, is_word

ALIAS_BYTES = 4096
"""Rows this far apart, or a multiple of it, share the sets of the first level cache."""

WIDEST_FLIP = 16
"""Rows of the largest square tile that is turned in registers."""
FEW_VECTORS = 4
"""Vectors of a row that are copied one after the other: a loop of them would be more code."""


PAD_BYTES = 64
"""What rows are lengthened by that would fall on one another in the cache."""


@dataclass(frozen=True)
class Block:
    """A copy of all that a load, or a word of loads, reads: the memory, the axes over which it is
    filled, the value at each of their points, and the load that replaces the original."""

    buffer: Buffer
    axes: tuple[Axis, ...]
    value: Expr
    load: Load


def whole(e: Expr, axes: Sequence[Axis]) -> Block | None:
    """The copy of what `e` reads over `axes`, others being fixed: one element for each of their
    points (a matrix), or for each position between the first and the last (an image, whose windows
    overlap; what its guard keeps out is zero in the copy). None if the guard forbids it."""
    used = [a for a in axes if a.serial in e.free]
    read = first(e)
    parts = [_divided(i, used) for i in read.index]
    ranges = Ranges()
    bounds = [ranges(moving) for moving, _ in parts]
    bounded = all(low > -INF and high < INF for low, high in bounds)
    if not used or not bounded or any(depends(fixed, used) for _, fixed in parts):
        return None
    sizes = [int(high - low) + 1 for low, high in bounds]
    points = math.prod(static(a.extent) for a in used)
    if is_word(e) or (read.guard is None and points <= math.prod(sizes)):
        fresh: list[Axis] = [axis(a.name, a.extent) for a in used]
        (value,) = substitute([e], dict(zip(used, fresh, strict=True)))
        position: tuple[Expr, ...] = tuple(used)
    else:
        along = [k for k, n in enumerate(sizes) if n > 1]
        fresh = [axis("b", sizes[k]) for k in along]
        places: dict[Expr, Expr] = {
            read.index[k]: parts[k][1] + a + int(bounds[k][0])
            for k, a in zip(along, fresh, strict=True)
        }
        (value,) = substitute([e], places)
        if depends(value, used) or not fresh:
            return None
        position = tuple(parts[k][0] - int(bounds[k][0]) for k in along)
    shape = [static(a.extent) for a in fresh]
    if shape[-1] * e.type.itemsize % ALIAS_BYTES == 0 and len(shape) > 1:
        shape[-1] += PAD_BYTES // e.type.itemsize
    buffer = Buffer(f"{read.buffer.name}_copy", e.type, tuple(shape))
    return Block(buffer, tuple(fresh), value, Load(buffer, position, None))


def _divided(e: Expr, axes: Sequence[Axis]) -> tuple[Expr, Expr]:
    """The terms of a position that move along the axes, and the rest."""
    form = affine(e)
    moving = tuple(t for t in form.terms if depends(t[0], axes))
    fixed = tuple(t for t in form.terms if t not in moving)
    return Affine(moving, 0).expr(), Affine(fixed, form.constant).expr()


def strided(body: Sequence[Assign], a: Axis) -> list[Load]:
    """The loads of some assignments that are contiguous along `a`."""
    found = loads_in(*(x.value for x in body))
    plain = [e for e in found if not any(c.reads for c in e.children)]
    return [e for e in plain if contiguous(e, a)]


def part(e: Expr, summed: Sequence[Axis], a: Axis, start: Expr, width: int, chunk: int) -> Block:
    """The copy of what `e` reads over the reduction's axes and `width` points of `a` from `start`
    on, in rows of `chunk`. The load that replaces it stands at the row's first element."""
    p = axis(a.name, width)
    shape = [static(k.extent) for k in summed]
    name = f"{first(e).buffer.name}_part"
    buffer = Buffer(name, e.type, (math.prod(shape), chunk), "stack")
    row = flat(Buffer("", e.type, tuple(shape)), tuple(summed))
    load = Load(buffer, (row, as_index(0)), None)
    fresh: list[Axis] = [axis("k", math.prod(shape))]
    if isinstance(e, Load) and e.guard is None:  # all axes as one, if the memory is
        (offset,) = substitute([flat(e.buffer, e.index)], {a: start + p})
        strides = [affine(offset).coefficient(k) for k in summed]
        rest = functools.reduce(lambda x, k: x.without(k), summed, affine(offset))
        step = strides[-1] if strides else 0
        dense = all(
            s == step * math.prod(shape[d + 1 :]) for d, s in enumerate(strides)
        ) and rest.expr().free.isdisjoint(serials(summed))
        if dense and step:
            value: Expr = Load(e.buffer, (rest.expr() + fresh[0] * step,), None)
            return Block(buffer, (*fresh, p), value, load)
    fresh = [axis(k.name, k.extent) for k in summed]
    (value,) = substitute([e], {**dict(zip(summed, fresh, strict=True)), a: start + p})
    buffer = Buffer(name, e.type, (*shape, chunk), "stack")
    return Block(buffer, (*fresh, p), value, Load(buffer, (*summed, as_index(0)), None))


def panels(e: Expr, outer: Sequence[Axis], summed: Sequence[Axis], a: Axis, chunk: int) -> Block:
    """The copy of all that `e` reads, chunk after chunk of `a`, each in rows over the reduction's
    axes as `part` has them; the last chunk is filled up with zeros."""
    o, v = axis(f"{a.name}.o", -(-static(a.extent) // chunk)), axis(f"{a.name}.v", chunk)
    fresh = [axis(k.name, k.extent) for k in (*outer, *summed)]
    env: dict[Expr, Expr] = dict(zip((*outer, *summed), fresh, strict=True))
    (value,) = substitute([e], {**env, a: o * chunk + v})
    if static(a.extent) % chunk:
        inside = apply("lt", o * chunk + v, as_index(static(a.extent)))
        loads = loads_in(value)
        (value,) = substitute([value], {x: _within(x, inside) for x in loads})
    axes = (*fresh[: len(outer)], o, *fresh[len(outer) :], v)
    shape = tuple(static(x.extent) for x in axes)
    buffer = Buffer(f"{first(e).buffer.name}_panels", e.type, shape, "constant")
    at = (*outer, index("//", a, as_index(chunk)), *summed, index("%", a, as_index(chunk)))
    return Block(buffer, axes, value, Load(buffer, at, None))


def _within(x: Load, inside: Expr) -> Load:
    guard = inside if x.guard is None else apply("and", x.guard, inside)
    return Load(x.buffer, x.index, guard)


def filled(copy: Block, lanes: int, parallel: bool = False) -> list[Stmt]:
    """Fill a block, by vectors of `lanes`; the outermost loops may be `parallel`."""
    return [_shared(s) if parallel else s for s in _filled(copy, lanes)]


def _shared(s: Stmt) -> Stmt:
    """A loop and those that are all it does, parallel: an image may have three channels only."""
    if not isinstance(s, For) or s.kind != "serial":
        return s
    inner = s.body.statements
    return loop(s.axis, *(map(_shared, inner) if len(inner) == 1 else inner), kind="parallel")


def _filled(copy: Block, lanes: int) -> list[Stmt]:
    target, axes, value = copy.buffer, copy.axes, copy.value
    across = _contiguous(value, axes)
    if across is None or across is axes[-1] or static(across.extent) == 1:  # nothing to turn
        return _by_rows(target, axes, value, lanes)
    if not 2 <= lanes <= WIDEST_FLIP:
        return _by_rows(target, axes, value, lanes)
    return _turned(target, axes, value, lanes, across)


def _contiguous(value: Expr, axes: Sequence[Axis]) -> Axis | None:
    """The axis along which the array is read element after element."""
    return next((a for a in reversed(axes) if contiguous(value, a)), None)


def _pieces(extent: int, lanes: int) -> list[tuple[int, int, int]]:
    """(start, count, width) of an axis in vectors: whole ones, then a partly filled one."""
    whole, rest = divmod(extent, lanes)
    pieces = [(0, whole, lanes)] if whole else []
    return pieces + ([(whole * lanes, 1, rest)] if rest else [])


def _nested(axes: Sequence[Axis], body: list[Stmt]) -> list[Stmt]:
    for a in reversed(axes):
        body = [loop(a, *body)]
    return body


def _by_rows(target: Buffer, axes: Sequence[Axis], value: Expr, lanes: int) -> list[Stmt]:
    *outer, last = axes
    out: list[Stmt] = []
    for start, count, width in _pieces(static(last.extent), lanes):
        o, v = axis(f"{last.name}.o", count), axis(f"{last.name}.v", width)
        at = _position(o, lanes, v, start, count)
        *index, x = simplify(substitute([*axes, value], {last: at}))
        store: Stmt = loop(v, Store(target, tuple(index), x), kind="vector", lanes=lanes)
        few = count <= FEW_VECTORS and len(outer) > 0
        out += [loop(o, store, kind="unroll" if few else "serial")] if count > 1 else [store]
    return _nested(outer, out)


def _turned(
    target: Buffer, axes: Sequence[Axis], value: Expr, lanes: int, across: Axis
) -> list[Stmt]:
    """Square tiles over `across`, along which the value is contiguous, and the target's last
    axis: read by rows, turned, and written by rows."""
    last = axes[-1]
    outer = [a for a in axes[:-1] if a is not across]
    out: list[Stmt] = []
    for p_start, p_count, p_width in _pieces(static(last.extent), lanes):
        for q_start, q_count, q_width in _pieces(static(across.extent), lanes):
            p, q = axis(f"{last.name}.o", p_count), axis(f"{across.name}.o", q_count)
            tile = Buffer("tile", value.type, (lanes, lanes), "registers")
            body: list[Stmt] = [Alloc(tile)]
            if p_width < lanes:  # the rows that are not read must hold something
                u, v = axis("u", lanes), axis("v", lanes)
                zero = Store(tile, (u, v), literal(0, value.type))
                body.append(loop(u, loop(v, zero, kind="vector", lanes=lanes), kind="unroll"))
            u, v = axis("u", p_width), axis("v", q_width)
            env: dict[Expr, Expr] = {
                last: _position(p, lanes, u, p_start, p_count),
                across: _position(q, lanes, v, q_start, q_count),
            }
            (x,) = simplify(substitute([value], env))
            read = loop(v, Store(tile, (u, v), x), kind="vector", lanes=lanes)
            body += [loop(u, read, kind="unroll"), Flip(tile)]
            u, v = axis("u", q_width), axis("v", p_width)
            env = {
                last: _position(p, lanes, v, p_start, p_count),
                across: _position(q, lanes, u, q_start, q_count),
            }
            index = tuple(simplify(substitute(list(axes), env)))
            write = loop(v, Store(target, index, tile[u, v]), kind="vector", lanes=lanes)
            body.append(loop(u, write, kind="unroll"))
            inner: Stmt = block(*body)
            inner = loop(q, inner) if q_count > 1 else inner
            out.append(loop(p, inner) if p_count > 1 else inner)
    return _nested(outer, out)


def _position(o: Axis, lanes: int, inner: Expr, start: int, count: int) -> Expr:
    base: Expr = o * lanes if count > 1 else as_index(0)
    return base + inner + start
