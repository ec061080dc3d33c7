"""Networks written in flax NNX as entries: the same rows as any other network, from a pure function of state and batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import pool
from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models import snapshot
from jaxalign.models.card import Card
from jaxalign.models.checks import check_count, checked_picture

if TYPE_CHECKING:
    from jaxalign.models.placement import Place, Placement

POOLINGS = ("spatial_mean", "cls", "mean")


@dataclass(frozen=True)
class FlaxNetwork:
    """A network in flax NNX, from a checkpoint of the class that it restates, or with untrained weights.

    Attributes:
        name: what the model is called in rows.
        architecture: key of NETWORKS in models/flax_vit.py.
        path, hub_id, revision: where the checkpoint is, as those of `Network`.
        weights, seed: pretrained, or untrained from a seed.
        pooling: spatial_mean (patches without CLS), cls or mean.
        batch_size: images per forward pass and device.
        card: facts for the analysis of architecture and scale.
    """

    name: str
    architecture: str = "vit"
    path: str | None = None
    hub_id: str = ""
    revision: str = ""
    weights: str = "pretrained"
    seed: int = 0
    pooling: tuple[str, ...] = ("spatial_mean",)
    batch_size: int = 32
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pooling", tuple(self.pooling))

    def open(self, place: Place | None = None) -> FlaxSource:
        """Open the network and its processor.

        Raises:
            ConfigError: if a name is unknown, or no revision is pinned.
            DataError: if files are missing, damaged, or ask to run code.
        """
        from flax import nnx

        from jaxalign.models import flax_vit
        from jaxalign.models.placement import OneDevice

        if self.architecture not in flax_vit.NETWORKS:
            raise ConfigError(
                f"'{self.name}': {self.architecture!r} is unknown. {nearest(self.architecture, flax_vit.NETWORKS)}"
            )
        for pooling in self.pooling:
            if pooling not in POOLINGS:
                raise ConfigError(f"Model '{self.name}' asks for the pooling '{pooling}'. {nearest(pooling, POOLINGS)}")
        folder = snapshot.find(self.name, self.path, self.hub_id, self.revision)
        snapshot.check(folder, self.weights == "pretrained")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        build = flax_vit.NETWORKS[self.architecture]
        graph, shapes = nnx.split(nnx.eval_shape(lambda: build(config, nnx.Rngs(self.seed))))
        n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        return FlaxSource(self, folder, config, graph, shapes, OneDevice() if place is None else place(n_bytes))


@dataclass(frozen=True)
class FlaxSource:
    """A flax network that is open; see ActivationSource."""

    settings: FlaxNetwork
    folder: Path
    config: dict[str, Any] = field(repr=False)
    graph: Any = field(repr=False)
    shapes: Any = field(repr=False)
    placement: Placement = field(repr=False)

    takes = "image"
    bin_s = None

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size * self.placement.n_parallel

    def bucket(self, _duration_s: float) -> float:
        return 0.0

    @cached_property
    def spec(self) -> dict[tuple[str, str], jax.ShapeDtypeStruct]:
        """(layer, pooling) -> shape and dtype of one batch of one device."""
        size = self.config["image_size"]
        pixels = jax.ShapeDtypeStruct((self.settings.batch_size, 3, size, size), jnp.float32)
        return dict(jax.eval_shape(self.function, self.shapes, pixels))

    @cached_property
    def fits(self) -> tuple[Fit, ...]:
        """One per layer and pooling; depth is (index + 1) / n_layers."""
        layers = list(dict.fromkeys(layer for layer, _ in self.spec))
        layers.sort(key=_place_of)
        return tuple(
            Fit(
                self.settings.name,
                self.revision,
                layer,
                (at + 1) / len(layers),
                pooling,
                self.spec[layer, pooling].shape[-1],
            )
            for at, layer in enumerate(layers)
            for pooling in self.settings.pooling
        )

    @property
    def revision(self) -> str:
        """The pinned revision, or a digest of the weights, or the seed of untrained ones."""
        if self.settings.weights == "untrained":
            return f"untrained-seed-{self.settings.seed}"
        return self.settings.revision or snapshot.weights_label(self.folder)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        import flax

        settings = {name: value for name, value in asdict(self.settings).items() if name not in ("path", "card")}
        return {
            **json.loads(json.dumps(settings)),
            "files_sha256": snapshot.files_sha256(self.folder),
            "flax": flax.__version__,
            "jax": jax.__version__,
        }

    @cached_property
    def processor(self) -> Any:
        """The checkpoint's image processor."""
        from jaxalign.models.processors import processor_of

        return processor_of(self.folder)

    def function(self, state: Any, pixels: jax.Array) -> dict[tuple[str, str], jax.Array]:
        """The pure function: state, pixels (n_batch, 3, height, width) -> (layer, pooling) -> (n_batch, width) float32."""
        from flax import nnx

        with jax.default_matmul_precision("highest"):
            outputs = nnx.merge(self.graph, state)(pixels)
        return {
            (layer, one): _pooled(tokens, one) for layer, tokens in outputs.items() for one in self.settings.pooling
        }

    @cached_property
    def program(self) -> Callable[..., Any]:
        """The function, compiled."""
        return self.placement.compiled(self.function)

    @cached_property
    def state(self) -> Any:
        """All parameters on their devices."""
        from flax import nnx

        from jaxalign.models import flax_vit

        if self.settings.weights == "untrained":
            made = flax_vit.NETWORKS[self.settings.architecture](self.config, nnx.Rngs(self.settings.seed))
            return jax.tree.map(lambda leaf: self.placement.weight("", np.asarray(leaf)), nnx.split(made)[1])
        return _loaded(self.folder, self.shapes, self.placement)

    @property
    def n_weight_bytes(self) -> int:
        """Bytes of all parameters together."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.shapes))

    def release(self) -> None:
        """Give back the memory of parameters and program; the next batch makes them anew."""
        for name in ("state", "program"):
            self.__dict__.pop(name, None)

    def activations(self, stimuli: Sequence[np.ndarray]) -> dict[tuple[str, str], jax.Array]:
        """Features of one batch of images, by (layer, pooling); see ActivationSource."""
        check_count(self.settings.name, "image", len(stimuli), self.batch_size)
        pictures = [checked_picture(picture, index, self.settings.name) for index, picture in enumerate(stimuli)]
        pixels = self.processor(pictures, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        state, program, placed = self.state, self.program, self.placement.batch(np.asarray(pixels, np.float32))
        with jax.transfer_guard("disallow"):
            return dict(program(state, placed))


def _place_of(layer: str) -> tuple[int, int]:
    """Embeddings, then layers by number, then the norm."""
    if layer.startswith("layers."):
        return 1, int(layer.split(".")[1])
    return (0, 0) if layer == "embeddings" else (2, 0)


def _pooled(tokens: jax.Array, pooling: str) -> jax.Array:
    if pooling == "cls":
        return tokens[:, 0]
    is_token = jnp.arange(tokens.shape[1]) >= (1 if pooling == "spatial_mean" else 0)
    return pool.mean_tokens(tokens, jnp.broadcast_to(is_token, tokens.shape[:2]))


def _loaded(folder: Path, shapes: Any, placement: Placement) -> Any:
    """The state from a checkpoint, one parameter at a time.

    Raises:
        DataError: if a parameter is missing or of another shape.
    """
    from flax import nnx
    from safetensors import safe_open

    from jaxalign.models import flax_vit

    flat = nnx.to_flat_state(shapes)
    wanted, found = dict(flat), {}
    for file in snapshot.weight_files(folder):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (safe_open is no dictionary)
                path = flax_vit.path_of(name)
                if path not in wanted:
                    continue
                values = flax_vit.as_stored_here(path, np.asarray(tensors.get_tensor(name), np.float32))
                if values.shape != wanted[path].shape:
                    raise DataError(
                        f"{file}: {name} has shape {values.shape} here, and {wanted[path].shape} is needed."
                    )
                found[path] = wanted[path].replace(placement.weight(name, np.ascontiguousarray(values)))
    missing = [".".join(map(str, path)) for path in wanted if path not in found]
    if missing:
        raise DataError(f"{folder} lacks {len(missing)} of {len(wanted)} parameters, first {missing[0]}.")
    return nnx.from_flat_state(list(found.items()))
