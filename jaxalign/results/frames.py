"""What each figure shows, as a small frame that can be saved as CSV: selections of the long table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxalign.errors import DataError

Finding = dict[str, Any]
"""One entry of summary["findings"]: what a metric x statistic found, its peak and its held-out score."""

COLUMNS = (
    "subject", "model", "layer", "layer_depth", "pooling", "metric", "statistic", "channel", "time_start_s",
    "time_stop_s", "value", "z", "p", "p_corrected", "ceiling_low", "ceiling_high", "is_ceiling_above_chance",
    "value_normalised", "is_simulated",
)  # fmt: skip
"""The columns that the figures read; hand list(COLUMNS) to `load(columns=)`."""

SIGNIFICANT = 0.05
_CELL = [
    "time_start_s",
    "time_stop_s",
    "value",
    "p_corrected",
    "ceiling_low",
    "ceiling_high",
    "is_ceiling_above_chance",
]
_LAYER = ["model", "pooling", "layer", "layer_depth"]


def is_missing(number: float | None) -> bool:
    """Whether a number of summary.json or of the table is absent (null or NaN)."""
    return number is None or bool(np.isnan(number))


def is_significant(rows: pd.DataFrame) -> pd.Series:
    """Which rows have a corrected p of at most .05; NaN has not. -> (n_rows,) bool"""
    return rows["p_corrected"] <= SIGNIFICANT


def has_times(finding: Finding) -> bool:
    """Whether the targets of a finding have a time; dissimilarities of a whole recording have none."""
    return not is_missing(finding["peak"]["time_start_s"])


def has_channels(finding: Finding) -> bool:
    """Whether the targets of a finding are single channels, not a pattern over all of them."""
    return finding["peak"]["channel"] != "all"


def layer_time_map_data(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Value of every layer and time bin at the channel of the peak.

    Args:
        rows: scores, one row per cell, with the columns COLUMNS.
        finding: its peak names the channel and its subject the rows to show.
    Returns:
        One row per model x layer x time bin; times in seconds after stimulus onset.
    """
    shown = at_channel(of_subject(rows, finding), finding)
    return one_pooling(on_grid(shown), finding)[_LAYER + _CELL].sort_values(
        ["model", "layer_depth", "time_start_s"], ignore_index=True
    )


def time_course_data(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Value over time of the layer by which each model is ranked, at the channel of the peak.

    Args:
        rows: scores of all subjects, with the columns COLUMNS.
        finding: names the channel, the layers (in its ranking) and the subject ("mean", or a single one).
    Returns:
        One row per model x time bin. `sem` is the standard error over `n_subjects` subjects; NaN below two.
    """
    layers = ranked_layers(finding)
    rows = on_grid(at_channel(of_finding(rows, finding), finding))
    rows = one_pooling(rows[rows["layer"].astype(str) == rows["model"].astype(str).map(layers)], finding)
    shown = rows[rows["subject"] == finding["subject"]]
    singles = rows[rows["subject"] != "mean"].groupby(["model", "time_start_s"])["value"]
    spread = singles.agg(sem="sem", n_subjects="count").reset_index()
    merged = shown[_LAYER + _CELL].merge(spread, on=["model", "time_start_s"], how="left")
    return merged.sort_values(["model", "time_start_s"], ignore_index=True)


def topography_data(rows: pd.DataFrame, channels: dict[str, Any], finding: Finding, n_maps: int = 5) -> pd.DataFrame:
    """Value of every channel with a position, at the time bin of the peak and at time bins around it.

    Args:
        rows: scores with the columns COLUMNS.
        channels: "names" and "positions", [x, y, z] in metres or null where unknown.
        finding: its peak names the model, layer, pooling and time bin.
        n_maps: time bins to show; they span the significant window, or follow each other without one.
    Returns:
        One row per time bin x channel, with x, y, z in metres.
    """
    peak = finding["peak"]
    rows = of_subject(rows, finding)
    rows = on_grid(rows[(rows["model"] == peak["model"]) & (rows["layer"] == peak["layer"])])
    rows = rows[rows["pooling"] == peak["pooling"]]
    places = {
        name: place for name, place in zip(channels["names"], channels["positions"], strict=True) if place is not None
    }
    rows = rows[rows["channel"].isin(list(places)) & rows["time_start_s"].isin(_starts_around(rows, finding, n_maps))]
    where = pd.DataFrame([[name, *place] for name, place in places.items()], columns=["channel", "x", "y", "z"])
    merged = rows[["channel", *_CELL]].merge(where, on="channel")
    return merged.sort_values(["time_start_s", "channel"], ignore_index=True)


def model_ranking_data(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Held-out value of each model, and of each part (subject or fold) that did not choose the layer.

    Args:
        rows: scores that hold at least the most significant cell of each model; they only say which models have one.
        finding: its ranking holds the held-out values.
    Returns:
        One row per model x part, the part "mean" first; models as ranked, in descending order of that mean.
    """
    rows = of_subject(rows, finding)
    significant = set(rows.loc[is_significant(rows), "model"].astype(str))
    parts = [part["part"] for part in (finding["held_out"] or {"parts": []})["parts"]]
    table = []
    for entry in finding["ranking"]:
        names = parts if len(parts) == len(entry["parts"]) else [f"part {i + 1}" for i in range(len(entry["parts"]))]
        for part, value in [("mean", entry["value"]), *zip(names, entry["parts"], strict=True)]:
            table.append((entry["model"], part, value, entry["layer"], entry["model"] in significant))
    return pd.DataFrame(table, columns=["model", "part", "value", "layer", "is_significant"]).astype({"value": float})


def layer_profile_data(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Value by layer depth at the channel and time bin of the peak.

    Args:
        rows: scores with the columns COLUMNS.
        finding: its peak names the channel and the time bin.
    Returns:
        One row per model x layer; layer_depth from 0 (first layer) to 1 (last).
    """
    rows = at_channel(of_subject(rows, finding), finding)
    if has_times(finding):
        peak = finding["peak"]
        is_peak = np.isclose(rows["time_start_s"], peak["time_start_s"], atol=1e-5)
        rows = rows[is_peak & np.isclose(rows["time_stop_s"], peak["time_stop_s"], atol=1e-5)]
    return one_pooling(rows, finding)[_LAYER + _CELL].sort_values(["model", "layer_depth"], ignore_index=True)


def of_finding(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Rows of the metric and the statistic of a finding, all subjects."""
    return rows[(rows["metric"] == finding["metric"]) & (rows["statistic"] == finding["statistic"])]


def of_subject(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Rows that a finding speaks of: the mean over subjects, or the single subject."""
    rows = of_finding(rows, finding)
    return rows[rows["subject"] == finding["subject"]]


def at_channel(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Rows at the channel of the peak."""
    return rows[rows["channel"] == finding["peak"]["channel"]]


def on_grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of single time bins; declared averages over longer windows share the table and are left out.

    A single time bin is one of the most frequent duration.
    """
    durations = (rows["time_stop_s"] - rows["time_start_s"]).round(4)
    usual = durations.mode()
    return rows[np.isclose(durations, usual.iloc[0], atol=2e-4)] if len(usual) else rows.iloc[:0]


def one_pooling(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Rows of one pooling per model, with words as plain strings.

    It is the pooling of the peak for its model, that of the held-out choice for the others, or else the first one.

    Raises:
        DataError: if two rows still share model, layer, subject, channel and time bin.
    """
    parts = (finding["held_out"] or {"parts": []})["parts"]
    chosen = {part["model"]: part["pooling"] for part in parts}
    chosen[finding["peak"]["model"]] = finding["peak"]["pooling"]
    rows = rows.assign(**{name: rows[name].astype(str) for name in ("model", "layer", "pooling")})
    first = {model: group["pooling"].min() for model, group in rows.groupby("model")}
    rows = rows[rows["pooling"] == rows["model"].map({**first, **chosen})]
    n_repeated = int(rows.duplicated(["model", "layer", "subject", "channel", "time_start_s"]).sum())
    if n_repeated:
        raise DataError(
            f"{n_repeated} of {len(rows)} rows share model, layer, subject, channel and time bin, so one figure "
            "cannot show them: "
            "they differ in data set or revision. Select one with load(where=)."
        )
    return rows


def ranked_layers(finding: Finding) -> dict[str, str]:
    """Model -> the layer most often chosen on other subjects or folds; without a ranking the layer of the peak."""
    layers = {entry["model"]: entry["layer"] for entry in finding["ranking"]}
    return layers or {finding["peak"]["model"]: finding["peak"]["layer"]}


def time_edges(starts: Sequence[float], stops: Sequence[float]) -> np.ndarray:
    """Edges (n_time_bins + 1,) in seconds at which cells are drawn; overlapping or spaced bins meet half way."""
    first, last = np.asarray(starts, float), np.asarray(stops, float)
    if np.allclose(first[1:], last[:-1], atol=1e-5):
        return np.append(first, last[-1])
    centres = (first + last) / 2
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _starts_around(rows: pd.DataFrame, finding: Finding, n_maps: int) -> np.ndarray:
    """Starts of the time bins to map, the peak's own in the middle where the recording is long enough."""
    starts = np.sort(rows["time_start_s"].unique())
    peak = int(np.argmin(np.abs(starts - finding["peak"]["time_start_s"])))
    window = finding["window"] or [0.0, 0.0]
    n_inside = int(((starts >= window[0] - 1e-5) & (starts < window[1] - 1e-5)).sum())
    stride = max(1, round(n_inside / n_maps))
    wanted = peak + stride * (np.arange(n_maps) - n_maps // 2)
    return starts[wanted[(wanted >= 0) & (wanted < len(starts))]]
