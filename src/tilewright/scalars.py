"""Scalar operations: what one element can be made of, each with its meaning as a NumPy function.

Knows the operations every printer spells (`MACHINE`) and the kinds of reductions. Refuses to know
expressions (`expr`), which apply them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType


@dataclass(frozen=True, eq=False)
class Scalar:
    """One scalar operation: its name, and its meaning as a NumPy function over whole arrays.

    `machine` ones are what a printer must know how to spell; all others are rewritten into machine
    ones (`codegen/libm.py`) before printing. `symbol` is the infix spelling in printed terms,
    `cost` the work in multiply-adds.
    """

    name: str
    numpy: Callable[..., Any]
    symbol: str | None = None
    machine: bool = False
    cost: int = 1

    def __repr__(self) -> str:
        return self.name


def _int_div(a: Any, b: Any) -> Any:
    """Division that truncates toward zero; by zero it gives 0."""
    safe = np.where(b == 0, np.ones_like(b), b)
    q = np.floor_divide(a, safe)
    r = np.asarray(a) - q * safe
    q = np.where((r != 0) & ((np.asarray(a) < 0) != (safe < 0)), q + 1, q)
    return np.where(b == 0, np.zeros_like(q), q).astype(np.asarray(a).dtype)


def _int_rem(a: Any, b: Any) -> Any:
    """Remainder with the dividend's sign; by zero it gives 0."""
    return np.where(b == 0, 0, np.fmod(a, np.where(b == 0, 1, b))).astype(np.asarray(a).dtype)


def _fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c rounded once (through the next wider type, the nearest NumPy can do)."""
    wide = np.float64 if np.asarray(a).dtype == np.float32 else np.longdouble
    return (wide(a) * wide(b) + wide(c)).astype(np.asarray(a).dtype)


def _scale(x: Any, n: Any) -> Any:
    """x * 2^n for whole n, rounded once."""
    whole = np.where(np.isnan(n), 0, np.clip(n, -5000, 5000)).astype(np.int32)
    return np.where(np.isnan(n), n, np.ldexp(x, whole)).astype(np.asarray(x).dtype)


def _significand(x: Any) -> Any:
    """m of x = m 2^k, m in [3/4, 3/2): 1 for zeros and infinity, NaN below zero."""
    m = np.frexp(x)[0]
    m = np.where(m < 0.75, m + m, m)
    m = np.where((x == 0) | (x == np.inf), 1, m)
    return np.where(x >= 0, m, np.nan).astype(np.asarray(x).dtype)


def _exponent(x: Any) -> Any:
    """k of x = m 2^k, m in [3/4, 3/2): -inf for zeros, infinity for itself, NaN below zero."""
    m, k = np.frexp(x)
    k = np.where(m < 0.75, k - 1, k)
    k = np.where(x == 0, -np.inf, np.where(x == np.inf, x, k))
    return np.where(x >= 0, k, np.nan).astype(np.asarray(x).dtype)


def _root_estimate(x: Any) -> Any:
    """1 / sqrt(x) to 15 bits; machines have other last bits."""
    y = np.asarray(1 / np.sqrt(np.asarray(x)), np.float32)
    return (y.view(np.int32) & (-1 << 9)).view(np.float32)


SIXTEENTHS: Final = tuple(float(np.float32(2.0 ** (j / 16))) for j in range(16))
"""2^(j/16), rounded to float32."""


def _sixteenth_power(code: Any) -> Any:
    """2^(j/16) for the low four bits j of an integer."""
    return np.array(SIXTEENTHS, np.float32)[np.asarray(code) & 15]


def _shift(shift: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: shift(a, np.asarray(b).astype(np.asarray(a).dtype))


def _machine(name: str, numpy: Callable[..., Any], symbol: str | None = None) -> Scalar:
    return Scalar(name, numpy, symbol, machine=True)


MACHINE: Final[dict[str, Scalar]] = {
    s.name: s
    for s in (
        _machine("add", np.add, "+"),
        _machine("sub", np.subtract, "-"),
        _machine("mul", np.multiply, "*"),
        _machine("div", np.true_divide, "/"),  # floats only
        _machine("idiv", _int_div),  # truncates; x/0 = 0
        _machine("irem", _int_rem),  # sign of the dividend; x rem 0 = 0
        _machine("neg", np.negative, "-"),
        _machine("fma", _fma),  # floats only; rounded once
        _machine("sqrt", np.sqrt),
        _machine("abs", np.abs),  # floats: clears the sign bit
        _machine("floor", np.floor),
        _machine("ceil", np.ceil),
        _machine("trunc", np.trunc),
        _machine("rint", np.rint),  # to nearest, ties to even
        _machine("eq", np.equal, "=="),
        _machine("ne", np.not_equal, "!="),
        _machine("lt", np.less, "<"),
        _machine("le", np.less_equal, "<="),
        _machine("and", np.bitwise_and, "&"),
        _machine("or", np.bitwise_or, "|"),
        _machine("xor", np.bitwise_xor, "^"),
        _machine("not", np.invert, "~"),
        _machine("shl", _shift(np.left_shift), "<<"),  # amount in 0..bits-1
        _machine("shr", _shift(np.right_shift), ">>"),  # arithmetic if signed
        _machine("popcount", np.bitwise_count),
        _machine("select", np.where),  # condition, then, otherwise
        _machine("cast", lambda x: x),  # C conversion; float to int saturates nothing, NaN is 0
        _machine("bitcast", lambda x: x),  # same bits, other type
        _machine("rare", np.where),  # a select whose first branch is evaluated only if needed
        # Some machines have these; for the others `libm.expand` says them in the rest.
        _machine("scale", _scale),  # x, n: x * 2^n, rounded once; n is a float
        _machine("significand", _significand),
        _machine("exponent", _exponent),
        _machine("scale_floor", lambda x, n: _scale(x, np.floor(n))),  # n in sixteenths; float32
        _machine("sixteenth_power", _sixteenth_power),  # of a uint32: a float32
        # `libm.expand` makes use of this one where a machine has it.
        _machine("root_estimate", _root_estimate),  # 1 / sqrt(x), off by 2^-14 of it at most
    )
}
"""The operations printers spell. `cast` and `bitcast` take their target from the `Apply`."""

MULTIPLY_ADD: Final = Scalar("multiply_add", lambda a, b, c: np.asarray(a) * b + c)
"""a * b + c, rounded once or twice, as is faster: a step of a sum, whose rounding is its own."""

TABLED: Final = frozenset(("scale_floor", "sixteenth_power"))
"""Those of float32 only, with which a table of sixteen powers is used."""

OPTIONAL: Final = TABLED | {"scale", "significand", "exponent"}
"""The operations that a printer spells only where the machine has them."""

ESTIMATES: Final = frozenset(("root_estimate",))
"""The operations, of float32 only, that `libm.expand` makes use of where a machine has them."""

HALF_CASTS: Final = "half_casts"
"""Stands, among the operations a machine has, for `cast` between float16 and other types."""

PERMUTED_SIXTEEN: Final = "permuted_sixteen"
"""Stands, among the operations a machine has, for registers of sixteen lanes that are permuted."""
PERMUTED_EIGHT: Final = "permuted_eight"
"""The same for registers of eight lanes."""

FUSED: Final = "fused"
"""Stands, among the operations a machine has, for `fma` as an instruction and not a function."""

LIBM_PREFIX: Final = "libm."
"""`libm.sin` and the like: a call to the C library, one element at a time."""

REDUCTIONS: Final[dict[str, tuple[Callable[..., Any], Callable[[DType], Any]]]] = {
    "sum": (np.add, lambda d: 0),
    "prod": (np.multiply, lambda d: 1),
    "max": (np.maximum, lambda d: -math.inf if dtypes.is_float(d) else lowest(d)),
    "min": (np.minimum, lambda d: math.inf if dtypes.is_float(d) else highest(d)),
    "all": (np.logical_and, lambda d: True),
    "any": (np.logical_or, lambda d: False),
}
"""Reduction kinds: the combining NumPy function and the identity at a dtype."""


def lowest(dtype: DType) -> int | bool:
    return False if dtypes.is_bool(dtype) else int(np.iinfo(dtype).min)


def highest(dtype: DType) -> int | bool:
    return True if dtypes.is_bool(dtype) else int(np.iinfo(dtype).max)
