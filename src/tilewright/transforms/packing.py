"""Packing: what a tile reads again and again, copied into the order it is read in.

Knows how to fill a block of memory with an expression's values by whole vectors, turning square
tiles in registers where source and block are contiguous along different axes. Refuses to decide
what is worth a copy (`heuristic`) and where the block stands (`loopify`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Load,
    as_index,
    axis,
    literal,
    static,
    substitute,
    walk,
)
from tilewright.loops import Alloc, Flip, Stmt, Store, block, loop
from tilewright.transforms.index_rules import affine, flat, simplify

WIDEST_FLIP = 16
"""Rows of the largest square tile that is turned in registers."""


def filled(target: Buffer, axes: Sequence[Axis], value: Expr, lanes: int) -> list[Stmt]:
    """target[axes] = value for all points, by vectors of `lanes`; `axes` are the target's."""
    across = _contiguous(value, axes)
    if across is None or across is axes[-1] or not 2 <= lanes <= WIDEST_FLIP:
        return _by_rows(target, axes, value, lanes)
    return _turned(target, axes, value, lanes, across)


def _contiguous(value: Expr, axes: Sequence[Axis]) -> Axis | None:
    """The axis along which the largest array is read element after element; the last one if
    several arrays are read."""
    loads = [e for e in walk(value) if isinstance(e, Load)]
    if len(loads) != 1:
        return axes[-1]
    form = affine(flat(loads[0].buffer, loads[0].index))
    return next((a for a in reversed(axes) if form.coefficient(a) == 1), None)


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
        out += [loop(o, store)] if count > 1 else [store]
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
