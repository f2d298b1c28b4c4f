"""NumPy programs a user would bring: finance, physics, signals, images, statistics, learning.

Each is plain NumPy, written as its field writes it, and knows nothing of the compiler. Beside each
stands how to make its arguments from a seeded generator and how closely results must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Program:
    """A function, its arguments, and the relative error rounding may cause."""

    function: Callable[..., Any]
    arguments: Callable[[np.random.Generator], tuple[Any, ...]]
    tolerance: float


PROGRAMS: dict[str, Program] = {}


def program(
    arguments: Callable[[np.random.Generator], tuple[Any, ...]], tolerance: float = 1e-10
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """List a function; `tolerance` is about a thousand roundings of its dtype."""

    def listed(function: Callable[..., Any]) -> Callable[..., Any]:
        PROGRAMS[function.__name__] = Program(function, arguments, tolerance)
        return function

    return listed


SINGLE = 1e-4
"""Tolerance of float32 programs."""


def f32(x: Any) -> Any:
    return np.asarray(x, np.float32)


# -- finance -----------------------------------------------------------------------------------


@program(lambda r: (r.uniform(80, 120, 1000), r.uniform(90, 110, 1000), r.uniform(0.1, 2, 1000)))
def black_scholes(spot, strike, years, rate=0.03, volatility=0.25):
    """Call and put, the normal distribution by Abramowitz and Stegun's 26.2.17."""

    def normal_cdf(x):
        k = 1.0 / (1.0 + 0.2316419 * np.abs(x))
        poly = 0.319381530 + k * (
            -0.356563782 + k * (1.781477937 + k * (-1.821255978 + k * 1.330274429))
        )
        tail = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi) * k * poly
        return np.where(x >= 0, 1.0 - tail, tail)

    root = volatility * np.sqrt(years)
    d1 = (np.log(spot / strike) + (rate + 0.5 * volatility**2) * years) / root
    d2 = d1 - root
    discounted = strike * np.exp(-rate * years)
    call = spot * normal_cdf(d1) - discounted * normal_cdf(d2)
    return call, call - spot + discounted


@program(lambda r: (r.standard_normal((252, 500)), 100.0, 105.0))
def asian_option(shocks, spot, strike):
    """Monte-Carlo payoff of an option on the average price of daily log-normal paths."""
    days = shocks.shape[0]
    dt = 1 / days
    steps = (0.02 - 0.5 * 0.3**2) * dt + 0.3 * np.sqrt(dt) * shocks
    prices = spot * np.exp(np.cumsum(steps, axis=0))
    payoff = np.maximum(prices.mean(axis=0) - strike, 0.0) * np.exp(-0.02)
    return payoff.mean(), payoff.std(ddof=1) / np.sqrt(payoff.size)


@program(lambda r: (r.normal(0.0005, 0.01, (250, 8)), np.full(8, 1 / 8)))
def portfolio_risk(returns, weights):
    """Volatility, Sharpe ratio, worst drawdown and historical value at risk of a portfolio."""
    centred = returns - returns.mean(axis=0)
    covariance = centred.T @ centred / (len(returns) - 1)
    volatility = np.sqrt(weights @ covariance @ weights)
    daily = returns @ weights
    wealth = np.cumprod(1 + daily)
    below = [wealth[: i + 1].max() for i in range(0, len(wealth), 50)]
    value_at_risk = -np.sort(daily)[len(daily) // 20]
    return volatility, daily.mean() / volatility, np.stack(below), value_at_risk


# -- physics and simulation --------------------------------------------------------------------


@program(lambda r: (r.standard_normal((40, 3)), r.standard_normal((40, 3)), r.uniform(1, 2, 40)))
def nbody_step(position, velocity, mass, dt=0.01, softening=0.1):
    """One leapfrog step of gravity."""

    def acceleration(x):
        offset = x[None, :, :] - x[:, None, :]
        squared = (offset**2).sum(axis=-1) + softening**2
        return (offset * (mass / squared**1.5)[:, :, None]).sum(axis=1)

    velocity = velocity + 0.5 * dt * acceleration(position)
    position = position + dt * velocity
    velocity = velocity + 0.5 * dt * acceleration(position)
    return position, velocity


@program(lambda r: (r.random((33, 47)),))
def heat_steps(u):
    """Five explicit steps of the heat equation, the border held."""
    for _ in range(5):
        inner = u[1:-1, 1:-1]
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        new = u.copy()
        new[1:-1, 1:-1] = inner + 0.2 * (around - 4 * inner)
        u = new
    return u


@program(lambda r: (np.zeros((24, 24)), r.standard_normal((24, 24))))
def jacobi_sweeps(u, f):
    """Poisson's equation: sweeps written into slices of a copy, and the residual."""
    u = u.copy()
    for _ in range(10):
        u[1:-1, 1:-1] = 0.25 * (
            u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] - f[1:-1, 1:-1]
        )
    laplacian = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] - 4 * u[1:-1, 1:-1]
    return u, np.abs(laplacian - f[1:-1, 1:-1]).max()


@program(lambda r: (0.5 + 0.1 * r.random((32, 32)), 0.25 * r.random((32, 32))))
def gray_scott(u, v):
    """Reaction and diffusion on a torus, by rolling."""
    for _ in range(4):
        lu, lv = (
            np.roll(w, 1, 0) + np.roll(w, -1, 0) + np.roll(w, 1, 1) + np.roll(w, -1, 1) - 4 * w
            for w in (u, v)
        )
        uvv = u * v * v
        u = u + 0.16 * lu - uvv + 0.035 * (1 - u)
        v = v + 0.08 * lv + uvv - 0.095 * v
    return np.stack([u, v])


@program(lambda r: (r.random((20, 30)) < 0.3,))
def game_of_life(cells):
    """Conway's rules on a torus of booleans."""
    alive = cells.astype(np.int8)
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    neighbours = sum(np.roll(alive, s, axis=(0, 1)) for s in shifts)
    return (neighbours == 3) | (cells & (neighbours == 2))


@program(lambda r: (r.choice([-1, 1], (31, 16)),))
def ising_energy(spins):
    """Energy and magnetisation of a lattice of integer spins, open borders."""
    energy = -(spins[1:] * spins[:-1]).sum() - (spins[:, 1:] * spins[:, :-1]).sum()
    return energy, spins.mean(), np.abs(spins.sum(axis=0)).max()


@program(lambda r: (np.array([0.99, 0.01, 0.0]), 0.4, 0.1))
def sir_epidemic(state, infection, recovery):
    """Fifty Euler steps of the SIR model, the whole course returned."""
    course = [state]
    for _ in range(50):
        s, i, _recovered = state
        new, healed = infection * s * i, recovery * i
        state = state + 0.5 * np.stack([-new, new - healed, healed])
        course.append(state)
    return np.stack(course)


@program(lambda r: (r.uniform(-1, 1, (9, 3)),))
def lorenz_rk4(states):
    """Twenty Runge-Kutta steps of nine Lorenz systems at once."""

    def slope(p):
        x, y, z = p[:, 0], p[:, 1], p[:, 2]
        return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], axis=1)

    h = 0.01
    for _ in range(20):
        k1 = slope(states)
        k2 = slope(states + h / 2 * k1)
        k3 = slope(states + h / 2 * k2)
        k4 = slope(states + h * k3)
        states = states + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return states


@program(lambda r: (np.linspace(-2, 0.6, 40), np.linspace(-1.2, 1.2, 30)))
def mandelbrot(re, im):
    """Iterations until escape, at most thirty."""
    c = re[None, :] + 1j * im[:, None]
    z = np.zeros_like(c)
    count = np.zeros_like(c.real, dtype=np.int32)
    for _ in range(30):
        inside = z.real**2 + z.imag**2 <= 4
        z = np.where(inside, z * z + c, z)
        count += inside
    return count


@program(lambda r: (r.standard_normal((7, 4)), r.standard_normal((7, 3))))
def quaternion_rotation(q, v):
    """Rotate vectors by unit quaternions (w, x, y, z)."""
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    w, u = q[:, :1], q[:, 1:]

    def cross(a, b):
        return np.stack(
            [
                a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1],
                a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
                a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0],
            ],
            axis=-1,
        )

    t = 2 * cross(u, v)
    return v + w * t + cross(u, t)


@program(lambda r: (r.uniform(-90, 90, 20), r.uniform(-180, 180, 20)))
def haversine(latitude, longitude):
    """Great-circle distances in km between all pairs."""
    phi, lam = np.deg2rad(latitude), np.deg2rad(longitude)
    a = np.sin((phi[:, None] - phi) / 2) ** 2
    a = a + np.cos(phi)[:, None] * np.cos(phi) * np.sin((lam[:, None] - lam) / 2) ** 2
    return 2 * 6371.0 * np.arcsin(np.sqrt(np.clip(a, 0, 1)))


# -- signals and images ------------------------------------------------------------------------


@program(lambda r: (r.standard_normal(512),))
def spectrogram(signal, size=64, hop=32):
    """Power in decibels of overlapping windowed frames, by the DFT's matrix."""
    starts = np.arange(0, signal.shape[0] - size + 1, hop)
    frames = signal[starts[:, None] + np.arange(size)] * np.hanning(size)
    angle = 2 * np.pi * np.arange(size)[:, None] * np.arange(size // 2 + 1) / size
    real, imag = frames @ np.cos(angle), frames @ -np.sin(angle)
    return 10 * np.log10(real**2 + imag**2 + 1e-12)


@program(lambda r: (r.standard_normal((3, 100)), r.standard_normal((5, 3, 7))))
def conv1d(x, kernels):
    """A bank of filters over channels, by stacking shifts."""
    width = kernels.shape[-1]
    n = x.shape[-1] - width + 1
    windows = np.stack([x[:, k : k + n] for k in range(width)], axis=-1)
    return np.einsum("cnk,ock->on", windows, kernels)


@program(lambda r: (r.standard_normal(200).cumsum(),))
def savitzky_golay(y):
    """Smoothing by a local quadratic (window 5), and the trend's turning points."""
    weights = np.array([-3.0, 12.0, 17.0, 12.0, -3.0]) / 35
    padded = np.pad(y, 2, mode="edge")
    smooth = sum(w * padded[k : k + len(y)] for k, w in enumerate(weights))
    slope = smooth[1:] - smooth[:-1]
    return smooth, (slope[1:] * slope[:-1] < 0).sum()


@program(lambda r: (r.standard_normal(300),))
def moving_average(x, width=20):
    """By differences of the cumulative sum."""
    total = np.concatenate([np.zeros(1), np.cumsum(x)])
    return (total[width:] - total[:-width]) / width


@program(lambda r: (r.integers(0, 256, (24, 31)).astype(np.uint8),))
def sobel(image):
    """Edges of a grey image, back in bytes."""
    p = np.pad(image.astype(np.float64), 1, mode="constant")
    gx = p[:-2, 2:] + 2 * p[1:-1, 2:] + p[2:, 2:] - p[:-2, :-2] - 2 * p[1:-1, :-2] - p[2:, :-2]
    gy = p[2:, :-2] + 2 * p[2:, 1:-1] + p[2:, 2:] - p[:-2, :-2] - 2 * p[:-2, 1:-1] - p[:-2, 2:]
    strength = np.hypot(gx, gy)
    return np.clip(np.round(255 * strength / strength.max()), 0, 255).astype(np.uint8)


@program(lambda r: (r.random((16, 20)), r.uniform(0, 14.9, 50), r.uniform(0, 18.9, 50)))
def bilinear(image, y, x):
    """Values of an image between its pixels."""
    y0, x0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    fy, fx = y - y0, x - x0
    top = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
    bottom = image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy


@program(lambda r: (r.integers(0, 64, (20, 20)),))
def equalise(image):
    """Histogram equalisation by ranks: where each grey value falls among all pixels."""
    ordered = np.sort(image.ravel())
    levels = np.arange(64)
    cumulative = np.searchsorted(ordered, levels, side="right")
    table = np.round(cumulative / image.size * 63).astype(np.int64)
    return table[image]


@program(lambda r: (f32(r.random((12, 16, 3))),), SINGLE)
def colour_to_hsv_value(rgb):
    """Hue in degrees, saturation and value of every pixel."""
    value, low = rgb.max(axis=-1), rgb.min(axis=-1)
    delta = value - low
    safe = np.where(delta == 0, np.float32(1), delta)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = np.where(
        value == r, (g - b) / safe % 6, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    saturation = np.where(value == 0, 0, delta / np.maximum(value, 1e-6))
    return np.stack([60 * np.where(delta == 0, 0, hue), saturation, value], axis=-1)


# -- statistics and classical learning ---------------------------------------------------------


@program(lambda r: (r.standard_normal((60, 4)), r.standard_normal((3, 4))))
def kmeans_step(points, centres):
    """Assign to the nearest centre, then move the centres."""
    squared = ((points[:, None, :] - centres[None, :, :]) ** 2).sum(-1)
    label = squared.argmin(axis=1)
    member = (label[:, None] == np.arange(len(centres))).astype(points.dtype)
    count = np.maximum(member.sum(axis=0), 1)
    return label, member.T @ points / count[:, None], squared.min(axis=1).sum()


@program(lambda r: (r.standard_normal((50, 6)) * np.arange(1, 7), r.standard_normal(6)), 1e-8)
def pca_power_iteration(x, v):
    """The first principal axis and its variance, by forty multiplications."""
    x = x - x.mean(axis=0)
    covariance = x.T @ x / (x.shape[0] - 1)
    for _ in range(40):
        v = covariance @ v
        v = v / np.linalg.norm(v)
    return v, v @ covariance @ v, x @ v


@program(lambda r: (r.standard_normal((80, 5)), r.integers(0, 2, 80), r.standard_normal(5), 0.3))
def logistic_loss(x, y, w, b):
    """Mean negative log likelihood with an L2 penalty, without overflow."""
    z = x @ w + b
    loss = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    return loss.mean() + 0.5e-2 * (w**2).sum()


@program(lambda r: (r.standard_normal((40, 6)), r.standard_normal(40)), 1e-9)
def ridge_regression(x, y, penalty=0.1):
    """The normal equations, and how much of the variance they explain."""
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    residual = y - x @ weights
    return weights, 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()


def _kalman_arguments(r):
    q, h = 0.01 * np.eye(4), np.eye(2, 4)
    f = np.eye(4) + 0.1 * np.eye(4, k=2)
    return r.standard_normal(4), np.eye(4), r.standard_normal(2), f, h, q, 0.5 * np.eye(2)


@program(_kalman_arguments, 1e-9)
def kalman_step(x, P, z, F, H, Q, R):
    """Predict and update a linear Gaussian state."""
    x, P = F @ x, F @ P @ F.T + Q
    innovation = z - H @ x
    S = H @ P @ H.T + R
    K = P @ H.T @ np.linalg.inv(S)
    return x + K @ innovation, (np.eye(len(x)) - K @ H) @ P


def _mixture_arguments(r):
    return (
        r.standard_normal((70, 3)),
        r.standard_normal((4, 3)),
        r.uniform(0.5, 2, (4, 3)),
        np.full(4, 0.25),
    )


@program(_mixture_arguments)
def mixture_e_step(x, mean, variance, weight):
    """Responsibilities of a diagonal Gaussian mixture, and the log likelihood."""
    z = (x[:, None] - mean) ** 2 / variance
    log_p = np.log(weight) - 0.5 * (z + np.log(2 * np.pi * variance)).sum(-1)
    peak = log_p.max(axis=1, keepdims=True)
    log_sum = peak + np.log(np.exp(log_p - peak).sum(axis=1, keepdims=True))
    return np.exp(log_p - log_sum), log_sum.sum()


@program(lambda r: (r.standard_normal((30, 3)), r.standard_normal((20, 3))))
def pairwise_distances(a, b):
    """Euclidean distances, and each row's nearest neighbour."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    distance = np.sqrt(np.maximum(squared, 0))
    return distance, np.argmin(distance, axis=1)


@program(lambda r: (r.standard_normal((25, 2)), r.standard_normal(25), r.standard_normal((9, 2))))
def kernel_regression(x, y, at):
    """Nadaraya and Watson's estimate with a radial kernel."""
    squared = np.sum((at[:, np.newaxis] - x[np.newaxis]) ** 2, axis=-1)
    weight = np.exp(-squared / (2 * 0.7**2))
    return (weight @ y) / weight.sum(axis=1)


@program(lambda r: ((r.random((30, 30)) < 0.2).astype(float),))
def pagerank(links, damping=0.85):
    """Twenty iterations; pages without links lead everywhere."""
    n = len(links)
    out = links.sum(axis=1, keepdims=True)
    transition = np.where(out > 0, links / np.where(out > 0, out, 1), 1 / n)
    rank = np.full(n, 1 / n)
    for _ in range(20):
        rank = (1 - damping) / n + damping * rank @ transition
    return rank, np.argsort(-rank)[:5]


@program(lambda r: (r.standard_normal((20, 8)),))
def cosine_similarity(x):
    """Between all rows; the diagonal is left out of the best match."""
    unit = x / np.linalg.norm(x, axis=1)[:, None]
    similarity = unit @ unit.T
    best = np.where(np.eye(len(x), dtype=bool), -np.inf, similarity).argmax(axis=1)
    return similarity, best


@program(lambda r: (r.standard_normal((30, 5)), r.random((30, 5)) < 0.7))
def masked_mean(x, valid):
    """Column means and deviations of the valid entries, invalid ones replaced by the mean."""
    count = valid.sum(axis=0)
    mean = np.where(valid, x, 0).sum(axis=0) / count
    deviation = np.sqrt((np.where(valid, x - mean, 0) ** 2).sum(axis=0) / (count - 1))
    return mean, deviation, np.where(valid, x, mean)


@program(lambda r: (r.standard_normal((50, 4)) * [1, 2, 3, 4] + 5,))
def standardise_columns(x):
    """In place on a copy, outliers cut by a mask."""
    x = x.copy()
    x -= x.mean(axis=0)
    x /= x.std(axis=0)
    x[x > 2.5] = 2.5
    x[x < -2.5] = -2.5
    return x


@program(lambda r: (r.standard_normal((40, 3)),))
def covariance_whitening(x):
    """Whitened data by the Cholesky factor of the covariance."""
    centred = x - x.mean(0)
    covariance = np.einsum("ni,nj->ij", centred, centred) / len(x)
    factor = np.linalg.cholesky(covariance)
    return np.linalg.solve(factor, centred.T).T, np.trace(covariance)


@program(
    lambda r: (r.standard_normal((6, 4)), r.standard_normal((4, 5)), r.standard_normal((6, 5)))
)
def matrix_factorisation_step(u, v, ratings):
    """One gradient step on the observed (positive) ratings."""
    observed = ratings > 0
    error = np.where(observed, ratings - u @ v, 0.0)
    return u + 0.05 * (error @ v.T - 0.1 * u), v + 0.05 * (u.T @ error - 0.1 * v)


# -- deep learning -----------------------------------------------------------------------------


@program(lambda r: (f32(r.standard_normal((32, 10))), r.integers(0, 10, 32)), SINGLE)
def softmax_cross_entropy(logits, labels):
    """Mean loss, and its gradient by the logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    loss = -log_p[np.arange(len(labels)), labels].mean()
    gradient = np.exp(log_p)
    gradient[np.arange(len(labels)), labels] -= 1
    return loss, gradient / len(labels)


@program(lambda r: (f32(r.standard_normal((32, 10))), r.integers(0, 10, 32)))
def accuracy(logits, labels):
    """Top-1 and top-3 hits, and the confusion matrix by one-hot rows."""
    predicted = np.argmax(logits, axis=1)
    top3 = np.argsort(logits, axis=1)[:, -3:]
    classes = np.arange(logits.shape[1])
    true, guess = labels[:, None] == classes, predicted[:, None] == classes
    confusion = true.astype(np.int64).T @ guess.astype(np.int64)
    return (predicted == labels).mean(), (top3 == labels[:, None]).any(axis=1).mean(), confusion


def _attention_arguments(r):
    return f32(r.standard_normal((2, 12, 16))), *(
        f32(0.2 * r.standard_normal((16, 16))) for _ in range(4)
    )


@program(_attention_arguments, SINGLE)
def attention(x, wq, wk, wv, wo, heads=4):
    """Causal self-attention with several heads."""
    batch, time, width = x.shape

    def split(y):
        return y.reshape(batch, time, heads, width // heads).transpose(0, 2, 1, 3)

    q, k, v = split(x @ wq), split(x @ wk), split(x @ wv)
    scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // heads))
    scores = np.where(np.tril(np.ones((time, time), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, time, width) @ wo


@program(
    lambda r: (
        f32(r.standard_normal((8, 5, 6, 3))),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
    ),
    SINGLE,
)
def batchnorm(x, running_mean, running_var):
    """Training step of a normalisation over batch and space."""
    axes = (0, 1, 2)
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    y = (x - mean) / np.sqrt(var + 1e-5)
    return y, 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var


@program(
    lambda r: (f32(r.standard_normal((4, 7, 12))), f32(r.random(12)), f32(r.random(12))), SINGLE
)
def layernorm(x, scale, shift):
    mean = np.mean(x, axis=-1, keepdims=True)
    var = np.mean(np.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * scale + shift


def _cell_arguments(gates):
    def arguments(r):
        shapes = (5, 8), (5, 6), (5, 6), (8, gates * 6), (6, gates * 6), (gates * 6,)
        return tuple(f32(r.standard_normal(shape)) for shape in shapes)

    return arguments


@program(_cell_arguments(4), SINGLE)
def lstm_cell(x, h, c, w, u, b):
    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    i, f, g, o = np.split(x @ w + h @ u + b, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@program(_cell_arguments(3), SINGLE)
def gru_cell(x, h, _c, w, u, b):
    def sigmoid(z):
        return 0.5 * (np.tanh(0.5 * z) + 1)

    xr, xz, xn = np.split(x @ w + b, 3, axis=1)
    hr, hz, hn = np.split(h @ u, 3, axis=1)
    reset, update = sigmoid(xr + hr), sigmoid(xz + hz)
    return (1 - update) * np.tanh(xn + reset * hn) + update * h


def _optimizer_arguments(r):
    def tree():
        return {
            "w": f32(r.standard_normal((7, 5))),
            "b": f32(r.standard_normal(5)),
            "scale": f32(r.random(1)),
        }

    moments = {"m": tree(), "v": {k: v**2 for k, v in tree().items()}}
    return tree(), tree(), moments, 3


@program(_optimizer_arguments, SINGLE)
def adam_update(params, grads, moments, step, rate=1e-3, b1=0.9, b2=0.999):
    """Over a dictionary of parameters."""
    m = {k: b1 * moments["m"][k] + (1 - b1) * g for k, g in grads.items()}
    v = {k: b2 * moments["v"][k] + (1 - b2) * g * g for k, g in grads.items()}
    new = {
        k: p - rate * (m[k] / (1 - b1**step)) / (np.sqrt(v[k] / (1 - b2**step)) + 1e-8)
        for k, p in params.items()
    }
    return new, {"m": m, "v": v}


@program(
    lambda r: (
        f32(r.standard_normal((9, 4))),
        f32(r.standard_normal((9, 4))),
        f32(r.random((9, 4))),
    ),
    SINGLE,
)
def rmsprop(p, g, mean_square):
    """With the gradient clipped to norm one."""
    g = g / np.maximum(1.0, np.sqrt((g * g).sum()))
    mean_square = 0.99 * mean_square + 0.01 * g**2
    return p - 1e-2 * g / (np.sqrt(mean_square) + 1e-8), mean_square


def _fourier_arguments(r):
    return (
        f32(r.random((20, 2))),
        f32(r.standard_normal((2, 8))),
        [f32(0.3 * r.standard_normal(s)) for s in ((16, 16), (16, 3))],
    )


@program(_fourier_arguments, SINGLE)
def fourier_feature_mlp(x, frequencies, layers):
    """A coordinate network: random Fourier features, then ReLU layers from a list."""
    phase = 2 * np.pi * x @ frequencies
    h = np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)
    for w in layers[:-1]:
        h = np.maximum(h @ w, 0)
    return h @ layers[-1]


@program(
    lambda r: (f32(r.standard_normal((2, 3, 8, 8))), f32(r.standard_normal((4, 3, 3, 3)))), SINGLE
)
def conv_relu_pool(images, kernels):
    """A 3x3 convolution by patches, ReLU, and 2x2 max pooling."""
    n, c, h, w = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.stack(
        [padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=2
    )
    out = np.tensordot(
        kernels.reshape(len(kernels), -1), patches.reshape(n, c * 9, h, w), axes=(1, 1)
    )
    out = np.maximum(np.moveaxis(out, 0, 1), 0)
    return out.reshape(n, len(kernels), h // 2, 2, w // 2, 2).max(axis=(3, 5))


@program(lambda r: (r.integers(0, 30, (4, 9)), f32(r.standard_normal((30, 8)))), SINGLE)
def embed_positions(tokens, table):
    """Token embeddings plus sinusoidal positions, rows scaled to unit length."""
    width = table.shape[1]
    position = np.arange(tokens.shape[1])[:, None]
    angle = position / 10000 ** (np.arange(0, width, 2) / width)
    code = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, width).astype(np.float32)
    x = table[tokens] + code
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


@program(lambda r: (f32(r.standard_normal((2, 6, 4, 8))),), SINGLE)
def rotary_embedding(x):
    """Rotate pairs of channels by an angle that grows with the position."""
    time, half = x.shape[1], x.shape[-1] // 2
    angle = np.arange(time)[:, None] / 100 ** (np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None, :].astype(x.dtype), np.sin(angle)[:, None, :].astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


@program(lambda r: (f32(r.standard_normal((6, 10))), f32(r.random(6))), SINGLE)
def discounted_returns(rewards, bootstrap):
    """Rewards to go, from the last step back, then normalised advantages."""
    total, returns = bootstrap, []
    for t in reversed(range(rewards.shape[1])):
        total = rewards[:, t] + 0.99 * total
        returns.append(total)
    returns = np.stack(returns[::-1], axis=1)
    return returns, (returns - returns.mean()) / (returns.std() + 1e-8)
