"""Every function of the NumPy namespace, traced, against NumPy itself: shape, dtype, values.

A case is a function written with `np.` and its arguments. Traced, NumPy's own dispatch brings it to
ours; called on ordinary arrays it is NumPy's. Shapes include 0, 1 and primes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tilewright.numpy as tnp
from running import check, run, same
from tilewright import errors

Case = tuple[Callable[..., Any], tuple[Any, ...]]


def numbers(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    """Ordinary numbers of a type, small ones if it is an integer."""
    rng = np.random.default_rng([*shape, seed, 7])
    x = rng.normal(size=shape) * 2
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.normal(size=shape)
    if np.dtype(dtype).kind in "ui":
        x = rng.integers(0 if np.dtype(dtype).kind == "u" else -9, 10, shape)
    if np.dtype(dtype).kind == "b":
        x = x > 0
    return np.asarray(x).astype(dtype)


def holed(*shape: int, dtype: Any = np.float64) -> Any:
    """Numbers of which some are NaN, in one line all."""
    x = numbers(*shape, dtype=dtype)
    x[np.random.default_rng(3).random(shape) < 0.3] = np.nan
    if x.size:
        x[0] = np.nan
    return x


X, Y, V, W = numbers(3, 5), numbers(5, 7), numbers(7), numbers(7, seed=1)
B, I, C = numbers(3, 5, dtype=bool), numbers(3, 5, dtype=np.int32), numbers(3, 5, dtype=complex)
T, E, ONE = numbers(2, 3, 5), numbers(0, 3), numbers(1)
B[:, 0] = True  # so that no mean is of nothing
POSITIVE = numbers(4, 4) @ numbers(4, 4).T + 4 * np.eye(4)
DTYPES = [bool, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64, np.complex64]


def named(cases: dict[str, Case]) -> Any:
    """Parametrise over a table of cases."""
    params = [pytest.param(f, args, id=name) for name, (f, args) in cases.items()]
    return pytest.mark.parametrize(("f", "args"), params)


# -- creation ----------------------------------------------------------------------------------

CREATION: dict[str, Case] = {
    "zeros_like": (lambda x: np.zeros_like(x), (I,)),
    "ones_like dtype": (lambda x: np.ones_like(x, dtype=np.float32), (I,)),
    "full_like": (lambda x: np.full_like(x, 2.7), (I,)),
    "empty_like shape": (lambda x: np.empty_like(x, shape=(0, 2)), (I,)),
    "linspace": (lambda a, b: np.linspace(a, b, 7), (np.array(1.0), np.array(5.0))),
    "linspace arrays": (lambda a, b: np.linspace(a, b, 5, axis=-1), (V, W)),
    "linspace open": (lambda a: np.linspace(a, 3, 4, endpoint=False, retstep=True), (V,)),
    "linspace one": (lambda a: np.linspace(a, 3, 1), (V,)),
    "linspace ints": (lambda a: np.linspace(a, 30, 7, dtype=int), (np.array(1),)),
    "logspace": (lambda a: np.logspace(a, 2, 5), (np.array(0.0),)),
    "geomspace": (lambda a: np.geomspace(a, 256, 9), (np.array(1.0),)),
    "tril": (np.tril, (X,)),
    "triu k": (lambda x: np.triu(x, -1), (T,)),
    "tril empty": (np.tril, (E,)),
    "diag vector": (lambda x: np.diag(x, 1), (V,)),
    "diag matrix": (lambda x: np.diag(x, -1), (X,)),
    "diagflat": (np.diagflat, (X,)),
    "diagonal": (lambda x: np.diagonal(x, 1, 1, 2), (T,)),
    "diagonal wide": (lambda x: np.diagonal(x, -1), (numbers(7, 3),)),
    "diagonal none": (lambda x: np.diagonal(x, 9), (X,)),
    "trace": (np.trace, (X,)),
    "trace ints": (lambda x: np.trace(x, 1), (I,)),
    "vander": (lambda x: np.vander(x, 4), (V,)),
    "vander rising": (lambda x: np.vander(x, increasing=True), (I[0],)),
    "meshgrid": (np.meshgrid, (V, X[0], ONE)),
    "meshgrid ij": (partial(np.meshgrid, indexing="ij"), (V, X[0])),
    "meshgrid sparse": (partial(np.meshgrid, sparse=True), (V, X[0])),
    "copy": (np.copy, (X,)),
    "asarray": (lambda x: tnp.asarray(x, dtype=np.float32), (X,)),
    "astype": (lambda x: np.astype(x, np.int16), (X,)),
}  # fmt: skip


@named(CREATION)
def test_creation(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(lambda *a: list(r) if isinstance(r := f(*a), tuple) else r, *args)


SCRATCH: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda np: np.zeros((2, 3)),
    "ones": lambda np: np.ones(4, np.int32),
    "empty": lambda np: np.empty((0, 3), np.float32),
    "full": lambda np: np.full((2, 2), 7),
    "arange": lambda np: np.arange(7),
    "arange floats": lambda np: np.arange(0.5, 3, 0.25),
    "arange down": lambda np: np.arange(9, 0, -2),
    "arange none": lambda np: np.arange(0),
    "eye": lambda np: np.eye(3, 4, 1),
    "identity": lambda np: np.identity(3),
    "tri": lambda np: np.tri(3, 5, -1),
    "indices": lambda np: np.indices((2, 3)),
    "linspace": lambda np: np.linspace(0, 1, 5),
    "array": lambda np: np.array([[1, 2], [3, 4.5]]),
    "fromfunction": lambda np: np.fromfunction(lambda i, j: i * 2 + j, (3, 4)),
}


@pytest.mark.parametrize("name", SCRATCH)
def test_creation_from_nothing(name: str) -> None:
    """Inside a trace the namespace makes traced arrays, outside NumPy's."""
    f = SCRATCH[name]
    assert isinstance(f(tnp), np.ndarray)
    expected = f(np)
    got = run(lambda x: (f(tnp) + 0 * x.astype(np.int8)).astype(expected.dtype), np.array(1))
    same(got, expected)


def test_created_arrays_are_assignable() -> None:
    def f(x: Any) -> Any:
        a = tnp.zeros((3,))
        a[1] = x
        b = tnp.array([x, 2 * x, 1])
        np.fill_diagonal(c := tnp.zeros((2, 2)), x)
        return a, b, c

    same(run(f, np.array(2.5)), (np.array([0, 2.5, 0]), np.array([2.5, 5, 1]), 2.5 * np.eye(2)))


# -- shape -------------------------------------------------------------------------------------

PAD_MODES = ["edge", "reflect", "symmetric", "wrap", "linear_ramp", "maximum", "mean", "median"]
SHAPE: dict[str, Case] = {
    "reshape": (lambda x: np.reshape(x, (5, -1)), (X,)),
    "reshape F": (lambda x: np.reshape(x, (5, 3), order="F"), (X,)),
    "reshape empty": (lambda x: np.reshape(x, (3, 0, 2)), (E,)),
    "ravel": (np.ravel, (T,)),
    "ravel F": (lambda x: np.ravel(x, "F"), (T,)),
    "transpose": (np.transpose, (T,)),
    "transpose axes": (lambda x: np.transpose(x, (1, -1, 0)), (T,)),
    "swapaxes": (lambda x: np.swapaxes(x, 0, -1), (T,)),
    "moveaxis": (lambda x: np.moveaxis(x, (0, 1), (-1, 0)), (T,)),
    "rollaxis": (lambda x: np.rollaxis(x, 2), (T,)),
    "expand_dims": (lambda x: np.expand_dims(x, (0, -1)), (X,)),
    "squeeze": (lambda x: np.squeeze(x[None, :, None]), (X,)),
    "squeeze axis": (lambda x: np.squeeze(x[None, :, None], axis=2), (X,)),
    "atleast_1d": (np.atleast_1d, (np.array(2.0),)),
    "atleast_2d": (np.atleast_2d, (V,)),
    "atleast_3d": (np.atleast_3d, (X,)),
    "flip": (np.flip, (T,)),
    "flip axes": (lambda x: np.flip(x, (0, 2)), (T,)),
    "flipud": (np.flipud, (X,)),
    "fliplr": (np.fliplr, (X,)),
    **{f"rot90 {k}": (lambda x, k=k: np.rot90(x, k), (X,)) for k in (-1, 0, 1, 2)},
    "broadcast_to": (lambda x: np.broadcast_to(x, (4, 3, 5)), (X,)),
    "broadcast_arrays": (lambda x, y: list(np.broadcast_arrays(x, y)), (V, numbers(3, 1))),
    "tile": (lambda x: np.tile(x, (2, 1, 3)), (X,)),
    "tile none": (lambda x: np.tile(x, 0), (X,)),
    "repeat": (lambda x: np.repeat(x, 3, axis=1), (X,)),
    "repeat flat": (lambda x: np.repeat(x, 2), (X,)),
    "repeat counts": (lambda x: np.repeat(x, [0, 2, 1], axis=0), (X,)),
    "resize": (lambda x: np.resize(x, (4, 5)), (V,)),
    "concatenate": (lambda x, y: np.concatenate([x, y], axis=1), (X, numbers(3, 2))),
    "concatenate mixed": (lambda x, y: np.concatenate([x, y, x]), (I, X)),
    "concatenate flat": (lambda x, y: np.concatenate([x, y], axis=None), (X, V)),
    "concatenate empty": (lambda x, y: np.concatenate([x, y]), (E, numbers(2, 3))),
    "stack": (lambda x, y: np.stack([x, y], axis=-1), (X, X)),
    "vstack": (lambda x, y: np.vstack([x, y]), (V, W)),
    "hstack": (lambda x, y: np.hstack([x, y]), (X, numbers(3, 1))),
    "dstack": (lambda x, y: np.dstack([x, y]), (X, X)),
    "column_stack": (lambda x, y: np.column_stack([x, y]), (V, numbers(7, 2))),
    "append": (lambda x: np.append(x, [1, 2]), (V,)),
    "block": (lambda x: np.block([[x, np.zeros((3, 1))], [np.ones((1, 6))]]), (X,)),
    "split": (lambda x: np.split(x, [2, 3, 9]), (V,)),
    "split even": (lambda x: np.split(x, 5, axis=1), (X,)),
    "array_split": (lambda x: np.array_split(x, 3), (V,)),
    "hsplit": (lambda x: np.hsplit(x, 5), (X,)),
    "vsplit": (lambda x: np.vsplit(x, 3), (X,)),
    "dsplit": (lambda x: np.dsplit(x, [1]), (T,)),
    "unstack": (lambda x: list(np.unstack(x, axis=1)), (X,)),
    "roll": (lambda x: np.roll(x, 2), (X,)),
    "roll axis": (lambda x: np.roll(x, (-1, 7), axis=(0, 1)), (X,)),
    "roll empty": (lambda x: np.roll(x, 2, axis=0), (E,)),
    "roll traced": (lambda x, k: np.roll(x, k, axis=1), (X, np.array(3))),
    "delete": (lambda x: np.delete(x, [1, -1], axis=1), (X,)),
    "insert": (lambda x: np.insert(x, 2, 9.5, axis=1), (X,)),
    "insert many": (lambda x: np.insert(x, [1, 1, 3], [7.0, 8.0, 9.0]), (V,)),
    "pad": (lambda x: np.pad(x, ((1, 2), (0, 3))), (X,)),
    "pad values": (lambda x: np.pad(x, 1, constant_values=((1, 2), (3, 4))), (X,)),
    **{
        f"pad {m}": (lambda x, m=m: np.pad(x, ((2, 1), (0, 3)), mode=m), (X,))
        for m in PAD_MODES
    },
    "pad far": (lambda x: np.pad(x, 11, mode="reflect"), (V,)),
    "matrix_transpose": (np.matrix_transpose, (T,)),
}  # fmt: skip


@named(SHAPE)
def test_shape(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(f, *args)


def test_shape_questions_are_python_numbers() -> None:
    def f(x: Any) -> Any:
        assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, 1)) == ((3, 5), 2, 15, 5)
        assert np.result_type(x, np.float32) == np.float64
        assert np.iscomplexobj(x) is False
        assert np.isrealobj(x) is True
        return x

    check(f, X)


# -- elementwise -------------------------------------------------------------------------------

SPECIAL = np.array([0.0, -0.0, 1.5, -2.5, 0.5, np.nan, np.inf, -np.inf, 3.25])
ELEMENTWISE: dict[str, Case] = {
    "where": (lambda c, x: np.where(c, x, 0), (B, X)),
    "where int": (lambda c, x: np.where(c, 1, x), (I, V[:5])),
    "clip": (lambda x: np.clip(x, -1, 1), (X,)),
    "clip low": (lambda x: np.clip(x, None, 2), (I,)),
    "clip names": (lambda x: np.clip(x, min=-1, max=1), (SPECIAL,)),
    "round": (np.round, (SPECIAL,)),
    "round 2": (lambda x: np.round(x, 2), (X,)),
    "round -1": (lambda x: np.round(x * 20, -1), (X,)),
    "round ints": (lambda x: np.round(x * 7, -1), (I,)),
    "fix": (np.fix, (SPECIAL,)),
    "nan_to_num": (np.nan_to_num, (SPECIAL,)),
    "nan_to_num given": (lambda x: np.nan_to_num(x, nan=1, posinf=2, neginf=3), (SPECIAL,)),
    "nan_to_num f32": (np.nan_to_num, (SPECIAL.astype(np.float32),)),
    "nan_to_num complex": (np.nan_to_num, (SPECIAL + 1j,)),
    "real": (np.real, (C,)),
    "real of real": (np.real, (X,)),
    "imag": (np.imag, (C,)),
    "imag of real": (np.imag, (X,)),
    "angle": (np.angle, (C,)),
    "angle deg": (lambda x: np.angle(x, deg=True), (C,)),
    "isreal": (np.isreal, (C,)),
    "isposinf": (np.isposinf, (SPECIAL,)),
    "isneginf": (np.isneginf, (SPECIAL,)),
    "sinc": (np.sinc, (SPECIAL[:5],)),
    "i0": (np.i0, (np.array([0.0, -1, 3, 17, 19, -30]),)),
    "unwrap": (np.unwrap, (np.cumsum(V) * 2,)),
    "divmod": (lambda x: list(np.divmod(x, 3)), (I,)),
    "modf": (lambda x: list(np.modf(x)), (SPECIAL,)),
    "float_power": (lambda x: np.float_power(x, 2), (I,)),
    "fabs": (np.fabs, (X,)),
    "ldexp": (lambda x: np.ldexp(x, I[0]), (V[:5],)),
    "gcd": (lambda x: np.gcd(x * 6, I.T[:5, :3].T * 4), (I,)),
    "lcm": (lambda x: np.lcm(x, 6), (I,)),
    "isclose": (lambda x: np.isclose(x, x + 1e-9), (SPECIAL,)),
    "isclose nan": (lambda x: np.isclose(x, x, equal_nan=True), (SPECIAL,)),
    "allclose": (lambda x: np.allclose(x, x), (X,)),
    "array_equal": (lambda x: np.array_equal(x, x), (SPECIAL,)),
    "array_equal shape": (lambda x: np.array_equal(x, x[1:]), (X,)),
    "array_equiv": (lambda x: np.array_equiv(x, x[:1]), (X,)),
    "isin": (lambda x: np.isin(x, [1, 2, -3]), (I,)),
    "isin not": (lambda x: np.isin(x, np.array([1, 2]), invert=True), (I,)),
}  # fmt: skip


@named(ELEMENTWISE)
def test_elementwise(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(f, *args)


# -- reductions --------------------------------------------------------------------------------

REDUCTIONS = ["sum", "prod", "mean", "var", "std", "max", "min", "any", "all", "ptp"]
OF_NAN = ["nansum", "nanprod", "nanmean", "nanvar", "nanstd", "nanmax", "nanmin", "nanmedian"]


@pytest.mark.parametrize("name", [*REDUCTIONS, "median", *OF_NAN])
def test_reduction_axes(name: str) -> None:
    """All axes variants of one function in one program."""
    reduce = getattr(np, name)

    def f(x: Any) -> list[Any]:
        axes = [None, 0, -1, (0, 2)]
        return [reduce(x, axis=a, keepdims=k) for a in axes for k in (False, True)]

    check(f, T)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "max", "any", "argmax", "median"])
def test_reduction_dtypes(name: str, dtype: Any) -> None:
    complex_ = np.dtype(dtype).kind == "c"
    if (complex_ and name in ("max", "argmax")) or (dtype is bool and name == "median"):
        pytest.skip("complex numbers have no maximum here, bools no median")
    check(
        lambda x: getattr(np, name)(x, axis=1),
        numbers(3, 5, dtype=dtype),
        tolerance=5e-3 if dtype is np.float16 else None,
    )


@pytest.mark.parametrize("name", OF_NAN)
def test_reductions_pass_over_nan(name: str) -> None:
    check(lambda x: getattr(np, name)(x, axis=1), holed(4, 7))


REDUCED: dict[str, Case] = {
    "sum empty": (lambda x: np.sum(x, axis=0), (E,)),
    "mean empty": (lambda x: np.mean(x, axis=0), (E,)),
    "prod empty": (np.prod, (E,)),
    "sum where": (lambda x, m: np.sum(x, axis=0, where=m, initial=2), (X, B)),
    "mean where": (lambda x, m: np.mean(x, axis=1, where=m), (X, B)),
    "var where": (lambda x, m: np.var(x, axis=1, where=m, ddof=1), (X, B)),
    "max where": (lambda x, m: np.max(x, axis=1, where=m, initial=-1), (X, B)),
    "min initial": (lambda x: np.min(x, initial=0), (I,)),
    "max empty initial": (lambda x: np.max(x, axis=0, initial=0), (E,)),
    "any where": (lambda x, m: np.any(x, axis=1, where=m), (I, B)),
    "sum dtype": (lambda x: np.sum(x, dtype=np.float32), (I,)),
    "var ddof": (lambda x: np.var(x, axis=0, ddof=1), (X,)),
    "var correction": (lambda x: np.var(x, axis=0, correction=1), (X,)),
    "std complex": (np.std, (C,)),
    "argmax": (np.argmax, (X,)),
    "argmax keepdims": (lambda x: np.argmax(x, axis=1, keepdims=True), (X,)),
    "argmin nan": (lambda x: np.argmin(x, axis=1), (holed(4, 7),)),
    "nanargmax": (lambda x: np.nanargmax(x, axis=1), (holed(4, 7)[1:],)),
    "nanargmin": (lambda x: np.nanargmin(x), (holed(4, 7),)),
    "count_nonzero": (lambda x: np.count_nonzero(x, axis=1), (I,)),
    "cumsum": (lambda x: np.cumsum(x, axis=1), (X,)),
    "cumsum flat": (np.cumsum, (I,)),
    "cumprod": (lambda x: np.cumprod(x, axis=0), (X,)),
    "cumulative_sum": (lambda x: np.cumulative_sum(x, axis=1, include_initial=True), (X,)),
    "cumulative_prod": (lambda x: np.cumulative_prod(x, axis=1), (X,)),
    "nancumsum": (lambda x: np.nancumsum(x, axis=1), (holed(4, 7),)),
    "nancumprod": (lambda x: np.nancumprod(x), (holed(4, 7),)),
    "diff": (np.diff, (X,)),
    "diff 2": (lambda x: np.diff(x, 2, axis=0), (X,)),
    "diff ends": (lambda x: np.diff(x, prepend=0, append=np.ones((3, 2))), (X,)),
    "diff bool": (np.diff, (B,)),
    "ediff1d": (lambda x: np.ediff1d(x, to_begin=[1.0], to_end=[2.0, 3.0]), (X,)),
    "trapezoid": (np.trapezoid, (X,)),
    "trapezoid x": (lambda y, x: np.trapezoid(y, x), (X, np.sort(V[:5]))),
    "gradient": (np.gradient, (V,)),
    "gradient 2d": (lambda x: list(np.gradient(x, 2.0, 3.0)), (X,)),
    "gradient points": (lambda x: np.gradient(x, np.array([0, 1, 3, 4, 6, 7, 9.0])), (V,)),
    "average": (lambda x, w: np.average(x, axis=1, weights=w), (X, V[:5] ** 2)),
    "average returned": (lambda x: list(np.average(x, axis=0, returned=True)), (X,)),
    "median even": (lambda x: np.median(x, axis=0), (numbers(4, 3),)),
    "median nan": (lambda x: np.median(x, axis=0), (holed(4, 7),)),
    "quantile": (lambda x: np.quantile(x, 0.3), (X,)),
    "quantile many": (lambda x: np.quantile(x, [0, 0.25, 1.0], axis=1, keepdims=True), (X,)),
    "quantile traced": (lambda x, q: np.quantile(x, q, axis=0), (X, np.array([0.1, 0.9]))),
    "percentile": (lambda x: np.percentile(x, 40, axis=1), (X,)),
    "percentile ints": (lambda x: np.percentile(x, [10, 50]), (I,)),
    **{
        f"quantile {m}": (lambda x, m=m: np.quantile(x, 0.37, axis=1, method=m), (X,))
        for m in ("lower", "higher", "nearest", "midpoint", "weibull", "hazen", "median_unbiased")
    },
    "nanquantile": (lambda x: np.nanquantile(x, 0.4, axis=1), (holed(4, 7),)),
    "nanpercentile": (lambda x: np.nanpercentile(x, 40), (holed(4, 7),)),
    "cov": (np.cov, (X,)),
    "cov columns": (lambda x: np.cov(x, rowvar=False, bias=True), (X,)),
    "cov two": (lambda x, y: np.cov(x, y), (V, W)),
    "cov weights": (lambda x: np.cov(x, aweights=np.arange(1, 6), fweights=[1, 2, 1, 3, 1]), (X,)),
    "corrcoef": (np.corrcoef, (X,)),
    "histogram": (lambda x: list(np.histogram(x, bins=4)), (X,)),
    "histogram range": (lambda x: list(np.histogram(x, 5, range=(-1, 2))), (X,)),
    "histogram edges": (lambda x: list(np.histogram(x, bins=[-3, -1, 0, 4], density=True)), (X,)),
    "histogram weights": (lambda x, w: np.histogram(x, 3, weights=w)[0], (V, W)),
    "histogram2d": (lambda x, y: list(np.histogram2d(x, y, bins=3)), (V, W)),
}  # fmt: skip


@named(REDUCED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_reduced(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(f, *args)


# -- products ----------------------------------------------------------------------------------

PRODUCTS: dict[str, Case] = {
    "matmul": (np.matmul, (X, Y)),
    "matmul vector": (np.matmul, (X, V[:5])),
    "vector matmul": (np.matmul, (V[:5], Y)),
    "matmul vectors": (np.matmul, (V, W)),
    "matmul stack": (np.matmul, (T, Y)),
    "matmul by stack": (np.matmul, (numbers(4, 3), T)),
    "matmul stacks": (np.matmul, (numbers(4, 1, 2, 3), T)),
    "matmul ints": (np.matmul, (I, I.T)),
    "matmul mixed": (np.matmul, (I, Y)),
    "matmul empty": (np.matmul, (E.T, E)),
    "dot": (np.dot, (T, numbers(4, 5, 2))),
    "dot scalar": (lambda x: np.dot(x, 3), (X,)),
    "inner": (np.inner, (T, X)),
    "outer": (np.outer, (X, V)),
    "vdot": (np.vdot, (C, C * 1j)),
    "vecdot": (np.vecdot, (C, C[:1])),
    "matvec": (np.matvec, (T, X[0])),
    "vecmat": (np.vecmat, (C[0], numbers(5, 2, dtype=complex))),
    "tensordot": (np.tensordot, (T, numbers(3, 5, 4))),
    "tensordot axes": (lambda a, b: np.tensordot(a, b, ([0, 2], [1, 0])), (T, numbers(5, 2, 4))),
    "tensordot outer": (lambda a, b: np.tensordot(a, b, axes=0), (V, X)),
    "kron": (np.kron, (X, numbers(2, 3))),
    "kron ranks": (np.kron, (V, X)),
    "cross": (np.cross, (numbers(4, 3), numbers(3))),
    "cross axis": (lambda a, b: np.cross(a, b, axis=0), (numbers(3, 4), numbers(3, 4, seed=1))),
    **{
        f"{name} {mode}": (lambda a, v, n=name, m=mode: getattr(np, n)(a, v, m), args)
        for name in ("convolve", "correlate")
        for mode in ("full", "same", "valid")
        for args in ((V, numbers(4)),)
    },
    "convolve longer": (lambda a, v: np.convolve(a, v, "same"), (numbers(3), V)),
    "correlate longer": (lambda a, v: np.correlate(a, v, "full"), (numbers(3), V)),
    "correlate complex": (lambda a, v: np.correlate(a, v, "same"), (C[0], C[1, :2])),
    "polyval": (np.polyval, (V, X)),
    "polyder": (np.polyder, (V,)),
    "polyadd": (np.polyadd, (V, X[0])),
    "polymul": (np.polymul, (V, X[0])),
}  # fmt: skip


@named(PRODUCTS)
def test_products(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(f, *args)


EINSUMS = [
    ("ij,jk->ik", (X, Y)), ("ij,jk", (X, Y)), ("ij->ji", (X,)), ("ij->", (X,)), ("ij->j", (X,)),
    ("ii->i", (POSITIVE,)), ("ii", (POSITIVE,)), ("i,j->ij", (V, W)), ("i,i", (V, W)),
    ("i,i->i", (V, W)), ("ij,ij->i", (X, X)), ("bij,jk->bik", (T, Y)), ("bij,bkj->bik", (T, T)),
    ("...ij,jk->...ik", (T, Y)), ("...i->...", (T,)), ("i...,i...->...", (T, T)),
    ("ij,jk,kl->il", (X, Y, numbers(7, 2))), ("ij,kj,kl,l->i", (X, X, X, X[0])),
    ("iij->ij", (numbers(3, 3, 2),)), ("ij,jk->", (X, Y)), ("ab,c->cab", (X, V)),
    ("ij, jk -> ki", (X, Y)), ("ij,j->ij", (X, X[0])), ("i,i->i", (V, ONE)),
    ("ij,jk->ik", (E.T, E)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUMS, ids=[f"{i}: {s}" for i, (s, _) in enumerate(EINSUMS)])
def test_einsum(case: tuple[str, tuple[Any, ...]]) -> None:
    subscripts, operands = case
    check(lambda *a: np.einsum(subscripts, *a), *operands)


def test_einsum_of_lists() -> None:
    check(lambda x, y: np.einsum(x, [0, 1], y, [1, 2], [2, 0]), X, Y)
    check(lambda x, y: np.einsum(x, [..., 0, 1], y, [1, 2]), T, Y)
    check(lambda x, y: np.einsum("ij,jk", x, y, dtype=np.float64), I, Y)


# -- searching ---------------------------------------------------------------------------------

SORTED = np.sort(V)
PARTS = np.array([1.0, np.nan, 0.0, 2.0])
Z_NAN = np.stack([(PARTS[:, None] + 1j * q).ravel() for q in (PARTS, PARTS[::-1])])
"""Each number and NaN in each part: NumPy's sort puts a NaN real part after a NaN imaginary one."""
SEARCHING: dict[str, Case] = {
    "take": (lambda x: np.take(x, [0, -1, 2], axis=1), (X,)),
    "take flat": (lambda x: np.take(x, np.array([[0, 3], [14, 2]])), (X,)),
    "take scalar": (lambda x, i: np.take(x, i, axis=0), (X, np.array(1))),
    "take wrap": (lambda x: np.take(x, [7, -9], axis=1, mode="wrap"), (X,)),
    "take clip": (lambda x: np.take(x, [7, -9], axis=1, mode="clip"), (X,)),
    "take_along_axis": (lambda x, i: np.take_along_axis(x, i, 1), (X, np.argsort(X)[:, ::-1])),
    "take_along_axis row": (lambda x: np.take_along_axis(x, np.array([[0, -1]]), 1), (X,)),
    "sort": (np.sort, (X,)),
    "sort axis": (lambda x: np.sort(x, axis=0), (T,)),
    "sort flat": (lambda x: np.sort(x, axis=None), (X,)),
    "sort nan": (np.sort, (holed(4, 7),)),
    "sort ints": (np.sort, (I,)),
    "argsort": (lambda x: np.argsort(x, axis=0, kind="stable"), (I,)),
    "sort complex": (lambda z: np.sort(z, axis=0), (Z_NAN,)),
    "argsort complex": (lambda z: np.argsort(z, kind="stable"), (Z_NAN,)),
    "lexsort complex": (lambda z, k: np.lexsort((k, z), axis=0), (Z_NAN, Z_NAN.real)),
    "lexsort": (lambda a, b: np.lexsort((a, b)), (I[0], I[1] % 3)),
    "partition": (lambda x: np.partition(x, 3)[3], (V,)),
    "argpartition": (lambda x: np.argpartition(x, 3)[3], (V,)),
    **{
        f"searchsorted {side}": (partial(np.searchsorted, side=side), (np.array([1, 2, 2, 4.0]), X))
        for side in ("left", "right")
    },
    "searchsorted nan": (np.searchsorted, (np.array([0.0, 1, np.nan]), np.array([np.nan, 0.5, 2]))),
    "searchsorted sorter": (lambda a, v: np.searchsorted(a, v, sorter=np.argsort(V)), (V, W)),
    "searchsorted empty": (np.searchsorted, (E[:, 0], V)),
    "searchsorted ints": (np.searchsorted, (np.arange(9), np.array(4))),
    "digitize": (lambda x: np.digitize(x, [-2.0, 0, 1]), (X,)),
    "digitize falling": (lambda x: np.digitize(x, [1.0, 0, -2], right=True), (X,)),
    "digitize traced": (lambda x, b: np.digitize(x, b), (X, np.array([1.0, 0, -2]))),
    "compress": (lambda x: np.compress([True, False, True], x, axis=0), (X,)),
    "unravel_index": (lambda i: list(np.unravel_index(i, (3, 5))), (np.array([0, 7, 14]),)),
    "ravel_multi_index": (
        lambda i, j: np.ravel_multi_index((i, j), (3, 5)), (np.array([0, 2]), np.array([4, 1]))
    ),
    "choose": (lambda a, x: np.choose(a, [x, -x, 0]), (np.array([0, 2, 1, 0, 1]), X)),
    "select": (lambda x: np.select([x > 1, x > 0], [x, x * 2], 7), (X,)),
    "piecewise": (lambda x: np.piecewise(x, [x < 0, x > 1], [lambda v: -v, 5, np.sin]), (X,)),
    "interp": (lambda x: np.interp(x, SORTED, W), (X,)),
    "interp traced": (lambda x, xp, fp: np.interp(x, xp, fp, left=-9), (X, SORTED, W)),
    "interp period": (lambda x: np.interp(x, [0.5, 1.5, 2.5], [3.0, 1, 2], period=3), (X,)),
    "extract": (lambda x: np.extract(B, x), (X,)),
}  # fmt: skip


@named(SEARCHING)
def test_searching(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(f, *args)


def test_writing_functions_write() -> None:
    def f(x: Any) -> Any:
        a, b, c, d = x.copy(), x.copy(), x.copy(), x.copy()
        np.put_along_axis(a, np.array([[1], [0], [4]]), 9.0, axis=1)
        np.put(b, [0, -1], [7.0, 8.0])
        np.putmask(c, c > 0, 0.0)
        np.copyto(d, 1.0, where=d < 0)
        return a, b, c, d

    check(f, X)


def test_static_sizes_replace_shapes_that_depend_on_values() -> None:
    x = np.array([3, 0, 1, 0, 3, 2])
    (at,) = run(lambda x: tnp.nonzero(x, size=5, fill_value=-1), x)
    same(at, np.array([0, 2, 4, 5, -1]))
    same(run(lambda x: tnp.unique(x, size=5), x), np.array([0, 1, 2, 3, 0]))
    same(run(lambda x: tnp.bincount(x, length=6), x), np.array([2, 1, 1, 2, 0, 0]))
    same(run(lambda x: tnp.bincount(x, weights=x / 2, length=3), x), np.array([0.0, 0.5, 1.0]))
    same(run(lambda x: tnp.flatnonzero(x, size=2), x), np.array([0, 2]))
    same(run(lambda x: tnp.argwhere(x[None], size=2), x), np.array([[0, 0], [0, 2]]))
    same(run(lambda x: tnp.setdiff1d(x, np.array([0, 2]), size=3), x), np.array([1, 3, 0]))
    same(run(lambda x: tnp.union1d(x, np.array([7]), size=5), x), np.array([0, 1, 2, 3, 7]))
    same(tnp.nonzero(x, size=2), (np.array([0, 2]),))
    same(tnp.nonzero(x), np.nonzero(x))


# -- linear algebra ----------------------------------------------------------------------------

MATRIX, STACK = numbers(4, 4), numbers(2, 3, 3)
LINALG: dict[str, Case] = {
    "inv": (np.linalg.inv, (MATRIX,)),
    "inv stack": (np.linalg.inv, (STACK,)),
    "solve": (np.linalg.solve, (MATRIX, numbers(4, 2))),
    "solve vector": (np.linalg.solve, (MATRIX, numbers(4))),
    "solve stack": (np.linalg.solve, (STACK, numbers(3, 2))),
    "solve f32": (np.linalg.solve, (POSITIVE.astype(np.float32), numbers(4, dtype=np.float32))),
    "solve ints": (np.linalg.solve, (np.array([[2, 1], [1, 3]]), np.array([1, 2]))),
    "det": (np.linalg.det, (STACK,)),
    "det one": (np.linalg.det, (numbers(1, 1),)),
    "slogdet": (lambda a: list(np.linalg.slogdet(a)), (STACK,)),
    "cholesky": (np.linalg.cholesky, (POSITIVE,)),
    "cholesky upper": (lambda a: np.linalg.cholesky(a, upper=True), (POSITIVE,)),
    "eigvalsh": (np.linalg.eigvalsh, (POSITIVE,)),
    "eigh": (lambda a: (r := np.linalg.eigh(a))[1] @ np.diag(r[0]) @ r[1].T, (POSITIVE,)),
    "qr": (lambda a: list(np.linalg.qr(a)), (numbers(5, 3),)),
    "qr r": (lambda a: np.linalg.qr(a, "r"), (numbers(3, 5),)),
    "svdvals": (np.linalg.svdvals, (X,)),
    "svd": (lambda a: (r := np.linalg.svd(a, full_matrices=False))[0] * r[1] @ r[2], (X,)),
    "svd values": (lambda a: np.linalg.svd(a, compute_uv=False), (X,)),
    "pinv": (np.linalg.pinv, (X,)),
    "lstsq": (lambda a, b: np.linalg.lstsq(a, b)[0], (numbers(7, 3), V)),
    "matrix_rank": (np.linalg.matrix_rank, (np.outer(V, W),)),
    "matrix_power": (lambda a: [np.linalg.matrix_power(a, n) for n in (-2, 0, 1, 5)], (MATRIX,)),
    "multi_dot": (lambda a, b: np.linalg.multi_dot([a, b, b.T, b]), (X, Y)),
    "cond": (lambda a: [np.linalg.cond(a, p) for p in (None, 1, -2, np.inf, "fro")], (MATRIX,)),
    "norm": (np.linalg.norm, (T,)),
    "norm vectors": (
        lambda x: [np.linalg.norm(x, p, axis=1) for p in (None, 0, 1, 2, 3, np.inf, -np.inf)], (X,)
    ),
    "norm matrices": (
        lambda x: [
            np.linalg.norm(x, p, axis=(0, 2), keepdims=k)
            for p in (None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf) for k in (False, True)
        ], (T,)
    ),
    "norm complex": (np.linalg.norm, (C,)),
    "norm 1": (lambda x: np.linalg.norm(x, 1), (MATRIX,)),
    "vector_norm": (lambda x: np.linalg.vector_norm(x, axis=(0, 1), ord=3), (T,)),
    "matrix_norm": (np.linalg.matrix_norm, (T,)),
    "trace": (np.linalg.trace, (T,)),
    "linalg outer": (np.linalg.outer, (V, W)),
    "linalg cross": (np.linalg.cross, (numbers(3), numbers(3, seed=1))),
    "linalg diagonal": (np.linalg.diagonal, (T,)),
}  # fmt: skip


@named(LINALG)
def test_linalg(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    check(f, *args, tolerance=1e-4 if args[0].dtype == np.float32 else 1e-9)


# -- the namespace -----------------------------------------------------------------------------


def test_eager_is_numpy() -> None:
    for name in ("sum", "reshape", "einsum", "where", "sort", "linspace"):
        assert getattr(tnp, name).stands_for[0] is getattr(np, name)
    assert tnp.sin is np.sin
    assert type(tnp.zeros(3)) is np.ndarray
    assert tnp.bfloat16 is not None


def test_table_maps_numpy_functions_to_ours() -> None:
    assert tnp.FUNCTIONS[np.linalg.norm] is tnp.linalg.norm
    assert tnp.FUNCTIONS[np.concat] is tnp.FUNCTIONS[np.concatenate] is tnp.concatenate
    assert tnp.FUNCTIONS[np.amax] is tnp.max


def test_mistakes_are_named() -> None:
    with pytest.raises(errors.DynamicShape, match=r"nonzero.*size=n"):
        run(lambda x: np.nonzero(x), X)
    with pytest.raises(errors.DynamicShape, match=r"np\.unique"):
        run(lambda x: np.unique(x), X)
    with pytest.raises(errors.DynamicShape, match=r"np\.where\(condition, x, y\)"):
        run(lambda x: np.where(x > 0), X)
    with pytest.raises(errors.UnsupportedFunction, match="eigh"):
        run(lambda x: np.linalg.eig(x)[0], MATRIX)
    with pytest.raises(errors.ShapeMismatch, match=r"\(3, 5\) and \(7,\)"):
        run(lambda x, y: np.matmul(x, y), X, V)
    with pytest.raises(errors.ShapeMismatch, match="cannot reshape 15 elements"):
        run(lambda x: np.reshape(x, (4, 4)), X)
    with pytest.raises(errors.ShapeMismatch, match="einsum label 'j' is 5 and 7"):
        run(lambda x, y: np.einsum("ij,j->i", x, y), X, V)
    with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds") as caught:
        run(lambda x: np.sum(x, axis=2), X)
    assert str(caught.value).splitlines()[0] == "axis 2 is out of bounds for an array with 2 axes"
    assert str(caught.value).splitlines()[2] == "    run(lambda x: np.sum(x, axis=2), X)"
    assert str(caught.value).splitlines()[3] == "Axes are -2 to 1."


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.where(x > 0, x, x[:, :2]), lambda x: np.where(x[:2] > 0, x, 0),
        lambda x: np.sum(x, where=x[:2] > 0), lambda x: np.broadcast_to(x, (2, 5)),
        lambda x: np.broadcast_arrays(x, x.T), lambda x: x[:, :, None] @ x[:2, None],
        lambda x: np.take_along_axis(x, np.zeros((2, 1), int), 1), lambda x: np.clip(x, 0, x.T),
    ],
    ids=range(8),
)  # fmt: skip
def test_shapes_that_do_not_broadcast(f: Any) -> None:
    with pytest.raises(errors.ShapeMismatch, match=r"test_numpy\.py"):
        run(f, X)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: np.matmul(x, y, dtype=np.int32),
        lambda x, y: np.vecdot(x, y.T, dtype=np.int64),
        lambda x, y: np.add.reduce(x, dtype=np.int8),
        lambda x, y: np.multiply.reduce(y, axis=1, dtype=np.int16),
        lambda x, y: np.add.accumulate(x, axis=1, dtype=np.uint8),
        lambda x, y: np.multiply.outer(x[0], y[0], dtype=np.int32),
    ],
)
def test_ufuncs_compute_in_the_dtype_they_are_given(f: Any) -> None:
    """And do not convert what has wrapped around already, nor widen it."""
    x = np.arange(100, 112, dtype=np.uint8).reshape(3, 4)
    y = np.arange(-106, -94, dtype=np.int8).reshape(4, 3)
    check(f, x, y)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, n: x.reshape(n, -1), lambda x, n: x.sum(n), lambda x, n: np.flip(x, (0, n)),
        lambda x, n: np.expand_dims(x, n), lambda x, n: np.tile(x, (2, n)),
        lambda x, n: np.broadcast_to(x[0], (n, 5)), lambda x, n: np.moveaxis(x, 0, n),
        lambda x, n: np.split(x, n), lambda x, n: np.array_split(x, n),
    ],
)  # fmt: skip
def test_traced_axes_extents_and_counts_say_what_they_are(f: Callable[..., Any]) -> None:
    with pytest.raises(errors.TracedNumber, match="an index, an extent or a count"):
        run(f, np.ones((3, 5)), np.array(1))


def test_complex_matrices_are_told_what_is_possible() -> None:
    with pytest.raises(errors.DTypeMismatch, match=r"(?s)c128.*\[\[A, -B\], \[B, A\]\]"):
        run(np.linalg.inv, np.eye(3) + 0j)
