"""Every op on arrays, by name, with the examples its laws are tested on.

A plain list, in one place, so that an op that is not tested is an op that is not here. Control flow
and calls of sub-graphs have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tilewright.ops import elementwise
from tilewright.ops.attention import Attention, AttentionGradient
from tilewright.ops.contract import Conv, Dot
from tilewright.ops.cumulative import Cumulative, Recurrence
from tilewright.ops.indexing import DynamicSlice, DynamicUpdateSlice, Gather, Scatter
from tilewright.ops.linalg import (
    LU,
    QR,
    SVD,
    Cholesky,
    Eigh,
    Eigvalsh,
    Svdvals,
    TriangularSolve,
)
from tilewright.ops.order import OrderStatistics, TopK
from tilewright.ops.reduce import (
    ArgMax,
    ArgMin,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMin,
    ReduceProd,
)
from tilewright.ops.samples import Example
from tilewright.ops.searching import Count, Nonzero, SearchSorted
from tilewright.ops.shape import (
    Broadcast,
    Cast,
    Concatenate,
    Constant,
    Fill,
    Flip,
    Iota,
    Pad,
    ReduceSum,
    Reshape,
    Slice,
    Transpose,
    UnitArrays,
)
from tilewright.ops.sort import Argsort, Sort

CLASSES: Final = (
    Fill, Constant, Iota, UnitArrays,
    Cast, Broadcast, Reshape, Transpose, Slice, Pad, Concatenate, Flip,
    ReduceSum, ReduceProd, ReduceMax, ReduceMin, ReduceAll, ReduceAny, ArgMax, ArgMin,
    Dot, Conv, Attention, AttentionGradient,
    Gather, Scatter, DynamicSlice, DynamicUpdateSlice,
    Cumulative, Recurrence, Sort, Argsort,
    TopK, OrderStatistics, Count, SearchSorted, Nonzero,
    TriangularSolve, Cholesky, LU, QR, Eigh, Eigvalsh, SVD, Svdvals,
)  # fmt: skip
"""Ops with attributes: one class each."""

ALL: Final[dict[str, Callable[[], list[Example]]]] = {
    **{op.name: op.examples for op in elementwise.ALL},
    **{cls.__name__: cls.examples for cls in CLASSES},
}
"""Name -> examples. Elementwise ops go by their NumPy name, the others by their class's."""
