"""What the releases of THINGS-EEG2 share: where files are, what image a row shows, what channels and times are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.files import candidates
from jaxalign.sources.media import checked_ids
from jaxalign.sources.montage import template_positions
from jaxalign.sources.restricted import read_npy
from jaxalign.sources.simulated import CHANNELS
from jaxalign.sources.times import Bins, bins_of

CHANNELS_17 = tuple(name for name in CHANNELS if name[0] in "OP")
"""The occipital and parietal channels that the published preprocessing keeps: every name that begins with O or P."""

PARTS = ("training", "test")
"""Parts of the data set, in the order of the rows, as file names call them."""

IMAGES_PER_CONCEPT = 10
"""Training images of one concept: 1,654 x 10 = 16,540; each of the 200 test concepts has one."""

METADATA = "image_metadata.npy"

IMAGE_FOLDERS = ("", "images", "things_eeg2/images", "image_set", "images_set", "stimuli")
"""Where that file may be, seen from a folder above the subjects; `jaxalign fetch` makes the second and third."""

_SLACK = 1e-3  # of a sample: above the rounding of times


@dataclass(frozen=True)
class Images:
    """The images of one part, in the order of their condition numbers (from 1).

    Attributes:
        files: (n_images,) file names.
        concepts: (n_images,) THINGS concepts, such as "00001_aardvark".
    """

    files: tuple[str, ...]
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Labels of the rows of a recording: training stimuli, then test stimuli.

    Attributes:
        stimulus_ids: (n_stimuli,) names.
        is_test: (n_stimuli,) bool.
        columns: metadata column -> (n_stimuli,).
        notes: what a reader must know.
    """

    stimulus_ids: tuple[str, ...]
    is_test: np.ndarray
    columns: dict[str, np.ndarray]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Axes:
    """What is kept of channels and times.

    Attributes:
        picks: (n_channels,) places of the kept channels among those of the file.
        channels: their names.
        positions: (n_channels, 3) metres.
        samples: slice of the kept samples.
        bins: time bins of the kept samples.
        sfreq_hz: samples per second.
    """

    picks: np.ndarray
    channels: tuple[str, ...]
    positions: np.ndarray
    samples: slice
    bins: Bins
    sfreq_hz: float


# Files


def subject_folders(path: str, subjects: Sequence[str], inner: Sequence[str], pattern: str) -> dict[str, Path]:
    """Folders of the subjects, in order. -> subject, such as "01" -> folder

    Args:
        path: folder of the release, or one above it; relative ones are looked for here and under the data folders.
        subjects: "01", "1" or "sub-01" each; all when empty.
        inner: folders within the folder that may hold the subjects.
        pattern: of files within a subject's folder that show that it is one.
    Raises:
        ConfigError: if no folder is named.
        DataError: if the folder or a subject is not there; says what was looked for and what was found.
    """
    root = _folder(path)
    places = [root, *(root / name for name in inner)]
    for place in places:
        found = {one.name[4:]: _nested(one, pattern) for one in sorted(place.glob("sub-*")) if one.is_dir()}
        held = {name: folder for name, folder in found.items() if folder is not None}
        if held:
            return _chosen(held, subjects, place)
    if root.name.startswith("sub-") and any(root.glob(pattern)):
        return _chosen({root.name[4:]: root}, subjects, root)
    beside = sorted(one.name for one in root.iterdir())
    other = next(
        (one for one in ("sub-*/ses-*/raw_eeg_*.npy", "sub-*/preprocessed_eeg_*.npy") if any(root.glob(one))), ""
    )
    raw_or_not = "things_eeg2_raw" if "raw" in other else "things_eeg2"
    hint = f" It holds {other}: use dataset={raw_or_not}." if other else ""
    raise DataError(
        f"No sub-*/{pattern} in {', '.join(str(place) for place in places)}. {root} holds {len(beside)} entries: "
        f"{', '.join(beside[:6]) or 'none'}.{hint} Set dataset.path to the folder that holds sub-01, sub-02 and so on."
    )  # fmt: skip


def _nested(folder: Path, pattern: str) -> Path | None:
    """The folder that has the files: this one or, as archives have folders inside, one of its name or the only one."""
    inside = [one for one in sorted(folder.iterdir()) if one.is_dir() and any(one.glob(pattern))]
    same = [one for one in (folder, folder / folder.name) if any(one.glob(pattern))]
    return next(iter(same or (inside if len(inside) == 1 else ())), None)


def _chosen(held: dict[str, Path], subjects: Sequence[str], place: Path) -> dict[str, Path]:
    if not subjects:
        return held
    by_number = {_number(name): (name, folder) for name, folder in held.items()}
    missing = [name for name in subjects if _number(name) not in by_number]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(subjects)} subjects are not in {place}: {missing[0]}. It has {', '.join(held)}. "
            "Set dataset.subjects to some of them."
        )
    return dict(by_number[_number(name)] for name in subjects)


def _number(subject: str) -> str:
    bare = str(subject).removeprefix("sub-")
    return str(int(bare)) if bare.isdecimal() else bare


def _folder(path: str) -> Path:
    if not path:
        raise ConfigError("THINGS-EEG2 is nowhere: set dataset.path=FOLDER, the folder that holds sub-01, sub-02 ...")
    given, places = Path(path).expanduser(), candidates(path)
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(str(place.absolute()) for place in places)
    kind = "is a file" if given.is_file() else "does not exist"
    raise DataError(
        f"The folder dataset.path={path} {kind}. Looked for {looked}. Give the folder that holds sub-01, or set "
        "JAXALIGN_DATA."
    )


def held_dict(path: Path, content: Any, keys: Sequence[str], foreign: dict[str, str]) -> dict[str, Any]:
    """A dict of a file, with the keys it must have.

    Args:
        path: the file, for messages.
        content: what it holds.
        keys: needed keys.
        foreign: key of another release -> what to do when it is there instead.
    Raises:
        DataError: naming what is missing and what is there.
    """
    if not isinstance(content, dict):
        what = f"an array of shape {content.shape}" if isinstance(content, np.ndarray) else type(content).__name__
        raise DataError(f"{path} holds {what}, not a dict with the keys {', '.join(keys)}. Is it another file?")
    missing = [key for key in keys if key not in content]
    if missing:
        hint = next((text for key, text in foreign.items() if key in content), "Is it another file?")
        raise DataError(
            f"{path} has no key {missing[0]!r}; it has {', '.join(map(repr, list(content)[:8])) or 'none'}. {hint}"
        )
    return content


# Images


def read_images(setting: str, folder: Path) -> dict[str, Images] | None:
    """The images of both parts from image_metadata.npy, or None when the file is nowhere near the data.

    Args:
        setting: its path; empty looks beside the subjects' folders.
        folder: folder of one subject.
    Raises:
        DataError: if the file named is missing, lists do not fit each other, or a concept is in both parts.
    """
    path = _metadata_path(setting, folder)
    if path is None:
        return None
    keys = [f"{part}_img_{what}" for part in ("train", "test") for what in ("files", "concepts_THINGS")]
    content = held_dict(path, read_npy(path).value, keys, {"preprocessed_eeg_data": "That is a file of responses."})
    found = {}
    for part, short in zip(PARTS, ("train", "test"), strict=True):
        lists = (content[f"{short}_img_{what}"] for what in ("files", "concepts_THINGS"))
        files, concepts = (tuple(str(one) for one in names) for names in lists)
        if len(files) != len(concepts):
            raise DataError(
                f"{path} names {len(files)} {part} images and {len(concepts)} concepts of them: it is damaged."
            )
        found[part] = Images(files, concepts)
    shared = sorted(set(found["training"].concepts) & set(found["test"].concepts))
    if shared:
        raise DataError(
            f"{path}: {len(shared)} concepts are in both parts, first {shared[0]!r}. The parts of THINGS-EEG2 share "
            "none "
            "(1,654 training and 200 test concepts): scores on the test images would not be of new concepts."
        )
    return found


def _metadata_path(setting: str, folder: Path) -> Path | None:
    if setting:
        given = Path(setting).expanduser()
        path = given / METADATA if given.is_dir() else given
        if not path.is_file():
            raise DataError(f"dataset.images={setting} is no file. Give {METADATA}, or leave it empty.")
        return path
    above = [folder, *folder.parents[:4]]
    places = [one / name / METADATA for one in above for name in IMAGE_FOLDERS]
    return next((place for place in places if place.is_file()), None)


def rows_of_conditions(conditions: dict[str, np.ndarray], images: dict[str, Images] | None, where: str) -> Rows:
    """Labels of stimuli by their condition numbers.

    Args:
        conditions: part -> (n,) condition numbers, from 1, in order.
        images: what image_metadata.npy says, or None.
        where: data set and subject, for messages.
    Raises:
        DataError: if there are conditions without an image, or two with one id.
    """
    is_test = np.repeat([False, True], [len(conditions[part]) for part in PARTS])
    columns: dict[str, np.ndarray] = {
        "is_test": is_test,
        "condition": np.concatenate([conditions[part] for part in PARTS]),
    }
    if images is None:
        ids = tuple(f"{part}/{number:05d}" for part in PARTS for number in conditions[part])
        note = (
            f"{METADATA} was not found: stimuli are named by part and condition number (from 1), concepts are "
            "unknown, and "
            "images cannot be matched by name. Set dataset.images to that file."
        )
        return Rows(ids, is_test, columns, (note,))
    for part in PARTS:
        if len(conditions[part]) and conditions[part].max() > len(images[part].files):
            raise DataError(
                f"{where}: the {part} part has condition {conditions[part].max()}, and {METADATA} names "
                f"{len(images[part].files)} "
                f"{part} images. Do the files belong together, and is no file in the place of the other part?"
            )
    files = [images[part].files[number - 1] for part in PARTS for number in conditions[part]]
    concepts = [images[part].concepts[number - 1] for part in PARTS for number in conditions[part]]
    ids = checked_ids(
        [Path(name).stem for name in files],
        files,
        f"{where}: {METADATA}",
        "Each image file is one stimulus: is the file damaged?",
    )
    columns |= {"concept": np.array(concepts), "file": np.array(files)}
    return Rows(ids, is_test, columns, ())


# Channels and times


def checked_choice(value: str, known: Sequence[str], option: str) -> str:
    """A word that an option may be.

    Raises:
        ConfigError: if it may not.
    """
    if value not in known:
        raise ConfigError(f"{option}={value} is none of {', '.join(known)}. {nearest(value, known)}")
    return value


def channels_setting(value: Any) -> str | tuple[str, ...]:
    """The setting dataset.channels, hashable: "17", "63" or names.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(value, int | str) and str(value) in ("17", "63"):
        return str(value)
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ConfigError(f"dataset.channels={value!r}: write 17, 63 or a list of channel names such as [O1,Oz,O2].")


def axes_of(
    names: Sequence[str], times: np.ndarray, channels: str | tuple[str, ...], tmin_s: float | None,
    tmax_s: float | None, time_bin_s: float | None, where: str,
) -> Axes:  # fmt: skip
    """The channels and times that are asked for.

    Args:
        names: EEG channel names of the file.
        times: (n_times,) seconds from onset, even steps.
        channels: "17", "63" or names.
        tmin_s, tmax_s: part of the epoch to keep, both ends within; None keeps all.
        time_bin_s: width of time bins; None keeps the samples.
        where: file, for messages.
    Raises:
        DataError: if a channel is not there or on no head, or the times cannot be used.
    """
    wanted = {"17": CHANNELS_17, "63": CHANNELS}.get(channels, channels) if isinstance(channels, str) else channels
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(
            f"{where} has {len(names)} channels, and {len(missing)} of the {len(wanted)} that dataset.channels asks "
            "for are not "
            f"among them, first {missing[0]!r}. {nearest(missing[0], names)}"
        )
    kept = tuple(name for name in names if name in wanted) if isinstance(channels, str) else tuple(wanted)
    positions = template_positions(kept)
    nowhere = [name for name, place in zip(kept, positions, strict=True) if np.isnan(place).any()]
    if nowhere:
        raise DataError(
            f"{where}: {len(nowhere)} of {len(kept)} channels are not in the 10-05 montage, first {nowhere[0]!r}. "
            "Their place on "
            "the head is unknown: correct the name in the file, or leave the channel out of dataset.channels."
        )
    sfreq_hz = _sfreq(times, where)
    samples = _samples(times, sfreq_hz, tmin_s, tmax_s, where)
    picks = np.array([list(names).index(name) for name in kept])
    return Axes(picks, kept, positions, samples, bins_of(times[samples], sfreq_hz, time_bin_s), sfreq_hz)


def checked_names(names: Any, where: str) -> list[str]:
    """Channel names of a file, each once.

    Raises:
        DataError: if they are no texts, or one occurs twice.
    """
    found = [str(name) for name in names] if isinstance(names, list | tuple | np.ndarray) else []
    twice = sorted({name for name in found if found.count(name) > 1})
    if not found or twice or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{where}: ch_names is a {type(names).__name__} of {len(found)}"
            + (f", and {twice[0]!r} occurs {found.count(twice[0])} times" if twice else "")
            + ". A list of distinct channel names is needed."
        )
    return found


def _sfreq(times: np.ndarray, where: str) -> float:
    steps = np.diff(times)
    if len(times) < 2 or not (np.isfinite(times).all() and steps.min() > 0 and np.ptp(steps) < 0.01 * steps.mean()):
        raise DataError(
            f"{where}: the {len(times)} times are not seconds in even steps (first {times[:3].tolist()}). Is the file "
            "damaged?"
        )
    return round(float((len(times) - 1) / (times[-1] - times[0])), 6)


def _samples(times: np.ndarray, sfreq_hz: float, tmin_s: float | None, tmax_s: float | None, where: str) -> slice:
    slack = _SLACK / sfreq_hz
    start = times[0] if tmin_s is None else tmin_s
    stop = times[-1] if tmax_s is None else tmax_s
    kept = np.flatnonzero((times >= start - slack) & (times <= stop + slack))
    if not len(kept) or start < times[0] - 1 / sfreq_hz or stop > times[-1] + 1 / sfreq_hz + slack:
        raise DataError(
            f"{where} runs from {times[0]:.3f} to {times[-1]:.3f} s, and dataset.tmin_s={tmin_s}, "
            f"dataset.tmax_s={tmax_s} is no part of it."
        )
    return slice(int(kept[0]), int(kept[-1]) + 1)


def session_of(folder: Path) -> int:
    """Number of a folder such as ses-01.

    Raises:
        DataError: if its name has none.
    """
    found = re.fullmatch(r"ses-(\d+)", folder.name)
    if found is None:
        raise DataError(f"{folder} is no session: its name should be ses-01, ses-02 and so on.")
    return int(found.group(1))
