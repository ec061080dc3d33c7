"""Tiny files in the layout of the Natural Scenes Dataset: its design, betas of a few voxels, regions, ncsnr and captions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from scipy.io import savemat

N_TRIALS = 750
SPACE = (5, 4, 3)
N_VERTICES = 30
N_SESSIONS = 2
"""Sessions that are written; in them 500 images are shown three times, 100 of them shared."""

N_SHARED_OF_ALL = 515


def design(root: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """nsd_expdesign.mat of the true size: 30,000 trials, 10,000 images of 8 subjects, 1,000 of them shared.

    Every two sessions show 500 images three times. 515 shared images are over by session 30, as in NSD.
    """
    rng = np.random.default_rng(seed)
    early = 515  # shared images of the first 30 sessions: 15 blocks of two sessions
    per_block = np.full(20, 25)
    per_block[:15] = np.diff(np.linspace(0, early, 16).astype(int))
    per_block[0] = 100
    per_block[1:15] = np.diff(np.linspace(0, early - 100, 15).astype(int))
    per_block[15:] = [97] * 5
    shared, own, ordering = 0, 1000, []
    for block in range(20):
        n = int(per_block[block])
        images = [*range(shared, shared + n), *range(own, own + 500 - n)]
        shared, own = shared + n, own + 500 - n
        ordering.append(rng.permutation(np.repeat(images, 3)))
    masterordering = np.concatenate(ordering) + 1
    numbers = rng.permutation(73000) + 1
    shared_ids = np.sort(numbers[:1000])
    subjectim = np.stack(
        [np.concatenate([shared_ids, numbers[1000 + 9000 * s : 1000 + 9000 * (s + 1)]]) for s in range(8)]
    )
    content = {"masterordering": masterordering[None], "subjectim": subjectim, "sharedix": shared_ids[None]}
    file = root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, content)
    return {name: values.squeeze() for name, values in content.items()}


def betas(order: np.ndarray, n_voxels: int, seed: int, noise: float = 1.0) -> np.ndarray:
    """Responses to images plus noise, a session at its own scale. order: (n_trials,) -> (n_trials, n_voxels) float64"""
    rng = np.random.default_rng(seed)
    images, row = np.unique(order, return_inverse=True)
    signal = np.random.default_rng([seed, 1]).standard_normal((len(images), n_voxels))
    values = signal[row] + noise * rng.standard_normal((len(order), n_voxels))
    for session in range(len(order) // N_TRIALS):
        rows = slice(session * N_TRIALS, (session + 1) * N_TRIALS)
        values[rows] = (1 + session) * values[rows] + 3 * session
    return values


def volumes(root: Path, subject: int, order: np.ndarray, kind: str = "hdf5", seed: int = 0) -> np.ndarray:
    """Write sessions of func1pt8mm betas; voxel (0, 0, 0) is invalid (all 0). -> (n_trials, nx, ny, nz) int16 as stored"""
    n = int(np.prod(SPACE))
    values = np.round(betas(order, n, seed) * 300).clip(-32768, 32767).astype(np.int16)
    values[:, 0] = 0
    values = values.reshape(-1, *SPACE)
    folder = root / f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    folder.mkdir(parents=True, exist_ok=True)
    for session in range(len(order) // N_TRIALS):
        part = values[session * N_TRIALS : (session + 1) * N_TRIALS]
        stem = folder / f"betas_session{session + 1:02d}"
        if kind == "hdf5":
            with h5py.File(f"{stem}.hdf5", "w") as file:
                # MATLAB writes (x, y, z, trial); HDF5 lists the axes the other way round.
                file.create_dataset("betas", data=part.transpose(0, 3, 2, 1), chunks=(1, *SPACE[::-1]))
        else:
            nib.save(nib.Nifti1Image(np.moveaxis(part, 0, -1), np.eye(4)), f"{stem}.nii.gz")
    return values


def surfaces(root: Path, subject: int, order: np.ndarray, seed: int = 0) -> np.ndarray:
    """Write sessions of fsaverage betas, lh then rh, percent signal change. -> (n_trials, 2 * n_vertices) float32"""
    values = betas(order, 2 * N_VERTICES, seed).astype(np.float32)
    folder = root / f"nsddata_betas/ppdata/subj{subject:02d}/fsaverage/betas_fithrf_GLMdenoise_RR"
    folder.mkdir(parents=True, exist_ok=True)
    for session in range(len(order) // N_TRIALS):
        part = values[session * N_TRIALS : (session + 1) * N_TRIALS].T
        for place, side in enumerate(("lh", "rh")):
            half = part[place * N_VERTICES : (place + 1) * N_VERTICES, None, None, :]
            image = nib.MGHImage(np.ascontiguousarray(half), np.eye(4))
            nib.save(image, folder / f"{side}.betas_session{session + 1:02d}.mgh")
    return values


def streams(root: Path, subject: int) -> np.ndarray:
    """Regions of a volume: -1 outside cortex, 0 unknown, 1 early, 5 ventral. -> (nx, ny, nz)"""
    labels = np.zeros(SPACE, np.float32)
    labels[0], labels[1], labels[3], labels[0, 0, 1] = 5, 1, -1, 0
    folder = root / f"nsddata/ppdata/subj{subject:02d}/func1pt8mm/roi"
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "streams.nii.gz")
    return labels


def surface_streams(root: Path) -> np.ndarray:
    """Regions of fsaverage. -> (2, n_vertices)"""
    labels = np.zeros((2, N_VERTICES), np.float32)
    labels[0, 4:10], labels[1, 20:25] = 5, 5
    folder = root / "nsddata/freesurfer/fsaverage/label"
    folder.mkdir(parents=True, exist_ok=True)
    for side, one in zip(("lh", "rh"), labels, strict=True):
        nib.save(nib.MGHImage(one[:, None, None], np.eye(4)), folder / f"{side}.streams.mgz")
    (folder / "streams.mgz.ctab").write_text("0 Unknown 0 0 0 0\n1 early 1 0 0 0\n5 ventral 2 0 0 0\n")
    return labels


def ncsnr(root: Path, subject: int) -> np.ndarray:
    """The ratio that NSD gives. -> (nx, ny, nz)"""
    values = np.linspace(0.1, 1, int(np.prod(SPACE)), dtype=np.float32).reshape(SPACE)
    folder = root / f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "ncsnr.nii.gz")
    return values


def captions(root: Path, images: np.ndarray) -> Path:
    """nsd_stim_info_merged.csv and COCO annotations of some images (numbered from 1). -> folder of annotations"""
    table = root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "cocoId", "cocoSplit", "nsdId"])
        for place, image in enumerate(images):
            writer.writerow([place, 500000 + image, ("train2017", "val2017")[image % 2], image - 1])
    folder = root / "annotations"
    folder.mkdir()
    for number, split in enumerate(("train2017", "val2017")):
        found = [
            {"image_id": int(500000 + image), "id": int(10 * image + place), "caption": f"caption {place} of {image}\n"}
            for place in (3, 1, 0, 4, 2)
            for image in images
            if image % 2 == number
        ]
        (folder / f"captions_{split}.json").write_text(json.dumps({"annotations": found}))
    return folder


def whole(root: Path, subject: int = 1, kind: str = "hdf5") -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Design, betas and regions of one subject. -> design, order (n_trials,), values as stored (n_trials, nx, ny, nz)"""
    what = design(root)
    order = what["subjectim"][subject - 1][what["masterordering"] - 1][: N_SESSIONS * N_TRIALS]
    values = volumes(root, subject, order, kind)
    streams(root, subject)
    return what, order, values


def pictures(root: Path, size_px: int = 8) -> np.ndarray:
    """The file of pictures, tiny ones: picture n (from 1) is a ramp that starts with n. -> (73000, size, size, 3) uint8"""
    values = np.arange(1, 73001)[:, None, None, None] + np.arange(size_px * size_px * 3).reshape(size_px, size_px, 3)
    values = (values % 251).astype(np.uint8)
    folder = root / "nsddata_stimuli" / "stimuli" / "nsd"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "nsd_stimuli.hdf5", "w") as target:
        target.create_dataset(
            "imgBrick", data=values, chunks=(1, size_px, size_px, 3), compression="gzip", compression_opts=1
        )
    return values
