"""The database of measurements: what goes in comes out, whoever else writes or is damaged."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test_encoding import MACHINE, kernels_of
from tilewright.compile import machine
from tilewright.cost_model import encoding, files, records
from tilewright.cost_model.records import Database, Record, database, schedule_of
from tilewright.errors import BadDatabase, BadEncoding, ScheduleError
from tilewright.kernel import Kernel
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Schedule, Split, Unroll, names


@pytest.fixture(scope="module")
def product() -> Kernel:
    (k,) = kernels_of(lambda x, w: x @ w, np.ones((6, 20), np.float32), np.ones((20, 37)))
    return k


def unrolled(kernel: Kernel, factor: int) -> Schedule:
    """A schedule of the canonical form."""
    row = names(encoding.canonical(kernel)).__iter__().__next__()
    return Schedule((Split(row, factor), Unroll(f"{row}.i")))


def record(
    kernel: Kernel, factor: int = 2, seconds: float | None = 1e-5, at: float = 0.0
) -> Record:
    return Record(
        encoding.key(kernel), MACHINE.key, 1, unrolled(kernel, factor).to_json(), seconds,
        None if seconds is None else 2e-5, None if seconds is None else 0.01,
        "it crashed" if seconds is None else "", at, "v1", 3,
    )  # fmt: skip


@pytest.fixture
def filled(tmp_path: Path, product: Kernel) -> Database:
    found = Database(tmp_path / "a" / "m.sqlite")
    many = [record(product, f, f * 1e-5, f) for f in (3, 2, 1)] + [record(product, 4, None, 4)]
    assert found.insert(many, [product], [MACHINE]) == 4
    return found


def test_records_come_back(filled: Database, product: Kernel) -> None:
    found = list(Database(filled.path).records())
    assert [r.at for r in found] == [3, 2, 1, 4]
    assert found[-1] == record(product, 4, None, 4)
    assert [r.ratio for r in found] == [1.5, 1, 0.5, float("inf")]
    assert list(filled.records(threads=2)) == []
    assert list(filled.records(encoding.key(product), MACHINE.key, 1)) == found
    (text,) = filled.kernels().values()
    assert encoding.key(encoding.decode(text)) == encoding.key(product)
    assert filled.machines() == {MACHINE.key: MACHINE.to_json()}


def test_the_same_measurement_is_stored_once(filled: Database, product: Kernel) -> None:
    assert filled.insert([record(product, 3, 3e-5, 3), record(product, 3, 3e-5, 99)]) == 1
    assert len(list(filled.records())) == 5


def test_the_best_schedule_comes_first_in_the_kernels_own_names(
    filled: Database, product: Kernel
) -> None:
    row = next(iter(names(product)))
    best = filled.best(product, MACHINE.key, 1, most=2)
    assert best == [
        (Schedule((Split(row, f), Unroll(f"{row}.i"))), ratio) for f, ratio in ((1, 0.5), (2, 1.0))
    ]
    assert filled.best(product, MACHINE.key, 2) == filled.best(product, "other", 1) == []


def test_a_lucky_measurement_does_not_win(filled: Database, product: Kernel) -> None:
    filled.insert([record(product, 3, 1e-7, 10), record(product, 2, 2.2e-5, 11)])
    (best,) = filled.best(product, MACHINE.key, 1)
    assert best[1] == 0.5


@pytest.mark.parametrize(
    "text",
    ["", "[]x", '[["Split", {"axis": "a0"}]]', '[["Split", {"axis": "a0", "factor": "2"}]]',
     '[["Split", {"axis": "nowhere", "factor": 2}]]', '[["Split", {"axis": "a0", "factor": 99}]]',
     '[["Order", {"axes": [1, 2]}]]', '[["Split", 3]]', '[[[], {}]]',
     "[" * 5000 + "]" * 5000, " " * (1 << 17)],
)  # fmt: skip
def test_schedules_nobody_should_run_are_passed_over(
    filled: Database, product: Kernel, text: str
) -> None:
    with pytest.raises(ScheduleError):
        schedule_of(text, product)
    filled.insert([replace(record(product, 1, 1e-9, 50), schedule=text)])
    assert filled.best(product, MACHINE.key, 1)[0][1] == 0.5


def test_a_heuristic_schedule_survives_the_way_through_the_database(
    filled: Database, product: Kernel
) -> None:
    schedule = heuristic(product, machine())
    text = encoding.portable(product, schedule).to_json()
    assert schedule_of(text, product) == schedule


def test_reading_makes_no_file(tmp_path: Path, product: Kernel) -> None:
    empty = Database(tmp_path / "b" / "m.sqlite")
    assert list(empty.records()) == empty.best(product, MACHINE.key, 1) == []
    assert empty.kernels() == empty.machines() == {}
    assert list(empty.lines()) == []
    assert not (tmp_path / "b").exists()


def test_a_record_of_an_unknown_kernel_is_refused_with_its_whole_batch(
    filled: Database, product: Kernel
) -> None:
    stray = replace(record(product), kernel="0" * 64)
    with pytest.raises(BadEncoding, match="its kernel is not in the database"):
        filled.insert([record(product, 5), stray])
    assert len(list(filled.records())) == 4


# -- exchange --------------------------------------------------------------------------------------


def test_lines_carry_everything(filled: Database, tmp_path: Path) -> None:
    file = io.StringIO()
    assert filled.export(file) == 6
    other = Database(tmp_path / "other.sqlite")
    file.seek(0)
    assert other.read(file) == records.Imported(4, (), 0)
    assert list(other.lines()) == list(filled.lines())
    file.seek(0)
    assert other.read(file).records == 0


def test_databases_merge(filled: Database, tmp_path: Path, product: Kernel) -> None:
    other = Database(tmp_path / "other.sqlite")
    other.insert([record(product, 1, 1e-5, 1), record(product, 6, 5e-5, 6)], [product])
    assert other.merge(filled).records == 3
    assert {r.at for r in other.records()} == {1, 2, 3, 4, 6}
    assert other.machines() == filled.machines()


def _changed(**fields: Any) -> Callable[[dict[str, Any]], str]:
    return lambda line: json.dumps({**line, **fields})


BAD: dict[str, Callable[[dict[str, Any]], str]] = {
    "cut short": lambda line: json.dumps(line)[:-9],
    "empty": lambda line: "",
    "a list": lambda line: json.dumps([line]),
    "a kind": _changed(kind="pickle"),
    "a field more": _changed(more=1),
    "negative": _changed(seconds=-1.0),
    "infinite": _changed(seconds=1e999),
    "text": _changed(seconds="1"),
    "truth": _changed(threads=True),
    "no kernel": _changed(kernel="0" * 64),
    "neither": _changed(seconds=None),
    "both": _changed(error="it crashed"),
    "schedule": _changed(schedule="import os"),
    "a number as kernel": _changed(kind="kernel", json=3),
    "long": _changed(compiler="x" * (records.MOST_LINE + 10)),
}


@pytest.mark.parametrize("how", BAD)
def test_bad_lines_are_skipped_and_reported(filled: Database, tmp_path: Path, how: str) -> None:
    lines = list(filled.lines())
    lines[3] = BAD[how](json.loads(lines[3]))
    other = Database(tmp_path / "other.sqlite")
    found = other.read(io.StringIO("\n".join(lines) + "\n"))
    assert (found.records, found.bad_count, [n for n, _ in found.bad]) == (3, 1, [4])
    assert found.bad[0][1].startswith("this is not a stored ")


def test_a_kernel_under_a_wrong_key_takes_its_records_with_it(
    filled: Database, tmp_path: Path
) -> None:
    lines = list(filled.lines())
    lines[0] = json.dumps({**json.loads(lines[0]), "key": "0" * 64})
    found = Database(tmp_path / "other.sqlite").read(io.StringIO("\n".join(lines)))
    assert (found.records, [n for n, _ in found.bad]) == (0, [1, 3, 4, 5, 6])


# -- files -----------------------------------------------------------------------------------------


def test_files_that_are_no_databases_are_left_alone(tmp_path: Path, product: Kernel) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to look at " * 50)
    with pytest.raises(BadDatabase, match="not a database"):
        Database(text).insert([])
    assert text.read_text().startswith("not a database")
    with pytest.raises(BadDatabase):
        list(Database(text).records())


def test_a_later_version_is_not_touched(filled: Database) -> None:
    with filled._transaction(make=True) as c:
        assert c is not None
        c.execute(f"PRAGMA user_version = {records.SCHEMA + 1}")
    filled.close()
    with pytest.raises(BadDatabase, match="version 2, not 1"):
        filled.insert([])


def test_the_environment_names_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(files.VARIABLE, str(tmp_path / "here.sqlite"))
    named = database()
    assert named is not None
    assert named.path == tmp_path / "here.sqlite"
    monkeypatch.setenv(files.VARIABLE, "off")
    assert database() is None
    monkeypatch.delenv(files.VARIABLE)
    assert database() is None, "the tests keep no code on disk, nor measurements"
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path))
    beside = database()
    assert beside is not None
    assert beside.path.parent == tmp_path


def test_threads_write_at_once(filled: Database, product: Kernel) -> None:
    def write(k: int) -> None:
        for i in range(20):
            filled.insert([record(product, 2, 1e-5, 100 * k + i)])

    others = [threading.Thread(target=write, args=(k,)) for k in range(1, 5)]
    for t in others:
        t.start()
    for t in others:
        t.join()
    assert len(list(filled.records())) == 84


WRITER = """
import itertools, json, sys
from tilewright.cost_model.records import Database, Record
database, fields = Database(sys.argv[1]), json.loads(sys.argv[2])
for n in itertools.count():
    database.insert([Record(**{**fields, "at": 100.0 * n + k}) for k in range(50)])
    print(n, flush=True)
    if n + 1 == int(sys.argv[3]):
        break
"""


def _writer(path: Path, r: Record, batches: int) -> subprocess.Popen[str]:
    arguments = [str(path), json.dumps(asdict(r)), str(batches)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


def test_processes_write_at_once(filled: Database, product: Kernel) -> None:
    compilers = ("one", "two", "three")
    writers = [
        _writer(filled.path, replace(record(product, k + 5), compiler=name), 4)
        for k, name in enumerate(compilers)
    ]
    for w in writers:
        w.communicate()
    assert [w.returncode for w in writers] == [0, 0, 0]
    found = [r.compiler for r in filled.records()]
    assert [found.count(name) for name in compilers] == [200, 200, 200]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_writer_that_is_killed_leaves_whole_batches(filled: Database, product: Kernel) -> None:
    with _writer(filled.path, replace(record(product, 5), compiler="killed"), -1) as w:
        assert w.stdout is not None
        for _ in range(3):
            w.stdout.readline()
        time.sleep(0.003)
        w.kill()
    found = [r.at // 100 for r in filled.records() if r.compiler == "killed"]
    assert len(found) >= 150
    assert {found.count(n) for n in found} == {50}
    assert filled.insert([record(product, 6)]) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_opens_its_own_connection(filled: Database, product: Kernel) -> None:
    list(filled.records())
    child = os.fork()
    if child == 0:
        try:
            done = filled.insert([record(product, 5, 1e-5, 500)])
        finally:
            os._exit(0 if done == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(filled.records())) == 5
