"""Loops to C99 that a person can read and any C compiler can compile.

Knows declarations, statements and which sub-expressions deserve a name. Refuses to optimise: loops
come out as loops, register buffers as local arrays, and the vectors of a `vector` loop are the C
compiler's to find. Values are spelled in `c_values`, where all that a dialect changes stands too.

Compile with `cc -std=c99 -O2 -ffp-contract=off -lm`; `-march=native` makes `fma` an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tilewright.codegen.c_values import (
    ATOM,
    C99,
    RESERVED,
    SUM,
    UNARY,
    Dialect,
    Text,
    Values,
    atom,
    binary,
    chosen,
)
from tilewright.codegen.libm import expand
from tilewright.errors import InternalError
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Dim,
    Expr,
    Index,
    Lit,
    Load,
    Var,
    apply,
    as_index,
    is_static,
    literal,
    show,
    static,
)
from tilewright.loops import (
    Accumulate,
    Alloc,
    Block,
    Call,
    Flip,
    For,
    Function,
    If,
    Let,
    Program,
    Ref,
    Stmt,
    Store,
    Sync,
    While,
    expressions,
    statements,
)
from tilewright.ops import elementwise as el
from tilewright.scalars import HALF_CASTS
from tilewright.term import topological
from tilewright.transforms.complex_parts import split_function
from tilewright.transforms.index_rules import Ranges, flat

NATIVE: Final = frozenset((HALF_CASTS,))
"""Of the operations that not every machine has, those that a C compiler knows."""

LONG: Final = 72
"""Characters from which a sub-expression gets a name even if it is used once."""

SHORT: Final = 20
"""Characters up to which a position is repeated rather than named."""

WIDE: Final = 72
"""Characters of parameters that still share a line."""

COMBINE: Final = {
    "sum": el.add, "prod": el.multiply, "max": el.maximum, "min": el.minimum,
    "any": el.logical_or, "all": el.logical_and,
}  # fmt: skip
"""The elementwise function of each reduction kind."""


def print_program(program: Program, dialect: Dialect = C99) -> str:
    """The whole program as one file; the entry function stands last and is visible to linkers."""
    functions = [split_function(f) for f in program.functions]
    names = FileNames([f.name for f in functions])
    values = Values(dialect)
    printers: dict[str, FunctionPrinter] = {}
    for f in functions:
        printers[f.name] = FunctionPrinter(f, f is functions[-1], names, values, printers)
    parts = [p.text() for p in printers.values()]
    head = [dialect.note, *(f"#include {h}" for h in dialect.headers)]
    return "\n\n".join(["\n".join(head), *values.helpers.values(), *parts]) + "\n"


class FileNames:
    """The names of the file's functions, kept apart from the language's own."""

    def __init__(self, functions: Sequence[str]) -> None:
        self._names = {f: identifier(f) for f in functions}
        self.taken = RESERVED | frozenset(self._names.values())

    def __getitem__(self, function: str) -> str:
        return self._names[function]


def identifier(name: str) -> str:
    """The nearest name that C accepts."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    return f"{plain}_" if plain in RESERVED else plain


class LocalNames:
    """Unique names inside one function."""

    def __init__(self, taken: frozenset[str]) -> None:
        self._taken = set(taken)
        self._names: dict[Buffer | Axis | Var, str] = {}

    def __call__(self, thing: Buffer | Axis | Var) -> str:
        if thing not in self._names:
            self._names[thing] = self.fresh(thing.name)
        return self._names[thing]

    def fresh(self, hint: str) -> str:
        base = name = identifier(hint)
        n = 0
        while name in self._taken:
            n += 1
            name = f"{base}_{n}"
        self._taken.add(name)
        return name


class FunctionPrinter:
    """The text of one function. `changed` are the buffers it writes, `used` all that it needs."""

    def __init__(
        self,
        function: Function,
        is_entry: bool,
        names: FileNames,
        values: Values,
        callees: Mapping[str, FunctionPrinter],
    ) -> None:
        self.function, self.is_entry, self.files, self.values = function, is_entry, names, values
        self.callees = callees
        self.dialect = values.dialect
        self.names = LocalNames(names.taken)
        self.ranges = Ranges()
        self.lines: list[str] = []
        self.depth = 1
        self.temporaries = 0
        self.declared: set[Buffer] = set()
        every = list(statements(function.body))
        roots = expand([e for s in every for e in expressions(s)], NATIVE)
        nodes = topological(roots, lambda e: e.children)
        self.used: set[object] = {e for e in nodes if isinstance(e, Var)}
        self.used |= {e.buffer for e in nodes if isinstance(e, Load)}
        self.changed: set[Buffer] = set()
        for s in every:
            self._note(s)
        self.used |= self.changed

    def _note(self, s: Stmt) -> None:
        """Which buffers a statement uses and changes. Libraries may change all they are given."""
        if isinstance(s, (Store, Accumulate)):
            self.changed.add(s.buffer)
        elif isinstance(s, Call):
            for a, p in zip(s.args, self.parameters(s), strict=True):
                if isinstance(a, Ref):
                    self.used.add(a.buffer)
                    if p is None or p in self.callees[s.function].changed:
                        self.changed.add(a.buffer)

    def parameters(self, s: Call) -> Sequence[Buffer | None]:
        """The buffers a function of the program calls its arguments; None for a library's."""
        if s.library is not None:
            return [None] * len(s.args)
        f = self.callees[s.function].function
        return [*f.params, *[None] * len(f.numbers)]

    def text(self) -> str:
        params = self._parameters()
        for b in self.function.params:
            if b not in self.used:
                self.emit(f"(void){self.names(b)};")
        self.statement(self.function.body)
        linkage = self.dialect.entry if self.is_entry else self.dialect.inner
        head = f"{linkage}{self.files[self.function.name]}({params})"
        # A comment that ended in a backslash would swallow the next line.
        lines = [f"// {s}: {s.text}".rstrip(" :\\") for s in self.function.sources]
        return "\n".join([*dict.fromkeys(lines), head, "{", *self.lines, "}"])

    def _parameters(self) -> str:
        """The declarations, on a line each if one line is too short for them."""
        declared: list[str] = []
        for b in self.function.params:
            arena = self.is_entry and b is self.function.params[-1]
            const = "" if arena or b in self.changed else "const "
            # The arena is the memory of many values; all other buffers are apart from each other.
            declared.append(self.dialect.pointer(const + self.memory(b), self.names(b), not arena))
        kind = self.dialect.index_type
        declared += [f"const {kind} {self.names(n)}" for n in self.function.numbers]
        whole = ", ".join(declared)
        return whole if len(whole) < WIDE else "\n    " + ",\n    ".join(declared)

    def memory(self, b: Buffer) -> str:
        return self.values.memory_type(b.dtype)

    def emit(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    # -- statements ---------------------------------------------------------------------------

    def statement(self, s: Stmt) -> None:
        match s:
            case Block(inner):
                for k, t in enumerate(inner):
                    if isinstance(t, Block):
                        self.inner_block(t)
                    elif isinstance(t, Alloc) and _starts_soon(t.buffer, inner[k + 1 :]):
                        self.declared.discard(t.buffer)
                    else:
                        self.statement(t)
            case For():
                self.loop(s)
            case While(condition, body):
                self.while_loop(condition, body)
            case If(condition, then, otherwise):
                self.branch(condition, then, otherwise)
            case Let(var, value):
                if var in self.used:
                    (x,) = self.texts([value])
                    self.emit(
                        f"const {self.values.value_type(var.dtype)} {self.names(var)} = {x.text};"
                    )
            case Store(buffer, index, value):
                self.assign(buffer, index, value)
            case Accumulate():
                self.accumulate(s)
            case Alloc(buffer):
                self.alloc(buffer)
            case Flip(buffer):
                self.flip(buffer)
            case Call():
                self.call(s)
            case Sync(scope):
                self.emit(self.dialect.sync(scope))
            case _:
                raise InternalError(f"{self.dialect.name} cannot print {s!r}")

    def inner_block(self, s: Block) -> None:
        """A block is a scope of names."""
        self.emit("{")
        self.indented(s)
        self.emit("}")

    def indented(self, s: Stmt) -> None:
        self.depth += 1
        self.statement(s)
        self.depth -= 1

    def loop(self, s: For) -> None:
        if is_static(s.axis.extent):
            bound, count = "", str(static(s.axis.extent))
        else:
            (x,) = self.texts([as_index(s.axis.extent)])
            count = self.names.fresh("n")
            bound = f", {count} = {x.text}"
        i = self.names(s.axis)
        note = {"parallel": " // independent", "vector": f" // {s.lanes} lanes"}.get(s.kind, "")
        t = self.dialect.index_type
        self.emit(f"for ({t} {i} = 0{bound}; {i} < {count}; ++{i}) {{{note}")
        self.indented(s.body)
        self.emit("}")

    def while_loop(self, condition: Expr, body: Block) -> None:
        """The condition may need names of its own, so it is tested inside."""
        self.emit("for (;;) {")
        self.depth += 1
        (test,) = self.texts([condition])
        self.emit(f"if (!{test.inside(ATOM)})")
        self.emit("    break;")
        self.statement(body)
        self.depth -= 1
        self.emit("}")

    def branch(self, condition: Expr, then: Block, otherwise: Block) -> None:
        (test,) = self.texts([condition])
        self.emit(f"if ({test.text}) {{")
        self.indented(then)
        if otherwise.statements:
            self.emit("} else {")
            self.indented(otherwise)
        self.emit("}")

    def alloc(self, b: Buffer) -> None:
        if b not in self.used:
            return
        self.declared.add(b)
        if b.scope != "registers":
            self.emit(f"{self.memory(b)} {self.names(b)}[{max(static(b.size), 1)}];")
        elif b.shape:
            extents = "".join(f"[{max(static(n), 1)}]" for n in b.shape)
            self.emit(f"{self.memory(b)} {self.names(b)}{extents};")
        else:
            self.emit(f"{self.memory(b)} {self.names(b)} = 0;")

    def assign(self, buffer: Buffer, index: Sequence[Expr], value: Expr) -> None:
        *at, x = self.texts([*self.place(buffer, index), value])
        first = buffer.scope == "registers" and buffer not in self.declared
        self.declared.add(buffer)
        kind = f"{self.memory(buffer)} " if first else ""
        self.emit(f"{kind}{self.element(buffer, at)} = {x.text};")

    def accumulate(self, s: Accumulate) -> None:
        """element = combined(element, value); float sums and products have their own operator."""
        operator = {"sum": "+=", "prod": "*="}.get(s.kind)
        if operator and s.buffer.dtype in self.dialect.float_suffix:
            *at, x = self.texts([*self.place(s.buffer, s.index), s.value])
            self.emit(f"{self.element(s.buffer, at)} {operator} {x.text};")
            return
        combine = COMBINE[s.kind].row.scalar
        old = Load(s.buffer, s.index, None)
        self.assign(s.buffer, s.index, apply(combine, old, s.value, dtype=s.buffer.dtype))

    def flip(self, b: Buffer) -> None:
        """The rows and columns of a square array exchanged."""
        r, n, t = self.names(b), static(b.shape[0]), self.dialect.index_type
        i, j, x = (self.names.fresh(hint) for hint in ("a", "b", "x"))
        self.emit(f"for ({t} {i} = 0; {i} < {n}; ++{i}) {{")
        self.emit(f"    for ({t} {j} = 0; {j} < {i}; ++{j}) {{")
        self.emit(f"        {self.memory(b)} {x} = {r}[{i}][{j}];")
        self.emit(f"        {r}[{i}][{j}] = {r}[{j}][{i}];")
        self.emit(f"        {r}[{j}][{i}] = {x};")
        self.emit("    }")
        self.emit("}")

    def call(self, s: Call) -> None:
        texts: list[str] = []
        for a, p in zip(s.args, self.parameters(s), strict=True):
            (x,) = self.texts([a.offset if isinstance(a, Ref) else a])
            texts.append(self.pointer(a, x, p) if isinstance(a, Ref) else x.text)
        name = s.function if s.library is not None else self.files[s.function]
        if s.library is not None:
            kinds = [
                "void *" if isinstance(a, Ref) else self.values.value_type(a.type) for a in s.args
            ]
            self.values.helpers[name] = f"extern void {name}({', '.join(kinds)});"
        self.emit(f"{name}({', '.join(texts)});")

    def pointer(self, a: Ref, offset: Text, parameter: Buffer | None) -> str:
        """An address; in the arena it takes the type of the value that lives there."""
        base = atom(self.names(a.buffer))
        at = base if offset.text == "0" else binary("+", SUM, base, offset)
        if parameter is None or self.memory(parameter) == self.memory(a.buffer):
            return at.text
        return f"({self.memory(parameter)} *){at.inside(ATOM)}"

    # -- memory -------------------------------------------------------------------------------

    def place(self, b: Buffer, index: Sequence[Expr]) -> tuple[Expr, ...]:
        """The subscripts of an element: one for each axis of registers, a flat offset elsewhere."""
        return tuple(index) if b.scope == "registers" else (flat(b, tuple(index)),)

    def element(self, b: Buffer, at: Sequence[Text]) -> str:
        return self.names(b) + "".join(f"[{i.text}]" for i in at)

    # -- expressions --------------------------------------------------------------------------

    def texts(self, roots: Sequence[Expr]) -> list[Text]:
        """The spellings of expressions, after the declarations of the names they use."""
        roots = expand(roots, NATIVE)
        known: dict[Expr, Text] = {}
        self.spell(roots, self.uses(roots), known)
        return [known[r] for r in roots]

    def children(self, e: Expr) -> tuple[Expr, ...]:
        """What the spelling of an expression mentions."""
        if not isinstance(e, Load):
            return e.children
        at = self.place(e.buffer, e.index)
        return at if e.guard is None else (*at, e.guard)

    def uses(self, roots: Sequence[Expr]) -> dict[Expr, int]:
        count: dict[Expr, int] = {}
        for e in topological(roots, self.children):
            for c in self.children(e):
                count[c] = count.get(c, 0) + 1
        for r in roots:
            count[r] = count.get(r, 0) + 1
        return count

    def spell(
        self, roots: Sequence[Expr], uses: Mapping[Expr, int], known: dict[Expr, Text]
    ) -> None:
        """Add the spellings of all sub-expressions, but not of rare branches, to `known`."""

        def first(e: Expr) -> tuple[Expr, ...]:
            if e in known:
                return ()
            rare = isinstance(e, Apply) and e.op.name == "rare"
            return (e.children[0], e.children[2]) if rare else self.children(e)

        for e in topological(roots, first):
            if e in known:
                continue
            if isinstance(e, Apply) and e.op.name == "rare":
                known[e] = self.rare(e, uses, known)
                continue
            x = self.expression(e, known)
            known[e] = self.named(e, x) if self.deserves_name(e, x, uses[e]) else x

    def deserves_name(self, e: Expr, x: Text, uses: int) -> bool:
        """Whether to declare a constant: for what is used again, or too long to read."""
        if isinstance(e, Index) and uses > 1:
            return len(x.text) > SHORT
        compound = isinstance(e, (Apply, Index)) or (isinstance(e, Load) and x.level < ATOM)
        return (uses > 1 and isinstance(e, (Apply, Load))) or (compound and len(x.text) > LONG)

    def named(self, e: Expr, x: Text) -> Text:
        """Declare a constant for a value."""
        name = self.temporary()
        self.emit(f"const {self.values.value_type(e.type)} {name} = {x.text};")
        return atom(name)

    def temporary(self) -> str:
        self.temporaries += 1
        return self.names.fresh(f"t{self.temporaries}")

    def rare(self, e: Apply, uses: Mapping[Expr, int], known: dict[Expr, Text]) -> Text:
        """The common value, replaced inside an `if` whose names nobody else sees."""
        condition, then, otherwise = e.args
        name = self.temporary()
        self.emit(f"{self.values.value_type(e.type)} {name} = {known[otherwise].text};")
        self.emit(f"if ({known[condition].text}) {{")
        self.depth += 1
        inside = dict(known)
        self.spell([then], uses, inside)
        self.emit(f"{name} = {inside[then].text};")
        self.depth -= 1
        self.emit("}")
        return atom(name)

    def expression(self, e: Expr, known: Mapping[Expr, Text]) -> Text:
        match e:
            case Lit():
                return self.values.literal(e)
            case Axis() | Var():
                return atom(self.names(e))
            case Index(op, (a, b)):
                return self.index(op, a, b, known)
            case Load(buffer, index, guard):
                at = [known[i] for i in self.place(buffer, index)]
                x = self.values.from_memory(self.element(buffer, at), buffer.dtype)
                if guard is None:
                    return x
                zero = self.values.literal(literal(0, buffer.dtype))
                return chosen(known[guard], x, zero)
            case Apply(op, args, dtype):
                texts, types = [known[a] for a in args], [a.type for a in args]
                return self.values.apply(op.name, texts, types, dtype)
            case Dim(name):
                raise InternalError(f"the named dimension {name} has no value in a static program")
        raise InternalError(f"{self.dialect.name} cannot print {show(e)} here")

    def index(self, op: str, a: Expr, b: Expr, known: Mapping[Expr, Text]) -> Text:
        """Index arithmetic; sums with negative terms are written as differences."""
        x, y = known[a], known[b]
        if op == "+" and isinstance(b, Lit) and int(b.value) < 0:
            return binary("-", SUM, x, atom(str(-int(b.value))))
        if op == "*" and isinstance(b, Lit) and int(b.value) == -1:
            return Text(f"-{x.inside(ATOM)}", UNARY)
        if op == "+" and y.level == UNARY and y.text[0] == "-":
            return binary("-", SUM, x, atom(y.text[1:]))
        if op == "+" and x.level == UNARY and x.text[0] == "-":
            return binary("-", SUM, y, atom(x.text[1:]))
        exact = op not in ("//", "%") or self.ranges(a)[0] >= 0
        return self.values.index(op, x, y, exact)


def _starts_soon(b: Buffer, following: Sequence[Stmt]) -> bool:
    """Whether a variable is set before anything else happens: then it is declared there."""
    if b.scope != "registers" or b.shape:
        return False
    for s in following:
        if isinstance(s, Store) and s.buffer is b:
            return True
        if not isinstance(s, (Alloc, Store)):
            return False
    return False
