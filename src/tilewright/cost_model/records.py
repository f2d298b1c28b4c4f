"""Records: what was measured, kept in a database that outlives the process.

Knows one measurement (`Record`), how measurements are stored (SQLite), found by kernel, machine and
threads, written out as JSON lines, read back and merged. Refuses to know how to measure
(`measure`) and what to learn from it.

Any number of processes and threads may use one file; a transaction is there as a whole or not at
all. What is read is not trusted: lines are checked one by one, and a schedule is parsed and held
against its kernel before anybody gets it. Schedules are stored in the names of the kernel's
canonical form (`encoding.portable`), since steps name axes and buffers.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from tilewright import forks
from tilewright.cost_model import encoding
from tilewright.cost_model.encoding import Machine
from tilewright.cost_model.files import STAMP, database_path
from tilewright.cost_model.standing import Standing, compared
from tilewright.errors import BadDatabase, BadEncoding, ScheduleError
from tilewright.kernel import Kernel
from tilewright.runtime import cache
from tilewright.transforms.schedule import Schedule, planned

SCHEMA: Final = 1
MOST_LINE: Final = encoding.MOST_CHARACTERS + (1 << 20)
MOST_SCHEDULE: Final = 1 << 16
"""Characters of a stored schedule."""
MOST_REPORTED: Final = 1000
"""Bad lines that an import describes; beyond, it only counts."""
BATCH: Final = 1000
"""Lines of an import that become one transaction."""
BUSY_SECONDS: Final = 30.0

_TABLES: Final = """
CREATE TABLE kernels (key TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE machines (key TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    id INTEGER PRIMARY KEY, kernel TEXT NOT NULL REFERENCES kernels, machine TEXT NOT NULL,
    threads INTEGER NOT NULL, schedule TEXT NOT NULL, seconds REAL, reference REAL, spread REAL,
    error TEXT NOT NULL, at REAL NOT NULL, compiler TEXT NOT NULL, features INTEGER NOT NULL,
    UNIQUE (kernel, machine, threads, schedule, at)
);
"""

_ADDED: Final = """
CREATE TABLE IF NOT EXISTS timings (
    id INTEGER PRIMARY KEY, convolution TEXT NOT NULL, machine TEXT NOT NULL,
    threads INTEGER NOT NULL, algorithm TEXT NOT NULL, seconds REAL NOT NULL,
    reference REAL NOT NULL, at REAL NOT NULL, compiler TEXT NOT NULL,
    UNIQUE (convolution, machine, threads, algorithm, at)
)
"""
"""A table that files of older compilers lack."""


@dataclass(frozen=True)
class Record:
    """One measured schedule of a kernel.

    `kernel` and `machine` are keys (`encoding.key`, `Machine.key`); `schedule` is JSON in canonical
    names. `seconds` is the median of one run, `reference` that of the default schedule measured in
    turns with it, `spread` the interquartile range over the median; None where `error` says why
    there are none. `at` is when, in seconds since 1970; `compiler` and `features` are the versions
    of the compiler and of the features.
    """

    kernel: str
    machine: str
    threads: int
    schedule: str
    seconds: float | None
    reference: float | None
    spread: float | None
    error: str
    at: float
    compiler: str
    features: int

    @property
    def ratio(self) -> float:
        """Times as long as the default schedule takes; infinite for an error."""
        return self.seconds / self.reference if self.seconds and self.reference else math.inf


@dataclass(frozen=True)
class Timing:
    """One measured algorithm of a convolution, or of anything that several compute
    (`alternatives.Computation.text`): seconds of a program that computes nothing else, and as
    `reference` those of the first algorithm in turns with it. The other fields are a `Record`'s."""

    convolution: str
    machine: str
    threads: int
    algorithm: str
    seconds: float
    reference: float
    at: float
    compiler: str


_COLUMNS: Final = ", ".join(f.name for f in fields(Record))
_MARKS: Final = ", ".join("?" for _ in fields(Record))


@dataclass(frozen=True)
class Imported:
    """What an import read: new records, and the lines that were none with their number (from 1)
    and the reason."""

    records: int
    bad: tuple[tuple[int, str], ...]
    bad_count: int


def schedule_of(text: str, kernel: Kernel) -> Schedule:
    """A stored schedule in the kernel's own names, found to be legal for it.

    **Raises:** `ScheduleError` for any other text."""
    schedule = encoding.native(kernel, _parsed(text))
    planned(kernel, schedule)
    return schedule


def _parsed(text: str) -> Schedule:
    """A schedule whose fields are of the types they are declared with. **Raises:**
    `ScheduleError`."""
    if len(text) > MOST_SCHEDULE:
        raise ScheduleError(text[:80], "", "", "it is too long to be a stored schedule")
    try:
        schedule = Schedule.from_json(text)
    except (RecursionError, AttributeError):
        raise ScheduleError(text[:80], "", "", "this is not a stored schedule") from None
    for step in schedule.steps:
        for f in fields(step):
            x = getattr(step, f.name)
            texts = isinstance(x, tuple) and all(isinstance(n, str) for n in x)
            if not {"int": type(x) is int, "str": isinstance(x, str)}.get(str(f.type), texts):
                raise ScheduleError(text[:80], "", "", f"{f.name} is no {f.type}")
    return schedule


class Database:
    """Measurements in one file, which is made when something is first written to it.

    **Raises** (all methods): `BadDatabase` if the file cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = forks.Lock()
        self._open: tuple[int, sqlite3.Connection] | None = None

    # -- writing -----------------------------------------------------------------------------

    def insert(
        self,
        records: Iterable[Record],
        kernels: Iterable[Kernel] = (),
        machines: Iterable[Machine] = (),
    ) -> int:
        """Store measurements, and the kernels and machines they are of, in one transaction; how
        many are new. A measurement that is there already is not stored twice.

        **Raises:** `BadEncoding` if a kernel is neither given nor there."""
        texts = {encoding.key(k): encoding.encode(encoding.canonical(k)) for k in kernels}
        return self._write(records, texts, {m.key: m.to_json() for m in machines})

    def _write(
        self, records: Iterable[Record], kernels: Mapping[str, str], machines: Mapping[str, str]
    ) -> int:
        with self._transaction(make=True) as c:
            assert c is not None, "it is made where it is not there"
            c.executemany("INSERT OR IGNORE INTO kernels VALUES (?, ?)", kernels.items())
            c.executemany("INSERT OR REPLACE INTO machines VALUES (?, ?)", machines.items())
            before = c.total_changes
            rows = [tuple(asdict(r).values()) for r in records]
            insert = f"INSERT OR IGNORE INTO records ({_COLUMNS}) VALUES ({_MARKS})"
            try:
                c.executemany(insert, rows)
            except sqlite3.IntegrityError:
                raise BadEncoding("record", "its kernel is not in the database") from None
            return c.total_changes - before

    def time(self, timings: Iterable[Timing]) -> int:
        """Store measured algorithms; how many are new."""
        names = ", ".join(f.name for f in fields(Timing))
        marks = ", ".join("?" for _ in fields(Timing))
        with self._transaction(make=True) as c:
            assert c is not None, "it is made where it is not there"
            before = c.total_changes
            rows = [tuple(asdict(t).values()) for t in timings]
            c.executemany(f"INSERT OR IGNORE INTO timings ({names}) VALUES ({marks})", rows)
            return c.total_changes - before

    # -- reading -----------------------------------------------------------------------------

    def algorithms(self, convolution: str, machine: str, threads: int) -> dict[str, float]:
        """The algorithms that were measured for a computation (its text) on a machine (a key),
        with the times as long as the first one takes; the mean of several measurements."""
        query = (
            "SELECT algorithm, AVG(seconds / reference) FROM timings WHERE convolution = ?"
            " AND machine = ? AND threads = ? AND seconds > 0 AND reference > 0"
            " GROUP BY algorithm ORDER BY algorithm"
        )
        with self._transaction() as c:
            if c is None:
                return {}
            rows = c.execute(query, (convolution, machine, threads))
            return {n: x for n, x in rows if isinstance(x, float) and 0 < x < math.inf}

    def timings(self) -> list[Timing]:
        """All measured algorithms, in the order they were stored."""
        names = ", ".join(f.name for f in fields(Timing))
        with self._transaction() as c:
            rows = [] if c is None else c.execute(f"SELECT {names} FROM timings ORDER BY id")
            return [Timing(*row) for row in rows]

    def best(
        self, kernel: Kernel, machine: str, threads: int, most: int = 1
    ) -> list[tuple[Schedule, float]]:
        """The legal schedules that were fastest on a machine (a key), compared with the default
        one, best first, at most so many; with the times as long as the default takes. Empty where
        nothing is known."""
        found = islice(ranked(kernel, self.quotients(kernel, machine, threads)), most)
        return [(schedule, x.ratio) for schedule, x in found]

    def quotients(self, kernel: Kernel, machine: str, threads: int) -> dict[str, list[float]]:
        """What was measured on a machine (a key) by the default schedule's time, in that order, by
        the schedule's text."""
        query = (
            "SELECT schedule, seconds / reference FROM records WHERE kernel = ?"
            " AND machine = ? AND threads = ? AND error = '' AND seconds > 0 AND reference > 0"
            " ORDER BY id"
        )
        found: dict[str, list[float]] = {}
        with self._transaction() as c:
            rows = () if c is None else c.execute(query, (encoding.key(kernel), machine, threads))
            for text, ratio in rows:
                found.setdefault(text, []).append(ratio)
        return found

    @property
    def stamp(self) -> int:
        """A number that is another one once something was stored; 0 where nothing is, or where
        the file cannot be used."""
        with suppress(BadDatabase), self._transaction() as c:
            return 0 if c is None else c.execute(STAMP).fetchone()[0]
        return 0

    def records(
        self, kernel: str | None = None, machine: str | None = None, threads: int | None = None
    ) -> Iterator[Record]:
        """The measurements, of one kernel and machine (keys) and number of threads if given, in the
        order they were stored; what other processes store meanwhile may be among them."""
        wanted = {"kernel": kernel, "machine": machine, "threads": threads}
        given = {n: x for n, x in wanted.items() if x is not None}
        where = " AND ".join(["id > ?", *(f"{n} = ?" for n in given)])
        last = -1
        while True:
            with self._transaction() as c:
                query = (
                    f"SELECT id, {_COLUMNS} FROM records WHERE {where} ORDER BY id LIMIT {BATCH}"
                )
                rows = [] if c is None else c.execute(query, (last, *given.values())).fetchall()
            for row in rows:
                yield Record(*row[1:])
            if not rows:
                return
            last = rows[-1][0]

    def kernels(self) -> dict[str, str]:
        """The kernels of which something was measured, as JSON, by key."""
        return self._texts("kernels")

    def machines(self) -> dict[str, str]:
        """The machines that something was measured on, as JSON, by key."""
        return self._texts("machines")

    def _texts(self, table: str) -> dict[str, str]:
        with self._transaction() as c:
            return {} if c is None else dict(c.execute(f"SELECT key, json FROM {table}"))

    # -- exchange ----------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Everything as JSON texts without line breaks: kernels, machines, then measurements."""
        for table in ("kernel", "machine"):
            for name, text in sorted(self._texts(f"{table}s").items()):
                yield json.dumps({"kind": table, "key": name, "json": text})
        for r in self.records():
            yield json.dumps({"kind": "record", **asdict(r)})
        for t in self.timings():
            yield json.dumps({"kind": "timing", **asdict(t)})

    def export(self, file: TextIO) -> int:
        """Write all as JSON lines; how many."""
        count = 0
        for line in self.lines():
            file.write(line + "\n")
            count += 1
        return count

    def read(self, file: TextIO) -> Imported:
        """Store what `export` wrote, line by line. Lines that are damaged, too long, or of a kernel
        that no line before describes are skipped and reported."""
        return self._read(iter(lambda: _line(file), ""))

    def merge(self, other: Database) -> Imported:
        """Store what another database holds."""
        return self._read(other.lines())

    def _read(self, lines: Iterable[str]) -> Imported:
        numbered, known = enumerate(lines, 1), set(self.kernels())
        bad: list[tuple[int, str]] = []
        bad_count = count = 0
        while batch := list(islice(numbered, BATCH)):
            found: dict[str, dict[str, str]] = {"kernel": {}, "machine": {}}
            records: list[Record] = []
            timings: list[Timing] = []
            for number, line in batch:
                try:
                    content = _content(line)
                    if isinstance(content, tuple):
                        found[content[0]][content[1]] = content[2]
                    elif isinstance(content, Timing):
                        timings.append(content)
                    elif content.kernel not in known and content.kernel not in found["kernel"]:
                        raise BadEncoding("record", "its kernel is not known")
                    else:
                        records.append(content)
                except BadEncoding as e:
                    bad_count += 1
                    if len(bad) < MOST_REPORTED:
                        bad.append((number, e.what))
            count += self._write(records, found["kernel"], found["machine"])
            count += self.time(timings) if timings else 0
            known |= set(found["kernel"])
        return Imported(count, tuple(bad), bad_count)

    # -- the file ----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._open is not None and self._open[0] == os.getpid():
                self._open[1].close()
            self._open = None

    @contextmanager
    def _transaction(self, make: bool = False) -> Iterator[sqlite3.Connection | None]:
        """A connection inside a transaction, which is undone if the block raises. None where there
        is no file and none is to be made."""
        with self._lock:
            try:
                c = self._connection(make)
                if c is None:
                    yield None
                    return
                c.execute("BEGIN IMMEDIATE" if make else "BEGIN")
                try:
                    yield c
                    c.execute("COMMIT")
                except BaseException:
                    if c.in_transaction:
                        c.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as e:
                raise BadDatabase(str(self.path), _reason(e)) from None

    def _connection(self, make: bool) -> sqlite3.Connection | None:
        if self._open is not None and self._open[0] == os.getpid():
            return self._open[1]
        if not make and not self.path.exists():
            return None
        with suppress(OSError):  # SQLite says what is wrong with the place
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        c = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            c.execute("PRAGMA journal_mode = WAL")
            c.execute("PRAGMA synchronous = NORMAL")
            c.execute("PRAGMA foreign_keys = ON")
            c.execute("PRAGMA trusted_schema = OFF")
            self._prepare(c)
        except BaseException:
            c.close()
            raise
        self._open = os.getpid(), c  # a child of a fork must not touch its parent's connection
        return c

    def _prepare(self, c: sqlite3.Connection) -> None:
        """Make the tables if the file is new, by whichever process comes first."""
        c.execute("BEGIN IMMEDIATE")
        try:
            (version,) = c.execute("PRAGMA user_version").fetchone()
            (tables,) = c.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
            if version == 0 and tables == 0:
                for statement in filter(str.strip, _TABLES.split(";")):
                    c.execute(statement)
                c.execute(f"PRAGMA user_version = {SCHEMA}")
            elif version != SCHEMA:
                reason = f"its tables are of version {version}, not {SCHEMA}"
                raise BadDatabase(str(self.path), reason)
            c.execute(_ADDED)
            c.execute("COMMIT")
        except BaseException:
            c.execute("ROLLBACK")
            raise


def _reason(e: Exception) -> str:
    return (e.strerror or str(e)) if isinstance(e, OSError) else str(e)


def _line(file: TextIO) -> str:
    """The next line, at most a character longer than any may be, or "" at the end."""
    line = file.readline(MOST_LINE + 1)
    rest = line
    while len(rest) > MOST_LINE and not rest.endswith("\n"):
        rest = file.readline(MOST_LINE + 1)
    return line


def _content(line: str) -> Record | Timing | tuple[str, str, str]:
    """A record, a timing, or ("kernel" or "machine", key, JSON). **Raises:** `BadEncoding`."""
    if len(line) > MOST_LINE:
        raise BadEncoding("record", "the line is too long")
    content = encoding.parsed("record", line)
    kind = content.pop("kind", None)
    if kind == "record":
        return _record(content)
    if kind == "timing":
        _check_fields(Timing, content)
        return Timing(**content)
    if kind not in ("kernel", "machine") or set(content) != {"key", "json"}:
        raise BadEncoding("record", "the line is no kernel, machine or record")
    if not all(isinstance(x, str) for x in content.values()):
        raise BadEncoding(kind, "its key or its content is no text")
    text = content["json"]
    if kind == "kernel":
        kernel = encoding.decode(text)
        found, text = encoding.key(kernel), encoding.encode(encoding.canonical(kernel))
    else:
        found = Machine.from_json(text).key
    if found != content["key"]:
        raise BadEncoding(kind, "it is not what its key says")
    return kind, found, text


def _check_fields(kind: type, content: dict[str, Any]) -> None:
    """Whether an object has a dataclass's fields, of their types. **Raises:** `BadEncoding`."""
    if set(content) != {f.name for f in fields(kind)}:
        names = ", ".join(f.name for f in fields(kind))
        raise BadEncoding("record", f"its fields are not {names}")
    for f in fields(kind):
        x = content[f.name]
        number = type(x) in (int, float) and math.isfinite(x) and abs(x) < 1 << 60
        fits = {
            "str": isinstance(x, str) and len(x) <= MOST_SCHEDULE,
            "int": type(x) is int and number,
            "float": number,
            "float | None": x is None or (number and x >= 0),
        }[str(f.type)]
        if not fits:
            raise BadEncoding("record", f"{f.name} is {str(x)[:40]!r}, not {f.type}")


def _record(content: dict[str, Any]) -> Record:
    _check_fields(Record, content)
    r = Record(**content)
    if (r.seconds is None or r.reference is None) != bool(r.error):
        raise BadEncoding("record", "it has either seconds or an error")
    try:
        _parsed(r.schedule)
    except ScheduleError as e:
        raise BadEncoding("record", e.what[:200]) from None
    return r


def ranked(
    kernel: Kernel, quotients: Mapping[str, Sequence[float]], default: Schedule | None = None
) -> Iterator[tuple[Schedule, Standing]]:
    """The legal schedules that were measured (`Database.quotients`), each with what that says of
    it, compared with the default one if that is given, and what leads by that first."""
    usual = "" if default is None else encoding.portable(kernel, default).to_json()
    found = [(text, x) for text, x in compared(quotients, usual).items() if text in quotients]
    for text, x in sorted(found, key=lambda pair: (pair[1].order, pair[0])):
        with suppress(ScheduleError):
            yield schedule_of(text, kernel), x


def compiler_version() -> str:
    """What tells compilers apart: a digest of all that turns a schedule into machine code."""
    return cache.key("compiler")[:16]


def database() -> Database | None:
    """The user's database, which the environment names; None if it wants none."""
    path = database_path()
    return None if path is None else Database(path)
