"""kill -9 and SIGTERM at any moment, with one process and with two: the same command again gives the bytes of an undisturbed run."""

from __future__ import annotations

import json
import signal
import time

import makers
import numpy as np
import pytest
from test_processes import computed, do, done, journalled, n_lines, started

from jaxalign.commands import composed
from jaxalign.runtime import journal
from jaxalign.runtime.run import Job, execute_all

N_FITS = 40
N_UNITS = N_FITS * 6
"""6 tiles of 4 targets each; a unit takes some milliseconds, and there are always hundreds."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """4 channels x 6 bins, and 40 columns that nothing follows."""
    values, columns = makers.eeg()
    rng = np.random.default_rng(11)
    columns |= {f"c{index}": rng.standard_normal(24) for index in range(N_FITS)}
    return makers.epochs_file(tmp_path_factory.mktemp("recording") / "tiny-epo.fif", values, columns)


@pytest.fixture(scope="module")
def words_of(recording):
    """Function of (output, changes) giving a request of 240 units, in blocks of 2 fits per device."""

    def words(output, **changes):
        options = {
            "dataset.path": recording,
            "model.fas.columns": f"[{','.join(f'c{index}' for index in range(N_FITS))}]",
            "mesh.targets_per_call": 4,
            "mesh.fits_per_call": 2,
            "output": output,
            "dist.heartbeat_timeout_s": 10,
        }
        return makers.eeg_request(recording.parent, **{**options, **changes})

    return words


@pytest.fixture(scope="module")
def undisturbed(words_of, tmp_path_factory):
    """Table bytes of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    do(words_of(output))
    assert computed(output) == [N_UNITS]
    return makers.table_hash(output)


def check_whole(output, undisturbed, n_kept):
    """The last session computed what was not journalled; table, journal and folder are as if nothing had happened."""
    assert computed(output)[-1] == N_UNITS - n_kept, "what was journalled is not computed again"
    assert makers.table_hash(output) == undisturbed
    assert not list(output.rglob(".*.part")), "no half-written file stays"
    assert len(journal.verified(output)) == N_UNITS
    lines = [unit_id for process in range(3) for unit_id in journalled(output, process)]
    assert len(lines) == len(set(lines)) == N_UNITS, "no unit is computed twice"


# Any moment.


def killed(words, output, n_processes, victim, wait):
    """Start a run, wait, and kill process `victim`; the others end by themselves. -> units that are kept, exit code"""
    with started(words, n_processes) as running:
        wait(running)
        if running.process.poll() is None:
            running.signal(victim, signal.SIGKILL)
        ended = running.ended()
    assert "is in use by process" not in ended.text
    return len(journal.verified(output)), ended.code


@pytest.mark.parametrize(
    ("n_processes", "victim", "seed"),
    [
        pytest.param(1, 0, 0, marks=pytest.mark.slow),
        pytest.param(1, 0, 1, marks=pytest.mark.slow),
        (2, 1, 2),
        pytest.param(2, 0, 3, marks=pytest.mark.slow),
    ],
)
def test_kill_9_in_the_middle_of_the_units_loses_only_units_in_flight(
    tmp_path, words_of, undisturbed, n_processes, victim, seed
):
    """The moment is seeded in units, not in seconds: it is in the middle on any machine."""
    rng, output = np.random.default_rng(seed), tmp_path / "out"
    n_before, further_s = int(rng.uniform(0.05, 0.5) * N_UNITS), rng.uniform(0, 0.02)

    def wait(running):
        assert running.wait_until(lambda: n_lines(output) >= n_before), running.text()
        time.sleep(further_s)

    n_kept, code = killed(words_of(output), output, n_processes, victim, wait)
    assert code != 0 and n_before <= n_kept < N_UNITS, "killed between the first and the last journal line"
    do(words_of(output))
    check_whole(output, undisturbed, n_kept)


@pytest.fixture(scope="module")
def durations(words_of, undisturbed, tmp_path_factory):
    """Function of a number of processes giving the seconds from run.json to the end of an undisturbed run."""
    known = {}

    def duration(n_processes):
        if n_processes not in known:
            output = tmp_path_factory.mktemp("duration") / "out"
            with started(words_of(output), n_processes) as running:
                running.wait_until((output / "run.json").exists)
                start = time.monotonic()
                assert running.ended().code == 0, running.text()
                known[n_processes] = time.monotonic() - start
            assert makers.table_hash(output) == undisturbed
        return known[n_processes]

    return duration


N_MOMENTS = 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n_processes", [1, 2])
def test_kill_9_at_any_moment_then_the_same_command(tmp_path, words_of, undisturbed, durations, n_processes):
    """20 moments, one in each twentieth of the time from run.json to the end; some are between two units."""
    rng, duration = np.random.default_rng(n_processes), durations(n_processes)
    kept = []
    for place in range(N_MOMENTS):
        fraction, victim, code = (place + rng.random()) / N_MOMENTS, int(rng.integers(n_processes)), 0
        while code == 0:
            output = tmp_path / f"out{place}-{duration:.3f}"

            def wait(running, output=output, after_s=fraction * duration):
                assert running.wait_until((output / "run.json").exists), running.text()
                time.sleep(after_s)

            n_kept, code = killed(words_of(output), output, n_processes, victim, wait)
            if code == 0:  # the machine is faster than it was while the duration was measured
                duration *= 0.8
        kept.append((victim, n_kept, code))
        ended = done(words_of(output), n_processes)
        assert ended.code == 0, (kept, ended.text)
        check_whole(output, undisturbed, n_kept)
    print(f"{n_processes} processes, {duration:.1f} s, (victim, units kept, exit code): {kept}")
    assert sum(0 < n_kept < N_UNITS for _, n_kept, _ in kept) >= 1, kept


# Chosen points, where one of two processes dies.

POINTS = [
    "1 temporary *.parquet 7",  # rows of a unit half written
    "1 temporary *.maxima.parquet 4",  # rows without maxima
    "1 renamed *.parquet 8",  # both files there, no line
    "1 unjournalled * 5",
    "1 torn * 5",
    "0 temporary run.json 1",  # nothing is there
    "0 torn * 5",
    "0 renamed *.maxima.parquet 9",
    "0 temporary scores.parquet 1",  # the final table half written, while the other process waits
    "0 renamed scores.parquet 1",  # a table without summary
    "0 temporary summary.json 1",
    "0 temporary run.json 2",  # the last note half written
]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_one_of_two_processes_dies_at_a_point_and_takes_the_other_with_it(tmp_path, words_of, undisturbed, point):
    output = tmp_path / "out"
    ended = done(words_of(output), 2, DIES=f"{point} KILL")
    assert ended.code not in (0, 75), ended.text
    assert f"process {point[0]} of 2 ended with 137" in ended.text, "the point was reached"
    n_kept = len(journal.verified(output))
    ended = done(words_of(output), 2)
    assert ended.code == 0, ended.text
    check_whole(output, undisturbed, n_kept)


# SIGTERM.


def stopped(words, output, to):
    """Send SIGTERM to the launcher or to one of two processes, once both have units. -> how it ended"""
    with started(words, 2) as running:
        both = [journal.journal_file(output, process) for process in (0, 1)]
        assert running.wait_until(lambda: all(path.exists() and path.stat().st_size for path in both)), running.text()
        if to == "launcher":
            running.process.send_signal(signal.SIGTERM)
        else:
            running.signal(to, signal.SIGTERM)
        return running.ended()


@pytest.mark.parametrize(
    "to", [1, pytest.param(0, marks=pytest.mark.slow), pytest.param("launcher", marks=pytest.mark.slow)]
)
def test_sigterm_stops_both_processes_after_their_unit(tmp_path, words_of, undisturbed, to):
    output = tmp_path / "out"
    ended = stopped(words_of(output), output, to)
    assert ended.code == 75, ended.text
    for process in (0, 1):
        assert f"process {process} of 2 ended with 75" in ended.text
    n_kept = len(journal.verified(output))
    assert ended.text.count(f"Preempted: Stopped after {n_kept} of {N_UNITS} missing units") == 2
    assert 0 < n_kept < N_UNITS and not list(output.rglob(".*.part")) and "Traceback" not in ended.text
    do(words_of(output))
    check_whole(output, undisturbed, n_kept)


@pytest.mark.slow
def test_sigterm_to_a_process_that_waits_for_the_other_stops_both(tmp_path, words_of, undisturbed):
    """The second process is held at its 20th unit until the first has done its share and got the signal."""
    output = tmp_path / "out"
    with started(words_of(output), 2, DIES="1 unjournalled * 20 STOP") as running:
        assert running.wait_until(lambda: len(journalled(output, 0)) == N_UNITS // 2), running.text()
        time.sleep(1)
        running.signal(0, signal.SIGTERM)
        time.sleep(1)
        running.signal(1, signal.SIGCONT)
        ended = running.ended()
    assert ended.code == 75, ended.text
    n_kept = len(journal.verified(output))
    assert ended.text.count(f"Preempted: Stopped after {n_kept} of {N_UNITS} missing units") == 2
    do(words_of(output))
    check_whole(output, undisturbed, n_kept)


# The finishing passes of a sweep.

SWEEP = """
import json
from pathlib import Path
from jaxalign.commands import composed
from jaxalign.errors import JaxalignError
from jaxalign.runtime.run import Job, execute_all

jobs = [Job(composed.compose(one), Path(output)) for output, one in json.loads(Path(words[0]).read_text())]
for outcome in execute_all(jobs, lambda *_: None):
    if outcome.error is not None:
        print(outcome.error)
        sys.exit(1)
"""

SWEEP_POINTS = [
    (1, "0 temporary scores.parquet 2"),
    (1, "0 renamed finished.json 1"),
    (1, "0 renamed scores.parquet 1"),
    (1, "0 temporary summary.json 2"),
    (2, "0 temporary scores.parquet 2"),
    (2, "0 renamed finished.json 1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("n_processes", "point"), SWEEP_POINTS)
def test_a_sweep_that_dies_while_it_finishes_is_finished_by_the_same_sweep(tmp_path, words_of, n_processes, point):
    """Two jobs with other permutations; whatever was finished stays as it is."""

    def requests(folder):
        return [(folder / f"job{seed}", words_of(folder / f"job{seed}", seed=seed)) for seed in (0, 1)]

    for _, words in requests(tmp_path / "alone"):
        do(words)
    file = tmp_path / "sweep.json"
    jobs = requests(tmp_path / "sweep")
    file.write_text(json.dumps([(str(output), words) for output, words in jobs]))
    ended = done([str(file)], n_processes, main=SWEEP, DIES=f"{point} KILL")
    is_killed = ended.code == -signal.SIGKILL if n_processes == 1 else "process 0 of 2 ended with 137" in ended.text
    assert is_killed, ended.text
    assert all(len(journal.verified(output)) == N_UNITS for output, _ in jobs), "both were in their finishing pass"
    was_finished = [(output / "finished.json").exists() for output, _ in jobs]
    before = [
        (output / "scores.parquet").stat().st_mtime_ns for output, _ in jobs if (output / "finished.json").exists()
    ]
    outcomes = execute_all([Job(composed.compose(words), output) for output, words in jobs], lambda *_: None)
    assert [outcome.error for outcome in outcomes] == [None, None] and not was_finished[1]
    after = [(output / "scores.parquet").stat().st_mtime_ns for output, _ in jobs][: len(before)]
    assert after == before, "what was finished is not finished again"
    for seed, (output, _) in enumerate(jobs):
        assert computed(output)[-1] == 0
        assert makers.table_hash(output) == makers.table_hash(tmp_path / "alone" / f"job{seed}")
        assert not list(output.rglob(".*.part"))
