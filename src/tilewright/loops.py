"""Loops: a program as explicit loops over scalars, still without machine words.

    For(axis, body, kind, lanes) | While(condition, body) | If | Let | Store | Accumulate
        | Alloc | Flip | Call | Sync | Block

Knows order, storage and parallelism; prints, verifies and interprets itself (in plain Python, for
tiny shapes). Refuses to know vectors as values: a `vector` loop is an ordinary loop whose
iterations a printer may run in `lanes` lanes at once, so LLVM, C and CUDA print the same term.

Semantics. A `Load`/`Store` index is either one position per axis of the buffer or a single flat
row-major offset. `parallel` iterations are independent. In an `unroll` loop the extent is a number.
`vector` loops are innermost; their iterations are independent but for `Accumulate`, whose order is
free. Two or three loops inside one another, the outer ones `matrix`, fill a small matrix, copy
one or add the product of two to it, as a printer may by one instruction; such sums have the scope
`matrices`. An `Alloc`ed buffer lives to the end of its block; `registers` buffers are indexed by
numbers, unrolled axes and (last) the vector axis only. Functions get pointers; buffers do not
overlap unless they are the same buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from tilewright.errors import InternalError
from tilewright.expr import (
    INDEX_OPS,
    Apply,
    Axis,
    Buffer,
    Expr,
    Index,
    Lit,
    Load,
    Namer,
    Var,
    apply,
    as_index,
    is_static,
    show,
    show_extent,
    show_type,
    static,
    walk,
)
from tilewright.graph import Source
from tilewright.interpret import apply_scalar
from tilewright.scalars import REDUCTIONS
from tilewright.term import Term

KINDS: Final = ("serial", "parallel", "unroll", "vector", "matrix")


class Stmt(Term):
    """Something that happens. Every statement knows the buffers that running it may write."""

    derived = ("writes",)
    if TYPE_CHECKING:
        writes: ClassVar[frozenset[Buffer]]

    @property
    def inner(self) -> tuple[Stmt, ...]:
        """The statements inside."""
        return ()

    def targets(self) -> tuple[Buffer, ...]:
        """The buffers that the statement itself writes."""
        return ()

    def derive(self) -> None:
        inner, own = self.inner, self.targets()
        if len(inner) == 1 and not own:
            _set_writes(self, inner[0].writes)
        else:
            _set_writes(self, frozenset(own).union(*[s.writes for s in inner]))


_set_writes = Stmt.__dict__["writes"].__set__


class Block(Stmt):
    """Statements one after the other; also a scope for `Let` and `Alloc`."""

    statements: tuple[Stmt, ...]

    @property
    def inner(self) -> tuple[Stmt, ...]:
        return self.statements


class For(Stmt):
    """Run `body` for every value of `axis`, in order unless `kind` says otherwise.

    A `vector` loop runs in `lanes` lanes (a power of two >= its extent); other kinds have 1.
    """

    axis: Axis
    body: Block
    kind: str
    lanes: int

    @property
    def inner(self) -> tuple[Stmt, ...]:
        return (self.body,)


class While(Stmt):
    """Run `body` as long as `condition`, evaluated before each round, holds."""

    condition: Expr
    body: Block

    @property
    def inner(self) -> tuple[Stmt, ...]:
        return (self.body,)


class If(Stmt):
    """Run one of two blocks."""

    condition: Expr
    then: Block
    otherwise: Block

    @property
    def inner(self) -> tuple[Stmt, ...]:
        return (self.then, self.otherwise)


class Let(Stmt):
    """Name a scalar for the rest of the block."""

    var: Var
    value: Expr


class Store(Stmt):
    """Write one element."""

    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr

    def targets(self) -> tuple[Buffer, ...]:
        return (self.buffer,)


class Accumulate(Stmt):
    """Combine `value` into one element by a reduction kind (see scalars.REDUCTIONS)."""

    buffer: Buffer
    index: tuple[Expr, ...]
    kind: str
    value: Expr

    def targets(self) -> tuple[Buffer, ...]:
        return (self.buffer,)


class Alloc(Stmt):
    """Memory (scope `stack`), registers (`registers`) or registers that hold matrices (`matrices`:
    memory for printers without such) for the rest of the block."""

    buffer: Buffer


class Flip(Stmt):
    """Exchange the two axes of a square tile of registers: r[a,b] becomes r[b,a]."""

    buffer: Buffer

    def targets(self) -> tuple[Buffer, ...]:
        return (self.buffer,)


class Sync(Stmt):
    """All workers of `scope` reach this point before any goes on."""

    scope: str


class Ref(Term):
    """A pointer to the element of `buffer` at flat offset `offset`."""

    buffer: Buffer
    offset: Expr


class Call(Stmt):
    """Call a function of the program, or of a library (`library` is its name), with pointers
    (`Ref`) and scalars (`Expr`)."""

    function: str
    args: tuple[Ref | Expr, ...]
    library: str | None

    def targets(self) -> tuple[Buffer, ...]:
        return tuple(a.buffer for a in self.args if isinstance(a, Ref))


@dataclass(frozen=True, eq=False)
class Function:
    """Named code. Its parameters are pointers and, after these, `numbers`: int64 values such as
    counts and distances."""

    name: str
    params: tuple[Buffer, ...]
    body: Block
    sources: tuple[Source, ...] = ()
    numbers: tuple[Var, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """Functions in call order; the last one is the entry point."""

    functions: tuple[Function, ...]

    @property
    def entry(self) -> Function:
        """It has no numbers."""
        return self.functions[-1]


def block(*statements: Stmt) -> Block:
    """A block; nested blocks that declare nothing are spliced in."""
    flat: list[Stmt] = []
    for s in statements:
        opens = isinstance(s, Block) and not any(isinstance(t, (Alloc, Let)) for t in s.statements)
        flat += s.statements if opens and isinstance(s, Block) else [s]
    return Block(tuple(flat))


def loop(axis: Axis, *body: Stmt, kind: str = "serial", lanes: int = 1) -> Stmt:
    """A `For` over `axis`."""
    return For(axis, block(*body), kind, lanes)


def either(o: Axis, ways: Sequence[tuple[int, Stmt]]) -> Stmt:
    """The body of one loop over `o` that has statements of its own for each stretch of rounds; a
    stretch ends where the next begins."""
    *others, (_, result) = ways
    for end, s in reversed(others):
        result = If(apply("lt", o, as_index(end)), block(s), block(result))
    return result


def store(buffer: Buffer, index: Sequence[Expr], value: Expr) -> Store:
    return Store(buffer, tuple(index), value)


# -- walks -------------------------------------------------------------------------------------


def statements(root: Stmt) -> Iterator[Stmt]:
    """Every statement inside `root`, itself included, in program order."""
    stack = [root]
    while stack:
        s = stack.pop()
        yield s
        stack += s.inner[::-1]


def expressions(s: Stmt) -> tuple[Expr, ...]:
    """The expressions a single statement evaluates itself."""
    match s:
        case Let(_, value):
            return (value,)
        case Store(_, index, value):
            return (*index, value)
        case Accumulate(_, index, _, value):
            return (*index, value)
        case If(condition) | While(condition):
            return (condition,)
        case For(axis):
            return () if is_static(axis.extent) else (axis.extent,)  # type: ignore[return-value]
        case Call(_, args):
            return tuple(a.offset if isinstance(a, Ref) else a for a in args)
    return ()


def library_calls(root: Stmt) -> frozenset[str]:
    """The functions of libraries that running `root` may call."""
    calls = (s for s in statements(root) if isinstance(s, Call))
    return frozenset(s.function for s in calls if s.library is not None)


# -- printer -----------------------------------------------------------------------------------


def show_program(program: Program) -> str:
    return "\n\n".join(show_function(f) for f in program.functions)


def show_function(function: Function) -> str:
    """The function as indented text."""
    names = Namer()
    pointers = [f"{names(b)}: {show_type(b.dtype, b.shape)}" for b in function.params]
    params = ", ".join([*pointers, *map(names, function.numbers)])
    lines = [f"loops {function.name}({params})"]
    _show(function.body, 1, names, lines)
    return "\n".join(lines)


def _show(s: Stmt, depth: int, names: Namer, lines: list[str]) -> None:
    pad = "  " * depth
    match s:
        case Block(inner):
            for t in inner:
                _show(t, depth, names, lines)
        case For(axis, body, kind, lanes):
            word = {"serial": "for", "vector": f"vector({lanes})"}.get(kind, kind)
            lines.append(f"{pad}{word} {names(axis)} in {show_extent(axis.extent)}")
            _show(body, depth + 1, names, lines)
        case While(condition, body):
            lines.append(f"{pad}while {show(condition, names)}")
            _show(body, depth + 1, names, lines)
        case If(condition, then, otherwise):
            lines.append(f"{pad}if {show(condition, names)}")
            _show(then, depth + 1, names, lines)
            if otherwise.statements:
                lines.append(f"{pad}else")
                _show(otherwise, depth + 1, names, lines)
        case Let(var, value):
            lines.append(f"{pad}{names(var)} = {show(value, names)}")
        case Store(buffer, index, value):
            lines.append(f"{pad}{_place(buffer, index, names)} = {show(value, names)}")
        case Accumulate(buffer, index, kind, value):
            op = {"sum": "+=", "prod": "*="}.get(kind, f"{kind}=")
            lines.append(f"{pad}{_place(buffer, index, names)} {op} {show(value, names)}")
        case Alloc(buffer):
            lines.append(
                f"{pad}alloc {names(buffer)}: {buffer!r}".replace(f": {buffer.name}:", ":")
                + f" in {buffer.scope}"
            )
        case Flip(buffer):
            lines.append(f"{pad}flip {names(buffer)}")
        case Sync(scope):
            lines.append(f"{pad}sync {scope}")
        case Call(function, args, library):
            of = "" if library is None else f"{library}."
            given = ", ".join(_argument(a, names) for a in args)
            lines.append(f"{pad}call {of}{function}({given})")
        case _:
            raise InternalError(f"unknown statement {s!r}")


def _place(buffer: Buffer, index: Sequence[Expr], names: Namer) -> str:
    inner = ",".join(show(i, names).replace(" ", "") for i in index)
    return names(buffer) + (f"[{inner}]" if index else "")


def _argument(a: Ref | Expr, names: Namer) -> str:
    if not isinstance(a, Ref):
        return show(a, names)
    offset = show(a.offset, names)
    return names(a.buffer) if offset == "0" else f"{names(a.buffer)} + {offset}"


# -- verifier ----------------------------------------------------------------------------------


def verify(function: Function) -> None:
    """Raise InternalError if a name is used out of scope or a statement is ill-formed."""
    _verify(function.body, frozenset((*function.params, *function.numbers)), function)


def _verify(s: Stmt, known: frozenset[Any], where: Function) -> frozenset[Any]:
    for e in walk(*expressions(s)):
        missing = e if isinstance(e, (Axis, Var)) else e.buffer if isinstance(e, Load) else None
        if missing is not None and missing not in known:
            raise InternalError(f"{missing!r} is not in scope\n{show_function(where)}")
    match s:
        case Block(inner):
            inside = known
            for t in inner:
                inside = _verify(t, inside, where)
        case For(axis, body, kind, lanes):
            fits = (kind == "vector" and lanes >= static(axis.extent)) or lanes == 1
            if kind not in KINDS or not fits:
                raise InternalError(f"bad loop {kind} over {axis!r} in {lanes} lanes")
            _verify(body, known | {axis}, where)
        case While(_, body):
            _verify(body, known, where)
        case If(_, then, otherwise):
            _verify(then, known, where)
            _verify(otherwise, known, where)
        case Let(var, value):
            if var.dtype != value.type:
                raise InternalError(f"{var!r} bound to a {value.type}: {show(value)}")
            return known | {var}
        case Alloc(buffer):
            return known | {buffer}
        case Store(buffer, index, value) | Accumulate(buffer, index, _, value):
            flat_or_full = len(index) in (1, len(buffer.shape))
            if buffer not in known or value.type != buffer.dtype or not flat_or_full:
                raise InternalError(f"bad store to {buffer!r}: {show(value)}: {value.type}")
        case Flip(buffer):
            square = len(buffer.shape) == 2 and len(set(buffer.shape)) == 1
            if buffer not in known or buffer.scope != "registers" or not square:
                raise InternalError(f"only square tiles of registers are flipped: {buffer!r}")
        case _:
            pass
    return known


# -- interpreter -------------------------------------------------------------------------------


def run(program: Program, arrays: Sequence[Any]) -> None:
    """Interpret the program on NumPy arrays (contiguous, one for each entry parameter)."""
    functions = {f.name: f for f in program.functions}
    memory = dict(zip(program.entry.params, (a.reshape(-1) for a in arrays), strict=True))
    with np.errstate(all="ignore"):
        _run(program.entry.body, {}, memory, functions)


def _run(
    s: Stmt, env: dict[Expr, Any], memory: dict[Buffer, Any], functions: Mapping[str, Function]
) -> None:
    def value(e: Expr) -> Any:
        return _scalar(e, env, memory)

    match s:
        case Block(inner):
            for t in inner:
                _run(t, env, memory, functions)
        case For(axis, body):
            for i in range(
                int(value(axis.extent)) if isinstance(axis.extent, Expr) else axis.extent
            ):
                env[axis] = np.int64(i)
                _run(body, env, memory, functions)
        case While(condition, body):
            while value(condition):
                _run(body, env, memory, functions)
        case If(condition, then, otherwise):
            _run(then if value(condition) else otherwise, env, memory, functions)
        case Let(var, e):
            env[var] = value(e)
        case Store(buffer, index, e):
            memory[buffer][_offset(buffer, [value(i) for i in index])] = value(e)
        case Accumulate(buffer, index, kind, e):
            at = _offset(buffer, [value(i) for i in index])
            memory[buffer][at] = REDUCTIONS[kind][0](memory[buffer][at], value(e))
        case Alloc(buffer):
            memory[buffer] = np.zeros(static(buffer.size), buffer.dtype)
        case Flip(buffer):
            tile = memory[buffer].reshape(*map(static, buffer.shape))
            memory[buffer] = tile.T.reshape(-1).copy()
        case Call(name, args, None):
            callee = functions[name]
            refs = [a for a in args if isinstance(a, Ref)]
            inner_memory = {
                p: _seen_as(p, memory[a.buffer][int(value(a.offset)) :])
                for p, a in zip(callee.params, refs, strict=True)
            }
            given = [value(a) for a in args if not isinstance(a, Ref)]
            numbers = dict[Expr, Any](zip(callee.numbers, given, strict=True))
            _run(callee.body, numbers, inner_memory, functions)
        case Call(name, _, library):
            raise InternalError(f"the interpreter cannot call {name} of the library {library}")
        case Sync():
            pass
        case _:
            raise InternalError(f"the interpreter cannot run {s!r}")


def _seen_as(param: Buffer, memory: Any) -> Any:
    """Memory as a callee's parameter reads it: the arena is bytes, complex numbers are pairs."""
    whole = memory.nbytes // param.dtype.itemsize * param.dtype.itemsize
    return memory.view(np.uint8)[:whole].view(param.dtype)


def _offset(buffer: Buffer, index: Sequence[Any]) -> int:
    if len(index) == 1:
        return int(index[0])
    flat = 0
    for i, n in zip(index, buffer.shape, strict=True):
        flat = flat * static(n) + int(i)
    return flat


def _scalar(root: Expr, env: Mapping[Expr, Any], memory: Mapping[Buffer, Any]) -> Any:
    """One expression at one point. Guards and rare branches are evaluated lazily."""
    done: dict[Expr, Any] = {}
    stack = [root]
    while stack:
        e = stack[-1]
        if e in done:
            stack.pop()
            continue
        missing = [c for c in _needed(e, done) if c not in done]
        if missing:
            stack += missing
            continue
        stack.pop()
        match e:
            case Lit(v, dtype):
                done[e] = np.asarray(v).astype(dtype)[()]
            case Axis() | Var():
                done[e] = env[e]
            case Index(op, (a, b)):
                done[e] = INDEX_OPS[op](int(done[a]), int(done[b]))
            case Load(buffer, index, guard):
                skip = guard is not None and not done[guard]
                at = 0 if skip else _offset(buffer, [done[i] for i in index])
                if not skip and not 0 <= at < memory[buffer].size:
                    raise InternalError(f"{show(e)} reads offset {at} of {buffer!r}")
                done[e] = np.zeros((), buffer.dtype)[()] if skip else memory[buffer][at]
            case Apply(op, args, dtype):
                if op.name == "rare":
                    done[e] = done[args[1]] if done[args[0]] else done[args[2]]
                else:
                    done[e] = apply_scalar(op, [done[a] for a in args], dtype)[()]
            case _:
                raise InternalError(f"no scalar value for {show(e)}")
    return done[root]


def _needed(e: Expr, done: Mapping[Expr, Any]) -> tuple[Expr, ...]:
    if isinstance(e, Load) and e.guard is not None:
        return (e.guard,) if e.guard not in done or not done[e.guard] else e.index
    if isinstance(e, Apply) and e.op.name == "rare":
        condition, then, otherwise = e.args
        return (condition,) if condition not in done else (then if done[condition] else otherwise,)
    return e.children
