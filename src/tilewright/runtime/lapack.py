"""The LAPACK that NumPy itself uses in this process.

Knows where NumPy's builds keep it, how its names are spelt and how wide its integers are. Refuses
to know what the routines compute (`ops/linalg_calls`). The library is the one that NumPy's own
`_umath_linalg` was linked to, so that compiled programs get the same signs and orders.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator, Mapping
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.linalg import _umath_linalg  # type: ignore[attr-defined]

from tilewright.target import Lapack

ROUTINES: Final = tuple(
    kind + name
    for kind in "sd"
    for name in ("getrf", "potrf", "geqrf", "orgqr", "syevd", "gesdd", "trsm", "trsv")
)
"""The routines programs may call, of the BLAS too. A routine without an address is not offered."""

SPELLINGS: Final = (
    "scipy_{}_64_", "{}_64_", "{}$NEWLAPACK$ILP64", "scipy_{}_", "{}_", "{}$NEWLAPACK",
)  # fmt: skip
"""NumPy's wheels, builds with 64-bit integers, Apple's Accelerate; the same with 32 bits."""


@dataclass(frozen=True)
class Library:
    """A loaded LAPACK: what programs may call, and the address of every symbol they call it by."""

    offered: Lapack
    addresses: Mapping[str, int]


@functools.cache
def library() -> Library | None:
    """NumPy's LAPACK, or None if it exports none (a NumPy built with its own reference code)."""
    for path in _files():
        found = opened(path)
        if found is not None:
            return found
    return None


def symbols(code: bytes) -> Mapping[str, int]:
    """Addresses of the routines that an object calls: what is imported costs time by the piece."""
    found = library()
    known = {} if found is None else found.addresses
    return {name: at for name, at in known.items() if name.encode() + b"\0" in code}


def opened(path: str) -> Library | None:
    """The LAPACK in a shared library or in those it depends on; None if there is none."""
    try:
        handle = ctypes.CDLL(path)
    except OSError:
        return None
    for spelling in SPELLINGS:
        found = {}
        for routine in ROUTINES:
            try:
                function = getattr(handle, spelling.format(routine))
            except AttributeError:
                continue
            found[routine] = ctypes.cast(function, c_void_p).value or 0
        width = _integer_bytes(found["dgetrf"]) if "dgetrf" in found else None
        if width is not None:
            offered = Lapack(width, frozenset(found))
            return Library(offered, {offered.symbol(r): a for r, a in found.items()})
    return None


def _files() -> Iterator[str]:
    """NumPy's extension module, whose dependencies are searched too where the system does that,
    then the libraries that wheels bring along."""
    yield _umath_linalg.__file__
    root = Path(np.__file__).parent
    for folder in (root.parent / "numpy.libs", root / ".dylibs", root / ".libs"):
        yield from sorted(str(p) for p in folder.glob("*openblas*"))


def _integer_bytes(getrf: int) -> int | None:
    """4 or 8, whatever the name says, seen from how the routine writes the pivots (2, 2).

    Arguments are 64 bits wide, of which a routine with narrow integers reads the lower half.
    """
    if sys.byteorder != "little":
        return None
    n, info = c_int64(2), c_int64(0)
    matrix, pivots = (ctypes.c_double * 4)(1, 2, 3, 4), (c_int64 * 2)(0, 0)
    arguments = (ctypes.byref(n), ctypes.byref(n), matrix, ctypes.byref(n), pivots)
    ctypes.CFUNCTYPE(None, *[c_void_p] * 6)(getrf)(
        *(ctypes.cast(a, c_void_p) for a in (*arguments, ctypes.byref(info)))
    )
    widths = {(2, 2): 8, (2 | 2 << 32, 0): 4}
    return widths.get((pivots[0], pivots[1]))
