"""Marks that the figures share: maps, outlines, bands, scalps, legends and labels, on axes given to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxalign.results import frames
from jaxalign.results.frames import SIGNIFICANT, Finding

MAP = "RdBu_r"
INK, GREY = "#222222", "#777777"
# The edges show ceilings that are one number, whose bands have no height.
CEILING: dict[str, Any] = {"fc": "#d9d9d9", "ec": "#bdbdbd", "lw": 2.0, "label": "noise ceiling"}
CEILING_AT_CHANCE: dict[str, Any] = {
    "fc": "none",
    "ec": "#bbbbbb",
    "hatch": "////",
    "lw": 1,
    "label": "noise ceiling, not above chance",
}
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito, for colour-blind readers
SCALP_MARK = {"marker": "o", "markerfacecolor": "w", "markeredgecolor": "k", "markersize": 6}


def map_panel(axes: Axes, data: pd.DataFrame, finding: Finding, model: str, norm: Normalize) -> None:
    """One model's map: cells, outline of significance, onset, peak, layer names."""
    order = data.drop_duplicates("layer")["layer"].tolist()
    grids = {name: _grid(data, order, name) for name in ("value", "p_corrected")}
    bins = data.drop_duplicates("time_start_s").sort_values("time_start_s")
    edges = frames.time_edges(bins["time_start_s"], bins["time_stop_s"])
    axes.pcolormesh(edges, np.arange(len(order) + 1) - 0.5, grids["value"], cmap=MAP, norm=norm, rasterized=True)
    axes.add_collection(LineCollection(outline(grids["p_corrected"] <= SIGNIFICANT, edges), colors=INK, linewidths=1.3))
    axes.axvline(0, color=INK, lw=0.8, ls="--")
    peak, marked = finding["peak"], None
    if model == peak["model"] and peak["layer"] in order:
        marked = order.index(peak["layer"])
        axes.plot((peak["time_start_s"] + peak["time_stop_s"]) / 2, marked, "x", color="black", ms=8, mew=2)
    ticks = _some(len(order), 10, marked)
    names = labels(order)
    axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=8)
    axes.set_ylabel("Layer, deepest on top", fontsize=9)


def ceiling_strip(strip: Axes, data: pd.DataFrame, norm: Normalize) -> None:
    """Noise ceiling over time on the colours of the map below, blank where not above chance; nothing without rows."""
    if data.empty:
        strip.set_axis_off()
        return
    bins = data.drop_duplicates("time_start_s").sort_values("time_start_s")
    edges = frames.time_edges(bins["time_start_s"], bins["time_stop_s"])
    bounds = bins[["ceiling_low", "ceiling_high"]].where(bins["is_ceiling_above_chance"].eq(True), np.nan)
    strip.pcolormesh(edges, [0, 1, 2], bounds.to_numpy(float).T, cmap=MAP, norm=norm)
    strip.set_yticks([0.5, 1.5], ["ceiling, low", "ceiling, high"], fontsize=7)
    strip.tick_params(bottom=False, labelbottom=False)


def _grid(data: pd.DataFrame, layers: list[str], column: str) -> np.ndarray:
    """(n_layers, n_time_bins), layers in the order given; NaN where there is no row."""
    return data.pivot(index="layer", columns="time_start_s", values=column).loc[layers].to_numpy(float)


def outline(is_inside: np.ndarray, edges: np.ndarray) -> list[list[tuple[float, float]]]:
    """Segments around the true cells of a (n_layers, n_time_bins) mask, along the borders of the cells."""
    padded = np.pad(is_inside, 1)
    across = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    along = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    upright = [[(edges[j], i - 0.5), (edges[j], i + 0.5)] for i, j in across]
    return upright + [[(edges[j], i - 0.5), (edges[j + 1], i - 0.5)] for i, j in along]


def scale(data: pd.DataFrame, finding: Finding) -> tuple[Normalize, str]:
    """Colours symmetric around 0 that hold the scores, and the ceiling up to twice the largest score.

    A one-sided statistic such as r2 may fall far below 0 where nothing is there to predict: those cells saturate.
    """
    values = data["value"].to_numpy(float)
    highest = np.nanmax(values) if finding["tail"] == "greater" else np.nanmax(np.abs(values))
    limit = max(float(highest), 1e-3)
    ceiling = data["ceiling_high"].where(data["is_ceiling_above_chance"].eq(True)).max()
    limit = limit if np.isnan(ceiling) else max(limit, min(float(ceiling), 2 * limit))
    is_below, is_above = np.nanmin(values) < -limit, ceiling > limit
    return Normalize(-limit, limit), {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        int(is_below), int(is_above)
    ]


def ceiling_over_time(axes: Axes, data: pd.DataFrame) -> None:
    """Noise ceiling of each time bin, hatched where it is not above chance."""
    bins = (
        data.drop_duplicates("time_start_s").dropna(subset=["ceiling_low", "ceiling_high"]).sort_values("time_start_s")
    )
    is_above = bins["is_ceiling_above_chance"].eq(True)
    for shown, style in ((bins[is_above], CEILING), (bins[~is_above], CEILING_AT_CHANCE)):
        if len(shown):
            width = (shown["time_stop_s"] - shown["time_start_s"]).to_numpy()
            height = (shown["ceiling_high"] - shown["ceiling_low"]).to_numpy()
            axes.bar(shown["time_start_s"], height, width, bottom=shown["ceiling_low"], align="edge", zorder=0, **style)


def ceiling_span(axes: Axes, finding: Finding, horizontal: bool) -> None:
    """The ceiling at the cell of the peak, hatched where it is not above chance; nothing where there is none."""
    peak = finding["peak"]
    if frames.is_missing(peak["ceiling_low"]) or frames.is_missing(peak["ceiling_high"]):
        return
    span = axes.axhspan if horizontal else axes.axvspan
    style = CEILING if peak["is_ceiling_above_chance"] else CEILING_AT_CHANCE
    span(peak["ceiling_low"], peak["ceiling_high"], zorder=0, **style)


def significance_bars(axes: Axes, data: pd.DataFrame, of_model: dict[str, str]) -> None:
    """One thin row of bars per model below the curves, where corrected p <= .05."""
    low, high = axes.get_ylim()
    step = 0.03 * (high - low)
    for i, (model, course) in enumerate(data.groupby("model", sort=False)):
        bars = course[frames.is_significant(course)]
        spans = list(zip(bars["time_start_s"], bars["time_stop_s"] - bars["time_start_s"], strict=True))
        axes.broken_barh(spans, (low - (i + 1) * step, 0.6 * step), color=of_model[model], lw=0)
    axes.set_ylim(low - (data["model"].nunique() + 0.6) * step, high)


def shade_planted(axes: Axes, planted: Sequence[dict[str, Any]]) -> None:
    """Shade the windows in which something was planted, in seconds."""
    windows = {
        (plant["time_start_s"], plant["time_stop_s"])
        for plant in planted
        if not frames.is_missing(plant.get("time_start_s"))
    }
    for i, (start, stop) in enumerate(sorted(windows)):
        axes.axvspan(
            start, stop, color="#F0E442", alpha=0.35, lw=0, zorder=-1, label="_nolegend_" if i else "planted window"
        )


def scalp(axes: Axes, data: pd.DataFrame, norm: Normalize) -> None:
    """One scalp map; positions in metres are taken as they are, around the sphere that fits them."""
    import mne

    info = mne.create_info(list(data["channel"]), sfreq=1.0, ch_types="eeg", verbose="error")
    places = data[["x", "y", "z"]].to_numpy(float)
    montage = mne.channels.make_dig_montage(dict(zip(data["channel"], places, strict=True)), coord_frame="head")
    info.set_montage(montage, verbose="error")
    is_significant = frames.is_significant(data).to_numpy()
    mne.viz.plot_topomap(
        data["value"].to_numpy(float), info, axes=axes, show=False, cmap=MAP, cnorm=norm, contours=0,
        sphere=_sphere(places), mask=is_significant, mask_params=SCALP_MARK,
    )  # fmt: skip


def _sphere(places: np.ndarray) -> tuple[float, float, float, float] | None:
    """Centre and radius in metres of the sphere nearest to the positions; None (MNE's own) where it is no head."""
    design = np.column_stack([2 * places, np.ones(len(places))])
    solution, _, rank, _ = np.linalg.lstsq(design, (places**2).sum(axis=1), rcond=None)
    radius = float(np.sqrt(max(solution[3] + (solution[:3] ** 2).sum(), 0)))
    x, y, z = map(float, solution[:3])
    return (x, y, z, radius) if rank == 4 and 0.06 < radius < 0.13 else None


def colours(models: Iterable[str]) -> dict[str, str]:
    """Colour per model; they repeat after seven."""
    return {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}


def legend(figure: Figure, axes: Axes) -> None:
    """The legend below the axes, in as many columns as its longest label leaves room for."""
    handles, labels = axes.get_legend_handles_labels()
    n_columns = max(1, min(len(labels), 130 // (max(map(len, labels), default=0) + 8)))
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower left", ncols=n_columns)
    axes.spines[["top", "right"]].set_visible(False)


def _some(n: int, at_most: int, kept: int | None) -> list[int]:
    """Indices to label, evenly spaced, with one that must be there."""
    ticks = [int(i) for i in np.unique(np.linspace(0, n - 1, min(n, at_most)).round())]
    if kept is None or kept in ticks:
        return ticks
    return sorted({kept, *(tick for tick in ticks if abs(tick - kept) > n / at_most / 2)})


def labels(layers: list[str]) -> list[str]:
    """Layer names without what all of them begin and end with: "layers.3" for "model.layers.3.norm"."""
    if len(layers) < 2:
        return [short(name, 30) for name in layers]
    parts = [name.split(".") for name in layers]
    shortest = min(len(names) for names in parts)
    begin = next((i for i in range(shortest) if len({names[i] for names in parts}) > 1), shortest - 1)
    end = next((i for i in range(shortest - begin) if len({names[-1 - i] for names in parts}) > 1), 0)
    begin = max(begin - 1, 0)
    return [short(".".join(names[begin : len(names) - end]), 30) for names in parts]


def short(name: str, n: int) -> str:
    """A name of at most n letters, its middle left out where it is longer."""
    return name if len(name) <= n else f"{name[: n // 3]}…{name[-(n - n // 3 - 1) :]}"
