"""Every step of every metric lowers for TPU and CUDA on a machine that has neither, and sends nothing between devices."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxalign.compute import METRICS, folds
from jaxalign.contracts import Features, MeshConfig, Null, Patterns, Rdms, Responses
from jaxalign.runtime import mesh

pytestmark = pytest.mark.usefixtures("strict")

COLLECTIVE = re.compile(
    r"stablehlo\.(all_reduce|all_gather|all_to_all|collective_permute|collective_broadcast|reduce_scatter)"
)
N, WIDTH, N_FITS, N_TARGETS, N_CHANNELS = 420, 300, 8, 6, 9
TALL_WIDTH = 40
"""So far below the number of stimuli that held-out Gram matrices are the cheaper way to score."""
N_PAIRS = N * (N - 1) // 2
CASES = {
    "ridge": ("ridge", {}),
    "ridge_svd": ("ridge", {"solver": "svd"}),
    "ridge_loo": ("ridge", {"choose_by": "loo"}),
    "ridge_gcv": ("ridge", {"choose_by": "gcv", "criterion": "neg_mse"}),
    "ridge_cholesky": ("ridge", {"alphas": "given", "alpha_values": (1.0, 10.0), "solver": "cholesky"}),
    "ridge_dense": ("ridge", {"alphas": "given", "alpha_values": tuple(np.geomspace(1, 1e4, 200))}),
    "ridge_refined": ("ridge", {"n_refinements": 5, "criterion": "pearson_r"}),
    "ridge_tall": ("ridge", {}),
    "ridge_tall_dense": ("ridge", {"alphas": "given", "alpha_values": tuple(np.geomspace(1, 1e4, 200))}),
    "ridge_blocks": ("ridge", {"folds": "blocks", "gap": 3}),
    "rsa": ("rsa", {}),
    "rsa_pearson": ("rsa", {"comparator": "pearson"}),
    "rsa_of_rdms": ("rsa", {}),
    "correlation": ("correlation", {}),
}
GEOMETRY = {
    "rsa_tau-b": ("rsa", {"comparator": "tau-b"}),
    "rsa_whitened": ("rsa", {"comparator": "corr_cov", "distance": "euclidean", "is_zscored": True}),
    **{
        f"similarity_{name}": ("similarity", {"measure": name})
        for name in ("cka", "cka_rbf_biased", "dcor", "mutual_knn", "cknna", "mi_gaussian", "procrustes")
    },
}
"""Every form of the geometry; each run of the tests lowers one of them, the slow rest the others."""

CASES |= GEOMETRY
MARKED = [
    pytest.param(case, marks=pytest.mark.slow) if case in GEOMETRY and case != "similarity_cka" else case
    for case in CASES
]


def shaped(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def inputs(case):
    """Features and responses of a case as shapes, and their layouts."""
    widths = shaped(N_FITS, dtype=np.int32)
    if case == "rsa_of_rdms":
        return Rdms(shaped(N_PAIRS, N_FITS)), "rdm_features", Rdms(shaped(N_PAIRS, N_TARGETS)), "responses"
    if case.startswith(("rsa", "similarity")):
        patterns = Patterns(shaped(N, N_CHANNELS, N_TARGETS))
        return Features(shaped(N_FITS, N, WIDTH), widths), "features", patterns, "patterns"
    width = (
        1
        if case == "correlation"
        else TALL_WIDTH
        if case in ("ridge_tall", "ridge_tall_dense", "ridge_blocks")
        else WIDTH
    )
    return Features(shaped(N_FITS, N, width), widths), "features", Responses(shaped(N, N_TARGETS)), "responses"


@pytest.fixture
def grid(devices):
    return mesh.make_mesh(MeshConfig(fit=4, target=2))


@pytest.mark.parametrize("is_fixed_split", [False, True])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("case", MARKED)
def test_every_step_lowers_and_nothing_crosses_devices(case, platform, is_fixed_split, grid, monkeypatch):
    monkeypatch.setattr(mesh, "platform_of", lambda _: platform)
    name, settings = CASES[case]
    metric = METRICS[name](**settings)
    is_test = folds.contiguous(N, 5)[:1] if is_fixed_split else folds.contiguous(N, 2)
    design = folds.design(is_test, 2, 0, is_fixed_split=is_fixed_split)
    if case == "ridge_blocks":
        given = is_test[0] if is_fixed_split else None
        design = folds.nested("blocks", N, 2, 2, 0, is_test=given, gap=3, weights=np.ones(N, np.float32))
        assert design.inner.rest is not None
    n_relabelled = N if case in ("correlation", "rsa_of_rdms") or not is_fixed_split else N // 5
    features, features_layout, responses, responses_layout = inputs(case)
    if case == "rsa_of_rdms" and is_fixed_split:
        design = replace(design, rsa_rows=np.arange(N, dtype=np.int32))
    # The uncached steps: the cached ones belong to the platform of this machine.
    steps = (
        mesh.features_step.__wrapped__(metric, grid, features_layout),
        mesh.responses_step(metric, grid, responses_layout),
    )
    states = []
    for step, given in zip(steps, (features, responses), strict=True):
        check(step, platform, given, design)
        states.append(jax.eval_shape(step, given, design))
    if case in ("ridge_tall", "ridge_tall_dense"):
        assert states[0].inner.gram is not None, "the intended way is taken"
    null = Null(
        shaped(4, n_relabelled, dtype=np.int32),
        shaped(N_TARGETS // 2, 1),
        shaped(N_TARGETS + 2, dtype=np.int32),
        2,
        True,
    )
    check(mesh.score_step(metric, grid, 2, True), platform, *states, design, null)


def check(step, platform, *given):
    text = step.trace(*given).lower(lowering_platforms=(platform,)).as_text()
    assert "sdy.manual_computation" in text or "SPMDFullToShardShape" in text
    assert COLLECTIVE.findall(text) == []


def test_the_search_for_collectives_would_find_one(grid):
    summed = jax.shard_map(
        lambda x: jax.lax.psum(x, mesh.FIT), mesh=grid, in_specs=mesh.P(mesh.FIT), out_specs=mesh.P(), check_vma=False
    )
    text = jax.jit(summed).trace(shaped(8)).lower(lowering_platforms=("tpu",)).as_text()
    assert COLLECTIVE.findall(text) == ["all_reduce"]
