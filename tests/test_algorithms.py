"""Algorithms of convolutions and attentions: measured as whole programs, kept, and followed."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from running import same
from tilewright import tuning
from tilewright.compile import machine
from tilewright.cost_model import algorithms, encoding, files, measure
from tilewright.cost_model.algorithms import Fixed
from tilewright.cost_model.choice import Choice
from tilewright.cost_model.deferred import Deferred
from tilewright.cost_model.measure import Outcome
from tilewright.cost_model.records import Database, Timing
from tilewright.ops.attention import Attention, AttentionGradient
from tilewright.ops.winograd import FilterData
from tilewright.options import Options
from tilewright.target import host
from tilewright.transforms import pipeline
from tilewright.transforms.alternatives import Computation
from tilewright.transforms.winograd import ALGORITHMS, DIRECT, Convolution

compiling = import_module("tilewright.compile")
RNG = np.random.default_rng(4)
X, W = (RNG.standard_normal(s).astype(np.float32) for s in ((1, 16, 12, 10), (16, 16, 3, 3)))


def conv(x: Any, w: Any) -> Any:
    return tw.lax.conv_general_dilated(x, w, (1, 1), "SAME")


def convolution(constant: bool = False) -> Convolution:
    w = tw.constant(W)
    f = tw.compile((lambda x: conv(x, w)) if constant else conv)
    lowered = f.lower(X) if constant else f.lower(X, W)
    (found,) = pipeline.computations(lowered.graph, Options())
    return found


def of(c: Convolution, seconds: dict[str, float]) -> list[Timing]:
    """Measurements of this machine by somebody else's clock."""
    here = c.text, encoding.machine_key(machine()), 1
    return [Timing(*here, n, s, seconds[DIRECT], 1e9, "a compiler") for n, s in seconds.items()]


def used(f: Any, *args: Any) -> set[int]:
    """The points of the filterings that a compiled function uses."""
    nodes, found = [f.lower(*args).simplified], set()
    while nodes:
        for n in nodes.pop().nodes:
            nodes += n.op.graphs.values()
            if isinstance(n.op, FilterData):
                found.add(n.op.filtering.points)
    return found


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The user's database, empty, and no program in memory."""
    path = tmp_path / "measured.sqlite"
    monkeypatch.setenv(files.VARIABLE, str(path))
    monkeypatch.setattr(compiling, "_programs", compiling.Programs())
    return Database(path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Convolution]:
    """What is measured: the smaller filtering is the fastest. Schedules are all alike."""
    asked: list[Convolution] = []

    def timed(c: Convolution, choice: Choice, compiled: Any) -> list[Timing]:
        asked.append(c)
        return of(c, {DIRECT: 4.0, "winograd 2x2": 1.0, "winograd 4x4": 2.0})

    def outcomes(tasks: Any, executor: Any = None) -> Iterator[Outcome]:
        for _ in tasks:
            yield Outcome(1e-4, 1.0, 0.01, "", encoding.machine_key())

    monkeypatch.setattr(algorithms, "timed", timed)
    monkeypatch.setattr(measure, "outcomes", outcomes)
    return asked


def test_texts_tell_convolutions_apart() -> None:
    plain, fixed = convolution(), convolution(constant=True)
    assert plain.text != fixed.text and plain.text == convolution().text
    told = json.loads(plain.text)
    assert told["x"] == ["f32", *X.shape] and told["w"] == ["f32", *W.shape]
    assert not told["constant"] and told["padding"] == [[1, 1], [1, 1]]


@pytest.mark.parametrize("constant", [False, True])
def test_every_algorithm_is_measured_as_a_program(constant: bool) -> None:
    c = convolution(constant)
    choice = Choice(machine(), 1)
    found = algorithms.timed(c, choice, tw.compile)
    assert [t.algorithm for t in found] == list(ALGORITHMS)
    assert all(0 < t.seconds < 10 and t.convolution == c.text for t in found)
    assert found[0].seconds == found[0].reference


def test_algorithms_compute_the_same_in_other_ways() -> None:
    choice, expected = Choice(machine(), 1), None
    ways = []
    for name in ALGORITHMS:
        f = tw.compile(conv, threads=1, scheduler=Fixed(choice, name))
        ways.append(used(f, X, W))
        expected = f(X, W) if expected is None else expected
        same(f(X, W), expected, tolerance=1e-4)
    assert ways == [set(), {4}, {6}]


def test_what_was_measured_is_followed(kept: Database, clock: list[Convolution]) -> None:
    f = tw.compile(conv, threads=1)
    before, plain = f(X, W), used(f, X, W)
    result = tw.tune(f, X, W, trials=8, progress=False)
    assert clock == [convolution()] and plain != {4}
    assert result.trials == 8 and len(result.algorithms) == 3
    assert "winograd 2x2: 1000000.0 us, 4.00x" in str(result)
    assert used(f, X, W) == {4}, "by later programs too"
    same(f(X, W), before, tolerance=1e-4)
    assert used(tw.compile(lambda a, b: conv(a, b), threads=1), X, W) == {4}
    assert not used(tw.compile(conv, options=Options(winograd=False), threads=1), X, W)
    tw.tune(f, X, W, trials=8, progress=False)
    assert len(clock) == 1, "it is known"


def attend(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.swapaxes(-1, -2) * 0.2
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v


def test_attentions_are_measured_and_cut_as_was_best(
    kept: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [RNG.standard_normal((2, 70, 8)).astype(np.float32) for _ in range(3)]

    def loss(*args: Any) -> Any:
        return (attend(*args) ** 2).sum()

    def cuts(f: Any) -> list[Any]:
        nodes = f.lower(*args).simplified.nodes
        return [n.op.blocks for n in nodes if isinstance(n.op, (Attention, AttentionGradient))]

    def timed(c: Computation, choice: Choice, compiled: Any) -> list[Timing]:
        """The last is the fastest."""
        here = c.text, encoding.machine_key(machine()), 1
        names = enumerate(c.algorithms)
        return [Timing(*here, n, 9.0 - i, 9.0, 1e9, "a compiler") for i, n in names]

    f = tw.compile(tw.grad(loss, argnums=(0, 1, 2)), threads=1)
    before = f(*args)
    questions = pipeline.computations(f.lower(*args).graph, Options(), machine())
    usual = [c.counted for c in questions]
    assert [n if b is None else str(b) for n, b in zip(usual, cuts(f), strict=True)] == usual
    assert len(questions) == 2 and len({c.text for c in questions}) == 2
    real = algorithms.timed(questions[0], Choice(machine(), 1), tw.compile)
    assert [t.algorithm for t in real] == list(questions[0].algorithms)
    monkeypatch.setattr(algorithms, "timed", timed)
    result = tw.tune(f, *args, trials=sum(len(c.algorithms) for c in questions), progress=False)
    assert len(result.algorithms) == result.trials
    assert [str(b) for b in cuts(f)] == [c.algorithms[-1] for c in questions]
    for a, b in zip(f(*args), before, strict=True):
        same(a, b, tolerance=1e-5)
    found = f.lower(*args).algorithms()
    assert [a.name for a in found] == [c.algorithms[-1] for c in questions]
    assert all(a.origin.startswith("measurements") for a in found)
    tw.tune(f, *args, trials=0, progress=False)
    assert [str(b) for b in cuts(f)] == [c.algorithms[-1] for c in questions], "kept"


def test_few_trials_and_schedulers_of_users_measure_none(
    kept: Database, clock: list[Convolution]
) -> None:
    tw.tune(conv, X, W, trials=2, threads=1, progress=False)
    f = tw.compile(conv, scheduler=lambda k: tuning.space(k, host()).default, threads=1)
    tw.tune(f, X, W, trials=4, progress=False)
    assert clock == []


def test_an_interrupt_keeps_what_was_measured(
    kept: Database, clock: list[Convolution], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(algorithms, "timed", interrupted)
    result = tw.tune(conv, X, W, trials=8, threads=1, progress=False)
    assert result.interrupted and result.trials == 0 and kept.timings() == []


def test_nothing_is_believed_that_was_not_compared(kept: Database) -> None:
    """Others' files may say anything."""
    c, choice = convolution(), Choice(machine(), 1, kept)
    assert choice.algorithm(c) is None
    kept.time(of(c, {DIRECT: 4.0, "winograd 2x2": 1.0}))
    assert choice.algorithm(c) is None, "the third was not measured"
    kept.time(of(c, {DIRECT: 4.0, "winograd 4x4": 2.0, "__import__('os')": 1e-9}))
    assert choice.algorithm(c) == Deferred(machine(), 1).algorithm(c) == "winograd 2x2"
    assert Choice(machine(), 2, kept).algorithm(c) is None, "on another number of threads"


def test_timings_travel_as_lines(kept: Database, tmp_path: Path) -> None:
    c = convolution()
    before = kept.stamp
    kept.time(of(c, {DIRECT: 4.0, "winograd 2x2": 1.0, "winograd 4x4": 2.0}))
    assert kept.stamp == before + 3
    text = io.StringIO()
    assert kept.export(text) == 3
    other = Database(tmp_path / "other.sqlite")
    assert other.read(io.StringIO(text.getvalue())).records == 3
    assert other.timings() == kept.timings()
    assert other.read(io.StringIO(text.getvalue())).records == 0, "they are there"
    line = json.loads(text.getvalue().splitlines()[0])
    for wrong in ({"seconds": "1"}, {"algorithm": 7}, {"threads": 1.5}, {"more": 1}):
        found = other.read(io.StringIO(json.dumps(line | wrong) + "\n"))
        assert (found.records, found.bad_count) == (0, 1)


def test_rows_that_hold_no_numbers_say_nothing(kept: Database) -> None:
    c, choice = convolution(), Choice(machine(), 1, kept)
    kept.time(of(c, {DIRECT: 4.0, "winograd 2x2": 1.0, "winograd 4x4": 2.0}))
    assert choice.algorithm(c) == "winograd 2x2"
    kept.close()
    connection = sqlite3.connect(kept.path)
    for column, value in (("reference", "many"), ("seconds", "few"), ("seconds", float("inf"))):
        connection.execute(f"UPDATE timings SET {column} = ?", (value,))
        connection.commit()
        assert choice.algorithm(c) is None
        connection.execute("UPDATE timings SET reference = 4.0")
        connection.commit()
    connection.close()


def test_files_of_older_compilers_are_used(kept: Database) -> None:
    kept.time([])
    kept.close()
    with sqlite3.connect(kept.path) as c:
        c.execute("DROP TABLE timings")
    c.close()
    older = Database(kept.path)
    assert older.timings() == [] and older.stamp == 0
