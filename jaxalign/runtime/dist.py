"""Processes of one run: the only file that initialises jax.distributed, and what the processes tell each other.

`broadcast`, `gather`, `agree` and `barrier` are collectives once there are several processes: all of them call these in the
same order, from their main threads only. Values are JSON; tuples come back as lists. An ordinary exit waits for the others for
5 minutes, so a run ends with a barrier.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxalign import errors
from jaxalign.contracts import DistConfig
from jaxalign.errors import ConfigError, JaxalignError, nearest

COORDINATOR, N_PROCESSES, PROCESS_ID = "JAXALIGN_COORDINATOR", "JAXALIGN_N_PROCESSES", "JAXALIGN_PROCESS_ID"

_SRUN = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
_METADATA_TIMEOUT_S = 5.0
_SMALLEST = 64

_started: dict[str, Any] = {}


def initialize(config: DistConfig) -> None:
    """Join the other processes of this run; the first thing a command does, before anything touches a device.

    mode "auto" takes the first that is true: the three JAXALIGN_ variables name the processes; srun or mpirun started
    more than one; a Kubernetes Job with an index; several workers of a TPU. JAX then finds the addresses itself. Workers
    of a TPU are those of TPU_PROCESS_ADDRESSES or TPU_WORKER_HOSTNAMES (GKE), several slices (MEGASCALE_), or, on a machine
    with TPU chips and libtpu, what Google Cloud's metadata server lists (TPU VMs have no such variables over ssh).
    Everything else is one process. A second call with the same processes does nothing.

    Args:
        config: see `DistConfig`.
    Raises:
        ConfigError: if the processes are not named completely, a number is out of range, or this process joined others before.
    """
    arguments = _arguments(config)
    if jax.distributed.is_initialized():
        _check_same(arguments)
    elif arguments is not None:
        # JAX's own preemption service swallows SIGTERM until a run listens, and nothing here asks that service.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(**arguments)
        _started.update(arguments)
        sys.excepthook = _told_and_gone


def index() -> int:
    """Which process this is; 0 when there is one. Touches no device in that case."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def count() -> int:
    """How many processes there are. Touches no device when there is one."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process decides and writes for all."""
    return index() == 0


def broadcast(value: Any) -> Any:
    """The value of process 0, on all processes.

    Args:
        value: JSON; only that of process 0 counts.
    Returns:
        The value itself with one process, else as JSON gives it back.
    """
    if count() == 1:
        return value
    data = _encode(value) if is_first() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    return _decode(multihost_utils.broadcast_one_to_all(_pad(data, length)), length)


def gather(value: Any) -> list[Any]:
    """The values of all processes in their order, on all processes.

    Args:
        value: JSON, of any length.
    Returns:
        One value per process.
    """
    if count() == 1:
        return [value]
    data = _encode(value)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    rows = multihost_utils.process_allgather(_pad(data, int(lengths.max())))
    return [_decode(row, int(length)) for row, length in zip(rows, lengths, strict=True)]


def agree(name: str, value: str) -> None:
    """Make sure that all processes hold the same text.

    Args:
        name: what it is, in words for people.
        value: the text of this process.
    Raises:
        ConfigError: on every process, if one differs from process 0.
    """
    values = gather(value)
    differing = [str(process) for process, one in enumerate(values) if one != values[0]]
    if differing:
        raise ConfigError(
            f"{name} differs between processes: {len(differing)} of {len(values)} ({', '.join(differing)}) do not have that of "
            f"process 0 ({_shown(values[0])}); process {index()} has {_shown(value)}. Start all processes with the same command, "
            "code and data."
        )


def barrier(name: str) -> None:
    """Wait until all processes are here.

    Args:
        name: where, the same on all processes.
    """
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def first_does(work: Callable[[], Any]) -> Any:
    """Do something in process 0 while the others wait, and hand what it returns, or its error, to all.

    Args:
        work: returns JSON, or raises a JaxalignError.
    Returns:
        What it returned, on every process.
    Raises:
        JaxalignError: that of process 0, on every process.
    """
    if count() == 1:
        return work()
    value, failure = None, None
    if is_first():
        try:
            value = work()
        except JaxalignError as error:
            failure = error
    told = broadcast([value, failure and [type(failure).__name__, str(failure)]])
    if told[1] is None:
        return value if is_first() else told[0]
    raise failure or getattr(errors, told[1][0])(told[1][1])


def leave(exit_code: int) -> None:
    """End this process at once with its own code, as long as there are others; with one process nothing happens.

    For an error of one process that the others do not know of. An ordinary exit would wait for them for 5 minutes, then
    end in SIGABRT and lose the code; after this one they stop within the heartbeat. Nothing is cleaned up but the output.

    Args:
        exit_code: see `jaxalign.errors`.
    """
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _told_and_gone(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """What happens to an error that nobody expected: it is shown, and the other processes do not wait for this one."""
    sys.__excepthook__(kind, error, trace)
    leave(1)


def describe() -> dict[str, Any]:
    """Processes and devices, for run.json; touches the devices, and is no collective.

    Returns:
        Index of the process, numbers of processes and of its own and all devices, and their kind.
    """
    return {
        "process_index": index(),
        "n_processes": count(),
        "n_local_devices": jax.local_device_count(),
        "n_devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
    }


# Who the processes are.


def _arguments(config: DistConfig) -> dict[str, Any] | None:
    """Arguments of jax.distributed.initialize; None for one process."""
    modes = {"off": lambda config: None, "explicit": _explicit, "auto": _auto}
    if config.mode not in modes:
        raise ConfigError(f"dist.mode={config.mode!r} is unknown. {nearest(config.mode, modes)}")
    processes = modes[config.mode](config)
    if processes is None:
        return None
    timeouts = {
        "initialization_timeout": _positive("initialization_timeout_s", config.initialization_timeout_s),
        "heartbeat_timeout_seconds": _positive("heartbeat_timeout_s", config.heartbeat_timeout_s),
    }
    local = {"local_device_ids": list(config.local_device_ids)} if config.local_device_ids else {}
    return {**processes, **timeouts, **local}


def _explicit(config: DistConfig) -> dict[str, Any] | None:
    if not config.coordinator or config.n_processes is None or config.process_id is None:
        given = {"coordinator": config.coordinator, "n_processes": config.n_processes, "process_id": config.process_id}
        missing = [f"dist.{name}" for name, value in given.items() if value in ("", None)]
        raise ConfigError(
            f"dist.mode=explicit needs dist.coordinator, dist.n_processes and dist.process_id; {len(missing)} of 3 missing: "
            f"{', '.join(missing)}. Give all three, or dist.mode=auto."
        )
    return _named(config.coordinator, config.n_processes, config.process_id)


def _auto(config: DistConfig) -> dict[str, Any] | None:
    found = [name for name in (COORDINATOR, N_PROCESSES, PROCESS_ID) if os.environ.get(name)]
    if found:
        return _from_variables(found)
    if _is_kubernetes_job(os.environ) and find_spec("kubernetes") is None:
        raise ConfigError(
            "This is a pod of an indexed Kubernetes Job, and JAX needs the package kubernetes to find the others: install "
            f"jax[k8s], or set {COORDINATOR}, {N_PROCESSES} and {PROCESS_ID}, or dist=off for one process."
        )
    is_cluster = _is_srun(os.environ) or _is_mpirun(os.environ) or _is_kubernetes_job(os.environ)
    return {} if is_cluster or _is_tpu_pod(os.environ) else None


def _from_variables(found: list[str]) -> dict[str, Any] | None:
    missing = [name for name in (COORDINATOR, N_PROCESSES, PROCESS_ID) if name not in found]
    if missing:
        raise ConfigError(
            f"{', '.join(found)} set, but {', '.join(missing)} not: {len(found)} of 3. Set all three, or none for one process."
        )
    numbers = [_integer(name, os.environ[name]) for name in (N_PROCESSES, PROCESS_ID)]
    return _named(os.environ[COORDINATOR], *numbers)


def _named(coordinator: str, n_processes: int, process_id: int) -> dict[str, Any] | None:
    """Checked arguments; None for a single process, which needs no coordinator."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"The coordinator is {coordinator!r}: give host:port of process 0, such as 10.0.0.2:8476.")
    if n_processes < 1 or not 0 <= process_id < n_processes:
        raise ConfigError(
            f"Process {process_id} of {n_processes}: number the processes from 0 to n_processes - 1, each number once."
        )
    if n_processes == 1:
        return None
    return {"coordinator_address": coordinator, "num_processes": n_processes, "process_id": process_id}


def _is_srun(environment: Mapping[str, str]) -> bool:
    # A batch script's own shell has SLURM_PROCID=0 as well; only srun sets SLURM_STEP_NODELIST.
    return all(name in environment for name in _SRUN) and int(environment["SLURM_NTASKS"]) > 1


def _is_mpirun(environment: Mapping[str, str]) -> bool:
    return int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1


def _is_kubernetes_job(environment: Mapping[str, str]) -> bool:
    # GKE names the workers of a TPU, also of one host: then they decide.
    is_job = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return is_job and not _names_tpu_workers(environment)


def _names_tpu_workers(environment: Mapping[str, str]) -> bool:
    return bool({"TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS"} & environment.keys())


def _is_tpu_pod(environment: Mapping[str, str]) -> bool:
    if "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return True
    if _names_tpu_workers(environment):
        named = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
        return _n_listed(named) > 1
    may_ask = _has_tpu_chips() and "TPU_SKIP_MDS_QUERY" not in environment
    return may_ask and _n_listed(_tpu_vm_workers(environment)) > 1


def _has_tpu_chips() -> bool:
    """Whether chips are plugged in here and their driver is installed; asks no device."""
    folder = Path("/dev")
    return find_spec("libtpu") is not None and any((*folder.glob("accel*"), *folder.glob("vfio/[0-9]*")))


def _tpu_vm_workers(environment: Mapping[str, str]) -> str:
    """Workers that the metadata server of Google Cloud lists; empty where there is no such server or no TPU."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(_METADATA.format(server), headers={"Metadata-Flavor": "Google"})
    # The server is link-local: a proxy would not reach it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_METADATA_TIMEOUT_S) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _n_listed(text: str) -> int:
    return sum(bool(one.strip()) for one in text.split(","))


def _check_same(arguments: dict[str, Any] | None) -> None:
    """Processes cannot be changed once they have met; those met outside of jaxalign are taken as they are."""
    if _started and arguments is not None and arguments != _started:
        changed = sorted(name for name in {*arguments, *_started} if arguments.get(name) != _started.get(name))
        raise ConfigError(
            f"This is process {index()} of {count()} already, and {', '.join(changed)} would change. Start a new process for it."
        )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"dist.{name}={value}: give 1 second or more.")
    return value


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is no whole number.") from None


# Values as bytes.


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def _pad(data: bytes, length: int) -> np.ndarray:
    """Bytes in an array of a power of two: messages of many lengths share few compiled programs."""
    padded = np.zeros(max(_SMALLEST, 1 << (length - 1).bit_length()), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return padded


def _decode(padded: np.ndarray, length: int) -> Any:
    return json.loads(np.asarray(padded)[:length].tobytes())


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
