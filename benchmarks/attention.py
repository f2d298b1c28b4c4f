"""Attention written in NumPy, forward, gradient and decoding, against PyTorch's fused one.

    python benchmarks/attention.py [--only NAME] [--rounds N]

One core; contenders take turns in one process, and results are compared first. Times are the
process's own (CPU) milliseconds, medians: what a busy neighbour does is not counted. The last
column is the share of the core's measured peak of multiply-adds that the needed products are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from harness import one_core

Call = Callable[[], Any]


def softmax(x: Any) -> Any:
    import numpy as np

    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def full(q: Any, k: Any, v: Any) -> Any:
    return softmax(q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5)) @ v


def causal(q: Any, k: Any, v: Any) -> Any:
    import numpy as np

    seen = np.tril(np.ones((q.shape[-2], k.shape[-2]), bool))
    return softmax(np.where(seen, q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5), -1e30)) @ v


CASES = [
    (f"{kind} {h}x{t}x{s}x{d}", kind, (h, t, s, d))
    for h, t, s, d in (
        (12, 1024, 1024, 64), (5, 300, 300, 80), (8, 500, 500, 96), (6, 400, 400, 32),
        (2, 4096, 4096, 64),
    )
    for kind in ("causal", "full", "gradient")
] + [
    (f"decode {h}x{s}x{d}", "full", (h, 1, s, d))
    for h, s, d in ((12, 1024, 64), (16, 3000, 128), (8, 16384, 64))
]  # fmt: skip


def contenders(kind: str, shape: tuple[int, ...]) -> dict[str, Call]:
    import numpy as np
    import torch
    from torch.nn import functional

    import tilewright as tw

    torch.set_num_threads(1)
    h, t, s, d = shape
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1, h, n, d)).astype(np.float32) for n in (t, s, s, t)]
    tensors = [torch.tensor(x) for x in arrays]
    sdpa = functional.scaled_dot_product_attention
    if kind == "gradient":
        gradient = tw.grad(lambda q, k, v, g: (causal(q, k, v) * g).sum(), argnums=(0, 1, 2))
        ours = tw.compile(gradient, threads=1)

        def theirs() -> Any:
            inputs = [x.detach().requires_grad_() for x in tensors[:3]]
            return torch.autograd.grad(sdpa(*inputs, is_causal=True), inputs, tensors[3])

        return {"ours": lambda: ours(*arrays), "torch": theirs}
    f = tw.compile({"causal": causal, "full": full}[kind], threads=1)

    def forward() -> Any:
        with torch.no_grad():
            return sdpa(*tensors[:3], is_causal=kind == "causal")

    return {"ours": lambda: f(*arrays[:3]), "torch": forward}


def same(a: Any, b: Any) -> None:
    import numpy as np

    pairs = zip(a, b, strict=True) if isinstance(a, (tuple, list)) else [(a, b)]
    for x, y in pairs:
        np.testing.assert_allclose(x, np.asarray(y), 1e-3, 2e-5)


def peak() -> float:
    """Multiply-adds per second of a product that fits in the cache."""
    import numpy as np

    import tilewright as tw

    a = np.ones((256, 256), np.float32)
    product = tw.compile(lambda a, b: a @ b, threads=1)
    times = [timed(lambda: product(a, a)) for _ in range(200)]
    return 256**3 / min(times)


def timed(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def needed(kind: str, shape: tuple[int, ...]) -> float:
    """Multiply-adds of the products: two forward, five in a gradient that keeps nothing."""
    h, t, s, d = shape
    pairs = h * t * s if kind == "full" else h * t * (t + 1) / 2
    return pairs * d * (5 if kind == "gradient" else 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    one_core()
    roof = peak()
    print(f"{'':28}{'ours ms':>10}{'torch ms':>10}{'ratio':>8}{'of peak':>9}")
    for name, kind, shape in CASES:
        if options.only not in name:
            continue
        calls = contenders(kind, shape)
        same(calls["ours"](), calls["torch"]())
        times: dict[str, list[float]] = {c: [] for c in calls}
        for _ in range(options.rounds):
            for c, call in calls.items():
                times[c].append(timed(call))
        ours, torch = (statistics.median(times[c]) for c in ("ours", "torch"))
        share = needed(kind, shape) / ours / roof
        print(f"{name:28}{ours * 1e3:10.3f}{torch * 1e3:10.3f}{torch / ours:8.2f}{share:9.0%}")


if __name__ == "__main__":
    main()
