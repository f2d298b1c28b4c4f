"""Initial values of parameters, with JAX's names: each call gives a function (key, shape, dtype).

Knows fans and variances. Refuses to know layers. The default dtype is float64, NumPy's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilewright import dtypes, random
from tilewright.numpy.creation import asarray, full
from tilewright.numpy.creation import ones as _ones
from tilewright.numpy.creation import zeros as _zeros
from tilewright.numpy.linalg import qr
from tilewright.numpy.protocol import staged

Initializer = Callable[..., Any]


def zeros(key: Any, shape: Sequence[int], dtype: Any = np.float64) -> Any:
    """Zeros."""
    return _zeros(tuple(shape), dtype)


def ones(key: Any, shape: Sequence[int], dtype: Any = np.float64) -> Any:
    """Ones."""
    return _ones(tuple(shape), dtype)


def constant(value: Any, dtype: Any = np.float64) -> Initializer:
    """`value` everywhere."""

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Any:
        return full(tuple(shape), value, dtype)

    return init


def uniform(scale: float = 1e-2, dtype: Any = np.float64) -> Initializer:
    """Uniform in [0, scale)."""

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Any:
        return random.uniform(key, tuple(shape), dtype) * np.dtype(dtype).type(scale)

    return init


def normal(stddev: float = 1e-2, dtype: Any = np.float64) -> Initializer:
    """Normal with mean 0."""

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Any:
        return random.normal(key, tuple(shape), dtype) * np.dtype(dtype).type(stddev)

    return init


def truncated_normal(stddev: float = 1e-2, dtype: Any = np.float64, lower: float = -2.0,
                     upper: float = 2.0) -> Initializer:  # fmt: skip
    """Normal cut off at `lower` and `upper` standard deviations."""

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Any:
        x = random.truncated_normal(key, lower, upper, tuple(shape), dtype)
        return x * np.dtype(dtype).type(stddev)

    return init


def _fans(
    shape: Sequence[int], in_axis: Any, out_axis: Any, batch_axis: Any
) -> tuple[float, float]:
    """How many inputs and outputs one element of the result of a layer is connected with."""

    def size(axes: Any) -> int:
        return math.prod(shape[a] for a in ((axes,) if isinstance(axes, int) else axes))

    inside, outside, batch = size(in_axis), size(out_axis), size(batch_axis)
    field = math.prod(shape) / max(inside * outside * batch, 1)
    return inside * field, outside * field


def variance_scaling(scale: float, mode: str, distribution: str, in_axis: Any = -2,
                     out_axis: Any = -1, batch_axis: Any = (),
                     dtype: Any = np.float64) -> Initializer:  # fmt: skip
    """Variance `scale` / fan, the fan being fan_in, fan_out, fan_avg or fan_geo_avg; distribution
    truncated_normal, normal or uniform."""

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Any:
        fan_in, fan_out = _fans(shape, in_axis, out_axis, batch_axis)
        fan = {
            "fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": math.sqrt(fan_in * fan_out),
        }[mode]  # fmt: skip
        real = dtypes.real_of(np.dtype(dtype))
        deviation = real.type(math.sqrt(scale / max(fan, 1.0)))
        if distribution == "normal":
            return random.normal(key, tuple(shape), dtype) * deviation
        if distribution == "uniform":
            return random.uniform(key, tuple(shape), dtype, -1) * (
                deviation * real.type(math.sqrt(3))
            )
        if distribution == "truncated_normal":
            # The standard deviation of a normal distribution cut off at -2 and 2.
            deviation = real.type(deviation / 0.87962566103423978)
            return random.truncated_normal(key, -2.0, 2.0, tuple(shape), dtype) * deviation
        raise ValueError(f"invalid distribution for variance scaling: {distribution!r}")

    return init


def _scaled(
    name: str, scale: float, mode: str, distribution: str, doc: str
) -> Callable[..., Initializer]:
    def initializer(in_axis: Any = -2, out_axis: Any = -1, batch_axis: Any = (),
                    dtype: Any = np.float64) -> Initializer:  # fmt: skip
        return variance_scaling(scale, mode, distribution, in_axis, out_axis, batch_axis, dtype)

    initializer.__name__, initializer.__doc__ = name, doc
    return initializer


glorot_uniform = _scaled("glorot_uniform", 1.0, "fan_avg", "uniform", "Glorot and Bengio 2010.")
glorot_normal = _scaled(
    "glorot_normal", 1.0, "fan_avg", "truncated_normal", "Glorot and Bengio 2010."
)
lecun_uniform = _scaled("lecun_uniform", 1.0, "fan_in", "uniform", "LeCun et al. 1998.")
lecun_normal = _scaled("lecun_normal", 1.0, "fan_in", "truncated_normal", "LeCun et al. 1998.")
he_uniform = _scaled("he_uniform", 2.0, "fan_in", "uniform", "He et al. 2015.")
he_normal = _scaled("he_normal", 2.0, "fan_in", "truncated_normal", "He et al. 2015.")
xavier_uniform, xavier_normal = glorot_uniform, glorot_normal
kaiming_uniform, kaiming_normal = he_uniform, he_normal


def orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: Any = np.float64) -> Initializer:
    """A random matrix with orthonormal columns (or rows, if there are fewer), times `scale`."""

    @staged
    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Any:
        columns = shape[column_axis]
        rows = math.prod(shape) // columns
        tall = (max(rows, columns), min(rows, columns))
        q, r = qr(asarray(random.normal(key, tall, dtype)))
        q = q * np.sign(np.diagonal(r))  # uniform over all orthogonal matrices
        q = q.T if rows < columns else q
        rest = [n for d, n in enumerate(shape) if d != column_axis % len(shape)]
        return scale * np.moveaxis(np.reshape(q, (*rest, columns)), -1, column_axis)

    return init
