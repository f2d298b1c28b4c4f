"""Machine code on disk: what is written, what is refused, what a second process does with it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from tilewright import dtypes
from tilewright.codegen import llvm, modules
from tilewright.codegen.llvm_values import AS_PRINTED
from tilewright.graph import Op, Type
from tilewright.options import Options
from tilewright.runtime import cache, executable, jit, threads
from tilewright.runtime.cache import Before, Entry, Store
from tilewright.target import Lapack, host
from tilewright.transforms import pipeline
from tilewright.transforms.copies import Copy, Part
from tilewright.transforms.heuristic import heuristic

compiling = import_module("tilewright.compile")
KEY, OTHER = "ab" * 32, "cd" * 32
ENTRY = Entry((b"first object", b"second"), (0, 2), 4096)
COPIES = (
    Copy(0, 3, 4, True, False, (Part((2, 5), 0, (5, 1), 3, (1, 7)), Part((1,), 9, (1,), 8, (0,)))),
    Copy(1, 2, 16, False, True, ()),
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for programs compiled in the test, and nothing kept in memory."""
    if threads.available():
        threads.pool()  # its code is not the test's
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process would find it: no program in memory."""
    monkeypatch.setattr(compiling, "_programs", compiling.Programs())


def compiled(f: Any, scheduler: Any = None) -> Any:
    """Without verification, which would bypass the cache."""
    return tw.compile(scheduler=scheduler, options=Options())(f)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


# -- entries -----------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=4),
    st.lists(st.integers(0, 1 << 40), max_size=5),
    st.integers(0, 1 << 60),
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple),
            st.sampled_from([np.dtype(np.float32), np.dtype(np.bool_), dtypes.bfloat16]),
        ),
        max_size=3,
    ),
    st.sampled_from([(), COPIES, COPIES[1:]]),
)
def test_an_entry_is_read_as_it_was_written(
    objects: list[bytes],
    kept: list[int],
    arena: int,
    results: list[Any],
    copies: tuple[Copy, ...],
) -> None:
    entry = Entry((b"code", *objects), tuple(kept), arena)
    before = Before(tuple(results), copies, arena % 2 == 0, 2 * arena)
    for e in (entry, replace(entry, before=before)):
        assert cache.unpacked(KEY, cache.packed(KEY, e)) == e


def test_what_stands_before_is_read_as_a_whole() -> None:
    """What stands before is four numbers, then dtype, rank and shape of each result, then the
    copies: nothing less, nothing more, and nothing else."""
    head, copy = (1, 1, 0, 64), COPIES[0].numbers()
    good = (*head, 0, 1, 7, *copy)
    wrong = [(*head, 99, *good[5:]), (*head, 0, 1 << 60, *good[6:]), (1 << 60, *good[1:])]
    wrong += [good[:n] for n in range(1, len(good))] + [(*good, 0)]
    for coded in (good, *wrong):
        lists = np.array([*coded, 0], "<u8").tobytes()
        fits = coded is good
        body = cache._HEADER.pack(bytes.fromhex(KEY), 0, 0, len(coded), 1) + lists
        content = cache._MAGIC + cache.hashlib.sha256(body).digest() + body
        assert (cache.unpacked(KEY, content) is not None) == fits


def test_cut_or_changed_entries_are_none() -> None:
    """Every prefix, and every byte changed, in the header as in the code."""
    before = Before((((3, 4), dtypes.bfloat16),), COPIES, True, 4096)
    content = cache.packed(KEY, replace(ENTRY, before=before))
    for n in range(len(content)):
        assert cache.unpacked(KEY, content[:n]) is None
        changed = bytearray(content)
        changed[n] ^= 1 << (n % 8)
        assert cache.unpacked(KEY, bytes(changed)) is None
    assert cache.unpacked(KEY, content + b"x") is None
    assert cache.unpacked(OTHER, content) is None


@given(st.binary(max_size=300))
def test_anything_with_a_digest_is_read_or_none(body: bytes) -> None:
    """Lengths that lie are found out though the digest is right."""
    digest = cache.hashlib.sha256(body).digest()
    found = cache.unpacked(KEY, cache._MAGIC + digest + body)
    assert found is None or sum(map(len, found.objects)) <= len(body)


@pytest.mark.parametrize("numbers", [(1 << 63, 0), (0, 1 << 32), (3, 2**64 - 1)])
def test_huge_lengths_are_none(numbers: tuple[int, int]) -> None:
    """Without a try to allocate them."""
    most = 2**32 - 1
    for counts in ((0, 0, 2), (0, 2, 1), (0, 2, 0), (2, 0, 0), (0, 2, 2), (most, most, most)):
        body = (
            cache._HEADER.pack(bytes.fromhex(KEY), 0, *counts) + np.array(numbers, "<u8").tobytes()
        )
        content = cache._MAGIC + cache.hashlib.sha256(body).digest() + body
        assert cache.unpacked(KEY, content) is None


# -- the store ---------------------------------------------------------------------------------


def test_damaged_entries_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, ENTRY)
    assert store.get(KEY) == ENTRY
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert store.get(KEY) is None
    assert names(tmp_path) == []
    assert store.get(KEY) is None


def test_files_that_others_may_write_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for mode in (0o620, 0o602):
        store.put(KEY, ENTRY)
        (path,) = tmp_path.iterdir()
        assert path.stat().st_mode & 0o077 == 0
        path.chmod(mode)
        assert store.get(KEY) is None
        assert names(tmp_path) == []


def test_too_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put(KEY, ENTRY)
    monkeypatch.setattr(cache, "MOST_BYTES", 50)
    assert store.get(KEY) is None
    store.put(KEY, ENTRY)
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is as if it were empty, and the channel says why."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TILEWRIGHT_SHOW", "cache")
    store = Store(tmp_path / "file" / "cache")
    store.put(KEY, ENTRY)
    assert store.get(KEY) is None
    assert capsys.readouterr().err.count("Not a directory") == 2


def test_entries_not_used_for_longest_go_first(tmp_path: Path) -> None:
    size = len(cache.packed(KEY, ENTRY))
    store = Store(tmp_path, kept_bytes=10 * size)
    keys = [f"{k:064x}" for k in range(14)]
    now = time.time()
    for k, key in enumerate(keys[:10]):
        store.put(key, ENTRY)
        os.utime(tmp_path / f"{key}.entry", (now - 1000 + k,) * 2)
    assert store.get(keys[0]) == ENTRY  # used just now
    store.put(keys[10], ENTRY)
    left = {n.removesuffix(".entry") for n in names(tmp_path)}
    assert left == {keys[0], *keys[3:11]}
    for key in keys[11:]:
        store.put(key, ENTRY)
    assert len(names(tmp_path)) <= 10


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    store = Store(tmp_path)
    with monkeypatch.context() as m:
        m.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.put(KEY, ENTRY)
    assert names(tmp_path) == []


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / "a.part", tmp_path / "b.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Store(tmp_path, kept_bytes=1000).put(KEY, ENTRY)
    assert names(tmp_path) == [f"{KEY}.entry", "b.part"]


WRITER = """
import sys
from pathlib import Path
from tilewright.runtime.cache import Entry, Store

store, me = Store(Path(sys.argv[1]), kept_bytes=40_000), int(sys.argv[2])
wrong = 0
for turn in range(300):
    key = f"{turn % 7:064x}"
    store.put(key, Entry((bytes([me]) * 5000,), (turn % 7,), me))
    found = store.get(key)
    wrong += found is not None and (found.objects[0] != bytes([found.arena_bytes]) * 5000)
print(wrong)
"""


def test_many_processes_share_a_directory(tmp_path: Path) -> None:
    """They write the same keys and trim all the time; nobody reads what nobody wrote."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(k)], stdout=subprocess.PIPE, text=True) for k in range(4)
    ]
    assert [w.communicate()[0] for w in writers] == ["0\n"] * 4
    assert all(n.endswith(".entry") for n in names(tmp_path))


# -- keys --------------------------------------------------------------------------------------


def test_a_key_tells_apart_what_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    target = host()
    lapack = Lapack(8, frozenset({"dgetrf", "dpotrf", "dgesdd"}))
    parts = [
        ("graph()", target, "heuristic", Options()),
        ("graph(a0: f32)", target, "heuristic", Options()),
        ("graph()", replace(target, cpu="x86-64"), "heuristic", Options()),
        ("graph()", replace(target, features="+sse2"), "heuristic", Options()),
        ("graph()", replace(target, vector_bytes=8), "heuristic", Options()),
        ("graph()", replace(target, lapack=lapack), "heuristic", Options()),
        ("graph()", target, "tuned 1", Options()),
    ]
    keys = [cache.key(*p) for p in parts]
    assert len(set(keys)) == len(parts)
    assert keys == [cache.key(*p) for p in parts]
    monkeypatch.setattr(cache, "_versions", lambda: "another compiler")
    assert cache.key(*parts[0]) != keys[0]


def test_keys_are_the_same_in_every_process() -> None:
    """Sets have another order in each."""
    script = (
        "from tilewright.runtime import cache; from tilewright.target import *;"
        "print(cache.key(Lapack(8, frozenset({'dgetrf', 'dpotrf', 'dgesdd', 'sgetrf'}))))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"}
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**environment, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


# -- programs ----------------------------------------------------------------------------------


def solve(a, b):
    return np.linalg.solve(a @ a.T + 5 * np.eye(4), b)


TABLE, UNREAD, WEIGHTS = np.arange(6.0), np.ones(3), np.linspace(0, 1, 6)


def with_captured_arrays(x):
    unread = UNREAD * x[:3]
    return np.tanh(x * TABLE) @ WEIGHTS + 0 * len(unread.shape)


def of_many_kernels(x):
    for k in range(40):
        x = np.tanh(x * (1 + k / 7)) / (x.sum(-1, keepdims=True) + 100 + k)
    return x


def of_many_rows(x):
    """Worth several threads."""
    return np.exp(np.sin(x)).sum(-1)


PROGRAMS = {
    "elementwise": (lambda x: np.sin(x) + 1, (np.linspace(0, 3, 17),)),
    "captured": (with_captured_arrays, (np.linspace(0, 3, 6),)),
    "lapack": (solve, (np.linspace(0, 1, 16).reshape(4, 4) ** 2, np.arange(4.0))),
    "gradient": (tw.grad(lambda x: np.log(np.cosh(x)).sum()), (np.linspace(0, 3, 9),)),
    "results": (lambda x: (x.max(), (x > 1, x.astype(np.int8))), (np.linspace(0, 3, 9),)),
    "scan": (lambda x: tw.scan(lambda c, a: (c + a, c * a), 0.0, x), (np.arange(9.0),)),
    "threads": (of_many_rows, (np.linspace(0, 3, 1 << 20).reshape(1 << 10, -1),)),
    "many kernels": (of_many_kernels, (np.linspace(0, 1, 64).reshape(4, 16),)),
}


def leaves(result: Any) -> list[Any]:
    return [np.asarray(x) for x in tw.tree.leaves(result)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_found_on_disk_is_the_program(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, without being lowered; and its stages are there when asked for."""
    f, args = PROGRAMS[name]
    first = leaves(compiled(f)(*args))
    assert len(names(directory)) == 1
    forget(monkeypatch)
    with monkeypatch.context() as m:
        m.setattr(pipeline, "lower", None)  # calling it would fail
        again = compiled(f)
        second = leaves(again(*args))
    assert [(a.dtype, a.shape) for a in first] == [(a.dtype, a.shape) for a in second]
    assert [a.tobytes() for a in first] == [a.tobytes() for a in second]
    stages = again.lower(*args)
    assert stages.kernels
    assert "define" in stages.llvm
    assert names(directory) == [f"{stages.entry.program.key}.entry"]


def test_captured_arrays_are_read_anew(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is code: the arrays are the new function's own, in the old one's order."""

    def function(scale: float) -> Any:
        a, b, c = scale * np.arange(3.0), np.ones(3), np.full(3, scale)
        return compiled(lambda x: (x * a + (b * 2).size) / c)

    x = np.arange(1.0, 4.0)
    assert function(1)(x).tolist() == ((x * np.arange(3.0) + 3) / 1).tolist()
    forget(monkeypatch)
    assert function(4)(x).tolist() == ((x * 4 * np.arange(3.0) + 3) / 4).tolist()
    assert len(names(directory)) == 1


def test_numbers_that_print_alike_have_code_of_their_own(directory: Path) -> None:
    x = np.ones(2)
    zeros = [compiled(lambda x, z=z: np.copysign(x, z))(x) for z in (0.0, -0.0)]
    assert [z.tolist() for z in zeros] == [[1, 1], [-1, -1]]
    near = [compiled(lambda x, z=z: x * z)(x)[0] for z in (0.1, np.nextafter(0.1, 1))]
    assert near == [0.1, np.nextafter(0.1, 1)]


def test_another_process_runs_what_this_one_compiled(directory: Path) -> None:
    script = """
        import numpy as np
        import tilewright as tw
        from tilewright.transforms import pipeline
        import sys

        if sys.argv[1] == "second":
            pipeline.lower = None
        f = tw.compile(lambda x, a: (np.exp(x @ x.T).sum(0), np.linalg.solve(a, x)))
        x = np.linspace(0, 1, 12).reshape(3, 4)
        print(*f(x, np.eye(3) + 1))
    """
    environment = {k: v for k, v in os.environ.items() if k != "TILEWRIGHT_VERIFY"}
    found = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), turn],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for turn in ("first", "second")
    ]
    assert found[0] == found[1] != ""
    assert len(names(directory)) in (1, 2)  # the pool's code may be there


def test_entries_of_no_use_are_replaced(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digest is right, but it is no code, or reads arrays that are not there."""
    f, x = (lambda x: np.sqrt(x) + 3), np.arange(4.0)
    expected = compiled(f)(x).tolist()
    (name,) = names(directory)
    key, store = name.removesuffix(".entry"), Store(directory)
    good = store.get(key)
    assert good is not None
    for bad in (replace(good, objects=(b"no object",)), replace(good, kept=(0,))):
        store.put(key, bad)
        forget(monkeypatch)
        monkeypatch.setenv("TILEWRIGHT_SHOW", "cache")
        assert compiled(f)(x).tolist() == expected
        assert "cache" in capsys.readouterr().err
        assert store.get(key) == good


def test_what_is_not_kept(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers without a key, programs whose stages are checked, and nothing when it is off."""
    x = np.arange(5.0)
    compiled(lambda x: x + 11, scheduler=lambda k: heuristic(k, host()))(x)
    tw.compile(options=Options(verify=True))(lambda x: x + 12)(x)
    monkeypatch.setenv(cache.VARIABLE, "off")
    compiled(lambda x: x + 13)(x)
    assert names(directory) == []


def test_a_scheduler_with_a_key(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs are kept, apart from those of others."""

    def scheduler(kernel: Any) -> Any:
        return heuristic(kernel, host())

    x = np.arange(5.0)
    for cache_key in ("one", "two"):
        scheduler.cache_key = cache_key  # type: ignore[attr-defined]
        forget(monkeypatch)
        compiled(lambda x: x + 11, scheduler=scheduler)(x)
    assert len(names(directory)) == 2
    monkeypatch.setattr(pipeline, "lower", None)
    forget(monkeypatch)
    assert compiled(lambda x: x + 11, scheduler=scheduler)(x)[0] == 11


@dataclass(frozen=True)
class Doubled(Op):
    """An op of a user's own, which may change without its print."""

    def type(self, x: Type) -> Type:
        return x

    def numpy(self, x: Any) -> Any:
        return 2 * x

    def lower(self, idx: Any, x: Any) -> Any:
        return x[idx] + x[idx]


def test_ops_of_users_are_not_kept(directory: Path) -> None:
    x = np.arange(5.0)
    assert compiled(lambda x: Doubled()(x) + 1)(x).tolist() == (2 * x + 1).tolist()
    nested = compiled(lambda x: tw.scan(lambda c, a: (Doubled()(c) + a, a), 0.0, x)[0])
    assert nested(x) == 26
    assert names(directory) == []


def test_stages_to_be_shown_are_made(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.arange(5.0)
    compiled(lambda x: x * 7)(x)
    forget(monkeypatch)
    monkeypatch.setenv("TILEWRIGHT_SHOW", "kernels")
    compiled(lambda x: x * 7)(x)
    assert "kernel" in capsys.readouterr().err


def test_modules_that_many_processes_need(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are made once; without a cache, or with a damaged entry, they are made."""
    text = "define i64 @seven() {\n  ret i64 7\n}\n"
    code = cache.object_code(text, host())
    assert len(names(directory)) == 1
    with monkeypatch.context() as m:
        m.setattr(jit, "object_code", None)  # calling it would fail
        assert cache.object_code(text, host()) == code
    (directory / names(directory)[0]).write_bytes(b"")
    assert cache.object_code(text, host()) == code
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert cache.object_code(text, host()) == code


@dataclass(frozen=True)
class Known:
    """A scheduler that says what it goes by."""

    cache_key: str

    def __call__(self, kernel: Any) -> Any:
        return heuristic(kernel, host())


def test_options_and_schedulers_share_no_code(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program with each of them: an entry each on disk, and nothing new the second time."""
    asked = [(None, Options()), (None, Options(threads=1)), (None, Options(winograd=False))]
    asked += [(Known("one"), Options()), (Known("other"), Options())]
    for _ in range(2):
        for scheduler, options in asked:
            f = tw.compile(lambda x: x + 1, scheduler=scheduler, options=options)
            np.testing.assert_array_equal(f(np.arange(9.0)), np.arange(9.0) + 1)
        assert len([n for n in names(directory) if not n.startswith(".")]) == len(asked)
        forget(monkeypatch)


# -- one program as several modules ------------------------------------------------------------


def text_of(f: Any, *args: Any) -> str:
    return str(llvm.print_program(compiled(f).lower(*args).program, host()))


@pytest.mark.parametrize("parts", [2, 3, 1000])
def test_parts_linked_together_are_the_program(parts: int) -> None:
    """They call each other, whichever object a function went to."""
    x = np.linspace(0, 1, 64).reshape(4, 16)
    lowered = compiled(of_many_kernels).lower(x)
    split = modules.split(llvm.print_program(lowered.program, host()), parts)
    assert 1 < len(split) <= parts
    code = [jit.object_code(part, host()) for part in split]
    loaded = executable.load(code, llvm.ENTRY, host())
    results = [((4, 16), np.dtype(np.float64))]
    (out,) = executable.Executable(loaded, results, lowered.arena_bytes)([x], [])
    np.testing.assert_allclose(out, of_many_kernels(x), rtol=1e-10)


def test_large_programs_are_made_on_several_threads() -> None:
    """Each object is the one that a single thread makes of its part."""
    text = text_of(of_many_kernels, np.linspace(0, 1, 64).reshape(4, 16))
    assert len(text) > 2 * jit.PART_CHARACTERS
    expected = [
        jit.object_code(part, host()) for part in modules.split(text, 2, jit.PART_CHARACTERS)
    ]
    with ThreadPoolExecutor(4) as pool:  # and several programs at a time
        found = [f.result() for f in [pool.submit(jit.objects, text, host(), 2, True)] * 4]
    assert all(list(code) == expected for code in found)
    assert len(jit.objects(text, host(), 1, True)) == 1


def test_what_needs_no_improvement_is_a_module_of_its_own() -> None:
    """Nests at a lower level than what is beside them, if there are enough of them."""
    plain = "define internal void @few() noinline optnone {\n" + "  ; asm \n" * 900 + "}\n"
    other = "define void @tilewright_entry(ptr %args) {\n  call void @few()\n  ret void\n}\n"
    parts = modules.apart(plain + other, AS_PRINTED, 8000)
    assert [AS_PRINTED in p for p in parts] == [True, False]
    assert "define void @few()" in parts[0] and "declare void @few()" in parts[1]
    assert modules.apart(plain + other, AS_PRINTED, 10_000) == [plain + other]
    assert modules.apart(plain, AS_PRINTED, 8000) == [plain]
    assert modules.apart("@state = internal global i64 0\n\n" + plain + other, AS_PRINTED, 1) == [
        "@state = internal global i64 0\n\n" + plain + other
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_modules_of_two_levels_are_the_program(
    count: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product of several heights, and sines."""
    monkeypatch.setattr(jit, "PLAIN_CHARACTERS", 1000)
    monkeypatch.setattr(jit, "PART_CHARACTERS", 4000)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((205, 300), (300, 128)))

    def f(x: Any, w: Any) -> Any:
        return x @ w, np.cumsum(np.sin(x), axis=1)

    lowered = tw.compile(f, threads=1).lower(x, w)
    text = lowered.llvm
    nests = jit.NEST in text
    kinds = jit._kinds(text)
    assert len(kinds) == 1 + nests
    assert [jit._level(k, host()) for k in kinds] == [jit.PLAIN_LEVEL, jit.OPT_LEVEL][-len(kinds) :]
    code = jit.objects(text, host(), count, True)
    assert len(code) >= len(kinds)
    name = lowered.entry.program.name
    loaded = executable.load(code, name, host())
    results = [(s, np.dtype(np.float32)) for s in ((205, 128), (205, 300))]
    found = executable.Executable(loaded, results, lowered.arena_bytes)([x, w], [])
    for out, expected in zip(found, f(x, w), strict=True):
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-3)
    assert jit.assembly(text, host()).count(f"{name}:") == 1


def test_large_programs_are_made_while_python_ends() -> None:
    """When there are no new threads any more."""
    script = """
        import atexit
        import numpy as np
        import tilewright as tw
        from tilewright.runtime import jit

        def f(x):
            for k in range(40):
                x = np.tanh(x * (1 + k / 7)) / (x.sum(-1, keepdims=True) + 100 + k)
            return x

        def last():
            lowered = tw.compile(f).lower(np.ones((4, 16)))
            program = lowered.entry.program
            print(len(lowered.llvm) > 2 * jit.PART_CHARACTERS)
            print(len(jit.objects(lowered.llvm, program.target, 2, False)))

        atexit.register(last)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("True\n2\n", "")


def test_small_programs_and_those_with_variables_stay_whole() -> None:
    text = text_of(lambda x: x + 1, np.arange(3.0))
    assert len(jit.objects(text, host(), 8, True)) == 1
    assert modules.split("@state = internal global i64 0\n\n" + text + text, 2) == [
        "@state = internal global i64 0\n\n" + text + text
    ]


def test_what_is_nearly_all_one_function_stays_whole() -> None:
    """The other part would be done at once, and cost a thread and a target machine."""
    long, short = (f"define void @f{n}() {{\n{'; a line' * n}\n}}\n" for n in (900, 9))
    assert modules.split(long + short, 2, 1000) == [long + short]
    assert len(modules.split(long + short + long.replace("900", "901"), 3, 1000)) == 2
    assert len(modules.split(long + short, 2)) == 2


def test_errors_in_a_part_are_raised() -> None:
    text = text_of(of_many_kernels, np.linspace(0, 1, 64).reshape(4, 16))
    with pytest.raises(tw.errors.InternalError, match="LLVM rejects the printed program"):
        jit.objects(text.replace("ret void", "ret i64 %nothing"), host(), 2, True)
