"""THINGS-EEG2 is read as published: what is in the files comes out, nothing is executed, and noise is normalised."""

import datetime
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import mne
import numpy as np
import pytest
import writers_things as writers
from scipy.linalg import fractional_matrix_power

from jaxalign.commands.composed import compose
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Fit, NullConfig, RunConfig
from jaxalign.errors import ConfigError, DataError
from jaxalign.runtime.designs import design_of
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.null import labellings_of
from jaxalign.sources import mvnn, things_eeg2, things_raw
from jaxalign.sources.montage import are_metres
from jaxalign.sources.restricted import read_npy
from jaxalign.sources.simulated import CHANNELS
from jaxalign.sources.things_eeg2 import ThingsEeg2
from jaxalign.sources.things_files import CHANNELS_17
from jaxalign.sources.things_raw import ThingsEeg2Raw

# Files without code.

PLAIN = {
    "array": np.arange(24.0).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(3, dtype=">f8"),
    "single": np.arange(5, dtype=np.float32),
    "texts": np.array(["ab", "c"]),
    "bools": np.array([True, False]),
    "empty": np.empty((0, 3)),
    "nested": {"list": ["O1", "Öz", 1, -5, 2**40, 1.5, True, None], "tuple": (1, (2, "x")), 3: "number"},
    "scalars": [np.float64(3.5), np.int32(-2), np.str_("q")],
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_values_come_back_from_every_protocol(tmp_path, protocol):
    (tmp_path / "x.npy").write_bytes(pickle.dumps(PLAIN, protocol))
    assert_equal(read_npy(tmp_path / "x.npy").value, PLAIN)


def test_what_numpy_saves_comes_back(tmp_path):
    np.save(tmp_path / "x.npy", PLAIN, allow_pickle=True)
    assert_equal(read_npy(tmp_path / "x.npy").value, PLAIN)
    np.save(tmp_path / "y.npy", PLAIN["array"])
    assert_equal(read_npy(tmp_path / "y.npy").value, PLAIN["array"])
    objects = np.array(["x", None, [1, 2]], object)
    np.save(tmp_path / "z.npy", objects, allow_pickle=True)
    assert read_npy(tmp_path / "z.npy").value.tolist() == objects.tolist()


def assert_equal(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted, strict=True)
    else:
        assert found == wanted


def test_the_older_and_the_newer_names_of_numpy_are_read(tmp_path):
    """numpy.core became numpy._core in NumPy 2; the released files have the old name."""
    content = pickle.dumps(PLAIN["array"], 3)
    other = content.replace(b"numpy._core.", b"numpy.core.") if b"numpy._core." in content else content
    for name, one in (("new", content), ("old", other)):
        (tmp_path / f"{name}.npy").write_bytes(one)
        assert_equal(read_npy(tmp_path / f"{name}.npy").value, PLAIN["array"])


def test_arrays_stay_in_the_file_and_cannot_be_written(tmp_path):
    np.save(tmp_path / "x.npy", {"array": np.arange(1000.0)}, allow_pickle=True)
    content = read_npy(tmp_path / "x.npy")
    array = content.value["array"]
    assert not array.flags.owndata and not array.flags.writeable
    content.release()
    np.testing.assert_array_equal(array, np.arange(1000.0))


class Harmful:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("place", ["alone", "in a dict", "in a list"])
def test_code_is_refused_by_name_and_not_executed(tmp_path, protocol, place):
    harmful = Harmful(tmp_path / "harm")
    content = {"alone": harmful, "in a dict": {"times": harmful}, "in a list": [1, [harmful]]}[place]
    (tmp_path / "x.npy").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(DataError, match=r"is refused: it names (posix|nt)\.mkdir, .*Nothing of it was executed"):
        read_npy(tmp_path / "x.npy")
    assert not (tmp_path / "harm").exists()
    held = np.empty((), object)
    held[()] = content
    np.save(tmp_path / "y.npy", held, allow_pickle=True)
    with pytest.raises(DataError, match=r"y\.npy is refused: it names (posix|nt)\.mkdir"):
        read_npy(tmp_path / "y.npy")
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(content, protocol))
    assert (tmp_path / "harm").exists(), "it would have been, by an unpickler"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (datetime.date(2020, 1, 1), r"datetime\.date"),
        (Path("x"), r"pathlib"),
        (eval, r"builtins\.eval|__builtin__\.eval"),
        (getattr, r"builtins\.getattr"),
        (np.random.RandomState(0), r"numpy\.random"),
        (complex(1, 2), r"builtins\.complex"),
        ({1, 2}, "a set"),
        (frozenset({1}), "a frozen set"),
        ({"x": b"bytes"}, "5 bytes"),
        ([dict], "the name dict"),
        (np.array([(1, 2.0)], "i4,f8"), "not of numbers or texts"),
        (np.array(["2020-01-01"], "M8[D]"), "not of numbers or texts"),
    ],
    ids=str,
)  # fmt: skip
def test_everything_but_plain_values_is_refused_by_name(tmp_path, value, named):
    (tmp_path / "x.npy").write_bytes(pickle.dumps(value, 4))
    with pytest.raises(DataError, match=f"is refused: .*({named})"):
        read_npy(tmp_path / "x.npy")


def test_opcodes_that_make_objects_are_refused(tmp_path):
    for name, stream in {
        "instance": b"\x80\x02(ios\nsystem\n.",
        "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "extension": b"\x80\x02\x82\x01.",
        "called array": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        "dotted": b"\x80\x04\x8c\x08builtins\x8c\x0dlist.__init__\x93.",
    }.items():
        (tmp_path / "x.npy").write_bytes(stream)
        with pytest.raises(DataError, match="is refused: "):
            read_npy(tmp_path / "x.npy")
            pytest.fail(name)


def test_no_damage_gets_past_the_reader(tmp_path):
    """Cut anywhere, or with bytes changed, a file is read or refused in words; nothing else is raised."""
    np.save(tmp_path / "x.npy", PLAIN, allow_pickle=True)
    whole = (tmp_path / "x.npy").read_bytes()
    path, rng = tmp_path / "t.npy", np.random.default_rng(0)
    for size in range(1, len(whole) - 1, 11):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"t\.npy"):
            read_npy(path)
    n_read = 0
    for _ in range(1000):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.choice([1, 1, 4])):
            changed[place] = rng.integers(256)
        path.write_bytes(bytes(changed))
        try:
            read_npy(path)
            n_read += 1
        except DataError:
            pass
    assert 0 < n_read < 1000


def test_tuples_of_tuples_do_not_take_for_ever(tmp_path):
    value = ()
    for _ in range(200):
        value = (value, value)
    (tmp_path / "x.npy").write_bytes(pickle.dumps(value, 4))
    assert len(read_npy(tmp_path / "x.npy").value) == 2


def test_other_formats_are_named(tmp_path):
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.npy cannot be read"):
        read_npy(tmp_path / "empty.npy")
    with zipfile.ZipFile(tmp_path / "zip.npy", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DataError, match="it begins with b'PK"):
        read_npy(tmp_path / "zip.npy")
    with pytest.raises(DataError, match=r"nosuch\.npy cannot be read"):
        read_npy(tmp_path / "nosuch.npy")


# The preprocessed files.


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("things")
    return folder, writers.official(folder)


def source(folder, **options):
    return ThingsEeg2(path=str(folder), **options)


def test_averages_and_trials_are_those_of_the_files(release):
    folder, held = release
    found = source(folder).recordings()
    assert [recording.subject for recording in found] == ["01", "02"]
    for recording in found:
        training, test = (held[recording.subject][part]["preprocessed_eeg_data"] for part in ("training", "test"))
        assert recording.values.dtype == recording.trials.dtype == np.float32
        np.testing.assert_allclose(recording.values[:12], training.mean(1), atol=1e-6)
        np.testing.assert_allclose(recording.values[12:], test.mean(1), atol=1e-6)
        np.testing.assert_allclose(recording.trials, test, rtol=1e-6)
        np.testing.assert_array_equal(recording.n_repetitions, [4] * 12 + [8] * 5)
        np.testing.assert_array_equal(recording.is_test, [False] * 12 + [True] * 5)
        np.testing.assert_allclose(recording.starts_s, writers.times_100_hz(), atol=1e-9)
        np.testing.assert_allclose(recording.stops_s - recording.starts_s, 0.01, atol=1e-9)
        assert recording.unit == "a.u." and not recording.is_simulated, "whitened responses are no volts"
        assert recording.channels == CHANNELS_17 and are_metres(recording.positions)


OCCIPITAL = ("O1", "Oz", "O2")
PARIETAL = ("P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8")


def test_the_17_channels_are_those_of_the_paper():
    assert len(CHANNELS) == 63 and len(CHANNELS_17) == 17
    assert set(CHANNELS_17) == {*OCCIPITAL, *PARIETAL}


def test_stimuli_are_named_by_their_images_and_concepts_are_split(release):
    (recording, _) = source(release[0]).recordings()
    assert recording.stimulus_ids[0] == "aardvark_01b" and recording.stimulus_ids[12] == "aircraft_carrier_06s"
    assert recording.columns["file"][0] == "aardvark_01b.jpg"
    np.testing.assert_array_equal(recording.columns["is_test"], recording.is_test)
    np.testing.assert_array_equal(recording.columns["condition"], [*range(1, 13), *range(1, 6)])
    concepts = recording.columns["concept"]
    assert concepts[4] == "00002_abacus" and not set(concepts[:12]) & set(concepts[12:])


def test_images_are_matched_by_the_names_that_a_folder_gives_them(release, tmp_path):
    from PIL import Image

    from jaxalign.sources.image_files import Images

    names = [name for key in ("train_img_files", "test_img_files") for name in writers.metadata()[key]]
    for name in names:
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    shown = Images(path=str(tmp_path)).ids()
    assert set(shown) == set(source(release[0]).recordings()[0].stimulus_ids)


def test_without_metadata_stimuli_are_numbers_and_a_note_says_so(tmp_path):
    writers.preprocessed_files(tmp_path, writers.preprocessed())
    (recording,) = source(tmp_path).recordings()
    assert recording.stimulus_ids[:2] == ("training/00001", "training/00002")
    assert recording.stimulus_ids[12] == "test/00001" and "concept" not in recording.columns
    assert "image_metadata.npy was not found" in recording.origin["notes"][0]


def test_channels_times_and_bins_are_chosen(tmp_path):
    held = writers.preprocessed(63)
    writers.preprocessed_files(tmp_path, held)
    data = held["training"]["preprocessed_eeg_data"].mean(1)
    (few,) = source(tmp_path).recordings()
    assert few.channels == CHANNELS_17
    (every,) = source(tmp_path, channels=63).recordings()
    assert every.channels == CHANNELS
    (chosen,) = source(tmp_path, channels=["Oz", "Fp1"], tmin_s=0.0, tmax_s=0.39, time_bin_s=0.02).recordings()
    assert chosen.channels == ("Oz", "Fp1")
    picks = [CHANNELS.index(name) for name in chosen.channels]
    np.testing.assert_allclose(chosen.values[:12], data[:, picks, 20:60].reshape(12, 2, 20, 2).mean(-1), atol=1e-6)
    np.testing.assert_allclose(chosen.starts_s, np.arange(20) * 0.02, atol=1e-9)
    np.testing.assert_allclose(chosen.values[12:], chosen.trials.mean(1), atol=1e-6)


def test_blocks_of_any_size_give_the_same(release, monkeypatch):
    whole = source(release[0]).recordings()[0]
    monkeypatch.setattr(things_eeg2, "BLOCK_BYTES", 1)
    np.testing.assert_array_equal(source(release[0]).recordings()[0].values, whole.values)
    assert source(release[0], keep_trials=False).recordings()[0].trials is None


def test_the_250_hz_release_is_read(tmp_path):
    """A bare pickle of protocol 4; the responses start at onset, and the times before it are still there."""
    held = writers.preprocessed(63, -0.2 + np.arange(300) / 250)
    into = writers.preprocessed_files(tmp_path, held)
    for part, content in held.items():
        content["preprocessed_eeg_data"] = content["preprocessed_eeg_data"][..., 50:]
        (into / f"preprocessed_eeg_{part}.npy").write_bytes(pickle.dumps(content, 4))
    (recording,) = source(tmp_path, channels="63").recordings()
    assert recording.values.shape == (17, 63, 250) and recording.origin["sfreq_hz"] == 250
    np.testing.assert_allclose(recording.starts_s, np.arange(250) / 250, atol=1e-9)
    assert "before onset, are dropped" in " ".join(recording.origin["notes"])
    np.testing.assert_allclose(recording.trials, held["test"]["preprocessed_eeg_data"], rtol=1e-6)


@pytest.mark.parametrize("depth", ["", "preprocessed_data", "preprocessed_data/sub-01"])
def test_the_folder_may_be_given_at_any_depth(release, depth):
    (recording,) = source(release[0] / depth, subjects=[1]).recordings()
    assert recording.subject == "01" and recording.stimulus_ids[0] == "aardvark_01b"


def test_archives_that_unpack_into_a_folder_of_their_own_name_are_read(tmp_path):
    folder = writers.preprocessed_files(tmp_path / "a", writers.preprocessed())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "sub-01").mkdir()
    folder.rename(tmp_path / "b" / "sub-01" / "sub-01")
    assert len(source(tmp_path / "b").recordings()) == 1


def test_cross_validation_over_sessions_is_refused_with_the_reason(release):
    with pytest.raises(
        ConfigError, match=r"merge the repetitions of the 4 sessions and shuffle.*dataset=things_eeg2_raw"
    ):
        source(release[0], partition="sessions").recordings()
    one = source(release[0]).recordings()[0]
    inputs = Inputs([one], [Fit("m", "", "l", 0.0, "none", 3)], [], [False], ["m"], None, {})
    for options, asked in (({"folds": "runs"}, r"metric\.mine\.folds=runs: there is no column 'run'"),
                           ({"group_by": "session"}, r"group_by='session': there is no column 'session'")):  # fmt: skip
        metric = Ridge(**options)
        with pytest.raises(
            ConfigError, match=rf"{asked}, since the preprocessed files .* merge .* and shuffle.*concept"
        ):
            design_of(metric, RunConfig(metric={"mine": metric}), inputs)
    strata = RunConfig(null=NullConfig("strata", "session"))
    design = design_of(Ridge(), strata, inputs)
    with pytest.raises(ConfigError, match=r"null\.column='session': there is no column 'session', since the prepro"):
        labellings_of(Ridge(), "responses", design, strata, inputs)
    with pytest.raises(ConfigError, match=r"dataset\.partition=session is none of .*Nearest: sessions"):
        source(release[0], partition="session").recordings()


def test_the_identity_of_a_recording_is_its_values(release, tmp_path):
    first, second = (recording.origin["values_sha256"] for recording in source(release[0]).recordings())
    assert len(first) == 64 and first != second
    assert source(release[0], subjects=("02",)).recordings()[0].origin["values_sha256"] == second


def test_settings_compose_from_the_command_line(release):
    words = ["model=[fas]", "metric=[correlation]", "dataset=things_eeg2"]
    run = compose([*words, f"dataset.path={release[0]}", "dataset.subjects=[02]", "dataset.channels=[Oz,Pz]"])
    (recording,) = run.dataset.recordings()
    assert recording.subject == "02" and set(recording.channels) == {"Oz", "Pz"}
    assert compose(words).dataset.channels == "17"
    raw = compose([*words[:2], "dataset=things_eeg2_raw", "dataset.sessions=[1,2]", "dataset.sfreq_hz=250"]).dataset
    assert isinstance(raw, ThingsEeg2Raw) and raw.sessions == (1, 2) and raw.mvnn_fit == "train"
    assert hash(raw) and hash(run.dataset)


@pytest.mark.parametrize("value", [18, "all", [], [1], None, {"O1": 1}])
def test_channels_are_17_63_or_names(value):
    with pytest.raises(ConfigError, match=r"dataset\.channels=.*write 17, 63 or a list"):
        ThingsEeg2(channels=value)


def test_a_run_scores_the_test_images_and_bounds_them_by_their_trials(release, tmp_path):
    """From the command line to the table: the only rows are of the 5 test images, with a split-half ceiling."""
    from jaxalign import commands
    from jaxalign.results import load

    words = [
        "dataset=things_eeg2", f"dataset.path={release[0]}", "dataset.subjects=[01]", "dataset.time_bin_s=0.1",
        "model=[fas]", "model.fas.columns=[condition]", "metric=[ridge]", "metric.ridge.n_permutations=10",
        "metric.ridge.n_inner=2", f"output={tmp_path / 'out'}", "report=false",
    ]  # fmt: skip
    assert commands.main(words) == 0
    table = load(tmp_path / "out")
    assert len(set(table["channel"])) == 17 and len(set(table["time_start_s"])) == 10
    assert set(table["n_stimuli"]) == {5} and not any(table["is_simulated"])


# Preprocessed files that cannot be used.


def damaged(tmp_path, part="training", images=True, **changes):
    """Files of one subject in which one part has other content."""
    held = writers.preprocessed()
    for key, value in changes.items():
        if value is None:
            del held[part][key]
        else:
            held[part][key] = value(held[part][key]) if callable(value) else value
    if images:
        writers.images_file(tmp_path)
    return writers.preprocessed_files(tmp_path, held)


def refused(tmp_path, match, kind=DataError, **options):
    with pytest.raises(kind, match=match) as found:
        source(tmp_path, **options).recordings()
    assert any(letter.isdigit() for letter in str(found.value)), "found, with numbers"


def test_a_wrong_folder_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "training_images").mkdir()
    refused(tmp_path, r"No sub-\*/preprocessed_eeg_\*\.npy in .*holds 1 entries: training_images\. Set dataset\.path")
    refused(tmp_path / "nosuch", r"nosuch does not exist. Looked for .*sub-01")
    with pytest.raises(ConfigError, match=r"set dataset\.path=FOLDER"):
        source("").recordings()


def test_the_raw_release_in_its_place_is_named(tmp_path):
    writers.raw(tmp_path, 1)
    refused(tmp_path / "raw_data", "use dataset=things_eeg2_raw")
    (tmp_path / "other").mkdir()
    writers.preprocessed_files(tmp_path / "other", writers.preprocessed())
    with pytest.raises(DataError, match=r"use dataset=things_eeg2\."):
        ThingsEeg2Raw(path=str(tmp_path / "other" / "preprocessed_data")).recordings()


def test_a_subject_that_is_not_there_is_named(release):
    refused(release[0], "1 of 2 subjects are not in .*: 11. It has 01, 02", subjects=["01", "11"])


def test_a_missing_part_is_named(tmp_path):
    (damaged(tmp_path) / "preprocessed_eeg_test.npy").unlink()
    refused(tmp_path, r"preprocessed_eeg_test\.npy was not found\. .* holds preprocessed_eeg_training\.npy")


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.5, 0.9999])
def test_a_truncated_file_is_refused(tmp_path, fraction):
    path = damaged(tmp_path) / "preprocessed_eeg_training.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    refused(tmp_path, r"preprocessed_eeg_training\.npy")


@pytest.mark.parametrize("images", [True, False])
def test_swapped_files_are_told_by_their_shapes(tmp_path, images):
    """Shapes of the release, 16,540 x 4 and 200 x 80, in small: fewer conditions have more repetitions."""
    folder = damaged(tmp_path, images=images)
    training, test = (folder / f"preprocessed_eeg_{part}.npy" for part in ("training", "test"))
    training.rename(folder / "x")
    test.rename(training)
    (folder / "x").rename(test)
    refused(
        tmp_path,
        "training.npy has 5 conditions x 8 repetitions and .*test.npy has 12 conditions x 4.* swapped. Training is "
        "16,540 x 4",
    )
    training.write_bytes(test.read_bytes())
    refused(tmp_path, "one file is in both places")


def test_files_of_other_images_are_refused(tmp_path):
    damaged(tmp_path, preprocessed_eeg_data=lambda data: data[:-1])
    refused(tmp_path, "has 11 conditions .* names 12 training and 5 test images")


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path):
    damaged(tmp_path, times=Harmful(tmp_path / "harm"))
    refused(tmp_path, r"training\.npy is refused: it names (posix|nt)\.mkdir")
    assert not (tmp_path / "harm").exists()
    path = tmp_path / "metadata.npy"
    path.write_bytes(pickle.dumps(Harmful(tmp_path / "harm"), 4))
    refused(tmp_path, r"metadata\.npy is refused", images=str(path))
    assert not (tmp_path / "harm").exists()


def test_keys_shapes_and_lengths_are_checked(tmp_path):
    cases = {
        r"has no key 'times'; it has 'preprocessed_eeg_data', 'ch_names'": {"times": None},
        r"16 channel names for 17 channels": {"ch_names": lambda names: names[:-1]},
        r"99 times for 100 samples": {"times": lambda times: times[:-1]},
        r"101 times for 100 samples": {"times": lambda times: np.append(times, 0.8)},
        r"has shape \(12, 4, 17\)": {"preprocessed_eeg_data": lambda data: data[..., 0]},
        r"has list": {"preprocessed_eeg_data": [1]},
        r"'O1' occurs 2 times": {"ch_names": lambda names: [*names[:4], names[3], *names[5:]]},
        r"times are not seconds in even steps": {"times": np.full(100, np.nan)},
        r"the parts have 100 and 100 times, from 0.000 and -0.200": {"times": np.arange(100) / 100},
    }
    for number, (match, changes) in enumerate(cases.items()):
        (tmp_path / str(number)).mkdir()
        damaged(tmp_path / str(number), **changes)
        refused(tmp_path / str(number), match)


def test_channels_that_differ_between_parts_are_refused(tmp_path):
    damaged(tmp_path, part="test", ch_names=lambda names: names[::-1])
    refused(tmp_path, "17 and 17 channels, and 16 differ, first 'Pz' and 'P2'")


def test_channels_that_are_not_in_the_file_or_the_montage_are_named(tmp_path):
    names = ["Pz_", *CHANNELS_17[1:]]
    held = writers.preprocessed()
    for part in held.values():
        part["ch_names"] = names
    writers.preprocessed_files(tmp_path, held)
    refused(tmp_path, "has 17 channels, and 1 of the 17 .* first 'Pz'. Nearest: Pz_")
    refused(tmp_path, "1 of 2 channels are not in the 10-05 montage, first 'Pz_'", channels=["Oz", "Pz_"])
    refused(tmp_path, "47 of the 63", channels=63)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["training", "test"])
def test_nan_is_found_with_its_place(tmp_path, part, bad):
    def broken(data):
        data = data.copy()
        data[2, 1, 3, 25] = bad
        return data

    damaged(tmp_path, part=part, preprocessed_eeg_data=broken)
    name = "aardvark_03b" if part == "training" else "backscratcher_06s"
    refused(tmp_path, rf"1 of 28900 responses are NaN or Inf, first at stimulus '{name}', channel O1, bin \[0\.050")


def test_damaged_image_metadata_is_refused(tmp_path):
    damaged(tmp_path)
    for match, key, value in (
        (
            r"17 stimuli have 16 different ids; 1 occur more than once, first 'aardvark_01b'",
            "test_img_files",
            ["aardvark_01b.jpg"],
        ),
        (r"1 concepts are in both parts, first '00001_aardvark'", "test_img_concepts_THINGS", ["00001_aardvark"]),
    ):
        content = writers.metadata()
        content[key] = [*value, *content[key][1:]]
        writers.images_file(tmp_path, content)
        refused(tmp_path, match)
    content = writers.metadata()
    content["test_img_files"].pop()
    writers.images_file(tmp_path, content)
    refused(tmp_path, "names 4 test images and 5 concepts")
    del content["test_img_files"]
    writers.images_file(tmp_path, content)
    refused(tmp_path, r"has no key 'test_img_files'; it has .*'train_img_concepts'.")
    refused(tmp_path, r"dataset\.images=nosuch0 is no file", images="nosuch0")


def test_a_window_outside_the_epoch_is_refused(release):
    refused(release[0], r"runs from -0.200 to 0.790 s, and dataset.tmin_s=0.9", tmin_s=0.9, tmax_s=1.2)
    refused(release[0], "holds 1.500 samples at 100 Hz", kind=ConfigError, time_bin_s=0.015)


# Full size: 16,540 x 4 x 17 x 100 at 0.9 GB and 16,540 x 4 x 63 x 250 at 8.3 GB.

READ = """
import json, resource, sys, time
from jaxalign.sources.things_eeg2 import ThingsEeg2
started = time.monotonic()
(recording,) = ThingsEeg2(path=sys.argv[1], channels=sys.argv[2]).recordings()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "seconds": time.monotonic() - started,
    "shape": recording.values.shape, "trials": recording.trials.shape,
    "first": float(recording.values[0, 0, 0]), "last": float(recording.trials[-1, -1, -1, -1])}))
"""


def full_size(folder, n_channels, times):
    """Files of full size whose first and last rows are not 0, and what these are."""
    into = folder / "sub-01"
    into.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = list(CHANNELS_17 if n_channels == 17 else CHANNELS)
    first, last = rng.standard_normal((4, n_channels, len(times))), rng.standard_normal((80, n_channels, len(times)))
    for part, shape, rows in (("training", (16540, 4), {0: first}), ("test", (200, 80), {199: last})):
        shape = (*shape, n_channels, len(times))
        writers.bare_pickle(into / f"preprocessed_eeg_{part}.npy", shape, names, times, rows)
    return first, last


def test_the_writer_of_full_size_files_writes_what_numpy_reads(tmp_path):
    rows = {1: np.random.default_rng(0).standard_normal((4, 3, 5))}
    path = writers.bare_pickle(tmp_path / "x.npy", (6, 4, 3, 5), ["O1", "Oz", "O2"], np.arange(5) / 100, rows)
    found = np.load(path, allow_pickle=True)
    assert found["ch_names"] == ["O1", "Oz", "O2"]
    ours = read_npy(path).value
    np.testing.assert_array_equal(found["preprocessed_eeg_data"][1], rows[1])
    np.testing.assert_array_equal(ours["preprocessed_eeg_data"], found["preprocessed_eeg_data"], strict=True)
    np.testing.assert_array_equal(ours["times"], found["times"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_channels", "times"),
    [(17, -0.2 + np.arange(100) / 100), (63, np.arange(250) / 250)],
    ids=["official", "63 at 250 Hz"],
)
def test_a_subject_of_full_size_is_read_within_3_gb(tmp_path, n_channels, times):
    first, last = full_size(tmp_path, n_channels, times)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ, str(tmp_path), str(n_channels)], capture_output=True, text=True, timeout=1200
        )
    finally:
        for path in tmp_path.rglob("*.npy"):
            path.unlink()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["shape"] == [16740, n_channels, len(times)] and found["trials"] == [200, 80, n_channels, len(times)]
    assert found["first"] == pytest.approx(first.mean(0)[0, 0], rel=1e-5)
    assert found["last"] == pytest.approx(last[-1, -1, -1], rel=1e-5)
    assert found["peak"] < 3e9


# Noise normalisation.


def sklearn_covariance(samples):
    """Ledoit and Wolf's covariance of standardised channels, with their variances put back; float64."""
    from sklearn.covariance import ledoit_wolf

    centred = samples - samples.mean(0)
    scale = np.sqrt((centred**2).mean(0))
    return ledoit_wolf(centred / scale)[0] * np.outer(scale, scale)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((9, 9)) * np.linspace(0.3, 3, 9)[:, None]
    return rng.standard_normal((6, 20, 9)) @ mixing.T + 5


def test_covariance_equals_ledoit_and_wolf_of_scikit_learn(samples):
    from sklearn.covariance import LedoitWolf, ledoit_wolf

    found = mvnn.shrunk_covariance(samples, is_standardised=False)
    for one, values in zip(found, samples, strict=True):
        np.testing.assert_allclose(one, LedoitWolf().fit(values).covariance_, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(one, ledoit_wolf(values)[0], rtol=1e-12, atol=1e-13)


def test_covariance_equals_rsatoolbox(samples):
    from rsatoolbox.data.noise import cov_from_residuals

    n = samples.shape[1]
    for one, values in zip(mvnn.shrunk_covariance(samples, False), samples, strict=True):
        theirs = cov_from_residuals(values - values.mean(0), dof=n, method="shrinkage_eye")
        np.testing.assert_allclose(one, theirs, rtol=1e-10, atol=1e-12)


def test_covariance_equals_that_of_the_published_code(samples):
    """scikit-learn's `_cov(shrinkage="auto")`, which standardises channels first."""
    from sklearn.discriminant_analysis import _cov

    for one, values in zip(mvnn.shrunk_covariance(samples), samples, strict=True):
        np.testing.assert_allclose(one, sklearn_covariance(values), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(one, _cov(values, shrinkage="auto"), rtol=1e-11, atol=1e-13)


def test_covariance_equals_that_of_the_compute_core(samples):
    import jax

    from jaxalign.compute.noise import noise_covariance, whitening

    with jax.enable_x64(True):
        n = samples.shape[1]
        theirs = np.asarray(noise_covariance(jax.numpy.asarray(samples[0]), "shrinkage_eye", n))
        ours = mvnn.shrunk_covariance(samples[:1], False)[0]
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(mvnn.inverse_root(ours, ""), np.asarray(whitening(theirs)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_samples", [2, 3, 40])
def test_constant_channels_and_pairs_of_samples_are_no_special_case(n_samples):
    from sklearn.discriminant_analysis import _cov

    values = np.random.default_rng(0).standard_normal((n_samples, 5))
    values[:, 2] = 3.0
    np.testing.assert_allclose(mvnn.shrunk_covariance(values[None])[0], _cov(values, shrinkage="auto"), atol=1e-12)
    assert (mvnn.shrunk_covariance(np.ones((1, 4, 3))) == 0).all()


@pytest.mark.parametrize("dimension", mvnn.DIMENSIONS)
def test_the_covariance_of_a_condition_is_the_mean_over_times_or_epochs(dimension):
    trials = np.random.default_rng(0).standard_normal((6, 4, 10)) * 1e-5
    sets = [trials[:, :, time] for time in range(10)] if dimension == "time" else [one.T for one in trials]
    wanted = np.mean([sklearn_covariance(one) for one in sets], axis=0)
    np.testing.assert_allclose(mvnn.condition_covariance(trials, dimension), wanted, rtol=1e-10, atol=1e-22)


@pytest.mark.parametrize("n_repetitions", [2, 1000])
def test_whitened_noise_is_white(n_repetitions):
    """About their mean, n repetitions show (n - 1) / n of the noise variance; what is whitened is larger by as much.

    With 2 repetitions nothing is shrunk, and with 1,000 little; in between, noise stays somewhat correlated.
    """
    rng = np.random.default_rng(0)
    mixing = np.eye(6) + 0.3 * rng.standard_normal((6, 6))
    trials = np.einsum("ij,cnjt->cnit", mixing, rng.standard_normal((600 // n_repetitions + 3, n_repetitions, 6, 30)))
    root = mvnn.inverse_root(np.mean([mvnn.condition_covariance(one, "time") for one in trials], axis=0), "")
    whitened = root @ mixing @ mixing.T @ root * (n_repetitions - 1) / n_repetitions
    np.testing.assert_allclose(whitened, np.eye(6), atol=0.06)


def test_the_inverse_root_is_the_fractional_power(samples):
    covariance = mvnn.shrunk_covariance(samples)[0] * 1e-10
    found = mvnn.inverse_root(covariance, "")
    np.testing.assert_allclose(found, fractional_matrix_power(covariance, -0.5).real, rtol=1e-9)
    np.testing.assert_allclose(found @ covariance @ found, np.eye(9), atol=1e-9)


def test_a_singular_covariance_is_refused_with_numbers():
    with pytest.raises(
        DataError, match=r"s01: the noise covariance of 3 channels is singular .*1 channels do not vary"
    ):
        mvnn.inverse_root(np.diag([1.0, 2.0, 0.0]), "s01")
    with pytest.raises(DataError, match="not finite"):
        mvnn.inverse_root(np.full((2, 2), np.nan), "s01")


# The raw release.


@pytest.fixture(scope="module")
def raw_release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return folder, writers.raw(folder)


def raw_source(folder, **options):
    return ThingsEeg2Raw(path=str(folder), **options)


def oracle_epochs(held, sfreq_hz=100.0):
    """The published steps on whole arrays: targets out, epochs, baseline, resampling. -> (values, conditions)"""
    info = mne.create_info(held["ch_names"], held["sfreq"], held["ch_types"], verbose="error")
    raw = mne.io.RawArray(held["raw_eeg_data"], info, verbose="error")
    events = mne.find_events(raw, stim_channel="stim", verbose="error")
    events = events[events[:, 2] != 99999]
    raw.pick([name for name in held["ch_names"] if name.startswith(("O", "P"))])
    epochs = mne.Epochs(raw, events, tmin=-0.2, tmax=0.8, baseline=(None, 0), preload=True, verbose="error")
    epochs.resample(sfreq_hz, verbose="error")
    return epochs.get_data(copy=True), epochs.events[:, 2]


def oracle_covariance(values, conditions, dimension):
    """Mean over conditions of the mean covariance over times or epochs, float64."""
    found = []
    for condition in np.unique(conditions):
        trials = values[conditions == condition]
        sets = trials.transpose(2, 0, 1) if dimension == "time" else trials.transpose(0, 2, 1)
        found.append(np.mean([sklearn_covariance(one) for one in sets], axis=0))
    return np.mean(found, axis=0)


def oracle(held, dimension, fit):
    """Whitened trials, session by session. -> part -> condition -> (n_trials, n_channels, n_times)"""
    found = {"training": {}, "test": {}}
    for session in held.values():
        epochs = {part: oracle_epochs(session[part]) for part in found}
        root = np.eye(17)
        if dimension != "none":
            noise = [
                oracle_covariance(*epochs[part], dimension)
                for part in (found if fit == "as_published" else ["training"])
            ]
            root = fractional_matrix_power(np.mean(noise, axis=0), -0.5).real
        for part, (values, conditions) in epochs.items():
            for condition in np.unique(conditions):
                trials = np.einsum("ij,njt->nit", root, values[conditions == condition])
                found[part].setdefault(int(condition), []).append(trials)
    return {part: {number: np.concatenate(parts) for number, parts in of.items()} for part, of in found.items()}


@pytest.mark.parametrize(
    ("dimension", "fit"), [("none", "train"), ("time", "train"), ("time", "as_published"), ("epochs", "train")]
)
def test_raw_files_give_the_published_preprocessing(raw_release, dimension, fit):
    folder, held = raw_release
    (recording,) = raw_source(folder, mvnn=dimension, mvnn_fit=fit).recordings()
    wanted = oracle(held, dimension, fit)
    means = [wanted[part][number].mean(0) for part in ("training", "test") for number in sorted(wanted[part])]
    scale = np.std(means)
    np.testing.assert_allclose(recording.values / scale, np.array(means) / scale, atol=2e-5)
    trials = np.array([wanted["test"][number] for number in sorted(wanted["test"])])
    np.testing.assert_allclose(recording.trials / scale, trials / scale, atol=2e-5)
    np.testing.assert_allclose(recording.values[12:], recording.trials.mean(1), atol=2e-6 * scale)
    assert recording.unit == ("V" if dimension == "none" else "a.u.")


def test_a_raw_recording_has_its_labels(raw_release):
    (recording,) = raw_source(raw_release[0]).recordings()
    assert recording.values.shape == (17, 17, 100) and recording.trials.shape == (5, 12, 17, 100)
    np.testing.assert_array_equal(recording.n_repetitions, [4] * 12 + [12] * 5)
    assert recording.stimulus_ids[0] == "aardvark_01b" and set(recording.channels) == set(CHANNELS_17)
    assert recording.origin["session_of_trial"] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3, "sessions are kept"
    np.testing.assert_allclose(recording.starts_s, writers.times_100_hz(), atol=1e-9)
    assert are_metres(recording.positions)


def test_a_flat_channel_is_named(tmp_path):
    """Whitened, it would be a rounding error of the other channels."""
    held = writers.raw(tmp_path, 1)
    for part, content in held[1].items():
        content["raw_eeg_data"][content["ch_names"].index("Oz")] = 1e-5
        np.save(tmp_path / "raw_data" / "sub-01" / "ses-01" / f"raw_eeg_{part}.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match="session 1: 1 of 17 channels do not vary, first Oz"):
        raw_source(tmp_path).recordings()
    (bare,) = raw_source(tmp_path, mvnn="none").recordings()
    assert (bare.values[:, bare.channels.index("Oz")] == 0).all()


def test_blocks_of_epochs_do_not_change_what_comes_out(raw_release, monkeypatch):
    whole = raw_source(raw_release[0]).recordings()[0]
    monkeypatch.setattr(things_raw, "BLOCK_BYTES", 1)
    np.testing.assert_allclose(raw_source(raw_release[0]).recordings()[0].values, whole.values, rtol=1e-6, atol=1e-6)


def test_the_training_fit_does_not_see_test_trials(raw_release, tmp_path):
    folder, held = tmp_path, writers.raw(tmp_path, 1)
    (before,) = raw_source(folder, sessions=[1]).recordings()
    (published,) = raw_source(folder, sessions=[1], mvnn_fit="as_published").recordings()
    held[1]["test"]["raw_eeg_data"][:5] *= 3
    np.save(folder / "raw_data" / "sub-01" / "ses-01" / "raw_eeg_test.npy", held[1]["test"], allow_pickle=True)
    (after,) = raw_source(folder, sessions=[1]).recordings()
    (republished,) = raw_source(folder, sessions=[1], mvnn_fit="as_published").recordings()
    n_training = int((~before.is_test).sum())
    np.testing.assert_array_equal(before.values[:n_training], after.values[:n_training])
    assert not np.allclose(published.values[:n_training], republished.values[:n_training], rtol=1e-3)


def test_sessions_rates_channels_and_times_are_chosen(raw_release):
    (recording,) = raw_source(
        raw_release[0], sessions=[2], channels=["Fz", "Oz"], sfreq_hz=250, tmin_s=0.0, tmax_s=0.396,
        time_bin_s=0.02, mvnn="none",
    ).recordings()  # fmt: skip
    assert recording.channels == ("Fz", "Oz") and recording.values.shape == (6 + 5, 2, 20)
    np.testing.assert_allclose(recording.starts_s, np.arange(20) * 0.02, atol=1e-9)
    np.testing.assert_array_equal(recording.columns["condition"], [*range(7, 13), *range(1, 6)])
    values, conditions = oracle_epochs(raw_release[1][2]["training"], 250.0)
    names = [name for name in writers.RAW_CHANNELS if name[0] in "OP"]
    wanted = values[conditions == 7][:, names.index("Oz"), 50:150].reshape(2, 20, 5).mean((0, 2))
    np.testing.assert_allclose(recording.values[0, 1], wanted, rtol=1e-4, atol=1e-10)


def test_more_repetitions_than_published_are_left_out_by_its_seed(tmp_path, monkeypatch):
    held = writers.raw(tmp_path, 1)
    monkeypatch.setitem(things_raw.MAX_REPETITIONS, "test", 2)
    (recording,) = raw_source(tmp_path, mvnn="none").recordings()
    assert recording.trials.shape[1] == 2 and set(recording.n_repetitions) == {2}
    from sklearn.utils import shuffle

    values, conditions = oracle_epochs(held[1]["test"])
    chosen = shuffle(np.flatnonzero(conditions == 1), random_state=20200220, n_samples=2)
    np.testing.assert_allclose(recording.values[6], values[chosen].mean(0), rtol=1e-4, atol=1e-10)


def test_crossvalidation_over_sessions_is_allowed_for_sessions_alike(raw_release):
    assert raw_source(raw_release[0], partition="sessions").recordings()[0].trials is not None
    with pytest.raises(DataError, match=r"sessions have \{1: 3\} test trials per image\. .* at least 2 sessions"):
        raw_source(raw_release[0], partition="sessions", sessions=[1]).recordings()


def test_values_that_are_no_volts_are_not_called_so(tmp_path):
    held = writers.raw_part("training", 1, 0), writers.raw_part("test", 1, 0)
    into = tmp_path / "sub-01" / "ses-01"
    into.mkdir(parents=True)
    for part, content in zip(("training", "test"), held, strict=True):
        content["raw_eeg_data"][:-1] *= 1e6
        np.save(into / f"raw_eeg_{part}.npy", content, allow_pickle=True)
    (recording,) = raw_source(tmp_path, mvnn="none").recordings()
    assert recording.unit == "a.u." and "not volts" in " ".join(recording.origin["notes"])


# Raw files that cannot be used.


def raw_damaged(tmp_path, match, part="training", kind=DataError, options=None, **changes):
    folder = tmp_path / f"case{len(list(tmp_path.iterdir()))}"
    into = folder / "sub-01" / "ses-01"
    into.mkdir(parents=True)
    for name in ("training", "test"):
        content = writers.raw_part(name, 1, 0)
        for key, value in changes.items() if name == part else ():
            content[key] = value(content[key]) if callable(value) else value
        np.save(
            into / f"raw_eeg_{name}.npy",
            {key: one for key, one in content.items() if one is not None},
            allow_pickle=True,
        )
    with pytest.raises(kind, match=match):
        raw_source(folder, **(options or {})).recordings()


def set_at(place, value):
    def changed(data):
        data = data.copy()
        data[place] = value
        return data

    return changed


def test_raw_files_are_checked(tmp_path):
    raw_damaged(tmp_path, "has no key 'sfreq'; it has 'raw_eeg_data'", sfreq=None)
    raw_damaged(tmp_path, "20 channel names and 19 types", ch_types=lambda types: types[1:])
    raw_damaged(tmp_path, "has 0 stim channels among 20", ch_types=["eeg"] * 20)
    raw_damaged(tmp_path, "has no event besides targets", raw_eeg_data=set_at(-1, 0.0))
    raw_damaged(tmp_path, "1 of .* samples of its stim channel are NaN", raw_eeg_data=set_at((-1, 7), np.nan))
    raw_damaged(tmp_path, "MNE finds no events", raw_eeg_data=set_at((-1, slice(3, 9)), np.arange(6.0)))
    raw_damaged(tmp_path, "first 'Pz'", ch_names=lambda names: ["pz_" if name == "Pz" else name for name in names])
    raw_damaged(tmp_path, "session 1: the noise covariance is not finite", raw_eeg_data=set_at((0, 500), np.nan))
    raw_damaged(tmp_path, "responses are NaN or Inf", raw_eeg_data=set_at((0, 500), np.nan), options={"mvnn": "none"})
    raw_damaged(
        tmp_path,
        "other channels than the files before it",
        part="test",
        ch_names=lambda names: [*names[:2][::-1], *names[2:]],
    )
    raw_damaged(tmp_path, r"is refused: it names (posix|nt)\.mkdir", sfreq=Harmful(tmp_path / "harm"))
    assert not (tmp_path / "harm").exists()
    options = {"sfreq_hz": 2000}
    raw_damaged(tmp_path, "sfreq_hz=2000 is above the 500 Hz", kind=ConfigError, options=options)
    raw_damaged(tmp_path, "sessions .1. and not 3", options={"sessions": [3]})
    for name, value in {"mvnn": "times", "mvnn_fit": "published", "partition": "session"}.items():
        raw_damaged(tmp_path, f"dataset.{name}={value} is none of", kind=ConfigError, options={name: value})
    raw_damaged(tmp_path, "is no rate", kind=ConfigError, options={"sfreq_hz": 0})


def test_swapped_raw_files_are_told_by_their_repetitions(tmp_path):
    writers.raw(tmp_path, 1)
    folder = tmp_path / "raw_data" / "sub-01" / "ses-01"
    (folder / "raw_eeg_training.npy").write_bytes((folder / "raw_eeg_test.npy").read_bytes())
    with pytest.raises(
        DataError, match=r"has 5 conditions with 3 to 3 repetitions, so it is a test file\. .*8,270 x 2"
    ):
        raw_source(tmp_path).recordings()


def test_a_raw_subject_without_a_part_is_named(tmp_path):
    writers.raw(tmp_path, 1)
    (tmp_path / "raw_data" / "sub-01" / "ses-01" / "raw_eeg_test.npy").unlink()
    with pytest.raises(DataError, match=r"raw_eeg_test\.npy was not found.*holds raw_eeg_training\.npy"):
        raw_source(tmp_path).recordings()


# Full size: four sessions of 63 channels, from which 1.06 GB of responses and 1.01 GB of test trials come out at 250 Hz.

READ_RAW = """
import json, resource, sys, time
import numpy as np
from jaxalign.sources.things_raw import ThingsEeg2Raw
started = time.monotonic()
(recording,) = ThingsEeg2Raw(path=sys.argv[1], **json.loads(sys.argv[2])).recordings()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
tests = recording.values[recording.is_test]
print(json.dumps({"peak": peak, "seconds": time.monotonic() - started, "shape": recording.values.shape,
    "trials": recording.trials.shape, "counts": np.unique(recording.n_repetitions).tolist(), "unit": recording.unit,
    "size": max(float(np.abs(one).max()) for one in tests),
    "off": max(float(np.abs(one.mean(0, np.float64) - mean).max())
        for one, mean in zip(recording.trials, tests, strict=True))}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recorded_hz", "options"),
    [
        (1000, {"channels": "17", "sfreq_hz": 100}),
        (250, {"channels": "63", "sfreq_hz": 250, "mvnn": "epochs", "mvnn_fit": "as_published"}),
        (250, {"channels": "63", "sfreq_hz": 250, "mvnn": "none"}),
    ],
    ids=["17 at 100 Hz", "63 at 250 Hz", "63 at 250 Hz in volts"],
)
def test_four_raw_sessions_of_full_size_are_read_within_3_gb(tmp_path, recorded_hz, options):
    writers.raw_of_full_size(tmp_path, recorded_hz)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_RAW, str(tmp_path), json.dumps(options)],
            capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
    finally:
        for path in tmp_path.rglob("*.npy"):
            path.unlink()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    width, length = int(options["channels"]), found["shape"][-1]
    assert length - options["sfreq_hz"] in (0, 1)  # both ends of the epoch are in it where nothing is resampled
    assert found["shape"] == [16740, width, length] and found["trials"] == [200, 80, width, length]
    assert found["counts"] == [4, 80] and found["unit"] == ("V" if options.get("mvnn") == "none" else "a.u.")
    assert found["off"] < 1e-5 * found["size"]
    assert found["peak"] < 3e9
