"""Imports run one way only, read off the source: a module may import its own layer and those below.

The layers are listed once, here, from the ground up. A module that is in none of them fails, so
that whoever adds one says where it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tilewright"

LAYERS: list[tuple[str, set[str]]] = [
    ("languages", {"constants", "dtypes", "errors", "expr", "forks", "graph", "interpret", "kernel",
                   "loops", "options", "scalars", "source", "target", "term", "trees"}),
    ("ops", {"ops"}),
    ("tracing and functions", {"array", "contracts", "control", "initializers", "lax", "nn",
                               "numpy", "operators", "promotion", "random", "scipy",
                               "selection", "staging", "subscript", "tracing"}),
    ("transforms", {"transforms"}),
    ("codegen", {"codegen"}),
    ("runtime", {"runtime"}),
    ("cost model", {"cost_model", "roofline"}),
    ("compile and frontends", {"compile", "frontends", "svg", "tuning", "viz", "__init__"}),
]  # fmt: skip

EXCEPTIONS: set[tuple[str, str]] = set()
"""(importing module, imported name); never more than one."""

LAYER_OF = {name: level for level, (_, names) in enumerate(LAYERS) for name in names}
MODULES = {p.relative_to(SOURCE).with_suffix("").as_posix(): p for p in SOURCE.rglob("*.py")}


def top(module: str) -> str:
    """The name directly under the package: what the layers list."""
    return module.split("/")[0]


def imports(module: str, late: bool) -> Iterator[tuple[str, int]]:
    """(module of ours, line) of every import; those inside functions only if `late`."""
    tree = ast.parse(MODULES[module].read_text())
    inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if node in inside and not late:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "tilewright":
                yield resolve(name), node.lineno


def resolve(name: str) -> str:
    """The file a dotted name comes from: `tilewright.graph.Node` is in `graph`."""
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        for found in ("/".join(parts[:end]), "/".join([*parts[:end], "__init__"])):
            if found in MODULES:
                return found
    return "__init__"


def test_every_module_has_a_layer() -> None:
    unplaced = {top(m) for m in MODULES} - set(LAYER_OF)
    assert not unplaced, f"say in tests/test_layers.py which layer these belong to: {unplaced}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    level = LAYER_OF[top(module)]
    upward = [
        f"{module}:{line} (layer {LAYERS[level][0]!r}) imports {imported} "
        f"(layer {LAYERS[LAYER_OF[top(imported)]][0]!r})"
        for imported, line in imports(module, late=True)
        if LAYER_OF[top(imported)] > level and (module, imported) not in EXCEPTIONS
    ]
    assert not upward, "\n".join(upward)


def test_at_most_one_exception() -> None:
    assert len(EXCEPTIONS) <= 1


def test_modules_load_in_one_order() -> None:
    """Imports made while a module loads never come back to it."""
    below = {m: {i for i, _ in imports(m, late=False)} - {m} for m in MODULES}
    order = list(TopologicalSorter(below).static_order())  # raises CycleError, naming the circle
    assert set(order) >= set(MODULES)


APART = {"contracts", "frontends/jax", "cost_model/baselines", "cost_model/worker"}
"""What they load late is loaded already, loaded by a frontend's user alone, or loaded in a process
that never forks."""


@pytest.mark.parametrize("module", sorted(MODULES.keys() - APART))
def test_forks_wait_for_late_imports(module: str) -> None:
    """In the child of a fork, a module that another thread was loading would never be loaded."""
    tree = ast.parse(MODULES[module].read_text())
    held = {
        n
        for w in ast.walk(tree)
        if isinstance(w, ast.With) and "forks.importing" in ast.unparse(w.items[0])
        for n in ast.walk(w)
    }
    for f in ast.walk(tree):
        for n in ast.walk(f) if isinstance(f, ast.FunctionDef) else ():
            if isinstance(n, ast.Import | ast.ImportFrom) and n not in held:
                pytest.fail(f"{module}:{n.lineno}: an import outside `with forks.importing`")
