"""What is read is what is in the files, and what is simulated is what is asked."""

import re

import makers
import mne
import numpy as np
import pytest
from scipy.io import loadmat
from scipy.stats import pearsonr

from jaxalign.commands.composed import compose
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.files import find
from jaxalign.sources.mne_epochs import MneEpochs
from jaxalign.sources.mne_raw import MneRaw
from jaxalign.sources.montage import are_metres, template_positions
from jaxalign.sources.pictures import Pictures
from jaxalign.sources.rdm_files import RdmFile
from jaxalign.sources.simulated import CHANNELS, NOISE_V, Plant, SimulatedEeg
from jaxalign.sources.times import binned, bins_of, inside

# Times.


def test_bins_are_half_open_and_average_their_samples():
    times = -0.1 + np.arange(10) / 50
    bins = bins_of(times, 50.0, 0.06)
    np.testing.assert_allclose(bins.starts_s, [-0.1, -0.04, 0.02], atol=1e-12)
    np.testing.assert_allclose(bins.stops_s, [-0.04, 0.02, 0.08], atol=1e-12)
    np.testing.assert_array_equal(bins.member, [0, 0, 0, 1, 1, 1, 2, 2, 2, -1])
    np.testing.assert_array_equal(binned(np.arange(10.0)[None], bins), [[1, 4, 7]])


def test_without_a_width_every_sample_is_its_own_bin():
    times = np.arange(5) / 600.615
    bins = bins_of(times, 600.615, None)
    values = np.random.default_rng(0).standard_normal((2, 3, 5))
    np.testing.assert_array_equal(binned(values, bins), values)
    np.testing.assert_allclose(bins.stops_s[:-1], bins.starts_s[1:], atol=2e-9)


@pytest.mark.parametrize(
    ("start", "stop", "count"), [(0.30, 0.47, 9), (0.30, 0.48, 9), (0.30, 0.50, 10), (0.29, 0.30, 0)]
)
def test_a_window_takes_the_samples_that_start_inside_it(start, stop, count):
    """At 50 Hz from -0.2 s on; 0.48 s is outside [0.30, 0.48), whatever the rounding of the sample times."""
    starts = -0.2 + np.arange(60) / 50
    found = inside(starts, 50.0, start, stop)
    assert found.sum() == count
    assert inside(np.round(starts, 9), 50.0, start, stop).sum() == count


# The n400 recording.


@pytest.fixture(scope="module")
def n400(data_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXALIGN_DATA", str(data_folder))
        (recording,) = compose(["dataset=n400", "model=[fas]", "metric=[correlation]"]).dataset.recordings()
    return recording


def test_n400_is_200_pairs_of_words_in_volts(n400):
    assert n400.values.shape == (200, 32, 60) and n400.values.dtype == np.float32
    assert n400.unit == "V" and 1e-6 < n400.values.std() < 3e-5, "EEG is microvolts"
    np.testing.assert_allclose(n400.starts_s, -0.2 + np.arange(60) / 50, atol=1e-8)
    np.testing.assert_allclose(n400.stops_s - n400.starts_s, 0.02, atol=1e-8)
    assert len(set(n400.stimulus_ids)) == 200 and all(name.count("/") == 1 for name in n400.stimulus_ids)
    assert {"cue", "association", "FAS"} <= set(n400.columns) and n400.subject == "04"
    assert not n400.is_simulated and n400.trials is None and not n400.is_test.any()
    assert set(n400.n_repetitions) == {1} and len(n400.origin["sha256"]) == 64


def test_n400_gives_the_published_window_mean(n400):
    """Numbers of shared/data/README.md: FAS with the mean of P3, Pz, P4 over [0.30, 0.47) s, 9 samples."""
    channels = [n400.channels.index(name) for name in ("P3", "Pz", "P4")]
    window = inside(n400.starts_s, 50.0, 0.30, 0.47)
    assert window.sum() == 9
    average = n400.values[:, channels][:, :, window].mean((1, 2))
    assert pearsonr(n400.columns["FAS"].astype(float), average)[0] == pytest.approx(0.32409, abs=2e-5)


def test_n400_channels_have_places_on_a_head(n400):
    assert are_metres(n400.positions)
    frontal, occipital = n400.positions[n400.channels.index("Fz")], n400.positions[n400.channels.index("Oz")]
    assert frontal[1] > 0 > occipital[1], "y points to the nose"


# Epochs in general.


def test_values_of_a_file_come_back(tmp_path):
    values, columns = makers.eeg()
    path = makers.epochs_file(tmp_path / "x-epo.fif", values, columns)
    source = MneEpochs(name="x", path=str(path), stimulus_columns=["word"], time_bin_s=0.04)
    (recording,) = source.recordings()
    np.testing.assert_allclose(recording.values, values.reshape(24, 4, 3, 2).mean(-1), rtol=1e-6)
    assert recording.stimulus_ids == tuple(columns["word"]) and recording.channels == makers.CHANNELS
    np.testing.assert_allclose(recording.starts_s, [-0.1, -0.06, -0.02], atol=1e-9)


def test_channels_and_times_are_selected_in_the_order_asked(tmp_path):
    values, columns = makers.eeg()
    path = makers.epochs_file(tmp_path / "x-epo.fif", values, columns)
    source = MneEpochs(path=str(path), stimulus_columns=("word",), channels=("Oz", "Cz"), tmin_s=-0.08, tmax_s=-0.02)
    (recording,) = source.recordings()
    where = [makers.CHANNELS.index(name) for name in recording.channels]
    assert set(recording.channels) == {"Oz", "Cz"}
    np.testing.assert_allclose(recording.values, values[:, where, 1:5], rtol=1e-6)


def test_ends_of_an_epoch_may_be_named_roughly(tmp_path):
    """-0.1 to 0.01 s of an epoch whose last sample is at 0.00 s."""
    path = makers.epochs_file(tmp_path / "x-epo.fif", *makers.eeg())
    (recording,) = MneEpochs(path=str(path), stimulus_columns=("word",), tmin_s=-0.11, tmax_s=0.01).recordings()
    assert recording.values.shape == (24, 4, 6)


@pytest.mark.parametrize(("types", "unit"), [("eeg", "V"), ("mag", "T"), ("grad", "T/m")])
def test_units_are_those_of_mne(tmp_path, types, unit):
    path = makers.epochs_file(tmp_path / "x-epo.fif", *makers.eeg(), types)
    (recording,) = MneEpochs(path=str(path), stimulus_columns=("word",), picks=types).recordings()
    assert recording.unit == unit


def test_channel_types_do_not_mix(tmp_path):
    path = makers.epochs_file(tmp_path / "x-epo.fif", *makers.eeg(), ["eeg", "eeg", "mag", "grad"])
    with pytest.raises(DataError, match="channel types eeg, grad, mag have different units and do not mix"):
        MneEpochs(path=str(path), stimulus_columns=("word",), picks="all").recordings()
    with pytest.raises(DataError, match="channel types eeg, mag"):
        MneEpochs(path=str(path), stimulus_columns=("word",), channels=("Cz", "Pz")).recordings()
    (recording,) = MneEpochs(path=str(path), stimulus_columns=("word",), picks="eeg").recordings()
    assert recording.channels == ("Fz", "Cz")


def test_template_positions_know_names_and_leave_others_unknown():
    places = template_positions(("Cz", "nosuch", "Oz"))
    assert np.isnan(places[1]).all() and are_metres(places)
    assert places[0, 2] > places[2, 2], "Cz is the top"


@pytest.mark.parametrize(
    ("scale", "note"),
    [
        (
            1000,
            r"not in metres \(median radius {radius_mm:.3g}\): 4 of 4 template positions of the same names are drawn",
        ),
        (0, "the file has no channel positions: 4 of 4 names are on the template head"),
    ],
)
def test_template_positions_stand_in_with_a_note_whoever_reads(tmp_path, scale, note):
    path = makers.epochs_file(tmp_path / "x-epo.fif", *makers.eeg())
    epochs, template = mne.read_epochs(path, verbose="error"), template_positions(makers.CHANNELS)
    for channel, place in zip(epochs.info["chs"], template, strict=True):
        channel["loc"][:3] = place * scale
    epochs.save(path, overwrite=True, verbose="error")
    for source in (MneEpochs, MneRaw):
        (recording,) = source(path=str(path), stimulus_columns=("word",)).recordings()
        np.testing.assert_allclose(recording.positions, template, atol=1e-6)
        radius_mm = 1000 * float(np.median(np.linalg.norm(template, axis=1)))
        assert re.search(note.format(radius_mm=radius_mm), str(recording.origin["notes"]))


# Files.


def test_a_relative_path_is_found_under_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere" / "set").mkdir(parents=True)
    (tmp_path / "elsewhere" / "set" / "a.mat").write_text("a")
    with pytest.raises(DataError, match=r"set/a\.mat was not found"):
        find("set/a.mat")
    monkeypatch.setenv("JAXALIGN_DATA", str(tmp_path / "elsewhere"))
    assert find("set/a.mat").read_text() == "a"
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "a.mat").write_text("b")
    assert find("set/a.mat").read_text() == "a", "the variable comes before ./data"
    monkeypatch.delenv("JAXALIGN_DATA")
    assert find("set/a.mat").read_text() == "b"


# RDMs.


def test_objects92_is_4_subjects_with_sessions_averaged(data_folder, monkeypatch):
    monkeypatch.setenv("JAXALIGN_DATA", str(data_folder))
    run = compose(["experiment=objects92"])
    brain = run.dataset.rdms()
    assert brain.values.shape == (4, 92 * 91 // 2) and brain.values.dtype == np.float32
    assert len(brain.names) == len(set(brain.names)) == 4 and len(brain.stimulus_ids) == 92
    assert brain.origin["n_averaged"] == [2, 2, 2, 2]
    raw = loadmat(data_folder / "objects92" / "92_brainRDMs.mat")["RDMs"]["RDM"][0]
    upper = np.triu_indices(92, 1)
    sessions = [np.mean([session[upper].astype(float) for session in subject], axis=0) for subject in raw]
    np.testing.assert_allclose(brain.values, sessions, rtol=1e-6)
    models = run.model["objects92_models"].rdms()
    assert models.values.shape == (8, 4186) and {"animacy", "HMAX", "V1"} <= set(models.names)


def test_rdms_come_back_in_scipy_order(tmp_path):
    from scipy.spatial.distance import squareform

    rdms = {name: makers.rdm(7, seed) for seed, name in enumerate("ab")}
    path = makers.rdm_file(tmp_path / "x.mat", rdms)
    found = RdmFile(path=str(path)).rdms()
    assert found.names == ("a", "b")
    np.testing.assert_allclose(found.values, [squareform(one, checks=False) for one in rdms.values()], rtol=1e-6)


# The simulator.

IDS = tuple(f"stimulus{index}" for index in range(60))


def features(seed=0, width=24):
    values = np.random.default_rng(seed).standard_normal((len(IDS), width)).astype(np.float32)
    return {("m", "planted", "mean"): values, ("m", "other", "mean"): values[::-1]}


def simulate(**changes):
    settings = {"n_subjects": 2, "n_test": 20, "n_repetitions_test": 10, "effect": 0.0, "seed": 3}
    return SimulatedEeg(**{**settings, **changes}).recordings(IDS, features())


PLANT = Plant(model="m", layer="planted", pooling="mean", start_s=0.1, stop_s=0.3, channels=("Oz", "POz"))


@pytest.fixture(scope="module")
def noise():
    """Nothing planted."""
    return simulate()


def test_simulated_recordings_say_what_they_are(noise):
    assert [recording.subject for recording in noise] == ["01", "02"]
    for recording in noise:
        assert recording.is_simulated and recording.unit == "V" and recording.channels == CHANNELS
        assert recording.values.shape == (60, 63, 100) and recording.values.dtype == np.float32
        np.testing.assert_allclose(recording.starts_s, -0.2 + np.arange(100) / 100, atol=1e-8)
        assert are_metres(recording.positions) and np.isfinite(recording.positions).all()
        assert recording.origin == {"simulated": True, "seed": 3, "effect": 0.0}


def test_the_last_stimuli_are_the_test_set_and_keep_their_trials(noise):
    for recording in noise:
        np.testing.assert_array_equal(recording.is_test, np.arange(60) >= 40)
        np.testing.assert_array_equal(recording.n_repetitions, np.repeat([4, 10], [40, 20]))
        assert recording.trials.shape == (20, 10, 63, 100)
        np.testing.assert_allclose(recording.values[40:], recording.trials.mean(1), atol=1e-11)


def test_the_seed_decides_everything(noise):
    again, other = simulate(), simulate(seed=4)
    for first, second, third in zip(noise, again, other, strict=True):
        np.testing.assert_array_equal(first.values, second.values)
        np.testing.assert_array_equal(first.trials, second.trials)
        assert not np.isclose(first.values, third.values).mean() > 0.01
    assert not np.isclose(noise[0].values, noise[1].values).mean() > 0.01, "subjects have noise of their own"


def test_a_subject_does_not_depend_on_how_many_there_are(noise):
    (alone,) = simulate(n_subjects=1)
    np.testing.assert_array_equal(alone.values, noise[0].values)


def test_noise_of_one_trial_has_the_stated_size(noise):
    trials = np.concatenate([recording.trials for recording in noise])
    assert trials.std() == pytest.approx(NOISE_V, rel=0.05)
    of_channels = trials.std((0, 1, 3))
    np.testing.assert_allclose(of_channels, NOISE_V, rtol=0.15)
    of_times = trials.std((0, 1, 2))
    np.testing.assert_allclose(of_times, NOISE_V, rtol=0.10, err_msg="stationary")
    train = np.concatenate([recording.values[:40] for recording in noise])
    assert train.std() == pytest.approx(NOISE_V / np.sqrt(4), rel=0.08), "4 training repetitions averaged"
    assert trials.mean(1).std() == pytest.approx(NOISE_V / np.sqrt(10), rel=0.08), "trials are independent"


def test_noise_power_falls_as_one_over_frequency(noise):
    trials = np.concatenate([recording.trials for recording in noise]).astype(np.float64)
    power = (np.abs(np.fft.rfft(trials * np.hanning(100), axis=-1)) ** 2).mean((0, 1, 2))
    frequency = np.fft.rfftfreq(100, 1 / 100)
    band = (frequency >= 2) & (frequency <= 20)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)


def test_noise_is_alike_in_neighbours(noise):
    trials = np.concatenate([recording.trials for recording in noise]).transpose(2, 0, 1, 3).reshape(63, -1)
    correlation = np.corrcoef(trials)
    near, far = correlation[CHANNELS.index("Oz")][[CHANNELS.index("O1"), CHANNELS.index("Fp1")]]
    assert near > 0.7 > 0.3 > far


def test_without_an_effect_nothing_is_planted(noise):
    planted = simulate(plants=[PLANT], effect=0.0)
    for first, second in zip(noise, planted, strict=True):
        np.testing.assert_array_equal(first.values, second.values)
        np.testing.assert_array_equal(first.trials, second.trials)


@pytest.fixture(scope="module")
def loud():
    """A signal so strong that noise does not matter where it is."""
    return simulate(plants=[PLANT], effect=100.0, n_subjects=8)


def test_the_signal_is_inside_its_window_only(loud):
    for recording in loud:
        spread = recording.values[:40].std(0)  # over training stimuli, (n_channels, n_times)
        is_inside = (recording.starts_s > 0.1 + 1e-9) & (recording.starts_s < 0.3 - 1e-9)
        assert spread[:, ~is_inside].max() < 2 * NOISE_V
        assert spread[CHANNELS.index("Oz"), is_inside].min() > 2 * NOISE_V
        middle = (recording.starts_s > 0.145) & (recording.starts_s < 0.255)
        flat = spread[CHANNELS.index("Oz"), middle]
        assert flat.max() / flat.min() < 1.05, "full strength between the ramps"


def test_the_signal_is_near_its_channels(loud):
    time = np.flatnonzero(np.isclose(loud[0].starts_s, 0.2))[0]
    spread = np.sqrt(np.mean([recording.values[:40, :, time].var(0) for recording in loud], axis=0))
    places = loud[0].positions
    centres = places[[CHANNELS.index(name) for name in PLANT.channels]]
    distance = np.linalg.norm(places[:, None] - centres[None], axis=2).min(1)
    assert set(np.argsort(-spread)[:2]) == {CHANNELS.index(name) for name in PLANT.channels}
    assert spread[distance > 0.12].max() < 0.05 * spread.max()
    assert spread[CHANNELS.index("Fp1")] < 2 * NOISE_V


def test_the_effect_is_the_size_of_the_signal_in_trial_noise(loud):
    """Root mean square over subjects: each has a topography of its own."""
    time = np.flatnonzero(np.isclose(loud[0].starts_s, 0.2))[0]
    channels = [CHANNELS.index(name) for name in PLANT.channels]
    spread = np.sqrt(np.mean([recording.values[:40][:, channels, time].var(0) for recording in loud]))
    assert spread == pytest.approx(100 * NOISE_V, rel=0.15)


def test_the_signal_has_the_geometry_of_its_layer(loud):
    """The patterns in the window are a linear function of the layer's first components, and of no other layer."""
    values = features()[("m", "planted", "mean")].astype(np.float64)
    centred = values - values[:40].mean(0)
    latents = centred @ np.linalg.svd(centred[:40], full_matrices=False)[2][:8].T
    time = np.flatnonzero(np.isclose(loud[0].starts_s, 0.2))[0]
    signal = loud[0].values[:, CHANNELS.index("Oz"), time].astype(np.float64)
    weights = np.linalg.lstsq(latents[:40], signal[:40], rcond=None)[0]
    assert pearsonr(latents[40:] @ weights, signal[40:])[0] > 0.98, "also in the test set"
    assert abs(pearsonr(latents[::-1][40:] @ weights, signal[40:])[0]) < 0.7


def test_time_bins_of_the_simulator_are_averages(noise):
    (coarse,) = simulate(n_subjects=1, time_bin_s=0.02)
    np.testing.assert_allclose(coarse.values, noise[0].values.reshape(60, 63, 50, 2).mean(-1), atol=1e-11)
    assert coarse.trials.shape == (20, 10, 63, 50)


# Pictures.


def test_pictures_are_distinct_and_the_same_every_time():
    first, again = ([image.copy() for image in Pictures(40, 24, 1).images()] for _ in range(2))
    assert len(first) == 40 and {(image.shape, image.dtype.name) for image in first} == {((24, 24, 3), "uint8")}
    assert len({image.tobytes() for image in first}) == 40
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert min(image.std() for image in first) > 2, "no empty picture"


def test_a_picture_depends_on_seed_and_index_alone():
    few, many = list(Pictures(6, 24, 1).images()), list(Pictures(30, 24, 1).images())
    assert all(np.array_equal(one, two) for one, two in zip(few, many, strict=False))
    assert not any(np.array_equal(one, two) for one, two in zip(few, Pictures(6, 24, 2).images(), strict=True))


def test_pictures_have_ids_and_groups():
    pictures = Pictures(50, 24)
    ids, groups = pictures.ids(), pictures.groups()
    assert len(set(ids)) == 50 and ids[7].startswith("00007-") and pictures.ids() == ids
    names = [name.split("-", 1)[1] for name in ids]
    assert len(set(names)) == len(set(groups)), "cuts of one picture are one group"
    assert all((names[i] == names[j]) == (groups[i] == groups[j]) for i in range(50) for j in range(50))


@pytest.mark.parametrize("wrong", [{"n_stimuli": 3}, {"size_px": 8}])
def test_pictures_that_are_too_few_or_small(wrong):
    with pytest.raises(ConfigError, match="at least 4 stimuli of 16 pixels"):
        Pictures(**wrong)
