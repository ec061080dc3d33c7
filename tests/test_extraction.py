"""Extraction: every row in its place, kept batch by batch, resumed where it stopped, shared out over processes."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxalign import commands, store
from jaxalign.commands.composed import compose
from jaxalign.contracts import Fit
from jaxalign.errors import DataError
from jaxalign.models import open_source
from jaxalign.runtime import dist, extraction
from jaxalign.runtime.extraction import Shown, extracted

FIT = Fit("counted", "r1", "layer", 1.0, "mean", 3)


@dataclass
class Counted:
    """A source whose rows are its stimuli, and that remembers what it was shown."""

    batch_size: int = 4
    bin_s: float | None = None
    takes: str = "image"
    fits: tuple = (FIT,)
    edges: tuple = (1.0, 2.0, 4.0)
    shown: list = field(default_factory=list)
    dies_after: int | None = None
    refuses: tuple = ()

    @property
    def identity(self):
        return {"class": "Counted"}

    def release(self):
        self.is_released = True

    def bucket(self, duration_s):
        return next(edge for edge in self.edges if edge >= duration_s)

    def activations(self, stimuli):
        if self.dies_after is not None and len(self.shown) >= self.dies_after:
            raise KeyboardInterrupt
        if any(one in self.refuses for one in stimuli):
            raise DataError(f"one of {stimuli} is refused")
        self.shown.append(list(stimuli))
        rows = np.array([[one, one**2, -one] for one in stimuli], np.float32)
        if self.bin_s is not None:
            rows = np.stack([rows + 1000 * bin for bin in range(8)], axis=1)
        return {("layer", "mean"): jnp.asarray(rows)}


def shown(n, durations=(), broken=(), sha256=""):
    def get(index):
        if index in broken:
            raise DataError(f"picture {index} is torn")
        return index

    return Shown(tuple(f"s{at:03d}" for at in range(n)), get, tuple(durations), sha256)


def quiet(_stage, _done):
    pass


def expected(n):
    at = np.arange(n, dtype=np.float32)
    return np.stack([at, at**2, -at], axis=1)


def test_every_stimulus_becomes_its_own_row(tmp_path):
    source = Counted()
    folder = extracted(source, shown(301), str(tmp_path), quiet)
    np.testing.assert_array_equal(store.read(folder, FIT), expected(301))
    assert [len(batch) for batch in source.shown] == [4] * 76
    assert source.is_released, "weights do not stay in memory while a run is scored"
    assert source.shown[-1] == [300] * 4, "the last batch is padded to the shape of the others"
    store.verify(folder)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == [folder.name]


def test_the_same_again_computes_nothing(tmp_path):
    extracted(Counted(), shown(9), str(tmp_path), quiet)
    again = Counted()
    extracted(again, shown(9), str(tmp_path), quiet)
    assert again.shown == []


def test_a_run_that_died_continues_behind_its_last_batch(tmp_path):
    undisturbed = extracted(Counted(), shown(30), str(tmp_path / "a"), quiet)
    with pytest.raises(KeyboardInterrupt):
        extracted(Counted(dies_after=3), shown(30), str(tmp_path / "b"), quiet)
    source = Counted()
    folder = extracted(source, shown(30), str(tmp_path / "b"), quiet)
    assert source.shown[0][0] == 12 and len(source.shown) == 5
    assert folder.name == undisturbed.name
    for path in sorted(undisturbed.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (folder / path.relative_to(undisturbed)).read_bytes(), path


def test_a_damaged_batch_is_computed_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extracted(Counted(dies_after=3), shown(30), str(tmp_path), quiet)
    (part,) = tmp_path.rglob("batch-00000001.safetensors")
    content = bytearray(part.read_bytes())
    content[-9] ^= 1
    part.write_bytes(content)
    source = Counted()
    folder = extracted(source, shown(30), str(tmp_path), quiet)
    assert [batch[0] for batch in source.shown] == [4, 12, 16, 20, 24, 28]
    np.testing.assert_array_equal(store.read(folder, FIT), expected(30))


def test_unreadable_stimuli_are_named_together_and_the_rest_is_kept(tmp_path):
    with pytest.raises(DataError, match=r"2 of 30 stimuli.*\n  s005: picture 5 is torn\n  s029: picture 29") as caught:
        extracted(Counted(), shown(30, broken=(5, 29)), str(tmp_path), quiet)
    assert "run the same command again" in str(caught.value)
    source = Counted()
    folder = extracted(source, shown(30), str(tmp_path), quiet)
    assert [batch[0] for batch in source.shown] == [4, 28], "only the two batches that were left out"
    np.testing.assert_array_equal(store.read(folder, FIT), expected(30))


def test_a_stimulus_that_the_model_refuses_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"1 of 10 stimuli could not be shown to counted:\n  s006: one of \[6, 6, 6, 6\]"
    ):
        extracted(Counted(refuses=(6,)), shown(10), str(tmp_path), quiet)


def test_an_error_that_no_single_stimulus_explains_comes_through(tmp_path, monkeypatch):
    source = Counted()
    monkeypatch.setattr(
        source, "activations", lambda stimuli: (_ for _ in ()).throw(DataError("no memory")), raising=False
    )
    monkeypatch.setattr(extraction, "_refused", lambda *_: {})
    with pytest.raises(DataError, match="no memory"):
        extracted(source, shown(4), str(tmp_path), quiet)


def test_other_content_under_the_same_names_is_another_store(tmp_path):
    first = extracted(Counted(), shown(5, sha256="a"), str(tmp_path), quiet)
    second = extracted(Counted(), shown(5, sha256="b"), str(tmp_path), quiet)
    assert first != second


def test_sounds_are_computed_by_length_and_stored_in_order(tmp_path):
    durations = np.random.default_rng(0).choice([0.5, 1.5, 3.0], 150)
    source = Counted(takes="audio")
    folder = extracted(source, shown(150, durations), str(tmp_path), quiet)
    np.testing.assert_array_equal(store.read(folder, FIT), expected(150))
    for batch in source.shown:
        assert len({source.bucket(durations[one]) for one in batch}) == 1


def test_time_bins_become_rows_named_by_their_start(tmp_path):
    durations = (0.25, 0.8, 0.1)
    folder = extracted(Counted(takes="audio", bin_s=0.1), shown(3, durations), str(tmp_path), quiet)
    names = store.stimulus_ids(folder)
    assert names[:4] == ("s000@0.000", "s000@0.100", "s000@0.200", "s001@0.000") and len(names) == 3 + 8 + 1
    rows = store.read(folder, FIT)
    np.testing.assert_array_equal(rows[:, 0], [0, 1000, 2000, *(1 + 1000 * bin for bin in range(8)), 2])


def test_processes_share_the_batches_and_the_first_puts_them_together(tmp_path, monkeypatch):
    """Two processes, one after the other: what each computes, and that both agree on the store."""
    monkeypatch.setattr(dist, "count", lambda: 2)
    monkeypatch.setattr(dist, "gather", lambda value: [value])
    monkeypatch.setattr(dist, "barrier", lambda name: None)
    first, second = Counted(), Counted()
    plan = extraction._Plan.of(first, shown(30))
    parts = tmp_path / "parts"
    parts.mkdir()
    for index, source in ((1, second), (0, first)):
        monkeypatch.setattr(dist, "index", lambda index=index: index)
        extraction._compute(source, shown(30), plan, parts, quiet)
    assert [batch[0] for batch in first.shown] == [0, 8, 16, 24] and [batch[0] for batch in second.shown] == [
        4,
        12,
        20,
        28,
    ]
    extraction._assemble(first, plan, parts, tmp_path / "store")
    np.testing.assert_array_equal(store.read(tmp_path / "store", FIT), expected(30))


# From the command line


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """Folder of a checkpoint in miniature."""
    folder = tmp_path_factory.mktemp("llava")
    checkpoints.write(folder, "llava")
    return folder


def request(llava, folder):
    """A model of the zoo, from its checkpoint."""
    entry = "model.llava_1_5_7b"
    words = [f"{entry}.path={llava}", f"{entry}.dtype=float32", f"{entry}.batch_size=4", f"store={folder}/store"]
    return ["model=[llava_1_5_7b]", *words, "stimuli=pictures", "stimuli.n_stimuli=24"]


def test_a_run_extracts_what_is_missing_and_scores_it(llava, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = request(llava, tmp_path)
    assert commands.main(["extract", *words]) == 0
    assert "llava_1_5_7b: 24 rows x 9 fits in" in capsys.readouterr().out
    stored = sorted((tmp_path / "store").rglob("*"))
    data = ["dataset=simulated_eeg", "dataset.n_subjects=1", "dataset.time_bin_s=0.1", "dataset.n_test=8"]
    assert (
        commands.main(
            ["run", *words, *data, "metric=[rsa]", "n_permutations=20", f"output={tmp_path}/out", "report=false"]
        )
        == 0
    )
    assert sorted((tmp_path / "store").rglob("*")) == stored, "the store that extract wrote is the one that run reads"
    table = pq.read_table(
        tmp_path / "out" / "scores.parquet", columns=["model", "layer", "revision", "value"]
    ).to_pandas()
    assert set(table["model"]) == {"llava-1.5-7b"} and table["layer"].nunique() == 9
    assert table["revision"].str.startswith("sha256-").all() and np.isfinite(table["value"]).all()


def test_pictures_of_files_are_matched_by_their_ids(llava, tmp_path, capsys, monkeypatch):
    """A folder lists pictures in natural order; the recording has them in another, and some are not in it."""
    from PIL import Image

    from jaxalign.runtime.inputs import gather
    from jaxalign.sources.image_files import Images

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for at in range(12):
        Image.fromarray(np.full((30, 30, 3), 20 * at, np.uint8)).save(pictures / f"p{at}.png")
    words = [word for word in request(llava, tmp_path) if not word.startswith("stimuli")]
    words += ["stimuli=images", f"stimuli.path={pictures}"]
    run = compose([*words, "dataset=n400", "metric=[rsa]"])
    names = tuple(f"p{at}" for at in (7, 2, 11, 5))
    recording = SimpleNamespace(stimulus_ids=names, columns={}, subject="1", origin={}, is_simulated=False)
    monkeypatch.setattr("jaxalign.runtime.inputs._read", lambda dataset: [recording])
    inputs = gather(run, quiet)
    whole = extracted(
        open_source(run.model["llava_1_5_7b"]),
        extraction.shown_by_kind(Images(str(pictures)))["image"](),
        str(tmp_path),
        quiet,
    )
    for fit in range(3):
        rows = store.read(whole, inputs.fits[fit])
        np.testing.assert_allclose(inputs.read(fit), rows[[7, 2, 11, 5]], atol=1e-6 * np.abs(rows).max())
    assert inputs.notes == ("Stimuli were matched to the recording by their ids, not by their order.",)
    recording.stimulus_ids = ("p1", "p99")
    with pytest.raises(DataError, match=r"lacks 1 of the 2 of the recording, first 'p99': name them by a table"):
        gather(run, quiet)


def test_files_are_hashed_once_for_all_models(tmp_path, monkeypatch):
    from PIL import Image

    from jaxalign.sources.image_files import Images

    for at in range(3):
        Image.fromarray(np.full((64, 64, 3), 60 * at, np.uint8)).save(tmp_path / f"p{at}.png")
    hashed, digest = [], Images.content_sha256
    monkeypatch.setattr(Images, "content_sha256", lambda self: hashed.append(self) or digest(self))
    words = ["stimuli=images", f"stimuli.path={tmp_path}", f"store={tmp_path}/store"]
    assert commands.main(["extract", "model=[pixels,luminance]", *words]) == 0
    assert len(hashed) == 1 and len(list((tmp_path / "store").glob("[a-z]*"))) == 2


@pytest.mark.slow
def test_two_processes_extract_the_same_bytes_as_one(llava, tmp_path):
    words = ["extract", *request(llava, "PLACE")]
    alone = [word.replace("PLACE", f"{tmp_path}/one") for word in words]
    both = [word.replace("PLACE", f"{tmp_path}/two") for word in words]
    root = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAXALIGN_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    subprocess.run([sys.executable, "-m", "jaxalign", *alone], check=True, env=environment, cwd=root, timeout=300)
    local = ["bash", str(root / "launch" / "local.sh"), "-n", "2", "--", *both]
    subprocess.run(local, check=True, env=environment, cwd=root, timeout=300)
    (first,), (second,) = (
        [path for path in (tmp_path / name / "store").iterdir() if path.is_dir()] for name in ("one", "two")
    )
    assert first.name == second.name
    for path in sorted(first.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path
