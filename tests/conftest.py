"""What every test shares: how Hypothesis runs, seeded random numbers, and golden texts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# Compilation makes a first example slow; a deadline would only measure the machine's load.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

os.environ["TILEWRIGHT_VERIFY"] = "1"  # every stage checks its invariants in the tests
os.environ["TILEWRIGHT_CACHE_DIR"] = "off"  # nothing from before, and nothing left behind

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update", action="store_true", help="write golden texts as the code prints them now"
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers for every test that asks, whatever ran before it."""
    return np.random.default_rng(20)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text): the text is that of tests/golden/NAME.txt, or becomes it (--update)."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} does not exist yet: run pytest with --update"
        assert text == path.read_text()

    return compare
