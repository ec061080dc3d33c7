"""Whatever happens to a file of a store, its numbers come back as written or not at all, and verify sees it."""

import contextlib

import numpy as np
import pytest

from jaxalign import store
from jaxalign.contracts import Fit
from jaxalign.errors import DataError
from jaxalign.store import activations, manifests

N_STIMULI = 300
IDS = [f"bild-{index}-é" for index in range(N_STIMULI)]
FITS = [Fit("tiny", "a" * 40, "layers.0", 0.0, "mean", 3), Fit("tiny", "a" * 40, "layers.1", 1.0, "mean", 5)]
FILES = [
    "manifest.json",
    "stimulus_ids.json",
    *(
        f"00{index}-layers-{index}-mean/{name}"
        for index in range(2)
        for name in ("zarr.json", "c/0/0", "c/1/0")
    ),
]  # fmt: skip


def planted():
    rng = np.random.default_rng(3)
    return {(fit.layer, fit.pooling): rng.standard_normal((N_STIMULI, fit.width), dtype=np.float32) for fit in FITS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two fits of two shards: 256 rows and 44."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "BUFFER_BYTES", 2 * 128 * 4 * sum(fit.width for fit in FITS))
        target = tmp_path_factory.mktemp("fuzz") / "store"
        store.write(target, FITS, IDS, {"weights": "b" * 64}, [planted()])
    return target


def flips(content, rng, n):
    """Any byte becomes any other: this includes a space that becomes a tab, which JSON does not mind."""
    for position in rng.choice(len(content), min(n, len(content)), replace=False):
        changed = bytearray(content)
        changed[position] ^= int(rng.integers(1, 256))
        yield bytes(changed)


def truncations(content, rng, n):
    lengths = {0, 1, len(content) // 2, len(content) - 1, *rng.integers(0, len(content), n).tolist()}
    yield from (content[:length] for length in sorted(lengths))


def appended(content, rng, n):
    yield from (content + more for more in (b"\0", b" ", b"\n", content, rng.bytes(100 + n)))


def whitespace(content, rng, n):
    """The same JSON in other bytes."""
    places = [place for place, byte in enumerate(content) if byte == ord(" ")][: 2 + n]
    yield from (content[:place] + b"\n" + content[place + 1 :] for place in places)


def check(folder, is_changed=True):
    """Reads are right or refused, ids too, and verify refuses."""
    manifests._parse_once.cache_clear()
    values = planted()
    for fit in FITS:
        for rows in (slice(None), slice(250, 260)):
            with contextlib.suppress(DataError):
                np.testing.assert_array_equal(store.read(folder, fit, rows), values[fit.layer, fit.pooling][rows])
    with contextlib.suppress(DataError):
        assert list(store.stimulus_ids(folder)) == IDS
    if is_changed:
        with pytest.raises(DataError):
            store.verify(folder)


def change_each_way(folder, name, n):
    path, rng = folder / name, np.random.default_rng([FILES.index(name), n])
    content = path.read_bytes()
    ways = [*flips(content, rng, n), *truncations(content, rng, n // 4), *appended(content, rng, n)]
    if name.endswith(".json"):
        ways += whitespace(content, rng, n // 4)
    try:
        for changed in ways:
            if changed != content:
                path.write_bytes(changed)
                check(folder)
        path.unlink()
        check(folder)
    finally:
        path.write_bytes(content)


def test_these_are_the_files_of_a_store_and_untouched_they_are_whole(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == set(FILES)
    check(folder, is_changed=False)
    store.verify(folder)
    for fit in FITS:
        np.testing.assert_array_equal(store.read(folder, fit), planted()[fit.layer, fit.pooling])


@pytest.mark.parametrize("name", FILES)
def test_no_change_of_a_file_gives_a_wrong_number(folder, name):
    change_each_way(folder, name, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_no_change_of_a_file_gives_a_wrong_number_in_many_draws(folder, name):
    change_each_way(folder, name, 1000)


@pytest.mark.parametrize("name", FILES)
def test_no_swap_of_two_files_gives_a_wrong_number(folder, name):
    content = (folder / name).read_bytes()
    for other in FILES:
        swapped = (folder / other).read_bytes()
        if swapped == content:
            continue
        try:
            (folder / name).write_bytes(swapped)
            (folder / other).write_bytes(content)
            check(folder)
        finally:
            (folder / name).write_bytes(content)
            (folder / other).write_bytes(swapped)
    store.verify(folder)
