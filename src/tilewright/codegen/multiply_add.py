"""Functions that hardly do anything but multiply and add.

Knows which those are, and whether a machine's multiply-adds can be written out (`nests`). Refuses
to know registers and addresses. What is written out LLVM cannot improve, so where nearly all work
is in such loops it need not try: these functions are marked `optnone`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Final

from tilewright import dtypes
from tilewright.codegen import intrinsics
from tilewright.codegen.llvm_values import native_operations
from tilewright.expr import Apply, Axis, Lit, is_static, static
from tilewright.loops import Accumulate, Block, For, Function, If, Stmt, While
from tilewright.scalars import FUSED
from tilewright.target import Target

WRITTEN: Final = "written"
"""The optional operation of a machine that multiplies and adds, if this one is of its kind: here
LLVM can read instructions that are written out."""
SPREAD: Final = "spread"
"""The same, and its instructions spread an element in memory over all lanes."""
WIDTHS: Final = (16, 32, 64)
"""Bytes of the registers of such instructions."""

SHARE: Final = 0.85
"""Of a function's work, what must be in such loops. (From 0.4 on products of a few rows, and of a
vector, ran 2 to 5 % slower.)"""
ROUNDS: Final = 16
"""Rounds of a loop whose number is not known."""


def native(target: Target) -> frozenset[str]:
    """Which of `WRITTEN` and `SPREAD` a target has."""
    if target.architecture != "x86_64" or platform.machine() != target.architecture:
        return frozenset()
    if FUSED not in native_operations(target):
        return frozenset()
    wide = {"+avx512f", "+avx512vl"} <= set(target.features.split(","))
    return frozenset((WRITTEN, SPREAD) if wide else (WRITTEN,))


def only_multiplies(f: Function) -> bool:
    """Whether a function does hardly anything but multiply and add."""
    all_work, products = _work(f.body, {})
    return products > 0 and products >= SHARE * all_work


def _work(s: Stmt, left: Mapping[Axis, tuple[int, int]]) -> tuple[float, float]:
    """How many statements run, and how many of them in loops of products; `left` are the rounds
    that come here, of loops of which not all do."""
    if isinstance(s, Block):
        parts = [_work(t, left) for t in s.statements]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)
    if isinstance(s, If):
        return _either(s, left)
    if isinstance(s, While):
        whole, products = _work(s.body, left)
        return ROUNDS * whole, ROUNDS * products
    if not isinstance(s, For):
        return 1.0, 0.0
    whole, products = _work(s.body, left)
    if s.kind == "vector":
        return whole, products
    rounds = static(s.axis.extent) if is_static(s.axis.extent) else ROUNDS
    if s.kind != "unroll" and not products and _multiplies(s.body):
        products = whole
    return rounds * whole, rounds * products


def _either(s: If, left: Mapping[Axis, tuple[int, int]]) -> tuple[float, float]:
    """The work of an average round, of which a stretch goes one way."""
    share, ways = 0.5, [left, left]
    match s.condition:
        case Apply(op, (Axis() as a, Lit(end))) if op.name == "lt" and is_static(a.extent):
            low, high = left.get(a, (0, static(a.extent)))
            middle = min(max(int(end), low), high)
            share = (middle - low) / max(high - low, 1)
            ways = [{**left, a: (low, middle)}, {**left, a: (middle, high)}]
    (a_whole, a_products), (b_whole, b_products) = (
        _work(t, way) for t, way in zip(s.inner, ways, strict=True)
    )
    whole = share * a_whole + (1 - share) * b_whole
    return whole, share * a_products + (1 - share) * b_products


def _multiplies(body: Block) -> bool:
    """Whether a loop's body, which has no loop inside, adds products to sums in registers."""
    return counted(body) > 0


def counted(s: Stmt) -> int:
    """Products of a round; 0 if there is anything else inside."""
    if isinstance(s, Block):
        parts = [counted(t) for t in s.statements]
        return sum(parts) if all(parts) else 0
    if isinstance(s, For) and s.kind == "vector" and s.lanes > 1:
        return counted(s.body)
    if isinstance(s, For) and s.kind == "unroll":
        return static(s.axis.extent) * counted(s.body)
    return int(isinstance(s, Accumulate) and is_product(s))


def is_product(s: Accumulate) -> bool:
    """Whether a statement adds a product to a register."""
    if s.buffer.scope != "registers" or s.kind != "sum" or not isinstance(s.value, Apply):
        return False
    name = s.value.op.name
    return name in intrinsics.SPELLINGS or (name == "mul" and dtypes.is_float(s.value.type))
