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


# Choosing a way, Cholesky, and filters that span others.


def test_cholesky_multiplies_back_and_without_penalty_a_deficient_matrix_is_nan(rng):
    features = rng.standard_normal((12, 4))
    features[:, 3] = features[:, 0] + 1e3 * features[:, 1]
    gram, full = features.T @ features, features[:, :3].T @ features[:, :3]
    with jax.enable_x64(True):
        factor = np.asarray(linalg.cholesky(gram, np.float64(0.5)))
        none = np.asarray(linalg.cholesky(gram, np.float64(0)))
        # A small unit is no deficiency: the pivots are judged column by column.
        small = np.asarray(linalg.cholesky(full * np.outer([1, 1e-9, 1], [1, 1e-9, 1]), np.float64(0)))
    np.testing.assert_allclose(factor @ factor.T, gram + 0.5 * np.eye(4), rtol=1e-12)
    assert np.isnan(none).all()
    assert np.isfinite(small).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("svd", 50, 9, 3, "cpu"), "svd"),
        (("auto", 50, 9, None, "cpu"), "eigh"),
        (("auto", 50, 1, None, "cpu"), "cholesky"),
        (("auto", 1000, 1, 10, "cpu"), "cholesky"),
        (("auto", 1000, 20, 10, "cpu"), "eigh"),
    ],
)
def test_the_solver_follows_the_shape(given, expected):
    assert linalg.resolve(*given) == expected


def test_resolving_an_unknown_solver_names_the_known_ones():
    with pytest.raises(ValueError, match="solver='lu' is not one of auto, eigh, svd, cholesky"):
        linalg.resolve("lu", 3, 2, 1, "cpu")


SPECTRA = {
    "flat": np.linspace(1, 2, 200),
    "power law": np.arange(1, 201.0) ** -1.5,
    "steep": 10.0 ** np.linspace(0, -8, 200),
    "two scales": np.repeat([1e3, 1e-2], 100),
    "deficient": np.r_[np.linspace(1, 5, 100), np.zeros(100)],
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("decades", [2, 7, 12])
@pytest.mark.parametrize(("dtype", "promise"), [(np.float32, 1e-6), (np.float64, 1e-11)])
def test_a_few_filters_span_those_of_all_penalties_as_promised(spectrum, decades, dtype, promise):
    """The largest error of any filter, which bounds that of a prediction relative to the responses."""
    singular = SPECTRA[spectrum].astype(dtype)
    middle = float(np.median(singular[singular > 0]) ** 2)
    alphas = (middle * 10 ** np.linspace(-decades / 2, decades / 2, 300)).astype(dtype)
    alphas[0] = 0
    size = linalg.basis_size(alphas, dtype)
    assert 0 < size < 140
    with jax.enable_x64(dtype == np.float64):
        basis, share = map(np.asarray, _basis(singular, alphas, size))
    squared = singular.astype(np.float64) ** 2
    total = squared + alphas.astype(np.float64)[:, None]
    every = np.where(squared > 0, squared / np.where(squared > 0, total, 1), 0)
    error = share.astype(np.float64) @ basis.astype(np.float64) - every
    assert np.abs(error).max() <= promise


_basis = jax.jit(linalg.filter_basis, static_argnums=2)


def test_few_or_equal_penalties_need_no_basis():
    assert linalg.basis_size(np.geomspace(1e-3, 1e3, 12), np.float32) == 0
    assert linalg.basis_size(np.zeros(100), np.float32) == 0
    assert linalg.basis_size(np.full(100, 3.0), np.float32) == 0
    assert 0 < linalg.basis_size(np.geomspace(1e-3, 1e3, 200), np.float32) < 45


def test_no_more_directions_are_used_than_there_are():
    basis, share = _basis(np.array([3, 0, 2], np.float32), np.geomspace(0.1, 10, 50).astype(np.float32), 12)
    assert basis.shape == (3, 3) and share.shape == (50, 3)
