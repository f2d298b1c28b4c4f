"""Complex kernels in real arithmetic give NumPy's numbers, special values and branch cuts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtypes, expr, loops
from tilewright import kernel as kernels
from tilewright.errors import InternalError
from tilewright.expr import Apply, Buffer, Reduce, apply, axis
from tilewright.graph import Type, new_input
from tilewright.kernel import Assign, Kernel
from tilewright.ops import elementwise as el
from tilewright.ops.contract import Dot
from tilewright.ops.cumulative import Cumulative, Recurrence
from tilewright.ops.reduce import ReduceProd
from tilewright.ops.shape import Cast, ReduceSum
from tilewright.transforms.complex_parts import split_complex, split_function
from tilewright.transforms.lowering import Lowering, axes_for, position

COMPLEX = (dtypes.complex64, dtypes.complex128)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.0, np.inf, -np.inf, np.nan)


def as_parts(x: Any) -> Any:
    """A complex array as floats with one more axis, over the same memory."""
    x = np.ascontiguousarray(x)
    return x.view(dtypes.real_of(x.dtype)).reshape(*x.shape, 2) if x.dtype.kind == "c" else x


def run(op: Any, *args: Any) -> Any:
    """Lower one op on arrays to a kernel, split it, and interpret that."""
    nodes = [new_input(f"x{k}", Type(a.dtype, a.shape)) for k, a in enumerate(args)]
    buffers = {n: Buffer(n.op.label, n.type.dtype, n.type.shape, "input") for n in nodes}
    node = op.node(*nodes)
    axes = axes_for(node.type.shape)
    out = Buffer("out", node.type.dtype, node.type.shape, "output")
    at = position(axes)
    value = Lowering(buffers).compute(node, at)
    used = tuple(a for a in axes if a.extent != 1)
    split, origin = split_complex(Kernel("k", used, (Assign(out, at, (), value),)))
    kernels.verify(split)
    assert not any(dtypes.is_complex(e.type) for e in expr.walk(*split.expressions))
    result = np.zeros(out.shape, out.dtype)
    arrays = {buffers[n]: a for n, a in zip(nodes, args, strict=True)} | {out: result}
    memory = {b: as_parts(arrays[origin.get(b, b)]) for b in split.params}
    kernels.evaluate(split, memory)
    return result


def numpy_of(op: Any, *args: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(op.numpy(*args))


def assert_close(got: Any, want: Any, ulp: float, extra: Any = 0.0) -> None:
    """Finite numbers within `ulp` units of the magnitude; specials part by part."""
    assert got.dtype == want.dtype and got.shape == want.shape
    if got.dtype.kind == "b":
        np.testing.assert_array_equal(got, want)
        return
    if got.dtype.kind != "c":
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=ulp * np.finfo(got.dtype).eps)
        return
    unit = np.finfo(got.dtype).eps * ulp
    finite = np.isfinite(want)
    close = np.abs(got[finite] - want[finite]) <= (np.abs(want[finite]) + extra) * unit
    assert close.all(), f"{got[finite][~close][:3]} is not {want[finite][~close][:3]}"
    for a, b in ((got.real, want.real), (got.imag, want.imag)):
        a, b = a[~finite], b[~finite]
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_array_equal(np.isinf(a), np.isinf(b))


def ordinary(dtype: Any, shape: tuple[int, ...], seed: int, spread: float = 2.0) -> Any:
    """Numbers of all directions, with magnitudes over some decades."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-spread, spread / 2, shape)
    return (size * np.exp(1j * rng.uniform(-np.pi, np.pi, shape))).astype(dtype)


def special(dtype: Any) -> Any:
    """Every pair of awkward parts."""
    part = dtypes.real_of(dtype)
    pairs = np.array(list(itertools.product(SPECIAL, SPECIAL)), part)
    return pairs.view(dtype).reshape(-1)


def str_of(op: Any) -> str:
    return str(op.name)


UNARY = [op for op in el.ALL if "c" in op.row.kinds and op.row.arity == 1]
BINARY = [op for op in el.ALL if "c" in op.row.kinds and op.row.arity == 2]


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("op", UNARY, ids=str_of)
def test_unary_functions(op: Any, dtype: Any) -> None:
    """NumPy's own expm1 and log1p round at the scale of 1, so they are compared at that scale."""
    x = ordinary(dtype, (300,), 1)
    scale = 1.0 if op in (el.expm1, el.log1p) else 0.0
    assert_close(run(op, x), numpy_of(op, x), 6, scale)


@pytest.mark.parametrize("op", [op for op in UNARY if op is not el.logistic], ids=str_of)
def test_unary_functions_at_special_values(op: Any) -> None:
    """Infinities and NaNs as NumPy has them; signs of zeros choose the side of a branch cut."""
    x = special(dtypes.complex128)
    assert_close(run(op, x), numpy_of(op, x), 6)


def test_logistic_does_not_overflow() -> None:
    x = np.array([-1e4 + 1j, -800 + 2j, 800 + 1j, 0.0])
    np.testing.assert_array_equal(run(el.logistic, x), [0, 0, 1, 0.5])


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
def test_functions_near_the_ends_of_the_range(dtype: Any) -> None:
    """Magnitudes whose squares overflow or vanish."""
    info = np.finfo(dtype)
    big, tiny = info.max / 4, info.smallest_subnormal * 16
    x = np.array([big * (1 + 1j), -big + 1j, tiny * (1 - 1j), tiny + 0j, tiny * 1j], dtype)
    for op in (el.sqrt, el.log, el.arcsin, el.arccos, el.arctan, el.arcsinh, el.absolute):
        assert_close(run(op, x), numpy_of(op, x), 6)
    top = np.log(info.max)
    x = np.array([top + 0.5 + 1.5j, top + 0.5 + 0j, -top - 0.5 + 1.57j], dtype)
    for op in (el.exp, el.sinh, el.cosh, el.tanh):
        assert_close(run(op, x), numpy_of(op, x), 6)


@pytest.mark.parametrize("op", BINARY, ids=str_of)
def test_binary_functions(op: Any) -> None:
    for dtype in COMPLEX:
        a, b = ordinary(dtype, (200,), 1), ordinary(dtype, (200,), 2)
        exponent = np.abs(b * np.log(a)).max() if op is el.power else 1
        assert_close(run(op, a, b), numpy_of(op, a, b), 4 * exponent)
    x = special(dtypes.complex128)
    if op is el.power:  # an infinity takes another way through exp(b log a) there
        x = x[np.isfinite(x)]
    a, b = (v.ravel() for v in np.meshgrid(x, x))
    assert_close(run(op, a, b), numpy_of(op, a, b), 6)


def test_whole_powers() -> None:
    x = ordinary(dtypes.complex128, (20,), 3, 0.3)
    for n in (0, 1, 2, 3, 7, -1, -5, 99, 100, 2.5):
        b = np.full_like(x, n)
        assert_close(run(el.power, x, b), numpy_of(el.power, x, b), 600)


def test_a_power_known_in_advance_is_multiplications() -> None:
    """No exponential is left, and the value is the one of the exponent read from memory."""
    x = ordinary(dtypes.complex128, (20,), 4, 0.3)
    for n in (0.0, 1.0, 2.0, 7.0, -3.0, 2.5):
        a = Buffer("a", dtypes.complex128, (20,), "input")
        out = Buffer("out", dtypes.complex128, (20,), "output")
        i = axis("i", 20)
        value = apply(el.power.row.scalar, a[i], el.number(complex(n), a.dtype))
        split, origin = split_complex(Kernel("k", (i,), (Assign(out, (i,), (), value),)))
        names = {e.op.name for e in expr.walk(*split.expressions) if isinstance(e, Apply)}
        assert ("exp" in names) == (n == 2.5)
        result = np.zeros_like(x)
        arrays = {a: x, out: result}
        kernels.evaluate(split, {b: as_parts(arrays[origin[b]]) for b in split.params})
        assert_close(result, x**n, 20)


def test_select_and_casts() -> None:
    x, y = ordinary(dtypes.complex128, (9,), 1), ordinary(dtypes.complex128, (9,), 2)
    x[0] = 0
    c = x.real > 0
    np.testing.assert_array_equal(run(el.select, c, x, y), np.where(c, x, y))
    np.testing.assert_array_equal(run(Cast(dtypes.float32), x), x.real.astype(np.float32))
    np.testing.assert_array_equal(run(Cast(dtypes.int32), x), x.real.astype(np.int32))
    np.testing.assert_array_equal(run(Cast(dtypes.bool_), x), x.astype(np.bool_))
    np.testing.assert_array_equal(run(Cast(dtypes.complex64), x), x.astype(np.complex64))
    np.testing.assert_array_equal(run(Cast(dtypes.complex128), x.real), x.real.astype(complex))
    np.testing.assert_array_equal(run(el.make_complex, x.real, y.imag), x.real + 1j * y.imag)


def test_sums_and_products_of_matrices() -> None:
    x = ordinary(dtypes.complex128, (3, 5), 1)
    y = ordinary(dtypes.complex128, (5, 4), 2)
    np.testing.assert_allclose(run(ReduceSum((1,)), x), x.sum(1))
    np.testing.assert_allclose(run(Dot((1,), (0,)), x, y), x @ y)


def test_a_kernel_of_real_values_is_the_same_object() -> None:
    x, out = Buffer("x", dtypes.float32, (4,)), Buffer("out", dtypes.float32, (4,))
    i = axis("i", 4)
    kernel = Kernel("k", (i,), (Assign(out, (i,), (), x[i] * 2.0),))
    assert split_complex(kernel) == (kernel, {})


def test_a_row_kernel_keeps_each_part_in_a_buffer_of_its_own() -> None:
    x = Buffer("x", dtypes.complex64, (3, 4), "input")
    out = Buffer("out", dtypes.complex64, (3, 4), "output")
    row = Buffer("row", dtypes.complex64, (4,), "stack")
    i, j, k, n = axis("i", 3), axis("j", 4), axis("j", 4), axis("k", 4)
    total = Reduce("sum", (n,), row[n])
    first = Assign(row, (j,), (j,), apply("mul", x[i, j], x[i, j]))
    second = Assign(out, (i, k), (k,), apply("div", row[k], total))
    split, origin = split_complex(Kernel("normalise", (i,), (first, second)))
    assert [b.name for b in split.locals] == ["row_re", "row_im"]
    assert set(origin.values()) == {x, out}
    data = ordinary(dtypes.complex64, (3, 4), 5)
    result = np.zeros_like(data)
    arrays = {x: data, out: result}
    kernels.evaluate(split, {b: as_parts(arrays[origin[b]]) for b in split.params})
    want = data**2 / (data**2).sum(1, keepdims=True)
    np.testing.assert_allclose(result, want, rtol=1e-5)


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize(
    "op",
    [
        Cumulative("sum", 1),
        Cumulative("prod", 1, True),
        Recurrence(0),
        ReduceProd((0,)),
        ReduceProd((0, 1)),
        ReduceProd(()),
    ],
    ids=repr,
)
def test_loops_that_ops_write_themselves(op: Any, dtype: Any) -> None:
    args = [ordinary(dtype, (3, 5), k, 0.5) for k in range(2 if isinstance(op, Recurrence) else 1)]
    types = [Type(a.dtype, a.shape) for a in args]
    out_type = op.type(*types)
    assert op.is_opaque(*types)
    ins = [Buffer(f"x{k}", t.dtype, t.shape, "input") for k, t in enumerate(types)]
    out = Buffer("out", out_type.dtype, out_type.shape, "output")
    function = loops.Function("f", (out, *ins), loops.block(op.loops([out], *ins)))
    split = split_function(function)
    loops.verify(split)
    result = np.zeros(out_type.shape, dtype)
    loops.run(loops.Program((split,)), [as_parts(result), *map(as_parts, args)])
    np.testing.assert_allclose(result, op.numpy(*args), rtol=1e-4 if dtype.itemsize == 8 else 1e-12)


def test_loops_of_real_values_are_the_same_object() -> None:
    x, out = Buffer("x", dtypes.float32, (4,)), Buffer("out", dtypes.float32, (4,))
    function = loops.Function("f", (out, x), loops.block(Cumulative("sum", 0).loops([out], x)))
    assert split_function(function) is function


def test_what_has_no_complex_meaning_says_so() -> None:
    x, out = Buffer("x", dtypes.complex64, (4,)), Buffer("out", dtypes.complex64, (4,))
    i = axis("i", 4)
    value = apply(el.floor.row.scalar, x[i])
    with pytest.raises(InternalError, match=r"no meaning on complex numbers: floor\(x\[i\]\)"):
        split_complex(Kernel("k", (i,), (Assign(out, (i,), (), value),)))


PROGRAMS = {
    "arithmetic": lambda z: (z * z.conj() + 1j) / z - z.real,
    "powers": lambda z: np.sqrt(z) ** 3 + z**2.5,
    "exponentials": lambda z: np.exp(z) * np.sin(z) + np.log(z),
    "parts": lambda z: (np.abs(z), np.angle(z), z.real * 2, z.imag.astype(complex)),
    "reductions": lambda z: (z.sum(1), z.mean(), z.prod(1), z.prod()),
    "rows": lambda z: z / np.sqrt((np.abs(z) ** 2).sum(1, keepdims=True)),
    "matrices": lambda z: z @ z.T.conj(),
    "movement": lambda z: np.concatenate([np.pad(z, 1)[1:-1, 1:-1], z[::-1]]).T,
    "choice": lambda z: np.where(z.real > 0, z, 0),
    "cumulative": lambda z: np.cumprod(z, axis=1),
}


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_programs(name: str, dtype: Any) -> None:
    f, z = PROGRAMS[name], ordinary(dtype, (5, 13), 9, 0.4)
    rtol = 1e-4 if dtype == dtypes.complex64 else 1e-11
    want, got = (tw.tree.leaves(r) for r in (f(z), tw.compile(f)(z)))
    for w, g in zip(want, got, strict=True):
        assert np.asarray(g).dtype == np.asarray(w).dtype
        np.testing.assert_allclose(g, w, rtol=rtol, atol=rtol)


def test_loops_carry_complex_values() -> None:
    def running(z: Any) -> Any:
        return tw.scan(lambda c, x: (c * x, c + x), z[0], z)

    z = ordinary(dtypes.complex128, (4, 3), 2, 0.4)
    last, every = tw.compile(running)(z)
    np.testing.assert_allclose(last, z[0] * z.prod(0))
    np.testing.assert_allclose(every[1], z[0] * z[0] + z[1])
