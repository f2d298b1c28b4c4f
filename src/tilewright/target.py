"""Target: what the compiler knows of a machine.

Knows vector width, cache sizes, the names LLVM uses and the libraries programs may call; the
machine this process runs on; and a few instruction sets that stand for many machines (`NAMED`).
TILEWRIGHT_TARGET makes programs for one of those instead of all that this machine can. Refuses to
know kernels.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from tilewright import forks
from tilewright.errors import BadTarget

VARIABLE: Final = "TILEWRIGHT_TARGET"
"""A name of `NAMED`, or `host` (the default) for everything this machine can."""

STREAM_BYTES: Final = 16 << 20
STREAM_ALIGN: Final = 64
"""From this size on, results bypass the caches (docs/notes/stores.md); they start on a line."""


@dataclass(frozen=True)
class Lapack:
    """A LAPACK (with its BLAS): the size of its integers, and the routines it has."""

    integer_bytes: int
    routines: frozenset[str]

    def symbol(self, routine: str) -> str:
        """What programs call a routine: the reference LAPACK's name for it."""
        return f"{routine}_64_" if self.integer_bytes == 8 else f"{routine}_"

    def has(self, symbols: Iterable[str]) -> bool:
        """Whether it has all the routines that go by these names."""
        return {self.symbol(r) for r in self.routines}.issuperset(symbols)


ONE_OF_64_BYTES: Final = frozenset(
    ("znver4", "cannonlake", "icelake-client", "rocketlake", "tigerlake")
)
"""Processors that start one multiplication of 64 bytes in a cycle: others with such registers, and
those with registers of 32, have two units for them."""


@dataclass(frozen=True)
class Target:
    """A CPU. `vector_bytes` is the width vectors are written at; sizes are in bytes. `lapack` is
    None where programs must do without one, `pool` says whether there are threads for them."""

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    lapack: Lapack | None = None
    pool: bool = False

    def lanes(self, itemsize: int) -> int:
        """Elements of the given size in one vector register."""
        return max(1, self.vector_bytes // itemsize)

    @property
    def architecture(self) -> str:
        """The first part of the triple: `x86_64`, `aarch64`."""
        return self.triple.split("-")[0]

    @property
    def multiplies(self) -> int:
        """Multiplications of the widest registers that are reckoned to start in a cycle."""
        return 2 if self.vector_bytes >= 32 and self.cpu not in ONE_OF_64_BYTES else 1

    @property
    def registers(self) -> int:
        """Vector registers."""
        return 32 if self.vector_bytes >= 64 or not self.triple.startswith("x86") else 16


def _features(names: str) -> str:
    return ",".join("+" + name for name in names.split())


# The levels of the x86-64 psABI, so that LLVM's own name of a level allows what is listed and no
# more; tuning is for no machine in particular.
_V1: Final = "cmov cx8 fxsr mmx sse sse2"
_V3: Final = (
    f"{_V1} avx avx2 bmi bmi2 cx16 f16c fma lzcnt movbe popcnt sahf sse3 sse4.1 sse4.2 ssse3 xsave"
)
NAMED: Final = {
    "sse2": Target("x86_64-unknown-linux-gnu", "x86-64", _features(_V1), 16),
    "avx2": Target("x86_64-unknown-linux-gnu", "x86-64-v3", _features(_V3), 32),
    "neon": Target("aarch64-unknown-linux-gnu", "generic", _features("neon"), 16),
}
"""Instruction sets by name. `sse2` is every x86-64 processor and `neon` every 64-bit Arm one;
`avx2` includes what came with it (FMA, F16C, BMI)."""


def named(name: str) -> Target:
    """A machine that has an instruction set and nothing beyond it, without a LAPACK and threads.

    **Raises:** `BadTarget` if the name is none of `NAMED`.
    """
    if name not in NAMED:
        raise BadTarget("the target", name, "is not known", sorted(NAMED))
    return NAMED[name]


def host() -> Target:
    """The machine this process runs on: all of it, or what TILEWRIGHT_TARGET leaves of it.

    The variable is read at each call. Programs of different targets live side by side in a
    process, since a target is part of every cache's key.

    **Raises:** `BadTarget` if the variable names no target, or one that this machine cannot run.
    """
    asked = os.environ.get(VARIABLE) or "host"
    return _here() if asked == "host" else _narrowed(asked, _here())


@functools.cache
def _narrowed(name: str, here: Target) -> Target:
    """A machine as one of `NAMED`: the instructions are the target's, the caches its own."""
    runnable = ["host", *(n for n in sorted(NAMED) if not _lacking(NAMED[n], here))]
    if name not in NAMED:
        raise BadTarget(VARIABLE, name, "is not known", runnable)
    missing = _lacking(NAMED[name], here)
    if missing:
        raise BadTarget(VARIABLE, name, f"needs {' '.join(missing)}, not found here", runnable)
    return replace(NAMED[name], triple=here.triple, l1_bytes=here.l1_bytes, l2_bytes=here.l2_bytes)


def _lacking(wanted: Target, here: Target) -> list[str]:
    """What of a target's architecture and features a machine does not have."""
    if wanted.architecture != here.architecture:
        return [wanted.architecture]
    have = set(here.features.split(","))
    return [f[1:] for f in wanted.features.split(",") if f not in have]


MARKS: Final = (("graniterapids", "prefetchi"), ("sapphirerapids", "amx-tile"))
"""Processors and what no older one has. Virtual machines may hide a processor's number behind that
of an older one, by which LLVM then names it, but not what it can do."""


def _processor(name: str, features: Mapping[str, bool]) -> str:
    """The name LLVM knows a processor by that calls itself `name`."""
    return next((cpu for cpu, mark in MARKS if features.get(mark)), name)


@functools.cache
def _here() -> Target:
    """All of the machine this process runs on."""
    with forks.importing:  # and while it answers: it has a lock of its own
        import llvmlite.binding as llvm

        features, cpu = llvm.get_host_cpu_features(), llvm.get_host_cpu_name()
        triple = llvm.get_process_triple()
    cpu = _processor(cpu, features)
    if features.get("amx-tile") and not _has_matrices():
        features.update({name: False for name in features if name.startswith("amx-")})
    width = 64 if features.get("avx512f") else 32 if features.get("avx2") else 16
    return Target(
        triple,
        cpu,
        features.flatten(),
        width,
        _cache(1) or 32 << 10,
        _cache(2) or 1 << 20,
    )


ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18
"""Linux' numbers on x86-64 for: arch_prctl, the request for a part of the processor's state, and
the state of registers that hold matrices."""


def _has_matrices() -> bool:
    """Whether Linux lets this process, and its children, use registers that hold matrices: it must
    be asked once, since signal handlers then need more room."""
    if sys.platform != "linux":
        return False
    with forks.importing:
        import ctypes

        return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0


def _cache(level: int) -> int | None:
    """Bytes of the first core's data cache of a level, where the system tells."""
    root = "/sys/devices/system/cpu/cpu0/cache"
    try:
        for entry in sorted(os.listdir(root)):
            if not entry.startswith("index"):
                continue
            fields = {}
            for name in ("level", "type", "size"):
                with open(f"{root}/{entry}/{name}") as f:
                    fields[name] = f.read().strip()
            if fields["level"] == str(level) and fields["type"] in ("Data", "Unified"):
                return int(fields["size"].rstrip("K")) << 10
    except (OSError, ValueError, KeyError):
        return None
    return None
