"""SVG by hand: marks, scales and the frame of a plot, as text.

Knows how numbers become pixels, how text is escaped, and colours that can be read on light and on
dark. Refuses to know what is drawn (`viz`, and the benchmarks' report). The same input is always
the same text.

Marks take their colours from classes of one style sheet, so that a browser in dark mode shows
light on dark. `paper`, `ink`, `muted`, `grid`, `good` and `bad` say what they are for; `series0` to
`series5` tell curves apart (after Okabe and Ito's palette for colour-blind readers).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

LIGHT: Final = {
    "paper": "#ffffff", "ink": "#1a1a1a", "muted": "#5c5c5c", "grid": "#dddddd",
    "good": "#3a7d44", "bad": "#c0563b",
    "series0": "#0072b2", "series1": "#b54a00", "series2": "#00825f", "series3": "#a8478a",
    "series4": "#8a6d00", "series5": "#3d3d3d",
}  # fmt: skip
DARK: Final = {
    "paper": "#15171c", "ink": "#ececec", "muted": "#a6a6a6", "grid": "#3a3d45",
    "good": "#6cc07a", "bad": "#ee8f73",
    "series0": "#56b4e9", "series1": "#ff9150", "series2": "#2fd0a0", "series3": "#e79cc8",
    "series4": "#e6c64a", "series5": "#cfcfcf",
}  # fmt: skip
SERIES: Final = 6
DASHES: Final = ("", "6 3", "2 3", "8 3 2 3")
"""Of curves beyond the first six, which have their colours again."""
LETTER: Final = 6.3
"""Pixels of a letter of the usual size, about."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: str) -> str:
    """Text for an element or an attribute; what XML cannot hold becomes U+FFFD."""
    return escape(_FORBIDDEN.sub("\ufffd", text))


def style() -> str:
    """The style sheet of all marks."""

    def rules(colours: dict[str, str]) -> str:
        fills = [f".tw-{name}{{fill:{c};color:{c}}}" for name, c in colours.items()]
        strokes = [f".tw-{name}-line{{stroke:{c};fill:none}}" for name, c in colours.items()]
        return "".join([*fills, *strokes])

    return f"{rules(LIGHT)}@media(prefers-color-scheme:dark){{{rules(DARK)}}}"


# -- marks -----------------------------------------------------------------------------------------


def px(x: float) -> str:
    """A place in pixels, to a tenth."""
    return f"{x:.1f}".removesuffix(".0")


def text(
    x: float,
    y: float,
    content: str,
    colour: str = "ink",
    anchor: str = "start",
    size: int = 11,
    bold: bool = False,
    turned: bool = False,
) -> str:
    """`turned`: read from below."""
    extra = "" if anchor == "start" else f' text-anchor="{anchor}"'
    extra += "" if size == 11 else f' font-size="{size}"'
    extra += ' font-weight="bold"' if bold else ""
    extra += f' transform="rotate(-90 {px(x)} {px(y)})"' if turned else ""
    place = f'x="{px(x)}" y="{px(y)}"'
    return f'<text class="tw-{colour}" {place}{extra}>{escaped(content)}</text>'


def path(
    points: Iterable[tuple[float, float]],
    colour: str = "grid",
    width: float = 1,
    dashes: str = "",
    title: str = "",
) -> str:
    """A line through points, with a title that shows under the mouse."""
    corners = " ".join(f"{px(x)},{px(y)}" for x, y in points)
    extra = f' stroke-dasharray="{dashes}"' if dashes else ""
    shape = f'class="tw-{colour}-line" points="{corners}" stroke-width="{px(width)}"{extra}'
    return _titled("polyline", shape, title)


def rect(
    x: float, y: float, width: float, height: float, colour: str = "paper", title: str = ""
) -> str:
    size = f'width="{px(width)}" height="{px(height)}"'
    return _titled("rect", f'class="tw-{colour}" x="{px(x)}" y="{px(y)}" {size}', title)


def dot(x: float, y: float, colour: str = "series0", hollow: bool = False, title: str = "") -> str:
    """`hollow`: a ring."""
    kind = f"{colour}-line" if hollow else colour
    return _titled("circle", f'class="tw-{kind}" cx="{px(x)}" cy="{px(y)}" r="4"', title)


def _titled(tag: str, shape: str, title: str) -> str:
    inside = f"><title>{escaped(title)}</title></{tag}>" if title else "/>"
    return f"<{tag} {shape}{inside}"


def document(width: float, height: float, parts: Sequence[str], label: str) -> str:
    """An SVG file of that many pixels; `label` says to those who do not see it what it is."""
    size = f'width="{px(width)}" height="{px(height)}" viewBox="0 0 {px(width)} {px(height)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
            f' aria-label="{escaped(label)}" font-family="sans-serif" font-size="11">',
            f"<style>{style()}</style>",
            rect(0, 0, width, height),
            *parts,
            "</svg>",
            "",
        ]
    )


# -- scales ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` on pixels from `start` to `end`, evenly or by logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, x: float) -> float:
        """The pixel of a number, none outside the ends."""
        low, high, x = (math.log(v) if self.log else v for v in (self.low, self.high, self._in(x)))
        return self.start + (self.end - self.start) * (x - low) / (high - low)

    def _in(self, x: float) -> float:
        return min(max(x, self.low), self.high)

    @property
    def ticks(self) -> list[float]:
        """Round numbers, some four to nine."""
        if not self.log:
            return _round_numbers(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = max(1, math.ceil((last - first) / 8))
        decades = range(first, last + 1, every)
        for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            found = [f * 10.0**d for d in decades for f in factors]
            found = [x for x in found if self.low * 0.999 <= x <= self.high * 1.001]
            if len(found) >= 4:
                return found
        return _round_numbers(self.low, self.high)


def _round_numbers(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(f * unit for f in (1, 2, 2.5, 5, 10) if f * unit >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def around(values: Iterable[float], log: bool) -> tuple[float, float]:
    """Ends of a scale that holds the values with some space."""
    every = list(values)
    low, high = min(every), max(every)
    if log:
        room = max((high / low) ** 0.06, 1.02)
        return low / room, high * room
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def number(x: float) -> str:
    """The label of a tick."""
    return f"{x:,.0f}" if 1000 <= x < 1e6 else f"{x:.4g}"


def frame(x: Scale, y: Scale, labels: tuple[str, str], title: str = "") -> list[str]:
    """Grid, ticks, and the labels of both axes; y grows upwards if its scale does."""
    left, right, bottom, top = x.start, x.end, y.start, y.end
    parts = []
    for v in x.ticks:
        parts += [path([(x(v), bottom), (x(v), top)]),
                  text(x(v), bottom + 15, number(v), "muted", "middle")]  # fmt: skip
    for v in y.ticks:
        parts += [path([(left, y(v)), (right, y(v))]),
                  text(left - 6, y(v) + 4, number(v), "muted", "end")]  # fmt: skip
    corners = [(left, top), (left, bottom), (right, bottom)]
    middle = (left + right) / 2, (top + bottom) / 2
    return [
        *parts,
        path(corners, "muted"),
        text(middle[0], bottom + 32, labels[0], anchor="middle"),
        text(left - 46, middle[1], labels[1], anchor="middle", turned=True),
        text(left, top - 8, title, bold=True),
    ]
