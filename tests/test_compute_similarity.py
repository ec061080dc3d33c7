"""Similarity measures against their definitions and peers; what leaves them unchanged; their null."""

from functools import cache

import jax
import numpy as np
import pytest

from jaxalign.compute import folds, measures
from jaxalign.compute.measures import MEASURES
from jaxalign.compute.permute import labellings
from jaxalign.compute.similarity import Bases, Similarity
from jaxalign.contracts import Features, Null, Patterns, Rdms
from tests import oracles_similarity as slow

N, K, WIDTH, PADDED = 24, 4, 7, 30
QUICK = ("cka", "cka_rbf_biased", "dcor", "mutual_knn", "cknna", "mi_gaussian", "procrustes")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MEASURES]
"""Every run of the tests takes one of each kernel, packing and form through all of them; the slow rest is the others."""


@cache
def data():
    """Three layers (one of noise, padded to one width) and three targets: related, unrelated, equal to layer 0."""
    rng = np.random.default_rng(11)
    layers = rng.standard_normal((3, N, PADDED))
    widths = np.array([WIDTH, PADDED, 5], np.int32)
    for layer, width in zip(layers, widths, strict=True):
        layer[:, width:] = 0
    targets = rng.standard_normal((N, WIDTH, 3))
    targets[:, :, 0] += 0.7 * layers[0, :, :WIDTH]
    targets[:, :, 2] = layers[0, :, :WIDTH]
    return layers, widths, targets


def scored(name, layers, widths, targets, rows, dtype=np.float64, n_folds=0, **options):
    """Scores of a measure through its three steps, as NumPy arrays."""
    metric = Similarity(name, n_neighbours=K, n_folds=n_folds, n_permutations=len(rows) - 1, **options)
    n_stimuli, n_targets = len(targets), targets.shape[2]
    design = folds.design(np.arange(n_stimuli)[None] % 2 == 0, 2, 0)
    null = Null(rows, np.zeros((n_targets, 0), dtype), np.zeros(n_targets, np.int32))

    @jax.jit
    def run(features, responses, null):
        ours = metric.features_state(features, design, "cpu")
        return metric.score(ours, metric.responses_state(responses, design), design, null)

    with jax.enable_x64(dtype == np.float64):
        found = run(Features(layers.astype(dtype), widths), Patterns(targets.astype(dtype)), null)
        return jax.tree.map(np.asarray, found)


def by_target(state):
    """State of responses with the targets on the leading axis, as `under` takes it."""
    return Bases(jax.numpy.swapaxes(state.values, 0, 1), state.widths[0])


IDENTITY = np.arange(N, dtype=np.int32)[None]


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_equals_its_definition_under_every_labelling(name, strict):
    layers, widths, targets = data()
    rows = labellings(N, 3, 5)
    with jax.enable_x64(True):
        metric = Similarity(name, n_neighbours=K)
        design = folds.design(np.arange(N)[None] % 2 == 0, 2, 0)
        ours = metric.features_state(Features(jax.numpy.asarray(layers), jax.numpy.asarray(widths)), design, "cpu")
        theirs = metric.responses_state(Patterns(jax.numpy.asarray(targets)), design)
        found = np.asarray(jax.jit(metric.under)(ours, by_target(theirs), jax.numpy.asarray(rows)))
    expected = [
        [
            [slow.measure(name, layers[fit, :, : widths[fit]], targets[row][:, :, target], K) for target in range(3)]
            for fit in range(3)
        ]
        for row in rows
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_float32_equals_the_definition(name):
    layers, widths, targets = (np.asarray(one, np.float32) if one.dtype == np.float64 else one for one in data())
    found = scored(name, layers, widths, targets, IDENTITY, np.float32).value[:, 0]
    exact = layers.astype(np.float64), targets.astype(np.float64)
    expected = [
        [slow.measure(name, exact[0][fit, :, : widths[fit]], exact[1][:, :, target], K) for target in range(3)]
        for fit in range(3)
    ]
    # The information of equal features hangs on the last bit of r^2.
    some = slice(0, 2 if name == "mi_gaussian" else 3)
    np.testing.assert_allclose(found[:, some], np.array(expected)[:, some], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    "name", ["cka", "cka_biased", "cka_rbf", "dcor", "dcor_debiased", "mutual_knn", "cknna", "procrustes"]
)
def test_identical_patterns_score_one(name):
    layers, widths, targets = data()
    assert scored(name, layers, widths, targets, IDENTITY).value[0, 0, 2] == pytest.approx(1, abs=1e-12)


def test_information_of_identical_features_is_finite_and_documented():
    layers, _, _ = data()
    column = layers[:1, :, :1], np.ones(1, np.int32), layers[0, :, :1, None]
    found = scored("mi_gaussian", *column, IDENTITY).value.item()
    assert found == pytest.approx(-0.5 * np.log(1e-7), rel=1e-6) and round(found, 2) == MEASURES["mi_gaussian"].high


CHANGES = {
    "translation": lambda x, rng: x + 3 * rng.standard_normal(x.shape[1]),
    "scale": lambda x, rng: 7.3 * x,
    "rotation": lambda x, rng: x @ np.linalg.qr(rng.standard_normal((x.shape[1], x.shape[1])))[0],
    "feature scale": lambda x, rng: x * rng.uniform(0.2, 5, x.shape[1]),
}


@cache
def changed():
    """Layer and target of the first cell, then the same with each change. -> (1 + 4, N, PADDED), (N, WIDTH, 1 + 4)"""
    layers, _, targets = data()
    sides = [layers[0, :, :WIDTH], targets[:, :, 0]]
    every = [[side] + [apply(side, np.random.default_rng(3)) for apply in CHANGES.values()] for side in sides]
    ours = np.zeros((len(every[0]), N, PADDED))
    ours[:, :, :WIDTH] = every[0]
    return ours, np.stack(every[1], axis=2)


@pytest.mark.parametrize("name", EVERY)
def test_measures_are_unchanged_by_what_they_say_and_by_nothing_else(name):
    """Either side may be changed; a change that is not listed does move the score."""
    ours, theirs = changed()
    scores = scored(name, ours, np.full(len(ours), WIDTH, np.int32), theirs, IDENTITY).value[:, 0]
    for place, change in enumerate(CHANGES, start=1):
        gaps = abs(scores[place, 0] - scores[0, 0]), abs(scores[0, place] - scores[0, 0])
        if change in MEASURES[name].unchanged_by:
            assert max(gaps) < 1e-9 * max(1, abs(scores[0, 0])), (change, gaps)
        else:
            assert min(gaps) > 1e-5, (change, gaps)


@pytest.mark.parametrize("name", EVERY)
def test_scores_stay_in_their_range_and_bias_is_as_declared(name):
    """Noise of 40 columns against 9: debiased measures average 0 under the null, the others do not."""
    rng = np.random.default_rng(2)
    layers, targets = rng.standard_normal((4, N, 40)), rng.standard_normal((N, 9, 5))
    rows = labellings(N, 60, 1)
    metric = Similarity(name, n_neighbours=K)
    design = folds.design(np.arange(N)[None] % 2 == 0, 2, 0)

    @jax.jit
    def run(layers, targets, rows):
        ours = metric.features_state(Features(layers, np.full(4, 40, np.int32)), design, "cpu")
        return metric.under(ours, by_target(metric.responses_state(Patterns(targets), design)), rows)

    found = np.asarray(run(layers.astype(np.float32), targets.astype(np.float32), rows)[1:])
    measure = MEASURES[name]
    assert np.all(found >= measure.low - 1e-6) and np.all(found <= measure.high + 1e-6)
    mean, sd = found.mean(), found.std()
    if measure.is_biased:
        assert mean > 0.5 * sd, (mean, sd)
    else:
        assert abs(mean) < 0.15 * sd, (mean, sd)


def test_rv_is_linear_cka_and_dcor_squared_is_dcor_squared():
    layers, widths, targets = data()
    value = {
        name: scored(name, layers, widths, targets, IDENTITY).value
        for name in ("rv", "cka_biased", "dcor", "dcor_squared")
    }
    np.testing.assert_array_equal(value["rv"], value["cka_biased"])
    np.testing.assert_allclose(value["dcor"] ** 2, value["dcor_squared"], rtol=1e-12)
    assert MEASURES["rv"].same_as == "cka_biased"


# Peers.


def peer_data():
    """Seeded patterns for which thingsvision 2.7.3 (NumPy backend) gave the numbers below."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((40, 12))
    return x, x[:, :6] + rng.standard_normal((40, 6))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cka_biased", 0.41813194311637786),
        ("cka", 0.30387887082052417),
        ("cka_rbf_biased", 0.4794808223032792),
        ("cka_rbf", 0.29465020690632765),
    ],
)
def test_cka_equals_thingsvision(name, expected):
    """Its release needs NumPy below 2, so its numbers are kept here instead of the package."""
    x, y = peer_data()
    found = scored(name, x[None], np.array([12], np.int32), y[:, :, None], np.arange(40, dtype=np.int32)[None])
    assert found.value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("cka_biased", 0.5576132566), ("cka", 0.51346)])
def test_cka_equals_the_notebook_of_its_authors(name, expected):
    old = np.random.RandomState(1337)
    x = old.standard_normal((100, 10))
    y = old.standard_normal((100, 10)) + x
    found = scored(name, x[None], np.array([10], np.int32), y[:, :, None], np.arange(100, dtype=np.int32)[None])
    assert found.value.item() == pytest.approx(expected, abs=6e-6)


@pytest.mark.slow
def test_distance_correlation_equals_dcor():
    import dcor

    x, y = peer_data()
    rows = np.arange(40, dtype=np.int32)[None]
    expected = {
        "dcor": dcor.distance_correlation(x, y),
        "dcor_squared": dcor.distance_correlation_sqr(x, y),
        "dcor_debiased": dcor.u_distance_correlation_sqr(x, y),
    }
    for name, value in expected.items():
        found = scored(name, x[None], np.array([12], np.int32), y[:, :, None], rows).value.item()
        assert found == pytest.approx(value, abs=1e-12), name


# The null, parts of the stimuli, bad input.


@pytest.mark.parametrize("name", ["cka", "mutual_knn", "procrustes"])
def test_counts_equal_a_loop_and_a_planted_layer_is_found(name):
    layers, widths, targets = data()
    rows = labellings(N, 99, 4)
    found = scored(name, layers, widths, targets, rows)
    values = [slow.measure(name, layers[1], targets[row][:, :, 1], K) for row in rows]
    spread = np.max(np.abs(np.array(values) - np.mean(values)))
    expected = int(np.sum(np.array(values[1:]) >= values[0] - 1e-6 * spread - 1e-15))
    assert found.exceed_count[1, 0, 1] == expected
    assert found.exceed_count[0, 0, 2] == 0


@pytest.mark.parametrize("name", ["cka", *(pytest.param(name, marks=pytest.mark.slow) for name in QUICK[1:])])
def test_parts_of_the_stimuli_are_scored_as_data_sets_of_their_own(name):
    layers, widths, targets = data()
    found = scored(name, layers, widths, targets, IDENTITY, n_folds=3).fold_value
    assert found.shape == (3, 3, 1, 3)
    for fold in range(3):
        part = np.arange(fold, N, 3)
        expected = slow.measure(name, layers[0][part, :WIDTH], targets[part][:, :, 0], K)
        assert found[0, fold, 0, 0] == pytest.approx(expected, abs=1e-9)


def test_ties_of_neighbours_are_shared_and_relabelling_moves_nothing():
    """Stimuli in pairs of equal patterns: which twin is a neighbour would depend on the order of the stimuli."""
    rng = np.random.default_rng(0)
    twins = np.repeat(rng.integers(-2, 3, (N // 2, 5)).astype(float) + 0.5, 2, axis=0)
    order = rng.permutation(N)
    targets = rng.integers(-2, 3, (N, 5, 1)) + 0.5
    widths = np.array([5], np.int32)
    before = scored("mutual_knn", twins[None], widths, targets, IDENTITY).value.item()
    after = scored("mutual_knn", twins[order][None], widths, targets[order], IDENTITY).value.item()
    assert before == pytest.approx(after, abs=1e-12)


def test_a_far_unit_keeps_its_digits_in_float32():
    layers, widths, targets = data()
    far = layers[:1].copy()
    far[0, :, 0] += 5000
    found = scored("cka", far.astype(np.float32), widths[:1], targets, IDENTITY, np.float32).value[0, 0]
    expected = [
        slow.measure("cka", far[0].astype(np.float32).astype(np.float64), targets[:, :, t], K) for t in range(3)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_equal_patterns_of_all_stimuli_are_undefined():
    _, widths, targets = data()
    flat = np.ones((1, N, PADDED))
    for name in ("cka", "dcor", "procrustes"):
        found = scored(name, flat, widths[:1], targets, IDENTITY, np.float32)
        assert np.isnan(found.value).all(), name


def test_units_of_volts_change_nothing():
    layers, widths, targets = data()
    for name in ("cka", "dcor_debiased", "mutual_knn", "procrustes"):
        ours = scored(name, layers, widths, targets * 1e-13, IDENTITY, np.float32).value
        expected = scored(name, layers, widths, targets, IDENTITY, np.float32).value
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-7)


def test_names_and_settings_are_checked():
    with pytest.raises(ValueError, match="cka_debias"):
        Similarity("cka_debiase")
    with pytest.raises(ValueError, match="n_neighbours=0"):
        Similarity("mutual_knn", n_neighbours=0)
    assert Similarity("cka_debiased").statistics == ("cka",) and Similarity("dcor2").statistics == ("dcor_squared",)
    layers, widths, _ = data()
    design = folds.design(np.arange(N)[None] % 2 == 0, 2, 0)
    with pytest.raises(ValueError, match="24 stimuli with n_neighbours=23"):
        Similarity("mutual_knn", n_neighbours=23).features_state(Features(layers, widths), design, "cpu")
    for step in ("features_state", "responses_state"):
        arguments = (Rdms(np.ones((10, 1))), design, "cpu")[: 3 if step == "features_state" else 2]
        with pytest.raises(ValueError, match="needs patterns"):
            getattr(Similarity(), step)(*arguments)


def test_the_set_of_the_audio_study_has_eight_names():
    assert len(measures.AS_PUBLISHED) == 8
    ours = set(measures.AS_PUBLISHED) - {"rsa_spearman", "rsa_pearson", "kendall"}
    assert ours <= set(MEASURES)
