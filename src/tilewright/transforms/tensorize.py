"""Tensorize: sums of products of narrow numbers, several to a machine word, by instructions that
multiply and add a whole word at once.

Knows the instructions as data (the words they read, and by `means` what they compute, in machine
operations), how a sum over k becomes one over words of neighbours along k, and what is read as a
word. Refuses to know how a machine spells an instruction (`codegen/intrinsics`), what is worth a
copy (`products`) and in which order the words are walked.

A word is a uint32: two or four narrow numbers, the first in its lowest bits. The instructions read
one unsigned and one signed operand. Where both are signed, or both are not, one gets its sign bits
flipped, which moves its numbers by 128, and 128 times the sum of the other's corrects the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Load,
    Reduce,
    apply,
    as_index,
    axis,
    bitcast,
    cast,
    depends,
    is_static,
    literal,
    reductions_in,
    static,
    substitute,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.scalars import Scalar
from tilewright.target import Target
from tilewright.transforms.index_rules import Affine, affine, flat

WORD_BYTES: Final = 4
FLIPPED_BY: Final = 128
"""What flipping its sign bit adds to a signed byte, and takes from an unsigned one."""


@dataclass(frozen=True, eq=False)
class Instruction(Scalar):
    """An operation on words; `means` says it in machine operations for printers without it."""

    means: Callable[..., Expr] = lambda *args: args[0]


# -- words -------------------------------------------------------------------------------------


def _bits_of(x: Any) -> Any:
    return np.ascontiguousarray(x).view(f"u{np.asarray(x).dtype.itemsize}").astype(np.uint32)


def _word(*parts: Any) -> Any:
    """Narrow numbers side by side, the first in the lowest bits."""
    bits = 32 // len(parts)
    shaped = [_bits_of(x).reshape(np.shape(x)) << np.uint32(bits * k) for k, x in enumerate(parts)]
    return np.bitwise_or.reduce(np.broadcast_arrays(*shaped), axis=0)


def _word_means(*parts: Expr) -> Expr:
    bits = 32 // len(parts)
    unsigned = np.dtype(f"uint{bits}")
    total = cast(bitcast(parts[0], unsigned), dtypes.uint32)
    for k, x in enumerate(parts[1:], 1):
        shifted = cast(bitcast(x, unsigned), dtypes.uint32) << bits * k
        total = apply("or", total, shifted)
    return total


SIGNS: Final = 0x80808080
"""The sign bits of a word's four bytes."""

WORD: Final = Instruction("word", _word, means=_word_means)
"""The word of 2 or 4 numbers."""
FLIPPED: Final = Instruction(
    "flipped_word",
    lambda *parts: _word(*parts) ^ np.uint32(SIGNS),
    means=lambda *parts: apply("xor", _word_means(*parts), literal(SIGNS, dtypes.uint32)),
)
"""The word of 4 bytes, their sign bits flipped."""


def is_word(e: Expr) -> bool:
    return isinstance(e, Apply) and (e.op is WORD or e.op is FLIPPED)


def reads(roots: Sequence[Expr]) -> list[Expr]:
    """What expressions read at once: words of loads, and the loads that are in none."""
    found = walk(*roots)
    inside = {x for e in found if is_word(e) for x in e.children}
    return [e for e in found if is_word(e) or (isinstance(e, Load) and e not in inside)]


def first(e: Expr) -> Load:
    """The load itself, or the first of a word."""
    found = e.children[0] if is_word(e) else e
    assert isinstance(found, Load)
    return found


def neighbours(e: Expr) -> bool:
    """Whether the parts of a word stand side by side in memory: it can be read as one."""
    if not isinstance(e, Apply) or not all(isinstance(x, Load) and x.guard is None for x in e.args):
        return False
    loads = [x for x in e.args if isinstance(x, Load)]
    forms = [_position(x) for x in loads]
    at = dict(forms[0].terms)
    return all(
        x.buffer is loads[0].buffer and dict(f.terms) == at and f.constant == forms[0].constant + k
        for k, (x, f) in enumerate(zip(loads, forms, strict=True))
    )


def opened(e: Expr) -> Expr:
    """What is read without its guards."""
    loads = [x for x in walk(e) if isinstance(x, Load) and x.guard is not None]
    (plain,) = substitute([e], {x: Load(x.buffer, x.index, None) for x in loads})
    return plain


def contiguous(e: Expr, a: Axis) -> bool:
    """Whether a load or word is read element after element, or word after word, along an axis."""
    step = len(e.children) if is_word(e) and neighbours(e) else 1
    return _position(first(e)).coefficient(a) == step


def _position(e: Load) -> Affine:
    return affine(flat(e.buffer, e.index))


# -- the instructions --------------------------------------------------------------------------


def _dot_bytes(x_type: DType, y_type: DType) -> Callable[..., Any]:
    def dot(x: Any, y: Any) -> Any:
        a, b = (
            np.asarray(w, np.uint32)[..., None].view(t).astype(np.int32)
            for w, t in ((x, x_type), (y, y_type))
        )
        return (a * b).sum(-1, dtype=np.int32)

    return dot


def _dot_bytes_means(x_type: DType, y_type: DType) -> Callable[..., Expr]:
    def byte(w: Expr, k: int, dtype: DType) -> Expr:
        x = cast(w >> 8 * k, dtypes.uint8)
        return cast(bitcast(x, dtype) if dtypes.is_signed(dtype) else x, dtypes.int32)

    def means(x: Expr, y: Expr) -> Expr:
        terms = [apply("mul", byte(x, k, x_type), byte(y, k, y_type)) for k in range(4)]
        return functools.reduce(lambda total, t: apply("add", total, t), terms)

    return means


def _dot_halves(a: Any, b: Any) -> Any:
    x, y = (
        np.asarray(w, np.uint32)[..., None].view(dtypes.bfloat16).astype(np.float32) for w in (a, b)
    )
    return (x * y).sum(-1, dtype=np.float32)


def _dot_halves_means(a: Expr, b: Expr) -> Expr:
    def parts(w: Expr) -> tuple[Expr, Expr]:
        high = apply("and", w, literal(0xFFFF0000, dtypes.uint32))
        return bitcast(w << 16, dtypes.float32), bitcast(high, dtypes.float32)

    (a_low, a_high), (b_low, b_high) = parts(a), parts(b)
    return apply("add", apply("mul", a_low, b_low), apply("mul", a_high, b_high))


def _of_bytes(name: str, *signs: DType) -> Instruction:
    return Instruction(name, _dot_bytes(*signs), means=_dot_bytes_means(*signs), cost=4)


DOT_BYTES: Final = _of_bytes("dot_bytes", dtypes.uint8, dtypes.int8)
"""(unsigned, signed): the sum of the four products of bytes, as an int32 that wraps."""
DOT_SIGNED: Final = _of_bytes("dot_signed", dtypes.int8, dtypes.int8)
DOT_UNSIGNED: Final = _of_bytes("dot_unsigned", dtypes.uint8, dtypes.uint8)
"""The same of bytes of one sign."""
DOT_HALVES: Final = Instruction("dot_halves", _dot_halves, means=_dot_halves_means, cost=2)
"""The sum of the two products of bfloat16, as a float32."""


@dataclass(frozen=True)
class Intrinsic:
    """An instruction that adds sums of products of `group` neighbours: the operand types it takes,
    the type it adds in, and the target features of machines that have it.

    One with a `side` multiplies small matrices, of at most so many rows, words and columns, and
    takes bytes as they are; others work on vectors of words, and take bytes of one sign as well, of
    which one operand's are flipped."""

    name: str
    op: Instruction
    group: int
    operands: tuple[DType, ...]
    result: DType
    features: frozenset[str]
    side: int = 0

    def runs_on(self, target: Target) -> bool:
        return self.features <= _separate(target.features)

    def takes(self, a: DType, b: DType) -> bool:
        """Whether numbers of these types are its operands, in either order."""
        if self.side:
            return {a, b} == set(self.operands)
        return a in self.operands and b in self.operands

    def flips(self, found: Match) -> bool:
        """Whether the signs of one operand are to be flipped."""
        return found.alike and not self.side


@functools.cache
def _separate(features: str) -> frozenset[str]:
    return frozenset(features.split(","))


def _of_matrices(
    name: str, op: Instruction, operands: tuple[DType, ...], result: DType, feature: str
) -> Intrinsic:
    """One of Intel's Advanced Matrix Extensions."""
    group = WORD_BYTES // operands[0].itemsize
    needs = frozenset(("+amx-tile", feature, "+avx512f"))
    return Intrinsic(name, op, group, operands, result, needs, side=16)


_BYTES: Final = (dtypes.uint8, dtypes.int8)
INTRINSICS: Final[dict[str, Intrinsic]] = {
    i.name: i
    for i in (
        Intrinsic(
            "vpdpbusd", DOT_BYTES, 4, _BYTES, dtypes.int32,
            frozenset(("+avx512vnni", "+avx512vl")),
        ),
        Intrinsic(
            "vdpbf16ps", DOT_HALVES, 2, (dtypes.bfloat16,), dtypes.float32,
            frozenset(("+avx512bf16", "+avx512vl")),
        ),
        _of_matrices("tdpbssd", DOT_SIGNED, _BYTES[1:], dtypes.int32, "+amx-int8"),
        _of_matrices("tdpbuud", DOT_UNSIGNED, _BYTES[:1], dtypes.int32, "+amx-int8"),
        _of_matrices("tdpbusd", DOT_BYTES, _BYTES, dtypes.int32, "+amx-int8"),
        _of_matrices("tdpbf16ps", DOT_HALVES, (dtypes.bfloat16,), dtypes.float32, "+amx-bf16"),
    )
}  # fmt: skip


INSTRUCTIONS: Final = frozenset(
    (WORD.name, FLIPPED.name, *(i.op.name for i in INTRINSICS.values()))
)
"""The names of all operations on words."""


# -- the rewrite -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """A sum of products of narrow numbers: the reduction and its two operands."""

    reduction: Reduce
    operands: tuple[Load, Load]

    @property
    def alike(self) -> bool:
        """Whether bytes of one sign are multiplied, so that one operand is flipped."""
        a, b = (x.type for x in self.operands)
        return a == b and dtypes.is_integer(a)


def matches(kernel: Kernel, intrinsic: Intrinsic) -> Iterator[Match]:
    """The sums of a kernel that an intrinsic can compute."""
    for r in reductions_in(*(a.value for a in kernel.body)):
        if r.kind != "sum" or r.type != intrinsic.result:
            continue
        match r.body:
            case Apply(op, (Apply(f, (Load() as a,)), Apply(g, (Load() as b,)))) if (
                op.name in ("mul", "multiply") and f.name == g.name == "cast"
            ):
                known = all(e.guard is None and not _indirect(e) for e in (a, b))
                if known and intrinsic.takes(a.type, b.type):
                    yield Match(r, (a, b))


def _indirect(e: Load) -> bool:
    return any(i.reads or i.reduces for i in e.index)


def tensorized(
    kernel: Kernel, found: Match, k: Axis, intrinsic: Intrinsic, along: Axis | None
) -> tuple[Kernel, Assign | None]:
    """The kernel with a sum over `k` as one over words, the points that are left over written out;
    where matrices are multiplied, the last ones are filled up with zeros instead. And, if the
    operand that moves along the axis `along` is flipped, what is to be computed before: the sums of
    the other operand that correct the result."""
    group, r = intrinsic.group, found.reduction
    words, rest = divmod(static(k.extent), group)
    padded = bool(intrinsic.side and static(k.extent) % (group * intrinsic.side))
    if padded:
        words, rest = intrinsic.side * -(-static(k.extent) // (group * intrinsic.side)), 0
    q = axis(k.name, words)
    axes = tuple(q if a is k else a for a in r.axes)

    def part(e: Load, at: Expr) -> Expr:
        (x,) = substitute([e], {k: at})
        if not padded or not isinstance(x, Load):
            return x
        return Load(x.buffer, x.index, apply("lt", at, as_index(static(k.extent))))

    def word(e: Load, op: Instruction = WORD) -> Expr:
        parts = [part(e, q * group + g) for g in range(group)]
        return apply(op, *parts, dtype=dtypes.uint32)

    a, b = found.operands
    correction: Assign | None = None
    plain = b
    if along is not None:
        wide, plain = (a, b) if depends(a, (along,)) else (b, a)
        pair = _signed_last(plain, [word(wide, FLIPPED), word(plain)])
    elif found.alike:
        pair = [word(a), word(b)]  # for a plan: which of them is flipped does not change it
    else:
        pair = [word(e) for e in sorted((a, b), key=lambda e: dtypes.is_signed(e.type))]
    total: Expr = Reduce("sum", axes, apply(intrinsic.op, *pair, dtype=r.type))
    if along is not None:
        correction, load = _correction(kernel, plain, word(plain), axes, intrinsic)
        total = apply("add", total, load)
    for g in range(words * group, words * group + rest):
        total = apply("add", total, _last(r, k, g))
    body = substitute([x.value for x in kernel.body], {r: total})
    assigns = [Assign(x.buffer, x.index, x.axes, v) for x, v in zip(kernel.body, body, strict=True)]
    return Kernel(kernel.name, kernel.axes, tuple(assigns), kernel.sources), correction


def _last(r: Reduce, k: Axis, at: int) -> Expr:
    """The sum over the other axes at one point of `k`."""
    (value,) = substitute([r.body], {k: literal(at, dtypes.int64)})
    others = tuple(a for a in r.axes if a is not k)
    if not others:
        return value
    fresh = tuple(axis(a.name, a.extent) for a in others)
    (value,) = substitute([value], dict(zip(others, fresh, strict=True)))
    return Reduce(r.kind, fresh, value)


def _signed_last(plain: Load, pair: list[Expr]) -> list[Expr]:
    """A flipped word and a plain one in the instruction's order: flipping signed bytes makes them
    unsigned, and the other way about."""
    return pair if dtypes.is_signed(plain.type) else pair[::-1]


def _correction(
    kernel: Kernel, e: Load, word: Expr, axes: tuple[Axis, ...], intrinsic: Intrinsic
) -> tuple[Assign, Load]:
    """The sums of an operand times what the other one was moved by, over the axes it moves along;
    and the load of one of them."""
    ones = literal(0x01010101, dtypes.uint32)
    rows = tuple(a for a in kernel.axes if a.serial in e.free)
    shape = tuple(static(a.extent) for a in rows)
    signed = dtypes.is_signed(e.type)
    pair = (ones, word) if signed else (word, ones)
    fresh = tuple(axis(a.name, a.extent) for a in (*rows, *axes))
    env: dict[Expr, Expr] = dict(zip((*rows, *axes), fresh, strict=True))
    (value,) = substitute([apply(intrinsic.op, *pair, dtype=dtypes.int32)], env)
    total = Reduce("sum", fresh[len(rows) :], value)
    by = literal(-FLIPPED_BY if signed else FLIPPED_BY, dtypes.int32)
    buffer = Buffer(f"{e.buffer.name}_sums", dtypes.int32, shape)
    sums = Assign(buffer, fresh[: len(rows)], (), apply("mul", total, by))
    return sums, Load(buffer, rows, None)


def groupable(found: Match, k: Axis, intrinsic: Intrinsic) -> bool:
    """Whether a sum can be taken over words of neighbours along `k`."""
    known = all(is_static(a.extent) for a in found.reduction.axes)
    moves = all(depends(e, (k,)) for e in found.operands)
    return known and moves and static(k.extent) >= intrinsic.group
