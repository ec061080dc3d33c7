"""Features that come with the recording: metadata columns scored as single features."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metadata:
    """Columns of the recording's metadata, each a fit of width 1 of the model "metadata".

    Attributes:
        name: model name in the table.
        columns: names of numeric columns.
    """

    name: str = "metadata"
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
