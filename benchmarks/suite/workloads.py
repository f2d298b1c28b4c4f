"""The suite: which functions run on which shapes, what they cost, and in which group they count.

Knows shapes, random inputs, floating-point operations and tolerances. Refuses to know how a
contender runs them. The anchors are a fixed list; the others are neighbours of theirs, there so
that nothing is tuned to one size.

Operations are those of the textbook's direct algorithm (a multiply-add counts two; a division, a
square root or an elementary function one), so a cleverer algorithm may pass 100 % of the roof.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import ml_dtypes
import numpy as np

Arguments = tuple[Any, ...]
EVERY = frozenset({"numpy", "jax", "torch", "torch.compile", "onnxruntime", "openvino"})
EAGER = frozenset({"numpy", "jax", "torch", "torch.compile"})
AUTODIFF = frozenset({"jax", "torch", "torch.compile"})


@dataclass(frozen=True)
class Workload:
    """A program of `programs.py` on given shapes.

    `arguments(rng)` gives NumPy arrays in trees; `constants` are positions of the weights, known
    before the run; `options` are the program's keyword arguments. `flops` and `moved` (bytes that
    must cross the memory bus: inputs and outputs once, in each turn of a loop) bound the time,
    `held` is the memory they fill if that is less; `unit` is the roof of the
    operations: f32, f64, i8 or bf16. `spread` is the tolerance relative to the largest element.
    """

    name: str
    group: str
    program: str
    arguments: Callable[[Any], Arguments]
    flops: float
    moved: float
    anchor: bool = True
    unit: str = "f32"
    spread: float = 3e-5
    constants: tuple[int, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    peers: frozenset[str] = EVERY
    numba: bool = False
    stray: float = 0.0  # share of the elements that may differ by more
    loss: str = ""  # what a gradient is the gradient of: it is checked against differences
    held: float = 0
    reference: str = ""  # NumPy's program of another name that gives the same


def normal(*shapes: tuple[int, ...], scale: float = 1.0, dtype: str = "float32") -> Any:
    return lambda rng: tuple((rng.standard_normal(s) * scale).astype(dtype) for s in shapes)


def positive(*shapes: tuple[int, ...], dtype: str = "float32") -> Any:
    return lambda rng: tuple(rng.uniform(0.1, 10, s).astype(dtype) for s in shapes)


def _size(*shapes: tuple[int, ...], itemsize: int = 4) -> int:
    return itemsize * sum(map(prod, shapes))


# -- pointwise -----------------------------------------------------------------------------------


def _pointwise(name: str, program: str, shape: tuple[int, ...], ops: int, **more: Any) -> Workload:
    width = 8 if more.get("unit") == "f64" else 4
    arrays = more.pop("arrays", 1)
    make = more.pop("make", normal)
    inputs = make(*[shape] * arrays, dtype="float64" if width == 8 else "float32")
    moved = width * (arrays + 1) * prod(shape)
    return Workload(name, "pointwise", program, inputs, ops * prod(shape), moved, **more)


def _chain(name: str, n: int, m: int, anchor: bool) -> Workload:
    moved, ops = 4 * (2 * n * m + n + m), 12 * n * m
    inputs = normal((n, m), (m,), (n, 1))
    return Workload(name, "pointwise", "chain12", inputs, ops, moved, anchor)


def _plane(n: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        real, imaginary = np.linspace(-2, 0.6, n), np.linspace(-1.2, 1.2, n)
        return tuple(a.astype("float32") for a in np.meshgrid(real, imaginary))

    return arguments


def _mandelbrot(n: int, anchor: bool) -> Workload:
    # Single points on the rim escape an iteration or more later or earlier by rounding.
    return Workload(
        f"mandelbrot{'' if anchor else f'_{n}'}", "pointwise", "mandelbrot", _plane(n),
        100 * 8 * n * n, 12 * n * n, anchor, stray=0.01, numba=True,
    )  # fmt: skip


POINTWISE = [
    _pointwise("gelu_tanh", "gelu_tanh", (4 << 20,), 9),
    _pointwise("gelu_tanh_100k", "gelu_tanh", (100_000,), 9, anchor=False),
    _pointwise("black_scholes_f64", "black_scholes", (1_000_000,), 60, arrays=3, make=positive,
               unit="f64", spread=1e-11, numba=True),
    _pointwise("black_scholes_f32", "black_scholes", (300_007,), 60, arrays=3, make=positive,
               anchor=False, spread=1e-4, numba=True),
    _chain("chain12", 1024, 1024, True),
    _chain("chain12_333x517", 333, 517, False),
    _mandelbrot(512, True),
    _mandelbrot(300, False),
    _pointwise("sin2_exp", "waves", (1_000_000,), 6, anchor=False, numba=True),
    _pointwise("arctan2", "angle", (1_000_000,), 1, arrays=2, anchor=False),
    _pointwise("power_2.5", "powers", (1_000_000,), 1, make=positive, anchor=False, spread=1e-4),
]  # fmt: skip

# -- rows and columns ----------------------------------------------------------------------------


def _rows(
    name: str, program: str, n: int, m: int, ops: int, anchor: bool = True, **more: Any
) -> Workload:
    outputs = {"logsumexp": 4 * n, "argmax": 8 * n, "mean_var_axis0": 8 * m}
    moved = 4 * n * m + outputs.get(program, 4 * n * m)
    inputs = normal((n, m))
    if program == "residual_layernorm":
        inputs = normal((n, m), (n, m), (m,), (m,))
        moved += 4 * n * m
    return Workload(name, "rows", program, inputs, ops * n * m, moved, anchor, **more)


ROWS = [
    _rows("softmax", "softmax", 2048, 2048, 5),
    _rows("softmax_5000x101", "softmax", 5000, 101, 5, False),
    _rows("softmax_64x50257", "softmax", 64, 50257, 5, False),
    _rows("residual_layernorm", "residual_layernorm", 4096, 768, 9),
    _rows("residual_layernorm_1000x333", "residual_layernorm", 1000, 333, 9, False),
    _rows("logsumexp", "logsumexp", 2048, 2048, 4),
    _rows("logsumexp_777x1333", "logsumexp", 777, 1333, 4, False),
    _rows("mean_var_axis0", "mean_var_axis0", 2048, 2048, 4),
    _rows("mean_var_axis0_1009x997", "mean_var_axis0", 1009, 997, 4, False),
    _rows("argmax", "argmax", 2048, 2048, 1, numba=True),
    _rows("argmax_3000x700", "argmax", 3000, 700, 1, False, numba=True),
    _rows("cumsum", "cumsum", 1024, 4096, 1, spread=1e-4, numba=True),
    _rows("cumsum_500x999", "cumsum", 500, 999, 1, False, spread=1e-4, numba=True),
    _rows("sort_200x5000", "sort", 200, 5000, 13, False),
]

# -- products ------------------------------------------------------------------------------------


def _product(
    name: str, group: str, a: tuple[int, ...], b: tuple[int, ...], anchor: bool = True
) -> Workload:
    out = (*a[:-1], b[-1]) if len(a) > 1 else b[-1:]
    return Workload(
        name, group, "matmul", normal(a, b), 2 * prod(out) * a[-1], _size(a, b, out), anchor,
        constants=(1,),
    )  # fmt: skip


def _square(n: int, anchor: bool) -> Workload:
    group = "products" if n >= 512 else "small products"
    return _product(f"matmul_{n}", group, (n, n), (n, n), anchor)


def _linear_gelu(name: str, n: int, k: int, m: int, anchor: bool) -> Workload:
    def arguments(rng: Any) -> Arguments:
        x, b = normal((n, k), (m,))(rng)
        return x, *normal((k, m), scale=1 / sqrt(k))(rng), b

    moved = _size((n, k), (k, m), (m,), (n, m))
    ops = 2 * n * k * m + 10 * n * m
    return Workload(
        name, "products", "linear_gelu", arguments, ops, moved, anchor, constants=(1, 2)
    )


PRODUCTS = [
    _square(512, True),
    _square(1024, True),
    _square(640, False),
    _square(1500, False),
    _product("batch_matmul", "products", (12, 256, 64), (12, 64, 256)),
    _product("batch_matmul_20x100x80x120", "products", (20, 100, 80), (20, 80, 120), False),
    _linear_gelu("linear_gelu", 512, 768, 3072, True),
    _linear_gelu("linear_gelu_200x500x1000", 200, 500, 1000, False),
    _square(128, True),
    _product("matmul_odd", "small products", (333, 517), (517, 129)),
    _square(64, False),
    _square(200, False),
    _product("matmul_77x768x3072", "small products", (77, 768), (768, 3072), False),
    _product("matmul_4096x64x64", "small products", (4096, 64), (64, 64), False),
    _product("matmul_17x2000x31", "small products", (17, 2000), (2000, 31), False),
    _product("gemv", "vectors", (4096,), (4096, 4096)),
    _product("gemv_1000x3000", "vectors", (1000,), (1000, 3000), False),
    _product("gemv_4x2048x2048", "vectors", (4, 2048), (2048, 2048), False),
]

# -- narrow numbers ------------------------------------------------------------------------------


def _int8(name: str, n: int, k: int, m: int, anchor: bool) -> Workload:
    def arguments(rng: Any) -> Arguments:
        w = rng.integers(-127, 128, (k, m)).astype("int8")
        return *normal((n, k))(rng), w, rng.uniform(0.01, 0.02, m).astype("float32")

    moved = 4 * n * k + k * m + 4 * n * m
    return Workload(
        name, "narrow", "int8_dynamic_matmul", arguments, 2 * n * k * m, moved, anchor, "i8", 3e-2,
        (1, 2), reference="unquantised",
    )  # fmt: skip


def _bf16(name: str, n: int, k: int, m: int, anchor: bool) -> Workload:
    def arguments(rng: Any) -> Arguments:
        return tuple(a.astype(ml_dtypes.bfloat16) for a in normal((n, k), (k, m))(rng))

    moved = _size((n, k), (k, m), (n, m), itemsize=2)
    return Workload(
        name, "narrow", "matmul", arguments, 2 * n * k * m, moved, anchor, "bf16", 1e-2, (1,),
        peers=frozenset({"jax", "torch", "torch.compile"}),
    )  # fmt: skip


NARROW = [
    _int8("int8_dynamic_matmul", 1024, 1024, 1024, True),
    _int8("int8_200x700x900", 200, 700, 900, False),
    _bf16("bf16_matmul", 1024, 1024, 1024, True),
    _bf16("bf16_200x700x900", 200, 700, 900, False),
]

# -- convolutions --------------------------------------------------------------------------------


def _conv(
    name: str, size: int, c: int, out: int, k: int, stride: int, anchor: bool = True,
    groups: int = 1, dilation: int = 1, n: int = 1,
) -> Workload:  # fmt: skip
    pad = dilation * (k - 1) // 2
    after = (size + 2 * pad - dilation * (k - 1) - 1) // stride + 1
    x, w, y = (n, c, size, size), (out, c // groups, k, k), (n, out, after, after)
    options = (("stride", stride), ("pad", pad), ("groups", groups), ("dilation", dilation))
    group = "depthwise" if groups == c else "convolutions"
    return Workload(
        name, group, "conv2d", normal(x, w), 2 * prod(y) * prod(w[1:]), _size(x, w, y), anchor,
        constants=(1,), options=options, spread=1e-4,
    )  # fmt: skip


# Table 2 of "TVM: An Automated End-to-End Optimizing Compiler" (OSDI 2018): extent, channels in
# and out, window, stride; for the depthwise ones extent, channels, stride.
_DENSE = [
    (224, 3, 64, 7, 2), (56, 64, 64, 3, 1), (56, 64, 64, 1, 1), (56, 64, 128, 3, 2),
    (56, 64, 128, 1, 2), (28, 128, 128, 3, 1), (28, 128, 256, 3, 2), (28, 128, 256, 1, 2),
    (14, 256, 256, 3, 1), (14, 256, 512, 3, 2), (14, 256, 512, 1, 2), (7, 512, 512, 3, 1),
]  # fmt: skip
_DEPTHWISE = [
    (112, 32, 1), (112, 64, 2), (56, 128, 1), (56, 128, 2), (28, 256, 1), (28, 256, 2),
    (14, 512, 1), (14, 512, 2), (7, 1024, 1),
]  # fmt: skip

CONVOLUTIONS = [
    *(_conv(f"conv_C{i}", *layer) for i, layer in enumerate(_DENSE, 1)),
    _conv("conv_40x48x80_5x5", 40, 48, 80, 5, 1, False),
    _conv("conv_35x100x50_1x1", 35, 100, 50, 1, 1, False),
    _conv("conv_groups4_28x128x128", 28, 128, 128, 3, 1, False, groups=4),
    _conv("conv_dilated2_33x60x60", 33, 60, 60, 3, 1, False, dilation=2),
    _conv("conv_batch8_14x64x64", 14, 64, 64, 3, 1, False, n=8),
]
DEPTHWISE = [
    *(_conv(f"dwconv_D{i}", n, c, c, 3, s, groups=c) for i, (n, c, s) in enumerate(_DEPTHWISE, 1)),
    _conv("dwconv_45x100_5x5", 45, 100, 100, 5, 1, False, groups=100),
    _conv("dwconv_31x50_3x3", 31, 50, 50, 3, 2, False, groups=50),
]

# -- attention -----------------------------------------------------------------------------------


def _attention(
    name: str, program: str, heads: int, t: int, s: int, d: int, anchor: bool = True
) -> Workload:
    q, k = (1, heads, t, d), (1, heads, s, d)
    pairs = heads * t * s if program == "attention_full" else heads * t * (t + 1) / 2
    products = 7 if program == "attention_grad" else 2  # the scores twice, five in the gradient
    inputs = normal(q, k, k, q) if program == "attention_grad" else normal(q, k, k)
    moved = _size(q, k, k, q) * (2 if program == "attention_grad" else 1)
    group = "vectors" if t == 1 else "attention"
    more: dict[str, Any] = {}
    if program == "attention_grad":
        group = "attention gradient"
        more = {"peers": AUTODIFF, "loss": "attention_loss"}
    return Workload(
        name, group, program, inputs, pairs * (2 * products * d + 5), moved, anchor, **more
    )


ATTENTION = [
    _attention("attention_fwd", "attention", 12, 1024, 1024, 64),
    _attention("attention_grad", "attention_grad", 12, 1024, 1024, 64),
    _attention("attention_fwd_5x300x80", "attention", 5, 300, 300, 80, False),
    _attention("attention_full_8x500x96", "attention_full", 8, 500, 500, 96, False),
    _attention("attention_grad_6x400x32", "attention_grad", 6, 400, 400, 32, False),
    _attention("attention_decode", "attention_full", 12, 1, 1024, 64),
    _attention("attention_decode_16x3000x128", "attention_full", 16, 1, 3000, 128, False),
]

# -- networks ------------------------------------------------------------------------------------


def _weight(rng: Any, *shape: int, fan: int | None = None) -> Any:
    """He's initialisation; `fan` is the number of terms in each sum."""
    fan = fan or prod(shape[1:])
    return (rng.standard_normal(shape) * sqrt(2 / fan)).astype("float32")


def _batch_norm(rng: Any, n: int) -> list[Any]:
    parts = (rng.uniform(0.5, 1.5, n), rng.standard_normal(n) * 0.1,
             rng.standard_normal(n) * 0.1, rng.uniform(0.5, 1.5, n))  # fmt: skip
    return [p.astype("float32") for p in parts]


def _dense(rng: Any, n: int, m: int) -> list[Any]:
    return [_weight(rng, n, m, fan=n), (rng.standard_normal(m) * 0.1).astype("float32")]


def _resnet18(n: int, size: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        params = [_weight(rng, 64, 3, 7, 7), *_batch_norm(rng, 64)]
        before = 64
        for width in (64, 128, 256, 512):
            for block in range(2):
                c = before if block == 0 else width
                layers = [(width, c, 3), (width, width, 3)]
                if block == 0 and width > 64:
                    layers.append((width, c, 1))
                for out, inner, k in layers:
                    params += [_weight(rng, out, inner, k, k), *_batch_norm(rng, out)]
            before = width
        return *normal((n, 3, size, size))(rng), [*params, *_dense(rng, 512, 1000)]

    return arguments


def _mobilenet(n: int, size: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        params = [_weight(rng, 32, 3, 3, 3), *_batch_norm(rng, 32)]
        widths = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
        for c, out in itertools.pairwise(widths):
            params += [_weight(rng, c, 1, 3, 3), *_batch_norm(rng, c)]
            params += [_weight(rng, out, c, 1, 1), *_batch_norm(rng, out)]
        return *normal((n, 3, size, size))(rng), [*params, *_dense(rng, 1024, 1000)]

    return arguments


def _dqn(n: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        params = []
        for out, c, k in ((32, 4, 8), (64, 32, 4), (64, 64, 3)):
            params += [_weight(rng, out, c, k, k), (rng.standard_normal(out) * 0.1).astype("f4")]
        params += [*_dense(rng, 3136, 512), *_dense(rng, 512, 18)]
        return *normal((n, 4, 84, 84))(rng), params

    return arguments


def _dcgan(n: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        widths = (100, 512, 256, 128, 64, 3)
        params = []
        for i, (c, out) in enumerate(itertools.pairwise(widths)):
            params.append(_weight(rng, c, out, 4, 4, fan=c * (1 if i == 0 else 4)))
            params += _batch_norm(rng, out) if out > 3 else []
        return *normal((n, 100, 1, 1))(rng), params

    return arguments


def _block_params(rng: Any, width: int) -> list[Any]:
    def norm() -> list[Any]:
        return [rng.uniform(0.5, 1.5, width).astype("f4"), np.zeros(width, "f4")]

    def dense(n: int, m: int) -> list[Any]:
        return _dense(rng, n, m)

    return [*norm(), *dense(width, 3 * width), *dense(width, width),
            *norm(), *dense(width, 4 * width), *dense(4 * width, width)]  # fmt: skip


def _prefill(t: int, width: int) -> Any:
    return lambda rng: (*normal((t, width))(rng), _block_params(rng, width))


def _decode(s: int, width: int) -> Any:
    cache = (12, s, width // 12)
    return lambda rng: (*normal((1, width), cache, cache)(rng), _block_params(rng, width))


def _lstm(width: int, steps: int, words: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        tokens = rng.integers(0, words, steps)
        w_in, b = _dense(rng, width, 4 * width)
        w_state = _weight(rng, width, 4 * width, fan=2 * width)
        embedding = rng.standard_normal((words, width)).astype("f4")
        return tokens, embedding, w_in, w_state, b, *_dense(rng, width, words)

    return arguments


def _network(
    name: str, program: str, arguments: Any, flops: float, moved: float, anchor: bool = True,
    constants: tuple[int, ...] = (1,), **more: Any,
) -> Workload:  # fmt: skip
    return Workload(
        name, "networks", program, arguments, flops, moved, anchor, spread=3e-4,
        constants=constants, **more,
    )  # fmt: skip


def _block_flops(t: int, width: int) -> float:
    return 24 * t * width * width + 2 * t * (t + 1) * width


_LSTM_FLOPS = 2 * 64 * (8 * 256 * 256 + 256 * 2000)
NETWORKS = [
    _network("resnet18", "resnet18", _resnet18(1, 224), 3.63e9, 46.8e6),
    _network("resnet18_batch2_160", "resnet18", _resnet18(2, 160), 3.7e9, 47e6, False),
    _network("mobilenet_v1", "mobilenet_v1", _mobilenet(1, 224), 1.137e9, 16.9e6),
    _network("mobilenet_v1_batch3_128", "mobilenet_v1", _mobilenet(3, 128), 1.12e9, 16.9e6, False),
    _network("dqn", "dqn", _dqn(1), 18.7e6, 6.9e6),
    _network("dqn_batch16", "dqn", _dqn(16), 16 * 18.7e6, 8.6e6, False),
    _network("dcgan_generator", "dcgan_generator", _dcgan(1), 209e6, 14.4e6),
    _network("gpt2_block_prefill", "gpt2_block_prefill", _prefill(256, 768),
             _block_flops(256, 768), 4 * (12 * 768**2 + 2 * 256 * 768)),
    _network("gpt2_block_prefill_100x384", "gpt2_block_prefill", _prefill(100, 384),
             _block_flops(100, 384), 4 * (12 * 384**2 + 2 * 100 * 384), False),
    _network("gpt2_block_decode", "gpt2_block_decode", _decode(1024, 768),
             24 * 768**2 + 4 * 1024 * 768, 4 * (12 * 768**2 + 2 * 1024 * 768), constants=(3,)),
    _network("lstm_lm", "lstm_lm", _lstm(256, 64, 2000), _LSTM_FLOPS, 4.1e6,
             constants=(1, 2, 3, 4, 5, 6)),
]  # fmt: skip

# -- training ------------------------------------------------------------------------------------


def _labels(rng: Any, n: int) -> Any:
    return rng.integers(0, 10, n)


def _mlp(n: int, hidden: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        params = [*_dense(rng, 784, hidden), *_dense(rng, hidden, hidden), *_dense(rng, hidden, 10)]
        return params, *normal((n, 784))(rng), _labels(rng, n)

    return arguments


def _cnn(n: int) -> Any:
    def arguments(rng: Any) -> Arguments:
        params = [_weight(rng, 32, 3, 3, 3), np.zeros(32, "f4"), _weight(rng, 64, 32, 3, 3),
                  np.zeros(64, "f4"), *_dense(rng, 4096, 10)]  # fmt: skip
        return params, *normal((n, 3, 32, 32))(rng), _labels(rng, n)

    return arguments


def _train_block(t: int, width: int) -> Any:
    return lambda rng: (_block_params(rng, width), *normal((t, width), (t, width))(rng))


def _mlp_flops(n: int, hidden: int) -> float:
    return 2 * n * (2 * 784 * hidden + 3 * hidden * hidden + 30 * hidden)


def _training(
    name: str, program: str, arguments: Any, flops: float, moved: float, anchor: bool = True
) -> Workload:
    loss = {"train_mlp": "mlp_loss", "train_cnn": "cnn_loss"}.get(program, "block_loss")
    return Workload(
        name, "training", program, arguments, flops, moved, anchor, spread=1e-3, peers=AUTODIFF,
        loss=loss,
    )  # fmt: skip


_CNN_FLOPS = 2 * (1024 * 27 * 32 * 2 + 256 * 288 * 64 * 3 + 4096 * 10 * 3)
TRAINING = [
    _training("train_mlp", "train_mlp", _mlp(128, 512), _mlp_flops(128, 512), 5.8e6),
    _training("train_mlp_50x300", "train_mlp", _mlp(50, 300), _mlp_flops(50, 300), 2.8e6, False),
    _training("train_cnn", "train_cnn", _cnn(32), 32 * _CNN_FLOPS, 0.9e6),
    _training("train_transformer_block", "train_transformer_block", _train_block(256, 768),
              3 * _block_flops(256, 768), 59e6),
    _training("train_transformer_block_100x384", "train_transformer_block",
              _train_block(100, 384), 3 * _block_flops(100, 384), 15e6, False),
]  # fmt: skip

# -- science -------------------------------------------------------------------------------------


def _heat(name: str, n: int, anchor: bool) -> Workload:
    return Workload(
        name, "science", "heat2d", normal((n, n)), 20 * 7 * n * n, 20 * 8 * n * n, anchor,
        numba=True, held=8 * n * n,
    )  # fmt: skip


def _nbody(name: str, n: int, anchor: bool) -> Workload:
    def arguments(rng: Any) -> Arguments:
        return *normal((n, 3), (n, 3))(rng), rng.uniform(0.1, 1, n).astype("f4")

    return Workload(
        name, "science", "nbody", arguments, 10 * 20 * n * n, 60 * n, anchor, spread=1e-4,
        numba=True,
    )  # fmt: skip


def _pairwise(name: str, n: int, d: int, anchor: bool) -> Workload:
    return Workload(
        name, "science", "pairwise_dist", normal((n, d)), (3 * d + 1) * n * n, 4 * n * n, anchor,
        numba=True,
    )  # fmt: skip


def _density(name: str, n: int, m: int, d: int) -> Workload:
    return Workload(
        name, "science", "kernel_density", normal((n, d), (m, d)), (3 * d + 12) * n * m,
        4 * d * (n + m), False, spread=1e-4, numba=True,
    )  # fmt: skip


def _lennard_jones(name: str, side: int) -> Workload:
    def arguments(rng: Any) -> Arguments:
        """A cubic lattice, a little disturbed."""
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)
        return ((1.2 * grid + 0.05 * rng.standard_normal(grid.shape)).astype("f4"),)

    n = side**3
    return Workload(
        name, "science", "lennard_jones", arguments, 25 * n * n, 24 * n, False, spread=1e-4,
        peers=AUTODIFF, numba=True, reference="lennard_jones_forces",
    )  # fmt: skip


def _logreg(name: str, n: int, d: int, anchor: bool) -> Workload:
    def arguments(rng: Any) -> Arguments:
        w, x = normal((d,), (n, d))(rng)
        return w, x, np.sign(rng.standard_normal(n)).astype("f4")

    return Workload(
        name, "science", "hessian_logreg", arguments, 2 * n * d * d, 4 * (n * d + d * d), anchor,
        peers=AUTODIFF, spread=1e-4, reference="logistic_hessian",
    )  # fmt: skip


def _solve(name: str, batch: int, n: int, anchor: bool) -> Workload:
    def arguments(rng: Any) -> Arguments:
        a, b = normal((batch, n, n), (batch, n, 1))(rng)
        return a + 4 * sqrt(n) * np.eye(n, dtype="f4"), b

    ops = batch * (2 * n**3 / 3 + 2 * n * n)
    moved = 4 * batch * (n * n + 2 * n)
    return Workload(
        name, "science", "batched_solve", arguments, ops, moved, anchor, spread=1e-4, peers=EAGER
    )


def _jacobi(name: str, n: int, anchor: bool) -> Workload:
    def arguments(rng: Any) -> Arguments:
        a, b = rng.uniform(-1, 1, (n, n)), rng.standard_normal(n)
        np.fill_diagonal(a, sqrt(n / 3) / 0.7)  # the iteration's spectral radius is 0.7
        return a.astype("f4"), b.astype("f4")

    turns = 28  # by experiment; the matrix is read once in each
    return Workload(
        name, "science", "jacobi", arguments, turns * 2 * n * n, turns * 4 * n * n, anchor,
        spread=1e-3, peers=EAGER - {"torch.compile"}, numba=True, held=4 * n * n,
    )  # fmt: skip


SCIENCE = [
    _heat("heat2d", 2048, True),
    _heat("heat2d_700", 700, False),
    _nbody("nbody", 1000, True),
    _nbody("nbody_333", 333, False),
    _pairwise("pairwise_dist", 2000, 3, True),
    _pairwise("pairwise_dist_700x10", 700, 10, False),
    _density("kernel_density_1000x1500x2", 1000, 1500, 2),
    _lennard_jones("lennard_jones_512", 8),
    _logreg("hessian_logreg", 500, 50, True),
    _logreg("hessian_logreg_3000x33", 3000, 33, False),
    _solve("batched_solve", 2048, 8, True),
    _solve("batched_solve_300x24", 300, 24, False),
    _jacobi("jacobi", 1000, True),
    _jacobi("jacobi_350", 350, False),
]

# -- small ---------------------------------------------------------------------------------------


def _tree(rng: Any) -> Arguments:
    return ({f"p{i}": rng.standard_normal(8).astype("f4") for i in range(12)},)


SMALL = [
    Workload("dispatch_add1", "dispatch", "add1", normal((8,)), 8, 64, numba=True),
    Workload("dispatch_tree12", "dispatch", "tree12", _tree, 96, 768, peers=EAGER),
    Workload("elementwise10", "dispatch", "elementwise10", normal((100,)), 1000, 800),
    Workload("elementwise10_7x9", "dispatch", "elementwise10", normal((7, 9)), 630, 504, False),
]

SUITE: list[Workload] = [
    *PRODUCTS, *NARROW, *CONVOLUTIONS, *DEPTHWISE, *ATTENTION, *NETWORKS, *TRAINING, *POINTWISE,
    *ROWS, *SCIENCE, *SMALL,
]  # fmt: skip
BY_NAME = {w.name: w for w in SUITE}


@dataclass(frozen=True)
class Bar:
    """What a group is to reach: the geometric mean of the ratios to the best peer, the least of
    them, and the least share of the roof on one thread and on more, where one is set."""

    mean: float
    least: float
    roof: tuple[float, float] | None = None


BARS = {
    "products": Bar(1.08, 1.08, (0.90, 0.85)),
    "small products": Bar(1.1, 1.1, (0.78, 0.78)),
    "vectors": Bar(1.0, 1.0, (0.85, 0.85)),
    "narrow": Bar(1.05, 1.05, (0.85, 0.85)),
    "convolutions": Bar(1.3, 1.0, (0.80, 0.80)),
    "depthwise": Bar(1.2, 1.0),
    "attention": Bar(1.3, 1.3),
    "attention gradient": Bar(1.8, 1.8),
    "pointwise": Bar(2.0, 1.2),
    "rows": Bar(1.3, 1.0),
    "science": Bar(1.5, 1.0),
    "networks": Bar(1.15, 1.0),
    "training": Bar(1.5, 1.1),
    "dispatch": Bar(1.0, 0.8),
}
