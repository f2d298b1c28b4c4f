"""Choices: the same for equal kernels, made once, and not at all for programs that are on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.cost_model import choice, files
from tilewright.cost_model.choice import Choice, prior
from tilewright.cost_model.deferred import Deferred
from tilewright.cost_model.spaces import space
from tilewright.kernel import Kernel
from tilewright.target import host, named
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.schedule import planned

X, Y = np.zeros((37, 41), np.float32), np.zeros((41, 90), np.float32)


def product() -> Kernel:
    (found,) = tw.compile(lambda x, y: x @ y, threads=1).lower(X, Y).kernels
    return found


def renamed() -> Kernel:
    """The same kernel by another name, of buffers by other names."""
    (found,) = tw.compile(lambda left, right: left @ right, threads=1).lower(X, Y).kernels
    return replace(found, name="other")


def test_equal_kernels_are_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Kernel] = []

    def counted(kernel: Kernel, *rest: Any) -> Any:
        asked.append(kernel)
        return space(kernel, *rest)

    monkeypatch.setattr(choice, "space", counted)
    monkeypatch.setattr(choice, "_expected", {})
    known = prior()
    assert known is not None
    choose = Choice(host(), 1, None, known)
    first, other = product(), renamed()
    assert first != other
    for k in (first, other, first):
        assert planned(k, choose(k)).kernel is not None  # legal, in the kernel's own names
    assert len(asked) == 1
    Choice(named("avx2"), 1, None, known)(first)
    Choice(host(), 2, None, known)(first)
    assert len(asked) == 3


def test_nobody_is_expected_to_be_better_than_the_heuristic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "_expected", {})
    monkeypatch.setattr(choice, "MARGIN", np.inf)
    k = product()
    assert Choice(host(), 1, None, prior()).expected(k) == heuristic(k, host())


SECOND = """
import sys, numpy as np, tilewright as tw
f = tw.compile(lambda x, y: np.tanh(x @ y), threads=1)
f(np.ones((20, 30), np.float32), np.ones((30, 40), np.float32))
print([m for m in sys.modules if m.startswith("tilewright.cost_model")])
"""


def test_programs_on_disk_ask_nobody(tmp_path: Path) -> None:
    """A second process does not load what could choose."""
    environment = {k: v for k, v in os.environ.items() if k != "TILEWRIGHT_VERIFY"} | {
        files.MODEL: "on", files.VARIABLE: "off", "TILEWRIGHT_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    loaded = [
        subprocess.run(
            [sys.executable, "-c", SECOND], env=environment, text=True, check=True,
            capture_output=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert "'tilewright.cost_model.choice'" in loaded[0]
    assert "'tilewright.cost_model.deferred'" in loaded[1]
    assert "'tilewright.cost_model.choice'" not in loaded[1]


def test_deferred_choices_are_named_by_what_they_follow_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measured.sqlite"
    monkeypatch.setenv(files.VARIABLE, str(path))

    def key(threads: int = 1) -> str:
        return Deferred(host(), threads).cache_key

    nothing = key()
    assert key(2) != nothing
    monkeypatch.setenv(files.MODEL, "on")
    assert key() != nothing
    monkeypatch.delenv(files.MODEL)
    tw.tune(lambda x, y: x @ y, X, Y, trials=2, threads=1, progress=False)
    assert key() != nothing
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"no database at all" * 100)
    monkeypatch.setenv(files.VARIABLE, str(damaged))
    assert key() == nothing


def test_deferred_choices_choose_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.VARIABLE, "off")
    k = product()
    assert Deferred(host(), 1)(k) == heuristic(k, host())
    monkeypatch.setenv(files.MODEL, "on")
    deferred = Deferred(host(), 1)
    assert deferred(k) == Choice(host(), 1, None, prior())(k)
    assert deferred.on(named("avx2"))(k) == Choice(named("avx2"), 1, None, prior())(k)
