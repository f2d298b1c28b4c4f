"""Complex numbers as pairs of real ones, before anything is scheduled or printed.

Knows where complex values are kept: in memory that others see, the parts of an element lie side by
side, so the buffer is a float buffer with one more axis of two; in memory of a function's own, each
part gets a buffer. Refuses to know what functions do to the parts (`complex_functions`). After this
pass no scalar is complex, so schedules and printers never meet one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Buffer,
    Expr,
    Load,
    Reduce,
    Var,
    as_index,
    cast,
    index,
    literal,
    ne,
    show,
    var,
    walk,
)
from tilewright.kernel import Assign, Kernel
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    Call,
    For,
    Function,
    If,
    Let,
    Ref,
    Stmt,
    Store,
    While,
    expressions,
    statements,
)
from tilewright.transforms.complex_functions import RULES, Pair, multiply
from tilewright.transforms.index_rules import simplify

OWN_SCOPES = ("stack", "registers")
"""Scopes of buffers that nobody outside the function sees."""


def split_complex(kernel: Kernel) -> tuple[Kernel, dict[Buffer, Buffer]]:
    """The kernel in real arithmetic, and for each replaced buffer the complex one it stands for.

    A complex buffer of `shape` becomes a float buffer of `(*shape, 2)` over the same memory; one
    of the kernel's own becomes two float buffers of `shape`, which the map does not mention. A
    kernel without complex values comes back as the same object. InternalError for a function that
    has no meaning on complex numbers.
    """
    if not _any_complex(kernel.expressions):
        return kernel, {}
    parts = Parts()
    body: list[Assign] = []
    for a in kernel.body:
        at = parts.positions(a.index)
        if not dtypes.is_complex(a.buffer.dtype):
            body.append(Assign(a.buffer, at, a.axes, parts.real(a.value)))
            continue
        places = parts.places(a.buffer, at)
        for (buffer, where), value in zip(places, parts.pair(a.value), strict=True):
            body.append(Assign(buffer, where, a.axes, value))
    # Sums over no points have a value only now: there is no complex literal.
    values = simplify([a.value for a in body])
    body = [Assign(a.buffer, a.index, a.axes, v) for a, v in zip(body, values, strict=True)]
    return Kernel(kernel.name, kernel.axes, tuple(body), kernel.sources), parts.origin


def split_function(function: Function) -> Function:
    """The function of the Loops language in real arithmetic, with the same parameters in memory.

    For the loops that ops write themselves. A function without complex values comes back as the
    same object.
    """
    every = [e for s in statements(function.body) for e in expressions(s)]
    buffers = {s.buffer for s in statements(function.body) if isinstance(s, Alloc)}
    memory = any(dtypes.is_complex(b.dtype) for b in (*function.params, *buffers))
    if not memory and not _any_complex(every):
        return function
    parts = Parts()
    params = tuple(parts.shared(b) for b in function.params)
    body = _block(function.body, parts)
    return Function(function.name, params, body, function.sources, function.numbers)


def _any_complex(roots: Sequence[Expr]) -> bool:
    """Whether anything is complex: what is read, or what an operation gives; there is no complex
    literal."""
    if any(dtypes.is_complex(b.dtype) for e in roots for b in e.reads):
        return True
    return any(e.dtype.kind == "c" for e in walk(*roots) if isinstance(e, Apply))


class Parts:
    """The real and imaginary parts of expressions, given once for each."""

    def __init__(self) -> None:
        self.origin: dict[Buffer, Buffer] = {}
        self._shared: dict[Buffer, Buffer] = {}
        self._own: dict[Buffer, tuple[Buffer, Buffer]] = {}
        self._done: dict[Expr, Expr | Pair] = {}

    # -- memory -------------------------------------------------------------------------------

    def shared(self, b: Buffer) -> Buffer:
        """The same memory as floats."""
        if not dtypes.is_complex(b.dtype):
            return b
        if b not in self._shared:
            self._shared[b] = Buffer(b.name, dtypes.real_of(b.dtype), (*b.shape, 2), b.scope)
            self.origin[self._shared[b]] = b
        return self._shared[b]

    def own(self, b: Buffer) -> tuple[Buffer, Buffer]:
        """The buffers of the parts of a buffer that nobody else sees."""
        if b not in self._own:
            real = dtypes.real_of(b.dtype)
            self._own[b] = (
                Buffer(f"{b.name}_re", real, b.shape, b.scope),
                Buffer(f"{b.name}_im", real, b.shape, b.scope),
            )
        return self._own[b]

    def places(self, b: Buffer, at: tuple[Expr, ...]) -> list[tuple[Buffer, tuple[Expr, ...]]]:
        """Where the two parts of the element at a position are."""
        if b.scope in OWN_SCOPES:
            return [(part, at) for part in self.own(b)]
        memory = self.shared(b)
        if len(at) == len(b.shape):
            return [(memory, (*at, as_index(k))) for k in (0, 1)]
        twice = index("*", at[0], as_index(2))
        return [(memory, (index("+", twice, as_index(k)),)) for k in (0, 1)]

    # -- expressions --------------------------------------------------------------------------

    def bind(self, v: Var) -> tuple[Var, Var]:
        """The variables that hold the parts of a complex one."""
        real = dtypes.real_of(v.dtype)
        pair = var(f"{v.name}_re", real), var(f"{v.name}_im", real)
        self._done[v] = pair
        return pair

    def pair(self, root: Expr) -> Pair:
        """The parts of a complex expression."""
        found = self._value(root)
        if isinstance(found, Expr):
            raise InternalError(f"{show(root)} is not complex")
        return found

    def real(self, root: Expr) -> Expr:
        """An expression of another type, with complex arithmetic inside it resolved."""
        found = self._value(root)
        if not isinstance(found, Expr):
            raise InternalError(f"{show(root)} is complex")
        return found

    def positions(self, at: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(self.real(i) for i in at)

    def _value(self, root: Expr) -> Expr | Pair:
        for e in walk(root):
            if e not in self._done:
                self._done[e] = self._of(e, [self._done[c] for c in e.children])
        return self._done[root]

    def _of(self, e: Expr, args: list[Expr | Pair]) -> Expr | Pair:
        """One expression, given the values of its children."""
        reals = tuple(a for a in args if isinstance(a, Expr))
        all_real = len(reals) == len(args)
        if all_real and not dtypes.is_complex(e.type):
            same = all(a is b for a, b in zip(reals, e.children, strict=True))
            return e if same else e.with_children(reals)
        match e:
            case Load(buffer, at, guard):
                where = reals[: len(at)]
                keep = reals[-1] if guard is not None else None
                re, im = (Load(b, i, keep) for b, i in self.places(buffer, where))
                return re, im
            case Reduce("sum", axes, _) if not isinstance(args[0], Expr):
                return Reduce("sum", axes, args[0][0]), Reduce("sum", axes, args[0][1])
            case Apply(op, _, dtype) if op.name == "cast":
                return _cast(args[0], dtype)
            case Apply(op) if op.name in RULES:
                return RULES[op.name](*args)  # type: ignore[no-any-return]
        raise InternalError(f"no meaning on complex numbers: {show(e)}")


def _cast(x: Expr | Pair, to: dtypes.DType) -> Expr | Pair:
    """Conversion that drops the imaginary part; as a truth value, whether either part is not 0."""
    part = dtypes.real_of(to)
    if isinstance(x, Expr):
        return cast(x, part), literal(0, part)
    if dtypes.is_bool(to):
        return ne(x[0], 0.0) | ne(x[1], 0.0)
    if dtypes.is_complex(to):
        return cast(x[0], part), cast(x[1], part)
    return cast(x[0], to)


# -- statements --------------------------------------------------------------------------------


def _block(b: Block, parts: Parts) -> Block:
    return Block(tuple(t for s in b.statements for t in _statement(s, parts)))


def _statement(s: Stmt, parts: Parts) -> list[Stmt]:
    """One statement as statements on parts."""
    match s:
        case Block():
            return [_block(s, parts)]
        case For(axis, body, kind, lanes):
            return [For(axis, _block(body, parts), kind, lanes)]
        case While(condition, body):
            return [While(parts.real(condition), _block(body, parts))]
        case If(condition, then, otherwise):
            return [If(parts.real(condition), _block(then, parts), _block(otherwise, parts))]
        case Let(v, value) if dtypes.is_complex(v.dtype):
            values = parts.pair(value)
            return [Let(u, x) for u, x in zip(parts.bind(v), values, strict=True)]
        case Let(v, value):
            return [Let(v, parts.real(value))]
        case Store(buffer, at, value):
            where = parts.positions(at)
            if not dtypes.is_complex(buffer.dtype):
                return [Store(buffer, where, parts.real(value))]
            return _store(buffer, where, parts.pair(value), parts)
        case Accumulate():
            return _accumulate(s, parts)
        case Alloc(buffer) if dtypes.is_complex(buffer.dtype):
            return [Alloc(part) for part in parts.own(buffer)]
        case Call(function, args, library):
            return [Call(function, tuple(_argument(a, parts) for a in args), library)]
    return [s]


def _store(b: Buffer, at: tuple[Expr, ...], value: Pair, parts: Parts) -> list[Stmt]:
    """Both parts are known before either is written: the value may read the element."""
    names = var("re", value[0].type), var("im", value[1].type)
    lets: list[Stmt] = [Let(v, x) for v, x in zip(names, value, strict=True)]
    places = parts.places(b, at)
    return [*lets, *(Store(c, i, v) for (c, i), v in zip(places, names, strict=True))]


def _accumulate(s: Accumulate, parts: Parts) -> list[Stmt]:
    where = parts.positions(s.index)
    if not dtypes.is_complex(s.buffer.dtype):
        return [Accumulate(s.buffer, where, s.kind, parts.real(s.value))]
    value, places = parts.pair(s.value), parts.places(s.buffer, where)
    if s.kind == "sum":
        steps = zip(places, value, strict=True)
        return [Accumulate(b, i, "sum", x) for (b, i), x in steps]
    if s.kind == "prod":
        re, im = (Load(b, i, None) for b, i in places)
        return _store(s.buffer, where, multiply((re, im), value), parts)
    raise InternalError(f"no {s.kind} of complex numbers")


def _argument(a: Ref | Expr, parts: Parts) -> Ref | Expr:
    if not isinstance(a, Ref):
        return parts.real(a)
    offset = parts.real(a.offset)
    if not dtypes.is_complex(a.buffer.dtype):
        return Ref(a.buffer, offset)
    if a.buffer.scope in OWN_SCOPES:
        raise InternalError(f"the address of {a.buffer!r}, whose parts lie apart")
    return Ref(parts.shared(a.buffer), index("*", offset, as_index(2)))
