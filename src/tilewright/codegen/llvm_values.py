"""How LLVM IR spells scalar operations, for one lane or many.

Knows types, machine operations, conversions and the reductions' combining step. Refuses to know
memory, loops and where a value is needed.

A 16-bit brain float is its bits (i16): `libm.expand` left only moves of it. Booleans are i1 in
registers and bytes in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import INDEX_OPS, Expr, Lit, as_index, literal
from tilewright.scalars import (
    ESTIMATES,
    FUSED,
    HALF_CASTS,
    LIBM_PREFIX,
    OPTIONAL,
    PERMUTED_EIGHT,
    PERMUTED_SIXTEEN,
    REDUCTIONS,
    SIXTEENTHS,
)
from tilewright.target import Target

NO_UNWINDING: Final = " nounwind"
"""The attribute of all functions: nothing they call throws, and the tables that would tell how to
leave them half-way were a third of the time that linking takes."""
AS_PRINTED: Final = " noinline optnone"
"""Attributes of functions that LLVM need not improve: code generation takes half the time."""


class Operand(NamedTuple):
    """An SSA name or constant, with its element type and number of lanes."""

    text: str
    dtype: DType
    lanes: int = 1

    @property
    def type(self) -> str:
        return llvm_type(self.dtype, self.lanes)

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


_NAMES: Final = {
    dtypes.bool_: "i1", dtypes.bfloat16: "i16", dtypes.float16: "half",
    dtypes.float32: "float", dtypes.float64: "double",
}  # fmt: skip


def element_type(dtype: DType) -> str:
    """The register type of one element."""
    return _NAMES.get(dtype) or f"i{8 * dtype.itemsize}"


def memory_type(dtype: DType) -> str:
    """The type of one element in memory."""
    return "i8" if dtypes.is_bool(dtype) else element_type(dtype)


def stored(dtype: DType) -> DType:
    """What elements are in memory, where truth values are bytes."""
    return dtypes.uint8 if dtypes.is_bool(dtype) else dtype


@cache
def llvm_type(dtype: DType, lanes: int) -> str:
    return vector_type(element_type(dtype), lanes)


def vector_type(element: str, lanes: int) -> str:
    return element if lanes == 1 else f"<{lanes} x {element}>"


def constant(e: Lit, lanes: int = 1) -> Operand:
    """A literal, splat over the lanes. Floats print as the bits of the double they equal."""
    value, dtype = e.value, e.dtype
    if dtype == dtypes.bfloat16:
        bits = int(dtypes.bfloat16.type(value).view("uint16"))
        text = str(bits)
    elif dtype == dtypes.float16:
        text = f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    elif dtypes.is_float(dtype):
        text = f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"
    elif dtypes.is_bool(dtype):
        text = "true" if value else "false"
    else:
        text = str(int(value))
    if lanes == 1:
        return Operand(text, dtype)
    return Operand(f"splat ({element_type(dtype)} {text})", dtype, lanes)


def identity(kind: str, dtype: DType) -> Lit:
    """The neutral element of a reduction."""
    return literal(REDUCTIONS[kind][1](dtype), dtype)


def suffix(dtype: DType, lanes: int) -> str:
    """The mangled type in an intrinsic's name: `v16f32`, `f64`, `v8i64`."""
    element = element_type(dtype)
    short = {"half": "f16", "float": "f32", "double": "f64"}.get(element, element)
    return short if lanes == 1 else f"v{lanes}{short}"


_FLOAT_OPS: Final = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT_OPS: Final = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "shl": "shl",
}
_INTRINSICS: Final = {
    "abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
    "rint": "rint", "popcount": "ctpop",
}  # fmt: skip
_COMPARE_FLOAT: Final = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole"}


def native_operations(target: Target) -> frozenset[str]:
    """The operations that a target has and not every machine; for two of them, which all 64-bit
    Arm machines have, LLVM would call a library."""
    features, arm = set(target.features.split(",")), target.architecture == "aarch64"
    avx512 = {"+avx512f", "+avx512vl"} <= features
    operations = {*OPTIONAL, *ESTIMATES, PERMUTED_SIXTEEN} if avx512 else set()
    if arm or "+avx2" in features:
        operations.add("sixteenth_power")
    if "+avx2" in features:
        operations.add(PERMUTED_EIGHT)
    if arm or "+f16c" in features:
        operations.add(HALF_CASTS)
    if arm or "+fma" in features:
        operations.add(FUSED)
    return frozenset(operations)


@cache
def _order(lanes: tuple[int, ...]) -> str:
    """The operand of a shuffle that says which lanes are picked."""
    return f"<{len(lanes)} x i32> <{', '.join([f'i32 {i}' for i in lanes])}>"


@cache
def _fused(dtype: DType, lanes: int) -> tuple[str, str]:
    """The call of a multiply-add without its operands, and what declares it."""
    t, name = llvm_type(dtype, lanes), f"llvm.fma.{suffix(dtype, lanes)}"
    return f"call {t} @{name}", f"declare {t} @{name}({t}, {t}, {t})"


class Emitter:
    """Appends instructions to a list of lines; gives fresh names; collects declarations. Vectors
    have `lanes` lanes at present, of which the first `extent` count."""

    native: frozenset[str] = frozenset()
    """The operations that the machine has and not every one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.lanes, self.extent = 1, 1
        self._next = 0

    def fresh(self, hint: str = "v") -> str:
        self._next += 1
        return f"%{hint}{self._next}"

    def emit(self, text: str) -> None:
        self.lines.append("  " + text)

    def value(self, text: str, dtype: DType, lanes: int) -> Operand:
        """Emit `name = text` and return the name as an operand."""
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return Operand(name, dtype, lanes)

    def multiply_add(self, a: Operand, b: Operand, acc: Operand) -> Operand:
        """`a * b + acc`, rounded once."""
        call, declaration = _fused(acc.dtype, acc.lanes)
        self.declarations.add(declaration)
        return self.value(f"{call}({a}, {b}, {acc})", acc.dtype, acc.lanes)

    def intrinsic(self, name: str, result: str, args: str, types: str) -> str:
        """The call text of an LLVM intrinsic or library function, declared once."""
        self.declarations.add(f"declare {result} @{name}({types})")
        return f"call {result} @{name}({args})"

    # -- scalar operations --------------------------------------------------------------------

    def apply(self, op: str, args: list[Operand], dtype: DType) -> Operand:
        """One machine operation on operands that all have the same number of lanes."""
        lanes = args[-1].lanes
        first = args[0]
        floating = dtypes.is_float(dtype)
        if floating and op in _FLOAT_OPS:
            return self.value(f"{_FLOAT_OPS[op]} {first}, {args[1].text}", dtype, lanes)
        if op == "fma":
            return self.multiply_add(*args)
        if op.startswith(LIBM_PREFIX):
            return self._library(op.removeprefix(LIBM_PREFIX), args, dtype)
        if op == "cast":
            return self.cast(first, dtype)
        if op == "bitcast":
            same = element_type(first.dtype) == element_type(dtype)
            return (
                Operand(first.text, dtype, lanes)
                if same
                else self.value(f"bitcast {first} to {llvm_type(dtype, lanes)}", dtype, lanes)
            )
        if op == "select":
            return self.value(f"select {first}, {args[1]}, {args[2]}", dtype, lanes)
        if op in _COMPARE_FLOAT:
            return self._compare(op, first, args[1])
        if op in ("idiv", "irem"):
            return self._divide(op, first, args[1])
        if op == "sixteenth_power":
            return self._sixteenth(first)
        if op in OPTIONAL or op in ESTIMATES:
            return self._avx512(op, args)
        if op in _INTRINSICS:
            t = llvm_type(dtype, lanes)
            name = f"llvm.{_INTRINSICS[op]}.{suffix(first.dtype, lanes)}"
            result = self.value(
                self.intrinsic(
                    name,
                    llvm_type(first.dtype, lanes),
                    ", ".join(map(str, args)),
                    ", ".join([first.type] * len(args)),
                ),
                first.dtype,
                lanes,
            )
            return result if t == result.type else self.cast(result, dtype)
        if op == "neg":
            text = (
                f"fneg {first}"
                if floating
                else f"sub {first.type} {self.zero(first)}, {first.text}"
            )
        elif op == "not":
            ones = Lit(True, dtype) if dtypes.is_bool(dtype) else Lit(-1, dtype)
            text = f"xor {first}, {constant(ones, lanes).text}"
        elif op == "shr":
            text = f"{'ashr' if dtypes.is_signed(dtype) else 'lshr'} {first}, {args[1].text}"
        elif not floating and op in _INT_OPS:
            text = f"{_INT_OPS[op]} {first}, {args[1].text}"
        else:
            raise InternalError(f"LLVM has no spelling for {op} at {dtype}")
        return self.value(text, dtype, lanes)

    def zero(self, like: Operand) -> str:
        return "0" if like.lanes == 1 else "zeroinitializer"

    def splat(self, x: Operand, lanes: int) -> Operand:
        """A scalar in every lane."""
        if x.lanes == lanes:
            return x
        if not x.text.startswith("%"):
            return Operand(f"splat ({x})", x.dtype, lanes)
        wide = llvm_type(x.dtype, lanes)
        one = self.value(f"insertelement {wide} poison, {x}, i64 0", x.dtype, lanes)
        return self.value(
            f"shufflevector {one}, {wide} poison, <{lanes} x i32> zeroinitializer", x.dtype, lanes
        )

    def from_memory(self, x: Operand) -> Operand:
        """What was loaded, as registers hold it: booleans are bytes in memory."""
        if not dtypes.is_bool(x.dtype):
            return x
        byte = vector_type("i8", x.lanes)
        zero = "0" if x.lanes == 1 else "zeroinitializer"
        return self.value(f"icmp ne {byte} {x.text}, {zero}", dtypes.bool_, x.lanes)

    def aligned(self, operands: list[Operand]) -> list[Operand]:
        """Scalars splat when any operand is a vector."""
        lanes = max(o.lanes for o in operands)
        return [self.splat(o, lanes) for o in operands]

    def index(self, op: str, operands: list[Operand], divisor: Expr) -> Operand:
        if all(x.text.lstrip("-").isdigit() for x in operands):
            return Operand(str(INDEX_OPS[op](*(int(x.text) for x in operands))), dtypes.int64)
        a, b = self.aligned(operands)
        if op in ("+", "*"):
            return self.value(
                f"{'add' if op == '+' else 'mul'} {a}, {b.text}", dtypes.int64, a.lanes
            )
        if op in ("min", "max"):
            name = f"llvm.s{op}.{suffix(dtypes.int64, a.lanes)}"
            return self.value(
                self.intrinsic(name, a.type, f"{a}, {b}", f"{a.type}, {a.type}"),
                dtypes.int64,
                a.lanes,
            )
        n = int(divisor.value) if isinstance(divisor, Lit) else 0
        if n and n & (n - 1) == 0:  # floors and wraps negatives as division must
            word, operand = ("ashr", n.bit_length() - 1) if op == "//" else ("and", n - 1)
            c = constant(as_index(operand), a.lanes)  # type: ignore[arg-type]
            return self.value(f"{word} {a}, {c.text}", dtypes.int64, a.lanes)
        q = self.value(f"sdiv {a}, {b.text}", dtypes.int64, a.lanes)
        product = self.value(f"mul {q}, {b.text}", dtypes.int64, a.lanes)
        r = self.value(f"sub {a}, {product.text}", dtypes.int64, a.lanes)
        negative = self.value(
            f"ashr {r}, {constant(as_index(63), a.lanes).text}", dtypes.int64, a.lanes
        )  # type: ignore[arg-type]
        if op == "//":
            return self.value(f"add {q}, {negative.text}", dtypes.int64, a.lanes)
        back = self.value(f"and {negative}, {b.text}", dtypes.int64, a.lanes)
        return self.value(f"add {r}, {back.text}", dtypes.int64, a.lanes)

    def shuffled(self, a: Operand, b: Operand, order: Sequence[int]) -> Operand:
        """Lanes picked from two vectors, those of `b` counted after those of `a`."""
        picked = _order(tuple(order))
        return self.value(f"shufflevector {a}, {b}, {picked}", a.dtype, len(order))

    def masked(self, new: Operand, old: Operand) -> Operand:
        """`new` in the lanes inside the vector axis's extent, `old` in the padding."""
        if self.extent == self.lanes:
            return new
        return self.value(
            f"select <{self.lanes} x i1> {self.lane_mask()}, {new}, {old}", new.dtype, new.lanes
        )

    def lane_mask(self) -> str:
        if self.extent == self.lanes:
            return "splat (i1 true)"
        bits = ", ".join(f"i1 {'true' if i < self.extent else 'false'}" for i in range(self.lanes))
        return f"<{bits}>"

    def reversed(self, wide: str, x: str) -> str:
        order = ", ".join(f"i32 {i}" for i in reversed(range(self.lanes)))
        return self.value(
            f"shufflevector {wide} {x}, {wide} poison, <{self.lanes} x i32> <{order}>",
            dtypes.int64,
            1,
        ).text

    def _mangled(self, dtype: DType) -> str:
        return f"v{self.lanes}i8" if dtypes.is_bool(dtype) else suffix(dtype, self.lanes)

    def _compare(self, op: str, a: Operand, b: Operand) -> Operand:
        if dtypes.is_float(a.dtype):
            return self.value(f"fcmp {_COMPARE_FLOAT[op]} {a}, {b.text}", dtypes.bool_, a.lanes)
        sign = "s" if dtypes.is_signed(a.dtype) else "u"
        predicate = {"eq": "eq", "ne": "ne", "lt": f"{sign}lt", "le": f"{sign}le"}[op]
        return self.value(f"icmp {predicate} {a}, {b.text}", dtypes.bool_, a.lanes)

    def _divide(self, op: str, a: Operand, b: Operand) -> Operand:
        """Integer division that traps on nothing: x/0 is 0, and MIN/-1 is MIN."""
        signed = dtypes.is_signed(a.dtype)
        one = constant(Lit(1, a.dtype), a.lanes)
        zero = Operand(self.zero(a), a.dtype, a.lanes)
        by_zero = self.value(f"icmp eq {b}, {zero.text}", dtypes.bool_, a.lanes)
        safe = self.value(f"select {by_zero}, {one}, {b}", a.dtype, a.lanes)
        if signed:
            lowest = constant(Lit(-(1 << (8 * a.dtype.itemsize - 1)), a.dtype), a.lanes)
            minus = constant(Lit(-1, a.dtype), a.lanes)
            low = self.value(f"icmp eq {a}, {lowest.text}", dtypes.bool_, a.lanes)
            neg = self.value(f"icmp eq {safe}, {minus.text}", dtypes.bool_, a.lanes)
            both = self.value(f"and {low}, {neg.text}", dtypes.bool_, a.lanes)
            safe = self.value(f"select {both}, {one}, {safe}", a.dtype, a.lanes)
            # MIN rem -1 is 0 and MIN / 1 is MIN, so dividing by 1 is right for both.
        word = ("s" if signed else "u") + ("div" if op == "idiv" else "rem")
        result = self.value(f"{word} {a}, {safe.text}", a.dtype, a.lanes)
        return self.value(f"select {by_zero}, {zero}, {result}", a.dtype, a.lanes)

    def _avx512(self, op: str, args: list[Operand]) -> Operand:
        """An optional operation by AVX-512's instructions, one register at a time."""
        dtype, lanes = args[0].dtype, args[0].lanes
        if lanes * dtype.itemsize > 64:
            half = lanes // 2
            low = self._avx512(op, [self.lanes_of(a, 0, half) for a in args])
            high = self._avx512(op, [self.lanes_of(a, half, lanes) for a in args])
            order = ", ".join(f"i32 {i}" for i in range(lanes))
            both = f"shufflevector {low}, {high}, <{lanes} x i32> <{order}>"
            return self.value(both, dtype, lanes)
        if lanes * dtype.itemsize < 16:
            wide = [self.lanes_of(a, 0, 16 // dtype.itemsize) for a in args]
            return self.lanes_of(self._avx512(op, wide), 0, lanes)
        if op == "root_estimate":
            return self._estimate("rsqrt14", args[0])
        if op in ("scale", "scale_floor"):
            return self._masked_avx512("scalef", args, args[0])
        # The interval [3/4, 3/2), and NaN for negative numbers.
        significand = self._masked_avx512("getmant", [args[0]], args[0], ("i32", "11"))
        if op == "significand":
            return significand
        over, under = (self._masked_avx512("getexp", [x], x) for x in (args[0], significand))
        return self.value(f"fsub {over}, {under.text}", dtype, lanes)

    def _sixteenth(self, place: Operand) -> Operand:
        """An element of `SIXTEENTHS` by the low bits of each lane: a table is permuted, one that
        one register holds, two of eight lanes or, on Arm machines, four of four."""
        lanes = place.lanes
        held = 16 if PERMUTED_SIXTEEN in self.native else 8 if PERMUTED_EIGHT in self.native else 4
        if lanes > held:
            halves = (self.lanes_of(place, k, k + lanes // 2) for k in (0, lanes // 2))
            low, high = (self._sixteenth(half) for half in halves)
            order = ", ".join(f"i32 {i}" for i in range(lanes))
            both = f"shufflevector {low}, {high}, <{lanes} x i32> <{order}>"
            return self.value(both, dtypes.float32, lanes)
        if lanes < held:
            return self.lanes_of(self._sixteenth(self.lanes_of(place, 0, held)), 0, lanes)
        if held == 4:
            return self._sixteenth_of_bytes(place)
        name = "avx512.permvar.sf.512" if held == 16 else "avx2.permps"
        parts = [self._permuted(name, k, place) for k in range(0, 16, held)]
        if held == 16:
            return parts[0]
        bit = self.value(f"and {place}, splat (i32 8)", dtypes.uint32, held)
        lower = self.value(f"icmp eq {bit}, zeroinitializer", dtypes.bool_, held)
        return self.value(f"select {lower}, {parts[0]}, {parts[1]}", dtypes.float32, held)

    def _permuted(self, name: str, first: int, place: Operand) -> Operand:
        """Elements of a register's part of the table, by Intel's instruction."""
        wide = llvm_type(dtypes.float32, place.lanes)
        part = [literal(v, dtypes.float32) for v in SIXTEENTHS[first : first + place.lanes]]
        held = f"{wide} <{', '.join(f'float {constant(v).text}' for v in part)}>"
        call = self.intrinsic(f"llvm.x86.{name}", wide, f"{held}, {place}", f"{wide}, {place.type}")
        return self.value(call, dtypes.float32, place.lanes)

    def _sixteenth_of_bytes(self, place: Operand) -> Operand:
        """The same by Arm's table of 64 bytes, whose places are those of bytes."""
        low = self.value(f"and {place}, splat (i32 15)", dtypes.uint32, 4)
        four = self.value(f"mul {low}, splat (i32 {0x04040404})", dtypes.uint32, 4)
        at = self.value(f"add {four}, splat (i32 {0x03020100})", dtypes.uint32, 4)
        places = self.value(f"bitcast {at} to <16 x i8>", dtypes.uint8, 16)
        data = struct.pack("<16f", *SIXTEENTHS)
        rows = [", ".join(f"i8 {b}" for b in data[k : k + 16]) for k in range(0, 64, 16)]
        arguments = ", ".join([*(f"<16 x i8> <{row}>" for row in rows), str(places)])
        types = ", ".join(["<16 x i8>"] * 5)
        call = self.intrinsic("llvm.aarch64.neon.tbl4.v16i8", "<16 x i8>", arguments, types)
        found = self.value(call, dtypes.uint8, 16)
        return self.value(f"bitcast {found} to <4 x float>", dtypes.float32, 4)

    def _estimate(self, name: str, x: Operand) -> Operand:
        """Intel's estimate for all lanes of a register."""
        types = (x.type, x.type, f"i{max(x.lanes, 8)}")
        parts = zip(types, (x.text, "zeroinitializer", "-1"), strict=True)
        bits = 8 * x.lanes * x.dtype.itemsize
        call = self.intrinsic(
            f"llvm.x86.avx512.{name}.ps.{bits}",
            x.type,
            ", ".join(f"{t} {v}" for t, v in parts),
            ", ".join(types),
        )
        return self.value(call, x.dtype, x.lanes)

    def _masked_avx512(
        self, name: str, args: list[Operand], like: Operand, *more: tuple[str, str]
    ) -> Operand:
        """Intel's instruction under a mask of all lanes; the widest also name the rounding."""
        bits = 8 * like.lanes * like.dtype.itemsize
        parts = [(a.type, a.text) for a in args] + [*more, (like.type, like.text)]
        parts.append((f"i{max(like.lanes, 8)}", "-1"))
        if bits == 512:
            parts.append(("i32", "4"))
        kind = "ps" if like.dtype == dtypes.float32 else "pd"
        call = self.intrinsic(
            f"llvm.x86.avx512.mask.{name}.{kind}.{bits}",
            like.type,
            ", ".join(f"{t} {x}" for t, x in parts),
            ", ".join(t for t, _ in parts),
        )
        return self.value(call, like.dtype, like.lanes)

    def lanes_of(self, x: Operand, start: int, stop: int) -> Operand:
        """Some lanes of a vector; those beyond its end hold anything."""
        if x.lanes == 1:
            wide = llvm_type(x.dtype, stop)
            return self.value(f"insertelement {wide} poison, {x}, i64 0", x.dtype, stop)
        if stop - start == 1:
            return self.value(f"extractelement {x}, i64 {start}", x.dtype, 1)
        chosen = (f"i32 {i}" if i < x.lanes else "i32 poison" for i in range(start, stop))
        order = f"<{stop - start} x i32> <{', '.join(chosen)}>"
        return self.value(f"shufflevector {x}, {x.type} poison, {order}", x.dtype, stop - start)

    def _library(self, name: str, args: list[Operand], dtype: DType) -> Operand:
        """A C library function, one lane at a time."""
        lanes, element = args[0].lanes, element_type(dtype)
        types = ", ".join([element] * len(args))
        if lanes == 1:
            return self.value(
                self.intrinsic(name, element, ", ".join(map(str, args)), types), dtype, 1
            )
        result = Operand("poison", dtype, lanes)
        for lane in range(lanes):
            parts = [self.value(f"extractelement {a}, i64 {lane}", dtype, 1) for a in args]
            one = self.value(
                self.intrinsic(name, element, ", ".join(map(str, parts)), types), dtype, 1
            )
            result = self.value(f"insertelement {result}, {one}, i64 {lane}", dtype, lanes)
        return result

    def cast(self, x: Operand, to: DType) -> Operand:
        """C's conversion. Narrow integers are reached through i32 or i64, as C compilers do."""
        if element_type(x.dtype) == element_type(to) and dtypes.bfloat16 not in (x.dtype, to):
            return Operand(x.text, to, x.lanes)
        a, lanes = x.dtype, x.lanes
        if dtypes.is_bool(to):
            word = "fcmp une" if dtypes.is_float(a) else "icmp ne"
            zero = "0.0" if lanes == 1 else "zeroinitializer"
            return self.value(
                f"{word} {x}, {zero if dtypes.is_float(a) else self.zero(x)}", to, lanes
            )
        target = llvm_type(to, lanes)
        from_float, to_float = dtypes.is_float(a), dtypes.is_float(to)
        if dtypes.is_bool(a) and to_float:  # one choice; a conversion widens the mask first
            one, zero = (constant(literal(n, to), lanes) for n in (1.0, 0.0))
            return self.value(f"select {x}, {one}, {zero}", to, lanes)
        if from_float and to_float:
            word = "fpext" if to.itemsize > a.itemsize else "fptrunc"
        elif from_float:
            narrow = to.itemsize < 4 or to == dtypes.uint32
            if narrow:
                middle = dtypes.int64 if to == dtypes.uint32 else dtypes.int32
                return self.cast(
                    self.value(f"fptosi {x} to {llvm_type(middle, lanes)}", middle, lanes), to
                )
            word = "fptosi" if dtypes.is_signed(to) else "fptoui"
        elif to_float:
            word = "sitofp" if dtypes.is_signed(a) else "uitofp"
        elif to.itemsize > a.itemsize or dtypes.is_bool(a):
            word = "sext" if dtypes.is_signed(a) else "zext"
        else:
            word = "trunc"
        return self.value(f"{word} {x} to {target}", to, lanes)

    def combine(self, kind: str, acc: Operand, x: Operand) -> Operand:
        """One step of a reduction; `max` and `min` keep a NaN from either side."""
        dtype, lanes = acc.dtype, acc.lanes
        if kind in ("sum", "prod"):
            if dtypes.is_bool(dtype):
                return self.apply("or" if kind == "sum" else "and", [acc, x], dtype)
            return self.apply("add" if kind == "sum" else "mul", [acc, x], dtype)
        if kind in ("any", "all"):
            return self.apply("or" if kind == "any" else "and", [acc, x], dtype)
        if not dtypes.is_float(dtype):
            better = self._compare("lt", *((acc, x) if kind == "max" else (x, acc)))
            return self.value(f"select {better}, {x}, {acc}", dtype, lanes)
        # x > acc ? x : acc is one instruction and keeps a NaN in acc; a NaN in x needs a blend.
        predicate = "ogt" if kind == "max" else "olt"
        better = self.value(f"fcmp {predicate} {x}, {acc.text}", dtypes.bool_, lanes)
        best = self.value(f"select {better}, {x}, {acc}", dtype, lanes)
        nan = self.value(f"fcmp uno {x}, {x.text}", dtypes.bool_, lanes)
        return self.value(f"select {nan}, {x}, {best}", dtype, lanes)

    def across(self, kind: str, x: Operand) -> Operand:
        """All lanes combined into one scalar, pairing halves."""
        while x.lanes > 1:
            half = x.lanes // 2
            order = ", ".join(f"i32 {i}" for i in range(half))
            upper = ", ".join(f"i32 {i}" for i in range(half, x.lanes))
            if half == 1:
                low = self.value(f"extractelement {x}, i64 0", x.dtype, 1)
                high = self.value(f"extractelement {x}, i64 1", x.dtype, 1)
            else:
                low = self.value(
                    f"shufflevector {x}, {x.type} poison, <{half} x i32> <{order}>", x.dtype, half
                )
                high = self.value(
                    f"shufflevector {x}, {x.type} poison, <{half} x i32> <{upper}>", x.dtype, half
                )
            x = self.combine(kind, low, high)
        return x
