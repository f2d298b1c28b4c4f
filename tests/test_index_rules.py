"""Index rules: sound, idempotent, never larger; and the cancellations the compiler relies on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright import dtypes
from tilewright.expr import (
    Axis,
    Buffer,
    Expr,
    Lit,
    Load,
    Reduce,
    apply,
    as_index,
    axis,
    index,
    literal,
    select,
    show,
    walk,
)
from tilewright.interpret import evaluate
from tilewright.transforms.index_rules import Ranges, affine, bound, flat, simplify

AXES = tuple(axis(name, n) for name, n in (("i", 7), ("j", 4), ("k", 3), ("l", 1)))
I, J, K, L = AXES


def positions(depth: int = 4) -> st.SearchStrategy[Expr]:
    """Index expressions over AXES, with the divisions and remainders reshapes make."""
    leaves = st.sampled_from(AXES) | st.integers(-5, 12).map(as_index)

    def extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        sums = st.tuples(st.sampled_from(("+", "min", "max")), inner, inner)
        scaled = st.tuples(st.just("*"), inner, st.integers(-6, 12).map(as_index))
        divided = st.tuples(st.sampled_from(("//", "%")), inner, st.integers(1, 12).map(as_index))
        return (sums | scaled | divided).map(lambda t: index(*t))

    return st.recursive(leaves, extend, max_leaves=2**depth)


def split_and_joined() -> st.SearchStrategy[Expr]:
    """What a reshape of a reshape makes: a flat offset cut into digits and added up again."""
    offset = st.tuples(*(st.integers(0, 24) for _ in AXES)).map(
        lambda c: sum((a * n for a, n in zip(AXES, c, strict=True)), start=as_index(0))
    )
    digits = st.lists(st.sampled_from((2, 3, 4, 5, 8)), min_size=1, max_size=3)

    def rejoin(pair: tuple[Expr, list[int]]) -> Expr:
        rest, radices = pair
        total, place = as_index(0), 1
        for n in radices:
            total = total + (rest % n) * place
            rest, place = rest // n, place * n
        return total + rest * place

    return st.tuples(offset, digits).map(rejoin)


def values(e: Expr) -> np.ndarray:
    return evaluate([e], AXES, {})[0]


@given(positions() | split_and_joined())
def test_sound(e: Expr) -> None:
    (simple,) = simplify([e])
    assert np.array_equal(values(e), values(simple)), f"{show(e)} is not {show(simple)}"


@given(positions() | split_and_joined())
def test_idempotent(e: Expr) -> None:
    (once,) = simplify([e])
    (twice,) = simplify([once])
    assert once is twice, f"{show(e)} -> {show(once)} -> {show(twice)}"


def written_size(e: Expr) -> int:
    """How much there is to write: shared parts count every time."""
    size: dict[Expr, int] = {}
    for x in walk(e):
        size[x] = 1 + sum(size[c] for c in x.children)
    return size[e]


@given(positions() | split_and_joined())
def test_never_larger(e: Expr) -> None:
    (simple,) = simplify([e])
    assert written_size(simple) <= written_size(e), f"{show(e)} -> {show(simple)}"


@given(positions())
def test_ranges_hold(e: Expr) -> None:
    low, high = Ranges()(e)
    assert low <= values(e).min() and values(e).max() <= high


@given(positions())
def test_affine_form_is_the_expression(e: Expr) -> None:
    assert np.array_equal(values(affine(e).expr()), values(e))


@given(split_and_joined())
def test_digits_add_up_to_the_offset(e: Expr) -> None:
    """Splitting by any radices and joining again leaves no division."""
    (simple,) = simplify([e])
    assert not any(getattr(x, "op", None) in ("//", "%") for x in walk(simple)), show(simple)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (((I * 3 + K) // 3) % 2, "i % 2"),
        ((I * 3 + K) // 3, "i"),
        ((I * 3 + K) % 3, "k"),
        ((I * 12 + J * 3 + K) // 3 % 4, "j"),
        ((I * 12 + J * 3 + K) // 12, "i"),
        ((I * 4 + J) // 8, "i // 2"),
        ((I // 2) * 2 + I % 2, "i"),
        (J % 4, "j"),
        (J % 9, "j"),
        (J // 4, "0"),
        ((I + 14) % 7, "i"),
        ((I * 6) // 2, "i * 3"),
        (I // 2 // 3, "i // 6"),
        ((I % 6) % 3, "i % 3"),
        (index("min", I, as_index(6)), "i"),
        (index("max", I, as_index(0)), "i"),
        (index("min", I + 10, J), "j"),
        (I + J - I, "j"),
        (I * 2 + I * 3, "i * 5"),
    ],
)
def test_named_examples(before: Expr, after: str) -> None:
    (simple,) = simplify([before])
    assert show(simple) == after


def test_certain_guards_go() -> None:
    b = Buffer("b", dtypes.float32, (7,))
    always, never = as_index(7), as_index(0)
    (inside,) = simplify([Load(b, (I,), I < always)])
    assert inside is Load(b, (I,), None)
    zero = literal(0.0, dtypes.float32)
    (outside,) = simplify([select(I < never, b[I], zero)])
    assert outside is zero
    (both,) = simplify([select((I < always) & (J < always), b[I], zero)])
    assert both is b[I]


def test_choices_made_already() -> None:
    """What writing to a slice makes: the mask of the slice, and its value under the same mask."""
    b = Buffer("b", dtypes.float32, (7,))
    inside, zero = as_index(1) <= I, literal(0.0, dtypes.float32)
    mask = select(inside, literal(True, dtypes.bool_), False)
    value = select(inside, b[I], zero)
    (written,) = simplify([select(mask, value, b[0])])
    assert written is select(inside, b[I], b[0])


def test_what_does_not_change_is_the_same_object() -> None:
    b = Buffer("b", dtypes.float32, (7, 4))
    e = b[I, J] + b[I, (J + I) % 4]
    assert simplify([e])[0] is e


def test_reductions_over_one_point_and_over_none() -> None:
    b = Buffer("b", dtypes.float32, (7, 4))
    one, none, many = axis("p", 1), axis("q", 0), axis("r", 4)
    (point,) = simplify([Reduce("max", (one,), b[I, one])])
    assert point is b[I, 0]
    (kept,) = simplify([Reduce("sum", (one, many), b[one, many])])
    assert kept is Reduce("sum", (many,), b[0, many])
    (empty,) = simplify([Reduce("min", (none, many), b[none, many])])
    assert empty is Lit(float("inf"), dtypes.float32)


@given(st.tuples(st.sampled_from(AXES), st.sampled_from(AXES)))
def test_flat_offsets_are_row_major(at: tuple[Axis, Axis]) -> None:
    b = Buffer("b", dtypes.int64, (7, 8))
    array = np.arange(56).reshape(7, 8)
    by_position, by_offset = evaluate([b[at], b[at] * 0 + flat(b, at)], AXES, {b: array})
    assert np.array_equal(by_position, by_offset)


def test_bounds_are_of_positions_only() -> None:
    low, high = Lit(float("-inf"), dtypes.float32), Lit(1.0, dtypes.float32)
    assert bound(apply("lt", low, high)) is None
    position = bound(apply("lt", I, Lit(5, dtypes.int64)))
    assert position is not None
    assert position.expr() is affine(I * -1 + 4).expr()
