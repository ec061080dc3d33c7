"""Factorisations: features come back, whatever the shape, the solver and the rank; penalties only change a diagonal."""

import jax
import numpy as np
import pytest

from jaxalign.compute import linalg

pytestmark = pytest.mark.usefixtures("strict")

SHAPES = {"tall": (30, 8), "wide": (12, 40), "square": (20, 20)}


_factorise = jax.jit(linalg.factorise, static_argnames=("solver", "platform"))


def factors_of(features, solver="eigh", platform="cpu"):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _factorise(features, solver=solver, platform=platform))


@pytest.fixture(params=SHAPES)
def features(request, rng):
    values = rng.standard_normal(SHAPES[request.param])
    return values - values.mean(0)


@pytest.mark.parametrize("solver", linalg.FACTORISERS)
def test_factors_multiply_back_to_the_features(features, solver):
    factors = factors_of(features, solver)
    np.testing.assert_allclose(factors.left * factors.singular @ factors.right.T, features, atol=1e-10)


@pytest.mark.parametrize("solver", linalg.FACTORISERS)
def test_left_and_right_vectors_are_orthonormal_where_kept(features, solver):
    factors = factors_of(features, solver)
    kept = factors.singular > 0
    for vectors in (factors.left[:, kept], factors.right[:, kept]):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(kept.sum()), atol=1e-9)


@pytest.mark.parametrize("solver", linalg.FACTORISERS)
def test_singular_values_equal_numpy(features, solver):
    expected = np.linalg.svd(features, compute_uv=False)
    expected[expected < 1e-10] = 0
    np.testing.assert_allclose(np.sort(factors_of(features, solver).singular)[::-1], expected, atol=1e-10)


@pytest.mark.parametrize("solver", linalg.FACTORISERS)
@pytest.mark.parametrize("shape", [(30, 8), (12, 40)])
def test_rank_deficiency_is_found_and_dropped(rng, solver, shape):
    features = rng.standard_normal((shape[0], 3)) @ rng.standard_normal((3, shape[1]))
    factors = factors_of(features, solver)
    assert (factors.singular > 0).sum() == 3
    dropped = factors.singular == 0
    np.testing.assert_array_equal(factors.right[:, dropped], 0)


@pytest.mark.parametrize("solver", linalg.FACTORISERS)
@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_cut_off_is_relative_to_the_features(rng, solver, unit):
    factors = factors_of(rng.standard_normal((30, 8)) * unit, solver)
    assert (factors.singular > 0).all()


@pytest.mark.parametrize("solver", linalg.FACTORISERS)
def test_zero_features_have_rank_zero_and_stay_finite(solver):
    factors = factors_of(np.zeros((12, 5)), solver)
    assert all(np.isfinite(leaf).all() for leaf in factors)
    np.testing.assert_array_equal(factors.singular, 0)


@pytest.mark.parametrize("solver", linalg.FACTORISERS)
def test_non_finite_features_stay_visible(features, solver):
    features[2, 1] = np.nan
    assert np.isnan(factors_of(features, solver).singular).any()


def test_padded_rows_have_no_part_in_left_vectors(features):
    padded = np.pad(features, ((0, 4), (0, 0)))
    np.testing.assert_allclose(factors_of(padded).left[-4:], 0, atol=1e-12)


def test_an_unknown_solver_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'lu' does not give singular vectors: use auto, eigh or svd"):
        linalg.factorise(np.zeros((3, 2), np.float32), solver="lu")


def test_eigenvalues_of_a_gram_matrix_are_never_negative(rng):
    half = rng.standard_normal((20, 3)).astype(np.float32)
    values, _ = linalg.symmetric_eigen(half @ half.T, "cpu")
    assert np.asarray(values).min() >= 0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 50.0])
def test_shrinkage_gives_the_weights_of_ridge(features, rng, alpha):
    from sklearn.linear_model import Ridge

    responses = rng.standard_normal(len(features))
    factors = factors_of(features)
    with jax.enable_x64(True):
        diagonal = np.asarray(linalg.shrinkage(factors.singular, np.array([alpha])))[0]
    ours = factors.right @ (diagonal * (factors.left.T @ responses))
    if alpha == 0:
        expected = np.linalg.lstsq(features, responses, rcond=1e-10)[0]
    else:
        expected = Ridge(alpha=alpha, fit_intercept=False).fit(features, responses).coef_
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_shrinkage_of_dropped_directions_is_zero_at_alpha_zero():
    ours = linalg.shrinkage(np.array([0, 2], np.float32), np.array([0, 4], np.float32))
    np.testing.assert_allclose(np.asarray(ours), [[0, 0.5], [0, 0.25]])
