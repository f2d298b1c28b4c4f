"""Transfer: a model that learned elsewhere, fitted to the machine it is used on.

Knows when a model is another machine's, and how it learns from the few measurements that a user's
database has of this one: some steps from the weights it has, pulled back to them. Refuses to
measure, and to know which schedules follow (`choice`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tilewright.cost_model import dataset
from tilewright.cost_model.encoding import machine_key
from tilewright.cost_model.model import Model, machine_name
from tilewright.cost_model.records import Database
from tilewright.cost_model.training import Compiled, Group, Settings, Trainer, adam, plainly
from tilewright.target import Target

FEWEST: Final = 8
"""Measurements from which on something is learned."""
STEPS: Final = 20
RATE: Final = 1e-3
SETTINGS: Final = Settings(decay=1.0)
"""Held firmly to the weights there were: with a decay of 0.01, eight measurements of one kernel
make the order of all others worse."""


def foreign(model: Model, target: Target) -> bool:
    """Whether the model is known to have learned from other machines only."""
    return bool(model.trained_on) and machine_name(target) not in model.trained_on


def trainer(compiled: Compiled = plainly) -> Trainer:
    """What fits models; its program may serve many."""
    return Trainer(adam(RATE), SETTINGS, compiled)


def tuned(model: Model, groups: Sequence[Group], by: Trainer) -> Model:
    """The model after learning a little from another machine's measurements. What it scored on
    kernels it had not seen is still the best that is known of it."""
    found = by.fine_tuned(model, groups, STEPS)
    return replace(found, held_out=model.held_out)


def fitted(
    model: Model, database: Database, target: Target, threads: int, compiled: Compiled = plainly
) -> Model:
    """The model, fitted to what the database has of this machine if the model is another's.

    **Raises:** `BadDatabase` if the file cannot be used.
    """
    if not foreign(model, target):
        return model
    groups = dataset.groups(database, threads, machine=machine_key(target))
    if sum(map(len, groups)) < FEWEST:
        return model
    return tuned(model, groups, trainer(compiled))
