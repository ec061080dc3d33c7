"""Data sets that can be fetched: their files, terms of use, and what their publishers say of sizes and hashes."""

from __future__ import annotations

import json
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from jaxalign.errors import DataError, nearest

REGISTRY = Path(__file__).with_name("registry.yaml")
ENTRY = {"title", "home", "terms", "sign_at", "needs", "read", "files", "listings"}
N_PAGES = 1000
"""Pages of a listing at most: a server that always names a next page does not keep us for ever."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set.

    Attributes:
        name: path below the data set's folder.
        url: where it is.
        size: bytes; None where nobody says.
        sha256, md5: hashes that the publisher gives; empty where none.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str = ""
    md5: str = ""

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.name).parts
        if not parts or self.name.startswith("/") or ".." in parts or "\\" in self.name:
            raise DataError(f"The registry names a file {self.name!r}, which is no path below the data set's folder.")
        _check_address(self.url)


@dataclass(frozen=True)
class Listing:
    """A server that lists files.

    Attributes:
        kind: "osf" (API of the Open Science Framework), "s3" (public bucket) or "named" (addresses whose answers name
            their files).
        url: of the API's first page, or of the bucket, or what addresses begin with.
        prefix: of the keys in a bucket.
        folder: below the data set's folder.
        ids: with which the named addresses end.
    """

    kind: str
    url: str
    prefix: str = ""
    folder: str = ""
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(map(str, self.ids)))
        if self.kind not in ("osf", "s3", "named"):
            raise DataError(f"The registry has a listing of kind {self.kind!r}: osf, s3 and named are known.")
        _check_address(self.url)


@dataclass(frozen=True)
class Entry:
    """A data set of the registry.

    Attributes:
        name: by which it is asked for.
        title, home, terms: what it is, its page, and its terms of use.
        sign_at: where an agreement has to be signed first; it is then not downloaded.
        needs: files that jaxalign reads, where it is not downloaded.
        read: words of the command that read it; FOLDER stands for where it is.
        files: that are known.
        listings: of files that servers know.
    """

    name: str
    title: str
    home: str
    terms: str
    sign_at: str = ""
    needs: tuple[str, ...] = ()
    read: str = ""
    files: tuple[RemoteFile, ...] = ()
    listings: tuple[Listing, ...] = ()

    @property
    def is_by_hand(self) -> bool:
        """Whether people download it themselves: an agreement comes first, or no address is known."""
        return bool(self.sign_at) or not (self.files or self.listings)

    def read_by(self, folder: Path) -> str:
        """Words of the command that read it.

        Args:
            folder: where it is.
        """
        return self.read.replace("FOLDER", str(folder))


def read_registry(path: Path = REGISTRY) -> dict[str, Entry]:
    """All data sets by name.

    Args:
        path: YAML file; jaxalign's own, or another of the same form.
    Raises:
        DataError: if it cannot be read, or an entry is not of that form.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(name): _entry(str(name), values) for name, values in content.items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        first = " ".join(str(error).split())
        raise DataError(f"{path} is no registry of data sets: {first}.") from error


NameAndSize = Callable[[str], tuple[str, int | None]]
"""From an address to the name and the bytes of the file there, which it does not bring; None where nobody says."""


def listed(listing: Listing, get: Callable[[str], bytes], named: NameAndSize | None = None) -> list[RemoteFile]:
    """Files that a server lists, with their sizes and, on OSF, their sha256.

    Args:
        listing: which server.
        get: function from an address to what is there.
        named: function from an address to name and bytes of its file, for a listing of that kind.
    Raises:
        DataError: if the server answers something else.
    """
    if listing.kind == "named":
        assert named is not None
        return [_named(f"{listing.url}{one}", listing, named) for one in listing.ids]
    try:
        found = list(_osf(listing, get) if listing.kind == "osf" else _s3(listing, get))
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{listing.url} does not answer as a listing of {listing.kind}: {type(error).__name__} {error}. Look at the page of the data set."
        ) from error
    if not found:
        raise DataError(f"{listing.url} lists no file{f' under {listing.prefix}' if listing.prefix else ''}.")
    return found


def _entry(name: str, values: dict[str, Any]) -> Entry:
    unknown = sorted(set(values) - ENTRY)
    if unknown:
        raise DataError(f"The registry entry {name} has a field {unknown[0]!r}. {nearest(unknown[0], ENTRY)}")
    files = tuple(
        RemoteFile(str(one["name"]), str(one["url"]), one.get("size"), one.get("sha256") or "", one.get("md5") or "")
        for one in values.get("files") or ()
    )
    listings = tuple(Listing(**one) for one in values.get("listings") or ())
    texts = (str(values["title"]), str(values["home"]), str(values["terms"]).strip())
    by_hand = (values.get("sign_at") or "", tuple(values.get("needs") or ()), str(values.get("read") or ""))
    return Entry(name, *texts, *by_hand, files, listings)


def _check_address(url: str) -> None:
    """Only encrypted addresses, and those of this machine."""
    address = urllib.parse.urlsplit(url)
    is_here = address.hostname in ("127.0.0.1", "localhost")
    if not address.hostname or not (address.scheme == "https" or (address.scheme == "http" and is_here)):
        raise DataError(f"The registry names the address {url!r}: it has to start with https://.")


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _named(url: str, listing: Listing, named: NameAndSize) -> RemoteFile:
    name, size = named(url)
    return RemoteFile(_below(listing.folder, name), url, size)


def _osf(listing: Listing, get: Callable[[str], bytes]) -> Iterator[RemoteFile]:
    """Pages of the API, version 2; folders are listings of their own."""
    pending = [listing.url]
    for _ in range(N_PAGES):
        if not pending:
            return
        page = json.loads(get(pending.pop(0)))
        for one in page["data"]:
            what = one["attributes"]
            if what["kind"] == "folder":
                pending.append(one["relationships"]["files"]["links"]["related"]["href"])
                continue
            hashes = (what.get("extra") or {}).get("hashes") or {}
            name = _below(listing.folder, str(what["materialized_path"]).lstrip("/"))
            yield RemoteFile(name, one["links"]["download"], what.get("size"), hashes.get("sha256") or "", hashes.get("md5") or "")  # fmt: skip
        following = (page.get("links") or {}).get("next")
        pending += [following] if following else []
    raise DataError(f"{listing.url} lists more than {N_PAGES} pages.")


def _s3(listing: Listing, get: Callable[[str], bytes]) -> Iterator[RemoteFile]:
    """Keys of a public bucket. Its ETags are no hashes of large files and are not used."""
    token = ""
    for _ in range(N_PAGES):
        query = {"list-type": "2", "prefix": listing.prefix} | ({"continuation-token": token} if token else {})
        page = ElementTree.fromstring(get(f"{listing.url}?{urllib.parse.urlencode(query)}"))
        space = page.tag.partition("}")[0] + "}" if page.tag.startswith("{") else ""
        for one in page.iter(f"{space}Contents"):
            key, size = str(one.findtext(f"{space}Key")), int(str(one.findtext(f"{space}Size")))
            if not key.endswith("/"):
                name = _below(listing.folder, key.removeprefix(listing.prefix))
                yield RemoteFile(name, f"{listing.url}/{urllib.parse.quote(key)}", size)
        token = page.findtext(f"{space}NextContinuationToken") or ""
        if not token:
            return
    raise DataError(f"{listing.url} lists more than {N_PAGES} pages.")
