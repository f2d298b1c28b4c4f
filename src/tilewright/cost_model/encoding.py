"""Kernels and machines as JSON text, and the keys under which measurements of them are kept.

Knows how a kernel is written as a table of its interned terms, each once, and read back as the very
same terms; its canonical form, in which equal kernels are equal whatever they are called; and how a
machine describes itself. Refuses to know what is measured (`measure`) and where it is kept
(`records`).

What is read may come from anybody: sizes are bounded, every field is checked, nothing is evaluated,
and the kernel must pass the verifier and write inside its buffers. Lines of the user's files stay
behind.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, TypeVar

from tilewright import dtypes
from tilewright import kernel as kernels
from tilewright import roofline as rooflines
from tilewright.dtypes import DType
from tilewright.errors import BadEncoding, InternalError
from tilewright.expr import (
    CONSTANT,
    INDEX_OPS,
    ROW,
    Apply,
    Axis,
    Buffer,
    Expr,
    Index,
    Lit,
    Load,
    Reduce,
    axis,
    static,
)
from tilewright.kernel import Assign, Kernel
from tilewright.ops import elementwise
from tilewright.roofline import Rates
from tilewright.runtime.threads import cores
from tilewright.scalars import MACHINE, MULTIPLY_ADD, REDUCTIONS, Scalar
from tilewright.target import Target, host
from tilewright.term import topological
from tilewright.transforms.index_rules import Ranges
from tilewright.transforms.schedule import Schedule, Stage, Step, buffer_names, names

VERSION: Final = 1
"""Of the format of kernels; part of every key."""
MOST_CHARACTERS: Final = 4 << 20
MOST_TERMS: Final = 100_000
MOST_RANK: Final = 64
MOST_EXTENT: Final = 1 << 40

SCOPES: Final = ("input", CONSTANT, ROW, "output", "temp", "stack", "registers")
_NAME: Final = re.compile(r"[\w.]{0,200}")
DTYPES: Final = {name: d for d, name in dtypes.SHORT.items()}
_MACHINE_PREFIX: Final = "machine."

T = TypeVar("T")


@functools.cache
def _scalars() -> Mapping[str, tuple[Scalar, int]]:
    """Every scalar operation of kernels with its number of operands. Printers' operations and
    NumPy's functions share some names."""
    unary = {"neg", "sqrt", "abs", "floor", "ceil", "trunc", "rint", "not", "popcount", "cast",
             "bitcast", "significand", "exponent", "root_estimate", "sixteenth_power"}  # fmt: skip
    arity = dict.fromkeys(unary, 1) | dict.fromkeys(("fma", "select", "rare"), 3)
    machine = {_MACHINE_PREFIX + n: (s, arity.get(n, 2)) for n, s in MACHINE.items()}
    machine[MULTIPLY_ADD.name] = MULTIPLY_ADD, 3
    return machine | {op.row.scalar.name: (op.row.scalar, op.row.arity) for op in elementwise.ALL}


@functools.cache
def _spelled() -> Mapping[Scalar, str]:
    return {scalar: name for name, (scalar, _) in _scalars().items()}


# -- writing ---------------------------------------------------------------------------------------


class _Table:
    """The tables of one kernel, filled as its terms are met. `plain` ones hold no names but those
    that count: a0, a1, ... for axes, b0, b1, ... for buffers."""

    def __init__(self, kernel: Kernel, plain: bool) -> None:
        self.plain = plain
        self.terms: list[list[Any]] = []
        self.buffers: list[list[Any]] = []
        self.axis_names: dict[Axis, str] = {}
        self.buffer_names: dict[Buffer, str] = {}
        self._terms: dict[Expr, int] = {}
        self._buffers: dict[Buffer, int] = {}
        axes = self.expressions(kernel.axes)
        body = [
            [
                self.expressions(a.axes),
                self.buffer(a.buffer),
                self.expressions(a.index),
                *self.expressions([a.value]),
            ]
            for a in kernel.body
        ]
        self.content = {
            "version": VERSION,
            "name": "" if plain else kernel.name,
            "buffers": self.buffers,
            "terms": self.terms,
            "axes": axes,
            "body": body,
        }

    def text(self) -> str:
        return json.dumps(self.content, separators=(",", ":"))

    def expressions(self, roots: Sequence[Expr]) -> list[int]:
        for e in topological(roots, _below):
            if e not in self._terms:
                entry = self.term(e)
                self._terms[e] = len(self.terms)
                self.terms.append(entry)
        return [self._terms[e] for e in roots]

    def term(self, e: Expr) -> list[Any]:
        match e:
            case Lit(value, dtype):
                spelled = value.hex() if isinstance(value, float) else value
                return ["lit", dtypes.short(dtype), spelled]
            case Axis(name, extent):
                name = f"a{len(self.axis_names)}" if self.plain else name
                self.axis_names[e] = name
                return ["axis", name, static(extent)]
            case Index(op, args):
                return ["index", op, [self._terms[a] for a in args]]
            case Load(buffer, index, guard):
                places = [self._terms[i] for i in index]
                return [
                    "load",
                    self.buffer(buffer),
                    places,
                    None if guard is None else self._terms[guard],
                ]
            case Apply(op, args, dtype):
                given = [self._terms[a] for a in args]
                return ["apply", _spelled()[op], given, dtypes.short(dtype)]
            case Reduce(kind, axes, body):
                return ["reduce", kind, [self._terms[a] for a in axes], self._terms[body]]
        raise InternalError(f"a kernel that is to be stored holds a {type(e).__name__}: {e!r}")

    def buffer(self, b: Buffer) -> int:
        if b not in self._buffers:
            name = f"b{len(self.buffers)}" if self.plain else b.name
            self.buffer_names[b] = name
            self._buffers[b] = len(self.buffers)
            self.buffers.append([name, dtypes.short(b.dtype), [*map(static, b.shape)], b.scope])
        return self._buffers[b]


def _below(e: Expr) -> Iterable[Expr]:
    """What must stand in the table before `e`: a reduction's axes are no children of it."""
    return (*e.axes, *e.children) if isinstance(e, Reduce) else e.children


def encode(kernel: Kernel) -> str:
    """The kernel as JSON text: shared sub-expressions once, without the user's lines.

    **Raises:** `InternalError` if an extent is not static, or it holds what no kernel holds."""
    return _Table(kernel, plain=False).text()


def canonical(kernel: Kernel) -> Kernel:
    """The same kernel with names by order of appearance: equal for equal kernels."""
    return decode(_Table(kernel, plain=True).text())


def key(kernel: Kernel) -> str:
    """64 hexadecimal digits, the same for equal kernels whatever they, their axes and their buffers
    are called: SHA-256 of the canonical form."""
    return hashlib.sha256(_Table(kernel, plain=True).text().encode()).hexdigest()


# -- reading ---------------------------------------------------------------------------------------


def decode(text: str) -> Kernel:
    """The kernel that `encode` wrote, without source lines.

    **Raises:** `BadEncoding` for anything else."""
    if len(text) > MOST_CHARACTERS:
        raise BadEncoding("kernel", f"it has {len(text)} characters, too many")
    content = parsed("kernel", text)
    try:
        kernel = _Reader(content).kernel
        kernels.verify(kernel)
        _check_stores(kernel)
    except InternalError as e:
        raise BadEncoding("kernel", e.what.splitlines()[0][:200]) from None
    return kernel


def parsed(what: str, text: str) -> dict[str, Any]:
    """The object that a JSON text is. **Raises:** `BadEncoding` if it is none."""
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise BadEncoding(what, f"it is not JSON ({str(e)[:80]})") from None
    if not isinstance(content, dict):
        raise BadEncoding(what, "it is not an object")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise BadEncoding("kernel", reason)


class _Reader:
    """Checks and builds one kernel, in the order of its tables: a term refers to earlier ones."""

    def __init__(self, content: dict[str, Any]) -> None:
        wanted = {"version", "name", "buffers", "terms", "axes", "body"}
        _require(set(content) == wanted, f"its fields are not {', '.join(sorted(wanted))}")
        _require(content["version"] == VERSION, f"its version is not {VERSION}")
        self.buffers = [self.buffer(b) for b in self.list(content["buffers"])]
        self.terms: list[Expr] = []
        for entry in self.list(content["terms"]):
            self.terms.append(self.term(entry))
        body = tuple(self.assign(a) for a in self.list(content["body"]))
        _require(bool(body), "it computes nothing")
        self.kernel = Kernel(self.name(content["name"]), self.axes(content["axes"]), body)

    def list(self, x: Any, length: int | None = None) -> list[Any]:
        _require(isinstance(x, list), f"{str(x)[:40]!r} is not a list")
        _require(length in (None, len(x)), f"{str(x)[:40]} has not {length} elements")
        _require(len(x) <= MOST_TERMS, f"a list has {len(x)} elements")
        return x  # type: ignore[no-any-return]

    def name(self, x: Any) -> str:
        _require(isinstance(x, str) and _NAME.fullmatch(x) is not None, f"{x!r:.40} is no name")
        return x  # type: ignore[no-any-return]

    def number(self, x: Any, low: int, high: int) -> int:
        fits = type(x) is int and low <= x <= high
        _require(fits, f"{str(x)[:40]} is not a number in {low}..{high}")
        return x  # type: ignore[no-any-return]

    def choice(self, x: Any, table: Mapping[str, T]) -> T:
        _require(isinstance(x, str) and x in table, f"{str(x)[:40]!r} is not known")
        return table[x]

    def find(self, x: Any) -> Expr:
        return self.terms[self.number(x, 0, len(self.terms) - 1)]

    def finds(self, x: Any, length: int | None = None) -> tuple[Expr, ...]:
        return tuple(self.find(k) for k in self.list(x, length))

    def axes(self, x: Any) -> tuple[Axis, ...]:
        found = self.finds(x)
        _require(all(isinstance(a, Axis) for a in found), "an axis is something else")
        _require(len(set(found)) == len(found), "an axis is walked twice")
        return found  # type: ignore[return-value]

    def buffer(self, x: Any) -> Buffer:
        name, dtype, shape, scope = self.list(x, 4)
        shape = tuple(self.number(n, 0, MOST_EXTENT) for n in self.list(shape))
        fits = len(shape) <= MOST_RANK and math.prod(shape) <= MOST_EXTENT
        _require(fits, f"a buffer of shape {str(shape)[:80]} is too large")
        _require(scope in SCOPES, f"{str(scope)[:40]!r} is no scope")
        return Buffer(self.name(name), self.choice(dtype, DTYPES), shape, scope)

    def assign(self, x: Any) -> Assign:
        axes, buffer, index, value = self.list(x, 4)
        written = self.buffers[self.number(buffer, 0, len(self.buffers) - 1)]
        return Assign(written, self.finds(index), self.axes(axes), self.find(value))

    def term(self, entry: Any) -> Expr:
        _require(isinstance(entry, list) and bool(entry), f"{str(entry)[:40]} is no term")
        kinds: dict[str, Callable[..., Expr]] = {
            "lit": self.lit, "axis": self.axis, "index": self.index, "load": self.load,
            "apply": self.apply, "reduce": self.reduce,
        }  # fmt: skip
        build = self.choice(entry[0], kinds)
        given = self.list(entry[1:], 3 if build in (self.load, self.apply, self.reduce) else 2)
        return build(*given)

    def lit(self, dtype: Any, value: Any) -> Expr:
        d = self.choice(dtype, DTYPES)
        if dtypes.is_float(d):
            fits = isinstance(value, str) and len(value) < 40
            try:
                return Lit(float.fromhex(value) if fits else self.number(value, 0, -1), d)
            except (ValueError, OverflowError):
                raise BadEncoding("kernel", f"{value!r} is no number of type {dtype}") from None
        _require(not dtypes.is_complex(d), "a literal is complex")
        if dtypes.is_bool(d):
            _require(type(value) is bool, f"{str(value)[:40]} is no bool")
            return Lit(value, d)
        return Lit(self.number(value, *_range(d)), d)

    def axis(self, name: Any, extent: Any) -> Expr:
        return axis(self.name(name), self.number(extent, 0, MOST_EXTENT))

    def index(self, op: Any, args: Any) -> Expr:
        self.choice(op, INDEX_OPS)
        a, b = self.finds(args, 2)
        if op in ("//", "%"):
            _require(
                isinstance(b, Lit) and b.value > 0, "an index is divided by no positive number"
            )
        return Index(op, (a, b))

    def load(self, buffer: Any, index: Any, guard: Any) -> Expr:
        read = self.buffers[self.number(buffer, 0, len(self.buffers) - 1)]
        return Load(read, self.finds(index), None if guard is None else self.find(guard))

    def apply(self, op: Any, args: Any, dtype: Any) -> Expr:
        scalar, arity = self.choice(op, _scalars())
        return Apply(scalar, self.finds(args, arity), self.choice(dtype, DTYPES))

    def reduce(self, kind: Any, axes: Any, body: Any) -> Expr:
        self.choice(kind, REDUCTIONS)
        return Reduce(kind, self.axes(axes), self.find(body))


def _range(d: DType) -> tuple[int, int]:
    bits = 8 * d.itemsize
    return (
        (-1 << (bits - 1), (1 << (bits - 1)) - 1) if dtypes.is_signed(d) else (0, (1 << bits) - 1)
    )


def _check_stores(kernel: Kernel) -> None:
    """What reads outside its buffers can only fail; what writes there could do anything."""
    ranges = Ranges()
    for a in kernel.body:
        flat = len(a.index) == 1 and len(a.buffer.shape) != 1
        shape = [static(a.buffer.size)] if flat else [*map(static, a.buffer.shape)]
        _require(len(a.index) == len(shape), "a result is stored at too few positions")
        axes = (*kernel.axes, *a.axes)
        if any(static(x.extent) == 0 for x in axes):
            continue
        for i, extent in zip(a.index, shape, strict=True):
            low, high = ranges(i)
            _require(0 <= low and high < extent, "a result is stored outside its buffer")


# -- schedules under other names -------------------------------------------------------------------


def portable(kernel: Kernel, schedule: Schedule) -> Schedule:
    """A schedule of the kernel as one of its canonical form: steps name axes and buffers."""
    table = _Table(kernel, plain=True)
    axes = {n: table.axis_names[a] for n, a in names(kernel).items()}
    buffers = {n: table.buffer_names[b] for b, n in buffer_names(kernel).items()}
    return _renamed(schedule, axes, buffers)


def native(kernel: Kernel, schedule: Schedule) -> Schedule:
    """A schedule of the kernel's canonical form as one of the kernel: `portable` undone."""
    table = _Table(kernel, plain=True)
    axes = {table.axis_names[a]: n for n, a in names(kernel).items()}
    buffers = {table.buffer_names[b]: n for b, n in buffer_names(kernel).items()}
    return _renamed(schedule, axes, buffers)


def _renamed(s: Schedule, axes: Mapping[str, str], buffers: Mapping[str, str]) -> Schedule:
    def name(old: str) -> str:
        whole, parts = old, ""
        while whole not in axes and whole[-2:] in (".o", ".i"):
            whole, parts = whole[:-2], whole[-2:] + parts
        return axes.get(whole, whole) + parts

    def step(x: Step) -> Step:
        new: dict[str, Any] = {}
        for f in fields(x):
            value = getattr(x, f.name)
            if f.name in ("axis", "along"):
                new[f.name] = name(value)
            elif f.name == "axes":
                new[f.name] = tuple(map(name, value))
            elif isinstance(x, Stage) and f.name == "buffer":
                new[f.name] = buffers.get(value, value)
        return replace(x, **new)

    return Schedule(tuple(map(step, s.steps)))


# -- machines --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """A machine as the cost model sees it: what it is, and what it was measured to do on one core
    (`single`) and on as many as the process may use (`shared`). Caches are in bytes, `Rates` in
    operations and bytes a second."""

    architecture: str
    cpu: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    cores: int
    single: Rates
    shared: Rates

    @staticmethod
    def here(target: Target | None = None) -> Machine:
        """This machine, or what `target` leaves of it; measured once a process, which takes half a
        second for each number of threads."""
        target = host() if target is None else target
        single, shared = rooflines.measured(1), rooflines.measured(cores())
        known = _described(target)
        return Machine(**known, l3_bytes=single.sizes[1], single=single, shared=shared)

    @property
    def key(self) -> str:
        """64 hexadecimal digits of what the machine is; what was measured varies and is not in."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return _machine_key({n: v for n, v in known.items() if n in _IDENTITY})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Machine:
        """The machine `to_json` wrote. **Raises:** `BadEncoding` for anything else."""
        if len(text) > 1 << 16:
            raise BadEncoding("machine", f"it has {len(text)} characters, too many")
        found: Machine = _typed(Machine, parsed("machine", text))
        return found


def machine_key(target: Target | None = None) -> str:
    """The key of this machine's `Machine`, without measuring it."""
    return _machine_key(_described(host() if target is None else target))


_IDENTITY: Final = (
    "architecture", "cpu", "features", "vector_bytes", "registers", "l1_bytes", "l2_bytes", "cores"
)  # fmt: skip


def _described(target: Target) -> dict[str, Any]:
    features = sorted(f[1:] for f in target.features.split(",") if f.startswith("+"))
    return {
        "architecture": target.architecture, "cpu": target.cpu, "features": tuple(features),
        "vector_bytes": target.vector_bytes, "registers": target.registers,
        "l1_bytes": target.l1_bytes, "l2_bytes": target.l2_bytes, "cores": cores(),
    }  # fmt: skip


def _machine_key(known: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _typed(cls: type, content: Any) -> Any:
    """A dataclass from a JSON object, every field of the type it is declared with."""
    declared = {f.name: f.type for f in dataclasses.fields(cls)}
    if not isinstance(content, dict) or set(content) != set(declared):
        raise BadEncoding("machine", f"the fields of a {cls.__name__} are {', '.join(declared)}")
    made: dict[str, Any] = {}
    for name, kind in declared.items():
        x = content[name]
        match kind:
            case "Rates":
                made[name] = _typed(Rates, x)
            case "str":
                fits = isinstance(x, str) and len(x) < 200
                made[name] = x
            case "tuple[str, ...]":
                fits = isinstance(x, list) and all(isinstance(s, str) for s in x)
                made[name] = tuple(x) if fits else x
            case "tuple[int, int]":
                fits = isinstance(x, list) and len(x) == 2 and all(_is_count(n) for n in x)
                made[name] = tuple(x) if fits else x
            case "int":
                fits, made[name] = _is_count(x), x
            case _:
                fits = type(x) in (int, float) and 0 <= x < math.inf
                made[name] = x
        if kind != "Rates" and not fits:
            raise BadEncoding("machine", f"{name} is {str(x)[:40]}, not {kind}")
    return cls(**made)


def _is_count(x: Any) -> bool:
    return type(x) is int and 0 <= x < 1 << 60
