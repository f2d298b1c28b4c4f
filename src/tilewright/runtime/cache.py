"""Machine code kept on disk, so that a program is compiled once and not once a process.

Knows files: where they are, what makes one valid, how many bytes they may take together. Refuses
to know programs: a key says what an entry is the code of, and whoever computes the key answers for
everything the code depends on.

What is read is not trusted. An entry is a header of fixed fields, a few numbers and the objects;
nothing is unpickled or evaluated. Entries that are cut short, changed, somebody else's or of
another key are removed and count as missing. Entries are written aside and renamed, so any number
of processes may share a directory and be killed at any moment. A digest finds accidents and does
not stop whoever may write the user's own files.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from tilewright import dtypes
from tilewright.options import show
from tilewright.runtime import jit
from tilewright.target import Target
from tilewright.transforms.copies import Copy

VARIABLE: Final = "TILEWRIGHT_CACHE_DIR"
"""Where entries are; `off` for nowhere. Default: `tilewright` in the user's cache directory."""
KEPT_BYTES: Final = 256 << 20
"""Bytes of all entries; beyond, those not used for longest are removed."""
LOOKS: Final = 64
"""How often, while as many bytes as may be kept are written, somebody looks whether they are."""
MOST_BYTES: Final = 64 << 20
"""Bytes of one entry."""
STALE_SECONDS: Final = 3600
"""Age at which an unfinished file has lost its writer."""

_MAGIC: Final = b"tilewr03"
_HEADER: Final = struct.Struct("<32sQIII")
"""Key, bytes of arena, and of how many numbers the lists are: kept, before, lengths of objects."""
_DTYPES: Final = tuple(dtypes.SHORT)
_DIGEST_BYTES: Final = 32
_SUFFIX: Final = ".entry"
_UNFINISHED: Final = ".part"


@dataclass(frozen=True)
class Before:
    """What is done once before a program: the shapes and dtypes of what that makes, the copies it
    ends with, and whether code is run first, which is in the program's objects, and in an arena of
    how many bytes."""

    results: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    copies: tuple[Copy, ...]
    runs: bool
    arena_bytes: int


@dataclass(frozen=True)
class Entry:
    """A compiled program: the objects that are its code, which of the arrays the traced function
    captured it reads, and the bytes of arena a run needs; and what prepares for it."""

    objects: tuple[bytes, ...]
    kept: tuple[int, ...]
    arena_bytes: int
    before: Before | None = None


def packed(key: str, entry: Entry) -> bytes:
    """The content of an entry's file. `key` has 64 hexadecimal digits."""
    before = [] if entry.before is None else _coded(entry.before)
    lists = entry.kept, before, [*map(len, entry.objects)]
    header = _HEADER.pack(bytes.fromhex(key), entry.arena_bytes, *map(len, lists))
    numbers = np.array([x for numbers in lists for x in numbers], "<u8").tobytes()
    body = b"".join((header, numbers, *entry.objects))
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpacked(key: str, content: bytes) -> Entry | None:
    """What `packed` gave, or None if the content is anything else."""
    start = len(_MAGIC) + _DIGEST_BYTES
    body = memoryview(content)[start:]
    if len(body) < _HEADER.size or content[: len(_MAGIC)] != _MAGIC:
        return None
    if hashlib.sha256(body).digest() != content[len(_MAGIC) : start]:
        return None
    found, arena_bytes, *counts = _HEADER.unpack_from(body)
    at = _HEADER.size + 8 * sum(counts)
    if found != bytes.fromhex(key) or counts[2] < 1 or at > len(body):
        return None
    numbers = iter(np.frombuffer(body[_HEADER.size : at], "<u8").tolist())
    kept, coded, sizes = (list(itertools.islice(numbers, n)) for n in counts)
    before = _decoded(coded) if coded else None
    if (coded and before is None) or at + sum(sizes) != len(body):
        return None
    objects = []
    for size in sizes:
        objects.append(bytes(body[at : at + size]))
        at += size
    return Entry(tuple(objects), tuple(kept), arena_bytes, before)


def _coded(before: Before) -> list[int]:
    """Numbers for what is done before: how many results and copies, whether code is run, bytes of
    arena; dtype, rank and shape of each result; the copies' own."""
    counts = [len(before.results), len(before.copies), int(before.runs), before.arena_bytes]
    results = [x for shape, d in before.results for x in (_DTYPES.index(d), len(shape), *shape)]
    return [*counts, *results, *(n for c in before.copies for n in c.numbers())]


def _decoded(coded: list[int]) -> Before | None:
    """What `_coded` was given; None if these are other numbers."""
    results: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
    copies: list[Copy] = []
    numbers = iter(coded)
    try:
        results_, copies_, runs, arena_bytes = (next(numbers) for _ in range(4))
        while len(results) < results_:
            dtype, rank = next(numbers), next(numbers)
            shape = tuple(itertools.islice(numbers, min(rank, len(coded))))
            if dtype >= len(_DTYPES) or len(shape) != rank:
                return None
            results.append((shape, _DTYPES[dtype]))
        while len(copies) < copies_:
            copies.append(Copy.read(numbers))
    except (StopIteration, RuntimeError):  # as generators raise for it
        return None
    if next(numbers, None) is not None:
        return None
    return Before(tuple(results), tuple(copies), bool(runs), arena_bytes)


class Store:
    """Entries in one directory. Where the directory cannot be used, it is as if it were empty;
    TILEWRIGHT_SHOW=cache says why."""

    def __init__(self, directory: Path, kept_bytes: int = KEPT_BYTES) -> None:
        self.directory, self.kept_bytes = directory, kept_bytes

    def get(self, key: str) -> Entry | None:
        """The entry of a key, and it counts as used now."""
        path = self._path(key)
        try:
            content = _read(path)
        except FileNotFoundError:
            return None
        except OSError as e:
            show("cache", f"{path}: {e.strerror}")
            return None
        entry = None if content is None else unpacked(key, content)
        if entry is None:
            show("cache", f"{path} is damaged or not ours, removed")
            self.discard(key)
            return None
        with suppress(OSError):
            os.utime(path)
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Write an entry; one too large for the cache is not kept."""
        content = packed(key, entry)
        if len(content) > min(MOST_BYTES, self.kept_bytes):
            return
        try:
            self._write(self._path(key), content)
            # Looking at all files takes milliseconds. Whoever writes so many bytes looks once, on
            # average, however many processes they are.
            if random.random() * self.kept_bytes < LOOKS * len(content):
                self._trim()
        except OSError as e:
            show("cache", f"{self.directory}: {e.strerror}")

    def discard(self, key: str) -> None:
        """Remove an entry that is of no use."""
        with suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self.directory / (key + _SUFFIX)

    def _write(self, path: Path, content: bytes) -> None:
        """Readers see the whole file or none, whenever the writer is stopped."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(_UNFINISHED, dir=self.directory)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def _trim(self) -> None:
        """Remove what was not used for longest until a tenth is free, if entries are too many
        bytes, and what writers left behind."""
        entries, now = [], time.time()
        with os.scandir(self.directory) as files:
            for file in files:
                with suppress(FileNotFoundError):  # another process is trimming too
                    status = file.stat(follow_symlinks=False)
                    if file.name.endswith(_SUFFIX):
                        entries.append((status.st_mtime_ns, status.st_size, file.path))
                    elif file.name.endswith(_UNFINISHED) and now - status.st_mtime > STALE_SECONDS:
                        os.unlink(file.path)
        total = sum(size for _, size, _ in entries)
        if total <= self.kept_bytes:
            return
        for _, size, path in sorted(entries):
            if total <= self.kept_bytes * 9 // 10:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def _read(path: Path) -> bytes | None:
    """The bytes of a file that only its owner may write, us or the system's administrator; None
    if it is not such a file, or too large. **Raises:** `OSError` if it cannot be read."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if hasattr(os, "geteuid"):
            owned = status.st_uid in (os.geteuid(), 0)
            if not owned or status.st_mode & 0o022:
                return None
        return file.read() if status.st_size <= MOST_BYTES else None


def store() -> Store | None:
    """The store that the environment asks for; None if it wants none."""
    asked = os.environ.get(VARIABLE)
    if asked == "off":
        return None
    if asked:
        return _store(asked)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return _store(os.path.join(base, "tilewright"))


@cache
def _store(directory: str) -> Store:
    return Store(Path(directory))


def object_code(text: str, target: Target) -> bytes:
    """The object of a module that many processes need alike, made by the first of them."""
    return named_object(text, target, lambda: text)


def named_object(name: str, target: Target, text: Callable[[], str]) -> bytes:
    """The same of a module whose text is made if it is needed: `name` says all that it depends on
    besides the target and the compiler."""
    kept = store()
    if kept is None:
        return jit.object_code(text(), target)
    entry = kept.get(place := key("module", name, target))
    if entry is not None:
        return entry.objects[0]
    code = jit.object_code(text(), target)
    kept.put(place, Entry((code,), (), 0))
    return code


# -- keys --------------------------------------------------------------------------------------


def key(*parts: Any) -> str:
    """A digest of what a program is made from: text, numbers, tuples, sets and dataclasses of
    these. Versions of everything that turns them into code are added."""
    text = "\0".join((_versions(), *map(_description, parts)))
    return hashlib.sha256(text.encode()).hexdigest()


def _description(x: Any) -> str:
    """The same text in every process, whatever the order of sets."""
    if is_dataclass(x) and not isinstance(x, type):
        inner: Iterable[str] = (f"{f.name}={_description(getattr(x, f.name))}" for f in fields(x))
        return f"{type(x).__name__}({','.join(inner)})"
    if isinstance(x, (set, frozenset)):
        return f"{{{','.join(sorted(map(_description, x)))}}}"
    if isinstance(x, tuple):
        return f"({','.join(map(_description, x))})"
    return x if isinstance(x, str) else repr(x)


@cache
def _versions() -> str:
    """The compiler's own files, and the libraries that code is made with. About 1.5 ms."""
    digest = hashlib.sha256()
    root = str(Path(__file__).parents[1])
    for path in sorted(_files(root)):
        digest.update(path.removeprefix(root).encode() + b"\0")
        with open(path, "rb", buffering=0) as file:
            digest.update(file.read())
    return f"{digest.hexdigest()} numpy {np.__version__} {jit.versions()}"


def _files(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for e in entries:
            if e.is_dir() and e.name != "__pycache__":
                yield from _files(e.path)
            elif e.is_file():
                yield e.path
