"""What the Natural Scenes Dataset showed to whom: its design, shared images, regions and captions, from its own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.places import one_of
from jaxalign.sources.rows import rows_of

SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)
"""Sessions of subjects 1 to 8."""

N_TRIALS = 750
"""Trials of a session."""

FOLDER = "Set dataset.path to the folder that holds nsddata and nsddata_betas, as the NSD bucket is laid out."

STREAMS = ("Unknown", "early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")
"""Labels 0 to 7 of the region "streams", where its colour table is absent."""

N_CAPTIONS = 5


@dataclass(frozen=True)
class Shown:
    """The images of the experiment, numbered from 1 to 73,000 as in its own file.

    Attributes:
        order: (8, n_trials) image of each trial of each subject, in the order shown.
        shared: (1000,) images of all subjects.
    """

    order: np.ndarray
    shared: np.ndarray

    def trials(self, subject: int, n_sessions: int) -> np.ndarray:
        """Images of a subject's trials. -> (n_sessions * 750,)

        Args:
            subject: 1 to 8.
            n_sessions: from the first on.
        """
        return self.order[subject - 1, : n_sessions * N_TRIALS]

    def times(self, subject: int, n_sessions: int, images: np.ndarray) -> np.ndarray:
        """How often a subject saw each of some images. -> (n_images,)

        Args:
            subject: 1 to 8.
            n_sessions: from the first on.
            images: (n_images,) numbers.
        """
        counts = np.bincount(self.trials(subject, n_sessions), minlength=int(self.order.max()) + 1)
        return counts[images]

    def shared_of_all(self, n_repetitions: int = 3) -> np.ndarray:
        """Shared images that all 8 saw that often in all of their sessions: 515 of the 1,000 at three. -> ascending

        Args:
            n_repetitions: presentations to each subject.
        """
        times = [self.times(subject, n, self.shared) for subject, n in enumerate(SESSIONS, 1)]
        return np.sort(self.shared[np.all(np.array(times) >= n_repetitions, axis=0)])


def read_design(root: Path) -> Shown:
    """The design of the experiment, from nsd_expdesign.mat.

    Args:
        root: folder of the data set.
    Raises:
        DataError: if it is not there, damaged, or not of the size of NSD.
    """
    from scipy.io import loadmat

    file = one_of(root, ["nsddata/experiments/nsd/nsd_expdesign.mat"], "The design of NSD", FOLDER)
    names = ("masterordering", "subjectim", "sharedix")
    try:
        content = loadmat(file, variable_names=names)
        order, images, shared = (np.asarray(content[name], np.int64) for name in names)
    except (ValueError, OSError, TypeError, KeyError, NotImplementedError) as error:
        raise DataError(
            f"{file} ({file.stat().st_size} bytes) cannot be read as the design of NSD ({', '.join(names)}): {error}."
        ) from error
    order, shared = order.ravel(), shared.ravel()
    needed = max(SESSIONS) * N_TRIALS
    if len(order) < needed or images.shape[0] != len(SESSIONS) or order.min() < 1 or order.max() > images.shape[1]:
        raise DataError(
            f"{file}: masterordering has {len(order)} trials of images {order.min()} to {order.max()}, subjectim has shape {images.shape}: {needed} trials and (8, 10000) images are those of NSD."
        )
    return Shown(images[:, order - 1], shared)


def chosen_labels(root: Path, subject: int, roi: str, labels: tuple[str, ...], found: np.ndarray) -> np.ndarray:
    """Values of a map of regions that are asked for, by name or number. -> (n_labels,)

    Args:
        root: folder of the data set.
        subject: 1 to 8.
        roi: name of the map.
        labels: names or numbers; empty takes all above 0.
        found: values that the map has.
    Raises:
        ConfigError: if a label is not in the map.
    """
    there = np.unique(found[np.isfinite(found)]).astype(int)
    there = there[there > 0]
    if not labels:
        return there
    names = _colour_table(root, subject, roi)
    numbers = []
    for label in labels:
        number = int(label) if label.lstrip("-").isdecimal() else names.get(label)
        if number is None or number not in there:
            known = [name for name, one in names.items() if one in there] or list(map(str, there))
            raise ConfigError(
                f"dataset.labels names {label!r}, which the map {roi} of subject {subject} has not. {nearest(label, known)}"
            )
        numbers.append(number)
    return np.array(numbers)


def read_captions(root: Path, folder: str, images: np.ndarray) -> Mapping[str, np.ndarray]:
    """COCO captions of images. -> coco_id, caption_1 to caption_5: (n_images,) each

    Args:
        root: folder of the data set, for nsd_stim_info_merged.csv.
        folder: that holds captions_train2017.json and captions_val2017.json of COCO.
        images: (n_images,) numbers from 1.
    Raises:
        DataError: if a file is missing or damaged, or an image has fewer than five captions.
    """
    table = one_of(root, ["nsddata/experiments/nsd/nsd_stim_info_merged.csv"], "The table of NSD's images", FOLDER)
    info = {int(row["nsdId"]) + 1: (int(row["cocoId"]), row["cocoSplit"]) for _, row in rows_of(table, ("nsdId", "cocoId", "cocoSplit"))}  # fmt: skip
    missing = [int(image) for image in images if int(image) not in info]
    if missing:
        raise DataError(f"{table} has {len(info)} images and lacks {len(missing)}, first {missing[0]}.")
    wanted = [info[int(image)] for image in images]
    texts: dict[int, list[str]] = {coco: [] for coco, _ in wanted}
    for split in sorted({split for _, split in wanted}):
        file = one_of(
            Path(folder), [f"captions_{split}.json"], f"The captions of COCO {split}", "Set dataset.captions."
        )
        for one in sorted(_annotations(file), key=lambda one: int(one["id"])):
            if one["image_id"] in texts:
                texts[one["image_id"]].append(" ".join(str(one["caption"]).split()))
    short = [coco for coco, found in texts.items() if len(found) < N_CAPTIONS]
    if short:
        raise DataError(
            f"{len(short)} of {len(texts)} images have fewer than {N_CAPTIONS} captions in {folder}, first COCO {short[0]} with {len(texts[short[0]])}."
        )
    columns = {f"caption_{place + 1}": np.array([texts[coco][place] for coco, _ in wanted]) for place in range(N_CAPTIONS)}  # fmt: skip
    return {"coco_id": np.array([coco for coco, _ in wanted]), **columns}


def _annotations(file: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} ({file.stat().st_size} bytes) is no file of COCO captions: {error}. Copy it again."
        ) from error
    return list(found)


def _colour_table(root: Path, subject: int, roi: str) -> dict[str, int]:
    """Label -> value, from the colour table beside the surface maps."""
    for owner in (f"subj{subject:02d}", "fsaverage"):
        file = root / "nsddata" / "freesurfer" / owner / "label" / f"{roi}.mgz.ctab"
        if file.is_file():
            lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            return {parts[1]: int(parts[0]) for parts in lines if len(parts) > 1 and parts[0].isdecimal()}
    return {name: number for number, name in enumerate(STREAMS)} if roi == "streams" else {}
