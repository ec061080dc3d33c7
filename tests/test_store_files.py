"""Stores and files of others: import, export, verify, and a store as a model of a run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxalign import commands, store
from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, DataError
from jaxalign.models.stored import Stored
from jaxalign.runtime import journal, stream
from jaxalign.store import importing, manifests, readers

N_STIMULI = 300
IDS = [f"bild {index}" for index in range(N_STIMULI)]
LAYERS = ("layers.2", "layers.10")  # in natural order
WIDTHS = {"layers.2": 3, "layers.10": 5}


def planted(dtype=np.float32):
    rng = np.random.default_rng(8)
    return {name: rng.standard_normal((N_STIMULI, width)).astype(dtype) for name, width in WIDTHS.items()}


def fits_of(folder):
    return [Fit(**array["fit"]) for array in store.manifest(folder)["arrays"]]


def values_of(folder):
    return {fit.layer: store.read(folder, fit) for fit in fits_of(folder)}


def assert_holds(folder, expected, dtype="float32"):
    found = values_of(folder)
    assert list(found) == list(expected) and store.manifest(folder)["dtype"] == dtype
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], np.asarray(values).astype(found[name].dtype))
    store.verify(folder)


def save_hdf5(path, values):
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file.create_dataset(name, data=array, chunks=(64, array.shape[1]), compression="gzip")


def save_folder(path, values):
    path.mkdir()
    for name, array in values.items():
        np.save(path / f"{name}.npy", array)


SAVERS = {
    "features": save_folder,
    "features.npz": lambda path, values: np.savez(path, **values),
    "packed.npz": lambda path, values: np.savez_compressed(path, **values),
    "features.safetensors": lambda path, values: save_file(values, path),
    "features.h5": save_hdf5,
}


def write(folder, dtype="float32", ids=IDS, poolings=("mean",)):
    values = planted()
    fits = [
        Fit("tiny", "a" * 40, name, index / 2, pooling, WIDTHS[name])
        for index, name in enumerate(LAYERS)
        for pooling in poolings
    ]
    block = {(fit.layer, fit.pooling): values[fit.layer] + poolings.index(fit.pooling) for fit in fits}
    store.write(folder, fits, ids, {"weights": "b" * 64}, [block], dtype)
    return fits


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command in an empty folder. -> function of words giving (exit code, standard output, standard error)"""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = commands.main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 16 rows, so that 300 rows take 19 of them."""
    monkeypatch.setattr(importing, "BLOCK_BYTES", 16 * 8 * sum(WIDTHS.values()))


# Import: what comes in


@pytest.mark.parametrize("name", SAVERS)
def test_every_format_gives_the_values_and_layers_of_the_file(tmp_path, name):
    SAVERS[name](tmp_path / name, planted())
    notes = importing.import_files([tmp_path / name], tmp_path / "store", "mine", revision="v1", pooling="cls")
    assert_holds(tmp_path / "store", planted())
    assert [(fit.model, fit.revision, fit.pooling, fit.layer_depth) for fit in fits_of(tmp_path / "store")] == [
        ("mine", "v1", "cls", 0.5),
        ("mine", "v1", "cls", 1.0),
    ]
    assert "row numbers" in notes[-1]
    assert store.stimulus_ids(tmp_path / "store") == tuple(map(str, range(N_STIMULI)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes_of_safetensors_are_kept_bit_for_bit(tmp_path, dtype):
    values = planted(np.dtype(dtype))
    save_file(values, tmp_path / "x.safetensors")
    notes = importing.import_files([tmp_path / "x.safetensors"], tmp_path / "store", "mine")
    for name, found in values_of(tmp_path / "store").items():
        assert str(found.dtype) == dtype
        np.testing.assert_array_equal(found.view(np.uint8), np.ascontiguousarray(values[name]).view(np.uint8))
    assert not any("Converted" in note for note in notes)


def test_float64_is_converted_and_said(tmp_path):
    np.savez(tmp_path / "x.npz", **planted(np.float64))
    notes = importing.import_files([tmp_path / "x.npz"], tmp_path / "store", "mine")
    assert "Converted from float64 to float32: values are rounded to nearest." in notes
    assert_holds(tmp_path / "store", planted())


@pytest.mark.parametrize(("dtype", "value"), [(None, 1e39), ("float16", 7e4)])
def test_a_value_beyond_the_range_of_the_dtype_is_refused(tmp_path, dtype, value):
    array = np.ones((N_STIMULI, 3))
    array[200, 1] = value
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=r"1 of \d+ values of mine/x/none are beyond the range"):
        importing.import_files([tmp_path / "x.npy"], tmp_path / "store", "mine", dtype=dtype)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("saver", ["npy", "npz"])
def test_arrays_stored_by_columns_or_in_big_endian_come_out_right(tmp_path, saver):
    values = planted()["layers.10"]
    for name, array in (
        ("columns", np.asfortranarray(values)),
        ("big", values.astype(">f4")),
        ("wide", values[:, ::-1]),
    ):
        np.save(tmp_path / f"{name}.npy", array) if saver == "npy" else np.savez(
            tmp_path / f"{name}.npz", **{name: array}
        )
        importing.import_files([tmp_path / f"{name}.{saver}"], tmp_path / name, "mine")
        np.testing.assert_array_equal(values_of(tmp_path / name)[name], array)  # fmt: skip


def test_groups_of_an_hdf5_file_are_parts_of_the_layer_name_and_flat_arrays_are_left_out(tmp_path):
    values = {f"vision/block/{index}": rows for index, rows in enumerate(planted().values())}
    save_hdf5(tmp_path / "x.h5", values)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["labels"] = np.arange(N_STIMULI)
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
    notes = importing.import_files([tmp_path / "x.h5"], tmp_path / "store", "mine")
    assert_holds(tmp_path / "store", values)
    assert notes[0] == "Left out labels in x.h5: its shape is (300,)."


def test_layers_are_chosen_by_name_and_pattern_and_keep_their_depth(tmp_path):
    save_file({f"l.{index}": np.full((4, 2), index, np.float32) for index in range(11)}, tmp_path / "x.safetensors")
    importing.import_files([tmp_path / "x.safetensors"], tmp_path / "store", "mine", layers=["l.10", "l.[12]"])
    assert [(fit.layer, fit.layer_depth) for fit in fits_of(tmp_path / "store")] == [
        ("l.1", 2 / 11),
        ("l.2", 3 / 11),
        ("l.10", 1.0),
    ]
    with pytest.raises(ConfigError, match=r"No layer of 11 is named 'l\.11'\. Nearest: l\.1"):
        importing.import_files([tmp_path / "x.safetensors"], tmp_path / "other", "mine", layers=["l.11"])


def test_files_are_layers_in_the_order_given_and_the_manifest_names_their_content(tmp_path):
    for name, array in planted().items():
        np.save(tmp_path / f"{name}.npy", array)
    files = [tmp_path / f"{name}.npy" for name in reversed(LAYERS)]
    importing.import_files(files, tmp_path / "store", "mine")
    assert [fit.layer for fit in fits_of(tmp_path / "store")] == list(reversed(LAYERS))
    imported = store.manifest(tmp_path / "store")["identity"]["imported"]
    assert imported == {path.name: manifests.hash_file(path) for path in files}


PEAK_OF_AN_IMPORT = """
import pathlib, re, sys, threading, time, h5py, safetensors, tensorstore, jaxalign.contracts
from jaxalign.store import activations, importing

def used():
    return int(re.search(r"RssAnon:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text()).group(1)) / 1024

def watch():
    while True:
        peaks.append(used())
        time.sleep(0.001)

activations.BUFFER_BYTES = 2**24
peaks = [used()]
threading.Thread(target=watch, daemon=True).start()
importing.import_files([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]), "mine")
print(max(peaks) - peaks[0], len(peaks))
"""


@pytest.mark.parametrize(
    "kind", ["npy", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("npz", "safetensors", "h5"))]
)
def test_import_needs_memory_for_blocks_and_not_for_the_file(tmp_path, kind):
    """256 MiB in the file, shards and blocks of 16 MiB; pages of a mapped file are the system's and not counted."""
    path, rows = tmp_path / f"x.{kind}", np.empty((65536, 1024), np.float32)
    rows[:] = np.arange(65536, dtype=np.float32)[:, None]
    savers = {"npy": np.save, "npz": lambda path, rows: np.savez(path, x=rows)}
    savers |= {"safetensors": lambda path, rows: save_file({"x": rows}, path)}
    savers.get(kind, lambda path, rows: save_hdf5(path, {"x": rows}))(path, rows)
    words = [sys.executable, "-c", PEAK_OF_AN_IMPORT, path, tmp_path / "store"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    grown, n_looks = map(float, done.stdout.split())
    assert grown < 128 and n_looks > 50, "MiB, and looks at it"
    fit = Fit("mine", "", "x", 1.0, "none", 1024)
    np.testing.assert_array_equal(store.read(tmp_path / "store", fit, slice(65000, 65010)), rows[65000:65010])


# Import: stimulus ids


def id_file(path, ids):
    if path.suffix == ".csv":
        path.write_text("\ufeffrun,stimulus_id\r\n" + "".join(f'1,"{name}"\r\n' for name in ids), encoding="utf-8")
    elif path.suffix == ".npy":
        np.save(path, np.array(ids))
    else:
        path.write_text("\n".join(ids), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "txt", "npy"])
def test_ids_are_read_from_csv_lines_and_arrays(tmp_path, kind):
    np.save(tmp_path / "x.npy", planted()["layers.2"])
    ids = id_file(tmp_path / f"ids.{kind}", IDS)
    notes = importing.import_files([tmp_path / "x.npy"], tmp_path / "store", "mine", ids=ids)
    assert store.stimulus_ids(tmp_path / "store") == tuple(IDS)
    assert notes == [f"Stimulus ids: read from ids.{kind}."]
    assert store.manifest(tmp_path / "store")["identity"]["stimulus_ids"] == {ids.name: manifests.hash_file(ids)}


def test_ids_beside_the_arrays_or_named_are_taken_and_lists_that_differ_are_refused(tmp_path):
    for name, ids in (("a", IDS), ("b", IDS[::-1])):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / f"{name}.npy", planted()["layers.2"])
        id_file(tmp_path / name / "stimulus_ids.txt", ids)
    importing.import_files([tmp_path / "b"], tmp_path / "one", "mine")
    assert store.stimulus_ids(tmp_path / "one") == tuple(IDS[::-1])
    both = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(DataError, match="2 lists of stimulus ids were found and they differ"):
        importing.import_files(both, tmp_path / "two", "mine")
    importing.import_files(both, tmp_path / "two", "mine", ids=tmp_path / "a" / "stimulus_ids.txt")
    assert store.stimulus_ids(tmp_path / "two") == tuple(IDS)


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        ("ids.txt", [*IDS[:-1], IDS[4]], r"stimulus id 'bild 4' at places 4 and 299 \(1 of 300"),
        ("ids.csv", [*IDS[:-1], ""], "empty stimulus id at place 299 of 300"),
        ("ids.txt", IDS[:-2], r"298 stimulus ids \(read from ids\.txt\) and the features have 300 rows"),
        ("ids.json", IDS, r"use one of \.csv, \.txt, \.npy"),
        ("ids.npy", [[name] for name in IDS], r"shape \(300, 1\)"),
    ],
)
def test_ids_that_do_not_fit_are_refused_with_numbers(tmp_path, name, ids, message):
    np.save(tmp_path / "x.npy", planted()["layers.2"])
    path = id_file(tmp_path / name, ids) if name != "ids.json" else tmp_path / name
    with pytest.raises(DataError, match=message):
        importing.import_files([tmp_path / "x.npy"], tmp_path / "store", "mine", ids=path)


def test_a_csv_without_the_column_names_the_nearest(tmp_path):
    np.save(tmp_path / "x.npy", planted()["layers.2"])
    (tmp_path / "ids.csv").write_text("stimulus,run\na,1\n")
    with pytest.raises(DataError, match=r"2 columns and none is stimulus_id\. Nearest: stimulus"):
        importing.import_files([tmp_path / "x.npy"], tmp_path / "store", "mine", ids=tmp_path / "ids.csv")
    with pytest.raises(DataError, match="does not exist"):
        importing.import_files([tmp_path / "x.npy"], tmp_path / "store", "mine", ids=tmp_path / "no.csv")


# Import: what is refused


def save_objects(path):
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def save_bad_archive(path):
    np.savez(path, x=np.ones((300, 40), np.float32))
    content = bytearray(path.read_bytes())
    content[30_000] ^= 1
    path.write_bytes(content)


def save_bad_packed(path):
    np.savez_compressed(path, x=np.random.default_rng(0).standard_normal((300, 40)))
    content = bytearray(path.read_bytes())
    content[30_000] ^= 1
    path.write_bytes(content)


def save_short(path):
    np.save(path, np.ones((300, 40), np.float32))
    path.write_bytes(path.read_bytes()[:-4])


def save_short_member(path):
    np.save(path.with_name("inner.npy"), np.ones((300, 40), np.float32))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", path.with_name("inner.npy").read_bytes()[:-4])


def save_tokens(path):
    with h5py.File(path, "w") as file:
        file["x"], file["y/z"] = np.ones((300, 7), np.float32), np.ones((300, 7, 4), np.float32)


REFUSALS = {
    "tokens.npy": (lambda path: np.save(path, np.ones((300, 7, 4), np.float32)), r"\(300, 7, 4\): tokens must be pooled"),
    "tokens.h5": (save_tokens, r"y/z .* \(300, 7, 4\): tokens"),
    "maps.npz": (lambda path: np.savez(path, x=np.ones((300, 3, 2, 2))), r"pool or flatten"),
    "single.npy": (lambda path: np.save(path, np.ones(300)), r"x\[:, None\] for a single feature"),
    "flat.npz": (lambda path: np.savez(path, x=np.ones(300)), r"holds no array of shape"),
    "none.npz": (lambda path: np.savez(path), r"holds no array of shape"),
    "empty.npy": (lambda path: np.save(path, np.ones((0, 4))), r"has shape \(0, 4\)"),
    "objects.npy": (save_objects, "array of Python objects, which only a pickle can hold"),
    "objects.npz": (lambda path: np.savez(path, x=np.array([{}, None], dtype=object)), "array of Python objects"),
    "words.npy": (lambda path: np.save(path, np.array([["a", "b"]])), "dtype <U1: save float32"),
    "complex.npy": (lambda path: np.save(path, np.ones((3, 2), complex)), "dtype complex128"),
    "long.npy": (lambda path: np.save(path, np.ones((3, 2), np.int64)), "dtype int64"),
    "bits.npy": (lambda path: np.save(path, np.ones((3, 2), ml_dtypes.bfloat16)), "dtype (\\|V2|void16)"),
    "rows.npz": (lambda path: np.savez(path, x=np.ones((300, 2)), y=np.ones((299, 2))), "y .* has 299 rows and x .* has 300"),
    "bad.npz": (save_bad_archive, "CRC"),
    "packed.npz": (save_bad_packed, "x in .*packed.npz"),
    "short.npy": (save_short, "short.npy cannot be read"),
    "short.npz": (save_short_member, "another number of values than its header says"),
    "torn.npy": (lambda path: path.write_bytes(b"\x93NUMPY"), "cannot be read"),
    "zero.npy": (lambda path: path.write_bytes(b""), "cannot be read"),
    "zero.npz": (lambda path: path.write_bytes(b""), "cannot be read"),
    "zero.h5": (lambda path: path.write_bytes(b""), "cannot be read"),
    "zero.safetensors": (lambda path: path.write_bytes(b""), "no whole safetensors file"),
    "edited.safetensors": (lambda path: save_file(planted(), path, {"jaxalign.fits": '{"layers.2": 3}'}), "were edited"),
    "broken.safetensors": (lambda path: save_file(planted(), path, {"jaxalign.fits": "{"}), "cannot be read"),
    "model.pt": (lambda path: path.write_bytes(b"x"), "pickle of torch, .* safetensors.torch.save_file"),
    "model.pkl": (lambda path: path.write_bytes(b"x"), "is a pickle, which can run code"),
    "model.mat": (lambda path: path.write_bytes(b"x"), "h5write"),
    "model.csv": (lambda path: path.write_bytes(b"x"), "numpy.loadtxt"),
    "model.xyz": (lambda path: path.write_bytes(b"x"), r"use one of \.npy"),
    "folder": (lambda path: path.mkdir(), "holds no file that can be imported"),
    "nowhere.npy": (lambda path: None, "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_features_is_refused_with_advice(tmp_path, name):
    make, message = REFUSALS[name]
    make(tmp_path / name)
    with pytest.raises(DataError, match=message):
        importing.import_files([tmp_path / name], tmp_path / "store", "mine")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_nan_and_inf_are_named_by_layer_row_and_column_unless_allowed(tmp_path, value):
    values = planted()
    values["layers.10"][217, 4] = value
    np.savez(tmp_path / "x.npz", **values)
    with pytest.raises(
        DataError, match=r"layers\.10 in .* has (nan|-inf) at row 217, column 4 .* allow_nonfinite=true"
    ):
        importing.import_files([tmp_path / "x.npz"], tmp_path / "store", "mine")
    importing.import_files([tmp_path / "x.npz"], tmp_path / "store", "mine", allow_nonfinite=True)
    assert_holds(tmp_path / "store", values)


def test_a_layer_that_is_in_two_files_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.ones((3, 2), np.float32))
    with pytest.raises(DataError, match=r"The layer x is in .*a/x\.npy and in .*b/x\.npy"):
        importing.import_files([tmp_path / "a", tmp_path / "b"], tmp_path / "store", "mine")


def test_names_sort_as_people_count():
    names = ["l.10.b", "l.9", "l.1", "a10", "a9b", "10", "9", "", "²"]
    expected = ["", "9", "10", "a9b", "a10", "l.1", "l.9", "l.10.b", "²"]
    assert sorted(names, key=readers.natural) == expected


# Export


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("poolings", [("mean",), ("mean", "last")])
def test_safetensors_and_back_gives_equal_stores(tmp_path, cli, dtype, poolings):
    fits = write(tmp_path / "store", dtype, poolings=poolings)
    code, out, err = cli("export", "store", "to=x.safetensors")
    assert (code, err) == (0, "") and f"{len(fits)} tensors of 300 stimuli, {dtype}" in out
    code, _, err = cli("import", "x.safetensors", "to=again", "model=tiny", f"revision={'a' * 40}")
    assert (code, err) == (0, "") and fits_of(tmp_path / "again") == fits
    assert store.stimulus_ids(tmp_path / "again") == tuple(IDS)
    for fit in fits:
        one, other = store.read(tmp_path / "store", fit), store.read(tmp_path / "again", fit)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


def test_others_read_the_safetensors_file_with_its_metadata(tmp_path, cli):
    write(tmp_path / "store")
    cli("export", "store", "to=x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "numpy") as file:
        for name, values in planted().items():
            np.testing.assert_array_equal(file.get_tensor(name), values)
        words = file.metadata()
    assert (words["model"], words["revision"]) == ("tiny", "a" * 40)
    assert words["stimulus_ids_sha256"] == store.manifest(tmp_path / "store")["stimulus_ids_sha256"]
    assert json.loads(words["jaxalign.fits"])["layers.2"] == {
        "layer": "layers.2",
        "layer_depth": 0.0,
        "pooling": "mean",
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy_and_back_gives_equal_values(tmp_path, cli, dtype):
    write(tmp_path / "store", dtype)
    code, out, err = cli("export", "store", "to=arrays")
    assert (code, err) == (0, "") and "2 arrays of 300 stimuli" in out and "stimulus_ids.txt" in out
    assert np.load(tmp_path / "arrays" / "layers.2.npy").dtype == dtype
    assert cli("import", "arrays", "to=again", "model=tiny")[0] == 0
    assert_holds(tmp_path / "again", values_of(tmp_path / "store"), dtype)
    assert store.stimulus_ids(tmp_path / "again") == tuple(IDS)


def test_bfloat16_goes_to_npy_only_by_way_of_float32(tmp_path, cli):
    write(tmp_path / "store", "bfloat16")
    code, _, err = cli("export", "store", "to=arrays")
    assert code == 3 and "dtype=float32, which is exact" in err and not (tmp_path / "arrays").exists()
    assert cli("export", "store", "to=arrays", "dtype=float32")[0] == 0
    np.testing.assert_array_equal(
        np.load(tmp_path / "arrays" / "layers.2.npy"), values_of(tmp_path / "store")["layers.2"].astype(np.float32)
    )


def test_export_of_some_layers_and_refusals(tmp_path, cli):
    write(tmp_path / "store")
    assert cli("export", "store", "to=arrays", "layers=*.10")[0] == 0
    assert sorted(path.name for path in (tmp_path / "arrays").iterdir()) == ["layers.10.npy", "stimulus_ids.txt"]
    code, _, err = cli("export", "store", "to=other", "layers=layers.3")
    assert code == 2 and "Nearest: layers." in err
    (tmp_path / "x.safetensors").write_text("mine")
    code, _, err = cli("export", "store", "to=x.safetensors")
    assert code == 3 and "not overwritten" in err and (tmp_path / "x.safetensors").read_text() == "mine"
    for words in (
        ("store",),
        ("store", "store", "to=y"),
        ("store", "to=y", "format=mat"),
        ("store", "to=y", "dtype=int8"),
    ):
        assert cli("export", *words)[0] == 2


def test_row_numbers_are_not_exported_as_ids(tmp_path, cli):
    np.save(tmp_path / "x.npy", planted()["layers.2"])
    code, out, _ = cli("import", "x.npy", "to=store", "model=mine")
    assert code == 0 and "row numbers" in out
    code, out, _ = cli("export", "store", "to=arrays")
    assert code == 0 and "stimulus_ids.txt is not written" in out
    assert [path.name for path in (tmp_path / "arrays").iterdir()] == ["x.npy"]


def test_a_damaged_store_is_not_exported(tmp_path, cli):
    write(tmp_path / "store")
    shard = tmp_path / "store" / "001-layers-10-mean" / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-100])
    for target in ("x.safetensors", "arrays"):
        assert cli("export", "store", f"to={target}")[0] == 3
    assert not [path for path in tmp_path.iterdir() if path.name in ("x.safetensors", "arrays", ".x.safetensors.part")]


# The command line of import


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=s", "model=m"], "No file or folder is named"),
        (["x.npy", "model=m"], "to= is missing"),
        (["x.npy", "to=s"], "model= is missing"),
        (["x.npy", "to=s", "model=m", "layer=a"], "no option 'layer' here. Nearest: layers"),
        (["x.npy", "to=s", "to=t", "model=m"], "to= is given 2 times"),
        (["x.npy", "to=s", "model=m", "allow_nonfinite=perhaps"], "true or false"),
    ],
)
def test_wrong_words_are_configuration_errors(cli, words, message):
    code, _, err = cli("import", *words)
    assert code == 2 and message in err


def test_a_store_is_not_imported_over(tmp_path, cli):
    np.save(tmp_path / "x.npy", planted()["layers.2"])
    assert cli("import", "x.npy", "to=store", "model=mine")[0] == 0
    code, _, err = cli("import", "x.npy", "to=store", "model=mine")
    assert code == 3 and "never overwritten" in err


# Verify


def test_verify_says_what_each_whole_store_holds(tmp_path, cli):
    write(tmp_path / "stores" / "one")
    write(tmp_path / "stores" / "two", "bfloat16")
    for words in (["stores"], ["stores/one", "stores/two"]):
        code, out, err = cli("verify", *words)
        assert (code, err) == (0, "") and len(out.splitlines()) == 2
        assert "tiny (aaaaaaaaaaaa), 2 fits, 300 stimuli, float32, " in out.splitlines()[0]
        assert "bfloat16" in out.splitlines()[1] and "bytes" in out


def test_verify_checks_everything_and_then_names_every_damage(tmp_path, cli):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / "stores" / name)
    (tmp_path / "stores" / "a" / "stimulus_ids.json").unlink()
    (tmp_path / "stores" / "c" / "manifest.json").unlink()
    (tmp_path / "stores" / "notes").mkdir()
    code, out, err = cli("verify", "stores")
    assert code == 3 and "2 of 4 folders are damaged" in err
    assert "stimulus_ids.json is missing" in err and "it is not finished" in err
    assert [line.split()[0] for line in out.splitlines()] == ["DAMAGED", "whole", "DAMAGED", "whole"]


def test_verify_of_nothing(cli, tmp_path):
    assert cli("verify")[0] == 2
    code, _, err = cli("verify", "nowhere")
    assert code == 3 and "does not exist" in err
    (tmp_path / "empty").mkdir()
    assert cli("verify", "empty")[0] == 3


def test_verify_hashes_the_units_of_a_run_again(tmp_path, cli):
    folder = tmp_path / "outputs"
    (folder / "units").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    for name in ("u1", "u2"):
        path = folder / "units" / f"{name}.parquet"
        path.write_bytes(name.encode())
        files = {f"units/{name}.parquet": journal.file_hash(path)}
        journal.append(folder, {"unit_id": name, "run_hash": "r", "files": files})
    code, out, _ = cli("verify", "outputs")
    assert code == 0 and "2 of 2 journalled units are whole" in out
    (folder / "units" / "u2.parquet").write_bytes(b"u3")
    code, _, err = cli("verify", "outputs")
    assert code == 3 and "1 of 2 units are missing or changed, first u2" in err


# A store as a model


@pytest.fixture
def stored(tmp_path):
    write(tmp_path / "store", poolings=("mean", "last"))
    return Stored(path=str(tmp_path / "store"), pooling=["mean"])


def test_a_store_of_the_same_stimuli_is_read_as_it_is(stored):
    found = stream.stored_fits(stored, IDS)
    assert [one.fit.layer for one in found] == list(LAYERS) and {one.fit.model for one in found} == {"tiny"}
    for one in found:
        assert one.rows is None and one.note == ""
        values = stream.read_fit(one.folder, one.stored, one.rows)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, planted()[one.fit.layer])


@pytest.mark.parametrize("order", [list(range(N_STIMULI))[::-1], [150, 7, 260, 133]])
def test_rows_are_found_by_stimulus_id_in_another_order_or_a_superset(stored, order):
    found = stream.stored_fits(stored, [IDS[row] for row in order])
    for one in found:
        assert one.rows.tolist() == order and "matched by stimulus id" in one.note
        np.testing.assert_array_equal(
            stream.read_fit(one.folder, one.stored, one.rows), planted()[one.fit.layer][order]
        )


def test_stimuli_that_the_store_lacks_are_counted_and_named(stored):
    with pytest.raises(DataError, match=r"300 stimuli \('bild 0', ...\) and lacks 2 of the 302 .* first 'x', 'y'"):
        stream.stored_fits(stored, [*IDS, "x", "y"])


def test_a_name_relabels_the_table_and_patterns_choose_layers(stored):
    entry = Stored(stored.path, name="renamed", layers=["*.10"], pooling=())
    found = stream.stored_fits(entry, IDS)
    assert [one.fit.name for one in found] == ["renamed/layers.10/mean", "renamed/layers.10/last"]
    assert stream.read_fit(found[1].folder, found[1].stored, None).max() == planted()["layers.10"].max() + np.float32(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("layers.3",)}, r"2 layers and none is 'layers\.3'\. Nearest: layers\."),
        ({"pooling": ("max",)}, "no pooling 'max'"),
        ({"path": ""}, r"set model\.stored\.path"),
    ],
)
def test_what_the_store_has_not_is_a_configuration_error(stored, change, message):
    with pytest.raises(ConfigError, match=message):
        stream.stored_fits(Stored(**{**vars(stored), **change}), IDS)


def test_the_identity_of_a_stored_fit_follows_its_content(tmp_path, stored):
    before = [one.identity for one in stream.stored_fits(stored, IDS)]
    shutil.copytree(stored.path, tmp_path / "copy")
    assert [
        one.identity for one in stream.stored_fits(Stored(str(tmp_path / "copy"), pooling=("mean",)), IDS)
    ] == before
    assert before[0]["sha256"] != before[1]["sha256"]
    json.dumps(before)


def test_a_store_without_ids_is_read_when_its_hash_agrees_and_refused_else(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxalign.store.activations.write_stimulus_ids", lambda folder, ids: None)
    write(tmp_path / "store")
    entry = Stored(str(tmp_path / "store"))
    assert stream.stored_fits(entry, IDS)[0].rows is None
    store.verify(tmp_path / "store")
    with pytest.raises(DataError, match="only a hash of its 300 stimulus ids"):
        stream.stored_fits(entry, IDS[::-1])


# Many small reads


def test_small_reads_parse_the_manifest_once_and_see_a_new_one(tmp_path, monkeypatch):
    fits = write(tmp_path / "store")
    n_parsed = []
    parse = manifests._parse
    monkeypatch.setattr(manifests, "_parse", lambda path, text: n_parsed.append(path) or parse(path, text))
    for start in range(0, N_STIMULI, 10):
        store.read(tmp_path / "store", fits[0], slice(start, start + 10))
    assert len(n_parsed) == 1
    content = (tmp_path / "store" / "manifest.json").read_bytes()
    (tmp_path / "store" / "manifest.json").write_bytes(content.replace(b"float32", b"float16"))
    os.utime(tmp_path / "store" / "manifest.json", ns=(1, 1))
    with pytest.raises(DataError, match="sha256 is not the one it states"):
        store.read(tmp_path / "store", fits[0])
