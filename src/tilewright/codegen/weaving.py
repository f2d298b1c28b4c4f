"""Copies of a loop's body, line by line in turns.

Knows which bodies may be woven, and how the lines of their copies are. A processor looks for work
among some hundred instructions: few rounds of a long body, each of them a chain in which everything
waits for what is before it. In turns, what comes next waits for nothing. Refuses to say how many
copies there are (`transforms.heuristic`), and to weave what branches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tilewright.expr import Load, walk
from tilewright.loops import For, Let, Stmt, Store, expressions, statements

LONG: Final = 20
"""Lines of a copy from which on it is worth it, about as many as the operations that have it copied
(`transforms.heuristic.HEAVY`): of shorter ones the processor sees enough."""

_NAME: Final = re.compile(r"%\w+")


def independent(body: Stmt) -> bool:
    """Whether the copies of a body may run in any order: vectors that are computed from some
    memory, and stored to other."""
    read, written = set(), set()
    for s in statements(body):
        if isinstance(s, Store):
            written.add(s.buffer)
        elif isinstance(s, Let) or (isinstance(s, For) and s.kind != "vector"):
            return False
        read |= {e.buffer for e in walk(*expressions(s)) if isinstance(e, Load)}
    return bool(written) and not any(b in read or b.scope == "registers" for b in written)


def woven(copies: Sequence[Sequence[str]]) -> list[str]:
    """The lines of all copies in turns. A line that uses what an earlier copy defines comes after
    that."""
    home = {
        line.split(None, 1)[0]: (c, k)
        for c, lines in enumerate(copies)
        for k, line in enumerate(lines)
        if line.startswith("  %")
    }
    done = [0] * len(copies)
    out: list[str] = []

    def advance(c: int, stop: int) -> None:
        while done[c] < min(stop, len(copies[c])):
            line = copies[c][done[c]]
            for name in _NAME.findall(line) if c else ():
                other, k = home.get(name, (c, 0))
                if other < c:
                    advance(other, k + 1)
            out.append(line)
            done[c] += 1

    for k in range(max(map(len, copies))):
        for c in range(len(copies)):
            advance(c, k + 1)
    return out
