"""An entry of the zoo: everything that one vision- or audio-language model, or one bare encoder, needs, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxalign.models.card import Card

if TYPE_CHECKING:
    from jaxalign.models.engine import NetworkSource
    from jaxalign.models.placement import Place


@dataclass(frozen=True)
class Parts:
    """Module paths of what is captured. A list of layers stands for each of its members.

    Attributes:
        encoder: layer lists of the vision or speech encoder.
        connector: modules between encoder and language model, in order; their outputs are captured.
        language: layer lists of the language model.
        post_norm: norm behind the last language layer (or the last encoder layer of a bare encoder).
    """

    encoder: tuple[str, ...] = ()
    connector: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    post_norm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("encoder", "connector", "language", "post_norm"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Tiny:
    """The same architecture in miniature, with inputs that need no processor: what parity is checked on.

    Attributes:
        config: nested configuration of the transformers class.
        media: float inputs -> shape; drawn from a normal distribution. The first axis holds 2 stimuli, or their patches.
        fixed: integer inputs -> nested lists.
        ones: masks -> shape; all 1, int64.
        token_id: the media token in input_ids; None where media take no place in the prompt.
        n_media_tokens: media tokens per stimulus; None to ask the network.
        extra: further inputs made from input_ids, by name: see EXTRA_INPUTS in models/tiny.py.
    """

    config: dict[str, Any] = field(default_factory=dict)
    media: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    ones: dict[str, Any] = field(default_factory=dict)
    token_id: int | None = None
    n_media_tokens: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "extra", tuple(self.extra))


@dataclass(frozen=True)
class Network:
    """A vision- or audio-language model, or a bare encoder, from a checkpoint or with untrained weights.

    Attributes:
        name: what the model is called in rows.
        model_class: class name in transformers; for a composite, "Composite".
        kind: native (one class of transformers) or composite (native encoder, projector, native language model).
        hub_id: "owner/model".
        revision: full 40-digit SHA of the hub revision. Empty until you pin one: a hub model is not opened without.
        path: folder of a local snapshot; instead of the hub.
        takes: kind of stimulus, image or audio.
        engine: torchax (JAX, in one compiled program) or torch (hooks, then JAX).
        weights: pretrained, or untrained: the initialisation of the class itself, from `seed`.
        seed: decides untrained weights.
        dtype: of weights and activations, bfloat16 or float32; pooled outputs are float32 always.
        layers: what is captured: encoder, connector, embeddings, language, post_norm, or module paths.
        parts: module paths of these.
        residual: output (of each language layer), or next_input: what the following layer reads, which differs where
            visual features are added between layers.
        encoder_layout: bnd, tiles, packed, 1packed or bhwd: how an encoder layer lays out batch and tokens.
        n_prefix_tokens: tokens before the first patch in an encoder layer, such as CLS and registers.
        media_token: attribute of the configuration with the id of the media token, such as image_token_id; empty where
            media take no place in the prompt.
        prompt: text around the medium, with the processor's own placeholder.
        pooling: poolings of language layers: image_mean or audio_mean, mean, last, frames.
        encoder_pooling: poolings of encoder layers: spatial_mean, cls, mean, or audio_mean, frames.
        image_size: (height, width) in pixels that pictures are brought to before the processor; None where the
            processor brings every picture to one size itself.
        image_fit: stretch, crop (centre) or pad (grey), where a picture has another aspect than image_size.
        encoder_frame_s, language_frame_s: true duration of one token of the encoder and of the language model, audio only.
        max_audio_s: longest sound that the encoder takes.
        bin_s: width of a time bin for the pooling "frames".
        traced: inputs that vary from stimulus to stimulus without a new compilation, beside floats.
        renames: regular expression of parameter names in a checkpoint -> names in the class, for composites.
        patches: names of the changes that the class needs to be traced: see PATCHES in models/patches.py.
        batch_size: stimuli per forward pass and device.
        config: full-size configuration of the class, as nested values: what parameters are counted on.
        tiny: the architecture in miniature.
        card: facts for the analysis of architecture and scale.
    """

    name: str
    model_class: str
    kind: str = "native"
    hub_id: str = ""
    revision: str = ""
    path: str | None = None
    takes: str = "image"
    engine: str = "torchax"
    weights: str = "pretrained"
    seed: int = 0
    dtype: str = "bfloat16"
    layers: tuple[str, ...] = ("encoder", "connector", "embeddings", "language", "post_norm")
    parts: Parts = field(default_factory=Parts)
    residual: str = "output"
    encoder_layout: str = "bnd"
    n_prefix_tokens: int = 0
    media_token: str = ""
    prompt: str = ""
    pooling: tuple[str, ...] = ("image_mean",)
    encoder_pooling: tuple[str, ...] = ("spatial_mean",)
    image_size: tuple[int, int] | None = None
    image_fit: str = "crop"
    encoder_frame_s: float | None = None
    language_frame_s: float | None = None
    max_audio_s: float | None = None
    bin_s: float = 0.1
    traced: tuple[str, ...] = ()
    renames: dict[str, str] = field(default_factory=dict)
    patches: tuple[str, ...] = ()
    batch_size: int = 8
    config: dict[str, Any] = field(default_factory=dict)
    tiny: Tiny = field(default_factory=Tiny)
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        for name in ("layers", "pooling", "encoder_pooling", "traced", "patches"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.image_size is not None:
            object.__setattr__(self, "image_size", tuple(self.image_size))

    def open(self, place: Place | None = None) -> NetworkSource:
        """Open the network and its processor; weights are read when the first batch comes.

        Raises:
            ConfigError: if a name is unknown, a path leads nowhere, or no revision is pinned.
            DataError: if files are missing, damaged, or ask to run code.
        """
        from jaxalign.models.engine import open_network

        return open_network(self, place)
