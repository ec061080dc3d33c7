"""`jaxalign profile`, traces, events, and a finishing pass that is repeated only when something changed."""

import gzip
import json

import makers
import pytest

from jaxalign import commands
from jaxalign.runtime import finalise


def test_profile_prints_every_stage_and_keeps_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = makers.eeg_request(tmp_path)
    assert commands.main(["profile", *words, "json=profile.json"]) == 0
    said = capsys.readouterr().out
    profile = json.loads((tmp_path / "profile.json").read_text())
    for stage in ("read", "transfer", "factorise", "project", "score", "permute", "land", "write", "finish"):
        assert stage in said and profile["stages"][stage]["seconds"] >= 0, stage
    assert profile["stages"]["permute"]["flop"] == pytest.approx(20 * profile["stages"]["score"]["flop"])
    assert "idle" in said and "compilation" in said and profile["peaks"]["gemm_gflop_per_s"] > 0
    assert not (tmp_path / "out").exists(), "a profile leaves no results"


def test_a_trace_can_be_read(tmp_path):
    assert commands.main(makers.eeg_request(tmp_path, profile="trace", **{"mesh.fit": 1, "mesh.target": 1})) == 0
    found = list((tmp_path / "out" / "trace").rglob("perfetto_trace.json.gz"))
    assert len(found) == 1
    with gzip.open(found[0]) as file:
        assert json.load(file)["traceEvents"]


def test_events_tell_the_story_of_a_run(tmp_path):
    assert commands.main(makers.eeg_request(tmp_path)) == 0
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "planned" and names[-1] == "finished" and set(names[1:-1]) == {"unit"}
    assert events[0]["missing"] == names.count("unit") == 6
    assert [event["time_s"] for event in events] == sorted(event["time_s"] for event in events)


def test_the_finishing_pass_is_repeated_only_when_something_changed(tmp_path, monkeypatch):
    passes = []
    original = finalise.finish
    monkeypatch.setattr(finalise, "finish", lambda *values: passes.append(1) or original(*values))
    words = makers.eeg_request(tmp_path)
    for _ in range(2):
        assert commands.main(words) == 0
    assert len(passes) == 1, "nothing changed"
    before = makers.table_hash(tmp_path / "out")
    next((tmp_path / "out" / "units").glob("*.maxima.parquet")).unlink()
    assert commands.main(words) == 0 and len(passes) == 2, "a unit was computed again"
    (tmp_path / "out" / "scores.parquet").write_bytes(b"torn")
    assert commands.main(words) == 0 and len(passes) == 3, "the table was damaged"
    assert makers.table_hash(tmp_path / "out") == before


def test_plan_writes_nothing_and_names_bytes_operations_and_time(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = makers.eeg_request(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert commands.main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "6 units" in said and "GFLOP" in said and "GiB per device" in said and "waves of fits" in said
    assert sorted(tmp_path.rglob("*")) == before
