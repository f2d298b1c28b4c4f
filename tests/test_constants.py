"""Constants: what is computed ahead, what is packed, and that both are what they would be."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from running import interpreted, same
from tilewright import errors, loops
from tilewright.codegen import llvm
from tilewright.constants import is_constant
from tilewright.graph import evaluate
from tilewright.runtime import cache
from tilewright.target import host
from tilewright.transforms.ahead import split
from tilewright.transforms.assemble import constants

RNG = np.random.default_rng(3)


def normal(*shape: int, dtype: Any = np.float32) -> Any:
    return RNG.standard_normal(shape).astype(dtype)


def held(f: Any, x: Any, *weights: Any) -> Any:
    """f(x, *weights) with the weights as constants, checked against the graph as NumPy interprets
    it, three times: later calls may be native code's."""
    constants = tw.constant(weights)
    g = tw.compile(lambda x: f(x, *constants))
    expected = interpreted(f, x, *weights)
    for _ in range(3):
        same(g(x), expected)
    return g


def preparation(g: Any, *args: Any) -> Any:
    return g.lower(*args).entry.program.assembly.preparation


# -- the promise -------------------------------------------------------------------------------


def test_constants_are_copies_that_cannot_be_written_to() -> None:
    w = normal(3, 4)
    c = tw.constant(w)
    w[0] = 7
    assert not np.any(c[0] == 7)
    with pytest.raises(ValueError, match="read-only"):
        c[0] = 1


def test_trees_keep_their_structure_and_numbers() -> None:
    tree = {"w": [normal(2, 2), (np.arange(3), 1.5)], "n": None, "k": np.float32(2)}
    c = tw.constant(tree)
    same(c, tree)
    assert c["w"][1][1] == 1.5 and is_constant(c["w"][0]) and is_constant(c["w"][1][0])
    assert type(c["w"][0]) is np.ndarray


def test_a_constant_stays_itself_and_its_views_are_constants() -> None:
    c = tw.constant(normal(4, 6))
    assert tw.constant(c) is c
    assert is_constant(c.T) and is_constant(c[1:, ::2]) and is_constant(c.reshape(3, 8))
    assert not is_constant(c.copy()) and not is_constant(c + 0) and not is_constant(normal(2))


def test_read_only_is_no_promise() -> None:
    w = normal(3)
    w.flags.writeable = False
    assert not is_constant(w) and not is_constant(w[1:])


def test_traced_arrays_are_no_constants() -> None:
    with pytest.raises(errors.NotConstant, match=r"tw\.constant on the array outside"):
        tw.compile(lambda w, x: x @ tw.constant(w))(normal(2, 2), normal(2, 2))


def test_a_constant_made_while_tracing() -> None:
    w, x = normal(5, 6), normal(4, 5)
    same(tw.compile(lambda x: x @ tw.constant(w))(x), x @ w)


def fixed(g: Any, *args: Any) -> list[bool]:
    return [h.fixed for h in constants(g.lower(*args).graph)]


def test_what_a_function_made_and_nobody_has_is_a_constant() -> None:
    """NumPy computes what depends on no argument while the function is traced."""
    w, x = normal(5, 6), normal(4, 5)
    g = tw.compile(lambda x: x @ (w * 2) + np.hanning(6)[::-1])
    assert fixed(g, x) == [True, True]
    same(g(x), x @ (w * 2) + np.hanning(6)[::-1])


def test_what_somebody_has_is_none() -> None:
    w, x, left = normal(5, 6), normal(4, 5), []

    def keeps(x: Any) -> Any:
        table = w * 2
        left.append(table[1:])
        return x @ table + w[0]

    g = tw.compile(keeps)
    assert fixed(g, x) == [False, False]
    same(g(x), x @ (w * 2) + w[0])
    left[0][...] = 0
    same(g(x), x[:, :1] @ (2 * w[:1]) + w[0])


def test_nobody_keeps_a_constant_alive() -> None:
    c = tw.constant(normal(4))
    gone = weakref.ref(c)
    del c
    gc.collect()
    assert gone() is None


# -- what is computed ahead ----------------------------------------------------------------------


def test_what_depends_on_constants_only_is_computed_once() -> None:
    def scaled(x: Any, w: Any, s: Any) -> Any:
        # with traced zeros: what is of ordinary arrays only NumPy itself computes
        zero = tw.numpy.zeros(50, np.float32)
        return x @ (w / np.sqrt(np.var(w + zero, 0) + s))

    g = held(scaled, normal(8, 40), normal(40, 50), np.float32(1e-3) * np.ones(50, np.float32))
    names = [n.op.name for n in split(g.lower(normal(8, 40)).simplified).after.nodes]
    assert "sqrt" not in names and "reduce_sum" not in names
    (result,) = preparation(g, normal(8, 40)).results
    assert result.dtype == np.float32


def test_views_are_read_through() -> None:
    """A bias broadcast to the result's shape is not written out."""

    def biased(x: Any, b: Any) -> Any:
        return x + np.broadcast_to(np.tanh(b + tw.numpy.zeros(50, b.dtype)), x.shape)

    g = held(biased, normal(300, 50), normal(50))
    (result,) = preparation(g, normal(300, 50)).results
    assert result.shape == (50,)


def test_what_grows_is_not_kept() -> None:
    """A table from two vectors, and narrow weights that are widened."""
    a, b, w = normal(300, 300), normal(300), RNG.integers(-9, 9, (300, 300)).astype(np.int8)
    for f, c in ((lambda x, c: x * (c[:, None] * c), b), (lambda x, w: x * w.astype(x.dtype), w)):
        c = tw.constant(c)
        g = tw.compile(lambda x: f(x, c + tw.numpy.zeros(1, c.dtype)))  # noqa: B023
        same(g(a), f(a, c))
        before = preparation(g, a)
        kept = before.results if before else ()
        assert sum(t.size * t.dtype.itemsize for t in kept) <= c.nbytes


def test_results_that_are_constants() -> None:
    c = tw.constant(normal(5, 3))
    g = tw.compile(lambda x: (c, c.T, np.tanh(c), x + 1, c))
    for _ in range(3):
        out = g(np.ones(2))
        same(out, (c, c.T, np.tanh(c), np.full(2, 2.0), c))
        for a in out:
            a[...] = 0  # each result is the caller's own


def test_constants_without_elements() -> None:
    held(lambda x, w: x @ w, normal(3, 0), normal(0, 4))
    held(lambda x, w: x @ np.tanh(w), normal(3, 4), normal(4, 0))


def test_several_results_of_one_op() -> None:
    a = normal(6, 6) + 6 * np.eye(6, dtype=np.float32)
    g = held(lambda x, a: np.linalg.qr(a)[0] @ x + np.linalg.inv(a) @ x, normal(6, 3), a)
    assert "qr" not in [n.op.name for n in split(g.lower(normal(6, 3)).simplified).after.nodes]


def test_sorted_constants() -> None:
    held(lambda x, w: np.sort(w)[::-1] * x + np.cumsum(w), normal(31), normal(31))


# -- packing ---------------------------------------------------------------------------------------

PRODUCTS = {
    "plain": (lambda x, w: x @ w, (64, 96), (96, 130)),
    "transposed": (lambda x, w: x @ w.T, (64, 96), (131, 96)),
    "prime": (lambda x, w: np.maximum(x @ w + 1, 0), (37, 41), (41, 43)),
    "vector": (lambda x, w: x @ w, (96,), (96, 130)),
    "matrix-vector": (lambda x, w: w @ x, (96,), (200, 96)),
    "batched": (lambda x, w: x @ w, (3, 20, 33), (3, 33, 70)),
    "one": (lambda x, w: x @ w, (1, 1), (1, 1)),
    "left": (lambda x, w: w @ x, (96, 64), (90, 96)),
    "square": (lambda x, w: x @ w @ w.T, (64, 64), (64, 64)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.int32])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str, dtype: Any) -> None:
    f, x, w = PRODUCTS[name]
    a, b = (10 * normal(*x)).astype(dtype), (10 * normal(*w)).astype(dtype)
    g = held(f, a, b)
    same(g(a), f(a, b), tolerance=3e-5 if dtype in (np.float32, np.complex64) else None)


CONVOLUTIONS = {
    "3x3": ((2, 16, 9, 11), (24, 16, 3, 3), {"padding": "SAME"}),
    "winograd": ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": "SAME"}),
    "winograd, one block": ((1, 64, 28, 28), (32, 64, 3, 3), {"padding": "SAME"}),
    "strided": ((1, 32, 14, 14), (48, 32, 3, 3), {"padding": "SAME", "window_strides": (2, 2)}),
    "1x1": ((1, 64, 7, 7), (70, 64, 1, 1), {"padding": "VALID"}),
    "7x7 image": ((1, 128, 7, 7), (128, 128, 3, 3), {"padding": "SAME"}),
    "grouped": ((1, 32, 8, 8), (32, 8, 3, 3), {"padding": "SAME", "feature_group_count": 4}),
    "depthwise": ((1, 32, 14, 14), (32, 1, 3, 3), {"padding": "SAME", "feature_group_count": 32}),
    "deep": ((1, 512, 7, 7), (64, 512, 3, 3), {"padding": "SAME"}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    x, w, how = CONVOLUTIONS[name]
    conv = functools.partial(tw.lax.conv_general_dilated, **{"window_strides": (1, 1), **how})
    held(lambda x, w: np.maximum(conv(x, w), 0), normal(*x), normal(*w))


@pytest.mark.parametrize("sign", [(np.int8, np.int8), (np.uint8, np.int8), (np.int8, np.uint8)])
def test_narrow_products(sign: Any) -> None:
    a, b = (RNG.integers(0, 100, s).astype(d) for s, d in zip([(40, 70), (70, 90)], sign))

    def product(x: Any, w: Any) -> Any:
        return np.matmul(x, w, dtype=np.int32)

    same(held(product, a, b)(a), product(a, b))


def test_what_a_schedule_stages_of_a_constant_is_not_copied_again() -> None:
    """No loop of the main program writes the block: the copy is the preparation's."""
    x, w = normal(64, 300), tw.constant(normal(200, 300))
    g = tw.compile(lambda x: x @ w.T)
    lowered = g.lower(x)
    assert "Stage" in str(*lowered.schedules.values())
    assert preparation(g, x).results != ()
    written = [
        s.buffer.scope
        for f in lowered.program.functions
        for s in loops.statements(f.body)
        if isinstance(s, loops.Store)
    ]
    assert set(written) <= {"output", "registers"}
    same(g(x), x @ w.T)


def defined(program: loops.Program, once: bool) -> list[str]:
    """The heads of a program's functions."""
    text = llvm.print_program(program, host(), 1, once)
    return [line for line in text.splitlines() if line.startswith("define")]


def test_only_a_short_preparation_is_not_improved_by_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = normal(300, 64), tw.constant(normal(203, 300))
    program = preparation(
        tw.compile(lambda x: x.T @ np.tanh(w + tw.numpy.zeros(1, w.dtype)).T), x
    ).program
    assert all(llvm.AS_PRINTED in head for head in defined(program, once=True))
    *kernels, _ = defined(program, once=False)
    assert kernels and not any(llvm.AS_PRINTED in head for head in kernels)
    monkeypatch.setattr(llvm, "BRIEF_NS", 1.0)
    *kernels, _ = defined(program, once=True)
    assert kernels and not any(llvm.AS_PRINTED in head for head in kernels)


def test_entries_that_only_call_are_not_improved_by_llvm() -> None:
    x = normal(100, 100)
    means = tw.compile(lambda x: np.exp(x - np.exp(x).mean(1)) / np.exp(x).mean(0))
    *kernels, entry = defined(means.lower(x).program, once=False)
    assert llvm.AS_PRINTED in entry
    assert kernels
    assert not any(llvm.AS_PRINTED in head for head in kernels)


def test_what_turns_tiles_and_what_only_multiplies_is_not_improved_by_llvm() -> None:
    x, w = normal(1, 64, 24, 24), normal(64, 64, 3, 3)
    convolve = functools.partial(tw.lax.conv, window_strides=(1, 1), padding="SAME")
    program = tw.compile(convolve).lower(x, w).program
    heads = defined(program, once=False)
    plain = {head.split("@")[1].split("(")[0]: llvm.AS_PRINTED in head for head in heads}
    if "filter_results" not in plain:
        pytest.skip("Winograd's sums do not pay on this machine")
    assert plain["filter_data"]
    assert plain["filter_results"]
    (product,) = (name for name in plain if name.startswith("filtered"))
    assert plain[product]  # a nest of products, which is written out (test_nests)


def test_what_steers_kernels_through_a_loop_is_not_improved_by_llvm() -> None:
    x = normal(100, 100)
    f = tw.compile(lambda x: tw.fori_loop(0, 9, lambda i, y: np.exp(y - y.mean(1)) / x, x))
    *kernels, entry = defined(f.lower(x).program, once=False)
    assert llvm.AS_PRINTED in entry
    assert kernels
    assert not any(llvm.AS_PRINTED in head for head in kernels)


@pytest.mark.parametrize("dtype", ["int16", "float16", "bfloat16"])
def test_short_lanes_of_a_preparation_are_blended(dtype: str) -> None:
    """LLVM ended the process: thirteen lanes of sixteen bits, in a function it need not improve."""
    a = np.random.default_rng(0).integers(-9, 9, 13)
    c = tw.constant(a.astype(tw.numpy.dtype(dtype)))

    def f(x: Any) -> Any:
        held = tw.numpy.array(c)
        return np.argmax(held), np.max(held), x

    position, largest, _ = tw.compile(f)(np.float32(1))
    assert position == np.argmax(a) and largest == a.max()


def test_equal_layers_share_code_and_not_weights() -> None:
    weights = [normal(128, 128) / 8 for _ in range(4)]

    def layers(x: Any, *weights: Any) -> Any:
        for w in weights:
            x = np.tanh(x @ w.T)
        return x

    g = held(layers, normal(32, 128), *weights)
    assert len(g.lower(normal(32, 128)).kernels) == 3  # from and to the caller's, and between
    assert len(preparation(g, normal(32, 128)).results) == 4
    assert len(preparation(g, normal(32, 128)).copies) == 4
    assert preparation(g, normal(32, 128)).program is None


def test_constants_inside_loops() -> None:
    w, v = tw.constant((normal(40, 40) / 6, normal(40, 40) / 6))

    def steps(x: Any) -> Any:
        return tw.scan(lambda h, t: (np.tanh(h @ w.T + t @ np.exp(v)), h), x, xs)[0]

    xs, x = normal(5, 16, 40), normal(16, 40)
    h = x
    for t in xs:
        h = np.tanh(h @ w.T + t @ np.exp(v))
    same(tw.compile(steps)(x), h, tolerance=1e-4)


def test_branches_and_gradients() -> None:
    w = tw.constant(normal(30, 40))

    def loss(x: Any) -> Any:
        return np.sum(tw.cond(np.sum(x) > 0, lambda x: x @ w, lambda x: x @ np.cos(w), x) ** 2)

    wide = np.asarray(w, np.float64)
    for x, held_by in ((abs(normal(8, 30)), wide), (-abs(normal(8, 30)), np.cos(wide))):
        y = x @ held_by
        expected = np.float32(np.sum(y**2)), (2 * y @ held_by.T).astype(np.float32)
        same(tw.grad(loss)(x), expected[1])
        same(tw.compile(tw.value_and_grad(loss))(x), expected)


# -- programs, caches, threads ---------------------------------------------------------------------


def test_programs_are_shared_and_weights_are_not() -> None:
    """One program for all weights; each keeps its own packed ones."""

    def model(w: Any) -> Any:
        c = tw.constant(w)
        return tw.compile(lambda x: x @ np.tanh(c).T)

    x = normal(16, 64)
    weights = [normal(80, 64) for _ in range(7)]
    models = [model(w) for w in weights]
    for _ in range(3):
        for g, w in zip(models, weights, strict=True):
            same(g(x), x @ np.tanh(w).T)
    assert len({id(g.lower(x).entry.program) for g in models}) == 1


def test_programs_keep_no_arrays() -> None:
    """Neither of the model they were made for, nor what they made of it."""

    def model(c: Any) -> Any:
        return tw.compile(lambda x: x @ np.tanh(c + tw.numpy.zeros(1, c.dtype)).T)

    x, first, second = normal(16, 64), tw.constant(normal(80, 64)), tw.constant(normal(80, 64))
    f, g = model(first), model(second)
    same(f(x), x @ np.tanh(first).T)
    same(g(x), x @ np.tanh(second).T)
    lowered = g.lower(x)
    program = lowered.entry.program
    assert program is f.lower(x).entry.program
    made = [a for c in (first, second) for a in program.prepared([c])]
    refs = [weakref.ref(a) for a in (first, second, *made)]
    del made, first, f
    gc.collect()
    assert [r() is None for r in refs] == [True, False, True, False]
    with pytest.raises(errors.ConstantGone, match=r"lower\(x\)\.graph"):
        evaluate(lowered.simplified, [x])
    same(evaluate(lowered.graph, [x])[0], g(x))
    del lowered, second, g
    gc.collect()
    assert [r() is None for r in refs] == [True] * 4


def test_constants_and_captured_arrays_are_told_apart() -> None:
    w = normal(20, 30)
    c = tw.constant(w)
    x = normal(4, 20)
    plain, fixed = tw.compile(lambda x: x @ w), tw.compile(lambda x: x @ c)
    same(plain(x), fixed(x))
    w *= 2
    same(plain(x), 2 * fixed(x))


@pytest.mark.parametrize("runs", [True, False])
def test_from_disk(runs: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later process finds the preparation beside the program, also if it only copies."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    compiling = import_module("tilewright.compile")
    w, x = normal(90, 64), normal(16, 64)

    def product(x: Any, c: Any) -> Any:
        return x @ (np.tanh(c + tw.numpy.zeros(1, c.dtype)) if runs else c).T

    results = []
    for _ in range(2):
        monkeypatch.setattr(compiling, "_programs", compiling.Programs())
        c = tw.constant(w)
        g = tw.compile(lambda x: product(x, c), options=tw.Options())  # noqa: B023
        results.append(g(x))
        found = g.lower(x).entry.program.found
    assert found is not None and found[0].before is not None
    assert (found[0].before.runs, len(found[0].before.copies)) == (runs, 0 if runs else 1)
    np.testing.assert_array_equal(*results)
    same(results[0], x @ (np.tanh(w) if runs else w).T)


def test_many_threads_prepare_at_once() -> None:
    c, x = tw.constant(normal(64, 64)), normal(16, 64)
    g = tw.compile(lambda x: x @ np.tanh(c).T)
    expected = x @ np.tanh(c).T
    results: list[Any] = []
    crowd = [threading.Thread(target=lambda: results.append(g(x))) for _ in range(8)]
    for t in crowd:
        t.start()
    for t in crowd:
        t.join()
    assert len(results) == 8
    for r in results:
        same(r, expected)


def test_explain_says_what_is_kept() -> None:
    c, x = tw.constant(normal(64, 64)), normal(16, 64)
    text = tw.compile(lambda x: x @ np.tanh(c)).lower(x).explain()
    assert "computed ahead of all calls, from constants:" in text and "16,384 bytes" in text
