"""How mistakes are listed, and how the messages in their docstrings are read (`test_errors`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.errors import TilewrightError

X = np.ones(3, np.float32)
CASES: list[tuple[type[TilewrightError], type[Exception], Callable[[], Any]]] = []


def case(error: type[TilewrightError], builtin: type[Exception]) -> Callable[..., Any]:
    """List a mistake: the class it raises and the built-in error that class is."""

    def listed(mistake: Callable[[], Any]) -> Callable[[], Any]:
        CASES.append((error, builtin, mistake))
        return mistake

    return listed


def expected(mistake: Callable[[], Any]) -> str:
    """The message in the docstring, with the marked lines filled in."""
    lines, first = inspect.getsourcelines(mistake)
    path = Path(inspect.getsourcefile(mistake) or "")
    text = inspect.getdoc(mistake) or ""
    for number, line in enumerate(lines, first):
        if line.endswith("# BORN\n"):
            text = text.replace("BORN", f"{path.name}:{number}")
        if line.endswith("# HERE\n"):
            around = [d for d in lines[: number - first] if re.match(r" *def ", d)]
            inner = [d for d in around if indent(d) < indent(line)]
            name = inner[-1].split("def ")[1].split("(")[0]
            at = f'File "{path}", line {number}, in {name} {line.strip()}'
            text = text.replace("HERE", f"{path.name}:{number}")
            text = re.sub(r"\bAT\b", lambda _, at=at: at, text)
    return " ".join(text.split())


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())
