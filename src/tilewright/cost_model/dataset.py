"""Data sets: measurements as a model learns from them.

Knows how records of a database become groups of candidates with features, and the file in which
they travel: JSON lines, compressed. Refuses to know how models learn (`training`).
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from tilewright.cost_model import encoding, features
from tilewright.cost_model.corpus import part_of
from tilewright.cost_model.model import Array
from tilewright.cost_model.records import Database, Imported, Record, schedule_of
from tilewright.cost_model.spaces import space
from tilewright.cost_model.training import Group
from tilewright.errors import BadEncoding, ScheduleError
from tilewright.target import Target
from tilewright.transforms.schedule import Schedule

FEWEST = 4
"""Candidates of a kernel from which on there is something to rank."""


def groups(
    database: Database,
    threads: int = 1,
    part: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
    machine: str | None = None,
) -> list[Group]:
    """The measured candidates of every kernel on every machine that the database describes, those
    of one part of the corpus (`corpus.PARTS`) or of one machine (a key) if given.

    Times are those of the default schedule, by which all others were divided as they were measured,
    so that a machine that drifts does not matter within a kernel.
    """
    found: list[Group] = []
    machines = _machines(database)
    texts = database.kernels()
    for n, (key, text) in enumerate(sorted(texts.items())):
        if part is not None and part_of(key) != part:
            continue
        by_machine: dict[str, list[Record]] = {}
        for r in database.records(kernel=key, machine=machine, threads=threads):
            by_machine.setdefault(r.machine, []).append(r)
        for name in sorted(by_machine.keys() & machines.keys()):
            group = _group(key, text, by_machine[name], machines[name])
            if group is not None:
                found.append(group)
        if n % 50 == 49:
            progress(f"{n + 1} of {len(texts)} kernels, {sum(map(len, found))} candidates")
    return found


def target_of(machine: encoding.Machine) -> Target:
    """What the compiler knows of a machine that was described."""
    return Target(
        f"{machine.architecture}-unknown-linux-gnu",
        machine.cpu,
        ",".join(f"+{name}" for name in machine.features),
        machine.vector_bytes,
        machine.l1_bytes,
        machine.l2_bytes,
    )


def described(machine: encoding.Machine) -> Array:
    """What a network is told of it (`features.MACHINE`), float32."""
    told = features.told(target_of(machine), machine.cores)
    return np.array([*told.values()], np.float32)


def _machines(database: Database) -> dict[str, tuple[Target, Array]]:
    """The described machines by their keys: targets, and what a network is told of them."""
    found = {}
    for key, text in database.machines().items():
        with suppress(BadEncoding):
            m = encoding.Machine.from_json(text)
            found[key] = target_of(m), described(m)
    return found


def _group(
    key: str, text: str, records: list[Record], machine: tuple[Target, Array]
) -> Group | None:
    """None if too little is known of the kernel."""
    good = [r for r in records if not r.error and r.seconds and r.reference]
    if len(good) < FEWEST:
        return None
    try:
        kernel = encoding.decode(text)
    except BadEncoding:
        return None
    target, told = machine
    s = space(kernel, target, good[0].threads)
    default = float(np.median([r.reference for r in good if r.reference]))
    ratios: dict[Schedule, list[float]] = {}
    for r in good:
        with suppress(ScheduleError):
            ratios.setdefault(schedule_of(r.schedule, kernel), []).append(r.ratio)
    seconds = default * np.array([float(np.mean(x)) for x in ratios.values()])
    schedules = [*ratios]
    if len(schedules) < FEWEST:
        return None
    # What is the default today need not be what it was when the others were divided by it.
    number = schedules.index(s.default) if s.default in ratios else -1
    rows, estimate = s.extractor.described(s.walks_of(schedules))
    return Group(key, rows, estimate, seconds, told, number)


# -- files -----------------------------------------------------------------------------------------


def write(database: Database, path: Path) -> int:
    """The database as a compressed file of JSON lines; how many records. The same bytes for the
    same measurements."""
    text = io.StringIO()
    database.export(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(lzma.compress(text.getvalue().encode(), preset=9))
    unfinished.replace(path)
    return sum(1 for _ in database.records())


def read(path: Path, database: Database) -> Imported:
    """Store what `write` wrote into a database. Lines that are none are reported and skipped."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return database.read(file)


def split(found: Iterable[Group]) -> Mapping[str, list[Group]]:
    """The groups by the part of the corpus that their kernels belong to."""
    parts: dict[str, list[Group]] = {"train": [], "validation": [], "test": []}
    for g in found:
        parts[part_of(g.key)].append(g)
    return parts


def lines(database: Database) -> Iterator[str]:
    """What is known of each kernel, a line each: trials, failures, and the best ratio."""
    for key in sorted(database.kernels()):
        records = list(database.records(kernel=key))
        ratios = [r.ratio for r in records if not r.error]
        if ratios:
            failed = len(records) - len(ratios)
            yield f"{key[:12]} {len(records):5} trials {failed:4} failed  best {min(ratios):.3f}"
