"""Positions of extremes in long lines, by the extremes of blocks: a rewrite of graphs.

Knows that the first block whose extreme is the line's has the position, so that each element is
looked at once and those of one block twice; and which lines lie in memory, where a loop of their
own does that best. Others are left to kernels that compute what they look at. Refuses to know how
either is done (`ops.extremes`, `ops.reduce`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tilewright.expr import is_static, static
from tilewright.graph import Graph, Input, Node, Op
from tilewright.ops.elementwise import Elementwise
from tilewright.ops.extremes import ArgOfLines, block_of
from tilewright.ops.reduce import ArgOfBlocks, ArgReduction, BlockExtremes
from tilewright.ops.shape import Constant, Reshape
from tilewright.transforms.rewriting import applies, rewritten

BLOCK: Final = 256
"""Elements of a block, at most: loops over longer ones take longer to compile than they save."""
APART: Final = 16
"""Elements compared apart in each block: lanes, which are combined once for all blocks."""
LONG: Final = 512
"""Elements of a line that is worth it."""
BLOCKS: Final = 4
"""Blocks of `ops.extremes` in a line that is worth those: its end takes as long as two."""


def extremes(graph: Graph) -> Graph:
    """The graph with argmax and argmin along long last axes by blocks; the same object if there
    are none. Along other axes neighbouring lines share vectors, and blocks would gain nothing."""
    return rewritten(graph, _in_blocks) if applies(graph, ArgReduction) else graph


def _in_blocks(op: Op, args: Sequence[Node]) -> Node | None:
    if not isinstance(op, ArgReduction) or op.axis != args[0].type.ndim - 1:
        return None
    (x,), n = args, args[0].type.shape[-1]
    if not is_static(n):
        return None
    if static(n) >= BLOCKS * block_of(x.type.dtype) and in_memory(x):
        return ArgOfLines(op.kind).node(x)
    if static(n) < LONG:
        return None
    size = block_size(static(n))
    found = BlockExtremes(op.kind, size, APART).node(x)
    return ArgOfBlocks(op.kind, size, APART).node(x, found)


def in_memory(x: Node) -> bool:
    """Whether a value is kept in memory whoever reads it: an input, what an opaque op or a product
    writes, and the epilogue of a product."""
    while isinstance(x.op, Reshape):
        (x,) = x.args
    made = x.args if isinstance(x.op, Elementwise) else ()
    return isinstance(x.op, Input | Constant) or any(
        n.op.fusion in ("opaque", "contraction") for n in (x, *made)
    )


def block_size(n: int) -> int:
    """Elements of the blocks of a line of n. What is looked at again, APART extremes of each block
    twice and one whole block, is least at the root of 2 APART n."""
    most = min(BLOCK, 1 << (math.isqrt(2 * APART * n).bit_length() - 1))
    blocks = -(-n // most)
    return -(-n // (blocks * APART)) * APART  # the last two share as little as may be
