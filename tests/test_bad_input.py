"""Bad input, each kind with a message that says what was found, with numbers, and what to do; and its exit code."""

import re

import makers
import numpy as np
import pytest

from jaxalign import commands, results
from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError
from jaxalign.results.report import write_report
from jaxalign.sources.checks import check_recording, check_same_stimuli
from jaxalign.sources.simulated import Plant, SimulatedEeg

METRIC = "metric.correlation.n_permutations"


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a request that must fail. -> function of (options, exit code) giving the message"""
    monkeypatch.chdir(tmp_path)

    def call(words, code):
        found = commands.main(words)
        printed = capsys.readouterr()
        assert found == code, printed.err
        assert "Traceback" not in printed.err and not (tmp_path / "out" / "scores.parquet").exists()
        lines = [line for line in printed.err.splitlines() if re.match(r"(Data|Configuration) error: ", line)]
        assert len(lines) == 1 and len(lines[0]) < 600, printed.err
        return lines[0]

    return call


def epochs(tmp_path, values=None, columns="as made", types="eeg"):
    """Write the recording that `makers.eeg_request` asks for, with something wrong in it."""
    good_values, good_columns = makers.eeg()
    values = good_values if values is None else values
    columns = good_columns if columns == "as made" else columns
    makers.epochs_file(tmp_path / "tiny-epo.fif", values, columns, types)


def first(n_stimuli):
    values, columns = makers.eeg()
    return values[:n_stimuli], {name: column[:n_stimuli] for name, column in columns.items()}


# Files.


def test_missing_recording(tmp_path, refused):
    said = refused(makers.eeg_request(tmp_path, **{"dataset.path": "nowhere/x-epo.fif"}), 3)
    assert re.search(
        r"The file nowhere/x-epo\.fif was not found\. Looked for /.*Give its path, or set JAXALIGN_DATA", said
    )


def test_missing_rdm_file(tmp_path, refused):
    said = refused(makers.rdm_request(tmp_path, **{"dataset.path": "absent.mat"}), 3)
    assert re.search(r"The file absent\.mat was not found", said)


@pytest.mark.parametrize("content", [b"", b"no recording", "half", "flipped"])
def test_damaged_recording(tmp_path, refused, content):
    words = makers.eeg_request(tmp_path)
    path = tmp_path / "tiny-epo.fif"
    whole = path.read_bytes()
    damaged = {"half": whole[: len(whole) // 2], "flipped": whole[:40] + bytes(200) + whole[240:]}.get(content, content)
    path.write_bytes(damaged)
    said = refused(words, 3)
    assert f"({len(damaged)} bytes)" in said and "Is it a whole -epo.fif file?" in said


@pytest.mark.parametrize("part", [0, 0.5])
def test_damaged_rdm_file(tmp_path, refused, part):
    words = makers.rdm_request(tmp_path)
    path = tmp_path / "brain.mat"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert "cannot be read as a MATLAB 5 file" in refused(words, 3)


# Metadata columns.


def test_no_metadata_at_all(tmp_path, refused):
    epochs(tmp_path, columns=None)
    said = refused(makers.eeg_request(tmp_path), 3)
    assert re.search(r"24 epochs but no metadata: stimulus_columns=\['word'\].*Save the epochs with metadata", said)


@pytest.mark.parametrize("option", ["dataset.stimulus_columns", "dataset.feature_columns"])
def test_recording_without_the_named_column(tmp_path, refused, option):
    said = refused(makers.eeg_request(tmp_path, **{option: "[wrod]"}), 3)
    assert re.search(r"no metadata column 'wrod'\. Nearest: word\. It has: word, frequency, length", said)


def test_model_of_an_absent_column(tmp_path, refused):
    said = refused(makers.eeg_request(tmp_path, **{"model.fas.columns": "[freqency]"}), 3)
    assert "no metadata column 'freqency'. Nearest: frequency." in said


def test_model_of_a_column_of_words(tmp_path, refused):
    said = refused(makers.eeg_request(tmp_path, **{"model.fas.columns": "[word]"}), 3)
    assert "'word' holds 'word0' and is not a number" in said


def test_no_column_names_the_stimuli(tmp_path, refused):
    said = refused(makers.eeg_request(tmp_path, **{"dataset.stimulus_columns": "[]"}), 3)
    assert re.search(r"stimulus_columns is empty: name the metadata columns.*has word, frequency, length", said)


# Stimulus ids.


def test_stimulus_ids_that_repeat(tmp_path, refused):
    _, columns = makers.eeg()
    epochs(tmp_path, columns={**columns, "word": ["same", "same", "other", "other", *columns["word"][4:]]})
    said = refused(makers.eeg_request(tmp_path), 3)
    assert re.search(r"2 stimulus ids occur more than once, first 'same'\. Average repetitions first", said)


def recording(subject, ids, values=None):
    n_stimuli = len(ids)
    return Recording(
        dataset="test",
        subject=subject,
        stimulus_ids=tuple(ids),
        values=np.ones((n_stimuli, 2, 3), np.float32) if values is None else values,
        channels=("Cz", "Pz"),
        starts_s=np.array([0, 0.02, 0.04]),
        stops_s=np.array([0.02, 0.04, 0.06]),
        unit="V",
        n_repetitions=np.ones(n_stimuli, np.int32),
        is_test=np.zeros(n_stimuli, bool),
        positions=np.full((2, 3), np.nan),
    )


def test_subjects_who_saw_other_stimuli():
    with pytest.raises(
        DataError, match=r"01 \(4 stimuli\) and 02 \(5 stimuli\).*3 stimulus ids are only in one.*first 'd'"
    ):
        check_same_stimuli([recording("01", "abcd"), recording("02", "abcef")])


def test_subjects_with_the_stimuli_in_another_order():
    with pytest.raises(DataError, match=r"01 .* and 02 .* do not match: the order differs"):
        check_same_stimuli([recording("01", "abcd"), recording("02", "abdc")])


def test_rdms_of_other_stimuli(tmp_path, refused):
    words = makers.rdm_request(tmp_path)
    makers.rdm_file(tmp_path / "models.mat", {"m": makers.rdm(11, 0)}, "Models")
    said = refused(words, 3)
    assert "RDMs of 11 stimuli and the data set has 12: both must be ordered by the same stimuli" in said


def test_rdms_of_different_sizes_in_one_file(tmp_path, refused):
    words = makers.rdm_request(tmp_path)
    makers.rdm_file(tmp_path / "brain.mat", {"hIT | BE | 1": makers.rdm(12, 0), "hIT | KO | 1": makers.rdm(11, 0)})
    assert "RDMs have different sizes, in pairs: {'BE': 66, 'KO': 55}" in refused(words, 3)


# NaN and Inf.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_responses_that_are_not_numbers(tmp_path, refused, bad):
    values, _ = makers.eeg()
    values[5, 2, 3] = values[7, 1, 0] = bad
    epochs(tmp_path, values)
    said = refused(makers.eeg_request(tmp_path), 3)
    where = r"tiny, subject 04: 2 of 576 responses are NaN or Inf, first at stimulus 'word5', channel Pz, bin \[-0\.040, -0\.020\) s"
    assert re.search(where, said) and "Interpolate or drop that channel" in said


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_numbers(tmp_path, refused, bad):
    _, columns = makers.eeg()
    columns["frequency"][[3, 9]] = bad
    epochs(tmp_path, columns=columns)
    said = refused(makers.eeg_request(tmp_path), 3)
    assert re.search(
        r"metadata/frequency/none: 2 of 24 features are NaN or Inf, first at stimulus 'word3', column 0\.", said
    )


@pytest.mark.parametrize("name", ["brain.mat", "models.mat"])
def test_rdms_that_are_not_numbers(tmp_path, refused, name):
    words = makers.rdm_request(tmp_path)
    matrix = makers.rdm(12, 0)
    matrix[2, 3] = matrix[3, 2] = np.nan
    rdms = {"hIT | BE | 1": matrix, "hIT | KO | 1": makers.rdm(12, 1)}
    makers.rdm_file(tmp_path / name, rdms, "RDMs" if name == "brain.mat" else "Models")
    assert "the RDM 'hIT | BE | 1' holds 2 NaN or Inf entries" in refused(words, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda matrix: matrix[:, :11], r"has shape \(12, 11\), not \(n, n\)"),
        (lambda matrix: matrix + np.triu(np.ones((12, 12)), 1), r"is not symmetric: entries differ by up to 1"),
        (lambda matrix: 1 - matrix, r"up to 1 on its diagonal.*Is it a similarity matrix\?"),
        (lambda matrix: matrix[:3, :3], r"has 3 stimuli; at least 4 are needed"),
    ],
)
def test_matrices_that_are_no_rdm(tmp_path, refused, change, says):
    words = makers.rdm_request(tmp_path)
    makers.rdm_file(tmp_path / "models.mat", {"m": change(makers.rdm(12, 0))}, "Models")
    assert re.search(rf"the RDM 'm' {says}|the RDM 'm' has {says}", refused(words, 3))


def test_rdm_file_without_the_variable_or_the_pattern(tmp_path, refused):
    words = makers.rdm_request(tmp_path)
    said = refused([*words, "dataset.variable=RDM"], 3)
    assert "has no variable 'RDM'. Nearest: RDMs." in said
    said = refused([*words, "dataset.name_pattern='(sub-\\d+)'"], 3)
    assert "'hIT | BE | session1' does not match name_pattern" in said


# Too few stimuli.


def test_one_stimulus(tmp_path, refused):
    epochs(tmp_path, *first(1))
    assert "subject 04: 1 stimulus; at least 4 are needed" in refused(makers.eeg_request(tmp_path), 3)


def test_two_stimuli_of_many_trials_point_to_the_columns_that_name_more(tmp_path, refused):
    values, columns = makers.eeg()
    epochs(tmp_path, values, {**columns, "kind": ["a", "b"] * 12})
    changes = {"dataset": "mne_raw", "dataset.feature_columns": None, "dataset.stimulus_columns": "[kind]"}
    said = refused(makers.eeg_request(tmp_path, **changes, **{"dataset.steps": "[{name: average}]"}), 3)
    assert "2 stimuli; at least 4 are needed" in said
    assert "They average 24 trials by name" in said and "dataset.stimulus_columns, such as [event,index]" in said


def test_fewer_stimuli_than_folds(tmp_path, refused):
    epochs(tmp_path, *first(4))
    said = refused(makers.eeg_request(tmp_path, metric="[ridge_ols]", **{METRIC: None}), 3)
    assert re.search(r"4 stimuli do not go with n_outer=5 and n_inner=2: .*Ask for at most 4 folds", said)


def test_fewer_training_stimuli_than_inner_folds(tmp_path, refused):
    epochs(tmp_path, *first(6))
    said = refused(makers.eeg_request(tmp_path, metric="[ridge]", **{METRIC: None}), 3)
    assert re.search(r"6 stimuli do not go with n_outer=5 and n_inner=5: 4 stimuli .*at most 4 folds", said)


def test_simulated_test_set_that_leaves_no_training_stimuli():
    with pytest.raises(ConfigError, match=r"12 stimuli with n_test=10 leave 2 for training: both need at least 4"):
        SimulatedEeg(n_test=10).recordings(tuple(map(str, range(12))), {})


# Constants.


def test_constant_targets_score_nan_and_are_counted(tmp_path, monkeypatch, capsys):
    """A target that does not vary has no correlation: NaN, in no family, counted, said; the others are untouched."""
    monkeypatch.chdir(tmp_path)
    values, _ = makers.eeg()
    values[:, 1, 2], values[:, 1, 3] = 3e-6, 0
    epochs(tmp_path, values)
    words = makers.eeg_request(tmp_path, metric="[correlation,ridge_ols]", **{"metric.ridge_ols.n_permutations": 10})
    assert commands.main(words) == 0
    assert "2 targets are constant over the scored stimuli: their scores are NaN" in capsys.readouterr().out
    scores = results.load(tmp_path / "out")
    is_constant = (scores["channel"] == "Cz") & scores["time_start_s"].between(-0.061, -0.039)
    assert is_constant.sum() == 2 * 2 * (1 + 2), "2 targets, 2 fits, pearson_r and ridge's pearson_r and r2"
    for column in ("value", "z", "p", "p_corrected"):
        assert scores.loc[is_constant, column].isna().all() and scores.loc[~is_constant, column].notna().all()
    assert set(scores["status"]) == {"done"} and set(scores["family_size"]) == {2 * 22}
    summary = results.summary(tmp_path / "out")
    assert summary["n_constant_targets"] == 2
    assert any("2 targets are constant" in warning for warning in summary["warnings"])
    write_report(tmp_path / "out")
    assert "2 targets are constant" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_constant_feature(tmp_path, refused):
    _, columns = makers.eeg()
    epochs(tmp_path, columns={**columns, "frequency": np.full(24, 2.5)})
    said = refused(makers.eeg_request(tmp_path), 3)
    assert (
        "metadata/frequency/none is 2.5 for all 24 stimuli: a constant correlates with nothing. Leave it out." in said
    )


def test_constant_model_rdm(tmp_path, refused):
    words = makers.rdm_request(tmp_path)
    makers.rdm_file(tmp_path / "models.mat", {"flat": 1 - np.eye(12), "m": makers.rdm(12, 0)}, "Models")
    assert "flat/rdm/none is 1 for all 66 pairs" in refused(words, 3)


# Channels, times, names.


def test_channel_types_that_do_not_mix(tmp_path, refused):
    epochs(tmp_path, types=["eeg", "eeg", "mag", "mag"])
    said = refused(makers.eeg_request(tmp_path, **{"dataset.picks": "all"}), 3)
    assert "channel types eeg, mag have different units and do not mix. Set dataset.picks to one of them" in said


def test_no_channel_of_the_type(tmp_path, refused):
    epochs(tmp_path, types="mag")
    said = refused(makers.eeg_request(tmp_path), 3)
    assert "no channel that dataset.picks=eeg names: its 4 channels are of type mag" in said


def test_unknown_channel(tmp_path, refused):
    said = refused(makers.eeg_request(tmp_path, **{"dataset.channels": "[Pz,Czz]"}), 3)
    assert re.search(r"1 of 2 channels are not in .*: 'Czz'\. Nearest: Cz", said)


@pytest.mark.parametrize("times", [{"dataset.tmin_s": 5}, {"dataset.tmax_s": -3}, {"dataset.tmax_s": 0.1}])
def test_times_outside_the_epoch(tmp_path, refused, times):
    said = refused(makers.eeg_request(tmp_path, **times), 3)
    assert "runs from -0.100 to 0.000 s" in said


@pytest.mark.parametrize(
    ("width", "says"),
    [(0.03, r"holds 1\.500 samples at 50 Hz: use a multiple of 0\.02 s"), (3.0, r"longer than the epoch of 6 samples")],
)
def test_time_bins_of_no_whole_number_of_samples(tmp_path, refused, width, says):
    assert re.search(says, refused(makers.eeg_request(tmp_path, **{"dataset.time_bin_s": width}), 2))


@pytest.mark.parametrize(
    ("average", "says"),
    [
        ("{name: x, channels: [Pzz], start_s: -0.1, stop_s: 0}", r"'x' names Pzz: the recording has Fz, Cz, Pz, Oz"),
        (
            "{name: x, channels: [Pz], start_s: 7, stop_s: 8}",
            r"no bin starts inside \[7\.0, 8\.0\) s; bins run from -0\.100",
        ),
    ],
)
def test_averages_of_nothing(tmp_path, refused, average, says):
    assert re.search(says, refused(makers.eeg_request(tmp_path, averages=f"[{average}]"), 2))


def test_unknown_layer(tmp_path, refused):
    words = makers.eeg_request(tmp_path, model="[minilm]", metric="[rsa]", **{"model.fas.columns": None, METRIC: None})
    said = refused([*words, "model.minilm.layers=[encoder.layers]", "model.minilm.columns=[word,word]"], 2)
    assert "encoder.layers" in said and "encoder.layer" in said.split("encoder.layers", 1)[1]


def test_unknown_planted_layer():
    plants = [Plant(model="tiny", layer="blocks.9", pooling="mean", channels=("Pz",))]
    features = {("tiny", "blocks.0", "mean"): np.ones((20, 3)), ("tiny", "blocks.1", "mean"): np.ones((20, 3))}
    with pytest.raises(ConfigError, match=r"tiny/blocks\.9/mean is not among the 2 fits.*Nearest: tiny/blocks\."):
        SimulatedEeg(n_test=8, plants=plants).recordings(tuple(map(str, range(20))), features)


def test_unknown_planted_channel():
    with pytest.raises(ConfigError, match=r"PO77 is not in the montage\. Nearest: PO7"):
        SimulatedEeg(plants=[Plant(channels=("PO7", "PO77"))])


# Requests that do not go together.


def test_metrics_and_data_that_do_not_go_together(tmp_path, refused):
    eeg = {METRIC: None}
    said = refused(makers.eeg_request(tmp_path, metric="[rsa]", **eeg), 2)
    assert "has width 1, and 2 units are needed: leave it out with score.rsa" in said
    rsa = {"metric.rsa.n_permutations": None, "metric.rsa.n_folds": None}
    said = refused(makers.rdm_request(tmp_path, metric="[ridge]", **rsa), 2)
    assert "metric.ridge needs responses and this data set holds given RDMs: use rsa" in said
    said = refused(makers.rdm_request(tmp_path, model="[fas]", **{"model.objects92_models.path": None}), 2)
    assert "model.fas scores metadata columns, but this data set has no metadata" in said
    said = refused(
        makers.eeg_request(tmp_path, model="[tiny_internvl]", metric="[ridge]", **{"model.fas.columns": None, **eeg}), 2
    )
    assert "tiny_internvl takes image stimuli, and this data set has text" in said
    said = refused(["dataset=simulated_eeg", "model=[fas]", "metric=[ridge]", f"output={tmp_path / 'out'}"], 2)
    assert "needs pictures to show: add stimuli=pictures" in said


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("seed", -1, "seed=-1: a whole number from 0 upwards"),
        (METRIC, -5, "n_permutations=-5: a whole number from 0 upwards"),
        ("mesh.fits_per_call", 0, "mesh.fits_per_call=0: a whole number from 1 upwards"),
        ("mesh.targets_per_call", -8, "mesh.targets_per_call=-8: a whole number from 1 upwards"),
        ("mesh.target", 0, "mesh.target=0: a whole number from 1 upwards"),
        ("mesh.memory_gib", 0, "mesh.memory_gib=0.0: a number above 0"),
        ("mesh.fit", 9, "mesh.fit=9 x mesh.target=1 needs 9 devices; there are 8"),
    ],
)
def test_numbers_out_of_range(tmp_path, refused, option, value, says):
    assert says in refused(makers.eeg_request(tmp_path, **{option: value}), 2)


def test_too_little_memory_says_how_much_is_enough(tmp_path, refused, monkeypatch):
    words = makers.eeg_request(tmp_path, **{"mesh.targets_per_call": None})
    said = refused([*words, "mesh.memory_gib=1e-5"], 2)
    need, advice = re.search(
        r"needs (\S+) GiB per device .*Set mesh\.memory_gib=(\S+) if the device has it", said
    ).groups()
    assert 1e-5 < float(need) < float(advice)
    assert commands.main([*words, f"mesh.memory_gib={advice}"]) == 0, "the advice works"


# Folders and results.


def test_output_that_is_a_file(tmp_path, refused):
    (tmp_path / "out").write_text("a file")
    said = refused(makers.eeg_request(tmp_path), 2)
    assert f"{tmp_path / 'out'} cannot be used: File exists. Choose another output=" in said


def test_sweep_whose_folder_names_are_too_long(tmp_path, refused):
    words = makers.eeg_request(tmp_path, output=None, **{"hydra.sweep.subdir": "x" * 300})
    assert "cannot be used: File name too long" in refused(["-m", *words, "seed=0,1"], 2)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.main(makers.rdm_request(tmp_path)) == 0
    return tmp_path / "out"


def test_table_cut_in_half(finished, capsys):
    half(finished / "scores.parquet")
    n_bytes = (finished / "scores.parquet").stat().st_size
    with pytest.raises(
        DataError, match=rf"scores\.parquet \({n_bytes} bytes\) is cut short.*Run the same command again"
    ):
        results.load(finished)
    capsys.readouterr()
    assert commands.main(["report", str(finished)]) == 3
    assert f"({n_bytes} bytes) is cut short or damaged" in capsys.readouterr().err
    assert commands.main(makers.rdm_request(finished.parent)) == 0, "the advice works"
    assert len(results.load(finished)) == 3 * (2 + 1)


def test_summary_cut_in_half(finished, capsys):
    half(finished / "summary.json")
    with pytest.raises(DataError, match=r"summary\.json .*Run the same command again"):
        results.summary(finished)
    assert commands.main(["report", str(finished)]) == 3


def test_run_record_cut_in_half(finished, capsys):
    half(finished / "run.json")
    capsys.readouterr()
    assert commands.main(makers.rdm_request(finished.parent)) == 3
    assert re.search(r"run\.json is damaged: .*Add force=true to discard", capsys.readouterr().err)
    assert commands.main([*makers.rdm_request(finished.parent), "force=true"]) == 0


def test_results_of_unknown_origin(finished, capsys):
    (finished / "run.json").unlink()
    capsys.readouterr()
    assert commands.main(makers.rdm_request(finished.parent)) == 2
    said = capsys.readouterr().err
    assert re.search(r"holds journal\.jsonl, scores\.parquet, summary\.json, .* but no run\.json.*force=true", said)


def test_recording_with_numbers_and_ids_is_returned():
    """The checks let a good recording through, as it is."""
    good = recording("01", "abcd")
    assert check_recording(good) is good
    check_same_stimuli([good, recording("02", "abcd")])
