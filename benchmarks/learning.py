"""The learned judge: how it is made, what it is worth, and what it is worth on another machine.

Commands of `benchmarks.tuning`. Several networks and boosted trees learn from the measurements;
one small network learns from what they say together, mostly of schedules that nobody measured.
Whatever is chosen is chosen by the validation kernels.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.searches import say

import tilewright as tw
from tilewright.cost_model import baselines, corpus, dataset, encoding, metrics, transfer
from tilewright.cost_model.corpus import part_of
from tilewright.cost_model.dataset import target_of
from tilewright.cost_model.distillation import shown, softened, unlabelled
from tilewright.cost_model.encoding import Machine
from tilewright.cost_model.features import MACHINE, NAMES, VERSION
from tilewright.cost_model.model import Array, Model, machine_name
from tilewright.cost_model.records import Database
from tilewright.cost_model.training import (
    Group,
    Optimizer,
    Settings,
    Trainer,
    mean_score,
    quality,
    scored,
)
from tilewright.kernel import Kernel
from tilewright.target import host
from tilewright.transforms.heuristic import heuristic

SEEDS = (0, 1, 2, 3, 4)
STUDENTS = (5, 6, 7)
TREES = 0.4
"""What boosted trees count for among the teachers."""
TEACHER = Settings(width=96, epochs=150, patience=150)
STUDENT = Settings(width=96, epochs=40, patience=40, absolute=1.0)
DECAY, STUDENTS_DECAY = 0.5, 0.1
"""Of AdamW: a student sees far more schedules than its teachers did."""
DRAWN, SHOWN = 256, 128
"""Points of a kernel that teachers score, and those of them that a student is shown."""
REPEATED = 4
"""How often a student is shown a measured kernel for each time it is shown one that was not."""

Names = tuple[Sequence[str], Sequence[str], int]
NAMED: Names = (NAMES, MACHINE, VERSION)
Parts = dict[str, list[Group]]


@dataclass(frozen=True)
class Data:
    """Measured groups by part, the kernels of the training part, and the machines."""

    parts: Parts
    kernels: list[tuple[str, Kernel]]
    machines: list[Machine]

    def only(self, machine: Machine) -> Data:
        """What is known of one machine."""
        told = dataset.described(machine)
        parts = {
            part: [g for g in groups if np.array_equal(g.machine, told)]
            for part, groups in self.parts.items()
        }
        return Data(parts, self.kernels, [machine])


def loaded(path: Path) -> Data:
    """A packed data set; machines in the order of their measurements, most first."""
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "data.sqlite")
        found = dataset.read(path, database)
        say(f"{found.records} measurements, {found.bad_count} bad lines")
        parts = dict(dataset.split(dataset.groups(database, progress=say)))
        texts = sorted(database.kernels().items())
        machines = [Machine.from_json(text) for text in database.machines().values()]
        database.close()
    kernels = [(key, encoding.decode(text)) for key, text in texts if part_of(key) == "train"]
    data = Data(parts, kernels, machines)
    counts = {m.key: sum(map(len, data.only(m).parts["train"])) for m in machines}
    machines.sort(key=lambda m: -counts[m.key])
    for part, groups in parts.items():
        say(f"{part}: {len(groups)} groups, {sum(map(len, groups))} candidates")
    return data


# -- training --------------------------------------------------------------------------------------


def by_heuristic(f: Callable[..., Any]) -> Any:
    """`f` compiled without the model that is being made, or what was measured: the same bits."""
    return tw.compile(f, scheduler=functools.partial(heuristic, target=host()), threads=1)


def adamw(steps: int, decay: float, rate: float = 3e-3) -> Optimizer:
    """Optax's AdamW, whose update is part of the compiled training step; its rate falls to zero."""
    import optax

    from tilewright.frontends.jax import from_jax

    chosen = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=decay)
    return Optimizer(
        lambda params: tw.tree.map(np.asarray, chosen.init(params)), from_jax(chosen.update)
    )


def trainer_of(groups: Sequence[Group], settings: Settings, decay: float) -> Trainer:
    """A trainer whose rate is zero when the last epoch ends."""
    rows = sum(max(1, round(len(g) / settings.candidates)) for g in groups)
    steps = settings.epochs * -(-rows // settings.kernels)
    return Trainer(adamw(steps, decay), settings, by_heuristic)


@dataclass(frozen=True)
class Teachers:
    """Networks and trees; `scores` are their log seconds together."""

    networks: list[Model]
    trees: Callable[[Sequence[Group]], list[Array]]
    trainer: Trainer

    def scores(self, groups: Sequence[Group]) -> list[Array]:
        nets = mean_score(self.networks, groups, self.trainer.run)
        return [
            n + TREES * (t - t.mean() - n + n.mean())
            for n, t in zip(nets, self.trees(groups), strict=True)
        ]


def taught(data: Data) -> Teachers:
    """Teachers of the training kernels."""
    train, validation = data.parts["train"], data.parts["validation"]
    trainer = trainer_of(train, TEACHER, DECAY)
    models = []
    for seed in SEEDS:
        started = time.monotonic()
        models.append(trainer.trained(train, validation, NAMED, seed))
        worth = quality(validation, scored(models[-1], validation))
        say(f"teacher {seed}: validation {worth:.4f}, {time.monotonic() - started:.0f} s")
    return Teachers(models, baselines.trees(train, "boosted", told=True), trainer)


def pool(data: Data) -> list[Group]:
    """Schedules nobody measured: of the kernels that were measured, and of a corpus with another
    seed, training parts only, for each machine."""
    known = {key for key, _ in data.kernels}
    new = ((encoding.key(s.kernel), s) for s in corpus.corpus(seed=corpus.SEED + 1))
    kernels = [
        *data.kernels,
        *((key, s.kernel) for key, s in new if s.part == "train" and key not in known),
    ]
    found: list[Group] = []
    for m in data.machines:
        found += unlabelled(kernels, target_of(m), m.cores, DRAWN)
    say(f"{sum(map(len, found))} schedules of {len(kernels)} kernels to be taught")
    return found


def student(data: Data, teachers: Teachers, drawn: Sequence[Group]) -> Model:
    """The best of a few networks that learned what the teachers say."""
    train, validation = data.parts["train"], data.parts["validation"]
    groups = [
        *(REPEATED * softened(train, teachers.scores(train))),
        *shown(drawn, teachers.scores(drawn), SHOWN),
    ]
    trainer = trainer_of(groups, STUDENT, STUDENTS_DECAY)
    found: list[tuple[float, Model]] = []
    for seed in STUDENTS:
        started = time.monotonic()
        model = trainer.trained(groups, validation, NAMED, seed)
        found.append((quality(validation, scored(model, validation)), model))
        say(f"student {seed}: validation {found[-1][0]:.4f}, {time.monotonic() - started:.0f} s")
    return max(found, key=lambda pair: pair[0])[1]


def train(args: argparse.Namespace) -> None:
    """Train teachers on the packed data and a student on what they say together; report on the
    test kernels."""
    data = loaded(args.data)
    teachers = taught(data)
    model = student(data, teachers, pool(data))
    test = usual(data.only(data.machines[0]).parts["test"])
    seconds = [g.seconds for g in test]
    ours = metrics.geometric_top_k(seconds, scored(model, test), 1)
    theirs = metrics.geometric_top_k(seconds, baselines.heuristic(test), 1)
    model = replace(model, held_out=(ours, theirs), trained_on=names(data.machines))
    args.model.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.model)
    say(f"{args.model}: {args.model.stat().st_size} bytes, trusted: {model.trusted}")
    for machine in data.machines:
        say(f"\n{machine.cpu}, vectors of {machine.vector_bytes} bytes")
        table(data.only(machine).parts, teachers, model)


def usual(groups: Sequence[Group]) -> list[Group]:
    """Those of which the heuristic's schedule was measured: what is the default now may not have
    been when the data was collected."""
    return [g for g in groups if g.default >= 0]


def names(machines: Sequence[Machine]) -> tuple[str, ...]:
    """What `Model.trained_on` holds."""
    return tuple(machine_name(target_of(m)) for m in machines)


def table(parts: Parts, teachers: Teachers, model: Model) -> None:
    """Every judge on the kernels nobody has seen, those alone taught by this machine."""
    groups, test = [*parts["train"], *parts["validation"]], parts["test"]
    known = usual(test)
    rows = {
        "roofline": baselines.roofline(test),
        "random forest": baselines.trees(groups, "forest")(test),
        "boosted trees": baselines.trees(groups, "boosted")(test),
        "one network": scored(teachers.networks[0], test),
        f"{len(SEEDS)} networks": mean_score(teachers.networks, test),
        "networks and trees": teachers.scores(test),
        "taught by them": scored(model, test),
    }
    say(f"{len(test)} held-out kernels, the heuristic's schedule measured of {len(known)}")
    say(baselines.HEADING)
    say(baselines.row("heuristic", known, baselines.heuristic(known)))
    for name, scores in rows.items():
        say(baselines.row(name, test, scores))


# -- another machine -------------------------------------------------------------------------------

FINE_RECORDS, FRESH_RECORDS = (8, 16, 32, 50), (32, 100, 300, 1000)
OF_A_KERNEL = 8
"""Records of each kernel that a machine begins with: as when a few kernels were tuned shortly."""
DRAWS = 5
FRESH = Settings(width=96, epochs=150, patience=150)


def transferred(args: argparse.Namespace) -> None:
    """What a model of the machine with most measurements is worth on another one: as it is, after
    fine-tuning to few records, and beside models that learned from those of the other alone."""
    data = loaded(args.data)
    here, there = data.only(data.machines[0]), data.only(data.machines[1])
    moved(student(here, taught(here), pool(here)), here, there)


def moved(prior: Model, here: Data, there: Data) -> None:
    """The table of one model on another machine."""
    say(
        f"from {here.machines[0].vector_bytes} byte vectors to {there.machines[0].vector_bytes}: "
        f"{len(there.parts['test'])} held-out kernels, means of {DRAWS} draws\n"
        f"{'':24}{'records':>9}{'pairwise':>10}{'top-1 gm':>10}{'top-5 gm':>10}"
    )
    test = there.parts["test"]
    line("untouched", 0, [worth(test, scored(prior, test))])
    by = transfer.trainer(by_heuristic)
    for n in FINE_RECORDS:
        found = []
        for groups in draws(there.parts["train"], n):
            model = transfer.tuned(prior, groups, by)
            found.append(worth(test, scored(model, test)))
        line("fine-tuned", n, found)
    for n in FRESH_RECORDS:
        found = []
        trainer = trainer_of(next(draws(there.parts["train"], n)), FRESH, DECAY)
        for groups in draws(there.parts["train"], n):
            model = trainer.trained(groups, there.parts["validation"], NAMED)
            found.append(worth(test, scored(model, test)))
        line("from nothing", n, found)


def worth(groups: Sequence[Group], scores: Sequence[Array]) -> tuple[float, float, float]:
    """Pairs in order, and the geometric top-1 and top-5."""
    seconds = [g.seconds for g in groups]
    first, fifth = (metrics.geometric_top_k(seconds, scores, k) for k in (1, 5))
    return metrics.pairwise_accuracy(seconds, scores), first, fifth


def line(name: str, records: int, found: Sequence[tuple[float, float, float]]) -> None:
    say(f"{name:24}{records:9}" + "".join(f"{x:10.4f}" for x in np.mean(found, axis=0)))


def draws(groups: Sequence[Group], records: int) -> Iterator[list[Group]]:
    """Random kernels with a few of their candidates, so many in all; more of each where there are
    not enough kernels."""
    each = max(OF_A_KERNEL, -(-records // len(groups)))
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        left, found = records, []
        for i in rng.permutation(len(groups)).tolist():
            g = groups[i]
            rows = rng.permutation(len(g))[: min(each, left)]
            if len(rows) < 2:
                break
            found.append(g.some(rows))
            left -= len(rows)
        yield found
