"""How each contender runs a workload: its arrays, its compilation, its call.

Knows every peer's own best form (device arrays, weights as constants, fused functions, channels
last) and which peers are installed. Refuses to know time: it gives a `Contender`, of which `build`
is what a first call is charged for, and all before it is preparation.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import time
import types
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.suite import stand_ins
from benchmarks.suite.workloads import Workload

Call = Callable[[], Any]

PEERS = ("numpy", "jax", "torch", "torch.compile", "onnxruntime", "openvino", "numba")
ALL = ("tilewright", *PEERS)


@dataclass(frozen=True)
class Contender:
    """`build()` compiles, where there is something to compile, and gives the call to time;
    `arrays(result)` is its result as a list of NumPy arrays in the order of the workload's."""

    build: Callable[[], Call]
    arrays: Callable[[Any], list[Any]]


def environment(threads: int) -> dict[str, str]:
    """Variables to set before any of the libraries is loaded."""
    count = str(threads)
    counted = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
               "TILEWRIGHT_NUM_THREADS")  # fmt: skip
    eigen = "true" if threads > 1 else "false"
    flags = f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}"
    return {
        **dict.fromkeys(counted, count), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu",
        # First calls find nothing on disk.
        "TILEWRIGHT_CACHE_DIR": "off", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        "OPENVINO_TELEMETRY": "0",
    }  # fmt: skip


def installed(name: str) -> bool:
    """Whether a contender can run here."""
    needed = {"torch.compile": ("torch",), "onnxruntime": ("onnxruntime", "torch", "onnx"),
              "openvino": ("openvino", "torch", "onnx")}  # fmt: skip
    return all(find_spec(module) is not None for module in needed.get(name, (name,)))


def suitable(name: str, workload: Workload) -> bool:
    """Whether a contender has a form of the workload at all."""
    if name == "numba":
        return workload.numba
    return name == "tilewright" or name in workload.peers


# -- programs ------------------------------------------------------------------------------------

_IMPORTS = {
    "tilewright": {},
    "jax": {
        "import numpy as np": "import jax.numpy as np",
        "import tilewright as tw": "import jax as tw",
        "from tilewright import lax": "from jax import lax",
    },
    "numpy": {
        "import tilewright as tw": "",
        "from tilewright import lax": "from benchmarks.suite.stand_ins import lax",
    },
}


@functools.cache
def programs(namespace: str) -> Any:
    """The module `programs` with the imports of "tilewright", "jax" or "numpy"."""
    path = Path(__file__).with_name("programs.py")
    source = path.read_text()
    for ours, theirs in _IMPORTS[namespace].items():
        assert ours in source, f"programs.py has no line {ours!r}"
        source = source.replace(ours + "\n", theirs + "\n")
    module = types.ModuleType(f"benchmarks.suite.programs_{namespace}")
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def program(namespace: str, workload: Workload, name: str = "") -> Callable[..., Any]:
    """The workload's function in a namespace, its options bound."""
    function = getattr(programs(namespace), name or workload.program)
    options = dict(workload.options)
    return functools.partial(function, **options) if options else function


# -- trees ---------------------------------------------------------------------------------------


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [x for key in sorted(tree) for x in leaves(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [x for part in tree for x in leaves(part)]
    return [tree]


def mapped(f: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: mapped(f, part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(f, part) for part in tree)
    return f(tree)


def _numpy_arrays(result: Any) -> list[Any]:
    return [np.asarray(x) for x in leaves(result)]


def _torch_arrays(result: Any) -> list[Any]:
    import torch

    return [
        (x.float() if x.dtype == torch.bfloat16 else x).detach().numpy() for x in leaves(result)
    ]


# -- contenders ----------------------------------------------------------------------------------


def contender(name: str, workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    """One contender, prepared for the arguments."""
    makers: dict[str, Callable[..., Contender]] = {
        "tilewright": _tilewright, "numpy": _numpy, "jax": _jax, "torch": _torch,
        "torch.compile": _torch_compile, "onnxruntime": _onnxruntime, "openvino": _openvino,
        "numba": _numba,
    }  # fmt: skip
    return makers[name](workload, args, threads)


def _tilewright(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    """Weights are constants, as they are for the peers that distinguish them."""
    import tilewright as tw

    f, count = program("tilewright", workload), len(args)
    held = {i: tw.constant(args[i]) for i in workload.constants}
    free = [a for i, a in enumerate(args) if i not in held]

    def closed(*rest: Any) -> Any:
        given = iter(rest)
        # as traced arrays, which traced indices may index
        weights = {i: tw.tree.map(tw.numpy.asarray, w) for i, w in held.items()}
        return f(*(weights[i] if i in held else next(given) for i in range(count)))

    def build() -> Call:
        return functools.partial(tw.compile(closed if held else f), *free)

    return Contender(build, _numpy_arrays)


def _numpy(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    call = functools.partial(program("numpy", workload), *args)
    return Contender(lambda: call, _numpy_arrays)


def _numba(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    module = importlib.import_module("benchmarks.suite.numba_programs")
    numba = importlib.import_module("numba")
    function = getattr(module, workload.program)

    def form(parallel: bool) -> Call:
        return functools.partial(numba.njit(parallel=parallel, **module.OPTIONS)(function), *args)

    # On one thread the faster form: what splits loops for threads changes how they are compiled
    # (n-body takes a fifteenth of the time). Only the one that is taken is charged for compiling.
    parallel = threads > 1 or _quickest(form(True)) < _quickest(form(False))
    return Contender(lambda: form(parallel), _numpy_arrays)


def _quickest(call: Call, times: int = 3) -> float:
    """Seconds of a call, the least of several after one that may compile."""
    call()
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return min(found)


def _jax(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    """Device arrays in, waited for; images in its own layout, channels last."""
    import jax

    name, arrays = workload.program, _numpy_arrays
    if name == "conv2d":
        name = "conv2d_nhwc"
        args = (args[0].transpose(0, 2, 3, 1), args[1].transpose(2, 3, 1, 0))

        def arrays(result: Any) -> list[Any]:
            return [np.asarray(result).transpose(0, 3, 1, 2)]

    wide = any(getattr(x, "dtype", None) == np.float64 for x in leaves(args))
    with jax.enable_x64(wide):
        held = mapped(jax.device_put, args)
    function = program("jax", workload, name)

    def build() -> Call:
        jitted = jax.jit(function)

        def call() -> Any:
            return jax.block_until_ready(jitted(*held))

        def wide_call() -> Any:
            with jax.enable_x64(True):
                return jax.block_until_ready(jitted(*held))

        return wide_call if wide else call

    return Contender(build, arrays)


# -- PyTorch and what is exported from it --------------------------------------------------------


def _tensor(x: Any) -> Any:
    import torch

    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(x))


def _torch_function(workload: Workload) -> Any:
    module = importlib.import_module("benchmarks.suite.torch_programs")
    if workload.program == "lstm_lm":
        return module.Lstm()
    options = dict(workload.options)
    function = getattr(module, workload.program)
    return functools.partial(function, **options) if options else function


def _torch_arguments(workload: Workload, args: Any) -> tuple[Any, ...]:
    tensors = mapped(_tensor, args)
    if workload.program in ("conv2d", "resnet18", "mobilenet_v1", "dqn", "dcgan_generator"):
        tensors = mapped(_channels_last, tensors)
    return tuple(tensors)


def _channels_last(x: Any) -> Any:
    import torch

    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _torch_call(function: Any, workload: Workload, tensors: Any, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    mode = nullcontext if workload.loss else torch.inference_mode

    def call() -> Any:
        with mode():
            return function(*tensors)

    return call


def _torch(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    tensors = _torch_arguments(workload, args)
    call = _torch_call(_torch_function(workload), workload, tensors, threads)
    return Contender(lambda: call, _torch_arrays)


def _with_weights(workload: Workload, tensors: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The module that holds the workload's constants, and its other arguments."""
    module = importlib.import_module("benchmarks.suite.torch_programs")
    model = module.WithWeights(_torch_function(workload), tensors, workload.constants)
    free = tuple(x for i, x in enumerate(tensors) if i not in workload.constants)
    return model.eval(), free


def _torch_compile(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    """Weights are frozen: the compiler may pack them."""
    import torch

    function, tensors = _torch_function(workload), _torch_arguments(workload, args)
    settings = {}
    if workload.constants:
        function, tensors = _with_weights(workload, tensors)
        settings = {"freezing": True}

    def build() -> Call:
        torch._dynamo.reset()
        compiled = torch.compile(function, dynamic=False, options=settings)
        return _torch_call(compiled, workload, tensors, threads)

    return Contender(build, _torch_arrays)


def _onnx(workload: Workload, args: tuple[Any, ...]) -> tuple[bytes, dict[str, Any]]:
    """The model, weights as constants in it, and the values of its inputs by name."""
    import torch

    if workload.program == "int8_dynamic_matmul":
        return _onnx_int8(args), {"x": args[0]}
    model, tensors = _with_weights(workload, mapped(_tensor, args))
    places = [i for i in range(len(args)) if i not in workload.constants]
    feeds = {f"x{i}": args[i] for i in places}
    out = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model(*tensors)  # modules that make their parameters at the first call
        torch.onnx.export(
            model, tensors, out, dynamo=False, opset_version=20, input_names=list(feeds)
        )
    return out.getvalue(), feeds


def _onnx_int8(args: tuple[Any, ...]) -> bytes:
    """Dynamic quantisation as ONNX spells it: DynamicQuantizeLinear and MatMulInteger."""
    from onnx import TensorProto, helper, numpy_helper

    x, w, w_scale = args
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["total"]),
        helper.make_node("Cast", ["total"], ["sum"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "w_scale"], ["both"]),
        helper.make_node("Mul", ["sum", "both"], ["y"]),
    ]
    shape = [x.shape[0], w.shape[1]]
    graph = helper.make_graph(
        nodes, "int8",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(w_scale, "w_scale")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def _onnxruntime(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    import onnxruntime as ort

    model, feeds = _onnx(workload, args)

    def build() -> Call:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return functools.partial(session.run, None, feeds)

    return Contender(build, _numpy_arrays)


@functools.cache
def _openvino_core() -> Any:
    import openvino

    return openvino.Core()


def _openvino(workload: Workload, args: tuple[Any, ...], threads: int) -> Contender:
    core = _openvino_core()
    model, feeds = _onnx(workload, args)

    def build() -> Call:
        properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                      "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
        compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", properties)
        request = compiled.create_infer_request()
        inputs = list(feeds.values())

        def call() -> Any:
            found = request.infer(inputs, share_inputs=True, share_outputs=True)
            return [found[i] for i in range(len(compiled.outputs))]

        return call

    return Contender(build, _numpy_arrays)


# -- what is right -------------------------------------------------------------------------------


def in_double(tree: Any) -> Any:
    """Every floating array of a tree as float64."""
    return mapped(
        lambda x: x.astype(np.float64) if x.dtype.kind == "f" or x.dtype.name == "bfloat16" else x,
        tree,
    )


def reference(workload: Workload, args: tuple[Any, ...]) -> Callable[[list[Any]], str]:
    """A function of a contender's arrays that says what is wrong with them, or nothing."""
    wide = in_double(args)
    if workload.loss:
        return _differences(workload, args, wide)
    if workload.reference:
        expected = leaves(getattr(stand_ins, workload.reference)(*wide))
    else:
        expected = leaves(program("numpy", workload)(*wide))

    def check(results: list[Any]) -> str:
        if len(results) != len(expected):
            return f"{len(results)} results, not {len(expected)}"
        return "".join(
            _compared(got, want, workload) for got, want in zip(results, expected, strict=True)
        )

    return check


def _compared(got: Any, want: Any, workload: Workload) -> str:
    want = np.asarray(want)
    if got.shape != want.shape:
        return f"shape {got.shape}, not {want.shape}"
    got = got.astype(np.float64)
    scale = float(np.abs(want).max(initial=0)) or 1.0
    error = np.abs(got - want)
    wrong = ~(error <= workload.spread * scale)
    if wrong.mean() <= workload.stray:
        return ""
    return f"{wrong.mean():.1%} of the elements differ, by up to {error.max() / scale:.1e}"


def _differences(workload: Workload, args: Any, wide: Any) -> Callable[[list[Any]], str]:
    """Gradients checked against central differences of the loss, computed in float64: the slope in
    a random direction, one for each array. Gradients of training steps are taken from the change
    of the parameters."""
    loss = program("numpy", workload, workload.loss)
    rng = np.random.default_rng(1)
    training = isinstance(wide[0], list)
    values = wide[0] if training else list(wide[:3])
    slopes = []
    for i, value in enumerate(values):
        v = rng.standard_normal(value.shape)
        h = 1e-6 / max(1.0, np.sqrt(v.size) / 100)
        ends = []
        for sign in (1, -1):
            moved = [*values[:i], value + sign * h * v, *values[i + 1 :]]
            ends.append(float(loss(moved, *wide[1:]) if training else loss(*moved, *wide[3:])))
        slopes.append((v, (ends[0] - ends[1]) / (2 * h)))
    value = float(loss(*wide)) if training else 0.0

    def check(results: list[Any]) -> str:
        if training:
            if abs(results[0] - value) > 1e-4 * abs(value):
                return f"loss {results[0]}, not {value}"
            old = [a.astype(np.float64) for a in args[0]]
            gradients = [(a - b) / 0.01 for a, b in zip(old, results[1:], strict=True)]
        else:
            old, gradients = values, [r.astype(np.float64) for r in results]
        for k, (g, a, (v, slope)) in enumerate(zip(gradients, old, slopes, strict=True)):
            size = float(np.linalg.norm(g))
            rounding = 3e-7 / 0.01 * float(np.linalg.norm(a)) if training else 0.0
            found = float((g * v).sum())
            if not abs(found - slope) <= 5e-3 * size + rounding:
                return f"gradient {k}: slope {found:.6g}, not {slope:.6g} (norm {size:.3g})"
        return ""

    return check


def pin(threads: int) -> None:
    """Confine this process to its last `threads` cores."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-threads:]))
