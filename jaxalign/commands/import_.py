"""`jaxalign import FILE... to=FOLDER model=NAME`: features that others computed, into a store."""

from __future__ import annotations

from pathlib import Path

from jaxalign.commands.words import as_bool, as_list, needed, split_words

USAGE = "Write jaxalign import FILE... to=FOLDER model=NAME [revision= pooling= ids=FILE dtype= layers=a,b]."
OPTIONS = {
    "to": "",
    "model": "",
    "revision": "",
    "pooling": "none",
    "ids": "",
    "dtype": "",
    "layers": "",
    "allow_nonfinite": "false",
}


def main(arguments: list[str]) -> None:
    """Import files or folders of .npy, .npz, .safetensors or .h5, each array (n_stimuli, width) a layer.

    Raises:
        ConfigError: if an option is unknown or missing, or names a layer that is not there.
        DataError: if a file cannot be taken as features, naming file, layer and numbers.
    """
    from jaxalign.store.importing import import_files

    files, values = split_words(arguments, USAGE, OPTIONS)
    folder, model = Path(needed(values, "to", USAGE)), needed(values, "model", USAGE)
    notes = import_files(
        [Path(file) for file in files],
        folder,
        model,
        revision=values["revision"],
        pooling=values["pooling"],
        ids=Path(values["ids"]) if values["ids"] else None,
        dtype=values["dtype"] or None,
        layers=as_list(values["layers"]),
        allow_nonfinite=as_bool("allow_nonfinite", values["allow_nonfinite"]),
    )
    for note in notes:
        print(f"Note: {note}")
    print(f"Store: {folder}")
