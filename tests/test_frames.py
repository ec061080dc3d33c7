"""Rows that are time bins of sentences: cut as a slow definition says, named as a store names them, scored with whole sentences."""

from dataclasses import replace

import mne
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import writers_eeg as writers

from jaxalign import commands, store
from jaxalign.commands.composed import compose
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Fit, NullConfig, Recording, RunConfig, Sound
from jaxalign.errors import ConfigError, DataError
from jaxalign.models.controls import Control, frames
from jaxalign.models.controls_sound import n_bins_of
from jaxalign.runtime.designs import design_of, notes
from jaxalign.runtime.extraction import Shown, rows_of
from jaxalign.runtime.frames import frames_of, matched
from jaxalign.runtime.inputs import Inputs, gather
from jaxalign.runtime.null import labellings_of
from jaxalign.sources.array_steps import Average
from jaxalign.sources.frame_rows import frame_ids, n_frames_of
from jaxalign.sources.speech import Alice, Ds004408
from jaxalign.sources.steps import carried_out, parsed
from jaxalign.sources.trials import Wanted, Work, recording_of

BIN_S = 0.1
FRAMES = {"name": "frames", "bin_s": BIN_S}
ONSETS = np.array([1.0, 2.503, 4.0171, 6.2, 18.95])
DURATIONS = np.array([0.43, 1.0, 1.2 + 4e-8, 0.05, 0.7])
SENTENCES = ("a", "b", "c", "d", "e")


def work(raw=None, durations=DURATIONS, onsets=ONSETS, ids=SENTENCES, **want):
    """Sentences in a recording of 20 s at 200 Hz; the last one goes on behind its end without a lag that is negative."""
    events = {"stimulus_id": np.asarray(ids, dtype=object), "onset_s": np.asarray(onsets),
              "duration_s": np.asarray(durations), "text": np.asarray([f"text of {one}" for one in ids], dtype=object)}  # fmt: skip
    return Work(raw or writers.raw_array(), events, "here", Wanted("set", "01", **want))


def slow(values, onset, duration, bin_s, lag_s=0.0, sfreq=200.0):
    """Means by hand, sample after sample, in float64: (n_channels, n_samples) -> [(n_channels,)] per bin."""
    found, at = [], 0
    while at * bin_s < duration - 1e-6 * bin_s or at == 0:
        start, stop = onset + lag_s + at * bin_s, onset + lag_s + min((at + 1) * bin_s, duration)
        inside = [
            sample
            for sample in range(values.shape[1])
            if start <= sample / sfreq + 1e-6 and sample / sfreq + 1e-6 < stop
        ]
        total = np.zeros(len(values))
        for sample in inside:
            total += values[:, sample]
        found.append(total / len(inside))
        at += 1
    return found


# The step.


@pytest.mark.parametrize(("bin_s", "lag_s"), [(0.1, 0.0), (0.1, 0.13), (0.064, -0.2)])
def test_frames_are_means_over_their_samples(bin_s, lag_s):
    given = work(durations=np.array([0.43, 1.0, 1.2 + 4e-8, 0.05, 0.6]))
    made = carried_out([given], [FRAMES | {"bin_s": bin_s, "lag_s": lag_s}], "here")
    values = given.data.get_data()
    expected = {}
    for name, onset, duration in zip(SENTENCES, ONSETS, given.events["duration_s"], strict=True):
        for at, mean in enumerate(slow(values, onset, duration, bin_s, lag_s)):
            expected[f"{name}@{at * bin_s:.3f}"] = mean
    assert set(made.ids) <= set(expected) and made.unit == "V"
    assert set(expected) - set(made.ids) == {name for name, _ in made.dropped}
    scale = np.abs(values).max()
    for row, name in enumerate(made.ids):
        np.testing.assert_allclose(made.values[row, :, 0], expected[name], rtol=0, atol=1e-7 * scale)
    np.testing.assert_allclose([made.starts_s, made.stops_s], [[lag_s], [lag_s + bin_s]], atol=1e-9)


@pytest.mark.parametrize("bin_s", [0.1, 0.05, 0.02, 1 / 30])
def test_rows_are_named_as_a_store_names_them(bin_s):
    given = work(onsets=np.arange(1.0, 16.0, 3.0))
    made = recording_of(carried_out([given], [FRAMES | {"bin_s": bin_s}], "here"), given.want, {})
    counts, names = rows_of(bin_s, Shown(SENTENCES, None, tuple(DURATIONS)))
    assert made.stimulus_ids == names
    assert counts.tolist() == [n_bins_of(duration, bin_s) for duration in DURATIONS], "and as controls of sounds count"


def test_names_and_numbers_of_frames():
    assert frame_ids("s", n_frames_of(0.25, 0.1), 0.1) == ["s@0.000", "s@0.100", "s@0.200"]
    durations = {0.0: 1, 0.05: 1, 0.1: 1, 0.10000004: 1, 0.11: 2, 1.2: 12}
    assert {duration: n_frames_of(duration, 0.1) for duration in durations} == durations


def test_columns_say_what_a_frame_is_of():
    made = carried_out([work()], [FRAMES], "here")
    rows = np.flatnonzero(made.columns["sequence"] == "a")
    np.testing.assert_allclose(made.columns["frame_start_s"][rows], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-9)
    np.testing.assert_allclose(made.columns["frame_stop_s"][rows], [0.1, 0.2, 0.3, 0.4, 0.43], atol=1e-9)
    assert set(made.columns["text"][rows]) == {"text of a"} and len(made.columns["onset_s"]) == len(made.ids)
    assert any("frames average 6 to 20 samples; 2 of 35 are shorter than a bin" in note for note in made.notes)
    assert any("the mean is the anti-alias filter, with its first zero at 10 Hz" in note for note in made.notes)


def test_the_rows_of_a_recording_are_in_time_and_not_in_the_order_of_letters():
    given = work(durations=np.array([0.3, 0.2, 11.0]), onsets=np.array([1.0, 2.0, 4.0]), ids=("b", "c", "a"))
    one = recording_of(carried_out([given], [FRAMES | {"bin_s": 1.0}], "here"), given.want, {})
    assert one.stimulus_ids == (*(f"a@{at}.000" for at in range(11)), "b@0.000", "c@0.000")
    assert one.columns["frame_start_s"].tolist() == [*range(11), 0, 0]


def test_frames_outside_the_recording_are_dropped_and_counted():
    given = work(durations=np.array([0.43, 1.0, 1.2, 0.05, 1.4]))
    one = recording_of(carried_out([given], [FRAMES], "here"), given.want, {})
    assert "e@0.900" in one.stimulus_ids and "e@1.100" not in one.stimulus_ids
    assert one.origin["trials"]["reasons"] == {"beyond the ends of the recording": 4}
    assert one.origin["trials"]["used"] == len(one.stimulus_ids) == 5 + 10 + 12 + 1 + 10
    assert any("4 of 42 trials were dropped" in note for note in one.origin["notes"])
    late = work(onsets=ONSETS + 100)
    with pytest.raises(DataError, match=r"none of 35 frames of 5 segments is left: 35 beyond the ends"):
        carried_out([late], [FRAMES], "here")


def test_frames_that_touch_a_bad_annotation_are_dropped():
    raw = writers.raw_array()
    raw.set_annotations(mne.Annotations([1.15, 2.6], [0.1, 0.02], ["bad blink", "good"]))
    ids = carried_out([work(raw)], [FRAMES], "here").ids.tolist()
    assert [name for name in ids if name.startswith("a")] == ["a@0.000", "a@0.300", "a@0.400"]
    kept = carried_out([work(raw)], [FRAMES | {"reject_by_annotation": False}], "here")
    assert len(kept.ids) == len(ids) + 2 and len(kept.dropped) == 0


def test_as_many_frames_of_every_segment_when_asked():
    made = carried_out([work()], [FRAMES | {"n_frames": 7}], "here")
    assert sorted(set(made.columns["sequence"])) == ["b", "c", "e"] and len(made.ids) == 21
    reasons = dict(made.dropped)
    assert reasons["a@0.000"] == "of a segment with fewer frames than n_frames"
    assert reasons["b@0.700"] == "behind the first n_frames"
    raw = writers.raw_array()
    raw.set_annotations(mne.Annotations([2.6], [0.1], ["bad"]))
    torn = carried_out([work(raw)], [FRAMES | {"n_frames": 7}], "here")
    assert sorted(set(torn.columns["sequence"])) == ["c", "e"]
    assert ("b@0.300", "of a segment that lost one of its n_frames") in torn.dropped


def test_a_last_bin_between_two_samples_takes_the_nearest():
    given = work(durations=np.array([0.101]), onsets=np.array([1.001]), ids=("a",))
    made = carried_out([given], [FRAMES], "here")
    assert made.ids.tolist() == ["a@0.000", "a@0.100"]
    np.testing.assert_allclose(made.values[1, :, 0], given.data.get_data()[:, 220], rtol=1e-6)
    assert any("1 of 2 frames are shorter than the sampling interval" in note for note in made.notes)


def test_a_sentence_that_is_heard_again_is_averaged_frame_by_frame():
    given = work(durations=np.full(4, 0.3), onsets=np.array([1.0, 3.0, 5.0, 7.0]), ids=("a", "b", "a", "b"))
    single = carried_out([given], [FRAMES], "here")
    made = Average()(single, "here")
    assert made.ids.tolist() == [*frame_ids("a", 3, 0.1), *frame_ids("b", 3, 0.1)]
    assert made.n_repetitions.tolist() == [2] * 6 and made.columns["sequence"].tolist() == ["a"] * 3 + ["b"] * 3
    np.testing.assert_allclose(made.values[4], single.values[[4, 10]].mean(0), rtol=1e-5, atol=1e-12)


def test_stimuli_and_the_test_set_are_named_by_sentence():
    given = work(stimuli=("c", "a"), test_stimuli=("c",))
    one = recording_of(carried_out([given], [FRAMES], "here"), given.want, {})
    assert one.stimulus_ids == (*frame_ids("c", 12, 0.1), *frame_ids("a", 5, 0.1))
    assert one.is_test.tolist() == [True] * 12 + [False] * 5
    gone = work(stimuli=("a", "b"), onsets=ONSETS + np.array([0, 100, 0, 0, 0]))
    with pytest.raises(DataError, match=r"1 of 2 stimuli have no frame left, first 'b'"):
        recording_of(carried_out([gone], [FRAMES], "here"), gone.want, {})
    with pytest.raises(DataError, match=r"1 of 1 test stimuli were not shown, first 'z'"):
        carried_out([work(test_stimuli=("z",))], [FRAMES], "here")


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([FRAMES, {"name": "epoch"}], "has frames and epoch, and each of them cuts the recording: keep one"),
        ([{"name": "epoch"}, FRAMES], "has epoch and frames, and each of them"),
        ([FRAMES, {"name": "baseline"}], "step 2, baseline, works on epochs and comes after frames"),
        ([{"name": "average"}, FRAMES], "step 2, frames, works on the continuous recording and comes after average"),
    ],
)
def test_frames_have_their_place_among_the_steps(steps, said):
    with pytest.raises(ConfigError, match=said):
        parsed(steps)


def without(given, column):
    return Work(given.data, {name: one for name, one in given.events.items() if name != column}, "here", given.want)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (work(), {"bin_s": 0.004}, r"bin_s=0\.004, and here has a sample every 0\.005 s"),
        (work(), {"n_frames": 0}, r"n_frames=0: 1 at least"),
        (work(), {"n_frames": 40}, r"none of 35 frames of 5 segments is left: 35 of a segment with fewer"),
        (work(), {"duration_column": "lenght"}, r"have no column lenght"),
        (without(work(), "duration_s"), {}, r"have no column duration_s or duration"),
        (work(durations=[0.4, 0, 1, 1, 1]), {}, r"1 of 5 events have no duration above 0 s in duration_s, first event 2"),
    ],
)  # fmt: skip
def test_frames_that_cannot_be_cut(given, options, said):
    with pytest.raises((ConfigError, DataError), match=said):
        carried_out([given], [FRAMES | options], "here")
    with pytest.raises(ConfigError, match=r"averages samples, and those of here are averaged over 0\.1 s already"):
        carried_out([work()], [FRAMES, {"name": "time_bins", "width_s": 0.05}], "here")


def test_frames_of_alice_leave_out_a_sentence_that_goes_on_in_the_next_sound(tmp_path, monkeypatch):
    values = writers.alice(tmp_path)
    (one,) = Alice(folder=str(tmp_path), segments="sentence", steps=[FRAMES]).recordings()
    assert one.stimulus_ids == tuple(
        name
        for stimulus, n in (("s001", 9), ("s002", 4), ("s003", 8), ("s004", 6))
        for name in frame_ids(stimulus, n, 0.1)
    )
    at = round(7.7 * 500)
    np.testing.assert_allclose(one.values[13, :, 0], values[:60, at : at + 50].mean(1) * 1e-6, rtol=1e-4, atol=1e-10)
    across = [row if row[4] != 3 else (*row[:4], 2) for row in writers.ALICE_WORDS]
    monkeypatch.setattr(writers, "ALICE_WORDS", across)
    writers.alice(tmp_path)
    (one,) = Alice(folder=str(tmp_path), segments="sentence", steps=[FRAMES]).recordings()
    assert set(one.columns["sequence"]) == {"s001", "s004"}
    assert list(one.origin["trials"]["reasons"]) == ["of a segment that goes on in the next sound file"]


# Runs.


def recording(sizes, n_test=0, run=None):
    """Frames of noise of sequences with these numbers of frames; the first n_test sequences are the test set."""
    sequences = np.repeat([f"s{at:02d}" for at in range(len(sizes))], sizes)
    starts = np.concatenate([np.arange(size) for size in sizes]) * BIN_S
    columns = {"sequence": sequences.astype(object), "frame_start_s": starts}
    if run is not None:
        columns["run"] = np.repeat(run, sizes)
    ids = tuple(f"{name}@{start:.3f}" for name, start in zip(sequences, starts, strict=True))
    values = np.random.default_rng(0).standard_normal((len(ids), 2, 1)).astype(np.float32)
    is_test = np.isin(sequences, [f"s{at:02d}" for at in range(n_test)])
    ones = np.ones(len(ids), np.int32)
    return Recording("set", "01", ids, values, ("A1", "A2"), np.zeros(1), np.full(1, BIN_S), "V", ones, is_test,
                     np.full((2, 3), np.nan), columns=columns)  # fmt: skip


def inputs_of(one, groups=None):
    fit = Fit("m", "", "l", 0.0, "frames", 3)
    if groups is None:
        groups = np.unique(one.columns["sequence"].astype(str), return_inverse=True)[1]
    return Inputs([one], [fit], [np.zeros((len(one.stimulus_ids), 3), np.float32)], [False], ["m"], groups, {})


def request(metric, **null):
    return RunConfig(metric={"ridge": metric}, null=NullConfig(**null))


def sides(folds, sequences):
    """Sequences that train and that test, fold by fold."""
    flat = [np.asarray(one).reshape(-1, np.shape(one)[-1]) for one in (folds.train, folds.is_train, folds.test, folds.is_test)]  # fmt: skip
    return [(set(sequences[train[real]]), set(sequences[test[used]])) for train, real, test, used in zip(*flat, strict=True)]  # fmt: skip


@pytest.mark.parametrize("case", ["shuffled", "runs", "one run", "test set"])
def test_frames_of_a_sequence_are_held_out_together(case):
    run = {"runs": [1, 1, 2, 2, 3, 3, 4, 4], "one run": [1] * 8}.get(case)
    one = recording([3, 5, 4, 6, 3, 4, 5, 7], n_test=2 if case == "test set" else 0, run=run)
    metric, inputs = Ridge(n_outer=3, n_inner=2), inputs_of(one)
    design = design_of(metric, request(metric), inputs)
    told = notes(request(metric), inputs)
    assert len(told) == (case == "one run") and all("shuffled whole sequences" in one for one in told)
    for folds in (design.outer, design.inner):
        for train, test in sides(folds, one.columns["sequence"]):
            assert train and test and not train & test


@pytest.mark.parametrize(("metric", "run"), [(Ridge(folds="blocks", n_outer=3, n_inner=2), None), (Ridge(group_by="frame_start_s", n_outer=3, n_inner=2), None)])  # fmt: skip
def test_folds_that_cut_a_sequence_are_refused(metric, run):
    one = recording([5] * 7, run=run)
    with pytest.raises(ConfigError, match=r"metric\.ridge: outer fold 1 trains on some frames of the sequence 's0\d'"):
        design_of(metric, request(metric), inputs_of(one))


@pytest.mark.parametrize("choose_by", ["loo", "gcv"])
def test_penalties_that_are_chosen_on_neighbouring_frames_are_refused(choose_by):
    metric, inputs = Ridge(n_outer=3, n_inner=2, choose_by=choose_by), inputs_of(recording([5] * 7))
    said = rf"ridge\.choose_by={choose_by} .* 35 rows here are frames of 7 sequences.*metric\.ridge\.choose_by=folds"
    with pytest.raises(ConfigError, match=said):
        design_of(metric, request(metric), inputs)
    whole = replace(inputs.brain[0], columns={})
    assert design_of(metric, request(metric), replace(inputs, brain=[whole])).outer.test.shape[0] == 3


def labellings(one, metric=None, **null):
    metric = metric or Ridge(n_outer=3, n_inner=2, n_permutations=10)
    run, inputs = request(metric, **null), inputs_of(one)
    return labellings_of(metric, "responses", design_of(metric, run, inputs), run, inputs)


@pytest.mark.parametrize("scheme", [{"scheme": "label"}, {"scheme": "strata", "column": "sequence"}])
def test_relabelling_single_frames_is_refused_with_its_reason(scheme):
    with pytest.raises(
        ConfigError,
        match=r"40 rows here are frames of 8 sequences.*1\.00 at \.05.*null\.scheme=mismatch null\.column=sequence",
    ):
        labellings(recording([5] * 8), **scheme)
    assert labellings(recording([5] * 8), Ridge(n_permutations=0), **scheme).n_permutations == 0


def test_mismatch_moves_sequences_whole():
    one = recording([5] * 8)
    drawn = labellings(one, scheme="mismatch", column="sequence")
    starts, number = one.columns["frame_start_s"], np.arange(40) // 5
    assert drawn.n_permutations == 10 and not np.array_equal(drawn.rows[1], drawn.rows[0])
    for row in drawn.rows:
        np.testing.assert_array_equal(starts[row], starts)
        assert all(len(set(number[row][number == at])) == 1 for at in range(8))


def test_nulls_that_tear_or_cannot_move_sequences_are_refused():
    with pytest.raises(ConfigError, match=r"the 6 here have 3 to 7 frames \(median 4\.5\).*n_frames: 3 keeps all 6, n_frames: 4 keeps 5"):  # fmt: skip
        labellings(recording([3, 4, 4, 5, 6, 7]), scheme="mismatch", column="sequence")
    with pytest.raises(ConfigError, match=r"'frame_start_s' has 32 more values within the 8 sequences"):
        labellings(recording([5] * 8), scheme="block", column="frame_start_s")


def test_frames_are_matched_by_their_names_and_what_is_missing_is_said():
    one = recording([3, 2])
    of = frames_of([one])
    assert of.bin_s == pytest.approx(BIN_S)
    assert matched(one.stimulus_ids, one.stimulus_ids, of) == (None, "")
    held = [*frame_ids("s01", 4, BIN_S), *frame_ids("other", 2, BIN_S), *frame_ids("s00", 3, BIN_S)]
    rows, note = matched(held, one.stimulus_ids, of)
    assert rows.tolist() == [6, 7, 8, 0, 1]
    assert "The model has 2 frames of its sequences that the recording has not, first 's01@0.200'" in note
    with pytest.raises(DataError, match=r"lacks 1 of the 5 frames of the recording, first 's00@0\.200': the sound of 's00' has 2 frames and the recording 3"):  # fmt: skip
        matched([*frame_ids("s00", 2, BIN_S), *frame_ids("s01", 2, BIN_S)], one.stimulus_ids, of)
    with pytest.raises(DataError, match=r"has 1 sounds and lacks 1 of the 2 sequences of the recording, first 's01'"):
        matched(frame_ids("s00", 3, BIN_S), one.stimulus_ids, of)


# From files to scores.

RATE = 16000
MEL = {"model.mel.n_mels": 6, "model.mel.pooling": "frames", "model.mel.bin_s": BIN_S}


def speech_like(rng, n_samples):
    """Five tones whose loudness changes every tenth of the sound."""
    times, part = np.arange(n_samples) / RATE, np.minimum(np.arange(n_samples) * 10 // n_samples, 9)
    loud = rng.uniform(0.03, 0.3, (5, 10)) ** 2
    tones = np.sin(2 * np.pi * np.array([200, 500, 1200, 2500, 5000])[:, None] * times)
    return Sound((loud[:, part] * tones).sum(0).astype(np.float32), RATE)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """ds004408 with 24 sentences of 0.62 to 1.08 s; four channels follow the mel spectrogram of the sounds, with noise."""
    root, rng = tmp_path_factory.mktemp("heard"), np.random.default_rng(5)
    durations = np.round(rng.uniform(0.62, 1.08, 24), 2)
    onsets = np.round(0.5 + np.arange(24) * 1.6, 2)
    words = [(float(start), float(round(start + last, 2)), f"w{at}") for at, (start, last) in enumerate(zip(onsets, durations, strict=True))]  # fmt: skip
    writers.ds004408(root / "eeg", {"01": {"words": words}}, duration_s=40.0)
    (root / "sounds").mkdir()
    signal = np.zeros((128, 512 * 40))
    mixed = rng.standard_normal((6, 128))
    settings = Control(name="mel", takes="audio", layers=("mel",), n_mels=6, pooling="frames", bin_s=BIN_S)
    for at, (start, last) in enumerate(zip(onsets, durations, strict=True)):
        sound = speech_like(rng, round(last * RATE))
        soundfile.write(root / "sounds" / f"r01-s{at + 1:03d}.wav", sound.values, RATE, subtype="FLOAT")
        for number, row in enumerate(frames(sound, "mel", settings).values):
            low, high = (round((start + edge * BIN_S) * 512) for edge in (number, number + 1))
            signal[:, low:high] = (row @ mixed)[:, None]
    signal -= signal.mean(1, keepdims=True)
    signal /= signal.std(1, keepdims=True)
    for subject in ("001", "002"):
        noise = rng.standard_normal(signal.shape) * 2
        writers.bids_run(root / "eeg", subject, "01", (signal + noise) * 1e-5, 512.0, writers.BIOSEMI)
    return root


def words_of(heard, steps, models="[mel,stored]", **changes):
    options = {"dataset": "ds004408", "dataset.folder": heard / "eeg", "dataset.channels": "[A1,A2,B3,D4]",
               "dataset.steps": steps, "dataset.least_s": 0, "stimuli": "sounds", "stimuli.path": heard / "sounds",
               "model": models, **MEL, "store": heard / "store", "metric": "[ridge]", "metric.ridge.n_outer": 4,
               "metric.ridge.n_inner": 3,
        "n_permutations": 30, "report": "false"}  # fmt: skip
    return [f"{name}={value}" for name, value in (options | changes).items() if value is not None]


def step(**options):
    return "[{" + ", ".join(f"{name}: {value}" for name, value in (FRAMES | options).items()) + "}]"


def quiet(_stage, _done):
    pass


@pytest.fixture(scope="module")
def unrelated(heard):
    """A store of noise for the frames of all sentences."""
    (first, _) = Ds004408(folder=str(heard / "eeg"), segments="sentence", channels=("A1",), steps=[FRAMES]).recordings()
    ids = first.stimulus_ids
    fit = Fit("noise", "r", "none", 0.5, "frames", 6)
    values = np.random.default_rng(1).standard_normal((len(ids), 6)).astype(np.float32)
    store.write(heard / "noise", (fit,), ids, {}, iter([{("none", "frames"): values}]))
    return heard / "noise"


def test_planted_frames_win_and_unrelated_ones_are_at_chance(heard, unrelated, tmp_path, capsys):
    words = words_of(heard, step(n_frames=7), **{"model.stored.path": unrelated, "output": tmp_path / "out",
                     "null.scheme": "mismatch", "null.column": "sequence"})  # fmt: skip
    assert commands.main(["run", *words]) == 0, capsys.readouterr()
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pandas()
    table = table[(table["statistic"] == "pearson_r") & (table["subject"] != "mean") & table["channel"].isin(["A1", "A2", "B3", "D4"])]  # fmt: skip
    planted, noise = (table[table["model"] == name] for name in ("mel", "noise"))
    assert len(planted) == len(noise) == 8
    assert planted["value"].min() > 0.5 and (planted["p"] <= 1 / 31 + 1e-9).all()
    assert noise["value"].abs().max() < 0.35 and noise["p"].min() > 1 / 31 and abs(noise["value"].mean()) < 0.1
    assert set(table["n_stimuli"]) == {7 * 24}
    assert set(table["time_start_s"]) == {0.0} and set(table["time_stop_s"].astype(np.float32)) == {np.float32(BIN_S)}


def test_ragged_frames_are_scored_without_p_and_refused_with_the_null_of_stimuli(heard, unrelated, tmp_path, capsys):
    words = words_of(heard, step(), **{"model.stored.path": unrelated, "output": tmp_path / "out"})
    assert commands.main(["plan", *words]) != 0
    assert "null.scheme='label' relabels rows one by one, and the 215 rows here are frames of 24 sequences" in capsys.readouterr().err  # fmt: skip
    words = [word for word in words if not word.startswith("n_permutations")] + ["n_permutations=0"]
    assert commands.main(["run", *words]) == 0, capsys.readouterr()
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pandas()
    table = table[(table["statistic"] == "pearson_r") & (table["subject"] != "mean")]
    assert set(table["n_stimuli"]) == {215} and table["p"].isna().all()
    assert table[table["model"] == "mel"]["value"].min() > 0.5 > 0.35 > table[table["model"] == "noise"]["value"].max()


def test_a_run_reads_the_frames_of_the_sentences_in_the_order_of_the_recording(heard):
    run = compose(words_of(heard, step(), models="[mel]"))
    inputs = gather(run, quiet)
    assert inputs.fits[0].pooling == "frames" and inputs.stimulus_ids[:2] == ("r01-s001@0.000", "r01-s001@0.100")
    (folder,) = (path for path in (heard / "store").iterdir() if path.is_dir())
    row_of = {name: row for row, name in enumerate(store.stimulus_ids(folder))}
    assert set(inputs.stimulus_ids) == set(row_of)
    everything = store.read(folder, inputs.fits[0])
    np.testing.assert_array_equal(inputs.read(0), everything[[row_of[name] for name in inputs.stimulus_ids]])
    sequences = inputs.brain[0].columns["sequence"]
    assert len(set(zip(inputs.groups.tolist(), sequences, strict=True))) == len(set(sequences)) == 24


@pytest.mark.parametrize(
    ("steps", "changes", "said"),
    [
        ("[{name: epoch, tmin_s: 0, tmax_s: 0.2}]", {}, r"model\.mel pools into time bins of 0\.1 s.*the step \{name: frames, bin_s: 0\.1\}"),
        (step(), {"model.mel.pooling": "mean"}, r"model\.mel has one row per stimulus, and the \d+ rows of this recording are frames of 0\.1 s"),
        (step(bin_s=0.2), {}, r"model\.mel has time bins of 0\.1 s and the recording frames of 0\.2 s"),
    ],
)  # fmt: skip
def test_models_and_recordings_of_other_rows_are_refused(heard, steps, changes, said):
    with pytest.raises(ConfigError, match=said):
        gather(compose(words_of(heard, steps, models="[mel]", **changes)), quiet, is_dry=True)


def test_a_store_of_other_bins_is_refused(heard, unrelated):
    words = words_of(
        heard, step(bin_s=0.2), models="[stored]", **{"model.stored.path": unrelated}, **dict.fromkeys(MEL)
    )
    with pytest.raises(ConfigError, match=r"noise holds time bins of 0\.1 s and the recording frames of 0\.2 s"):
        gather(compose(words), quiet)


def test_dissimilarities_of_frames_across_sentences_are_refused(heard, unrelated, capsys):
    words = words_of(heard, step(), models="[stored]", **{"model.stored.path": unrelated}, **dict.fromkeys(MEL))
    words = [word for word in words if not word.startswith("metric")]
    assert commands.main(["plan", *words, "metric=[rsa]"]) != 0
    assert "metric.rsa compares all" in capsys.readouterr().err
