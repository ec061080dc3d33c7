"""Tests over subjects equal a loop over flips and MNE, keep their error rates, and refuse scores that no flip can test."""

from functools import cache

import jax
import mne
import numpy as np
import oracles_group as oracles
import pytest
from scipy import stats

from jaxalign.compute import group, multiplicity

pytestmark = pytest.mark.usefixtures("strict")

N_SUBJECTS, N_CELLS = 7, 6
SLOW = {"t": oracles.student, "mean": oracles.mean}


@cache
def scores():
    rng = np.random.default_rng(4)
    return rng.standard_normal((N_SUBJECTS, N_CELLS)) + np.linspace(-0.6, 1.4, N_CELLS)


@cache
def flips():
    return group.sign_flips(N_SUBJECTS, 1000, 0)


@cache
def slow_null(statistic, tail):
    null = oracles.flip_null(scores(), oracles.all_flips(N_SUBJECTS), SLOW[statistic])
    return np.abs(null) if tail == "two-sided" else null


def test(values, given=None, dtype=np.float64, score="z", **settings):
    with jax.enable_x64(dtype == np.float64):
        return group.group_test(values.astype(dtype), given or flips(), score=score, **settings)


test.__test__ = False


# Flips.


def test_few_subjects_get_every_flip_once_and_the_observed_one_first():
    signs, is_exhaustive = group.sign_flips(5, 32, 0)
    assert is_exhaustive and signs.dtype == np.int8 and (signs[0] == 1).all()
    assert {tuple(row) for row in signs} == {tuple(row) for row in oracles.all_flips(5)} and len(signs) == 32


def test_many_subjects_get_random_flips_beside_the_observed_one():
    signs, is_exhaustive = group.sign_flips(5, 31, 0)
    assert not is_exhaustive and signs.shape == (32, 5) and (signs[0] == 1).all()
    drawn = group.sign_flips(70, 2000, 0).signs
    assert set(np.unique(drawn)) == {-1, 1}
    assert np.abs(drawn.mean(0)).max() < 4.5 / np.sqrt(2000)


def test_a_flip_depends_on_its_index_and_not_on_how_many_there_are():
    np.testing.assert_array_equal(group.sign_flips(20, 9, 3).signs, group.sign_flips(20, 50, 3).signs[:10])
    assert (group.sign_flips(20, 9, 4).signs != group.sign_flips(20, 9, 3).signs).any()


# Against definitions.


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("tail", ["greater", "two-sided"])
@pytest.mark.parametrize("statistic", ["t", "mean"])
def test_p_values_equal_a_loop_over_all_flips(statistic, tail, dtype):
    ours, null = test(scores(), statistic=statistic, tail=tail, dtype=dtype), slow_null(statistic, tail)
    expected = [SLOW[statistic](column) for column in scores().T]
    np.testing.assert_allclose(ours.statistic, expected, rtol=1e-12 if dtype == np.float64 else 1e-5)
    np.testing.assert_array_equal(ours.p, oracles.plain_p(null))
    np.testing.assert_array_equal(ours.p_corrected, oracles.max_p(null))
    np.testing.assert_array_equal(ours.p_stepdown, oracles.step_down_p(null))


def test_random_flips_count_the_observed_one():
    given = group.Flips(flips().signs[:41], False)
    null = oracles.flip_null(scores(), given.signs, oracles.student)
    ours = test(scores(), given)
    np.testing.assert_array_equal(ours.p, oracles.plain_p(null))
    np.testing.assert_array_equal(ours.p_stepdown, oracles.step_down_p(null))
    assert ours.p.min() >= 1 / 41


@pytest.mark.parametrize("n_values", [1, 40, 6 * 128])
def test_chunks_of_flips_change_nothing(n_values, monkeypatch):
    monkeypatch.setattr(group, "VALUES_PER_CHUNK", n_values)
    with jax.enable_x64(True):
        counts = group.count_flips(scores(), flips().signs[:100])
    whole = group.finish(counts, 100, tail="greater", n_subjects=N_SUBJECTS)
    null = oracles.flip_null(scores(), flips().signs[:100], oracles.student)
    np.testing.assert_array_equal(whole.p_corrected, oracles.max_p(null))
    np.testing.assert_allclose(counts.maxima, null.max(1), rtol=1e-12)


def test_t_equals_scipys_and_corrected_p_equals_mnes_exact_test():
    ours = test(scores(), tail="two-sided")
    np.testing.assert_allclose(ours.statistic, stats.ttest_1samp(scores(), 0).statistic, rtol=1e-12)
    t, p, _ = mne.stats.permutation_t_test(scores(), n_permutations=10**6, tail=0, verbose="error")
    np.testing.assert_allclose(ours.statistic, t, rtol=1e-12)
    np.testing.assert_allclose(ours.p_corrected, p, rtol=1e-12)


def test_p_of_the_mean_equals_scipys_permutation_test():
    theirs = stats.permutation_test(
        (scores(),), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater", axis=0
    )
    np.testing.assert_allclose(test(scores(), statistic="mean").p, theirs.pvalue, rtol=1e-12)


def test_paired_scores_equal_the_test_of_their_differences():
    other = np.random.default_rng(9).standard_normal(scores().shape)
    with jax.enable_x64(True):
        paired = group.paired_test(scores(), other, flips(), score="spearman")
    np.testing.assert_allclose(paired.statistic, stats.ttest_rel(scores(), other).statistic, rtol=1e-12)
    for ours, expected in zip(paired, test(scores() - other, tail="two-sided"), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("unit", [1e-15, 1e12])
def test_the_unit_of_a_score_changes_no_p_in_float32(unit):
    ours, expected = (test(scores() * one, statistic="mean", dtype=np.float32) for one in (unit, 1))
    np.testing.assert_array_equal(ours.p, expected.p)
    np.testing.assert_array_equal(ours.p_corrected, expected.p_corrected)


# Floors, missing and constant scores.


@pytest.mark.parametrize(("n_subjects", "floor"), [(4, 1 / 16), (8, 1 / 256), (10, 1 / 1024)])
def test_floors_of_few_subjects(n_subjects, floor):
    ours = test(np.arange(1.0, n_subjects + 1)[:, None], group.sign_flips(n_subjects, 1024, 0))
    assert ours.p[0] == ours.floor[0] == floor


def test_two_sided_and_random_flips_have_floors_of_their_own():
    both = test(np.arange(1.0, 8)[:, None], tail="two-sided")
    assert both.p[0] == both.floor[0] == 2 / 128
    np.testing.assert_array_equal(multiplicity.flip_floor(11, np.array([2, 4]), "greater"), [1 / 4, 1 / 11])


def test_few_subjects_are_told_what_to_do():
    assert "no p below 1/16" in group.wording(4) and "to stimuli, not to subjects" in group.wording(5)
    assert group.wording(6) == "generalises to subjects, not to stimuli"


def test_a_cell_uses_the_subjects_that_it_has():
    values = scores().copy()
    values[[1, 4], 5] = np.nan
    values[1:, 0] = np.nan
    ours = test(values)
    np.testing.assert_array_equal(ours.n_subjects, [1, 7, 7, 7, 7, 5])
    alone = test(values[[0, 2, 3, 5, 6], 5:], group.sign_flips(5, 100, 0))
    np.testing.assert_allclose(ours.statistic[5], alone.statistic[0], rtol=1e-12)
    assert ours.p[5] == alone.p[0] and ours.floor[5] == 1 / 32
    assert all(np.isnan(one[0]) for one in ours[:5])
    null = oracles.flip_null(values[:, 1:], oracles.all_flips(N_SUBJECTS), oracles.student)
    np.testing.assert_array_equal(ours.p_corrected[1:], oracles.max_p(null))
    np.testing.assert_array_equal(ours.p_stepdown[1:], oracles.step_down_p(null))


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_scores_of_one_size_have_no_t_and_disturb_no_other_cell(value):
    values = scores().copy()
    values[:, 2] = value
    ours, without = test(values), test(np.delete(values, 2, 1))
    assert all(np.isnan(one[2]) for one in ours[:5])
    np.testing.assert_array_equal(np.delete(ours.p_corrected, 2), without.p_corrected)
    assert test(values, statistic="mean").p[2] == (1.0 if value == 0 else 1 / 128)


# What is refused.


@pytest.mark.parametrize("score", ["cka_biased", "rv", "dcor", "hsic_biased", "mutual_knn", "cosine", "r2"])
def test_scores_that_are_not_zero_without_effect_are_refused_unless_calibrated(score):
    with pytest.raises(ValueError, match=rf"{score} is not 0 on average .*is .27 at 200 stimuli"):
        test(scores(), score=score)
    with pytest.raises(ValueError, match="not 0 on average"):
        group.paired_test(scores(), scores(), flips(), score=score)
    np.testing.assert_array_equal(test(scores(), score=score, is_calibrated=True).p, test(scores()).p)


def test_biased_scores_of_noise_would_have_been_found_in_every_draw(rng):
    """Linear CKA of noise with noise, eight subjects: why the refusal is there."""
    values = np.zeros((8, 1))
    for subject in range(8):
        x, y = (rng.standard_normal((40, width)) for width in (200, 17))
        x, y = x - x.mean(0), y - y.mean(0)
        values[subject] = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert test(values, group.sign_flips(8, 1000, 0), score="z").p[0] == 1 / 256


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"score": "spaerman"}, "Nearest: spearman"),
        ({"statistic": "median"}, "statistic='median' is not a test statistic"),
        ({"tail": "two_sided"}, "Nearest: two-sided"),
        (
            {"given": group.Flips(np.ones((4, 3), np.int8), False)},
            r"flips have shape \(4, 3\) and the scores 7 subjects",
        ),
        ({"given": group.Flips(-np.ones((4, 7), np.int8), False)}, "first row is all 1"),
    ],
)
def test_wrong_requests_are_refused_with_what_to_do(settings, words):
    with pytest.raises(ValueError, match=words):
        test(scores(), **settings)


def test_one_subject_is_no_group():
    with pytest.raises(ValueError, match="1 subject: a test over subjects needs at least 2"):
        group.sign_flips(1, 10, 0)


# Multiplicity.


def test_exhaustive_p_is_a_share_that_counts_the_observed_labelling():
    np.testing.assert_array_equal(multiplicity.exact_p(np.array([1, 8]), 16), [1 / 16, 0.5])
    with pytest.raises(ValueError, match="Counts run from 0 to 8 of 16"):
        multiplicity.exact_p(np.array([0, 8]), 16)


def test_step_down_equals_the_definition_and_is_never_above_the_plain_maximum(rng):
    null = rng.standard_normal((60, 8)) + np.where(np.arange(60)[:, None] == 0, np.linspace(-1, 3, 8), 0)
    null[30, 4] = null[0, 4]
    np.testing.assert_array_equal(multiplicity.step_down(null), oracles.step_down_p(null))
    both = multiplicity.step_down(null, "two-sided")
    np.testing.assert_array_equal(both, oracles.step_down_p(np.abs(null)))
    assert (both <= oracles.max_p(np.abs(null))).all()


def test_step_down_leaves_undefined_cells_out(rng):
    null = rng.standard_normal((60, 5))
    with_nan = np.insert(null, 2, np.nan, axis=1)
    with_nan[7, 2] = 99
    p = multiplicity.step_down(with_nan)
    assert np.isnan(p[2])
    np.testing.assert_array_equal(np.delete(p, 2), multiplicity.step_down(null))
    assert np.isnan(multiplicity.step_down(null[:1])).all()


def test_false_discovery_rates_and_bonferroni_equal_mnes_and_scipys(rng):
    p = np.round(rng.uniform(0, 1, 50) ** 3, 2)
    np.testing.assert_allclose(multiplicity.benjamini_hochberg(p, 0), mne.stats.fdr_correction(p)[1], rtol=1e-12)
    np.testing.assert_allclose(multiplicity.benjamini_hochberg(p, 0), stats.false_discovery_control(p), rtol=1e-12)
    _, theirs = mne.stats.bonferroni_correction(p)
    np.testing.assert_allclose(multiplicity.bonferroni(p), np.minimum(theirs, 1), rtol=1e-12)


@pytest.mark.parametrize("q", [0.05, 0.1, 0.3])
def test_tests_found_at_a_rate_are_those_of_the_definition(q, rng):
    p = np.where(rng.uniform(size=40) < 0.2, np.nan, rng.uniform(0, 1, 40) ** 4)
    ours = multiplicity.benjamini_hochberg(p, 0, q=q)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(p))
    np.testing.assert_array_equal(ours <= q, oracles.benjamini_hochberg_is_found(p, q))
    np.testing.assert_allclose(multiplicity.bonferroni(p), np.minimum(p * np.sum(~np.isnan(p)), 1))


def test_a_floor_that_no_single_test_could_pass_is_refused_unless_accepted():
    p = np.append(np.full(100, 1 / 256), np.nan)
    with pytest.raises(ValueError, match=r"floor of p is 0.00391 and q / n_tests is 0.05 / 100 = 0.0005.*1999 perm"):
        multiplicity.benjamini_hochberg(p, 1 / 256)
    assert multiplicity.benjamini_hochberg(p, 1 / 256, is_floor_accepted=True)[0] == 1 / 256
    multiplicity.benjamini_hochberg(p, 1 / 2000)
    with pytest.raises(ValueError, match=r"run from -0\.1"):
        multiplicity.benjamini_hochberg(np.array([-0.1]), 0)
    with pytest.raises(ValueError, match="q=5"):
        multiplicity.benjamini_hochberg(p, 0, q=5)


# Error rates.


@cache
def error_rates(n_sets, n_subjects=8, n_cells=12):
    """Sets of correlated noise of unequal SD in which something is found: by plain p of one cell, by the maximum, and in
    steps among the cells without effect where two others have a large one."""
    rng = np.random.default_rng(7)
    signs = group.sign_flips(n_subjects, 256, 0).signs
    shared = rng.standard_normal((n_sets, n_subjects, 1))
    noise = rng.standard_t(5, (n_sets, n_subjects, n_cells)) + shared
    count = jax.jit(jax.vmap(lambda one: group.count_flips(one, signs)))
    tests = []
    for planted in (0, 4 * (np.arange(n_cells) < 2)):
        counted = jax.tree.map(
            np.asarray, count(((noise + planted) * np.geomspace(0.1, 10, n_cells)).astype(np.float32))
        )
        sets = [group.FlipCounts(*one) for one in zip(*counted, strict=True)]
        tests.append([group.finish(one, 256, tail="greater", n_subjects=n_subjects) for one in sets])
    without, partly = tests
    return {
        "plain": np.mean([one.p[0] <= 0.05 for one in without]),
        "maximum": np.mean([one.p_corrected.min() <= 0.05 for one in without]),
        "steps": np.mean([one.p_stepdown[2:].min() <= 0.05 for one in partly]),
        "power": np.mean([one.p_stepdown[0] <= 0.05 for one in partly]),
    }


def check_rates(n_sets):
    rates = error_rates(n_sets)
    for name in ("plain", "maximum", "steps"):
        found = round(rates[name] * n_sets)
        assert stats.binomtest(found, n_sets, 0.05).pvalue > 0.01, f"{name}: {found} of {n_sets}"
    assert rates["power"] > 0.9


def test_error_rates_of_noise_are_within_binomial_limits():
    check_rates(400)


@pytest.mark.slow
def test_error_rates_of_noise_are_within_binomial_limits_in_four_thousand_sets():
    check_rates(4000)
    assert abs(error_rates(4000)["maximum"] - 0.05) < 0.015


def test_a_planted_effect_is_found_in_its_cell_alone(rng):
    values = rng.standard_normal((12, 20))
    values[:, 7] += 3
    ours = test(values, group.sign_flips(12, 4096, 0))
    np.testing.assert_array_equal(np.flatnonzero(ours.p_corrected <= 0.05), [7])
    assert ours.p_stepdown[7] <= ours.p_corrected[7]


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_count_lowers_where_there_is_no_such_device(platform):
    shaped = (jax.ShapeDtypeStruct((9, 300), np.float32), jax.ShapeDtypeStruct((100, 9), np.int8))
    assert "stablehlo" in jax.jit(group.count_flips).trace(*shaped).lower(lowering_platforms=(platform,)).as_text()
