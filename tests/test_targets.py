"""Programs for machines with fewer instructions than this one, and for another architecture.

`avx2` and `sse2` run here, where this machine has them; `neon` runs under emulation where its
tools are installed, and is assembled everywhere. Each obeys the laws of all ops, agrees with NumPy
on random programs, and uses no register or instruction of a larger machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import emulated
import fuzz
import laws
import tilewright as tw
from random_programs import write
from running import interpreted, same
from test_ops import NAMES, examples
from tilewright.codegen import entry, pool
from tilewright.codegen.entry_tables import Layout
from tilewright.compile import Lowered
from tilewright.errors import BadTarget
from tilewright.runtime import jit
from tilewright.target import NAMED, VARIABLE, Target, host, named

NARROW = ("avx2", "sse2")
FUZZED = range(100_000, 100_200)
EMULATED = range(100_000, 100_040)

BEYOND: dict[str, str] = {
    "sse2": r"%[yz]mm|\tv[a-z]|\t(?:p?blend|round[sp]|pshufb|pmulld|p(?:min|max)(?:s[bd]|u[wd])|"
    r"pmov[sz]x|pinsr[bdq]|pextr[bdq]|ptest|pabs|palign|popcnt|lzcnt|tzcnt|phadd|haddp|movbe|"
    r"packusdw|pcmpeqq|pcmpgtq|dpp[sd]|insertps|extractps|andn[lq]|bextr|mulx|sarx|shlx|shrx)",
    "avx2": r"%zmm|%k[0-7]\b|%[xy]mm(?:1[6-9]|[23]\d)\b|\tv(?:scalef|getexp|getmant|pternlog|"
    r"permt2|permi2|rndscale|pdp|dpbf16|pmullq|psraq|pabsq|p(?:min|max)[su]q|pmov[sdqw][bwd]\b)",
    "neon": r"\b[zp]\d+(?:\.[bhsdq]|/[mz])|\t(?:[su]mmla|bf[a-z]+mla|bfdot|bfcvt|[su]dot)",
}
"""What the assembly of a target must not hold: registers and instructions it does not have."""
USED = {"sse2": r"%xmm", "avx2": r"%ymm", "neon": r"\bv\d+\.(?:4s|2d|8h|16b)\b"}


@pytest.fixture(params=NARROW)
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Programs are compiled for a narrow target while the test runs."""
    monkeypatch.setenv(VARIABLE, request.param)
    try:
        host()
    except BadTarget as error:
        pytest.skip(str(error))
    return str(request.param)


def assert_within(name: str, lowered: Lowered) -> str:
    """The assembly, which holds nothing that the target does not have."""
    if name == "neon":
        assert "llvm.x86" not in lowered.llvm
    text = lowered.asm
    found = beyond(name, text)
    assert not found, f"{lowered.name} for {name}: {found}"
    return text


def beyond(name: str, assembly: str) -> list[str]:
    """The instructions that a target does not have."""
    pattern = re.compile(BEYOND[name])
    lines = (s for s in assembly.splitlines() if s.startswith("\t") and s[1:2] != ".")
    return [s for s in lines if pattern.search(s)]


def checked(name: str) -> Callable[[Any], Any]:
    """`tw.compile` for the forced target, with a look at the assembly."""

    def compile(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            compiled = tw.compile(f)
            lowered = compiled.lower(*args)
            assert lowered.entry.program.target.cpu == NAMED[name].cpu
            assert_within(name, lowered)
            return compiled(*args)

        return call

    return compile


def assembled(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` for NEON: assembled, looked at, and run where it can be."""

    def call(*args: Any) -> Any:
        lowered = tw.compile(f).lower(*args).on("neon")
        assert_within("neon", lowered)
        if not emulated.available():
            assert jit.object_code(lowered.llvm, named("neon"))[:4] == b"\x7fELF"
            pytest.skip(emulated.MISSING)
        return emulated.run(lowered, args)

    return call


# -- naming a target -----------------------------------------------------------------------------


def test_the_variable_narrows_this_machine(narrow: str) -> None:
    target, whole = host(), NAMED[narrow]
    assert (target.cpu, target.features) == (whole.cpu, whole.features)
    assert target.vector_bytes == whole.vector_bytes
    assert target.registers == 16


@pytest.mark.parametrize("value", ["", "host"])
def test_no_name_is_the_whole_machine(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    whole = host()
    monkeypatch.setenv(VARIABLE, value)
    assert host() is whole


def test_what_is_not_known_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "avx3")
    with pytest.raises(BadTarget, match="TILEWRIGHT_TARGET is 'avx3', which is not known"):
        tw.compile(np.negative)(np.ones(3))
    with pytest.raises(BadTarget, match="the target is 'avx3'"):
        named("avx3")


def test_what_this_machine_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "sse2" if host().architecture == "aarch64" else "neon"
    monkeypatch.setenv(VARIABLE, other)
    with pytest.raises(BadTarget, match=f"needs {NAMED[other].architecture}, not found here"):
        tw.compile(np.negative)(np.ones(3))


def test_features_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with AVX and without what AVX2 brought."""
    old = replace(named("avx2"), features=named("sse2").features + ",+avx,+sse4.1")
    monkeypatch.setattr("tilewright.target._here", lambda: old)
    monkeypatch.setenv(VARIABLE, "avx2")
    with pytest.raises(BadTarget, match=r"needs avx2 bmi .* f16c fma .*, not found here") as error:
        host()
    assert str(error.value).endswith("It may be host, sse2.")


def test_a_new_process_takes_the_variable(narrow: str) -> None:
    code = "from tilewright.target import host; print(host().cpu)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == NAMED[narrow].cpu


def test_targets_share_no_cached_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not in a process and not on disk, from where a forgotten program comes back."""
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TILEWRIGHT_VERIFY")
    runnable = [n for n in NAMED if NAMED[n].architecture == host().architecture]
    programs: dict[str, Any] = {}
    for _ in range(2):
        for name in ("host", *runnable):
            monkeypatch.setenv(VARIABLE, name)
            f = tw.compile(lambda x: np.exp(x) - 0.123)
            x = np.linspace(0, 1, 100)
            np.testing.assert_allclose(f(x), np.exp(x) - 0.123, rtol=1e-14)
            program = f.lower(x).entry.program
            assert programs.setdefault(name, program) is program
    assert len({p.key for p in programs.values()}) == len(programs)
    kept = {p.name for p in tmp_path.iterdir()}
    assert {f"{p.key}.entry" for p in programs.values()} <= kept


# -- instructions --------------------------------------------------------------------------------

AVX512 = Target("x86_64-unknown-linux-gnu", "x86-64-v4", "+avx512f,+avx512vl,+f16c,+fma", 64)


def _layer(x: Any, w: Any) -> Any:
    return np.tanh(x @ w + 1)


def _convolution(x: Any, w: Any) -> Any:
    return tw.lax.conv(x, w, (1, 1), "SAME")


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _half_products(x: Any, y: Any) -> Any:
    return x.astype("bfloat16") @ y.astype("bfloat16"), x.astype("float16") @ y.astype("float16")


def _integers(i: Any) -> Any:
    return np.cumsum(i, 0), i @ i.T, np.sort(i, axis=1), i.astype(np.float16) / 3


def _transposed(x: Any) -> Any:
    return (x.T + np.flip(x.T, 0)).astype(np.float64), np.roll(x, 3, 0)


def rows(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


WORK: dict[Callable[..., Any], tuple[Any, ...]] = {
    _layer: (rows(150, 130), rows(130, 70)),
    _convolution: (rows(1, 16, 20, 19), rows(24, 16, 3, 3)),
    _softmax: (rows(9, 700),),
    _half_products: (rows(40, 50), rows(50, 60)),
    _integers: (np.random.default_rng(3).integers(-99, 99, (37, 600)),),
    _transposed: (rows(100, 90),),
    np.linalg.inv: (np.eye(23) * 9 + rows(23, 23),),
}
"""Programs whose kernels are large enough for tiles, packing and staging."""


def references(f: Callable[..., Any]) -> Any:
    """What they give interpreted."""
    return interpreted(f, *WORK[f])


@pytest.mark.parametrize("f", WORK, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("name", NAMED)
def test_work_of_any_size(name: str, f: Callable[..., Any]) -> None:
    """Printed for any machine; vectors are used."""
    text = assert_within(name, tw.compile(f).lower(*WORK[f]).on(name))
    assert re.search(USED[name], text)


@pytest.mark.parametrize("f", WORK, ids=lambda f: f.__name__.strip("_"))
def test_work_on_a_narrow_machine(f: Callable[..., Any], narrow: str) -> None:
    same(tw.compile(f)(*WORK[f]), references(f))


@pytest.mark.parametrize("f", WORK, ids=lambda f: f.__name__.strip("_"))
def test_work_on_arm(f: Callable[..., Any]) -> None:
    same(assembled(f)(*WORK[f]), references(f))


def test_wider_instructions_would_be_noticed() -> None:
    lowered = tw.compile(_softmax).lower(rows(9, 700))
    assert any("zmm" in s for s in beyond("avx2", lowered.on(AVX512).asm))
    assert any("ymm" in s for s in beyond("sse2", lowered.on("avx2").asm))
    sve = replace(named("neon"), features="+neon,+sve")
    text = "define <vscale x 4 x float> @f(<vscale x 4 x float> %x) {\n"
    text += "  %y = fadd <vscale x 4 x float> %x, %x\n  ret <vscale x 4 x float> %y\n}\n"
    assert beyond("neon", jit.assembly(text, sve))


@pytest.mark.parametrize("name", NAMED)
def test_the_pool_and_the_entry_point_are_narrow_too(name: str) -> None:
    layout = Layout(object.__basicsize__, tuple.__basicsize__, 0)
    for text in (pool.print_pool(named(name)), entry.print_entry(layout)):
        assert not beyond(name, jit.assembly(text, named(name)))


# -- the laws, and random programs ---------------------------------------------------------------


@pytest.mark.parametrize("op", NAMES)
def test_laws_on_a_narrow_machine(op: str, narrow: str) -> None:
    laws.check_compiled(examples(op), checked(narrow))


@pytest.mark.parametrize("op", NAMES)
def test_laws_on_arm(op: str) -> None:
    laws.check_compiled(examples(op), assembled)


def test_random_programs_on_a_narrow_machine(narrow: str) -> None:
    failures = fuzz.supervise(FUZZED, ("compiled",))
    assert not failures, "\n".join(
        f"{wrong}    (TILEWRIGHT_TARGET={narrow} python tests/fuzz.py --seeds {seed} --show)"
        for seed, wrong in failures.items()
    )


@pytest.mark.skipif(not emulated.available(), reason=emulated.MISSING)
@pytest.mark.parametrize("seed", EMULATED)
def test_random_programs_on_arm(seed: int) -> None:
    program = write(seed)
    with np.errstate(all="ignore"):
        reference = fuzz.Reference(program)
    results = emulated.compile(program.function)(*program.inputs.values())
    for name, got in zip(program.outputs, results, strict=True):
        assert reference.differences(name, got) is None


@pytest.mark.skipif(not emulated.available(), reason=emulated.MISSING)
def test_threads_on_arm() -> None:
    """The pool as printed for Arm: more threads, the same bits."""

    def f(x: Any) -> Any:
        return np.exp(x) @ x.T, x.sum(0)

    x = rows(700, 120)
    serial, parallel = (emulated.compile(f, threads)(x) for threads in (1, 3))
    pooled = tw.compile(f).lower(x).on(replace(named("neon"), pool=True))
    assert pool.PARALLEL in pooled.llvm
    for a, b, c in zip(serial, parallel, f(x), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=2e-5, atol=1e-3)


# -- 16-bit floats without instructions for them -------------------------------------------------


def _near_every_half() -> Any:
    """Every float16, the numbers half-way between neighbours, and those just beside; as float32."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(every[np.isfinite(every)])
    middle = (finite[1:] + finite[:-1]) / np.float32(2)
    beyond = np.float32([65519.996, 65520, 65536, 1e30, np.inf, -65519.996, -65520, -1e30, 1e-40])
    exact = np.concatenate([every, middle, beyond])
    return np.concatenate([exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf)])


def _as_halves(x: Any) -> Any:
    return x.astype(np.float16), x.astype(np.float64).astype(np.float16)


def _as_others(h: Any) -> Any:
    return h.astype(np.float32), h.astype(np.float64), h.astype(bool), -h


def assert_bits(got: Sequence[Any], want: Sequence[Any]) -> None:
    """The same bits, whatever the bits of NaN."""
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        numbers = w == w
        np.testing.assert_array_equal(g == g, numbers)
        np.testing.assert_array_equal(g[numbers].tobytes(), w[numbers].tobytes())


def test_conversions_of_halves(narrow: str) -> None:
    x = _near_every_half()
    h = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    small = np.arange(-70_000, 70_000, 7)
    with np.errstate(all="ignore"):
        assert_bits(tw.compile(_as_halves)(x), _as_halves(x))
        assert_bits(tw.compile(_as_others)(h), _as_others(h))
        assert_bits(tw.compile(_as_halves)(small), _as_halves(small))
    lowered = tw.compile(_as_halves).lower(x)
    assert ("vcvtps2ph" in lowered.asm) == (narrow == "avx2")
    assert "sfhf" not in lowered.asm, "a library's conversion"


def left_over(x: Any, w: Any, b: Any) -> Any:
    """65 columns: whole vectors, and one that is summed with the lanes along the 211 terms."""
    return np.maximum(x @ w + b, 0)


def test_columns_left_over_on_a_narrow_machine(narrow: str) -> None:
    args = rows(67, 211), rows(211, 65), rows(1, 65)
    (schedule,) = tw.compile(left_over).lower(*args).schedules.values()
    assert "Across(j" in str(schedule)
    result = checked(narrow)(left_over)(*args)
    np.testing.assert_allclose(result, left_over(*args), rtol=1e-4, atol=1e-4)


def test_columns_left_over_on_arm() -> None:
    args = rows(67, 211), rows(211, 65), rows(1, 65)
    result = assembled(left_over)(*args)
    np.testing.assert_allclose(result, left_over(*args), rtol=1e-4, atol=1e-4)
