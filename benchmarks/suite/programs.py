"""Every workload once, as a user writes it: plain NumPy, with `lax` and `tw` where NumPy has
no name.

Knows what is computed. Refuses to know shapes, peers and time. The file is read three times:
as it stands (Tilewright), with its imports changed to JAX's, and with them changed to the stand-ins
of `stand_ins.py` (NumPy itself, and the float64 reference). It therefore uses only what all three
share.
"""

from __future__ import annotations

import numpy as np

import tilewright as tw
from tilewright import lax

# -- pointwise -----------------------------------------------------------------------------------


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def black_scholes(spot, strike, years):
    """A European call; the normal distribution function after Abramowitz and Stegun 26.2.17."""

    def cdf(x):
        k = 1.0 / (1.0 + 0.2316419 * np.abs(x))
        p = k * (0.319381530 + k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978))))
        tail = np.exp(-0.5 * x * x) * 0.3989422804 * (p + 1.330274429 * k * k * k * k * k)
        return np.where(x >= 0, 1.0 - tail, tail)

    root = 0.25 * np.sqrt(years)
    d1 = (np.log(spot / strike) + (0.03 + 0.5 * 0.25**2) * years) / root
    return spot * cdf(d1) - strike * np.exp(-0.03 * years) * cdf(d1 - root)


def chain12(x, row, column):
    """A dozen mixed operations with broadcasting and a choice."""
    y = (x * row + column) * 0.5
    y = np.where(y > 0, y * y, -0.1 * y)
    return np.sqrt(np.abs(y) + 1.0) - np.minimum(y, x) / (1.0 + y * y)


def waves(x):
    return 2 * x + np.sin(x) ** 2 + np.exp(-x * x)


def angle(y, x):
    return np.arctan2(y, x)


def powers(x):
    return x**2.5


def mandelbrot(real, imaginary):
    """How many of 100 iterations of z*z + c stay within the circle of radius 2."""

    def step(_, state):
        a, b, count = state
        inside = a * a + b * b <= 4.0
        after = a * a - b * b + real
        b = np.where(inside, 2 * a * b + imaginary, b)
        return np.where(inside, after, a), b, count + inside

    zero = np.zeros_like(real)
    return lax.fori_loop(0, 100, step, (zero, zero, zero))[2]


# -- rows and columns ----------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layernorm(x, scale, shift):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def residual_layernorm(x, y, scale, shift):
    return layernorm(x + y, scale, shift)


def logsumexp(x):
    peak = x.max(axis=-1, keepdims=True)
    return np.log(np.exp(x - peak).sum(axis=-1)) + peak[..., 0]


def mean_var_axis0(x):
    return x.mean(axis=0), x.var(axis=0)


def argmax(x):
    return np.argmax(x, axis=-1)


def cumsum(x):
    return np.cumsum(x, axis=-1)


def sort(x):
    return np.sort(x, axis=-1)


# -- products ------------------------------------------------------------------------------------


def matmul(a, b):
    return a @ b


def linear_gelu(x, w, b):
    return gelu_tanh(x @ w + b)


def int8_dynamic_matmul(x, w, w_scale):
    """x is quantised by its largest magnitude, w column by column ahead of time."""
    scale = np.max(np.abs(x)) / 127
    q = np.round(x / scale).astype(w.dtype)
    total = lax.dot(q, w, preferred_element_type=np.int32)
    return total * (scale * w_scale)


# -- convolutions --------------------------------------------------------------------------------


def conv2d(x, w, stride=1, pad=0, groups=1, dilation=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(pad, pad), (pad, pad)], rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
    )  # fmt: skip


def conv2d_nhwc(x, w, stride=1, pad=0, groups=1, dilation=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(pad, pad), (pad, pad)], rhs_dilation=(dilation, dilation),
        feature_group_count=groups, dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def deconv2d(x, w, stride, pad):
    """The transpose of a convolution; w has [in, out, height, width] as in its gradient."""
    k = w.shape[-1] - 1 - pad
    flipped = np.flip(np.swapaxes(w, 0, 1), (2, 3))
    return lax.conv_general_dilated(
        x, flipped, (1, 1), [(k, k), (k, k)], lhs_dilation=(stride, stride)
    )


def max_pool(x, k, stride, pad):
    window, strides = (1, 1, k, k), (1, 1, stride, stride)
    return lax.reduce_window(
        x, -np.inf, lax.max, window, strides, [(0, 0), (0, 0), (pad, pad), (pad, pad)]
    )


def batch_norm(x, scale, shift, mean, variance):
    s = scale / np.sqrt(variance + 1e-5)
    return x * s[:, None, None] + (shift - mean * s)[:, None, None]


# -- attention -----------------------------------------------------------------------------------


def attention(q, k, v):
    """softmax(q kT / sqrt(d)) v over [batch, heads, positions, d]; each position sees those up to
    its own."""
    scores = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5)
    t, s = scores.shape[-2:]
    seen = np.arange(s) <= np.arange(t)[:, None] + (s - t)
    return softmax(np.where(seen, scores, -1e30)) @ v


def attention_loss(q, k, v, g):
    return (attention(q, k, v) * g).sum()


def attention_grad(q, k, v, g):
    return tw.grad(attention_loss, argnums=(0, 1, 2))(q, k, v, g)


def attention_full(q, k, v):
    scores = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5)
    return softmax(scores) @ v


# -- networks ------------------------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0)


def resnet18(x, params):
    p = iter(params)

    def conv_norm(x, stride, pad):
        w, *norm = (next(p) for _ in range(5))
        return batch_norm(conv2d(x, w, stride, pad), *norm)

    x = max_pool(relu(conv_norm(x, 2, 3)), 3, 2, 1)
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            y = conv_norm(relu(conv_norm(x, stride, 1)), 1, 1)
            x = relu(y + (conv_norm(x, 2, 0) if stride == 2 else x))
    w, b = p
    return x.mean(axis=(2, 3)) @ w + b


def mobilenet_v1(x, params):
    p = iter(params)

    def conv_norm(x, stride, pad, groups=1):
        w, *norm = (next(p) for _ in range(5))
        return relu(batch_norm(conv2d(x, w, stride, pad, groups), *norm))

    x = conv_norm(x, 2, 1)
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        x = conv_norm(conv_norm(x, stride, 1, x.shape[1]), 1, 0)
    w, b = p
    return x.mean(axis=(2, 3)) @ w + b


def dqn(x, params):
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = params
    x = relu(conv2d(x, w1, 4) + b1[:, None, None])
    x = relu(conv2d(x, w2, 2) + b2[:, None, None])
    x = relu(conv2d(x, w3, 1) + b3[:, None, None])
    x = relu(x.reshape(x.shape[0], -1) @ w4 + b4)
    return x @ w5 + b5


def dcgan_generator(z, params):
    p = iter(params)

    def norm(x):
        return relu(batch_norm(x, *(next(p) for _ in range(4))))

    x = norm(deconv2d(z, next(p), 1, 0))
    for _ in range(3):
        x = norm(deconv2d(x, next(p), 2, 1))
    return np.tanh(deconv2d(x, next(p), 2, 1))


def split_heads(x, heads):
    """[positions, 3 * width] -> queries, keys, values of [heads, positions, width / heads]."""
    t, width = x.shape
    x = x.reshape(t, 3, heads, width // 3 // heads)
    return [np.swapaxes(x[:, i], 0, 1) for i in range(3)]


def merge_heads(x):
    heads, t, d = x.shape
    return np.swapaxes(x, 0, 1).reshape(t, heads * d)


def gpt2_block_prefill(x, params):
    """One block of GPT-2: x [positions, width]."""
    s1, t1, w_qkv, b_qkv, w_out, b_out, s2, t2, w_up, b_up, w_down, b_down = params
    q, k, v = split_heads(layernorm(x, s1, t1) @ w_qkv + b_qkv, 12)
    x = x + merge_heads(attention(q, k, v)) @ w_out + b_out
    return x + gelu_tanh(layernorm(x, s2, t2) @ w_up + b_up) @ w_down + b_down


def gpt2_block_decode(x, keys, values, params):
    """One token [1, width] over a cache [heads, positions, d]; gives its own key and value too."""
    s1, t1, w_qkv, b_qkv, w_out, b_out, s2, t2, w_up, b_up, w_down, b_down = params
    q, k, v = split_heads(layernorm(x, s1, t1) @ w_qkv + b_qkv, 12)
    q = q * (q.shape[-1] ** -0.5)
    own = (q * k).sum(axis=-1, keepdims=True)
    weights = softmax(np.concatenate([q @ np.swapaxes(keys, -1, -2), own], axis=-1))
    mixed = weights[..., :-1] @ values + weights[..., -1:] * v
    x = x + merge_heads(mixed) @ w_out + b_out
    return x + gelu_tanh(layernorm(x, s2, t2) @ w_up + b_up) @ w_down + b_down, k, v


def lstm_lm(tokens, embedding, w_in, w_state, b, w_out, b_out):
    """A language model of one LSTM layer (gates i, f, g, o): the logits after every token."""
    width = w_state.shape[0]
    inputs = embedding[tokens] @ w_in + b

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def step(state, gates):
        h, c = state
        i, f, g, o = np.split(gates + h @ w_state, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return (h, c), h

    zero = np.zeros(width, inputs.dtype)
    _, states = lax.scan(step, (zero, zero), inputs)
    return states @ w_out + b_out


# -- training ------------------------------------------------------------------------------------


def cross_entropy(logits, labels):
    picked = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return (logsumexp(logits) - picked).mean()


def mlp_loss(params, x, labels):
    w1, b1, w2, b2, w3, b3 = params
    return cross_entropy(relu(relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3, labels)


def cnn_loss(params, x, labels):
    w1, b1, w2, b2, w3, b3 = params

    def halved(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))

    x = halved(relu(conv2d(x, w1, 1, 1) + b1[:, None, None]))
    x = halved(relu(conv2d(x, w2, 1, 1) + b2[:, None, None]))
    return cross_entropy(x.reshape(x.shape[0], -1) @ w3 + b3, labels)


def block_loss(params, x, target):
    return ((gpt2_block_prefill(x, params) - target) ** 2).mean()


def train(loss, params, x, target):
    """Loss, gradient and a step of SGD: the loss, then the new parameters."""
    value, gradient = tw.value_and_grad(loss)(params, x, target)
    return value, [p - 0.01 * g for p, g in zip(params, gradient)]


def train_mlp(params, x, labels):
    return train(mlp_loss, params, x, labels)


def train_cnn(params, x, labels):
    return train(cnn_loss, params, x, labels)


def train_transformer_block(params, x, target):
    return train(block_loss, params, x, target)


# -- science -------------------------------------------------------------------------------------


def heat2d(u):
    """Twenty explicit steps of the heat equation, the rim held at zero."""

    def step(_, u):
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        return np.pad(u[1:-1, 1:-1] + 0.2 * (around - 4 * u[1:-1, 1:-1]), 1)

    return lax.fori_loop(0, 20, step, u)


def nbody(position, velocity, mass):
    """Ten steps of softened gravity between all pairs; position and velocity are [n, 3]."""

    def step(_, state):
        x, v = state
        d = x[None, :, :] - x[:, None, :]
        pull = mass[None, :] * ((d * d).sum(axis=-1) + 1e-2) ** -1.5
        v = v + 0.01 * (d * pull[..., None]).sum(axis=1)
        return x + 0.01 * v, v

    return lax.fori_loop(0, 10, step, (position, velocity))


def pairwise_dist(x):
    d = x[:, None, :] - x[None, :, :]
    return np.sqrt((d * d).sum(axis=-1))


def kernel_density(x, samples):
    """Gaussian kernels around the samples [m, d], added up at the points [n, d]."""
    d = x[:, None, :] - samples[None, :, :]
    return np.exp(-0.5 * (d * d).sum(axis=-1)).sum(axis=1)


def lennard_jones_energy(x):
    """Of all pairs of points [n, 3]; a point has none with itself."""
    d = x[:, None, :] - x[None, :, :]
    s = ((d * d).sum(axis=-1) + np.eye(len(x), dtype=x.dtype)) ** -3
    return 2 * (s * s - s).sum()


def lennard_jones(x):
    return tw.grad(lennard_jones_energy)(x)


def logistic_loss(w, x, y):
    return np.logaddexp(0, -y * (x @ w)).mean() + 0.005 * (w * w).sum()


def hessian_logreg(w, x, y):
    return tw.hessian(logistic_loss)(w, x, y)


def batched_solve(a, b):
    return np.linalg.solve(a, b)


def jacobi(a, b):
    """Jacobi's iteration until the largest change is below 1e-5."""
    diagonal = np.diagonal(a)

    def step(state):
        x, _ = state
        after = x + (b - a @ x) / diagonal
        return after, np.max(np.abs(after - x))

    return lax.while_loop(lambda s: s[1] > 1e-5, step, (b / diagonal, np.max(np.abs(b))))[0]


# -- small ---------------------------------------------------------------------------------------


def add1(x):
    return x + 1


def tree12(tree):
    return {name: x + 1 for name, x in tree.items()}


def elementwise10(x):
    y = x * 2 + 1
    y = np.maximum(y * y, 0.5) - x
    y = np.sqrt(np.abs(y) + 1)
    return y / (1 + x * x)
