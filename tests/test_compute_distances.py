"""Dissimilarities and noise: equal to their definitions and to rsatoolbox, scipy, scikit-learn and mne-rsa; at any scale."""

from functools import cache

import jax
import numpy as np
import oracles_distances as oracles
import pytest
from scipy.linalg import fractional_matrix_power
from scipy.spatial.distance import pdist
from sklearn.metrics import nan_euclidean_distances

from jaxalign.compute import crossnobis as crossed
from jaxalign.compute import distances, noise

pytestmark = pytest.mark.usefixtures("strict")

N, WIDTH, PADDED = 13, 9, 12
N_PARTITIONS = 4
PATTERNED = ("correlation", "cosine", "euclidean", "sqeuclidean", "mahalanobis", "poisson")
SUMS = ("sqeuclidean", "mahalanobis", "poisson")

_compiled = {
    name: jax.jit(getattr(module, name), static_argnames=statics)
    for module, name, statics in (
        (distances, "dissimilarities", ("distance", "is_per_channel")),
        (crossed, "crossnobis", ("is_per_channel",)),
        (crossed, "poisson_cv", ("is_per_channel",)),
        (crossed, "partition_patterns", ("n_stimuli", "n_partitions")),
        (noise, "residuals", ("n_conditions",)),
        (noise, "noise_covariance", ("method", "dof")),
        (noise, "noise_precision", ("method", "dof")),
        (noise, "precision", ()),
        (noise, "whitening", ()),
    )
}


def call(name, *arrays, dtype=np.float64, **settings):
    def typed(x):
        return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    with jax.enable_x64(dtype == np.float64):
        out = _compiled[name](*map(typed, arrays), **{key: typed(x) for key, x in settings.items()})
        return jax.tree.map(np.asarray, out)


def rdm(values, distance, width=None, dtype=np.float64, **settings):
    width = np.int32(values.shape[1] if width is None else width)
    out = call("dissimilarities", values, width, distance=distance, dtype=dtype, **settings)
    assert out.dtype == dtype
    return out


@cache
def patterns():
    """Positive, so that they may be rates; units of very different strength."""
    rng = np.random.default_rng(5)
    return rng.gamma(2.0, 1.0, (N, WIDTH)) * np.linspace(0.3, 3, WIDTH)


@cache
def metric_of_noise():
    """A precision that is no multiple of the identity."""
    rng = np.random.default_rng(6)
    root = rng.standard_normal((WIDTH, WIDTH))
    return root @ root.T / WIDTH + np.eye(WIDTH)


def precision_of(distance):
    return {"precision": metric_of_noise()} if distance == "mahalanobis" else {}


def padded(values, filling=3.0):
    return np.pad(values, ((0, 0), (0, PADDED - WIDTH)), constant_values=filling)


@cache
def measured():
    """Repeated measurements: N_PARTITIONS partitions of N stimuli, one trial each, with a shift of each partition."""
    rng = np.random.default_rng(7)
    signal = rng.standard_normal((N, WIDTH))
    shift = rng.standard_normal((N_PARTITIONS, 1, WIDTH))
    return signal + shift + rng.standard_normal((N_PARTITIONS, N, WIDTH))


@cache
def present():
    """Unequal repetitions; the first two stimuli share one partition and the last two none."""
    is_present = np.random.default_rng(8).random((N_PARTITIONS, N)) < 0.75
    is_present[:, :2] = [[True, True], [True, False], [True, False], [False, True]]
    is_present[:, -2:] = [[True, False], [True, False], [False, True], [False, True]]
    return is_present


def dataset(trials, **labels):
    from rsatoolbox.data import Dataset

    # Names of two digits: rsatoolbox sorts them in one place, keeps their order in another, and writes NaN among them.
    return Dataset(trials, obs_descriptors={name: [f"{one:02d}" for one in label] for name, label in labels.items()})


# One pattern per stimulus.


@pytest.mark.parametrize("distance", PATTERNED)
def test_each_distance_equals_its_definition(distance):
    expected = oracles.rdm(patterns(), distance, metric_of_noise())
    np.testing.assert_allclose(rdm(patterns(), distance, **precision_of(distance)), expected, rtol=1e-10, atol=1e-12)
    ours = rdm(patterns(), distance, dtype=np.float32, **precision_of(distance))
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean", "sqeuclidean"])
def test_distances_equal_scipy(distance):
    np.testing.assert_allclose(rdm(patterns(), distance), pdist(patterns(), distance), rtol=1e-10)


def test_mahalanobis_is_the_square_of_that_of_scipy():
    theirs = pdist(patterns(), "mahalanobis", VI=metric_of_noise())
    np.testing.assert_allclose(rdm(patterns(), "mahalanobis", **precision_of("mahalanobis")), theirs**2, rtol=1e-10)


@pytest.mark.parametrize(
    ("distance", "method"),
    [("correlation",) * 2, ("sqeuclidean", "euclidean"), ("mahalanobis",) * 2, ("poisson",) * 2],
)
def test_distances_equal_rsatoolbox(distance, method):
    from rsatoolbox.rdm import calc_rdm

    theirs = calc_rdm(dataset(patterns()), method=method, noise=metric_of_noise()).dissimilarities[0]
    ours = rdm(patterns(), distance, is_per_channel=True, **precision_of(distance))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean", "sqeuclidean"])
def test_distances_equal_mne_rsa(distance):
    import mne_rsa

    np.testing.assert_allclose(rdm(patterns(), distance), mne_rsa.compute_rdm(patterns(), distance), rtol=1e-10)


def test_difference_is_that_of_a_single_channel():
    channel = patterns()[:, :1]
    np.testing.assert_array_equal(rdm(channel, "difference"), oracles.rdm(channel, "difference"))
    np.testing.assert_allclose(rdm(channel, "difference"), rdm(channel, "euclidean"), atol=1e-7)


@pytest.mark.parametrize("distance", PATTERNED)
@pytest.mark.parametrize("filling", [0.0, 3.0, np.nan])
def test_padded_columns_never_count(distance, filling):
    settings = precision_of(distance)
    bare = rdm(patterns(), distance, is_per_channel=True, **settings)
    if settings:
        settings["precision"] = np.pad(settings["precision"], (0, PADDED - WIDTH), constant_values=2.0)
    wide = padded(patterns(), filling)
    ours = rdm(wide, distance, WIDTH, is_per_channel=True, **settings)
    np.testing.assert_allclose(ours, bare, rtol=1e-12)
    if distance != "mahalanobis":
        masked = rdm(wide, distance, WIDTH, is_per_channel=True, is_unit=np.ones(wide.shape, bool))
        np.testing.assert_allclose(masked, bare, rtol=1e-10)


@pytest.mark.parametrize("distance", ["correlation", "poisson", "sqeuclidean"])
def test_a_wrong_width_would_be_noticed(distance):
    ours = rdm(padded(patterns()), distance, WIDTH + 1, is_per_channel=True)
    bare = rdm(patterns(), distance, is_per_channel=True)
    assert np.abs(ours / bare - 1).max() > 0.05


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean", "sqeuclidean", "mahalanobis"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_an_offset_of_one_unit_costs_no_digits_in_float32(distance, is_masked):
    """The reference is float64 of the values that float32 holds; plain products lose all digits here."""
    is_masked = is_masked and distance != "mahalanobis"  # which takes no mask
    values = patterns().copy()
    values[:, 4] += 5000
    values = values.astype(np.float32).astype(np.float64)
    mask = {"is_unit": np.ones(values.shape, bool)} if is_masked else {}
    ours = rdm(values, distance, dtype=np.float32, **precision_of(distance), **mask)
    expected = oracles.rdm(values, distance, metric_of_noise())
    assert np.abs(ours - expected).max() <= 2e-5 * expected.max()


@pytest.mark.parametrize("distance", PATTERNED)
def test_equal_patterns_are_exactly_0_apart_and_nothing_is_negative(distance):
    values = patterns() * 1e3
    values[-1] = values[0]
    ours = rdm(values, distance, dtype=np.float32, **precision_of(distance))
    assert ours[N - 2] == 0  # the pair of the first and the last
    assert (np.delete(ours, N - 2) > 0).all()


@pytest.mark.parametrize("distance", ["correlation", "cosine"])
def test_patterns_that_differ_in_length_alone_are_0_apart(distance):
    values = patterns().copy()
    values[2] = 7 * values[0]
    assert rdm(values, distance, dtype=np.float32)[1] == 0


@pytest.mark.parametrize("unit", [1e-15, 1e-6, 1e6])
@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean", "sqeuclidean"])
def test_the_unit_of_patterns_scales_what_it_should(distance, unit):
    power = {"euclidean": 1, "sqeuclidean": 2}.get(distance, 0)
    ours = rdm(patterns() * unit, distance, dtype=np.float32).astype(np.float64)
    np.testing.assert_allclose(ours / unit**power, rdm(patterns(), distance), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("distance", PATTERNED)
def test_a_bad_pattern_spoils_its_own_pairs_only(distance):
    values = patterns().copy()
    values[2, 3] = -0.2 if distance == "poisson" else np.nan
    ours = rdm(values, distance, **precision_of(distance))
    is_bad = oracles.over_pairs(N, lambda i, j: 2 in (i, j))
    np.testing.assert_array_equal(np.isnan(ours), is_bad)
    np.testing.assert_allclose(ours[~is_bad], rdm(patterns(), distance, **precision_of(distance))[~is_bad], rtol=1e-10)


@pytest.mark.parametrize(("distance", "value"), [("correlation", 2.7), ("cosine", 0.0)])
@pytest.mark.parametrize("is_masked", [False, True])
def test_a_pattern_without_a_direction_gives_nan(distance, value, is_masked):
    values = patterns().copy()
    values[2] = value
    mask = {"is_unit": np.ones(values.shape, bool)} if is_masked else {}
    ours = rdm(values, distance, dtype=np.float32, **mask)
    np.testing.assert_array_equal(np.isnan(ours), oracles.over_pairs(N, lambda i, j: 2 in (i, j)))


@pytest.mark.parametrize("distance", PATTERNED)
def test_sums_divide_by_the_number_of_channels_where_asked(distance):
    settings = precision_of(distance)
    share = {"euclidean": np.sqrt(WIDTH), **dict.fromkeys(SUMS, WIDTH)}.get(distance, 1)
    ours = rdm(patterns(), distance, is_per_channel=True, **settings)
    np.testing.assert_allclose(ours * share, rdm(patterns(), distance, **settings), rtol=1e-12)


# Missing units.


@cache
def gaps():
    """A third of all units is missing; the first two stimuli share one unit, the last two none."""
    is_unit = np.random.default_rng(9).random((N, WIDTH)) < 0.67
    is_unit[:2], is_unit[-2:] = False, False
    is_unit[0, :4], is_unit[1, 3:6], is_unit[-2, :4], is_unit[-1, 4:] = True, True, True, True
    return is_unit


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean", "sqeuclidean", "poisson"])
def test_a_pair_takes_the_units_that_both_stimuli_have(distance):
    values = np.where(gaps(), patterns(), np.nan)
    ours = rdm(values, distance, is_unit=gaps())
    expected = oracles.rdm_of_shared_units(patterns(), gaps(), distance, WIDTH)
    assert np.isnan(ours[-1]) and np.isnan(ours[0]) == (distance == "correlation")
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean"])
def test_a_huge_unit_that_one_stimulus_lacks_costs_its_pairs_no_digits(distance):
    values, is_unit = patterns().copy(), np.ones((N, WIDTH), bool)
    values[:, 4] += 5000
    is_unit[3, 4] = False
    values = values.astype(np.float32).astype(np.float64)
    is_its_own = oracles.over_pairs(N, lambda i, j: 3 in (i, j))
    ours = rdm(values, distance, is_unit=is_unit, dtype=np.float32)[is_its_own]
    expected = oracles.rdm_of_shared_units(values, is_unit, distance, WIDTH)[is_its_own]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean", "poisson"])
def test_equal_patterns_are_0_apart_over_the_units_that_both_have(distance):
    values, is_unit = patterns() * 1e3, gaps().copy()
    values[5], is_unit[4:6] = values[4], True
    is_unit[4, 0] = is_unit[5, 7] = False
    ours = rdm(values, distance, is_unit=is_unit, dtype=np.float32)
    assert ours[oracles.over_pairs(N, lambda i, j: (i, j) == (4, 5))] == 0
    assert not (ours < 0).any()


def test_missing_units_of_euclidean_equal_scikit_learn():
    values = np.where(gaps(), patterns(), np.nan)
    theirs = nan_euclidean_distances(values)[np.triu_indices(N, 1)]
    np.testing.assert_allclose(rdm(values, "euclidean", is_unit=gaps()), theirs, rtol=1e-10)


def test_a_missing_measurement_of_one_channel_gives_nan():
    is_unit = np.arange(N)[:, None] != 2
    ours = rdm(patterns()[:, :1], "difference", is_unit=is_unit)
    expected = oracles.rdm(patterns()[:, :1], "difference")
    np.testing.assert_array_equal(ours, np.where(oracles.over_pairs(N, lambda i, j: 2 in (i, j)), np.nan, expected))


# Names and refusals.


def test_names_of_other_packages_are_known():
    assert distances.distance_name("squared euclidean") == "sqeuclidean"
    assert distances.distance_name("crossnobis") == "crossnobis"
    assert set(distances.ALIASES.values()) <= set(distances.DISTANCES)
    assert not set(distances.ALIASES) & {*distances.DISTANCES, *distances.CROSS_VALIDATED}


@pytest.mark.parametrize(
    ("distance", "shape", "settings", "message"),
    [
        ("euclidian", (3, 2), {}, "'euclidian' is not a distance. Nearest: euclidean"),
        ("correlation", (3, 1), {}, "correlation of a single channel is undefined.*'difference'"),
        ("cosine", (3, 1), {}, "cosine of a single channel is undefined"),
        ("difference", (3, 2), {}, "single channel and values has 2"),
        ("crossnobis", (3, 2), {}, r"crossnobis takes several independent measurements"),
        ("cosine", (3, 2), {"is_unit": np.ones((3, 1), bool)}, r"is_unit has shape \(3, 1\) and values \(3, 2\)"),
        ("euclidean", (3, 2), {"precision": np.eye(2)}, "euclidean takes no precision"),
        ("mahalanobis", (3, 2), {"precision": np.eye(3)}, r"precision has shape \(3, 3\) and the patterns have 2"),
        (
            "mahalanobis",
            (3, 2),
            {"precision": np.eye(2), "is_unit": np.ones((3, 2), bool)},
            "mahalanobis with missing units is undefined",
        ),
    ],
)
def test_what_makes_no_distance_is_refused(distance, shape, settings, message):
    with pytest.raises(ValueError, match=message):
        distances.dissimilarities(np.zeros(shape), np.int32(shape[1]), distance, **settings)


# Cross-validated.


@pytest.mark.parametrize("is_masked", [False, True])
def test_crossnobis_equals_its_definition(is_masked):
    is_present = present() if is_masked else np.ones((N_PARTITIONS, N), bool)
    values = np.where(is_present[:, :, None], measured(), np.nan)
    expected = oracles.crossnobis(measured(), is_present, metric_of_noise())
    mask = is_present if is_masked else None
    ours = call("crossnobis", values, mask, metric_of_noise(), is_per_channel=False)
    assert np.isnan(ours[-1]) == is_masked and np.isnan(ours[0]) == is_masked
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    single = call("crossnobis", values, mask, metric_of_noise(), dtype=np.float32)
    np.testing.assert_allclose(single * WIDTH, expected, atol=1e-4)


def test_a_mask_of_all_partitions_changes_nothing():
    every = np.ones((N_PARTITIONS, N), bool)
    np.testing.assert_allclose(call("crossnobis", measured(), every), call("crossnobis", measured()), rtol=1e-10)


@cache
def trials():
    """Two trials of each stimulus in each partition, with their labels; partitions in random order."""
    rng = np.random.default_rng(10)
    stimulus, partition = (np.tile(label.ravel(), 2) for label in np.indices((N, N_PARTITIONS)))
    order = rng.permutation(len(stimulus))
    stimulus, partition = stimulus[order], partition[order]
    values = measured()[partition, stimulus] + rng.standard_normal((len(stimulus), WIDTH))
    order = np.argsort(stimulus, kind="stable")
    return values[order], stimulus[order].astype(np.int32), partition[order].astype(np.int32)


@pytest.mark.parametrize("uses_noise", [False, True])
def test_crossnobis_equals_rsatoolbox(uses_noise):
    from rsatoolbox.data.noise import prec_from_measurements
    from rsatoolbox.rdm import calc_rdm, calc_rdm_unbalanced

    values, stimulus, partition = trials()
    theirs = dataset(values, stimulus=stimulus, partition=partition)
    precision = prec_from_measurements(theirs, "stimulus") if uses_noise else None
    settings = {"method": "crossnobis", "descriptor": "stimulus", "cv_descriptor": "partition", "noise": precision}
    means, is_present = call("partition_patterns", *trials(), n_stimuli=N, n_partitions=N_PARTITIONS)
    assert is_present.all()
    for mask in (None, is_present):
        ours = call("crossnobis", means, mask, precision)
        np.testing.assert_allclose(ours, calc_rdm(theirs, **settings).dissimilarities[0], rtol=1e-9, atol=1e-12)
        unbalanced = calc_rdm_unbalanced(theirs, **settings).dissimilarities[0]
        np.testing.assert_allclose(ours, unbalanced, rtol=1e-9, atol=1e-12)


def test_a_shift_of_a_whole_partition_cancels_also_when_repetitions_are_unequal():
    """rsatoolbox's unbalanced estimate pairs trials of partitions that only one of the two stimuli has: it moves."""
    from rsatoolbox.rdm import calc_rdm_unbalanced

    shifted = measured() + np.arange(N_PARTITIONS)[:, None, None]
    ours = [call("crossnobis", values, present()) for values in (measured(), shifted)]
    np.testing.assert_allclose(*ours, atol=1e-12)
    stimulus, partition = np.nonzero(present().T)
    settings = {"method": "crossnobis", "descriptor": "stimulus", "cv_descriptor": "partition"}
    theirs = [
        calc_rdm_unbalanced(dataset(values[partition, stimulus], stimulus=stimulus, partition=partition), **settings)
        for values in (measured(), shifted)
    ]
    assert np.nanmax(np.abs(theirs[0].dissimilarities - theirs[1].dissimilarities)) > 0.1


def test_crossnobis_of_noise_is_0_on_average_and_as_often_negative():
    """28 pairs of 8 stimuli in each of 200 data sets, which are what is independent."""
    rng = np.random.default_rng(12)
    null = rng.standard_normal((200, 3, 8, 6))
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(jax.vmap(crossed.crossnobis))(null))
    sets = found.mean(1)
    assert abs(sets.mean()) <= 3 * sets.std() / np.sqrt(len(sets))
    assert 0.45 < (found < 0).mean() < 0.6
    assert rdm(null[0].mean(0), "mahalanobis", is_per_channel=True).mean() > 0.4


def test_crossnobis_of_real_differences_is_unbiased_where_mahalanobis_is_not():
    rng = np.random.default_rng(13)
    signal = np.zeros((2, 6))
    signal[1] = 0.5
    values = signal + rng.standard_normal((2000, 3, 2, 6))
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(jax.vmap(crossed.crossnobis))(values))
    assert abs(found.mean() - 0.25) <= 3 * found.std() / np.sqrt(len(found))


def test_an_offset_of_one_channel_costs_crossnobis_no_digits_in_float32():
    values = measured().copy()
    values[:, :, 4] += 5000
    values = values.astype(np.float32).astype(np.float64)
    expected = oracles.crossnobis(values, present(), metric_of_noise())
    ours = call("crossnobis", values, present(), metric_of_noise(), is_per_channel=False, dtype=np.float32)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-13, 1e6])
def test_the_unit_of_patterns_cancels_in_crossnobis(unit):
    ours = call("crossnobis", measured() * unit, None, metric_of_noise() / unit**2, dtype=np.float32)
    np.testing.assert_allclose(ours, call("crossnobis", measured(), None, metric_of_noise()), atol=2e-5)


@pytest.mark.parametrize("is_masked", [False, True])
def test_poisson_cv_equals_its_definition(is_masked):
    counts = np.random.default_rng(14).poisson(3.0, (N_PARTITIONS, N, WIDTH)).astype(np.float64)
    is_present = present() if is_masked else np.ones((N_PARTITIONS, N), bool)
    ours = call("poisson_cv", counts, is_present if is_masked else None, is_per_channel=False)
    np.testing.assert_allclose(ours, oracles.poisson_cv(counts, is_present), rtol=1e-10, atol=1e-12)


def test_partition_patterns_are_means_of_their_trials():
    values, stimulus, partition = (array.copy() for array in trials())
    stimulus[stimulus == 3] = -1  # a stimulus whose trials are left out
    means, is_present = call("partition_patterns", values, stimulus, partition, n_stimuli=N, n_partitions=N_PARTITIONS)
    assert (is_present == (np.arange(N) != 3)).all()
    for a, i in zip(*np.nonzero(is_present), strict=True):
        np.testing.assert_allclose(means[a, i], values[(stimulus == i) & (partition == a)].mean(0), rtol=1e-12)
    assert (means[:, 3] == 0).all()


def test_partitions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least 2 partitions and patterns has 1"):
        crossed.crossnobis(np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match=r"is_present has shape \(2, 4\) and patterns has 2 partitions of 3 stimuli"):
        crossed.poisson_cv(np.zeros((2, 3, 2)), np.ones((2, 4), bool))
    with pytest.raises(ValueError, match=r"precision has shape \(3, 3\) and the patterns have 2 channels"):
        crossed.crossnobis(np.zeros((2, 3, 2)), precision=np.eye(3))
    with pytest.raises(ValueError, match=r"5 trials have labels of shapes \(5,\) \(stimulus\) and \(4,\)"):
        crossed.partition_patterns(np.zeros((5, 2)), np.zeros(5, int), np.zeros(4, int), 3, 2)


# Noise.


@cache
def noisy():
    """Correlated residuals of 30 measurements; channels of different variance."""
    rng = np.random.default_rng(15)
    return rng.standard_normal((30, WIDTH)) @ rng.standard_normal((WIDTH, WIDTH)) * np.linspace(0.2, 2, WIDTH)


@pytest.mark.parametrize("method", noise.COVARIANCES)
def test_noise_covariance_equals_its_definition_and_rsatoolbox(method):
    from rsatoolbox.data.noise import cov_from_residuals, prec_from_residuals

    ours = call("noise_covariance", noisy(), method=method)
    np.testing.assert_allclose(ours, oracles.covariance(noisy(), method, 29), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours, cov_from_residuals(noisy(), method=method), rtol=1e-10, atol=1e-10)
    inverse = prec_from_residuals(noisy(), method=method)
    np.testing.assert_allclose(call("precision", ours), inverse, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", noise.COVARIANCES)
def test_noise_of_repeated_measurements_equals_rsatoolbox(method):
    """Its default degrees of freedom for balanced data are (n_conditions - 1) * n_repetitions."""
    from rsatoolbox.data.noise import cov_from_measurements, prec_from_measurements, prec_from_unbalanced

    values, stimulus, _ = trials()
    theirs = dataset(values, stimulus=stimulus)
    left = call("residuals", values, stimulus, n_conditions=N)
    assumed, true = (N - 1) * 2 * N_PARTITIONS, len(values) - N
    ours = {dof: call("noise_covariance", left, method=method, dof=dof) for dof in (assumed, true)}
    np.testing.assert_allclose(ours[true], oracles.covariance(left, method, true), rtol=1e-10, atol=1e-10)
    covariance = cov_from_measurements(theirs, "stimulus", method=method)
    np.testing.assert_allclose(ours[assumed], covariance, rtol=1e-10, atol=1e-10)
    for dof, inverse in ((assumed, prec_from_measurements), (true, prec_from_unbalanced)):
        expected = inverse(theirs, "stimulus", method=method)
        np.testing.assert_allclose(call("precision", ours[dof]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", noise.COVARIANCES)
def test_noise_in_float32_survives_small_units_and_offsets(method):
    values = (noisy() * 1e-13 + 1e-11).astype(np.float32).astype(np.float64)
    ours = call("noise_precision", values, method=method, dtype=np.float32)
    expected = np.linalg.inv(oracles.covariance(values, method, 29))
    assert np.abs(ours - expected).max() <= 2e-3 * np.abs(expected).max()


def test_a_single_channel_has_its_variance_under_every_method():
    for method in noise.COVARIANCES:
        ours = call("noise_covariance", noisy()[:, :1], method=method)
        np.testing.assert_allclose(ours, [[noisy()[:, 0].var(ddof=1)]], rtol=1e-12)


def test_whitening_is_the_inverse_root_and_whitened_patterns_have_mahalanobis_distances():
    covariance = call("noise_covariance", noisy(), method="shrinkage_diag")
    root = call("whitening", covariance)
    np.testing.assert_allclose(root, fractional_matrix_power(covariance, -0.5), rtol=1e-9, atol=1e-9)
    ours = rdm(patterns() @ root, "sqeuclidean")
    np.testing.assert_allclose(ours, rdm(patterns(), "mahalanobis", precision=call("precision", covariance)), rtol=1e-9)


def test_what_cannot_be_inverted_is_nan_or_refused():
    values = noisy().copy()
    values[:, 1] = 2 * values[:, 0]
    for dtype in (np.float64, np.float32):
        singular = call("noise_covariance", values, method="full", dtype=dtype)
        assert np.isnan(call("precision", singular, dtype=dtype)).all()
        assert np.isnan(call("whitening", singular, dtype=dtype)).all()
        assert np.isfinite(call("noise_precision", values, method="shrinkage_diag", dtype=dtype)).all()
        assert np.isnan(call("noise_precision", values, method="full", dtype=dtype)).all()
    with pytest.raises(ValueError, match="full covariance of 9 channels has no inverse with 8 degrees of freedom"):
        noise.noise_precision(values, "full", 8)
    with pytest.raises(ValueError, match="has no inverse with 8 degrees of freedom"):
        noise.noise_precision(values[:9], "full", 20)
    with pytest.raises(ValueError, match="9 channels"):
        noise.noise_precision(values[:9], "full")
    with pytest.raises(ValueError, match=r"method='shrinkage_dia'.*Nearest: shrinkage_diag"):
        noise.noise_covariance(values, "shrinkage_dia")
    with pytest.raises(ValueError, match="30 residuals with 0 degrees of freedom"):
        noise.noise_covariance(values, "diag", 0)
    with pytest.raises(ValueError, match=r"30 trials have condition labels of shape \(29,\)"):
        noise.residuals(values, np.zeros(29, int), 3)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_distances_and_noise_lower_for_accelerators(platform):
    def shaped(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    square, width = shaped(WIDTH, WIDTH), shaped(dtype=np.int32)
    mask = shaped(N_PARTITIONS, N, dtype=np.bool_)
    traced = [
        _compiled["dissimilarities"].trace(
            shaped(N, WIDTH), width, distance="correlation", is_unit=shaped(N, WIDTH, dtype=np.bool_)
        ),
        _compiled["dissimilarities"].trace(shaped(N, WIDTH), width, distance="mahalanobis", precision=square),
        _compiled["crossnobis"].trace(shaped(N_PARTITIONS, N, WIDTH), mask, square),
        _compiled["noise_precision"].trace(shaped(30, WIDTH)),
        _compiled["whitening"].trace(square),
    ]
    for one in traced:
        text = one.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo" in text and "f64" not in text
