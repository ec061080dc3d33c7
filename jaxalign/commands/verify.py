"""`jaxalign verify FOLDER...`: hash stores and results again, and say what is damaged."""

from __future__ import annotations

from pathlib import Path

from jaxalign import store
from jaxalign.errors import ConfigError, DataError

RUN_FILE, MANIFEST = "run.json", "manifest.json"


def main(arguments: list[str]) -> None:
    """Check each named store, each store in a folder of stores, and the units of each results folder; a line for each.

    Raises:
        ConfigError: if no folder is named.
        DataError: after everything was checked, naming each damaged folder and its first damage.
    """
    if not arguments:
        raise ConfigError("jaxalign verify needs folders: jaxalign verify STORE, a folder of stores, or outputs/demo")
    folders = [found for word in arguments for found in _folders(Path(word))]
    damages = [damage for folder in folders if (damage := _damage(folder)) is not None]
    if damages:
        lines = "".join(f"\n  {damage}" for damage in damages)
        raise DataError(f"{len(damages)} of {len(folders)} folders are damaged:{lines}")


def _folders(folder: Path) -> list[Path]:
    """What a word stands for: itself, or the stores and results directly in it."""
    if _is_one(folder) or not folder.is_dir():
        return [folder]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    # An unfinished store has arrays and no manifest: it is shown as damaged instead of being passed over.
    return [path for path in found if _is_one(path) or any(path.glob("*/zarr.json"))] or [folder]


def _is_one(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / RUN_FILE).is_file()


def _damage(folder: Path) -> str | None:
    """Check one folder and print its line; the damage in words, or None."""
    check = _check_results if (folder / RUN_FILE).is_file() else _check_store
    try:
        print(f"whole    {folder}: {check(folder)}", flush=True)
    except (DataError, OSError) as error:
        print(f"DAMAGED  {folder}", flush=True)
        return str(error)
    return None


def _check_store(folder: Path) -> str:
    store.verify(folder)
    content = store.manifest(folder)
    fits = [array["fit"] for array in content["arrays"]]
    n_bytes = sum((folder / name).stat().st_size for name in content["files"])
    revision = fits[0]["revision"][:12] or "no revision"
    return f"{fits[0]['model']} ({revision}), {len(fits)} fits, {content['n_stimuli']} stimuli, {content['dtype']}, {n_bytes:,} bytes"


def _check_results(folder: Path) -> str:
    """Hash the files of all units again.

    Raises:
        DataError: naming units whose files are missing or changed.
    """
    from jaxalign.runtime import journal

    noted, whole = journal.entries(folder), journal.verified(folder)
    damaged = sorted(set(noted) - set(whole))
    advice = "Run the same command again: it does these units anew."
    if damaged:
        raise DataError(
            f"{folder}: {len(damaged)} of {len(noted)} units are missing or changed, first {', '.join(damaged[:5])}. {advice}"
        )
    if not noted and any((folder / "units").glob("*.parquet")):
        raise DataError(f"{folder} has files of units and no whole line of its journal. {advice}")
    return f"results, {len(whole)} of {len(noted)} journalled units are whole"  # fmt: skip
