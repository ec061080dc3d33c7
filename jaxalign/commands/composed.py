"""Composing the configuration with Hydra, and explaining what is wrong with a request in words a person can use."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jaxalign import config
from jaxalign.contracts import RunConfig
from jaxalign.errors import ConfigError, nearest


def with_run(arguments: list[str], task: Callable[[RunConfig, Path], Any]) -> None:
    """Compose the configuration, as Hydra does (sweeps included), and call the task with it and its output folder.

    Raises:
        ConfigError: if the request cannot be composed; in words, with nearest names.
        JaxalignError: whatever the task raises.
    """
    config.register()

    def job(composed: DictConfig) -> Any:
        return task(config.to_run(composed), Path(HydraConfig.get().runtime.output_dir))

    main = hydra.main(version_base="1.3", config_path=str(config.conf_folder()), config_name="config")(job)
    with _argv(arguments), _errors_reach_us():
        try:
            main()
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error)) from error
        finally:
            GlobalHydra.instance().clear()


def compose(arguments: list[str]) -> RunConfig:
    """Compose a request without making folders, for verbs that only look.

    Raises:
        ConfigError: as `with_run`.
    """
    config.register()
    try:
        with hydra.initialize_config_dir(str(config.conf_folder()), version_base="1.3"):
            composed = hydra.compose("config", arguments)
            OmegaConf.resolve(composed)
            return config.to_run(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def explain(error: Exception) -> str:
    """What Hydra found, in one sentence, with the nearest names that exist."""
    text = str(error)
    if found := re.search(r"[Cc]ould not find '([\w-]+)/([^']+)'", text):
        group, name = found.groups()
        return f"There is no {group} {name!r}. {nearest(name, config.options(group))}"
    if found := re.search(r"(?:Could not override|In '[^']*': Could not override) '([^']+)'", text):
        name = found.group(1)
        return f"There is no option or group {name!r}. {_nearest_key(name)}"
    if found := re.search(r"Key '([^']+)' (?:is )?not in", text) or re.search(r"Key '([^']+)' is not in struct", text):
        full = re.search(r"full_key: (\S+)", text)
        name = full.group(1) if full else found.group(1)
        return f"There is no option {name!r}. {_nearest_key(name)}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("See https"))


def _nearest_key(name: str) -> str:
    """Nearest options and groups: among all that the shipped choices can have."""
    return nearest(name.lstrip("+~"), _known_keys())


def _known_keys() -> set[str]:
    keys = set(OmegaConf.to_container(OmegaConf.structured(RunConfig), resolve=False)) | set(config.groups())  # type: ignore[arg-type]
    for group, kinds in (("dataset", config.DATASETS), ("stimuli", config.STIMULI)):
        keys |= {f"{group}.{field}" for kind in kinds.values() for field in _fields(kind)}
    for name, kind in config.METRICS.items():
        keys |= {f"metric.{name}.{field}" for field in _fields(kind)}
    return {str(key) for key in keys}


def _fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


@contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv; give it ours for a while."""
    before = sys.argv
    sys.argv = ["jaxalign", *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _errors_reach_us() -> Iterator[None]:
    """Hydra prints an error and exits 1 by itself unless told to let it through."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
