"""What is read next, fetched while what is there is worked on.

Knows matrices that lie in panels, one after the other, each of which several tiles walk from its
beginning to its end before the next one is begun: each tile can fetch its share of what follows.
And knows streams: arrays beyond the second level cache that are read once. Refuses to know how
that is printed (`nests`, `llvm_memory`), and where panels come from.

A processor follows a stream of lines by itself, but not from one page to the next: the first walk
along a panel of 128 KB waits 32 times for the third level cache, or for memory, and is bound by
their bandwidth. All walks together have time enough (docs/notes/products.md). And it keeps no more
lines on their way than it has loads waiting for them: with a load it is told of what is wanted much
later, memory is read half as fast again (docs/notes/streams.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tilewright.expr import Apply, Axis, Buffer, is_static, static, walk
from tilewright.loops import Block, For, Stmt, expressions, statements
from tilewright.transforms.index_rules import Affine

LINE_BYTES: Final = 64
PANEL_BYTES: Final = 8 << 10, 256 << 10
"""Bytes of panels that are fetched: from two pages on, and up to a quarter of a second level cache,
where the one that is multiplied has to stay."""
MATRIX_BYTES: Final = 256 << 10
"""Bytes from which on a matrix may be beyond the second level cache, which others need, too."""
WALKS: Final = 32
"""Tiles along a panel up to which it matters that the first walk waits."""
LINE_CYCLES: Final = 12
"""Multiplications of a line, by all tiles together, from which on there is time to fetch one: from
memory they come every eight or nine cycles. With fewer memory decides, and what is fetched far
ahead stands in the way of what is waited for (4 x 512 x 512, 36 of them: 1.5 times as long)."""

STREAM_CACHES: Final = 2
"""Of how many second level caches what is read as a stream fills at least all."""
BEYOND_BYTES: Final = 32 << 20
"""What a third level cache does not hold."""
FAR_BYTES: Final = 16 << 10
"""How far ahead streams are fetched, all together: what is fetched waits in the first level."""
STREAMS: Final = 4
"""The most streams that are fetched: with more, none is."""
WRITTEN_OUT: Final = ("unroll", "vector")
"""Loops that are none in the text."""
DENSE_BYTES: Final = 1 << 10
"""What a round of a loop reads of a stream at most. Where it is more, loops go across rows."""


class Streams(NamedTuple):
    """How many bytes ahead buffers are fetched where they are read once: by `all` loads, or by
    products only, since of several arrays that a third level cache holds other loads get nothing
    any sooner (docs/notes/streams.md)."""

    ahead: Mapping[Buffer, int]
    all: bool
    busiest: Mapping[Buffer, Axis] = {}
    """Of what several loops walk along one after the other, the loop that computes most meanwhile:
    while it walks along one row the next one is fetched, and by no other."""


def streams(body: Block, cache: int) -> Streams:
    """Of the buffers that statements read and write, those beyond a second level cache of so many
    bytes."""
    reads = [e.reads for s in statements(body) for e in expressions(s)]
    read = [b for b in frozenset[Buffer]().union(*reads) if is_large(b, cache)]
    written = body.writes
    every = sum(b.nbytes for b in {*read, *(b for b in written if is_large(b, cache))})
    ahead = dict.fromkeys(read, FAR_BYTES // max(len(read), 1))
    if not read or len(read) > STREAMS:
        return Streams({}, True)
    return Streams(ahead, len(read) == 1 or every > BEYOND_BYTES, _busiest(body, read))


def _busiest(body: Block, buffers: Iterable[Buffer]) -> dict[Buffer, Axis]:
    """Of the innermost loops that read a buffer, if there are several, that with most to compute
    for each element."""
    loops = [s for s in statements(body) if isinstance(s, For) and s.kind not in WRITTEN_OUT]
    inner = [s for s in loops if not any(t in loops for t in statements(s.body))]
    found: dict[Buffer, Axis] = {}
    for b in buffers:
        readers = [(_cost(s), s.axis) for s in inner if b in _reads(s)]
        if len(readers) > 1:
            found[b] = max(readers, key=lambda r: r[0])[1]
    return found


def _reads(s: Stmt) -> frozenset[Buffer]:
    return frozenset[Buffer]().union(*[e.reads for t in statements(s) for e in expressions(t)])


def _cost(s: Stmt) -> int:
    """Operations of a round, written once each."""
    found = walk(*[e for t in statements(s) for e in expressions(t)])
    return sum(e.op.cost for e in found if isinstance(e, Apply))


def is_large(buffer: Buffer, cache: int) -> bool:
    """Whether a buffer is beyond a second level cache of so many bytes."""
    return is_static(buffer.size) and buffer.nbytes >= STREAM_CACHES * cache > 0


def once(form: Affine, around: Sequence[Axis], bound: Mapping[int, int]) -> bool:
    """Whether what is at an offset is read once: every loop `around`, outermost first, moves it.
    `bound` says of variables, by serial, how many of these loops are around the place where they
    get their value, which may be another in every round of them."""
    moved = [s for t, _ in form.terms for s in t.free]
    inner = max([bound.get(s, 0) for s in moved], default=0)
    again = [a for a in around[inner:] if a.serial not in moved]
    return bool(around) and all(is_static(a.extent) and static(a.extent) == 1 for a in again)


class Ahead(NamedTuple):
    """Where a nest fetches: from a place in elements on, which its axes move by so many bytes, and
    so many lines at each step."""

    form: Affine
    steps: tuple[tuple[int, int], ...]
    lines: int


def ahead(
    form: Affine,
    steps: Sequence[tuple[int, int]],
    size: int,
    rounds: Sequence[tuple[int, int]],
    around: Sequence[Axis],
    products: int,
) -> Ahead | None:
    """What a nest fetches of an array which it reads from the offset `form` on, in elements of
    `size` bytes, its axes moving that by the bytes `steps`. `rounds` are these axes with their
    extents, `around` the axes of the loops around it, both outermost first; at each step there are
    so many `products`. None if what it reads is no panel that others follow, or is read at once."""
    width, panel = _dense(dict(steps), rounds)
    walks: list[tuple[Axis, int]] = []
    count = 1
    for a in reversed(around):
        if not is_static(a.extent) or form.moves_with((a,)):
            return None
        apart = form.coefficient(a) * size
        if not apart:
            walks.append((a, count))
            count *= static(a.extent)
            continue
        fits = PANEL_BYTES[0] <= panel <= PANEL_BYTES[1] and count <= WALKS
        if apart != panel or not fits or products * count * LINE_BYTES < LINE_CYCLES * width:
            return None
        step = -(-width // (count * size)) * size
        share = step * (panel // width) // size
        terms = *form.terms, *((b, n * share) for b, n in walks)
        moved = [(axis, by * step // width) for axis, by in steps]
        return Ahead(
            Affine(terms, form.constant + panel // size), tuple(moved), -(-step // LINE_BYTES)
        )
    return None


def _dense(moved: dict[int, int], rounds: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bytes of a step and of all of them together, if each begins where the last one ended;
    zeros if not."""
    width = moved.get(rounds[-1][0], 0)
    total = width
    for serial, extent in reversed(rounds):
        if moved.get(serial, 0) != total:
            return 0, 0
        total *= extent
    return width, total
