"""Real processes of one run: the same bytes for any number of processes and devices, each doing only its own share."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
from test_dist import clean_environment

from jaxalign import commands, store
from jaxalign.contracts import Fit
from jaxalign.runtime import journal

LAUNCHER = Path(__file__).parents[1] / "launch" / "local.sh"
N_STIMULI = 24
WIDTHS = (3, 40, 7, 33, 5)
"""Padded to 8, 64, 8, 64, 8: each process of two has one of each to itself."""

# The command `jaxalign`, which writes down what it touches, and dies where the test says. Settings: RECORDS is a folder; OTHER
# are words that only the last process gets; DIES is "process where pattern k signal", such as "1 renamed *.parquet 4 KILL".
PROGRAM = """#!{python}
import contextlib, fnmatch, os, signal, sys, threading
sys.path.insert(0, {root!r})
me = os.environ.get("JAXALIGN_PROCESS_ID", "0")
record = open(os.environ["RECORDS"] + "/process-" + me, "w", buffering=1)
record.write("pid " + str(os.getpid()) + "\\n")

def written(event, arguments):
    is_written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (is_written or event == "os.mkdir") and not isinstance(arguments[0], int):
        record.write("written " + os.path.abspath(os.fsdecode(arguments[0])) + "\\n")

sys.addaudithook(written)

from jaxalign import commands, store
from jaxalign.results import table
from jaxalign.runtime import finalise, folder, journal

process, where, pattern, k, name = os.environ.get("DIES", "none none none 0 KILL").split()
calls = 0
append, replacing, read = journal.append, table.replacing, store.read

def die(now):
    if now == where and calls == int(k):
        os.kill(os.getpid(), getattr(signal, "SIG" + name))

def append_and_die(output, entry, number=0):
    global calls
    calls += where in ("unjournalled", "torn")
    die("unjournalled")
    if where == "torn" and calls == int(k):
        with journal.journal_file(output, number).open("ab") as file:
            file.write(b'0123456789abcdef {{"unit_id": "torn')
        die("torn")
    append(output, entry, number)

@contextlib.contextmanager
def replacing_and_die(path):
    global calls
    calls += where in ("temporary", "renamed") and fnmatch.fnmatch(path.name, pattern)
    with replacing(path) as file:
        yield file
        file.flush()
        if fnmatch.fnmatch(path.name, pattern):
            die("temporary")
    if fnmatch.fnmatch(path.name, pattern):
        die("renamed")

def read_and_say(path, fit, rows=None):
    is_scoring = threading.current_thread().name == "jaxalign-reader"
    record.write(("read " if is_scoring else "described ") + fit.layer + "\\n")
    return read(path, fit, rows)

store.read = read_and_say
if me == process:
    journal.append = append_and_die
    table.replacing = finalise.replacing = replacing_and_die
words = sys.argv[1:]
if me == str(int(os.environ.get("JAXALIGN_N_PROCESSES", "1")) - 1):
    words += os.environ.get("OTHER", "").split()
{main}
"""
COMMAND = "sys.exit(commands.main(words))"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code of the launcher, or of the only process.
        text: what all processes said.
        written: per process, files that it opened for writing, and folders that it made.
        read: per process, layers that it read from the store to score them, in order; those of the finishing pass are not here.
    """

    code: int
    text: str
    written: list[list[str]]
    read: list[list[str]]


@dataclass(frozen=True)
class Running:
    """A command under way.

    Attributes:
        process: the launcher, or the only process.
        n_processes: how many there are.
        records: folder of what they write down.
    """

    process: subprocess.Popen
    n_processes: int
    records: Path

    def record(self, index: int, kind: str) -> list[str]:
        """What process `index` wrote down of a kind: pid, written or read."""
        path = self.records / f"process-{index}"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]

    def signal(self, index: int, number: int) -> None:
        """Send a signal to process `index`."""
        os.kill(int(self.record(index, "pid")[0]), number)

    def wait_until(self, condition: Callable[[], Any], timeout: float = 240) -> bool:
        """Wait for something; False if the command ends before."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self.process.poll() is not None:
                return bool(condition())
            assert time.monotonic() < deadline, f"not in {timeout} s: {self.text()}"
            time.sleep(0.002)
        return True

    def text(self) -> str:
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted(self.records.glob("*.log")))

    def ended(self, timeout: float = 240) -> Ended:
        """Wait for the end."""
        code = self.process.wait(timeout)
        each = range(self.n_processes)
        told = {kind: [self.record(index, kind) for index in each] for kind in ("written", "read")}
        return Ended(code, self.text(), **told)


@contextmanager
def started(
    words: list[str], n_processes: int = 1, n_devices: int = 1, main: str = COMMAND, **environment: str
) -> Iterator[Running]:
    """`jaxalign` in processes of its own, through the launcher if there are several; none is left at the end."""
    records = Path(tempfile.mkdtemp(prefix="jaxalign-test-"))
    program = records / "jaxalign"
    root = str(LAUNCHER.parents[1])
    program.write_text(PROGRAM.format(python=sys.executable, root=root, main=main), encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    launch = ["bash", str(LAUNCHER), "-n", str(n_processes), "-d", str(n_devices), "-l", str(records), "--"]
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(n_devices), "RECORDS": str(records), **environment}
    if n_processes > 1:
        settings["JAXALIGN"] = str(program)
    with (records / "process-0.log").open("w") as log:
        process = subprocess.Popen(
            [*(launch if n_processes > 1 else [str(program)]), *words],
            env={**clean_environment(), **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Running(process, n_processes, records)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(records)


def done(words: list[str], n_processes: int = 1, n_devices: int = 1, **settings: str) -> Ended:
    """A command that runs to its end in processes of its own."""
    with started(words, n_processes, n_devices, **settings) as running:
        return running.ended()


def do(words: list[str]) -> None:
    """A command in this process, on its 8 devices."""
    assert commands.main(words) == 0


def computed(folder: Path) -> list[int]:
    """Units that each session of a run computed; sessions that did not end are not there."""
    return [session["units_computed"] for session in json.loads((folder / "run.json").read_text())["sessions"]]


def journalled(folder: Path, process: int = 0) -> list[str]:
    """Units in the journal of one process, in order, each whole line once."""
    path = journal.journal_file(folder, process)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [json.loads(line.partition(" ")[2])["unit_id"] for line in lines if line.endswith("}")]


def n_lines(folder: Path) -> int:
    """Whole lines in the journals of all processes."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("journal*.jsonl"))


@dataclass(frozen=True)
class Setup:
    """One recording and one store of features, shared by the runs of a module."""

    recording: Path
    features: Path

    def words(self, output: Path, metrics: str = "correlation,rsa", **changes: Any) -> list[str]:
        """2 columns and 5 layers against 24 targets: 24 units of the correlation in tiles of 4, 30 of RSA, 30 of ridge.

        Blocks of 2 fits on 4 devices and tiles of 4 bins or cells leave dummy fits and dummy tiles.
        """
        options = {
            "dataset.path": self.recording,
            "model": "[fas,stored]",
            "model.stored.path": self.features,
            "metric": f"[{metrics}]",
            "mesh.targets_per_call": 4,
            "mesh.target": None,
            "mesh.fits_per_call": 2,
            "output": output,
            "+averages": "[{name: early, channels: [Pz, Oz], start_s: -0.1, stop_s: -0.04}]",
        }
        for metric in metrics.split(","):
            options[f"+score.{metric}"] = "[fas]" if metric == "correlation" else "[stored]"
            options[f"metric.{metric}.n_permutations"] = 20
        if "rsa" in metrics:
            options["metric.rsa.n_folds"] = 2
        if "ridge" in metrics:
            options |= {"metric.ridge.n_outer": 2, "metric.ridge.n_inner": 2}
        if "correlation" not in metrics:
            options["metric.correlation.n_permutations"] = None
        return makers.eeg_request(self.recording.parent, **{**options, **changes})


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """A recording, and features of 5 layers of different widths."""
    folder = tmp_path_factory.mktemp("setup")
    values, columns = makers.eeg(N_STIMULI)
    rng = np.random.default_rng(5)
    fits = [Fit("net", "r0", f"layer{place}", place / 4, "none", width) for place, width in enumerate(WIDTHS)]
    block = {(fit.layer, fit.pooling): rng.standard_normal((N_STIMULI, fit.width)).astype(np.float32) for fit in fits}
    store.write(folder / "features", fits, columns["word"], {"made": "by a test"}, [block])
    return Setup(makers.epochs_file(folder / "tiny-epo.fif", values, columns), folder / "features")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(setup, tmp_path_factory):
    """Function of (metrics, processes, devices) giving the folder of such a run and how it ended; each is done once."""
    known: dict[Any, tuple[Path, Ended]] = {}

    def run(metrics, n_processes, n_devices):
        key = (metrics, n_processes, n_devices)
        if key not in known:
            output = tmp_path_factory.mktemp("runs") / "out"
            ended = done(setup.words(output, metrics), n_processes, n_devices)
            assert ended.code == 0, ended.text
            known[key] = output, ended
        return known[key]

    return run


QUICK, ALL = "correlation,rsa", "correlation,rsa,ridge"


def arrangements():
    """Processes x devices; all of them with every metric, some with less in every run of the tests."""
    yield QUICK, 2, 2
    yield pytest.param(QUICK, 1, 4, marks=pytest.mark.slow)
    for n_processes, n_devices in ((1, 4), (1, 8), (2, 2), (4, 1)):
        yield pytest.param(ALL, n_processes, n_devices, marks=pytest.mark.slow)


@pytest.mark.parametrize(("metrics", "n_processes", "n_devices"), list(arrangements()))
def test_any_number_of_processes_and_devices_gives_the_bytes_of_one(runs, metrics, n_processes, n_devices):
    expected, _ = runs(metrics, 1, 1)
    found, ended = runs(metrics, n_processes, n_devices)
    described = json.loads((found / "run.json").read_text())["processes"]
    assert (described["n_processes"], described["n_local_devices"]) == (n_processes, n_devices), ended.text
    assert makers.table_hash(found) == makers.table_hash(expected)
    assert (found / "summary.json").read_bytes() == (expected / "summary.json").read_bytes()
    units = [{path.name: path.read_bytes() for path in (folder / "units").iterdir()} for folder in (found, expected)]
    assert units[0] == units[1], "the units with their maxima"


def test_each_process_computes_a_share_and_together_they_are_all(runs):
    folder, _ = runs(QUICK, 2, 2)
    shares = [journalled(folder, process) for process in (0, 1)]
    ids = {path.name.split(".")[0] for path in (folder / "units").iterdir()}
    assert not set(shares[0]) & set(shares[1]) and sorted(shares[0] + shares[1]) == sorted(ids)
    assert abs(len(shares[0]) - len(shares[1])) <= 2, "at most one more per stage"


def test_each_process_reads_only_its_own_layers(runs):
    """Of 3 layers of one padded width and 2 of another, only one is read by both: its tiles are split between them."""
    _, ended = runs(QUICK, 2, 2)
    first, second = (set(layers) for layers in ended.read)
    assert first == {"layer0", "layer2", "layer1"} and second == {"layer2", "layer4", "layer3"}


def inside(folder, written):
    return {Path(path).relative_to(folder).as_posix() for path in written if Path(path).is_relative_to(folder)}


def of_the_run(names, process):
    """Names that are not the units, journal, events, lock and wish to stop of one process."""
    mine = {".", f"journal-{process}.jsonl", f"events-{process}.jsonl", f".lock-{process}", ".stop"}
    return {name for name in names if not name.startswith("units/") and name not in mine}


def test_only_the_first_process_writes_what_belongs_to_the_run(runs):
    folder, ended = runs(QUICK, 2, 2)
    first, second = (inside(folder, written) for written in ended.written)
    for file in ("run.json", "channels.json", "scores.parquet", "summary.json", "finished.json"):
        assert any(name.startswith(f".{file}.") and name.endswith(".part") for name in first), file
    assert any(name.startswith("units/") for name in second)
    assert not {name for name in of_the_run(second, 1) if not name.startswith(".hydra")}


def test_only_the_first_process_writes_the_folder_of_hydra(runs):
    folder, ended = runs(QUICK, 2, 2)
    first, second = (inside(folder, written) for written in ended.written)
    assert ".hydra/config.yaml" in first
    assert not {name for name in second if name.startswith(".hydra")}


@pytest.mark.slow
def test_only_the_first_process_writes_the_report(setup, tmp_path):
    output = tmp_path / "out"
    ended = done(setup.words(output, report="true"), 2)
    assert ended.code == 0, ended.text
    first, second = (inside(output, written) for written in ended.written)
    assert any("report.html" in name for name in first)
    assert not {name for name in of_the_run(second, 1) if not name.startswith(".hydra")}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("metric.correlation.n_permutations=30", "n_permutations: 20 .*30"),
        pytest.param("seed=3", "seed: 0 .*3", marks=pytest.mark.slow),
        pytest.param("mesh.targets_per_call=8", "targets_per_call: 4 .*8", marks=pytest.mark.slow),
        pytest.param("output=elsewhere", "processes: output ", marks=pytest.mark.slow),
    ],
)
def test_processes_with_different_commands_stop_and_say_what_differs(setup, tmp_path, changes, says):
    ended = done(setup.words(tmp_path / "out"), 2, OTHER=changes)
    assert ended.code == 2, ended.text
    for process in (0, 1):
        assert f"process {process} of 2 ended with 2" in ended.text
    errors = [line for line in ended.text.splitlines() if line.startswith("Configuration error: ")]
    assert len(errors) == 2 and all(re.search(says, line) for line in errors), errors
    assert n_lines(tmp_path / "out") == 0 and not (tmp_path / "out" / "run.json").exists()


def test_an_error_of_one_process_alone_stops_all_with_its_code(setup, tmp_path):
    """The second process does not find the recording, while the first goes on."""
    ended = done(setup.words(tmp_path / "out"), 2, OTHER="dataset.path=/nowhere-epo.fif")
    assert ended.code == 3, ended.text
    assert ended.text.count("Data error: The file /nowhere-epo.fif was not found") == 2
    assert n_lines(tmp_path / "out") == 0 and not (tmp_path / "out" / "run.json").exists()


def copied(folder, to):
    shutil.copytree(folder, to)
    return to


def test_what_two_processes_left_is_finished_by_one(setup, runs, tmp_path):
    """Units of both are lost, and the table; one process with 8 devices computes them and no other."""
    folder, _ = runs(QUICK, 2, 2)
    output = copied(folder, tmp_path / "out")
    lost = [*journalled(output, 0)[::4], *journalled(output, 1)[1::3]]
    for unit_id in lost:
        (output / "units" / f"{unit_id}.parquet").unlink()
    (output / "scores.parquet").unlink()
    do(setup.words(output))
    assert computed(output)[-1] == len(lost)
    assert makers.table_hash(output) == makers.table_hash(folder)


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 3])
def test_a_run_begun_by_two_processes_goes_on_with_another_number(setup, runs, tmp_path, n_processes):
    expected, _ = runs(ALL, 1, 1)
    output = tmp_path / "out"
    words = setup.words(output, ALL)
    stopped = done(words, 2, DIES="1 unjournalled * 4 TERM")
    assert stopped.code == 75, stopped.text
    n_kept, n_units = n_lines(output), len(journalled(expected))
    assert 4 <= n_kept < n_units
    ended = done(words, n_processes)
    assert ended.code == 0, ended.text
    assert computed(output)[-1] == n_units - n_kept and makers.table_hash(output) == makers.table_hash(expected)
