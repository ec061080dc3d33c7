"""Measured peaks of memory of whole runs, each in a process of its own, stay below what the plan said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = "1500,100,2,256,4,8,25"
LIMIT_BYTES = 6e9


def measured(folder, n_devices, memory_gib, *shape):
    """What tests.things_shaped says of a run on that many simulated devices along the target axis."""
    words = [sys.executable, "-m", "tests.things_shaped", str(folder), str(n_devices), str(memory_gib), "20", *shape]
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    done = subprocess.run(words, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("n_devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_a_small_run_stays_below_its_plan(tmp_path, n_devices):
    found = measured(tmp_path, n_devices, 0.2, SMALL)
    assert found["peak_bytes"] < found["planned_bytes"]
    assert found["planted_r"] > 0.1 > abs(found["other_r"]), "and it is the run that was planned"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("n_devices", "memory_gib"), [(1, 1.5), (8, 0.7)])
def test_a_run_of_the_size_of_things_eeg2_stays_below_its_plan_and_6_gb(tmp_path, n_devices, memory_gib):
    found = measured(tmp_path, n_devices, memory_gib)
    assert found["peak_bytes"] < found["planned_bytes"]
    assert found["peak_bytes"] < LIMIT_BYTES
    assert found["planted_r"] > 0.1 > abs(found["other_r"])
    print(json.dumps({name: found[name] for name in ("seconds", "peak_bytes", "planned_bytes")}))
