"""Tables, summaries and the chart of a run's document.

Knows how measurements become ratios (best peer's time over ours: above 1 we are faster), shares of
the roof (the roof's least time over ours) and geometric means against the bars. Refuses to know
how anything was measured.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.suite.workloads import BARS, BY_NAME

from tilewright import svg
from tilewright.roofline import Rates

OURS = "tilewright"
Row = dict[str, Any]


def machine(names: Iterable[str]) -> dict[str, str]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(t.split(":")[1].strip() for t in lines if t.startswith("model name"))
    packages = {n.split(".")[0] for n in names} | {"numpy", "llvmlite"}
    found = {"cpu": model, "cores": str(len(os.sched_getaffinity(0))),
             "system": platform.platform(), "python": platform.python_version()}  # fmt: skip
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def rates(fields: dict[str, Any]) -> Rates:
    return Rates(**{**fields, "sizes": tuple(fields["sizes"])})


# -- one workload --------------------------------------------------------------------------------


def milliseconds(row: Row, name: str) -> float | None:
    found = row["contenders"].get(name, {}).get("median")
    return None if found is None else 1e3 * found


def best_peer(row: Row) -> tuple[str, float] | None:
    times = {n: c["median"] for n, c in row["contenders"].items() if "median" in c and n != OURS}
    if not times:
        return None
    name = min(times, key=times.__getitem__)
    return name, 1e3 * times[name]


def ratio(row: Row) -> float | None:
    """The best peer's time over ours."""
    best, ours = best_peer(row), milliseconds(row, OURS)
    return best[1] / ours if best and ours else None


def roof(row: Row, fields: dict[str, Any]) -> tuple[float, str]:
    """The least milliseconds, and which roof."""
    w = BY_NAME[row["workload"]]
    known = rates(fields)
    level, speed = known.bandwidth(w.held or w.moved)
    computing = known.computing(w.flops, w.unit)
    seconds, bound = max((computing, "flop"), (w.moved / speed, level))
    return 1e3 * seconds, bound


FIRSTS = ("jax", OURS)
"""Whose first calls are compared."""


def first_ratio(row: Row) -> float | None:
    """jax.jit's first call over ours, in processor time."""
    firsts = [row["contenders"].get(n, {}).get("first") for n in FIRSTS]
    return None if None in firsts else firsts[0]["cpu"] / max(firsts[1]["cpu"], 1e-6)


# -- tables --------------------------------------------------------------------------------------


def number(x: float | None) -> str:
    if x is None:
        return "-"
    if x < 0.01:
        return f"{x:.5f}"
    return f"{x:.3f}" if x < 10 else f"{x:.1f}" if x < 1000 else f"{x:.0f}"


def heading(run: Row, names: list[str]) -> str:
    known = rates(run["rates"])
    speeds = " ".join(
        f"{unit} {getattr(known, unit) / 1e9:.1f}"
        for unit in ("f32", "f64", "i8", "bf16", "l2", "l3", "dram")
    )
    peers = "".join(f"{n[:12]:>13}" for n in names if n != OURS)
    return (
        f"\n{known.threads} thread{'s' * (known.threads > 1)}; Gop/s and GB/s: {speeds}\n"
        f"{'workload':<30}{'ours ms':>10}{'ratio':>8} {'best peer':<14}{'roof':>6} {'bound':<5}"
        f"{'first ms':>9}{peers}"
    )


def line(row: Row, fields: dict[str, Any], names: list[str]) -> str:
    ours, best, r = milliseconds(row, OURS), best_peer(row), ratio(row)
    least, bound = roof(row, fields)
    mark = " " if r is None or r >= 1 else "<"
    own = row["contenders"].get(OURS, {})
    wait = "~" if own.get("waited", 0) > 0.1 else " "
    share = f"{least / ours:.0%}" if ours else "-"
    first = own.get("first", {}).get("cpu")
    text = (
        f"{row['workload']:<30}{number(ours):>9}{wait}{number(r) if r else '-':>7}{mark}"
        f" {best[0] if best else '-':<14}{share:>6} {bound:<5}"
        f"{number(1e3 * first if first else None):>9}"
    )
    for name in (n for n in names if n != OURS):
        found = row["contenders"].get(name)
        cell = "" if found is None else number(milliseconds(row, name))
        if found and "failed" in found:
            cell = found["failed"].split(":")[0][:11]
        cell += "~" if found and found.get("waited", 0) > 0.1 else ""
        text += f"{cell:>13}"
    failure = own.get("failed") or row["contenders"].get("", {}).get("failed")
    return text + (f"\n    ours: {failure}" if failure else "")


def groups(run: Row, anchors: bool) -> dict[str, list[tuple[str, float]]]:
    """(workload, ratio) of each group's anchors or neighbours, in the suite's order."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in run["rows"]:
        w, r = BY_NAME[row["workload"]], ratio(row)
        if w.anchor == anchors and r is not None:
            found.setdefault(w.group, []).append((w.name, r))
    return found


def lost(run: Row, group: str) -> list[str]:
    """A group's anchors for which we have no time: such a group reaches no bar."""
    rows = (r for r in run["rows"] if milliseconds(r, OURS) is None)
    anchors = (BY_NAME[r["workload"]] for r in rows)
    return [w.name for w in anchors if w.anchor and w.group == group]


def shares(run: Row) -> dict[str, float]:
    """The least share of the roof among each group's anchors, where a bar is set for it."""
    found: dict[str, float] = {}
    for row in run["rows"]:
        w, ours = BY_NAME[row["workload"]], milliseconds(row, OURS)
        if w.anchor and ours and BARS[w.group].roof:
            share = roof(row, run["rates"])[0] / ours
            found[w.group] = min(found.get(w.group, math.inf), share)
    return found


def summary(run: Row) -> str:
    """Geometric means of the groups against their bars, first calls, and the worst ratios."""
    lines = [
        f"\n{'group':<18}{'mean':>7}{'bar':>7}{'least':>8}{'bar':>7}{'roof':>8}{'bar':>7}"
        "    neighbours' mean"
    ]
    near = {g: geometric_mean(r for _, r in rs) for g, rs in groups(run, False).items()}
    least_share, many = shares(run), run["threads"] > 1
    for group, found in groups(run, True).items():
        mean, least, bar = (
            geometric_mean(r for _, r in found),
            min(r for _, r in found),
            BARS[group],
        )
        share = least_share.get(group)
        needed = bar.roof[many] if bar.roof else 0.0
        good = mean >= bar.mean and least >= bar.least and (share is None or share >= needed)
        good = good and not lost(run, group)
        lines.append(
            f"{group:<18}{mean:>7.2f}{bar.mean:>7.2f}{least:>8.2f}{bar.least:>7.2f}"
            f"{'-' if share is None else f'{share:.0%}':>8}"
            f"{'-' if share is None else f'{needed:.0%}':>7} {'ok' if good else '  '}"
            f"{f'{near[group]:.2f}' if group in near else '-':>12}"
        )
    return "\n".join([*lines, *_calls(run), *_behind(run), *_failures(run)])


def _calls(run: Row) -> list[str]:
    """First calls and dispatch, whose bars are JAX's times."""
    lines = []
    firsts = [r for r in map(first_ratio, run["rows"]) if r]
    if firsts:
        mean = geometric_mean(firsts)
        lines.append(f"first call: jax.jit's over ours {mean:.2f} (geometric mean; bar 2)")
    for row in run["rows"]:
        ours, jax = milliseconds(row, OURS), milliseconds(row, "jax")
        if row["workload"].startswith("dispatch") and ours and jax:
            lines.append(f"{row['workload']}: {1e6 * ours:.0f} ns, jax.jit's over ours"
                         f" {jax / ours:.1f} (bar 25)")  # fmt: skip
    return lines


def _behind(run: Row) -> list[str]:
    ranked = sorted((r, n) for rs in groups(run, True).values() for n, r in rs)
    below = [f"{n} {r:.2f}" for r, n in ranked if r < 1]
    return [f"below the best peer, furthest first: {', '.join(below)}"] if below else []


def _failures(run: Row) -> list[str]:
    return [
        f"{row['workload']}: {name or 'reference'}: {found['failed']}"
        for row in run["rows"]
        for name, found in row["contenders"].items()
        if "failed" in found
    ]


def table(run: Row) -> str:
    """The whole table of one number of threads."""
    names = list(dict.fromkeys(n for row in run["rows"] for n in row["contenders"] if n))
    lines = [line(row, run["rates"], names) for row in run["rows"]]
    return "\n".join([heading(run, names), *lines, summary(run)])


def first_calls(run: Row) -> str:
    """Milliseconds of wall time, and of processor time behind it, of everyone's first calls:
    compile and run once, imports and the start of back ends apart."""
    names = list(dict.fromkeys(n for row in run["rows"] for n in row["contenders"] if n))
    lines = [f"{'first calls, wall (processor) ms':<34}" + "".join(f"{n:>18}" for n in names)]
    for row in run["rows"]:
        text = f"{row['workload']:<34}"
        for name in names:
            first = row["contenders"].get(name, {}).get("first")
            cell = f"{1e3 * first['wall']:.1f} ({1e3 * first['cpu']:.1f})" if first else ""
            text += f"{cell:>18}"
        lines.append(text)
    return "\n".join(lines)


# -- chart ---------------------------------------------------------------------------------------


def chart(document: Row) -> str:
    """An SVG with a panel for each number of threads: a bar for each anchor, as long as the
    logarithm of its ratio to the best peer."""
    panels = [_panel(run, 640 * k) for k, run in enumerate(document["runs"])]
    width, height = 640 * len(panels), max(h for _, h in panels)
    title = f"Best peer's time over Tilewright's, {document['machine']['cpu']}"
    marks = [mark for found, _ in panels for mark in found]
    return svg.document(width, height, [svg.text(10, 20, title, size=14), *marks], title)


def _panel(run: Row, start: int) -> tuple[list[str], int]:
    """The marks of a panel `start` pixels from the left, and its height."""
    rows = [r for r in run["rows"] if BY_NAME[r["workload"]].anchor and best_peer(r) is not None]
    step, unit = 16, 56  # pixels of a row, and of a factor of two
    names, middle = start + 160, start + 340
    height = step * len(rows) + 75
    threads = f"{run['threads']} thread{'s' * (run['threads'] > 1)}"
    parts = [svg.text(start + 10, 45, threads, bold=True)]
    for power in range(-3, 4):
        x, colour = middle + unit * power, "muted" if power == 0 else "grid"
        label = f"{2**power}x" if power >= 0 else f"1/{2**-power}"
        parts += [svg.path([(x, 52), (x, height - 10)], colour),
                  svg.text(x, 46, label, "muted", "middle")]  # fmt: skip
    for k, row in enumerate(rows):
        r, best = ratio(row), best_peer(row)
        y, length = 56 + step * k, max(-3.0, min(3.0, math.log2(r) if r else 0.0)) * unit
        label = f"{r:.2f} {best[0]}" if r and best else "no result"
        bar = middle + min(length, 0), y + 1, abs(length), step - 4
        parts += [
            svg.text(names, y + 10, row["workload"], anchor="end"),
            svg.rect(*bar, "good" if r and r >= 1 else "bad"),
            svg.text(middle + max(length, 0) + 4, y + 10, label, "muted"),
        ]
    return parts, height
