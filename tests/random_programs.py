"""Random NumPy programs, written from a seed.

Knows what NumPy programs look like: elementwise functions over mixed dtypes, reductions, movements,
indexing in every form, products, sorting, scans, in-place writes, over shapes with zeros, ones and
primes. Refuses to know how results are compared (`fuzz`) and how anything is compiled.

A program is lines of Python, so that a failure is something one can read and paste.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16
import numpy as np

from tilewright import dtypes

BF16: Final = dtypes.bfloat16
MOST_ELEMENTS: Final = 6000
"""Values larger than this are not made: NumPy, the interpreter and the compiler stay quick."""

EXACT, ROUNDED, SUMMED, LOOSE_ZERO = "exact", "rounded", "summed", "loose zero"
"""How a line may differ from NumPy: not at all; by a few roundings of its result; by roundings
of its arguments too (the order of a sum); in the sign of a zero (the greater of -0 and 0)."""


@dataclass(frozen=True)
class Line:
    """`target = source`, reading the values `args`."""

    target: str
    source: str
    args: tuple[str, ...]
    kind: str = EXACT

    def __str__(self) -> str:
        return self.source if "\n" in self.source else f"{self.target} = {self.source}"


@dataclass(frozen=True)
class Program:
    """Inputs by name, lines, and the names of the results."""

    name: str
    inputs: dict[str, Any]
    lines: tuple[Line, ...]
    outputs: tuple[str, ...]

    @property
    def source(self) -> str:
        body = "".join(f"    {text}\n" for line in self.lines for text in str(line).split("\n"))
        results = ", ".join(self.outputs)
        return f"def {self.name}({', '.join(self.inputs)}):\n{body}    return {results},\n"

    @property
    def function(self) -> Callable[..., Any]:
        """The program as a Python function of its inputs, with lines an error can name."""
        source, file = self.source, f"<{self.name}>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        space: dict[str, Any] = {"np": np}
        exec(compile(source, file, "exec"), space)
        return space[self.name]

    def __str__(self) -> str:
        lines = [f"# {n}: {_type(v)}" for n, v in self.inputs.items()]
        return "\n".join([*lines, self.source])


def _type(v: Any) -> str:
    if not isinstance(v, np.ndarray):
        return repr(v)
    strides = "" if v.flags.c_contiguous else f", strides {v.strides}"
    return f"{v.dtype} {v.shape}{strides}" + ("" if v.flags.aligned else ", not aligned")


# -- writing programs --------------------------------------------------------------------------

FLOATS: Final = (np.float32, np.float32, np.float64, np.float64, np.float16, BF16)
INTS: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
EXTENTS: Final = (0, 1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 19, 23, 31, 32, 37, 41)


class Writer:
    """Adds lines that NumPy accepts; keeps every value so far."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.values: dict[str, Any] = {}
        self.lines: list[Line] = []

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def one(self, of: Sequence[Any]) -> Any:
        return of[int(self.rng.integers(len(of)))]

    def small(self, low: int, high: int) -> int:
        """An integer in low..high."""
        return int(self.rng.integers(low, high + 1))

    def name(self, wanted: Callable[[Any], bool] = lambda v: True) -> str | None:
        """The name of an array that is `wanted`, later ones more often."""
        names = [n for n, v in self.values.items() if isinstance(v, np.ndarray | np.generic)]
        names = [n for n in names if wanted(self.values[n])]
        if not names:
            return None
        return names[max(int(self.rng.integers(len(names))), int(self.rng.integers(len(names))))]

    def fresh(self) -> str:
        return f"v{len(self.lines)}"

    def add(self, line: Line) -> bool:
        """Run the line in NumPy; keep it if that works."""
        space = {"np": np} | self.values
        try:
            with np.errstate(all="ignore"):
                exec(str(line), space)
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError, MemoryError):
            return False
        value = space[line.target]
        known = isinstance(value, np.ndarray | np.generic) and value.dtype in dtypes.SHORT
        if not known or value.size > MOST_ELEMENTS or self.unknown_to_bfloat16(line, value):
            return False
        parts = [value, *(self.values[n] for n in line.args)]
        complex_ = any(dtypes.is_complex(np.asarray(v).dtype) for v in parts)
        inexact = complex_ and line.kind == EXACT and _computes(line)
        self.lines.append(replace(line, kind=SUMMED) if inexact else line)
        self.values[line.target] = value
        return True

    def unknown_to_bfloat16(self, line: Line, value: Any) -> bool:
        """Whether NumPy computed in another type for want of a bfloat16 function (clip, some
        products) or of a common type (bfloat16 has none with most integers), or did nothing
        (nan_to_num, to which bfloat16 is no type of floats)."""
        types = [self.values[n].dtype for n in line.args if hasattr(self.values[n], "dtype")]
        if BF16 not in types:
            return False
        if "astype" in line.source:
            return "clip" in line.source
        try:
            common = np.result_type(*types)
        except TypeError:
            return True
        unknown = any(name in line.source for name in ("clip", "nan_to_num"))
        return unknown or (common == BF16 and value.dtype == np.float32)


def _computes(line: Line) -> bool:
    """Complex products and quotients are several roundings, in an order of their own; a sign is a
    number divided by its size."""
    several = ("multiply", "divide", "square", "reciprocal", "*", "abs", "sign(")
    return any(w in line.source for w in several)


def write(seed: int) -> Program:
    """The program of a seed."""
    w = Writer(seed)
    inputs = _inputs(w)
    w.values |= {n: native(v) for n, v in inputs.items()}
    wanted = w.small(2, 14)
    for _ in range(12 * wanted):
        line = w.one(PRODUCTIONS)(w)
        if line is not None and w.add(line) and len(w.lines) == wanted:
            break
    arrays = [n for n, v in w.values.items() if isinstance(v, np.ndarray | np.generic)]
    outputs = [arrays[-1]] + [w.one(arrays) for _ in range(w.small(0, 3))]
    if w.chance(0.2):
        outputs.append(outputs[0])
    return Program(f"seed_{seed}", inputs, tuple(w.lines), tuple(outputs))


def native(v: Any) -> Any:
    """The input as NumPy's functions would like it: native bytes, contiguous."""
    if not isinstance(v, np.ndarray):
        return v
    return np.array(v, dtype=v.dtype.newbyteorder("="), order="C")


def _inputs(w: Writer) -> dict[str, Any]:
    """Arrays whose shapes broadcast with each other, mostly, and a Python number now and then."""
    if w.chance(0.12):
        base: tuple[int, ...] = (w.small(200, 1500),)
    else:
        extents = EXTENTS if w.chance(0.3) else EXTENTS[1:]
        base = tuple(w.one(extents[: 10 if k else None]) for k in range(w.small(1, 4)))[::-1]
        while np.prod(base) > MOST_ELEMENTS:
            base = base[1:]
    kinds = w.one((INTS, FLOATS, FLOATS, (np.float32,), (np.float64,), (*FLOATS, *INTS, "bool")))
    if w.chance(0.1):
        kinds = (*kinds, "complex64", "complex128")
    found: dict[str, Any] = {}
    for k in range(w.small(1, 4)):
        shape = base if k == 0 else _related(w, base)
        found[f"x{k}"] = laid_out(w, numbers(w, shape, np.dtype(w.one(kinds))))
    if w.chance(0.15):
        found["s"] = w.one((2, -3, 0.5, 2.5, True))
    return found


def _related(w: Writer, base: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `base`; sometimes transposed."""
    shape = tuple(1 if w.chance(0.2) else n for n in base[w.small(0, len(base)) :])
    return shape[::-1] if w.chance(0.1) else base if w.chance(0.4) else shape


def numbers(w: Writer, shape: tuple[int, ...], dtype: Any) -> Any:
    """Ordinary numbers, ties, whole ranges and special values."""
    rng = w.rng
    if dtypes.is_bool(dtype):
        return rng.random(shape) < 0.5
    if dtypes.is_integer(dtype):
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if w.chance(0.15) else (max(info.min, -9), 20)
        return rng.integers(low, high, shape, dtype=dtype, endpoint=True)
    x = rng.normal(size=shape) * w.one((1.0, 1.0, 3.0, 20.0))
    if w.chance(0.2):
        x = np.rint(x)
    if dtypes.is_complex(dtype):
        return (x + 1j * rng.normal(size=shape)).astype(dtype)
    if w.chance(0.15):
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
        x = np.where(rng.random(shape) < 0.1, special[rng.integers(5, size=shape)], x)
    return np.asarray(x).astype(dtype)


def laid_out(w: Writer, a: Any) -> Any:
    """The same numbers in some other place: strided, reversed, transposed, shifted, swapped."""
    a = np.asarray(a)
    how = w.small(0, 9)
    if how == 0 and a.ndim:
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        wide[..., ::2] = a
        return wide[..., ::2]
    if how == 1 and a.ndim:
        return np.ascontiguousarray(a[::-1])[::-1]
    if how == 2:
        return np.asfortranarray(a)
    if how == 3 and a.size:
        room = np.zeros(a.nbytes + 1, np.uint8)[1:]
        shifted = room.view(a.dtype).reshape(a.shape)
        shifted[...] = a
        return shifted
    if how == 4 and a.dtype != BF16:
        return a.astype(a.dtype.newbyteorder(">"))
    return a


# -- productions: each gives a line, or None if no value fits ----------------------------------


def _is_float(v: Any) -> bool:
    return dtypes.is_float(v.dtype)


def _is_int(v: Any) -> bool:
    return dtypes.is_integer(v.dtype)


def _is_real(v: Any) -> bool:
    return not dtypes.is_complex(v.dtype)


def _has_axes(v: Any) -> bool:
    return v.ndim > 0


UNARY: Final = (
    "np.negative({0})", "np.abs({0})", "np.sign({0})", "np.square({0})", "np.floor({0})",
    "np.ceil({0})", "np.trunc({0})", "np.rint({0})", "np.sqrt(np.abs({0}))", "np.isnan({0})",
    "np.isfinite({0})", "np.isinf({0})", "np.signbit(np.nan_to_num({0}))", "np.logical_not({0})",
    "np.invert({0})", "np.conjugate({0})", "np.real({0})", "np.imag({0})", "~{0}", "-{0}",
    "{0} + 1", "{0} * 2", "2 - {0}", "{0} > 0", "{0} != 1", "{0} % 3", "{0} // 2", "{0} / 4",
    "{0} * 0.5", "0.1 + {0}", "{0} ** 2", "np.positive({0})", "1 / {0}", "abs({0})", "{0} << 1",
    "np.nan_to_num({0})", "np.copysign(1.5, np.nan_to_num({0}))", "{0} * {0}", "{0} - {0}",
)  # fmt: skip
FUNCTIONS: Final = (
    "np.exp({0})", "np.exp2({0})", "np.expm1({0})", "np.log(np.abs({0}) + 1)", "np.log2({0})",
    "np.log10(np.abs({0}))", "np.log1p(np.abs({0}))", "np.sin({0})", "np.cos({0})",
    "np.tan(np.clip({0}, -1, 1))", "np.arcsin(np.clip({0}, -1, 1))", "np.arctan({0})",
    "np.arccos(np.clip({0}, -1, 1))", "np.sinh(np.clip({0}, -5, 5))", "np.tanh({0})",
    "np.cosh(np.clip({0}, -5, 5))", "np.arcsinh({0})", "np.arctanh(np.clip({0}, 0, 1) * 0.5)",
    "np.cbrt({0})", "np.deg2rad({0})", "np.arccosh(np.abs({0}) + 1)", "1 / (1 + np.exp(-{0}))",
)  # fmt: skip
BINARY: Final = (
    "np.add({0}, {1})", "{0} - {1}", "{0} * {1}", "{0} / {1}", "np.maximum({0}, {1})",
    "np.minimum({0}, {1})", "np.fmax({0}, {1})", "np.fmin({0}, {1})", "{0} < {1}", "{0} <= {1}",
    "np.greater({0}, {1})", "{0} >= {1}", "{0} == {1}", "np.not_equal({0}, {1})",
    "np.logical_and({0}, {1})", "np.logical_or({0}, {1})", "np.logical_xor({0}, {1})",
    "{0} & {1}", "{0} | {1}", "{0} ^ {1}", "np.left_shift({0}, {1} & 7)",
    "np.right_shift({0}, {1} & 7)", "{0} // {1}", "{0} % {1}", "np.fmod({0}, {1})",
    "np.copysign({0}, np.nan_to_num({1}))", "np.nextafter({0}, {1})", "np.heaviside({0}, {1})",
    "np.gcd({0}, {1})", "np.where({0} > {1}, {0}, {1})", "np.abs({0} - {1})", "np.divide({0}, {1})",
)  # fmt: skip
BINARY_FUNCTIONS: Final = (
    "np.power(np.abs({0}), np.clip({1}, 0, 3))", "np.arctan2({0}, {1})", "np.hypot({0}, {1})",
    "np.logaddexp({0}, {1})",
)  # fmt: skip


def _loose(source: str) -> str:
    return LOOSE_ZERO if any(m in source for m in ("max", "min", "clip", "where", "%")) else EXACT


def unary(w: Writer) -> Line | None:
    x = w.name()
    source = w.one(UNARY)
    return x and Line(w.fresh(), source.format(x), (x,), _loose(source))


def function(w: Writer) -> Line | None:
    x = w.name(_is_real)
    return x and Line(w.fresh(), w.one(FUNCTIONS).format(x), (x,), ROUNDED)


def _pair(w: Writer) -> tuple[str, str] | None:
    """Two values that broadcast; the second may be a Python number."""
    x = w.name()
    if x is None:
        return None
    if w.chance(0.1) and "s" in w.values:
        return x, "s"

    def fits(v: Any) -> bool:
        pairs = zip(v.shape[::-1], w.values[x].shape[::-1], strict=False)
        return all(m == n or 1 in (m, n) for m, n in pairs)

    y = w.name(fits)
    return y and (x, y) if w.chance(0.5) else y and (y, x)


def binary(w: Writer) -> Line | None:
    pair = _pair(w)
    if pair is None:
        return None
    rounded = w.chance(0.15)
    source = w.one(BINARY_FUNCTIONS if rounded else BINARY)
    kind = (SUMMED if "logaddexp" in source else ROUNDED) if rounded else _loose(source)
    return Line(w.fresh(), source.format(*pair), pair, kind)


def choose(w: Writer) -> Line | None:
    pair, c = _pair(w), w.name(lambda v: dtypes.is_bool(v.dtype))
    if pair is None or c is None:
        return None
    return Line(w.fresh(), f"np.where({c}, {pair[0]}, {pair[1]})", (c, *pair))


def clip(w: Writer) -> Line | None:
    x = w.name(_is_real)
    return x and Line(
        w.fresh(), f"np.clip({x}, {w.small(0, 2)}, {w.small(2, 9)})", (x,), LOOSE_ZERO
    )


def cast(w: Writer) -> Line | None:
    """Into every type; numbers that the type does not hold are undefined, so they are clipped."""
    x = w.name(_is_real)
    if x is None:
        return None
    to = np.dtype(w.one((*FLOATS, *INTS, "bool")))
    value = x
    if dtypes.is_integer(to) and _is_float(w.values[x]):
        value = f"np.clip(np.nan_to_num({x}), {0 if to.kind == 'u' else -100}, 100)"
    return Line(w.fresh(), f"{value}.astype({to.name!r})", (x,))


def _axis(w: Writer, v: Any) -> int:
    return w.small(-v.ndim, v.ndim - 1)


def _axes(w: Writer, v: Any) -> str:
    """An `axis=` for a reduction: one, several or all axes; perhaps kept."""
    several = tuple(d for d in range(v.ndim) if w.chance(0.5)) or (0,)
    axis = w.one((f", axis={_axis(w, v)}", f", axis={several}", ""))
    return axis + (", keepdims=True" if w.chance(0.3) else "")


def reduction(w: Writer) -> Line | None:
    x = w.name(_has_axes)
    if x is None:
        return None
    v, name = w.values[x], w.one(("sum", "prod", "max", "min", "mean", "var", "std", "any", "all"))
    if (name == "prod" and v.size > 40) or (name in ("max", "min") and not _is_real(v)):
        return None
    kind = SUMMED if name in ("sum", "prod", "mean", "var", "std") else LOOSE_ZERO
    if kind is SUMMED and not dtypes.is_inexact(v.dtype) and name in ("sum", "prod"):
        kind = EXACT
    call = f"{x}.{name}({_axes(w, v)})" if w.chance(0.5) else f"np.{name}({x}{_axes(w, v)})"
    return Line(w.fresh(), call.replace("(, ", "("), (x,), kind)


def position(w: Writer) -> Line | None:
    x = w.name(lambda v: _has_axes(v) and _is_real(v))
    if x is None:
        return None
    v = w.values[x]
    axis = w.one((f", axis={_axis(w, v)}", ""))
    keep = ", keepdims=True" if w.chance(0.2) else ""
    return Line(w.fresh(), f"np.{w.one(('argmax', 'argmin'))}({x}{axis}{keep})", (x,))


def scan(w: Writer) -> Line | None:
    x = w.name(_has_axes)
    if x is None:
        return None
    v = w.values[x]
    name = "cumprod" if v.size <= 30 and w.chance(0.3) else "cumsum"
    kind = SUMMED if dtypes.is_inexact(v.dtype) else EXACT
    return Line(w.fresh(), f"np.{name}({x}, axis={_axis(w, v)})", (x,), kind)


def order(w: Writer) -> Line | None:
    x = w.name(lambda v: _has_axes(v) and _is_real(v) and v.dtype != BF16)
    if x is None:
        return None
    axis = _axis(w, w.values[x])
    source = w.one(("np.sort({0}, axis={1})", 'np.argsort({0}, axis={1}, kind="stable")'))
    return Line(w.fresh(), source.format(x, axis), (x,), LOOSE_ZERO)


def _slice(w: Writer, n: int) -> str:
    """A slice of an axis of extent n, in any direction."""
    start, stop = w.small(-n - 1, n + 1), w.small(-n - 1, n + 1)
    return w.one(
        (
            ":",
            "::-1",
            f"{start}:",
            f":{stop}",
            f"{start}:{stop}",
            "::2",
            "1::3",
            f"{stop}::-2",
            ":-1",
        )
    )


def _basic(w: Writer, v: Any) -> str:
    """A basic index of some leading axes."""
    parts = [
        str(w.small(-n, n - 1)) if n and w.chance(0.2) else _slice(w, n)
        for n in v.shape[: w.small(1, v.ndim)]
    ]
    if w.chance(0.1):
        parts.insert(w.small(0, len(parts)), "None")
    if w.chance(0.15):
        parts.append("...")
    return ", ".join(parts)


def subscript(w: Writer) -> Line | None:
    x = w.name(_has_axes)
    return x and Line(w.fresh(), f"{x}[{_basic(w, w.values[x])}]", (x,))


def take(w: Writer) -> Line | None:
    """Integer indexing: literal indices, or the remainder of an integer array."""
    x = w.name(lambda v: v.ndim > 0 and v.shape[0] > 0)
    if x is None:
        return None
    v = w.values[x]
    d = w.small(0, v.ndim - 1)
    if not v.shape[d]:
        return None
    i = w.name(lambda u: _is_int(u) and u.ndim <= 2)
    if i is not None and w.chance(0.5):
        index, args = f"{i} % {v.shape[d]}", (x, i)
    else:
        many = [w.small(-v.shape[d], v.shape[d] - 1) for _ in range(w.small(1, 5))]
        index, args = f"np.array({many})", (x,)
    if w.chance(0.3):
        return Line(w.fresh(), f"np.take({x}, {index}, axis={d})", args)
    return Line(w.fresh(), f"{x}[{':, ' * d}{index}]", args)


def _factors(w: Writer, n: int) -> tuple[int, ...]:
    """A shape of n elements."""
    shape = []
    while n > 1 and w.chance(0.7):
        f = w.one([k for k in range(1, min(n, 40) + 1) if n % k == 0])
        shape.append(f)
        n //= f
    return (*shape, n)


def movement(w: Writer) -> Line | None:
    x = w.name(_has_axes)
    if x is None:
        return None
    v = w.values[x]
    d, e = _axis(w, v), _axis(w, v)
    source = w.one((
        f"np.reshape({x}, {_factors(w, v.size)})" if v.size else f"{x}.ravel()",
        f"{x}.reshape(-1)", f"np.transpose({x}, {tuple(map(int, w.rng.permutation(v.ndim)))})",
        f"{x}.T", f"np.swapaxes({x}, {d}, {e})", f"np.moveaxis({x}, {d}, {e})",
        f"np.expand_dims({x}, {d})", f"np.squeeze({x})", f"np.flip({x}, axis={d})",
        f"np.roll({x}, {w.small(-5, 5)}, axis={d})", f"{x}[..., None]", f"{x}[None]",
        f"np.broadcast_to({x}, ({w.small(1, 3)}, *{v.shape}))", f"np.flip({x})",
        f"np.tile({x}, {w.small(1, 3)})", f"np.repeat({x}, {w.small(1, 3)}, axis={d})",
        f"np.tril({x})", f"np.triu({x}, 1)", f"np.diff({x}, axis={d})", f"np.diagonal({x})",
        f"np.rot90({x})", f"np.ravel({x})", f"np.atleast_2d({x})",
        f"np.split({x}, [{w.small(0, 3)}], axis={d})[1]",
    ))  # fmt: skip
    return Line(w.fresh(), source, (x,))


def pad(w: Writer) -> Line | None:
    x = w.name(_has_axes)
    if x is None:
        return None
    widths = tuple((w.small(0, 3), w.small(0, 3)) for _ in w.values[x].shape)
    mode = w.one(("", ", constant_values=2", ", mode='edge'", ", mode='reflect'", ", mode='wrap'"))
    return Line(w.fresh(), f"np.pad({x}, {widths}{mode})", (x,))


def join(w: Writer) -> Line | None:
    x = w.name(_has_axes)
    if x is None:
        return None
    d = _axis(w, w.values[x]) % w.values[x].ndim
    shape = w.values[x].shape

    def fits(v: Any) -> bool:
        rest = v.shape[:d] + v.shape[d + 1 :]
        return v.ndim == len(shape) and rest == shape[:d] + shape[d + 1 :]

    names = [x, *(w.name(fits) or x for _ in range(w.small(0, 3)))]
    same = [n for n in names if w.values[n].shape == shape]
    if w.chance(0.3):
        return Line(w.fresh(), f"np.stack(({', '.join(same)},), axis={d})", tuple(same))
    return Line(w.fresh(), f"np.concatenate(({', '.join(names)},), axis={d})", tuple(names))


def product(w: Writer) -> Line | None:
    x = w.name(_has_axes)
    if x is None:
        return None
    v = w.values[x]

    def fits(u: Any) -> bool:
        inner = u.shape[-2] if u.ndim > 1 else u.shape[0] if u.ndim else -1
        batch = zip(u.shape[-3::-1], v.shape[-3::-1], strict=False)
        return inner == v.shape[-1] and all(m == n or 1 in (m, n) for m, n in batch)

    y = w.name(fits)
    if y is None or w.chance(0.3):
        source = w.one((
            "{0} @ np.swapaxes({0}, -1, -2)", "np.einsum('...i,...i->...', {0}, {0})",
            "np.dot({0}, {0}.T)", "np.outer({0}, {0})", "np.inner({0}, {0})", "np.vdot({0}, {0})",
            "np.einsum('...ij,...kj->...ik', {0}, {0})", "np.tensordot({0}, {0}, (0, 0))",
        ))  # fmt: skip
        y = x
    else:
        source = w.one(("{0} @ {1}", "np.matmul({0}, {1})", "np.dot({0}, {1})"))
    inexact = any(dtypes.is_inexact(w.values[n].dtype) for n in (x, y))
    kind = SUMMED if inexact else EXACT
    return Line(w.fresh(), source.format(x, y), (x, y), kind)


def composition(w: Writer) -> Line | None:
    """What models are made of."""
    x = w.name(lambda v: v.ndim > 0 and _is_float(v) and v.shape[-1] > 0)
    if x is None:
        return None
    source = w.one((
        "np.exp({0} - {0}.max(-1, keepdims=True)) /"
        " np.exp({0} - {0}.max(-1, keepdims=True)).sum(-1, keepdims=True)",
        "({0} - {0}.mean(-1, keepdims=True)) / np.sqrt({0}.var(-1, keepdims=True) + 1e-3)",
        "{0}.max(0) + np.log(np.exp({0} - {0}.max(0)).sum(0))",
        "{0} / np.sqrt(np.square({0}).sum(-1, keepdims=True) + 1)",
        "{0} / (1 + np.exp(-1.702 * {0}))",
        "({0} * {0}).sum(-1) - {0}.sum(-1) ** 2",
        "np.cumsum({0}[::-1], axis=0)[::-1]",
        "({0}.sum(-1, keepdims=True) * {0}).sum(0)",
    ))  # fmt: skip
    return Line(w.fresh(), source.format(x), (x,), SUMMED)


def update(w: Writer) -> Line | None:
    """A copy with some items overwritten in place."""
    x = w.name(_has_axes)
    if x is None:
        return None
    v, out = w.values[x], w.fresh()
    y = w.name(lambda u: u.shape == () and u.dtype == v.dtype)
    value = y if y is not None and w.chance(0.5) else "1"
    where = f"[{_basic(w, v)}]"
    if w.chance(0.2):
        where = f"[{out} > 0]"
    elif w.chance(0.2) and v.shape[0]:
        where = f"[np.array({[w.small(-v.shape[0], v.shape[0] - 1) for _ in range(3)]})]"
    op = w.one(("=", "=", "+=", "*=")) if v.dtype.kind in "iufc" else "="
    args = (x, y) if value == y else (x,)
    return Line(out, f"{out} = {x}.copy()\n{out}{where} {op} {value}", args)


def write_through(w: Writer) -> Line | None:
    """A copy with a slice overwritten by another slice of the original."""
    x = w.name(lambda v: v.ndim > 0 and v.shape[0] > 1)
    if x is None:
        return None
    n, out = w.values[x].shape[0], w.fresh()
    k = w.small(1, n - 1)
    return Line(out, f"{out} = {x}.copy()\n{out}[{k}:] = {x}[:{n - k}]", (x,))


PRODUCTIONS: Final = (
    unary, unary, function, function, binary, binary, binary, binary, choose, clip, cast, cast,
    reduction, reduction, reduction, position, scan, order, subscript, subscript, take, movement,
    movement, pad, join, product, composition, update, write_through,
)  # fmt: skip
