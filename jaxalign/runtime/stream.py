"""Stimuli in fixed-size batches through a model, pooled rows into the store, and out of it into the feature bank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign import store
from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError
from jaxalign.models import ActivationSource, open_source


def activations(
    entry: Any, stimuli: dict[str, Callable[[], Iterator[Any]]], stimulus_ids: tuple[str, ...], root: str, progress: Any
) -> Iterator[tuple[Fit, np.ndarray, dict[str, Any]]]:
    """Features of all layers of one model, from the store when they are there, else extracted into it first.

    Args:
        entry: settings of the model.
        stimuli: kind ("image", "text") -> function that yields the stimuli in order.
        stimulus_ids: names, in the same order.
        root: folder of stores.
        progress: called with a sentence and a fraction done.
    Yields:
        (fit, (n_stimuli, width) float32, identity of the model).
    Raises:
        ConfigError: if the data set has no stimuli of the kind that the model takes.
    """
    source = open_source(entry)
    if source.takes not in stimuli:
        has = " and ".join(sorted(stimuli)) or "no stimuli"
        raise ConfigError(
            f"{source.fits[0].model} takes {source.takes} stimuli, and this data set has {has}. Choose another model or data set."
        )
    folder = Path(root) / _store_name(source, stimulus_ids)
    if not store.matches(folder, source.identity, stimulus_ids, source.fits):
        blocks = _extract(source, stimuli[source.takes](), len(stimulus_ids), progress)
        folder.parent.mkdir(parents=True, exist_ok=True)
        store.write(folder, source.fits, stimulus_ids, source.identity, blocks)
    for fit in source.fits:
        yield fit, np.asarray(store.read(folder, fit), np.float32), source.identity


def _store_name(source: ActivationSource, stimulus_ids: tuple[str, ...]) -> str:
    """One store per model identity and stimulus order."""
    content = json.dumps([source.identity, stimulus_ids], sort_keys=True)
    return f"{source.fits[0].model}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _extract(
    source: ActivationSource, stimuli: Iterator[Any], n_stimuli: int, progress: Any
) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    """Pooled rows of each batch; the last batch is padded to full size and its padding dropped."""
    done = 0
    while batch := list(islice(stimuli, source.batch_size)):
        n_real = len(batch)
        pooled = source.activations(batch + [batch[-1]] * (source.batch_size - n_real))
        yield {key: np.asarray(values)[:n_real] for key, values in pooled.items()}
        done += n_real
        progress(f"extract {source.fits[0].model}", done / n_stimuli)
