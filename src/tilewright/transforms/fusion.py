"""Fusion: which nodes are kept in memory, and why; which of them are computed in one kernel.

Knows the classes of the TVM paper (injective, reduction, complex-out-fusable = `contraction`,
opaque), extended by rows: a reduction, its broadcast back and what follows share a row axis and
become one kernel (softmax, layernorm), and by siblings: several results over one space. Refuses to
know schedules. A node that is not kept is inlined into its readers.

The decision for a node looks at three things: its *sinks* (how many different elements of kept
nodes evaluate it), how often a sink re-reads one of its elements, and what recomputing it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tilewright import dtypes
from tilewright.expr import (
    Apply,
    Axis,
    Buffer,
    Expr,
    Load,
    Reduce,
    depends,
    is_static,
    literal,
    load,
    loads_in,
    product,
    reductions_in,
    select,
    static,
    substitute,
    walk,
)
from tilewright.graph import Graph, Input, Node, Pick, users
from tilewright.kernel import Assign, Kernel
from tilewright.ops import elementwise as el
from tilewright.ops.elementwise import Elementwise
from tilewright.ops.shape import (
    Broadcast,
    Cast,
    Concatenate,
    Fill,
    Flip,
    Pad,
    Reduction,
    Reshape,
    Slice,
    Transpose,
)
from tilewright.target import STREAM_ALIGN, STREAM_BYTES
from tilewright.transforms.index_rules import simplify
from tilewright.transforms.lowering import Lowering, axes_for, is_few, joined, position, written_out
from tilewright.transforms.simplify import is_widening

DEAR: Final = 8
"""Recomputing an element of this cost (in multiply-adds) is worth a store and a load."""
OFTEN: Final = 256
"""How often a contraction reads an element from which on one operation on it is worth keeping."""
MOST_OPS: Final = 96
"""Operations one kernel's expression may hold: keeps compile time linear in the program."""
MOST_GROUPED: Final = 256
"""Operations of all assignments of one kernel together, for the same reason."""
MOST_SINKS: Final = 8
STREAMED_BYTES: Final = 16 * 1024
"""What a row may read that every other row reads too: beyond half the first-level cache, it is
better to reuse each load for several rows, in a kernel of its own."""
NEAR: Final = 9
"""A node joins one of so many steps before it: the search is linear in the program."""
ROW_BYTES: Final = 512 * 1024
"""What one kernel writes in a row, of its own or as results: it should stay in the second-level
cache, and what is its own on a thread's stack."""
FAR_BYTES: Final = 1 << 20
"""Results from that size on are in memory before they are written, not in the nearest caches."""

SUMS: Final = ("reduction", "contraction")
READ_OFTEN: Final = "each of its elements is read many times"

ONCE, ROW, MANY = 0, 1, 2
"""How often a sink reads one element: once; again along inner axes only (so the value can be
computed before the inner loop); or again along outer axes."""

UNREDUCED, PLAIN, OTHER = 1, 2, 4
"""What reduces a node on the way to its sinks, one or several of: nothing; plain reductions, each
of whose terms is evaluated once; others."""
AGAIN: Final = 64
"""Scalar work of an element that is done again for a second reduction rather than kept, where an
array of it would be much larger than all that it is made of."""
GROWN: Final = 2
"""How many times larger that is."""


@dataclass(frozen=True)
class Edge:
    """Why a node is not inlined, which nodes read it, and the bytes it takes in memory (0 if it
    stays in the registers or the row buffer of the one kernel that computes and reads it)."""

    node: Node
    reason: str
    readers: tuple[Node, ...]
    kernel: str
    nbytes: int


def is_opaque(node: Node) -> bool:
    opaque = node.op.is_opaque(*(a.type for a in node.args))
    return opaque or isinstance(node.type, tuple) or bool(node.op.graphs)


def cost(node: Node) -> int:
    """Scalar work of one element, in multiply-adds."""
    op = node.op
    if op == el.power and isinstance(node.args[1].op, Fill):
        return DEAR  # most literal exponents are a few products, a quotient and a root
    if isinstance(op, Elementwise):
        return op.row.cost
    if isinstance(op, (Reshape, Transpose, Slice, Flip, Broadcast)) or not node.args:
        return 0
    return 1 if isinstance(op, Cast) else 2 * len(node.args)


def keep(graph: Graph) -> dict[Node, str]:
    """The nodes to keep in memory, in topological order, each with the reason."""
    nodes = [n for n in graph.nodes if not isinstance(n.op, Input)]
    readers = users(graph)
    outputs = set(graph.outputs)
    forced: dict[Node, str] = {}
    for n in nodes:
        if n in outputs:
            forced[n] = "it is a result"
        elif is_opaque(n):
            forced[n] = f"{n.op.name} is opaque"
        elif isinstance(n.op, Pick) or any(is_opaque(u) for u in readers[n]):
            forced[n] = (
                f"{readers[n][0].op.name if readers[n] else 'an opaque op'} reads it from memory"
            )
    kept = _kept(nodes, readers, forced)
    often = [n for n, r in kept.items() if r is READ_OFTEN and n.op.fusion not in SUMS]
    reach = _reach(nodes, readers, kept) if often else {}
    # What only other kept nodes read, once, was taken to be read as often as these are.
    passed = {n for n in often if reach[n][1] == ONCE}
    forced = {n: r for n, r in kept.items() if n not in passed}
    return _kept(nodes, readers, forced) if passed else kept


def _kept(
    nodes: list[Node], readers: dict[Node, list[Node]], forced: dict[Node, str]
) -> dict[Node, str]:
    """What is kept for its readers' sake beside what is `forced`, as if nothing else were."""
    reach = _reach(nodes, readers, forced)
    kept: dict[Node, str] = {}
    weight: dict[Node, int] = {}
    size: dict[Node, int] = {}
    for n in nodes:
        inlined = [a for a in dict.fromkeys(n.args) if a in weight]
        terms = _few_terms(n) or 1
        weight[n] = min(terms * (cost(n) + sum(weight[a] for a in inlined)), 1 << 20)
        size[n] = 1 + sum(size[a] for a in inlined)
        beyond = _beyond(n, readers)
        sinks, rereads, reduced = reach[n]
        if rereads == MANY and _passed_on(n, readers[n]):
            rereads = ONCE
        if sinks > 1 and reduced == PLAIN and rereads != MANY and _done_again(n, weight, sinks):
            sinks = 1
        reason = forced.get(n) or _reason(n, weight[n], size[n], sinks, rereads, reduced, beyond)
        if reason is not None:
            kept[n] = reason
            del weight[n], size[n]
    return kept


def _reason(
    n: Node, weight: int, size: int, sinks: int, rereads: int, reduced: int, readers: list[Node]
) -> str | None:
    few = _few_terms(n) > 0 and reduced == PLAIN and sinks == 1 and rereads != MANY
    if n.op.fusion in SUMS and not few:
        if sinks > 1:
            return "several readers would each reduce again"
        if rereads != ONCE:
            return READ_OFTEN
        return "a reduction reads it" if reduced & (PLAIN | OTHER) else None
    if not n.args:
        return None
    if size > MOST_OPS:
        return f"the kernel would hold more than {MOST_OPS} operations"
    if isinstance(n.op, Concatenate) and len(n.args) > 2:
        return "its pieces are written separately"
    if sinks > 1 and weight >= DEAR:
        return f"{sinks} readers would each recompute it"
    often = not is_widening(n) and _often(n, readers)
    dear = 1 if often else 2 if _contracted(readers) else DEAR
    if rereads == MANY and weight >= dear:
        return READ_OFTEN
    return None


def _few_terms(n: Node) -> int:
    """The terms of a reduction that are so few that another reduction may compute them, or 0."""
    if not isinstance(n.op, Reduction):
        return 0
    extents = [n.args[0].type.shape[d] for d in n.op.axes]
    return static(product(extents)) if is_few(extents) else 0


def _done_again(n: Node, inlined: Mapping[Node, int], sinks: int) -> bool:
    """Whether to compute a node, of all pairs of what some arrays hold, once for each sink: it is
    much larger than they are, and no great work. `inlined` are the nodes that are not kept."""
    if not is_static(n.type.size):
        return False
    seen, stack, read, work = {n}, [n], 0, 0
    while stack:
        at = stack.pop()
        work += cost(at) * (_few_terms(at) or 1)
        for a in at.args:
            if a in seen or isinstance(a.op, Fill):
                continue
            seen.add(a)
            if a in inlined:
                stack.append(a)
            elif isinstance(a.type, tuple) or not is_static(a.type.size):
                return False
            else:
                read += static(a.type.size)
    return work * (sinks - 1) <= AGAIN and static(n.type.size) >= GROWN * read


def _beyond(n: Node, readers: dict[Node, list[Node]]) -> list[Node]:
    """The readers of a node; for one that only widens it, that one's readers: it is the narrow
    value that is worth keeping."""
    found = (readers[u] if is_widening(u) else [u] for u in readers[n])
    return [u for some in found for u in some]


def _passed_on(n: Node, readers: Sequence[Node]) -> bool:
    """Whether it is another node, made of this one element by element, that is read many times: no
    less costly, it will be kept instead."""
    return all(
        isinstance(u.op, (Elementwise, Broadcast)) and u.type.size == n.type.size for u in readers
    )


def _often(n: Node, readers: Sequence[Node]) -> bool:
    """Whether a contraction reads each element so often that a single operation is worth keeping:
    it would stand beside the multiplications. Of a [m, k] times [k, n] it is n times."""
    for u in readers:
        if u.op.fusion != "contraction" or len(u.args) != 2:
            continue
        other = u.args[1] if u.args[0] is n else u.args[0]
        sizes = [x.type.size for x in (other, u, n)]
        if not all(map(is_static, sizes)):
            continue
        others, results, own = map(static, sizes)
        if others * results >= OFTEN**2 * max(own, 1):
            return True
    return False


def _contracted(readers: Sequence[Node]) -> bool:
    return any(
        u.op.fusion == "contraction"
        or isinstance(u.op, (Reshape, Transpose, Broadcast, Slice, Pad))
        for u in readers
    )


def _reach(
    nodes: list[Node], readers: dict[Node, list[Node]], forced: dict[Node, str]
) -> dict[Node, tuple[int, int, int]]:
    """For each node: how many sinks evaluate it, how often one re-reads it, and through what
    reductions. Assumes everything that is not forced into memory is inlined."""
    sinks: dict[Node, frozenset[tuple[Node, ...]]] = {}
    rereads: dict[Node, int] = {}
    reduced: dict[Node, int] = {}
    for n in reversed(nodes):
        found: set[tuple[Node, ...]] = set()
        again, under = ONCE, 0
        for u in dict.fromkeys(readers[n]):
            moves = not isinstance(u.op, (Elementwise, Cast))
            reduces = u.op.fusion in SUMS
            ends = u in forced or reduces
            onward = frozenset([(u,)]) if ends else sinks[u]
            found |= {(u, *s) if moves and not ends else s for s in onward}
            again = max(again, _edge(u, n), ONCE if ends else rereads[u])
            through = PLAIN if isinstance(u.op, Reduction) else OTHER if reduces else UNREDUCED
            under |= through if ends else reduced[u]
        if n in forced:
            found.add((n,))
        sinks[n] = frozenset(sorted(found, key=len)[:MOST_SINKS])
        rereads[n], reduced[n] = again, under
    return {n: (len(sinks[n]), rereads[n], reduced[n]) for n in nodes}


def _edge(user: Node, n: Node) -> int:
    """How often `user` itself re-reads an element of `n`."""
    op = user.op
    if isinstance(op, Broadcast):
        repeated = [d for d in op.new_axes if op.shape[d] != 1]
        inner = all(d > max(op.axes, default=-1) for d in repeated)
        return ONCE if not repeated else ROW if inner else MANY
    if op.fusion == "contraction" or isinstance(op, Concatenate):
        return MANY
    plain = isinstance(op, (Elementwise, Cast, Reshape, Transpose, Slice, Flip, Pad))
    return ONCE if plain or op.fusion == "reduction" else MANY


# -- kernels -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Group:
    """Kept nodes that will be one kernel: the shared row axes and the assignments so far, the
    buffers they write and read, and how many operations they are."""

    rows: tuple[Axis, ...]
    body: list[Assign] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    made: set[Buffer] = field(default_factory=set)
    read: set[Buffer] = field(default_factory=set)
    size: int = 0


Step = Group | Node
"""A kernel, or an opaque node run on its own."""


def group(
    graph: Graph,
    kept: dict[Node, str],
    buffers: dict[Node, Buffer],
    results: dict[Node, list[Buffer]],
) -> list[Step]:
    """Lower every kept node and put those that share rows into one group, in execution order."""
    lowering = Lowering(buffers)
    order = _Order(buffers, results)
    for n in kept:
        if isinstance(n.op, Pick):
            continue
        if is_opaque(n):
            order.append(n)
            continue
        axes, assigns = _assigns(n, buffers[n], lowering)
        loads, size = _contents(assigns)
        home = order.home(axes, assigns, loads, size)
        if home is None:
            home = Group(axes)
            order.append(home)
        _join(home, n, axes, assigns, loads, size)
        order.made_by[buffers[n]] = order.steps.index(home, -NEAR)
    return order.steps


def _assigns(n: Node, buffer: Buffer, lowering: Lowering) -> tuple[tuple[Axis, ...], list[Assign]]:
    """The assignments that fill the node's buffer, over fresh axes."""
    pieces = n.op.pieces([lowering.view(a, None) for a in n.args]) if len(n.args) > 1 else None
    if pieces is not None:
        assigns = []
        for shape, place, element in pieces:
            own = axes_for(shape)
            *index, value = simplify([*place(position(own)), element(position(own))])
            assigns.append(Assign(buffer, tuple(index), own, value))
        return (), assigns
    axes = axes_for(n.type.shape)
    (value,) = simplify([joined(written_out(lowering.compute(n, position(axes))))])
    return axes, [Assign(buffer, position(axes), (), value)]


class _Order:
    """The steps so far in execution order, and the place of the step that makes each buffer."""

    def __init__(self, buffers: dict[Node, Buffer], results: dict[Node, list[Buffer]]) -> None:
        self.steps: list[Step] = []
        self.made_by: dict[Buffer, int] = {}
        self.buffers = buffers
        self.results = results

    def append(self, step: Step) -> None:
        self.made_by.update(dict.fromkeys(self.made(step), len(self.steps)))
        self.steps.append(step)

    def made(self, step: Step) -> Iterable[Buffer]:
        return step.made if isinstance(step, Group) else self.results[step]

    def read(self, step: Step) -> Iterable[Buffer]:
        return step.read if isinstance(step, Group) else (self.buffers[a] for a in step.args)

    def home(
        self, axes: tuple[Axis, ...], assigns: list[Assign], loads: list[Load], size: int
    ) -> Group | None:
        """The near group the assignments, of `size` operations, can join: all their `loads` read
        is made there or before. A group that makes some of it may have to run later for that."""
        if len(assigns) != 1 or not axes:
            return None
        latest = max((self.made_by.get(e.buffer, -1) for e in loads), default=-1)
        oldest = max(len(self.steps) - NEAR, 0)
        near = range(len(self.steps) - 1, oldest - 1, -1)
        for k in sorted(near, key=lambda k: (k < latest, k != latest)):
            g = self.steps[k]
            if not isinstance(g, Group) or g.size + size > MOST_GROUPED:
                continue
            reads_it = any(e.buffer in g.made for e in loads)
            if (k < latest and not reads_it) or not _fits(g, axes, assigns[0], loads, reads_it):
                continue
            if k >= latest or self.postponed(k, latest):
                return g
        return None

    def postponed(self, k: int, after: int) -> bool:
        """Move the group at `k` behind the step `after`, if nothing on the way reads it."""
        g = self.steps[k]
        made = set(self.made(g))
        between = self.steps[k + 1 : after + 1]
        if any(b in made for step in between for b in self.read(step)):
            return False
        self.steps[k : after + 1] = [*between, g]
        for at in range(k, after + 1):
            self.made_by.update(dict.fromkeys(self.made(self.steps[at]), at))
        return True


def _fits(
    g: Group, axes: tuple[Axis, ...], assign: Assign, loads: list[Load], reads_it: bool
) -> bool:
    r = _common_rows(g, axes, loads)
    if r == 0:
        return False
    full = len(axes) == len(g.rows) == r and not any(a.axes for a in g.body)
    if full:
        return reads_it or not loads or any(e.buffer in g.read for e in loads)
    if not reads_it:
        return False
    streamed = _streamed(assign, axes[:r]) + sum(_streamed(a, g.rows[:r]) for a in g.body)
    if streamed > STREAMED_BYTES:
        return False
    written = {assign.buffer, *(a.buffer for a in g.body)}
    inner = [(product(b.shape[r:]), b.dtype.itemsize) for b in written]
    return sum(static(n) * size for n, size in inner if is_static(n)) <= ROW_BYTES


def _streamed(a: Assign, rows: Sequence[Axis]) -> int:
    """Bytes a reduction reads again for every row: a matrix each of them is multiplied with."""
    last = next((x for x in reversed(rows) if x.extent != 1), None)
    total = 0
    for e in loads_in(*(r.body for r in reductions_in(a.value))):
        axes = {x for x in walk(*e.index) if isinstance(x, Axis) and x.serial in e.free}
        if last not in axes:
            extents = [x.extent for x in axes if x not in rows and is_static(x.extent)]
            total += static(product(extents)) * e.buffer.dtype.itemsize
    return total


def _contents(assigns: Sequence[Assign]) -> tuple[list[Load], int]:
    """The loads of some assignments, and how many operations they do."""
    found = walk(*(a.value for a in assigns))
    size = sum(isinstance(e, (Apply, Reduce)) for e in found)
    return [e for e in found if isinstance(e, Load)], size


def _common_rows(g: Group, axes: tuple[Axis, ...], loads: list[Load]) -> int:
    """Leading axes the newcomer shares with the group: equal extents, and every load of the
    group's results stays in its own row."""
    r = min(len(axes), len(g.rows))
    for d in range(r):
        if axes[d].extent != g.rows[d].extent:
            r = d
            break
    at = position(axes)
    for e in loads:
        if e.buffer in g.made:
            same = 0
            while same < min(r, len(e.index)) and e.index[same] is at[same]:
                same += 1
            r = min(r, same)
    # Rows of one point are no rows at all.
    return r if any(a.extent != 1 for a in axes[:r]) else 0


def _join(
    g: Group,
    n: Node,
    axes: tuple[Axis, ...],
    assigns: list[Assign],
    loads: list[Load],
    size: int,
) -> None:
    """Add a node; a first one brings its axes as the rows."""
    r = _common_rows(g, axes, loads) if g.nodes else len(axes)
    if r < len(g.rows):  # the rows shrink: what was shared becomes the members' own
        lost = g.rows[r:]
        g.body = [Assign(a.buffer, a.index, (*_used(lost, a), *a.axes), a.value) for a in g.body]
        g.rows = g.rows[:r]
    env: dict[Expr, Expr] = {} if axes[:r] == g.rows else dict(zip(axes[:r], g.rows, strict=True))
    for a in assigns:
        *index, value = substitute([*a.index, a.value], env)
        g.body.append(Assign(a.buffer, tuple(index), (*axes[r:], *a.axes), value))
    g.nodes.append(n)
    g.made.update(a.buffer for a in assigns)
    g.read.update(e.buffer for e in loads)
    g.size += size


def _used(lost: Sequence[Axis], a: Assign) -> tuple[Axis, ...]:
    """Of the former shared axes those the assignment ranges over."""
    rank = len(a.buffer.shape)
    return tuple(lost) if rank >= len(lost) else ()


def finish(g: Group, name: str, needed: frozenset[Buffer]) -> Kernel:
    """The kernel of a group: values that stay inside become stack buffers or plain expressions.

    `needed` are the buffers that are read outside the group.
    """
    rows = position(g.rows)
    r = len(rows)
    body: list[Assign] = []
    local: dict[Buffer, Buffer] = {}
    forwarded: dict[Buffer, Expr] = {}
    for a in g.body:
        value = _localise(a.value, rows, local, forwarded)
        if a.index[:r] == rows and all(x.extent == 1 for x in a.axes):  # one element per row
            forwarded[a.buffer] = value
            if a.buffer in needed:
                body.append(Assign(a.buffer, a.index, (), value))
            continue
        if a.buffer in needed:
            body.append(Assign(a.buffer, a.index, a.axes, value))
            continue
        if a.buffer not in local:
            b = a.buffer
            local[b] = Buffer(b.name, b.dtype, b.shape[r:], "stack")
        # Inside a row lanes go along the row, not along the few terms of each of its elements.
        (value,) = simplify([written_out(value, a.axes)])
        body.append(Assign(local[a.buffer], a.index[r:], a.axes, value))
    axes = tuple(a for a in g.rows if a.extent != 1)
    # Over no points nothing is done, nor is what does not change over them computed beforehand.
    body = [
        Assign(a.buffer, a.index, tuple(x for x in a.axes if x.extent != 1), a.value)
        for a in body
        if not any(x.extent == 0 for x in a.axes)
    ]
    sources = tuple(dict.fromkeys(n.source for n in g.nodes if n.source is not None))
    return Kernel(name, axes, tuple(_hosted(body, rows)), sources)


def _hosted(body: list[Assign], rows: tuple[Expr, ...]) -> list[Assign]:
    """The assignments with rows of the kernel's own in the large results that take their places:
    a result's lines come from memory while a row is computed, not after that."""
    for row in dict.fromkeys(a.buffer for a in body if a.buffer.scope == "stack"):
        loads = {a: _reads(a.value, row) for a in body}
        last = next((a for a in reversed(body) if loads[a]), None)
        if last is None:  # nobody reads where there is no row, or where all its readers are cut off
            continue
        at, host = body.index(last), last.buffer
        # One place of two values at two times: only the assignments between know the first.
        if any(a.buffer is host for a in body[:at]) or any(_reads(a.value, host) for a in body):
            continue
        if not _hosts(last, row, rows):
            continue
        host.scope = "temp"  # it is read again, so no store may pass by the caches
        env: dict[Expr, Expr] = {
            e: load(host, (*rows, *e.index), e.guard) for found in loads.values() for e in found
        }
        values = substitute([a.value for a in body], env)
        places = [(host, (*rows, *a.index)) if a.buffer is row else (a.buffer, a.index)
                  for a in body]  # fmt: skip
        body = [Assign(*to, a.axes, v) for a, to, v in zip(body, places, values, strict=True)]
    return body


def _hosts(last: Assign, row: Buffer, rows: tuple[Expr, ...]) -> bool:
    """Whether the last reader of a row writes a large result of its type, each element made of the
    row's in the same place and of reductions, which are done before."""
    b, r = last.buffer, len(rows)
    if b.dtype != row.dtype or b.shape[r:] != row.shape or last.index[:r] != rows:
        return False
    if b.scope == "stack" or not is_static(b.size) or b.nbytes < FAR_BYTES:
        return False
    whole_lines = row.nbytes % STREAM_ALIGN == 0
    if b.scope == "output" and b.nbytes >= STREAM_BYTES and whole_lines:
        return False
    done = [e for e in reductions_in(last.value) if not depends(e, last.axes)]
    (rest,) = substitute([last.value], {e: literal(0, e.type) for e in done})
    here = load(row, last.index[r:])
    return all(e is here for e in _reads(rest, row))


def _reads(root: Expr, b: Buffer) -> list[Load]:
    """The loads of a buffer."""
    return [e for e in loads_in(root) if e.buffer is b]


def _localise(
    root: Expr, rows: tuple[Expr, ...], local: dict[Buffer, Buffer], forwarded: dict[Buffer, Expr]
) -> Expr:
    """Loads of the group's own values: from their row's stack buffer, or the value itself."""
    env: dict[Expr, Expr] = {}
    for e in loads_in(root) if local or forwarded else ():
        if e.buffer in forwarded and e.index[: len(rows)] == rows:
            value = forwarded[e.buffer]
            real = e.guard is not None and not dtypes.is_complex(e.type)
            # Where the guard is false a load is zero; complex zeros are chosen around the load.
            env[e] = select(e.guard, value, literal(0, e.type)) if real else value  # type: ignore[arg-type]
        elif e.buffer in local:
            index = substitute(e.index[len(rows) :], env)
            env[e] = Load(local[e.buffer], tuple(index), e.guard)
    return substitute([root], env)[0]
