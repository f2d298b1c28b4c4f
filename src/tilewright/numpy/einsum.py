"""einsum: subscripts, the order of contractions, and each pair as one Dot.

Knows NumPy's subscript language (ellipsis, repeated labels, implicit output, interleaved form) and
plans greedily by size. Refuses to know how a contraction is computed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.errors import ShapeMismatch
from tilewright.expr import Extent
from tilewright.numpy.creation import diagonal
from tilewright.numpy.protocol import along, implements, promoted
from tilewright.ops.contract import Dot
from tilewright.ops.shape import ReduceSum, Reshape, Transpose
from tilewright.tracing import Array, asarray, astype

ArrayLike = Any
Label = str | int
Labelled = tuple[Array, tuple[Label, ...]]
"""An array and a label for each of its axes. Labels of an ellipsis are negative numbers."""


@implements(np.einsum)
def einsum(*operands: Any, out: None = None, dtype: Any = None, order: str = "K",
           casting: str = "safe", optimize: Any = False) -> Array:  # fmt: skip
    """Sums of products over labelled axes. `optimize` is accepted and ignored: three operands or
    more are always contracted pair by pair, the pair that shrinks the data most first."""
    arrays, inputs, output = parse(operands)
    values = promoted(*arrays)
    if dtype is not None:
        values = [astype(v, np.dtype(dtype)) for v in values]
    extents = _extents(values, inputs)
    terms = [_simplified(x, labels, extents) for x, labels in zip(values, inputs, strict=True)]
    while len(terms) > 1:
        i, j = _cheapest(terms, output, extents)
        pair = terms[i], terms[j]
        terms = [t for k, t in enumerate(terms) if k not in (i, j)]
        needed = {*output, *itertools.chain.from_iterable(labels for _, labels in terms)}
        terms.append(_contracted(*pair, needed))
    x, labels = _summed(terms[0], set(output))
    if set(labels) != set(output):
        raise ShapeMismatch(
            "einsum's output has a label no operand has", *(v.shape for v in values)
        )
    order_ = tuple(labels.index(label) for label in output)
    return Transpose(order_)(x) if order_ != tuple(range(len(order_))) else x


# -- subscripts --------------------------------------------------------------------------------


def parse(
    operands: Sequence[Any],
) -> tuple[list[Array], list[tuple[Label, ...]], tuple[Label, ...]]:
    """Operands, their labels and the output's labels, from any of NumPy's ways to write them."""
    if isinstance(operands[0], str):
        left, arrow, right = operands[0].replace(" ", "").partition("->")
        arrays = [asarray(x) for x in operands[1:]]
        terms: list[list[Any]] = [_tokens(t) for t in left.split(",")]
        output = _tokens(right) if arrow else None
    else:
        pairs = len(operands) // 2
        arrays = [asarray(x) for x in operands[: 2 * pairs : 2]]
        terms = [list(t) for t in operands[1 : 2 * pairs : 2]]
        output = list(operands[-1]) if len(operands) % 2 else None
    if len(terms) != len(arrays):
        raise ValueError(f"einsum has {len(terms)} subscripts for {len(arrays)} operands")
    widths = [x.ndim - (len(t) - (Ellipsis in t)) for t, x in zip(terms, arrays, strict=True)]
    for t, x, width in zip(terms, arrays, widths, strict=True):
        if width < 0 or (width and Ellipsis not in t):
            raise ShapeMismatch(
                f"einsum subscript {_spelled(t)!r} does not fit its operand", x.shape
            )
    inputs = [_expanded(t, width) for t, width in zip(terms, widths, strict=True)]
    widest = max([w for t, w in zip(terms, widths, strict=True) if Ellipsis in t], default=0)
    if output is None:
        count = Counter(label for t in terms for label in t if label is not Ellipsis)
        output = [Ellipsis, *sorted(label for label, n in count.items() if n == 1)]
    if len(set(output)) < len(output):
        raise ValueError(f"einsum's output {_spelled(output)!r} repeats a label")
    return arrays, inputs, _expanded(output, widest)


def _tokens(term: str) -> list[Any]:
    head, dots, tail = term.partition("...")
    for c in head + tail:
        if not c.isalpha():
            raise ValueError(
                f"invalid subscript {c!r} in einsum string, subscripts must be letters"
            )
    return [*head, Ellipsis, *tail] if dots else [*head]


def _spelled(term: Sequence[Any]) -> str:
    return "".join("..." if t is Ellipsis else str(t) for t in term)


def _expanded(term: Sequence[Any], width: int) -> tuple[Label, ...]:
    """The ellipsis as `width` labels counted from its right end: -1 is its last axis. Numbers of
    the interleaved form become strings, so that they stay apart from these."""
    result: list[Label] = []
    for t in term:
        result += range(-width, 0) if t is Ellipsis else [str(t)]
    return tuple(result)


def _extents(values: Sequence[Array], inputs: Sequence[tuple[Label, ...]]) -> dict[Label, Extent]:
    extents: dict[Label, Extent] = {}
    for x, labels in zip(values, inputs, strict=True):
        for label, n in zip(labels, x.shape, strict=True):
            known = extents.setdefault(label, n)
            if known == 1:
                extents[label] = n
            elif n not in (1, known):
                raise ShapeMismatch(
                    f"einsum label {label!r} is {known} and {n}", *(v.shape for v in values)
                )
    return extents


# -- contractions ------------------------------------------------------------------------------


def _simplified(x: Array, labels: tuple[Label, ...], extents: dict[Label, Extent]) -> Labelled:
    """Axes that are only broadcast dropped, and repeated labels replaced by a diagonal."""
    kept = [d for d, label in enumerate(labels) if x.shape[d] == extents[label]]
    if len(kept) < len(labels):
        x = Reshape(tuple(x.shape[d] for d in kept))(x)
        labels = tuple(labels[d] for d in kept)
    while len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        first = labels.index(twice)
        second = labels.index(twice, first + 1)
        x = diagonal(x, 0, first, second)
        labels = (*(n for d, n in enumerate(labels) if d not in (first, second)), twice)
    return x, labels


def _summed(term: Labelled, needed: set[Label]) -> Labelled:
    """The term with the labels nobody else needs summed over."""
    x, labels = term
    drop = tuple(d for d, label in enumerate(labels) if label not in needed)
    if not drop:
        return term
    return ReduceSum(drop)(x), tuple(label for label in labels if label in needed)


def _contracted(a: Labelled, b: Labelled, needed: set[Label]) -> Labelled:
    """The product of two terms, summed over the labels only they have."""
    (x, xs), (y, ys) = _summed(a, needed | set(b[1])), _summed(b, needed | set(a[1]))
    shared = [label for label in xs if label in ys]
    over = [label for label in shared if label not in needed]
    batch = [label for label in shared if label in needed]
    rest = [n for n in xs if n not in shared], [n for n in ys if n not in shared]
    labels = (*batch, *rest[0], *rest[1])
    if not over:  # nothing is summed: a product after broadcasting, which fuses
        extents = dict(zip((*xs, *ys), (*x.shape, *y.shape), strict=True))
        shape = [extents[label] for label in labels]
        return _spread(x, xs, labels, shape) * _spread(y, ys, labels, shape), labels
    at = [tuple(of.index(label) for label in group) for group in (over, batch) for of in (xs, ys)]
    return Dot(*at)(x, y), labels


def _spread(
    x: Array, of: Sequence[Label], labels: Sequence[Label], shape: Sequence[Extent]
) -> Array:
    order = tuple(sorted(range(len(of)), key=lambda d: labels.index(of[d])))
    x = Transpose(order)(x) if order != tuple(range(len(order))) else x
    return along(x, [labels.index(of[d]) for d in order], shape)


def _cheapest(
    terms: Sequence[Labelled], output: Sequence[Label], extents: dict[Label, Extent]
) -> tuple[int, int]:
    """The pair whose product is smallest compared with its factors; then the one with the least
    work. (The greedy rule of opt_einsum, Smith and Gray 2018.)"""

    def size(labels: Any) -> int:
        total = 1
        for label in labels:
            n = extents[label]
            total *= n if isinstance(n, int) else 64  # any number will do to compare
        return total

    best: tuple[Any, tuple[int, int]] | None = None
    for i, j in itertools.combinations(range(len(terms)), 2):
        first, second = set(terms[i][1]), set(terms[j][1])
        others = set(output).union(*(terms[k][1] for k in range(len(terms)) if k not in (i, j)))
        result = (first | second) & others
        score = (size(result) - size(first) - size(second), size(first | second))
        if best is None or score < best[0]:
            best = score, (i, j)
    assert best is not None, "there are at least two terms"
    return best[1]
