"""Expr: what one array element is, as a scalar expression over named axes.

    Lit | Axis | Dim | Var | Index(+ - * // % min max) | Load(buffer, index)
        | Apply(op, args) | Reduce(kind, axes, body)

Knows index arithmetic (exact integers), element arithmetic (`Apply` of a `Scalar` op at a dtype),
reading memory, and reducing over axes; prints and verifies itself (`interpret` runs it with
NumPy). Refuses to know loops, order, vectors and machines.

Semantics. Integer arithmetic wraps. Integer division by zero gives 0. Float arithmetic is IEEE and
is never reassociated, except inside `Reduce`, whose order is free. `Index` division floors, and its
divisor is positive. A `Load` whose guard is false does not touch memory and yields zero.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.scalars import LIBM_PREFIX, MACHINE, REDUCTIONS, Scalar
from tilewright.term import Term, topological

Extent: TypeAlias = "int | Expr"
"""The length of an axis: a number, or an index expression over named `Dim`s."""

_serial = itertools.count()


class Expr(Term):
    """A scalar. Operators build index arithmetic on indices, element arithmetic on elements.

    Every expression knows its `children`, what it is `free` in (the serials of the axes and
    variables it depends on and does not bind itself), the buffers it `reads`, and whether it
    `reduces`: is a reduction or has one below.
    """

    derived = ("children", "free", "reads", "reduces")
    if TYPE_CHECKING:
        children: ClassVar[tuple[Expr, ...]]
        free: ClassVar[frozenset[int]]
        reads: ClassVar[frozenset[Buffer]]
        reduces: ClassVar[bool]

    @property
    def type(self) -> DType:
        """The dtype of the value."""
        raise NotImplementedError

    def parts(self) -> tuple[Expr, ...]:
        """The children, from the fields."""
        return ()

    def derive(self) -> None:
        children = self.parts()
        free, reads, reduces = NOTHING, _NO_BUFFERS, False
        for c in children:
            more = c.free
            if more is not free and not more <= free:
                free = free | more if free else more
            if (buffers := c.reads) is not reads and not buffers <= reads:
                reads = reads | buffers if reads else buffers
            reduces = reduces or c.reduces
        _set_children(self, children)
        _set_free(self, free)
        _set_reads(self, reads)
        _set_reduces(self, reduces)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return self

    def __add__(self, other: Operand) -> Expr:
        return _binary("+", "add", self, other)

    def __radd__(self, other: Operand) -> Expr:
        return _binary("+", "add", other, self)

    def __sub__(self, other: Operand) -> Expr:
        return _binary("-", "sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return _binary("-", "sub", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return _binary("*", "mul", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return _binary("*", "mul", other, self)

    def __truediv__(self, other: Operand) -> Expr:
        return _binary(None, "div", self, other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return _binary(None, "div", other, self)

    def __floordiv__(self, other: Operand) -> Expr:
        return _binary("//", None, self, other)

    def __mod__(self, other: Operand) -> Expr:
        return _binary("%", None, self, other)

    def __neg__(self) -> Expr:
        return 0 - self if is_index(self) else apply("neg", self)

    def __and__(self, other: Operand) -> Expr:
        return _binary(None, "and", self, other)

    def __or__(self, other: Operand) -> Expr:
        return _binary(None, "or", self, other)

    def __xor__(self, other: Operand) -> Expr:
        return _binary(None, "xor", self, other)

    def __lshift__(self, other: Operand) -> Expr:
        return _binary(None, "shl", self, other)

    def __rshift__(self, other: Operand) -> Expr:
        return _binary(None, "shr", self, other)

    def __invert__(self) -> Expr:
        return apply("not", self)

    def __lt__(self, other: Operand) -> Expr:
        return _compare("lt", self, other)

    def __le__(self, other: Operand) -> Expr:
        return _compare("le", self, other)

    def __gt__(self, other: Operand) -> Expr:
        return _compare("lt", other, self)

    def __ge__(self, other: Operand) -> Expr:
        return _compare("le", other, self)


NOTHING: Final[frozenset[int]] = frozenset()
_NO_BUFFERS: Final[frozenset[Buffer]] = frozenset()
_set_children = Expr.__dict__["children"].__set__
_set_free = Expr.__dict__["free"].__set__
_set_reads = Expr.__dict__["reads"].__set__
_set_reduces = Expr.__dict__["reduces"].__set__

Operand: TypeAlias = "Expr | int | float | bool"


class Lit(Expr):
    """A constant. Equal only to a literal of the same dtype and the same bits (-0.0 is not 0.0)."""

    value: int | float | bool
    dtype: DType

    @classmethod
    def key(cls, *fields: Any) -> Hashable:
        value, dtype = fields
        if isinstance(value, float):
            return (cls, value.hex() if value == value else "nan", dtype)
        return (cls, type(value), value, dtype)

    @property
    def type(self) -> DType:
        return self.dtype


class Dim(Expr):
    """A named extent that is known only when the program is called."""

    name: str

    @property
    def type(self) -> DType:
        return dtypes.int64


class Axis(Expr):
    """An iteration variable over `range(extent)`. Every axis is its own; the name is a hint."""

    name: str
    extent: Extent
    serial: int

    def derive(self) -> None:
        _set_children(self, ())
        _set_free(self, frozenset((self.serial,)))
        _set_reads(self, _NO_BUFFERS)
        _set_reduces(self, False)

    @property
    def type(self) -> DType:
        return dtypes.int64


class Var(Expr):
    """A scalar bound by a `Let` of the Loops language. Every variable is its own."""

    name: str
    dtype: DType
    serial: int

    def derive(self) -> None:
        _set_children(self, ())
        _set_free(self, frozenset((self.serial,)))
        _set_reads(self, _NO_BUFFERS)
        _set_reduces(self, False)

    @property
    def type(self) -> DType:
        return self.dtype


class Index(Expr):
    """Exact integer arithmetic on positions; `op` is one of + - * // % min max."""

    op: str
    args: tuple[Expr, ...]

    def derive(self) -> None:  # for two arguments: half of all terms are positions
        a, b = self.args
        x, y = a.free, b.free
        _set_children(self, self.args)
        _set_free(self, x if not y or x is y else x | y if x else y)
        p, q = a.reads, b.reads
        _set_reads(self, p if not q or p is q else p | q if p else q)
        _set_reduces(self, a.reduces or b.reduces)

    @property
    def type(self) -> DType:
        return dtypes.int64

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return index(self.op, *children)


CONSTANT: Final = "constant"
"""The scope of buffers that are the same at every call."""
ROW: Final = "row"
"""The scope of inputs that are one row of a large array, another one in each round of a loop."""


class Buffer:
    """A block of memory that expressions read: element type, shape (row-major) and scope.

    Scopes: `input`, `constant` (an input that is the same at every call), `row` (one that no cache
    holds, since every round of a loop reads other memory), `output`, `temp` (planned memory),
    `stack` (private to one run of a kernel's outer loops) and `registers`. A buffer is itself, not
    its fields; the name is a hint.
    """

    __slots__ = ("dtype", "name", "scope", "shape")

    def __init__(
        self, name: str, dtype: DType, shape: tuple[Extent, ...], scope: str = "temp"
    ) -> None:
        self.name, self.dtype, self.shape, self.scope = name, dtype, shape, scope

    def __getitem__(self, idx: Expr | int | tuple[Expr | int, ...]) -> Load:
        idx = idx if isinstance(idx, tuple) else (idx,)
        return load(self, tuple(as_index(i) for i in idx))

    @property
    def size(self) -> Extent:
        return product(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a static buffer."""
        return static(self.size) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.name}: {show_type(self.dtype, self.shape)}"


class Load(Expr):
    """The element of `buffer` at `index`; zero, and no memory touched, where `guard` is false."""

    buffer: Buffer
    index: tuple[Expr, ...]
    guard: Expr | None

    @property
    def type(self) -> DType:
        return self.buffer.dtype

    def parts(self) -> tuple[Expr, ...]:
        return self.index if self.guard is None else (*self.index, self.guard)

    def derive(self) -> None:
        super().derive()
        _set_reads(self, self.reads | {self.buffer})

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        n = len(self.index)
        return Load(self.buffer, children[:n], None if self.guard is None else children[n])


class Apply(Expr):
    """A scalar operation on elements, giving an element of type `dtype`."""

    op: Scalar
    args: tuple[Expr, ...]
    dtype: DType

    @property
    def type(self) -> DType:
        return self.dtype

    def parts(self) -> tuple[Expr, ...]:
        return self.args

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Apply(self.op, children, self.dtype)


class Reduce(Expr):
    """`body` combined over all points of `axes` by `kind`: sum prod max min all any.

    Over no points it is the kind's identity. `max` and `min` propagate NaN.
    """

    kind: str
    axes: tuple[Axis, ...]
    body: Expr

    @property
    def type(self) -> DType:
        return self.body.type

    def parts(self) -> tuple[Expr, ...]:
        return (self.body,)

    def derive(self) -> None:
        super().derive()
        _set_free(self, self.free.difference(serials(self.axes)))
        _set_reduces(self, True)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Reduce(self.kind, self.axes, children[0])


def libm(name: str, *args: Expr) -> Expr:
    """A call to the C library's scalar function `name`."""
    return Apply(_libm_scalar(name), args, args[0].type)


_LIBM: dict[str, Scalar] = {}


def _libm_scalar(name: str) -> Scalar:
    if name not in _LIBM:
        function = getattr(math, {"fabs": "fabs"}.get(name, name), None)

        def numpy(*args: Any) -> Any:
            if function is None:
                raise InternalError(f"the interpreter has no C library function {name}")
            return np.vectorize(function, otypes=[np.asarray(args[0]).dtype])(*args)

        _LIBM[name] = Scalar(LIBM_PREFIX + name, numpy, machine=True)
    return _LIBM[name]


# -- construction ------------------------------------------------------------------------------


def is_index(x: object) -> bool:
    """Whether operators on `x` mean index arithmetic."""
    return isinstance(x, (Axis, Dim, Index))


def literal(value: Operand, dtype: DType) -> Lit:
    """`value` as an element of type `dtype`, rounded to it."""
    if type(value) is int and dtype is dtypes.int64 and -(1 << 63) <= value < 1 << 63:
        return _number(value)
    if dtype == dtypes.float64:
        return Lit(float(value), dtype)  # type: ignore[arg-type]
    assert not isinstance(value, Expr)
    if dtypes.is_float(dtype):
        if value in (0, 1):  # as most are
            return Lit(float(value), dtype)
        with np.errstate(over="ignore"):
            return Lit(float(np.asarray(value).astype(dtype)), dtype)
    if dtypes.is_bool(dtype):
        return Lit(bool(value), dtype)
    if not dtypes.is_integer(dtype):
        raise InternalError(f"there are no literals of type {dtype}")
    bits = 8 * dtype.itemsize
    low = -(1 << bits - 1) if dtype.kind == "i" else 0
    return Lit((int(value) - low) % (1 << bits) + low, dtype)


def as_index(x: Extent) -> Expr:
    """A number or index expression as an index expression."""
    return x if isinstance(x, Expr) else _number(int(x))


@functools.lru_cache(4096)
def _number(n: int) -> Lit:
    return Lit(n, dtypes.int64)


def axis(name: str, extent: Extent) -> Axis:
    """A new iteration variable over `range(extent)`."""
    found: Axis = Axis.fresh(name, extent, next(_serial))
    return found


def var(name: str, dtype: DType) -> Var:
    """A new scalar variable of the Loops language."""
    found: Var = Var.fresh(name, dtype, next(_serial))
    return found


def load(buffer: Buffer, idx: tuple[Expr, ...], guard: Expr | None = None) -> Load:
    return Load(buffer, idx, guard)


def apply(op: str | Scalar, *args: Expr, dtype: DType | None = None) -> Expr:
    """Apply a scalar op; `dtype` defaults to the last argument's (bool for comparisons)."""
    scalar = op if isinstance(op, Scalar) else MACHINE[op]
    if dtype is None:
        dtype = dtypes.bool_ if scalar.name in ("eq", "ne", "lt", "le") else args[-1].type
    return Apply(scalar, args, dtype)


def cast(x: Expr, dtype: DType) -> Expr:
    """Convert the value as C does; the identity when the type is already right."""
    if x.type == dtype and not is_index(x):
        return x
    finite = isinstance(x, Lit) and not (isinstance(x.value, float) and not math.isfinite(x.value))
    if isinstance(x, Lit) and finite and not dtypes.is_complex(dtype):
        value = int(x.value) if dtypes.is_integer(dtype) else x.value
        return literal(value, dtype)
    return apply("cast", x, dtype=dtype)


def bitcast(x: Expr, dtype: DType) -> Expr:
    """The same bits as another type of the same width."""
    return x if x.type == dtype else apply("bitcast", x, dtype=dtype)


def select(condition: Expr, then: Operand, otherwise: Operand) -> Expr:
    """`then` where `condition`, else `otherwise`; both are evaluated."""
    then, otherwise = _adopt(then, otherwise)
    return apply("select", condition, then, otherwise)


def rare(condition: Expr, then: Operand, otherwise: Operand) -> Expr:
    """`select` for a `then` that is dear and hardly ever taken: skipped when no lane needs it."""
    then, otherwise = _adopt(then, otherwise)
    return apply("rare", condition, then, otherwise)


def fma(a: Operand, b: Operand, c: Operand) -> Expr:
    """a * b + c, rounded once."""
    dtype = next(x.type for x in (a, b, c) if isinstance(x, Expr))
    return apply("fma", *(x if isinstance(x, Expr) else literal(x, dtype) for x in (a, b, c)))


def eq(a: Operand, b: Operand) -> Expr:
    return _compare("eq", a, b)


def ne(a: Operand, b: Operand) -> Expr:
    return _compare("ne", a, b)


def _adopt(a: Operand, b: Operand) -> tuple[Expr, Expr]:
    """Python numbers take the other operand's dtype."""
    if isinstance(a, Expr):
        return a, b if isinstance(b, Expr) else literal(b, a.type)
    assert isinstance(b, Expr), "one operand must be an expression"
    return literal(a, b.type), b


def _binary(index_op: str | None, scalar_op: str | None, a: Operand, b: Operand) -> Expr:
    if index_op and (is_index(a) or is_index(b) or (_is_number(a) and _is_number(b))):
        a, b = _adopt(a, b)
        return (
            index("+", a, index("*", b, as_index(-1))) if index_op == "-" else index(index_op, a, b)
        )
    a, b = _adopt(a, b)
    if scalar_op is None:
        if a.type == dtypes.int64:  # a loaded position used as an index
            return index(str(index_op), a, b)
        raise InternalError(f"{index_op} is not defined on elements of type {a.type}")
    return apply(scalar_op, a, b)


def _is_number(x: Operand) -> bool:
    return isinstance(x, int) or (isinstance(x, Lit) and x.dtype == dtypes.int64)


def _compare(op: str, a: Operand, b: Operand) -> Expr:
    return apply(op, *_adopt(a, b))


def index(op: str, a: Expr, b: Expr) -> Expr:
    """Index arithmetic with the folds that need no ranges; constants stand on the right."""
    if isinstance(a, Lit):
        if isinstance(b, Lit):
            return as_index(INDEX_OPS[op](int(a.value), int(b.value)))
        if op in ("+", "*", "min", "max"):
            a, b = b, a
    if isinstance(b, Lit):
        n = int(b.value)
        if n == 0 and op in ("+", "*"):
            return a if op == "+" else as_index(0)
        if n == 1 and op in ("*", "//", "%"):
            return as_index(0) if op == "%" else a
        if isinstance(a, Index) and a.op == op and op in ("+", "*") and isinstance(a.args[1], Lit):
            return index(op, a.args[0], as_index(INDEX_OPS[op](int(a.args[1].value), n)))
    return Index(op, (a, b))


INDEX_OPS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": np.minimum,
    "max": np.maximum,
}


# -- extents -----------------------------------------------------------------------------------


def product(extents: Iterable[Extent]) -> Extent:
    result: Extent = 1
    for e in extents:
        result = result * e
    return result


def static(extent: Extent) -> int:
    """The extent as a number; an InternalError if it depends on a named dim."""
    if isinstance(extent, (int, np.integer)):
        return int(extent)
    if isinstance(extent, Lit):
        return int(extent.value)
    raise InternalError(f"a static extent is needed here, not {show(extent)}")


def is_static(extent: Extent) -> bool:
    return not isinstance(extent, Expr) or isinstance(extent, Lit)


def show_extent(extent: Extent) -> str:
    return show(extent) if isinstance(extent, Expr) else str(extent)


def show_type(dtype: DType, shape: Sequence[Extent]) -> str:
    """`f32[64,32]`; a scalar is just `f32`."""
    inner = ",".join(show_extent(e) for e in shape)
    return dtypes.short(dtype) + (f"[{inner}]" if shape else "")


# -- walks -------------------------------------------------------------------------------------


def walk(*roots: Expr) -> list[Expr]:
    """Every sub-expression, children first."""
    order: list[Expr] = []
    done: set[Expr] = set()
    stack: list[Expr | None] = [*roots[::-1]]
    while stack:  # `topological`, spelled out: half of lowering is walks over small expressions
        e = stack.pop()
        if e is None:  # all below the next one are in order
            order.append(stack.pop())  # type: ignore[arg-type]
        elif e not in done:
            done.add(e)
            if e.children:
                stack += (e, None, *e.children[::-1])
            else:
                order.append(e)
    return order


def reductions_in(*roots: Expr) -> list[Reduce]:
    """Every reduction, in the order of `walk`; looks only at what has one below."""
    return _found(roots, Reduce, attrgetter("reduces"))


def loads_in(*roots: Expr) -> list[Load]:
    """Every load, in the order of `walk`; looks only at what reads something."""
    return _found(roots, Load, attrgetter("reads"))


Kind = TypeVar("Kind", bound=Expr)


def _found(roots: Sequence[Expr], kind: type[Kind], leads: Callable[[Expr], object]) -> list[Kind]:
    """Every expression of a kind, in the order of `walk`, by way of what `leads` there."""
    order: list[Kind] = []
    done: set[Expr] = set()
    stack: list[Expr | None] = [e for e in roots[::-1] if leads(e)]
    while stack:
        e = stack.pop()
        if e is None:
            order.append(stack.pop())  # type: ignore[arg-type]
        elif e not in done:
            done.add(e)
            if isinstance(e, kind):
                stack += (e, None)
            stack += [c for c in e.children[::-1] if leads(c)]
    return order


def serials(axes: Iterable[Expr]) -> frozenset[int]:
    """What `Expr.free` says of these axes and variables."""
    return frozenset([a.serial for a in axes])  # type: ignore[attr-defined]


def depends(e: Expr, axes: Iterable[Expr]) -> bool:
    """Whether the value of `e` depends on any of these axes and variables."""
    return not e.free.isdisjoint(serials(axes))


def substitute(roots: Sequence[Expr], env: Mapping[Expr, Expr]) -> list[Expr]:
    """Replace the keys of `env` everywhere but where a reduction binds them; what does not change
    stays the same object."""
    if not env:
        return list(roots)
    names = all(isinstance(k, (Axis, Var)) for k in env)
    changing = serials(env) if names else None  # other terms may stand anywhere
    done: dict[Expr, Expr] = dict(env)
    result: list[Expr] = []
    for root in roots:
        stack = [root]
        while stack:  # spelled out: half of lowering is substitution into small expressions
            e = stack[-1]
            if e in done:
                stack.pop()
                continue
            if changing is not None and e.free.isdisjoint(changing):
                done[e] = e
                stack.pop()
                continue
            children = e.children
            missing = [c for c in children if c not in done]
            if missing:
                stack += missing
                continue
            new = tuple([done[c] for c in children])
            done[e] = e if new == children else e.with_children(new)
            stack.pop()
        result.append(done[root])
    return result


# -- printer -----------------------------------------------------------------------------------


class Namer:
    """Chooses readable, unique names: the hint itself, or the hint and a number."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._keep: list[object] = []  # ids stay valid while their objects live
        self._count: dict[str, int] = {}

    def __call__(self, thing: Axis | Var | Buffer) -> str:
        name = self._names.get(id(thing))
        if name is None:
            n = self._count.get(thing.name, 0)
            self._count[thing.name] = n + 1
            name = self._names[id(thing)] = thing.name if n == 0 else f"{thing.name}_{n}"
            self._keep.append(thing)
        return name


_PRECEDENCE = {
    "|": 1, "^": 2, "&": 3, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4,
    "<<": 5, ">>": 5, "+": 6, "-": 6, "*": 7, "/": 7, "//": 7, "%": 7,
}  # fmt: skip


def show(root: Expr, names: Namer | None = None, known: Mapping[Expr, str] | None = None) -> str:
    """The expression in one line; `known` gives sub-expressions that already have a name."""
    names = names or Namer()
    known = known or {}
    text: dict[Expr, tuple[str, int]] = {}

    def wrapped(e: Expr, level: int) -> str:
        body, own = text[e]
        return f"({body})" if own < level else body

    for e in topological([root], lambda e: () if e in known and e is not root else e.children):
        if e in known and e is not root:
            text[e] = (known[e], 9)
            continue
        match e:
            case Lit(value, dtype):
                text[e] = (show_literal(value, dtype), 9)
            case Dim(name):
                text[e] = (name, 9)
            case Axis() | Var():
                text[e] = (names(e), 9)
            case Index("min" | "max" as op, args):
                text[e] = (f"{op}({', '.join(text[a][0] for a in args)})", 9)
            case Index(op, (a, b)):
                level = _PRECEDENCE[op]
                text[e] = (f"{wrapped(a, level)} {op} {wrapped(b, level + 1)}", level)
            case Load(buffer, idx, guard):
                suffix = f"[{','.join(text[i][0].replace(' ', '') for i in idx)}]" if idx else ""
                when = f" if {text[guard][0]}" if guard is not None else ""
                text[e] = (f"{names(buffer)}{suffix}{when}", 9 if guard is None else 0)
            case Reduce(kind, axes, body):
                ranges = " ".join(f"{names(a)}:{show_extent(a.extent)}" for a in axes)
                text[e] = (f"{kind}[{ranges}]({text[body][0]})", 9)
            case Apply(op, args, dtype):
                level = _PRECEDENCE.get(op.symbol or "", 0)
                if op.name in ("cast", "bitcast"):
                    call = (
                        dtypes.short(dtype) if op.name == "cast" else f"bits_{dtypes.short(dtype)}"
                    )
                    text[e] = (f"{call}({text[args[0]][0]})", 9)
                elif level and len(args) == 2:
                    text[e] = (
                        f"{wrapped(args[0], level)} {op.symbol} {wrapped(args[1], level + 1)}",
                        level,
                    )
                else:
                    text[e] = (f"{op.name}({', '.join(text[a][0] for a in args)})", 9)
            case _:
                raise InternalError(f"unknown expression {type(e).__name__}")
    return text[root][0]


def show_literal(value: int | float | bool, dtype: DType) -> str:
    """Integers and simple floats as they are written; the dtype is clear from the context."""
    if isinstance(value, bool):
        return str(value)
    if dtypes.is_float(dtype) and math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return str(int(value)) if str(float(value))[0] != "-" or value else "-0"
    if dtypes.is_float(dtype) and dtype != dtypes.float64:
        return str(np.float32(value))
    return repr(value)


# -- verifier ----------------------------------------------------------------------------------


def verify(*roots: Expr) -> None:
    """Raise InternalError if an expression is ill-formed."""
    for e in walk(*roots):
        match e:
            case Load(buffer, idx, guard):
                fits = len(idx) in (1, len(buffer.shape))
                _require(fits, e, "one index for each axis of the buffer, or one flat offset")
                _require(all(i.type == dtypes.int64 for i in idx), e, "int64 indices")
                _require(guard is None or guard.type == dtypes.bool_, e, "a bool guard")
            case Index(op, args):
                _require(op in INDEX_OPS and len(args) == 2, e, "a known index operation")
                _require(all(a.type == dtypes.int64 for a in args), e, "int64 operands")
            case Reduce(kind, axes, body):
                _require(kind in REDUCTIONS, e, "a known reduction")
                _require(bool(axes), e, "at least one axis")
                _require(kind not in ("all", "any") or body.type == dtypes.bool_, e, "a bool body")
            case Apply(op, args, dtype):
                kinds = [a.type for a in args]
                if op.name in ("eq", "ne", "lt", "le"):
                    _require(
                        kinds[0] == kinds[1] and dtype == dtypes.bool_, e, "equal operand types"
                    )
                elif op.name in ("select", "rare"):
                    _require(
                        kinds[0] == dtypes.bool_ and kinds[1] == kinds[2] == dtype, e, "bool, T, T"
                    )
                elif op.name == "bitcast":
                    _require(kinds[0].itemsize == dtype.itemsize, e, "equal widths")
                elif op.name not in ("cast", "popcount") and op.machine:
                    _require(all(k == dtype for k in kinds), e, f"operands of type {dtype}")
            case _:
                pass


def _require(condition: bool, e: Expr, what: str) -> None:
    if not condition:
        raise InternalError(f"ill-formed expression, {what} expected: {show(e)}")
