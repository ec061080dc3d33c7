"""Noise ceilings in runs: they match the rows that they bound, perfect models reach them, and settings cost no score.

All responses here are simulated, so that the perfect model is known.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import jaxalign
from jaxalign import results
from jaxalign.compute import ceiling, rdm_ceilings
from jaxalign.compute.correlation import Correlation
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.ridge import Ridge
from jaxalign.compute.similarity import Similarity
from jaxalign.contracts import Average, CeilingConfig, Fit, MeshConfig, Recording, RunConfig
from jaxalign.errors import ConfigError
from jaxalign.models.given import Metadata
from jaxalign.runtime import ceilings, rdm_bounds, run
from jaxalign.runtime.inputs import Inputs

CHANNELS = tuple(f"C{index}" for index in range(12))
EVERY = (*ceilings.RESPONSES, *rdm_bounds.RECIPES)


def subject(rng, signal, n_repetitions, noise_sd, n_test=0, name="01", n_averaged=None):
    """Trials of a signal (n_stimuli, n_channels, n_times); those of the test set, or of all without one, are kept."""
    n_averaged = n_averaged or n_repetitions
    noise = noise_sd * rng.standard_normal((len(signal), n_averaged, *signal.shape[1:]))
    trials = (signal[:, None] + noise).astype(np.float32)
    is_test = np.arange(len(signal)) >= len(signal) - n_test if n_test else np.zeros(len(signal), bool)
    starts = 0.1 * np.arange(signal.shape[2])
    return Recording(
        dataset="made",
        subject=name,
        stimulus_ids=tuple(f"s{index}" for index in range(len(signal))),
        values=trials.mean(1),
        channels=CHANNELS[: signal.shape[1]],
        starts_s=starts,
        stops_s=starts + 0.1,
        unit="V",
        n_repetitions=np.full(len(signal), n_averaged, np.int32),
        is_test=is_test,
        positions=np.full((signal.shape[1], 3), np.nan),
        is_simulated=True,
        trials=(trials[is_test] if n_test else trials)[:, :n_repetitions],
    )


def inputs_of(brain, features):
    fits = [Fit("made", "", f"layer{place}", 0.0, "none", len(values[0])) for place, values in enumerate(features)]
    return Inputs(brain, fits, list(features), [False] * len(fits), ["m"] * len(fits), None, {"data": "made here"})


def request(metric, recipes=("auto",), normalise=True, averages=()):
    return RunConfig(
        model={"m": Metadata()},
        metric={"metric": metric},
        dataset=Metadata("made"),
        averages=list(averages),
        ceiling=CeilingConfig(list(recipes), normalise, 10),
        mesh=MeshConfig(1, 1),
        report=False,
    )


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Do a run of given inputs. -> function giving its scores, ceilings and summary"""

    def call(inputs, asked, name="out"):
        monkeypatch.setattr(run, "gather", lambda *_, **__: inputs)
        summary = run.execute(asked, tmp_path / name, lambda *_: None)
        return pd.DataFrame(results.load(tmp_path / name)), jaxalign.load_ceilings(tmp_path / name), summary

    return call


@pytest.fixture
def planted(rng):
    """A layer of 4 units, and 2 channels x 40 bins that are weighted sums of it; the last channel is noise."""
    units = rng.standard_normal((600, 4))
    weights = rng.standard_normal((4, 3, 40))
    signal = np.tensordot(units, weights / np.sqrt((weights**2).sum(0)), 1)
    signal[:, 2] = 0
    return units.astype(np.float32), signal


RIDGE = Ridge(n_outer=3, n_inner=2, n_permutations=0)


@pytest.mark.parametrize("n_test", [0, 400], ids=["folds", "test set"])
def test_a_perfect_model_scores_one_by_every_estimate(execute, rng, planted, n_test):
    """600 stimuli, 5 repetitions with noise of 2 SD: r of .75 is all that can be reached."""
    units, signal = planted
    inputs = inputs_of([subject(rng, signal, 5, 2.0, n_test)], [units])
    for recipe in (ceiling.SPLIT_HALF, ceiling.NCSNR, ceiling.EXPLAINABLE_VARIANCE):
        rows, found, _ = execute(inputs, request(RIDGE, [recipe]), f"{n_test} stimuli")
        assert set(found["n_stimuli"]) == {n_test or 600} and set(found["n_repetitions"]) == {5}
        real = rows[rows["channel"] != "C2"]
        r, r2 = (real[real["statistic"] == name] for name in ("pearson_r", "r2"))
        assert r["value"].mean() == pytest.approx(0.745, abs=0.02)
        assert r["value_normalised"].mean() == pytest.approx(1, abs=0.01)
        # Weights are fitted to noisy responses, so r2 falls short of the reliability by what they miss.
        assert r2["value_normalised"].mean() == pytest.approx(1, abs=0.03)
        np.testing.assert_allclose(real["value_normalised"], real["value"] / real["ceiling_low"], rtol=1e-5)


def test_noise_has_no_ceiling_to_divide_by(execute, rng, planted):
    units, signal = planted
    rows, _, _ = execute(inputs_of([subject(rng, signal, 5, 2.0)], [units]), request(RIDGE))
    noise, real = rows[rows["channel"] == "C2"], rows[rows["channel"] != "C2"]
    assert real["is_ceiling_above_chance"].all() and real["value_normalised"].notna().all()
    assert noise["is_ceiling_above_chance"].mean() < 0.2
    assert noise.loc[~noise["is_ceiling_above_chance"], "value_normalised"].isna().all()


def test_ceilings_are_shown_and_not_divided_by_default(execute, rng, planted):
    units, signal = planted
    rows, _, summary = execute(
        inputs_of([subject(rng, signal, 5, 2.0)], [units]),
        request(RIDGE, CeilingConfig().recipes, CeilingConfig().normalise),
    )
    assert rows["ceiling_low"].notna().any() and rows["value_normalised"].isna().all()
    assert summary["findings"][0]["ceiling"]["is_divided"] is False


def test_a_range_is_drawn_and_never_divides(execute, rng, planted):
    units, signal = planted
    brain = [subject(rng, signal, 6, 2.0, name=name) for name in ("01", "02", "03")]
    for recipe in (ceiling.HALF_SPLIT_BOUNDS, ceiling.LEAVE_ONE_SUBJECT_OUT_RESPONSES):
        rows, found, summary = execute(inputs_of(brain, [units]), request(RIDGE, [recipe]), "range")
        r = rows[(rows["statistic"] == "pearson_r") & (rows["channel"] != "C2")]
        assert (r["ceiling_low"] < r["ceiling_high"]).all() and r["is_ceiling_above_chance"].all()
        assert rows["value_normalised"].isna().all() and not found["divides"].any()
        assert set(rows.loc[rows["statistic"] == "r2", "ceiling_recipe"]) == {"none"}
        assert summary["findings"][0]["ceiling"]["is_divided"] is False


def test_subjects_bound_a_model_of_what_they_share(execute, rng, planted):
    units, signal = planted
    brain = [subject(rng, signal, 1, 1.0 + index / 2, name=f"0{index}") for index in range(3)]
    rows, found, _ = execute(inputs_of(brain, [units]), request(RIDGE, [ceiling.CROSS_SUBJECT]))
    real = rows[(rows["channel"] != "C2") & (rows["statistic"] == "pearson_r")]
    assert found["divides"].all() and real["is_ceiling_above_chance"].all()
    assert real.groupby("subject", observed=True)["value_normalised"].mean().to_numpy() == pytest.approx(1, abs=0.02)


def test_correlations_are_taken_inside_the_folds_that_score(execute, rng, planted):
    """What differs between folds is no signal inside them: the ceiling says so as the score does."""
    units, _ = planted
    columns = {"run": np.repeat(["a", "b", "c"], 200)}
    signal = np.repeat([0.0, 5.0, 10.0], 200)[:, None, None] * np.ones((600, 1, 2))
    brain = [replace(subject(rng, signal, 4, 1.0), columns=columns)]
    rows, found, _ = execute(inputs_of(brain, [units]), request(replace(RIDGE, folds="runs")))
    assert not rows["is_ceiling_above_chance"].any() and set(found["folds"]) == {"3 folds, correlations inside each"}
    whole, halves = ceiling.split_half(brain[0].trials, 10, 0)
    assert (halves > 0.9).all() and (whole > 0.9).all()


def test_declared_averages_have_ceilings_of_their_own(execute, rng, planted):
    units, signal = planted
    averages = [Average("window", ["C0"], 0.0, 1.0)]
    lasting = np.repeat(signal[:, :, :1], 40, axis=2)
    inputs = inputs_of([subject(rng, lasting, 5, 3.0)], [units])
    rows, _, _ = execute(inputs, request(RIDGE, averages=averages))
    one = rows[(rows["channel"] == "window") & (rows["statistic"] == "pearson_r")]
    singles = rows[(rows["channel"] == "C0") & (rows["statistic"] == "pearson_r")]
    assert one["value_normalised"].item() == pytest.approx(1, abs=0.06)
    assert one["ceiling_low"].item() > singles["ceiling_low"].max() + 0.05, "noise averages out over bins"


def test_more_repetitions_are_scored_than_kept(execute, rng, planted):
    """4 of 16 repetitions are kept: the ceiling is that of the 16 which the score averages."""
    units, signal = planted
    inputs = inputs_of([subject(rng, signal, 4, 3.0, n_averaged=16)], [units])
    rows, found, _ = execute(inputs, request(RIDGE))
    real = rows[(rows["channel"] != "C2") & (rows["statistic"] == "pearson_r")]
    assert set(found["n_repetitions"]) == {16}
    assert real["value_normalised"].mean() == pytest.approx(1, abs=0.02)


def test_trials_that_do_not_average_to_the_responses_bound_nothing(execute, rng, planted):
    units, signal = planted
    one = subject(rng, signal, 5, 2.0)
    changed = one.values.copy()
    changed[:, 1, 7] = rng.standard_normal(600)
    _, found, summary = execute(inputs_of([replace(one, values=changed)], [units]), request(RIDGE))
    assert not len(found)
    assert "trials of subject 01 do not average to its responses (r" in summary["findings"][0]["ceiling"]["why_not"]
    assert "at C1)" in summary["findings"][0]["ceiling"]["why_not"]


def test_a_metric_that_scores_all_stimuli_needs_trials_of_all(execute, rng, planted):
    _, signal = planted
    column = signal[:, 0, :1].astype(np.float32)
    metric = Correlation(n_permutations=0)
    _, _, summary = execute(inputs_of([subject(rng, signal, 5, 2.0, 400)], [column]), request(metric), "some")
    assert "kept for 400 test stimuli only, and this metric scores 600" in summary["findings"][0]["ceiling"]["why_not"]
    rows, found, _ = execute(inputs_of([subject(rng, signal, 5, 2.0)], [column]), request(metric), "all")
    at_onset = rows[(rows["channel"] == "C0") & (rows["time_start_s"] == 0)]
    assert at_onset["value_normalised"].item() == pytest.approx(1, abs=0.06)
    assert set(found["folds"]) == {"all stimuli at once"}


# RDMs.


@pytest.fixture
def patterns(rng):
    """A layer whose geometry is that of 12 channels in 3 bins; the last bin is noise. -> units, signal"""
    signal = rng.standard_normal((120, 6)) @ rng.standard_normal((6, 12)) / np.sqrt(6)
    return signal.astype(np.float32), np.stack([signal, 0.5 * signal, 0 * signal], axis=2)


RSA = Rsa(n_permutations=0, n_folds=0)


@pytest.mark.parametrize(
    ("n_test", "n_repetitions", "noise_sd"), [(0, 20, 1.5), (110, 20, 1.5), (0, 7, 0.8), (0, 6, 0.8)]
)
def test_a_perfect_geometry_reaches_the_ceiling_of_one_subject(execute, rng, patterns, n_test, n_repetitions, noise_sd):
    """Also where repetitions cannot be cut into four equal parts: what is left over is in the score all the same."""
    units, signal = patterns
    inputs = inputs_of([subject(rng, signal, n_repetitions, noise_sd, n_test)], [units])
    rows, found, summary = execute(inputs, request(RSA))
    assert set(rows["ceiling_recipe"]) == {rdm_ceilings.SPLIT_QUARTER}
    assert rows["is_ceiling_above_chance"].tolist() == [True, True, False]
    assert rows["value_normalised"][:2].to_numpy() == pytest.approx(1, abs=0.03)
    assert np.isnan(rows["value_normalised"][2])
    assert set(found["n_stimuli"]) == {n_test or 120} and set(found["level"]) == {"rdm"}
    assert summary["findings"][0]["ceiling"]["is_divided"] is True


def test_several_subjects_bound_each_other_and_all_recipes_are_in_one_table(execute, rng, patterns):
    units, signal = patterns
    brain = [subject(rng, signal, 8, 1.0, name=name) for name in ("01", "02", "03")]
    rows, found, summary = execute(inputs_of(brain, [units]), request(RSA, ["auto", *EVERY]))
    assert set(rows["ceiling_recipe"]) == {rdm_ceilings.LEAVE_ONE_OUT} and rows["value_normalised"].isna().all()
    assert set(found["recipe"]) == set(rdm_bounds.RECIPES)
    assert set(found.loc[found["divides"], "recipe"].astype(str)) == {rdm_ceilings.SPLIT_QUARTER}
    assert len(found) == 3 * 3 * 4, "recipes, bins, subjects and their mean"
    asked = summary["findings"][0]["ceilings"]
    assert [one["recipe"] for one in asked] == list(rdm_bounds.RECIPES), "those of responses are for other metrics"
    assert all(one["ceiling_low"] is not None for one in asked)


def test_data_without_a_ceiling_say_why(execute, rng, patterns):
    units, signal = patterns
    averaged = replace(subject(rng, signal, 8, 1.0), trials=None)
    alone = replace(averaged, n_repetitions=np.ones(120, np.int32))
    short = subject(rng, signal, 3, 1.0)
    cases = (
        (alone, RSA, "auto", "one subject with one presentation per stimulus, and no other subject"),
        (
            averaged,
            RSA,
            "auto",
            "averages of up to 8 presentations, of which no single trials were kept (keep_trials=true",
        ),
        (
            averaged,
            RIDGE,
            "auto",
            "averages of up to 8 presentations, of which no single trials were kept (keep_trials=true",
        ),
        (alone, RIDGE, ceiling.NCSNR_GIVEN, "no ncsnr comes with the data of subject 01"),
        (short, RSA, rdm_ceilings.SPLIT_QUARTER, "subject 01 has 3 single trials per stimulus, and 4 are needed"),
        (short, replace(RSA, comparator="tau-a"), "auto", "the comparator is tau-a"),
        (short, Similarity(n_permutations=0, n_folds=0), "auto", "no average whose score would bound this measure"),
        (
            replace(short, trials=short.trials[:50]),
            RSA,
            "auto",
            "3 trials of 50 stimuli are kept, and the score is of 120",
        ),
        (short, RSA, ceiling.NCSNR, "ncsnr is not about RDMs, which this metric compares"),
        (alone, RIDGE, ceiling.LEAVE_ONE_SUBJECT_OUT_RESPONSES, "one subject, and no other subject to compare with"),
    )
    for place, (one, metric, recipe, why) in enumerate(cases):
        rows, found, summary = execute(inputs_of([one], [units]), request(metric, [recipe]), str(place))
        assert why in summary["findings"][0]["ceiling"]["why_not"]
        assert not len(found) and rows["ceiling_low"].isna().all() and set(rows["ceiling_recipe"]) == {"none"}


def test_neighbouring_frames_are_no_evidence_of_their_own(execute, rng):
    """Slow noise in 8 sentences of 25 frames agrees between subjects by chance; as independent rows a quarter would count."""
    names = np.repeat([f"s{index}" for index in range(8)], 25)
    starts = np.tile(0.1 * np.arange(25), 8)
    columns = {"sequence": names, "frame_start_s": starts, "frame_stop_s": starts + 0.1}
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / 4) ** 2)
    n_above, n_all = 0, 0
    for draw in range(3):
        noise = rng.standard_normal((2, 200, 12, 10))
        slow = np.apply_along_axis(lambda one: np.convolve(one, kernel, "same"), 1, noise)
        brain = [
            replace(subject(rng, one, 2, 0.0, name=f"0{index}"), columns=columns) for index, one in enumerate(slow)
        ]
        units = rng.standard_normal((200, 3)).astype(np.float32)
        inputs = replace(inputs_of(brain, [units]), groups=np.repeat(np.arange(8), 25))
        asked = request(replace(RIDGE, n_outer=2), [ceiling.LEAVE_ONE_SUBJECT_OUT_RESPONSES])
        _, found, _ = execute(inputs, asked, str(draw))
        n_above += int(found["is_above_chance"].sum())
        n_all += len(found)
    assert n_above / n_all < 0.1


# Asking again.


def test_other_ceilings_compute_no_score_again(execute, rng, patterns, tmp_path):
    units, signal = patterns
    inputs = inputs_of([subject(rng, signal, 8, 1.0)], [units])
    before, _, _ = execute(inputs, request(RSA, normalise=False))
    again, found, _ = execute(inputs, request(RSA, [rdm_ceilings.SPLIT_HALF], True))
    sessions = json.loads((tmp_path / "out" / "run.json").read_text())["sessions"]
    assert [session["units_computed"] for session in sessions] == [1, 0]
    assert set(found["recipe"]) == {rdm_ceilings.SPLIT_HALF}
    np.testing.assert_array_equal(before["value"], again["value"])
    assert (before["ceiling_low"][:2] > again["ceiling_low"][:2]).all()


def test_a_damaged_table_of_ceilings_is_written_again(execute, rng, patterns, tmp_path):
    units, signal = patterns
    inputs = inputs_of([subject(rng, signal, 8, 1.0)], [units])
    execute(inputs, request(RSA))
    file = tmp_path / "out" / "ceilings.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(jaxalign.errors.DataError, match="cut short or damaged"):
        jaxalign.load_ceilings(tmp_path / "out")
    execute(inputs, request(RSA))
    assert file.read_bytes() == whole


def test_normalised_scores_beyond_one_are_counted_and_kept(execute, rng, patterns):
    units, signal = patterns
    inputs = inputs_of([subject(rng, signal, 8, 1.0)], [units])
    rows, _, summary = execute(inputs, request(RSA))
    n_above = int((rows["value_normalised"] > 1).sum())
    said = [text for text in summary["warnings"] if "normalised scores exceed 1" in text]
    assert len(said) == (n_above > 0)
    if said:
        assert f"{n_above} of 2 normalised scores" in said[0]


def test_recipes_are_known_by_name():
    from jaxalign.commands.composed import compose

    assert tuple(ceilings.RESPONSES) == ceiling.OF_RESPONSES and tuple(rdm_bounds.RECIPES) == rdm_ceilings.OF_RDMS
    run_of = ["experiment=n400", "output=x"]
    for option, why in (("[split_half]", "no recipe. .*split_half_spearman_brown_sqrt"), ("[]", "is empty")):
        with pytest.raises(ConfigError, match=why):
            compose([*run_of, f"ceiling.recipes={option}"])
    with pytest.raises(ConfigError, match=r"ceiling\.n_splits=0"):
        compose([*run_of, "ceiling.n_splits=0"])
