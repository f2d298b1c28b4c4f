"""Bitcast: the bits of an array read as another type of the same width.

Knows nothing of widths that differ: `lax.bitcast_convert_type` splits and joins with shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import Expr, Extent, bitcast
from tilewright.graph import Op, Type, View
from tilewright.ops.samples import Example, samples


@dataclass(frozen=True)
class Bitcast(Op):
    """The same bits as type `to`, which has the operand's width. Carries no derivative."""

    to: DType

    def type(self, x: Type) -> Type:
        exotic = dtypes.is_complex(x.dtype) or dtypes.is_complex(self.to)
        if x.dtype.itemsize != self.to.itemsize or exotic or dtypes.is_bool(self.to):
            raise InternalError(f"cannot read the bits of {x!r} as {dtypes.short(self.to)}")
        return x.with_dtype(self.to)

    def numpy(self, x: Any) -> Any:
        return np.ascontiguousarray(x).view(self.to).reshape(x.shape)

    def jvp(self, tangents: Sequence[Any], out: Any, *args: Any) -> Any:
        return None

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        return self(*args)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        return bitcast(args[0][idx], self.to)

    @classmethod
    def examples(cls) -> list[Example]:
        pairs = [
            (dtypes.float32, dtypes.uint32), (dtypes.uint32, dtypes.float32),
            (dtypes.float64, dtypes.int64), (dtypes.int64, dtypes.uint64),
            (dtypes.float16, dtypes.uint16), (dtypes.uint16, dtypes.bfloat16),
        ]  # fmt: skip
        found = [Example((samples(a, (3, 5)),), cls(b)) for a, b in pairs]
        f32, u32 = dtypes.float32, dtypes.uint32
        found += [Example((samples(f32, s),), cls(u32)) for s in ((), (0, 3), (1,), (13,))]
        return [*found, Example((samples(f32, (6, 4)).T[::2],), cls(u32))]
