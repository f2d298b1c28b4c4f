"""Data sets: what a model learns from is what was measured, and it survives a file."""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.cost_model import dataset, encoding, metrics, transfer
from tilewright.cost_model.corpus import PARTS, part_of
from tilewright.cost_model.encoding import Machine
from tilewright.cost_model.features import MACHINE, NAMES, VERSION
from tilewright.cost_model.measure import Outcome, Task
from tilewright.cost_model.model import Model, machine_name
from tilewright.cost_model.records import Database, schedule_of
from tilewright.cost_model.spaces import space
from tilewright.cost_model.training import scored
from tilewright.kernel import Kernel
from tilewright.target import host, named
from tilewright.transforms.schedule import Schedule

REFERENCE = 1e-4


def kernel(n: int) -> Kernel:
    x = np.ones((24, 40), np.float32)
    w = np.ones((40, n), np.float32)
    (found,) = tw.compile(lambda x, w: x @ w, threads=1).lower(x, w).kernels
    return found


def stored(database: Database, k: Kernel, count: int = 12) -> dict[Schedule, float]:
    """Random schedules of a kernel with made-up ratios, one of them measured twice and one that
    failed."""
    s = space(k, host(), 1)
    points = s.random(np.random.default_rng(1), count)
    ratios: dict[Schedule, float] = {}
    database.insert([], [], [Machine.here()])
    for n, p in enumerate(points):
        schedule, ratio = s.schedule(p), 0.5 + 0.1 * n
        task = Task.of(k, schedule)
        outcomes = [Outcome(REFERENCE * ratio, ratio, 0.0, "", encoding.machine_key())]
        if n == 3:
            later = Outcome(3 * REFERENCE * ratio, ratio + 0.2, 0.0, "", encoding.machine_key())
            outcomes.append(later)
        if n == 4:
            outcomes = [Outcome(error="it was wrong", machine=encoding.machine_key())]
        database.insert([o.record(task, VERSION) for o in outcomes], [k])
        if n != 4:
            ratios[schedule] = ratio + (0.1 if n == 3 else 0.0)
    return ratios


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "data.sqlite")


def test_groups_are_what_was_measured(database: Database) -> None:
    k = kernel(50)
    ratios = stored(database, k)
    (group,) = dataset.groups(database)
    s = space(k, host(), 1)
    assert group.default == -1 and len(group) == len(ratios)
    assert group.features.shape == (len(group), len(NAMES))
    np.testing.assert_allclose(sorted(group.seconds / REFERENCE), sorted(ratios.values()))
    walks = s.walks_of([*ratios])
    assert sorted(map(tuple, group.features)) == sorted(map(tuple, s.extractor(walks)))
    np.testing.assert_allclose(sorted(group.roofline), sorted(s.extractor.seconds(walks)))


def test_the_default_is_known_where_it_was_measured(database: Database) -> None:
    k = kernel(50)
    stored(database, k)
    default = space(k, host(), 1).default
    outcome = Outcome(REFERENCE, 1.0, 0.0, "", encoding.machine_key())
    database.insert([outcome.record(Task.of(k, default), VERSION)], [k])
    (group,) = dataset.groups(database)
    assert group.seconds[group.default] == REFERENCE


def test_candidates_are_judged_for_the_machine_they_ran_on(database: Database) -> None:
    k = kernel(50)
    stored(database, k)
    narrow = Machine.here(named("avx2"))
    records = [replace(r, machine=narrow.key) for r in database.records()]
    database.insert(records, [], [narrow])
    found = {float(g.machine[0]): g for g in dataset.groups(database)}
    assert set(found) == {np.log2(host().vector_bytes), np.log2(32)}
    group = found[np.log2(32)]
    assert MACHINE[0] == "log2 vector bytes" and len(group.machine) == len(MACHINE)
    target = dataset.target_of(narrow)
    assert (target.vector_bytes, target.registers) == (32, 16)
    s = space(k, target, 1)
    schedules = [schedule_of(r.schedule, k) for r in records]
    walks = s.walks_of(list(dict.fromkeys(schedules)))
    assert {*map(tuple, group.features)} <= {*map(tuple, s.extractor(walks))}
    (alone,) = dataset.groups(database, machine=narrow.key)
    np.testing.assert_array_equal(alone.features, group.features)


def test_records_of_machines_nobody_described_are_left_out(database: Database) -> None:
    stored(database, kernel(50))
    nowhere = [replace(r, machine="0" * 64, at=r.at + 1) for r in database.records()]
    database.insert(nowhere)
    (group,) = dataset.groups(database)
    assert len(group.seconds) == 11


def test_a_model_of_another_machine_is_fitted_to_what_was_measured(database: Database) -> None:
    stored(database, kernel(50))
    blank = Model.blank(NAMES, VERSION, 8)
    own = replace(blank, trained_on=(machine_name(host()),))
    other = replace(blank, trained_on=("another 128",))
    for model in (blank, own):
        assert not transfer.foreign(model, host())
        assert transfer.fitted(model, database, host(), 1) is model
    assert transfer.foreign(other, host())
    assert transfer.fitted(other, database, host(), 2) is other, "nothing was measured on two"
    fitted = transfer.fitted(other, database, host(), 1, tw.compile)
    again = transfer.fitted(other, database, host(), 1, tw.compile)
    assert fitted.content == again.content
    (group,) = dataset.groups(database)

    def pairs(model: Model) -> float:
        return metrics.pairwise_accuracy([group.seconds], scored(model, [group]))

    assert pairs(fitted) > pairs(other)


def test_too_little_is_no_group(database: Database) -> None:
    stored(database, kernel(50), count=3)
    assert dataset.groups(database) == []


def test_parts_are_by_kernel(database: Database) -> None:
    for n in range(20, 60, 4):
        stored(database, kernel(n), count=6)
    found = dataset.groups(database)
    parts = dataset.split(found)
    assert {g.key for p in parts.values() for g in p} == {g.key for g in found}
    for part, groups in parts.items():
        assert all(part_of(g.key) == part for g in groups)
        alone = dataset.groups(database, part=part)
        assert [g.key for g in alone] == [g.key for g in groups]
    assert set(parts) == {name for name, _ in PARTS}


def test_files_round_trip(database: Database, tmp_path: Path) -> None:
    for n in (30, 50):
        stored(database, kernel(n))
    first, second = tmp_path / "a.jsonl.xz", tmp_path / "sub" / "b.jsonl.xz"
    count = dataset.write(database, first)
    copy = Database(tmp_path / "copy.sqlite")
    read = dataset.read(first, copy)
    assert (read.records, read.bad_count) == (count, 0)
    assert dataset.write(copy, second) == count
    assert first.read_bytes() == second.read_bytes()
    for a, b in zip(*(dataset.groups(d) for d in (database, copy)), strict=True):
        np.testing.assert_array_equal(a.features, b.features)
        np.testing.assert_array_equal(a.seconds, b.seconds)


def test_bad_lines_are_skipped_and_counted(database: Database, tmp_path: Path) -> None:
    stored(database, kernel(30))
    path = tmp_path / "a.jsonl.xz"
    count = dataset.write(database, path)
    text = lzma.decompress(path.read_bytes())
    path.write_bytes(lzma.compress(b"{}\nno json\n" + text))
    copy = Database(tmp_path / "copy.sqlite")
    read = dataset.read(path, copy)
    assert (read.records, read.bad_count) == (count, 2)
    assert [number for number, _ in read.bad] == [1, 2]


def test_lines_say_what_is_known(database: Database) -> None:
    k = kernel(30)
    stored(database, k)
    (line,) = dataset.lines(database)
    assert line.startswith(encoding.key(k)[:12]) and line.endswith("1 failed  best 0.500")


def test_progress_is_told(database: Database) -> None:
    said: list[Any] = []
    for n in range(20, 72):
        stored(database, kernel(n), count=1)
    dataset.groups(database, progress=said.append)
    assert said and said[0].startswith("50 of 52 kernels")
