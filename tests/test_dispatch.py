"""Native calls: the same results as the Python path, whatever comes, and nothing kept or lost.

`Compiled.__call__` is the Python path, and `runs` counts how often it ran a signature: what native
code serves leaves it as it is.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import sys
import threading
import weakref
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import tilewright as tw
from tilewright import tracing, trees
from tilewright.compile import Compiled
from tilewright.errors import ArraySubclass, IntegerRange
from tilewright.runtime import dispatch, memory, signatures


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Native code serves second calls once it is there."""
    f = tw.compile(lambda x: x - 1)
    for _ in range(dispatch.FIRST + 1):
        f(np.zeros(3))


def native(f: Compiled, *args: Any, **kwargs: Any) -> Any:
    """What native code returns for a call; it fails if Python serves it."""
    for _ in range(2):
        f(*args, **kwargs)
    before = runs(f)
    result = f(*args, **kwargs)
    assert runs(f) == before, "Python served the call"
    return result


def runs(f: Compiled) -> int:
    return sum(e.runs for e in f._entries.values())


def alike(found: Any, wanted: Any) -> None:
    """The same containers, and leaves of the same classes, dtypes and values."""
    assert trees.structure(found) == trees.structure(wanted)
    for a, b in zip(trees.leaves(found), trees.leaves(wanted), strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b, strict=isinstance(a, np.ndarray))
        if isinstance(a, np.ndarray):
            assert (a.flags.num, a.strides) == (b.flags.num, b.strides) or a.base is not None


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Weights:
    w: Any
    b: Any
    name: str = field(default="layer", metadata={"static": True})


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any


class Pair:
    """A class of the user's, registered as a container."""

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b


tw.tree.register(Pair, lambda p: ((p.a, p.b), None), lambda rest, xs: Pair(*xs))

BF16 = ml_dtypes.bfloat16
X = np.arange(8, dtype=np.float32)
Y = np.arange(6.0).reshape(2, 3)
CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "one array": (lambda x: x + 1, (X,), {}),
    "float64, two axes": (lambda x: x.T * 2, (Y,), {}),
    "several arrays": (lambda x, y: (x + 1, y - 1), (X, Y), {}),
    "no arguments": (lambda: np.arange(3) + 1, (), {}),
    "no results": (lambda x: None, (X,), {}),
    "empty tuple": (lambda x, y: ((), [], {}, x), (X, ()), {}),
    "no elements": (lambda x: x + 1, (np.zeros((0, 3)),), {}),
    "no axes": (lambda x: x + 1, (np.array(3.0),), {}),
    "an axis of one": (lambda x: x + 1, (np.zeros((3, 1, 2)),), {}),
    "sum": (lambda x: x.sum(), (X,), {}),
    "all dtypes": (
        lambda xs: [x + x for x in xs],
        ([np.ones(3).astype(t) for t in "?bhilBHILefdFD"],),
        {},
    ),
    "all scalars": (
        lambda *xs: [x + x for x in xs],
        tuple(np.ones(3).astype(t)[0] for t in "?bhilBHILefdFD"),
        {},
    ),
    "bfloat16": (lambda x, y: (x + y, y), (X.astype(BF16), BF16(3)), {}),
    "Python numbers": (
        lambda *xs: [X * x for x in xs], (True, 3, -2.5, 1 + 2j, False, -(1 << 62)), {},
    ),
    "keywords": (lambda x, *, a, b: x * a - b, (X,), {"b": Y[0, :1], "a": 3.0}),
    "only keywords": (lambda a, b: a - b, (), {"b": X, "a": X[::-1].copy()}),
    "tuple": (lambda t: (t[1], (t[0][0],)), (((X,), Y),), {}),
    "list": (lambda t: [t[1], [t[0]]], ([X, Y],), {}),
    "dict": (lambda d: {"z": d["a"] + 1, "a": d["z"]}, ({"z": X, "a": Y},), {}),
    "dict with numbers as keys": (lambda d: {2: d[1] + d[2]}, ({2: X, 1: X},), {}),
    "named tuple": (lambda p: Point(p.y, p.x + 1), (Point(X, Y),), {}),
    "dataclass": (lambda p: Weights(p.b, p.w + 1, "new"), (Weights(X, Y),), {}),
    "dataclass with slots": (lambda p: Frozen(p.b, p.a + 1), (Frozen(X, Y),), {}),
    "None": (lambda x, y: (x + 1, None), (X, None), {}),
    "nested": (
        lambda d, t: {"w": [d["p"][0].w, {"k": t[1]}], "n": (t[0],)},
        ({"p": [Weights(X, Y)], "q": ()}, (2, [X])),
        {},
    ),
    "values that are no arrays": (lambda x: (x + 1, "text", 3, 2.5), (X,), {}),
    "OrderedDict and defaultdict": (
        lambda x: (OrderedDict(b=x, a=x + 1), defaultdict(list, a=x)), (X,), {},
    ),
    "a registered class": (lambda x: Pair(x, x + 1), (X,), {}),
    "captured": (lambda x: x + Y[0, 1] + CAPTURED, (X,), {}),
    "large": (lambda x: [x + 1, x[0], x[:5]], (np.zeros(memory.LARGE),), {}),
    "large arena": (
        lambda x: np.sort(np.sort(x, -1)[::-1].T + 1, 0).sum(), (np.ones((90, 90)),), {},
    ),
    "small arena": (lambda x: np.sort(x + 1) * 2, (X,), {}),
    "a dozen": (
        lambda d: {k: v + 1 for k, v in d.items()}, ({f"k{i}": X + i for i in range(12)},), {},
    ),
}  # fmt: skip
CAPTURED = np.arange(8.0)


@pytest.mark.parametrize("name", CALLS)
def test_same_results(name: str) -> None:
    f, args, kwargs = CALLS[name]
    compiled = tw.compile(f)
    wanted = compiled(*args, **kwargs)
    for _ in range(4):
        alike(native(compiled, *args, **kwargs), wanted)


def test_this_process_can() -> None:
    """The tests below would pass on the Python path alone."""
    assert dispatch.reason() is None


@pytest.mark.parametrize(
    "x",
    [
        np.arange(16, dtype=np.float32)[::2],
        np.arange(8, dtype=np.float32)[::-1],
        np.frombuffer(bytes(1) + X.tobytes(), np.float32, offset=1),
        X.astype(">f4"),
        np.broadcast_to(np.float32(3), (8,)),
        X.astype(np.float64),
        X.reshape(2, 4),
        X[:7],
        X[0],
        3.0,
        np.array(2, np.float32),
        np.memmap,
    ],
    ids=["step", "reversed", "misaligned", "big-endian", "broadcast", "dtype", "axes", "extent",
         "scalar", "float", "no axes", "memmap"],
)  # fmt: skip
def test_other_inputs_than_seen(x: Any, tmp_path: Any) -> None:
    """They find the Python path, or a signature of their own."""
    if x is np.memmap:
        x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(8,))
    f = tw.compile(lambda x: x * 2)
    native(f, X)
    for _ in range(4):
        alike(f(x), tw.compile(lambda x: x * 2)(x))
    alike(native(f, X), X * 2)


def test_misuse_raises_as_python_does() -> None:
    f = tw.compile(lambda x, k=1: x * k)
    native(f, X)
    with pytest.raises(ArraySubclass):
        f(np.ma.masked_array(X))
    with pytest.raises(TypeError, match="argument"):
        f(X, q=2)
    with pytest.raises(TypeError, match="argument"):
        f()
    alike(native(f, X), X)


def test_arguments_of_any_number() -> None:
    """Calls by unpacking have no room before the arguments: native code copies them."""
    f = tw.compile(lambda *xs, **ks: sum(xs, X) + sum(ks.values(), X))
    for n in (0, 1, 3, 40, 0, 3):
        found = f(*[X] * n, **{f"a{i}": X for i in range(n)})
        np.testing.assert_array_equal(found, X * (2 * n + 2))


def test_keywords_in_any_order() -> None:
    f = tw.compile(lambda first, b, c: first - 2 * b + c)
    wanted = native(f, first=X, b=X + 1, c=X + 2)
    before = runs(f)
    alike(f(c=X + 2, b=X + 1, first=X), wanted)
    alike(f(**{"".join(["fir", "st"]): X, "c": X + 2, "b": X + 1}), wanted)
    assert runs(f) == before
    alike(f(X, c=X + 2, b=X + 1), wanted)


def test_dicts_in_another_order_or_with_keys_of_their_own() -> None:
    """A record is of one order; equal keys that are other objects are equal."""
    f = tw.compile(lambda d: d["first"] - d["second"])
    wanted = native(f, {"first": X, "second": X + 1})
    before = runs(f)
    alike(f({"".join(["fir", "st"]): X, "".join(["sec", "ond"]): X + 1}), wanted)
    assert runs(f) == before
    alike(native(f, {"second": X + 1, "first": X}), wanted)


def test_several_signatures() -> None:
    f = tw.compile(lambda x: x * 2)
    inputs = [X, X.astype(np.float64), Y, np.float32(3), 2, 2.5, np.zeros((2, 2))]
    for x in inputs:
        native(f, x)
    before = runs(f)
    for x in inputs:
        np.testing.assert_array_equal(f(x), x * 2)
    assert runs(f) == before
    assert len(f.signatures) == len(inputs)


def test_more_signatures_than_are_kept() -> None:
    """The oldest make room; their calls go through Python."""
    f = tw.compile(lambda x: x + 1)
    inputs = [np.zeros(n) for n in range(dispatch.MOST + 6)]
    for _ in range(3):
        for x in inputs:
            alike(f(x), x + 1)
    assert len(f._native) == dispatch.MOST


def test_one_table_for_each_kind_of_call() -> None:
    """Python-served calls of a signature that has its table already make no second one."""
    f = tw.compile(lambda x: x + 1)
    native(f, X)
    for _ in range(40):
        Compiled.__call__(f, X)
    assert len(f._native) == 1


def test_integers_beyond_64_bits_are_refused_as_python_does() -> None:
    f = tw.compile(lambda x, k: x * k)
    native(f, np.arange(3), 2)
    with pytest.raises(IntegerRange, match="out of bounds for int64"):
        f(np.arange(3), 1 << 70)


def test_inside_a_trace() -> None:
    """A compiled function that runs natively is traced through, whatever it is given."""
    outer = [np.float64(0)]
    inner = tw.compile(lambda x: x + outer[0])
    native(inner, Y)

    def whole(t: Any) -> Any:
        outer[0] = t
        return inner(Y)

    np.testing.assert_array_equal(tw.compile(whole)(np.float64(7)), Y + 7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of what is done to arrays
def test_captured_arrays_may_change() -> None:
    """Elements are read at every call, also where the array has moved or has another shape."""
    table = np.arange(8.0)
    f = tw.compile(lambda x: x + table)
    assert native(f, X)[1] == 2
    table[1] = 50
    assert f(X)[1] == 51
    table.resize(8, refcheck=False)
    assert f(X)[1] == 51
    table.shape = (1, 8)
    assert f(X)[1] == 51


def test_static_arguments() -> None:
    """Told by identity where that is enough; a value that may change is Python's to compare."""
    f = tw.compile(static=("n", "how"))(lambda x, n, how="up": x + n if how == "up" else x - n)
    alike(native(f, X, 3, how="down"), X - 3)
    alike(native(f, X, 3), X + 3)
    alike(f(X, 4), X + 4)
    before = runs(f)
    alike(f(X, 3, how="down"), X - 3)
    assert runs(f) == before

    class Mutable:
        n = 1

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Mutable) and self.n == other.n

        def __hash__(self) -> int:
            return self.n

    g = tw.compile(static=("m",))(lambda x, m: x + m.n)
    m = Mutable()
    for n in (1, 1, 1, 2, 2, 2, 1):
        m.n = n
        alike(g(X, m), X + n)


def test_methods() -> None:
    """`x.f(y)` is native too, and so is a bound method kept for later."""

    class Model:
        def __init__(self, w: float) -> None:
            self.w = w

        @tw.compile(static=(0,))
        def apply(self, x: Any) -> Any:
            return x * self.w

        @tw.compile(static=(0,))
        def __call__(self, x: Any) -> Any:
            return x - self.w

    one, two = Model(2.0), Model(3.0)
    f = Model.__dict__["apply"]
    for model in (one, two):
        for _ in range(3):
            alike(model.apply(X), X * np.float32(model.w))
            alike(model(X), X - np.float32(model.w))
    before = runs(f)
    bound = one.apply
    alike(bound(X), X * 2)
    alike(one.apply(X), X * 2)
    assert runs(f) == before
    assert len(f.signatures) == 2


def random_tree(rng: Any, depth: int) -> Any:
    """Containers and leaves of all kinds that native code takes apart itself."""
    kinds = [np.float32, np.float64, np.int32, np.complex64, np.bool_]
    choice = rng.integers(0, 11 if depth else 5)
    if choice < 3:
        shape = tuple(rng.integers(0, 4, rng.integers(0, 3)))
        return rng.integers(0, 9, shape).astype(kinds[rng.integers(len(kinds))])
    if choice < 5:
        return [3, -2.5, True, np.float32(1.5), np.int8(-7), 1j][rng.integers(6)]
    parts = [random_tree(rng, depth - 1) for _ in range(rng.integers(0, 4))]
    two = (parts + [X, X])[:2]
    return [
        tuple(parts), parts, {f"k{i}": p for i, p in reversed(list(enumerate(parts)))},
        Point(*two), Weights(*two), Frozen(*two),
    ][rng.integers(6)]  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_random_trees(seed: int) -> None:
    """Any tree comes back as Python gives it, also with a trace open on another thread."""
    rng = np.random.default_rng(seed)
    args = tuple(random_tree(rng, 3) for _ in range(rng.integers(1, 4)))
    f = tw.compile(lambda *ts: tw.tree.map(lambda v: v * 2, ts[::-1]))
    wanted = f(*args)
    alike(native(f, *args), wanted)
    with tracing.scope("elsewhere"):
        found: list[Any] = []
        t = threading.Thread(target=lambda: found.append(f(*args)))
        t.start()
        t.join()
    alike(found[0], wanted)


# -- references ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_references_are_flat(name: str) -> None:
    """10,000 calls leave every argument's count, and the number of objects, as they were."""
    f, args, kwargs = CALLS[name]
    calls = 10_000 if not name.startswith("large") else 1000
    compiled = tw.compile(f)
    native(compiled, *args, **kwargs)
    # References to small shared objects come and go elsewhere: what counts are thousands.
    held = [args, kwargs, *trees.leaves((args, kwargs)), X.dtype, Y.dtype, np.ndarray, tuple]
    held += [dict, list, Point, Weights, Frozen, compiled, CAPTURED, "w", *args]
    gc.collect()
    before = [sys.getrefcount(x) for x in held]
    blocks = sys.getallocatedblocks()
    for _ in range(calls):
        compiled(*args, **kwargs)
    grown = sys.getallocatedblocks() - blocks
    after = [sys.getrefcount(x) for x in held]
    assert max(abs(b - a) for a, b in zip(before, after, strict=True)) < 20
    assert grown < 200


def test_references_are_flat_where_calls_do_not_fit() -> None:
    """Attempts that fail half-way give back what they took."""
    f = tw.compile(lambda w, xs: w.w + xs[0] + xs[1])
    native(f, Weights(X, X), [X, X])
    weights, pair = Weights(X, X), [X, np.arange(16, dtype=np.float32)[::2]]
    held = [weights, pair, pair[1], X, f]
    before = [sys.getrefcount(x) for x in held]
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(2000):
        f(weights, pair)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 200
    assert max(abs(sys.getrefcount(x) - b) for x, b in zip(held, before, strict=True)) < 20


def test_exceptions_while_results_are_built() -> None:
    """They reach the caller, and nothing of the half-built result stays."""
    fail = [False]

    class Picky:
        def __init__(self, x: Any) -> None:
            if fail[0]:
                raise OverflowError("picky")
            self.x = x

    tw.tree.register(Picky, lambda p: ((p.x,), None), lambda rest, xs: Picky(*xs))
    f = tw.compile(lambda x: {"a": (x + 1, x.sum()), "b": [Picky(x + 2), Picky(x + 3)]})
    native(f, X)
    fail[0] = True
    gc.collect()
    blocks, count = sys.getallocatedblocks(), sys.getrefcount(X)
    for _ in range(1000):
        with pytest.raises(OverflowError, match="picky"):
            f(X)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 200
    assert sys.getrefcount(X) - count < 20
    fail[0] = False
    alike(native(f, X)["a"], (X + 1, X.sum()))


def test_exceptions_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no block for a large result, and the call raises what Python does."""

    def full(*args: Any) -> Any:
        raise MemoryError("full")

    f = tw.compile(lambda x: (x + 1, x[:3]))
    x = np.zeros(memory.LARGE)
    held = [native(f, x), f(x)]
    monkeypatch.setattr(memory, "_blocks", {})
    monkeypatch.setattr(memory, "_new", full)
    counts = sys.getrefcount(x), sys.getrefcount(x.dtype)
    for _ in range(100):
        with pytest.raises(MemoryError, match="full"):
            f(x)
    assert sys.getrefcount(x) == counts[0] and abs(sys.getrefcount(x.dtype) - counts[1]) < 20
    held.pop()
    alike(f(x)[0], x + 1)  # in the block that is idle now
    monkeypatch.undo()
    alike(native(f, x)[1], x[:3].copy())


def test_functions_die() -> None:
    """With their arrays: nothing native keeps either."""

    table = np.arange(8.0)
    f = tw.compile(lambda x: x + table)
    native(f, X)
    count = sys.getrefcount(table)
    gone = weakref.ref(f)
    del f
    gc.collect()
    assert gone() is None
    assert sys.getrefcount(table) < count


def test_clear_cache() -> None:
    """Forgets native signatures too, also those of a call under way in another thread."""
    f = tw.compile(lambda x: tw.fori_loop(0, 50, lambda i, s: np.tanh(s @ x), x))
    x = np.eye(48)
    wanted = native(f, x)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(60) if not np.array_equal(f(x), wanted))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        f.clear_cache()
    assert wrong == []
    assert len(f._native) <= len(f.signatures) * 4


# -- results for reuse ---------------------------------------------------------------------------

WRAPPED: dict[str, Any] = {
    "list": list,
    "dict": lambda xs: {f"k{i}": x for i, x in enumerate(xs)},
    "both": lambda xs: ({f"k{i}": x for i, x in enumerate(xs[:4])}, xs[4:]),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_results_somebody_holds_are_not_written_again(wrap: Any) -> None:
    """Functions with many results reuse arrays, but only those that nobody can see."""
    compiled = tw.compile(lambda x: wrap([x + i for i in range(6)]))
    native(compiled, X)

    def f(x: Any) -> Any:
        return trees.leaves(compiled(x))

    kept = [f(X + k) for k in range(5)]
    views = [f(X + k)[3][2:5] for k in range(5)]
    memories = [memoryview(f(X + k)[5]) for k in range(5)]
    for _ in range(10):
        f(X + 100)
    for k in range(5):
        alike(kept[k], [X + np.float32(k) + i for i in range(6)])
        alike(compiled(X), wrap([X + i for i in range(6)]))
        np.testing.assert_array_equal(views[k], (X + np.float32(k) + 3)[2:5])
        np.testing.assert_array_equal(np.asarray(memories[k]), X + np.float32(k) + 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of what is done to arrays
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("how", ["shape", "dtype", "flags", "resize", "weak"])
def test_results_that_were_changed_are_not_used_again(how: str, wrap: Any) -> None:
    f = tw.compile(lambda x: wrap([x + i for i in range(6)]))
    native(f, X)
    watched = []
    for _ in range(4):
        for a in trees.leaves(f(X)):
            if how == "shape":
                a.shape = (2, 4)
            elif how == "dtype":
                a.dtype = np.int32
            elif how == "flags":
                a.flags.writeable = False
            elif how == "weak":
                watched.append(weakref.ref(a))
            else:
                a.resize(20, refcheck=False)
            del a
        alike(f(X), wrap([X + i for i in range(6)]))


@pytest.mark.parametrize("kept", range(4))
def test_steps(kept: int) -> None:
    """Results that become arguments, with some generations of them held meanwhile."""
    f = tw.compile(lambda d: {k: v + 1 for k, v in d.items()})
    start = {f"k{i}": X + i for i in range(5)}
    native(f, start)
    state, held = start, [start]
    for step in range(1, 12):
        state = f(state)
        held = [*held, state][-kept - 1 :]
        for back, old in enumerate(reversed(held)):
            alike(old, {k: v + np.float32(step - back) for k, v in start.items()})


def test_trees_of_results_are_new() -> None:
    """Containers are never shared between calls, nor with the function's tables."""
    f = tw.compile(lambda x: ({"a": x + 1}, [x + 2], Weights(x, x)))
    native(f, X)
    first = f(X)
    first[0]["b"] = 3
    first[1].append(4)
    first[2].w = None
    alike(f(X), ({"a": X + 1}, [X + 2], Weights(X, X)))


# -- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 300])
def test_four_threads(size: int) -> None:
    """Small programs keep the GIL, long ones give it up: either way calls do not mix."""

    def tree(d: dict[str, Any]) -> Any:
        x = d["x"]
        return {"r": [x @ x, x + 1, x.sum()], "n": (x * 2, 5)}

    f = tw.compile(tree)
    assert signatures.is_long(f.lower({"x": np.ones((size, size))}).graph) == (size > 100)
    inputs = [{"x": np.random.default_rng(i).standard_normal((size, size))} for i in range(4)]
    wanted = [f(x) for x in inputs]
    native(f, inputs[0])
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(2000 if size < 100 else 25):
            found = f(inputs[i])
            leaves = zip(trees.leaves(found), trees.leaves(wanted[i]), strict=True)
            if not all(np.array_equal(a, b) for a, b in leaves):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_arguments_may_vanish_meanwhile() -> None:
    """While a long program runs, another thread may empty the list its arguments are in."""
    f = tw.compile(lambda xs: tw.fori_loop(0, 20, lambda i, s: np.tanh(s @ xs[0]), xs[1]))
    eye = np.eye(96)
    box = [eye.copy(), eye.copy()]
    wanted = native(f, box)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            box[:] = [eye.copy(), eye.copy()]

    t = threading.Thread(target=swap)
    t.start()
    try:
        for _ in range(50):
            np.testing.assert_array_equal(f(box), wanted)
    finally:
        stop.set()
        t.join()


# -- which programs are long ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "n", "long"),
    [
        (lambda x: x + 1, 1000, False),
        (lambda x: x + 1, 1_000_000, True),
        (lambda x: np.outer(x, x) @ x, 16, False),
        (lambda x: np.outer(x, x) @ np.outer(x, x), 200, True),
        (lambda x: tw.while_loop(lambda s: s.sum() < 9, lambda s: s + 1, x), 4, True),
    ],
    ids=["small map", "large map", "small product", "large product", "loop"],
)
def test_long_programs(f: Any, n: int, long: bool) -> None:
    assert signatures.is_long(tw.compile(f).lower(np.zeros(n)).graph) == long


# -- where native calls cannot be ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ABI", 1, "NumPy's binary interface is otherwise than known"),
        ("API", {**dispatch.API, "array_type": 3}, "NumPy's table is ordered otherwise"),
        ("_check_arrays", lambda layout: dispatch._require(False, "arrays are kept"), "arrays"),
        ("_probe_program", lambda *given: None, "calls end otherwise than known"),
    ],
)
def test_checks_that_fail_leave_the_python_path(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, says: str
) -> None:
    """Each check is made to fail; calls go on through Python."""
    monkeypatch.setattr(dispatch, "_natives", {})
    monkeypatch.setattr(dispatch, "_reasons", [])
    monkeypatch.setattr(dispatch, name, value)
    f = tw.compile(lambda x: x + 1)
    for k in range(3 * dispatch.FIRST):
        alike(f(X), X + 1)
        assert runs(f) == k + 1
    reason = dispatch.reason()
    assert reason is not None
    assert says in reason


@pytest.mark.parametrize("times", [1, dispatch.CHECKS])
def test_references_are_counted_until_nobody_else_lets_go(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Another thread may drop an array while calls are checked; what happens every time is ours."""
    monkeypatch.setattr(dispatch, "_natives", {})
    monkeypatch.setattr(dispatch, "_reasons", [])
    others = [[np.dtype(np.float32)] for _ in range(times)]
    alike, asked = dispatch._alike, iter(range(10**6))

    def meanwhile(found: Any, wanted: Any) -> bool:
        if next(asked) % 3 == 0 and others:  # once a round
            others.pop()
        return alike(found, wanted)

    monkeypatch.setattr(dispatch, "_alike", meanwhile)
    f = tw.compile(lambda x: x + 3)
    for _ in range(dispatch.FIRST + 1):
        f(np.ones(4))
    reason = dispatch.reason()
    assert not others
    assert reason is None if times == 1 else "references are counted" in str(reason)


def test_other_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, the class stays as it is."""
    monkeypatch.setattr(dispatch, "unsupported", lambda: "the interpreter is another")

    class Function:
        def __call__(self, x: Any) -> Any:
            return x

    assert dispatch.fast_called(Function) is Function
    f = Function()
    chain = dispatch.Chain(f)
    assert len(chain) == 0
    assert f(3) == 3


def test_the_type_is_an_ordinary_class() -> None:
    f = tw.compile(lambda x: x + 1)
    assert isinstance(f, Compiled)
    assert type(f).__name__ == "Compiled"
    assert Compiled.__doc__
    f.attribute = 3
    assert weakref.ref(f)() is f
    assert f.__name__ == "<lambda>"

    assert copy.copy(f) is f
    assert copy.deepcopy({"f": f})["f"] is f

    class Own(Compiled):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ("own", super().__call__(*args, **kwargs))

    own = Own(lambda x: x + 1)
    for _ in range(4):
        assert own(X)[0] == "own"


def test_offsets_read_elsewhere_are_noticed() -> None:
    """The layout check compares with what Python itself says of known objects."""
    layout = dispatch.checked_layout(0)
    a = np.arange(3.0)
    at = id(a) + layout.array("data")
    assert ctypes.c_void_p.from_address(at).value == a.ctypes.data
    assert layout.tuple_items == tuple.__basicsize__
