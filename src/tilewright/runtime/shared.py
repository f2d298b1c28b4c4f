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
    return {name: address(name, target) for name in _called(code, target)}


def _called(code: bytes, target: Target) -> list[str]:
    """The shared functions that an object names."""
    if shared.PREFIX.encode() not in code:
        return []
    return [name for name in shared.functions(target) if name.encode() + b"\0" in code]


@functools.cache
def address(name: str, target: Target) -> int:
    """Where a shared function is."""
    code = cache.object_code(text(name, target), target)
    others = {n: address(n, target) for n in _called(code, target) if n != name}
    return jit.load(code, name, target, others).address


def text(name: str, target: Target) -> str:
    """The module of a shared function."""
    f = shared.functions(target)[name]
    return llvm.print_function(f, target) if isinstance(f, Function) else f()
