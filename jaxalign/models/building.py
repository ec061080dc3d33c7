"""Networks without a checkpoint: on the meta device for counting and tracing, untrained from a seed, or in miniature."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from jaxalign.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

    from jaxalign.models.network import Network

DTYPES = ("float32", "bfloat16")

ELSEWHERE = {"WhisperEncoder": "transformers.models.whisper.modeling_whisper"}
"""Classes that transformers has but does not export."""


def class_named(name: str) -> Any:
    """A model class of transformers, or the composite of this package.

    Raises:
        ConfigError: if the installed transformers has no such class; names the nearest.
    """
    import importlib

    import transformers

    if name == "Composite":
        return importlib.import_module("jaxalign.models.composite").Composite
    if name in ELSEWHERE:
        return getattr(importlib.import_module(ELSEWHERE[name]), name)
    found = getattr(transformers, name, None)
    if found is None or not hasattr(found, "config_class"):
        known = [one for one in dir(transformers) if one.endswith(("Model", "Generation", "CausalLM"))]
        raise ConfigError(
            f"transformers {transformers.__version__} has no model class '{name}': it was removed, renamed, or never "
            f"there. {nearest(name, known)}"
        )
    return found


def configuration(kind: Any, values: dict[str, Any]) -> Any:
    """The configuration object of a class; the values are not changed.

    Raises:
        ConfigError: if the class refuses them, or they are empty: a class's defaults can be tens of gigabytes.
    """
    if not values:
        raise ConfigError(f"There is no configuration for {kind.__name__}: give config, or a checkpoint.")
    given = {name: value for name, value in copy.deepcopy(values).items() if name != "model_type"}
    try:
        return kind.config_class(**given)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{kind.__name__} does not take this configuration: {error}") from error


def abstract(kind: Any, config: Any, dtype: str = "float32") -> torch.nn.Module:
    """A network whose parameters have shapes but no memory; buffers, such as rotary frequencies, are real."""
    import torch
    from transformers import initialization

    with (
        torch.random.fork_rng(devices=[]),
        _default_dtype(dtype),
        torch.device("meta"),
        initialization.meta_device_safe_creation_ops(),
        initialization.no_tie_weights(),
    ):
        module = kind(config)
    for parameter in module.parameters():
        parameter._is_hf_initialized = True
    buffers = {name for name, _ in module.named_buffers()}
    module._move_missing_keys_from_meta_to_device(buffers & set(module.state_dict()), None, None, None)
    module._initialize_missing_keys(False)
    module.tie_weights()
    return module.eval().requires_grad_(False)


def untrained(kind: Any, config: Any, dtype: str, seed: int) -> torch.nn.Module:
    """A network as its own class initialises it, from a seed; torch's global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]), _default_dtype(dtype):
        torch.manual_seed(seed)
        return kind(config).eval().requires_grad_(False)


def miniature(settings: Network, dtype: str = "float32", seed: int = 0) -> torch.nn.Module:
    """The tiny configuration of an entry, with signal in every parameter.

    Initialisation leaves some tables (positions, latents) at zero, where an error in them would show nowhere.
    """
    import torch

    kind = class_named(settings.model_class)
    module = untrained(kind, configuration(kind, settings.tiny.config), dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and (parameter.abs().max() == 0 or parameter.std(correction=0) < 0.05):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((0.05 * noise).to(parameter.dtype))
    return module


def n_parameters(module: torch.nn.Module, path: str = "") -> int:
    """Parameters of a module or of one of its parts, tied ones once."""
    return sum(parameter.numel() for parameter in module.get_submodule(path).parameters())


def inputs_taken(module: torch.nn.Module) -> frozenset[str]:
    """Names of the inputs that the forward pass of a network takes."""
    import inspect

    return frozenset(inspect.signature(module.forward).parameters) - {"kwargs", "labels", "output_attentions"}


def _default_dtype(dtype: str) -> Any:
    """torch's default dtype inside the block; what a class creates without naming one has it."""
    import torch
    from transformers.modeling_utils import local_torch_dtype

    if dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' is not offered: use one of {', '.join(DTYPES)}.")
    return local_torch_dtype(getattr(torch, dtype))
