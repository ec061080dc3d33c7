"""Threads around the devices keep order, stay bounded, and hand their errors on; the meter counts what they do."""

import json
import threading
import time

import jax
import jax.numpy as jnp
import makers
import numpy as np
import pytest

from jaxalign import commands
from jaxalign.runtime import mesh, meter, pipeline


def threads():
    return [thread for thread in threading.enumerate() if thread.name in ("jaxalign-reader", "jaxalign-writer")]


def test_items_come_in_order_and_no_more_than_two_are_ahead():
    made = []

    def items():
        for index in range(20):
            made.append(index)
            yield index

    with pipeline.ahead(items()) as taken:
        for index, item in enumerate(taken):
            time.sleep(0.002)
            assert item == index
            assert len(made) <= index + 3, "one is used, one waits, one is being made"
    assert not threads()


def test_an_error_of_the_reader_is_raised_where_its_item_would_have_come():
    def items():
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"), pipeline.ahead(items()) as taken:
        assert next(taken) == 1
        next(taken)
    assert not threads()


def test_leaving_early_ends_the_reader():
    with pipeline.ahead(iter(range(10**9))) as taken:
        assert next(taken) == 0
    assert not threads()


def test_what_was_handed_over_is_done_in_order_also_when_the_block_fails():
    done = []
    with pytest.raises(ValueError, match="ours"), pipeline.behind() as submit:
        for index in range(5):
            submit(lambda index=index: done.append(index))
        raise ValueError("ours")
    assert done == list(range(5)) and not threads()


def test_an_error_of_the_writer_reaches_the_caller_and_nothing_after_it_is_done():
    done = []

    def fail():
        raise OSError("full")

    with pytest.raises(OSError, match="full"), pipeline.behind() as submit:
        submit(fail)
        for index in range(100):
            submit(lambda index=index: done.append(index))
    assert len(done) == 0


def test_an_error_of_the_last_piece_is_raised_at_the_end():
    def fail():
        raise OSError("full")

    with pytest.raises(OSError, match="full"), pipeline.behind() as submit:
        submit(fail)


def test_the_meter_counts_seconds_bytes_operations_and_compilation_apart():
    own = meter.Meter()
    own.reset()
    with own.stage("read") as did:
        did["bytes"] = 7
    step = jax.jit(lambda values: jnp.sin(values) @ values)
    for _ in range(3):
        own.launched("score", step(jnp.ones((300, 300))), flop=2 * 300**3)
    own.waiting(1)
    found = own.report()
    assert found["stages"]["read"]["bytes"] == 7 and found["stages"]["score"]["n"] == 3
    assert found["stages"]["score"]["flop"] == 3 * 2 * 300**3
    assert 0 < found["busy_s"] <= found["span_s"] <= found["wall_s"]
    assert 0 <= found["idle_share"] <= 1 and found["n_compiled"] >= 1 and found["compile_s"] > 0
    assert found["queue_depth"] == 1


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A tiny run, with the outputs of each compiled score program on the way."""
    landed = []
    original = mesh.score_step

    def noted(*arguments):
        step = original(*arguments)

        def call(*values):
            compiled = step.lower(*values).compile()
            landed.append(compiled.memory_analysis().output_size_in_bytes * values_devices(values))
            return step(*values)

        return call

    monkeypatch.setattr(mesh, "score_step", noted)
    words = makers.eeg_request(tmp_path, **{"mesh.fit": 1, "mesh.target": 1})
    assert commands.main(words) == 0
    return tmp_path / "out", landed


def values_devices(values):
    return len(jax.tree.leaves(values)[0].devices())


def test_what_comes_back_from_the_devices_is_what_the_programs_put_out(finished):
    """Traffic is read from the compiled program; XLA rounds each output up to 64 bytes and adds a table of them."""
    folder, landed = finished
    stage = json.loads((folder / "profile.json").read_text())["stages"]["land"]
    assert stage["n"] == len(landed) > 1
    assert stage["bytes"] <= sum(landed) <= stage["bytes"] + len(landed) * 1024


def test_nothing_crosses_to_a_device_inside_a_compiled_call(tmp_path, monkeypatch):
    """A host array that reaches a step by mistake is an error, in every thread that launches."""
    original = mesh.place

    def slipped(devices, layout, tree):
        return jax.tree.map(np.asarray, tree) if layout == "responses" else original(devices, layout, tree)

    monkeypatch.setattr(mesh, "place", slipped)
    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
        commands.main(makers.eeg_request(tmp_path))
