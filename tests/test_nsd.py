"""fMRI: patterns of Haxby's volumes, and NSD's betas in its real layout, read in chunks and z-scored without the test set."""

import subprocess
import sys
from pathlib import Path

import h5py
import makers
import nibabel as nib
import numpy as np
import pytest
import writers_fmri as writers

from jaxalign.commands.composed import compose
from jaxalign.compute.ceiling import ceiling_of_ncsnr
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.nifti import Nifti
from jaxalign.sources.nsd import Nsd
from jaxalign.sources.nsd_design import SESSIONS, read_design
from jaxalign.sources.nsd_images import NsdImages

# Haxby.


def haxby(data_folder, **changes):
    folder = data_folder / "haxby"
    files = {
        "path": folder / "bold.nii.gz",
        "mask": folder / "mask.nii.gz",
        "attributes": folder / "attributes_literal.txt",
    }
    settings = {name: str(file) for name, file in files.items()} | {
        "leave_out": ("rest",),
        "normalise": "sd",
        "detrend_order": 2,
    }
    return Nifti(**{**settings, **changes})


def test_haxby_gives_its_published_numbers(data_folder):
    """shared/data/README.md: odd against even runs, r of the RDMs .5300; identification .875 and .750."""
    (odd,) = haxby(data_folder, runs=(1, 3, 5, 7, 9, 11)).recordings()
    (even,) = haxby(data_folder, runs=(0, 2, 4, 6, 8, 10)).recordings()
    assert odd.values.shape == (8, 530, 1) and odd.stimulus_ids == even.stimulus_ids
    assert odd.stimulus_ids == ("bottle", "cat", "chair", "face", "house", "scissors", "scrambledpix", "shoe")
    assert set(odd.n_repetitions) == {6} and np.isnan(odd.starts_s).all() and len(set(odd.channels)) == 530
    upper = np.triu_indices(8, 1)
    rdms = [1 - np.corrcoef(one.values[:, :, 0].astype(float))[upper] for one in (odd, even)]
    assert np.corrcoef(*rdms)[0, 1] == pytest.approx(0.5300, abs=5e-5)
    across = np.corrcoef(odd.values[:, :, 0], even.values[:, :, 0])[:8, 8:]
    assert np.mean(across.argmax(1) == np.arange(8)) == 0.875 and np.mean(across.argmax(0) == np.arange(8)) == 0.75


def test_haxby_composes_and_runs(data_folder, tmp_path, monkeypatch, rng):
    """The whole way from the command line: RSA of eight patterns against features that are their own RDM's."""
    from jaxalign import commands, results

    monkeypatch.setenv("JAXALIGN_DATA", str(data_folder))
    (recording,) = haxby(data_folder).recordings()
    assert set(recording.n_repetitions) == {12}
    np.savez(tmp_path / "f.npz", same=recording.values[:, :, 0], other=rng.standard_normal((8, 40)))
    (tmp_path / "ids.txt").write_text("\n".join(recording.stimulus_ids))
    assert (
        commands.main(
            ["import", str(tmp_path / "f.npz"), f"to={tmp_path / 'store'}", "model=m", f"ids={tmp_path / 'ids.txt'}"]
        )
        == 0
    )
    request = makers.request({"dataset": "nifti", "model": "[stored]", "model.stored.path": tmp_path / "store",
                              "metric": "[rsa]", "metric.rsa.n_permutations": 50, "output": tmp_path / "out"})  # fmt: skip
    assert compose(request).dataset.leave_out == ("rest",)
    assert commands.main(request) == 0
    table = results.load(tmp_path / "out").set_index("layer")
    assert table.loc["same", "value"] == pytest.approx(1, abs=1e-5) and table.loc["other", "value"] < 0.8
    assert np.isnan(table["time_start_s"]).all() and (table["channel"] == "all").all()


def test_blocks_of_volumes_change_nothing(data_folder, monkeypatch):
    (whole,) = haxby(data_folder).recordings()
    monkeypatch.setattr("jaxalign.sources.volumes.BLOCK_BYTES", 100_000)
    np.testing.assert_array_equal(haxby(data_folder).recordings()[0].values, whole.values)


def tiny_volumes(folder, rng, n_volumes=40):
    """Two runs of 20 volumes, five conditions; what is shown is seen two volumes later."""
    shown = np.tile(np.repeat(list("abcde"), 2), n_volumes // 10)
    patterns = dict(zip("abcde", rng.standard_normal((5, 3, 2, 2)), strict=True))
    runs = np.repeat([0, 1], n_volumes // 2)
    data = np.zeros((3, 2, 2, n_volumes), np.float32)
    for run in (0, 1):
        rows = np.flatnonzero(runs == run)
        for row in rows[2:]:
            data[..., row] = patterns[shown[row - 2]]
    nib.save(nib.Nifti1Image(data, np.eye(4)), folder / "x.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((3, 2, 2), np.uint8), np.eye(4)), folder / "m.nii.gz")
    (folder / "a.txt").write_text("".join(f"{one} {run}\n" for one, run in zip(shown, runs, strict=True)))
    (folder / "a.tsv").write_text(
        "run\tcondition\n" + "".join(f"{run}\t{one}\n" for one, run in zip(shown, runs, strict=True))
    )
    names = {"path": "x.nii.gz", "mask": "m.nii.gz", "attributes": "a.txt"}
    return {name: str(folder / file) for name, file in names.items()}, patterns


@pytest.mark.parametrize("table", ["a.txt", "a.tsv"])
def test_patterns_come_back_after_a_shift(tmp_path, rng, table):
    files, patterns = tiny_volumes(tmp_path, rng)
    files["attributes"] = str(tmp_path / table)
    (recording,) = Nifti(**files, normalise="none", detrend_order=-1, shift_volumes=2).recordings()
    expected = np.stack([patterns[name].ravel() for name in "abcde"])
    np.testing.assert_allclose(recording.values[:, :, 0], expected, atol=1e-6)
    assert recording.channels[1] == "voxel-0-0-1" and recording.channels[-1] == "voxel-2-1-1"


def test_volumes_that_do_not_fit_are_refused(tmp_path, rng):
    files, _ = tiny_volumes(tmp_path, rng)
    whole = (tmp_path / "x.nii.gz").read_bytes()
    with pytest.raises(ConfigError, match=r"Nearest: zscore"):
        Nifti(**files, normalise="zscor")
    with pytest.raises(ConfigError, match=r"dataset.runs names '7', and the table has 0, 1"):
        Nifti(**files, runs=(7,)).recordings()
    with pytest.raises(ConfigError, match=r"dataset.leave_out names 'rest'. Known: a, b, c, d, e"):
        Nifti(**files, leave_out=("rest",)).recordings()
    with pytest.raises(ConfigError, match=r"'chunk' is not among dataset.columns"):
        Nifti(**files, run_column="chunk").recordings()
    nib.save(nib.Nifti1Image(np.ones((3, 2, 1), np.uint8), np.eye(4)), tmp_path / "other.nii")
    with pytest.raises(DataError, match=r"has \(3, 2, 1\) voxels and the volumes .* have \(3, 2, 2\)"):
        Nifti(**{**files, "mask": str(tmp_path / "other.nii")}).recordings()
    with pytest.raises(DataError, match=r"has shape \(3, 2, 2, 40\): one volume is needed"):
        Nifti(**{**files, "mask": files["path"]}).recordings()
    with pytest.raises(DataError, match=r"holds 1 volume .* a series is needed"):
        Nifti(**{**files, "path": files["mask"]}).recordings()
    for content in (whole[: len(whole) // 2], b"no image", b""):
        (tmp_path / "x.nii.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read"):
            Nifti(**files).recordings()
    (tmp_path / "x.nii.gz").write_bytes(whole)
    lines = (tmp_path / "a.txt").read_text().splitlines()
    (tmp_path / "a.txt").write_text("\n".join(lines[:-3]))
    with pytest.raises(DataError, match=r"has 40 volumes and .*a\.txt describes 37"):
        Nifti(**files).recordings()
    (tmp_path / "a.txt").write_text("\n".join([*lines[:5], "a"]))
    with pytest.raises(DataError, match=r"line 6 of 6, has 1 words and dataset.columns names 2"):
        Nifti(**files).recordings()


# NSD.


@pytest.fixture(scope="module")
def nsd(tmp_path_factory):
    """Two sessions of one subject: 500 images three times, 100 of them shared. -> root, design, order, stored values"""
    root = tmp_path_factory.mktemp("nsd")
    return root, *writers.whole(root)


def oracle(order, values, images, by):
    """Float64, the slow way. -> (n_images, 3, n_voxels): z scores per session, by the trials that `by` marks"""
    values = values.astype(float) / 300
    z = np.empty_like(values)
    for session in range(len(order) // 750):
        rows = slice(session * 750, (session + 1) * 750)
        part = values[rows]
        z[rows] = (part - part[by[rows]].mean(0)) / part[by[rows]].std(0)
    return np.stack([z[order == image] for image in images])


def ventral(values):
    """The nine valid and one invalid voxel with label 5, without the invalid one."""
    labels = np.zeros(writers.SPACE, bool)
    labels[0] = True
    labels[0, 0, 0] = labels[0, 0, 1] = False
    return values[:, labels]


def test_the_design_has_515_images_of_all_eight(nsd):
    root, design, *_ = nsd
    shown = read_design(root)
    found = shown.shared_of_all()
    assert len(found) == 515 and set(found) <= set(design["sharedix"]) and (np.diff(found) > 0).all()
    for subject, n_sessions in enumerate(SESSIONS, 1):
        assert (shown.times(subject, n_sessions, found) == 3).all()


@pytest.mark.parametrize("as_published", [False, True])
def test_betas_are_z_scored_per_session_by_their_training_rows(nsd, as_published):
    root, _design, order, values = nsd
    source = Nsd(path=str(root), sessions=2, labels=("ventral",), as_published=as_published, keep_trials=True)
    (recording,) = source.recordings()
    images = np.unique(order)
    shared = read_design(root).shared_of_all()
    by = np.ones(len(order), bool) if as_published else ~np.isin(order, shared)
    expected = oracle(order, ventral(values), images, by)
    np.testing.assert_allclose(recording.values[:, :, 0], expected.mean(1), atol=2e-5)
    assert recording.stimulus_ids == tuple(f"nsd{image:05d}" for image in images), "ascending, numbered from 1"
    np.testing.assert_array_equal(recording.is_test, np.isin(images, shared))
    assert recording.is_test.sum() == 100 and set(recording.n_repetitions) == {3}
    np.testing.assert_allclose(recording.trials[..., 0], expected[recording.is_test], atol=2e-5)
    assert np.isnan(recording.starts_s).all() and recording.starts_s.shape == recording.stops_s.shape == (1,)
    assert recording.unit == "z" and recording.origin["n_invalid_voxels"] == 1 and np.isnan(recording.positions).all()


def test_the_test_set_changes_nothing_in_training(nsd, tmp_path):
    """With the training rows alone, other test responses leave the training responses as they are."""
    root, _design, order, values = nsd
    changed = values.copy()
    changed[np.isin(order, read_design(root).shared_of_all())] //= 3
    other = tmp_path / "nsd"
    writers.design(other)
    writers.streams(other, 1)
    folder = other / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    folder.mkdir(parents=True)
    for session in (0, 1):
        with h5py.File(folder / f"betas_session{session + 1:02d}.hdf5", "w") as file:
            file["betas"] = changed[session * 750 : (session + 1) * 750].transpose(0, 3, 2, 1)
    kept = {}
    for as_published in (False, True):
        pair = [Nsd(path=str(where), sessions=2, as_published=as_published).recordings()[0] for where in (root, other)]
        kept[as_published] = [one.values[~one.is_test] for one in pair]
    np.testing.assert_array_equal(*kept[False])
    assert np.abs(kept[True][0] - kept[True][1]).max() > 0.01


def test_nifti_and_hdf5_give_the_same(nsd, tmp_path):
    root, _, _, _values = nsd
    writers.whole(tmp_path, kind="nii.gz")
    one, other = (Nsd(path=str(where), sessions=2, labels=(5, 1)).recordings()[0] for where in (root, tmp_path))
    assert one.channels == other.channels and len(one.channels) == 22
    np.testing.assert_array_equal(one.values, other.values)


def test_voxels_are_named_by_their_place(nsd):
    """HDF5 of MATLAB lists the axes backwards; a voxel must not change places."""
    root, _, order, values = nsd
    (recording,) = Nsd(path=str(root), sessions=2, labels=("early",), normalise="none").recordings()
    assert recording.unit == "%"
    place = recording.channels.index("voxel-1-2-0")
    image = int(recording.stimulus_ids[7].removeprefix("nsd"))
    expected = values[order == image][:, 1, 2, 0].mean() / 300
    assert recording.values[7, place, 0] == pytest.approx(expected, rel=1e-5)


def test_blocks_of_trials_change_nothing(nsd, monkeypatch):
    root = nsd[0]
    source = Nsd(path=str(root), sessions=2, keep_trials=True)
    (whole,) = source.recordings()
    monkeypatch.setattr("jaxalign.sources.volumes.BLOCK_BYTES", 20_000)
    (again,) = source.recordings()
    np.testing.assert_array_equal(whole.values, again.values)
    np.testing.assert_array_equal(whole.trials, again.trials)


def test_ncsnr_is_that_of_its_definition(nsd):
    """Allen et al. 2022: noise variance is the mean variance (ddof 1) over repetitions; total variance is 1."""
    root, _, order, values = nsd
    source = Nsd(path=str(root), sessions=2, labels=("ventral",), as_published=True)
    found = source.recordings()[0].ncsnr[:, 0]
    z = oracle(order, ventral(values), np.unique(order), np.ones(len(order), bool))
    noise = z.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(found, np.sqrt((1 - noise) / noise), rtol=1e-4)
    assert np.median(found) == pytest.approx(1, abs=0.1), "planted: signal and noise of equal variance"
    given = writers.ncsnr(root, 1)
    (of_file,) = Nsd(**{**vars(source), "ncsnr": "file"}).recordings()
    np.testing.assert_array_equal(of_file.ncsnr[:, 0], ventral(given[None])[0])
    (root / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/ncsnr.nii.gz").unlink()
    with pytest.raises(DataError, match=r"ncsnr of subject 1 was not found"):
        Nsd(**{**vars(source), "ncsnr": "file"}).recordings()


def test_the_ceiling_is_what_a_perfect_model_reaches(rng):
    signal = rng.standard_normal(20_000)
    measured = signal + 2 * rng.standard_normal((3, 20_000))
    reached = np.corrcoef(signal, measured.mean(0))[0, 1]
    assert ceiling_of_ncsnr(np.array([0.5]), 3)[0] == pytest.approx(reached, abs=0.01)
    assert ceiling_of_ncsnr(np.array([0.0]), 3)[0] == 0


def test_own_images_are_subjects_of_their_own(nsd):
    root, design, _order, _ = nsd
    with pytest.raises(ConfigError, match=r"have images of their own: each is a data set by itself \(jaxalign -m"):
        Nsd(path=str(root), subjects=(1, 2))
    with pytest.raises(ConfigError, match=r"have voxels of their own"):
        Nsd(path=str(root), subjects=(1, 2), images="shared515")
    writers.volumes(root, 2, design["subjectim"][1][design["masterordering"] - 1][:1500], seed=2)
    writers.streams(root, 2)
    first, second = (Nsd(path=str(root), subjects=(number,), sessions=2).recordings()[0] for number in (1, 2))
    both = set(first.stimulus_ids) & set(second.stimulus_ids)
    assert (
        both == {name for name, mark in zip(first.stimulus_ids, first.is_test, strict=True) if mark}
        and len(both) == 100
    )


def test_captions_become_columns(nsd):
    root, _, order, _ = nsd
    images = np.unique(order)
    folder = writers.captions(root, images)
    (recording,) = Nsd(path=str(root), sessions=2, captions=str(folder)).recordings()
    assert recording.columns["caption_1"][3] == f"caption 0 of {images[3]}", (
        "in the order of COCO's ids, not of the file"
    )
    assert recording.columns["caption_5"][3] == f"caption 4 of {images[3]}"
    assert recording.columns["coco_id"][3] == 500000 + images[3]
    assert recording.columns["is_shared"].sum() == 100


@pytest.fixture(scope="module")
def surface(tmp_path_factory):
    """All sessions of the shared images need 30 sessions; their tiny betas on fsaverage, of subjects 1 and 2."""
    root = tmp_path_factory.mktemp("fsaverage")
    design = writers.design(root)
    stored = {}
    for subject in (1, 2):
        order = design["subjectim"][subject - 1][design["masterordering"] - 1][: 40 * 750]
        stored[subject] = (order, writers.surfaces(root, subject, order, subject))
    return root, stored, writers.surface_streams(root)


def test_shared_images_on_the_surface_put_subjects_side_by_side(surface):
    root, stored, labels = surface
    source = Nsd(
        path=str(root), subjects=(1, 2), images="shared515", space="fsaverage", labels=("ventral",), keep_trials=True
    )
    recordings = source.recordings()
    shared = read_design(root).shared_of_all()
    for number, recording in enumerate(recordings, 1):
        order, values = stored[number]
        expected = oracle(order, 300 * values[:, labels.ravel() == 5], shared, ~np.isin(order, shared))
        np.testing.assert_allclose(recording.values[:, :, 0], expected.mean(1), atol=1e-4)
        np.testing.assert_allclose(recording.trials[..., 0], expected, atol=1e-4)
        assert recording.subject == f"0{number}" and not recording.is_test.any()
    assert recordings[0].stimulus_ids == recordings[1].stimulus_ids and len(shared) == 515
    assert recordings[0].channels == recordings[1].channels
    assert recordings[0].channels[0] == "lh-4" and recordings[0].channels[-1] == "rh-24"
    (left,) = Nsd(path=str(root), images="shared1000", space="fsaverage", hemispheres="lh").recordings()
    assert left.values.shape == (1000, 6, 1) and set(left.channels) == {f"lh-{vertex}" for vertex in range(4, 10)}


def test_nsd_runs_from_the_command_line(nsd, tmp_path):
    """A given test set, three repetitions, one bin without time: its ceilings are there, and that of NSD's own ncsnr."""
    import jaxalign
    from jaxalign import commands, results

    root = nsd[0]
    given = writers.ncsnr(root, 1)
    request = makers.request({"dataset": "nsd", "dataset.path": root, "dataset.sessions": 2, "dataset.ncsnr": "file",
                              "model": "[fas]", "model.fas.columns": "[nsd_id]", "metric": "[ridge_ols]",
                              "ceiling.recipes": "[auto,ncsnr,ncsnr_given]",
                              "metric.ridge_ols.n_permutations": 20, "output": tmp_path / "out"})  # fmt: skip
    assert compose(request).dataset.labels == ("ventral",)
    assert commands.main(request) == 0
    table = results.load(tmp_path / "out")
    assert len(table["channel"].unique()) == 10 and np.isnan(table["time_start_s"]).all()
    assert set(table["n_repetitions"]) == {3} and np.isfinite(table["ceiling_high"]).any()
    bounds = jaxalign.load_ceilings(tmp_path / "out")
    r = bounds[bounds["statistic"] == "pearson_r"].pivot(index="channel", columns="recipe", values="low")
    ratio = ventral(given[None])[0].astype(float)
    np.testing.assert_allclose(r["ncsnr_given"], np.sqrt(ratio**2 / (ratio**2 + 1 / 3)), rtol=1e-5)
    assert not np.allclose(r["ncsnr"], r["ncsnr_given"], atol=0.01)
    (root / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/ncsnr.nii.gz").unlink()


def copied(root, folder):
    """A folder that can be damaged."""
    import shutil

    return Path(shutil.copytree(root, folder / "copy"))


BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session02.hdf5"


def test_damaged_and_swapped_files_are_named(nsd, tmp_path):
    root = copied(nsd[0], tmp_path)
    source = Nsd(path=str(root), sessions=2)
    whole = (root / BETAS).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html></html>"):
        (root / BETAS).write_bytes(content)
        with pytest.raises(DataError, match=r"betas_session02\.hdf5.* cannot be read"):
            source.recordings()
    with h5py.File(root / BETAS, "w") as file:
        file["betas"] = np.zeros((700, 3, 4, 5), np.int16)
    with pytest.raises(DataError, match=r"has 700 trials and a session of NSD has 750"):
        source.recordings()
    with h5py.File(root / BETAS, "w") as file:
        file["betas"] = np.zeros((750, 5, 4, 3), np.int16)
    with pytest.raises(DataError, match=r"has \(5, 4, 3\) voxels and the volumes .* have \(3, 4, 5\)"):
        source.recordings()
    with h5py.File(root / BETAS, "w") as file:
        file["other"] = np.zeros(3)
    with pytest.raises(DataError, match=r"has other: a data set betas"):
        source.recordings()
    with h5py.File(root / BETAS, "w") as file:
        file["betas"] = np.zeros((750, 3, 4, 5), np.int16)
    with pytest.raises(DataError, match=r"none of the \d+ voxels of streams is finite and varies"):
        source.recordings()
    design = root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    design.write_bytes(design.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"\(5000 bytes\) cannot be read as the design"):
        source.recordings()


def test_a_wrong_folder_says_what_was_looked_for_and_found(nsd, tmp_path):
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "sub-01").mkdir()
    with pytest.raises(
        DataError,
        match=r"design of NSD was not found: looked for .*nsd_expdesign\.mat.*'nsddata' but 1 entries: sub-01",
    ):
        Nsd(path=str(tmp_path / "things")).recordings()
    with pytest.raises(DataError, match=r"nowhere was not found. Looked for"):
        Nsd(path=str(tmp_path / "nowhere")).recordings()
    root = nsd[0]
    with pytest.raises(
        DataError, match=r"betas_session03 of subject 1 was not found.*betas_session02\.hdf5.*set dataset.sessions"
    ):
        Nsd(path=str(root), sessions=3).recordings()
    with pytest.raises(DataError, match=r"map of regions stream of subject 1 was not found.*streams\.nii\.gz"):
        Nsd(path=str(root), sessions=2, roi="stream").recordings()
    with pytest.raises(ConfigError, match=r"dataset.labels names 'ventrl'.* Nearest: ventral"):
        Nsd(path=str(root), sessions=2, labels=("ventrl",)).recordings()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": "shared"}, ConfigError, "Nearest: shared515|Nearest: shared1000"),
        ({"space": "func1.8mm"}, ConfigError, "Nearest: func1pt8mm|Nearest: func1mm"),
        ({"subjects": (9,)}, ConfigError, "name subjects from 1 to 8"),
        ({"sessions": 41}, ConfigError, "subject 1 came to 40"),
        ({"images": "shared515"}, DataError, r"415 of 515 shared515 images were shown fewer than 3 times in 2 sessions, first nsd\d+ with 0"),
        ({"n_repetitions": 4}, DataError, "0 of 500 images were shown 4 times in 2 sessions"),
        ({"keep_trials": True, "n_repetitions": 1}, ConfigError, "At least 2 repetitions"),
        ({"keep_trials": True, "test_images": ""}, ConfigError, "and a test set are needed"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(nsd, changes, error, message):
    with pytest.raises(error, match=message):
        Nsd(**{"path": str(nsd[0]), "sessions": 2, **changes}).recordings()


def test_memory_stays_near_one_region_times_its_images(tmp_path):
    """A region of 2,000 voxels in volumes of 60,000: the betas of a session alone would take 180 MB as float32."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np, h5py, nibabel as nib
from pathlib import Path
import writers_fmri as writers
from jaxalign.sources.nsd import Nsd
import jaxalign.sources.volumes as volumes
root = Path({str(tmp_path)!r})
writers.design(root)
space = (60, 50, 20)
folder = root / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
folder.mkdir(parents=True)
rng = np.random.default_rng(0)
for session in (1, 2):
    with h5py.File(folder / f"betas_session{{session:02d}}.hdf5", "w") as file:
        betas = file.create_dataset("betas", (750, *space[::-1]), np.int16, chunks=(10, *space[::-1]))
        for start in range(0, 750, 50):
            betas[start:start + 50] = rng.integers(-900, 900, (50, *space[::-1]), np.int16)
labels = np.zeros(space, np.float32)
labels[:2] = 5
roi = root / "nsddata/ppdata/subj01/func1pt8mm/roi"
roi.mkdir(parents=True)
nib.save(nib.Nifti1Image(labels, np.eye(4)), roi / "streams.nii.gz")
volumes.BLOCK_BYTES = 8 * 2**20
import scipy.io, jaxalign.sources.places
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(recording,) = Nsd(path=str(root), sessions=2).recordings()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(recording.values.nbytes, (after - before) * 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    kept, grown = map(int, done.stdout.split())
    assert kept == 500 * 2000 * 4
    session = 750 * 2000 * 4
    assert grown < kept + 5 * session + 3 * 8 * 2**20, f"{grown / 2**20:.1f} MiB for a region of {kept / 2**20:.1f} MiB"


def test_subjects_with_their_own_images_are_jobs_of_one_sweep_and_end_in_one_table(nsd, tmp_path, monkeypatch):
    """Subject 2 saw other images: each is a job of one plan, and `load` puts their tables together."""
    import shutil

    from jaxalign import commands, results

    root = Path(shutil.copytree(nsd[0], tmp_path / "both"))
    _, other, _ = writers.whole(root, subject=2)
    assert len(set(other) ^ set(nsd[2])) == 800, "400 images of their own each, and 100 shared"
    monkeypatch.chdir(tmp_path)
    request = makers.request({"dataset": "nsd", "dataset.path": root, "dataset.sessions": 2, "dataset.keep_trials": "true",
                              "model": "[fas]", "model.fas.columns": "[nsd_id]", "metric": "[ridge_ols]",
                              "metric.ridge_ols.n_permutations": 20, "report": "false"})  # fmt: skip
    assert commands.main(["-m", *request, "dataset.subjects=[1],[2]", "hydra.sweep.dir=sweep"]) == 0
    table = results.load("sweep")
    assert sorted(set(table["subject"])) == ["01", "02"] and table["job"].nunique() == 2
    assert table.groupby("subject")["job"].nunique().tolist() == [1, 1]
    assert set(table["n_stimuli"]) == {100} and set(table["n_repetitions"]) == {3}
    first, second = (table[table["job"] == job] for job in table["job"].unique())
    assert (
        set(first["channel"]) == set(second["channel"])
        and (first["value"].to_numpy() != second["value"].to_numpy()).any()
    )


# The pictures.


@pytest.fixture(scope="module")
def with_pictures(nsd, tmp_path_factory):
    import shutil

    root = Path(shutil.copytree(nsd[0], tmp_path_factory.mktemp("pictures") / "nsd"))
    return root, writers.pictures(root)


def test_the_pictures_of_a_subject_are_those_of_its_recording(with_pictures, nsd):
    root, values = with_pictures
    pictures = NsdImages(path=str(root), sessions=2)
    (recording,) = Nsd(path=str(root), sessions=2, labels=("ventral",)).recordings()
    assert pictures.ids() == recording.stimulus_ids and pictures.groups() is None
    for index in (0, 17, 499):
        number = int(recording.stimulus_ids[index].removeprefix("nsd"))
        np.testing.assert_array_equal(pictures.image(index), values[number - 1])
    shared = NsdImages(path=str(root), images="shared1000").ids()
    assert len(shared) == 1000 and len(NsdImages(path=str(root), images="shared515").ids()) == 515
    assert len(NsdImages(path=str(root), subjects=(1, 2), sessions=2).ids()) == 900, "100 of them shared"


def test_changed_pixels_change_the_digest_of_their_pictures_alone(with_pictures, tmp_path):
    import shutil

    root = Path(shutil.copytree(with_pictures[0], tmp_path / "nsd"))
    pictures = NsdImages(path=str(root), sessions=2)
    before, seen = pictures.content_sha256(), {int(name.removeprefix("nsd")) for name in pictures.ids()}
    unseen = next(number for number in range(1, 100) if number not in seen)
    for number, is_equal in ((unseen, True), (min(seen), False)):
        with h5py.File(root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", "r+") as source:
            source["imgBrick"][number - 1, 0, 0, 0] += 1
        assert (NsdImages(path=str(root), sessions=2).content_sha256() == before) is is_equal


def test_pictures_that_cannot_be_read_are_refused(with_pictures, tmp_path):
    import shutil

    root = Path(shutil.copytree(with_pictures[0], tmp_path / "nsd"))
    file = root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    with pytest.raises(DataError, match=r"No picture was shown 4 times to subjects \[1\] in 2 sessions"):
        NsdImages(path=str(root), sessions=2, n_repetitions=4).ids()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DataError, match="cannot be read"):
        NsdImages(path=str(root), sessions=2).image(0)
    with h5py.File(file, "w") as target:
        target["imgBrick"] = np.zeros((10, 4, 4, 3), np.uint8)
    with pytest.raises(DataError, match=r"shape \(10, 4, 4, 3\) of uint8, and picture"):
        NsdImages(path=str(root), sessions=2).image(0)
    file.unlink()
    with pytest.raises(DataError, match=r"The file of pictures of NSD was not found.*nsddata_stimuli"):
        NsdImages(path=str(root), sessions=2).image(0)
    with pytest.raises(ConfigError, match=r"set stimuli\.path"):
        NsdImages().ids()


def test_nsd_pictures_meet_their_voxels_by_naming_the_folder_once(with_pictures, tmp_path):
    """From the command line: pixels of the pictures are scored against the voxels of the same pictures."""
    from jaxalign import commands, results

    root, _ = with_pictures
    request = makers.request({"dataset": "nsd", "dataset.path": root, "dataset.sessions": 2, "stimuli": "nsd_images",
                              "model": "[pixels]", "metric": "[ridge_ols]", "metric.ridge_ols.n_permutations": 20,
                              "output": tmp_path / "out", "store": tmp_path / "store", "report": "false"})  # fmt: skip
    assert compose(request).stimuli.sessions == 2
    assert commands.main(request) == 0
    table = results.load(tmp_path / "out")
    assert set(table["model"]) == {"pixels"} and len(table["channel"].unique()) == 10 and table["value"].notna().all()
