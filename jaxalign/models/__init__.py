"""Where activations come from: every kind of model that a configuration can name, and how one is opened."""

from typing import Any

from jaxalign.errors import ConfigError
from jaxalign.models.controls import Control
from jaxalign.models.flax_source import FlaxNetwork
from jaxalign.models.lvlm import TinyLvlm
from jaxalign.models.network import Network
from jaxalign.models.placement import Place
from jaxalign.models.source import ActivationSource
from jaxalign.models.text import TextEncoder

__all__ = ["SOURCES", "ActivationSource", "TextEncoder", "TinyLvlm", "open_source"]

# Each class is its own configuration schema; torch and transformers are imported when one is opened, not before.
SOURCES: dict[str, type] = {
    "control": Control,
    "flax_network": FlaxNetwork,
    "network": Network,
    "text_encoder": TextEncoder,
    "tiny_lvlm": TinyLvlm,
}


def open_source(settings: Any, place: Place | None = None) -> ActivationSource:
    """Load or build the model that the settings describe, ready to give activations.

    Args:
        settings: an instance of one of the classes in SOURCES.
        place: bytes of a network's weights -> its devices; the default device by default.
    Raises:
        ConfigError: if the settings are of another class, or cannot be carried out.
        DataError: if files of the model are missing or not to be trusted.
    """
    if not isinstance(settings, tuple(SOURCES.values())):
        known = ", ".join(kind.__name__ for kind in SOURCES.values())
        raise ConfigError(f"A model's settings are a {type(settings).__name__}: give one of {known}.")
    opened: Any = settings  # every class of the table has `open`
    source: ActivationSource = (
        opened.open(place) if isinstance(opened, FlaxNetwork | Network | TextEncoder) else opened.open()
    )
    return source
