"""From one call that was seen to the tables by which native code serves all calls like it.

Knows which arguments the tables can describe (exact classes of containers, plain arrays, numbers,
objects told by identity), where results come from and how trees are built. Refuses to know how the
tables are run (`codegen.entry`) and reached (`runtime.dispatch`). What the tables cannot describe
has none: such calls stay with Python, which can serve them all.
"""

from __future__ import annotations

import ctypes
import enum
import math
import sys
import types
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from tilewright import dtypes, trees
from tilewright.codegen.entry_tables import RECORD, Give, Make, Take
from tilewright.expr import is_static, static
from tilewright.graph import Graph
from tilewright.ops.elementwise import Elementwise
from tilewright.runtime import memory
from tilewright.term import topological
from tilewright.trees import Container, Static, Structure

MOST_VALUES: Final = 1024
"""Arguments and their parts, at most: registers are on the stack."""
STACKED: Final = 16 << 10
"""Bytes of planned memory that a call takes from the stack."""
REUSED_FROM: Final = 4
"""From so many small results on, a call reuses those of earlier calls that nobody holds."""
LONG: Final = 50_000
"""Multiply-adds from which on a program may take some 20 us: other threads then run Python
meanwhile, which costs a call some 30 ns."""
OVERHEAD: Final = 8
"""Multiply-adds that an operation takes without elements, as a loop of its own."""

NUMBERS: Final = (float, complex)
"""Python's numbers whose value is one field that NumPy reads as it is."""

KEYS: Final = (str, int, bytes)
"""Classes of keys whose comparison runs none of the user's code."""

Node: TypeAlias = "int | tuple[trees.Entry, list[Node]]"
"""A leaf's number, or a container and what is in it."""

_STANDARD: Final[dict[type, Container | None]] = {
    type(x): trees.container_of(x) for x in ((), [], {}, None, Static(None))
}
"""The containers known by class. One that a user has registered anew is another object."""


@dataclass(frozen=True)
class Seen:
    """A call that was traced and has been made again: everything its tables follow from."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    structure: Structure
    """Of (args, kwargs), with Static for static arguments."""
    dtypes: Sequence[np.dtype[Any]]
    """Of the program's inputs, one for each leaf."""
    captured: Sequence[Any]
    results: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]
    tree: Structure
    """Of what the function returns."""
    slots: Sequence[int | Static]
    """For each of its leaves, the number of the program's result, or the value."""
    program: int
    """The address of the program."""
    arena_bytes: int
    long: bool
    """Whether a run may take longer than giving other threads a chance."""


class Unsuited(Exception):
    """The tables cannot describe this call; the text says why."""


@dataclass(frozen=True)
class Record:
    """The tables of one signature; native code reads `words`, and `kept` is what they point to."""

    words: Any
    accepted: tuple[Any, ...]
    """Equal for records that serve the same calls."""
    kept: tuple[Any, ...] = field(repr=False)


def record(seen: Seen) -> Record:
    """The tables for calls like this one.

    **Raises:** `Unsuited`, naming what there is no table for.
    """
    taken = _Taken(seen)
    places = _places(seen)
    made = _Made(seen, taken.scratch, places)
    given = _Given(seen, taken.scratch, places)
    large = seen.arena_bytes > STACKED
    arena = [seen.arena_bytes] if large else []
    pointers = len(seen.dtypes) + len(seen.captured) + len(seen.results) + 1
    names = _words([id(n) for n in taken.names])
    constants = _words([id(c) for c in seen.captured])
    codes = [_words(c) for c in (taken.code, given.code, made.code)]
    fields = {
        "positional": len(seen.args),
        "keywords": len(seen.kwargs),
        "names": _address(names),
        "constants": _address(constants),
        "constant_count": len(seen.captured),
        "take": _address(codes[0]),
        "give": _address(codes[1]),
        "make": _address(codes[2]),
        "values": max(taken.values, made.most, 1),
        "pointers": pointers,
        "scratch": given.scratch,
        "held": taken.held + 3,  # the list's length, and a large arena in one of two ways
        "results": max(made.registers, 1),
        "result": made.result,
        "arena_bytes": 0 if large else seen.arena_bytes,
        "arena_size": id(arena[0]) if large else 0,
        "arena_newer": 0,
        "arena_older": 0,
        "program": seen.program,
        "release": seen.long,
        "hold": seen.long or large or given.large or taken.asks,
    }
    words = _words([int(fields[name]) for name in RECORD])
    kept = (names, constants, *codes, *arena, *seen.captured, *taken.kept, *given.kept, *made.kept)
    accepted = (len(seen.args), tuple(taken.names), tuple(taken.code))
    return Record(words, accepted, kept)


def _words(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _address(words: Any) -> int:
    return ctypes.addressof(words)


def _tree(structure: Structure) -> Node:
    """The structure as a tree, leaves numbered in order."""
    stack: list[Node] = []
    leaf = structure.num_leaves
    for entry in reversed(structure.code):
        if entry.container is None:
            leaf -= 1
            stack.append(leaf)
        else:
            stack.append((entry, [stack.pop() for _ in range(entry.arity)]))
    return stack[0]


def _is_standard(container: Container | None, cls: type) -> bool:
    return container is not None and container is _STANDARD[cls]


# -- arguments -----------------------------------------------------------------------------------


class _Taken:
    """The code of `take` for a call's arguments, breadth first."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.code: list[int] = []
        self.kept: list[Any] = []
        self.scratch = self.held = 0
        self.asks = False
        (_, (args, kwargs)) = _tree(seen.structure)  # type: ignore[misc]
        entry, named = kwargs  # type: ignore[misc]
        self.names = [sys.intern(n) for n in entry.rest]  # type: ignore[union-attr]
        nodes = [*args[1], *named]  # type: ignore[index]
        samples = [*seen.args, *(seen.kwargs[n] for n in self.names)]
        self.kept += self.names
        self.pending = deque(zip(nodes, samples, range(len(nodes)), strict=True))
        self.values = len(nodes) + len(seen.captured)
        while self.pending:
            self.part(*self.pending.popleft())
        first = len(nodes)
        for k, array in enumerate(seen.captured):
            self.array(first + k, len(seen.dtypes) + k, array, array.dtype)
        self.code += [Take.DONE, 0, 0, 0, 0, 0]

    def part(self, node: Node, x: Any, register: int) -> None:
        """Operations for one argument or part of one, `x` in the call that was seen."""
        if isinstance(node, int):
            self.leaf(node, x, register)
            return
        (container, rest, n), children = node
        assert container is not None, "leaves are numbers"
        cls = container.cls
        if cls in (types.NoneType, Static) and _is_standard(container, cls):
            self.same(x, register)
        elif issubclass(cls, tuple) and (container.fields or _is_standard(container, tuple)):
            self.container(Take.TUPLE, register, cls, children, x)
        elif cls is list and _is_standard(container, list):
            self.container(Take.LIST, register, cls, children, x)
            self.held += n
        elif cls is dict and _is_standard(container, dict):
            if not all(type(k) in KEYS for k in x):
                raise Unsuited("a dict has keys other than strings and numbers")
            at = dict(zip(rest, children, strict=True))  # type: ignore[call-overload]
            parts = [at[k] for k in x]
            self.container(Take.DICT, register, cls, parts, x.values(), list(x))
            self.held += n
        elif container.fields is not None:
            self.attributes(container, children, x, register)
        else:
            raise Unsuited(f"a {cls.__name__} is taken apart by Python")

    def container(
        self,
        operation: Take,
        register: int,
        cls: type,
        nodes: Sequence[Node | None],
        samples: Any,
        names: Sequence[Any] = (),
    ) -> None:
        """Check the class, put the parts into new registers and go on with these. A node that is
        None stands for a part that must be the very object."""
        first, n = self.values, len(nodes)
        self.values += n
        if self.values > MOST_VALUES:
            raise Unsuited(f"it has more than {MOST_VALUES} parts")
        self.code += [operation, register, first, id(cls), n, *map(id, names)]
        self.code += [0]  # operations without a tail have as many words
        self.kept += [cls, *names]
        for node, x, at in zip(nodes, samples, range(first, first + n), strict=True):
            if node is None:
                self.same(x, at)
            else:
                self.pending.append((node, x, at))

    def attributes(
        self, container: Container, children: Sequence[Node], x: Any, register: int
    ) -> None:
        """The fields of a dataclass; those that are part of the structure are told by identity."""
        names = [sys.intern(f) for part in container.fields or () for f in part]
        parts = [*children, *[None] * (len(names) - len(children))]
        values = [getattr(x, f) for f in names]
        self.container(Take.FIELDS, register, container.cls, parts, values, names)
        self.held += len(names)
        self.asks = True  # an attribute may be computed

    def same(self, x: Any, register: int) -> None:
        """The argument must be this very object, whose meaning cannot change."""
        if not _is_fixed(x):
            raise Unsuited(f"a static {type(x).__name__} may change between calls")
        self.code += [Take.IS, register, 0, id(x), 0, 0]
        self.kept.append(x)

    def leaf(self, k: int, x: Any, register: int) -> None:
        """Input `k` of the program."""
        cls, dtype = type(x), self.seen.dtypes[k]
        if cls is np.ndarray:
            self.array(register, k, x, dtype)
            return
        if cls in (int, bool) and dtype == (dtypes.int64 if cls is int else dtypes.bool_):
            operation, tail = (Take.INT, 0) if cls is int else (Take.BOOL, id(True))
            self.code += [operation, register, k, id(cls), self.scratch, tail]
            self.scratch += 1
        elif (cls in NUMBERS and dtype == np.dtype(cls)) or (
            issubclass(cls, np.generic) and cls is dtype.type and dtype in dtypes.SHORT
        ):
            self.code += [Take.NUMBER, register, k, id(cls), 0, 0]
        else:
            raise Unsuited(f"a {cls.__name__} is no array and no number")

    def array(self, register: int, k: int, x: Any, dtype: np.dtype[Any]) -> None:
        """Pointer `k` of the program: an array like `x`."""
        if type(x) is not np.ndarray or x.dtype != dtype or not x.dtype.isnative:
            raise Unsuited("an array is converted before the program reads it")
        if not (x.flags.c_contiguous and x.flags.aligned):
            raise Unsuited("an array is copied before the program reads it")
        self.code += [Take.ARRAY, register, k, id(np.ndarray), x.ndim, id(x.dtype), *x.shape]
        self.kept.append(x.dtype)


def _is_fixed(x: Any) -> bool:
    """Whether the same object is at all times equal to itself as it is now."""
    if isinstance(x, tuple | frozenset) and type(x) in (tuple, frozenset):
        return all(_is_fixed(y) for y in x)
    cls = type(x)
    if cls in (types.NoneType, bool, int, float, complex, str, bytes, types.EllipsisType):
        return True
    if isinstance(x, type | enum.Enum | types.FunctionType | types.BuiltinFunctionType):
        return True
    return cls.__eq__ is object.__eq__ and cls.__hash__ is object.__hash__


# -- results -------------------------------------------------------------------------------------


@dataclass
class _Place:
    """A small result that is used again: the last two arrays, and where it is the value of a dict,
    the dicts that calls copy, which hold them too."""

    earlier: list[Any]
    templates: list[dict[Any, Any]] | None = None
    key: Any = None


def _places(seen: Seen) -> dict[int, _Place]:
    """The results whose arrays are used again. Few results are cheaper made anew."""
    small = [
        k
        for k, (shape, dtype) in enumerate(seen.results)
        if shape and math.prod(shape) * dtype.itemsize < memory.LARGE
    ]
    return {k: _Place([None, None]) for k in small} if len(small) >= REUSED_FROM else {}


class _Given:
    """The code of `give` for a program's results, numbers in scratch slots from `scratch` on."""

    def __init__(self, seen: Seen, scratch: int, places: Mapping[int, _Place]) -> None:
        self.code: list[int] = []
        self.kept: list[Any] = []
        self.scratch = scratch
        self.large = False
        first = len(seen.dtypes) + len(seen.captured)
        for k, (shape, dtype) in enumerate(seen.results):
            size = math.prod(shape) * dtype.itemsize
            if not shape:
                self.code += [Give.SCRATCH, k, first + k, self.scratch]
                self.scratch += 1
            elif size < memory.LARGE:
                self.array(k, first + k, np.empty(shape, dtype), places.get(k))
            else:
                arguments = (shape, dtype, size)
                self.code += [Give.LARGE, k, first + k, len(shape), id(dtype), 0, 0]
                self.code += [*map(id, arguments), *shape]
                self.kept += arguments
                self.large = True
        self.code += [Give.DONE, 0, 0, 0]

    def array(self, k: int, pointer: int, like: Any, place: _Place | None) -> None:
        self.code += [Give.ARRAY, k, pointer, like.ndim, id(like.dtype), like.flags.num]
        if place is None:
            self.code += [0, 0, 0, 0]
        else:
            in_dict = place.templates is not None
            self.code += [id(place.earlier), 1 + in_dict]
            self.code += [id(place.templates), id(place.key)] if in_dict else [0, 0]
        self.code += [*like.shape, *like.strides]
        self.kept += [like.dtype, place]


class _Made:
    """The code of `make` for the tree that the function returns, leaves first."""

    def __init__(self, seen: Seen, scratch: int, places: Mapping[int, _Place]) -> None:
        self.code: list[int] = []
        self.kept: list[Any] = []
        self.places = places
        self.registers = len(seen.results)
        self.most = 0
        self.uses = Counter(s for s in seen.slots if isinstance(s, int))
        for k, (shape, dtype) in enumerate(seen.results):
            if not shape:
                self.emit(Make.SCALAR, scratch, dtype, register=k)
                scratch += 1
        stack: list[int] = []
        leaf = len(seen.slots)
        for entry in reversed(seen.tree.code):
            if entry.container is None:
                leaf -= 1
                slot = seen.slots[leaf]
                stack.append(self.constant(slot.value) if isinstance(slot, Static) else slot)
            else:
                stack.append(self.whole(entry, [stack.pop() for _ in range(entry.arity)]))
        self.result = stack[0]
        self.code += [Make.DONE, 0, 0, 0]

    def emit(self, operation: Make, n: int, x: Any, *tail: int, register: int | None = None) -> int:
        """Append an operation; the register that gets its value, a new one unless it is given."""
        if register is None:
            register = self.registers
            self.registers += 1
            self.uses[register] = 1
        self.code += [operation, register, n, id(x), *tail]
        self.kept.append(x)
        return register

    def constant(self, x: Any) -> int:
        return self.emit(Make.OBJECT, 0, x)

    def sources(self, registers: Sequence[int]) -> list[int]:
        """A register's last use takes the value out of it."""
        found = []
        for r in registers:
            self.uses[r] -= 1
            found.append(2 * r + (self.uses[r] > 0))
        return found

    def whole(self, entry: trees.Entry, parts: Sequence[int]) -> int:
        """Build one container of its parts."""
        container, rest, n = entry
        assert container is not None, "leaves are not built"
        cls = container.cls
        if cls is types.NoneType and _is_standard(container, cls):
            return self.constant(None)
        if cls in (tuple, list) and _is_standard(container, cls):
            operation = Make.TUPLE if cls is tuple else Make.LIST
            return self.emit(operation, n, None, *self.sources(parts))
        if cls is dict and _is_standard(container, dict):
            return self.entries(list(rest), parts)  # type: ignore[call-overload]
        if container.fields is not None and not issubclass(cls, tuple) and _is_plain(cls):
            children, others = container.fields
            statics = [self.constant(x) for x in rest]  # type: ignore[attr-defined]
            names = [sys.intern(f) for f in (*children, *others)]
            return self.emit(Make.FIELDS, len(names), cls, *self.pairs(names, [*parts, *statics]))
        self.most = max(self.most, n)
        return self.emit(Make.CALL, n, _maker(container, rest), *self.sources(parts))

    def entries(self, keys: Sequence[Any], parts: Sequence[int]) -> int:
        """A copy of one of two templates, which already have the arrays that are used again."""
        templates = [dict.fromkeys(keys), dict.fromkeys(keys)]
        tail = []
        for key, part, source in zip(keys, parts, self.sources(parts), strict=True):
            place = self.places.get(part) if source == 2 * part else None
            if place is not None:
                place.templates, place.key = templates, key
            tail += [id(key), source, 0 if place is None else id(place.earlier)]
        self.kept += keys
        return self.emit(Make.DICT, len(keys), templates, *tail)

    def pairs(self, names: Sequence[Any], parts: Sequence[int]) -> list[int]:
        self.kept += names
        return [w for pair in zip(map(id, names), self.sources(parts), strict=True) for w in pair]


def _maker(container: Container, rest: Any) -> Callable[..., Any]:
    return lambda *parts: container.make(rest, list(parts))


def _is_plain(cls: type) -> bool:
    """Whether `object.__new__` makes instances of a class."""
    try:
        object.__new__(cls)
    except TypeError:  # abstract, or made by an extension
        return False
    return True


# -- how long a program runs ---------------------------------------------------------------------


def is_long(graph: Graph) -> bool:
    """Whether running a graph's program may take some 20 us or more. Read off the graph, since
    programs from the disk have no loops to look at. Ops with code of their own (control flow,
    sorting, LAPACK) have no bound here."""
    left: float = LONG
    for node in topological(graph.outputs, lambda n: n.args):
        if node.op.fusion == "opaque":
            return True
        sizes = [_size(n.type) for n in (node, *node.args)]
        if node.op.fusion == "contraction":
            left -= math.sqrt(math.prod(sizes))  # m k n: each is an axis of two of the three
        else:
            cost = node.op.row.scalar.cost if isinstance(node.op, Elementwise) else 1
            left -= max(sizes) * cost + OVERHEAD
        if left < 0:
            return True
    return False


def _size(type: Any) -> float:
    """Elements of a node's type, without bound if an extent is not known."""
    if isinstance(type, tuple):
        return sum(map(_size, type))
    size = type.size
    return float(static(size)) if is_static(size) else math.inf
