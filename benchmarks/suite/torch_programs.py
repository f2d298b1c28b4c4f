"""The workloads in PyTorch's own best form; ONNX models are exported from these.

Knows PyTorch's fused functions (`scaled_dot_product_attention`, `layer_norm`, `lstm`). Functions
take the same arguments as those of `programs.py`, as tensors. Refuses to know shapes and time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor

# -- pointwise -----------------------------------------------------------------------------------


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def black_scholes(spot: Tensor, strike: Tensor, years: Tensor) -> Tensor:
    def cdf(x: Tensor) -> Tensor:
        k = 1.0 / (1.0 + 0.2316419 * x.abs())
        p = k * (0.319381530 + k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978))))
        tail = torch.exp(-0.5 * x * x) * 0.3989422804 * (p + 1.330274429 * k * k * k * k * k)
        return torch.where(x >= 0, 1.0 - tail, tail)

    root = 0.25 * years.sqrt()
    d1 = (torch.log(spot / strike) + (0.03 + 0.5 * 0.25**2) * years) / root
    return spot * cdf(d1) - strike * torch.exp(-0.03 * years) * cdf(d1 - root)


def chain12(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    y = (x * row + column) * 0.5
    y = torch.where(y > 0, y * y, -0.1 * y)
    return torch.sqrt(y.abs() + 1.0) - torch.minimum(y, x) / (1.0 + y * y)


def waves(x: Tensor) -> Tensor:
    return 2 * x + torch.sin(x) ** 2 + torch.exp(-x * x)


def angle(y: Tensor, x: Tensor) -> Tensor:
    return torch.atan2(y, x)


def powers(x: Tensor) -> Tensor:
    return x**2.5


def mandelbrot(real: Tensor, imaginary: Tensor) -> Tensor:
    a = torch.zeros_like(real)
    b, count = torch.zeros_like(real), torch.zeros_like(real)
    for _ in range(100):
        inside = a * a + b * b <= 4.0
        after = a * a - b * b + real
        b = torch.where(inside, 2 * a * b + imaginary, b)
        a = torch.where(inside, after, a)
        count = count + inside.to(count.dtype)
    return count


# -- rows and columns ----------------------------------------------------------------------------


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def layernorm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], scale, shift)


def residual_layernorm(x: Tensor, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return layernorm(x + y, scale, shift)


def logsumexp(x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


def mean_var_axis0(x: Tensor) -> tuple[Tensor, Tensor]:
    if torch.onnx.is_in_onnx_export():  # var_mean exports as a longer chain
        mean = x.mean(0)
        return mean, ((x - mean) ** 2).mean(0)
    variance, mean = torch.var_mean(x, 0, correction=0)
    return mean, variance


def argmax(x: Tensor) -> Tensor:
    return torch.argmax(x, -1)


def cumsum(x: Tensor) -> Tensor:
    return torch.cumsum(x, -1)


def sort(x: Tensor) -> Tensor:
    return torch.sort(x, -1).values


# -- products ------------------------------------------------------------------------------------


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def linear_gelu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.gelu(torch.addmm(b, x, w), approximate="tanh")


def int8_dynamic_matmul(x: Tensor, w: Tensor, w_scale: Tensor) -> Tensor:
    scale = x.abs().max() / 127
    q = torch.round(x / scale).to(torch.int8)
    return torch._int_mm(q, w) * (scale * w_scale)


# -- convolutions --------------------------------------------------------------------------------


def conv2d(
    x: Tensor, w: Tensor, stride: int = 1, pad: int = 0, groups: int = 1, dilation: int = 1
) -> Tensor:
    return F.conv2d(x, w, None, stride, pad, dilation, groups)


# -- attention -----------------------------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if not torch.onnx.is_in_onnx_export():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5)
    hidden = torch.full(scores.shape[-2:], -1e30).triu(1)
    return torch.softmax(scores + hidden, -1) @ v


def attention_full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if not torch.onnx.is_in_onnx_export():
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax(q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5), -1) @ v


def attention_grad(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    return torch.autograd.grad(attention(*inputs), inputs, g)


# -- networks ------------------------------------------------------------------------------------


def norm(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)


def resnet18(x: Tensor, params: Any) -> Tensor:
    p = iter(params)

    def conv_norm(x: Tensor, stride: int, pad: int) -> Tensor:
        w, *rest = (next(p) for _ in range(5))
        return norm(conv2d(x, w, stride, pad), *rest)

    x = F.max_pool2d(F.relu(conv_norm(x, 2, 3)), 3, 2, 1)
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            y = conv_norm(F.relu(conv_norm(x, stride, 1)), 1, 1)
            x = F.relu(y + (conv_norm(x, 2, 0) if stride == 2 else x))
    w, b = p
    return torch.addmm(b, x.mean((2, 3)), w)


def mobilenet_v1(x: Tensor, params: Any) -> Tensor:
    p = iter(params)

    def conv_norm(x: Tensor, stride: int, pad: int, groups: int = 1) -> Tensor:
        w, *rest = (next(p) for _ in range(5))
        return F.relu(norm(conv2d(x, w, stride, pad, groups), *rest))

    x = conv_norm(x, 2, 1)
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        x = conv_norm(conv_norm(x, stride, 1, int(x.shape[1])), 1, 0)
    w, b = p
    return torch.addmm(b, x.mean((2, 3)), w)


def dqn(x: Tensor, params: Any) -> Tensor:
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = params
    x = F.relu(F.conv2d(x, w1, b1, 4))
    x = F.relu(F.conv2d(x, w2, b2, 2))
    x = F.relu(F.conv2d(x, w3, b3, 1))
    return torch.addmm(b5, F.relu(torch.addmm(b4, x.flatten(1), w4)), w5)


def dcgan_generator(z: Tensor, params: Any) -> Tensor:
    p = iter(params)

    def normed(x: Tensor) -> Tensor:
        return F.relu(norm(x, *(next(p) for _ in range(4))))

    x = normed(F.conv_transpose2d(z, next(p)))
    for _ in range(3):
        x = normed(F.conv_transpose2d(x, next(p), stride=2, padding=1))
    return torch.tanh(F.conv_transpose2d(x, next(p), stride=2, padding=1))


def _heads(x: Tensor, heads: int) -> list[Tensor]:
    t, width = x.shape
    return list(x.reshape(t, 3, heads, width // 3 // heads).permute(1, 2, 0, 3))


def _merged(x: Tensor) -> Tensor:
    heads, t, d = x.shape
    return x.transpose(0, 1).reshape(t, heads * d)


def gpt2_block_prefill(x: Tensor, params: Any) -> Tensor:
    s1, t1, w_qkv, b_qkv, w_out, b_out, s2, t2, w_up, b_up, w_down, b_down = params
    q, k, v = _heads(torch.addmm(b_qkv, layernorm(x, s1, t1), w_qkv), 12)
    x = x + torch.addmm(b_out, _merged(attention(q[None], k[None], v[None])[0]), w_out)
    return x + torch.addmm(b_down, linear_gelu(layernorm(x, s2, t2), w_up, b_up), w_down)


def gpt2_block_decode(x: Tensor, keys: Tensor, values: Tensor, params: Any) -> tuple[Tensor, ...]:
    s1, t1, w_qkv, b_qkv, w_out, b_out, s2, t2, w_up, b_up, w_down, b_down = params
    q, k, v = _heads(torch.addmm(b_qkv, layernorm(x, s1, t1), w_qkv), 12)
    q = q * (q.shape[-1] ** -0.5)
    own = (q * k).sum(-1, keepdim=True)
    weights = torch.softmax(torch.cat([q @ keys.transpose(-1, -2), own], -1), -1)
    mixed = weights[..., :-1] @ values + weights[..., -1:] * v
    x = x + torch.addmm(b_out, _merged(mixed), w_out)
    y = torch.addmm(b_down, linear_gelu(layernorm(x, s2, t2), w_up, b_up), w_down)
    return x + y, k, v


class Lstm(torch.nn.Module):
    """The module holds the LSTM's weights in PyTorch's own layout, from the first call on."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm: torch.nn.LSTM | None = None

    def forward(self, tokens: Tensor, embedding: Tensor, w_in: Tensor, w_state: Tensor, b: Tensor,
                w_out: Tensor, b_out: Tensor) -> Tensor:  # fmt: skip
        if self.lstm is None:
            self.lstm = torch.nn.LSTM(w_in.shape[0], w_state.shape[0]).requires_grad_(False)
            weights = (w_in.T, w_state.T, b, torch.zeros_like(b))
            with torch.no_grad():
                for held, w in zip(self.lstm.parameters(), weights, strict=True):
                    held.copy_(w)
        states, _ = self.lstm(embedding[tokens])
        return torch.addmm(b_out, states, w_out)


# -- training ------------------------------------------------------------------------------------


def _mlp_loss(params: Any, x: Tensor, labels: Tensor) -> Tensor:
    w1, b1, w2, b2, w3, b3 = params
    h = torch.relu(torch.addmm(b2, torch.relu(torch.addmm(b1, x, w1)), w2))
    return F.cross_entropy(torch.addmm(b3, h, w3), labels)


def _cnn_loss(params: Any, x: Tensor, labels: Tensor) -> Tensor:
    w1, b1, w2, b2, w3, b3 = params
    x = F.max_pool2d(torch.relu(F.conv2d(x, w1, b1, padding=1)), 2)
    x = F.max_pool2d(torch.relu(F.conv2d(x, w2, b2, padding=1)), 2)
    return F.cross_entropy(torch.addmm(b3, x.flatten(1), w3), labels)


def _block_loss(params: Any, x: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(gpt2_block_prefill(x, params), target)


def _train(loss: Any, params: Any, x: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
    params = [p.detach().requires_grad_() for p in params]
    value = loss(params, x, target)
    gradient = torch.autograd.grad(value, params)
    with torch.no_grad():
        return value.detach(), torch._foreach_add(params, gradient, alpha=-0.01)


def train_mlp(params: Any, x: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    return _train(_mlp_loss, params, x, labels)


def train_cnn(params: Any, x: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    return _train(_cnn_loss, params, x, labels)


def train_transformer_block(params: Any, x: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
    return _train(_block_loss, params, x, target)


# -- science -------------------------------------------------------------------------------------


def heat2d(u: Tensor) -> Tensor:
    for _ in range(20):
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        u = F.pad(u[1:-1, 1:-1] + 0.2 * (around - 4 * u[1:-1, 1:-1]), (1, 1, 1, 1))
    return u


def nbody(position: Tensor, velocity: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    x, v = position, velocity
    for _ in range(10):
        d = x[None, :, :] - x[:, None, :]
        pull = mass[None, :] * ((d * d).sum(-1) + 1e-2) ** -1.5
        v = v + 0.01 * (d * pull[..., None]).sum(1)
        x = x + 0.01 * v
    return x, v


def pairwise_dist(x: Tensor) -> Tensor:
    if not torch.onnx.is_in_onnx_export():
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    d = x[:, None, :] - x[None, :, :]
    return (d * d).sum(-1).sqrt()


def kernel_density(x: Tensor, samples: Tensor) -> Tensor:
    d = x[:, None, :] - samples[None, :, :]
    return torch.exp(-0.5 * (d * d).sum(-1)).sum(1)


def lennard_jones(x: Tensor) -> Tensor:
    def energy(x: Tensor) -> Tensor:
        d = x[:, None, :] - x[None, :, :]
        s = ((d * d).sum(-1) + torch.eye(len(x), dtype=x.dtype)) ** -3
        return 2 * (s * s - s).sum()

    return torch.func.grad(energy)(x)


def hessian_logreg(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    def loss(w: Tensor) -> Tensor:
        return F.softplus(-y * (x @ w)).mean() + 0.005 * (w * w).sum()

    return torch.func.hessian(loss)(w)


def batched_solve(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve(a, b)


def jacobi(a: Tensor, b: Tensor) -> Tensor:
    diagonal = a.diagonal()
    x, change = b / diagonal, 1.0
    while change > 1e-5:
        after = x + (b - a @ x) / diagonal
        change = float((after - x).abs().max())
        x = after
    return x


# -- small ---------------------------------------------------------------------------------------


def add1(x: Tensor) -> Tensor:
    return x + 1


def tree12(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x + 1 for name, x in tree.items()}


def elementwise10(x: Tensor) -> Tensor:
    y = x * 2 + 1
    y = torch.maximum(y * y, x.new_full((), 0.5)) - x
    y = torch.sqrt(y.abs() + 1)
    return y / (1 + x * x)


# -- weights -------------------------------------------------------------------------------------


class WithWeights(torch.nn.Module):
    """A function some of whose arguments, tensors or lists of them, are the module's parameters:
    what compilers may lay out anew."""

    def __init__(self, function: Any, values: tuple[Any, ...], constants: tuple[int, ...]) -> None:
        super().__init__()
        self.function, self.count, self.constants = function, len(values), constants
        self.lists = {i for i in constants if isinstance(values[i], list)}
        for i in constants:
            held = values[i] if i in self.lists else [values[i]]
            parameters = [torch.nn.Parameter(x, requires_grad=False) for x in held]
            setattr(self, f"argument{i}", torch.nn.ParameterList(parameters))

    def forward(self, *inputs: Any) -> Any:
        free, arguments = iter(inputs), []
        for i in range(self.count):
            if i in self.constants:
                held = list(getattr(self, f"argument{i}"))
                arguments.append(held if i in self.lists else held[0])
            else:
                arguments.append(next(free))
        return self.function(*arguments)
