"""Spaces: every point a kernel's space offers is a legal schedule that computes the same values,
and the arrays that features are computed from say what the schedule says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from running import interpreted, same
from tilewright.cost_model import features
from tilewright.cost_model.features import NAMES, USUAL, Extractor
from tilewright.cost_model.inverse import points_of
from tilewright.cost_model.spaces import Space, space
from tilewright.errors import ScheduleError
from tilewright.kernel import Kernel
from tilewright.target import host, named
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import Order, Schedule, Split, Unroll, Vectorize

RNG = np.random.default_rng(11)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def conv(stride: int = 1, groups: int = 1) -> Callable[..., Any]:
    def f(x: Any, w: Any) -> Any:
        return tw.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", feature_group_count=groups
        )

    return f


PROGRAMS: dict[str, tuple[Callable[..., Any], ...]] = {
    "product": (lambda x, y: x @ y, normal(33, 40), normal(40, 70)),
    "linear": (lambda x, y, b: np.tanh(x @ y + b), normal(20, 40), normal(40, 50), normal(50)),
    "transposed": (lambda x, y: x @ y.T, normal(33, 40), normal(70, 40)),
    "vector": (lambda x, y: x @ y, normal(1, 128), normal(128, 90)),
    "batched": (lambda x, y: x @ y, normal(3, 20, 24), normal(3, 24, 40)),
    "with itself": (lambda x: x @ x.T, normal(48, 32)),
    "words": (
        lambda x, y: np.matmul(x, y, dtype=np.int32),
        RNG.integers(-9, 9, (32, 64)).astype(np.int8),
        RNG.integers(-9, 9, (64, 48)).astype(np.int8),
    ),
    "convolution": (conv(), normal(1, 8, 9, 11), normal(16, 8, 3, 3)),
    "strided": (conv(2), normal(2, 8, 14, 14), normal(20, 8, 3, 3)),
    "depthwise": (conv(groups=8), normal(1, 8, 14, 14), normal(8, 1, 3, 3)),
    "columns": (lambda x: x.sum(0), normal(90, 70)),
    "lines": (lambda x: x.max(1), normal(70, 90)),
    "softmax": (lambda x: tw.nn.softmax(x), normal(20, 130)),
    "normalised": (
        lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True),
        normal(9, 99),
    ),
    "pointwise": (lambda x, y: np.exp(x) * y + 1, normal(30, 70), normal(30, 70)),
    "turned": (lambda x: x.T + 1, normal(40, 70)),
    "prime": (lambda x, y: x @ y, normal(13, 17), normal(17, 19)),
}


def kernels(name: str) -> tuple[Kernel, ...]:
    f, *args = PROGRAMS[name]
    return tw.compile(f, threads=1).lower(*args).kernels


def points(s: Space, n: int) -> tuple[list[Any], list[Schedule]]:
    """Random points and their schedules, without those that shapes forbid."""
    found = []
    for p in s.random(np.random.default_rng(5), n):
        try:
            found.append((p, s.schedule(p)))
        except ScheduleError:
            continue
    return [p for p, _ in found], [c for _, c in found]


@pytest.mark.parametrize("name", PROGRAMS)
def test_nearly_all_points_are_legal(name: str) -> None:
    for k in kernels(name):
        s = space(k, host())
        drawn = s.random(np.random.default_rng(5), 100)
        assert len(np.unique(drawn, axis=0)) == len(drawn)
        assert s.legal(drawn).all()
        assert len(points(s, 100)[0]) >= 0.9 * len(drawn)


@pytest.mark.parametrize("name", PROGRAMS)
def test_walks_of_points_are_those_of_their_schedules(name: str) -> None:
    for k in kernels(name):
        s = space(k, host())
        chosen, schedules = points(s, 60)
        if not chosen:
            continue
        fast, slow = s.walks(np.array(chosen)), s.walks_of(schedules)
        for field in ("unroll", "lanes", "rank", "staged", "copied", "turned", "part", "slices"):
            np.testing.assert_array_equal(getattr(fast, field), getattr(slow, field), field)
        np.testing.assert_array_equal(fast.parallel, slow.parallel)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_point_of_a_schedule_is_found(name: str) -> None:
    for k in kernels(name):
        s = space(k, host())
        for schedule in points(s, 12)[1]:
            assert s.schedule(points_of(s, schedule)[0]) == schedule


@pytest.mark.parametrize("name", ["product", "convolution", "depthwise", "columns", "softmax"])
def test_the_heuristics_schedule_is_a_point(name: str) -> None:
    for k in kernels(name):
        s = space(k, host())
        assert s.schedule(points_of(s, s.default)[0]) == s.default


def test_what_no_point_makes_has_none() -> None:
    (k,) = kernels("product")
    s = space(k, host())
    assert points_of(s, Schedule()).shape == (0, len(s.holes))


@pytest.mark.parametrize("name", PROGRAMS)
def test_points_compute_the_same(name: str) -> None:
    f, *args = PROGRAMS[name]
    expected = interpreted(f, *args)
    rng = np.random.default_rng(7)

    def scheduler(k: Kernel) -> Schedule:
        _, schedules = points(space(k, host()), 8)
        return schedules[rng.integers(len(schedules))] if schedules else heuristic(k, host())

    for _ in range(3):
        same(tw.compile(f, threads=1, scheduler=scheduler)(*args), expected, tolerance=1e-4)


@pytest.mark.parametrize("target", ["avx2", "sse2"])
def test_other_machines_have_spaces(target: str) -> None:
    for name in ("product", "convolution", "softmax"):
        for k in kernels(name):
            s = space(k, named(target))
            chosen, _ = points(s, 40)
            assert len(chosen) > 5
            assert np.isfinite(s.features(np.array(chosen))).all()


def test_kernels_without_choices_have_the_heuristic() -> None:
    (k,) = tw.compile(lambda x: x + 1).lower(np.float32(1)).kernels
    s = space(k, host())
    assert s.holes == ()
    assert s.random(np.random.default_rng(0), 5).shape == (1, 0)
    assert s.schedule(()) == s.default == heuristic(k, host())
    assert s.features(np.empty((1, 0), np.int64)).shape == (1, len(NAMES))


# -- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_features_are_numbers(name: str) -> None:
    for k in kernels(name):
        s = space(k, host())
        p = s.random(np.random.default_rng(1), 50)
        x = s.features(p)
        assert x.shape == (len(p), len(NAMES)) and x.dtype == np.float32
        assert np.isfinite(x).all()
        assert (s.roofline(p) > 0).all()


@pytest.mark.parametrize("name", PROGRAMS)
def test_places_between_choices_have_features(name: str) -> None:
    """At points those of the points; between two widths what lies between."""
    for k in kernels(name):
        s = space(k, host())
        p = s.random(np.random.default_rng(1), 50)
        features_there, seconds = s.relaxed(p.astype(np.float64))
        np.testing.assert_array_equal(features_there, s.features(p))
        np.testing.assert_array_equal(seconds, s.roofline(p))
        x, _ = s.relaxed(p + 0.25)
        assert x.dtype == np.float32 and np.isfinite(x).all()


def test_widths_between_choices_are_numbers_between() -> None:
    (k,) = tw.compile(lambda x, y: x @ y).lower(normal(64, 64), normal(64, 64)).kernels
    s = space(k, host())
    at = [h.name for h in s.holes].index("height")
    drawn = s.random(np.random.default_rng(0), 50)
    p = next(p for p in drawn if s.value(p)["rows"])
    places = np.repeat(p[None].astype(np.float64), 3, 0)
    places[:, at] = (2, 2.5, 3)  # of 3, 4
    rows = s.relaxed(places)[0][:, NAMES.index("log2 accumulators")]
    assert rows[0] < rows[1] < rows[2]


def test_names_are_distinct_and_documented() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert isinstance(features.VERSION, int)


def of(k: Kernel, *steps: Any) -> dict[str, float]:
    s = space(k, host())
    row = Extractor(s)(s.walks_of([Schedule(steps)]))[0]
    return dict(zip(NAMES, row.tolist(), strict=True))


def test_features_of_a_product_by_hand() -> None:
    """64 x 64 x 64 in tiles of 4 rows by 2 vectors of 16."""

    (k,) = tw.compile(lambda x, y: x @ y).lower(normal(64, 64), normal(64, 64)).kernels
    f = of(
        k, Split("i", 4), Unroll("i.i"), Split("j", 32), Split("j.i", 16), Unroll("j.i.o"),
        Vectorize("j.i.i"),
    )  # fmt: skip
    assert f["log2 operations"] == 19  # 2 * 64 ** 3
    assert f["log2 bytes"] == pytest.approx(np.log2(3 * 64 * 64 * 4))
    assert f["log2 results"] == 12 and f["log2 reduced points"] == 6
    assert f["log2 accumulators"] == 3 and f["registers used"] == 8 / USUAL.registers
    assert f["log2 vectors a round"] == 1 and f["log2 rows a round"] == 2
    assert f["loads per operation"] == pytest.approx(2 / 8)
    assert f["singles per operation"] == pytest.approx(4 / 8)
    assert f["vector waste"] == f["rows waste"] == 0 == pytest.approx(f["latency bound"])
    assert f["gathers per operation"] == f["stores scattered"] == f["turned"] == 0


def test_wasted_lanes_and_gathers_are_seen() -> None:

    (k,) = tw.compile(lambda x, y: x @ y).lower(normal(64, 64), normal(64, 40)).kernels
    narrow = of(k, Split("j", 16), Vectorize("j.i"))
    assert narrow["vector waste"] == pytest.approx(8 / 48)
    assert narrow["latency bound"] == pytest.approx(1 - 1 / features.LATENCY)
    down = of(k, Order(("j", "i")), Split("i", 16), Vectorize("i.i"))
    assert down["gathers per operation"] > 0 and down["stores scattered"] == 1


def test_the_roofline_prefers_tiles() -> None:
    """Registers that are reused beat one vector at a time, by what hides the latency of sums."""

    (k,) = tw.compile(lambda x, y: x @ y).lower(normal(256, 256), normal(256, 256)).kernels
    s = space(k, host())
    lanes = host().lanes(4)
    plain = Schedule((Split("j", lanes), Vectorize("j.i")))
    tiled = Schedule((Split("i", 8), Unroll("i.i"), *plain.steps))
    slow, fast = s.extractor.seconds(s.walks_of([plain, tiled]))
    assert fast < 0.5 * slow


def test_more_threads_take_less_time_and_uneven_ones_more() -> None:
    (k,) = tw.compile(lambda x, y: x @ y).lower(normal(256, 256), normal(256, 256)).kernels
    alone, together = space(k, host(), 1), space(k, host(), 2)
    p = alone.random(np.random.default_rng(0), 50)
    a, b = alone.features(p), together.features(p)
    at = NAMES.index("imbalance")
    assert (a[:, at] == 0).all() and (b[:, at] >= 0).all()
    assert (together.roofline(p) <= alone.roofline(p)).all()
