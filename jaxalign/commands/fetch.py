"""`jaxalign fetch dataset=NAME`: a published data set, unpacked, with its terms of use; goes on where it stopped."""

from __future__ import annotations

from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxalign.commands.words import as_bool, as_list, option
from jaxalign.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from jaxalign.sources.downloads import Patience
    from jaxalign.sources.registry import Entry, RemoteFile

USAGE = "Write jaxalign fetch dataset=NAME [to=FOLDER] [files=PATTERN,...] [list=true] [timeout_s=60] [tries=4] [registry=FILE.yaml]."


def main(arguments: list[str]) -> None:
    """Show the terms of a data set, then fetch its files into to=FOLDER/NAME (data/NAME without); all data sets without a name.

    Raises:
        ConfigError: if an option is unknown, or names no data set, or another process fetches into the folder.
        DataError: if a server does not answer, ends early, or sends another content than its publisher says.
    """
    from jaxalign.sources.registry import REGISTRY, read_registry

    rest, values = list(arguments), {}
    for name, default in (("dataset", ""), ("to", "data"), ("files", ""), ("list", "false"), ("timeout_s", "60"),
                          ("tries", "4"), ("registry", str(REGISTRY))):  # fmt: skip
        given, rest = option(name, rest)
        values[name] = default if given is None else given
    if rest:
        raise ConfigError(f"{rest[0]!r} is nothing that fetch knows. {USAGE}")
    entries = read_registry(Path(values["registry"]))
    if not values["dataset"]:
        for entry in entries.values():
            print(f"  {entry.name:12s} {entry.title}")
        print(USAGE)
        return
    if values["dataset"] not in entries:
        raise ConfigError(f"dataset={values['dataset']} cannot be fetched. {nearest(values['dataset'], entries)}")
    _fetch(entries[values["dataset"]], values)


def _fetch(entry: Entry, values: dict[str, str]) -> None:
    """Terms first, then the files."""
    from jaxalign.sources import downloads, registry

    print(f"{entry.title}\n{entry.home}\nTerms of use: {entry.terms}")
    folder = Path(values["to"]) / entry.name
    if entry.is_by_hand:
        from_where = f"Sign the agreement at {entry.sign_at}" if entry.sign_at else f"Go to {entry.home}"
        print(f"\nIt is not downloaded by jaxalign. {from_where}, download from there, and place below {folder}:")
        for name in entry.needs:
            print(f"  {name}")
        print(f"Then read it with {entry.read_by(folder)}.")
        return
    patience = _patience(values)
    files = [*entry.files]
    for listing in entry.listings:
        files += registry.listed(
            listing,
            lambda url: downloads.get(url, patience, entry.home),
            lambda url: downloads.name_and_size(url, patience, entry.home),
        )
    files = _selected(files, as_list(values["files"]))
    unknown = sum(file.size is None for file in files)
    size = sum(file.size or 0 for file in files)
    print(f"{len(files)} files, {size:,} bytes" + (f", and {unknown} of unknown size" if unknown else ""))
    if as_bool("list", values["list"]):
        for file in files:
            shown = "?" if file.size is None else f"{file.size:,}"
            print(f"  {shown:>16s} bytes  {'hash known' if file.sha256 or file.md5 else 'no hash':10s}  {file.name}")
        return
    with downloads.alone_in(folder):
        failed = _download(files, folder, patience, entry.home)
    if failed:
        names = ", ".join(list(failed)[:3])
        what = "fetched or unpacked" if any((folder / name).exists() for name in failed) else "fetched"
        raise DataError(
            f"{len(failed)} of {len(files)} files were not {what}: {names}. First: {next(iter(failed.values()))}"
        )
    print(
        f"All {len(files)} files are in {folder}."
        + (f" Read it with {read}." if (read := entry.read_by(folder)) else "")
    )


def _patience(values: dict[str, str]) -> Patience:
    from jaxalign.sources.downloads import Patience

    try:
        found = Patience(float(values["timeout_s"]), int(values["tries"]))
    except ValueError as error:
        raise ConfigError(
            f"timeout_s={values['timeout_s']} tries={values['tries']}: seconds and a whole number are needed."
        ) from error
    if not found.timeout_s > 0 or found.n_tries < 1:
        raise ConfigError(
            f"timeout_s={values['timeout_s']} tries={values['tries']}: more than 0 s and at least 1 try are needed."
        )
    return found


def _selected(files: list[RemoteFile], patterns: tuple[str, ...]) -> list[RemoteFile]:
    if not patterns:
        return files
    kept = [file for file in files if any(fnmatch(file.name, pattern) for pattern in patterns)]
    if not kept:
        names = ", ".join(file.name for file in files[:5])
        raise ConfigError(f"files={','.join(patterns)} matches none of {len(files)} files, such as {names}.")
    return kept


def _download(files: list[RemoteFile], folder: Path, patience: Patience, page: str) -> dict[str, DataError]:
    """Fetch one file after the other; a file that fails does not keep the others waiting. -> name -> what went wrong"""
    from jaxalign.sources import downloads

    failed: dict[str, DataError] = {}
    for file in files:
        try:
            is_new, is_sized = _with_bar(file, folder, patience, page)
        except DataError as error:
            failed[file.name] = error
            print(f"  failed   {file.name}: {error}")
            continue
        target = folder / file.name
        note = "" if file.sha256 or file.md5 else f", no published hash, sha256 {downloads.content_hash(target)}"
        note += "" if note == "" or is_sized else ", and no size: whether it is whole could not be checked"
        print(f"  {'fetched' if is_new else 'there':8s} {file.name} ({target.stat().st_size:,} bytes{note})")
        try:
            _unpack(target, folder)
        except DataError as error:
            failed[file.name] = error
            print(f"  failed   {file.name}: {error}")
    return failed


def _unpack(target: Path, folder: Path) -> None:
    """Unpack a file that is an archive, since nothing reads inside of archives."""
    from jaxalign.sources import archives

    if not archives.is_archive(target.name):
        return
    found = archives.unpack(target)
    into = found.folder.relative_to(folder)
    if found.is_locked:
        print(f"  packed   {target.name} has a password: unpack its {found.n_files} files by hand into {found.folder}")
    elif found.n_new:
        print(f"  unpacked {found.n_new} of {found.n_files} files into {into}")


def _with_bar(file: RemoteFile, folder: Path, patience: Patience, page: str) -> tuple[bool, bool]:
    """Fetch a file under a progress bar, where somebody looks. -> whether it is new, and whether its size was known"""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from jaxalign.sources import downloads

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task(file.name, total=file.size)
        totals: list[int | None] = [file.size]
        is_new = downloads.fetch_file(file, folder, partial(_show, bars, bar, totals), patience, page)
        return is_new, totals[-1] is not None


def _show(bars: Any, bar: Any, totals: list[int | None], done: int, total: int | None) -> None:
    totals[:] = [total]
    bars.update(bar, completed=done, total=total)
