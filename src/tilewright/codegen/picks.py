"""Every second, third or fourth element of a row, picked from vectors of neighbours.

Knows which vectors hold them and in which lanes, as numbers. Refuses to emit anything
(`llvm_memory`). The copies of a window ask the same again and again: answers are kept.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple


class Step(NamedTuple):
    """A vector that starts so far from the first one: the lanes that may be touched, and which
    lanes of what was picked so far and of it, counted on, come next."""

    start: int
    may: tuple[bool, ...]
    order: tuple[int, ...]


class Pick(NamedTuple):
    """Elements one for each lane: the first vector starts `ahead` elements from the first of them,
    the vectors are shuffled in `steps` and put in the order `last` at the end, if it is not theirs;
    then the lane `beside` (None: none) is read for itself."""

    ahead: int
    steps: tuple[Step, ...]
    last: tuple[int, ...] | None
    beside: int | None


@lru_cache(maxsize=4096)
def steps(
    first: int, step: int, extent: int, lanes: int, begin: int, end: int
) -> tuple[tuple[Step, ...], tuple[int, ...] | None]:
    """How `extent` elements, `step` apart from `first` on, come into as many lanes, if nothing
    beside [`begin`, `end`) may be touched; and the order of the lanes at last, if it is not theirs.
    The order of the first step is no shuffle: nothing has been picked before."""
    wanted = [first + step * lane for lane in range(extent)]
    found: list[Step] = []
    kept = [0] * lanes
    for start in range(0, end, lanes):
        hits = [begin <= at < end and start <= at < start + lanes for at in wanted]
        if not any(hits):
            continue
        may = tuple([begin <= start + i < end for i in range(lanes)])
        behind = lanes if found else 0
        picks = zip(wanted, hits, kept, strict=False)
        order = [at - start + behind if hit else old for at, hit, old in picks]
        order += [0] * (lanes - len(order))
        kept = [*range(lanes)] if found else order
        found.append(Step(start, may, tuple(order)))
    return tuple(found), None if kept == [*range(lanes)] else tuple(kept)


@lru_cache(maxsize=4096)
def anchor(near: tuple[tuple[int, int], ...], start: int, tap: int, step: int) -> int:
    """Where the vectors start that a tap is picked from. Taps come in groups of `step`, from
    `start` on by axes that are `near`: of a step and an extent each. Of up to three neighbouring
    groups it is where the middle or the larger one does."""
    taps = [start]
    for c, extent in near:
        taps = [t + c * i for t in taps for i in range(extent)]
    groups = Counter(t // step for t in taps)
    first = tap // step
    while first - 1 in groups:
        first -= 1
    first += (tap // step - first) // 3 * 3
    run = [k for k in range(first, first + 3) if all(j in groups for j in range(first, k + 1))]
    return step * (run[1] if len(run) == 3 else max(run, key=lambda k: (groups[k], k)))
