"""What a run found, in sentences: the answer, its certainty, and what may not be concluded."""

from __future__ import annotations

from typing import Any

from jaxalign.results.frames import Finding, has_channels, has_times, is_missing

METRIC_NAMES = {
    "ridge": "ridge regression",
    "rsa": "RSA",
    "similarity": "similarity of patterns",
    "correlation": "correlation with single features",
}
STATISTIC_NAMES = {
    "pearson_r": "Pearson r",
    "r2": "R2",
    "rsa": "RSA score",
    "cka": "CKA (linear, debiased)",
    "cka_rbf": "CKA (RBF, debiased)",
    "cka_biased": "CKA (linear, biased)",
    "cka_rbf_biased": "CKA (RBF, biased)",
    "rv": "RV coefficient (biased)",
    "hsic": "HSIC (linear, debiased)",
    "hsic_rbf": "HSIC (RBF, debiased)",
    "hsic_biased": "HSIC (linear, biased)",
    "hsic_rbf_biased": "HSIC (RBF, biased)",
    "dcor_debiased": "distance correlation (squared, debiased)",
    "dcor": "distance correlation (biased)",
    "dcor_squared": "distance correlation (squared, biased)",
    "mutual_knn": "mutual nearest neighbours",
    "cknna": "CKNNA",
    "mi_gaussian": "Gaussian information (nats, biased)",
    "procrustes": "Procrustes similarity (biased)",
}

_MEASURES = set(STATISTIC_NAMES) - {"pearson_r", "r2", "rsa"}

_METHODS = {
    "ridge": "Ridge regression predicts each target (a channel in a time bin) from the features of a layer. Each "
    "target has its own penalty, chosen on inner folds of the training stimuli; the score compares predictions with "
    "responses to stimuli that neither fitted the weights nor chose the penalty.",
    "rsa": "Representational similarity analysis correlates two sets of dissimilarities between all pairs of stimuli: "
    "those between the features of a layer and those between the patterns of responses. The request under Provenance "
    "names the comparison and the distance.",
    "similarity": "The patterns of a layer and the patterns of responses over the same stimuli are compared by a "
    "similarity measure; higher is more similar. Measures marked as biased do not average 0 on noise, and depend on the "
    "width of a layer: they are compared through z, against their own permutations.",
    "correlation": "Each single feature is correlated with each target over the stimuli; its sign is arbitrary.",
}
_GENERAL_METHOD = "The metric compares the features of a layer with the responses, stimulus by stimulus."


def title(finding: Finding) -> str:
    """Metric, statistic and level, such as "Ridge regression, Pearson r, mean over 4 subjects"."""
    kind = _kind(finding)
    metric = METRIC_NAMES.get(kind, kind) + ("" if finding["metric"] == kind else f" ({finding['metric']})")
    statistic = "" if finding["statistic"] == kind else f", {statistic_name(finding)}"
    return f"{metric[0].upper()}{metric[1:]}{statistic}, {finding['level']}"


def statistic_name(finding: Finding) -> str:
    """The statistic as it stands on axes."""
    return STATISTIC_NAMES.get(finding["statistic"], finding["statistic"].replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    """A score without its leading zero: ".312", "-.045", "1.204"."""
    if is_missing(value):
        return "not available"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def seconds(start: float, stop: float) -> str:
    """A half-open window: "0.10 to 0.24 s"."""
    return f"{_second(start)} to {_second(stop)} s"


def p_words(p: float | None, floor: float | None, n_permutations: int, name: str = "p") -> str:
    """A p value, with its floor where it lies there: "p = .003", "p <= .001 (the smallest that ...)"."""
    if p is None or is_missing(p):
        return f"no {name}"
    if floor is not None and p <= floor * 1.001:
        return f"{name} <= {_p_digits(p)} (the smallest that {n_permutations:,} permutations can give)"
    return f"{name} = {_p_digits(p)}"


def place(cell: dict[str, Any]) -> str:
    """Where and when a score lies: "at channel Oz, 0.12 to 0.14 s after stimulus onset"."""
    channel = "" if cell["channel"] == "all" else str(cell["channel"])
    where = f"at {channel}" if channel.startswith("mean of ") else f"at channel {channel}" if channel else ""
    if is_missing(cell["time_start_s"]):
        return where
    return f"{where}, {seconds(cell['time_start_s'], cell['time_stop_s'])} after stimulus onset".removeprefix(", ")


def answer(finding: Finding, summary: dict[str, Any]) -> str:
    """What one metric and statistic found, as plain text: the headline, then one sentence or two per line.

    The only score in the headline is the held-out one. Where nothing is significant no layer is called best.

    Args:
        finding: one entry of summary["findings"].
        summary: the content of summary.json.
    """
    lines = [_headline(finding)]
    if finding["peak"] is not None:
        lines += [_held_out(finding), _extent(finding), _ceiling(finding), _counts(finding), _generalises(finding)]
        lines += [_ranking(finding), *_averages(finding), *planted_words(finding, summary)]
    marked = [f"[simulated data] {lines[0]}", *lines[1:]] if summary["is_simulated"] else lines
    return "\n".join(line for line in marked if line)


def headline(finding: Finding, summary: dict[str, Any]) -> str:
    """The answer in short: its headline, what the held-out score and the ceiling are, and planted against found."""
    first, *rest = answer(finding, summary).splitlines()
    kept = [_ceiling(finding)] if finding["peak"] is not None else []
    return "\n".join([first, *(line for line in rest if line in kept or line in planted_words(finding, summary))])


def planted_words(finding: Finding, summary: dict[str, Any]) -> list[str]:
    """For simulated data, what was planted against what was found; nothing for recordings."""
    if not summary["is_simulated"]:
        return []
    is_found = finding["n_significant"] > 0
    if not summary["planted"]:
        found = (
            "the significant scores are false positives, which 1 run in 20 has by design"
            if is_found
            else "and nothing was found, as it should be"
        )
        return [f"Planted: nothing; {found}."]
    return [_planted(plant, finding) for plant in summary["planted"]]


def methods(finding: Finding) -> list[str]:
    """How the numbers were made, one paragraph each: metric, permutations, correction, ceiling, selection."""
    return [
        _METHODS.get(_kind(finding), _GENERAL_METHOD)
        + f" The statistic is {statistic_name(finding)}, {finding['level']}.",
        _permutations(finding),
        _correction(finding),
        _ceiling_recipe(finding),
        "A maximum over layers, channels and time bins is too high by selection, and more so for models with "
        "more layers. "
        "Models are therefore ranked by held-out scores: "
        + (finding["held_out"] or {"recipe": "not available here"})["recipe"]
        + ".",
    ]


def _kind(finding: Finding) -> str:
    """The metric itself: a request may hold several of one kind, such as "rsa" and "rsa_pearson"."""
    if finding["statistic"] in _MEASURES:
        return "similarity"
    return "rsa" if finding["statistic"] == "rsa" else finding["metric"].partition("_")[0]


def _second(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}".removesuffix("0")


def _p_digits(p: float) -> str:
    if p >= 0.9995:
        return "1"
    if p < 0.00095:
        return f"{p:.0e}" if p < 5e-5 else f"{p:.4f}"[1:]
    return f"{p:.3f}"[1:]


def _layer(cell: dict[str, Any]) -> str:
    """A layer of a network by its path, a given RDM or a metadata column by its name."""
    if cell["layer"] == "rdm":
        return f"the RDM {cell['model']}"
    if cell["model"] == "metadata":
        return f"the metadata column {cell['layer']}"
    return f"layer {cell['layer']} of {cell['model']}"


def _is_network(cell: dict[str, Any]) -> bool:
    return cell["layer"] != "rdm" and cell["model"] != "metadata"


def _corrected(finding: Finding, p: float | None) -> str:
    return p_words(p, finding["p_floor"], finding["n_permutations"], "corrected p")


def _headline(finding: Finding) -> str:
    peak, name = finding["peak"], title(finding)
    if peak is None:
        return f"{name}: no score is defined, because every target is constant or no unit has a result."
    if finding["n_permutations"] > 0 and is_missing(peak["p_corrected"]):
        return f"{name}: no p value could be corrected, because some units have no result. No layer is called best."
    if finding["n_permutations"] == 0:
        return (
            f"{name}: no permutation test was made, so nothing can be called significant and no layer is called best."
        )
    family = f"{_corrected(finding, peak['p_corrected'])}, over a family of {finding['family_size']:,} scores"
    if finding["n_significant"] == 0:
        largest = "The score with the largest z" if finding["critical_of"] == "z" else "The largest score"
        return f"{name}: nothing is significant. {largest} ({_layer(peak)}, {_where(peak)}) has {family}."
    held_out = finding["held_out"]
    has_score = held_out and not is_missing(held_out["value"])
    score = (
        f" Held-out {statistic_name(finding)} = {number(held_out['value'])}{_against(held_out)}." if has_score else ""
    )
    has_depth = _is_network(peak) and not is_missing(peak["layer_depth"])
    depth = f" (depth {peak['layer_depth']:.2f})" if has_depth else ""
    return f"{name}: the strongest significant score is that of {_layer(peak)}{depth}, {_where(peak)}; {family}.{score}"


def _against(held_out: dict[str, Any]) -> str:
    """The noise ceiling of the cells that are scored: one number where both bounds are one."""
    low, high = held_out.get("ceiling_low"), held_out.get("ceiling_high")
    if is_missing(low) or is_missing(high):
        return ""
    bounds = number(high) if number(low) == number(high) else f"{number(low)} to {number(high)}"
    return f", against a noise ceiling of {bounds} there"


def _where(cell: dict[str, Any]) -> str:
    return place(cell) or "over all stimuli"


def _held_out(finding: Finding) -> str:
    held_out = finding["held_out"]
    if not held_out or is_missing(held_out["value"]):
        largest = f"{statistic_name(finding)} there is {number(finding['peak']['value'])}"
        return f"{largest}: the largest score was chosen for its size and is too high; no held-out score can be given."
    values = [part["value"] for part in held_out["parts"] if not is_missing(part["value"])]
    spread = f", from {number(min(values))} to {number(max(values))}" if len(values) > 1 else ""
    what = _parts_word(finding)
    score = f"Held-out {statistic_name(finding)} = {number(held_out['value'])}"
    return f"{score} ({held_out['recipe']}; mean over {held_out['n']} {what}{spread}).{_stability(finding)}"


def _parts_word(finding: Finding) -> str:
    return "subjects" if "subjects" in finding["held_out"]["recipe"] else "folds"


def _stability(finding: Finding) -> str:
    """In how many parts the layer of the peak was chosen without them."""
    peak, parts = finding["peak"], finding["held_out"]["parts"]
    if not parts:
        return ""
    n_same = sum((part["model"], part["layer"]) == (peak["model"], peak["layer"]) for part in parts)
    return f" The choice fell on {_layer(peak)} for {n_same} of {len(parts)} {_parts_word(finding)}."


def _extent(finding: Finding) -> str:
    """When and where the layer of the peak is significant."""
    if finding["n_significant"] == 0 or not finding["window"]:
        return ""
    text = f"Around the peak, {_layer(finding['peak'])} is significant from {seconds(*finding['window'])}"
    if not has_channels(finding) or not finding["channels"]:
        return text + "."
    n_channels = len(finding["channels"])
    names = ", ".join(finding["channels"][:12]) + (f" and {n_channels - 12} more" if n_channels > 12 else "")
    return f"{text}, at {n_channels} {'channel' if n_channels == 1 else 'channels'}: {names}."


def _ceiling(finding: Finding) -> str:
    """The score against its ceiling, at the same cell."""
    peak = finding["peak"]
    if finding["ceiling"]["recipe"] is None:
        return f"No ceiling can be computed: {_why_not(finding['ceiling']['why_not'])}."
    if is_missing(peak["ceiling_low"]) or is_missing(peak["ceiling_high"]):
        return "No ceiling can be computed at the strongest score: the repetitions do not agree there."
    low, high = number(peak["ceiling_low"]), number(peak["ceiling_high"])
    bounds = f"The noise ceiling at the strongest score is {low if low == high else f'{low} to {high}'}"
    if not peak["is_ceiling_above_chance"]:
        return f"{bounds}. It is not above chance, so no score is compared with it."
    value = peak["value"]
    side = "below" if value < peak["ceiling_low"] else "above" if value > peak["ceiling_high"] else "within"
    return f"{bounds}; the score there, {number(value)} and too high by selection, lies {side} it."


def _why_not(reason: str | None) -> str:
    """The reason alone, without saying again that there is no ceiling."""
    bare = (reason or "no reason is given").removeprefix("not computable: ").removeprefix("no ceiling: ")
    return bare.removesuffix(": no ceiling can be computed").rstrip(".")


def _counts(finding: Finding) -> str:
    if finding["n_permutations"] == 0 or is_missing(finding["peak"]["p_corrected"]):
        return ""
    share = f"{finding['n_significant']:,} of {finding['family_size']:,} scores"
    text = f"{share} are significant after correction ({finding['n_uncorrected']:,} before it)"
    incomplete = " The family is incomplete, since some units have no result: corrected p values are provisional."
    return f"{text}.{'' if finding['family_complete'] else incomplete}"


def _generalises(finding: Finding) -> str:
    what = "What is significant" if finding["n_significant"] else "The test"
    return f"{what} generalises to {finding['generalises_to']}." if finding["n_permutations"] else ""


def _ranking(finding: Finding) -> str:
    if len(finding["ranking"]) < 2:
        return ""
    names = ", ".join(f"{entry['model']} {number(entry['value'])}" for entry in finding["ranking"][:8])
    rest = f" and {len(finding['ranking']) - 8} more" if len(finding["ranking"]) > 8 else ""
    return f"Models by held-out score: {names}{rest}. Differences between models or layers are not tested here."


def _averages(finding: Finding) -> list[str]:
    """One sentence per declared average: its strongest layer, of all that were looked at."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for average in finding["averages"]:
        groups.setdefault((average["channel"], average["time_start_s"], average["time_stop_s"]), []).append(average)
    return [_average(fits, finding) for fits in groups.values()]


def _average(fits: list[dict[str, Any]], finding: Finding) -> str:
    scored = [fit for fit in fits if not is_missing(fit["value"])]
    if not scored:
        return f"Declared average, {_where(fits[0])}: no score is defined."
    sign = abs if finding["tail"] == "two-sided" else float
    first = min(
        scored, key=lambda fit: (2.0 if is_missing(fit["p_corrected"]) else fit["p_corrected"], -sign(fit["value"]))
    )
    score = f"{statistic_name(finding)} = {number(first['value'])}, {_corrected(finding, first['p_corrected'])}"
    searched = f", the strongest of {len(fits)} layers" if len(fits) > 1 else ""
    return f"Declared average, {_where(first)}: {score} ({_layer(first)}{searched})."


def _planted(plant: dict[str, Any], finding: Finding) -> str:
    """One planted effect against the peak: layer, window, channel."""
    timed = not is_missing(plant.get("time_start_s")) and has_times(finding)
    when = f", {seconds(plant['time_start_s'], plant['time_stop_s'])}" if timed else ""
    where = f", channels {', '.join(plant['channels'])}" if plant.get("channels") else ""
    text = f"Planted: {_layer(plant)}{when}{where}."
    if finding["n_significant"] == 0:
        return f"{text} Not found: nothing is significant."
    peak = finding["peak"]
    is_same = (peak["model"], peak["layer"]) == (plant["model"], plant["layer"])
    found = ["the planted layer" if is_same else f"another layer ({peak['layer']} of {peak['model']})"]
    if timed:
        found.append(_overlap(plant, finding))
    if plant.get("channels") and has_channels(finding):
        found.append(
            f"peak channel {peak['channel']} is {'' if peak['channel'] in plant['channels'] else 'not '}a planted one"
        )
    return f"{text} Found: {'; '.join(found)}."


def _overlap(plant: dict[str, Any], finding: Finding) -> str:
    start, stop = finding["window"] or (finding["peak"]["time_start_s"], finding["peak"]["time_stop_s"])
    shared = min(stop, plant["time_stop_s"]) - max(start, plant["time_start_s"])
    if shared <= 0:
        return f"window {seconds(start, stop)} does not overlap the planted one"
    percent = 100 * shared / (plant["time_stop_s"] - plant["time_start_s"])
    return f"window {seconds(start, stop)} covers {percent:.0f} % of the planted one"


def _permutations(finding: Finding) -> str:
    if finding["n_permutations"] == 0:
        return "No permutation test was made."
    tail = "large scores only (one-sided)" if finding["tail"] == "greater" else "large and small scores (two-sided)"
    scheme = f" Scheme: {finding['scheme']}." if finding.get("scheme") else ""
    return (
        f"The null distribution comes from {finding['n_permutations']:,} permutations, each shared by all "
        "layers, channels and "
        f"time bins, so that their dependence is kept.{scheme} p counts {tail}, with the observed labelling "
        "included; it cannot be smaller "
        f"than {_p_digits(finding['p_floor'])}. The test generalises to {finding['generalises_to']}."
    )


def _correction(finding: Finding) -> str:
    if finding["n_permutations"] == 0:
        return ""
    of_z = finding["critical_of"] == "z"
    what = "Each score is expressed as z against its own null; the maximum of z" if of_z else "The maximum of the score"
    needed = (
        ""
        if is_missing(finding["critical"])
        else f" A {'z' if of_z else 'score'} of {finding['critical']:.3g} is needed for corrected p = .05."
    )
    return (
        f"{what} over the family of {finding['family_size']:,} scores is taken in each permutation, and the "
        "corrected p of a "
        "score is the share of permutations whose maximum reaches it (family-wise error rate, family "
        f"{finding['family_id']}).{needed}"
    )


def _ceiling_recipe(finding: Finding) -> str:
    recipe = finding["ceiling"]["recipe"]
    if recipe is None:
        return f"No ceiling can be computed: {_why_not(finding['ceiling']['why_not'])}."
    found = finding["ceiling"]
    n_repetitions = found["n_repetitions"]
    repeated = f", each presented {n_repetitions:.3g} times" if n_repetitions else ""
    text = f"Noise ceiling: {recipe}, from {found['n_stimuli']:,} stimuli{repeated} ({found['folds']})."
    if found["is_divided"]:
        return (
            f"{text} The column value_normalised is the score over its ceiling (r over that of r, r2 over the reliability), where "
            "the ceiling is above chance; it is empty elsewhere, and nothing is clipped."
        )
    why = (
        ""
        if found["divides"]
        else " It is a range that holds what a perfect model reaches, and no number to divide by."
    )
    return f"{text} It is shown beside the scores and does not divide them.{why}"
