"""Comparisons of RDMs equal their definitions and the peers: whitened forms, Kendall's tau, missing pairs, weighted models."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import oracles_comparators as oracles
import pytest
from scipy import stats as scipy_stats
from scipy.optimize import nnls

from jaxalign.compute import comparators, kendall, masked, weighted_models

pytestmark = pytest.mark.usefixtures("strict")

N, N_OURS, N_THEIRS = 12, 3, 2
N_PAIRS = N * (N - 1) // 2
PEER_NAME = {"pearson": "corr"}
ONES = np.ones((6, 1), np.float32)
DTYPES = [(np.float64, 1e-10), (np.float32, 2e-6)]


def _all_comparisons(ours, theirs):
    return {name: comparators.compare(ours, theirs, name) for name in comparators.COMPARATORS}


def _all_masked(ours, theirs, rows):
    return {name: masked.compare_masked(ours, theirs, name, rows) for name in masked.COMPARATORS}


def _both_partials(data, models):
    return {
        is_rank: (
            weighted_models.partial(data, models, is_rank),
            weighted_models.partial_given(data, models[:, :1], models[:, 1:], is_rank),
        )
        for is_rank in (False, True)
    }


# One program for all names: compilation is what these tests cost.
_compiled = {
    "compare": jax.jit(_all_comparisons),
    "rounded": jax.jit(lambda *sides: comparators.compare(*sides, "tau-b", 1e-7)),
    "tau-b": jax.jit(lambda *sides: comparators.compare(*sides, "tau-b")),
    "whitened": jax.jit(
        lambda *sides: {name: comparators.compare(*sides[:2], name, 0.0, sides[2]) for name in comparators.WHITENED}
    ),
    "standard": jax.jit(lambda values: {name: comparators.standard(values, name) for name in comparators.STANDARD}),
    "masked": jax.jit(_all_masked),
    "partials": jax.jit(_both_partials),
    "partial": jax.jit(lambda data, models: weighted_models.partial(data, models, False)),
    "partial_given": jax.jit(lambda *arrays: weighted_models.partial_given(*arrays, False)),
    "regression": jax.jit(weighted_models.regression, static_argnames="is_standardised"),
    "nonnegative": jax.jit(weighted_models.nonnegative),
    "crossed": jax.jit(weighted_models.cross_validated_weights, static_argnames=("is_nonnegative", "comparator")),
}


def call(name, *arrays, dtype=np.float64, **settings):
    with jax.enable_x64(dtype is np.float64):
        given = [x.astype(dtype) if x.dtype.kind == "f" else x for x in map(np.asarray, arrays)]
        return jax.tree.map(np.asarray, _compiled[name](*given, **settings))


def compared(ours, theirs, comparator, **settings):
    return call("compare", ours, theirs, **settings)[comparators.canonical(comparator)]


@cache
def rdms():
    """Three RDMs, the first categorical with many ties, and two that resemble it, the first with some ties."""
    rng = np.random.default_rng(5)
    ours = rng.random((N_PAIRS, N_OURS)) + 0.3
    ours[:, 0] = rng.integers(0, 3, N_PAIRS)
    theirs = rng.random((N_PAIRS, N_THEIRS)) + 0.4 * ours[:, :1]
    theirs[:, 0] = np.round(8 * theirs[:, 0]) / 8
    return ours, theirs


@cache
def sigma():
    root = np.random.default_rng(6).standard_normal((N, N))
    return root @ root.T / N + np.eye(N)


# Names.


def test_aliases_name_the_comparators_of_the_peers():
    named = {alias: comparators.canonical(alias) for alias in ("corr", "kendall", "kendall-tau-a", "tau-b", "rho-a")}
    assert named == {
        "corr": "pearson",
        "kendall": "tau-b",
        "kendall-tau-a": "tau-a",
        "tau-b": "tau-b",
        "rho-a": "rho-a",
    }
    assert set(comparators.ALIASES.values()) <= set(comparators.COMPARATORS)
    assert not set(comparators.ALIASES) & set(comparators.COMPARATORS)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda: comparators.canonical("spaerman"), "comparator='spaerman' is not known. Nearest: spearman"),
        (lambda: comparators.packing("kendall"), "comparator='tau-b' is no inner product"),
        (lambda: comparators.packing("cosine_cov", has_sigma_k=True), "no null by relabelling"),
        (lambda: comparators.standard(ONES, "corr", sigma_k=ONES), "does not whiten"),
        (lambda: comparators.compare(ONES, ONES[:3], "corr"), "ours has 6 pairs and theirs has 3"),
        (lambda: masked.compare_masked(*(ONES, ONES), "tau-a"), "does not compare RDMs with missing pairs"),
        (lambda: kendall.kendall(*(ONES, ONES), "tau-c"), "variant='tau-c' is not a Kendall tau"),
        (
            lambda: weighted_models.cross_validated_weights(*(ONES, ONES), np.ones((2, 5), bool)),
            "folds hold 5 stimuli, which have 10 pairs, and data has 6",
        ),
        (
            lambda: weighted_models.cross_validated_weights(*(ONES, ONES), np.ones((2, 4), bool), True, "rv"),
            "comparator='rv' does not score weighted models",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(wrong, found):
    with pytest.raises(ValueError, match=found):
        wrong()


def test_more_pairs_than_a_count_holds_are_refused():
    shape = jax.ShapeDtypeStruct(((1 << 21) + 1, 1), np.float32)
    with pytest.raises(ValueError, match="2097153 pairs of stimuli: Kendall's tau counts up to 2097152"):
        jax.eval_shape(kendall.kendall_state, shape)


# All comparators.


@pytest.mark.parametrize("comparator", comparators.COMPARATORS)
@pytest.mark.parametrize(("dtype", "atol"), DTYPES)
def test_comparisons_equal_the_definition(comparator, dtype, atol):
    ours = compared(*rdms(), comparator, dtype=dtype)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, oracles.table(oracles.COMPARE[comparator], *rdms()), atol=atol)


@pytest.mark.parametrize("comparator", comparators.COMPARATORS)
def test_comparisons_equal_rsatoolbox(comparator):
    from rsatoolbox.rdm import RDMs, compare

    expected = compare(*(RDMs(side.T) for side in rdms()), PEER_NAME.get(comparator, comparator))
    np.testing.assert_allclose(compared(*rdms(), comparator), expected, atol=1e-12)


@pytest.mark.parametrize("comparator", comparators.STANDARD)
def test_a_relabelled_standard_form_is_the_form_of_the_relabelled_rdm(comparator):
    rows = np.random.default_rng(0).permutation(N).astype(np.int32)
    theirs = np.stack([oracles.relabelled(column, rows) for column in rdms()[1].T], axis=1)
    form = call("standard", rdms()[1])[comparator]
    with jax.enable_x64(True):
        np.testing.assert_array_equal(comparators.relabelled(rdms()[1], jnp.asarray(rows)), theirs)
        moved = [np.asarray(comparators.relabelled(form[:N_PAIRS], jnp.asarray(rows)))]
    assert len(form) == N_PAIRS + N * (comparators.packing(comparator) == "gram")
    if comparators.packing(comparator) == "gram":
        moved.append(form[N_PAIRS:][rows])
    np.testing.assert_allclose(np.concatenate(moved), call("standard", theirs)[comparator], atol=1e-14)


def test_rho_a_is_the_mean_over_broken_ties():
    a, b = rdms()[0][:, 0], rdms()[1][:, 0]
    drawn = oracles.rho_a_by_breaking_ties(a, b, np.random.default_rng(0), 4000)
    np.testing.assert_allclose(oracles.rho_a(a, b), drawn, atol=0.003)


@pytest.mark.parametrize("comparator", comparators.WHITENED)
def test_a_covariance_of_stimuli_whitens_as_the_covariance_of_entries_does(comparator):
    from rsatoolbox.rdm import RDMs, compare

    def slow(a, b):
        return oracles.whitened(a, b, sigma(), is_centred=comparator == "corr_cov")

    ours = call("whitened", *rdms(), sigma())[comparator]
    np.testing.assert_allclose(ours, oracles.table(slow, *rdms()), atol=1e-10)
    sides = [RDMs(side.T) for side in rdms()]
    # rsatoolbox solves by conjugate gradients to 1e-5.
    np.testing.assert_allclose(ours, compare(*sides, comparator, sigma_k=sigma()), atol=1e-5)
    variances = np.diag(sigma()).copy()
    ours = call("whitened", *rdms(), variances)[comparator]
    np.testing.assert_allclose(ours, compare(*sides, comparator, sigma_k=variances), atol=1e-10)


@pytest.mark.parametrize("comparator", comparators.COMPARATORS)
def test_a_constant_rdm_has_no_correlation_and_zeros_have_no_cosine(comparator):
    flat = np.column_stack([np.full(N_PAIRS, 0.3), np.zeros((N_PAIRS, 2))])
    scores = compared(flat, rdms()[1], comparator)
    if comparator in ("rho-a", "tau-a"):
        np.testing.assert_array_equal(scores, 0)
    elif comparator in ("cosine", "cosine_cov"):
        assert np.isfinite(scores[0]).all() and np.isnan(scores[1:]).all()
    else:
        assert np.isnan(scores).all()


@pytest.mark.parametrize("comparator", comparators.COMPARATORS)
def test_a_column_with_nan_spoils_no_other(comparator):
    ours = rdms()[0].copy()
    ours[4, 1] = np.nan
    scores = compared(ours, rdms()[1], comparator)
    assert np.isnan(scores[1]).all()
    expected = compared(*rdms(), comparator)
    np.testing.assert_allclose(scores[[0, 2]], expected[[0, 2]], atol=1e-14)


@pytest.mark.parametrize("comparator", comparators.COMPARATORS)
def test_tiny_units_change_nothing_in_float32(comparator):
    tiny = compared(rdms()[0] * 1e-24, rdms()[1], comparator, dtype=np.float32)
    np.testing.assert_allclose(tiny, oracles.table(oracles.COMPARE[comparator], *rdms()), atol=2e-6)


def test_values_within_rounding_are_ties():
    noisy = rdms()[0] + 1e-9 * np.random.default_rng(1).standard_normal((N_PAIRS, N_OURS))
    ours = call("rounded", noisy, rdms()[1])
    np.testing.assert_allclose(ours, oracles.table(oracles.COMPARE["tau-b"], *rdms()), atol=1e-12)


# Kendall.


@cache
def long_rdms():
    """Enough pairs for several blocks of signs: one column with 3 levels, one with 40, one without ties."""
    rng = np.random.default_rng(8)
    values = [np.column_stack([rng.integers(0, k, 300) for k in (3, 40)] + [rng.random(300)]) for _ in range(2)]
    return values[0].astype(float), values[1] + 0.5 * values[0]


@pytest.mark.parametrize("way", ["_by_tree", "_by_signs"])
def test_both_ways_count_as_the_definition(way, monkeypatch):
    chosen = getattr(kendall, way)
    monkeypatch.setattr(kendall, "_by_tree", chosen)
    monkeypatch.setattr(
        kendall, "_by_signs", lambda *states, block=128: chosen(*states, *[block] * (way == "_by_signs"))
    )
    with jax.enable_x64(True):
        ours = jax.jit(lambda *sides: [kendall.kendall(*sides, variant) for variant in kendall.VARIANTS])(*long_rdms())
    for variant, values in zip(kendall.VARIANTS, ours, strict=True):
        expected = oracles.table(lambda a, b, variant=variant: oracles.tau(a, b, variant), *long_rdms())
        np.testing.assert_allclose(values, expected, atol=1e-12)
    peer = oracles.table(lambda a, b: scipy_stats.kendalltau(a, b).statistic, *long_rdms())
    np.testing.assert_allclose(ours[1], peer, atol=1e-12)


def test_tau_under_labellings_is_tau_of_the_relabelled_rdm():
    rows = np.stack([np.random.default_rng(seed).permutation(N) for seed in range(3)]).astype(np.int32)

    def under(ours, theirs, rows):
        states = kendall.kendall_state(ours), kendall.kendall_state(theirs)
        return jax.lax.map(lambda row: [kendall.kendall_under(*states, row, name) for name in kendall.VARIANTS], rows)

    with jax.enable_x64(True):
        found = jax.jit(under)(*rdms(), rows)
    for variant, ours in zip(kendall.VARIANTS, found, strict=True):
        for row, values in zip(rows, ours, strict=True):
            theirs = np.stack([oracles.relabelled(column, row) for column in rdms()[1].T], axis=1)
            expected = oracles.table(oracles.COMPARE[variant], rdms()[0], theirs)
            np.testing.assert_allclose(values, expected, atol=1e-12)


def test_two_words_hold_more_than_one_int32():
    parts = np.full((2, 5000), [[(1 << 21) - 1], [-(1 << 21) + 1]])
    with jax.enable_x64(True):
        words = kendall._words(jnp.asarray(parts, jnp.int32))
        for _ in range(3):
            words = kendall._add(words, words)
        total = np.asarray(kendall._value(words, np.float64))
    np.testing.assert_array_equal(total, 8 * parts.sum(1))


@pytest.mark.slow
def test_tau_b_of_19900_pairs_equals_scipy_exactly():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((19900, 2)), rng.random((19900, 2))
    ours[:, 0], theirs[:, 0] = np.round(3 * ours[:, 0]), np.round(50 * theirs[:, 0])
    expected = oracles.table(lambda a, b: scipy_stats.kendalltau(a, b).statistic, ours, theirs)
    np.testing.assert_allclose(call("tau-b", ours, theirs), expected, atol=1e-12)


@pytest.mark.slow
def test_counts_beyond_an_int32_are_exact():
    """100,000 entries have 5e9 pairs."""
    rng = np.random.default_rng(0)
    ours = rng.random((100_000, 1))
    theirs = ours + 0.1 * rng.random((100_000, 1))
    expected = scipy_stats.kendalltau(ours[:, 0], theirs[:, 0]).statistic
    np.testing.assert_allclose(call("tau-b", ours, theirs)[0, 0], expected, atol=1e-12)


# Missing and repeated pairs.


def test_weighted_ranks_are_ranks_of_repeated_entries(rng):
    values, times = np.round(10 * rng.random(40)), rng.integers(0, 4, 40)
    values[times == 0] = np.nan
    with jax.enable_x64(True):
        order = masked.order_of(jnp.asarray(values))
        ranked = np.asarray(masked.weighted_rank(order, jnp.asarray(times, np.float64)))
    np.testing.assert_array_equal(np.repeat(ranked, times), scipy_stats.rankdata(np.repeat(values, times)))
    np.testing.assert_array_equal(np.repeat(ranked, times), oracles.ranks(np.repeat(values, times)))


def test_an_order_knows_ties_within_rounding(rng):
    values, times = rng.integers(0, 5, 40).astype(float), rng.integers(1, 4, 40)
    with jax.enable_x64(True):
        order = masked.order_of(jnp.asarray(values + 1e-9 * rng.random(40)), 1e-7)
        ranked = np.asarray(masked.weighted_rank(order, jnp.asarray(times, np.float64)))
    np.testing.assert_array_equal(np.repeat(ranked, times), oracles.ranks(np.repeat(values, times)))


def test_weighted_pearson_is_pearson_of_repeated_entries(rng):
    a, b, times = rng.random(40), rng.random(40), rng.integers(0, 4, 40)
    a[times == 0] = np.nan
    with jax.enable_x64(True):
        weight = jnp.asarray(times, np.float64)
        ours = [
            function(*map(jnp.asarray, (a, b)), weight)
            for function in (masked.weighted_pearson, masked.weighted_cosine)
        ]
    repeated = np.repeat(a, times), np.repeat(b, times)
    np.testing.assert_allclose(ours, [oracles.pearson(*repeated), oracles.cosine(*repeated)], atol=1e-13)
    np.testing.assert_allclose(ours[0], scipy_stats.pearsonr(*repeated).statistic, atol=1e-13)


@cache
def with_gaps():
    """Each RDM lacks its own pairs; the last of theirs keeps two."""
    rng = np.random.default_rng(9)
    sides = [np.where(rng.random(side.shape) < 0.2, np.nan, side) for side in rdms()]
    few = np.full(N_PAIRS, np.nan)
    few[[3, 5]] = 1, 2
    return sides[0], np.column_stack([sides[1], few])


@pytest.mark.parametrize("comparator", masked.COMPARATORS)
@pytest.mark.parametrize(("dtype", "atol"), DTYPES)
def test_each_two_rdms_are_compared_over_the_pairs_both_have(comparator, dtype, atol):
    rows = np.random.default_rng(2).permutation(N).astype(np.int32)
    for row in (np.arange(N, dtype=np.int32), rows):
        moved = [oracles.relabelled(one, row) for one in with_gaps()[1].T]
        expected = [[oracles.on_common(oracles.COMPARE[comparator], a, b) for b in moved] for a in with_gaps()[0].T]
        scores, n_common = call("masked", *with_gaps(), row, dtype=dtype)[comparator]
        np.testing.assert_array_equal(n_common, [[n for _, n in line] for line in expected])
        np.testing.assert_allclose(scores, [[score for score, _ in line] for line in expected], atol=atol)
        assert np.isnan(scores[:, -1]).all()


@pytest.mark.parametrize("comparator", masked.COMPARATORS)
def test_common_gaps_give_the_numbers_of_rsatoolbox(comparator):
    from rsatoolbox.rdm import RDMs, compare

    is_gap = np.arange(N_PAIRS) % 7 == 3
    three = np.column_stack([rdms()[1], rdms()[0][::-1, 1]])
    ours, theirs = (np.where(is_gap[:, None], np.nan, side) for side in (rdms()[0], three))
    expected = compare(RDMs(ours.T), RDMs(theirs.T), PEER_NAME.get(comparator, comparator))
    scores = call("masked", ours, theirs, np.arange(N, dtype=np.int32))[comparator][0]
    np.testing.assert_allclose(scores, expected, atol=1e-12)


@pytest.mark.parametrize("comparator", masked.COMPARATORS)
def test_an_infinite_entry_makes_its_own_comparisons_undefined(comparator):
    ours = rdms()[0].copy()
    ours[7, 2] = np.inf
    scores = call("masked", ours, rdms()[1][:, [0, 1, 1]], np.arange(N, dtype=np.int32))[comparator][0]
    np.testing.assert_array_equal(np.isnan(scores).all(1), [False, False, True])


# Several models.


@pytest.mark.parametrize("is_rank", [False, True])
def test_partial_correlations_are_correlations_of_residuals(is_rank):
    models, data = rdms()
    expected = oracles.partial(data, models, is_rank)
    ours, given = call("partials", data, models)[is_rank]
    np.testing.assert_allclose(ours, expected, atol=1e-10)
    np.testing.assert_allclose(given, expected[:1], atol=1e-10)


def test_several_models_give_the_numbers_of_mne_rsa():
    import mne_rsa

    models, data = rdms()
    for metric, ours in {
        "partial": call("partials", data, models)[False][0],
        "partial-spearman": call("partials", data, models)[True][0],
        "regression": call("regression", data, models),
    }.items():
        expected = mne_rsa.rsa(list(data.T), list(models.T), metric=metric)
        np.testing.assert_allclose(ours.T, expected, atol=1e-10)


def test_regression_weights_are_least_squares_with_an_intercept():
    models, data = rdms()
    design = np.column_stack([np.ones(N_PAIRS), models])
    expected = np.linalg.lstsq(design, data, rcond=None)[0][1:]
    np.testing.assert_allclose(call("regression", data, models), expected, atol=1e-12)
    scaled = expected * models.std(0)[:, None] / data.std(0)[None, :]
    np.testing.assert_allclose(call("regression", data, models, is_standardised=True), scaled, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_model_that_others_determine_has_no_part_of_its_own(dtype):
    models, data = rdms()
    both = np.column_stack([models, models[:, 1] + 0.5, np.full(N_PAIRS, 0.2)])
    values = call("partial", data, both, dtype=dtype)
    np.testing.assert_array_equal(np.isnan(values).all(1), [False, True, False, True, True])
    expected = oracles.partial(data, models, False)[[0, 2]]
    np.testing.assert_allclose(values[[0, 2]], expected, atol=1e-5)
    given = call("partial_given", data, models[:, 1:2], both[:, 3:4], dtype=dtype)
    assert np.isnan(given).all()


@cache
def many_models():
    rng = np.random.default_rng(3)
    models = rng.random((190, 20)) + rng.random((190, 1))
    return models, models @ rng.standard_normal((20, 9)) + rng.standard_normal((190, 9))


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-8), (np.float32, 1e-4)])
def test_nonnegative_weights_equal_scipys_and_meet_the_conditions_of_a_minimum(dtype, atol):
    models, data = many_models()
    ours = call("nonnegative", data, models, dtype=dtype)
    np.testing.assert_allclose(ours, np.stack([nnls(models, one)[0] for one in data.T], axis=1), atol=atol)
    assert (ours >= 0).all() and 0.1 < (ours > 0).mean() < 0.9
    if dtype == np.float64:
        gradient = models.T @ (data - models @ ours)
        assert gradient.max() < 1e-9 and np.abs(gradient[ours > 0]).max() < 1e-9


def test_nonnegative_weights_are_zero_where_all_models_point_away():
    models, data = many_models()
    np.testing.assert_array_equal(call("nonnegative", -np.abs(data), models), 0)
    assert np.isnan(call("nonnegative", np.where(np.arange(9) == 2, np.nan, data), models)[:, 2]).all()


@pytest.mark.slow
def test_sixty_models_get_scipys_weights():
    rng = np.random.default_rng(0)
    models = rng.random((4186, 60)) + rng.random((4186, 1))
    data = models @ rng.standard_normal((60, 30)) + rng.standard_normal((4186, 30))
    expected = np.stack([nnls(models, one)[0] for one in data.T], axis=1)
    np.testing.assert_allclose(call("nonnegative", data, models), expected, atol=1e-8)


FOLDS = np.arange(N) % 3 == np.arange(3)[:, None]


@pytest.mark.parametrize(
    ("comparator", "is_nonnegative"),
    [("cosine", True), ("cosine", False), ("pearson", True), ("pearson", False), ("spearman", True)],
)
def test_weights_are_fitted_among_training_stimuli_and_scored_among_others(comparator, is_nonnegative):
    models, data = rdms()
    ours = call("crossed", data, models, FOLDS, is_nonnegative=is_nonnegative, comparator=comparator)
    for fold, is_held_out in enumerate(FOLDS):
        train, test = oracles.held_out_pairs(is_held_out)
        design, target = models[train], data[train]
        if comparator != "cosine":
            design, target = design - design.mean(0), target - target.mean(0)
        fit = nnls if is_nonnegative else lambda a, b: np.linalg.lstsq(a, b, rcond=None)
        weights = np.stack([fit(design, one)[0] for one in target.T], axis=1)
        np.testing.assert_allclose(ours.weights[fold], weights, atol=1e-10)
        expected = [
            oracles.COMPARE[comparator](models[test] @ one, theirs)
            for one, theirs in zip(weights.T, data[test].T, strict=True)
        ]
        np.testing.assert_allclose(ours.fold_score[fold], expected, atol=1e-10)
    np.testing.assert_allclose(ours.score, ours.fold_score.mean(0), atol=1e-14)


def test_mixed_pairs_serve_neither_weights_nor_scores():
    models, data = rdms()
    is_held_out = FOLDS[0]
    train, test = oracles.held_out_pairs(is_held_out)
    other = data.copy()
    other[np.setdiff1d(np.arange(N_PAIRS), train + test)] = 1e6
    one, two = (
        call("crossed", values, models, FOLDS, is_nonnegative=True, comparator="cosine") for values in (data, other)
    )
    np.testing.assert_allclose(one.weights[0], two.weights[0], atol=1e-12)
    np.testing.assert_allclose(one.fold_score[0], two.fold_score[0], atol=1e-12)
    assert np.abs(one.weights[1] - two.weights[1]).max() > 1


@pytest.mark.parametrize("comparator", ["cosine", "pearson"])
@pytest.mark.parametrize("is_nonnegative", [True, False])
def test_one_split_gives_the_score_and_weights_of_rsatoolbox(comparator, is_nonnegative):
    from rsatoolbox.inference import crossval
    from rsatoolbox.model import ModelWeighted, fit_regress, fit_regress_nn
    from rsatoolbox.rdm import RDMs

    models, data = rdms()
    fitter = fit_regress_nn if is_nonnegative else fit_regress
    model, theirs = ModelWeighted("weighted", RDMs(models.T)), RDMs(data[:, :1].T)
    train, test = np.flatnonzero(~FOLDS[0]), np.flatnonzero(FOLDS[0])
    sets = [[(theirs.subset_pattern("index", part), part)] for part in (train, test)]
    method = PEER_NAME.get(comparator, comparator)
    peer = crossval(model, theirs, *sets, method=method, fitter=fitter, calc_noise_ceil=False)
    ours = call("crossed", data, models, FOLDS, is_nonnegative=is_nonnegative, comparator=comparator)
    np.testing.assert_allclose(ours.fold_score[0, 0], peer.evaluations.item(), atol=1e-10)
    theta = fitter(model, sets[0][0][0], method=method, pattern_idx=train, pattern_descriptor="index")
    np.testing.assert_allclose(ours.weights[0, :, 0] / np.linalg.norm(ours.weights[0, :, 0]), theta, atol=1e-10)


def test_a_fold_of_two_stimuli_has_no_score_and_weights_of_zero_score_zero():
    models, data = rdms()
    assert np.isnan(
        call("crossed", data, models, np.stack([np.arange(N) < 2] * 3), is_nonnegative=True, comparator="cosine").score
    ).all()
    np.testing.assert_array_equal(
        call("crossed", -np.abs(data), models, FOLDS, is_nonnegative=True, comparator="cosine").fold_score, 0
    )


# Every step lowers for accelerators.


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_each_function_lowers_for_accelerators(platform):
    ours, theirs = (jax.ShapeDtypeStruct((N_PAIRS, m), np.float32) for m in (N_OURS, N_THEIRS))
    rows = jax.ShapeDtypeStruct((N,), np.int32)
    square = jax.ShapeDtypeStruct((N, N), np.float32)

    def everything(ours, theirs, rows, square, folds):
        return (
            [comparators.compare(ours, theirs, name) for name in comparators.COMPARATORS],
            comparators.compare(ours, theirs, "cosine_cov", sigma_k=square),
            masked.compare_masked(ours, theirs, "spearman", rows),
            weighted_models.partial(theirs, ours, True),
            weighted_models.cross_validated_weights(theirs, ours, folds),
        )

    folds = jax.ShapeDtypeStruct((3, N), bool)
    jax.jit(everything).trace(ours, theirs, rows, square, folds).lower(lowering_platforms=(platform,))


# Real RDMs: rsatoolbox 0.3.2, mean over 4 subjects.

OBJECTS92 = {
    "animacy": (0.3871, 0.3862, 0.3345, 0.2230, 0.4282),
    "FaceBodyManmadeNatobj": (0.2816, 0.2766, 0.2053, 0.1369, 0.3121),
    "monkeyIT": (0.3335, 0.2963, 0.2963, 0.2009, 0.3656),
    "EVA": (0.2591, 0.2454, 0.2454, 0.1661, 0.2799),
    "HMAX": (0.1521, 0.1599, 0.1599, 0.1073, 0.1559),
    "V1": (0.0250, 0.0265, 0.0265, 0.0179, 0.1105),
    "Silhouette": (0.1159, 0.0966, 0.0966, 0.0647, 0.1510),
    "RADON": (0.0365, 0.0381, 0.0381, 0.0259, 0.0403),
}


@pytest.fixture(scope="session")
def objects92(data_folder):
    """RDMs of the models (n_pairs, 8) and of the subjects (n_pairs, 4), sessions averaged."""
    from scipy.io import loadmat

    models = loadmat(data_folder / "objects92" / "92_modelRDMs.mat")["Models"].ravel()
    brains = loadmat(data_folder / "objects92" / "92_brainRDMs.mat")["RDMs"][0]
    upper = np.triu_indices(92, 1)
    named = {str(model["name"].item()): np.asarray(model["RDM"], np.float64)[upper] for model in models}
    subjects = [np.mean([np.asarray(rdm, np.float64)[upper] for rdm in one["RDM"]], axis=0) for one in brains]
    return np.stack([named[name] for name in OBJECTS92], axis=1), np.stack(subjects, axis=1)


@pytest.mark.parametrize("comparator", ["corr", "spearman", "rho-a", "tau-a", "corr_cov"])
def test_objects92_means_over_subjects(objects92, comparator):
    column = ["corr", "spearman", "rho-a", "tau-a", "corr_cov"].index(comparator)
    ours = compared(*objects92, comparator, dtype=np.float32).mean(1)
    np.testing.assert_allclose(ours, [row[column] for row in OBJECTS92.values()], atol=6e-5)


@pytest.mark.slow
@pytest.mark.parametrize("comparator", comparators.COMPARATORS)
def test_objects92_equals_rsatoolbox(objects92, comparator):
    from rsatoolbox.rdm import RDMs, compare

    expected = compare(*(RDMs(side.T) for side in objects92), PEER_NAME.get(comparator, comparator))
    np.testing.assert_allclose(compared(*objects92, comparator), expected, atol=1e-10)
