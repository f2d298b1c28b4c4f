"""Sums and products of functions that are shorter, and no less accurate, as a whole.

Knows which these are: `a (1 + tanh u)`, the gate of a GELU, is `2 a / (1 + e^(-2 u))`, and needs
neither the sign nor the difference that tanh does; far below 0 it also keeps the digits that the
sum of 1 and a number near -1 loses. Refuses to take a function apart that is wanted for itself
too: it would be computed twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tilewright import dtypes
from tilewright.codegen.libm_tables import exp_of_multiple
from tilewright.expr import Apply, Expr, Lit, apply, literal, walk

TYPES = (dtypes.float32, dtypes.float64)


def composed(roots: Sequence[Expr]) -> list[Expr]:
    """The expressions with the functions' names still in place, but for those composed."""
    order = walk(*roots)
    if not any(_is(e, "tanh") for e in order):
        return list(roots)
    uses = Counter(c for e in order for c in e.children)
    uses.update(roots)
    done: dict[Expr, Expr] = {}
    for e in order:
        gate = _gate(e, uses)
        if gate is not None:
            a, u = gate
            done[e] = _gated(None if a is None else done[a], done[u])
            continue
        children = tuple(done[c] for c in e.children)
        same = all(a is b for a, b in zip(children, e.children, strict=True))
        done[e] = e if same else e.with_children(children)
    return [done[r] for r in roots]


def _is(e: Expr, name: str) -> bool:
    return isinstance(e, Apply) and e.op.name == name and e.type in TYPES


def _gate(e: Expr, uses: Counter[Expr]) -> tuple[Expr | None, Expr] | None:
    """(a, u) if the expression is a (1 + tanh u), in any order and with no other use of the parts;
    `a` is None where it is just the sum."""
    if _is(e, "multiply"):
        for a, b in (e.children, e.children[::-1]):
            inner = _gate(b, uses) if _is(b, "add") and uses[b] == 1 else None
            if inner is not None:
                return a, inner[1]
    if _is(e, "add"):
        for one, t in (e.children, e.children[::-1]):
            if isinstance(one, Lit) and one.value == 1 and _is(t, "tanh") and uses[t] == 1:
                return None, t.children[0]
    return None


def _gated(a: Expr | None, u: Expr) -> Expr:
    """2 a / (1 + e^(-2 u)), no `a` is 1; below 2.5 ULP. The factor 2 is left to a constant of `a`
    if it has one that is small; elsewhere 2 a might leave the range."""
    factor, u = _factor(u)
    d = exp_of_multiple(u, -2 * factor) + 1.0
    quotient = apply("div", literal(2, u.type), d)
    if a is None:
        return quotient
    c, x = _factor(a)
    if abs(c) > 0.5:
        return a * quotient
    return apply("div", x if c == 0.5 else x * (2 * c), d)


def _factor(e: Expr) -> tuple[float, Expr]:
    """(c, x) if the expression is c x for a number of middling size; else c is 1."""
    if isinstance(e, Apply) and e.op.name == "multiply":
        for c, x in (e.children, e.children[::-1]):
            if isinstance(c, Lit) and 2.0**-19 <= abs(c.value) <= 2.0**19:
                return float(c.value), x
    return 1.0, e
