"""Schemas of conf/: every metric, data set and model class is the schema of its own group. Finds conf/ in a checkout and in a wheel."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jaxalign.compute import METRICS, ceiling, rdm_ceilings
from jaxalign.contracts import RunConfig
from jaxalign.errors import ConfigError, nearest
from jaxalign.models import SOURCES
from jaxalign.models.given import Metadata
from jaxalign.models.stored import Stored
from jaxalign.sources import DATASETS, STIMULI
from jaxalign.sources.rdm_files import RdmFile

MODEL_KINDS: dict[str, Any] = {**SOURCES, "metadata": Metadata, "rdm_file": RdmFile, "stored": Stored}
"""What a model entry may be: networks, columns of the recording, given RDMs."""

DIST_MODES = ("auto", "explicit", "off")
PROFILES = ("none", "trace")
TIMEOUTS = ("initialization_timeout_s", "heartbeat_timeout_s")
LONGEST_NAME = 200
"""Bytes of a folder's name in a sweep; file systems end at 255, and temporary files add to theirs."""


YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MEMORY = ("memory_gib", "host_memory_gib")
"""Options of the mesh that are gibibytes and no whole numbers."""


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
    """Make every class the schema of its own group; YAML then holds values only. Makes our launcher known to Hydra, too."""
    _add_plugins()
    OmegaConf.register_new_resolver("jaxalign.folder", folder_name, replace=True)
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    groups = {"model": MODEL_KINDS, "dataset": DATASETS, "metric": METRICS, "stimuli": STIMULI}
    for group, kinds in groups.items():
        for name, kind in kinds.items():
            store.store(group=f"{group}/schema", name=name, node=schema_of(kind))


def schema_of(kind: Any) -> DictConfig:
    """A dataclass as a schema: frozen for jit, open for YAML, and so is every dataclass inside it.

    Maps, such as event_names, take any key on the command line; a dataclass takes its fields alone.
    """
    schema: DictConfig = OmegaConf.structured(kind)
    _open(schema)
    return schema


def _open(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, False)
    if not dataclasses.is_dataclass(OmegaConf.get_type(node)):
        OmegaConf.set_struct(node, False)  # Hydra closes the whole configuration, and with it maps that are empty
    for key in node:
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _open(node[key])


def _add_plugins() -> None:
    """Hydra looks for plugins in hydra_plugins, once per process: add ours to that namespace, and to what it has found."""
    folder = str(Path(__file__).resolve().parent / "_plugins")
    if folder not in sys.path:
        sys.path.append(folder)
    found = Plugins.instance()
    found.register(import_module("hydra_plugins.jaxalign_launcher.launcher").JaxalignLauncher)


def folder_name(overrides: str) -> str:
    """The name of a job's folder in a sweep: its overrides; where these are long or hold a path, their beginning and a hash.

    A "/" would make nested folders, and "../" would leave the folder of the sweep.
    """
    text = str(overrides)
    if len(text.encode()) <= LONGEST_NAME and "/" not in text:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    start = text.replace("/", "_").encode()[: LONGEST_NAME - len(digest) - 1].decode(errors="ignore")
    return f"{start}-{digest}"


EXAMPLES = {"dataset": "dataset=n400", "model": "model=[minilm]", "metric": "metric=[ridge,rsa]"}
"""Parts that a request may need -> how one is chosen."""


def to_run(config: DictConfig, needs: Sequence[str] = tuple(EXAMPLES)) -> RunConfig:
    """The composed configuration as dataclasses, checked.

    Args:
        needs: parts that must be chosen; the others may be left out.
    Raises:
        ConfigError: if a value is of the wrong type or range, or a part of the request is missing.
    """
    try:
        _check_keys(config)
        run = OmegaConf.to_object(config)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(str(error).strip().splitlines()[0]) from error
    assert isinstance(run, RunConfig)
    for part, example in EXAMPLES.items():
        value = getattr(run, part)
        is_chosen = bool(value) and (part != "dataset" or dataclasses.is_dataclass(value))
        if not is_chosen and part in needs:
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
    run.subject = _subjects(run.subject)
    _check_ranges(run)
    _check_choices(run)
    if run.precision != "highest":
        raise ConfigError(f"precision={run.precision!r}: only highest is offered.")
    return run


def _check_keys(node: DictConfig, where: str = "") -> None:
    """Refuse keys that a schema has not: "+name=value" can add them, and nothing would read them."""
    kind = OmegaConf.get_type(node)
    known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in node:  # names of maps may be numbers
        name = str(key)
        if known is not None and name not in known:
            raise ConfigError(f"There is no option {where + name!r}. {nearest(name, known)}")
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _check_keys(node[key], f"{where}{name}.")


def _subjects(given: Any) -> tuple[str, ...] | None:
    """Names of subjects, as given; None for all."""
    if given is None or given == "":
        return None
    names = given if isinstance(given, list | tuple) else [given]
    wrong = [name for name in names if isinstance(name, bool) or not isinstance(name, str | int) or name == ""]
    if wrong:
        raise ConfigError(
            f"subject={given!r} holds {wrong[0]!r}: give names or numbers, such as subject=[1,2], or null for all."
        )
    return tuple(map(str, names)) or None


def _check_choices(run: RunConfig) -> None:
    """Refuse words that mean nothing."""
    for name, value, known in (("profile", run.profile, PROFILES), ("dist.mode", run.dist.mode, DIST_MODES)):
        if value not in known:
            raise ConfigError(f"{name}={value!r} is unknown. {nearest(value, known)}")
    recipes = (ceiling.AUTO, *ceiling.OF_RESPONSES, *rdm_ceilings.OF_RDMS)
    for name in run.ceiling.recipes:
        if name not in recipes:
            raise ConfigError(f"ceiling.recipes holds {name!r}, which is no recipe. {nearest(name, recipes)}")
    if not run.ceiling.recipes:
        raise ConfigError("ceiling.recipes is empty: name recipes, or leave it at [auto].")


def _check_ranges(run: RunConfig) -> None:
    """Refuse numbers that mean nothing."""
    least: dict[str, tuple[int | None, int]] = {"seed": (run.seed, 0), "ceiling.n_splits": (run.ceiling.n_splits, 1)}
    least |= {f"mesh.{name}": (value, 1) for name, value in vars(run.mesh).items() if name not in MEMORY}
    least |= {f"metric.{name}.n_permutations": (metric.n_permutations, 0) for name, metric in run.metric.items()}
    least |= {"dist.n_processes": (run.dist.n_processes, 1), "dist.process_id": (run.dist.process_id, 0)}
    least |= {f"dist.{name}": (getattr(run.dist, name), 1) for name in TIMEOUTS}
    for name, (value, smallest) in least.items():
        if value is not None and value < smallest:
            raise ConfigError(f"{name}={value}: a whole number from {smallest} upwards is needed.")
    for name in MEMORY:
        value = getattr(run.mesh, name)
        if value is not None and not value > 0:
            raise ConfigError(f"mesh.{name}={value}: a number above 0 is needed, or null to ask the machine.")


def options(group: str) -> list[str]:
    """Choices of a configuration group, from conf/ and the user's own folder."""
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})


OWN_FOLDER = "JAXALIGN_CONFIG_DIR"
"""Environment variable that names a user's own folder of configuration, laid out like conf/; --config-dir names one, too."""


def folders() -> list[Path]:
    """conf/, and the user's own folder in front of it where there is one.

    Raises:
        ConfigError: if the variable names no folder.
    """
    own = os.environ.get(OWN_FOLDER)
    if not own:
        return [conf_folder()]
    if not Path(own).is_dir():
        raise ConfigError(f"{OWN_FOLDER}={own} is no folder: let it name one that holds model/NAME.yaml.")
    return [Path(own).resolve(), conf_folder()]


def file_of(group: str, name: str) -> Path:
    """The YAML file of a choice; the user's own comes first.

    Raises:
        ConfigError: if there is none, with the nearest names.
    """
    for folder in folders():
        if (folder / group / f"{name}.yaml").is_file():
            return folder / group / f"{name}.yaml"
    raise ConfigError(f"There is no {group} {name!r}. {nearest(name, options(group))}")


def entry_values(group: str, name: str) -> dict[str, Any]:
    """What the YAML files of a choice say, without its schema: quick, for lists of all choices.

    Returns:
        Its values, over those of the files that its defaults name; "schema" holds the name of its schema.
    """
    values: dict[str, Any] = yaml.load(file_of(group, name).read_text(encoding="utf-8"), Loader=YAML_LOADER)
    merged: dict[str, Any] = {}
    for default in values.pop("defaults", []):
        if default == "_self_":
            continue
        path = str(default).removesuffix("@_here_")
        if path.startswith("schema/"):
            merged["schema"] = path.removeprefix("schema/")
        else:
            merged |= entry_values(f"{group}/{path.rpartition('/')[0]}".rstrip("/"), path.rpartition("/")[2])
    return merged | values


def groups() -> list[str]:
    """Names of the configuration groups of conf/."""
    return sorted(path.name for path in conf_folder().iterdir() if path.is_dir() and path.name != "hydra")


def _known(name: str, entries: dict[str, Any], where: str, what: str) -> None:
    if name not in entries:
        raise ConfigError(f"{where} names the {what} {name!r}, which this run has not. {nearest(name, entries)}")
