"""Every step gives what MNE, SciPy or a slow definition gives on the same data; its order, limits and losses are told."""

from dataclasses import replace

import mne
import numpy as np
import pytest
import writers_eeg as writers
from scipy import signal

from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.array_steps import Average, Mvnn, SlidingWindows, TimeBins, ZScore
from jaxalign.sources.steps import STEPS, carried_out, parsed
from jaxalign.sources.trials import Trials, Wanted, Work, joined, picked, recording_of, with_test

ONSETS = np.arange(1.0, 18.0, 0.75)
BAD = [{"name": "bad_channels", "names": ["Cz", "O1"]}]
EPOCH = {"name": "epoch", "tmin_s": -0.2, "tmax_s": 0.5}


def work(n_stimuli=6, raw=None, **want):
    """A recording of 20 s with 23 events of 6 stimuli."""
    ids = [f"s{index % n_stimuli}" for index in range(len(ONSETS))]
    events = {
        "stimulus_id": np.asarray(ids, dtype=object),
        "onset_s": ONSETS,
        "run": np.full(len(ids), "1", dtype=object),
    }
    return Work(raw or writers.raw_array(), events, "here", Wanted("set", "01", **want))


def after(steps, start=None):
    """MNE data after some steps."""
    for step in parsed(steps):
        start = step(start or work())
    return start


def mne_epochs(raw, **options):
    samples = np.round(ONSETS * raw.info["sfreq"]).astype(int)
    events = np.stack([samples, np.zeros_like(samples), np.arange(1, len(samples) + 1)], 1)
    return mne.Epochs(raw, events, tmin=-0.2, tmax=0.5, baseline=None, preload=True, verbose="error", **options)


def marked(raw):
    raw.info["bads"] = ["Cz", "O1"]
    return raw


# Equal to MNE.

OF_RAW = {
    "band pass": ([{"name": "filter", "low_hz": 1, "high_hz": 40}], lambda raw: raw.filter(1, 40)),
    "high pass": ([{"name": "filter", "low_hz": 0.5}], lambda raw: raw.filter(0.5, None)),
    "minimum phase": (
        [{"name": "filter", "high_hz": 30, "phase": "minimum"}],
        lambda raw: raw.filter(None, 30, phase="minimum"),
    ),
    "notch": ([{"name": "notch", "hz": 30, "harmonics": 3}], lambda raw: raw.notch_filter([30, 60, 90])),
    "average reference": ([{"name": "reference"}], lambda raw: raw.set_eeg_reference("average")),
    "reference without bads": (
        [*BAD, {"name": "reference"}],
        lambda raw: marked(raw).set_eeg_reference("average"),
    ),
    "two references": (
        [{"name": "reference", "channels": ["P3", "P4"]}],
        lambda raw: raw.set_eeg_reference(["P3", "P4"]),
    ),
    "splines": ([*BAD, {"name": "interpolate"}], lambda raw: marked(raw).interpolate_bads()),
    "resampled": ([{"name": "resample", "hz": 100}], lambda raw: raw.resample(100)),
    "polyphase": ([{"name": "resample", "hz": 50, "method": "polyphase"}], lambda raw: raw.resample(50, method="polyphase")),
    "dropped": ([*BAD, {"name": "drop_channels", "names": ["Fz"], "bads": True}], lambda raw: raw.drop_channels(["Fz", "Cz", "O1"])),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_RAW)
def test_steps_over_raw_equal_those_of_mne(name):
    steps, theirs = OF_RAW[name]
    start = work()
    before = start.data.get_data().copy()
    ours = after(steps, start).data
    with mne.use_log_level("error"):
        expected = theirs(writers.raw_array())
    assert ours.ch_names == expected.ch_names and ours.info["bads"] == expected.info["bads"]
    np.testing.assert_array_equal(ours.get_data(), expected.get_data())
    np.testing.assert_array_equal(start.data.get_data(), before, err_msg="a step changes only its copy")


OF_EPOCHS = {
    "epochs": ([], lambda epochs: epochs),
    "baseline": ([{"name": "baseline"}], lambda epochs: epochs.apply_baseline((None, 0))),
    "late baseline": ([{"name": "baseline", "tmin_s": 0.1, "tmax_s": 0.2}], lambda epochs: epochs.apply_baseline((0.1, 0.2))),
    "resampled": ([{"name": "resample", "hz": 100}], lambda epochs: epochs.resample(100)),
    "cropped": ([{"name": "crop", "tmin_s": 0, "tmax_s": 0.3}], lambda epochs: epochs.crop(0, 0.3)),
    "rejected": ([{"name": "reject", "eeg_v": 1.25e-4}], lambda epochs: epochs.drop_bad({"eeg": 1.25e-4})),
    "filtered": ([{"name": "filter", "high_hz": 30}], lambda epochs: epochs.filter(None, 30)),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_EPOCHS)
def test_steps_over_epochs_equal_those_of_mne(name):
    steps, theirs = OF_EPOCHS[name]
    ours = after([EPOCH, *steps])
    with mne.use_log_level("error"):
        expected = theirs(mne_epochs(writers.raw_array()))
    np.testing.assert_array_equal(ours.data.get_data(copy=False), expected.get_data(copy=False))
    np.testing.assert_array_equal(ours.data.times, expected.times)
    left = expected.selection
    assert ours.events["stimulus_id"].tolist() == [f"s{index % 6}" for index in left]
    assert len(ours.dropped) == len(ONSETS) - len(left) and (name != "rejected" or 0 < len(left) < len(ONSETS))


def test_a_montage_gives_the_positions_of_mne():
    raw = mne.io.RawArray(np.zeros((3, 100)), mne.create_info(["A1", "B7", "D32"], 100.0, "eeg"), verbose="error")
    ours = after([{"name": "montage", "montage": "biosemi128"}], work(raw=raw)).data
    expected = raw.copy().set_montage("biosemi128")
    for one, other in zip(ours.info["chs"], expected.info["chs"], strict=True):
        np.testing.assert_array_equal(one["loc"], other["loc"])


# As published.


def test_butterworth_forward_and_backward_is_that_of_scipy():
    raw = writers.raw_array(12000)
    step = {"name": "filter", "low_hz": 0.5, "high_hz": 40, "method": "iir", "order": 4}
    ours = after([step], work(raw=raw)).data.get_data()
    sos = signal.butter(4, [0.5, 40], "bandpass", fs=200, output="sos")
    expected = signal.sosfiltfilt(sos, raw.get_data())
    middle = slice(5000, 7000)  # MNE and SciPy continue the ends in different ways
    np.testing.assert_allclose(ours[:, middle], expected[:, middle], atol=1e-9 * np.abs(expected).max())


def test_iirnotch_is_that_of_scipy():
    ours = after([{"name": "notch", "hz": 50, "method": "iirnotch", "q": 30}]).data.get_data()
    expected = signal.filtfilt(*signal.iirnotch(50, 30, 200), writers.raw_array().get_data())
    np.testing.assert_array_equal(ours, expected)
    power = np.abs(np.fft.rfft(ours[:, 500:3500]))[:, 750]
    assert (power < 0.05 * np.abs(np.fft.rfft(writers.raw_array().get_data()[:, 500:3500]))[:, 750]).all()


def test_centre_takes_the_mean_away():
    raw = writers.raw_array()
    raw._data += np.arange(12)[:, None]
    ours = after([{"name": "centre"}], work(raw=raw)).data.get_data()
    np.testing.assert_array_equal(ours, raw.get_data() - raw.get_data().mean(1, keepdims=True))


def test_planted_bad_channels_are_found_with_their_reason():
    raw = writers.raw_array()
    rng = np.random.default_rng(5)
    raw._data[2] = 1e-14 * rng.standard_normal(4000)
    raw._data[5] *= 40
    raw._data[9] = 2.4e-5 * rng.standard_normal(4000)
    found = after(
        [{"name": "bad_channels", "flat": 1e-12, "spread_z": 3, "correlation": 0.2, "names": ["Fp1"]}], work(raw=raw)
    )
    assert found.data.info["bads"] == ["Fp1", "F3", "Cz", "P4"]
    (note,) = found.notes
    assert "4 of 12 channels marked bad" in note and "F3 (flat" in note and "P4 (|r| with the mean" in note
    assert "Cz (SD" in note and "Fp1 (as named)" in note
    alone = after([{"name": "bad_channels", "names": ["Fz"]}], work(raw=raw))
    assert alone.data.info["bads"] == ["Fz"], "nothing is looked for that is not asked for"


def test_interpolation_by_distance_is_its_definition():
    ours = after([*BAD, {"name": "interpolate", "method": "distance"}]).data
    raw = writers.raw_array()
    places = np.array([one["loc"][:3] for one in raw.info["chs"]])
    good = [index for index, name in enumerate(raw.ch_names) if name not in ("Cz", "O1")]
    for bad in (raw.ch_names.index("Cz"), raw.ch_names.index("O1")):
        weights = 1 / (np.linalg.norm(places[good] - places[bad], axis=1) + 1e-6)
        np.testing.assert_allclose(
            ours.get_data()[bad], weights @ raw.get_data()[good] / weights.sum(), rtol=1e-9, atol=1e-18
        )
    assert not ours.info["bads"]
    of_epochs = after([EPOCH, *BAD, {"name": "interpolate", "method": "distance"}]).data
    np.testing.assert_allclose(of_epochs.get_data(), mne_epochs(ours).get_data(), rtol=1e-9, atol=1e-18)


# Notes.


@pytest.mark.parametrize(("phase", "is_noted"), [("zero", True), ("zero-double", True), ("minimum", False)])
def test_zero_phase_filters_are_noted(phase, is_noted):
    notes = after([{"name": "filter", "low_hz": 1, "high_hz": 40, "phase": phase}]).notes
    assert bool(notes) == is_noted
    if phase == "zero":
        assert notes == ("zero-phase fir filter 1 to 40 Hz: a response spreads up to 1.65 s before and after it, so onsets are blurred and may seem early",)  # fmt: skip


def test_the_stated_reach_of_a_filter_is_where_an_impulse_ends():
    raw = writers.raw_array()
    raw._data[:] = 0
    raw._data[:, 2000] = 1
    ours = after([{"name": "filter", "low_hz": 1, "high_hz": 40}], work(raw=raw)).data.get_data()[0]
    reached = np.flatnonzero(np.abs(ours) > 1e-15)
    assert (2000 - reached.min()) / 200 == pytest.approx(
        1.65, abs=0.01
    ) and reached.max() - 2000 == 2000 - reached.min()


def test_the_notch_says_whose_mains_it_takes():
    raw = writers.raw_array()
    with pytest.raises(ConfigError, match="states no mains frequency"):
        after([{"name": "notch"}], work(raw=raw))
    with raw.info._unlock():
        raw.info["line_freq"] = 60.0
    assert after([{"name": "notch"}], work(raw=raw)).notes == ("notch at 60 Hz, the mains frequency of the recording",)
    noted = after([{"name": "notch", "hz": 50}], work(raw=raw)).notes
    assert noted == ("notch at 50 Hz, although the mains frequency of the recording is 60 Hz",)


# Losses.


def test_trials_used_and_dropped_are_counted_per_stimulus_with_their_reason():
    start = work()
    raw = start.data
    raw.set_annotations(mne.Annotations([2.4], [0.3], ["BAD jump"]))
    onsets = start.events["onset_s"].copy()
    onsets[-1] = 19.9
    start = Work(raw, {**start.events, "onset_s": onsets}, "here", start.want)
    one = recording_of(carried_out([start], [EPOCH, {"name": "average"}], "here"), start.want, {"notes": ["given"]})
    assert one.origin["trials"] == {
        "used": 21, "dropped": 2, "stimuli_without_a_trial": [],
        "reasons": {"annotated BAD jump": 1, "beyond the ends of the recording": 1},
    }  # fmt: skip
    assert one.stimulus_ids == tuple(f"s{index}" for index in range(6))
    assert one.columns["n_trials_used"].tolist() == [4, 4, 3, 4, 3, 3] and one.n_repetitions.tolist() == [
        4,
        4,
        3,
        4,
        3,
        3,
    ]
    assert one.columns["n_trials_dropped"].tolist() == [0, 0, 1, 0, 1, 0]
    assert one.origin["notes"] == [
        "given",
        "2 of 23 trials were dropped: 1 annotated BAD jump, 1 beyond the ends of the recording",
    ]
    assert "onset_s" not in one.columns and set(one.columns["run"]) == {"1"}


def test_an_event_beyond_the_end_is_no_event_of_this_recording():
    start = work()
    late = Work(start.data, {**start.events, "onset_s": ONSETS + 5}, "here", start.want)
    with pytest.raises(
        DataError,
        match=r"5 of 23 events are outside the recording of 20\.000 s, first event 19 at 19\.5|first event 20 at 20\.250",
    ):
        after([EPOCH], late)


def test_nothing_left_is_explained():
    with pytest.raises(DataError, match="the limits of the step reject drop all 23 trials"):
        after([EPOCH, {"name": "reject", "eeg_v": 1e-9}])
    with pytest.raises(DataError, match=r"none of 23 events has a whole epoch from -50 to 60 s: 23 beyond the ends"):
        after([{"name": "epoch", "tmin_s": -50, "tmax_s": 60}])


def test_two_events_at_one_sample_are_not_counted_twice():
    start = work()
    onsets = ONSETS.copy()
    onsets[4] = onsets[3]
    twice = after([EPOCH], Work(start.data, {**start.events, "onset_s": onsets}, "here", start.want))
    assert twice.dropped == (("s4", "two events at one sample"),) and len(twice.data) == 22


# Steps over trials.


def trials(n_stimuli=5, n_repetitions=4, n_channels=6, n_times=20, seed=0, n_runs=2):
    rng = np.random.default_rng(seed)
    n = n_stimuli * n_repetitions
    mixing = rng.standard_normal((n_channels, n_channels))
    noise = np.einsum("ntc,cd->ndt", rng.standard_normal((n, n_times, n_channels)), mixing)
    ids = np.asarray([f"s{index % n_stimuli}" for index in range(n)], dtype=object)
    values = noise + np.repeat(rng.standard_normal((1, n_channels, 1)) * 5, n, 0)
    return Trials(
        values=(values * 1e-5).astype(np.float32), ids=ids, channels=tuple(map(str, range(n_channels))),
        positions=np.full((n_channels, 3), np.nan), starts_s=np.round(-0.1 + np.arange(n_times) / 100, 9),
        stops_s=np.round(-0.09 + np.arange(n_times) / 100, 9), sfreq_hz=100.0, unit="V",
        columns={"run": np.asarray([str(index % n_runs) for index in range(n)], dtype=object), "trial": np.arange(n)},
        is_test=np.zeros(n, bool), n_repetitions=np.ones(n, np.int32),
    )  # fmt: skip


def test_time_bins_and_sliding_windows_are_means_of_their_samples():
    given = trials()
    bins = TimeBins(0.05)(given, "here")
    np.testing.assert_allclose(bins.values, given.values.reshape(20, 6, 4, 5).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(bins.starts_s, [-0.1, -0.05, 0, 0.05], atol=1e-9)
    slid = SlidingWindows(0.06, 0.04)(given, "here")
    expected = [given.values[:, :, first : first + 6].mean(-1) for first in (0, 4, 8, 12)]
    np.testing.assert_allclose(slid.values, np.stack(expected, -1), rtol=1e-5, atol=1e-11)
    np.testing.assert_allclose(slid.starts_s, [-0.1, -0.06, -0.02, 0.02], atol=1e-9)
    np.testing.assert_allclose(slid.stops_s - slid.starts_s, 0.06, atol=1e-9)
    assert bins.unit == slid.unit == "V"
    with pytest.raises(ConfigError, match=r"averaged over 0\.05 s already"):
        SlidingWindows(0.06, 0.04)(bins, "here")
    with pytest.raises(ConfigError, match=r"width_s=0\.055, which holds 5\.500 samples at 100 Hz"):
        SlidingWindows(0.055)(given, "here")


@pytest.mark.parametrize(("over", "axes"), [("trials", 0), ("trials_and_times", (0, 2))])
def test_z_scores(over, axes):
    given = trials()
    values = given.values.astype(np.float64)
    np.testing.assert_allclose(
        ZScore(over)(given, "here").values,
        (values - values.mean(axes, keepdims=True)) / values.std(axes, keepdims=True),
        atol=2e-5,
    )
    of_runs = ZScore(over, "run")(given, "here").values
    for run in (0, 1):
        np.testing.assert_allclose(of_runs[run::2].mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(of_runs[run::2].std(axes), 1, atol=1e-5)
    assert ZScore()(given, "here").unit == "SD"
    given.values[:, 3] = 0
    with pytest.raises(DataError, match=r"1 of 6 channels do not vary over the 20 trials of zscore, first 3"):
        ZScore()(given, "here")


@pytest.mark.parametrize("within", ["recording", "run"])
def test_the_test_set_takes_no_part_in_z_scores(within):
    given = trials()
    is_test = np.arange(len(given.ids)) >= 14
    given = replace(given, is_test=is_test)
    loud = replace(given, values=np.where(is_test[:, None, None], 9 * given.values + 3, given.values))
    ours, theirs = (ZScore(within=within)(one, "here") for one in (given, loud))
    np.testing.assert_array_equal(ours.values[~is_test], theirs.values[~is_test])
    if within == "recording":
        np.testing.assert_allclose(ours.values[~is_test].std(0), 1, atol=1e-5)
    assert "z-scored by training trials" in ours.notes
    published = ZScore(within=within, as_published=True)(loud, "here")
    assert not np.allclose(published.values[~is_test], theirs.values[~is_test])
    with pytest.raises(DataError, match="0 of 20 trials are outside the test set"):
        ZScore()(replace(given, is_test=np.ones(20, bool)), "here")


def residual(given):
    values = given.values.astype(np.float64)
    for name in set(given.ids.tolist()):
        values[given.ids == name] -= values[given.ids == name].mean(0)
    return values


def test_mvnn_whitens_with_the_noise_covariance_of_mne():
    """MNE's empirical covariance of the residuals has n_trials in its denominator; ours has the degrees of freedom."""
    given = trials(n_repetitions=8)
    noise = residual(given)
    epochs = mne.EpochsArray(noise, mne.create_info(6, 100.0, "eeg"), verbose="error")
    theirs = mne.compute_covariance(epochs, method="empirical", keep_sample_mean=True, verbose="error").data
    scale = theirs / (np.einsum("nct,ndt->cd", noise, noise) / (40 * 20))
    covariance = theirs / scale.mean() * 40 / (40 - 5)
    np.testing.assert_allclose(scale, scale.mean(), rtol=1e-6)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root = vectors / np.sqrt(eigenvalues) @ vectors.T
    ours = Mvnn("full")(given, "here")
    np.testing.assert_allclose(ours.values, np.einsum("nct,cd->ndt", given.values, root), rtol=1e-3, atol=1e-4)
    after_it = residual(ours)
    np.testing.assert_allclose(np.einsum("nct,ndt->cd", after_it, after_it) / (35 * 20), np.eye(6), atol=1e-4)
    assert ours.unit == "noise SD"


def test_mvnn_with_shrinkage_is_the_mean_over_times_of_shrunk_covariances():
    from sklearn.covariance import ledoit_wolf

    given = trials(n_repetitions=8)
    noise = residual(given) * 1e5
    shrunk = np.mean([ledoit_wolf(noise[:, :, time])[0] * 40 / 35 for time in range(20)], axis=0)
    eigenvalues, vectors = np.linalg.eigh(shrunk)
    root = vectors / np.sqrt(eigenvalues) @ vectors.T * 1e5
    np.testing.assert_allclose(
        Mvnn()(given, "here").values, np.einsum("nct,cd->ndt", given.values, root), rtol=1e-3, atol=1e-4
    )


def test_mvnn_takes_training_trials_the_window_and_runs_that_are_asked():
    given = trials(n_repetitions=8)
    marked = with_test(given, Wanted(test_stimuli=("s4",)), "here")
    changed = given.values.copy()
    changed[given.ids == "s4"] *= 7
    changed[:, :, 10:] *= 3
    other = Trials(**{**vars(marked), "values": changed})
    window = Mvnn(tmin_s=-0.1, tmax_s=0.0)
    train = given.ids != "s4"
    np.testing.assert_allclose(
        window(marked, "here").values[train][:, :, :10],
        window(other, "here").values[train][:, :, :10],
        rtol=1e-4,
        atol=1e-5,
    )
    of_runs = Mvnn(within="run")(given, "here").values
    alone = Mvnn()(
        Trials(
            **{
                **vars(given),
                **{name: getattr(given, name)[::2] for name in ("values", "ids", "is_test", "n_repetitions")},
                "columns": {},
            }
        ),
        "here",
    )
    np.testing.assert_allclose(of_runs[::2], alone.values, rtol=1e-4, atol=1e-5)


def test_mvnn_needs_repetitions_and_rank():
    with pytest.raises(DataError, match="20 stimuli have 20 trials, so no stimulus is repeated"):
        Mvnn()(trials(20, 1), "here")
    flat = trials()
    flat.values[:, 1] = flat.values[:, 0]
    with pytest.raises(DataError, match="6 channels from 20 trials is singular"):
        Mvnn("full")(flat, "here")
    assert np.isfinite(Mvnn()(flat, "here").values).all(), "shrinkage gives it rank"
    with pytest.raises(ConfigError, match="comes after average"):
        Mvnn()(Average()(trials(), "here"), "here")


def test_averages_are_means_of_their_trials():
    given = trials()
    ours = Average(keep_trials=True)(given, "here")
    for row, name in enumerate(ours.ids):
        np.testing.assert_allclose(
            ours.values[row], given.values[given.ids == name].astype(float).mean(0), rtol=1e-5, atol=1e-12
        )
        np.testing.assert_array_equal(ours.kept[row], given.values[given.ids == name])
    assert ours.n_repetitions.tolist() == [4] * 5 and set(ours.columns) == set(), (
        "runs and trials differ within a stimulus"
    )
    two = Average(max_repetitions=2)(given, "here")
    np.testing.assert_allclose(two.values[0], given.values[[0, 5]].mean(0), rtol=1e-5, atol=1e-12)
    assert len(two.dropped) == 10 and two.dropped[0][1] == "beyond max_repetitions"


def test_single_trials_of_the_test_set_are_kept_in_the_order_of_the_rows():
    want = Wanted("set", "01", test_stimuli=("s3", "s1"), stimuli=("s3", "s0", "s1", "s2"), tmin_s=0.0)
    given = with_test(trials(), want, "here")
    averaged = Average(keep_trials=True)(given, "here")
    one = recording_of(averaged, want, {})
    assert one.is_test.tolist() == [True, False, True, False] and one.trials.shape == (2, 4, 6, 10)
    np.testing.assert_allclose(one.trials.mean(1), one.values[one.is_test], rtol=1e-4, atol=1e-11)


def test_a_stimulus_shown_once_where_repetitions_are_needed():
    given = trials()
    given.ids[4] = "once"
    with pytest.raises(DataError, match=r"1 of 6 stimuli have fewer than 2 trials, first 'once' with 1\. Lower"):
        Average(min_repetitions=2)(given, "here")
    less = Average(min_repetitions=2, short="drop")(given, "here")
    assert "once" not in less.ids and less.dropped == (("once", "of stimuli with fewer than 2 trials"),)
    one = recording_of(less, Wanted("set", "01"), {})
    assert one.origin["trials"]["stimuli_without_a_trial"] == ["once"]
    with pytest.raises(
        DataError, match=r"1 of 1 stimuli have no trial left, first 'once'\. Its trials were dropped: 1 of stimuli"
    ):
        recording_of(less, Wanted("set", "01", stimuli=("once",)), {})


# Selections.


def test_stimuli_are_in_the_order_of_the_list_or_the_file_else_sorted(tmp_path):
    given = Average()(trials(), "here")
    (tmp_path / "s.csv").write_text("stimulus_id,word\ns4,a\ns0,b\ns3,c\ns1,d\n")
    for want, ids in (
        (Wanted("set", "01", stimuli=("s3", "s0", "s2", "s1")), ("s3", "s0", "s2", "s1")),
        (Wanted("set", "01", stimuli_file=str(tmp_path / "s.csv")), ("s4", "s0", "s3", "s1")),
        (Wanted("set", "01"), ("s0", "s1", "s2", "s3", "s4")),
    ):
        one = recording_of(given, want, {})
        assert one.stimulus_ids == ids
        np.testing.assert_array_equal(one.values, given.values[[int(name[1]) for name in ids]])
    with pytest.raises(DataError, match=r"1 of 2 stimuli have no trial left, first 's9'\. Nearest"):
        recording_of(given, Wanted("set", "01", stimuli=("s0", "s9")), {})
    with pytest.raises(ConfigError, match="names 1 of 1 ids twice, first 's0'"):
        recording_of(given, Wanted("set", "01", stimuli=("s0", "s0")), {})
    with pytest.raises(ConfigError, match="are both given"):
        recording_of(given, Wanted("set", "01", stimuli=("s0",), stimuli_file="s.csv"), {})


def test_stimuli_that_are_not_asked_for_do_not_enter_z_scores():
    start = work(stimuli=("s0", "s1", "s2", "s3"))
    ours = carried_out([start], [EPOCH, {"name": "zscore"}], "here")
    assert set(ours.ids) == {"s0", "s1", "s2", "s3"}
    np.testing.assert_allclose(ours.values.mean(0), 0, atol=1e-5)


def test_channels_and_times_are_those_asked_for():
    start = work(channels=("Pz", "Fz"), tmin_s=0.0, tmax_s=0.1)
    one = recording_of(carried_out([start], [EPOCH, {"name": "average"}], "here"), start.want, {})
    assert one.channels == ("Pz", "Fz") and one.starts_s[0] == 0 and len(one.starts_s) == 20
    epochs = mne_epochs(writers.raw_array())
    expected = epochs[::6].get_data(picks=["Pz", "Fz"]).mean(0)[:, 40:60]
    np.testing.assert_allclose(one.values[0], expected, rtol=1e-4, atol=1e-11)
    with pytest.raises(DataError, match=r"1 of 1 channels .* first 'PZ'\. Nearest: Pz"):
        picked(start.data, Wanted(channels=("PZ",)), "here")
    with pytest.raises(ConfigError, match=r"no time bin starts in \[3, 4\) s"):
        recording_of(Average()(trials(), "here"), Wanted("set", "01", tmin_s=3.0, tmax_s=4.0), {})


def test_a_repeated_stimulus_without_average_is_refused():
    start = work()
    with pytest.raises(
        DataError, match=r"6 of 6 stimuli were shown more than once, first 's0' \(4 times\)\. Add the step average"
    ):
        recording_of(carried_out([start], [EPOCH], "here"), start.want, {})


def test_the_test_set_is_named_by_id_or_by_column():
    given = trials()
    assert with_test(given, Wanted(test_stimuli=("s1",)), "x").is_test.sum() == 4
    split = np.asarray(["test" if name == "s2" else "train" for name in given.ids], dtype=object)
    by_column = Trials(**{**vars(given), "columns": {"split": split}})
    assert with_test(by_column, Wanted(test_column="split"), "x").is_test.sum() == 4
    with pytest.raises(DataError, match=r"1 of 1 test stimuli were not shown, first 's7'"):
        with_test(given, Wanted(test_stimuli=("s7",)), "x")
    split[0] = "test"
    with pytest.raises(DataError, match="1 stimuli have trials in the test set and outside it, first 's0'"):
        with_test(by_column, Wanted(test_column="split"), "x")


# Runs.


def test_runs_are_joined_and_must_agree():
    first, second = work(), work(raw=writers.raw_array(seed=3))
    ours = carried_out([first, second], [EPOCH, {"name": "average"}], "here")
    assert ours.n_repetitions.tolist() == [8, 8, 8, 8, 8, 6]
    both = np.concatenate([mne_epochs(writers.raw_array(seed=seed))[::6].get_data() for seed in (0, 3)])
    np.testing.assert_allclose(ours.values[0], both.mean(0), rtol=1e-4, atol=1e-11)
    other = work(raw=writers.raw_array(names=writers.NAMES[:-1]))
    with pytest.raises(DataError, match="run 1 has 12 channels and run 2 has 11, and they differ in Oz"):
        carried_out([first, other], [EPOCH], "here")
    faster = work(raw=writers.raw_array(8000, 400.0))
    with pytest.raises(DataError, match=r"at 200 Hz and run 2 has 281 at 400 Hz\. Add the step resample"):
        carried_out([first, faster], [EPOCH], "here")
    assert joined([trials()], "x").ids.tolist() == trials().ids.tolist()


# The configuration.


def test_every_step_is_a_frozen_dataclass_that_says_what_it_takes():
    for kind in STEPS.values():
        assert kind.__dataclass_params__.frozen and set(kind.takes) <= {"raw", "epochs", "trials"} and kind.__doc__


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"name": "fliter", "low_hz": 1}], r"step 1 is 'fliter', which is no step\. Nearest: filter"),
        ([{"name": "filter", "lowhz": 1}], r"step 1, filter, has no option 'lowhz'\. Nearest: low_hz"),
        ([{"name": "filter", "low_hz": "one"}], r"step 1, filter\.low_hz='one': a number is needed"),
        ([{"name": "filter", "low_hz": True}], r"filter\.low_hz=True: a number is needed"),
        ([{"name": "average", "min_repetitions": 1.5}], r"average\.min_repetitions=1\.5: a whole number is needed"),
        ([{"name": "average", "keep_trials": 1}], r"average\.keep_trials=1: true or false is needed"),
        ([{"name": "reference", "channels": "average"}], r"reference\.channels='average': a list of names is needed"),
        ([{"filter": 1}], r"step 1 is \{'filter': 1\}; write it as \{name: filter"),
        ([{"name": "epoch"}, {"name": "notch", "hz": 50}], r"step 2, notch, works on the continuous recording and comes after epoch"),
        ([{"name": "average"}, {"name": "baseline"}], r"step 2, baseline, works on epochs and comes after average"),
        ([{"name": "baseline"}, {"name": "epoch"}], r"step 2, epoch, works on the continuous recording and comes after baseline"),
    ],
)  # fmt: skip
def test_steps_that_cannot_be(steps, said):
    with pytest.raises(ConfigError, match=said):
        parsed(steps)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"name": "filter"}], "neither low_hz nor high_hz"),
        ([{"name": "filter", "high_hz": 120}], r"high_hz=120, and here holds 0 to 100 Hz at 200 samples"),
        ([{"name": "filter", "high_hz": 20, "method": "irr"}], r"filter.method='irr' is unknown\. Nearest: iir|Nearest: fir"),
        ([{"name": "notch", "hz": 150}], "The step notch is at 150 Hz, and here holds 0 to 100 Hz"),
        ([{"name": "bad_channels", "names": ["CZ"]}], r"names 1 channels that here has not, first 'CZ'\. Nearest: Cz"),
        ([{"name": "drop_channels", "names": ["xx"]}], "names 'xx', which here has not"),
        ([{"name": "drop_channels", "names": list(writers.NAMES)}], "would leave none of the 12 channels"),
        ([{"name": "montage", "montage": "biosmi128"}], r"names 'biosmi128', which MNE has not\. Nearest: biosemi128"),
        ([{"name": "montage", "montage": "biosemi128"}], r"10 of 12 EEG channels are not in the montage biosemi128, first 'Fp1'; it has 128 names such as A1, A2"),
        ([{"name": "reference", "channels": ["M1"]}], r"'M1' is not in here"),
        ([{"name": "resample", "hz": 0}], "a rate above 0 is needed"),
        ([{"name": "epoch", "tmin_s": 0.3, "tmax_s": 0.1}], "nothing is between"),
        ([EPOCH, {"name": "baseline", "tmin_s": -2.0}], r"the epochs run from -0.2 to 0.5 s"),
        ([EPOCH, {"name": "crop", "tmax_s": 2.0}], r"the epochs run from -0\.200 to 0\.500 s"),
        ([EPOCH, {"name": "reject", "mag_t": 1.0}], "a limit for mag, and here has eeg"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_the_data(steps, said):
    with pytest.raises((ConfigError, DataError), match=said):
        after(steps)


def test_data_that_a_step_cannot_take():
    with pytest.raises(
        ConfigError, match=r"baseline needs epochs: add the step epoch before it, and here is continuous"
    ):
        carried_out([work()], [{"name": "baseline"}], "here")
    with pytest.raises(ConfigError, match=r"here is continuous and dataset\.steps does not cut it"):
        carried_out([work()], [{"name": "average"}], "here")
    start = after([EPOCH])
    with pytest.raises(ConfigError, match="notch needs a continuous recording, and here is cut into epochs already"):
        carried_out([start], [{"name": "notch", "hz": 50}], "here")


def test_bad_channels_that_stay_are_noted():
    kept = carried_out([work()], [*BAD, EPOCH], "here")
    assert "here: channels marked bad are still there: Cz, O1; add interpolate or drop_channels" in kept.notes
    assert "Cz" in kept.channels


def test_bad_channels_without_a_place_or_without_a_good_one():
    raw = writers.raw_array(names=("one", "two", "three"))
    with pytest.raises(
        DataError, match=r"1 of 1 bad channels have no position to interpolate from, first 'two'\. Add the step montage"
    ):
        after([{"name": "bad_channels", "names": ["two"]}, {"name": "interpolate"}], work(raw=raw))
    with pytest.raises(DataError, match="all channels of the type eeg are marked bad, 3 of 3"):
        after([{"name": "bad_channels", "names": ["one", "two", "three"]}, {"name": "interpolate"}], work(raw=raw))


def test_messages_name_some_of_many_stimuli():
    given = Average()(trials(600, 1), "here")
    with pytest.raises(DataError, match=r"first 'zzz'\. Known: s0, s1, .* and more\.") as caught:
        recording_of(given, Wanted("set", "01", stimuli=("zzz", "s1", "s2", "s3")), {})
    assert len(str(caught.value)) < 500
