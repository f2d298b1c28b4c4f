"""The loops of attention and of its gradient, from the tiles of `attention_tiles.py`.

Knows in which order blocks of queries meet blocks of keys, what is kept of them, and how few
queries (decoding) are served. Refuses to know which arrays they are: operands name their axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tilewright import dtypes
from tilewright.dtypes import DType
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    apply,
    as_index,
    axis,
    cast,
    eq,
    index,
    literal,
    select,
    static,
    var,
)
from tilewright.loops import Accumulate, Alloc, Block, Flip, Let, Stmt, loop, store
from tilewright.ops.attention_blocks import SCAN, VECTOR_BYTES, Blocks
from tilewright.ops.attention_tiles import (
    Columns,
    Operand,
    Queries,
    Step,
    ceiling,
    exp,
    larger,
    least,
    over_keys,
    parallel,
    started,
    tile,
    times,
)
from tilewright.ops.nests import Cell, minus, plus, vectors


@dataclass(frozen=True)
class Problem:
    """An attention: its arrays, the letters that make heads, and the type it computes in."""

    query: Operand
    key: Operand
    value: Operand
    steps: tuple[Step, ...]
    scale: float
    heads: tuple[str, ...]
    dtype: DType
    blocks: Blocks

    def size(self, letter: str) -> int:
        return self.query.sizes[letter]

    def queries(self, place: dict[str, Expr], start: Expr) -> tuple[list[Stmt], Queries]:
        """The block of queries from `start` on at one place."""
        operands = [self.query, self.key, self.value, *(s.operand for s in self.steps)]
        lets, (q, k, v, *rest) = started(place, operands)
        assert q is not None and k is not None and v is not None
        steps = tuple(replace(s, operand=o) for s, o in zip(self.steps, rest, strict=True))
        queries = Queries(q, k, v, steps, start, self.scale, self.dtype, self.blocks)
        return lets, queries.scanning()

    @property
    def shape(self) -> Queries:
        """A block of queries somewhere."""
        return Queries(
            self.query, self.key, self.value, self.steps, as_index(0), self.scale, self.dtype,
            self.blocks,
        )  # fmt: skip

    def places(self, letters: Sequence[str]) -> list[tuple[str, int]]:
        return [(a, self.size(a)) for a in letters]


# -- forward -----------------------------------------------------------------------------------


def attention(p: Problem, out: Operand) -> Stmt:
    """out = softmax(query key * scale, stepped) value."""
    if not p.blocks.vectors:
        return few(p, out)
    blocks = -(-p.size("t") // p.shape.width)

    def body(place: dict[str, Expr]) -> Sequence[Stmt]:
        start = times(place.pop("t"), p.shape.width)
        lets, q = p.queries(place, start)
        let, there = out.started(place)
        return [*lets, let, *_forward(q, there)]

    return parallel([*p.places(p.heads), ("t", blocks)], body)


def _forward(q: Queries, out: Operand) -> list[Stmt]:
    size = min(q.blocks.keys, q.sizes["s"])
    turned, turn = q.turned(q.query, "d", q.scale)
    scores = q.scores("scores", size)
    total, top, shift, share = (q.line(name) for name in ("total", "top", "shift", "share"))
    sums = _sums(q, q.width, "e")
    low, high = Cell("low"), Cell("high")

    def keys(first: Expr, n: Expr) -> list[Stmt]:
        return [
            q.against(turned, q.key, "d", first, n, scores),
            *q.stepped(scores, first, n),
            *_softmax(q, scores, n, top, shift, share, total),
            *_weighted(q, scores, q.value, "e", first, n, sums, share),
        ]

    pass_over = [
        *q.each(lambda j, x: store(top, (q.lane(j, x),), q.number(-math.inf))),
        *q.each(lambda j, x: store(total, (q.lane(j, x),), q.number(0))),
        _cleared(q, sums),
        over_keys(low, high, size, keys),
    ]
    memory = (Alloc(b) for b in (scores, total, top, shift, share, sums))
    return [
        *turn, *memory, *q.seen(low, high), *q.until_exact(low, high, top, pass_over),
        *_written(q, out, sums, total),
    ]  # fmt: skip


def _sums(q: Queries, rows: int, letter: str) -> Buffer:
    """Sums for each of some queries; two at least, for one alone would be no vector's."""
    return Buffer("sums", q.dtype, (rows, max(q.sizes[letter], 2)), "stack")


def _cleared(q: Queries, sums: Buffer) -> Stmt:
    t, zero = axis("t", sums.shape[0]), q.number(0)
    body: list[Stmt] = []
    for c in Columns.of(static(sums.shape[1]), q.lanes):

        def columns(at: Expr, c: Columns = c) -> list[Stmt]:
            return c.each(q.lanes, lambda j, x: store(sums, (t, plus(at, q.lane(j, x))), zero))

        body.append(c.repeated(q.lanes, columns))
    return loop(t, *body)


def _softmax(
    q: Queries, scores: Buffer, n: Expr, top: Buffer, shift: Buffer, share: Buffer, total: Buffer
) -> list[Stmt]:
    """Scores become exp(score - shift), where `shift` is the largest so far; `share` is what
    earlier sums are to be multiplied by, `total` the running sum."""

    def moved(j: Expr, x: Axis) -> Stmt:
        at = (q.lane(j, x),)
        zero, low = q.number(0), q.number(-math.inf)
        return store(shift, at, select(eq(top[at], low), zero, top[at]))

    kept = q.line("kept")
    lines = [
        Alloc(kept),
        *q.each(lambda j, x: store(kept, (q.lane(j, x),), top[q.lane(j, x)])),
        *q.peak(scores, n, top),
        *q.each(moved),
        *q.each(lambda j, x: store(
            share, (q.lane(j, x),), exp(kept[q.lane(j, x)] - shift[q.lane(j, x)]))),
    ]  # fmt: skip
    s, acc, by = axis("s", n), q.register("acc"), q.register("by")
    row = plus(s, q.rows)

    def weigh(j: Expr, x: Axis) -> Stmt:
        at = (row, q.lane(j, x))
        weight = var("weight", q.dtype)
        return Block((
            Let(weight, exp(scores[at] - by[j, x])),
            store(scores, at, weight),
            Accumulate(acc, (j, x), "sum", weight),
        ))  # fmt: skip

    return [
        *lines, Alloc(acc), Alloc(by),
        *q.each(lambda j, x: store(by, (j, x), shift[q.lane(j, x)])),
        *q.each(lambda j, x: store(
            acc, (j, x), total[q.lane(j, x)] * share[q.lane(j, x)])),
        loop(s, *q.each(weigh)),
        *q.each(lambda j, x: store(total, (q.lane(j, x),), acc[j, x])),
    ]  # fmt: skip


def _weighted(
    q: Queries, weights: Buffer, values: Operand, letter: str, first: Expr, n: Expr, sums: Buffer,
    share: Buffer | None,
) -> list[Stmt]:  # fmt: skip
    """sums[t, letter] = share * sums + the sum of weights[s, t] values[s, letter]."""
    out: list[Stmt] = []
    for c in Columns.of(q.sizes[letter], q.lanes):
        rows = math.gcd(c.rows, q.width)

        def columns(at: Expr, c: Columns = c, rows: int = rows) -> list[Stmt]:
            b = axis("b", q.width // rows)

            def left(r: Expr, k: Expr) -> Expr:
                return weights[plus(k, q.rows), plus(times(b, rows), r)]

            def right(k: Expr, j: Expr, x: Expr) -> Expr:
                place = {"s": plus(first, k), letter: plus(at, q.lane(j, x))}
                return cast(values.at(place), q.dtype)

            def write(r: Expr, j: Expr, x: Axis, value: Expr) -> Stmt:
                t = plus(times(b, rows), r)
                place = (t, plus(at, q.lane(j, x)))
                old = sums[place] if share is None else sums[place] * share[t]
                return store(sums, place, old + value)

            return [loop(b, tile(rows, c, q.lanes, axis("k", n), left, right, write))]

        out.append(c.repeated(q.lanes, columns))
    return out


def _written(q: Queries, out: Operand, sums: Buffer, total: Buffer) -> list[Stmt]:
    """The sums over the totals, as results."""
    t = axis("t", q.present)
    body: list[Stmt] = []
    for c in Columns.of(q.sizes["e"], q.lanes):

        def columns(at: Expr, c: Columns = c) -> list[Stmt]:
            def write(j: Expr, x: Axis) -> Stmt:
                e = plus(at, q.lane(j, x))
                where = out.offset({"t": plus(q.start, t), "e": e})
                value = cast(sums[t, e] / total[t], out.buffer.dtype)
                return store(out.buffer, (where,), value)

            return c.each(q.lanes, write)

        body.append(c.repeated(q.lanes, columns))
    return [loop(t, *body)]


# -- few queries -------------------------------------------------------------------------------


def few(p: Problem, out: Operand) -> Stmt:
    """Attention of so few queries that keys and values are read once, in the order they stand."""

    def body(place: dict[str, Expr]) -> Sequence[Stmt]:
        lets, q = p.queries(place, as_index(0))
        let, there = out.started(place)
        return [*lets, let, *_few(_Few(q), there)]

    return parallel(p.places(p.heads), body)


@dataclass(frozen=True)
class _Few:
    """A few queries in rows, the scores of a block of keys in lanes."""

    q: Queries

    @property
    def rows(self) -> int:
        return self.q.sizes["t"]

    @property
    def lanes(self) -> int:
        return self.q.lanes

    def line(self, name: str) -> Buffer:
        return Buffer(name, self.q.dtype, (self.rows,), "stack")

    def vectors(self, n: Expr, body: Callable[[Expr, Axis], Sequence[Stmt]]) -> Stmt:
        """`body(s, lane)` for n keys, by whole vectors."""
        c, x = axis("c", ceiling(n, self.lanes)), axis("x", self.lanes)
        s = plus(times(c, self.lanes), x)
        return loop(c, loop(x, *body(s, x), kind="vector", lanes=self.lanes))

    def there(self, s: Expr) -> Expr | None:
        """Whether there is such a key; None if blocks are whole vectors."""
        n = self.q.sizes["s"]
        return (s < n) if n % SCAN else None

    def scored(self, scores: Buffer, first: Expr, n: Expr) -> Stmt:
        """The scores of n keys. The last vector begins early if it would be cut off."""
        q, key = self.q, self.q.key
        r = axis("r", self.rows)
        if key.stride("d") != 1 or q.sizes["s"] < self.lanes:
            return self.strided(scores, first, n)
        square = Buffer("square", q.dtype, (self.lanes, self.lanes), "registers")
        c, g, at = (
            axis("c", ceiling(n, self.lanes)),
            var("g", dtypes.int64),
            var("at", dtypes.int64),
        )
        begin = least(plus(first, times(c, self.lanes)), as_index(q.sizes["s"] - self.lanes))
        u = axis("u", self.lanes)

        def products(d: Expr, x: Axis) -> Stmt:
            a = cast(key.at({"s": plus(g, u), "d": d}), q.dtype)
            b = cast(q.query.at({"t": r, "d": d}), q.dtype)
            add = Accumulate(square, (u, x), "sum", a * b)
            return loop(u, loop(x, add, kind="vector", lanes=self.lanes), kind="unroll")

        whole, tail = divmod(q.sizes["d"], self.lanes)
        k, x, y = axis("k", whole), axis("x", self.lanes), axis("y", max(tail, 1))
        zero, line = axis("z", self.lanes), Buffer("line", q.dtype, (self.lanes,), "registers")
        put = store(scores, (r, plus(plus(at, x), self.lanes)), line[x] * q.number(q.scale))
        body = Block((
            Alloc(square), Alloc(line),
            loop(u, loop(zero, store(square, (u, zero), q.number(0)), kind="vector",
                         lanes=self.lanes), kind="unroll"),
            loop(k, products(plus(times(k, self.lanes), x), x)),
            *([products(plus(y, whole * self.lanes), y)] if tail else ()),
            Flip(square),
            loop(x, store(line, (x,), q.number(0)), kind="vector", lanes=self.lanes),
            loop(u, loop(x, Accumulate(line, (x,), "sum", square[u, x]), kind="vector",
                         lanes=self.lanes), kind="unroll"),
            loop(x, put, kind="vector", lanes=self.lanes),
        ))  # fmt: skip
        return loop(c, Block((Let(g, plus(begin, 0)), Let(at, minus(g, first)), loop(r, body))))

    def strided(self, scores: Buffer, first: Expr, n: Expr) -> Stmt:
        """The same for keys that stand apart, one element of d after the other."""
        q = self.q
        r, c, d, x = axis("r", self.rows), axis("c", ceiling(n, self.lanes)), axis(
            "d", q.sizes["d"]), axis("x", self.lanes)  # fmt: skip
        line = Buffer("line", q.dtype, (self.lanes,), "registers")
        s = plus(times(c, self.lanes), x)
        key = plus(first, s)
        a = cast(q.key.at({"s": key, "d": d}, key < q.sizes["s"]), q.dtype)
        b = cast(q.query.at({"t": r, "d": d}), q.dtype)

        def vector(body: Stmt) -> Stmt:
            return loop(x, body, kind="vector", lanes=self.lanes)

        put = store(scores, (r, plus(s, self.lanes)), line[x] * q.number(q.scale))
        zero = vector(store(line, (x,), q.number(0)))
        add = loop(d, vector(Accumulate(line, (x,), "sum", a * b)))
        return loop(r, loop(c, Block((Alloc(line), zero, add, vector(put)))))

    def stepped(self, scores: Buffer, first: Expr, n: Expr) -> list[Stmt]:
        """Apply the steps to the scores of n keys."""
        q = self.q
        out: list[Stmt] = []
        for step in q.steps:
            r = axis("r", self.rows)

            def change(s: Expr, x: Axis, step: Step = step, r: Axis = r) -> list[Stmt]:
                at, key = (r, plus(s, self.lanes)), plus(first, s)
                old = scores[at]
                if step.operand is None:
                    seen = apply("le", key, plus(r, step.offset))
                    return [store(scores, at, select(seen, old, q.number(step.fill)))]
                guard = self.there(key) if step.operand.stride("s") else None
                value = step.operand.at({"t": r, "s": key}, guard)
                if step.kind == "bias":
                    return [store(scores, at, old + cast(value, q.dtype))]
                return [store(scores, at, select(value, old, q.number(step.fill)))]

            out.append(loop(r, self.vectors(n, change)))
        return out

    def softmax(
        self, scores: Buffer, n: Expr, top: Buffer, share: Buffer, total: Buffer
    ) -> list[Stmt]:
        """As `_softmax`, along rows."""
        q = self.q
        r, pad = axis("r", self.rows), axis("pad", self.lanes)
        low, zero = q.number(-math.inf), q.number(0)
        best, summed = (Buffer(x, q.dtype, (self.lanes,), "registers") for x in ("best", "sum"))
        peak, shift, all_ = (Cell(x, q.dtype) for x in ("peak", "shift", "all"))
        x = axis("x", self.lanes)

        def at(s: Expr) -> tuple[Expr, Expr]:
            return r, plus(s, self.lanes)

        def weigh(s: Expr, lane: Axis) -> list[Stmt]:
            weight = var("weight", q.dtype)
            return [
                Let(weight, exp(scores[at(s)] - shift.value)),
                store(scores, at(s), weight),
                Accumulate(summed, (lane,), "sum", weight),
            ]

        def vector(body: Stmt) -> Stmt:
            return loop(x, body, kind="vector", lanes=self.lanes)

        beyond = store(scores, (r, plus(plus(n, pad), self.lanes)), low)
        return [loop(r, Block((
            Alloc(best), Alloc(summed), peak.memory, shift.memory, all_.memory,
            loop(pad, beyond, kind="vector", lanes=self.lanes),
            vector(store(best, (x,), low)),
            vector(store(summed, (x,), zero)),
            self.vectors(n, lambda s, lane: [
                store(best, (lane,), larger(best[lane], scores[at(s)]))]),
            peak.set(top[r]),
            vector(Accumulate(peak.buffer, (), "max", best[x])),
            shift.set(select(eq(peak.value, low), zero, peak.value)),
            store(share, (r,), exp(top[r] - shift.value)),
            store(top, (r,), peak.value),
            self.vectors(n, weigh),
            all_.set(total[r] * share[r]),
            vector(Accumulate(all_.buffer, (), "sum", summed[x])),
            store(total, (r,), all_.value),
        )))]  # fmt: skip

    def weighted(
        self, scores: Buffer, first: Expr, n: Expr, sums: Buffer, share: Buffer
    ) -> list[Stmt]:
        """sums = share * sums + weights values, all rows at once: each value is read once."""
        q = self.q
        out: list[Stmt] = []
        for c in Columns.of(q.sizes["e"], self.lanes, 6 if self.rows <= 4 else 3):

            def columns(at: Expr, c: Columns = c) -> list[Stmt]:
                def right(k: Expr, j: Expr, x: Expr) -> Expr:
                    place = {"s": plus(first, k), "e": plus(at, q.lane(j, x))}
                    return cast(q.value.at(place), q.dtype)

                def write(r: Expr, j: Expr, x: Axis, value: Expr) -> Stmt:
                    place = (r, plus(at, q.lane(j, x)))
                    return store(sums, place, sums[place] * share[r] + value)

                def left(r: Expr, k: Expr) -> Expr:
                    return scores[r, plus(k, self.lanes)]

                return [tile(self.rows, c, self.lanes, axis("k", n), left, right, write)]

            out.append(c.repeated(self.lanes, columns))
        return out


def _few(f: _Few, out: Operand) -> list[Stmt]:
    q, rows = f.q, f.rows
    size = min(q.blocks.keys, q.sizes["s"])
    scores = Buffer("scores", q.dtype, (rows, size + 3 * f.lanes), "stack")
    top, share, total = (f.line(name) for name in ("top", "share", "total"))
    sums = _sums(q, rows, "e")
    low, high = Cell("low"), Cell("high")

    def keys(first: Expr, n: Expr) -> list[Stmt]:
        return [
            f.scored(scores, first, n),
            *f.stepped(scores, first, n),
            *f.softmax(scores, n, top, share, total),
            *f.weighted(scores, first, n, sums, share),
        ]

    r = axis("r", rows)
    start = [
        loop(r, store(top, (r,), q.number(-math.inf)), store(total, (r,), q.number(0))),
        _cleared(q, sums),
        over_keys(low, high, size, keys),
    ]
    memory = (Alloc(b) for b in (scores, top, share, total, sums))
    return [
        *memory, *q.seen(low, high), *q.until_exact(low, high, top, start),
        *_written(q, out, sums, total),
    ]  # fmt: skip


# -- gradient ----------------------------------------------------------------------------------


def gradient(
    p: Problem, ct: Operand, outs: Sequence[Operand], heads: Sequence[str], rows: Sequence[str]
) -> Stmt:
    """The cotangents of query, key and value: for each position of the letters `heads`, one block
    of queries after the other, those of all `rows` letters. Probabilities are computed again from
    the scores (Dao et al. 2022), so nothing is kept from the forward pass."""
    dq, *sums = outs
    wide = [o for o in sums if o.buffer.dtype != p.dtype]
    own = [_accumulator(o, p.dtype) if o in wide else o for o in sums]
    memory = [Alloc(a.buffer) for a, o in zip(own, sums, strict=True) if a is not o]

    def head(place: dict[str, Expr]) -> Sequence[Stmt]:
        lets, (dk, dv) = started(place, own)
        assert dk is not None and dv is not None
        inner: Stmt
        blocks = axis("block", -(-p.size("t") // p.shape.width))
        axes = [axis(a, p.size(a)) for a in rows]
        here = {**place, **dict(zip(rows, axes, strict=True))}
        more, q = p.queries(here, times(blocks, p.shape.width))
        starts, (g, to) = started(here, (ct, dq))
        assert g is not None and to is not None
        inner = loop(blocks, Block((*more, *starts, *_gradient(q, g, to, dk, dv))))
        for a in reversed(axes):
            inner = loop(a, inner)
        rounded = [_rounded(a, o, place) for a, o in zip(own, sums, strict=True) if a is not o]
        return [*lets, _zeros(dk, "d"), _zeros(dv, "e"), inner, *rounded]

    return Block((*memory, parallel(p.places(heads), head)))


def _accumulator(o: Operand, dtype: DType) -> Operand:
    """Memory of a wider type for sums that end in `o`."""
    return replace(o, buffer=Buffer("wide", dtype, o.buffer.shape, "temp"))


def _matrix(o: Operand, letter: str, write: Callable[[Expr, Expr], Stmt]) -> Stmt:
    """`write(s, letter)` for every element, by vectors."""
    s = axis("s", o.sizes["s"])
    lanes = VECTOR_BYTES // o.buffer.dtype.itemsize
    return loop(s, *vectors(o.sizes[letter], lanes, lambda k, _: [write(s, k)]))


def _zeros(o: Operand, letter: str) -> Stmt:
    zero = literal(0, o.buffer.dtype)
    return _matrix(o, letter, lambda s, k: store(
        o.buffer, (o.offset({"s": s, letter: k}),), zero))  # fmt: skip


def _rounded(source: Operand, target: Operand, place: dict[str, Expr]) -> Stmt:
    letter = "d" if target.stride("d") else "e"

    def write(s: Expr, k: Expr) -> Stmt:
        at = {**place, "s": s, letter: k}
        value = cast(source.at(at), target.buffer.dtype)
        return store(target.buffer, (target.offset(at),), value)

    return _matrix(source, letter, write)


def _gradient(q: Queries, ct: Operand, dq: Operand, dk: Operand, dv: Operand) -> list[Stmt]:
    """What one block of queries adds. With w the weights before they are divided by their total,
    dp = ct value and D the mean of dp under the probabilities, dscores = p (dp - D). Scores are
    computed once if one block holds all keys, else twice."""
    once = q.blocks.keys >= q.sizes["s"]
    size = max(min(q.blocks.keys, q.sizes["s"]), 1)
    turned, turn = q.turned(q.query, "d", q.scale)
    turned_ct, turn_ct = q.turned(ct, "e", 1.0)
    weights, dots = q.scores("weights", size), q.scores("dots", size)
    names = ("top", "shift", "share", "total", "mean")
    top, shift, share, total, mean = lines = [q.line(name) for name in names]
    sums = _sums(q, q.width, "d")
    low, high = Cell("low"), Cell("high")

    def products(first: Expr, n: Expr) -> list[Stmt]:
        return [
            q.against(turned, q.key, "d", first, n, weights),
            *q.stepped(weights, first, n),
            q.against(turned_ct, q.value, "e", first, n, dots),
        ]

    def measured(first: Expr, n: Expr) -> list[Stmt]:
        softmax = _softmax(q, weights, n, top, shift, share, total)
        return [*products(first, n), *softmax, *_averaged(q, weights, dots, n, share, mean)]

    def added(first: Expr, n: Expr) -> list[Stmt]:
        return [
            *([] if once else products(first, n)),
            *_differences(q, weights, dots, n, None if once else shift, total, mean),
            *q.stepped(dots, first, n, zeroed=True),
            *_weighted(q, dots, q.key, "d", first, n, sums, None),
            *_spread(q, dots, q.query, "d", first, n, dk, q.scale),
            *_spread(q, weights, ct, "e", first, n, dv, 1.0),
        ]

    def fill(b: Buffer, value: float) -> list[Stmt]:
        return q.each(lambda j, x: store(b, (q.lane(j, x),), q.number(value)))

    start = [*fill(top, -math.inf), *fill(total, 0), *fill(mean, 0),
             over_keys(low, high, size, measured)]  # fmt: skip
    memory = (Alloc(b) for b in (weights, dots, *lines, sums))
    return [
        *turn, *turn_ct, *memory, *q.seen(low, high), *q.until_exact(low, high, top, start),
        *_inverted(q, total, mean), _cleared(q, sums), over_keys(low, high, size, added),
        *_query_cotangent(q, dq, sums),
    ]  # fmt: skip


def _averaged(
    q: Queries, weights: Buffer, dots: Buffer, n: Expr, share: Buffer, mean: Buffer
) -> list[Stmt]:
    """mean = share * mean + the sum of weights * dots, for each query."""
    s, acc = axis("s", n), q.register("acc")
    row = plus(s, q.rows)

    def add(j: Expr, x: Axis) -> Stmt:
        at = (row, q.lane(j, x))
        return Accumulate(acc, (j, x), "sum", weights[at] * dots[at])

    return [
        Alloc(acc),
        *q.each(lambda j, x: store(acc, (j, x), mean[q.lane(j, x)] * share[q.lane(j, x)])),
        loop(s, *q.each(add)),
        *q.each(lambda j, x: store(mean, (q.lane(j, x),), acc[j, x])),
    ]  # fmt: skip


def _inverted(q: Queries, total: Buffer, mean: Buffer) -> list[Stmt]:
    """total becomes its reciprocal, and mean a mean."""
    one = q.number(1)
    return [
        *q.each(lambda j, x: store(total, (q.lane(j, x),), one / total[q.lane(j, x)])),
        *q.each(lambda j, x: store(
            mean, (q.lane(j, x),), mean[q.lane(j, x)] * total[q.lane(j, x)])),
    ]  # fmt: skip


def _differences(
    q: Queries, weights: Buffer, dots: Buffer, n: Expr, shift: Buffer | None, inverse: Buffer,
    mean: Buffer,
) -> list[Stmt]:  # fmt: skip
    """weights become probabilities, dots the cotangents of scores. The weights are scores still if
    a `shift` is given."""
    s = axis("s", n)
    registers = [q.register(b.name) for b in (inverse, mean)] + [q.register("by")]
    factor, middle, by = registers
    row = plus(s, q.rows)
    loads = [(factor, inverse), (middle, mean)] + ([] if shift is None else [(by, shift)])

    def both(j: Expr, x: Axis) -> Stmt:
        at, p = (row, q.lane(j, x)), var("p", q.dtype)
        weight = weights[at] if shift is None else exp(weights[at] - by[j, x])
        return Block((
            Let(p, weight * factor[j, x]),
            store(weights, at, p),
            store(dots, at, p * (dots[at] - middle[j, x])),
        ))  # fmt: skip

    def read(register: Buffer, line: Buffer) -> list[Stmt]:
        fill = q.each(lambda j, x: store(register, (j, x), line[q.lane(j, x)]))
        return [Alloc(register), *fill]

    return [*(s for pair in loads for s in read(*pair)), loop(s, *q.each(both))]


def _spread(
    q: Queries, weights: Buffer, source: Operand, letter: str, first: Expr, n: Expr,
    target: Operand, scale: float,
) -> list[Stmt]:  # fmt: skip
    """target[s, letter] += scale * the sum over queries of weights[s, t] source[t, letter]."""
    out: list[Stmt] = []
    for c in Columns.of(q.sizes[letter], q.lanes):

        def columns(at: Expr, c: Columns = c) -> list[Stmt]:
            def piece(rows: int, s: Expr) -> Block:
                def left(r: Expr, k: Expr) -> Expr:
                    return weights[plus(plus(s, r), q.rows), k]

                def right(k: Expr, j: Expr, x: Expr) -> Expr:
                    place = {"t": plus(q.start, k), letter: plus(at, q.lane(j, x))}
                    return cast(source.at(place), q.dtype)

                def write(r: Expr, j: Expr, x: Axis, value: Expr) -> Stmt:
                    place = {"s": plus(plus(first, s), r), letter: plus(at, q.lane(j, x))}
                    where = target.offset(place)
                    old = target.buffer[where]
                    return store(target.buffer, (where,), old + value * q.number(scale))

                return tile(rows, c, q.lanes, axis("k", q.present), left, right, write)

            i = axis("i", index("//", n, as_index(c.rows)))
            whole = times(index("//", n, as_index(c.rows)), c.rows)
            rest = axis("i", minus(n, whole))
            return [loop(i, piece(c.rows, times(i, c.rows))),
                    loop(rest, piece(1, plus(whole, rest)))]  # fmt: skip

        out.append(c.repeated(q.lanes, columns))
    return out


def _query_cotangent(q: Queries, dq: Operand, sums: Buffer) -> list[Stmt]:
    t = axis("t", q.present)

    def write(d: Expr, _: Axis) -> list[Stmt]:
        where = dq.offset({"t": plus(q.start, t), "d": d})
        value = cast(sums[t, d] * q.number(q.scale), dq.buffer.dtype)
        return [store(dq.buffer, (where,), value)]

    return [loop(t, *vectors(q.sizes["d"], q.lanes, write))]
