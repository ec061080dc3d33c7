"""A network of the zoo, opened: a pure function of weights and batch, under JAX or with torch's own kernels."""

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

from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models import building, loading, snapshot
from jaxalign.models.checks import check_count
from jaxalign.models.hooks import keep_rows, to_jax
from jaxalign.models.layers import Tokens, Wanted, forward_of, keeps_padding, points_of, pooled, wanted_of
from jaxalign.models.patches import PATCHES, prepared
from jaxalign.models.placement import OneDevice, Place, Placement
from jaxalign.models.processing import Batch, Images, Processing, Sounds, media_token_id
from jaxalign.models.processors import processor_of

if TYPE_CHECKING:
    from jaxalign.models.network import Network

ENGINES = ("torchax", "torch")
WEIGHTS = ("pretrained", "untrained")
KINDS = ("native", "composite")
TAKES = ("image", "audio", "text")
LAYOUTS = ("bnd", "tiles", "packed", "1packed", "bhwd")
MAX_PROGRAMS = 24
"""Compiled programs of one network: more mean that every batch has another shape."""

NOT_IDENTITY = ("path", "tiny", "card", "hub_id")
"""Settings that do not decide the numbers: files count by their bytes, not by where they lie."""


def open_network(settings: Network, place: Place | None = None) -> NetworkSource:
    """A network with its processor. Weights are read when the first batch comes.

    Raises:
        ConfigError: if a name is unknown, a path leads nowhere, or no revision is pinned.
        DataError: if files are missing, damaged, or ask to run code.
    """
    check_names(settings)
    if settings.takes == "text":
        raise ConfigError(f"Model '{settings.name}' takes text: make it an entry of schema/text_encoder.")
    folder = snapshot.find(settings.name, settings.path, settings.hub_id, settings.revision)
    snapshot.check(folder, settings.weights == "pretrained", settings.kind == "native")
    return open_in(settings, folder, place, lambda module: _processing(settings, module, folder))


def open_in(
    settings: Network, folder: Path, place: Place | None, processing_of: Callable[[Any], Processing]
) -> NetworkSource:
    """A network from a checked folder.

    Args:
        settings: the entry, its names checked.
        folder: the checkpoint.
        place: bytes of the weights -> devices; the default device by default.
        processing_of: the network without weights -> how its stimuli become inputs.
    """
    kind = building.class_named(settings.model_class)
    config = _configuration(settings, kind, folder)
    module = prepared(building.abstract(kind, config, settings.dtype), settings.patches)
    points = points_of(settings, module)
    devices = OneDevice() if place is None or settings.engine == "torch" else place(_n_bytes(module))
    wanted, processing = wanted_of(settings, points), processing_of(module)
    return NetworkSource(settings, kind, config, folder, module, points, wanted, processing, devices)


@dataclass(frozen=True)
class NetworkSource:
    """A network that is open; see ActivationSource.

    Attributes:
        module: its architecture, without weights.
        finish: what becomes of each pooled (n_batch, n_units), inside the compiled program.
        extra_identity: what else decides the numbers, as JSON values.
    """

    settings: Network
    kind: Any = field(repr=False)
    config: Any = field(repr=False)
    folder: Path
    module: Any = field(repr=False)
    points: Any = field(repr=False)
    wanted: tuple[Wanted, ...] = field(repr=False)
    processing: Processing = field(repr=False)
    placement: Placement = field(repr=False)
    finish: Callable[[jax.Array], jax.Array] = keep_rows
    extra_identity: dict[str, Any] = field(default_factory=dict, repr=False)
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict, repr=False)

    @property
    def takes(self) -> str:
        return self.settings.takes

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size * self.placement.n_parallel

    @property
    def bin_s(self) -> float | None:
        is_framed = any(item.pooling == "frames" for item in self.wanted)
        return self.settings.bin_s if is_framed else None

    def bucket(self, duration_s: float) -> float:
        """The duration that a sound is padded to."""
        return self.processing.bucket(duration_s) if isinstance(self.processing, Sounds) else 0.0

    @cached_property
    def spec(self) -> dict[tuple[str, str], jax.ShapeDtypeStruct]:
        """(layer, pooling) -> shape and dtype of one batch; found by tracing with abstract weights."""
        batch = self.processing.example(self.settings.batch_size)
        return dict(jax.eval_shape(self.function(batch), self.abstract_weights, self.dynamic(batch)))

    @property
    def abstract_weights(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of all weights, without memory."""
        from jaxalign.models import bridge

        weights = bridge.weights_of(self.module)
        return {name: jax.ShapeDtypeStruct(tuple(value.shape), _jax_dtype(value)) for name, value in weights.items()}

    @cached_property
    def fits(self) -> tuple[Fit, ...]:
        """One per layer and pooling; depth is (index + 1) / n_layers over all captured layers, in order."""
        layers = list(dict.fromkeys(item.layer for item in self.wanted))
        depth = {layer: (index + 1) / len(layers) for index, layer in enumerate(layers)}
        name, revision = self.settings.name, self.revision
        return tuple(
            Fit(
                name,
                revision,
                item.layer,
                depth[item.layer],
                item.pooling,
                self.spec[item.layer, item.pooling].shape[-1],
            )
            for item in self.wanted
        )

    @property
    def revision(self) -> str:
        """The pinned revision; of a folder, a digest of its weights; of untrained weights, their seed."""
        if self.settings.weights == "untrained":
            return f"untrained-seed-{self.settings.seed}"
        if self.settings.revision:
            return self.settings.revision
        return snapshot.weights_label(self.folder)

    @cached_property
    def files(self) -> dict[str, str]:
        """Digests of the files of the checkpoint."""
        return snapshot.files_sha256(self.folder)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers; the batch size is part of it, since it changes their rounding."""
        import torch
        import transformers

        settings = {name: value for name, value in asdict(self.settings).items() if name not in NOT_IDENTITY}
        return {
            "class": self.settings.model_class,
            **json.loads(json.dumps(settings)),
            **json.loads(json.dumps(self.extra_identity)),
            "files_sha256": self.files,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    @property
    def n_weight_bytes(self) -> int:
        """Bytes of all weights together."""
        return _n_bytes(self.module)

    def release(self) -> None:
        """Give back the memory of weights and programs; the next batch makes them anew."""
        for name in ("weights", "torch_module"):
            self.__dict__.pop(name, None)
        self.programs.clear()

    def activations(self, stimuli: Sequence[Any]) -> dict[tuple[str, str], jax.Array]:
        """Features of one batch, by (layer, pooling); see ActivationSource."""
        check_count(self.settings.name, self.takes, len(stimuli), self.batch_size)
        if self.settings.engine == "torch":
            return _joined([self._by_torch(batch) for batch in self._for_torch(stimuli)])
        batches = self.processing.batches(stimuli, self.placement.n_parallel)
        if len({batch.signature for batch in batches}) > 1:
            raise ConfigError(
                f"Parts of one batch of '{self.settings.name}' have different shapes: give image_size, so that every picture "
                "has as many tokens."
            )
        weights, program = self.weights, self._program(batches[0])
        dynamic = self.placement.batch(_behind_one_another([self.dynamic(batch) for batch in batches]))
        with jax.transfer_guard("disallow"):
            return dict(program(weights, dynamic))

    def dynamic(self, batch: Batch) -> dict[str, Any]:
        """What varies from batch to batch, as arrays of the host: the second argument of `function`."""
        tokens = {"is_token": batch.tokens.is_token, "is_media": batch.tokens.is_media}
        if batch.tokens.duration_s is not None:
            tokens["duration_s"] = batch.tokens.duration_s
        return {"inputs": {name: _narrow(value) for name, value in batch.traced.items()}, **tokens}

    def function(self, batch: Batch) -> Callable[..., dict[tuple[str, str], jax.Array]]:
        """The pure function of batches with this batch's shapes and constants: capture, pooling and cast in one.

        Returns:
            (weights, {"inputs", "is_token", "is_media", "duration_s"}) -> (layer, pooling) -> (n_batch, width) float32.
        """
        from jaxalign.models import bridge

        settings, dtype = self.settings, jnp.dtype(self.settings.dtype)
        forward = forward_of(settings, self.module, self.points, batch.static)
        captured = bridge.as_function(self.module, forward, keeps_padding(settings))

        def fn(weights: Any, dynamic: Any) -> dict[tuple[str, str], jax.Array]:
            inputs = {name: _cast(value, dtype) for name, value in dynamic["inputs"].items()}
            tokens = Tokens(dynamic["is_token"], dynamic["is_media"], dynamic.get("duration_s"))
            with jax.default_matmul_precision("highest"):
                rows = pooled(settings, captured(weights, inputs), self.wanted, tokens, batch.n_batch, batch.n_bins)
            return {key: self.finish(values) for key, values in rows.items()}

        return fn

    def _program(self, batch: Batch) -> Callable[..., Any]:
        """The compiled function for batches of this signature."""
        if batch.signature not in self.programs:
            if len(self.programs) == MAX_PROGRAMS:
                raise ConfigError(
                    f"The stimuli of '{self.settings.name}' came in more than {MAX_PROGRAMS} shapes, and each is compiled: "
                    "give image_size=[height,width], so that every picture has as many tokens."
                )
            self.programs[batch.signature] = self.placement.compiled(self.function(batch))
        return self.programs[batch.signature]

    @cached_property
    def weights(self) -> dict[str, jax.Array]:
        """All weights on their devices."""
        from jaxalign.models import bridge

        place = self.placement.weight
        if self.settings.weights == "untrained":
            module = prepared(self._untrained(), self.settings.patches)
            return {name: place(name, bridge.to_numpy(value)) for name, value in bridge.weights_of(module).items()}
        return _folded(*self._loaded(place), place)

    @cached_property
    def torch_module(self) -> Any:
        """The network with its weights, for torch's own kernels."""
        module = self._untrained() if self.settings.weights == "untrained" else self._loaded(None)[0]
        return prepared(module, self.settings.patches)

    def _untrained(self) -> Any:
        return building.untrained(self.kind, self.config, self.settings.dtype, self.settings.seed)

    def _loaded(self, place: loading.PlaceWeight | None) -> tuple[Any, dict[str, jax.Array]]:
        """The module and its placed weights; a composite brings a configuration, since its checkpoint's is another class's."""
        config = self.config if self.settings.kind == "composite" else None
        return loading.load(self.kind, self.folder, self.settings.dtype, place, config, dict(self.settings.renames))

    def _for_torch(self, stimuli: Sequence[Any]) -> list[Batch]:
        """Batches for torch, which drops what is masked and so cannot be given placeholders for it."""
        if self.settings.traced and isinstance(self.processing, Sounds):
            return self.processing.singles(stimuli)
        return self.processing.batches(stimuli, 1)

    def _by_torch(self, batch: Batch) -> dict[tuple[str, str], jax.Array]:
        """Hooks in torch; the hidden states are handed over without a copy and pooled by the same code."""
        import torch

        dtype = getattr(torch, self.settings.dtype)
        given = {name: torch.from_numpy(value) for name, value in batch.traced.items()}
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
        forward = forward_of(self.settings, self.torch_module, self.points, batch.static)
        with torch.no_grad():
            outputs = {name: to_jax(value) for name, value in forward(inputs).items()}
        rows = pooled(self.settings, outputs, self.wanted, batch.tokens, batch.n_batch, batch.n_bins)
        return {key: self.finish(values) for key, values in rows.items()}


def _n_bytes(module: Any) -> int:
    return sum(value.numel() * value.element_size() for value in module.parameters())


def _folded(loaded: Any, placed: dict[str, jax.Array], place: Any) -> dict[str, jax.Array]:
    """Weights as the prepared module names them: parametrised ones (weight norm) are computed on the host."""
    from jaxalign.models import bridge

    names = set(bridge.weights_of(loaded))
    if not any(".parametrizations." in name for name in names):
        return placed
    with bridge.torch.no_grad():
        for name, value in placed.items():
            bridge.set_parameter(loaded, name, np.asarray(value))
        prepared(loaded, ())
    return {
        name: placed[name] if name in placed else place(name, bridge.to_numpy(value))
        for name, value in bridge.weights_of(loaded).items()
    }


def _behind_one_another(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts of a batch as one, to be split over devices again."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _narrow(value: np.ndarray) -> np.ndarray:
    """64-bit integers as JAX has them."""
    return value.astype(np.int32) if value.dtype == np.int64 else value


def _cast(value: jax.Array, dtype: Any) -> jax.Array:
    return value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _jax_dtype(value: Any) -> Any:
    return jnp.dtype(str(value.dtype).removeprefix("torch."))


def _joined(parts: list[dict[tuple[str, str], jax.Array]]) -> dict[tuple[str, str], jax.Array]:
    return {key: jnp.concatenate([part[key] for part in parts]) for key in parts[0]} if len(parts) > 1 else parts[0]


# Opening


def check_names(settings: Network) -> None:
    """Refuse words that mean nothing, before anything heavy is imported."""
    choices = {"engine": ENGINES, "weights": WEIGHTS, "kind": KINDS, "takes": TAKES, "encoder_layout": LAYOUTS}
    for name, known in {**choices, "dtype": building.DTYPES}.items():
        value = getattr(settings, name)
        if value not in known:
            raise ConfigError(f"Model '{settings.name}' has {name}='{value}'. {nearest(value, known)}")
    for patch in settings.patches:
        if patch not in PATCHES:
            raise ConfigError(f"Model '{settings.name}' asks for the patch '{patch}'. {nearest(patch, PATCHES)}")
    if settings.batch_size < 1:
        raise ConfigError(f"Model '{settings.name}' has batch_size={settings.batch_size}: at least 1 is needed.")


def _configuration(settings: Network, kind: Any, folder: Path) -> Any:
    if settings.kind == "composite":
        return building.configuration(kind, settings.config)
    return snapshot.configuration(kind, folder)


def _processing(settings: Network, module: Any, folder: Path) -> Processing:
    token_id = media_token_id(settings, module.config)
    accepted = building.inputs_taken(module)
    if settings.kind == "native":
        processor = processor_of(folder)
        if settings.parts.language and not hasattr(processor, "tokenizer"):
            raise DataError(
                f"{folder} gives a {type(processor).__name__} without a tokenizer, and '{settings.name}' needs a prompt. Copy the "
                "tokenizer's files into it; if they are there, the processor of this model needs torchvision: install the one "
                "that belongs to your torch."
            )
        return (Images if settings.takes == "image" else Sounds)(settings, processor, token_id, accepted)
    from jaxalign.models.composite import processor_for

    return Sounds(settings, processor_for(settings, folder, token_id), token_id, accepted)
