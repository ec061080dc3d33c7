"""Processors that checkpoints carry: the checkpoint's own class, also where torchvision is not installed."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from jaxalign.errors import DataError
from jaxalign.models.snapshot import LOCAL


def processor_of(folder: Path) -> Any:
    """The processor that a checkpoint carries: for images or sounds, with its tokenizer where there is a prompt.

    Raises:
        DataError: if the folder carries none that this transformers can build.
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor

    problems = []
    for kind in (AutoProcessor, AutoImageProcessor, AutoFeatureExtractor):
        try:
            found = kind.from_pretrained(folder, **LOCAL)
        except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
            problems.append(f"{kind.__name__}: {' '.join(str(error).split())[:200]}")
            found = None
        if not hasattr(found, "tokenizer") and (composed := _hidden_class(folder)) is not None:
            return _without_video(composed, folder)
        if found is not None:
            return found
    raise DataError(
        f"{folder} carries no processor that can be built here ({'; '.join(problems)}). Copy preprocessor_config.json, "
        "processor_config.json and the tokenizer's files into it."
    )


def _hidden_class(folder: Path) -> Any:
    """The processor's class where transformers hides it for want of torchvision; None where nothing is hidden."""
    from transformers.utils import is_torchvision_available

    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return None if is_torchvision_available() or not has_tokenizer else _processor_class(folder)


def _processor_class(folder: Path) -> Any:
    """The class of processor that a checkpoint names, or that belongs to its model type; None where there is none."""
    import importlib

    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    read = [
        _json(folder / name) for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
    ]
    named = next((one["processor_class"] for one in read if one.get("processor_class")), None)
    model_type = _json(folder / "config.json").get("model_type", "")
    name = named or PROCESSOR_MAPPING_NAMES.get(model_type)
    modules = [module.replace("-", "_") for module, kind in PROCESSOR_MAPPING_NAMES.items() if kind == name]
    for module in (*modules, str(name).removesuffix("Processor").lower()):
        try:  # not from the top level, which hides classes that could also use torchvision
            return getattr(importlib.import_module(f"transformers.models.{module}.processing_{module}"), str(name))
        except (ImportError, AttributeError):
            continue
    return None


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _without_video(kind: Any, folder: Path) -> Any:
    """A processor of pictures and sounds where torchvision is not installed: its part for films is left out.

    transformers builds that part whether it is used or not, and only torchvision can.
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, processing_utils

    autos: dict[str, Any] = {
        "tokenizer": AutoTokenizer,
        "image_processor": AutoImageProcessor,
        "feature_extractor": AutoFeatureExtractor,
    }
    autos["audio_processor"] = AutoFeatureExtractor
    names = kind.get_attributes()
    try:
        parts = {name: autos[name].from_pretrained(folder, **LOCAL) if name in autos else None for name in names}
    except (OSError, ValueError, ImportError, TypeError) as error:
        raise DataError(
            f"{folder} carries no processor that can be built here: {str(error).splitlines()[0]}. Copy its "
            "preprocessor_config.json, processor_config.json and the tokenizer's files into it, or install torchvision."
        ) from error
    values, taken = kind.get_processor_dict(folder, **LOCAL)[0], inspect.signature(kind.__init__).parameters
    options = {name: value for name, value in values.items() if name in taken and name not in parts}
    mixin: Any = processing_utils.ProcessorMixin
    check = mixin.check_argument_for_proper_class

    def lenient(self: Any, name: str, argument: Any) -> Any:
        return None if argument is None else check(self, name, argument)

    mixin.check_argument_for_proper_class = lenient
    try:
        return kind(**parts, **options)
    finally:
        mixin.check_argument_for_proper_class = check
