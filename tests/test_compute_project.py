"""Projections: seeded, piecewise, true to distances; principal components of training rows alone, equal to scikit-learn."""

from functools import cache, partial
from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim

from jaxalign.compute import project as module
from jaxalign.compute.project import (
    BLOCK,
    SparseProjection,
    fit_pca,
    johnson_lindenstrauss_dim,
    pca_scores,
    plan_projection,
    project,
)

pytestmark = pytest.mark.usefixtures("strict")

WIDE = 2 * BLOCK + 1000
PLAN = SparseProjection(WIDE, 300, 1 / np.sqrt(WIDE), 7)


@cache
def matrix(plan=PLAN):
    n_blocks = -(-plan.n_features // BLOCK)
    return np.concatenate([plan.block(index, np.float64) for index in range(n_blocks)])


@cache
def features_of(width, n_stimuli=12):
    return np.random.default_rng(width).standard_normal((n_stimuli, width))


def projected(features, plan=PLAN, dtype=np.float64, **piece):
    with jax.enable_x64(dtype == np.float64):
        found = project(jax.numpy.asarray(features, dtype), plan, **piece)
        assert found.dtype == dtype
        return np.asarray(found)


# The dimension.


@given(st.integers(2, 10**6), st.floats(0.01, 0.99))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_dimension_equals_scikit_learn(n_stimuli, eps):
    assert johnson_lindenstrauss_dim(n_stimuli, eps) == johnson_lindenstrauss_min_dim(n_stimuli, eps=eps)


def test_features_that_are_few_are_returned_as_they_are_and_it_says_so():
    plan = plan_projection(200, 768, 0)
    assert johnson_lindenstrauss_dim(200) == 4541 and plan.is_identity and plan.n_components == 768
    features = features_of(768)
    np.testing.assert_array_equal(projected(features, plan), features)
    pieces = [projected(features[:, a:b], plan, start=a) for a, b in [(0, 100), (100, 768)]]
    np.testing.assert_array_equal(sum(pieces), features)


def test_a_plan_takes_its_size_from_the_stimuli_and_its_density_from_the_features():
    plan = plan_projection(200, 10_000, 3, eps=0.3)
    assert not plan.is_identity and plan.n_components == johnson_lindenstrauss_dim(200, 0.3)
    assert plan.density == pytest.approx(0.01) and plan.seed == 3
    assert plan_projection(200, 10_000, 3, n_components=50, density=1 / 3).n_components == 50


# The matrix.


@pytest.mark.parametrize("density", [None, 1 / 3, 1.0], ids=["li", "achlioptas", "dense"])
def test_the_matrix_has_the_values_and_statistics_of_scikit_learn(density):
    n_features, n_components = 5000, 200
    plan = plan_projection(1000, n_features, 11, n_components=n_components, density=density)
    peer = SparseRandomProjection(n_components, density=density or "auto", random_state=0, dense_output=True)
    peer.fit(np.zeros((2, n_features)))
    assert plan.density == pytest.approx(peer.density_)
    ours, theirs = matrix(plan), np.asarray(abs(peer.components_).max())
    size = np.sqrt(1 / (plan.density * n_components))
    np.testing.assert_allclose(np.unique(np.abs(ours[ours != 0])), size)
    np.testing.assert_allclose(theirs, size)
    # 5 standard errors of each count; the counts are binomial.
    n_entries, n_nonzero = ours.size, np.count_nonzero(ours)
    sd = np.sqrt(n_entries * plan.density * (1 - plan.density))
    assert abs(n_nonzero - n_entries * plan.density) <= 5 * sd
    assert abs((ours > 0).sum() - n_nonzero / 2) <= 5 * np.sqrt(n_nonzero) / 2
    assert ours.var() == pytest.approx(1 / n_components, rel=5 / np.sqrt(n_entries * plan.density))


def test_entries_are_drawn_apart_from_each_other():
    """Counts over rows and over columns, and products of neighbours, are those of independent entries."""
    is_nonzero = matrix() != 0
    for axis in (0, 1):
        counts = is_nonzero.sum(axis)
        expected = is_nonzero.shape[axis] * PLAN.density * (1 - PLAN.density)
        assert counts.var() == pytest.approx(expected, rel=5 * np.sqrt(2 / len(counts)))
    for first, second in [(matrix()[:, 1:], matrix()[:, :-1]), (matrix()[1:], matrix()[:-1])]:
        both = first * second
        assert abs(both.mean()) < 5 * both.std() / np.sqrt(both.size)
        pairs = np.count_nonzero(both)
        assert abs(pairs - both.size * PLAN.density**2) < 5 * np.sqrt(both.size) * PLAN.density


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    again = SparseProjection(WIDE, 300, 1 / np.sqrt(WIDE), 7)
    assert PLAN.block(1).tobytes() == again.block(1).tobytes()
    for other in [PLAN.block(0), SparseProjection(WIDE, 300, PLAN.density, 8).block(1)]:
        assert (other != PLAN.block(1)).any()


def test_the_bytes_of_a_seed_stay_what_they_were():
    """Positions and signs of the first entries of seed 7, so that stored projections stay readable."""
    place = np.flatnonzero(PLAN.block(0))[:6]
    assert place.tolist() == FIRST_PLACES
    assert np.sign(PLAN.block(0).reshape(-1)[place]).astype(int).tolist() == FIRST_SIGNS


FIRST_PLACES = [13, 130, 213, 300, 538, 573]
FIRST_SIGNS = [1, -1, 1, 1, 1, 1]


# What is projected.


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-11), (np.float32, 5e-5)])
def test_the_projection_is_the_product_with_the_matrix(dtype, atol):
    features = features_of(WIDE)
    np.testing.assert_allclose(projected(features, dtype=dtype), features @ matrix(), atol=atol)


@given(st.lists(st.integers(1, WIDE - 1), min_size=1, max_size=4, unique=True))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_pieces_add_up_to_the_whole(borders):
    features = features_of(WIDE, 3)
    ends = [0, *sorted(borders), WIDE]
    pieces = [projected(features[:, a:b], start=a) for a, b in pairwise(ends)]
    np.testing.assert_allclose(sum(pieces), features @ matrix(), atol=1e-11)


def test_pieces_that_are_blocks_add_up_to_the_same_bytes():
    features = features_of(WIDE).astype(np.float32)
    total = np.zeros((len(features), PLAN.n_components), np.float32)
    for start in range(0, WIDE, BLOCK):
        total = total + projected(features[:, start : start + BLOCK], dtype=np.float32, start=start)
    assert total.tobytes() == projected(features, dtype=np.float32).tobytes()


def test_no_more_than_a_block_of_the_matrix_is_ever_made(monkeypatch):
    made = []
    block = SparseProjection.block

    def seen(*given):
        made.append(block(*given))
        return made[-1]

    monkeypatch.setattr(module.SparseProjection, "block", seen)
    projected(features_of(WIDE, 3))
    assert len(made) == 3 and max(part.nbytes for part in made) <= BLOCK * PLAN.n_components * 8


def test_squared_distances_stay_within_eps():
    n_stimuli, eps = 12, 0.35
    plan = plan_projection(n_stimuli, WIDE, 1, eps=eps)
    assert not plan.is_identity
    features = features_of(WIDE)
    before, after = squared_distances(features), squared_distances(projected(features, plan))
    assert np.all(np.abs(after / before - 1) < eps)


def squared_distances(values):
    first, second = np.triu_indices(len(values), 1)
    return ((values[first] - values[second]) ** 2).sum(1)


def test_squared_lengths_are_kept_on_average():
    """Over 40 seeds the mean ratio is 1 within 5 standard errors."""
    features = features_of(2000, 1)
    ratios = []
    for seed in range(40):
        after = features @ SparseProjection(2000, 60, 1 / np.sqrt(2000), seed).block(0, np.float64)
        ratios.append((after**2).sum() / (features**2).sum())
    assert abs(np.mean(ratios) - 1) < 5 * np.std(ratios, ddof=1) / np.sqrt(40)


# Principal components.


N, N_TRAIN, WIDTHS = 40, 25, {"tall": 8, "wide": 60}
IS_TRAIN = np.isin(np.arange(N), np.random.default_rng(5).permutation(N)[:N_TRAIN])


@cache
def spread(width):
    rng = np.random.default_rng(width)
    return rng.standard_normal((N, width)) @ rng.standard_normal((width, width)) + rng.uniform(-3, 3, width)


@partial(jax.jit, static_argnames=("n_components", "solver", "is_whitened"))
def fitted(features, is_train, n_components=5, solver="auto", is_whitened=False):
    pca = fit_pca(features, is_train, n_components, solver=solver)
    return pca, pca_scores(features, pca, is_whitened=is_whitened)


def components_of(features, dtype=np.float64, is_train=IS_TRAIN, **options):
    with jax.enable_x64(dtype == np.float64):
        pca, scores = fitted(features.astype(dtype), is_train, **options)
        assert pca.components.dtype == scores.dtype == dtype
        return jax.tree.map(np.asarray, pca), np.asarray(scores)


@pytest.mark.parametrize("is_whitened", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-8), (np.float32, 2e-4)])
@pytest.mark.parametrize("shape", WIDTHS)
def test_components_and_scores_equal_scikit_learn_on_the_training_rows(shape, dtype, atol, is_whitened):
    features = spread(WIDTHS[shape])
    peer = PCA(5, svd_solver="full", whiten=is_whitened).fit(features[IS_TRAIN])
    ours, scores = components_of(features, dtype, is_whitened=is_whitened)
    np.testing.assert_allclose(ours.components.T, peer.components_, atol=atol)
    np.testing.assert_allclose(ours.variance_share, peer.explained_variance_ratio_, atol=atol)
    np.testing.assert_allclose(ours.variance, peer.explained_variance_, rtol=atol)
    np.testing.assert_allclose(scores, peer.transform(features), atol=atol * np.abs(scores).max())


@pytest.mark.parametrize("solver", ["auto", "svd"])
def test_solvers_agree(solver):
    ours, scores = components_of(spread(60), solver=solver, n_components=6)
    other, others = components_of(spread(60), n_components=6)
    np.testing.assert_allclose(ours.components, other.components, atol=1e-9)
    np.testing.assert_allclose(scores, others, atol=1e-9)


@pytest.mark.parametrize("planted", [1e30, np.inf, np.nan])
def test_rows_outside_training_change_no_bit_of_the_components(planted):
    features = spread(8)
    broken = features.copy()
    broken[~IS_TRAIN] = planted
    for ours, bare in zip(components_of(broken)[0], components_of(features)[0], strict=True):
        assert ours.tobytes() == bare.tobytes()


def test_the_largest_loading_is_positive_and_components_are_orthonormal():
    components = components_of(spread(60), n_components=10)[0].components
    assert (np.take_along_axis(components, np.abs(components).argmax(0)[None], 0) > 0).all()
    np.testing.assert_allclose(components.T @ components, np.eye(10), atol=1e-9)


def test_components_beyond_the_rank_are_zero():
    features = spread(8)[:, [0, 1, 2, 0, 1, 2]]
    ours, scores = components_of(features, is_whitened=True)
    np.testing.assert_array_equal(ours.components[:, 3:], 0)
    np.testing.assert_array_equal(scores[:, 3:], 0)
    np.testing.assert_allclose(ours.variance_share.sum(), 1)
    np.testing.assert_allclose(scores[IS_TRAIN, :3].std(0, ddof=1), 1)


def test_a_feature_at_5000_costs_scores_its_rounding_only():
    features = spread(8).copy()
    features[:, 3] += 5000
    features = features.astype(np.float32).astype(np.float64)
    ours, expected = components_of(features, np.float32)[1], components_of(features)[1]
    np.testing.assert_allclose(ours, expected, atol=2e-4)


# Wrong input.


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: johnson_lindenstrauss_dim(10, 1.0), "eps=1.0"),
        (lambda: johnson_lindenstrauss_dim(0), "n_stimuli=0"),
        (lambda: plan_projection(1, 100, 0), "n_stimuli=1: distances need at least 2"),
        (lambda: plan_projection(10, 100, 0, n_components=101), "n_components=101 of 100 features"),
        (lambda: plan_projection(10, 0, 0), "n_components=0 of 0 features"),
        (lambda: plan_projection(10, 100, 0, n_components=5, density=0.0), "density=0.0"),
        (lambda: plan_projection(10, 100, -1, n_components=5), "seed=-1"),
        (lambda: PLAN.block(3), "block 3 of 3"),
        (lambda: project(np.zeros((2, 10)), PLAN, start=WIDE - 5), f"features {WIDE - 5} to {WIDE + 5} were given"),
        (lambda: fit_pca(np.zeros((4, 9)), np.ones(4, bool), 5), "n_components=5 of 4 stimuli and 9 features"),
    ],
)
def test_wrong_input_is_named_with_its_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_components_lower_for_accelerators(platform):
    step = jax.jit(lambda values, rows: fit_pca(values, rows, 5, platform=platform))
    traced = step.trace(jax.ShapeDtypeStruct((N, 60), np.float32), jax.ShapeDtypeStruct((N,), np.bool_))
    assert "callback" not in traced.lower(lowering_platforms=(platform,)).as_text()
