"""The workloads on which explicit loops are the best form, for Numba.

Knows one thing: the loops a practised user writes, with `prange` over rows. `fastmath` allows the
reordering of sums and nothing about NaN, as ours does. Refuses to know shapes and time.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import prange

OPTIONS: Any = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}}


@numba.njit(inline="always")
def _cdf(x):
    k = 1.0 / (1.0 + 0.2316419 * abs(x))
    p = k * (0.319381530 + k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978))))
    tail = math.exp(-0.5 * x * x) * 0.3989422804 * (p + 1.330274429 * k * k * k * k * k)
    return 1.0 - tail if x >= 0 else tail


def black_scholes(spot, strike, years):
    out = np.empty_like(spot)
    for i in prange(spot.size):
        root = 0.25 * math.sqrt(years[i])
        d1 = (math.log(spot[i] / strike[i]) + (0.03 + 0.5 * 0.25**2) * years[i]) / root
        discounted = strike[i] * math.exp(-0.03 * years[i])
        out[i] = spot[i] * _cdf(d1) - discounted * _cdf(d1 - root)
    return out


def mandelbrot(real, imaginary):
    out = np.empty_like(real)
    for i in prange(real.shape[0]):
        for j in range(real.shape[1]):
            a = b = real.dtype.type(0)
            count = 0
            for _ in range(100):
                if a * a + b * b > 4:
                    break
                a, b = a * a - b * b + real[i, j], a * b + a * b + imaginary[i, j]
                count += 1
            out[i, j] = count
    return out


def heat2d(u):
    a, b = u.copy(), np.zeros_like(u)
    fifth, four = u.dtype.type(0.2), u.dtype.type(4)
    for t in range(20):
        for i in prange(1, u.shape[0] - 1):
            for j in range(1, u.shape[1] - 1):
                around = a[i - 1, j] + a[i + 1, j] + a[i, j - 1] + a[i, j + 1]
                b[i, j] = a[i, j] + fifth * (around - four * a[i, j])
        a, b = b, a
        if t == 0:
            b[0], b[-1], b[:, 0], b[:, -1] = 0, 0, 0, 0
    return a


def nbody(position, velocity, mass):
    n, one = position.shape[0], position.dtype.type(1)
    step, soft = position.dtype.type(0.01), position.dtype.type(1e-2)
    x, y, z = position[:, 0].copy(), position[:, 1].copy(), position[:, 2].copy()
    v = velocity.copy()
    for _ in range(10):
        for i in prange(n):
            fx = fy = fz = position.dtype.type(0)
            for j in range(n):
                dx, dy, dz = x[j] - x[i], y[j] - y[i], z[j] - z[i]
                r2 = dx * dx + dy * dy + dz * dz + soft
                pull = mass[j] * (one / (r2 * math.sqrt(r2)))
                fx += dx * pull
                fy += dy * pull
                fz += dz * pull
            v[i, 0] += step * fx
            v[i, 1] += step * fy
            v[i, 2] += step * fz
        for i in prange(n):
            x[i] += step * v[i, 0]
            y[i] += step * v[i, 1]
            z[i] += step * v[i, 2]
    return np.stack((x, y, z), axis=1), v


def pairwise_dist(points):
    n, d = points.shape
    columns = points.T.copy()
    out = np.empty((n, n), points.dtype)
    for i in prange(n):
        row = out[i]
        row[:] = 0
        for k in range(d):
            own, column = points[i, k], columns[k]
            for j in range(n):
                row[j] += (column[j] - own) ** 2
        for j in range(n):
            row[j] = math.sqrt(row[j])
    return out


def kernel_density(points, samples):
    (n, d), m = points.shape, samples.shape[0]
    columns, out = samples.T.copy(), np.empty(n, points.dtype)
    half = points.dtype.type(-0.5)
    for i in prange(n):
        row = np.zeros(m, points.dtype)
        for k in range(d):
            own, column = points[i, k], columns[k]
            for j in range(m):
                row[j] += (column[j] - own) ** 2
        total = points.dtype.type(0)
        for j in range(m):
            total += math.exp(half * row[j])
        out[i] = total
    return out


def lennard_jones(points):
    n, one, four = points.shape[0], points.dtype.type(1), points.dtype.type(24)
    x, y, z = points[:, 0].copy(), points[:, 1].copy(), points[:, 2].copy()
    out = np.empty_like(points)
    for i in prange(n):
        fx = fy = fz = points.dtype.type(0)
        for j in range(n):
            dx, dy, dz = x[i] - x[j], y[i] - y[j], z[i] - z[j]
            inverse = one / (dx * dx + dy * dy + dz * dz + (one if i == j else one - one))
            s = inverse * inverse * inverse
            pull = four * inverse * s * (one - s - s)
            fx += dx * pull
            fy += dy * pull
            fz += dz * pull
        out[i, 0], out[i, 1], out[i, 2] = fx, fy, fz
    return out


def jacobi(a, b):
    n = b.size
    diagonal = np.diag(a).copy()
    x, after = b / diagonal, np.empty_like(b)
    change = b.dtype.type(1)
    while change > 1e-5:
        for i in prange(n):
            total = b.dtype.type(0)
            for j in range(n):
                total += a[i, j] * x[j]
            after[i] = x[i] + (b[i] - total) / diagonal[i]
        change = np.max(np.abs(after - x))
        x, after = after, x
    return x


def waves(x):
    out = np.empty_like(x)
    for i in prange(x.size):
        out[i] = x[i] + x[i] + math.sin(x[i]) ** 2 + math.exp(-x[i] * x[i])
    return out


def argmax(x):
    out = np.empty(x.shape[0], np.int64)
    for i in prange(x.shape[0]):
        out[i] = np.argmax(x[i])
    return out


def cumsum(x):
    out = np.empty_like(x)
    for i in prange(x.shape[0]):
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            total += x[i, j]
            out[i, j] = total
    return out


def add1(x):
    return x + np.float32(1)
