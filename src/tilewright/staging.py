"""From functions of trees to graphs of leaves, and back: what the transforms and control flow
share when they meet a user's function.

Knows which leaves become inputs, and how a function is run when it is called with ordinary arrays
outside any trace. Refuses to know what is done with a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tilewright import tracing, trees
from tilewright.array import concrete, operand
from tilewright.graph import Graph, Node, Type, evaluate
from tilewright.tracing import Array, asarray


def is_array(leaf: Any) -> bool:
    """Whether a leaf becomes an input. Python numbers do not: they adopt the dtypes they meet."""
    return isinstance(leaf, (Array, np.ndarray, np.generic)) or hasattr(leaf, "__dlpack__")


@dataclass(frozen=True)
class Staged:
    """A function of trees as a graph of leaves, and the tree its outputs make.

    `weak` marks outputs that stand for Python numbers, which adopt the dtypes they meet.
    """

    graph: Graph
    tree: Any
    weak: list[bool]

    @property
    def types(self) -> list[Type]:
        return [n.type for n in self.graph.outputs]

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        return trees.unflatten(self.tree, leaves)


def number_type(leaf: Any) -> type | None:
    """The type of the Python number that a leaf is or stands for; None for bools and arrays."""
    python = leaf.python if isinstance(leaf, Array) else type(leaf)
    return python if python in (int, float, complex) else None


@dataclass
class _Flat:
    """`f` giving flat arrays; remembers the tree they came from."""

    f: Callable[..., Any]
    python: Sequence[type | None]
    tree: Any = None
    weak: Sequence[bool] = ()

    def __call__(self, *leaves: Array) -> tuple[Array, ...]:
        if self.python:
            leaves = tuple(
                x if p is None else Array(x.node, python=p)
                for x, p in zip(leaves, self.python, strict=True)
            )
        outputs, self.tree = trees.flatten(self.f(*leaves))
        arrays = [asarray(o) for o in outputs]
        self.weak = [not isinstance(operand(o), Node) for o in outputs]
        return tuple(arrays)


def stage(
    f: Callable[..., Any],
    types: Sequence[Type],
    labels: Sequence[str] | None = None,
    python: Sequence[type | None] = (),
) -> Staged:
    """Trace `f`, a function of flat arrays that gives a tree, on fresh inputs. Arrays of the
    traces around it that `f` reads stay nodes of the graph. `python` has for each input the type
    of the Python number it stands for, if it does."""
    flat = _Flat(f, python)
    graph = tracing.trace(flat, types, name_of(f), labels)
    return Staged(graph, flat.tree, list(flat.weak))


def close(
    f: Callable[..., Any], types: Sequence[Type], python: Sequence[type | None] = ()
) -> tuple[Staged, list[Array]]:
    """As `stage`, with the outer arrays that `f` reads as arguments before its own; also these."""
    flat = _Flat(f, python)
    graph, captured = tracing.closed(flat, types, name_of(f))
    return Staged(graph, flat.tree, list(flat.weak)), captured


def name_of(f: Callable[..., Any]) -> str:
    return getattr(f, "__name__", type(f).__name__)


def concretely(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`f(*args, **kwargs)` for an `f` that works on traced arrays. Inside a trace it is called as
    it is; outside, it is traced, with the arrays among its arguments as inputs, and run."""
    return run(f, args, kwargs)


def run(
    f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], floats: Sequence[int] = ()
) -> Any:
    """As `concretely`. Python floats in the positional arguments `floats` are inputs too: as
    constants they would make a program for each value."""
    if tracing.active():
        return f(*args, **kwargs)
    leaves, tree = trees.flatten((args, kwargs))
    sizes = [trees.structure(a).num_leaves for a in args]
    open_to = [n in floats for n, size in enumerate(sizes) for _ in range(size)]
    open_to += [False] * (len(leaves) - len(open_to))
    places = [
        i
        for i, (x, numbers) in enumerate(zip(leaves, open_to, strict=True))
        if is_array(x) or (numbers and type(x) in (float, complex))
    ]
    arrays = [concrete(leaves[i]) for i in places]

    def flat(*inputs: Array) -> Any:
        full = list(leaves)
        for i, x in zip(places, inputs, strict=True):
            full[i] = x
        inner_args, inner_kwargs = trees.unflatten(tree, full)
        return f(*inner_args, **inner_kwargs)

    flat.__name__ = name_of(f)
    types = [Type(a.dtype, a.shape) for a in arrays]
    staged = stage(flat, types, python=[number_type(leaves[i]) for i in places])
    return staged.rebuild(_runner[0](staged.graph, arrays))


Runner: TypeAlias = Callable[[Graph, Sequence[Any]], list[Any]]
_runner: list[Runner] = [evaluate]


def run_with(runner: Runner) -> None:
    """Say how `concretely` runs graphs. The package names its compiler here, once: what stands
    below the compiler can be called on ordinary arrays without importing it."""
    _runner[0] = runner
