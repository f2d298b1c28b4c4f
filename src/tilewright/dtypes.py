"""Element types: NumPy's own dtypes (with `ml_dtypes` for bfloat16), their short names and kinds.

Knows names, kinds, promotion (NEP 50, which is NumPy's) and what a type is computed in. Refuses to
know shapes and arrays.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np

DType = np.dtype[Any]

bool_: Final[DType] = np.dtype(np.bool_)
int8, int16, int32, int64 = (np.dtype(f"int{n}") for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{n}") for n in (8, 16, 32, 64))
float16, float32, float64 = (np.dtype(f"float{n}") for n in (16, 32, 64))
bfloat16: Final[DType] = np.dtype(ml_dtypes.bfloat16)
complex64, complex128 = np.dtype(np.complex64), np.dtype(np.complex128)

SHORT: Final[dict[DType, str]] = {
    bool_: "bool", int8: "i8", int16: "i16", int32: "i32", int64: "i64",
    uint8: "u8", uint16: "u16", uint32: "u32", uint64: "u64",
    float16: "f16", bfloat16: "bf16", float32: "f32", float64: "f64",
    complex64: "c64", complex128: "c128",
}  # fmt: skip
"""Every element type the compiler accepts, and how it is printed."""


def is_float(dtype: DType) -> bool:
    """Real floating point, bfloat16 included."""
    return dtype.kind == "f" or dtype == bfloat16


def is_complex(dtype: DType) -> bool:
    return dtype.kind == "c"


def is_inexact(dtype: DType) -> bool:
    """Types that carry a derivative."""
    return is_float(dtype) or is_complex(dtype)


def is_integer(dtype: DType) -> bool:
    """Signed or unsigned, bool excluded."""
    return dtype.kind in "iu"


def is_signed(dtype: DType) -> bool:
    return dtype.kind == "i"


def is_bool(dtype: DType) -> bool:
    return dtype.kind == "b"


def real_of(dtype: DType) -> DType:
    """The type of a complex number's parts; other types are their own."""
    return {complex64: float32, complex128: float64}.get(dtype, dtype)


def complex_of(dtype: DType) -> DType:
    """The complex type whose parts have type `dtype`."""
    return complex128 if dtype == float64 else complex64


def compute_type(dtype: DType) -> DType:
    """The type arithmetic is done in: 16-bit floats compute in float32 and round after each op."""
    return float32 if dtype in (float16, bfloat16) else dtype


def short(dtype: DType) -> str:
    """`f32` for float32, `bf16` for bfloat16; NumPy's own name for anything else."""
    found = SHORT.get(dtype)
    return dtype.name if found is None else found  # the name is computed, and not cheaply
