"""Tracing: running a user's function on arrays without elements to get its graph.

Knows scopes, arguments as trees of leaves, and which nodes an inner function takes from the ones
around it. Refuses to know what happens to the graph afterwards. `Array` itself, and what one can
do with it, is in `array.py`.
"""

from __future__ import annotations

import builtins
import inspect
import types
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from tilewright import contracts, dtypes, trees
from tilewright.array import Array as Array
from tilewright.array import Scope, concrete, current, node_of
from tilewright.array import asarray as asarray
from tilewright.array import astype as astype
from tilewright.array import broadcast_to as broadcast_to
from tilewright.array import into as into
from tilewright.array import operand as operand
from tilewright.array import settled as settled
from tilewright.errors import TracedNumber, UnfinishedResult, UnhashableStatic, UntracedWrite
from tilewright.graph import Graph, Input, Node, Type, new_input, substitute
from tilewright.promotion import PYTHON
from tilewright.selection import At, Place
from tilewright.selection import Selection as Selection
from tilewright.source import born_at, defined_at
from tilewright.term import topological
from tilewright.trees import Static, Structure

UNFINISHED: Final = (Iterator, Awaitable, At, Place)
"""Results that are no values yet: they would run on traced arrays after the trace has ended."""


OPEN: Final[list[Scope]] = []
"""The scopes open on any thread: native code looks whether there are any, and if so asks
`active`."""


def active() -> bool:
    """Whether a function is being traced on this thread."""
    return current.scope is not None


@contextmanager
def scope(name: str) -> Iterator[Scope]:
    """Handles made inside end with it: using one afterwards is an EscapedTracer error."""
    inner = Scope(name, current.scope)
    current.scope = inner
    OPEN.append(inner)
    try:
        yield inner
        for captured in inner.captured.values():
            captured.settle()
    except ValueError as error:
        cause = error.__cause__
        if isinstance(cause, TracedNumber):  # NumPy's "setting an array element with a sequence"
            raise UntracedWrite(cause.value, cause.source) from None
        raise
    finally:
        current.scope = inner.outer
        OPEN.remove(inner)
        inner.open = False


def name_of(f: Callable[..., Any]) -> str:
    return getattr(f, "__name__", type(f).__name__)


# -- flat functions ----------------------------------------------------------------------------


def trace(
    f: Callable[..., Any],
    types: Sequence[Type],
    name: str | None = None,
    labels: Sequence[str] | None = None,
) -> Graph:
    """Run `f` on fresh inputs of the given types and collect the graph of what it returns: an
    array or a tuple of arrays. Nodes of traces around it that `f` reads stay nodes of the graph."""
    name = name or name_of(f)
    labels = labels or [f"x{i}" for i in range(len(types))]
    with born_at(defined_at(f)):
        inputs = [new_input(label, t) for label, t in zip(labels, types, strict=True)]
    with scope(name):
        out = f(*(Array(n, label=label) for n, label in zip(inputs, labels, strict=True)))
        outs = out if isinstance(out, tuple) else (out,)
        return Graph(name, tuple(inputs), tuple(node_of(o, f"the result of {name}") for o in outs))


def closed(
    f: Callable[..., Any],
    types: Sequence[Type],
    name: str | None = None,
    labels: Sequence[str] | None = None,
    since: int | None = None,
) -> tuple[Graph, list[Array]]:
    """As `trace`, with what `f` reads of the functions around it made explicit: the graph's first
    inputs are the captured values, which are returned, then come the inputs of `types`.

    A node older than the trace, or than `since` (a node's serial: branches traced one after the
    other give the same), is captured if it depends on an outer input; what depends on none is
    computed inside again.
    """
    start = now() if since is None else since
    return close(trace(f, types, name, labels), start)


def now() -> int:
    """A serial that later nodes have greater ones than: the age of a fresh input."""
    return new_input("now", Type(dtypes.bool_, ())).serial


def close(graph: Graph, start: int) -> tuple[Graph, list[Array]]:
    """The graph with its outer nodes, those older than `start`, as leading inputs; and these."""
    own = set(graph.inputs)
    foreign: dict[Node, bool] = {}
    for n in topological(graph.outputs, lambda n: () if n in own else n.args):
        is_input = isinstance(n.op, Input) and n not in own
        foreign[n] = n not in own and (is_input or any(foreign[a] for a in n.args))
    captured = [
        n
        for n in topological(
            graph.outputs, lambda n: () if n in own or n.serial < start else n.args
        )
        if foreign[n] and n.serial < start
    ]
    inputs = [new_input(f"outer{i}", n.type) for i, n in enumerate(captured)]
    outputs = substitute(graph.outputs, dict(zip(captured, inputs, strict=True)))
    inner = Graph(graph.name, (*inputs, *graph.inputs), tuple(outputs))
    return inner, [Array(n) for n in captured]


# -- calls: trees of arguments -----------------------------------------------------------------


class Argument(NamedTuple):
    """What is known of one leaf of the arguments while tracing.

    `python` is the type of a Python number: it is traced as a 0-d array of NumPy's type for it, and
    promotes as a Python number does, so `f(x, 2.0)` has the dtype of `x * 2.0`.
    """

    type: Type
    python: builtins.type | None = None


@dataclass(frozen=True)
class Call:
    """A call without its values: equal calls have equal graphs. Hashable, so it is a cache key.

    `labels` name the leaves in the user's terms (`params['w']`); they follow from the rest.
    """

    structure: Structure
    arguments: tuple[Argument, ...]
    labels: tuple[str, ...] = field(compare=False)


def argument(leaf: Any, label: str = "") -> Argument:
    """The Argument of a leaf. Raises NotAnArray, UnsupportedDType, IntegerRange naming `label`."""
    if isinstance(leaf, Argument):
        return leaf
    if isinstance(leaf, Array):
        return Argument(leaf.type, leaf.python)
    array = concrete(leaf, label)
    return Argument(Type(array.dtype, array.shape), type(leaf) if type(leaf) in PYTHON else None)


def bind(
    f: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    static: Collection[str | int] = (),
) -> tuple[Call, list[Any]]:
    """The call of `f` on these arguments, and its leaves: the program's inputs in order.

    `static` names parameters, or gives their positions, whose values are part of the call: they
    must be hashable (else UnhashableStatic). Leaves may be `Argument`s, to trace without values.
    """
    names = parameter_names(f, len(args))
    fixed = [
        _static(a, name) if i in static or name in static else a
        for i, (a, name) in enumerate(zip(args, names, strict=True))
    ]
    keywords = {k: _static(a, k) if k in static else a for k, a in kwargs.items()}
    tree = (tuple(fixed), keywords)
    leaves, structure = trees.flatten(tree, _is_argument)
    labels = [
        n + p for n, a in zip(names, fixed, strict=True) for p in trees.paths(a, _is_argument)
    ]
    labels += [k + p for k in sorted(keywords) for p in trees.paths(keywords[k], _is_argument)]
    arguments = tuple(argument(x, label) for x, label in zip(leaves, labels, strict=True))
    return Call(structure, arguments, tuple(labels)), leaves


def _is_argument(x: Any) -> bool:
    return isinstance(x, Argument)


def parameter_names(f: Callable[..., Any], n: int) -> list[str]:
    """The names of the first `n` positional parameters."""
    own, rest = _positional(f)
    return own[:n] + [f"{rest}[{i}]" for i in range(n - len(own))]


def _positional(f: Callable[..., Any]) -> tuple[list[str], str]:
    """The parameters that can be given by position, and what takes any further ones."""
    if isinstance(f, types.FunctionType) and not vars(f):  # at a tenth of a signature's time
        code = f.__code__
        more = code.co_flags & inspect.CO_VARARGS
        rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount] if more else "args"
        return list(code.co_varnames[: code.co_argcount]), rest
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # not every built-in tells
        return [], "args"
    own = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return own, next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")


def _static(value: Any, label: str) -> Static:
    try:
        hash(value)
    except TypeError:
        raise UnhashableStatic(value, label) from None
    return Static(value)


@dataclass(frozen=True)
class Traced:
    """A function traced for one call: the graph, and how its results make what `f` returns.

    `slots` has for every leaf of the result the number of the graph's output, or the value itself
    (as `Static`) if it is no array: such a leaf is the same at every call.
    """

    graph: Graph
    structure: Structure
    slots: tuple[int | Static, ...]

    def rebuild(self, results: Sequence[Any]) -> Any:
        """What `f` returns, given the values of the graph's outputs."""
        leaves = [s.value if isinstance(s, Static) else results[s] for s in self.slots]
        lone = self.structure.code[0] is trees.LEAF  # an array, not a tree: nothing to rebuild
        return leaves[0] if lone else trees.unflatten(self.structure, leaves)


def trace_call(f: Callable[..., Any], call: Call, name: str | None = None) -> Traced:
    """Run `f` on traced arrays in place of the call's leaves.

    Ordinary arrays among the results become constants of the graph; Python numbers, strings and
    whatever else is no array stay as they are. jaxtyping annotations of `f` are checked. Raises
    UnfinishedResult for a generator, a coroutine, an `x.at[i]` among the results.
    """
    name = name or name_of(f)
    with born_at(defined_at(f)):
        inputs = [
            new_input(label, a.type) for label, a in zip(call.labels, call.arguments, strict=True)
        ]
    with scope(name):
        arrays = [
            Array(n, label=label, python=a.python)
            for n, label, a in zip(inputs, call.labels, call.arguments, strict=True)
        ]
        args, kwargs = trees.unflatten(call.structure, arrays)
        args = [a.value if isinstance(a, Static) else a for a in args]
        kwargs = {k: a.value if isinstance(a, Static) else a for k, a in kwargs.items()}
        result = contracts.checked(f, args, kwargs)
        leaves, structure = trees.flatten(result)
        outputs: list[Node] = []
        slots: list[int | Static] = []
        for leaf in leaves:
            if isinstance(leaf, Array | np.ndarray | Selection):
                slots.append(len(outputs))
                outputs.append(node_of(leaf))
            elif isinstance(leaf, UNFINISHED):
                raise UnfinishedResult(name, leaf)
            else:
                slots.append(Static(leaf))
        graph = Graph(name, tuple(inputs), tuple(outputs))
    return Traced(graph, structure, tuple(slots))
