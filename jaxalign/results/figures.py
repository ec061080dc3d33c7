"""The figures of a finding: scores over layers, time, channels and models, each drawn from its frame in frames.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from jaxalign.errors import DataError
from jaxalign.results import drawing, frames
from jaxalign.results.frames import Finding, is_significant
from jaxalign.results.words import place, seconds, statistic_name, title

WIDTH = 10.0  # inches; 1,000 px at DPI
DPI = 100
N_CURVES = 7  # as many as there are colours that colour-blind readers tell apart
TIME_LABEL = "Time after stimulus onset (s)"
DEPTH_LABEL = "Layer depth (0 first, 1 last)"


def layer_time_map(rows: pd.DataFrame, finding: Finding) -> Figure:
    """Layers x time, one panel per model, at the channel of the peak.

    Cells with corrected p <= .05 are outlined, the noise ceiling is a strip above each map on the same colours, the
    onset is a line and the peak a cross.

    Args:
        rows: scores with the columns frames.COLUMNS; times in seconds.
        finding: one entry of summary["findings"].
    """
    data = _filled(frames.layer_time_map_data(rows, finding), "a map of layers and time")
    panels = dict(list(data.groupby("model", sort=False)))
    n_columns = min(len(panels), 2)
    n_rows = -(-len(panels) // n_columns)
    has_strip = bool(data["ceiling_high"].notna().any())
    height = 0.9 + n_rows * (3.4 if n_columns == 2 else 4.2)
    figure = _figure(height)
    norm, extend = drawing.scale(data, finding)
    ratios = [0.12 if has_strip else 0.001, 1]
    cells = figure.subplots(2 * n_rows, n_columns, squeeze=False, height_ratios=ratios * n_rows)
    pairs = cells.reshape(n_rows, 2, n_columns).transpose(0, 2, 1).reshape(-1, 2)
    for strip, axes in pairs[len(panels) :]:
        strip.set_axis_off()
        axes.set_axis_off()
    for (strip, axes), (model, shown) in zip(pairs, panels.items(), strict=False):
        drawing.map_panel(axes, shown, finding, model, norm)
        drawing.ceiling_strip(strip, shown if has_strip else shown.iloc[:0], norm)
        strip.set_title(model, fontsize=10, loc="left")
        strip.set_xlim(axes.get_xlim())
    for _, axes in pairs[max(len(panels) - n_columns, 0) : len(panels)]:
        axes.set_xlabel(TIME_LABEL)
    bar = ScalarMappable(norm, drawing.MAP)
    shrink = min(0.8, 3 / height)
    figure.colorbar(
        bar, ax=cells, extend=extend, label=statistic_name(finding), shrink=shrink, aspect=18, anchor=(0, 1)
    )
    return _headed(figure, finding, rows, _channel_words(finding))


def time_course(rows: pd.DataFrame, finding: Finding, planted: Sequence[dict[str, Any]] = ()) -> Figure:
    """Value over time of the layer by which each model is ranked, at the channel of the peak.

    The band around a line is the standard error over subjects (none for a single subject); the grey band is the noise
    ceiling; bars below show corrected p <= .05; planted windows are shaded.

    Args:
        rows: scores of all subjects, with the columns frames.COLUMNS.
        finding: one entry of summary["findings"].
        planted: entries of summary["planted"], windows in seconds.
    """
    data = _filled(frames.time_course_data(rows, finding), "a time course")
    data, note = _first_models(data, finding)
    figure = _figure(4.2 + 0.18 * data["model"].nunique())
    axes = figure.subplots()
    drawing.ceiling_over_time(axes, data)
    colours = drawing.colours(data["model"].unique())
    for model, course in data.groupby("model", sort=False):
        layer = course["layer"].iloc[0]
        times = (course["time_start_s"] + course["time_stop_s"]).to_numpy() / 2
        axes.plot(times, course["value"], label=f"{model}: {drawing.short(layer, 60)}", lw=1.8, color=colours[model])
        low, high = course["value"] - course["sem"], course["value"] + course["sem"]
        axes.fill_between(times, low, high, color=colours[model], alpha=0.25, lw=0)
    drawing.significance_bars(axes, data, colours)
    drawing.shade_planted(axes, planted)
    axes.axvline(0, color=drawing.INK, lw=0.8, ls="--")
    axes.axhline(0, color=drawing.GREY, lw=0.6)
    axes.set(xlabel=TIME_LABEL, ylabel=statistic_name(finding))
    drawing.legend(figure, axes)
    return _headed(figure, finding, rows, _channel_words(finding) + note)


def topography(rows: pd.DataFrame, channels: dict[str, Any], finding: Finding) -> Figure:
    """Scalp maps of the layer of the peak, at its time bin and around it; channels with corrected p <= .05 marked.

    Args:
        rows: scores with the columns frames.COLUMNS.
        channels: "names" and "positions", [x, y, z] in metres (x right, y front, z up) or null.
        finding: one entry of summary["findings"].
    Raises:
        DataError: if fewer than four channels have a position.
    """
    data = frames.topography_data(rows, channels, finding)
    if data["channel"].nunique() < 4:
        raise DataError(
            f"{data['channel'].nunique()} of {len(channels['names'])} channels have a position and a score: a "
            "scalp map needs four. "
            "Give positions in channels.json, or set a montage on the recordings."
        )
    starts = list(data["time_start_s"].unique())
    figure = _figure(2.8)
    cells = figure.subplots(1, len(starts), squeeze=False)[0]
    norm, extend = drawing.scale(data.assign(ceiling_high=np.nan), finding)
    for axes, start in zip(cells, starts, strict=True):
        shown = data[data["time_start_s"] == start]
        drawing.scalp(axes, shown, norm)
        is_peak = np.isclose(start, finding["peak"]["time_start_s"], atol=1e-5)
        when = seconds(start, shown["time_stop_s"].iloc[0])
        axes.set_title(f"{when}\n{'peak' if is_peak else ''}", fontsize=9, fontweight="bold" if is_peak else "normal")
    figure.colorbar(
        ScalarMappable(norm, drawing.MAP), ax=cells, extend=extend, label=statistic_name(finding), shrink=0.7
    )
    peak = finding["peak"]
    return _headed(figure, finding, rows, f"layer {drawing.short(peak['layer'], 60)} of {peak['model']}")


def model_ranking(rows: pd.DataFrame, finding: Finding) -> Figure:
    """Held-out value of each model: a large dot for the mean, a small one per subject or fold; the ceiling as a band.

    A star marks models with any score of corrected p <= .05. The plain maximum is not shown.

    Args:
        rows: scores that hold at least the most significant cell of each model.
        finding: one entry of summary["findings"], with a ranking.
    """
    data = _filled(frames.model_ranking_data(rows, finding), "a ranking of models")
    models = list(data["model"].unique())
    figure = _figure(1.7 + 0.42 * len(models))
    axes = figure.subplots()
    drawing.ceiling_span(axes, finding, horizontal=False)
    for i, model in enumerate(models):
        entry = data[data["model"] == model]
        parts = entry.loc[entry["part"] != "mean", "value"]
        offsets = np.linspace(-0.22, 0.22, len(parts)) if len(parts) > 1 else np.zeros(len(parts))
        axes.plot(
            parts,
            i + offsets,
            "o",
            ms=4,
            color=drawing.COLOURS[0],
            alpha=0.45,
            mew=0,
            label="_nolegend_" if i else _part_words(finding),
        )
        axes.plot(
            entry.loc[entry["part"] == "mean", "value"],
            [i],
            "D",
            ms=8,
            color=drawing.COLOURS[1],
            label="_nolegend_" if i else "mean",
        )
    stars = ["* " if data.loc[data["model"] == model, "is_significant"].any() else "" for model in models]
    names = [
        f"{star}{model}\n{drawing.short(layer, 44)}"
        for star, model, layer in zip(stars, models, _first_layers(data), strict=True)
    ]
    axes.set_yticks(range(len(models)), names, fontsize=8)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.axvline(0, color=drawing.GREY, lw=0.8)
    axes.set(xlabel=f"Held-out {statistic_name(finding)}", ylabel="Model and layer")
    drawing.legend(figure, axes)
    return _headed(figure, finding, rows, "* any score with corrected p <= .05" if any(stars) else "")


def layer_profile(rows: pd.DataFrame, finding: Finding) -> Figure:
    """Value by layer depth at the channel and time bin of the peak; filled dots have corrected p <= .05.

    Args:
        rows: scores with the columns frames.COLUMNS.
        finding: one entry of summary["findings"].
    """
    data = _filled(frames.layer_profile_data(rows, finding), "a layer profile")
    data, note = _first_models(data, finding)
    figure = _figure(4.0)
    axes = figure.subplots()
    drawing.ceiling_span(axes, finding, horizontal=True)
    colours = drawing.colours(data["model"].unique())
    for model, profile in data.groupby("model", sort=False):
        significant = profile[is_significant(profile)]
        axes.plot(
            profile["layer_depth"], profile["value"], marker="o", mfc="white", ms=6, label=model, color=colours[model]
        )
        axes.plot(significant["layer_depth"], significant["value"], "o", ms=6, color=colours[model])
    axes.axhline(0, color=drawing.GREY, lw=0.6)
    axes.set(xlabel=DEPTH_LABEL, ylabel=statistic_name(finding))
    drawing.legend(figure, axes)
    return _headed(figure, finding, rows, (place(finding["peak"]) + note).removeprefix("; "))


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _headed(figure: Figure, finding: Finding, rows: pd.DataFrame, detail: str) -> Figure:
    """The figure with its title, and with "simulated data" in it where they are."""
    simulated = "SIMULATED DATA. " if len(rows) and bool(rows["is_simulated"].any()) else ""
    figure.suptitle(f"{simulated}{title(finding)}" + (f"\n{detail}" if detail else ""), fontsize=11)
    return figure


def _filled(data: pd.DataFrame, what: str) -> pd.DataFrame:
    """The frame itself.

    Raises:
        DataError: if it is empty.
    """
    if data.empty:
        raise DataError(
            f"No row is left for {what}: the rows do not hold the metric, statistic, subject and channel of the "
            "finding. Load them anew."
        )
    return data


def _first_models(data: pd.DataFrame, finding: Finding) -> tuple[pd.DataFrame, str]:
    """Rows of at most N_CURVES models, the highest held-out scores first, and a note of how many are left."""
    present = set(data["model"])
    ranked = [entry["model"] for entry in finding["ranking"] if entry["model"] in present]
    order = {model: i for i, model in enumerate(dict.fromkeys([*ranked, *sorted(present)]))}
    places = data["model"].map(order)
    shown = data.assign(place=places)[places < N_CURVES].sort_values("place", kind="stable").drop(columns="place")
    n_models = len(order)
    return shown, f"; the first {N_CURVES} of {n_models} models by held-out score" if n_models > N_CURVES else ""


def _first_layers(data: pd.DataFrame) -> list[str]:
    return data.drop_duplicates("model")["layer"].tolist()


def _part_words(finding: Finding) -> str:
    recipe = (finding["held_out"] or {"recipe": ""})["recipe"]
    return "one subject" if "subjects" in recipe else "one fold" if "folds" in recipe else "one part"


def _channel_words(finding: Finding) -> str:
    channel = finding["peak"]["channel"]
    return (
        "pattern over all channels"
        if channel == "all"
        else channel
        if channel.startswith("mean of ")
        else f"at channel {channel}"
    )
