"""`python -m benchmarks.suite`: run the suite, print tables, write JSON and a chart.

Knows the command line and the workers: it starts one for each number of threads, hands it
workloads, and replaces it when it says nothing for too long or dies. The contender it was busy
with is reported and left out of that workload from then on. Refuses to know what is measured
(`worker`) and how it is shown (`report`).
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.suite import contenders, report
from benchmarks.suite.worker import START_UP
from benchmarks.suite.workloads import BY_NAME, SUITE, Workload

ROOT = Path(__file__).parents[2]
FIRST_PROCESSES = 3
"""Of how many processes first calls are medians."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite",
        description="Tilewright against the installed peers, and against the machine's roof.",
        epilog="Marks: ~ threads waited for a core in more than a tenth of the time; < below the"
        " best peer. A contender that is wrong, fails or takes too long is reported in its place.",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help="workloads or groups whose name contains one of these, by commas",
    )
    parser.add_argument("--anchors", action="store_true", help="leave the neighbours out")
    parser.add_argument("--threads", default="1", metavar="COUNTS", help="e.g. 1,2 (default: 1)")
    parser.add_argument(
        "--peers",
        default=",".join(contenders.PEERS),
        metavar="NAMES",
        help="peers to run, of those installed (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.5,
        help="time given to each contender of a workload (default: 0.5)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=90.0,
        help="seconds of silence after which a contender is given up",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="where to draw the chart")
    parser.add_argument(
        "--first-calls",
        action="store_true",
        help="print everyone's first calls too (they are always in the JSON), those of jax and ours"
        " as medians of three processes",
    )
    parser.add_argument("--list", action="store_true", help="print the workloads and stop")
    parser.add_argument(
        "--from-json",
        type=Path,
        metavar="FILE",
        help="measure nothing: show what an earlier run wrote",
    )
    return parser.parse_args()  # fmt: skip


class Worker:
    """A process that measures; started when first needed, and again after it was killed."""

    def __init__(self, threads: int, seconds: float, timeout: float) -> None:
        self.threads, self.seconds, self.timeout = threads, seconds, timeout
        self.rates: dict[str, Any] = {}
        self._unable: dict[str, str] = {}  # contenders that do not even start, and why
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def measure(self, workload: Workload, names: list[str]) -> dict[str, dict[str, Any]]:
        """What was found of each contender. One that kills or blocks the worker is left out and
        the workload measured again with the others; one that does not start, out of all."""
        lost = {n: {"failed": self._unable[n]} for n in names if n in self._unable}
        names = [n for n in names if n not in lost]
        while True:
            found, blamed, stage, reason = self._attempt(workload.name, names)
            if not reason:
                return {**found, **lost}
            lost[blamed] = {"failed": f"{reason} ({stage})"}
            if stage == START_UP:
                self._unable[blamed] = lost[blamed]["failed"]
            if blamed not in names:
                return {**found, **lost}
            names.remove(blamed)

    def _attempt(self, name: str, names: list[str]) -> tuple[dict[str, Any], str, str, str]:
        """What was found; or who was busy, at what stage, when the worker was given up, and why."""
        self._start()
        assert self._process and self._process.stdin
        self._process.stdin.write(json.dumps({"workload": name, "contenders": names}).encode())
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        found: dict[str, dict[str, Any]] = {}
        busy, stage = "", "start"
        while True:
            event = self._event(self.timeout * (3 if stage == START_UP else 1))
            if isinstance(event, str):
                self.stop()
                return {}, busy, stage, event
            kind, one = event.pop("event"), event.pop("contender", "")
            if kind == "done":
                return found, "", stage, ""
            if kind == "start":
                busy, stage = one, event["stage"]
            elif kind == "failed":
                found[one] = {"failed": event["reason"]}
            elif kind == "first":
                found.setdefault(one, {})["first"] = event
            elif kind == "times":
                found.setdefault(one, {}).update(event)

    def _start(self) -> None:
        if self._process is not None:
            return
        path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p)
        variables = {**os.environ, **contenders.environment(self.threads), "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.suite.worker", str(self.threads),
             str(self.seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=variables,
        )  # fmt: skip
        event = self._event(3 * self.timeout)
        if isinstance(event, str):
            raise SystemExit(f"the worker does not start: {event}")
        del event["event"]
        self.rates = self.rates or event

    def _event(self, seconds: float) -> dict[str, Any] | str:
        """The next line of the worker, or why there is none within `seconds`."""
        assert self._process and self._process.stdout
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return f"more than {seconds:.0f} s"
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    return f"the process died with {self._process.wait()}"
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process, self._rest = None, b""


def chosen(only: str, anchors: bool) -> list[Workload]:
    parts = [p for p in only.split(",") if p]
    return [
        w for w in SUITE
        if (w.anchor or not anchors)
        and (not parts or any(p in w.name or p in w.group for p in parts))
    ]  # fmt: skip


def run(workloads: list[Workload], options: argparse.Namespace) -> dict[str, Any]:
    """The document of one run; each line of the table is printed as soon as it is known."""
    asked = [p for p in options.peers.split(",") if p]
    unknown = sorted(set(asked) - set(contenders.PEERS))
    if unknown:
        raise SystemExit(f"no peers are called {unknown}; there are {contenders.PEERS}")
    names = ["tilewright", *(p for p in asked if contenders.installed(p))]
    document: dict[str, Any] = {"machine": report.machine(names), "runs": []}
    for threads in map(int, options.threads.split(",")):
        worker = Worker(threads, options.seconds, options.timeout)
        rows: list[dict[str, Any]] = []
        found = {"threads": threads, "rates": {}, "rows": rows}
        document["runs"].append(found)
        try:
            for k, w in enumerate(workloads):
                fit = [n for n in names if contenders.suitable(n, w)]
                rows.append({"workload": w.name, "contenders": worker.measure(w, fit)})
                found["rates"] = worker.rates
                if k == 0:
                    print(report.heading(found, names))
                print(report.line(rows[-1], found["rates"], names), flush=True)
                save(document, options)
        finally:
            worker.stop()
        if options.first_calls:
            again(found, names, options)
            save(document, options)
        print(report.summary(found))
    return document


def again(found: dict[str, Any], names: list[str], options: argparse.Namespace) -> None:
    """First calls of those whose first calls are compared, as medians of several processes: a
    process has but one, and what it meets in the machine differs from one to the next."""
    compared = [n for n in report.FIRSTS if n in names]
    for _ in range(FIRST_PROCESSES - 1):
        worker = Worker(found["threads"], 0.0, options.timeout)
        try:
            for row in found["rows"]:
                of = {n: c for n, c in row["contenders"].items() if n in compared and "first" in c}
                for n, more in worker.measure(BY_NAME[row["workload"]], [*of]).items():
                    of[n].setdefault("firsts", [of[n]["first"]]).extend(
                        [more["first"]] if "first" in more else []
                    )
        finally:
            worker.stop()
    for row in found["rows"]:
        for c in row["contenders"].values():
            if "firsts" in c:
                by_cpu = sorted(c["firsts"], key=lambda first: first["cpu"])
                c["first"] = by_cpu[len(by_cpu) // 2]


def save(document: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1))


def main() -> int:
    chosen_options = options()
    workloads = chosen(chosen_options.only, chosen_options.anchors)
    if chosen_options.list:
        for w in workloads:
            print(f"{w.group:<16}{'anchor   ' if w.anchor else 'neighbour'} {w.name}")
        return 0
    if not workloads:
        raise SystemExit(f"no workload or group has {chosen_options.only!r} in its name")
    if chosen_options.from_json:
        document = json.loads(chosen_options.from_json.read_text())
        for found in document["runs"]:
            print(report.table(found))
    else:
        document = run(workloads, chosen_options)
    for found in document["runs"] if chosen_options.first_calls else ():
        print("\n" + report.first_calls(found))
    if chosen_options.svg:
        chosen_options.svg.parent.mkdir(parents=True, exist_ok=True)
        chosen_options.svg.write_text(report.chart(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
