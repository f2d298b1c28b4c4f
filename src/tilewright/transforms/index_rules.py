"""Index rules: exact integer arithmetic on positions, simplified with known extents.

Knows ranges, affine forms and how division and remainder cancel; also folds the guards that
become certain. Every rule is directional: the result is never larger. Refuses to know what is
indexed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tilewright import dtypes
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Dim,
    Expr,
    Index,
    Lit,
    Load,
    Reduce,
    as_index,
    index,
    is_static,
    literal,
    reductions_in,
    serials,
    static,
    substitute,
    walk,
)
from tilewright.scalars import REDUCTIONS

INF = math.inf
Range = tuple[float, float]
ANY: Range = (-INF, INF)


class Affine(NamedTuple):
    """sum(coefficient * term) + constant, terms being positions that are not sums."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int

    def coefficient(self, term: Expr) -> int:
        for t, c in self.terms:
            if t is term:
                return c
        return 0

    def moves_with(self, axes: Iterable[Expr]) -> bool:
        """Whether it depends on these axes other than as terms of its own."""
        own = serials(axes)
        return any(not t.free.isdisjoint(own) for t, _ in self.terms if t not in axes)

    def without(self, term: Expr) -> Affine:
        return Affine(tuple(t for t in self.terms if t[0] is not term), self.constant)

    def shifted(self, by: int) -> Affine:
        return Affine(self.terms, self.constant + by)

    def moving(self) -> Expr:
        """The form without its constant."""
        return Affine(self.terms, 0).expr()

    def expr(self) -> Expr:
        """The form as an index expression, constants last."""
        total: Expr | None = None
        for term, c in self.terms:
            scaled = term if c == 1 else index("*", term, as_index(c))
            total = scaled if total is None else index("+", total, scaled)
        if total is None:
            return as_index(self.constant)
        return index("+", total, as_index(self.constant)) if self.constant else total


def affine(e: Expr) -> Affine:
    """The affine form of an index expression; products of two terms count as one term."""
    terms: dict[Expr, int] = {}
    constant = 0
    stack: list[tuple[Expr, int]] = [(e, 1)]
    while stack:  # types compared, no patterns: lowering asks for many thousands of these
        x, scale = stack.pop()
        if isinstance(x, Index):
            a, b = x.args
            if x.op == "+":
                stack += ((b, scale), (a, scale))
                continue
            if x.op == "*" and isinstance(b, Lit):
                stack.append((a, scale * int(b.value)))
                continue
        elif isinstance(x, Lit):
            constant += scale * int(x.value)
            continue
        terms[x] = terms.get(x, 0) + scale
    return Affine(tuple((t, c) for t, c in terms.items() if c), constant)


def flat(buffer: Buffer, idx: Sequence[Expr]) -> Expr:
    """The row-major offset of a position; one index into a buffer of other rank is one already."""
    if len(idx) == 1 and len(buffer.shape) != 1:
        return idx[0]
    offset: Expr | None = None
    for i, n in zip(idx, buffer.shape, strict=True):
        offset = i if offset is None else index("+", index("*", offset, as_index(n)), i)
    return as_index(0) if offset is None else offset


class Ranges:
    """Inclusive bounds of index expressions, from the extents of their axes."""

    def __init__(self) -> None:
        self._known: dict[Expr, Range] = {}

    def __call__(self, e: Expr) -> Range:
        found = self._known.get(e)
        if found is None:
            for x in walk(e):
                if x not in self._known:
                    self._known[x] = self._of(x)
            found = self._known[e]
        return found

    def _of(self, e: Expr) -> Range:
        match e:
            case Lit(value, dtype) if not dtypes.is_float(dtype):
                return (int(value), int(value))
            case Axis(_, extent):
                high = static(extent) - 1 if is_static(extent) else self(extent)[1] - 1  # type: ignore[arg-type]
                return (0, high)
            case Index("+", (a, b)):
                (al, ah), (bl, bh) = self._known[a], self._known[b]
                return (al + bl, ah + bh)
            case Index("*", (a, Lit(c))):
                low, high = self._known[a]
                ends = [x * int(c) if x not in (INF, -INF) or c else 0 for x in (low, high)]
                return (min(ends), max(ends))
            case Index("//", (a, Lit(n))):
                low, high = self._known[a]
                return (
                    low // int(n) if abs(low) < INF else low,
                    high // int(n) if abs(high) < INF else high,
                )
            case Index("%", (a, Lit(n))):
                low, high = self._known[a]
                return (low, high) if 0 <= low and high < int(n) else (0, int(n) - 1)
            case Index("min", (a, b)):
                (al, ah), (bl, bh) = self._known[a], self._known[b]
                return (min(al, bl), min(ah, bh))
            case Index("max", (a, b)):
                (al, ah), (bl, bh) = self._known[a], self._known[b]
                return (max(al, bl), max(ah, bh))
        return ANY


def conjuncts(e: Expr) -> Iterator[Expr]:
    """The conditions that hold together where `e` does, from the first to the last."""
    if isinstance(e, Apply) and e.op.name == "and":
        for c in e.args:
            yield from conjuncts(c)
    else:
        yield e


def bound(e: Expr) -> Affine | None:
    """The position that is not negative where a comparison of positions holds; None for others."""
    if not isinstance(e, Apply) or e.op.name not in ("le", "lt"):
        return None
    if not all(isinstance(a, Lit | Axis | Dim | Index) for a in e.args):
        return None
    if any(a.type != dtypes.int64 for a in e.args):  # literals of elements
        return None
    low, high = e.args
    less = 0 if e.op.name == "le" else -1
    return affine(index("+", high, index("+", index("*", low, as_index(-1)), as_index(less))))


def span(form: Affine, ranges: Ranges) -> Range:
    """The least and the largest number of a position."""
    low = high = float(form.constant)
    for term, c in form.terms:
        ends = [c * end for end in ranges(term)]
        low, high = low + min(ends), high + max(ends)
    return low, high


def simplify(roots: Sequence[Expr]) -> list[Expr]:
    """The expressions with simpler positions and guards; unchanged ones stay the same objects.

    Reductions lose their axes of one point, and over no points they are a number:
    reduce[k:1](x[k]) is x[0], reduce[k:0](x[k]) the neutral element.
    """
    ranges = Ranges()
    positions = _Positions(ranges)
    done: dict[Expr, Expr] = {}
    roots = _at_points(roots)
    for e in walk(*roots):
        new = tuple([done[c] for c in e.children])
        rebuilt = e if new == e.children else e.with_children(new)
        if isinstance(rebuilt, Index):
            rebuilt = positions(rebuilt)
        elif isinstance(rebuilt, Apply):
            rebuilt = _apply(rebuilt, ranges) if rebuilt.op.name in TESTS else rebuilt
        elif isinstance(rebuilt, Load):
            if isinstance(rebuilt.guard, Lit) and rebuilt.guard.value:
                rebuilt = Load(rebuilt.buffer, rebuilt.index, None)
        elif isinstance(rebuilt, Reduce):
            rebuilt = _reduction(rebuilt)
        done[e] = rebuilt
    return [done[r] for r in roots]


def _reduction(r: Reduce) -> Expr:
    """Without axes of one point; over no points the neutral element."""
    if any(a.extent == 0 for a in r.axes) and not dtypes.is_complex(r.type):
        return literal(REDUCTIONS[r.kind][1](r.type), r.type)
    longer = tuple([a for a in r.axes if a.extent != 1])
    return r if longer == r.axes else Reduce(r.kind, longer, r.body) if longer else r.body


def _at_points(roots: Sequence[Expr]) -> Sequence[Expr]:
    """The expressions with axes of one point, where a reduction binds them, at that point."""
    if not any(a.extent == 1 for r in reductions_in(*roots) for a in r.axes):
        return roots
    done: dict[Expr, Expr] = {}
    for e in walk(*roots):
        rebuilt = e.with_children(tuple([done[c] for c in e.children]))
        if isinstance(rebuilt, Reduce):
            points: dict[Expr, Expr] = {a: as_index(0) for a in rebuilt.axes if a.extent == 1}
            rebuilt = Reduce(rebuilt.kind, rebuilt.axes, *substitute([rebuilt.body], points))
        done[e] = rebuilt
    return [done[r] for r in roots]


class _Positions:
    """Applies the rules for positions until none changes anything."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.known: dict[Expr, Expr] = {}
        self.sizes: dict[Expr, int] = {}

    def __call__(self, e: Expr) -> Expr:
        known = self.known
        found = known.get(e)
        if found is not None:
            return found
        if not isinstance(e, Index):
            return e
        below = all(c in known for c in e.args if isinstance(c, Index))
        for x in (e,) if below else walk(e):
            if x in known or not isinstance(x, Index):
                continue
            known[x] = x  # rules that lead back here stop
            new = tuple([known.get(c, c) for c in x.args])
            inner = x if new == x.args else index(x.op, *new)
            after = _index(inner, self) if isinstance(inner, Index) else inner
            known[x] = x if after is x else self(after)
        return known[e]

    def size(self, e: Expr) -> int:
        """How much there is to write: shared parts count every time."""
        found = self.sizes.get(e)
        if found is None:
            for x in walk(e):
                if x not in self.sizes:
                    self.sizes[x] = 1 + sum([self.sizes[c] for c in x.children])
            found = self.sizes[e]
        return found


def _index(e: Index, positions: _Positions) -> Expr:
    (a, b), ranges = e.args, positions.ranges
    match e.op:
        case "+" | "*":
            result = _sum(affine(e), positions)
        case "//" if isinstance(b, Lit):
            result = _floordiv(a, int(b.value), ranges)
        case "%" if isinstance(b, Lit):
            result = _mod(a, int(b.value), ranges)
        case "min" | "max":
            (al, ah), (bl, bh) = ranges(a), ranges(b)
            below, above = ah <= bl, al >= bh
            result = e if not (below or above) else (a if below == (e.op == "min") else b)
        case _:
            result = e
    larger = result is not e and result.children and positions.size(result) > positions.size(e)
    return e if larger else result


def _sum(form: Affine, positions: _Positions) -> Expr:
    """Put (x // n) * n + x % n back together wherever both halves are present."""
    terms = dict(form.terms)
    for t, c in form.terms:
        match t:
            case Index("%", (x, Lit(n))):
                quotient = positions(index("//", x, as_index(int(n))))
                parts = affine(quotient)
                # x // n may itself have been simplified to a sum: every part must be there.
                if (
                    terms.get(t) == c
                    and parts.terms
                    and all(terms.get(p) == q * c * int(n) for p, q in parts.terms)
                ):
                    del terms[t]
                    for p, _ in parts.terms:
                        del terms[p]
                    whole = affine(x)
                    for p, q in whole.terms:
                        terms[p] = terms.get(p, 0) + q * c
                    form = Affine(
                        (), form.constant + whole.constant * c - parts.constant * c * int(n)
                    )
    return Affine(tuple((t, c) for t, c in terms.items() if c), form.constant).expr()


def _divided(form: Affine, n: int) -> tuple[Affine, Affine]:
    """The part of the form that n divides, and the rest (its constant in 0..n-1)."""
    whole = tuple((t, c) for t, c in form.terms if c % n == 0)
    rest = tuple((t, c) for t, c in form.terms if c % n)
    constant = form.constant // n * n
    return Affine(whole, constant), Affine(rest, form.constant - constant)


def _floordiv(x: Expr, n: int, ranges: Ranges) -> Expr:
    whole, rest = _divided(affine(x), n)
    quotient = Affine(tuple((t, c // n) for t, c in whole.terms), whole.constant // n)
    inner = rest.expr()
    low, high = ranges(inner)
    if 0 <= low and high < n:
        return quotient.expr()
    match inner:
        case Index("//", (y, Lit(m))):
            inner_quotient = index("//", y, as_index(int(m) * n))
        case Index("%", (y, Lit(m))) if int(m) % n == 0:
            inner_quotient = _mod(_floordiv(y, n, ranges), int(m) // n, ranges)
        case _:
            inner_quotient = index("//", *_shrunk(inner, n, ranges))
    return (
        index("+", quotient.expr(), inner_quotient)
        if quotient.terms or quotient.constant
        else inner_quotient
    )


def _shrunk(x: Expr, n: int, ranges: Ranges) -> tuple[Expr, Expr]:
    """(x, n) with a common factor of all coefficients divided out when the rest cannot carry."""
    form = affine(x)
    factors = [abs(c) for _, c in form.terms]
    g = math.gcd(n, *factors) if factors else 1
    for (
        t,
        c,
    ) in form.terms:  # a remainder below the other factors may be dropped: (i*4 + r)//8 with r < 4
        others = [abs(k) for s, k in form.terms if s is not t]
        h = math.gcd(n, *others) if others else 1
        low, high = ranges(Affine(((t, c),), form.constant % h if h else 0).expr())
        if h > 1 and 0 <= low and high < h:
            kept = Affine(
                tuple((s, k // h) for s, k in form.terms if s is not t), form.constant // h
            )
            return kept.expr(), as_index(n // h)
    if g > 1:
        return Affine(
            tuple((t, c // g) for t, c in form.terms), form.constant // g
        ).expr(), as_index(n // g)
    return x, as_index(n)


def _mod(x: Expr, n: int, ranges: Ranges) -> Expr:
    _, rest = _divided(affine(x), n)
    inner = rest.expr()
    low, high = ranges(inner)
    if 0 <= low and high < n:
        return inner
    match inner:
        case Index("%", (y, Lit(m))) if int(m) % n == 0:
            return index("%", y, as_index(n))
    return index("%", inner, as_index(n))


TESTS = frozenset(("lt", "le", "and", "select"))
"""The operations on elements that there are rules for."""


def _apply(e: Apply, ranges: Ranges) -> Expr:
    match e.op.name, e.args:
        case ("lt" | "le" as op, (a, b)) if a.type == dtypes.int64:
            (al, ah), (bl, bh) = ranges(a), ranges(b)
            if ah < bl or (op == "le" and ah <= bl):
                return literal(True, dtypes.bool_)
            if al > bh or (op == "lt" and al >= bh):
                return literal(False, dtypes.bool_)
        case "and", (Lit(True), b):
            return b
        case "and", (a, Lit(True)):
            return a
        case ("and", (Lit(False), _)) | ("and", (_, Lit(False))):
            return literal(False, dtypes.bool_) if e.type == dtypes.bool_ else e
        case "select", (c, Load(_, _, guard), Lit(value)) if guard is c and _is_zero(value):
            return e.args[1]  # which is zero itself where its guard is false
        case "select", (Lit(value), a, b):
            return a if value else b
        case "select", (c, Lit(True), Lit(False)):
            return c
        case "select", (c, Apply(op, (d, a, _)), b) if op.name == "select" and c is d:
            return Apply(op, (c, a, b), e.dtype)
    return e


def _is_zero(value: float) -> bool:
    return value == 0 and math.copysign(1.0, value) > 0
