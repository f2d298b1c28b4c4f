"""`@compile`: signatures, the caches, and what one can look at.

Knows when two calls may share a program, how a program's inputs and results map to the user's
trees, and how to run it. Refuses to know how programs are made (`transforms.pipeline`).

Two caches. A compiled function remembers the calls it has seen (tree structure, dtypes, shapes,
static values). Programs are shared by their canonical print, so a function that is defined anew,
a lambda in a loop say, is traced again but not compiled again.
"""

from __future__ import annotations

import functools
import gc
import inspect
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, overload

import numpy as np

from tilewright import forks, loops, tracing, trees
from tilewright import graph as graphs
from tilewright import kernel as kernels
from tilewright import roofline as rooflines
from tilewright.codegen import c_source, llvm
from tilewright.cost_model.files import learned
from tilewright.errors import InternalError, NotAFunction, Recompilation, UnknownStatic
from tilewright.expr import static
from tilewright.graph import Graph
from tilewright.options import Options, show, shown
from tilewright.promotion import PYTHON
from tilewright.runtime import cache, dispatch, jit, lapack, threads
from tilewright.runtime.executable import Executable, load_all, prepared
from tilewright.runtime.jit import Loaded
from tilewright.runtime.preparation import Preparation
from tilewright.runtime.signatures import Seen, is_long
from tilewright.target import Lapack, Target, host, named
from tilewright.tracing import Call, Traced
from tilewright.transforms import pipeline
from tilewright.transforms.assemble import Assembly, Scheduler, constants, lent
from tilewright.transforms.heuristic import heuristic

if TYPE_CHECKING:
    from tilewright.cost_model.explaining import Algorithm, Explanation

MOST_PROGRAMS: Final = 1024
"""Programs kept for reuse; the one not used for longest goes first."""
MOST_PREPARED: Final = 4
"""Sets of constants for which a program keeps what it made of them, besides those in use."""


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: compiling makes many objects that live and no cycles that
    die, and each pass over the whole heap would cost as much as a stage. Nor are they passed over
    afterwards: freezing and unfreezing moves all objects to the oldest generation unseen."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # what somebody else froze stays frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()


Code: TypeAlias = tuple[Loaded, ...]
"""A program's entry in memory, and that of the program that prepares for it, if there is one."""


@dataclass(frozen=True)
class Prepared:
    """What a program computed from constants, and whether these are still the ones it was. It goes
    with the first of them."""

    constants: tuple[weakref.ref[Any], ...]
    results: tuple[Any, ...]

    def is_of(self, constants: Sequence[Any]) -> bool:
        return all(r() is a for r, a in zip(self.constants, constants, strict=True))


@dataclass(frozen=True)
class Program:
    """Everything made from one graph, each stage when it is first asked for. Machine code that
    was found on disk is run without the stages before it."""

    traced: Graph
    target: Target
    scheduler: Scheduler | None
    options: Options
    canonical: str = field(repr=False)  # the traced graph's print
    key: str | None  # under which the machine code is kept on disk, if it is
    found: tuple[cache.Entry, Code] | None = field(repr=False)  # what was there
    _made: OrderedDict[tuple[int, ...], Prepared] = field(default_factory=OrderedDict, repr=False)

    def captured(self, traced: Graph) -> tuple[Any, ...]:
        """The arrays captured by a graph of this program, as the program expects them."""
        held = constants(traced)
        return tuple(held[i].elements() for i in self._kept)

    @forks.cached_property
    def _kept(self) -> tuple[int, ...]:
        """Which of the traced graph's constants the rewritten one still reads."""
        if self.found is not None:
            return self.found[0].kept
        position = {h: i for i, h in enumerate(constants(self.traced))}
        return tuple(position[h] for h in constants(self.graph))

    @forks.cached_property
    def lowered(self) -> tuple[Graph, Assembly]:
        """The rewritten graph and what was assembled from it."""
        started = time.perf_counter()
        choose = self.scheduler or functools.partial(heuristic, target=self.target)
        with _uncollected():
            made = pipeline.lower(self.traced, choose, self.options, self.target)
        took = 1e3 * (time.perf_counter() - started)
        show("time", f"{self.traced.name}: lowered in {took:.1f} ms")
        return made

    @property
    def graph(self) -> Graph:
        return self.lowered[0]

    @property
    def assembly(self) -> Assembly:
        return self.lowered[1]

    @forks.cached_property
    def name(self) -> str:
        """Of the program's entry: equal programs have equal names."""
        return jit.symbol(self.canonical)

    @property
    def text(self) -> str:
        """LLVM IR, without that of the preparation."""
        return llvm.module({self.name: self._definitions})

    @forks.cached_property
    def _definitions(self) -> llvm.Definitions:
        with _uncollected():
            return llvm.definitions(self.assembly.program, self.target, self.options.threads)

    @property
    def executable(self) -> Executable:
        return self._both[0]

    @property
    def _both(self) -> tuple[Executable, Preparation | None]:
        """`_executables`, computed by one thread at a time."""
        made = vars(self).get("_executables")
        if made is None:
            with _compiling:
                made = self._executables
        return made

    @forks.cached_property
    def _executables(self) -> tuple[Executable, Preparation | None]:
        """The program, and what prepares for it if something does."""
        types = [n.type for n in self.traced.outputs]
        results = tuple((tuple(t.shape), t.dtype) for t in types)
        if self.found is not None:
            entry, loaded = self.found
        else:
            entry = self._compiled()
            loaded = _linked(entry, self.name, self.target)
            store = cache.store()
            if self.key is not None and store is not None:
                store.put(self.key, entry)
        main = Executable(loaded[0], results, entry.arena_bytes)
        if entry.before is None:
            return main, None
        b, first = entry.before, loaded[1] if entry.before.runs else None
        return main, Preparation(first, b.results, b.arena_bytes, b.copies)

    def _compiled(self) -> cache.Entry:
        """The program and its preparation as one module: a module of its own took a millisecond."""
        programs, before = {self.name: self._definitions}, None
        first = self.assembly.preparation
        if first is not None:
            runs = first.program is not None
            if first.program is not None:
                with _uncollected():
                    count = self.options.threads
                    printed = llvm.definitions(first.program, self.target, count, once=True)
                programs[before_name(self.name)] = printed
            results = tuple((tuple(map(static, t.shape)), t.dtype) for t in first.results)
            before = cache.Before(results, first.copies, runs, first.arena_bytes)
        code = self._objects(llvm.module(programs))
        return cache.Entry(code, self._kept, self.assembly.arena_bytes, before)

    def _objects(self, text: str) -> tuple[bytes, ...]:
        """The objects of a module; a short one is for one thread, whatever the cgroups say."""
        several = len(text) >= 2 * jit.PART_CHARACTERS
        count = threads.default_count() if several else 1
        return jit.objects(text, self.target, count, self.options.verify)

    def prepared(self, captured: Sequence[Any]) -> tuple[Any, ...]:
        """What the program reads besides the arrays it captured: what it made of the constants
        among them, now or before."""
        _, before = self._both
        if before is None:
            return ()
        held = constants(self.traced)
        fixed = [a for a, i in zip(captured, self._kept, strict=True) if held[i].fixed]
        key = tuple(map(id, fixed))
        found = self._made.get(key)
        if found is None or not found.is_of(fixed):
            results = tuple(before([prepared(a, a.dtype) for a in captured]))
            made = self._made

            def forget(_: weakref.ref[Any]) -> None:
                made.pop(key, None)

            found = made[key] = Prepared(tuple(weakref.ref(a, forget) for a in fixed), results)
            if len(self._made) > MOST_PREPARED:
                self._made.popitem(last=False)
        return found.results


def before_name(name: str) -> str:
    """The name of the entry of the program that prepares for another."""
    return f"{name}_before"


def _linked(entry: cache.Entry, name: str, target: Target) -> Code:
    runs = entry.before is not None and entry.before.runs
    names = (name, before_name(name)) if runs else (name,)
    return load_all(entry.objects, names, target)


class Programs:
    """Programs by canonical print, target and scheduler."""

    def __init__(self) -> None:
        self.lock = forks.Lock()
        self._kept: OrderedDict[Any, Program] = OrderedDict()

    def get(self, graph: Graph, scheduler: Scheduler | None, options: Options) -> Program:
        """The program of a graph; made if none like it is kept, here or on disk."""
        target = machine()
        canonical = graphs.show(graph, sources=False)
        if scheduler is None:
            scheduler = chooser(target, options.threads)
        key = (canonical, target, getattr(scheduler, "cache_key", scheduler), options)
        with self.lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
            on_disk = _disk_key(graph, canonical, target, scheduler, options)
            there = _found(on_disk, graph, canonical, target)
            found = Program(lent(graph), target, scheduler, options, canonical, on_disk, there)
            if there is None:
                found.lowered  # noqa: B018  (errors in the user's code appear here)
            self._kept[key] = found
            if len(self._kept) > MOST_PROGRAMS:
                self._kept.popitem(last=False)
            return found


STAGES: Final = ("graph", "fusion", "kernels", "loops", "llvm", "asm", "time")
"""Channels that show programs being made: somebody who watches wants them made."""


def chooser(target: Target, count: int | None) -> Scheduler | None:
    """What chooses schedules where the user does not, for so many threads (None: as many as are
    used by default): None for the heuristic. The cost model is loaded only where something was
    measured or learned."""
    if not learned():
        return None
    with forks.importing:
        from tilewright.cost_model.deferred import Deferred

    return Deferred(target, count or threads.default_count())


def _disk_key(
    graph: Graph, canonical: str, target: Target, scheduler: Scheduler | None, options: Options
) -> str | None:
    """The key of a program's machine code on disk, None if it must not be kept there: checks are
    for programs that are made, ops of users may change without their print, and a scheduler is
    known by its `cache_key`, if it has one."""
    chosen = "heuristic" if scheduler is None else getattr(scheduler, "cache_key", None)
    if cache.store() is None or chosen is None or options.verify or not _own_ops(graph):
        return None
    return cache.key(canonical, target, chosen, options)


def _found(
    key: str | None, graph: Graph, canonical: str, target: Target
) -> tuple[cache.Entry, Code] | None:
    """What is on disk under a key, linked. What cannot be used is removed."""
    store = cache.store()
    if store is None or key is None or any(map(shown, STAGES)):
        return None
    entry = store.get(key)
    if entry is None:
        return None
    try:
        if entry.kept and max(entry.kept) >= len(constants(graph)):
            raise InternalError(f"the cached program reads arrays that {graph.name} has not")
        return entry, _linked(entry, jit.symbol(canonical), target)
    except InternalError as e:
        show("cache", e)
        store.discard(key)
        return None


def _own_ops(graph: Graph) -> bool:
    """Whether every op of a graph is one of this package."""
    classes = set()
    stack = [graph]
    while stack:
        for n in stack.pop().nodes:
            classes.add(type(n.op))
            stack += n.op.graphs.values()
    return all(c.__module__.startswith("tilewright.") for c in classes)


def machine() -> Target:
    """The machine this process runs on, with the LAPACK that its NumPy uses and our threads."""
    found = lapack.library()
    return _equipped(host(), None if found is None else found.offered, threads.available())


@functools.lru_cache(maxsize=4)
def _equipped(target: Target, offered: Lapack | None, pool: bool) -> Target:
    return replace(target, lapack=offered, pool=pool)


_programs: Final = Programs()
_compiling: Final = forks.Lock()


def run_graph(graph: Graph, arrays: Sequence[Any]) -> list[Any]:
    """Compile a graph, or find its program, and run it on arrays."""
    with _uncollected():
        program = _programs.get(graph, None, Options.default())
    inputs = [prepared(a, n.type.dtype) for a, n in zip(arrays, graph.inputs, strict=True)]
    held = program.captured(graph)
    captured = [*(prepared(a, a.dtype) for a in held), *program.prepared(held)]
    return [_result(o) for o in program.executable(inputs, captured)]


def _result(a: Any) -> Any:
    """Arrays without axes come back as NumPy scalars, as NumPy's own functions give them."""
    return a[()] if a.ndim == 0 else a


@dataclass
class Entry:
    """A call that was traced: its program, the arrays it captured, and the shape of its result."""

    call: Call
    traced: Traced
    program: Program
    captured: tuple[Any, ...]
    dtypes: tuple[np.dtype[Any], ...]
    runs: int = 0
    """How often Python has run it."""

    @forks.cached_property
    def prepared(self) -> tuple[Any, ...]:
        """What was computed ahead from the constants among the captured arrays."""
        return self.program.prepared(self.captured)

    def run(self, leaves: Sequence[Any]) -> Any:
        self.runs += 1
        inputs = [prepared(x, d) for x, d in zip(leaves, self.dtypes, strict=True)]
        captured = [prepared(a, a.dtype) for a in self.captured]
        results = self.program.executable(inputs, [*captured, *self.prepared])
        return self.traced.rebuild([_result(r) for r in results])

    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Seen:
        """This call as `runtime.dispatch` describes calls."""
        executable = self.program.executable
        return Seen(
            args,
            kwargs,
            self.call.structure,
            self.dtypes,
            (*self.captured, *self.prepared),
            executable.results,
            self.traced.structure,
            self.traced.slots,
            executable.loaded.address,
            executable.arena_bytes,
            is_long(self.traced.graph),
        )


@dispatch.fast_called
class Compiled:
    """A function that runs as one native program for each kind of arguments it meets.

    Calling it inside another traced function just traces through it.

    `__call__` can serve every call. Once a signature has come again, native code serves the calls
    that need no conversions (`runtime.dispatch`), with the same results.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        static: Collection[str | int] = (),
        scheduler: Scheduler | None = None,
        options: Options | None = None,
    ) -> None:
        if not callable(f):
            raise NotAFunction(f)
        functools.update_wrapper(self, f)
        self._f = f
        self._static = frozenset((static,) if isinstance(static, str) else static)
        _check_static(f, self._static)
        self._scheduler = scheduler
        self._options = options or Options.default()
        self._entries: dict[Any, Entry] = {}
        self._native = dispatch.Chain(self)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __reduce__(self) -> str:
        """As functions are: copies are the function itself, pickles name it."""
        return str(getattr(self, "__qualname__", repr(self)))

    def __repr__(self) -> str:
        return f"<compiled {tracing.name_of(self._f)}, {len(self._entries)} signatures>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if tracing.active():
            return self._f(*args, **kwargs)
        leaves, key = self._key(args, kwargs)
        entry = self._entries.get(key) or self._trace(key, args, kwargs)
        if self._native.is_due(entry.runs):
            self._native.add(entry.seen(args, kwargs))
        return entry.run(leaves)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """What the compiler makes for these arguments, at every stage, without running it."""
        _, key = self._key(args, kwargs)
        entry = self._entries.get(key) or self._trace(key, args, kwargs)
        return Lowered(tracing.name_of(self._f), entry)

    @property
    def signatures(self) -> tuple[str, ...]:
        """The kinds of arguments compiled so far."""
        return tuple(_signature(e.call) for e in self._entries.values())

    def clear_cache(self) -> None:
        """Forget the calls seen; programs stay in the shared cache."""
        self._entries.clear()
        self._native.clear()

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        if self._static:
            call, leaves = tracing.bind(self._f, args, kwargs, self._static)
            return leaves, call
        if not kwargs and all(type(a) is np.ndarray for a in args):
            return list(args), tuple([(a.dtype, a.shape) for a in args])  # no tree to walk
        leaves, structure = trees.flatten((args, kwargs))
        return leaves, (structure, tuple(map(_kind, leaves)))

    def _trace(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        call, _ = tracing.bind(self._f, args, kwargs, self._static)
        if self._entries:
            self._explain_miss(call)
        with _uncollected():
            traced = tracing.trace_call(self._f, call)
            program = _programs.get(traced.graph, self._scheduler, self._options)
        captured = program.captured(traced.graph)
        dtypes = tuple(a.type.dtype for a in call.arguments)
        entry = self._entries[key] = Entry(call, traced, program, captured, dtypes)
        return entry

    def _explain_miss(self, call: Call) -> None:
        """Say which argument is new, if the user asked (TILEWRIGHT_SHOW=cache)."""
        if not shown("cache"):
            return
        last = next(reversed(self._entries.values())).call
        name = tracing.name_of(self._f)
        if last.structure != call.structure:
            show(
                "cache",
                Recompilation(name, "arguments", repr(last.structure), repr(call.structure)),
            )
            return
        for label, a, b in zip(call.labels, last.arguments, call.arguments, strict=True):
            if a != b:
                show("cache", Recompilation(name, label, repr(a.type), repr(b.type)))


def _check_static(f: Callable[..., Any], static: frozenset[str | int]) -> None:
    """Static names and positions are the function's own."""
    if not static:
        return
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # not every built-in tells
        return
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return
    names = [p.name for p in parameters]
    for s in static:
        if s not in names and s not in range(len(names)):
            raise UnknownStatic(tracing.name_of(f), s, names)


def _kind(x: Any) -> Any:
    """What a leaf contributes to the key of a call."""
    kind = type(x)
    if kind is np.ndarray:
        return (x.dtype, x.shape)
    if isinstance(x, type):
        return (kind, x)
    if kind in PYTHON:
        return (kind, -(1 << 63) <= x < 1 << 63) if kind is int else kind
    dtype, shape = getattr(x, "dtype", None), getattr(x, "shape", None)
    return (kind, dtype, None if shape is None else tuple(shape))


def _signature(call: Call) -> str:
    return ", ".join(f"{n}: {a.type!r}" for n, a in zip(call.labels, call.arguments, strict=True))


@dataclass(frozen=True)
class Lowered:
    """One call's way through the compiler. Print any of the properties."""

    name: str
    entry: Entry = field(repr=False)

    @property
    def graph(self) -> Graph:
        """The graph as traced."""
        return self.entry.traced.graph

    @property
    def simplified(self) -> Graph:
        """The graph after the graph rewrites."""
        return self.entry.program.graph

    @property
    def kernels(self) -> tuple[kernels.Kernel, ...]:
        """The program's kernels, each distinct one once, in the order they first run."""
        return tuple(s.kernel for s in self.entry.program.assembly.kernels)

    @property
    def schedules(self) -> dict[str, Any]:
        """The schedule of each kernel, by the kernel's name."""
        return {s.kernel.name: s.schedule for s in self.entry.program.assembly.kernels}

    @property
    def loops(self) -> str:
        """The whole program as loops."""
        return loops.show_program(self.entry.program.assembly.program)

    @property
    def program(self) -> loops.Program:
        return self.entry.program.assembly.program

    @property
    def llvm(self) -> str:
        """LLVM IR text."""
        return self.entry.program.text

    @property
    def asm(self) -> str:
        """The machine's assembly."""
        return jit.assembly(self.entry.program.text, self.entry.program.target)

    @property
    def c(self) -> str:
        """The program as C99."""
        return c_source.print_program(self.entry.program.assembly.program)

    @property
    def threads(self) -> int:
        """The most threads a call uses."""
        return self.entry.program.options.threads or threads.default_count()

    @property
    def arena_bytes(self) -> int:
        """Bytes of planned memory one run needs besides inputs and results."""
        return self.entry.program.assembly.arena_bytes

    def on(self, target: str | Target) -> Lowered:
        """The same call as compiled for another machine, one of `tilewright.target.NAMED` or any
        `Target`: to look at, or to assemble, since this process may not be able to run it.

        **Raises:** `BadTarget` if a name is not known.
        """
        target = named(target) if isinstance(target, str) else target
        entry = self.entry
        own = getattr(entry.program.scheduler, "on", None)  # a choice is made for a machine
        scheduler = entry.program.scheduler if own is None else own(target)
        program = replace(entry.program, target=target, scheduler=scheduler, key=None, found=None)
        captured = program.captured(entry.traced.graph)
        return replace(self, entry=replace(entry, program=program, captured=captured))

    def explain(self, measure: bool = False) -> str:
        """Every value kept in memory, with the reason and the bytes, and what was fused; by which
        algorithm convolutions and attentions are computed, and which others there are; then for
        each kernel its schedule, as Python, what chose it, its times (predicted, measured if the
        user's database knows, and the least possible) and what came next, with the features that
        make the difference. `measure`: bounds at this machine's measured rates, which take half a
        second, rather than a usual one's."""
        before = pipeline.explain(self.entry.program.graph, self.entry.program.assembly)
        taken = self.algorithms()
        lines = [before, *(["algorithms:", *map(str, taken)] if taken else [])]
        lines += ["schedules:", *map(str, self.explained(measure))]
        first = self.entry.program.assembly.preparation
        if first is not None and first.kernels:
            lines.append("schedules of what is computed ahead, once for each set of constants:")
            lines += map(str, self.explained(measure, ahead=True))
        return "\n".join(lines)

    def algorithms(self) -> list[Algorithm]:
        """What `explain` prints of the convolutions and attentions that have several algorithms."""
        with forks.importing:
            from tilewright.cost_model import explaining

        p = self.entry.program
        return explaining.algorithms(self.graph, p.options, p.scheduler, p.target, self.threads)

    def explained(self, measure: bool = False, ahead: bool = False) -> list[Explanation]:
        """What `explain` prints of each kernel's schedule, times in seconds; `ahead`: of the
        kernels that compute once what depends on constants only, rather than those of a call."""
        with forks.importing:
            from tilewright.cost_model import explaining

        p, count = self.entry.program, self.threads
        rates = rooflines.measured(count) if measure else None
        made = p.assembly.kernels
        if ahead:
            first = p.assembly.preparation
            made = () if first is None else first.kernels
        chosen = [(s.kernel, s.schedule) for s in made]
        return explaining.explained(chosen, p.scheduler, p.target, count, rates)

    def roofline(self, threads: int | None = None) -> rooflines.Roofline:
        """The least time each kernel can take on this machine, measured on as many threads (those
        a program uses by default): its operations, its bytes and which of them bounds it."""
        return rooflines.of(self.kernels, threads)


@overload
def compile(f: Callable[..., Any], /) -> Compiled: ...


@overload
def compile(
    f: None = None,
    /,
    *,
    static: Collection[str | int] = (),
    scheduler: Scheduler | None = None,
    threads: int | None = None,
    options: Options | None = None,
) -> Callable[[Callable[..., Any]], Compiled]: ...


def compile(
    f: Callable[..., Any] | None = None,
    /,
    *,
    static: Collection[str | int] = (),
    scheduler: Scheduler | None = None,
    threads: int | None = None,
    options: Options | None = None,
) -> Any:
    """Make a NumPy function run as one native program.

    `f` takes and returns trees (tuples, lists, dicts, dataclasses, None) of arrays and numbers. It
    is traced once for each combination of tree structure, shapes and dtypes, and then runs
    compiled: `compile(f)(*args)` equals `f(*args)` in shapes, dtypes and, up to rounding, values.

    **Arguments:** `static`: names or positions of parameters that are ordinary Python values and
    part of the signature (they must be hashable). `scheduler`: a function from a Kernel to its
    Schedule, instead of the heuristic. `threads`: the most threads a call uses (`tw.threads`
    limits single calls). `options`: see `Options`.

    **Raises:** the errors of `tilewright.errors`, each naming the user's line.
    """
    if threads is not None:
        options = replace(options or Options.default(), threads=threads)
    if f is None:
        return functools.partial(Compiled, static=static, scheduler=scheduler, options=options)
    return Compiled(f, static, scheduler, options)
