"""Blocks of attention: how many queries meet how many keys at a time, in tiles of which size.

Knows which cuts of an attention there are, and which one is taken where nothing was measured.
Refuses to know what is computed (`attention.py`) and how (`attention_loops.py`). The figures behind
the usual cuts are in docs/notes/attention.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VECTOR_BYTES: Final = 64
"""Bytes of a vector; where registers are narrower, several make one."""
SCAN: Final = 64
"""Keys that a scan of a mask looks at at once."""
ROWS: Final = 14
"""Keys of a tile of scores: with two vectors of queries, 28 accumulators of the 32 registers."""
KEYS: Final = 512
"""Keys of a block in the forward pass: its scores and values stay in the second-level cache."""
SCRATCH_BYTES: Final = 512 << 10
"""What the gradient may keep of a block of queries: beyond, it computes scores twice."""
FEW: Final = 8
"""Up to so many queries share each key and value as it is read: they do not fill the lanes."""
FEW_KEYS: Final = 1024
"""Keys of their blocks."""


@dataclass(frozen=True)
class Blocks:
    """How attention is cut: `vectors` of queries, in lanes, meet `keys` keys at a time, whose
    scores are summed up in tiles of `rows` keys. With no vectors queries are rows, keys stand in
    lanes, and all queries share each key and value as it is read (forward only).

    `keys` is a multiple of `SCAN`, or at least as many as there are. A gradient computes scores
    once if one block holds all keys, twice else.
    """

    vectors: int
    rows: int
    keys: int

    def __str__(self) -> str:
        lanes = f"{self.vectors} vectors of queries by {self.rows} keys"
        return f"{lanes if self.vectors else 'keys in lanes'}, blocks of {self.keys}"


@dataclass(frozen=True)
class Extents:
    """What cuts depend on: so many queries and keys of each head, bytes of a number that sums are
    kept in, and whether it is the gradient that is computed."""

    queries: int
    keys: int
    itemsize: int
    gradient: bool

    @property
    def lanes(self) -> int:
        return VECTOR_BYTES // self.itemsize

    @property
    def usual(self) -> Blocks:
        """The cut where nothing was measured."""
        if self.queries <= FEW and not self.gradient:
            return Blocks(0, 0, FEW_KEYS)
        vectors = 2 if self.queries > self.lanes else 1
        kept = 2 * self.keys * vectors * self.lanes * self.itemsize
        whole = self.gradient and kept <= SCRATCH_BYTES
        return Blocks(vectors, ROWS, self._held(self.keys) if whole else KEYS)

    @property
    def alternatives(self) -> tuple[Blocks, ...]:
        """The cuts that are worth measuring, the usual one first."""
        found = [self.usual]
        return tuple(dict.fromkeys(found))

    def _held(self, keys: int) -> int:
        """So many keys as whole scans."""
        return max(-(-keys // SCAN) * SCAN, SCAN)
