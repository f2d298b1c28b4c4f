"""The cost model: metrics counted by hand, the network, its file, and how it learns.

The kernels are those of `synthetic_space`, whose costs are known. What is asserted of learning is
seeded and far from what the seed decides.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from synthetic_space import NAMES, VERSION, group, spaces
from tilewright.cost_model import baselines, metrics, transfer
from tilewright.cost_model import model as models
from tilewright.cost_model.distillation import shown, softened
from tilewright.cost_model.model import BadModel, Model, correction, infer, init, load
from tilewright.cost_model.training import (
    Batch,
    Group,
    Optimizer,
    Rows,
    Settings,
    Trainer,
    adam,
    batches,
    gathered,
    loss,
    mean_score,
    scaling,
    scored,
    stepper,
)

SMALL = Settings(width=32, candidates=32, epochs=40)
MACHINE = ("log2 l1", "log2 line")


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(adam(3e-3), SMALL, tw.compile)


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return [group(s, 64, i) for i, s in enumerate(spaces(64, 0))]


@pytest.fixture(scope="module")
def trained(trainer: Trainer, groups: list[Group]) -> Model:
    return trainer.trained(groups[:40], groups[40:48], (NAMES, (), VERSION))


def example(width: int = 8, machine: tuple[str, ...] = MACHINE) -> Model:
    rng = np.random.default_rng(3)
    n = 5 + len(machine)
    params = init(rng, n, width)
    params["w3"] = rng.standard_normal(width).astype(np.float32)
    mean, scale = (rng.random(n).astype(np.float32) + 0.5 for _ in range(2))
    features = ("a", "b", "c", "d", "é")
    return Model(params, features, 7, mean, scale, machine, (0.9, 0.8), ("zen 64", "old 16"))


# -- metrics ---------------------------------------------------------------------------------------

SECONDS = [np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.0, 6.0, 12.0])]
SCORES = [np.array([0.2, 0.1, 0.3]), np.array([5.0, 7.0, 7.0, 1.0])]


def test_pairs_in_the_right_order_are_counted_over_all_kernels() -> None:
    # The first kernel: one of 3 pairs is wrong. The second: of 5 pairs with an order, (0,2) is
    # right, (1,2) half, and the three with the last are wrong.
    assert metrics.pairwise_accuracy(SECONDS, SCORES) == pytest.approx((2 + 1.5) / 8)
    assert metrics.pairwise_accuracy(SECONDS, SECONDS) == 1
    assert metrics.pairwise_accuracy(SECONDS, [-s for s in SECONDS]) == 0
    assert metrics.pairwise_accuracy(SECONDS, [0 * s for s in SECONDS]) == 0.5
    assert np.isnan(metrics.pairwise_accuracy([np.ones(4)], [np.arange(4.0)]))


def test_top_k_is_a_ratio_of_sums() -> None:
    assert metrics.top_k(SECONDS, SCORES, 1) == pytest.approx((1 + 3) / (2 + 12))
    assert metrics.top_k(SECONDS, SCORES, 2) == pytest.approx((1 + 3) / (1 + 3))
    assert metrics.top_k(SECONDS, SCORES, 1, [10, 1]) == pytest.approx((10 + 3) / (20 + 12))
    assert metrics.geometric_top_k(SECONDS, SCORES, 1) == pytest.approx((1 / 2 * 3 / 12) ** 0.5)


def test_a_score_that_proposes_one_candidate_has_no_other() -> None:
    one = [np.array([np.inf, 0, np.inf]), np.array([np.inf, np.inf, 0, np.inf])]
    assert metrics.top_k(SECONDS, one, 5) == pytest.approx((1 + 3) / (2 + 6))
    # In the first kernel (0,1) wrong, (0,2) half, (1,2) right; in the second (0,2) and (1,2) wrong,
    # (2,3) right, and (0,3) and (1,3) half.
    assert metrics.pairwise_accuracy(SECONDS, one) == pytest.approx((1.5 + 2) / 8)
    with pytest.raises(ValueError, match="no candidate"):
        metrics.top_k(SECONDS, [s * np.nan for s in SECONDS], 1)


def test_recall_and_errors() -> None:
    assert metrics.recall(SECONDS, SCORES, 2) == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert metrics.recall(SECONDS, SCORES, 30) == 1
    seconds, scores = [np.array([1.0, 2.0, 4.0])], [np.log(np.array([5.0, 10.0, 10.0]))]
    assert metrics.rmse(seconds, scores) == pytest.approx((0.25**2 / 3) ** 0.5)
    y = np.array([1, 0.5, 0.25])
    assert metrics.r2(seconds, scores) == pytest.approx(1 - 0.25**2 / ((y - y.mean()) ** 2).sum())


# -- the network -----------------------------------------------------------------------------------


def test_a_new_network_corrects_nothing(rng: np.random.Generator) -> None:
    space = spaces(1, 5)[0]
    points = space.random(rng, 9)
    blank = Model.blank(NAMES, VERSION)
    assert not correction(blank.params, rng.standard_normal((4, len(NAMES)))).any()
    np.testing.assert_allclose(blank.predict(space, points), np.log(space.roofline(points)))


def test_inference_is_the_formula_of_the_network(rng: np.random.Generator) -> None:
    m = example()
    x = rng.standard_normal((6, 7)).astype(np.float32)
    x[0, 0] = 1e6  # as far out as CLIP
    z = np.clip((x.astype(float) - m.mean) / m.scale, -models.CLIP, models.CLIP)
    for layer in "12":
        z = z @ m.params["w" + layer] + m.params["b" + layer]
        z = z / (1 + np.exp(-z))
    expected = z @ m.params["w3"] + m.params["b3"]
    compiled = tw.compile(infer)
    for run in (infer, compiled):
        np.testing.assert_allclose(
            run(m.params, m.mean, m.scale, x), expected, rtol=2e-5, atol=1e-6
        )


def test_any_number_of_rows_takes_few_shapes(rng: np.random.Generator) -> None:
    m, shapes = example(machine=()), set()

    def run(params: models.Params, *rest: np.ndarray) -> np.ndarray:
        shapes.add(rest[-1].shape)
        return infer(params, *rest)

    for n in (0, 1, 63, 64, 65, 513, 4097):
        x = rng.standard_normal((n, 5)).astype(np.float32)
        found = models.batched(run, m.params, m.mean, m.scale, x)
        np.testing.assert_allclose(found, infer(m.params, m.mean, m.scale, x), rtol=1e-4, atol=1e-5)
    assert shapes == {(size, 5) for size in models.SIZES}


def test_a_machine_that_is_settled_is_part_of_the_bias(rng: np.random.Generator) -> None:
    m = example()
    x = rng.standard_normal((6, 5)).astype(np.float32)
    told = np.concatenate([x, np.tile(np.array([0.25, 3], np.float32), (6, 1))], axis=1)
    here = m.on({"log2 line": 3, "log2 l1": 0.25})
    seconds = rng.random(6)
    np.testing.assert_allclose(
        here.judge(x, seconds),
        np.log(seconds) + infer(m.params, m.mean, m.scale, told),
        rtol=1e-5,
    )
    assert here.on({}) is here
    with pytest.raises(KeyError, match="log2 line"):
        m.on({"log2 l1": 0})
    with pytest.raises(ValueError, match=r"needs a machine's log2 l1, log2 line: see Model\.on"):
        m.judge(x, seconds)
    with pytest.raises(ValueError, match="3 features for a model of 5"):
        here.judge(x[:, :3], seconds)


# -- the file --------------------------------------------------------------------------------------


def test_what_is_stored_is_what_there_was(tmp_path: Path) -> None:
    for m in (example(), replace(example(machine=()), held_out=None)):
        m.save(tmp_path / "model.npz")
        content = (tmp_path / "model.npz").read_bytes()
        again = Model.parsed(content)
        assert (again.features, again.version, again.machine) == (m.features, 7, m.machine)
        assert (again.held_out, again.trained_on) == (m.held_out, m.trained_on)
        for name, a in m.params.items():
            np.testing.assert_array_equal(again.params[name], a)
        np.testing.assert_array_equal(again.mean, m.mean)
        np.testing.assert_array_equal(again.scale, m.scale)
        assert again.content == replace(m).content == content
        assert np.load(io.BytesIO(content))["w1"].dtype == np.float32  # anybody may read it
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


def test_damaged_files_are_refused(rng: np.random.Generator) -> None:
    content = example().content
    for end in (0, 10, 200, len(content) // 2, len(content) - 1):
        with pytest.raises(BadModel):
            Model.parsed(content[:end])
    for at in rng.integers(0, len(content), 300).tolist():
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8))
        try:
            found = Model.parsed(bytes(changed))
        except BadModel:
            continue
        assert found.content == content, f"byte {at}: dates and flags only"


def stored(m: Model, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """A model's file with some members replaced."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(m.content)) as old,
        zipfile.ZipFile(file, "w", compression) as new,
    ):
        for name in old.namelist():
            new.writestr(name, members.get(name.removesuffix(".npy"), old.read(name)))
    return file.getvalue()


def npy(a: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, a, version=(1, 0))
    return file.getvalue()


def test_files_of_something_else_are_refused() -> None:
    m = example()
    objects = io.BytesIO()
    np.lib.format.write_array(objects, np.array([print], object), allow_pickle=True)
    cases = {
        "more than": bytes(models.MOST_BYTES + 1),
        "not a whole file": pickle.dumps(m.params),
        "compressed": stored(m, zipfile.ZIP_DEFLATED),
        "b1 is <f8": stored(m, b1=npy(np.zeros(8))),
        "b2 is <f4": stored(m, b2=npy(np.zeros((8, 1), np.float32))),
        "mean is |O": stored(m, mean=objects.getvalue()),
        "b2 has 32 bytes": stored(m, b2=lengthened(np.zeros(8, np.float32))),
        "layers of": stored(m, b2=npy(np.zeros(9, np.float32))),
        "means and": stored(m, mean=npy(np.zeros(4, np.float32))),
        "not finite": stored(m, b2=npy(np.full(8, np.nan, np.float32))),
        "scores instead": stored(m, held_out=npy(np.zeros(3))),
        "not positive": stored(m, scale=npy(np.zeros(7, np.float32))),
    }
    for why, content in cases.items():
        with pytest.raises(BadModel, match=why.replace("|", r"\|")):
            Model.parsed(content)
    with pytest.raises(BadModel) as error:
        Model.parsed(bytes(models.MOST_BYTES + 1))
    assert error.value.what == "the stored cost model cannot be used: more than 1048576 bytes"
    assert error.value.way_out == (
        "Rebuild it with `make train-cost-model`, or remove it: the heuristic schedules then."
    )


def lengthened(a: np.ndarray) -> bytes:
    """An array whose header promises more elements than there are, far more than memory."""
    content = npy(a)
    shape = f"({len(a)},), }}".encode()
    more = b"(99999999999999,), }"
    return content.replace(shape + b" " * (len(more) - len(shape)), more)


def test_only_a_model_that_beats_the_heuristic_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TILEWRIGHT_SHOW", "tune")
    path, m = tmp_path / "model.npz", example()

    def refused(why: str, version: int = 7) -> None:
        assert load(path, m.features, version) is None
        assert why in capsys.readouterr().err

    refused("No such file")
    m.save(path)
    assert load(path, m.features, 7).held_out == (0.9, 0.8)
    assert capsys.readouterr().err == ""
    refused("features of version 7, these are version 8", 8)
    for held_out in ((0.8, 0.9), (0.9, 0.9), None):
        replace(m, held_out=held_out).save(path)
        refused("not known to beat the heuristic")
    path.write_bytes(m.content[:-1])
    refused("the stored cost model cannot be used: not a whole file")


# -- learning --------------------------------------------------------------------------------------


def test_the_loss_of_a_pair() -> None:
    """Two candidates, the network at zero: log(1 + exp(d / sharpness)) of the estimates."""
    s = Settings(sharpness=0.5, absolute=0.1)
    base, y = np.array([[1, 0.8]], np.float32), np.array([[0.2, 0.6]], np.float32)
    params = init(np.random.default_rng(0), 3, 4)
    batch = Batch(np.ones((1, 2, 3), np.float32), base, y, np.ones((1, 2), np.float32))
    error = 0.1 * ((1 - 0.2) ** 2 + (0.8 - 0.6) ** 2) / 2
    assert loss(params, batch, s) == pytest.approx(np.log1p(np.exp(0.2 / 0.5)) + error, rel=1e-5)
    near = replace(batch, y=np.array([[0.2, 0.21]], np.float32))
    assert loss(params, near, replace(s, absolute=0)) == 0, "times alike have no order"


def test_padding_has_no_part_in_the_loss(rng: np.random.Generator) -> None:
    g = group(spaces(1, 1)[0], 11, 0)
    m = Model.blank(NAMES, VERSION)
    m = replace(m, params={**m.params, "w3": rng.standard_normal(64).astype(np.float32)})
    rows = [Rows.of(g, m)] * 2
    tight = gathered(rows, rng, Settings(kernels=2, candidates=len(g)))
    wide = gathered(rows, rng, Settings(kernels=5, candidates=40))
    assert wide.mask.sum() == tight.mask.sum() == 2 * len(g)
    assert loss(m.params, wide, SMALL) == pytest.approx(loss(m.params, tight, SMALL), rel=1e-5)


def test_batches_show_every_kernel_by_its_size(rng: np.random.Generator) -> None:
    s = Settings(kernels=3, candidates=10)
    sizes = (4, 10, 33)
    rows = [
        Rows(np.zeros((n, 2), np.float32), *(np.full(n, i, np.float32) for _ in range(2)))
        for i, n in enumerate(sizes)
    ]
    seen = [b.y[k, 0] for b in batches(rows, rng, s) for k in range(3) if b.mask[k].any()]
    assert sorted(seen) == [0, 1, 2, 2, 2]


def test_a_group_of_bad_numbers_is_refused() -> None:
    g = group(spaces(1, 1)[0], 4, 0)
    with pytest.raises(ValueError, match=r"times of .* not positive"):
        replace(g, seconds=g.seconds - g.seconds.min())
    with pytest.raises(ValueError, match=r"features of .* not finite"):
        replace(g, features=g.features * np.nan)


def test_adam_is_optax_adam() -> None:
    optax = pytest.importorskip("optax")
    jax_frontend = pytest.importorskip("tilewright.frontends.jax")
    reference = optax.adam(1e-2)
    other = Optimizer(
        lambda p: tw.tree.map(np.asarray, reference.init(p)),
        jax_frontend.from_jax(reference.update),
    )
    g = [group(s, 30, i) for i, s in enumerate(spaces(4, 3))]
    mean, scale, _ = scaling(g, False)
    start = replace(Model.blank(NAMES, VERSION, 16), mean=mean, scale=scale)
    settings = Settings(kernels=4, candidates=16)
    found = [Trainer(o, settings, tw.compile).fine_tuned(start, g, 4) for o in (adam(1e-2), other)]
    for name, a in found[0].params.items():
        np.testing.assert_allclose(a, found[1].params[name], rtol=2e-3, atol=2e-5)
        assert (a != start.params[name]).any()


def test_a_step_descends_and_stays_near_its_anchor() -> None:
    g = [group(s, 30, i) for i, s in enumerate(spaces(4, 3))]
    m = Model.blank(NAMES, VERSION, 8)
    lengths = []
    for decay in (0.0, 1.0):
        settings = Settings(kernels=4, candidates=16, decay=decay)
        step = stepper(settings, adam(1e-2), tw.compile)
        batch = gathered([Rows.of(x, m) for x in g], np.random.default_rng(0), settings)
        params, state, losses = m.params, adam(1e-2).init(m.params), []
        for _ in range(60):
            params, state, value = step(params, state, batch, m.params)
            losses.append(float(value))
        assert losses[-1] < 0.8 * losses[0]
        lengths.append(sum(((params[n] - m.params[n]) ** 2).sum() for n in params))
    assert lengths[1] < 0.5 * lengths[0]


def test_training_ranks_kernels_it_has_not_seen(
    trainer: Trainer, trained: Model, groups: list[Group]
) -> None:
    held_out = groups[48:]
    seconds = [g.seconds for g in held_out]
    ours = scored(trained, held_out, trainer.run)
    estimate, first = baselines.roofline(held_out), baselines.heuristic(held_out)
    assert metrics.pairwise_accuracy(seconds, estimate) < 0.6
    assert metrics.pairwise_accuracy(seconds, ours) > 0.93
    assert metrics.geometric_top_k(seconds, first, 1) < 0.7
    assert metrics.geometric_top_k(seconds, ours, 1) > 0.9
    assert "model   " in baselines.row("model", held_out, ours)


def test_the_same_seed_makes_the_same_weights(trainer: Trainer, groups: list[Group]) -> None:
    lines: list[str] = []

    def made(seed: int) -> bytes:
        quick = Trainer(trainer.optimizer, replace(SMALL, epochs=2), tw.compile)
        names = NAMES, (), VERSION
        return quick.trained(groups[:9], groups[9:12], names, seed, lines.append).content

    assert made(0) == made(0) != made(1)
    assert len(lines) == 6 and lines[0].startswith("epoch   1/2  loss ")


def test_training_keeps_the_best_epoch_and_stops(trainer: Trainer, groups: list[Group]) -> None:
    """Validation kernels that run as the model says: nothing can be better."""
    lines: list[str] = []
    quick = Trainer(trainer.optimizer, replace(SMALL, patience=3), tw.compile)
    start = trainer.trained(groups[:9], groups[:9], (NAMES, (), VERSION))
    said = scored(start, groups[:4], trainer.run)
    agreeing = [replace(g, seconds=np.exp(s)) for g, s in zip(groups, said, strict=False)]
    assert quick.improved(start, groups[:9], agreeing, 0, lines.append) is start
    assert len(lines) == 3


def slow_machine(count: int, seed: int, told: bool = False) -> list[Group]:
    """Kernels on a processor with a small cache and a slow memory."""
    s = spaces(count, seed, l1=4 << 10, line=2e9)
    return [group(x, 64, i, told) for i, x in enumerate(s)]


def test_fine_tuning_needs_few_records(trainer: Trainer, trained: Model) -> None:
    here = slow_machine(12, 8)
    few = [g.some(np.arange(12)) for g in here[:4]]  # 48 records
    held_out = here[4:]
    seconds = [g.seconds for g in held_out]
    blank = replace(Model.blank(NAMES, VERSION, 32), mean=trained.mean, scale=trained.scale)
    by = transfer.trainer(tw.compile)
    claimed = replace(trained, held_out=(0.9, 0.8))
    fitted = transfer.tuned(claimed, few, by)
    assert fitted.held_out == (0.9, 0.8) and claimed.params is trained.params
    shipped, tuned, anew = (
        metrics.pairwise_accuracy(seconds, scored(m, held_out, trainer.run))
        for m in (trained, fitted, transfer.tuned(blank, few, by))
    )
    assert tuned > shipped + 0.02
    assert tuned > anew + 0.02


def test_inputs_that_never_change_say_nothing_elsewhere(
    trainer: Trainer, groups: list[Group]
) -> None:
    told = [replace(g, machine=np.array([5, 6], np.float32)) for g in groups[:12]]
    model = trainer.trained(told[:8], told[8:], (NAMES, MACHINE, VERSION))
    assert not model.params["w1"][len(NAMES) :].any()
    x, seconds = told[0].features, told[0].roofline
    here, there = (model.on(dict(zip(MACHINE, m, strict=True))) for m in ((5, 6), (3, 9)))
    np.testing.assert_array_equal(here.judge(x, seconds), there.judge(x, seconds))


def test_a_student_is_shown_what_leads(groups: list[Group]) -> None:
    g = groups[0]
    says = np.random.default_rng(4).standard_normal(len(g))
    (found,) = shown([g], [says], 16)
    np.testing.assert_array_equal(np.log(found.seconds[:8]), np.sort(says)[:8])
    assert len(found) == len(set(found.seconds)) == 16
    rows = [int(np.flatnonzero(np.exp(says) == t)[0]) for t in found.seconds]
    np.testing.assert_array_equal(found.features, g.features[rows])
    np.testing.assert_array_equal(found.roofline, g.roofline[rows])
    (whole,) = shown([g], [says], 1000)
    assert len(whole) == len(g)


def test_some_candidates_know_their_default(groups: list[Group]) -> None:
    g = replace(groups[0], default=7)
    assert g.some(np.array([3, 7, 1])).default == 1
    assert g.some(np.array([3, 1])).default == -1


def test_a_student_learns_two_machines_from_their_teachers(trainer: Trainer) -> None:
    fast = [group(s, 64, i, told=True) for i, s in enumerate(spaces(24, 4))]
    slow = slow_machine(24, 6, told=True)
    teachers = {
        g[0].machine.tobytes(): [
            trainer.trained(g[:16], g[16:], (NAMES, (), VERSION), seed) for seed in (0, 1)
        ]
        for g in (fast, slow)
    }
    measured = [*fast[:16], *slow[:16]]
    says = [mean_score(teachers[g.machine.tobytes()], [g], trainer.run)[0] for g in measured]
    lessons = softened(measured, says, 0.3)
    expected = 0.7 * says[0] + 0.3 * np.log(fast[0].seconds)
    np.testing.assert_allclose(np.log(lessons[0].seconds), expected)
    judged = [*fast[16:], *slow[16:]]
    student, ignorant = (
        trainer.trained(lessons, judged, (NAMES, machine, VERSION)) for machine in (MACHINE, ())
    )
    seconds = [g.seconds for g in judged]
    taught, not_told = (
        metrics.pairwise_accuracy(seconds, scored(m, judged, trainer.run))
        for m in (student, ignorant)
    )
    assert taught > 0.9
    assert taught > not_told + 0.01
    there = student.on(dict(zip(MACHINE, slow[0].machine.tolist(), strict=True)))
    np.testing.assert_allclose(
        there.judge(slow[20].features, slow[20].roofline),
        scored(student, slow[20:21])[0],
        rtol=1e-4,
    )


@pytest.mark.parametrize("kind", ["forest", "boosted"])
def test_trees_learn_the_same(groups: list[Group], kind: str) -> None:
    pytest.importorskip("sklearn")
    held_out = groups[48:52]
    found = baselines.trees(groups[:8], kind)(held_out)
    seconds = [g.seconds for g in held_out]
    assert metrics.pairwise_accuracy(seconds, found) > 0.8


def test_the_heuristic_must_be_among_the_candidates(groups: list[Group]) -> None:
    with pytest.raises(ValueError, match="not among the candidates"):
        baselines.heuristic([replace(groups[0], default=-1)])
