"""`lax` for NumPy itself: what `programs.py` needs of them, eagerly and in the arguments'
own precision.

Knows NumPy's best form of each (sliding windows and one product for a convolution). It serves as
the peer "numpy" and, on float64 arguments, as the reference all contenders are checked against.
Refuses to know derivatives: NumPy has none.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def _windows(x: Any, size: Any, strides: Any, dilation: Any) -> Any:
    """[n, c, out_h, out_w, k_h, k_w], a view."""
    (kh, kw), (sh, sw), (dh, dw) = size, strides, dilation
    view = sliding_window_view(x, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def _stretched(x: Any, by: Any) -> Any:
    """Zeros between neighbours along the last two axes."""
    h, w = ((n - 1) * g + 1 for n, g in zip(x.shape[2:], by, strict=True))
    out = np.zeros((*x.shape[:2], h, w), x.dtype)
    out[:, :, :: by[0], :: by[1]] = x
    return out


def conv_general_dilated(
    x: Any, w: Any, strides: Any, padding: Any, lhs_dilation: Any = (1, 1),
    rhs_dilation: Any = (1, 1), dimension_numbers: Any = None, feature_group_count: int = 1,
) -> Any:  # fmt: skip
    """NCHW and OIHW, or NHWC and HWIO if dimension numbers are given."""
    if dimension_numbers is not None:
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    if tuple(lhs_dilation) != (1, 1):
        x = _stretched(x, lhs_dilation)
    view = _windows(np.pad(x, [(0, 0), (0, 0), *padding]), w.shape[2:], strides, rhs_dilation)
    if feature_group_count == 1:
        out = np.tensordot(view, w, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    elif w.shape[1] == 1:  # depthwise: one multiply-add for each element of the window
        out = np.zeros((), x.dtype)
        for i in range(w.shape[2]):
            for j in range(w.shape[3]):
                out = out + view[..., i, j] * w[:, 0, i, j, None, None]
    else:
        parts = zip(
            np.split(view, feature_group_count, 1), np.split(w, feature_group_count), strict=True
        )
        out = np.concatenate([np.einsum("nchwij,ocij->nohw", v, k) for v, k in parts], 1)
    return out if dimension_numbers is None else out.transpose(0, 2, 3, 1)


def reduce_window(
    x: Any, initial: Any, reduce: Any, window: Any, strides: Any, padding: Any
) -> Any:
    padded = np.pad(x, padding, constant_values=initial)
    return _windows(padded, window[2:], strides[2:], (1, 1)).max(axis=(4, 5))


def dot(a: Any, b: Any, preferred_element_type: Any = None) -> Any:
    """Whole numbers as floats: NumPy's integer product uses no library. Exact while sums of
    products of bytes stay below 2**24, that is up to 1024 terms."""
    if a.dtype.kind == "f":
        return a @ b
    return a.astype(np.float32) @ b.astype(np.float32)


def fori_loop(start: int, stop: int, body: Any, state: Any) -> Any:
    for i in range(start, stop):
        state = body(i, state)
    return state


def while_loop(condition: Any, body: Any, state: Any) -> Any:
    while condition(state):
        state = body(state)
    return state


def scan(step: Any, state: Any, inputs: Any) -> Any:
    outputs = []
    for x in inputs:
        state, y = step(state, x)
        outputs.append(y)
    return state, np.stack(outputs)


lax = SimpleNamespace(
    conv_general_dilated=conv_general_dilated, reduce_window=reduce_window, dot=dot,
    fori_loop=fori_loop, while_loop=while_loop, scan=scan, max=np.maximum,
)  # fmt: skip


def logistic_hessian(w: Any, x: Any, y: Any) -> Any:
    """The second derivative of `programs.logistic_loss`, by hand."""
    p = 1 / (1 + np.exp(-y * (x @ w)))
    return (x.T * (p * (1 - p))) @ x / len(y) + 0.01 * np.eye(len(w))


def lennard_jones_forces(x: Any) -> Any:
    """The derivative of `programs.lennard_jones_energy`, by hand."""
    d = x[:, None, :] - x[None, :, :]
    r = (d * d).sum(axis=-1) + np.eye(len(x))
    return ((24 * r**-4 - 48 * r**-7)[..., None] * d).sum(axis=1)


def unquantised(x: Any, w: Any, w_scale: Any) -> Any:
    """What quantised products approximate; peers differ in how they quantise x."""
    return x @ (w * w_scale)
