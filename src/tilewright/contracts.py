"""jaxtyping annotations as contracts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def checked(f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return f(*args, **kwargs)
