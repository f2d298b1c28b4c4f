"""Trees: nested tuples, lists, dicts, named tuples and dataclasses of leaves. Public as `tw.tree`.

Knows how to take a tree apart into leaves and a structure, and how to put it together again.
Refuses to know what a leaf is: whatever is no container is one. None is a container of nothing.

A structure is the tree in preorder with its leaves blanked out, one flat tuple: comparing and
hashing it is comparing and hashing a tuple, and no function here recurses.
"""

from __future__ import annotations

import builtins
import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce as fold
from typing import Any, Final, NamedTuple

from tilewright.errors import TreeMismatch

Leaf = Any
IsLeaf = Callable[[Any], bool] | None


@dataclass(frozen=True, eq=False)
class Container:
    """How one class of containers is taken apart and put together.

    `take` gives the children and a hashable description of all the rest; `make` undoes it; `names`
    spells each child's place for messages. Where all of that is reading and setting attributes,
    `fields` has the names of the children and of the rest.
    """

    cls: type
    take: Callable[[Any], tuple[Sequence[Any], Hashable]]
    make: Callable[[Any, Sequence[Any]], Any]
    names: Callable[[Any, int], Sequence[str]]
    fields: tuple[tuple[str, ...], tuple[str, ...]] | None = None


class Entry(NamedTuple):
    """One container of a structure, or (`container` None) one leaf."""

    container: Container | None
    rest: Hashable
    arity: int


LEAF: Final = Entry(None, None, 0)


class Structure:
    """The shape of a tree: hashable, comparable, and enough to rebuild it from leaves."""

    __slots__ = ("code", "hash", "num_leaves")

    def __init__(self, code: tuple[Entry, ...]) -> None:
        self.code = code
        self.hash = hash(code)
        self.num_leaves = code.count(LEAF)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.code == other.code

    def unflatten(self, leaves: Iterable[Leaf]) -> Any:
        return unflatten(self, leaves)

    def __repr__(self) -> str:
        stack: list[str] = []
        for container, rest, arity in reversed(self.code):
            if container is None:
                stack.append("*")
                continue
            parts = [stack.pop() for _ in range(arity)]
            if container.cls in (tuple, list):
                left, right = "()" if container.cls is tuple else "[]"
                comma = "," if container.cls is tuple and arity == 1 else ""
                stack.append(f"{left}{', '.join(parts)}{comma}{right}")
            elif container.cls is dict:
                pairs = (f"{k!r}: {p}" for k, p in zip(rest, parts, strict=True))  # type: ignore[call-overload]
                stack.append("{" + ", ".join(pairs) + "}")
            elif container.cls is type(None):
                stack.append("None")
            else:
                names = container.names(rest, arity)
                inner = (f"{n.lstrip('.')}={p}" for n, p in zip(names, parts, strict=True))
                shown = f"{rest.value!r}" if isinstance(rest, Static) else ", ".join(inner)
                stack.append(f"{container.cls.__name__}({shown})")
        return stack[0]


@dataclass(frozen=True)
class Static:
    """A hashable value that is part of the structure, not a leaf."""

    value: Any


# -- containers --------------------------------------------------------------------------------


def _items(rest: Any, n: int) -> list[str]:
    return [f"[{i}]" for i in range(n)]


def _keys(rest: Any, n: int) -> list[str]:
    return [f"[{k!r}]" for k in rest]


def _sorted_keys(d: dict[Any, Any]) -> tuple[Any, ...]:
    try:
        return tuple(sorted(d))
    except TypeError:  # keys of several types: any fixed order will do
        return tuple(sorted(d, key=lambda k: (type(k).__name__, repr(k))))


def _take_dict(d: dict[Any, Any]) -> tuple[Sequence[Any], Hashable]:
    keys = _sorted_keys(d)
    return [d[k] for k in keys], keys


_CONTAINERS: Final[dict[type, Container | None]] = {
    c.cls: c
    for c in (
        Container(tuple, lambda t: (t, None), lambda rest, xs: tuple(xs), _items),
        Container(list, lambda t: (t, None), lambda rest, xs: list(xs), _items),
        Container(dict, _take_dict, lambda keys, xs: dict(zip(keys, xs, strict=True)), _keys),
        Container(
            OrderedDict,
            lambda d: (list(d.values()), tuple(d)),
            lambda keys, xs: OrderedDict(zip(keys, xs, strict=True)),
            _keys,
        ),
        Container(
            defaultdict,
            lambda d: (_take_dict(d)[0], (d.default_factory, _sorted_keys(d))),
            lambda rest, xs: defaultdict(rest[0], zip(rest[1], xs, strict=True)),
            lambda rest, n: _keys(rest[1], n),
        ),
        Container(type(None), lambda t: ((), None), lambda rest, xs: None, _items),
        Container(Static, lambda s: ((), s), lambda s, xs: s, _items),
    )
}
"""Class -> how it is taken apart; None for classes of leaves. Grows as classes are met."""


def register(
    cls: type,
    take: Callable[[Any], tuple[Sequence[Any], Hashable]],
    make: Callable[[Any, Sequence[Any]], Any],
    names: Callable[[Any, int], Sequence[str]] = _items,
) -> type:
    """Make `cls` a container. `take(x)` gives (children, hashable rest); `make(rest, children)`
    gives x back. Named tuples and dataclasses need no registration."""
    _CONTAINERS[cls] = Container(cls, take, make, names)
    return cls


def container_of(x: Any) -> Container | None:
    """How `x` is taken apart; None if it is a leaf."""
    cls = type(x)
    try:
        return _CONTAINERS[cls]
    except KeyError:
        found = _CONTAINERS[cls] = _derived(cls)
        return found


def _derived(cls: type) -> Container | None:
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        names = [f".{f}" for f in cls._fields]
        return Container(
            cls,
            lambda t: (t, None),
            lambda rest, xs: cls(*xs),
            lambda rest, n: names,
            (tuple(cls._fields), ()),
        )
    if dataclasses.is_dataclass(cls) and not hasattr(cls, "__array__"):
        return _dataclass(cls)
    for base in (OrderedDict, defaultdict, dict, list, tuple):
        if issubclass(cls, base) and cls.__init__ is base.__init__:
            return None if base is tuple else _subclass(cls, _CONTAINERS[base])
    return None


def _subclass(cls: type, base: Container | None) -> Container:
    assert base is not None, "the built-in containers are registered"
    return Container(cls, base.take, lambda rest, xs: cls(base.make(rest, xs)), base.names)


def _dataclass(cls: type) -> Container:
    """Fields are children, unless their metadata says `static=True` (or `pytree_node=False`)."""
    static: list[str] = []
    children: list[str] = []
    for f in dataclasses.fields(cls):
        kept = f.metadata.get("static", not f.metadata.get("pytree_node", True))
        (static if kept else children).append(f.name)

    def take(x: Any) -> tuple[Sequence[Any], Hashable]:
        return [getattr(x, f) for f in children], tuple(getattr(x, f) for f in static)

    def make(rest: Any, xs: Sequence[Any]) -> Any:
        x: Any = object.__new__(cls)  # as it was: no __init__ sees the leaves
        for f, value in (*zip(children, xs, strict=True), *zip(static, rest, strict=True)):
            object.__setattr__(x, f, value)
        return x

    names = [f".{f}" for f in children]
    return Container(cls, take, make, lambda rest, n: names, (tuple(children), tuple(static)))


# -- taking apart and putting together ---------------------------------------------------------


def flatten(tree: Any, is_leaf: IsLeaf = None) -> tuple[list[Leaf], Structure]:
    """The leaves, in order, and the structure. `is_leaf(x)` true stops at a container x."""
    leaves: list[Leaf] = []
    code: list[Entry] = []
    stack = [tree]
    while stack:
        x = stack.pop()
        container = container_of(x)
        if container is None or (is_leaf is not None and is_leaf(x)):
            leaves.append(x)
            code.append(LEAF)
            continue
        children, rest = container.take(x)
        code.append(Entry(container, rest, len(children)))
        stack.extend(reversed(children))
    return leaves, Structure(tuple(code))


def unflatten(structure: Structure, leaves: Iterable[Leaf]) -> Any:
    """The tree of that structure with these leaves. Raises TreeMismatch for a wrong number."""
    values = list(leaves)
    if len(values) != structure.num_leaves:
        raise TreeMismatch(
            f"{structure.num_leaves} leaves: {structure!r}", f"{len(values)} leaves", "two trees"
        )
    stack: list[Any] = []
    for container, rest, arity in reversed(structure.code):
        if container is None:
            stack.append(values.pop())
        else:
            stack.append(container.make(rest, [stack.pop() for _ in range(arity)]))
    return stack[0]


def leaves(tree: Any, is_leaf: IsLeaf = None) -> list[Leaf]:
    """The leaves, in order: dict values by sorted key, fields in their order of definition."""
    return flatten(tree, is_leaf)[0]


def structure(tree: Any, is_leaf: IsLeaf = None) -> Structure:
    """The tree without its leaves: hashable, equal for equal containers."""
    return flatten(tree, is_leaf)[1]


def paths(tree: Any, is_leaf: IsLeaf = None) -> list[str]:
    """Where each leaf is, as Python would write it: `['w'][0].bias`; a lone leaf is ''."""
    result: list[str] = []
    stack = [("", tree)]
    while stack:
        path, x = stack.pop()
        container = container_of(x)
        if container is None or (is_leaf is not None and is_leaf(x)):
            result.append(path)
            continue
        children, rest = container.take(x)
        names = container.names(rest, len(children))
        stack.extend((path + n, c) for n, c in reversed(list(zip(names, children, strict=True))))
    return result


def map(f: Callable[..., Any], tree: Any, *rest: Any, is_leaf: IsLeaf = None) -> Any:
    """`f` of each leaf of `tree` and what stands at its place in each of `rest` (a leaf, or a whole
    subtree). Raises TreeMismatch where a tree of `rest` has other containers."""
    first, shape = flatten(tree, is_leaf)
    others = [_at_leaves(shape, other) for other in rest]
    return unflatten(shape, [f(*xs) for xs in zip(first, *others, strict=True)])


def map_with_path(f: Callable[..., Any], tree: Any, *rest: Any, is_leaf: IsLeaf = None) -> Any:
    """As `map`, with the path of the leaf as `f`'s first argument."""
    where = unflatten(structure(tree, is_leaf), paths(tree, is_leaf))
    return map(f, where, tree, *rest)


def _at_leaves(shape: Structure, other: Any) -> list[Any]:
    """What stands in `other` where `shape` has leaves."""
    result: list[Any] = []
    stack = [other]
    for entry in shape.code:
        x = stack.pop()
        if entry.container is None:
            result.append(x)
            continue
        container = container_of(x)
        children, rest = container.take(x) if container else ((), None)
        if container is not entry.container or (rest, len(children)) != entry[1:]:
            raise TreeMismatch(repr(shape), repr(structure(other)))
        stack.extend(reversed(children))
    return result


def reduce(f: Callable[[Any, Any], Any], tree: Any, *initial: Any, is_leaf: IsLeaf = None) -> Any:
    """The leaves combined from the left by `f`, starting with `initial` if it is given."""
    return fold(f, leaves(tree, is_leaf), *initial)


def all(tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether every leaf is true."""
    return builtins.all(leaves(tree, is_leaf))


def transpose(outer: Structure, inner: Structure, tree: Any) -> Any:
    """A tree of `outer` whose leaves are trees of `inner`, turned inside out."""
    columns = [_at_leaves(inner, sub) for sub in _at_leaves(outer, tree)]
    rows = [unflatten(outer, row) for row in zip(*columns, strict=True)]
    return unflatten(inner, rows)
