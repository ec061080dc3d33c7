"""EEG of people who listen to speech: Alice (Brennan & Hale) and OpenNeuro ds004408, cut into words, phonemes or sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources import bids, fieldtrip
from jaxalign.sources.files import find, sha256
from jaxalign.sources.reading import Events, find_folder, holds, prepared, recorded, work_of
from jaxalign.sources.rows import table_rows
from jaxalign.sources.steps import carried_out, parsed
from jaxalign.sources.textgrid import read_textgrid, tier_named
from jaxalign.sources.trials import ID, Work, column_of, keep_names, numbers, recording_of, wanted

SILENCES = ("sp", "sil", "spn", "<sil>", "<p:>", "#")


@dataclass(frozen=True)
class Alice:
    """The first chapter of Alice in Wonderland, heard by 49 people: 60 EEG channels at 500 Hz, 12 sound files, 2,129 words.

    The folder holds S01.mat ... (FieldTrip), AliceChapterOne-EEG.csv, and, to know when each sound began, proc/S01.mat.
    Onsets of the table are relative to their sound file (column Segment); its start in the recording is added.

    Attributes:
        name: data set name in the table.
        folder: of the data set, or the one that was given to `jaxalign fetch`.
        subjects: such as S01; empty takes those of `group`.
        group: "use" (33 people of the paper), "lowperf", "highnoise" of datasets.mat, or "all".
        segments: "word" or "sentence" (from its first word's onset to its last word's offset).
        stimulus: "token" (each occurrence is a stimulus) or "type" (all occurrences of a word are one, and repeat).
        word_table: table of words.
        lexical_only: words of the open class only (column IsLexical).
        least_s: shortest segment, in seconds; shorter ones are dropped.
        segment_starts_s: sound file -> its start in the recording, seconds; empty takes them from proc/.
        tolerance_s: how far words of one sound file may disagree about its start.
        proc_bads: mark the channels bad that proc/ names.
        mains_hz: mains frequency; the data were recorded in Michigan.
        steps: preprocessing in order; each is a mapping with a name of STEPS and its options.
        picks: channel type.
        channels: channel names to keep, in this order; all of the type when empty.
        tmin_s, tmax_s: time bins that start within [tmin_s, tmax_s); null keeps all.
        stimuli: stimulus ids to keep, in this order; empty keeps all, sorted by id.
        stimuli_file: CSV or TSV with a column stimulus_id instead.
        test_stimuli: stimulus ids of the test set.
        test_column: column whose values test, true, yes or 1 mark the test set.
        notes: carried into the report.

    Source: Brennan & Hale 2019, PLoS ONE 14:e0207741; data doi 10.7302/Z29C6VNH.
    """

    name: str = "alice"
    folder: str = "alice"
    subjects: tuple[str, ...] = ()
    group: str = "use"
    segments: str = "word"
    stimulus: str = "token"
    word_table: str = "AliceChapterOne-EEG.csv"
    lexical_only: bool = False
    least_s: float = 0.0
    segment_starts_s: dict[Any, Any] = field(default_factory=dict)
    tolerance_s: float = 0.02
    proc_bads: bool = True
    mains_hz: float = 60.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    picks: str = "eeg"
    channels: tuple[str, ...] = ()
    tmin_s: float | None = None
    tmax_s: float | None = None
    stimuli: tuple[str, ...] = ()
    stimuli_file: str = ""
    test_stimuli: tuple[str, ...] = ()
    test_column: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keep_names(self)
        _check_choice("segments", self.segments, ("word", "sentence"))
        _check_choice("stimulus", self.stimulus, ("token", "type"))
        _check_choice("group", self.group, (*fieldtrip.GROUPS, "all"))
        parsed(self.steps)

    def recordings(self) -> list[Recording]:
        """Read and preprocess all subjects. -> one Recording each, in volts or what a step made

        Raises:
            ConfigError: if an option or a step does not fit the data.
            DataError: if a file or a segment is missing, times disagree, or the responses cannot be used.
        """
        folder = find_folder(self.folder, "S*.mat", "alice")
        words = self.words(folder)
        return [self._recording(folder, subject, words) for subject in self._subjects(folder)]

    def words(self, folder: Path) -> Events:
        """The table of words: onset and offset in seconds from the start of their sound file.

        Args:
            folder: of the data set.
        Raises:
            DataError: if the table or a column is not there, a word ends before it starts, or an Order repeats.
        """
        path = folder / self.word_table
        if not path.is_file():
            raise DataError(f"{path} was not found: the table of words is needed. {folder} holds {holds(folder)}.")
        rows = table_rows(path, ("Word", "Segment", "onset", "offset", "Order", "Sentence"))
        words = Events({name: column_of([row[name] for row in rows]) for name in rows[0]})
        for name in ("Segment", "onset", "offset", "Order", "Sentence"):
            words[name] = numbers(rows, name, path)
        words["Word"] = np.asarray([row["Word"] for row in rows], dtype=object)
        check_times(words["onset"], words["offset"], str(path))
        if len(set(words["Order"].tolist())) < len(rows):
            raise DataError(
                f"{path}: {len(rows)} words have {len(set(words['Order'].tolist()))} different numbers in Order. Give each word its own."
            )
        return words

    def _subjects(self, folder: Path) -> list[str]:
        has = sorted(path.stem for path in folder.glob("S*.mat"))
        missing = [name for name in self.subjects if name not in has]
        if missing:
            raise DataError(f"dataset.subjects: {folder} has no {missing[0]}.mat. {nearest(missing[0], has)}")
        if self.subjects or self.group == "all":
            return list(self.subjects) or has
        listed = fieldtrip.subjects_of(folder / "datasets.mat", self.group)
        there = [name for name in listed if name in has]
        if not there:
            raise DataError(
                f"None of the {len(listed)} subjects of the group {self.group} is in {folder}, which has {len(has)}: {', '.join(has[:5])}."
            )
        return there

    def _recording(self, folder: Path, subject: str, words: Events) -> Recording:
        path, where = folder / f"{subject}.mat", f"{self.name}, subject {subject}"
        raw = prepared(fieldtrip.read_raw(path), {}, self.mains_hz, where)
        proc = folder / "proc" / f"{subject}.mat"
        facts = fieldtrip.read_proc(proc) if proc.is_file() else None
        notes = [
            f"onsets of words are those of their sound file plus its start in the recording; mains {self.mains_hz:g} Hz"
        ]
        if facts is not None and self.proc_bads:
            raw.info["bads"] = [name for name in raw.ch_names if name in facts.bads]
        starts, said = self._starts(words, facts, proc, where)
        late = np.array([starts[segment] for segment in words["Segment"].tolist()])
        timed = Events({**words, "onset_s": words["onset"] + late, "offset_s": words["offset"] + late})
        timed |= {"sound_onset_s": words["onset"], "sound_offset_s": words["offset"], "sound": words["Segment"]}
        if self.lexical_only:
            timed = lexical(timed, where)
        segments, more = self._segments(timed)
        work = work_of(raw, segments, wanted(self, subject), where, [*notes, *said, *more])
        trials = carried_out([work], self.steps, where)
        origin = {"files": [path.name], "sha256": [sha256(path)], "segment_starts_s": {f"{name:g}": round(value, 4) for name, value in starts.items()},
                  "steps": [dict(step) for step in self.steps], "notes": list(self.notes)}  # fmt: skip
        return recording_of(trials, wanted(self, subject), origin)

    def _starts(self, words: Events, facts: Any, proc: Path, where: str) -> tuple[dict[float, float], list[str]]:
        """Start of each sound file in the recording, seconds; and a note."""
        names = sorted(set(words["Segment"].tolist()))
        if self.segment_starts_s:
            starts = {float(name): float(value) for name, value in self.segment_starts_s.items()}
            source = "dataset.segment_starts_s"
        elif facts is None:
            raise DataError(
                f"{where}: {proc} was not found, and onsets of the words are relative to their {len(names)} sound files. Add the folder proc of the data set, or give dataset.segment_starts_s."
            )
        else:
            starts = facts.starts_s(words, self.tolerance_s, where)
            source = str(proc)
        missing = [name for name in names if name not in starts]
        if missing:
            raise DataError(
                f"{where}: {source} has no start of {len(missing)} of {len(names)} sound files, first {missing[0]:g}."
            )
        return {name: starts[name] for name in names}, [f"starts of {len(names)} sound files: {Path(source).name}"]

    def _segments(self, words: Events) -> tuple[Events, list[str]]:
        if self.segments == "word":
            ids = [
                f"w{int(order):04d}-{word.lower()}" for order, word in zip(words["Order"], words["Word"], strict=True)
            ]
            types = [word.lower() for word in words["Word"]]
            return with_ids(words, ids if self.stimulus == "token" else types, self.least_s, "words")
        made = sentences(words, [f"s{int(number):03d}" for number in words["Sentence"]])
        return with_ids(made, made["sentence"].tolist(), self.least_s, "sentences")


@dataclass(frozen=True)
class Ds004408:
    """OpenNeuro ds004408: 19 people hear The Old Man and the Sea in 20 runs; 128 BioSemi channels at 512 Hz.

    Sound file NN was played in run NN from its first sample on; stimuli/audioNN.TextGrid says when words and phonemes are.

    Attributes:
        name: data set name in the table.
        folder: root of the data set, or the folder that was given to `jaxalign fetch`.
        subjects: labels without "sub-"; all when empty.
        runs: labels of runs; all when empty.
        session, task: labels.
        segments: "word", "phoneme" or "sentence".
        stimulus: "token" (each occurrence is a stimulus) or "type" (all occurrences of a word or phoneme are one).
        word_tier, phone_tier: tiers of the TextGrid files.
        silences: labels that are no word and no phoneme, beside the empty one.
        sentences_file: CSV or TSV with run, onset and offset (seconds in the sound) and, if wanted, sentence; instead of
            sentence_gap_s.
        sentence_gap_s: a pause at least this long between two words ends a sentence: TextGrid files have no punctuation.
        least_s: shortest segment, in seconds; shorter ones are dropped.
        delay_s: added to each onset.
        mains_hz: mains frequency; null keeps PowerLineFrequency of the data set. It was recorded in Dublin (50 Hz).
        steps: preprocessing in order; each is a mapping with a name of STEPS and its options.
        picks: channel type.
        channels: channel names to keep, in this order; all of the type when empty.
        tmin_s, tmax_s: time bins that start within [tmin_s, tmax_s); null keeps all.
        stimuli: stimulus ids to keep, in this order; empty keeps all, sorted by id.
        stimuli_file: CSV or TSV with a column stimulus_id instead.
        test_stimuli: stimulus ids of the test set.
        test_column: column whose values test, true, yes or 1 mark the test set.
        notes: carried into the report.

    Source: Broderick et al. 2018, Curr. Biol. 28:803; data doi 10.18112/openneuro.ds004408.v1.0.0.
    """

    name: str = "ds004408"
    folder: str = "ds004408"
    subjects: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    session: str = ""
    task: str = "listening"
    segments: str = "word"
    stimulus: str = "token"
    word_tier: str = "words"
    phone_tier: str = "phones"
    silences: tuple[str, ...] = SILENCES
    sentences_file: str = ""
    sentence_gap_s: float = 0.4
    least_s: float = 0.0
    delay_s: float = 0.0
    mains_hz: float | None = 50.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    picks: str = "eeg"
    channels: tuple[str, ...] = ()
    tmin_s: float | None = None
    tmax_s: float | None = None
    stimuli: tuple[str, ...] = ()
    stimuli_file: str = ""
    test_stimuli: tuple[str, ...] = ()
    test_column: str = ""
    notes: tuple[str, ...] = ()

    @property
    def datatype(self) -> str:
        """Folder of BIDS."""
        return "eeg"

    def __post_init__(self) -> None:
        keep_names(self)
        _check_choice("segments", self.segments, ("word", "phoneme", "sentence"))
        _check_choice("stimulus", self.stimulus, ("token", "type"))
        parsed(self.steps)

    def recordings(self) -> list[Recording]:
        """Read and preprocess all subjects. -> one Recording each, in volts or what a step made

        Raises:
            ConfigError: if mne-bids is not installed, or an option or a step does not fit the data.
            DataError: if a file is missing, times disagree with the recording, or the responses cannot be used.
        """
        root = find_folder(self.folder, "sub-*", "ds004408")
        return [
            self._recording(root, name) for name in bids.chosen_labels(root, "sub", self.subjects, "dataset.subjects")
        ]

    def _recording(self, root: Path, subject: str) -> Recording:
        found = bids.run_files(root, subject, self)
        runs = [self._run(root, path, subject) for path in found]
        return recorded(self, subject, runs, [path.fpath for path in found])

    def _run(self, root: Path, path: Any, subject: str) -> Work:
        data, notes = bids.read_run(path)
        where = path.basename
        data = prepared(data, {}, self.mains_hz, where)
        segments, more = self.cut(root, str(path.run or "1"))
        segments |= {"sound_onset_s": segments["onset_s"], "sound_offset_s": segments["offset_s"]}
        segments["onset_s"] = segments["onset_s"] + self.delay_s
        segments["offset_s"] = segments["offset_s"] + self.delay_s
        duration, last = data.n_times / float(data.info["sfreq"]), float(segments["offset_s"].max())
        if last > duration:
            raise DataError(
                f"{where}: its last segment ends at {last:.3f} s and the recording at {duration:.3f} s. Is the recording whole, and is audio{path.run}.TextGrid that of its sound?"
            )
        return work_of(data, segments, wanted(self, subject), where, [*notes, *more])

    def cut(self, root: Path, run: str) -> tuple[Events, list[str]]:
        """Segments of the sound of a run: stimulus_id, onset_s and offset_s in seconds from its start; and notes.

        Args:
            root: of the data set.
            run: its label.
        Raises:
            DataError: if the TextGrid or a tier is not there, or nothing is said in it.
        """
        path = root / "stimuli" / f"audio{int(run):02d}.TextGrid"
        if not path.is_file():
            there = sorted(one.name for one in root.glob("stimuli/*"))
            raise DataError(
                f"{path} was not found or is a link to a file that was not downloaded: it says when the words of run {run} are. {root / 'stimuli'} holds {', '.join(there[:6]) or 'nothing'}."
            )
        name = self.phone_tier if self.segments == "phoneme" else self.word_tier
        tier = tier_named(read_textgrid(path), name, path).without(self.silences)
        if not tier.labels:
            raise DataError(f"{path}: the tier {name!r} has no label but silences {', '.join(self.silences)}.")
        check_times(tier.starts_s, tier.stops_s, f"{path}, tier {name!r}")
        said = Events({"Word": np.asarray(tier.labels, dtype=object), "onset_s": tier.starts_s, "offset_s": tier.stops_s,
                       "run": np.full(len(tier.labels), run, dtype=object)})  # fmt: skip
        if self.segments == "sentence":
            said = sentences(said, self._sentence_names(said, run))
            return with_ids(said, said["sentence"].tolist(), self.least_s, "sentences")
        letter = "p" if self.segments == "phoneme" else "w"
        ids = [f"r{int(run):02d}-{letter}{number:04d}-{label.lower()}" for number, label in enumerate(tier.labels, 1)]
        types = [label.lower() if letter == "w" else label.rstrip("012") for label in tier.labels]
        return with_ids(said, ids if self.stimulus == "token" else types, self.least_s, f"{self.segments}s")

    def _sentence_names(self, words: Events, run: str) -> list[str]:
        """The sentence of each word; "" where it is in none."""
        if not self.sentences_file:
            gaps = words["onset_s"][1:] - words["offset_s"][:-1]
            number = np.concatenate([[0], np.cumsum(gaps >= self.sentence_gap_s - 1e-9)])
            return [f"r{int(run):02d}-s{one + 1:03d}" for one in number]
        path = find(self.sentences_file)
        rows = [row for row in table_rows(path, ("run", "onset", "offset")) if int(float(row["run"])) == int(run)]
        if not rows:
            raise DataError(f"{path} has no sentence of run {run}.")
        starts, stops = numbers(rows, "onset", path), numbers(rows, "offset", path)
        check_times(starts, stops, str(path))
        names = [f"r{int(run):02d}-{row.get('sentence') or f's{number:03d}'}" for number, row in enumerate(rows, 1)]
        middle = (words["onset_s"] + words["offset_s"]) / 2
        inside = (middle[:, None] >= starts[None, :]) & (middle[:, None] < stops[None, :])
        if (inside.sum(1) > 1).any():
            raise DataError(f"{path}: sentences of run {run} overlap, first at {middle[inside.sum(1) > 1][0]:.3f} s.")
        return [names[row.argmax()] if row.any() else "" for row in inside]


def _check_choice(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"dataset.{option}={value!r} is unknown. {nearest(value, known)}")


def check_times(starts_s: np.ndarray, stops_s: np.ndarray, where: str) -> None:
    """Refuse segments that end before they start or begin before the sound.

    Args:
        starts_s, stops_s: (n_segments,) seconds.
        where: whose they are, for messages.
    Raises:
        DataError: naming the first.
    """
    wrong = np.flatnonzero((stops_s <= starts_s) | (starts_s < 0))
    if len(wrong):
        raise DataError(
            f"{where}: {len(wrong)} of {len(starts_s)} segments end before they start or begin before 0 s, first row {wrong[0] + 1}: {starts_s[wrong[0]]:g} to {stops_s[wrong[0]]:g} s."
        )


def sentences(words: Mapping[str, np.ndarray], names: Sequence[str]) -> Events:
    """One row per sentence: from the first onset to the last offset of its words, in the order they begin.

    Args:
        words: Word, onset_s, offset_s, and any columns, of which those that all words of a sentence share are kept.
        names: (n_words,) the sentence of each word; "" for none.
    Returns:
        sentence, text, n_words, onset_s, offset_s and the shared columns; with a column sound also sound_onset_s and
        sound_offset_s, seconds in that file, NaN for a sentence that goes on in the next.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name:
            rows.setdefault(name, []).append(row)
    onset, offset = np.asarray(words["onset_s"], float), np.asarray(words["offset_s"], float)
    order = sorted(rows, key=lambda name: onset[rows[name]].min())
    made = {
        "sentence": np.asarray(order, dtype=object),
        "text": np.asarray([" ".join(map(str, words["Word"][rows[name]])) for name in order], dtype=object),
        "n_words": np.asarray([len(rows[name]) for name in order]),
        "onset_s": np.asarray([onset[rows[name]].min() for name in order]),
        "offset_s": np.asarray([offset[rows[name]].max() for name in order]),
    }
    if "sound" in words:
        made |= _of_sound(words, [rows[name] for name in order])
    for column, values in words.items():
        if column not in (*made, "Word") and all(len(set(map(str, values[rows[name]]))) == 1 for name in order):
            made[column] = values[[rows[name][0] for name in order]]
    return Events(made)


def _of_sound(words: Mapping[str, np.ndarray], rows: Sequence[list[int]]) -> dict[str, np.ndarray]:
    """Where each sentence is in its sound file, seconds; NaN for one that goes on in the next file."""
    is_one = np.asarray([len(set(words["sound"][of].tolist())) == 1 for of in rows])
    starts = np.asarray([words["sound_onset_s"][of].min() for of in rows])
    stops = np.asarray([words["sound_offset_s"][of].max() for of in rows])
    first = np.asarray([words["sound"][of][0] for of in rows])
    return {
        "sound": first,
        "sound_onset_s": np.where(is_one, starts, np.nan),
        "sound_offset_s": np.where(is_one, stops, np.nan),
    }


def with_ids(segments: Events, ids: Sequence[str], least_s: float, what: str) -> tuple[Events, list[str]]:
    """Segments that last long enough, with stimulus_id and duration_s; and a note on those that do not.

    Args:
        segments: onset_s and offset_s.
        ids: (n_segments,) stimulus of each.
        least_s: shortest duration.
        what: they are, for messages.
    Raises:
        DataError: if none is long enough.
    """
    duration = segments["offset_s"] - segments["onset_s"]
    keep = duration >= least_s - 1e-9
    if not keep.any():
        raise DataError(
            f"None of {len(keep)} {what} lasts {least_s:g} s; the longest lasts {duration.max():.3f} s. Lower dataset.least_s."
        )
    named = Events({**segments, ID: np.asarray(list(ids), dtype=object), "duration_s": duration}).rows(keep)
    notes = (
        [f"{int((~keep).sum())} of {len(keep)} {what} last less than {least_s:g} s and are left out"]
        if not keep.all()
        else []
    )
    return named, notes


def lexical(words: Events, where: str) -> Events:
    """Words of the open class, by the column IsLexical.

    Args:
        words: the table.
        where: whose it is, for messages.
    Raises:
        DataError: if there is no such column.
    """
    if "IsLexical" not in words:
        raise DataError(f"{where}: the table of words has no column IsLexical. {nearest('IsLexical', words)}")
    return words.rows(np.asarray([str(value).lower() in ("1", "1.0", "true") for value in words["IsLexical"]]))
