"""The NumPy namespace on traced arrays: `import tilewright.numpy as np`.

Knows which names there are, and the table through which NumPy's own functions find theirs when
they meet a traced array. Outside a trace every function that NumPy has is NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import ml_dtypes
import numpy as _np
from numpy import (
    absolute, acos, acosh, add, arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh, asin,
    asinh, atan, atan2, atanh, bitwise_and, bitwise_count, bitwise_invert, bitwise_left_shift,
    bitwise_not, bitwise_or, bitwise_right_shift, bitwise_xor, bool, bool_, broadcast_shapes, cbrt,
    ceil, complex64, complex128, complexfloating, conj, conjugate, copysign, cos, cosh, deg2rad,
    degrees, divide, dtype, e, equal, euler_gamma, exp, exp2, expm1, finfo, float16, float32,
    float64, floating, floor, floor_divide, fmax, fmin, fmod, greater, greater_equal, heaviside,
    hypot, iinfo, inexact, inf, int8, int16, int32, int64, integer, invert, isdtype, isfinite,
    isinf, isnan, isscalar, issubdtype, left_shift, less, less_equal, log, log1p, log2, log10,
    logaddexp, logaddexp2, logical_and, logical_not, logical_or, logical_xor, maximum, minimum,
    mod, multiply, nan, ndarray, negative, newaxis, nextafter, not_equal, number, pi, positive,
    pow, power, promote_types, rad2deg, radians, reciprocal, remainder, right_shift, rint, s_,
    sign, signbit, signedinteger, sin, sinh, sqrt, square, subtract, tan, tanh, tril_indices,
    triu_indices, diag_indices, true_divide, trunc, uint8, uint16, uint32, uint64,
    unsignedinteger, hamming, hanning, blackman, bartlett, kaiser,
)  # fmt: skip

from tilewright.numpy import (
    comparing, creation, einsum as _einsum, linalg, pointwise, products, reductions, searching,
    shaping, statistics,
)  # fmt: skip
from tilewright.numpy.comparing import (
    allclose, array_equal, array_equiv, can_cast, common_type, iscomplexobj, isclose, isin,
    isrealobj, min_scalar_type, result_type,
)  # fmt: skip
from tilewright.numpy.creation import (
    arange, array, asarray, astype_ as astype, copy, diag, diagflat, diagonal, empty, empty_like,
    eye, fill_diagonal, fromfunction, full, full_like, geomspace, identity, indices, linspace,
    logspace, meshgrid, ones, ones_like, trace, tri, tril, triu, vander, zeros, zeros_like,
)  # fmt: skip
from tilewright.numpy.einsum import einsum
from tilewright.numpy.pointwise import (
    angle, clip, divmod_ as divmod, fabs, fix, float_power, gcd, i0, imag, iscomplex, isneginf,
    isposinf, isreal, lcm, ldexp, modf, nan_to_num, real, real_if_close, round, sinc, unwrap,
    where,
)  # fmt: skip
from tilewright.numpy.products import (
    convolve, correlate, cross, dot, inner, kron, matmul, matvec, outer, polyadd, polyder, polymul,
    polyval, tensordot, vdot, vecdot, vecmat,
)  # fmt: skip
from tilewright.numpy.reductions import (
    all_ as all, any_ as any, argmax, argmin, average, count_nonzero, cumprod, cumsum,
    cumulative_prod, cumulative_sum, diff, ediff1d, gradient, max, mean, min, nanargmax, nanargmin,
    nancumprod, nancumsum, nanmax, nanmean, nanmin, nanprod, nanstd, nansum, nanvar, prod, ptp,
    std, sum, trapezoid, var,
)  # fmt: skip
from tilewright.numpy.searching import (
    argpartition, argsort, argwhere, bincount, choose, compress, copyto, digitize, extract,
    flatnonzero, interp, lexsort, nonzero, partition, piecewise, put, put_along_axis, putmask,
    ravel_multi_index, searchsorted, select, setdiff1d, sort, take, take_along_axis, union1d,
    unique, unravel_index,
)  # fmt: skip
from tilewright.numpy.shaping import (
    append, array_split, atleast_1d, atleast_2d, atleast_3d, block, broadcast_arrays, broadcast_to,
    column_stack, concatenate, delete, dsplit, dstack, expand_dims, flip, fliplr, flipud, hsplit,
    hstack, insert, matrix_transpose, moveaxis, ndim, pad, ravel, repeat, reshape, resize, roll,
    rollaxis, rot90, shape, size, split, squeeze, stack, swapaxes, tile, transpose, unstack,
    vsplit, vstack,
)  # fmt: skip
from tilewright.numpy.statistics import (
    corrcoef, cov, histogram, histogram2d, histogram_bin_edges, median, nanmedian, nanpercentile,
    nanquantile, percentile, quantile,
)  # fmt: skip

abs, amax, amin, around, concat, permute_dims = absolute, max, min, round, concatenate, transpose
bfloat16: Final = ml_dtypes.bfloat16

_MODULES: Final = (
    comparing, creation, _einsum, linalg, pointwise, products, reductions, searching, shaping,
    statistics,
)  # fmt: skip

FUNCTIONS: Final[dict[Any, Callable[..., Any]]] = {
    numpys: ours
    for module in _MODULES
    for ours in vars(module).values()
    for numpys in getattr(ours, "implements", ())
}
"""NumPy function -> its meaning on traced arrays. Ufuncs that are a row of the elementwise table
are not listed; ufuncs made of others (matmul, divmod, float_power, ...) are."""

ALTERNATIVES: Final[dict[Any, str]] = {
    _np.unique_values: "tilewright.numpy.unique(x, size=n)",
    _np.unique_counts: "tilewright.numpy.unique(x, size=n)",
    _np.intersect1d: "np.isin with np.where, which keeps the shape",
    _np.setxor1d: "np.isin with np.where, which keeps the shape",
    _np.apply_along_axis: "tilewright.vmap",
    _np.apply_over_axes: "the reduction's own axis=(...)",
    _np.trim_zeros: "a slice with static bounds",
    _np.array2string: "tilewright.debug.print",
    _np.array_repr: "tilewright.debug.print",
    _np.array_str: "tilewright.debug.print",
    _np.save: "returning the array and saving it outside",
    _np.savez: "returning the arrays and saving them outside",
    _np.savetxt: "returning the array and saving it outside",
    _np.linalg.eig: "np.linalg.eigh for symmetric matrices",
    _np.linalg.eigvals: "np.linalg.eigvalsh for symmetric matrices",
    _np.place: "np.where(mask, values, x), or np.putmask",
    _np.polyfit: "np.linalg.lstsq(np.vander(x, degree + 1), y)",
    _np.require: "np.asarray",
    _np.shares_memory: "nothing: traced arrays never share memory",
    _np.may_share_memory: "nothing: traced arrays never share memory",
}
"""NumPy function without a meaning on traced arrays -> what to use instead."""
