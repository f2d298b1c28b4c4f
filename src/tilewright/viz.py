"""Pictures of searches and of rooflines, as SVG text, and a page with both.

    open("search.svg", "w").write(tw.viz.curves(tw.tune(f, x, seconds=10)))
    open("roof.svg", "w").write(tw.viz.roofline(tw.compile(f).lower(x)))
    open("tuned.html", "w").write(tw.viz.page(tuning, lowered))

Knows what is worth seeing of a `Tuning` and of a program's kernels. Refuses to know how marks are
written (`svg`), to run anything but the machine's own rates, and to need a library or a network.

The roofline is Williams, Waterman and Patterson's (CACM 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tilewright import roofline as rooflines
from tilewright import svg
from tilewright.compile import Lowered
from tilewright.cost_model import explaining
from tilewright.roofline import Rates, Roofline, Work
from tilewright.svg import Scale, number
from tilewright.tuning import Tuned, Tuning

Curve = Sequence[float] | Sequence[tuple[int, float]]
"""The best value after each trial, from the first; or pairs of trials and what was reached then."""

COLUMNS: Final = 3
"""Panels side by side."""
PANEL: Final = (300, 200)
"""Pixels of what is inside a panel's frame."""
MARGIN: Final = (70, 40, 24, 50)
"""Pixels left of a frame, above it, right of it and below it."""
ROW: Final = 16
"""Pixels of a line of text."""
MANY_TRIALS: Final = 50
"""Trials from which on a curve is drawn over their logarithm: most is gained at first."""
WIDE_RANGE: Final = 2.0
"""The same for values, by the factor between the largest and the least."""
LEAST_RANGE: Final = 0.9
"""Of the largest value, down to which a scale goes at least: noise is not to fill a panel."""


# -- curves ----------------------------------------------------------------------------------------


def curves(
    found: Tuning | Mapping[str, Curve] | Mapping[str, Mapping[str, Curve]],
    y: str = "best time over the heuristic's",
    title: str = "Best so far",
) -> str:
    """An SVG of what searches had reached after each trial.

    **Arguments:** `found`: a `Tuning`, whose kernels become curves of their times over the
    heuristic's; curves by name; or for each name of a panel curves by name, which have the same
    colours in all panels. `y`: the label of the values, with their unit.

    **Raises:** `ValueError` for values that are not positive, or trials that go back. Infinite
    ones, from before anything worked, are left out.
    """
    panels = _panels(found, title)
    names = list(dict.fromkeys(n for panel in panels.values() for n in panel))
    looks = {n: _look(k) for k, n in enumerate(names)}
    across = max(1, min(COLUMNS, len(panels)))
    left, above, right, below = MARGIN
    width, height = left + PANEL[0] + right, above + PANEL[1] + below
    parts = []
    for k, (name, panel) in enumerate(panels.items()):
        corner = k % across * width + left, k // across * height + above
        parts += _curves(panel, corner, looks, ("trials", y), name)
    down = -(-max(len(panels), 1) // across) * height
    lines = _legend(looks, left, down + 4, across * width - left - right)
    parts += lines[0]
    return svg.document(across * width, down + lines[1], parts, title)


def _panels(found: Any, title: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Points by curve by panel."""
    if isinstance(found, Tuning):
        return {title: {_gained(t): [*_of_kernel(t)] for t in found.kernels}}
    if all(isinstance(c, Mapping) for c in found.values()) and found:
        return {p: {n: _points(n, c) for n, c in panel.items()} for p, panel in found.items()}
    return {title: {n: _points(n, c) for n, c in found.items()}}


def _gained(t: Tuned) -> str:
    return f"{t.kernel.name}, {t.ratio:.2f}x"


def _of_kernel(t: Tuned) -> Iterator[tuple[int, float]]:
    """Times over the heuristic's, as far as its last trial."""
    if t.curve and math.isfinite(t.default):
        yield from ((n, seconds / t.default) for n, seconds in t.curve)
        yield t.trials, t.best / t.default


def _points(name: str, curve: Curve) -> list[tuple[int, float]]:
    pairs: list[tuple[int, float]] = []
    for n, entry in enumerate(curve, 1):
        trial, value = entry if isinstance(entry, tuple) else (n, entry)
        if not value > 0 or (pairs and trial < pairs[-1][0]):
            raise ValueError(f"{name}: {value} after {trial} trials is no point of a curve")
        if math.isfinite(value):
            pairs.append((int(trial), float(value)))
    return pairs


def _look(k: int) -> tuple[str, str]:
    """The colour and the dashes of the k-th curve."""
    return f"series{k % svg.SERIES}", svg.DASHES[k // svg.SERIES % len(svg.DASHES)]


def _curves(
    panel: Mapping[str, Sequence[tuple[int, float]]],
    corner: tuple[float, float],
    looks: Mapping[str, tuple[str, str]],
    labels: tuple[str, str],
    title: str,
) -> list[str]:
    """A frame whose upper left corner is given, with its curves: they keep what they have until
    they reach more."""
    left, top = corner
    every = [p for c in panel.values() for p in c]
    if not every:
        note = svg.text(left + PANEL[0] / 2, top + PANEL[1] / 2, "no trials", "muted", "middle")
        return [svg.text(left, top - 8, title, bold=True), note]
    most, values = max(n for n, _ in every), [v for _, v in every]
    log = max(values) / min(values) >= WIDE_RANGE
    many = most >= MANY_TRIALS
    x = Scale(1 if many else 0, max(most, 2), left, left + PANEL[0], many)
    ends = svg.around([*values, LEAST_RANGE * max(values)], log)
    y = Scale(*ends, top + PANEL[1], top, log)
    parts = svg.frame(x, y, labels, title)
    for name, curve in panel.items():
        corners: list[tuple[float, float]] = []
        for n, v in curve:
            if corners:
                corners.append((x(n), corners[-1][1]))
            corners.append((x(n), y(v)))
        if corners:
            kept = [p for k, p in enumerate(corners) if not 0 < k < len(corners) - 1
                    or not corners[k - 1][1] == p[1] == corners[k + 1][1]]  # fmt: skip
            last = f"{name}: {number(curve[-1][1])} after {curve[-1][0]} trials"
            parts.append(svg.path(kept, looks[name][0], 1.8, looks[name][1], last))
    return parts


def _legend(
    looks: Mapping[str, tuple[str, str]], left: float, top: float, width: float
) -> tuple[list[str], float]:
    """Names beside pieces of their lines, as many in a row as fit, and the height of it all."""
    longest = max((len(n) for n in looks), default=0)
    each = 34 + svg.LETTER * longest + 16
    across = max(1, int(width // each))
    parts = []
    for k, (name, (colour, dashes)) in enumerate(looks.items()):
        x, y = left + k % across * each, top + k // across * ROW
        parts += [
            svg.path([(x, y), (x + 26, y)], colour, 1.8, dashes),
            svg.text(x + 32, y + 4, name),
        ]
    return parts, -(-len(looks) // across) * ROW + 12


# -- roofline --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A kernel, its work and its seconds: measured, predicted or the least possible (`how`)."""

    name: str
    work: Work
    seconds: float
    how: str

    @property
    def operations(self) -> float:
        return sum(self.work.operations.values())

    @property
    def intensity(self) -> float:
        return self.operations / self.work.moved

    def title(self, rates: Rates) -> str:
        least, roof = self.work.bound(rates)
        return (
            f"{self.name}: {1e6 * self.seconds:.4g} us {self.how}, "
            f"{self.operations / self.seconds / 1e9:.4g} Gop/s, {number(self.intensity)} operations"
            f" a byte; {least / self.seconds:.0%} of the roof ({explaining.ROOFS[roof]})"
        )


def roofline(
    of: Lowered | Roofline,
    seconds: Mapping[str, float] | None = None,
    title: str = "Roofline",
) -> str:
    """An SVG with the machine's roofs and each kernel where it is under them: operations a second
    over operations a byte of memory traffic, both by logarithms.

    **Arguments:** `of`: a lowered call, whose kernels have the times that the user's database
    knows (dots) or else those that are predicted (rings); or a `Roofline`, whose kernels are rings
    on their roofs. `seconds`: measured times of one run by kernel names, instead. The machine is
    measured first if it was not, which takes half a second.

    Kernels without operations, or without memory traffic, have no place and are listed.
    """
    found, rates = _runs(of, seconds or {})
    placed = [r for r in found if r.operations and r.work.moved and r.seconds > 0]
    left, above, right, below = MARGIN
    width, height = 560, 340
    units = [u for u in ("f32", "f64", "i8", "bf16") if getattr(rates, u)]
    used = {u for r in found for u in r.work.operations}
    tops = {u: getattr(rates, u) / 1e9 for u in units if u in used or u == "f32"}
    x = Scale(*_intensities(placed, rates, tops), left, left + width, True)
    speeds = [r.operations / r.seconds / 1e9 for r in placed]
    lowest = min([rates.dram / 1e9 * x.low, *speeds])
    y = Scale(lowest / 1.5, 2 * max([*tops.values(), *speeds]), above + height, above, True)
    parts = svg.frame(x, y, ("operations a byte", "Gop/s"), title)
    parts += _roofs(x, y, rates, tops)
    parts += _kernels(x, y, placed, rates, tops)
    absent = [r for r in found if r not in placed]
    notes = [f"{r.name}: {r.operations:,.0f} operations, {r.work.moved:,.0f} bytes" for r in absent]
    start = above + height + below
    lines = ["dots: measured, rings: predicted or at their roof", *notes]
    parts += [svg.text(left, start + ROW * k, note, "muted") for k, note in enumerate(lines)]
    return svg.document(left + width + right, start + ROW * len(lines) + 4, parts, title)


def _runs(of: Lowered | Roofline, seconds: Mapping[str, float]) -> tuple[list[_Run], Rates]:
    if isinstance(of, Roofline):
        rates = of.rates
        found = [_Run(k.name, w, w.bound(rates)[0], "at the least") for k, w in of.kernels]
    else:
        rates = rooflines.measured(of.threads)
        found = []
        for e in of.explained(measure=True):
            known = ("predicted", e.predicted) if e.measured is None else ("measured", e.measured)
            found.append(_Run(e.kernel.name, e.work, known[1], known[0]))
    given = {n: float(s) for n, s in seconds.items()}
    return [
        _Run(r.name, r.work, given[r.name], "measured") if r.name in given else r for r in found
    ], rates


def _intensities(
    placed: Sequence[_Run], rates: Rates, tops: Mapping[str, float]
) -> tuple[float, float]:
    """Ends of the scale: all kernels are on it, and where roofs meet."""
    ridges = [1e9 * top / b for top in tops.values() for b in (rates.l2, rates.dram)]
    low, high = svg.around([*(r.intensity for r in placed), *ridges], True)
    return low / 2, 2 * high


def _roofs(x: Scale, y: Scale, rates: Rates, tops: Mapping[str, float]) -> Iterator[str]:
    """What the arithmetic of each type can do, and what each memory can feed."""
    highest = max(tops.values())
    for k, (level, name) in enumerate((("l2", "L2"), ("l3", "L3"), ("dram", "memory"))):
        rate = getattr(rates, level) / 1e9
        first, last = max(x.low, y.low / rate), min(highest / rate, x.high)
        colour, label = f"series{k}", f"{name} {_three(rate)} GB/s"
        ends = [(x(v), y(rate * v)) for v in (first, last)]
        yield svg.path(ends, colour, 1.5, svg.DASHES[1], label)
        yield svg.text(x.start + 6, y.end + ROW * (k + 1), label, colour)
    for unit, top in tops.items():
        first = max(x.low, 1e9 * top / max(rates.l2, rates.l3, rates.dram))
        label = f"{unit} {_three(top)} Gop/s"
        yield svg.path([(x(first), y(top)), (x.end, y(top))], "ink", 1.5, "", label)
        yield svg.text(x.end - 4, y(top) - 4, label, anchor="end")


def _three(x: float) -> str:
    """A number with three digits."""
    return number(float(f"{x:.3g}"))


def _kernels(
    x: Scale, y: Scale, placed: Iterable[_Run], rates: Rates, tops: Mapping[str, float]
) -> Iterator[str]:
    """Dots and names. A name stands right of its dot or left of it, or below so that it covers no
    other: where it is nearest."""
    taken = [(x.end - 100, x.end, y(top) - 4) for top in tops.values()]  # left, right, line
    for r in sorted(placed, key=lambda r: (-r.operations / r.seconds, r.name)):
        at = x(r.intensity), y(r.operations / r.seconds / 1e9)
        size = svg.LETTER * len(r.name)
        places = []
        for start, anchor in ((at[0] + 8, "start"), (at[0] - 8 - size, "end")):
            line = at[1] + 4
            while any(a < start + size and start < b and abs(line - c) < 12 for a, b, c in taken):
                line += 2
            if start >= x.start and start + size <= x.end:
                places.append((line, anchor != "start", start, anchor))
        # A name as wide as the frame has no place in it.
        line, _, start, anchor = min(places, default=(line, True, start, "end"))
        taken.append((start, start + size, line))
        yield svg.dot(*at, "series3", r.how != "measured", r.title(rates))
        yield svg.text(at[0] + (8 if anchor == "start" else -8), line, r.name, anchor=anchor)


# -- page ------------------------------------------------------------------------------------------


def page(
    tuning: Tuning | None = None,
    of: Lowered | Roofline | None = None,
    title: str = "Tilewright",
) -> str:
    """A page of HTML that needs nothing else: the curves and the table of a tuning, the roofline of
    a program's kernels, or both (as `curves` and `roofline`)."""
    parts = [f"<h1>{svg.escaped(title)}</h1>"]
    if tuning is not None:
        parts += ["<h2>Search</h2>", curves(tuning), *_table(tuning)]
    if of is not None:
        parts += ["<h2>Roofline</h2>", roofline(of, title="")]
    if isinstance(of, Lowered):
        parts += ["<h2>Kernels</h2>", f"<pre>{svg.escaped(of.explain(measure=True))}</pre>"]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width"/>',
            f"<title>{svg.escaped(title)}</title><style>{svg.style()}{_STYLE}</style></head>",
            "<body>",
            *parts,
            "</body></html>",
            "",
        ]
    )


_STYLE: Final = (
    f"body{{font:14px sans-serif;margin:2em;background:{svg.LIGHT['paper']};"
    f"color:{svg.LIGHT['ink']}}}svg{{max-width:100%;height:auto}}pre{{overflow-x:auto}}"
    "table{border-collapse:collapse}td,th{padding:2px 10px;text-align:right}"
    "td:first-child,td:last-child,th:first-child,th:last-child{text-align:left}"
    f"@media(prefers-color-scheme:dark){{body{{background:{svg.DARK['paper']};"
    f"color:{svg.DARK['ink']}}}}}"
)


def _table(tuning: Tuning) -> Iterator[str]:
    """A row for each kernel, the one that takes longest first, as `Tuning` prints them."""
    heads = ("kernel", "calls", "trials", "failed", "before µs", "after µs", "gain", "schedule")
    yield f"<table><thead>{_row(heads, 'th')}</thead><tbody>"
    for t in sorted(tuning.kernels, key=lambda t: -t.calls * t.default):
        cells = [t.kernel.name, f"{t.calls:,}", f"{t.trials:,}", f"{t.errors:,}"]
        if math.isfinite(t.default):
            chosen = "the heuristic's" if t.schedule is None else repr(t.schedule)
            cells += [f"{1e6 * t.default:,.2f}", f"{1e6 * t.best:,.2f}", f"{t.ratio:.2f}x", chosen]
        else:
            cells += ["", "", "", "nothing was measured"]
        yield _row(cells, "td")
    stopped = ", interrupted" if tuning.interrupted else ""
    yield "</tbody></table>"
    yield (
        f"<p>{tuning.trials:,} trials in {tuning.seconds:.1f} s{stopped}; the kernels of a run: "
        f"{1e6 * tuning.before:,.1f} to {1e6 * tuning.after:,.1f} µs</p>"
    )


def _row(cells: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{svg.escaped(c)}</{tag}>' for c in cells)}</tr>"
