"""The laws an op obeys, each as a function of an example (an op and arrays).

    type         the op's type rule says what NumPy gives
    lowered      its expression, or its loops, interpreted, are NumPy's result
    compiled     so is the native code
    derivative   jvp is the finite difference, and so is the derivative of the derivative
    duality      <ct, L v> = <Lᵀ ct, v> in the arguments it is linear in
    batching     batch is the stack of single calls

The pairing of complex numbers is Re(sum(a * b)), without conjugation, as in JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from tilewright import dtypes, expr, interpret, loops
from tilewright.expr import Buffer
from tilewright.graph import Graph, Node, Op, Pick, Type, View, evaluate, new_input, verify
from tilewright.ops.calculus import pushforward
from tilewright.ops.samples import Example, numbers
from tilewright.tracing import Array

STEP = 1e-5
"""Of central differences in float64: the error is about STEP**2 plus eps / STEP, 1e-10."""


# -- running -----------------------------------------------------------------------------------


def types_of(args: Sequence[Any]) -> list[Type]:
    return [Type(np.asarray(a).dtype, np.shape(a)) for a in args]


def results(node: Node) -> tuple[Node, ...]:
    """The results of a node, of which there may be several."""
    if not isinstance(node.type, tuple):
        return (node,)
    return tuple(Pick(i).node(node) for i in range(len(node.type)))


def graph_of(example: Example) -> Graph:
    """The op applied to inputs."""
    inputs = tuple(new_input(f"x{i}", t) for i, t in enumerate(types_of(example.args)))
    return Graph(example.op.name, inputs, results(example.op.node(*inputs)))


def meaning(op: Op, args: Sequence[Any]) -> tuple[Any, ...]:
    """What NumPy says."""
    out = op.numpy(*args)
    return tuple(out) if isinstance(out, tuple) else (out,)


def run(graph: Graph, args: Sequence[Any]) -> list[Any]:
    verify(graph)
    return evaluate(graph, args)


# -- comparing ---------------------------------------------------------------------------------


def gauge_free(op: Op, outs: Sequence[Any]) -> Sequence[Any]:
    """Results without the signs and bases that are arbitrary: the products they must form."""
    with np.errstate(all="ignore"):
        match op.name, outs:
            case "eigh", (w, v):
                vt = np.swapaxes(v, -1, -2)
                return w, v * w[..., None, :] @ vt, vt @ v
            case "svd", (u, s, vt):
                ut, v = np.swapaxes(u, -1, -2), np.swapaxes(vt, -1, -2)
                return s, u * s[..., None, :] @ vt, ut @ u, vt @ v
    return outs


def assert_same(got: Sequence[Any], want: Sequence[Any], op: Op) -> None:
    """Equal types; values equal up to the rounding of the element type, NaN for NaN."""
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
    ulps = 4096 if op.name in ("cholesky", "lu", "qr", "eigh", "svd") else 64
    for g, w in zip(gauge_free(op, got), gauge_free(op, want), strict=True):
        if not dtypes.is_inexact(w.dtype):
            np.testing.assert_array_equal(g, w, err_msg=str(op))
            continue
        half = w.dtype.itemsize == 2
        tolerance = float(_eps(w.dtype)) * (8 if half else ulps)
        wide = np.complex128 if dtypes.is_complex(w.dtype) else np.float64
        g, w = g.astype(wide), w.astype(wide)
        finite = np.abs(w[np.isfinite(w)])
        scale = min(float(finite.max()), 1e4) if finite.size else 0.0
        np.testing.assert_allclose(g, w, tolerance, tolerance * scale, err_msg=str(op))


def _eps(dtype: Any) -> Any:
    return 2.0**-7 if dtype == dtypes.bfloat16 else np.finfo(dtype).eps


def assert_close(got: Any, want: Any, op: Op, tolerance: float = 2e-5) -> None:
    finite = np.abs(want[np.isfinite(want)])
    scale = max(1.0, float(finite.max())) if finite.size else 1.0
    np.testing.assert_allclose(got, want, tolerance, tolerance * scale, err_msg=str(op))


# -- type, lowered, compiled -------------------------------------------------------------------


def check_type(example: Example) -> None:
    op, args = example.op, example.args
    said = op.type(*types_of(args))
    said = said if isinstance(said, tuple) else (said,)
    gives = tuple(types_of(meaning(op, args)))
    assert said == gives, f"{op}: {said} is not NumPy's {gives}"


def check_lowered(example: Example) -> None:
    op, args = example.op, example.args
    run_it = loops_interpreted if op.is_opaque(*types_of(args)) else expression_interpreted
    assert_same(run_it(op, args), meaning(op, args), op)


def expression_interpreted(op: Op, args: Sequence[Any]) -> list[Any]:
    """The element's expression, evaluated at every position."""
    buffers = [Buffer(f"x{i}", t.dtype, t.shape, "input") for i, t in enumerate(types_of(args))]

    def view(b: Buffer) -> View:
        return View(Type(b.dtype, b.shape), lambda idx, guard: expr.load(b, idx, guard))

    out = op.type(*types_of(args))
    space = [expr.axis("i", n) for n in out.shape]
    element = op.lower(tuple(space), *map(view, buffers))
    expr.verify(element)
    assert element.type == out.dtype, f"{op} lowers to {element.type}, not {out.dtype}"
    return interpret.evaluate([element], space, dict(zip(buffers, args, strict=True)))


def loops_interpreted(op: Op, args: Sequence[Any]) -> list[Any]:
    """The loop nest, run statement by statement."""
    types = op.type(*types_of(args))
    types = types if isinstance(types, tuple) else (types,)
    ins = tuple(Buffer(f"x{i}", t.dtype, t.shape, "input") for i, t in enumerate(types_of(args)))
    outs = tuple(Buffer(f"y{i}", t.dtype, t.shape, "output") for i, t in enumerate(types))
    function = loops.Function(op.name, (*ins, *outs), loops.block(op.loops(outs, *ins)))
    loops.verify(function)
    found = [np.zeros(t.shape, t.dtype) for t in types]
    given = [np.array(a, order="C", copy=True).reshape(np.shape(a)) for a in args]
    loops.run(loops.Program((function,)), [*given, *found])
    return found


def check_compiled(examples: Sequence[Example], compile: Any) -> None:
    """All examples in one program, since starting the compiler costs more than a kernel."""

    def program(*flat: Any) -> Any:
        rest = iter(flat)
        out: list[Any] = []
        for e in examples:
            node = e.op.node(*(next(rest).node for _ in e.args))
            out += [Array.wrap(n) for n in results(node)]
        return tuple(out)

    flat = [np.asarray(a) for e in examples for a in e.args]
    found = iter(compile(program)(*flat))
    for e in examples:
        want = meaning(e.op, e.args)
        assert_same([next(found) for _ in want], want, e.op)


# -- derivatives -------------------------------------------------------------------------------


def directions(args: Sequence[Any], seed: int) -> list[Any]:
    """A tangent for every argument that can have one, None for the others."""
    found = []
    for i, a in enumerate(args):
        inexact = dtypes.is_inexact(a.dtype)
        found.append(numbers(a.dtype, a.shape, seed + i, -1, 1) if inexact else None)
    return found


def moved(args: Sequence[Any], tangents: Sequence[Any], by: float) -> list[Any]:
    return [a if t is None else np.asarray(a + by * t) for a, t in zip(args, tangents, strict=True)]


def derivative_of(graph: Graph, active: Sequence[bool]) -> tuple[Graph, list[int]]:
    """The graph of the tangents, with inputs (inputs, tangents of active inputs), and which
    outputs of `graph` have one at all."""
    inputs = tuple(new_input("x", n.type) for n in graph.inputs)
    tangents = [
        new_input("t", n.type) if a else None for n, a in zip(graph.inputs, active, strict=True)
    ]
    values = [Array.wrap(n) for n in inputs]
    moving = [None if t is None else Array.wrap(t) for t in tangents]
    _, out = pushforward(graph, Array.wrap, values, moving)
    which = [i for i, t in enumerate(out) if t is not None]
    given = (*inputs, *(t for t in tangents if t is not None))
    return Graph("d " + graph.name, given, tuple(out[i].node for i in which)), which


def check_derivative(example: Example, twice: bool) -> None:
    """First order, and second order where `twice`."""
    op, args = example.op, [np.asarray(a) for a in example.args]
    graph, v = graph_of(example), directions(args, 1)
    first, which = derivative_of(graph, [t is not None for t in v])
    assert all(dtypes.is_inexact(graph.outputs[i].type.dtype) for i in which)
    _assert_difference(op, graph, first, which, args, v)
    if not twice or not which:
        return
    w = [None if t is None else u for t, u in zip(v, directions(args, 7), strict=True)]
    point = [*args, *(t for t in v if t is not None)]
    sideways = [*w, *(None for t in v if t is not None)]
    second, again = derivative_of(first, [t is not None for t in sideways])
    _assert_difference(op, first, second, again, point, sideways)


def _assert_difference(
    op: Op, graph: Graph, derived: Graph, which: list[int], args: list[Any], v: list[Any]
) -> None:
    ahead, behind = (evaluate(graph, moved(args, v, by)) for by in (STEP, -STEP))
    exact = dict(zip(which, run(derived, [*args, *(t for t in v if t is not None)]), strict=True))
    for i, (a, b) in enumerate(zip(ahead, behind, strict=True)):
        if dtypes.is_inexact(a.dtype):
            with np.errstate(all="ignore"):
                slope = (a - b) / (2 * STEP)
            assert_close(exact.get(i, np.zeros_like(slope)), slope, op)


def check_duality(example: Example) -> None:
    op, args = example.op, [np.asarray(a) for a in example.args]
    linear_in = [i for i in range(len(args)) if i in op.linear_in]
    together = [] if op.multilinear or len(linear_in) < 2 else [frozenset(linear_in)]
    for linear in [*together, *(frozenset((i,)) for i in linear_in)]:
        _check_pairing(op, args, linear)


def _check_pairing(op: Op, args: list[Any], linear: frozenset[int]) -> None:
    v = [numbers(a.dtype, a.shape, 3 + i) if i in linear else a for i, a in enumerate(args)]
    if not op.multilinear:  # the map is linear in all of them at once: the others are at zero
        v = [
            np.zeros_like(a) if i in op.linear_in and i not in linear else a
            for i, a in enumerate(v)
        ]
    (out,) = meaning(op, v)
    ct = numbers(out.dtype, out.shape, 11)
    inputs = [new_input("x", t) for t in types_of(args)]
    given = new_input("ct", types_of([ct])[0])
    parts = op.transpose(Array.wrap(given), linear, *map(Array.wrap, inputs))
    assert len(parts) == len(args) and all(parts[i] is not None for i in linear), str(op)
    graph = Graph("dual", (*inputs, given), tuple(parts[i].node for i in sorted(linear)))
    known = [np.full_like(a, np.nan) if i in linear else a for i, a in enumerate(args)]
    back = run(graph, [*known, ct])  # NaN: only the types of linear arguments may be used
    for part, i in zip(back, sorted(linear), strict=True):
        assert (part.dtype, part.shape) == (args[i].dtype, args[i].shape), str(op)
    right = sum(_pairing(part, v[i]) for part, i in zip(back, sorted(linear), strict=True))
    np.testing.assert_allclose(_pairing(ct, out), right, 1e-9, 1e-9, err_msg=f"{op} {linear}")


def _pairing(a: Any, b: Any) -> float:
    return float(np.real(np.sum(a * b)))


# -- batching ----------------------------------------------------------------------------------


def check_batching(example: Example, size: int = 3) -> None:
    """For all arguments batched, and for each alone."""
    op, args = example.op, [np.asarray(a) for a in example.args]
    n = len(args)
    masks = {(True,) * n, *(tuple(i == j for j in range(n)) for i in range(n))}
    if n == 2:
        masks = set(product((False, True), repeat=2)) - {(False, False)}
    for mask in sorted(masks):
        stacks = [
            np.stack([np.roll(a, k) for k in range(size)]) if m else a
            for a, m in zip(args, mask, strict=True)
        ]
        inputs = tuple(new_input("x", t) for t in types_of(stacks))
        out = op.batch(size, mask, *map(Array.wrap, inputs))
        outs = out if isinstance(out, tuple) else (out,)
        found = run(Graph("batch", inputs, tuple(o.node for o in outs)), stacks)
        single = [
            meaning(op, [s[k] if m else s for s, m in zip(stacks, mask, strict=True)])
            for k in range(size)
        ]
        assert_same(found, [np.stack(column) for column in zip(*single, strict=True)], op)
