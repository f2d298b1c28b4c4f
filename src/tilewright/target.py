"""Target: what the compiler knows of a machine.

Knows vector width, cache sizes, the names LLVM uses and the libraries programs may call. Refuses to
know kernels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass


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
    def registers(self) -> int:
        """Vector registers."""
        return 32 if self.vector_bytes >= 64 or not self.triple.startswith("x86") else 16


@functools.cache
def host() -> Target:
    """The machine this process runs on."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    width = 64 if features.get("avx512f") else 32 if features.get("avx2") else 16
    return Target(
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        features.flatten(),
        width,
        _cache(1) or 32 << 10,
        _cache(2) or 1 << 20,
    )


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
