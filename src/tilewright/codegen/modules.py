"""One LLVM module as several, so that code can be generated for them at the same time.

Knows where functions begin and end in the text, and what each part must declare of the others.
Refuses to know what functions do, and who compiles the parts. Linked together the parts are the
module again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_FUNCTION: Final = re.compile(r"^define [^\n]*\{\n.*?^\}\n?", re.MULTILINE | re.DOTALL)
_NAME: Final = re.compile(r'@("[^"]*"|[\w.$-]+)')
_STATE: Final = re.compile(r"^@[^\n]* global ", re.MULTILINE)
_PARAMETER: Final = re.compile(r" %[\w.$-]+")


@dataclass(frozen=True)
class _Function:
    """A definition: the function's name, the text, and the names the text mentions."""

    name: str
    text: str
    mentions: frozenset[str]

    @property
    def declaration(self) -> str:
        """The head of the definition without linkage, names of parameters and attributes."""
        head = self.text[: self.text.index("{\n")].removeprefix("define ")
        head = head[: head.rindex(")") + 1]
        return "declare " + _PARAMETER.sub("", head.removeprefix("internal "))

    @property
    def external(self) -> str:
        """The definition, to be found by the other parts."""
        return self.text.replace("define internal ", "define ", 1)


def split(text: str, parts: int) -> list[str]:
    """The module as at most `parts` modules of about the same length.

    All functions become external, everything else is repeated: a module with variables of its own,
    of which there must be one, stays whole.
    """
    functions = [_function(m[0]) for m in _FUNCTION.finditer(text)]
    count = min(parts, len(functions))
    rest = _FUNCTION.sub("", text)
    if count < 2 or _STATE.search(rest):
        return [text]
    shares: list[list[_Function]] = [[] for _ in range(count)]
    lengths = [0] * count
    for f in sorted(functions, key=lambda f: -len(f.text)):  # the longest goes where least is
        k = lengths.index(min(lengths))
        shares[k].append(f)
        lengths[k] += len(f.text)
    return [_module(rest, share, functions) for share in shares]


def _function(text: str) -> _Function:
    names = _NAME.findall(text)
    return _Function(names[0], text, frozenset(names[1:]))


def _module(rest: str, share: list[_Function], all_functions: list[_Function]) -> str:
    own = {f.name for f in share}
    wanted = frozenset().union(*(f.mentions for f in share)) - own
    declared = [f.declaration for f in all_functions if f.name in wanted]
    return "\n".join([*declared, rest, *(f.external for f in share)])
