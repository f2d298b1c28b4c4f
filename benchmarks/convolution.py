"""Convolutions with windows of 3 by 3: filtered, direct, and the installed peers, on one core.

    python benchmarks/convolution.py [--only NAME] [--seconds S] [--json FILE]

`error` is the largest difference from float64 over the largest result, for the form the compiler
chose and, in brackets, the direct one. Peers hold the weights as constants, laid out as they like;
here they are an argument like the image. `auto` is what `compile` does by itself. Times are the
processor's, so that neighbours disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import Call, check, machine, one_core


@dataclass(frozen=True)
class Layer:
    """An image [n, c, size, size] and c -> k channels; 3 by 3, stride 1, border 1."""

    name: str
    n: int
    size: int
    c: int
    k: int

    @property
    def flops(self) -> float:
        """Of the direct form."""
        return 18.0 * self.n * self.size**2 * self.c * self.k


LAYERS = [
    Layer("C2", 1, 56, 64, 64),
    Layer("C6", 1, 28, 128, 128),
    Layer("C9", 1, 14, 256, 256),
    Layer("C12", 1, 7, 512, 512),
    Layer("C12 batch 8", 8, 7, 512, 512),
    Layer("VGG 112", 1, 112, 128, 128),
    Layer("VGG 224", 1, 224, 64, 64),
    Layer("small 28", 1, 28, 32, 32),
    Layer("odd 37", 2, 37, 40, 72),
    Layer("CIFAR batch 32", 32, 8, 64, 64),
]


def ours(winograd: bool, x: Any, w: Any) -> Call:
    import tilewright as tw
    from tilewright import lax

    def convolve(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1)))

    f = tw.compile(options=tw.Options(winograd=winograd))(convolve)
    return lambda: f(x, w)


def torch_call(x: Any, w: Any) -> Call:
    import torch

    torch.set_num_threads(1)
    image, weights = (
        torch.from_numpy(a).contiguous(memory_format=torch.channels_last) for a in (x, w)
    )

    def call() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(image, weights, padding=1)

    return call


def onnxruntime_call(x: Any, w: Any) -> Call:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    shape = [x.shape[0], w.shape[0], *x.shape[2:]]
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def peers() -> dict[str, Callable[[Any, Any], Call]]:
    """Those that are installed."""
    found: dict[str, Callable[[Any, Any], Call]] = {}
    if find_spec("torch") is not None:
        found["torch"] = torch_call
    if find_spec("onnxruntime") is not None and find_spec("onnx") is not None:
        found["onnxruntime"] = onnxruntime_call
    return found


def alternate(calls: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of processor time of each contender, one call a round, until `seconds` have
    passed (at least 15 rounds): every call finds the caches as the others left them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    while len(times["auto"]) < 15 or time.perf_counter() - begun < seconds:
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - start))
    return times


def compare(layer: Layer, seconds: float) -> dict[str, Any]:
    """Milliseconds of each contender, medians of alternating rounds, and our errors."""
    import numpy as np

    from tilewright.ops.contract import Conv

    rng = np.random.default_rng(0)
    x = rng.standard_normal((layer.n, layer.c, layer.size, layer.size)).astype(np.float32)
    w = rng.standard_normal((layer.k, layer.c, 3, 3)).astype(np.float32)
    conv = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
    exact = conv.numpy(x.astype(np.float64), w.astype(np.float64))
    calls = {"auto": ours(True, x, w), "direct": ours(False, x, w)}
    calls |= {name: make(x, w) for name, make in peers().items()}
    for name, call in calls.items():
        check(f"{layer.name} by {name}", call(), exact, 1e-4)
    errors = {
        name: float(np.abs(calls[name]() - exact).max() / np.abs(exact).max())
        for name in ("auto", "direct")
    }
    times = {name: statistics.median(t) for name, t in alternate(calls, seconds).items()}
    return {"name": layer.name, "times": times, "errors": errors}


def line(layer: Layer, row: dict[str, Any]) -> str:
    times, errors = row["times"], row["errors"]
    theirs = [t for name, t in times.items() if name not in ("auto", "direct")]
    best = f"{min(theirs) / times['auto']:9.2f}" if theirs else 9 * " "
    cells = "".join(f"{t:13.3f}" for t in times.values())
    rate = layer.flops / times["auto"] / 1e6
    gain = times["direct"] / times["auto"]
    return (
        f"{layer.name:<16}{cells}{gain:9.2f}{best}{rate:8.0f}"
        f"   {errors['auto']:.1e} ({errors['direct']:.1e})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the layers whose name contains this")
    parser.add_argument("--seconds", type=float, default=1.5, help="time given to each layer")
    parser.add_argument("--json", type=Path, help="where to write the measurements")
    options = parser.parse_args()
    names = ["auto ms", "direct ms", *(f"{n} ms" for n in peers())]
    columns = "".join(f"{n:>13}" for n in names)
    print(f"{'layer':<16}{columns}   gain  peer/us   GF/s   error")
    rows = []
    for layer in LAYERS:
        if options.only in layer.name:
            rows.append(compare(layer, options.seconds))
            print(line(layer, rows[-1]), flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    one_core()
    sys.exit(main())
