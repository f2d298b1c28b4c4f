"""First calls against `jax.jit`: with nothing kept from before, and in a second process.

    python benchmarks/first_call.py [--only NAME] [--rounds N] [--one-core] [--bare]

Every figure is of a process of its own: imports and the making of arguments are not counted, the
trace, the compilation and the first run are. `cold` finds an empty cache on disk; `second` finds
what a process before it has left (JAX: its persistent compilation cache, told to keep everything).
Both sides have called a simple function of a large array before, which starts their back ends and
threads; with `--bare` they have not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import harness


def softmax(xp: Any, x: Any) -> Any:
    e = xp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def hundred(xp: Any, x: Any) -> Any:
    """A hundred kernels, no two of them equal: each needs all of the one before."""
    for i in range(100):
        x = xp.maximum(x @ x * (1 + i / 100), 0.01)
    return x


def normalized(xp: Any, x: Any, gain: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return gain * centred / xp.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)


def transformer(xp: Any, x: Any, qkv: Any, out: Any, up: Any, down: Any, gains: Any) -> Any:
    """A pre-norm block with 4 heads and a tanh GELU."""
    n, d = x.shape
    heads = (normalized(xp, x, gains[0]) @ qkv).reshape(n, 3, 4, d // 4)
    q, k, v = (heads[:, j].transpose(1, 0, 2) for j in range(3))
    weights = softmax(xp, q @ k.transpose(0, 2, 1) * (d // 4) ** -0.5)
    x = x + (weights @ v).transpose(1, 0, 2).reshape(n, d) @ out
    h = normalized(xp, x, gains[1]) @ up
    h = 0.5 * h * (1 + xp.tanh(0.7978845608 * (h + 0.044715 * h * h * h)))
    return x + h @ down


CASES = {
    "softmax": (softmax, [(256, 512)], False),
    "hundred kernels": (hundred, [(32, 32)], False),
    "transformer": (
        transformer, [(64, 64), (64, 192), (64, 64), (64, 256), (256, 64), (2, 64)], False
    ),
    "transformer gradient": (
        transformer, [(64, 64), (64, 192), (64, 64), (64, 256), (256, 64), (2, 64)], True
    ),
}  # fmt: skip
"""Name: (function, shapes of its float32 arguments, whether its gradient by all of them is it)."""


def built(contender: str, name: str) -> tuple[Callable[..., Any], list[Any]]:
    """The compiled function, not called yet, and its arguments."""
    import numpy as np

    f, shapes, differentiate = CASES[name]
    random = np.random.default_rng(0)
    args: list[Any] = [0.1 * random.standard_normal(s).astype(np.float32) for s in shapes]
    wrt = tuple(range(len(args)))
    if contender == "jax":
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_compilation_cache_dir", os.environ["FIRST_CALL_CACHE"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        on_device = [jax.device_put(a) for a in args]
        loss = jax.grad(lambda *xs: f(jnp, *xs).sum(), wrt)
        call = jax.jit(loss if differentiate else lambda *xs: f(jnp, *xs))
        return lambda *xs: jax.block_until_ready(call(*xs)), on_device
    import tilewright as tw

    gradient = tw.grad(lambda *xs: f(np, *xs).sum(), wrt)
    return tw.compile(gradient if differentiate else lambda *xs: f(np, *xs)), args


def child(contender: str, name: str, bare: bool) -> None:
    """Print the milliseconds of the first call in this process."""
    if not bare:
        import numpy as np

        x = np.ones(1 << 21, np.float32)
        if contender == "jax":
            import jax

            jax.jit(lambda x: x * 3 - 1)(x).block_until_ready()
        else:
            import tilewright as tw

            tw.compile(lambda x: x * 3 - 1)(x)
    call, args = built(contender, name)
    start = time.perf_counter()
    call(*args)
    print(1e3 * (time.perf_counter() - start))


def milliseconds(contender: str, name: str, cache: str, bare: bool) -> float:
    environment = os.environ | {"TILEWRIGHT_CACHE_DIR": cache, "FIRST_CALL_CACHE": cache}
    command = [sys.executable, __file__, "--child", contender, name, *(["--bare"] if bare else [])]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def measure(name: str, rounds: int, bare: bool) -> dict[tuple[str, str], list[float]]:
    """Milliseconds by (contender, "cold" or "second"); contenders take turns."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for contender in ("jax", "tilewright"):
            with tempfile.TemporaryDirectory() as cache:
                for turn in ("cold", "second"):
                    figure = milliseconds(contender, name, cache, bare)
                    found.setdefault((contender, turn), []).append(figure)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--one-core", action="store_true", help="pin everything to one core")
    parser.add_argument("--bare", action="store_true", help="back ends start in the call")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(*options.child, options.bare)
        return
    if options.one_core:
        harness.one_core()
    os.environ["JAX_PLATFORMS"] = "cpu"
    print(f"{'medians, ms':22} {'cold: jax':>10} {'ours':>8} {'second: jax':>13} {'ours':>8}")
    for name in CASES:
        if options.only in name:
            found = measure(name, options.rounds, options.bare)
            a, b, c, d = (
                statistics.median(found[contender, turn])
                for turn in ("cold", "second")
                for contender in ("jax", "tilewright")
            )
            print(f"{name:22} {a:10.1f} {b:8.1f} {c:13.1f} {d:8.1f}", flush=True)


if __name__ == "__main__":
    main()
