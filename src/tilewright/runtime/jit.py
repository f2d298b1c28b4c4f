"""From LLVM IR text to machine code in this process.

Knows llvmlite: parsing, code generation, on several threads where a program is large, and linking;
no pass rewrites the text as printed. Refuses to know what the code means. Code is never unloaded:
an engine lives as long as the process, so a pointer to a function is valid forever.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from tilewright import forks
from tilewright.codegen import modules
from tilewright.codegen.llvm_values import AS_PRINTED
from tilewright.errors import InternalError
from tilewright.target import Target

OPT_LEVEL: Final = 1
"""How much LLVM's generator improves code: the bytes are those of 2 and 3."""
PLAIN_LEVEL: Final = 0
"""And where it need not improve any function, and what counts are nests (`codegen.nests`), whose
registers are chosen already: in half the time. (Running sums, which have none, ran at 0.95.)"""
NEST: Final = " asm "
PLAIN_CHARACTERS: Final = 8_000
"""From so many characters on such functions are a module of their own: beside others they would be
generated at the other level. A module more takes a millisecond."""
PART_CHARACTERS: Final = 16_000
"""A thread's least share of a program's text: some ten milliseconds of code generation, against
one for the thread, its target machine and one more object to link."""

_lock = threading.RLock()
forks.wait_for(_lock)  # LLVM's own locks are free while nobody holds ours
_linked: list[Any] = []
_serial = itertools.count()


@functools.cache
def _llvm() -> Any:
    """llvmlite's binding. Loading it takes as long as importing all of ours: it waits until there
    is something to compile."""
    with forks.importing:
        import llvmlite.binding

    return llvmlite.binding


@functools.cache
def versions() -> str:
    """What machine code depends on besides the text and the target."""
    with forks.importing:
        import llvmlite

        return f"llvmlite {llvmlite.__version__} LLVM {_llvm().llvm_version_info}"


@functools.cache
def _backend(triple: str) -> Any:
    """LLVM's generator of code for a triple. All generators there are take 15 ms to initialize,
    this machine's own 0.4, and it is the one that every process needs."""
    if triple == _llvm().get_process_triple():
        _llvm().initialize_native_target()
        _llvm().initialize_native_asmprinter()
        _llvm().initialize_native_asmparser()  # for instructions that are written out
    else:
        _llvm().initialize_all_targets()
        _llvm().initialize_all_asmprinters()
    return _llvm().Target.from_triple(triple)


def _level(text: str, target: Target) -> int:
    """The level a module is generated at."""
    plain = f"\n{text}".count("\ndefine ") == text.count(AS_PRINTED)
    return PLAIN_LEVEL if plain and NEST in text else OPT_LEVEL


@functools.cache
def _machine(target: Target, level: int = OPT_LEVEL) -> Any:
    return _new_machine(target, level)


def _new_machine(target: Target, level: int) -> Any:
    return _backend(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=level, reloc="pic", codemodel="small"
    )


@functools.cache
def _engine(target: Target) -> Any:
    """One linker for all code of a target; its own machine, since an engine owns its machine."""
    machine = _backend(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=OPT_LEVEL, jit=True
    )
    # Not RuntimeDyld, which maps the sections of an object one by one: in a process that has used
    # up the addresses nearby (large arrays, many threads' stacks) they end up beyond the 2 GB that
    # their references to each other span. JITLink takes one piece of memory for all.
    return _llvm().create_lljit_compiler(machine, use_jit_link=True)


@dataclass(frozen=True)
class Loaded:
    """A function in memory: of an array of pointers, and of a stretch of rounds, which is empty
    where all is to be done."""

    name: str
    address: int
    function: Callable[[Any, int, int], None]

    def call(self, given: Any) -> None:
        """Do everything with an array of `pointers`."""
        self.function(given, 0, 0)


@functools.cache
def _head(target: Target) -> str:
    """What a module says of its target: a line, so that errors name the lines after it. To be
    parsed with the rest, it is cheaper than to be set."""
    machine = _machine(target)
    layout = f'target datalayout = "{machine.target_data}"'
    return f'{layout} target triple = "{machine.triple}" '


def parsed(text: str, target: Target, context: Any = None, verify: bool = True) -> Any:
    """The module in a context, LLVM's global one if None.

    **Raises:** `InternalError` if it is not LLVM IR, or breaks its rules and `verify` is set.
    """
    try:
        module = _llvm().parse_assembly(_head(target) + text, context)
        if verify:
            module.verify()
    except RuntimeError as e:
        raise InternalError(f"LLVM rejects the printed program: {e}") from None
    return module


def assembly(text: str, target: Target) -> str:
    """The machine's assembly of a module, or of the two that it is made as."""
    with _lock:
        return "\n".join([
            str(_machine(target, _level(t, target)).emit_assembly(parsed(t, target)))
            for t in _kinds(text)
        ])  # fmt: skip


def object_code(text: str, target: Target, verify: bool = True) -> bytes:
    """The relocatable object of a module."""
    with _lock:
        machine = _machine(target, _level(text, target))
        return bytes(machine.emit_object(parsed(text, target, verify=verify)))


def objects(text: str, target: Target, threads: int, verify: bool) -> tuple[bytes, ...]:
    """The relocatable objects that are a module together, made on at most `threads` threads."""
    parts = [p for t in _kinds(text) for p in modules.split(t, threads, PART_CHARACTERS)]
    found: dict[int, bytes] = {}
    left = deque(enumerate(parts))

    def work() -> None:
        while left:
            try:
                k, part = left.popleft()
            except IndexError:  # another thread had it
                return
            found[k] = _apart(part, target, verify)

    with _lock, contextlib.ExitStack() as others:
        jobs: list[Any] = []
        if (count := min(threads, len(parts)) - 1) > 0:
            pool = others.enter_context(ThreadPoolExecutor(count))
            # Where there are no new threads (none are left, or Python is ending) this one does all.
            with contextlib.suppress(RuntimeError):
                jobs.extend(pool.submit(work) for _ in range(count))
        if not jobs:
            return tuple(object_code(part, target, verify) for part in parts)
        work()
        for j in jobs:
            j.result()
    return tuple(found[k] for k in range(len(parts)))


def _kinds(text: str) -> list[str]:
    """A module as those that are generated at one level each."""
    kinds = modules.apart(text, AS_PRINTED, PLAIN_CHARACTERS) if NEST in text else [text]
    return kinds if NEST in kinds[0] else [text]


def _apart(text: str, target: Target, verify: bool) -> bytes:
    """An object made with nothing that another thread uses, so LLVM needs no lock."""
    module = parsed(text, target, _llvm().context.create_context(), verify)
    return _emitted(_new_machine(target, _level(text, target)), module)


def _emitted(machine: Any, module: Any) -> bytes:
    """What `machine.emit_object` gives, without llvmlite's lock around all of LLVM. Where llvmlite
    keeps the bare function elsewhere, with it: then threads take turns."""
    locked = _llvm().ffi.lib.LLVMPY_TargetMachineEmitToMemory
    bare = getattr(locked, "_cfn", locked)
    with _llvm().ffi.OutputString() as message:
        buffer = bare(machine, module, 1, message)
        if not buffer:
            raise InternalError(f"LLVM generates no code: {message}")
    try:
        size = _llvm().ffi.lib.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(_llvm().ffi.lib.LLVMPY_GetBufferStart(buffer), size)
    finally:
        _llvm().ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def symbol(text: str) -> str:
    """A name for a module's entry: its content's hash, so that equal programs are equal."""
    return "tw_" + hashlib.sha256(text.encode()).hexdigest()[:24]


def load(
    code: bytes | Sequence[bytes],
    name: str,
    target: Target,
    symbols: Mapping[str, int] = MappingProxyType({}),
) -> Loaded:
    """Link an object, or several that call each other, and find the function `name`, see
    `load_all`."""
    return load_all((code,) if isinstance(code, bytes) else code, (name,), target, symbols)[0]


def load_all(
    code: Sequence[bytes],
    names: Sequence[str],
    target: Target,
    symbols: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Loaded, ...]:
    """Link objects that call each other, and find the functions `names`. `symbols` are the
    addresses of the functions they call that are not the process's own.

    **Raises:** `InternalError` if they are no objects, or something they call is nowhere.
    """
    with _lock:
        library = _llvm().JITLibraryBuilder().add_current_process()
        for part in code:
            library.add_object_img(part)
        for function, at in symbols.items():
            library.import_symbol(function, at)
        for name in names:
            library.export_symbol(name)
        try:
            linked = library.link(_engine(target), f"{names[0]}.{next(_serial)}")
        except RuntimeError as e:
            raise InternalError(f"LLVM cannot link the program: {e}") from None
        _linked.append(linked)  # dropping it would unload the code
        found = {name: linked[name] for name in names}
    for name, address in found.items():
        if not address:
            raise InternalError(f"the linked object has no function {name}")
    of = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    return tuple(Loaded(name, address, of(address)) for name, address in found.items())


def pointers(addresses: Sequence[int]) -> Any:
    """The argument of `Loaded.call`. Every call has one of its own, so calls may overlap."""
    return (ctypes.c_void_p * len(addresses))(*addresses)
