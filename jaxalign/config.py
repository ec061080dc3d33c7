"""Schemas of conf/: every metric, data set and model class is the schema of its own group. Finds conf/ in a checkout and in a wheel."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jaxalign.compute import METRICS
from jaxalign.contracts import RunConfig
from jaxalign.errors import ConfigError, nearest
from jaxalign.models import SOURCES
from jaxalign.models.given import Metadata
from jaxalign.models.stored import Stored
from jaxalign.sources import DATASETS, STIMULI
from jaxalign.sources.rdm_files import RdmFile

MODEL_KINDS: dict[str, Any] = {**SOURCES, "metadata": Metadata, "rdm_file": RdmFile, "stored": Stored}
"""What a model entry may be: networks, columns of the recording, given RDMs."""


def conf_folder() -> Path:
    """The folder of YAML files: inside the installed package, or at the top of a checkout.

    Raises:
        ConfigError: if neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(
        f"No conf/config.yaml beside or above {package}: the installation is incomplete. Install jaxalign again."
    )


def register() -> None:
    """Make every class the schema of its own group; YAML then holds values only."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    groups = {"model": MODEL_KINDS, "dataset": DATASETS, "metric": METRICS, "stimuli": STIMULI}
    for group, kinds in groups.items():
        for name, kind in kinds.items():
            schema = OmegaConf.structured(kind)
            OmegaConf.set_readonly(schema, False)  # frozen for jit, open for YAML
            store.store(group=f"{group}/schema", name=name, node=schema)


def to_run(config: DictConfig) -> RunConfig:
    """The composed configuration as dataclasses, checked.

    Raises:
        ConfigError: if a value is of the wrong type or range, or a part of the request is missing.
    """
    try:
        _check_keys(config)
        run = OmegaConf.to_object(config)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(str(error).strip().splitlines()[0]) from error
    assert isinstance(run, RunConfig)
    for part, example in (("dataset", "dataset=n400"), ("model", "model=[minilm]"), ("metric", "metric=[ridge,rsa]")):
        value = getattr(run, part)
        if not value or (part == "dataset" and not dataclasses.is_dataclass(value)):
            raise ConfigError(
                f"No {part} is chosen: add {example}, or a whole experiment such as experiment=demo. `jaxalign --help` lists the choices."
            )
        for name, entry in (value if isinstance(value, dict) else {}).items():
            if not dataclasses.is_dataclass(entry):
                raise ConfigError(
                    f"{part}.{name} is not a known {part}: add it as {part}=[{name}]. {nearest(str(name), options(part))}"
                )
    for metric, models in run.score.items():
        _known(metric, run.metric, "score", "metric")
        for model in models:
            _known(model, run.model, f"score.{metric}", "model")
    if run.n_permutations is not None:
        same = {"n_permutations": run.n_permutations}
        run.metric = {name: dataclasses.replace(metric, **same) for name, metric in run.metric.items()}
    _check_ranges(run)
    if run.precision != "highest":
        raise ConfigError(f"precision={run.precision!r}: only highest is offered.")
    return run


def _check_keys(node: DictConfig, where: str = "") -> None:
    """Refuse keys that a schema has not: "+name=value" can add them, and nothing would read them."""
    kind = OmegaConf.get_type(node)
    known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in map(str, node):
        if known is not None and key not in known:
            raise ConfigError(f"There is no option {where + key!r}. {nearest(key, known)}")
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _check_keys(node[key], f"{where}{key}.")


def _check_ranges(run: RunConfig) -> None:
    """Refuse numbers that mean nothing."""
    least = {"seed": (run.seed, 0), "n_ceiling_splits": (run.n_ceiling_splits, 1)}
    least |= {f"mesh.{name}": (value, 1) for name, value in vars(run.mesh).items() if name != "memory_gib"}
    least |= {f"metric.{name}.n_permutations": (metric.n_permutations, 0) for name, metric in run.metric.items()}
    for name, (value, smallest) in least.items():
        if value is not None and value < smallest:
            raise ConfigError(f"{name}={value}: a whole number from {smallest} upwards is needed.")
    if run.mesh.memory_gib is not None and not run.mesh.memory_gib > 0:
        raise ConfigError(
            f"mesh.memory_gib={run.mesh.memory_gib}: a number above 0 is needed, or null to ask the device."
        )


def options(group: str) -> list[str]:
    """Choices of a configuration group, from conf/."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def groups() -> list[str]:
    """Names of the configuration groups of conf/."""
    return sorted(path.name for path in conf_folder().iterdir() if path.is_dir() and path.name != "hydra")


def _known(name: str, entries: dict[str, Any], where: str, what: str) -> None:
    if name not in entries:
        raise ConfigError(f"{where} names the {what} {name!r}, which this run has not. {nearest(name, entries)}")
