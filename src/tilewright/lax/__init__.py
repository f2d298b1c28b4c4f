"""JAX's lax: explicit array functions and control flow, with JAX's names and signatures.

Knows the names only; each function stands in the module of its theme. Where lax and NumPy agree,
the function is NumPy's, which promotes and broadcasts.
"""

from __future__ import annotations

from numpy import (
    absolute as abs,
)  # fmt: skip
from numpy import (
    add,
    bitwise_and,
    bitwise_not,
    bitwise_or,
    bitwise_xor,
    broadcast_shapes,
    cbrt,
    ceil,
    cos,
    cosh,
    exp,
    exp2,
    expm1,
    floor,
    log,
    log1p,
    nextafter,
    reciprocal,
    sign,
    sin,
    sinh,
    sqrt,
    square,
    tan,
    tanh,
)
from numpy import (
    arccos as acos,
)
from numpy import (
    arccosh as acosh,
)
from numpy import (
    arcsin as asin,
)
from numpy import (
    arcsinh as asinh,
)
from numpy import (
    arctan as atan,
)
from numpy import (
    arctan2 as atan2,
)
from numpy import (
    arctanh as atanh,
)
from numpy import (
    conjugate as conj,
)
from numpy import (
    equal as eq,
)
from numpy import (
    fmod as rem,
)
from numpy import (
    greater as gt,
)
from numpy import (
    greater_equal as ge,
)
from numpy import (
    isfinite as is_finite,
)
from numpy import (
    left_shift as shift_left,
)
from numpy import (
    less as lt,
)
from numpy import (
    less_equal as le,
)
from numpy import (
    maximum as max,
)
from numpy import (
    minimum as min,
)
from numpy import (
    multiply as mul,
)
from numpy import (
    negative as neg,
)
from numpy import (
    not_equal as ne,
)
from numpy import (
    power as pow,
)
from numpy import (
    right_shift as shift_right_arithmetic,
)
from numpy import (
    subtract as sub,
)

from tilewright.control import (
    associative_scan,
    cond,
    fori_loop,
    map,
    scan,
    switch,
    while_loop,
)  # fmt: skip
from tilewright.lax.arranging import (
    broadcast,
    broadcast_in_dim,
    broadcasted_iota,
    collapse,
    concatenate,
    dynamic_index_in_dim,
    dynamic_slice,
    dynamic_slice_in_dim,
    dynamic_update_index_in_dim,
    dynamic_update_slice,
    dynamic_update_slice_in_dim,
    expand_dims,
    full,
    index_in_dim,
    index_take,
    iota,
    pad,
    reshape,
    rev,
    slice,
    slice_in_dim,
    squeeze,
    transpose,
)  # fmt: skip
from tilewright.lax.contracting import (
    ConvDimensionNumbers,
    batch_matmul,
    conv,
    conv_dimension_numbers,
    conv_general_dilated,
    conv_transpose,
    conv_with_general_padding,
    dot,
    dot_general,
    padtype_to_pads,
)  # fmt: skip
from tilewright.lax.pointwise import (
    bitcast_convert_type,
    clamp,
    clz,
    convert_element_type,
    digamma,
    div,
    erf,
    erf_inv,
    erfc,
    integer_pow,
    lgamma,
    logistic,
    optimization_barrier,
    population_count,
    round,
    rsqrt,
    select,
    select_n,
    shift_right_logical,
    stop_gradient,
)  # fmt: skip
from tilewright.lax.reducing import (
    argmax,
    argmin,
    cumlogsumexp,
    cummax,
    cummin,
    cumprod,
    cumsum,
    reduce,
    reduce_and,
    reduce_max,
    reduce_min,
    reduce_or,
    reduce_prod,
    reduce_sum,
    reduce_window,
    sort,
    sort_key_val,
    top_k,
)  # fmt: skip
from tilewright.numpy.pointwise import imag, real
