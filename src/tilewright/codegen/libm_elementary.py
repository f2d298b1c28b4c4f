"""Exponentials, logarithms, powers and exact remainders as machine operations.

Knows argument reduction, polynomials and rounding for float32 and float64 alike: each function is
one expression, and only the constants (`Format`) and coefficient tables differ by type. Refuses to
know 16-bit floats, integers and vectors.

Method. Branch-free: every case is computed and one is selected. Powers of two are put on and taken
off by `scale`, `significand` and `exponent`, whose values at zeros, infinities and NaN make most of
the functions' own. Coefficients of polynomials are minimax for the relative error of the whole
function (Remez's exchange, or Lawson's iteratively reweighted least squares, at 45 digits or more;
they are rounded to the type, where it pays one by one with the higher ones fitted again), and each
table states interval and error.
Arguments are reduced as by Cody and Waite ("Software Manual for the Elementary Functions", 1980),
with fma. A value a + b with |b| <= ulp(a)/2 is a `Pair`; the error-free sums and products that make
pairs are Dekker's (Muller et al., "Handbook of Floating-Point Arithmetic", chapter 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeAlias

from tilewright import dtypes
from tilewright.dtypes import DType, float32, float64
from tilewright.expr import (
    Expr,
    Lit,
    apply,
    bitcast,
    cast,
    eq,
    fma,
    libm,
    literal,
    ne,
    rare,
    select,
)

Pair: TypeAlias = tuple[Expr, Expr]
Coefficients: TypeAlias = Mapping[DType, Sequence[float]]


@dataclass(frozen=True)
class Format:
    """A binary floating-point type: its layout, and constants as (high, low) parts.

    The high parts of `ln2` and `log10_2` end in zeros: times an exponent they are exact. The low
    parts have the same sign, so that infinite exponents give infinite sums.
    """

    signed: DType
    unsigned: DType
    mantissa: int
    bias: int
    ln2: tuple[float, float]
    log10_2: tuple[float, float]
    log2e: tuple[float, float]
    log10e: tuple[float, float]
    underflow: float  # exp is 0 below
    overflow: float  # exp is infinite above

    @property
    def one(self) -> int:
        """The bits of 1.0."""
        return self.bias << self.mantissa

    @property
    def three_quarters(self) -> int:
        """The bits of 3/4."""
        return self.one - (1 << (self.mantissa - 1))

    @property
    def magic(self) -> float:
        """1.5 * 2^mantissa: adding it rounds to an integer, left in the sum's low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def smallest(self) -> float:
        """The smallest normal number."""
        return 2.0 ** (1 - self.bias)


_hex = float.fromhex
LN2: Final = Fraction(0xB17217F7D1CF79ABC9E3B39803F2F6AF, 1 << 128)

FORMATS: Final[dict[DType, Format]] = {
    float32: Format(
        signed=dtypes.int32,
        unsigned=dtypes.uint32,
        mantissa=23,
        bias=127,
        ln2=(_hex("0x1.62e4p-1"), _hex("0x1.7f7d1cp-20")),
        log10_2=(_hex("0x1.344p-2"), _hex("0x1.3509f8p-18")),
        log2e=(_hex("0x1.715476p+0"), _hex("0x1.4ae0cp-26")),
        log10e=(_hex("0x1.bcb7b2p-2"), _hex("-0x1.5b235ep-27")),
        underflow=-104.0,
        overflow=89.0,
    ),
    float64: Format(
        signed=dtypes.int64,
        unsigned=dtypes.uint64,
        mantissa=52,
        bias=1023,
        ln2=(_hex("0x1.62e42fefa38p-1"), _hex("0x1.ef35793c7673p-45")),
        log10_2=(_hex("0x1.34413509f78p-2"), _hex("0x1.fef311f12b358p-46")),
        log2e=(_hex("0x1.71547652b82fep+0"), _hex("0x1.777d0ffda0d24p-56")),
        log10e=(_hex("0x1.bcb7b1526e50ep-2"), _hex("0x1.95355baaafad3p-57")),
        underflow=-746.0,
        overflow=710.0,
    ),
}


# -- bits, polynomials, pairs ------------------------------------------------------------------


def to_bits(x: Expr) -> Expr:
    """The bits of a float as a signed integer of the same width."""
    return bitcast(x, FORMATS[x.type].signed)


def from_bits(bits: Expr) -> Expr:
    """The float with these bits."""
    return bitcast(bits, float32 if bits.type.itemsize == 4 else float64)


def _code(x: Expr) -> Expr:
    """The bits as an unsigned integer, for shifts that a machine without arithmetic ones has."""
    return bitcast(x, FORMATS[x.type].unsigned)


def absolute(x: Expr) -> Expr:
    return apply("abs", x)


def copysign(x: Expr, y: Expr) -> Expr:
    """The magnitude of `x` with the sign of `y`."""
    return from_bits(to_bits(absolute(x)) | sign_bit(y))


def sign_bit(x: Expr) -> Expr:
    """The bits of `x` with all but the sign cleared."""
    bits = to_bits(x)
    return bits & literal(-1 << (x.type.itemsize * 8 - 1), bits.type)


def flip_sign(x: Expr, y: Expr) -> Expr:
    """`x` times the sign of `y`."""
    return from_bits(to_bits(x) ^ sign_bit(y))


LONG: Final = 10
"""Coefficients from which the latency of one chain costs more than a second chain."""


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """sum(c_i x^i), lowest power first. A long one is two chains, of even and of odd powers, with
    c_0 added last."""
    c = [literal(v, x.type) for v in coefficients]
    if len(c) < LONG:
        return horner(x, c)
    square = x * x
    return fma(x, fma(x, horner(square, c[2::2]), horner(square, c[1::2])), c[0])


def horner(x: Expr, coefficients: Sequence[Expr]) -> Expr:
    """The same by Horner's rule, for coefficients of any kind."""
    result = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        result = fma(result, x, c)
    return result


def fast_sum(a: Expr, b: Expr) -> Pair:
    """a + b exactly, if a is 0 or has at least b's exponent (Dekker's Fast2Sum)."""
    s = a + b
    return s, b - (s - a)


def product(a: Expr, b: Expr) -> Pair:
    """a * b exactly."""
    p = a * b
    return p, fma(a, b, -p)


def nearest(x: Expr, factor: float) -> tuple[Expr, Expr]:
    """x * factor rounded to an integer: as a float, and as the low bits of an unsigned integer."""
    magic = FORMATS[x.type].magic
    shifted = x + magic if factor == 1.0 else fma(x, factor, magic)
    return shifted - magic, _code(shifted)


def nearest_power(x: Expr, factor: float, add: int = 0) -> Pair:
    """(n, 2^(n + add)), n = x * factor rounded to an integer; the power must be a normal number.

    The exponent's bias is part of what is added to round, so one shift makes the power.
    """
    f = FORMATS[x.type]
    magic = f.magic + f.bias + add
    shifted = x + magic if factor == 1.0 else fma(x, factor, magic)
    return shifted - magic, from_bits(_code(shifted) << f.mantissa)


def power_of_two(code: Expr, dtype: DType, add: int = 0) -> Expr:
    """2^(n + add) for the low bits n of `code`, where that is a normal number."""
    f = FORMATS[dtype]
    return from_bits((code << f.mantissa) + (f.one + (add << f.mantissa)))


def clamped(x: Expr, low: float, high: float) -> Expr:
    """`x` limited to [low, high]; a NaN stays, as in a machine's minimum with the bound first."""
    below = literal(high, x.type)
    x = select(below < x, below, x)
    above = literal(low, x.type)
    return select(above > x, above, x)


# -- exponentials ------------------------------------------------------------------------------

# (e^r - 1 - r) / r^2 on |r| <= ln(2)/2; error relative to e^r: 2^-28.2, 2^-58.0.
_EXP: Final[Coefficients] = {
    float32: (0.5, 0.16666518, 0.041666456, 0.008368953, 0.0013935799),
    float64: (
        0.5000000000000013, 0.16666666666666685, 0.04166666666651154, 0.00833333333331547,
        0.0013888888947877044, 0.00019841269900332378, 2.4801489160894223e-05,
        2.7557231010761868e-06, 2.7631530240519947e-07, 2.5113326396018643e-08,
    ),
}  # fmt: skip
# The same relative to e^r - 1: 2^-31.1, 2^-61.7.
_EXPM1: Final[Coefficients] = {
    float32: (0.5, 0.16666667, 0.041666485, 0.008333193, 0.0013933005, 0.00019957633),
    float64: (
        0.5, 0.16666666666666677, 0.04166666666666668, 0.00833333333332145,
        0.0013888888888877106, 0.00019841269886528606, 2.4801587341780506e-05,
        2.7557243844258247e-06, 2.755725792009363e-07, 2.5109153357488547e-08,
        2.0919961004980978e-09,
    ),
}  # fmt: skip
# (2^r - 1) / r on |r| <= 1/2; error relative to 2^r: 2^-27.5, 2^-57.9.
_EXP2: Final[Coefficients] = {
    float32: (0.69314724, 0.24022654, 0.055502776, 0.009617979, 0.0013414611, 0.00015412424),
    float64: (
        0.6931471805599453, 0.24022650695910122, 0.05550410866482276, 0.009618129107596858,
        0.0013333558146212605, 0.0001540353045434001, 1.5252733990411499e-05,
        1.321543643953964e-06, 1.0178004362207675e-07, 7.073611934657682e-09,
        4.462830754153675e-10,
    ),
}  # fmt: skip


def scaled(x: Expr, n: Expr) -> Expr:
    """x * 2^n for a whole n, rounded once."""
    return apply("scale", x, n)


def portable_scale(x: Expr, n: Expr) -> Expr:
    """`scale` in two steps, of which only the last one can round."""
    code = _code(n + FORMATS[x.type].magic)
    half = code >> 1
    return x * power_of_two(half, x.type) * power_of_two(code - half, x.type)


def _reduced(x: Expr) -> Pair:
    """(r, n) with x = n ln 2 + r, |r| <= ln(2)/2."""
    f = FORMATS[x.type]
    n, _ = nearest(x, f.log2e[0])
    return fma(n, -f.ln2[1], fma(n, -f.ln2[0], x)), n


def exp_reduced(x: Expr, tail: Expr) -> Pair:
    """(e, n) with exp(x + tail) = (1 + e) 2^n, e in [-0.3, 0.42].

    `x` is within the range of exp; |tail| is small against 1.
    """
    r, n = _reduced(x)
    r = r + tail
    return fma(r * r, polynomial(r, _EXP[x.type]), r), n


def exp_parts(x: Expr) -> Pair:
    """(p, n) with exp(x) = p 2^n; `x` is within the range of exp."""
    r, n = _reduced(x)
    return polynomial(r, (1.0, 1.0, *_EXP[x.type])), n


def exp2_of_fraction(r: Expr) -> Expr:
    """2^r for |r| <= 1/2."""
    return polynomial(r, (1.0, *_EXP2[r.type]))


def exp(x: Expr) -> Expr:
    """e^x = 2^n e^r, r = x - n ln 2; about 1 ULP."""
    f = FORMATS[x.type]
    return scaled(*exp_parts(clamped(x, f.underflow, f.overflow)))


def exp_of_negative(x: Expr) -> Expr:
    """e^x for x <= 0, without a guard against overflow."""
    bound = literal(FORMATS[x.type].underflow, x.type)
    return scaled(*exp_parts(select(bound > x, bound, x)))


def exp_of_multiple(x: Expr, factor: float) -> Expr:
    """e^(factor x), about 1 ULP. The factor, 2^-20 to 2^20 in size, goes into the constants: r is
    x - n (ln 2 / factor), and the polynomial's coefficients have its powers."""
    f = FORMATS[x.type]
    x = clamped(x, *sorted((f.underflow / factor, f.overflow / factor)))
    n, _ = nearest(x, f.log2e[0] * factor)
    high, low = in_two(LN2 / Fraction(factor), x.type)
    r = fma(n, -low, fma(n, -high, x))
    series = (1.0, 1.0, *_EXP[x.type])
    return scaled(polynomial(r, [c * factor**k for k, c in enumerate(series)]), n)


def in_two(value: Fraction, dtype: DType) -> tuple[float, float]:
    """A number as (high, low), of which the first times an exponent is exact."""
    kept = FORMATS[dtype].mantissa - FORMATS[dtype].bias.bit_length() - 1
    unit = Fraction(2) ** (math.frexp(float(value))[1] - kept)
    high = round(value / unit) * unit
    return float(high), float(value - high)


def half_exp(x: Expr) -> Expr:
    """e^x / 2 for x >= 0, finite as far as the result is."""
    f = FORMATS[x.type]
    top = literal(f.overflow + 1, x.type)
    p, n = exp_parts(select(top < x, top, x))
    return scaled(p, n - 1.0)


def exp2(x: Expr) -> Expr:
    """2^x = 2^n 2^r, r = x - n exact; below 1 ULP."""
    f = FORMATS[x.type]
    x = clamped(x, -f.bias - f.mantissa - 2.0, f.bias + 1.0)
    n, _ = nearest(x, 1.0)
    return scaled(exp2_of_fraction(x - n), n)


def expm1(x: Expr) -> Expr:
    """e^x - 1 = 2 (2^(n-1) (e^r - 1) + (2^(n-1) - 1/2)); below 2 ULP.

    Half the result is formed, because 2^n itself may overflow.
    """
    f = FORMATS[x.type]
    half, e = expm1_parts(clamped(x, -2.0 * (f.mantissa + 2) * f.ln2[0], f.overflow), -1)
    return select(eq(x, 0.0), x, fma(half, e, half - 0.5) * 2.0)


def expm1_parts(x: Expr, add: int = 0) -> Pair:
    """(2^(n + add), e^r - 1), x = n ln 2 + r; the power must be a normal number."""
    f = FORMATS[x.type]
    n, power = nearest_power(x, f.log2e[0], add)
    r = fma(n, -f.ln2[1], fma(n, -f.ln2[0], x))
    return power, fma(r * r, polynomial(r, _EXPM1[x.type]), r)


def logistic(x: Expr) -> Expr:
    """e^x / (1 + e^x) = 2^n / (1 + 2^n + (e^-r - 1)), r = x - n ln 2; below 2 ULP.

    What the first sum drops goes into the second, so that one rounding of consequence is left.
    """
    f = FORMATS[x.type]
    x = clamped(x, f.underflow - 1.0, 2.0 * f.mantissa)
    n, _ = nearest(x, f.log2e[0])
    r = fma(n, f.ln2[1], fma(n, f.ln2[0], -x))
    e = fma(r * r, polynomial(r, _EXP[x.type]), r)
    power = scaled(literal(1.0, x.type), n)
    d, d_low = fast_sum(literal(1.0, x.type), power)
    return power / (d + (d_low + e))


def ldexp(x: Expr, n: Expr) -> Expr:
    """x * 2^n in four steps, enough to cross the whole range; subnormal results may round twice."""
    f = FORMATS[x.type]
    limit = 2 * (f.bias + f.mantissa) + 4
    n = cast(n, f.signed)
    n = select(n > limit, limit, select(n < -limit, -limit, n))
    quarter = n >> 2
    step = power_of_two(quarter, x.type)
    return x * step * step * step * power_of_two(n - quarter * 3, x.type)


# -- logarithms --------------------------------------------------------------------------------

# (log(1 + f) - f + f^2/2) / f^3 on [-1/4, 1/2]; error of log(1 + f): 2^-26.7.
_LOG: Final[Sequence[float]] = (
    0.3333345, -0.24999519, 0.19989783, -0.16668779, 0.1453501, -0.1299955, 0.09799472,
    -0.039392058,
)  # fmt: skip
# (2 atanh(s) - 2 s) / s^3 in s^2, s = f / (2 + f) for the same f; error of the whole: 2^-62.4.
_ATANH: Final[Sequence[float]] = (
    0.666666666666666, 0.4000000000005688, 0.28571428555750933, 0.2222222430490293,
    0.1818166551469988, 0.15391117457929787, 0.13173614137635925, 0.13842276986915275,
)  # fmt: skip
_TWO_THIRDS: Final = (_hex("0x1.5555555555555p-1"), _hex("0x1.5555555555555p-55"))
# (2 atanh(s) - 2 s - 2/3 s^3) / s^5 in s^2; error of the whole: 2^-72.4.
_ATANH_TAIL: Final[Sequence[float]] = (
    0.4, 0.28571428571426827, 0.22222222222603574, 0.18181818138789665, 0.15384618548468654,
    0.13333168617481403, 0.11770631341686118, 0.10390734383952561, 0.11246260678585687,
)  # fmt: skip
# log2(1 + f) / f for the same f, for float32 computed in float64; relative error 2^-33.1.
_LOG2: Final[Sequence[float]] = (
    1.44269504099552, -0.7213475168287927, 0.48089828186519207, -0.36067436269762015,
    0.28854604761976127, -0.240428128356212, 0.2058197787064803, -0.18031508512833447,
    0.16466304554846742, -0.15287504184295791, 0.11549085321217856, -0.04493882532222961,
)  # fmt: skip


def portable_significand(x: Expr) -> Expr:
    """m of x = m 2^k, m in [3/4, 3/2): 1 for zeros and infinity, NaN below zero."""
    m, _ = _split(_lifted(x)[0])
    return select(x >= 0.0, m, math.nan)


def portable_exponent(x: Expr) -> Expr:
    """k of x = m 2^k: -inf for zeros, infinity for itself, NaN below zero."""
    lifted, lift = _lifted(x)
    _, k = _split(lifted)
    special = select(eq(x, 0.0), -math.inf, select(x > 0.0, x, math.nan))
    return select((x > 0.0) & (x < math.inf), k - lift, special)


def _lifted(x: Expr) -> Pair:
    """(x 2^lift, lift), a normal number where `x` is subnormal."""
    lift = FORMATS[x.type].mantissa + 1
    tiny = absolute(x) < FORMATS[x.type].smallest
    return select(tiny, x * 2.0**lift, x), select(tiny, float(lift), literal(0.0, x.type))


def _split(x: Expr) -> Pair:
    """x = m 2^k for normal positive x, m in [3/4, 3/2); k as a float. Else, m = 1 or garbage."""
    f = FORMATS[x.type]
    bits = to_bits(x)
    above = bits - f.three_quarters
    shifted = above & (-1 << f.mantissa)
    if x.type == float32:
        k = cast(apply("shr", above, literal(f.mantissa, above.type)), x.type)
    else:  # the exponent in the low bits of 2^52: few machines convert 64-bit integers
        biased = bitcast(above + f.one, f.unsigned) >> f.mantissa
        base = 2.0**f.mantissa
        k = from_bits(biased | int(f.bias + f.mantissa << f.mantissa)) - (base + f.bias)
    return from_bits(bits - shifted), k


def _parts(x: Expr) -> Pair:
    """x = m 2^k for any positive x, m in [3/4, 3/2). The exponent carries the special values."""
    return apply("significand", x), apply("exponent", x)


def _log_tail(y: Expr) -> Expr:
    """log(1 + y) - y for 1 + y in [3/4, 3/2).

    float32: a polynomial in y. float64: 2 atanh(y / (2 + y)), as in fdlibm's e_log.c.
    """
    square = y * y
    if y.type == float32:
        return square * fma(y, polynomial(y, _LOG), -0.5)
    s = y / (y + 2.0)
    z = s * s
    half = square * 0.5
    return fma(s, fma(z, polynomial(z, _ATANH), half), -half)


def log(x: Expr) -> Expr:
    """log(x) = k ln 2 + log(m), m in [3/4, 3/2); below 1 ULP."""
    f = FORMATS[x.type]
    m, k = _parts(x)
    y = m - 1.0
    return fma(k, f.ln2[0], y + fma(k, f.ln2[1], _log_tail(y)))


def _scaled_log(m: Expr, factor: tuple[float, float]) -> Expr:
    """log(m) * factor, with one rounding of consequence."""
    y = m - 1.0
    return fma(y, factor[0], fma(y, factor[1], _log_tail(y) * factor[0]))


def log2(x: Expr) -> Expr:
    """k + log(m) log2(e); exact at powers of two."""
    m, k = _parts(x)
    return k + _scaled_log(m, FORMATS[x.type].log2e)


def log10(x: Expr) -> Expr:
    """k log10(2) + log(m) log10(e)."""
    f = FORMATS[x.type]
    m, k = _parts(x)
    tail = fma(k, f.log10_2[1], _scaled_log(m, f.log10e))
    return fma(k, f.log10_2[0], tail)


def log_of_pair(x: Expr, tail: Expr, doublings: Expr | None = None) -> Expr:
    """log((x + tail) 2^doublings) for normal positive x, by log(x) + tail / x."""
    f = FORMATS[x.type]
    m, k = _split(x)
    if doublings is not None:
        k = k + doublings
    y = m - 1.0
    return fma(k, f.ln2[0], y + fma(k, f.ln2[1], _log_tail(y) + tail / x))


def log1p(x: Expr) -> Expr:
    """log(u) + (x - (u - 1)) / u, u = 1 + x rounded (fdlibm's s_log1p.c); about 1 ULP."""
    u = x + 1.0
    # Which of 1 and x is larger decides how the rounding error of u is recovered.
    tail = select(x > 1.0, 1.0 - (u - x), x - (u - 1.0))
    result = log_of_pair(u, tail)
    special = select(eq(x, -1.0), -math.inf, select(x < -1.0, math.nan, x))
    return select((x > -1.0) & (x < math.inf) & ne(x, 0.0), result, special)


def log1p_of_pair(x: Expr, tail: Expr) -> Expr:
    """log(1 + x + tail) for 0 <= x, finite."""
    u = x + 1.0
    error = select(x > 1.0, 1.0 - (u - x), x - (u - 1.0))
    return log_of_pair(u, error + tail)


def logaddexp(a: Expr, b: Expr) -> Expr:
    """log(e^a + e^b) = max + log1p(e^-|a - b|); the error is in units of the larger summand."""
    larger = select(a > b, a, b)
    result = larger + log1p(exp_of_negative(-absolute(a - b)))
    return select(eq(a, b), a + math.log(2), result)


def logaddexp2(a: Expr, b: Expr) -> Expr:
    """log2(2^a + 2^b), alike."""
    larger = select(a > b, a, b)
    result = larger + log1p(exp2(-absolute(a - b))) * math.log2(math.e)
    return select(eq(a, b), a + 1.0, result)


# -- powers and roots --------------------------------------------------------------------------


def integer_power(x: Expr, n: int) -> Expr:
    """x**n by repeated squaring, n >= 0; integers wrap."""
    result: Expr | None = None
    while n:
        if n & 1:
            result = x if result is None else apply("mul", result, x)
        n >>= 1
        x = apply("mul", x, x) if n else x
    return literal(1, x.type) if result is None else result


def _log_to_pair(x: Expr) -> Pair:
    """log(x) for positive finite float64 x as a pair good to about 10 bits more than float64.

    q = (m-1)/(m+1) is a pair; log(m) = 2 q + (2/3 + q^2 R(q^2)) q^3, where only the last
    polynomial is evaluated in plain arithmetic.
    """
    f = FORMATS[x.type]
    m, k = _parts(x)
    y = m - 1.0
    g, g_low = fast_sum(literal(1.0, x.type), m)
    inverse = 1.0 / g
    q = y * inverse
    q_low = fma(-q, g_low, fma(-q, g, y)) * inverse
    z, z_low = product(q, q)
    z_low = fma(q + q, q_low, z_low)
    cube, cube_low = product(z, q)
    cube_low = fma(z_low, q, fma(z, q_low, cube_low))
    high, low = _TWO_THIRDS
    c, c_low = fast_sum(literal(high, x.type), z * polynomial(z, _ATANH_TAIL))
    t, t_low = product(cube, c)
    t_low = fma(cube_low, c, fma(cube, c_low + low, t_low))
    s, s_low = fast_sum(q + q, t)
    s_low = s_low + fma(q_low, 2.0, t_low)
    h, h_low = fast_sum(k * f.ln2[0], s)
    return fast_sum(h, h_low + fma(k, f.ln2[1], s_low))


def power(x: Expr, y: Expr) -> Expr:
    """x**y = |x|**y with a sign; about 1 ULP. All special cases of C99's pow (F.9.4.4).

    A literal exponent that NumPy or a few products give directly is not raised at all.
    """
    if isinstance(y, Lit):
        simple = _simple_power(x, float(y.value))
        if simple is not None:
            return simple
    a = select(eq(y, 0.0), 1.0, absolute(x))  # anything to the 0 is 1,
    exponent = select(eq(a, 1.0), 0.0, y)  # and 1 to anything is 1, even where the other is NaN
    raised = _positive_power_single if x.type == float32 else _positive_power_double
    result = raised(a, exponent)
    return rare(to_bits(x) < 0, _signed_power(x, y, result), result)


def _signed_power(x: Expr, y: Expr, result: Expr) -> Expr:
    """x**y from |x|**y for x < 0 and -0."""
    whole = eq(apply("trunc", y), y)
    half = y * 0.5
    odd = whole & ne(apply("trunc", half), half)
    result = select((to_bits(x) < 0) & odd, -result, result)
    return select((x < 0) & ~whole & ne(x, -math.inf), math.nan, result)


def _positive_power_single(a: Expr, y: Expr) -> Expr:
    """2^(y log2 a) for float32 a >= 0, the logarithm and the product in float64."""
    m, k = _parts(a)
    u = cast(m - 1.0, float64)
    log = fma(u, polynomial(u, _LOG2), cast(k, float64))
    t = clamped(cast(y, float64) * log, -200.0, 200.0)
    n = apply("rint", t)
    return scaled(exp2_of_fraction(cast(t - n, float32)), cast(n, float32))


def _positive_power_double(a: Expr, y: Expr) -> Expr:
    """exp(y log a) for float64 a >= 0, the logarithm and the product as pairs.

    The method of fdlibm's e_pow.c, without its tables.
    """
    f = FORMATS[a.type]
    high, low = _log_to_pair(a)
    high = select(eq(a, 0.0), -math.inf, select(a < math.inf, high, a))
    exact = y * high
    p = clamped(exact, f.underflow - 1, f.overflow)
    inside = eq(p, exact)
    p_low = select(inside, fma(y, low, fma(y, high, -p)), 0.0)
    e, n = exp_reduced(p, p_low)
    return scaled(e + 1.0, n)


WIDENED: Final = 16
"""Whole exponents up to which products of float64 raise a float32."""


def _simple_power(x: Expr, n: float) -> Expr | None:
    """x**n where a few products, a root or a quotient give it; below 2.5 ULP.

    No product leaves the range unless the result does: of the factors none is further from 1 than
    the result.
    """
    if n in (0.0, 1.0, 2.0, 3.0):
        return integer_power(x, int(n))
    if n == 4.0:
        return integer_power(x * x, 2)
    if n in (-1.0, -2.0):
        return integer_power(1.0 / x, -int(n))
    if x.type == float32 and n.is_integer() and abs(n) <= WIDENED:  # in float64 nothing is lost
        raised = integer_power(cast(x, float64), abs(int(n)))
        return cast(raised if n > 0 else 1.0 / raised, float32)
    if n == -1.5:  # 1/x has the range of the result, and +-0 of both zeros and infinities is 0
        inverse = 1.0 / (x + 0.0)
        return inverse * apply("sqrt", inverse)
    if n not in (-0.5, 0.5, 1.5, 2.5):
        return None
    a = x + 0.0  # unlike the root's, the power of -0 is that of 0, and that of -inf is that of inf
    root = apply("sqrt", a)
    if n < 0:
        return select(eq(x, -math.inf), 0.0, 1.0 / root)
    return select(eq(x, -math.inf), math.inf, root if n < 1 else integer_power(a, int(n)) * root)


# cbrt on [3/4, 3/2); relative error 2^-16.7.
_CBRT: Final = (0.46062067, 0.8699834, -0.4855564, 0.1854113, -0.030450039)  # fmt: skip


def cbrt(x: Expr) -> Expr:
    """Cube root: x = m 2^(3 n + r), a polynomial for m, then Newton's steps; below 1 ULP."""
    a = absolute(x)
    m, k = _parts(a)
    n, scale = nearest_power(k, 1.0 / 3.0)
    r = fma(n, -3.0, k)
    root = select(r > 0, 2.0 ** (1 / 3), select(r < 0, 0.5 ** (1 / 3), literal(1.0, x.type)))
    target = m * select(r > 0, 2.0, select(r < 0, 0.5, literal(1.0, x.type)))
    y = polynomial(m, _CBRT) * root
    for _ in range(1 if x.type == float32 else 2):
        square = y * y
        y = fma(fma(-square, y, target) / square, 1.0 / 3.0, y)
    y = copysign(y * scale, x)
    return select((a > 0) & (a < math.inf), y, x)


def hypot(x: Expr, y: Expr) -> Expr:
    """sqrt(x^2 + y^2), scaled by a power of two where squares would leave the range."""
    f = FORMATS[x.type]
    a, b = absolute(x), absolute(y)
    larger, smaller = select(a < b, b, a), select(a < b, a, b)
    shift = float(f.bias // 2 + f.mantissa + 8)
    big, small = larger > 2.0 ** (f.bias // 2 - 2), larger < 2.0 ** (-f.bias // 2 + f.mantissa + 2)
    one = literal(1.0, x.type)
    scale = select(big, 2.0**-shift, select(small, 2.0**shift, one))
    back = select(big, 2.0**shift, select(small, 2.0**-shift, one))
    larger, smaller = larger * scale, smaller * scale
    result = apply("sqrt", fma(larger, larger, smaller * smaller)) * back
    infinite = eq(a, math.inf) | eq(b, math.inf)
    return select(infinite, math.inf, result)


# -- remainders --------------------------------------------------------------------------------


def fmod(x: Expr, y: Expr) -> Expr:
    """The remainder with the dividend's sign, exactly.

    A quotient below 2^(mantissa - 1) is off by at most one, and x - q y is then exact; the C
    library does the others.
    """
    a, b = absolute(x), absolute(y)
    q = apply("trunc", a / b)
    r = fma(-q, b, a)
    r = select(r < 0, r + b, r)
    r = select(eq(b, math.inf) & (a < math.inf), a, r)
    far = (q >= 2.0 ** (FORMATS[x.type].mantissa - 1)) & (a < math.inf) & (b > 0)
    exact = cast(
        libm("fmod", cast(select(far, a, 1.0), float64), cast(select(far, b, 1.0), float64)), x.type
    )
    return flip_sign(rare(far, exact, r), x)


def remainder(x: Expr, y: Expr) -> Expr:
    """The remainder with the divisor's sign, as NumPy and Python define it for floats."""
    r = fmod(x, y)
    wrapped = select((r < 0) ^ (y < 0), r + y, r)
    return select(eq(r, 0.0), copysign(r, y), wrapped)


def floor_divide(x: Expr, y: Expr) -> Expr:
    """floor(x / y) of the exact quotient, with NumPy's values for zeros and infinities."""
    r = fmod(x, y)
    q = (x - r) / y
    q = select(ne(r, 0.0) & ((r < 0) ^ (y < 0)), q - 1.0, q)
    floor = apply("floor", q)
    floor = select(q - floor > 0.5, floor + 1.0, floor)
    ratio = x / y
    floor = select(eq(q, 0.0), copysign(literal(0.0, x.type), ratio), floor)
    return select(eq(y, 0.0), ratio, floor)
