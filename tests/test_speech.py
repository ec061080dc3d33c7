"""Words, phonemes and sentences are where hand-made tables say, and the EEG cut there is that of the recording."""

import numpy as np
import pytest
import writers_eeg as writers

from jaxalign.errors import ConfigError, DataError
from jaxalign.sources import fieldtrip
from jaxalign.sources.speech import Alice, Ds004408, sentences
from jaxalign.sources.textgrid import read_textgrid, tier_named

CUT = {"name": "epoch", "tmin_s": 0.0, "tmax_s": 0.1}
WORDS = [
    (0.5, 0.8, "he"),
    (0.8, 1.0, "was"),
    (1.0, 1.1, "an"),
    (2.0, 2.4, "Old"),
    (2.4, 3.0, "man"),
    (3.05, 3.2, "sp"),
    (4.0, 4.4, "he"),
]
PHONES = [(0.5, 0.6, "HH"), (0.6, 0.8, "IY1"), (2.0, 2.2, "OW1"), (2.2, 2.4, "D"), (2.4, 2.6, "M"), (2.6, 3.0, "AE1")]
TIERS = {"words": WORDS, "phones": PHONES}


# TextGrid.


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("is_short", [False, True])
def test_a_textgrid_comes_back_in_every_form(tmp_path, is_short, coding):
    said = [(0.25, 0.5, 'say "grün" ! now'), (0.5, 1.0, "7"), (1.5, 1.75, "[2]: x = 3")]
    path = writers.textgrid(tmp_path / "a.TextGrid", {"words": said, "phones": PHONES}, is_short, coding)
    words, phones = read_textgrid(path)
    assert (words.name, phones.name) == ("words", "phones")
    spoken = words.without(())
    assert spoken.labels == tuple(label for _, _, label in said)
    np.testing.assert_array_equal(spoken.starts_s, [0.25, 0.5, 1.5])
    np.testing.assert_array_equal(spoken.stops_s, [0.5, 1.0, 1.75])
    assert words.labels[0] == "" and len(phones.without(()).labels) == len(PHONES)


def test_points_of_a_text_tier_have_no_duration(tmp_path):
    (tmp_path / "p.TextGrid").write_text(
        '"ooTextFile"\n"TextGrid"\n0\n2.3\n<exists>\n1\n"TextTier"\n"bell"\n0\n2.3\n2\n0.5\n"a"\n1e0\n"b"\n'
    )
    (tier,) = read_textgrid(tmp_path / "p.TextGrid")
    np.testing.assert_array_equal(tier.starts_s, tier.stops_s)
    assert tier.labels == ("a", "b") and tier.starts_s[1] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "ends before its last tier does; whole tiers: none"),
        (lambda text: "x" + text.replace("ooTextFile", "text"), "is no TextGrid"),
        (lambda text: text.replace("xmin = 2.0 ", "xmin = 2.9 "), r"interval 6 runs from 2.9 to 2.4 s"),
        (lambda text: text.replace('"IntervalTier"', '"OddTier"'), "of the class 'OddTier'"),
    ],
)
def test_a_bad_textgrid_is_explained(tmp_path, change, said):
    path = writers.textgrid(tmp_path / "a.TextGrid", TIERS)
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=said):
        read_textgrid(path)


def test_textgrids_of_other_codings_and_tiers_that_are_not_there(tmp_path):
    path = writers.textgrid(tmp_path / "a.TextGrid", TIERS)
    with pytest.raises(DataError, match=r"no tier 'word'\. Nearest: words"):
        tier_named(read_textgrid(path), "word", path)
    path.write_bytes(path.read_bytes().replace(b"he", b"h\xe9"))
    with pytest.raises(DataError, match="neither UTF-8 nor UTF-16"):
        read_textgrid(path)
    path.write_bytes(b"ooBinaryFile\x08TextGrid")
    with pytest.raises(DataError, match="binary TextGrid"):
        read_textgrid(path)


# Sentences.


def test_sentences_run_from_the_first_onset_to_the_last_offset():
    words = {"Word": np.array(["a", "b", "c", "d"], dtype=object), "onset_s": np.array([1.0, 1.5, 3.0, 0.2]),
             "offset_s": np.array([1.4, 2.0, 3.5, 0.9]), "run": np.array(["1"] * 4, dtype=object)}  # fmt: skip
    made = sentences(words, ["x", "x", "", "w"])
    assert made["sentence"].tolist() == ["w", "x"] and made["text"].tolist() == ["d", "a b"]
    np.testing.assert_array_equal(made["onset_s"], [0.2, 1.0])
    np.testing.assert_array_equal(made["offset_s"], [0.9, 2.0])
    assert made["n_words"].tolist() == [1, 2] and made["run"].tolist() == ["1", "1"]


# ds004408.


@pytest.fixture(scope="module")
def old_man(tmp_path_factory):
    root = tmp_path_factory.mktemp("ds004408")
    return root, writers.ds004408(root, {"01": TIERS, "02": TIERS})


def test_words_of_ds004408_are_cut_where_the_textgrid_says(old_man):
    root, written = old_man
    recordings = Ds004408(folder=str(root), steps=[CUT]).recordings()
    assert [one.subject for one in recordings] == ["001", "002"]
    first = recordings[0]
    assert first.unit == "V" and first.channels == tuple(writers.BIOSEMI) and first.values.shape == (12, 128, 52)
    assert first.stimulus_ids[:6] == (
        "r01-w0001-he",
        "r01-w0002-was",
        "r01-w0003-an",
        "r01-w0004-old",
        "r01-w0005-man",
        "r01-w0006-he",
    )
    for row, onset in enumerate([0.5, 0.8, 1.0, 2.0, 2.4, 4.0]):
        at = round(onset * 512)
        expected = written["sub-001_task-listening_run-01_eeg"][:, at : at + 52]
        np.testing.assert_allclose(first.values[row], expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(first.columns["sound_onset_s"], first.columns["onset_s"])
    np.testing.assert_allclose(first.columns["duration_s"][:3], [0.3, 0.2, 0.1], atol=1e-9)


@pytest.mark.parametrize(("segments", "n"), [("phoneme", 12), ("sentence", 6)])
def test_phonemes_and_sentences_of_ds004408(old_man, segments, n):
    (one,) = Ds004408(folder=str(old_man[0]), subjects=("sub-001",), segments=segments, steps=[CUT]).recordings()
    assert len(one.stimulus_ids) == n
    if segments == "sentence":
        assert one.columns["text"].tolist()[:3] == ["he was an", "Old man", "he"]
        np.testing.assert_allclose(one.columns["onset_s"][:3], [0.5, 2.0, 4.0], atol=1e-9)
        np.testing.assert_allclose(one.columns["offset_s"][:3], [1.1, 3.0, 4.4], atol=1e-9)
    else:
        assert one.stimulus_ids[0] == "r01-p0001-hh"


def test_occurrences_of_a_word_are_repetitions_when_asked(old_man):
    root, written = old_man
    average = {"name": "average", "keep_trials": True}
    (one,) = Ds004408(folder=str(root), subjects=("002",), stimulus="type", steps=[CUT, average]).recordings()
    assert one.stimulus_ids == ("an", "he", "man", "old", "was") and one.n_repetitions.tolist() == [2, 4, 2, 2, 2]
    cuts = [
        written[f"sub-002_task-listening_run-{run}_eeg"][:, at : at + 52] for run in ("01", "02") for at in (256, 2048)
    ]
    np.testing.assert_allclose(one.values[1], np.mean(cuts, axis=0), rtol=1e-4, atol=1e-11)
    assert one.trials.shape == (5, 2, 128, 52)
    assert any("up to repetition 2; some stimuli have up to 4" in note for note in one.origin["notes"])


def test_sentences_may_come_from_a_table(old_man, tmp_path):
    (tmp_path / "s.csv").write_text("run,onset,offset,sentence\n1,0.4,2.45,A\n1,2.45,5,B\n2,0.4,1.2,C\n2,1.9,5,D\n")
    source = Ds004408(
        folder=str(old_man[0]),
        subjects=("001",),
        segments="sentence",
        sentences_file=str(tmp_path / "s.csv"),
        steps=[CUT],
    )
    (one,) = source.recordings()
    assert one.stimulus_ids == ("r01-A", "r01-B", "r02-C", "r02-D")
    assert one.columns["text"].tolist() == ["he was an Old", "man he", "he was an", "Old man he"]
    (tmp_path / "s.csv").write_text("run,onset,offset\n1,0.4,2.45\n1,2.0,5\n")
    with pytest.raises(DataError, match="sentences of run 01 overlap, first at 2"):
        source.recordings()


def test_the_published_steps_run_on_ds004408(old_man):
    from jaxalign.commands.composed import compose

    run = compose(["dataset=ds004408", f"dataset.folder={old_man[0]}", "model=[fas]", "metric=[correlation]"])
    first, second = run.dataset.recordings()
    assert first.values.shape == (6, 128, 22) and first.stimulus_ids == second.stimulus_ids
    notes = " ".join(first.origin["notes"])
    assert "notch at 50 Hz, the mains frequency of the recording" in notes and "onsets are blurred" in notes
    assert "montage biosemi128" in notes and np.isfinite(first.positions).all()
    np.testing.assert_allclose(first.values.mean(1), 0, atol=1e-9)


def test_a_run_without_its_textgrid_and_a_short_recording_are_explained(tmp_path):
    writers.ds004408(tmp_path, {"01": TIERS}, duration_s=4.2)
    with pytest.raises(DataError, match=r"last segment ends at 4\.400 s and the recording at 4\.199 s"):
        Ds004408(folder=str(tmp_path), steps=[CUT]).recordings()
    (tmp_path / "stimuli" / "audio01.TextGrid").rename(tmp_path / "stimuli" / "other.TextGrid")
    with pytest.raises(DataError, match=r"audio01\.TextGrid was not found.*holds other\.TextGrid"):
        Ds004408(folder=str(tmp_path), steps=[CUT]).recordings()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subjects": ("003",)}, r"no sub-003\. Nearest: 002, 001"),
        ({"runs": ("7",)}, "no run '7'"),
        ({"task": "reading"}, r"no eeg recording task=reading"),
        ({"word_tier": "wrods"}, r"no tier 'wrods'\. Nearest: words"),
        ({"least_s": 2.0}, r"None of 6 words lasts 2 s; the longest lasts 0\.600 s"),
        ({"folder": "/nowhere/ds004408"}, r"The folder /nowhere/ds004408 was not found"),
    ],
)
def test_bad_requests_of_ds004408(old_man, changes, said):
    with pytest.raises(DataError, match=said):
        Ds004408(**{"folder": str(old_man[0]), "steps": [CUT], **changes}).recordings()


def test_choices_that_mean_nothing():
    with pytest.raises(ConfigError, match=r"dataset.segments='wrod' is unknown\. Nearest: word"):
        Ds004408(segments="wrod")
    with pytest.raises(ConfigError, match=r"dataset\.group='used'"):
        Alice(group="used")


# Alice.


def cut_of(values, onset):
    at = round(onset * 500)
    return values[:60, at : at + 51] * 1e-6


def test_onsets_of_alice_are_those_of_the_sound_file_plus_its_start(tmp_path):
    values = writers.alice(tmp_path)
    (one,) = Alice(folder=str(tmp_path), steps=[CUT]).recordings()
    assert one.subject == "S01" and one.unit == "V" and one.channels == tuple(writers.ALICE_NAMES)
    assert one.stimulus_ids[0] == "w0001-alice" and one.values.shape == (9, 60, 51)
    for row, (_, segment, onset, _, _) in enumerate(writers.ALICE_WORDS):
        expected = cut_of(values, writers.ALICE_STARTS[segment] + onset)
        np.testing.assert_allclose(one.values[row], expected, rtol=1e-5)
    assert one.origin["segment_starts_s"] == {"1": 2.0, "2": 7.5}


def test_sentences_of_alice(tmp_path):
    values = writers.alice(tmp_path)
    (one,) = Alice(folder=str(tmp_path), segments="sentence", steps=[CUT]).recordings()
    assert one.stimulus_ids == ("s001", "s002", "s003", "s004")
    assert one.columns["text"].tolist() == ["Alice was beginning", "to get", "very tired", "of Alice"]
    np.testing.assert_allclose(one.columns["onset_s"], [2.1, 3.3, 7.7, 8.7], atol=1e-9)
    np.testing.assert_allclose(one.columns["offset_s"], [3.0, 3.7, 8.45, 9.3], atol=1e-9)
    np.testing.assert_allclose(one.values[2], cut_of(values, 7.7), rtol=1e-5)
    assert one.columns["sound"].tolist() == [1, 1, 2, 2], "and where the sound of each sentence is cut"
    np.testing.assert_allclose(one.columns["sound_onset_s"], [0.1, 1.3, 0.2, 1.2], atol=1e-9)
    np.testing.assert_allclose(one.columns["sound_offset_s"], [1.0, 1.7, 0.95, 1.8], atol=1e-9)


def test_a_sentence_that_goes_on_in_the_next_sound_file_has_no_place_in_one():
    words = {"Word": np.array(["a", "b", "c"], dtype=object), "onset_s": np.array([1.0, 8.0, 9.0]), "sound": np.array([1, 2, 2]),
             "offset_s": np.array([1.4, 8.5, 9.5]), "sound_onset_s": np.array([1.0, 0, 1]), "sound_offset_s": np.array([1.4, 0.5, 1.5])}  # fmt: skip
    made = sentences(words, ["x", "x", "y"])
    np.testing.assert_array_equal(made["sound_onset_s"], [np.nan, 1])
    np.testing.assert_array_equal(made["onset_s"], [1, 9])


def test_alice_as_matlab_73(tmp_path):
    pytest.importorskip("h5py")
    values = writers.alice(tmp_path / "new", is_hdf5=True)
    writers.alice(tmp_path / "old")
    new, old = (Alice(folder=str(tmp_path / name), steps=[CUT]).recordings()[0] for name in ("new", "old"))
    np.testing.assert_array_equal(new.values, old.values)
    assert new.channels == old.channels and np.abs(values).max() * 1e-6 >= np.abs(new.values).max() > 1e-6


def test_the_published_steps_run_on_alice_with_the_mains_of_michigan(tmp_path):
    from jaxalign.commands.composed import compose

    writers.alice(tmp_path)
    run = compose(["dataset=alice", f"dataset.folder={tmp_path}", "model=[fas]", "metric=[correlation]"])
    (one,) = run.dataset.recordings()
    notes = " ".join(one.origin["notes"])
    assert one.values.shape == (4, 60, 22) and "notch at 60 Hz, the mains frequency of the recording" in notes
    assert "channels interpolated (distance): 5, 7" in notes, "those that proc/ names"
    assert np.isfinite(one.positions).all(), "easycap-M10 knows the numbers"


def test_words_without_a_start_are_refused(tmp_path):
    writers.alice(tmp_path)
    (tmp_path / "proc" / "S01.mat").unlink()
    with pytest.raises(DataError, match=r"relative to their 2 sound files\. Add the folder proc"):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()
    with pytest.raises(DataError, match=r"no start of 1 of 2 sound files, first 2"):
        Alice(folder=str(tmp_path), segment_starts_s={"1": 2.0}, steps=[CUT]).recordings()
    given = Alice(folder=str(tmp_path), segment_starts_s={"1": 2.0, "2": 7.5}, steps=[CUT]).recordings()[0]
    writers.alice(tmp_path)
    np.testing.assert_array_equal(given.values, Alice(folder=str(tmp_path), steps=[CUT]).recordings()[0].values)


def test_words_that_disagree_about_the_start_of_their_sound(tmp_path):
    writers.alice(tmp_path, trl_shift={2: 100})
    with pytest.raises(
        DataError, match=r"5 words of sound file 1 disagree about its start by up to 0\.200 s \(median 2\.000 s\)"
    ):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()


def test_groups_of_alice(tmp_path):
    from scipy.io import savemat

    writers.alice(tmp_path)
    path = tmp_path / "datasets.mat"
    savemat(path, {"use": np.array([1, 0, 1, 1]), "lowperf": np.array([2, 5])})
    assert fieldtrip.subjects_of(path, "use") == ["S01", "S03", "S04"]
    assert fieldtrip.subjects_of(path, "lowperf") == ["S02", "S05"]
    with pytest.raises(DataError, match="None of the 2 subjects of the group lowperf"):
        Alice(folder=str(tmp_path), group="lowperf", steps=[CUT]).recordings()
    path.unlink()
    with pytest.raises(DataError, match=r"datasets\.mat was not found.*dataset\.group=all"):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()
    assert len(Alice(folder=str(tmp_path), group="all", steps=[CUT]).recordings()) == 1


def test_files_of_alice_that_are_wrong(tmp_path):
    with pytest.raises(DataError, match=r"holds no S\*\.mat\. It holds nothing"):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()
    writers.alice(tmp_path)
    whole = (tmp_path / "S01.mat").read_bytes()
    (tmp_path / "S01.mat").write_bytes(whole[:100_000])
    with pytest.raises(DataError, match=r"S01\.mat \(100000 bytes\) cannot be read as a MATLAB file"):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()
    (tmp_path / "S01.mat").write_bytes(whole)
    table = tmp_path / "AliceChapterOne-EEG.csv"
    text = table.read_text()
    table.write_text(text.replace("Segment", "Part"))
    with pytest.raises(DataError, match="has no column 'Segment'"):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()
    table.write_text(text.replace(",0.45,0.6,2,", ",0.65,0.6,2,"))
    with pytest.raises(DataError, match=r"1 of 9 segments end before they start.*row 2: 0.65 to 0.6"):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()
    table.write_text(text.replace(",1.45,1.7,5,", ",1.45,1.7,4,"))
    with pytest.raises(DataError, match="9 words have 8 different numbers in Order"):
        Alice(folder=str(tmp_path), steps=[CUT]).recordings()
