"""The self-check: its answers are the definitions', honest devices pass it, and lower precision fails it with its message."""

import json
import time

import ml_dtypes
import numpy as np
import pytest
from make_selfcheck_answers import made, smallest_gap

from jaxalign.commands import selfcheck as command
from jaxalign.contracts import MeshConfig
from jaxalign.errors import ConfigError, PrecisionError
from jaxalign.runtime import mesh, rates, selfcheck


def to_bfloat16(values):
    """What a matrix unit that takes bfloat16 makes of its inputs."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def to_tf32(values):
    return ((values.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.fixture(scope="module")
def grid():
    return mesh.make_mesh(MeshConfig(fit=2, target=2))


@pytest.fixture(scope="module")
def report(grid):
    return selfcheck.check(grid)


# The answers.


def test_the_packaged_answers_are_those_of_the_definitions():
    """And no count, penalty or rank of the problem is decided by rounding."""
    answers, margin = made(selfcheck.problem())
    packaged = selfcheck.answers()
    assert set(answers) == set(packaged)
    for name, answer in answers.items():
        np.testing.assert_allclose(packaged[name], answer, rtol=1e-10, atol=1e-12, err_msg=name)
    assert margin > selfcheck.MARGIN and smallest_gap(selfcheck.problem()) > selfcheck.GAP


def test_the_problem_is_made_of_float32_numbers_alone():
    """Sums of its integers, fixed for ever: no random numbers of a library take part."""
    given = selfcheck.problem()
    for values in (given.features, given.responses, given.patterns):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values * 1024, np.round(values * 1024))
    assert (given.features * 1024).astype(np.int64)[0, :4].tolist() == [226, -790, 1995, -521]
    assert np.abs(to_bfloat16(given.features) - given.features).max() > 0, "rounding would show"


# The check.


def test_each_device_keeps_the_contract(report, grid):
    assert report["passed"]
    assert {one["device"] for one in report["devices"]} == {str(device) for device in grid.devices.flat}
    for one in report["devices"]:
        assert list(one["errors"]) == list(selfcheck.PARTS)
        assert all(one["errors"][name] == 0 for name in ("penalties", "ridge counts", "rsa counts"))
    selfcheck.demand(report)


def test_lower_precisions_cost_what_they_should(report):
    """One more bit of mantissa halves the error: 24, about 17, 11 and 8 bits."""
    errors = report["precisions"]
    assert errors["highest"] < 1e-6 < errors["bf16x3"] < 1e-5 < errors["tf32"] < errors["bf16"] < 1e-2
    assert 4 < errors["bf16"] / errors["tf32"] < 20


def test_the_quick_check_takes_under_a_second(grid):
    selfcheck.quick(grid)
    begin = time.perf_counter()
    found = selfcheck.quick(grid)
    assert time.perf_counter() - begin < 1
    assert found["passed"] and list(found["allowed"]) == list(selfcheck.QUICK)


@pytest.mark.parametrize("change", [to_bfloat16, to_tf32])
def test_lower_precision_fails_the_quick_check_with_its_message(change, grid):
    with pytest.raises(
        PrecisionError, match=r"cpu:0 \(cpu\): centred Gram matrix: .* 1e-05 is allowed; 8 comparisons"
    ) as caught:
        selfcheck.quick(grid, change)
    assert "on 4 of 4 devices" in str(caught.value) and "NVIDIA_TF32_OVERRIDE" in str(caught.value)


def test_lower_precision_fails_every_part_that_is_no_count(grid):
    found = selfcheck.errors(selfcheck._changed(to_bfloat16), grid)
    counts = {"penalties", "ridge counts", "rsa counts"}
    for name in set(selfcheck.PARTS) - counts:
        assert min(found[name].values()) > selfcheck.PARTS[name].allowed, name
    assert max(found["rsa counts"].values()) > 0


def test_one_wrong_device_nan_and_one_wrong_count_are_found(report):
    for name, error in (("gram", np.nan), ("rsa counts", 1.0), ("rsa maxima", 1.1e-5)):
        broken = json.loads(json.dumps(report))
        broken["devices"][2]["errors"][name] = error
        with pytest.raises(
            PrecisionError, match=f"^{broken['devices'][2]['device']} .*1 comparisons fail on 1 of 4 devices"
        ):
            selfcheck.demand(broken)
        assert broken["devices"][2]["device"] + "," in selfcheck.as_text(broken)


# The command.


def test_the_command_prints_the_table_and_writes_json(report, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(selfcheck, "check", lambda _: report)
    command.main([f"json={tmp_path / 'found.json'}"])
    shown = capsys.readouterr().out
    assert "centred Gram matrix" in shown and "tf32" in shown and "all compute as promised" in shown
    assert json.loads((tmp_path / "found.json").read_text()) == report
    with pytest.raises(ConfigError, match="does not know 'devices=2'"):
        command.main(["devices=2"])


def test_the_command_shows_all_errors_before_it_fails(report, capsys, monkeypatch):
    broken = json.loads(json.dumps(report))
    broken["passed"], broken["devices"][1]["errors"]["gram"] = False, 1e-3
    monkeypatch.setattr(selfcheck, "check", lambda _: broken)
    with pytest.raises(PrecisionError) as caught:
        command.main([])
    assert caught.value.exit_code == 5
    assert "FAILS" in capsys.readouterr().out


# Rates.


def test_rates_are_measured_once_and_are_those_of_a_machine(devices):
    begin = time.perf_counter()
    found = rates.measured(devices[0])
    took = time.perf_counter() - begin
    assert rates.measured(devices[1]) is found, "devices of one kind share the answer"
    assert 1e8 < found.gemm_flop_per_s < 1e13
    assert 1e7 < found.copy_to_bytes_per_s < 1e12 and 1e7 < found.copy_from_bytes_per_s < 1e12
    assert took < 10, "about a second on a machine that is not busy"
