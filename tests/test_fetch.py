"""Downloads against a server on this machine that stalls, truncates, ignores ranges and serves a wrong content."""

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
import writers_eeg
import writers_things
import yaml

from jaxalign import commands
from jaxalign.commands import fetch
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources import DATASETS, archives, downloads
from jaxalign.sources.archives import unpack
from jaxalign.sources.downloads import Patience, fetch_file
from jaxalign.sources.image_files import Images
from jaxalign.sources.registry import REGISTRY, Listing, RemoteFile, listed, read_registry
from jaxalign.sources.speech import Alice, Ds004408
from jaxalign.sources.things_eeg2 import ThingsEeg2
from jaxalign.sources.things_raw import ThingsEeg2Raw

CONTENT = np.random.default_rng(0).bytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SOON = Patience(timeout_s=0.4, n_tries=2)


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every path; `behave` says what goes wrong. Keeps the ranges that were asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = {}
        self.asked = []
        self.content = CONTENT
        self.tag = '"v1"'
        self.pages = {}
        self.names = {}
        self.release = threading.Event()

    def handle_error(self, request, client_address):
        """A client that gave up is no error of the server."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        if self.path in server.pages or urlsplit(self.path).path in server.pages:
            page = server.pages.get(self.path) or server.pages[urlsplit(self.path).path]
            page = page(parse_qs(urlsplit(self.path).query)) if callable(page) else page
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            if self.path in server.names:
                self.send_header("Content-Disposition", f'attachment; filename="{server.names[self.path]}"')
            self.end_headers()
            self.wfile.write(page)
            return
        server.asked.append(self.headers.get("Range"))
        what = server.behave
        server.behave = what.get("then", what)
        if "status" in what:
            self.send_response(what["status"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found.group(1)) if found and not what.get("no_ranges") else 0
        if self.headers.get("If-Range") not in (None, server.tag):
            start = 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if not what.get("no_length"):
            self.send_header("Content-Length", str(len(body)))
        if "accept" in what:
            self.send_header("Accept-Ranges", what["accept"])
        self.send_header("ETag", server.tag)
        self.end_headers()
        n = what.get("bytes", len(body))
        self.wfile.write(body[:n])
        self.wfile.flush()
        if "stall" in what:
            server.release.wait(what["stall"])
        if n < len(body) or what.get("no_length"):
            self.close_connection = True


@pytest.fixture
def server():
    """On 127.0.0.1 only; ended by the test that started it."""
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        found.release.set()
        found.shutdown()
        thread.join(10)
        assert not thread.is_alive()


def nothing(done, total):
    """No progress bar."""


def remote(server, **changes):
    return RemoteFile(
        **{"name": "a/x.bin", "url": f"{server.url}/x", "size": len(CONTENT), "sha256": SHA256, **changes}
    )


def test_a_file_comes_whole_and_is_not_fetched_twice(server, tmp_path):
    seen = []
    assert fetch_file(remote(server), tmp_path, lambda *how_far: seen.append(how_far), SOON)
    assert (tmp_path / "a/x.bin").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert not fetch_file(remote(server), tmp_path, nothing, SOON) and server.asked == [None]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.bin"], "nothing else is left"


def test_a_truncating_server_is_asked_for_the_rest(server, tmp_path):
    server.behave = {"bytes": 250_000}
    assert fetch_file(remote(server), tmp_path, nothing, SOON)
    assert server.asked == [None, "bytes=250000-", "bytes=500000-"]
    assert (tmp_path / "a/x.bin").read_bytes() == CONTENT


def test_a_stalling_server_is_given_up_and_the_next_command_goes_on(server, tmp_path):
    silent = {"bytes": 0, "stall": 30}
    server.behave = {"bytes": 100_000, "stall": 30, "then": {**silent, "then": silent}}
    part = tmp_path / "a/x.bin.part"
    start = time.monotonic()
    with pytest.raises(DataError, match=r"could not be read \(TimeoutError.*\d+ bytes are kept in .*x\.bin\.part"):
        fetch_file(remote(server), tmp_path, nothing, SOON)
    assert time.monotonic() - start < 10
    kept = part.stat().st_size
    assert (
        kept == 100_000
        and server.asked == [None, "bytes=100000-", "bytes=100000-"]
        and part.read_bytes() == CONTENT[:kept]
    )
    server.behave, server.asked = {}, []
    server.release.set()
    assert fetch_file(remote(server), tmp_path, nothing, SOON)
    assert server.asked == [f"bytes={kept}-"], "only the rest is asked for"
    assert (tmp_path / "a/x.bin").read_bytes() == CONTENT


def test_a_server_that_always_ends_at_once_is_given_up_with_numbers(server, tmp_path):
    server.behave = {"bytes": 0}
    with pytest.raises(DataError, match=r"ended 2 times in a row at 0 of 700000 bytes"):
        fetch_file(remote(server), tmp_path, nothing, SOON)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_hash_is_refused_and_nothing_is_kept(server, tmp_path, kind):
    wrong = {"sha256": "", "md5": ""} | {kind: "0" * (64 if kind == "sha256" else 32)}
    right = hashlib.new(kind, CONTENT).hexdigest()
    with pytest.raises(DataError, match=rf"has the {kind} {right}, and the publisher says 000.*Nothing was kept"):
        fetch_file(remote(server, **wrong), tmp_path, nothing, SOON)
    assert list((tmp_path / "a").iterdir()) == []


def test_another_size_is_refused_and_nothing_is_kept(server, tmp_path):
    with pytest.raises(DataError, match=r"gave 700000 bytes, and the publisher says 699999"):
        fetch_file(remote(server, size=699_999, sha256=""), tmp_path, nothing, SOON)
    assert list((tmp_path / "a").iterdir()) == []


def test_a_server_that_does_not_stop_is_left(server, tmp_path):
    server.content = CONTENT * 40
    with pytest.raises(DataError, match=r"gave \d+ bytes, and the publisher says 700000"):
        fetch_file(remote(server), tmp_path, nothing, SOON)
    assert list((tmp_path / "a").iterdir()) == []


def test_parts_of_two_versions_do_not_mix(server, tmp_path):
    """The file changes on the server between two commands: its ETag does, too, and the download starts anew."""
    part = tmp_path / "a/x.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:200_000])
    part.with_name("x.bin.part.etag").write_text('"v1"')
    server.tag, server.content = '"v2"', CONTENT[::-1]
    assert fetch_file(remote(server, sha256=hashlib.sha256(CONTENT[::-1]).hexdigest()), tmp_path, nothing, SOON)
    assert (tmp_path / "a/x.bin").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    part = tmp_path / "a/x.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:5000])
    server.behave = {"no_ranges": True}
    assert fetch_file(remote(server), tmp_path, nothing, SOON)
    assert (tmp_path / "a/x.bin").read_bytes() == CONTENT


FROM_THERE, ANEW = "the same command goes on from there", "so the same command starts anew"


@pytest.mark.parametrize(
    ("behave", "asked", "said"),
    [
        ({"no_ranges": True, "bytes": 1000}, 3, ANEW),
        ({"accept": "none", "bytes": 1000, "then": {"status": 404}}, 2, ANEW),
        ({"accept": "bytes", "bytes": 1000, "then": {"status": 404}}, 2, FROM_THERE),
        ({"bytes": 1000, "then": {"bytes": 1000, "then": {"status": 404}}}, 3, FROM_THERE),
        ({"bytes": 1000, "then": {"status": 404}}, 2, f"{FROM_THERE} if the server .*, and starts anew if not"),
    ],
)  # fmt: skip
def test_what_the_next_command_will_do_is_told_as_far_as_it_is_known(server, tmp_path, behave, asked, said):
    server.behave = behave
    with pytest.raises(DataError, match=rf"bytes are kept in .*x\.bin\.part; .*{said}\."):
        fetch_file(remote(server), tmp_path, nothing, SOON)
    assert len(server.asked) == asked
    server.behave = {"no_ranges": said == ANEW}
    assert fetch_file(remote(server), tmp_path, nothing, SOON) and (tmp_path / "a/x.bin").read_bytes() == CONTENT


def test_another_version_of_the_file_says_nothing_of_ranges(server, tmp_path):
    part = tmp_path / "a/x.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:5000])
    part.with_name("x.bin.part.etag").write_text('"v0"')
    server.behave = {"bytes": 6000, "then": {"status": 404}}
    with pytest.raises(DataError, match=f"6000 bytes are kept in .*; {FROM_THERE} if the server sends parts"):
        fetch_file(remote(server), tmp_path, nothing, SOON)


def test_a_file_that_nothing_is_known_of_is_told_to_be_unchecked(own, server, capsys):
    server.behave = {"then": {"no_length": True, "bytes": 300_000}}
    assert commands.main(["fetch", "dataset=mine", *own]) == 0
    said = capsys.readouterr().out
    unchecked = ", and no size: whether it is whole could not be checked)"
    assert said.count(unchecked) == 1
    assert re.search(rf"fetched  b\.bin \(300,000 bytes, no published hash.*{re.escape(unchecked)}", said)


def test_a_file_of_which_the_server_says_the_size_is_not_told_to_be_unchecked(own, capsys):
    assert commands.main(["fetch", "dataset=mine", *own]) == 0
    said = capsys.readouterr().out
    assert f"no published hash, sha256 {SHA256})" in said and "could not be checked" not in said


@pytest.mark.parametrize("n_bytes", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_whole_already_or_too_long(server, tmp_path, n_bytes):
    part = tmp_path / "a/x.bin.part"
    part.parent.mkdir()
    part.write_bytes((CONTENT + b"other")[:n_bytes])
    assert fetch_file(remote(server), tmp_path, nothing, SOON)
    assert (tmp_path / "a/x.bin").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, tmp_path):
    server.behave = {"status": 503, "then": {}}
    assert fetch_file(remote(server), tmp_path, nothing, SOON) and len(server.asked) == 2
    server.behave, server.asked = {"status": 404}, []
    with pytest.raises(DataError, match=r"could not be read \(404 Not Found\).*address may have changed"):
        fetch_file(remote(server, name="y.bin"), tmp_path, nothing, SOON)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, "people to sign in"),
        (403, "try the address in a browser"),
        (404, "may have changed"),
        (410, "may have changed"),
    ],
)
@pytest.mark.parametrize(
    ("known", "then"),
    [
        ({}, "checks its size and sha256"),
        ({"size": None, "sha256": "", "md5": "0" * 32}, "checks its md5"),
        ({"size": None, "sha256": ""}, "takes it as it is, since no size or hash of it is known"),
    ],
)
def test_a_refused_file_may_be_placed_by_hand(server, tmp_path, status, why, known, then):
    server.behave = {"status": status}
    with pytest.raises(DataError) as refused:
        fetch_file(remote(server, **known), tmp_path, nothing, SOON, "https://a.b")
    said = str(refused.value)
    assert f"{server.url}/x could not be read ({status} " in said and why in said and len(server.asked) == 1
    assert f"page of the data set, https://a.b, and place it at {tmp_path / 'a/x.bin'}" in said
    assert said.endswith(f"the same command then {then}."), "no bytes came, and none are said to be kept"


def test_what_was_placed_by_hand_is_checked_and_asked_for_no_more(own, server, tmp_path, capsys):
    server.behave = {"status": 403, "then": {}}
    assert commands.main(["fetch", "dataset=mine", *own]) == 3
    target = tmp_path / "data/mine/eeg/a.bin"
    assert f"page of the data set, https://a.b, and place it at {target}" in capsys.readouterr().err
    server.asked = []
    target.write_bytes(CONTENT[::-1])
    assert commands.main(["fetch", "dataset=mine", *own]) == 3
    assert "is there with sha256 " in capsys.readouterr().err
    target.write_bytes(CONTENT)
    assert commands.main(["fetch", "dataset=mine", *own]) == 0 and not server.asked


def test_a_listing_that_is_refused_names_the_page(server):
    server.behave = {"status": 403}
    with pytest.raises(
        DataError, match=r"could not be read \(403 .*lists the files .*page of the data set, https://a\.b\.$"
    ):
        downloads.get(f"{server.url}/l", SOON, "https://a.b")


def test_a_server_that_is_not_there(tmp_path):
    with Server() as closed:
        url = closed.url
    with pytest.raises(DataError, match=r"could not be read \(URLError.*refused"):
        fetch_file(RemoteFile("x", f"{url}/x"), tmp_path, nothing, SOON)


def test_another_file_in_its_place_is_not_overwritten(server, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"is there with 4 bytes instead of 700000.*Move it away"):
        fetch_file(remote(server), tmp_path, nothing, SOON)
    with pytest.raises(DataError, match=r"is there with sha256 "):
        fetch_file(remote(server, size=4), tmp_path, nothing, SOON)
    assert (tmp_path / "a/x.bin").read_bytes() == b"mine"


def test_a_disk_without_room_is_noticed_before(server, tmp_path, monkeypatch):
    usage = downloads.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"needs 700000 more bytes, and .* has 1000 free"):
        fetch_file(remote(server), tmp_path, nothing, SOON)


# Listings.


def test_the_open_science_framework_lists_folders_page_by_page(server):
    def one(name, folder="", size=3):
        hashes = {"sha256": "a" * 64, "md5": "b" * 32}
        what = {"kind": "file", "materialized_path": f"/{folder}{name}", "size": size, "extra": {"hashes": hashes}}
        return {"attributes": what, "links": {"download": f"https://osf.io/download/{name}/"}}

    inner = {"relationships": {"files": {"links": {"related": {"href": f"{server.url}/inner"}}}}}
    inner["attributes"] = {"kind": "folder", "materialized_path": "/sub/"}
    server.pages["/first"] = json.dumps(
        {"data": [one("a.zip"), inner], "links": {"next": f"{server.url}/second"}}
    ).encode()
    server.pages["/second"] = json.dumps({"data": [one("b.zip", size=None)], "links": {"next": None}}).encode()
    server.pages["/inner"] = json.dumps({"data": [one("c.zip", "sub/")], "links": {}}).encode()
    found = listed(Listing("osf", f"{server.url}/first", folder="x"), downloads.get)
    assert sorted((file.name, file.size) for file in found) == [("x/a.zip", 3), ("x/b.zip", None), ("x/sub/c.zip", 3)]
    assert {file.sha256 for file in found} == {"a" * 64} and found[0].url == "https://osf.io/download/a.zip/"


def test_a_bucket_lists_its_keys_page_by_page(server):
    def page(query):
        assert query["prefix"] == ["ds1/"]
        more = "" if "continuation-token" in query else "<NextContinuationToken>t</NextContinuationToken>"
        name, size = ("b c.eeg", 7) if "continuation-token" in query else ("sub-1/a.eeg", 5)
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        folder = "<Contents><Key>ds1/</Key><Size>0</Size></Contents>"
        return f"<ListBucketResult {space}>{folder}<Contents><Key>ds1/{name}</Key><Size>{size}</Size></Contents>{more}</ListBucketResult>".encode()

    server.pages["/bucket"] = page
    found = listed(Listing("s3", f"{server.url}/bucket", "ds1/"), downloads.get)
    assert [(file.name, file.size) for file in found] == [("sub-1/a.eeg", 5), ("b c.eeg", 7)]
    assert found[1].url == f"{server.url}/bucket/ds1/b%20c.eeg"


@pytest.mark.parametrize("kind", ["osf", "s3"])
@pytest.mark.parametrize("answer", [b"<html>moved</html>", b'{"data": 3}', b"\xff"])
def test_a_server_that_answers_something_else(server, kind, answer):
    server.pages["/l"] = answer
    with pytest.raises(DataError, match=r"does not answer as a listing|lists no file"):
        listed(Listing(kind, f"{server.url}/l"), downloads.get)


# The registry.


def test_the_registry_names_what_the_issue_asks_for():
    entries = read_registry()
    assert set(entries) == {"things_eeg2", "things_eeg2_raw", "nsd", "alice", "ds004408", "things"}
    assert all(entry.terms and entry.home.startswith("https://") for entry in entries.values())
    assert entries["nsd"].sign_at and not entries["nsd"].files and not entries["nsd"].listings
    assert all(entry.needs if entry.is_by_hand else entry.files or entry.listings for entry in entries.values())
    datasets = {entry.read_by(Path("there")).partition(" ")[0] for entry in entries.values()} - {"stimuli=images"}
    assert datasets == {f"dataset={name}" for name in entries if name != "things"} and "things_eeg2_raw" in DATASETS
    (alice,) = entries["alice"].listings
    assert len(set(alice.ids)) == 56 and all(len(one) == 9 for one in alice.ids), "YAML takes none for a number"
    for host in ("pypi", "pythonhosted", "npmjs", "anaconda", "conda", "huggingface", "crates.io", "proxy.golang"):
        assert host not in REGISTRY.read_text().lower()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": [{"name": "../x", "url": "https://a.b/x"}]}, "no path below"),
        ({"files": [{"name": "/x", "url": "https://a.b/x"}]}, "no path below"),
        ({"files": [{"name": "x", "url": "http://a.b/x"}]}, "has to start with https"),
        ({"files": [{"name": "x", "url": "file:///etc/passwd"}]}, "has to start with https"),
        ({"listings": [{"kind": "ftp", "url": "https://a.b"}]}, "osf, s3 and named are known"),
        ({"term": "x"}, "has a field 'term'. Nearest: terms"),
    ],
)
def test_an_unsafe_registry_is_refused(tmp_path, values, message):
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump({"x": {"title": "t", "home": "https://a.b", "terms": "t", **values}}))
    with pytest.raises(DataError, match=message):
        read_registry(file)


# The command.


@pytest.fixture
def own(server, tmp_path):
    """A registry of two files on the server: one with a hash, one with nothing known."""
    files = [
        {"name": "eeg/a.bin", "url": f"{server.url}/a", "size": len(CONTENT), "sha256": SHA256, "md5": None},
        {"name": "b.bin", "url": f"{server.url}/b", "size": None, "sha256": None, "md5": None},
    ]
    entry = {"title": "Test set", "home": "https://a.b", "terms": "CC BY 4.0, cite nobody.", "files": files}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"mine": entry}))
    return [f"registry={path}", f"to={tmp_path / 'data'}", "timeout_s=0.5", "tries=2"]


def test_the_command_shows_terms_and_fetches(own, tmp_path, capsys):
    assert commands.main(["fetch", "dataset=mine", *own]) == 0
    said = capsys.readouterr().out
    assert said.index("CC BY 4.0, cite nobody.") < said.index("fetched")
    assert "2 files, 700,000 bytes, and 1 of unknown size" in said
    assert f"no published hash, sha256 {SHA256}" in said, "what nobody published is told, to be noted"
    assert (tmp_path / "data/mine/eeg/a.bin").read_bytes() == (tmp_path / "data/mine/b.bin").read_bytes() == CONTENT
    assert commands.main(["fetch", "dataset=mine", *own]) == 0
    assert "there    eeg/a.bin" in capsys.readouterr().out


def test_the_command_lists_and_selects(own, server, tmp_path, capsys):
    fetch.main(["dataset=mine", "list=true", *own])
    said = capsys.readouterr().out
    assert "700,000 bytes  hash known  eeg/a.bin" in said and "? bytes  no hash     b.bin" in said
    assert not server.asked and not (tmp_path / "data").exists()
    fetch.main(["dataset=mine", "files=eeg/*", *own])
    assert not (tmp_path / "data/mine/b.bin").exists() and (tmp_path / "data/mine/eeg/a.bin").exists()
    with pytest.raises(ConfigError, match=r"files=nosuch matches none of 2 files"):
        fetch.main(["dataset=mine", "files=nosuch", *own])


def test_one_bad_file_does_not_keep_the_others_waiting(own, server, tmp_path, capsys):
    server.content = CONTENT[::-1]
    assert commands.main(["fetch", "dataset=mine", *own]) == 3
    said = capsys.readouterr()
    assert "1 of 2 files were not fetched: eeg/a.bin" in said.err and "Data error" in said.err
    assert (tmp_path / "data/mine/b.bin").exists() and not (tmp_path / "data/mine/eeg/a.bin").exists()


def fetching(*words):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "jaxalign", "fetch", "dataset=mine", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_fetches_do_not_write_to_one_folder_and_a_killed_one_holds_nothing(own, server, tmp_path):
    server.behave = {"bytes": 100_000, "stall": 60, "then": {}}
    part = tmp_path / "data/mine/eeg/a.bin.part"
    patient = [word for word in own if not word.startswith("timeout_s")]
    with fetching("timeout_s=60", *patient) as first:
        try:
            end = time.monotonic() + 60
            while not (part.exists() and part.stat().st_size == 100_000):
                assert first.poll() is None and time.monotonic() < end
                time.sleep(0.02)
            with fetching(*own) as second:
                said = second.communicate(timeout=60)[1]
            assert second.returncode == 2 and f"mine is being fetched into by process {first.pid} on " in said
            assert "to=FOLDER" in said and server.asked == [None] and part.stat().st_size == 100_000
        finally:
            first.kill()
    with fetching(*own) as third:
        said = third.communicate(timeout=60)[0]
    assert third.returncode == 0 and "All 2 files are in" in said
    assert server.asked[1] == "bytes=100000-", "what the killed one left is gone on with"
    assert (tmp_path / "data/mine/eeg/a.bin").read_bytes() == (tmp_path / "data/mine/b.bin").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_told(own, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match=r"data/mine cannot be written \(Not a directory\): name another folder"):
        fetch.main(["dataset=mine", *own])


def test_nsd_is_not_downloaded_but_explained(capsys, monkeypatch):
    monkeypatch.setattr(downloads, "_open", lambda *arguments: pytest.fail("nothing is asked of a server"))
    fetch.main(["dataset=nsd"])
    said = capsys.readouterr().out
    assert "data access agreement" in said and "Sign the agreement at https://" in said and "nsd_expdesign.mat" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset=things_eeg"], "Nearest: things_eeg2"),
        (["dataset=nsd", "too=x"], "'too=x' is nothing that fetch knows"),
        (["dataset=mine", "timeout_s=soon"], "timeout_s=soon"),
        (["dataset=mine", "tries=0"], "at least 1 try"),
    ],
)
def test_wrong_words(own, words, message):
    registry = own[:1] if "dataset=mine" in words else []
    with pytest.raises(ConfigError, match=message):
        fetch.main([*words, *registry])


def test_without_a_data_set_all_are_listed(capsys):
    fetch.main([])
    assert {"things_eeg2", "nsd", "alice", "ds004408", "things"} <= set(capsys.readouterr().out.split())


# Archives.


def zipped(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("inside", ["", "sub-01/"])
def test_an_archive_ends_in_one_folder_of_its_name(tmp_path, inside):
    members = {f"{inside}a.npy": CONTENT, f"{inside}deep/b.npy": b"b", "__MACOSX/._a.npy": b"icon"}
    path = zipped(tmp_path / "x/sub-01.zip", members)
    found = unpack(path)
    assert (found.folder, found.n_files, found.n_new) == (tmp_path / "x/sub-01", 2, 2)
    files = {str(one.relative_to(found.folder)): one.read_bytes() for one in found.folder.rglob("*") if one.is_file()}
    assert files == {"a.npy": CONTENT, "deep/b.npy": b"b"} and path.is_file()
    assert unpack(path).n_new == 0, "a second time nothing is written"


def test_a_stopped_unpacking_goes_on_and_another_file_is_not_overwritten(tmp_path):
    path = zipped(tmp_path / "a.zip", {"x": b"x" * 10, "y": b"y" * 20})
    unpack(path)
    (tmp_path / "a/y").unlink()
    (tmp_path / "a/y.part").write_bytes(b"y" * 3)
    assert unpack(path).n_new == 1
    assert (tmp_path / "a/y").read_bytes() == b"y" * 20 and not (tmp_path / "a/y.part").exists()
    (tmp_path / "a/x").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"a/x is there with 4 bytes, and the archive has 10: .* Move it away"):
        unpack(path)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "..\\out"])
def test_no_member_leads_out_of_the_folder(tmp_path, name):
    path = zipped(tmp_path / "in/a.zip", {"good": b"x", name: b"x"})
    with pytest.raises(DataError, match=r"leads out of its folder\. Nothing was unpacked"):
        unpack(path)
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == ["a.zip"]


def test_a_damaged_archive_is_told_and_leaves_no_part_of_a_file(tmp_path):
    path = zipped(tmp_path / "a.zip", {"x": CONTENT})
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip \(\d+ bytes\) could not be unpacked .*by hand into .*/a\.$"):
        unpack(path)
    assert not [one for one in tmp_path.rglob("*") if one.name.startswith("x")]
    path.write_bytes(content[:500])
    with pytest.raises(DataError, match="BadZipFile"):
        unpack(path)


def test_an_archive_that_cannot_be_unpacked_does_not_keep_the_others_waiting(server, tmp_path, capsys):
    server.pages |= {"/a.zip": b"no archive", "/b.zip": zipped(tmp_path / "b.zip", {"x": b"x"}).read_bytes()}
    files = [{"name": name, "url": f"{server.url}/{name}"} for name in ("a.zip", "b.zip")]
    entry = {"title": "t", "home": "https://a.b", "terms": "t", "files": files}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"mine": entry}))
    assert commands.main(["fetch", "dataset=mine", f"registry={tmp_path / 'r.yaml'}", f"to={tmp_path / 'data'}"]) == 3
    said = capsys.readouterr()
    assert "1 of 2 files were not fetched or unpacked: a.zip" in said.err and "BadZipFile" in said.err
    assert "unpacked 1 of 1 files into b" in said.out and (tmp_path / "data/mine/b/x").read_bytes() == b"x"


def test_a_disk_without_room_is_noticed_before_unpacking(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {"x": CONTENT})
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"a\.zip unpacks to 700000 more bytes, and .* has 1000 free"):
        unpack(path)
    assert not (tmp_path / "a").exists()


def test_an_archive_with_a_password_is_left_as_it_is(server, tmp_path, capsys):
    path = zipped(tmp_path / "a.zip", {"x": b"secret"})
    content = bytearray(path.read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + at] |= 1
    server.pages["/a.zip"] = bytes(content)
    entry = {
        "title": "t",
        "home": "https://a.b",
        "terms": "t",
        "files": [{"name": "a.zip", "url": f"{server.url}/a.zip"}],
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"mine": entry}))
    assert commands.main(["fetch", "dataset=mine", f"registry={tmp_path / 'r.yaml'}", f"to={tmp_path / 'data'}"]) == 0
    assert f"has a password: unpack its 1 files by hand into {tmp_path / 'data/mine/a'}" in capsys.readouterr().out


# What is fetched is what is read: jaxalign's own registry, with this server in the place of the publishers'.


def redirected(server, tmp_path, name, **changes):
    """An entry of the registry, its addresses those of the server. -> words of the command"""
    entry = yaml.safe_load(REGISTRY.read_text())[name]
    for listing in entry["listings"]:
        listing |= {"url": f"{server.url}{urlsplit(listing['url']).path}", **changes}
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({name: entry}))
    return ["fetch", f"dataset={name}", f"registry={path}", f"to={tmp_path / 'data'}"]


def osf_page(server, node, files):
    """Serve files as a project of the Open Science Framework does."""
    data = []
    for name, content in files.items():
        server.pages[f"/{node}/{name}"] = content
        hashes = {"sha256": hashlib.sha256(content).hexdigest(), "md5": ""}
        what = {"kind": "file", "materialized_path": f"/{name}", "size": len(content), "extra": {"hashes": hashes}}
        data.append({"attributes": what, "links": {"download": f"{server.url}/{node}/{name}"}})
    server.pages[f"/v2/nodes/{node}/files/osfstorage/"] = json.dumps({"data": data, "links": {}}).encode()


def things_on_osf(server, tmp_path, inside):
    """A tiny THINGS-EEG2, an archive per person, pictures in archives. -> what writers_things.official says"""
    made = writers_things.official(tmp_path / "made")
    people = {}
    for subject in made:
        files = sorted((tmp_path / f"made/preprocessed_data/sub-{subject}").iterdir())
        members = {f"{inside.format(subject)}{one.name}": one.read_bytes() for one in files}
        people[f"sub-{subject}.zip"] = zipped(tmp_path / "zips/s.zip", members).read_bytes()
    osf_page(server, "anp5v", people)
    pictures, said = {}, writers_things.metadata()
    for part, short in (("training", "train"), ("test", "test")):
        members = {f"{part}_images/{concept}/{name}": b"picture" for concept, name in
                   zip(said[f"{short}_img_concepts"], said[f"{short}_img_files"], strict=True)}  # fmt: skip
        pictures[f"{part}_images.zip"] = zipped(tmp_path / "zips/i.zip", members).read_bytes()
    pictures["image_metadata.npy"] = (tmp_path / "made/image_set/image_metadata.npy").read_bytes()
    osf_page(server, "y63gw", pictures)
    return made


@pytest.mark.parametrize("inside", ["", "sub-{}/", "people/sub-{}/"])
def test_things_eeg2_is_fetched_and_read(server, tmp_path, capsys, inside):
    made = things_on_osf(server, tmp_path, "sub/" if inside.startswith("people") else inside)
    words = redirected(server, tmp_path, "things_eeg2")
    assert commands.main(words) == 0
    folder = tmp_path / "data/things_eeg2"
    said = capsys.readouterr().out
    assert "unpacked 2 of 2 files into preprocessed/sub-01" in said and "into images/test_images" in said
    assert f"Read it with dataset=things_eeg2 dataset.path={folder} stimuli=images stimuli.path={folder}/images" in said
    pictures = Images(path=str(folder / "images"), recursive=True).ids()
    for path in (tmp_path / "data", folder):
        recordings = ThingsEeg2(path=str(path)).recordings()
        assert [one.subject for one in recordings] == list(made)
        trials = made["02"]["test"]["preprocessed_eeg_data"]
        np.testing.assert_allclose(recordings[1].trials, trials, rtol=1e-6)
        assert set(recordings[0].stimulus_ids) == set(pictures), "the names of the pictures are known"
    server.pages = {name: page for name, page in server.pages.items() if name.startswith("/v2/")}
    assert commands.main(words) == 0, "a second fetch asks for no file again"
    said = capsys.readouterr().out
    assert said.count("  there ") == 5 and "unpacked" not in said and not server.asked


def test_the_raw_things_eeg2_is_placed_by_hand_and_read_with_the_fetched_pictures(server, tmp_path, capsys):
    assert commands.main(["fetch", "dataset=things_eeg2_raw", f"to={tmp_path / 'data'}"]) == 0
    said, folder = capsys.readouterr().out, tmp_path / "data/things_eeg2_raw"
    assert f"Go to https://osf.io/crxs4, download from there, and place below {folder}:" in said
    assert "sub-01/ses-01/raw_eeg_training.npy" in said and f"dataset=things_eeg2_raw dataset.path={folder}." in said
    things_on_osf(server, tmp_path, "")
    assert commands.main([*redirected(server, tmp_path, "things_eeg2"), "files=images/*"]) == 0
    writers_things.raw(tmp_path / "raw", n_sessions=2)
    (tmp_path / "raw/raw_data").rename(folder)
    for path in (tmp_path / "data", folder):
        (one,) = ThingsEeg2Raw(path=str(path), mvnn="none").recordings()
        assert "concept" in one.columns and len(one.stimulus_ids) == 17


def test_ds004408_is_fetched_and_read(server, tmp_path):
    spoken = [(0.5, 0.8, "he"), (0.8, 1.0, "was"), (1.0, 1.1, "an"), (2.0, 2.4, "old")]
    tiers = {"words": spoken, "phones": [(0.5, 0.6, "HH")]}
    writers_eeg.ds004408(tmp_path / "made", {"01": tiers}, duration_s=4)
    names = sorted(str(one.relative_to(tmp_path / "made")) for one in (tmp_path / "made").rglob("*") if one.is_file())
    keys = ""
    for name in names:
        content = (tmp_path / "made" / name).read_bytes()
        server.pages[f"/openneuro.org/{quote(f'ds004408/{name}')}"] = content
        keys += f"<Contents><Key>ds004408/{name}</Key><Size>{len(content)}</Size></Contents>"
    server.pages["/openneuro.org"] = f"<ListBucketResult>{keys}</ListBucketResult>".encode()
    assert commands.main(redirected(server, tmp_path, "ds004408")) == 0
    cut = [{"name": "epoch", "tmin_s": 0.0, "tmax_s": 0.1}]
    read = [Ds004408(folder=str(tmp_path / path), steps=cut).recordings() for path in ("made", "data", "data/ds004408")]
    for found in read[1:]:
        for one, other in zip(read[0], found, strict=True):
            assert one.stimulus_ids == other.stimulus_ids and one.subject == other.subject
            np.testing.assert_array_equal(one.values, other.values)


def test_alice_is_fetched_under_the_names_that_the_server_gives_and_read(server, tmp_path, capsys):
    writers_eeg.alice(tmp_path / "made")
    proc = zipped(tmp_path / "proc.zip", {"proc/S01.mat": (tmp_path / "made/proc/S01.mat").read_bytes()})
    files = [*(one for one in sorted((tmp_path / "made").iterdir()) if one.is_file()), proc]
    for number, one in enumerate(files):
        server.pages[f"/data/downloads/id{number}"] = one.read_bytes()
        server.names[f"/data/downloads/id{number}"] = one.name
    words = redirected(server, tmp_path, "alice", ids=[f"id{number}" for number in range(len(files))])
    assert commands.main(words) == 0
    assert f"Read it with dataset=alice dataset.folder={tmp_path / 'data/alice'}." in capsys.readouterr().out
    cut = [{"name": "epoch", "tmin_s": 0.0, "tmax_s": 0.1}]
    made, above, there = (Alice(folder=str(tmp_path / path), steps=cut) for path in ("made", "data", "data/alice"))
    (one,) = made.recordings()
    for source in (above, there):
        (other,) = source.recordings()
        assert one.stimulus_ids == other.stimulus_ids
        np.testing.assert_array_equal(one.values, other.values)


def test_a_server_that_does_not_name_its_file_is_told(server, tmp_path, capsys):
    server.pages["/data/downloads/id"] = b"x"
    assert commands.main(redirected(server, tmp_path, "alice", ids=["id"])) == 3
    said = capsys.readouterr().err
    assert (
        "does not name its file (no Content-Disposition)" in said and "by hand from the page of the data set, " in said
    )
