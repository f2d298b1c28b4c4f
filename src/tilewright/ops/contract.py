"""Contractions: Dot (matrix products with batch axes) and Conv (N-dimensional convolution).

Knows both as a sum of products at one output position, and their duals, which are again
contractions. Refuses to know tiles, packing and how the sum is ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.errors import InternalError
from tilewright.expr import Axis, Expr, Extent, Reduce, apply, as_index, axis, cast, select, static
from tilewright.graph import Op, Type, View
from tilewright.ops.base import sizes, without
from tilewright.ops.elementwise import number
from tilewright.ops.samples import Example, numbers, of_kinds, samples
from tilewright.ops.shape import Flip, Pad, Reshape, Transpose, crops, inverse, moved

Axes = tuple[int, ...]


def summed(over: tuple[Axis, ...], a: Expr, b: Expr) -> Expr:
    """Sum of a * b over axes: 16-bit floats accumulate in float32, bools are any(a and b)."""
    if dtypes.is_bool(a.type):
        return Reduce("any", over, apply("and", a, b)) if over else apply("and", a, b)
    wide = dtypes.compute_type(a.type)
    product = apply("mul", cast(a, wide), cast(b, wide))
    return cast(Reduce("sum", over, product) if over else product, a.type)


# -- dot ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dot(Op):
    """Sum of products over paired axes; `lax.dot_general` with NumPy's dtypes.

    Axes `lhs_contract[i]` and `rhs_contract[i]` are summed over, `lhs_batch[i]` and `rhs_batch[i]`
    run together. Result axes: batch, then lhs's others, then rhs's others.
    """

    lhs_contract: Axes
    rhs_contract: Axes
    lhs_batch: Axes = ()
    rhs_batch: Axes = ()
    linear_in: ClassVar[Axes] = (0, 1)
    multilinear: ClassVar[bool] = True
    fusion: ClassVar[str] = "contraction"

    def type(self, lhs: Type, rhs: Type) -> Type:
        ours, theirs = (*self.lhs_contract, *self.lhs_batch), (*self.rhs_contract, *self.rhs_batch)
        met, meeting = [lhs.shape[d] for d in ours], [rhs.shape[d] for d in theirs]
        if lhs.dtype != rhs.dtype or met != meeting:
            raise InternalError(f"cannot contract {lhs!r} with {rhs!r} over {ours} and {theirs}")
        batch = [lhs.shape[d] for d in self.lhs_batch]
        rows = [n for d, n in enumerate(lhs.shape) if d not in ours]
        columns = [n for d, n in enumerate(rhs.shape) if d not in theirs]
        return lhs.with_shape((*batch, *rows, *columns))

    def free(self, lhs: Any, rhs: Any) -> tuple[Axes, Axes]:
        """Axes of each operand that are neither summed over nor batch."""
        return (
            without(range(len(lhs.shape)), (*self.lhs_contract, *self.lhs_batch)),
            without(range(len(rhs.shape)), (*self.rhs_contract, *self.rhs_batch)),
        )

    def numpy(self, lhs: Any, rhs: Any) -> Any:
        lhs_free, rhs_free = self.free(lhs, rhs)
        wide = dtypes.compute_type(lhs.dtype)
        a = lhs.transpose(*self.lhs_batch, *lhs_free, *self.lhs_contract).astype(wide)
        b = rhs.transpose(*self.rhs_batch, *self.rhs_contract, *rhs_free).astype(wide)
        batch = [lhs.shape[d] for d in self.lhs_batch]
        rows, columns = [lhs.shape[d] for d in lhs_free], [rhs.shape[d] for d in rhs_free]
        inner = int(np.prod([lhs.shape[d] for d in self.lhs_contract]))
        a = a.reshape((*batch, int(np.prod(rows)), inner))
        b = b.reshape((*batch, inner, int(np.prod(columns))))
        with np.errstate(all="ignore"):
            return np.matmul(a, b).reshape((*batch, *rows, *columns)).astype(lhs.dtype)

    def transpose(self, ct: Any, linear: frozenset[int], lhs: Any, rhs: Any) -> Sequence[Any]:
        if 0 in linear:
            return self._to_lhs(ct, lhs, rhs), None
        swapped = Dot(self.rhs_contract, self.lhs_contract, self.rhs_batch, self.lhs_batch)
        nb, (lf, rf) = len(self.lhs_batch), self.free(lhs, rhs)
        batch, rows = range(nb), range(nb, nb + len(lf))
        columns = range(nb + len(lf), nb + len(lf) + len(rf))
        return None, swapped._to_lhs(Transpose((*batch, *columns, *rows))(ct), rhs, lhs)

    def _to_lhs(self, ct: Any, lhs: Any, rhs: Any) -> Any:
        """ct contracted with rhs over rhs's free axes, its axes put where they are in lhs."""
        nb, (lf, rf) = len(self.lhs_batch), self.free(lhs, rhs)
        tail = tuple(range(nb + len(lf), nb + len(lf) + len(rf)))
        grown = Dot(tail, rf, tuple(range(nb)), self.rhs_batch)(ct, rhs)
        # Its axes are: batch, lhs's free ones, rhs's contracted ones in rhs's order.
        by_rhs = sorted(range(len(self.rhs_contract)), key=lambda i: self.rhs_contract[i])
        order = (*self.lhs_batch, *lf, *(self.lhs_contract[i] for i in by_rhs))
        return Transpose(inverse(order))(grown)

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        lhs, rhs = args
        left, right = (int(b) for b in batched)
        op = Dot(
            tuple(a + left for a in self.lhs_contract),
            tuple(a + right for a in self.rhs_contract),
            tuple(a + left for a in self.lhs_batch),
            tuple(a + right for a in self.rhs_batch),
        )
        if left and right:
            return replace(op, lhs_batch=(0, *op.lhs_batch), rhs_batch=(0, *op.rhs_batch))(lhs, rhs)
        lhs_free, _ = op.free(lhs, rhs)
        return moved(op(lhs, rhs), len(op.lhs_batch) + (0 if left else len(lhs_free)), 0)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        lhs, rhs = args
        over = tuple(axis("k", lhs.shape[a]) for a in self.lhs_contract)
        lhs_free, rhs_free = self.free(lhs, rhs)
        nb, nl = len(self.lhs_batch), len(lhs_free)
        at_lhs = dict(
            zip(
                (*self.lhs_batch, *lhs_free, *self.lhs_contract),
                (*idx[: nb + nl], *over),
                strict=True,
            )
        )
        at_rhs = dict(
            zip(
                (*self.rhs_batch, *rhs_free, *self.rhs_contract),
                (*idx[:nb], *idx[nb + nl :], *over),
                strict=True,
            )
        )
        a = lhs[tuple(at_lhs[d] for d in range(len(lhs.shape)))]
        b = rhs[tuple(at_rhs[d] for d in range(len(rhs.shape)))]
        return summed(over, a, b)

    @classmethod
    def examples(cls) -> list[Example]:
        mm, f64 = cls((1,), (0,)), dtypes.float64
        found = [
            Example((samples(d, (3, 5)), samples(d, (5, 2), 1)), mm) for d in of_kinds("biufc")
        ]

        def smooth(op: Dot, a: Sequence[int], b: Sequence[int], dtype: DType = f64) -> None:
            found.append(Example((numbers(dtype, a), numbers(dtype, b, 1)), op, True))

        smooth(mm, (3, 7), (7, 5), dtypes.complex128)
        for a, b in (((3, 7), (7, 5)), ((0, 2), (2, 3)), ((2, 0), (0, 3)), ((1, 1), (1, 13))):
            smooth(mm, a, b)
        smooth(cls((2, 0), (1, 2), (1,), (3,)), (2, 3, 5, 4), (7, 5, 2, 3))
        smooth(cls((0, 1), (1, 0)), (2, 3), (3, 2))
        smooth(cls((), (), (0,), (0,)), (3, 2), (3,))
        smooth(cls((), ()), (2,), (3,))
        a, b = numbers(f64, (8, 6)), numbers(f64, (5, 8), 1)
        found.append(Example((a[::2, ::-1].T, b.T[::2]), mm, True))
        return found


# -- convolution -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv(Op):
    """Correlation over any number of spatial axes (`lax.conv_general_dilated`, layout NCHW/OIHW).

    x: [batch, channels, *spatial]; w: [out, channels / groups, *window]; result: [batch, out,
    *spatial]. `padding` is (low, high) per spatial axis (negative crops); `lhs_dilation` puts zeros
    between the elements of x, `rhs_dilation` between those of the window. Channels and outs
    fall into `groups` consecutive parts that do not mix.
    """

    strides: Axes
    padding: tuple[tuple[Extent, Extent], ...]
    lhs_dilation: Axes
    rhs_dilation: Axes
    groups: int = 1
    linear_in: ClassVar[Axes] = (0, 1)
    multilinear: ClassVar[bool] = True
    fusion: ClassVar[str] = "contraction"

    def type(self, x: Type, w: Type) -> Type:
        g = self.groups
        fits = x.ndim == w.ndim == len(self.strides) + 2 and x.shape[1] == w.shape[1] * g
        if x.dtype != w.dtype or not fits or w.shape[0] % g != 0:
            raise InternalError(f"cannot convolve {x!r} with {w!r} in {g} groups")
        spatial = [
            self._extent(n, k, d)
            for d, (n, k) in enumerate(zip(x.shape[2:], w.shape[2:], strict=True))
        ]
        return x.with_shape((x.shape[0], w.shape[0], *spatial))

    def _extent(self, n: Extent, k: Extent, d: int) -> Extent:
        """Number of window positions along spatial axis `d`; none if the window does not fit."""
        low, high = self.padding[d]
        room = dilated(n, self.lhs_dilation[d]) + (low + high) - dilated(k, self.rhs_dilation[d])
        if isinstance(room, int) and room < 0:
            return 0
        return room // self.strides[d] + 1

    def numpy(self, x: Any, w: Any) -> Any:
        spatial, g, wide = len(self.strides), self.groups, dtypes.compute_type(x.dtype)
        pad = Pad(
            (0, 0, *(low for low, _ in self.padding)),
            (0, 0, *(high for _, high in self.padding)),
            (0, 0, *(s - 1 for s in self.lhs_dilation)),
        )
        out = self.type(Type(x.dtype, x.shape), Type(w.dtype, w.shape))
        if 0 in out.shape or 0 in w.shape:
            return np.zeros(out.shape, x.dtype)
        x = pad.numpy(x.astype(wide), np.zeros((), wide))
        full = sizes([dilated(k, d) for k, d in zip(w.shape[2:], self.rhs_dilation, strict=True)])
        windows = np.lib.stride_tricks.sliding_window_view(x, full, tuple(range(2, spatial + 2)))
        every = slice(None), slice(None), *(slice(None, None, s) for s in self.strides)
        windows = windows[*every, *(slice(None, None, s) for s in self.rhs_dilation)]
        windows = windows.reshape(x.shape[0], g, -1, *windows.shape[2:])
        kernel = w.astype(wide).reshape(g, -1, *w.shape[1:])
        inner = list(range(3 + spatial, 3 + 2 * spatial))
        dot = Dot((2, *inner), tuple(range(2, 3 + spatial)), (1,), (0,))
        with np.errstate(all="ignore"):
            parts = dot.numpy(windows, kernel)  # [groups, batch, *spatial, out / groups]
        parts = np.moveaxis(parts, (0, -1), (1, 2))
        return np.ascontiguousarray(parts.reshape(out.shape)).astype(x.dtype).astype(out.dtype)

    def transpose(self, ct: Any, linear: frozenset[int], x: Any, w: Any) -> Sequence[Any]:
        return (self._to_x(ct, x, w), None) if 0 in linear else (None, self._to_w(ct, x, w))

    def _to_x(self, ct: Any, x: Any, w: Any) -> Any:
        """A convolution of ct, dilated by the strides, with the flipped window."""
        spatial, g = range(len(self.strides)), self.groups
        padding = []
        for d in spatial:
            low, _ = self.padding[d]
            window = dilated(w.shape[d + 2], self.rhs_dilation[d])
            room = dilated(ct.shape[d + 2], self.strides[d])
            want = dilated(x.shape[d + 2], self.lhs_dilation[d])
            before = window - 1 - low
            padding.append((before, want - room - before + window - 1))
        out, channels = w.shape[0], w.shape[1]
        window_shape = tuple(w.shape[2:])
        kernel = Flip(tuple(d + 2 for d in spatial))(w)
        kernel = Reshape((g, out // g, channels, *window_shape))(kernel)
        kernel = Transpose((0, 2, 1, *(d + 3 for d in spatial)))(kernel)
        kernel = Reshape((g * channels, out // g, *window_shape))(kernel)
        return Conv(self.lhs_dilation, tuple(padding), self.strides, self.rhs_dilation, g)(
            ct, kernel
        )

    def _to_w(self, ct: Any, x: Any, w: Any) -> Any:
        """A convolution of x with ct as the window, batch and channels having changed places."""
        spatial, g = range(len(self.strides)), self.groups
        n, channels = x.shape[0], x.shape[1]
        swapped = Transpose((1, 0, *(d + 2 for d in spatial)))
        if g == 1:
            image = swapped(x)
        else:
            image = Reshape((n, g, channels // g, *x.shape[2:]))(x)
            image = Transpose((2, 1, 0, *(d + 3 for d in spatial)))(image)
            image = Reshape((channels // g, g * n, *x.shape[2:]))(image)
        window = swapped(ct)
        padding = []
        for d in spatial:
            low, _ = self.padding[d]
            span = dilated(ct.shape[d + 2], self.strides[d])
            want = dilated(w.shape[d + 2], self.rhs_dilation[d])
            padding.append(
                (low, want + span - 1 - low - dilated(x.shape[d + 2], self.lhs_dilation[d]))
            )
        op = Conv(self.rhs_dilation, tuple(padding), self.lhs_dilation, self.strides, g)
        return swapped(op(image, window))

    def batch(self, size: Extent, batched: Sequence[bool], *args: Any) -> Any:
        (x, w), g = args, self.groups
        if batched[0] and not batched[1]:
            folded = Reshape((x.shape[0] * x.shape[1], *x.shape[2:]))(x)
            out = self(folded, w)
            return Reshape((size, out.shape[0] // size, *out.shape[1:]))(out)
        if not batched[0]:
            # The members' outs lie side by side inside each group.
            parts = Reshape((size, g, w.shape[1] // g, *w.shape[2:]))(w)
            out = self(x, Reshape((size * w.shape[1], *w.shape[2:]))(moved(parts, 0, 1)))
            out = Reshape((x.shape[0], g, size, w.shape[1] // g, *out.shape[2:]))(out)
            out = moved(out, 2, 0)
            return Reshape((size, x.shape[0], w.shape[1], *out.shape[4:]))(out)
        # Both: the members are further groups.
        side = moved(x, 0, 1)
        side = Reshape((x.shape[1], size * x.shape[2], *x.shape[3:]))(side)
        kernel = Reshape((size * w.shape[1], *w.shape[2:]))(w)
        out = replace(self, groups=g * static(size))(side, kernel)
        return moved(Reshape((x.shape[1], size, w.shape[1], *out.shape[2:]))(out), 1, 0)

    def lower(self, idx: tuple[Expr, ...], *args: View) -> Expr:
        x, w = args
        n, o, *at = idx
        channel = axis("c", w.shape[1])
        window = tuple(axis("k", k) for k in w.shape[2:])
        position: list[Expr] = []
        inside: Expr | None = None
        for d, (p, k) in enumerate(zip(at, window, strict=True)):
            where, tests = self._source(d, p, k, x.shape[d + 2], w.shape[d + 2])
            position.append(where)
            for test in tests:
                inside = test if inside is None else inside & test
        group = o // (w.shape[0] // self.groups)
        full = (n, group * w.shape[1] + channel, *position)
        if inside is None:
            value = x[full]
        else:
            value = select(inside, x.guarded(full, inside), number(0, x.dtype))
        return summed((channel, *window), value, w[(o, channel, *window)])

    def _source(
        self, d: int, p: Expr, k: Expr, n: Extent, window: Extent
    ) -> tuple[Expr, list[Expr]]:
        """The position in x that window place `k` at output place `p` reads, and what must hold for
        it to be an element of x."""
        low, high = self.padding[d]
        at = p * self.strides[d] + k * self.rhs_dilation[d] - low
        tests = []
        if not crops(low):
            tests.append(apply("le", as_index(0), at))
        if not crops(high):
            tests.append(apply("lt", at, as_index(dilated(n, self.lhs_dilation[d]))))
        step = self.lhs_dilation[d]
        if step > 1:
            tests.append(apply("eq", at % step, as_index(0)))
            at = at // step
        return at, tests

    @classmethod
    def examples(cls) -> list[Example]:
        f64 = dtypes.float64
        line = cls((1,), ((1, 1),), (1,), (1,))
        found = [
            Example((samples(d, (2, 2, 5)), samples(d, (3, 2, 3), 1)), line)
            for d in (dtypes.int32, *of_kinds("fc"))
        ]

        def smooth(op: Conv, a: Sequence[int], b: Sequence[int], dtype: DType = f64) -> None:
            found.append(Example((numbers(dtype, a), numbers(dtype, b, 1)), op, True))

        smooth(line, (1, 1, 4), (1, 1, 2), dtypes.complex128)
        smooth(line, (0, 2, 5), (3, 2, 3))
        smooth(line, (2, 0, 5), (3, 0, 3))
        smooth(cls((1,), ((0, 0),), (1,), (1,)), (1, 1, 1), (1, 1, 1))
        smooth(cls((2,), ((2, -1),), (3,), (2,)), (2, 3, 7), (2, 3, 3))
        smooth(cls((3,), ((-1, 4),), (2,), (1,), 2), (1, 4, 5), (6, 2, 2))
        plane = cls((2, 1), ((1, 1), (0, 2)), (1, 1), (1, 2), 1)
        smooth(plane, (2, 3, 5, 7), (4, 3, 3, 2))
        smooth(replace(plane, groups=3), (1, 3, 4, 5), (3, 1, 3, 2))
        smooth(
            cls((1, 2, 1), ((0, 1),) * 3, (1, 1, 1), (1, 1, 1)), (1, 2, 3, 4, 2), (2, 2, 2, 3, 2)
        )
        a, b = numbers(f64, (5, 4, 6)), numbers(f64, (3, 2, 8), 1)
        found.append(
            Example(
                (a.T[::2, ::-1], b[:, :, ::2].transpose(2, 1, 0)[..., ::-1][:, [0, 1, 0, 1]]),
                line,
                True,
            )
        )
        return found


def dilated(n: Extent, step: int) -> Extent:
    """Extent of `n` elements with `step - 1` places between neighbours."""
    return n if step == 1 or n == 0 else (n - 1) * step + 1
