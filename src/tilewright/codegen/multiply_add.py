"""Multiply-adds that need no improvement by LLVM.

Knows which functions spend their time in loops of sums of products that stay in registers, and how
to print those so that plain selection is enough. Refuses to know registers and addresses.

x86 has three forms of `fma`, by which operand is overwritten, and selection takes the one that
overwrites a factor; a later pass, which does not run in functions marked `optnone`, would exchange
operands. Nor does plain selection read an operand inside the instruction. So the instruction is
written out, with what only it needs read from memory. (Chosen under a mask of all lanes, an `fma`
also overwrites the sum; but the mask is a register that calls do not keep, and 1x1 convolutions
that loaded it in every round were a fifth slower.)
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from math import prod
from typing import Final

from tilewright import dtypes
from tilewright.codegen import intrinsics
from tilewright.codegen.llvm_values import Emitter, Operand, native_operations
from tilewright.expr import Apply, Axis, Lit, is_static, static
from tilewright.loops import Accumulate, Block, For, Function, If, Stmt, While
from tilewright.scalars import FUSED
from tilewright.target import Target
from tilewright.transforms.tensorize import reads

WRITTEN: Final = "written"
"""The optional operation of a machine that multiplies and adds, if this one is of its kind: here
LLVM can read instructions that are written out."""
SPREAD: Final = "spread"
"""The same, and its instructions spread an element in memory over all lanes."""
WIDTHS: Final = (16, 32, 64)
"""Bytes of the registers of such instructions."""

FARTHEST: Final = 1 << 30
"""Bytes from a pointer on that an instruction can reach, at least."""
LEAST: Final = 8
"""Products in a round of a loop from which on it counts little how its addresses are found."""
SHARE: Final = 0.975
"""Of a function's work, what must be in such loops. (From 0.95 to 0.97 sums of 64 to 80 terms and
1x1 convolutions of 64 channels ran 2 to 6 % slower, and saved little.)"""
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
    """Whether a loop's body, which has no loop inside, adds products to sums in registers, and
    what is loaded for several of them is clearly less."""
    products, loads = _counted(body, {})
    return products >= LEAST and 4 * loads <= 3 * products


def _counted(s: Stmt, copies: Mapping[Axis, int]) -> tuple[int, int]:
    """Products of a round, and loads for more than one; 0 if there is anything else inside."""
    if isinstance(s, Block):
        parts = [_counted(t, copies) for t in s.statements]
        return (sum(p[0] for p in parts) if all(p[0] for p in parts) else 0), sum(
            p[1] for p in parts
        )
    if isinstance(s, For) and s.kind == "vector" and s.lanes > 1:
        return _counted(s.body, copies)
    if isinstance(s, For) and s.kind == "unroll":
        return _counted(s.body, {**copies, s.axis: static(s.axis.extent)})
    if not isinstance(s, Accumulate) or not is_product(s):
        return 0, 0
    times = prod(copies.values())
    needed = [prod(n for a, n in copies.items() if a.serial in e.free) for e in reads([s.value])]
    return times, sum(n for n in needed if n < times or times == 1)


def is_product(s: Accumulate) -> bool:
    """Whether a statement adds a product to a register."""
    if s.buffer.scope != "registers" or s.kind != "sum" or not isinstance(s.value, Apply):
        return False
    name = s.value.op.name
    return name in intrinsics.SPELLINGS or (name == "mul" and dtypes.is_float(s.value.type))


def fits(acc: Operand) -> bool:
    """Whether a sum is a register of these instructions."""
    wide = acc.lanes > 1 and acc.lanes * acc.dtype.itemsize in WIDTHS
    return wide and acc.dtype in (dtypes.float32, dtypes.float64)


def multiplied(emitter: Emitter, a: Operand, b: Operand, acc: Operand) -> Operand:
    """`acc + a * b`, in the register of `acc`."""
    return _written(emitter, "$3", "v", f"{acc}, {b}, {a}", acc)


def multiplied_by_memory(
    emitter: Emitter, base: str, displacement: int, step: int, b: Operand, acc: Operand
) -> Operand:
    """`acc + a * b` where `a` is so many bytes from a pointer: one element for all lanes (step 0)
    or a vector (step 1)."""
    spread = "" if step else f"{{1to{acc.lanes}}}"
    place = f"{displacement or ''}($3){spread}"
    return _written(emitter, place, "r,~{memory}", f"{acc}, {b}, ptr {base}", acc)


def _written(emitter: Emitter, a: str, kind: str, args: str, acc: Operand) -> Operand:
    letter = "d" if acc.dtype == dtypes.float64 else "s"
    text = f'call {acc.type} asm "vfmadd231p{letter} {a}, $2, $0", "=v,0,v,{kind}"({args})'
    return emitter.value(text, acc.dtype, acc.lanes)
