"""Whole runs from the command line to the report, on real recordings and on simulated ones with a known answer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jaxalign
from jaxalign import commands
from jaxalign.results import summary
from jaxalign.runtime import run as runtime_run

OBJECTS92 = {
    "animacy": (0.3871, 0.3862),
    "FaceBodyManmadeNatobj": (0.2816, 0.2766),
    "monkeyIT": (0.3335, 0.2963),
    "EVA": (0.2591, 0.2454),
    "HMAX": (0.1521, 0.1599),
    "V1": (0.0250, 0.0265),
    "Silhouette": (0.1159, 0.0966),
    "RADON": (0.0365, 0.0381),
}
"""Pearson and Spearman with human IT, mean over 4 subjects, by rsatoolbox 0.3.2."""

SMALL_DEMO = ("stimuli.n_stimuli=160", "dataset.n_test=60", "dataset.n_subjects=2", "dataset.time_bin_s=0.05")


@pytest.fixture
def do(tmp_path, monkeypatch, data_folder):
    """Run a command with its output in a temporary folder. -> folder"""
    monkeypatch.setenv("JAXALIGN_DATA", str(data_folder))

    def run(*words: str, name: str = "out") -> Path:
        folder = tmp_path / name
        assert commands.main([*words, f"output={folder}", f"store={tmp_path / 'store'}"]) == 0
        return folder

    return run


def finding_of(folder: Path, metric: str, statistic: str) -> dict:
    found = [one for one in summary(folder)["findings"] if (one["metric"], one["statistic"]) == (metric, statistic)]
    assert len(found) == 1
    return found[0]


def test_objects92_gives_the_published_correlations_and_ceilings(do):
    folder = do("experiment=objects92", "n_permutations=200")
    for metric, place in (("rsa_pearson", 0), ("rsa", 1)):
        rows = jaxalign.load(folder, where={"metric": metric, "subject": "mean"}).set_index("model")
        for model, expected in OBJECTS92.items():
            assert rows.value[model] == pytest.approx(expected[place], abs=1e-4), (metric, model)
    ceilings = {"rsa_pearson": (0.3944, 0.6804), "rsa": (0.3723, 0.6657)}
    for metric, (low, high) in ceilings.items():
        rows = jaxalign.load(folder, where={"metric": metric, "subject": "mean"})
        assert rows.ceiling_low.to_numpy() == pytest.approx(low, abs=1e-4)
        assert rows.ceiling_high.to_numpy() == pytest.approx(high, abs=1e-4)
    assert (folder / "report.html").stat().st_size > 50_000


def check_n400(folder: Path, critical_within: float, p_within: float) -> None:
    rows = jaxalign.load(folder, where={"metric": "correlation"})
    average = rows[rows.channel == "mean of P3, Pz, P4"]
    assert average.value.item() == pytest.approx(0.32409, abs=1e-4)
    cells = rows[rows.channel != "mean of P3, Pz, P4"]
    assert len(cells) == 32 * 60
    largest = cells.loc[cells.value.abs().idxmax()]
    assert (largest.channel, round(float(largest.time_start_s), 2)) == ("PO4", 0.38)
    assert largest.value == pytest.approx(0.40588, abs=1e-4)
    assert (cells[cells.time_stop_s <= 0].p_corrected > 0.05).all()
    assert (cells.p <= 0.05).sum() == pytest.approx(230, abs=8)
    finding = finding_of(folder, "correlation", "pearson_r")
    assert finding["critical"] == pytest.approx(0.2805, abs=critical_within)
    assert finding["n_significant"] == pytest.approx(51, abs=8)
    p4 = cells[(cells.channel == "P4") & (cells.time_start_s.round(2) == 0.34)]
    assert p4.p_corrected.item() == pytest.approx(0.050, abs=p_within)
    ols = jaxalign.load(folder, where={"metric": "ridge_ols", "statistic": "pearson_r"})
    ols = ols[ols.channel != "mean of P3, Pz, P4"]
    best = ols.loc[ols.value.idxmax()]
    assert (best.channel, round(float(best.time_start_s), 2)) == ("Pz", 0.38)
    assert best.value == pytest.approx(0.3966, abs=1e-4)
    assert ols[ols.time_stop_s <= 0].value.max() == pytest.approx(0.168, abs=1e-3)


def check_text_network(folder: Path) -> None:
    """Six layers, all channels and bins at once; no ceiling, and the report says so."""
    ridge = jaxalign.load(folder, where={"metric": "ridge", "statistic": "pearson_r"})
    assert ridge.layer.nunique() == 6
    assert len(ridge) == 6 * (32 * 60 + 1)
    assert jaxalign.load(folder, where={"metric": "rsa"}).shape[0] == 6 * 60
    assert "one subject with one presentation per stimulus" in (folder / "report.html").read_text(encoding="utf-8")
    assert ridge.ceiling_low.isna().all()


def test_n400_gives_the_known_numbers_with_few_permutations(do):
    few = ("metric.ridge.n_permutations=1", "metric.ridge_ols.n_permutations=50", "metric.rsa.n_permutations=100")
    few += ("metric.ridge.n_outer=3", "metric.ridge.n_inner=2")
    folder = do("experiment=n400", "metric.correlation.n_permutations=2000", *few)
    check_n400(folder, critical_within=0.012, p_within=0.02)
    check_text_network(folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_n400_gives_the_known_numbers_in_full(do):
    folder = do("experiment=n400")
    check_n400(folder, critical_within=0.004, p_within=0.006)
    check_text_network(folder)
    for metric, statistic in (("ridge", "pearson_r"), ("ridge", "r2"), ("rsa", "rsa")):
        assert finding_of(folder, metric, statistic)["n_significant"] == 0


def check_planted(folder: Path, metric: str, statistic: str) -> None:
    finding = finding_of(folder, metric, statistic)
    planted = summary(folder)["planted"][0]
    peak = finding["peak"]
    assert finding["n_significant"] > 0
    assert (peak["model"], peak["layer"]) == (planted["model"], planted["layer"])
    assert planted["time_start_s"] <= peak["time_start_s"] < planted["time_stop_s"]
    start, stop = finding["window"]
    shared = min(stop, planted["time_stop_s"]) - max(start, planted["time_start_s"])
    assert shared >= 0.6 * (planted["time_stop_s"] - planted["time_start_s"])


def test_a_small_demo_finds_the_planted_layer_and_window_and_says_so(do, capsys):
    folder = do("experiment=demo", *SMALL_DEMO, "n_permutations=99")
    check_planted(folder, "ridge", "pearson_r")
    shown = capsys.readouterr().out
    assert "[simulated data]" in shown
    assert "Found: the planted layer" in shown
    rows = jaxalign.load(folder, columns=["is_simulated"])
    assert rows.is_simulated.all()


@pytest.mark.slow
def test_a_small_demo_without_an_effect_reports_that_nothing_is_significant(do, capsys):
    do("experiment=demo", *SMALL_DEMO, "n_permutations=99", "dataset.effect=0", "report=false")
    shown = capsys.readouterr().out
    assert shown.count("nothing is significant") == 3
    assert shown.count("Planted: nothing; and nothing was found, as it should be.") == 3


@pytest.mark.slow
def test_the_whole_demo_finds_the_planted_layer_with_both_metrics(do):
    folder = do("experiment=demo")
    check_planted(folder, "ridge", "pearson_r")
    check_planted(folder, "ridge", "r2")
    check_planted(folder, "rsa", "rsa")
    ceiling = finding_of(folder, "ridge", "pearson_r")["peak"]
    assert ceiling["is_ceiling_above_chance"]
    assert ceiling["value"] < ceiling["ceiling_high"] + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_whole_demo_without_an_effect_rarely_finds_anything(do, seed):
    """Three families per run at a family-wise level of .05: of 15, about one may hold a false positive."""
    folder = do("experiment=demo", "dataset.effect=0", f"seed={seed}", f"dataset.seed={seed}", "report=false")
    n_false = sum(one["n_significant"] > 0 for one in summary(folder)["findings"])
    assert n_false <= 1


def test_the_summary_is_valid_json_without_nan(do):
    folder = do("experiment=objects92", "n_permutations=20", "metric=[rsa]", "report=false")
    text = (folder / "summary.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["findings"]


def test_a_layer_of_one_value_has_no_rsa_score_and_spoils_no_other(tmp_path, monkeypatch):
    """As CLS tokens before the first layer: their correlation RDM is undefined. It is said, and no unit fails."""
    from test_devices import inputs_of, request

    inputs = inputs_of()
    features = [np.ones_like(inputs.features[1]) if place == 1 else one for place, one in enumerate(inputs.features)]
    monkeypatch.setattr(runtime_run, "gather", lambda *_: replace(inputs, features=features))
    found = runtime_run.execute(request("rsa", (1, 1)), tmp_path, lambda *_: None)
    rows = jaxalign.load(tmp_path)
    assert rows[rows.layer == "1"].value.isna().all()
    others = rows[rows.layer != "1"]
    assert others.p_corrected.notna().all()
    assert others.family_complete.all()
    assert any("m/1/none has the same value in all units" in warning for warning in found["warnings"])


def test_stimuli_trade_places_within_the_strata_that_the_request_names(tmp_path, monkeypatch):
    """Two categories that only differ in their mean are no effect within categories; the summary says what was done."""
    import makers

    rng = np.random.default_rng(1)
    values, columns = makers.eeg(24)
    category = np.arange(24) % 2
    values = rng.standard_normal(values.shape) * 1e-6 + 3e-6 * category[:, None, None]
    frequency = category + 0.1 * rng.standard_normal(24)
    makers.epochs_file(tmp_path / "tiny-epo.fif", values, {**columns, "frequency": frequency, "kind": category})
    asked = {"n_permutations": 99, "dataset.feature_columns": "[kind]", "metric.correlation.n_permutations": None}
    found = {}
    for scheme, column in (("label", ""), ("strata", "kind")):
        null = {"null.scheme": scheme, "null.column": column or "''", "output": tmp_path / scheme}
        words = makers.eeg_request(tmp_path, **{**asked, **null, "model.fas.columns": "[frequency]"})
        assert commands.main(words) == 0
        found[scheme] = jaxalign.load(tmp_path / scheme)["p"].to_numpy()
    assert (found["label"] <= 0.05).mean() > 0.9 > 0.3 > (found["strata"] <= 0.05).mean()
    assert "within each value of kind" in (tmp_path / "strata" / "summary.json").read_text(encoding="utf-8")
    assert (
        commands.main(makers.eeg_request(tmp_path, **{**asked, "null.scheme": "strata", "output": tmp_path / "x"})) == 2
    )


def test_all_labellings_are_taken_where_they_are_few(tmp_path):
    """Five stimuli have 120 orders, each once: p is an exact fraction, as counted over all of them here."""
    from itertools import permutations

    import makers
    from scipy.stats import spearmanr

    words = makers.rdm_request(tmp_path, n_stimuli=5, **{"metric.rsa.n_permutations": 200})
    assert commands.main(words) == 0
    rows = jaxalign.load(tmp_path / "out")
    assert set(rows["n_permutations"]) == {119}
    first, second = np.triu_indices(5, 1)
    theirs = [makers.rdm(5, seed) for seed in (0, 1)]
    brain, model = np.mean(theirs, axis=0), makers.rdm(5, 10)[first, second]
    orders = [np.array(order) for order in permutations(range(5))]
    null = np.array([spearmanr(model, brain[np.ix_(order, order)][first, second])[0] for order in orders])
    mine = rows[(rows["subject"] == "BE") & (rows["model"] == "model0")]
    np.testing.assert_allclose(mine["p"].to_numpy(), np.mean(null >= null[0] - 1e-6), atol=1e-6)


# Given RDMs of a model against a recording.


def rdm_of_columns(columns, names):
    """|difference| of a column, one RDM per name. -> (n_rdms, n, n)"""
    return np.stack([np.abs(np.subtract.outer(columns[name], columns[name])) for name in names])


def words_for(tmp_path, source, **changes):
    """A run of RSA of Pz alone, in bins, against an RDM file."""
    import makers

    changes = {
        "model": "[rdm_file]", "model.fas.columns": None, "model.rdm_file.path": source, "metric": "[rsa]",
        "metric.correlation.n_permutations": None, "metric.rsa.n_permutations": 50, "metric.rsa.n_folds": 0,
        "metric.rsa.distance": "euclidean", "dataset.channels": "[Pz]", **changes,
    }  # fmt: skip
    return makers.eeg_request(tmp_path, **changes)


def test_an_rdm_file_is_scored_against_a_recording_by_the_names_of_stimuli(tmp_path, capsys):
    """The file holds more stimuli than the recording, in another order; scores equal SciPy's of the matched ones."""
    import makers
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    values, columns = makers.eeg(24)
    makers.epochs_file(tmp_path / "tiny-epo.fif", values, columns)
    rng = np.random.default_rng(0)
    order = rng.permutation(30)
    more = {name: np.concatenate([columns[name], rng.standard_normal(6)]) for name in ("frequency", "length")}
    square = rdm_of_columns(more, ("frequency", "length"))[:, order][:, :, order]
    names = [*columns["word"], *(f"other{index}" for index in range(6))]
    np.save(tmp_path / "models.npy", square)
    (tmp_path / "names.txt").write_text("\n".join(names[index] for index in order) + "\n", encoding="utf-8")
    named = words_for(tmp_path, tmp_path / "models.npy", **{"model.rdm_file.stimulus_ids": tmp_path / "names.txt"})
    assert commands.main(named) == 0, capsys.readouterr().err
    rows = jaxalign.load(tmp_path / "out")
    upper = np.triu_indices(24, 1)
    for name, label in (("frequency", "models0"), ("length", "models1")):
        own = rdm_of_columns(columns, [name])[0][upper]
        mine = rows[rows["model"] == label].sort_values("time_start_s")["value"].to_numpy()
        expected = [spearmanr(own, pdist(values[:, 2, time, None]))[0] for time in range(6)]
        np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert not any("position" in text for text in jaxalign.results.summary(tmp_path / "out")["warnings"])


def test_rdms_that_lack_a_stimulus_or_name_none_are_told_apart(tmp_path, capsys):
    import makers

    values, columns = makers.eeg(24)
    makers.epochs_file(tmp_path / "tiny-epo.fif", values, columns)
    square = rdm_of_columns(columns, ["frequency"])
    np.save(tmp_path / "models.npy", square[:, :23, :23])
    assert commands.main(words_for(tmp_path, tmp_path / "models.npy")) == 3
    assert "RDMs of 23 stimuli and the data set has 24" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("\n".join(columns["word"][:23]) + "\n", encoding="utf-8")
    named = words_for(tmp_path, tmp_path / "models.npy", **{"model.rdm_file.stimulus_ids": tmp_path / "names.txt"})
    assert commands.main(named) == 3
    assert "1 of the 24 that are compared are not among them, first 'word23'" in capsys.readouterr().err
    np.save(tmp_path / "models.npy", square)
    assert commands.main(words_for(tmp_path, tmp_path / "models.npy")) == 0
    assert any("matched by position" in text for text in jaxalign.results.summary(tmp_path / "out")["warnings"])


def test_numbers_that_name_stimuli_are_names(tmp_path):
    """Both files say which stimulus a row is, in numbers: rows in reverse are found, and not taken by position."""
    import makers

    brain, model = makers.rdm(12, 0), makers.rdm(12, 0)[::-1, ::-1]
    np.save(tmp_path / "brain.npy", brain)
    np.save(tmp_path / "model.npy", model)
    for name, order in (("up", range(12)), ("down", range(11, -1, -1))):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, order)) + "\n", encoding="utf-8")
    words = makers.request({
        "dataset": "rdm_file", "dataset.path": tmp_path / "brain.npy", "dataset.stimulus_ids": tmp_path / "up.txt",
        "model": "[rdm_file]", "model.rdm_file.path": tmp_path / "model.npy",
        "model.rdm_file.stimulus_ids": tmp_path / "down.txt", "metric": "[rsa]", "metric.rsa.n_permutations": 20,
        "metric.rsa.n_folds": 0, "output": tmp_path / "out", "report": "false",
    })  # fmt: skip
    assert commands.main(words) == 0
    assert jaxalign.load(tmp_path / "out")["value"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert not any("position" in text for text in jaxalign.results.summary(tmp_path / "out")["warnings"])
