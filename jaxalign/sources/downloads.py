"""Downloads that go on where they stopped, and are kept only when size and hash are what the publisher says."""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import platform
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxalign import __version__
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.registry import RemoteFile

CHUNK_BYTES = 1 << 18
PART = ".part"
"""Ending of a file that is not whole; beside it, what the server called its version (ETag), so that parts of two do not mix."""

LOCK_FILE = ".fetch.lock"
"""In the folder of a data set; says who fetches into it, or did last."""

Progress = Callable[[int, int | None], None]
"""Called with bytes there and bytes in all, None where unknown."""

PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that is busy: asking again may help."""

REFUSING = {
    401: "The server wants people to sign in.",
    403: "The server refuses it, to programs perhaps: try the address in a browser.",
    404: "Its address may have changed.",
    410: "Its address may have changed.",
}
"""Answers after which a person has to look, and why."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how often.

    Attributes:
        timeout_s: seconds without a byte after which a connection is given up.
        n_tries: connections in a row that may bring nothing new.
    """

    timeout_s: float = 60.0
    n_tries: int = 4


def get(url: str, patience: Patience | None = None, page: str = "") -> bytes:
    """What is at an address, all of it.

    Args:
        url: of a page of a listing.
        patience: how long to wait.
        page: of the data set, for messages.
    Raises:
        DataError: if the server does not answer, or says no.
    """
    remedy = f"It lists the files of the data set: look at the page of the data set{_at(page)}."
    return bytes(_answered(url, patience or Patience(), remedy, lambda answer: answer.read()))


def name_and_size(url: str, patience: Patience | None = None, page: str = "") -> tuple[str, int | None]:
    """What the server calls the file at an address, and its bytes where it says; the file is not read.

    Args:
        url: of the file.
        patience: how long to wait.
        page: of the data set, for messages.
    Raises:
        DataError: if the server does not answer, says no, or names no file.
    """
    by_hand = f"Download the files by hand from the page of the data set{_at(page)}."
    headers = _answered(url, patience or Patience(), by_hand, lambda answer: answer.headers)
    name, length = headers.get_filename(), headers.get("Content-Length", "")
    if not name:
        raise DataError(
            f"{url} does not name its file (no Content-Disposition), so it is not known what it is. {by_hand}"
        )
    return str(name), int(length) if length.isdecimal() else None


def _answered(url: str, patience: Patience, remedy: str, take: Callable[[Any], Any]) -> Any:
    """What `take` makes of the answer at an address, after as many tries as it needs."""
    for attempt in range(patience.n_tries):
        try:
            with _open(url, {}, patience.timeout_s) as answer:
                return take(answer)
        except (OSError, http.client.HTTPException) as error:
            _give_up_if(error, url, attempt + 1 >= patience.n_tries, remedy)
    raise AssertionError("the last try raises")


def fetch_file(
    file: RemoteFile, folder: Path, progress: Progress, patience: Patience | None = None, page: str = ""
) -> bool:
    """Download a file, or the rest of it. -> False where it was there already

    Args:
        file: what and from where.
        folder: of the data set.
        progress: is told how far it is.
        patience: how long to wait.
        page: of the data set, for messages.
    Raises:
        DataError: if the server stalls, ends early again and again, or sends another content; what came is kept for
            the next try unless its hash is wrong.
    """
    import pooch

    target = folder / file.name
    if target.exists():
        _check_there(file, target)
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("ERROR")  # pooch tells of each file on its own
    known = f"sha256:{file.sha256}" if file.sha256 else (f"md5:{file.md5}" if file.md5 else None)
    resuming = _Resuming(file, target, progress, patience or Patience(), page)
    try:
        pooch.retrieve(file.url, known, target.name, target.parent, downloader=resuming)
    except ValueError as error:
        if isinstance(error, DataError) or "hash" not in str(error):
            raise
        kind = "sha256" if file.sha256 else "md5"
        found = re.search(r"got ([0-9a-f]{32,64})", str(error))
        raise DataError(
            f"{file.name} from {file.url} has the {kind} {found.group(1) if found else 'of another file'}, and the publisher says {file.sha256 or file.md5}: "
            "it was changed on the way, or the publisher has another version. Nothing was kept; try again, or look at the page of the data set."
        ) from error
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder of a data set: two downloads would write to the same parts of files.

    It is a lock of the operating system, which dies with its process; the file of it stays and means nothing.

    Args:
        folder: of the data set; it is made where it is not there.
    Raises:
        ConfigError: if another process holds it.
        DataError: if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}): name another folder (to=FOLDER).") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ConfigError(
                f"{folder} is being fetched into by {holder}. Wait for it and run the command again, which then "
                "takes what is there, or name another folder (to=FOLDER)."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def content_hash(path: Path) -> str:
    """sha256 of a file.

    Args:
        path: the file.
    """
    import pooch

    return str(pooch.file_hash(str(path), alg="sha256"))


@dataclass
class _Resuming:
    """A downloader for pooch, which itself starts again from nothing.

    Attributes:
        sends_parts: whether the server sends the rest of a file; None until it is known.
    """

    file: RemoteFile
    target: Path
    progress: Progress
    patience: Patience
    page: str
    sends_parts: bool | None = None

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> bool | None:
        part = self.target.with_name(self.target.name + PART)
        n_idle = 0
        while True:
            before = _size(part)
            try:
                if self._go_on(url, part):
                    break
                problem: Exception | None = None
            except (OSError, http.client.HTTPException) as error:
                problem = error
            n_idle = 0 if _size(part) > before else n_idle + 1
            kept = f" {_size(part)} bytes are kept in {part}; {_NEXT[self.sends_parts]}." if _size(part) else ""
            if problem is not None:
                _give_up_if(problem, url, n_idle >= self.patience.n_tries, self._by_hand(), kept)
            elif n_idle >= self.patience.n_tries:
                raise DataError(
                    f"{url} ended {n_idle} times in a row at {_size(part)} of {self.file.size or 'more'} bytes.{kept}"
                )
        if self.file.size is not None and _size(part) != self.file.size:
            n_bytes = _size(part)
            _discard(part)
            raise DataError(
                f"{url} gave {n_bytes} bytes, and the publisher says {self.file.size}: it is another file. Nothing was kept; look at the page of the data set."
            )
        _version(part).unlink(missing_ok=True)
        shutil.move(part, str(output_file))
        return None

    def _by_hand(self) -> str:
        """What to do where the server does not give the file."""
        hashes = [kind for kind in ("sha256", "md5") if getattr(self.file, kind)]
        known = [*(["size"] if self.file.size is not None else []), *hashes]
        then = (
            f"checks its {' and '.join(known)}" if known else "takes it as it is, since no size or hash of it is known"
        )
        return (
            f"Look for it on the page of the data set{_at(self.page)}, and place it at {self.target.absolute()}: "
            f"the same command then {then}."
        )

    def _go_on(self, url: str, part: Path) -> bool:
        """One connection. -> whether the file is whole"""
        start = _size(part)
        version = _version(part).read_text(encoding="utf-8") if start and _version(part).is_file() else ""
        headers = {"Range": f"bytes={start}-"} if start else {}
        headers |= {"If-Range": version} if start and version else {}
        try:
            answer = _open(url, headers, self.patience.timeout_s)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:
                raise
            with error:  # nothing is left to send: either it is whole, or it is the part of another file
                total = _total(error.headers.get("Content-Range", ""))
            if total == start:
                return True
            _discard(part)
            return False
        with answer:
            self.sends_parts = _sends_parts(answer, start, version, self.sends_parts)
            return self._take(answer, part, start)

    def _take(self, answer: Any, part: Path, start: int) -> bool:
        """Write what an answer brings behind what is there, or in its place if the server starts anew."""
        given = answer.headers.get("Content-Range", "")
        if answer.status == 206 and given.replace("bytes ", "").split("-")[0] != str(start):
            _discard(part)
            return False
        if answer.status != 206:
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdecimal() else self.file.size
        self._check_room(part, total, start)
        tag = answer.headers.get("ETag", "")
        if tag and not tag.startswith("W/"):
            _version(part).write_text(tag, encoding="utf-8")
        with part.open("ab" if start else "wb") as out:
            there = start
            self.progress(there, total)
            while block := answer.read1(CHUNK_BYTES):  # not read(), which loses what came before a stall
                out.write(block)
                there += len(block)
                self.progress(there, total)
                if self.file.size is not None and there > self.file.size:
                    return True  # more than there is: another file, as the check of its size will say
        return total is None or there >= total

    def _check_room(self, part: Path, total: int | None, start: int) -> None:
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise DataError(
                f"{self.file.name} needs {total - start} more bytes, and {part.parent} has {free} free: make room, or name another folder (to=FOLDER)."
            )


_NEXT = {
    True: "the same command goes on from there",
    False: "the server sends files from their start only, so the same command starts anew",
    None: "the same command goes on from there if the server sends parts of files, and starts anew if not",
}
"""What the next command will do, by what is known of the server."""


def _sends_parts(answer: Any, start: int, version: str, before: bool | None) -> bool | None:
    """Whether a server sends the rest of a file, by its answer to a request from byte `start` on; None if unknown."""
    says = answer.headers.get("Accept-Ranges", "").strip().lower()
    if answer.status == 206:
        return True
    is_same = version in ("", answer.headers.get("ETag", ""))  # else it is whole because the file is another one
    if says == "none" or (start and is_same):
        return False
    return True if says == "bytes" else before


def _open(url: str, headers: dict[str, str], timeout_s: float) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": f"jaxalign/{__version__}", **headers})
    answer = urllib.request.urlopen(request, timeout=timeout_s)
    if url.startswith("https:") and not answer.geturl().startswith("https:"):
        answer.close()
        raise DataError(f"{url} leads to {answer.geturl()}, which is not encrypted: look at the page of the data set.")
    return answer


def _give_up_if(error: Exception, url: str, is_last: bool, remedy: str, kept: str = "") -> None:
    """Raise in words when asking again is no use, or was no use; the remedy is for what a server refuses."""
    code = error.code if isinstance(error, urllib.error.HTTPError) else None
    if isinstance(error, urllib.error.HTTPError):
        error.close()
    if isinstance(error, DataError):
        raise error
    if isinstance(error, OSError) and error.errno in _LOCAL:
        raise DataError(f"{error.filename or 'The file'} cannot be written ({error.strerror}): make room, or name another folder (to=FOLDER).{kept}") from error  # fmt: skip
    if is_last or (code is not None and code not in PASSING):
        reason = f"{error.__class__.__name__}: {error}" if code is None else f"{code} {getattr(error, 'reason', '')}"
        hint = f" {REFUSING[code]} {remedy}" if code in REFUSING else ""
        raise DataError(f"{url} could not be read ({reason}).{hint}{kept}") from error


def _at(page: str) -> str:
    return f", {page}" if page else ""


_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
"""What goes wrong on this machine and not in the network."""


def _check_there(file: RemoteFile, target: Path) -> None:
    """Refuse to take another file for this one, and to overwrite it."""
    import pooch

    n_bytes = target.stat().st_size
    what = f"{n_bytes} bytes instead of {file.size}" if file.size is not None and n_bytes != file.size else ""
    for kind, wanted in (("sha256", file.sha256), ("md5", file.md5)):
        if not what and wanted and (found := pooch.file_hash(str(target), alg=kind)) != wanted:
            what = f"{kind} {found} instead of {wanted}"
    if what:
        raise DataError(f"{target} is there with {what}: it is another file, or a damaged one. Move it away, and run the command again.")  # fmt: skip


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _version(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version(part).unlink(missing_ok=True)


def _total(content_range: str) -> int | None:
    """Size of the whole file in "bytes */1234"."""
    end = content_range.rpartition("/")[2]
    return int(end) if end.isdecimal() else None
