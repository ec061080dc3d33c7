"""The steps of a run compiled for TPU v5e by libtpu, without a TPU: pip install libtpu, then pytest -m tpu_compile.

libtpu (200 MB) is not in the lock; without it these tests are skipped. Its compiler needs JAX's version of it.
"""

import importlib.util
import os
import time

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding

from jaxalign.compute import METRICS, folds
from jaxalign.contracts import Features, Null, Patterns, Responses
from jaxalign.runtime import mesh
from jaxalign.runtime.selfcheck import READOUT, CentredGram, Readout, problem

pytestmark = pytest.mark.tpu_compile

N, WIDTH, N_FITS, N_TARGETS, N_CHANNELS, N_PERMUTATIONS = 420, 300, 2, 128, 9, 3
"""Training parts above 256 stimuli: the eigendecomposition that TPUs have two routines for."""


@pytest.fixture(scope="module")
def grid():
    """Four chips that are known by their description only."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu absent: pip install libtpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    chips = topologies.get_topology_desc("v5e:2x2", "tpu").devices
    return mesh._mesh_of(np.asarray(chips).reshape(2, 2))


def laid_out(grid, layout, tree):
    """Shapes with their places on chips that are not there."""
    sharding = NamedSharding(grid, mesh.LAYOUT[layout])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree)


def null_of(grid):
    n_cells = N_TARGETS + 2
    rows, family = (np.zeros(shape, np.int32) for shape in ((N_PERMUTATIONS + 1, N), (n_cells,)))
    null = Null(rows, np.zeros((N_TARGETS // 2, 1), np.float32), family, 2, True)
    layouts = Null("shared", "shared", "family", 2, True)
    return jax.tree.map(lambda leaf, layout: laid_out(grid, layout, leaf), null, layouts)


def compiled(step, *given):
    begin = time.perf_counter()
    program = step.lower(*given).compile()
    return program, time.perf_counter() - begin


@pytest.mark.parametrize("name", METRICS)
def test_the_steps_of_a_metric_compile(name, grid, record_property):
    metric = METRICS[name](n_permutations=N_PERMUTATIONS)
    layout = "patterns" if metric.takes == "patterns" else "responses"
    values = np.zeros((N, N_CHANNELS, N_TARGETS) if layout == "patterns" else (N, N_TARGETS), np.float32)
    responses = laid_out(grid, layout, (Patterns if layout == "patterns" else Responses)(values))
    block = np.zeros((N_FITS, N, 1 if name == "correlation" else WIDTH), np.float32)
    features = laid_out(grid, "features", Features(block, np.zeros(N_FITS, np.int32)))
    design = laid_out(grid, "shared", folds.design(folds.contiguous(N, 3), 3, 0))
    ours, theirs = mesh.features_step(metric, grid, "features"), mesh.responses_step(metric, grid, layout)
    score = mesh.score_step(metric, grid, 2, True)
    seconds = {}
    for stage, step, given in (
        ("features", ours, (features, design)),
        ("responses", theirs, (responses, design)),
        ("score", score, None),
    ):
        given = given or (
            jax.eval_shape(ours, features, design),
            jax.eval_shape(theirs, responses, design),
            design,
            null_of(grid),
        )
        program, seconds[stage] = compiled(step, *given)
        text = program.as_text()
        assert "all-reduce" not in text and "all-gather" not in text and "infeed" not in text
    record_property("compile_s", seconds)
    print(name, {stage: round(value, 1) for stage, value in seconds.items()})


def test_the_quick_self_check_compiles(grid):
    given = problem()
    block = Features(np.zeros((2, *given.features.shape), np.float32), np.zeros(2, np.int32))
    features = laid_out(grid, "features", block)
    seconds = {}
    for kind, other in ((CentredGram(), given.design), (Readout(READOUT), (Responses(given.responses), given.design))):
        step = mesh.features_step(kind, grid, "features")
        _, seconds[type(kind).__name__] = compiled(step, features, laid_out(grid, "shared", other))
    print("selfcheck", {name: round(value, 1) for name, value in seconds.items()})
