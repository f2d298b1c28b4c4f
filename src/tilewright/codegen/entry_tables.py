"""The tables by which the native entry point serves calls, and how its text reads them.

Knows the fields of a signature's record, the operations of its three codes and where CPython's and
NumPy's structs keep things (as parameters). Refuses to know what is done with them
(`codegen.entry`) and where they come from (`runtime.dispatch`).

Tables are 64-bit words. A signature has three codes, each a sequence of operations that ends with
DONE: `take` reads the arguments' trees into registers and checks every leaf, `give` makes the
arrays that the program writes, `make` builds what the caller gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

RECORD: Final = (
    "positional",  # number of positional arguments
    "keywords",  # number of keyword arguments
    "names",  # their names, in the order of the registers they go to
    "constants",  # objects that follow the arguments in the registers
    "constant_count",
    "take",
    "give",
    "make",
    "values",  # how many registers hold arguments and their parts
    "pointers",  # how many pointers the program is given
    "scratch",  # how many slots of 16 bytes hold numbers
    "held",  # how many references are kept until the program has run, at most
    "results",  # how many registers hold results and what is built of them
    "result",  # which of them is what the caller gets
    "arena_bytes",  # planned memory: on the stack,
    "arena_size",  # or, if this is not null, a block of this many bytes (a number object),
    "arena_newer",  # one of the last two it had, or null
    "arena_older",
    "program",
    "release",  # whether others may run Python meanwhile
    "hold",  # whether Python code may run between the checks and the program's end
)
"""The fields of a signature's record, one word each."""

CONTEXT: Final = (
    "fallback",  # the Python path: a function of the compiled function and its arguments
    "scopes",  # the list of open tracing scopes
    "array_type",  # numpy.ndarray
    "new_array",  # the address of NumPy's PyArray_NewFromDescr
    "new_scalar",  # and of PyArray_Scalar
    "recycled",  # Python's choice among the blocks of memory that are kept
    "empty",  # its allocator of large results, where no more blocks can be kept,
    "block",  # and of large arenas
    "page",  # what is in a block begins at a multiple of this
    "none",  # None
    "new_object",  # the address of what object.__new__ is in C
    "nothing",  # an empty tuple
)
"""What all signatures share, one word each."""

SNAPSHOT: Final = ("owner", "context", "count")
"""The signatures of one function: the object that keeps them alive, the context, how many there
are, and then their records, of which the first that fits is taken."""


class Take(IntEnum):
    """Operations on arguments: [operation, source, destination, type, n, ...].

    The object in register `source` must be of exactly this type. The parts of a container go to
    registers from `destination` on; a leaf's address goes to that pointer of the program.
    """

    DONE = 0
    TUPLE = 1  # n items
    LIST = 2
    DICT = 3  # the keys, in the order of iteration
    FIELDS = 4  # the names of attributes
    IS = 5  # instead of the type: the very object
    ARRAY = 6  # n axes; descriptor, dims: contiguous in C order and aligned
    NUMBER = 7  # a Python float or complex, or a NumPy scalar: its value is in the object
    INT = 8  # scratch slot n
    BOOL = 9  # scratch slot n; True


class Give(IntEnum):
    """Operations that find memory for results: [operation, register, pointer, n, ...].

    An array is new if `earlier` is null. Else it is a list of the last two, the newer first, and
    one of these is used again if only `count` references are left, which are ours. If `templates`
    is not null, its two dicts hold the same two arrays under `key`.
    """

    DONE = 0
    ARRAY = 1  # n axes; descriptor, flags, earlier, count, templates, key, dims, strides
    SCRATCH = 2  # scratch slot n
    LARGE = 3  # n axes; descriptor, the last two blocks, the arguments of `empty`, dims


class Make(IntEnum):
    """Operations that build the result: [operation, register, n, x, ...].

    A source is 2 * register, or that + 1 where the register is needed again.
    """

    DONE = 0
    SCALAR = 1  # of scratch slot n; x: the descriptor
    OBJECT = 2  # x itself
    TUPLE = 3  # n sources
    LIST = 4
    DICT = 5  # x: two dicts with the same keys; n times key, source, and null or a list: the
    # values that the two dicts have for the key, which need not be set if they are the source's
    FIELDS = 6  # x: the class; n pairs of attribute name and source
    CALL = 7  # x: what is called with n sources


@dataclass(frozen=True)
class Layout:
    """Where CPython's and NumPy's structs keep what the entry point reads; offsets in bytes."""

    head: int
    """Size of a plain object: reference count and type. Sizes, data, items come after it."""
    tuple_items: int
    snapshot: int
    """Where a compiled function keeps the pointer to its signatures."""

    @property
    def type(self) -> int:
        return self.head - 8

    @property
    def size(self) -> int:
        return self.head

    @property
    def list_items(self) -> int:
        return self.head + 8

    def array(self, field: str) -> int:
        """The offset of a field of PyArrayObject."""
        fields = ("data", "nd", "dims", "strides", "base", "descr", "flags", "weak")
        return self.head + 8 * fields.index(field)


def word(name: str, base: str, index: int | str, kind: str = "i64") -> str:
    """Load a word of a table."""
    at = f"  {name}.at = getelementptr i64, ptr {base}, i64 {index}"
    return f"{at}\n  {name} = load {kind}, ptr {name}.at"


def field(
    name: str, of: str, kind: str = "i64", table: tuple[str, ...] = RECORD, called: str = ""
) -> str:
    """Load the record's (or another table's) field of that name."""
    return word(f"%{called or name}", of, table.index(name), kind)


def at(name: str, base: str, offset: int, kind: str = "ptr") -> str:
    """Load a struct's field."""
    at = f"  {name}.at = getelementptr i8, ptr {base}, i64 {offset}"
    return f"{at}\n  {name} = load {kind}, ptr {name}.at"


def cases(operations: type[IntEnum]) -> str:
    return " ".join(f"i64 {o.value}, label %{o.name.lower()}" for o in operations)
