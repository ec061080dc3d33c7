"""Text encoders and language models: features of one string, of a pair of strings, or of several captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models.card import Card
from jaxalign.models.hooks import keep_rows
from jaxalign.models.network import Network, Parts, Tiny

if TYPE_CHECKING:
    from jaxalign.models.engine import NetworkSource
    from jaxalign.models.placement import Place
    from jaxalign.models.processing import Batch

POOLINGS = ("mean", "last")


@dataclass(frozen=True)
class Combine:
    """How the pooled columns of a stimulus become one row.

    Attributes:
        n_columns: how many columns it takes; None for any number.
        finish: (n_columns * n_batch, n_units), column by column, -> (n_batch, width).
    """

    n_columns: int | None
    finish: Callable[[jax.Array, int], jax.Array]


def pair_features(pooled: jax.Array, n_columns: int = 2) -> jax.Array:
    """Both strings, their absolute difference and their product: [u, v, |u - v|, u * v].

    Args:
        pooled: (2 * n_batch, n_units), all first strings, then all second strings.
        n_columns: 2.
    Returns:
        (n_batch, 4 * n_units).
    Source:
        Conneau et al. 2017, EMNLP, doi:10.18653/v1/D17-1070 (InferSent).
    """
    u, v = jnp.split(pooled, n_columns)
    return jnp.concatenate([u, v, jnp.abs(u - v), u * v], axis=1)


def mean_features(pooled: jax.Array, n_columns: int) -> jax.Array:
    """The average over columns, such as the five captions of a picture. (n_columns * n_batch, n_units) -> (n_batch, n_units)

    Source:
        Doerig et al. 2025, Nature Machine Intelligence, doi:10.1038/s42256-025-01072-0.
    """
    return pooled.reshape(n_columns, -1, pooled.shape[-1]).mean(axis=0)


COMBINE: dict[str, Combine] = {
    "pair": Combine(2, pair_features),
    "single": Combine(1, lambda pooled, _n_columns: keep_rows(pooled)),
    "mean": Combine(None, mean_features),
}


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder or a language model, with features from every hidden layer.

    Weights come from exactly one place: a folder, a hub id at a pinned revision, or an installed package.

    Attributes:
        name: what the model is called in rows.
        columns: columns of a text stimulus that are read: one for "single", two for "pair", any for "mean".
        path: a folder with config.json, a tokenizer and safetensors; or a hub id "owner/model".
        hub_id: "owner/model".
        revision: full SHA of the hub revision; empty for a folder or a package.
        package: name of an installed Python package that carries such a folder.
        model_class: class name in transformers; empty takes the base model of the configuration.
        engine: torchax (JAX, in one compiled program) or torch (hooks, then JAX).
        weights, seed: pretrained, or untrained from a seed.
        dtype: of weights and activations; pooled outputs are float32.
        layers: module paths; a list of layers stands for each of its members; "embeddings" for what the first reads.
        combine: "pair" gives [u, v, |u - v|, u * v] of the pooled strings u and v; "single" one string as it is;
            "mean" the average over all columns.
        normalize: bring each pooled string to length 1 before it is combined.
        pooling: mean (over real tokens, special tokens included) or last.
        max_tokens: longest text in tokens; a longer one is refused, not cut.
        batch_size: stimuli per forward pass and device.
        config, tiny, card: as those of `Network`.
    """

    name: str
    columns: tuple[str, ...]
    path: str | None = None
    hub_id: str = ""
    revision: str = ""
    package: str | None = None
    model_class: str = ""
    engine: str = "torchax"
    weights: str = "pretrained"
    seed: int = 0
    dtype: str = "float32"
    layers: tuple[str, ...] = ("encoder.layer",)
    combine: str = "single"
    normalize: bool = False
    pooling: tuple[str, ...] = ("mean",)
    max_tokens: int = 128
    batch_size: int = 32
    config: dict[str, Any] = field(default_factory=dict)
    tiny: Tiny = field(default_factory=Tiny)
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        for name in ("columns", "layers", "pooling"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def open(self, place: Place | None = None) -> NetworkSource:
        """Open the encoder and its tokenizer; weights are read when the first batch comes.

        Raises:
            ConfigError: if a name is unknown, or columns and combine do not fit together.
            DataError: if files are missing, or ask to run code.
        """
        from transformers import AutoTokenizer

        from jaxalign.models import engine, snapshot

        _check_names(self)
        folder = snapshot.find(self.name, self.path, self.hub_id, self.revision, self.package)
        snapshot.check(folder, self.weights == "pretrained")
        network = _as_network(self, snapshot.base_class(folder) if not self.model_class else self.model_class)
        engine.check_names(network)
        tokenizer = AutoTokenizer.from_pretrained(folder, **snapshot.LOCAL)
        source = engine.open_in(network, folder, place, lambda module: Texts(self, tokenizer, _limit(self, module)))
        return replace(source, finish=self._finish, extra_identity=self._extra)

    def _finish(self, pooled: jax.Array) -> jax.Array:
        if self.normalize:
            pooled = pooled / jnp.linalg.norm(pooled, axis=1, keepdims=True)
        return COMBINE[self.combine].finish(pooled, len(self.columns))

    @property
    def _extra(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("columns", "combine", "normalize", "max_tokens")}


def _as_network(settings: TextEncoder, model_class: str) -> Network:
    """The same as an entry of the engine: its language layers are all that is captured."""
    lists = tuple(layer for layer in settings.layers if layer != "embeddings")
    return Network(
        name=settings.name,
        model_class=model_class,
        path=settings.path,
        revision=settings.revision,
        takes="text",
        engine=settings.engine,
        weights=settings.weights,
        seed=settings.seed,
        dtype=settings.dtype,
        layers=("embeddings", "language") if "embeddings" in settings.layers else ("language",),
        parts=Parts(language=lists),
        pooling=settings.pooling,
        traced=("input_ids", "attention_mask"),
        batch_size=settings.batch_size,
    )


@dataclass(frozen=True)
class Texts:
    """Texts through a tokenizer, padded to a power of two of tokens, so that few shapes are ever compiled."""

    settings: TextEncoder
    tokenizer: Any = field(repr=False)
    limit: int

    def batches(self, stimuli: Sequence[Mapping[str, str]], n_chunks: int) -> list[Batch]:
        """Dictionaries from column to text -> n_chunks batches, each all first columns, then all second columns.

        Raises:
            DataError: if a column is missing or no text, or a text is too long.
        """
        size = len(stimuli) // n_chunks
        parts = [_texts(stimuli[start : start + size], self.settings) for start in range(0, len(stimuli), size)]
        n_tokens = self._n_tokens([text for part in parts for text in part])
        return [self._batch(part, n_tokens) for part in parts]

    def example(self, n_batch: int) -> Batch:
        """Short texts."""
        return self._batch(["a"] * (n_batch * len(self.settings.columns)), min(8, self.limit))

    def _n_tokens(self, texts: list[str]) -> int:
        lengths = [len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"]]
        longest = max(lengths)
        if not min(lengths):
            empty = texts[lengths.index(0)]
            raise DataError(
                f"{lengths.count(0)} of {len(texts)} texts of the batch, first {empty!r}, have 0 tokens for model "
                f"'{self.settings.name}': a mean over them is not defined. Leave them out or write something."
            )
        if longest > self.limit:
            raise DataError(
                f"A text of the batch has {longest} tokens and model '{self.settings.name}' takes {self.limit}: "
                "shorten it, or raise max_tokens if the network allows more."
            )
        return int(min(max(8, 1 << (longest - 1).bit_length()), self.limit))

    def _batch(self, texts: list[str], n_tokens: int) -> Batch:
        from jaxalign.models.layers import Tokens
        from jaxalign.models.processing import Batch

        if self.tokenizer.pad_token is None:  # language models have none, and masked tokens may be any
            self.tokenizer.pad_token = self.tokenizer.eos_token
        made = self.tokenizer(texts, padding="max_length", max_length=n_tokens, return_tensors="np")
        mask = np.asarray(made["attention_mask"])
        traced = {"input_ids": np.asarray(made["input_ids"]), "attention_mask": mask}
        is_token = mask.astype(bool)
        return Batch(traced, {}, Tokens(is_token, np.zeros_like(is_token)), len(texts))


def _limit(settings: TextEncoder, module: Any) -> int:
    """Longest text in tokens that both the settings and the position table allow."""
    return min(settings.max_tokens, getattr(module.config, "max_position_embeddings", settings.max_tokens))


def _check_names(settings: TextEncoder) -> None:
    """Refuse settings that cannot be carried out, before anything heavy is imported."""
    if settings.combine not in COMBINE:
        raise ConfigError(
            f"Model '{settings.name}' asks for combine '{settings.combine}'. {nearest(settings.combine, COMBINE)}"
        )
    n_columns = COMBINE[settings.combine].n_columns
    if not settings.columns or len(settings.columns) != (n_columns or len(settings.columns)):
        raise ConfigError(
            f"Model '{settings.name}' names {len(settings.columns)} columns {list(settings.columns)}: "
            f"combine '{settings.combine}' takes {n_columns or 'one or more'}."
        )
    if not settings.pooling:
        raise ConfigError(f"Model '{settings.name}' asks for 0 poolings: give one or more of {', '.join(POOLINGS)}.")
    for pooling in settings.pooling:
        if pooling not in POOLINGS:
            raise ConfigError(f"Model '{settings.name}' asks for the pooling '{pooling}'. {nearest(pooling, POOLINGS)}")


def _texts(stimuli: Sequence[Mapping[str, str]], settings: TextEncoder) -> list[str]:
    """All first columns, then all second columns, of a batch."""
    return [_text(stimulus, column, settings.name) for column in settings.columns for stimulus in stimuli]


def _text(stimulus: Mapping[str, str], column: str, name: str) -> str:
    """One column of one stimulus."""
    if column not in stimulus:
        raise DataError(f"Model '{name}' reads the column '{column}' of each text. {nearest(column, stimulus)}")
    if not isinstance(stimulus[column], str):
        raise DataError(f"The column '{column}' holds {stimulus[column]!r}: model '{name}' reads text.")
    return stimulus[column]
