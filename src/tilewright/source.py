"""Source: a line of the user's code, and how to find the one that is running.

Knows Python's frames and which modules are not the user's. Refuses to know what is born there.
"""

from __future__ import annotations

import linecache
import os
import sys
from threading import local
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

_NOT_THE_USERS: Final = (
    __name__.rpartition(".")[0] + ".",
    "numpy.",
    "contextlib",
    "functools",
    "jaxtyping",
)


class Source(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"

    @property
    def text(self) -> str:
        """The line itself, stripped; empty where the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()


class _Current(local):
    source: Source | None = None


_current = _Current()


class born_at:  # noqa: N801  (used like a function)
    """`with born_at(source):` nodes built inside carry `source`: transforms keep the line of the
    node they rewrite. A class, since a generator takes five times as long, once for each node."""

    __slots__ = ("before", "source")

    def __init__(self, source: Source | None) -> None:
        self.source = source

    def __enter__(self) -> None:
        self.before, _current.source = _current.source, self.source

    def __exit__(self, *error: object) -> None:
        _current.source = self.before


def user_source() -> Source | None:
    """The innermost line on the stack that is neither ours nor NumPy's. About a microsecond."""
    if _current.source is not None:
        return _current.source
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = frame.f_globals
        if id(names) not in _passed_over:
            if not names.get("__name__", "").startswith(_NOT_THE_USERS):
                return _source(frame)
            _passed_over[id(names)] = names
        frame = frame.f_back
    return None


def _source(frame: FrameType) -> Source:
    """Where a frame is. Each place is looked up once: a step of a loop has been there before."""
    code, place = frame.f_code, (id(frame.f_code), frame.f_lasti)
    found = _places.get(place)
    if found is None:
        if len(_places) >= MOST_PLACES:
            _places.clear()
        found = Source(code.co_filename, frame.f_lineno, code.co_name), code
        _places[place] = found
    return found[0]


MOST_PLACES: Final = 4096
_places: Final[dict[tuple[int, int], tuple[Source, CodeType]]] = {}
"""The sources of instructions of code, which is kept as long: its identity is part of the key."""
_passed_over: Final[dict[int, dict[str, Any]]] = {}
"""The variables of modules that are not the user's, by identity."""


def defined_at(f: object) -> Source | None:
    """Where a function was defined; None for what is not written in Python."""
    code = getattr(getattr(f, "__wrapped__", f), "__code__", None)
    if code is None:
        return None
    return Source(code.co_filename, code.co_firstlineno, code.co_name)
