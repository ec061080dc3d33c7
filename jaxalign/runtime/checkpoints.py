"""Checkpoints of long accumulations, each there whole or not at all; the one adapter of Orbax."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxalign.errors import DataError

ARRAYS, CONTENT = "arrays", "checkpoint.json"
"""In the folder of a step: what Orbax wrote, and the list of leaves and of file hashes that is checked before Orbax reads."""

UNFINISHED, LEAVING = ".unfinished-", ".leaving-"
"""Folders that a killed process may leave behind; the next save removes them."""

KEPT = 2


def save(folder: Path, step: int, state: Any, *, identity: str = "", keep: int = KEPT) -> None:
    """Write a checkpoint, then drop all but the last few.

    Everything is written under another name, hashed, and renamed: a process killed at any moment leaves the steps that
    were there.

    Args:
        folder: of the checkpoints of one accumulation; made when missing. One process writes there at a time.
        step: a number from 0 upwards that is not there yet.
        state: pytree of JAX or NumPy arrays, on any number of devices of this process.
        identity: of the inputs; what is loaded must have the same.
        keep: how many steps stay.
    Raises:
        ValueError: if the step is there already, or a leaf has a dtype that JAX would change, such as float64 without
            enable_x64.
    """
    from orbax.checkpoint import v1 as ocp

    if step in steps(folder):
        raise ValueError(
            f"{folder} has step {step} already, and steps are never replaced: save the next one, or delete it."
        )
    leaves = jax.tree.leaves(state)
    content = {"identity": identity, "leaves": _described(state)}
    for name, _, dtype in content["leaves"]:
        if str(jax.dtypes.canonicalize_dtype(dtype)) != dtype:
            raise ValueError(
                f"state{name} is {dtype}, which JAX would turn into another dtype: cast it, or enable x64."
            )
    _swept(folder)
    unfinished = folder / f"{UNFINISHED}{step}"
    ocp.save((unfinished / ARRAYS).absolute(), {_key(place): leaf for place, leaf in enumerate(leaves)})
    _write_durably(unfinished / CONTENT, {**content, "files": _hashes(unfinished)})
    unfinished.rename(folder / str(step))
    _sync(folder)
    for old in steps(folder)[:-keep]:
        _drop(folder / str(old))


def steps(folder: Path) -> list[int]:
    """Steps that were saved, in order; none when the folder is not there."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())


def latest(folder: Path) -> int | None:
    """The last step, or None."""
    found = steps(folder)
    return found[-1] if found else None


def load(folder: Path, step: int, like: Any, *, identity: str = "") -> Any:
    """A saved state, laid out as asked for: on the devices it was saved from, or on any others.

    Args:
        folder, step: as given to `save`.
        like: pytree of jax.ShapeDtypeStruct or arrays of the same structure, shapes and dtypes; a leaf without a sharding
            goes to the first device.
        identity: as given to `save`.
    Returns:
        pytree of jax.Array in the structure of `like`.
    Raises:
        DataError: if there is no such step, one of its files is missing or changed, or it holds something else.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder / str(step)
    content = _checked(path, step)
    _compare(path, content, like, identity)
    wanted = {_key(place): _abstract(leaf) for place, leaf in enumerate(jax.tree.leaves(like))}
    try:
        found = ocp.load((path / ARRAYS).absolute(), wanted)
    except (ValueError, KeyError, TypeError, OSError) as error:
        # Orbax's outermost error speaks of a missing entry whatever is wrong; the last cause is what happened.
        reason = str(_root(error)).splitlines()[0]
        raise DataError(
            f"{path}: step {step} has whole files, and they cannot be read: {reason}. {_advice(path, step)}"
        ) from error
    return jax.tree.unflatten(jax.tree.structure(like), [found[_key(place)] for place in range(len(wanted))])


def discard(folder: Path) -> None:
    """Remove all checkpoints, once what they led to is committed elsewhere; nothing happens when there are none."""
    for step in steps(folder):
        _drop(folder / str(step))
    shutil.rmtree(folder, ignore_errors=True)


def accumulate(
    folder: Path,
    n_blocks: int,
    start: Any,
    step: Callable[[Any, int], Any],
    every: int,
    *,
    identity: str = "",
) -> Any:
    """The state after all blocks, from the last checkpoint on.

    A resumed accumulation adds the same blocks in the same order, so its result has the bytes of an undisturbed one.
    The caller commits the result and then calls `discard`; until then the last blocks need not be done again.

    Args:
        folder: of the checkpoints.
        n_blocks: how many blocks there are.
        start: pytree of arrays before the first block; its shapes, dtypes and shardings are those of every state.
        step: (state, index of a block) -> state.
        every: blocks between checkpoints.
        identity: of what is accumulated, such as the hash of a store's manifest.
    Raises:
        DataError: if a checkpoint is damaged, is of other inputs, or lies beyond the last block.
    """
    if every < 1:
        raise ValueError(f"every={every}: a number of blocks from 1 upwards is needed.")
    done = latest(folder) or 0
    if done > n_blocks:
        raise DataError(
            f"{folder} holds a checkpoint after {done} blocks, and there are {n_blocks}: it belongs to other data. Delete {folder} to begin anew."
        )
    state = load(folder, done, start, identity=identity) if done else start
    for block in range(done, n_blocks):
        state = step(state, block)
        if (block + 1) % every == 0 or block + 1 == n_blocks:
            save(folder, block + 1, state, identity=identity)
    return state


def _described(state: Any) -> list[list[Any]]:
    """Path, shape and dtype of each leaf."""
    found = jax.tree_util.tree_leaves_with_path(state)
    return [[jax.tree_util.keystr(path), list(np.shape(leaf)), str(np.dtype(leaf.dtype))] for path, leaf in found]


def _key(place: int) -> str:
    """Leaves go to Orbax by number: it would give dataclasses and named tuples back as dictionaries."""
    return f"{place:06d}"


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _checked(path: Path, step: int) -> dict[str, Any]:
    """The content of a step whose files are all there and unchanged.

    Raises:
        DataError: naming the file.
    """
    if not path.is_dir():
        raise DataError(f"{path.parent} has no step {step}; it has {_listed(steps(path.parent))}.")
    try:
        content = json.loads((path / CONTENT).read_text(encoding="utf-8"))
        files, _, _ = content["files"], content["leaves"], content["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {CONTENT} of step {step} cannot be read ({error}). {_advice(path, step)}") from error
    found = _hashes(path)
    missing = sorted(set(files) - set(found))
    changed = sorted(name for name in set(files) & set(found) if files[name] != found[name])
    if missing or changed:
        what = f"{missing[0]} is missing" if missing else f"{changed[0]} is not what was written"
        n_bad = len(missing) + len(changed)
        raise DataError(f"{path}: step {step} is damaged, {n_bad} of {len(files)} files; {what}. {_advice(path, step)}")
    return content


def _compare(path: Path, content: dict[str, Any], like: Any, identity: str) -> None:
    """Refuse a state of other inputs, structure, shapes or dtypes.

    Raises:
        DataError: naming the first difference.
    """
    if content["identity"] != identity:
        raise DataError(
            f"{path} was saved for inputs {content['identity']!r}, and these are {identity!r}. Name another folder, or delete {path.parent} to begin anew."
        )
    saved, wanted = content["leaves"], _described(like)
    if len(saved) != len(wanted):
        raise DataError(
            f"{path} holds {len(saved)} arrays and {len(wanted)} are wanted: it was saved by other code or settings. Delete {path.parent} to begin anew."
        )
    for one, other in zip(saved, wanted, strict=True):
        if one != other:
            raise DataError(
                f"{path} holds state{one[0]} of shape {tuple(one[1])}, {one[2]}; state{other[0]} of shape {tuple(other[1])}, {other[2]} is wanted. Use the settings it was saved with, or delete {path.parent} to begin anew."
            )


def _advice(path: Path, step: int) -> str:
    before = [one for one in steps(path.parent) if one < step]
    return f"Delete {path} to go on from {f'step {before[-1]}' if before else 'the beginning'}."


def _listed(found: list[int]) -> str:
    return f"steps {', '.join(map(str, found))}" if found else "none"


def _root(error: BaseException) -> BaseException:
    """The innermost cause."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder but the list of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CONTENT)
    return {str(path.relative_to(folder)): _hash(path) for path in files}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: Path, content: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())


def _drop(folder: Path) -> None:
    """Remove a folder; half of it is never seen under its name."""
    leaving = folder.with_name(f"{LEAVING}{folder.name}")
    shutil.rmtree(leaving, ignore_errors=True)
    folder.rename(leaving)
    shutil.rmtree(leaving)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _swept(folder: Path) -> None:
    """Make the folder, without what a killed process left."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name.startswith((UNFINISHED, LEAVING)):
            shutil.rmtree(path)
