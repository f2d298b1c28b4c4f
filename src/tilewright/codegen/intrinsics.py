"""How LLVM spells the instructions on words of narrow numbers (`transforms/tensorize`).

Knows LLVM's names and types, and the widths the machine has them in. Refuses to know what the
instructions mean and where they are worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tilewright import dtypes
from tilewright.codegen.llvm_values import Emitter, Operand, llvm_type
from tilewright.target import Target
from tilewright.transforms.tensorize import FLIPPED, INTRINSICS, SIGNS, WORD, WORD_BYTES

NARROWEST, WIDEST = 4, 16
"""Lanes of the registers the instructions work on."""


@dataclass(frozen=True)
class Spelling:
    """LLVM's name without the number of bits, and the element type of the operands."""

    name: str
    element: str
    itemsize: int

    def call(self, emitter: Emitter, acc: Operand, words: Sequence[Operand]) -> Operand:
        """One register: `acc` and what the instruction adds to it."""
        lanes = acc.lanes
        wide = f"<{lanes * WORD_BYTES // self.itemsize} x {self.element}>"
        cast = [emitter.value(f"bitcast {w} to {wide}", dtypes.uint32, lanes).text for w in words]
        args = ", ".join([str(acc), *(f"{wide} {w}" for w in cast)])
        types = ", ".join([acc.type, *[wide] * len(words)])
        name = f"{self.name}.{8 * WORD_BYTES * lanes}"
        return emitter.value(emitter.intrinsic(name, acc.type, args, types), acc.dtype, lanes)


SPELLINGS: Final = {
    "dot_bytes": Spelling("llvm.x86.avx512.vpdpbusd", "i8", 1),
    "dot_halves": Spelling("llvm.x86.avx512bf16.dpbf16ps", "bfloat", 2),
}


def native(target: Target) -> frozenset[str]:
    """The instructions on vectors of words that a target has, and the making of words for them."""
    found = [i.op.name for i in INTRINSICS.values() if i.runs_on(target) and not i.side]
    return frozenset([*found, WORD.name, FLIPPED.name] if found else ())


def dot(emitter: Emitter, name: str, acc: Operand, words: Sequence[Operand]) -> Operand:
    """`acc` and the sums of products of two words' numbers, in any number of lanes."""
    lanes = acc.lanes
    if lanes < NARROWEST:
        filled = [emitter.lanes_of(x, 0, NARROWEST) for x in (acc, *words)]
        result = SPELLINGS[name].call(emitter, filled[0], filled[1:])
        return emitter.lanes_of(result, 0, lanes)
    if lanes > WIDEST:
        half = lanes // 2
        low, high = (
            dot(emitter, name, *_part(emitter, acc, words, start, start + half))
            for start in (0, half)
        )
        return emitter.shuffled(low, high, range(lanes))
    return SPELLINGS[name].call(emitter, acc, words)


def _part(
    emitter: Emitter, acc: Operand, words: Sequence[Operand], start: int, stop: int
) -> tuple[Operand, list[Operand]]:
    low, *rest = (emitter.lanes_of(x, start, stop) for x in (acc, *words))
    return low, rest


def assembled(emitter: Emitter, parts: Sequence[Operand]) -> Operand:
    """The word of some narrow numbers, the first in its lowest bits."""
    lanes, bits = parts[0].lanes, 32 // len(parts)
    wide = llvm_type(dtypes.uint32, lanes)
    total: Operand | None = None
    for k, x in enumerate(parts):
        word = emitter.value(f"zext {x} to {wide}", dtypes.uint32, lanes)
        if total is not None:
            by = emitter.splat(Operand(str(bits * k), dtypes.uint32), lanes)
            word = emitter.value(f"shl {word}, {by.text}", dtypes.uint32, lanes)
            word = emitter.value(f"or {total}, {word.text}", dtypes.uint32, lanes)
        total = word
    assert total is not None, "a word has parts"
    return total


def flipped(emitter: Emitter, x: Operand) -> Operand:
    """A word with the sign bits of its bytes flipped."""
    signs = emitter.splat(Operand(str(SIGNS), dtypes.uint32), x.lanes)
    return emitter.value(f"xor {x}, {signs.text}", dtypes.uint32, x.lanes)
