"""Processes of one run: who they are, on every kind of cluster, and what they tell each other, over real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jax
import pytest

from jaxalign.contracts import DistConfig
from jaxalign.errors import ConfigError
from jaxalign.runtime import dist

ROOT = Path(__file__).parents[1]
FAMILIES = ("JAXALIGN_", "SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JOB_COMPLETION_", "GCE_")

SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
NAMED = {
    "JAXALIGN_COORDINATOR": "10.0.0.2:8476",
    "JAXALIGN_N_PROCESSES": "4",
    "JAXALIGN_PROCESS_ID": "3",
}

# What each process of a real run does; argv is what, the environment says who.
PROGRAM = """
import json, os, sys, time
from jaxalign.contracts import DistConfig
from jaxalign.errors import ConfigError
from jaxalign.runtime import dist

def talk():
    me = dist.index()
    value = {"text": "größer " * 40 * (1 + 3 * me), "none": None, "number": 0.1 + me}
    dist.barrier("start")
    dist.agree("the plan", "same")
    try:
        dist.agree("the plan", f"plan {me}" + "!" * 100)
        found = "no error"
    except ConfigError as error:
        found = str(error)
    dist.barrier("end")
    return {"first": dist.is_first(), "broadcast": dist.broadcast(value), "gathered": dist.gather(value),
            "empty": dist.gather(""), "error": found, "described": dist.describe()}

def disagree():
    dist.agree("the data", str(dist.index()))

def wait_for_the_dead():
    dist.barrier("start")
    print("ready", flush=True)
    time.sleep(60 * dist.index())
    dist.barrier("never")

def fail_alone():
    if dist.index() == 1:
        print("bad data")
        dist.leave(3)
    dist.barrier("never")

def sleep():
    print("ready", flush=True)
    time.sleep(60)

dist.initialize(DistConfig(initialization_timeout_s=60, heartbeat_timeout_s=int(os.environ["HEARTBEAT"])))
dist.initialize(DistConfig(initialization_timeout_s=60, heartbeat_timeout_s=int(os.environ["HEARTBEAT"])))
try:
    print(json.dumps(globals()[sys.argv[1]]()))
except ConfigError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def clean_environment():
    """The environment without clusters and without simulated devices."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((*FAMILIES, "XLA_FLAGS"))}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(what, n_processes=2, heartbeat_s=60):
    """Processes that talk over loopback, one device each."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, what],
            env={
                **clean_environment(),
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "1",
                "JAXALIGN_COORDINATOR": f"127.0.0.1:{port}",
                "JAXALIGN_N_PROCESSES": str(n_processes),
                "JAXALIGN_PROCESS_ID": str(index),
                "HEARTBEAT": str(heartbeat_s),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(n_processes)
    ]


def ended(processes, timeout=60):
    """Exit code, output and errors of each process; none is left behind."""
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def wait_for(process, word):
    """Read until a process says a word."""
    for line in process.stdout:
        if line.strip() == word:
            return
    pytest.fail(f"no {word!r}: {process.stderr.read()}")


# Real processes.


def test_processes_tell_each_other_what_they_know():
    results = ended(started("talk"))
    assert [code for code, _, _ in results] == [0, 0], results
    told = [json.loads(out.splitlines()[-1]) for _, out, _ in results]
    values = [
        {"text": "größer " * 40 * n_times, "none": None, "number": number} for n_times, number in ((1, 0.1), (4, 1.1))
    ]
    assert [one["first"] for one in told] == [True, False]
    for process, one in enumerate(told):
        assert one["broadcast"] == values[0] and one["gathered"] == values and one["empty"] == ["", ""]
        assert "the plan differs between processes: 1 of 2 (1)" in one["error"]
        assert (
            f"process {process} has 'plan {process}!" in one["error"] and "same command, code and data" in one["error"]
        )
        assert one["described"] == {
            "process_index": process,
            "n_processes": 2,
            "n_local_devices": 1,
            "n_devices": 2,
            "device_kind": one["described"]["device_kind"],
        }


def test_processes_that_differ_all_end_with_the_code_of_a_wrong_request():
    for code, _, errors in ended(started("disagree", n_processes=3)):
        assert code == 2 and "the data differs between processes: 2 of 3 (1, 2)" in errors


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_takes_the_others_with_it(dead):
    heartbeat_s = 4
    processes = started("wait_for_the_dead", heartbeat_s=heartbeat_s)
    for process in processes:
        wait_for(process, "ready")
    start = time.monotonic()
    processes[dead].send_signal(signal.SIGKILL)
    results = ended(processes)
    assert results[dead][0] == -signal.SIGKILL and results[1 - dead][0] != 0
    # One heartbeat, the time between two, and what a busy machine adds.
    assert time.monotonic() - start < 3 * heartbeat_s + 5


def test_a_process_that_fails_alone_keeps_its_code_and_stops_the_others():
    start = time.monotonic()
    (other, _, _), (code, out, _) = ended(started("fail_alone", heartbeat_s=4))
    assert (code, out) == (3, "bad data\n") and other not in (0, 3)
    assert time.monotonic() - start < 20


def test_sigterm_still_ends_a_process_that_does_not_listen():
    """JAX's preemption service would swallow it."""
    processes = started("sleep")
    for process in processes:
        wait_for(process, "ready")
        process.send_signal(signal.SIGTERM)
    assert [code for code, _, _ in ended(processes, timeout=10)] == [-signal.SIGTERM] * 2


# Who the processes are.


@pytest.fixture
def calls(monkeypatch):
    """What jax.distributed.initialize is called with, on a machine that is no cluster."""
    for name in list(os.environ):
        if name.startswith(FAMILIES):
            monkeypatch.delenv(name)
    found = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: found.append(arguments))
    monkeypatch.setattr(dist, "_started", {})
    monkeypatch.setattr(dist, "_has_tpu_chips", lambda: False)
    monkeypatch.setattr(dist, "find_spec", lambda name: object())
    before = jax.config.jax_enable_preemption_service
    yield found
    jax.config.update("jax_enable_preemption_service", before)


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {**SRUN, "SLURM_NTASKS": "1"},
        {name: value for name, value in SRUN.items() if name != "SLURM_STEP_NODELIST"},  # a batch script's own shell
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {**KUBERNETES, "TPU_WORKER_HOSTNAMES": "localhost"},
        {**NAMED, "JAXALIGN_N_PROCESSES": "1", "JAXALIGN_PROCESS_ID": "0"},
    ],
)
def test_auto_leaves_a_single_process_alone(calls, monkeypatch, variables):
    set_all(monkeypatch, variables)
    dist.initialize(DistConfig())
    assert not calls and (dist.index(), dist.count(), dist.is_first()) == (0, 1, True)


@pytest.mark.parametrize(
    "variables",
    [
        SRUN,
        {"OMPI_COMM_WORLD_SIZE": "2"},
        KUBERNETES,
        {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
        {**KUBERNETES, "TPU_WORKER_HOSTNAMES": "host-0,host-1,host-2,host-3"},
        {"TPU_PROCESS_ADDRESSES": "localhost:8476,localhost:8477"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_COORDINATOR_ADDRESS": "host-0:8080"},
    ],
)
def test_auto_lets_jax_find_the_processes_of_a_cluster(calls, monkeypatch, variables):
    set_all(monkeypatch, variables)
    dist.initialize(DistConfig(heartbeat_timeout_s=20, local_device_ids=[0, 1]))
    assert calls == [{"initialization_timeout": 300, "heartbeat_timeout_seconds": 20, "local_device_ids": [0, 1]}]


def test_the_variables_win_over_the_cluster(calls, monkeypatch):
    set_all(monkeypatch, {**SRUN, **NAMED})
    dist.initialize(DistConfig())
    assert calls == [
        {
            "coordinator_address": "10.0.0.2:8476",
            "num_processes": 4,
            "process_id": 3,
            "initialization_timeout": 300,
            "heartbeat_timeout_seconds": 100,
        }
    ]


def test_off_is_one_process_whatever_started_it(calls, monkeypatch):
    set_all(monkeypatch, {**SRUN, **NAMED})
    dist.initialize(DistConfig(mode="off"))
    assert not calls


def test_explicit_names_the_processes(calls):
    dist.initialize(DistConfig("explicit", "host:1234", 2, 0))
    assert calls[0]["coordinator_address"] == "host:1234" and calls[0]["num_processes"] == 2
    assert calls[0]["process_id"] == 0


def test_a_kubernetes_job_without_the_client_says_what_to_do(calls, monkeypatch):
    set_all(monkeypatch, KUBERNETES)
    monkeypatch.setattr(dist, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"jax\[k8s\]"):
        dist.initialize(DistConfig())
    set_all(monkeypatch, NAMED)
    dist.initialize(DistConfig())
    assert len(calls) == 1


@pytest.fixture
def metadata_server(monkeypatch):
    """A metadata server as TPU VMs have one; its answer can be set."""
    answer = {"text": "", "requests": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer["requests"].append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(200 if answer["text"] else 404)
            self.end_headers()
            self.wfile.write(answer["text"].encode())

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield answer
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("has_chips", "workers", "is_pod"),
    [
        (True, "id0:8470:10.0.0.1,id1:8470:10.0.0.2", True),
        (True, "id0:8470:10.0.0.1", False),
        (True, "", False),
        (False, "id0:8470:10.0.0.1,id1:8470:10.0.0.2", False),
    ],
)
def test_a_tpu_vm_asks_the_metadata_server_for_its_workers(
    calls, monkeypatch, metadata_server, has_chips, workers, is_pod
):
    monkeypatch.setattr(dist, "_has_tpu_chips", lambda: has_chips)
    metadata_server["text"] = workers
    dist.initialize(DistConfig())
    assert len(calls) == is_pod
    asked = ("/computeMetadata/v1/instance/attributes/worker-network-endpoints", "Google")
    assert metadata_server["requests"] == [asked] * has_chips


def test_a_tpu_elsewhere_is_one_process(calls, monkeypatch):
    monkeypatch.setattr(dist, "_has_tpu_chips", lambda: True)
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{free_port()}")
    dist.initialize(DistConfig())
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    dist.initialize(DistConfig())
    assert not calls


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DistConfig("explicit"), "3 of 3 missing: dist.coordinator, dist.n_processes, dist.process_id"),
        (DistConfig("explicit", "host:1", 2), "1 of 3 missing: dist.process_id"),
        (DistConfig("explicit", "host:1", 2, 2), "Process 2 of 2: number the processes from 0"),
        (DistConfig("explicit", "host:1", 2, -1), "Process -1 of 2"),
        (DistConfig("explicit", "host:1", 0, 0), "Process 0 of 0"),
        (DistConfig("explicit", "host", 2, 0), "coordinator is 'host': give host:port"),
        (DistConfig("explicit", "host:99999", 2, 0), "coordinator is 'host:99999'"),
        (DistConfig("explicit", "host:1", 2, 0, [], 0), "dist.initialization_timeout_s=0"),
        (DistConfig("explicit", "host:1", 2, 0, [], 1, 0), "dist.heartbeat_timeout_s=0"),
        (DistConfig("explicitly"), "'explicitly' is unknown. Nearest: explicit"),
    ],
)
def test_bad_requests_say_what_is_wrong(calls, config, words):
    with pytest.raises(ConfigError) as error:
        dist.initialize(config)
    assert words in str(error.value) and not calls


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"JAXALIGN_PROCESS_ID": ""}, "JAXALIGN_COORDINATOR, JAXALIGN_N_PROCESSES set, but JAXALIGN_PROCESS_ID not: 2 of 3"),
        ({"JAXALIGN_PROCESS_ID": "4"}, "Process 4 of 4"),
        ({"JAXALIGN_N_PROCESSES": "two"}, "JAXALIGN_N_PROCESSES='two' is no whole number"),
        ({"JAXALIGN_COORDINATOR": "10.0.0.2"}, "give host:port"),
    ],
)  # fmt: skip
def test_bad_variables_say_what_is_wrong(calls, monkeypatch, changed, words):
    set_all(monkeypatch, {**NAMED, **changed})
    with pytest.raises(ConfigError) as error:
        dist.initialize(DistConfig())
    assert words in str(error.value) and not calls


def test_joined_processes_stay_as_they_are(calls, monkeypatch):
    config = DistConfig("explicit", "host:1234", 2, 0)
    dist.initialize(config)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    dist.initialize(config)
    dist.initialize(DistConfig("off"))
    with pytest.raises(ConfigError, match="process_id would change"):
        dist.initialize(DistConfig("explicit", "host:1234", 2, 1))
    assert len(calls) == 1


# One process.


def test_one_process_talks_to_itself():
    value = {"a": (1, 2)}
    assert dist.broadcast(value) is value and dist.gather(value) == [value] and dist.gather(value)[0] is value
    dist.agree("anything", "same")
    dist.barrier("here")
    dist.leave(3)
    assert dist.describe()["n_processes"] == 1 and dist.describe()["n_devices"] == jax.device_count()


def test_who_one_process_is_needs_no_device():
    code = "from jaxalign.runtime import dist; print(dist.index(), dist.count(), dist.broadcast(3), dist.gather(4))"
    environment = {**clean_environment(), "JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "1", "3", "[4]"], done.stderr
