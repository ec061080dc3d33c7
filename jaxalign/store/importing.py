"""Features that others computed, from their files into a store: checked, in blocks of rows, whole or not at all."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.store import activations
from jaxalign.store.id_files import LINES, check_ids, read_ids
from jaxalign.store.manifests import hash_file
from jaxalign.store.readers import Contents, Layer, expand, open_file

if TYPE_CHECKING:  # contracts imports jax, which takes a second that the words of an error need not spend
    from jaxalign.contracts import Fit

BLOCK_BYTES = 16 * 2**20  # host memory of one block of rows, all layers together
CONVERTED = {"float64", ">f8", ">f4", ">f2", "bool", "int8", "uint8", "int16", "uint16"}
ROW_NUMBERS, IN_THE_FILE = "row numbers", "read from the imported file"


def import_files(
    paths: Sequence[Path],
    folder: Path,
    model: str,
    *,
    revision: str = "",
    pooling: str = "none",
    ids: Path | None = None,
    dtype: str | None = None,
    layers: Sequence[str] = (),
    allow_nonfinite: bool = False,
) -> list[str]:
    """Write the features of some files as a store.

    Host memory: one block of 16 MiB beside the shards of `store.write`; an array in an .npz that is stored by columns
    is held whole.

    Args:
        paths: .npy (n_stimuli, width), .npz, .safetensors, .h5, or folders of them; one layer per array.
        folder: the store to write; must not exist.
        model, revision, pooling: labels of the fits; layer_depth is (index + 1) / n_layers over all layers found.
        ids: file of stimulus ids, see `read_ids`; row numbers are the ids without one.
        dtype: of the store; None keeps that of the files where it can be stored, else float32.
        layers: names or patterns ("vision.*"); all by default.
        allow_nonfinite: store NaN and Inf as they are.
    Returns:
        Sentences on what was decided: ids, conversion, arrays left out.
    Raises:
        DataError: naming file, layer and numbers, if something cannot be taken as (n_stimuli, width) features.
        ConfigError: if no layer has a name in `layers`.
    """
    with ExitStack() as stack:
        files = expand(list(paths))
        contents = [open_file(file, stack) for file in files]
        chosen, notes = _choose([layer for content in contents for layer in content.layers], layers)
        n_stimuli = _check_shapes(chosen)
        names, origin = _stimulus_ids(ids, paths, contents, n_stimuli)
        kept, said = _dtype(chosen, dtype)
        fits = [_fit(layer, model, revision, pooling) for layer in chosen]
        identity = {"imported": _hashes(files), "stimulus_ids": origin}
        blocks = _blocks(chosen, fits, n_stimuli, allow_nonfinite)
        activations.write(folder, fits, names, identity, blocks, kept)
    return [*notes, *said, f"Stimulus ids: {_words(origin)}."]


# Which arrays


def _choose(found: list[Layer], patterns: Sequence[str]) -> tuple[list[Layer], list[str]]:
    """The layers asked for with their depths, and what was left out for having one axis only."""
    known = [layer.name for layer in found]
    for pattern in patterns:
        if not any(_is_named(name, [pattern]) for name in known):
            raise ConfigError(f"No layer of {len(known)} is named {pattern!r}. {nearest(pattern, known)}")
    flat = [layer for layer in found if len(layer.shape) < 2 and layer.file.suffix.lower() != ".npy"]
    chosen = _with_depth([layer for layer in found if layer not in flat])
    if patterns:
        chosen = [layer for layer in chosen if _is_named(layer.name, patterns)]
    if not chosen:
        raise DataError(f"{found[0].file if found else 'The file'} holds no array of shape (n_stimuli, width).")
    return chosen, [f"Left out {layer.name} in {layer.file.name}: its shape is {layer.shape}." for layer in flat]


def _is_named(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _with_depth(layers: list[Layer]) -> list[Layer]:
    """Layers with the depth that models give theirs, where their file names none: (index + 1) / n_layers."""
    return [
        layer if layer.depth is not None else replace(layer, depth=(index + 1) / len(layers))
        for index, layer in enumerate(layers)
    ]


def _check_shapes(layers: list[Layer]) -> int:
    """Return the number of stimuli that all layers share."""
    for layer in layers:
        if len(layer.shape) != 2 or 0 in layer.shape:
            raise DataError(f"{layer.name} in {layer.file} has shape {layer.shape}: {_advice(layer.shape)}.")
        twice = [other for other in layers if (other.name, other.pooling) == (layer.name, layer.pooling)]
        if len(twice) > 1:
            raise DataError(
                f"The layer {layer.name} is in {twice[0].file} and in {twice[1].file}: rename one, or choose with layers=."
            )
        if layer.shape[0] != layers[0].shape[0]:
            raise DataError(
                f"{layer.name} in {layer.file} has {layer.shape[0]} rows and {layers[0].name} in {layers[0].file} has {layers[0].shape[0]}: all layers need one row per stimulus."
            )
    return layers[0].shape[0]


def _advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return "save one row per stimulus, x[:, None] for a single feature"
    if len(shape) == 3:
        return "tokens must be pooled first to (n_stimuli, width), such as x.mean(axis=1) for a mean over tokens"
    return "(n_stimuli, width) is needed; pool or flatten the other axes first, such as x.reshape(len(x), -1)"


def _fit(layer: Layer, model: str, revision: str, pooling: str) -> Fit:
    from jaxalign.contracts import Fit

    assert layer.depth is not None
    return Fit(model, revision, layer.name, layer.depth, layer.pooling or pooling, layer.shape[1])


# Which stimuli


def _stimulus_ids(
    file: Path | None, paths: Sequence[Path], contents: Sequence[Contents], n_stimuli: int
) -> tuple[tuple[str, ...], Any]:
    """The ids and where they are from: the file named, one beside the arrays, the arrays' own file, or row numbers."""
    files = [file] if file is not None else [path / LINES for path in paths if (path / LINES).is_file()]
    found: list[tuple[tuple[str, ...], Any]] = [(read_ids(one), {one.name: hash_file(one)}) for one in files]
    if file is None:
        found += [(one.stimulus_ids, IN_THE_FILE) for one in contents if one.stimulus_ids is not None]
    if len({names for names, _ in found}) > 1:
        raise DataError(f"{len(found)} lists of stimulus ids were found and they differ: name the right one with ids=.")
    names, origin = found[0] if found else (tuple(map(str, range(n_stimuli))), ROW_NUMBERS)
    check_ids(names, "The list of stimuli")
    if len(names) != n_stimuli:
        raise DataError(
            f"There are {len(names)} stimulus ids ({_words(origin)}) and the features have {n_stimuli} rows: give one id per row, in the order of the rows."
        )
    return names, origin


def _words(origin: Any) -> str:
    if origin == ROW_NUMBERS:
        return "none were given, so they are row numbers; give ids= to score these features against a recording"
    return origin if isinstance(origin, str) else f"read from {next(iter(origin))}"


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    names = [file.name for file in files]
    return {file.name if names.count(file.name) == 1 else file.as_posix(): hash_file(file) for file in files}


# Which numbers


def _dtype(layers: list[Layer], asked: str | None) -> tuple[str, list[str]]:
    """The dtype of the store, and a sentence if values are converted."""
    found = {layer.dtype for layer in layers}
    for layer in layers:
        if layer.dtype not in {*activations.DTYPES, *CONVERTED}:
            raise DataError(
                f"{layer.name} in {layer.file} has dtype {layer.dtype}: save float32 features, or choose other layers with layers=."
            )
    kept = asked or (found.pop() if len(found) == 1 and found <= set(activations.DTYPES) else "float32")
    converted = sorted({layer.dtype for layer in layers} - {kept})
    words = [f"Converted from {', '.join(converted)} to {kept}: values are rounded to nearest."] if converted else []
    return kept, words


def _blocks(
    layers: list[Layer], fits: list[Fit], n_stimuli: int, allow_nonfinite: bool
) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    """Rows of all layers, some at a time."""
    n_rows = max(1, BLOCK_BYTES // (8 * sum(fit.width for fit in fits)))
    for start in range(0, n_stimuli, n_rows):
        stop = min(start + n_rows, n_stimuli)
        yield {
            (fit.layer, fit.pooling): _block(layer, start, stop, allow_nonfinite)
            for layer, fit in zip(layers, fits, strict=True)
        }


def _block(layer: Layer, start: int, stop: int, allow_nonfinite: bool) -> np.ndarray:
    try:
        values = np.asarray(layer.rows(start, stop))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{layer.name} in {layer.file} cannot be read from row {start}: {error}. Copy the file again."
        ) from error
    bad = np.argwhere(~np.isfinite(values))
    if len(bad) and not allow_nonfinite:
        row, column = (int(index) for index in bad[0])
        raise DataError(
            f"{layer.name} in {layer.file} has {values[row, column]} at row {start + row}, column {column} ({len(bad)} NaN or Inf in rows {start} to {stop - 1}): repair it, or allow_nonfinite=true stores it as it is."
        )
    return values
