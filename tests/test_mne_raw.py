"""Real and written recordings come back with their units, names, times and events; what is wrong with a file is said."""

import gzip
import shutil
from typing import get_origin, get_type_hints

import mne
import numpy as np
import pytest
import writers_eeg as writers

from jaxalign.commands.composed import compose
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources import DATASETS
from jaxalign.sources.bids import Bids
from jaxalign.sources.mne_epochs import MneEpochs
from jaxalign.sources.mne_raw import MneRaw
from jaxalign.sources.reading import read_any
from jaxalign.sources.speech import Alice, Ds004408
from jaxalign.sources.trials import SELECTION, Wanted

EPOCH = {"name": "epoch", "tmin_s": -0.2, "tmax_s": 0.5}
AVERAGE = {"name": "average"}
EOG = {"EOG1": "eog", "EOG2": "eog"}


def recording(**options):
    (one,) = MneRaw(**options).recordings()
    return one


def quiet(read, *args, **options):
    with mne.use_log_level("error"):
        return read(*args, **options)


# Real files.


def test_eeglab_events_and_trials_are_those_of_mne(data_folder):
    path = data_folder / "eeglab" / "eeglab_data.set"
    raw = quiet(mne.io.read_raw_eeglab, path, preload=True)
    steps = [
        {"name": "filter", "low_hz": 0.5, "high_hz": 40},
        {"name": "reference"},
        EPOCH,
        {"name": "baseline"},
        {"name": "resample", "hz": 64},
    ]
    for event, n in (("square", 80), ("rt", 74)):
        one = recording(
            path=str(path),
            use_events=[event],
            n_events=n,
            stimulus_columns=["event", "index"],
            channel_types=EOG,
            steps=steps,
        )
        assert len(one.stimulus_ids) == n and one.stimulus_ids[0] == f"{event}/01" and one.unit == "V"
        with mne.use_log_level("error"):
            theirs = raw.copy().set_channel_types(EOG).filter(0.5, 40).set_eeg_reference("average")
            events, _ = mne.events_from_annotations(theirs, {event: 1})
            epochs = mne.Epochs(
                theirs, events, tmin=-0.2, tmax=0.5, baseline=(None, 0), picks="eeg", preload=True
            ).resample(64)
        np.testing.assert_allclose(one.values, epochs.get_data(), rtol=1e-6, atol=1e-12)
        assert one.channels == tuple(epochs.ch_names) and len(one.channels) == 30
        np.testing.assert_allclose(one.starts_s, epochs.times, atol=1e-8)
    with pytest.raises(DataError, match=r"80 events, and dataset\.n_events=81 are expected"):
        recording(path=str(path), use_events=["square"], n_events=81, steps=steps)
    with pytest.raises(DataError, match=r"no event is named 'squre'\. Nearest: square\. It has 2 names: rt, square"):
        recording(path=str(path), use_events=["squre"], steps=steps)


def test_eeglab_epochs(data_folder):
    path = data_folder / "eeglab" / "eeglab_data_epochs_ica.set"
    one = recording(path=str(path), stimulus_columns=["index"])
    assert one.values.shape == (80, 30, 384) and one.unit == "V" and 1e-6 < one.values.std() < 1e-4
    assert one.starts_s[0] == -1 and {"square", "square/rt"} <= set(one.columns["event"])
    some = recording(path=str(path), stimulus_columns=["index"], use_events=["square/rt"])
    assert len(some.stimulus_ids) == 73
    np.testing.assert_array_equal(some.values, one.values[one.columns["event"] == "square/rt"])


def test_n400_is_read_as_mne_epochs_are(data_folder):
    path = data_folder / "n400" / "subject04-epo.fif"
    one = recording(path=str(path), stimulus_columns=["cue", "association"])
    epochs = quiet(mne.read_epochs, path)
    assert one.values.shape == (200, 32, 60) and one.unit == "V"
    names = [
        f"{cue}/{other}" for cue, other in zip(epochs.metadata["cue"], epochs.metadata["association"], strict=True)
    ]
    order = [names.index(name) for name in one.stimulus_ids]
    np.testing.assert_allclose(one.values, epochs.get_data(copy=False)[order], rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(one.columns["FAS"], epochs.metadata["FAS"].to_numpy()[order])
    assert sorted(set(one.columns["event"])) == ["related", "unrelated"]
    at = one.values[:, one.channels.index("PO4"), np.argmin(np.abs(one.starts_s - 0.38))]
    assert np.corrcoef(at, one.columns["FAS"])[0, 1] == pytest.approx(0.40588, abs=2e-5), "shared/data/README.md"


@pytest.fixture(scope="module")
def averages(data_folder, tmp_path_factory):
    """Four averages, unpacked: MNE seeks in a packed file, which takes seconds."""
    path = tmp_path_factory.mktemp("averages") / "test-ave.fif"
    path.write_bytes(gzip.decompress((data_folder / "mne" / "test-ave.fif.gz").read_bytes()))
    return path


@pytest.mark.parametrize(("picks", "n", "unit"), [("mag", 102, "T"), ("grad", 204, "T/m"), ("eeg", 60, "V")])
def test_averages_of_mixed_types_keep_their_units(averages, picks, n, unit):
    path = averages
    one = recording(path=str(path), picks=picks)
    assert one.values.shape == (4, n, 421) and one.unit == unit and one.n_repetitions.tolist() == [3, 6, 6, 6]
    assert one.stimulus_ids == ("Left Auditory", "Left visual", "Right Auditory", "Right visual")
    theirs = quiet(mne.read_evokeds, path, condition="Left visual").pick(picks)
    np.testing.assert_allclose(one.values[1], theirs.data, rtol=1e-6, atol=1e-30)
    assert one.channels == tuple(theirs.ch_names) and np.isfinite(one.positions).all()
    np.testing.assert_allclose(one.starts_s, theirs.times, atol=1e-8)
    with pytest.raises(DataError, match=r"channel types .*eeg.*grad.*mag.* have different units and do not mix"):
        recording(path=str(path), picks="all")


@pytest.mark.parametrize(
    ("name", "n", "n_samples", "sfreq", "first"),
    [("test.vhdr", 32, 7900, 1000, "FP1"), ("test.edf", 139, 3072, 512, "A1"), ("test.bdf", 73, 2048, 2048, "Fp1")],
)
def test_reader_files_load(data_folder, name, n, n_samples, sfreq, first):
    data, _ = read_any(data_folder / "mne" / name)
    assert (len(data.ch_names), data.n_times, data.info["sfreq"], data.ch_names[0]) == (n, n_samples, sfreq, first)
    assert 1e-6 < data.get_data(picks=[first]).std() < 1e-3, "volts"


def test_brainvision_events_by_name(data_folder):
    steps = [{"name": "epoch", "tmin_s": 0.0, "tmax_s": 0.1}]
    names = {"Stimulus/S255": "go", "Event/254": "stop"}
    one = recording(
        path=str(data_folder / "mne" / "test.vhdr"), event_names=names, stimulus_columns=["event", "index"], steps=steps
    )
    assert one.stimulus_ids == ("go/1", "go/3", "go/5", "go/6", "go/8", "stop/2", "stop/4", "stop/7")
    raw = quiet(mne.io.read_raw, data_folder / "mne" / "test.vhdr", preload=True)
    kept = [name for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind == "eeg"]
    assert one.channels == tuple(kept), "a channel in degrees Celsius is no EEG"
    np.testing.assert_allclose(one.values[0], raw.get_data(picks=kept)[:, 496:597], rtol=1e-6)


def test_formats_that_are_folders_are_found_and_hashed(tmp_path, monkeypatch):
    from jaxalign.sources.reading import content_sha256, find_recording

    (tmp_path / "x.mff").mkdir()
    (tmp_path / "x.mff" / "signal1.bin").write_bytes(b"1")
    monkeypatch.setenv("JAXALIGN_DATA", str(tmp_path))
    assert find_recording("x.mff") == tmp_path / "x.mff"
    before = content_sha256(tmp_path / "x.mff")
    (tmp_path / "x.mff" / "info.xml").write_bytes(b"2")
    assert content_sha256(tmp_path / "x.mff") != before
    with pytest.raises(DataError, match=r"The folder y\.ds was not found"):
        find_recording("y.ds")


def test_what_decides_the_values_decides_their_identity(written, tmp_path):
    """A run that is resumed must not mix recordings: files beside the header and tables of events count."""
    path, _, _ = written
    table = tmp_path / "e.csv"
    options = {"path": str(path), "events": str(table), "steps": [EPOCH], **FOUR}
    table.write_text("onset,trial_type\n1,a\n2,b\n3,a\n4,b\n")
    first = recording(**options).origin
    assert recording(**options).origin == first
    table.write_text("onset,trial_type\n1,a\n2,b\n3,a\n4.1,b\n")
    second = recording(**options).origin
    assert second["values_sha256"] != first["values_sha256"] and second["sha256"] == first["sha256"]
    data = bytearray(path.with_suffix(".eeg").read_bytes())
    data[0] ^= 1
    path.with_suffix(".eeg").write_bytes(data)
    assert recording(**options).origin["sha256"] != first["sha256"]


# Events.


@pytest.fixture
def written(tmp_path):
    """BrainVision, 8 s at 200 Hz: 12 events, stimuli a, b, c shown four times."""
    raw = writers.raw_array(1600)
    samples = list(range(200, 1400, 100))
    markers = [("abc"[index % 3], sample) for index, sample in enumerate(samples)]
    path = writers.brainvision(tmp_path, "one", raw.get_data(), 200.0, list(writers.NAMES), markers)
    return path, raw.get_data(), np.array(samples)


def cut(values, samples):
    return np.stack([values[:, at - 40 : at + 101] for at in samples])


FOUR = {"stimulus_columns": ["event", "index"]}


def test_annotations_are_averaged_over_repetitions(written):
    path, values, samples = written
    average = {"name": "average", "min_repetitions": 4, "keep_trials": True}
    names = {f"Stimulus/{letter}": letter for letter in "abc"}
    options = {"path": str(path), "event_names": names, "steps": [EPOCH, average]}
    with pytest.raises(DataError, match=r"3 stimuli; at least 4 are needed .* They average 12 trials"):
        recording(**options)
    one = recording(
        **{
            **options,
            "event_names": {},
            "use_events": [*names],
            "stimulus_columns": ["event", "index"],
            "steps": [EPOCH],
        }
    )
    np.testing.assert_allclose(one.values[:4], cut(values, samples)[::3], rtol=1e-4, atol=1e-11)


def test_a_table_of_events_gives_stimuli_repetitions_and_columns(written, tmp_path):
    path, values, samples = written
    rows = [f"{sample / 200}\tpicture\tp{index % 4}\t{index % 4 * 2}\t{index}" for index, sample in enumerate(samples)]
    (tmp_path / "one_events.tsv").write_text(
        "\n".join(["onset\ttrial_type\timage\tsize\ttrial", *rows, "7.5\tpress\tn/a\t0\t99"]) + "\n"
    )
    average = {"name": "average", "min_repetitions": 3, "keep_trials": True}
    options = {
        "path": str(path),
        "events": "{folder}/{stem}_events.tsv",
        "use_events": ["picture"],
        "stimulus_columns": ["image"],
    }
    one = recording(**options, steps=[EPOCH, average])
    assert one.stimulus_ids == ("p0", "p1", "p2", "p3") and one.n_repetitions.tolist() == [3] * 4
    np.testing.assert_allclose(
        one.trials, np.stack([cut(values, samples[first::4]) for first in range(4)]), rtol=1e-4, atol=1e-11
    )
    np.testing.assert_allclose(one.values, one.trials.mean(1), rtol=1e-4, atol=1e-11)
    assert one.columns["size"].tolist() == [0, 2, 4, 6] and "trial" not in one.columns, (
        "what differs within a stimulus is no column"
    )
    later = recording(**options, delay_s=0.05, steps=[EPOCH, average])
    np.testing.assert_allclose(later.values[:, :, :-10], one.values[:, :, 10:], rtol=1e-4, atol=1e-11)
    with pytest.raises(DataError, match=r"1 of 13 events have no stimulus in image, first event 13 \('press'\)"):
        recording(**{**options, "use_events": []}, steps=[EPOCH, average])
    with pytest.raises(DataError, match=r"the events have no column 'imge'\. Nearest: image"):
        recording(**{**options, "stimulus_columns": ["imge"]}, steps=[EPOCH, average])
    with pytest.raises(DataError, match=r"4 of 4 stimuli were shown more than once, first 'p0' \(3 times\)"):
        recording(**options, steps=[EPOCH])
    with pytest.raises(DataError, match=r"4 of 4 stimuli have fewer than 5 trials, first 'p0' with 3"):
        recording(**options, steps=[EPOCH, {"name": "average", "min_repetitions": 5}])


def test_a_table_of_events_that_disagrees_with_the_recording(written, tmp_path):
    path, _, _ = written
    table = tmp_path / "e.csv"
    options = {"path": str(path), "events": str(table), "steps": [EPOCH], **FOUR}
    table.write_text("onset,trial_type\n1,a\n2,b\n3,a\n9.5,b\n")
    with pytest.raises(
        DataError, match=r"1 of 4 events are outside the recording of 8\.000 s, first event 4 at 9\.500 s"
    ):
        recording(**options)
    table.write_text("onset,trial_type\n1,a\nlater,b\n")
    with pytest.raises(DataError, match="row 2: onset holds 'later', and a number is needed"):
        recording(**options)
    table.write_text("time,trial_type\n1,a\n")
    with pytest.raises(DataError, match=r"has no column 'onset'.*It has: time, trial_type"):
        recording(**options)
    table.write_text("onset,trial_type\n")
    with pytest.raises(DataError, match="a header of 2 columns and no row"):
        recording(**options)


def test_metadata_go_with_the_events_in_order_or_by_key(written, tmp_path):
    path, _, _ = written
    stimuli = [f"Stimulus/{letter}" for letter in "abc"]
    options = {"path": str(path), "use_events": stimuli, "steps": [EPOCH]}
    table = tmp_path / "m.csv"
    table.write_text("\n".join(["word,freq", *(f"w{index},{index}" for index in range(12))]) + "\n")
    one = recording(**options, metadata=str(table), stimulus_columns=["word"])
    assert set(one.stimulus_ids) == {f"w{index}" for index in range(12)}
    assert one.columns["freq"][one.stimulus_ids.index("w7")] == 7
    table.write_text("word,freq\nw1,1\n")
    with pytest.raises(DataError, match=r"12 events, and .* has 1 rows: they must be as many"):
        recording(**options, metadata=str(table), stimulus_columns=["word"])
    table.write_text("event;kind\nStimulus/c;third\nStimulus/a;first\nStimulus/b;second\n")
    one = recording(**options, metadata=str(table), metadata_key="event", stimulus_columns=["kind", "index"])
    assert one.stimulus_ids[0] == "first/01" and one.columns["event"][0] == "Stimulus/a"
    table.write_text("event,kind\nStimulus/a,first\nStimulus/a,second\n")
    with pytest.raises(DataError, match="event='Stimulus/a' is in rows 1 and 2"):
        recording(**options, metadata=str(table), metadata_key="event", stimulus_columns=["kind"])
    table.write_text("event,kind\nStimulus/a,first\n")
    with pytest.raises(DataError, match=r"8 of 12 events have no row in .*, first event='Stimulus/b'"):
        recording(**options, metadata=str(table), metadata_key="event", stimulus_columns=["kind"])


def test_a_trigger_channel(tmp_path):
    raw = writers.raw_array(1600)
    values = np.zeros((1, 1600))
    for index, sample in enumerate(range(200, 1400, 100)):
        values[0, sample : sample + 5] = 1 + index % 4
    raw.add_channels(
        [mne.io.RawArray(values, mne.create_info(["STI"], 200.0, "stim"), verbose="error")], force_update_info=True
    )
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    options = {"path": str(tmp_path / "x_raw.fif"), "events": "stim", "steps": [EPOCH, AVERAGE]}
    one = recording(**options)
    assert one.stimulus_ids == ("1", "2", "3", "4") and one.n_repetitions.tolist() == [3] * 4
    np.testing.assert_allclose(
        one.values[2], cut(raw.get_data(picks="eeg"), [400, 800, 1200]).mean(0), rtol=1e-4, atol=1e-11
    )
    words = recording(**options, event_names={"1": "cat", "2": "dog", "3": "hat", "4": "sun"})
    assert words.stimulus_ids == ("cat", "dog", "hat", "sun")
    with pytest.raises(ConfigError, match=r"dataset.stim_channel='STX': .* has the stim channels STI"):
        recording(**options, stim_channel="STX")


def test_a_recording_without_annotations_points_to_its_trigger_channel(data_folder, tmp_path):
    said = r"bdf has no event in its annotations\. Set dataset\.events=stim to read the trigger channel Status, or name"
    with pytest.raises(DataError, match=said):
        recording(path=str(data_folder / "mne" / "test.bdf"), steps=[EPOCH])
    raw = writers.raw_array(800)
    raw.save(tmp_path / "plain_raw.fif", verbose="error")
    with pytest.raises(DataError, match=r"no event in its annotations\. Name a table of events in dataset\.events"):
        recording(path=str(tmp_path / "plain_raw.fif"), steps=[EPOCH])
    stim = mne.create_info(["STI1", "STI2"], 200.0, "stim")
    raw.add_channels([mne.io.RawArray(np.zeros((2, 800)), stim, verbose="error")], force_update_info=True)
    raw.save(tmp_path / "two_raw.fif", verbose="error")
    with pytest.raises(DataError, match=r"channel that dataset\.stim_channel names \(STI1, STI2\), or name a table"):
        recording(path=str(tmp_path / "two_raw.fif"), steps=[EPOCH])


def test_runs_of_a_subject_are_one_recording_and_subjects_are_several(written, tmp_path):
    path, values, samples = written
    second = writers.brainvision(
        tmp_path / "two",
        "two",
        values[:, ::-1],
        200.0,
        list(writers.NAMES),
        [("abcd"[index % 4], sample) for index, sample in enumerate(samples)],
    )
    options = {
        "stimulus_columns": ["run", "event", "index"],
        "steps": [EPOCH],
        "use_events": [f"Stimulus/{letter}" for letter in "abc"],
    }
    both = MneRaw(files={"x": [str(path), str(second)], "y": str(path)}, **options).recordings()
    assert [one.subject for one in both] == ["x", "y"] and [len(one.stimulus_ids) for one in both] == [21, 12]
    assert both[0].origin["files"] == ["one.vhdr", "two.vhdr"] and set(both[0].columns["run"]) == {"1", "2"}
    with pytest.raises(ConfigError, match=r"dataset\.path and dataset\.files: give one of them"):
        MneRaw(**options).recordings()


# Files that are wrong.


def test_a_matlab_73_set_is_explained(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "new.set"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["EEG"] = np.zeros(3)
    with pytest.raises(DataError, match=r"MNE cannot read .*new\.set.*MATLAB 7\.3 file \(HDF5\).*savemode"):
        recording(path=str(path), steps=[EPOCH])


@pytest.mark.parametrize(
    ("files", "cut_one", "size"),
    [
        (("eeglab/eeglab_data.set", "eeglab/eeglab_data.fdt"), "eeglab_data.set", 20_000),
        (("eeglab/eeglab_data.set", "eeglab/eeglab_data.fdt"), "eeglab_data.fdt", 50_000),
        (("mne/test.vhdr", "mne/test.vmrk", "mne/test.eeg"), "test.eeg", 100_000),
        (("mne/test.edf",), "test.edf", 20_000),
        (("mne/test.edf",), "test.edf", 400_000),
        (("mne/test.bdf",), "test.bdf", 200_000),
        (("n400/subject04-epo.fif",), "subject04-epo.fif", 300_000),
        (("mne/test-ave.fif.gz",), "test-ave.fif.gz", 30_000),
    ],
)  # fmt: skip
def test_truncated_files_are_refused(data_folder, tmp_path, files, cut_one, size):
    for name in files:
        shutil.copy(data_folder / name, tmp_path)
    whole = (tmp_path / cut_one).read_bytes()
    assert len(whole) > size
    (tmp_path / cut_one).chmod(0o644)
    (tmp_path / cut_one).write_bytes(whole[:size])
    with pytest.raises(DataError, match=r"MNE cannot read|ends before it should"):
        recording(path=str(tmp_path / files[0].split("/")[1]), stimulus_columns=["event", "index"], steps=[EPOCH])


def test_files_that_are_missing_or_no_recording(tmp_path, written):
    path, _, _ = written
    with pytest.raises(DataError, match=r"nowhere\.vhdr was not found\. Looked for"):
        recording(path="nowhere.vhdr", steps=[EPOCH])
    path.with_suffix(".eeg").unlink()
    with pytest.raises(DataError, match=r"MNE cannot read .*one\.vhdr"):
        recording(path=str(path), steps=[EPOCH])
    (tmp_path / "x.docx").write_text("hello")
    with pytest.raises(DataError, match="Unsupported file type"):
        recording(path=str(tmp_path / "x.docx"), steps=[EPOCH])


def test_channels_that_are_not_there(written):
    path, _, _ = written
    with pytest.raises(ConfigError, match=r"has no channel 'cz'\. Nearest"):
        recording(path=str(path), channel_types={"cz": "eog"}, steps=[EPOCH])
    with pytest.raises(ConfigError, match=r"dataset\.channel_types: .*nose"):
        recording(path=str(path), channel_types={"Cz": "nose"}, steps=[EPOCH])
    with pytest.raises(DataError, match=r"no channel that dataset\.picks=mag names: its 12 channels are of type eeg"):
        recording(path=str(path), picks="mag", stimulus_columns=["event", "index"], steps=[EPOCH])


# BIDS.


@pytest.fixture
def bids(tmp_path):
    """Two subjects with two runs: 4 stimuli shown three times in each."""
    events = [
        {
            "onset": 1 + 0.5 * index,
            "duration": 0,
            "trial_type": "picture" if index < 12 else "press",
            "image": f"p{index % 4}",
        }
        for index in range(13)
    ]
    values = {}
    for subject in ("01", "02"):
        for run in ("1", "2"):
            values[subject, run] = writers.raw_array(1700, seed=int(subject + run)).get_data()
            writers.bids_run(
                tmp_path, subject, run, values[subject, run], 200.0, list(writers.NAMES), "look", events, ("Cz",), 60
            )
    return tmp_path, values


LOOK = {"task": "look", "use_events": ["picture"], "stimulus_columns": ["image"]}


def test_bids_runs_are_joined_with_their_events_bads_and_mains(bids):
    root, values = bids
    recordings = Bids(
        folder=str(root), **LOOK, steps=[{"name": "drop_channels", "bads": True}, EPOCH, AVERAGE]
    ).recordings()
    assert [one.subject for one in recordings] == ["01", "02"]
    for one in recordings:
        assert (
            one.stimulus_ids == ("p0", "p1", "p2", "p3") and one.n_repetitions.tolist() == [6] * 4 and one.unit == "V"
        )
        assert one.channels == tuple(name for name in writers.NAMES if name != "Cz"), "channels.tsv says that Cz is bad"
        keep = [index for index, name in enumerate(writers.NAMES) if name != "Cz"]
        samples = [200 + 100 * index for index in (0, 4, 8)]
        expected = np.concatenate([cut(values[one.subject, run], samples) for run in "12"]).mean(0)[keep]
        np.testing.assert_allclose(one.values[0], expected, rtol=1e-3, atol=1e-10)
    one = Bids(
        folder=str(root), subjects=("sub-02",), runs=("2",), **LOOK, steps=[{"name": "notch"}, EPOCH, AVERAGE]
    ).recordings()[0]
    assert (
        "notch at 60 Hz, the mains frequency of the recording" in one.origin["notes"]
        and one.n_repetitions.tolist() == [3] * 4
    )
    assert len(one.origin["sha256"]) == 1 and one.origin["files"] == ["sub-02_task-look_run-2_eeg.vhdr"]


def test_bids_requests_that_do_not_fit(bids, tmp_path):
    root, _ = bids
    steps = [EPOCH, AVERAGE]
    with pytest.raises(DataError, match=r"holds no sub-\*\. It holds eeg/\. Give the folder"):
        Bids(folder=str(root / "sub-01"), **LOOK, steps=steps).recordings()
    with pytest.raises(DataError, match=r"has no sub-03\. Nearest: "):
        Bids(folder=str(root), subjects=("03",), **LOOK, steps=steps).recordings()
    with pytest.raises(
        DataError, match=r"no eeg recording task=loko: looked for sub-01_task-loko_eeg\* below it\. It holds eeg/"
    ):
        Bids(folder=str(root), **{**LOOK, "task": "loko"}, steps=steps).recordings()
    with pytest.raises(DataError, match=r"Subject 01 has no run '3'"):
        Bids(folder=str(root), runs=("1", "3"), **LOOK, steps=steps).recordings()
    with pytest.raises(DataError, match=r"12 events, and dataset\.n_events=13 are expected"):
        Bids(folder=str(root), **LOOK, n_events=13, steps=steps).recordings()
    writers.bids_run(root, "01", "1", np.zeros((2, 400)), 200.0, ["Cz", "Pz"], "rest")
    with pytest.raises(ConfigError, match=r"Subject 01 has 2 of task: look, rest\. Set dataset\.task"):
        Bids(folder=str(root), **{**LOOK, "task": ""}, steps=steps).recordings()
    marks = root / "sub-01" / "eeg" / "sub-01_task-rest_run-1_eeg.vmrk"
    marks.write_text(marks.read_text().split("[Marker Infos]")[0] + "[Marker Infos]\n")
    with pytest.raises(
        DataError, match=r"no event in its annotations\. Write sub-01_task-rest_run-1_events\.tsv beside it"
    ):
        Bids(folder=str(root), subjects=("01",), runs=("1",), **{**LOOK, "task": "rest"}, steps=steps).recordings()
    with pytest.raises(ConfigError, match=r"dataset\.folder is empty"):
        Bids(**LOOK, steps=steps).recordings()


def test_bids_without_its_package_is_explained(bids, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mne_bids", None)
    with pytest.raises(ConfigError, match=r"need the package mne-bids: pip install 'jaxalign\[data\]'"):
        Bids(folder=str(bids[0]), **LOOK, steps=[EPOCH]).recordings()


# Options.

OF_STEPS = [kind for kind in DATASETS.values() if "steps" in get_type_hints(kind)]


def test_the_data_sets_with_steps_are_known():
    assert {MneRaw, Bids, Alice, Ds004408} <= set(OF_STEPS)


@pytest.mark.parametrize("kind", OF_STEPS)
def test_every_data_set_with_steps_selects_alike(kind):
    """What a selection is called, holds and defaults to is said once, by Wanted."""
    assert {"picks", "channels", "stimuli", "test_column"} <= set(SELECTION)
    ours, theirs = get_type_hints(kind), get_type_hints(Wanted)
    for name in SELECTION:
        assert ours[name] == theirs[name] and getattr(kind(), name) == getattr(Wanted(), name), name


@pytest.mark.parametrize("kind", [*OF_STEPS, MneEpochs])
def test_lists_of_names_are_tuples_of_strings(kind):
    lists = [name for name, hint in get_type_hints(kind).items() if hint == tuple[str, ...]]
    assert {"channels", "notes"} <= set(lists)
    made = kind(**{name: ["Cz", 3] for name in lists})
    assert [getattr(made, name) for name in lists] == [("Cz", "3")] * len(lists)


# From the command line.


def test_options_of_steps_come_from_the_configuration(written):
    path, _, _ = written
    steps = "[{name: filter, high_hz: 30}, {name: epoch, tmin_s: 0, tmax_s: 0.2}]"
    words = [
        "dataset=mne_raw",
        f"dataset.path={path}",
        "dataset.stimulus_columns=[event,index]",
        f"dataset.steps={steps}",
    ]
    run = compose([*words, "dataset.use_events=[Stimulus/a]", "model=[fas]", "metric=[correlation]"])
    (one,) = run.dataset.recordings()
    assert one.values.shape == (4, 12, 41) and one.origin["steps"][0] == {"name": "filter", "high_hz": 30}
    with pytest.raises(ConfigError, match=r"step 1 is 'fliter', which is no step\. Nearest: filter"):
        compose([*words[:3], "dataset.steps=[{name: fliter}]", "model=[fas]", "metric=[correlation]"])


MAPS = [
    (name, field)
    for name, kind in DATASETS.items()
    for field, hint in get_type_hints(kind).items()
    if get_origin(hint) is dict
]


@pytest.mark.parametrize(("name", "option"), MAPS)
def test_maps_are_written_on_the_command_line(name, option):
    """With words or numbers as names, whole or one at a time; what an entry of conf/ says is kept."""
    words = [f"dataset={name}", "model=[fas]", "metric=[correlation]"]
    made = compose([*words, f"dataset.{option}={{Stimulus/S  1: one, 2: 7.5}}", f"dataset.{option}.b=[x, y]"])
    assert getattr(made.dataset, option) == {"Stimulus/S  1": "one", "2": 7.5, "b": ["x", "y"]}
    with pytest.raises(ConfigError, match=rf"no option 'dataset\.{option}x' in what is chosen .* Nearest: {option}"):
        compose([*words, f"dataset.{option}x={{a: b}}"])


def test_every_map_of_a_recording_is_tested_here():
    assert {option for _, option in MAPS} == {"files", "event_names", "channel_types", "segment_starts_s"}


def test_triggers_are_named_and_channels_typed_on_the_command_line(data_folder):
    path = data_folder / "eeglab" / "eeglab_data.set"
    words = ["dataset=mne_raw", f"dataset.path={path}", "dataset.stimulus_columns=[event,index]", "model=[fas]"]
    maps = ["dataset.event_names={square: 1, rt: 2}", "dataset.channel_types={EOG1: eog, EOG2: eog}"]
    steps = "dataset.steps=[{name: epoch, tmin_s: 0, tmax_s: 0.1}]"
    run = compose([*words, *maps, steps, "metric=[correlation]"])
    (one,) = run.dataset.recordings()
    assert len(one.stimulus_ids) == 154 and set(one.columns["event"]) == {"1", "2"}
    assert len(one.channels) == 30 and not {"EOG1", "EOG2"} & set(one.channels)
