"""Arrays, tables and RDM files of users come back as they were written, whatever the format; what does not fit is refused."""

import h5py
import makers
import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
import xarray as xr

from jaxalign.commands.composed import compose
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.arrays import Arrays
from jaxalign.sources.checks import check_same_stimuli
from jaxalign.sources.rdm_files import RdmFile

N, CHANNELS, TIMES = 6, ("Cz", "Pz", "Oz"), 10
IDS = tuple(f"pic{index}" for index in range(N))


@pytest.fixture
def values(rng):
    """(n_stimuli, n_repetitions, n_channels, n_times) float32"""
    return rng.standard_normal((N, 4, len(CHANNELS), TIMES)).astype(np.float32)


def ids_file(folder, ids=IDS, **columns):
    path = folder / "ids.csv"
    pd.DataFrame({"stimulus_id": ids, **columns}).to_csv(path, index=False)
    return str(path)


def write(folder, kind, values):
    """One array in each format. -> path, name of the variable"""
    path = folder / f"x{kind}"
    if kind == ".npy":
        np.save(path, values)
    elif kind == ".npz":
        np.savez(path, eeg=values, other=np.zeros(3))
    elif kind == ".h5":
        with h5py.File(path, "w") as file:
            file["group/eeg"] = values
            file["other"] = np.zeros(3)
    elif kind == ".zarr":
        for name, array in (("eeg", values), ("other", np.zeros(3, np.float32))):
            store = {"driver": "file", "path": str(path / name)}
            ts.open({"driver": "zarr3", "kvstore": store}, create=True, dtype=array.dtype, shape=array.shape).result()[
                ...
            ] = array
    elif kind == ".nc":
        xr.Dataset({"eeg": (("a", "b", "c", "d"), values), "other": ("z", np.zeros(3))}).to_netcdf(
            path, engine="h5netcdf"
        )
    return str(path), {".npy": "", ".h5": "group/eeg"}.get(kind, "eeg")


@pytest.mark.parametrize("kind", [".npy", ".npz", ".h5", ".zarr", ".nc"])
def test_an_array_comes_back_from_every_format(tmp_path, values, kind):
    path, variable = write(tmp_path, kind, values)
    source = Arrays(path=path, variable=variable, axes=("stimuli", "repetitions", "channels", "times"), sfreq_hz=50.0,
                    tmin_s=-0.1, time_bin_s=0.04, channels=CHANNELS, unit="V", test_column="test", keep_trials=True,
                    stimulus_ids=ids_file(tmp_path, test=[False] * 4 + [True] * 2, word=list("abcdef")))  # fmt: skip
    (recording,) = source.recordings()
    bins = values.reshape(N, 4, 3, 5, 2).mean(-1)
    np.testing.assert_allclose(recording.values, bins.mean(1), atol=1e-6)
    np.testing.assert_allclose(recording.trials, bins[4:], atol=1e-6)
    assert recording.values.dtype == recording.trials.dtype == np.float32
    np.testing.assert_allclose(recording.starts_s, [-0.1, -0.06, -0.02, 0.02, 0.06], atol=1e-9)
    assert recording.stimulus_ids == IDS and recording.channels == CHANNELS and recording.unit == "V"
    assert set(recording.n_repetitions) == {4} and recording.is_test.tolist() == [False] * 4 + [True] * 2
    assert recording.columns["word"].tolist() == list("abcdef") and np.isfinite(recording.positions).all()
    assert len(recording.origin["sha256"]) == 64
    (of_all,) = Arrays(**{**vars(source), "test_column": ""}).recordings()
    np.testing.assert_allclose(of_all.trials, bins, atol=1e-6)  # without a test set, those of all
    assert not of_all.is_test.any()


def test_axes_may_be_in_any_order_and_subjects_may_share_a_file(tmp_path, values, rng):
    both = np.stack([values, values + 1])
    np.save(tmp_path / "x.npy", both.transpose(3, 4, 0, 2, 1))
    axes = ("channels", "times", "subjects", "repetitions", "stimuli")
    source = Arrays(
        path=str(tmp_path / "x.npy"), axes=axes, subjects=("a", "b"), sfreq_hz=10, stimulus_ids=ids_file(tmp_path)
    )
    first, second = source.recordings()
    check_same_stimuli([first, second])
    np.testing.assert_allclose(first.values, values.mean(1), atol=1e-6)
    np.testing.assert_allclose(second.values, values.mean(1) + 1, atol=1e-6)
    assert (first.subject, second.subject) == ("a", "b") and first.channels == ("channel1", "channel2", "channel3")


def test_a_file_per_subject(tmp_path, values):
    for number in (1, 2):
        np.save(tmp_path / f"sub-{number}.npy", number * values[:, 0])
    source = Arrays(
        path=str(tmp_path / "sub-{subject}.npy"), subjects=("1", "2"), sfreq_hz=10, stimulus_ids=ids_file(tmp_path)
    )
    first, second = source.recordings()
    np.testing.assert_allclose(second.values, 2 * first.values, rtol=1e-6)


def test_blocks_change_nothing(tmp_path, values, monkeypatch):
    np.save(tmp_path / "x.npy", values)
    source = Arrays(path=str(tmp_path / "x.npy"), axes=("stimuli", "repetitions", "channels", "times"), sfreq_hz=10,
                    stimulus_ids=ids_file(tmp_path))  # fmt: skip
    (whole,) = source.recordings()
    monkeypatch.setattr("jaxalign.sources.arrays.BLOCK_BYTES", 1)
    np.testing.assert_array_equal(source.recordings()[0].values, whole.values)


def test_netcdf_and_zarr_name_their_own_axes(tmp_path, values):
    times = np.arange(TIMES) / 50 - 0.1
    coords = {"stimuli": list(IDS), "channels": list(CHANNELS), "times": times, "word": ("stimuli", list("abcdef"))}
    xr.DataArray(
        values.transpose(1, 0, 2, 3), dims=("repetitions", "stimuli", "channels", "times"), coords=coords, name="eeg"
    ).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    (recording,) = Arrays(path=str(tmp_path / "x.nc")).recordings()
    assert recording.stimulus_ids == IDS and recording.channels == CHANNELS
    np.testing.assert_allclose(recording.values, values.mean(1), atol=1e-6)
    np.testing.assert_allclose(recording.starts_s, times, atol=1e-9)
    store = {"driver": "file", "path": str(tmp_path / "x.zarr")}
    schema = {"dimension_names": ["channels", "stimuli"]}
    spec = {"driver": "zarr3", "kvstore": store, "metadata": schema}
    ts.open(spec, create=True, dtype=np.float32, shape=(3, N)).result()[...] = values[:, 0, :, 0].T
    (recording,) = Arrays(path=str(tmp_path / "x.zarr"), stimulus_ids=ids_file(tmp_path)).recordings()
    np.testing.assert_array_equal(recording.values[:, :, 0], values[:, 0, :, 0])
    assert np.isnan(recording.starts_s).all() and recording.starts_s.shape == (1,), "no time"


def test_trials_in_any_order_are_averaged_by_their_names(tmp_path, rng):
    rows = rng.permutation(np.repeat(np.arange(N), 3))
    trials = rng.standard_normal((3 * N, 3))
    np.save(tmp_path / "x.npy", trials)
    names = ids_file(tmp_path, [IDS[row] for row in rows], is_test=[str(row < 2) for row in rows])
    source = Arrays(
        path=str(tmp_path / "x.npy"),
        axes=("trials", "channels"),
        stimulus_ids=names,
        test_column="is_test",
        keep_trials=True,
    )
    (recording,) = source.recordings()
    for place, name in enumerate(recording.stimulus_ids):
        mine = rows == IDS.index(name)
        np.testing.assert_allclose(recording.values[place, :, 0], trials[mine].mean(0), atol=1e-6)
    assert recording.trials.shape == (2, 3, 3, 1) and set(recording.n_repetitions) == {3}
    np.testing.assert_allclose(recording.trials.mean(1), recording.values[recording.is_test], atol=1e-6)


def test_a_repetition_that_was_not_shown_is_nan(tmp_path, values):
    values[2, 1:], values[0, 3] = np.nan, np.nan
    np.save(tmp_path / "x.npy", values)
    source = Arrays(path=str(tmp_path / "x.npy"), axes=("stimuli", "repetitions", "channels", "times"), sfreq_hz=10,
                    stimulus_ids=ids_file(tmp_path, test=["yes", "no", "yes"] * 2))  # fmt: skip
    (recording,) = source.recordings()
    assert recording.n_repetitions.tolist() == [3, 4, 1, 4, 4, 4]
    np.testing.assert_allclose(recording.values[0], values[0, :3].mean(0), atol=1e-6)
    kept = {"test_column": "test", "keep_trials": True}
    with pytest.raises(DataError, match=r"1 of 4 stimuli were shown once, first 'pic2'; repetitions are needed"):
        Arrays(**{**vars(source), **kept}).recordings()
    values[2] = 0
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match=r"shown 3 \('pic0'\) to 4 \('pic2'\) times"):
        Arrays(**{**vars(source), **kept}).recordings()
    values[2] = np.nan
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match=r"1 of 6 stimuli are NaN in every repetition, first 'pic2'"):
        source.recordings()


# Tables.


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "feather"])
def test_a_wide_table_has_a_column_per_channel(tmp_path, values, kind):
    one = values[:, 0, :, 0].astype(float)
    table = pd.DataFrame(
        {
            "stimulus_id": IDS,
            "word": list("abcdef"),
            "test": [0, 0, 0, 0, 1, 1],
            **dict(zip(CHANNELS, one.T, strict=True)),
        }
    )
    path = tmp_path / f"x.{kind}"
    writers = {"parquet": table.to_parquet, "feather": table.to_feather}
    writers.get(kind, lambda file: table.to_csv(file, index=False, sep="," if kind == "csv" else "\t"))(path)
    (recording,) = Arrays(path=str(path), test_column="test").recordings()
    np.testing.assert_allclose(recording.values[:, :, 0], one, atol=1e-6)
    assert recording.channels == CHANNELS and recording.stimulus_ids == IDS
    assert recording.is_test.tolist() == [False] * 4 + [True] * 2 and recording.columns["word"].tolist() == list(
        "abcdef"
    )
    (recording,) = Arrays(path=str(path), channels=("Oz", "Cz")).recordings()
    np.testing.assert_allclose(recording.values[:, :, 0], one[:, [2, 0]], atol=1e-6)


def long_table(values):
    n = np.indices(values.shape).reshape(4, -1)
    return pd.DataFrame({"stimulus_id": np.array(IDS)[n[0]], "rep": n[1], "channel": np.array(CHANNELS)[n[2]],
                         "time": n[3] / 50 - 0.1, "uV": values.ravel().astype(float)})  # fmt: skip


def test_a_long_table_has_a_row_per_value(tmp_path, values, rng):
    table = long_table(values).sample(frac=1, random_state=0)
    table.to_csv(tmp_path / "x.csv", index=False)
    names = {"channel_column": "channel", "time_column": "time", "repetition_column": "rep", "value_column": "uV"}
    (recording,) = Arrays(path=str(tmp_path / "x.csv"), **names).recordings()
    rows = [IDS.index(name) for name in recording.stimulus_ids]
    columns = [CHANNELS.index(name) for name in recording.channels]
    np.testing.assert_allclose(recording.values, values.mean(1)[rows][:, columns], atol=1e-6)
    np.testing.assert_allclose(recording.starts_s, np.arange(TIMES) / 50 - 0.1, atol=1e-9)
    names["repetition_column"] = ""
    with pytest.raises(DataError, match=r"540 of 720 rows repeat a combination of stimulus_id, channel, time"):
        Arrays(path=str(tmp_path / "x.csv"), **names).recordings()
    table[table["rep"] == 0].iloc[1:].to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match=r"1 of 180 responses are NaN or Inf"):
        Arrays(path=str(tmp_path / "x.csv"), **names).recordings()


# What is refused.


def test_objects_and_pickles_are_refused(tmp_path):
    ids = ids_file(tmp_path)
    np.save(tmp_path / "x.npy", {"preprocessed_eeg_data": np.zeros(3)}, allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=np.array([None, 1]))
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04N.")
    (tmp_path / "x.pt").write_bytes(b"\x80\x04N.")
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match=r"array of Python objects, which only a pickle can hold"):
            Arrays(path=str(tmp_path / name), stimulus_ids=ids).recordings()
    for name in ("x.pkl", "x.pt"):
        with pytest.raises(DataError, match=r"is a pickle.*which can run code"):
            Arrays(path=str(tmp_path / name), stimulus_ids=ids).recordings()


@pytest.mark.parametrize("kind", [".npy", ".npz", ".h5", ".nc", ".parquet"])
def test_truncated_and_swapped_files(tmp_path, values, kind):
    path, variable = write(tmp_path, kind, values)
    if kind == ".parquet":
        pd.DataFrame({"stimulus_id": IDS, "Cz": range(N)}).to_parquet(path)
    whole = (tmp_path / f"x{kind}").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:3], b"", b"<html>not found</html>" * 9):
        (tmp_path / f"x{kind}").write_bytes(content)
        with pytest.raises(DataError, match=rf"{len(content)} bytes\) cannot be read"):
            Arrays(path=path, variable=variable, stimulus_ids=ids_file(tmp_path), sfreq_hz=10,
                   axes=("stimuli", "repetitions", "channels", "times")).recordings()  # fmt: skip


def test_a_chunk_of_zarr_that_was_lost_or_damaged_is_no_zeros(tmp_path, values):
    path, variable = write(tmp_path, ".zarr", values)
    source = Arrays(path=path, variable=variable, sfreq_hz=10, stimulus_ids=ids_file(tmp_path),
                    axes=("stimuli", "repetitions", "channels", "times"))  # fmt: skip
    (chunk,) = (one for one in (tmp_path / "x.zarr/eeg/c").rglob("*") if one.is_file())
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(DataError, match=r"cannot be read at \[0:6, 0:, 0:, 0:\].*missing or damaged"):
        source.recordings()
    chunk.unlink()
    with pytest.raises(DataError, match=r"cannot be read at \[0:6, 0:, 0:, 0:\].*missing or damaged"):
        source.recordings()
    (tmp_path / "x.zarr/eeg/zarr.json").write_text('{"node_type": "array"')
    with pytest.raises(DataError, match=r"cannot be read as \.zarr"):
        source.recordings()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": ""}, ConfigError, "dataset.path is empty"),
        ({"path": "nowhere.npy"}, DataError, "nowhere.npy was not found. Looked for"),
        ({"stimulus_ids": ""}, ConfigError, r"does not name its 6 stimuli: set dataset.stimulus_ids"),
        ({"axes": ("stimuli", "channels", "times")}, DataError, r"4 axes of sizes \(6, 4, 3, 10\), and dataset.axes names 3"),
        ({"axes": ("repetitions", "stimuli", "channels", "times")}, DataError, r"has 4 stimuli on axis 1 .* names 6"),
        ({"axes": ("stimulus", "repetitions", "channels", "times")}, ConfigError, "Nearest: stimuli"),
        ({"axes": ("stimuli", "stimuli", "channels", "times")}, ConfigError, "there twice"),
        ({"axes": ("stimuli", "trials", "channels", "times")}, ConfigError, "either stimuli or trials"),
        ({"channels": ("a", "b")}, DataError, r"has 3 channels on axis 2 .* 2 names are given"),
        ({"channels": ("a", "b", "b")}, DataError, "3 names are given, 2 of them different"),
        ({"sfreq_hz": None}, ConfigError, "10 times and does not say when"),
        ({"sfreq_hz": -1.0}, ConfigError, "above 0"),
        ({"time_bin_s": 0.15}, ConfigError, r"holds 1\.500 samples"),
        ({"test_column": "nosuch"}, DataError, "no column 'nosuch'"),
        ({"test_column": "word"}, DataError, r"column word holds 'a' \(6 of 6 such\)"),
        ({"subjects": ("1", "2")}, ConfigError, "put {subject} into dataset.path"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_numbers(tmp_path, values, changes, error, message):
    np.save(tmp_path / "x.npy", values)
    right = {"path": str(tmp_path / "x.npy"), "axes": ("stimuli", "repetitions", "channels", "times"), "sfreq_hz": 10.0,
             "stimulus_ids": ids_file(tmp_path, word=list("abcdef"))}  # fmt: skip
    with pytest.raises(error, match=message):
        Arrays(**{**right, **changes}).recordings()


def test_repeated_ids_and_several_arrays(tmp_path, values):
    np.save(tmp_path / "x.npy", values[:, 0])
    twice = ids_file(tmp_path, [*IDS[:5], "pic0"])
    with pytest.raises(
        DataError, match=r"6 stimuli have 5 different ids, and 'pic0' occurs 2 times.*name that axis trials"
    ):
        Arrays(path=str(tmp_path / "x.npy"), sfreq_hz=10, stimulus_ids=twice).recordings()
    path, _ = write(tmp_path, ".h5", values)
    with pytest.raises(DataError, match=r"holds several arrays: set dataset.variable.*2: group/eeg, other"):
        Arrays(path=path, stimulus_ids=twice).recordings()
    with pytest.raises(DataError, match=r"has no array 'eeg'. Nearest: group/eeg"):
        Arrays(path=path, variable="eeg", stimulus_ids=twice).recordings()


def test_times_in_milliseconds_or_uneven_are_refused(tmp_path, values):
    for times, message in (
        (np.arange(TIMES) * 20.0, "Seconds are needed"),
        (np.arange(TIMES) ** 2 / 50, "not evenly spaced"),
    ):
        coords = {"stimuli": list(IDS), "times": times}
        xr.DataArray(values[:, 0], dims=("stimuli", "channels", "times"), coords=coords, name="x").to_netcdf(
            tmp_path / "x.nc", engine="h5netcdf"
        )
        with pytest.raises(DataError, match=message):
            Arrays(path=str(tmp_path / "x.nc")).recordings()


def test_a_run_of_an_array_from_the_command_line(tmp_path, rng):
    """The whole way: 40 stimuli whose second channel follows a column of the table of ids."""
    from jaxalign import commands, results

    word = rng.standard_normal(40)
    values = rng.standard_normal((40, 3))
    values[:, 1] += 3 * word
    np.save(tmp_path / "x.npy", values)
    ids = ids_file(tmp_path, [f"s{index}" for index in range(40)], frequency=word)
    request = makers.request({"dataset": "arrays", "dataset.path": tmp_path / "x.npy", "dataset.axes": "[stimuli,channels]",
                              "dataset.stimulus_ids": ids, "model": "[fas]", "model.fas.columns": "[frequency]",
                              "metric": "[correlation]", "metric.correlation.n_permutations": 100, "output": tmp_path / "out"})  # fmt: skip
    assert compose(request).dataset == Arrays(
        path=str(tmp_path / "x.npy"), axes=("stimuli", "channels"), stimulus_ids=ids
    )
    assert commands.main(request) == 0
    table = results.load(tmp_path / "out")
    best = table.sort_values("value").iloc[-1]
    expected = np.corrcoef(word, values[:, 1])[0, 1]
    assert best["channel"] == "channel2" and best["value"] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(table["time_start_s"]).all()


# RDM files of others.


def test_rdms_of_rsatoolbox_come_back(tmp_path, rng):
    from rsatoolbox.rdm import RDMs

    condensed = rng.random((3, 15))
    rdms = RDMs(condensed, rdm_descriptors={"subject": ["s1", "s2", "s1"]}, pattern_descriptors={"picture": list(IDS)})
    rdms.save(str(tmp_path / "x.hdf5"), file_type="hdf5")
    found = RdmFile(path=str(tmp_path / "x.hdf5"), stimulus_descriptor="picture").rdms()
    assert found.names == ("s1", "s2") and found.stimulus_ids == IDS, "RDMs of one subject are averaged"
    np.testing.assert_allclose(found.values, [condensed[[0, 2]].mean(0), condensed[1]], rtol=1e-6)
    with pytest.raises(DataError, match=r"no RDM descriptor 'subj'. Nearest: subject"):
        RdmFile(path=str(tmp_path / "x.hdf5"), name_descriptor="subj").rdms()
    with pytest.raises(DataError, match=r"no pattern descriptor 'pictures'. Nearest: picture"):
        RdmFile(path=str(tmp_path / "x.hdf5"), stimulus_descriptor="pictures").rdms()
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(DataError, match=r"is a pickle, which can run code: save it again"):
        RdmFile(path=str(tmp_path / "x.pkl")).rdms()
    whole = (tmp_path / "x.hdf5").read_bytes()
    (tmp_path / "y.hdf5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"\({len(whole) // 2} bytes\) cannot be read as HDF5"):
        RdmFile(path=str(tmp_path / "y.hdf5")).rdms()
    with h5py.File(tmp_path / "z.hdf5", "w") as file:
        file["x"] = condensed
    with pytest.raises(DataError, match=r"has x and no dissimilarities"):
        RdmFile(path=str(tmp_path / "z.hdf5")).rdms()


def test_rdms_of_mne_rsa_come_back(tmp_path, rng):
    from mne_rsa import compute_rdm

    one = compute_rdm(rng.standard_normal((N, 8)), metric="correlation")
    np.save(tmp_path / "one.npy", one)
    ids = ids_file(tmp_path)
    found = RdmFile(path=str(tmp_path / "one.npy"), stimulus_ids=ids).rdms()
    assert found.names == ("one",) and found.stimulus_ids == IDS
    np.testing.assert_allclose(found.values, [one], rtol=1e-6)
    np.savez(tmp_path / "two.npz", a=one, b=makers.rdm(N, 1))
    found = RdmFile(path=str(tmp_path / "two.npz")).rdms()
    assert found.names == ("a", "b")
    np.testing.assert_allclose(found.values[1], makers.rdm(N, 1)[np.triu_indices(N, 1)], rtol=1e-6)
    np.save(tmp_path / "many.npy", np.stack([one, 2 * one]))
    assert RdmFile(path=str(tmp_path / "many.npy")).rdms().names == ("many0", "many1")
    np.save(tmp_path / "one.npy", one[:-1])
    with pytest.raises(DataError, match=r"14 entries are no upper triangle: 5 stimuli have 10 pairs, 6 have 15"):
        RdmFile(path=str(tmp_path / "one.npy")).rdms()
    np.save(tmp_path / "one.npy", one)
    with pytest.raises(DataError, match=r"names 5 stimuli, 5 of them different, and .* has RDMs of 6"):
        RdmFile(path=str(tmp_path / "one.npy"), stimulus_ids=ids_file(tmp_path, IDS[:5])).rdms()
