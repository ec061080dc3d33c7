"""The steps of a run on a mesh of 2 x 2: no device waits for another or for the host, lowered for TPU and CUDA and compiled here.

That every kernel lowers, and that no collective is written, is proved in test_compute_lowering.py; the partitioner may
still add some, which shows in compiled programs only.
"""

import re

import jax
import numpy as np
import pytest

from jaxalign.compute import METRICS, folds
from jaxalign.contracts import Features, MeshConfig, Null, Patterns, Responses
from jaxalign.runtime import mesh, selfcheck

pytestmark = pytest.mark.usefixtures("strict")

COLLECTIVE = re.compile(
    r"\b(all[-_]reduce|all[-_]gather|all[-_]to[-_]all|collective[-_]permute|collective[-_]broadcast|reduce[-_]scatter)\b"
)
HOST = re.compile(r"\b(infeed|outfeed|send|recv|\w*callback\w*|\w*host_compute\w*|MoveToHost)\b")
N, WIDTH, N_FITS, N_TARGETS, N_CHANNELS, N_PERMUTATIONS = 24, 10, 4, 6, 5, 3
SETTINGS = {"rsa": {"n_folds": 2}, "ridge": {"alphas": "given", "alpha_values": (1.0, 10.0)}}
"""Short programs: more folds of RSA are more copies of the same."""

SLOW = ("rsa", "similarity")
"""Metrics whose scores take seconds to compile."""


def shaped(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.fixture
def grid(devices):
    return mesh.make_mesh(MeshConfig(fit=2, target=2))


def steps_of(name, grid):
    """The three steps of a metric with the shapes they are given."""
    metric = METRICS[name](n_permutations=N_PERMUTATIONS, **SETTINGS.get(name, {}))
    design = folds.design(folds.contiguous(N, 2), 2, 0)
    layout = "patterns" if metric.takes == "patterns" else "responses"
    responses = Patterns(shaped(N, N_CHANNELS, N_TARGETS)) if layout == "patterns" else Responses(shaped(N, N_TARGETS))
    width = 1 if name == "correlation" else WIDTH
    features = Features(shaped(N_FITS, N, width), shaped(N_FITS, dtype=np.int32))
    null = Null(
        shaped(N_PERMUTATIONS + 1, N, dtype=np.int32),
        shaped(N_TARGETS // 2, 1),
        shaped(N_TARGETS + 2, dtype=np.int32),
        2,
        True,
    )
    # The uncached step: the cached one belongs to the platform of this machine.
    ours = mesh.features_step.__wrapped__(metric, grid, "features"), (features, design)
    theirs = mesh.responses_step.__wrapped__(metric, grid, layout), (responses, design)
    states = [jax.eval_shape(step, *given) for step, given in (ours, theirs)]
    return ours, theirs, (mesh.score_step.__wrapped__(metric, grid, 2, True), (*states, design, null))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", METRICS)
def test_steps_lower_and_talk_to_nobody(name, platform, grid, monkeypatch):
    monkeypatch.setattr(mesh, "platform_of", lambda _: platform)
    for step, given in steps_of(name, grid):
        text = step.trace(*given).lower(lowering_platforms=(platform,)).as_text()
        assert "sdy.manual_computation" in text or "SPMDFullToShardShape" in text
        assert COLLECTIVE.findall(text) == [] and HOST.findall(text) == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in METRICS]
)
def test_the_partitioner_adds_no_collective_to_a_score(name, grid):
    step, given = steps_of(name, grid)[2]
    text = step.lower(*given).compile().as_text()
    assert "num_partitions=4" in text
    assert COLLECTIVE.findall(text) == [] and HOST.findall(text) == []


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_self_check_lowers(platform, grid, monkeypatch):
    monkeypatch.setattr(mesh, "platform_of", lambda _: platform)
    given = selfcheck.problem()
    features, _, _ = selfcheck._blocks(given, grid)
    for kind, other in (
        (selfcheck.CentredGram("bf16x3"), given.design),
        (selfcheck.Readout(selfcheck.READOUT), (Responses(given.responses), given.design)),
    ):
        step = mesh.features_step.__wrapped__(kind, grid, "features")
        text = step.trace(features, other).lower(lowering_platforms=(platform,)).as_text()
        assert COLLECTIVE.findall(text) == [] and HOST.findall(text) == []


def test_the_searches_would_find_what_they_look_for(grid):
    whole = mesh.place(grid, "responses", np.ones((4, 4), np.float32))
    text = jax.jit(lambda x: x.sum()).lower(whole).compile().as_text()
    assert COLLECTIVE.findall(text)
    told = jax.jit(lambda x: jax.pure_callback(np.sin, shaped(3), x))
    assert HOST.findall(told.lower(shaped(3)).as_text())
    with pytest.raises(ValueError, match="different from the lowering platform"):
        told.trace(shaped(3)).lower(lowering_platforms=("tpu",))
