"""How the cost model learns: an order within each kernel first, seconds second.

Knows records as arrays (`Group`), the loss, batches of constant shapes, when to stop, fine-tuning
from few records, and ensembles. Refuses to know where records are from,
which optimiser runs (`Optimizer`: Optax's, by `tilewright.frontends.jax`, or `adam`) and how the
step becomes machine code: what compiles is a parameter, as in `model`.

Everything is decided by the seed and the order of the groups: the same ones give the same weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tilewright import forks
from tilewright.cost_model import metrics
from tilewright.cost_model.model import (
    Array,
    Infer,
    Model,
    Params,
    batched,
    correction,
    infer,
    standardised,
)
from tilewright.cost_model.model import init as initial
from tilewright.transforms.autodiff import value_and_grad

Compiled = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What makes machine code of a function: `tw.compile`, or `plainly`."""


def plainly(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself."""
    return f


@dataclass(frozen=True, eq=False)
class Group:
    """The measured candidates of one kernel on one machine.

    `features` are float32[n, F], `roofline` the analytical estimates and `seconds` the times,
    float64[n] and positive; `machine` is float32[M], what describes the machine. `default` is the
    row of the heuristic's schedule, -1 if it is not among them. `weight` is what the kernel counts
    for in a `metrics.top_k`.

    **Raises:** `ValueError` unless times and estimates are positive, and all numbers finite.
    """

    key: str
    features: Array
    roofline: Array
    seconds: Array
    machine: Array = field(default_factory=lambda: np.empty(0, np.float32))
    default: int = -1
    weight: float = 1.0

    def __post_init__(self) -> None:
        times = np.concatenate([self.seconds, self.roofline])
        if not (np.isfinite(times).all() and (times > 0).all()):
            raise ValueError(f"times of {self.key} that are not positive")
        if not (np.isfinite(self.features).all() and np.isfinite(self.machine).all()):
            raise ValueError(f"features of {self.key} that are not finite")

    def __len__(self) -> int:
        return len(self.seconds)

    def some(self, rows: Array) -> Group:
        """The candidates of some rows, int64[m]."""
        default = next((n for n, row in enumerate(rows.tolist()) if row == self.default), -1)
        return replace(
            self, features=self.features[rows], roofline=self.roofline[rows],
            seconds=self.seconds[rows], default=default,
        )  # fmt: skip

    def inputs(self, told: bool) -> Array:
        """float32[n, F], or [n, F + M] for a model that is told the machine's description."""
        if not told:
            return self.features
        machine = np.broadcast_to(self.machine, (len(self), len(self.machine)))
        return np.concatenate([self.features, machine], axis=1).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Settings:
    """What a user of the trainer can have an opinion on.

    width: units of a hidden layer.
    kernels, candidates: of one batch; a kernel with more candidates shows others each time, and
        only pairs among them count: at most candidates * (candidates - 1) / 2 of each kernel.
    sharpness: a pair is told apart as well as can be when its predictions differ by several of
        these, in log seconds.
    top: how much more a pair counts that has the kernel's fastest candidate.
    absolute: weight of the squared error in log seconds.
    noise: log seconds by which two times must differ to have an order.
    decay: weight of the squared distance to the weights that training began with (fine-tuning).
    epochs, patience: the most, and how many without progress on the validation kernels end it.
    """

    width: int = 96
    kernels: int = 8
    candidates: int = 64
    sharpness: float = 0.3
    top: float = 2.0
    absolute: float = 0.05
    noise: float = 0.02
    decay: float = 0.0
    epochs: int = 200
    patience: int = 20


# -- the loss --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """K kernels with C candidates each: x float32[K, C, F] standardised, and float32[K, C] each:
    log seconds as estimated (`base`) and measured (`y`), both less the kernel's mean estimate, and
    the `mask`, 1 for a candidate and 0 for padding."""

    x: Array
    base: Array
    y: Array
    mask: Array


def loss(params: Params, batch: Batch, settings: Settings) -> Any:
    """Logistic loss over the pairs of each kernel, plus the squared error in log seconds.

    RankNet's loss (Burges et al. 2005). As in LambdaRank a pair's weight is what is lost by getting
    it wrong: the log ratio of its times, up to a factor of e, more where one of the two is near the
    kernel's best.
    """
    k, c, f = batch.x.shape
    scores = batch.base + correction(params, batch.x.reshape(k * c, f)).reshape(k, c)
    ahead = np.clip(batch.y[:, None, :] - batch.y[:, :, None], 0, 1)
    best = np.min(np.where(batch.mask > 0, batch.y, 1e9), axis=1)
    speed = np.exp(np.minimum(best[:, None] - batch.y, 0))
    weight = np.where(ahead > settings.noise, ahead * (1 + settings.top * speed[:, :, None]), 0)
    weight = weight * batch.mask[:, :, None] * batch.mask[:, None, :]
    wrong = (scores[:, :, None] - scores[:, None, :]) / settings.sharpness
    rank = (np.logaddexp(0, wrong) * weight).sum() / (weight.sum() + 1e-6)
    error = (scores - batch.y) ** 2 * batch.mask
    return rank + settings.absolute * error.sum() / batch.mask.sum()


def proximal(params: Params, anchor: Params) -> Any:
    """Squared distance of two networks' weights."""
    return sum(((params[name] - anchor[name]) ** 2).sum() for name in sorted(params))


@dataclass(frozen=True)
class Optimizer:
    """`init(params)` is a state, a tree of arrays; `update(gradient, state, params)` the updates,
    to be added to the parameters, and the next state. An Optax optimiser is

        Optimizer(lambda p: tw.tree.map(np.asarray, optimizer.init(p)), from_jax(optimizer.update))

    Of some hundred kernels a network learns most with weights that decay fast: AdamW with a decay
    of 0.5 to 1 and a rate of 3e-3 that falls to zero (cosine).
    """

    init: Callable[[Params], Any]
    update: Callable[[Any, Any, Params], tuple[Any, Any]]


def adam(rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Adam (Kingma and Ba 2015) on a dict of arrays, for fine-tuning where Optax is not at hand:
    it is no dependency of the compiler, and neither is JAX."""

    def begin(params: Params) -> Any:
        zeros = {name: np.zeros_like(p) for name, p in params.items()}
        return np.zeros((), np.float32), zeros, {name: z.copy() for name, z in zeros.items()}

    def update(gradient: Params, state: Any, params: Params) -> tuple[Any, Any]:
        count, m, v = state
        count = count + np.float32(1)
        m = {n: b1 * m[n] + (1 - b1) * gradient[n] for n in params}
        v = {n: b2 * v[n] + (1 - b2) * gradient[n] ** 2 for n in params}
        # The means begin at zero: what that takes off them in the first steps is put back.
        of_m, of_v = 1 - np.float32(b1) ** count, 1 - np.float32(b2) ** count
        steps = {n: -rate * (m[n] / of_m) / (np.sqrt(v[n] / of_v) + eps) for n in params}
        return steps, (count, m, v)

    return Optimizer(begin, update)


Step = Callable[[Params, Any, Batch, Params], tuple[Params, Any, Any]]


def stepper(settings: Settings, optimizer: Optimizer, compiled: Compiled) -> Step:
    """One step of training as one program: (params, state, batch, anchor) to (params, state, loss).
    Its shapes are those of `Settings`, so it is compiled once."""

    def objective(params: Params, batch: Batch, anchor: Params) -> Any:
        value = loss(params, batch, settings)
        return value + settings.decay * proximal(params, anchor) if settings.decay else value

    def step(params: Params, state: Any, batch: Batch, anchor: Params) -> Any:
        value, gradient = value_and_grad(objective)(params, batch, anchor)
        updates, state = optimizer.update(gradient, state, params)
        return {name: params[name] + updates[name] for name in params}, state, value

    return compiled(step)


# -- batches ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows:
    """A group as batches show it: standardised inputs, estimates and times centred in log."""

    x: Array
    base: Array
    y: Array

    @staticmethod
    def of(group: Group, model: Model) -> Rows:
        base, y = np.log(group.roofline), np.log(group.seconds)
        x = standardised(group.inputs(bool(model.machine)), model.mean, model.scale)
        centre = base.mean()
        return Rows(x, (base - centre).astype(np.float32), (y - centre).astype(np.float32))

    def __len__(self) -> int:
        return len(self.y)


def gathered(rows: Sequence[Rows], rng: np.random.Generator, settings: Settings) -> Batch:
    """Some candidates of up to `settings.kernels` kernels, padded to the shapes of a batch."""
    k, c, f = settings.kernels, settings.candidates, rows[0].x.shape[1]
    x = np.zeros((k, c, f), np.float32)
    base, y, mask = (np.zeros((k, c), np.float32) for _ in range(3))
    for i, r in enumerate(rows):
        chosen = rng.permutation(len(r))[:c] if len(r) > c else np.arange(len(r))
        n = len(chosen)
        x[i, :n], base[i, :n], y[i, :n], mask[i, :n] = r.x[chosen], r.base[chosen], r.y[chosen], 1
    return Batch(x, base, y, mask)


def batches(rows: Sequence[Rows], rng: np.random.Generator, settings: Settings) -> Iterator[Batch]:
    """One epoch: kernels in a new order, each as often as its candidates fill a batch's row."""
    times = [max(1, round(len(r) / settings.candidates)) for r in rows]
    order = rng.permutation(np.repeat(np.arange(len(rows)), times))
    for start in range(0, len(order), settings.kernels):
        yield gathered([rows[i] for i in order[start : start + settings.kernels]], rng, settings)


def scaling(groups: Sequence[Group], told: bool) -> tuple[Array, Array, Array]:
    """Mean and standard deviation of the inputs of all candidates, float32[F + M], and which of
    them never change, bool[F + M]: the deviation of those is 1."""
    inputs = np.concatenate([g.inputs(told) for g in groups]).astype(np.float64)
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    still = scale < 1e-6 * np.maximum(np.abs(mean), 1)
    return mean.astype(np.float32), np.where(still, 1, scale).astype(np.float32), still


# -- training --------------------------------------------------------------------------------------


def scored(model: Model, groups: Sequence[Group], run: Infer = infer) -> list[Array]:
    """The model's log seconds of each group's candidates, on the group's own machine."""
    return [
        np.log(g.roofline)
        + batched(run, model.params, model.mean, model.scale, g.inputs(bool(model.machine)))
        for g in groups
    ]


def quality(groups: Sequence[Group], scores: Sequence[Array]) -> float:
    """What early stopping looks at: pairs put right, and the first candidate's speed on an average
    kernel; each is 1 at best."""
    seconds = [g.seconds for g in groups]
    first = metrics.geometric_top_k(seconds, scores, 1)
    return (metrics.pairwise_accuracy(seconds, scores) + first) / 2


@dataclass(frozen=True, eq=False)
class Trainer:
    """An optimiser, settings and a compiler; its programs are made once and serve every model."""

    optimizer: Optimizer
    settings: Settings = Settings()
    compiled: Compiled = plainly

    @forks.cached_property
    def step(self) -> Step:
        return stepper(self.settings, self.optimizer, self.compiled)

    @forks.cached_property
    def run(self) -> Infer:
        return self.compiled(infer)

    def trained(
        self,
        groups: Sequence[Group],
        validation: Sequence[Group],
        names: tuple[Sequence[str], Sequence[str], int],
        seed: int = 0,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Model:
        """A new model of the groups.

        `names` are the features', the machine description's (none for a model of one machine), and
        the version of the features. `progress` gets a line after each epoch.
        """
        features, machine, version = names
        mean, scale, still = scaling(groups, bool(machine))
        params = initial(np.random.default_rng(seed), len(mean), self.settings.width)
        # Of what never changed nothing is known: on a machine with other numbers it says nothing.
        params["w1"][still] = 0
        model = Model(params, tuple(features), version, mean, scale, tuple(machine))
        return self.improved(model, groups, validation, seed, progress)

    def improved(
        self,
        model: Model,
        groups: Sequence[Group],
        validation: Sequence[Group],
        seed: int = 0,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Model:
        """The model trained on, with the weights of the epoch that was best on the validation
        kernels, which may be those it has."""
        rng, most = np.random.default_rng(seed), self.settings.epochs
        rows = [Rows.of(g, model) for g in groups]
        params, state = model.params, self.optimizer.init(model.params)
        chosen, found, best = 0, model, quality(validation, scored(model, validation, self.run))
        for epoch in range(1, most + 1):
            losses = []
            for batch in batches(rows, rng, self.settings):
                params, state, value = self.step(params, state, batch, model.params)
                losses.append(float(value))
            candidate = replace(model, params=params, held_out=None)
            now = quality(validation, scored(candidate, validation, self.run))
            if now > best:
                best, chosen, found = now, epoch, candidate
            progress(
                f"epoch {epoch:3}/{most}  loss {np.mean(losses):.4f}"
                f"  validation {now:.4f}  best {best:.4f} (epoch {chosen})"
            )
            if epoch - chosen >= self.settings.patience:
                break
        return found

    def fine_tuned(self, model: Model, groups: Sequence[Group], steps: int, seed: int = 0) -> Model:
        """The model after a few steps on few records; 50 say something already. The features'
        scaling stays, and `Settings.decay` pulls back to the weights there were."""
        rng, rows = np.random.default_rng(seed), [Rows.of(g, model) for g in groups]
        params, state = model.params, self.optimizer.init(model.params)
        epochs = (b for _ in itertools.count() for b in batches(rows, rng, self.settings))
        for batch in itertools.islice(epochs, steps):
            params, state, _ = self.step(params, state, batch, model.params)
        return replace(model, params=params, held_out=None)


# -- ensembles --------------------------------------------------------------------


def mean_score(models: Sequence[Model], groups: Sequence[Group], run: Infer = infer) -> list[Array]:
    """The mean of the models' log seconds: an ensemble's prediction, float64[n] for each group."""
    each = [scored(m, groups, run) for m in models]
    return [np.mean(scores, axis=0) for scores in zip(*each, strict=True)]
