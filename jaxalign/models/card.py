"""What is known of a model beyond its numbers: makers, parts, sizes, release, benchmark scores; unknown stays empty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters in units of 1e9, counted on the full-size configuration.

    Attributes:
        total: all, tied weights once.
        encoder, connector, language: of the parts; None where a part is not there.
    """

    total: float | None = None
    encoder: float | None = None
    connector: float | None = None
    language: float | None = None


@dataclass(frozen=True)
class Card:
    """Facts for the analysis of architecture against scale.

    Attributes:
        family: models of one family share a maker and a recipe, such as "qwen-vl".
        encoder: name of the vision or speech encoder.
        connector: kind of the part between encoder and language model, such as "mlp2" or "q-former".
        language_model: name of the language model that it was built on.
        injection: where media enter the language model: "input", "deepstack", "cross-attention".
        released: year and month, "2024-08".
        licence: name of the licence of the weights.
        parameters: sizes in 1e9.
        scores: benchmark -> {value, source, date, self_reported}: as published, where it was read and when (ISO 8601),
            and whether the makers of the model measured it themselves.
        notes: what a user must know, in a sentence.
    """

    family: str | None = None
    encoder: str | None = None
    connector: str | None = None
    language_model: str | None = None
    injection: str | None = None
    released: str | None = None
    licence: str | None = None
    parameters: Sizes = field(default_factory=Sizes)
    scores: dict[str, Any] = field(default_factory=dict)
    notes: str | None = None
