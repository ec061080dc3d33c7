"""The report of a run: one HTML file that opens with the answer in words and needs no network."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from jaxalign.errors import DataError
from jaxalign.results import figures, frames
from jaxalign.results.frames import Finding
from jaxalign.results.table import load, summary
from jaxalign.results.words import answer, methods, number, p_words, place, statistic_name, title

REPORT_FILE = "report.html"
CHANNELS_FILE = "channels.json"
N_TOP = 20
_MAX_CSV_BYTES = 150_000

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1040px; margin: 0 auto; padding: 1em; }
h1 { font-size: 1.6em; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; } h3 { margin-top: 1.6em; }
.simulated { background: #ffe9a8; border: 2px solid #b07d00; padding: .6em 1em; }
.answer { background: #eef4fa; border-left: 5px solid #0072B2; padding: .4em 1em; margin: 1em 0; }
.answer.none { background: #f3f3f3; border-color: #777; } .headline { font-weight: 600; }
.warning { background: #fdeee6; border-left: 5px solid #D55E00; padding: .2em 1em; }
figure { margin: 1.5em 0; } img { max-width: 100%; } figcaption, .small { font-size: .85em; color: #444; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .82em; }
td, th { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: left; }
td.number, th.number { text-align: right; }
code { background: #f3f3f3; padding: 0 .2em; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class _Part:
    """A figure of the report: its name, its caption, how to draw it and what it shows."""

    name: str
    caption: str
    draw: Callable[[], Figure]
    data: Callable[[], pd.DataFrame]


def write_report(folder: Path) -> Path:
    """Write report.html into the folder of a finished run.

    Args:
        folder: holds scores.parquet and summary.json; channels.json (positions in metres) and run.json if there.
    Returns:
        Path of the report: self-contained, with its figures and their data inside.
    Raises:
        DataError: if the run has not finished.
    """
    folder = Path(folder)
    found = summary(folder)
    channels = _read_json(folder / CHANNELS_FILE)
    sections = [
        _opening(found),
        *(_answer_box(finding, found) for finding in found["findings"]),
        _warnings(found),
        *(_finding_section(folder, finding, found, channels) for finding in found["findings"]),
        _methods(found),
        _provenance(found, _read_json(folder / "run.json")),
    ]
    path = folder / REPORT_FILE
    _write_text_atomic(_page(found["name"], "\n".join(sections)), path)
    return path


def _page(name: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>jaxalign: {escape(name)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _opening(found: dict[str, Any]) -> str:
    """Title, the banner of simulated data, and what was recorded."""
    data = found["dataset"]
    banner = "SIMULATED DATA. The responses were made by a computer; nothing here is a finding about brains."
    size = f"{data['n_subjects']} {'subject' if data['n_subjects'] == 1 else 'subjects'}, {data['n_stimuli']:,} stimuli"
    size += f" ({data['n_test']:,} for testing)" if data.get("n_test") else ""
    size += (
        f", {data['n_channels']} {'channel' if data['n_channels'] == 1 else 'channels'}"
        if data.get("n_channels")
        else ""
    )
    size += f", {data['n_times']} time bins" if data.get("n_times") else ""
    size += f", unit {data['unit']}" if data.get("unit") else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.get("notes", []))
    return (
        f"<h1>jaxalign: {escape(found['name'])}</h1>"
        + (f'<p class="simulated"><strong>{banner}</strong></p>' if found["is_simulated"] else "")
        + f"<p>{escape(data['name'])}: {escape(size)}.</p>"
        + (f'<ul class="small">{notes}</ul>' if notes else "")
        + "<h2>Answer</h2>"
    )


def _answer_box(finding: Finding, found: dict[str, Any]) -> str:
    headline, *details = answer(finding, found).split("\n")
    kind = "answer" if finding["n_significant"] else "answer none"
    items = "".join(f"<li>{escape(line)}</li>" for line in details)
    return f'<div class="{kind}"><p class="headline">{escape(headline)}</p><ul>{items}</ul></div>'


def _warnings(found: dict[str, Any]) -> str:
    """Warnings, failed units and constant targets, each counted; one line when there are none."""
    items = list(found["warnings"])
    if found["n_constant_targets"]:
        items.append(
            f"Targets that are constant over stimuli: {found['n_constant_targets']:,}. Their scores are "
            "undefined (NaN) and count nowhere."
        )
    failed = found["failed_units"]
    if failed:
        names = "; ".join(f"{unit['unit_id']}: {unit['why']}" for unit in failed[:20])
        items.append(
            f"{len(failed):,} {'unit has' if len(failed) == 1 else 'units have'} no result "
            f"({names}{'; ...' if len(failed) > 20 else ''})."
        )
    if not items:
        return '<h2>Warnings</h2><p class="small">None: no warning, no failed unit, no constant target.</p>'
    return (
        '<h2>Warnings</h2><div class="warning"><ul>'
        + "".join(f"<li>{escape(item)}</li>" for item in items)
        + "</ul></div>"
    )


def _finding_section(folder: Path, finding: Finding, found: dict[str, Any], channels: dict[str, Any] | None) -> str:
    """Figures and the table of the strongest scores of one metric and statistic."""
    if finding["peak"] is None:
        return f"<h2>{escape(title(finding))}</h2><p>No score is defined, so there is no figure.</p>"
    top = _top_cells(folder, finding)
    shown = "".join(_figure_html(part) for part in _parts(folder, finding, found, channels, top))
    note = _no_topography(finding, channels)
    return (
        f"<h2>{escape(title(finding))}</h2>{shown}"
        + (f'<p class="small">{note}</p>' if note else "")
        + _top_table(top, finding)
        + _ceilings_table(finding)
    )


def _parts(
    folder: Path, finding: Finding, found: dict[str, Any], channels: dict[str, Any] | None, top: pd.DataFrame
) -> Iterator[_Part]:
    """The figures that a finding has, each with only the rows that it needs, read when its turn comes."""
    peak, subject = finding["peak"], finding["subject"]
    if finding["ranking"]:
        yield _part(_ranking_caption(finding), figures.model_ranking, frames.model_ranking_data, top, finding)
    at_peak = _read(folder, finding, channel=peak["channel"], subject=subject)
    if frames.has_times(finding):
        yield _part(_MAP_CAPTION, figures.layer_time_map, frames.layer_time_map_data, at_peak, finding)
        layers = sorted(set(frames.ranked_layers(finding).values()))
        course = _read(folder, finding, channel=peak["channel"], layer=layers)
        draw = partial(figures.time_course, planted=found["planted"] if found["is_simulated"] else [])
        yield _part(_course_caption(found), draw, frames.time_course_data, course, finding)
    if channels and not _no_topography(finding, channels):
        heads = _read(folder, finding, model=peak["model"], layer=peak["layer"], subject=subject)
        yield _part(_HEAD_CAPTION, figures.topography, frames.topography_data, heads, channels, finding)
    if at_peak.groupby("model", observed=True)["layer"].nunique().max() > 1:
        yield _part(_PROFILE_CAPTION, figures.layer_profile, frames.layer_profile_data, at_peak, finding)


def _part(caption: str, draw: Callable[..., Figure], data: Callable[..., pd.DataFrame], *given: Any) -> _Part:
    return _Part(data.__name__.removesuffix("_data"), caption, partial(draw, *given), partial(data, *given))


_MAP_CAPTION = (
    "Score of every layer and time bin at the channel of the strongest score. Outlined: corrected p <= .05. Cross: "
    "the strongest score. "
    "Dashed: stimulus onset. Strips: the noise ceiling where above chance, on the same colours."
)
_HEAD_CAPTION = "The layer of the strongest score on the head, nose up. White dots: channels with corrected p <= .05."
_PROFILE_CAPTION = (
    "Score by depth at the channel and time bin of the strongest score. Filled: corrected p <= .05. The cell was "
    "chosen for its size, "
    "so read the shape, not the height."
)


def _course_caption(found: dict[str, Any]) -> str:
    n_subjects = found["dataset"]["n_subjects"]
    band = (
        f"Band: standard error over {n_subjects} subjects. "
        if n_subjects > 1
        else "There is one subject, hence no band over subjects. "
    )
    return (
        f"The layer most often chosen for each model, at the channel of the strongest score. {band}"
        "Grey: noise ceiling, if any. Bars below: corrected p <= .05."
    )


def _ranking_caption(finding: Finding) -> str:
    recipe = (finding["held_out"] or {"recipe": "no recipe given"})["recipe"]
    peak = finding["peak"]
    has_ceiling = not frames.is_missing(peak["ceiling_low"])
    ceiling = (
        " The ceiling is that of the cell of the strongest score; held-out scores may come from other cells."
        if has_ceiling
        else " No ceiling."
    )
    return (
        f"Held-out scores ({recipe}), never the maximum over what was searched; below each model its layer most "
        f"often chosen. Differences between models are not tested.{ceiling}"
    )


def _no_topography(finding: Finding, channels: dict[str, Any] | None) -> str:
    """Why there is no scalp map; empty when there is one."""
    if not frames.has_channels(finding):
        return "No topographies: this metric scores the pattern over all channels."
    if not frames.has_times(finding):
        return "No topographies: these scores have no time bins."
    if channels is None:
        return "No topographies: the run holds no channel positions (channels.json)."
    n_placed = sum(position is not None for position in channels["positions"])
    if n_placed < 4:
        n_channels = len(channels["names"])
        return f"No topographies: {n_placed} of {n_channels} channels have a position, and a scalp map needs four."
    if finding["peak"]["channel"] not in channels["names"]:
        return "No topographies: the strongest score is a declared average, not a single channel."
    return ""


def _read(folder: Path, finding: Finding, **where: Any) -> pd.DataFrame:
    return load(
        folder,
        columns=list(frames.COLUMNS),
        where={"metric": finding["metric"], "statistic": finding["statistic"], **where},
    )


def _top_cells(folder: Path, finding: Finding) -> pd.DataFrame:
    """The strongest scores of each model, one model in memory at a time: by corrected p, then by z."""
    names = load(folder, columns=["model"], where={"metric": finding["metric"], "statistic": finding["statistic"]})[
        "model"
    ].unique()
    best = []
    for name in sorted(names):
        rows = _read(folder, finding, model=str(name), subject=finding["subject"])
        rows = rows.dropna(subset=["value"]).sort_values(["p_corrected", "z"], ascending=[True, False], kind="stable")
        best.append(
            rows.head(N_TOP).astype(
                dict.fromkeys(("model", "layer", "pooling", "channel", "subject", "metric", "statistic"), str)
            )
        )
    return pd.concat(best, ignore_index=True).sort_values(
        ["p_corrected", "z"], ascending=[True, False], kind="stable", ignore_index=True
    )


def _top_table(top: pd.DataFrame, finding: Finding) -> str:
    heads = [f"<th>{name}</th>" for name in ("Model", "Layer", "Pooling", "Where and when")]
    heads += [
        f'<th class="number">{escape(name)}</th>'
        for name in (statistic_name(finding), "z", "p", "Corrected p", "Ceiling")
    ]
    if finding["ceiling"]["is_divided"]:
        heads.append('<th class="number">Score / ceiling</th>')
    body = "".join(_top_row(row, finding) for row in top.head(N_TOP).to_dict("records"))
    return (
        f"<h3>The {min(N_TOP, len(top))} strongest scores</h3>"
        '<p class="small">Chosen for their size, hence too high; the p values are corrected for the choice.</p>'
        f'<div class="wide"><table><tr>{"".join(heads)}</tr>{body}</table></div>'
    )


def _ceilings_table(finding: Finding) -> str:
    """Every ceiling that was asked for, at the strongest score; nothing where the only one is in the text already."""
    asked = finding.get("ceilings", [])
    if len(asked) < 2:
        return ""
    heads = ("Noise ceiling", "Low", "High", "Above chance", "Of", "Kind")
    rows = "".join(_ceiling_row(one) for one in asked)
    return (
        "<h3>Noise ceilings at the strongest score</h3>"
        f'<div class="wide"><table><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr>{rows}</table></div>'
        '<p class="small">All cells are in ceilings.parquet: jaxalign.load_ceilings(folder).</p>'
    )


def _ceiling_row(one: dict[str, Any]) -> str:
    if one["recipe"] is None:
        return f'<tr><td>{escape(one["asked"])}</td><td colspan="5">none: {escape(one["why_not"])}</td></tr>'
    of = f"{one['n_stimuli']:,} stimuli"
    of += f", {one['n_repetitions']:.3g} repetitions" if one["n_repetitions"] else ""
    cells = (
        one["recipe"],
        number(one["ceiling_low"]),
        number(one["ceiling_high"]),
        "yes" if one["is_ceiling_above_chance"] else "no",
        f"{of}; {one['folds']}",
        "estimate" if one["divides"] else "range",
    )
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _top_row(row: dict[str, Any], finding: Finding) -> str:
    floor, n = finding["p_floor"], finding["n_permutations"]
    ps = [
        p_words(row[name], floor, n).partition(" (")[0].removeprefix("p ").removeprefix("= ")
        for name in ("p", "p_corrected")
    ]
    low, high = (row[name] for name in ("ceiling_low", "ceiling_high"))
    bounds = number(low) if low == high else f"{number(low)} to {number(high)}"
    ceiling = "none" if frames.is_missing(low) else bounds
    normalised = [number(row["value_normalised"])] if finding["ceiling"]["is_divided"] else []
    words = [row["model"], row["layer"], row["pooling"], place(row)]
    numbers = [number(row["value"]), number(row["z"], 1), *ps, ceiling, *normalised]
    return (
        "<tr>" + "".join(f"<td>{escape(str(word))}</td>" for word in words)
        + "".join(f'<td class="number">{escape(value)}</td>' for value in numbers) + "</tr>"
    )  # fmt: skip


def _figure_html(part: _Part) -> str:
    """A figure as a PNG inside the page, with its data as a CSV link where that is small; or why it cannot be drawn."""
    try:
        csv, image = part.data().to_csv(index=False, float_format="%.6g").encode(), _png(part.draw())
    except DataError as error:
        return f'<p class="warning">Not drawn: {part.name.replace("_", " ")}. {escape(str(error))}</p>'
    link = f'<a download="{part.name}.csv" href="data:text/csv;base64,{base64.b64encode(csv).decode()}">Data (CSV)</a>'
    note = f"The data ({len(csv) // 1000:,} kB) are those of jaxalign.results.frames.{part.name}_data."
    return (
        f'<figure><img alt="{part.name.replace("_", " ")}" '
        f'src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        f"<figcaption>{escape(part.caption)} {link if len(csv) <= _MAX_CSV_BYTES else note}</figcaption></figure>"
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figures.DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return buffer.getvalue()


def _methods(found: dict[str, Any]) -> str:
    texts = []
    for finding in found["findings"]:
        paragraphs = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in methods(finding) if paragraph)
        texts.append(f"<h3>{escape(title(finding))}</h3>{paragraphs}")
    return "<h2>Methods</h2>" + "".join(texts)


def _provenance(found: dict[str, Any], run: dict[str, Any] | None) -> str:
    """Command, hash, and what run.json says of the request, versions and devices."""
    rows = _short_values(found, ("command", "run_hash"))
    if run is None:
        return f"<h2>Provenance</h2>{_name_table(rows)}<p>There is no run.json, hence no versions.</p>"
    rows |= _short_values(run, [name for name in run if name != "request"])
    request = escape(json.dumps(run.get("request", {}), indent=2, sort_keys=True))
    details = f"<details><summary>Request</summary><pre>{request}</pre></details>"
    return f"<h2>Provenance</h2>{_name_table(rows)}{details}"


def _short_values(content: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Short values under the names given, and one level below them."""
    rows: dict[str, Any] = {}
    for name in names:
        values = content[name] if isinstance(content[name], dict) else {"": content[name]}
        rows |= {f"{name} {key}".strip().replace("_", " "): value for key, value in values.items() if _is_short(value)}
    return rows


def _name_table(rows: dict[str, Any]) -> str:
    cells = (f"<td>{escape(name)}</td><td><code>{escape(str(value))}</code></td>" for name, value in rows.items())
    return f"<table>{''.join(f'<tr>{cell}</tr>' for cell in cells)}</table>"


def _is_short(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and len(str(value)) <= 200


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write_text_atomic(text: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
