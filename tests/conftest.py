"""What every test shares: how Hypothesis runs, and seeded random numbers."""

from __future__ import annotations

import os

import hypothesis
import numpy as np
import pytest

# Compilation makes a first example slow; a deadline would only measure the machine's load.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers for every test that asks, whatever ran before it."""
    return np.random.default_rng(20)
