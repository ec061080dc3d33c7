"""`jaxalign export STORE to=FILE.safetensors|FOLDER`: a store as files that other programs read."""

from __future__ import annotations

from pathlib import Path

from jaxalign.commands.words import as_list, needed, split_words
from jaxalign.errors import ConfigError

USAGE = "Write jaxalign export STORE to=FILE.safetensors|FOLDER [format=npy|safetensors layers=a,b dtype=float32]."
OPTIONS = {"to": "", "format": "", "layers": "", "dtype": ""}


def main(arguments: list[str]) -> None:
    """Export one store; the ending of to= decides the format unless format= does.

    Raises:
        ConfigError: if an option is unknown or missing, or names a layer that is not there.
        DataError: if the store is damaged, or the target exists.
    """
    from jaxalign.store.exporting import export_npy, export_safetensors

    folders, values = split_words(arguments, USAGE, OPTIONS)
    if len(folders) > 1:
        raise ConfigError(f"{len(folders)} stores are named and one is exported at a time. {USAGE}")
    target = Path(needed(values, "to", USAGE))
    kind = values["format"] or ("safetensors" if target.suffix == ".safetensors" else "npy")
    if kind not in ("npy", "safetensors"):
        raise ConfigError(f"format={kind}: use npy or safetensors. {USAGE}")
    write = export_safetensors if kind == "safetensors" else export_npy
    for line in write(Path(folders[0]), target, as_list(values["layers"]), values["dtype"] or None):
        print(line)
