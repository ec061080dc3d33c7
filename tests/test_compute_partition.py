"""Variance partitioning equals the textbook formulas of 2 and 3 sets, and measures on a Venn diagram for 4."""

import jax
import numpy as np
import oracles
import oracles_banded
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.compute import partition as parting

pytestmark = pytest.mark.usefixtures("strict")


def ours(scores, dtype=np.float64):
    with jax.enable_x64(dtype == np.float64):
        out = parting.partition(np.asarray(scores, dtype))
        assert out.dtype == dtype
        return np.asarray(out)


def test_subsets_and_their_names_have_a_fixed_order():
    assert parting.subsets(2) == ((0,), (1,), (0, 1))
    assert parting.subset_names("AB") == ("A", "B", "A+B")
    assert parting.subset_names(["a", "b", "c"]) == ("a", "b", "c", "a+b", "a+c", "b+c", "a+b+c")
    assert len(parting.subset_names("ABCD")) == 15
    assert parting.part_names(["V+A", "L"]) == ("unique V+A", "unique L", "shared V+A+L")


def test_two_sets_follow_the_textbook():
    """Unique A = AB - B, unique B = AB - A, shared = A + B - AB."""
    a, b, ab = np.random.default_rng(0).random((3, 5))
    np.testing.assert_allclose(ours([a, b, ab]), [ab - b, ab - a, a + b - ab], atol=1e-15)


def test_three_sets_follow_de_heer_et_al_2017():
    rng = np.random.default_rng(1)
    a, b, c, ab, ac, bc, abc = rng.random((7, 2, 3))
    expected = [
        abc - bc,
        abc - ac,
        abc - ab,
        ac + bc - c - abc,
        ab + bc - b - abc,
        ab + ac - a - abc,
        a + b + c - ab - ac - bc + abc,
    ]
    np.testing.assert_allclose(ours([a, b, c, ab, ac, bc, abc]), expected, atol=1e-14)


@pytest.mark.parametrize("n_sets", [2, 3, 4])
def test_parts_are_the_measures_of_the_atoms_of_a_venn_diagram(n_sets):
    atoms = oracles_banded.venn(np.random.default_rng(n_sets), n_sets, (3, 2))
    scores = [oracles_banded.union(atoms, subset) for subset in parting.subsets(n_sets)]
    np.testing.assert_allclose(ours(scores), [atoms[one] for one in parting.subsets(n_sets)], atol=1e-13)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(n_sets=st.integers(2, 4), seed=st.integers(0, 10**6))
def test_parts_sum_to_the_full_model(n_sets, seed):
    scores = np.random.default_rng(seed).uniform(-0.2, 0.9, (2**n_sets - 1, 6))
    np.testing.assert_allclose(ours(scores).sum(0), scores[-1], atol=1e-13)


@pytest.mark.parametrize("n_sets", [2, 3, 4])
def test_the_parts_inside_one_set_sum_to_its_model(n_sets):
    scores = np.random.default_rng(5).random((2**n_sets - 1, 4))
    parts = ours(scores)
    for one in range(n_sets):
        inside = [place for place, part in enumerate(parting.subsets(n_sets)) if one in part]
        np.testing.assert_allclose(parts[inside].sum(0), scores[one], atol=1e-13)


def test_a_negative_part_is_not_clipped():
    """Two sets that only together predict: suppression."""
    np.testing.assert_allclose(ours([[0.0], [0.1], [0.5]])[:, 0], [0.4, 0.5, -0.4], atol=1e-15)


def test_a_nan_score_leaves_no_part_of_that_target():
    scores = np.random.default_rng(0).random((7, 3))
    scores[2, 1] = np.nan
    is_nan = np.isnan(ours(scores))
    np.testing.assert_array_equal(is_nan, np.broadcast_to([False, True, False], (7, 3)))


def test_float32_stays_float32():
    scores = np.random.default_rng(0).random((15, 8)).astype(np.float32)
    np.testing.assert_allclose(ours(scores, np.float32), ours(scores), atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (7, 2, 3)])
def test_the_shape_of_scores_is_kept(shape):
    assert ours(np.ones(shape)).shape == shape


# Models of subsets.


def test_columns_of_a_subset():
    groups = np.array([0, 2, 1, 1, 0])
    np.testing.assert_array_equal(parting.subset_columns(groups, (0, 2)), [True, True, False, False, True])


def test_zeroed_columns_give_the_model_of_the_subset():
    rng = np.random.default_rng(3)
    groups = np.repeat([0, 1, 2], [2, 3, 2])
    features, response = rng.standard_normal((20, 7)), rng.standard_normal(20)
    for subset in parting.subsets(3):
        columns = parting.subset_columns(groups, subset)
        weights, intercept = oracles.ridge_fit(features * columns, response, 0.7)
        expected, expected_intercept = oracles.ridge_fit(features[:, columns], response, 0.7)
        np.testing.assert_allclose(weights[columns], expected, atol=1e-12)
        np.testing.assert_allclose([*weights[~columns], intercept - expected_intercept], 0, atol=1e-12)


# Product measure.


def test_the_product_measure_splits_the_r2_of_the_joint_model():
    rng = np.random.default_rng(4)
    parts = rng.standard_normal((3, 30, 4))
    intercept = rng.uniform(-9, 9, 4)
    responses = parts.sum(0) + intercept + rng.standard_normal((30, 4))
    with jax.enable_x64(True):
        shares = np.asarray(parting.product_measure(responses, parts, intercept))
    joint = parts.sum(0) + intercept
    expected = [oracles.r2_of_prediction(y, p) for y, p in zip(responses.T, joint.T, strict=True)]
    np.testing.assert_allclose(shares.sum(0), expected, atol=1e-12)


def test_uncorrelated_parts_have_the_r2_of_their_own_model():
    """With orthogonal parts that are fitted by least squares, the share of a part is its squared correlation."""
    basis, _ = np.linalg.qr(np.c_[np.ones(12), np.random.default_rng(2).standard_normal((12, 4))])
    parts = np.stack([2 * basis[:, 1:2], 0.5 * basis[:, 2:3]])
    responses = parts.sum(0) + 1.5 * basis[:, 3:4]
    with jax.enable_x64(True):
        shares = np.asarray(parting.product_measure(responses, parts, np.zeros(1)))
    expected = [oracles.pearson(responses[:, 0], part[:, 0]) ** 2 for part in parts]
    np.testing.assert_allclose(shares[:, 0], expected, atol=1e-12)


# What is refused.


@pytest.mark.parametrize(("n_sets", "words"), [(1, "1 feature set to"), (5, "5 feature sets to"), (0, "0 feature")])
def test_too_few_or_too_many_sets_are_refused(n_sets, words):
    for call in (parting.subsets, parting.coefficients, lambda n: parting.subset_names("ABCDE"[:n])):
        with pytest.raises(ValueError, match=f"{words}.*2 to 4"):
            call(n_sets)
    with pytest.raises(ValueError, match=words):
        ours(np.zeros((2**n_sets - 1, 2)))


@pytest.mark.parametrize("n_rows", [2, 4, 8, 14])
def test_a_number_of_rows_that_no_number_of_sets_has_is_refused(n_rows):
    with pytest.raises(ValueError, match=f"scores has {n_rows} rows"):
        ours(np.zeros((n_rows, 2)))


def test_equal_labels_are_refused():
    with pytest.raises(ValueError, match=r"\['A', 'A'\] repeat"):
        parting.part_names(["A", "A"])


def test_a_set_without_columns_is_refused():
    with pytest.raises(ValueError, match=r"subset \(0, 3\) names set 3, which has none of the 4 columns"):
        parting.subset_columns(np.array([0, 1, 1, 2]), (0, 3))
