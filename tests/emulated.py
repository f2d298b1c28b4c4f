"""Compiled functions that run on an emulated 64-bit Arm machine.

Knows how a program's objects become an executable (`aarch64-linux-gnu-gcc`) that reads its arrays
from a file, and how `qemu-aarch64` runs it. Refuses to know what is compiled and what results mean.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import tilewright as tw
from tilewright import trees
from tilewright.codegen import pool
from tilewright.compile import Lowered
from tilewright.runtime import jit
from tilewright.runtime.executable import prepared
from tilewright.target import named

LINKER = shutil.which("aarch64-linux-gnu-gcc")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
MISSING = "no aarch64-linux-gnu-gcc or no qemu-aarch64 (Debian: gcc-aarch64-linux-gnu,"
MISSING += " libc6-dev-arm64-cross, qemu-user-static)"

# The file holds the number of arrays and of threads, then each array's bytes before its contents;
# afterwards the contents are there as the program left them. Every array lies between bytes that
# must not change, at the alignment that programs may count on.
RUNNER = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, FENCE = 64, MARK = 0xA5 };
extern void program(void **, int64_t, int64_t);
#ifdef POOL
extern void tilewright_pool(void **, int64_t, int64_t);
void (*parallel)(void *, void *, int64_t, int64_t, int64_t, int64_t, int64_t);
void tilewright_parallel(void *body, void *env, int64_t extent, int64_t unit, int64_t grain,
                         int64_t weight, int64_t limit) {
    parallel(body, env, extent, unit, grain, weight, limit);
}
#endif

static uint64_t number(FILE *f) {
    uint64_t n;
    if (fread(&n, 8, 1, f) != 1) exit(2);
    return n;
}

int main(int argc, char **argv) {
    FILE *f = fopen(argv[argc - 1], "r+b");
    if (!f) return 2;
    uint64_t count = number(f), threads = number(f);
#ifdef POOL
    void *table[8];
    tilewright_pool(table, 0, 0);
    memcpy(&parallel, table, sizeof parallel);
    ((void (*)(int64_t))table[1])((int64_t)threads);
#else
    (void)threads;
#endif
    void **arrays = calloc(count + 1, sizeof(void *));
    uint64_t *sizes = calloc(count + 1, sizeof(uint64_t));
    for (uint64_t i = 0; i < count; i++) {
        sizes[i] = number(f);
        uint64_t room = (sizes[i] + 2 * FENCE + ALIGN - 1) / ALIGN * ALIGN;
        char *at = aligned_alloc(ALIGN, room);
        memset(at, MARK, room);
        arrays[i] = at + FENCE;
        if (fread(arrays[i], 1, sizes[i], f) != sizes[i]) return 2;
    }
    program(arrays, 0, 0);
    rewind(f);
    for (uint64_t i = 0; i < count; i++) {
        unsigned char *at = arrays[i];
        for (int k = 0; k < FENCE; k++)
            if (at[-1 - k] != MARK || at[sizes[i] + k] != MARK) return 3;
        if (fwrite(at, 1, sizes[i], f) != sizes[i]) return 2;
    }
    return fclose(f) ? 2 : 0;
}
"""


def available() -> bool:
    return LINKER is not None and EMULATOR is not None


@cache
def _made() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tilewright-arm-")  # removed when the process ends


def _folder() -> Path:
    return Path(_made().name)


@cache
def _runner(pooled: bool) -> list[str]:
    """The objects every executable has."""
    source, runner = _folder() / "runner.c", _folder() / f"runner{int(pooled)}.o"
    source.write_text(RUNNER)
    options = ["-DPOOL"] if pooled else []
    subprocess.run([LINKER, "-O1", "-Wall", *options, "-c", source, "-o", runner], check=True)
    if not pooled:
        return [str(runner)]
    target = replace(named("neon"), pool=True)
    (_folder() / "pool.o").write_bytes(jit.object_code(pool.print_pool(target), target))
    return [str(runner), str(_folder() / "pool.o")]


def compile(f: Callable[..., Any], threads: int = 1) -> Callable[..., Any]:
    """`f` compiled for NEON and run under emulation; with more than one of the `threads` on the
    pool, which is then emulated too."""

    def call(*args: Any) -> Any:
        target = replace(named("neon"), pool=threads > 1)
        return run(tw.compile(f).lower(*args).on(target), args, threads)

    return call


def run(lowered: Lowered, args: Sequence[Any], threads: int = 1) -> Any:
    """The results of a call that was lowered for NEON.

    **Raises:** `AssertionError` if the program fails or writes beside its arrays.
    """
    entry, program = lowered.entry, lowered.entry.program
    leaves = trees.leaves((tuple(args), {}))
    inputs = [prepared(np.asarray(x), d) for x, d in zip(leaves, entry.dtypes, strict=True)]
    inputs += [prepared(a, a.dtype) for a in entry.captured]
    types = [(tuple(n.type.shape), n.type.dtype) for n in entry.traced.graph.outputs]
    outs = [np.zeros(shape, dtype) for shape, dtype in types]
    arrays = [*inputs, *outs, np.zeros(lowered.arena_bytes, np.uint8)]
    contents = _executed(program.text, program.name, program.target, arrays, threads)
    found = contents[len(inputs) : len(inputs) + len(outs)]
    results = [
        np.frombuffer(c, d, prod(s)).reshape(s)[()] for c, (s, d) in zip(found, types, strict=True)
    ]
    for x, c in zip(inputs, contents, strict=False):
        assert x.tobytes() == c, "the program changed an input"
    return entry.traced.rebuild(results)


def _executed(
    text: str, name: str, target: Any, arrays: Sequence[Any], threads: int
) -> list[bytes]:
    """The bytes of the arrays after the program ran."""
    code, program = _folder() / "program.o", _folder() / "program"
    code.write_bytes(jit.object_code(text, target))
    objects = [str(code), *_runner(target.pool)]
    symbol = f"-Wl,--defsym=program={name}"
    subprocess.run([LINKER, "-static", symbol, *objects, "-lm", "-o", program], check=True)
    data = _folder() / "arrays"
    with open(data, "wb") as f:
        f.write(np.array([len(arrays), threads], "<u8").tobytes())
        for a in arrays:
            f.write(np.array([a.nbytes], "<u8").tobytes())
            f.write(a.tobytes())
    ran = subprocess.run([EMULATOR, program, data], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{name} ended with {ran.returncode}: {ran.stderr[-300:]}"
    with open(data, "rb") as f:
        return [f.read(a.nbytes) for a in arrays]
