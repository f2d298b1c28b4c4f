"""The corpus: the same kernels every time, each in one part, all of a size worth measuring."""

from __future__ import annotations

from collections import Counter

import pytest

from test_encoding import check_round_trip
from tilewright import roofline
from tilewright.cost_model.corpus import MOST_OPERATIONS, Sample, cases, corpus, part_of
from tilewright.cost_model.encoding import decode, encode, key
from tilewright.target import NAMED

TARGET = NAMED["avx2"]
"""Which machine it is decides the order of a few products' axes; not what is computed."""


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return corpus(TARGET)


def test_there_are_a_few_hundred_of_many_families(samples: list[Sample]) -> None:
    assert 300 <= len(samples) <= 450
    families = Counter(s.family for s in samples)
    assert len(families) >= 20
    assert max(families.values()) <= len(samples) // 5


def test_every_kernel_is_there_once_and_in_one_part(samples: list[Sample]) -> None:
    keys = [key(s.kernel) for s in samples]
    assert len(set(keys)) == len(samples)
    assert [s.part for s in samples] == [part_of(k) for k in keys]
    parts = Counter(s.part for s in samples)
    assert set(parts) == {"train", "validation", "test"}
    assert min(parts["validation"], parts["test"]) >= 40
    assert parts["train"] >= 200


def test_names_are_unique(samples: list[Sample]) -> None:
    assert len({s.name for s in samples}) == len(samples)


def test_none_takes_too_long(samples: list[Sample]) -> None:
    work = [roofline.work_of(s.kernel) for s in samples]
    assert max(sum(w.operations.values()) for w in work) <= MOST_OPERATIONS


def test_every_kernel_round_trips(samples: list[Sample]) -> None:
    for s in samples:
        assert key(decode(encode(s.kernel))) == key(s.kernel)
    for s in samples[::9]:
        check_round_trip(s.kernel)


def test_the_same_seed_gives_the_same_kernels() -> None:
    first = {}
    for case in cases(11):
        first.setdefault(case.family, case)
    again = {case.name: case for case in cases(11)}
    assert {c.name for c in cases(12)} != set(again)
    for case in first.values():
        one, two = case.kernels(TARGET), again[case.name].kernels(TARGET)
        assert [key(k) for k in one] == [key(k) for k in two]
