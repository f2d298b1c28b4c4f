"""Arrays the laws run the ops on: every dtype, the awkward shapes, the awkward numbers.

Knows which numbers break functions (NaN, infinities, signed zeros, ends of integer ranges) and how
to make reproducible ordinary ones. Refuses to know any op.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.graph import Op


class Example(NamedTuple):
    """An op and arrays to run it on; `smooth` where its derivative exists at these numbers."""

    args: tuple[Any, ...]
    op: Op
    smooth: bool = False


OF_KIND: Final[dict[str, tuple[DType, ...]]] = {
    "b": (dtypes.bool_,),
    "i": (dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64),
    "u": (dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.uint64),
    "f": (dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64),
    "c": (dtypes.complex64, dtypes.complex128),
}
"""Element types by NumPy's kind letters; bfloat16 counts as "f"."""

AWKWARD_AXES: Final[tuple[tuple[tuple[int, ...], int], ...]] = (
    ((4, 0), 1), ((0, 3), 1), ((0, 3), 0), ((1,), 0), ((1, 4), 0), ((13,), 0), ((2, 7, 3), 1),
)  # fmt: skip
"""Shapes with an axis of them: zero-size, size one, prime, in the middle."""


def of_kinds(kinds: str) -> tuple[DType, ...]:
    """All element types of the given kinds."""
    return tuple(d for kind in kinds for d in OF_KIND[kind])


def numbers(
    dtype: DType, shape: Sequence[int], seed: int = 0, low: float = -3, high: float = 3
) -> Any:
    """Ordinary numbers: small ints, floats in [low, high) that differ from each other."""
    shape = tuple(shape)
    rng = np.random.default_rng(zlib.crc32(repr((shape, seed)).encode()))
    if dtypes.is_bool(dtype):
        return rng.random(shape) < 0.5
    if dtypes.is_integer(dtype):
        return rng.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype)
    if dtypes.is_complex(dtype):
        parts = rng.uniform(low, high, (2, *shape))
        return (parts[0] + 1j * parts[1]).astype(dtype)
    n = int(np.prod(shape))
    steps = (rng.permutation(n) + rng.uniform(0.2, 0.8, n)) / max(n, 1)
    return (low + (high - low) * steps).reshape(shape).astype(dtype)


def samples(dtype: DType, shape: Sequence[int], seed: int = 0) -> Any:
    """`numbers` with about half of them replaced by awkward ones."""
    x = numbers(dtype, shape, seed)
    flat = x.reshape(-1)
    special = awkward(dtype)
    rng = np.random.default_rng(seed)
    places = rng.permutation(flat.size)[: flat.size // 2]
    flat[places] = special[np.arange(len(places)) % len(special)]
    return x


def awkward(dtype: DType) -> Any:
    """The numbers of a type that break functions."""
    if dtypes.is_bool(dtype):
        return np.array([False, True])
    if dtypes.is_integer(dtype):
        info = np.iinfo(dtype)
        return np.array([0, 1, info.min, info.max, info.max - 1], dtype)
    reals = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0]
    if dtypes.is_complex(dtype):
        return np.array([complex(np.nan, np.nan), 0, 1, -1, 1j], dtype)
    return np.array(reals).astype(dtype)
