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
ROWS: Final = 6
"""Keys of a tile of scores, by one vector of queries: the sums fit where two registers make one
vector, and few queries are left over in the last block or hidden by causality."""
MORE_ROWS, ALONE = 8, 1.05
"""Keys of a tile where two multiplications of a vector start in a cycle: fewer sums wait for
themselves. And what one vector of queries costs there, beside two."""
WIDENING: Final = 4
"""Queries by which a block of scores costs more where numbers are stored narrower than they are
summed up: every key of it is widened."""
KEYS: Final = 512
"""Keys of a block in the forward pass: its scores and values stay in the second-level cache."""
LESS_KEYS: Final = 128
"""The same, measured beside it: they stay in a first-level cache."""
SCRATCH_BYTES: Final = 2 << 20
"""What the gradient may keep of a block of queries, on the stack: beyond, it computes scores twice,
which takes 1.4 times as long."""
FEW: Final = 10
"""Up to so many queries share each key and value as it is read: they do not fill the lanes, and
their sums still fit the registers."""
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
    """What cuts depend on: so many queries and keys of each head, bytes of a number as it is stored
    and as it is summed up, and whether it is the gradient that is computed."""

    queries: int
    keys: int
    stored: int
    summed: int
    gradient: bool
    twice: bool = False
    """Whether the machine starts two multiplications of a vector in a cycle."""

    @property
    def lanes(self) -> int:
        return VECTOR_BYTES // self.summed

    @property
    def usual(self) -> Blocks:
        """The cut where nothing was measured."""
        if self.queries <= FEW and not self.gradient:
            return Blocks(0, 0, min(FEW_KEYS, self._whole))
        widening = WIDENING if self.stored < self.summed else 0
        width = {v: v * self.lanes for v in (1, 2)}
        cost = {v: -(-self.queries // n) * float(n + widening) for v, n in width.items()}
        if self.twice:
            cost[1] *= ALONE
        vectors = min(cost, key=lambda v: cost[v])
        return self._cut(vectors, *((MORE_ROWS, LESS_KEYS) if self.twice else (ROWS, KEYS)))

    @property
    def alternatives(self) -> tuple[Blocks, ...]:
        """The cuts that are worth measuring, the usual one first."""
        found = [self.usual]
        if self.queries <= self.lanes and not self.gradient:
            found += [Blocks(0, 0, min(n, self._whole)) for n in (FEW_KEYS, 4 * FEW_KEYS)]
        if self.queries > 1 or self.gradient:
            for vectors, rows in ((1, 6), (1, 8), (2, 8), (2, 14)):
                if vectors == 1 or self.queries > self.lanes:
                    found += [self._cut(vectors, rows, keys) for keys in (KEYS, LESS_KEYS)]
        return tuple(dict.fromkeys(found))

    @property
    def _whole(self) -> int:
        """All keys, as whole scans."""
        return max(-(-self.keys // SCAN) * SCAN, SCAN)

    def _cut(self, vectors: int, rows: int, keys: int) -> Blocks:
        """Blocks of so many keys; of all, if a gradient can keep two numbers for each of them and
        each query."""
        kept = 2 * self.keys * vectors * VECTOR_BYTES
        whole = self.gradient and kept <= SCRATCH_BYTES
        return Blocks(vectors, rows, self._whole if whole else min(keys, self._whole))
