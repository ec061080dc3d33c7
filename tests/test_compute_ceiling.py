"""Noise ceilings: equal to their recipe, right for a perfect model, NaN where halves do not agree."""

import numpy as np
import oracles
import pytest
from scipy.stats import rankdata

from jaxalign.compute import ceiling, rdm_agreement

pytestmark = pytest.mark.usefixtures("strict")


@pytest.fixture
def trials(rng):
    """60 stimuli, 8 repetitions, 2 channels x 3 time bins; the last channel is noise."""
    signal = rng.standard_normal((60, 1, 2, 3)) * np.array([1.0, 0.0])[:, None]
    return signal + rng.standard_normal((60, 8, 2, 3)) * 1.5


def test_two_repetitions_equal_the_definition_exactly(trials):
    ours, halves = ceiling.split_half(trials[:, :2, 0], 5, 0)
    expected = [oracles.spearman_brown_ceiling(trials[:, :2, 0, t], [([0], [1])]) for t in range(3)]
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    np.testing.assert_allclose(halves, [oracles.pearson(*trials[:, :2, 0, t].T) for t in range(3)], atol=1e-12)


def test_many_splits_come_near_all_splits(trials):
    from itertools import combinations

    halves = [(list(a), [i for i in range(8) if i not in a]) for a in combinations(range(8), 4)]
    expected = [oracles.spearman_brown_ceiling(trials[:, :, 0, t], halves) for t in range(3)]
    np.testing.assert_allclose(ceiling.split_half(trials[:, :, 0], 400, 0)[0], expected, atol=0.005)


@pytest.mark.parametrize("n_repetitions", [4, 5, 8])
def test_the_ceiling_is_the_score_of_a_perfect_model(rng, n_repetitions):
    signal = rng.standard_normal((40_000, 1))
    trials = signal + rng.standard_normal((40_000, n_repetitions)) * 2
    expected = oracles.pearson(signal[:, 0], trials.mean(1))
    assert ceiling.split_half(trials, 20, 0)[0] == pytest.approx(expected, abs=0.02)


def test_halves_that_do_not_agree_have_no_ceiling(rng):
    first = rng.standard_normal((60, 1))
    bound, halves = ceiling.split_half(np.concatenate([first, -first], axis=1), 3, 0)
    assert np.isnan(bound)
    assert halves == pytest.approx(-1)


def test_a_constant_target_has_no_ceiling_and_harms_no_other(trials):
    broken = trials.copy()
    broken[:, :, 1, 0] = 3.0
    ours, bare = ceiling.split_half(broken, 4, 0)[0], ceiling.split_half(trials, 4, 0)[0]
    assert np.isnan(ours[1, 0])
    np.testing.assert_array_equal(ours[0], bare[0])


def test_the_seed_decides_the_halves(trials):
    np.testing.assert_array_equal(ceiling.split_half(trials, 3, 1)[1], ceiling.split_half(trials, 3, 1)[1])
    assert (ceiling.split_half(trials, 3, 1)[1] != ceiling.split_half(trials, 3, 2)[1]).all()


@pytest.mark.parametrize("unit", [1e-13, 1e6])
def test_the_unit_of_responses_changes_no_ceiling(trials, unit):
    ours = ceiling.split_half((trials * unit).astype(np.float32), 3, 0)[1]
    np.testing.assert_allclose(ours, ceiling.split_half(trials, 3, 0)[1], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8), (60, 1)])
def test_too_few_stimuli_or_repetitions_are_counted_in_the_refusal(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} stimuli with {shape[1]} repetitions"):
        ceiling.split_half(np.zeros(shape), 3, 0)


def share_above_chance(z):
    return pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / z))


@pytest.mark.parametrize("n_stimuli", [30, 200])
def test_five_percent_of_noise_correlates_above_chance(rng, n_stimuli):
    first, second = rng.standard_normal((2, n_stimuli, 4000))
    z = ceiling.z_of_r(ceiling.pearson(first, second), [n_stimuli])
    assert np.mean(z > ceiling.CRITICAL_Z) == share_above_chance(4000)


def test_the_mean_over_folds_and_over_subjects_keeps_five_percent(rng):
    first, second = rng.standard_normal((2, 60, 3, 4000))
    folds = [np.arange(start, 60, 3) for start in range(3)]
    r = np.mean([ceiling.pearson(first[rows], second[rows]) for rows in folds], axis=0)
    z = ceiling.z_of_r(r, [20, 20, 20])
    assert np.mean(z > ceiling.CRITICAL_Z) == share_above_chance(z.size)
    assert np.mean(z.mean(0) * np.sqrt(3) > ceiling.CRITICAL_Z) == share_above_chance(4000)


@pytest.mark.parametrize("n_stimuli", [2, 3, 4])
def test_few_stimuli_need_nearly_perfect_agreement(n_stimuli):
    assert (
        ceiling.z_of_r(np.float64(0.9), [n_stimuli]) < ceiling.CRITICAL_Z < ceiling.z_of_r(np.float64(1.0), [n_stimuli])
    )


@pytest.mark.parametrize("n_repetitions", [2, 6])
def test_five_percent_of_noise_repeats_above_chance(rng, n_repetitions):
    trials = rng.standard_normal((25, n_repetitions, 4000))
    assert np.mean(ceiling.z_of_repetitions(trials) > ceiling.CRITICAL_Z) == share_above_chance(4000)


def test_the_test_of_repetitions_is_the_f_test_also_where_some_were_not_shown(rng, trials):
    from scipy.stats import f_oneway, norm

    values = trials[:, :, 0, 0].copy()
    values[:20, 5:] = np.nan
    rows = [row[np.isfinite(row)] for row in values]
    expected = norm.isf(f_oneway(*rows).pvalue)
    assert ceiling.z_of_repetitions(values) == pytest.approx(expected, abs=1e-9)
    assert np.isnan(ceiling.z_of_repetitions(np.ones((5, 3))))


def test_correlations_are_taken_inside_folds(trials):
    """A shift of one fold changes nothing: halves pooled over folds would agree about it."""
    folds = [np.arange(30), np.arange(30, 60)]
    shifted = trials.copy()
    shifted[:30] += 100
    for recipe in (
        lambda values, **given: ceiling.split_half(values, 3, 0, **given)[1],
        lambda values, **given: ceiling.half_split_bounds(values, 3, 0, **given)[1],
    ):
        np.testing.assert_allclose(recipe(shifted, folds=folds), recipe(trials, folds=folds), atol=1e-9)
        assert (recipe(shifted) > 0.99).all()


def test_ncsnr_and_explainable_variance_know_no_differences_between_folds(trials):
    folds = [np.arange(0, 60, 2), np.arange(1, 60, 2)]
    shifted = trials.copy()
    shifted[::2] += 100
    for recipe in (ceiling.ncsnr, ceiling.explainable_variance, ceiling.z_of_repetitions):
        np.testing.assert_allclose(recipe(shifted, folds=folds), recipe(trials, folds=folds), atol=1e-6)
        assert (recipe(shifted) > 2 * recipe(trials)[0]).all()
        np.testing.assert_allclose(recipe(trials, folds=[np.arange(60)]), recipe(trials), atol=1e-12)


def test_variance_inside_folds_is_unbiased(rng):
    """30 folds of 4 stimuli: a quarter of the degrees of freedom goes into their means."""
    folds = [np.arange(start, start + 4) for start in range(0, 120, 4)]
    _, many = noisy(rng, 120, 4, 1.0, 2000)
    assert ceiling.explainable_variance(many, folds=folds).mean() == pytest.approx(0.5, abs=0.01)
    assert np.mean(ceiling.ncsnr(many, folds=folds) ** 2) == pytest.approx(1, abs=0.03)
    noise = rng.standard_normal((120, 4, 4000))
    assert np.mean(ceiling.z_of_repetitions(noise, folds=folds) > ceiling.CRITICAL_Z) == share_above_chance(4000)


def test_a_given_ratio_is_judged_as_an_estimate_of_that_size(rng):
    _, trials = noisy(rng, 40, 3, 3.0, 500)
    ours = ceiling.z_of_ncsnr(ceiling.ncsnr(trials), 40, 3)
    expected = ceiling.z_of_repetitions(trials)
    signal = ceiling.ncsnr(trials) > 0  # of the others the ratio keeps no more than that there is none
    np.testing.assert_allclose(ours[signal], expected[signal], atol=1e-6)


def test_the_ceiling_is_of_the_repetitions_that_are_scored(rng):
    """Four trials are kept, and sixteen are averaged in the score."""
    signal, trials = noisy(rng, 40_000, 16, 3.0)
    expected = oracles.pearson(signal[:, 0], trials[:, :, 0].mean(1))
    assert ceiling.split_half(trials[:, :4], 20, 0, n_scored=16)[0] == pytest.approx(expected, abs=0.01)
    share = ceiling.explainable_variance(trials[:, :4])
    assert ceiling.ceiling_of_explainable_variance(share, 16) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("comparator", ["spearman", "pearson"])
def test_leave_one_subject_out_equals_the_definition(rng, comparator):
    shared = rng.standard_normal(45)
    rdms = shared + rng.standard_normal((5, 45)) * np.array([[0.5], [1], [2], [1], [3]])
    ours = rdm_agreement.leave_one_subject_out(rdms, comparator)
    np.testing.assert_allclose(ours, oracles.leave_one_subject_out(rdms, comparator == "spearman"), atol=1e-9)


def test_leave_one_subject_out_equals_the_definition_with_ties(rng):
    rdms = rng.integers(0, 3, (4, 45)).astype(float)
    ours = rdm_agreement.leave_one_subject_out(rdms, "spearman")
    np.testing.assert_allclose(ours, oracles.leave_one_subject_out(rdms, True), atol=1e-9)


@pytest.mark.parametrize(("comparator", "method"), [("spearman", "spearman"), ("pearson", "corr")])
def test_leave_one_subject_out_equals_rsatoolbox(rng, comparator, method):
    from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling
    from rsatoolbox.rdm import RDMs

    # Four subjects: means over 3 and over 4 of ranks without ties are exact enough for rsatoolbox to keep their ties.
    rdms = rng.random(45) + rng.random((4, 45))
    low, high = rdm_agreement.leave_one_subject_out(rdms, comparator)
    expected = boot_noise_ceiling(RDMs(rdms), method=method, rdm_descriptor="index")
    np.testing.assert_allclose([low.mean(), high.mean()], expected, atol=1e-9)


@pytest.mark.parametrize("comparator", ["spearman", "pearson"])
def test_every_subject_weighs_the_same_whatever_its_unit(rng, comparator):
    rdms = rng.random(45) + rng.random((4, 45))
    scaled = rdms * np.array([[1], [1e-6], [1e6], [30]])
    ours, bare = (rdm_agreement.leave_one_subject_out(values, comparator) for values in (scaled, rdms))
    np.testing.assert_allclose(ours, bare, atol=1e-9)


@pytest.mark.parametrize("comparator", ["spearman", "pearson"])
def test_chance_agreement_relabels_the_left_out_subject(rng, comparator):
    rdms = rng.random(28) + rng.random((4, 28))
    rows = np.stack([np.arange(8), *(rng.permutation(8) for _ in range(6))])
    expected = []
    for one in rows:
        relabelled = [oracles.condensed(oracles.square(rdm)[np.ix_(one, one)]) for rdm in rdms]
        lows = [
            oracles.leave_one_subject_out(
                np.stack([relabelled[s] if s == left else rdms[s] for s in range(4)]), comparator == "spearman"
            )[0][left]
            for left in range(4)
        ]
        expected.append(lows)
    np.testing.assert_allclose(rdm_agreement.chance_agreement(rdms, comparator, rows), expected, atol=1e-9)


@pytest.mark.parametrize("comparator", ["spearman", "pearson"])
def test_mean_agreement_relabels_every_subject_on_its_own(rng, comparator):
    rdms = rng.random(28) + rng.random((4, 28))
    rows = np.stack(
        [np.tile(np.arange(8), (4, 1)), *(np.stack([rng.permutation(8) for _ in range(4)]) for _ in range(5))]
    )
    expected = []
    for labelling in rows:
        moved = np.stack(
            [oracles.condensed(oracles.square(rdm)[np.ix_(own, own)]) for rdm, own in zip(rdms, labelling, strict=True)]
        )
        values = np.apply_along_axis(rankdata, 1, moved) if comparator == "spearman" else moved
        values = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
        expected.append(np.mean([oracles.pearson(one, values.sum(0) - one) for one in values]))
    np.testing.assert_allclose(rdm_agreement.mean_agreement(rdms, comparator, rows), expected, atol=1e-9)


@pytest.mark.parametrize("n_subjects", [2, 5])
def test_five_percent_of_independent_subjects_agree_above_chance(n_subjects):
    """With relabellings for each left-out subject alone, 14 % did: a pair that agrees by chance counts for both."""
    n_sets, n_stimuli = 400, 12
    upper = np.triu_indices(n_stimuli, 1)
    rng = np.random.default_rng(n_subjects)
    n_above = 0
    for _ in range(n_sets):
        rdms = np.stack([(1 - np.corrcoef(rng.standard_normal((n_stimuli, 12))))[upper] for _ in range(n_subjects)])
        rows = np.stack([[rng.permutation(n_stimuli) for _ in range(n_subjects)] for _ in range(100)])
        rows[0] = np.arange(n_stimuli)
        found = rdm_agreement.mean_agreement(rdms, "spearman", rows)
        n_above += found[0] > np.quantile(found[1:], 0.95)
    assert n_above / n_sets == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / n_sets))


@pytest.mark.parametrize("comparator", ["spearman", "pearson"])
def test_identical_subjects_reach_one(rng, comparator):
    rdms = np.tile(rng.random(45), (3, 1))
    np.testing.assert_allclose(rdm_agreement.leave_one_subject_out(rdms, comparator), 1, atol=1e-9)


def test_one_subject_is_refused():
    with pytest.raises(ValueError, match=r"1 subject: .* at least 2"):
        rdm_agreement.leave_one_subject_out(np.zeros((1, 45)), "pearson")


# Other recipes


def noisy(rng, n_stimuli, n_repetitions, noise_sd, n_targets=1):
    """Unit signal and noise. -> (n_stimuli, n_targets) signal, (n_stimuli, n_repetitions, n_targets) trials"""
    signal = rng.standard_normal((n_stimuli, n_targets))
    return signal, signal[:, None] + noise_sd * rng.standard_normal((n_stimuli, n_repetitions, n_targets))


def test_low_and_up_of_half_splits_enclose_a_perfect_model(rng):
    """80 repetitions as of the published data: reliability .613, perfect model .783, up .849 with its own half."""
    noise_sd = np.sqrt(80 * (1 - 0.613) / 0.613)
    signal, trials = noisy(rng, 4000, 80, noise_sd)
    low, up = ceiling.half_split_bounds(trials, 20, 0)
    perfect = oracles.pearson(signal[:, 0], trials[:, :, 0].mean(1))
    assert perfect == pytest.approx(0.783, abs=0.01)
    assert low[0] == pytest.approx(0.442, abs=0.02) and up[0] == pytest.approx(0.849, abs=0.01)


def test_half_splits_equal_the_definition_on_two_repetitions(trials):
    low, up = ceiling.half_split_bounds(trials[:, :2], 40, 0)
    first, second = trials[:, 0, 0, 1], trials[:, 1, 0, 1]
    whole = (first + second) / 2
    assert low[0, 1] == pytest.approx(oracles.pearson(first, second), abs=1e-12)
    one, other = oracles.pearson(first, whole), oracles.pearson(second, whole)
    assert min(one, other) - 1e-12 <= up[0, 1] <= max(one, other) + 1e-12


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
def test_ncsnr_finds_the_planted_ratio_and_its_ceiling_the_perfect_model(rng, ratio):
    signal, trials = noisy(rng, 30_000, 3, 1 / ratio)
    found = ceiling.ncsnr(trials)
    assert found[0] == pytest.approx(ratio, rel=0.03)
    perfect = oracles.pearson(signal[:, 0], trials[:, :, 0].mean(1))
    assert ceiling.ceiling_of_ncsnr(found, 3)[0] == pytest.approx(perfect, abs=0.01)


def test_ncsnr_equals_its_definition_stimulus_by_stimulus(trials):
    values = trials[:, :, 0, 0]
    noise = np.mean([np.var(row, ddof=1) for row in values])
    signal = max(np.var([row.mean() for row in values], ddof=1) - noise / values.shape[1], 0)
    assert ceiling.ncsnr(trials)[0, 0] == pytest.approx(np.sqrt(signal / noise), abs=1e-12)


def test_ncsnr_takes_stimuli_that_were_shown_less_often(rng):
    _, trials = noisy(rng, 30_000, 3, 1.0)
    trials[:10_000, 2], trials[:5_000, 1] = np.nan, np.nan
    assert ceiling.ncsnr(trials)[0] == pytest.approx(1.0, rel=0.03)


def test_noise_alone_has_no_signal(rng):
    trials = rng.standard_normal((20_000, 4, 5))
    assert ceiling.ncsnr(trials).max() < 0.1
    assert np.abs(ceiling.explainable_variance(trials)).max() < 0.02


@pytest.mark.parametrize("n_repetitions", [2, 5])
def test_explainable_variance_is_unbiased(rng, n_repetitions):
    found = [ceiling.explainable_variance(noisy(rng, 200, n_repetitions, 2.0, 40)[1]).mean() for _ in range(10)]
    assert np.mean(found) == pytest.approx(1 / 5, abs=0.01)


def test_subjects_left_out_equal_the_definition(rng):
    shared = rng.standard_normal((50, 2))
    responses = shared + rng.standard_normal((4, 50, 2)) * np.array([1, 2, 3, 10])[:, None, None]
    low, high = ceiling.leave_one_subject_out_responses(responses)
    unit = (responses - responses.mean(1, keepdims=True)) / responses.std(1, keepdims=True)
    for subject in range(4):
        others = np.delete(unit, subject, axis=0).mean(0)
        for target in range(2):
            assert low[subject, target] == pytest.approx(
                oracles.pearson(unit[subject, :, target], others[:, target]), abs=1e-12
            )
            mean = unit[:, :, target].mean(0)
            assert high[subject, target] == pytest.approx(oracles.pearson(unit[subject, :, target], mean), abs=1e-12)
    with pytest.raises(ValueError, match="1 subjects with 50 stimuli"):
        ceiling.leave_one_subject_out_responses(responses[:1])


@pytest.mark.parametrize("n_subjects", [2, 3, 6])
def test_a_model_of_what_subjects_share_reaches_the_cross_subject_ceiling(rng, n_subjects):
    """Subjects of different noise; with two, only their mean ceiling can be told."""
    shared = rng.standard_normal((20_000, 1))
    spread = np.linspace(0.5, 3, n_subjects)[:, None, None]
    responses = shared + spread * rng.standard_normal((n_subjects, 20_000, 1))
    bound, agreement = ceiling.cross_subject(responses)
    reached = [oracles.pearson(shared[:, 0], one[:, 0]) for one in responses]
    expected = [np.sqrt(np.prod(reached))] * 2 if n_subjects == 2 else reached
    np.testing.assert_allclose(bound[:, 0], expected, atol=0.03)
    pairs = [oracles.pearson(responses[0, :, 0], one[:, 0]) for one in responses[1:]]
    assert agreement[0, 0] == pytest.approx(np.mean(pairs), abs=1e-12)
    if n_subjects == 3:
        r01, r02, r12 = (oracles.pearson(responses[a, :, 0], responses[b, :, 0]) for a, b in ((0, 1), (0, 2), (1, 2)))
        assert bound[0, 0] == pytest.approx(np.sqrt(r01 * r02 / r12), abs=1e-12)


def test_subjects_that_do_not_agree_have_no_cross_subject_ceiling(rng):
    first = rng.standard_normal((50, 2))
    bound, agreement = ceiling.cross_subject(np.stack([first, -first, rng.standard_normal((50, 2))]))
    assert np.isnan(bound[:2]).all() and (agreement[:2] < 0.3).all()
    with pytest.raises(ValueError, match="1 subjects with 50 stimuli"):
        ceiling.cross_subject(first[None])


@pytest.mark.parametrize(
    "recipe", [ceiling.ncsnr, ceiling.explainable_variance, lambda trials: ceiling.half_split_bounds(trials, 2, 0)]
)
def test_a_stimulus_shown_once_has_no_ceiling(recipe):
    with pytest.raises(ValueError, match="9 stimuli with 1 repetitions"):
        recipe(np.zeros((9, 1, 2)))
