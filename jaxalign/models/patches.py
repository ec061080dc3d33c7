"""Changes that some classes of transformers need before JAX can trace them: a closed set, each for the time of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxalign.errors import ConfigError, nearest


@contextmanager
def patched(names: Iterable[str]) -> Iterator[None]:
    """Apply the named patches inside the block.

    Raises:
        ConfigError: if a name is not in PATCHES.
    """
    with ExitStack() as stack:
        for name in names:
            if name not in PATCHES:
                raise ConfigError(f"There is no patch '{name}'. {nearest(name, PATCHES)}")
            stack.enter_context(PATCHES[name]())
        yield


@contextmanager
def _hf_dynamo() -> Iterator[None]:
    """transformers' own export patches: one batched attention call instead of a Python loop over windows or images.

    They need segments of equal length: all images of one size that windows divide. On Qwen2.5-VL-7B they cut
    compilation from 110 to 4 s.
    """
    import transformers.exporters.exporter_dynamo  # noqa: F401  (registers the patches)
    from transformers.exporters.utils import apply_patches

    with apply_patches("dynamo"):
        yield


@contextmanager
def _moe_batched() -> Iterator[None]:
    """Mixtures of experts as batched products; the setting is made on the module (see `prepared`)."""
    yield


@contextmanager
def _idefics_dense() -> Iterator[None]:
    """Idefics 2 and 3, SmolVLM: keep every image; the class drops images that are all zero, whose number depends on pixels."""
    import transformers

    classes: Any = (transformers.Idefics2Model, transformers.Idefics3Model, transformers.SmolVLMModel)
    before = [kind.get_image_features for kind in classes]
    for kind in classes:
        kind.get_image_features = _dense_image_features
    try:
        yield
    finally:
        for kind, method in zip(classes, before, strict=True):
            kind.get_image_features = method


def _dense_image_features(self: Any, pixel_values: Any, pixel_attention_mask: Any = None, **_options: Any) -> Any:
    """Features of all tiles of all images.

    pixel_values (n_batch, n_tiles, 3, height, width); pixel_attention_mask (n_batch, n_tiles, height, width), 1 at pixels of
    the picture, all by default.
    """
    import torch

    n_batch, n_tiles, _, height, width = pixel_values.shape
    patch = self.config.vision_config.patch_size
    mask = torch.ones(n_batch * n_tiles, height // patch, width // patch, dtype=torch.bool)
    if pixel_attention_mask is not None:
        pixels = pixel_attention_mask.reshape(n_batch * n_tiles, height // patch, patch, width // patch, patch)
        mask = pixels.sum((2, 4)) > 0
    tiles = pixel_values.reshape(n_batch * n_tiles, *pixel_values.shape[2:])
    out = self.vision_model(pixel_values=tiles, patch_attention_mask=mask, return_dict=True)
    options = {"attention_mask": mask.flatten(1)} if "Idefics2" in type(self).__name__ else {}
    features = self.connector(out.last_hidden_state, **options)
    out.pooler_output = [part.reshape(-1, part.shape[-1]) for part in features.split([n_tiles] * n_batch)]
    return out


PATCHES: dict[str, Callable[[], Any]] = {
    "hf_dynamo": _hf_dynamo,
    "idefics_dense": _idefics_dense,
    "moe_batched": _moe_batched,
}
"""Name in an entry -> the change."""


def prepared(module: Any, names: Iterable[str]) -> Any:
    """Make the changes that stay on a module: weight norm folded into plain weights; for "moe_batched", batched experts.

    Returns:
        The module, in evaluation mode and without gradients.
    """
    from torch.nn.utils import parametrize

    for part in module.modules():
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    if "moe_batched" in names:
        module.set_experts_implementation("batched_mm")
    return module.eval().requires_grad_(False)
