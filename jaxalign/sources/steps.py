"""Preprocessing as small steps in the order of the configuration; STEPS is the only table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_type_hints

import numpy as np

from jaxalign.errors import ConfigError, nearest
from jaxalign.sources import array_steps, frame_steps, mne_steps
from jaxalign.sources.frame_rows import SEQUENCE, is_frames, sequence_of
from jaxalign.sources.trials import Trials, Wanted, Work, joined, taken, trials_of, with_test

STEPS: dict[str, Any] = {
    "filter": mne_steps.Filter,
    "notch": mne_steps.Notch,
    "centre": mne_steps.Centre,
    "bad_channels": mne_steps.BadChannels,
    "drop_channels": mne_steps.DropChannels,
    "montage": mne_steps.Montage,
    "interpolate": mne_steps.Interpolate,
    "reference": mne_steps.Reference,
    "resample": mne_steps.Resample,
    "epoch": mne_steps.Epoch,
    "frames": frame_steps.Frames,
    "baseline": mne_steps.Baseline,
    "reject": mne_steps.Reject,
    "crop": mne_steps.Crop,
    "time_bins": array_steps.TimeBins,
    "sliding_windows": array_steps.SlidingWindows,
    "mvnn": array_steps.Mvnn,
    "zscore": array_steps.ZScore,
    "average": array_steps.Average,
}
"""Name in the configuration -> frozen dataclass, whose fields are the options of the step.

Steps that take raw data or epochs see one run at a time; the others see the trials of all runs of a subject.
"""

CUTS = (mne_steps.Epoch, frame_steps.Frames)
"""Steps that cut the continuous recording into rows: one row per event, or one per time bin of it."""


def parsed(steps: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Steps of the configuration as the dataclasses that carry them out, their order checked.

    Args:
        steps: mappings with "name" and the options of that step.
    Raises:
        ConfigError: if a name or an option is unknown or of the wrong type, or a step comes too late to be carried out.
    """
    made = tuple(_step(index, one) for index, one in enumerate(steps, 1))
    cuts = [one["name"] for one, step in zip(steps, made, strict=True) if isinstance(step, CUTS)]
    if len(cuts) > 1 and "frames" in cuts:
        raise ConfigError(f"dataset.steps has {' and '.join(cuts)}, and each of them cuts the recording: keep one.")
    stages = {"raw": 0, "epochs": 1, "trials": 2}
    at, cut, last = 0, -1, ""
    for index, (one, step) in enumerate(zip(steps, made, strict=True), 1):
        latest = max(stages[stage] for stage in step.takes)
        if latest < at:
            needs = {0: "the continuous recording", 1: "epochs"}[latest]
            raise ConfigError(
                f"dataset.steps: step {index}, {one['name']}, works on {needs} and comes after {last}. Move it before."
            )
        earliest = min(stages[stage] for stage in step.takes)
        at, last = (at, last) if earliest <= at else (earliest, one["name"])
        if isinstance(step, mne_steps.Epoch):
            at, cut, last = 1, index, one["name"]
        if isinstance(step, frame_steps.Frames):
            at, last = 2, one["name"]
    if sum(isinstance(step, mne_steps.Epoch) for step in made) > 1:
        raise ConfigError(f"dataset.steps cuts epochs twice, last at step {cut}: keep one step epoch.")
    return made


def _step(index: int, given: Any) -> Any:
    if not isinstance(given, Mapping) or "name" not in given:
        raise ConfigError(f"dataset.steps: step {index} is {given!r}; write it as {{name: filter, low_hz: 0.1}}.")
    name = given["name"]
    if name not in STEPS:
        raise ConfigError(f"dataset.steps: step {index} is {name!r}, which is no step. {nearest(str(name), STEPS)}")
    kind = STEPS[name]
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    values = {}
    for option, value in given.items():
        if option == "name":
            continue
        if option not in known:
            raise ConfigError(
                f"dataset.steps: step {index}, {name}, has no option {option!r}. {nearest(str(option), known)}"
            )
        values[option] = _converted(value, known[option], f"dataset.steps: step {index}, {name}.{option}")
    return kind(**values)


def _converted(value: Any, hint: Any, where: str) -> Any:
    """A value of the configuration as the type of its option."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint == tuple[str, ...]:
        if isinstance(value, list | tuple) and all(isinstance(one, str | int) for one in value):
            return tuple(map(str, value))
        raise ConfigError(f"{where}={value!r}: a list of names is needed.")
    if value is None and "None" in str(hint):
        return None
    if "float" in str(hint) and is_number:
        return float(value)
    if "int" in str(hint) and is_number and float(value).is_integer():
        return int(value)
    if (hint is bool and isinstance(value, bool)) or (hint is str and isinstance(value, str)):
        return value
    needed = {bool: "true or false", str: "a word"}.get(hint, "a whole number" if "int" in str(hint) else "a number")
    raise ConfigError(f"{where}={value!r}: {needed} is needed.")


def carried_out(runs: Sequence[Work], steps: Sequence[Mapping[str, Any]], where: str) -> Trials:
    """All steps in their order: those over MNE run by run, the others over the trials of all runs.

    Args:
        runs: the runs of one subject.
        steps: of the configuration.
        where: whose they are, for messages.
    Raises:
        ConfigError: if a step cannot be carried out on these data.
        DataError: if nothing is left, or runs do not fit together.
    """
    made = parsed(steps)
    of_runs = [(one["name"], step) for one, step in zip(steps, made, strict=True) if "trials" not in step.takes]
    parts = []
    for work in runs:
        for name, step in of_runs:
            stage = mne_steps.stage_of(work.data)
            if stage not in step.takes:
                wants = "a continuous recording" if step.takes == ("raw",) else "epochs: add the step epoch before it"
                raise ConfigError(
                    f"dataset.steps: {name} needs {wants}, and {work.where} is {'continuous' if stage == 'raw' else 'cut into epochs already'}."
                )
            work = step(work)
        if mne_steps.stage_of(work.data) == "raw":
            raise ConfigError(
                f"{work.where} is continuous and dataset.steps does not cut it: add {{name: epoch, tmin_s: -0.2, tmax_s: 0.8}}, or {{name: frames, bin_s: 0.1}} for a row per time bin."
            )
        parts.append(work.data if isinstance(work.data, Trials) else trials_of(work))
    trials = joined(parts, where)
    trials = _tested(trials, runs[0].want, where)
    trials = _asked_only(trials, runs[0].want.stimulus_ids)
    for step in (step for step in made if "trials" in step.takes):
        trials = step(trials, where)
    return trials


def _tested(trials: Trials, want: Wanted, where: str) -> Trials:
    """Mark the given test set; that of frames names their sequences, so that a sequence is in it whole or not at all."""
    if not is_frames(trials.columns):
        return with_test(trials, want, where)
    dropped = tuple((sequence_of(name), why) for name, why in trials.dropped)
    whole = replace(trials, ids=trials.columns[SEQUENCE], dropped=dropped)
    return replace(trials, is_test=with_test(whole, want, where).is_test)


def _asked_only(trials: Trials, ids: Sequence[str]) -> Trials:
    """Without the stimuli (of frames: the sequences) that are not asked for, so that they do not enter a mean."""
    if not ids:
        return trials
    asked, are_frames = set(ids), is_frames(trials.columns)
    kept = taken(trials, np.isin(trials.columns[SEQUENCE] if are_frames else trials.ids, sorted(asked)))
    return replace(
        kept, dropped=tuple(one for one in trials.dropped if (sequence_of(one[0]) if are_frames else one[0]) in asked)
    )
