"""Features that are in a store already: extracted before, or imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stored:
    """Layers of a store, scored as they are; no network is opened.

    Attributes:
        path: folder of the store, as `jaxalign import` or a run wrote it.
        name: model name in the table; that of the store by default.
        layers: names or patterns such as "vision.*"; all by default.
        pooling: poolings to take; all by default.
    """

    path: str = ""
    name: str = ""
    layers: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "pooling", tuple(self.pooling))
