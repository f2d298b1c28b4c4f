"""Exponentials, logarithms, powers and hyperbolic functions as machine operations."""

from __future__ import annotations

from tilewright import dtypes
from tilewright.expr import Expr, apply, bitcast, cast, libm, literal, select


def to_bits(x: Expr) -> Expr:
    """The bits of a float as a signed integer of the same width."""
    return bitcast(x, dtypes.int32 if x.type == dtypes.float32 else dtypes.int64)


def from_bits(x: Expr) -> Expr:
    return bitcast(x, dtypes.float32 if x.type == dtypes.int32 else dtypes.float64)


def _c(name):
    def call(*args: Expr) -> Expr:
        return cast(libm(name, *(cast(a, dtypes.float64) for a in args)), args[0].type)
    return call


def integer_power(x: Expr, n: int) -> Expr:
    """x**n by repeated squaring, n >= 0."""
    result = None
    while n:
        if n & 1:
            result = x if result is None else apply("mul", result, x)
        x, n = apply("mul", x, x), n >> 1
    return literal(1, x.type) if result is None else result


def copysign(x: Expr, y: Expr) -> Expr:
    """The magnitude of `x` with the sign of `y`."""
    sign = literal(-1 << (x.type.itemsize * 8 - 1), to_bits(x).type)
    return from_bits(to_bits(apply("abs", x)) | (to_bits(y) & sign))


def ldexp(x, n):
    return _c("ldexp")(x, n)


exp, exp2, expm1, log, log2, log10, log1p = map(_c, "exp exp2 expm1 log log2 log10 log1p".split())
cbrt, hypot, fmod, power = map(_c, "cbrt hypot fmod pow".split())
sinh, cosh, tanh, arcsinh, arccosh, arctanh = map(_c, "sinh cosh tanh asinh acosh atanh".split())


def remainder(a, b):
    r = fmod(a, b)
    return select(apply("ne", r, literal(0, r.type)) & ((r < 0) ^ (b < 0)), r + b, copysign(r, b))


def floor_divide(a, b):
    return apply("floor", a / b)


def logistic(x):
    return 1.0 / (1.0 + exp(-x))


def logaddexp(a, b):
    return select(a > b, a, b) + log1p(exp(-apply("abs", a - b)))


def logaddexp2(a, b):
    return select(a > b, a, b) + log1p(exp2(-apply("abs", a - b))) * 1.4426950408889634
