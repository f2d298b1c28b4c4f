"""The functions that turn square tiles, in this process.

Knows which of them an object calls, and loads each with the first program that does. Refuses to
know what they do (`codegen/turning`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tilewright.codegen import turning
from tilewright.runtime import cache, jit
from tilewright.target import Target


def symbols(code: bytes, target: Target) -> Mapping[str, int]:
    """Addresses of the functions that an object for a target calls."""
    if turning.PREFIX.encode() not in code:
        return {}
    called = [name for name in turning.functions(target) if name.encode() + b"\0" in code]
    return {name: _address(name, target) for name in called}


@functools.cache
def _address(name: str, target: Target) -> int:
    text = turning.functions(target)[name]()
    return jit.load(cache.object_code(text, target), name, target).address
