"""The same bytes of results on any number of devices, at one tile size: 8 simulated devices in every arrangement."""

import json

import jax
import makers
import numpy as np
import pytest

from jaxalign import Correlation, Ridge, Rsa, Similarity
from jaxalign.contracts import Average, CeilingConfig, Fit, MeshConfig, RdmSet, Recording, RunConfig
from jaxalign.errors import ConfigError
from jaxalign.models.given import Metadata
from jaxalign.runtime import mesh, run
from jaxalign.runtime.inputs import Inputs

MESHES = ((2, 1), (4, 1), (8, 1), (4, 2), (1, 4))
N_STIMULI = 22
CHANNELS = ("Fz", "Cz", "Pz", "Oz")
METRICS = {
    "ridge": Ridge(n_outer=3, n_inner=2, n_permutations=8),
    "rsa": Rsa(n_folds=2, n_permutations=8),
    "correlation": Correlation(n_permutations=8),
}

WAYS = {
    "tall": Ridge(n_outer=2, n_inner=2, n_permutations=4),
    "loo": Ridge(n_outer=2, n_inner=2, choose_by="loo", n_permutations=4),
    "dense": Ridge(
        n_outer=2, n_inner=2, alphas="given", alpha_values=tuple(np.geomspace(0.1, 1e3, 60)), n_permutations=4
    ),
    "cholesky": Ridge(
        n_outer=2, n_inner=2, alphas="given", alpha_values=(1.0, 30.0), solver="cholesky", n_permutations=4
    ),
}
"""Ways of a ridge that QUICK and the slow rest below do not cover."""

pytestmark = pytest.mark.usefixtures("strict", "devices")


def recording(subject, is_split):
    """24 targets per subject: 6 bins of 4 channels. With a given test set, its trials are kept."""
    rng = np.random.default_rng(subject)
    starts = 0.02 * np.arange(6)
    is_test = np.arange(N_STIMULI) >= (14 if is_split else N_STIMULI)
    trials = rng.standard_normal((8, 2, 4, 6)).astype(np.float32) if is_split else None
    values = rng.standard_normal((N_STIMULI, 4, 6)).astype(np.float32)
    if trials is not None:
        values[is_test] = trials.mean(1)
    return Recording(
        dataset="devices",
        subject=f"{subject:02d}",
        stimulus_ids=tuple(f"stimulus{index}" for index in range(N_STIMULI)),
        values=values,
        channels=CHANNELS,
        starts_s=starts,
        stops_s=starts + 0.02,
        unit="V",
        n_repetitions=np.where(is_test, 2, 1).astype(np.int32),
        is_test=is_test,
        positions=np.full((4, 3), np.nan),
        trials=trials,
    )


def inputs_of(is_split=False):
    """2 subjects, 5 layers of different widths, 3 single columns."""
    rng = np.random.default_rng(0)
    widths = (3, 30, 5, 7, 4, 1, 1, 1)
    fits = [Fit("m" if width > 1 else "c", "", str(place), 0.0, "none", width) for place, width in enumerate(widths)]
    features = [rng.standard_normal((N_STIMULI, width)).astype(np.float32) for width in widths]
    owners = [fit.model for fit in fits]
    brain = [recording(subject, is_split) for subject in (1, 2)]
    return Inputs(brain, fits, features, [False] * len(fits), owners, None, {"data": "made here", "split": is_split})


def rdm_inputs():
    """RDMs on both sides: 3 subjects, 5 models."""
    upper = np.triu_indices(12, 1)
    rdms = np.stack([makers.rdm(12, seed)[upper] for seed in range(8)]).astype(np.float32)
    ids = tuple(map(str, range(12)))
    brain = RdmSet("devices", ids, ("01", "02", "03"), rdms[:3])
    fits = [Fit(f"model{index}", "", "rdm", 0.0, "none", 0) for index in range(5)]
    return Inputs(brain, fits, list(rdms[3:]), [True] * 5, ["m"] * 5, None, {"data": "made here"})


def request(metric, shape, targets_per_call=8, fits_per_call=2):
    """Tiles of 8 targets (4 groups of 2 subjects): 24 targets and 5 fits leave padding in both directions."""
    averages = [Average("early", ["Pz", "Oz"], 0.0, 0.06), Average("late", ["Fz"], 0.06, 0.12)]
    return RunConfig(
        model={"m": Metadata(), "c": Metadata()},
        metric={metric: METRICS[metric]},
        dataset=Metadata("devices"),
        score={metric: ["c" if metric == "correlation" else "m"]},
        averages=averages,
        ceiling=CeilingConfig(n_splits=2),
        mesh=MeshConfig(*shape, None, fits_per_call, targets_per_call),
        report=False,
    )


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Do a run of given inputs on a mesh. -> function giving the table's hash and the summary"""

    def call(inputs, asked, name=None):
        monkeypatch.setattr(run, "gather", lambda *_: inputs)
        folder = tmp_path / (name or f"{asked.mesh.fit}x{asked.mesh.target}")
        summary = run.execute(asked, folder, lambda *_: None)
        files = {path.name: path.read_bytes() for path in (folder / "units").iterdir()}
        return makers.table_hash(folder), json.dumps(summary, sort_keys=True), files

    return call


# What every run of the tests covers; the slow rest covers all arrangements of all metrics with and without a test set.
QUICK = {
    "folds": {"ridge": ((4, 2),), "rsa": ((4, 2),), "correlation": MESHES},
    "test set": {"ridge": ((4, 2),), "rsa": (), "correlation": ((4, 2),)},
}


def cases():
    """Every metric on every arrangement, cross-validated and with a given test set."""
    for split, of_metric in QUICK.items():
        for metric, quick in of_metric.items():
            for shape in MESHES:
                name = f"{metric}-{split}-{shape[0]}x{shape[1]}"
                marks = [] if shape in quick else [pytest.mark.slow]
                yield pytest.param(metric, split == "test set", shape, id=name, marks=marks)


@pytest.mark.parametrize(("metric", "is_split", "shape"), list(cases()))
def test_any_arrangement_of_devices_gives_the_bytes_of_one(execute, metric, is_split, shape):
    """Also one device itself, for which XLA has another pipeline than for several: it must not show."""
    inputs = inputs_of(is_split)
    expected = execute(inputs, request(metric, (1, 1)))
    assert len(expected[2]) > 8, "several tiles and blocks of fits"
    found = execute(inputs, request(metric, shape))
    assert found[0] == expected[0], "the table"
    assert found[1] == expected[1], "the summary"
    assert found[2] == expected[2], "the units with their maxima"


def way_cases():
    """Every way on every arrangement; every run of the tests has the largest of one way."""
    for way in WAYS:
        for shape in ((2, 1), (4, 1), (8, 1), (4, 2)):
            marks = [] if way == "loo" and shape == (2, 1) else [pytest.mark.slow]
            yield pytest.param(way, shape, id=f"{way}-{shape[0]}x{shape[1]}", marks=marks)


@pytest.mark.parametrize(("way", "shape"), list(way_cases()))
def test_every_way_of_a_ridge_gives_the_bytes_of_one_device(execute, monkeypatch, way, shape):
    monkeypatch.setitem(METRICS, "ridge", WAYS[way])
    inputs = inputs_of()
    # Layers narrower than folds are scored by held-out Gram matrices; one of 30 units makes splits wide.
    width = 3 if way in ("tall", "dense") else 30
    inputs.features[1] = inputs.features[1][:, :width]
    inputs.fits[1] = Fit("m", "", "1", 0.0, "none", width)
    expected = execute(inputs, request("ridge", (1, 1)))
    assert execute(inputs, request("ridge", shape)) == expected


GEOMETRY = {
    "cka": Similarity(n_folds=2, n_permutations=8),
    "dcor": Similarity("dcor", n_folds=2, n_permutations=8),
    "mutual_knn": Similarity("mutual_knn", n_neighbours=3, n_folds=2, n_permutations=8),
    "cknna": Similarity("cknna", n_neighbours=3, n_folds=2, n_permutations=8),
    "mi_gaussian": Similarity("mi_gaussian", n_folds=2, n_permutations=8),
    "procrustes": Similarity("procrustes", n_folds=2, n_permutations=8),
    "tau-b": Rsa("tau-b", n_folds=2, n_permutations=8),
    "whitened": Rsa("corr_cov", distance="euclidean", n_folds=2, n_permutations=8),
}


def test_a_biased_measure_ranks_no_models_and_says_so(execute, monkeypatch):
    monkeypatch.setitem(METRICS, "rsa", GEOMETRY["mutual_knn"])
    summary = json.loads(execute(inputs_of(), request("rsa", (1, 1)))[1])
    assert summary["findings"][0]["ranking"] == []
    assert any("mutual_knn of noise lies above 0" in warning for warning in summary["warnings"])


def geometry_cases():
    """Every measure on several arrangements; every run of the tests has one of them."""
    for name in GEOMETRY:
        for shape in ((2, 1), (4, 2), (1, 4), (8, 1)):
            marks = [] if (name, shape) == ("cka", (4, 2)) else [pytest.mark.slow]
            yield pytest.param(name, shape, id=f"{name}-{shape[0]}x{shape[1]}", marks=marks)


@pytest.mark.parametrize(("name", "shape"), list(geometry_cases()))
def test_every_measure_gives_the_bytes_of_one_device(execute, monkeypatch, name, shape):
    monkeypatch.setitem(METRICS, "rsa", GEOMETRY[name])
    expected = execute(inputs_of(), request("rsa", (1, 1)))
    assert execute(inputs_of(), request("rsa", shape)) == expected


def test_given_rdms_on_any_arrangement(execute):
    expected = execute(rdm_inputs(), request("rsa", (1, 1)))
    assert execute(rdm_inputs(), request("rsa", (4, 2))) == expected


@pytest.mark.parametrize("metric", ["ridge", "rsa"])
def test_a_run_may_go_on_with_other_devices(execute, tmp_path, metric):
    """A third of the files of units are lost; what is computed on another mesh fits to what is there."""
    expected = execute(inputs_of(), request(metric, (2, 1)), "run")
    for shape in ((1, 1), (4, 2)):
        for lost in sorted((tmp_path / "run" / "units").iterdir())[::3]:
            lost.unlink()
        assert execute(inputs_of(), request(metric, shape), "run") == expected, shape


def test_padding_is_in_no_family_and_no_row(execute):
    """One fit against one tile of cells and one of averages, beside 1 dummy fit and 3 dummy tiles."""
    inputs = inputs_of()
    inputs.model_of[:] = ["other"] * 7 + ["c"]
    expected = execute(inputs, request("correlation", (1, 1), 64, 1))
    found = execute(inputs, request("correlation", (2, 4), 64, 1))
    assert found == expected and len(found[2]) == 2 * 2
    finding = json.loads(found[1])["findings"][0]
    assert finding["family_size"] == 24, "4 channels x 6 bins of the mean over subjects"


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"mesh\.fit=4 x mesh\.target=3 needs 12 devices; there are 8"):
        mesh.make_mesh(MeshConfig(4, 3))


@pytest.mark.parametrize(
    ("config", "shape"), [((None, 1), (8, 1)), ((None, 2), (4, 2)), ((3, 1), (3, 1)), ((None, 8), (1, 8))]
)
def test_devices_that_are_not_named_go_to_the_fit_axis(config, shape):
    assert mesh.shape_of(mesh.make_mesh(MeshConfig(*config))) == shape


def test_responses_are_split_over_the_target_axis_and_not_copied():
    """8 devices hold one copy of the responses together, not one each."""
    placed = mesh.place(mesh.make_mesh(MeshConfig(1, 8)), "responses", np.zeros((10, 32), np.float32))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(10, 4)}
    placed = mesh.place(mesh.make_mesh(MeshConfig(8, 1)), "features", np.zeros((8, 10, 3), np.float32))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(1, 10, 3)}
    assert len(jax.devices()) == 8
