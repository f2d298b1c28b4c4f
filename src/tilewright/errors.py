"""The catalogue of errors: each class is one mistake, with a failing example and the way out.

Knows how a message is built (what happened, the values, the user's own line, what to do). Refuses
to know when a mistake was made: the code that finds it raises it.
"""

from __future__ import annotations


class TilewrightError(Exception):
    """Everything the compiler raises on purpose derives from this."""


class InternalError(TilewrightError):
    """The compiler contradicts itself: a bug of ours. The message prints the offending term."""
