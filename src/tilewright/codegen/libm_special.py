"""Error functions and gamma functions as machine operations.

Knows their reductions and polynomials for float32 and float64; the arithmetic they share with the
exponentials, and the method behind every table, stand in `libm_elementary.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tilewright.codegen.libm_elementary import (
    LONG,
    Coefficients,
    absolute,
    copysign,
    exp2_of_fraction,
    exp_reduced,
    fast_sum,
    horner,
    log,
    nearest_power,
    polynomial,
    product,
    scaled,
)
from tilewright.codegen.libm_trig import tan
from tilewright.dtypes import DType, float32, float64
from tilewright.expr import Expr, apply, cast, eq, fma, libm, literal, select

_hex = float.fromhex

# erf(x) / x - 1 in x^2 on |x| <= 0.92 and 1.25; relative error of erf: 2^-25.9, 2^-56.2.
_ERF: Final[Coefficients] = {
    float32: (0.12837915, -0.376125, 0.11281882, -0.026768876, 0.0049963654, -0.0006006582),
    float64: (
        0.1283791670955126, -0.37612638903183754, 0.11283791670955125, -0.026866170645131044,
        0.005223977625439866, -0.0008548327023293894, 0.00012055332974810219,
        -1.492565014349387e-05, 1.6462109631090761e-06, -1.636576856034875e-07,
        1.4806290689038168e-08, -1.2282673154928159e-09, 9.372452711356165e-11,
        -6.481898519833676e-12, 3.7445377080727193e-13, -1.3430220184264163e-14,
    ),
}  # fmt: skip
# log2(erfc(a)) from there to where erf is 1; relative error of erf: 2^-25.3, 2^-57.4.
_LOG2_ERFC: Final[Coefficients] = {
    float32: (-0.0028361636, -1.6156492, -0.93944764, -0.13103949, 0.022345042, -0.0017890905),
    float64: (
        -6.321574836278615e-06, -1.6278530109482554, -0.9186641428635671, -0.14773303012105987,
        0.026669169352358493, 0.0014841733502264718, -0.003595590593956911, 0.0017143091941393502,
        -0.0005382847215472393, 0.00012562126981343583, -2.2296815649883878e-05,
        2.978815632232502e-06, -2.8960563865188727e-07, 1.9224456394368294e-08,
        -7.707755447506744e-10, 1.381858744181878e-11,
    ),
}  # fmt: skip
_ERF_BORDERS: Final[dict[DType, tuple[float, float]]] = {
    float32: (0.92, 3.92),
    float64: (1.25, 5.95),
}
# (erfc(a) e^(a^2) (1 + 2 a) - c) / q in q = (a - K) / (a + K) for 0.47 <= a up to where erfc
# vanishes, with c its value at a = K as a pair; relative error of erfc: 2^-28.3, 2^-61.9.
_ERFCX: Final[Coefficients] = {
    float32: (
        -0.092763804, -0.16603062, 0.16405022, -0.0542153, -0.008021008, 0.008691022,
        0.001205051, -0.0013718312, -0.00029935813, 0.00012446973,
    ),
    float64: (
        -0.1396211168405625, 0.015379652102620043, 0.06809705425469051, -0.10103906603632508,
        0.0937328349984371, -0.06633036581165538, 0.03716751553589494, -0.016197734065673153,
        0.005031969993496561, -0.0007577732239751475, -0.00019925678342603675,
        0.00015062134568923126, -2.4398904765702967e-05, -1.1220953112429595e-05,
        5.709074883535036e-06, 2.9156988369362264e-07, -8.24624059709778e-07,
        7.751667834362447e-08, 1.0961996789365159e-07, -2.0017659668554805e-08,
        -1.4161906569110185e-08, 2.5016108081659e-09, 1.389266408326901e-09,
    ),
}  # fmt: skip
_ERFCX_AT: Final[dict[DType, tuple[float, float, float]]] = {  # K, and the parts of c
    float32: (2.0, 1.2769783735275269, 8.025002e-09),
    float64: (4.0, 1.2329951186255526, -4.625318921008717e-17),
}
_ERFC_VANISHES: Final[dict[DType, float]] = {float32: 10.1, float64: 27.3}
# erfinv(x) / x, w = -log(1 - x^2): in w - C for 0 <= w <= B, and beyond in sqrt(w) - V, for
# float64 to sqrt(w) = 4 and then to the end. Relative errors: 2^-26.0, 2^-28.1;
# 2^-55.5, 2^-55.0, 2^-55.7.
_ERFINV_MIDDLE: Final[Coefficients] = {
    float32: (
        1.1273744, 0.24783288, 0.0042505725, -0.0023763857, 0.00010032999, 3.817147e-05,
        -4.3889413e-06, -5.2151984e-07, 1.4037742e-07, -8.635691e-09,
    ),
    float64: (
        1.6536545626831027, 0.24015818242558826, -0.006033670871427699, -0.0007407025341538744,
        0.00018673420802411817, -1.3882523395993779e-05, -1.365469184273756e-06,
        4.234788193140392e-07, -2.907038287980883e-08, -4.112662132549079e-09,
        1.0512184403672795e-09, -5.4142327680218075e-11, -1.2976969095952533e-11,
        2.6303383895112494e-12, -8.116825392870228e-14, -3.998701037606841e-14,
        6.594496794307596e-15, -4.3175440316785784e-17, -1.3002489203792987e-16,
        1.5781620262566333e-17, 1.1438464114861278e-18, -3.584297794025938e-19,
        -9.992678407924288e-22, 3.391195079200922e-21,
    ),
}  # fmt: skip
_ERFINV_TAIL: Final[Coefficients] = {
    float32: (
        2.9583201, 1.0037187, 0.0070482893, -0.00530127, 0.0037905914, -0.0025210879,
        0.0012759379, -0.00032125428, -0.000119924, 0.00012729212, -2.8826096e-05,
    ),
    float64: (
        3.0838856104922208, 1.0052589676941652, 0.005370914553547163, -0.003751208508225142,
        0.0024914420978901395, -0.0016882755351436307, 0.000953289349658374,
        -0.00035503782076763896, 2.4031371496100654e-05, 6.828718528973278e-05,
        -4.731952167545287e-05, 1.2464674009443592e-05, 2.9272400461175884e-06,
        -3.984638548040656e-06, 1.4962050808647787e-06, -2.947915095372376e-08,
        -2.6907794187251527e-07, 1.333335175897305e-07, -1.6340158076254568e-10,
        -1.5987683821783036e-08,
    ),
}  # fmt: skip
_ERFINV_END: Final = (
    4.849906401408584, 1.0103004648645448, -0.00013871931839157722, -0.00021503011979903403,
    7.599527837441547e-05, -1.9681771175061174e-05, 4.5260498445978785e-06,
    -9.930257899405616e-07, 2.2906598204300578e-07, -6.757108328072862e-08,
    2.898204249368336e-08, -1.5218516112007607e-08, 7.881556979497106e-09,
    -3.5260430652320645e-09, 1.2582275579551e-09, -3.885159965829084e-10,
    9.957982264831743e-11, 1.867082384094193e-11, -2.6901359125310853e-11,
    5.052605424991613e-12,
)  # fmt: skip
_ERFINV_AT: Final[dict[DType, tuple[float, float, float]]] = {  # C, B, V
    float32: (1.0, 5.0, 3.125),
    float64: (3.125, 6.25, 3.25),
}
_ERFINV_END_AT: Final = 5.0
# digamma(x) / (x - root) in x - 3/2 on [1, 2]; relative error 2^-53.7, of which the rounding of the
# first coefficient is most.
_DIGAMMA: Final = (
    0.951055876031833, -0.4236274212814605, 0.24054248424074762, -0.14840492305389943,
    0.0949887244576398, -0.06192213327411849, 0.04076083369614195, -0.026975796707498948,
    0.017907255110318186, -0.011908219172930326, 0.007926908346671365, -0.005279948399960205,
    0.003519312741831615, -0.0023454102780752027, 0.0015550092362766458,
    -0.0010368665892822107, 0.0007285732223912994, -0.00048473197058811624,
    0.00021776703282397575, -0.00014685534327805986, 0.00026698767007409896,
    -0.00017673434306443984,
)  # fmt: skip
_DIGAMMA_ROOT: Final = (_hex("0x1.762d86356be3fp+0"), _hex("0x1.b86a722197829p-54"))


# -- error functions ---------------------------------------------------------------------------


def _erf_small(x: Expr) -> Expr:
    return fma(x, polynomial(x * x, _ERF[x.type]), x)


def _erfc_large(a: Expr) -> Expr:
    """erfc(a) = e^(-a^2) R(a) / (1 + 2 a) for a >= 0.47, every factor as a pair.

    The form is Shepherd and Laframboise's ("Chebyshev Approximation of (1 + 2x) exp(x^2) erfc x",
    Math. Comp. 36, 1981).
    """
    end = literal(_ERFC_VANISHES[a.type], a.type)
    a = select(end < a, end, a)
    k, c, c_low = _ERFCX_AT[a.type]
    q = (a - k) / (a + k)
    top, top_low = fast_sum(literal(c, a.type), q * polynomial(q, _ERFCX[a.type]))
    d = fma(a, 2.0, 1.0)
    d_low = fma(a, 2.0, 1.0 - d)
    inverse = 1.0 / d
    r = top * inverse
    r_low = (fma(-r, d, top) + (top_low + c_low - r * d_low)) * inverse
    square, square_low = product(a, a)
    e, n = exp_reduced(-square, -square_low)
    p, p_low = fast_sum(literal(1.0, a.type), e)
    return scaled(fma(r, p, fma(r, p_low, r_low * p)), n)


def erf(x: Expr) -> Expr:
    """x + x P(x^2) near 0, 1 - 2^Q(|x|) beyond; about 1 ULP.

    P and Q have the same length: one Horner chain takes either's coefficients.
    """
    border, end = (literal(v, x.type) for v in _ERF_BORDERS[x.type])
    a = absolute(x)
    near = a < border
    t = select(near, x * x, select(end < a, end, a))
    pairs = list(zip(_ERF[x.type], _LOG2_ERFC[x.type], strict=True))
    chosen = [select(near, literal(p, x.type), literal(q, x.type)) for p, q in pairs]
    p = _halves(t, chosen)
    n, power = nearest_power(p, 1.0)
    large = fma(-exp2_of_fraction(p - n), power, 1.0)
    return select(near, fma(x, p, x), copysign(large, x))


def _halves(t: Expr, c: Sequence[Expr]) -> Expr:
    """sum(c_i t^i) as two chains, of lower and of higher powers, where terms of neighbouring powers
    cancel."""
    if len(c) < LONG:
        return horner(t, c)
    fourth = (t * t) * (t * t)
    return fma(fourth * fourth, horner(t, c[8:]), horner(t, c[:8]))


def erfc(x: Expr) -> Expr:
    """1 - erf(x) for |x| < 1/2; e^(-x^2) R(x) / (1 + 2 x), or 2 less that, elsewhere."""
    a = absolute(x)
    large = _erfc_large(a)
    large = select(x < 0, 2.0 - large, large)
    return select(a < 0.5, 1.0 - _erf_small(x), large)


def erfinv(x: Expr) -> Expr:
    """x P(w), w = -log(1 - x^2), with polynomials in sqrt(w) for |x| near 1.

    The form is Giles's ("Approximating the erfinv function", GPU Computing Gems, 2012).
    """
    w = -log(fma(-x, x, 1.0))
    centre, border, tail = _ERFINV_AT[x.type]
    near = _times_polynomial(x, w - centre, _ERFINV_MIDDLE[x.type])
    v = apply("sqrt", w)
    far = _times_polynomial(x, v - tail, _ERFINV_TAIL[x.type])
    if x.type == float64:
        end = _times_polynomial(x, v - _ERFINV_END_AT, _ERFINV_END)
        far = select(v < 4.0, far, end)
    result = select(w < border, near, far)
    return select(eq(absolute(x), 1.0), x * math.inf, result)


def _times_polynomial(x: Expr, t: Expr, coefficients: Sequence[float]) -> Expr:
    """x P(t); the constant term's product is kept as a pair, so that only the sum is rounded."""
    first, *others = coefficients
    high, low = product(x, literal(first, x.type))
    return high + fma(x * t, polynomial(t, others), low)


# -- gamma functions ---------------------------------------------------------------------------


def lgamma(x: Expr) -> Expr:
    """log |gamma(x)| by the C library in float64, one element at a time: it is rarely used.

    At poles, infinities and where it overflows the result is infinite without a call.
    """
    y = cast(x, float64)
    pole = (y <= 0) & eq(apply("trunc", y), y)
    infinite = pole | (absolute(y) >= 2.5e305)
    result = libm("lgamma", select(infinite, 1.0, y))
    return cast(select(infinite, math.inf, result), x.type)


def digamma(x: Expr) -> Expr:
    """The derivative of lgamma, computed in float64.

    [1, 2]: (x - root) P(x). (2, 10): down to [1, 2) by psi(x) = psi(x-1) + 1/(x-1). (0, 1): up by
    the same. Beyond 10: the asymptotic series. Negative: psi(1 - x) - pi / tan(pi x), where
    the error is relative to the two terms, not to their difference. As in SciPy, the poles at
    -1, -2, ... give NaN and those at +-0 infinities.
    """
    v = cast(x, float64)
    y = select(v < 0, 1.0 - v, v)
    result = select(y < 10.0, _digamma_small(y), _digamma_asymptotic(y))
    r = v - apply("rint", v)
    reflected = result - math.pi / tan(r * math.pi)
    reflected = select(eq(r, 0.0) | eq(v, -math.inf), math.nan, reflected)
    result = select(v < 0, reflected, result)
    result = select(eq(v, 0.0), copysign(literal(math.inf, v.type), -v), result)
    return cast(result, x.type)


def _digamma_small(y: Expr) -> Expr:
    """digamma on (0, 10): the fraction sum 1/(y-i) is added up with one division."""
    k = apply("floor", y) - 1.0
    base = y - k
    below = y < 1.0
    numerator = select(below, literal(-1.0, y.type), 0.0)
    denominator = select(below, y, 1.0)
    for i in range(1, 9):
        factor = y - float(i)
        used = k >= float(i)
        numerator = select(used, fma(numerator, factor, denominator), numerator)
        denominator = select(used, denominator * factor, denominator)
    high, low = _DIGAMMA_ROOT
    value = (base - high - low) * polynomial(base - 1.5, _DIGAMMA)
    return value + numerator / denominator


def _digamma_asymptotic(y: Expr) -> Expr:
    """log(y) - 1/(2 y) - sum B_2n / (2 n y^2n), nine terms (Abramowitz and Stegun, 6.3.18)."""
    series = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12,
              -3617 / 8160, 43867 / 14364)  # fmt: skip
    inverse = 1.0 / y
    z = inverse * inverse
    return log(y) - fma(inverse, 0.5, z * polynomial(z, series))
