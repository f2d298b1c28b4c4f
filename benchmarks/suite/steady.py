"""Whether the machine runs at its own speed just now.

Knows two probes of a fraction of a millisecond, a loop of the interpreter and multiply-adds on all
threads at once, and how fast they ever were in this process. Refuses to know what is measured:
everybody waits for the same.

Cores of virtual machines are halves of physical ones. For tenths of a second to seconds somebody
else runs on the other half, or both of ours are one core's, and everything takes up to twice as
long; after a sleep cores take a tenth of a second until they are as fast as before.
"""

from __future__ import annotations

import time
from typing import Final

from tilewright import roofline

NEAR: Final = 1.15
"""How much slower than ever a machine may be that counts as steady."""
LONGEST: Final = 1.0
"""Seconds to wait at most: some disturbances stay."""
COUNT: Final = 10_000
"""Rounds of the interpreter's loop."""
BEGINNING: Final = 0.5
"""Seconds in which the machine is watched before anything is measured."""


class Machine:
    """The speed of one process's cores. `late` counts the waits that ended without it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.late = 0
        self._least = [float("inf")] * 2
        end = time.perf_counter() + BEGINNING
        while time.perf_counter() < end:
            self.is_steady()

    def is_steady(self) -> bool:
        """Look once."""
        seconds = [_interpreted(), 1 / roofline.multiplying(self.threads)]
        self._least = [min(least, s) for least, s in zip(self._least, seconds, strict=True)]
        return all(s < NEAR * least for s, least in zip(seconds, self._least, strict=True))

    def wait(self) -> None:
        """Run until the machine is steady, for `LONGEST` seconds if it is not."""
        end = time.perf_counter() + LONGEST
        while not (self.is_steady() and self.is_steady()):
            if time.perf_counter() > end:
                self.late += 1
                return


def _interpreted() -> float:
    start, total = time.perf_counter(), 0
    for i in range(COUNT):
        total += i & 3
    return time.perf_counter() - start
