"""JAX's lax: explicit array functions and control flow, with JAX's names and signatures.

Knows the names only; each function stands in the module of its theme. Where lax and NumPy agree,
the function is NumPy's, which promotes and broadcasts.
"""

from __future__ import annotations

from numpy import (
    absolute as abs, add, arccos as acos, arccosh as acosh, arcsin as asin, arcsinh as asinh,
    arctan as atan, arctan2 as atan2, arctanh as atanh, bitwise_and, bitwise_not, bitwise_or,
    bitwise_xor, broadcast_shapes, cbrt, ceil, conjugate as conj, cos, cosh, equal as eq, exp,
    exp2, expm1, floor, fmod as rem, greater as gt, greater_equal as ge, isfinite as is_finite,
    left_shift as shift_left, less as lt, less_equal as le, log, log1p, maximum as max,
    minimum as min, multiply as mul, negative as neg, nextafter, not_equal as ne, power as pow,
    reciprocal, right_shift as shift_right_arithmetic, sign, sin, sinh, sqrt, square,
    subtract as sub, tan, tanh,
)  # fmt: skip

from tilewright.control import (
    associative_scan, cond, fori_loop, map, scan, switch, while_loop,
)  # fmt: skip
from tilewright.lax.arranging import (
    broadcast, broadcast_in_dim, broadcasted_iota, collapse, concatenate, dynamic_index_in_dim,
    dynamic_slice, dynamic_slice_in_dim, dynamic_update_index_in_dim, dynamic_update_slice,
    dynamic_update_slice_in_dim, expand_dims, full, index_in_dim, index_take, iota, pad, reshape,
    rev, slice, slice_in_dim, squeeze, transpose,
)  # fmt: skip
from tilewright.lax.contracting import (
    ConvDimensionNumbers, batch_matmul, conv, conv_dimension_numbers, conv_general_dilated,
    conv_transpose, conv_with_general_padding, dot, dot_general, padtype_to_pads,
)  # fmt: skip
from tilewright.lax.pointwise import (
    bitcast_convert_type, clamp, clz, convert_element_type, digamma, div, erf, erf_inv, erfc,
    integer_pow, lgamma, logistic, optimization_barrier, population_count, round, rsqrt, select,
    select_n, shift_right_logical, stop_gradient,
)  # fmt: skip
from tilewright.lax.reducing import (
    argmax, argmin, cumlogsumexp, cummax, cummin, cumprod, cumsum, reduce, reduce_and, reduce_max,
    reduce_min, reduce_or, reduce_prod, reduce_sum, reduce_window, sort, sort_key_val, top_k,
)  # fmt: skip
from tilewright.numpy.pointwise import imag, real

__all__ = [name for name in dir() if not name.startswith("_") and name != "annotations"]
