"""RSA: scores, ties and null equal the slow definition and rsatoolbox, on planted and on real RDMs."""

from functools import cache

import jax
import numpy as np
import oracles
import pytest
from oracles import null_of, scores_of
from scipy import stats as scipy_stats
from scipy.spatial import distance

from jaxalign.compute import comparators, folds, rdm_agreement
from jaxalign.compute.geometry import Rsa, parts_of_pairs
from jaxalign.compute.masked import pairs_under
from jaxalign.compute.permute import labellings
from jaxalign.contracts import Features, Patterns, Rdms

pytestmark = pytest.mark.usefixtures("strict")

METRICS = {"spearman": Rsa(n_folds=3, n_permutations=15), "pearson": Rsa(comparator="pearson", n_folds=3)}
COMPARE = {"spearman": oracles.spearman, "pearson": oracles.pearson}
N, WIDTH, N_CHANNELS, N_TARGETS = 18, 20, 10, 3
ROWS = labellings(N, 15, 4)


@cache
def planted():
    """Two layers and patterns of three targets; the first target sees the first layer."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((2, N, WIDTH)) + rng.standard_normal((1, N, 1))
    patterns = rng.standard_normal((N, N_CHANNELS, N_TARGETS))
    patterns[:, :, 0] += features[0] @ rng.standard_normal((WIDTH, N_CHANNELS)) / 3
    return features, patterns


@cache
def squares():
    features, patterns = planted()
    return (
        [oracles.correlation_rdm(layer) for layer in features],
        [oracles.correlation_rdm(pattern) for pattern in np.moveaxis(patterns, 2, 0)],
    )


@cache
def slow_null(comparator):
    return oracles.rsa_null(*squares(), ROWS, COMPARE[comparator])


def run(metric, features, patterns, dtype=np.float64, rows=ROWS, widths=None, **null):
    widths = np.full(len(features), features.shape[2], np.int32) if widths is None else np.array(widths, np.int32)
    design = folds.design(folds.contiguous(len(patterns), 3), 2, 0)
    with jax.enable_x64(dtype == np.float64):
        return scores_of(
            metric,
            Features(features.astype(dtype), widths),
            Patterns(patterns.astype(dtype)),
            design,
            null_of(rows, patterns.shape[2], dtype, **null),
        )


def run_rdms(metric, ours, theirs, dtype=np.float64, rows=None, **null):
    n = len(oracles.square(ours[0]))
    design = folds.design(folds.contiguous(n, 3), 2, 0)
    rows = np.arange(n)[None] if rows is None else rows
    with jax.enable_x64(dtype == np.float64):
        made = null_of(rows, len(theirs), dtype, **null)
        return scores_of(metric, Rdms(ours.T.astype(dtype)), Rdms(theirs.T.astype(dtype)), design, made)


# Against the definition and peers.


@pytest.mark.parametrize("comparator", METRICS)
@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_scores_equal_the_definition(comparator, dtype, atol):
    ours = run(METRICS[comparator], *planted(), dtype)
    np.testing.assert_allclose(ours.value[:, 0], slow_null(comparator)[0], atol=atol)


@pytest.mark.parametrize("comparator", METRICS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exceedance_counts_equal_a_permuted_square_rdm_exactly(comparator, dtype):
    ours = run(METRICS[comparator], *planted(), dtype)
    np.testing.assert_array_equal(ours.exceed_count[:, 0], oracles.exceedances(slow_null(comparator)))


@pytest.mark.parametrize("comparator", METRICS)
def test_calibrated_scores_and_maxima_equal_the_definition(comparator):
    ours = run(METRICS[comparator], *planted())
    z = oracles.calibrated(slow_null(comparator))
    np.testing.assert_allclose(ours.z[:, 0], z[0], atol=1e-8)
    np.testing.assert_allclose(ours.maxima[:, 0, 0], z.max(2).T, atol=1e-8)


@pytest.mark.parametrize(("comparator", "method"), [("spearman", "spearman"), ("pearson", "corr")])
def test_scores_equal_rsatoolbox(comparator, method):
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    features, patterns = planted()
    one, other = (
        [calc_rdm(Dataset(values), method="correlation") for values in side]
        for side in (features, np.moveaxis(patterns, 2, 0))
    )
    expected = [[compare(a, b, method=method).item() for b in other] for a in one]
    np.testing.assert_allclose(run(METRICS[comparator], features, patterns).value[:, 0], expected, atol=1e-9)


@pytest.mark.parametrize("comparator", METRICS)
def test_fold_scores_are_scores_of_disjoint_stimuli(comparator):
    ours = run(METRICS[comparator], *planted()).fold_value[:, :, 0]
    layers, targets = squares()
    for part in range(3):
        rows = np.arange(part, N, 3)
        expected = [
            [COMPARE[comparator](*(oracles.condensed(rdm[np.ix_(rows, rows)]) for rdm in (a, b))) for b in targets]
            for a in layers
        ]
        np.testing.assert_allclose(ours[:, part], expected, atol=1e-9)


def test_parts_share_no_stimulus_and_hold_every_pair_inside_them():
    parts = parts_of_pairs(N, 3)
    first, second = np.triu_indices(N, 1)
    for part, pairs in enumerate(parts):
        assert {*first[pairs], *second[pairs]} == set(range(part, N, 3))
        assert len(pairs) == 15


def test_parts_under_four_stimuli_are_not_made():
    assert parts_of_pairs(11, 3) == []
    assert len(parts_of_pairs(12, 3)) == 3


def test_a_given_rdm_scores_as_the_patterns_it_came_from():
    layers, targets = ([oracles.condensed(rdm) for rdm in side] for side in squares())
    ours = run_rdms(METRICS["spearman"], np.stack(layers), np.stack(targets), rows=ROWS)
    bare = run(METRICS["spearman"], *planted())
    np.testing.assert_allclose(ours.value, bare.value, atol=1e-9)
    np.testing.assert_array_equal(ours.exceed_count, bare.exceed_count)


def test_the_test_set_alone_is_compared():
    features, patterns = planted()
    is_test = np.zeros((1, N), bool)
    is_test[0, 4:16] = True
    design = folds.design(is_test, 2, 0, is_fixed_split=True)
    rows = labellings(12, 0, 0)
    with jax.enable_x64(True):
        widths = np.full(2, WIDTH, np.int32)
        given = Features(features, widths), Patterns(patterns)
        ours = scores_of(METRICS["spearman"], *given, design, null_of(rows, N_TARGETS, np.float64))
    expected = [
        [oracles.spearman(*(oracles.condensed(rdm[4:16, 4:16]) for rdm in (a, b))) for b in squares()[1]]
        for a in squares()[0]
    ]
    np.testing.assert_allclose(ours.value[:, 0], expected, atol=1e-9)


# Ties.


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_categorical_features_keep_their_ties(dtype):
    _, patterns = planted()
    category = np.arange(N) % 4
    features = np.stack([np.pad(np.eye(4)[category], ((0, 0), (0, WIDTH - 4)))] * 2)
    is_different = oracles.condensed((category[:, None] != category[None, :]).astype(float))
    expected = [oracles.spearman(is_different, oracles.condensed(rdm)) for rdm in squares()[1]]
    ours = run(METRICS["spearman"], features, patterns, dtype, widths=[4, 4])
    np.testing.assert_allclose(ours.value[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_duplicated_stimuli_tie_at_zero(dtype):
    features, patterns = planted()
    doubled = np.repeat(features[:, : N // 2], 2, axis=1)
    # The definition is told which stimuli are equal, so that its own rounding breaks no tie.
    once = [oracles.correlation_rdm(layer) for layer in features[:, : N // 2]]
    layers = [np.repeat(np.repeat(rdm, 2, axis=0), 2, axis=1) for rdm in once]
    expected = [[oracles.spearman(oracles.condensed(a), oracles.condensed(b)) for b in squares()[1]] for a in layers]
    ours = run(METRICS["spearman"], doubled, patterns, dtype)
    np.testing.assert_allclose(ours.value[:, 0], expected, atol=1e-6)


def test_stimuli_that_are_all_equally_different_have_no_score():
    _, patterns = planted()
    features = np.stack([np.eye(N, WIDTH)] * 2)
    ours = run(METRICS["spearman"], features, patterns, np.float32, widths=[N, N])
    assert np.isnan(ours.value).all()


# Padding, scales, offsets.


def test_padding_columns_changes_nothing():
    features, patterns = planted()
    narrow = features[:, :, :12] + 1
    padded = np.pad(narrow, ((0, 0), (0, 0), (0, WIDTH - 12)))
    expected = [
        [oracles.spearman(oracles.condensed(oracles.correlation_rdm(a)), oracles.condensed(b)) for b in squares()[1]]
        for a in narrow
    ]
    ours = run(METRICS["spearman"], padded, patterns, widths=[12, 12])
    np.testing.assert_allclose(ours.value[:, 0], expected, atol=1e-9)


def test_padding_fits_changes_no_other():
    features, patterns = planted()
    padded = np.concatenate([features[:1], np.zeros_like(features[:1])])
    ours, bare = run(METRICS["spearman"], padded, patterns, widths=[WIDTH, 1]), run(METRICS["spearman"], *planted())
    np.testing.assert_allclose(ours.value[0], bare.value[0], atol=1e-12)
    np.testing.assert_array_equal(ours.exceed_count[0], bare.exceed_count[0])


@pytest.mark.parametrize("unit", [1e-13, 1e-6, 1e6])
def test_units_change_no_score_and_no_count(unit):
    features, patterns = planted()
    ours, bare = (run(METRICS["spearman"], features * one, patterns * one, np.float32) for one in (unit, 1.0))
    np.testing.assert_allclose(ours.value, bare.value, atol=1e-5)
    np.testing.assert_array_equal(ours.exceed_count, bare.exceed_count)


@pytest.mark.parametrize("comparator", METRICS)
def test_patterns_at_plus_5000_cost_no_digits(comparator):
    features, patterns = ((values + 5000).astype(np.float32).astype(np.float64) for values in planted())
    layers = [oracles.condensed(oracles.correlation_rdm(layer)) for layer in features]
    targets = [oracles.condensed(oracles.correlation_rdm(one)) for one in np.moveaxis(patterns, 2, 0)]
    expected = [[COMPARE[comparator](a, b) for b in targets] for a in layers]
    ours = run(METRICS[comparator], features, patterns, np.float32)
    np.testing.assert_allclose(ours.value[:, 0], expected, atol=1e-5)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("comparator", METRICS)
@pytest.mark.parametrize("offset", [50, 5000])
def test_one_unit_far_off_is_scored_as_in_float64(comparator, offset):
    features, patterns = planted()
    massive = features.copy()
    massive[:, :, 7] += offset
    massive = massive.astype(np.float32).astype(np.float64)
    layers = [oracles.condensed(oracles.correlation_rdm(layer)) for layer in massive]
    expected = [[COMPARE[comparator](a, oracles.condensed(b)) for b in squares()[1]] for a in layers]
    ours = run(METRICS[comparator], massive, patterns, np.float32)
    np.testing.assert_allclose(ours.value[:, 0], expected, atol=1e-5)


# Degenerate cases.


@pytest.mark.parametrize("comparator", METRICS)
def test_a_constant_pattern_leaves_its_target_without_a_score(comparator):
    features, patterns = planted()
    broken = patterns.copy()
    broken[5, :, 1] = 0.1
    ours, bare = (run(METRICS[comparator], features, values, np.float32) for values in (broken, patterns))
    assert np.isnan(ours.value[:, 0, 1]).all()
    np.testing.assert_allclose(ours.value[..., [0, 2]], bare.value[..., [0, 2]], atol=1e-6)
    np.testing.assert_array_equal(ours.exceed_count[..., [0, 2]], bare.exceed_count[..., [0, 2]])


@pytest.mark.parametrize("comparator", METRICS)
def test_a_nan_pattern_does_not_leak(comparator):
    features, patterns = planted()
    broken = patterns.copy()
    broken[5, 2, 1] = np.nan
    weights = np.zeros((N_TARGETS, 2))
    weights[:2, 0], weights[[0, 2], 1] = 0.5, 0.5
    ours = run(METRICS[comparator], features, broken, aggregates=weights)
    bare = run(METRICS[comparator], features, patterns, aggregates=weights)
    is_nan = np.isnan(ours.value).any((0, 1))
    np.testing.assert_array_equal(is_nan, [False, True, False, True, False])
    np.testing.assert_array_equal(ours.exceed_count[..., ~is_nan], bare.exceed_count[..., ~is_nan])


@pytest.mark.parametrize("comparator", METRICS)
def test_the_mean_over_subjects_has_its_own_null(comparator):
    weights = np.full((N_TARGETS, 1), 1 / N_TARGETS)
    ours = run(METRICS[comparator], *planted(), aggregates=weights)
    null = slow_null(comparator) @ weights
    np.testing.assert_allclose(ours.value[:, 0, -1:], null[0], atol=1e-9)
    np.testing.assert_array_equal(ours.exceed_count[:, 0, -1:], oracles.exceedances(null))


def test_an_unknown_comparator_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"comparator='spearmann' is not known.*spearman"):
        Rsa(comparator="spearmann")


@pytest.mark.parametrize(
    "comparator", ["cosine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rho-a", "corr_cov", "tau-b"))]
)
def test_other_comparators_are_taken_under_every_labelling_and_in_every_part(comparator):
    """Each relabelled RDM compared anew, by the functions that are held against rsatoolbox."""
    features, patterns = planted()
    found = run(Rsa(comparator=comparator, n_folds=3), features, patterns)
    ours, theirs = (np.stack([one[np.triu_indices(N, 1)] for one in side], axis=1) for side in squares())
    with jax.enable_x64(True):
        values = np.stack([comparators.compare(ours, theirs[pairs_under(row)], comparator, 1e-12) for row in ROWS])
        part = parts_of_pairs(N, 3)[1]
        in_part = np.asarray(comparators.compare(ours[part], theirs[part], comparator, 1e-12))
    np.testing.assert_allclose(found.value[:, 0], values[0], atol=1e-9)
    np.testing.assert_allclose(found.fold_value[:, 1, 0], in_part, atol=1e-9)
    mean, sd = values.mean(0), values.std(0)
    np.testing.assert_allclose(found.z[:, 0], (values[0] - mean) / sd, atol=1e-6)


def test_distances_of_both_sides_and_z_scored_units_are_as_named():
    features, patterns = planted()
    metric = Rsa(distance="euclidean", responses_distance="cosine", is_zscored=True, n_folds=0)
    found = run(metric, features, patterns).value[:, 0]
    unit = (features - features.mean(1, keepdims=True)) / features.std(1, keepdims=True)
    expected = [
        [
            scipy_stats.spearmanr(distance.pdist(layer, "euclidean"), distance.pdist(patterns[:, :, t], "cosine"))[0]
            for t in range(N_TARGETS)
        ]
        for layer in unit
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    with pytest.raises(ValueError, match=r"crossnobis.*jaxalign\.rdm"):
        Rsa(distance="crossnobis")


# Real data: human IT of four subjects against eight models of 92 objects.

EXPECTED = {
    "animacy": (0.3871, 0.3862),
    "FaceBodyManmadeNatobj": (0.2816, 0.2766),
    "monkeyIT": (0.3335, 0.2963),
    "EVA": (0.2591, 0.2454),
    "HMAX": (0.1521, 0.1599),
    "V1": (0.0250, 0.0265),
    "Silhouette": (0.1159, 0.0966),
    "RADON": (0.0365, 0.0381),
}
"""Mean over subjects of Pearson and Spearman, by rsatoolbox 0.3.2 in float64."""


@pytest.fixture(scope="module")
def objects92(data_folder):
    """RDMs of the models (8, n_pairs) in the order of EXPECTED, and of the subjects (4, n_pairs), sessions averaged."""
    from scipy.io import loadmat

    models = loadmat(data_folder / "objects92" / "92_modelRDMs.mat")["Models"].ravel()
    brains = loadmat(data_folder / "objects92" / "92_brainRDMs.mat")["RDMs"][0]
    upper = np.triu_indices(92, 1)
    named = {str(model["name"].item()): np.asarray(model["RDM"], np.float64)[upper] for model in models}
    subjects = [np.mean([np.asarray(rdm, np.float64)[upper] for rdm in one["RDM"]], axis=0) for one in brains]
    return np.stack([named[name] for name in EXPECTED]), np.stack(subjects)


@pytest.mark.parametrize(("comparator", "column"), [("pearson", 0), ("spearman", 1)])
def test_objects92_means_over_subjects(objects92, comparator, column):
    ours = run_rdms(METRICS[comparator], *objects92, np.float32, aggregates=np.full((4, 1), 0.25)).value[:, 0, -1]
    np.testing.assert_allclose(ours, [both[column] for both in EXPECTED.values()], atol=1e-4)


def test_objects92_spearman_equals_scipy(objects92):
    ours = run_rdms(METRICS["spearman"], *objects92, aggregates=np.full((4, 1), 0.25)).value[:, 0, :4]
    expected = [[scipy_stats.spearmanr(a, b).statistic for b in objects92[1]] for a in objects92[0]]
    np.testing.assert_allclose(ours, expected, atol=1e-9)


@pytest.mark.parametrize(("comparator", "low", "high"), [("pearson", 0.3944, 0.6804), ("spearman", 0.3723, 0.6657)])
def test_objects92_ceilings(objects92, comparator, low, high):
    ours = rdm_agreement.leave_one_subject_out(objects92[1], comparator)
    np.testing.assert_allclose([ours[0].mean(), ours[1].mean()], [low, high], atol=1e-4)


def test_objects92_animacy_beats_every_permutation(objects92):
    rows = labellings(92, 100, 0)
    weights = np.full((4, 1), 0.25)
    ours = run_rdms(METRICS["spearman"], objects92[0][:1], objects92[1], np.float32, rows, aggregates=weights)
    np.testing.assert_array_equal(ours.exceed_count[0, 0], 0)
