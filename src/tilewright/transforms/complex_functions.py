"""What every elementwise function does to a complex number given by its two real parts.

Knows the formulas, and which special values they need so that infinities, NaNs and the two sides
of a branch cut come out as in NumPy and C99's Annex G. Refuses to know where the parts come from
(`complex_parts`) and how the real functions are computed (`codegen/libm.py`).

Inverse functions follow W. Kahan, "Branch Cuts for Complex Elementary Functions, or Much Ado About
Nothing's Sign Bit" (1987): each is put together from square roots of 1 - z and 1 + z, whose signed
zeros choose the side of the cut. Quotients are R. L. Smith's (CACM algorithm 116). Products are
the plain ones, as NumPy's are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import Expr, Lit, apply, cast, eq, literal, ne, select
from tilewright.ops import elementwise as el
from tilewright.ops.elementwise import Elementwise

Pair: TypeAlias = tuple[Expr, Expr]
"""The real and the imaginary part of one complex number."""

Rule: TypeAlias = Callable[..., Any]
"""From the operands' pairs (expressions for real operands) to a pair, or to a real expression."""


@dataclass(frozen=True)
class Range:
    """Where a float type's functions need scaling: `exp` is below the logarithm of its largest
    number; magnitudes above `large` are scaled down by 2^-4, those below `small` up by 2^`lift`."""

    exp: float
    large: float
    small: float
    lift: int


RANGES: Final[dict[DType, Range]] = {
    dtypes.float32: Range(88.0, 2.0**124, 2.0**-100, 48),
    dtypes.float64: Range(709.0, 2.0**1020, 2.0**-960, 108),
}

_DOWN: Final = 4


def _call(op: Elementwise, *args: Expr) -> Expr:
    """A real elementwise function."""
    return apply(op.row.scalar, *args, dtype=op.row.result(args[-1].type))


def _absolute(x: Expr) -> Expr:
    return apply("abs", x)


def _copysign(x: Expr | float, y: Expr) -> Expr:
    return _call(el.copysign, x if isinstance(x, Expr) else literal(x, y.type), y)


def _is_nan(x: Expr) -> Expr:
    return ne(x, x)


def _is_infinite(x: Expr) -> Expr:
    return eq(_absolute(x), math.inf)


def _is_finite(x: Expr) -> Expr:
    return _absolute(x) < math.inf


def _not(x: Expr) -> Expr:
    return apply("not", x)


def choose(condition: Expr, then: Pair, otherwise: Pair) -> Pair:
    """One of two complex numbers."""
    return select(condition, then[0], otherwise[0]), select(condition, then[1], otherwise[1])


def _number(re: float, im: float, like: Pair) -> Pair:
    return literal(re, like[0].type), literal(im, like[0].type)


# -- arithmetic --------------------------------------------------------------------------------


def add(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def subtract(a: Pair, b: Pair) -> Pair:
    return a[0] - b[0], a[1] - b[1]


def negative(z: Pair) -> Pair:
    return -z[0], -z[1]


def conjugate(z: Pair) -> Pair:
    return z[0], -z[1]


def multiply(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def divide(a: Pair, b: Pair) -> Pair:
    """a / b by Smith's algorithm; by zero it is a / |0| in each part."""
    x, y = b
    wide = _absolute(x) >= _absolute(y)
    zero = eq(x, 0.0) & eq(y, 0.0)
    larger, smaller = select(wide, x, y), select(wide, y, x)
    ratio = smaller / larger
    scale = 1.0 / (larger + smaller * ratio)
    re = select(wide, a[0] + a[1] * ratio, a[0] * ratio + a[1]) * scale
    im = select(wide, a[1] - a[0] * ratio, a[1] * ratio - a[0]) * scale
    nothing = _absolute(x)
    return choose(zero, (a[0] / nothing, a[1] / nothing), (re, im))


def reciprocal(z: Pair) -> Pair:
    x, y = z
    wide = _absolute(y) <= _absolute(x)
    larger, smaller = select(wide, x, y), select(wide, y, x)
    ratio = smaller / larger
    scale = larger + smaller * ratio
    one = literal(1.0, x.type)
    return select(wide, one, ratio) / scale, select(wide, -ratio, -one) / scale


def square(z: Pair) -> Pair:
    x, y = z
    return x * x - y * y, x * y + y * x


def absolute(z: Pair) -> Expr:
    return _call(el.hypot, *z)


def sign(z: Pair) -> Pair:
    """z / |z|; 0 at 0, and a unit along an axis where one part is infinite."""
    x, y = z
    r = absolute(z)
    unit = choose(eq(r, 0.0), _number(0, 0, z), (x / r, y / r))
    zero = literal(0.0, x.type)
    along = choose(_is_infinite(x), (_copysign(1.0, x), zero), (zero, _copysign(1.0, y)))
    both = _is_infinite(x) & _is_infinite(y)
    far = choose(both, _number(math.nan, math.nan, z), along)
    return choose(eq(r, math.inf), far, unit)


def rint(z: Pair) -> Pair:
    return apply("rint", z[0]), apply("rint", z[1])


# -- comparison --------------------------------------------------------------------------------


def equal(a: Pair, b: Pair) -> Expr:
    return eq(a[0], b[0]) & eq(a[1], b[1])


def not_equal(a: Pair, b: Pair) -> Expr:
    return ne(a[0], b[0]) | ne(a[1], b[1])


def _ordered(last: Callable[[Expr, Expr], Expr]) -> Rule:
    """Lexicographic order; a NaN in either imaginary part makes real parts incomparable."""

    def rule(a: Pair, b: Pair) -> Expr:
        known = eq(a[1], a[1]) & eq(b[1], b[1])
        return ((a[0] < b[0]) & known) | (eq(a[0], b[0]) & last(a[1], b[1]))

    return rule


less = _ordered(lambda x, y: x < y)
less_equal = _ordered(lambda x, y: x <= y)


def greater(a: Pair, b: Pair) -> Expr:
    return less(b, a)  # type: ignore[no-any-return]


def greater_equal(a: Pair, b: Pair) -> Expr:
    return less_equal(b, a)  # type: ignore[no-any-return]


def is_nan(z: Pair) -> Expr:
    return _is_nan(z[0]) | _is_nan(z[1])


def is_infinite(z: Pair) -> Expr:
    return _is_infinite(z[0]) | _is_infinite(z[1])


def is_finite(z: Pair) -> Expr:
    return _is_finite(z[0]) & _is_finite(z[1])


def _extreme(wins: Rule, keeps_nan: bool) -> Rule:
    """The operand that wins; NaN always wins (maximum) or always loses (fmax)."""

    def rule(a: Pair, b: Pair) -> Pair:
        return choose(is_nan(a if keeps_nan else b) | wins(a, b), a, b)

    return rule


# -- exponentials and logarithms ---------------------------------------------------------------


def _exp_scaled(x: Expr) -> tuple[Expr, Callable[[Expr], Expr]]:
    """(e, grow) with exp(x) v = grow(e v), which overflows only where the product does."""
    top = RANGES[x.type].exp
    one, step = literal(1.0, x.type), literal(math.exp(top), x.type)
    big = x > top
    x = select(big, x - top, x)
    huge = x > top
    e = _call(el.exp, select(huge, x - top, x))
    first, second = select(big, step, one), select(huge, step, one)
    return e, lambda v: v * first * second


def exp(z: Pair) -> Pair:
    x, y = z
    e, grow = _exp_scaled(x)
    re, im = grow(e * _call(el.cos, y)), grow(e * _call(el.sin, y))
    im = select(eq(y, 0.0), y, im)
    turning = _is_infinite(x) & _not(_is_finite(y))
    limit = select(x < 0, literal(0.0, x.type), literal(math.inf, x.type))
    return choose(turning, (limit, select(x < 0, limit, math.nan)), (re, im))


def _times(z: Pair, factor: float) -> Pair:
    return z[0] * factor, z[1] * factor


def exp2(z: Pair) -> Pair:
    return exp(_times(z, math.log(2)))


def expm1(z: Pair) -> Pair:
    """expm1(x) cos(y) - 2 sin(y/2)^2, and exp(x) sin(y)."""
    x, y = z
    half = _call(el.sin, y * 0.5)
    re = _call(el.expm1, x) * _call(el.cos, y) - half * half * 2.0
    return re, _call(el.exp, x) * _call(el.sin, y)


def _larger(x: Expr, y: Expr) -> tuple[Expr, Expr]:
    """|x| and |y|, the larger first."""
    a, b = _absolute(x), _absolute(y)
    return select(a < b, b, a), select(a < b, a, b)


def _scaling(x: Expr, y: Expr) -> tuple[Expr, Expr, Callable[[float, float, float], Expr]]:
    """x and y times a power of two that keeps their squares apart from the ends of the range, and
    a choice: (value if scaled down by 2^-4, if scaled up by 2^lift, if neither) -> what holds."""
    limits = RANGES[x.type]
    largest, _ = _larger(x, y)
    big, tiny = largest > limits.large, largest < limits.small

    def which(down: float, up: float, neither: float) -> Expr:
        return select(big, down, select(tiny, up, literal(neither, x.type)))

    scale = which(2.0**-_DOWN, 2.0**limits.lift, 1.0)
    return x * scale, y * scale, which


def _log_magnitude(x: Expr, y: Expr, excess: Expr) -> Expr:
    """log|x + iy|, given excess = x^2 + y^2 - 1 computed with care for where it is small."""
    u, v, which = _scaling(x, y)
    r = _call(el.hypot, u, v)
    shift = which(_DOWN * math.log(2), -RANGES[x.type].lift * math.log(2), 0.0)
    near = (r > 0.5) & (r < 2.0)
    return select(near, _call(el.log1p, excess) * 0.5, _call(el.log, r) + shift)


def log(z: Pair) -> Pair:
    x, y = z
    a, b = _larger(x, y)
    return _log_magnitude(x, y, (a - 1.0) * (a + 1.0) + b * b), _call(el.arctan2, y, x)


def log1p(z: Pair) -> Pair:
    x, y = z
    return _log_magnitude(x + 1.0, y, x * (x + 2.0) + y * y), _call(el.arctan2, y, x + 1.0)


def log2(z: Pair) -> Pair:
    return _times(log(z), 1 / math.log(2))


def log10(z: Pair) -> Pair:
    return _times(log(z), 1 / math.log(10))


def logistic(z: Pair) -> Pair:
    """1 / (1 + exp(-z)), or exp(z) / (1 + exp(z)) where that would overflow."""
    one = _number(1, 0, z)
    left = z[0] < 0
    e = exp(choose(left, z, negative(z)))
    return divide(choose(left, e, one), add(one, e))


# -- powers ------------------------------------------------------------------------------------


def sqrt(z: Pair) -> Pair:
    """t = sqrt((|x| + |z|) / 2) is one part, y / 2t the other."""
    x, y = z
    u, v, which = _scaling(x, y)
    half = RANGES[x.type].lift // 2
    back = which(2.0 ** (_DOWN // 2), 2.0**-half, 1.0)
    t = apply("sqrt", _absolute(u) * 0.5 + _call(el.hypot, u, v) * 0.5)
    other = v / (t + t)
    re, im = select(x < 0, _absolute(other), t) * back, select(x < 0, _copysign(t, y), other) * back
    zero = literal(0.0, x.type)
    re, im = choose(eq(t, 0.0), (zero, y), (re, im))
    return choose(_is_infinite(y), (_absolute(y), y), (re, im))


def rsqrt(z: Pair) -> Pair:
    return divide(_number(1, 0, z), sqrt(z))


_POWERS: Final = 100
"""Real integer exponents below this in magnitude are powers by multiplication, as in NumPy."""


def power(a: Pair, b: Pair) -> Pair:
    """a**b: repeated multiplication for small integers, else exp(b log a) as C has it.

    0**b is 0 where b has a positive real part, else NaN. An infinity in a or b takes the way of
    the plain product, which may be NaN where Annex G recovers an infinity.
    """
    if all(isinstance(part, Lit) for part in b):
        return _literal_power(a, b)
    n = _absolute(b[0])
    whole = eq(b[1], 0.0) & (n < float(_POWERS)) & eq(apply("rint", n), n)
    count = cast(select(whole, n, literal(1.0, n.type)), dtypes.int32)
    result, square_ = _number(1, 0, a), a
    for bit in range((_POWERS - 1).bit_length()):
        present, first = ne(count & (1 << bit), 0), eq(count & ((1 << bit) - 1), 0)
        step = choose(first, square_, multiply(result, square_))
        result = choose(present, step, result)
        square_ = multiply(square_, square_)
    result = choose(b[0] < 0, divide(_number(1, 0, a), result), result)
    result = choose(whole, result, exp(multiply(b, log(a))))
    return choose(eq(b[0], 0.0) & eq(b[1], 0.0), _number(1, 0, a), _power_of_zero(a, b, result))


def _power_of_zero(a: Pair, b: Pair, otherwise: Pair) -> Pair:
    zero = eq(a[0], 0.0) & eq(a[1], 0.0)
    at_zero = select(b[0] > 0, literal(0.0, a[0].type), math.nan)
    return choose(zero, (at_zero, at_zero), otherwise)


def _literal_power(a: Pair, b: Pair) -> Pair:
    """a**b for an exponent known in advance."""
    re, im = (float(part.value) for part in b if isinstance(part, Lit))
    if im != 0 or not abs(re) < _POWERS or re != int(re):
        return _power_of_zero(a, b, exp(multiply(b, log(a))))
    n, result, square_ = abs(int(re)), None, a
    if n == 0:
        return _number(1, 0, a)
    while True:
        if n & 1:
            result = square_ if result is None else multiply(result, square_)
        n >>= 1
        if not n:
            break
        square_ = multiply(square_, square_)
    assert result is not None, "the highest bit of n is set"
    if re > 0:
        return _power_of_zero(a, b, result)
    return _power_of_zero(a, b, divide(_number(1, 0, a), result))


# -- circular and hyperbolic -------------------------------------------------------------------


def _times_i(z: Pair) -> Pair:
    return -z[1], z[0]


def _over_i(z: Pair) -> Pair:
    return z[1], -z[0]


def _turned(rule: Rule) -> Rule:
    """f(z) = g(iz) / i, which takes the hyperbolic functions to the circular ones."""
    return lambda z: _over_i(rule(_times_i(z)))


def _sinh_cosh(x: Expr) -> tuple[Expr, Expr, Callable[[Expr], Expr]]:
    """sinh x, cosh x and `grow` as in `_exp_scaled`; beyond the range of exp both are e^|x| / 2."""
    top = RANGES[x.type].exp
    a = _absolute(x)
    big = (a > top) & (a < math.inf)
    e, grow = _exp_scaled(select(big, a, literal(0.0, x.type)))
    s = select(big, _copysign(e * 0.5, x), _call(el.sinh, x))
    return s, select(big, e * 0.5, _call(el.cosh, x)), grow


def sinh(z: Pair) -> Pair:
    """sinh x cos y + i cosh x sin y."""
    x, y = z
    s, c, grow = _sinh_cosh(x)
    re, im = grow(s * _call(el.cos, y)), grow(c * _call(el.sin, y))
    re = select((eq(x, 0.0) | _is_infinite(x)) & _not(_is_finite(y)), x, re)
    return re, select(eq(y, 0.0), y, im)


def cosh(z: Pair) -> Pair:
    """cosh x cos y + i sinh x sin y."""
    x, y = z
    s, c, grow = _sinh_cosh(x)
    re, im = grow(c * _call(el.cos, y)), grow(s * _call(el.sin, y))
    re = select(_is_infinite(x) & _not(_is_finite(y)), _absolute(x), re)
    flat = eq(x, 0.0) & _not(_is_finite(y)) | eq(y, 0.0) & _not(_is_finite(x))
    return re, select(flat, _copysign(0.0, x) * _copysign(1.0, y), im)


def tanh(z: Pair) -> Pair:
    """(sinh x cosh x + i sin y cos y) / (sinh^2 x + cos^2 y); far out 1 + 4i sin y cos y / e^2x."""
    x, y = z
    a = _absolute(x)
    far = a > RANGES[x.type].exp / 4
    inside = select(far, literal(0.0, x.type), x)
    s, c = _call(el.sinh, inside), _call(el.cosh, inside)
    u, v = _call(el.sin, y), _call(el.cos, y)
    scale = s * s + v * v
    decay = _call(el.exp, -a)
    ahead = (_copysign(1.0, x), u * v * 4.0 * decay * decay)
    re, im = choose(far, ahead, (s * c / scale, u * v / scale))
    settled = eq(a, math.inf) & _not(_is_finite(y))
    im = select(settled, _copysign(0.0, y), select(eq(y, 0.0), y, im))
    return select(eq(x, 0.0) & _not(_is_finite(y)), x, re), im


def cos(z: Pair) -> Pair:
    return cosh(_times_i(z))


# -- inverse circular and hyperbolic -----------------------------------------------------------


def _roots(z: Pair) -> tuple[Pair, Pair]:
    """sqrt(1 - z) and sqrt(1 + z); signed zeros keep to their side of the cuts."""
    x, y = z
    return sqrt((1.0 - x, -y)), sqrt((x + 1.0, y))


def arcsin(z: Pair) -> Pair:
    x, y = z
    (a, b), (c, d) = _roots(z)
    re = _call(el.arctan2, x, a * c - b * d)
    im = _copysign(_call(el.arcsinh, a * d - b * c), y)
    far = is_infinite(z)
    re = select(far, _call(el.arctan2, x, _absolute(y)), re)
    re = select(eq(x, 0.0) & _is_nan(y), x, re)
    return re, select(far, _copysign(math.inf, y), im)


def arccos(z: Pair) -> Pair:
    x, y = z
    (a, b), (c, d) = _roots(z)
    re = _call(el.arctan2, a, c) * 2.0
    im = _copysign(_call(el.arcsinh, c * b - d * a), -y)
    far = is_infinite(z)
    re = select(far, _call(el.arctan2, _absolute(y), x), re)
    re = select(eq(x, 0.0) & _is_nan(y), math.pi / 2, re)
    return re, select(far, _copysign(math.inf, -y), im)


def arccosh(z: Pair) -> Pair:
    re, im = arccos(z)
    return _absolute(im), _copysign(re, z[1])


def arctanh(z: Pair) -> Pair:
    """log1p(4 x / ((1 - x)^2 + y^2)) / 4, and half the angle of (1 - x^2 - y^2, 2 y)."""
    x, y = z
    a, b = _absolute(x), _absolute(y)
    below, above = 1.0 - a, a + 1.0
    re = _call(el.log1p, a * 4.0 / (below * below + y * y)) * 0.25
    # Next to the pole y^2 vanishes before y does.
    tiny = 2.0**-12 if x.type == dtypes.float32 else 2.0**-27
    pole = (math.log(2) - _call(el.log, b)) * 0.5
    re = select(eq(a, 1.0) & (b < tiny), pole, re)
    im = _call(el.arctan2, y + y, below * above - y * y) * 0.5
    bound = RANGES[x.type].large ** 0.5
    far = (a > bound) | (b > bound)
    infinite = is_infinite(z)
    limit = select(infinite, literal(0.0, x.type), _absolute(reciprocal(z)[0]))
    re = select(far, limit, re)
    im = select(far & _not(_is_nan(y)), _copysign(math.pi / 2, y), im)
    return _copysign(select(eq(x, 0.0), a, re), x), im


def _parts(z: Pair) -> Pair:
    return z


# -- the table ---------------------------------------------------------------------------------

RULES: Final[dict[str, Rule]] = {
    "add": add, "subtract": subtract, "multiply": multiply, "divide": divide,
    "negative": negative, "positive": _parts, "conjugate": conjugate, "reciprocal": reciprocal,
    "square": square, "absolute": absolute, "sign": sign, "rint": rint,
    "real": lambda z: z[0], "imag": lambda z: z[1], "complex": lambda re, im: (re, im),
    "select": choose, "rare": choose,
    "equal": equal, "not_equal": not_equal, "less": less, "less_equal": less_equal,
    "greater": greater, "greater_equal": greater_equal,
    "isnan": is_nan, "isinf": is_infinite, "isfinite": is_finite,
    "maximum": _extreme(greater_equal, True), "minimum": _extreme(less_equal, True),
    "fmax": _extreme(greater_equal, False), "fmin": _extreme(less_equal, False),
    "exp": exp, "exp2": exp2, "expm1": expm1,
    "log": log, "log2": log2, "log10": log10, "log1p": log1p, "logistic": logistic,
    "sqrt": sqrt, "rsqrt": rsqrt, "power": power,
    "sin": _turned(sinh), "cos": cos, "tan": _turned(tanh),
    "sinh": sinh, "cosh": cosh, "tanh": tanh,
    "arcsin": arcsin, "arccos": arccos, "arctan": _turned(arctanh),
    "arcsinh": _turned(arcsin), "arccosh": arccosh, "arctanh": arctanh,
    "fma": lambda a, b, c: add(multiply(a, b), c),
}  # fmt: skip
"""Name of an elementwise function -> its meaning on parts."""

RULES.update(
    {
        machine: RULES[name]
        for machine, name in {
            "sub": "subtract", "mul": "multiply", "div": "divide", "neg": "negative",
            "abs": "absolute", "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal",
        }.items()
    }
)  # fmt: skip
