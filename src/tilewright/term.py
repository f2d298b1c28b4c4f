"""Immutable, interned terms: the one data structure under all three languages.

Knows how to build a term once (equal fields give the *same* object), and how to walk and rebuild
terms without recursion. Refuses to know what any term means.

Interning hashes shallowly: a term's key is its class and its fields, and a field that is itself a
term is hashed by identity. So equality is `is`, common subexpressions are shared for free, and a
rewrite that changes nothing returns the very same object.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar, dataclass_transform
from weakref import ref

T = TypeVar("T")


class _Entry(ref):  # type: ignore[type-arg]
    """A term in the table, without keeping it alive."""

    __slots__ = ("key",)
    key: Hashable


_INTERNED: dict[Hashable, _Entry] = {}
_bare: Any = object.__new__


def _drop(entry: _Entry) -> None:
    """Forget a term that died, unless an equal one took its place already."""
    if _INTERNED.get(entry.key) is entry:
        del _INTERNED[entry.key]


@dataclass_transform(frozen_default=True, eq_default=False)
class TermMeta(type):
    """Turns annotated fields into slots, and construction into a look-up of the intern table.

    A class may name further slots in `derived`; its method `derive` fills them, once per term.
    """

    _fields: tuple[str, ...]
    _setters: tuple[Callable[[Any, Any], None], ...]
    _own_key: bool

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> TermMeta:
        own = tuple(f for f in namespace.get("__annotations__", {}) if f not in namespace)
        namespace["__slots__"] = (*own, *namespace.get("derived", ()))
        if not bases:
            namespace["__slots__"] += ("__weakref__",)
        cls = super().__new__(mcs, name, bases, namespace)
        inherited = tuple(f for base in bases for f in getattr(base, "_fields", ()))
        cls._fields = inherited + own
        cls._setters = tuple(getattr(cls, f).__set__ for f in cls._fields)
        cls._own_key = cls.key.__func__ is not Term.key.__func__ if bases else False  # type: ignore[attr-defined]
        type.__setattr__(cls, "__match_args__", cls._fields)
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args += tuple(kwargs[f] for f in cls._fields[len(args) :])
        key = cls.key(*args) if cls._own_key else (cls, *args)  # type: ignore[attr-defined]
        entry = _INTERNED.get(key)
        if entry is not None:
            found = entry()
            if found is not None:
                return found
        if len(args) != len(cls._fields):
            raise TypeError(
                f"{cls.__name__} takes the fields {cls._fields}, got {len(args)} values"
            )
        term: Any = _bare(cls)
        for set_field, value in zip(cls._setters, args):
            set_field(term, value)
        term.derive()
        entry = _Entry(term, _drop)
        entry.key = key
        # setdefault keeps one winner when two threads build the same term at once.
        winner = _INTERNED.setdefault(key, entry)
        if winner is entry:
            return term
        found = winner()
        if found is None:  # the entry of a term that is just dying
            _INTERNED[key] = entry
            return term
        return found

    def fresh(cls, *args: Any) -> Any:
        """A term whose fields no other will ever have, a serial number of its own among them: it
        is looked for in vain, so it does without the table."""
        term: Any = _bare(cls)
        for set_field, value in zip(cls._setters, args, strict=True):
            set_field(term, value)
        term.derive()
        return term


class Term(metaclass=TermMeta):
    """A node of a language. Fields are positional, hashable and never change."""

    @classmethod
    def key(cls, *fields: Any) -> Hashable:
        """What makes two terms the same one. Override where `==` on a field is not identity."""
        return (cls, *fields)

    def derive(self) -> None:
        """Fill the slots named in `derived`."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __repr__(self) -> str:
        fields = ", ".join(f"{f}={getattr(self, f)!r}" for f in type(self)._fields)
        return f"{type(self).__name__}({fields})"

    def __copy__(self) -> Term:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Term:
        return self


def topological(roots: Iterable[T], children: Callable[[T], Iterable[T]]) -> list[T]:
    """Every term reachable from `roots`, each after its children. Iterative; linear in the size."""
    order: list[T] = []
    done: set[int] = set()
    stack: list[Any] = [*roots][::-1]
    while stack:
        term = stack.pop()
        if term is None:  # all below the next one are in order
            order.append(stack.pop())
        elif id(term) not in done:
            done.add(id(term))
            below = [*children(term)]
            if below:
                stack += (term, None, *below[::-1])
            else:
                order.append(term)
    return order
