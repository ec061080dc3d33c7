"""The plan against what it plans: bytes against compiled programs, tiles against the memory, reading against the waves."""

import json
import re
import weakref
from dataclasses import replace
from functools import partial

import jax
import makers
import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxalign import Correlation, Ridge, Rsa, Similarity, commands, results, store
from jaxalign.contracts import (
    CeilingConfig,
    Features,
    Fit,
    MeshConfig,
    Null,
    Patterns,
    Rdms,
    RdmSet,
    Recording,
    Responses,
    RunConfig,
)
from jaxalign.errors import ConfigError
from jaxalign.models.given import Metadata
from jaxalign.runtime import budget, extraction, folder, mesh, outline, run, score, stream, tiles, work
from jaxalign.runtime.inputs import Bank, Inputs
from jaxalign.runtime.plan import make_plan

GIB = 1 << 30


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def rates(monkeypatch):
    """What the device can do is no matter of these tests, and takes a second to measure."""
    from jaxalign.runtime import rates

    monkeypatch.setattr(rates, "measured", lambda _: rates.Rates(1e11, 1e10, 1e10))


def recording(subject, n_stimuli, n_channels, n_times, n_test, values=None):
    starts = 0.02 * np.arange(n_times)
    if values is None:
        values = np.broadcast_to(np.float32(0), (n_stimuli, n_channels, n_times))
    return Recording(
        dataset="planned",
        subject=f"{subject:02d}",
        stimulus_ids=tuple(map(str, range(n_stimuli))),
        values=values,
        channels=tuple(f"c{index}" for index in range(n_channels)),
        starts_s=starts,
        stops_s=starts + 0.02,
        unit="V",
        n_repetitions=np.ones(n_stimuli, np.int32),
        is_test=np.arange(n_stimuli) >= n_stimuli - n_test,
        positions=np.full((n_channels, 3), np.nan),
    )


def inputs_of(n_stimuli, widths, n_subjects=1, n_channels=8, n_times=20, n_test=0):
    """Inputs that take no memory: only their shapes are planned."""
    brain = [recording(subject, n_stimuli, n_channels, n_times, n_test) for subject in range(n_subjects)]
    fits = [Fit("m", "", str(place), 0.0, "none", width) for place, width in enumerate(widths)]
    features = [np.broadcast_to(np.float32(0), (n_stimuli, width)) for width in widths]
    return Inputs(brain, fits, features, [False] * len(fits), ["m"] * len(fits), None, {})


def request(metric, **sizes):
    return RunConfig(
        model={"m": Metadata()},
        metric={"asked": metric},
        dataset=Metadata("planned"),
        mesh=MeshConfig(1, 1, **sizes),
        ceiling=CeilingConfig(n_splits=2),
        report=False,
    )


def planned(metric, n_stimuli, widths, memory_bytes=64 * GIB, kept=None, sizes=None, **shape):
    return make_plan(request(metric, **(sizes or {})), inputs_of(n_stimuli, widths, **shape), memory_bytes, kept)


# Bytes of compiled programs.


def shaped(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype), tree)


def empty(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def n_bytes(tree):
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def steps_of(plan, devices):
    """The three steps of the only analysis of a plan with the shapes of its largest call, as a run compiles them."""
    analysis, design = plan.analyses[0], plan.design[0]
    n_rows, n_subjects, tile = analysis.shape.n_rows, analysis.shape.n_subjects, analysis.tiles[0]
    width, n_fits = max(analysis.sizes.fits.items(), key=lambda item: item[0] * item[1])
    n_targets = tile.n_padded * n_subjects
    rows = shaped(tiles.local_design(analysis, design))
    features = Features(empty(n_fits, n_rows, width), empty(n_fits, dtype=np.int32))
    layout = "rdm_features" if width == 0 else "features"
    if width == 0:
        features = Rdms(empty(n_rows * (n_rows - 1) // 2, n_fits))
    if analysis.side == "patterns":
        responses = Patterns(empty(n_rows, analysis.shape.n_channels, n_targets))
    elif analysis.side == "rdms":
        responses = Rdms(empty(n_rows * (n_rows - 1) // 2, n_targets))
    else:
        responses = Responses(empty(n_rows, n_targets))
    is_of_test = analysis.metric.uses_folds and design.is_fixed_split
    n_relabelled = np.shape(design.outer.test)[-1] if is_of_test else n_rows
    null = Null(
        empty(analysis.metric.n_permutations + 1, n_relabelled, dtype=np.int32),
        shaped(tiles.aggregates(tile, n_subjects)),
        shaped(tiles.families(tile, n_subjects)),
        tiles.n_families(n_subjects),
        analysis.is_calibrated,
    )
    ours = mesh.features_step(analysis.metric, devices, layout), (features, rows)
    theirs = mesh.responses_step(analysis.metric, devices, "patterns" if analysis.side == "patterns" else "responses")
    theirs = theirs, (responses, rows)
    states = [jax.eval_shape(step, *given) for step, given in (ours, theirs)]
    both = mesh.score_step(analysis.metric, devices, null.n_families, null.is_calibrated), (*states, rows, null)
    return ours, theirs, both


def really_taken(plan, devices):
    """Most bytes on a device while the steps of a call follow each other, and the next calls wait beside it."""
    steps, taken = steps_of(plan, devices), []
    for step, given in steps:
        found = step.lower(*given).compile().memory_analysis()
        taken.append(
            found.argument_size_in_bytes
            + found.output_size_in_bytes
            + found.temp_size_in_bytes
            - found.alias_size_in_bytes
        )
    features, responses = (n_bytes(given[0]) for _, given in steps[:2])
    state, before = n_bytes(steps[2][1][0]), n_bytes(jax.eval_shape(steps[2][0], *steps[2][1]))
    # The features stay until their first call has landed; of the call before, the results.
    peak = max(taken[0], state + taken[1] + before, features + taken[2] + before)
    return peak + budget.AHEAD * (features + responses)


FEW = {"n_outer": 3, "n_inner": 3, "n_permutations": 20}
DENSE = {"alphas": "given", "alpha_values": tuple(np.geomspace(0.1, 1e3, 60))}
QUICK = {
    "ridge, tall, by Gram matrices": (Ridge(**FEW), 900, [64], {}),
    "ridge, tall, by predictions, given test set": (Ridge(n_inner=5, n_permutations=200), 300, [150], {"n_test": 60}),
    "ridge, wide": (Ridge(**FEW), 200, [1500], {}),
    "rsa, few fits": (Rsa(n_permutations=20, n_folds=0), 300, [100] * 4, {"n_times": 40}),
    "cka": (Similarity(n_permutations=20, n_folds=0), 300, [20] * 8, {}),
    "mutual_knn": (Similarity("mutual_knn", n_permutations=20, n_folds=0), 300, [20], {}),
    "correlation": (Correlation(n_permutations=500), 100, [1], {}),
    "correlation, subjects": (Correlation(n_permutations=1000), 300, [1], {"n_subjects": 10, "n_channels": 60}),
}
SLOW = {
    "ridge, leave-one-out": (Ridge(n_outer=2, choose_by="loo", n_permutations=5), 2000, [100], {"n_channels": 60}),
    "rsa": (Rsa(n_permutations=100, n_folds=2), 100, [300] * 8, {}),
    "rsa, kendall": (Rsa("tau-a", n_permutations=2, n_folds=0), 200, [50], {"n_times": 10}),
    "dcor": (Similarity("dcor", n_permutations=20, n_folds=0), 100, [200] * 4, {}),
    "ridge, tall, many rows": (Ridge(n_outer=2, n_inner=2, n_permutations=0), 4000, [100], {"n_channels": 60}),
    "ridge, tall, large tile": (Ridge(**FEW), 900, [64], {"n_channels": 60, "n_times": 30}),
    "ridge, subjects": (Ridge(**FEW), 600, [200], {"n_subjects": 3, "n_channels": 16}),
    "ridge, by predictions, large tile": (Ridge(**FEW), 300, [200], {"n_channels": 60, "n_times": 30}),
    "ridge, wide, large tile": (Ridge(**FEW), 200, [600], {"n_channels": 60, "n_times": 30}),
    "ridge, wide, leave-one-out": (Ridge(choose_by="loo", **FEW), 200, [700], {"n_channels": 30}),
    "ridge, gcv": (Ridge(choose_by="gcv", **FEW), 2000, [100], {"n_channels": 30}),
    "ridge, many penalties": (Ridge(**FEW, **DENSE), 400, [64], {}),
    "ridge, many penalties, by r": (Ridge(criterion="pearson_r", **FEW, **DENSE), 200, [300], {"n_channels": 60}),
    "ridge, cholesky": (
        Ridge(alphas="given", alpha_values=(1.0, 30.0), solver="cholesky", **FEW),
        400,
        [128],
        {"n_channels": 30},
    ),
    "ridge, svd": (Ridge(solver="svd", **FEW), 400, [128], {}),
    "ridge, refined": (Ridge(n_refinements=3, **FEW), 400, [100], {}),
    "ridge, conservative": (Ridge(conservative=True, criterion="pearson_r", **FEW), 400, [100], {}),
    "ridge, many permutations": (Ridge(n_inner=3, n_permutations=2000), 200, [10], {"n_test": 60, "n_subjects": 3}),
    "rsa, given test set, many fits": (Rsa(n_permutations=100), 300, [300] * 32, {"n_test": 100, "n_subjects": 2}),
    "rsa, one fit": (Rsa(n_permutations=1000), 60, [3000], {"n_subjects": 3}),
    "rsa, many permutations": (Rsa("pearson", n_permutations=5000), 30, [10] * 4, {"n_subjects": 3, "n_times": 100}),
    "rsa, whitened": (Rsa("corr_cov", n_permutations=200), 200, [100] * 4, {"n_times": 40}),
    "rsa, euclidean": (Rsa("cosine", distance="euclidean", n_permutations=20), 300, [100] * 4, {"n_times": 40}),
    "rsa, tau-b": (Rsa("tau-b", n_permutations=20), 100, [100], {"n_times": 10}),
    "cka_rbf_biased": (Similarity("cka_rbf_biased", n_permutations=20), 100, [200] * 4, {}),
    "mutual_knn, folds": (Similarity("mutual_knn", n_permutations=20), 300, [20], {}),
    "cknna": (Similarity("cknna", n_permutations=5), 150, [20] * 8, {}),
    "mi_gaussian": (Similarity("mi_gaussian", n_permutations=20), 60, [2000] * 4, {"n_channels": 64, "n_times": 8}),
    "procrustes": (Similarity("procrustes", n_permutations=20), 60, [2000] * 4, {"n_channels": 64, "n_times": 8}),
    "correlation, many permutations": (Correlation(n_permutations=10_000), 30, [1], {"n_subjects": 2}),
}
CASES = QUICK | SLOW


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_a_call_is_planned_with_what_its_compiled_steps_take_and_not_much_more(name):
    """What XLA says of programs as users run them. One shape below the plan is one that may run out of memory."""
    metric, n_stimuli, widths, shape = CASES[name]
    plan = planned(metric, n_stimuli, widths, **shape)
    taken = really_taken(plan, mesh.make_mesh(MeshConfig(1, 1)))
    ratio = sum(plan.analyses[0].n_bytes.values()) / taken
    print(f"{name}: planned {ratio:.2f} times the {taken / 1e6:.1f} MB taken")
    assert 1 <= ratio < 2.6


@pytest.mark.usefixtures("optimised")
def test_given_rdms_on_both_sides_are_planned_too():
    rdms = np.broadcast_to(np.float32(0), (8, 100 * 99 // 2))
    brain = RdmSet("planned", tuple(map(str, range(100))), ("01", "02"), rdms[:2])
    fits = [Fit(str(place), "", "rdm", 0.0, "none", 0) for place in range(6)]
    inputs = Inputs(brain, fits, list(rdms[2:]), [True] * 6, ["m"] * 6, None, {})
    plan = make_plan(request(Rsa(n_permutations=200, n_folds=0)), inputs, 64 * GIB)
    taken = really_taken(plan, mesh.make_mesh(MeshConfig(1, 1)))
    assert 1 <= sum(plan.analyses[0].n_bytes.values()) / taken < 2.6


# Widths.


def test_padded_widths_are_few_monotone_and_at_most_a_quarter_more():
    widths = np.arange(1, 20_001)
    padded = np.array([budget.padded_width(int(width)) for width in widths])
    assert (padded >= widths).all() and (np.diff(padded) >= 0).all()
    wide = widths > 64
    assert (padded[wide] <= 1.25 * widths[wide]).all()
    assert len(set(padded)) < 85 and len(set(padded[widths <= 4096])) < 45
    assert [budget.padded_width(int(width)) for width in padded] == list(padded), "a padded width stays"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Do a run of given inputs. -> function giving its folder"""

    def call(inputs, asked, name="out"):
        monkeypatch.setattr(run, "gather", lambda *_, **__: inputs)
        run.execute(asked, tmp_path / name, lambda *_: None)
        return tmp_path / name

    return call


def real_inputs(widths, n_stimuli=22, n_test=0):
    rng = np.random.default_rng(3)
    inputs = inputs_of(n_stimuli, widths, n_channels=3, n_times=4, n_test=n_test)
    brain = [recording(1, n_stimuli, 3, 4, n_test, rng.standard_normal((n_stimuli, 3, 4)).astype(np.float32))]
    features = [np.random.default_rng(width).standard_normal((n_stimuli, width)).astype(np.float32) for width in widths]
    return replace(inputs, brain=brain, features=features, identity={"widths": list(widths)})


OF_ALL_FITS = {"p_corrected", "family_id", "family_size", "unit_id", "layer"}
"""Columns in which the company of a fit may show: corrections run over all of them, and names are hashes of the request."""


@pytest.mark.parametrize(
    ("metric", "sizes"),
    [
        (Ridge(n_outer=2, n_inner=2, n_permutations=4), {}),
        pytest.param(Rsa(n_folds=0, n_permutations=8), {"fits_per_call": 2}, marks=pytest.mark.slow),
    ],
    ids=["ridge", "rsa"],
)
def test_scores_of_a_fit_do_not_depend_on_its_company(execute, metric, sizes):
    asked = request(metric, targets_per_call=8, **sizes)

    def rows(widths, width):
        place = str(widths.index(width))
        table = pq.read_table(execute(real_inputs(widths), asked, f"run of {widths}") / "scores.parquet").to_pylist()
        kept = [row for row in table if row["layer"] == place]
        return {name: [repr(row[name]) for row in kept] for name in table[0] if name not in OF_ALL_FITS}

    alone, accompanied = rows([5], 5), rows([70, 5, 5], 5)
    assert len(alone["value"]) == (4 if metric.takes == "patterns" else 12) * len(metric.statistics)
    assert [name for name in alone if alone[name] != accompanied[name]] == []


# Tiles and memory.


def shape_of(metric, **shape):
    return planned(metric, 60, [30], **shape).analyses[0].shape


@pytest.mark.parametrize(
    ("metric", "ladder"),
    [
        (Ridge(n_permutations=10), budget.LADDER),
        (Correlation(n_permutations=10), budget.LADDER),
        (Rsa(n_permutations=10), budget.SMALL + budget.LADDER),
    ],
    ids=["ridge", "correlation", "rsa"],
)
@pytest.mark.parametrize("n_subjects", [1, 3, 20])
def test_the_tile_is_the_largest_of_the_ladder_that_fits(metric, ladder, n_subjects):
    width = 1 if isinstance(metric, Correlation) else 32
    shape = replace(shape_of(Rsa() if metric.takes == "patterns" else Ridge()), metric=metric, n_subjects=n_subjects)
    ladder = [size for size in ladder if size >= n_subjects]
    needs = [budget.total(shape, width, 1, size) for size in ladder]
    assert needs == sorted(needs)
    for limit in np.geomspace(needs[0], needs[-1] * 1.1, 25):
        sizes = budget.choose("x", shape, {width: 1}, {"cells": 10**6}, MeshConfig(), int(limit) + 1)
        largest = max(size for size, need in zip(ladder, needs, strict=True) if need <= int(limit) + 1)
        assert sizes.groups == {"cells": largest // n_subjects} and sizes.fits == {width: 1}
        few = budget.choose("x", shape, {width: 1}, {"cells": 2}, MeshConfig(), int(limit) + 1)
        needed = next(size for size in ladder if size >= 2 * n_subjects)
        assert few.groups == {"cells": min(needed, largest) // n_subjects}, "no larger than the targets need"


REFUSED = [
    (Ridge(n_permutations=100), [200], {}),
    (Rsa(n_permutations=100), [30] * 5, {}),
    (Ridge(n_permutations=100), [200, 30], {"sizes": {"targets_per_call": 512}}),
    (Rsa(n_permutations=100), [30] * 5, {"sizes": {"fits_per_call": 4}}),
]


@pytest.mark.parametrize(("metric", "widths", "more"), REFUSED, ids=["ridge", "rsa", "given tile", "given fits"])
def test_a_refusal_names_the_memory_that_would_do_and_it_does(metric, widths, more):
    with pytest.raises(ConfigError, match=r"metric\.asked needs .* GiB per device") as refused:
        planned(metric, 100, widths, 1 << 16, **more)
    said = str(refused.value)
    assert "6.1e-05 GiB may be used" in said
    advice = float(re.search(r"mesh\.memory_gib=(\S+) if", said).group(1))
    planned(metric, 100, widths, int(advice * GIB), **more)
    with pytest.raises(ConfigError):
        planned(metric, 100, widths, int(advice * GIB * 0.9), **more)


def test_sizes_are_kept_under_any_other_memory_and_refused_when_they_do_not_fit():
    metric, shape = Ridge(n_permutations=100), {"n_channels": 60, "n_times": 60}
    begun = planned(metric, 100, [200, 30], GIB // 32, **shape)
    sizes = {"asked": begun.analyses[0].sizes}
    need = sum(begun.analyses[0].n_bytes.values())
    assert budget.LADDER[0] < sizes["asked"].groups["cells"] < budget.LADDER[-1]
    for memory in (64 * GIB, need):
        resumed = planned(metric, 100, [200, 30], memory, sizes, **shape)
        assert resumed.units == begun.units, memory
    assert planned(metric, 100, [200, 30], 64 * GIB, **shape).units != begun.units, "a new run takes larger tiles"
    with pytest.raises(ConfigError, match=r"begun with tiles of \d+ targets, which need .* GiB per device") as refused:
        planned(metric, 100, [200, 30], need - 1, sizes, **shape)
    advice = float(re.search(r"mesh\.memory_gib=(\S+) if", str(refused.value)).group(1))
    planned(metric, 100, [200, 30], int(advice * GIB), sizes, **shape)


def test_a_resumed_run_keeps_its_tiles_under_less_and_under_more_memory(tmp_path):
    words = partial(makers.eeg_request, tmp_path, **{"mesh.targets_per_call": None, "mesh.fit": 1})
    assert commands.main(words(mesh__memory_gib=1)) == 0
    before = folder.read_run(tmp_path / "out")["sizes"]
    expected = makers.table_hash(tmp_path / "out")
    for memory in (0.01, 4):
        next((tmp_path / "out" / "units").glob("*.parquet")).unlink()
        assert commands.main(words(mesh__memory_gib=memory)) == 0
        held = folder.read_run(tmp_path / "out")
        assert held["sizes"] == before and held["sessions"][-1]["units_computed"] == 1
        assert makers.table_hash(tmp_path / "out") == expected


def test_a_resumed_run_whose_tiles_do_not_fit_is_refused(tmp_path, capsys):
    words = partial(makers.eeg_request, tmp_path, **{"mesh.targets_per_call": None})
    assert commands.main(words(mesh__memory_gib=1)) == 0
    capsys.readouterr()
    assert commands.main(words(mesh__memory_gib=1e-5)) == 2
    assert "metric.correlation was begun with tiles of 64 targets, which need" in capsys.readouterr().err


def test_a_plan_that_the_host_cannot_hold_is_refused_with_numbers():
    plan = planned(Ridge(n_permutations=100), 100, [200] * 3)
    with pytest.raises(ConfigError) as refused:
        outline.check_host(plan, MeshConfig(host_memory_gib=0.1), 1, is_cpu=True)
    need, advice = re.search(
        r"needs (\S+) GiB on the host, .*; 0\.1 GiB may be used\. Set mesh\.host_memory_gib=(\S+) if",
        str(refused.value),
    ).groups()
    assert float(need) < float(advice) < 1.1 * float(need)
    outline.check_host(plan, MeshConfig(host_memory_gib=float(advice)), 1, is_cpu=True)
    on_host = outline.host_bytes(plan, MeshConfig(), 1, is_cpu=True)
    on_device = outline.host_bytes(plan, MeshConfig(), 1, is_cpu=False)
    n_device = sum(plan.analyses[0].n_bytes.values())
    assert sum(on_host.values()) - sum(on_device.values()) >= n_device, "memory of CPU devices is the host's"


def test_a_run_that_the_host_cannot_hold_is_refused_with_numbers(tmp_path, capsys):
    assert commands.main(makers.eeg_request(tmp_path, mesh__host_memory_gib=0.1)) == 2
    said = capsys.readouterr().err
    pattern = r"The run needs (\S+) GiB on the host, \S+ of it for [^;]+; 0\.1 GiB may be used\. Set mesh\.host_memory_gib=(\S+) if"
    need, advice = re.search(pattern, said).groups()
    assert float(need) < float(advice) < 1.1 * float(need)
    assert not (tmp_path / "out" / "run.json").exists()
    assert commands.main(makers.eeg_request(tmp_path, mesh__host_memory_gib=advice)) == 0


# jaxalign plan.


def files_under(path):
    return sorted(str(one) for one in path.rglob("*"))


def test_plan_says_what_the_run_then_does(tmp_path, capsys):
    words = makers.eeg_request(tmp_path, mesh__fit=1, mesh__memory_gib=1)
    before = files_under(tmp_path)
    assert commands.main(["plan", *words]) == 0
    text = capsys.readouterr().out
    assert files_under(tmp_path) == before, "nothing is written"
    for part in ("6 units", "2 waves of fits", "GiB per device", "GFLOP (factorise", "about ", "host: "):
        assert part in text
    assert commands.main(["plan", *words, f"json={tmp_path / 'plan.json'}"]) == 0
    assert set(files_under(tmp_path)) - set(before) == {str(tmp_path / "plan.json")}
    assert capsys.readouterr().out == text
    told = json.loads((tmp_path / "plan.json").read_text())
    assert commands.main(words) == 0
    held = folder.read_run(tmp_path / "out")
    (analysis,) = told["analyses"]
    assert (told["run_hash"], told["units"]) == (held["run_hash"], held["sessions"][0]["units"])
    assert analysis["bytes"] == held["bytes"]["correlation"]
    assert analysis["estimated_s"] > 0 and analysis["waves"] == 2
    measured = json.loads((tmp_path / "out" / "profile.json").read_text())["stages"]
    assert measured["factorise"]["n"] == analysis["waves"]
    assert measured["score"]["n"] == analysis["waves"] * analysis["tiles"]
    told_flop = 1e9 * (analysis["gflop"]["score"] + analysis["gflop"]["permute"])
    assert measured["score"]["flop"] == pytest.approx(told_flop)


def test_plan_of_the_demo_extracts_and_simulates_nothing(tmp_path, capsys, monkeypatch):
    from jaxalign.sources.simulated import SimulatedEeg

    def refuse(*_, **__):
        raise AssertionError("planning does no work")

    for owner, name in ((extraction, "extracted"), (SimulatedEeg, "recordings"), (run, "execute")):
        monkeypatch.setattr(owner, name, refuse)
    assert commands.main(["plan", "experiment=demo"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"48 units, 4 subjects, 300 stimuli", text) and "ridge: 16 fits" in text and "rsa: 16 fits" in text
    assert files_under(tmp_path) == []


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(("n_fits", "n_times", "n_permutations"), [(32, 32, 74), (1, 60, 30), (8, 40, 200)])
def test_operations_of_a_score_of_rdms_are_those_that_xla_counts(n_fits, n_times, n_permutations):
    """Dominated by matrix products, which XLA counts right; few enough pairs that its loop over them has one step."""
    metric = Rsa("cosine", n_folds=0, n_permutations=n_permutations)
    plan = planned(metric, 45, [30] * n_fits, n_times=n_times, sizes={"targets_per_call": n_times})
    analysis = plan.analyses[0]
    step, given = steps_of(plan, mesh.make_mesh(MeshConfig(1, 1)))[2]
    counted = step.lower(*given).compile().cost_analysis()["flops"]
    ours = sum(one(analysis.shape, 32, n_times) for one in (work.score, work.permute)) * analysis.sizes.fits[32]
    assert 1 / 1.5 < ours / counted < 1.5


def test_operations_of_a_plan_are_summed_over_real_fits_and_targets():
    plan = planned(Ridge(n_permutations=3), 60, [30, 30, 100], n_channels=3, n_times=30)
    analysis = plan.analyses[0]
    found = outline.operations(analysis)
    assert found["factorise"] == 2 * work.factorise(analysis.shape, 32) + work.factorise(analysis.shape, 112)
    assert found["permute"] == pytest.approx(3 * found["score"]), "cross-validated: anew for each labelling"
    assert sum(len(tile.groups) for tile in analysis.tiles) == 90


# Waves of fits.

N_STORED, N_WORDS, WIDTH = 8, 24, 6


@pytest.fixture
def stored(tmp_path):
    """A store of 8 layers of the words of the tiny recording. -> its folder"""
    rng = np.random.default_rng(5)
    fits = [Fit("net", "1", f"layer{place}", place / 8, "mean", WIDTH) for place in range(N_STORED)]
    words = makers.eeg(N_WORDS)[1]["word"]
    block = {(fit.layer, fit.pooling): rng.standard_normal((N_WORDS, WIDTH)).astype(np.float32) for fit in fits}
    store.write(tmp_path / "features", fits, words, {"made": "by a test"}, [block])
    return tmp_path / "features"


def of_store(tmp_path, stored, **changes):
    options = {
        "model": "[stored]",
        "model.fas.columns": None,
        "model.stored.path": stored,
        "metric": "[ridge]",
        "metric.correlation.n_permutations": None,
        "metric.ridge.n_permutations": 2,
        "metric.ridge.n_outer": 2,
        "metric.ridge.n_inner": 2,
        "mesh.fit": 1,
        "mesh.targets_per_call": 64,
        **changes,
    }
    return makers.eeg_request(tmp_path, **options)


def test_stored_features_are_read_when_their_wave_comes(tmp_path, stored, monkeypatch):
    told, alive = [], []

    class Watched(np.ndarray):
        """An array that can be watched while it lives."""

    read, launch = stream.read_fit, score._launch

    def reading(folder, fit, rows=None):
        values = read(folder, fit, rows).view(Watched)
        alive.append(weakref.ref(values))
        told.append("read")
        assert sum(one() is not None for one in alive) <= 2, "features of earlier waves are let go"
        return values

    def launching(*arguments):
        out = launch(*arguments)
        jax.block_until_ready(out)
        told.append("launch")
        return out

    monkeypatch.setattr(stream, "read_fit", reading)
    monkeypatch.setattr(score, "_launch", launching)
    assert commands.main(of_store(tmp_path, stored)) == 0
    assert told.count("read") == told.count("launch") == N_STORED, "each once"
    at_launch = [told[:place].count("read") for place, what in enumerate(told) if what == "launch"]
    for wave, n_read in enumerate(at_launch):
        assert wave + 1 <= n_read <= wave + 1 + budget.AHEAD, "only the next waves are read ahead"
    assert set(results.load(tmp_path / "out")["layer"]) == {f"layer{place}" for place in range(N_STORED)}


def test_a_plan_reads_no_features(tmp_path, stored, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("planning reads no features")

    monkeypatch.setattr(stream, "read_fit", refuse)
    assert commands.main(["plan", *of_store(tmp_path, stored)]) == 0


def test_of_features_only_the_test_rows_are_read_for_rdms(tmp_path, stored, execute, monkeypatch):
    asked_for = []
    read = store.read

    def reading(folder, fit, rows=slice(None)):
        import traceback

        print("".join(traceback.format_stack(limit=7)))
        asked_for.append(rows)
        return read(folder, fit, rows)

    monkeypatch.setattr(store, "read", reading)
    fits = [Fit(**array["fit"]) for array in store.manifest(stored)["arrays"]]
    readers = tuple(partial(stream.read_fit, stored, fit) for fit in fits)
    inputs = real_inputs([WIDTH] * N_STORED, N_WORDS, n_test=9)
    inputs = replace(inputs, fits=fits, features=Bank(readers, (0,) * N_STORED))
    execute(inputs, request(Rsa(n_folds=0, n_permutations=4), fits_per_call=2, targets_per_call=8))
    assert len(asked_for) >= N_STORED and set(map(str, asked_for)) == {str(slice(N_WORDS - 9, N_WORDS))}


# Arithmetic.


@pytest.fixture
def begun_elsewhere(tmp_path):
    """A finished run whose record says that it was computed with another number of threads."""
    words = makers.eeg_request(tmp_path)
    assert commands.main(words) == 0
    path = tmp_path / "out" / "run.json"
    content = json.loads(path.read_text())
    content["arithmetic"]["cpu_threads"] += 1
    path.write_text(json.dumps(content))
    return words, tmp_path / "out"


def test_units_of_two_arithmetics_are_never_mixed(begun_elsewhere, capsys):
    words, out = begun_elsewhere
    next((out / "units").glob("*.parquet")).unlink()
    before = {path: path.read_bytes() for path in (out / "units").iterdir()}
    capsys.readouterr()
    assert commands.main(words) == 2
    said = capsys.readouterr().err
    threads = folder.arithmetic()["cpu_threads"]
    assert f"has 5 of 6 units, computed where cpu_threads was {threads + 1} and is {threads}" in said
    assert {path: path.read_bytes() for path in (out / "units").iterdir()} == before


@pytest.mark.parametrize("lost", ["none", "all"])
def test_a_run_that_has_all_units_or_none_goes_on_under_any_arithmetic(begun_elsewhere, lost):
    words, out = begun_elsewhere
    if lost == "all":
        for path in (out / "units").iterdir():
            path.unlink()
    assert commands.main(words) == 0
    assert folder.read_run(out)["sessions"][-1]["units_computed"] == (6 if lost == "all" else 0)
