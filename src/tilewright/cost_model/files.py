"""Where the cost model's files are. Refuses to read them: who only wants to know whether they are
there need not load what can."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tilewright.runtime import cache

VARIABLE: Final = "TILEWRIGHT_DATABASE"
"""The file of measurements; `off` for none. Default: next to the cached machine code."""
FILE: Final = "measurements.sqlite"
STAMP: Final = """
SELECT COALESCE((SELECT MAX(id) FROM records), 0) + COALESCE((SELECT MAX(id) FROM timings), 0)
"""
"""Of such a file a number that grows whenever something is stored."""
MODEL: Final = "TILEWRIGHT_MODEL"
"""`on`: programs that nobody tuned are scheduled by the shipped model where it expects much of it.
The tuner is guided by it in any case."""
PRIOR: Final = Path(__file__).parent / "priors" / "model.npz"
"""The weights that come with the compiler."""


def database_path() -> Path | None:
    """The user's file of measurements, which need not exist; None if none is wanted."""
    asked = os.environ.get(VARIABLE)
    if asked == "off":
        return None
    if asked:
        return Path(asked)
    store = cache.store()
    return None if store is None else store.directory / FILE


def follows_model() -> bool:
    """Whether the shipped model chooses without measurements."""
    return os.environ.get(MODEL) == "on" and PRIOR.exists()


def learned() -> bool:
    """Whether there is anything that schedules could be chosen by."""
    path = database_path()
    return follows_model() or (path is not None and path.exists())
