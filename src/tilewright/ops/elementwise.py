"""Elementwise ops: one table row each, keyed by the NumPy function.

Knows for every pointwise function its result type and its derivative. Refuses to know how a
machine computes it (`codegen/libm.py`) and how operands get equal types (`tracing.py`).

All operands of a row have the same shape and, but for `select`'s condition, the same dtype.
Derivatives are `jvp(t, y, *args)`: t the tangent, y the result; for several operands a tuple with
one function for each operand (None where the function is flat).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import Expr, Extent, apply, cast, literal
from tilewright.graph import Op, Type, View
from tilewright.ops.base import same_type
from tilewright.ops.samples import Example, numbers, of_kinds, samples
from tilewright.scalars import Scalar

Rule = Callable[..., Any] | None


@dataclass(frozen=True, eq=False)
class Row:
    """What the table says about one function. `result` maps the operand dtype to the result's;
    `linear` lists operands it is linear in (each by itself if `multilinear`); `kinds` are the NumPy
    dtype kinds it is defined on; inside `domain` it is smooth (derivative laws draw from there)."""

    scalar: Scalar
    jvp: tuple[Rule, ...] | None
    result: Callable[[DType], DType]
    linear: tuple[int, ...]
    transpose: Callable[..., Any] | None
    kinds: str
    arity: int
    cost: int
    domain: tuple[float, float]
    multilinear: bool


@dataclass(frozen=True)
class Elementwise(Op):
    """A pointwise function. Its meaning and rules stand in its table row."""

    row: Row
    fusion: ClassVar[str] = "injective"

    @property
    def name(self) -> str:
        return self.row.scalar.name

    def __repr__(self) -> str:
        return self.name

    def attributes(self) -> list[str]:
        return []

    @property
    def linear_in(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.row.linear

    @property
    def multilinear(self) -> bool:  # type: ignore[override]
        return self.row.multilinear

    def type(self, *args: Type) -> Type:
        if len(args) != self.row.arity:
            raise InternalError(f"{self.name} takes {self.row.arity} operands, got {len(args)}")
        if self is select:
            if args[0].dtype != dtypes.bool_ or args[0].shape != args[1].shape:
                raise InternalError(f"select needs a bool condition of equal shape, got {args}")
            return same_type(self.name, *args[1:])
        operand = same_type(self.row.scalar.name, *args)
        return operand.with_dtype(self.row.result(operand.dtype))

    def numpy(self, *args: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.asarray(self.row.scalar.numpy(*args))

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        if self.row.jvp is None:
            if not self.row.linear:
                raise NotImplementedError
            return Op.jvp(self, tangents, out, *args)
        total = None
        for rule, t in zip(self.row.jvp, tangents, strict=True):
            if t is not None and rule is not None:
                term = rule(t, out, *args)
                total = term if total is None or term is None else total + term
        return total

    def transpose(self, ct: Any, linear: frozenset[int], *args: Any) -> Sequence[Any]:
        if self.row.transpose is None:
            raise NotImplementedError
        return self.row.transpose(ct, linear, *args)  # type: ignore[no-any-return]

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self(
            *(a if b else a.broadcast_leading(size) for a, b in zip(args, batched, strict=True))
        )

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        operands, result = [a[idx] for a in args], self.row.result(args[-1].dtype)
        if self is make_complex:  # the parts of a complex number are at least float32
            operands = [cast(x, dtypes.real_of(result)) for x in operands]
        return apply(self.row.scalar, *operands, dtype=result)

    def examples(self) -> list[Example]:
        found = [Example(self._operands(d, (31,)), self) for d in of_kinds(self.row.kinds)]
        main = of_kinds(self.row.kinds)[-1]
        shapes: tuple[tuple[int, ...], ...] = ((0,), (2, 0, 3), (1,), ())
        found += [Example(self._operands(main, shape), self) for shape in shapes]
        apart = tuple(x.reshape(5, 8)[::2, ::-1].T for x in self._operands(main, (40,)))
        found.append(Example(apart, self))
        low, high = self.row.domain
        for d in of_kinds(self.row.kinds) if self.row.jvp or self.row.linear else ():
            if d in (dtypes.float64, dtypes.complex128):
                args = [numbers(d, (7,), i, low, high) for i in range(self.row.arity)]
                found.append(Example(self._conditioned(args), self, True))
        return found

    def _operands(self, dtype: DType, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """Operands full of awkward numbers, except where NumPy does not define the result."""
        args = [samples(dtype, shape, i) for i in range(self.row.arity)]
        if dtypes.is_integer(dtype):
            if self is power:
                args[1] = numbers(dtypes.uint8, shape, 1).astype(dtype)
            elif self in (left_shift, right_shift):
                args[1] = np.abs(numbers(dtypes.int8, shape, 1)).astype(dtype)
            elif self is reciprocal:
                args[0] = np.where(args[0] == 0, 3, args[0]).astype(dtype)
        return self._conditioned(args)

    def _conditioned(self, args: list[Any]) -> tuple[Any, ...]:
        if self is select:
            args[0] = numbers(dtypes.bool_, args[0].shape, 5)
        return tuple(args)


SYMBOLS: Final = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "equal": "==", "not_equal": "!=",
    "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^",
    "left_shift": "<<", "right_shift": ">>",
}  # fmt: skip
"""How printed expressions spell the functions that have an operator."""

TABLE: Final[dict[Any, Elementwise]] = {}
"""NumPy function -> op. Filled by the rows below, once, when this module is defined."""


def elementwise(
    function: Any,
    *jvp: Rule,
    name: str | None = None,
    kinds: str = "fc",
    arity: int = 1,
    linear: tuple[int, ...] = (),
    transpose: Callable[..., Any] | None = None,
    result: Callable[[DType], DType] | None = None,
    cost: int = 1,
    domain: tuple[float, float] = (-3.0, 3.0),
    multilinear: bool = False,
) -> Elementwise:
    """Define one elementwise op; the NumPy function is its name, meaning and table key at once."""
    label = name or function.__name__
    scalar = Scalar(label, function, SYMBOLS.get(label), cost=cost)
    rules = jvp if jvp else None
    result = result or (lambda d: d)
    row = Row(
        scalar, rules, result, linear, transpose, kinds, arity, cost, domain, multilinear
    )  # fmt: skip
    op = Elementwise(row)
    TABLE[function] = op
    return op


def _bool(d: DType) -> DType:
    return dtypes.bool_


def _flat(n: int) -> tuple[Rule, ...]:
    return (None,) * n


def _pick(first: Callable[[Any, Any], Any], second: Callable[[Any, Any], Any]) -> tuple[Rule, Rule]:
    """max and min: the tangent of the chosen operand, half of each at ties."""

    def left(t: Any, y: Any, a: Any, b: Any) -> Any:
        return t * select(
            first(a, b), y.full_like(1), select(eq(a, b), y.full_like(0.5), y.zeros_like())
        )

    def right(t: Any, y: Any, a: Any, b: Any) -> Any:
        return t * select(
            second(a, b), y.full_like(1), select(eq(a, b), y.full_like(0.5), y.zeros_like())
        )

    return left, right


def _mul_transpose(ct: Any, linear: frozenset[int], a: Any, b: Any) -> Sequence[Any]:
    return (ct * b, None) if 0 in linear else (None, ct * a)


def _both(ct: Any, linear: frozenset[int], a: Any, b: Any) -> Sequence[Any]:
    return tuple(ct if i in linear else None for i in (0, 1))


def _one(rule: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda ct, linear, *a: tuple(rule(ct) if i in linear else None for i in range(len(a)))


# -- comparison and logic ----------------------------------------------------------------------

eq: Elementwise = elementwise(np.equal, *_flat(2), arity=2, kinds="biufc", result=_bool)
ne: Elementwise = elementwise(np.not_equal, *_flat(2), arity=2, kinds="biufc", result=_bool)
lt: Elementwise = elementwise(np.less, *_flat(2), arity=2, kinds="biufc", result=_bool)
le: Elementwise = elementwise(np.less_equal, *_flat(2), arity=2, kinds="biufc", result=_bool)
gt: Elementwise = elementwise(np.greater, *_flat(2), arity=2, kinds="biufc", result=_bool)
ge: Elementwise = elementwise(np.greater_equal, *_flat(2), arity=2, kinds="biufc", result=_bool)
logical_and: Elementwise = elementwise(np.logical_and, *_flat(2), arity=2, kinds="b", result=_bool)
logical_or: Elementwise = elementwise(np.logical_or, *_flat(2), arity=2, kinds="b", result=_bool)
logical_xor: Elementwise = elementwise(np.logical_xor, *_flat(2), arity=2, kinds="b", result=_bool)
logical_not: Elementwise = elementwise(np.logical_not, *_flat(1), kinds="b", result=_bool)
bitwise_and: Elementwise = elementwise(np.bitwise_and, *_flat(2), arity=2, kinds="biu")
bitwise_or: Elementwise = elementwise(np.bitwise_or, *_flat(2), arity=2, kinds="biu")
bitwise_xor: Elementwise = elementwise(np.bitwise_xor, *_flat(2), arity=2, kinds="biu")
invert: Elementwise = elementwise(np.invert, *_flat(1), kinds="biu")
left_shift: Elementwise = elementwise(np.left_shift, *_flat(2), arity=2, kinds="iu")
right_shift: Elementwise = elementwise(np.right_shift, *_flat(2), arity=2, kinds="iu")
bitwise_count: Elementwise = elementwise(
    np.bitwise_count, *_flat(1), kinds="iu", result=lambda d: dtypes.uint8
)
isnan: Elementwise = elementwise(np.isnan, *_flat(1), kinds="fc", result=_bool)


def _sign_jvp(t: Any, y: Any, x: Any) -> Any:
    """Flat on the reals; z / |z| turns by the part of t / |z| that is orthogonal to it."""
    if not dtypes.is_complex(x.dtype):
        return None
    size = absolute(x)
    around = imag(conjugate(y) * t) / select(eq(size, size.zeros_like()), size.full_like(1), size)
    return y * make_complex(around.zeros_like(), around)


def _abs_jvp(t: Any, y: Any, x: Any) -> Any:
    if not dtypes.is_complex(x.dtype):
        return t * sign(x)
    safe = select(eq(y, y.zeros_like()), y.full_like(1), y)
    return (real(x) * real(t) + imag(x) * imag(t)) / safe


# -- arithmetic: linear in one or both operands ------------------------------------------------

add: Elementwise = elementwise(
    np.add, lambda t, y, a, b: t, lambda t, y, a, b: t,
    arity=2, kinds="biufc", linear=(0, 1), transpose=_both,
)  # fmt: skip
subtract: Elementwise = elementwise(
    np.subtract, lambda t, y, a, b: t, lambda t, y, a, b: -t, arity=2, kinds="iufc", linear=(0, 1),
    transpose=lambda ct, lin, a, b: (ct if 0 in lin else None, -ct if 1 in lin else None),
)  # fmt: skip
negative: Elementwise = elementwise(
    np.negative, kinds="iufc", linear=(0,), transpose=_one(lambda ct: -ct)
)
positive: Elementwise = elementwise(
    np.positive, kinds="iufc", linear=(0,), transpose=_one(lambda ct: ct)
)
multiply: Elementwise = elementwise(
    np.multiply, lambda t, y, a, b: t * b, lambda t, y, a, b: a * t,
    arity=2, kinds="biufc", linear=(0, 1), multilinear=True, transpose=_mul_transpose,
)  # fmt: skip
divide: Elementwise = elementwise(
    np.divide, lambda t, y, a, b: t / b, lambda t, y, a, b: -(t * (y / b)),
    arity=2, linear=(0,), transpose=lambda ct, lin, a, b: (ct / b, None), cost=4,
)  # fmt: skip
reciprocal: Elementwise = elementwise(
    np.reciprocal, lambda t, y, x: -t * (y * y), kinds="iufc", cost=4
)
square: Elementwise = elementwise(np.square, lambda t, y, x: t * (x + x), kinds="iufc")
floor_divide: Elementwise = elementwise(np.floor_divide, *_flat(2), arity=2, kinds="iuf", cost=8)
remainder: Elementwise = elementwise(
    np.remainder, lambda t, y, a, b: t, lambda t, y, a, b: -(t * floor(a / b)),
    arity=2, kinds="iuf", cost=8,
)  # fmt: skip
fmod: Elementwise = elementwise(
    np.fmod, lambda t, y, a, b: t, lambda t, y, a, b: -(t * trunc(a / b)),
    arity=2, kinds="iuf", cost=8,
)  # fmt: skip
absolute: Elementwise = elementwise(np.absolute, _abs_jvp, kinds="biufc", result=dtypes.real_of)
sign: Elementwise = elementwise(np.sign, _sign_jvp, kinds="iufc")
maximum: Elementwise = elementwise(np.maximum, *_pick(gt, lt), arity=2, kinds="biufc")
minimum: Elementwise = elementwise(np.minimum, *_pick(lt, gt), arity=2, kinds="biufc")
fmax: Elementwise = elementwise(
    np.fmax,
    *_pick(lambda a, b: gt(a, b) | isnan(b), lambda a, b: lt(a, b) | isnan(a)),
    arity=2,
    kinds="biufc",
)
fmin: Elementwise = elementwise(
    np.fmin,
    *_pick(lambda a, b: lt(a, b) | isnan(b), lambda a, b: gt(a, b) | isnan(a)),
    arity=2,
    kinds="biufc",
)

# -- exponentials and powers -------------------------------------------------------------------

exp: Elementwise = elementwise(np.exp, lambda t, y, x: t * y, cost=16)
exp2: Elementwise = elementwise(np.exp2, lambda t, y, x: t * (y * math.log(2)), cost=16)
expm1: Elementwise = elementwise(np.expm1, lambda t, y, x: t * (y + 1), cost=20)
log: Elementwise = elementwise(np.log, lambda t, y, x: t / x, cost=16, domain=(0.3, 4.0))
log2: Elementwise = elementwise(
    np.log2, lambda t, y, x: t / (x * math.log(2)), cost=18, domain=(0.3, 4.0)
)
log10: Elementwise = elementwise(
    np.log10, lambda t, y, x: t / (x * math.log(10)), cost=18, domain=(0.3, 4.0)
)
log1p: Elementwise = elementwise(np.log1p, lambda t, y, x: t / (x + 1), cost=20, domain=(0.3, 4.0))
sqrt: Elementwise = elementwise(np.sqrt, lambda t, y, x: t / (y + y), cost=6, domain=(0.3, 4.0))
cbrt: Elementwise = elementwise(
    np.cbrt, lambda t, y, x: t / (3 * y * y), kinds="f", cost=20, domain=(0.3, 4.0)
)


def _power_by_base(t: Any, y: Any, a: Any, b: Any) -> Any:
    """t b a**(b - 1), which is 0 for b = 0 whatever a is."""
    flat = eq(b, b.zeros_like())
    exponent = select(flat, b.full_like(1), b - 1)
    return t * select(flat, a.zeros_like(), b * power(a, exponent))


def _power_by_exponent(t: Any, y: Any, a: Any, b: Any) -> Any:
    """t y log(a), which is 0 for a = 0."""
    zero = eq(a, a.zeros_like())
    return t * select(zero, a.zeros_like(), y * log(select(zero, a.full_like(1), a)))


power: Elementwise = elementwise(
    np.power, _power_by_base, _power_by_exponent,
    arity=2, kinds="iufc", cost=40, domain=(0.3, 2.5),
)  # fmt: skip


def difference(part: Any, whole: Any) -> Any:
    """part - whole, and 0 where both are the same infinity."""
    return select(eq(part, whole), part.zeros_like(), part - whole)


logaddexp: Elementwise = elementwise(
    np.logaddexp,
    lambda t, y, a, b: t * exp(difference(a, y)),
    lambda t, y, a, b: t * exp(difference(b, y)),
    arity=2, kinds="f", cost=40,
)  # fmt: skip
logaddexp2: Elementwise = elementwise(
    np.logaddexp2,
    lambda t, y, a, b: t * exp2(difference(a, y)),
    lambda t, y, a, b: t * exp2(difference(b, y)),
    arity=2, kinds="f", cost=40,
)  # fmt: skip

# -- trigonometric and hyperbolic --------------------------------------------------------------

sin: Elementwise = elementwise(np.sin, lambda t, y, x: t * cos(x), cost=20)
cos: Elementwise = elementwise(np.cos, lambda t, y, x: -(t * sin(x)), cost=20)
tan: Elementwise = elementwise(np.tan, lambda t, y, x: t * (y * y + 1), cost=30, domain=(-1.2, 1.2))
arcsin: Elementwise = elementwise(
    np.arcsin, lambda t, y, x: t / sqrt(1 - x * x), cost=24, domain=(-0.9, 0.9)
)
arccos: Elementwise = elementwise(
    np.arccos, lambda t, y, x: -t / sqrt(1 - x * x), cost=24, domain=(-0.9, 0.9)
)
arctan: Elementwise = elementwise(np.arctan, lambda t, y, x: t / (x * x + 1), cost=24)
arctan2: Elementwise = elementwise(
    np.arctan2,
    lambda t, y, a, b: t * (b / (a * a + b * b)),
    lambda t, y, a, b: -(t * (a / (a * a + b * b))),
    arity=2, kinds="f", cost=30,
)  # fmt: skip
sinh: Elementwise = elementwise(np.sinh, lambda t, y, x: t * cosh(x), cost=24)
cosh: Elementwise = elementwise(np.cosh, lambda t, y, x: t * sinh(x), cost=24)
tanh: Elementwise = elementwise(np.tanh, lambda t, y, x: t * (1 - y * y), cost=20)
arcsinh: Elementwise = elementwise(np.arcsinh, lambda t, y, x: t / sqrt(x * x + 1), cost=30)
arccosh: Elementwise = elementwise(
    np.arccosh, lambda t, y, x: t / (sqrt(x - 1) * sqrt(x + 1)), cost=30, domain=(1.1, 4.0)
)
arctanh: Elementwise = elementwise(
    np.arctanh, lambda t, y, x: t / (1 - x * x), cost=30, domain=(-0.9, 0.9)
)
hypot: Elementwise = elementwise(
    np.hypot, lambda t, y, a, b: t * (a / y), lambda t, y, a, b: t * (b / y),
    arity=2, kinds="f", cost=16,
)  # fmt: skip
deg2rad: Elementwise = elementwise(
    np.deg2rad, kinds="f", linear=(0,), transpose=_one(lambda ct: ct * (math.pi / 180))
)
rad2deg: Elementwise = elementwise(
    np.rad2deg, kinds="f", linear=(0,), transpose=_one(lambda ct: ct * (180 / math.pi))
)

# -- rounding and floating-point anatomy -------------------------------------------------------

floor: Elementwise = elementwise(np.floor, *_flat(1), kinds="biuf")
ceil: Elementwise = elementwise(np.ceil, *_flat(1), kinds="biuf")
trunc: Elementwise = elementwise(np.trunc, *_flat(1), kinds="biuf")
rint: Elementwise = elementwise(np.rint, *_flat(1), kinds="fc")
copysign: Elementwise = elementwise(
    np.copysign,
    lambda t, y, a, b: t * copysign(a.full_like(1), b) * sign(a),
    None,
    arity=2,
    kinds="f",
)
nextafter: Elementwise = elementwise(
    np.nextafter, lambda t, y, a, b: t, None, arity=2, kinds="f", cost=6
)
heaviside: Elementwise = elementwise(np.heaviside, *_flat(2), arity=2, kinds="f")
signbit: Elementwise = elementwise(np.signbit, *_flat(1), kinds="f", result=_bool)
isinf: Elementwise = elementwise(np.isinf, *_flat(1), kinds="fc", result=_bool)
isfinite: Elementwise = elementwise(np.isfinite, *_flat(1), kinds="fc", result=_bool)

# -- complex numbers ---------------------------------------------------------------------------

conjugate: Elementwise = elementwise(
    np.conjugate, kinds="c", linear=(0,), transpose=lambda ct, lin, x: (conjugate(ct),)
)
real: Elementwise = elementwise(
    np.real, kinds="c", linear=(0,), result=dtypes.real_of,
    transpose=_one(lambda ct: make_complex(ct, ct.zeros_like())),
)  # fmt: skip
imag: Elementwise = elementwise(
    np.imag, kinds="c", linear=(0,), result=dtypes.real_of,
    transpose=_one(lambda ct: make_complex(ct.zeros_like(), -ct)),
)  # fmt: skip


def _complex(re: Any, im: Any) -> Any:
    out = np.empty(np.broadcast(re, im).shape, dtypes.complex_of(np.asarray(re).dtype))
    out.real, out.imag = re, im
    return out


make_complex: Elementwise = elementwise(
    _complex, name="complex", arity=2, kinds="f", linear=(0, 1), result=dtypes.complex_of,
    transpose=lambda ct, lin, a, b: (
        real(ct) if 0 in lin else None, -imag(ct) if 1 in lin else None,
    ),
)  # fmt: skip


def number(value: Any, dtype: DType) -> Expr:
    """A constant element; a complex one is put together from its parts."""
    if not dtypes.is_complex(dtype):
        return literal(value, dtype)
    part = dtypes.real_of(dtype)
    parts = literal(value.real, part), literal(value.imag, part)
    return apply(make_complex.row.scalar, *parts, dtype=dtype)


# -- selection and the special functions -------------------------------------------------------


def _select_transpose(ct: Any, linear: frozenset[int], c: Any, a: Any, b: Any) -> Sequence[Any]:
    return (
        None,
        select(c, ct, ct.zeros_like()) if 1 in linear else None,
        select(c, ct.zeros_like(), ct) if 2 in linear else None,
    )


select: Elementwise = elementwise(
    np.where,
    None,
    lambda t, y, c, a, b: select(c, t, t.zeros_like()),
    lambda t, y, c, a, b: select(c, t.zeros_like(), t),
    name="select", arity=3, kinds="biufc", linear=(1, 2), transpose=_select_transpose,
)  # fmt: skip


def _real_function(function: Callable[[float], float]) -> Callable[[Any], Any]:
    """A NumPy function made of a scalar one of the C library, computed in float64."""

    def vectorised(x: Any) -> Any:
        x = np.asarray(x)
        flat = [_total(function, float(v)) for v in x.ravel()]
        return np.array(flat, np.float64).reshape(x.shape).astype(x.dtype)

    return vectorised


def _total(function: Callable[[float], float], v: float) -> float:
    """Python's math raises where IEEE has a value: poles are inf, domain errors NaN."""
    try:
        return function(v)
    except ValueError:
        return math.inf if function is math.lgamma else math.nan
    except OverflowError:
        return math.inf


def _digamma(x: float) -> float:
    """Psi by reflection, recurrence to x >= 10 and the asymptotic series (Abramowitz 6.3.18)."""
    if math.isnan(x) or x == -math.inf or (x <= 0 and x == math.floor(x)):
        return math.nan if x != 0 else -math.copysign(math.inf, x)
    if x == math.inf:
        return x
    if x < 0:
        return _digamma(1 - x) - math.pi / math.tan(math.pi * x)
    shift = 0.0
    while x < 10:
        shift, x = shift - 1 / x, x + 1
    z = 1 / (x * x)
    series = z * (
        1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132 - z * (691 / 32760)))))
    )
    return shift + math.log(x) - 0.5 / x - series


def _erfinv(y: float) -> float:
    """Newton's iteration on erf (on erfc in the tails) from Winitzki's approximation."""
    if math.isnan(y) or abs(y) >= 1:
        return math.copysign(math.inf, y) if abs(y) == 1 else math.nan
    if y == 0:
        return y
    a, tail = 0.147, math.log1p(-y * y)
    b = 2 / (math.pi * a) + tail / 2
    x = math.copysign(math.sqrt(math.sqrt(b * b - tail / a) - b), y)
    for _ in range(4):
        residual = math.erf(abs(x)) - abs(y) if abs(y) < 0.5 else (1 - abs(y)) - math.erfc(abs(x))
        error = residual if y > 0 else -residual
        step = error / (2 / math.sqrt(math.pi) * math.exp(-x * x))
        x -= step / (1 + x * step)
    return x


def _logistic(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)
erf: Elementwise = elementwise(
    _real_function(math.erf), lambda t, y, x: t * (_TWO_OVER_SQRT_PI * exp(-(x * x))),
    name="erf", kinds="f", cost=24,
)  # fmt: skip
erfc: Elementwise = elementwise(
    _real_function(math.erfc), lambda t, y, x: -(t * (_TWO_OVER_SQRT_PI * exp(-(x * x)))),
    name="erfc", kinds="f", cost=30,
)  # fmt: skip
erfinv: Elementwise = elementwise(
    _real_function(_erfinv), lambda t, y, x: t * (exp(y * y) * (1 / _TWO_OVER_SQRT_PI)),
    name="erfinv", kinds="f", cost=30, domain=(-0.9, 0.9)
)  # fmt: skip
lgamma: Elementwise = elementwise(
    _real_function(math.lgamma),
    lambda t, y, x: t * digamma(x),
    name="lgamma",
    kinds="f",
    cost=60,
    domain=(0.3, 4.0),
)
digamma: Elementwise = elementwise(_real_function(_digamma), name="digamma", kinds="f", cost=60)
logistic: Elementwise = elementwise(
    _logistic, lambda t, y, x: t * (y * (1 - y)), name="logistic", cost=20
)
rsqrt: Elementwise = elementwise(
    lambda x: 1 / np.sqrt(x),
    lambda t, y, x: t * (y / x * -0.5),
    name="rsqrt",
    cost=8,
    domain=(0.3, 4.0),
)


ALL: Final[tuple[Elementwise, ...]] = tuple(TABLE.values())
