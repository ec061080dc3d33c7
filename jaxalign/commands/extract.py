"""`jaxalign extract`: activations of all layers of the chosen models into stores, without scoring anything."""

from __future__ import annotations

from typing import Any

from jaxalign.commands import progress
from jaxalign.commands.composed import compose
from jaxalign.contracts import RunConfig
from jaxalign.errors import ConfigError, DataError, JaxalignError


def main(arguments: list[str]) -> None:
    """Extract every model of the request for its stimuli (stimuli=... or those of dataset=...), and print the stores.

    A model that fails does not keep the others from being extracted.
    """
    from jaxalign.runtime import dist

    run = compose(arguments, needs=("model",))
    dist.initialize(run.dist)
    if run.dataset is None and run.stimuli is None:
        raise ConfigError("Nothing is shown to the models: add stimuli=images stimuli.path=FOLDER, or a dataset.")
    shared: dict[str, Any] = {}
    failures = [error for name in run.model if (error := _one(run, name, shared)) is not None]
    dist.barrier("end")
    if len(failures) == 1:
        raise failures[0]
    if failures:
        told = "\n".join(f"- {error}" for error in failures)
        raise DataError(f"{len(failures)} of {len(run.model)} models were not extracted:\n{told}")


def _one(run: RunConfig, name: str, shared: dict[str, Any]) -> JaxalignError | None:
    """Extract one model; its error, if it has one."""
    from jaxalign import store
    from jaxalign.runtime import dist
    from jaxalign.runtime.inputs import extract

    try:
        with progress.shown() as show:
            folder = extract(run, name, show, shared)
    except JaxalignError as error:
        return error
    if dist.is_first():
        content = store.manifest(folder)
        print(f"{name}: {content['n_stimuli']} rows x {len(content['arrays'])} fits in {folder}")
    return None
