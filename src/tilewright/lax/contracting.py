"""dot_general and the convolutions, with lax's dimension numbers and paddings.

Knows how layouts are spelled ("NHWC", "HWIO", or positions) and what SAME means. The work is one
Dot or one Conv, whose layout is [batch, channels, *spatial].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tilewright.errors import ShapeMismatch, UnsupportedFunction
from tilewright.expr import static
from tilewright.numpy.protocol import promoted, staged
from tilewright.numpy.shaping import flip, swapaxes
from tilewright.ops.contract import Conv, Dot
from tilewright.ops.shape import Transpose, inverse
from tilewright.tracing import Array, astype

ArrayLike = Any
Padding = str | Sequence[tuple[int, int]]


class ConvDimensionNumbers(NamedTuple):
    """Where each operand has (batch, feature, *spatial), the window (out, in, *spatial)."""

    lhs_spec: tuple[int, ...]
    rhs_spec: tuple[int, ...]
    out_spec: tuple[int, ...]


def _typed(lhs: ArrayLike, rhs: ArrayLike, preferred: Any) -> tuple[Array, Array]:
    a, b = promoted(lhs, rhs)
    return (
        (a, b)
        if preferred is None
        else (astype(a, np.dtype(preferred)), astype(b, np.dtype(preferred)))
    )


# -- dot ---------------------------------------------------------------------------------------


@staged
def dot_general(lhs: ArrayLike, rhs: ArrayLike, dimension_numbers: Any, precision: Any = None,
                preferred_element_type: Any = None) -> Array:  # fmt: skip
    """Sum of products over ((lhs, rhs) contracted axes), along ((lhs, rhs) batch axes). The result
    has the batch axes, then lhs's others, then rhs's."""
    (over, batch) = dimension_numbers
    left, right, left_batch, right_batch = (tuple(int(d) for d in axes) for axes in (*over, *batch))
    a, b = _typed(lhs, rhs, preferred_element_type)
    pairs = [*zip(left, right, strict=True), *zip(left_batch, right_batch, strict=True)]
    if any(a.shape[i] != b.shape[j] for i, j in pairs):
        raise ShapeMismatch(
            f"dot_general: paired extents differ in {dimension_numbers}", a.shape, b.shape
        )
    return Dot(left, right, left_batch, right_batch)(a, b)


@staged
def dot(lhs: ArrayLike, rhs: ArrayLike, *, dimension_numbers: Any = None, precision: Any = None,
        preferred_element_type: Any = None) -> Array:  # fmt: skip
    """The product of vectors and matrices, or `dot_general` if dimension numbers are given."""
    if dimension_numbers is None:
        a, b = promoted(lhs, rhs)
        if not (1 <= a.ndim <= 2 and 1 <= b.ndim <= 2):
            raise ShapeMismatch("lax.dot needs vectors or matrices", a.shape, b.shape)
        dimension_numbers = (((a.ndim - 1,), (0,)), ((), ()))
    return dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type)


@staged
def batch_matmul(lhs: ArrayLike, rhs: ArrayLike, precision: Any = None) -> Array:
    """Products of the matrices in the last two axes; the axes before them are equal."""
    a, b = promoted(lhs, rhs)
    lead = tuple(range(a.ndim - 2))
    return Dot((a.ndim - 1,), (b.ndim - 2,), lead, lead)(a, b)


# -- convolution -------------------------------------------------------------------------------


def padtype_to_pads(
    in_shape: Sequence[int],
    window_shape: Sequence[int],
    window_strides: Sequence[int],
    padding: str,
) -> list[tuple[int, int]]:
    """(low, high) per axis for SAME (out = ceil(in / stride)), SAME_LOWER and VALID."""
    kind = padding.upper()
    if kind == "VALID":
        return [(0, 0)] * len(in_shape)
    if kind not in ("SAME", "SAME_LOWER"):
        raise ValueError(f"padding must be SAME, SAME_LOWER, VALID or pairs, got {padding!r}")
    pads = []
    for n, k, s in zip(in_shape, window_shape, window_strides, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if kind == "SAME" else (more, less))
    return pads


def _spread(extents: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The extents of windows whose elements are `dilation` apart."""
    return [0 if k == 0 else (k - 1) * d + 1 for k, d in zip(extents, dilation, strict=True)]


def conv_dimension_numbers(lhs_shape: Sequence[Any], rhs_shape: Sequence[Any],
                           dimension_numbers: Any) -> ConvDimensionNumbers:  # fmt: skip
    """Positions of the axes from None (NCHW, OIHW, NCHW), a tuple of three strings, or positions.
    The spatial axes of all three follow the order of the window's."""
    n = len(lhs_shape)
    if n != len(rhs_shape):
        raise ShapeMismatch(
            "convolution needs operands with equally many axes", lhs_shape, rhs_shape
        )
    if dimension_numbers is None:
        return ConvDimensionNumbers(*(tuple(range(n)),) * 3)
    if not isinstance(dimension_numbers[0], str):
        return ConvDimensionNumbers(*(tuple(spec) for spec in dimension_numbers))
    lhs, rhs, out = dimension_numbers
    if any(len(spec) != n for spec in dimension_numbers):
        raise ShapeMismatch(
            f"dimension numbers {dimension_numbers} do not fit", lhs_shape, rhs_shape
        )
    spatial = [c for c in rhs if c not in "OI"]

    def positions(spec: str, first: str) -> tuple[int, ...]:
        return tuple(spec.index(c) for c in (*first, *spatial))

    return ConvDimensionNumbers(positions(lhs, "NC"), positions(rhs, "OI"), positions(out, "NC"))


@staged
def conv_general_dilated(lhs: ArrayLike, rhs: ArrayLike, window_strides: Sequence[int],
                         padding: Padding, lhs_dilation: Sequence[int] | None = None,
                         rhs_dilation: Sequence[int] | None = None, dimension_numbers: Any = None,
                         feature_group_count: int = 1, batch_group_count: int = 1,
                         precision: Any = None,
                         preferred_element_type: Any = None) -> Array:  # fmt: skip
    """Correlation of images with windows over any number of spatial axes; see `ops.contract.Conv`
    for the parameters and `conv_dimension_numbers` for the layouts."""
    if batch_group_count != 1:
        raise UnsupportedFunction(
            "conv_general_dilated with batch_group_count", "feature_group_count"
        )
    a, b = _typed(lhs, rhs, preferred_element_type)
    spec = conv_dimension_numbers(a.shape, b.shape, dimension_numbers)
    x, w = Transpose(spec.lhs_spec)(a), Transpose(spec.rhs_spec)(b)
    ones = (1,) * (a.ndim - 2)
    grow, apart = tuple(lhs_dilation or ones), tuple(rhs_dilation or ones)
    if isinstance(padding, str):
        sizes = _spread([static(n) for n in x.shape[2:]], grow)
        window = _spread([static(n) for n in w.shape[2:]], apart)
        padding = padtype_to_pads(sizes, window, window_strides, padding)
    if x.shape[1] != w.shape[1] * feature_group_count or w.shape[0] % feature_group_count:
        raise ShapeMismatch(
            f"convolution in {feature_group_count} groups: image channels must be the window's"
            " times the groups", a.shape, b.shape,
        )  # fmt: skip
    pads = tuple((int(low), int(high)) for low, high in padding)
    op = Conv(tuple(window_strides), pads, grow, apart, feature_group_count)
    return Transpose(inverse(spec.out_spec))(op(x, w))


@staged
def conv(lhs: ArrayLike, rhs: ArrayLike, window_strides: Sequence[int], padding: str,
         precision: Any = None, preferred_element_type: Any = None) -> Array:  # fmt: skip
    """`conv_general_dilated` in the layout NCHW, OIHW, without dilation."""
    return conv_general_dilated(lhs, rhs, window_strides, padding,
                                preferred_element_type=preferred_element_type)  # fmt: skip


@staged
def conv_with_general_padding(lhs: ArrayLike, rhs: ArrayLike, window_strides: Sequence[int],
                              padding: Padding, lhs_dilation: Sequence[int] | None,
                              rhs_dilation: Sequence[int] | None, precision: Any = None,
                              preferred_element_type: Any = None) -> Array:  # fmt: skip
    """`conv_general_dilated` in the layout NCHW, OIHW."""
    return conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
                                preferred_element_type=preferred_element_type)  # fmt: skip


_CHANNELS_LAST = {
    3: ("NHC", "HIO", "NHC"),
    4: ("NHWC", "HWIO", "NHWC"),
    5: ("NHWDC", "HWDIO", "NHWDC"),
}


def _transposed_padding(k: int, s: int, padding: str) -> tuple[int, int]:
    """Padding with which a convolution of the dilated image undoes that of a strided one."""
    if padding.upper() == "SAME":
        total = k + s - 2
        low = k - 1 if s > k - 1 else -(-total // 2)
    elif padding.upper() == "VALID":
        total, low = k + s - 2 + max(k - s, 0), k - 1
    else:
        raise ValueError(f"padding must be SAME, VALID or pairs, got {padding!r}")
    return low, total - low


@staged
def conv_transpose(lhs: ArrayLike, rhs: ArrayLike, strides: Sequence[int], padding: Padding,
                   rhs_dilation: Sequence[int] | None = None, dimension_numbers: Any = None,
                   transpose_kernel: bool = False, precision: Any = None,
                   preferred_element_type: Any = None) -> Array:  # fmt: skip
    """The fractionally strided convolution ("deconvolution"): the image is dilated by `strides`.
    Layout NHWC, HWIO unless given. With `transpose_kernel` it is the transpose of `conv`."""
    a, b = promoted(lhs, rhs)
    dimension_numbers = dimension_numbers or _CHANNELS_LAST.get(a.ndim)
    spec = conv_dimension_numbers(a.shape, b.shape, dimension_numbers)
    apart = tuple(rhs_dilation or (1,) * (a.ndim - 2))
    if isinstance(padding, str):
        window = _spread([static(b.shape[d]) for d in spec.rhs_spec[2:]], apart)
        padding = [_transposed_padding(k, s, padding) for k, s in zip(window, strides, strict=True)]
    if transpose_kernel:
        b = swapaxes(flip(b, spec.rhs_spec[2:]), spec.rhs_spec[0], spec.rhs_spec[1])
    ones = (1,) * (a.ndim - 2)
    return conv_general_dilated(a, b, ones, padding, strides, apart, spec,
                                preferred_element_type=preferred_element_type)  # fmt: skip
