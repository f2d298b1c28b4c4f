"""Elementwise functions rewritten into machine operations, before anything is printed.

Knows every elementwise function by its NumPy name (`EXPANSIONS`), and how 16-bit floats are
computed in float32 and rounded after each operation. Refuses to know backends, vectors and loops:
the result is ordinary `Expr` built of `scalars.MACHINE` operations only.

The float functions live in `libm_elementary.py`, `libm_trig.py` and `libm_special.py`; comparisons,
integers, bits and the table itself are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from tilewright import dtypes
from tilewright.codegen import libm_elementary as elementary
from tilewright.codegen import libm_estimates as estimates
from tilewright.codegen import libm_special as special
from tilewright.codegen import libm_tables as tables
from tilewright.codegen import libm_trig as trig
from tilewright.codegen.libm_composed import composed
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Expr,
    Lit,
    apply,
    bitcast,
    cast,
    is_index,
    literal,
    select,
    show,
    walk,
)
from tilewright.scalars import ESTIMATES, FUSED, HALF_CASTS, MACHINE, MULTIPLY_ADD, OPTIONAL
from tilewright.transforms.tensorize import INSTRUCTIONS, Instruction

Expansion = Callable[..., Expr]


# -- 16-bit floats -----------------------------------------------------------------------------


def _is_half(dtype: DType) -> bool:
    return dtype in (dtypes.float16, dtypes.bfloat16)


def widen(x: Expr) -> Expr:
    """A 16-bit float as float32, exactly. A bfloat16 is the upper half of a float32's bits."""
    if x.type != dtypes.bfloat16:
        return cast(x, dtypes.float32)
    match x:
        case Apply(op, (Lit(value),), _) if op.name == "bitcast":
            exact = np.uint16(value).view(dtypes.bfloat16)
            return literal(float(exact), dtypes.float32)
    bits = cast(bitcast(x, dtypes.uint16), dtypes.uint32)
    return bitcast(bits << 16, dtypes.float32)


def narrow(x: Expr, dtype: DType) -> Expr:
    """A float32 rounded to a 16-bit float, to nearest with ties to even; NaN stays quiet NaN."""
    if dtype != dtypes.bfloat16:
        return cast(x, dtype)
    bits = bitcast(x, dtypes.uint32)
    rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
    quiet = (bits >> 16) | 0x40
    half = cast(select(apply("ne", x, x), quiet, rounded), dtypes.uint16)
    return bitcast(half, dtypes.bfloat16)


def _to_odd(x: Expr) -> Expr:
    """float64 to float32, inexact results rounded to an odd last bit: rounding on to float16 then
    rounds as if once (Boldo and Melquiond, 2008). Machines have no such conversion in one step."""
    near = cast(x, dtypes.float32)
    back = cast(near, dtypes.float64)
    bits = bitcast(near, dtypes.uint32)
    beyond = select(apply("abs", x) < apply("abs", back), bits - 1, bits)
    return bitcast(select(apply("eq", back, x), bits, beyond | 1), dtypes.float32)


def _half_bits_as_float(x: Expr) -> Expr:
    """A float16 as float32, exactly, by operations on bits: the exponent moves where a float32's
    is and a multiplication makes up for the other bias, subnormal numbers included."""
    bits = cast(bitcast(x, dtypes.uint16), dtypes.uint32)
    magnitude = (bits & 0x7FFF) << 13
    number = bitcast(magnitude, dtypes.float32) * literal(2.0**112, dtypes.float32)
    special = magnitude | 0x7F800000  # infinity and NaN have the largest exponent
    is_number = apply("lt", magnitude, literal(0x0F800000, dtypes.uint32))
    found = select(is_number, bitcast(number, dtypes.uint32), special)
    return bitcast(found | (bits & 0x8000) << 16, dtypes.float32)


def _float_as_half_bits(x: Expr) -> Expr:
    """A float32 rounded to float16 by operations on bits, to nearest with ties to even."""

    def below(bound: int) -> Expr:
        return apply("lt", magnitude, literal(bound, dtypes.uint32))

    bits = bitcast(x, dtypes.uint32)
    magnitude = bits & 0x7FFFFFFF
    normal = (magnitude + ((magnitude >> 13) & 1) + (0xFFF - (112 << 23) & 0xFFFFFFFF)) >> 13
    # The last bit of 0.5 is worth as much as a float16's least number: adding rounds to it.
    half = literal(0.5, dtypes.float32)
    subnormal = bitcast(bitcast(magnitude, dtypes.float32) + half, dtypes.uint32) & 0x7FFFFF
    special = select(below(0x7F800001), literal(0x7C00, dtypes.uint32), (magnitude >> 13) | 0x7E00)
    found = select(below(0x38800000), subnormal, select(below(0x47800000), normal, special))
    return bitcast(cast(found & 0x7FFF | (bits >> 16) & 0x8000, dtypes.uint16), dtypes.float16)


def _half_cast(x: Expr, dtype: DType) -> Expr:
    """A cast from or to float16 without the machine's own."""
    if x.type == dtypes.float16:
        return cast(_half_bits_as_float(x), dtype)
    return _float_as_half_bits(cast(x, dtypes.float32))


def _cast(x: Expr, dtype: DType) -> Expr:
    """`cast` to and from bfloat16, by way of float32, and from float64 to float16: what printers
    do not know."""
    wide = widen(x) if x.type == dtypes.bfloat16 else x
    if wide.type == dtypes.float64 and dtype == dtypes.float16:
        return cast(_to_odd(wide), dtype)
    if dtype != dtypes.bfloat16:
        return apply("ne", wide, literal(0, wide.type)) if dtype.kind == "b" else cast(wide, dtype)
    if dtypes.is_bool(wide.type):
        wide = select(wide, literal(1, dtypes.float32), literal(0, dtypes.float32))
    return narrow(cast(wide, dtypes.float32), dtype)


# -- arithmetic on any type --------------------------------------------------------------------


def _by_kind(
    *,
    floats: Expansion | None = None,
    ints: Expansion | None = None,
    bools: Expansion | None = None,
) -> Expansion:
    """One expansion for each kind of operand; a kind left out is not defined."""

    def expansion(*args: Expr) -> Expr:
        dtype = args[0].type
        kinds = {"i": ints, "u": ints, "b": bools}
        chosen = floats if dtypes.is_float(dtype) else kinds.get(dtype.kind)
        if chosen is None:
            raise InternalError(f"not defined on {dtype}: {', '.join(show(a) for a in args)}")
        return chosen(*args)

    return expansion


def _machine(name: str) -> Expansion:
    return lambda *args: apply(name, *args)


def _identity(x: Expr) -> Expr:
    return x


def _zero(x: Expr) -> Expr:
    return literal(0, x.type)


def _negate(x: Expr) -> Expr:
    return apply("sub", _zero(x), x)


def _absolute_int(x: Expr) -> Expr:
    return select(x < 0, _negate(x), x) if dtypes.is_signed(x.type) else x


def _not(x: Expr) -> Expr:
    return apply("not", x)


def _and_not(a: Expr, b: Expr) -> Expr:
    return a & _not(b)


def _greater(a: Expr, b: Expr) -> Expr:
    return apply("lt", b, a)


def _greater_equal(a: Expr, b: Expr) -> Expr:
    return apply("le", b, a)


def _sign(x: Expr) -> Expr:
    """-1, 0 or 1; NaN stays NaN, and a zero keeps its type but loses its sign as in NumPy."""
    one, zero = literal(1, x.type), _zero(x)
    if not dtypes.is_float(x.type):
        above = select(_greater(x, zero), one, zero)
        return select(x < 0, literal(-1, x.type), above) if dtypes.is_signed(x.type) else above
    signed = select(x < 0, literal(-1, x.type), select(x > 0, one, zero))
    return select(apply("ne", x, x), x, signed)


def _maximum(x: Expr, y: Expr) -> Expr:
    """The larger; NaN if either is. One compare-and-choose, then a blend for a NaN in `x`; next to
    a number that is known, the compare that fails for a NaN is enough."""
    if not dtypes.is_float(x.type) or _is_number(x):
        return select(x > y, x, y)
    if _is_number(y):
        return select(x <= y, y, x)
    return select(apply("ne", x, x), x, select(x > y, x, y))


def _minimum(x: Expr, y: Expr) -> Expr:
    if not dtypes.is_float(x.type) or _is_number(x):
        return select(x < y, x, y)
    if _is_number(y):
        return select(x >= y, y, x)
    return select(apply("ne", x, x), x, select(x < y, x, y))


def _is_number(e: Expr) -> bool:
    return isinstance(e, Lit) and e.value == e.value


def _fmax(x: Expr, y: Expr) -> Expr:
    """The larger; a NaN loses to a number."""
    return select(apply("ne", y, y), x, select(x > y, x, y))


def _fmin(x: Expr, y: Expr) -> Expr:
    return select(apply("ne", y, y), x, select(x < y, x, y))


def _clamp(low: Expr, x: Expr, high: Expr) -> Expr:
    """`x` between `low` and `high` (`high` wins if they cross, as in NumPy); NaN propagates."""
    return EXPANSIONS["minimum"](EXPANSIONS["maximum"](x, low), high)


def _heaviside(x: Expr, at_zero: Expr) -> Expr:
    step = select(x < 0, literal(0, x.type), select(x > 0, literal(1, x.type), at_zero))
    return select(apply("ne", x, x), x, step)


# -- integers ----------------------------------------------------------------------------------


def _remainder_int(a: Expr, b: Expr) -> Expr:
    """The remainder with the divisor's sign; by zero it gives 0."""
    r = apply("irem", a, b)
    if not dtypes.is_signed(a.type):
        return r
    return select(apply("ne", r, _zero(r)) & ((r ^ b) < 0), r + b, r)


def _floor_divide_int(a: Expr, b: Expr) -> Expr:
    """The quotient rounded down; by zero it gives 0. A product finds whether it was exact."""
    q = apply("idiv", a, b)
    if not dtypes.is_signed(a.type):
        return q
    r = apply("sub", a, apply("mul", q, b))
    inexact = apply("ne", r, _zero(r)) & apply("ne", b, _zero(b))
    return select(inexact & ((r ^ b) < 0), q - 1, q)


def _bits(dtype: DType) -> int:
    return dtype.itemsize * 8


def _excessive(amount: Expr) -> Expr:
    """Whether a shift moves every bit out; negative amounts count, as in NumPy."""
    wide = amount >= _bits(amount.type)
    return wide | (amount < 0) if dtypes.is_signed(amount.type) else wide


def _left_shift(x: Expr, amount: Expr) -> Expr:
    safe = amount & (_bits(x.type) - 1)
    return select(_excessive(amount), _zero(x), apply("shl", x, safe))


def _right_shift(x: Expr, amount: Expr) -> Expr:
    """Arithmetic when signed: an excessive amount leaves only the sign."""
    last = _bits(x.type) - 1
    fill = apply("shr", x, literal(last, x.type)) if dtypes.is_signed(x.type) else _zero(x)
    return select(_excessive(amount), fill, apply("shr", x, amount & last))


def _power_int(x: Expr, n: Expr) -> Expr:
    """x**n by repeated squaring, wrapping, for n >= 0.

    Exponents of 64 and more are rare, so the squarings that only they need are skipped.
    """
    if isinstance(n, Lit):
        return elementary.integer_power(x, max(int(n.value), 0))
    one = literal(1, x.type)

    def steps(result: Expr, square: Expr, first: int, last: int) -> tuple[Expr, Expr]:
        for bit in range(first, last):
            present = apply("ne", n & (1 << bit), _zero(n))
            result = select(present, apply("mul", result, square), result)
            square = apply("mul", square, square)
        return result, square

    width = _bits(x.type) - dtypes.is_signed(x.type)
    result, square = steps(one, x, 0, min(6, width))
    if width <= 8:
        return steps(result, square, 6, width)[0]
    return apply("rare", n >= 64, steps(result, square, 6, width)[0], result)


# -- bits of floats ----------------------------------------------------------------------------


def _bits_of(x: Expr) -> Expr:
    """The bits of any float, or an integer itself, as a signed integer of the same width."""
    return bitcast(x, np.dtype(f"int{_bits(x.type)}"))


def _signbit(x: Expr) -> Expr:
    if dtypes.is_integer(x.type) and not dtypes.is_signed(x.type):
        return literal(False, dtypes.bool_)
    return _bits_of(x) < 0


def _nextafter(x: Expr, y: Expr) -> Expr:
    """The neighbour of `x` towards `y`. Bits of one sign are ordered like the numbers."""
    bits, dtype = _bits_of(x), x.type
    a, b = (widen(v) if _is_half(dtype) else v for v in (x, y))
    grows = apply("eq", a < b, a > 0)  # in magnitude
    stepped = bits + select(grows, literal(1, bits.type), -1)
    lowest = literal(-1 << (_bits(dtype) - 1), bits.type)
    from_zero = select(b > 0, literal(1, bits.type), lowest | 1)
    result = bitcast(select(apply("eq", a, literal(0, a.type)), from_zero, stepped), dtype)
    result = select(apply("eq", a, b), y, result)
    return select(apply("ne", b, b), y, select(apply("ne", a, a), x, result))


def _isinf(x: Expr) -> Expr:
    return apply("eq", apply("abs", x), literal(float("inf"), x.type))


def _isfinite(x: Expr) -> Expr:
    return apply("abs", x) < float("inf")


def _never(x: Expr) -> Expr:
    return literal(False, dtypes.bool_)


def _always(x: Expr) -> Expr:
    return literal(True, dtypes.bool_)


def _multiply_by(numerator: float) -> Expansion:
    return lambda x: x * numerator


# -- the table ---------------------------------------------------------------------------------

_OR, _AND, _XOR = _machine("or"), _machine("and"), _machine("xor")

EXPANSIONS: Final[dict[str, Expansion]] = {
    # arithmetic
    "add": _by_kind(floats=_machine("add"), ints=_machine("add"), bools=_OR),
    "subtract": _by_kind(floats=_machine("sub"), ints=_machine("sub"), bools=_XOR),
    "multiply": _by_kind(floats=_machine("mul"), ints=_machine("mul"), bools=_AND),
    "divide": _by_kind(floats=_machine("div")),
    "negative": _by_kind(floats=_machine("neg"), ints=_negate),
    "positive": _identity,
    "conjugate": _identity,
    "absolute": _by_kind(floats=_machine("abs"), ints=_absolute_int, bools=_identity),
    "fma": _by_kind(
        floats=_machine("fma"), ints=lambda a, b, c: apply("add", apply("mul", a, b), c)
    ),
    MULTIPLY_ADD.name: _by_kind(floats=lambda a, b, c: a * b + c),
    "square": _by_kind(floats=lambda x: x * x, ints=lambda x: apply("mul", x, x), bools=_identity),
    "reciprocal": _by_kind(
        floats=lambda x: 1.0 / x, ints=lambda x: apply("idiv", literal(1, x.type), x)
    ),
    "floor_divide": _by_kind(floats=elementary.floor_divide, ints=_floor_divide_int),
    "remainder": _by_kind(floats=elementary.remainder, ints=_remainder_int),
    "fmod": _by_kind(floats=elementary.fmod, ints=_machine("irem")),
    "power": _by_kind(floats=elementary.power, ints=_power_int),
    "sign": _by_kind(floats=_sign, ints=_sign),
    "clamp": _clamp,
    "clip": lambda x, low, high: _clamp(low, x, high),
    "heaviside": _by_kind(floats=_heaviside),
    "deg2rad": _by_kind(floats=_multiply_by(0.017453292519943295)),
    "rad2deg": _by_kind(floats=_multiply_by(57.29577951308232)),
    # comparison and choice
    "equal": _by_kind(floats=_machine("eq"), ints=_machine("eq"), bools=lambda a, b: _not(a ^ b)),
    "not_equal": _by_kind(floats=_machine("ne"), ints=_machine("ne"), bools=_XOR),
    "less": _by_kind(floats=_machine("lt"), ints=_machine("lt"), bools=lambda a, b: _and_not(b, a)),
    "less_equal": _by_kind(
        floats=_machine("le"), ints=_machine("le"), bools=lambda a, b: _not(_and_not(a, b))
    ),
    "greater": _by_kind(floats=_greater, ints=_greater, bools=_and_not),
    "greater_equal": _by_kind(
        floats=_greater_equal, ints=_greater_equal, bools=lambda a, b: _not(_and_not(b, a))
    ),
    "maximum": _by_kind(floats=_maximum, ints=_maximum, bools=_OR),
    "minimum": _by_kind(floats=_minimum, ints=_minimum, bools=_AND),
    "fmax": _by_kind(floats=_fmax, ints=_maximum, bools=_OR),
    "fmin": _by_kind(floats=_fmin, ints=_minimum, bools=_AND),
    "select": _machine("select"),
    # logic and bits
    "logical_and": _by_kind(bools=_AND),
    "logical_or": _by_kind(bools=_OR),
    "logical_xor": _by_kind(bools=_XOR),
    "logical_not": _by_kind(bools=_not),
    "bitwise_and": _by_kind(ints=_AND, bools=_AND),
    "bitwise_or": _by_kind(ints=_OR, bools=_OR),
    "bitwise_xor": _by_kind(ints=_XOR, bools=_XOR),
    "invert": _by_kind(ints=_not, bools=_not),
    "left_shift": _by_kind(ints=_left_shift),
    "right_shift": _by_kind(ints=_right_shift),
    # rounding and the bits of floats
    "floor": _by_kind(floats=_machine("floor"), ints=_identity, bools=_identity),
    "ceil": _by_kind(floats=_machine("ceil"), ints=_identity, bools=_identity),
    "trunc": _by_kind(floats=_machine("trunc"), ints=_identity, bools=_identity),
    "rint": _by_kind(floats=_machine("rint"), ints=_identity, bools=_identity),
    "isnan": _by_kind(floats=lambda x: apply("ne", x, x), ints=_never, bools=_never),
    "isinf": _by_kind(floats=_isinf, ints=_never, bools=_never),
    "isfinite": _by_kind(floats=_isfinite, ints=_always, bools=_always),
    "signbit": _by_kind(floats=_signbit, ints=_signbit),
    "copysign": _by_kind(floats=elementary.copysign),
    "nextafter": _by_kind(floats=_nextafter),
    "ldexp": _by_kind(floats=elementary.ldexp),
    # exponentials, logarithms, powers
    "exp": tables.exp,
    "exp2": elementary.exp2,
    "expm1": elementary.expm1,
    "log": elementary.log,
    "log2": elementary.log2,
    "log10": elementary.log10,
    "log1p": elementary.log1p,
    "sqrt": _machine("sqrt"),
    "rsqrt": lambda x: 1.0 / apply("sqrt", x),
    "cbrt": elementary.cbrt,
    "hypot": elementary.hypot,
    "logaddexp": elementary.logaddexp,
    "logaddexp2": elementary.logaddexp2,
    # trigonometric and hyperbolic
    "sin": trig.sin,
    "cos": trig.cos,
    "tan": trig.tan,
    "arcsin": trig.arcsin,
    "arccos": trig.arccos,
    "arctan": trig.arctan,
    "arctan2": trig.arctan2,
    "sinh": trig.sinh,
    "cosh": trig.cosh,
    "tanh": trig.tanh,
    "arcsinh": trig.arcsinh,
    "arccosh": trig.arccosh,
    "arctanh": trig.arctanh,
    # special
    "logistic": elementary.logistic,
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "lgamma": special.lgamma,
    "digamma": special.digamma,
}
"""NumPy's name of a function -> its expansion, over operands of one type (`ldexp` excepted)."""

EXPANSIONS.update(
    {
        alias: EXPANSIONS[name]
        for alias, name in {
            "abs": "absolute", "fabs": "absolute", "true_divide": "divide", "mod": "remainder",
            "pow": "power", "float_power": "power", "round": "rint", "fix": "trunc",
            "conj": "conjugate", "where": "select", "bitwise_not": "invert",
            "bitwise_invert": "invert", "bitwise_left_shift": "left_shift",
            "bitwise_right_shift": "right_shift", "radians": "deg2rad", "degrees": "rad2deg",
            "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2",
            "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "sigmoid": "logistic",
            "gammaln": "lgamma",
        }.items()
    }
)  # fmt: skip


def _population_count(x: Expr) -> Expr:
    """Bits set in the magnitude, as uint8: NumPy counts |x| for signed types."""
    return apply("popcount", _absolute_int(x), dtype=dtypes.uint8)


for _name in ("population_count", "bitwise_count", "popcount"):
    EXPANSIONS[_name] = _by_kind(ints=_population_count)


# -- the pass ----------------------------------------------------------------------------------


def expand(expr_roots: Sequence[Expr], native: frozenset[str] = frozenset()) -> list[Expr]:
    """Rewrite every elementwise function into machine operations; unchanged is the same object.

    Afterwards no arithmetic is left on 16-bit floats, and only moves (`Load`, `select`, bits) on
    bfloat16, whose literals have become the bits of a uint16. Of the `OPTIONAL` operations and the
    instructions on words only the `native` ones are left, and `HALF_CASTS` if it is one. Where
    `ESTIMATES` are native, functions that gain from them are made of them.
    """
    expanded = _rewritten(composed(expr_roots), partial(_expanded, native))
    if native >= OPTIONAL | INSTRUCTIONS | {HALF_CASTS}:
        return expanded
    return _rewritten(expanded, partial(_portable, native))


def _rewritten(expr_roots: Sequence[Expr], rule: Callable[[Expr], Expr]) -> list[Expr]:
    """Apply a rule to every sub-expression, children first."""
    done: dict[Expr, Expr] = {}
    for e in walk(*expr_roots):
        rebuilt, children = e, e.children
        for c in children:
            if done[c] is not c:
                rebuilt = e.with_children(tuple([done[x] for x in children]))
                break
        done[e] = rule(rebuilt)
    return [done[r] for r in expr_roots]


def _expanded(native: frozenset[str], e: Expr) -> Expr:
    if isinstance(e, Apply):
        return _expand_apply(e, native)
    return narrow_literal(e) if isinstance(e, Lit) and e.dtype == dtypes.bfloat16 else e


_ESTIMATED: Final[dict[str, Callable[..., Expr | None]]] = {
    "power": estimates.power,
    "pow": estimates.power,
    "float_power": estimates.power,
    "rsqrt": estimates.rsqrt,
}

_PORTABLE: Final[dict[str, Expansion]] = {
    "scale": elementary.portable_scale,
    "significand": elementary.portable_significand,
    "exponent": elementary.portable_exponent,
    "scale_floor": tables.portable_scale_floor,
    "sixteenth_power": tables.portable_sixteenth_power,
}


def _portable(native: frozenset[str], e: Expr) -> Expr:
    """An optional operation that the machine lacks, said in the others."""
    if not isinstance(e, Apply):
        return e
    if e.op.name in OPTIONAL and e.op.name not in native:
        return _PORTABLE[e.op.name](*e.args)
    if isinstance(e.op, Instruction) and e.op.name not in native:
        return e.op.means(*e.args)
    if e.op.name == "cast" and dtypes.float16 in (e.args[0].type, e.dtype):
        return e if HALF_CASTS in native else _half_cast(e.args[0], e.dtype)
    return e


def narrow_literal(x: Lit) -> Expr:
    """A bfloat16 literal as the bits of a uint16."""
    bits = np.asarray(x.value).astype(dtypes.bfloat16).view(np.uint16)
    return bitcast(literal(int(bits), dtypes.uint16), dtypes.bfloat16)


def _expand_apply(e: Apply, native: frozenset[str]) -> Expr:
    op, args = e.op, e.args
    if isinstance(op, Instruction):
        return e
    if op.name in ("select", "rare", "bitcast"):
        return e if op.machine else apply(op.name, *args, dtype=e.dtype)
    if op.name == "cast":
        pair = (args[0].type, e.dtype)
        special = dtypes.bfloat16 in pair or pair == (dtypes.float64, dtypes.float16)
        return _cast(args[0], e.dtype) if special else e
    if op.name == "nextafter":  # a neighbour in the type itself, not in float32
        return _nextafter(*args)
    if any(_is_half(a.type) for a in args):
        wide = tuple(widen(a) if _is_half(a.type) else a for a in args)
        result = apply(op.name, *wide) if op.machine else _elementwise(op.name, wide, native)
        return narrow(result, e.dtype) if _is_half(e.dtype) else result
    if op.machine:
        return e
    # Operators on positions would mean index arithmetic; a cast makes them plain elements.
    elements = [apply("cast", a, dtype=a.type) if is_index(a) else a for a in args]
    result = _elementwise(op.name, elements, native)
    return result if result.type == e.dtype else cast(result, e.dtype)


def _elementwise(name: str, args: Sequence[Expr], native: frozenset[str]) -> Expr:
    """A function by its name, by what only some machines have where it serves."""
    if name == MULTIPLY_ADD.name and FUSED in native:
        return apply("fma", *args)
    if native >= ESTIMATES and name in _ESTIMATED:
        result = _ESTIMATED[name](*args)
        if result is not None:
            return result
    return _expansion(name)(*args)


def _expansion(name: str) -> Expansion:
    if name in EXPANSIONS:
        return EXPANSIONS[name]
    if name in MACHINE:
        return _machine(name)
    raise InternalError(f"no expansion for the elementwise function {name!r}; add it to EXPANSIONS")
