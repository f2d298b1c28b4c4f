"""The roofline: the least time a kernel can take on this machine, and why (Williams, Waterman and
Patterson, "Roofline: an insightful visual performance model", CACM 2009).

Knows two things: how fast this machine multiplies, adds and reads (`measured`, by small kernels of
LLVM IR), and how much of either a Kernel needs (`work_of`). A kernel's bound is the larger of its
operations over the peak and its bytes over the bandwidth of the smallest memory that holds them.
Refuses to know schedules: a roof is the same for all of them.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Barrier
from typing import Any, Final

import numpy as np

from tilewright.codegen.fetching import FAR_BYTES
from tilewright.dtypes import DType
from tilewright.expr import Apply, Buffer, Expr, Load, Reduce, static, walk
from tilewright.kernel import Kernel
from tilewright.runtime import jit
from tilewright.runtime.threads import default_count
from tilewright.scalars import MULTIPLY_ADD
from tilewright.target import Target, host

RUN_SECONDS: Final = 8e-3
"""Length of one timed run; the best of several is the rate."""
RUNS: Final = 9
PULSE_SECONDS: Final = 5e-4
"""Length of a look at the present."""
FULL_BYTES: Final = 256 << 20
"""More than any cache: what is read from it comes from memory."""


@dataclass(frozen=True)
class Rates:
    """What `threads` cores do in a second: operations (a multiply-add is two) on float32, float64,
    bytes and bfloat16, 0 where the machine has no instruction for it, and bytes read from a core's
    own cache, the shared cache and memory. `sizes` are the bytes the two caches hold."""

    threads: int
    f32: float
    f64: float
    i8: float
    bf16: float
    l2: float
    l3: float
    dram: float
    sizes: tuple[int, int]

    def bandwidth(self, moved: float) -> tuple[str, float]:
        """The smallest level that holds `moved` bytes, and its bytes a second."""
        l2, l3 = self.sizes
        if moved < l2 * self.threads:
            return "l2", self.l2
        return ("l3", self.l3) if moved < l3 else ("dram", self.dram)

    def computing(self, operations: float, unit: str) -> float:
        """Seconds of operations at the peak of "f32", "f64", "i8" or "bf16"; where the machine has
        no instruction for narrow numbers, float32 does their work."""
        return operations / (getattr(self, unit) or self.f32)


@functools.cache
def measured(threads: int = 1) -> Rates:
    """This machine's rates on `threads` threads, measured once a process (about a second).

    The caller sees to it that the process may use as many cores.
    """
    target, shared = host(), _shared_cache()
    f32, f64, i8, bf16 = (_operations(target, u, threads) for u in ("f32", "f64", "i8", "bf16"))
    sizes = (target.l2_bytes // 2, min(8 << 20, shared // 4), FULL_BYTES // threads)
    l2, l3, dram = (_bytes_read(target, 1 << size.bit_length() - 1, threads) for size in sizes)
    return Rates(threads, f32, f64, i8, bf16, l2, l3, dram, (target.l2_bytes, shared))


def multiplying(threads: int = 1) -> float:
    """Operations on float32 a second that `threads` threads do at this moment, in half a
    millisecond of wall time: less than `measured` where somebody else uses the cores, too."""
    run, each = _multiplier(host(), "f32")
    turns = round(measured(threads).f32 / threads / each * PULSE_SECONDS)
    ready = Barrier(threads)

    def one(_: int) -> float:
        data = np.zeros(1024, np.uint8)
        ready.wait()
        start = time.perf_counter()
        run(data, turns)
        return time.perf_counter() - start

    with ThreadPoolExecutor(threads) as pool:
        return threads * turns * each / max(pool.map(one, range(threads)))


def _shared_cache() -> int:
    """Bytes of the third level of cache; 8 MiB where the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text()
        return int(text.strip().rstrip("K")) << 10
    except (OSError, ValueError):
        return 8 << 20


# -- bounds --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a kernel must do: operations by unit ("f32", "f64", "i8", "bf16"), and the bytes of the
    elements it reads and writes outside its own scratch memory, each once."""

    operations: Mapping[str, float]
    moved: float

    def bound(self, rates: Rates) -> tuple[float, str]:
        """The least seconds, and which roof: "flop", or the level of memory."""
        level, speed = rates.bandwidth(self.moved)
        computing = sum(rates.computing(n, unit) for unit, n in self.operations.items())
        return max((computing, "flop"), (self.moved / speed, level))


def work_of(kernel: Kernel) -> Work:
    """The work of one run of a kernel of static shape.

    Each value is computed once for every point of the axes it depends on, as if nothing were
    computed twice. An operation counts one, functions that take several multiply-adds
    (`Scalar.cost`) two for each; conversions and choices of positions count nothing.
    """
    nodes = walk(*kernel.expressions)
    axes = [*kernel.axes, *(a for assign in kernel.body for a in assign.axes)]
    axes += [a for e in nodes if isinstance(e, Reduce) for a in e.axes]
    extents = {a.serial: static(a.extent) for a in axes}

    def points(e: Expr) -> int:
        return prod(extents[s] for s in e.free)

    operations: dict[str, float] = {}
    for e in nodes:
        counted = _counted(e)
        if counted:
            unit = _unit(e)
            over = e.body if isinstance(e, Reduce) else e
            operations[unit] = operations.get(unit, 0) + counted * points(over)
    return Work(operations, _moved(kernel, nodes, extents))


def _counted(e: Expr) -> int:
    """Operations of one evaluation of `e`, its children apart."""
    if isinstance(e, Reduce):
        return 1
    if not isinstance(e, Apply) or e.op.name in ("cast", "bitcast"):
        return 0
    single = e.op.cost == 1 and e.op is not MULTIPLY_ADD
    return e.op.cost if single else 2 * e.op.cost


def _unit(e: Expr) -> str:
    """Whose peak an operation counts against: products of numbers that were narrow, and their
    sums, against the narrow instructions'; else its operands' width decides."""
    if isinstance(e, Reduce):
        return _unit(e.body) if e.kind == "sum" and isinstance(e.body, Apply) else _wide(e.type)
    assert isinstance(e, Apply)
    if e.op.name in ("mul", "multiply"):
        narrow = {
            a.args[0].type.name for a in e.args if isinstance(a, Apply) and a.op.name == "cast"
        }
        if len(e.args) == 2 and narrow and narrow <= {"int8", "uint8"}:
            return "i8"
        if narrow == {"bfloat16"}:
            return "bf16"
    return _wide(e.args[0].type if e.args else e.type)


def _wide(dtype: DType) -> str:
    return "f64" if dtype.itemsize > 4 else "f32"


def _moved(kernel: Kernel, nodes: Sequence[Expr], extents: Mapping[int, int]) -> int:
    """Bytes read and written: of a buffer no more than it has, and no more than there are points
    at which it is loaded or stored."""
    reads = [(e.buffer, e.index) for e in nodes if isinstance(e, Load)]
    writes = [(a.buffer, a.index) for a in kernel.body]
    outside, total = set(kernel.params), 0
    for places in (reads, writes):
        touched: dict[Buffer, int] = {}
        for buffer, index in places:
            free = frozenset[int]().union(*(i.free for i in index))
            touched[buffer] = touched.get(buffer, 0) + prod(extents[s] for s in free)
        total += sum(
            min(count, static(b.size)) * b.dtype.itemsize
            for b, count in touched.items()
            if b in outside
        )
    return total


@dataclass(frozen=True)
class Roofline:
    """The bounds of a program's kernels; prints as a table. Operations that are no kernels (sorts,
    LAPACK) are not in it, and a kernel inside a loop counts one run."""

    rates: Rates
    kernels: tuple[tuple[Kernel, Work], ...]

    @property
    def seconds(self) -> float:
        """The least time of all kernels, each run once."""
        return sum(work.bound(self.rates)[0] for _, work in self.kernels)

    def __str__(self) -> str:
        head = (
            f"{'kernel':<28}{'operations':>12}{'bytes':>12}{'per byte':>10}{'least us':>10}  roof"
        )
        lines = [head]
        for kernel, work in self.kernels:
            seconds, roof = work.bound(self.rates)
            total = sum(work.operations.values())
            intensity = f"{total / work.moved:.2f}" if work.moved else "-"
            lines.append(
                f"{kernel.name:<28}{total:>12.4g}{work.moved:>12.4g}{intensity:>10}"
                f"{1e6 * seconds:>10.2f}  {roof}"
            )
        threads = f"{self.rates.threads} thread{'s' * (self.rates.threads > 1)}"
        lines.append(f"least time on {threads}: {1e6 * self.seconds:.2f} us")
        return "\n".join(lines)


def of(kernels: Iterable[Kernel], threads: int | None = None) -> Roofline:
    """The bounds of kernels at this machine's rates on `threads` threads, by default as many as
    programs use."""
    rates = measured(default_count() if threads is None else threads)
    return Roofline(rates, tuple((k, work_of(k)) for k in kernels))


# -- instructions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Multiply:
    """An instruction that multiplies and adds vectors: its name in LLVM, the types of its sum and
    its factors, and the operations one does."""

    name: str
    total: str
    factor: str
    operations: int


def _multiply(target: Target, unit: str) -> _Multiply | None:
    """What multiplies and adds elements of `unit` on this machine, if it has something."""
    has = set(re.findall(r"\+([\w.-]+)", target.features))
    width = target.vector_bytes
    if unit in ("f32", "f64"):
        element, lanes = ("float", width // 4) if unit == "f32" else ("double", width // 8)
        vector = f"<{lanes} x {element}>"
        fused = "fma" in has or not target.triple.startswith("x86")
        name = "llvm.fma" if fused else "llvm.fmuladd"
        return _Multiply(f"{name}.v{lanes}{unit}", vector, vector, 2 * lanes)
    if unit == "i8" and width == 64 and "avx512vnni" in has:
        return _Multiply("llvm.x86.avx512.vpdpbusd.512", "<16 x i32>", "<64 x i8>", 128)
    if unit == "bf16" and width == 64 and "avx512bf16" in has:
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        return _Multiply(name, "<16 x float>", "<32 x bfloat>", 64)
    return None


def _multiplying(target: Target, m: _Multiply) -> tuple[str, int]:
    """LLVM IR that runs `m` on independent sums, enough to hide its latency, and how many. The
    sums are stored: what nobody reads would not be computed."""
    count = 12 if target.registers >= 32 else 10
    ones = range(count)
    fused = m.factor == m.total
    order = "{a}, {b}, {s}" if fused else "{s}, {a}, {b}"
    types = [m.factor, m.factor, m.total] if fused else [m.total, m.factor, m.factor]

    def call(j: int) -> str:
        values = order.format(s=f"%s{j}", a="%a", b="%b").split(", ")
        arguments = ", ".join(f"{t} {v}" for t, v in zip(types, values, strict=True))
        return f"  %t{j} = call {m.total} @{m.name}({arguments})"

    return _looped(
        [f"declare {m.total} @{m.name}({', '.join(types)})"],
        [f"  %a = load {m.factor}, ptr %data, align 4",
         f"  %q = getelementptr {m.factor}, ptr %data, i64 1",
         f"  %b = load {m.factor}, ptr %q, align 4"],
        [(f"%s{j}", f"%t{j}", m.total) for j in ones],
        [call(j) for j in ones],
    ), count  # fmt: skip


def _reading(target: Target, size: int, ahead: int) -> tuple[str, int]:
    """LLVM IR that reads `size` bytes, a power of two, over and over, and the bytes of a turn. What
    is so many bytes `ahead` is fetched meanwhile, if it is not 0."""
    vector, width = f"<{target.vector_bytes // 4} x i32>", target.vector_bytes
    body = []
    for j in range(8):
        body += [f"  %o{j} = add i64 %at, {j * width}",
                 f"  %p{j} = getelementptr i8, ptr %data, i64 %o{j}",
                 f"  %v{j} = load {vector}, ptr %p{j}, align {width}",
                 f"  %t{j} = xor {vector} %s{j}, %v{j}"]  # fmt: skip
        if ahead:
            body += [f"  %f{j} = getelementptr i8, ptr %p{j}, i64 {ahead}",
                     f"  call void @llvm.prefetch.p0(ptr %f{j}, i32 0, i32 3, i32 1)"]  # fmt: skip
    declared = ["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] if ahead else []
    steps = [f"  %far = mul i64 %i, {8 * width}", f"  %at = and i64 %far, {size - 1}"]
    sums = [(f"%s{j}", f"%t{j}", vector) for j in range(8)]
    return _looped(declared, [], sums, steps + body), 8 * width


def _looped(
    declared: Sequence[str],
    before: Sequence[str],
    carried: Sequence[tuple[str, str, str]],
    body: Sequence[str],
) -> str:
    """A function of (data, turns, out): `body` runs that often with the `carried` values (before,
    after, type) in registers, and stores them at the end."""
    text = [*declared, "define void @NAME(ptr %args, i64, i64) {", "entry:"]
    for k, name in enumerate(("data", "turns", "out")):
        text += [f"  %g{name} = getelementptr ptr, ptr %args, i64 {k}",
                 f"  %{name} = load ptr, ptr %g{name}"]  # fmt: skip
    text += ["  %n = load i64, ptr %turns", *before, "  br label %loop", "loop:",
             "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]"]  # fmt: skip
    text += [f"  {a} = phi {t} [ zeroinitializer, %entry ], [ {b}, %loop ]" for a, b, t in carried]
    text += [*body, "  %next = add i64 %i, 1", "  %more = icmp ult i64 %next, %n",
             "  br i1 %more, label %loop, label %end", "end:"]  # fmt: skip
    for k, (_, after, kind) in enumerate(carried):
        text += [f"  %w{k} = getelementptr {kind}, ptr %out, i64 {k}",
                 f"  store {kind} {after}, ptr %w{k}, align 4"]  # fmt: skip
    return "\n".join([*text, "  ret void", "}", ""])


def _loaded(target: Target, text: str) -> Callable[[Any, int], float]:
    """A function of the data and a number of turns: the processor time they took, in seconds."""
    name = jit.symbol(text)
    loaded = jit.load(jit.object_code(text.replace("NAME", name), target), name, target)

    def run(data: Any, turns: int) -> float:
        count, out = np.array([turns]), np.zeros(4096, np.uint8)
        pointers = jit.pointers([a.ctypes.data for a in (data, count, out)])
        start = time.thread_time()
        loaded.call(pointers)
        return time.thread_time() - start

    return run


# -- measuring -----------------------------------------------------------------------------------


@functools.cache
def _multiplier(target: Target, unit: str) -> tuple[Callable[[Any, int], float], float]:
    """What multiplies and adds, and how many operations a turn does: 0, if there is no
    instruction."""
    m = _multiply(target, unit)
    if m is None:
        return lambda data, turns: 0.0, 0.0
    text, sums = _multiplying(target, m)
    return _loaded(target, text), sums * m.operations


def _operations(target: Target, unit: str, threads: int) -> float:
    """Operations a second of all threads together; 0 if there is no instruction."""
    run, each = _multiplier(target, unit)
    return _rate(run, [np.zeros(1024, np.uint8)] * threads) * each if each else 0.0


def _bytes_read(target: Target, size: int, threads: int) -> float:
    """Bytes a second all threads read together, each its own block of `size`, a power of two: with
    or without fetching ahead, whichever is faster on this machine."""
    blocks = []
    for _ in range(threads):
        raw = np.ones(size + 4096, np.uint8)  # pages that were never written are all one page
        start = -raw.ctypes.data % 4096
        blocks.append(raw[start : start + size])
    ways = [_reading(target, size, ahead) for ahead in (0, FAR_BYTES)]
    return max(_rate(_loaded(target, text), blocks) * step for text, step in ways)


def _rate(run: Callable[[Any, int], float], data: Sequence[Any]) -> float:
    """Turns a second, summed over one thread for each block of data: the best of several timed
    runs, in processor time, so that neighbours on the machine do not lower the roof."""
    turns = 1000
    while (seconds := run(data[0], turns)) < RUN_SECONDS / 4:
        turns *= 4
    turns = round(turns * RUN_SECONDS / seconds)
    ready = Barrier(len(data))

    def timed(which: int) -> list[float]:
        found = []
        for _ in range(RUNS):
            ready.wait()
            found.append(turns / run(data[which], turns))
        return found

    with ThreadPoolExecutor(len(data)) as pool:
        rounds = list(pool.map(timed, range(len(data))))
    return float(np.max(np.sum(rounds, axis=0)))
