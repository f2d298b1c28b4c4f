"""How many threads compiled programs use, and the pool they run on.

Knows the environment variable, the process's affinity and its cgroup's quota, where the pool's
code is in this process, and what a fork leaves of it. Refuses to know how work is divided
(`codegen/pool`) and which loops are worth it (`codegen/parallel`).

The pool is one module of machine code, loaded with the first program that needs it and never
unloaded: its workers run in it until the process ends. They are started when a parallel loop
first finds too few of them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tilewright import forks
from tilewright.codegen import pool as text
from tilewright.options import thread_count
from tilewright.runtime import cache, jit
from tilewright.target import host

VARIABLE: Final = "TILEWRIGHT_NUM_THREADS"

_lock = threading.Lock()
_pool: list[Pool] = []


@dataclass(frozen=True)
class Pool:
    """The pool's functions in this process."""

    parallel: int
    """Address of what programs call, see `codegen.pool.PARALLEL`."""
    set_default: Callable[[int], None]
    set_own: Callable[[int], int]
    reset: Callable[[], None]
    started: Callable[[], int]
    """The number of workers that exist."""


def available() -> bool:
    """Whether this process's programs can have threads: the machine is one we know, and there is
    more than one core. Where not, loops are printed as serial ones."""
    return cores() > 1 and text.supported(host())


def pool() -> Pool:
    """The pool of this process, loaded when first asked for.

    **Raises:** `BadThreadCount` if TILEWRIGHT_NUM_THREADS is no positive integer.
    """
    if _pool:
        return _pool[0]
    count = default_count()
    with _lock:
        if not _pool:
            loaded = _load()
            loaded.set_default(count)
            _pool.append(loaded)
    return _pool[0]


def _load() -> Pool:
    target = host()
    entry = jit.load(cache.object_code(text.print_pool(target), target), text.EXPORTS, target)
    table = (ctypes.c_void_p * len(text.TABLE))()
    entry.call(table)
    at = {name: address or 0 for name, address in zip(text.TABLE, table, strict=True)}
    long = ctypes.c_int64
    return Pool(
        at["parallel"],
        ctypes.PYFUNCTYPE(None, long)(at["set_default"]),
        ctypes.PYFUNCTYPE(long, long)(at["set_own"]),
        ctypes.PYFUNCTYPE(None)(at["reset"]),
        ctypes.PYFUNCTYPE(long)(at["started"]),
    )


@forks.in_child
def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for loaded in _pool:
        loaded.reset()


def symbols(code: bytes) -> Mapping[str, int]:
    """Addresses of the pool's functions that an object calls. Without calls no pool is loaded."""
    return {text.PARALLEL: pool().parallel} if text.PARALLEL.encode() in code else {}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the block, programs that the calling thread runs use at most `count` threads.

        with tw.threads(1):
            y = f(x)

    Blocks nest, and the innermost counts. It replaces the process's default; a function compiled
    with a smaller `threads=` keeps that. Results do not depend on it. The number belongs to the
    thread, so a coroutine should not await inside the block.

    **Raises:** `BadThreadCount` unless `count` is a positive integer.
    """
    thread_count(count, "tw.threads")
    if not available():
        yield
        return
    before = pool().set_own(count)
    try:
        yield
    finally:
        pool().set_own(before)


def default_count() -> int:
    """Threads of a program for which nobody asked for a number: TILEWRIGHT_NUM_THREADS, or the
    cores that this process may use, by its affinity and by its cgroup's quota."""
    asked = os.environ.get(VARIABLE)
    if asked is not None:
        return thread_count(int(asked) if asked.strip().isdecimal() else asked, VARIABLE)
    limit = quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    # More threads than whole cores in the quota would be stopped, with chunks in their hands.
    return max(1, min(cores(), int(limit) if limit is not None else cores()))


def cores() -> int:
    """The cores that the process's affinity allows."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1


def quota(root: Path, membership: Path) -> float | None:
    """Cores that the cgroups of this process allow, None without a limit.

    `root` is where cgroups are mounted, `membership` the file that names the process's own. Both
    versions of cgroups are read; the limit of every group on the way to the root holds.
    """
    found: list[float] = []
    for line in _lines(membership):
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        own = base / name.lstrip("/")
        for group in (own, *own.parents):
            if group == base.parent:
                break
            found += _limit(group)
    return min(found, default=None)


def _limit(group: Path) -> list[float]:
    """The quota of one group as a number of cores, if it has one."""
    words = " ".join(_lines(group / "cpu.max")).split()
    if not words:
        words = _lines(group / "cpu.cfs_quota_us") + _lines(group / "cpu.cfs_period_us")
    if len(words) != 2 or words[0] in ("max", "-1"):
        return []
    return [int(words[0]) / int(words[1])]


def _lines(path: Path) -> list[str]:
    """The lines of a small file of the system, none if there is no such file."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
