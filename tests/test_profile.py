"""What a run tells about itself: the profile of its stages, a trace, its events, and a finishing pass done once."""

import gzip
import json
import os
import re

import makers
import pytest

from jaxalign import commands
from jaxalign.runtime import events, finalise, profiling, tracing
from jaxalign.runtime.meter import STAGES
from jaxalign.runtime.rates import Rates

RATES = Rates(gemm_flop_per_s=1e11, copy_to_bytes_per_s=1e10, copy_from_bytes_per_s=2e10)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def rates(monkeypatch):
    from jaxalign.runtime import rates

    monkeypatch.setattr(rates, "measured", lambda _: RATES)


def do(words):
    assert commands.main([str(word) for word in words]) == 0


# The command.


def test_profile_prints_a_table_of_stages_and_keeps_their_numbers(tmp_path, capsys):
    words = makers.eeg_request(tmp_path, mesh__fit=1, metric__correlation__n_permutations=500)
    do(["profile", *words, f"json={tmp_path / 'profile.json'}"])
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "profile.json").read_text())
    expected = ["read", "transfer", "factorise", "project", "score", "permute", "land", "write", "finish"]
    assert list(found["stages"]) == expected
    for name in expected:
        assert re.search(rf"^{name} +\d+\.\d+ +\d+\b", text, re.MULTILINE), name
    for said in ("devices: busy", "compilation: ", "peak: 100 GFLOP/s in a large product, 10.0 GB/s to", "wall: "):
        assert said in text
    for one in found["stages"].values():
        assert {"seconds", "bytes", "flop", "n", "gb_per_s", "gflop_per_s", "percent_of_peak"} == set(one)
    assert found["peaks"] == {"gemm_gflop_per_s": 100.0, "copy_to_gb_per_s": 10.0, "copy_from_gb_per_s": 20.0}
    assert not (tmp_path / "out").exists(), "the runs are thrown away"


def test_profile_counts_the_operations_that_the_plan_tells(tmp_path):
    words = makers.eeg_request(tmp_path, mesh__fit=1, metric__correlation__n_permutations=30)
    do(["profile", *words, f"json={tmp_path / 'profile.json'}"])
    do(["plan", *words, f"json={tmp_path / 'plan.json'}"])
    stages = json.loads((tmp_path / "profile.json").read_text())["stages"]
    (analysis,) = json.loads((tmp_path / "plan.json").read_text())["analyses"]
    for name in ("factorise", "project", "score", "permute"):
        assert stages[name]["flop"] == pytest.approx(1e9 * analysis["gflop"][name]), name
    assert stages["permute"]["flop"] == 30 * stages["score"]["flop"]


def test_permutations_are_what_a_run_takes_beyond_one_without():
    stage = {"seconds": 5.0, "bytes": 8.0, "flop": 7.0, "n": 2.0}
    measured = {"stages": {"read": stage, "score": stage, "land": stage}, "wall_s": 9.0}
    bare = {"stages": {"score": {**stage, "seconds": 2.0}}, "wall_s": 4.0}
    found = profiling.split_permutations(measured, bare, {"score": 3.0, "permute": 4.0})
    assert list(found["stages"]) == ["read", "score", "permute", "land"], "in the order of STAGES"
    assert set(found["stages"]) < set(STAGES) and found["wall_s"] == 9.0
    assert found["stages"]["score"] == {"seconds": 2.0, "bytes": 8.0, "flop": 3.0, "n": 2.0}
    assert found["stages"]["permute"] == {"seconds": 3.0, "bytes": 0.0, "flop": 4.0, "n": 2.0}
    assert measured["stages"]["score"] == stage, "what was measured stays"
    slower = {"stages": {"score": {**stage, "seconds": 6.0}}}
    noisy = profiling.split_permutations(measured, slower, {"score": 3.0, "permute": 4.0})
    assert noisy["stages"]["permute"]["seconds"] == 0.0, "never below 0"


def test_rates_are_given_beside_what_the_device_can_do():
    stages = {
        "read": {"seconds": 2.0, "bytes": 4e9, "flop": 0.0, "n": 1.0},
        "transfer": {"seconds": 2.0, "bytes": 4e9, "flop": 0.0, "n": 1.0},
        "score": {"seconds": 4.0, "bytes": 0.0, "flop": 2e11, "n": 1.0},
        "land": {"seconds": 0.0, "bytes": 4e9, "flop": 0.0, "n": 1.0},
    }
    found = profiling.with_rates({"stages": stages}, RATES)["stages"]
    assert found["read"]["gb_per_s"] == 2.0 and found["read"]["percent_of_peak"] is None
    assert found["transfer"]["percent_of_peak"] == pytest.approx(20.0)
    assert (found["score"]["gflop_per_s"], found["score"]["percent_of_peak"]) == pytest.approx((50.0, 50.0))
    assert found["land"]["gb_per_s"] == 0.0, "no division by a time of 0"


# The trace.


def test_a_trace_is_written_that_tools_can_read(tmp_path, capsys):
    from jax.profiler import ProfileData

    words = makers.eeg_request(tmp_path, mesh__fit=1, profile="trace")
    do(["profile", *words])
    assert f"Trace: {tmp_path / 'out' / 'trace'}" in capsys.readouterr().out
    (of_xprof,) = (tmp_path / "out" / "trace").rglob("*.xplane.pb")
    planes = {plane.name for plane in ProfileData.from_file(str(of_xprof)).planes}
    assert any("CPU" in name for name in planes), planes
    (of_perfetto,) = (tmp_path / "out" / "trace").rglob("perfetto_trace.json.gz")
    content = json.loads(gzip.decompress(of_perfetto.read_bytes()))
    names = {one.get("name", "") for one in content["traceEvents"]}
    assert len(content["traceEvents"]) > 100 and any(
        "jit" in name or "PjRt" in name or "Execut" in name for name in names
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["trace"]


@pytest.fixture
def profiler(monkeypatch):
    """The calls of the profiler, in order, instead of a profiler."""
    told = []
    monkeypatch.setattr(tracing.jax.profiler, "start_trace", lambda *_, **__: told.append("start"))
    monkeypatch.setattr(tracing.jax.profiler, "stop_trace", lambda: told.append("stop"))
    return told


@pytest.mark.parametrize("n_calls", [1, 2, 3, 10, 11, 40])
def test_a_trace_holds_steady_calls_and_ends_once(tmp_path, profiler, n_calls):
    with tracing.traced(tmp_path, n_calls) as step:
        for _ in range(n_calls):
            step()
            profiler.append("call")
    assert profiler.count("start") == profiler.count("stop") == 1
    begin, end = profiler.index("start"), profiler.index("stop")
    assert profiler[:begin].count("call") == min(tracing.SKIPPED, n_calls - 1), "the first ones compile"
    assert profiler[begin:end].count("call") == min(tracing.KEPT, n_calls - min(tracing.SKIPPED, n_calls - 1))


def test_a_trace_ends_when_the_run_fails(tmp_path, profiler):
    with pytest.raises(RuntimeError), tracing.traced(tmp_path, 1) as step:
        step()
        raise RuntimeError
    assert profiler == ["start", "stop"]


def test_nothing_is_traced_unless_asked(profiler):
    with tracing.traced(None, 5) as step:
        for _ in range(5):
            step()
    assert profiler == []


def test_a_run_writes_its_trace_beside_its_results(tmp_path, profiler, monkeypatch):
    started = []
    monkeypatch.setattr(tracing.jax.profiler, "start_trace", lambda path, **_: started.append(path))
    do(makers.eeg_request(tmp_path, profile="trace"))
    assert started == [str(tmp_path / "out" / "trace")] and profiler == ["stop"]
    do(makers.eeg_request(tmp_path, profile="trace"))
    assert len(started) == 1, "nothing was computed: nothing is traced"


# Events.


def lines_of(folder):
    return [json.loads(line) for line in (folder / events.EVENTS_FILE).read_text(encoding="utf-8").splitlines()]


def test_events_tell_what_was_planned_each_unit_and_the_end(tmp_path):
    do(makers.eeg_request(tmp_path))
    out = tmp_path / "out"
    found = lines_of(out)
    held = json.loads((out / "run.json").read_text())
    assert [one["event"] for one in found] == ["planned", *["unit"] * 6, "finished"]
    assert (found[0]["run_hash"], found[0]["units"], found[0]["missing"]) == (held["run_hash"], 6, 6)
    written = {path.name.removesuffix(".parquet") for path in (out / "units").glob("*.parquet")}
    units = {one["unit_id"] for one in found if one["event"] == "unit"}
    assert units == {name for name in written if not name.endswith(".maxima")}
    assert {one["status"] for one in found if one["event"] == "unit"} == {"done"}
    assert found[-1]["failed"] == 0
    times = [one["time_s"] for one in found]
    assert times == sorted(times)


def test_events_of_a_resumed_run_are_added(tmp_path):
    do(makers.eeg_request(tmp_path))
    out = tmp_path / "out"
    next(path for path in (out / "units").glob("*.parquet") if "maxima" not in path.name).unlink()
    do(makers.eeg_request(tmp_path))
    found = lines_of(out)[8:]
    assert [one["event"] for one in found] == ["planned", "unit", "finished"]
    assert (found[0]["units"], found[0]["missing"]) == (6, 1)


def test_force_discards_the_events_of_before(tmp_path):
    do(makers.eeg_request(tmp_path))
    do(makers.eeg_request(tmp_path, force="true"))
    assert len(lines_of(tmp_path / "out")) == 8


# The finishing pass.


@pytest.fixture
def finishes(monkeypatch):
    """One entry for each finishing pass that is done."""
    done, finish = [], finalise.finish

    def counted(*arguments):
        done.append(arguments[0])
        return finish(*arguments)

    monkeypatch.setattr(finalise, "finish", counted)
    return done


def a_unit_is_lost(out):
    next(path for path in (out / "units").glob("*.parquet") if "maxima" not in path.name).unlink()


def scores_are_changed(out):
    with (out / "scores.parquet").open("ab") as file:
        file.write(b"x")


def scores_are_lost(out):
    (out / "scores.parquet").unlink()


def summary_is_changed(out):
    path = out / "summary.json"
    path.write_text(path.read_text().replace("}", " }", 1))


def the_note_is_lost(out):
    (out / "finished.json").unlink()


def nothing_but_a_time_is_changed(out):
    os.utime(out / "scores.parquet", ns=(1, 1))


def test_an_unchanged_run_is_not_finished_again(tmp_path, finishes, capsys):
    do(makers.eeg_request(tmp_path))
    expected = {path: path.read_bytes() for path in (tmp_path / "out").glob("s*.*")}
    said = capsys.readouterr().out
    for harm in (lambda _: None, nothing_but_a_time_is_changed):
        harm(tmp_path / "out")
        do(makers.eeg_request(tmp_path))
        assert len(finishes) == 1
        assert capsys.readouterr().out == said, "what is said is what was found then"
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("s*.*")} == expected
    assert [one["event"] for one in lines_of(tmp_path / "out")[8:]] == ["planned", "finished"] * 2


@pytest.mark.parametrize(
    "harm", [a_unit_is_lost, scores_are_changed, scores_are_lost, summary_is_changed, the_note_is_lost]
)
def test_a_run_is_finished_again_where_a_file_is_not_what_it_wrote(tmp_path, finishes, harm):
    do(makers.eeg_request(tmp_path))
    out = tmp_path / "out"
    expected = {name: (out / name).read_bytes() for name in ("scores.parquet", "summary.json", "finished.json")}
    harm(out)
    do(makers.eeg_request(tmp_path))
    assert len(finishes) == 2
    assert {name: (out / name).read_bytes() for name in expected} == expected
