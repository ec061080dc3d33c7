"""Tiny vision-language models of real families, with random weights made from a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxalign.compute.pool import POOLINGS
from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, nearest
from jaxalign.models.checks import check_count, checked_picture
from jaxalign.models.hooks import Pooled, capture, layer_names, pool_layers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Family:
    """What differs between families: how an image becomes inputs, and how its tokens are laid out.

    Attributes:
        model_class, processor: class names in transformers; the processor is the one of the PIL back end.
        vision: module path above all layers that see patches; every other layer sees the language sequence.
        processor_options: (config, image size in pixels) -> options of the processor.
        patch: config -> edge of a patch in pixels.
        merge: config -> edge, in patches, of the square that becomes one image token.
        n_before: tokens before the first patch in a vision layer, such as a CLS token.
        media: inputs that the processor makes for the network.
        is_typed: whether the network wants mm_token_type_ids, 1 at image tokens.
    """

    model_class: str
    processor: str
    vision: str
    processor_options: Callable[[Any, int], dict[str, Any]]
    patch: Callable[[Any], int]
    merge: Callable[[Any], int]
    n_before: int
    media: tuple[str, ...]
    is_typed: bool


def _qwen_options(config: Any, image_size: int) -> dict[str, Any]:
    """Patches of the network's own size, from exactly image_size ** 2 pixels."""
    vision = config.vision_config
    return {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "size": {"shortest_edge": image_size**2, "longest_edge": image_size**2},
    }


def _internvl_options(_config: Any, image_size: int) -> dict[str, Any]:
    """One square view of the whole image, without tiles."""
    return {"size": {"height": image_size, "width": image_size}, "crop_to_patches": False}


FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Family(
        model_class="Qwen2_5_VLForConditionalGeneration",
        processor="Qwen2VLImageProcessorPil",
        vision="model.visual",
        processor_options=_qwen_options,
        patch=lambda config: config.vision_config.patch_size,
        merge=lambda config: config.vision_config.spatial_merge_size,
        n_before=0,
        media=("pixel_values", "image_grid_thw"),
        is_typed=True,
    ),
    "internvl": Family(
        model_class="InternVLForConditionalGeneration",
        processor="GotOcr2ImageProcessorPil",
        vision="model.vision_tower",
        processor_options=_internvl_options,
        patch=lambda config: config.vision_config.patch_size[0],
        merge=lambda config: round(1 / config.downsample_ratio),
        n_before=1,
        media=("pixel_values",),
        is_typed=False,
    ),
}


@dataclass(frozen=True)
class TinyLvlm:
    """A small network of a real family, with random weights.

    Random layers under the usual initialisation all hold nearly the same geometry (CKA of neighbours 0.93 to 1.00).
    Three settings make them differ: gain drives the nonlinearities, growth lets each layer outweigh the residual
    stream before it, and spread lets each layer read some units more than others. With the defaults linear CKA of
    neighbours on 100 photographs is 0.53 on average and at most 0.85 (12 networks, 84 neighbours). Images are
    stretched to one square size, so that every batch has the same shape.

    Attributes:
        name: what the model is called in rows.
        family: key of FAMILIES.
        settings: configuration of the transformers class, as nested values.
        layers: module paths, vision first; a list of layers stands for each of its members.
        prompt_token_ids: the prompt, with the image token once; it becomes as many as the image has tokens.
        pooling: poolings of language layers: image_mean, mean, last. Vision layers always take image_mean, the mean
            over patches without CLS.
        seed: decides the weights.
        gain: SD of the weights times sqrt(fan-in), in the first layer of each list.
        growth: factor by which that SD grows from one layer to the next.
        spread: SD of the natural logarithm of the scales (of norms, and of InternVL's branches).
        image_size: edge of the square input in pixels.
        batch_size: images per forward pass.
    """

    name: str
    family: str
    settings: dict[str, Any]
    layers: tuple[str, ...]
    prompt_token_ids: tuple[int, ...]
    pooling: tuple[str, ...] = ("image_mean",)
    seed: int = 0
    gain: float = 2.0
    growth: float = 3.0
    spread: float = 0.7
    image_size: int = 64
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("layers", "prompt_token_ids", "pooling"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def open(self) -> LvlmSource:
        """Build the network and its image processor; nothing is downloaded.

        Raises:
            ConfigError: if a name is unknown, a path leads nowhere, or sizes do not fit together.
        """
        _check_names(self)
        family = FAMILIES[self.family]
        model = _build(self, family)
        layout = _layout(self, family, model.config)
        wanted = _wanted(layer_names(model, self.layers), family, self.pooling)
        return LvlmSource(self, family, model, _processor(self, family, model.config), layout, wanted)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of one batch stand; all its images have the same.

    Attributes:
        input_ids: (n_batch, n_tokens) int64, the prompt with its image tokens.
        masks: "image", "all": (n_batch, n_tokens) bool; "patches": (n_batch, n_before + n_patches) bool.
    """

    input_ids: np.ndarray
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class LvlmSource:
    """A tiny vision-language model that is built; see ActivationSource."""

    settings: TinyLvlm
    family: Family
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    layout: Layout = field(repr=False)
    wanted: tuple[Pooled, ...]

    takes = "image"
    bin_s = None

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    def bucket(self, _duration_s: float) -> float:
        return 0.0

    @property
    def fits(self) -> tuple[Fit, ...]:
        """One per layer and pooling; depth is (index + 1) / n_layers over vision layers, then language layers."""
        layers = tuple(dict.fromkeys(item.layer for item in self.wanted))
        return tuple(self._fit(item, (layers.index(item.layer) + 1) / len(layers)) for item in self.wanted)

    def _fit(self, item: Pooled, depth: float) -> Fit:
        config = self.model.config
        part = config.vision_config if item.mask == "patches" else config.text_config
        revision = f"random-seed-{self.settings.seed}"
        return Fit(self.settings.name, revision, item.layer, depth, item.pooling, part.hidden_size)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers; the batch size is part of it, since it changes their rounding."""
        import torch
        import transformers

        return {
            "class": self.family.model_class,
            "processor": self.family.processor,
            **json.loads(json.dumps(asdict(self.settings))),
            "weights_sha256": weights_sha256(self.model),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    n_weight_bytes = 0

    def release(self) -> None:
        """Nothing to give back."""

    def activations(self, stimuli: Sequence[np.ndarray]) -> dict[tuple[str, str], jax.Array]:
        """Features of one batch of images, by (layer, pooling); see ActivationSource."""
        import torch

        inputs = self._inputs([_squared(picture, self.settings.image_size) for picture in _checked(stimuli, self)])
        layers = tuple(dict.fromkeys(item.layer for item in self.wanted))
        with torch.no_grad(), capture(self.model, layers) as outputs:
            self.model.model(**inputs, use_cache=False)
        return pool_layers(outputs, self.layout.masks, self.wanted)

    def _inputs(self, squares: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """What the network is called with: pixels from the family's processor, and the prompt."""
        import torch

        made = self.processor(squares, return_tensors="pt", input_data_format="channels_last")
        inputs = {name: made[name] for name in self.family.media}
        inputs["input_ids"] = torch.from_numpy(self.layout.input_ids)
        inputs["attention_mask"] = torch.from_numpy(self.layout.masks["all"].astype(np.int64))
        if self.family.is_typed:
            inputs["mm_token_type_ids"] = torch.from_numpy(self.layout.masks["image"].astype(np.int32))
        return inputs


def _check_names(settings: TinyLvlm) -> None:
    """Refuse a family or pooling that does not exist, before anything heavy is imported."""
    if settings.family not in FAMILIES:
        raise ConfigError(
            f"Model '{settings.name}' asks for the family '{settings.family}'. {nearest(settings.family, FAMILIES)}"
        )
    if not settings.pooling:
        raise ConfigError(f"Model '{settings.name}' asks for 0 poolings: give one or more of {', '.join(POOLINGS)}.")
    for pooling in settings.pooling:
        if pooling not in POOLINGS:
            raise ConfigError(f"Model '{settings.name}' asks for the pooling '{pooling}'. {nearest(pooling, POOLINGS)}")


def _build(settings: TinyLvlm, family: Family) -> torch.nn.Module:
    """The network in evaluation mode, float32 on the host; torch's global generator is left as it was."""
    import torch
    import transformers

    model_class = getattr(transformers, family.model_class)
    with torch.random.fork_rng(devices=[]):
        # The configuration class writes into the dictionaries that it is given.
        model = model_class(model_class.config_class(**json.loads(json.dumps(settings.settings)))).eval()
    _draw_weights(model, settings)
    return model.requires_grad_(False)


def _draw_weights(model: torch.nn.Module, settings: TinyLvlm) -> None:
    """Set every parameter from the seed alone, in order of names; nothing is left from torch's initialisation.

    Weights (two or more axes) are normal, biases 0, scales their initial constant times a log-normal factor.
    """
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            normal = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                sd = settings.gain * settings.growth ** _layer_index(name) / parameter[0].numel() ** 0.5
                parameter.copy_(normal * sd)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.mul_(torch.exp(normal * settings.spread))


def _layer_index(name: str) -> int:
    """Position in its list of the layer that a parameter belongs to, 0 outside of lists."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def _processor(settings: TinyLvlm, family: Family, config: Any) -> Any:
    """The family's image processor, set to the sizes of this network."""
    import transformers

    return getattr(transformers, family.processor)(**family.processor_options(config, settings.image_size))


def _layout(settings: TinyLvlm, family: Family, config: Any) -> Layout:
    """The prompt with its image tokens, and the token masks of a batch."""
    patch, merge = family.patch(config), family.merge(config)
    if settings.image_size % (patch * merge):
        raise ConfigError(
            f"Model '{settings.name}' has image_size {settings.image_size} px, patches of {patch} px and {merge} x "
            f"{merge} patches per image token: make image_size a multiple of {patch * merge} px."
        )
    n_patches = (settings.image_size // patch) ** 2
    ids = _expanded(settings, config.image_token_id, n_patches // merge**2)
    is_patch = np.arange(family.n_before + n_patches) >= family.n_before
    input_ids = np.tile(np.array(ids, np.int64), (settings.batch_size, 1))
    masks = {
        "image": input_ids == config.image_token_id,
        "all": np.ones(input_ids.shape, bool),
        "patches": np.tile(is_patch, (settings.batch_size, 1)),
    }
    return Layout(input_ids, masks)


def _expanded(settings: TinyLvlm, image_token_id: int, n_image_tokens: int) -> list[int]:
    """The prompt, its one image token repeated for every token of the image."""
    count = settings.prompt_token_ids.count(image_token_id)
    if count != 1:
        raise ConfigError(
            f"The prompt of model '{settings.name}' holds the image token {image_token_id} {count} times: "
            "prompt_token_ids must hold it once, where the image belongs."
        )
    at = settings.prompt_token_ids.index(image_token_id)
    before, after = settings.prompt_token_ids[:at], settings.prompt_token_ids[at + 1 :]
    return [*before, *[image_token_id] * n_image_tokens, *after]


def _wanted(layers: Iterable[str], family: Family, pooling: Iterable[str]) -> tuple[Pooled, ...]:
    """Every pooling of every layer: patches in vision layers, the asked poolings in language layers."""
    language = [(name, "image" if name == "image_mean" else "all") for name in dict.fromkeys(pooling)]
    vision = [("image_mean", "patches")]
    return tuple(
        Pooled(layer, name, mask)
        for layer in layers
        for name, mask in (vision if layer.startswith(f"{family.vision}.") else language)
    )


def _checked(stimuli: Sequence[np.ndarray], source: LvlmSource) -> list[np.ndarray]:
    """The stimuli, if they are as many as asked and pictures of 8 bits in three colours."""
    check_count(source.settings.name, "image", len(stimuli), source.batch_size)
    return [checked_picture(picture, index, source.settings.name) for index, picture in enumerate(stimuli)]


def _squared(picture: np.ndarray, size: int) -> np.ndarray:
    """Stretch a picture to a square. (height, width, 3) uint8 -> (size, size, 3) uint8"""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def weights_sha256(model: torch.nn.Module) -> str:
    """Digest of every parameter's name, shape and bytes, in order of names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
