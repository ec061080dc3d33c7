"""RDMs over time, channels, groups and searchlights equal one RDM at a time, rsatoolbox, mne-rsa, and the real numbers."""

import gzip
import struct
from functools import cache

import jax
import numpy as np
import oracles_distances as oracles
import pytest

from jaxalign.compute import movies

pytestmark = pytest.mark.usefixtures("strict")

N, N_CHANNELS, N_TIMES, N_PARTITIONS = 7, 5, 8, 3

_compiled = {
    name: jax.jit(getattr(movies, name), static_argnames=statics)
    for name, statics in {
        "bin_times": ("bins",),
        "rdm_movie": ("distance", "radius", "is_per_channel"),
        "searchlight_rdms": ("patches", "distance", "is_per_channel", "patches_per_chunk"),
        "crossnobis_movie": ("is_per_channel",),
        "generalisation_rdms": ("is_per_channel",),
    }.items()
}


def call(name, *arrays, dtype=np.float64, **settings):
    def typed(x):
        return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    with jax.enable_x64(dtype == np.float64):
        out = np.asarray(_compiled[name](*map(typed, arrays), **{key: typed(x) for key, x in settings.items()}))
    assert out.dtype == dtype
    return out


@cache
def values():
    return np.random.default_rng(1).standard_normal((N, N_CHANNELS, N_TIMES)) + np.arange(N_TIMES)


@cache
def measured():
    rng = np.random.default_rng(2)
    signal = rng.standard_normal((N, N_CHANNELS, N_TIMES))
    return signal + rng.standard_normal((N_PARTITIONS, N, N_CHANNELS, N_TIMES))


@cache
def metric_of_noise():
    root = np.random.default_rng(3).standard_normal((N_CHANNELS, N_CHANNELS))
    return root @ root.T + np.eye(N_CHANNELS)


@cache
def neighbours():
    """A chain of channels, without the diagonal."""
    return np.abs(np.subtract.outer(np.arange(N_CHANNELS), np.arange(N_CHANNELS))) == 1


def one_at_a_time(windows, distance="correlation"):
    """(n_pairs, n_windows) of a list of (n, ...) patterns."""
    return np.stack([oracles.rdm(window.reshape(len(window), -1), distance) for window in windows], axis=1)


# Over time.


@pytest.mark.parametrize(("distance", "radius"), [("correlation", 0), ("correlation", 2), ("euclidean", 1)])
def test_a_movie_is_one_rdm_per_window(distance, radius):
    windows = [values()[:, :, at - radius : at + radius + 1] for at in range(radius, N_TIMES - radius)]
    ours = call("rdm_movie", values(), distance=distance, radius=radius)
    np.testing.assert_allclose(ours, one_at_a_time(windows, distance), rtol=1e-10, atol=1e-12)


def test_bins_are_means_of_their_times_and_equal_rsatoolbox():
    from rsatoolbox.data import TemporalDataset
    from rsatoolbox.rdm import calc_rdm_movie

    bins = ((0, 1, 2), (3,), (5, 7))
    binned = call("bin_times", values(), bins=bins)
    np.testing.assert_allclose(binned, np.stack([values()[:, :, list(one)].mean(2) for one in bins], 2), rtol=1e-12)
    theirs = TemporalDataset(values(), time_descriptors={"time": np.arange(N_TIMES)})
    for distance, method in (("correlation", "correlation"), ("sqeuclidean", "euclidean")):
        expected = calc_rdm_movie(theirs, method=method, bins=[np.array(one) for one in bins]).dissimilarities.T
        ours = call("rdm_movie", binned, distance=distance, is_per_channel=True)
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("radius", [0, 2])
def test_movies_equal_mne_rsa(radius):
    import mne_rsa

    patches = mne_rsa.searchlight(values().shape, temporal_radius=radius)
    expected = np.stack(list(mne_rsa.rdm_array(values(), patches, dist_metric="correlation")), axis=1)
    np.testing.assert_allclose(call("rdm_movie", values(), radius=radius), expected, rtol=1e-9, atol=1e-12)


def test_mahalanobis_of_a_window_is_the_sum_over_its_times():
    ours = call("rdm_movie", values(), distance="mahalanobis", radius=1, precision=metric_of_noise())
    each = [oracles.rdm(values()[:, :, at], "mahalanobis", metric_of_noise()) for at in range(N_TIMES)]
    expected = np.stack([sum(each[at - 1 : at + 2]) for at in range(1, N_TIMES - 1)], axis=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_a_missing_measurement_leaves_its_windows_alone():
    """One channel of one stimulus at one time: other windows keep their values, its own take what is left."""
    is_unit = np.ones(values().shape, bool)
    is_unit[2, 3, 4] = False
    holed = np.where(is_unit, values(), np.nan)
    ours, whole = call("rdm_movie", holed, is_unit=is_unit), call("rdm_movie", values())
    others = np.arange(N_TIMES) != 4
    np.testing.assert_allclose(ours[:, others], whole[:, others], rtol=1e-10, atol=1e-12)
    expected = oracles.rdm_of_shared_units(values()[:, :, 4], is_unit[:, :, 4], "correlation", N_CHANNELS)
    np.testing.assert_allclose(ours[:, 4], expected, rtol=1e-10, atol=1e-12)


# Channels, groups, searchlights.


@pytest.mark.parametrize(("radius", "distance"), [(1, "correlation"), (0, "sqeuclidean"), (None, "cosine")])
def test_a_searchlight_is_one_rdm_per_patch(radius, distance):
    patches = movies.searchlight(neighbours(), N_TIMES, radius)
    windows = [
        values()[
            :, max(channel - 1, 0) : channel + 2, slice(None) if radius is None else slice(at - radius, at + radius + 1)
        ]
        for channel in range(N_CHANNELS)
        for at in ([0] if radius is None else range(radius, N_TIMES - radius))
    ]
    assert patches.shape == ((N_CHANNELS,) if radius is None else (N_CHANNELS, N_TIMES - 2 * radius))
    assert len(patches.index) == len(windows)
    ours = call("searchlight_rdms", values(), patches=patches, distance=distance, patches_per_chunk=4)
    np.testing.assert_allclose(ours, one_at_a_time(windows, distance), rtol=1e-10, atol=1e-12)


def test_searchlights_equal_mne_rsa():
    import mne_rsa

    steps = np.abs(np.subtract.outer(np.arange(N_CHANNELS), np.arange(N_CHANNELS)))
    theirs = mne_rsa.searchlight(values().shape, dist=steps, spatial_radius=1.5, temporal_radius=1)
    expected = np.stack(list(mne_rsa.rdm_array(values(), theirs, dist_metric="correlation")), axis=1)
    patches = movies.searchlight(neighbours(), N_TIMES, 1)
    assert patches.shape == theirs.shape
    np.testing.assert_allclose(call("searchlight_rdms", values(), patches=patches), expected, rtol=1e-9, atol=1e-12)


def test_single_channels_are_compared_by_their_difference():
    patches = movies.searchlight(np.eye(N_CHANNELS), N_TIMES, 0)
    ours = call("searchlight_rdms", values(), patches=patches, distance="difference")
    expected = np.abs(values()[:, None] - values()[None])[np.triu_indices(N, 1)]
    np.testing.assert_allclose(ours.reshape(-1, *patches.shape), expected, rtol=1e-12)


def test_groups_of_channels_make_their_own_rdms():
    members = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
    patches = movies.groups(members, N_TIMES, 1)
    ours = call("searchlight_rdms", values(), patches=patches, distance="euclidean", is_per_channel=True)
    windows = [values()[:, row, at - 1 : at + 2] for row in members for at in range(1, N_TIMES - 1)]
    sizes = np.repeat([6, 12], N_TIMES - 2)
    np.testing.assert_allclose(ours, one_at_a_time(windows, "euclidean") / np.sqrt(sizes), rtol=1e-10)


def test_missing_measurements_of_a_patch_leave_its_other_measurements():
    is_unit = np.random.default_rng(4).random(values().shape) < 0.8
    patches = movies.searchlight(neighbours(), N_TIMES, 1)
    ours = call("searchlight_rdms", values(), patches=patches, is_unit=is_unit, distance="correlation")
    flat, flat_is_unit = values().reshape(N, -1), is_unit.reshape(N, -1)
    for place in (0, 8, len(patches.index) - 1):
        index = patches.index[place, patches.is_member[place]]
        expected = oracles.rdm_of_shared_units(flat[:, index], flat_is_unit[:, index], "correlation", len(index))
        np.testing.assert_allclose(ours[:, place], expected, rtol=1e-10, atol=1e-12)


# Across partitions.


@pytest.mark.parametrize("is_masked", [False, True])
def test_temporal_generalisation_equals_its_definition(is_masked):
    is_present = np.ones((N_PARTITIONS, N), bool)
    is_present[0, 2] = is_present[1:, 5] = not is_masked
    mask = is_present if is_masked else None
    ours = call("generalisation_rdms", measured(), mask, metric_of_noise(), is_per_channel=False)
    for first, second in ((0, 0), (1, 4), (4, 1), (7, 6)):
        expected = oracles.crossnobis(
            measured()[..., first], is_present, metric_of_noise(), other=measured()[..., second]
        )
        np.testing.assert_allclose(ours[:, first, second], expected, rtol=1e-10, atol=1e-11)
    assert np.isnan(ours).any() == is_masked
    movie = call("crossnobis_movie", measured(), mask, metric_of_noise(), is_per_channel=False)
    np.testing.assert_allclose(np.diagonal(ours, axis1=1, axis2=2), movie, rtol=1e-10, atol=1e-11)


def test_a_precision_per_time_is_taken_at_its_time():
    scales = np.arange(1.0, N_TIMES + 1)
    ours = call("crossnobis_movie", measured(), None, scales[:, None, None] * metric_of_noise())
    np.testing.assert_allclose(ours, call("crossnobis_movie", measured(), None, metric_of_noise()) * scales, rtol=1e-9)


def test_a_pattern_that_turns_around_generalises_negatively():
    rng = np.random.default_rng(5)
    signal = rng.standard_normal((N, N_CHANNELS, 1)) * np.where(np.arange(N_TIMES) < 4, 1, -1)
    ours = call("generalisation_rdms", signal + 0.1 * rng.standard_normal(measured().shape)).mean(0)
    early = np.arange(N_TIMES) < 4
    np.testing.assert_array_equal(ours < 0, early[:, None] != early[None, :])


# Refusals and devices.


def test_what_makes_no_movie_is_refused():
    with pytest.raises(ValueError, match=r"radius=4 makes windows of 9 time points and the data have 8: .* 0 to 3"):
        movies.rdm_movie(values(), radius=4)
    with pytest.raises(ValueError, match=r"Bin 1 holds 2 time points, of which \[8\] are not among 0 to 7"):
        movies.bin_times(values(), ((0,), (1, 8)))
    with pytest.raises(ValueError, match="Bin 0 holds 0 time points"):
        movies.bin_times(values(), ((),))
    with pytest.raises(ValueError, match="Group 1 of 2 has no channel"):
        movies.groups(np.array([[1, 0], [0, 0]]), N_TIMES)
    with pytest.raises(ValueError, match=r"neighbours has shape \(2, 3\)"):
        movies.searchlight(np.ones((2, 3)), N_TIMES)
    single = movies.searchlight(np.eye(N_CHANNELS), N_TIMES, 0)
    with pytest.raises(
        ValueError, match=r"Patch 0 has a single measurement and correlation needs at least 2.*difference"
    ):
        movies.searchlight_rdms(values(), single)
    with pytest.raises(ValueError, match=r"patches are of 40 measurements .* values has 35 \(5 channels x 7 times\)"):
        movies.searchlight_rdms(values()[:, :, 1:], single, "difference")


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_movies_lower_for_accelerators(platform):
    movie = jax.ShapeDtypeStruct(values().shape, np.float32)
    repeated = jax.ShapeDtypeStruct(measured().shape, np.float32)
    mask = jax.ShapeDtypeStruct((N_PARTITIONS, N), np.bool_)
    traced = [
        _compiled["rdm_movie"].trace(movie, radius=1),
        _compiled["searchlight_rdms"].trace(movie, patches=movies.searchlight(neighbours(), N_TIMES, 1)),
        _compiled["generalisation_rdms"].trace(repeated, mask),
    ]
    for one in traced:
        text = one.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo" in text and "f64" not in text


# Haxby et al. 2001: one subject, half a slice.


def nifti(path):
    """The array of a NIfTI-1 file without scaling: sizes, type and offset are read from its header of 348 bytes."""
    raw = gzip.decompress(path.read_bytes())
    n_axes, *shape = struct.unpack_from("<8h", raw, 40)
    kind, offset = struct.unpack_from("<h", raw, 70)[0], int(struct.unpack_from("<f", raw, 108)[0])
    shape = shape[:n_axes]
    dtype = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4"}[kind]
    return np.frombuffer(raw, dtype, int(np.prod(shape)), offset or 352).reshape(shape, order="F")


def haxby(folder, is_scaled_first):
    """Mean pattern of each category in odd and in even runs, each run detrended. -> (8, 530) twice"""
    names, runs = np.loadtxt(folder / "attributes_literal.txt", dtype=str).T
    runs, volumes = runs.astype(int), nifti(folder / "bold.nii.gz")[nifti(folder / "mask.nii.gz") > 0]
    volumes = volumes.reshape(len(volumes), -1).T.astype(np.float64)
    for run in np.unique(runs):
        rows = runs == run
        trend = np.vander(np.linspace(-1, 1, rows.sum()), 3)
        left = volumes[rows] - trend @ np.linalg.lstsq(trend, volumes[rows], rcond=None)[0]
        volumes[rows] = left / (volumes[rows] if is_scaled_first else left).std(0)
    categories = sorted(set(names) - {"rest"})
    return [
        np.stack([volumes[(names == category) & (runs % 2 == part)].mean(0) for category in categories])
        for part in (1, 0)
    ]


@pytest.mark.parametrize(("is_scaled_first", "expected"), [(True, 0.5300), (False, 0.4403)])
def test_odd_and_even_runs_of_haxby_agree_as_known(data_folder, is_scaled_first, expected):
    parts = np.stack(haxby(data_folder / "haxby", is_scaled_first), axis=2)
    for dtype, atol in ((np.float64, 5e-5), (np.float32, 6e-5)):
        odd, even = call("rdm_movie", parts, dtype=dtype).T
        assert abs(np.corrcoef(odd, even)[0, 1] - expected) <= atol


def test_categories_of_haxby_are_identified_as_known(data_folder):
    """The pattern of one half that is nearest, by correlation distance, to that of the other half."""
    odd, even = haxby(data_folder / "haxby", True)
    both = np.concatenate([odd, even])[:, :, None]
    distances = np.zeros((16, 16))
    distances[np.triu_indices(16, 1)] = call("rdm_movie", both)[:, 0]
    between = distances[:8, 8:]
    assert np.mean(between.argmin(1) == np.arange(8)) == 0.875
    assert np.mean(between.argmin(0) == np.arange(8)) == 0.75
