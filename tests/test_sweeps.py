"""Sweeps: one plan for all jobs under our launcher, the same tables under every other, and what is said when jobs fail."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import makers
import pytest
import yaml

from jaxalign import commands, config, errors, results
from jaxalign.commands.composed import compose
from jaxalign.runtime import run as runtime_run

FOLDERS = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}")
TWO_BY_TWO = ("model.fas.columns=[frequency],[length]", "seed=0,1")
JOBS = [(column, seed) for column in ("frequency", "length") for seed in (0, 1)]

# A sweeper as optimisers are: several batches, and a look at the value of each job.
SWEEPER = """
import json
from pathlib import Path
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Curious(Sweeper):
    def setup(self, **given):
        self.launcher = Plugins.instance().instantiate_launcher(**given)

    def sweep(self, arguments):
        seen = []
        for first, seeds in ((0, (0, -1)), (2, (1,))):
            for job in self.launcher.launch([[*arguments, f"seed={seed}"] for seed in seeds], first):
                try:
                    seen.append([job.status.name, job.hydra_cfg.hydra.job.num, job.return_value])
                except Exception as error:
                    seen.append([job.status.name, job.hydra_cfg.hydra.job.num, str(error)])
        Path("seen.json").write_text(json.dumps(seen))

node = {"_target_": "hydra_plugins.curious_sweeper.Curious"}
ConfigStore.instance().store(group="hydra/sweeper", name="curious", node=node, provider="test")
"""


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command in an empty folder. -> function of words giving (exit code, standard output, standard error)"""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = commands.main([str(word) for word in words])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return code, printed.out, printed.err

    return call


@pytest.fixture
def words(tmp_path):
    """The tiny request, without the options that the sweeps vary."""
    return makers.eeg_request(tmp_path, output=None, name="tiny", **{"model.fas.columns": None})


def run_python(*words, cwd, path=""):
    command = [sys.executable, "-m", "jaxalign", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def hashes(folder, n_jobs):
    return [makers.table_hash(folder / str(job)) for job in range(n_jobs)]


# Our launcher.


def test_launcher_is_listed_and_costs_no_jax(tmp_path):
    shown = run_python("--info", "plugins", cwd=tmp_path)
    assert shown.returncode == 0 and "JaxalignLauncher" in shown.stdout
    plugins = Path(config.__file__).parent / "_plugins"
    look = "import sys, hydra_plugins.jaxalign_launcher.launcher; print('jax' in sys.modules)"
    alone = [sys.executable, "-c", look]
    done = subprocess.run(alone, env={**os.environ, "PYTHONPATH": str(plugins)}, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_other_flags_of_hydra_reach_hydra(tmp_path):
    shown = run_python("experiment=demo", "--cfg", "hydra", cwd=tmp_path)
    assert shown.returncode == 0 and "hydra_plugins.jaxalign_launcher.launcher.JaxalignLauncher" in shown.stdout
    assert "Hydra" in run_python("--hydra-help", cwd=tmp_path).stdout


def test_sweep_is_one_plan_and_each_table_is_that_of_the_job_alone(cli, words, tmp_path, monkeypatch):
    calls = []
    execute_all = runtime_run.execute_all
    monkeypatch.setattr(
        runtime_run, "execute_all", lambda jobs, show: calls.append(len(jobs)) or execute_all(jobs, show)
    )
    code, out, _ = cli("-m", *words, *TWO_BY_TWO, *FOLDERS)
    assert code == 0 and out.count("Table: ") == 4 and calls == [4]
    for job, (column, seed) in enumerate(JOBS):
        kept = {path.name: yaml.safe_load(path.read_text()) for path in (tmp_path / f"sweep/{job}/.hydra").iterdir()}
        assert set(kept) == {"config.yaml", "hydra.yaml", "overrides.yaml"}
        assert {f"seed={seed}", f"model.fas.columns=[{column}]"} <= set(kept["overrides.yaml"])
        assert kept["config.yaml"]["seed"] == seed and kept["hydra.yaml"]["hydra"]["job"]["num"] == job
        alone = tmp_path / f"alone{job}"
        assert cli(*words, f"seed={seed}", f"model.fas.columns=[{column}]", f"output={alone}")[0] == 0
        assert makers.table_hash(alone) == makers.table_hash(tmp_path / f"sweep/{job}")


def test_maps_can_be_swept(cli, words, tmp_path):
    raw = [word for word in words if not word.startswith(("dataset=", "dataset.feature_columns"))]
    given = [
        "dataset=mne_raw",
        *raw,
        "dataset.steps=[]",
        "model.fas.columns=[frequency]",
        "dataset.event_names={1: a},{1: b}",
    ]
    code, out, err = cli("-m", *given, *FOLDERS)
    assert code == 0 and out.count("Table: ") == 2, err
    for job, name in enumerate("ab"):
        found = yaml.safe_load((tmp_path / f"sweep/{job}/.hydra/config.yaml").read_text())
        assert found["dataset"]["event_names"] == {1: name}
        request = json.loads((tmp_path / f"sweep/{job}/run.json").read_text())
        assert f"'event_names': {{'1': '{name}'}}" in str(request)


def test_tables_of_a_sweep_load_as_one(cli, words, tmp_path):
    assert cli("-m", *words, *TWO_BY_TWO, *FOLDERS)[0] == 0
    rows = results.load(tmp_path / "sweep", columns=["layer", "value"], where={"layer": "length"})
    assert list(rows) == ["layer", "value", "job"] and set(rows["job"]) == {"2", "3"}
    alone = results.load(tmp_path / "sweep" / "3")["value"]
    assert rows.loc[rows["job"] == "3", "value"].to_numpy() == pytest.approx(alone.to_numpy(), nan_ok=True)
    (tmp_path / "sweep" / "1" / "scores.parquet").unlink()
    with pytest.raises(errors.DataError, match="1 of 4 jobs are not finished, first 1"):
        results.load(tmp_path / "sweep")


def test_same_sweep_again_computes_nothing(cli, words, tmp_path):
    """Without any hydra.* option: the folders have names without a clock, and options that change no result name none."""
    assert cli("-m", *words, *TWO_BY_TWO)[0] == 0
    folders = sorted(path.parent for path in (tmp_path / "outputs" / "tiny-sweep").glob("*/run.json"))
    before = [makers.table_hash(folder) for folder in folders]
    assert cli("-m", *words, *TWO_BY_TWO, "profile=none", "dist.process_id=0", "mesh.memory_gib=1")[0] == 0
    assert sorted(path.parent for path in tmp_path.rglob("run.json")) == folders and len(folders) == 4
    assert [makers.table_hash(folder) for folder in folders] == before
    for folder in folders:
        sessions = json.loads((folder / "run.json").read_text())["sessions"]
        assert sessions[-1]["units_computed"] == 0 < sessions[0]["units_computed"]


def test_failed_jobs_are_listed_and_the_others_finish(cli, words, tmp_path):
    """A file that is not there, and a request that means nothing: known at different moments, told at one."""
    sweep = ("dataset.path=absent-epo.fif,tiny-epo.fif", "seed=0,-1", "model.fas.columns=[length]")
    code, out, err = cli("-m", *words, *sweep, *FOLDERS)
    assert code == 4 and out.count("Table: ") == 1
    listed = err[err.index("3 of 4 jobs failed:") :]
    assert re.search(
        r"^ +0  dataset\.path=absent-epo\.fif seed=0 +The file absent-epo\.fif was not found", listed, re.M
    )
    assert re.search(r"^ +1  dataset\.path=absent-epo\.fif seed=-1 +seed=-1: a whole number from 0", listed, re.M)
    assert re.search(r"^ +3  dataset\.path=tiny-epo\.fif seed=-1 +seed=-1: a whole number from 0", listed, re.M)
    assert listed.splitlines()[-1].startswith("Some units failed: 3 of 4 jobs failed")
    assert set(results.load(tmp_path / "sweep" / "2")["layer"]) == {"length"}
    assert (tmp_path / "sweep" / "0" / ".hydra" / "overrides.yaml").exists(), "a failed job can be looked up, too"


@pytest.mark.parametrize(
    ("sweep", "code", "says"),
    [
        (("seed=0,1", "dataset.path=absent-epo.fif"), 3, "Data error: All 2 jobs failed. The first: The file absent"),
        (("seed=-1,-2",), 2, "Configuration error: All 2 jobs failed. The first: seed=-1"),
        (("seed=-1,0", "dataset.path=absent-epo.fif"), 4, "Some units failed: 2 of 2 jobs failed"),
        (("seed=-1",), 2, "Configuration error: seed=-1: a whole number"),
        (("seed=0,1", "hydra.sweep.subdir=same"), 4, "Jobs 0 and 1 have the same folder"),
        (("seed=0,x",), 2, "Configuration error: seed=x does not fit: Value 'x'"),
        (("model=[fas],[fass]",), 2, "Configuration error: There is no model 'fass'. Nearest: fas."),
        (("sed=0,1",), 2, "Configuration error: There is no option or group 'sed'. Nearest: seed"),
        (("seed=0,1", "hydra/launcher=jaxalig"), 2, "jaxalig"),
    ],
)
def test_failed_sweep_has_the_exit_code_of_its_jobs(cli, words, sweep, code, says):
    found, _, err = cli("-m", *words, "model.fas.columns=[length]", *FOLDERS, *sweep)
    assert found == code and says in err


def test_stopped_sweep_exits_75(cli, words, monkeypatch):
    def stop(jobs, show):
        raise errors.PreemptedError("Stopped, as asked.")

    monkeypatch.setattr(runtime_run, "execute_all", stop)
    assert cli("-m", *words, *TWO_BY_TWO, *FOLDERS)[0] == 75


def test_processes_of_one_sweep_end_alike_and_one_writes(words, tmp_path):
    """Two processes with one command: the same exit code, and .hydra/ only from the first."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    request = (*words, "model.fas.columns=[length]", "seed=0,-1", *FOLDERS)
    names = {"JAXALIGN_COORDINATOR": coordinator, "JAXALIGN_N_PROCESSES": "2", "XLA_FLAGS": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "jaxalign", "-m", *request],
            cwd=tmp_path,
            env={**os.environ, **names, "JAXALIGN_PROCESS_ID": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in (0, 1)
    ]
    printed = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [4, 4], printed
    assert [text.count("Table: ") for text in printed] == [1, 0]
    assert all("1 of 2 jobs failed:" in text for text in printed)
    assert (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").exists()


def test_sweepers_get_the_value_of_each_job(words, tmp_path):
    """Reading the value of a failed job raises its error, as Hydra promises; the exit code still tells of it."""
    plugin = tmp_path / "path" / "hydra_plugins" / "curious_sweeper.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(SWEEPER, encoding="utf-8")
    request = (*words, "model.fas.columns=[frequency,length]", "hydra/sweeper=curious", *FOLDERS)
    done = run_python("-m", *request, cwd=tmp_path, path=tmp_path / "path")
    assert done.returncode == 4, done.stderr
    first, second, third = json.loads((tmp_path / "seen.json").read_text())
    assert [first[:2], second[:2], third[:2]] == [["COMPLETED", 0], ["FAILED", 1], ["COMPLETED", 2]]
    assert first[2].keys() == {"correlation/pearson_r"} and 0 < first[2]["correlation/pearson_r"] <= 1
    assert second[2].startswith("seed=-1: a whole number") and "1 of 3 jobs failed:" in done.stderr


# Other launchers.


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the tables of two jobs under our launcher. -> (folder, words, hashes)"""
    folder = tmp_path_factory.mktemp("two")
    words = [*makers.eeg_request(folder, output=None, name="tiny"), "seed=0,1", FOLDERS[1]]
    assert commands.main(["-m", *words, f"hydra.sweep.dir={folder / 'ours'}"]) == 0
    return folder, words, hashes(folder / "ours", 2)


@pytest.mark.parametrize("launcher", ["basic", "joblib", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_every_launcher_gives_the_same_tables(two, launcher):
    """joblib and submitit start processes of their own, which must find plugins and schemas again."""
    folder, words, expected = two
    more = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    choice = [f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder / launcher}", *more]
    done = run_python("-m", *words, *choice, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert hashes(folder / launcher, 2) == expected
    assert (folder / launcher / "1" / ".hydra" / "overrides.yaml").exists()


# Names and values.


def test_short_names_stay_and_long_ones_end_in_a_hash():
    assert config.folder_name("model=[a],seed=1") == "model=[a],seed=1"
    long = ",".join(f"option{index}=value" for index in range(40))
    found, other = config.folder_name(long), config.folder_name(long + "1")
    assert found != other and found.startswith("option0=value,option1=") and len(found) == config.LONGEST_NAME
    assert re.search(r"-[0-9a-f]{12}$", found)
    assert len(config.folder_name("ß" * 300).encode()) <= config.LONGEST_NAME


def test_paths_in_options_make_no_nested_folders():
    """ "dataset.path=../../x" as a folder name would lead out of the sweep."""
    assert config.folder_name("dataset.path=../../x").startswith("dataset.path=.._.._x-")
    assert config.folder_name("dataset.path=a/b") != config.folder_name("dataset.path=a_b")


WHOLE = ("dataset=n400", "model=[fas]", "metric=[correlation]")


@pytest.mark.parametrize(
    ("word", "subjects"),
    [
        ("subject=null", None),
        ("subject=", None),
        ("subject=[]", None),
        ("subject=1", ("1",)),
        ("subject=01", ("01",)),
        ("subject=sub-01", ("sub-01",)),
        ("subject=[1,sub-02]", ("1", "sub-02")),
    ],
)
def test_subjects_become_names(word, subjects):
    assert compose([*WHOLE, word]).subject == subjects


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("subject=1.5", r"subject=1\.5 holds 1\.5: give names or numbers"),
        ("subject=[1,true]", r"holds True"),
        ("subject={a:1}", r"give names or numbers"),
        ("profile=perfetto", r"profile='perfetto' is unknown\. Known: none, trace"),
        ("dist.mode=of", r"dist\.mode='of' is unknown\. Nearest: off"),
        ("dist=of", r"no dist 'of'\. Nearest: off"),
        ("dist.n_processes=0", r"dist\.n_processes=0: a whole number from 1"),
        ("dist.process_id=-1", r"dist\.process_id=-1: a whole number from 0"),
        ("dist.heartbeat_timeout_s=0", r"dist\.heartbeat_timeout_s=0: a whole number from 1"),
        ("dist.proces_id=1", r"Nearest: process_id"),
    ],
)
def test_wrong_words_are_refused(word, says):
    with pytest.raises(errors.ConfigError, match=says):
        compose([*WHOLE, word])
