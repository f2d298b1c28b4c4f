"""Random NumPy programs: the same source runs in NumPy, in the interpreters and compiled.

Knows how to write a program from a seed (`write`), how far rounding alone may move its results
(`Reference`), how to compare (`check`), and how to find the smallest failing part of a program
(`shrink`). Refuses to know how anything is compiled.

A program is lines of Python, so that a failure is something one can read and paste. How close
results must be is not guessed: the program is run again with every inexact operation disturbed by
a few units in the last place; what does not move must agree to the bit, what moves may differ by
a multiple of that, and what jumps (the floor of a sum, say) is not compared.

    python tests/fuzz.py --seeds 0:2000            check many, in processes that may crash
    python tests/fuzz.py --seeds 17 --show         one program, and its smallest failing part
"""

from __future__ import annotations

import argparse
import linecache
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16
import numpy as np

import tilewright as tw
from tilewright import dtypes, graph, kernel, loops, tracing
from tilewright.runtime.executable import prepared
from tilewright.transforms.assemble import constants

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
        inexact = dtypes.is_complex(value.dtype) and line.kind == EXACT and _computes(line)
        self.lines.append(replace(line, kind=SUMMED) if inexact else line)
        self.values[line.target] = value
        return True

    def unknown_to_bfloat16(self, line: Line, value: Any) -> bool:
        """Whether NumPy computed in another type for want of a bfloat16 function (clip, some
        products) or of a common type (bfloat16 has none with most integers)."""
        types = [self.values[n].dtype for n in line.args if hasattr(self.values[n], "dtype")]
        if BF16 not in types:
            return False
        if "astype" in line.source:
            return "clip" in line.source
        try:
            common = np.result_type(*types)
        except TypeError:
            return True
        return "clip" in line.source or (common == BF16 and value.dtype == np.float32)


def _computes(line: Line) -> bool:
    """Complex products and quotients are several roundings, in an order of their own."""
    return any(w in line.source for w in ("multiply", "divide", "square", "reciprocal", "*", "abs"))


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
    return x and Line(w.fresh(), f"np.clip({x}, {w.small(0, 2)}, {w.small(2, 9)})", (x,))


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


def _basic(w: Writer, v: Any, integers: bool = True) -> str:
    """A basic index of some leading axes."""
    parts = []
    for n in v.shape[: w.small(1, v.ndim)]:
        parts.append(str(w.small(-n, n - 1)) if n and integers and w.chance(0.2) else _slice(w, n))
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


# -- what NumPy says, and how sure it is -------------------------------------------------------


class Reference:
    """A program's results by NumPy, and by NumPy with inexact operations disturbed."""

    def __init__(self, program: Program, runs: int = 4) -> None:
        self.program = program
        self.values = self._run(None)
        rngs = [np.random.default_rng(k) for k in range(runs)]
        noisy = any(line.kind != EXACT for line in program.lines)
        # All zeros change their sign in the first run, half of them in the others.
        self.disturbed = [self._run(r, 0.5 if k else 1) for k, r in enumerate(rngs) if noisy]

    def _run(self, rng: np.random.Generator | None, flips: float = 0) -> dict[str, Any]:
        values: dict[str, Any] = {n: native(v) for n, v in self.program.inputs.items()}
        with np.errstate(all="ignore"):
            for line in self.program.lines:
                space = {"np": np} | values
                if rng is not None and line.kind == SUMMED:
                    space |= {n: _wider(disturb(values[n], rng, True)) for n in line.args}
                exec(str(line), space)
                value = space[line.target]
                if rng is not None and line.kind in (ROUNDED, SUMMED):
                    value = value.astype(self.values[line.target].dtype)
                    value = _flip_zeros(disturb(value, rng, False), rng, flips)
                elif rng is not None and line.kind == LOOSE_ZERO:
                    value = _flip_zeros(value, rng, flips)
                values[line.target] = value
        return values

    def differences(self, name: str, got: Any) -> str | None:
        """What is wrong with `got` as the value of `name`, or None."""
        want = np.asarray(self.values[name])
        got = np.asarray(got)
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            return f"{got.dtype} {got.shape} instead of {want.dtype} {want.shape}"
        allowed, unsure = self._allowed(name, want)
        with np.errstate(all="ignore"):
            near = np.abs(wide(got) - wide(want)) <= allowed
        wrong = ~(near | (got == want) | ((got != got) & (want != want)) | unsure)
        if not wrong.any():
            return None
        at = tuple(int(i[0]) for i in np.nonzero(wrong)) if want.ndim else ()
        return (
            f"{int(wrong.sum())} of {want.size} elements differ, first at {at}:"
            f" {got[at]!r} instead of {want[at]!r} (± {np.broadcast_to(allowed, want.shape)[at]})"
        )

    def _allowed(self, name: str, want: Any) -> tuple[Any, Any]:
        """How far each element may be off, and where nothing can be said."""
        exact = wide(want)
        moved = np.zeros(want.shape)
        unsure = np.zeros(want.shape, bool)
        for values in self.disturbed:
            other = np.asarray(values[name])
            if other.shape != want.shape:
                return np.full(want.shape, np.inf), np.ones(want.shape, bool)
            with np.errstate(all="ignore"):
                off = np.abs(wide(other) - exact)
            lost = ~np.isfinite(off) & ~((other == want) | ((other != other) & (want != want)))
            unsure |= lost
            moved = np.maximum(moved, np.where(np.isfinite(off), off, 0))
        if not dtypes.is_inexact(want.dtype):
            return np.zeros(want.shape), unsure | (moved > 0)
        size = np.abs(np.where(np.isfinite(exact), exact, 0))
        share = moved[moved > 0] / np.maximum(size[moved > 0], 1e-300)
        typical = float(np.median(share)) if share.size else 0.0
        return 10 * np.maximum(moved, min(typical, 0.1) * size), unsure


def wide(a: Any) -> Any:
    """Numbers whose differences do not wrap or round."""
    a = np.asarray(a)
    if dtypes.is_complex(a.dtype):
        return a.astype(np.complex128)
    return a.astype(np.longdouble)


def _wider(a: Any) -> Any:
    """NumPy adds some float16 in float16, which overflows where a sum in float32 does not."""
    return a.astype(np.float32) if getattr(a, "dtype", None) == np.float16 else a


def disturb(a: Any, rng: np.random.Generator, summed: bool) -> Any:
    """Floats moved by a few units in the last place; more where many terms are added."""
    if not isinstance(a, np.ndarray | np.generic) or not dtypes.is_inexact(a.dtype):
        return a
    eps = 2.0**-8 if a.dtype == BF16 else float(np.finfo(a.dtype).eps)
    many = 1.0 + np.sqrt(np.size(a)) if summed else 1.0
    share = eps * many * rng.uniform(-3, 3, np.shape(a))
    double = np.complex128 if dtypes.is_complex(a.dtype) else np.float64
    moved = np.asarray(np.asarray(a).astype(double) * (1 + share)).astype(a.dtype)
    return moved[()] if isinstance(a, np.generic) else moved


def _flip_zeros(a: Any, rng: np.random.Generator, share: float) -> Any:
    """A share of the zeros with the other sign."""
    if not dtypes.is_float(a.dtype):
        return a
    flips = (np.asarray(a) == 0) & (rng.random(np.shape(a)) < share)
    return np.where(flips, -np.asarray(a), a).astype(a.dtype)[()]


# -- running -----------------------------------------------------------------------------------


def check(program: Program, stages: Sequence[str] = ("interpreted", "compiled")) -> str | None:
    """What goes wrong first, or None. Stages: interpreted, kernels, loops, compiled."""
    reference = Reference(program)
    for stage in stages:
        try:
            results = STAGES[stage](program)
        except Exception as error:  # whatever the compiler raises is a finding
            return f"{stage}: {type(error).__name__}: {error}"
        for name, got in zip(program.outputs, results, strict=True):
            wrong = reference.differences(name, got)
            if wrong is not None:
                return f"{stage}: {name}: {wrong}"
    return None


def _interpreted(program: Program) -> Sequence[Any]:
    call, leaves = tracing.bind(program.function, list(program.inputs.values()), {})
    traced = tracing.trace_call(program.function, call)
    graph.verify(traced.graph)
    arrays = [prepared(np.asarray(x), n.type.dtype) for x, n in zip(leaves, traced.graph.inputs)]
    with np.errstate(all="ignore"):
        return traced.rebuild(graph.evaluate(traced.graph, arrays))


def _compiled(program: Program) -> Sequence[Any]:
    inputs = list(program.inputs.values())
    before = [np.array(v) for v in inputs]
    results = tw.compile(program.function)(*inputs)
    for k, (v, was) in enumerate(zip(inputs, before, strict=True)):
        if not np.array_equal(np.asarray(v).view(), was, equal_nan=dtypes.is_inexact(was.dtype)):
            raise AssertionError(f"input {k} was changed")
    arrays = [r for r in results if isinstance(r, np.ndarray)]
    for k, r in enumerate(arrays):
        if any(np.shares_memory(r, other) for other in (*arrays[:k], *inputs)):
            raise AssertionError(f"result {k} shares memory")
    return results


def _looped(program: Program) -> Sequence[Any]:
    """The whole program's loops, interpreted."""
    lowered = tw.compile(program.function).lower(*program.inputs.values())
    g = lowered.entry.program.graph
    inputs = [
        prepared(np.asarray(v), n.type.dtype) for v, n in zip(program.inputs.values(), g.inputs)
    ]
    inputs += [prepared(h.array, h.array.dtype) for h in constants(g)]
    outs = [np.zeros(n.type.shape, n.type.dtype) for n in g.outputs]
    arena = np.zeros(lowered.arena_bytes, np.uint8)
    loops.run(lowered.program, [*inputs, *outs, arena])
    return lowered.entry.traced.rebuild(outs)


STAGES: Final[dict[str, Callable[[Program], Sequence[Any]]]] = {
    "interpreted": _interpreted,
    "loops": _looped,
    "compiled": _compiled,
}


def kernels_agree(program: Program) -> str | None:
    """Whether each kernel's loops, interpreted, do what the kernel says."""
    lowered = tw.compile(program.function).lower(*program.inputs.values())
    for scheduled in lowered.entry.program.assembly.kernels:
        k = scheduled.kernel
        wrong = kernel_differs(k, scheduled.function)
        if wrong is not None:
            return f"{wrong}\n{k}\n{loops.show_function(scheduled.function)}"
    return None


def kernel_differs(k: kernel.Kernel, function: loops.Function, seed: int = 0) -> str | None:
    """Compare a kernel with loops made from it on random memory, both interpreted."""
    rng = np.random.default_rng(seed)
    memory = {b: _random(b, rng) for b in k.params}
    again = {b: a.copy() for b, a in memory.items()}
    kernel.evaluate(k, memory)
    loops.run(loops.Program((function,)), [again[b] for b in function.params])
    for b in k.params:
        x, y = memory[b], again[b]
        if not dtypes.is_inexact(b.dtype):
            same = np.array_equal(x, y)
        else:
            eps = 2.0**-8 if b.dtype == BF16 else float(np.finfo(b.dtype).eps)
            x, y = x.astype(np.complex128), y.astype(np.complex128)
            same = np.allclose(x, y, rtol=1e3 * eps, atol=1e3 * eps, equal_nan=True)
        if not same:
            return f"{b.name} differs: {x} and {y}"
    return None


def _random(b: Any, rng: np.random.Generator) -> Any:
    x = rng.uniform(0.5, 2, b.shape) * (3 if dtypes.is_integer(b.dtype) else 1)
    return np.asarray(x).astype(b.dtype)


# -- making failures small ---------------------------------------------------------------------


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A smaller program that still fails: fewer results, fewer lines, lines that become inputs."""
    for name in (*program.outputs, *(line.target for line in program.lines)):
        one = _pruned(replace(program, outputs=(name,)))
        if fails(one):
            program = one
            break
    k = len(program.lines) - 1
    while k >= 0:
        for smaller in _without(program, k):
            if fails(smaller):
                program = smaller
                break
        k = min(k, len(program.lines)) - 1
    return program


def _without(program: Program, k: int) -> Iterator[Program]:
    """The program with line k's value given as an input."""
    line = program.lines[k]
    value = np.asarray(Reference(replace(program, outputs=()), runs=0).values[line.target])
    lines = program.lines[:k] + program.lines[k + 1 :]
    inputs = {**program.inputs, line.target: value}
    yield _pruned(replace(program, inputs=inputs, lines=lines))


def _pruned(program: Program) -> Program:
    """Without lines and inputs no result needs."""
    needed, lines = set(program.outputs), []
    for line in reversed(program.lines):
        if line.target in needed:
            needed.update(line.args)
            lines.append(line)
    inputs = {n: v for n, v in program.inputs.items() if n in needed}
    return replace(program, inputs=inputs, lines=tuple(reversed(lines)))


def _crashes_or_fails(program: Program) -> bool:
    """Run the check in a child, so that a crash is only a failure."""
    child = os.fork()
    if child == 0:
        os._exit(1 if check(program) is not None else 0)
    _, status = os.waitpid(child, 0)
    return status != 0


# -- the command -------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0:200", help="17, or 0:2000")
    parser.add_argument("--show", action="store_true", help="print and shrink the failures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    first, _, last = options.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    if options.worker:
        for seed in seeds:
            print(f"start {seed}", flush=True)
            wrong = check(write(seed))
            if wrong is not None:
                print(f"fail {seed} {wrong.splitlines()[0]}", flush=True)
        return 0
    failures = _supervise(seeds)
    for seed, wrong in failures.items():
        print(f"seed {seed}: {wrong}")
        if options.show:
            print(shrink(write(seed), _crashes_or_fails))
    print(f"{len(failures)} of {len(seeds)} programs fail")
    return 1 if failures else 0


def _supervise(seeds: range) -> dict[int, str]:
    """Check seeds in a process; when it dies, note the seed and go on behind it."""
    failures: dict[int, str] = {}
    at = seeds.start
    while at < seeds.stop:
        command = [sys.executable, __file__, "--worker", "--seeds", f"{at}:{seeds.stop}"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in run.stdout.splitlines():
            word, seed, *rest = line.split(" ", 2)
            at = int(seed) + 1
            if word == "fail":
                failures[int(seed)] = rest[0]
        if run.returncode == 0:
            break
        failures[at - 1] = f"the process died ({run.returncode}) {run.stderr[-300:]}"
    return failures


if __name__ == "__main__":
    sys.exit(main())
