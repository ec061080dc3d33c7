"""Writers of tiny recordings in the layouts that people download: BrainVision, BIDS, TextGrid, FieldTrip's MATLAB files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mne
import numpy as np
from scipy.io import savemat

NAMES = ("Fp1", "Fz", "F3", "F4", "C3", "Cz", "C4", "P3", "Pz", "P4", "O1", "Oz")


def raw_array(n_samples: int = 4000, sfreq: float = 200.0, names: tuple[str, ...] = NAMES, seed: int = 0) -> Any:
    """EEG of correlated channels with positions: 10 uV of noise and 20 uV of 50 Hz. -> mne Raw"""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((len(names), n_samples)) + rng.standard_normal(n_samples)
    values += 2 * np.sin(2 * np.pi * 50 * np.arange(n_samples) / sfreq)
    raw = mne.io.RawArray(values * 1e-5, mne.create_info(list(names), sfreq, "eeg"), verbose="error")
    known = mne.channels.get_builtin_montages()
    montage = "colin27_1005" if "colin27_1005" in known else "standard_1005"
    if all(name in mne.channels.make_standard_montage(montage).ch_names for name in names):
        raw.set_montage(montage)
    return raw


def brainvision(folder: Path, stem: str, values: np.ndarray, sfreq: float, names: list[str], markers: list[tuple[str, int]]) -> Path:  # fmt: skip
    """Write .vhdr, .vmrk and .eeg: values (n_channels, n_samples) in volts; markers (name, zero-based sample)."""
    folder.mkdir(parents=True, exist_ok=True)
    head = [
        "Brain Vision Data Exchange Header File Version 1.0", "[Common Infos]", "Codepage=UTF-8",
        f"DataFile={stem}.eeg", f"MarkerFile={stem}.vmrk", "DataFormat=BINARY", "DataOrientation=MULTIPLEXED",
        f"NumberOfChannels={len(names)}", f"SamplingInterval={1e6 / sfreq:.9g}", "[Binary Infos]",
        "BinaryFormat=IEEE_FLOAT_32", "[Channel Infos]",
        *(f"Ch{index}={name},,1,µV" for index, name in enumerate(names, 1)),
    ]  # fmt: skip
    (folder / f"{stem}.vhdr").write_text("\n".join(head) + "\n", encoding="utf-8")
    marks = ["Brain Vision Data Exchange Marker File Version 1.0", "[Common Infos]", "Codepage=UTF-8",
             f"DataFile={stem}.eeg", "[Marker Infos]", "Mk1=New Segment,,1,1,0,20200101000000000000",
             *(f"Mk{index}=Stimulus,{name},{sample + 1},1,0" for index, (name, sample) in enumerate(markers, 2))]  # fmt: skip
    (folder / f"{stem}.vmrk").write_text("\n".join(marks) + "\n", encoding="utf-8")
    (values * 1e6).T.astype("<f4").tofile(folder / f"{stem}.eeg")
    return folder / f"{stem}.vhdr"


def textgrid(
    path: Path, tiers: dict[str, list[tuple[float, float, str]]], is_short: bool = False, coding: str = "utf-8"
) -> Path:
    """Write a TextGrid of interval tiers, name -> (start, stop, label); silences between them are filled in."""
    end = max(stop for tier in tiers.values() for _, stop, _ in tier) + 0.5
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    write = (lambda _, value: str(value)) if is_short else (lambda name, value: f"{name} = {value} ")
    lines += [
        write("xmin", 0),
        write("xmax", end),
        "<exists>" if is_short else "tiers? <exists> ",
        write("size", len(tiers)),
    ]
    for number, (name, given) in enumerate(tiers.items(), 1):
        intervals, at = [], 0.0
        for start, stop, label in given:
            intervals += [(at, start, "")] if start > at else []
            intervals.append((start, stop, label))
            at = stop
        intervals.append((at, end, ""))
        lines += [] if is_short else [f"    item [{number}]:"]
        lines += [write("class", '"IntervalTier"'), write("name", f'"{name}"'), write("xmin", 0), write("xmax", end)]
        lines.append(str(len(intervals)) if is_short else f"        intervals: size = {len(intervals)} ")
        for index, (start, stop, label) in enumerate(intervals, 1):
            lines += [] if is_short else [f"        intervals [{index}]:"]
            quoted = '"' + label.replace('"', '""') + '"'
            lines += [write("xmin", start), write("xmax", stop), write("text", quoted)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=coding)
    return path


def bids_run(root: Path, subject: str, run: str, values: np.ndarray, sfreq: float, names: list[str], task: str = "listening",
             events: list[dict[str, Any]] | None = None, bads: tuple[str, ...] = (), mains: float = 50) -> Path:  # fmt: skip
    """Write one run of a BIDS folder as BrainVision with its sidecars. -> the .vhdr file"""
    stem = f"sub-{subject}_task-{task}_run-{run}"
    folder = root / f"sub-{subject}" / "eeg"
    path = brainvision(folder, f"{stem}_eeg", values, sfreq, names, [])
    (root / "dataset_description.json").write_text(json.dumps({"Name": "tiny", "BIDSVersion": "1.8.0"}))
    facts = {
        "TaskName": task,
        "SamplingFrequency": sfreq,
        "PowerLineFrequency": mains,
        "EEGReference": "n/a",
        "SoftwareFilters": "n/a",
    }
    (folder / f"{stem}_eeg.json").write_text(json.dumps(facts))
    rows = [f"{name}\tEEG\tµV\t{'bad' if name in bads else 'good'}" for name in names]
    (folder / f"{stem}_channels.tsv").write_text(
        "\n".join(["name\ttype\tunits\tstatus", *rows]) + "\n", encoding="utf-8"
    )
    if events is not None:
        table = ["\t".join(events[0]), *("\t".join(map(str, row.values())) for row in events)]
        (folder / f"{stem}_events.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return path


BIOSEMI = [f"{letter}{number}" for letter in "ABCD" for number in range(1, 33)]


def ds004408(root: Path, runs: dict[str, dict[str, list[tuple[float, float, str]]]], duration_s: float = 8.0, seed: int = 0) -> dict[str, np.ndarray]:  # fmt: skip
    """Write ds004408 with two subjects; run -> tiers of its TextGrid. -> file stem -> (128, n_samples) volts"""
    rng, written = np.random.default_rng(seed), {}
    for subject in ("001", "002"):
        for run in runs:
            n_samples = int(512 * duration_s)
            values = (rng.standard_normal((128, n_samples)) + rng.standard_normal(n_samples)) * 1e-5
            path = bids_run(root, subject, run, values, 512.0, BIOSEMI)
            written[path.stem] = values
    for run, tiers in runs.items():
        textgrid(root / "stimuli" / f"audio{run}.TextGrid", tiers)
    (root / "participants.tsv").write_text("participant_id\nsub-001\nsub-002\n")
    return written


ALICE_WORDS = (
    # Word, Segment, onset, offset (from the start of the sound file), Sentence
    ("Alice", 1, 0.10, 0.40, 1), ("was", 1, 0.45, 0.60, 1), ("beginning", 1, 0.62, 1.00, 1),
    ("to", 1, 1.30, 1.40, 2), ("get", 1, 1.45, 1.70, 2),
    ("very", 2, 0.20, 0.50, 3), ("tired", 2, 0.55, 0.95, 3),
    ("of", 2, 1.20, 1.30, 4), ("Alice", 2, 1.35, 1.80, 4),
)  # fmt: skip
ALICE_STARTS = {1: 2.0, 2: 7.5}
ALICE_NAMES = [str(number) for number in range(1, 62) if number != 29]


def alice(folder: Path, seed: int = 0, is_hdf5: bool = False, trl_shift: dict[int, int] | None = None) -> np.ndarray:
    """Write Alice with one subject, S01, of 12 s; its sound files begin at ALICE_STARTS. -> (62, 6000) microvolts

    trl_shift: word number -> samples by which proc/ is wrong about it.
    """
    (folder / "proc").mkdir(parents=True, exist_ok=True)
    head = "Word,Segment,onset,offset,Order,LogFreq,IsLexical,Sentence,Position"
    rows = [f"{word},{segment},{onset},{offset},{order},10,{int(len(word) > 3)},{sentence},1"
            for order, (word, segment, onset, offset, sentence) in enumerate(ALICE_WORDS, 1)]  # fmt: skip
    (folder / "AliceChapterOne-EEG.csv").write_text("\n".join([head, *rows]) + "\n")
    names = [*ALICE_NAMES, "VEOG", "Aux5"]
    values = (
        np.random.default_rng(seed).standard_normal((62, 6000)) * 10
        + np.random.default_rng(seed + 1).standard_normal(6000) * 10
    )
    cells = np.array(names, dtype=object)
    raw = {"hdr": {"Fs": 500.0, "nChans": 62, "nSamples": 6000, "label": cells, "chantype": np.array(["eeg"] * 62, dtype=object),
                   "chanunit": np.array(["uV"] * 62, dtype=object)},
           "label": cells, "fsample": 500.0, "trial": values, "sampleinfo": np.array([1, 6000])}  # fmt: skip
    if is_hdf5:
        _hdf5(folder / "S01.mat", values, names)
    else:
        savemat(folder / "S01.mat", {"raw": raw})
    trl = []
    for order, (_, segment, onset, _, _) in enumerate(ALICE_WORDS, 1):
        zero = (
            round((ALICE_STARTS[segment] + onset) * 500) + 1 + (trl_shift or {}).get(order, 0)
        )  # MATLAB counts from 1
        trl.append([zero - 150, zero + 500, -150, segment, onset, order])
    proc = {"trl": np.array(trl, float), "varnames": np.array(["segment", "tmin", "Order"], dtype=object), "tot_chans": 61,
            "rejections": {"badchans": np.array(["5"], dtype=object)}, "impedence": {"bads": np.array(["7"], dtype=object)}}  # fmt: skip
    savemat(folder / "proc" / "S01.mat", {"proc": proc})
    flags = {name: np.array(["S01"] if name == "use" else [], dtype=object) for name in ("use", "lowperf", "highnoise")}
    savemat(folder / "datasets.mat", flags)
    return values


def _hdf5(path: Path, values: np.ndarray, names: list[str]) -> None:
    """The struct raw as MATLAB 7.3 writes it: axes reversed, cells as references, texts as codes, 512 bytes in front."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        group, cells = file.create_group("raw"), file.create_group("#refs#")

        def text(name, word):
            node = cells.create_dataset(name, data=np.array([[ord(one)] for one in word], np.uint16))
            node.attrs["MATLAB_class"] = np.bytes_("char")
            return node.ref

        def cell(where, name, refs):
            node = where.create_dataset(name, (1, len(refs)), h5py.ref_dtype)
            node[0, :] = refs
            node.attrs["MATLAB_class"] = np.bytes_("cell")

        cell(group, "label", [text(f"l{index}", name) for index, name in enumerate(names)])
        cells.create_dataset("t0", data=values.T)
        cell(group, "trial", [cells["t0"].ref])
        group.create_dataset("fsample", data=np.array([[500.0]]))
        hdr = group.create_group("hdr")
        cell(hdr, "chanunit", [text(f"u{index}", "uV") for index in range(len(names))])
        hdr.create_dataset("Fs", data=np.array([[500.0]]))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116))
