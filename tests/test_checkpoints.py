"""Checkpoints: there whole or not at all, damage is named, and a killed accumulation ends with the same bytes."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.compute.stats import dot
from jaxalign.errors import DataError
from jaxalign.runtime import checkpoints

ROOT = Path(__file__).parents[1]

# A loop of asyncio that Orbax leaves open is found closed when Python collects it, in whichever test that happens.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Sums(NamedTuple):
    gram: jax.Array
    first: jax.Array


def state(scale=1.0):
    return Sums(jnp.arange(12, dtype=jnp.float32).reshape(4, 3) * scale, jnp.arange(3, dtype=jnp.int32))


def split_over(n_devices):
    grid = jax.make_mesh((n_devices,), ("rows",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n_devices])
    return NamedSharding(grid, P("rows"))


# Saved and loaded.


def test_a_state_comes_back_with_its_structure_and_bytes(tmp_path):
    checkpoints.save(tmp_path, 7, state())
    found = checkpoints.load(tmp_path, 7, jax.eval_shape(state))
    assert isinstance(found, Sums) and checkpoints.latest(tmp_path) == 7
    assert jax.tree.map(lambda one: np.asarray(one).tobytes(), found) == jax.tree.map(
        lambda one: np.asarray(one).tobytes(), state()
    )


def test_a_state_of_four_devices_is_loaded_onto_two(tmp_path, devices):
    values = jax.device_put(np.arange(32, dtype=np.float32).reshape(8, 4), split_over(4))
    checkpoints.save(tmp_path, 0, {"bank": values})
    like = {"bank": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=split_over(2))}
    found = checkpoints.load(tmp_path, 0, like)["bank"]
    assert {shard.device for shard in found.addressable_shards} == set(devices[:2])
    np.testing.assert_array_equal(found, values)


def test_the_last_few_steps_stay_and_none_is_replaced(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, state(step), keep=2)
    with pytest.raises(ValueError, match="has step 3 already"):
        checkpoints.save(tmp_path, 3, state(4))
    assert checkpoints.steps(tmp_path) == [2, 3]
    np.testing.assert_array_equal(checkpoints.load(tmp_path, 2, state()).gram, state(2).gram)
    checkpoints.discard(tmp_path)
    checkpoints.discard(tmp_path)
    assert checkpoints.latest(tmp_path) is None


def test_nothing_that_holds_code_is_written(tmp_path):
    checkpoints.save(tmp_path, 0, state())
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle", ".npy", ".py")]


def test_a_dtype_that_would_change_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"state\['a'\] is float64, which JAX would turn"):
        checkpoints.save(tmp_path, 0, {"a": np.zeros(3)})


# Damage.


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for step in (3, 4):
        checkpoints.save(folder, step, state(step))
    return folder


@pytest.fixture
def saved(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "sums"))


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_flipped_byte_is_found(saved):
    """One byte of each file, at its beginning, middle and end."""
    for path in files_of(saved / "4"):
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(DataError, match="4"):
                checkpoints.load(saved, 4, state())
        path.write_bytes(whole)
    checkpoints.load(saved, 4, state())


def test_every_deleted_file_is_named_with_what_to_do(saved):
    for path in files_of(saved / "4"):
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=rf"step 4.*{path.name}|{path.name} of step 4") as caught:
            checkpoints.load(saved, 4, state())
        assert str(caught.value).endswith(f"Delete {saved / '4'} to go on from step 3.")
        path.write_bytes(whole)


def test_what_orbax_cannot_read_is_told_by_its_cause(saved, monkeypatch):
    """Damage that leaves the hashes right cannot happen by itself; the words of Orbax would not say what it is."""
    (saved / "4" / "arrays" / "state" / "manifest.ocdbt").unlink()
    monkeypatch.setattr(checkpoints, "_hashes", lambda folder: {})
    content = saved / "4" / "checkpoint.json"
    content.write_text(
        f'{{"identity": "", "files": {{}}, "leaves": {checkpoints._described(state())}}}'.replace("'", '"')
    )
    with pytest.raises(DataError, match=r"step 4 has whole files, and they cannot be read: .+ to go on from step 3"):
        checkpoints.load(saved, 4, state())


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"gram": jnp.zeros(3)}, r"4 holds 2 arrays and 1 are wanted"),
        (Sums(jnp.zeros((4, 4)), jnp.zeros(3, jnp.int32)), r"gram of shape \(4, 3\), float32; .* \(4, 4\), float32"),
        (Sums(jnp.zeros((4, 3)), jnp.zeros(3)), r"first of shape \(3,\), int32; .*first of shape \(3,\), float32"),
        ({"a": jnp.zeros((4, 3)), "b": jnp.zeros(3, jnp.int32)}, r"state\.gram .* state\['a'\]"),
    ],
)
def test_another_structure_shape_or_dtype_is_named(written, like, message):
    with pytest.raises(DataError, match=message):
        checkpoints.load(written, 4, like)


def test_a_step_that_is_not_there_and_other_inputs_are_named(written):
    with pytest.raises(DataError, match="no step 9; it has steps 3, 4"):
        checkpoints.load(written, 9, state())
    with pytest.raises(DataError, match="saved for inputs '', and these are 'store b'"):
        checkpoints.load(written, 4, state(), identity="store b")


# Killed.

N_BLOCKS, WIDTH, N_ROWS = 9, 24, 40

GRAM = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_checkpoints import streamed
def watch(block):
    if block == {block}:
        os.kill(os.getpid(), signal.SIGKILL)
streamed(Path({store!r}), Path({folder!r}), watch)
"""

KILLED_IN_SAVE = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_checkpoints import state
from jaxalign.runtime import checkpoints
folder = Path({folder!r})
checkpoints.save(folder, 1, state(1))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(checkpoints, {at!r}, die)
checkpoints.save(folder, 2, state(2), keep=1)
"""


def killed(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def store(tmp_path, rng):
    """Row blocks of activations that are read one at a time."""
    folder = tmp_path / "store"
    folder.mkdir()
    for block in range(N_BLOCKS):
        np.save(folder / f"{block}.npy", rng.normal(size=(N_ROWS, WIDTH)).astype(np.float32))
    return folder


def streamed(store, folder, watch=lambda block: None):
    """Gram matrix and sum of the columns, over row blocks of a store."""
    add = jax.jit(lambda sums, rows: Sums(sums.gram + dot(rows.T, rows), sums.first + jnp.sum(rows, axis=0)))

    def step(sums, block):
        watch(block)
        return add(sums, np.load(store / f"{block}.npy", allow_pickle=False))

    start = Sums(jnp.zeros((WIDTH, WIDTH)), jnp.zeros(WIDTH))
    return checkpoints.accumulate(folder, N_BLOCKS, start, step, every=2, identity="store a")


def test_a_streaming_gram_killed_in_the_middle_ends_with_the_same_bytes(store, tmp_path):
    undisturbed = streamed(store, tmp_path / "one")
    killed(GRAM.format(tests=str(ROOT / "tests"), store=str(store), folder=str(tmp_path / "two"), block=5))
    assert checkpoints.steps(tmp_path / "two") == [2, 4]
    seen = []
    resumed = streamed(store, tmp_path / "two", seen.append)
    assert seen == [4, 5, 6, 7, 8], "blocks before the checkpoint are not done again"
    for one, other in zip(undisturbed, resumed, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    # What is finished and not committed is only loaded.
    again = streamed(store, tmp_path / "two", seen.append)
    assert len(seen) == 5 and np.asarray(again.gram).tobytes() == np.asarray(resumed.gram).tobytes()
    checkpoints.discard(tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_checkpoints_of_other_data_are_refused(store, tmp_path):
    checkpoints.save(tmp_path / "two", 12, state())
    with pytest.raises(DataError, match="after 12 blocks, and there are 9"):
        streamed(store, tmp_path / "two")


@pytest.mark.parametrize("at", ["_hashes", "_write_durably", "_sync"])
def test_a_kill_during_a_save_leaves_a_whole_step(at, tmp_path):
    """After Orbax wrote and before the hashes; before these are written; after the rename and before old steps go."""
    killed(KILLED_IN_SAVE.format(tests=str(ROOT / "tests"), folder=str(tmp_path), at=at))
    last = 2 if at == "_sync" else 1
    assert checkpoints.latest(tmp_path) == last
    np.testing.assert_array_equal(checkpoints.load(tmp_path, last, state()).gram, state(last).gram)
    checkpoints.save(tmp_path, 3, state(3))
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left == [], "what the killed process left is gone"


@pytest.mark.slow
@pytest.mark.parametrize("after_s", np.linspace(0.0, 0.5, 12).round(2))
def test_a_kill_at_any_moment_leaves_a_whole_step(after_s, tmp_path):
    code = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_checkpoints import state
from jaxalign.runtime import checkpoints
for step in range(1, 1000):
    checkpoints.save(Path({folder!r}), step, state(step))
    print(step, flush=True)
"""
    words = [sys.executable, "-c", code.format(tests=str(ROOT / "tests"), folder=str(tmp_path))]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "1"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(after_s)
        process.kill()
        told = [int(line) for line in process.stdout]
    last = checkpoints.latest(tmp_path)
    assert last >= max([1, *told])
    np.testing.assert_array_equal(checkpoints.load(tmp_path, last, state()).gram, state(last).gram)
