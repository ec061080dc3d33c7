"""Composing the configuration with Hydra, and explaining what is wrong with a request in words a person can use."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jaxalign import config
from jaxalign.commands.jobs import Batch, Task, explained
from jaxalign.contracts import Average, DistConfig, MeshConfig, NullConfig, RunConfig
from jaxalign.errors import ConfigError, JaxalignError, PreemptedError, near, nearest
from jaxalign.sources.simulated import Plant


def with_run(arguments: list[str], compute: Batch) -> None:
    """Compose the configuration, as Hydra does (sweeps included), and compute the run, or all runs of the sweep.

    Args:
        arguments: the command line behind the verb.
        compute: runs with their folders -> a function per run that returns its answer or raises its error. Called once
            for a sweep under the launcher `jaxalign`, and once per job under any other.
    Raises:
        ConfigError: if the request cannot be composed; in words, with nearest names.
        JaxalignError: that of the run; for a sweep, one for all failed jobs.
    """
    config.register()
    task = Task(compute)
    main = hydra.main(version_base="1.3", config_path=str(config.conf_folder()), config_name="config")(task)
    with _argv(_of_this_process(with_own_folder(arguments))), _errors_reach_us():
        try:
            main()
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error)) from error
        except OSError as error:
            raise explained(error) from error
        except PreemptedError:
            raise
        except JaxalignError:
            if not task.failed():
                raise
        finally:
            GlobalHydra.instance().clear()
    task.conclude()


def _of_this_process(arguments: list[str]) -> list[str]:
    """The words of the command line; of several processes, only the first keeps Hydra's record of the job.

    The processes are joined here, since Hydra writes that record before anything of ours runs.
    """
    from jaxalign.runtime import dist

    asked = [word for word in arguments if word.startswith(("dist=", "dist."))]
    dist.initialize(_composed(asked).dist if asked else DistConfig())
    return arguments if dist.is_first() else [*arguments, "hydra.output_subdir=null"]


def _composed(arguments: list[str]) -> Any:
    """The configuration as dataclasses, as far as it goes without a whole request."""
    try:
        with hydra.initialize_config_dir(str(config.conf_folder()), version_base="1.3"):
            return OmegaConf.to_object(hydra.compose("config", arguments))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def compose(arguments: list[str], needs: Sequence[str] = tuple(config.EXAMPLES)) -> RunConfig:
    """Compose a request without making folders, for verbs that only look.

    Args:
        needs: parts that must be chosen.
    Raises:
        ConfigError: as `with_run`.
    """
    config.register()
    try:
        with hydra.initialize_config_dir(str(config.conf_folder()), version_base="1.3"):
            composed = hydra.compose("config", with_own_folder(arguments))
            OmegaConf.resolve(composed)
            return config.to_run(composed, needs)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def with_own_folder(arguments: list[str]) -> list[str]:
    """The arguments, with the user's own folder on Hydra's search path: --config-dir, or the environment variable.

    Raises:
        ConfigError: if the folder is not there.
    """
    rest = list(arguments)
    for flag in ("--config-dir", "-cd"):
        if flag in rest:
            at = rest.index(flag)
            os.environ[config.OWN_FOLDER] = str(Path(" ".join(rest[at + 1 : at + 2])).resolve())
            del rest[at : at + 2]
    for word in [word for word in rest if word.startswith("--config-dir=")]:
        os.environ[config.OWN_FOLDER] = str(Path(word.partition("=")[2]).resolve())
        rest.remove(word)
    own = config.folders()[:-1]
    return [*rest, *(f"hydra.searchpath=[file://{folder}]" for folder in own)]


def explain(error: Exception) -> str:
    """What Hydra found, in one sentence, with the nearest names that exist."""
    text = str(error)
    whole = f"{text}\n{error.__cause__ or ''}"
    if found := re.search(r"[Cc]ould not (?:find|load) '([\w-]+)/([^']+)'", text):
        group, name = found.groups()
        return f"There is no {group} {name!r}. {nearest(name, config.options(group))}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read. Options are written name=value, lists name=[a,b]; quote what holds spaces or signs: 'name=\"a b\"'."
    if found := re.search(r"Key '([^']+)' not in '(\w+)'\s+full_key: (\S+)", whole):
        key, kind, full = found.groups()
        if kind in _kinds() and key in _fields(RunConfig) and not near(key, _fields(_kinds()[kind])):
            return f"There is no option {full!r}: {key} is an option of the whole run, written {key}=VALUE."
        if kind in _kinds():
            return f"There is no option {full!r} in what is chosen ({kind}). {nearest(key, _fields(_kinds()[kind]))}"
    if found := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        name = found.group(1)
        if name.startswith("score."):
            return f"{name} is not in this request yet: write +{name}=[...] to name the models of one more metric."
        return f"There is no option or group {name!r}. {_nearest_key(name)}"
    if found := re.match(r"Error merging override (.+)", text):
        reason = str(error.__cause__ or "").splitlines()
        return f"{found.group(1)} does not fit: {reason[0].rstrip('.') if reason else 'its value is of another kind'}."
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("See https"))


def _nearest_key(name: str) -> str:
    """Nearest options and groups: among all that the shipped choices can have."""
    found = nearest(name.lstrip("+~"), _known_keys())
    return found if found.startswith("Nearest") else "`jaxalign --help` lists what can be chosen."


def _kinds() -> dict[str, Any]:
    """Every class that is a schema, by its name."""
    tables = (config.MODEL_KINDS, config.DATASETS, config.METRICS, config.STIMULI)
    return {
        kind.__name__: kind
        for kind in (
            MeshConfig,
            DistConfig,
            NullConfig,
            Average,
            Plant,
            *(kind for table in tables for kind in table.values()),
        )
    }


def _known_keys() -> set[str]:
    keys = set(OmegaConf.to_container(OmegaConf.structured(RunConfig), resolve=False)) | set(config.groups())  # type: ignore[arg-type]
    for group, kinds in (("dataset", config.DATASETS), ("stimuli", config.STIMULI)):
        keys |= {f"{group}.{field}" for kind in kinds.values() for field in _fields(kind)}
    keys |= {f"mesh.{field}" for field in _fields(MeshConfig)}
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
