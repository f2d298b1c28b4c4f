"""Kernels and machines as text: exact round trips, keys without names, and texts nobody wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import random_programs
import tilewright as tw
from tilewright import kernel as kernels
from tilewright import loops
from tilewright.compile import machine
from tilewright.cost_model.encoding import (
    MOST_CHARACTERS,
    Machine,
    canonical,
    decode,
    encode,
    key,
    machine_key,
    native,
    portable,
)
from tilewright.errors import BadEncoding
from tilewright.kernel import Kernel
from tilewright.roofline import Rates
from tilewright.target import NAMED
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import loopify
from tilewright.transforms.schedule import planned

X = np.ones((6, 20), np.float32)
W = np.ones((20, 37), np.float32)
RATES = Rates(1, 1e11, 5e10, 4e11, 0.0, 1e11, 5e10, 2e10, (1 << 20, 32 << 20))
MACHINE = Machine(
    "x86_64", "znver4", ("avx2", "fma"), 64, 32, 1 << 15, 1 << 20, 1 << 25, 2, RATES, RATES
)


def kernels_of(f: Callable[..., Any], *args: Any) -> list[Kernel]:
    """The kernels of a program, as its scheduler sees them."""
    found: list[Kernel] = []

    def scheduler(k: Kernel) -> Any:
        found.append(k)
        return heuristic(k, machine())

    tw.compile(f, scheduler=scheduler).lower(*args).kernels
    return found


def check_round_trip(k: Kernel) -> None:
    text = encode(k)
    again = decode(text)
    assert kernels.show(again) == kernels.show(k)
    assert encode(again) == text
    assert [b.scope for b in again.params] == [b.scope for b in k.params]
    plain = canonical(k)
    assert key(plain) == key(again) == key(k)
    schedule = heuristic(k, machine())
    made = [loops.show_function(loopify(x, schedule)) for x in (k, again)]
    assert made[0] == made[1]
    assert heuristic(plain, machine()) == portable(k, schedule)
    assert native(k, portable(k, schedule)) == schedule
    planned(plain, portable(k, schedule))


@pytest.mark.parametrize("seed", range(60))
def test_kernels_of_random_programs_round_trip(seed: int) -> None:
    program = random_programs.write(seed)
    for k in kernels_of(program.function, *program.inputs.values()):
        check_round_trip(k)


def test_products_of_words_and_of_constants_round_trip() -> None:
    a, b = np.ones((32, 64), np.int8), np.ones((64, 48), np.int8)
    w = tw.constant(np.ones((64, 512), np.float32))
    (words,) = kernels_of(lambda x, y: np.matmul(x, y, dtype=np.int32), a, b)
    assert any("Tensorize" in str(s) for s in heuristic(words, machine()).steps) or (
        machine().vector_bytes < 64
    )
    check_round_trip(words)
    (packed,) = kernels_of(lambda x: x @ w, np.ones((256, 64), np.float32))
    assert "constant" in encode(packed)
    check_round_trip(packed)


def test_special_literals_round_trip() -> None:
    def f(x: Any) -> Any:
        return np.where(x > -0.0, np.float32(np.inf), x * np.float32(0.1)) + np.float32(np.nan)

    for k in kernels_of(f, X):
        check_round_trip(k)


def test_keys_forget_names_and_nothing_else() -> None:
    (one,) = kernels_of(lambda x, w: np.maximum(x @ w, 0), X, W)
    (same,) = kernels_of(lambda rows, columns: np.maximum(rows @ columns, 0), X, W)
    (other,) = kernels_of(lambda x, w: np.minimum(x @ w, 0), X, W)
    (wider,) = kernels_of(lambda x, w: np.maximum(x @ w, 0), X, np.ones((20, 38), np.float32))
    assert [b.name for b in one.reads] != [b.name for b in same.reads]
    assert key(one) == key(same)
    assert len({key(one), key(other), key(wider)}) == 3
    assert heuristic(canonical(one), machine()) == portable(same, heuristic(same, machine()))


def stored() -> dict[str, Any]:
    (k,) = kernels_of(lambda x, w: np.maximum(x @ w, 0), X, W)
    content: dict[str, Any] = json.loads(encode(k))
    return content


def _term(content: dict[str, Any], kind: str) -> list[Any]:
    return next(t for t in content["terms"] if t[0] == kind)


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": lambda c: c.update(version=99),
    "a field more": lambda c: c.update(more=1),
    "no body": lambda c: c.update(body=[]),
    "name": lambda c: c.update(name='f"\n}'),
    "operation": lambda c: _term(c, "apply").__setitem__(1, "system"),
    "operands": lambda c: _term(c, "apply")[2].pop(),
    "forward reference": lambda c: _term(c, "apply").__setitem__(2, [999, 0]),
    "negative reference": lambda c: _term(c, "apply").__setitem__(2, [-1, 0]),
    "dtype": lambda c: c["buffers"][0].__setitem__(1, "object"),
    "dtypes that differ": lambda c: c["buffers"][0].__setitem__(1, "f64"),
    "scope": lambda c: c["buffers"][0].__setitem__(3, "elsewhere"),
    "shape": lambda c: c["buffers"][0].__setitem__(2, [1 << 39, 1 << 39]),
    "negative shape": lambda c: c["buffers"][0].__setitem__(2, [-6, 20]),
    "extent": lambda c: _term(c, "axis").__setitem__(2, 1.5),
    "a store outside": lambda c: c["buffers"][c["body"][0][1]].__setitem__(2, [1, 37]),
    "kind": lambda c: _term(c, "reduce").__setitem__(1, "mean"),
    "axes that are none": lambda c: c.update(axes=[len(c["terms"]) - 1]),
    "an axis twice": lambda c: c.update(axes=c["axes"] * 2),
    "an axis less": lambda c: c["axes"].pop(),
    "literal": lambda c: _term(c, "lit").__setitem__(2, "one"),
    "a term of nothing": lambda c: c["terms"].append([]),
    "a kind of term": lambda c: c["terms"].append(["eval", "1", "2"]),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_kernels_are_refused(how: str) -> None:
    content = stored()
    decode(json.dumps(content))
    WRONG[how](content)
    with pytest.raises(BadEncoding, match="not a stored kernel"):
        decode(json.dumps(content))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", "[" * 100_000, '{"version": NaN}', " " * (MOST_CHARACTERS + 1)]
)
def test_texts_that_are_no_kernels_are_refused(text: str) -> None:
    with pytest.raises(BadEncoding):
        decode(text)


@settings(max_examples=300)
@given(st.data())
def test_damaged_kernels_are_refused_or_still_kernels(data: st.DataObject) -> None:
    """Whatever one number or word of a stored kernel becomes, the reader's answer is its own."""
    content = stored()
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        k = data.draw(st.sampled_from(list(keys)))
        if (
            not isinstance(place[k], (dict, list))
            or not place[k]
            or data.draw(st.integers(0, 9)) == 0
        ):
            break
        place = place[k]
    place[k] = data.draw(
        st.one_of(st.integers(-2, 40), st.none(), st.text(max_size=4), st.lists(st.integers(0, 3)))
    )
    try:
        k = decode(json.dumps(content))
    except BadEncoding:
        return
    check = decode(encode(k))
    assert kernels.show(check) == kernels.show(k)


def test_a_machine_round_trips() -> None:
    assert Machine.from_json(MACHINE.to_json()) == MACHINE
    assert machine_key(NAMED["avx2"]) != machine_key(NAMED["sse2"])


def test_this_machine_describes_itself() -> None:
    here = Machine.here()
    assert here.key == machine_key()
    assert Machine.from_json(here.to_json()) == here
    assert here.single.f32 > 0
    assert here.l3_bytes >= 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cores", "2"),
        ("cores", -1),
        ("features", "avx2"),
        ("cpu", 7),
        ("single", {}),
        ("l1_bytes", 1.5),
    ],
)
def test_wrong_machines_are_refused(name: str, value: Any) -> None:
    content = json.loads(MACHINE.to_json())
    content[name] = value
    with pytest.raises(BadEncoding, match="not a stored machine"):
        Machine.from_json(json.dumps(content))
    with pytest.raises(BadEncoding):
        Machine.from_json(json.dumps([content]))
