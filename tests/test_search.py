"""Searches of a space whose costs are known: how few trials they need, counted with seeds.

No search is told the costs; it measures, with noise, as on a machine. "Reached" compares true
costs, so that luck with the noise does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import tilewright as tw
from synthetic_space import HOLES, NAMES, VERSION, SyntheticSpace, group, spaces
from tilewright.cost_model import search
from tilewright.cost_model.model import Model, infer
from tilewright.cost_model.search import (
    AnnealingSearch,
    EvolutionarySearch,
    Generations,
    GradientSearch,
    GuidedSearch,
    Learner,
    RandomSearch,
    Search,
    Trials,
    online_trainer,
)
from tilewright.cost_model.training import Group, Settings, Trainer, adam, scaling

SPACE = SyntheticSpace(192, 320, 256)
WIDTH = 32


@pytest.fixture(scope="module")
def online() -> Trainer:
    return online_trainer(tw.compile)


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return [group(s, 64, i) for i, s in enumerate(spaces(48, 0))]


@pytest.fixture(scope="module")
def model(groups: list[Group]) -> Model:
    """What ships: it never saw the kernels that are searched."""
    trainer = Trainer(adam(3e-3), Settings(WIDTH, candidates=32, epochs=30), tw.compile)
    return trainer.trained(groups[:40], groups[40:], (NAMES, (), VERSION))


@pytest.fixture(scope="module")
def blank(groups: list[Group]) -> Model:
    """Nothing is known but the features' scale."""
    mean, scale, _ = scaling(groups, told=False)
    return replace(Model.blank(NAMES, VERSION, WIDTH), mean=mean, scale=scale)


def trials_to(share: float, s: Search, space: SyntheticSpace, most: int, k: int = 8) -> int:
    """Trials until a point is measured whose true cost is within `share` of the lowest; one more
    than the most if it is not."""
    for done in range(0, most, k):
        points = s.propose(k)
        reached = space.best / space.cost(points) >= share
        if reached.any():
            return done + int(np.argmax(reached)) + 1
        s.observe(points, space.measured(points))
    return most + 1


def median(make: Callable[[int, SyntheticSpace], Search], share: float, most: int) -> float:
    """Of several kernels and seeds."""
    tried = [SPACE, SyntheticSpace(128, 512, 96), SyntheticSpace(700, 65, 300)]
    return float(np.median([trials_to(share, make(i, s), s, most) for i, s in enumerate(tried)]))


# -- points ----------------------------------------------------------------------------------------


def test_a_mutation_changes_one_hole(rng: np.random.Generator) -> None:
    points = SPACE.random(rng, 300)
    children = search.mutated(SPACE, points, rng)
    assert ((children != points).sum(axis=1) == 1).all()
    assert (children >= 0).all() and (children < SPACE.shape).all()
    rows, holes = np.nonzero(children != points)
    assert set(holes) == set(range(len(HOLES)))
    near = np.abs(children - points)[rows, holes] == 1
    by_hole = [near[holes == h].mean() for h in range(len(HOLES))]
    # Of the twelve heights half of the mutations step, and some of the jumps are no farther.
    assert 0.45 < by_hole[0] < 0.85


def test_neighbours_differ_in_one_hole(rng: np.random.Generator) -> None:
    (point,) = SPACE.random(rng, 1)
    found = search.neighbours(SPACE, point)
    assert ((found != point).sum(axis=1) == 1).all() and SPACE.legal(found).all()
    every = np.array([[*point[:h], c, *point[h + 1 :]] for h, n in enumerate(SPACE.shape)
                      for c in range(n) if c != point[h]])  # fmt: skip
    assert {*map(tuple, found)} == {*map(tuple, every[SPACE.legal(every)])}


def test_a_child_of_two_has_nothing_of_its_own(rng: np.random.Generator) -> None:
    a, b = SPACE.random(rng, 50), SPACE.random(rng, 51)[:50]
    children = search.crossed(a, b, rng)
    assert ((children == a) | (children == b)).all()
    assert (children != a).any() and (children != b).any()


def test_bred_points_are_legal(rng: np.random.Generator) -> None:
    children = search.bred(SPACE, SPACE.random(rng, 40), 400, rng)
    assert SPACE.legal(children).all() and len(children) > 100


def test_ordered_choices_are_ascending_numbers() -> None:
    assert search.ordered((1, 2, 4, 8)) and search.ordered((0.5, 1, 2))
    assert not search.ordered((1, 4, 2)) and not search.ordered((1, 1, 2))
    assert not search.ordered(("a", "b", "c")) and not search.ordered(((0, 0), (8, 1), (8, 4)))
    assert not search.ordered((0, 1)), "two choices have no order to follow"


def test_a_batch_is_good_and_unlike_itself() -> None:
    points = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [5, 6, 7, 8], [9, 9, 9, 9]])
    scores = np.array([0.0, 0.01, 0.05, 9])
    assert search.diverse(points, scores, 2, 0).tolist() == [0, 1]
    assert search.diverse(points, scores, 2, 0.1).tolist() == [0, 2]
    assert sorted(search.diverse(points, scores, 9, 0.1).tolist()) == [0, 1, 2, 3]
    assert search.diverse(points[:0], scores[:0], 3, 0.1).tolist() == []


def test_what_is_observed_again_replaces_what_was_known(rng: np.random.Generator) -> None:
    t = Trials(SPACE, 0)
    points = SPACE.random(rng, 3)
    t.observe(points, np.array([1.0, 2.0, 3.0]))
    t.observe(points[:1], np.array([2.5]))
    assert len(t.points) == 3 and t.best[1] == 2.0
    np.testing.assert_array_equal(t.fastest(3), points[[1, 0, 2]])


def test_trials_know_what_they_saw(rng: np.random.Generator) -> None:
    t = Trials(SPACE, 0, SPACE.start)
    drawn = SPACE.random(rng, 20)
    t.observe(drawn, np.where(np.arange(20) == 3, np.nan, np.arange(20.0, 0, -1)))
    np.testing.assert_array_equal(t.best[0], drawn[19])
    assert t.best[1] == 1
    np.testing.assert_array_equal(t.fastest(2), drawn[[19, 18]])
    assert len(t.fastest(99)) == 19, "one failed"
    new = SPACE.random(rng, 5)
    found = t.fresh(np.concatenate([drawn, new, new[::-1]]))
    np.testing.assert_array_equal(found, new)


# -- all searches ----------------------------------------------------------------------------------

Make = Callable[[SyntheticSpace, Model, Trainer], Search]
SEARCHES: dict[str, Make] = {
    "random": lambda s, m, t: RandomSearch(s, 1, s.start),
    "evolutionary": lambda s, m, t: EvolutionarySearch(s, 1, s.start, founders=16),
    "guided": lambda s, m, t: GuidedSearch(s, Learner(s, m, t, 5), 1, s.start),
    "gradient": lambda s, m, t: GradientSearch(
        s, Learner(s, m, t, 5), 1, s.start, compiled=tw.compile
    ),
    "annealing": lambda s, m, t: AnnealingSearch(s, Learner(s, m, t, 5), 1, s.start),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_proposals_are_legal_new_and_repeatable(name: str, model: Model, online: Trainer) -> None:
    def proposals() -> np.ndarray:
        s, found = SEARCHES[name](SPACE, model, online), []
        for _ in range(4):
            points = s.propose(8)
            seconds = SPACE.measured(points)
            seconds[1] = np.inf  # as if it had crashed
            s.observe(points, seconds)
            found.append(points)
        return np.concatenate(found)

    points = proposals()
    assert points.shape == (32, len(HOLES)) and points.dtype == np.int64
    assert SPACE.legal(points).all()
    assert len(np.unique(points, axis=0)) == 32
    np.testing.assert_array_equal(points[0], SPACE.start[0])
    np.testing.assert_array_equal(points, proposals())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_space_comes_to_its_end(name: str, model: Model, online: Trainer) -> None:
    class Few(SyntheticSpace):
        """Six legal points."""

        def legal(self, points: np.ndarray) -> np.ndarray:
            return (points[:, :8] == self.start[0, :8]).all(axis=1)

        def random(self, rng: np.random.Generator, n: int) -> np.ndarray:
            every = np.repeat(self.start, 6, axis=0)
            every[:, 8] = np.arange(6)
            return rng.permutation(every)[:n]

    space = Few(192, 320, 256)
    s = SEARCHES[name](space, model, online)
    found = []
    for _ in range(4):
        points = s.propose(4)
        s.observe(points, space.measured(points))
        found.append(points)
    assert [len(p) for p in found] == [4, 2, 0, 0]
    assert sorted(np.concatenate(found)[:, 8]) == list(range(6))


# -- how few trials --------------------------------------------------------------------------------


def test_evolution_needs_fewer_trials_than_chance() -> None:
    by_chance = median(lambda i, s: RandomSearch(s, i, s.start), 0.93, 1200)
    evolved = median(lambda i, s: EvolutionarySearch(s, i, s.start), 0.93, 1200)
    assert by_chance > 400
    assert evolved < 200


@pytest.mark.parametrize("kind", [GuidedSearch, GradientSearch, AnnealingSearch])
def test_a_trained_judge_needs_a_few_trials(
    kind: type[GuidedSearch], model: Model, online: Trainer
) -> None:
    def make(i: int, s: SyntheticSpace) -> Search:
        more = {"compiled": tw.compile} if kind is GradientSearch else {}
        return kind(s, Learner(s, model, online), i, s.start, **more)

    assert median(make, 0.93, 64) <= 32


class Deaf(Learner):
    """Believes what it believed at first."""

    def learn(self, points: np.ndarray, seconds: np.ndarray) -> None:
        pass


def test_a_judge_learns_while_it_is_asked(blank: Model, online: Trainer) -> None:
    """From nothing: an untrained judge that learns, and the same one that does not. Neither looks
    around the fastest point, which teaches, too."""
    asked = Generations(nearby=0)

    def make(judge: type[Learner]) -> Callable[[int, SyntheticSpace], Search]:
        return lambda i, s: GuidedSearch(s, judge(s, blank, online), i, s.start, asked, 16)

    assert median(make(Learner), 0.93, 160) <= 100
    assert median(make(Deaf), 0.93, 160) > 160


def test_where_a_judge_is_wrong_neighbours_lead_on(blank: Model, online: Trainer) -> None:
    def make(nearby: float) -> Callable[[int, SyntheticSpace], Search]:
        asked = Generations(nearby=nearby)
        return lambda i, s: GuidedSearch(s, Deaf(s, blank, online), i, s.start, asked, 16)

    assert median(make(0.5), 0.93, 240) <= 160
    assert median(make(0.0), 0.93, 240) > 240


def test_the_slope_leads_down(model: Model, online: Trainer, rng: np.random.Generator) -> None:
    judge = Learner(SPACE, model, online)
    s = GradientSearch(SPACE, judge, 0, compiled=tw.compile)
    points = SPACE.random(rng, s.descended)
    way = s.descend(points)
    assert way.shape == (s.steps, len(points), len(HOLES))
    named = [i for i, h in enumerate(HOLES) if not search.ordered(h.choices)]
    assert (way[:, :, named] == points[:, named]).all(), "only ordered choices move"
    assert (way >= 0).all() and (way <= SPACE.shape - 1).all()
    moved = s.rounded(way)
    assert SPACE.legal(moved).all() and len(moved) > len(points)

    def expected(places: np.ndarray) -> float:
        features, seconds = SPACE.relaxed(places.astype(np.float32))
        return float(
            (np.log(seconds) + infer(model.params, model.mean, model.scale, features)).mean()
        )

    assert expected(way[-1]) < expected(way[5]) < expected(points) - 0.1
    assert expected(way[-1]) < expected(points) - 0.3


def test_schedules_that_are_no_points_teach_too(blank: Model, online: Trainer) -> None:
    rng = np.random.default_rng(0)
    points = SPACE.random(rng, 40)
    told, asked = (Learner(SPACE, blank, online) for _ in range(2))
    told.taught(SPACE.features(points), SPACE.roofline(points), SPACE.measured(points))
    asked.learn(points, SPACE.measured(points))
    np.testing.assert_array_equal(told.predict(points), asked.predict(points))
    error = np.log(SPACE.measured(points)) - asked.predict(points)
    first = np.log(SPACE.measured(points)) - blank.predict(SPACE, points)
    assert np.std(error) < 0.8 * np.std(first)
