"""Weights from disk to their devices, one tensor at a time, into a module that holds none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxalign.errors import DataError
from jaxalign.models.snapshot import LOCAL, quiet

if TYPE_CHECKING:
    import torch

UNUSED = re.compile(r"(^|\.)(pooler|lm_head|classifier|score)(\.|$)")
"""Parameters behind the last captured layer: a checkpoint may lack them."""

PlaceWeight = Callable[[str, np.ndarray], jax.Array]
"""(name of a parameter, its values) -> the array on its devices."""


def load(
    kind: Any,
    folder: Path,
    dtype: str,
    place: PlaceWeight | None,
    config: Any = None,
    renames: dict[str, str] | None = None,
) -> tuple[torch.nn.Module, dict[str, jax.Array]]:
    """A network, its weights on their devices.

    Tensors go from the file to their devices one at a time: host memory holds one tensor beside what is resident.

    Args:
        kind: class of transformers.
        folder: a checked checkpoint.
        dtype: of the weights.
        place: puts a parameter on its devices; None leaves all in the module, for torch.
        config: configuration object; that of the folder by default.
        renames: regular expression of names in the checkpoint -> names in the module.
    Returns:
        The module, on the meta device where weights were placed, with real buffers; and the placed weights by name.
    Raises:
        DataError: if parameters are missing, or of another shape.
    """
    import torch

    from jaxalign.models import bridge

    placed: dict[str, jax.Array] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        assert place is not None
        placed[name] = place(name, bridge.to_numpy(value))

    with quiet(), _sequential(), _redirected(keep if place else None):
        module, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            key_mapping=renames,
            **LOCAL,
        )
    _check_complete(folder, kind, info)
    for name, value in bridge.weights_of(module).items():
        if place and name not in placed and value.device.type != "meta":  # buffers, and parameters that may be missing
            placed[name] = place(name, bridge.to_numpy(value))
    return module.eval().requires_grad_(False), placed


def _check_complete(folder: Path, kind: Any, info: dict[str, Any]) -> None:
    missing = sorted(name for name in info["missing_keys"] if not UNUSED.search(name))
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} parameters of {kind.__name__}, first {missing[0]}; {len(info['unexpected_keys'])} "
            "of its tensors fit nowhere. Is the checkpoint of another class, or a part of it?"
        )
    if info["mismatched_keys"]:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise DataError(
            f"{folder}: {len(info['mismatched_keys'])} parameters have another shape than {kind.__name__}'s, first {name} "
            f"with {tuple(found)} instead of {tuple(expected)}: config.json and weights do not belong together."
        )


@contextmanager
def _redirected(keep: Callable[[str, torch.Tensor], None] | None) -> Iterator[None]:
    """Hand every loaded parameter to `keep` instead of the module, which stays on the meta device.

    transformers reads, renames, merges and casts tensors one by one and then calls `set_param_for_module`: taking its
    place keeps all of that (5.10 to 5.23), without the whole model in host memory.
    """
    if keep is None:
        yield
        return
    from transformers import core_model_loading

    original = core_model_loading.set_param_for_module

    def take(model: Any, target_name: str, param_value: Any, loading_info: Any, hf_quantizer: Any) -> None:
        reference = model.get_parameter_or_buffer(target_name)
        if target_name in dict(model.named_buffers()) or param_value.shape != reference.shape:
            original(model, target_name, param_value, loading_info, hf_quantizer)
            return
        loading_info.missing_keys.discard(target_name)
        reference._is_hf_initialized = True
        keep(target_name, param_value)

    core_model_loading.set_param_for_module = take
    try:
        yield
    finally:
        core_model_loading.set_param_for_module = original


@contextmanager
def _sequential() -> Iterator[None]:
    """Let transformers read one tensor at a time, and not as many as there are threads."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
