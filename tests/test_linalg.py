"""numpy.linalg compiled is numpy.linalg, signs and orders included, because both call one LAPACK.

The laws of test_ops check the ops: their loops interpreted, their derivatives, batching. Here it is
the library calls, what stands in for them where there is no LAPACK, and what happens to matrices
for which NumPy raises.
"""

from __future__ import annotations

import _ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from running import same
from tilewright import loops
from tilewright.errors import InternalError
from tilewright.ops.linalg import SMALL
from tilewright.runtime import lapack

Function = Callable[..., Any]

SIZES = (1, 2, 3, 10, SMALL + 1, 40)


def numbers(*shape: int, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def square(n: int, dtype: Any = np.float64, batch: tuple[int, ...] = (2,)) -> Any:
    return numbers(*batch, n, n, dtype=dtype)


def positive(n: int, dtype: Any = np.float64) -> Any:
    x = square(n)
    return (x @ np.swapaxes(x, -1, -2) + n * np.eye(n)).astype(dtype)


def close(got: Any, want: Any, ulps: float) -> None:
    """Equal trees; values equal up to a few roundings of the largest."""
    for g, w in zip(tw.tree.leaves(got), tw.tree.leaves(want), strict=True):
        g, w = np.asarray(g), np.asarray(w)
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        if w.dtype.kind != "f":
            np.testing.assert_array_equal(g, w)
        elif w.size:
            bound = ulps * np.finfo(w.dtype).eps * np.abs(w).max()
            np.testing.assert_allclose(g, w, rtol=0, atol=bound)


def check(f: Function, *args: Any, ulps: float = 16) -> None:
    close(tw.compile(f)(*args), f(*args), ulps)


def calls(f: Function, *args: Any) -> frozenset[str]:
    """The library functions a compiled program calls."""
    functions = tw.compile(f).lower(*args).program.functions
    return frozenset().union(*(loops.library_calls(g.body) for g in functions))


@pytest.fixture
def without_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lapack, "library", lambda: None)


needs_lapack = pytest.mark.skipif(
    lapack.library() is None, reason="this NumPy exports no LAPACK; signs may differ"
)

SYMMETRIC: dict[str, Function] = {
    "eigh": lambda x: list(np.linalg.eigh(x)),
    "eigh of the upper triangle": lambda x: list(np.linalg.eigh(x, "U")),
    "eigvalsh": np.linalg.eigvalsh,
    "eigvalsh of the upper triangle": lambda x: np.linalg.eigvalsh(x, "U"),
}
RECTANGULAR: dict[str, Function] = {
    "qr": lambda x: list(np.linalg.qr(x)),
    "svd": lambda x: list(np.linalg.svd(x, full_matrices=False)),
    "svdvals": np.linalg.svdvals,
}
SHAPES = ((4, 3), (3, 4), (40, 7), (7, 40), (90, 3), (3, 90), (33, 32), (1, 5), (5, 1))


# -- what only the same routines, called in the same way, give ---------------------------------


@needs_lapack
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_eigenvectors_are_numpys(name: str, dtype: Any) -> None:
    for n in SIZES:
        check(SYMMETRIC[name], square(n, dtype))


@needs_lapack
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", RECTANGULAR)
def test_factors_are_numpys(name: str, dtype: Any) -> None:
    for shape in SHAPES:
        check(RECTANGULAR[name], numbers(2, *shape, dtype=dtype))


@needs_lapack
def test_bases_of_equal_values_are_numpys() -> None:
    """Where whole subspaces are open, not only signs."""
    for x in (np.eye(4), np.zeros((3, 3)), np.ones((5, 5)), np.diag([2.0, 1, 2, 1])):
        check(lambda x: list(np.linalg.eigh(x)), x)
        check(lambda x: list(np.linalg.svd(x)), x)
        check(lambda x: list(np.linalg.qr(x)), x)


@needs_lapack
def test_symmetric_svd() -> None:
    for n in (1, 3, 14):
        x = square(n)
        check(lambda x: list(np.linalg.svd(x, hermitian=True)), x)
        check(lambda x: np.linalg.svd(x, compute_uv=False, hermitian=True), x)
        check(lambda x: np.linalg.pinv(x, hermitian=True), x, ulps=1000)


# -- what mathematics determines ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", SIZES)
def test_solving(n: int, dtype: Any) -> None:
    a, p = square(n, dtype), positive(n, dtype)
    few, one = numbers(2, n, 3, dtype=dtype), numbers(2, n, 1, dtype=dtype)
    condition = float(np.linalg.cond(a).max())
    ulps = 4 * condition if dtype is np.float64 else 4
    check(np.linalg.cholesky, p, ulps=4)
    check(lambda x: np.linalg.cholesky(x, upper=True), p, ulps=4)
    check(np.linalg.inv, a, ulps=ulps)
    for b in (few, one):
        check(np.linalg.solve, a, b, ulps=ulps)
    check(np.linalg.solve, a, few[0], ulps=ulps)
    check(np.linalg.solve, a[0], one[0, :, 0], ulps=ulps)
    check(np.linalg.det, a, ulps=ulps)
    check(lambda x: list(np.linalg.slogdet(x)), a)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_least_squares(shape: tuple[int, int], dtype: Any) -> None:
    x, b = numbers(*shape, dtype=dtype), numbers(shape[0], 2, dtype=dtype)
    ulps = 40 * float(np.linalg.cond(x))
    check(np.linalg.pinv, x, ulps=ulps)
    check(lambda x, b: list(np.linalg.lstsq(x, b)), x, b, ulps=ulps)
    check(np.linalg.matrix_rank, x)
    check(np.linalg.matrix_rank, np.outer(x[:, 0], x[0]).astype(dtype))


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (0, 2, 2), (2, 0, 3, 3)])
def test_matrices_without_elements(shape: tuple[int, ...]) -> None:
    x = numbers(*shape)
    for f in RECTANGULAR.values():
        check(f, x)
    check(np.linalg.pinv, x)
    if shape[-1] == shape[-2]:
        for f in (*SYMMETRIC.values(), np.linalg.cholesky, np.linalg.inv, np.linalg.det):
            check(f, x)
        check(lambda x: list(np.linalg.slogdet(x)), x)


# -- matrices NumPy raises for, and what is not read -------------------------------------------


@pytest.mark.parametrize("n", [3, SMALL + 1])
def test_a_bad_matrix_of_a_batch_gives_nan_alone(n: int) -> None:
    good = positive(n)[0]
    for f, bad in (
        (np.linalg.cholesky, -good),
        (np.linalg.inv, np.ones((n, n))),
        (lambda x: np.linalg.solve(x, np.arange(n * 2.0).reshape(n, 2)), np.zeros((n, n))),
        (np.linalg.eigvalsh, np.full((n, n), np.nan)),
        (lambda x: np.linalg.eigh(x)[1], np.full((n, n), np.nan)),
        (np.linalg.svdvals, np.full((n, n), np.inf)),
        (lambda x: np.linalg.svd(x)[0], np.full((n, n), np.nan)),
    ):
        found = tw.compile(f)(np.stack([good, bad, good]))
        assert np.isnan(found[1]).all()
        close(found[::2], np.stack([f(good)] * 2), 1000)


def test_numpys_nan_and_infinite_factors() -> None:
    """Where NumPy gives NaN without raising, so do we, in the same places."""
    lower = np.array([[1, 0, 0], [np.nan, 1, 0], [0, 0, 1.0]])
    infinite = np.diag([1, np.inf, 1])
    for x in (np.full((3, 3), np.nan), lower, infinite):
        same(tw.compile(np.linalg.cholesky)(x), np.linalg.cholesky(x))
    with np.errstate(all="ignore"):
        want = list(np.linalg.slogdet(lower))
    same(tw.compile(lambda x: list(np.linalg.slogdet(x)))(lower), want)
    same(tw.compile(lambda x: list(np.linalg.slogdet(x)))(np.ones((2, 2))), [0.0, -np.inf])


@pytest.mark.parametrize("n", [3, SMALL + 1])
def test_only_one_triangle_is_read(n: int) -> None:
    x = positive(n)[0]
    lower, upper = np.tril(x), np.triu(x)
    lower[np.triu_indices(n, 1)] = upper[np.tril_indices(n, -1)] = np.nan
    close(tw.compile(np.linalg.cholesky)(lower), np.linalg.cholesky(lower), 4)
    f = lambda x: np.linalg.cholesky(x, upper=True)
    close(tw.compile(f)(upper), f(upper), 4)
    for uplo, half in (("L", lower), ("U", upper)):
        close(
            tw.compile(lambda x, t=uplo: np.linalg.eigvalsh(x, t))(half), np.linalg.eigvalsh(x), 16
        )


# -- the choice between the library and our own loops ------------------------------------------


@needs_lapack
def test_large_matrices_and_open_choices_go_to_the_library() -> None:
    suffix = lapack.library().offered.symbol("")  # type: ignore[union-attr]
    n = SMALL + 1
    assert calls(np.linalg.inv, square(n)) == {f"dgetrf{suffix}", f"dtrsm{suffix}"}
    assert calls(np.linalg.cholesky, positive(n)) == {f"dpotrf{suffix}"}
    assert calls(np.linalg.inv, square(SMALL)) == frozenset()
    assert calls(lambda x: np.linalg.eigh(x)[1], square(2)) == {f"dsyevd{suffix}"}
    lowered = tw.compile(np.linalg.svdvals).lower(square(2))
    assert f"call lapack.dgesdd{suffix}(" in lowered.loops
    assert f"declare void @dgesdd{suffix}(ptr" in lowered.llvm
    with pytest.raises(InternalError, match=f"cannot call dgesdd{suffix} of the library lapack"):
        loops.run(lowered.program, [np.zeros(8), np.zeros(4), np.zeros(9999, np.uint8)])


def test_without_a_lapack_own_loops_stand_in(without_lapack: None) -> None:
    """The same up to the signs of vectors, which the products do not show."""
    for n in (1, 3, SMALL + 1):
        x, p = square(n), positive(n)
        for f in (np.linalg.inv, np.linalg.det, np.linalg.eigvalsh, np.linalg.svdvals):
            assert calls(f, x) == frozenset()
            check(f, x, ulps=1e4)
        check(np.linalg.cholesky, p)
        check(RECTANGULAR["qr"], numbers(2, n + 2, n), ulps=100)
        w, v = tw.compile(lambda x: tuple(np.linalg.eigh(x)))(p)
        close((v * w[:, None, :]) @ np.swapaxes(v, 1, 2), p, 100)
        u, s, vt = tw.compile(lambda x: tuple(np.linalg.svd(x)))(x)
        close((u * s[:, None, :]) @ vt, x, 100)


@needs_lapack
def test_one_missing_routine_is_replaced_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lapack.library()
    assert whole is not None
    offered = replace(whole.offered, routines=whole.offered.routines - {"dgesdd"})
    monkeypatch.setattr(lapack, "library", lambda: replace(whole, offered=offered))
    f = lambda x: (np.linalg.svdvals(x), np.linalg.eigvalsh(x))
    assert calls(f, positive(5)) == {offered.symbol("dsyevd")}
    check(f, positive(5), ulps=100)


def scipys() -> Iterator[str]:
    """SciPy's wheels bring a LAPACK with 32-bit integers."""
    scipy = pytest.importorskip("scipy")
    root = Path(scipy.__file__).parents[1] / "scipy.libs"
    return (str(p) for p in root.glob("*openblas*"))


def test_a_lapack_with_narrow_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = next(
        (x for x in map(lapack.opened, scipys()) if x and x.offered.integer_bytes == 4), None
    )
    if found is None:
        pytest.skip("no LAPACK with 32-bit integers here")
    monkeypatch.setattr(lapack, "library", lambda: found)
    n = SMALL + 1
    assert calls(np.linalg.inv, square(n)) == {"dgetrf_", "dtrsm_"}
    check(np.linalg.inv, square(n), ulps=1e4)
    check(lambda x: np.abs(np.linalg.eigh(x)[1]), square(n), ulps=1e4)
    check(lambda x: np.abs(np.linalg.svd(x)[0]), square(n), ulps=1e4)
    check(lambda x: list(np.linalg.qr(x)), numbers(2, n, 3), ulps=1e4)


def test_a_library_without_lapack() -> None:
    assert lapack.opened("no such file") is None
    assert lapack.opened(_ctypes.__file__) is None


@needs_lapack
def test_programs_run_in_several_threads() -> None:
    f = tw.compile(lambda x: tuple(np.linalg.eigh(x)))
    x = square(30, batch=(20,))
    want = f(x)
    for g, w in zip(want, np.linalg.eigh(x), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-10)
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(5):
            wrong.extend(g for g, w in zip(f(x), want, strict=True) if not np.array_equal(g, w))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# -- derivatives -------------------------------------------------------------------------------

DIFFERENTIABLE: dict[str, Function] = {
    "eigenvalues": lambda x: np.linalg.eigvalsh(x) ** 2,
    "eigenvalues of the upper triangle": lambda x: np.linalg.eigvalsh(x, "U") ** 2,
    "eigenvectors": lambda x: np.linalg.eigh(x)[1],
    "eigenvectors of the upper triangle": lambda x: np.linalg.eigh(x, "U")[1],
    "singular values": lambda x: np.linalg.svdvals(x) ** 2,
    "singular vectors": lambda x: np.linalg.svd(x)[0],
    "cholesky": lambda x: np.linalg.cholesky(x),
    "cholesky upper": lambda x: np.linalg.cholesky(x, upper=True),
    "qr": lambda x: np.linalg.qr(x)[0],
    "inv": lambda x: np.linalg.inv(x),
    "solve": lambda x: np.linalg.solve(x, np.cos(x)),
    "det": lambda x: np.linalg.det(x / 8),
    "slogdet": lambda x: np.linalg.slogdet(x)[1],
    "pinv": lambda x: np.linalg.pinv(x),
}


@needs_lapack
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_finite_differences(name: str) -> None:
    """With NumPy's own signs the function itself can be differenced."""
    f = DIFFERENTIABLE[name]
    for n in (3, SMALL + 1):
        x = positive(n)[0] + 3 * np.diag(np.arange(n))
        weight = numbers(*np.shape(f(x)))
        loss = lambda x, f=f, w=weight: np.sum(w * f(x))
        direction = numbers(n, n)
        step = 1e-5
        slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
        gradient = tw.grad(loss)(x)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=2e-6, atol=1e-7)


def test_float32_gradients_are_float32() -> None:
    x = positive(4, np.float32)[0]
    g = tw.grad(lambda x: np.sum(np.linalg.eigvalsh(x)))(x)
    assert g.dtype == np.float32
    np.testing.assert_allclose(g, np.eye(4), atol=1e-5)
