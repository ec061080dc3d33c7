"""Inputs for networks in miniature, made without a processor from the shapes that an entry gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxalign.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

    from jaxalign.models.network import Network, Tiny

N_BATCH = 2
"""Stimuli in the shapes of every entry's miniature."""


def _is_media(ids: torch.Tensor, tiny: Tiny) -> torch.Tensor:
    return ids == (-1 if tiny.token_id is None else tiny.token_id)


def _decoder_ids(ids: torch.Tensor, _tiny: Tiny) -> torch.Tensor:
    import torch

    return torch.tensor([[2, 1]] * len(ids))


EXTRA_INPUTS: dict[str, tuple[str, Callable[[torch.Tensor, Tiny], torch.Tensor]]] = {
    "mm_token_type_ids": ("mm_token_type_ids", lambda ids, tiny: _is_media(ids, tiny).int()),
    "token_type_ids": ("token_type_ids", lambda ids, tiny: _is_media(ids, tiny).long()),
    "token_type_ids_zeros": ("token_type_ids", lambda ids, tiny: ids * 0),
    "image_embeds_position_mask": ("image_embeds_position_mask", _is_media),
    "decoder_input_ids": ("decoder_input_ids", _decoder_ids),
}
"""Name in an entry -> name of the input, and what it is made of: (input_ids, tiny) -> tensor."""


def media_of(settings: Network, seed: int = 0) -> dict[str, torch.Tensor]:
    """Float inputs, drawn from the seed, and those of fixed values; without the prompt."""
    import torch

    tiny, generator = settings.tiny, torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(*shape, generator=generator) for name, shape in tiny.media.items()}
    fixed = {name: torch.tensor(values) for name, values in tiny.fixed.items()}
    ones = {name: _ones(settings, name, shape) for name, shape in tiny.ones.items() if "S" not in shape}
    return drawn | fixed | ones


def inputs_of(settings: Network, module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Everything that a miniature is called with: media, and a prompt of a few ids around as many media tokens as needed.

    Raises:
        ConfigError: if an extra input is unknown.
    """
    import torch

    inputs, tiny = media_of(settings, seed), settings.tiny
    if not settings.parts.language:
        return inputs
    n_media = 0 if tiny.token_id is None else _n_media(settings, module, inputs)
    ids = [3, 4, *([tiny.token_id] * n_media), 5, 6, 7]
    inputs["input_ids"] = torch.tensor([ids] * N_BATCH)
    inputs["attention_mask"] = torch.ones(N_BATCH, len(ids), dtype=torch.long)
    for name, shape in tiny.ones.items():
        if "S" in shape:
            inputs[name] = _ones(settings, name, [len(ids) if size == "S" else size for size in shape])
    for name in tiny.extra:
        if name not in EXTRA_INPUTS:
            raise ConfigError(f"'{settings.name}' asks for the input '{name}'. {nearest(name, EXTRA_INPUTS)}")
        argument, make = EXTRA_INPUTS[name]
        inputs[argument] = make(inputs["input_ids"], tiny)
    return inputs


def _ones(settings: Network, name: str, shape: Any) -> torch.Tensor:
    """A mask of ones; boolean where the class indexes with it."""
    import torch

    is_index = settings.model_class.startswith("GraniteSpeech") and name == "input_features_mask"
    return torch.ones(*shape, dtype=torch.bool if is_index else torch.long)


def _n_media(settings: Network, module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> int:
    """Media tokens per stimulus: what the entry says, or as many features as the network makes."""
    import torch

    if settings.tiny.n_media_tokens is not None:
        return settings.tiny.n_media_tokens
    ask: Any = module.get_audio_features if settings.takes == "audio" else module.get_image_features
    with torch.no_grad():
        found = ask(**inputs)
    features = getattr(found, "pooler_output", found)
    parts = features if isinstance(features, list | tuple) else [features]
    return sum(part.reshape(-1, part.shape[-1]).shape[0] for part in parts) // N_BATCH
