"""Every way that nested ridge chooses penalties and folds equals the definition; and no test row reaches what is fitted, which a leak would show."""

from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import oracles
import oracles_choose as slow
import pytest
from oracles import masks_of, null_of, scores_of

from jaxalign.compute import decompose, folds
from jaxalign.compute.permute import labellings
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Features, Responses

pytestmark = pytest.mark.usefixtures("strict")

N, WIDTHS = 30, {"tall": 5, "wide": 40}
ALPHAS = (0.3, 3.0, 30.0, 300.0)
BASE = Ridge(n_outer=3, n_inner=3, alphas="given", alpha_values=ALPHAS)
RUNS = np.repeat(np.array(["a", "b", "c", "d", "e"]), [7, 5, 6, 4, 8])


@cache
def data(shape):
    """One layer, three targets of falling signal, weights of stimuli as whole numbers of repetitions."""
    rng = np.random.default_rng(WIDTHS[shape])
    features = rng.standard_normal((N, WIDTHS[shape])) * rng.uniform(0.5, 2, WIDTHS[shape]) + 1
    signal = features @ rng.standard_normal((WIDTHS[shape], 3)) / np.sqrt(WIDTHS[shape])
    return features, signal * [2, 1, 0] + rng.standard_normal((N, 3)), rng.integers(1, 4, N).astype(float)


@cache
def design_of(scheme, is_weighted, shape="tall"):
    weights = data(shape)[2] if is_weighted else None
    given = {"gap": 2} if scheme == "blocks" else {"runs": RUNS} if scheme == "runs" else {}
    if scheme == "fixed":
        return folds.nested("shuffled", N, 0, 3, 1, is_test=np.arange(N) % 4 == 1, weights=weights)
    return folds.nested(scheme, N, 3, 3, 1, weights=weights, **given)


def run(metric, features, responses, design, rows=None, dtype=np.float64):
    rows = np.arange(int(design.outer.is_test.sum()) if design.is_fixed_split else N)[None] if rows is None else rows
    if design.weights is not None:
        design = replace(design, weights=design.weights.astype(dtype))
    with jax.enable_x64(dtype == np.float64):
        values = Features(features[None].astype(dtype), np.array([features.shape[1]], np.int32))
        null = null_of(rows, responses.shape[1], dtype)
        return scores_of(metric, values, Responses(responses.astype(dtype)), design, null)


def nested(metric, features, responses, design, given=None):
    """Scores of the outer folds (2, n_outer, n_targets), penalties (n_outer, n_targets), criterion (n_outer, n_targets)."""
    masks = masks_of(design)
    weights = np.ones(N) if design.weights is None else design.weights
    scores, chosen, validation = [], [], []
    for fold, (train, test) in enumerate(zip(masks["outer_train"], masks["outer_test"], strict=True)):
        x = slow.scaled(features, *slow.scaling(features[train], weights[train], True, metric.zscore))
        if metric.choose_by == "folds":
            pairs = slow.pairs_of(masks["inner_train"][fold], masks["inner_test"][fold])
            judged = slow.judged(x, responses, pairs, weights, ALPHAS, metric.criterion)
        else:
            by = {"loo": slow.loo, "gcv": slow.gcv}[metric.choose_by]
            judged = by(x[train], responses[train], weights[train], ALPHAS, metric.criterion)[None]
        place = slow.pick(judged, ALPHAS, None, metric.conservative)
        alphas = np.array(ALPHAS)[place] if given is None else given
        scores.append(outer_scores(x, responses, weights, train, test, alphas))
        chosen.append(alphas)
        validation.append(judged.mean(0)[place, np.arange(len(place))])
    return np.moveaxis(np.array(scores), 0, 1), np.array(chosen), np.array(validation)


def outer_scores(x, responses, weights, train, test, alphas):
    """r and r2 on the outer test rows. -> (2, n_targets)"""
    out = np.zeros((2, len(alphas)))
    for target, alpha in enumerate(alphas):
        y = responses[:, target]
        slopes, level = slow.ridge_fit(x[train], y[train, None], weights[train], alpha)
        predicted = (x[test] @ slopes + level)[:, 0]
        out[:, target] = oracles.r_of_prediction(y[test], predicted), oracles.r2_of_prediction(y[test], predicted)
    return out


WAYS = {
    "loo": (replace(BASE, choose_by="loo"), "tall", "shuffled", True),
    "loo wide": (replace(BASE, choose_by="loo", zscore=False), "wide", "fixed", True),
    "gcv": (replace(BASE, choose_by="gcv", criterion="neg_mse"), "tall", "fixed", False),
    "neg_mse, blocks": (replace(BASE, criterion="neg_mse", folds="blocks", gap=2), "tall", "blocks", True),
    "pearson_r, conservative, runs": (replace(BASE, criterion="pearson_r", conservative=True), "tall", "runs", False),
    "cholesky": (replace(BASE, solver="cholesky"), "wide", "shuffled", True),
    "cholesky, runs": (replace(BASE, solver="cholesky"), "tall", "runs", True),
}
MORE = {"cholesky, runs", "loo wide", "gcv"}


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * (way in MORE)) for way in WAYS])
def test_every_way_equals_the_definition(way):
    metric, shape, scheme, is_weighted = WAYS[way]
    features, responses, _ = data(shape)
    design = design_of(scheme, is_weighted, shape)
    scores, chosen, validation = nested(metric, features, responses, design)
    ours = run(metric, features, responses, design)
    np.testing.assert_allclose(ours.fold_value[0], np.moveaxis(scores, 0, 1), atol=1e-8)
    np.testing.assert_allclose(ours.alpha[0], np.exp(np.log(chosen).mean(0)), rtol=1e-9)
    if metric.criterion != "neg_mse":
        np.testing.assert_allclose(ours.validation[0], validation.mean(0), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_float32_equals_the_definition(way):
    metric, shape, scheme, is_weighted = WAYS[way]
    features, responses, _ = (values.astype(np.float32).astype(np.float64) for values in data(shape))
    design = design_of(scheme, is_weighted, shape)
    scores, _, _ = nested(metric, features, responses, design)
    ours = run(metric, features, responses, design, dtype=np.float32)
    np.testing.assert_allclose(ours.fold_value[0], np.moveaxis(scores, 0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", [pytest.param("loo", marks=pytest.mark.slow), "neg_mse, blocks"])
def test_exceedances_of_every_way_equal_the_definition(way):
    metric, shape, scheme, is_weighted = WAYS[way]
    features, responses, _ = data(shape)
    design, rows = design_of(scheme, is_weighted, shape), labellings(N, 9, 3)
    null = np.stack([nested(metric, features, responses[one], design)[0].mean(1) for one in rows])
    ours = run(metric, features, responses, design, rows)
    np.testing.assert_array_equal(ours.exceed_count[0], oracles.exceedances(null))


def test_refined_penalties_are_better_than_the_grid_and_scored_as_defined():
    metric = replace(BASE, n_refinements=10)
    features, responses, _ = data("tall")
    design = design_of("fixed", False)
    ours = run(metric, features, responses, design)
    _, chosen, validation = nested(metric, features, responses, design)
    assert (ours.validation[0] >= validation[0] - 1e-12).all()
    assert (ours.alpha[0] != chosen[0]).any()
    scores, _, _ = nested(metric, features, responses, design, ours.alpha[0])
    np.testing.assert_allclose(ours.fold_value[0, 0], scores[:, 0], atol=1e-8)


# Leaks.


@cache
def steps(metric, _):
    """Features step, and penalties of every outer fold; a second argument other than before compiles anew."""

    def penalties(state, responses, design):
        return metric._outer_scores(jax.tree.map(lambda leaf: leaf[0], state), responses, design)[1]

    return jax.jit(partial(metric.features_state, platform="cpu")), jax.jit(penalties)


def fitted_parts(metric, features, responses, design, fold, key=""):
    """All that one outer fold fits: scaling, inner folds, the outer basis, candidates, chosen penalties."""
    of_features, penalties = steps(metric, key)
    state = of_features(Features(features[None].astype(np.float32), np.array([features.shape[1]], np.int32)), design)
    choice = penalties(state, responses.astype(np.float32), design)
    outer = state.outer._replace(held_out=None)
    parts = jax.tree.leaves(jax.tree.map(lambda leaf: leaf[0, fold], (state.scaling, outer, state.inner, state.alphas)))
    return [np.asarray(leaf) for leaf in parts + [leaf[fold] for leaf in choice]]


def has_leak(metric, shape, scheme, key=""):
    """Whether any bit of what the first outer fold fits changes with the features of its test rows."""
    features, responses, _ = data(shape)
    design = design_of(scheme, False)
    changed = features.copy()
    changed[masks_of(design)["outer_test"][0]] = 1e6
    found = [fitted_parts(metric, values, responses, design, 0, key) for values in (features, changed)]
    assert len(found[0]) > 6
    return not all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("scheme", ["fixed", "shuffled"])
@pytest.mark.parametrize(
    ("way", "shape"),
    [
        ("folds", "tall"),
        pytest.param("folds", "wide", marks=pytest.mark.slow),
        pytest.param("loo", "tall", marks=pytest.mark.slow),
    ],
)
def test_test_rows_reach_nothing_that_is_fitted(way, shape, scheme):
    metric = replace(BASE, alphas="auto", alpha_values=(), choose_by=way)
    assert not has_leak(metric, shape, scheme)


@pytest.mark.parametrize("scheme", ["fixed", pytest.param("shuffled", marks=pytest.mark.slow)])
def test_scaling_by_all_rows_is_seen_as_a_leak(scheme, monkeypatch):
    honest = decompose.scaling

    def by_all_rows(values, index, is_row, weights, is_centred, is_zscored):
        rows = np.arange(values.shape[0], dtype=np.int32)
        return honest(values, rows, rows >= 0, weights, is_centred, is_zscored)

    monkeypatch.setattr(decompose, "scaling", by_all_rows)
    metric = replace(BASE, alphas="auto", alpha_values=())
    assert has_leak(metric, "tall", scheme, key="leaky")
