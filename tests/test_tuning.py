"""Tuning: what is measured is kept, used by later compilations, and not measured again."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from running import same
from tilewright import tuning
from tilewright.cost_model import encoding, files, measure, rounds, standing
from tilewright.cost_model.choice import Choice, chooser
from tilewright.cost_model.features import NAMES, VERSION
from tilewright.cost_model.measure import Outcome, Task
from tilewright.cost_model.model import Model
from tilewright.cost_model.records import Database
from tilewright.cost_model.spaces import space
from tilewright.target import host
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Schedule

compiling = import_module("tilewright.compile")
RNG = np.random.default_rng(2)
X, W = (RNG.standard_normal(s).astype(np.float32) for s in ((24, 40), (40, 50)))


def layer(x: Any, w: Any) -> Any:
    return np.tanh(x @ w)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The user's database, empty, and no program in memory."""
    path = tmp_path / "measured.sqlite"
    monkeypatch.setenv(files.VARIABLE, str(path))
    monkeypatch.setattr(compiling, "_programs", compiling.Programs())
    return Database(path)


def is_default(task: Task) -> bool:
    k = encoding.decode(task.kernel)
    return task.schedule == Task.of(k, heuristic(k, host())).schedule


class Clock:
    """Stands for the machine: a candidate takes as long as its text is long, so the search has
    something to find, and what was asked for can be counted."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __call__(self, tasks: Any, executor: Any = None) -> Iterator[Outcome]:
        for task in tasks:
            self.tasks.append(task)
            if self.fails(task):
                yield Outcome(error="the process died of SIGSEGV", machine=encoding.machine_key())
                continue
            ratio = self.ratio(task)
            yield Outcome(1e-4 * ratio, ratio, 0.01, "", encoding.machine_key())

    def fails(self, task: Task) -> bool:
        return zlib.crc32(task.schedule.encode()) % 7 == 3

    def ratio(self, task: Task) -> float:
        return 1.0 if is_default(task) else 0.5 + len(task.schedule) / 1000

    @property
    def tried(self) -> list[str]:
        """The schedules, each once, in the order they were first measured."""
        return list(dict.fromkeys(t.schedule for t in self.tasks))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(measure, "outcomes", found)
    monkeypatch.setattr(encoding.Machine, "here", staticmethod(_machine))
    return found


def _machine() -> encoding.Machine:
    rates = encoding.Rates(1, *[1e9] * 7, (1 << 20, 1 << 25))
    known = encoding._described(host())
    return encoding.Machine(**known, l3_bytes=1 << 25, single=rates, shared=rates)


def test_measured_schedules_are_used_by_later_programs(kept: Database) -> None:
    """The whole way, with child processes that measure."""
    f = tw.compile(layer, threads=1)
    result = tw.tune(f, X, W, trials=20, progress=False)
    assert result.trials == 20 and not result.interrupted
    (t,) = result.kernels
    assert t.errors == 0 and 0 < t.best <= t.default
    same(f(X, W), layer(X, W), tolerance=1e-5)
    best = t.space.default if t.schedule is None else t.schedule
    again = tw.compile(lambda x, w: np.tanh(x @ w), threads=1)
    assert list(again.lower(X, W).schedules.values()) == [best]
    same(again(X, W), layer(X, W), tolerance=1e-5)


def test_the_best_is_found_and_reported(
    kept: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "WORTH", 0.0)
    result = tw.tune(layer, X, W, trials=64, threads=1, progress=False)
    (t,) = result.kernels
    early = clock.tasks[: -rounds.FIRST]  # what the last batch finds is not confirmed any more
    shortest = min(clock.ratio(task) for task in early if not clock.fails(task))
    assert t.best == pytest.approx(1e-4 * shortest, rel=1e-6)
    assert t.trials == len(clock.tasks) == 64
    assert t.errors == len({task.schedule for task in clock.tasks if clock.fails(task)}) > 0
    text = str(result)
    assert "64 trials in" in text and t.kernel.name in text and f"{t.ratio:.2f}x" in text
    assert [seconds for _, seconds in t.curve] == sorted((s for _, s in t.curve), reverse=True)


def test_going_on_takes_what_is_there(kept: Database, clock: Clock) -> None:
    tw.tune(layer, X, W, trials=32, threads=1, progress=False)
    count = len(clock.tasks)
    assert count == 32
    later_result = tw.tune(layer, X, W, trials=48, threads=1, progress=False)
    assert len(clock.tasks) == 80
    later = [task.schedule for task in clock.tasks[count:]]
    assert not {s for s in later if later.count(s) == 1} & {t.schedule for t in clock.tasks[:count]}
    (t,) = later_result.kernels
    default = Task.of(t.kernel, t.space.default).schedule
    stored = [r.schedule for r in kept.records()]
    asked = [task.schedule for task in clock.tasks]
    assert stored.count(default) == 1 + asked.count(default)
    assert len(stored) == 1 + len(asked)


class LuckyClock(Clock):
    """Measures each schedule as twice as fast as it is when it is asked for the first time."""

    def ratio(self, task: Task) -> float:
        return super().ratio(task) * (0.5 if self.tasks.count(task) == 1 else 1.0)


def test_a_lucky_measurement_is_not_the_best(
    kept: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lucky = LuckyClock()
    monkeypatch.setattr(measure, "outcomes", lucky)
    (t,) = tw.tune(layer, X, W, trials=64, threads=1, progress=False).kernels
    assert t.schedule is not None
    task = Task.of(t.kernel, t.schedule)
    assert [x.schedule for x in lucky.tasks].count(task.schedule) >= standing.FEW
    ratio = Clock.ratio(lucky, task)
    assert t.best == pytest.approx(t.default * ratio)
    assert dict(kept.best(t.kernel, encoding.machine_key(), 1, 64))[t.schedule] == ratio


class NoisyClock(Clock):
    """Every schedule takes 1.02 times as long as the default one, by measurements that scatter by
    2 %."""

    def ratio(self, task: Task) -> float:
        text = f"{task.schedule} {self.tasks.count(task)}"
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        return (1.0 if is_default(task) else 1.02) + 0.02 * float(rng.standard_normal())


def test_no_luck_takes_the_place_of_the_heuristics_schedule(
    kept: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = NoisyClock()
    monkeypatch.setattr(measure, "outcomes", noisy)
    (t,) = tw.tune(layer, X, W, trials=128, threads=1, progress=False).kernels
    luckiest = min(t.ratios.values(), key=lambda found: found[0])
    assert luckiest[0] < 0.99 and len(luckiest) > 1, "it was looked at again"
    assert t.schedule is None and t.best == t.default
    assert Choice(host(), 1, kept)(t.kernel) == t.space.default
    assert t.trials == len(noisy.tasks) == 128


class BiasedClock(Clock):
    """What all are compared with was unlucky by 5 %; all take as long, by measurements that
    scatter by 0.3 %."""

    def ratio(self, task: Task) -> float:
        text = f"{task.schedule} {self.tasks.count(task)}"
        return 0.95 + 0.003 * float(np.random.default_rng(zlib.crc32(text.encode())).normal())


def test_the_default_schedule_is_measured_as_any_other(
    kept: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    biased = BiasedClock()
    monkeypatch.setattr(measure, "outcomes", biased)
    (t,) = tw.tune(layer, X, W, trials=64, threads=1, progress=False).kernels
    assert sum(map(is_default, biased.tasks)) >= standing.FEW
    assert t.schedule is None and Choice(host(), 1, kept)(t.kernel) == t.space.default


def test_kernels_share_the_budget_by_what_they_cost(kept: Database, clock: Clock) -> None:
    def often(x: Any, w: Any) -> Any:
        h, _ = tw.scan(lambda h, _: (np.tanh(h @ w), None), x, None, 50)
        return np.sort(h, 1) @ w.T

    w = W[:40, :40]
    result = tw.tune(often, X, w, trials=96, threads=1, progress=False)
    by_calls = {t.calls: t.trials for t in result.kernels}
    assert by_calls[50] > 1.5 * max(n for calls, n in by_calls.items() if calls == 1)


def test_an_interrupt_keeps_what_is_there(
    kept: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tasks: Any, executor: Any = None) -> Iterator[Outcome]:
        for outcome in clock(tasks):
            if len(clock.tasks) == 6:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(measure, "outcomes", interrupted)
    result = tw.tune(layer, X, W, trials=64, threads=1, progress=False)
    assert result.interrupted and "interrupted" in str(result)
    assert len(list(kept.records())) == 5 + 1, "and the default schedule"


def test_seconds_end_it(kept: Database, clock: Clock) -> None:
    assert tw.tune(layer, X, W, seconds=0, threads=1, progress=False).trials == 0


def test_progress_goes_where_it_is_wanted(kept: Database, clock: Clock) -> None:
    shown = io.StringIO()
    tw.tune(layer, X, W, trials=16, threads=1, progress=shown)
    (line, *_) = shown.getvalue().splitlines()
    assert (
        line.startswith("layer: 1/16 trials, ") and " us, " in line and "x | all 100.0 -> " in line
    )


def test_kernels_without_choices_are_left_alone(kept: Database, clock: Clock) -> None:
    result = tw.tune(lambda x: x + 1, np.float32(1), trials=8, progress=False)
    assert result.kernels == () and result.trials == 0
    assert "0 trials" in str(result)


@pytest.mark.parametrize("search", ["gradient", "evolutionary", "random"])
def test_searches_are_chosen_by_name(search: str, kept: Database, clock: Clock) -> None:
    (t,) = tw.tune(layer, X, W, trials=40, threads=1, progress=False, search=search).kernels
    assert type(t.search).__name__.lower() == f"{search}search"
    assert t.trials == 40 and t.best < t.default


def test_nothing_is_measured_with_no_trials(kept: Database, clock: Clock) -> None:
    """What is known is used all the same."""
    f = tw.compile(layer, threads=1)
    tw.tune(f, X, W, trials=48, progress=False)
    count, chosen = len(clock.tasks), f.lower(X, W).schedules
    assert tw.tune(f, X, W, trials=0, progress=False).trials == 0 and len(clock.tasks) == count
    assert f.lower(X, W).schedules == chosen


def test_bench_collects(kept: Database, clock: Clock) -> None:
    kernels = [(k.name, k) for k in tw.compile(layer, threads=1).lower(X, W).kernels]
    assert tw.bench(kernels, each=20, progress=False) == 20
    stored = [r.schedule for r in kept.records()]
    default = Task.of(kernels[0][1], heuristic(kernels[0][1], host())).schedule
    assert len({*stored} - {default}) == 20 and stored.count(default) == 1


# -- choices -----------------------------------------------------------------------------------


def kernel(n: int = 50) -> Any:
    (found,) = tw.compile(layer, threads=1).lower(X, W[:, :n]).kernels
    return found


def test_nothing_learned_is_the_heuristic(kept: Database) -> None:
    k = kernel()
    assert Choice(host(), 1)(k) == heuristic(k, host())
    assert Choice(host(), 1, kept)(k) == heuristic(k, host())


def test_what_was_measured_as_slower_is_not_taken(kept: Database, clock: Clock) -> None:
    k = kernel()
    s = space(k, host(), 1)
    points = s.random(np.random.default_rng(0), 3)
    slow, lucky, fast = (s.schedule(p) for p in points)
    usual = heuristic(k, host())
    for schedule, ratio, expected in (
        (slow, 1.2, usual), (lucky, 0.5, usual), (lucky, 1.0, usual), (slow, 0.5, usual),
        (lucky, 0.97, usual), (fast, 0.5, usual), (fast, 0.5, usual), (fast, 0.51, fast),
    ):  # fmt: skip
        task = Task.of(k, schedule)
        record = Outcome(ratio, ratio, 0.01, "", encoding.machine_key()).record(task, VERSION)
        kept.insert([record], [k], [_machine()])
        assert Choice(host(), 1, kept)(k) == expected


def test_a_model_that_expects_nothing_better_is_not_followed() -> None:
    blank = Model.blank(NAMES, VERSION)
    blank = Model(
        {n: np.zeros_like(p) for n, p in blank.params.items()}, blank.features, blank.version,
        blank.mean, blank.scale,
    )  # fmt: skip
    k = kernel()
    s = space(k, host(), 1)
    options = Choice(host(), 1, None, blank).options(s, 200, 8)
    assert options[0].schedule == heuristic(k, host())
    rest = [o.seconds for o in options[1:]]
    assert rest == sorted(rest) and len({o.schedule for o in options}) == 9
    chosen = Choice(host(), 1, None, blank)(k)
    better = rest[0] < options[0].seconds / 1.8
    assert chosen == (options[1].schedule if better else options[0].schedule)


def test_the_key_follows_what_is_stored(kept: Database, clock: Clock) -> None:
    c = Choice(host(), 1, kept)
    before = c.cache_key
    assert before == Choice(host(), 1, Database(kept.path)).cache_key
    tw.tune(layer, X, W, trials=4, threads=1, progress=False)
    assert c.cache_key != before


def test_a_damaged_database_is_no_reason_not_to_compile(kept: Database) -> None:
    kept.path.write_bytes(b"no database at all" * 100)
    same(tw.compile(layer)(X, W), layer(X, W), tolerance=1e-5)
    assert isinstance(chooser(host(), 1), Choice)


def test_importing_does_not_load_the_tuner() -> None:
    code = (
        "import sys, tilewright as tw; assert not {m for m in sys.modules if m in"
        " ('sqlite3', 'tilewright.tuning', 'tilewright.cost_model.model')}; tw.tune"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tuned_schedules_round_trip(kept: Database, clock: Clock) -> None:
    """What the database gives back is legal and what was measured."""
    tw.tune(layer, X, W, trials=16, threads=1, progress=False)
    k = kernel()
    stored = {s.to_json() for s, _ in kept.best(k, encoding.machine_key(), 1, most=100)}
    measured = {
        encoding.native(k, Schedule.from_json(task.schedule)).to_json()
        for task in clock.tasks
        if not clock.fails(task)
    }
    assert stored == measured | {heuristic(k, host()).to_json()}


def test_tuning_takes_compiled_functions_of_any_signature(kept: Database, clock: Clock) -> None:
    f = tw.compile(layer, threads=1)
    f(X, W)
    tuning.tune(f, X, w=W, trials=4, progress=False)
    assert f.signatures == ()
    same(f(X, W), layer(X, W), tolerance=1e-5)


def test_the_shipped_model_is_followed_where_that_is_asked_for(
    kept: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grouped convolution: the heuristic gives it one vector a round."""
    assert chooser(host(), 1) is None
    monkeypatch.setenv(files.MODEL, "on")
    choice = chooser(host(), 1)
    assert choice is not None and choice.model is not None and choice.model.trusted

    x, w = (RNG.standard_normal(s).astype(np.float32) for s in ((1, 64, 24, 24), (64, 8, 3, 3)))

    def grouped(x: Any, w: Any) -> Any:
        return tw.lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=8)

    followed = tw.compile(grouped, threads=1)
    plain = tw.compile(grouped, threads=1, scheduler=lambda k: heuristic(k, host()))
    same(followed(x, w), plain(x, w), tolerance=1e-4)
    assert followed.lower(x, w).schedules != plain.lower(x, w).schedules
