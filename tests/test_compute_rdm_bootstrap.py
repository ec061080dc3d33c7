"""Bootstrap of RDM comparisons equals re-indexed RDMs and rsatoolbox; ceilings, variances and tables follow from it."""

import warnings
from functools import cache, partial

import jax
import numpy as np
import oracles_rdm_bootstrap as oracles
import pytest
from scipy import stats as scipy_stats

from jaxalign.compute import comparators, model_tables, rdm_bootstrap, rdm_ceilings, resampled

pytestmark = pytest.mark.usefixtures("strict")

N, N_MODELS, N_SUBJECTS, N_SAMPLES = 8, 3, 4, 11
COMPARATORS = resampled.COMPARATORS
PEER = {"pearson": "corr"}
EACH_FORM = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("rho-a", "cosine_cov") else name for name in COMPARATORS
]
"""The slow ones share their form with spearman and corr_cov."""


@cache
def problem():
    """Models (one categorical) and subjects (one with ties) that share a geometry. (n_pairs, 3), (n_pairs, 4)"""
    rng = np.random.default_rng(4)
    base = rng.random(N * (N - 1) // 2)
    models = base * np.linspace(0, 1, N_MODELS)[:, None] + rng.random((N_MODELS, len(base)))
    data = base + 0.5 * rng.random((N_SUBJECTS, len(base)))
    models[0], data[0] = np.round(models[0] * 2), np.round(data[0] * 6) / 6
    return models.T + 0.2, data.T


@cache
def draws():
    """Sample 1 holds one subject only, 2 too few distinct stimuli, 3 one stimulus 1 + N / 2 times."""
    stimuli = rdm_bootstrap.counts("stimuli", N, N_SAMPLES, 7)
    subjects = rdm_bootstrap.counts("subjects", N_SUBJECTS, N_SAMPLES, 7)
    subjects[1], stimuli[2], stimuli[3] = [0, 0, 4, 0], [5, 3, *[0] * (N - 2)], [5, 2, 1, *[0] * (N - 3)]
    return stimuli, subjects


@cache
def compiled(function, comparator, **settings):
    return jax.jit(partial(function, comparator=comparator, **settings))


@cache
def dual(comparator, dtype=np.float64):
    """Our dual bootstrap, in chunks that do not divide the samples."""
    with jax.enable_x64(dtype == np.float64):
        run = compiled(rdm_bootstrap.dual_bootstrap, comparator, samples_per_chunk=4)
        found = run(*(x.astype(dtype) for x in problem()), *draws())
        assert {x.dtype for x in found} == {np.dtype(dtype)}
        return rdm_bootstrap.Samples(*map(np.asarray, found))


def repeated(counts):
    return np.repeat(np.arange(len(counts)), counts)


# Draws.


def test_draws_depend_on_their_index_alone_and_hold_enough():
    drawn = rdm_bootstrap.counts("stimuli", 4, 60, 1)
    assert (drawn.sum(1) == 4).all() and ((drawn > 0).sum(1) >= 3).all()
    np.testing.assert_array_equal(rdm_bootstrap.counts("stimuli", 4, 9, 1), drawn[:9])
    assert (rdm_bootstrap.counts("stimuli", 4, 9, 2) != drawn[:9]).any()
    assert (rdm_bootstrap.counts("subjects", 4, 9, 1) != drawn[:9]).any()


@pytest.mark.parametrize(
    "scheme, n, words", [("stimuli", 2, "at least 3"), ("subject", 9, "subjects"), ("both", 9, "draw each")]
)
def test_draws_that_cannot_be_are_refused(scheme, n, words):
    with pytest.raises(ValueError, match=words):
        rdm_bootstrap.counts(scheme, n, 5, 0)


# Samples.


@pytest.mark.parametrize("comparator", EACH_FORM)
def test_samples_equal_re_indexed_rdms(comparator):
    models, data = (x.T for x in problem())
    found = dual(comparator)
    everything = np.ones(N, int), np.ones(N_SUBJECTS, int)
    for index, (stimuli, subjects) in enumerate(zip(*draws(), strict=True)):
        if index == 2:
            continue
        ways = (stimuli, subjects), (everything[0], subjects), (stimuli, everything[1])
        for way, (of_stimuli, of_subjects) in enumerate(ways):
            scores, low, high = oracles.sample(models, data, N, repeated(of_stimuli), repeated(of_subjects), comparator)
            np.testing.assert_allclose(found.evaluations[index, :, way], scores, atol=1e-12)
            np.testing.assert_allclose(found.ceilings[index, :, way], [low, high], atol=1e-12)


def test_too_few_distinct_stimuli_give_nan_and_harm_no_other_sample():
    found = dual("pearson")
    assert np.isnan(found.evaluations[2]).all() and np.isnan(found.ceilings[2]).all()
    assert np.isfinite(np.delete(found.evaluations, 2, 0)).all()


@pytest.mark.parametrize("comparator", ["corr_cov", pytest.param("spearman", marks=pytest.mark.slow)])
def test_single_precision_keeps_six_digits(comparator):
    for ours, exact in zip(dual(comparator, np.float32), dual(comparator), strict=True):
        np.testing.assert_allclose(ours, exact, atol=2e-6)


def test_each_bootstrap_is_a_part_of_the_dual_one():
    (models, data), (stimuli, subjects) = problem(), draws()
    with jax.enable_x64(True):
        for way, given in enumerate([(stimuli, subjects), (None, subjects), (stimuli, None)]):
            run = compiled(rdm_bootstrap.bootstrap, "cosine")
            found = run(models, data, *given)
            kept = np.arange(N_SAMPLES) != 2
            np.testing.assert_allclose(found.evaluations[kept], dual("cosine").evaluations[kept, :, way], atol=1e-13)
            np.testing.assert_allclose(found.ceilings[kept], dual("cosine").ceilings[kept, :, way], atol=1e-13)


@pytest.mark.slow
def test_without_ceilings_scores_stay():
    with jax.enable_x64(True):
        found = compiled(rdm_bootstrap.dual_bootstrap, "rho-a", has_ceilings=False)(*problem(), *draws())
    np.testing.assert_allclose(found.evaluations, dual("rho-a").evaluations, atol=1e-13)
    assert np.isnan(np.asarray(found.ceilings)).all()


def test_a_constant_model_scores_0_and_a_constant_subject_nan():
    models, data = problem()
    counts = np.ones((2, N), np.int32)
    with jax.enable_x64(True):
        flat = jax.jit(partial(resampled.similarity, comparator="pearson"))(np.full_like(models, 0.1), data, counts)
        lost = jax.jit(partial(resampled.similarity, comparator="pearson"))(models, np.full_like(data, 0.1), counts)
    assert (np.asarray(flat.across) == 0).all() and np.isnan(np.asarray(lost.across)).all()


def test_many_models_are_tiled_without_a_trace(monkeypatch):
    comparator = "corr_cov"
    monkeypatch.setattr(resampled, "TILE", 7)
    (models, data), stimuli = problem(), draws()[0][:2]
    with jax.enable_x64(True):
        run = jax.jit(lambda *given: resampled.similarity(*given, comparator))
        evaluations = np.asarray(run(models, data, stimuli).across).mean(2)
    np.testing.assert_allclose(evaluations, dual(comparator).evaluations[:2, :, 2], atol=1e-13)


def test_wrong_requests_are_refused_in_words():
    models, data = problem()
    stimuli, subjects = draws()
    for given, words in [
        ((models[1:], data, stimuli, subjects, "cosine"), "same stimuli"),
        ((models, data, stimuli[:, 1:], subjects, "cosine"), r"\(n_samples, 8\)"),
        ((models, data, stimuli[1:], subjects, "cosine"), "as many of both"),
        ((models, data, stimuli, subjects, "tau-a"), "pairs of pairs"),
        ((models, data, None, None, "cosine"), "Neither"),
    ]:
        with pytest.raises(ValueError, match=words):
            rdm_bootstrap.bootstrap(*given)


# rsatoolbox on its own draws.


@cache
def peer(comparator, seed=3):
    """rsatoolbox's dual bootstrap and the counts that it drew."""
    from rsatoolbox.inference import evaluate
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.rdm import RDMs

    models, data = (x.T for x in problem())
    counts, original, bar = [], evaluate.bootstrap_sample, evaluate.tqdm.trange

    def recording(*args, **kwargs):
        out = original(*args, **kwargs)
        counts.append((np.bincount(out[2], minlength=N), np.bincount(out[1], minlength=N_SUBJECTS)))
        return out

    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    evaluate.bootstrap_sample, evaluate.tqdm.trange = recording, range
    try:
        named = [ModelFixed(f"model {i}", model) for i, model in enumerate(models)]
        settings = {"method": PEER.get(comparator, comparator), "k_pattern": 1, "k_rdm": 1, "N": N_SAMPLES}
        result = evaluate.eval_dual_bootstrap(named, RDMs(data), **settings)
    finally:
        evaluate.bootstrap_sample, evaluate.tqdm.trange = original, bar
        np.random.set_state(state)  # noqa: NPY002
    return result, [np.array(x, np.int32) for x in zip(*counts, strict=True)]


_spread = jax.jit(rdm_bootstrap.variances, static_argnames=("n_stimuli", "n_subjects", "has_ceilings"))


@cache
def beside_peer(comparator):
    with jax.enable_x64(True):
        run = compiled(rdm_bootstrap.dual_bootstrap, comparator, samples_per_chunk=4)
        samples = run(*problem(), *peer(comparator)[1])
        covariance = jax.jit(rdm_bootstrap.covariances)(samples)
        spread = _spread(covariance, n_stimuli=N, n_subjects=N_SUBJECTS)
        return jax.tree.map(np.asarray, (samples, covariance, spread))


@pytest.mark.parametrize("comparator", EACH_FORM)
def test_dual_bootstrap_equals_rsatoolbox(comparator):
    theirs, (samples, covariance, spread) = peer(comparator)[0], beside_peer(comparator)
    np.testing.assert_allclose(samples.evaluations, theirs.evaluations[:, :, 0, 0], atol=1e-10)
    np.testing.assert_allclose(samples.ceilings, theirs.noise_ceiling[:, :, 0].transpose(1, 0, 2), atol=1e-10)
    np.testing.assert_allclose(covariance, theirs.variances, atol=1e-12)
    np.testing.assert_allclose(spread.model, theirs.model_var, atol=1e-12)
    np.testing.assert_allclose(spread.ceiling, theirs.noise_ceil_var, atol=1e-12)
    np.testing.assert_allclose(spread.difference[np.triu_indices(N_MODELS, 1)], theirs.diff_var, atol=1e-12)
    assert float(spread.degrees) == theirs.dof


def test_tables_equal_rsatoolbox():
    theirs, (samples, _, spread) = peer("pearson")[0], beside_peer("pearson")
    with jax.enable_x64(True):
        mean, low = samples.evaluations.mean((0, 2)), samples.ceilings[:, 0].mean()
        table = jax.jit(model_tables.t_table)(mean, low, spread)
    np.testing.assert_allclose(table.mean, theirs.get_means(), atol=1e-12)
    np.testing.assert_allclose(table.sem, theirs.get_sem(), atol=1e-12)
    np.testing.assert_allclose(table.interval, theirs.get_ci(0.95), atol=1e-9)
    p_difference, p_zero, p_ceiling = theirs.test_all()
    np.testing.assert_allclose(table.p_zero, p_zero, atol=1e-10)
    np.testing.assert_allclose(table.p_ceiling, p_ceiling, atol=1e-10)
    np.testing.assert_allclose(table.p_difference, p_difference, atol=1e-10)


def test_variance_of_folds_is_taken_out_as_rsatoolbox_does(rng):
    from rsatoolbox.inference.result import Result
    from rsatoolbox.model import ModelFixed

    scores, ceilings = rng.standard_normal((15, N_MODELS, 4, 2, 3)), rng.standard_normal((15, 2, 2, 3))
    scores[4], ceilings[4] = np.nan, np.nan
    with jax.enable_x64(True):
        found = jax.jit(rdm_bootstrap.covariances_of_folds)(rdm_bootstrap.Samples(scores, ceilings))
        ours = _spread(found, n_stimuli=N, n_subjects=N_SUBJECTS)
    kept = np.arange(15) != 4
    values = np.concatenate([scores[kept].mean(2), ceilings[kept]], 1)
    for way in range(3):
        of_mean = np.cov(values[..., way].mean(2).T)
        single = np.mean([np.cov(values[:, :, i, way].T) for i in range(2)], 0)
        np.testing.assert_allclose(found[way], 2 * of_mean - single, atol=1e-12)
    named = [ModelFixed(str(i), problem()[0][:, i]) for i in range(N_MODELS)]
    theirs = Result(named, scores, "corr", "dual_bootstrap", ceilings, np.asarray(found), n_rdm=N_SUBJECTS, n_pattern=N)
    np.testing.assert_allclose(ours.model, theirs.model_var, atol=1e-12)
    np.testing.assert_allclose(ours.ceiling, theirs.noise_ceil_var, atol=1e-12)


def test_variances_without_a_dual_bootstrap_equal_rsatoolbox():
    from rsatoolbox.inference import eval_fixed
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.rdm import RDMs
    from rsatoolbox.util.inference_util import extract_variances

    models, data = problem()
    covariance = beside_peer("pearson")[1][0]
    with jax.enable_x64(True):
        single = _spread(covariance, n_stimuli=N)
        theirs = extract_variances(np.asarray(covariance), True, None, N)
        np.testing.assert_allclose(single.model, theirs[0], atol=1e-12)
        np.testing.assert_allclose(single.difference[np.triu_indices(N_MODELS, 1)], theirs[1], atol=1e-12)
        np.testing.assert_allclose(single.ceiling, theirs[2], atol=1e-12)
        fixed = eval_fixed([ModelFixed(str(i), x) for i, x in enumerate(models.T)], RDMs(data.T), method="corr")
        ours = jax.jit(rdm_bootstrap.fixed_variances)(fixed.evaluations[0])
        np.testing.assert_allclose(ours.model, fixed.model_var, atol=1e-12)
        np.testing.assert_allclose(ours.difference[np.triu_indices(N_MODELS, 1)], fixed.diff_var, atol=1e-12)
        assert float(ours.degrees) == fixed.dof


# Tables.


def test_bootstrap_table_counts_samples(rng):
    values = rng.normal([0, 1, 3], size=(40, 3))
    values[0, 0], values[5] = values[0, 1], np.nan
    samples = rdm_bootstrap.Samples(values, np.stack([values[:, 2] - 0.5, values[:, 2]], 1))
    with jax.enable_x64(True):
        table = jax.tree.map(np.asarray, jax.jit(model_tables.bootstrap_table)(samples))
    kept = np.delete(values, 5, 0)
    np.testing.assert_allclose(table.p_zero, (1 + (kept <= 0).sum(0)) / 40)
    np.testing.assert_allclose(table.p_ceiling, (1 + (kept >= kept[:, 2:] - 0.5).sum(0)) / 40)
    np.testing.assert_allclose(table.interval, np.quantile(kept, [0.025, 0.975], axis=0))
    np.testing.assert_allclose(table.sem, kept.std(0, ddof=1))
    fewer = min((kept[:, 0] < kept[:, 1]).sum(), (kept[:, 0] > kept[:, 1]).sum())
    np.testing.assert_allclose(table.p_difference[0, 1], 2 * (1 + fewer) / 39)
    np.testing.assert_allclose(np.diag(table.p_difference), 1)


@pytest.mark.parametrize("degrees", [1, 91])
def test_tails_and_quantiles_of_t_equal_scipy(degrees):
    t = np.array([0.0, 0.3, -2.0, 9.0, 60.0])
    with jax.enable_x64(True):
        degree = np.asarray(float(degrees))
        tails = jax.jit(model_tables.t_tails)(t, degree)
        ends = [jax.jit(model_tables.t_quantile, static_argnums=0)(share, degree) for share in (0.975, 0.5)]
    np.testing.assert_allclose(tails, 2 * scipy_stats.t.sf(np.abs(t), degrees), rtol=1e-9)
    np.testing.assert_allclose(ends, scipy_stats.t.ppf([0.975, 0.5], degrees), rtol=1e-9, atol=1e-7)


def test_pairs_are_corrected_once_each():
    p = np.array([[1, 0.01, 0.02], [0.01, 1, 0.04], [0.02, 0.04, 1]])
    upper = np.triu_indices(3, 1)
    fdr = scipy_stats.false_discovery_control(p[upper])
    np.testing.assert_allclose(model_tables.corrected(p, "fdr")[upper], fdr)
    np.testing.assert_allclose(model_tables.corrected(p, "bonferroni")[upper], [0.03, 0.06, 0.12])
    np.testing.assert_array_equal(model_tables.corrected(p, "none"), p)
    with pytest.raises(ValueError, match="fdr"):
        model_tables.corrected(p, "fdr_bh")


# Ceilings.


@pytest.mark.parametrize("comparator", comparators.COMPARATORS)
def test_ceilings_equal_their_definition_and_rsatoolbox(comparator):
    from rsatoolbox.inference import boot_noise_ceiling
    from rsatoolbox.rdm import RDMs

    data = problem()[1]
    with jax.enable_x64(True):
        ours = [x.mean() for x in jax.jit(rdm_ceilings.leave_one_out, static_argnums=1)(data, comparator)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Noise ceiling for tau")
        theirs = boot_noise_ceiling(RDMs(data.T), PEER.get(comparator, comparator))
    exact = oracles.sample(data.T[:1], data.T, N, np.arange(N), np.arange(N_SUBJECTS), comparator)[1:]
    np.testing.assert_allclose(ours, exact, atol=1e-12)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("comparator", ["corr_cov", "spearman"])
def test_cross_validated_ceilings_equal_their_definition_and_rsatoolbox(comparator):
    from rsatoolbox.inference import cv_noise_ceiling
    from rsatoolbox.rdm import RDMs

    data = problem()[1]
    of_stimuli, of_subjects = [[0, 3, 5, 6], [1, 2, 4, 7]], [[0, 1], [0, 1, 2, 3]]
    is_stimulus = np.array([np.isin(np.arange(N), x) for x in of_stimuli])
    is_subject = np.array([np.isin(np.arange(N_SUBJECTS), x) for x in of_subjects])
    with jax.enable_x64(True):
        run = jax.jit(rdm_ceilings.cross_validated, static_argnums=3)
        ours = np.array(run(data, is_stimulus, is_subject, comparator))
    rdms = RDMs(data.T)
    for fold, (stimuli, subjects) in enumerate(zip(of_stimuli, of_subjects, strict=True)):
        others = [s for s in range(N_SUBJECTS) if s not in subjects] or subjects
        ceil_set, test_set = (
            [(rdms.subset("index", rows).subset_pattern("index", stimuli), stimuli)] for rows in (others, subjects)
        )
        theirs = cv_noise_ceiling(rdms, ceil_set, test_set, PEER.get(comparator, comparator))
        np.testing.assert_allclose(ours[:, fold], theirs, atol=1e-10)
        exact = oracles.cross_validated(data.T, N, stimuli, subjects, comparator)
        np.testing.assert_allclose(ours[:, fold], exact, atol=1e-12)


def test_keys_too_large_for_one_number_sort_the_same(rng):
    keys = rng.integers(0, 9, 50).astype(np.int32)
    packed = jax.jit(rdm_ceilings._sorted, static_argnums=1)(keys, 9)
    apart = jax.jit(rdm_ceilings._sorted, static_argnums=1)(keys, 2**30)
    for ours, theirs in zip(packed, apart, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(keys[packed[1]], np.sort(keys))


def test_halves_list_every_split_once_or_draw_them():
    splits = rdm_ceilings.halves(4, 10, 0)
    assert sorted(map(tuple, splits)) == [(1, 1, 2, 2), (1, 2, 1, 2), (1, 2, 2, 1)]
    odd = rdm_ceilings.halves(7, 20, 0)
    assert ((odd == 1).sum(1) == 3).all() and ((odd == 2).sum(1) == 3).all()
    np.testing.assert_array_equal(rdm_ceilings.halves(7, 5, 0), odd[:5])
    with pytest.raises(ValueError, match="1 repetition"):
        rdm_ceilings.halves(1, 5, 0)


@pytest.mark.parametrize("comparator", ["pearson", "spearman"])
def test_split_half_reliability_equals_its_definition(rng, comparator):
    rdms = rng.random((28, 2)) + rng.standard_normal((4, 28, 2)) * 0.3
    splits = rdm_ceilings.halves(4, 10, 0)
    with jax.enable_x64(True):
        reliability, agreement = jax.jit(rdm_ceilings.split_half, static_argnums=2)(rdms, splits, comparator)
    for column in range(2):
        of_halves = [
            oracles.compare(*(rdms[split == side, :, column].mean(0) for side in (1, 2)), comparator)
            for split in splits
        ]
        np.testing.assert_allclose(agreement[column], np.mean(of_halves), atol=1e-12)
        r = np.mean(of_halves)
        np.testing.assert_allclose(reliability[column], 2 * r / (1 + r), atol=1e-12)


def test_the_ceiling_of_halves_is_what_a_perfect_model_reaches():
    rng = np.random.default_rng(0)
    truth = rng.random((19_900, 1))
    rdms = (truth + 0.6 * rng.standard_normal((4, 19_900, 1))).astype(np.float32)
    reliability, _ = jax.jit(rdm_ceilings.split_half, static_argnums=2)(rdms, rdm_ceilings.halves(4, 10, 0), "pearson")
    perfect = np.corrcoef(truth[:, 0], rdms.mean(0)[:, 0])[0, 1]
    assert float(rdm_ceilings.ceiling_of(reliability)[0]) == pytest.approx(perfect, abs=0.01)
    assert np.isnan(rdm_ceilings.ceiling_of(np.float32(-0.1)))


@pytest.mark.parametrize("distance", ["correlation", "sqeuclidean"])
@pytest.mark.parametrize(("n_repetitions", "effect"), [(80, 0.15), (20, 0.5)])
def test_a_perfect_model_reaches_the_ceiling_of_quarters(distance, n_repetitions, effect):
    """Simulated: 150 stimuli, 40 channels; noise of squared distances falls faster than 1/n, which Spearman-Brown ignores."""
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    reached, bounds, too_low = [], [], []
    for _ in range(4):
        signal = effect * rng.standard_normal((150, 8)) @ rng.standard_normal((8, 40)) / np.sqrt(8)
        trials = signal[:, None] + rng.standard_normal((150, n_repetitions, 40))
        order = rng.permutation(n_repetitions)

        def similar(n_parts, trials=trials, order=order):
            rdms = [pdist(trials[:, part].mean(1), distance) for part in np.array_split(order, n_parts)]
            pairs = [(a, b) for a in range(n_parts) for b in range(a)]
            return np.mean([spearmanr(rdms[a], rdms[b])[0] for a, b in pairs])

        reached.append(spearmanr(pdist(signal, distance), pdist(trials.mean(1), distance))[0])
        sizes = (n_repetitions // 4, n_repetitions // 2, n_repetitions)
        bounds.append(rdm_ceilings.two_terms(similar(2), similar(4), sizes))
        too_low.append(np.sqrt(2 * similar(2) / (1 + similar(2))))
    assert np.mean(reached) / np.mean(bounds) == pytest.approx(1, abs=0.01)
    assert np.mean(too_low) <= np.mean(bounds) + 1e-9


def test_two_terms_lie_between_the_laws_of_either_part():
    """c^2 of halves 1 / (1 + x): noise that falls with 1/n halves x for all repetitions, with its square quarters it."""
    half = np.array([0.5, 0.5, 0.5, -0.1])
    quarter = np.array([1 / 3, 1 / 5, 0.0, 0.2])  # 1/x doubles, quadruples, is unknown, and halves that disagree
    expected = [np.sqrt(1 / 1.5), np.sqrt(1 / 1.25), np.sqrt(1 / 1.25), np.nan]
    np.testing.assert_allclose(rdm_ceilings.two_terms(half, quarter, (5, 10, 20)), expected, atol=1e-12)


@pytest.mark.parametrize("n_all", [4, 5, 6, 7, 8, 9, 11])
def test_two_terms_find_the_planted_noise_of_any_number_of_repetitions(n_all):
    """1 / c(n)^2 - 1 = a / n + b / n^2 in all sizes."""
    first, second = 0.8, 3.0

    def c2(n):
        return 1 / (1 + first / n + second / n**2)

    sizes = (n_all // 4, n_all // 2, n_all)
    found = rdm_ceilings.two_terms(np.array(c2(sizes[1])), np.array(c2(sizes[0])), sizes)
    assert found == pytest.approx(np.sqrt(c2(n_all)), abs=1e-12)


# Real data.


@pytest.fixture(scope="module")
def objects92(data_folder):
    """Models (n_pairs, 8) and the human RDMs, sessions averaged (n_pairs, 4)."""
    from scipy.io import loadmat

    upper = np.triu_indices(92, 1)
    models = loadmat(data_folder / "objects92" / "92_modelRDMs.mat")["Models"].ravel()
    brains = loadmat(data_folder / "objects92" / "92_brainRDMs.mat")["RDMs"][0]
    subjects = [np.mean([np.asarray(rdm, np.float64)[upper] for rdm in one["RDM"]], axis=0) for one in brains]
    return np.stack([np.asarray(model["RDM"], np.float64)[upper] for model in models], 1), np.stack(subjects, 1)


@pytest.mark.parametrize(
    "comparator, low, high",
    [
        ("pearson", 0.3944, 0.6804),
        ("spearman", 0.3723, 0.6657),
        pytest.param("tau-a", 0.2539, 0.4767, marks=pytest.mark.slow),
    ],
)
def test_ceilings_of_objects92(objects92, comparator, low, high):
    bounds = jax.jit(rdm_ceilings.leave_one_out, static_argnums=1)(objects92[1].astype(np.float32), comparator)
    assert [float(x.mean()) for x in bounds] == pytest.approx([low, high], abs=6e-5)


@pytest.mark.slow
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_objects92_equals_re_indexed_rdms_in_single_precision(objects92, comparator):
    from rsatoolbox.inference import boot_noise_ceiling
    from rsatoolbox.rdm import RDMs, compare

    stimuli, subjects = (rdm_bootstrap.counts(s, n, 4, 0) for s, n in (("stimuli", 92), ("subjects", 4)))
    run = compiled(rdm_bootstrap.bootstrap, comparator)
    ours = run(*(x.astype(np.float32) for x in objects92), stimuli, subjects)
    name = PEER.get(comparator, comparator)
    for index in range(4):
        models, data = (RDMs(x.T).subsample_pattern("index", repeated(stimuli[index])) for x in objects92)
        data = data.subsample("index", repeated(subjects[index]))
        np.testing.assert_allclose(ours.evaluations[index], compare(models, data, name).mean(1), atol=2e-6)
        np.testing.assert_allclose(ours.ceilings[index], boot_noise_ceiling(data, name), atol=2e-6)
