"""The corpus: kernels that the cost model learns from and is judged on.

Knows some hundred small functions of random shapes and the layers of well-known networks, and how
the pipeline turns them into kernels: what is measured is what `compile` would schedule. Refuses to
know how anything is measured. The same seed gives the same kernels; each belongs to the training,
validation or test part by its key, so that no kernel is in two of them and a kernel that is added
moves no other.

Sources of the layers: ResNet (He et al. 2016), MobileNet (Howard et al. 2017), VGG-16 (Simonyan and
Zisserman 2015), GPT-2 (Radford et al. 2019), BERT-base (Devlin et al. 2019), DQN (Mnih et al.
2015), DCGAN (Radford et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tilewright import dtypes, nn, roofline
from tilewright.constants import constant
from tilewright.cost_model.encoding import canonical, key
from tilewright.dtypes import DType
from tilewright.graph import Type
from tilewright.kernel import Kernel
from tilewright.lax.contracting import conv_general_dilated
from tilewright.lax.reducing import reduce_window
from tilewright.options import Options
from tilewright.staging import stage
from tilewright.target import Target, host
from tilewright.transforms import pipeline
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Schedule

SEED: Final = 4
MOST_OPERATIONS: Final = 2.5e9
"""Operations of a kernel: a few ten milliseconds of a core."""
MOST_BYTES: Final = 256 << 20
FEWEST_BYTES: Final = 8 << 10
"""Bytes a kernel moves at least: of smaller ones only the call would be measured."""
PARTS: Final = (("train", 0.7), ("validation", 0.85), ("test", 1.0))
"""The parts of the corpus, and the share of all keys up to which each goes."""

Shape = tuple[int, ...]
F32, F64 = dtypes.float32, dtypes.float64


@dataclass(frozen=True)
class Sample:
    """A kernel of the corpus in canonical names, what it is of, and its part."""

    name: str
    family: str
    part: str
    kernel: Kernel


@dataclass(frozen=True)
class Case:
    """A function of arrays, the types of its arguments, and how many of the last are weights:
    constants, which are packed ahead."""

    name: str
    family: str
    function: Callable[..., Any]
    types: tuple[tuple[Shape, DType], ...]
    weights: int = 0
    winograd: bool = True

    def kernels(self, target: Target) -> list[Kernel]:
        """The kernels that `compile` would schedule."""
        split = len(self.types) - self.weights
        held = [constant(np.ones(shape, d)) for shape, d in self.types[split:]]
        found: list[Kernel] = []

        def collect(k: Kernel) -> Schedule:
            found.append(k)
            return heuristic(k, target)

        types = [Type(d, shape) for shape, d in self.types[:split]]
        graph = stage(lambda *x: self.function(*x, *held), types).graph
        pipeline.lower(graph, collect, Options(winograd=self.winograd))
        return found


def part_of(kernel_key: str) -> str:
    """The part a kernel belongs to, by its key."""
    share = int(kernel_key[:8], 16) / (1 << 32)
    return next(name for name, end in PARTS if share < end)


def corpus(target: Target | None = None, seed: int = SEED) -> list[Sample]:
    """All samples, kernels that are equal but for their names once (about half a minute)."""
    target = host() if target is None else target
    found: dict[str, Sample] = {}
    for case in cases(seed):
        for n, k in enumerate(case.kernels(target)):
            name = key(k)
            if name not in found and _fits(k):
                label = f"{case.name}.{n}"
                found[name] = Sample(label, case.family, part_of(name), canonical(k))
    return list(found.values())


def _fits(kernel: Kernel) -> bool:
    work = roofline.work_of(kernel)
    few = sum(work.operations.values()) <= MOST_OPERATIONS
    return few and FEWEST_BYTES <= work.moved <= MOST_BYTES


def cases(seed: int = SEED) -> list[Case]:
    """The functions whose kernels the corpus is."""
    rng = np.random.default_rng(seed)
    random = [
        *_products(rng), *_batched(rng), *_convolutions(rng), *_reductions(rng), *_rows(rng),
        *_elementwise(rng), *_movements(rng),
    ]  # fmt: skip
    return [*random, *_image_networks(), *_transformers(), *_others()]


# -- random shapes ---------------------------------------------------------------------------------


def _extent(rng: Any, low: int, high: int) -> int:
    """Any number as likely as twice the number; half of them are multiples of 8."""
    n = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
    return max(low, n // 8 * 8) if n >= 16 and rng.random() < 0.5 else n


def _bias_relu(y: Any, b: Any) -> Any:
    return np.maximum(y + b, 0)


def _bias_gelu(y: Any, b: Any) -> Any:
    return nn.gelu(y + b)


def _products(rng: Any) -> Iterator[Case]:
    """Matrices by matrices, some transposed, some with weights and what follows them."""
    for n in range(26):
        m, k, j = (_extent(rng, 16, 900) for _ in range(3))
        yield Case(f"product {m}x{k}x{j}", "product", np.matmul, (((m, k), F32), ((k, j), F32)))
        if n < 8:
            rows = (((k, m), F32), ((k, j), F32))
            yield Case(f"x.T @ w {m}x{k}x{j}", "product", lambda x, w: x.T @ w, rows)
        if 8 <= n < 18:
            columns = (((m, k), F32), ((j, k), F32))
            yield Case(f"x @ w.T {m}x{k}x{j}", "product", lambda x, w: x @ w.T, columns)
        if n >= 18:
            wide = tuple((s, F64) for s in ((m, k), (k, j)))
            yield Case(f"float64 product {m}x{k}x{j}", "product", np.matmul, wide)
    for n in range(24):
        m, k, j = _extent(rng, 1, 600), _extent(rng, 16, 1100), _extent(rng, 16, 1100)
        after = (_bias_relu, _bias_gelu)[n % 2]
        yield Case(
            f"dense {m}x{k}x{j} {after.__name__[1:]}", "dense",
            lambda x, w, b, after=after: after(x @ w, b),
            (((m, k), F32), ((k, j), F32), ((j,), F32)), weights=2,
        )  # fmt: skip
    for n in range(10):
        k, j = _extent(rng, 128, 4096), _extent(rng, 128, 4096)
        shapes: tuple[Shape, Shape] = ((k,), (k, j)) if n % 2 else ((j, k), (k,))
        types = tuple((s, F32) for s in shapes)
        yield Case(f"gemv {shapes}", "gemv", np.matmul, types)
    for n in range(10):
        long, thin = _extent(rng, 2000, 30000), [_extent(rng, 2, 48) for _ in range(2)]
        m, k, j = [(long, *thin), (thin[0], long, thin[1]), (*thin, long)][n % 3]
        yield Case(f"skinny {m}x{k}x{j}", "skinny", np.matmul, (((m, k), F32), ((k, j), F32)))
    for n in range(8):
        m, k, j = (_extent(rng, 32, 700) for _ in range(3))
        d = (dtypes.int8, dtypes.bfloat16)[n % 2]
        out = (dtypes.int32, F32)[n % 2]
        yield Case(
            f"{d.name} product {m}x{k}x{j}", "narrow",
            lambda x, w, out=out: x.astype(out) @ w.astype(out), (((m, k), d), ((k, j), d)),
        )  # fmt: skip


def _batched(rng: Any) -> Iterator[Case]:
    """Many small products, as attention has them."""
    for n in range(12):
        b, m, k, j = _extent(rng, 4, 64), *(_extent(rng, 8, 200) for _ in range(3))
        if n % 2:
            columns = (((b, m, k), F32), ((b, j, k), F32))
            yield Case(
                f"q @ k.T {b}x{m}x{k}x{j}", "batched",
                lambda q, k: q @ np.swapaxes(k, -1, -2) * np.float32(0.125), columns,
            )  # fmt: skip
        else:
            types = (((b, m, k), F32), ((b, k, j), F32))
            yield Case(f"batched {b}x{m}x{k}x{j}", "batched", np.matmul, types)


def conv(
    name: str, family: str, image: Shape, channels: int, window: int, stride: int = 1,
    dilation: int = 1, groups: int = 1, bias: bool = True, weights: bool = True,
    winograd: bool = True,
) -> Case:  # fmt: skip
    """A convolution of an image (channels first) whose padding keeps its size (over the stride),
    with bias and relu."""
    around = dilation * (window - 1) // 2

    def f(x: Any, w: Any, *b: Any) -> Any:
        y = conv_general_dilated(
            x, w, (stride, stride), ((around, around),) * 2, rhs_dilation=(dilation, dilation),
            feature_group_count=groups,
        )  # fmt: skip
        return np.maximum(y + b[0][:, None, None], 0) if bias else y

    kernel = (channels, image[1] // groups, window, window)
    types = (((image), F32), (kernel, F32), *([((channels,), F32)] if bias else []))
    held = (1 + bias) if weights else 0
    steps = f" /{stride}" * (stride > 1) + f" *{dilation}" * (dilation > 1)
    label = f"{name} {image} {channels}x{window}x{window}{steps}"
    return Case(label, family, f, types, held, winograd)


def _convolutions(rng: Any) -> Iterator[Case]:
    def image(largest: int, channels: int) -> Shape:
        side = _extent(rng, 7, largest)
        return (int(rng.choice((1, 1, 1, 2, 4))), channels, side, side)

    for _ in range(14):
        shape = image(60, _extent(rng, 16, 256))
        yield conv("conv1", "conv 1x1", shape, _extent(rng, 16, 256), 1)
    for n in range(14):
        shape = image(60, _extent(rng, 3, 96))
        yield conv("conv3", "conv 3x3", shape, _extent(rng, 16, 128), 3, winograd=n % 2 == 0)
    for n in range(10):
        window = int(rng.choice((1, 3, 5, 7)))
        shape, channels = image(112, _extent(rng, 3, 48)), _extent(rng, 8, 64)
        yield conv("strided", "conv strided", shape, channels, window, 2, weights=n % 2 == 0)
    for _ in range(6):
        shape, rate = image(60, _extent(rng, 8, 64)), int(rng.choice((2, 3, 4)))
        yield conv("dilated", "conv dilated", shape, _extent(rng, 8, 64), 3, dilation=rate)
    for n in range(12):
        channels, stride = _extent(rng, 16, 400), 1 + n % 2
        shape = image(112 if channels < 100 else 40, channels)
        window = int(rng.choice((3, 3, 5)))
        yield conv("depthwise", "depthwise", shape, channels, window, stride, groups=channels)
    for _ in range(6):
        groups, inner = int(rng.choice((2, 4, 8))), _extent(rng, 8, 32)
        shape = image(40, groups * inner)
        yield conv("grouped", "conv grouped", shape, groups * inner, 3, groups=groups)


def _reductions(rng: Any) -> Iterator[Case]:
    kinds: list[tuple[str, Callable[..., Any]]] = [
        ("sum", np.sum), ("max", np.max), ("mean square", lambda x, axis: np.mean(x * x, axis)),
        ("norm", lambda x, axis: np.sqrt(np.sum(x * x, axis))),
    ]  # fmt: skip
    for n in range(20):
        name, f = kinds[n % 4]
        m, k = _extent(rng, 16, 4000), _extent(rng, 16, 2000)
        axis: int | None = (1, 0, 1, 0, None)[n % 5]
        d = F64 if n % 7 == 0 else F32
        whole = lambda x, f=f, axis=axis: f(x, axis=axis)
        yield Case(f"{name} {m}x{k} over {axis}", "reduction", whole, (((m, k), d),))
    for _ in range(4):
        shape = (_extent(rng, 4, 32), _extent(rng, 16, 256), _extent(rng, 16, 400))
        middle = lambda x: np.sum(x, axis=1)
        yield Case(f"sum {shape} over 1", "reduction", middle, ((shape, F32),))


def _softmax(x: Any) -> Any:
    e = np.exp(x - np.max(x, -1, keepdims=True))
    return e / np.sum(e, -1, keepdims=True)


def _layernorm(x: Any, scale: Any, shift: Any) -> Any:
    centred = x - np.mean(x, -1, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, -1, keepdims=True) + 1e-5) * scale + shift


def _log_softmax(x: Any) -> Any:
    y = x - np.max(x, -1, keepdims=True)
    return y - np.log(np.sum(np.exp(y), -1, keepdims=True))


def _rms_norm(x: Any, scale: Any, shift: Any) -> Any:
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def _rows(rng: Any) -> Iterator[Case]:
    """Rows that are read more than once: softmax, normalisations."""
    for n in range(20):
        m, k = _extent(rng, 8, 4000), _extent(rng, 16, 3000)
        if n % 2:
            f = (_layernorm, _rms_norm)[n // 2 % 2]
            types = (((m, k), F32), ((k,), F32), ((k,), F32))
            yield Case(f"{f.__name__[1:]} {m}x{k}", "row", f, types, weights=2)
        else:
            g = (_softmax, _log_softmax)[n // 2 % 2]
            yield Case(f"{g.__name__[1:]} {m}x{k}", "row", g, (((m, k), F32),))


def _elementwise(rng: Any) -> Iterator[Case]:
    chains: list[tuple[str, int, Callable[..., Any]]] = [
        ("axpy", 2, lambda x, y: x * np.float32(1.5) + y),
        ("gelu", 1, nn.gelu),
        ("sigmoid", 1, nn.sigmoid),
        ("tanh chain", 2, lambda x, y: np.tanh(x) * y + x),
        ("residual", 3, lambda x, y, z: np.maximum(x + y, 0) * z),
        ("polynomial", 1, lambda x: ((x * 0.1 + 0.2) * x + 0.3) * x + 0.4),
        ("exp log", 1, lambda x: np.exp(-x * x) + np.log(x * x + 1)),
        ("sin", 2, lambda x, y: np.sin(x) * np.cos(y)),
        ("select", 2, lambda x, y: np.where(x > y, x - y, y * y)),
        ("adam", 4, lambda p, g, m, v: p - m * 1e-3 / (np.sqrt(v + g * g) + 1e-8)),
    ]
    for n in range(30):
        name, count, f = chains[n % 10]
        shape = (_extent(rng, 64, 3000), _extent(rng, 16, 1500))
        wide = F64 if n % 10 in (5, 6) and n < 20 else F32
        types = ((shape, wide),) * count
        if n % 3 == 2 and count > 1:  # the last by rows only
            types = (*types[:-1], ((1, shape[1]), wide))
        yield Case(f"{name} {shape}", "elementwise", f, types)


def _movements(rng: Any) -> Iterator[Case]:
    for n in range(14):
        shape = (_extent(rng, 4, 32), _extent(rng, 16, 300), _extent(rng, 16, 300))
        order = [(0, 2, 1), (2, 1, 0), (1, 0, 2), (2, 0, 1), (1, 2, 0)][n % 5]
        f = lambda x, order=order: np.transpose(x, order) * np.float32(2)
        yield Case(f"transpose {shape} {order}", "transpose", f, ((shape, F32),))
    for _ in range(6):
        side, channels = _extent(rng, 14, 112), _extent(rng, 16, 128)
        pool = lambda x: reduce_window(
            x, -np.inf, np.maximum, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1))
        )  # fmt: skip
        yield Case(f"pool {channels}x{side}", "pool", pool, (((1, channels, side, side), F32),))
    for _ in range(4):
        plane = (_extent(rng, 30, 600), _extent(rng, 30, 600))
        cross = lambda x: (
            x[1:-1, 1:-1] * -4 + x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
        )
        yield Case(f"stencil {plane}", "stencil", cross, ((plane, F32),))


# -- networks --------------------------------------------------------------------------------------


def _layers(network: str, rows: Iterable[Sequence[int]]) -> Iterator[Case]:
    """Layers of (channels in, side, channels out, window, stride, groups), one image at a time."""
    for inner, side, channels, window, stride, groups in rows:
        shape = (1, inner, side, side)
        yield conv(network, network, shape, channels, window, stride, groups=groups)


RESNET_18: Final = (
    (3, 224, 64, 7, 2, 1), (64, 56, 64, 3, 1, 1), (64, 56, 128, 3, 2, 1), (64, 56, 128, 1, 2, 1),
    (128, 28, 128, 3, 1, 1), (128, 28, 256, 3, 2, 1), (128, 28, 256, 1, 2, 1),
    (256, 14, 256, 3, 1, 1), (256, 14, 512, 3, 2, 1), (256, 14, 512, 1, 2, 1),
    (512, 7, 512, 3, 1, 1),
)  # fmt: skip
RESNET_50: Final = (
    (64, 56, 64, 1, 1, 1), (64, 56, 256, 1, 1, 1), (256, 56, 64, 1, 1, 1), (256, 56, 128, 1, 1, 1),
    (128, 56, 128, 3, 2, 1), (256, 56, 512, 1, 2, 1), (128, 28, 512, 1, 1, 1),
    (512, 28, 128, 1, 1, 1), (512, 28, 256, 1, 1, 1), (256, 28, 256, 3, 2, 1),
    (512, 28, 1024, 1, 2, 1), (256, 14, 1024, 1, 1, 1), (1024, 14, 256, 1, 1, 1),
    (1024, 14, 512, 1, 1, 1), (512, 14, 512, 3, 2, 1), (1024, 14, 2048, 1, 2, 1),
    (512, 7, 2048, 1, 1, 1), (2048, 7, 512, 1, 1, 1),
)  # fmt: skip
MOBILENET: Final = (
    (3, 224, 32, 3, 2, 1), (32, 112, 32, 3, 1, 32), (32, 112, 64, 1, 1, 1), (64, 112, 64, 3, 2, 64),
    (64, 56, 128, 1, 1, 1), (128, 56, 128, 3, 1, 128), (128, 56, 128, 1, 1, 1),
    (128, 56, 128, 3, 2, 128), (128, 28, 256, 1, 1, 1), (256, 28, 256, 3, 1, 256),
    (256, 28, 256, 1, 1, 1), (256, 28, 256, 3, 2, 256), (256, 14, 512, 1, 1, 1),
    (512, 14, 512, 3, 1, 512), (512, 14, 512, 1, 1, 1), (512, 14, 512, 3, 2, 512),
    (512, 7, 1024, 1, 1, 1), (1024, 7, 1024, 3, 1, 1024), (1024, 7, 1024, 1, 1, 1),
)  # fmt: skip
VGG_16: Final = (
    (3, 224, 64, 3, 1, 1), (64, 224, 64, 3, 1, 1), (64, 112, 128, 3, 1, 1),
    (128, 112, 128, 3, 1, 1), (128, 56, 256, 3, 1, 1), (256, 56, 256, 3, 1, 1),
    (256, 28, 512, 3, 1, 1), (512, 28, 512, 3, 1, 1), (512, 14, 512, 3, 1, 1),
)  # fmt: skip


def _image_networks() -> Iterator[Case]:
    networks = {
        "resnet18": RESNET_18, "resnet50": RESNET_50, "mobilenet": MOBILENET, "vgg16": VGG_16,
    }  # fmt: skip
    for name, rows in networks.items():
        yield from _layers(name, rows)
    yield Case(
        "vgg16 dense", "vgg16", lambda x, w, b: _bias_relu(x @ w, b),
        (((1, 4096), F32), ((4096, 4096), F32), ((4096,), F32)), weights=2,
    )  # fmt: skip


def _dense(name: str, family: str, rows: int, inner: int, outer: int, after: Any = None) -> Case:
    f = after or (lambda y, b: y + b)
    return Case(
        f"{name} {rows}x{inner}x{outer}", family, lambda x, w, b: f(x @ w, b),
        (((rows, inner), F32), ((inner, outer), F32), ((outer,), F32)), weights=2,
    )  # fmt: skip


def _transformers() -> Iterator[Case]:
    """A block of GPT-2 (768 wide, 12 heads) for 1 and 64 tokens, and one of BERT for 128."""
    for name, tokens in (("gpt2", 1), ("gpt2", 64), ("bert", 128)):
        width, heads, past = 768, 12, max(tokens, 64)
        norm = (((tokens, width), F32), ((width,), F32), ((width,), F32))
        yield _dense(f"{name} projections", name, tokens, width, 3 * width)
        yield _dense(f"{name} output", name, tokens, width, width)
        yield _dense(f"{name} up", name, tokens, width, 4 * width, _bias_gelu)
        yield _dense(f"{name} down", name, tokens, 4 * width, width)
        yield Case(f"{name} norm {tokens}", name, _layernorm, norm, weights=2)
        yield Case(f"{name} softmax {tokens}", name, _softmax, (((heads, tokens, past), F32),))
        scores = (((heads, tokens, 64), F32), ((heads, past, 64), F32))
        yield Case(
            f"{name} scores {tokens}", name,
            lambda q, k: q @ np.swapaxes(k, -1, -2) * np.float32(0.125), scores,
        )  # fmt: skip
        mixed = (((heads, tokens, past), F32), ((heads, past, 64), F32))
        yield Case(f"{name} mix {tokens}", name, np.matmul, mixed)
    yield Case("gpt2 logits", "gpt2", np.matmul, (((1, 768), F32), ((768, 50257), F32)), weights=1)


def _lstm(x: Any, h: Any, c: Any, w: Any, u: Any, b: Any) -> Any:
    i, f, g, o = np.split(x @ w + h @ u + b, 4, axis=-1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * np.tanh(g)
    return nn.sigmoid(o) * np.tanh(c), c


def _others() -> Iterator[Case]:
    for rows, width in ((1, 256), (16, 512), (64, 1024)):
        state = ((rows, width), F32)
        gates = (((width, 4 * width), F32),) * 2
        bias = ((4 * width,), F32)
        yield Case(f"lstm {rows}x{width}", "lstm", _lstm, (state,) * 3 + (*gates, bias), weights=3)
    for batch in (1, 32):
        for inner, side, channels, window, stride in (
            (4, 84, 32, 8, 4), (32, 20, 64, 4, 2), (64, 9, 64, 3, 1),
        ):  # fmt: skip
            types = (
                ((batch, inner, side, side), F32), ((channels, inner, window, window), F32),
                ((channels,), F32),
            )  # fmt: skip

            def f(x: Any, w: Any, b: Any, stride: int = stride) -> Any:
                y = conv_general_dilated(x, w, (stride, stride), "VALID")
                return np.maximum(y + b[:, None, None], 0)

            yield Case(f"dqn {batch}x{inner}x{side}", "dqn", f, types, weights=2)
        yield _dense(f"dqn {batch}", "dqn", batch, 3136, 512, _bias_relu)
    for inner, side, channels in ((512, 4, 256), (256, 8, 128), (128, 16, 64), (64, 32, 3)):

        def g(x: Any, w: Any) -> Any:
            y = conv_general_dilated(x, w, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2))
            return np.maximum(y, 0)

        both = (((1, inner, side, side), F32), ((channels, inner, 4, 4), F32))
        yield Case(f"dcgan {inner}x{side}", "dcgan", g, both, weights=1)
