"""launch/: what its scripts would run, with fakes of the commands they call, and what its files must keep true."""

import json
import math
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted((*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")))
SBATCH = sorted(LAUNCH.rglob("*.sbatch"))
OVERLAYS = ("tpu-v5e", "tpu-v6e", "gpu")
PER_TASK, PER_NODE = LAUNCH / "slurm" / "gpu_per_task.sbatch", LAUNCH / "slurm" / "gpu_per_node.sbatch"

# Says its arguments and settings in a file, and ends as the variables of the test say.
FAKE_JAXALIGN = """#!{python} -S
import json, os, signal, sys, time
me = os.environ.get("JAXALIGN_PROCESS_ID", "0")
folder = os.environ["RECORDS"]
names = ("JAXALIGN_COORDINATOR", "JAXALIGN_N_PROCESSES", "JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS")
record = {{"arguments": sys.argv[1:], "settings": {{name: os.environ.get(name) for name in names}}}}
stopped = []
signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
with open(f"{{folder}}/process-{{me}}.part", "w") as file:
    json.dump(record, file)
os.rename(f"{{folder}}/process-{{me}}.part", f"{{folder}}/process-{{me}}.json")
print("process", me, "speaks", flush=True)
deadline = time.monotonic() + 20
while os.environ.get("WAIT") and not stopped and time.monotonic() < deadline:
    time.sleep(0.02)
time.sleep(0.2 if stopped else 0)
codes = os.environ.get("CODES", "0").split()
sys.exit(75 if stopped else int(codes[int(me) % len(codes)]))
"""

# Writes its arguments, one call a line, then does what the file of its name in $ANSWERS says at this call.
FAKE_COMMAND = """#!/usr/bin/env bash
name=$(basename "$0")
printf '%s' "$name" >>"$RECORDS/calls"
printf ' %s' "$@" >>"$RECORDS/calls"
echo >>"$RECORDS/calls"
[[ -f $RECORDS/answer.$name ]] && source "$RECORDS/answer.$name"
exit 0
"""


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A folder for what fakes record; gcloud, srun, scancel and scontrol are fakes, jaxalign is one as well."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gcloud", "srun", "scancel", "scontrol"):
        executable(programs / name, FAKE_COMMAND)
    executable(programs / "jaxalign", FAKE_JAXALIGN.format(python=sys.executable))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORDS", str(tmp_path))
    monkeypatch.setenv("JAXALIGN", "jaxalign")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=8")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAXALIGN_")):
            monkeypatch.delenv(name)
    return tmp_path


def executable(path, text):
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def script(path, *words, timeout=30):
    return subprocess.run(["bash", str(path), *words], capture_output=True, text=True, timeout=timeout)


def calls(records):
    file = records / "calls"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def wait_until(condition, timeout=10):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Every script.


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_stop_at_the_first_error(path):
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).stderr == b""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# ") and "\nset -euo pipefail\n" in text and "--dry-run" in text


def test_there_are_scripts_for_the_machines_of_the_readme():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in SCRIPTS] == ["local.sh", "gpu_per_node.sbatch", "gpu_per_task.sbatch", "tpu_vm.sh"]
    for path in LAUNCH.rglob("*"):
        if path.is_file() and path.name != "README.md" and "k8s" not in path.parts:
            suffix = path.name.removeprefix("Dockerfile")
            assert suffix in text, path
    for overlay in OVERLAYS:
        assert f"k8s/overlays/{overlay}" in text


def test_the_readme_and_the_errors_know_the_same_exit_codes():
    from jaxalign import errors

    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    known = {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")} - {1}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == known | {0}


@pytest.mark.parametrize("path", [path for path in LAUNCH.rglob("*") if path.is_file()], ids=lambda path: path.name)
def test_no_file_names_a_project_a_registry_or_a_home(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"pypi|pkg\.dev|gcr\.io|docker\.io|ghcr|/home/(?!jaxalign)|--project=[a-z]", text)


# local.sh.


def local(records, *words, **environment):
    logs = records / "logs"
    environment = {**os.environ, **environment}
    command = ["bash", str(LAUNCH / "local.sh"), "-l", str(logs), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)


def test_local_starts_processes_that_know_each_other(records):
    done = local(records, "-n", "3", "-d", "4", "--", "experiment=demo", "name=two words")
    assert done.returncode == 0, done.stderr
    found = [json.loads((records / f"process-{index}.json").read_text()) for index in range(3)]
    coordinators = {one["settings"].pop("JAXALIGN_COORDINATOR") for one in found}
    assert len(coordinators) == 1 and re.fullmatch(r"127\.0\.0\.1:\d+", coordinators.pop())
    for one in found:
        assert one["arguments"] == ["experiment=demo", "name=two words"]
        assert one["settings"].pop("XLA_FLAGS").split() == ["--xla_a=1"]
        assert one["settings"] == {"JAXALIGN_N_PROCESSES": "3", "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    assert done.stdout == "process 0 speaks\n"
    assert (records / "logs" / "process-2.log").read_text() == "process 2 speaks\n"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [("0 0", 0), ("0 75", 75), ("75 75", 75), ("75 2", 2), ("4 3", 4), ("0 134", 134), ("134 2", 2), ("137 134", 137)],
)
def test_local_ends_with_the_code_that_says_most(records, codes, expected):
    done = local(records, "-n", "2", "--", "x", CODES=codes)
    assert done.returncode == expected
    for index, code in enumerate(codes.split()):
        assert (f"process {index} of 2 ended with {code}" in done.stderr) == (code != "0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on_and_waits(records, number):
    # Tests that a script starts in the background are born deaf to SIGINT, and so would their children be. A Popen that
    # changed this by preexec_fn would fork, and JAX warns of forks.
    hears = (
        f"import os, signal, sys; signal.signal({int(number)}, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-S", "-c", hears, "bash", str(LAUNCH / "local.sh"), "-n", "2", "-l"]
    command += [str(records / "logs"), "--", "x"]
    process = subprocess.Popen(command, env={**os.environ, "WAIT": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: all((records / f"process-{index}.json").exists() for index in range(2)))
    process.send_signal(number)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 75, errors
    assert errors.count(b"ended with 75") == 2


def test_local_prints_what_it_would_run(records):
    done = local(records, "-n", "2", "--dry-run", "--", "name=two words")
    settings = "JAX_NUM_CPU_DEVICES=1 JAX_PLATFORMS=cpu jaxalign name=two\\ words"
    named = "env JAXALIGN_COORDINATOR=127.0.0.1:PORT JAXALIGN_N_PROCESSES=2 JAXALIGN_PROCESS_ID="
    assert done.stdout.splitlines() == [
        f"{named}0 {settings}",
        f"{named}1 {settings} >{records}/logs/process-1.log 2>&1",
    ]
    assert done.returncode == 0 and not list(records.glob("*.json")) and not (records / "logs").exists()


def test_local_takes_the_jaxalign_of_the_checkout_first(records):
    own = Path(__file__).parents[1] / ".venv" / "bin" / "jaxalign"
    environment = {name: value for name, value in os.environ.items() if name != "JAXALIGN"}
    command = ["bash", str(LAUNCH / "local.sh"), "-n", "1", "--dry-run", "--", "x"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f" {own if own.exists() else 'jaxalign'} x\n")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "-n ''"),
        (("-n", "0"), "-n '0'"),
        (("-n",), "-n needs a value"),
        (("-n", "2", "-d", "x"), "-d 'x'"),
        (("-n", "2", "experiment=demo"), "unknown option experiment=demo"),
    ],
)
def test_local_says_what_is_wrong(records, words, found):
    done = script(LAUNCH / "local.sh", *words)
    assert done.returncode == 2 and found in done.stderr


# tpu_vm.sh.

TPU = ("--name", "brain", "--zone", "z1", "--type", "v6e-16", "--version", "v2-alpha-tpuv6e", "--poll", "0")
RESOURCES = "gcloud compute tpus queued-resources"
CREATE = (
    f"{RESOURCES} create brain --node-id=brain --zone=z1 --accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e"
)
DESCRIBE = f"{RESOURCES} describe brain --zone=z1 --format=value(state.state)"
DELETE = f"{RESOURCES} delete brain --zone=z1 --force --quiet"

# The states of the request, one a look, the last for ever; workers end with the codes of the file, one a run.
ANSWER = """
next() { head -n 1 "$RECORDS/$1"; (($(wc -l <"$RECORDS/$1") == 1)) || sed -i 1d "$RECORDS/$1"; }
case "$*" in
  *describe*) state=$(next states); [[ $state != ABSENT ]] || exit 1; echo "$state" ;;
  *experiment=demo*) code=$(next codes); echo "jaxalign-exit-code=$code"; ((code == 0)) || exit 1 ;;
esac
"""


def tpu(records, *words, states="ACTIVE", codes="0"):
    (records / "answer.gcloud").write_text(ANSWER, encoding="utf-8")
    for name, values in (("states", states), ("codes", codes)):
        (records / name).write_text("\n".join(values.split()) + "\n", encoding="utf-8")
    return script(LAUNCH / "tpu_vm.sh", *words)


def test_tpu_up_asks_again_until_the_machines_are_there(records):
    states = "ABSENT WAITING_FOR_RESOURCES SUSPENDED PROVISIONING FAILED ACTIVE"
    done = tpu(records, "up", *TPU, "--spot", states=states)
    assert done.returncode == 0, done.stderr
    again = [DESCRIBE, DELETE, f"{CREATE} --spot"]
    assert calls(records) == [DESCRIBE, f"{CREATE} --spot", DESCRIBE, *again, DESCRIBE, *again, DESCRIBE]


def test_tpu_up_gives_up(records):
    done = tpu(records, "up", *TPU, "--retries", "2", states="FAILED")
    assert done.returncode == 1 and "FAILED after 2 retries" in done.stderr
    assert calls(records).count(CREATE) == 2


def runs(records):
    return sum(" ssh " in call and "experiment=demo" in call for call in calls(records))


def test_tpu_run_resumes_when_preempted(records):
    # Looks: up; after the first run (gone, twice), up again; after the second (here, twice), up; the third is done.
    states = "ACTIVE SUSPENDED SUSPENDED ACTIVE ACTIVE"
    done = tpu(records, "run", *TPU, "--", "experiment=demo", states=states, codes="134 75 0")
    assert done.returncode == 0, done.stderr + done.stdout
    assert runs(records) == 3 and calls(records).count(DELETE) == 1 and calls(records).count(CREATE) == 1


@pytest.mark.parametrize(("codes", "expected", "n_runs"), [("2", 2, 1), ("75 4", 4, 2), ("75", 75, 3)])
def test_tpu_run_ends_with_the_code_of_jaxalign(records, codes, expected, n_runs):
    done = tpu(records, "run", *TPU, "--retries", "2", "--", "experiment=demo", codes=codes)
    assert done.returncode == expected, done.stderr
    assert runs(records) == n_runs


def test_tpu_prints_what_it_would_run(records):
    done = tpu(
        records, "run", *TPU, "--project", "mine", "--setup", "mount it", "--dry-run", "--", "experiment=demo", "a=b c"
    )
    where = ["--zone=z1", "--project=mine"]
    over, all_workers = ["gcloud", "compute", "tpus", "tpu-vm"], [*where, "--worker=all", "--quiet"]
    install = (
        "set -e; mkdir -p jaxalign; tar -xzf jaxalign.tar.gz -C jaxalign; cd jaxalign; make setup; "
        ".venv/bin/python -m pip install --quiet --constraint requirements.lock '.[tpu]'; mount it"
    )
    run = "cd jaxalign; code=0; .venv/bin/jaxalign experiment=demo a=b\\ c || code=$?; echo jaxalign-exit-code=$code; exit $code"
    assert [shlex.split(line) for line in done.stdout.splitlines()] == [
        CREATE.replace("--zone=z1", " ".join(where)).split(),
        DESCRIBE.replace("--zone=z1", " ".join(where)).split(),
        [*over, "scp", "jaxalign.tar.gz", "brain:jaxalign.tar.gz", *all_workers],
        [*over, "ssh", "brain", *all_workers, f"--command={install}"],
        [*over, "ssh", "brain", *all_workers, f"--command={run}"],
    ]
    assert done.returncode == 0 and not calls(records)


@pytest.mark.parametrize(("verb", "expected"), [("status", DESCRIBE), ("down", DELETE)])
def test_tpu_status_and_down_need_a_name_only(records, verb, expected):
    done = tpu(records, verb, "--name", "brain", "--zone", "z1")
    assert done.returncode == 0 and calls(records) == [expected]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "give up, run, status or down"),
        (("up", "--name", "brain"), "--name and --zone are needed"),
        (("up", "--name", "brain", "--zone", "z1"), "up needs --type and --version"),
        (("run", *TPU), "run needs the arguments of jaxalign"),
        (("up", *TPU, "--sport"), "unknown option --sport"),
    ],
)
def test_tpu_says_what_is_wrong(records, words, found):
    done = tpu(records, *words)
    assert done.returncode == 2 and found in done.stderr and not calls(records)


# Slurm.


def options_of(path):
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == path.read_text(encoding="utf-8").count("#SBATCH --")
    return dict(lines)


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_slurm_jobs_are_told_in_time_and_go_back_to_the_queue(path):
    options = options_of(path)
    assert options["signal"] == "B:TERM@120" and options["open-mode"] == "append" and "requeue" in options
    assert "gpus-per-task" not in options and "account" not in options and "partition" not in options
    text = path.read_text(encoding="utf-8")
    assert text.index("#SBATCH --signal") < text.index("set -euo pipefail"), "sbatch reads no further than a command"


def test_slurm_counts_processes_by_gpus_or_by_nodes():
    assert options_of(PER_TASK)["ntasks-per-node"] == options_of(PER_TASK)["gpus-per-node"]
    assert options_of(PER_NODE)["ntasks-per-node"] == "1"


STEP = "srun --kill-on-bad-exit=0 --cpus-per-task={} jaxalign experiment=demo"


@pytest.mark.parametrize(
    ("path", "expected"), [(PER_TASK, STEP), (PER_NODE, STEP + " dist.local_device_ids=[0,1,2]")], ids=["task", "node"]
)
@pytest.mark.parametrize("code", [0, 2, 75])
def test_slurm_bodies_run_one_step(records, monkeypatch, path, expected, code):
    monkeypatch.setenv("SLURM_JOB_ID", "11")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "3")
    expected = expected.format(options_of(path)["cpus-per-task"])
    dry = script(path, "--dry-run", "experiment=demo")
    assert dry.returncode == 0 and dry.stdout.replace("\\", "") == f"{expected}\n" and not calls(records)
    (records / "answer.srun").write_text(f"exit {code}\n", encoding="utf-8")
    done = script(path, "experiment=demo")
    assert done.returncode == code, done.stderr
    assert calls(records) == [expected, *(["scontrol requeue 11"] if code == 75 else [])]


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_slurm_bodies_tell_the_step_to_stop(records, monkeypatch, path):
    monkeypatch.setenv("SLURM_JOB_ID", "11")
    monkeypatch.setenv("WAIT", "1")
    # As Slurm does: srun runs the program, and scancel signals the program, not srun.
    (records / "answer.srun").write_text(
        'shift 2; "$@" & echo $! >"$RECORDS/task"; wait $!; exit $?\n', encoding="utf-8"
    )
    (records / "answer.scancel").write_text('kill -TERM "$(cat "$RECORDS/task")"\n', encoding="utf-8")
    process = subprocess.Popen(["bash", str(path), "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until((records / "process-0.json").exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 75, errors
    assert calls(records)[1:] == ["scancel --signal=TERM 11.0", "scontrol requeue 11"]


# Kubernetes, SkyPilot, containers.


def documents(path):
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def patched(document, patches):
    """The JSON patches of an overlay, as kustomize applies them: add and replace."""
    for patch in patches:
        *way, last = patch["path"].strip("/").replace("~1", "/").split("/")
        place = document
        for key in way:
            place = place[int(key) if isinstance(place, list) else key]
        if isinstance(place, list):
            assert last == "-" and patch["op"] == "add"
            place.append(patch["value"])
        else:
            assert (last in place) == (patch["op"] == "replace"), patch["path"]
            place[last] = patch["value"]
    return document


def jobset(overlay):
    folder = LAUNCH / "k8s" / "overlays" / overlay
    (kustomization,) = documents(folder / "kustomization.yaml")
    (base,) = [(folder / resource).resolve() for resource in kustomization["resources"]]
    resources = documents(base / "kustomization.yaml")[0]["resources"]
    every = [document for resource in resources for document in documents(base / resource)]
    (found,) = [document for document in every if document["kind"] == "JobSet"]
    for patch in kustomization["patches"]:
        assert patch["target"] == {"kind": "JobSet", "name": found["metadata"]["name"]}
        found = patched(found, documents(folder / patch["path"])[0])
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobsets_start_all_hosts_or_none(overlay):
    found = jobset(overlay)
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and found["spec"]["failurePolicy"]["maxRestarts"] > 0
    (group,) = found["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert job["completions"] == job["parallelism"] > 1 and group["replicas"] == 1
    assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobsets_restart_on_75_and_end_on_what_no_restart_mends(overlay):
    found = jobset(overlay)
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    assert rule["onExitCodes"]["values"] == [2, 3, 4]
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert found["spec"]["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay.startswith("tpu")])
def test_chips_times_hosts_is_the_topology(overlay):
    job = jobset(overlay)["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    assert chips * job["completions"] == math.prod(int(side) for side in topology.split("x"))


def test_pods_may_find_each_other_and_nothing_else():
    found = {document["kind"]: document for document in documents(LAUNCH / "k8s" / "base" / "service-account.yaml")}
    account = found["ServiceAccount"]["metadata"]["name"]
    pod = jobset("gpu")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account == found["RoleBinding"]["subjects"][0]["name"]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    rights = {(what, verb) for rule in found["Role"]["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    assert rights == {("pods", "list"), ("services", "list"), ("jobs", "get")}


def test_skypilot_names_the_processes(records, monkeypatch, tmp_path):
    (task,) = documents(LAUNCH / "sky.yaml")
    assert 75 in task["resources"]["job_recovery"]["recover_on_exit_codes"] and task["num_nodes"] > 1
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(tmp_path / "bin")
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = {**os.environ, **task["envs"], **nodes}
    subprocess.run(["bash", "-c", task["run"]], cwd=tmp_path, env=environment, check=True, timeout=30)
    found = json.loads((records / "process-1.json").read_text())
    assert found["arguments"] == ["experiment=demo"]
    assert found["settings"]["JAXALIGN_COORDINATOR"] == "10.0.0.1:8476"
    assert found["settings"]["JAXALIGN_N_PROCESSES"] == "2"


@pytest.mark.parametrize("kind", ["cpu", "cuda", "tpu"])
def test_containers_install_the_lock_and_copy_what_the_wheel_needs(kind):
    text = (LAUNCH / "docker" / f"Dockerfile.{kind}").read_text(encoding="utf-8")
    assert f"docker build -f launch/docker/Dockerfile.{kind} " in text.splitlines()[0]
    assert "--no-deps -r requirements.lock" in text and text.rstrip().endswith('ENTRYPOINT ["jaxalign"]')
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert copied == {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "conf", "jaxalign"}
    assert all((LAUNCH.parent / name).exists() for name in copied)
    assert ("jax[" in text) == (kind != "cpu")
