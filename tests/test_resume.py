"""Crashes and repetitions: the same command does only what is missing, and the table has the bytes of an undisturbed run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import makers
import pytest

from jaxalign import commands
from jaxalign.errors import ConfigError
from jaxalign.runtime import journal

ROOT = Path(__file__).parents[1]

# Runs `jaxalign` and kills itself, as a power cut would, at the k-th call of a function: argv is where, when, k, words.
KILLER = """
import contextlib, os, signal, sys
from jaxalign import commands
from jaxalign.results import table
from jaxalign.runtime import finalise, folder, journal

where, when, k, words = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
calls = 0

def die(now):
    if now == when and calls == k:
        os.kill(os.getpid(), signal.SIGNAL)

append, replacing = journal.append, table.replacing

def append_and_die(*arguments):
    global calls
    calls += 1
    die("before")
    if when == "inside" and calls == k:
        with (arguments[0] / journal.JOURNAL_FILE).open("ab") as file:
            file.write(b"0123456789abcdef {torn")
        os.kill(os.getpid(), signal.SIGNAL)
    append(*arguments)
    die("after")

@contextlib.contextmanager
def replacing_and_die(path):
    global calls
    calls += 1
    die("before")
    with replacing(path) as file:
        yield file
        file.flush()
        die("inside")
    die("after")

if where == "append":
    journal.append = append_and_die
else:
    table.replacing = finalise.replacing = replacing_and_die
sys.exit(commands.main(words))
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """One recording for all: its content and path are part of what a run is."""
    rng = makers.np.random.default_rng(7)
    values, metadata = makers.eeg()
    path = tmp_path_factory.mktemp("recording") / "tiny-epo.fif"
    return makers.epochs_file(
        path, values, {**metadata, **{f"c{index}": rng.standard_normal(24) for index in range(5)}}
    )


@pytest.fixture
def request_of(recording):
    """Function of (folder, changes) giving 5 fits x 3 tiles of 8 targets: 15 units, the last block of fits padded."""

    def request(folder, **changes):
        options = {"dataset.path": recording, "model.fas.columns": "[c0,c1,c2,c3,c4]", "mesh.fit": 1}
        return makers.eeg_request(folder, **{**options, "mesh.fits_per_call": 2, **changes})

    return request


def do(words):
    assert commands.main(words) == 0


def computed(folder):
    """Units that each session of a run computed."""
    return [session["units_computed"] for session in json.loads((folder / "run.json").read_text())["sessions"]]


def units(folder):
    return sorted(path for path in (folder / "units").glob("*.parquet") if "maxima" not in path.name)


@pytest.fixture
def finished(tmp_path, request_of):
    do(request_of(tmp_path))
    assert computed(tmp_path / "out") == [15] and len(units(tmp_path / "out")) == 15
    return tmp_path / "out", makers.table_hash(tmp_path / "out")


def test_same_command_twice_computes_nothing(finished, tmp_path, request_of):
    folder, expected = finished
    written = {path: path.stat().st_mtime_ns for path in units(folder)}
    do(request_of(tmp_path))
    assert computed(folder) == [15, 0] and makers.table_hash(folder) == expected
    assert written == {path: path.stat().st_mtime_ns for path in units(folder)}, "units on disk are not touched"


def test_two_folders_get_the_same_bytes(finished, tmp_path, request_of):
    do(request_of(tmp_path, output=tmp_path / "other"))
    assert makers.table_hash(tmp_path / "other") == finished[1]
    first, second = ((folder / "scores.parquet").read_bytes() for folder in (finished[0], tmp_path / "other"))
    assert first == second, "also the files are equal, not only their sorted rows"


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("suffix", [".parquet", ".maxima.parquet"])
@pytest.mark.parametrize("harm", [remove, truncate, empty, flip])
def test_a_damaged_unit_alone_is_computed_again(finished, tmp_path, harm, suffix, request_of):
    folder, expected = finished
    for place, unit in enumerate(units(folder)[i] for i in (3, 11)):
        written = {path: path.stat().st_mtime_ns for path in units(folder)}
        harm(unit.with_name(unit.name.removesuffix(".parquet") + suffix))
        do(request_of(tmp_path))
        assert computed(folder)[place + 1 :] == [1] and makers.table_hash(folder) == expected
        assert [path for path in units(folder) if path.stat().st_mtime_ns != written[path]] == [unit]


def test_units_of_several_analyses_and_blocks_are_computed_again_alike(tmp_path):
    """RSA multiplies all fits of a call at once: a unit that is alone in its call has the bytes it had in company."""
    words = makers.rdm_request(tmp_path, n_models=7, **{"mesh.fit": 1, "mesh.fits_per_call": 3})
    do(words)
    expected = makers.table_hash(tmp_path / "out")
    for unit in units(tmp_path / "out"):
        unit.unlink()
        do(words)
        assert computed(tmp_path / "out")[-1] == 1 and makers.table_hash(tmp_path / "out") == expected


def test_a_torn_journal_line_is_ignored(finished, tmp_path, request_of):
    """The last line is cut, as by a crash while it was written: its unit is computed again, later lines are whole."""
    folder, expected = finished
    path = folder / journal.JOURNAL_FILE
    path.write_bytes(path.read_bytes()[:-40])
    do(request_of(tmp_path))
    assert computed(folder) == [15, 1] and makers.table_hash(folder) == expected
    do(request_of(tmp_path))
    assert computed(folder) == [15, 1, 0]


def test_damaged_journal_lines_are_ignored(finished, tmp_path, request_of):
    folder, expected = finished
    path = folder / journal.JOURNAL_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"unit_id", b"unit_ie")
    lines[5] = b"\xff\xfe no journal\n"
    lines[7] = b"\n"
    path.write_bytes(b"".join(lines))
    do(request_of(tmp_path))
    assert computed(folder) == [15, 3] and makers.table_hash(folder) == expected


def test_lost_journal_and_lost_table_are_made_again(finished, tmp_path, request_of):
    folder, expected = finished
    (folder / "scores.parquet").unlink()
    do(request_of(tmp_path))
    assert computed(folder) == [15, 0] and makers.table_hash(folder) == expected
    (folder / journal.JOURNAL_FILE).unlink()
    do(request_of(tmp_path))
    assert computed(folder) == [15, 0, 15] and makers.table_hash(folder) == expected


def test_force_computes_everything_again(finished, tmp_path, request_of):
    folder, expected = finished
    (folder / "units" / "note.txt").write_text("not a unit")
    (folder / "mine.txt").write_text("not of a run")
    do(request_of(tmp_path, force="true"))
    assert computed(folder) == [15] and makers.table_hash(folder) == expected
    assert (folder / "mine.txt").exists(), "only what a run wrote is discarded"


# Another run's folder.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 3}, r"seed differ \(seed: 0 there, 3 asked\)"),
        ({"metric.correlation.n_permutations": 30}, r"metric\.correlation\.n_permutations: 20 there, 30 asked"),
        ({"mesh.targets_per_call": 16}, r"tile\.targets_per_call: 8 there, 16 asked"),
        ({"dataset.tmin_s": -0.06}, r"dataset\.tmin_s: None there, -0\.06 asked"),
    ],
)
def test_folder_of_another_run_is_refused(finished, tmp_path, capsys, changes, says, request_of):
    folder, expected = finished
    capsys.readouterr()
    assert commands.main(request_of(tmp_path, **changes)) == 2
    said = capsys.readouterr().err
    assert re.search(says, said) and "Choose another output=, or add force=true" in said
    assert makers.table_hash(folder) == expected and computed(folder) == [15]
    do(request_of(tmp_path, force="true", **changes))
    assert makers.table_hash(folder) != expected


def test_folder_of_other_data_is_refused(finished, recording, tmp_path, capsys, request_of):
    """The same request of a file with other content."""
    folder, expected = finished
    before = recording.read_bytes()
    try:
        values, columns = makers.eeg(seed=1)
        makers.epochs_file(
            recording, values, {**columns, **{f"c{index}": columns["frequency"] + index for index in range(5)}}
        )
        capsys.readouterr()
        assert commands.main(request_of(tmp_path)) == 2
    finally:
        recording.write_bytes(before)
    assert re.search(r"same request on other data or models \(run \w{16}, now \w{16}\)", capsys.readouterr().err)
    assert makers.table_hash(folder) == expected


@pytest.mark.parametrize("changes", [{"report": "true"}, {"mesh.fit": 4}, {"store": "elsewhere"}, {"force": "false"}])
def test_what_decides_no_number_may_change(finished, tmp_path, changes, request_of):
    folder, expected = finished
    do(request_of(tmp_path, **changes))
    assert computed(folder) == [15, 0] and makers.table_hash(folder) == expected


# Kills.


def run_killed(words, where, when, k, name="KILL"):
    """Run in a process of its own that gets a signal at the k-th call."""
    script = KILLER.replace("SIGNAL", f"SIG{name}")
    command = [sys.executable, "-c", script, where, when, str(k), *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)


def environment():
    """The same devices and threads as here: equal bytes are promised for equal CPU threads."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


# A unit writes two files (replacing) and one line (append); run.json and channels.json come first, then 15 units.
KILLS = [
    ("replacing", "inside", 1),  # run.json half written: nothing is there
    pytest.param("replacing", "after", 2, marks=pytest.mark.slow),  # before the first unit
    pytest.param("replacing", "inside", 7, marks=pytest.mark.slow),  # rows of a unit half written
    pytest.param("replacing", "before", 8, marks=pytest.mark.slow),  # rows without maxima
    ("replacing", "inside", 8),  # maxima half written
    ("append", "before", 4),  # files without a line
    ("append", "inside", 5),  # a torn line
    ("append", "after", 15),  # all units, no table
    ("replacing", "inside", 33),  # the final table half written
    pytest.param("replacing", "after", 33, marks=pytest.mark.slow),  # a table without summary
    ("replacing", "inside", 35),  # the last note in run.json half written
]


@pytest.fixture
def undisturbed(tmp_path, request_of):
    """Table bytes of a run that nothing disturbed."""
    do(request_of(tmp_path, output=tmp_path / "undisturbed"))
    return makers.table_hash(tmp_path / "undisturbed")


@pytest.mark.parametrize(("where", "when", "k"), KILLS)
def test_kill_9_loses_at_most_the_unit_in_flight(tmp_path, undisturbed, where, when, k, request_of):
    killed = run_killed(request_of(tmp_path), where, when, k)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "out"
    n_lines = len(journal.entries(folder))
    do(request_of(tmp_path))
    assert computed(folder)[-1] == 15 - n_lines, "what was journalled is not computed again"
    assert makers.table_hash(folder) == undisturbed
    assert not list(folder.rglob(".*.part")), "no half-written file stays"


def test_sigterm_finishes_the_unit_in_flight_and_resumes(tmp_path, undisturbed, request_of):
    stopped = run_killed(request_of(tmp_path), "append", "before", 4, "TERM")
    assert stopped.returncode == 75
    said = re.search(
        r"Preempted: Stopped after (\d+) of 15 missing units, as asked. The same command goes on from here.",
        stopped.stderr,
    )
    n_kept = int(said.group(1))
    assert 4 <= n_kept < 15, "calls in flight are finished too"
    assert "Traceback" not in stopped.stderr and len(journal.verified(tmp_path / "out")) == n_kept
    do(request_of(tmp_path))
    assert computed(tmp_path / "out")[-1] == 15 - n_kept and makers.table_hash(tmp_path / "out") == undisturbed


def test_the_handler_of_sigterm_is_given_back(finished):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# The lock.

HOLDER = "import sys, time; from pathlib import Path; from jaxalign.runtime import journal\nwith journal.locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(120)"


def test_a_second_process_is_refused_and_the_lock_dies_with_its_process(tmp_path, capsys, request_of):
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            assert commands.main(request_of(tmp_path)) == 2
            said = capsys.readouterr().err
            assert (
                f"{tmp_path / 'out'} is in use by process {holder.pid}. Wait for it, or choose another output=." in said
            )
            with pytest.raises(ConfigError), journal.locked(tmp_path / "out"):
                pass
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
    deadline = time.monotonic() + 10
    while commands.main(request_of(tmp_path)) != 0:
        assert time.monotonic() < deadline, "the lock outlives its process"
    assert computed(tmp_path / "out") == [15]


def test_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), journal.locked(tmp_path):
        raise RuntimeError
    with journal.locked(tmp_path):
        pass


# The journal alone.


def test_journal_keeps_the_last_entry_of_a_unit(tmp_path):
    for value in (1, 2):
        journal.append(tmp_path, {"unit_id": "a", "files": {}, "value": value})
    journal.append(tmp_path, {"unit_id": "b", "files": {}, "value": 3})
    assert {name: entry["value"] for name, entry in journal.entries(tmp_path).items()} == {"a": 2, "b": 3}


def test_journal_cut_anywhere_never_gives_a_wrong_entry(tmp_path):
    """Cut after every byte: the whole lines before the cut are read, and a new line after the cut too."""
    for name in "abc":
        journal.append(tmp_path, {"unit_id": name, "files": {}})
    path = tmp_path / journal.JOURNAL_FILE
    whole = path.read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        n_whole = sum(end <= cut for end in ends)  # a line without its newline is whole already
        assert list(journal.entries(tmp_path)) == list("abc"[:n_whole])
        journal.append(tmp_path, {"unit_id": "z", "files": {}})
        assert list(journal.entries(tmp_path)) == [*"abc"[:n_whole], "z"]
