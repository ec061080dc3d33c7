"""The Natural Scenes Dataset: single-trial betas of a region, z-scored per session, repetitions averaged, ncsnr per voxel."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.checks import check_recording
from jaxalign.sources.nsd_design import FOLDER, N_TRIALS, SESSIONS, Shown, chosen_labels, read_captions, read_design
from jaxalign.sources.places import find_place, one_of
from jaxalign.sources.volumes import open_series, read_map, same_space

IMAGES = ("own", "shared515", "shared1000")
SPACES = ("func1pt8mm", "func1mm", "fsaverage")
NORMALISATIONS = ("session", "none")
HEMISPHERES = {"both": ("lh", "rh"), "lh": ("lh",), "rh": ("rh",)}
VOLUME_SCALE = 300.0
"""Betas of volumes are integers, percent signal change times 300; those of surfaces are percent."""


class Region(NamedTuple):
    """Voxels of a region: flat indices and names, per file of a session (one, or one per hemisphere)."""

    voxels: tuple[np.ndarray, ...]
    space: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]


class Averages(NamedTuple):
    """What is kept of a subject's trials.

    Attributes:
        values: (n_images, n_voxels) float32, mean of the repetitions.
        trials: (n_test, n_repetitions, n_voxels) float32, or None.
        ncsnr: (n_voxels,) from the same trials; NaN with one repetition.
        is_valid: (n_voxels,) finite and not constant in any session.
    """

    values: np.ndarray
    trials: np.ndarray | None
    ncsnr: np.ndarray
    is_valid: np.ndarray


@dataclass(frozen=True)
class Nsd:
    """Subjects of NSD. A stimulus is an image ("nsd02951", numbered from 1), a channel is a voxel, and there is no time.

    Attributes:
        name: data set name in the table of results.
        path: folder that holds nsddata and nsddata_betas.
        subjects: numbers 1 to 8. More than one only on fsaverage (same vertices) and with shared images (same rows);
            subjects with their own images are data sets of their own.
        space: "func1pt8mm", "func1mm" or "fsaverage".
        betas: name of the folder of betas.
        roi: map of regions, such as streams, floc-faces, prf-visualrois or nsdgeneral.
        labels: names or numbers of regions of the map; empty takes all above 0.
        hemispheres: "both", "lh" or "rh".
        images: "own" (all that the subject saw n_repetitions times), "shared515" (seen three times by all 8) or
            "shared1000".
        test_images: "shared515" or "shared1000", the test set of own images; empty for none.
        n_repetitions: presentations that an image needs, and that are averaged.
        sessions: sessions to read from the first on; null takes all.
        normalise: "session" z-scores each voxel over the trials of a session, "none" leaves percent signal change.
        as_published: z-score by all trials of a session; otherwise by those of training images alone, so that the test
            set stays unseen.
        keep_trials: keep the single presentations of the test images (of all where images are shared), for noise ceilings;
            null keeps them where there are two or more.
        ncsnr: "computed" from the trials of all images that are read, or "file" for the one that NSD gives (over all
            images); ceiling.recipes=[ncsnr_given] bounds scores by it.
        captions: folder of COCO's captions_train2017.json and captions_val2017.json, for columns caption_1 to
            caption_5; empty for none.
    """

    name: str = "nsd"
    path: str = ""
    subjects: tuple[int, ...] = (1,)
    space: str = "func1pt8mm"
    betas: str = "betas_fithrf_GLMdenoise_RR"
    roi: str = "streams"
    labels: tuple[str, ...] = ()
    hemispheres: str = "both"
    images: str = "own"
    test_images: str = "shared515"
    n_repetitions: int = 3
    sessions: int | None = None
    normalise: str = "session"
    as_published: bool = False
    keep_trials: bool | None = None
    ncsnr: str = "computed"
    captions: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", tuple(self.subjects))
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        choices = {"images": IMAGES, "test_images": ("", *IMAGES[1:]), "space": SPACES, "normalise": NORMALISATIONS,
                   "hemispheres": tuple(HEMISPHERES), "ncsnr": ("computed", "file")}  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"dataset.{name}={getattr(self, name)!r}. {nearest(getattr(self, name), known)}")
        wrong = [one for one in self.subjects if one not in range(1, len(SESSIONS) + 1)]
        if wrong or not self.subjects or len(set(self.subjects)) < len(self.subjects):
            raise ConfigError(f"dataset.subjects={list(self.subjects)}: name subjects from 1 to 8, each once.")
        if self.n_repetitions < 1 or (self.sessions is not None and self.sessions < 1):
            raise ConfigError(
                f"dataset.n_repetitions={self.n_repetitions}, sessions={self.sessions}: each is at least 1."
            )
        if self.keep_trials and (self.n_repetitions < 2 or (self.images == "own" and not self.test_images)):
            raise ConfigError(
                f"dataset.keep_trials=true keeps repetitions of test images: n_repetitions={self.n_repetitions}, test_images={self.test_images!r}. At least 2 repetitions and a test set are needed."
            )
        if len(self.subjects) > 1 and (self.images == "own" or self.space != "fsaverage"):
            what = "images" if self.images == "own" else "voxels"
            raise ConfigError(
                f"dataset.subjects={list(self.subjects)} have {what} of their own: each is a data set by itself (jaxalign -m dataset.subjects=[1],[2]). Together they need images=shared515 and space=fsaverage."
            )

    def recordings(self) -> list[Recording]:
        """Read the betas of the region, session by session. -> one Recording per subject, z scores or percent

        Memory is one region times its images in float32, one session, and a block of volumes.

        Raises:
            DataError: if the folder is another, a file is missing or damaged, or images were not shown often enough.
            ConfigError: if a region is asked for that is not there.
        """
        if not self.path:
            raise ConfigError(f"dataset.path is empty. {FOLDER}")
        root = find_place(self.path)
        if root.is_file():
            raise DataError(f"{root} is a file. {FOLDER}")
        design = read_design(root)
        read = [(subject, self._region(root, subject)) for subject in self.subjects]
        found = [self._averages(root, subject, region, design) for subject, region in read]
        is_valid = np.logical_and.reduce([one.is_valid for one in found])
        if not is_valid.any():
            raise DataError(
                f"{root}: none of the {len(is_valid)} voxels of {self.roi} is finite and varies in every session."
            )
        result = []
        for (subject, region), one in zip(read, found, strict=True):
            kept = Averages(_kept(one.values, is_valid), None, one.ncsnr[is_valid], is_valid)
            if one.trials is not None:
                flat = _kept(one.trials.reshape(-1, len(is_valid)), is_valid)
                kept = kept._replace(trials=flat.reshape(*one.trials.shape[:2], -1))
            if self.ncsnr == "file":
                kept = kept._replace(ncsnr=self._ncsnr_of_file(root, subject, region)[is_valid])
            result.append(self._recording(root, subject, region, design, kept))
        return result

    @property
    def _keeps_trials(self) -> bool:
        if self.keep_trials is None:
            return self.n_repetitions >= 2 and (self.images != "own" or bool(self.test_images))
        return self.keep_trials

    def _n_sessions(self, subject: int) -> int:
        there = SESSIONS[subject - 1]
        if self.sessions is not None and self.sessions > there:
            raise ConfigError(f"dataset.sessions={self.sessions}: subject {subject} came to {there}.")
        return self.sessions or there

    # Which images

    def _set(self, design: Shown, which: str) -> np.ndarray:
        """Images of a named set, ascending."""
        if not which:
            return np.zeros(0, np.int64)
        return np.sort(design.shared) if which == "shared1000" else design.shared_of_all()

    def _images(self, design: Shown, subject: int) -> np.ndarray:
        """Images that are kept, ascending."""
        n_sessions = self._n_sessions(subject)
        if self.images == "own":
            seen = np.unique(design.trials(subject, n_sessions))
            kept = seen[design.times(subject, n_sessions, seen) == self.n_repetitions]
            if len(kept) < 4:
                raise DataError(
                    f"NSD, subject {subject}: {len(kept)} of {len(seen)} images were shown {self.n_repetitions} times in {n_sessions} sessions; at least 4 are needed. Read more sessions."
                )
            return kept
        kept = self._set(design, self.images)
        times = design.times(subject, n_sessions, kept)
        few = np.flatnonzero(times < self.n_repetitions)
        if len(few):
            raise DataError(
                f"NSD, subject {subject}: {len(few)} of {len(kept)} {self.images} images were shown fewer than {self.n_repetitions} times in {n_sessions} sessions, first {_name(kept[few[0]])} with {times[few[0]]}. Use images=shared515 and all sessions, or images=own."
            )
        return kept

    # Which voxels

    def _region(self, root: Path, subject: int) -> Region:
        """Voxels whose label is asked for."""
        files = self._maps(root, subject, self.roi)
        maps = [read_map(file) for file in files]
        labels = chosen_labels(
            root, subject, self.roi, self.labels, np.concatenate([np.unique(one).ravel() for one in maps])
        )
        voxels = tuple(np.flatnonzero(np.isin(one, labels)) for one in maps)
        if not sum(map(len, voxels)):
            raise DataError(f"{files[0]} has no voxel of {list(self.labels) or 'any label above 0'}.")
        if self.space == "fsaverage":
            names = [f"{side}-{index}" for side, one in zip(HEMISPHERES[self.hemispheres], voxels, strict=True) for index in one]  # fmt: skip
        else:
            names = [f"voxel-{x}-{y}-{z}" for x, y, z in np.stack(np.unravel_index(voxels[0], maps[0].shape), 1)]
        return Region(voxels, tuple(one.shape for one in maps), tuple(names))

    def _maps(self, root: Path, subject: int, roi: str) -> list[Path]:
        """Files of a map of regions: one volume, or one per hemisphere."""
        sides = HEMISPHERES[self.hemispheres]
        if self.space == "fsaverage":
            folder = "nsddata/freesurfer/fsaverage/label"
            names = [[f"{folder}/{side}.{roi}.mgz"] for side in sides]
        else:
            folder = f"nsddata/ppdata/subj{subject:02d}/{self.space}/roi"
            names = [[f"{folder}/{roi if len(sides) == 2 else f'{sides[0]}.{roi}'}.nii.gz"]]
        return [one_of(root, one, f"The map of regions {roi} of subject {subject}", FOLDER) for one in names]

    def _betas(self, root: Path, subject: int, what: str) -> list[Path]:
        """Files of a session, or of another map beside the betas."""
        folder = f"nsddata_betas/ppdata/subj{subject:02d}/{self.space}/{self.betas}"
        remedy = f"{FOLDER} With fewer sessions, set dataset.sessions."
        if self.space == "fsaverage":
            names = [[f"{folder}/{side}.{what}.{kind}" for kind in ("mgh", "mgz")] for side in HEMISPHERES[self.hemispheres]]  # fmt: skip
        else:
            names = [[f"{folder}/{what}.{kind}" for kind in ("hdf5", "nii.gz", "nii")]]
        return [one_of(root, one, f"{what} of subject {subject}", remedy) for one in names]

    def _ncsnr_of_file(self, root: Path, subject: int, region: Region) -> np.ndarray:
        maps = [read_map(file) for file in self._betas(root, subject, "ncsnr")]
        for one, space in zip(maps, region.space, strict=True):
            same_space(space, one.shape, self.roi, "ncsnr")
        return np.concatenate([one.ravel()[voxels] for one, voxels in zip(maps, region.voxels, strict=True)])

    # What they did

    def _averages(self, root: Path, subject: int, region: Region, design: Shown) -> Averages:
        """Sum the repetitions of each image, session after session."""
        kept = self._images(design, subject)
        test = self._set(design, self.test_images)
        single = np.intersect1d(kept, test if self.images == "own" else kept) if self._keeps_trials else kept[:0]
        n_voxels = len(region.names)
        sums = np.zeros((len(kept), n_voxels), np.float32)
        trials = np.zeros((len(single), self.n_repetitions, n_voxels), np.float32) if len(single) else None
        squares = np.zeros(n_voxels)
        counts = np.zeros(len(kept), np.int64)
        is_valid = np.ones(n_voxels, bool)
        n_sessions = self._n_sessions(subject)
        shown = design.trials(subject, n_sessions).reshape(n_sessions, N_TRIALS)
        for session in range(n_sessions):
            by = np.ones(N_TRIALS, bool) if self.as_published else ~np.isin(shown[session], test)
            values, is_fine = self._session(root, subject, session + 1, region, by)
            is_valid &= is_fine
            row = np.searchsorted(kept, shown[session])
            for trial in np.flatnonzero(kept[np.minimum(row, len(kept) - 1)] == shown[session]):
                image = row[trial]
                if counts[image] == self.n_repetitions:
                    continue  # shown more often than is averaged
                sums[image] += values[trial]
                squares += np.square(values[trial], dtype=np.float64)
                if trials is not None and shown[session, trial] in single:
                    trials[np.searchsorted(single, shown[session, trial]), counts[image]] = values[trial]
                counts[image] += 1
        ncsnr = _ncsnr(sums, squares, self.n_repetitions, 1.0 if self.normalise == "session" else None)
        sums /= np.float32(self.n_repetitions)
        return Averages(sums, trials, ncsnr, is_valid)

    def _session(
        self, root: Path, subject: int, session: int, region: Region, by: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trials of a session, z-scored by some of them. -> (750, n_voxels) float32, (n_voxels,) finite and varying"""
        values = np.empty((N_TRIALS, len(region.names)), np.float32)
        column = 0
        files = self._betas(root, subject, f"betas_session{session:02d}")
        for file, voxels, space in zip(files, region.voxels, region.space, strict=True):
            if not len(voxels):
                continue
            with ExitStack() as stack:
                series = open_series(file, stack)
                same_space(series.space, space, str(file), f"The map {self.roi}")
                if series.n_volumes != N_TRIALS:
                    raise DataError(f"{file} has {series.n_volumes} trials and a session of NSD has {N_TRIALS}. Is it another file under this name?")  # fmt: skip
                for rows, block in series.blocks(voxels):
                    values[rows, column : column + len(voxels)] = block
            column += len(voxels)
        if self.space != "fsaverage":
            values /= np.float32(VOLUME_SCALE)
        if not by.any():
            raise DataError(f"NSD, subject {subject}, session {session}: all {N_TRIALS} trials show test images, and none is left to z-score by.")  # fmt: skip
        mean, spread = values[by].mean(0, dtype=np.float64), values[by].std(0, dtype=np.float64)
        is_fine = np.isfinite(mean) & (spread > 1e-6 * np.abs(mean)) & np.isfinite(values).all(0)
        values[:, ~is_fine] = 0
        if self.normalise == "session":
            values -= np.where(is_fine, mean, 0).astype(np.float32)
            values /= np.where(is_fine, spread, 1).astype(np.float32)
        return values, is_fine

    def _recording(self, root: Path, subject: int, region: Region, design: Shown, found: Averages) -> Recording:
        images = self._images(design, subject)
        is_test = np.isin(images, self._set(design, self.test_images)) & (self.images == "own")
        names = tuple(name for name, keep in zip(region.names, found.is_valid, strict=True) if keep)
        columns: dict[str, Any] = {"nsd_id": images.copy(), "is_shared": np.isin(images, design.shared).astype(int)}
        if self.captions:
            columns |= read_captions(root, str(find_place(self.captions)), images)
        n_sessions = self._n_sessions(subject)
        origin = {"subject": subject, "space": self.space, "betas": self.betas, "roi": self.roi, "labels": list(self.labels),
                  "n_sessions": n_sessions, "normalise": self.normalise, "as_published": self.as_published,
                  "values_sha256": hashlib.sha256(np.ascontiguousarray(found.values).data).hexdigest(),
                  "n_invalid_voxels": int((~found.is_valid).sum()), "ncsnr": self.ncsnr,
                  "ncsnr_median": _finite(found.ncsnr)}  # fmt: skip
        return check_recording(
            replace(
                _labels(self.name, f"{subject:02d}", tuple(_name(image) for image in images), names),
                values=found.values[:, :, None],
                unit="z" if self.normalise == "session" else "%",
                n_repetitions=np.full(len(images), self.n_repetitions, np.int32),
                is_test=is_test,
                trials=None if found.trials is None else found.trials[..., None],
                columns=columns,
                origin=origin,
                ncsnr=found.ncsnr[:, None].astype(np.float32),
            )
        )


def _ncsnr(sums: np.ndarray, squares: np.ndarray, n_repetitions: int, total: float | None) -> np.ndarray:
    """From sums over repetitions, and summed squares of all trials; total variance 1 after z-scoring. -> (n_voxels,)"""
    n_images = len(sums)
    if n_repetitions < 2:
        return np.full(len(squares), np.nan)
    between, mean = np.zeros(len(squares)), np.zeros(len(squares))
    for start in range(0, n_images, 256):
        block = sums[start : start + 256].astype(np.float64)
        between += np.square(block).sum(0) / n_repetitions
        mean += block.sum(0) / (n_images * n_repetitions)
    noise = (squares - between) / (n_images * (n_repetitions - 1))
    variance = squares / (n_images * n_repetitions) - mean**2 if total is None else total
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.maximum(variance - noise, 0) / noise)


def _kept(values: np.ndarray, is_valid: np.ndarray) -> np.ndarray:
    """Some columns, moved within the same memory: a region of NSD is too large to hold twice. -> (n, n_valid)"""
    if is_valid.all():
        return values
    n = int(is_valid.sum())
    flat = values.reshape(-1)
    for row in range(len(values)):
        flat[row * n : (row + 1) * n] = values[row][is_valid]
    return flat[: len(values) * n].reshape(len(values), n)


def _finite(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _name(image: int) -> str:
    """Name of an image as in NSD's own files, numbered from 1."""
    return f"nsd{int(image):05d}"


def _labels(dataset: str, subject: str, stimulus_ids: tuple[str, ...], channels: tuple[str, ...]) -> Recording:
    """A recording of voxels without values: one bin that has no time, and no place on the scalp."""
    nothing = np.zeros((len(stimulus_ids), 0, 1), np.float32)
    return Recording(
        dataset=dataset,
        subject=subject,
        stimulus_ids=stimulus_ids,
        values=nothing,
        channels=channels,
        starts_s=np.full(1, np.nan),
        stops_s=np.full(1, np.nan),
        unit="",
        n_repetitions=np.zeros(len(stimulus_ids), np.int32),
        is_test=np.zeros(len(stimulus_ids), bool),
        positions=np.full((len(channels), 3), np.nan),
    )
