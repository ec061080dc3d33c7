"""Threads around the devices, the meter that watches them, and the guard over every call of a compiled program."""

import json
import math
import re
import threading
import time

import jax
import makers
import numpy as np
import pytest

from jaxalign import Ridge, commands
from jaxalign.contracts import CeilingConfig, Features, Fit, MeshConfig, Recording, RunConfig
from jaxalign.models.given import Metadata
from jaxalign.runtime import mesh, pipeline, run, score
from jaxalign.runtime import meter as meters
from jaxalign.runtime.inputs import Inputs

WAIT_S = 30
"""More than any thread here takes; a test that waits so long has failed."""


def threads():
    """Names of the threads of the pipeline that are alive."""
    names = ("jaxalign-reader", "jaxalign-writer")
    return [thread.name for thread in threading.enumerate() if thread.name in names]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert threads() == []


class Failure(Exception):
    pass


# Reading ahead.


def test_items_come_in_order():
    with pipeline.ahead(iter(range(50))) as items:
        assert list(items) == list(range(50))


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_read_ahead_than_asked_for(depth):
    made, full = [], threading.Event()

    def items():
        for item in range(20):
            made.append(item)
            if len(made) == depth + 1:
                full.set()
            yield item

    most = []
    with pipeline.ahead(items(), depth) as ready:
        assert full.wait(WAIT_S)
        assert len(made) <= depth + 1, "depth wait, and one more is made"
        for taken in ready:
            # Taken: the caller has it. Of the others some wait and one is in the reader's hands.
            most.append(len(made) - taken - 1)
    assert max(most) <= depth + 1 and made == list(range(20))


def test_an_error_of_the_reader_comes_where_its_item_would_have():
    def items():
        yield 1
        yield 2
        raise Failure("no third")

    taken = []
    with pytest.raises(Failure, match="no third"), pipeline.ahead(items()) as ready:
        taken.extend(ready)
    taken = []
    with pytest.raises(Failure, match="no third"), pipeline.ahead(items()) as ready:
        for item in ready:
            taken.append(item)
    assert taken == [1, 2] and threads() == []


@pytest.mark.parametrize("how", ["leaves", "fails", "takes nothing"])
def test_a_caller_that_stops_early_leaves_no_thread(how):
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    source = endless()

    def call():
        with pipeline.ahead(source) as ready:
            if how != "takes nothing":
                next(ready)
            if how == "fails":
                raise Failure

    if how == "fails":
        with pytest.raises(Failure):
            call()
    else:
        call()
    assert threads() == []
    source.close()
    assert closed.wait(WAIT_S)


# Writing behind.


def test_work_is_done_in_order_and_all_of_it_before_the_end():
    done = []
    with pipeline.behind() as submit:
        for piece in range(50):
            submit(lambda piece=piece: done.append(piece))
    assert done == list(range(50))


def test_handing_over_waits_when_enough_waits():
    gate, done, handed = threading.Event(), [], []

    def hand_over():
        with pipeline.behind(depth=2) as submit:
            for piece in range(6):
                submit(lambda piece=piece: (gate.wait(WAIT_S), done.append(piece)))
                handed.append(piece)

    caller = threading.Thread(target=hand_over)
    caller.start()
    deadline = time.monotonic() + WAIT_S
    while len(handed) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(handed) == 3 and done == [], "one in work, two wait, and the fourth is not taken"
    gate.set()
    caller.join(WAIT_S)
    assert done == handed == list(range(6))


def test_an_error_of_the_writer_reaches_the_caller_and_nothing_after_it_is_done():
    done, failed = [], threading.Event()

    def fail():
        failed.set()
        raise Failure("disk full")

    with pytest.raises(Failure, match="disk full"), pipeline.behind() as submit:
        submit(lambda: done.append(1))
        submit(fail)
        assert failed.wait(WAIT_S)
        for _ in range(100):
            submit(lambda: done.append(2))
    assert done == [1]


def test_an_error_of_the_last_piece_is_raised_at_the_end():
    def fail():
        raise Failure("last")

    with pytest.raises(Failure, match="last"), pipeline.behind() as submit:
        submit(fail)


def test_what_was_handed_over_before_the_caller_failed_is_done():
    done = []
    with pytest.raises(Failure), pipeline.behind(depth=4) as submit:
        for piece in range(4):
            submit(lambda piece=piece: done.append(piece))
        raise Failure
    assert done == [0, 1, 2, 3]


# The meter. Its clock is faked where seconds are compared.


class Clock:
    """A clock that is set."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(meters.time, "perf_counter", lambda: self.now)


class Step:
    """Outputs of a step of the devices that are there when told so."""

    def __init__(self):
        self.is_there = threading.Event()


@pytest.fixture
def meter(monkeypatch):
    """A meter of its own, whose steps are there when the test says so. -> (meter, clock)"""
    clock = Clock(monkeypatch)
    waited = meters.jax.block_until_ready
    monkeypatch.setattr(
        meters.jax, "block_until_ready", lambda out: out.is_there.wait(WAIT_S) if isinstance(out, Step) else waited(out)
    )
    monkeypatch.setattr(meters.jax.monitoring, "register_event_duration_secs_listener", lambda _: None)
    found = meters.Meter()
    found.reset()
    return found, clock


def test_busy_runs_from_launch_or_the_step_before_to_the_outputs_and_idle_is_the_rest(meter):
    """Launched at 100 and 101, there at 103 and 107; the third from 109 to 110: busy 8 of 10 seconds."""
    meter, clock = meter
    first, second, third = Step(), Step(), Step()
    meter.launched("factorise", first, flop=5)
    clock.now = 101.0
    meter.launched("score", second, flop=7)
    for now, step, is_last in ((103.0, first, False), (107.0, second, True)):
        clock.now = now
        step.is_there.set()
        if is_last:
            meter.settle()
        else:
            deadline = time.monotonic() + WAIT_S
            while "factorise" not in meter._sums and time.monotonic() < deadline:
                time.sleep(0.001)
    clock.now = 109.0
    meter.launched("score", third, flop=7)
    clock.now = 110.0
    third.is_there.set()
    found = meter.report()
    assert found["stages"]["factorise"] == {"seconds": 3.0, "bytes": 0.0, "flop": 5.0, "n": 1.0}
    assert found["stages"]["score"] == {"seconds": 5.0, "bytes": 0.0, "flop": 14.0, "n": 2.0}
    assert (found["busy_s"], found["span_s"], found["wall_s"]) == (8.0, 10.0, 10.0)
    assert found["idle_share"] == pytest.approx(0.2)


def test_compilation_is_counted_apart_and_is_no_idleness(meter):
    meter, clock = meter
    step = Step()
    meter.launched("score", step)
    meter._compiled("/jax/core/compile/jaxpr_trace_duration", 1.0)
    meter._compiled("/jax/core/compile/backend_compile_duration", 3.0)
    meter._compiled("/jax/something/else", 100.0)
    clock.now = 106.0
    step.is_there.set()
    meter.settle()
    clock.now = 108.0
    later = Step()
    later.is_there.set()
    meter.launched("score", later)
    found = meter.report()
    assert (found["compile_s"], found["n_compiled"]) == (4.0, 1)
    assert (found["busy_s"], found["span_s"]) == (6.0, 8.0)
    assert found["idle_share"] == 0.0, "never below 0"


def test_stages_are_summed_and_begin_anew_with_a_run(meter):
    meter, clock = meter
    for size in (10, 30):
        with meter.stage("read") as did:
            clock.now += 2
            did["bytes"] = size
    with pytest.raises(Failure), meter.stage("write", 5):
        clock.now += 1
        raise Failure
    meter.waiting(0)
    meter.waiting(1)
    found = meter.report()
    assert found["stages"] == {
        "read": {"seconds": 4.0, "bytes": 40.0, "flop": 0.0, "n": 2.0},
        "write": {"seconds": 1.0, "bytes": 5.0, "flop": 0.0, "n": 1.0},
    }, "in the order of the path of an activation; what fails is counted too"
    assert found["queue_depth"] == 0.5
    assert set(found) == {
        "stages", "busy_s", "span_s", "idle_share", "compile_s", "n_compiled", "queue_depth", "wall_s",
    }  # fmt: skip
    meter.reset()
    assert meter.report()["stages"] == {} and meter.report()["idle_share"] == 0.0


def test_compilations_of_jax_are_heard():
    meters.METER.reset()
    jax.jit(lambda x: x * 3.25 + 17)(np.float32(1)).block_until_ready()
    found = meters.METER.report()
    assert found["n_compiled"] >= 1 and found["compile_s"] > 0


def test_the_meter_keeps_no_outputs_alive():
    meters.METER.reset()
    before = len(jax.live_arrays())
    for _ in range(3):
        meters.METER.launched("score", jax.device_put(np.ones(4, np.float32)))
    meters.METER.settle()
    assert len(jax.live_arrays()) == before


# A run.


@pytest.fixture
def spied(monkeypatch):
    """Programs that a run calls with what they were given. -> list of (name, compiled program)"""
    called = []
    for name in ("features_step", "responses_step", "score_step"):
        make = getattr(mesh, name)

        def made(*arguments, make=make, name=name):
            step = make(*arguments)

            def call(*given):
                described = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), given
                )
                called.append((name, step, described))
                return step(*given)

            return call

        monkeypatch.setattr(mesh, name, made)
    return called


BYTES = {"pred": 1, "s8": 1, "s32": 4, "u32": 4, "f32": 4}


def output_bytes(step, given):
    """Bytes of the results of a program, read from its compiled text; each device of the mesh has its own."""
    text = step.lower(*given).compile().as_text()
    layout = re.search(r"entry_computation_layout=\{(.*)\}\n?", text.splitlines()[0]).group(1)
    shapes = re.findall(r"(\w+)\[([\d,]*)\]", layout.split("->")[-1])
    assert shapes
    return sum(BYTES[kind] * math.prod(map(int, filter(None, axes.split(",")))) for kind, axes in shapes)


def test_a_profile_adds_up_and_only_the_outputs_of_scores_come_back(tmp_path, spied):
    """What lands is what the programs of the scores give out, by their own text, and nothing else."""
    words = makers.eeg_request(tmp_path, mesh__fit=1, metric__correlation__n_permutations=10)
    assert commands.main(words) == 0
    found = json.loads((tmp_path / "out" / "profile.json").read_text())
    stages = found["stages"]
    scores = [(step, given) for name, step, given in spied if name == "score_step"]
    assert len(scores) == stages["score"]["n"] == stages["land"]["n"] == 6
    per_call = output_bytes(*scores[0])
    assert stages["land"]["bytes"] == per_call * len(scores)
    assert stages["transfer"]["bytes"] == stages["read"]["bytes"], "all that is read goes to the devices, once"
    assert stages["write"]["n"] == 6 and stages["factorise"]["n"] == 2 and stages["finish"]["n"] == 1
    assert stages["project"]["n"] == 3, "responses are prepared once for all fits"
    assert 0 <= found["idle_share"] <= 1 and 0 < found["busy_s"] <= found["span_s"] <= found["wall_s"]
    assert found["compile_s"] < found["wall_s"]
    assert 0 <= found["queue_depth"] <= 1
    assert all(one["seconds"] >= 0 for one in stages.values())


def inputs_of(n_stimuli=20, n_fits=2):
    rng = np.random.default_rng(0)
    starts = 0.02 * np.arange(4)
    recording = Recording(
        dataset="guarded",
        subject="01",
        stimulus_ids=tuple(map(str, range(n_stimuli))),
        values=rng.standard_normal((n_stimuli, 2, 4)).astype(np.float32),
        channels=("Fz", "Pz"),
        starts_s=starts,
        stops_s=starts + 0.02,
        unit="V",
        n_repetitions=np.ones(n_stimuli, np.int32),
        is_test=np.zeros(n_stimuli, bool),
        positions=np.full((2, 3), np.nan),
    )
    fits = [Fit("m", "", str(place), 0.0, "none", 6) for place in range(n_fits)]
    features = [rng.standard_normal((n_stimuli, 6)).astype(np.float32) for _ in fits]
    return Inputs([recording], fits, features, [False] * n_fits, ["m"] * n_fits, None, {})


REQUEST = RunConfig(
    model={"m": Metadata()},
    metric={"ridge": Ridge(n_outer=2, n_inner=2, n_permutations=2)},
    dataset=Metadata("guarded"),
    mesh=MeshConfig(1, 1, targets_per_call=8),
    ceiling=CeilingConfig(n_splits=2),
    report=False,
)


@pytest.mark.parametrize("name", ["features_step", "responses_step", "score_step"])
def test_host_arrays_are_refused_by_every_call_of_a_compiled_program(tmp_path, monkeypatch, name):
    """Each step in turn gets a host array where it had one on the device: that is an error, not a silent transfer."""
    make = getattr(mesh, name)

    def with_a_host_array(*arguments):
        step = make(*arguments)
        return lambda first, *rest: step(jax.device_get(first), *rest)

    monkeypatch.setattr(mesh, name, with_a_host_array)
    monkeypatch.setattr(run, "gather", lambda *_, **__: inputs_of())
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run.execute(REQUEST, tmp_path, lambda *_: None)
    assert threads() == []


def test_a_run_that_fails_while_reading_says_so_and_keeps_what_was_done(tmp_path, monkeypatch):
    read = Inputs.read

    def reading(self, fit, rows=None):
        if fit == 1:
            raise Failure("cannot read layer 1")
        return read(self, fit, rows)

    monkeypatch.setattr(Inputs, "read", reading)
    inputs = inputs_of(n_fits=3)
    monkeypatch.setattr(run, "gather", lambda *_, **__: inputs)
    with pytest.raises(Failure, match="cannot read layer 1"):
        run.execute(REQUEST, tmp_path, lambda *_: None)
    assert threads() == []
    monkeypatch.setattr(Inputs, "read", read)
    run.execute(REQUEST, tmp_path, lambda *_: None)
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [one["units_computed"] for one in sessions] in ([2], [3]), "the unit before may have landed"
    assert len(list((tmp_path / "units").glob("*.maxima.parquet"))) == 3


def test_blocks_are_placed_split_over_the_devices_that_use_them(devices):
    grid = mesh.make_mesh(MeshConfig(2, 2))
    placed = score._placed(
        mesh.column(grid), "features", Features(np.ones((2, 5, 3), np.float32), np.ones(2, np.int32))
    )
    assert {shard.data.shape for shard in placed.values.addressable_shards} == {(1, 5, 3)}
