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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any, Final

import numpy as np

from tilewright.runtime import jit
from tilewright.target import Target, host

RUN_SECONDS: Final = 8e-3
"""Length of one timed run; the best of several is the rate."""
RUNS: Final = 9
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

    def seconds(self, operations: float, moved: float, unit: str = "f32") -> tuple[float, str]:
        """The least time, and which roof it is: "flop", "l2", "l3" or "dram". Where the machine
        has no instruction for `unit`, float32 does its work."""
        level, speed = self.bandwidth(moved)
        computing = operations / (getattr(self, unit) or self.f32)
        reading = moved / speed
        return max((computing, "flop"), (reading, level))


@functools.cache
def measured(threads: int = 1) -> Rates:
    """This machine's rates on `threads` threads, measured once a process (about half a second).

    The caller sees to it that the process may use as many cores.
    """
    target = host()
    sums = {unit: _operations(target, unit, threads) for unit in ("f32", "f64", "i8", "bf16")}
    l3 = _shared_cache()
    sizes = (target.l2_bytes // 2, min(8 << 20, l3 // 4), FULL_BYTES // threads)
    reads = [_bytes_read(target, 1 << size.bit_length() - 1, threads) for size in sizes]
    return Rates(threads, *sums.values(), *reads, (target.l2_bytes, l3))


def _shared_cache() -> int:
    """Bytes of the third level of cache; 8 MiB where the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text()
        return int(text.strip().rstrip("K")) << 10
    except (OSError, ValueError):
        return 8 << 20


# -- kernels -------------------------------------------------------------------------------------


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


def _reading(target: Target, size: int) -> tuple[str, int]:
    """LLVM IR that reads `size` bytes, a power of two, over and over, and the bytes of a turn."""
    vector, width = f"<{target.vector_bytes // 4} x i32>", target.vector_bytes
    body = []
    for j in range(8):
        body += [f"  %o{j} = add i64 %at, {j * width}",
                 f"  %p{j} = getelementptr i8, ptr %data, i64 %o{j}",
                 f"  %v{j} = load {vector}, ptr %p{j}, align {width}",
                 f"  %t{j} = xor {vector} %s{j}, %v{j}"]  # fmt: skip
    steps = [f"  %far = mul i64 %i, {8 * width}", f"  %at = and i64 %far, {size - 1}"]
    sums = [(f"%s{j}", f"%t{j}", vector) for j in range(8)]
    return _looped([], [], sums, steps + body), 8 * width


def _looped(
    declared: Sequence[str],
    before: Sequence[str],
    carried: Sequence[tuple[str, str, str]],
    body: Sequence[str],
) -> str:
    """A function of (data, turns, out): `body` runs that often with the `carried` values (before,
    after, type) in registers, and stores them at the end."""
    text = [*declared, "define void @NAME(ptr %args) {", "entry:"]
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


def _operations(target: Target, unit: str, threads: int) -> float:
    """Operations a second of all threads together; 0 if there is no instruction."""
    m = _multiply(target, unit)
    if m is None:
        return 0.0
    text, sums = _multiplying(target, m)
    run = _loaded(target, text)
    return _rate(run, [np.zeros(1024, np.uint8)] * threads) * sums * m.operations


def _bytes_read(target: Target, size: int, threads: int) -> float:
    """Bytes a second all threads read together, each its own block of `size`, a power of two."""
    text, step = _reading(target, size)
    blocks = []
    for _ in range(threads):
        raw = np.ones(size + 4096, np.uint8)  # pages that were never written are all one page
        start = -raw.ctypes.data % 4096
        blocks.append(raw[start : start + size])
    return _rate(_loaded(target, text), blocks) * step


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
