"""Explaining: what chose a schedule, what is known of its time, and what makes others differ."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import roofline
from tilewright.cost_model import encoding, explaining, files
from tilewright.cost_model.algorithms import Fixed
from tilewright.cost_model.choice import MARGIN, Choice
from tilewright.cost_model.explaining import Explanation
from tilewright.cost_model.features import NAMES, TERMS, VERSION
from tilewright.cost_model.model import Model
from tilewright.cost_model.records import Database, Record
from tilewright.cost_model.spaces import space
from tilewright.cost_model.standing import FEW
from tilewright.kernel import Kernel
from tilewright.roofline import Rates
from tilewright.target import Target, host
from tilewright.transforms import schedule as scheduling
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Order, Parallel, Schedule, Split, Unroll, Vectorize

compiling = import_module("tilewright.compile")
ZNVER4 = Target(
    "x86_64-unknown-linux-gnu",
    "znver4",
    "+avx512f,+avx512vl,+avx512vnni,+f16c,+fma",
    vector_bytes=64,
)
STEPS = {n: getattr(scheduling, n) for n in scheduling.STEPS} | {"Schedule": Schedule}


def f32(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def dense(x: Any, w: Any) -> Any:
    return np.maximum(x @ w, 0)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def moved(x: Any) -> Any:
    return np.tanh(x).T + 1


KERNELS: dict[Callable[..., Any], tuple[Any, ...]] = {
    dense: (f32(48, 40), f32(40, 64)),
    softmax: (f32(6, 200),),
    moved: (f32(96, 128),),
}


def kernel_of(f: Callable[..., Any]) -> Kernel:
    (found,) = tw.compile(f, threads=1).lower(*KERNELS[f]).kernels
    return replace(found, name=f.__name__)


def tiny_model() -> Model:
    """Three numbers of a schedule through two layers of one unit, written by hand."""
    blank = Model.blank(NAMES, VERSION, width=1)
    w1 = np.zeros((len(NAMES), 1), np.float32)
    for name, weight in (("log2 rows a round", 0.25), ("staged", 1.0), ("turned", -0.75)):
        w1[NAMES.index(name)] = weight
    one = np.ones((1, 1), np.float32)
    params = {**blank.params, "w1": w1, "w2": one, "w3": -0.8 * one[0]}
    return Model(params, NAMES, VERSION, blank.mean, blank.scale)


def explained(
    f: Callable[..., Any], scheduler: Any = None, schedule: Schedule | None = None
) -> Explanation:
    k = kernel_of(f)
    chosen = schedule or (scheduler or functools.partial(heuristic, target=ZNVER4))(k)
    (found,) = explaining.explained([(k, chosen)], scheduler, ZNVER4, 1)
    return found


# -- the text --------------------------------------------------------------------------------------


def test_the_text_for_a_product(golden: Callable[[str, str], None]) -> None:
    """All of it, by a model of which every weight is known."""
    by_model = explained(dense, Choice(ZNVER4, 1, None, tiny_model()))
    by_roofline = explained(dense)
    golden("explain", f"{by_model}\n{by_roofline}\n")


@pytest.mark.parametrize("f", KERNELS)
def test_what_is_said_is_short_and_can_be_pasted(f: Callable[..., Any]) -> None:
    found = explained(f, Choice(ZNVER4, 1, None, tiny_model()))
    lines = str(found).splitlines()
    assert len(lines) <= 12
    schedules = [line[line.index("Schedule(") :] for line in lines if "Schedule(" in line]
    assert len(found.next) == 3
    assert [eval(text, dict(STEPS)) for text in schedules] == [
        found.schedule, *(c.schedule for c in found.next)
    ]  # fmt: skip


def test_programs_explain_each_kernel() -> None:
    def both(x: Any, w: Any) -> Any:
        return np.sort(np.tanh(x @ w), 1) @ w.T

    low = tw.compile(both, threads=1).lower(f32(24, 32), f32(32, 40))
    before, after = low.explain().split("\nschedules:\n")
    assert "kept in memory:" in before
    assert len(low.kernels) > 1
    titles = [line.split(":")[0] for line in after.splitlines() if not line.startswith(" ")]
    assert titles == [k.name for k in low.kernels]


def test_algorithms_are_explained_with_the_others() -> None:
    x, w = f32(1, 16, 12, 10), f32(16, 16, 3, 3)

    def conv(x: Any, w: Any) -> Any:
        return tw.lax.conv_general_dilated(x, w, (1, 1), "SAME")

    (found,) = tw.compile(conv, threads=1).lower(x, w).algorithms()
    assert found.name == found.computation.counted and "a count of cycles" in found.origin
    assert str(found) in tw.compile(conv, threads=1).lower(x, w).explain()
    others = str(found).splitlines()[-1]
    assert all((n in others) == (n != found.name) for n in found.computation.algorithms)
    given = tw.compile(conv, threads=1, scheduler=Fixed(Choice(ZNVER4, 1), "winograd 2x2"))
    (found,) = given.lower(x, w).algorithms()
    assert found.name == "winograd 2x2" and found.origin == "the scheduler that was given"
    assert "algorithms:" not in tw.compile(np.exp).lower(x).explain()


def test_what_is_computed_ahead_is_explained_apart() -> None:
    w = tw.constant(np.linspace(0, 1, 40 * 50).reshape(40, 50).astype(np.float32))
    f = tw.compile(lambda x: x @ np.exp(w + tw.numpy.zeros(1, w.dtype)), threads=1)
    lowered = f.lower(np.ones((30, 40), np.float32))
    first = lowered.entry.program.assembly.preparation
    assert first is not None and first.kernels
    found = lowered.explained(ahead=True)
    assert [e.kernel for e in found] == [s.kernel for s in first.kernels]
    assert [e.schedule for e in found] == [s.schedule for s in first.kernels]
    assert [e.kernel for e in lowered.explained()] == list(lowered.kernels)
    calls, ahead = lowered.explain().split("schedules of what is computed ahead, once")
    assert all(str(e) in ahead and str(e) not in calls for e in found)
    plain = tw.compile(lambda x: x + 1).lower(np.ones(3))
    assert plain.explained(ahead=True) == [] and "schedules of what" not in plain.explain()


def test_a_kernel_without_choices() -> None:
    text = tw.compile(lambda x: x + 1, threads=1).lower(np.float32(1)).explain()
    assert "\n  schedule   Schedule()\n" in text
    assert text.endswith("\n  next       nothing: there is one schedule")


def test_what_is_no_kernel_has_no_schedule() -> None:
    text = tw.compile(lambda x: np.sort(x, 1)).lower(f32(4, 50)).explain()
    assert "sort is opaque" in text and text.endswith("\nschedules:")


# -- what chose ------------------------------------------------------------------------------------


def test_the_heuristic_chose() -> None:
    assert explained(dense).origin.startswith("the heuristic: nothing was measured, and no model")
    blank = Model.blank(NAMES, VERSION)
    gain = math.exp(MARGIN) - 1
    told = f"the heuristic: nothing was measured, and the model expects less than {gain:.0%} "
    assert explained(dense, Choice(ZNVER4, 1, None, blank)).origin.startswith(told)


def test_the_users_scheduler_chose() -> None:
    def as_written(kernel: Kernel) -> Schedule:
        return Schedule()

    text = tw.compile(dense, scheduler=as_written, threads=1).lower(*KERNELS[dense]).explain()
    assert "chosen by  the scheduler that was given, test_the_users_scheduler" in text
    assert ", the heuristic's: Schedule((" in text


def test_the_model_chose() -> None:
    chooser = Choice(ZNVER4, 1, None, tiny_model())
    found = explained(dense, chooser)
    assert chooser(found.kernel) != heuristic(found.kernel, ZNVER4)
    assert found.origin == "the model: nothing was measured"
    assert found.judge == "the model" and "by the model\n" in str(found)


# -- what was measured -----------------------------------------------------------------------------


def candidates(k: Kernel, target: Target, count: int) -> list[Schedule]:
    """Different schedules, none of them the heuristic's."""
    s = space(k, target, 1)
    every = [s.schedule(p) for p in s.random(np.random.default_rng(1), 4 * count)]
    return [x for x in dict.fromkeys(every) if x != s.default][:count]


def records(k: Kernel, schedule: Schedule, ratio: float, target: Target = ZNVER4) -> list[Record]:
    """As many measurements of a schedule as it needs to lead."""
    text = encoding.portable(k, schedule).to_json()
    return [
        Record(
            encoding.key(k), encoding.machine_key(target), 1, text, 2e-5 * ratio, 2e-5, 0.01, "",
            100 * ratio + n, "", VERSION,
        )
        for n in range(FEW)
    ]  # fmt: skip


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Choice, list[Schedule]]:
    """A database with five schedules of `dense`, the fastest first."""
    kept, k = Database(tmp_path / "kept.sqlite"), kernel_of(dense)
    found = candidates(k, ZNVER4, 5)
    for n, s in enumerate(found):
        kept.insert(records(k, s, 0.5 + 0.1 * n), [k])
    return Choice(ZNVER4, 1, kept, tiny_model()), found


def test_measurements_chose(measured: tuple[Choice, list[Schedule]]) -> None:
    chooser, schedules = measured
    found = explained(dense, chooser)
    assert found.schedule == schedules[0]
    assert found.origin == "measurements: the fastest of 5 that were measured"
    assert found.measured == pytest.approx(1e-5) and found.gain == pytest.approx(2)
    assert "\n  measured   10.0 us, 2.00x the heuristic's speed\n" in str(found)
    assert [c.schedule for c in found.next] == schedules[1:4]
    assert [c.measured for c in found.next] == pytest.approx([1.2e-5, 1.4e-5, 1.6e-5])
    assert ", 12.0 us measured: Schedule((" in str(found)
    assert "% of the roof reached\n" in str(found)


def test_what_was_learned_since_is_said(measured: tuple[Choice, list[Schedule]]) -> None:
    chooser, schedules = measured
    found = explained(dense, chooser, schedules[4])
    assert found.origin == "what was known when it was compiled: today it would be another"
    assert found.measured == pytest.approx(1.8e-5)
    assert [c.schedule for c in found.next] == schedules[:3]


def test_other_schedules_were_measured(measured: tuple[Choice, list[Schedule]]) -> None:
    chooser, _ = measured
    found = explained(dense, chooser, Schedule())
    assert found.measured is None and "  measured   not it: 5 others\n" in str(found)
    # The heuristic's was measured with each of them.
    default = explained(dense, chooser, heuristic(found.kernel, ZNVER4))
    assert default.measured == pytest.approx(2e-5) and default.gain == pytest.approx(1)


def test_the_users_database_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.VARIABLE, str(tmp_path / "users.sqlite"))
    monkeypatch.setattr(compiling, "_programs", compiling.Programs())
    k = kernel_of(dense)
    (fast,) = candidates(k, host(), 1)
    kept = Database(tmp_path / "users.sqlite")
    kept.insert(records(k, fast, 0.25, compiling.machine()), [k])
    monkeypatch.setattr(compiling, "_programs", compiling.Programs())
    text = tw.compile(dense, threads=1).lower(*KERNELS[dense]).explain()
    assert f"  schedule   {fast!r}\n" in text
    assert "  measured   5.00 us, 4.00x the heuristic's speed\n" in text


def test_a_damaged_database_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "damaged.sqlite"
    path.write_bytes(b"no database at all" * 100)
    found = explained(dense, Choice(ZNVER4, 1, Database(path)))
    assert found.measured is None and found.origin.startswith("the heuristic")


# -- reasons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", KERNELS)
def test_shares_add_up_to_the_difference(f: Callable[..., Any]) -> None:
    """Those of all features, and of the roofline's terms, are the whole difference."""
    model = Model.blank(NAMES, VERSION, width=8, seed=3)
    model.params["w3"][:] = np.linspace(-0.1, 0.1, 8)
    k, judge = kernel_of(f), Choice(ZNVER4, 1, None, model)
    s = space(k, ZNVER4, 1)
    first, *others = (
        explaining._place(s, x) for x in (s.default, *candidates(k, ZNVER4, explaining.NEXT))
    )
    shares = explaining._feature_shares(model, first.features, [p.features for p in others])
    for p, share in zip(others, shares, strict=True):
        terms = explaining._term_shares(first, p)
        # The slope of the largest of terms jumps where another becomes the largest.
        assert terms.sum() == pytest.approx(np.log(p.seconds / first.seconds), rel=0.005, abs=1e-9)
        whole = p.log_seconds(judge) - first.log_seconds(judge)
        corrected = whole - np.log(p.seconds / first.seconds)
        assert share.sum() == pytest.approx(corrected, rel=0.02, abs=1e-4)
        assert np.all(share[p.features == first.features] == 0)


def test_reasons_are_what_the_model_looks_at() -> None:
    """Of all features, the tiny model reads three; the others are no reason, however different."""
    found = explained(dense, Choice(ZNVER4, 1, None, tiny_model()), Schedule())
    names = [r.name for c in found.next for r in c.reasons]
    assert names and set(names) <= {"log2 rows a round", "staged", "turned", *TERMS}
    for c in found.next:
        assert [abs(np.log(r.factor)) for r in c.reasons] == sorted(
            (abs(np.log(r.factor)) for r in c.reasons), reverse=True
        )
        assert len(c.reasons) <= 3


def test_schedules_of_other_words_are_compared() -> None:
    """What sums bytes by words has other axes than what does not; both are explained."""

    def narrow(x: Any, w: Any) -> Any:
        return x.astype(np.int32) @ w.astype(np.int32)

    x = np.ones((64, 64), np.int8)
    (k,) = tw.compile(narrow, threads=1).lower(x, x).kernels
    words = heuristic(k, ZNVER4)
    assert "Tensorize" in str(words)
    (found,) = explaining.explained([(k, Schedule())], lambda k: Schedule(), ZNVER4, 1)
    assert found.next[0].predicted < found.predicted / 10
    assert found.next[0].reasons[0].name == "arithmetic time"
    assert "Tensorize" in repr(found.next[0].schedule)


def test_what_cannot_be_told_apart_is_said() -> None:
    """Peeling is no feature."""
    steps = (Parallel("i"), Split("j", 16), Vectorize("j.i"))
    place = explaining._place(space(kernel_of(moved), ZNVER4, 1), Schedule(steps))
    assert explaining._reasons(tiny_model(), [place, place]) == [()]
    assert explaining._reasons(None, [place]) == []


# -- bounds ----------------------------------------------------------------------------------------

RATES = Rates(1, 1e9, 5e8, 4e9, 2e9, 1e10, 1e10, 1e10, (1 << 20, 1 << 25))


def test_the_machine_is_measured_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def rates(threads: int) -> Rates:
        asked.append(threads)
        return RATES

    monkeypatch.setattr(roofline, "measured", rates)
    low = tw.compile(dense, threads=1).lower(*KERNELS[dense])
    assert "at the usual rates of 1 thread: " in low.explain()
    assert asked == []
    text = low.explain(measure=True)
    assert asked == [1]
    operations = 48 * 64 * (2 * 40 + 1)
    assert f"  bound      {operations / 1e3:.0f} us, arithmetic, at the measured rates" in text


def test_usual_rates_are_those_of_the_features() -> None:
    one, four = explaining.usual(1), explaining.usual(4)
    assert (four.threads, four.f32, four.l2) == (4, 4 * one.f32, 4 * one.l2)
    assert four.dram == one.dram
    k = kernel_of(dense)
    s = space(k, ZNVER4, 1)
    walks = s.walks_of([s.default])
    assert roofline.work_of(k).bound(one)[0] <= s.extractor.seconds(walks)[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ns"), (2.5e-11, "0.0250 ns"), (9.999e-7, "1,000 ns"), (1.5e-6, "1.50 us"),
     (1.234e-4, "123 us"), (0.25, "250 ms"), (12.5, "12,500 ms")],
)  # fmt: skip
def test_times_print(seconds: float, text: str) -> None:
    assert explaining._time(seconds) == text


def test_reasons_print() -> None:
    reason = explaining.Reason("l2 time", 1e-6, 2.5e-6, 1.5)
    assert str(reason) == "l2 time 1.00 us -> 2.50 us (+50.0%)"
    assert str(explaining.Reason("staged", 0, 1, 0.9)) == "staged 0 -> 1 (-10.0%)"


def test_schedules_by_hand_are_explained() -> None:
    by_hand = Schedule(
        (Order(("j", "i")), Split("j", 16), Vectorize("j.i"), Split("i", 6), Unroll("i.i"))
    )
    found = explained(dense, lambda k: by_hand, by_hand)
    assert found.predicted > 0 and repr(by_hand) in str(found)
