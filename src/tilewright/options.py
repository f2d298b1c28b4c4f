"""What a user can have an opinion on, and the channels on which the compiler shows its work.

`TILEWRIGHT_SHOW=graph,kernels,loops,llvm,cache` prints stages and cache misses to standard error.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, Final

from tilewright.errors import BadThreadCount

CHANNELS: Final = ("graph", "fusion", "kernels", "loops", "llvm", "asm", "cache", "time", "tune")
"""What TILEWRIGHT_SHOW may name, separated by commas; `all` is every one."""


@dataclass(frozen=True)
class Options:
    """Options of one compiled function.

    verify: check every stage's invariants while compiling (tests do; slower).
    threads: the most threads that a call uses, of as many as the process and `tw.threads` allow;
        None sets no limit, and 1 makes a program without any thread's cost.
    winograd: compute float32 convolutions in fewer multiplications where that is faster: by
        Winograd's filtering or, large windows, by Fourier transforms of tiles. Errors are some 1e-6
        of the largest result; an infinite input makes NaN of results around it.
    """

    verify: bool = False
    threads: int | None = None
    winograd: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None:
            thread_count(self.threads, "threads")

    @staticmethod
    def default() -> Options:
        return Options(verify=bool(os.environ.get("TILEWRIGHT_VERIFY")))


def thread_count(count: Any, where: str) -> int:
    """A number of threads that somebody asked for.

    **Raises:** `BadThreadCount` unless it is a positive integer.
    """
    if type(count) is not int or count < 1:
        raise BadThreadCount(where, count)
    return count


def shown(channel: str) -> bool:
    """Whether the user asked to see a channel."""
    wanted = os.environ.get("TILEWRIGHT_SHOW", "").split(",")
    return channel in wanted or "all" in wanted


def show(channel: str, *text: object) -> None:
    """Print on a channel, if it is asked for; only then is anything turned into text."""
    if shown(channel):
        print(f"[{channel}]", *text, file=sys.stderr)
