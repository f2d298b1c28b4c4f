"""How C99 spells scalars: types, literals, machine operations and the helpers they need.

Knows which spellings differ between C and its relatives (`Dialect`), and how much of C is undefined
where the languages above define it: integers wrap by way of unsigned ones, division by zero is 0.
Refuses to know statements, memory and names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import Lit
from tilewright.scalars import LIBM_PREFIX


class Text(NamedTuple):
    """An expression's spelling, and how tightly its outermost operator binds."""

    text: str
    level: int

    def inside(self, level: int) -> str:
        """The spelling as an operand that must bind at least as tightly as `level`."""
        return self.text if self.level >= level else f"({self.text})"


ATOM, UNARY, PRODUCT, SUM, LOOSE, CHOICE = 9, 8, 7, 6, 3, 1
"""Binding strengths. Comparisons, shifts and bit operations share `LOOSE`: mixed, they get
parentheses, which is what compilers ask for."""


def atom(text: str) -> Text:
    return Text(text, ATOM)


@dataclass(frozen=True)
class Dialect:
    """What a relative of C spells in its own way."""

    name: str
    note: str  # the first line of every file
    headers: tuple[str, ...]
    types: dict[DType, str]
    bool_type: str
    index_type: str
    entry: str  # what stands before the entry function's name
    inner: str  # before any other function's
    helper: str  # before a helper's
    pointer: Callable[[str, str, bool], str]  # (type, name, restricted) -> declaration
    float_suffix: dict[DType, str]
    sync: Callable[[str], str] = field(default=lambda scope: f"/* sync {scope} */")


C99: Final = Dialect(
    name="C99",
    note="// cc -std=c99 -O2 -ffp-contract=off file.c -lm",
    headers=("<math.h>", "<stdbool.h>", "<stdint.h>", "<string.h>"),
    types={
        dtypes.bool_: "uint8_t", dtypes.bfloat16: "uint16_t", dtypes.float16: "_Float16",
        dtypes.float32: "float", dtypes.float64: "double",
        **{d: f"{d.name}_t" for d in (dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64)},
        **{d: f"{d.name}_t" for d in (dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.uint64)},
    },
    bool_type="bool",
    index_type="int64_t",
    entry="void ",
    inner="static void ",
    helper="static inline ",
    pointer=lambda type, name, restricted: f"{type} *{'restrict ' if restricted else ''}{name}",
    float_suffix={dtypes.float32: "f", dtypes.float64: ""},
)  # fmt: skip
"""Contraction stays off: fused operations are written where they are meant."""


_BINARY: Final = {
    "add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT),
    "eq": ("==", LOOSE), "ne": ("!=", LOOSE), "lt": ("<", LOOSE), "le": ("<=", LOOSE),
    "and": ("&", LOOSE), "or": ("|", LOOSE), "xor": ("^", LOOSE),
    "shl": ("<<", LOOSE), "shr": (">>", LOOSE),
}  # fmt: skip
_MATH: Final = {
    "abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
    "rint": "rint", "fma": "fma",
}  # fmt: skip

_WORDS: Final = """
    auto break case char const continue default do double else enum extern float for goto if inline
    int long register restrict return short signed sizeof static struct switch typedef union
    unsigned void volatile while bool true false main memcpy memset NAN INFINITY HUGE_VAL
    abs div exit signgam j0 j1 jn y0 y1 yn gamma
"""
_MATH_H: Final = """
    acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs
    fdim floor fma fmax fmin fmod frexp hypot ilogb isfinite isgreater isinf isless isnan isnormal
    ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nan nearbyint nextafter
    nexttoward pow remainder remquo rint round scalbln scalbn signbit sin sinh sqrt tan tanh tgamma
    trunc
"""
RESERVED: Final = frozenset(_WORDS.split()).union(
    *({name, f"{name}f", f"{name}l"} for name in _MATH_H.split())
)
"""Names of the language and its headers; ours get an underscore to stay apart from them."""


def binary(op: str, level: int, a: Text, b: Text) -> Text:
    """`a op b` with the parentheses C needs, and those that make precedence plain."""
    left, right = (level, level + 1) if level > LOOSE else (SUM, SUM)
    if op in ("&", "|", "^", "<<", ">>"):
        left = right = UNARY
    return Text(f"{a.inside(left)} {op} {b.inside(right)}", level)


def chosen(condition: Text, then: Text, otherwise: Text) -> Text:
    """A conditional expression."""
    parts = (condition.inside(ATOM), then.inside(LOOSE), otherwise.inside(LOOSE))
    return Text("{} ? {} : {}".format(*parts), CHOICE)


class Values:
    """Spells values in a dialect, and collects the helper functions that they call."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.helpers: dict[str, str] = {}

    def memory_type(self, dtype: DType) -> str:
        """The type of one element in memory."""
        if dtype not in self.dialect.types:
            raise InternalError(f"{self.dialect.name} has no type for {dtype}")
        return self.dialect.types[dtype]

    def value_type(self, dtype: DType) -> str:
        """The type of a variable."""
        return self.dialect.bool_type if dtypes.is_bool(dtype) else self.memory_type(dtype)

    def from_memory(self, element: str, dtype: DType) -> Text:
        """The value of an element: truth values are bytes in memory."""
        return Text(f"{element} != 0", LOOSE) if dtypes.is_bool(dtype) else atom(element)

    # -- literals -----------------------------------------------------------------------------

    def literal(self, e: Lit) -> Text:
        """A number with exactly its bits."""
        value, dtype = e.value, e.dtype
        if dtypes.is_bool(dtype):
            return atom("true" if value else "false")
        if dtypes.is_float(dtype):
            return self._float(float(value), dtype)
        n = int(value)
        if dtypes.is_signed(dtype):
            if n == -(1 << (8 * dtype.itemsize - 1)):
                return atom(f"INT{8 * dtype.itemsize}_MIN")
            return Text(str(n), ATOM if n >= 0 else UNARY)
        suffix = {4: "u", 8: "ull"}.get(dtype.itemsize, "")
        return atom(f"{n}{suffix}")

    def _float(self, value: float, dtype: DType) -> Text:
        if dtype == dtypes.bfloat16:
            return atom(str(int(dtypes.bfloat16.type(value).view("uint16"))))
        if dtype == dtypes.float16:
            return self._converted(dtype, self._float(value, dtypes.float32))
        if math.isnan(value):
            return atom("NAN")
        if math.isinf(value):
            return atom("INFINITY") if value > 0 else Text("-INFINITY", UNARY)
        suffix = self.dialect.float_suffix[dtype]
        short = repr(value)
        # Hexadecimal is exact at sight; a short decimal is exact if it has few enough digits.
        plain = abs(value) < 1e6 and (value * 1024).is_integer() and len(short) < 9
        return Text((short if plain else _hex(value)) + suffix, UNARY if short[0] == "-" else ATOM)

    def _converted(self, dtype: DType, x: Text) -> Text:
        return Text(f"({self.value_type(dtype)}){x.inside(ATOM)}", UNARY)

    # -- operations ---------------------------------------------------------------------------

    def apply(self, op: str, args: Sequence[Text], types: Sequence[DType], dtype: DType) -> Text:
        """One machine operation giving a `dtype`, on operands of the given types."""
        first = types[0]
        if op.startswith(LIBM_PREFIX):
            return self._call(op.removeprefix(LIBM_PREFIX), args)
        if op in ("select", "rare"):
            return chosen(args[0], args[1], args[2])
        if op == "cast":
            return self._cast(args[0], first, dtype)
        if op == "bitcast":
            return self._bitcast(args[0], first, dtype)
        if op in _MATH and dtypes.is_float(first):
            return self._call(_MATH[op] + self.dialect.float_suffix[first], args)
        if op in ("idiv", "irem"):
            return self._call(self._division(op, first), args)
        if op == "popcount":
            return self._population(args[0], first, dtype)
        if op in ("eq", "ne", "lt", "le"):
            return self._binary(op, args)
        if op == "neg":
            minus = Text(f"-{args[0].inside(ATOM)}", UNARY)
            return (
                minus if dtypes.is_float(dtype) else self._wrapped("sub", [atom("0"), *args], dtype)
            )
        if op == "not":
            if dtypes.is_bool(dtype):
                return Text(f"!{args[0].inside(ATOM)}", LOOSE)
            return self._converted(dtype, Text(f"~{args[0].inside(ATOM)}", UNARY))
        if op in _BINARY:
            return self._arithmetic(op, args, dtype)
        raise InternalError(f"{self.dialect.name} has no spelling for {op} at {dtype}")

    def _arithmetic(self, op: str, args: Sequence[Text], dtype: DType) -> Text:
        if op in ("and", "or", "xor") or dtypes.is_float(dtype):
            return self._binary(op, args)
        if op == "shr":
            return self._converted(dtype, self._binary(op, args))
        return self._wrapped(op, args, dtype)

    def _wrapped(self, op: str, args: Sequence[Text], dtype: DType) -> Text:
        """Integer arithmetic modulo 2^bits: unsigned, and wide enough not to be promoted to int."""
        if dtype in (dtypes.uint32, dtypes.uint64):
            return self._binary(op, args)
        wide = self.memory_type(dtypes.uint64 if dtype.itemsize == 8 else dtypes.uint32)
        a, b = (Text(f"({wide}){x.inside(ATOM)}", UNARY) for x in args)
        return self._converted(dtype, self._binary(op, [a, args[1] if op == "shl" else b]))

    def _binary(self, op: str, args: Sequence[Text]) -> Text:
        sign, level = _BINARY[op]
        return binary(sign, level, args[0], args[1])

    def _call(self, name: str, args: Sequence[Text]) -> Text:
        return atom(f"{name}({', '.join(a.text for a in args)})")

    def _cast(self, x: Text, source: DType, to: DType) -> Text:
        """C's conversion; narrow integers are reached from floats by way of wide signed ones."""
        if dtypes.is_bool(to):
            return binary("!=", LOOSE, x, atom("0")) if not dtypes.is_bool(source) else x
        if dtypes.is_float(source) and dtypes.is_integer(to):
            if to.itemsize < 4 or to == dtypes.uint32:
                middle = dtypes.int64 if to == dtypes.uint32 else dtypes.int32
                return self._converted(to, self._converted(middle, x))
        return self._converted(to, x)

    def _bitcast(self, x: Text, source: DType, to: DType) -> Text:
        a, b = self.memory_type(source), self.memory_type(to)
        if a == b:
            return x
        if dtypes.is_integer(source) and dtypes.is_integer(to):
            return self._converted(to, x)
        name = f"bits_{dtypes.short(source)}_as_{dtypes.short(to)}"
        self.helpers[name] = (
            f"{self.dialect.helper}{b} {name}({a} x)\n"
            f"{{\n    {b} y;\n    memcpy(&y, &x, sizeof y);\n    return y;\n}}"
        )
        return self._call(name, [x])

    def _division(self, op: str, dtype: DType) -> str:
        """The helper for a division that traps on nothing: x/0 is 0, and MIN/-1 is MIN."""
        name, t = f"{op}_{dtypes.short(dtype)}", self.memory_type(dtype)
        sign = "/" if op == "idiv" else "%"
        body = f"    return b == 0 ? 0 : a {sign} b;\n"
        if dtypes.is_signed(dtype):
            minus_one = self._wrapped("sub", [atom("0"), atom("a")], dtype).text
            special = minus_one if op == "idiv" else "0"
            body = f"    if (b == -1)\n        return {special};\n" + body
        self.helpers[name] = f"{self.dialect.helper}{t} {name}({t} a, {t} b)\n{{\n{body}}}"
        return name

    def _population(self, x: Text, source: DType, dtype: DType) -> Text:
        unsigned = self.memory_type(dtypes.uint64)
        self.helpers["population"] = (
            f"{self.dialect.helper}int population({unsigned} x)\n"
            "{\n"
            "    int n = 0;\n"
            "    for (; x != 0; x &= x - 1)\n"
            "        ++n;\n"
            "    return n;\n"
            "}"
        )
        same_width = self.memory_type(getattr(dtypes, f"uint{8 * source.itemsize}"))
        return self._converted(
            dtype, self._call("population", [Text(f"({same_width}){x.inside(ATOM)}", UNARY)])
        )

    # -- positions ----------------------------------------------------------------------------

    def index(self, op: str, a: Text, b: Text, exact: bool) -> Text:
        """Index arithmetic; `exact` if the dividend is known not to be negative."""
        if op in ("+", "*"):
            return binary(op, SUM if op == "+" else PRODUCT, a, b)
        if op in ("//", "%") and exact:
            return binary("/" if op == "//" else "%", PRODUCT, a, b)
        name = {"//": "floor_quotient", "%": "floor_remainder", "min": "smaller", "max": "larger"}[
            op
        ]
        bodies = {
            "//": "a / b - (a % b < 0)", "%": "a % b + (a % b < 0 ? b : 0)",
            "min": "a < b ? a : b", "max": "a > b ? a : b",
        }  # fmt: skip
        t = self.dialect.index_type
        self.helpers[name] = (
            f"{self.dialect.helper}{t} {name}({t} a, {t} b)\n{{\n    return {bodies[op]};\n}}"
        )
        return self._call(name, [a, b])


def _hex(value: float) -> str:
    """Exact, without the zeros Python pads with."""
    mantissa, _, exponent = value.hex().partition("p")
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + "p" + exponent
