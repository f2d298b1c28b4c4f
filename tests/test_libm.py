"""Every elementwise function against mpmath, NumPy and SciPy: accuracy, special values, integers.

The expansions are run by the interpreter of expressions, so no backend takes part. Its float64 fma
and its library functions are replaced by the C library's: pairs of floats rest on an exact fma.
The float functions are then run compiled as well, with whatever instructions this machine has.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.special

import tilewright as tw
from tilewright import dtypes, interpret
from tilewright import expr as E
from tilewright.codegen import llvm
from tilewright.codegen.libm import EXPANSIONS, expand
from tilewright.dtypes import DType, bfloat16, float16, float32, float64
from tilewright.errors import InternalError
from tilewright.runtime import jit
from tilewright.scalars import MACHINE, OPTIONAL, TABLED
from tilewright.scipy import special
from tilewright.target import host

FLOATS = (float32, float64)
LIMIT = 2.0  # units in the last place

_library = ctypes.CDLL(ctypes.util.find_library("m"))


def from_c(name: str, operands: int) -> E.Scalar:
    """The C library's function of float64s, as the meaning of a scalar op."""
    function = getattr(_library, name)
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double] * operands
    mapped = np.frompyfunc(function, operands, 1)
    return E.Scalar(name, lambda *args: mapped(*args).astype(np.float64), machine=True)


def with_c_library(root: E.Expr) -> E.Expr:
    """The same expression, with `fma` on float64 and all `libm` calls made by the C library."""
    done: dict[E.Expr, E.Expr] = {}
    for e in E.walk(root):
        children = tuple(done[c] for c in e.children)
        done[e] = e.with_children(children) if e.children else e
        if isinstance(e, E.Apply) and e.dtype == float64:
            name = e.op.name.removeprefix(E.LIBM_PREFIX)
            if name == "fma" or name != e.op.name:
                done[e] = E.Apply(from_c(name, len(children)), children, e.dtype)
    return done[root]


def applied(name: str, dtype: DType, *operands: E.Expr) -> E.Expr:
    return E.Apply(E.Scalar(name, np.add), operands, dtype)


def run(name: str, *arrays: Any, dtype: DType | None = None) -> Any:
    """The expansion of `name` evaluated over one-dimensional arrays."""
    n = len(arrays[0])
    i = E.axis("i", n)
    buffers = [E.Buffer(f"x{k}", a.dtype, (n,)) for k, a in enumerate(arrays)]
    (root,) = expand([applied(name, dtype or arrays[0].dtype, *(b[i] for b in buffers))])
    E.verify(root)
    assert all(e.op.machine for e in E.walk(root) if isinstance(e, E.Apply))
    arguments = dict(zip(buffers, arrays, strict=True))
    (out,) = interpret.evaluate([with_c_library(root)], [i], arguments)
    return out


# -- inputs ------------------------------------------------------------------------------------


def bit_patterns(dtype: DType, n: int, seed: int = 0) -> Any:
    """Every kind of float alike: random bits, NaN and infinities left out."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, n * dtype.itemsize, dtype=np.uint8)
    x = bits.view(dtype)
    return x[np.isfinite(x)]


def special_values(dtype: DType) -> Any:
    info = np.finfo(dtype)
    some = [0.0, 1.0, 0.5, 1.5, 2.0, 3.0, 4.0, 7.5, 1e10, info.max, info.tiny,
            info.smallest_subnormal, np.inf, 1 + info.eps, 1 - info.eps]  # fmt: skip
    x = np.array(some, dtype)
    return np.concatenate([x, -x, np.array([np.nan], dtype)])


def inputs(dtype: DType, low: float, high: float, n: int) -> Any:
    """Random bits, the interesting interval, around 0 and 1, multiples of pi/2, specials."""
    rng = np.random.default_rng(1)
    interval = rng.uniform(low, high, n)
    central = rng.uniform(max(low, -2), min(high, 2), n)
    small = rng.choice([-1, 1], n // 2) * np.exp2(rng.uniform(-60, 1, n // 2))
    ones = 1 + np.arange(-60, 60) * np.finfo(dtype).eps
    turns = np.arange(-20, 21) * (np.pi / 2)
    parts = [interval, central, small, ones, -ones, turns, special_values(dtype)]
    x = np.concatenate([p.astype(dtype) for p in parts] + [bit_patterns(dtype, n // 2)])
    return np.unique(x[np.isfinite(x)])


# -- accuracy ----------------------------------------------------------------------------------


def ulps(got: Any, exact: list[Any], dtype: DType) -> Any:
    """Errors in units of the last place of the exact result; 0 where both are not finite alike."""
    info = np.finfo(dtype)
    digits, least = info.nmant + 1, info.minexp - info.nmant
    top = mpmath.mpf(float(info.max)) * (1 + mpmath.mpf(2) ** -(digits + 1))
    errors = np.zeros(len(exact))
    for i, (g, e) in enumerate(zip(got.tolist(), exact, strict=True)):
        if mpmath.isnan(e) or math.isnan(g):
            same = mpmath.isnan(e) and math.isnan(g)
        elif math.isinf(g) or abs(e) >= top:
            same = (math.isinf(g) and abs(e) >= top * (1 - mpmath.mpf(2) ** -digits)) and (
                (e > 0) == (g > 0)
            )
        else:
            exponent = max(mpmath.frexp(e)[1] - digits, least) if e else least
            errors[i] = float(abs(mpmath.mpf(g) - e) / mpmath.mpf(2) ** exponent)
            continue
        errors[i] = 0 if same else np.inf
    return errors


def ulps_by_float64(got: Any, exact: Any) -> Any:
    """The same for float32 results against float64 ones."""
    rounded = exact.astype(np.float32)
    unit = np.ldexp(1.0, np.maximum(np.frexp(exact)[1] - 24, -149))
    error = np.abs(got.astype(np.float64) - exact) / unit
    same = (rounded == got) | (np.isnan(rounded) & np.isnan(got))
    edge = np.isinf(rounded) & (np.abs(got) == np.finfo(np.float32).max) & (abs(exact) < 3.40283e38)
    finite = np.isfinite(rounded) & np.isfinite(got)
    return np.where(finite, error, np.where(same | edge, 0, np.inf))


def real(function: Callable[..., Any]) -> Callable[..., Any]:
    """mpmath's function with NaN for poles and complex results."""

    def wrapped(*args: float) -> Any:
        try:
            value = function(*(mpmath.mpf(a) for a in args))
        except (ValueError, ZeroDivisionError, TypeError):
            return mpmath.nan
        return value if isinstance(value, mpmath.mpf) else mpmath.nan

    return wrapped


def at_poles(pole: float, value: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: value if x == pole else function(x)


def clipped(limit: float, function: Callable[..., Any]) -> Callable[..., Any]:
    """Spare mpmath arguments far beyond where a float64 overflows or underflows."""
    return lambda x: function(max(min(x, mpmath.mpf(limit)), mpmath.mpf(-limit)))


def _log(base: int | None) -> Callable[..., Any]:
    def log(x: Any) -> Any:
        return mpmath.log(x) if base is None else mpmath.log(x) / mpmath.log(base)

    return at_poles(0, -mpmath.inf, log)


def _cbrt(x: Any) -> Any:
    return mpmath.sign(x) * mpmath.cbrt(abs(x))


def _arctanh(x: Any) -> Any:
    return mpmath.sign(x) * mpmath.inf if abs(x) == 1 else mpmath.atanh(x)


def _erfinv(x: Any) -> Any:
    return mpmath.sign(x) * mpmath.inf if abs(x) == 1 else mpmath.erfinv(x)


# name: (interval float32, interval float64, float64 reference, mpmath reference)
UNARY: dict[str, tuple[Any, Any, Callable[..., Any], Callable[..., Any]]] = {
    "exp": ((-105, 90), (-750, 711), np.exp, clipped(2e3, mpmath.exp)),
    "exp2": ((-152, 129), (-1080, 1025), np.exp2, clipped(3e3, lambda x: mpmath.mpf(2) ** x)),
    "expm1": ((-20, 90), (-40, 711), np.expm1, clipped(2e3, mpmath.expm1)),
    "log": ((0, 9), (0, 9), np.log, _log(None)),
    "log2": ((0, 9), (0, 9), np.log2, _log(2)),
    "log10": ((0, 9), (0, 9), np.log10, _log(10)),
    "log1p": ((-1, 9), (-1, 9), np.log1p, at_poles(-1, -mpmath.inf, mpmath.log1p)),
    "logistic": ((-105, 90), (-750, 40), scipy.special.expit,
                 clipped(2e3, lambda x: 1 / (1 + mpmath.exp(-x)))),
    "rsqrt": ((0, 9), (0, 9), lambda x: 1 / np.sqrt(x), lambda x: 1 / mpmath.sqrt(x)),
    "sqrt": ((0, 9), (0, 9), np.sqrt, mpmath.sqrt),
    "cbrt": ((-9, 9), (-9, 9), np.cbrt, _cbrt),
    "sin": ((-1.3e5, 1.3e5), (-1e9, 1e9), np.sin, mpmath.sin),
    "cos": ((-1.3e5, 1.3e5), (-1e9, 1e9), np.cos, mpmath.cos),
    "tan": ((-1.3e5, 1.3e5), (-1e9, 1e9), np.tan, mpmath.tan),
    "arcsin": ((-1, 1), (-1, 1), np.arcsin, mpmath.asin),
    "arccos": ((-1, 1), (-1, 1), np.arccos, mpmath.acos),
    "arctan": ((-9, 9), (-9, 9), np.arctan, mpmath.atan),
    "sinh": ((-90, 90), (-711, 711), np.sinh, clipped(2e3, mpmath.sinh)),
    "cosh": ((-90, 90), (-711, 711), np.cosh, clipped(2e3, mpmath.cosh)),
    "tanh": ((-10, 10), (-20, 20), np.tanh, clipped(2e3, mpmath.tanh)),
    "arcsinh": ((-99, 99), (-99, 99), np.arcsinh, mpmath.asinh),
    "arccosh": ((1, 99), (1, 99), np.arccosh, mpmath.acosh),
    "arctanh": ((-1, 1), (-1, 1), np.arctanh, _arctanh),
    "erf": ((-4, 4), (-6, 6), scipy.special.erf, clipped(1e2, mpmath.erf)),
    "erfc": ((-4, 10.2), (-6, 27.3), scipy.special.erfc, clipped(1e2, mpmath.erfc)),
    "erfinv": ((-1, 1), (-1, 1), scipy.special.erfinv, _erfinv),
    "digamma": ((0, 60), (0, 60), scipy.special.digamma, lambda x: mpmath.psi(0, x)),
    "lgamma": ((0, 60), (0, 60), scipy.special.gammaln, mpmath.loggamma),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_float32_is_within_two_units(name: str) -> None:
    (low, high), _, reference, _ = UNARY[name]
    x = inputs(float32, low, high, 6000)
    if name in ("digamma", "lgamma"):
        x = x[x > 0]
    errors = ulps_by_float64(run(name, x), reference(x.astype(np.float64)))
    worst = np.argmax(errors)
    assert errors[worst] <= LIMIT, f"{name}({x[worst]!r}): {errors[worst]} ulp"


@pytest.mark.parametrize("name", UNARY)
def test_float64_is_within_two_units(name: str) -> None:
    _, (low, high), _, reference = UNARY[name]
    x = inputs(float64, low, high, 100 if name in ("erfinv", "lgamma", "digamma") else 400)
    if name in ("digamma", "lgamma", "rsqrt"):
        x = x[(x > 0) & (x < 1e300)]
    with mpmath.workprec(1200 if name in ("sin", "cos", "tan") else 160):
        errors = ulps(run(name, x), [real(reference)(v) for v in x.tolist()], float64)
    worst = np.argmax(errors)
    limit = 4 if name in ("digamma", "lgamma") else LIMIT
    assert errors[worst] <= limit, f"{name}({x[worst]!r}): {errors[worst]} ulp"


def test_digamma_of_negative_numbers_errs_relative_to_its_terms() -> None:
    """Near its zeros between the poles two large terms cancel."""
    x = np.random.default_rng(0).uniform(-20, 0, 200)
    with mpmath.workprec(160):
        expected = np.array([float(mpmath.psi(0, v)) for v in x])
        terms = np.array([float(abs(mpmath.psi(0, 1 - v)) + abs(mpmath.cot(mpmath.pi * v)))
                          for v in x])  # fmt: skip
    np.testing.assert_array_less(np.abs(run("digamma", x) - expected), 1e-14 * terms)


def _logaddexp2(a: Any, b: Any) -> Any:
    return mpmath.log(mpmath.mpf(2) ** a + mpmath.mpf(2) ** b) / mpmath.log(2)


# -- compiled ----------------------------------------------------------------------------------


def compiled(name: str) -> Callable[..., Any]:
    if name == "rsqrt":
        return tw.compile(lambda x: 1 / np.sqrt(x))
    return tw.compile(getattr(np, name, None) or getattr(special, SCIPY.get(name, name)))


@pytest.mark.parametrize("name", UNARY)
def test_compiled_float32_is_within_two_units(name: str) -> None:
    (low, high), _, reference, _ = UNARY[name]
    x = inputs(float32, low, high, 6000)
    if name in ("digamma", "lgamma"):
        x = x[x > 0]
    errors = ulps_by_float64(compiled(name)(x), reference(x.astype(np.float64)))
    worst = np.argmax(errors)
    assert errors[worst] <= LIMIT, f"{name}({x[worst]!r}): {errors[worst]} ulp"


@pytest.mark.parametrize("name", UNARY)
def test_compiled_float64_is_as_the_interpreted(name: str) -> None:
    """Both are within the limit of the exact value, so they differ by less than twice that."""
    _, (low, high), _, _ = UNARY[name]
    x = inputs(float64, low, high, 2000)
    if name in ("digamma", "lgamma"):
        x = x[(x > 0) & (x < 1e300)]
    got, expected = compiled(name)(x), run(name, x)
    same = np.isnan(got) & np.isnan(expected) | (got == expected)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.spacing(np.abs(expected))
        errors = np.where(same, 0, np.abs(got - expected) / unit)
    worst = np.argmax(errors)
    assert errors[worst] <= 2 * LIMIT, f"{name}({x[worst]!r}): {errors[worst]} ulp"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_compiled_special_values_are_numpys(name: str, dtype: DType) -> None:
    x = kept_specials(name, dtype)
    with np.errstate(all="ignore"):
        assert_same_specials(compiled(name)(x), reference_of(name)(x), x)


def run_portable(lowered: Any, x: Any) -> Any:
    """The program as printed for any machine, run on this one."""
    text = llvm.print_program(lowered.program)
    name = jit.symbol(text)
    program = jit.load(jit.object_code(llvm.named(text, name), host()), name, host())
    out, arena = np.empty_like(x), np.empty(max(lowered.arena_bytes, 1), np.uint8)
    program.call(jit.pointers([a.ctypes.data for a in (x, out, arena)]))
    return out


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["exp", "exp2", "log", "log2", "log10", "logistic", "tanh", "cosh",
                                  "cbrt", "erf", "erfc", "arcsinh"])  # fmt: skip
def test_every_machine_comes_to_the_same_bits(name: str, dtype: DType) -> None:
    (low, high), (low_double, high_double), *_ = UNARY[name]
    ends = (low, high) if dtype == float32 else (low_double, high_double)
    x = np.concatenate([special_values(dtype), inputs(dtype, *ends, 2000)])
    f = compiled(name)
    assert_same_bits(run_portable(f.lower(x), x), f(x), x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 37])
def test_compiled_rows_of_any_length_use_the_same_arithmetic(dtype: DType, n: int) -> None:
    """Vectors of every width, and single numbers, come to the same bits."""
    long = np.linspace(0.01, 9, 512).astype(dtype)
    for name in ("exp", "log", "cbrt"):
        f = compiled(name)
        assert_same_bits(f(long[:n].copy()), f(long)[:n], long[:n])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", sorted(OPTIONAL - TABLED))  # test_tables.py has those
def test_optional_operations_mean_the_same_where_a_machine_lacks_them(
    name: str, dtype: DType
) -> None:
    x = np.concatenate([bit_patterns(dtype, 2000), special_values(dtype)])
    arrays = [x]
    if name == "scale":
        x = np.abs(np.frexp(x)[0]) + dtype.type(0.5)
        info = np.finfo(dtype)
        n = np.random.default_rng(12).integers(2 * info.minexp, 2 * info.maxexp - 4, len(x))
        arrays = [x, n.astype(dtype)]
    meaning = MACHINE[name].numpy
    with np.errstate(all="ignore"):
        assert_same_bits(run(name, *arrays), meaning(*arrays), *arrays)


BINARY: dict[str, tuple[Any, Callable[..., Any]]] = {
    "arctan2": ((-3, 3), mpmath.atan2),
    "hypot": ((-3, 3), mpmath.hypot),
    "logaddexp": ((0, 30), lambda a, b: mpmath.log(mpmath.exp(a) + mpmath.exp(b))),
    "logaddexp2": ((0, 30), _logaddexp2),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_two_operands_are_within_two_units(name: str, dtype: DType) -> None:
    (low, high), reference = BINARY[name]
    x, y = np.random.default_rng(2).uniform(low, high, (2, 500)).astype(dtype)
    if low < 0:
        n = 700
        x = np.concatenate([x, bit_patterns(dtype, n, 3)])[:n]
        y = np.concatenate([y, bit_patterns(dtype, n, 4)])[:n]
    with mpmath.workprec(160):
        exact = [real(reference)(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        errors = ulps(run(name, x, y), exact, dtype)
    worst = np.argmax(errors)
    assert errors[worst] <= LIMIT, f"{name}({x[worst]!r}, {y[worst]!r}): {errors[worst]} ulp"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_power_is_within_two_units_up_to_the_ends_of_the_range(dtype: DType) -> None:
    """Exponents chosen so that results fill the whole range, subnormals included."""
    rng = np.random.default_rng(5)
    n, info = 700, np.finfo(dtype)
    exponents = rng.uniform(info.minexp - info.nmant, info.maxexp, 3 * n)
    x = np.concatenate([
        np.exp2(rng.uniform(info.minexp, info.maxexp - 1, n)),
        rng.uniform(0.5, 2, n),
        1 + rng.uniform(-1, 1, n) / 1000,
    ]).astype(dtype)  # fmt: skip
    y = (exponents / np.log2(x.astype(np.float64))).astype(dtype)
    with mpmath.workprec(160):
        pairs = zip(x.tolist(), y.tolist(), strict=True)
        exact = [real(mpmath.power)(a, b) for a, b in pairs]
        errors = ulps(run("power", x, y), exact, dtype)
        faster = ulps(tw.compile(np.power)(x, y), exact, dtype)
    for e in (errors, faster):
        worst = np.argmax(e)
        assert e[worst] <= LIMIT, f"{x[worst]!r} ** {y[worst]!r}: {e[worst]} ulp"


# -- special values ----------------------------------------------------------------------------

SCIPY = {"logistic": "expit", "lgamma": "gammaln"}


def reference_of(name: str) -> Callable[..., Any]:
    if name == "rsqrt":
        return lambda x: 1 / np.sqrt(x)
    return getattr(np, name, None) or getattr(scipy.special, SCIPY.get(name, name))


def assert_same_bits(got: Any, expected: Any, *operands: Any) -> None:
    """Equal to the bit, except that any NaN is as good as another."""
    assert got.dtype == expected.dtype
    unsigned = np.dtype(f"u{got.dtype.itemsize}")
    same = got.view(unsigned) == expected.view(unsigned)
    if dtypes.is_float(got.dtype):
        same |= np.isnan(got) & np.isnan(expected)
    wrong = np.flatnonzero(~same)[:5]
    shown = [(*(o[i] for o in operands), got[i], expected[i]) for i in wrong]
    assert not len(wrong), f"operands, got, expected: {shown}"


def assert_same_specials(got: Any, expected: Any, *operands: Any) -> None:
    """Zeros with their signs, infinities and NaN are the same; other values are not looked at."""
    special = ~np.isfinite(expected) | (expected == 0) | ~np.isfinite(got)
    kept = [o[special] for o in operands]
    assert_same_bits(got[special], expected[special], *kept)


def kept_specials(name: str, dtype: DType) -> Any:
    """The special values at which NumPy or SciPy are right."""
    x = special_values(dtype)
    if name == "lgamma":  # SciPy's is -inf at -inf, and inf at subnormals
        x = x[(x != -np.inf) & ((x == 0) | (np.abs(x) >= np.finfo(dtype).tiny) | np.isnan(x))]
    return x


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_special_values_of_one_operand_are_numpys(name: str, dtype: DType) -> None:
    x = kept_specials(name, dtype)
    assert_same_specials(run(name, x), reference_of(name)(x), x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["power", "arctan2", "hypot", "logaddexp", "logaddexp2"])
def test_special_values_of_two_operands_are_numpys(name: str, dtype: DType) -> None:
    one = special_values(dtype)
    x, y = (v.ravel() for v in np.meshgrid(one, one))
    expected = reference_of(name)(x, y)
    if name.startswith("logaddexp"):  # near its zeros all digits are cancelled
        kept = ~(np.abs(expected) < 1e-3)
        x, y, expected = x[kept], y[kept], expected[kept]
    assert_same_specials(run(name, x, y), expected, x, y)
    assert_same_specials(compiled(name)(x, y), expected, x, y)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 4.0, -1.0, -0.5, 0.5, -2.0, 1.5,
                                      2.5, 3.5, -1.5, -3.0, 5.0, -6.0, 16.0, 17.0])  # fmt: skip
def test_a_literal_exponent_is_no_less_accurate(exponent: float) -> None:
    x = np.concatenate([special_values(float32), np.linspace(0, 9, 999, dtype=np.float32)])
    x = np.concatenate([x, bit_patterns(float32, 2000, 13)])
    i = E.axis("i", len(x))
    buffer = E.Buffer("x", float32, (len(x),))
    (root,) = expand([applied("power", float32, buffer[i], E.literal(exponent, float32))])
    (got,) = interpret.evaluate([root], [i], {buffer: x})
    assert_same_specials(got, np.power(x, np.full_like(x, exponent)), x)
    errors = ulps_by_float64(got, np.power(x.astype(np.float64), exponent))
    assert np.max(errors[np.isfinite(got)]) <= LIMIT


EXACT = ["add", "subtract", "multiply", "divide", "fmod", "remainder", "floor_divide", "maximum",
         "minimum", "fmax", "fmin", "copysign", "nextafter", "heaviside"]  # fmt: skip
EXACT_UNARY = ["negative", "positive", "absolute", "square", "reciprocal", "sign", "sqrt", "floor",
               "ceil", "trunc", "rint"]  # fmt: skip
COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
PREDICATES = ["isnan", "isinf", "isfinite", "signbit"]


@pytest.mark.parametrize("dtype", [float16, *FLOATS], ids=str)
@pytest.mark.parametrize("name", [*EXACT, *COMPARISONS])
def test_exact_functions_equal_numpys_to_the_bit(name: str, dtype: DType) -> None:
    one = special_values(dtype)
    x, y = (v.ravel() for v in np.meshgrid(one, one))
    a, b = bit_patterns(dtype, 600, 6)[:500], bit_patterns(dtype, 600, 7)[:500]
    near = np.random.default_rng(8).integers(-40, 40, (2, 500)).astype(dtype) / 4
    x, y = np.concatenate([x, a, near[0]]), np.concatenate([y, b, near[1]])
    expected = getattr(np, name)(x, y)
    # Of two zeros NumPy gives either, and its float16 nextafter the first.
    if name in ("fmax", "fmin", "maximum", "minimum", "nextafter"):
        x, y, expected = (v[(x != 0) | (y != 0)] for v in (x, y, expected))
    if dtype == float16 and name in ("floor_divide", "remainder"):
        # float16 quotients are exact in float32 here; NumPy's pass through rounded float16 ones.
        wide = getattr(np, name)(x.astype(np.float32), y.astype(np.float32))
        expected = wide.astype(dtype)
    got = run(name, x, y, dtype=expected.dtype)
    assert_same_bits(got, expected, x, y)


@pytest.mark.parametrize("dtype", [float16, *FLOATS], ids=str)
@pytest.mark.parametrize("name", [*EXACT_UNARY, *PREDICATES])
def test_exact_functions_of_one_operand_equal_numpys(name: str, dtype: DType) -> None:
    x = np.concatenate([special_values(dtype), bit_patterns(dtype, 2000)])
    x = np.concatenate([x, np.linspace(-5, 5, 101).astype(dtype)])
    expected = getattr(np, name)(x)
    assert_same_bits(run(name, x, dtype=expected.dtype), expected, x)


def test_clamp_keeps_nan_and_the_upper_bound_wins() -> None:
    x = np.array([-2, 0.5, 3, np.nan, np.inf], np.float32)
    low, high = np.full_like(x, -1), np.full_like(x, 1)
    assert_same_bits(run("clamp", low, x, high), np.clip(x, low, high), x)
    assert_same_bits(run("clip", x, high, low), np.clip(x, high, low), x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_angles_convert_and_ldexp_scales(dtype: DType) -> None:
    x = np.linspace(-400, 400, 999).astype(dtype)
    for name in ("deg2rad", "rad2deg"):
        np.testing.assert_array_max_ulp(run(name, x), getattr(np, name)(x), 2)
    n = np.random.default_rng(9).integers(-2200, 2200, 999).astype(np.int32)
    assert_same_bits(run("ldexp", x, n), np.ldexp(x, n), x, n)


# -- integers and bools ------------------------------------------------------------------------

INT_BINARY = ["add", "subtract", "multiply", "floor_divide", "remainder", "fmod", "maximum",
              "minimum", "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift",
              *COMPARISONS]  # fmt: skip
INT_UNARY = ["negative", "positive", "absolute", "square", "sign", "invert", "bitwise_count",
             "floor", "isnan", "isfinite"]  # fmt: skip
WIDE = [dtypes.int16, dtypes.int32, dtypes.int64, dtypes.uint16, dtypes.uint32, dtypes.uint64]


def integers(dtype: DType, n: int, seed: int = 0) -> Any:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    edge = [info.min, info.max, info.min + 1, info.max - 1, 0, 1, 2, 3, 7, 8, 15, 31, 63, 64, 100]
    some = np.array(edge, dtype)
    with np.errstate(over="ignore"):
        drawn = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
        return np.concatenate([some, (0 - some).astype(dtype), drawn, drawn % 16])


@pytest.mark.parametrize("dtype", [dtypes.int8, dtypes.uint8], ids=str)
@pytest.mark.parametrize("name", [*INT_BINARY, "power"])
def test_every_pair_of_bytes_gives_numpys_result(name: str, dtype: DType) -> None:
    info = np.iinfo(dtype)
    every = np.arange(info.min, info.max + 1).astype(dtype)
    x, y = (v.ravel() for v in np.meshgrid(every, every))
    if name == "power":
        x, y = x[y >= 0], y[y >= 0]
    expected = getattr(np, name)(x, y)
    assert_same_bits(run(name, x, y, dtype=expected.dtype), expected, x, y)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("name", [*INT_BINARY, "power"])
def test_wide_integers_give_numpys_result(name: str, dtype: DType) -> None:
    x, y = (v.ravel() for v in np.meshgrid(integers(dtype, 20), integers(dtype, 20, 1)))
    if name == "power":
        x, y = x[y >= 0], y[y >= 0]
    expected = getattr(np, name)(x, y)
    assert_same_bits(run(name, x, y, dtype=expected.dtype), expected, x, y)


@pytest.mark.parametrize("dtype", [dtypes.int8, dtypes.uint8, *WIDE], ids=str)
@pytest.mark.parametrize("name", INT_UNARY)
def test_integers_of_one_operand_give_numpys_result(name: str, dtype: DType) -> None:
    x = integers(dtype, 500)
    expected = getattr(np, name)(x)
    assert_same_bits(run(name, x, dtype=expected.dtype), expected, x)


@pytest.mark.parametrize("name", [
    "add", "multiply", "maximum", "minimum", "logical_and", "logical_or", "logical_xor",
    "bitwise_and", "bitwise_or", "bitwise_xor", *COMPARISONS])  # fmt: skip
def test_bools_follow_numpys_truth_tables(name: str) -> None:
    x, y = np.array([False, False, True, True]), np.array([False, True, False, True])
    assert run(name, x, y).tolist() == getattr(np, name)(x, y).tolist()
    assert run("logical_not", x).tolist() == (~x).tolist() == run("invert", x).tolist()


def test_positions_are_elements_where_a_function_is_applied() -> None:
    i = E.axis("i", 12)
    (root,) = expand([applied("remainder", dtypes.int64, i - 6, E.literal(-4, dtypes.int64))])
    E.verify(root)
    (out,) = interpret.evaluate([root], [i], {})
    assert out.tolist() == [(k - 6) % -4 for k in range(12)]


# -- 16-bit floats -----------------------------------------------------------------------------


def every_half(dtype: DType) -> Any:
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
@pytest.mark.parametrize("name", ["negative", "absolute", "sqrt", "floor", "sign", "isnan"])
def test_every_16_bit_float_gives_numpys_result(name: str, dtype: DType) -> None:
    x = every_half(dtype)
    if name == "sign":  # of -0 it is -0 in ml_dtypes, and 0 in NumPy
        x = x[x != 0]
    expected = getattr(np, name)(x)
    assert_same_bits(run(name, x, dtype=expected.dtype), expected, x)


@pytest.mark.parametrize("name", ["add", "multiply", "divide", "maximum", "less", "nextafter"])
def test_pairs_of_bfloat16_give_numpys_result(name: str) -> None:
    rng = np.random.default_rng(10)
    x, y = rng.permutation(every_half(bfloat16)), rng.permutation(every_half(bfloat16))
    near = rng.uniform(-4, 4, (2, 5000)).astype(bfloat16)
    x, y = np.concatenate([x, near[0]]), np.concatenate([y, near[1]])
    expected = getattr(np, name)(x, y)
    assert_same_bits(run(name, x, y, dtype=expected.dtype), expected, x, y)


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
@pytest.mark.parametrize("name", ["exp", "tanh", "sin", "log"])
def test_16_bit_functions_are_float32_ones_rounded(name: str, dtype: DType) -> None:
    x = every_half(dtype)[::7]
    expected = run(name, x.astype(np.float32)).astype(dtype)
    assert_same_bits(run(name, x), expected, x)


@pytest.mark.parametrize("dtype", [dtypes.int32, dtypes.int64, dtypes.uint8, dtypes.bool_, float16,
                                   float32, float64], ids=str)  # fmt: skip
def test_casts_to_and_from_bfloat16_are_ml_dtypes(dtype: DType) -> None:
    def cast(x: Any, to: DType) -> Any:
        i = E.axis("i", len(x))
        buffer = E.Buffer("x", x.dtype, (len(x),))
        (root,) = expand([E.apply("cast", buffer[i], dtype=to)])
        assert all(e.op.name != "cast" or bfloat16 not in (e.dtype, e.args[0].type)
                   for e in E.walk(root) if isinstance(e, E.Apply))  # fmt: skip
        return interpret.evaluate([root], [i], {buffer: x})[0]

    rng = np.random.default_rng(11)
    if dtypes.is_float(dtype):
        x = rng.integers(0, 256, 4000 * dtype.itemsize, dtype=np.uint8).view(dtype)
    else:
        x = rng.integers(0, 2 if dtypes.is_bool(dtype) else 200, 500).astype(dtype)
    assert_same_bits(cast(x, bfloat16), x.astype(bfloat16), x)
    small = np.arange(0, 120, 0.5).astype(bfloat16)
    assert_same_bits(cast(small, dtype), small.astype(dtype), small)


def test_bfloat16_literals_become_bits_and_are_folded_where_computed() -> None:
    i = E.axis("i", 3)
    buffer = E.Buffer("x", bfloat16, (3,))
    two = E.literal(2.0, bfloat16)
    total, chosen = expand([
        applied("add", bfloat16, buffer[i], two),
        E.select(applied("less", dtypes.bool_, buffer[i], two), two, buffer[i]),
    ])  # fmt: skip
    literals = [e for e in E.walk(total, chosen) if isinstance(e, E.Lit)]
    assert E.literal(2.0, float32) in literals
    assert all(e.dtype != bfloat16 for e in literals)
    x = np.array([1, 2.5, -3], ml_dtypes.bfloat16)
    got = interpret.evaluate([total, chosen], [i], {buffer: x})
    assert_same_bits(got[0], x + np.array(2, ml_dtypes.bfloat16), x)
    assert_same_bits(got[1], np.maximum(x, np.array(2, ml_dtypes.bfloat16)), x)


# -- functions composed ------------------------------------------------------------------------


def gate(x: Any) -> Any:
    return 1 + np.tanh(x)


def scaled_gate(x: Any) -> Any:
    return np.tanh(x * 0.5 + x) * 1 + 1, (np.tanh(x) + 1) * (0.5 * x), x * (1 + np.tanh(x))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_and_tanh_keep_the_digits_that_the_sum_loses(dtype: DType) -> None:
    low, high = (-40, 12) if dtype == float32 else (-300, 22)
    x = inputs(dtype, low, high, 2000)
    x = x[(x > low) & (x < 1e30)]
    with mpmath.workprec(1200):
        exact = [1 + mpmath.tanh(mpmath.mpf(v)) for v in x.tolist()]
        errors = ulps(tw.compile(gate)(x), exact, dtype)
    assert errors.max() <= 2.5, x[np.argmax(errors)]
    ends = np.array([-np.inf, -1e30, np.inf, np.nan], dtype)
    assert_same_bits(tw.compile(gate)(ends), gate(ends), ends)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("factor", [-2.0, 0.7978845608, 1 / 3, -1e-5, 3e5])
def test_a_factor_goes_into_the_constants(factor: float, dtype: DType) -> None:
    factor = float(dtype.type(factor))
    low, high = (-35, 12) if dtype == float32 else (-280, 22)
    x = np.random.default_rng(14).uniform(low, high, 1000) / factor
    x = x.astype(dtype)
    with mpmath.workprec(1200):
        exact = [1 + mpmath.tanh(mpmath.mpf(v) * factor) for v in x.tolist()]
        errors = ulps(tw.compile(lambda x: 1 + np.tanh(dtype.type(factor) * x))(x), exact, dtype)
    assert errors.max() <= 2.5, x[np.argmax(errors)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_gate_times_something_is_numpys(dtype: DType) -> None:
    big = np.finfo(dtype).max
    x = np.concatenate([np.linspace(-2, 9, 999), [0, -0.0, 1e4, big * 0.9, np.inf, np.nan]])
    x = x.astype(dtype)
    with np.errstate(all="ignore"):
        expected = scaled_gate(x)
    for got, want in zip(tw.compile(scaled_gate)(x), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e3 * np.finfo(dtype).eps)


def test_a_gate_has_one_exponential_and_no_tanh() -> None:
    """Unless tanh is read by something else too."""
    x = E.Buffer("x", float32, (8,))[E.axis("i", 8)]
    tanh = applied("tanh", float32, x)
    total = applied("add", float32, E.literal(1, float32), tanh)
    product = applied(
        "multiply", float32, applied("multiply", float32, E.literal(0.5, float32), x), total
    )
    (root,) = expand([product], OPTIONAL)
    names = [e.op.name for e in E.walk(root) if isinstance(e, E.Apply)]
    assert names.count("div") == names.count("scale_floor") == 1 and "or" not in names
    kept = [e.op.name for e in E.walk(*expand([product, tanh])) if isinstance(e, E.Apply)]
    assert kept.count("div") == 1 and "or" in kept


# -- the pass ----------------------------------------------------------------------------------


def test_machine_expressions_come_back_as_the_same_object() -> None:
    x = E.Buffer("x", float32, (8,))[E.axis("i", 8)]
    root = E.fma(x, x + 1.0, E.apply("sqrt", x))
    assert expand([root])[0] is root


def test_expansion_is_idempotent_and_shared() -> None:
    x = E.Buffer("x", float32, (8,))[E.axis("i", 8)]
    once = expand([applied("exp", float32, x), applied("exp", float32, x)])
    assert once[0] is once[1]
    assert expand(once) == once


def test_a_chain_of_ten_thousand_functions_needs_no_recursion() -> None:
    e: E.Expr = E.Buffer("x", float32, (8,))[E.axis("i", 8)]
    for _ in range(10_000):
        e = applied("negative", float32, e)
    (root,) = expand([e])
    assert all(a.op.machine for a in E.walk(root) if isinstance(a, E.Apply))


def test_an_unknown_function_is_named() -> None:
    x = E.Buffer("x", float32, (8,))[E.axis("i", 8)]
    with pytest.raises(
        InternalError, match="no expansion for the elementwise function 'frobnicate'"
    ):
        expand([applied("frobnicate", float32, x)])


def test_every_operation_of_the_elementwise_table_has_an_expansion() -> None:
    from tilewright.ops import elementwise

    names = {v.row.scalar.name for v in vars(elementwise).values()
             if isinstance(v, elementwise.Elementwise)}  # fmt: skip
    complex_only = {"real", "imag", "complex"}
    assert names - complex_only <= set(EXPANSIONS)
