"""Slow float64 definitions, written from the textbooks and not from jaxalign, and the call that tests compare with them."""

from functools import cache, partial

import jax
import numpy as np

from jaxalign.contracts import Design, Null, Scores

TIE = 1e-6
"""Share of max(1, |observed|) by which a permuted score may be lower and still counts as reaching it: the documented rule."""


# Ranks and correlations.


def ranks(values):
    """Ranks from 1, ties share their mean rank, by counting. (n,) -> (n,)"""
    values = np.asarray(values)
    return np.array([np.sum(values < one) + (np.sum(values == one) + 1) / 2 for one in values])


def pearson(first, second):
    """Covariance over the product of standard deviations; NaN where one side is constant. (n,), (n,) -> float"""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan
    a, b = first - first.mean(), second - second.mean()
    return float((a @ b) / np.sqrt((a @ a) * (b @ b)))


def spearman(first, second):
    """Pearson of the ranks. (n,), (n,) -> float"""
    return pearson(ranks(first), ranks(second))


def r_of_prediction(truth, predicted):
    """Pearson r; a constant prediction says nothing and scores 0, a constant target is undefined."""
    if np.ptp(truth) == 0:
        return np.nan
    return 0.0 if np.ptp(predicted) == 0 else pearson(truth, predicted)


def r2_of_prediction(truth, predicted):
    """1 - SS_res / SS_tot; undefined for a constant target."""
    if np.ptp(truth) == 0:
        return np.nan
    return float(1 - np.sum((truth - predicted) ** 2) / np.sum((truth - truth.mean()) ** 2))


# Dissimilarities.


def correlation_rdm(patterns):
    """Square matrix of 1 - r between the patterns of every two stimuli. (n, width) -> (n, n)"""
    n = len(patterns)
    rdm = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            rdm[i, j] = 0 if i == j else 1 - pearson(patterns[i], patterns[j])
    return rdm


def condensed(rdm):
    """Entries above the diagonal, row by row. (n, n) -> (n_pairs,)"""
    return np.array([rdm[i, j] for i in range(len(rdm)) for j in range(i + 1, len(rdm))])


def square(pairs):
    """The square matrix of a condensed RDM. (n_pairs,) -> (n, n)"""
    n = round((1 + np.sqrt(1 + 8 * len(pairs))) / 2)
    rdm = np.zeros((n, n))
    rdm[np.triu_indices(n, 1)] = pairs
    return rdm + rdm.T


# Ridge.


def ridge_fit(features, responses, alpha):
    """Weights of sum((y - X w)^2) + alpha sum(w^2) and the intercept; the minimum-norm solution at alpha 0.

    (n, p), (n,) -> (p,), float
    """
    x_mean, y_mean = features.mean(0), responses.mean()
    x, y = features - x_mean, responses - y_mean
    if alpha == 0:
        weights = np.linalg.pinv(x, rcond=1e-10) @ y
    else:
        weights = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ y)
    return weights, y_mean - x_mean @ weights


def scaled_by(features, is_train, zscore=True):
    """Features centred, and z-scored, by the training rows; columns constant there become 0."""
    shifted = features - features[is_train].mean(0)
    if not zscore:
        return shifted
    sd = features[is_train].std(0)
    is_flat = np.ptp(features[is_train], axis=0) == 0
    return np.where(is_flat, 0, shifted / np.where(is_flat, 1, sd))


def auto_alphas(scaled, is_train):
    """25 penalties, 1e-4 to 1e6 times the mean nonzero eigenvalue of the Gram matrix of the training rows."""
    train = scaled[is_train]
    values = np.linalg.eigvalsh(train @ train.T)
    nonzero = values[values > 1e-10 * values.max()] if values.max() > 0 else np.ones(1)
    return 10 ** np.linspace(-4, 6, 25) * nonzero.mean()


def choose_alpha(scaled, responses, inner_train, inner_test, alphas):
    """Penalty with the best r2 averaged over inner folds, ties to the larger; and that r2.

    (n, p), (n,), (n_inner, n) bool twice, (n_alphas,) -> float, float
    """
    best, best_r2 = None, -np.inf
    for alpha in sorted(alphas, reverse=True):
        of_folds = []
        for train, test in zip(inner_train, inner_test, strict=True):
            weights, intercept = ridge_fit(scaled[train], responses[train], alpha)
            of_folds.append(r2_of_prediction(responses[test], scaled[test] @ weights + intercept))
        if np.mean(of_folds) > best_r2:
            best, best_r2 = alpha, np.mean(of_folds)
    return best, best_r2


def nested_ridge(features, responses, masks, alphas=None, zscore=True):
    """Scores of the outer folds with penalties chosen on inner folds of their training rows.

    Args:
        features: (n, p).
        responses: (n, n_targets).
        masks: outer_train, outer_test (n_outer, n); inner_train, inner_test (n_outer, n_inner, n), bool.
        alphas: candidates; None for the automatic grid.
    Returns:
        r and r2 (2, n_outer, n_targets), alphas (n_outer, n_targets), inner-fold r2 (n_outer, n_targets).
    """
    n_outer, n_targets = len(masks["outer_test"]), responses.shape[1]
    scores = np.zeros((2, n_outer, n_targets))
    chosen, validation = np.zeros((n_outer, n_targets)), np.zeros((n_outer, n_targets))
    for fold in range(n_outer):
        train, test = masks["outer_train"][fold], masks["outer_test"][fold]
        scaled = scaled_by(features, train, zscore)
        candidates = auto_alphas(scaled, train) if alphas is None else alphas
        for target in range(n_targets):
            y = responses[:, target]
            alpha, best = choose_alpha(scaled, y, masks["inner_train"][fold], masks["inner_test"][fold], candidates)
            weights, intercept = ridge_fit(scaled[train], y[train], alpha)
            predicted = scaled[test] @ weights + intercept
            scores[:, fold, target] = r_of_prediction(y[test], predicted), r2_of_prediction(y[test], predicted)
            chosen[fold, target], validation[fold, target] = alpha, best
    return scores, chosen, validation


def nested_ridge_null(features, responses, masks, rows, alphas):
    """Everything fitted again with the response rows permuted. -> (n_labellings, 2, n_targets), mean over folds"""
    return np.stack([nested_ridge(features, responses[one], masks, alphas)[0].mean(1) for one in rows])


def fixed_split_null(features, responses, masks, rows, alphas):
    """Fitted once; the truths of the test rows are relabelled. -> (n_labellings, 2, n_targets)"""
    train, test = masks["outer_train"][0], masks["outer_test"][0]
    scaled = scaled_by(features, train)
    null = np.zeros((len(rows), 2, responses.shape[1]))
    for target in range(responses.shape[1]):
        y = responses[:, target]
        alpha, _ = choose_alpha(scaled, y, masks["inner_train"][0], masks["inner_test"][0], alphas)
        weights, intercept = ridge_fit(scaled[train], y[train], alpha)
        predicted = scaled[test] @ weights + intercept
        for index, one in enumerate(rows):
            truth = y[test][one]
            null[index, :, target] = r_of_prediction(truth, predicted), r2_of_prediction(truth, predicted)
    return null


# RSA and correlation.


def rsa_null(ours, theirs, rows, compare):
    """Rows and columns of the responses' square RDM permuted together. (n, n) lists -> (n_labellings, n_ours, n_theirs)"""
    return np.array(
        [[[compare(condensed(a), condensed(b[np.ix_(one, one)])) for b in theirs] for a in ours] for one in rows]
    )


def correlation_null(features, responses, rows):
    """Pearson of the permuted feature with each target. (n,), (n, n_targets) -> (n_labellings, n_targets)"""
    return np.array([[pearson(features[one], y) for y in responses.T] for one in rows])


# From a null to p values.


def exceedances(null, two_sided=False):
    """Permutations that reach the observed score, counted one by one. (n_labellings, ...) -> (...)"""
    flat = np.abs(null.reshape(len(null), -1)) if two_sided else null.reshape(len(null), -1)
    counts = np.zeros(flat.shape[1], int)
    for cell in range(flat.shape[1]):
        observed, spread = flat[0, cell], np.ptp(flat[:, cell])
        for value in flat[1:, cell]:
            counts[cell] += value >= observed - TIE * spread
    return counts.reshape(null.shape[1:])


def calibrated(null):
    """(score - null mean) / null SD of each cell, the observed labelling included."""
    return (null - null.mean(0)) / null.std(0)


def max_corrected_p(tested):
    """Share of labellings, the observed one included, whose largest score reaches the cell. (n_labellings, n_cells)"""
    maxima = [max(one) for one in tested]
    return np.array(
        [
            sum([1] + [largest >= cell - TIE * max(1, abs(cell)) for largest in maxima[1:]]) / len(maxima)
            for cell in tested[0]
        ]
    )


# Noise ceilings.


def spearman_brown_ceiling(trials, halves):
    """Root of the reliability 2r / (1 + r) of all repetitions, r the mean over splits into two equal halves.

    Args:
        trials: (n_stimuli, n_repetitions).
        halves: pairs of repetition indices.
    """
    r = np.mean([pearson(trials[:, a].mean(1), trials[:, b].mean(1)) for a, b in halves])
    return np.sqrt(2 * r / (1 + r)) if r > 0 else np.nan


def leave_one_subject_out(rdms, is_ranked):
    """Each subject against the mean of the others, and of all; ranked, or standardised, before averaging. -> (n,), (n,)

    Means are rounded to 9 digits: means of ranks that tie by definition must not be ordered by their last bits.
    """
    compare = spearman if is_ranked else pearson
    unit = [ranks(rdm) if is_ranked else (rdm - rdm.mean()) / rdm.std() for rdm in rdms]
    low, high = [], []
    for subject in range(len(rdms)):
        others = np.mean([unit[other] for other in range(len(rdms)) if other != subject], axis=0)
        low.append(compare(rdms[subject], others.round(9)))
        high.append(compare(rdms[subject], np.mean(unit, axis=0).round(9)))
    return np.array(low), np.array(high)


# How tests call a metric, as runtime does: three compiled steps, one cache for all tests.


@cache
def steps(metric):
    """The three steps of a metric, compiled."""
    return (
        jax.jit(partial(metric.features_state, platform="cpu")),
        jax.jit(metric.responses_state),
        jax.jit(metric.score),
    )


def scores_of(metric, features, responses, design, null) -> Scores:
    """Scores of a block of fits against a tile of targets, as NumPy arrays."""
    features_step, responses_step, score_step = steps(metric)
    states = features_step(features, design), responses_step(responses, design)
    return jax.tree.map(np.asarray, score_step(*states, design, null))


def null_of(rows, n_targets, dtype, aggregates=None, family=None, n_families=1, is_calibrated=True) -> Null:
    """A null whose cells are one family, unless said otherwise."""
    aggregates = np.zeros((n_targets, 0)) if aggregates is None else aggregates
    n_cells = n_targets + aggregates.shape[1]
    family = np.zeros(n_cells) if family is None else family
    return Null(
        np.asarray(rows, np.int32), aggregates.astype(dtype), np.asarray(family, np.int32), n_families, is_calibrated
    )


def masks_of(design: Design) -> dict[str, np.ndarray]:
    """Train and test rows of a design as boolean masks, from its padded indices."""
    n_rows = 1 + max(design.outer.train.max(), design.outer.test.max())

    def mask(index, is_real):
        out = np.zeros((*index.shape[:-1], n_rows), bool)
        for place in np.ndindex(index.shape):
            if is_real[place]:
                out[(*place[:-1], index[place])] = True
        return out

    return {
        "outer_train": mask(design.outer.train, design.outer.is_train),
        "outer_test": mask(design.outer.test, design.outer.is_test),
        "inner_train": mask(design.inner.train, design.inner.is_train),
        "inner_test": mask(design.inner.test, design.inner.is_test),
    }
