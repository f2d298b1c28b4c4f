"""Pictures: well-formed, self-contained, the same every time, and where the numbers say."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import tilewright as tw
from tilewright import roofline, svg, viz
from tilewright.cost_model.search import RandomSearch
from tilewright.cost_model.spaces import space
from tilewright.roofline import Rates, Roofline
from tilewright.svg import Scale
from tilewright.target import host
from tilewright.tuning import Tuned, Tuning

RATES = Rates(1, 1e11, 5e10, 4e11, 0.0, 1e11, 5e10, 1e10, (1 << 20, 1 << 25))
NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is known and takes no time to measure."""
    monkeypatch.setattr(roofline, "measured", lambda threads=1: RATES)


def program(x: Any, w: Any) -> Any:
    return np.sort(np.tanh(x @ w), 1) * 2 + w[:1], x.T


def lowered() -> Any:
    x, w = np.ones((24, 40), np.float32), np.ones((40, 48), np.float32)
    return tw.compile(program, threads=1).lower(x, w)


def tuned(default: float = 4e-5, **given: Any) -> Tuned:
    k = lowered().kernels[0]
    s = space(k, host(), 1)
    curve = [(0, 4e-5), (3, 2e-5), (7, 1e-5)]
    found = Tuned(k, 2, s, RandomSearch(s), default, 1e-5, s.default, 0.1, 9, 1, False, curve)
    for name, value in given.items():
        setattr(found, name, value)
    return found


def marks(text: str, tag: str, kind: str = "") -> list[dict[str, str]]:
    """The attributes of all elements of a kind."""
    found = ElementTree.fromstring(text).iter(NAMESPACE + tag)
    return [e.attrib for e in found if not kind or e.attrib.get("class") == kind]


def texts(text: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(text).iter(NAMESPACE + "text")]


def corners(line: dict[str, str]) -> list[tuple[float, float]]:
    pairs = [p.split(",") for p in line["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


# -- curves ----------------------------------------------------------------------------------------


def test_curves_are_stairs() -> None:
    """What was reached is kept until there is more."""
    drawn = viz.curves({"random": [1.0, 1.0, 0.95, 0.95, 0.9]})
    (line, _legend) = marks(drawn, "polyline", "tw-series0-line")
    places = corners(line)
    assert [x for x, _ in places] == pytest.approx([130, 250, 250, 370, 370])
    for (x0, y0), (x1, y1) in pairwise(places):
        assert (x0 == x1 and y0 < y1) or (y0 == y1 and x0 < x1)  # pixels grow downwards
    assert {"trials", "best time over the heuristic's", "random", "Best so far"} <= set(
        texts(drawn)
    )


def test_curves_of_pairs_are_those_of_all_trials() -> None:
    every = viz.curves({"a": [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]}, y="ms")
    pairs = viz.curves({"a": [(1, 1.0), (3, 0.5), (5, 0.25), (6, 0.25)]}, y="ms")
    assert every == pairs and "ms" in texts(every)


def test_many_trials_and_wide_ranges_are_drawn_by_logarithms() -> None:
    drawn = viz.curves({"a": [(1, 1.0), (10, 0.1), (100, 0.01)]})
    places = corners(marks(drawn, "polyline", "tw-series0-line")[0])
    (x0, y0), (x1, y1), (x2, y2) = places[0], places[2], places[-1]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)


def test_panels_share_colours() -> None:
    curve = [1.0, 0.5]
    drawn = viz.curves({
        "conv": {"model": curve, "random": curve}, "dot": {"random": curve}, "c": {}, "d": {},
    })  # fmt: skip
    assert len(marks(drawn, "polyline", "tw-series1-line")) == 3  # two panels and the legend
    assert len(marks(drawn, "polyline", "tw-series0-line")) == 2
    assert texts(drawn).count("no trials") == 2
    assert {"conv", "dot", "c", "d"} <= set(texts(drawn))


def test_more_curves_than_colours_are_told_apart_by_dashes() -> None:
    drawn = viz.curves({f"curve {k}": [1.0, 0.9] for k in range(14)})
    looks = {(m["class"], m.get("stroke-dasharray")) for m in marks(drawn, "polyline")
             if "series" in m["class"]}  # fmt: skip
    assert len(looks) == 14


def test_what_never_worked_is_left_out() -> None:
    drawn = viz.curves({"a": [math.inf, math.inf, 1.0, 0.9]})
    assert corners(marks(drawn, "polyline", "tw-series0-line")[0])[0][0] == pytest.approx(295)
    assert "no trials" in texts(viz.curves({"a": [math.inf]}))
    assert "no trials" in texts(viz.curves({}))


@pytest.mark.parametrize("curve", [[1.0, 0.0], [-1.0], [math.nan], [(3, 1.0), (2, 0.5)]])
def test_what_is_no_curve(curve: Any) -> None:
    with pytest.raises(ValueError, match="is no point of a curve"):
        viz.curves({"a": curve})


def test_a_tuning_is_drawn_over_the_heuristic() -> None:
    drawn = viz.curves(Tuning((tuned(),), 1.5, False))
    (line, _legend) = marks(drawn, "polyline", "tw-series0-line")
    low, high = svg.around([1.0, 0.25], True)
    scale = Scale(low, high, 240, 40, True)
    assert corners(line)[0][1] == pytest.approx(scale(1.0), abs=0.1)
    assert corners(line)[-1] == pytest.approx((70 + 300, scale(0.25)), abs=0.1)
    assert any(t.endswith(", 4.00x") for t in texts(drawn))


def test_a_tuning_that_measured_nothing() -> None:
    nothing = tuned(math.inf, best=math.inf, schedule=None, curve=[])
    for kernels in ((), (nothing,)):
        assert "no trials" in texts(viz.curves(Tuning(kernels, 0.0, True)))


# -- roofline --------------------------------------------------------------------------------------


def test_each_kernel_is_where_it_is() -> None:
    """Dots by measured times, rings by predicted ones."""
    low = lowered()
    (first, *rest) = (k for k in low.kernels if roofline.work_of(k).operations)
    work = roofline.work_of(first)
    operations = sum(work.operations.values())
    drawn = viz.roofline(low, {first.name: 1e-6})
    (dot,) = marks(drawn, "circle", "tw-series3")
    assert len(marks(drawn, "circle", "tw-series3-line")) == len(rest)
    titles = [e.text for e in ElementTree.fromstring(drawn).iter(NAMESPACE + "title")]
    told = f"{first.name}: 1 us measured, {operations / 1e3:.4g} Gop/s"
    assert any(t and t.startswith(told) for t in titles)
    assert {k.name for k in (first, *rest)} <= set(texts(drawn))
    # As many times as fast is as far up, wherever the scale ends.
    slower = viz.roofline(low, {first.name: 2e-6})
    (below,) = marks(slower, "circle", "tw-series3")
    assert float(below["cy"]) > float(dot["cy"]) and below["cx"] == dot["cx"]


def test_kernels_without_operations_are_listed() -> None:
    low = lowered()
    (copy,) = (k for k in low.kernels if not roofline.work_of(k).operations)
    drawn = texts(viz.roofline(low))
    assert f"{copy.name}: 0 operations, {roofline.work_of(copy).moved:,.0f} bytes" in drawn
    assert copy.name not in drawn


def test_kernels_of_a_roofline_are_on_their_roofs() -> None:
    kernels = tuple((k, roofline.work_of(k)) for k in lowered().kernels)
    drawn = viz.roofline(Roofline(RATES, kernels))
    assert not marks(drawn, "circle", "tw-series3")
    roofs = [corners(m) for kind in ("series0-line", "ink-line")
             for m in marks(drawn, "polyline", f"tw-{kind}")]  # fmt: skip
    points = [(float(m["cx"]), float(m["cy"])) for m in marks(drawn, "circle")]
    assert points
    for x, y in points:
        assert any(a[0] - 1 <= x <= b[0] + 1 and abs(y - _between(a, b, x)) < 1 for a, b in roofs)


def _between(a: tuple[float, float], b: tuple[float, float], x: float) -> float:
    return a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])


def test_roofs_are_named_with_units() -> None:
    drawn = texts(viz.roofline(lowered()))
    assert {"L2 100 GB/s", "L3 50 GB/s", "memory 10 GB/s", "f32 100 Gop/s"} <= set(drawn)
    assert {"operations a byte", "Gop/s"} <= set(drawn)
    assert not any(t.startswith("bf16") for t in drawn)


def test_a_program_without_kernels() -> None:
    low = tw.compile(lambda x: np.sort(x), threads=1).lower(np.ones(50, np.float32))
    assert low.kernels == () and not marks(viz.roofline(low), "circle")


def test_names_do_not_cover_each_other() -> None:
    kernels = tuple((k, roofline.work_of(k)) for k in lowered().kernels[:1] * 7)
    drawn = viz.roofline(Roofline(RATES, kernels))
    found = [e for e in ElementTree.fromstring(drawn).iter(NAMESPACE + "text")
             if e.text == kernels[0][0].name]  # fmt: skip
    assert len(found) == 7
    for side in (None, "end"):
        lines = [float(e.attrib["y"]) for e in found if e.attrib.get("text-anchor") == side]
        assert len(lines) > 2
        assert all(b - a > 11.9 for a, b in pairwise(sorted(lines)))


# -- pages and text --------------------------------------------------------------------------------


def pictures(name: str) -> list[str]:
    t = tuned()
    tuning = Tuning((t, tuned(math.inf, best=math.inf, schedule=None, curve=[])), 1.5, True)
    return [
        viz.curves({name: {name: [1.0, 0.5]}}, y=name),
        viz.curves({name: [1.0]}, title=name),
        viz.roofline(lowered(), title=name),
        viz.page(tuning, lowered(), name),
        viz.page(tuning),
        viz.page(of=lowered(), title=name),
    ]


@pytest.mark.parametrize("name", ["plain", "<b>&\"'</b>", "\x00\x1b]]>", "größe ×"])
def test_whatever_the_name_it_is_text(name: str) -> None:
    """Well-formed, no element of the name's making, and no reference to anything outside."""
    for drawn in pictures(name):
        root = ElementTree.fromstring(drawn)
        tags = {e.tag.removeprefix(NAMESPACE) for e in root.iter()}
        assert "b" not in tags and "script" not in tags
        outside = re.sub(r'xmlns="[^"]*"', "", drawn)
        assert not re.search(r"https?:|url\(|@import|\b(href|src)=", outside)
    shown = "".join(ElementTree.fromstring(pictures(name)[0]).itertext())
    assert re.sub("[\x00-\x1f]", "\ufffd", name) in shown


def test_the_same_is_drawn_every_time() -> None:
    assert pictures("same") == pictures("same")


def test_the_page_has_the_table_of_the_tuning() -> None:
    t = tuned()
    drawn = viz.page(Tuning((t,), 1.5, True), lowered(), "a layer")
    root = ElementTree.fromstring(drawn)
    rows = [["".join(c.itertext()) for c in row] for row in root.iter("tr")]
    assert rows[0][0] == "kernel"
    assert rows[1] == [t.kernel.name, "2", "9", "1", "40.00", "10.00", "4.00x", repr(t.schedule)]
    told = "".join(root.itertext())
    assert "9 trials in 1.5 s, interrupted" in told and "80.0 to 20.0 µs" in told
    assert "chosen by  the heuristic" in told
    assert len(list(root.iter(NAMESPACE + "svg"))) == 2


def test_colours_can_be_read_on_paper() -> None:
    """Contrast (WCAG 2.1) of text is at least 4.5, in light and in dark."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for palette in (svg.LIGHT, svg.DARK):
        assert set(palette) == set(svg.LIGHT)
        paper = luminance(palette["paper"])
        for name, colour in palette.items():
            bright, dark = sorted((paper, luminance(colour)), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5 or name in ("paper", "grid"), name


# -- scales ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0, 10, 0, 1), [0, 2, 4, 6, 8, 10]),
        (Scale(0.2, 1.1, 0, 1), [0.2, 0.4, 0.6, 0.8, 1]),
        (Scale(1, 1000, 0, 1, True), [1, 10, 100, 1000]),
        (Scale(0.3, 30, 0, 1, True), [0.5, 1, 2, 5, 10, 20]),
        (Scale(0.96, 1.01, 0, 1, True), [0.96, 0.97, 0.98, 0.99, 1, 1.01]),
    ],
)
def test_ticks_are_round(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks == pytest.approx(ticks)


@pytest.mark.parametrize("exponents", [(-12, 15), (-3, 3), (0, 40)])
def test_there_are_never_many_ticks(exponents: tuple[int, int]) -> None:
    low, high = exponents
    assert 4 <= len(Scale(10.0**low, 10.0**high, 0, 1, True).ticks) <= 10


def test_scales_keep_inside() -> None:
    scale = Scale(1, 100, 0, 200, True)
    assert [scale(v) for v in (0.5, 1, 10, 100, 1e9)] == pytest.approx([0, 0, 100, 200, 200])
    assert svg.around([5.0], False) == pytest.approx((4.75, 5.25))
    assert svg.around([0.0], False) == (-1, 1)
    assert svg.number(1500) == "1,500" and svg.number(0.25) == "0.25"


def test_pictures_load_when_they_are_asked_for() -> None:
    code = (
        "import sys, tilewright as tw; assert 'tilewright.viz' not in sys.modules;"
        " assert tw.viz.curves({'a': [1.0]}).startswith('<svg')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
