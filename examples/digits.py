"""Train a small convolutional network on scikit-learn's digits, the whole step one native program.

The network is plain NumPy. Its gradient comes from `tw.value_and_grad`; the Optax update is traced
into the same step, so one call runs forward pass, backward pass and optimizer.

    python examples/digits.py          (needs the extra `demo`; `make demo` installs it)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tilewright as tw
from tilewright.frontends.jax import from_jax
from tilewright.graph import evaluate

EPOCHS, BATCH = 40, 64
CHANNELS, HIDDEN, CLASSES = (16, 32), 64, 10

Params = dict[str, np.ndarray]


# -- the network, as a NumPy user writes it ------------------------------------------------------


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with a border of zeros: (n, h, w, c) images, a (9 c, d) kernel."""
    n, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    patches = np.concatenate(shifts, axis=-1).reshape(n * h * w, -1)
    return (patches @ kernel + bias).reshape(n, h, w, -1)


def network(params: Params, images: np.ndarray) -> np.ndarray:
    """Logits (n, 10) of images (n, 8, 8)."""
    n = len(images)
    x = np.maximum(convolve(images[..., None], params["conv1"], params["bias1"]), 0)
    x = np.maximum(convolve(x, params["conv2"], params["bias2"]), 0)
    x = x.reshape(n, 4, 2, 4, 2, -1).max(axis=(2, 4)).reshape(n, -1)
    x = np.maximum(x @ params["dense3"] + params["bias3"], 0)
    return x @ params["dense4"] + params["bias4"]


def loss(params: Params, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean cross entropy against labels smoothed by a tenth (Szegedy et al. 2016, section 7)."""
    logits = network(params, images)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    of_label = np.where(labels[:, None] == np.arange(CLASSES), log_p, 0).sum(axis=1)
    return -(0.9 * of_label + 0.1 * log_p.mean(axis=1)).mean()


def initial(rng: np.random.Generator) -> Params:
    """Normal weights of variance 2 / fan-in, zero biases."""
    a, b = CHANNELS
    convs = [("conv1", 9, a), ("conv2", 9 * a, b)]
    denses = [("dense3", 16 * b, HIDDEN), ("dense4", HIDDEN, CLASSES)]
    params: Params = {}
    for layer, (name, inputs, outputs) in enumerate([*convs, *denses], 1):
        weights = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        params[name] = weights.astype(np.float32)
        params[f"bias{layer}"] = np.zeros(outputs, np.float32)
    return params


# -- training ------------------------------------------------------------------------------------


def training_step(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """(params, state, images, labels) -> (params, state, loss), compiled."""
    update, apply = from_jax(optimizer.update), from_jax(optax.apply_updates)

    @tw.compile
    def step(params: Params, state: Any, images: np.ndarray, labels: np.ndarray) -> Any:
        value, gradient = tw.value_and_grad(loss)(params, images, labels)
        updates, state = update(gradient, state, params)
        return apply(params, updates), state, value

    return step


def batches(rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Indices of full batches, in a new order every epoch."""
    for _ in range(EPOCHS):
        order = rng.permutation(count)
        yield from order[: count // BATCH * BATCH].reshape(-1, BATCH)


def progress(done: int, total: int, value: float, width: int = 40) -> None:
    """Redraw the bar; on a pipe only every tenth of the way, a line each."""
    if not sys.stdout.isatty() and done % max(total // 10, 1) and done != total:
        return
    filled = width * done // total
    bar = "█" * filled + "·" * (width - filled)
    end = "\r" if sys.stdout.isatty() and done != total else "\n"
    print(f"  {bar} {done:4}/{total} steps, loss {value:.4f}", end=end, flush=True)


def milliseconds(run: Callable[[], Any], repeats: int = 20) -> float:
    """Time of the fastest of some calls: the one the machine's other work disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> int:
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
    rng = np.random.default_rng(0)
    total = EPOCHS * (len(train_x) // BATCH)
    optimizer = optax.adamw(optax.cosine_decay_schedule(4e-3, total), weight_decay=0.05)
    step = training_step(optimizer)
    params = initial(rng)
    state = tw.tree.map(np.asarray, optimizer.init(params))

    first = train_x[:BATCH], train_y[:BATCH]
    start = time.perf_counter()
    step(params, state, *first)
    print(f"{len(train_x)} training images, {len(test_x)} held out")
    print(f"the step: traced, differentiated and compiled in {time.perf_counter() - start:.2f} s")
    lowered = step.lower(params, state, *first)
    print(f"its {len(lowered.kernels)} kernels:\n")
    for kernel in lowered.kernels:
        print(f"{kernel}\n")

    start = time.perf_counter()
    for done, batch in enumerate(batches(rng, len(train_x)), 1):
        params, state, value = step(params, state, train_x[batch], train_y[batch])
        progress(done, total, float(value))
    print(f"trained in {time.perf_counter() - start:.1f} s")

    predict = tw.compile(network)
    accuracy = float((predict(params, test_x).argmax(axis=1) == test_y).mean())
    print(f"accuracy on the held-out quarter: {100 * accuracy:.2f} %")

    leaves = tw.tree.leaves((params, state, *first))
    rows = [
        ("forward pass", milliseconds(lambda: predict(params, first[0])),
         milliseconds(lambda: network(params, first[0])), "the same source in NumPy"),
        ("whole step", milliseconds(lambda: step(params, state, *first)),
         milliseconds(lambda: evaluate(lowered.graph, leaves)), "its graph, op by op in NumPy"),
    ]  # fmt: skip
    print(f"\nper call, batch of {BATCH}     compiled       NumPy")
    for what, ours, numpys, how in rows:
        print(f"  {what:<20} {ours:8.2f} ms {numpys:8.2f} ms   ({numpys / ours:.1f}x; {how})")
    return 0 if accuracy >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
