"""The figures and the report of a run, on small synthetic tables."""

import json
import re

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from jaxalign.errors import DataError
from jaxalign.results import drawing, figures, frames, report, words
from jaxalign.results.table import SCHEMA, load, to_table, write_atomic, write_json_atomic

CHANNELS = {
    "P7": (-0.055, -0.055, 0.03),
    "P8": (0.055, -0.055, 0.03),
    "Oz": (0.0, -0.085, 0.02),
    "Pz": (0.0, -0.055, 0.075),
}
CHANNELS |= {"Cz": (0.0, 0.0, 0.095), "Fz": (0.0, 0.06, 0.07), "T7": (-0.085, 0.0, 0.02), "T8": (0.085, 0.0, 0.02)}
MODELS = {"tiny-internvl": 6, "tiny-qwen2-vl": 8}
STARTS = np.round(np.arange(-0.1, 0.5, 0.02), 3)
STEP = 0.02
PLANT = {
    "model": "tiny-internvl",
    "layer": "vision.layers.3",
    "time_start_s": 0.10,
    "time_stop_s": 0.24,
    "channels": ["Oz", "P7"],
    "effect": 1.0,
}
FLOOR = 1 / 1001


def scores(subjects, channels, starts, effect, metric, statistic, has_ceiling=True, is_simulated=True):
    """Synthetic rows: noise, and a bump of the planted layer around 0.17 s that grows with `effect`."""
    rng = np.random.default_rng(0)
    names = [f"sub-{i + 1:02d}" for i in range(subjects)]
    cells = [
        (model, f"vision.layers.{i}", i / (n - 1), channel, start)
        for model, n in MODELS.items() for i in range(n) for channel in channels for start in starts
    ]  # fmt: skip
    frame = pd.DataFrame(cells, columns=["model", "layer", "layer_depth", "channel", "time_start_s"])
    depth = np.exp(-((frame["layer_depth"] - 0.6) ** 2) / 0.08) * np.where(frame["model"] == PLANT["model"], 1, 0.7)
    bump = 1.0 if np.isnan(starts[0]) else np.exp(-((frame["time_start_s"] - 0.16) ** 2) / 0.004)
    where = frame["channel"].map({"Oz": 1, "P7": 0.9, "P8": 0.6, "Pz": 0.5, "all": 1}).fillna(0.1)
    blocks = [
        frame.assign(subject=name, value=effect * depth * bump * where + rng.normal(0, 0.02, len(frame)))
        for name in names
    ]
    if subjects > 1:
        blocks.append(frame.assign(subject="mean", value=np.mean([block["value"] for block in blocks], axis=0)))
    rows = pd.concat(blocks, ignore_index=True)
    z = rows["value"] / 0.02
    p = np.clip(np.exp(-np.maximum(z, 0)), FLOOR, 1)
    columns = dict.fromkeys(SCHEMA.names) | rows.to_dict("list")
    columns |= {
        "dataset": "synthetic",
        "revision": "0" * 40,
        "pooling": "mean",
        "metric": metric,
        "statistic": statistic,
    }
    columns |= {"time_stop_s": rows["time_start_s"] + STEP, "z": z, "p": p, "p_floor": FLOOR, "n_permutations": 1000}
    columns |= {
        "p_corrected": np.where(z > 6, FLOOR, np.clip(p * 5, 0.2, 1)),
        "status": "done",
        "is_simulated": is_simulated,
    }
    if has_ceiling:
        columns["is_ceiling_above_chance"] = True
        columns |= {
            "ceiling_low": 0.35 + 0 * z,
            "ceiling_high": 0.45 + 0 * z,
            "ceiling_recipe": "split_half_spearman_brown_sqrt",
        }
    return columns


def finding_of(folder, metric, statistic, subjects, has_ceiling):
    """What the finishing pass would say of the table in `folder`."""
    subject = "mean" if subjects > 1 else "sub-01"
    rows = pd.DataFrame(load(folder, where={"subject": subject}))
    top = rows.loc[rows["z"].idxmax()]
    significant = rows[rows["p_corrected"] < 0.05]
    keys = [
        "model",
        "layer",
        "layer_depth",
        "pooling",
        "channel",
        "time_start_s",
        "time_stop_s",
        "value",
        "z",
        "p",
        "p_corrected",
    ]
    peak = {
        key: top[key] if isinstance(top[key], str) else float(top[key])
        for key in [*keys, "ceiling_low", "ceiling_high"]
    }
    peak |= {key: None for key, value in peak.items() if isinstance(value, float) and np.isnan(value)}
    peak["is_ceiling_above_chance"] = has_ceiling
    at_layer = significant[(significant["model"] == top["model"]) & (significant["layer"] == top["layer"])]
    window = [float(at_layer["time_start_s"].min()), float(at_layer["time_stop_s"].max())]
    is_timed = peak["time_start_s"] is not None
    parts = [f"sub-{i + 1:02d}" for i in range(subjects)] if subjects > 1 else ["fold 1", "fold 2", "fold 3"]
    kept = {key: peak[key] for key in ("model", "layer", "pooling", "channel", "time_start_s", "time_stop_s")}
    held_out = [{"part": part, "value": 0.22 + 0.02 * i, **kept} for i, part in enumerate(parts)]
    values = [part["value"] for part in held_out]
    others = "subjects" if subjects > 1 else "folds"
    return {
        "metric": metric, "statistic": statistic, "subject": subject, "family_id": "f0",
        "level": f"mean over {subjects} subjects" if subjects > 1 else "sub-01",
        "generalises_to": "stimuli, not to subjects", "tail": "greater", "n_permutations": 1000, "p_floor": FLOOR,
        "family_size": len(rows), "family_complete": True, "critical": 4.1, "critical_of": "z",
        "n_significant": len(significant), "n_uncorrected": int((rows["p"] < 0.05).sum()), "peak": peak,
        "window": window if len(at_layer) and is_timed else None,
        "channels": sorted(at_layer["channel"].unique()) if len(at_layer) else [],
        "ceiling": {"recipe": "split_half_spearman_brown_sqrt", "why_not": None, "n_stimuli": 100, "n_repetitions": 20.0,
                    "folds": "a given test set", "level": "responses", "divides": True, "is_divided": False} if has_ceiling else
        {"recipe": None, "why_not": "one subject with one presentation per stimulus: no ceiling can be computed",
         "is_divided": False},
        "held_out": {"recipe": f"layer, channel and time bin chosen on the other {others}",
                     "value": float(np.mean(values)), "n": len(parts), "parts": held_out},
        "ranking": [{"model": model, "value": float(np.mean(values)) - 0.1 * i,
                     "parts": [value - 0.1 * i for value in values],
                     "layer": peak["layer"] if i == 0 else "vision.layers.4", "layer_count": 3}
                    for i, model in enumerate(MODELS)],
        "averages": [],
    }  # fmt: skip


def make_run(folder, metric="ridge", statistic="pearson_r", subjects=4, channels=tuple(CHANNELS), starts=STARTS,
             effect=0.3, has_ceiling=True, is_simulated=True):  # fmt: skip
    """A finished run folder with a synthetic table; returns the folder, its summary and its only finding."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        to_table(scores(subjects, channels, starts, effect, metric, statistic, has_ceiling, is_simulated)),
        folder / "scores.parquet",
    )
    finding = finding_of(folder, metric, statistic, subjects, has_ceiling)
    is_timed = finding["peak"]["time_start_s"] is not None
    found = {
        "name": "synthetic", "command": "jaxalign experiment=synthetic", "run_hash": "abc123",
        "is_simulated": is_simulated,
        "planted": [PLANT] if is_simulated else [], "warnings": ["alphas at the edge for 12 % of targets <b>"],
        "dataset": {"name": "synthetic", "n_subjects": subjects, "n_stimuli": 92, "n_test": 20,
                    "n_channels": len(channels), "n_times": len(starts) if is_timed else 0, "unit": "V",
                    "notes": ["made by tests/test_report.py"]},
        "n_constant_targets": 3, "failed_units": [{"unit_id": "u7", "why": "not finite"}], "findings": [finding],
    }  # fmt: skip
    write_json_atomic(found, folder / "summary.json")
    write_json_atomic({"versions": {"jax": "0.10.2"}, "seed": 0}, folder / "run.json")
    names = [name for name in channels if name in CHANNELS]
    if names:
        places = [list(CHANNELS[name]) for name in names]
        write_json_atomic({"names": names, "positions": places, "unit": "V"}, folder / "channels.json")
    return folder, found, finding


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("significant"))


@pytest.fixture(scope="module")
def page(run):
    return report.write_report(run[0]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rdm_run(tmp_path_factory):
    return make_run(
        tmp_path_factory.mktemp("rdm"),
        "rsa",
        "rsa",
        channels=("all",),
        starts=np.array([np.nan]),
        is_simulated=False,
    )


def rows_of(folder):
    return load(folder, columns=list(frames.COLUMNS))


def test_answer_names_layer_place_time_p_and_held_out_score(run):
    _, found, finding = run
    headline, *details = words.answer(finding, found).split("\n")
    assert "layer vision.layers.3 of tiny-internvl" in headline
    assert "at channel Oz, 0.16 to 0.18 s after stimulus onset" in headline
    assert "corrected p <= .001 (the smallest that 1,000 permutations can give)" in headline
    assert "over a family of 3,360 scores" in headline
    assert headline.endswith("Held-out Pearson r = .250.")
    assert any("layer, channel and time bin chosen on the other subjects" in line for line in details)
    assert "What is significant generalises to stimuli, not to subjects." in details


def test_headline_never_shows_the_maximum(run):
    _, found, finding = run
    assert words.number(finding["peak"]["value"]) not in words.answer(finding, found).split("\n")[0]


def test_planted_layer_and_window_are_compared_with_what_was_found(run):
    _, found, finding = run
    text = words.answer(finding, found)
    assert text.startswith("[simulated data]")
    assert re.search(
        r"Found: the planted layer; window .* covers \d+ % of the planted one; peak channel Oz is a planted one", text
    )


def test_nothing_significant_claims_no_layer(tmp_path):
    _, found, finding = make_run(tmp_path, effect=0.0)
    headline, *details = words.answer(finding, found).split("\n")
    assert "nothing is significant" in headline and "strongest" not in headline
    assert f"layer {finding['peak']['layer']}" in headline and re.search(r"has corrected p = \.\d{3},", headline)
    assert any("Not found: nothing is significant" in line for line in details)


def test_simulated_data_without_plants_say_so(run):
    _, found, finding = run
    text = words.answer(finding | {"n_significant": 0}, found | {"planted": []})
    assert "Planted: nothing; and nothing was found, as it should be." in text


def test_single_subject_without_repetitions_has_no_ceiling(tmp_path):
    folder, found, finding = make_run(tmp_path, subjects=1, has_ceiling=False, is_simulated=False)
    text = words.answer(finding, found)
    assert "No ceiling can be computed: one subject with one presentation per stimulus." in text
    assert "chosen on the other folds" in text and "simulated" not in text and "Planted" not in text
    html = report.write_report(folder).read_text(encoding="utf-8")
    assert "There is one subject, hence no band over subjects." in html and "SIMULATED" not in html
    assert frames.time_course_data(rows_of(folder), finding)["sem"].isna().all()


def test_ceiling_at_chance_is_not_compared(run):
    _, found, finding = run
    text = words.answer(finding | {"peak": finding["peak"] | {"is_ceiling_above_chance": False}}, found)
    assert "It is not above chance, so no score is compared with it." in text
    assert "too high by selection, lies" not in text


def test_ceiling_at_chance_is_labelled_in_figures(run):
    folder, _, finding = run
    rows = pd.DataFrame(rows_of(folder)).assign(is_ceiling_above_chance=False)
    at_chance = finding | {"peak": finding["peak"] | {"is_ceiling_above_chance": False}}
    for draw in (figures.time_course, figures.layer_profile, figures.model_ranking):
        labels = [text.get_text() for text in draw(rows, at_chance).legends[0].get_texts()]
        assert "noise ceiling, not above chance" in labels and "noise ceiling" not in labels


def test_choice_for_each_part_is_counted(run):
    _, found, finding = run
    assert "The choice fell on layer vision.layers.3 of tiny-internvl for 4 of 4 subjects." in words.answer(
        finding, found
    )


def test_second_metric_of_a_kind_is_told_from_the_first(run):
    _, _, finding = run
    assert (
        words.title(finding | {"metric": "rsa_pearson", "statistic": "rsa"})
        == "RSA (rsa_pearson), mean over 4 subjects"
    )


def test_incomplete_family_and_missing_test_are_said(run):
    _, found, finding = run
    assert "corrected p values are provisional" in words.answer(finding | {"family_complete": False}, found)
    untested = finding | {
        "n_permutations": 0,
        "n_significant": 0,
        "peak": finding["peak"] | {"p": None, "p_corrected": None},
    }
    assert "no permutation test was made" in words.answer(untested, found)
    assert "significant after" not in words.answer(untested, found)


def test_failed_units_leave_no_corrected_p(run):
    _, found, finding = run
    failed = finding | {"n_significant": 0, "family_complete": False, "peak": finding["peak"] | {"p_corrected": None}}
    text = words.answer(failed, found)
    assert "no p value could be corrected, because some units have no result" in text
    assert "significant after correction" not in text


def test_run_without_any_score_still_has_a_report(tmp_path):
    folder, found, finding = make_run(tmp_path)
    nothing = finding | {
        "peak": None,
        "window": None,
        "channels": [],
        "n_significant": 0,
        "held_out": None,
        "ranking": [],
    }
    write_json_atomic(found | {"findings": [nothing]}, folder / "summary.json")
    html = report.write_report(folder).read_text(encoding="utf-8")
    assert "no score is defined" in html and "<figure>" not in html


@pytest.mark.parametrize(
    "why_not", ["not computable: one subject", "one subject: no ceiling can be computed", "no ceiling: one subject"]
)
def test_missing_ceiling_is_explained_once(run, why_not):
    _, found, finding = run
    text = words.answer(finding | {"ceiling": {"recipe": None, "why_not": why_not}}, found)
    assert "No ceiling can be computed: one subject.\n" in text


def test_no_held_out_score_gives_no_headline_number(run):
    _, found, finding = run
    text = words.answer(finding | {"held_out": None, "ranking": []}, found)
    assert "is too high; no held-out score can be given" in text and "Held-out Pearson" not in text
    assert "Pearson" not in text.splitlines()[0].split(":", 1)[1]


def test_declared_average_is_reported(run):
    _, found, finding = run
    average = {
        "channel": "mean of P3, Pz, P4",
        "time_start_s": 0.30,
        "time_stop_s": 0.47,
        "value": 0.324,
        "p": FLOOR,
        "p_corrected": 0.003,
    }
    layers = [average | {"model": "m", "layer": "weak", "p_corrected": 0.4}, average | {"model": "m", "layer": "l"}]
    text = words.answer(finding | {"averages": layers}, found)
    assert (
        "at mean of P3, Pz, P4, 0.30 to 0.47 s after stimulus onset: Pearson r = .324, corrected p = .003 "
        "(layer l of m, the strongest of 2 layers)" in text
    )


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.003, "p = .003"),
        (FLOOR, "p <= .001 (the smallest that 1,000 permutations can give)"),
        (1.0, "p = 1"),
        (0.0002, "p <= .0002 (the smallest that 1,000 permutations can give)"),
        (None, "no p"),
    ],
)
def test_p_is_worded_with_its_floor(p, text):
    assert words.p_words(p, FLOOR, 1000) == text


def axis_labels(figure):
    return {axes.get_xlabel() for axes in figure.axes} | {axes.get_ylabel() for axes in figure.axes}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("layer_time_map", {figures.TIME_LABEL, "Layer, deepest on top", "Pearson r"}),
        ("time_course", {figures.TIME_LABEL, "Pearson r"}),
        ("model_ranking", {"Held-out Pearson r", "Model and layer"}),
        ("layer_profile", {figures.DEPTH_LABEL, "Pearson r"}),
    ],
)
def test_figure_has_units_on_its_axes_and_is_marked_simulated(run, name, labels):
    folder, _, finding = run
    figure = getattr(figures, name)(rows_of(folder), finding)
    assert isinstance(figure, Figure)
    assert labels <= axis_labels(figure)
    assert figure.get_suptitle().startswith("SIMULATED DATA. Ridge regression, Pearson r, mean over 4 subjects")


def test_topography_maps_the_peak_and_its_neighbours(run):
    folder, _, finding = run
    channels = json.loads((folder / "channels.json").read_text())
    figure = figures.topography(rows_of(folder), channels, finding)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 5 and titles[2] == "0.16 to 0.18 s\npeak"
    assert "SIMULATED" in figure.get_suptitle()


def test_topography_without_positions_is_refused(run):
    folder, _, finding = run
    channels = {"names": list(CHANNELS), "positions": [None] * len(CHANNELS)}
    with pytest.raises(DataError, match="0 of 8 channels have a position"):
        figures.topography(rows_of(folder), channels, finding)


def test_map_data_leaves_out_declared_averages(run):
    folder, _, finding = run
    rows = pd.DataFrame(rows_of(folder))
    average = rows[(rows["subject"] == "mean") & (rows["channel"] == "Oz")].head(1).assign(time_stop_s=np.float32(0.4))
    with_average = pd.concat([rows, average], ignore_index=True)
    pd.testing.assert_frame_equal(
        frames.layer_time_map_data(rows, finding), frames.layer_time_map_data(with_average, finding)
    )


def test_time_course_band_is_the_standard_error_over_subjects(run):
    folder, _, finding = run
    course = frames.time_course_data(rows_of(folder), finding)
    rows = pd.DataFrame(rows_of(folder))
    cell = rows[(rows["model"] == "tiny-internvl") & (rows["layer"] == "vision.layers.3") & (rows["channel"] == "Oz")]
    cell = cell[np.isclose(cell["time_start_s"], 0.16) & (cell["subject"] != "mean")]["value"]
    shown = course[(course["model"] == "tiny-internvl") & np.isclose(course["time_start_s"], 0.16)]
    assert shown["sem"].item() == pytest.approx(cell.std(ddof=1) / 2, rel=1e-5)
    assert shown["n_subjects"].item() == 4


def test_ranking_shows_held_out_values_in_descending_order(run):
    folder, _, finding = run
    data = frames.model_ranking_data(rows_of(folder), finding)
    assert list(data.loc[data["part"] == "mean", "model"]) == list(MODELS)
    assert data["value"].max() == pytest.approx(0.28) and set(data["part"]) == {
        "mean",
        "sub-01",
        "sub-02",
        "sub-03",
        "sub-04",
    }


def test_outline_follows_the_borders_of_significant_cells():
    inside = np.zeros((3, 4), bool)
    inside[1, 1:3] = True
    segments = drawing.outline(inside, np.array([0.0, 0.1, 0.2, 0.3, 0.4]))
    assert len(segments) == 6
    assert [(0.1, 0.5), (0.1, 1.5)] in segments and [(0.2, 1.5), (0.3, 1.5)] in segments


def test_layer_labels_keep_what_differs():
    assert drawing.labels(["m.layers.3.norm", "m.layers.11.norm"]) == ["layers.3", "layers.11"]
    assert drawing.labels(["vision.layers.3", "connector"]) == ["vision.layers.3", "connector"]
    assert drawing.labels(["only.one"]) == ["only.one"]


def test_rows_of_two_revisions_are_not_drawn_over_each_other(run):
    folder, _, finding = run
    rows = pd.DataFrame(rows_of(folder))
    with pytest.raises(DataError, match="they differ in data set or revision"):
        figures.layer_profile(pd.concat([rows, rows]), finding)


def test_overlapping_bins_meet_half_way():
    np.testing.assert_allclose(frames.time_edges([0.0, 0.01, 0.02], [0.02, 0.03, 0.04]), [0.005, 0.015, 0.025, 0.035])


def test_report_opens_with_the_answer_and_a_simulated_banner(run, page):
    assert (
        page.index('class="simulated"')
        < page.index("<h2>Answer</h2>")
        < page.index("<h2>Warnings</h2>")
        < page.index("<figure>")
    )
    assert "layer vision.layers.3 of tiny-internvl" in page
    assert page.count("<figure>") == 5


def test_report_fetches_nothing(page):
    targets = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert targets and all(target.startswith("data:") for target in targets)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert len(page) < 2_000_000


def test_report_counts_warnings_and_escapes_them(page):
    assert "12 % of targets &lt;b&gt;" in page
    assert "constant over stimuli: 3." in page and "1 unit has no result (u7: not finite)" in page


def test_report_ends_with_methods_and_provenance(page):
    assert "split_half_spearman_brown_sqrt" in page and "shared by all layers" in page
    assert "jaxalign experiment=synthetic" in page and "abc123" in page and "0.10.2" in page


def test_report_of_dissimilarities_without_times(rdm_run):
    folder, found, finding = rdm_run
    html = report.write_report(folder).read_text(encoding="utf-8")
    assert html.count("<figure>") == 2 and 'alt="model ranking"' in html and 'alt="layer profile"' in html
    assert "over all stimuli" in words.answer(finding, found)
    assert "No topographies: this metric scores the pattern over all channels." in html
    assert figures.model_ranking(rows_of(folder), finding).get_suptitle().startswith("RSA, mean over 4 subjects")


def test_rsa_with_times_has_map_and_course_but_no_topography(tmp_path):
    folder, _, _ = make_run(tmp_path, "rsa", "rsa", channels=("all",))
    html = report.write_report(folder).read_text(encoding="utf-8")
    assert 'alt="layer time map"' in html and 'alt="time course"' in html and 'alt="topography"' not in html


def test_report_without_positions_says_so(tmp_path):
    folder, _, _ = make_run(tmp_path)
    (folder / "channels.json").unlink()
    assert "No topographies: the run holds no channel positions" in report.write_report(folder).read_text(
        encoding="utf-8"
    )


def test_same_rows_give_the_same_report(run, page):
    assert report.write_report(run[0]).read_text(encoding="utf-8") == page


@pytest.mark.parametrize("is_above", [True, False])
def test_a_ceiling_of_one_number_is_seen_as_a_line(is_above):
    """Low and high are equal for estimates: a band without a height would be nothing."""
    from matplotlib.figure import Figure

    from jaxalign.results import drawing

    axes = Figure().subplots()
    bins = {"time_start_s": [0.1], "time_stop_s": [0.2], "ceiling_low": [0.5], "ceiling_high": [0.5]}
    drawing.ceiling_over_time(axes, pd.DataFrame({**bins, "is_ceiling_above_chance": [is_above]}))
    drawing.ceiling_span(
        axes, {"peak": {"ceiling_low": 0.5, "ceiling_high": 0.5, "is_ceiling_above_chance": is_above}}, True
    )
    assert len(axes.patches) == 2
    for patch in axes.patches:
        assert patch.get_linewidth() >= 1 and patch.get_edgecolor()[3] > 0
