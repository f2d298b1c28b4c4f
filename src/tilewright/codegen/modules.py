"""One LLVM module as several, so that code can be generated for them at the same time.

Knows where functions begin and end in the text, and what each part must declare of the others.
Refuses to know what functions do, and who compiles the parts. Linked together the parts are the
module again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_HEAD: Final = "\ndefine "
_TAIL: Final = "\n}\n"
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


def apart(text: str, sign: str, least: int) -> list[str]:
    """The module as two: the functions with a sign in their text, and those without it. As one, if
    there are not both, or of the first not `least` characters."""
    if len(text) < least or sign not in text:
        return [text]
    texts, rest = _taken_apart(text)
    kinds = [[t for t in texts if (sign in t) == has] for has in (True, False)]
    if sum(map(len, kinds[0])) < least or not kinds[1]:
        return [text]
    return _modules(kinds, rest) or [text]


def split(text: str, parts: int, least: int = 1) -> list[str]:
    """The module as at most `parts` modules of about the same length, each with functions of
    `least` characters or more.

    All functions become external, everything else is repeated: a module with variables of its own,
    of which there must be one, stays whole.
    """
    parts = min(parts, len(text) // least)
    if parts < 2:
        return [text]
    texts, rest = _taken_apart(text)
    texts.sort(key=len, reverse=True)
    shares = _shares(texts, parts)
    while len(shares) > 1 and min(sum(map(len, s)) for s in shares) < least:
        shares = _shares(texts, len(shares) - 1)  # one function is nearly all there is
    return (len(shares) > 1 and _modules(shares, rest)) or [text]


def _modules(shares: list[list[str]], rest: str) -> list[str]:
    """A module of each share of the functions, if there is nothing of which there must be one."""
    if _STATE.search(rest):
        return []
    taken = [[_function(t) for t in share] for share in shares]
    functions = [f for share in taken for f in share]
    return [_module(rest, share, functions) for share in taken]


def _shares(texts: list[str], count: int) -> list[list[str]]:
    """Texts, the longest first, in at most `count` groups: each goes where least is."""
    shares: list[list[str]] = [[] for _ in range(count)]
    lengths = [0] * count
    for t in texts:
        k = lengths.index(min(lengths))
        shares[k].append(t)
        lengths[k] += len(t)
    return [s for s in shares if s]


def _taken_apart(text: str) -> tuple[list[str], str]:
    """The definitions, and all that is between them. By searches for a few characters: a pattern
    for whole definitions took as long as the code generation of one."""
    functions, rest = list[str](), list[str]()
    text, at = f"\n{text}\n", 0
    while (start := text.find(_HEAD, at)) >= 0:
        end = text.index(_TAIL, start) + len(_TAIL)
        rest.append(text[at : start + 1])
        functions.append(text[start + 1 : end])
        at = end - 1  # the next definition may follow at once
    return functions, "".join([*rest, text[at:]])


def _function(text: str) -> _Function:
    names = _NAME.findall(text)
    return _Function(names[0], text, frozenset(names[1:]))


def _module(rest: str, share: list[_Function], all_functions: list[_Function]) -> str:
    own = {f.name for f in share}
    wanted = frozenset().union(*(f.mentions for f in share)) - own
    declared = [f.declaration for f in all_functions if f.name in wanted]
    return "\n".join([*declared, rest, *(f.external for f in share)])
