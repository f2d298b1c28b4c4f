"""The compiler's own judge, compiled by the compiler: inference and training against NumPy.

The contenders compute the same numbers (checked first) and take turns on one core: `infer` in NumPy
and compiled, for each size of batch; and an epoch of training, compiled from the loss as it is
written, against NumPy with the derivative written by hand. Features are random: no time depends on
them.

    python benchmarks/cost_model.py [--seconds 2]
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median
from typing import Any

from harness import alternate, one_core

one_core()

import numpy as np  # noqa: E402

import tilewright as tw  # noqa: E402
from tilewright.cost_model import features, training  # noqa: E402
from tilewright.cost_model.model import SIZES, Params, infer, init  # noqa: E402
from tilewright.cost_model.training import Batch, Optimizer, Rows, Settings, adam  # noqa: E402

KERNELS, CANDIDATES = 64, 64
"""Of an epoch."""


def activation(z: Any) -> tuple[Any, Any]:
    """SiLU and its derivative."""
    gate = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * z))
    return z * gate, gate * (1 + z * (1 - gate))


def value_and_gradient(p: Params, b: Batch, s: Settings) -> tuple[Any, Params]:
    """`training.loss` and its derivative, as one writes them in NumPy by hand."""
    k, c, f = b.x.shape
    x = b.x.reshape(k * c, f)
    h1, slope1 = activation(x @ p["w1"] + p["b1"])
    h2, slope2 = activation(h1 @ p["w2"] + p["b2"])
    scores = b.base + (h2 @ p["w3"] + p["b3"]).reshape(k, c)
    ahead = np.clip(b.y[:, None, :] - b.y[:, :, None], 0, 1)
    best = np.where(b.mask > 0, b.y, np.float32(1e9)).min(axis=1)
    speed = np.exp(np.minimum(best[:, None] - b.y, 0))
    weight = np.where(ahead > s.noise, ahead * (1 + s.top * speed[:, :, None]), 0)
    weight = weight * b.mask[:, :, None] * b.mask[:, None, :]
    weight /= weight.sum() + 1e-6
    wrong = (scores[:, :, None] - scores[:, None, :]) / s.sharpness
    error, count = (scores - b.y) * b.mask, b.mask.sum()
    value = (np.logaddexp(0, wrong) * weight).sum() + s.absolute * (error**2).sum() / count
    pairs = weight / (1 + np.exp(-wrong)) / s.sharpness
    d = pairs.sum(axis=2) - pairs.sum(axis=1) + 2 * s.absolute * error / count
    d = d.reshape(k * c).astype(np.float32)
    d2 = d[:, None] * p["w3"] * slope2
    d1 = (d2 @ p["w2"].T) * slope1
    return value, {
        "w1": x.T @ d1, "b1": d1.sum(0), "w2": h1.T @ d2, "b2": d2.sum(0),
        "w3": d @ h2, "b3": d.sum(),
    }  # fmt: skip


def numpy_step(optimizer: Optimizer, s: Settings, p: Params, state: Any, b: Batch) -> Any:
    value, gradient = value_and_gradient(p, b, s)
    updates, state = optimizer.update(gradient, state, p)
    return {name: p[name] + updates[name] for name in p}, state, value


def report(what: str, calls: dict[str, Any], seconds: float, share: float = 1.0) -> None:
    times = {name: median(t) * share for name, t in alternate(calls, seconds).items()}
    ours, plain = times["compiled"], times["numpy"]
    print(f"{what:<32} {ours:10.3f} ms {plain:10.3f} ms {plain / ours:8.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    seconds = parser.parse_args().seconds
    rng, settings, f = np.random.default_rng(0), Settings(), len(features.NAMES)
    params = init(rng, f, settings.width)
    params["w3"] = (rng.standard_normal(settings.width) / 10).astype(np.float32)
    mean, scale = np.zeros(f, np.float32), np.ones(f, np.float32)
    compiled = tw.compile(infer)
    print(f"{f} features, two layers of {settings.width}; one core")
    print(f"{'':<32} {'compiled':>13} {'NumPy':>13}")
    for size in SIZES:
        x = rng.standard_normal((size, f)).astype(np.float32)
        arguments = params, mean, scale, x
        np.testing.assert_allclose(compiled(*arguments), infer(*arguments), rtol=1e-3, atol=1e-4)
        calls = {"compiled": partial(compiled, *arguments), "numpy": partial(infer, *arguments)}
        report(f"inference, {size} candidates", calls, seconds)

    def row() -> Rows:
        x = rng.standard_normal((CANDIDATES, f)).astype(np.float32)
        return Rows(x, *(rng.standard_normal(CANDIDATES).astype(np.float32) for _ in range(2)))

    optimizer = adam(1e-3)
    epoch = list(training.batches([row() for _ in range(KERNELS)], rng, settings))
    step, state = training.stepper(settings, optimizer, tw.compile), optimizer.init(params)
    by_hand, ours = (
        value_and_gradient(params, epoch[0], settings),
        tw.value_and_grad(lambda p: training.loss(p, epoch[0], settings))(params),
    )
    np.testing.assert_allclose(by_hand[0], ours[0], rtol=1e-4)
    for name, g in by_hand[1].items():
        np.testing.assert_allclose(g, ours[1][name], rtol=1e-2, atol=1e-4)

    def run(one: Any, *more: Any) -> None:
        p, s = params, state
        for b in epoch:
            p, s, _ = one(p, s, b, *more)

    calls = {
        "compiled": lambda: run(step, params),
        "numpy": lambda: run(partial(numpy_step, optimizer, settings)),
    }
    report(f"an epoch, {KERNELS} kernels x {CANDIDATES}", calls, seconds)


if __name__ == "__main__":
    main()
