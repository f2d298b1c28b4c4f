"""The package as a newcomer meets it: light to import, doors at the root where the design says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_import_stays_light() -> None:
    """Optional packages cost their users nothing until they are asked for."""
    program = "import sys, tilewright; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "tilewright" in loaded
    assert not loaded & {"jax", "jaxlib", "optax", "onnx", "sklearn", "torch", "scipy", "dask"}


@pytest.mark.parametrize("door", ["transforms", "codegen", "cost_model"])
def test_doors_at_the_root(door: str) -> None:
    link = ROOT / door
    assert link.is_symlink()
    assert link.resolve() == ROOT / "src" / "tilewright" / door


def test_core_dependencies_are_the_four_of_the_design() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {d.split(">=")[0] for d in project["dependencies"]} == {
        "numpy", "llvmlite", "ml_dtypes", "jaxtyping",
    }  # fmt: skip


def test_files_stay_readable() -> None:
    """House rule: a file fits one head, about 800 lines."""
    folders = ("src", "tests", "examples", "benchmarks")
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {path: n for path, n in lengths.items() if n > 820}
