"""The packaged answers of `jaxalign selfcheck`, from slow float64 definitions: python -m tests.make_selfcheck_answers."""

import numpy as np

from jaxalign.runtime import selfcheck
from jaxalign.runtime.selfcheck import ALPHAS, FAMILY, GRAM_ROWS, N_TARGETS, READOUT, N, Problem
from tests import oracles


def made(given: Problem) -> tuple[dict[str, np.ndarray], float]:
    """Answers by name, and the smallest margin by which a count or a penalty is decided."""
    gram = _gram(given)
    ridge_null, penalties, by_criterion = _ridge(given)
    rsa_null = _rsa(given)
    answers = {
        "gram": gram[::GRAM_ROWS],
        "gram_diagonal": np.diagonal(gram).copy(),
        "predictions": _predictions(given),
        "penalties": penalties,
        "ridge_scores": ridge_null[0],
        "ridge_counts": oracles.exceedances(ridge_null),
        "ridge_maxima": _maxima(ridge_null),
        "rsa_scores": rsa_null[0],
        "rsa_counts": oracles.exceedances(rsa_null),
        "rsa_maxima": _maxima(rsa_null),
    }
    margins = [np.abs(null[1:] - null[0]).min() for null in (ridge_null, rsa_null)]
    return answers, min([*margins, by_criterion])


def _gram(given: Problem) -> np.ndarray:
    """Products of stimuli, centred over stimuli; exact but for the last rounding. -> (n, n)"""
    centred = given.features.astype(np.float64) - given.features.astype(np.float64).mean(0)
    return centred @ centred.T


def _ridge(given: Problem) -> tuple[np.ndarray, np.ndarray, float]:
    """Null (n_labellings, 2, n_targets), penalties (n_targets,), and the margin of the criterion."""
    masks = oracles.masks_of(given.design)
    features, responses = given.features.astype(np.float64), given.responses.astype(np.float64)
    scaled = oracles.scaled_by(features, masks["outer_train"][0])
    inner = masks["inner_train"][0], masks["inner_test"][0]
    penalties, margins = np.zeros(N_TARGETS), []
    for target, y in enumerate(responses.T):
        of_penalty = {alpha: oracles.choose_alpha(scaled, y, *inner, (alpha,))[1] for alpha in ALPHAS}
        penalties[target] = max(of_penalty, key=of_penalty.__getitem__)
        margins.append(np.diff(sorted(of_penalty.values()))[-1])
    return oracles.fixed_split_null(features, responses, masks, given.rows, ALPHAS), penalties, min(margins)


def _predictions(given: Problem) -> np.ndarray:
    """Held-out stimuli predicted with one penalty, in SD of the target over all stimuli. -> (n_test, n_targets)"""
    masks = oracles.masks_of(given.design)
    train, test = masks["outer_train"][0], masks["outer_test"][0]
    scaled = oracles.scaled_by(given.features.astype(np.float64), train)
    responses = given.responses.astype(np.float64)
    targets = (responses - responses.mean(0)) / responses.std(0)
    fits = [oracles.ridge_fit(scaled[train], y[train], READOUT.alpha_values[0]) for y in targets.T]
    return np.stack([scaled[test] @ weights + intercept for weights, intercept in fits], axis=1)


def rdms(given: Problem) -> np.ndarray:
    """Dissimilarities of the test stimuli: of the features, then of each target. -> (1 + n_targets, n_pairs)"""
    rows = given.design.rsa_rows
    sides = [given.features[rows, :, None], given.patterns[rows]]
    patterns = [side[..., place].astype(np.float64) for side in sides for place in range(side.shape[2])]
    return np.array([oracles.condensed(oracles.correlation_rdm(one)) for one in patterns])


def smallest_gap(given: Problem) -> float:
    """Between two entries of one RDM, as a share of its largest."""
    return min(np.diff(np.sort(one)).min() / one.max() for one in rdms(given))


def _rsa(given: Problem) -> np.ndarray:
    """Spearman of the RDM of the features with those of the patterns. -> (n_labellings, n_targets)"""
    # Ranks of relabelled dissimilarities are relabelled ranks: they are counted once.
    ours, *theirs = [oracles.square(oracles.ranks(one)) for one in rdms(given)]
    return oracles.rsa_null([ours], theirs, given.rows, oracles.pearson)[:, 0]


def _maxima(null: np.ndarray) -> np.ndarray:
    """Largest score of each family under each labelling. (n_labellings, ..., n_targets) -> (..., n_families, n_labellings)"""
    families = [np.flatnonzero(np.asarray(FAMILY) == family) for family in sorted(set(FAMILY))]
    return np.stack([np.moveaxis(null[..., members].max(-1), 0, -1) for members in families], axis=-2)


def main() -> None:
    answers, margin = made(selfcheck.problem())
    assert margin > selfcheck.MARGIN, margin
    assert smallest_gap(selfcheck.problem()) > selfcheck.GAP
    assert answers["gram"].shape == (N // GRAM_ROWS, N)
    np.savez_compressed(selfcheck.ANSWERS, **answers)


if __name__ == "__main__":
    main()
