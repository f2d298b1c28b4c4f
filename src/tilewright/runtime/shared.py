"""The functions that programs share, in this process.

Knows which of them an object calls, and loads each with the first program that does. Refuses to
know what they do (`codegen.shared`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tilewright.codegen import llvm, shared
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


def address(name: str, target: Target) -> int:
    """Where a shared function is."""
    return _loaded(shared.together(name), target)[name]


@functools.cache
def _loaded(names: tuple[str, ...], target: Target) -> Mapping[str, int]:
    """Where the functions of a module are."""
    code = cache.named_object(" ".join(names), target, lambda: text(names[0], target))
    others = {n: address(n, target) for n in _called(code, target) if n not in names}
    return {f.name: f.address for f in jit.load_all((code,), names, target, others)}


def text(name: str, target: Target) -> str:
    """The module of a shared function."""
    found = [shared.functions(target)[n]() for n in shared.together(name)]
    texts = [x for x in found if isinstance(x, str)]
    functions = [x for x in found if not isinstance(x, str)]
    return "\n".join([*texts, *([llvm.print_functions(functions, target)] if functions else [])])
