"""The store: what is written comes back bit for bit, and what is damaged or unfinished never comes back as numbers."""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxalign import store
from jaxalign.contracts import Fit
from jaxalign.errors import DataError
from jaxalign.store import activations

N_STIMULI = 700
IDS = [f"stimulus-{index}" for index in range(N_STIMULI)]
IDENTITY = {"weights": "f" * 64, "prompt": None, "sizes": (224, 224)}
FITS = [
    Fit("tiny", "a" * 40, "vision.layers.0", 0.0, "cls", 3),
    Fit("tiny", "a" * 40, "vision.layers.0", 0.0, "mean", 5),
    Fit("tiny", "a" * 40, "vision/layers.1", 1.0, "mean", 5),
]


def key(fit):
    return fit.layer, fit.pooling


def planted(fits=FITS, n_stimuli=N_STIMULI):
    rng = np.random.default_rng(0)
    return {key(fit): rng.standard_normal((n_stimuli, fit.width), dtype=np.float32) for fit in fits}


def in_blocks(values, size):
    n_stimuli = len(next(iter(values.values())))
    for start in range(0, n_stimuli, size):
        yield {name: rows[start : start + size] for name, rows in values.items()}


def write(folder, values=None, size=96, fits=FITS, ids=IDS, dtype="float32"):
    store.write(folder, fits, ids, IDENTITY, in_blocks(planted() if values is None else values, size), dtype)


def bits(values):
    return np.ascontiguousarray(values).view(np.uint8)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Two chunks of 128 rows per shard, so that 700 rows make two full shards and a short one."""
    monkeypatch.setattr(activations, "BUFFER_BYTES", 2 * 128 * 4 * sum(fit.width for fit in FITS))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


def array_folder(folder, fit):
    arrays = store.manifest(folder)["arrays"]
    return folder / next(
        array["folder"]
        for array in arrays
        if array["fit"]["layer"] == fit.layer and array["fit"]["pooling"] == fit.pooling
    )


def shard(folder, fit, index):
    return array_folder(folder, fit) / "c" / str(index) / "0"


def flip(path, position, mask=1):
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(bytes(content))


def swap(path, other):
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGES = {
    "flipped byte": lambda folder: flip(shard(folder, FITS[1], 0), 1000),
    "flipped index byte": lambda folder: flip(shard(folder, FITS[1], 1), -10),
    "truncated shard": lambda folder: shard(folder, FITS[1], 0).write_bytes(
        shard(folder, FITS[1], 0).read_bytes()[:999]
    ),
    "empty shard": lambda folder: shard(folder, FITS[1], 0).write_bytes(b""),
    "deleted shard": lambda folder: shard(folder, FITS[1], 2).unlink(),
    "deleted array": lambda folder: shutil.rmtree(array_folder(folder, FITS[1])),
    "deleted array metadata": lambda folder: (array_folder(folder, FITS[1]) / "zarr.json").unlink(),
    "shards swapped in one array": lambda folder: swap(shard(folder, FITS[1], 0), shard(folder, FITS[1], 1)),
    "shards swapped between arrays": lambda folder: swap(shard(folder, FITS[1], 0), shard(folder, FITS[2], 0)),
}


# Round trips


@pytest.mark.parametrize("size", [1, 96, 256, 300, 700, 10_000])
def test_float32_comes_back_bit_for_bit_whatever_the_block_size(tmp_path, size):
    values = planted()
    write(tmp_path / "store", values, size)
    assert store.manifest(tmp_path / "store")["shard_rows"] == 256
    for fit in FITS:
        np.testing.assert_array_equal(bits(store.read(tmp_path / "store", fit)), bits(values[key(fit)]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_back_as_rounded_to_nearest(tmp_path, dtype):
    values = planted()
    write(tmp_path / "store", values, dtype=dtype)
    for fit in FITS:
        read = store.read(tmp_path / "store", fit)
        assert str(read.dtype) == dtype
        np.testing.assert_array_equal(bits(read), bits(values[key(fit)].astype(read.dtype)))


@pytest.mark.parametrize(
    "rows",
    [slice(0, 0), slice(0, 1), slice(127, 129), slice(255, 257), slice(300, 300), slice(-5, None), slice(650, 9999),
     slice(20, 10), slice(None)],
)  # fmt: skip
def test_partial_rows_are_those_of_numpy(folder, rows):
    expected = planted()[key(FITS[1])][rows]
    np.testing.assert_array_equal(store.read(folder, FITS[1], rows), expected)


def test_a_chunk_of_nothing_but_nan_is_data(tmp_path):
    values = planted()
    values[key(FITS[0])][:] = np.nan
    values[key(FITS[1])][3, 2] = -np.inf
    write(tmp_path / "store", values)
    np.testing.assert_array_equal(store.read(tmp_path / "store", FITS[0]), values[key(FITS[0])])
    counts = [array["n_nonfinite"] for array in store.manifest(tmp_path / "store")["arrays"]]
    assert counts == [N_STIMULI * 3, 1, 0]


def test_equal_input_gives_equal_files(tmp_path):
    write(tmp_path / "one", size=7)
    write(tmp_path / "other", size=300)
    assert store.manifest(tmp_path / "one") == store.manifest(tmp_path / "other")


def test_layer_names_that_look_alike_keep_their_own_rows(tmp_path):
    fits = [replace(FITS[0], layer=layer) for layer in ("..", "a.b", "a/b", "A.B", "é" * 300)]
    values = planted(fits)
    write(tmp_path / "store", values, fits=fits)
    for fit in fits:
        np.testing.assert_array_equal(store.read(tmp_path / "store", fit), values[key(fit)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.lock", "store"]


def test_importing_the_store_imports_neither_tensorstore_nor_jax():
    code = "import sys, jaxalign.store; sys.exit(bool({'tensorstore', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Damage


@pytest.mark.parametrize("damage", DAMAGES)
def test_reading_a_damaged_array_is_an_error_that_names_folder_layer_and_advice(folder, damage):
    DAMAGES[damage](folder)
    with pytest.raises(DataError) as caught:
        store.read(folder, FITS[1])
    for part in (str(folder), FITS[1].layer, "Delete the folder"):
        assert part in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_the_damage(folder, damage):
    store.verify(folder)
    DAMAGES[damage](folder)
    with pytest.raises(DataError, match="001-vision-layers-0-mean"):
        store.verify(folder)


def test_arrays_that_were_swapped_whole_are_an_error(folder):
    one, other = array_folder(folder, FITS[1]), array_folder(folder, FITS[2])
    one.rename(folder / "aside")
    other.rename(one)
    (folder / "aside").rename(other)
    for fit in FITS[1:]:
        with pytest.raises(DataError, match="is not what was written"):
            store.read(folder, fit)


def test_no_flipped_bit_of_any_file_gives_a_wrong_number(folder):
    expected = planted()[key(FITS[1])]
    rng = np.random.default_rng(1)
    for path in (shard(folder, FITS[1], 2), array_folder(folder, FITS[1]) / "zarr.json", folder / "manifest.json"):
        content = path.read_bytes()
        for position in rng.choice(len(content), 150, replace=False):
            flip(path, position, 1 << int(rng.integers(8)))
            with contextlib.suppress(DataError):
                np.testing.assert_array_equal(store.read(folder, FITS[1]), expected)
            path.write_bytes(content)


def test_verify_names_a_file_that_does_not_belong(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt .* not part of the store"):
        store.verify(folder)


# Finished or not


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def failing():
        yield from list(in_blocks(planted(), 96))[:5]
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        store.write(tmp_path / "store", FITS, IDS, IDENTITY, failing())
    assert [path.name for path in tmp_path.iterdir()] == [".store.lock"]
    assert not store.matches(tmp_path / "store", IDENTITY, IDS, FITS)
    with pytest.raises(DataError, match="does not exist"):
        store.read(tmp_path / "store", FITS[0])


def test_a_killed_writer_leaves_nothing_readable_and_does_not_block_the_next(tmp_path):
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_store as t\n"
        f"t.activations.BUFFER_BYTES = {activations.BUFFER_BYTES}\n"
        "def blocks():\n    yield from list(t.in_blocks(t.planted(), 96))[:5]\n    os.kill(os.getpid(), 9)\n"
        f"t.store.write(t.Path({str(tmp_path / 'store')!r}), t.FITS, t.IDS, t.IDENTITY, blocks())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert any((tmp_path / ".store.unfinished").glob("*/c/0/0"))
    assert not store.matches(tmp_path / "store", IDENTITY, IDS, FITS)
    write(tmp_path / "store")
    store.verify(tmp_path / "store")
    assert not (tmp_path / ".store.unfinished").exists()


def test_a_second_writer_of_the_same_folder_is_refused(tmp_path):
    def intruding():
        with pytest.raises(DataError, match="another process is writing"):
            write(tmp_path / "store")
        yield from in_blocks(planted(), 96)

    store.write(tmp_path / "store", FITS, IDS, IDENTITY, intruding())
    store.verify(tmp_path / "store")


def test_a_folder_without_manifest_is_not_finished(folder):
    (folder / "manifest.json").unlink()
    assert not store.matches(folder, IDENTITY, IDS, FITS)
    with pytest.raises(DataError, match="not finished"):
        store.read(folder, FITS[0])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_torn_manifest_is_an_error(folder, share):
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content[: int(share * len(content))])
    for call in (store.manifest, store.verify, lambda path: store.matches(path, IDENTITY, IDS, FITS)):
        with pytest.raises(DataError, match=r"damaged.*Delete the folder"):
            call(folder)


def test_an_edited_manifest_is_an_error(folder):
    content = store.manifest(folder) | {"dtype": "float16"}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="sha256 is not the one it states"):
        store.read(folder, FITS[0])


def test_another_schema_version_is_an_error(folder):
    (folder / "manifest.json").write_text(json.dumps(store.manifest(folder) | {"schema_version": 99}))
    with pytest.raises(DataError, match="schema version 99, and this jaxalign reads 1"):
        store.manifest(folder)


def test_a_finished_store_is_never_overwritten(folder):
    before = store.manifest(folder)
    with pytest.raises(DataError, match="never overwritten"):
        write(folder, {name: rows + 1 for name, rows in planted().items()})
    assert store.manifest(folder) == before
    store.verify(folder)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "store").mkdir()
    write(tmp_path / "store")
    store.verify(tmp_path / "store")


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(DataError, match="is not a finished store"):
        write(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"


# What matches


def test_a_store_matches_its_own_request_and_any_part_of_its_fits(folder):
    assert store.matches(folder, IDENTITY, IDS, FITS)
    assert store.matches(folder, IDENTITY, IDS, FITS[1:])


@pytest.mark.parametrize(
    ("identity", "ids", "fits"),
    [
        (IDENTITY | {"prompt": "Describe."}, IDS, FITS),
        (IDENTITY, IDS[::-1], FITS),
        (IDENTITY, IDS[:-1], FITS),
        (IDENTITY, IDS, [replace(FITS[0], revision="b" * 40)]),
        (IDENTITY, IDS, [replace(FITS[0], width=4)]),
        (IDENTITY, IDS, [replace(FITS[0], pooling="last")]),
    ],
)
def test_another_request_does_not_match(folder, identity, ids, fits):
    assert not store.matches(folder, identity, ids, fits)


def test_reading_a_fit_that_is_not_there_names_the_nearest(folder):
    with pytest.raises(DataError, match=r"no fit tiny/vision\.layers\.0/men .* tiny/vision\.layers\.0/mean"):
        store.read(folder, replace(FITS[1], pooling="men"))
    with pytest.raises(DataError, match="was asked for"):
        store.read(folder, replace(FITS[1], revision="b" * 40))


# Refused requests


def ragged(values):
    return values | {key(FITS[1]): values[key(FITS[1])][:-1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: {name: rows[:650] for name, rows in values.items()},
            "after 650 rows and there are 700 stimuli",
        ),
        (lambda values: {name: np.tile(rows, (2, 1)) for name, rows in values.items()}, "at least 768 rows .* 700"),
        (ragged, r"row 672 has shape \(27, 5\) for tiny/vision.layers.0/mean, and \(28, 5\)"),
        (lambda values: values | {key(FITS[0]): np.zeros((700, 4))}, r"row 0 has shape \(96, 4\)"),
        (lambda values: {key(FITS[0]): values[key(FITS[0])]}, "has 1 arrays and there are 3 fits"),
    ],
)
def test_blocks_that_disagree_are_refused_with_numbers(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "store", change(planted()))
    assert not (tmp_path / "store").exists()


def test_a_value_beyond_the_range_of_the_dtype_is_refused(tmp_path):
    values = planted()
    values[key(FITS[0])][600, 1] = -70_000
    with pytest.raises(DataError, match=r"1 of \d+ values of tiny/vision.layers.0/cls .*largest: 7e\+04"):
        write(tmp_path / "store", values, dtype="float16")
    write(tmp_path / "store", values, dtype="bfloat16")


@pytest.mark.parametrize(
    ("fits", "ids", "identity", "dtype", "message"),
    [
        (FITS, IDS, {}, "float64", "float64"),
        ([], IDS, {}, "float32", "0 fits and 700 stimuli"),
        (FITS, [], {}, "float32", "3 fits and 0 stimuli"),
        ([*FITS, FITS[0]], IDS, {}, "float32", "4 fits have only 3"),
        ([*FITS, replace(FITS[0], model="other")], IDS, {}, "float32", "one model, 2 were given"),
        ([replace(FITS[0], width=0)], IDS, {}, "float32", "width 0"),
        ([replace(FITS[0], layer_depth=float("nan"))], IDS, {}, "float32", "manifest cannot hold the fit"),
        (FITS, IDS, {"path": object()}, "float32", "manifest cannot hold identity"),
    ],
)
def test_a_request_that_cannot_be_stored_is_refused_before_the_first_block(
    tmp_path, fits, ids, identity, dtype, message
):
    def never():
        raise AssertionError("a block was computed")
        yield

    with pytest.raises(DataError, match=message):
        store.write(tmp_path / "store", fits, ids, identity, never(), dtype)


def test_a_step_is_refused(folder):
    with pytest.raises(DataError, match="every 2th row"):
        store.read(folder, FITS[0], slice(None, None, 2))
