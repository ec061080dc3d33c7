"""Tiny files in the layout of THINGS-EEG2: folders, names and keys of both releases, with simulated noise inside."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.sources.simulated import CHANNELS
from jaxalign.sources.things_files import CHANNELS_17

N_CONCEPTS, N_PER_CONCEPT, N_TEST = 3, 4, 5
N_TRAINING = N_CONCEPTS * N_PER_CONCEPT
REPETITIONS = {"training": 4, "test": 8}
CONDITIONS = {"training": N_TRAINING, "test": N_TEST}


def metadata() -> dict[str, list[str]]:
    """What image_metadata.npy says of the images above: lists of texts under the six keys of the release."""
    things = ["aardvark", "abacus", "accordion"]
    test = ["aircraft_carrier", "antelope", "backscratcher", "balance_beam", "banana"]
    training = [index for index in range(N_CONCEPTS) for _ in range(N_PER_CONCEPT)]
    return {
        "train_img_concepts": [f"{index + 1:05d}_{things[index]}" for index in training],
        "train_img_concepts_THINGS": [f"{index + 1:05d}_{things[index]}" for index in training],
        "train_img_files": [
            f"{things[index]}_{place % N_PER_CONCEPT + 1:02d}b.jpg" for place, index in enumerate(training)
        ],
        "test_img_concepts": [f"{index + 1:05d}_{name}" for index, name in enumerate(test)],
        "test_img_concepts_THINGS": [f"{index + 10:05d}_{name}" for index, name in enumerate(test)],
        "test_img_files": [f"{name}_06s.jpg" for name in test],
    }


def images_file(folder: Path, content: Any = None) -> Path:
    """Write image_set/image_metadata.npy, a pickled dict."""
    path = folder / "image_set" / "image_metadata.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, metadata() if content is None else content, allow_pickle=True)
    return path


def times_100_hz() -> np.ndarray:
    """(100,) seconds, -0.2 to 0.79."""
    return -0.2 + np.arange(100) / 100


def preprocessed(n_channels: int = 17, times: np.ndarray | None = None, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Both dicts of one subject. part -> preprocessed_eeg_data, ch_names, times"""
    times = times_100_hz() if times is None else times
    rng = np.random.default_rng(seed)
    names = list(CHANNELS_17 if n_channels == 17 else CHANNELS[:n_channels])
    return {
        part: {
            "preprocessed_eeg_data": rng.standard_normal((CONDITIONS[part], REPETITIONS[part], n_channels, len(times))),
            "ch_names": names,
            "times": times,
        }
        for part in CONDITIONS
    }


def preprocessed_files(folder: Path, held: dict[str, dict[str, Any]], subject: str = "01") -> Path:
    """Write preprocessed_data/sub-01/preprocessed_eeg_training.npy and _test.npy. -> the subject's folder"""
    into = folder / "preprocessed_data" / f"sub-{subject}"
    into.mkdir(parents=True, exist_ok=True)
    for part, content in held.items():
        np.save(into / f"preprocessed_eeg_{part}.npy", content, allow_pickle=True)  # type: ignore[arg-type]
    return into


def official(folder: Path, subjects: tuple[str, ...] = ("01", "02"), **options: Any) -> dict[str, dict[str, Any]]:
    """A whole tiny release: image metadata and the preprocessed files of some subjects. -> subject -> what it holds"""
    images_file(folder)
    found = {name: preprocessed(seed=index, **options) for index, name in enumerate(subjects)}
    for name, held in found.items():
        preprocessed_files(folder, held, name)
    return found


RAW_CHANNELS = (*CHANNELS_17[:9], "Cz", *CHANNELS_17[9:], "Fz")
SFREQ_HZ = 500
RAW_TEST_REPETITIONS = 3


def raw_part(part: str, session: int, seed: int, sfreq_hz: int = SFREQ_HZ) -> dict[str, Any]:
    """The dict of one part of one session: an image every 200 ms in random order, targets among them, volts.

    A session shows half of the training images twice and all test images some times.
    """
    rng = np.random.default_rng([seed, session, part == "test"])
    half = np.arange(1, N_TRAINING + 1).reshape(2, -1)[(session - 1) % 2]
    shown = np.repeat(half, 2) if part == "training" else np.repeat(np.arange(1, N_TEST + 1), RAW_TEST_REPETITIONS)
    events = rng.permutation([*shown, 99999, 99999])
    step = sfreq_hz // 5
    n_samples = (len(events) + 12) * step
    at = 4 * step + np.arange(len(events)) * step
    n = len(RAW_CHANNELS)
    mixing = np.eye(n) + np.random.default_rng([seed, session]).standard_normal((n, n)) / np.sqrt(n)
    data = np.zeros((n + 1, n_samples))
    slow = np.cumsum(rng.standard_normal((n, n_samples)), axis=1) * 0.05
    data[:n] = 1e-5 * mixing @ (rng.standard_normal((n, n_samples)) + slow)
    patterns = np.random.default_rng(1).standard_normal((2, 100, n))
    for place, event in zip(at, events, strict=True):
        if event != 99999:
            data[:n, place + step // 2 : place + step] += 1e-5 * patterns[int(part == "test"), event][:, None]
        data[n, place] = event
    names = [*RAW_CHANNELS, "stim"]
    types = ["eeg"] * n + ["stim"]
    return {
        "raw_eeg_data": data,
        "ch_names": names,
        "ch_types": types,
        "sfreq": sfreq_hz,
        "highpass": 0.01,
        "lowpass": 100,
    }


def raw(
    folder: Path, n_sessions: int = 4, subject: str = "01", seed: int = 0, **options: Any
) -> dict[int, dict[str, Any]]:
    """Write image metadata and raw_data/sub-01/ses-01/raw_eeg_training.npy and so on. -> session -> part -> dict"""
    images_file(folder)
    found = {}
    for session in range(1, n_sessions + 1):
        into = folder / "raw_data" / f"sub-{subject}" / f"ses-{session:02d}"
        into.mkdir(parents=True, exist_ok=True)
        found[session] = {part: raw_part(part, session, seed, **options) for part in ("training", "test")}
        for part, content in found[session].items():
            np.save(into / f"raw_eeg_{part}.npy", content, allow_pickle=True)
    return found


def bare_pickle(
    path: Path, shape: tuple[int, ...], names: list[str], times: np.ndarray, rows: dict[int, np.ndarray]
) -> Path:
    """Write a part as the 250 Hz release does, a bare pickle of protocol 4, whose array of float64 is mostly a hole.

    rows: row -> responses of a condition; others are 0 and take no place on the disk, so that files of full size are
    written at once.
    """
    return _pickled(path, "preprocessed_eeg_data", shape, rows.items(), {"ch_names": names, "times": times})


def _pickled(
    path: Path, key: str, shape: tuple[int, ...], rows: Iterable[tuple[int, np.ndarray]], others: dict[str, Any]
) -> Path:
    """Write a dict of an array of float64 and others, row by row. Opcodes are those that Python writes: a large block
    stands outside frames, with BINBYTES8.
    """
    import pickle
    import struct

    size = 8 * int(np.prod(shape))
    with path.open("wb") as file:
        file.write(b"\x80\x04}(\x8c" + bytes([len(key)]) + key.encode())
        file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01(")
        file.write(b"".join(b"J" + struct.pack("<i", length) for length in shape))
        file.write(
            b"tcnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        )
        file.write(b"\x8e" + struct.pack("<Q", size))
        start = file.tell()
        for row, values in rows:
            file.seek(start + row * values.nbytes)
            file.write(np.ascontiguousarray(values, "<f8").data)
        file.seek(start + size)
        file.write(b"tb")
        for name, value in others.items():
            file.write(b"\x8c" + bytes([len(name)]) + name.encode())
            file.write(pickle.dumps(value, 3)[2:-1])  # without its PROTO and STOP
        file.write(b"u.")
    return path


def raw_of_full_size(folder: Path, sfreq_hz: int) -> Path:
    """Write four raw sessions: 8,270 x 2 training and 200 x 20 test trials each, 63 channels of noise in volts.

    Sessions 3 and 4 are the files of 1 and 2 again, as hard links: they show the same halves of the images.
    """
    for session in (1, 2, 3, 4):
        into = folder / "sub-01" / f"ses-{session:02d}"
        into.mkdir(parents=True)
        half = np.arange(1, 8271) + 8270 * ((session - 1) % 2)
        for part, numbers in (("training", np.repeat(half, 2)), ("test", np.repeat(np.arange(1, 201), 20))):
            path = into / f"raw_eeg_{part}.npy"
            if session > 2:
                path.hardlink_to(folder / "sub-01" / f"ses-{session - 2:02d}" / path.name)
            else:
                _raw_part_of_full_size(path, numbers, sfreq_hz, session)
    return folder


def _raw_part_of_full_size(path: Path, numbers: np.ndarray, sfreq_hz: int, seed: int) -> None:
    """An image every 200 ms, one of 17 a target. numbers: condition number of each trial"""
    rng = np.random.default_rng([seed, len(numbers)])
    shown = rng.permutation([*numbers, *[99999] * (len(numbers) // 16)])
    step = sfreq_hz // 5
    stim = np.zeros((len(shown) + 20) * step)
    stim[(10 + np.arange(len(shown))) * step] = shown
    kinds = ["eeg"] * len(CHANNELS) + ["stim"]
    rows = enumerate(chain((1e-5 * rng.standard_normal(len(stim)) for _ in CHANNELS), [stim]))
    others = {"ch_names": [*CHANNELS, "stim"], "ch_types": kinds, "sfreq": sfreq_hz}
    _pickled(path, "raw_eeg_data", (len(kinds), len(stim)), rows, others)
