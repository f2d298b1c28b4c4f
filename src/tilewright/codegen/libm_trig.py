"""Circular and hyperbolic functions and their inverses as machine operations.

Knows their reductions and polynomials for float32 and float64; the arithmetic they share with the
exponentials, and the method behind every table, stand in `libm_elementary.py`.
"""

from __future__ import annotations

import math
from typing import Final

from tilewright.codegen.libm_elementary import (
    FORMATS,
    Coefficients,
    absolute,
    copysign,
    expm1_parts,
    fast_sum,
    flip_sign,
    from_bits,
    half_exp,
    log1p_of_pair,
    log_of_pair,
    nearest,
    polynomial,
    product,
    to_bits,
)
from tilewright.dtypes import DType, float32, float64
from tilewright.expr import Expr, apply, bitcast, cast, eq, fma, libm, literal, ne, rare, select

_hex = float.fromhex

# pi as the sum of three floats; half of it is exact too.
_PI: Final[Coefficients] = {
    float32: (_hex("0x1.921fb6p+1"), _hex("-0x1.777a5cp-24"), _hex("-0x1.ee59dap-49")),
    float64: (
        _hex("0x1.921fb54442d18p+1"),
        _hex("0x1.1a62633145c07p-53"),
        _hex("-0x1.f1976b7ed8fbcp-109"),
    ),
}
# Beyond this the quotient by pi is not sure to be right within a small excess over 1/2.
_FAR: Final[dict[DType, float]] = {float32: 2.0**17, float64: 2.0**30}

# (sin r - r) / r^3 in r^2 on |r| <= 1.6; relative error of sin: 2^-27.0, 2^-61.0.
_SIN: Final[Coefficients] = {
    float32: (-0.16666658, 0.008333031, -0.00019806954, 2.5997815e-06),
    float64: (
        -0.16666666666666666, 0.008333333333333194, -0.00019841269841205591,
        2.7557319210111226e-06, -2.5052106752989935e-08, 1.6058932723994743e-10,
        -7.642790678670143e-13, 2.718902415685705e-15,
    ),
}  # fmt: skip
# (tan r - r) / r^3 in r^2 on |r| <= 0.8; relative error of tan: 2^-29.1, 2^-55.9.
_TAN: Final[Coefficients] = {
    float32: (
        0.33333355, 0.13332468, 0.054082662, 0.021162149, 0.011152448, -0.00031765096,
        0.0045795306,
    ),
    float64: (
        0.33333333333332665, 0.13333333333429898, 0.05396825391942366, 0.02186948978161446,
        0.00886321674521978, 0.003592310800461945, 0.0014546265763188974,
        0.0005956154339572626, 0.0002207613525325584, 0.00013985054576970586,
        -3.106222137224866e-05, 9.37410521491126e-05, -4.718730529820293e-05,
        2.1417949868584817e-05,
    ),
}  # fmt: skip
# (arcsin s - s) / s^3 in s^2 on |s| <= 1/2; relative error of arcsin: 2^-27.6, 2^-55.9.
_ARCSIN: Final[Coefficients] = {
    float32: (0.16666754, 0.074952595, 0.04547452, 0.024161141, 0.04219527),
    float64: (
        0.16666666666665395, 0.07500000000340158, 0.04464285682579522, 0.030381959241257403,
        0.02237175552660023, 0.01735974339622741, 0.013884846921278442, 0.012171813624220248,
        0.006516487464512613, 0.01956036970426109, -0.016275699699744513, 0.031948274068830544,
    ),
}  # fmt: skip
# (arctan q - q) / q^3 in q^2 on |q| <= 1; relative error of arctan: 2^-25.8, 2^-57.6.
_ARCTAN: Final[Coefficients] = {
    float32: (
        -0.3333315, 0.19993691, -0.14210357, 0.10663123, -0.07545788, 0.043132767, -0.01631743,
        0.0029076429,
    ),
    float64: (
        -0.33333333333333065, 0.19999999999950918, -0.14285714282542525, 0.11111111006036814,
        -0.09090906985015798, 0.07692279624426893, -0.06666402263631235, 0.058805169234173345,
        -0.052534691206354615, 0.047221512670897574, -0.042187229121703765,
        0.03663246290876768, -0.029888635467147297, 0.021965855130835828,
        -0.013882391072440449, 0.007183446522674301, -0.0028780996206134784,
        0.000828879761394751, -0.00015162466758163534, 1.3170665626062013e-05,
    ),
}  # fmt: skip
# (sinh x - x) / x^3 in x^2 on |x| <= 1; relative error of sinh: 2^-31.6, 2^-61.7.
_SINH: Final[Coefficients] = {
    float32: (0.16666667, 0.008333311, 0.0001984262, 2.7840795e-06),
    float64: (
        0.16666666666666669, 0.008333333333332924, 0.00019841269841579378,
        2.7557319112336836e-06, 2.5052129989791023e-08, 1.6056744234229908e-10,
        7.773884381259474e-13,
    ),
}  # fmt: skip
# (arcsinh x - x) / x^3 in x^2 on |x| <= 1/2; relative error of arcsinh: 2^-29.6, 2^-60.4.
_ARCSINH: Final[Coefficients] = {
    float32: (-0.16666643, 0.07498642, -0.044383314, 0.028163461, -0.013228318),
    float64: (
        -0.1666666666666661, 0.07499999999984404, -0.04464285712781327, 0.030381943715444424,
        -0.022372138332470697, 0.017352386537444905, -0.013960227951415266,
        0.011512955060489561, -0.009534014874583493, 0.007465246330688509,
        -0.00474695349519636, 0.0017176990414627042,
    ),
}  # fmt: skip


def _odd(x: Expr, table: Coefficients) -> Expr:
    """x + x^3 P(x^2)."""
    z = x * x
    return fma(x * z, polynomial(z, table[x.type]), x)


# -- circular ----------------------------------------------------------------------------------


def _subtract_multiple(x: Expr, n: Expr, unit: float = 1.0) -> Expr:
    """x - n unit pi, in three steps: the first is exact, the others err relative to the result."""
    for part in _PI[x.type]:
        x = fma(n, -part * unit, x)
    return x


def _with_far(name: str, x: Expr, near: Expr) -> Expr:
    """`near`, but the C library's function where |x| is far beyond pi and finite."""
    a = absolute(x)
    far = (a > _FAR[x.type]) & (a < math.inf)
    return rare(far, cast(libm(name, cast(select(far, x, 0.0), float64)), x.type), near)


def _parity(x: Expr, code: Expr) -> Expr:
    """`x`, negated where the integer `code` is odd."""
    flip = code << (x.type.itemsize * 8 - 1)
    return from_bits(bitcast(bitcast(x, code.type) ^ flip, to_bits(x).type))


def _sin_reduced(r: Expr) -> Expr:
    """sin r for |r| <= 1.6. The cubic term is large near pi/2: it takes no rounding of its own."""
    z = r * r
    first, *others = _SIN[r.type]
    return fma(r, fma(z, first, z * z * polynomial(z, others)), r)


def sin(x: Expr) -> Expr:
    """(-1)^n sin(|x| - n pi) with the sign of x, n the nearest integer: one odd polynomial."""
    a = absolute(x)
    n, code = nearest(a, 1.0 / math.pi)
    r = _subtract_multiple(a, n)
    return _with_far("sin", x, flip_sign(_parity(_sin_reduced(r), code), x))


def cos(x: Expr) -> Expr:
    """-(-1)^n sin(x - (n + 1/2) pi): the same polynomial, small at the zeros of cos."""
    magic = FORMATS[x.type].magic
    shifted = fma(x, 1.0 / math.pi, -0.5) + magic
    n = shifted - magic
    r = _subtract_multiple(x, n + 0.5)
    code = bitcast(shifted, FORMATS[x.type].unsigned)
    return _with_far("cos", x, _parity(_sin_reduced(-r), code))


def tan(x: Expr) -> Expr:
    """tan r or -1 / tan r, r = x - n pi/2, with r and tan r as pairs."""
    a = absolute(x)
    n, code = nearest(a, 2.0 / math.pi)
    high, middle, low = (0.5 * part for part in _PI[x.type])
    p, p_low = product(n, literal(-middle, x.type))
    r, r_low = fast_sum(fma(n, -high, a), p)
    r, r_low = fast_sum(r, r_low + fma(n, -low, p_low))
    z = r * r
    t, t_low = fast_sum(r, r * z * polynomial(z, _TAN[x.type]))
    t_low = fma(r_low, fma(t, t, 1.0), t_low)
    inverse = -1.0 / t
    corrected = fma(inverse, fma(inverse, t, 1.0) + inverse * t_low, inverse)
    odd = ne(code & 1, literal(0, code.type))
    return _with_far("tan", x, flip_sign(select(odd, corrected, t + t_low), x))


def _arcsin_reduced(a: Expr) -> tuple[Expr, Expr, Expr]:
    """(a > 1/2, s, arcsin(s) - s): s = sqrt((1 - a) / 2) above 1/2, s = a elsewhere; a >= 0."""
    large = a > 0.5
    z = select(large, fma(a, -0.5, 0.5), a * a)
    s = select(large, apply("sqrt", z), a)
    return large, s, s * z * polynomial(z, _ARCSIN[a.type])


def _minus_twice(angle: tuple[float, float], s: Expr, rest: Expr) -> Expr:
    """angle - 2 (s + rest), the first difference as a pair."""
    high = literal(angle[0], s.type)
    difference = fma(s, -2.0, high)
    error = fma(s, -2.0, high - difference)
    return difference - (fma(rest, 2.0, -angle[1]) - error)


def _half_pi_minus(x: Expr) -> Expr:
    """pi/2 - x."""
    high, low = (0.5 * part for part in _PI[x.type][:2])
    return literal(high, x.type) - (x - low)


def arcsin(x: Expr) -> Expr:
    """x + x^3 P(x^2), or pi/2 - 2 arcsin(sqrt((1 - |x|) / 2)) above 1/2 (fdlibm's e_asin.c)."""
    large, s, rest = _arcsin_reduced(absolute(x))
    high, low = _PI[x.type][:2]
    return copysign(select(large, _minus_twice((high / 2, low / 2), s, rest), s + rest), x)


def arccos(x: Expr) -> Expr:
    """pi/2 - arcsin(x); above 1/2 the doubled small arcsin itself, below -1/2 pi less it."""
    large, s, rest = _arcsin_reduced(absolute(x))
    high, low = _PI[x.type][:2]
    ends = select(x < 0, _minus_twice((high, low), s, rest), (s + rest) * 2.0)
    return select(large, ends, _half_pi_minus(flip_sign(s + rest, x)))


def arctan(x: Expr) -> Expr:
    """q + q^3 P(q^2), q = |x|, or pi/2 less that for q = 1/|x| above 1."""
    a = absolute(x)
    large = a > 1.0
    p = _odd(select(large, 1.0 / a, a), _ARCTAN)
    return copysign(select(large, _half_pi_minus(p), p), x)


def arctan2(y: Expr, x: Expr) -> Expr:
    """The angle of (x, y): arctan of the smaller over the larger, put into its octant."""
    a, b = absolute(y), absolute(x)
    steep = a > b
    q = select(steep, b, a) / select(steep, a, b)
    q = select(eq(a, b), select(eq(a, 0.0), 0.0, literal(1.0, x.type)), q)
    p = _odd(q, _ARCTAN)
    p = select(steep, _half_pi_minus(p), p)
    high, low = _PI[x.type][:2]
    left = to_bits(x) < 0
    return copysign(select(left, literal(high, x.type) - (p - low), p), y)


# -- hyperbolic --------------------------------------------------------------------------------


def sinh(x: Expr) -> Expr:
    """x + x^3 P(x^2) below 1, h - 1/(4 h) with h = e^|x| / 2 above."""
    a = absolute(x)
    h = half_exp(a)
    return copysign(select(a < 1.0, _odd(a, _SINH), h - 0.25 / h), x)


def cosh(x: Expr) -> Expr:
    """h + 1/(4 h), h = e^|x| / 2."""
    h = half_exp(absolute(x))
    return h + 0.25 / h


def tanh(x: Expr) -> Expr:
    """(1 - t) / (1 + t), t = e^(-2|x|) = 2^n + 2^n (e^r - 1); below 2 ULP.

    Near 0 that is -(e^r - 1) / (2 + (e^r - 1)): the sums of 2^n and 1 are exact.
    """
    top = literal((FORMATS[x.type].mantissa + 4) * math.log(2), x.type)
    a = absolute(x)
    a = a + a
    power, e = expm1_parts(-select(top < a, top, a))
    return copysign(fma(-power, e, 1.0 - power) / fma(power, e, power + 1.0), x)


def arcsinh(x: Expr) -> Expr:
    """x + x^3 P(x^2) below 1/2, log(|x| + sqrt(x^2 + 1)) as a pair above, log(2 |x|) far above."""
    a = absolute(x)
    far = a > 2.0 ** (FORMATS[x.type].mantissa // 2 + 4)
    b = select(far, 1.0, a)
    w = fma(b, b, 1.0)
    s = apply("sqrt", w)
    s_low = (fma(-s, s, w) + fma(b, b, 1.0 - w)) / (s + s)
    u, u_low = fast_sum(s, b)
    zero, one = literal(0.0, x.type), literal(1.0, x.type)
    large = log_of_pair(select(far, a, u), select(far, zero, u_low + s_low), select(far, one, zero))
    large = select(a < math.inf, large, a)
    return copysign(select(a < 0.5, _odd(a, _ARCSINH), large), x)


def arccosh(x: Expr) -> Expr:
    """log1p(t), t = d + sqrt(d^2 + 2 d) as a pair, d = x - 1; log(2 x) far above."""
    far = x > 2.0 ** (FORMATS[x.type].mantissa // 2 + 4)
    b = select(far, 1.0, x)
    d, d_low = fast_sum(b, literal(-1.0, x.type))
    w = fma(d, d, d + d)
    w_low = fma(d, d, (d + d) - w)
    s = apply("sqrt", w)
    s_low = select(w > 0, (fma(-s, s, w) + w_low) / (s + s), 0.0)
    t, t_low = fast_sum(s, d)
    near = log1p_of_pair(t, t_low + s_low + (d_low + d_low))
    zero, one = literal(0.0, x.type), literal(1.0, x.type)
    result = select(far, log_of_pair(select(far, x, one), zero, one), near)
    return select(x < math.inf, select(x < 1.0, math.nan, result), x)


def arctanh(x: Expr) -> Expr:
    """log1p(2 |x| / (1 - |x|)) / 2, the quotient as a pair."""
    a = absolute(x)
    d = 1.0 - a
    d_low = (1.0 - d) - a
    q = (a + a) / d
    q_low = (fma(-q, d, a + a) - q * d_low) / d
    result = log1p_of_pair(q, q_low) * 0.5
    result = select(a < 1.0, result, select(eq(a, 1.0), math.inf, literal(math.nan, x.type)))
    return copysign(select(ne(x, x), x, result), x)
