"""The command line, as a person meets it: verbs, help, exit codes, and what is said of a wrong request."""

import json
import re
import subprocess
import sys
from pathlib import Path

import makers
import pytest

from jaxalign import commands, results
from jaxalign.commands import VERBS, composed, split
from jaxalign.errors import ConfigError, DataError, JaxalignError, PreemptedError, UnitsFailedError
from jaxalign.runtime import run as runtime_run

ROOT = Path(__file__).parents[1]


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


def run_python(*words, cwd):
    command = [sys.executable, "-m", "jaxalign", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


# Verbs and help.


@pytest.mark.parametrize(
    ("words", "verb", "rest"),
    [
        ([], "run", []),
        (["experiment=demo"], "run", ["experiment=demo"]),
        (["run", "experiment=demo"], "run", ["experiment=demo"]),
        (["-m", "seed=0,1"], "run", ["-m", "seed=0,1"]),
        (["+score.rsa=[a]"], "run", ["+score.rsa=[a]"]),
        (["~stimuli"], "run", ["~stimuli"]),
        (["plan", "seed=1"], "plan", ["seed=1"]),
        (["report", "outputs/x"], "report", ["outputs/x"]),
        (["plan", "--help"], "help", ["plan"]),
        (["-h"], "help", []),
    ],
)
def test_first_word_is_a_verb_when_it_has_no_equals_sign(words, verb, rest):
    assert split(words) == (verb, rest)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_module_with_main(verb):
    module = __import__(commands.module_of(verb), fromlist=["main"])
    assert callable(module.main)


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("help",), ("run", "--help"), ("experiment=demo", "--help")])
def test_help_shows_verbs_choices_and_exit_codes(cli, words):
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    for part in (*VERBS, "experiment=demo", "minilm", "ridge_ols", "n400", "pictures", "75 preempted"):
        assert part in out
    assert max(map(len, out.splitlines())) < 160, "a line of help fits on a screen"


def test_models_lists_every_model_and_filters_by_name(cli):
    code, out, _ = cli("models")
    assert code == 0 and len(out.splitlines()) >= 5 and "minilm " in out
    *lines, last = out.splitlines()
    assert all(len(line.split()) > 5 for line in lines), "each model has a description"
    assert last.startswith(f"{len(lines)} of {len(lines)} models.")
    code, out, _ = cli("models", "tiny_")
    *lines, last = out.splitlines()
    assert code == 0 and {line.split()[0] for line in lines} == {"tiny_internvl", "tiny_qwen2_5_vl"}
    code, out, _ = cli("models", "takes=audio", "kind=composite")
    *lines, last = out.splitlines()
    assert code == 0 and len(lines) == 8 and any(line.startswith("ultravox_v0_5_1b ") for line in lines)
    code, _, err = cli("models", "maker=qwen")
    assert code == 2 and "cannot be filtered by 'maker'" in err


def test_models_show_says_all_that_is_known_of_one(cli):
    code, out, _ = cli("models", "show", "qwen2-audio-7b")
    assert code == 0
    for part in ("hub_id: Qwen/Qwen2-Audio-7B", "licence", "model.language_model.layers ", "  32 ", "total: 8.3971"):
        assert part in out, part
    code, _, err = cli("models", "show", "qwen2-audio-8b")
    assert code == 2 and "Nearest: " in err and "qwen2_audio_7b" in err
    code, _, err = cli("models", "show")
    assert code == 2 and "takes one name, and 0 were given" in err


def test_models_check_compares_jax_with_torch(cli):
    code, out, _ = cli("models", "check", "qwen2_audio_7b")
    assert code == 0 and "9 layers agree with torch" in out
    code, _, err = cli("models", "check", "minilm")
    assert code == 2 and "no miniature" in err


def test_a_users_own_model_is_one_file(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXALIGN_CONFIG_DIR", raising=False)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "# @package model.mine\n# LLaVA of our lab.\ndefaults:\n  - schema/network@_here_\n  - architecture/llava@_here_\n"
        f"  - _self_\nname: mine\npath: {tmp_path}/nowhere\n"
    )
    monkeypatch.setenv("JAXALIGN_CONFIG_DIR", str(tmp_path))
    code, out, _ = cli("models", "mine")
    assert code == 0 and "LLaVA of our lab." in out
    code, _, err = cli("extract", "model=[mine]", "stimuli=pictures")
    assert code == 3 and f"{tmp_path}/nowhere, which does not exist" in err
    monkeypatch.delenv("JAXALIGN_CONFIG_DIR")
    code, _, err = cli("extract", "--config-dir", str(tmp_path), "model=[mine]", "stimuli=pictures")
    assert code == 3 and "nowhere" in err
    monkeypatch.setenv("JAXALIGN_CONFIG_DIR", f"{tmp_path}/gone")
    code, _, err = cli("models")
    assert code == 2 and "gone is no folder" in err


# Wrong requests: exit code 2, a sentence, the nearest names.

N400 = ("dataset=n400", "model=[fas]")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plann",), r"'plann' is no verb.*Nearest: plan\."),
        (("runn", "experiment=demo"), r"'runn' is no verb.*Nearest: run\."),
        (("modle=minilm",), r"no option or group 'modle'\. Nearest: model\b"),
        (("model=[minlm]",), r"no model 'minlm'\. Nearest: minilm"),
        (("model=[fas,minlm]",), r"no model 'minlm'\. Nearest: minilm"),
        (("metric=[rsaa]",), r"no metric 'rsaa'\. Nearest: rsa"),
        (("dataset=n40",), r"no dataset 'n40'\. Nearest: n400\."),
        (("stimuli=picture",), r"no stimuli 'picture'\. Nearest: pictures\."),
        (("experiment=dmo",), r"no experiment 'dmo'\. Nearest: demo\."),
        (("experiment=demo", "dataset.efect=0"), r"no option 'dataset\.efect'.*Nearest: effect\b"),
        (("dataset.efect=0",), r"no option or group 'dataset\.efect'\. Nearest: dataset\.effect\b"),
        ((*N400, "metric=[rsa]", "metric.rsa.n_permutation=5"), r"'metric\.rsa\.n_permutation'.*Nearest: n_permutations"),
        ((*N400, "metric=[rsa_pearson]", "metric.rsa_pearson.n_fold=5"), r"Nearest: n_folds"),
        (("metric.rsa.n_permutation=5",), r"Nearest: metric\.rsa\.n_permutations"),
        (("experiment=demo", "model.tiny_internvl.polling=[cls]"), r"Nearest: pooling"),
        (("experiment=demo", "mesh.fitt=3"), r"Nearest: fit\b"),
        (("experiment=demo", "hydra.swep.dir=x"), r"no option or group 'hydra\.swep\.dir'"),
        (("experiment=demo", "~datset"), r"no option or group 'datset'\. Nearest: dataset"),
        (("experiment=demo", "dataset.names={a: 1}"), r"no option 'dataset\.names' in what is chosen \(SimulatedEeg\)"),
        (("experiment=demo", "+foo=3"), r"no option 'foo'"),
        (("experiment=demo", "+dataset.efect=3"), r"no option 'dataset\.efect'\. Nearest: effect"),
        (("experiment=demo", "+mesh.fitt=3"), r"no option 'mesh\.fitt'\. Nearest: fit"),
        (("experiment=demo", "score.ridge=[x]"), r"\+score\.ridge="),
        (("experiment=demo", "+score.ridge=[tiny_intern]"), r"'tiny_intern'.*Nearest: tiny_internvl"),
        (("experiment=demo", "+score.rigde=[tiny_internvl]"), r"'rigde'.*Nearest: ridge"),
        (("experiment=demo", "dataset=n400"), r"'dataset\.n_subjects' in what is chosen \(MneEpochs\)"),
        (("experiment=demo", "dataset.plants=[{chanels:[Pz]}]"), r"'chanels'.*Nearest: channels"),
        (("experiment=demo", "null.n_permutations=9"), r"'null\.n_permutations': .* written n_permutations=VALUE"),
        (("seed=abc",), r"seed=abc does not fit: Value 'abc'"),
        (("experiment=demo", "mesh.fit=all"), r"mesh\.fit=all does not fit: Value 'all'"),
        (("experiment=demo", "metric.ridge.n_outer=few"), r"metric\.ridge\.n_outer=few does not fit: Value 'few'"),
        (("report=maybe",), r"report=maybe does not fit: Value 'maybe'"),
        (("experiment=demo", "seed"), r"'seed' cannot be read\. Options are written name=value"),
        (("experiment=demo", "output=a{b"), r"'output=a\{b' cannot be read"),
        (("model=minilm,fas",), r"model=minilm,fas.*multirun"),
        ((), r"No dataset is chosen: add dataset=n400"),
        (("dataset=n400",), r"No model is chosen: add model="),
        (N400, r"No metric is chosen: add metric="),
        (("experiment=demo", "~dataset"), r"No dataset is chosen"),
        (("experiment=demo", "metric.ridge.alphas=many"), r"alphas='many': write auto, or given"),
        ((*N400, "metric=[rsa]", "metric.rsa.comparator=kendal"), r"comparator='kendal' is not known. Nearest: kendall"),
        (("experiment=demo", "stimuli.n_stimuli=2"), r"n_stimuli=2.*at least 4 stimuli"),
        (("experiment=demo", "dataset.effect=-1"), r"dataset\.effect=-1.*0 or larger"),
        (("experiment=demo", "precision=low"), r"precision='low': only highest"),
        (("report",), r"needs the output folder"),
    ],
)  # fmt: skip
def test_wrong_request_exits_2_with_a_sentence(cli, words, says):
    code, out, err = cli(*words)
    assert code == 2 and out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("Configuration error: ")]
    assert re.search(says, line), line
    assert len(line) < 500, "a sentence, not a listing"


@pytest.mark.parametrize("words", [("plan", "experiment=dmo"), ("plan", "modle=fas"), ("plan", "seed=abc")])
def test_plan_explains_as_run_does(cli, words):
    code, _, err = cli(*words)
    run_code, _, run_err = cli("run", *words[1:])
    assert (code, err) == (run_code, run_err) and code == 2


def test_wrong_request_leaves_nothing_behind(cli, tmp_path):
    cli("experiment=dmo")
    cli("plan", "experiment=demo", "dataset.efect=0")
    assert list(tmp_path.iterdir()) == []


# Exit codes.


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (ConfigError, 2, "Configuration error"),
        (DataError, 3, "Data error"),
        (UnitsFailedError, 4, "Some units failed"),
        (PreemptedError, 75, "Preempted"),
        (JaxalignError, 1, "Error"),
    ],
)
def test_each_error_has_its_exit_code(cli, monkeypatch, error, code, word):
    def fail(arguments):
        raise error("what was found, and what to do")

    monkeypatch.setattr("jaxalign.commands.models.main", fail)
    assert cli("models") == (code, "", f"{word}: what was found, and what to do\n")


def test_a_failed_unit_exits_4_and_leaves_the_rest(cli, tmp_path, monkeypatch):
    """A unit that stays undefined, also with the rescue solver, is marked; the other units are written."""
    of_unit = runtime_run.rows.of_unit

    def undefined(scores, maxima, place, unit, *args, **kwargs):
        part = of_unit(scores, maxima, place, unit, *args, **kwargs)
        return part._replace(value=part.value * float("nan"), why_failed="as told") if unit.fit == 0 else part

    monkeypatch.setattr(runtime_run.rows, "of_unit", undefined)
    code, _, err = cli(*makers.rdm_request(tmp_path, **{"mesh.fits_per_call": 1}))
    assert code == 4
    assert re.search(r"Some units failed: 1 of 3 units have no result, first rsa-\w+: model0", err)
    scores = results.load(tmp_path / "out")
    failed = scores[scores["status"] == "failed"]
    assert set(failed["model"]) == {"model0"} and failed["value"].isna().all() and failed["p"].isna().all()
    assert scores["p_corrected"].isna().all() and not scores["family_complete"].any(), "the family is not complete"
    assert scores[scores["model"] != "model0"]["value"].notna().all()


def test_missing_data_exits_3(cli):
    code, _, err = cli(*N400, "metric=[correlation]", "dataset.path=absent-epo.fif")
    assert code == 3
    assert re.search(r"Data error: The file absent-epo\.fif was not found\. Looked for .*JAXALIGN_DATA", err)


def test_tasks_raise_and_never_exit():
    """No module below the command line ends the process by itself."""
    for path in (ROOT / "jaxalign").rglob("*.py"):
        # An ordinary exit of one of several processes waits minutes for the others: dist has the one way out.
        if path.name not in ("__main__.py", "dist.py"):
            assert not re.search(r"\b(sys\.exit|os\._exit|SystemExit|quit\()", path.read_text(encoding="utf-8")), path


# Runs.


def test_run_prints_the_answer_and_where_it_is(cli, tmp_path):
    code, out, err = cli(*makers.eeg_request(tmp_path))
    assert code == 0
    assert "Correlation with single features, Pearson r" in out and "Pz" in out
    assert f"Table: {tmp_path / 'out' / 'scores.parquet'}" in out and "Report:" not in out
    assert re.search(r"score correlation: \d+%", err), "progress in lines where there is no terminal"
    scores = results.load(tmp_path / "out")
    assert len(scores) == 2 * 4 * 6 and set(scores["layer"]) == {"frequency", "length"}


def test_plan_shows_units_and_bytes_and_writes_nothing(cli, tmp_path):
    code, out, _ = cli("plan", *makers.eeg_request(tmp_path))
    assert code == 0
    assert re.search(r"6 units, 1 subjects, 24 stimuli", out)
    assert re.search(r"correlation: 2 fits x 24 targets in 3 tiles of 1x8", out) and "GiB per device" in out
    assert not (tmp_path / "out").exists() and not (tmp_path / "outputs").exists()


def test_report_verb_writes_the_report_of_a_finished_run(cli, tmp_path):
    assert cli(*makers.rdm_request(tmp_path))[0] == 0
    assert not (tmp_path / "out" / "report.html").exists()
    code, out, _ = cli("report", tmp_path / "out")
    assert code == 0 and out.strip() == str(tmp_path / "out" / "report.html")
    assert "model1" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_report_of_no_run_exits_3(cli, tmp_path):
    code, _, err = cli("report", tmp_path / "nothing")
    assert code == 3 and "nothing" in err


# Sweeps with plain Hydra.


def test_sweep_gives_one_folder_per_job(cli, tmp_path):
    words = makers.eeg_request(tmp_path, output=None, name="tiny")
    code, out, _ = cli("-m", *words, "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}")
    assert code == 0 and out.count("Table: ") == 2
    requests = [json.loads((tmp_path / "sweep" / job / "run.json").read_text())["request"] for job in "01"]
    assert [request["seed"] for request in requests] == [0, 1]
    first, second = (makers.table_hash(tmp_path / "sweep" / job) for job in "01")
    assert first != second


def test_sweep_names_its_folders_by_what_differs(cli, tmp_path):
    """The shipped sweep folder, without any hydra.* option: no two jobs share a folder."""
    words = makers.eeg_request(tmp_path, output=None, name="tiny")
    assert cli("-m", *words, "seed=0,1")[0] == 0
    found = sorted(path.parent for path in tmp_path.rglob("run.json"))
    assert len(found) == 2 and all(folder.is_relative_to(tmp_path / "outputs" / "tiny-sweep") for folder in found)
    assert sorted(json.loads((folder / "run.json").read_text())["request"]["seed"] for folder in found) == [0, 1]


def test_sweep_runs_later_jobs_when_one_fails(cli, tmp_path):
    """Under Hydra's basic launcher every job runs, then the first failure decides the exit code."""
    words = makers.eeg_request(tmp_path, output=None, **{"model.fas.columns": None})
    sweep = ["hydra/launcher=basic", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}"]
    code, _, err = cli("-m", *words, "model.fas.columns=[nosuch],[length]", *sweep)
    assert code == 3 and "no metadata column 'nosuch'" in err
    assert not (tmp_path / "sweep" / "0" / "scores.parquet").exists()
    assert set(results.load(tmp_path / "sweep" / "1")["layer"]) == {"length"}


def test_hydra_is_left_as_it_was(cli, tmp_path, monkeypatch):
    """A failed request disturbs neither the next one nor the caller's arguments and environment."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    assert cli("experiment=dmo")[0] == 2
    assert cli("plan", *makers.eeg_request(tmp_path))[0] == 0
    assert sys.argv == before and "HYDRA_FULL_ERROR" not in composed.os.environ


# The program itself.


def test_python_m_jaxalign_is_the_command(tmp_path):
    done = run_python("experiment=dmo", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "Configuration error: There is no experiment 'dmo'. Nearest: demo.\n"


def test_program_runs_in_an_empty_folder(tmp_path):
    done = run_python(*makers.eeg_request(tmp_path, output="out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr
    assert len(results.load(tmp_path / "out")) == 48
