"""Calls of compiled functions that never enter Python.

Knows how CPython finds a type's vectorcall, where the structs of this CPython and this NumPy keep
what the entry point reads, and that all of it is checked before it is trusted. Refuses to know
what an entry point does (`codegen.entry`) and what a signature's tables say
(`runtime.signatures`).

An instance of a `fast_called` class has two words more: the address of the native function, null
while there are no signatures, and the signatures. Whatever they do not describe, and everything
where the checks fail, is served by the class's own `__call__`.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_ssize_t, c_uint, c_void_p, py_object
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy._core import _multiarray_umath

from tilewright import dtypes, forks, tracing, trees
from tilewright.codegen import entry
from tilewright.codegen.entry_tables import CONTEXT, Layout
from tilewright.runtime import cache, jit, memory, signatures
from tilewright.runtime.signatures import Record, Seen
from tilewright.target import host

ABI: Final = 0x2000000
"""The version of NumPy's binary interface whose table of functions we know: that of NumPy 2."""
API: Final = {"version": 0, "array_type": 2, "new_scalar": 60, "new_array": 94}
"""Places in NumPy's table of functions (numpy/__multiarray_api.h)."""

WORD: Final = 8

FIRST: Final = 8
"""Calls of one signature after which native code is loaded."""
MOST: Final = 64
"""Signatures of one function that native code serves. They are tried in turn, a few ns each."""

CHECKS: Final = 5
"""Times that references are counted before they are believed to be wrong."""

T = TypeVar("T", bound=type)


class Unsupported(Exception):
    """Native calls are not possible in this process; the text says why."""


@functools.cache
def unsupported() -> str | None:
    """Why this interpreter can have no native calls; None if it can."""
    if sys.implementation.name != "cpython":
        return f"the interpreter is {sys.implementation.name}"
    if struct.calcsize("P") != WORD or sys.byteorder != "little":
        return "pointers are not 64 bits wide and little-endian"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "without the GIL, arguments may change while they are read"
    return None


# -- types ---------------------------------------------------------------------------------------


class _Member(ctypes.Structure):
    """PyMemberDef."""

    _fields_ = [
        ("name", c_char_p), ("type", c_int), ("offset", c_ssize_t), ("flags", c_int),
        ("doc", c_char_p),
    ]  # fmt: skip


class _Slot(ctypes.Structure):
    """PyType_Slot."""

    _fields_ = [("slot", c_int), ("pointer", c_void_p)]


class _Spec(ctypes.Structure):
    """PyType_Spec."""

    _fields_ = [
        ("name", c_char_p), ("basicsize", c_int), ("itemsize", c_int), ("flags", c_uint),
        ("slots", ctypes.POINTER(_Slot)),
    ]  # fmt: skip


_BASETYPE, _HAVE_VECTORCALL, _METHOD_DESCRIPTOR, _DEFAULT = 1 << 10, 1 << 11, 1 << 17, 1 << 18
_TP_NEW, _TP_MEMBERS, _T_PYSSIZET, _READONLY = 65, 72, 19, 1

_described: Final[list[Any]] = []
"""What types were made from; CPython keeps pointers to it."""

_vectorcall_at: Final[dict[type, int]] = {}
"""Where instances of the types made here keep their two words."""


def fast_called(cls: T) -> T:
    """Class decorator: a subclass whose instances a `Chain` can give native calls.

    The class must define `__call__`, and its `__get__`, if any, must bind as a function's does:
    `x.f(y)` reaches native code as `f(x, y)`. Where `unsupported`, the class itself.
    """
    if unsupported() is not None:
        return cls
    offset = cls.__basicsize__
    members = (_Member * 2)(_Member(b"__vectorcalloffset__", _T_PYSSIZET, offset, _READONLY, None))
    slots = (_Slot * 2)(_Slot(_TP_MEMBERS, ctypes.addressof(members)))
    name = f"{cls.__module__}.{cls.__name__}".encode()
    flags = _DEFAULT | _BASETYPE | _HAVE_VECTORCALL
    if hasattr(cls, "__get__"):
        flags |= _METHOD_DESCRIPTOR
    spec = _Spec(name, offset + 2 * WORD, 0, flags, slots)
    make = ctypes.pythonapi.PyType_FromSpecWithBases
    make.restype, make.argtypes = py_object, [c_void_p, py_object]
    made: Any = make(ctypes.addressof(spec), (cls,))
    made.__doc__, made.__qualname__ = cls.__doc__, cls.__qualname__
    _described.extend((members, slots, name, spec))
    _vectorcall_at[made] = offset
    return made  # type: ignore[no-any-return]


class Chain:
    """The signatures of one function that native code serves, the newest first."""

    def __init__(self, function: Any) -> None:
        """`function` must outlive the chain's use: it holds the chain, which knows its address."""
        cls = next((c for c in type(function).__mro__ if c in _vectorcall_at), None)
        self._cls = cls
        self._at = 0 if cls is None else id(function) + _vectorcall_at[cls]
        self._records: tuple[Record, ...] = ()
        self._snapshot: _Snapshot | None = None
        self._lock = forks.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def is_due(self, runs: int) -> bool:
        """Whether to look if native code can serve a signature that Python has run so often: when
        it comes for the second time, and if it keeps coming, whenever its number has doubled. The
        process's first signature must come more often: native code takes milliseconds to load."""
        if self._cls is None or runs == 0 or runs & (runs - 1):
            return False
        return runs >= FIRST or self._cls in _natives

    def add(self, seen: Seen) -> bool:
        """Serve calls like this one natively from now on, if they can be."""
        native = None if self._cls is None else _native(self._cls)
        if native is None:
            return False
        try:
            record = signatures.record(seen)
        except signatures.Unsuited:
            return False
        with self._lock:
            if any(r.accepted == record.accepted for r in self._records):
                return False  # the call went through Python for another reason
            self._show((record, *self._records[: MOST - 1]), native)
        return True

    def clear(self) -> None:
        """Forget all signatures. Calls under way end undisturbed."""
        with self._lock:
            if self._snapshot is not None:
                self._set(0, 0)
            self._records, self._snapshot = (), None

    def _show(self, records: tuple[Record, ...], native: Native) -> None:
        snapshot = _Snapshot(records, native)
        self._set(native.entry, ctypes.addressof(snapshot.words))
        self._records, self._snapshot = records, snapshot

    def _set(self, entry: int, snapshot: int) -> None:
        """Signatures are there before, and gone after, the function that reads them."""
        words = (c_ssize_t * 2).from_address(self._at)
        if entry:
            words[1] = snapshot
            words[0] = entry
        else:
            words[0] = 0
            words[1] = 0

    def __del__(self) -> None:
        # Only the function holds us, so its memory is still there, and it may still be called.
        self._cls = None
        self.clear()


class _Snapshot:
    """The signatures at one time. A call holds the one it started with."""

    def __init__(self, records: Sequence[Record], native: Native) -> None:
        self.kept = (records, native)
        addresses = [ctypes.addressof(r.words) for r in records]
        head = [id(self), ctypes.addressof(native.context), len(records)]
        self.words = (c_ssize_t * (len(head) + len(addresses)))(*head, *addresses)


# -- native code ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Native:
    """The entry point in this process, and what all signatures of a class share."""

    entry: int
    context: Any
    kept: tuple[Any, ...]


_natives: Final[dict[type, Native | None]] = {}
_reasons: Final[list[str]] = []
_lock = threading.RLock()


@forks.in_child
def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


def reason() -> str | None:
    """Why calls do not run natively in this process; None as long as nothing stands against it."""
    return unsupported() or (_reasons[0] if _reasons else None)


def _native(cls: type) -> Native | None:
    """The entry point for a class, made and checked when first asked for."""
    with _lock:
        if cls not in _natives:
            try:
                _natives[cls] = _made(cls)
            except Unsupported as error:
                _natives[cls] = None
                _reasons.append(str(error))
        return _natives[cls]


def _made(cls: type) -> Native:
    layout = checked_layout(_vectorcall_at[cls] + WORD)
    api = checked_api()
    loaded = _loaded(entry.print_entry(layout))
    slot = ctypes.pythonapi.PyType_GetSlot
    slot.restype, slot.argtypes = c_void_p, [py_object, c_int]
    context = {
        "fallback": id(cls.__call__),
        "scopes": id(tracing.OPEN),
        "array_type": id(np.ndarray),
        "new_array": api["new_array"],
        "new_scalar": api["new_scalar"],
        "recycled": id(memory.recycled),
        "empty": id(memory.empty),
        "block": id(memory.block),
        "page": memory.ALIGN,
        "none": id(None),
        "new_object": slot(object, _TP_NEW),
        "nothing": id(()),
    }
    words = (c_ssize_t * len(CONTEXT))(*(context[name] for name in CONTEXT))
    functions = (memory.recycled, memory.empty, memory.block)
    native = Native(loaded.address, words, (cls.__call__, tracing.OPEN, *functions))
    check_calls(cls, native)
    return native


def _loaded(text: str) -> jit.Loaded:
    """The module in memory; its machine code is kept on disk."""
    name, target, store = jit.symbol(text), host(), cache.store()
    key = cache.key(text, target)
    found = None if store is None else store.get(key)
    if found is None:
        code = jit.object_code(text.replace(f"@{entry.ENTRY}(", f"@{name}("), target)
        found = cache.Entry((code,), (), 0)
        if store is not None:
            store.put(key, found)
    return jit.load(found.objects, name, target)


def _word(at: int) -> int:
    return c_ssize_t.from_address(at).value


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Unsupported(f"{what} otherwise than known")


def checked_layout(snapshot: int) -> Layout:
    """Where structs keep things, seen in objects whose contents are known.

    **Raises:** `Unsupported` if something is elsewhere.
    """
    layout = Layout(object.__basicsize__, tuple.__basicsize__, snapshot)
    probe = object()
    count = c_ssize_t.from_address(id(probe)).value
    _require(count == sys.getrefcount(probe) - 1, "reference counts are kept")
    for items, place in (
        ((probe, None), layout.tuple_items),
        ([probe, None], layout.list_items),
    ):
        _require(_word(id(items) + layout.size) == 2, "sizes are kept")
        at = id(items) + place
        first = at if type(items) is tuple else _word(at)
        _require(_word(first) == id(probe) and _word(first + WORD) == id(None), "items are kept")
        _require(_word(id(items) + layout.type) == id(type(items)), "types are kept")
    _check_arrays(layout)
    numbers = [np.array(3).astype(d)[()] for d in dtypes.SHORT]
    for x in (2.5, 1 - 2j, *numbers):
        seen = ctypes.string_at(id(x) + layout.head, np.asarray(x).nbytes)
        _require(seen == np.asarray(x).tobytes(), f"numbers of type {type(x).__name__} are kept")
    return layout


def _check_arrays(layout: Layout) -> None:
    _require(np.ndarray.__basicsize__ >= layout.array("weak") + WORD, "arrays are kept")
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    unaligned = np.frombuffer(bytes(9), np.float64, 1, 1)
    for a in (whole, whole[1:, ::2], whole.T, np.zeros((), np.int8), unaligned, np.zeros((0, 3))):
        at = id(a)
        seen = [_word(at + layout.array(f)) for f in ("data", "base", "descr")]
        wanted = [
            a.__array_interface__["data"][0],
            0 if a.base is None else id(a.base),
            id(a.dtype),
        ]
        _require(seen == wanted, "arrays are kept")
        nd, flags = (c_int.from_address(at + layout.array(f)).value for f in ("nd", "flags"))
        _require(nd == a.ndim and flags == a.flags.num, "arrays are kept")
        for name, values in (("dims", a.shape), ("strides", a.strides)):
            start = _word(at + layout.array(name))
            _require(
                all(_word(start + WORD * i) == n for i, n in enumerate(values)), "arrays are kept"
            )


def checked_api() -> dict[str, int]:
    """Addresses of the functions of NumPy that native code calls.

    **Raises:** `Unsupported` if NumPy's table is not as known.
    """
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = c_void_p, [py_object, c_char_p]
    table = pointer(_multiarray_umath._ARRAY_API, None)
    found = {name: _word(table + WORD * place) for name, place in API.items()}
    _require(ctypes.CFUNCTYPE(c_uint)(found["version"])() == ABI, "NumPy's binary interface is")
    _require(found["array_type"] == id(np.ndarray), "NumPy's table is ordered")
    return found


# -- the check -----------------------------------------------------------------------------------

_PROBE = np.dtype(np.float32)


def _probe_program(address: int, _begin: int, _end: int) -> None:
    """What a compiled program would do: (x, y, k, n) -> x + k, y, n + 1, ones, by pointers, of
    which the last is planned memory."""
    x, y, k, n, sums, same, count, ones, arena = (_word(address + WORD * i) for i in range(9))
    ctypes.memset(arena, 1, memory.LARGE)
    ctypes.memmove(ones, arena, memory.LARGE)
    read = ctypes.POINTER(ctypes.c_float)
    for i in range(8):
        ctypes.cast(sums, read)[i] = ctypes.cast(x, read)[i] + ctypes.cast(k, read)[0]
    ctypes.memmove(same, y, 6 * WORD)
    c_ssize_t.from_address(count).value = _word(n) + 1


def _probe_call(program: int) -> tuple[Seen, Callable[[], tuple[Any, ...]]]:
    """A call with leaves and containers of all kinds, and what it must give."""
    x, y = np.arange(8, dtype=_PROBE), np.arange(6.0).reshape(2, 3)
    args, kwargs = ((x, [y]),), {"k": np.float32(2), "n": 41}
    result = {"b": (0, [1]), "a": 2, "large": 3}
    large = (memory.LARGE,), np.dtype(np.uint8)
    tree = trees.structure(result)
    seen = Seen(
        args,
        kwargs,
        trees.structure((args, kwargs)),
        (_PROBE, y.dtype, _PROBE, dtypes.int64),
        (),
        (((8,), _PROBE), ((2, 3), y.dtype), ((), dtypes.int64), large),
        tree,
        tuple(trees.leaves(result)),
        program,
        memory.LARGE,
        True,
    )
    wanted = {"a": np.int64(42), "b": (x + 2, [y]), "large": np.ones(*large)}
    return seen, lambda: (args, kwargs, wanted)


def check_calls(cls: type, native: Native) -> None:
    """One call through everything: arguments, results, references.

    **Raises:** `Unsupported` if anything is not as Python would have it.
    """
    program = ctypes.CFUNCTYPE(None, c_void_p, ctypes.c_int64, ctypes.c_int64)(_probe_program)
    seen, expected = _probe_call(ctypes.cast(program, c_void_p).value or 0)
    function = cls.__new__(cls)
    chain = Chain(function)
    record = signatures.record(seen)
    args, kwargs, wanted = expected()
    held = [*args, *trees.leaves((args, kwargs)), *kwargs, _PROBE, list, dict, record]

    def counts() -> list[int]:
        return [sys.getrefcount(x) for x in held]

    def kept() -> bool:
        """Whether calls leave as many references as there were."""
        before = counts()
        chain._show((record,), native)
        try:
            same = all(_alike(function(*args, **kwargs), wanted) for _ in range(3))
        except (TypeError, AttributeError) as error:  # it went to the function's own Python path
            raise Unsupported("calls are made otherwise than known") from error
        finally:
            chain.clear()
        _require(same, "calls end")
        return before == counts()

    # Types and dtypes are everyone's: another thread, or the garbage collector, may let go of one
    # meanwhile. What calls do wrong they do every time.
    _require(any(kept() for _ in range(CHECKS)), "references are counted")


def _alike(found: Any, wanted: Any) -> bool:
    """Whether two trees have the same containers and the same arrays and numbers in them."""
    if trees.structure(found) != trees.structure(wanted):
        return False
    pairs = zip(trees.leaves(found), trees.leaves(wanted), strict=True)
    return all(type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
