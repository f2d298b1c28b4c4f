"""What a user can have an opinion on, and the channels on which the compiler shows its work.

`TILEWRIGHT_SHOW=graph,kernels,loops,llvm,cache` prints stages and cache misses to standard error.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Final

CHANNELS: Final = ("graph", "fusion", "kernels", "loops", "llvm", "asm", "cache", "time")
"""What TILEWRIGHT_SHOW may name, separated by commas; `all` is every one."""


@dataclass(frozen=True)
class Options:
    """Options of one compiled function.

    verify: check every stage's invariants while compiling (tests do; slower).
    """

    verify: bool = False

    @staticmethod
    def default() -> Options:
        return Options(verify=bool(os.environ.get("TILEWRIGHT_VERIFY")))


def shown(channel: str) -> bool:
    """Whether the user asked to see a channel."""
    wanted = os.environ.get("TILEWRIGHT_SHOW", "").split(",")
    return channel in wanted or "all" in wanted


def show(channel: str, *text: object) -> None:
    """Print on a channel, if it is asked for; only then is anything turned into text."""
    if shown(channel):
        print(f"[{channel}]", *text, file=sys.stderr)
