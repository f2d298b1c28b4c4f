"""The functions that programs share, in this process.

Knows which of them an object calls, and loads each with the first program that does. Refuses to
know what they do (`codegen.shared`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tilewright.codegen import llvm, shared
from tilewright.loops import Function
from tilewright.runtime import cache, jit
from tilewright.target import Target


def symbols(code: bytes, target: Target) -> Mapping[str, int]:
    """Addresses of the functions that an object for a target calls."""
    if shared.PREFIX.encode() not in code:
        return {}
    called = [name for name in shared.functions(target) if name.encode() + b"\0" in code]
    return {name: address(name, target) for name in called}


@functools.cache
def address(name: str, target: Target) -> int:
    """Where a shared function is."""
    return jit.load(cache.object_code(text(name, target), target), name, target).address


def text(name: str, target: Target) -> str:
    """The module of a shared function."""
    f = shared.functions(target)[name]
    return llvm.print_function(f, target) if isinstance(f, Function) else f()
