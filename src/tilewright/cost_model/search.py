"""Which schedules to measure next: searches of a space, all behind one interface.

Knows points (rows of int64, a choice for each hole), what was measured, and how the next points
follow from it. Refuses to know what a point means (the space does), how long one runs (whoever
measures says) and what is promising (a judge does, `Learner`).

    RandomSearch        points that were not seen yet
    EvolutionarySearch  children of the fastest: measured times are the only fitness
    GuidedSearch        generations that a judge scores; the best of them, unlike each other
    GradientSearch      the same, from points moved down the judge's slope
    AnnealingSearch     chains of small steps at a falling temperature, scored by a judge

A search is decided by its seed and by what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from tilewright.cost_model.model import Array, Model, Params, Space, infer
from tilewright.cost_model.training import Compiled, Group, Settings, Trainer, adam, plainly
from tilewright.transforms.autodiff import value_and_grad

STEPPED: Final = 0.5
"""Share of mutations that go to a neighbouring choice, of holes whose choices are ordered."""
BRED: Final = 32
"""Measured points that may have children."""


class Search(Protocol):
    """What a tuner runs: propose, measure, observe, and again."""

    def propose(self, k: int) -> Array:
        """Up to k points that were not proposed before, int64[m, H]; none when there are no
        more."""

    def observe(self, points: Array, seconds: Array) -> None:
        """What was measured, float64[m]; inf for a point that failed. Points may be observed
        again, when more is known of them."""


class Judge(Protocol):
    """An opinion on points that were not measured, and how it changes by those that were."""

    def predict(self, points: Array) -> Array:
        """Log seconds, up to a constant: float64[n]."""

    def learn(self, points: Array, seconds: Array) -> None:
        """Measured points, float64[m] finite seconds."""


# -- points ----------------------------------------------------------------------------------------


def ordered(choices: Sequence[Any]) -> bool:
    """Whether choices are numbers in ascending order, of which neighbours are alike."""
    numbers = all(isinstance(c, (int, float)) for c in choices)
    return numbers and len(choices) > 2 and list(choices) == sorted(set(choices))


def mutated(space: Space, points: Array, rng: np.random.Generator) -> Array:
    """Each point with another choice for one hole."""
    sizes = np.array([len(h.choices) for h in space.holes])
    open_holes = np.flatnonzero(sizes > 1)
    if not len(points) or not len(open_holes):
        return points
    steppable = np.array([ordered(h.choices) for h in space.holes])
    rows, holes = np.arange(len(points)), rng.choice(open_holes, len(points))
    now, most = points[rows, holes], sizes[holes]
    other = (now + 1 + rng.integers(0, most - 1)) % most
    # A step from the last choice goes back: reflected, never the same one.
    step = now + rng.choice([-1, 1], len(points))
    step = np.where(step < 0, 1, np.where(step >= most, most - 2, step))
    near = steppable[holes] & (rng.random(len(points)) < STEPPED)
    children = points.copy()
    children[rows, holes] = np.where(near, step, other)
    return children


def neighbours(space: Space, point: Array) -> Array:
    """The legal points that fill one hole in another way: int64[n, H]."""
    sizes = [len(h.choices) for h in space.holes]
    holes = np.repeat(np.arange(len(sizes)), sizes)
    found = np.repeat(point[None], len(holes), axis=0)
    found[np.arange(len(holes)), holes] = np.concatenate([np.arange(n) for n in sizes])
    found = found[found[np.arange(len(holes)), holes] != point[holes]]
    return found[space.legal(found)]


def crossed(a: Array, b: Array, rng: np.random.Generator) -> Array:
    """Points with each choice from one of two parents."""
    return np.where(rng.random(a.shape) < 0.5, a, b)


def shared(points: Array, point: Array) -> Array:
    """The share of the holes that each of the points fills as `point` does: float64[n]."""
    return np.asarray((points == point).mean(axis=1))


def diverse(points: Array, scores: Array, k: int, penalty: float) -> Array:
    """Rows of k points with low scores that are unlike each other: greedily, each with a penalty
    for the share of holes it has in common with one that is chosen already (AutoTVM's diversity,
    Chen et al., NeurIPS 2018, as distance)."""
    chosen: list[int] = []
    left, alike = scores.astype(float).copy(), np.zeros(len(points))
    for _ in range(min(k, len(points))):
        row = int(np.argmin(left + penalty * alike))
        chosen.append(row)
        left[row] = np.inf
        alike = np.maximum(alike, shared(points, points[row]))
    return np.array(chosen, np.int64)


def bred(space: Space, ranked: Array, n: int, rng: np.random.Generator) -> Array:
    """n children of points that stand in the order of their fitness: half of them of two parents;
    all mutated, some twice. Early ones are parents more often. Illegal children are left out."""
    weights = 0.5 ** (np.arange(len(ranked)) / max(len(ranked) / 4, 1))
    weights /= weights.sum()
    a, b = (ranked[rng.choice(len(ranked), n, p=weights)] for _ in range(2))
    pairs = rng.random(n) < 0.5
    children = np.where(pairs[:, None], crossed(a, b, rng), a)
    children = mutated(space, children, rng)
    again = rng.random(n) < 0.3
    children[again] = mutated(space, children[again], rng)
    return children[space.legal(children)]


class Trials:
    """What was proposed and what was measured. `start` are legal points to begin with: the
    heuristic's schedule, where the space has it."""

    def __init__(self, space: Space, seed: int = 0, start: Array | None = None) -> None:
        self.space, self.rng = space, np.random.default_rng(seed)
        holes = len(space.holes)
        self.start = np.empty((0, holes), np.int64) if start is None else np.asarray(start)
        self.points, self.seconds = np.empty((0, holes), np.int64), np.empty(0)
        self._seen: set[int] = set()
        # Numbers of mixed radix, modulo 2^64: beyond that many points two may go by one number,
        # and one of them is never tried.
        sizes = [1, *(len(h.choices) for h in space.holes)][:holes]
        strides = np.cumprod(np.array(sizes, object)) % 2**64
        self._strides = strides.astype(np.uint64)

    def observe(self, points: Array, seconds: Array) -> None:
        """Points with their seconds, inf for those that failed; in place of what was known of
        them, if they were observed before."""
        numbers = self._numbers(points)
        known = ~np.isin(self._numbers(self.points), numbers)
        self.points = np.concatenate([self.points[known], points])
        seconds = np.where(np.isnan(seconds), np.inf, seconds)
        self.seconds = np.concatenate([self.seconds[known], seconds])
        self._seen.update(numbers)

    @property
    def best(self) -> tuple[Array, float]:
        """The fastest point and its seconds. **Raises:** `ValueError` if none was measured."""
        row = int(np.argmin(self.seconds))
        return self.points[row], float(self.seconds[row])

    def fastest(self, n: int) -> Array:
        """The n fastest measured points, those that failed left out."""
        order = np.argsort(self.seconds, kind="stable")[:n]
        return self.points[order[np.isfinite(self.seconds[order])]]

    def fresh(self, points: Array) -> Array:
        """The points that were not seen, each once, in their order."""
        found, rows = set(self._seen), []
        for row, number in enumerate(self._numbers(points)):
            if number not in found:
                found.add(number)
                rows.append(row)
        return points[rows]

    def unseen(self, n: int) -> Array:
        """Up to n random points that were not seen."""
        found = self.fresh(self.space.random(self.rng, n))
        for _ in range(4):
            if len(found) >= n:
                break
            more = self.space.random(self.rng, 4 * n)
            found = self.fresh(np.concatenate([found, more]))
        return found[:n]

    def proposed(self, *points: Array, k: int) -> Array:
        """The first k of some points that were not seen, which are now; random ones make up for
        what is missing."""
        found = self.fresh(np.concatenate(points))[:k]
        if len(found) < k:
            self._seen.update(self._numbers(found))
            found = np.concatenate([found, self.unseen(k - len(found))])
        self._seen.update(self._numbers(found))
        return found

    def _numbers(self, points: Array) -> list[int]:
        numbers = (points.astype(np.uint64) * self._strides).sum(axis=1, dtype=np.uint64)
        return numbers.tolist()


# -- searches --------------------------------------------------------------------------------------


class RandomSearch(Trials):
    """Random legal points, after those to begin with."""

    def propose(self, k: int) -> Array:
        return self.proposed(self.start, k=k)


class EvolutionarySearch(Trials):
    """Children of the fastest measured points; the first `founders` are random."""

    def __init__(
        self, space: Space, seed: int = 0, start: Array | None = None, founders: int = 32
    ) -> None:
        super().__init__(space, seed, start)
        self.founders = founders

    def propose(self, k: int) -> Array:
        parents = self.fastest(BRED)
        if len(self.points) < self.founders or not len(parents):
            return self.proposed(self.start, k=k)
        return self.proposed(self.start, bred(self.space, parents, 4 * k, self.rng), k=k)


@dataclass(frozen=True)
class Generations:
    """How a judge is asked: `rounds` generations of a `population`. Of each batch a share
    `nearby` differs from the fastest in one hole, a share `explored` is random, and `diversity` is
    what a point is worth, in log seconds, that shares no hole with another of its batch."""

    population: int = 384
    rounds: int = 4
    nearby: float = 0.5
    explored: float = 0.05
    diversity: float = 0.1


class GuidedSearch(Trials):
    """Evolution whose fitness is a judge's prediction: the population begins with the start, the
    fastest points and random ones; each generation is scored in one call, and what was measured
    teaches the judge (Ansor, Zheng et al., OSDI 2020, section 5.1). The first `founders` points
    are random: what a judge needs that was taught nothing yet."""

    def __init__(
        self,
        space: Space,
        judge: Judge,
        seed: int = 0,
        start: Array | None = None,
        generations: Generations = Generations(),
        founders: int = 0,
    ) -> None:
        super().__init__(space, seed, start)
        self.judge, self.generations, self.founders = judge, generations, founders
        self.chosen = np.zeros(len(space.holes), bool)  # holes that a neighbour differed in

    def observe(self, points: Array, seconds: Array) -> None:
        super().observe(points, seconds)
        ran = np.isfinite(seconds)
        if ran.any():
            self.judge.learn(points[ran], seconds[ran])

    def propose(self, k: int) -> Array:
        if len(self.points) < self.founders:
            return self.proposed(self.start, k=k)
        return self.batch(*self.judged(), k)

    def judged(self) -> tuple[Array, Array]:
        """Points to choose from, and the judge's scores."""
        return self.evolved(*self.scored(self.founding()))

    def founding(self) -> Array:
        """The first generation, each point once."""
        fastest = self.fastest(BRED)
        drawn = self.space.random(self.rng, self.generations.population - len(fastest))
        return np.unique(np.concatenate([self.start, fastest, drawn]), axis=0)

    def scored(self, points: Array) -> tuple[Array, Array]:
        """Points in the order of their scores, with those."""
        scores = self.judge.predict(points)
        order = np.argsort(scores, kind="stable")
        return points[order], scores[order]

    def evolved(self, points: Array, scores: Array) -> tuple[Array, Array]:
        """The best of all generations that follow from one."""
        most = self.generations.population
        for _ in range(self.generations.rounds):
            if not len(points):
                break
            children = bred(self.space, points, most, self.rng)
            both = np.concatenate([points, children])
            _, first = np.unique(both, axis=0, return_index=True)
            children = both[first[first >= len(points)]]
            both = np.concatenate([points, children])
            if len(children):
                scores = np.concatenate([scores, self.judge.predict(children)])
            order = np.argsort(scores, kind="stable")[:most]
            points, scores = both[order], scores[order]
        return points, scores

    def batch(self, points: Array, scores: Array, k: int) -> Array:
        """What to measure: the start first, then neighbours of the fastest, of the scored points
        good ones unlike each other, and a few random ones. Where a judge is wrong about the best of
        a kernel, its neighbours tell."""
        numbers = dict(zip(self._numbers(points), scores.tolist(), strict=True))
        new = self.fresh(points)
        values = np.array([numbers[n] for n in self._numbers(new)])
        nearby = self.near(self.part(self.generations.nearby, k))
        beginning = np.concatenate([self.fresh(self.start), nearby])[:k]
        explored = self.part(self.generations.explored, k)
        count = max(k - explored - len(beginning), 0)
        near = np.argsort(values, kind="stable")[: 16 * k]
        rows = diverse(new[near], values[near], count, self.generations.diversity)
        return self.proposed(beginning, new[near][rows], k=k)

    def part(self, share: float, k: int) -> int:
        """A share of k points; one of less than one is one point, now and then."""
        return int(share * k + self.rng.random())

    def near(self, most: int) -> Array:
        """New neighbours of the fastest point, or of the start where nothing was measured; at most
        so many. Half of them differ in holes that no such neighbour differed in before, since a
        judge is wrong about a hole as a whole; the others are the best by the judge."""
        nearest = self.fastest(1) if np.isfinite(self.seconds).any() else self.start[:1]
        found = self.fresh(neighbours(self.space, nearest[0])) if len(nearest) else nearest
        if not len(found):
            return self.start[:0]
        ranked, _ = self.scored(found)
        holes = np.argmax(ranked != nearest[0], axis=1)
        _, first = np.unique(holes, return_index=True)
        new = np.sort(first[~self.chosen[holes[first]]])[: (most + 1) // 2]
        rest = np.setdiff1d(np.arange(len(ranked)), new)
        rows = np.concatenate([new, rest])[:most]
        self.chosen[holes[rows]] = True
        return ranked[rows]


class GradientSearch(GuidedSearch):
    """Points moved down the slope of a learned judge, as if choices were real numbers, then back to
    legal points and into the population (Felix, Zhao et al., ASPLOS 2024).

    The space has `relaxed(x)`, for places x float64[n, H] between choices: float32[n, F] features
    and float64[n] seconds of the estimate. The network is differentiated; of the features, which
    have steps (rounds are counted, caches fit or do not), what half a choice changes is taken.
    Holes whose choices are no ordered numbers stay as they are.
    """

    descended: Final = 64
    steps: Final = 16
    reach: Final = 0.25
    """Points that descend, steps of each, and the part of a choice that one step goes."""

    def __init__(
        self,
        space: Any,
        judge: Learner,
        seed: int = 0,
        start: Array | None = None,
        generations: Generations = Generations(rounds=1),
        founders: int = 0,
        compiled: Compiled = plainly,
    ) -> None:
        super().__init__(space, judge, seed, start, generations, founders)
        self.learner, self.relaxed = judge, space.relaxed
        self.gradient = compiled(_gradient)
        self.free = np.flatnonzero([ordered(h.choices) for h in space.holes])
        self.last = np.array([len(h.choices) - 1 for h in space.holes], np.float64)

    def judged(self) -> tuple[Array, Array]:
        points, scores = self.scored(self.founding())
        moved = self.rounded(self.descend(points[: self.descended]))
        _, first = np.unique(np.concatenate([points, moved]), axis=0, return_index=True)
        new = np.concatenate([points, moved])[first[first >= len(points)]]
        if len(new):
            points, scores = self.scored(np.concatenate([points, new]))
        return self.evolved(points, scores)

    def descend(self, points: Array) -> Array:
        """The places float64[steps, n, H] on the way down from up to `descended` points, by Adam's
        steps: of one length for each hole, since slopes along different holes say little about
        each other."""
        x = np.zeros((self.descended, len(self.last)))
        x[: len(points)] = points
        mean, square, way = np.zeros_like(x), np.zeros_like(x), []
        for t in range(1, self.steps + 1):
            g = self.slope(x)
            mean, square = 0.8 * mean + 0.2 * g, 0.9 * square + 0.1 * g**2
            size = np.sqrt(square / (1 - 0.9**t)) + 1e-6
            x = np.clip(x - self.reach * mean / (1 - 0.8**t) / size, 0, self.last)
            way.append(x[: len(points)])
        return np.stack(way)

    def slope(self, x: Array) -> Array:
        """How predicted log seconds change along each hole at `descended` places x:
        float64[n, H]."""
        model, found = self.learner.model, np.zeros_like(x)
        features, _ = self.relaxed(x)
        features = np.asarray(features, np.float32)
        by_feature = self.gradient(model.params, model.mean, model.scale, features)
        for h in self.free:
            low, high = x.copy(), x.copy()
            low[:, h] = np.maximum(x[:, h] - 0.5, 0)
            high[:, h] = np.minimum(x[:, h] + 0.5, self.last[h])
            (before, less), (after, more) = self.relaxed(low), self.relaxed(high)
            change = (by_feature * (after - before)).sum(1) + np.log(more / less)
            found[:, h] = change / (high[:, h] - low[:, h])
        return found

    def rounded(self, places: Array) -> Array:
        """The legal points that are nearest to some places[..., H], each once. The slope leads out
        of what is legal, too: the last legal point of a way is among them."""
        found = np.unique(np.rint(places).astype(np.int64).reshape(-1, len(self.last)), axis=0)
        return found[self.space.legal(found)]


def _gradient(params: Params, mean: Array, scale: Array, features: Any) -> Any:
    """The derivative of the network's correction by each feature: float32[n, F]."""

    def total(x: Any) -> Any:
        return infer(params, mean, scale, x).sum()

    return value_and_grad(total)(features)[1]


class AnnealingSearch(GuidedSearch):
    """Simulated annealing on a judge's predictions: parallel chains of single mutations, whose
    states stay when the judge learns (Chen et al., OSDI 2018, section 5.3)."""

    chains: Final = 128
    steps: Final = 40
    hottest: Final = 0.5
    """Log seconds that a step at the first temperature may lose with probability 1 / e."""

    state: Array | None = None

    def judged(self) -> tuple[Array, Array]:
        if self.state is None:
            drawn = self.space.random(self.rng, self.chains)
            self.state = np.concatenate([self.start, drawn])[: self.chains]
        points, scores = self.state, self.judge.predict(self.state)
        seen, values = [points], [scores]
        for heat in np.linspace(self.hottest, 0.01, self.steps):
            moved = mutated(self.space, points, self.rng)
            legal = self.space.legal(moved)
            after = np.where(legal, self.judge.predict(np.where(legal[:, None], moved, points)), 0)
            chance = np.exp(np.minimum((scores - after) / heat, 0))
            taken = legal & (self.rng.random(len(points)) < chance)
            points = np.where(taken[:, None], moved, points)
            scores = np.where(taken, after, scores)
            seen.append(points)
            values.append(scores)
        self.state = points
        return np.concatenate(seen), np.concatenate(values)


# -- the judge that learns -------------------------------------------------------------------------

ONLINE: Final = Settings(kernels=1, candidates=64, decay=0.003, sharpness=0.1, absolute=0.2)


class Learner:
    """A model that is fine-tuned to one kernel while it is measured: after every batch some steps
    from the weights it has, on all that was measured.

    `trainer` may serve many learners, so that its programs are made once.
    """

    def __init__(self, space: Space, model: Model, trainer: Trainer, steps: int = 40) -> None:
        self.space, self.model, self.trainer, self.steps = space, model, trainer, steps
        self.features: list[Array] = []
        self.roofline: list[Array] = []
        self.seconds: list[Array] = []

    def predict(self, points: Array) -> Array:
        return self.model.predict(self.space, points, self.trainer.run)

    def learn(self, points: Array, seconds: Array) -> None:
        self.taught(self.space.features(points), self.space.roofline(points), seconds)

    def taught(self, features: Array, roofline: Array, seconds: Array) -> None:
        """Learn from measurements of schedules that need not be points: float32[m, F] features,
        float64[m] estimated and measured seconds."""
        self.features.append(features)
        self.roofline.append(roofline)
        self.seconds.append(np.asarray(seconds, float))
        measured = Group(
            "measured",
            np.concatenate(self.features),
            np.concatenate(self.roofline),
            np.concatenate(self.seconds),
        )
        self.model = self.trainer.fine_tuned(
            self.model, [measured], self.steps, seed=len(self.seconds)
        )


def online_trainer(compiled: Compiled = plainly, rate: float = 3e-3) -> Trainer:
    """The trainer of `Learner`s: small batches of one kernel, Adam."""
    return Trainer(adam(rate), ONLINE, compiled)


# -- by name ---------------------------------------------------------------------------------------

Made = Callable[[Space, Learner, int, Array, int, Compiled], Search]
"""From a space, a judge, a seed, points to begin with, how many points are random before the judge
is asked, and what compiles the judge's derivative."""

SEARCHES: Final[dict[str, Made]] = {
    "guided": lambda s, judge, seed, start, founders, _: GuidedSearch(
        s, judge, seed, start, founders=founders
    ),
    "gradient": lambda s, judge, seed, start, founders, compiled: GradientSearch(
        s, judge, seed, start, founders=founders, compiled=compiled
    ),
    "evolutionary": lambda s, judge, seed, start, founders, _: EvolutionarySearch(s, seed, start),
    "random": lambda s, judge, seed, start, founders, _: RandomSearch(s, seed, start),
}
