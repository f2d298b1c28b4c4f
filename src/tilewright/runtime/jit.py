"""From LLVM IR text to machine code in this process.

Knows llvmlite: parsing, code generation and linking; no pass rewrites the text as printed. Refuses
to know what the code means. Code is never unloaded: an engine lives as long as the process, so a
pointer to a function is valid forever.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import llvmlite.binding as llvm

from tilewright.errors import InternalError
from tilewright.target import Target

OPT_LEVEL = 1
_lock = threading.RLock()
_linked: list[Any] = []


@functools.cache
def _initialized() -> bool:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return True


@functools.cache
def _machine(target: Target) -> Any:
    _initialized()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=OPT_LEVEL, reloc="pic", codemodel="small"
    )


@functools.cache
def _engine(target: Target) -> Any:
    """One linker for all code of a target; its own machine, since an engine owns its machine."""
    _initialized()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=OPT_LEVEL, jit=True
    )
    return llvm.create_lljit_compiler(machine)


@dataclass(frozen=True)
class Loaded:
    """A function in memory: call it with an array of pointers."""

    name: str
    address: int
    call: Callable[[Any], None]


def parsed(text: str, target: Target) -> Any:
    """The parsed and verified module."""
    _initialized()
    try:
        module = llvm.parse_assembly(text)
        module.triple = target.triple
        module.data_layout = str(_machine(target).target_data)
        module.verify()
    except RuntimeError as e:
        raise InternalError(f"LLVM rejects the printed program: {e}") from None
    return module


def assembly(text: str, target: Target) -> str:
    """The machine's assembly of a module."""
    with _lock:
        return str(_machine(target).emit_assembly(parsed(text, target)))


def object_code(text: str, target: Target) -> bytes:
    """The relocatable object of a module."""
    with _lock:
        return bytes(_machine(target).emit_object(parsed(text, target)))


def symbol(text: str) -> str:
    """A name for a module's entry: its content's hash, so that equal programs are equal."""
    return "tw_" + hashlib.sha256(text.encode()).hexdigest()[:24]


def load(
    code: bytes, name: str, target: Target, symbols: Mapping[str, int] = MappingProxyType({})
) -> Loaded:
    """Link an object and find its function `name`. `symbols` are the addresses of the functions it
    calls that are not the process's own."""
    with _lock:
        library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        for function, at in symbols.items():
            library.import_symbol(function, at)
        linked = library.export_symbol(name).link(_engine(target), f"{name}.{len(_linked)}")
        _linked.append(linked)  # dropping it would unload the code
        address = linked[name]
    if not address:
        raise InternalError(f"the linked object has no function {name}")
    return Loaded(name, address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address))


def pointers(addresses: Sequence[int]) -> Any:
    """The argument of `Loaded.call`. Every call has one of its own, so calls may overlap."""
    return (ctypes.c_void_p * len(addresses))(*addresses)
