"""The pages are true: their Python runs, and what it prints is what the page says.

A `python` block runs in its page's one namespace; a `text` block right after it holds what it
prints. `pytest --update` rewrites those.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<text>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)


def run_page(path: Path) -> list[tuple[re.Match[str], str]]:
    """Each Python block of a page with what it prints; errors point at the page's own lines."""
    page = path.read_text()
    namespace: dict[str, Any] = {"__name__": path.stem}
    printed = []
    for block in BLOCK.finditer(page):
        line = page.count("\n", 0, block.start("code"))
        code = compile("\n" * line + block["code"], str(path), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, namespace)
        printed.append((block, out.getvalue()))
    return printed


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_page_runs_and_prints_what_it_says(path: Path, request: pytest.FixtureRequest) -> None:
    printed = run_page(path)
    if request.config.getoption("--update"):
        page = path.read_text()
        for block, text in reversed(printed):
            if block["text"] is not None:
                page = page[: block.start("text")] + text + page[block.end("text") :]
        path.write_text(page)
        return
    for block, text in printed:
        assert text == (block["text"] or ""), f"{path.name} shows something else than is printed"


def test_readme_shows_code() -> None:
    assert BLOCK.search((ROOT / "README.md").read_text())


def test_tour_goes_through_every_stage() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "tour.py")],
        check=False, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for stage in ("interpreted graph", "interpreted kernel", "interpreted loops", "compiled"):
        assert f"{stage} = NumPy" in done.stdout, f"the tour does not run the {stage}"
    for text in ("graph layer(", "kernel layer_", "loops layer_", "fma", "lines of assembly"):
        assert text in done.stdout, f"the tour shows no {text!r}"
