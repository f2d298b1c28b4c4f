"""Square tiles of registers, transposed: in line, or by functions that all programs call.

Knows the shuffles, and three functions for each width of registers: one that turns the rows it
gets, and two that copy a tile from memory to memory, turned: a whole one, and the first rows and
columns of one. Refuses to know who loads them (`runtime/shared`).

The 64 shuffles of a tile of 16 rows take LLVM 2 ms, and the loads and stores around them another
one, as long as all the rest of many a kernel. So each function is a module of its own, made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Final, NamedTuple

from tilewright import dtypes
from tilewright.codegen.llvm_values import (
    AS_PRINTED,
    NO_UNWINDING,
    Emitter,
    Operand,
    llvm_type,
    suffix,
)
from tilewright.dtypes import DType
from tilewright.target import Target

PREFIX: Final = "tilewright_turn"
"""What the names of all these functions begin with."""
IN_REGISTERS: Final = "x86_regcallcc"
"""The calling convention that passes and returns sixteen vectors in registers."""
PURE: Final = "nounwind willreturn memory(none)"
"""Attributes of functions of nothing but their arguments."""


class Tile:
    """Tiles of `n` rows of `n` elements of so many bytes each, 4 or 8, a row a register."""

    def __init__(self, itemsize: int, n: int) -> None:
        self.dtype = dtypes.float32 if itemsize == 4 else dtypes.float64
        self.itemsize, self.n = itemsize, n
        self.row = llvm_type(self.dtype, n)
        self.rows = f"{{ {', '.join([self.row] * n)} }}"
        spelled = suffix(self.dtype, n)
        self.turn, self.copy = f"{PREFIX}.{spelled}", f"{PREFIX}.copy.{spelled}"
        self.part = f"{PREFIX}.part.{spelled}"

    @property
    def declaration(self) -> str:
        """What programs declare that call `turn`."""
        given = ", ".join([self.row] * self.n)
        return f"declare {IN_REGISTERS} {self.rows} @{self.turn}({given}) {PURE}"


class Rows(NamedTuple):
    """Rows in memory: where the first begins, and how many bytes apart they are."""

    place: str
    apart: int


def tile(target: Target | None, dtype: DType, n: int) -> Tile | None:
    """The tile that fills a target's registers with such elements; None if there are no functions
    for it."""
    if target is None or target.architecture != "x86_64" or target.vector_bytes < 32:
        return None
    fills = dtype.itemsize in (4, 8) and n * dtype.itemsize == target.vector_bytes
    return _tile(dtype.itemsize, n) if fills else None


def part_of(target: Target | None, dtype: DType, n: int) -> Tile | None:
    """The tile that tiles of `n` rows consist of; None if there are no functions for it."""
    own = 0 if target is None else target.vector_bytes // dtype.itemsize
    return tile(target, dtype, own) if own and n % own == 0 else None


@cache
def _tile(itemsize: int, n: int) -> Tile:
    return Tile(itemsize, n)


@cache
def functions(target: Target) -> dict[str, Callable[[], str]]:
    """What prints the module of each of a target's functions, by the functions' names."""
    found: dict[str, Callable[[], str]] = {}
    for dtype in (dtypes.float32, dtypes.float64):
        t = tile(target, dtype, target.vector_bytes // dtype.itemsize)
        if t is not None:
            found |= {t.turn: partial(_turn, t), t.copy: partial(_copy, t)}
            found[t.part] = partial(_part, t)
    return found


def copy(emitter: Emitter, t: Tile, rows: int, columns: int, of: Rows, to: Rows) -> None:
    """Print calls that copy a matrix, turned, tile by tile; `rows` and `columns` are those of what
    is read. The memory is apart unless the matrix is a single tile."""
    for i in range(0, rows, t.n):
        for j in range(0, columns, t.n):
            counts = min(t.n, rows - i), min(t.n, columns - j)
            name, given = (t.copy, ()) if counts == (t.n, t.n) else (t.part, counts)
            far = i * of.apart + j * t.itemsize, j * to.apart + i * t.itemsize
            args = []
            for end, by in zip((of, to), far, strict=True):
                at = end.place
                if by:
                    at = emitter.fresh("at")
                    emitter.emit(f"{at} = getelementptr i8, ptr {end.place}, i64 {by}")
                args += [f"ptr {at}", f"i64 {end.apart}"]
            args += [f"i64 {k}" for k in given]
            kinds = ", ".join([a.split()[0] for a in args])
            emitter.declarations.add(f"declare void @{name}({kinds}){NO_UNWINDING}")
            emitter.emit(f"call void @{name}({', '.join(args)})")


def _turn(t: Tile) -> str:
    """Rows in registers, and back."""
    emitter = Emitter()
    given = [Operand(f"%r{i}", t.dtype, t.n) for i in range(t.n)]
    whole = "poison"
    for i, x in enumerate(transposed(emitter, given)):
        last, whole = whole, emitter.fresh()
        emitter.emit(f"{whole} = insertvalue {t.rows} {last}, {x}, {i}")
    head = f"define {IN_REGISTERS} {t.rows} @{t.turn}({', '.join(map(str, given))}) {PURE}"
    return _module(emitter, head, f"ret {t.rows} {whole}")


def _copy(t: Tile) -> str:
    """Rows that begin so many bytes apart to rows that begin so many bytes apart. All are read
    before any is written."""
    emitter = Emitter()
    load = f"load {t.row}, ptr {{}}, align {t.itemsize}"
    places = _places(emitter, t, "%from", "%step")
    turned = transposed(emitter, [emitter.value(load.format(p), t.dtype, t.n) for p in places])
    for p, x in zip(_places(emitter, t, "%to", "%apart"), turned, strict=True):
        emitter.emit(f"store {x}, ptr {p}, align {t.itemsize}")
    args = "ptr %from, i64 %step, ptr %to, i64 %apart"
    return _module(emitter, f"define void @{t.copy}({args}){NO_UNWINDING}", "ret void")


def _places(emitter: Emitter, t: Tile, first: str, apart: str) -> list[str]:
    """Pointers to rows, in fours, so that none waits for all before it."""
    times = ["0", apart, *(emitter.fresh("times") for _ in range(3))]
    for k in (2, 3, 4):
        emitter.emit(f"{times[k]} = add i64 {times[k - 1]}, {apart}")
    found = [first]
    for i in range(1, t.n):
        k = i % 4
        found.append(emitter.fresh("at"))
        base, step = (found[i - k], times[k]) if k else (found[i - 4], times[4])
        emitter.emit(f"{found[i]} = getelementptr i8, ptr {base}, i64 {step}")
    return found


PART: Final = """\
declare {row} @llvm.masked.load.{name}.p0(ptr, {some}, {row})
declare void @llvm.masked.store.{name}.p0({row}, ptr, {some})
declare void @{copy}(ptr, i64, ptr, i64)

define void @{part}(ptr %from, i64 %step, ptr %to, i64 %apart, i64 %rows, i64 %columns){how} {{
entry:
  %given = alloca [{size} x i8], align {wide}
  %turned = alloca [{size} x i8], align {wide}
  %r = trunc i64 %rows to i32
  %r.0 = insertelement {count} poison, i32 %r, i64 0
  %r.all = shufflevector {count} %r.0, {count} poison, {count} zeroinitializer
  %high = icmp ult {count} <{numbers}>, %r.all
  %c = trunc i64 %columns to i32
  %c.0 = insertelement {count} poison, i32 %c, i64 0
  %c.all = shufflevector {count} %c.0, {count} poison, {count} zeroinitializer
  %broad = icmp ult {count} <{numbers}>, %c.all
  br label %read
read:
  %i = phi i64 [ 0, %entry ], [ %i.next, %read ]
  %i.far = mul i64 %i, %step
  %i.from = getelementptr i8, ptr %from, i64 %i.far
  %x = call {row} @llvm.masked.load.{name}.p0(ptr align {element} %i.from, {some} %broad, {row} zeroinitializer)
  %i.own = mul i64 %i, {wide}
  %i.to = getelementptr i8, ptr %given, i64 %i.own
  store {row} %x, ptr %i.to, align {wide}
  %i.next = add i64 %i, 1
  %i.more = icmp ult i64 %i.next, %rows
  br i1 %i.more, label %read, label %turn
turn:
  call void @{copy}(ptr %given, i64 {wide}, ptr %turned, i64 {wide})
  br label %write
write:
  %j = phi i64 [ 0, %turn ], [ %j.next, %write ]
  %j.own = mul i64 %j, {wide}
  %j.from = getelementptr i8, ptr %turned, i64 %j.own
  %y = load {row}, ptr %j.from, align {wide}
  %j.far = mul i64 %j, %apart
  %j.to = getelementptr i8, ptr %to, i64 %j.far
  call void @llvm.masked.store.{name}.p0({row} %y, ptr align {element} %j.to, {some} %high)
  %j.next = add i64 %j, 1
  %j.more = icmp ult i64 %j.next, %columns
  br i1 %j.more, label %write, label %done
done:
  ret void
}}
"""  # noqa: E501
"""Rows are copied to the stack, turned there, and copied from there."""


def _part(t: Tile) -> str:
    """As `_copy`, of the first so many rows and columns, at least one and at most all of a tile's.
    No other memory is touched."""
    wide = t.n * t.itemsize
    return PART.format(
        row=t.row,
        name=suffix(t.dtype, t.n),
        some=f"<{t.n} x i1>",
        count=f"<{t.n} x i32>",
        numbers=", ".join(f"i32 {i}" for i in range(t.n)),
        copy=t.copy,
        part=t.part,
        how=f"{NO_UNWINDING}{AS_PRINTED}",
        wide=wide,
        size=t.n * wide,
        element=t.itemsize,
    )


def _module(emitter: Emitter, head: str, end: str) -> str:
    declarations = sorted(emitter.declarations)
    lines = [f"{head}{AS_PRINTED} {{", "entry:", *emitter.lines, f"  {end}", "}"]
    return "\n".join([*declarations, "", *lines, ""])


def transposed(emitter: Emitter, given: Sequence[Operand]) -> list[Operand]:
    """First the squares inside all 16 bytes, by interleaving single lanes of neighbouring rows,
    then pairs of rows two apart, and so on; then whole 16 bytes. Each step is one shuffle of
    two registers, of the kind that machines have an instruction for."""
    n = len(given)
    inside = max(min(16 // given[0].dtype.itemsize, n), 1)
    rows, apart = [*given], 1
    while apart < n:
        low, high = _halves(n, inside, apart)
        for i in range(n):
            if not i & apart:
                a, b = rows[i], rows[i + apart]
                rows[i], rows[i + apart] = emitter.shuffled(a, b, low), emitter.shuffled(a, b, high)
        apart *= 2
        if apart < n and n > 4:
            rows = [_fenced(emitter, x) for x in rows]
    return [rows[i - i % inside + _reversed(i % inside, inside)] for i in range(n)]


def _fenced(emitter: Emitter, x: Operand) -> Operand:
    """The same register, through which LLVM does not look. No instruction comes of it. The
    steps of a transposition are as good as printed; looking for a way to merge each with all
    before it took LLVM three times as long as the rest, even where it improves nothing."""
    if x.dtype in (dtypes.float32, dtypes.float64):
        name = f"llvm.arithmetic.fence.{suffix(x.dtype, x.lanes)}"
        return emitter.value(emitter.intrinsic(name, x.type, str(x), x.type), x.dtype, x.lanes)
    words = x.lanes * x.dtype.itemsize // 4
    if words < 2:
        return x
    as_floats = emitter.value(f"bitcast {x} to <{words} x float>", dtypes.float32, words)
    return emitter.value(f"bitcast {_fenced(emitter, as_floats)} to {x.type}", x.dtype, x.lanes)


@cache
def _halves(n: int, inside: int, apart: int) -> tuple[list[int], list[int]]:
    """What a step of a transposition picks of two rows of `n` lanes, `apart` rows apart: of every
    16 bytes (`inside` lanes) the lower halves' pieces of so many lanes in turn, and the upper
    halves'; from `inside` rows on, the even ones of all 16 bytes, and the odd ones."""
    if apart >= inside:
        even = [at + i for at in range(0, 2 * n, 2 * inside) for i in range(inside)]
        return even, [at + inside for at in even]
    halves: tuple[list[int], list[int]] = ([], [])
    for start in range(0, n, inside):
        for half, picked in enumerate(halves):
            first = start + half * inside // 2
            for at in range(first, first + inside // 2, apart):
                picked += [*range(at, at + apart), *range(n + at, n + at + apart)]
    return halves


def _reversed(i: int, n: int) -> int:
    """The number below `n`, a power of two, whose bits are those of `i` in reverse."""
    bits = n.bit_length() - 1
    return sum((i >> k & 1) << (bits - 1 - k) for k in range(bits))
